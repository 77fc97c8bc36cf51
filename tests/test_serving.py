"""One decision: features, model, policy, one record; every failure a recorded fallback."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.fraud_log import FEATURES, FraudLog, hours, payment

from decalog.clock import DAY, HOUR
from decalog.decisions import Versions, decode_decision, unpack_features
from decalog.errors import ConflictError, DataError, RequestError
from decalog.features.facts import Change
from decalog.judging import Judge, Serving, Underway
from decalog.models.base import Floats
from decalog.policy import Case, Verdict
from decalog.serving import described, named_features, reply
from decalog.systems.fraud.policy import FraudCosts, FraudPolicy
from decalog.systems.fraud.system import SYSTEM
from decalog.testing.stage import FAR_MS

VERSIONS = Versions("m1", "p1", FEATURES.version, 0)


class Says:
    """A model that says one value, or fails, and remembers the rows it saw."""

    blocking = False

    def __init__(self, value: float | Exception) -> None:
        self.value = value
        self.rows: list[Floats] = []

    def predict(self, rows: Floats) -> Floats:
        self.rows.append(rows)
        if isinstance(self.value, Exception):
            raise self.value
        return np.full(len(rows), self.value)

    def save(self, folder: Path) -> Mapping[str, Any]:
        return {}


def serving(model: Any, versions: Versions = VERSIONS, **changes: Any) -> Serving:
    parts: dict[str, Any] = {"head": "p_fraud", "policy": FraudPolicy(FraudCosts()), "shadow": False} | changes
    return Serving(model=model, versions=versions, **parts)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[FraudLog]:
    made = FraudLog(tmp_path)
    made.service.adopt(serving(Says(0.001)))
    yield made
    made.log.close()


def feature(decision: Any, name: str) -> float:
    return float(unpack_features(decision.candidates[0].features)[FEATURES.names.index(name)])


# What a decision is


def test_a_decision_is_one_record_that_holds_request_prediction_features_and_choice(log: FraudLog) -> None:
    record, decision, repeated = log.service.decide(msgspec.json.encode(payment("a", 0)))
    assert (log.log.position, repeated) == (1, False)
    assert decode_decision(record.body) == decision
    assert (record.kind, record.id, record.event_time) == ("decision", "a", decision.request.event_time)
    assert log.log.find("decision", decision.id) == log.log.find("request", "fraud/a") == [record.seq]
    assert (decision.mode, decision.fallback, decision.choice.action) == ("live", "", "allow")
    assert decision.candidates[0].predictions == {"p_fraud": 0.001}
    assert (decision.versions, decision.currency, decision.state_seq) == (VERSIONS, "EUR", 0)
    assert len(unpack_features(decision.candidates[0].features)) == len(FEATURES.names)
    assert set(decision.stages_us) >= {"parse", "features", "model", "policy"}


def test_the_model_sees_its_own_columns_and_the_policy_all(log: FraudLog) -> None:
    model = Says(0.001)
    seen: list[Case] = []

    class Watched(FraudPolicy):
        def decide(self, case: Case) -> Verdict:
            seen.append(case)
            return super().decide(case)

    log.service.adopt(serving(model, policy=Watched(FraudCosts())))
    decision = log.decide("a", 0)
    assert model.rows[0].shape == (1, len(FEATURES.names_for("model")))
    assert "reviews_1d" not in FEATURES.names_for("model")
    assert list(seen[0].features) == list(FEATURES.names)
    logged = dict(zip(FEATURES.names, unpack_features(decision.candidates[0].features), strict=True))
    assert model.rows[0][0].tolist() == [logged[name] for name in FEATURES.names_for("model")]
    assert 0 <= seen[0].draw("a name") == seen[0].draw("a name") < 1
    assert seen[0].draw("a name") != seen[0].draw("another")


def test_a_request_counts_itself_and_those_before_it(log: FraudLog) -> None:
    counts = [feature(log.decide(name, 0.001 * i), "card_payments_1d") for i, name in enumerate("abc")]
    log.pay("d", 0.004)
    counts.append(feature(log.decide("e", 0.005), "card_payments_1d"))
    assert counts == [1, 2, 3, 5]


def test_reviews_of_a_day_are_a_view_over_decisions_and_bound_what_follows(tmp_path: Path) -> None:
    log = FraudLog(tmp_path, policy=FraudCosts(reviews_per_day=2))
    decisions = [log.decide(f"p{i}", 0.01 * i, card=f"card-{i}", amount_minor=60_000) for i in range(3)]
    assert [decision.choice.action for decision in decisions] == ["review", "review", "block"]
    assert [feature(decision, "reviews_1d") for decision in decisions] == [0, 1, 2]
    assert decisions[2].guardrails[0].name == "review_capacity"
    assert log.decide("tomorrow", 1.5, card="card-9").choice.action == "review"
    log.log.close()


def test_another_system_may_have_acted_while_ours_stood_beside_it(log: FraudLog) -> None:
    log.service.adopt(serving(Says(0.001), shadow=True))
    decision = log.decide("a", 0, taken="block")
    assert (decision.mode, decision.choice.action, decision.acted) == ("shadow", "allow", "block")
    assert described(log.service)["mode"] == "shadow"
    log.service.adopt(serving(Says(RuntimeError("down")), shadow=True))
    fallen = log.decide("b", 0, taken="allow")
    assert (fallen.mode, fallen.fallback) == ("shadow", "model_error")


# Retries


def test_a_retry_returns_what_was_logged_even_if_the_model_is_another_now(log: FraudLog) -> None:
    record, decision, _ = log.service.decide(payment("a", 0))
    log.service.adopt(serving(Says(0.9)))
    log.clock.advance(DAY)
    again = log.service.decide(payment("a", 0))
    assert again == (record, decision, True)
    assert log.log.position == 1


def test_the_same_id_with_another_body_is_refused(log: FraudLog) -> None:
    log.decide("a", 0)
    with pytest.raises(ConflictError, match="an id that was logged before with another body"):
        log.decide("a", 0, amount_minor=1)
    assert log.log.position == 1


def test_an_id_of_a_plain_event_is_refused(log: FraudLog) -> None:
    log.pay("a", 0)
    with pytest.raises(ConflictError) as caught:
        log.decide("a", 0)
    assert str(caught.value) == (
        "fraud decide, id: an id that was logged as a plain event before. Expected an id of its own for each request. "
        "Ask for the decision before sending the event; the decision logs the request by itself."
    )


def test_a_decided_request_sent_as_an_event_is_a_duplicate(log: FraudLog) -> None:
    log.decide("a", 0)
    assert (log.pay("a", 0).status, log.log.position) == ("duplicate", 1)


def test_a_correction_is_refused_here_and_pointed_to_events(log: FraudLog) -> None:
    log.decide("a", 0)
    with pytest.raises(RequestError) as caught:
        log.decide("a2", 0, corrects="a")
    assert str(caught.value) == (
        "fraud payment, corrects: a correction sent to decide. Expected a new request. "
        "Send corrections to /events: a decision that was made stays made."
    )


# Fallbacks


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (None, "no_model"),
        (Says(RuntimeError("card-1 broke me")), "model_error"),
        (Says(MemoryError()), "model_error"),
        (Says(float("nan")), "model_not_finite"),
        (Says(float("-inf")), "model_not_finite"),
    ],
)
def test_a_model_that_cannot_say_leaves_the_declared_fallback(log: FraudLog, model: Any, reason: str) -> None:
    log.service.adopt(serving(model))
    decision = log.decide("a", 0)
    assert (decision.mode, decision.fallback, decision.choice.action) == ("fallback", reason, "review")
    assert decision.candidates[0].predictions == {}
    assert decision.candidates[0].features
    assert reason in decision.choice.reasons[0]
    assert "broke me" not in str(log.log.get(0))


def test_a_late_request_is_decided_without_features_and_says_so(log: FraudLog) -> None:
    log.pay("now", 10)
    late = hours(FEATURES.lateness_us / HOUR)
    in_time = log.service.decide(payment("in time", 10 - late))[1]
    too_late = log.service.decide(payment("too late", 10 - late - 1e-6))[1]
    assert (in_time.fallback, too_late.fallback) == ("", "late_request")
    assert (too_late.candidates[0].features, too_late.mode) == (b"", "fallback")


class Broken:
    """Views that fail when asked."""

    def __init__(self, problem: Any) -> None:
        self.problem = problem

    def vector(self, at: object) -> Floats:
        if isinstance(self.problem, Exception):
            raise self.problem
        return np.full(len(FEATURES.names), self.problem)

    def apply(self, *changes: Change) -> None:
        """Takes anything."""


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (DataError(where="view", given="a crowd", expected="fewer", fix="Raise retain."), "features_error"),
        (OverflowError("too large"), "features_error"),
        (float("inf"), "features_not_finite"),
        (float("nan"), "features_not_finite"),
    ],
)
def test_views_that_fail_leave_the_declared_fallback(log: FraudLog, problem: Any, reason: str) -> None:
    log.service.state = Broken(problem)
    decision = log.decide("a", 0)
    assert (decision.mode, decision.fallback) == ("fallback", reason)
    assert decision.candidates[0].features == b""
    assert "no prediction" in decision.choice.reasons[0]


def test_a_request_that_took_too_long_is_not_predicted(log: FraudLog, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = log.service.begin(payment("a", 0))
    assert isinstance(begun, Underway)
    begun.started_ns -= FAR_MS * 1_000_000
    log.service.predict(begun)
    assert log.service.finish(begun)[1].fallback == "deadline"


def test_a_judge_leaves_a_fallen_draft_as_it_is(log: FraudLog) -> None:
    begun = log.service.begin(payment("a", 0))
    assert isinstance(begun, Underway)
    begun.fallback = "features_error"
    model = Says(0.5)
    Judge(SYSTEM, serving(model)).predict(begun)
    assert (begun.predictions, begun.fallback, model.rows) == (None, "features_error", [])


# Adopting


def test_a_model_is_adopted_from_the_next_request_on(log: FraudLog) -> None:
    versions = msgspec.structs.replace(VERSIONS, model="m2")
    before = log.decide("a", 0)
    log.service.adopt(serving(Says(0.5), versions))
    after = log.decide("b", 0)
    assert (before.versions.model, after.versions.model) == ("m1", "m2")
    assert after.candidates[0].predictions == {"p_fraud": 0.5}
    assert described(log.service) == {
        "model": "m2",
        "policy": "p1",
        "features": FEATURES.version,
        "mode": "live",
        "problem": "",
        "rollout": "",
    }


def test_a_decision_under_way_is_finished_by_what_began_it(log: FraudLog) -> None:
    """Else a promotion while a slow model thinks would log the new model's name with the old one's prediction."""
    begun = log.service.begin(payment("a", 0))
    assert isinstance(begun, Underway)
    log.service.predict(begun)
    log.service.adopt(serving(Says(0.5), msgspec.structs.replace(VERSIONS, model="m2"), shadow=True))
    decision = log.service.finish(begun)[1]
    assert (decision.versions.model, decision.mode) == ("m1", "live")
    assert decision.candidates[0].predictions == {"p_fraud": 0.001}


# Replies


def test_a_reply_tells_the_decision_and_nothing_personal(log: FraudLog) -> None:
    record, decision, _ = log.service.decide(payment("a", 0, cardholder="Ada Lovelace", customer="cust-1"))
    told = reply(record, decision, noun="payment")
    assert (told["payment"], told["action"], told["decision_id"]) == ("a", "allow", decision.id)
    assert told["versions"] == {"model": "m1", "policy": "p1", "features": FEATURES.version, "runtime": 0}
    assert (told["seq"], told["known_time"], told["mode"]) == (0, "2024-10-04T00:00:00Z", "live")
    text = msgspec.json.encode(told).decode()
    for value in ("Ada", "cust-1", "card-1", "192.0.2.1", "device-1", str(decision.request.subject)):
        assert value not in text


def test_a_reply_to_an_imported_decision_has_no_predictions(log: FraudLog) -> None:
    row = log.pay("a", 0, taken="block")
    record = log.log.get(row.seq)
    told = reply(record, decode_decision(record.body), noun="payment")
    assert (told["predictions"], told["action"], told["mode"]) == ({}, "block", "imported")


def test_features_are_named_in_the_order_of_their_declaration(log: FraudLog) -> None:
    decision = log.decide("a", 0)
    named = named_features(log.log, decision, now=FEATURES)
    assert list(named) == list(FEATURES.names)
    assert named["card_payments_1d"] == 1
    assert named_features(log.log, msgspec.structs.replace(decision, candidates=()), now=FEATURES) == {}
