"""What another policy would have earned: exact in expectation, covered by its interval, silent where nobody knows."""

from __future__ import annotations

import itertools
import math

import msgspec
import numpy as np
import pytest

from decalog.errors import DataError
from decalog.metrics import Floats, Measurement
from decalog.statistics.offpolicy import (
    Estimator,
    Exploration,
    Logged,
    Standards,
    decisions_needed,
    drawn,
    estimate,
)

ESTIMATORS: tuple[Estimator, ...] = ("ips", "snips", "dr")


def logged(n: int = 2_000, *, seed: int = 0, explored: float = 0.3, base: float = 0.3) -> tuple[Logged, float]:
    """Four actions whose rewards lean on what they are seen with; the target takes the best of what is seen.

    Returns the rows, and what the target policy earns on average of these contexts.
    """
    rng = np.random.default_rng(seed)
    seen = rng.normal(size=(n, 4))
    chance = np.clip(base * np.exp(0.4 * seen - 0.08), 0, 1)
    greedy, best = np.argmax(seen + rng.normal(size=seen.shape), axis=1), np.argmax(seen, axis=1)
    actions = np.where(rng.random(n) < explored, rng.integers(4, size=n), greedy)
    every = np.arange(n)
    rows = Logged(
        rewards=(rng.random(n) < chance[every, actions]).astype(np.float64),
        propensities=np.where(actions == greedy, 1 - 0.75 * explored, explored / 4),
        targets=(actions == best).astype(np.float64),
        modelled=0.9 * chance[every, actions],
        expected=0.9 * chance[every, best],
        bounds=(0.0, 1.0),
    )
    return rows, float(np.mean(chance[every, best]))


def test_estimates_of_three_rows_are_those_of_the_formulas() -> None:
    rows = Logged(
        rewards=np.array([1.0, 0.0, 2.0]),
        propensities=np.array([0.5, 0.25, 0.8]),
        targets=np.array([1.0, 0.5, 0.2]),
        modelled=np.array([0.5, 1.0, 1.0]),
        expected=np.array([0.4, 0.6, 0.5]),
    )
    # Weights 2, 2 and 1/4.
    assert estimate(rows, "ips").value.value == pytest.approx((2 + 0 + 0.5) / 3)
    assert estimate(rows, "snips").value.value == pytest.approx(2.5 / 4.25)
    assert estimate(rows, "dr").value.value == pytest.approx((0.4 + 1.0 + 0.6 - 2.0 + 0.5 + 0.25) / 3)
    assert estimate(rows, "dm").value.value == pytest.approx(0.5)
    found = estimate(rows, "snips", clip=1.0)
    assert found.value.value == pytest.approx(1.5 / 2.25)
    assert found.logged.value == pytest.approx(1.0)
    assert found.lift.value == pytest.approx(1.5 / 2.25 - 1.0)
    assert found.overlap.effective == pytest.approx(2.25**2 / (1 + 1 + 1 / 16))
    assert found.overlap.clipped == pytest.approx(1 - 2.25 / 4.25)
    assert found.overlap.clipped_rows == pytest.approx(2 / 3)
    assert found.overlap.max_share == pytest.approx(1 / 2.25)
    assert found.overlap.mean_weight.value == pytest.approx(4.25 / 3)


@pytest.mark.parametrize("estimator", ["ips", "dr"])
def test_over_all_that_could_have_been_logged_the_mean_is_exactly_the_targets_value(estimator: Estimator) -> None:
    propensities = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]])
    targets = np.array([[0.0, 0.5, 0.5], [1.0, 0.0, 0.0]])
    rewards = np.array([[1.0, 4.0, -2.0], [3.0, 0.0, 7.0]])
    modelled = np.array([[9.0, 1.0, 1.0], [-5.0, 2.0, 0.0]])  # wrong throughout: dr needs no right one
    mean = 0.0
    for actions in itertools.product(range(3), repeat=2):
        at = (np.arange(2), np.array(actions))
        if not np.any(targets[at]):
            # Nothing to read; what ips and dr would say of it, by hand.
            value = float(np.mean(np.sum(targets * modelled, axis=1))) if estimator == "dr" else 0.0
        else:
            rows = Logged(
                rewards=rewards[at],
                propensities=propensities[at],
                targets=targets[at],
                modelled=modelled[at],
                expected=np.sum(targets * modelled, axis=1),
            )
            value = estimate(rows, estimator).value.value
        mean += float(np.prod(propensities[at])) * value
    assert mean == pytest.approx(float(np.mean(np.sum(targets * rewards, axis=1))))


def coverage(estimator: Estimator, truth: float, *, explored: float, base: float) -> tuple[float, float]:
    found = [estimate(logged(seed=100 + seed, explored=explored, base=base)[0], estimator) for seed in range(200)]
    hits = [one.value.low <= truth <= one.value.high for one in found]
    return float(np.mean(hits)), float(np.mean([one.is_verdict for one in found]))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_intervals_cover_what_the_target_earns(estimator: Estimator) -> None:
    _, truth = logged(400_000, seed=1)
    hits, verdicts = coverage(estimator, truth, explored=0.3, base=0.3)
    assert hits > 0.92
    assert verdicts > 0.9


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_rare_rewards_and_heavy_weights_give_wide_intervals_and_doubts_not_wrong_ones(estimator: Estimator) -> None:
    _, truth = logged(400_000, seed=1, base=0.01)
    hits, verdicts = coverage(estimator, truth, explored=0.02, base=0.01)
    assert hits > 0.92
    assert verdicts < 0.5


def test_intervals_that_are_told_of_entities_are_wider_by_what_their_rows_share() -> None:
    rows, _ = logged(500)
    single = Logged(rewards=rows.rewards, propensities=rows.propensities, targets=rows.targets)
    fourfold = Logged(
        rewards=np.repeat(rows.rewards, 4),
        propensities=np.repeat(rows.propensities, 4),
        targets=np.repeat(rows.targets, 4),
    )
    alone, once = estimate(fourfold), estimate(single)
    together = estimate(msgspec.structs.replace(fourfold, entities=np.repeat(np.arange(500), 4)))
    assert together.value.value == pytest.approx(alone.value.value)
    widths = [one.value.high - one.value.low for one in (alone, together, once)]
    assert widths[1] == pytest.approx(widths[2], rel=1e-6)
    assert widths[1] == pytest.approx(2 * widths[0], rel=0.1)  # fewer entities, heavier tails
    assert together.overlap.effective == pytest.approx(once.overlap.effective)


def test_a_good_model_sharpens_and_snips_shrugs_off_a_common_factor() -> None:
    rows, _ = logged(5_000, base=0.5)
    widths = {name: (found := estimate(rows, name).value).high - found.low for name in ESTIMATORS}
    assert widths["dr"] < widths["snips"] < widths["ips"]
    halved = msgspec.structs.replace(rows, propensities=rows.propensities / 2)
    assert estimate(halved, "snips").value.value == pytest.approx(estimate(rows, "snips").value.value)
    assert estimate(halved, "ips").value.value == pytest.approx(2 * estimate(rows, "ips").value.value)


def doubts(rows: Logged, estimator: Estimator = "snips", *, clip: float = math.inf) -> str:
    return " | ".join(estimate(rows, estimator, clip=clip).doubts)


def test_a_policy_that_is_its_own_target_earns_what_it_earned() -> None:
    rows, _ = logged(1_000)
    found = estimate(msgspec.structs.replace(rows, targets=rows.propensities))
    assert found.is_verdict
    assert found.value == found.logged
    assert (found.lift.low, found.lift.value, found.lift.high) == (0.0, 0.0, 0.0)


def test_wrong_propensities_are_doubted() -> None:
    rows, _ = logged(5_000)
    assert not doubts(rows)
    wrong = msgspec.structs.replace(rows, propensities=rows.propensities / 2)
    assert doubts(wrong).startswith("the mean weight is 1.889 (1.773 to 2.018): propensities or targets are off")


def test_what_was_never_tried_is_doubted_whether_it_was_said_or_not() -> None:
    rows, _ = logged(5_000)
    never = np.random.default_rng(0).random(5_000) < 0.2
    silent = msgspec.structs.replace(rows, targets=np.where(never, 0.0, rows.targets))
    assert "% of what the target policy would do was never tried" in doubts(silent)
    said = msgspec.structs.replace(silent, unsupported=never.astype(np.float64))
    assert "20.9 % of what the target policy would do was never tried" in doubts(said)
    assert "mean weight" not in doubts(said)


def test_few_rows_are_doubted_and_the_doubt_says_how_many_would_do() -> None:
    rows, _ = logged(60)
    text = doubts(rows)
    effective = estimate(rows).overlap.effective
    assert f"the rows weigh as much as {effective:.1f}, fewer than 50; {math.ceil(60 * 50 / effective):,} would" in text
    assert not estimate(rows, standards=Standards(effective=5.0, max_share=0.5)).doubts


def test_one_heavy_row_few_rewards_and_much_clipping_are_doubted() -> None:
    rows, _ = logged(5_000)
    heavy = msgspec.structs.replace(
        rows,
        propensities=np.where(np.arange(5_000) == 0, 1e-4, rows.propensities),
        targets=np.where(np.arange(5_000) == 0, 1.0, rows.targets),
    )
    assert "one row or entity holds" in doubts(heavy)
    rare = msgspec.structs.replace(rows, rewards=np.where(np.arange(5_000) == 7, 1.0, 0.0), targets=rows.propensities)
    assert "the spread rests on 1.0 rows or entities, fewer than 3" in doubts(rare)
    assert "clipping at 2 took" in doubts(rows, clip=2.0)


def test_the_direct_method_is_never_a_verdict() -> None:
    rows, _ = logged(5_000)
    assert doubts(rows, "dm") == "no logged reward is in it: it is as good as its model"


def test_of_slates_only_slots_that_were_drawn_tell_and_the_estimate_is_of_them() -> None:
    """Two slots a slate: the first is fixed, the second drawn; the target would change both."""
    rows, truth = logged(4_000, seed=3)
    fixed = Logged(
        rewards=np.ones(4_000),
        propensities=np.ones(4_000),
        targets=np.zeros(4_000),
        modelled=np.ones(4_000),
        expected=np.ones(4_000),
        bounds=(0.0, 1.0),
    )
    both = Logged(
        rewards=np.concatenate([fixed.rewards, rows.rewards]),
        propensities=np.concatenate([fixed.propensities, rows.propensities]),
        targets=np.concatenate([fixed.targets, rows.targets]),
        modelled=np.concatenate([fixed.modelled, rows.modelled]),
        expected=np.concatenate([fixed.expected, rows.expected]),
        entities=np.tile(np.arange(4_000), 2),
        bounds=(0.0, 1.0),
    )
    assert "was never tried" in doubts(both)
    told, share = drawn(both)
    assert share.value == 0.5
    assert told.entities.tolist() == list(range(4_000))
    for estimator in ESTIMATORS:
        found = estimate(told, estimator)
        assert found.is_verdict
        assert found.value.low < truth < found.value.high
        assert found.value.n == 4_000
    with pytest.raises(DataError, match="1 in each of 4000 rows"):
        drawn(fixed)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"rewards": np.array([0.0, 2.0, 1.0])}, "off-policy estimate, rewards: 1 of 3 values"),
        ({"propensities": np.array([0.0, 0.5, 1.0])}, "off-policy estimate, propensities: 1 of 3 values"),
        ({"propensities": np.array([1.0, 0.5, 1.5])}, "off-policy estimate, propensities: 1 of 3 values"),
        ({"targets": np.array([0.0, 0.5])}, "off-policy estimate, targets: an array of shape"),
        ({"targets": np.zeros(3)}, "a logged action that the target policy would take"),
        ({"unsupported": np.full(3, 1.5)}, "off-policy estimate, unsupported: 3 of 3 values"),
        ({"modelled": np.empty(0)}, "off-policy estimate, modelled: an array of shape"),
        ({"expected": np.array([0.0, np.nan, 1.0])}, "off-policy estimate, expected: 1 of 3 values"),
        ({"entities": np.zeros(2, np.int64)}, "off-policy estimate, entities: an array of shape"),
        ({"entities": np.zeros(3, np.int64)}, "at least two entities"),
    ],
)
def test_rows_that_cannot_be_are_told_by_column(change: dict[str, Floats], text: str) -> None:
    rows, _ = logged(3)
    right = msgspec.structs.replace(rows, targets=np.full(3, 0.5))
    assert estimate(right, "dr").value.n == 3
    with pytest.raises(DataError) as caught:
        estimate(msgspec.structs.replace(right, **change), "dr")
    assert text in str(caught.value).replace(" was given ", " ").replace("\n", " ")


def test_a_clip_of_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="clip 0"):
        estimate(logged(10)[0], clip=0.0)


def test_half_the_width_takes_four_times_the_rows() -> None:
    assert decisions_needed(Measurement(0.5, 0.4, 0.6, 1_000), 0.1) == 1_000
    assert decisions_needed(Measurement(0.5, 0.4, 0.6, 1_000), 0.05) == 4_000
    with pytest.raises(DataError, match="half-width 0"):
        decisions_needed(Measurement(0.5, 0.4, 0.6, 1_000), 0.0)


def test_the_planned_width_is_about_the_measured_one() -> None:
    """A target that disagrees with the greedy action as often as planned, on rewards of known spread."""
    rng = np.random.default_rng(21)
    n, actions, share, disagreement = 50_000, 5, 0.2, 0.4
    wants_other = rng.random(n) < disagreement
    best = np.where(wants_other, 1, 0)
    action = np.where(rng.random(n) < share, rng.integers(actions, size=n), 0)
    rows = Logged(
        rewards=rng.normal(size=n),
        propensities=np.where(action == 0, 1 - share * 0.8, share / actions),
        targets=(action == best).astype(np.float64),
    )
    found = estimate(rows).value
    plan = Exploration(actions=actions, disagreement=disagreement, deviation=1.0)
    assert (found.high - found.low) / 2 == pytest.approx(plan.half_width(n, share=share), rel=0.05)
    assert plan.decisions_needed(plan.half_width(n, share=share), share=share) == pytest.approx(n, abs=1)
    smallest = plan.share_needed(plan.half_width(n, share=share), decisions=n)
    assert smallest == pytest.approx(share, rel=1e-6)
    assert plan.share_needed(0.001, decisions=100) is None


def test_more_exploration_than_the_best_share_only_costs() -> None:
    plan = Exploration(actions=3, disagreement=0.1, deviation=1.0)
    shares = np.linspace(0.01, 1.0, 400)
    widths = [plan.half_width(1_000, share=float(share)) for share in shares]
    best = float(shares[int(np.argmin(widths))])
    assert best < 1.0
    assert plan.share_needed(min(widths) * 1.0001, decisions=1_000) == pytest.approx(best, rel=0.05)
    assert plan.share_needed(min(widths) * 0.99, decisions=1_000) is None


def test_plans_that_cannot_be_are_refused() -> None:
    plan = Exploration(actions=3, disagreement=0.1, deviation=1.0)
    with pytest.raises(DataError, match="share 0"):
        plan.half_width(10, share=0.0)
    with pytest.raises(DataError, match=r"share 1\.5"):
        plan.half_width(10, share=1.5)
    with pytest.raises(DataError, match="decisions 0"):
        plan.half_width(0, share=0.1)
    with pytest.raises(DataError, match="half-width -1"):
        plan.decisions_needed(-1.0, share=0.1)
    with pytest.raises(DataError, match="half-width 0"):
        plan.share_needed(0.0, decisions=10)
