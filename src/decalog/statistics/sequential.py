"""Comparing two arms while they run: intervals and tests that hold at every look, however often one looks.

An interval here covers at all times together with probability 1 − α, so a rollout may stop at any look. A row is one
randomised unit: what one person does on ten visits is one row, not ten. Where the share of traffic changes, each share
is a phase of its own: a trend then never looks like an effect.

    difference      asymptotic, from count, mean and variance of each arm and phase; any reward
    bounded_effect  exact for rewards within bounds: for rare events, and from the first row on
    bounded_mean    the same for one mean
    sample_ratio    whether traffic splits as it was declared
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.errors import DataError
from decalog.metrics import Floats, Measurement
from decalog.statistics.columns import column
from decalog.statistics.distributions import log_gamma

_FEWEST = 100  # rows an arm has before an asymptotic interval says anything; simulated in the tests
_SLOW = 1_000.0  # rows in which a split's own error fades beside what the test looks for: about 3 points of an even one
_HALVINGS = 40  # of the range, in search of a bound: to 1e-12 of it
_BOLDEST = 0.5  # of the stake that a bet may lose (Waudby-Smith and Ramdas, 2023, section 4.2)


class Moments(msgspec.Struct, frozen=True):
    """Count, mean and sum of squared deviations of values; small, and mergeable.

    Args:
        n: values.
        mean: of them; 0 where there are none.
        squares: Σ (x − mean)².
    """

    n: int = 0
    mean: float = 0.0
    squares: float = 0.0

    @property
    def variance(self) -> float:
        """The sample variance; 0 where there are fewer than two values."""
        return self.squares / (self.n - 1) if self.n > 1 else 0.0

    def merged(self, other: Moments) -> Moments:
        """Returns the moments of both together (Chan, Golub and LeVeque, The American Statistician 37, 1983)."""
        n = self.n + other.n
        if n == 0:
            return self
        gap = other.mean - self.mean
        mean = self.mean + gap * other.n / n
        return Moments(n, mean, self.squares + other.squares + gap**2 * self.n * other.n / n)


def moments(values: npt.ArrayLike) -> Moments:
    """Returns the moments of values.

    Raises:
        DataError: there are none, or not all are finite.

    >>> moments([1.0, 2.0, 3.0]).merged(moments([6.0]))
    Moments(n=4, mean=3.0, squares=14.0)
    """
    rows = column(values, "moments, values")
    centre = float(np.mean(rows))
    return Moments(len(rows), centre, float(np.sum((rows - centre) ** 2)))


class Arms(msgspec.Struct, frozen=True):
    """Two arms over one phase, in which the share of traffic did not change."""

    control: Moments
    treatment: Moments

    @property
    def information(self) -> float:
        """Rows that tell of the difference, n₁ n₀ / (n₁ + n₀): a quarter of an even split, the few of an uneven one."""
        n = self.control.n + self.treatment.n
        return self.control.n * self.treatment.n / n if n else 0.0

    @property
    def square(self) -> float:
        """Squared standard error of the difference of means.

        An arm varies no less than both do together: where a small arm has not yet seen a rare reward, its own variance
        would be 0, and its first look an alarm.
        """
        one, other = self.treatment, self.control
        pooled = (one.squares + other.squares) / max(one.n + other.n - 2, 1)
        return max(one.variance, pooled) / one.n + max(other.variance, pooled) / other.n


class Look(msgspec.Struct, frozen=True):
    """What is known so far.

    Args:
        effect: treatment − control with its interval, valid at all looks together; n counts both arms.
        evidence: ln of an e-value against "no difference": from ln(1/α) on it is refuted at level α, at whatever look.
    """

    effect: Measurement
    evidence: float

    @property
    def p_value(self) -> float:
        """The anytime-valid p-value of this look; the smallest of all looks so far is one too."""
        return math.exp(-max(self.evidence, 0.0))


def difference(phases: Sequence[Arms], *, alpha: float = 0.05, best_at: float = 2_500) -> Look:
    """Returns the difference of two arms with its asymptotic confidence sequence, Robbins' normal mixture.

    Δ = Σ wΔ / Σ w over phases, w = n₁ n₀ / (n₁ + n₀), and Δ ± s √(2 (wρ² + 1) / (wρ²) · ln(√(wρ² + 1) / α)) with its
    standard error s and w = Σ w for the clock. (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, Annals of Statistics
    52, 2024, theorem 2.2, and 2.5 for means that move.) It is asymptotic in the rows of the first look, so it takes
    100 an arm. What only the treatment can cause, and rarely, it does not see coming: `bounded_effect` does.

    Args:
        phases: the arms in each; one where the share of traffic never changed.
        alpha: how likely the interval ever misses, in (0, 1).
        best_at: the w at which the interval is to be narrowest: treated rows of a small canary, a quarter of all rows
            of an even split.

    Raises:
        DataError: an arm has fewer than 100 rows, or alpha or best_at lie out of their bounds.
    """
    _level(alpha)
    _above_zero(best_at, "best_at", expected="rows at which to be narrowest, above 0")
    told = [arms for arms in phases if arms.information > 0]
    control, treatment = sum(arms.control.n for arms in told), sum(arms.treatment.n for arms in told)
    if min(control, treatment) < _FEWEST:
        raise DataError(
            where="difference of two arms",
            given=f"{treatment} treated rows and {control} others",
            expected=f"at least {_FEWEST} of each",
            fix="Wait, or use `bounded_effect`, which holds from the first row on.",
        )
    weights = np.array([arms.information for arms in told])
    clock = float(np.sum(weights))
    gaps = np.array([arms.treatment.mean - arms.control.mean for arms in told])
    value = float(weights @ gaps) / clock
    error = math.sqrt(float(weights**2 @ np.array([arms.square for arms in told]))) / clock
    grown = 1 + clock * _narrowest(alpha) / best_at
    half = error * math.sqrt(2 * grown / (grown - 1) * math.log(math.sqrt(grown) / alpha))
    # The interval is where this stays below ln(1/α), so the two never disagree.
    evidence = (value / error) ** 2 * (grown - 1) / (2 * grown) - math.log(grown) / 2 if error else 0.0
    return Look(Measurement(value, value - half, value + half, control + treatment), evidence)


def _narrowest(alpha: float) -> float:
    """Returns ρ² × the clock at which the interval is narrowest (their appendix B.2, by Lambert's W to first order)."""
    return -2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))


def _level(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise DataError(
            where="anytime-valid test", given=f"alpha {alpha:g}", expected="one in (0, 1)", fix="Give 0.05, say."
        )


def _above_zero(number: float, name: str, *, expected: str) -> None:
    if not number > 0:
        raise DataError(
            where="anytime-valid test", given=f"{name} {number:g}", expected=expected, fix=f"Give another {name}."
        )


def bounded_mean(values: npt.ArrayLike, *, bounds: tuple[float, float], alpha: float = 0.05) -> Measurement:
    """Returns a mean with a confidence sequence that holds from the first row on, for any values within bounds.

    By betting against each mean that it might be, and excluding those that would have lost too much (Waudby-Smith and
    Ramdas, JRSS B 86, 2024, section 4, hedged capital with predictable plug-in bets).

    Args:
        values: in the order in which they came.
        bounds: (lowest, highest) that any value can be.
        alpha: how likely the interval ever misses, in (0, 1).

    Raises:
        DataError: values beyond the bounds, or bounds or alpha that are none.
    """
    span = _span(bounds)
    rows = column(values, "bounded mean, values", low=bounds[0], high=bounds[1])
    ones = np.ones(len(rows))
    unit = (rows - bounds[0]) / span
    strays = unit - _before(unit)
    value, low, high = _betting(unit, ones, strays=strays, farthest=ones, alpha=alpha, reach=(0.0, 1.0))
    return Measurement(bounds[0] + span * value, bounds[0] + span * low, bounds[0] + span * high, len(rows))


def bounded_effect(
    values: npt.ArrayLike,
    treated: npt.ArrayLike,
    *,
    shares: npt.ArrayLike,
    bounds: tuple[float, float],
    alpha: float = 0.05,
) -> Measurement:
    """Returns treatment − control with a confidence sequence that holds from the first row on, for bounded rewards.

    Bets as `bounded_mean` does, on (a/π − (1 − a)/(1 − π)) (y − c), whose mean is the effect whatever the share; c is
    the mean of the rows before, which takes most of the noise (the augmented weighting of Robins, Rotnitzky and Zhao,
    JASA 89, 1994). Rows count by how much their share lets them tell, π (1 − π), so a ramp wastes nothing.

    Args:
        values: rewards in the order in which they came.
        treated: 1 where the row got the treatment, 0 where the control.
        shares: π, how likely it was to get the treatment, in (0, 1): one number, or one a row.
        bounds: (lowest, highest) that a reward can be.
        alpha: how likely the interval ever misses, in (0, 1).

    Raises:
        DataError: columns of different lengths or out of their bounds, or bounds or alpha that are none.
    """
    span, where = _span(bounds), "bounded effect"
    rows = (column(values, f"{where}, values", low=bounds[0], high=bounds[1]) - bounds[0]) / span
    arms = column(treated, f"{where}, treated", low=0.0, high=1.0, n=len(rows))
    drawn = column(np.broadcast_to(shares, rows.shape), f"{where}, shares", low=1e-6, high=1 - 1e-6)
    told = drawn * (1 - drawn)
    contrasts = (arms - drawn) / told * (rows - _before(rows))
    farthest = 1 / np.minimum(drawn, 1 - drawn)
    value, low, high = _betting(contrasts, told, strays=contrasts, farthest=farthest, alpha=alpha, reach=(-1.0, 1.0))
    return Measurement(span * value, span * low, span * high, len(rows))


def _span(bounds: tuple[float, float]) -> float:
    _above_zero(bounds[1] - bounds[0], "span", expected="bounds (lowest, highest), the first below the second")
    return bounds[1] - bounds[0]


def _before(values: Floats) -> Floats:
    """Returns the mean of the values before each, and of one half: all in [0, 1]."""
    before: Floats = (0.5 + np.cumsum(values) - values) / np.arange(1, len(values) + 1)
    return before


def _betting(
    values: Floats, told: Floats, *, strays: Floats, farthest: Floats, alpha: float, reach: tuple[float, float]
) -> tuple[float, float, float]:
    """Returns (weighted mean, low, high) of values that share one mean.

    Args:
        values: in order.
        told: weight of each, about one over its variance, up to a factor.
        strays: how far each lay from what was foreseen.
        farthest: how far each can lie from 0.
        alpha: of the sequence.
        reach: where the mean can lie.
    """
    _level(alpha)
    price, known = math.log(2 / alpha), np.cumsum(told)
    # Variance of a value of weight 1, from the rows before it; the first has a quarter, as a fair coin would.
    squares, place = strays**2 * told, np.arange(1, len(values) + 1)
    noise = (0.25 + np.cumsum(squares) - squares) / place
    bets = told * np.sqrt(2 * price / (noise * known * np.log1p(place)))
    bets = np.minimum(bets, _BOLDEST / (farthest + max(reach)))
    low = _last(lambda at: float(np.sum(np.log1p(bets * (values - at)))) >= price, reach[0], until=reach[1])
    high = _last(lambda at: float(np.sum(np.log1p(bets * (at - values)))) >= price, reach[1], until=reach[0])
    value = float(values @ told / known[-1])
    value = min(max(value, low), high)
    return value, low, high


def _last(holds: Callable[[float], bool], start: float, *, until: float) -> float:
    """Returns the number farthest from the start, towards the other end, up to which something holds."""
    if not holds(start):
        return start
    for _ in range(_HALVINGS):
        middle = (start + until) / 2
        start, until = (middle, until) if holds(middle) else (start, middle)
    return start


class Split(msgspec.Struct, frozen=True):
    """Whether traffic splits as it was declared.

    Args:
        evidence: ln of an e-value against the declared shares.
        n: rows.
    """

    evidence: float
    n: int

    @property
    def p_value(self) -> float:
        """The anytime-valid p-value: below α at any look, ever, with probability at most α if the shares hold."""
        return math.exp(-max(self.evidence, 0.0))


def sample_ratio(counts: npt.ArrayLike, shares: npt.ArrayLike) -> Split:
    """Returns the anytime-valid test that rows fall on arms as declared (Lindon and Malek, NeurIPS 2022).

    The marginal likelihood of the counts under Dirichlet(k · shares) over that under the shares; over phases they
    multiply.

    Args:
        counts: rows an arm; or phases × arms, where the shares changed.
        shares: declared, of the same shape, > 0, with a sum of 1 a phase.

    Raises:
        DataError: shapes differ, a share is not above 0, or shares do not sum to 1.

    >>> sample_ratio([5_000, 5_050], [0.5, 0.5]).p_value, sample_ratio([5_000, 5_500], [0.5, 0.5]).p_value < 0.001
    (1.0, True)
    """
    where = "sample ratio"
    seen, declared = np.atleast_2d(np.asarray(counts, np.float64)), np.atleast_2d(np.asarray(shares, np.float64))
    column(seen.ravel(), f"{where}, counts", low=0.0)
    column(declared.ravel(), f"{where}, shares", low=float(np.finfo(np.float64).tiny), high=1.0, n=seen.size)
    if seen.shape != declared.shape or not np.allclose(np.sum(declared, axis=1), 1, atol=1e-9, rtol=0):
        raise DataError(
            where=f"{where}, shares",
            given=f"shares of shape {declared.shape} for counts of shape {seen.shape}, or shares that do not sum to 1",
            expected="one share for each count, with a sum of 1 in each phase",
            fix="Give the shares as the rollout declared them.",
        )
    prior = _SLOW * declared
    cells = log_gamma(prior + seen) - log_gamma(prior) - seen * np.log(declared)
    wholes = log_gamma(np.full(len(seen), _SLOW)) - log_gamma(_SLOW + np.sum(seen, axis=1))
    return Split(float(np.sum(cells) + np.sum(wholes)), int(np.sum(seen)))
