"""All rows of one entity name in one block, as a snapshot holds them: one token's after the other's, row 0 first."""

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
    parts = [rows[: count + 1] for rows, count in zip(arrays, counts.tolist(), strict=True)]
    return _with_heads(tokens, counts, marks, block=np.concatenate([np.empty((0, width), np.int64), *parts]))


class View(msgspec.Struct, frozen=True, kw_only=True):
    """What one entity name takes, for the forecast of memory.

    Args:
        entity: its name.
        tokens, rows: that it holds.
        recent: shape (tokens,), how many rows of each are younger than was asked.
        width: columns of a row.
        bytes: that these take, with room for more, and of the index.
        oldest: event_time of its oldest row, µs; None without rows.
    """

    entity: str
    tokens: int
    rows: int
    recent: Int64s
    width: int
    bytes: int
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
