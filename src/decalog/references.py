"""What a model is watched against: what was asked, predicted and reported in the time that it was judged on.

Training keeps it beside the model: for each feature, request value and head a grid and its counts, some kilobytes. The
model learnt from nothing of that time, so its predictions there are those of strange rows, as they are live.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.clock import DAY
from decalog.events import Event
from decalog.explanations import contributions
from decalog.metrics import Floats, Int64s
from decalog.models.base import Model
from decalog.registry import Artefact
from decalog.schema import Schema
from decalog.statistics.clusters import clusters, ratio
from decalog.statistics.drift import (
    Categories,
    Grid,
    Numbers,
    effects,
    numbers,
    overdispersion,
    reference_of_categories,
)

REFERENCE = "reference.json"
"""The reference's file beside the model's own."""
LEAST_DAYS = 5
"""Days below which nobody can tell by how much days differ."""
THERE = "there"
"""Stands for any value, where only is looked at whether there is one."""
LEAST_ROWS = 50
"""Things below which a distribution is not compared."""
MOST_ROWS = 200_000
_MOST_EXPLAINED = 1_000
_RARE = 0.02
"""Share of values outside the most frequent ones from which on a text is no category: an id, a name."""
_NUMBERS = ("int", "float", "amount_minor")

Values = Floats | list[str | None]


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """Things that were decided on, in order of time: requests, or what was shown where slots hold things.

    Args:
        times: int64, µs of the decision.
        rows: float64, things × features of use `model`.
        requests: public values of each thing's request, and for each entity that it names `THERE`.
        predictions: float64, things × heads; NaN where there is none.
    """

    times: Int64s
    rows: Floats
    requests: Sequence[Mapping[str, Any]]
    predictions: Floats

    def take(self, places: npt.NDArray[np.intp]) -> Seen:
        """Returns some of them."""
        requests = [self.requests[place] for place in places.tolist()]
        return Seen(
            times=self.times[places],
            rows=self.rows[places],
            requests=requests,
            predictions=self.predictions[places],
        )


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """Values of one name, counted.

    Args:
        counts: of the grid's cells, nulls last.
        inflation: by how much counts of a day vary more than those of independent rows (`drift.overdispersion`).
        edges: of numbers, all but the last, +∞.
        values: of categories.
        worst: kind of shift → the largest effect of any day of the reference against all of them: bursts are part of
            what is usual.
    """

    counts: tuple[int, ...]
    inflation: float
    worst: dict[str, float] = {}
    edges: tuple[float, ...] = ()
    values: tuple[str, ...] = ()

    def grid(self, name: str) -> Grid:
        """Returns the grid that they were counted on."""
        return Numbers(name, np.array([*self.edges, np.inf])) if self.edges else Categories(name, self.values)


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """Reports of one kind in whole days.

    Args:
        reports: how many came.
        decisions: how many were made in the same days.
        inflation: as for a `Column`.
        delays: of them, s; None where they were too few.
    """

    reports: int
    decisions: int
    inflation: float
    delays: Column | None = None


class Part(msgspec.Struct, frozen=True):
    """A feature's part of what moves predictions, 0 to 1: the mean of its |contribution| over that of all together.

    Its standard error is that of whole days (Lundberg and Lee, NeurIPS 2017, for what a contribution is).
    """

    share: float
    error: float


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """What a model is watched against.

    Args:
        since, until: of the time that it was judged on, and of what came after it up to the training's pin, µs. Of a
            model of slates, of its own first week.
        rows: things decided on in it, of which at most 200,000 were counted.
        columns: feature, `request.<value>` or head → its values.
        flows: kind of outcome → its reports.
        parts: feature → its part; empty where the model cannot say exactly.
    """

    since: int
    until: int
    rows: int
    columns: dict[str, Column]
    flows: dict[str, Flow] = {}
    parts: dict[str, Part] = {}

    def floor(self, column: Column, kind: str, *, least: float) -> float:
        """Returns the effect from which on a shift is more than what days are used to.

        That is one and a half times that of the worst day; where there were few, more: the worst of seven is soon
        beaten. `least` is what is large at all.
        """
        days = max((self.until - self.since) / DAY, 1.0)
        return max(least, max(1.5, 1 + 14 / days) * column.worst.get(kind, 0.0))


def reference_kept(artefact: Artefact) -> Reference | None:
    """Returns what was kept beside a stored model; None where nothing was."""
    if REFERENCE not in artefact.manifest.files:
        return None
    return msgspec.json.decode((artefact.folder / REFERENCE).read_bytes(), type=Reference)


def public_values(request: Event) -> dict[str, Any]:
    """Returns what `Seen` says of a request."""
    return {**dict.fromkeys(request.entities, THERE), **request.attributes}


def reference_of(
    seen: Seen,
    schema: Schema,
    *,
    names: Sequence[str],
    heads: Sequence[str],
    flows: Mapping[str, Flow],
    model: Model | None,
) -> Reference | None:
    """Returns what a model is to be watched against; None where there are too few days.

    Args:
        seen: since the training date.
        schema: of the system.
        names: of the features of use `model`.
        heads: what is predicted.
        flows: what was reported (`flows_of`).
        model: for what moves its predictions; None for none.
    """
    if len(np.unique(seen.times // DAY)) < LEAST_DAYS:
        return None
    since, until = int(seen.times[0]), int(seen.times[-1]) + 1
    some = thinned(seen, MOST_ROWS)
    days = _days(some.times)
    columns = {}
    for name, values in columns_of(some, schema, names=names, heads=heads):
        made = _column(name, values, days)
        if made is not None:
            columns[name] = made
    return Reference(
        since=since,
        until=until,
        rows=len(seen.times),
        columns=columns,
        flows=dict(flows),
        parts=parts_of(model, some, names=names, head=heads[0]) if model is not None and heads else {},
    )


def thinned(seen: Seen, most: int) -> Seen:
    """Returns at most so many of the things, evenly spread."""
    stride = -(-len(seen.times) // most)
    return seen if stride <= 1 else seen.take(np.arange(0, len(seen.times), stride))


def columns_of(
    seen: Seen, schema: Schema, *, names: Sequence[str], heads: Sequence[str]
) -> Iterator[tuple[str, Values]]:
    """Yields what is counted: name and values, NaN or None where a thing has none."""
    for place, name in enumerate(names):
        yield name, seen.rows[:, place]
    for place, head in enumerate(heads):
        yield head, seen.predictions[:, place]
    for field in schema.request.fields:
        if field.privacy == "public":
            found = [request.get(field.name) for request in seen.requests]
            yield f"request.{field.name}", _numbers(found) if field.kind in _NUMBERS else _texts(found)
    for entity in schema.request.entities:
        yield f"request.{entity.name}", [THERE if entity.name in request else None for request in seen.requests]


def counted(name: str, column: Column, *, values: Values) -> Int64s:
    """Returns how many of other values lie in each cell of a column's grid."""
    grid = column.grid(name)
    if isinstance(grid, Numbers):
        return grid.count(np.asarray(values, np.float64))
    texts = [str(value) if isinstance(value, str) else None for value in values]
    return grid.count(_presence(texts) if grid.values == (THERE,) else texts)


def parts_of(model: Model, seen: Seen, *, names: Sequence[str], head: str) -> dict[str, Part]:
    """Returns each feature's part of what moves the predictions of a head; {} where the model cannot say exactly."""
    some = thinned(seen, _MOST_EXPLAINED)
    told = contributions(model, some.rows, head=head)
    if told is None:
        return {}
    # Of a mean of 0 one feature alone is the reason: it would take the part of all others.
    there = np.isfinite(told).all(axis=1)
    days = clusters(some.times[there] // DAY, n=int(there.sum()), where="parts")
    if days.count < 2:  # noqa: PLR2004 - between days
        return {}
    moved = np.abs(told[there, :-1])
    whole = np.sum(moved, axis=1)
    if not np.any(whole):
        return {}
    found = [ratio(moved[:, place], whole, rows=days, where="parts") for place in range(len(names))]
    return {
        name: Part(one.value, float(np.sqrt(np.sum(one.influences**2)))) for name, one in zip(names, found, strict=True)
    }


def _column(name: str, values: Values, days: Sequence[slice]) -> Column | None:
    """Returns values, counted; None where there is none at all."""
    if isinstance(values, list):
        return _categories(name, values, days)
    if not np.any(np.isfinite(values)):
        return None
    grid = _stretched(numbers(name, values))
    counts, parts = grid.count(values), [grid.count(values[day]) for day in days]
    worst = _worst(grid, counts, parts=parts) | {"new values": _outside([values[day] for day in days])}
    edges = tuple(grid.edges[:-1].tolist())
    return Column(counts=_whole(counts), inflation=overdispersion(parts), worst=worst, edges=edges)


def _stretched(grid: Numbers) -> Numbers:
    """Returns a grid on which new is what lies beyond the values by as much again as they are wide.

    What grows with a system's age (followers, posts) passes its largest value every day; a wrong unit lies far beyond.
    """
    low, high = float(grid.edges[0]), float(grid.edges[-2])
    return Numbers(grid.name, np.array([2 * low - high, *grid.edges[:-1], 2 * high - low, np.inf]))


def _categories(name: str, values: list[str | None], days: Sequence[slice]) -> Column | None:
    if not any(values):
        return None
    grid, counts = reference_of_categories(name, values)
    if counts[len(grid.values)] > _RARE * np.sum(counts):
        values = _presence(values)
        grid, counts = reference_of_categories(name, values)
    parts = [grid.count(values[day]) for day in days]
    worst = _worst(grid, counts, parts=parts)
    return Column(counts=_whole(counts), inflation=overdispersion(parts), worst=worst, values=grid.values)


def _worst(grid: Grid, counts: Int64s, *, parts: Sequence[Int64s]) -> dict[str, float]:
    """Returns the largest effects of the days that have enough rows."""
    enough = [part for part in parts if np.sum(part) >= LEAST_ROWS]
    found = effects(grid, counts, parts=enough) if enough else {}
    return {kind: max(0.0, float(np.max(each))) for kind, each in found.items() if len(each)}


def _outside(days: Sequence[Floats]) -> float:
    """Returns the largest share of a day's rows that lie as far beyond all other days' as these are wide."""
    known = [day[np.isfinite(day)] for day in days]
    ends = [(float(np.min(day)), float(np.max(day))) for day in known if len(day)]
    if len(ends) < 2:  # noqa: PLR2004 - a day and another
        return 0.0
    lows, highs = sorted(low for low, _ in ends), sorted((high for _, high in ends), reverse=True)
    worst = 0.0
    for day in known:
        if len(day) >= LEAST_ROWS:
            low = lows[1] if np.min(day) == lows[0] else lows[0]
            high = highs[1] if np.max(day) == highs[0] else highs[0]
            worst = max(worst, float(np.mean((day < 2 * low - high) | (day > 2 * high - low))))
    return worst


def flows_of(reports: Iterable[tuple[str, int, int]], times: Int64s) -> dict[str, Flow]:
    """Returns what was reported in the whole days of a time, by kind; {} where these are too few.

    Args:
        reports: (kind, known_time, µs after the decision) of outcomes.
        times: int64, µs, of all requests of the time, rising.
    """
    first, last = (int(times[0]) // DAY + 1, int(times[-1]) // DAY) if len(times) else (0, 0)
    if last - first < LEAST_DAYS:
        return {}
    decisions = np.bincount(np.clip(times // DAY - first, -1, last - first) + 1, minlength=last - first + 2)[1:-1]
    kinds: dict[str, list[tuple[int, float]]] = {}
    for kind, known, delay in reports:
        if first <= known // DAY < last:
            kinds.setdefault(kind, []).append((known // DAY - first, delay / 1e6))
    return {kind: _flow(kind, told, decisions) for kind, told in sorted(kinds.items())}


def _flow(kind: str, told: list[tuple[int, float]], decisions: Int64s) -> Flow:
    told.sort()
    days = np.array([day for day, _ in told], np.int64)
    came = np.bincount(days, minlength=len(decisions))
    return Flow(
        reports=len(told),
        decisions=int(np.sum(decisions)),
        inflation=overdispersion(np.column_stack([came, decisions])),
        delays=_column(kind, np.array([delay for _, delay in told]), _days(days * DAY)) if len(set(days)) > 1 else None,
    )


def _days(times: Int64s) -> list[slice]:
    """Returns where each day's rows stand; times must not fall."""
    starts = np.flatnonzero(np.diff(times // DAY, prepend=times[0] // DAY - 1))
    ends = [*starts[1:].tolist(), len(times)]
    return [slice(start, end) for start, end in zip(starts.tolist(), ends, strict=True)]


def _numbers(values: Sequence[Any]) -> Floats:
    return np.array([np.nan if value is None else float(value) for value in values], np.float64)


def _texts(values: Sequence[Any]) -> list[str | None]:
    return [None if value is None else str(value) for value in values]


def _presence(values: Iterable[str | None]) -> list[str | None]:
    return [THERE if value else None for value in values]


def _whole(counts: Int64s) -> tuple[int, ...]:
    return tuple(counts.tolist())
