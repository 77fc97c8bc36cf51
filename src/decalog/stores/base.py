"""The ports of storage. An engine implements one and passes `tests/stores/test_every_store.py`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers.aead import AESGCM


class Entry(NamedTuple):
    """A stored record: its place, its bytes, the chain's hash after it, and the keys it is found by.

    `keys` are (index, key) pairs; they can be recomputed from the blob (`verification.index_keys`).
    """

    seq: int
    blob: bytes
    hash: bytes
    keys: tuple[tuple[str, str], ...] = ()


Sync = Callable[[], None]
"""The step that makes what was written durable: it returns after the fsync. It may run in another thread, runs once,
and ends before the next write begins. It raises LogUnavailableError where that failed: then nothing of the group may be
acknowledged, nothing is retried, and the store takes no more."""


def nothing() -> None:
    """The sync of a write that had nothing to write."""


class LogStore(Protocol):
    """One partition of the log: append-only, ordered, durable."""

    def append(self, entries: Sequence[Entry]) -> Sync:
        """Writes a group as one transaction; returns the step that makes it durable.

        Raises:
            LogUnavailableError: nothing was written; the store takes no more, it is never retried.
        """

    def read(self, start: int, stop: int | None = None) -> Iterator[Entry]:
        """Yields the entries with start ≤ seq < stop in order, without their keys; to the end if stop is None."""

    def find(self, index: str, key: str) -> list[int]:
        """Returns the seqs stored under a key of an index, ascending."""

    def head(self) -> Entry | None:
        """Returns the last entry, or None for an empty log."""

    def close(self) -> None:
        """Releases the store; what was appended is durable already."""


StoredKey = tuple[str, str, int]
"""(index, key, seq)."""
FIRST_KEY: StoredKey = ("", "", -1)
LAST_KEY: StoredKey = ("\U0010ffff", "", 0)
"""Lie before and behind every key."""


class StoredKeys(Protocol):
    """What a LogStore also gives, so that its index can be checked against the records, and walked in its order."""

    def keys(self, after: StoredKey = FIRST_KEY, before: StoredKey = LAST_KEY) -> Iterator[StoredKey]:
        """Yields every (index, key, seq) stored between two, in their order (texts by their UTF-8)."""


class Vault(Protocol):
    """Keys per subject and the erasable map from entity values to tokens. `flush` comes before each append."""

    def token(self, kind: str, value: str) -> int:
        """Returns the token of an entity's value, a new random one if it was never seen."""

    def cipher(self, subject: int) -> AESGCM | None:
        """Returns the subject's cipher, made on first use; None once it is erased."""

    def secret(self, name: str) -> bytes:
        """Returns a random secret of this deployment, the same at every call."""

    def flush(self) -> Sync:
        """Writes new tokens and keys; returns the step that makes them durable.

        Raises:
            LogUnavailableError: they could not be written; the group they belong to must not be.
        """

    def close(self) -> None:
        """Releases the vault."""


class Erasable(Protocol):
    """What a Vault also gives, so that a person can be erased. All are durable when they return."""

    def marks(self, tokens: Collection[int]) -> list[bytes]:
        """Returns the keys of the map's entries that lead to tokens; a reader can tell, and it reads the whole map."""

    def erase(self, subjects: Collection[int], *, tokens: Collection[int], marks: Collection[bytes]) -> None:
        """Destroys the keys of subjects, who get none again, and the entries of the map that lead to tokens.

        Raises:
            LogUnavailableError: it was opened for reading, or the disk does not take it.
        """

    def rekey(self, subject: int) -> None:
        """Gives a subject the key that was made for its negative: what was sealed before cannot be read any more.

        Raises:
            LogUnavailableError: as for `erase`.
        """

    def holds(self, subject: int) -> bool:
        """Returns whether a subject has a key; makes none."""


class StoredTokens(Protocol):
    """What a Vault also gives, so that it can be checked against the records."""

    def tokens(self) -> Iterator[int]:
        """Yields every token in the map."""

    def subjects(self) -> Iterator[int]:
        """Yields every subject that has a key."""


StateKey = tuple[str, int]
"""(entity name, token): whose rows."""


class Mark(NamedTuple):
    """How far a stored state has come: every change up to `seq` is in it; `watermark` is that after them, µs."""

    seq: int
    watermark: int


class RowSteps(NamedTuple):
    """What is to be done to the rows of one entity, in order.

    Args:
        key: whose rows.
        steps: each INSERT or RETRACT, its horizon (a cell), and the row. Rows whose first cell is at or below the last
            horizon may be forgotten once all is done.
        retain: most rows of the key. With one more, the first goes, and all with its first cell, which becomes the
            key's mark: steps at or below it do nothing.
    """

    key: StateKey
    steps: Sequence[bytes]
    retain: int


INSERT, RETRACT = b"+", b"-"


class Refused(NamedTuple):
    """The step, of those that were due, for which a store refused all.

    It is an INSERT of a row that is there, or a RETRACT of one that is not and lies above its horizon and the mark.
    """

    due: int
    step: int


class Leftovers(Protocol):
    """What states of one home and system have on a server, the one in use among them; any thread may ask."""

    def shed(self) -> None:
        """Deletes what nobody asks any more; what is in use, or is being built, stays.

        Raises:
            StateError: the server is away.
        """

    def kept(self) -> Iterator[bytes]:
        """Yields every key with its value; errors as for `shed`."""


class StateStore(Protocol):
    """Rows of entities outside this process, with the mark of what they hold; one writer.

    A row is a string of cells: int64, big-endian, sign bit flipped, so that the order of bytes is that of numbers. The
    rows of a key lie one behind the other, ordered by their first three cells, which name a row; behind them lies the
    key's mark, a cell (zeros for none). Rows up to the mark may still be among them.

    Attributes:
        left: what other states of the home and system left where this one is kept.
    """

    left: Leftovers

    def known(self) -> Mark | None:
        """Returns the mark that is stored; asks the server only where an exchange failed and may have been taken.

        Raises:
            StateError: the server is away, or the state there is lost.
        """

    def exchange(
        self, due: Sequence[RowSteps], keys: Sequence[StateKey], *, mark: Mark | None = None
    ) -> tuple[Refused | None, list[bytes]]:
        """Takes all steps and their mark, or none of them, then reads; in one round trip.

        Returns:
            The step for which all were refused, or None; and the rows and the mark of each key, b"" for neither.

        Raises:
            StateError: the server is away, has lost the mark, or holds what this store never wrote.
        """

    def rebuild(self, entities: Iterable[tuple[StateKey, int, bytes]]) -> None:
        """Begins another state of (key, number of rows, rows and mark); errors as for `exchange`.

        It takes the old one's place with the next mark that is stored.
        """

    def sizes(self) -> Iterator[tuple[str, int]]:
        """Yields (entity name, bytes of rows) of every key; errors as for `exchange`."""

    def close(self) -> None:
        """Releases the connection; what was stored stays."""


class VectorIndex(Protocol):
    """Vectors by id, searched by inner product.

    Ids are small: what is kept grows with the highest, so that a set of them is a mask. One thread writes; others may
    search meanwhile.
    """

    def put(self, ids: npt.NDArray[np.int64], vectors: npt.NDArray[np.float32]) -> None:
        """Adds vectors, or overwrites those of ids that are there; the next search finds them.

        Args:
            ids: (n,), from 0 to 2³¹ − 1; of one that stands there twice the last holds.
            vectors: (n, dim), finite.

        Raises:
            ModelError: an id or a vector is not like that; nothing was added.
        """

    def remove(self, ids: npt.NDArray[np.int64]) -> None:
        """Takes vectors out; no search finds them from now on. Ids that are not there are passed over."""

    def search(
        self, queries: npt.NDArray[np.float32], k: int, *, allowed: npt.NDArray[np.bool_] | None = None
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Returns the scores and the ids of the k best of each query, best first; among equals the lower id first.

        An engine may miss some of them, but what it returns is ordered, allowed, and scored exactly.

        Args:
            queries: (q, dim), finite.
            k: how many, from 1.
            allowed: for each id whether it may be found; ids behind its end may not. None: all. An engine may keep it
                for the next search with it, so it is not to be changed.

        Returns:
            Both (q, k); where fewer than k are there, the rest is −∞ and −1.

        Raises:
            ModelError: a query is not like that.
        """

    def vectors(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Returns the vectors of ids, (n, dim); zeros for what is not there."""

    def __len__(self) -> int:
        """Returns how many vectors are there."""
