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

    @property
    def clusters(self) -> Clusters:
        """Which rows hang together."""
        return clusters(self.entities, n=len(self.labels), where=f"{_WHERE}, entities")

    def take(self, rows: npt.NDArray[np.bool_]) -> Awaited:
        """Returns the rows of a mask."""
        columns = {name: getattr(self, name) for name in self.__struct_fields__}
        return Awaited(**{name: values[rows] if len(values) else values for name, values in columns.items()})


class Fraction(msgspec.Struct, frozen=True):
    """A metric Σ (by_label · y + above) / Σ (below_by_label · y + below); arrays have one entry a row.

    Args:
        by_label: what a positive adds above.
        below_by_label: what a positive adds below.
        below: what a row adds below, whatever its label; never less than a positive takes away.
        above: what a row adds above, whatever its label; empty for nothing.
        within: (lowest, highest) that the metric can be; None where nothing bounds it.
    """

    by_label: Floats
    below_by_label: Floats
    below: Floats
    above: Floats = msgspec.field(default_factory=lambda: np.empty(0))
    within: tuple[float, float] | None = (0.0, 1.0)

    @property
    def asks(self) -> npt.NDArray[np.bool_]:
        """Rows whose label changes anything."""
        return np.asarray((self.by_label != 0) | (self.below_by_label != 0), np.bool_)

    def value(self, labels: Floats) -> float:
        """Returns the metric; NaN where nothing counts."""
        below = float(self.below_by_label @ labels + np.sum(self.below))
        return float(self.by_label @ labels + np.sum(self.above)) / below if below > 0 else float("nan")

    def clustered(self, labels: Floats, rows: Clusters) -> Clustered:
        """Returns the metric with the influence of each cluster.

        Raises:
            DataError: fewer than two clusters count.
        """
        above = self.by_label * labels + (self.above if len(self.above) else 0.0)
        return ratio(above, self.mass(labels), rows=rows, where=_WHERE)

    def measured(self, labels: Floats, rows: Clusters) -> Measurement:
        """Returns the metric with its 95 % interval; `ratio` says when it cannot."""
        return within(self.unbounded(labels, rows), self.within)

    def unbounded(self, labels: Floats, rows: Clusters) -> Measurement:
        """Returns `measured` with an interval that may go beyond what is possible."""
        return self.clustered(labels, rows).measured(self.unmet(labels, rows))

    def unmet(self, labels: Floats, rows: Clusters) -> tuple[float, ...]:
        """Returns the influences of what might have come and did not; see `unseen`."""
        return unseen(self.value(labels), self.within, effective=rows.effective(self.mass(labels)))

    def mass(self, labels: Floats) -> Floats:
        """Returns what each row adds below."""
        return np.asarray(self.below_by_label * labels + self.below, np.float64)

    def take(self, rows: npt.NDArray[np.bool_]) -> Fraction:
        """Returns the metric of the rows of a mask."""
        above = self.above[rows] if len(self.above) else self.above
        return Fraction(self.by_label[rows], self.below_by_label[rows], self.below[rows], above, self.within)


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
    low, high = (metric.measured(labels, rows) for labels in extremes(metric, awaited))
    n = len(awaited.labels)
    return Bounds(low, high, n - int(np.sum(awaited.unknown)), n)


def extremes(metric: Fraction, awaited: Awaited) -> tuple[Floats, Floats]:
    """Returns the labels that make a metric as small as it can be, and those that make it as large."""
    return _extreme(metric, awaited, -1), _extreme(metric, awaited, 1)


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


class Check(msgspec.Struct, frozen=True):
    """How an expectation fared: the same metric of the same rows, expected before and observed after.

    Args:
        expected: as it was then.
        came: as it is now.
        gap: expected − came.
        n: rows.
    """

    expected: Measurement
    came: Measurement
    gap: Measurement
    n: int

    @property
    def ratio(self) -> float:
        """Expected over observed; infinity where nothing came."""
        return self.expected.value / self.came.value if self.came.value else float("inf")

    @property
    def is_covered(self) -> bool:
        """Whether chance, of rows and of labels, explains the gap."""
        return self.gap.low <= 0 <= self.gap.high

    def is_off(self, tolerance: float) -> bool:
        """Returns whether the gap is no chance, and more than a part of what came."""
        return not self.is_covered and abs(self.gap.value) > tolerance * abs(self.came.value)


def imputed(awaited: Awaited) -> Floats:
    """Returns labels, and where one is unknown the chance of it: p (1 − F) / (1 − p F), less what silence tells.

    Raises:
        DataError: predictions are missing, or columns are out of their bounds.
    """
    n = len(awaited.labels)
    p = column(awaited.predictions, f"{_WHERE}, predictions", low=0.0, high=1.0, n=n)
    past = (
        column(awaited.arrived, f"{_WHERE}, arrived", low=0.0, high=1.0, n=n) if len(awaited.arrived) else np.zeros(n)
    )
    return np.where(awaited.unknown, p * (1 - past) / np.maximum(1 - p * past, 1e-12), awaited.labels)


def checked(metric: Fraction, then: Awaited, *, came: Floats) -> Check:
    """Returns how an expectation fared.

    Args:
        metric: of the rows.
        then: what was known of them when it was made.
        came: their labels, 0 or 1, as they came.

    Raises:
        DataError: columns differ in length or are out of their bounds, or fewer than two rows or entities count.
    """
    rows, labels = _check(metric, then), imputed(then)
    told = metric.clustered(came, rows)
    effects = (metric.by_label - told.value * metric.below_by_label)[metric.asks]
    # Where nothing came, one more positive might have: without it no rare event could be foreseen within chance.
    one_more = float(np.mean(effects) / np.sum(metric.mass(came))) if len(effects) else 0.0
    gap = metric.clustered(labels, rows).minus(told).measured((-one_more,))
    return Check(metric.measured(labels, rows), metric.measured(came, rows), gap, len(came))


def expected(metric: Fraction, awaited: Awaited, *, tolerance: float = 0.1, check: Check | None = None) -> Expected:
    """Returns what the metric is expected to be once all labels are in.

    An unknown label is what its prediction says, less what silence tells: p (1 − F) / (1 − p F) with F the share of
    labels that would have come. The same metric is computed from predictions alone on matured rows, and what it misses
    there is the check: its error widens the interval, and an error that is no chance is a doubt. Matured rows are
    older: a change that began after them is not seen.

    Args:
        metric: of all rows.
        awaited: with predictions.
        tolerance: the part of the observed metric up to which a gap is no doubt, ≥ 0.
        check: how an earlier expectation fared, instead of one of matured rows.

    Raises:
        DataError: columns are missing, differ in length or are out of their bounds, or too few rows have matured.
    """
    rows, labels = _check(metric, awaited), imputed(awaited)
    check = _by_predictions(metric, awaited) if check is None else check
    below = metric.mass(labels)
    rests = float(np.sum(below[awaited.unknown]) / np.sum(below))
    measured = metric.unbounded(labels, rows)
    # So it covers what these rows will show, too: where few labels are known, this is wider than the noise of those to
    # come, and where many are, the rows' own interval is.
    wider = rests * (check.gap.high - check.gap.low) / 2
    low = measured.value - float(np.hypot(measured.value - measured.low, wider))
    high = measured.value + float(np.hypot(measured.high - measured.value, wider))
    gap, came = check.gap, check.came.value
    doubt = f"where labels are known, predictions alone are off by {gap.value:.3g} from {came:.3g}"
    value = within(Measurement(measured.value, low, high, len(labels)), metric.within)
    return Expected(value, gap, rests, (doubt,) if check.is_off(tolerance) else ())


def _by_predictions(metric: Fraction, awaited: Awaited) -> Check:
    """Returns how predictions alone do on matured rows."""
    told = awaited.matured
    need(bool(np.any(told)), f"{_WHERE}, matured", expected="rows whose labels have matured, to check predictions on")
    part, none = awaited.take(told), np.zeros(int(np.sum(told)))
    blank = msgspec.structs.replace(part, labels=none, matured=none > 0, arrived=none)
    return checked(metric.take(told), blank, came=part.labels)


def _check(metric: Fraction, awaited: Awaited) -> Clusters:
    n = len(column(awaited.labels, f"{_WHERE}, labels", low=0.0, high=1.0))
    column(awaited.matured, f"{_WHERE}, matured", n=n)
    column(metric.below, f"{_WHERE}, metric", low=0.0, n=n)
    return awaited.clusters
