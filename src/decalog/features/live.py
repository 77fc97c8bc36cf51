"""The rows of all entities that a state keeps in this process; see `arena`, which this makes room for."""

from __future__ import annotations

import numpy as np

from decalog.features import arena, kernel
from decalog.features.arena import CELLS, HEAD, INDEX, NAME, STATE, TOKEN
from decalog.features.kernel import Int64s
from decalog.features.packed import NEVER, PackedRows, View
from decalog.features.plan import Plan

_SLOTS, _CELLS = 64, 2**12
_GROWS = 2**20
"""Cells that are added at most at a time, 8 MiB: new memory has to be filled with zeros, and no request waits long."""


class LiveRows:
    """The live rows of all entity names of a feature set.

    Args:
        plan: of the features.
        counted_from: rows of an entity from which on it has running counts.
    """

    def __init__(self, plan: Plan, *, counted_from: int = arena.COUNTED_FROM) -> None:
        self._plan = plan
        self.tables = (plan.lanes, plan.outputs, plan.picks, plan.spans)
        counts = [int(np.sum(one.lanes[:, kernel.CELL] < kernel.NO_CELL)) for one in plan.entities]
        narrow = [len(one.picks) for one in plan.entities]
        widths = np.array([narrow, np.add(narrow, counts)], np.int64).T.copy()
        free = np.zeros(arena.POWERS, np.int64)
        state = np.zeros(arena.STATE_WIDTH, np.int64)
        state[arena.LEAST] = counted_from
        self.arena = (np.zeros((_SLOTS, arena.INDEX_WIDTH), np.int64), np.zeros(_CELLS, np.int64), widths, free, state)
        self.clear()

    def insert(self, table: Int64s, steps: Int64s, *, horizon: int) -> int:
        """Adds rows; returns the step of one that is there already, or −1. See `arena.insert`."""
        self._make_slots(len(steps))
        done, state, retain = 0, self.arena[STATE], self._plan.features.retain
        while (done := arena.insert(self.arena, self.tables, table, steps, done, horizon, retain)) < len(steps):
            if state[arena.WHY] != arena.NO_ROOM:
                return done
            self._make_cells(int(state[arena.WANTED]))
        return -1

    def retract(self, name: int, token: int, *, row: Int64s) -> int:
        """Withdraws a row of a token of the entity name in this place; returns what `kernel.retract` does."""
        return arena.retract(self.arena, self.tables, row, name, token)

    def load(self, name: int, packed: PackedRows) -> None:
        """Takes rows of tokens that have none yet, of the entity name in this place."""
        tokens = np.column_stack([packed.tokens, packed.heads])
        self._make_slots(len(tokens))
        self._make_cells(packed.block.size + len(tokens))
        done = 0
        while (done := arena.load(self.arena, self.tables, name, tokens, packed.block, done)) < len(tokens):
            self._make_cells(int(self.arena[STATE][arena.WANTED]))

    def packed(self, name: int) -> PackedRows:
        """Returns the rows of the entity name in this place."""
        tokens, heads = self._held(name)
        order = np.argsort(tokens)
        tokens, heads = tokens[order], heads[order]
        counts = self.arena[CELLS][heads + kernel.COUNTED]
        block = np.empty((len(tokens) + int(counts.sum()), len(self._plan.entities[name].picks)), np.int64)
        arena.unload(self.arena, name, heads, block)
        return PackedRows(tokens, counts, block)

    def rows(self, name: int, token: int) -> Int64s:
        """Returns a copy of a token's run, with its running counts; of a token without rows, the row 0 of none."""
        return arena.rows_of(self.arena, name, token)

    def view(self, name: int, *, since: int) -> View:
        """Returns what the entity name in this place takes; rows with event_time > since count as recent."""
        tokens, heads = self._held(name)
        told = np.empty((len(heads), 3), np.int64)
        arena.tally(self.arena, name, heads, since, told)
        counts, times = self.arena[CELLS][heads + kernel.COUNTED], told[:, 1][told[:, 1] != kernel.MISSING]
        oldest = int(times.min(initial=NEVER))
        slots = self.arena[INDEX].nbytes * len(tokens) // max(1, int(self.arena[STATE][arena.TOKENS]))
        return View(
            entity=self._plan.entities[name].entity,
            tokens=len(tokens),
            rows=int(counts.sum()),
            recent=told[:, 0],
            width=len(self._plan.entities[name].picks),
            bytes=8 * int(told[:, 2].sum()) + slots,
            oldest=None if oldest == NEVER else oldest,
        )

    def clear(self) -> None:
        """Lets go of all rows."""
        index, cells, widths, free, state = self.arena
        index[:], free[:], state[: arena.LEAST] = 0, 0, 0
        # Cell 0 begins the run of every token without rows; a cell behind it is that of no free run.
        state[arena.USED] = widths.max(initial=kernel.FIRST_COLUMN) + 1
        cells[: state[arena.USED]] = 0
        cells[kernel.MARK] = kernel.BEFORE_ALL

    def free(self) -> bool:
        """Gives back some of the memory, of rows that nobody asks for any more; returns whether there is more."""
        cells = self.arena[CELLS]
        cells.resize(max(0, len(cells) - _GROWS), refcheck=False)
        return len(cells) > 0

    def _held(self, name: int) -> tuple[Int64s, Int64s]:
        """Returns the tokens of an entity name and where their runs begin."""
        index = self.arena[INDEX]
        mine = index[(index[:, NAME] == name) & (index[:, HEAD] != 0)]
        return mine[:, TOKEN].copy(), mine[:, HEAD].copy()

    def _make_slots(self, more: int) -> None:
        """Makes the index so large that half of it is empty with so many tokens more."""
        index, cells, widths, free, state = self.arena
        wanted = 2 * (int(state[arena.TOKENS]) + more)
        if wanted > len(index):
            larger = np.zeros((1 << (wanted - 1).bit_length(), arena.INDEX_WIDTH), np.int64)
            arena.rehash(index, larger)
            self.arena = (larger, cells, widths, free, state)

    def _make_cells(self, more: int) -> None:
        """Makes room for so many cells more, in place: nobody holds a view of them."""
        cells, used = self.arena[CELLS], int(self.arena[STATE][arena.USED])
        if used + more > len(cells):
            cells.resize(used + max(more, min(used, _GROWS)), refcheck=False)
