"""Metrics with their intervals, as the fields define them: numpy only, ties handled as scikit-learn does.

Every point function takes row weights, so one sorted pass serves the value and all its bootstrap repeats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.clock import DAY
from decalog.errors import DataError

Floats = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]
Counts = npt.NDArray[np.uint8]
Tier = Literal["model", "product", "business"]

_Z95 = 1.959963984540054
_REPEATS = 200


class Measurement(msgspec.Struct, frozen=True):
    """A value with its 95 % interval; always finite.

    Args:
        value: as measured on all rows.
        low, high: bounds of the interval.
        n: rows (or trials) it rests on.
    """

    value: float
    low: float
    high: float
    n: int


class Evaluated(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of the test part with what was predicted and done, in any order; all arrays have one entry a row.

    Args:
        labels: float64, 0 or 1, matured and observed.
        predictions: float64, calibrated probabilities.
        amounts: int64, money at stake, minor units of the base currency.
        times: int64, µs of the decision.
        actions: what the policy chose; empty where no policy ran.
        costs: int64, what the action cost in the light of the label, minor units; empty where no policy ran.
        entities: entity name → int64 tokens, below 0 where a row has none; a name that the data lack is absent.
        weights: float64, how many rows each stands for; empty where each stands for itself. Card precision alone is
            of the rows themselves.
        people: int64 tokens of whom each row is about, below 0 for nobody: a bootstrap draws people with all their
            rows. Empty where rows count as independent.
        seed: of the bootstrap.
    """

    labels: Floats
    predictions: Floats
    amounts: Int64s
    times: Int64s
    actions: npt.NDArray[np.str_] = msgspec.field(default_factory=lambda: np.empty(0, np.str_))
    costs: Int64s = msgspec.field(default_factory=lambda: np.empty(0, np.int64))
    entities: Mapping[str, Int64s] = {}
    weights: Floats = msgspec.field(default_factory=lambda: np.empty(0))
    people: Int64s = msgspec.field(default_factory=lambda: np.empty(0, np.int64))
    seed: int = 0

    @property
    def n(self) -> int:
        """The number of rows."""
        return len(self.labels)

    @property
    def mass(self) -> Floats:
        """How many rows each stands for."""
        return self.weights if len(self.weights) else np.ones(self.n)

    def take(self, rows: npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> Evaluated:
        """Returns the rows of an index or mask, for a slice."""
        return Evaluated(
            labels=self.labels[rows],
            predictions=self.predictions[rows],
            amounts=self.amounts[rows],
            times=self.times[rows],
            actions=self.actions[rows] if len(self.actions) else self.actions,
            costs=self.costs[rows] if len(self.costs) else self.costs,
            entities={name: tokens[rows] for name, tokens in self.entities.items()},
            weights=self.weights[rows] if len(self.weights) else self.weights,
            people=self.people[rows] if len(self.people) else self.people,
            seed=self.seed,
        )


Statistic = Callable[[Evaluated, Floats], float]
"""(rows, weights) → value; a weight counts how often a row stands in the sample."""


class Sums(msgspec.Struct, frozen=True):
    """How a measure is a fraction of sums over rows, Σ above / Σ below, both linear in the labels.

    Such a measure has bounds while labels are awaited, and an expectation (`statistics.completeness`).

    Args:
        of: rows, whose labels may be chances in [0, 1] and whose costs are then expected ones → (above, below), one
            entry a row each.
        within: (lowest, highest) that the measure can be; None where nothing bounds it.
    """

    of: Callable[[Any], tuple[Floats, Floats]]
    within: tuple[float, float] | None = None


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """A measure that a system is judged by.

    Args:
        name: in reports and manifests, `average_precision`.
        tier: model (is the prediction right), product (what users meet), business (money).
        meaning: one line in the field's words.
        formula: as the field writes it.
        unit: `probability`, `EUR a 1,000 payments`, …
        better: which way is good.
        compute: Evaluated, or `slate_metrics.Ranked` where slots hold things → measured value with interval;
            `measured` and `slate_metrics.by_user` make one from a statistic.
        sums: the same value as a fraction of sums, where it is one.
        is_of_labels: whether it asks for labels; a measure of actions alone is of all rows, whatever comes later.
    """

    name: str
    tier: Tier
    meaning: str
    formula: str
    unit: str
    better: Literal["higher", "lower"]
    compute: Callable[[Any], Measurement]
    sums: Sums | None = None
    is_of_labels: bool = True


# ---- intervals ----


class Measured(msgspec.Struct, frozen=True):
    """A computation of a statistic with its interval; see `measured`. It counts each row by its weight."""

    statistic: Statistic
    repeats: int
    by_rank: bool

    def __call__(self, evaluated: Evaluated) -> Measurement:
        """Returns the value with its interval."""
        order = np.lexsort((evaluated.labels, -evaluated.predictions))
        rows = evaluated.take(order)
        mass = rows.mass
        value = self.statistic(rows, mass)
        runs = _runs(rows) if self.by_rank else np.arange(rows.n)
        few = rows.take(runs)
        samples = (weights[order] * mass for weights in _samples(evaluated, self.repeats))
        summed = (np.add.reduceat(weights, runs) if self.by_rank else weights for weights in samples)
        return interval(value, [self.statistic(few, weights) for weights in summed], n=rows.n)


def measured(statistic: Statistic, *, repeats: int = _REPEATS, by_rank: bool = False) -> Measured:
    """Returns a computation of a statistic with the 95 % percentile interval of a bootstrap stratified by label.

    Positives and negatives are drawn apart, each as often as they stand in the rows, so that rare positives are in
    every sample; the interval is one for this share of positives. Rows count as independent: payments of one attack are
    not, and intervals are then too narrow, unless the rows say whom they are about: then people are drawn, apart those
    with a positive. (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, sections 8.3 and 13.3; Field and
    Welsh, JRSS B 69, 2007.) The samples depend on the labels, the people and the seed alone, so every measure of every
    model is taken on the same ones.

    Args:
        statistic: of the rows; they come by falling prediction.
        repeats: samples.
        by_rank: whether it only asks how many rows of each label rank above, beside and below each positive, as all
            ranking metrics here do; negatives that no positive parts then stand as one row.
    """
    return Measured(statistic, repeats, by_rank)


def difference(one: Evaluated, other: Evaluated, *, statistic: Statistic, repeats: int = _REPEATS) -> Measurement:
    """Returns statistic(other) − statistic(one) with its 95 % interval, both on the same rows in every repeat (paired).

    Raises:
        DataError: the two are not about the same rows.
    """
    if not (np.array_equal(one.labels, other.labels) and np.array_equal(one.times, other.times)):
        raise DataError(
            where="paired difference",
            given=f"{one.n} and {other.n} rows whose labels or times differ",
            expected="predictions for the same rows in the same order",
            fix="Evaluate both models on one test part.",
        )
    whole = one.mass
    value = statistic(other, whole) - statistic(one, whole)
    samples = (weights * whole for weights in _samples(one, repeats))
    drawn = [statistic(other, weights) - statistic(one, weights) for weights in samples]
    return interval(value, drawn, n=one.n)


def proportion(successes: int, n: int) -> Measurement:
    """Returns a share of trials with Wilson's 95 % score interval (Wilson, JASA 22, 1927).

    Raises:
        DataError: n is 0, or successes lie outside [0, n].

    >>> share = proportion(8, 10)
    >>> share.value, round(share.low, 4), round(share.high, 4)
    (0.8, 0.4902, 0.9433)
    """
    if not 0 <= successes <= n or n == 0:
        raise DataError(
            where="proportion",
            given=f"{successes} of {n} trials",
            expected="at least one trial and 0 ≤ successes ≤ n",
            fix="Measure on more rows.",
        )
    return _wilson(successes / n, n, n)


def mean(values: Floats) -> Measurement:
    """Returns a mean with its normal 95 % interval; each value counts as independent of the others."""
    average = float(np.mean(values))
    half = 1.96 * float(np.std(values)) / float(np.sqrt(len(values)))
    return Measurement(average, average - half, average + half, len(values))


def share(rows: npt.NDArray[np.bool_], mass: Floats) -> Measurement:
    """Returns the share that some rows are of all, each counted as the rows that it stands for.

    The interval is Wilson's for Kish's effective number of rows, (Σ m)² / Σ m² (Kish, Survey Sampling, 1965, section
    11.7): one row that stands for fifty tells less than fifty. Where each stands for itself it is `proportion`.

    Args:
        rows: which of all.
        mass: how many rows each of all stands for, > 0.

    Raises:
        DataError: there are none.
    """
    need(len(mass) > 0, "share", expected="at least one row")
    whole = float(np.sum(mass))
    return _wilson(min(float(np.sum(mass[rows])) / whole, 1.0), whole**2 / float(np.sum(mass**2)), len(mass))


def _wilson(share: float, trials: float, n: int) -> Measurement:
    spread = _Z95 * np.sqrt(share * (1 - share) / trials + _Z95**2 / (4 * trials * trials))
    centre, scale = share + _Z95**2 / (2 * trials), 1 + _Z95**2 / trials
    low, high = float((centre - spread) / scale), float((centre + spread) / scale)
    # At the ends the bound is the share itself; rounding must not put it on the wrong side.
    return Measurement(share, min(max(low, 0.0), share), max(min(high, 1.0), share), n)


def _samples(rows: Evaluated, repeats: int) -> Counts:
    """Returns how often each row stands in each sample, shape (repeats, rows)."""
    positive = rows.labels > 0
    people = np.where(rows.people >= 0, rows.people, -1 - np.arange(rows.n)) if len(rows.people) else rows.people
    return _drawn(np.packbits(positive).tobytes(), people.tobytes(), len(positive), rows.seed, repeats)


@lru_cache(maxsize=1)  # a report measures many models on the same rows
def _drawn(packed: bytes, people: bytes, n: int, seed: int, repeats: int) -> Counts:
    rng = np.random.default_rng(seed)
    positive = np.unpackbits(np.frombuffer(packed, np.uint8), count=n).astype(np.bool_)
    tokens = np.frombuffer(people, np.int64) if people else np.arange(n)
    unit = np.unique(tokens, return_inverse=True)[1] if people else tokens
    with_positive = np.bincount(unit, positive) > 0
    strata = [units for units in (np.flatnonzero(with_positive), np.flatnonzero(~with_positive)) if len(units)]
    # A unit that stands 256 times in a sample of as many units as there are has a chance below 1/256!.
    samples, counts = np.zeros((repeats, n), np.uint8), np.zeros(len(with_positive), np.uint8)
    for sample in samples:
        for units in strata:
            counts[units] = np.bincount(rng.integers(len(units), size=len(units)), minlength=len(units))
        sample[:] = counts[unit]
    samples.flags.writeable = False
    return samples


def _runs(rows: Evaluated) -> npt.NDArray[np.intp]:
    """Returns where each run of rows begins that rank alike to every positive; rows are sorted by measured()."""
    positive, falls = rows.labels > 0, np.diff(rows.predictions) != 0
    ties = np.concatenate(([0], np.cumsum(falls)))
    shared = np.bincount(ties, positive) > 0  # a positive has this prediction too
    beside = shared[ties]
    begins = (positive[1:] != positive[:-1]) | (falls & (beside[1:] | beside[:-1]))
    return np.flatnonzero(np.concatenate(([True], begins)))


def interval(value: float, drawn: list[float], *, n: int) -> Measurement:
    """Returns a value with the 95 % percentile interval of its repeats."""
    low, high = np.quantile(np.array(drawn), [0.025, 0.975])
    return Measurement(float(value), float(low), float(high), n)


# ---- ranking ----


def average_precision(labels: Floats, predictions: Floats, *, weights: Floats | None = None) -> float:
    """Returns Σ (R_i − R_{i−1}) P_i over falling thresholds, one for each distinct prediction; in [0, 1].

    Raises:
        DataError: there is no positive.
    """
    hits, alarms = _curve(labels, predictions, weights)
    need(hits[-1] > 0, "average precision", expected="a positive label")
    flagged = hits + alarms
    precision = np.divide(hits, flagged, out=np.zeros_like(hits), where=flagged > 0)
    return float(np.sum(np.diff(hits, prepend=0.0) * precision) / hits[-1])


def roc_auc(labels: Floats, predictions: Floats, *, weights: Floats | None = None) -> float:
    """Returns P(a positive ranks above a negative), ties counting half; in [0, 1].

    Raises:
        DataError: one of the two labels is missing.
    """
    hits, alarms = _curve(labels, predictions, weights)
    need(hits[-1] > 0 and alarms[-1] > 0, "ROC AUC", expected="both labels")
    steps, before = np.diff(alarms, prepend=0.0), np.concatenate(([0.0], hits[:-1]))
    return float(np.sum(steps * (hits + before)) / (2.0 * hits[-1] * alarms[-1]))


def recall_at_fpr(labels: Floats, predictions: Floats, *, fpr: float, weights: Floats | None = None) -> float:
    """Returns the largest recall of any threshold whose false-positive rate is at most `fpr`; in [0, 1].

    Raises:
        DataError: one of the two labels is missing.
    """
    hits, alarms = _curve(labels, predictions, weights)
    need(hits[-1] > 0 and alarms[-1] > 0, "recall at a false-positive rate", expected="both labels")
    within = hits[alarms / alarms[-1] <= fpr]
    return float(within[-1] / hits[-1]) if len(within) else 0.0


def threshold_at_fpr(labels: Floats, predictions: Floats, *, fpr: float) -> float:
    """Returns the lowest prediction p for which flagging all rows ≥ p has a false-positive rate of at most `fpr`.

    Infinity where even the highest prediction is shared by too many negatives.

    Raises:
        DataError: there is no negative.
    """
    negatives = np.sort(predictions[labels <= 0])
    need(len(negatives) > 0, "threshold at a false-positive rate", expected="a negative label")
    values = np.unique(predictions)
    alarms = len(negatives) - np.searchsorted(negatives, values, side="left")
    within = values[alarms / len(negatives) <= fpr]
    return float(within[0]) if len(within) else float("inf")


def precision_at_k(labels: Floats, predictions: Floats, *, k: int) -> float:
    """Returns the share of positives among the k highest predictions; rows tied at the border count by their share.

    Raises:
        DataError: k is not in 1…n.
    """
    need(1 <= k <= len(labels), f"precision at {k}", expected=f"at least {max(k, 1)} rows and k ≥ 1")
    hits, alarms = _curve(labels, predictions, None)
    flagged = hits + alarms
    # Linear inside a run of ties: the expectation over their random order.
    return float(np.interp(k, np.concatenate(([0.0], flagged)), np.concatenate(([0.0], hits))) / k)


def card_precision_at_k(evaluated: Evaluated, k: int, *, entity: str = "card") -> Measurement:
    """Returns CP@k: per UTC day, compromised cards among the k most suspicious cards, over k; mean over the days.

    A card's score is its highest prediction of the day, it is compromised if any of its payments of the day is; cards
    found on an earlier day are left out, and so are rows without a card. (Le Borgne et al., Reproducible Machine
    Learning for Credit Card Fraud Detection, 2022, section 4.4.) Each card shown is a trial, so the interval is
    Wilson's. Ties go by token.

    Raises:
        DataError: the entity is absent, there are no rows, or k < 1.
    """
    need(entity in evaluated.entities, f"card precision at {k}", expected=f"tokens of the entity '{entity}'")
    # Not one card of all who have none: an analyst cannot look at it.
    evaluated = evaluated.take(evaluated.entities[entity] >= 0)
    need(k >= 1 and evaluated.n > 0, f"card precision at {k}", expected="at least one row with a card and k ≥ 1")
    cards, days = evaluated.entities[entity], evaluated.times // DAY
    found: set[int] = set()
    hits = 0
    for day in np.unique(days):
        rows = np.flatnonzero((days == day) & ~np.isin(cards, np.fromiter(found, np.int64, len(found))))
        caught = _compromised(evaluated, rows, cards=cards[rows], k=k)
        found.update(caught)
        hits += len(caught)
    return proportion(hits, k * len(np.unique(days)))


def _compromised(evaluated: Evaluated, rows: npt.NDArray[np.intp], *, cards: Int64s, k: int) -> list[int]:
    names, which = np.unique(cards, return_inverse=True)
    score, label = np.full(len(names), -np.inf), np.zeros(len(names))
    np.maximum.at(score, which, evaluated.predictions[rows])
    np.maximum.at(label, which, evaluated.labels[rows])
    shown = np.argsort(-score, kind="stable")[:k]
    return [int(names[card]) for card in shown if label[card] > 0]


def _curve(labels: Floats, predictions: Floats, weights: Floats | None) -> tuple[Floats, Floats]:
    """Returns (true positives, false positives) at each distinct threshold, falling; weighted counts."""
    need(len(labels) > 0, "ranking metric", expected="at least one row")
    order = np.argsort(-predictions, kind="stable")
    falling, sorted_labels = predictions[order], labels[order] > 0
    counts = np.ones(len(order)) if weights is None else weights[order]
    ends = np.append(np.flatnonzero(np.diff(falling)), len(falling) - 1)
    return np.cumsum(counts * sorted_labels)[ends], np.cumsum(counts * ~sorted_labels)[ends]


# ---- probabilities ----


def brier(labels: Floats, predictions: Floats, *, weights: Floats | None = None) -> float:
    """Returns the mean of (p − y)²; in [0, 1], lower is better (Brier, Monthly Weather Review 78, 1950)."""
    return _mean((predictions - labels) ** 2, weights, "Brier score")


def log_loss(labels: Floats, predictions: Floats, *, weights: Floats | None = None) -> float:
    """Returns the mean of −y ln p − (1 − y) ln(1 − p), p kept one machine epsilon from 0 and 1; in nats."""
    tiny = np.finfo(np.float64).eps
    sure = np.clip(predictions, tiny, 1 - tiny)
    return _mean(-np.where(labels > 0, np.log(sure), np.log1p(-sure)), weights, "log loss")


def expected_calibration_error(
    labels: Floats, predictions: Floats, *, bins: int = 15, weights: Floats | None = None
) -> float:
    """Returns Σ over bins of (share of rows) · |mean label − mean prediction|; in [0, 1], lower is better.

    Bins hold equal weight, since with rare positives equal widths would put almost all rows into the first; equal
    predictions share a bin. (Naeini et al., AAAI 2015; equal mass: Nixon et al., CVPR workshops 2019.)
    """
    need(len(labels) > 0, "expected calibration error", expected="at least one row")
    counts = np.ones(len(labels)) if weights is None else weights
    which = _rising_places(predictions)
    mass = np.bincount(which, counts)
    middle = (np.cumsum(mass) - mass / 2) / np.sum(mass)
    bin_of = np.minimum((middle * bins).astype(np.intp), bins - 1)[which]
    gaps = np.bincount(bin_of, counts * (labels - predictions), minlength=bins)
    return float(np.sum(np.abs(gaps)) / np.sum(counts))


def _rising_places(values: Floats) -> npt.NDArray[np.intp]:
    """Returns the place of each value among the distinct ones, rising."""
    steps = np.diff(values)
    if np.any(steps > 0):
        places: npt.NDArray[np.intp] = np.unique(values, return_inverse=True)[1]
        return places
    # Falling, as a bootstrap keeps them: nothing needs sorting.
    fallen = np.concatenate(([0], np.cumsum(steps < 0)))
    return np.asarray(fallen[-1] - fallen, np.intp)


# ---- money ----


def value_weighted_recall(
    labels: Floats, amounts: Int64s, *, caught: npt.NDArray[np.bool_], weights: Floats | None = None
) -> float:
    """Returns the share of the positives' money that was caught; in [0, 1].

    Args:
        labels: 0 or 1.
        amounts: minor units, ≥ 0.
        caught: rows that were stopped, by an action or by a threshold.
        weights: of the rows.

    Raises:
        DataError: the positives have no money at stake.
    """
    at_stake = amounts * (labels > 0) * (np.ones(len(labels)) if weights is None else weights)
    total = float(np.sum(at_stake))
    need(total > 0, "value-weighted recall", expected="a positive with an amount above 0")
    return float(np.sum(at_stake[caught])) / total


def _mean(values: Floats, weights: Floats | None, where: str) -> float:
    need(len(values) > 0, where, expected="at least one row")
    return float(np.mean(values)) if weights is None else float(np.sum(values * weights) / np.sum(weights))


def need(holds: bool, where: str, *, expected: str) -> None:  # noqa: FBT001 - reads as a sentence: need(this, for, what)
    """Checks that rows have what a metric needs.

    Raises:
        DataError: they do not.
    """
    if not holds:
        raise DataError(
            where=where, given="rows without it", expected=expected, fix="Measure on a longer or later part of the log."
        )
