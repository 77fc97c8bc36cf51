"""Values of clustered rows, with an interval that survives heavy weights, rare rewards and few entities.

Most are ratios of sums: a mean (below: ones), a self-normalised weighted mean (below: the weights), observed over
expected.
"""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.metrics import Floats, Int64s, Measurement, need
from decalog.statistics.columns import column
from decalog.statistics.distributions import t_quantile, t_tail

_FLAT = 1e-9  # skewness below which the cubic below is a line


class Clusters(msgspec.Struct, frozen=True):
    """Which rows hang together.

    Args:
        places: int64, one a row: the place of its cluster.
        count: clusters.
    """

    places: Int64s
    count: int

    def sums(self, values: Floats) -> Floats:
        """Returns the sum of a column in each cluster."""
        return np.bincount(self.places, values, minlength=self.count).astype(np.float64, copy=False)

    def effective(self, mass: Floats) -> float:
        """Returns how many clusters of equal mass tell as much, (Σ m)² / Σ m² (Kish, Survey Sampling, 1965)."""
        sums = self.sums(mass)
        return float(np.sum(sums)) ** 2 / float(np.sum(sums**2))


def clusters(entities: npt.ArrayLike, *, n: int, where: str) -> Clusters:
    """Returns the rows of each entity as a cluster; below 0, and without any entities, each row stands for itself.

    Args:
        entities: int64 tokens, one a row, or an empty array.
        n: rows.
        where: names the column in the message.

    Raises:
        DataError: there are entities, but not one a row.

    >>> clusters([7, 7, -1, -1], n=4, where="doctest").count
    3
    """
    tokens = np.asarray(entities)
    if not len(tokens):
        return Clusters(np.arange(n), n)
    column(tokens, where, n=n)
    apart = np.where(tokens >= 0, tokens, -1 - np.arange(n))
    names, places = np.unique(apart, return_inverse=True)
    return Clusters(places.astype(np.int64), len(names))


class Clustered(msgspec.Struct, frozen=True):
    """A value with what each cluster adds to its error.

    Args:
        value: of all rows.
        influences: float64, one a cluster: about value − value without that cluster.
        n: rows.
    """

    value: float
    influences: Floats
    n: int

    @property
    def contributions(self) -> float:
        """How many clusters the spread rests on: (Σ u²)² / Σ u⁴; 0 where nothing varies."""
        squares = self.influences**2
        fourth = float(np.sum(squares**2))
        return float(np.sum(squares)) ** 2 / fourth if fourth > 0 else 0.0

    def minus(self, other: Clustered) -> Clustered:
        """Returns the difference to a value of the same clusters; what both share cancels."""
        return Clustered(self.value - other.value, self.influences - other.influences, self.n)

    def beyond(self, other: Clustered) -> Clustered:
        """Returns the difference to a value of other clusters, which share nothing."""
        influences = [self.influences - np.mean(self.influences), np.mean(other.influences) - other.influences]
        return Clustered(self.value - other.value, np.concatenate(influences), self.n + other.n)

    def measured(self, unseen: tuple[float, ...] = (), *, confidence: float = 0.95) -> Measurement:
        """Returns the value with its interval.

        Studentised by the jackknife over clusters (Efron and Stein, Annals of Statistics 9, 1981), corrected for
        skewness by Hall's monotone cubic (Hall, JRSS B 54, 1992), with the t quantile of the degrees of freedom that
        the kurtosis of the influences leaves, 2 G / (κ − 1): a few large ones count as few.

        Args:
            unseen: influences of rows that might have come and did not; they widen the interval alone.
            confidence: in (0, 1).
        """
        spread, bend, freedom = self._shape(unseen)
        t = t_quantile(0.5 + confidence / 2, freedom)
        return Measurement(
            self.value, self.value - spread * _unbent(t, bend), self.value - spread * _unbent(-t, bend), self.n
        )

    def p_value(self, expected: float) -> float:
        """Returns how likely a value at least as far from an expected one is, on either side, by the same reckoning."""
        spread, bend, freedom = self._shape(())
        if spread == 0:
            return 1.0 if self.value == expected else 0.0
        t = (self.value - expected) / spread
        return t_tail(t + bend * t**2 / 3 + bend**2 * t**3 / 27 + bend / 6, freedom)

    def _shape(self, unseen: tuple[float, ...]) -> tuple[float, float, float]:
        """Returns standard error, skewness over √G, and degrees of freedom."""
        clusters = len(self.influences)
        u = np.append(self.influences - np.mean(self.influences), unseen)
        squares = float(np.sum(u**2))
        if squares == 0:
            return 0.0, 0.0, float(clusters - 1)
        kurtosis = len(u) * float(np.sum(u**4)) / squares**2
        freedom = min(max(2 * len(u) / max(kurtosis - 1, 1e-9), 1.0), clusters - 1.0)
        return float(np.sqrt((clusters - 1) / clusters * squares)), float(np.sum(u**3)) / squares**1.5, freedom


def _unbent(t: float, bend: float) -> float:
    """Returns the studentised value whose cubic T + b T²/3 + b² T³/27 + b/6 is t."""
    return t if abs(bend) < _FLAT else float(3 / bend * (np.cbrt(1 + bend * (t - bend / 6)) - 1))


def ratio(above: Floats, below: Floats, *, rows: Clusters, where: str) -> Clustered:
    """Returns Σ above / Σ below with the influence of each cluster.

    Args:
        above: one value a row.
        below: one value a row, ≥ 0.
        rows: which of them hang together.
        where: names the measure in the message.

    Raises:
        DataError: fewer than two clusters have anything below.

    >>> mean = ratio(np.array([1.0, 2.0, 3.0]), np.ones(3), rows=clusters([], n=3, where=""), where="").measured()
    >>> mean.value, round(mean.low, 2), round(mean.high, 2)
    (2.0, -0.48, 4.48)
    """
    mass = rows.sums(below)
    need(int(np.sum(mass > 0)) > 1, where, expected="at least two entities (or rows) that count")
    whole = float(np.sum(mass))
    value = float(np.sum(above)) / whole
    return Clustered(value, rows.sums(above - value * below) / (whole - mass), len(above))


def share(above: Floats, below: Floats, *, rows: Clusters) -> Measurement:
    """Returns a weighted share, a `ratio` in [0, 1], whose interval has a width where all rows agree, and where one is.

    Args:
        above: in [0, below], one value a row.
        below: weight of each row, ≥ 0, above 0 somewhere.
        rows: which of them hang together.
    """
    if np.sum(rows.sums(below) > 0) < 2:  # noqa: PLR2004 - one cluster has no spread
        return Measurement(float(np.sum(above) / np.sum(below)), 0.0, 1.0, int(np.sum(below > 0)))
    told = ratio(above, below, rows=rows, where="share")
    found = within(told.measured(unseen(told.value, (0.0, 1.0), effective=rows.effective(below))), (0.0, 1.0))
    return Measurement(found.value, found.low, found.high, int(np.sum(below > 0)))


def apart(one: Measurement, other: Measurement) -> Measurement:
    """Returns other − one of two groups that share nobody, with the interval that both intervals give.

    Each side's distance is squared and added (Zou and Donner, Statistics in Medicine 27, 2008; for shares Newcombe,
    Statistics in Medicine 17, 1998, method 10).

    >>> apart(Measurement(1.0, 0.7, 1.4, 10), Measurement(2.0, 1.7, 2.4, 12))
    Measurement(value=1.0, low=0.5, high=1.5, n=22)
    """
    value = other.value - one.value
    low = value - float(np.hypot(other.value - other.low, one.high - one.value))
    high = value + float(np.hypot(other.high - other.value, one.value - one.low))
    return Measurement(value, low, high, one.n + other.n)


def unseen(value: float, bounds: tuple[float, float] | None, *, effective: float) -> tuple[float, ...]:
    """Returns the influences of one more row at either bound: what might have come, and did not.

    Two rows in many change nothing. Where only one value was ever seen, they alone keep the interval honest.

    Args:
        value: measured.
        bounds: (lowest, highest) that a row can be; None where nothing is known.
        effective: rows (or clusters) that tell as much as all.
    """
    return () if bounds is None else tuple((bound - value) / effective for bound in bounds)


def within(measured: Measurement, bounds: tuple[float, float] | None) -> Measurement:
    """Returns a measurement whose interval keeps to what is possible; a value beyond (of ips, of dr) stays in it."""
    if bounds is None:
        return measured
    low, high = max(measured.low, bounds[0]), min(measured.high, bounds[1])
    return Measurement(measured.value, min(low, measured.value), max(high, measured.value), measured.n)
