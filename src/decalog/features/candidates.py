"""Features of many candidates of one request at once: what they share is read once.

Five hundred posts are of three hundred authors and one reader: each entity's rows are scanned once and what they say is
copied, an attribute is one column, and the kernel takes many row arrays at a time. Bit for bit it is what one candidate
after the other gives.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from decalog.features import kernel
from decalog.features.definition import Attribute
from decalog.features.facts import ALL, ALL_TOKEN, Overlay, Point, Value, laid_over
from decalog.features.kernel import MISSING, Float64s, Int64s
from decalog.features.plan import EntityPlan, Plan, RequestReader, Versions, looked_up, pair_token

Bools = npt.NDArray[np.bool_]
_INT64 = 2.0**63


class Rows(Protocol):
    """The row arrays of one entity name."""

    plan: EntityPlan
    none: Int64s

    def held(self, tokens: Sequence[int]) -> list[Int64s]:
        """Returns the array of each token, `none` for one that has no rows."""


class Crowd:
    """The candidates of one request, as columns.

    Args:
        plan: of the features.
        point: the request's.
        candidates: laid over it, one after the other (`facts.laid_over`); at least one.
    """

    def __init__(self, plan: Plan, point: Point, candidates: Sequence[Overlay]) -> None:
        self._plan, self._point, self._candidates = plan, point, candidates
        self._entities = [candidate.entities for candidate in candidates]
        # Without a request of its own a point has no values, and nothing to lay others over.
        self._attributes = [candidate.attributes if point.own else {} for candidate in candidates]
        self._places = np.arange(len(candidates))
        self._tokens: dict[str, Int64s] = {}
        self._jobs, self._differ = self._own_rows()

    def vectors(self, entities: Sequence[Rows], tables: Versions) -> Float64s:
        """Returns the features, float64 of shape (candidates, features); see `Plan.write_request` for `tables`."""
        plan = self._plan
        alike = plan.blank.copy()
        plan.write_request(self._point, alike, tables=tables)
        out = np.empty((len(self._places), len(alike)))
        out[:] = alike
        for rows in entities:
            self._scan(rows, out)
        self._write_requests(out, tables)
        for formula in plan.formulas:
            formula.write_many(out)
        return out

    @cached_property
    def _points(self) -> list[Point]:
        """One a candidate: many objects, for what no column stands for."""
        return [laid_over(self._point, candidate) for candidate in self._candidates]

    def _own_rows(self) -> tuple[Int64s, bool]:
        """Returns the kernel's job of each candidate, and whether what is read of their own rows differs."""
        plan, point, own = self._plan, self._point, self._point.own
        jobs = np.zeros((len(self._places), 2, plan.width), np.int64)
        jobs[:, kernel.ASKED, kernel.AT], jobs[:, kernel.ASKED, kernel.SKIPPED] = point.time, point.root
        if own is None or own.kind not in plan.bits:
            return jobs, False
        rows = jobs[:, kernel.OWN_ROW]
        rows[:] = plan.row(own)
        read = plan.own_columns(own.kind)
        for column in read:
            cell = plan.cell_readers[column - kernel.FIRST_COLUMN]
            rows[:, column] = [cell(asked.own) for asked in self._points if asked.own is not None]
        return jobs, bool((rows[:, read] != rows[0, read]).any())

    def _scan(self, rows: Rows, out: Float64s) -> None:
        """Writes the features of one entity name: of each token once, and of all that have no rows once."""
        plan, own = rows.plan, self._point.own
        ones, others = (self._tokens_of(name) for name in plan.pair or (plan.entity, plan.entity))
        alone = self._differ and own is not None and own.kind in plan.kinds
        firsts = self._places.copy() if alone else kernel.firsts(ones, others)
        asked = np.flatnonzero((firsts == self._places) & (ones != MISSING) & (others != MISSING))
        tokens = ones[asked].tolist()
        if plan.pair:
            tokens = list(map(pair_token, tokens, others[asked].tolist()))
        held = rows.held(tokens)
        if not alone:
            absent = np.array([array is rows.none for array in held], np.bool_)
            firsts, asked, held = _absent_once(firsts, asked, held, absent=absent)
        for start in range(0, len(held), kernel.MANY):
            arrays = (*held[start : start + kernel.MANY], *(rows.none,) * (start + kernel.MANY - len(held)))
            places = asked[start : start + kernel.MANY]
            kernel.scan_many(arrays, places, plan.lanes, plan.outputs, self._jobs, self._plan.crowded, out)
        kernel.spread(firsts, plan.outputs, out)

    def _tokens_of(self, name: str) -> Int64s:
        tokens = self._tokens.get(name)
        if tokens is None:
            asked = ALL_TOKEN if name == ALL else self._point.subjects.get(name, MISSING)
            tokens = np.array([entities.get(name, asked) for entities in self._entities], np.int64)
            self._tokens[name] = tokens
        return tokens

    def _values(self, name: str, absent: Value | None) -> list[Value | None]:
        otherwise = self._point.attributes.get(name, absent)
        return [attributes.get(name, otherwise) for attributes in self._attributes]

    def _write_requests(self, out: Float64s, tables: Versions) -> None:
        plan, laid = self._plan, frozenset[str]().union(*self._attributes)
        for place, read in plan.request_readers:
            feature = plan.features.features[place]
            names = [getattr(feature, part) for part in ("attribute", "left", "right") if hasattr(feature, part)]
            if laid.intersection(names):
                numbers = self._numbers(feature) if isinstance(feature, Attribute) else None
                out[:, place] = self._read(read, names) if numbers is None else numbers
        for place, lookup in plan.lookups:
            if known := tables.get(lookup.table):
                out[:, place] = [
                    looked_up(lookup, point.attributes, subjects=point.subjects, numbers=known)
                    for point in self._points
                ]

    def _numbers(self, feature: Attribute) -> Float64s | None:
        """Returns an attribute that is a number of every candidate; None where one has to be looked at more closely."""
        values = self._values(feature.attribute, feature.missing_value)
        try:
            column = np.frombuffer(struct.pack(f"{len(values)}d", *values))
        except (struct.error, OverflowError):  # a text, or an int that no float holds
            return None
        return column if (np.abs(column) < _INT64).all() else None

    def _read(self, read: RequestReader, names: Sequence[str]) -> list[float]:
        """Returns what a reader says of every candidate; it is asked once for the same values of the same types."""
        columns = [self._values(name, None) for name in names]
        keys = list(zip(*columns, *(map(type, column) for column in columns), strict=True))
        said = {key: read(dict(zip(names, key, strict=False)), self._point.time) for key in set(keys)}
        return [said[key] for key in keys]


def _absent_once(
    firsts: Int64s, asked: Int64s, held: list[Int64s], *, absent: Bools
) -> tuple[Int64s, Int64s, list[Int64s]]:
    """Returns the same with all tokens that have no rows standing for the first of them."""
    same = asked[absent]
    kept = ~absent
    if len(same):
        firsts = np.where(np.isin(firsts, same), same[0], firsts)
        kept |= asked == same[0]
    return firsts, asked[kept], list(itertools.compress(held, kept.tolist()))
