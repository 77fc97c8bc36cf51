from __future__ import annotations

import math
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decalog.candidates import Candidate
from decalog.decisions import Slot
from decalog.errors import ConfigError
from decalog.events import Event
from decalog.policy import Case, Verdict, policy_version
from decalog.systems.fraud.policy import (
    ALLOW,
    BLOCK,
    BY_FRICTION,
    REVIEW,
    STEP_UP,
    FraudCosts,
    FraudPolicy,
    checked,
    expected_costs,
    in_minor,
)

COSTS = FraudCosts()


def case(p_fraud: float | None, amount: object = 10_000, reviews: float | None = 0.0) -> Case:
    attributes: dict[str, object] = {} if amount is None else {"amount_base_minor": amount}
    return Case(
        request=Event("p1", "payment", 0, 7, {"card": 7}, attributes),  # type: ignore[arg-type]  # bad amounts are tried
        candidates=(Candidate("p1", predictions={} if p_fraud is None else {"p_fraud": p_fraud}),),
        features={} if reviews is None else {"reviews_1d": reviews},
        draw=lambda name: 0.5,
    )


def plain_costs(p: Fraction, amount: int) -> dict[str, Fraction]:
    """The formulas of the module's docstring, in exact fractions."""
    c = COSTS
    loss = amount + c.chargeback_fee_minor
    margin = Fraction(amount * c.margin_bp, 10_000)
    insult = margin + c.goodwill_minor
    step_up = p * Fraction(c.step_up_frauds_pass_bp, 10_000) * loss
    step_up += (1 - p) * Fraction(c.step_up_gives_up_bp, 10_000) * margin
    review = p * Fraction(c.review_misses_bp, 10_000) * loss
    review += (1 - p) * Fraction(c.review_refuses_bp, 10_000) * insult
    return {
        ALLOW: p * loss,
        STEP_UP: c.step_up_fee_minor + step_up,
        REVIEW: Fraction(c.review_minutes * c.analyst_hour_minor, 60) + review,
        BLOCK: (1 - p) * insult,
    }


@given(st.integers(0, 10**9), st.integers(0, 10**12))
def test_costs_are_the_formulas_exactly(p_ppb: int, amount: int) -> None:
    costs = expected_costs(COSTS, p_ppb / 1e9, amount_minor=amount)
    plain = plain_costs(Fraction(p_ppb, 10**9), amount)
    assert {action: Fraction(cost, 10**17) for action, cost in costs.items()} == plain


@given(st.floats(0, 1), st.integers(0, 10**7))
def test_the_cheapest_action_is_chosen_and_its_cost_logged(p_fraud: float, amount: int) -> None:
    verdict = FraudPolicy(COSTS).decide(case(p_fraud, amount))
    costs = expected_costs(COSTS, p_fraud, amount_minor=amount)
    assert costs[verdict.choice.action] == min(costs.values())
    assert verdict.expected_minor == -in_minor(min(costs.values()))
    assert verdict.choice.slots[0].propensity == 1.0
    assert verdict.guardrails == ()


def test_blocking_beats_allowing_beyond_the_threshold_of_the_amount() -> None:
    amount = 10_000
    insult = Fraction(amount * COSTS.margin_bp, 10_000) + COSTS.goodwill_minor
    threshold = insult / (insult + amount + COSTS.chargeback_fee_minor)
    for step, blocks in ((-1e-6, False), (1e-6, True)):
        costs = expected_costs(COSTS, float(threshold) + step, amount_minor=amount)
        assert (costs[BLOCK] < costs[ALLOW]) is blocks


def test_each_action_has_its_place() -> None:
    policy = FraudPolicy(COSTS)
    chosen = [policy.decide(case(p, amount)).choice.action for p, amount in _PLACES]
    assert chosen == [ALLOW, STEP_UP, REVIEW, BLOCK]


_PLACES = ((0.0005, 3_000), (0.05, 10_000), (0.08, 300_000), (0.97, 3_000))


def test_equal_costs_choose_the_gentler_action() -> None:
    free = FraudCosts(margin_bp=0, goodwill_minor=0, chargeback_fee_minor=0, review_minutes=0, step_up_fee_minor=0)
    assert FraudPolicy(free).decide(case(0.5, 0)).choice.action == BY_FRICTION[0]


def test_review_stops_at_the_analysts_capacity_and_says_so() -> None:
    policy = FraudPolicy(COSTS)
    last = policy.decide(case(0.08, 300_000, reviews=39.0))
    beyond = policy.decide(case(0.08, 300_000, reviews=40.0))
    assert last.choice.action == REVIEW
    assert beyond.choice.action == STEP_UP
    (guardrail,) = beyond.guardrails
    assert (guardrail.name, guardrail.before, guardrail.after) == ("review_capacity", REVIEW, STEP_UP)
    assert guardrail.why == "40 reviews in the last 24 h, capacity 40"
    assert "review_capacity: 40 reviews in the last 24 h, capacity 40" in beyond.choice.reasons
    assert beyond.expected_minor == -in_minor(expected_costs(COSTS, 0.08, amount_minor=300_000)[STEP_UP])


@pytest.mark.parametrize("p_fraud", [None, math.nan, -0.1, 1.5, math.inf])
def test_without_a_usable_prediction_a_person_looks(p_fraud: float | None) -> None:
    verdict = FraudPolicy(COSTS).decide(case(p_fraud))
    assert verdict.choice.action == REVIEW
    assert verdict.choice.reasons == ("no_prediction: no prediction, so a person looks",)


def test_without_any_candidate_the_policy_falls_back() -> None:
    empty = msgspec.structs.replace(case(0.5), candidates=())
    assert FraudPolicy(COSTS).decide(empty).choice.reasons[0].startswith("no_prediction")


@pytest.mark.parametrize("amount", [None, True, -5, 12.5, "12"])
def test_without_a_usable_amount_the_policy_falls_back(amount: object) -> None:
    verdict = FraudPolicy(COSTS).decide(case(0.5, amount, reviews=99.0))
    assert verdict.choice.action == BLOCK
    assert verdict.choice.reasons[0].startswith("no_amount: no prediction; 99 reviews")


@pytest.mark.parametrize(("amount", "action"), [(50_000, ALLOW), (50_001, BLOCK), (None, BLOCK)])
def test_fall_back_beyond_capacity_goes_by_the_amount(amount: int | None, action: str) -> None:
    verdict = FraudPolicy(COSTS).fall_back(case(0.001, amount, reviews=40.0), "model_timeout")
    assert verdict.choice.action == action
    assert verdict.guardrails[0].after == action
    assert verdict.choice.reasons[0].startswith("model_timeout: no prediction; 40 reviews in the last 24 h")


def test_unknown_load_counts_as_no_capacity() -> None:
    verdict = FraudPolicy(COSTS).fall_back(case(None, 100, reviews=None), "features_error")
    assert verdict.choice.action == ALLOW
    assert verdict.guardrails[0].why == "an unknown number of reviews in the last 24 h, capacity 40"


def test_the_cost_in_hindsight_is_the_formula_at_certainty() -> None:
    policy = FraudPolicy(COSTS)
    costs = [policy.cost_minor(a, label=y, amount_minor=10_000) for y in (0.0, 1.0) for a in BY_FRICTION]
    assert costs == [0, 5 + 64, 200 + 39, 1_300, 11_500, 5 + 920, 200 + 1_150, 0]


def test_costs_are_rounded_half_to_even_once() -> None:
    half = 10**17 // 2
    assert [in_minor(half), in_minor(3 * half), in_minor(3 * half + 1), in_minor(half - 1)] == [0, 2, 2, 0]


def test_wrong_parameters_are_all_named() -> None:
    wrong = FraudCosts(margin_bp=10_001, goodwill_minor=-1)
    with pytest.raises(ConfigError) as caught:
        FraudPolicy(wrong)
    assert str(caught.value) == (
        "fraud policy: margin_bp: Expected `int` <= 10000; goodwill_minor: Expected `int` >= 0. "
        "Expected money in minor units ≥ 0, shares in hundredths of a percent (0 to 10000), whole numbers. "
        "See decalog.systems.fraud.policy.FraudCosts for what each means."
    )
    assert checked(COSTS) is COSTS


def test_a_version_names_the_parameters() -> None:
    assert policy_version(COSTS) == policy_version(FraudCosts())
    assert policy_version(COSTS) != policy_version(FraudCosts(margin_bp=801))


def explored(policy: FraudPolicy, amount: int = 4_000, *, used: float | None = 0.0, draw: float = 0.0) -> Verdict:
    asked = case(0.9999, amount)
    features = {**asked.features, **({} if used is None else {"explored_amount_1d": used})}
    return policy.decide(msgspec.structs.replace(asked, features=features, draw=lambda name: draw))


def test_a_drawn_block_is_let_through_and_both_say_how_likely_they_were() -> None:
    policy = FraudPolicy(FraudCosts(explore_bp=200))
    let_through, stopped = explored(policy, draw=0.0199), explored(policy, draw=0.02)
    assert let_through.choice.slots == (Slot(ALLOW, propensity=0.02),)
    assert let_through.choice.reasons[-1] == (
        "explored: a block let through with probability 0.02; 0 of 20000 minor units used in 24 h"
    )
    assert let_through.expected_minor == -in_minor(expected_costs(COSTS, 0.9999, amount_minor=4_000)[ALLOW])
    assert stopped.choice.slots == (Slot(BLOCK, propensity=0.98),)


@pytest.mark.parametrize(
    ("amount", "used"),
    [(5_001, 0.0), (4_000, 16_001.0), (4_000, None), (4_000, -1.0), (4_000, math.nan)],
    ids=["above the amount", "over the budget", "budget not known", "budget missing", "budget not a number"],
)
def test_outside_its_range_nothing_is_drawn(amount: int, used: float | None) -> None:
    assert explored(FraudPolicy(COSTS), amount, used=used).choice.slots == (Slot(BLOCK),)


def test_the_last_of_the_budget_may_be_used() -> None:
    assert explored(FraudPolicy(COSTS), 4_000, used=16_000.0).choice.action == ALLOW
    assert explored(FraudPolicy(COSTS), 5_000, used=15_000.0).choice.action == ALLOW


def test_the_greedy_policy_draws_nothing_and_is_of_the_same_kind() -> None:
    class Own(FraudPolicy):
        pass

    greedy = Own(FraudCosts(margin_bp=700)).greedy
    assert type(greedy) is Own
    assert greedy.params == FraudCosts(margin_bp=700, explore_bp=0)
    assert explored(greedy).choice.slots == (Slot(BLOCK),)


def test_only_blocks_are_explored() -> None:
    drawn = msgspec.structs.replace(case(0.5, 4_000), features={"reviews_1d": 0.0, "explored_amount_1d": 0.0})
    assert FraudPolicy(COSTS).decide(drawn).choice.slots == (Slot(STEP_UP),)
