"""Whether a value is beyond a level by more than chance: shares, means, counts, and rates against earlier ones."""

from __future__ import annotations

import math

import msgspec
import numpy as np

from decalog.metrics import Floats, Measurement
from decalog.statistics.clusters import Clusters, ratio, share

_Z95 = 1.959963984540054
_FEW = 30
"""Entities below which a mean's tail is nobody's to know."""


class Judged(msgspec.Struct, frozen=True):
    """A value, and how likely it is to come out so far on the wrong side of its level where it is in truth on it.

    Args:
        value: with its interval.
        p_value: one-sided; near 1 where the value is on the right side.
    """

    value: Measurement
    p_value: float


def judge_share(hits: Floats, *, rows: Clusters, level: float, above: bool) -> Judged:
    """Returns a share against a level, by the binomial of as many entities as rows have (exact where each has one).

    Args:
        hits: 0 or 1, one a row; at least one row.
        rows: which hang together.
        level: in (0, 1).
        above: whether above it is wrong, else below.
    """
    below = np.ones(len(hits))
    found = share(hits, below, rows=rows)
    n = rows.effective(below)
    return Judged(found, _binomial_tail(found.value * n, n, level=level, above=above))


def judge_mean(values: Floats, *, rows: Clusters, level: float, above: bool) -> Judged | None:
    """Returns a mean against a level, by `Clustered.p_value`; None for fewer than thirty entities."""
    if rows.count < _FEW:
        return None
    found = ratio(values, np.ones(len(values)), rows=rows, where="mean against a level")
    is_beyond = found.value > level if above else found.value < level
    half = found.p_value(level) / 2
    return Judged(found.measured(), half if is_beyond else 1 - half)


def judge_count(count: int, n: float, *, level: float, above: bool) -> Judged:
    """Returns a count over n against a level, by Poisson's tail: for what may come more than once, or for others.

    Args:
        count: ≥ 0.
        n: what it is divided by, > 0.
        level: of count / n, > 0.
        above: whether above it is wrong, else below.
    """
    from scipy.special import pdtr, pdtrc

    spread = _Z95 * math.sqrt(max(count, 1))
    value = Measurement(count / n, max(count - spread, 0) / n, (count + spread) / n, int(n))
    tail = pdtrc(count - 1, level * n) if above and count else 1.0 if above else pdtr(count, level * n)
    return Judged(value, float(tail))


def judge_rate(now: tuple[int, int], before: tuple[int, int], *, inflation: float) -> Judged:
    """Returns by how much a rate of (reports, decisions) changed, 0.5 for half as much more; p of no change, two-sided.

    A normal approximation on the logarithm; each count is taken to be at least one.

    Args:
        now: reports, and decisions > 0.
        before: the same.
        inflation: how much more counts vary than Poisson's, ≥ 1.
    """
    from decalog.statistics.distributions import normal_tail

    ours, theirs = max(now[0], 1), max(before[0], 1)
    change = math.log(ours / now[1] * before[1] / theirs)
    spread = math.sqrt(inflation * (1 / ours + 1 / theirs))
    value, low, high = (math.expm1(min(change + sign * _Z95 * spread, 50.0)) for sign in (0, -1, 1))
    return Judged(Measurement(value, low, high, now[1]), normal_tail(change / spread))


def silence_p_value(expected: float, *, inflation: float) -> float:
    """Returns how likely nothing comes where so many reports are expected."""
    return math.exp(-expected / inflation)


def _binomial_tail(hits: float, n: float, *, level: float, above: bool) -> float:
    """Returns P(X ≥ hits), or P(X ≤ hits), for counts that need not be whole."""
    from scipy.special import betainc

    if above:
        return float(betainc(hits, n - hits + 1, level)) if hits > 0 else 1.0
    return 1.0 - float(betainc(hits + 1, n - hits, level)) if hits < n else 1.0
