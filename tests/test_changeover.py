"""A champion of another feature set takes over between two requests; nobody waits, and everything replays."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
import pytest
import redis
from tests.fraud_log import payment
from tests.homes import LATER, add_model, decide_live, fill_home, opened, records, rule

from decalog import changeover, operations, views
from decalog import host as hosts
from decalog.clock import ManualClock, rfc3339
from decalog.decisions import Decision, decode_decision, unpack_features
from decalog.deployment import Setup, run_aside
from decalog.features.definition import Aggregate, Attribute, FeatureSet
from decalog.features.online import OnlineState
from decalog.home import Home
from decalog.host import Host
from decalog.log import Log
from decalog.memory import Room, forecast
from decalog.models.linear import Threshold
from decalog.registry import Registry
from decalog.serving import Service, described
from decalog.system import System
from decalog.systems.fraud.simulate import START_US
from decalog.systems.fraud.system import SYSTEM

PATIENCE_S = 120.0
"""After this a wait has failed; no right answer takes so long."""


DECIDED = {"", "deadline"}
"""How decisions end whose features were there; on a busy machine one may be too late for its model."""


def with_features(*added: Any, without: str = "") -> System:
    """Returns fraud with features added and one left out."""
    kept = tuple(feature for feature in SYSTEM.features.features if feature.name != without)
    return msgspec.structs.replace(SYSTEM, features=msgspec.structs.replace(SYSTEM.features, features=(*kept, *added)))


THREE_DAYS = Aggregate(
    name="merchant_payments_3d",
    meaning="payments to the merchant in three days",
    unit="payments",
    entity="merchant",
    aggregate="count",
    over=("payment",),
    window="3d",
)
B = with_features(THREE_DAYS, without="card_payments_60s")
A_SET, B_SET = SYSTEM.features.version, B.features.version


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill_home(tmp_path_factory.mktemp("homes") / "filled").root


@pytest.fixture
def home(filled: Path, tmp_path: Path) -> Home:
    """A home with history, whose champion is of fraud's own feature set."""
    return Home(Path(shutil.copytree(filled, tmp_path / "home")))


def promote(home: Home, model: str) -> None:
    Registry(home.root).promote("fraud", model, by="test", why="test", at_us=1)


def roll_back(home: Home) -> None:
    Registry(home.root).rollback("fraud", by="test", why="test", at_us=2)


def decisions(home: Home) -> list[Decision]:
    return [decode_decision(record.body) for record in records(home, "decision")]


def declared(home: Home) -> list[str]:
    """Returns the versions of the feature sets in the log, in its order."""
    with opened(home) as (deployment, _):
        seqs = deployment.log.find("table", "fraud/features")
        tables = [deployment.tables.get("fraud", "features", before=seq + 1) for seq in seqs]
        return [FeatureSet.from_json(msgspec.json.encode(content)).version for content in tables]


def canonical(state: OnlineState) -> list[tuple[str, bytes, bytes]]:
    """Returns all that a state's answers depend on."""
    return [(name, rows.tokens.tobytes(), rows.block.tobytes()) for name, rows in state.rest().entities]


def check_all_identical(home: Home) -> None:
    """Every decision replays to the same bits, and every logged feature is what the log gives."""
    with opened(home) as (deployment, _):
        replayed, compared = deployment.replayer().range(), deployment.parity().last()
    assert replayed.replayed == replayed.identical > 0, replayed.first
    assert compared.compared == compared.identical > 0, compared.text()


# A server under traffic


class Told(NamedTuple):
    """What a caller was told: the status, and the feature set and model that decided."""

    status: int
    features: str
    model: str


class Caller(threading.Thread):
    """Asks for one decision after another until it is stopped."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.told: list[Told] = []
        self._address = address
        self._stopped, self._news = threading.Event(), threading.Event()

    def run(self) -> None:
        with httpx.Client(base_url=self._address, timeout=PATIENCE_S) as client:
            while not self._stopped.wait(0.01):  # a few thousand decisions would be checked for long
                number = len(self.told)
                body = payment(f"t{number}", 0, event_time=None, card=f"card-{number % 7}", merchant=f"m-{number % 3}")
                answer = client.post("/v1/fraud/decide", json=body)
                versions = answer.json().get("versions", {})
                self.told.append(Told(answer.status_code, versions.get("features", ""), versions.get("model", "")))
                self._news.set()

    def stop(self) -> None:
        self._stopped.set()
        self.join()

    def until(self, features: str) -> None:
        """Returns once a decision was made on a feature set."""
        last = time.monotonic() + PATIENCE_S
        while not self.told or self.told[-1].features != features:
            assert self._news.wait(PATIENCE_S), "nobody answers"
            assert time.monotonic() < last, f"never decided on {features}: {self.told[-1:]}"
            self._news.clear()


class Served:
    """A server of a home in a process of its own, and what it said."""

    def __init__(self, home: Home, *words: str) -> None:
        line = [sys.executable, "-m", "decalog", "serve", "fraud", "--home", str(home.root), "--port", "0", "--no-auth"]
        line += ["--clock-start", rfc3339(START_US + LATER), *words]
        self.process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
        self.said: list[str] = []
        assert self.process.stderr is not None
        for said in self.process.stderr:
            self.said.append(said)
            if said.startswith("listening on "):
                break
        assert self.process.poll() is None, self.said
        self.address = self.said[-1].split()[-1]

    def stop(self) -> int:
        """Stops it, and returns how it ended."""
        self.process.send_signal(signal.SIGTERM)
        self.said += self.process.communicate(timeout=PATIENCE_S)[1].splitlines()
        return self.process.returncode


@contextmanager
def served(home: Home, *words: str) -> Iterator[Served]:
    """Yields a server that runs inside the block."""
    made = Served(home, *words)
    with made.process:
        try:
            yield made
        finally:
            made.process.kill()


def test_a_server_under_traffic_goes_over_and_back_without_a_failed_request(home: Home) -> None:
    first = Registry(home.root).current("fraud") or ""
    second = add_model(home.root, system=B, promote=False)
    with served(home) as server:
        caller = Caller(server.address)
        caller.start()
        try:
            caller.until(A_SET)
            promote(home, second)
            caller.until(B_SET)
            roll_back(home)
            caller.until(A_SET)
        finally:
            caller.stop()
        assert server.stop() == 0
    assert {told.status for told in caller.told} == {200}
    made = decisions(home)
    assert len(made) == len(caller.told)
    turns = [(one.versions.features, one.versions.model) for one in made]
    changes = [turn for turn, before in zip(turns, [None, *turns], strict=False) if turn != before]
    assert changes == [(A_SET, first[:12]), (B_SET, second[:12]), (A_SET, first[:12])]
    assert {one.fallback for one in made} <= DECIDED
    assert declared(home) == [A_SET, B_SET, A_SET]
    check_all_identical(home)
    assert f"fraud: champion {second[:12]} with feature set {B_SET}: its views are built beside" in server.said
    assert len([line for line in server.said if re.search(r" decides from record [\d,]+ on$", line)]) == 2


# A host in this process


class Played:
    """A host whose calls beside come as fast as the loop goes round."""

    def __init__(self, home: Home, setup: Setup | None = None, *, memory: int | None = None) -> None:
        self.home = home
        self.said: list[str] = []
        self.clock = ManualClock(START_US + LATER)
        self.host = operations.open_host(
            home, ["fraud"], setups={"fraud": setup or Setup()}, clock=self.clock, memory=memory, say=self.said.append
        )
        self._count = 0
        self.turn = asyncio.Event()
        self.host._beside += (self.turn.set,)

    @property
    def service(self) -> Service:
        return self.host.services["fraud"]

    def run(self, scenario: Callable[[Host], Awaitable[None]]) -> None:
        async def play() -> None:
            await self.host.start()
            try:
                await asyncio.wait_for(scenario(self.host), PATIENCE_S)
            finally:
                await self.host.stop()

        try:
            asyncio.run(play())
        finally:
            self.host.log.close()

    async def decide(self, **fields: Any) -> dict[str, Any]:
        self._count += 1
        body = msgspec.json.encode(payment(f"n{self._count}", 0, event_time=None, **fields))
        return (await self.host.decide("fraud", body)).body

    async def until(self, has_come: Callable[[], object]) -> None:
        """Returns once something is so, deciding on meanwhile."""
        while not has_come():
            assert (await self.decide())["fallback"] in DECIDED
            self.turn.clear()
            await self.turn.wait()

    def metric(self) -> float | None:
        return self.host.meter.registry.get_sample_value("decalog_champion_problem", {"system": "fraud"})


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "_REFRESH_S", 0.01)


def test_a_decision_under_way_ends_with_what_it_began_with(home: Home) -> None:
    played = Played(home)

    async def scenario(host: Host) -> None:
        service = played.service
        begun = service.begin(payment("slow", 0, event_time=None))
        assert not isinstance(begun, tuple)
        add_model(home.root, system=B)
        await played.until(lambda: described(service)["features"] == B_SET)
        begun.started_ns = time.perf_counter_ns()  # no test is about how long the process took
        service.predict(begun)
        _, ended = service.finish(begun)
        later = await played.decide()
        told = await host.decision("fraud", ended.id)
        assert list(told["features"]) == list(SYSTEM.features.names)
        assert list((await host.decision("fraud", later["decision_id"]))["features"]) == list(B.features.names)
        assert (ended.versions.features, later["versions"]["features"]) == (A_SET, B_SET)
        assert ended.fallback == ""

    played.run(scenario)
    assert declared(home) == [A_SET, B_SET]
    check_all_identical(home)


def test_events_and_corrections_of_the_tail_are_in_the_new_views(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is logged while the process folds is folded by the loop, in steps."""
    monkeypatch.setattr(views, "_STEP", 3)
    played = Played(home)
    may_go = asyncio.Event()

    async def held(*words: str, told: bytes = b"") -> tuple[bytes, bytes, int | None]:
        done = await run_aside(*words, told=told)
        await may_go.wait()
        return done

    monkeypatch.setattr(changeover, "run_aside", held)

    async def scenario(host: Host) -> None:
        add_model(home.root, system=B)
        for number in range(40):
            await played.decide(card=f"c{number % 5}", merchant="m")
        rows = [payment("mended", 0, event_time=None, corrects="n3", amount_minor=9), {"id": "x", "deletes": "n4"}]
        assert [row.status for row in await host.add_events("fraud", msgspec.json.encode(rows))] == ["accepted"] * 2
        may_go.set()
        await played.until(lambda: described(played.service)["features"] == B_SET)

    played.run(scenario)
    check_all_identical(home)
    with opened(home) as (deployment, _):
        whole = views.follow(views.begin(B.features, deployment.log, folder=home.root / "none"), deployment.log)
        assert canonical(played.service.state) == canonical(whole.state)


def test_the_next_start_and_the_next_snapshot_are_on_the_champions_set(home: Home) -> None:
    played = Played(home)

    async def scenario(_: Host) -> None:
        add_model(home.root, system=B)
        await played.until(lambda: described(played.service)["features"] == B_SET)

    played.run(scenario)
    path = views.snapshot_path(home.state, B.features)
    path.unlink()
    assert operations.take_snapshot(home, "fraud").startswith("snapshot of fraud at record ")
    assert path.exists()
    told = operations.decide_here(home, "fraud", raw=msgspec.json.encode(payment("here", 0, event_time=None)))
    assert (told["versions"]["features"], told["fallback"] in DECIDED) == (B_SET, True)
    check_all_identical(home)


def test_a_set_without_what_the_policy_reads_is_refused(home: Home) -> None:
    played = Played(home)
    blind = with_features(THREE_DAYS, without="reviews_1d")
    model = add_model(home.root, system=blind, promote=False)

    async def scenario(_: Host) -> None:
        promote(home, model)
        await played.until(lambda: played.service.problem and played.metric())
        assert (await played.decide())["versions"]["features"] == A_SET
        roll_back(home)
        await played.until(lambda: not played.service.problem and not played.metric())

    played.run(scenario)
    with opened(home) as (deployment, _):
        promote(home, model)
        deployment.service()
        assert deployment.problem == (
            f"champion {model[:12]}: features of 'fraud', version {blind.features.version}: no reviews_1d. Expected "
            "every feature of use 'policy' that the running code declares: its policy reads them. Declare it in the "
            "new set and train again, or restart with code whose policy does without."
        )


def test_a_set_that_the_schema_does_not_know_is_refused(home: Home) -> None:
    alien = with_features(Attribute(name="mood", meaning="of the payer", unit="1", attribute="mood"))
    played = Played(home)
    model = add_model(home.root, Threshold(0, 1.0, above=0.5, below=0.1, width=1), system=alien)

    async def scenario(_: Host) -> None:
        await played.until(lambda: played.service.problem)
        assert played.service.problem.startswith(
            f"champion {model[:12]}: features of 'fraud': 1 problem: feature 'mood': attribute 'mood', expected "
        )

    played.run(scenario)
    assert declared(home) == [A_SET]


def test_a_process_that_dies_leaves_the_set_in_force_and_is_not_tried_at_once(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []

    async def dies(*words: str, told: bytes = b"") -> tuple[bytes, bytes, int | None]:
        started.append(msgspec.json.decode(told)[0])
        return b"", b"a word of its last", -9

    monkeypatch.setattr(changeover, "run_aside", dies)
    now = [0.0]
    monkeypatch.setattr(changeover.Follower.__init__, "__kwdefaults__", {"monotonic": lambda: now[0]})
    played = Played(home)

    async def scenario(_: Host) -> None:
        model = add_model(home.root, system=B)
        await played.until(lambda: played.service.problem and played.metric())
        assert played.service.problem == (
            f"champion {model[:12]}: views of another feature set: a process that ended with -9: a word of its last. "
            "Expected views at the log's position. It is tried again in 10 minutes, or at once when another "
            "model is promoted."
        )
        turns = iter(range(20))
        await played.until(lambda: next(turns) == 19)
        assert len(started) == 1
        now[0] = 601.0
        await played.until(lambda: len(started) == 2)
        add_model(home.root, rule(B, limit=7.0), system=B)
        await played.until(lambda: len(started) == 3)
        add_model(home.root, rule(limit=7.0))
        await played.until(lambda: not played.service.problem)

    played.run(scenario)
    assert started == [str(home.root)] * 3
    assert declared(home) == [A_SET]


def test_a_real_process_that_cannot_write_says_why(home: Home) -> None:
    home.state.write_text("in the way")
    played = Played(home)

    async def scenario(_: Host) -> None:
        add_model(home.root, system=B)
        await played.until(lambda: played.service.problem)
        assert ": a process that ended with 1: decalog.errors.LogUnavailableError: snapshot " in played.service.problem
        assert (await played.decide())["versions"]["features"] == A_SET

    played.run(scenario)
    assert "\n" not in played.service.problem


def test_a_process_that_wrote_nothing_is_no_success(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    async def idle(*words: str, told: bytes = b"") -> tuple[bytes, bytes, int | None]:
        return b"", b"", 0

    monkeypatch.setattr(changeover, "run_aside", idle)
    played = Played(home)

    async def scenario(_: Host) -> None:
        add_model(home.root, system=B)
        await played.until(lambda: played.service.problem)
        assert ": FileNotFoundError: " in played.service.problem

    played.run(scenario)


@pytest.mark.parametrize("is_tight", [False, True])
def test_views_that_do_not_fit_are_refused(home: Home, monkeypatch: pytest.MonkeyPatch, *, is_tight: bool) -> None:
    with opened(home) as (deployment, _):
        needed = forecast(deployment.service().state)
    if is_tight:
        monkeypatch.setattr(Room, "taken", property(lambda room: room.memory))
    played = Played(home, memory=needed.then + needed.beside)

    async def scenario(_: Host) -> None:
        add_model(home.root, system=B)
        await played.until(lambda: played.service.problem)

    played.run(scenario)
    said = played.service.problem
    assert ": memory for the views of fraud: " in said
    assert (" in their snapshot alone, beside " in said) == is_tight
    assert (" once the windows have filled (fraud: " in said) != is_tight
    assert ("Restart the server: it begins with the new views alone. Or: Take a machine" in said) == is_tight
    assert declared(home) == [A_SET]


def test_a_champion_that_goes_while_its_views_are_built_takes_nothing_over(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def endless(*words: str, told: bytes = b"") -> tuple[bytes, bytes, int | None]:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    monkeypatch.setattr(changeover, "run_aside", endless)
    played = Played(home)

    async def scenario(_: Host) -> None:
        add_model(home.root, system=B)
        await started.wait()
        roll_back(home)
        await ended.wait()
        other = add_model(home.root, rule(limit=5.0))
        await played.until(lambda: described(played.service)["model"] == other[:12])

    played.run(scenario)
    assert declared(home) == [A_SET]


# On Redis


def test_a_state_on_redis_goes_over_and_back_and_is_built_anew_when_it_is_lost(home: Home, redis_url: str) -> None:
    with redis.from_url(redis_url) as client:
        client.flushall()
        played = Played(home, Setup(state=redis_url))

        async def scenario(_: Host) -> None:
            add_model(home.root, system=B)
            await played.until(lambda: described(played.service)["features"] == B_SET)
            roll_back(home)
            await played.until(lambda: described(played.service)["features"] == A_SET)
            await played.decide(card="mine")
            before = played.service.state
            client.flushall()
            assert (await played.decide())["fallback"] == "features_error"
            while played.service.state is before:
                played.turn.clear()
                await played.turn.wait()
            assert (await played.decide(card="mine"))["fallback"] in DECIDED

        played.run(scenario)
    played.service.state.close()
    made = decisions(home)
    assert declared(home) == [A_SET, B_SET, A_SET]
    names = SYSTEM.features.names
    assert unpack_features(made[-1].candidates[0].features)[names.index("card_payments_1d")] == 2.0
    check_all_identical(home)


# Models of before, and starts


def test_a_model_without_declarations_is_served_on_those_that_the_log_holds(home: Home) -> None:
    add_model(home.root, system=B)
    operations.decide_here(home, "fraud", raw=msgspec.json.encode(payment("b", 0, event_time=None)))
    old = add_model(home.root, rule(limit=4.0), declared=False)
    played = Played(home)
    assert described(played.service)["model"] == old[:12]
    old = add_model(home.root, rule(B, limit=4.0), system=B, declared=False)

    async def scenario(_: Host) -> None:
        await played.until(lambda: described(played.service)["features"] == B_SET)

    played.run(scenario)
    assert decisions(home)[-1].versions.features in (A_SET, B_SET)


def test_steps_end_at_the_very_position_of_the_log(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "_STEP", 5)
    with opened(home) as (deployment, clock):
        clock.set(START_US + LATER)
        service = deployment.service()
        begun = deployment.begin()
        steps = 0
        for _ in views.catch_up(begun, deployment.log):
            steps += 1
            if steps < 4:
                service.decide(payment(f"late{steps}", 0, event_time=None))
        assert deployment.log.position > deployment.log.durable
        assert steps >= deployment.log.position // 5 - 1
        assert canonical(begun.state) == canonical(service.state)
        assert begun.state.position == service.state.position


def test_a_live_history_goes_over_too(home: Home) -> None:
    """Outcomes and decisions of the world stand in the log before, and those after it in the next set."""
    decide_live(home, hours=3)
    played = Played(home)
    played.clock.set(START_US + 2 * LATER)

    async def scenario(_: Host) -> None:
        add_model(home.root, system=B)
        await played.until(lambda: described(played.service)["features"] == B_SET)
        await played.decide()

    played.run(scenario)
    check_all_identical(home)


def test_what_came_while_a_long_log_was_folded_is_folded_too(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changeover, "_LITTLE", 5)
    begun: list[int] = []
    begin = views.begin

    def counted(features: FeatureSet, log: Log, **kept: Any) -> views.Views:
        found = begin(features, log, **kept)
        begun.append(found.position)
        if len(begun) == 1:
            decide_live(home, hours=6)
        return found

    monkeypatch.setattr(changeover, "begin", counted)
    first = len(records(home, "event"))
    changeover.build(home, B.features)
    with opened(home) as (deployment, _):
        kept = views.begin(B.features, deployment.log, folder=home.state)
        assert kept.position == deployment.log.position
    assert begun[0] == 0
    assert first < begun[1] < kept.position
    assert len(begun) == 3
