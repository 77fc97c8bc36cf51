"""The exact index of vectors: an array that grows, and every search a look at each row. The default without extras."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from decalog.errors import ModelError

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_MOST_ID = 2**31 - 1
_FIRST_ROOM = 1_024
# Rows read at a time: what they fill stays in the processor's cache, and it is too little for BLAS to wake a second
# thread for, which on a busy machine costs twenty times what it saves.
_BLOCK = 4_096
_SPARSE = 6  # a row that is gathered costs as much as so many that are read in order


class FlatIndex:
    """A `VectorIndex` that misses nothing: row i is the vector of id i, and rows without one are free.

    Args:
        dim: of the vectors.
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._rows = np.zeros((0, dim), np.float32)
        self._held = np.zeros(0, np.bool_)
        self._end = self._count = 0

    def __len__(self) -> int:
        return self._count

    def put(self, ids: Ids, vectors: Floats) -> None:
        """Adds or overwrites; see the port."""
        checked(vectors, (len(ids), self.dim))
        if not len(ids):
            return
        if ids.min() < 0 or ids.max() > _MOST_ID:
            raise ModelError(
                where="index of vectors, ids",
                given="an id out of range",
                expected=f"ids from 0 to {_MOST_ID}",
                fix="Number what is indexed from 0, and give numbers that became free to others.",
            )
        needed = int(ids.max()) + 1
        self._grow(needed)
        self._count += int(np.count_nonzero(~self._held[np.unique(ids)]))
        self._rows[ids] = vectors
        self._held[ids] = True
        self._end = max(self._end, needed)

    def remove(self, ids: Ids) -> None:
        """Takes out; see the port."""
        there = np.unique(ids[self.holds(ids)])
        self._held[there] = False
        self._rows[there] = 0.0
        self._count -= len(there)

    def search(self, queries: Floats, k: int, *, allowed: Mask | None = None) -> tuple[Floats, Ids]:
        """Finds the best of those allowed; see the port."""
        checked(queries, (len(queries), self.dim))
        which = self.allowed(allowed)
        count = int(np.count_nonzero(which))
        if count * _SPARSE < len(which):
            ids = np.flatnonzero(which)
            found = [best(self._gathered(query, ids), ids, k=k) for query in queries]
        else:
            found = [best(*self._read(query, which, count), k=k) for query in queries]
        return stacked(found, k)

    def vectors(self, ids: Ids) -> Floats:
        """Returns rows; see the port."""
        is_room = (ids >= 0) & (ids < len(self._rows))
        if is_room.all():
            return self._rows[ids]
        rows = np.zeros((len(ids), self.dim), np.float32)
        rows[is_room] = self._rows[ids[is_room]]
        return rows

    def holds(self, ids: Ids) -> Mask:
        """Returns for each id whether it has a vector."""
        is_room = (ids >= 0) & (ids < len(self._held))
        is_room[is_room] = self._held[ids[is_room]]
        return is_room

    def allowed(self, mask: Mask | None) -> Mask:
        """Returns which ids are there and allowed, one value for each row in use."""
        held = self._held[: self._end]
        if mask is None:
            return held
        width = min(len(mask), len(held))
        which = np.zeros(len(held), np.bool_)
        np.logical_and(held[:width], mask[:width], out=which[:width])
        return which

    def _read(self, query: Floats, which: Mask, count: int) -> tuple[Floats, Ids]:
        scores = np.empty(len(which), np.float32)
        for start in range(0, len(which), _BLOCK):
            end = min(start + _BLOCK, len(which))
            np.matmul(self._rows[start:end], query, out=scores[start:end])
        if count == len(which):
            return scores, np.arange(count)
        ids = np.flatnonzero(which)
        return scores[ids], ids

    def _gathered(self, query: Floats, ids: Ids) -> Floats:
        scores, room = np.empty(len(ids), np.float32), np.empty((_BLOCK, self.dim), np.float32)
        for start in range(0, len(ids), _BLOCK):
            part = ids[start : start + _BLOCK]
            rows = np.take(self._rows, part, axis=0, out=room[: len(part)], mode="clip")
            np.matmul(rows, query, out=scores[start : start + len(part)])
        return scores

    def _grow(self, needed: int) -> None:
        if needed <= len(self._rows):
            return
        # Half as many again, for the copy takes its time; room that is not used takes no memory.
        room = max(needed * 3 // 2, _FIRST_ROOM)
        rows, held = np.zeros((room, self.dim), np.float32), np.zeros(room, np.bool_)
        rows[: len(self._rows)] = self._rows
        held[: len(self._held)] = self._held
        self._rows, self._held = rows, held


def checked(vectors: Floats, shape: tuple[int, int]) -> None:
    """Checks that vectors are finite, and so many rows of so many numbers.

    Raises:
        ModelError: they are not.
    """
    if vectors.shape != shape:
        raise ModelError(
            where="index of vectors",
            given=f"vectors of shape {vectors.shape}",
            expected=f"shape {shape}",
            fix="Index and search vectors of one model.",
        )
    # Not a sum: two infinities of unlike sign would still be seen in it, but it may overflow where no value does.
    if not np.isfinite(vectors).all():
        raise ModelError(
            where="index of vectors",
            given="a vector that is not finite",
            expected="finite numbers",
            fix="Train the model again, at a lower rate or on data without extremes.",
        )


def best(scores: Floats, ids: Ids, *, k: int) -> tuple[Floats, Ids]:
    """Returns the scores and ids of the k best, best first, among equals the lower id first; fewer where fewer are."""
    if len(scores) > k:
        least = np.partition(scores, len(scores) - k)[len(scores) - k]
        kept = np.flatnonzero(scores >= least)
        scores, ids = scores[kept], ids[kept]
    order = np.lexsort((ids, -scores))[:k]
    return scores[order], ids[order]


def stacked(found: list[tuple[Floats, Ids]], k: int) -> tuple[Floats, Ids]:
    """Returns what was found for each query as two arrays of k columns, filled up with −∞ and −1."""
    scores = np.full((len(found), k), -np.inf, np.float32)
    ids = np.full((len(found), k), -1, np.int64)
    for row, (values, names) in enumerate(found):
        scores[row, : len(values)], ids[row, : len(names)] = values, names
    return scores, ids
