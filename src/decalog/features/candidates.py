"""Features of many candidates of one request at once: what they share is read once.

Five hundred posts are of three hundred authors and one reader: each entity's rows are scanned once and what they say is
copied, an attribute is one column, and the kernel takes many row arrays at a time. Bit for bit it is what one candidate
after the other gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import compress
from typing import Protocol

import numpy as np

from decalog.candidates import Candidates, Column
from decalog.compiling import compiled
from decalog.features import kernel, live
from decalog.features.definition import Attribute, Feature
from decalog.features.facts import ALL, ALL_TOKEN, Point, laid_over
from decalog.features.kernel import MISSING, Float64s, Int64s
from decalog.features.plan import EntityPlan, Plan, RequestReader, Versions, looked_up, pair_tokens

_TABLE, _JOBS, _PLACES, _OUT = "int64[:, ::1]", "int64[:, :, ::1]", "int64[::1]", "float64[:, ::1]"


@compiled(f"{_PLACES}({_PLACES}, {_PLACES})")
@kernel.marked
def firsts(ones: Int64s, others: Int64s) -> Int64s:
    """Returns for each place of two columns the first place that holds the same two numbers."""
    room = 4
    while room < 2 * ones.shape[0]:
        room *= 2
    seen, found = np.full(room, -1, np.int64), np.empty(ones.shape[0], np.int64)
    for place in range(ones.shape[0]):
        slot = (kernel.mixed(ones[place]) ^ (kernel.mixed(others[place]) >> 7)) & (room - 1)
        while seen[slot] >= 0 and (ones[seen[slot]] != ones[place] or others[seen[slot]] != others[place]):
            slot = (slot + 1) & (room - 1)
        seen[slot] = found[place] = place if seen[slot] < 0 else seen[slot]
    return found


@compiled(f"void(UniTuple({_TABLE}, {live.MANY}), {_PLACES}, UniTuple({_TABLE}, 2), {_JOBS}, float64[::1], {_OUT})")
@kernel.marked
def _scan(
    rows: tuple[Int64s, ...], at: Int64s, tables: tuple[Int64s, Int64s], jobs: Int64s, crowded: Float64s, out: Float64s
) -> None:
    """Does `kernel.scan` for so many of the row arrays as there are places in `at`, each with its job and vector."""
    for which in range(at.shape[0]):
        kernel.scan(rows[which], tables[0], tables[1], jobs[at[which]], crowded, out[at[which]])


@compiled(f"void({_PLACES}, {_TABLE}, {_OUT})")
@kernel.marked
def _copy(firsts: Int64s, outputs: Int64s, out: Float64s) -> None:
    """Copies the outputs of each vector's first into it."""
    for place in range(firsts.shape[0]):
        for output in range(outputs.shape[0]):
            out[place, outputs[output, kernel.PLACE]] = out[firsts[place], outputs[output, kernel.PLACE]]


class Rows(Protocol):
    """The row arrays of one entity name; `none` is the array of a token without rows."""

    plan: EntityPlan
    none: Int64s

    def held(self, tokens: Int64s) -> list[Int64s]:
        """Returns the array of each token."""


class Crowd:
    """The candidates of one request, as columns.

    Args:
        plan: of the features.
        point: the request's.
        candidates: laid over it, those that compete, one after the other (`facts.laid_over`); at least one.
    """

    def __init__(self, plan: Plan, point: Point, candidates: Candidates) -> None:
        self._plan, self._point, self._candidates = plan, point, candidates
        # Without a request of its own a point has no values, and nothing to lay others over.
        self._laid: Mapping[str, Column] = candidates.attributes if point.own else {}
        self._places = np.arange(candidates.competing)
        self._tokens: dict[str, Int64s] = {}
        self._jobs = self._made_jobs()

    def vectors(self, entities: Sequence[Rows], tables: Versions) -> Float64s:
        """Returns the features, float64 of shape (candidates, features); see `Plan.write_request` for `tables`."""
        alike = self._plan.blank.copy()
        self._plan.write_request(self._point, alike, tables=tables)
        out = np.empty((len(self._places), len(alike)))
        out[:] = alike
        for rows in entities:
            self._write_windows(rows, out)
        self._write_requests(out, tables)
        self._plan.formulas.write(out)
        return out

    @cached_property
    def _points(self) -> list[Point]:
        """One a candidate: many objects, for what no column stands for."""
        return [laid_over(self._point, candidate) for candidate in self._candidates.some(self._places.tolist())]

    def _made_jobs(self) -> Int64s:
        """Returns the kernel's job of each candidate: its own row may say what the candidate does."""
        plan, point, own = self._plan, self._point, self._point.own
        jobs = np.zeros((len(self._places), 2, plan.width), np.int64)
        jobs[:, kernel.ASKED, kernel.AT], jobs[:, kernel.ASKED, kernel.SKIPPED] = point.time, point.root
        if own is not None and own.kind in plan.bits:
            jobs[:, kernel.OWN_ROW] = plan.row(own)
            for column in plan.own_columns(own.kind):
                read = plan.cell_readers[column - kernel.FIRST_COLUMN]
                jobs[:, kernel.OWN_ROW, column] = [read(asked.own or own) for asked in self._points]
        return jobs

    def _write_windows(self, rows: Rows, out: Float64s) -> None:
        """Writes the features of one entity name: those of a token once, and of all tokens without rows once."""
        plan, own = rows.plan, self._point.own
        ones, others = (self._tokens_of(name) for name in plan.pair or (plan.entity, plan.entity))
        alone = own is not None and own.kind in plan.kinds and bool((self._jobs != self._jobs[0]).any())
        same = self._places if alone else firsts(ones, others)  # whose own rows differ share nothing
        asked = self._places[(same == self._places) & (ones != MISSING) & (others != MISSING)]
        tokens = pair_tokens(ones[asked], others[asked]) if plan.pair else ones[asked]
        held = rows.held(tokens)
        if not alone:
            same, asked, held = _absent_once(same, asked, held, none=rows.none)
        for start in range(0, len(held), live.MANY):
            some, at = held[start : start + live.MANY], asked[start : start + live.MANY]
            arrays = (*some, *[rows.none] * (live.MANY - len(some)))
            _scan(arrays, at, (plan.lanes, plan.outputs), self._jobs, self._plan.crowded, out)
        _copy(same, plan.outputs, out)

    def _tokens_of(self, name: str) -> Int64s:
        if name not in self._tokens:
            asked = ALL_TOKEN if name == ALL else self._point.subjects.get(name, MISSING)
            column, count = self._candidates.entities.get(name), len(self._places)
            self._tokens[name] = np.full(count, asked) if column is None else column.filled(count, asked)
        return self._tokens[name]

    def _write_requests(self, out: Float64s, tables: Versions) -> None:
        """Writes what candidates say themselves; what the request says stands in `out`."""
        for place, read in self._plan.request_readers:
            feature = self._plan.features.features[place]
            names = [getattr(feature, part) for part in ("attribute", "left", "right") if hasattr(feature, part)]
            if laid := [name for name in names if name in self._laid]:
                self._write_laid(out[:, place], feature, read, laid=laid)
        for place, lookup in self._plan.lookups:
            if known := tables.get(lookup.table):
                out[:, place] = [
                    looked_up(lookup, asked.attributes, subjects=asked.subjects, numbers=known)
                    for asked in self._points
                ]

    def _write_laid(self, out: Float64s, feature: Feature, read: RequestReader, *, laid: Sequence[str]) -> None:
        """Writes one feature that candidates say themselves; a reader is asked once for a word."""
        column, said = self._laid[laid[0]], dict(self._point.attributes)
        if len(laid) > 1 or not (column.words or isinstance(feature, Attribute)):
            out[:] = self._read(read, laid)
            return
        values = column.array[: len(out)]
        if column.words:
            numbers = np.array([read({**said, laid[0]: word}, self._point.time) for word in column.words])[values]
        else:
            numbers = values.astype(np.float64)
            numbers[~np.isfinite(numbers)] = feature.missing_value
        np.copyto(out[: len(values)], numbers, where=column.has(len(values)))

    def _read(self, read: RequestReader, names: Sequence[str]) -> list[float]:
        """Returns what a reader says of every candidate; it is asked once for the same values of the same types."""
        said = dict(self._point.attributes)
        columns = [self._laid[name].at(self._places) for name in names]
        keys = list(zip(*columns, *(map(type, column) for column in columns), strict=True))
        told = {key: {n: v for n, v in zip(names, key, strict=False) if v is not None} for key in set(keys)}
        answers = {key: read({**said, **laid}, self._point.time) for key, laid in told.items()}
        return [answers[key] for key in keys]


def _absent_once(
    same: Int64s, asked: Int64s, held: list[Int64s], *, none: Int64s
) -> tuple[Int64s, Int64s, list[Int64s]]:
    """Returns the three with the first token that has no rows in the place of all that have none."""
    there = [array is not none for array in held]
    absent = asked[~np.array(there, np.bool_)]
    if not len(absent):
        return same, asked, held
    stands_for = np.arange(len(same))
    stands_for[absent] = absent[0]
    kept = there.index(False)  # the first of them
    there[kept] = True
    return stands_for[same], asked[there], list(compress(held, there))
