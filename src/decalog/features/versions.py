"""What a bitemporal table said, and when: each row of it is a box, and a question is a point that lies in it or not.

A row holds a value that is valid from one time to another. It was believed from the time it became known until the next
row of the same key and valid_from became known, which corrects or deletes it. So it is a box of two half-open ranges,
and of all boxes that hold the point (event time, decision time) the one with the latest valid_from is the answer. No
two boxes of one valid_from hold the same point, so there is at most one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from decalog.features.kernel import MISSING, Int64s, _door, _inner

END = 2**63 - 1
"""After all times: the valid_to of what is still valid, and the end of what nobody corrected."""

NOWHERE = -1
"""Stands for a key that is missing or unknown, and for a row of the table that is not there."""

_BLOCK = 64
# Rows of an array of boxes; one of blocks holds the earliest start and the latest ends of the first three.
_KNOWN_FROM, _KNOWN_TO, _VALID_TO, _VALID_FROM = 0, 1, 2, 3


class Statements(NamedTuple):
    """The rows of a bitemporal table, each array of shape (rows,), times in µs.

    Args:
        keys: whose value it is; NOWHERE for nobody's.
        valid_from, valid_to: when the value holds, the end not included.
        known_from: when it became known.
        deleted: whether the row withdraws what was said of this key and valid_from.
    """

    keys: Int64s
    valid_from: Int64s
    known_from: Int64s
    valid_to: Int64s
    deleted: npt.NDArray[np.bool_]


class Boxes(NamedTuple):
    """Statements as boxes, sorted by key, valid_from, known_from.

    Args:
        starts: shape (keys + 1,); the boxes of a key lie between its start and the next.
        valid_from, valid_to, known_from, known_to: shape (boxes,), µs.
        places: shape (boxes,); which row of the table each is.
    """

    starts: Int64s
    valid_from: Int64s
    valid_to: Int64s
    known_from: Int64s
    known_to: Int64s
    places: Int64s


def boxes_of(table: Statements, *, keys: int) -> Boxes:
    """Returns what every row of the table said and until when it was believed.

    Of rows that became known together the later one in the table corrects the others.

    Args:
        table: its rows, in any order of times.
        keys: how many there are; those of the table count from 0.
    """
    order = np.lexsort((table.known_from, table.valid_from, table.keys))  # stable: ties stay in the table's order
    owners, valid_from, known_from = table.keys[order], table.valid_from[order], table.known_from[order]
    known_to = np.full(len(order), END, np.int64)
    corrected = (owners[1:] == owners[:-1]) & (valid_from[1:] == valid_from[:-1])
    known_to[:-1][corrected] = known_from[1:][corrected]
    valid_to = table.valid_to[order]
    holds = ~table.deleted[order] & (owners != NOWHERE) & (known_from < known_to) & (valid_from < valid_to)
    return Boxes(
        starts=np.searchsorted(owners[holds], np.arange(keys + 1)),
        valid_from=valid_from[holds],
        valid_to=valid_to[holds],
        known_from=known_from[holds],
        known_to=known_to[holds],
        places=order[holds],
    )


def find(boxes: Boxes, keys: Int64s, *, event_times: Int64s, known_times: Int64s) -> Int64s:
    """Returns the row of the table that answers each question, NOWHERE where none does; shape (questions,).

    Args:
        boxes: of the table.
        keys: shape (questions,); NOWHERE for a key that the table does not have.
        event_times: shape (questions,), µs; MISSING is answered by no row.
        known_times: the same, of what may be known.
    """
    rows = np.stack([boxes.known_from, boxes.known_to, boxes.valid_to, boxes.valid_from])
    asked = np.stack([keys, np.minimum(event_times, END - 1), np.minimum(known_times, END - 1)])
    found = np.full(len(keys), NOWHERE, np.int64)
    _find(rows, _bounds(rows, _BLOCK), _bounds(rows, _BLOCK**2), boxes.starts, asked, found)
    hit = found != NOWHERE
    found[hit] = boxes.places[found[hit]]
    return found


def _bounds(rows: Int64s, size: int) -> Int64s:
    """Returns of each block the earliest start and the latest ends, which tell whether it can be passed over."""
    firsts = np.arange(0, rows.shape[1], size)
    if not len(firsts):
        return np.zeros((3, 0), np.int64)
    reducers = (np.minimum, np.maximum, np.maximum)
    return np.stack([reduce.reduceat(row, firsts) for reduce, row in zip(reducers, rows[:3], strict=True)])


@_inner
def _may_hold(ranges: Int64s, place: int, time: int, known: int) -> bool:
    """Returns whether a box holds a point that its valid_from lets in, or whether any box of a block may."""
    return bool(ranges[_KNOWN_FROM, place] <= known < ranges[_KNOWN_TO, place] and time < ranges[_VALID_TO, place])


@_door("void(int64[:, ::1], int64[:, ::1], int64[:, ::1], int64[::1], int64[:, ::1], int64[::1])")
def _find(rows: Int64s, blocks: Int64s, areas: Int64s, starts: Int64s, asked: Int64s, found: Int64s) -> None:
    for question in range(asked.shape[1]):
        key, time, known = asked[0, question], asked[1, question], asked[2, question]
        if key == NOWHERE or min(time, known) == MISSING:
            continue
        first = starts[key]
        box = first + np.searchsorted(rows[_VALID_FROM, first : starts[key + 1]], time, side="right") - 1
        while box >= first:
            if _may_hold(rows, box, time, known):
                found[question] = box
                break
            if not _may_hold(areas, box // _BLOCK**2, time, known):
                box = box // _BLOCK**2 * _BLOCK**2 - 1
            elif not _may_hold(blocks, box // _BLOCK, time, known):
                box = box // _BLOCK * _BLOCK - 1
            else:
                box -= 1
