"""What the commands do, called as functions: training three ways, deciding and adding here, settings from files."""

from __future__ import annotations

import asyncio
import os
import queue
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.data.shop import HEADER, MAPPING
from tests.data.shop import payment as shop_payment
from tests.fraud_log import payment
from tests.homes import add_model, fill_home, records

from decalog import operations, simulation
from decalog.clock import AcceleratedClock, SystemClock
from decalog.deployment import Setup
from decalog.errors import ConfigError, DataError, LogUnavailableError, RequestError
from decalog.home import Home
from decalog.host import Host
from decalog.ingest import Rates
from decalog.models.formats import load_model
from decalog.operations import Aside
from decalog.references import reference_kept
from decalog.registry import Registry
from decalog.schema import Field
from decalog.system import System
from decalog.systems.fraud.policy import FraudCosts
from decalog.systems.fraud.simulate import World
from decalog.systems.fraud.world_params import WorldParams
from decalog.tables import Tables
from decalog.training import TrainingResult

# Small, and with so many frauds that a hundred days teach something.
TOWN = WorldParams(customers=150, merchants=60, payments_day=40.0, background_hazard=0.03)
DAYS = 100
OWN = """
import numpy as np

class Rule:
    @classmethod
    def load(cls, folder):
        rule = cls()
        rule.rate = float((folder / "rate.txt").read_text())
        return rule

    def predict(self, rows):
        return np.full(len(rows), self.rate)
"""


def small_town(system: System, seed: int, *, scale: float = 1.0) -> World:
    return World(seed, TOWN, scale=scale)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, TrainingResult, list[str]]:
    home = Home(tmp_path_factory.mktemp("trained") / "home")
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulation, "world_of", small_town)
        result = operations.train_on_world(home, "fraud", days=DAYS, seed=3, say=said.append)
    return home, result, said


# Training


def test_training_on_a_world_fills_a_new_home_and_leaves_a_champion(
    trained: tuple[Home, TrainingResult, list[str]],
) -> None:
    home, result, said = trained
    assert result.promoted
    registry = Registry(home.root)
    assert registry.current("fraud") == result.model
    # Its first champion can be rolled back to what it was compared with, which is judged and watched like any other.
    first, now = registry.history("fraud")
    assert (now.model, now.why) == (result.model, "the champion's kind; logistic is the way back")
    before = registry.get(first.model)
    assert (first.why, before.manifest.name) == ("the first model", "logistic")
    assert before.manifest.metrics == result.report.contender("logistic").values
    assert reference_kept(before) is not None
    load_model(before.manifest.format, before.folder, settings=before.manifest.settings)
    assert said[DAYS - 1].startswith("day 100 of 100: ")
    assert said[-1] == "fitting boosted"
    assert "oracle" in [contender.name for contender in result.report.contenders]
    assert result.report.currency == "EUR"
    log = home.reader()
    assert set(Tables(log).get("", "rates")["rates"]) == {"JPY", "USD"}
    log.close()


def test_a_home_that_holds_a_log_is_never_mixed_with_a_world(trained: tuple[Home, TrainingResult, list[str]]) -> None:
    home = trained[0]
    with pytest.raises(ConfigError) as caught:
        operations.train_on_world(home, "fraud", days=1, seed=1)
    assert str(caught.value) == (
        f"home {home.root}: a home that already holds a log. Expected a new home for a simulated world. "
        "Train on what it holds (leave --world-days out), or name another --home."
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"days": 0}, r"days of the world: 0\. Expected 1 or more\. 180 give frauds enough to learn\."),
        ({"days": -3}, r"days of the world: -3\."),
        ({"scale": 0.0}, r"size of the fraud world, scale: 0\.0\. Expected a finite number above 0"),
        ({"name": "frod"}, r"system: 'frod'\. Expected 'fraud' \(closest match\)"),
    ],
)
def test_a_world_that_cannot_be_leaves_no_home_behind(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    wanted: dict[str, Any] = {"name": "fraud", "days": 1, "seed": 1} | settings
    with pytest.raises(ConfigError, match=said):
        operations.train_on_world(Home(tmp_path / "home"), wanted.pop("name"), **wanted)
    assert not (tmp_path / "home").exists()


def test_the_log_is_released_where_training_fails(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with pytest.raises(DataError, match="matured positive labels"):
        operations.train_on_world(home, "fraud", days=1, seed=1, scale=0.02)
    home.writer().close()


def test_training_again_on_the_log_registers_and_leaves_the_champion(
    trained: tuple[Home, TrainingResult, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, first, _ = trained
    (tmp_path / "rule_of_a_test.py").write_text(OWN)
    files = tmp_path / "files"
    files.mkdir()
    (files / "rate.txt").write_text("0.02")
    monkeypatch.syspath_prepend(str(tmp_path))
    own = operations.own_model("fraud", path="rule_of_a_test:Rule", files=files)
    writer = home.writer()  # a server may be writing meanwhile
    result = operations.train_on_log(home, "fraud", own=own)
    writer.close()
    assert not result.promoted
    assert Registry(home.root).current("fraud") == first.model
    manifest = Registry(home.root).get(result.model).manifest
    assert (manifest.name, manifest.format, manifest.settings["path"]) == ("own", "python", "rule_of_a_test:Rule")
    assert [contender.name for contender in result.report.contenders][-1] == "own"


def test_an_own_model_is_a_file_or_a_class_with_its_folder(tmp_path: Path) -> None:
    class_, file = "own model: both a file and a class", "own model: a class without its folder, or nothing"
    wrong: list[tuple[str, dict[str, Any]]] = [
        (class_, {"onnx": tmp_path / "m.onnx", "path": "a:B"}),
        (file, {"path": "a:B"}),
        (file, {"files": tmp_path}),
        (file, {}),
    ]
    for given, arguments in wrong:
        with pytest.raises(ConfigError) as caught:
            operations.own_model("fraud", **arguments)
        assert str(caught.value) == (
            f"{given}. Expected an ONNX file, or a class and the folder it loads from. "
            "--onnx model.onnx, or --own my_module:MyModel --files folder."
        )
    assert operations.own_model("fraud", onnx=tmp_path / "m.onnx").format == "onnx"


def test_importing_the_same_data_again_adds_nothing(tmp_path: Path) -> None:
    home, data, mapping = Home(tmp_path / "home"), tmp_path / "shop.csv", tmp_path / "shop.toml"
    data.write_text("\n".join([HEADER, *(shop_payment(number) for number in range(30))]))
    mapping.write_text(MAPPING)
    said: list[str] = []
    for _ in range(2):
        with pytest.raises(DataError, match="matured positive labels"):
            operations.train_on_data(home, "fraud", data=data, mapping=mapping, say=said.append)
    assert len(records(home, "event")) == 30
    assert [line for line in said if "30" in line]
    log = home.reader()
    assert Tables(log).get("", "rates") == {"base": "EUR", "rates": {"JPY": "0.01", "USD": "0.5"}}
    assert [signal["name"] for signal in Tables(log).get("fraud", "signals")] == ["basket"]
    log.close()


# Deciding and adding here


def test_a_decision_made_here_is_durable_and_a_retry_gets_it_again(tmp_path: Path) -> None:
    home = fill_home(tmp_path)
    raw = msgspec.json.encode(payment("a", 0, event_time=None))
    told = operations.decide_here(home, "fraud", raw=raw)
    assert (told["payment"], told["mode"], told["action"]) == ("a", "live", "allow")
    assert [record.id for record in records(home, "decision")] == ["a"]
    assert operations.decide_here(home, "fraud", raw=raw) == told


def test_rows_added_here_are_answered_each_and_durable(tmp_path: Path) -> None:
    home = Home(tmp_path)
    raw = b"\n".join([msgspec.json.encode(payment("a", 0)), b"{broken", msgspec.json.encode(payment("a", 0))])
    results = operations.add_here(home, "fraud", kind="event", raw=raw)
    assert [result.status for result in results] == ["accepted", "rejected", "duplicate"]
    chargeback = {"id": "cb", "payment": "a", "kind": "chargeback", "source": "issuer", "value": 1}
    (outcome,) = operations.add_here(home, "fraud", kind="outcome", raw=msgspec.json.encode(chargeback))
    assert outcome.status == "accepted"
    assert [len(records(home, kind)) for kind in ("event", "outcome", "rejected")] == [1, 1, 1]


def test_a_bad_request_is_refused_and_the_log_released(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="a body that is not JSON"):
        operations.decide_here(Home(tmp_path), "fraud", raw=b"{")
    with pytest.raises(RequestError, match="an array that is not JSON"):
        operations.add_here(Home(tmp_path), "fraud", kind="event", raw=b"[")
    Home(tmp_path).writer().close()


def test_an_unknown_system_makes_no_home(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    for call in (
        lambda: operations.decide_here(home, "frod", raw=b"{}"),
        lambda: operations.add_here(home, "frod", kind="event", raw=b"{}"),
        lambda: operations.open_host(home, ["frod"]),
    ):
        with pytest.raises(ConfigError, match="system: 'frod'"):
            call()
    assert not home.root.exists()


# Hosts


def test_a_host_serves_every_named_system_as_the_logs_writer(tmp_path: Path) -> None:
    home = fill_home(tmp_path)
    host = operations.open_host(home, ["fraud"], setups={"fraud": Setup(shadow=True)})
    assert isinstance(host, Host)
    assert host.systems == ("fraud",)
    assert host.state().systems["fraud"]["mode"] == "shadow"
    with pytest.raises(LogUnavailableError, match=r"0\.lock"):
        operations.open_host(home, ["fraud"])
    host.log.close()


def test_a_host_that_cannot_be_opened_releases_the_log(tmp_path: Path) -> None:
    clash = Setup(signals=(Field(name="card", kind="int", meaning="Mine."),))
    with pytest.raises(ConfigError, match="names that are taken: card"):
        operations.open_host(Home(tmp_path), ["fraud"], setups={"fraud": clash})
    Home(tmp_path).writer().close()


def test_a_host_refreshes_its_services_and_starts_what_is_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = fill_home(tmp_path, champion=False)
    asides: list[Aside] = []
    monkeypatch.setattr(Aside, "start_when_due", lambda self: asides.append(self))  # noqa: PLW0108  # a list's own method would not be bound
    host = operations.open_host(home, ["fraud"])
    assert host.state().systems["fraud"]["model"] == ""
    model = add_model(home.root)
    for call in host._beside:
        begun = call()
        if asyncio.iscoroutine(begun):
            asyncio.run(begun)
    assert host.state().systems["fraud"]["model"] == model[:12]
    assert [aside._command[2] for aside in asides] == ["decalog.sealing", "decalog"]
    host.log.close()


class Started:
    """Stands for a process beside the server."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.ended = False
        self.pid = 2**22 + 1  # of nobody: beyond what a system gives

    def __call__(self, command: list[str], **_: Any) -> Started:
        self.commands.append(command)
        return self

    def poll(self) -> int | None:
        return 0 if self.ended else None


def test_a_process_aside_starts_when_due_and_never_twice_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, now, nicer = Started(), [0.0], list[tuple[int, int]]()
    monkeypatch.setattr(subprocess, "Popen", started)
    monkeypatch.setattr(os, "getpriority", lambda which, who: 3)
    monkeypatch.setattr(os, "setpriority", lambda which, who, nice: nicer.append((who, nice)))
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    aside = operations.sealing_aside(Home(tmp_path), every_s=60, at_least=5)
    counts = []
    for at, ended in ((59, False), (60, False), (121, False), (122, True), (150, True), (182, True)):
        now[0], started.ended = at, ended
        aside.start_when_due()
        counts.append(len(started.commands))
    assert counts == [0, 1, 1, 2, 2, 3]
    assert nicer == [(started.pid, 13)] * 3
    assert started.commands[0] == [sys.executable, "-m", "decalog.sealing", str(tmp_path), "--at-least", "5"]
    assert operations.snapshot_aside(Home(tmp_path), "fraud", at_least=7)._command == [
        *(sys.executable, "-m", "decalog", "snapshot", "fraud", "--home", str(tmp_path), "--at-least", "7")
    ]


# Snapshots and memory


def test_a_snapshot_is_taken_beside_the_server_and_used_at_the_next_start(tmp_path: Path) -> None:
    home, said = fill_home(tmp_path), list[str]()
    host = operations.open_host(home, ["fraud"], say=said.append)
    position = host.log.position
    assert said[0].startswith(f"views of fraud: {position:,} records folded: ")
    assert " now, at most " in said[0]
    told = operations.take_snapshot(home, "fraud")
    assert told.startswith(f"snapshot of fraud at record {position:,}: ")
    assert told.endswith(f" MiB; {position:,} records folded")
    for at_least in (1, 100):
        assert operations.take_snapshot(home, "fraud", at_least=at_least) == (
            f"fraud: 0 records after the snapshot at {position:,}: left alone"
        )
    assert operations.take_snapshot(home, "fraud", at_least=0).endswith(
        f"; snapshot at record {position:,}, 0 records folded after it"
    )
    host.log.close()
    host = operations.open_host(home, ["fraud"], say=said.append)
    assert said[1].startswith(f"views of fraud: snapshot at record {position:,}, 0 records folded after it: ")
    assert len(said) == 2
    host.log.close()


def test_a_snapshot_that_cannot_be_used_is_said_and_replaced(tmp_path: Path) -> None:
    home, said = fill_home(tmp_path), list[str]()
    operations.take_snapshot(home, "fraud")
    (path,) = home.state.glob("*/*")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    operations.open_host(home, ["fraud"], say=said.append).log.close()
    assert said[1].startswith(f"snapshot {path.name}: a file that was cut short or changed")
    assert f"\nsnapshot {path.name}: a file that was cut short" in operations.take_snapshot(home, "fraud")
    operations.open_host(home, ["fraud"], say=said.append).log.close()
    assert len(said) == 3


def test_a_host_that_stopped_leaves_snapshots_where_they_spare_a_fold(tmp_path: Path) -> None:
    home, said = fill_home(tmp_path), list[str]()
    host = operations.open_host(home, ["fraud"])
    operations.keep_snapshots(home, host, at_least=10_000, say=said.append)
    assert not home.state.exists()
    host.services["fraud"].decide(payment("a", 0, event_time=None))
    operations.keep_snapshots(home, host, at_least=1, say=said.append)  # not yet durable: not written
    assert not home.state.exists()
    host.log.commit()
    for _ in range(2):
        operations.keep_snapshots(home, host, at_least=1, say=said.append)
    (path,) = home.state.glob("*/*")
    assert [line.partition(": ")[0] for line in said] == [f"snapshot of fraud at record {host.log.position:,}"]
    content = path.read_bytes()
    host.log.close()
    path.unlink()
    operations.take_snapshot(home, "fraud")
    assert path.read_bytes() == content


def test_a_snapshot_that_cannot_be_written_stops_no_end(tmp_path: Path) -> None:
    home, said = fill_home(tmp_path), list[str]()
    home.state.write_text("in the way")
    host = operations.open_host(home, ["fraud"])
    operations.keep_snapshots(home, host, at_least=1, say=said.append)
    assert len(said) == 1
    assert ": the system says: " in said[0]
    host.log.close()


def test_views_that_will_not_fit_are_refused_and_the_log_released(tmp_path: Path) -> None:
    home, said = fill_home(tmp_path), list[str]()
    with pytest.raises(ConfigError, match=r"memory for the views of fraud: .* once the windows have filled"):
        operations.open_host(home, ["fraud"], memory=10_000, say=said.append)
    assert said[0].startswith("views of fraud: ")
    operations.take_snapshot(home, "fraud")
    with pytest.raises(ConfigError, match=r"memory for the views of fraud: 1 MiB in their snapshot alone"):
        operations.open_host(home, ["fraud"], memory=10_000)
    home.writer().close()


# Settings from files


def test_policy_parameters_come_from_toml_and_the_rest_are_defaults(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text("reviews_per_day = 7\n")
    assert operations.read_policy(file, FraudCosts) == FraudCosts(reviews_per_day=7)


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("reviews_per_day = -1", r"Expected `int` >= 0 - at `\$\.reviews_per_day`"),
        ("reviews = 1", "Object contains unknown field `reviews`"),
        ("reviews_per_day", "Expected '=' after a key"),
        (b"\xff", "'utf-8' codec can't decode"),
        (None, "No such file or directory"),
    ],
)
def test_policy_files_that_cannot_be_used_are_refused(tmp_path: Path, text: str | bytes | None, given: str) -> None:
    file = tmp_path / "policy.toml"
    if text is not None:
        file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigError, match=rf"policy\.toml: .*{given}.*Expected TOML with chargeback_fee_minor.*Mend"):
        operations.read_policy(file, FraudCosts)


def test_rates_come_from_toml(tmp_path: Path) -> None:
    file = tmp_path / "rates.toml"
    file.write_text('base = "USD"\n[rates]\nEUR = "1.1"\n')
    assert operations.read_rates(file) == Rates("USD", {"EUR": "1.1"})


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ('base = "EURO"', "base = 'EURO'"),
        ('[rates]\nUSD = "cheap"\nJPX = "1"', "USD = 'cheap', JPX = '1'"),
        ('[rates]\nUSD = "0"', "USD = '0'"),
        ('[rates]\nUSD = "-1"', "USD = '-1'"),
        ('[rates]\nUSD = "NaN"', "USD = 'NaN'"),
        ('[rates]\nUSD = "1e400"', "USD = '1e400'"),
    ],
)
def test_rates_that_no_amount_could_be_converted_by_are_refused_all_at_once(
    tmp_path: Path, text: str, given: str
) -> None:
    file = tmp_path / "rates.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        operations.read_rates(file)
    assert str(caught.value) == (
        f"rates.toml: {given}. Expected ISO 4217 codes, each with its rate to the base as decimal text above 0, "
        'such as USD = "0.92". Mend the file.'
    )


def test_a_rate_that_is_no_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "rates.toml"
    file.write_text("[rates]\nUSD = 0.9")
    with pytest.raises(ConfigError, match=r"rates\.toml: Expected `str`, got `float` - at `\$\.rates"):
        operations.read_rates(file)


def test_a_clock_is_the_machines_or_runs_from_a_start() -> None:
    assert isinstance(operations.clock_of(None, 1.0), SystemClock)
    clock = operations.clock_of("2026-03-01T00:00:00Z", 60.0)
    assert isinstance(clock, AcceleratedClock)
    assert clock.speed == 60.0
    assert clock.now_us() >= 1_772_323_200_000_000


@pytest.mark.parametrize("start", ["yesterday", "2026-03-01", "2026-03-01T00:00:00", ""])
def test_a_start_that_is_no_time_is_refused(start: str) -> None:
    with pytest.raises(ConfigError) as caught:
        operations.clock_of(start, 1.0)
    assert str(caught.value) == (
        f"--clock-start: {start!r}. Expected an RFC 3339 time with an offset, such as 2026-03-01T12:00:00Z. "
        "Add the offset, or leave it out to use the machine's clock."
    )


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan")])
def test_a_clock_that_stands_still_is_refused(speed: float) -> None:
    with pytest.raises(ConfigError, match=r"clock speed: .* Expected a number above 0\. Use 1 for real time\."):
        operations.clock_of("2026-03-01T00:00:00Z", speed)


def test_a_led_clock_runs_as_far_as_its_lines_say_and_a_line_that_is_no_time_is_told() -> None:
    start_us, lines, said = 1_772_323_200_000_000, queue.SimpleQueue[bytes](), queue.SimpleQueue[str]()
    clock = operations.clock_of("2026-03-01T00:00:00Z", 3.6e6)
    operations.lead(clock, iter(lines.get, b""), say=said.put)
    stood = clock.now_us()
    assert start_us <= stood == clock.now_us()
    for line in (b"2026-03-01T02:00:00Z\n", b"later\n"):
        lines.put(line)
    refused = said.get(timeout=30)  # the line before is taken by then
    assert refused == (
        "--clock-led: 'later'. Expected an RFC 3339 time with an offset, such as 2026-03-01T12:00:00Z. Add the offset."
    )
    until_us = start_us + 2 * 3_600_000_000
    assert any(clock.now_us() == until_us for _ in range(10_000_000))
    lines.put(b"")


def test_the_machines_clock_is_not_led() -> None:
    with pytest.raises(ConfigError, match=r"--clock-led: the machine's clock\. Expected an accelerated clock\."):
        operations.lead(SystemClock(), (), say=print)
