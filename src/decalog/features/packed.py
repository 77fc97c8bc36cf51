"""All rows of one entity name in one block, as a snapshot holds them: read in one go, taken apart token by token.

In the block stands one token's array after the other, each as the kernel reads it (row 0 holds the count), so that a
slice of the block answers at once and no row is copied until a new one comes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.features import kernel
from decalog.features.kernel import Int64s

Bools = npt.NDArray[np.bool_]

NEVER = -kernel.BEFORE_ALL
"""A time after every time: of the oldest row where there is none."""


class PackedRows(msgspec.Struct, frozen=True):
    """The rows of one entity name.

    Args:
        tokens: shape (tokens,), ascending.
        counts: shape (tokens,), rows of each.
        block: shape (tokens + rows, width); token after token, row 0 with the count and the mark before the rows.
    """

    tokens: Int64s
    counts: Int64s
    block: Int64s

    @property
    def heads(self) -> Int64s:
        """Where in the block each token's row 0 stands."""
        return np.cumsum(self.counts + 1) - (self.counts + 1)

    def after(self, horizon: int) -> PackedRows:
        """Returns the rows after the horizon and their token's mark, and the tokens that have some, or a later mark.

        A mark at or before the horizon says nothing any more; it becomes none.
        """
        heads = self.heads
        marks = self.block[heads, kernel.MARK]
        marks[marks <= horizon] = kernel.BEFORE_ALL
        kept: Bools = self.block[:, kernel.TIME] > np.repeat(np.maximum(marks, horizon), self.counts + 1)
        kept[heads] = True
        counts = np.add.reduceat(kept, heads, dtype=np.int64) - 1 if len(heads) else self.counts
        lives = (counts > 0) | (marks > horizon)
        kept[heads[~lives]] = False
        if kept.all():
            self.block[heads, kernel.MARK] = marks
            return self
        return _with_heads(self.tokens[lives], counts[lives], marks[lives], block=self.block[kept])


def pack(by_token: Mapping[int, Int64s], *, width: int) -> PackedRows:
    """Returns the arrays of an entity name as one block, without the room they have for more."""
    tokens = np.sort(np.fromiter(by_token, np.int64, len(by_token)))
    arrays = [by_token[token] for token in tokens.tolist()]
    counts = np.fromiter((rows[0, 0] for rows in arrays), np.int64, len(arrays))
    marks = np.fromiter((rows[0, kernel.MARK] for rows in arrays), np.int64, len(arrays))
    # Without running counts: they follow from the rows.
    parts = [rows[: count + 1, :width] for rows, count in zip(arrays, counts.tolist(), strict=True)]
    return _with_heads(tokens, counts, marks, block=np.concatenate([np.empty((0, width), np.int64), *parts]))


def merge(one: PackedRows, other: PackedRows) -> PackedRows:
    """Returns the rows of both, which share no token."""
    if not len(one.tokens) or not len(other.tokens):
        return one if len(one.tokens) else other
    tokens = np.concatenate([one.tokens, other.tokens])
    counts = np.concatenate([one.counts, other.counts])
    heads = np.concatenate([one.heads, other.heads + len(one.block)])
    order = np.argsort(tokens)
    block = np.concatenate([one.block, other.block])
    return _gather(tokens[order], counts[order], heads[order], block=block)


class Resting:
    """The rows of one entity name that nothing was added to since they were read from a snapshot.

    Args:
        packed: each token has a row or a mark. Its block is the state's own from here on: withdrawn rows leave it.
    """

    def __init__(self, packed: PackedRows) -> None:
        self._tokens, self.block = packed.tokens, packed.block
        self._starts = packed.heads
        self._heads = self._starts.copy()
        lasts = self.block[(self._heads + packed.counts)[packed.counts > 0], kernel.TIME]
        marks = self.block[self._heads, kernel.MARK]
        self.newest = int(max(lasts.max(initial=kernel.BEFORE_ALL), marks.max(initial=kernel.BEFORE_ALL)))
        """The largest event_time or mark; a horizon that reached it leaves nothing to keep."""

    def rows(self, token: int) -> Int64s | None:
        """Returns the token's array, which has no room for more; None if there is none, or it was taken."""
        place = self._place(token)
        return None if place is None else self._slice(self._heads[place])

    def has(self, tokens: Int64s) -> Bools:
        """Returns for each token whether it has an array that was not taken."""
        if not len(self._tokens):
            return np.zeros(len(tokens), np.bool_)
        places = np.minimum(self._tokens.searchsorted(tokens), len(self._tokens) - 1)
        there: Bools = (self._tokens[places] == tokens) & (self._heads[places] >= 0)
        return there

    def take(self, token: int) -> Int64s | None:
        """Returns the token's array for the last time: it goes on elsewhere, and must not be found here again."""
        place = self._place(token)
        if place is None:
            return None
        head = int(self._heads[place])
        self._heads[place] = -1
        return self._slice(head)

    def left(self) -> PackedRows:
        """Returns what was not taken."""
        there = self._heads >= 0
        heads = self._heads[there]
        return _gather(self._tokens[there], self.block[heads, 0], heads, block=self.block)

    def counts(self) -> Int64s:
        """Returns how many rows each token that was not taken has."""
        counts: Int64s = self.block[self._heads[self._heads >= 0], 0]
        return counts

    def oldest(self) -> int:
        """Returns the smallest event_time of the tokens that were not taken, of those that have rows."""
        heads = self._heads[self._heads >= 0]
        times = self.block[heads[self.block[heads, 0] > 0] + 1, kernel.TIME]
        return int(times.min(initial=NEVER))

    def recent(self, since: int) -> Int64s:
        """Returns how many rows with event_time > since each token that was not taken has."""
        # One pass over the block, which may hold gigabytes, instead of one call a token.
        after: Bools = self.block[:, kernel.TIME] > since
        after[self._starts] = False
        counts = np.add.reduceat(after, self._starts, dtype=np.int64) if len(self._starts) else self._starts
        return counts[self._heads >= 0]

    def _place(self, token: int) -> int | None:
        place = int(self._tokens.searchsorted(token))
        if place == len(self._tokens) or self._tokens[place] != token or self._heads[place] < 0:
            return None
        return place

    def _slice(self, head: int) -> Int64s:
        return self.block[head : head + self.block[head, 0] + 1]


class View(msgspec.Struct, frozen=True, kw_only=True):
    """What one entity name takes, for the forecast of memory.

    Args:
        entity: its name.
        tokens, rows: that it holds.
        recent: shape (tokens,), how many rows of each are younger than was asked.
        width: columns of a row.
        bytes: of its arrays; `resting` of them are a snapshot's block, which stays until its last row is too old.
        arrays: tokens that have an array of their own.
        oldest: event_time of its oldest row, µs; None without rows.
    """

    entity: str
    tokens: int
    rows: int
    recent: Int64s
    width: int
    bytes: int
    resting: int
    arrays: int
    oldest: int | None


class Rest(msgspec.Struct, frozen=True, kw_only=True):
    """A state at rest, canonical: two states that give the same answers for ever have the same.

    Args:
        seq: of the last change, −1 before the first.
        watermark: µs, `kernel.BEFORE_ALL` before the first change.
        unusable: column → values that could not enter.
        newest: kind of row → known_time of the newest one, µs.
        entities: (entity name, its rows that a point may still ask for), by name; made one at a time, because
            together they are as large as the state.
    """

    seq: int
    watermark: int
    unusable: Mapping[str, int]
    newest: Mapping[str, int]
    entities: Iterator[tuple[str, PackedRows]]


def _with_heads(tokens: Int64s, counts: Int64s, marks: Int64s, *, block: Int64s) -> PackedRows:
    packed = PackedRows(tokens, counts, block)
    heads = packed.heads
    block[heads] = 0
    block[heads, kernel.COUNTED], block[heads, kernel.MARK] = counts, marks
    return packed


def _gather(tokens: Int64s, counts: Int64s, heads: Int64s, *, block: Int64s) -> PackedRows:
    """Returns the arrays that stand at `heads`, in their order, without gaps."""
    lengths = counts + 1
    shift = heads - (np.cumsum(lengths) - lengths)
    index = np.repeat(shift, lengths) + np.arange(int(lengths.sum()))
    return PackedRows(tokens, counts, block[index])
