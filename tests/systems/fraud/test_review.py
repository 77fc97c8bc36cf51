"""The analysts' queue: ranked by what looking saves, one pair of hands each, the same after a restart."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fraud_log import START, FraudLog, hours

from decalog.clock import DAY, HOUR, MINUTE
from decalog.decisions import WAITS, waiting_key
from decalog.errors import ConflictError, UnknownRecordError
from decalog.schema import ID_LENGTH
from decalog.systems.fraud.policy import FraudCosts
from decalog.systems.fraud.review import QueueFigures, ReviewQueue
from decalog.verification import verify

TWO = START + DAY + 2 * HOUR


def queue_of(log: FraudLog, days: int = 14) -> ReviewQueue:
    return ReviewQueue(log.log, log.ingest.outcome, costs=FraudCosts, days=days, lease_minutes=30)


@pytest.fixture
def log(tmp_path: Path) -> FraudLog:
    """Without a model each payment is a fallback: review, while there is capacity."""
    made = FraudLog(tmp_path)
    made.decide("small", 1, amount_minor=900)
    made.decide("large", 1 + hours(1), amount_minor=90_000)
    made.decide("middle", 1 + hours(2), amount_minor=5_000)
    return made


def test_the_most_worth_looking_at_comes_first(log: FraudLog) -> None:
    queue = queue_of(log)
    assert [case.payment for case in queue.cases("waiting")] == ["large", "middle", "small"]
    first = queue.cases()[0]
    assert (first.amount_minor, first.worth_minor, first.p_fraud) == (90_000, 90_000, None)
    assert first.since == START + DAY + 60 * MINUTE
    assert first.reasons == ("no_model: no prediction, so a person looks",)


def test_a_payment_that_an_analyst_holds_is_not_given_to_another(log: FraudLog) -> None:
    queue = queue_of(log)
    held = queue.claim("large", by="ana")
    assert (held.state, held.by, held.until) == ("claimed", "ana", held.claimed + 30 * MINUTE)
    assert [case.payment for case in queue.cases("waiting")] == ["middle", "small"]
    for act in (queue.claim, queue.release):
        with pytest.raises(ConflictError, match="a payment that another analyst holds"):
            act("large", by="bo")
    with pytest.raises(ConflictError, match="a payment that another analyst holds"):
        queue.close("large", by="bo", is_fraud=True)


def test_a_claim_ends_by_itself_and_may_be_made_longer(log: FraudLog) -> None:
    queue = queue_of(log)
    begun = queue.claim("large", by="ana")
    log.clock.set(TWO + 20 * MINUTE)
    longer = queue.claim("large", by="ana")
    assert longer.claimed == begun.claimed
    assert longer.until == begun.until + 20 * MINUTE
    log.clock.set(TWO + 50 * MINUTE)
    assert queue.case("large").state == "waiting"
    assert queue.claim("large", by="bo").by == "bo"


def test_a_payment_that_is_given_back_waits_again(log: FraudLog) -> None:
    queue = queue_of(log)
    queue.claim("large", by="ana")
    assert queue.release("large", by="ana").state == "waiting"
    assert queue.claim("large", by="bo").by == "bo"


def test_a_verdict_closes_once_and_is_an_outcome(log: FraudLog) -> None:
    queue = queue_of(log)
    queue.claim("large", by="ana")
    log.clock.set(TWO + 6 * MINUTE)
    closed = queue.close("large", by="ana", is_fraud=True)
    assert (closed.state, closed.by, closed.verdict) == ("closed", "ana", 1)
    before = log.log.position
    assert queue.close("large", by="ana", is_fraud=True) == closed
    assert log.log.position == before
    for is_fraud, by in ((False, "ana"), (True, "bo")):
        with pytest.raises(ConflictError, match="a payment that is closed"):
            queue.close("large", by=by, is_fraud=is_fraud)
    with pytest.raises(ConflictError, match="a payment that is closed"):
        queue.claim("large", by="bo")
    assert queue.figures() == QueueFigures(
        waiting=2,
        claimed=0,
        closed=1,
        oldest_s=126 * 60,
        wait_s=60 * 60,
        service_s=6 * 60,
        frauds=1,
        by={"ana": 1},
    )


def test_a_verdict_that_is_corrected_or_withdrawn_counts_as_it_stands(log: FraudLog) -> None:
    queue = queue_of(log)
    closed = queue.close("large", by="ana", is_fraud=True)
    (record,) = [r for r in log.records() if r.kind == "outcome"]
    log.report("better", "large", 2, kind="analyst_verdict", source="analyst", value=0, corrects=record.id, by="ana")
    assert (closed.verdict, queue.case("large").verdict) == (1, 0)
    log.withdraw("gone", record.id, 3)
    assert queue.case("large").state == "waiting"


def test_verdicts_from_elsewhere_close_as_well(log: FraudLog) -> None:
    log.report("v", "small", 2, kind="analyst_verdict", source="analyst", value=0)
    queue = queue_of(log)
    assert queue.case("small").state == "closed"
    assert queue.figures().service_s is None


@pytest.mark.parametrize("value", [0.5, 7])
def test_a_verdict_of_neither_0_nor_1_says_nothing(log: FraudLog, value: float) -> None:
    log.report("v", "small", 2, kind="analyst_verdict", source="analyst", value=value)
    assert (queue_of(log).case("small").state, queue_of(log).case("small").verdict) == ("waiting", None)


@pytest.mark.parametrize("minutes", [1e18, 1e300])
def test_a_claim_from_elsewhere_holds_for_a_day_at_most(log: FraudLog, minutes: float) -> None:
    log.report("c", "small", 2, kind="review_claim", source="analyst", value=minutes, by="bot")
    held = queue_of(log).case("small")
    assert (held.by, held.until) == ("bot", held.claimed + DAY)
    log._at(3)
    assert queue_of(log).case("small").state == "waiting"


def test_a_payment_with_the_longest_id_can_be_claimed_and_closed(log: FraudLog) -> None:
    name = "x" * ID_LENGTH
    log.decide(name, 2)
    queue = queue_of(log)
    assert queue.claim(name, by="ana").state == "claimed"
    assert queue.close(name, by="ana", is_fraud=True).verdict == 1


def test_the_queue_is_the_logs_and_looks_back_so_many_days(log: FraudLog) -> None:
    queue_of(log).claim("large", by="ana")
    log.log.commit()
    assert queue_of(log).case("large").by == "ana"
    log._at(15.5)
    assert [case.payment for case in queue_of(log, days=14).cases()] == []
    assert len(queue_of(log, days=15).cases()) == 3


def test_what_nobody_sent_to_review_has_no_place_in_it(tmp_path: Path) -> None:
    log = FraudLog(tmp_path, policy=FraudCosts(reviews_per_day=0))
    log.decide("small", 1, amount_minor=900)
    log.pay("plain", 1)
    queue = queue_of(log)
    assert queue.cases() == []
    for id_ in ("small", "plain", "nobody"):
        with pytest.raises(UnknownRecordError, match="a payment that was not sent to the analysts"):
            queue.case(id_)


def test_decisions_beside_another_system_wait_for_nobody(tmp_path: Path) -> None:
    log = FraudLog(tmp_path, shadow=True)
    log.decide("p", 1, taken="review")
    assert queue_of(log).cases() == []


def test_an_analyst_without_a_name_of_text_is_refused(log: FraudLog) -> None:
    with pytest.raises(ConflictError, match="a report that admission refused"):
        queue_of(log).claim("large", by="x" * 1_000_000)


def test_the_index_of_what_waits_is_checked_with_the_rest(log: FraudLog, tmp_path: Path) -> None:
    queue_of(log).claim("large", by="ana")
    log.log.commit()
    assert log.log.find(WAITS, waiting_key("fraud", (START + DAY) // DAY)) == [0, 1, 2]
    log.log.close()
    assert verify(tmp_path).sound
