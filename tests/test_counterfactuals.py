"""What would have changed a decision: bands of predictions to the last bit, and facts that flip it for real."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.fraud_log import START, hours, payment
from tests.homes import add_model

from decalog.clock import DAY, ManualClock
from decalog.counterfactuals import PROBABILITIES, Band, bands
from decalog.decisions import Decision, unpack_features
from decalog.deployment import Deployment, Setup
from decalog.explaining import Explainer, Explanation
from decalog.features.definition import Aggregate, Condition, FeatureSet, Lookup
from decalog.home import Home
from decalog.models.linear import Logistic
from decalog.otherwise import Facts, Usual
from decalog.serving import Service
from decalog.statistics.drift import categories, numbers
from decalog.systems.fraud.policy import FraudCosts
from decalog.systems.fraud.system import SYSTEM

NAMES = SYSTEM.features.names_for("model")
BOTH = ("card_payments_1h", "ip_payments_1h")


def logistic(intercept: float, **weights: float) -> Logistic:
    """Returns a model whose log odds are the intercept and so much for each unit of some features."""
    told = tuple(weights.get(name, 0.0) for name in NAMES)
    scales = tuple(float(bool(weight)) for weight in told)
    return Logistic((0.0,) * len(NAMES), scales, told, intercept)


class Shop:
    """A home at work, whose payments all cost the same."""

    def __init__(self, deployment: Deployment, clock: ManualClock) -> None:
        self.deployment, self.clock = deployment, clock
        self.service: Service = deployment.service()

    def decide(self, name: str, hour: float = 0.0, **fields: Any) -> Decision:
        """Decides a payment, so many hours after the start."""
        self.clock.set(START + int(hours(hour) * DAY))
        made = self.service.decide(payment(name, hours(hour), **fields))[1]
        self.deployment.log.commit()
        return made

    def pay(self, count: int, *, card: str, hour: float = 0.0, **fields: Any) -> Decision:
        """Decides so many payments of a card within an hour and returns the last decision."""
        return [self.decide(f"{card}-{hour}-{n}", hour + n / 1e3, card=card, **fields) for n in range(count)][-1]

    def explain(self, id_: str) -> Explanation:
        return Explainer(self.deployment).explain(id_)


@contextmanager
def shop(root: Path, model: Any, costs: FraudCosts | None = None) -> Iterator[Shop]:
    if model is not None:
        add_model(root, model)
    clock = ManualClock(START)
    log = Home(root).writer(clock)
    try:
        yield Shop(Deployment(Home(root), SYSTEM, log, Setup(policy=costs)), clock)
    finally:
        log.close()


# In score


def test_bands_end_where_the_action_does_whatever_lies_between_two_looks() -> None:
    edges = {"allow": 0.0, "review": 0.005, "allow again": 0.2, "block": 0.2000001, "hold": 0.3}

    def act(p: float) -> str:
        return [name for name, since in edges.items() if p >= since][-1]

    found = bands(act, PROBABILITIES)
    assert [band.action for band in found] == list(edges)
    assert [band.since for band in found] == list(edges.values())
    assert [band.until for band in found] == [*list(edges.values())[1:], 1.0]
    assert bands(lambda _: "block", PROBABILITIES) == (Band(0.0, 1.0, "block"),)


def test_the_bands_of_a_payment_are_those_of_its_costs(tmp_path: Path) -> None:
    """Equal costs: p (A + F), fee + 0.08 p (A + F) + 0.08 (1 − p) M, (1 − p)(M + G); A 1000, F 1500, M 80, G 500."""
    with shop(tmp_path, logistic(-9.0)) as made:
        decided = made.decide("p-1")
        found = made.explain("p-1").bands["p_fraud"]
    step_up = (5 + 6.4) / (2_500 * 0.92 + 6.4)
    block = (580 - 5 - 6.4) / (580 + 2_500 * 0.08 - 6.4)
    assert decided.choice.action == "allow"
    assert [band.action for band in found] == ["allow", "step_up", "block"]
    assert [band.until for band in found] == pytest.approx([step_up, block, 1.0], abs=1e-9)


# In facts


def test_the_nearest_fact_of_a_linear_model_is_the_one_at_its_boundary(tmp_path: Path) -> None:
    """Log odds −9 + payments in 1 h: 3 are allowed, 4 to 9 are not, since the boundary lies at 3.695."""
    with shop(tmp_path, logistic(-9.0, card_payments_1h=1.0)) as made:
        made.pay(9, card="busy", device="d", ip="192.0.2.9")
        decided = made.pay(6, card="mine", hour=2.0)
        told = made.explain(decided.id)
        assert decided.choice.action == "step_up"
        (because,) = told.explanation
        assert (because.feature, because.log_odds) == ("card_payments_1h", 6.0)
        (flip,) = told.would_change
        meaning = "payments of the card in 1h, this one included"
        assert flip.text() == f"allow: {meaning}: 3 payments or less instead of 6 payments"
        assert flip.predictions["p_fraud"] == pytest.approx(1 / (1 + math.exp(6)))
        assert 0.0 < flip.distance < 1.0
        # What is said is what happens: with three payments in the hour it is allowed, with four it is not.
        assert made.pay(3, card="fewer", hour=4.0).choice.action == "allow"
        assert made.pay(4, card="more", hour=6.0).choice.action == "step_up"


def test_every_flip_comes_out_of_the_model_and_policy_that_decided(tmp_path: Path) -> None:
    model = logistic(-9.0, card_payments_1h=1.0, card_payments_1d=0.3, amount=1e-4)
    with shop(tmp_path, model) as made:
        for n in range(1, 6):
            made.pay(n, card=f"c-{n}", hour=float(n), amount_minor=n * 20_000)
        decided = made.pay(4, card="mine", hour=9.0)
        told = made.explain(decided.id)
        assert decided.choice.action == "step_up"
        assert {flip.facts[0].fact for flip in told.would_change} >= {"card_payments_1h", "amount_base_minor"}
        again = made.deployment.replayer().again(decided.id)
        facts, start = Facts(again.system), (unpack_features(decided.candidates[0].features), decided.request)
        for flip in told.would_change:
            value = float(flip.facts[0].instead.split()[0].replace(",", ""))
            name = flip.facts[0].fact
            row, request = facts.changed(start, name if name in NAMES else f"request.{name}", value=value)
            draft = msgspec.structs.replace(again.draft, event=request, features=row[None], predictions=None)
            again.judge.predict(draft)
            verdict, _ = again.judge.choose(draft, decided.id, draw_secret=made.deployment.log.vault.secret("draws"))
            assert verdict.choice.action == flip.action != decided.choice.action
            assert draft.predictions is not None
            assert draft.predictions[0, 0] == flip.predictions["p_fraud"]


def test_where_no_single_fact_would_do_two_are_told(tmp_path: Path) -> None:
    with shop(tmp_path, logistic(-10.3, **dict.fromkeys(BOTH, 1.4))) as made:
        for n in range(1, 4):
            made.pay(n, card=f"c-{n}", ip=f"192.0.2.{n}0", hour=float(n))
        decided = made.pay(3, card="mine", ip="192.0.2.9", hour=9.0)
        told = made.explain(decided.id)
        assert decided.choice.action == "step_up"
        (flip,) = told.would_change
        assert {fact.fact for fact in flip.facts} == set(BOTH)
        assert (flip.action, told.nothing_else) == ("allow", "no single fact would have changed it")
        assert " and " in flip.text()
        assert flip.text() in told.text()


def test_where_two_do_not_do_either_that_is_said(tmp_path: Path) -> None:
    names = (*BOTH, "device_payments_1h")
    with shop(tmp_path, logistic(-9.2, **dict.fromkeys(names, 0.8))) as made:
        made.pay(1, card="c-1", ip="192.0.2.10", device="d-1")
        decided = made.pay(3, card="mine", ip="192.0.2.9", device="d", hour=9.0)
        told = made.explain(decided.id)
        assert (decided.choice.action, told.would_change) == ("step_up", ())
        assert told.nothing_else == "no single fact would have changed it, nor two that were tried"


# What changes with a fact


@pytest.fixture
def facts() -> Facts:
    return Facts(SYSTEM)


def start_of(root: Path) -> Any:
    with shop(root, None) as made:
        decided = made.pay(5, card="mine", channel="moto", card_country="DE", ip_country="FR", mcc="5411")
    return unpack_features(decided.candidates[0].features), decided.request


def at(row: Any, name: str) -> float:
    return float(row[SYSTEM.features.names.index(name)])


def test_shorter_and_longer_windows_of_the_same_follow(facts: Facts, tmp_path: Path) -> None:
    start = start_of(tmp_path)
    fewer, _ = facts.changed(start, "card_payments_1h", value=2.0)
    for name in ("card_payments_60s", "card_payments_10m", "card_payments_1h"):
        assert (at(start[0], name), at(fewer, name)) == (5.0, 2.0)
    assert (at(fewer, "card_payments_1d"), at(fewer, "ip_payments_1h")) == (5.0, 5.0)
    more, _ = facts.changed(start, "card_payments_1h", value=9.0)
    assert (at(more, "card_payments_10m"), at(more, "card_payments_30d"), at(more, "card_payments_1h")) == (
        5.0,
        9.0,
        9.0,
    )
    assert at(start[0], "card_payments_1h") == 5.0  # the logged row stays


def test_all_that_is_computed_of_a_value_follows(facts: Facts, tmp_path: Path) -> None:
    row, request = start = start_of(tmp_path)
    dear, paid = facts.changed(start, "request.amount_base_minor", value=4_000.0)
    assert (paid.attributes["amount_base_minor"], paid.attributes["amount_minor"]) == (4_000, 4_000)
    assert type(paid.attributes["amount_base_minor"]) is int
    assert at(dear, "amount") == 4_000.0
    assert at(dear, "card_amount_1h") - at(row, "card_amount_1h") == 3_000.0
    assert at(dear, "card_mean_amount_30d") == at(row, "card_mean_amount_30d") == 1_000.0
    assert at(dear, "amount_over_card_mean") == 4.0
    home, asked = facts.changed(start, "request.ip_country", value="DE")
    assert (at(row, "same_card_ip"), at(home, "same_card_ip")) == (0.0, 1.0)
    assert asked.attributes["ip_country"] == "DE"
    assert request.attributes["ip_country"] == "FR"


def test_nobody_is_told_to_be_another_nor_what_was_declared_fixed(facts: Facts, tmp_path: Path) -> None:
    _, request = start_of(tmp_path)
    names = facts.names(request)
    assert {"request.channel", "request.card_country", "request.amount_base_minor", "card_payments_1h"} <= set(names)
    gone = ("request.merchant", "request.mcc", "request.amount_minor", "request.currency", "request.cardholder")
    assert not set(names) & {*gone, "hour_utc", "card_lists", "reviews_1d", "customer_payments_1h", "email_payments_1h"}
    fixed = msgspec.structs.replace(SYSTEM, fixed=("channel", "card_payments_1h"))
    assert not set(Facts(fixed).names(request)) & {"request.channel", "card_payments_1h"}


def test_a_value_is_left_alone_where_a_window_depends_on_it_otherwise(tmp_path: Path) -> None:
    def set_of(feature: Aggregate | Lookup) -> list[str]:
        features = FeatureSet(system="fraud", lateness="1d", features=(feature,))
        return Facts(msgspec.structs.replace(SYSTEM, features=features)).names(request)

    _, request = start_of(tmp_path)
    count = Aggregate(name="n", meaning="n", unit="1", entity="card", aggregate="count", over=("payment",), window="1h")
    largest = msgspec.structs.replace(count, aggregate="max", column="amount_base_minor")
    online = msgspec.structs.replace(count, where=(Condition("channel", "==", "moto"),))
    risk = Lookup(name="risk", meaning="risk", unit="1", table="risk", key="channel")
    assert {"request.amount_base_minor", "request.channel"} <= set(set_of(count))
    assert "request.amount_base_minor" not in set_of(largest)
    assert "request.amount_base_minor" in set_of(msgspec.structs.replace(largest, own=False))
    assert "request.channel" not in set_of(online)
    assert "request.channel" not in set_of(risk)


@pytest.mark.parametrize(
    ("name", "value", "is_possible"),
    [
        ("card_payments_1h", 1.0, True),
        ("card_payments_1h", 0.0, False),  # this payment is one
        ("card_payments_1h", -2.0, False),  # crowded
        ("card_amount_1h", 999.0, False),  # it costs 1,000
        ("card_amount_1h", 1_000.0, True),
        ("card_merchants_1d", 0.0, False),
        ("card_since_last_s", -1.0, False),  # missing
        ("card_since_last_s", 0.0, True),
        ("request.channel", "pos", True),
    ],
)
def test_no_value_is_tried_that_cannot_be(
    facts: Facts, tmp_path: Path, name: str, value: float | str, is_possible: bool
) -> None:
    _, request = start_of(tmp_path)
    assert facts.is_possible(value, of=name, request=request) is is_possible


def test_distance_is_the_share_of_others_between() -> None:
    values = np.repeat([1.0, 2.0, 3.0, 9.0], [50, 30, 15, 5])
    usual = Usual(grid := numbers("n", values), grid.count(values).tolist())
    assert usual.values == [1.0, 2.0, 3.0, 9.0]
    assert usual.distance(1.0, 2.0) == pytest.approx(0.4)
    assert usual.distance(9.0, 1.0) == pytest.approx(0.725)
    assert usual.distance(2.0, 2.0) == 0.0
    seen = ["ecom"] * 30 + ["pos"] * 10
    kinds = Usual(words := categories("channel", seen), words.count(seen).tolist())
    assert kinds.values == ["ecom", "pos"]
    assert kinds.distance("pos", "ecom") == pytest.approx(0.25)
    assert kinds.distance("ecom", "never seen") == 1.0
