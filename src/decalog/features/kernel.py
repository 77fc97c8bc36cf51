"""The one kernel behind every window: an entity's rows in order, and one backward scan that answers all its features.

Rows of one entity lie in an int64 array of shape (capacity + 1, 3 + columns). Row 0 holds the number of rows and the
mark; rows 1…n are sorted by (event_time, root, kind). Columns: event_time (µs), root, kind (one bit), then the entity's
own columns, MISSING where a value is absent. The array is self-contained: it is the whole state of that entity.

The mark bounds it. More than `retain` rows are not held: the oldest goes, with all of its event_time, and the mark says
up to which time rows went. What comes at or before it is dropped, what is withdrawn there is gone already, and a window
that begins before it has its declared crowded value. Going is lazy: rows up to the mark stay in front, unread, until
the array is full, so that a full entity costs no more a row than others.

An array of many rows may have further columns, a running count for each lane that counts (its CELL says where): of the
rows up to here, those that the lane takes. So a window of a thousand rows costs what one of ten does. They follow from
the rows, are no part of the state, and where an array has none its rows are walked over.

What happens above any time h never depends on the rows up to h: while there are such rows, it is they who go, and the
mark they leave is at most h. So rows that no admissible window reaches may be pruned whenever it suits, or never, and
the windows that can be asked for stay what they are (docs/decisions/0021-hot-entities.md).

Compiled by numba where it is installed; `DECALOG_NO_NUMBA=1` runs the same functions uncompiled. All inside is int64;
a value becomes float64 only when it leaves, so both ways give the same bits. Nothing here wraps: declarations bound
|value| × rows below 2⁶³ (DESIGN §3a rule 11), and no window that is answered holds more than `retain` rows.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from decalog.compiling import compiled
from decalog.features.facts import HALVING, HALVINGS

Int64s = npt.NDArray[np.int64]
Float64s = npt.NDArray[np.float64]
_F = TypeVar("_F", bound=Callable[..., object])

MISSING = -(2**63)
"""Marks an absent value in a row and an empty place in a set; no declared value can reach it."""

# Columns of row 0: how many rows there are, and the mark, µs.
COUNTED, MARK = 0, 1
# Columns of a row.
TIME, ROOT, KIND, FIRST_COLUMN = 0, 1, 2, 3
# Columns of a lane: what is accumulated while the scan goes back in time. COLUMN is where the value stands in the
# entity's own rows, OWN_COLUMN where it stands in a row over all columns; OFFSET is how long before t its windows end,
# STEP the µs after which a decayed value weighs one step less, SET its set where it has one, CELL its running count.
OPERATION, KINDS, COLUMN, OWN_COLUMN, OWN, OFFSET, STEP, SET, CELL, LANE_WIDTH = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9
# Columns of an output: which lane is read, how far before t its window begins, into which place of the vector.
LANE, REACH, PLACE = 0, 1, 2
# Columns of a lane's total: rows (or distinct values) entered, their sum (or newest time, or value), the row that the
# walk reads next, whether the own row has yet to enter, the sum of squares (or the time of the value), and, of no lane
# but of the table, the lanes that take a row.
ENTERED, TOTAL, NEXT, WAITS, SECOND, CHOSEN, TOTALS_WIDTH = 0, 1, 2, 3, 4, 5, 6
# Rows of a job, and what its ASKED row says: t, and the root that is not seen (−1 for none).
ASKED, OWN_ROW = 0, 1
AT, SKIPPED = 0, 1

COUNT, SUM, MEAN, STD, DISTINCT, DECAYED, MIN, MAX, FIRST, LAST, TIME_SINCE = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
"""Operations, in the order of how they walk: sums, sets, weighted sums, one of the values, the newest value."""

UNIT_WEIGHT = 2**20
"""The weight of age 0 in a decayed sum."""


def _root16(number: int) -> int:
    """Returns the whole part of the sixteenth root, exactly: floats would leave the last digit to the platform."""
    return math.isqrt(math.isqrt(math.isqrt(math.isqrt(number))))


_WEIGHTS = np.array([_root16(2 ** (20 * 16 - step)) for step in range(HALVING * HALVINGS + 1)], np.int64)
"""⌊2²⁰ · 2^(−step/16)⌋ for ages of 0 to 256 steps; older values weigh nothing."""

_NO_SPREAD = 1e-12
"""A variance of at most this share of the squared mean is rounding, and counts as none."""

BEFORE_ALL = -(2**62)
"""A watermark or mark before every time, far enough from −2⁶³ that lateness and windows can be taken from it."""

DONE, FULL, TWICE, ABSENT = 0, 1, 2, 3
"""What became of a step: done; no room; the row is live already; no such row."""

NO_CELL = 2**40
"""CELL of a lane that has no running count."""
# What a step of an offline fold does.
RETRACT, INSERT, READ = 0, 1, 2


@functools.cache
def source_mark() -> str:
    """Returns a mark of this file's source.

    numba's cache of a function looks at the function's own file alone. One that calls the kernel from another file has
    to carry this mark in its name, or it would go on with the kernel that it was compiled with.
    """
    try:
        return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    except OSError:
        return str(os.getpid())  # no source, no cache


def marked(function: _F) -> _F:
    """Returns the function, its name in numba's cache marked with the kernel's source."""
    function.__qualname__ += f"_{source_mark()}"
    return function


# A door's signature is given, so it is compiled on import (or comes from the cache), never inside a request. What only
# doors call takes its types from them and is compiled into them.
_door = compiled
_inner = compiled(None)


@_inner
def _order(rows: Int64s, index: int, row: Int64s) -> int:
    """Returns whether rows[index] stands before (< 0), at (0) or after (> 0) a row by (event_time, root, kind)."""
    for column in range(FIRST_COLUMN):
        if rows[index, column] != row[column]:
            return -1 if rows[index, column] < row[column] else 1
    return 0


@_inner
def last_not_after(rows: Int64s, row: Int64s) -> int:
    """Returns the index of the last row that stands before or at `row`; 0 if there is none."""
    low, high = 0, rows[0, COUNTED]
    while low < high:
        middle = (low + high + 1) // 2
        if _order(rows, middle, row) <= 0:
            low = middle
        else:
            high = middle - 1
    return low


@_inner
def last_until(rows: Int64s, time: int) -> int:
    """Returns the index of the last row with event_time ≤ time; 0 if there is none."""
    low, high = 0, rows[0, COUNTED]
    while low < high:
        middle = (low + high + 1) // 2
        if rows[middle, TIME] <= time:
            low = middle
        else:
            high = middle - 1
    return low


@_inner
def clear(rows: Int64s) -> None:
    """Makes an array that of an entity without rows."""
    rows[0, :] = 0
    rows[0, MARK] = BEFORE_ALL


@_door("int64(int64[:, ::1], int64[::1], int64[::1], int64)")
def insert(rows: Int64s, picks: Int64s, row: Int64s, retain: int) -> int:
    """Inserts the picked columns of a row in order; returns DONE, FULL (nothing changed) or TWICE (nothing changed).

    Args:
        rows: of the entity.
        picks: the columns of `row` that this entity keeps; the first three are 0, 1, 2. Running counts follow them.
        row: a row over all columns of the feature set.
        retain: most rows after the mark; beyond them it moves.
    """
    if row[TIME] <= rows[0, MARK]:
        return DONE
    count = rows[0, COUNTED]
    if count + 1 == rows.shape[0]:
        return FULL
    place = last_not_after(rows, row)
    if place > 0 and _order(rows, place, row) == 0:
        return TWICE
    for index in range(count, place, -1):
        for column in range(rows.shape[1]):
            rows[index + 1, column] = rows[index, column]
    for column in range(picks.shape[0]):
        rows[place + 1, column] = row[picks[column]]
    rows[0, COUNTED] = count + 1
    if count >= retain:  # the last that has to go; it may have gone before
        rows[0, MARK] = max(rows[0, MARK], rows[count + 1 - retain, TIME])
    return DONE


@_door("int64(int64[:, ::1], int64[::1])")
def retract(rows: Int64s, row: Int64s) -> int:
    """Removes the row of the same event_time, root and kind, unless the mark passed it; returns DONE or ABSENT."""
    if row[TIME] <= rows[0, MARK]:
        return DONE
    place = last_not_after(rows, row)
    if place == 0 or _order(rows, place, row) != 0:
        return ABSENT
    count = rows[0, COUNTED]
    for index in range(place, count):
        for column in range(rows.shape[1]):
            rows[index, column] = rows[index + 1, column]
    rows[0, COUNTED] = count - 1
    return DONE


@_door("int64(int64[:, ::1])")
def newest(rows: Int64s) -> int:
    """Returns the time up to which a horizon leaves nothing that an entity's array could say."""
    count = rows[0, COUNTED]
    latest: int = max(rows[0, MARK], rows[count, TIME] if count > 0 else BEFORE_ALL)
    return latest


@_door("int64[:, ::1](int64[:, ::1])")
def with_room(ordered: Int64s) -> Int64s:
    """Returns ordered rows as an entity's array with room for half as many again, so refits cost O(1) a row."""
    count = ordered.shape[0]
    rows = np.empty((1 + count + max(2, count // 2), ordered.shape[1]), np.int64)
    clear(rows)
    rows[0, COUNTED] = count
    for index in range(count):
        for column in range(ordered.shape[1]):
            rows[1 + index, column] = ordered[index, column]
    return rows


@_door("int64[:, ::1](int64[:, ::1], int64)")
def refit(rows: Int64s, horizon: int) -> Int64s:
    """Returns the entity's rows after the horizon and the mark in a new array with room."""
    mark = rows[0, MARK]
    fitted = with_room(rows[last_until(rows, max(horizon, mark)) + 1 : rows[0, COUNTED] + 1])
    fitted[0, MARK] = mark
    return fitted


@_door("int64[:, ::1](int64[::1], int64[:, ::1], int64[::1], int64)")
def replayed(acts: Int64s, table: Int64s, picks: Int64s, retain: int) -> Int64s:
    """Returns the array of an entity after images in the log's order, none of them added twice or withdrawn in vain."""
    rows = with_room(np.empty((0, picks.shape[0]), np.int64))
    for image in range(acts.shape[0]):
        if acts[image] == RETRACT:
            retract(rows, table[image])
        elif insert(rows, picks, table[image], retain) == FULL:
            rows = refit(rows, BEFORE_ALL)
            insert(rows, picks, table[image], retain)
    return refit(rows, BEFORE_ALL)


@_inner
def mixed(value: int) -> int:
    """Returns a number ≥ 0 or < 0 whose low bits depend on all of a value's."""
    # Two 32-bit halves times odd 31-bit numbers: no product passes 2⁶³, so nothing wraps uncompiled either.
    mixed = ((value & 0xFFFFFFFF) * 0x5BD1E995) ^ ((value >> 32) * 0x4CF5AD43)
    return mixed ^ (mixed >> 29)


@_inner
def _add(sets: Int64s, which: int, value: int) -> bool:
    """Returns whether a value is new to a set, and adds it. Open addressing; never more than half full."""
    mask = sets.shape[1] - 1
    slot = mixed(value) & mask
    while sets[which, slot] != MISSING:
        if sets[which, slot] == value:
            return False
        slot = (slot + 1) & mask
    sets[which, slot] = value
    return True


@_inner
def _empty_sets(lanes: Int64s, rows: int) -> Int64s:
    """Returns one empty set a distinct lane, with room for twice the rows of the window."""
    wanted = 0
    for lane in range(lanes.shape[0]):
        wanted = max(wanted, lanes[lane, SET] + 1)
    room = 4
    while wanted > 0 and room < 2 * (rows + 1):
        room *= 2
    return np.full((wanted, room), MISSING, np.int64)


@_inner
def _walk_set(rows: Int64s, lanes: Int64s, totals: Int64s, sets: Int64s, lane: int, until: int, skipped: int) -> None:
    """Adds to a distinct lane the rows that it has not seen, down to but without `until`."""
    kinds, column = lanes[lane, KINDS], lanes[lane, COLUMN]
    for index in range(totals[lane, NEXT], until, -1):
        value = rows[index, column]
        if rows[index, KIND] & kinds != 0 and rows[index, ROOT] != skipped and value != MISSING:
            totals[lane, ENTERED] += _add(sets, lanes[lane, SET], value)


@_inner
def _walk_newest(rows: Int64s, lanes: Int64s, totals: Int64s, lane: int, until: int, skipped: int) -> None:
    """Goes on to the newest row of a lane, down to but without `until`; once found, nothing is left."""
    kinds, column = lanes[lane, KINDS], lanes[lane, COLUMN]
    index = totals[lane, NEXT]
    while index > until and totals[lane, ENTERED] == 0:
        value = rows[index, column]
        if rows[index, KIND] & kinds != 0 and rows[index, ROOT] != skipped and value != MISSING:
            totals[lane, ENTERED], totals[lane, TOTAL], totals[lane, SECOND] = 1, value, rows[index, TIME]
        index -= 1


@_inner
def _walk_numbers(rows: Int64s, lanes: Int64s, totals: Int64s, lane: int, until: int, skipped: int) -> None:
    """Adds the rows down to but without `until` to a lane of counts or sums, and to all such that stand where it does.

    Whatever these are read at next begins there or further back, so one pass over the rows serves them all.
    """
    start, kind, chosen = totals[lane, NEXT], 0, 0
    for index in range(start, until, -1):
        if rows[index, KIND] != kind:
            kind = rows[index, KIND]
            chosen = _choose(lanes, totals, start, kind)
        for place in range(chosen if rows[index, ROOT] != skipped else 0):
            along = totals[place, CHOSEN]
            _enter(totals, along, lanes[along, OPERATION], rows[index, lanes[along, COLUMN]])
    for along in range(lanes.shape[0]):
        if totals[along, NEXT] == start and lanes[along, OPERATION] <= STD:
            totals[along, NEXT] = until


@_inner
def _choose(lanes: Int64s, totals: Int64s, start: int, kind: int) -> int:
    """Lists the lanes of counts and sums that stand at a row and take its kind; returns how many."""
    chosen = 0
    for lane in range(lanes.shape[0]):
        if totals[lane, NEXT] == start and lanes[lane, OPERATION] <= STD and lanes[lane, KINDS] & kind != 0:
            totals[chosen, CHOSEN] = lane
            chosen += 1
    return chosen


@_inner
def _enter(totals: Int64s, lane: int, operation: int, value: int) -> None:
    """Adds a value to a lane of counts or sums."""
    if value != MISSING:
        totals[lane, ENTERED] += 1
        if operation != COUNT:  # which reads times, whose sum would pass 2⁶³
            totals[lane, TOTAL] += value
        if operation == STD:
            totals[lane, SECOND] += value * value


@_inner
def _walk_extremes(rows: Int64s, lanes: Int64s, totals: Int64s, lane: int, until: int, skipped: int) -> None:
    """Lets the rows that a lane has not seen, down to but without `until`, be its minimum, maximum or first."""
    kinds, column, operation = lanes[lane, KINDS], lanes[lane, COLUMN], lanes[lane, OPERATION]
    for index in range(totals[lane, NEXT], until, -1):
        value = rows[index, column]
        if rows[index, KIND] & kinds != 0 and rows[index, ROOT] != skipped and value != MISSING:
            _take(totals, lane, operation, value, rows[index, TIME])


@_inner
def _take(totals: Int64s, lane: int, operation: int, value: int, time: int) -> None:
    """Makes a value a lane's minimum, maximum, first or last if it is one; among equal times what came first stays."""
    if totals[lane, ENTERED] == 0:
        wins = True
    elif operation == MIN:
        wins = value < totals[lane, TOTAL]
    elif operation == MAX:
        wins = value > totals[lane, TOTAL]
    elif operation == FIRST:
        wins = time <= totals[lane, SECOND]
    else:
        wins = time >= totals[lane, SECOND]
    if wins:
        totals[lane, ENTERED], totals[lane, TOTAL], totals[lane, SECOND] = 1, value, time


@_inner
def _weight(age: int, step: int) -> int:
    """Returns the weight of a value of some age ≥ 0, both in µs."""
    steps = age // step
    return _WEIGHTS[steps] if steps < _WEIGHTS.shape[0] else 0


@_inner
def _walk_decayed(rows: Int64s, lanes: Int64s, totals: Int64s, lane: int, until: int, skipped: int, time: int) -> None:
    """Adds to a decayed lane the rows that it has not seen, each by its age at `time`, down to but without `until`."""
    kinds, column, step = lanes[lane, KINDS], lanes[lane, COLUMN], lanes[lane, STEP]
    entered = total = 0
    for index in range(totals[lane, NEXT], until, -1):
        value = rows[index, column]
        if rows[index, KIND] & kinds != 0 and rows[index, ROOT] != skipped and value != MISSING:
            entered += 1
            total += value * _weight(time - rows[index, TIME], step)
    totals[lane, ENTERED] += entered
    totals[lane, TOTAL] += total


@_inner
def _walk(rows: Int64s, lanes: Int64s, totals: Int64s, sets: Int64s, lane: int, until: int, job: Int64s) -> None:
    """Brings a lane up to the edge of a window: `until` is the newest row outside it."""
    operation, skipped, cell = lanes[lane, OPERATION], job[ASKED, SKIPPED], lanes[lane, CELL]
    if cell < rows.shape[1] and skipped < 0:
        totals[lane, ENTERED] += rows[totals[lane, NEXT], cell] - rows[until, cell]
    elif operation <= STD:
        _walk_numbers(rows, lanes, totals, lane, until, skipped)
    elif operation == DISTINCT:
        _walk_set(rows, lanes, totals, sets, lane, until, skipped)
    elif operation == DECAYED:
        _walk_decayed(rows, lanes, totals, lane, until, skipped, job[ASKED, AT] - lanes[lane, OFFSET])
    elif operation <= FIRST:
        _walk_extremes(rows, lanes, totals, lane, until, skipped)
    else:
        _walk_newest(rows, lanes, totals, lane, until, skipped)
    totals[lane, NEXT] = until


@_inner
def _enter_own(lanes: Int64s, totals: Int64s, sets: Int64s, lane: int, job: Int64s) -> None:
    """Adds the request's own row to a lane."""
    value, operation, time = job[OWN_ROW, lanes[lane, OWN_COLUMN]], lanes[lane, OPERATION], job[OWN_ROW, TIME]
    totals[lane, WAITS] = 0
    if value == MISSING:
        return
    if operation == DISTINCT:
        totals[lane, ENTERED] += _add(sets, lanes[lane, SET], value)
    elif operation >= MIN:
        # It stands last among ties: the first of them stays the first.
        _take(totals, lane, operation, value, time + 1 if operation == FIRST else time)
    else:
        weight = _weight(job[ASKED, AT] - lanes[lane, OFFSET] - time, lanes[lane, STEP]) if operation == DECAYED else 1
        _enter(totals, lane, operation, value * weight if operation == DECAYED else value)


@_inner
def _start(rows: Int64s, lanes: Int64s, job: Int64s, newest: int) -> Int64s:
    """Returns the lanes' totals before the walk: nothing entered, where it begins, and whether the own row waits."""
    totals = np.zeros((lanes.shape[0], TOTALS_WIDTH), np.int64)
    for lane in range(lanes.shape[0]):
        end = job[ASKED, AT] - lanes[lane, OFFSET]
        totals[lane, NEXT] = newest if lanes[lane, OFFSET] == 0 else last_until(rows, end)
        if lanes[lane, OWN] == 1 and job[OWN_ROW, KIND] & lanes[lane, KINDS] != 0:
            totals[lane, WAITS] = job[OWN_ROW, TIME] <= end
    return totals


@_inner
def _exact(rows: Int64s, outputs: Int64s, time: int, crowded: Float64s, out: Float64s) -> int:
    """Returns how many outputs, which ascend by reach, begin at or after the mark; the others become crowded."""
    exact = len(outputs)
    while exact > 0 and time - outputs[exact - 1, REACH] < rows[0, MARK]:
        exact -= 1
        out[outputs[exact, PLACE]] = crowded[outputs[exact, PLACE]]
    return exact


@_inner
def _spread(entered: int, total: int, squares: int) -> float:
    """Returns the standard deviation (of the population), one rounding a step; 0 where only rounding is left of it."""
    mean = np.float64(total) / np.float64(entered)
    variance = np.float64(squares) / np.float64(entered) - mean * mean
    return np.sqrt(variance) if variance > mean * mean * _NO_SPREAD else np.float64(0.0)


@_inner
def _value(operation: int, totals: Int64s, lane: int, time: int, missing: float) -> float:
    """Returns a lane's value as float64: at most one rounding to float and one division, but for STD."""
    entered, total = totals[lane, ENTERED], totals[lane, TOTAL]
    if operation == COUNT:
        return np.float64(entered)
    if operation == SUM:
        return np.float64(total)
    if operation == DECAYED:
        return np.float64(total) / np.float64(UNIT_WEIGHT)
    if entered == 0:
        return missing
    if operation == MEAN:
        return np.float64(total) / np.float64(entered)
    if operation == STD:
        return _spread(entered, total, totals[lane, SECOND])
    if operation == DISTINCT:
        return np.float64(entered)
    if operation == TIME_SINCE:
        return np.float64(time - totals[lane, SECOND]) / np.float64(1_000_000.0)
    return np.float64(total)


@_door("void(int64[:, ::1], int64[:, ::1], int64[:, ::1], int64[:, ::1], float64[::1], float64[::1])")
def scan(rows: Int64s, lanes: Int64s, outputs: Int64s, job: Int64s, crowded: Float64s, out: Float64s) -> None:
    """Writes all features of one entity at time t by one walk back over its longest window that is exact.

    Every lane walks from the newest row with event_time ≤ t − offset, and pauses at the beginning of each of its
    windows to be read, so twelve windows over the same rows cost one pass.

    Args:
        rows: of the entity.
        lanes: what the entity accumulates (`plan.EntityPlan`).
        outputs: what is written when, ascending by reach (offset + window).
        job: shape (2, width over all columns). job[ASKED] says t and the root that is not seen; job[OWN_ROW] is the
            request's own row, last among ties, KIND = 0 for none.
        crowded: shape (features,), what stands for a window that begins before the mark.
        out: the vector, which holds the value of every missing feature; only this entity's places are written.
    """
    time = job[ASKED, AT]
    exact = _exact(rows, outputs, time, crowded, out)
    if exact == 0:
        return
    newest = until = last_until(rows, time)
    totals = _start(rows, lanes, job, newest)
    sets = _empty_sets(lanes, newest - last_until(rows, time - outputs[exact - 1, REACH]) + 1)
    for output in range(exact):
        lane, edge, place = outputs[output, LANE], time - outputs[output, REACH], outputs[output, PLACE]
        if until > 0 and rows[until, TIME] > edge:
            until = last_until(rows, edge)
        if totals[lane, NEXT] > until:
            _walk(rows, lanes, totals, sets, lane, until, job)
        if totals[lane, WAITS] != 0 and job[OWN_ROW, TIME] > edge:
            _enter_own(lanes, totals, sets, lane, job)
        out[place] = _value(lanes[lane, OPERATION], totals, lane, time, out[place])
