"""Figures of what happened: each measure with what is known of its labels, its bounds, and what is expected of it.

A measure that is a fraction of sums (`metrics.Sums`) is of every row as it was: a label that has not come is in its
bounds and in its expectation, and one that never comes, as after a block, is in the interval of the matured value too.
Any other measure is of the rows whose labels have come, each counted as those that it was drawn for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np

from decalog.errors import DataError
from decalog.examples import NO_ENTITY, Bools, Floats, Int64s
from decalog.happened import Happened, Known
from decalog.metrics import Evaluated, Measured, Measurement, Metric, Sums, Tier, need
from decalog.quantity_metrics import Quantities, usual_of
from decalog.quantity_training import worths
from decalog.slate_metrics import Ranked
from decalog.statistics.clusters import Clusters, apart
from decalog.statistics.completeness import (
    Awaited,
    Check,
    Fraction,
    arrivals,
    bounded,
    checked,
    expected,
    extremes,
    imputed,
)

_T = TypeVar("_T")

TOLERANCE = 0.1
"""The part of a figure up to which an error of its expectation is no doubt."""
_OLD = "decisions old enough for silence to count"
_SURE = 0.999
"""No silence makes a chance 0: a label may come later than any did."""


class Labels(msgspec.Struct, frozen=True):
    """How many labels are there: `mature` ones, `known` ones, `hidden` ones that silence will never give, of `n`."""

    mature: int
    known: int
    hidden: int
    n: int


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """A measure of some decisions.

    Args:
        metric, tier, unit, better: as the system declares them.
        value: as it happened, of what has matured; None where nothing has.
        lacking: what there would have to be for a value.
        labels: None where the measure asks for none.
        between: lowest and highest value that all rows can still have; None where nothing bounds it.
        expected: of all rows once every label is in; None where nothing is awaited, or nothing can be expected.
        check: how an expectation made a maturity ago fared.
        doubts: why not to trust what is expected, one sentence each.
    """

    metric: str
    tier: Tier
    unit: str
    better: str
    value: Measurement | None = None
    lacking: str = ""
    labels: Labels | None = None
    between: tuple[Measurement, Measurement] | None = None
    expected: Measurement | None = None
    check: Check | None = None
    doubts: tuple[str, ...] = ()


class Moment(NamedTuple):
    """What is known at a moment of all rows, and how likely the label of a positive would have come (n × heads)."""

    known: Known
    arrived: Floats


def moment(happened: Happened, by: int) -> Moment:
    """Returns what is known of labels at a moment, µs."""
    known = happened.known(by)
    arrived = np.zeros(known.labels.shape)
    for head in range(len(happened.heads)):
        took = known.delays[known.is_old[:, head], head]
        took = took[np.isfinite(took)]
        if len(took):
            arrived[:, head] = np.minimum(arrivals(took, known.ages[:, head]), _SURE)
    # Silence after a block says nothing.
    return Moment(known, np.where(known.is_hidden, 0.0, arrived))


class Pricing(NamedTuple):
    """What turns rows into money and positions into chances to be seen: the policy, and the champion's examination."""

    policy: Any
    examination: tuple[float, ...] = (1.0,)


class Part:
    """Some of what happened, as measures take it.

    Args:
        happened: all.
        places: of the rows.
        at: the moment whose labels count.
        pricing: policy and examination.
        now_us: until when whole slates were spoken of.
    """

    def __init__(self, happened: Happened, places: Int64s, at: Moment, *, pricing: Pricing, now_us: int) -> None:
        self.happened, self.places, self.pricing, self._now_us = happened, places, pricing, now_us
        self.rows = [happened.rows[place] for place in places.tolist()]
        self.n, self.predictions = len(places), happened.predictions[places]
        self.known = at.known.take(places)
        self.arrived = at.arrived[places]
        people = happened.people[places]
        alone = -1 - happened.whole([row.seq for row in self.rows])
        # A decision about nobody is a person of its own, with all that it showed.
        self.people = np.unique(np.where(people == NO_ENTITY, alone, people), return_inverse=True)[1].astype(np.int64)

    def at(self, labels: Floats) -> Any:
        """Returns the rows with labels, or chances of them, as measures take them."""
        if isinstance(self._bare, Quantities):
            return self._bare
        if isinstance(self._bare, Ranked):
            worth = self.pricing.policy.worth(self.happened.heads, np.nan_to_num(labels))
            return msgspec.structs.replace(self._bare, labels=labels, worth=worth)
        good, bad = self._costs
        costs = good + np.nan_to_num(labels[:, 0]) * (bad - good)
        return msgspec.structs.replace(self._bare, labels=labels[:, 0], costs=costs)

    @cached_property
    def _bare(self) -> Evaluated | Ranked | Quantities:
        """The rows without labels and what follows from them; of quantities with those, which nobody guesses at."""
        if self.happened.schema.label.of:
            return self._counted()
        return self._shown() if self.happened.schema.slate_of else self._decided()

    def _counted(self) -> Quantities:
        known, rows, policy = self.known, self.rows, self.pricing.policy
        named = self.happened.schema.request.entities[0].name
        groups = self.happened.whole([row.request.entities.get(named, -1 - row.seq) for row in rows])
        usual = usual_of(known.expected, groups)
        chosen = np.array([row.quantity for row in rows], np.float64)
        requests = [row.request for row in rows]
        return Quantities(
            heads=self.happened.heads,
            labels=known.labels[:, 0],
            bounds=known.bounds,
            expected=known.expected,
            drawn=known.drawn,
            predictions=self.predictions,
            chosen=chosen,
            worth=worths(policy, requests, chosen=chosen, labels=known.drawn, usual=usual),
            groups=groups,
            times=self.happened.times[self.places],
            facts=tuple(request.attributes for request in requests),
        )

    def _decided(self) -> Evaluated:
        rows, whole = self.rows, self.happened.whole
        names = [entity.name for entity in self.happened.schema.request.entities]
        found = {name: whole([row.request.entities.get(name, NO_ENTITY) for row in rows]) for name in names}
        return Evaluated(
            labels=np.empty(0),
            predictions=self.predictions[:, 0],
            amounts=whole([row.amount for row in rows]),
            times=self.happened.times[self.places],
            actions=np.array([row.acted for row in rows], np.str_),
            entities={name: tokens for name, tokens in found.items() if np.any(tokens != NO_ENTITY)},
            people=self.people,
        )

    def _shown(self) -> Ranked:
        rows, whole = self.rows, self.happened.whole
        positions, curve = whole([row.position for row in rows]), np.array(self.pricing.examination)
        return Ranked(
            heads=self.happened.heads,
            labels=np.empty(0),
            predictions=self.predictions,
            values=-positions.astype(np.float64),
            worth=np.empty(0),
            slates=whole([row.seq for row in rows]),
            users=self.people,
            positions=positions,
            examined=curve[np.minimum(positions, len(curve) - 1)],
            refs=np.unique([row.ref for row in rows], return_inverse=True)[1].astype(np.int64),
            times=self.happened.times[self.places],
            things=len({row.ref for row in self.happened.rows}),
            facts=tuple(row.facts for row in rows),
            ends=self.happened.ends({row.seq: row.ids for row in rows}, by=self._now_us),
        )

    @cached_property
    def _costs(self) -> tuple[Floats, Floats]:
        """What each row's action cost if its label is 0, and if it is 1; minor units."""
        asked: dict[tuple[str, int], tuple[int, int]] = {}
        cost = self.pricing.policy.cost_minor
        for row in self.rows:
            key = (row.acted, row.amount)
            if key not in asked:
                good, bad = (cost(row.acted, label=label, amount_minor=row.amount) for label in (0.0, 1.0))
                asked[key] = (good, bad)
        both = np.array([asked[row.acted, row.amount] for row in self.rows], np.float64).reshape(self.n, 2)
        return both[:, 0], both[:, 1]

    def fraction(self, sums: Sums, heads: list[int] | None = None) -> tuple[Fraction, list[int]]:
        """Returns a measure as a fraction over cells (row by row, head by head), and the heads that it asks for."""
        none = np.zeros(self.predictions.shape)
        base = np.stack(sums.of(self.at(none)))
        effects = [np.stack(sums.of(self.at(one))) - base for one in self._each(none)]
        heads = heads or [head for head, effect in enumerate(effects) if effect.any()] or [0]
        above, below = np.stack([effects[head] for head in heads], axis=2).reshape(2, -1)
        first = np.arange(len(heads)) == 0
        base_above, base_below = (np.outer(side, first).ravel() for side in base)
        return Fraction(above, below, base_below, base_above, sums.within), heads

    @staticmethod
    def _each(none: Floats) -> Iterator[Floats]:
        """Yields labels of which one head's are all 1."""
        for head in range(none.shape[1]):
            yield none + (np.arange(none.shape[1]) == head)

    def awaited(self, heads: list[int], of: Fraction | None = None) -> Awaited:
        """Returns what is known of the cells of some heads; where nothing was predicted of a row, the mean is.

        Args:
            heads: places of them.
            of: the measure; labels that it does not ask for are not awaited.
        """
        labels, p = self.known.labels[:, heads], self.predictions[:, heads]
        is_awaited = ~np.isfinite(labels) & (True if of is None else of.asks.reshape(labels.shape))
        means = [float(np.mean(one[np.isfinite(one)])) if np.isfinite(one).any() else np.nan for one in p.T]
        chances = np.where(is_awaited, np.where(np.isfinite(p), p, means), 0.0)
        return Awaited(
            labels=np.nan_to_num(labels).ravel(),
            matured=~is_awaited.ravel(),
            predictions=np.clip(chances, 0.0, 1.0).ravel(),
            arrived=self.arrived[:, heads].ravel(),
            entities=np.repeat(self.people, len(heads)),
        )

    def is_old(self, heads: list[int]) -> Bools:
        """Which rows have had their time for each of some heads."""
        return np.asarray(self.known.is_old[:, heads].all(axis=1), np.bool_)

    def is_known(self, heads: list[int]) -> Bools:
        """Which rows have a label of each of some heads."""
        return np.asarray(np.isfinite(self.known.labels[:, heads]).all(axis=1), np.bool_)

    def labels(self, heads: list[int], of: Fraction | None = None) -> Labels:
        """Returns how many labels are there, of the rows whose labels a measure asks for."""
        asked = np.ones(self.n, np.bool_) if of is None else of.asks.reshape(self.n, -1).any(axis=1)
        is_known, is_old = self.is_known(heads) & asked, self.is_old(heads)
        hidden = self.known.is_hidden[:, heads].any(axis=1) & asked & ~is_known
        return Labels(*(int(np.sum(rows)) for rows in (is_known & is_old, is_known, hidden, asked)))


class Earlier(NamedTuple):
    """Earlier decisions by which expectations are checked: as known then, and as known now.

    `unchecked` is the share of the rows to be expected whose model decided none of them; `checks` keeps what was found
    of each measure, as groups of one time share their earlier decisions.
    """

    then: Part
    now: Part
    unchecked: float
    checks: dict[tuple[str, ...], Check | None]

    def check(self, key: tuple[str, ...], made: Callable[[], Check]) -> Check | None:
        """Returns how a measure's earlier expectation fared; None where too few labels came."""
        if key not in self.checks:
            self.checks[key] = _if_any(made)
        return self.checks[key]


def figure(metric: Metric, part: Part, *, earlier: Earlier | None) -> Figure:
    """Returns a measure of a part of what happened.

    Args:
        metric: of the system.
        part: the decisions.
        earlier: by which an expectation is checked; None where there are none.
    """
    bare = Figure(metric=metric.name, tier=metric.tier, unit=metric.unit, better=metric.better)
    made = _with_value(bare, lambda: _matured(metric, part))
    if not metric.is_of_labels:
        return made
    return _of_sums(metric.sums, part, earlier, made=made) if metric.sums else _of_shares(metric, part, earlier, made)


def _matured(metric: Metric, part: Part) -> Measurement:
    """Returns the value of what has had its time; whatever hidden labels say is in its interval."""
    if metric.sums is None:
        return _of_rows(metric, part)
    low, high, value = _ends(metric.sums, part)
    return Measurement(value, low.measured().low, high.measured().high, low.n)


def difference(metric: Metric, one: Part, *, other: Part) -> Measurement | None:
    """Returns a measure of `other` less that of `one`, which share nobody; None where one of them has no value."""
    sums = metric.sums
    if sums is None:
        return _if_any(lambda: apart(_of_rows(metric, one), _of_rows(metric, other)))
    return _if_any(lambda: _between(_ends(sums, one), _ends(sums, other)))


def _between(ours: tuple[_End, _End, float], theirs: tuple[_End, _End, float]) -> Measurement:
    # Hidden labels of one side may speak for it, and those of the other against: both ends allow for that.
    low, high = theirs[0].less(ours[1]), theirs[1].less(ours[0])
    value = theirs[2] - ours[2]
    return Measurement(value, min(low.low, value), max(high.high, value), low.n)


def _with_value(made: Figure, value: Callable[[], Measurement]) -> Figure:
    """Returns a figure with its value, or with what is lacking for one."""
    try:
        return msgspec.structs.replace(made, value=value())
    except DataError as error:
        return msgspec.structs.replace(made, lacking=error.expected)


def _if_any(made: Callable[[], _T]) -> _T | None:
    """Returns what can be made, or None where there are too few rows for it."""
    try:
        return made()
    except DataError:
        return None


def _doubted(made: Figure, told: Measurement, check: Check | None, earlier: Earlier | None, *more: str) -> Figure:
    """Returns a figure with what is expected, and why not to trust it."""
    doubts = list(more)
    if check is None:
        doubts.append("no earlier expectation has its labels yet, so nothing checks it")
    elif check.is_off(TOLERANCE):
        doubts.append("an earlier expectation was off by more than chance")
    if check is not None and earlier is not None and earlier.unchecked > TOLERANCE:
        doubts.append(f"{100 * earlier.unchecked:.0f} % of it rests on models of which no label has matured")
    return msgspec.structs.replace(made, expected=told, check=check, doubts=tuple(doubts))


# ---- fractions of sums ----


class _End(NamedTuple):
    """A measure with one end of what its labels can be."""

    fraction: Fraction
    labels: Floats
    rows: Clusters
    n: int

    def measured(self) -> Measurement:
        return self.fraction.measured(self.labels, self.rows)

    def less(self, other: _End) -> Measurement:
        gap = self.fraction.clustered(self.labels, self.rows).beyond(other.fraction.clustered(other.labels, other.rows))
        unmet = self.fraction.unmet(self.labels, self.rows), other.fraction.unmet(other.labels, other.rows)
        told = gap.measured((*unmet[0], *(-one for one in unmet[1])))
        return msgspec.structs.replace(told, n=self.n + other.n)


def _ends(sums: Sums, part: Part) -> tuple[_End, _End, float]:
    """Returns the lowest and the highest that a measure of matured rows can be, and it by predictions of hidden labels.

    Where no label matters, or none is hidden, all are one.
    """
    fraction, heads = part.fraction(sums)
    awaited, is_old = part.awaited(heads, fraction), part.is_old(heads)
    if fraction.asks.any():
        need(bool(is_old.any()), "matured labels", expected=_OLD)
        cells = np.repeat(is_old, len(heads))
        fraction, awaited = fraction.take(cells), awaited.take(cells)
    rows, n = awaited.clusters, len(fraction.below) // len(heads)
    low, high = (_End(fraction, labels, rows, n) for labels in extremes(fraction, awaited))
    value = fraction.value(imputed(awaited))
    need(np.isfinite(value), "matured labels", expected="a row that counts")
    return low, high, value


def _of_sums(sums: Sums, part: Part, earlier: Earlier | None, *, made: Figure) -> Figure:
    fraction, heads = part.fraction(sums)
    if not fraction.asks.any():
        return made  # it is of something that was never done
    awaited = part.awaited(heads, fraction)
    made = msgspec.structs.replace(made, labels=part.labels(heads, fraction))
    ends = _if_any(lambda: bounded(fraction, awaited)) if np.any(awaited.unknown) else None
    if ends is None:
        return made  # nothing is awaited, or nothing counts yet
    made = msgspec.structs.replace(made, between=(ends.low, ends.high))
    key = (made.metric, *(part.happened.heads[head] for head in heads))
    check = None if earlier is None else earlier.check(key, lambda: _checked(sums, earlier, heads))
    told = _if_any(lambda: fraction.measured(imputed(awaited), awaited.clusters))
    if told is None:
        return made  # nothing was predicted
    if check is not None:
        told = expected(fraction, awaited, tolerance=TOLERANCE, check=check).value
    is_hidden = part.known.is_hidden[:, heads].ravel() & awaited.unknown
    return _doubted(made, told, check, earlier, *_by_hidden(fraction, awaited, is_hidden, value=told.value))


def _checked(sums: Sums, earlier: Earlier, heads: list[int]) -> Check:
    came = earlier.now.is_known(heads)
    cells = np.repeat(came, len(heads))
    fraction, _ = earlier.then.fraction(sums, heads)
    labels = earlier.now.known.labels[:, heads].ravel()[cells]
    return checked(fraction.take(cells), earlier.then.awaited(heads).take(cells), came=labels)


def _by_hidden(fraction: Fraction, awaited: Awaited, is_hidden: Bools, *, value: float) -> Iterator[str]:
    """Yields the doubt that labels which silence never gives, and nothing checks, could move what is expected."""
    labels = np.where(is_hidden, 0.0, imputed(awaited))
    ends = _if_any(lambda: bounded(fraction, msgspec.structs.replace(awaited, labels=labels, matured=~is_hidden)))
    if ends is not None and ends.high.value - ends.low.value > TOLERANCE * abs(value):
        span = f"between {ends.low.value:.3g} and {ends.high.value:.3g}"
        yield f"{int(np.sum(is_hidden)):,} hidden labels, of which silence says nothing, can move it {span}"


# ---- any other measure ----


def _of_rows(metric: Metric, part: Part) -> Measurement:
    if not metric.is_of_labels:
        return metric.compute(part.at(part.known.labels))
    heads = list(range(len(part.happened.heads)))
    is_old = part.is_old(heads)
    need(bool(is_old.any()), "matured labels", expected=_OLD)
    return metric.compute(_told(part, is_old & part.is_known(heads), metric.tier))


def _of_shares(metric: Metric, part: Part, earlier: Earlier | None, made: Figure) -> Figure:
    heads = list(range(len(part.happened.heads)))
    is_known = part.is_known(heads)
    made = msgspec.structs.replace(made, labels=part.labels(heads))
    if not isinstance(metric.compute, Measured) or is_known.all():
        return made
    told = _if_any(lambda: metric.compute(_in_shares(part, np.ones(part.n, np.bool_))))
    if told is None:
        return made
    check = None if earlier is None else earlier.check((metric.name,), lambda: _fared(metric, earlier, heads))
    half = 0.0 if check is None else (1 - float(np.mean(is_known))) * (check.gap.high - check.gap.low) / 2
    low, high = (float(np.hypot(end - told.value, half)) for end in (told.low, told.high))
    # An error as large as the figure itself leaves its sign.
    told = Measurement(told.value, max(told.value - low, min(told.low, 0.0)), told.value + high, part.n)
    return _doubted(made, told, check, earlier)


def _fared(metric: Metric, earlier: Earlier, heads: list[int]) -> Check:
    came = earlier.now.is_known(heads)
    then, now = metric.compute(_in_shares(earlier.then, came)), metric.compute(_told(earlier.now, came, metric.tier))
    # The same rows on both sides: as if they were others, the gap is told wider than it is.
    return Check(then, now, apart(now, then), now.n)


def _told(part: Part, rows: Bools, tier: Tier) -> Any:
    """Returns the rows of a mask, those of which nothing was predicted left out where that is what is measured."""
    is_predicted = np.isfinite(part.predictions).all(axis=1) if tier == "model" else np.ones(part.n, np.bool_)
    made = part.at(part.known.labels)
    if isinstance(made, Evaluated):
        weights = np.array([1 / row.propensity for row in part.rows])
        made = msgspec.structs.replace(made, weights=weights)
    return made.take(rows & is_predicted)


def _in_shares(part: Part, rows: Bools) -> Evaluated:
    """Returns rows of which each that awaits its label stands for its chance of a positive, and the rest of a negative.

    Measures that count rows by their weight are then as expected, if predictions are right.
    """
    awaited = part.awaited([0])
    chance, kept = imputed(awaited), rows & np.isfinite(part.predictions[:, 0])
    known, open_ = np.flatnonzero(kept & ~awaited.unknown), np.flatnonzero(kept & awaited.unknown)
    made = part.at(chance[:, None]).take(np.concatenate([known, open_, open_]))
    labels = np.concatenate([awaited.labels[known], np.ones(len(open_)), np.zeros(len(open_))])
    weights = np.concatenate([np.ones(len(known)), chance[open_], 1 - chance[open_]])
    told: Evaluated = msgspec.structs.replace(made, labels=labels, weights=weights)
    return told
