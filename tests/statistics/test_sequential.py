"""Tests that may be looked at after every row: seldom wrong over all looks, and quick where something is wrong."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import pytest
from scipy import integrate, stats

from decalog.errors import DataError
from decalog.metrics import Floats
from decalog.statistics.sequential import (
    Arms,
    Look,
    Moments,
    bounded_effect,
    bounded_mean,
    difference,
    moments,
    sample_ratio,
)

ALPHA = 0.05
Draw = Callable[[np.random.Generator, int], Floats]


def too_many(paths: int) -> int:
    """Returns how many false alarms a test of level ALPHA has on so many paths once in ten thousand times, at most."""
    return int(stats.binom.isf(1e-4, paths, ALPHA))


def told(values: Floats, looks: range) -> list[Moments]:
    sums, squares = np.cumsum(values), np.cumsum(values**2)
    return [Moments(n, sums[n - 1] / n, squares[n - 1] - sums[n - 1] ** 2 / n) for n in looks]


def rare(rng: np.random.Generator, n: int) -> Floats:
    return (rng.random(n) < 0.05).astype(np.float64)


def skewed(rng: np.random.Generator, n: int) -> Floats:
    return rng.lognormal(sigma=1.0, size=n)


# ---- two arms, asymptotic ----


def test_moments_are_numpys_and_those_of_parts_are_those_of_the_whole() -> None:
    rows = np.random.default_rng(0).normal(1e6, 2, size=50)
    whole = moments(rows)
    assert whole.n == 50
    assert whole.mean == pytest.approx(rows.mean())
    assert whole.variance == pytest.approx(rows.var(ddof=1))
    parts = moments(rows[:7]).merged(moments(rows[7:8])).merged(Moments()).merged(moments(rows[8:]))
    assert (parts.n, parts.mean, parts.squares) == pytest.approx((50, whole.mean, whole.squares))
    assert Moments().merged(Moments()) == Moments()
    assert moments([3.0]).variance == 0.0


def look(control: Floats, treatment: Floats, **more: float) -> Look:
    return difference([Arms(moments(control), moments(treatment))], **more)


def test_the_evidence_is_the_mixture_that_it_is_said_to_be() -> None:
    rng = np.random.default_rng(1)
    control, treatment = rng.normal(size=900), rng.normal(0.1, 1, size=300)
    found = look(control, treatment, best_at=400)
    clock = 900 * 300 / 1200
    pooled = float(control.var() * 900 + treatment.var() * 300) / 1198
    square = max(float(control.var(ddof=1)), pooled) / 900 + max(float(treatment.var(ddof=1)), pooled) / 300
    z = float(treatment.mean() - control.mean()) / math.sqrt(square)
    spread = math.sqrt((-2 * math.log(ALPHA) + math.log(1 - 2 * math.log(ALPHA))) / 400)

    def density(slope: float) -> float:
        ratio = math.exp(slope * z * math.sqrt(clock) - slope**2 * clock / 2)
        return ratio * float(stats.norm.pdf(slope, scale=spread))

    mixture = integrate.quad(density, -2, 2)[0]
    assert found.evidence == pytest.approx(math.log(mixture), rel=1e-6)
    assert found.p_value == pytest.approx(min(1.0, 1 / mixture), rel=1e-6)


def test_a_difference_is_outside_the_interval_exactly_when_the_evidence_refutes_it() -> None:
    rng = np.random.default_rng(2)
    control, treatment = rng.normal(size=900), rng.normal(0.1, 1, size=300)
    effect = look(control, treatment).effect
    assert effect.n == 1200
    for bound in (effect.low, effect.high):
        assert look(control, treatment - bound).evidence == pytest.approx(math.log(1 / ALPHA))


def test_the_interval_is_narrowest_where_it_was_asked_to_be() -> None:
    rng = np.random.default_rng(3)
    control, treatment = rng.normal(size=10_000), rng.normal(size=10_000)  # a clock of 5,000
    widths = {
        at: (found := look(control, treatment, best_at=at).effect).high - found.low for at in (500, 5_000, 50_000)
    }
    assert widths[5_000] < min(widths[500], widths[50_000])


def peeked(draw: Draw, *, paths: int, shift: float = 0.0, treated: float = 0.5) -> tuple[int, int]:
    """Returns how many of the paths ever alarm over a hundred looks: this test, and the usual z-test."""
    alarms, usual = 0, 0
    for seed in range(paths):
        rng = np.random.default_rng(seed)
        step = int(100 / treated)
        control = told(draw(rng, 100 * (step - 100)), range(step - 100, 100 * (step - 100) + 1, step - 100))
        treatment = told(draw(rng, 10_000) + shift, range(100, 10_001, 100))
        looks = [difference([Arms(*arms)]) for arms in zip(control, treatment, strict=True)]
        alarms += any(not one.effect.low <= 0 <= one.effect.high for one in looks)
        usual += any(
            abs(one.mean - other.mean) > 1.96 * math.sqrt(one.variance / one.n + other.variance / other.n)
            for one, other in zip(control, treatment, strict=True)
        )
    return alarms, usual


@pytest.mark.parametrize(("draw", "treated"), [(rare, 0.5), (skewed, 0.5), (rare, 0.05)])
def test_a_hundred_looks_at_nothing_alarm_seldom_where_the_usual_test_alarms_often(draw: Draw, treated: float) -> None:
    alarms, usual = peeked(draw, paths=200, treated=treated)
    assert alarms <= too_many(200)
    assert usual > 2 * too_many(200)


def test_a_shift_is_found() -> None:
    alarms, _ = peeked(rare, paths=60, shift=0.015)
    assert alarms > 50


def test_a_trend_while_the_share_grows_is_no_effect_once_each_share_is_a_phase() -> None:
    rng = np.random.default_rng(4)
    phases = [
        Arms(moments(rng.normal(level, 1, size=n)), moments(rng.normal(level, 1, size=m)))
        for level, n, m in ((1.0, 9_500, 500), (0.5, 5_000, 5_000))
    ]
    mixed = Arms(phases[0].control.merged(phases[1].control), phases[0].treatment.merged(phases[1].treatment))
    wrong, right = difference([mixed]), difference(phases)
    assert wrong.effect.high < -0.1
    assert right.effect.low < 0 < right.effect.high
    clocks = np.array([9_500 * 500 / 10_000, 2_500])
    gaps = np.array([arms.treatment.mean - arms.control.mean for arms in phases])
    assert right.effect.value == pytest.approx(float(clocks @ gaps / clocks.sum()))


def test_a_small_arm_that_saw_no_rare_reward_yet_is_no_alarm() -> None:
    control = np.zeros(100_000)
    control[:500] = 1.0
    found = look(control, np.zeros(100))
    assert found.effect.low < 0 < found.effect.high
    assert Arms(moments(np.zeros(2)), Moments()).information == Arms(Moments(), Moments()).information == 0.0


def test_rewards_that_never_vary_are_no_evidence() -> None:
    assert look(np.ones(200), np.ones(200)).p_value == 1.0


def test_what_cannot_be_tested_is_told() -> None:
    few, many = np.arange(99.0), np.arange(200.0)
    with pytest.raises(DataError, match="99 treated rows and 200 others"):
        look(many, few)
    with pytest.raises(DataError, match="alpha 0"):
        look(many, many, alpha=0.0)
    with pytest.raises(DataError, match=re.escape("best_at -1")):
        look(many, many, best_at=-1)


# ---- within bounds, exact ----


def test_a_bounded_mean_and_effect_are_within_their_intervals_from_the_first_row_on() -> None:
    for values in ([0.0], [3.0], [0.0, 3.0]):
        found = bounded_mean(values, bounds=(-1.0, 3.0))
        assert -1.0 <= found.low <= found.value <= found.high <= 3.0
    assert bounded_mean([3.0], bounds=(-1.0, 3.0)).low < -0.5
    found = bounded_effect([2.0], [1.0], shares=0.5, bounds=(0.0, 2.0))
    assert (found.low, found.high, found.n) == (-2.0, 2.0, 1)


def wealth(values: list[float], told: list[float], farthest: list[float], *, strays: list[float], at: float) -> float:
    """Returns ln of what betting on a mean above `at` has made of 1, row by row, with what was known before each."""
    made, known, squares = 0.0, 0.0, 0.25
    for place, (value, weight, far, stray) in enumerate(zip(values, told, farthest, strays, strict=True), 1):
        known += weight
        bet = weight * math.sqrt(2 * math.log(2 / ALPHA) / (squares / place * known * math.log(1 + place)))
        made += math.log(1 + min(bet, 0.5 / (far + 1)) * (value - at))
        squares += stray**2 * weight
    return made


def test_bounds_are_where_a_bettor_who_looks_only_back_has_made_two_over_alpha() -> None:
    rng = np.random.default_rng(8)
    values = [round(value, 3) for value in rng.beta(0.5, 0.5, size=400).tolist()]
    before = [(0.5 + sum(values[:n])) / (n + 1) for n in range(400)]
    ones, strays = [1.0] * 400, [value - mean for value, mean in zip(values, before, strict=True)]
    mean = bounded_mean(values, bounds=(0.0, 1.0))
    assert wealth(values, ones, ones, strays=strays, at=mean.low) == pytest.approx(math.log(2 / ALPHA))
    flipped = [-value for value in values]
    assert wealth(flipped, ones, ones, strays=strays, at=-mean.high) == pytest.approx(math.log(2 / ALPHA))
    shares = [0.3, 0.6] * 200
    arms = [float(draw < share) for draw, share in zip(rng.random(400), shares, strict=True)]
    rows = list(zip(values, before, arms, shares, strict=True))
    contrasts = [(arm / share - (1 - arm) / (1 - share)) * (value - mean) for value, mean, arm, share in rows]
    told = [share * (1 - share) for share in shares]
    farthest = [1 / min(share, 1 - share) for share in shares]
    found = bounded_effect(values, arms, shares=shares, bounds=(0.0, 1.0))
    assert -1 < found.low < found.high < 1
    assert wealth(contrasts, told, farthest, strays=contrasts, at=found.low) == pytest.approx(math.log(2 / ALPHA))


def test_intervals_of_bounded_rewards_hold_at_all_looks_and_close_in() -> None:
    missed, widths = [0, 0], []
    looks = (1, 3, 10, 30, 100, 200, 400, 600, 800, 1_000)
    for seed in range(200):
        rng = np.random.default_rng(seed)
        treated = (rng.random(1_000) < 0.2).astype(np.float64)
        values = (rng.random(1_000) < 0.02 + 0.08 * treated).astype(np.float64)
        means = [bounded_mean(values[:n], bounds=(0.0, 1.0)) for n in looks]
        effects = [bounded_effect(values[:n], treated[:n], shares=0.2, bounds=(0.0, 1.0)) for n in looks]
        missed[0] += any(not one.low <= 0.036 <= one.high for one in means)
        missed[1] += any(not one.low <= 0.08 <= one.high for one in effects)
        widths.append(effects[-1].high - effects[-1].low)
    assert max(missed) <= too_many(200)
    assert np.mean(widths) < 0.3


def test_a_rare_harm_is_found_and_a_ramp_of_shares_counts_each_row_by_its_own() -> None:
    rng = np.random.default_rng(6)
    shares = np.repeat([0.01, 0.1, 0.5], 10_000)
    treated = (rng.random(30_000) < shares).astype(np.float64)
    values = (rng.random(30_000) < np.where(treated > 0, 0.03, 0.01)).astype(np.float64)
    ramp = bounded_effect(values, treated, shares=shares, bounds=(0.0, 1.0))
    assert 0.0 < ramp.low < 0.02 < ramp.high < 0.05
    last = bounded_effect(values[20_000:], treated[20_000:], shares=0.5, bounds=(0.0, 1.0))
    assert ramp.high - ramp.low < 1.3 * (last.high - last.low)


def test_other_units_of_a_reward_are_other_units_of_its_interval() -> None:
    rng = np.random.default_rng(7)
    values, treated = rng.random(300), (rng.random(300) < 0.5).astype(np.float64)
    one = bounded_effect(values, treated, shares=0.5, bounds=(0.0, 1.0))
    other = bounded_effect(100 * values - 40, treated, shares=0.5, bounds=(-40.0, 60.0))
    assert (other.value, other.low, other.high) == pytest.approx((100 * one.value, 100 * one.low, 100 * one.high))
    mean, moved = bounded_mean(values, bounds=(0, 1)), bounded_mean(100 * values - 40, bounds=(-40, 60))
    assert (moved.low, moved.high) == pytest.approx((100 * mean.low - 40, 100 * mean.high - 40))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: bounded_mean([0.5, 1.5], bounds=(0.0, 1.0)), "bounded mean, values"),
        (lambda: bounded_mean([0.5], bounds=(1.0, 1.0)), "span 0"),
        (lambda: bounded_mean([0.5], bounds=(0.0, 1.0), alpha=1.0), "alpha 1"),
        (lambda: bounded_effect([0.5], [2.0], shares=0.5, bounds=(0.0, 1.0)), "bounded effect, treated"),
        (lambda: bounded_effect([0.5], [1.0], shares=1.0, bounds=(0.0, 1.0)), "bounded effect, shares"),
        (lambda: bounded_effect([0.5, 0.2], [1.0], shares=0.5, bounds=(0.0, 1.0)), "an array of shape (1,)"),
    ],
)
def test_bounded_rows_that_cannot_be_are_told(call: Callable[[], object], text: str) -> None:
    with pytest.raises(DataError, match=re.escape(text)):
        call()


# ---- does traffic split as declared ----


def test_the_split_is_judged_as_scipys_distributions_say() -> None:
    counts, shares = np.array([512, 288, 230]), np.array([0.5, 0.3, 0.2])
    alternative = stats.dirichlet_multinomial.logpmf(counts, 1_000 * shares, n=1_030)
    expected = alternative - stats.multinomial.logpmf(counts, n=1_030, p=shares)
    assert sample_ratio(counts, shares).evidence == pytest.approx(expected)
    twice = sample_ratio([counts, counts], [shares, shares])
    assert twice.evidence == pytest.approx(2 * expected)
    assert twice.n == 2_060


def split(share: float, *, paths: int) -> tuple[int, int]:
    """Returns how many of the paths ever alarm over a hundred looks at an even split: this test, and the usual χ²."""
    alarms, usual = 0, 0
    for seed in range(paths):
        treated = np.cumsum(np.random.default_rng(seed).random(20_000) < share)[199::200]
        rows = np.arange(200, 20_001, 200)
        looks = [sample_ratio([n - m, m], [0.5, 0.5]) for n, m in zip(rows.tolist(), treated.tolist(), strict=True)]
        alarms += any(one.p_value <= ALPHA for one in looks)
        usual += bool(np.any(np.abs(2 * treated - rows) / np.sqrt(rows) > 1.96))
    return alarms, usual


def test_a_hundred_looks_at_an_even_split_alarm_seldom_where_the_usual_test_alarms_often() -> None:
    alarms, usual = split(0.5, paths=200)
    assert alarms <= too_many(200)
    assert usual > 2 * too_many(200)


def test_an_uneven_split_is_found() -> None:
    alarms, _ = split(0.52, paths=50)
    assert alarms > 40


@pytest.mark.parametrize(
    ("counts", "shares", "text"),
    [
        ([1, 2], [0.5, 0.6], "with a sum of 1 in each phase"),
        ([[1, 2], [3, 4]], [0.2, 0.3, 0.4, 0.1], "one share for each count"),
        ([1, 2], [0.0, 1.0], "sample ratio, shares"),
        ([-1, 2], [0.5, 0.5], "sample ratio, counts"),
        ([1, 2, 3], [0.5, 0.5], "sample ratio, shares"),
    ],
)
def test_a_split_that_was_never_declared_is_told(counts: list[int], shares: list[float], text: str) -> None:
    with pytest.raises(DataError, match=re.escape(text)):
        sample_ratio(counts, shares)
