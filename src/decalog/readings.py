"""What the looks of a watch read: one function a quantity that a monitor can name."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.clock import DAY, duration_us
from decalog.features.definition import Attribute, Derived
from decalog.metrics import Floats, Int64s, Measurement
from decalog.monitoring import Monitor
from decalog.references import LEAST_ROWS, Column, Flow, Reference, Seen, Values, columns_of, counted, parts_of
from decalog.standing import PEOPLE
from decalog.statistics import drift
from decalog.statistics.calibration import calibration
from decalog.statistics.clusters import Clusters, clusters
from decalog.statistics.distributions import t_tail
from decalog.statistics.levels import Judged, judge_count, judge_mean, judge_rate, judge_share, silence_p_value
from decalog.statistics.screening import FLOORS
from decalog.system import System, load
from decalog.tails import Champion, Decided, LogTail, Report, Row, Tail, matured

Places = npt.NDArray[np.intp]

_PARTS = 4
_LEAST_HITS = 3
_MOST_SLICES = 10
_LEFT = 0.1
"""Part of the reference's reports that may be all that is left where the system prevents what it predicts."""
_DAYS_FREE = 6
"""Degrees of freedom of a week's days, for features' parts."""


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What one comparison of one look says.

    Args:
        labels: of its slice; empty for the whole.
        said: in words.
        value: as measured, where it is one number.
        is_beyond: whether it is beyond its level.
        p_value: of being so by chance.
    """

    said: str
    is_beyond: bool
    p_value: float
    value: Measurement | None = None
    labels: dict[str, str] = {}


class Look(msgspec.Struct, frozen=True):
    """One monitor at one time: the window (start, stop]."""

    monitor: Monitor
    start: int
    stop: int
    tail: Tail
    system: System
    champion: Champion
    log: LogTail

    @property
    def reference(self) -> Reference | None:
        """What changes are measured from; None for a window that began before the champion came into force."""
        return self.champion.reference if self.start >= self.champion.begin else None

    @property
    def decided(self) -> list[Decided]:
        """The window's decisions."""
        return self.tail.decided[
            slice(*np.searchsorted(self.tail.times, [self.start, self.stop], side="right").tolist())
        ]

    @property
    def middle(self) -> int:
        """The middle of the window, µs."""
        return (self.start + self.stop) // 2

    @property
    def is_above(self) -> bool:
        """Whether a value above the level is wrong."""
        return self.monitor.alert == "above"

    @property
    def seen(self) -> Seen:
        """The things of the window."""
        places = np.searchsorted(self.tail.seen.times, [self.start, self.stop], side="right")
        return self.tail.seen.take(np.arange(*places))

    @property
    def reports(self) -> list[Report]:
        """What was reported in the window."""
        first, last = self.places_in(self.tail.reports)
        return self.tail.reports[first:last]

    @property
    def requests(self) -> tuple[int, int]:
        """How many requests came in each half, decided here or not."""
        times = self.tail.heard[self.system.schema.request.name]
        first, middle, last = np.searchsorted(times, [self.start, self.middle, self.stop], side="right").tolist()
        return middle - first, last - middle

    def places_in(self, told: Sequence[Row] | Sequence[Report]) -> tuple[int, int]:
        """Returns where the window's rows stand."""
        return (
            bisect.bisect_right(told, self.start, key=lambda one: one.known),
            bisect.bisect_right(told, self.stop, key=lambda one: one.known),
        )


def read(look: Look) -> Iterable[Reading]:
    """Returns what a look says, one reading a comparison."""
    return _QUANTITIES[look.monitor.watches](look)


# ---- against a level ----


def _judged(
    look: Look, judged: Judged | None, *, halves: Iterable[float | None] = (), labels: Mapping[str, str] | None = None
) -> Iterator[Reading]:
    """Yields what was judged; what happens in one half of a window alone is a burst, and no state."""
    if judged is None:
        return
    value, level = judged.value, look.monitor.level
    values = [value.value, *(half for half in halves if half is not None)]
    is_beyond = all(one > level if look.is_above else one < level for one in values)
    said = f"{value.value:.4g} ({value.low:.4g} to {value.high:.4g}) of {value.n:,}, level {level:g}"
    yield Reading(said=said, is_beyond=is_beyond, p_value=judged.p_value, value=value, labels=dict(labels or {}))


def _share(look: Look, hits: Sequence[bool], *, labels: Mapping[str, str] | None = None) -> Iterator[Reading]:
    """Yields a share of the window's decisions, whole and by slice."""
    made = np.array(hits, np.float64)
    for places, slice_ in _slices(look):
        rows = _people(look, places)
        judged = judge_share(made[places], rows=rows, level=look.monitor.level, above=look.is_above)
        yield from _judged(look, judged, halves=_halves(look, made, places=places), labels={**(labels or {}), **slice_})


def _mean(look: Look, values: Sequence[float | None]) -> Iterator[Reading]:
    made = np.array([np.nan if one is None else one for one in values], np.float64)
    for places, slice_ in _slices(look):
        there = places[np.isfinite(made[places])]
        rows, level = _people(look, there), look.monitor.level
        judged = judge_mean(made[there], rows=rows, level=level, above=look.is_above) if len(there) else None
        yield from _judged(look, judged, halves=_halves(look, made, places=there), labels=slice_)


def _people(look: Look, places: Places) -> Clusters:
    whose = np.array([one.whose for one in look.decided], np.int64)
    return clusters(whose[places], n=len(places), where=look.monitor.name)


def _halves(look: Look, made: Floats, *, places: Places) -> Iterator[float | None]:
    """Yields the mean of each half of the window; None where it has no rows."""
    is_early = np.array([one.known <= look.middle for one in look.decided])[places]
    for half in (places[is_early], places[~is_early]):
        yield float(np.mean(made[half])) if len(half) else None


def _slices(look: Look) -> Iterator[tuple[Places, dict[str, str]]]:
    """Yields the places of the window's decisions, of all and of the most frequent values of each sliced name."""
    decided = look.decided
    if not decided:
        return
    yield np.arange(len(decided)), {}
    for name in look.monitor.slices:
        values = np.array([str(one.facts.get(name, "")) for one in decided])
        known, counts = np.unique(values, return_counts=True)
        for value in known[np.argsort(-counts, kind="stable")][:_MOST_SLICES].tolist():
            yield np.flatnonzero(values == value), {name: value}


def _action(look: Look) -> Iterator[Reading]:
    yield from _share(look, [one.action in look.monitor.of for one in look.decided])


def _fallback(look: Look) -> Iterator[Reading]:
    found = look.decided
    for reason in sorted({one.fallback for one in found} - {"", *PEOPLE}):  # what people wish is no failure
        yield from _share(look, [one.fallback == reason for one in found], labels={"reason": reason})


def _late(look: Look) -> Iterator[Reading]:
    yield from _share(look, [f"{look.monitor.of[0]} late" in one.stages for one in look.decided])


def _slow(look: Look) -> Iterator[Reading]:
    most = look.system.deadline_ms * 1_000
    yield from _share(look, [one.took_us > most for one in look.decided])


def _prediction(look: Look) -> Iterator[Reading]:
    yield from _mean(look, [one.lead.get(look.monitor.of[0]) for one in look.decided])


def _spread(look: Look) -> Iterator[Reading]:
    head = (*look.monitor.of, *look.champion.heads, "")[0]
    if look.system.schema.slate_of:
        yield from _mean(look, [one.spread.get(head) for one in look.decided])
        return
    said = [one.lead.get(head) for one in look.decided]
    known = [one for one in said if one is not None]
    mean = float(np.mean(known)) if known else 0.0
    yield from _mean(look, [None if one is None else abs(one / mean - 1) if mean else 0.0 for one in said])


def _reached(look: Look) -> Iterator[Reading]:
    """Yields entities that reached a feature's value, once each, over the decisions: a burst of one address is one."""
    (name,), decided = look.monitor.of, look.decided
    if decided:
        told = [(one.known <= look.middle, one.reached.get(name)) for one in decided]
        whole = {whose for _, whose in told} - {None}
        halves = ([whose for is_early, whose in told if is_early is half] for half in (True, False))
        rates = (len({*half} - {None}) / len(half) if half else None for half in halves)
        judged = judge_count(len(whole), len(decided), level=look.monitor.level, above=look.is_above)
        for reading in _judged(look, judged, halves=rates):
            said = f"{len(whole):,} reached {name} {look.monitor.least:g}: {reading.said}"
            yield msgspec.structs.replace(reading, said=said)


def _worth(look: Look) -> Iterator[Reading]:
    yield from _mean(look, [one.worth for one in look.decided])


def _rejected(look: Look) -> Iterator[Reading]:
    first, last = look.places_in(look.tail.rows)
    rows = look.tail.rows[first:last]
    for kind in sorted({row.kind for row in rows}):
        hits = np.array([row.is_refused for row in rows if row.kind == kind], np.float64)
        alone = clusters([], n=len(hits), where=look.monitor.name)
        judged = judge_share(hits, rows=alone, level=look.monitor.level, above=look.is_above)
        yield from _judged(look, judged, labels={"kind": kind})


def _reported(look: Look) -> Iterator[Reading]:
    """Yields decisions that were reported, once each, over those that took an action."""
    kinds, among = look.monitor.of, look.monitor.among
    told = {one.target for one in look.reports if one.says and one.is_of_decision and one.kind in kinds}
    decisions = sum(not among or one.action in among for one in look.decided)
    if decisions:
        yield from _judged(look, judge_count(len(told), decisions, level=look.monitor.level, above=look.is_above))


def _silence(look: Look) -> Iterator[Reading]:
    newest = {kind: _newest(times, look.stop) for kind, times in look.tail.heard.items()}
    for feature in look.system.features.aggregates:
        if not feature.staleness or not set(feature.over) <= newest.keys():
            continue
        silent_us = look.stop - max(look.tail.since, *(newest[kind] for kind in feature.over))
        is_stale = silent_us > duration_us(feature.staleness)
        said = f"{', '.join(feature.over)} silent for {silent_us / DAY:.3g} days, {feature.staleness} declared"
        labels = {"feature": feature.name}
        yield Reading(said=said, is_beyond=is_stale, p_value=0.0 if is_stale else 1.0, labels=labels)


def _newest(times: Int64s, stop: int) -> int:
    place = int(np.searchsorted(times, stop, side="right"))
    return int(times[place - 1]) if place else 0


def _found(look: Look) -> Iterator[Reading]:
    check = load(look.monitor.of[0])
    for one in check(look.log, start=look.start, stop=look.stop):
        yield Reading(said=one.said, is_beyond=one.is_beyond, p_value=one.p_value, labels=one.labels)


# ---- against the champion's reference ----


def _inputs(look: Look) -> Iterator[Reading]:
    yield from _shifts(look, look.seen, is_wanted=lambda name: name not in look.champion.heads)


def _predictions(look: Look) -> Iterator[Reading]:
    seen = look.seen
    told = seen.take(np.flatnonzero(np.all(np.isfinite(seen.predictions), axis=1)))
    yield from _shifts(look, told, is_wanted=lambda name: name in look.champion.heads)


def _shifts(look: Look, seen: Seen, *, is_wanted: Callable[[str], bool]) -> Iterator[Reading]:
    reference, champion = look.reference, look.champion
    if reference is None or len(seen.times) < _PARTS * LEAST_ROWS:
        return
    unwatched = champion.filling | steered(look.system)
    for name, values in columns_of(seen, look.system.schema, names=champion.names, heads=champion.heads):
        if name in reference.columns and name not in unwatched and is_wanted(name):
            yield from _compared(look, reference.columns[name], name=name, values=values)


def steered(system: System) -> frozenset[str]:
    """Returns what follows from earlier decisions: values of requests, and features that are made of such values."""
    kinds = (system.schema.request, *system.schema.events)
    fields = {field.name for kind in kinds for field in kind.fields if field.steered}
    found = {feature.name for feature in system.features.aggregates if feature.column in fields}
    for feature in system.features.features:
        is_read = isinstance(feature, Attribute) and feature.attribute in fields
        if is_read or (isinstance(feature, Derived) and found & set(feature.parts)):
            found.add(feature.name)
    return frozenset(found | {f"request.{name}" for name in fields})


def _compared(look: Look, column: Column, *, name: str, values: Values) -> Iterator[Reading]:
    """Yields the ways in which values differ from a reference: surely in the window, and largely all through it.

    That is: beyond the worst day of the reference, and half as much in each quarter of the rows, of which three at
    least are null or new. A burst, or one card that is new in something, is no drift.
    """
    reference = look.reference
    if reference is None:
        return
    grid, before = column.grid(name), np.array(column.counts, np.int64)
    ends = np.linspace(0, len(values), _PARTS + 1).astype(np.int64).tolist()
    parts = [counted(name, column, values=values[start:end]) for start, end in itertools.pairwise(ends)]
    for shift in drift.compare(grid, before, current=np.sum(parts, axis=0), inflation=column.inflation):
        least = look.monitor.level if shift.kind == "distribution" else FLOORS[shift.kind]
        floor = reference.floor(column, shift.kind, least=least)
        is_beyond = shift.effect >= floor and all(
            _is_part_of(shift.kind, drift.compare(grid, before, current=part), floor=floor) for part in parts
        )
        yield _shifted(shift, name, is_beyond=is_beyond)


def _is_part_of(kind: str, shifts: Iterable[drift.Shift], *, floor: float) -> bool:
    """Whether a part of the rows has its part in a shift."""
    enough = [one for one in shifts if kind == "distribution" or one.effect * one.current >= _LEAST_HITS]
    return any(one.kind == kind and one.effect >= floor / 2 for one in enough)


def _shifted(shift: drift.Shift, name: str, *, is_beyond: bool) -> Reading:
    is_whole = shift.kind == "distribution"
    told = shift.measures
    said = (
        f"{name}: PSI {told['psi']:.3g} ({told['psi_expected']:.3g} by chance)"
        if is_whole
        else f"{name}: {100 * told['current']:.3g} % {shift.kind}, {100 * told['reference']:.3g} % before"
    )
    said += f", {shift.current:,} rows against {shift.reference:,}"
    return Reading(said=said, is_beyond=is_beyond, p_value=shift.p_value, labels={"name": name})


def _importances(look: Look) -> Iterator[Reading]:
    champion, reference, seen = look.champion, look.reference, look.seen
    if reference is None or champion.model is None or len(seen.times) < LEAST_ROWS:
        return
    now = parts_of(champion.model, seen, names=champion.names, head=champion.heads[0])
    for name, part in now.items():
        before = reference.parts.get(name)
        if before is None:
            continue
        change, error = part.share - before.share, float(np.hypot(part.error, before.error))
        p_value = t_tail(change / error, _DAYS_FREE) if error else float(change == 0)
        yield Reading(
            said=f"{name} moves {part.share:.1%} of predictions, {before.share:.1%} before",
            is_beyond=abs(change) >= look.monitor.level,
            p_value=p_value,
            value=Measurement(part.share, part.share - 2 * part.error, part.share + 2 * part.error, len(seen.times)),
            labels={"name": name},
        )


def _flows(look: Look) -> Iterator[tuple[str, Flow, tuple[list[float], list[float]]]]:
    """Yields kinds that the reference has, with the delays, s, of what came of each in either half of the window."""
    flows = {} if look.reference is None else look.reference.flows
    reports = look.reports
    for kind, flow in flows.items():
        if not look.monitor.of or kind in look.monitor.of:
            came = [one for one in reports if one.kind == kind]
            early = [one.delay_s for one in came if one.known <= look.middle]
            yield kind, flow, (early, [one.delay_s for one in came if one.known > look.middle])


def _reports(look: Look) -> Iterator[Reading]:
    requests = look.requests
    if not all(requests):
        return
    for kind, flow, came in _flows(look):
        before, level = (flow.reports, flow.decisions), look.monitor.level
        counts = [(len(half), asked) for half, asked in zip(came, requests, strict=True)]
        whole = (counts[0][0] + counts[1][0], sum(requests))
        first, second, all_ = (judge_rate(one, before, inflation=flow.inflation) for one in (*counts, whole))
        changes = [judged.value.value for judged in (first, second, all_)]
        is_rise = all(change > level for change in changes)
        is_fall = look.monitor.alert == "change" and all(change < 1 / (1 + level) - 1 for change in changes)
        value = all_.value
        yield Reading(
            said=f"{kind}: {value.value:+.0%} ({value.low:+.0%} to {value.high:+.0%}), {whole[0]:,} reports",
            is_beyond=is_rise or is_fall,
            p_value=all_.p_value,
            value=value,
            labels={"kind": kind},
        )


def _unheard(look: Look) -> Iterator[Reading]:
    for kind, flow, came in _flows(look):
        if not any(came):
            expected = flow.reports / flow.decisions * sum(look.requests)
            yield Reading(
                said=f"{kind}: none, where {expected:.3g} were to be expected",
                is_beyond=True,
                p_value=silence_p_value(expected * _LEFT, inflation=flow.inflation),
                labels={"kind": kind},
            )


def _delays(look: Look) -> Iterator[Reading]:
    for kind, flow, came in _flows(look):
        values = np.array([one for half in came for one in half if np.isfinite(one)])
        if flow.delays is not None and len(values) >= LEAST_ROWS:
            yield from _compared(look, flow.delays, name=f"delay of {kind}", values=values)


def _calibration(look: Look) -> Iterator[Reading]:
    if not look.champion.heads or look.start < look.champion.begin:
        return
    told = matured(look.log, look.system, champion=look.champion, start=look.start, stop=look.stop)
    if told is None or not np.any(told.predictions > 0):
        return
    found = calibration(told.labels, told.predictions, entities=told.whose)
    level, value, half = 1 + look.monitor.level, found.ratio, len(told.labels) // 2
    ratios = [value.value]
    for part in (slice(0, half), slice(half, None)):
        predicted = float(np.sum(told.predictions[part]))
        ratios.append(float(np.sum(told.labels[part])) / predicted if predicted else 1.0)
    is_beyond = all(ratio > level for ratio in ratios) or all(ratio < 1 / level for ratio in ratios)
    yield Reading(
        said=f"{look.champion.heads[0]} happened {value.value:.3g} times as often as predicted ({value.low:.3g} to "
        f"{value.high:.3g}), {value.n:,} matured labels",
        is_beyond=is_beyond,
        p_value=found.p_value,
        value=value,
    )


_QUANTITIES: Mapping[str, Callable[[Look], Iterable[Reading]]] = {
    "action": _action,
    "fallback": _fallback,
    "late": _late,
    "slow": _slow,
    "rejected": _rejected,
    "reported": _reported,
    "prediction": _prediction,
    "spread": _spread,
    "reached": _reached,
    "worth": _worth,
    "silence": _silence,
    "unheard": _unheard,
    "inputs": _inputs,
    "predictions": _predictions,
    "importances": _importances,
    "reports": _reports,
    "delays": _delays,
    "calibration": _calibration,
    "found": _found,
}
