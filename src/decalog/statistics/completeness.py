"""What a metric is while labels are still awaited: what is certain, and what is to be expected.

`bounded` assumes nothing: whatever the labels turn out to be, the metric lies between (Manski, American Economic Review
80, 1990). `expected` puts a prediction where a label is missing, and checks on rows with both how far to trust that.
A metric is a fraction of sums that are linear in the labels, as rates, precision, recall and their weighted kin are.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.metrics import Floats, Int64s, Measurement, need
from decalog.statistics.clusters import Clustered, Clusters, clusters, ratio, unseen, within
from decalog.statistics.columns import column

_WHERE = "awaited labels"
_ROUNDS = 50  # of a search that took at most six in any simulation


class Awaited(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of which some still await their label; arrays have one entry a row, or are empty where optional.

    Args:
        labels: float64, 1 where it has been said, else 0.
        matured: bool, whether nothing more is awaited. A row that is not, and has a label of 1, keeps it.
        predictions: float64, [0, 1], calibrated, made before any label; for `expected`.
        arrived: float64, [0, 1), how likely the label of a positive of this age would have come by now (`arrivals`);
            without it, silence is taken to say nothing.
        entities: int64 tokens of who or what a row is about; rows of one hang together. Below 0, or none: each alone.
    """

    labels: Floats
    matured: npt.NDArray[np.bool_]
    predictions: Floats = msgspec.field(default_factory=lambda: np.empty(0))
    arrived: Floats = msgspec.field(default_factory=lambda: np.empty(0))
    entities: Int64s = msgspec.field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def unknown(self) -> npt.NDArray[np.bool_]:
        """Rows whose label is not yet known."""
        return np.asarray(~self.matured & (self.labels == 0), np.bool_)


class Fraction(msgspec.Struct, frozen=True):
    """A metric Σ (by_label · y) / Σ (below_by_label · y + below) in [0, 1]; arrays have one entry a row.

    Args:
        by_label: what a positive adds above, ≥ 0.
        below_by_label: what a positive adds below.
        below: what a row adds below, whatever its label.
    """

    by_label: Floats
    below_by_label: Floats
    below: Floats

    def value(self, labels: Floats) -> float:
        """Returns the metric; NaN where nothing counts."""
        below = float(self.below_by_label @ labels + np.sum(self.below))
        return float(self.by_label @ labels) / below if below > 0 else float("nan")

    def clustered(self, labels: Floats, rows: Clusters) -> Clustered:
        """Returns the metric with the influence of each cluster.

        Raises:
            DataError: fewer than two clusters count.
        """
        return ratio(self.by_label * labels, self.below_by_label * labels + self.below, rows=rows, where=_WHERE)

    def take(self, rows: npt.NDArray[np.bool_]) -> Fraction:
        """Returns the metric of the rows of a mask."""
        return Fraction(self.by_label[rows], self.below_by_label[rows], self.below[rows])


def rate(mass: npt.ArrayLike) -> Fraction:
    """Returns the share of positives among rows of some mass; among flagged ones, with 1 for those, it is precision."""
    weights = column(mass, f"{_WHERE}, mass", low=0.0)
    return Fraction(weights, np.zeros(len(weights)), weights)


def recall(caught: npt.ArrayLike, mass: npt.ArrayLike) -> Fraction:
    """Returns the share of the positives' mass (1 each, or the money at stake) that was caught.

    Args:
        caught: how far a row was, in [0, 1].
        mass: of each row, ≥ 0.
    """
    weights = column(mass, f"{_WHERE}, mass", low=0.0)
    share = column(caught, f"{_WHERE}, caught", low=0.0, high=1.0, n=len(weights))
    return Fraction(weights * share, weights, np.zeros(len(weights)))


class Bounds(msgspec.Struct, frozen=True):
    """Where a metric lies whatever the missing labels say.

    Args:
        low: if they all speak against it, with the interval of the rows.
        high: if they all speak for it.
        known: rows whose label is known.
        n: rows.
    """

    low: Measurement
    high: Measurement
    known: int
    n: int

    @property
    def sentence(self) -> str:
        """The bounds for people."""
        share = f"{100 * self.known / self.n:.0f} % of {self.n:,} labels are known"
        return f"{share}; between {self.low.value:.3g} and {self.high.value:.3g}"


class Expected(msgspec.Struct, frozen=True):
    """What a metric is expected to be.

    Args:
        value: with the interval of rows and of what is known of the predictions.
        gap: expected − observed, of the same metric where both are known.
        unknown: share of what counts that rests on predictions, in [0, 1].
        doubts: why not to trust it, one sentence each.
    """

    value: Measurement
    gap: Measurement
    unknown: float
    doubts: tuple[str, ...]

    @property
    def is_verdict(self) -> bool:
        """Whether the interval can be taken at its word."""
        return not self.doubts


def bounded(metric: Fraction, awaited: Awaited) -> Bounds:
    """Returns the lowest and the highest value that the metric can still take, each with its 95 % interval.

    Exact: the extremes of a fraction of linear sums, found by Dinkelbach's method (Management Science 13, 1967).

    Raises:
        DataError: columns differ in length or are out of their bounds, or fewer than two rows or entities count.
    """
    rows = _check(metric, awaited)
    found = []
    for sign in (-1, 1):
        labels = _extreme(metric, awaited, sign)
        told = metric.clustered(labels, rows)
        effective = rows.effective(metric.below_by_label * labels + metric.below)
        found.append(within(told.measured(unseen(told.value, (0.0, 1.0), effective=effective)), (0.0, 1.0)))
    n = len(awaited.labels)
    return Bounds(found[0], found[1], n - int(np.sum(awaited.unknown)), n)


def _extreme(metric: Fraction, awaited: Awaited, sign: int) -> Floats:
    """Returns the labels that make a metric as large as it can be, or as small with a sign of −1."""
    free = awaited.unknown
    labels = np.where(free, 1.0, awaited.labels)
    for _ in range(_ROUNDS):
        value = metric.value(labels)
        better = np.where(free, sign * (metric.by_label - value * metric.below_by_label) > 0, awaited.labels)
        # Without any positive a recall has no value; then the last one found is the extreme.
        if np.array_equal(better, labels) or np.isnan(metric.value(better)):
            break
        labels = better.astype(np.float64)
    return labels


def arrivals(delays: npt.ArrayLike, ages: npt.ArrayLike) -> Floats:
    """Returns how likely a positive's label has come by an age, from the delays of positives that have all matured.

    Args:
        delays: of the labels of matured positives, any unit.
        ages: of rows, in the same.

    Raises:
        DataError: there are no delays, or values that are not finite and ≥ 0.

    >>> arrivals([1.0, 2.0, 4.0, 9.0], [0.5, 2.0, 5.0]).tolist()
    [0.0, 0.5, 0.75]
    """
    took = np.sort(column(delays, f"{_WHERE}, delays", low=0.0))
    passed: Any = np.searchsorted(took, column(ages, f"{_WHERE}, ages", low=0.0), side="right")
    return np.asarray(passed / len(took), np.float64)


def expected(metric: Fraction, awaited: Awaited, *, tolerance: float = 0.1) -> Expected:
    """Returns what the metric is expected to be once all labels are in.

    An unknown label is what its prediction says, less what silence tells: p (1 − F) / (1 − p F) with F the share of
    labels that would have come. The same metric is computed from predictions alone on matured rows, and what it misses
    there is the check: its error widens the interval, and an error that is no chance is a doubt. Matured rows are
    older: a change that began after them is not seen.

    Args:
        metric: of all rows.
        awaited: with predictions.
        tolerance: the part of the observed metric up to which a gap is no doubt, ≥ 0.

    Raises:
        DataError: columns are missing, differ in length or are out of their bounds, or too few rows have matured.
    """
    rows = _check(metric, awaited)
    n = len(awaited.labels)
    p = column(awaited.predictions, f"{_WHERE}, predictions", low=0.0, high=1.0, n=n)
    past = (
        column(awaited.arrived, f"{_WHERE}, arrived", low=0.0, high=1.0, n=n) if len(awaited.arrived) else np.zeros(n)
    )
    unknown, silent = awaited.unknown, p * (1 - past)
    labels = np.where(unknown, silent / np.maximum(1 - p * past, 1e-12), awaited.labels)
    told = metric.clustered(labels, rows)
    below = metric.below_by_label * labels + metric.below
    rests = float(np.sum(below[unknown]) / np.sum(below))
    gap, observed = _gap(metric, awaited, p)
    measured = told.measured(unseen(told.value, (0.0, 1.0), effective=rows.effective(below)))
    # So it covers what these rows will show, too: where few labels are known, this is wider than the noise of those to
    # come, and where many are, the rows' own interval is.
    wider = (rests * (gap.high - gap.low) / 2) ** 2
    low = told.value - float(np.sqrt((told.value - measured.low) ** 2 + wider))
    high = told.value + float(np.sqrt((measured.high - told.value) ** 2 + wider))
    is_off = not gap.low <= 0 <= gap.high and abs(gap.value) > tolerance * observed
    doubt = f"where labels are known, predictions alone are off by {gap.value:.3g} from {observed:.3g}"
    value = within(Measurement(told.value, low, high, n), (0.0, 1.0))
    return Expected(value, gap, rests, (doubt,) if is_off else ())


def _gap(metric: Fraction, awaited: Awaited, p: Floats) -> tuple[Measurement, float]:
    """Returns (predicted − observed, observed) of matured rows."""
    told = awaited.matured
    need(bool(np.any(told)), f"{_WHERE}, matured", expected="rows whose labels have matured, to check predictions on")
    tokens = awaited.entities[told] if len(awaited.entities) else awaited.entities
    rows = clusters(tokens, n=int(np.sum(told)), where=f"{_WHERE}, entities")
    part = metric.take(told)
    observed = part.clustered(awaited.labels[told], rows)
    return part.clustered(p[told], rows).minus(observed).measured(), observed.value


def _check(metric: Fraction, awaited: Awaited) -> Clusters:
    n = len(column(awaited.labels, f"{_WHERE}, labels", low=0.0, high=1.0))
    column(awaited.matured, f"{_WHERE}, matured", n=n)
    column(metric.below, f"{_WHERE}, metric", low=0.0, n=n)
    return clusters(awaited.entities, n=n, where=f"{_WHERE}, entities")
