"""The offline fold of whole tokens: windows that slide over rows in order, and the kernel's scan for all the rest.

A token whose rows came in the order of event_time, none of them withdrawn, and whose points follow them in time,
needs no walk back: every window lets each row in and out once. All is int64, and integer sums do not depend on the
order of adding, so the bits are those of `kernel.scan`; the tests hold both beside each other. Any other token, and any
aggregate that is not known here, goes through the kernel step by step.
"""

from __future__ import annotations

import numpy as np

from decalog.compiling import compiled
from decalog.features import kernel
from decalog.features.kernel import (
    COLUMN,
    COUNT,
    DISTINCT,
    KIND,
    KINDS,
    LANE,
    MEAN,
    MISSING,
    OFFSET,
    OPERATION,
    OWN,
    OWN_COLUMN,
    PLACE,
    REACH,
    ROOT,
    SUM,
    TIME,
    TIME_SINCE,
    Float64s,
    Int64s,
)

# Columns of a token's reads: t, rows seen, whether there is an own row, the point.
AT, SEEN, HAS_OWN, POINT, READ_WIDTH = 0, 1, 2, 3, 4
# Columns of a set's slot: the value, and the index of the last row that has it.
VALUE, LAST = 0, 1
# Columns of a link: of a row, the rows before and after it with its value; of a read, the last row of the own value.
BEFORE, AFTER, BEFORE_OWN = 0, 1, 2
NUMBER = 3
"""Column that a sliding output has more than another: the number of its window."""
NONE, FAR = -1, 2**62
_LANE_WIDTH, _OUTPUT_WIDTH = 9, 3

_inner = compiled(None)


def slid_outputs(lanes: Int64s, outputs: Int64s) -> tuple[Int64s, Int64s]:
    """Returns the outputs that can slide, by lane and with the number of their window, and those that are scanned for.

    A lane of another width says more than this module knows: then all are scanned for.
    """
    read = lanes[outputs[:, LANE]]
    known = np.isin(read[:, OPERATION], (COUNT, SUM, MEAN, DISTINCT, TIME_SINCE)) & (read[:, OFFSET] == 0)
    # The newest row is found by its time; one that has to meet conditions is scanned for.
    known &= (read[:, OPERATION] != TIME_SINCE) | (read[:, COLUMN] == TIME)
    known &= lanes.shape[1] == _LANE_WIDTH and outputs.shape[1] == _OUTPUT_WIDTH
    numbers = np.searchsorted(windows_of(outputs[known]), outputs[known, REACH])
    slid = np.column_stack([outputs[known], numbers])[np.argsort(outputs[known, LANE], kind="stable")]
    return np.ascontiguousarray(slid), np.ascontiguousarray(outputs[~known])


def windows_of(outputs: Int64s) -> Int64s:
    """Returns the different windows, ascending, µs."""
    return np.unique(outputs[:, REACH])


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
    """Copies a token's rows, reads and own rows together; returns the number of reads, and whether all can slide."""
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
def _enter_windows(rows: Int64s, reads: Int64s, windows: Int64s, firsts: Int64s) -> None:
    """Writes for each window and read which row is the first inside; all rows seen after it are inside too."""
    for which in range(windows.shape[0]):
        first = 0
        for read in range(reads.shape[0]):
            edge, seen = reads[read, AT] - windows[which], reads[read, SEEN]
            while first < seen and rows[first, TIME] <= edge:
                first += 1
            firsts[which, read] = first


@_inner
def _add_up(rows: Int64s, count: int, lane: Int64s, sums: Int64s) -> None:
    """Writes how many of the rows before each enter a lane, and their sum.

    The sum of a long history may pass 2⁶³ and wrap; the difference of two, over a window, is exact all the same.
    """
    kinds, column = lane[KINDS], lane[COLUMN]
    sums[0, 0] = sums[0, 1] = 0
    for index in range(count):
        value = rows[index, column]
        enters = rows[index, KIND] & kinds != 0 and value != MISSING
        sums[index + 1, 0] = sums[index, 0] + enters
        # A count reads times; they are not added.
        sums[index + 1, 1] = sums[index, 1] + (value if enters and lane[OPERATION] != COUNT else 0)


@_inner
def _write_numbers(
    reads: Int64s,
    owns: Int64s,
    mine: Int64s,
    operation: int,
    window: int,
    place: int,
    missing: float,
    firsts: Int64s,
    sums: Int64s,
    out: Float64s,
) -> None:
    """Writes a count, sum or mean at every read."""
    for read in range(reads.shape[0]):
        first, seen = firsts[read], reads[read, SEEN]
        entered, total = sums[seen, 0] - sums[first, 0], sums[seen, 1] - sums[first, 1]
        if mine[read] != MISSING and owns[read, TIME] > reads[read, AT] - window:
            entered, total = entered + 1, total + mine[read]
        out[reads[read, POINT], place] = _value(operation, entered, total, missing)


@_inner
def _write_newest(
    rows: Int64s,
    reads: Int64s,
    mine: Int64s,
    kinds: int,
    window: int,
    place: int,
    missing: float,
    out: Float64s,
) -> None:
    """Writes the time since the newest row at every read."""
    beyond, newest = 0, MISSING
    for read in range(reads.shape[0]):
        while beyond < reads[read, SEEN]:
            if rows[beyond, KIND] & kinds != 0:
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
def _link_row(slots: Int64s, slot: int, links: Int64s, value: int, row: int) -> None:
    """Links a row with the last one of its value, whose slot is given, and makes it the last."""
    before = slots[slot, LAST]
    links[row, BEFORE], links[row, AFTER] = before, FAR
    if before != NONE:
        links[before, AFTER] = row
    slots[slot, VALUE], slots[slot, LAST] = value, row


@_inner
def _link(rows: Int64s, reads: Int64s, mine: Int64s, lane: Int64s, slots: Int64s, links: Int64s) -> None:
    """Writes of each row of a distinct lane where its value was last and comes next, and of each own row the first.

    NONE and FAR stand for nowhere. A row that does not enter is its own neighbour, so that it never counts; an own row
    that does not enter was last FAR away.
    """
    seen_all = reads[reads.shape[0] - 1, SEEN] if reads.shape[0] else 0
    room = 4
    while room < 2 * seen_all:
        room *= 2
    slots[:room, LAST] = NONE
    beyond = 0
    for read in range(reads.shape[0]):
        while beyond < reads[read, SEEN]:
            value = rows[beyond, lane[COLUMN]]
            links[beyond, BEFORE] = links[beyond, AFTER] = beyond
            if rows[beyond, KIND] & lane[KINDS] != 0 and value != MISSING:
                _link_row(slots, _slot(slots, room - 1, value), links, value, beyond)
            beyond += 1
        links[read, BEFORE_OWN] = FAR
        if mine[read] != MISSING:
            links[read, BEFORE_OWN] = slots[_slot(slots, room - 1, mine[read]), LAST]


@_inner
def _write_distinct(
    reads: Int64s,
    owns: Int64s,
    window: int,
    place: int,
    missing: float,
    firsts: Int64s,
    links: Int64s,
    out: Float64s,
) -> None:
    """Writes a number of distinct values at every read: a row counts while the one before it is outside the window."""
    before = beyond = entered = 0
    for read in range(reads.shape[0]):
        first, seen = firsts[read], reads[read, SEEN]
        for index in range(before, min(first, beyond)):
            # It was the only one of its value if the next one has not entered.
            entered -= links[index, AFTER] >= beyond
        for index in range(max(first, beyond), seen):
            entered += links[index, BEFORE] < first
        before, beyond = first, seen
        is_new = links[read, BEFORE_OWN] < first and owns[read, TIME] > reads[read, AT] - window
        out[reads[read, POINT], place] = _value(DISTINCT, entered + is_new, 0, missing)


@_inner
def _slide(
    rows: Int64s,
    reads: Int64s,
    owns: Int64s,
    lanes: Int64s,
    outputs: Int64s,
    windows: Int64s,
    firsts: Int64s,
    slots: Int64s,
    links: Int64s,
    mine: Int64s,
    sums: Int64s,
    blank: Float64s,
    out: Float64s,
) -> None:
    """Writes all outputs of a token whose rows are in order; outputs are sorted by lane."""
    _enter_windows(rows, reads, windows, firsts)
    seen_all = reads[reads.shape[0] - 1, SEEN] if reads.shape[0] else 0
    last = NONE
    for output in range(outputs.shape[0]):
        which, window, place = outputs[output, LANE], outputs[output, REACH], outputs[output, PLACE]
        lane, missing, inside = lanes[which], blank[place], firsts[outputs[output, NUMBER]]
        operation = lane[OPERATION]
        if which != last:
            _own_values(reads, owns, lanes, which, mine)
            if operation == DISTINCT:
                _link(rows, reads, mine, lane, slots, links)
            elif operation != TIME_SINCE:
                _add_up(rows, seen_all, lane, sums)
            last = which
        if operation == TIME_SINCE:
            _write_newest(rows, reads, mine, lane[KINDS], window, place, missing, out)
        elif operation == DISTINCT:
            _write_distinct(reads, owns, window, place, missing, inside, links, out)
        else:
            _write_numbers(reads, owns, mine, operation, window, place, missing, inside, sums, out)


@_inner
def _cover(reads: Int64s, outputs: Int64s, firsts: Int64s, retain: int, crowded: Float64s, out: Float64s) -> None:
    """Makes crowded what holds more rows than declared: of rows in order, the mark is where that many are after it."""
    for output in range(outputs.shape[0] if reads.shape[0] and reads[-1, SEEN] > retain else 0):
        place, inside = outputs[output, PLACE], firsts[outputs[output, NUMBER]]
        for read in range(reads.shape[0]):
            if reads[read, SEEN] - inside[read] > retain:
                out[reads[read, POINT], place] = crowded[place]


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
    crowded: Float64s,
    out: Float64s,
) -> tuple[int, int]:
    """Writes the outputs of any token by the kernel's own steps; returns what went wrong, and at which image."""
    rows, asked = np.zeros((chosen.shape[0] + 1, picks.shape[0]), np.int64), 0
    kernel.clear(rows)
    job = np.zeros((2, table.shape[1]), np.int64)
    for visit in chosen:
        point, image, state = points[visit], images[visit], kernel.DONE
        if point != NONE:
            job[kernel.ASKED, kernel.AT], job[kernel.ASKED, kernel.SKIPPED] = reads[asked, AT], roots[point]
            job[kernel.OWN_ROW] = owns[asked]
            job[kernel.OWN_ROW, KIND] *= reads[asked, HAS_OWN]
            kernel.scan(rows, lanes, outputs, job, crowded, out[point])
            asked += 1
        if image != NONE and acts[image] == kernel.INSERT:
            state = kernel.insert(rows, picks, table[image], retain)
        elif image != NONE:
            state = kernel.retract(rows, table[image])
        if state != kernel.DONE:
            return state, image
    return kernel.DONE, NONE


_VECTOR, _TABLE = "int64[::1]", "int64[:, ::1]"
_VISITS, _POINTS = f"{_VECTOR}, {_VECTOR}, {_VECTOR}, {_VECTOR}", f"{_VECTOR}, {_VECTOR}, {_VECTOR}, {_TABLE}"
_ENTITY = f"{_VECTOR}, {_TABLE}, {_TABLE}, {_TABLE}, {_VECTOR}, {_TABLE}"


@compiled(
    f"UniTuple(int64, 2)({_VISITS}, {_VECTOR}, {_TABLE}, {_POINTS}, {_ENTITY}, int64, int64, float64[::1],"
    " float64[::1], float64[:, ::1])"
)
@kernel.marked  # it calls the kernel
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
    windows: Int64s,
    scanned: Int64s,
    retain: int,
    same: int,
    blank: Float64s,
    crowded: Float64s,
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
        slid: those of the outputs that can slide, sorted by lane, with the number of their window.
        windows: of the sliding outputs.
        scanned: the others, ascending by window.
        retain: as for `kernel.insert`.
        same: 1 where each visit, its point, image and own row have one number, at the row's time and root, and no row
            is withdrawn.
        blank: the value of every missing feature.
        crowded: as for `kernel.scan`.
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
    sums = np.empty((most + 1, 2), np.int64)
    firsts = np.empty((windows.shape[0], most), np.int64)
    for token in range(edges.shape[0] - 1):
        chosen = order[edges[token] : edges[token + 1]]
        if same == 1:
            asked, ordered = _gather_same(chosen, table, picks, rows, reads, owns)
        else:
            asked, ordered = _gather(
                chosen, images, points, acts, table, picks, times, roots, own, own_rows, rows, reads, owns
            )
        read = reads[:asked]
        if ordered:
            _slide(rows, read, owns, lanes, slid, windows, firsts, slots, links, mine, sums, blank, out)
            _cover(read, slid, firsts, retain, crowded, out)
        rest = scanned if ordered else outputs
        if rest.shape[0] > 0:
            state, image = _scan(
                chosen, images, points, acts, table, picks, roots, lanes, rest, read, owns, retain, crowded, out
            )
            if state != kernel.DONE:
                return state, image
    return kernel.DONE, NONE
