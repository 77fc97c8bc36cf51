"""The rows of all live entities in one array of cells: found by a hash, added to in place, no object for each.

    index   slots × (token, entity name, head)
    cells   blank │ run │ run │ free │ run │ …        a run: row 0 (count, mark, room), rows, and its room once more

A run is the whole state of an entity, as `kernel` reads it. Where it is full its rows move to a larger run; what they
leave becomes one with what is free beside it, and is given to others. A token of which nothing could be said any more
is dropped by and by, when others come. So a million entities cost no more a request than ten, nothing is copied at
large, and a state that is let go of is a handful of arrays.
"""

from __future__ import annotations

from decalog.compiling import compiled
from decalog.features import kernel
from decalog.features.kernel import MISSING, Float64s, Int64s

COUNTED_FROM = 64
"""Rows from which on a run has running counts (see `kernel`): fewer are walked over in the time that a search takes."""

# Columns of the index. Where HEAD is 0 nothing stands, and that of a token without rows is the blank run at cell 0.
TOKEN, NAME, HEAD, INDEX_WIDTH = 0, 1, 2, 3
# Column of row 0, beside the count and the mark: four times the cells of the run, 2 more where it has running counts, 1
# more where it is free. The last cell of a run holds it too, for the run behind it. A free one holds where the next one
# and the one before it in their list begin (Knuth, TAOCP 1, 2.5, boundary tags).
ROOM = 2
AFTER, BEFORE = 0, 1
# What an arena is made of. WIDTHS: entity name → cells of a row, (without, with) running counts. FREE: the first free
# run of those with so many cells, by powers of two.
INDEX, CELLS, WIDTHS, FREE, STATE = 0, 1, 2, 3, 4
# Cells of the state: where what was never used begins; tokens; the slot that is looked at next; cells that were wanted
# and not there; what stopped an insert; rows from which on there are running counts.
USED, TOKENS, HAND, WANTED, WHY, LEAST, STATE_WIDTH = 0, 1, 2, 3, 4, 5, 6
POWERS = 48
"""Lists of free runs."""
LANES, OUTPUTS, PICKS, SPANS = 0, 1, 2, 3
# Columns of a span: where one entity name's lanes, outputs and picks lie in the tables of all.
LANES_FROM, LANES_TO, OUTPUTS_FROM, OUTPUTS_TO, PICKS_FROM, PICKS_TO = 0, 1, 2, 3, 4, 5

NO_ROOM = 4
"""What became of a step, beside `kernel.DONE` and `TWICE`: nothing, for want of cells."""

_LOOKED_AT = 8
"""Slots that are looked at for each new token: half of them are empty at least, and each token is met often enough."""
_TRIED = 4
"""Free runs that may be too small of which so many are tried; all of the next list are large enough."""
_LEAST = 8
"""Cells of a free run, at least; less is left to the run before it."""

Arena = tuple[Int64s, Int64s, Int64s, Int64s, Int64s]
Tables = tuple[Int64s, Int64s, Int64s, Int64s]
_TABLE, _LIST = "int64[:, ::1]", "int64[::1]"
_ARENA = f"Tuple(({_TABLE}, {_LIST}, {_TABLE}, {_LIST}, {_LIST}))"
_TABLES = f"Tuple(({_TABLE}, {_TABLE}, {_LIST}, {_TABLE}))"

_inner = compiled(None)


@_inner
def _lanes(tables: Tables, name: int) -> Int64s:
    """Returns what an entity name accumulates."""
    return tables[LANES][tables[SPANS][name, LANES_FROM] : tables[SPANS][name, LANES_TO]]


@_inner
def _outputs(tables: Tables, name: int) -> Int64s:
    """Returns what is written of an entity name, and when."""
    return tables[OUTPUTS][tables[SPANS][name, OUTPUTS_FROM] : tables[SPANS][name, OUTPUTS_TO]]


@_inner
def _slot(index: Int64s, token: int, name: int) -> int:
    """Returns where in the index a token of an entity name stands, or would: an empty slot."""
    mask = index.shape[0] - 1
    slot = kernel.mixed(token ^ name) & mask
    while index[slot, HEAD] != 0 and (index[slot, TOKEN] != token or index[slot, NAME] != name):
        slot = (slot + 1) & mask
    return int(slot)


@_inner
def _set(index: Int64s, slot: int, token: int, name: int, head: int) -> None:
    """Fills a slot; cell by cell, as all is done here: numba takes seconds to compile what is assigned at once."""
    index[slot, TOKEN] = token
    index[slot, NAME] = name
    index[slot, HEAD] = head


@_inner
def _head(index: Int64s, token: int, name: int) -> int:
    """Returns where a token's run begins; 0, where the blank one does, for a token without rows."""
    return int(index[_slot(index, token, name), HEAD])


@_inner
def _run(arena: Arena, name: int, head: int) -> Int64s:
    """Returns the rows of a run, those that are not used yet too; the blank one has none."""
    cells = arena[CELLS]
    room = cells[head + ROOM]
    width = arena[WIDTHS][name, (room >> 1) & 1]
    rows = max(1, ((room >> 2) - 1) // width)
    return cells[head : head + rows * width].reshape((rows, width))


@_inner
def _list_of(size: int) -> int:
    """Returns in which list a free run of so many cells stands."""
    power = 0
    while size > 1:
        size >>= 1
        power += 1
    return power


@_inner
def _link(arena: Arena, head: int, size: int) -> None:
    """Makes cells a free run."""
    cells, free = arena[CELLS], arena[FREE]
    power = _list_of(size)
    after = free[power]
    cells[head + AFTER], cells[head + BEFORE], free[power] = after, 0, head
    if after != 0:
        cells[after + BEFORE] = head
    cells[head + ROOM] = cells[head + size - 1] = 4 * size + 1


@_inner
def _unlink(arena: Arena, head: int) -> int:
    """Takes a free run out of its list; returns its cells."""
    cells = arena[CELLS]
    size, after, before = cells[head + ROOM] >> 2, cells[head + AFTER], cells[head + BEFORE]
    if after != 0:
        cells[after + BEFORE] = before
    if before != 0:
        cells[before + AFTER] = after
    else:
        arena[FREE][_list_of(size)] = after
    return int(size)


@_inner
def _found(arena: Arena, size: int) -> int:
    """Returns a free run of at least so many cells; 0 for none."""
    cells = arena[CELLS]
    for power in range(_list_of(size), POWERS):
        head, tries = arena[FREE][power], 0
        while head != 0 and cells[head + ROOM] >> 2 < size and tries < _TRIED:
            head, tries = cells[head + AFTER], tries + 1
        if head != 0 and cells[head + ROOM] >> 2 >= size:
            return int(head)
    return 0


@compiled(f"int64({_ARENA}, int64, int64, int64)")
@kernel.marked
def _take(arena: Arena, name: int, counted: int, rows: int) -> int:
    """Returns the head of an empty run of at least so many rows, row 0 among them; 0 where no cells are left."""
    cells, state = arena[CELLS], arena[STATE]
    width = arena[WIDTHS][name, counted]
    size = rows * width + 1
    head = _found(arena, size)
    if head != 0:
        found = _unlink(arena, head)
        if found - size >= _LEAST:
            _link(arena, head + size, found - size)
        else:
            size = found
    elif state[USED] + size > cells.shape[0]:
        state[WANTED] = size
        return 0
    else:
        head = state[USED]
        state[USED] += size
    for cell in range(head, head + width):
        cells[cell] = 0
    cells[head + kernel.MARK] = kernel.BEFORE_ALL
    cells[head + ROOM] = cells[head + size - 1] = 4 * size + 2 * counted
    return head


@compiled(f"void({_ARENA}, int64)")
@kernel.marked
def _let_go(arena: Arena, head: int) -> None:
    """Frees the cells of a run, together with those that are free on either side."""
    cells, state = arena[CELLS], arena[STATE]
    size = cells[head + ROOM] >> 2
    if head + size < state[USED] and cells[head + size + ROOM] & 1:
        size += _unlink(arena, head + size)
    if cells[head - 1] & 1:
        head -= cells[head - 1] >> 2
        size += _unlink(arena, head)
    if head + size == state[USED]:
        state[USED] = head
    else:
        _link(arena, head, size)


@_inner
def _drop(index: Int64s, slot: int) -> None:
    """Empties a slot, and moves up what stands behind it because it was taken (Knuth, TAOCP 3, 6.4, algorithm R)."""
    mask, hole, probe = index.shape[0] - 1, slot, (slot + 1) & (index.shape[0] - 1)
    while index[probe, HEAD] != 0:
        home = kernel.mixed(index[probe, TOKEN] ^ index[probe, NAME]) & mask
        if ((probe - home) & mask) >= ((probe - hole) & mask):
            _set(index, hole, index[probe, TOKEN], index[probe, NAME], index[probe, HEAD])
            hole = probe
        probe = (probe + 1) & mask
    index[hole, HEAD] = 0


@_inner
def _sweep(arena: Arena, horizon: int) -> None:
    """Looks at some slots, and drops the tokens there of which no row and no mark lies after the horizon."""
    index, state = arena[INDEX], arena[STATE]
    for _ in range(_LOOKED_AT):
        slot = state[HAND] & (index.shape[0] - 1)
        head, name = index[slot, HEAD], index[slot, NAME]
        if head != 0 and kernel.newest(_run(arena, name, head)) <= horizon:
            _let_go(arena, head)
            _drop(index, slot)  # another may stand there now
            state[TOKENS] -= 1
        else:
            state[HAND] = slot + 1


@_inner
def _recount(rows: Int64s, lanes: Int64s, first: int) -> None:
    """Makes the running counts of a run anew from a row on."""
    for lane in range(lanes.shape[0]):
        cell, kinds, column = lanes[lane, kernel.CELL], lanes[lane, kernel.KINDS], lanes[lane, kernel.COLUMN]
        if cell < rows.shape[1]:
            for index in range(max(1, first), rows[0, kernel.COUNTED] + 1):
                takes = rows[index, kernel.KIND] & kinds != 0 and rows[index, column] != MISSING
                rows[index, cell] = rows[index - 1, cell] + takes  # row 0 holds nothing there


@_inner
def _filled(arena: Arena, name: int, lanes: Int64s, rows: Int64s, spare: int) -> int:
    """Returns the head of a new run that holds rows in order and has room for more; 0 where no cells are left."""
    widths, count = arena[WIDTHS], rows.shape[0]
    counted = 1 if count >= arena[STATE][LEAST] and widths[name, 1] > widths[name, 0] else 0
    head = _take(arena, name, counted, 1 + count + spare)
    if head != 0:
        fitted = _run(arena, name, head)
        fitted[0, kernel.COUNTED] = count
        for index in range(count):
            for column in range(widths[name, 0]):
                fitted[1 + index, column] = rows[index, column]
        _recount(fitted, lanes, 1)
    return head


@_inner
def _refitted(arena: Arena, name: int, lanes: Int64s, head: int, horizon: int) -> int:
    """Returns the head of a larger run for what a full one holds after the horizon and its mark; 0 for no cells."""
    rows = _run(arena, name, head)
    mark = rows[0, kernel.MARK]
    left = rows[kernel.last_until(rows, max(horizon, mark)) + 1 : rows[0, kernel.COUNTED] + 1]
    fitted = _filled(arena, name, lanes, left, max(1, left.shape[0] // 2))
    if fitted != 0:
        arena[CELLS][fitted + kernel.MARK] = mark
        _let_go(arena, head)
    return fitted


@_inner
def _put(rows: Int64s, picks: Int64s, lanes: Int64s, row: Int64s, retain: int) -> int:
    """Does `kernel.insert`, and keeps the running counts where there are some."""
    done = kernel.insert(rows, picks, row, retain)
    if done == kernel.DONE and rows.shape[1] > picks.shape[0]:
        _recount(rows, lanes, kernel.last_not_after(rows, row))
    return done


@_inner
def _add(arena: Arena, tables: Tables, row: Int64s, name: int, token: int, horizon: int, retain: int) -> int:
    """Adds a row to a token of an entity name; returns DONE, TWICE or NO_ROOM (nothing changed)."""
    index, lanes, span = arena[INDEX], _lanes(tables, name), tables[SPANS][name]
    picks = tables[PICKS][span[PICKS_FROM] : span[PICKS_TO]]
    slot = _slot(index, token, name)
    is_new = index[slot, HEAD] == 0
    if is_new:
        head = _take(arena, name, 0, 2)
        if head == 0:
            return NO_ROOM
        _set(index, slot, token, name, head)
        arena[STATE][TOKENS] += 1
    done = kernel.FULL
    while done == kernel.FULL:
        done = _put(_run(arena, name, index[slot, HEAD]), picks, lanes, row, retain)
        if done == kernel.FULL:
            head = _refitted(arena, name, lanes, index[slot, HEAD], horizon)
            if head == 0:
                return NO_ROOM
            index[slot, HEAD] = head
    if is_new:
        _sweep(arena, horizon)
    return done


@compiled(f"int64({_ARENA}, {_TABLES}, {_TABLE}, {_TABLE}, int64, int64, int64)")
@kernel.marked
def insert(arena: Arena, tables: Tables, table: Int64s, steps: Int64s, first: int, horizon: int, retain: int) -> int:
    """Adds rows to tokens, each by `kernel.insert`; returns the step that could not be done, or how many there are.

    Args:
        arena: where; its index has empty slots for as many tokens more.
        tables: lanes, outputs, picks and spans of all entity names.
        table: rows over all columns.
        steps: shape (steps, 3): row of the table, entity name, token; MISSING for none, which is passed over.
        first: step to begin with. state[WHY] says what stopped one: TWICE, or NO_ROOM for state[WANTED] cells.
        horizon: no token and no row up to it need be kept.
        retain: most rows after a mark.
    """
    for step in range(first, steps.shape[0]):
        row, name, token = steps[step, 0], steps[step, 1], steps[step, 2]
        if token != MISSING:
            done = _add(arena, tables, table[row], name, token, horizon, retain)
            if done != kernel.DONE:
                arena[STATE][WHY] = done
                return step
    return int(steps.shape[0])


@compiled(f"int64({_ARENA}, {_TABLES}, {_LIST}, int64, int64)")
@kernel.marked
def retract(arena: Arena, tables: Tables, row: Int64s, name: int, token: int) -> int:
    """Does `kernel.retract` for a token's rows, and keeps the running counts where there are some."""
    rows = _run(arena, name, _head(arena[INDEX], token, name))
    done = kernel.retract(rows, row)
    if done == kernel.DONE:
        _recount(rows, _lanes(tables, name), kernel.last_not_after(rows, row) + 1)
    return done


@_inner
def _scan(arena: Arena, tables: Tables, name: int, head: int, job: Int64s, crowded: Float64s, out: Float64s) -> None:
    """Does `kernel.scan` for one run."""
    kernel.scan(_run(arena, name, head), _lanes(tables, name), _outputs(tables, name), job, crowded, out)


@compiled(f"void({_ARENA}, {_TABLES}, {_LIST}, {_TABLE}, float64[::1], float64[::1])")
@kernel.marked
def scan_all(arena: Arena, tables: Tables, tokens: Int64s, job: Int64s, crowded: Float64s, out: Float64s) -> None:
    """Does `kernel.scan` for one token of each entity name; MISSING for none."""
    for name in range(tokens.shape[0]):
        if tokens[name] != MISSING:
            _scan(arena, tables, name, _head(arena[INDEX], tokens[name], name), job, crowded, out)


@compiled(f"void({_ARENA}, {_TABLES}, int64, {_TABLE}, int64[:, :, ::1], float64[::1], float64[:, ::1], int64)")
@kernel.marked
def scan_many(  # a door takes what the kernel takes
    arena: Arena,
    tables: Tables,
    name: int,
    asked: Int64s,
    jobs: Int64s,
    crowded: Float64s,
    out: Float64s,
    alike: int,
) -> None:
    """Does `kernel.scan` for many tokens of one entity name; what some have in common is read once.

    Args:
        arena: where.
        tables: as for `insert`.
        name: of the entities.
        asked: shape (vectors, 2): the first vector of the same token, and the token; MISSING for none.
        jobs: one a vector.
        crowded: as for `kernel.scan`.
        out: the vectors.
        alike: 1 where all jobs are the same, so that all tokens without rows have one answer; 0 where not, and then
            each vector is its own first.
    """
    outputs, blank = _outputs(tables, name), -1
    for place in range(asked.shape[0]):
        like, token = asked[place, 0], asked[place, 1]
        if token == MISSING:
            continue
        if like == place:
            head = _head(arena[INDEX], token, name)
            if head != 0 or blank < 0 or alike == 0:
                _scan(arena, tables, name, head, jobs[place], crowded, out[place])
                blank = place if head == 0 else blank
                continue
            like = blank
        for output in range(outputs.shape[0]):
            out[place, outputs[output, kernel.PLACE]] = out[like, outputs[output, kernel.PLACE]]


@compiled(f"int64({_ARENA}, {_TABLES}, int64, {_TABLE}, {_TABLE}, int64)")
@kernel.marked
def load(arena: Arena, tables: Tables, name: int, tokens: Int64s, block: Int64s, first: int) -> int:
    """Takes the rows of tokens that are not there yet; returns the place that was not taken for want of cells, or all.

    Args:
        arena: where; its index has empty slots for as many tokens more.
        tables: as for `insert`.
        name: of the entities.
        tokens: shape (tokens, 2): each, and where its row 0 stands in the block.
        block: see `packed.PackedRows`.
        first: place to begin with.
    """
    index, lanes = arena[INDEX], _lanes(tables, name)
    for place in range(first, tokens.shape[0]):
        token, begin = tokens[place, 0], tokens[place, 1] + 1
        head = _filled(arena, name, lanes, block[begin : begin + block[begin - 1, kernel.COUNTED]], 0)
        if head == 0:
            return place
        arena[CELLS][head + kernel.MARK] = block[begin - 1, kernel.MARK]
        _set(index, _slot(index, token, name), token, name, head)
        arena[STATE][TOKENS] += 1
    return int(tokens.shape[0])


@compiled(f"void({_ARENA}, int64, {_LIST}, {_TABLE})")
@kernel.marked
def unload(arena: Arena, name: int, heads: Int64s, block: Int64s) -> None:
    """Copies the rows of runs, and their counts and marks, into a block; see `packed.PackedRows`."""
    at = 0
    for place in range(heads.shape[0]):
        rows = _run(arena, name, heads[place])
        count = rows[0, kernel.COUNTED]
        for column in range(block.shape[1]):
            block[at, column] = 0
        block[at, kernel.COUNTED], block[at, kernel.MARK] = count, rows[0, kernel.MARK]
        for index in range(1, count + 1):
            for column in range(block.shape[1]):
                block[at + index, column] = rows[index, column]
        at += 1 + count


@compiled(f"void({_ARENA}, int64, {_LIST}, int64, {_TABLE})")
@kernel.marked
def tally(arena: Arena, name: int, heads: Int64s, since: int, out: Int64s) -> None:
    """Writes of each run: rows with event_time > since, the time of the oldest (MISSING for none), and cells."""
    for place in range(heads.shape[0]):
        rows = _run(arena, name, heads[place])
        count = rows[0, kernel.COUNTED]
        out[place, 0] = count - kernel.last_until(rows, since)
        out[place, 1] = rows[1, kernel.TIME] if count > 0 else MISSING
        out[place, 2] = rows.shape[0] * rows.shape[1]


@compiled(f"void({_TABLE}, {_TABLE})")
@kernel.marked
def rehash(index: Int64s, larger: Int64s) -> None:
    """Copies what stands in an index into a larger, empty one."""
    for slot in range(index.shape[0]):
        if index[slot, HEAD] != 0:
            token, name = index[slot, TOKEN], index[slot, NAME]
            _set(larger, _slot(larger, token, name), token, name, index[slot, HEAD])


@compiled(f"{_TABLE}({_ARENA}, int64, int64)")
@kernel.marked
def rows_of(arena: Arena, name: int, token: int) -> Int64s:
    """Returns a copy of a token's run; of a token without rows, of the blank one."""
    return _run(arena, name, _head(arena[INDEX], token, name)).copy()
