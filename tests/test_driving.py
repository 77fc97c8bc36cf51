"""A world's traffic sent as clients would, paced by the server's clock."""

from __future__ import annotations

import http.client
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from tests.homes import DAYS, SCALE, SEED, fill_home, opened, records

from decalog import driving
from decalog.clock import DAY, HOUR, MINUTE, rfc3339
from decalog.decisions import Choice, Decision, Slot, Versions
from decalog.driving import Driver
from decalog.errors import ConflictError, LogUnavailableError
from decalog.events import Event, encode
from decalog.money import convert
from decalog.simulation import world_of
from decalog.systems.fraud.simulate import World
from decalog.systems.fraud.system import SYSTEM
from decalog.systems.fraud.world_params import WorldParams
from decalog.testing import worlds

Body = dict[str, Any]


class Server:
    """Stands for the connection to a server whose clock gains an hour each time it is asked."""

    def __init__(self, start_us: int, answer: Callable[[Body], Body]) -> None:
        self.now_us = start_us
        self.answer = answer
        self.status = 200
        self.sent: list[tuple[str, Body]] = []
        self.closed = False
        self._reply: Body = {}

    def request(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> None:
        if path == "/readyz":
            self.now_us += HOUR
            self._reply = {"now": rfc3339(self.now_us)}
            return
        assert (method, headers) == ("POST", {"content-type": "application/json"})
        sent = msgspec.json.decode(body or b"")
        self.sent.append((path, sent))
        self._reply = self.answer(sent)

    def getresponse(self) -> Any:
        return SimpleNamespace(status=self.status, read=lambda: msgspec.json.encode(self._reply))

    def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time of which a hundredth of a second goes by at each look; nothing sleeps."""
    now = [0.0]

    def look() -> float:
        now[0] += 0.01
        return now[0]

    monkeypatch.setattr(driving, "time", SimpleNamespace(monotonic=look, perf_counter=look, sleep=lambda s: None))
    return now


def driver_of(world: worlds.World, answer: Callable[[Body], Body]) -> tuple[Driver, Server]:
    driver, server = Driver(world, "http://127.0.0.1:8000", "fraud"), Server(world.start_us, answer)
    driver._connection = server  # type: ignore[assignment]
    return driver, server


def allow(_body: Body) -> Body:
    return {"action": "allow"}


def test_everything_the_world_sends_is_sent_once_in_order_and_never_from_the_future() -> None:
    world, twin = (world_of(SYSTEM, SEED, scale=SCALE) for _ in range(2))
    driver, server = driver_of(world, allow)
    driver.run(2.0)
    driver.run(2.0)
    behind = server.now_us - MINUTE
    expected = [(f"/v1/fraud/{m.kind if m.kind == 'decide' else m.kind + 's'}", m.body) for m in twin.advance(behind)]
    assert server.sent == expected[: len(server.sent)]
    assert len(expected) - len(server.sent) == len(driver._waiting)
    assert len(server.sent) > 20


def test_what_could_not_be_sent_in_time_is_sent_next_time() -> None:
    driver, server = driver_of(world_of(SYSTEM, SEED, scale=1.0), allow)
    driver.run(0.5)
    first, waiting = len(server.sent), list(driver._waiting)
    assert waiting
    driver.run(0.5)
    assert server.sent[first][1] == waiting[0].body


def test_the_servers_clock_is_held_until_everything_was_sent() -> None:
    world, held = world_of(SYSTEM, SEED, scale=1.0), list[tuple[int, int]]()
    driver, server = driver_of(world, allow)
    driver._hold = lambda until_us: held.append((until_us - server.now_us, len(driver._waiting)))
    speeds = [driver.speed]
    for _ in range(20):
        driver.run(5.0)
    assert 1 < len(held) < 20 * 5.0 / 0.01
    assert set(held) == {(10 * MINUTE, 0)}
    speeds.append(driver.speed)
    assert speeds[0] is None
    assert (speeds[1] or 0.0) > 0


def test_the_world_hears_what_was_decided_and_the_line_counts_it() -> None:
    world = World(SEED, WorldParams(customers=100, merchants=60, payments_day=200.0, background_hazard=0.05))
    frauds: dict[str, int] = {}

    def decide(body: Body) -> Body:
        if not body["id"].startswith("pay_"):
            return {}
        is_bad = bool(world.truth(body["id"])["is_fraud"])
        dear = body["amount_minor"] > 5_000
        frauds[body["id"]] = is_bad
        return {"action": "block" if dear else "allow"}

    driver, server = driver_of(world, decide)
    driver.run(8.0)
    decided = [body for path, body in server.sent if path.endswith("decide")]
    bad = [body for body in decided if frauds[body["id"]]]
    stopped = [body for body in bad if body["amount_minor"] > 5_000]
    blocked = sum(body["amount_minor"] > 5_000 for body in decided)
    assert 0 < len(stopped) < len(bad)

    def lost(bodies: list[Body]) -> float:
        losses = ((int(world.truth(body["id"])["loss_minor"]), body["currency"]) for body in bodies)
        return sum(convert(minor, code, base="EUR", rates=world.rates) for minor, code in losses) / 100

    line = driver.line()
    assert f"{len(decided):,} decisions" in line
    assert f"block {blocked / len(decided):.1%}" in line
    assert f"frauds not let through {len(stopped):,} of {len(bad):,}" in line
    assert f"(simulated: {lost(stopped):,.0f} of {lost(bad):,.0f} EUR)" in line
    assert line.startswith(rfc3339(server.now_us))
    assert re.search(r"p99 10\.0 ms$", line)
    # The world heard it: what was blocked did not go through.
    assert {world.truth(body["id"])["settled"] for body in stopped} == {0.0}
    assert {world.truth(body["id"])["settled"] for body in bad if body not in stopped} == {1.0}


def test_a_fraud_that_passes_its_step_up_was_let_through() -> None:
    params = WorldParams(
        customers=100, merchants=60, payments_day=200.0, background_hazard=0.05, step_up_fraud_pass=0.5
    )
    world = World(SEED, params)
    driver, server = driver_of(world, lambda _body: {"action": "step_up"})
    driver.run(8.0)
    truths = [world.truth(body["id"]) for path, body in server.sent if path.endswith("decide")]
    frauds = [truth["settled"] for truth in truths if truth["is_fraud"]]
    assert 0 < frauds.count(0.0) < len(frauds)
    assert f"frauds not let through {frauds.count(0.0):,} of {len(frauds):,} " in driver.line()


class Listening(World):
    """A world that notes what it was told."""

    def __init__(self) -> None:
        super().__init__(SEED, scale=SCALE)
        self.heard: dict[str, tuple[str, tuple[str, ...]]] = {}

    def react(self, request_id: str, action: str, *, at_us: int, refs: tuple[str, ...] = ()) -> None:
        self.heard[request_id] = (action, refs)
        super().react(request_id, action, at_us=at_us)


def test_the_world_hears_what_was_shown_in_order() -> None:
    world = Listening()
    slots = [{"ref": "post-2", "position": 0}, {"ref": "post-1", "position": 1}]
    driver, server = driver_of(world, lambda body: {"action": "allow", "slots": slots})
    driver.run(2.0)
    decided = {body["id"] for path, body in server.sent if path.endswith("decide")}
    assert decided
    assert world.heard == dict.fromkeys(decided, ("allow", ("post-2", "post-1")))


def test_a_world_is_reminded_of_what_really_happened() -> None:
    theirs = Choice((Slot("post-2", 0), Slot("post-1", 1)), verb="allow")
    for shown, told in ((theirs, ("post-2", "post-1")), (None, ("block",))):
        world = Listening()
        request = next(m for m in world_of(SYSTEM, SEED, scale=SCALE).advance(world.start_us + DAY))
        event = Event(request.body["id"], "payment", request.at, 0, {}, {}, b"", "")
        choice = Choice((Slot("block"),))
        made = Decision("d", event, 0, (), choice, Versions("", "", "", 0), theirs=shown)
        record: Any = SimpleNamespace(kind="decision", system="fraud", body=encode(made))
        driving.remind(world, [record], system="fraud")
        assert world.heard == {request.body["id"]: ("allow" if shown else "block", told)}


def test_a_line_before_anything_was_sent_divides_by_nothing() -> None:
    driver, _ = driver_of(world_of(SYSTEM, SEED, scale=SCALE), allow)
    assert "0 decisions" in driver.line()
    assert driver.line().endswith("p99 0.0 ms")


def test_an_answer_that_is_no_success_ends_the_drive_with_its_words() -> None:
    world = world_of(SYSTEM, SEED, scale=SCALE)
    driver, server = driver_of(world, allow)
    server.status = 503
    with pytest.raises(LogUnavailableError) as caught:
        driver.run(1.0)
    assert str(caught.value).startswith("/readyz: status 503: {")
    assert str(caught.value).endswith("Expected 200. The world sends what its schema allows: see the answer.")


class Refusing(Server):
    """Refuses what is sent to one path."""

    def __init__(self, start_us: int, path: str) -> None:
        super().__init__(start_us, allow)
        self._path, self._asked = path, ""

    def request(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> None:
        self._asked = path
        super().request(method, path, body, headers)

    def getresponse(self) -> Any:
        self.status = 422 if self._asked == self._path else 200
        return super().getresponse()


def test_an_outcome_that_is_refused_is_counted_and_the_drive_goes_on() -> None:
    world = World(SEED, WorldParams(customers=100, merchants=60, payments_day=200.0, background_hazard=0.05))
    driver, _ = driver_of(world, allow)
    server = Refusing(world.start_us, "/v1/fraud/outcomes")
    driver._connection = server  # type: ignore[assignment]
    for _ in range(4):
        driver.run(8.0)
    refused = sum(path.endswith("outcomes") for path, _ in server.sent)
    assert refused > 0
    assert server.sent[-1][0].endswith("decide")
    assert f"  0 outcomes  {refused:,} refused  " in driver.line()


def test_what_is_sent_of_a_shaped_world_may_be_of_others_and_may_be_refused() -> None:
    world = world_of(SYSTEM, SEED, scale=SCALE)

    def shaped(messages: Iterable[worlds.Message]) -> Iterator[worlds.Message]:
        for message in messages:
            yield message
            if message.kind == "decide":
                yield worlds.Message(message.at, "decide", message.body | {"id": message.body["id"] + "~1"})

    driver = Driver(world, "http://127.0.0.1:8000", "fraud", shaped=shaped)
    server = Server(world.start_us, allow)
    driver._connection = server  # type: ignore[assignment]
    driver.run(2.0)
    decided = [body["id"] for path, body in server.sent if path.endswith("decide")]
    assert len(decided) > 10
    assert {id_ for id_ in decided if not id_.endswith("~1")} == {id_[:-2] for id_ in decided if id_.endswith("~1")}
    assert driver.now_us == server.now_us
    driver._connection = refusing = Refusing(driver.now_us, "/v1/fraud/decide")  # type: ignore[assignment]
    driver.run(1.0)
    count = sum(path.endswith("decide") for path, _ in refusing.sent)
    assert count
    assert f"{count} refused" in driver.line()


def test_a_request_that_is_refused_ends_the_drive() -> None:
    world = world_of(SYSTEM, SEED, scale=SCALE)
    driver, _ = driver_of(world, allow)
    driver._connection = Refusing(world.start_us, "/v1/fraud/decide")  # type: ignore[assignment]
    with pytest.raises(LogUnavailableError, match=r"/v1/fraud/decide: status 422"):
        driver.run(2.0)


@pytest.mark.parametrize("error", [ConnectionResetError("gone"), http.client.BadStatusLine("gone")])
def test_a_server_that_is_gone_ends_the_drive(error: Exception) -> None:
    driver, server = driver_of(world_of(SYSTEM, SEED, scale=SCALE), allow)

    def raising(*_: Any) -> None:
        raise error

    server.request = raising  # type: ignore[assignment,method-assign]
    with pytest.raises(LogUnavailableError) as caught:
        driver.run(1.0)
    assert str(caught.value) == "/readyz: no answer (gone). Expected a running server. See its last lines."


def test_a_driver_gives_its_connection_back() -> None:
    driver, server = driver_of(world_of(SYSTEM, SEED, scale=SCALE), allow)
    driver.close()
    assert server.closed


def test_a_world_that_starts_anew_goes_on_where_the_log_ended(tmp_path: Path) -> None:
    home = fill_home(tmp_path)
    first = world_of(SYSTEM, SEED, scale=SCALE)
    now_us = first.start_us + DAYS * DAY + DAY // 2
    first.advance(first.start_us + DAYS * DAY)
    messages = []
    with opened(home) as (deployment, clock):
        service = deployment.service()
        for until_us in range(first.start_us + DAYS * DAY, now_us + 1, MINUTE):
            for message in first.advance(until_us):
                clock.set(message.at)
                if message.kind == "decide":
                    messages.append(message)
                    _, decision, _ = service.decide(message.body)
                    first.react(message.body["id"], decision.choice.action, at_us=message.at)
        service.decide({"id": "by-hand", "amount_minor": 100, "currency": "EUR"})
        deployment.log.commit()
    again = world_of(SYSTEM, SEED, scale=SCALE)
    driving.remind(again, records(home, "decision"), system="fraud")
    asked = messages[0]
    with pytest.raises(ConflictError, match="'block' after '"):
        again.react(asked.body["id"], "block", at_us=asked.at)
    again.advance(now_us)
    later = first.advance(now_us + 70 * DAY)
    assert again.advance(now_us + 70 * DAY) == later
