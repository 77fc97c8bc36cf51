"""The decision log: stamps records in order, commits them in groups, gives them back.

`Log` belongs to one thread, which stamps and writes; only the step that makes a written group durable may run in
another (`committing.py`).
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Protocol

import msgspec

from decalog.clock import MINUTE, Clock
from decalog.errors import CorruptLogError, LogUnavailableError
from decalog.events import FORMAT, Record, chain, decode_record, encode, genesis
from decalog.stores.base import Entry, LogStore, Sync, Vault

FUTURE_TOLERANCE_US = 5 * MINUTE
"""How far an event_time may lie ahead of the log's known_time: clocks of callers differ."""

Keys = tuple[tuple[str, str], ...]


class LogReader(Protocol):
    """What a reading from the first record on needs of a log."""

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        """Yields the durable records with start ≤ seq < stop, in order."""


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """What a writer wants to append; the log adds the stamps.

    `keys` are the index entries besides the record's own id; `root` is −1 for a record that corrects nothing.
    """

    kind: str
    system: str
    id: str
    digest: bytes
    event_time: int | None
    body: bytes
    root: int = -1
    reason: str = ""
    keys: Keys = ()


class Log:
    """One partition of the log with its stamps.

    Args:
        store: where records live.
        vault: its keys and tokens become durable before the group that needs them.
        clock: the writer's; known_time never goes back even if it does.
        partition: number of this one.

    Raises:
        CorruptLogError: the last record does not decode, or does not follow from the one before.
    """

    def __init__(self, store: LogStore, vault: Vault, clock: Clock, *, partition: int = 0) -> None:
        self.store = store
        self.vault = vault
        self.clock = clock
        self.partition = partition
        head = store.head()
        self._hash = genesis(partition) if head is None else head.hash
        self.position = 0 if head is None else head.seq + 1
        self.known_time = 0 if head is None else _check_head(store, head, partition).known_time
        self.durable = self.position
        self.failed: LogUnavailableError | None = None
        self._pending: deque[tuple[int, bytes, Keys]] = deque()
        self._settling: deque[tuple[int, Keys]] = deque()
        self._unwritten: dict[int, Record] = {}
        self._unwritten_keys: dict[tuple[str, str], list[int]] = {}

    def stamp(self, draft: Draft) -> Record:
        """Gives a draft its place and its known_time, and queues it for the next commit.

        Raises:
            LogUnavailableError: a commit failed before; the log takes no more.
        """
        self.check()
        self._settle()
        seq = self.position
        known_time = max(self.known_time, self.clock.now_us())
        record = Record(
            FORMAT,
            self.partition,
            seq,
            draft.kind,
            draft.system,
            known_time,
            known_time if draft.event_time is None else draft.event_time,
            draft.id,
            draft.digest,
            seq if draft.root < 0 else draft.root,
            draft.reason,
            draft.body,
        )
        keys = own_keys(record) + draft.keys
        # Encoded here, so that a record that cannot be is refused alone and takes no group and no seq with it.
        blob = encode(record)
        for _, text in keys:
            text.encode()
        self.position, self.known_time = seq + 1, known_time
        self._unwritten[seq] = record
        for key in keys:
            self._unwritten_keys.setdefault(key, []).append(seq)
        self._settling.append((seq, keys))
        self._pending.append((seq, blob, keys))
        return record

    def write(self) -> Sync | None:
        """Writes everything stamped so far as one group; returns the step that makes it durable, None if it is empty.

        The step may run in another thread. It has to end before the next write.

        Raises:
            LogUnavailableError: the group was not written, or one before it was not; the log takes no more.
        """
        self.check()
        if not self._pending:
            return None
        entries = []
        with self._last_words():
            for seq, blob, keys in self._pending:
                self._hash = chain(self._hash, blob)
                entries.append(Entry(seq, blob, self._hash, keys))
            self._pending.clear()
            syncs = (self.vault.flush(), self.store.append(entries))
        position = entries[-1].seq + 1

        def sync() -> None:
            with self._last_words():
                # The vault first, so that no durable record names a key or token that is not.
                for step in syncs:
                    step()
                self.durable = position

        return sync

    def commit(self) -> int:
        """Makes everything stamped so far durable; returns the position up to which the log is.

        Raises:
            LogUnavailableError: the group was not written, or one before it was not; the log takes no more.
        """
        sync = self.write()
        if sync is not None:
            sync()
        return self.durable

    def check(self) -> None:
        """Raises if the log takes no more.

        Raises:
            LogUnavailableError: a commit failed before; nothing is ever retried.
        """
        if self.failed is not None:
            # A new one each time: raising one object again and again would grow its traceback without end.
            error = self.failed
            raise LogUnavailableError(where=error.where, given=error.given, expected=error.expected, fix=error.fix)

    def close(self) -> None:
        """Releases store and vault; what was not committed is not in the log."""
        self.store.close()
        self.vault.close()

    def find(self, index: str, key: str) -> list[int]:
        """Returns the seqs under a key of an index, ascending, stamped but unwritten ones included."""
        # Unwritten first: a sync in another thread may move a record from there to the store between the two looks.
        unwritten = list(self._unwritten_keys.get((index, key), ()))
        written = self.store.find(index, key)
        return sorted(set(written).union(unwritten)) if unwritten else written

    def get(self, seq: int) -> Record:
        """Returns one record.

        Raises:
            CorruptLogError: there is none with that seq.
        """
        record = self._unwritten.get(seq)
        if record is not None:
            return record
        for entry in self.store.read(seq, seq + 1):
            return decode_record(entry.blob)
        raise CorruptLogError(
            where="log",
            given=f"no record with seq {seq}",
            expected=f"a seq below {self.position}",
            fix="Run `decalog verify`.",
        )

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        """Yields the durable records with start ≤ seq < stop, in order."""
        for entry in self.store.read(start, stop):
            yield decode_record(entry.blob)

    def hash_at(self, position: int) -> bytes | None:
        """Returns the chain's hash before a position, None where the log has not come so far."""
        return hash_before(self.store, position, partition=self.partition)

    def before(self, root: int, seq: int) -> Record:
        """Returns the version of a chain of corrections that stood before `seq`."""
        versions = [s for s in self.find("root", str(root)) if s < seq]
        return self.get(versions[-1] if versions else root)

    def request(self, system: str, id_: str, *, seq: int) -> Record | None:
        """Returns the version of a request, or of another event, that stood before `seq`; None where there was none."""
        seqs = self.find("request", f"{system}/{id_}")
        return self.before(self.get(seqs[0]).root, seq) if seqs and seqs[0] < seq else None

    @contextlib.contextmanager
    def _last_words(self) -> Iterator[None]:
        """Whatever ends a commit ends the log."""
        try:
            yield
        except LogUnavailableError as error:
            self.failed = error
            raise
        except BaseException:
            self.failed = _fault()
            raise

    def _settle(self) -> None:
        while self._settling and self._settling[0][0] < self.durable:
            seq, keys = self._settling.popleft()
            self._unwritten.pop(seq, None)
            for key in keys:
                seqs = self._unwritten_keys[key]
                seqs.remove(seq)
                if not seqs:
                    del self._unwritten_keys[key]


def own_keys(record: Record) -> Keys:
    """Returns the index entries that follow from the stamps alone: the caller's id, and the chain of corrections."""
    if record.reason or record.kind not in ("event", "decision", "outcome"):
        return ((record.kind, f"{record.system}/{record.id}"),) if record.kind == "table" else ()
    space = "outcome" if record.kind == "outcome" else "request"
    named = ((space, f"{record.system}/{record.id}"),)
    return named if record.root == record.seq else (*named, ("root", str(record.root)))


def hash_before(store: LogStore, position: int, *, partition: int = 0) -> bytes | None:
    """Returns the chain's hash before a position, None where the store has not come so far."""
    if position == 0:
        return genesis(partition)
    return next((entry.hash for entry in store.read(position - 1, position)), None)


def verify_chain(entries: Iterable[Entry], partition: int = 0) -> int:
    """Returns how many entries there are, having checked that each follows from the one before.

    Raises:
        CorruptLogError: a seq is missing, a blob was changed, or a hash does not fit; the message names the first.
    """
    count = 0
    for _ in checked(entries, partition):
        count += 1
    return count


def checked(
    entries: Iterable[Entry], partition: int = 0, *, start: int = 0, before: bytes = b""
) -> Iterator[tuple[Entry, Record]]:
    """Yields each entry with its record, having checked that it follows from the one before.

    Args:
        entries: from `start` on, in order.
        partition: whose they are.
        start: seq of the first.
        before: hash of the record before `start`; not needed for 0.

    Raises:
        CorruptLogError: as for `verify_chain`.
    """
    previous, known_time = before or genesis(partition), 0
    for count, entry in enumerate(entries, start):
        previous = chain(previous, entry.blob)
        if entry.seq != count or entry.hash != previous:
            raise _broken(count, "a record whose seq or hash does not follow from the one before")
        record = decode_record(entry.blob)
        if (record.partition, record.seq) != (partition, count) or record.known_time < known_time:
            raise _broken(count, "stamps that do not follow from the record before")
        known_time = record.known_time
        yield entry, record


def _check_head(store: LogStore, head: Entry, partition: int) -> Record:
    # Two records instead of all: a writer that would extend a broken end is stopped at start, at no cost.
    before = genesis(partition) if head.seq == 0 else b""
    for entry in store.read(head.seq - 1, head.seq):
        before = entry.hash
    record = decode_record(head.blob)
    if chain(before, head.blob) != head.hash or (record.partition, record.seq) != (partition, head.seq):
        raise _broken(head.seq, "a last record that does not follow from the one before")
    return record


def _broken(seq: int, given: str) -> CorruptLogError:
    return CorruptLogError(
        where=f"log record {seq}",
        given=given,
        expected="an unbroken hash chain",
        fix="Restore from the last backup that verifies; everything before this record is intact.",
    )


def _fault() -> LogUnavailableError:
    return LogUnavailableError(
        where="log",
        given="a fault that ended the writer",
        expected="a running writer",
        fix="See the trace in the server's log, then restart: nothing acknowledged is lost.",
    )
