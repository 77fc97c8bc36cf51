"""Many callers on one log: nobody is answered before the disk is, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.fraud_log import FEATURES, FraudLog, payment

from decalog import host as module
from decalog.decisions import Versions, decode_decision
from decalog.errors import ConflictError, DecalogError, LogUnavailableError, RequestError, UnknownRecordError
from decalog.host import Beside, Host, rows_of
from decalog.judging import Serving
from decalog.meter import Meter
from decalog.models.base import Floats
from decalog.serving import Service
from decalog.stores.base import Entry, Sync
from decalog.systems.fraud.policy import FraudCosts, FraudPolicy
from decalog.tables import Tables

PATIENCE_S = 30.0
"""After this a wait has failed; no right answer takes so long."""

Scenario = Callable[[Host], Awaitable[None]]


async def replayed(system: str, decision_id: str, _verb: str) -> dict[str, Any]:
    return {"system": system, "decision_id": decision_id}


class Quick:
    """A model that answers at once."""

    blocking = False

    def predict(self, rows: Floats) -> Floats:
        return np.full(len(rows), 0.001)

    def save(self, folder: Path) -> Mapping[str, Any]:
        return {}


class Slow(Quick):
    """A model that thinks until it is told to answer."""

    blocking = True

    def __init__(self) -> None:
        self.started = threading.Semaphore(0)
        self.may_answer = threading.Event()
        self.answered = threading.Semaphore(0)

    def predict(self, rows: Floats) -> Floats:
        self.started.release()
        self.may_answer.wait(PATIENCE_S)
        self.answered.release()
        return super().predict(rows)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[FraudLog]:
    made = FraudLog(tmp_path)
    use(made, Quick())
    yield made
    made.log.close()


def use(log: FraudLog, model: Any, *, deadline_ms: int = 60_000) -> None:
    log.service.system = msgspec.structs.replace(log.service.system, deadline_ms=deadline_ms)
    versions = Versions("m", "p", FEATURES.version, 0)
    log.service.adopt(Serving(model=model, head="p_fraud", policy=FraudPolicy(FraudCosts()), versions=versions))


def run(log: FraudLog, scenario: Scenario, *beside: Beside) -> Host:
    """Starts a host, plays a scenario in it, and stops it; returns it stopped."""

    async def play() -> Host:
        host = Host(log.log, {"fraud": log.service}, replay=replayed, meter=Meter(), beside=beside)
        await host.start()
        try:
            await asyncio.wait_for(scenario(host), PATIENCE_S)
        finally:
            await host.stop()
        return host

    return asyncio.run(play())


def body(name: str, **fields: Any) -> bytes:
    return msgspec.json.encode(payment(name, 0, **fields))


def counted(host: Host, name: str, **labels: str) -> float:
    value = host.meter.registry.get_sample_value(name, labels)
    return 0.0 if value is None else value


async def thread(wait: Callable[[], object]) -> None:
    await asyncio.to_thread(wait)


# Durability


class Held:
    """Holds back a store's syncs until they are let go."""

    def __init__(self, log: FraudLog, error: LogUnavailableError | None = None) -> None:
        self.arrived, self.free = threading.Event(), threading.Event()
        self._append, self._error = log.log.store.append, error
        log.log.store.append = self.append  # type: ignore[method-assign]

    def append(self, entries: Sequence[Entry]) -> Sync:
        sync = self._append(entries)

        def held() -> None:
            self.arrived.set()
            self.free.wait(PATIENCE_S)
            if self._error is not None:
                raise self._error
            sync()

        return held


def test_nobody_is_answered_before_the_record_is_durable(log: FraudLog) -> None:
    held = Held(log)

    async def scenario(host: Host) -> None:
        asked = asyncio.create_task(host.decide("fraud", body("a")))
        events = asyncio.create_task(host.add_events("fraud", body("b")))
        outcomes = asyncio.create_task(host.add_outcomes("fraud", b'{"id": "bad"}'))
        await thread(held.arrived.wait)
        retry = asyncio.create_task(host.decide("fraud", body("a")))
        await asyncio.sleep(0)
        state = host.state()
        assert not any(task.done() for task in (asked, events, outcomes, retry))
        assert (state.durable, state.position) == (0, 3)
        held.free.set()
        reply, (event,), (outcome,) = await asyncio.gather(asked, events, outcomes)
        assert host.log.durable > max(reply.body["seq"], event.seq, outcome.seq)
        assert (event.status, outcome.status) == ("accepted", "rejected")
        assert ((await retry).repeated, (await retry).body) == (True, reply.body)

    host = run(log, scenario)
    assert counted(host, "decalog_log_position") == 3
    assert counted(host, "decalog_decisions_total", system="fraud", action="allow", mode="live") == 1
    assert counted(host, "decalog_rows_total", system="fraud", kind="outcome", status="rejected") == 1


def test_a_request_counts_once_for_each_kind_of_outcome_that_says_one_of_it(log: FraudLog) -> None:
    def report(id_: str, **fields: Any) -> dict[str, Any]:
        made = {"id": id_, "payment": "a", "kind": "chargeback", "source": "issuer", "value": 1}
        return made | fields

    reports = [
        report("opened"),
        report("opened"),
        report("lost"),
        report("b", payment="b", value=0),
        report("b lost", payment="b"),
        report("warned", kind="fraud_warning", source="network"),
        report("mended", corrects="warned", kind="fraud_warning", source="network"),
        {"id": "gone", "deletes": "lost"},
        report("passed", kind="authentication", source="acs"),
        report("bad", source="payer"),
    ]

    async def scenario(host: Host) -> None:
        rows = [(await host.add_outcomes("fraud", msgspec.json.encode(row)))[0] for row in reports]
        assert [row.status for row in rows] == ["accepted", "duplicate", *["accepted"] * 7, "rejected"]

    host = run(log, scenario)
    kinds = ("chargeback", "fraud_warning", "authentication")
    assert [counted(host, "decalog_reported_total", system="fraud", kind=kind) for kind in kinds] == [2, 1, 0]


FULL = LogUnavailableError(where="log", given="a full disk", expected="space", fix="Free some.")


def test_a_failed_log_answers_all_who_wait_and_all_who_come_later(log: FraudLog) -> None:
    held = Held(log, FULL)

    async def scenario(host: Host) -> None:
        asked = [asyncio.create_task(host.decide("fraud", body(name))) for name in "abc"]
        asked.append(asyncio.create_task(host.decide("fraud", body("a"))))
        rows = asyncio.create_task(host.add_events("fraud", body("e")))
        await thread(held.arrived.wait)
        held.free.set()
        answers = await asyncio.gather(*asked, rows, return_exceptions=True)
        assert [str(answer) for answer in answers] == [str(FULL)] * 5
        state = host.state()
        assert (state.ready, state.failed, state.durable) == (False, str(FULL), 0)
        for call in (host.decide, host.add_events, host.add_outcomes):
            with pytest.raises(LogUnavailableError) as caught:
                await call("fraud", body("later"))
            assert str(caught.value) == (
                "log: a log that failed. Expected an open log. "
                "Retry with the same id after the server is back: nothing is doubled."
            )

    run(log, scenario)


def test_stopping_commits_what_was_stamped_and_refuses_what_comes(log: FraudLog) -> None:
    async def scenario(host: Host) -> None:
        assert host.state().ready
        log.service.decide(payment("a", 0))  # stamped, and nobody has asked for a commit
        assert host.log.durable == 0

    host = run(log, scenario)
    assert host.log.durable == host.log.position == 1
    assert not host.state().ready
    with pytest.raises(LogUnavailableError, match=r"log: a log that takes nothing now\. Expected an open log"):
        asyncio.run(host.decide("fraud", body("b")))
    assert host.log.position == 1


def test_a_host_that_was_not_started_takes_nothing(log: FraudLog) -> None:
    host = Host(log.log, {"fraud": log.service}, replay=replayed, meter=Meter())
    assert not host.state().ready
    with pytest.raises(LogUnavailableError, match="a log that takes nothing now"):
        asyncio.run(host.add_events("fraud", body("a")))
    asyncio.run(host.stop())


# Slow models


def test_a_model_that_thinks_too_long_is_left_behind(log: FraudLog) -> None:
    slow = Slow()
    use(log, slow, deadline_ms=20)

    async def scenario(host: Host) -> None:
        reply = await host.decide("fraud", body("a"))
        assert (reply.body["mode"], reply.body["fallback"], reply.body["action"]) == (
            "fallback",
            "model_timeout",
            "review",
        )
        assert reply.body["predictions"] == {}
        slow.may_answer.set()
        await thread(slow.answered.acquire)

    host = run(log, scenario)
    assert decode_decision(log.log.get(0).body).fallback == "model_timeout"
    assert counted(host, "decalog_fallbacks_total", system="fraud", reason="model_timeout") == 1


def test_a_model_that_hangs_holds_up_neither_the_stop_nor_more_memory(
    log: FraudLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixty threads are more than any pool has: with its threads shared, stopping would wait for the model."""
    monkeypatch.setattr(module, "_MOST_THINKING", 60)
    slow = Slow()
    use(log, slow)

    async def play() -> None:
        host = Host(log.log, {"fraud": log.service}, replay=replayed, meter=Meter())
        await host.start()
        try:
            asked = [asyncio.create_task(host.decide("fraud", body(f"p{i}"))) for i in range(60)]
            await asyncio.sleep(0)
            assert (await host.decide("fraud", body("one more"))).body["fallback"] == "model_busy"
            await asyncio.wait_for(host.stop(), PATIENCE_S)
            assert host.log.durable == 1
        finally:
            slow.may_answer.set()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(answer, LogUnavailableError) for answer in answers)

    asyncio.run(play())


def test_a_slow_model_stops_nobody_else_and_its_prediction_counts(log: FraudLog) -> None:
    slow = Slow()
    use(log, slow)

    async def scenario(host: Host) -> None:
        asked = asyncio.create_task(host.decide("fraud", body("a")))
        await thread(slow.started.acquire)
        (event,) = await host.add_events("fraud", body("b"))
        assert event.status == "accepted"
        assert not asked.done()
        slow.may_answer.set()
        reply = await asked
        assert reply.body["predictions"] == {"p_fraud": 0.001}
        assert decode_decision(log.log.get(reply.body["seq"]).body).state_seq == 0
        assert reply.body["seq"] == 1

    run(log, scenario)


def test_a_retry_while_the_model_thinks_is_decided_once(log: FraudLog) -> None:
    slow = Slow()
    use(log, slow)

    async def scenario(host: Host) -> None:
        asked = [asyncio.create_task(host.decide("fraud", body("a"))) for _ in range(2)]
        other = asyncio.create_task(host.decide("fraud", body("a", amount_minor=5)))
        for _ in range(3):
            await thread(slow.started.acquire)
        slow.may_answer.set()
        answers = await asyncio.gather(*asked, other, return_exceptions=True)
        replies = [answer for answer in answers if not isinstance(answer, BaseException)]
        refused = [answer for answer in answers if isinstance(answer, BaseException)]
        # Which body comes first is chance; that each id has one body and one decision is not.
        assert len({reply.body["decision_id"] for reply in replies}) == 1
        assert sum(not reply.repeated for reply in replies) == 1
        assert refused
        assert all(isinstance(error, ConflictError) for error in refused)
        assert host.log.position == 1

    run(log, scenario)


def test_an_event_of_the_same_id_while_the_model_thinks_is_a_conflict(log: FraudLog) -> None:
    slow = Slow()
    use(log, slow)

    async def scenario(host: Host) -> None:
        asked = asyncio.create_task(host.decide("fraud", body("a")))
        await thread(slow.started.acquire)
        (event,) = await host.add_events("fraud", body("a"))
        slow.may_answer.set()
        with pytest.raises(ConflictError, match="an id that was logged as a plain event before"):
            await asked
        assert (event.status, host.log.position) == ("accepted", 1)

    run(log, scenario)


def test_a_decision_whose_model_answers_after_the_stop_is_not_acknowledged(log: FraudLog) -> None:
    slow = Slow()
    use(log, slow)
    asked: list[asyncio.Task[Any]] = []

    async def play() -> None:
        host = Host(log.log, {"fraud": log.service}, replay=replayed, meter=Meter())
        await host.start()
        asked.append(asyncio.create_task(host.decide("fraud", body("a"))))
        await thread(slow.started.acquire)
        await host.stop()
        slow.may_answer.set()
        with pytest.raises(LogUnavailableError, match="a log that takes nothing now"):
            await asked[0]
        assert host.log.durable == 0

    asyncio.run(play())


# What other protocols need


def test_a_retry_repeats_its_form_too(log: FraudLog) -> None:
    async def scenario(host: Host) -> None:
        first = await host.decide("fraud", body("a"), form=b"a=1")
        again = await host.decide("fraud", body("a"), form=b"a=1")
        assert (again.body, again.repeated) == (first.body, True)
        for form in (b"a=2", b""):
            with pytest.raises(ConflictError, match="an id that was logged before with another body"):
                await host.decide("fraud", body("a"), form=form)

    run(log, scenario)


def test_reports_of_a_request_stand_as_they_were_corrected(log: FraudLog) -> None:
    def row(id_: str, **fields: Any) -> dict[str, Any]:
        return {"id": id_, "payment": "a", "kind": "chargeback", "source": "issuer", "value": 1} | fields

    rows = [
        *(row("o-1"), row("o-2", kind="fraud_warning", source="network"), row("o-3")),
        *(row("o-4", corrects="o-1", value=0), {"id": "o-5", "deletes": "o-3"}, row("o-6", payment="b")),
    ]

    async def scenario(host: Host) -> None:
        assert host.outcomes("fraud", "a") == []
        assert {done.status for done in await host.add_outcomes("fraud", msgspec.json.encode(rows))} == {"accepted"}
        told = [(outcome.id, outcome.value) for _, outcome in host.outcomes("fraud", "a")]
        assert told == [("o-4", 0.0), ("o-2", 1.0)]
        log.ingest.outcome(row("o-7"))
        assert len(host.outcomes("fraud", "a")) == 2  # stamped, but not durable yet

    run(log, scenario)


def test_a_table_is_durable_when_it_was_put(log: FraudLog) -> None:
    async def scenario(host: Host) -> None:
        await host.operate("fraud", lambda service: service.put_table("endpoints", [1]))
        position = host.log.durable
        await host.operate("fraud", lambda service: service.put_table("endpoints", [1]))
        assert host.log.durable == host.log.position == position
        assert Tables(host.log).get("fraud", "endpoints") == [1]

    stopped = run(log, scenario)
    with pytest.raises(LogUnavailableError, match="a log that takes nothing now"):
        asyncio.run(stopped.operate("fraud", lambda service: service.put_table("endpoints", [2])))


# Batches


def test_each_row_of_a_batch_is_answered_in_its_place(log: FraudLog) -> None:
    rows = [payment("a", 0), 7, payment("a", 0), payment("b", 0, amount_minor=-1), {"id": "c", "deletes": "a"}]

    async def scenario(host: Host) -> None:
        results = await host.add_events("fraud", msgspec.json.encode(rows))
        assert [(row.id, row.status, row.reason) for row in results] == [
            ("a", "accepted", ""),
            ("", "rejected", "malformed"),
            ("a", "duplicate", ""),
            ("b", "rejected", "amount_minor"),
            ("c", "accepted", ""),
        ]
        assert await host.add_events("fraud", b"[]") == await host.add_outcomes("fraud", b" \n ") == []

    run(log, scenario)


def test_a_large_batch_lets_decisions_pass(log: FraudLog) -> None:
    rows = [payment(f"p{i}", 0) for i in range(250)]

    async def scenario(host: Host) -> None:
        batch = asyncio.create_task(host.add_events("fraud", msgspec.json.encode(rows)))
        asked = asyncio.create_task(host.decide("fraud", body("a")))
        results, reply = await asyncio.gather(batch, asked)
        assert results[0].seq < reply.body["seq"] < results[-1].seq
        assert [row.status for row in results] == ["accepted"] * 250

    run(log, scenario)


def test_a_batch_that_the_log_fails_under_is_not_acknowledged(log: FraudLog) -> None:
    Held(log, FULL).free.set()

    async def scenario(host: Host) -> None:
        with pytest.raises(LogUnavailableError, match="a full disk"):
            await host.add_events("fraud", body("a"))
        with pytest.raises(LogUnavailableError, match="a log that failed"):
            await host.add_events("fraud", body("b"))

    run(log, scenario)


@pytest.mark.parametrize(
    ("raw", "rows"),
    [
        (b"", []),
        (b' {"id": "a"} ', [{"id": "a"}]),
        (b'[{"id": "a"}, 7]', [{"id": "a"}, 7]),
        (b"[]", []),
        (b'{"id": "a"}\n\n{"id": "b"}\r\n', [{"id": "a"}, {"id": "b"}]),
        (b'{"id": "a"}\n{"broken\n{"id": "b"}', [{"id": "a"}, '{"broken', {"id": "b"}]),
        (b'{"id": "a"}\n\xff\xfe\n{"id": "b"}', [{"id": "a"}, "��", {"id": "b"}]),
        (b'{"id": NaN}', ['{"id": NaN}']),
        (b"null", [None]),
        (b"{" * 5, ["{{{{{"]),
    ],
)
def test_a_body_is_an_object_an_array_or_a_line_each(raw: bytes, rows: list[object]) -> None:
    assert rows_of(raw) == rows


@pytest.mark.parametrize("raw", [b"[", b'[{"id": "a"}, {"id": "b}]', b"[\xff]", b"[" * 100_000])
def test_a_broken_array_is_refused_whole(raw: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        rows_of(raw)
    assert str(caught.value) == (
        "batch: an array that is not JSON in UTF-8. Expected [{…}, {…}], or one {…} a line. "
        "Nothing was taken: mend it and send it whole; rows that were logged before are told apart by id."
    )


# Reading back


def test_a_decision_is_found_by_either_id_and_told_without_tokens(log: FraudLog) -> None:
    async def scenario(host: Host) -> None:
        reply = (await host.decide("fraud", body("a", cardholder="Ada Lovelace", merchant="shop-1"))).body
        told = await host.decision("fraud", "a")
        assert told == await host.decision("fraud", reply["decision_id"])
        assert told.items() >= reply.items()
        assert list(told["features"]) == list(FEATURES.names)
        assert told["attributes"]["merchant"] == "shop-1"
        assert (told["event_time"], told["state_seq"], told["taken"]) == ("2024-10-04T00:00:00Z", 0, "")
        request = decode_decision(log.log.get(0).body).request
        text = msgspec.json.encode(told).decode()
        for value in ("Ada", "card-1", "192.0.2.1", *map(str, request.entities.values())):
            assert value not in text
        assert await host.replay("fraud", "a") == {"system": "fraud", "decision_id": reply["decision_id"]}

    run(log, scenario)


def test_a_decision_is_told_of_once_it_is_durable(log: FraudLog) -> None:
    held = Held(log)

    async def scenario(host: Host) -> None:
        asked = asyncio.create_task(host.decide("fraud", body("a")))
        await thread(held.arrived.wait)
        told = asyncio.create_task(host.decision("fraud", "a"))
        await asyncio.sleep(0)
        assert not told.done()
        held.free.set()
        assert (await told)["decision_id"] == (await asked).body["decision_id"]

    run(log, scenario)


def test_another_systems_decision_is_no_answer_of_ours(log: FraudLog) -> None:
    async def scenario(host: Host) -> None:
        await host.add_events("fraud", body("a", taken="block"))
        with pytest.raises(ConflictError, match="an id that was logged as a plain event before"):
            await host.decide("fraud", body("a", taken="block"))
        assert (await host.decision("fraud", "a"))["mode"] == "imported"

    run(log, scenario)


def test_what_no_decision_is_called_is_not_found(log: FraudLog) -> None:
    async def scenario(host: Host) -> None:
        await host.add_events("fraud", body("an event"))
        for id_ in ("never", "an event"):
            for call in (host.decision, host.replay):
                with pytest.raises(UnknownRecordError) as caught:
                    await call("fraud", id_)
                assert str(caught.value) == (
                    "fraud decision: an id that no decision has. Expected a decision's id, or the id of the payment it "
                    "decided. Check the id and the system."
                )

    run(log, scenario)


def test_a_system_that_is_not_served_is_named_with_those_that_are(log: FraudLog) -> None:
    async def scenario(host: Host) -> None:
        assert host.systems == ("fraud",)
        calls: list[Any] = [host.decide, host.add_events, host.add_outcomes, host.decision, host.replay]
        for call in calls:
            with pytest.raises(UnknownRecordError) as caught:
                await call("frod", b"{}")
            assert str(caught.value) == (
                "system: a system that is not served here. Expected 'fraud' (closest match), or one of: fraud. "
                "Start it with `decalog serve`."
            )

    run(log, scenario)


def test_a_bad_request_is_refused_and_logs_nothing(log: FraudLog) -> None:
    async def scenario(host: Host) -> None:
        with pytest.raises(RequestError, match="an unknown field"):
            await host.decide("fraud", body("a", ammount=1))
        assert host.log.position == 0

    run(log, scenario)


def test_the_state_says_what_decides_and_by_which_clock(log: FraudLog) -> None:
    host = Host(log.log, {"fraud": log.service}, replay=replayed, meter=Meter())
    state = host.state()
    assert state.systems == {
        "fraud": {
            "model": "m",
            "policy": "p",
            "features": FEATURES.version,
            "mode": "live",
            "problem": "",
            "rollout": "",
            "stale": "",
        }
    }
    assert (state.now, state.failed, state.position) == ("2024-10-04T00:00:00Z", "", 0)


# Refreshing


def test_a_refresh_that_fails_is_counted_and_tried_again(log: FraudLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REFRESH_S", 0.0)
    came = asyncio.Event()
    problems: list[Exception] = [
        DecalogError(where="control.sqlite", given="a lock", expected="none", fix="Wait."),
        OSError(24, "too many open files"),
        KeyError("a fault of our own"),
    ]

    async def refresh() -> None:
        if problems:
            raise problems.pop()
        log.service.adopt(
            Serving(model=None, head="p_fraud", policy=FraudPolicy(FraudCosts()), versions=Versions("m2", "p", "f", 0))
        )
        came.set()

    async def scenario(host: Host) -> None:
        await came.wait()
        assert host.state().systems["fraud"]["model"] == "m2"

    host = run(log, scenario, refresh)
    assert counted(host, "decalog_refresh_failures_total") == 3


def test_what_takes_its_time_beside_holds_up_no_other_and_what_it_stamped_is_committed(
    log: FraudLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_REFRESH_S", 0.0)
    came, ended = asyncio.Event(), asyncio.Event()

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    def stamp() -> None:
        if log.log.position == 0:
            log.service.put_table("limits", {"a": 1})
        elif log.log.durable == 1:
            came.set()

    async def scenario(_: Host) -> None:
        await came.wait()

    log.service.problem = "a champion that cannot be used"
    host = run(log, scenario, endless, stamp)
    assert ended.is_set()
    assert counted(host, "decalog_champion_problem", system="fraud") == 1


def test_services_are_named_by_their_system(log: FraudLog) -> None:
    services: dict[str, Service] = {"fraud": log.service}
    host = Host(log.log, services, replay=replayed, meter=Meter())
    services.clear()
    assert host.systems == ("fraud",)
