"""The offline fold of whole tokens: windows that slide over rows in order, and the kernel's scan for all the rest.

A token whose rows came in the order of event_time, none of them withdrawn, and whose points follow them in time, needs
no walk back: every window enters and leaves each row once. All is int64, and integer sums do not depend on the order of
adding, so the bits are those of `kernel.scan`; the tests hold both beside each other. Any other token, and any aggregate
that is not known here, goes through `kernel.fold`.
"""

from __future__ import annotations

import numpy as np

from decalog.features import kernel
from decalog.features.kernel import (
    ACT,
    COLUMN,
    COUNT,
    DISTINCT,
    INDEX,
    KIND,
    KINDS,
    LANE,
    MEAN,
    MISSING,
    OPERATION,
    OWN,
    OWN_COLUMN,
    PLACE,
    ROOT,
    SUM,
    TIME,
    TIME_SINCE,
    WINDOW,
    Float64s,
    Int64s,
)
from decalog.features.kernel import _compiler as compiler

# Columns of a token's reads: t, rows seen, whether there is an own row, the point.
AT, SEEN, HAS_OWN, POINT, READ_WIDTH = 0, 1, 2, 3, 4
# Columns of a set's slot: the value, and the index of the last row that has it.
VALUE, LAST = 0, 1
NONE = -1
_LANE_WIDTH, _OUTPUT_WIDTH = 6, 3

_door = compiler
_inner = compiler(None)


def slid_outputs(lanes: Int64s, outputs: Int64s) -> tuple[Int64s, Int64s]:
    """Returns the outputs that can slide, and those that the kernel has to scan for.

    A lane of another width says more than this module knows: then all are scanned for.
    """
    known = np.isin(lanes[outputs[:, LANE], OPERATION], (COUNT, SUM, MEAN, DISTINCT, TIME_SINCE))
    known &= lanes.shape[1] == _LANE_WIDTH and outputs.shape[1] == _OUTPUT_WIDTH
    by_lane = outputs[known][np.argsort(outputs[known, LANE], kind="stable")]
    return np.ascontiguousarray(by_lane), np.ascontiguousarray(outputs[~known])


@_inner
def _gather_row(table: Int64s, picks: Int64s, image: int, rows: Int64s, count: int) -> bool:
    """Copies an image behind a token's rows; returns whether it stands after all of them."""
    for column in range(picks.shape[0]):
        rows[count, column] = table[image, picks[column]]
    if count == 0:
        return True
    for column in range(kernel.FIRST_COLUMN):
        if rows[count, column] != rows[count - 1, column]:
            return bool(rows[count, column] > rows[count - 1, column])
    return False


@_inner
def _gather(
    chosen: Int64s,
    images: Int64s,
    points: Int64s,
    acts: Int64s,
    table: Int64s,
    picks: Int64s,
    times: Int64s,
    roots: Int64s,
    own: Int64s,
    own_rows: Int64s,
    rows: Int64s,
    reads: Int64s,
    owns: Int64s,
) -> tuple[int, bool]:
    """Copies a token's rows, reads and own rows side by side; returns the number of reads, and whether all can slide."""
    count = asked = 0
    ordered, newest_root = True, -1
    for visit in chosen:
        point, image = points[visit], images[visit]
        if point != NONE:
            time, root = times[point], roots[point]
            ordered &= count == 0 or rows[count - 1, TIME] <= time
            ordered &= asked == 0 or reads[asked - 1, AT] <= time
            ordered &= root < 0 or root > newest_root
            reads[asked, AT], reads[asked, SEEN], reads[asked, POINT] = time, count, point
            reads[asked, HAS_OWN] = own[point] != NONE
            if own[point] != NONE:
                owns[asked] = own_rows[own[point]]
            asked += 1
        if image != NONE:
            ordered &= acts[image] == kernel.INSERT
            ordered &= _gather_row(table, picks, image, rows, count)
            newest_root = max(newest_root, rows[count, ROOT])
            count += 1
    return asked, ordered


@_inner
def _gather_same(
    chosen: Int64s, table: Int64s, picks: Int64s, rows: Int64s, reads: Int64s, owns: Int64s
) -> tuple[int, bool]:
    """Does what `_gather` does where each visit, its point, image and own row have one number, and none is withdrawn.

    It reads one row of one table, where `_gather` reads eight places of the memory: half of the fold's time was that.
    """
    ordered, newest_root = True, -1
    for index in range(chosen.shape[0]):
        image = chosen[index]
        for column in range(table.shape[1]):
            owns[index, column] = table[image, column]
        for column in range(picks.shape[0]):
            rows[index, column] = owns[index, picks[column]]
        root = owns[index, ROOT]
        ordered &= index == 0 or owns[index - 1, TIME] <= owns[index, TIME]
        ordered &= root > newest_root
        newest_root = max(newest_root, root)
        reads[index, AT], reads[index, SEEN], reads[index, POINT] = owns[index, TIME], index, image
        reads[index, HAS_OWN] = 1
    return chosen.shape[0], ordered


@_inner
def _own_values(reads: Int64s, owns: Int64s, lanes: Int64s, which: int, mine: Int64s) -> None:
    """Writes what the own row of each read brings into a lane, MISSING where it does not enter."""
    kinds, column, wanted = lanes[which, KINDS], lanes[which, OWN_COLUMN], lanes[which, OWN]
    for read in range(reads.shape[0]):
        enters = wanted == 1 and reads[read, HAS_OWN] == 1 and owns[read, TIME] <= reads[read, AT]
        mine[read] = owns[read, column] if enters and owns[read, KIND] & kinds != 0 else MISSING


@_inner
def _value(operation: int, entered: int, total: int, missing: float) -> float:
    """Returns a lane's value as float64, as `kernel.scan` does: one rounding to float, and one division."""
    if operation == SUM:
        return np.float64(total)
    if operation == COUNT:
        return np.float64(entered)
    if entered == 0:
        return missing
    return np.float64(total) / np.float64(entered) if operation == MEAN else np.float64(entered)


@_inner
def _slide_numbers(
    rows: Int64s, reads: Int64s, owns: Int64s, mine: Int64s, lane: Int64s, window: int, place: int, missing: float, out: Float64s
) -> None:
    """Writes a count, sum or mean at every read."""
    operation, kinds, column = lane[OPERATION], lane[KINDS], lane[COLUMN]
    weight = 0 if operation == COUNT else 1
    first = beyond = entered = total = 0
    for read in range(reads.shape[0]):
        edge = reads[read, AT] - window
        while first < beyond and rows[first, TIME] <= edge:
            if rows[first, KIND] & kinds != 0 and rows[first, column] != MISSING:
                entered -= 1
                total -= weight * rows[first, column]
            first += 1
        while beyond < reads[read, SEEN]:
            if rows[beyond, TIME] <= edge:
                first = beyond + 1
            elif rows[beyond, KIND] & kinds != 0 and rows[beyond, column] != MISSING:
                entered += 1
                total += weight * rows[beyond, column]
            beyond += 1
        enters = mine[read] != MISSING and owns[read, TIME] > edge
        point = reads[read, POINT]
        both = total + (weight * mine[read] if enters else 0)
        out[point, place] = _value(operation, entered + enters, both, missing)


@_inner
def _slide_newest(
    rows: Int64s, reads: Int64s, mine: Int64s, lane: Int64s, window: int, place: int, missing: float, out: Float64s
) -> None:
    """Writes the time since the newest row at every read."""
    beyond, newest = 0, MISSING
    for read in range(reads.shape[0]):
        while beyond < reads[read, SEEN]:
            if rows[beyond, KIND] & lane[KINDS] != 0:
                newest = rows[beyond, TIME]
            beyond += 1
        time = reads[read, AT]
        found = max(newest, mine[read])
        since = np.float64(time - found) / np.float64(1_000_000.0) if found > time - window else missing
        out[reads[read, POINT], place] = since


@_inner
def _slot(slots: Int64s, mask: int, value: int) -> int:
    """Returns where a value stands or belongs. Open addressing; never more than half full."""
    mixed = ((value & 0xFFFFFFFF) * 0x5BD1E995) ^ ((value >> 32) * 0x4CF5AD43)
    slot = (mixed ^ (mixed >> 29)) & mask
    while slots[slot, LAST] != NONE and slots[slot, VALUE] != value:
        slot = (slot + 1) & mask
    return slot


@_inner
def _link(rows: Int64s, reads: Int64s, mine: Int64s, lane: Int64s, slots: Int64s, links: Int64s) -> None:
    """Writes of each row that enters a distinct lane where its value was last and comes next, and of each own row."""
    seen_all = reads[reads.shape[0] - 1, SEEN] if reads.shape[0] else 0
    room = 4
    while room < 2 * seen_all:
        room *= 2
    slots[:room, LAST] = NONE
    beyond = 0
    for read in range(reads.shape[0]):
        while beyond < reads[read, SEEN]:
            value = rows[beyond, lane[COLUMN]]
            links[beyond, 0] = links[beyond, 1] = NONE
            if rows[beyond, KIND] & lane[KINDS] != 0 and value != MISSING:
                slot = _slot(slots, room - 1, value)
                links[beyond, 0] = slots[slot, LAST]
                _linked(links, slots, slot, value, beyond)
            beyond += 1
        links[read, 2] = NONE if mine[read] == MISSING else slots[_slot(slots, room - 1, mine[read]), LAST]


@_inner
def _linked(links: Int64s, slots: Int64s, slot: int, value: int, row: int) -> None:
    """Makes a row the last of its value."""
    if slots[slot, LAST] != NONE:
        links[slots[slot, LAST], 1] = row
    slots[slot, VALUE], slots[slot, LAST] = value, row


@_inner
def _slide_distinct(
    rows: Int64s,
    reads: Int64s,
    owns: Int64s,
    mine: Int64s,
    lane: Int64s,
    window: int,
    place: int,
    missing: float,
    links: Int64s,
    out: Float64s,
) -> None:
    """Writes a number of distinct values at every read: a row counts while the one before it is outside the window."""
    kinds, column = lane[KINDS], lane[COLUMN]
    first = beyond = entered = 0
    for read in range(reads.shape[0]):
        edge, seen = reads[read, AT] - window, reads[read, SEEN]
        while first < beyond and rows[first, TIME] <= edge:
            # It was the only one of its value if the next one has not entered.
            is_only = links[first, 1] == NONE or links[first, 1] >= beyond
            entered -= is_only and rows[first, KIND] & kinds != 0 and rows[first, column] != MISSING
            first += 1
        while beyond < seen:
            if rows[beyond, TIME] <= edge:
                first = beyond + 1
            else:
                is_new = links[beyond, 0] < first
                entered += is_new and rows[beyond, KIND] & kinds != 0 and rows[beyond, column] != MISSING
            beyond += 1
        is_new = links[read, 2] < first and mine[read] != MISSING and owns[read, TIME] > edge
        point = reads[read, POINT]
        out[point, place] = _value(DISTINCT, entered + is_new, 0, missing)


@_inner
def _slide(
    rows: Int64s,
    reads: Int64s,
    owns: Int64s,
    lanes: Int64s,
    outputs: Int64s,
    slots: Int64s,
    links: Int64s,
    mine: Int64s,
    blank: Float64s,
    out: Float64s,
) -> None:
    """Writes all outputs of a token whose rows are in order; outputs are sorted by lane."""
    last = NONE
    for output in range(outputs.shape[0]):
        which, window, place = outputs[output, LANE], outputs[output, WINDOW], outputs[output, PLACE]
        lane = lanes[which]
        operation = lane[OPERATION]
        if which != last:
            _own_values(reads, owns, lanes, which, mine)
            if operation == DISTINCT:
                _link(rows, reads, mine, lane, slots, links)
            last = which
        if operation == TIME_SINCE:
            _slide_newest(rows, reads, mine, lane, window, place, blank[place], out)
        elif operation == DISTINCT:
            _slide_distinct(rows, reads, owns, mine, lane, window, place, blank[place], links, out)
        else:
            _slide_numbers(rows, reads, owns, mine, lane, window, place, blank[place], out)


@_inner
def _is_crowded(rows: Int64s, reads: Int64s, longest: int, retain: int) -> bool:
    """Returns whether at some read more rows than declared lie in the longest window."""
    first = 0
    for read in range(reads.shape[0]):
        if reads[read, SEEN] > retain:
            while first < reads[read, SEEN] and rows[first, TIME] <= reads[read, AT] - longest:
                first += 1
            if reads[read, SEEN] - first > retain:
                return True
    return False


@_inner
def _scan(
    chosen: Int64s,
    images: Int64s,
    points: Int64s,
    acts: Int64s,
    table: Int64s,
    picks: Int64s,
    roots: Int64s,
    lanes: Int64s,
    outputs: Int64s,
    reads: Int64s,
    owns: Int64s,
    retain: int,
    out: Float64s,
) -> tuple[int, int]:
    """Writes the outputs of any token through `kernel.fold`; returns what went wrong, and at which image."""
    steps = np.zeros((2 * chosen.shape[0], 3), np.int64)
    jobs = np.zeros((reads.shape[0], 2, table.shape[1]), np.int64)
    mine = np.zeros(chosen.shape[0], np.int64)
    part = np.empty((reads.shape[0], out.shape[1]), np.float64)
    step = asked = count = 0
    for visit in chosen:
        point, image = points[visit], images[visit]
        if point != NONE:
            jobs[asked, kernel.ASKED, kernel.AT] = reads[asked, AT]
            jobs[asked, kernel.ASKED, kernel.SKIPPED] = roots[point]
            jobs[asked, kernel.ASKED, kernel.RETAIN] = retain
            if reads[asked, HAS_OWN] != 0:
                jobs[asked, kernel.OWN_ROW] = owns[asked]
            part[asked] = out[point]
            steps[step, ACT], steps[step, INDEX] = kernel.READ, asked
            step, asked = step + 1, asked + 1
        if image != NONE:
            mine[count] = image
            steps[step, ACT], steps[step, INDEX] = acts[image], count
            step, count = step + 1, count + 1
    fault = kernel.fold(steps[:step], table[mine[:count]], jobs, picks, lanes, outputs, count, part)
    if fault != 0:
        which = steps[fault // 8, INDEX]
        return fault % 8, NONE if fault % 8 == kernel.CROWDED else mine[which]
    for read in range(asked):
        out[reads[read, POINT]] = part[read]
    return kernel.DONE, NONE


_VECTOR, _TABLE = "int64[::1]", "int64[:, ::1]"


@_door(
    f"UniTuple(int64, 2)({_VECTOR}, {_VECTOR}, {_VECTOR}, {_VECTOR}, {_VECTOR}, {_TABLE}, {_VECTOR}, {_VECTOR},"
    f" {_VECTOR}, {_TABLE}, {_VECTOR}, {_TABLE}, {_TABLE}, {_TABLE}, {_TABLE}, int64, int64, float64[::1], float64[:, ::1])"
)
def fold_tokens(
    order: Int64s,
    edges: Int64s,
    images: Int64s,
    points: Int64s,
    acts: Int64s,
    table: Int64s,
    times: Int64s,
    roots: Int64s,
    own: Int64s,
    own_rows: Int64s,
    picks: Int64s,
    lanes: Int64s,
    outputs: Int64s,
    slid: Int64s,
    scanned: Int64s,
    retain: int,
    same: int,
    blank: Float64s,
    out: Float64s,
) -> tuple[int, int]:
    """Folds one entity name's whole log, token after token; returns (DONE, −1), or what went wrong at which image.

    Args:
        order: visits, sorted by token and then in the log's order.
        edges: where in `order` each token begins, and the end.
        images: of each visit the row of `table`, or −1.
        points: of each visit the point, or −1. A point does not see the image beside it.
        acts: of each row of `table`, RETRACT or INSERT.
        table: rows over all columns.
        times: of each point, µs.
        roots: of each point, the root that is not seen.
        own: of each point its row in `own_rows`, or −1.
        own_rows: rows over all columns.
        picks: as for `kernel.insert`.
        lanes: as for `kernel.scan`.
        outputs: as for `kernel.scan`.
        slid: those of the outputs that can slide, sorted by lane.
        scanned: the others, ascending by window.
        retain: most rows of a token in the longest window.
        same: 1 where each visit, its point, image and own row have one number, at the row's time and root, and no row
            is withdrawn.
        blank: the value of every missing feature.
        out: shape (points, features), holding the value of every missing feature.
    """
    most = 0
    for token in range(edges.shape[0] - 1):
        most = max(most, edges[token + 1] - edges[token])
    rows = np.empty((most, picks.shape[0]), np.int64)
    reads = np.empty((most, READ_WIDTH), np.int64)
    owns = np.zeros((most, table.shape[1]), np.int64)
    slots = np.empty((4 * most + 4, 2), np.int64)
    links = np.empty((most, 3), np.int64)
    mine = np.empty(most, np.int64)
    longest = outputs[outputs.shape[0] - 1, WINDOW]
    for token in range(edges.shape[0] - 1):
        chosen = order[edges[token] : edges[token + 1]]
        if same == 1:
            asked, ordered = _gather_same(chosen, table, picks, rows, reads, owns)
        else:
            asked, ordered = _gather(
                chosen, images, points, acts, table, picks, times, roots, own, own_rows, rows, reads, owns
            )
        ordered &= not _is_crowded(rows, reads[:asked], longest, retain)
        if ordered:
            _slide(rows, reads[:asked], owns, lanes, slid, slots, links, mine, blank, out)
        rest = scanned if ordered else outputs
        if rest.shape[0] > 0:
            state, image = _scan(
                chosen, images, points, acts, table, picks, roots, lanes, rest, reads[:asked], owns, retain, out
            )
            if state != kernel.DONE:
                return state, image
    return kernel.DONE, NONE
