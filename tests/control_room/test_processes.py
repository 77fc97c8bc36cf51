"""The control room as people start it: its process, those beside it, and that none of them outlives it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.homes import decide_live, fill_home

from decalog.control_room import supervising
from decalog.control_room.homes import House, index_of, measured_of
from decalog.control_room.index import Index
from decalog.errors import ConfigError
from decalog.home import Home

PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    made = fill_home(tmp_path_factory.mktemp("processes") / "fraud")
    decide_live(made)
    return made


def start(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", *words]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_it_serves_follows_measures_and_ends_with_all_of_it_when_told(home: Home) -> None:
    with start("decalog", "room", "--no-auth", "--port", "0", "--home", str(home.root.parent)) as room:
        try:
            assert room.stdout is not None
            found = re.fullmatch(r"control room on (http://127\.0\.0\.1:\d+)\n", room.stdout.readline())
            assert found
            beside = children_of(room.pid)
            for _ in range(1_200):
                beside |= children_of(room.pid)
                if measured_of(home, "fraud").is_file() and position(home):
                    break
                socket.create_connection(address_of(found[1])).close()  # a look, and no sleep
                wait_a_moment(room)
            assert "The house" in httpx.get(found[1], timeout=PATIENCE_S).text
            room.send_signal(signal.SIGTERM)
            room.communicate(timeout=PATIENCE_S)
        finally:
            room.kill()
    assert position(home)
    assert measured_of(home, "fraud").is_file()
    assert beside
    assert not [pid for pid in beside if is_running(pid)]


def test_a_ctrl_c_at_a_terminal_ends_it_without_a_word_of_those_beside(home: Home) -> None:
    command = [sys.executable, "-m", "decalog", "room", "--no-auth", "--port", "0", "--home", str(home.root)]
    pipe = subprocess.PIPE
    # A session of its own, as a terminal gives one: the signal goes to all in it.
    with subprocess.Popen(command, stdout=pipe, stderr=subprocess.STDOUT, text=True, start_new_session=True) as room:
        try:
            assert room.stdout is not None
            assert room.stdout.readline().startswith("control room on")
            for _ in range(600):
                if len(beside := children_of(room.pid)) == 2:
                    break
                wait_a_moment(room)
            wait_a_moment(room)
            os.killpg(room.pid, signal.SIGINT)
            out, _ = room.communicate(timeout=PATIENCE_S)
        finally:
            room.kill()
    assert len(beside) == 2
    assert (out, room.returncode) == ("", 0)
    assert not [pid for pid in beside if is_running(pid)]


def test_a_follower_ends_with_whoever_started_it(home: Home) -> None:
    with start("decalog.control_room.following", str(home.root)) as follower:
        assert follower.stdin is not None
        follower.stdin.close()
        assert follower.wait(PATIENCE_S) == 0


def position(home: Home) -> int:
    with closing(Index(index_of(home))) as index:
        return index.progress().position


def children_of(pid: int) -> set[int]:
    """Returns the processes that a process started, as the system tells."""
    told = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False).stdout
    return {int(word) for word in told.split()}


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_a_moment(process: subprocess.Popen[str]) -> None:
    """Waits a tenth of a second, or until the process ends, which it should not."""
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.1)


def address_of(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("http://").partition(":")
    return host, int(port)


def test_without_tokens_it_listens_on_this_machine_alone(home: Home) -> None:
    with start("decalog", "room", "--no-auth", "--host", "192.0.2.1", "--home", str(home.root)) as room:
        out, _ = room.communicate(timeout=PATIENCE_S)
    assert room.returncode == 2
    assert "authentication off while listening on 192.0.2.1" in out


def test_a_system_is_measured_when_it_is_due_and_what_ends_is_begun_again(
    home: Home, monkeypatch: pytest.MonkeyPatch, runner: asyncio.Runner
) -> None:
    measured_of(home, "fraud").unlink(missing_ok=True)
    ran: list[tuple[str, ...]] = []
    enough = asyncio.Event()

    async def run(module: str, *words: str) -> None:
        ran.append((module.rpartition(".")[2], *words))
        if ran.count(ran[0]) >= 2 and any(words[0] == "measuring" for words in ran):
            enough.set()
        await asyncio.sleep(0)

    monkeypatch.setattr(supervising, "_run", run)
    monkeypatch.setattr(supervising, "_AGAIN_S", 0.0)

    async def watch() -> None:
        task = asyncio.create_task(supervising.supervise(House([home.root], {})))
        await asyncio.wait_for(enough.wait(), PATIENCE_S)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    runner.run(watch())
    assert ran.count(("following", str(home.root))) >= 2
    assert ("measuring", str(home.root), "fraud") in ran


def test_an_address_that_is_taken_is_said(home: Home) -> None:
    from decalog.control_room.serving import serve
    from decalog.http.settings import HttpSettings

    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        settings: Any = HttpSettings(port=taken.getsockname()[1], tokens=False)
        with pytest.raises(ConfigError, match="Use --port with another number"):
            serve(House([home.root], {}), settings, https=False, on_listening=lambda port: None)


def test_a_url_of_no_system_is_refused(tmp_path: Path) -> None:
    with start("decalog", "room", "--no-auth", "--url", "fraud", "--home", str(tmp_path)) as room:
        out, _ = room.communicate(timeout=PATIENCE_S)
    assert room.returncode == 2
    assert "no address for fraud" in out


def test_a_home_that_cannot_be_read_is_told_once_and_others_are_followed(home: Home, tmp_path: Path) -> None:
    broken = Home(tmp_path / "broken")
    broken.log.parent.mkdir(parents=True)
    broken.log.write_bytes(b"no log" * 1_000)
    with start("decalog.control_room.following", str(broken.root), str(home.root)) as follower:
        assert follower.stdout is not None
        assert "control room: broken: " in follower.stdout.readline()
        out, _ = follower.communicate(timeout=PATIENCE_S)
    assert out == ""
    assert position(home)
