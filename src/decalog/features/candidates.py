"""Features of many candidates of one request at once: what they share is read once.

Five hundred posts are of three hundred authors and one reader: each entity's rows are scanned once and what they say is
copied, and an attribute is one column. Bit for bit it is what one candidate after the other gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from decalog.candidates import Candidates, Column
from decalog.compiling import compiled
from decalog.features import arena, kernel
from decalog.features.definition import Attribute, Feature
from decalog.features.facts import ALL, ALL_TOKEN, Point, laid_over
from decalog.features.kernel import MISSING, Float64s, Int64s
from decalog.features.live import LiveRows
from decalog.features.plan import EntityPlan, Plan, RequestReader, Versions, looked_up

_PLACES = "int64[::1]"


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
        self._asked = tuple(self._asked_of(plan) for plan in plan.entities)

    def vectors(self, live: LiveRows, tables: Versions) -> Float64s:
        """Returns the features, float64 of shape (candidates, features); see `Plan.write_request` for `tables`."""
        alike = self._plan.blank.copy()
        self._plan.write_request(self._point, alike, tables=tables)
        out = np.empty((len(self._places), len(alike)))
        out[:] = alike
        crowded = self._plan.crowded
        for name, (asked, are_alike) in enumerate(self._asked):
            arena.scan_many(live.arena, live.tables, name, asked, self._jobs, crowded, out, int(are_alike))
        self._write_requests(out, tables)
        self._plan.formulas.write(out)
        return out

    def tokens(self, name: int) -> list[int]:
        """Returns whose rows of the entity name in this place are asked for, each once."""
        tokens = np.unique(self._asked[name][0][:, 1])
        found: list[int] = tokens[tokens != MISSING].tolist()
        return found

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

    def _asked_of(self, plan: EntityPlan) -> tuple[Int64s, bool]:
        """Returns each candidate's first of the same token, and the token; and whether all own rows are the same."""
        own = self._point.own
        ones, others = (self._tokens_of(name) for name in plan.pair or (plan.entity, plan.entity))
        alone = own is not None and own.kind in plan.kinds and bool((self._jobs != self._jobs[0]).any())
        asked = np.empty((len(self._places), 2), np.int64)
        asked[:, 0] = self._places if alone else firsts(ones, others)  # whose own rows differ share nothing
        asked[:, 1] = plan.asked_tokens(self._tokens_of)
        return asked, not alone

    def _tokens_of(self, name: str) -> Int64s:
        if name not in self._tokens:
            asked = ALL_TOKEN if name == ALL else self._point.subjects.get(name, MISSING)
            column, count = self._candidates.entities.get(name), len(self._places)
            self._tokens[name] = np.full(count, asked) if column is None else column.filled(count, asked)
        return self._tokens[name]

    def _write_requests(self, out: Float64s, tables: Versions) -> None:
        """Writes what candidates say themselves; what the request says stands in `out`."""
        for place, read in self._plan.request_readers:
            if laid := [name for name in self._plan.read_names[place].values() if name in self._laid]:
                self._write_laid(out[:, place], self._plan.features.features[place], read, laid=laid)
        for place, lookup in self._plan.lookups:
            if known := tables.get(lookup.table):
                out[:, place] = [
                    looked_up(lookup, asked.attributes, subjects=asked.subjects, numbers=known)
                    for asked in self._points
                ]

    def _write_laid(self, out: Float64s, feature: Feature, read: RequestReader, *, laid: Sequence[str]) -> None:
        """Writes one feature that candidates say themselves; a reader is asked once for a word."""
        column, said = self._laid[laid[0]], self._point.attributes
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
