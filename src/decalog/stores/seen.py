"""Tells, without a look at the disk, that a key was never stored: a Bloom filter (Bloom, CACM 13(7), 1970).

Nearly every id and every token that is looked up is new, and to find nothing costs a descent through the whole index.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Hashable, Iterator

import numpy as np

_BITS_A_KEY = 16  # with two bits set for each key, a full filter says "perhaps" to 1.4 % of what it never saw
_FIRST_ROOM = 65_536
_CHUNK = 20_000


class Seen:
    """Keys of one process: those that were stored when it began, read once by another thread, and those it adds.

    Args:
        stored: yields every key that is stored; called in the other thread. Until it ends, and for good if it raises
            one of `errors`, every key may have been stored.
        errors: what `stored` raises where the file cannot be read.
    """

    def __init__(self, stored: Callable[[], Iterator[Hashable]], *errors: type[Exception]) -> None:
        self._stored: _Bits | None = None
        self._added = [_Bits(_FIRST_ROOM)]
        self._closed = False
        self._thread = threading.Thread(target=self._fill, args=(stored, errors), name="decalog-seen", daemon=True)
        self._thread.start()

    def add(self, key: Hashable) -> None:
        """Notes a key that is being stored; belongs to the thread that stores."""
        if self._added[-1].room == 0:
            self._added.append(_Bits(2 * self._added[-1].capacity))
        self._added[-1].add(hash(key))

    def lacks(self, key: Hashable) -> bool:
        """Returns True only for a key that was never stored; False says nothing."""
        if self._stored is None:
            return False
        mark = hash(key)
        return not self._stored.may_hold(mark) and not any(bits.may_hold(mark) for bits in self._added)

    def wait(self) -> None:
        """Waits until what was stored has been read."""
        self._thread.join()

    def close(self) -> None:
        """Stops the reading of what was stored."""
        self._closed = True
        self._thread.join()

    def _fill(self, stored: Callable[[], Iterator[Hashable]], errors: tuple[type[Exception], ...]) -> None:
        marks = array("q")
        try:
            for key in stored():
                marks.append(hash(key))
                if self._closed:
                    return
        except errors:
            # The next lookup meets the same damage, and tells it.
            return
        bits = _Bits(len(marks))
        # In parts: numpy keeps the interpreter's lock for as long as one takes.
        for start in range(0, len(marks), _CHUNK):
            bits.add_all(marks[start : start + _CHUNK])
        self._stored = bits


class _Bits:
    """Two bits for each mark, in a power of two of them."""

    def __init__(self, capacity: int) -> None:
        width = max((capacity * _BITS_A_KEY - 1).bit_length(), 16)
        self.capacity = self.room = 2**width // _BITS_A_KEY
        self._mask = 2**width - 1
        self._bytes = bytearray(2**width // 8)

    def add(self, mark: int) -> None:
        self.room -= 1
        for bit in (mark & self._mask, (mark >> 32) & self._mask):
            self._bytes[bit >> 3] |= 1 << (bit & 7)

    def add_all(self, marks: array[int]) -> None:
        held, many = np.frombuffer(self._bytes, np.uint8), np.frombuffer(marks, np.int64)
        for bits in (many & self._mask, (many >> 32) & self._mask):
            np.bitwise_or.at(held, bits >> 3, (1 << (bits & 7)).astype(np.uint8))

    def may_hold(self, mark: int) -> bool:
        low, high = mark & self._mask, (mark >> 32) & self._mask
        return bool(self._bytes[low >> 3] >> (low & 7) & 1 and self._bytes[high >> 3] >> (high & 7) & 1)
