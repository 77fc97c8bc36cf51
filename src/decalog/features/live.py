"""Steps on the arrays of live entities: with running counts (see `kernel`), and of many entities in one call."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

from decalog.compiling import compiled
from decalog.features import kernel
from decalog.features.kernel import Float64s, Int64s

MANY = 32
"""Row arrays that go through a door at a time: a call for each would cost more than most of the work."""
COUNTED_FROM = 64
"""Rows from which on an array has running counts: fewer are walked over in the time that a search takes."""


@compiled(None)
def _recount(rows: Int64s, lanes: Int64s, first: int) -> None:
    """Makes the running counts of an array anew from a row on."""
    for lane in range(lanes.shape[0]):
        cell, kinds, column = lanes[lane, kernel.CELL], lanes[lane, kernel.KINDS], lanes[lane, kernel.COLUMN]
        if cell < rows.shape[1]:
            for index in range(max(1, first), rows[0, kernel.COUNTED] + 1):
                takes = rows[index, kernel.KIND] & kinds != 0 and rows[index, column] != kernel.MISSING
                rows[index, cell] = rows[index - 1, cell] + takes


@compiled("int64[:, ::1](int64[:, ::1], int64[:, ::1], int64, int64, int64)")
@kernel.marked
def refit_counted(rows: Int64s, lanes: Int64s, width: int, horizon: int, least: int) -> Int64s:
    """Returns what `refit` does, with running counts where so many rows are left.

    Args:
        rows: of an entity, with running counts or without.
        lanes: what the entity accumulates.
        width: of a row without running counts.
        horizon: no row up to it is kept.
        least: rows from which on there are running counts.
    """
    first, cells = kernel.last_until(rows, max(horizon, rows[0, kernel.MARK])) + 1, 0
    left = rows[first : rows[0, kernel.COUNTED] + 1]
    for lane in range(lanes.shape[0]):
        cells += left.shape[0] >= least and lanes[lane, kernel.CELL] < kernel.NO_CELL
    fitted = kernel.wide_room(left, width, cells)
    fitted[0, kernel.MARK] = rows[0, kernel.MARK]
    _recount(fitted, lanes, 1)
    return fitted


@compiled("int64(int64[:, ::1], int64[::1], int64[:, ::1], int64[::1], int64)")
@kernel.marked
def insert_counted(rows: Int64s, picks: Int64s, lanes: Int64s, row: Int64s, retain: int) -> int:
    """Does `insert`, and keeps the running counts where there are some."""
    state = kernel.insert(rows, picks, row, retain)
    if state == kernel.DONE and rows.shape[1] > picks.shape[0]:
        _recount(rows, lanes, kernel.last_not_after(rows, row))
    return state


@compiled("int64(int64[:, ::1], int64[:, ::1], int64[::1])")
@kernel.marked
def retract_counted(rows: Int64s, lanes: Int64s, row: Int64s) -> int:
    """Does `retract`, and keeps the running counts where there are some."""
    state = kernel.retract(rows, row)
    if state == kernel.DONE:
        _recount(rows, lanes, kernel.last_not_after(rows, row) + 1)
    return state


# Columns of a span: where one entity's lanes, outputs and picks lie in the tables of all.
LANES_FROM, LANES_TO, OUTPUTS_FROM, OUTPUTS_TO, PICKS_FROM, PICKS_TO = 0, 1, 2, 3, 4, 5


@kernel.marked
def _scan_all(
    rows: tuple[Int64s, ...],
    lanes: Int64s,
    outputs: Int64s,
    spans: Int64s,
    job: Int64s,
    asked: int,
    crowded: Float64s,
    out: Float64s,
) -> None:
    """Does `scan` for every entity name at once.

    Args:
        rows: one array an entity name.
        lanes: of all entity names, one after another.
        outputs: likewise.
        spans: one row an entity name.
        job: as for `scan`.
        asked: bit i is set where entity name i is not missing.
        crowded: as for `scan`.
        out: the vector.
    """
    for entity in range(len(rows)):
        if asked & (1 << entity) != 0:
            mine = lanes[spans[entity, LANES_FROM] : spans[entity, LANES_TO]]
            written = outputs[spans[entity, OUTPUTS_FROM] : spans[entity, OUTPUTS_TO]]
            kernel.scan(rows[entity], mine, written, job, crowded, out)


@kernel.marked
def _insert_all(
    rows: tuple[Int64s, ...], picks: Int64s, lanes: Int64s, spans: Int64s, row: Int64s, asked: int, retain: int
) -> int:
    """Does `insert_counted` for every entity name that is asked; returns those where it was not DONE, one bit each."""
    left = 0
    for entity in range(len(rows)):
        if asked & (1 << entity) != 0:
            mine = picks[spans[entity, PICKS_FROM] : spans[entity, PICKS_TO]]
            counts = lanes[spans[entity, LANES_FROM] : spans[entity, LANES_TO]]
            if insert_counted(rows[entity], mine, counts, row, retain) != kernel.DONE:
                left |= 1 << entity
    return left


@compiled(f"int64(UniTuple(int64[:, ::1], {MANY}), int64[::1], int64[::1], int64[:, ::1], int64[:, ::1], int64)")
@kernel.marked
def insert_some(rows: tuple[Int64s, ...], at: Int64s, picks: Int64s, lanes: Int64s, table: Int64s, retain: int) -> int:
    """Does `insert_counted` for so many row arrays as there are places in `at`, each with its row of the table.

    Returns those where it was not DONE, one bit each.
    """
    left = 0
    for which in range(at.shape[0]):
        if insert_counted(rows[which], picks, lanes, table[at[which]], retain) != kernel.DONE:
            left |= 1 << which
    return left


class Doors(NamedTuple):
    """`_scan_all` and `_insert_all` for one number of entity names: one call a request costs less than one for each."""

    scan_all: Callable[[tuple[Int64s, ...], Int64s, Int64s, Int64s, Int64s, int, Float64s, Float64s], None]
    insert_all: Callable[[tuple[Int64s, ...], Int64s, Int64s, Int64s, Int64s, int, int], int]


@functools.cache
def doors(entities: int) -> Doors:
    """Returns the doors for a number of entity names, compiled (or from the cache) before they are needed."""
    if entities == 0:
        return Doors(_scan_all, _insert_all)
    rows = f"UniTuple(int64[:, ::1], {entities})"
    table = "int64[:, ::1]"
    scan_door = compiled(f"void({rows}, {table}, {table}, {table}, {table}, int64, float64[::1], float64[::1])")
    insert_door = compiled(f"int64({rows}, int64[::1], {table}, {table}, int64[::1], int64, int64)")
    return Doors(scan_door(_scan_all), insert_door(_insert_all))
