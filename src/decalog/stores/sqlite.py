"""The log on SQLite: WAL, synchronous=FULL, one transaction and so one fsync a group.

SQLite documents that in WAL mode with synchronous=FULL the WAL is synced after each transaction
(sqlite.org/pragma.html#pragma_synchronous). A failed write or sync closes the store for good: after a failed fsync the
kernel may report success for pages it dropped, so nothing is ever retried.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from decalog.errors import CorruptLogError, LogUnavailableError
from decalog.stores.base import Entry

_TABLES = """
CREATE TABLE IF NOT EXISTS records (seq INTEGER PRIMARY KEY, blob BLOB NOT NULL, hash BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS keys (idx TEXT NOT NULL, key TEXT NOT NULL, seq INTEGER NOT NULL,
    PRIMARY KEY (idx, key, seq)) WITHOUT ROWID;
"""
_CHUNK = 2_000


def connect(path: Path, *, writer: bool) -> sqlite3.Connection:
    """Returns a connection with decalog's durability settings; a reader cannot write.

    Raises:
        LogUnavailableError: the file cannot be opened.
    """
    try:
        mode = "rwc" if writer else "ro"
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False, timeout=30
        )
        if writer:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            # macOS: fsync leaves data in the drive's cache unless F_FULLFSYNC is asked for; no effect elsewhere.
            connection.execute("PRAGMA fullfsync=1")
            connection.execute("PRAGMA checkpoint_fullfsync=1")
    except sqlite3.Error as error:
        raise LogUnavailableError(
            where=str(path.name),
            given=f"SQLite says: {error}",
            expected="a file that can be opened" + (" for writing" if writer else ""),
            fix="Check the path, its permissions and the disk; `decalog up` creates a new home.",
        ) from None
    return connection


class SqliteLogStore:
    """One partition of the log in one SQLite file.

    Args:
        path: of the file; its folder is created for a writer.
        writer: take the partition's single writer's lock; otherwise read only, beside a writer in another process.

    Raises:
        LogUnavailableError: another process is the writer, or the file cannot be opened.
    """

    def __init__(self, path: Path, *, writer: bool = False) -> None:
        self.path = path
        self._failed = False
        self._lock_file: int | None = None
        if writer:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock_file = _take_lock(path.with_suffix(".lock"))
            self._writer: sqlite3.Connection | None = connect(path, writer=True)
            self._writer.executescript(_TABLES)
        else:
            self._writer = None
        self._reader = connect(path, writer=False)
        self._reading = threading.Lock()

    def append(self, entries: Sequence[Entry]) -> None:
        """See `LogStore.append`."""
        if self._writer is None or self._failed:
            raise LogUnavailableError(
                where=str(self.path.name),
                given="an append to a store that is closed, read only, or failed before",
                expected="the partition's writer",
                fix="Restart the writer; it recovers everything that was acknowledged.",
            )
        write = self._writer
        try:
            write.execute("BEGIN IMMEDIATE")
            write.executemany("INSERT INTO records VALUES (?, ?, ?)", [(e.seq, e.blob, e.hash) for e in entries])
            write.executemany(
                "INSERT INTO keys VALUES (?, ?, ?)", [(index, key, e.seq) for e in entries for index, key in e.keys]
            )
            write.execute("COMMIT")
        except sqlite3.Error as error:
            self._failed = True
            raise LogUnavailableError(
                where=str(self.path.name),
                given=f"SQLite says: {error}",
                expected="a durable commit",
                fix="Free disk space or mend the disk, then restart: nothing acknowledged is lost.",
            ) from error

    def read(self, start: int, stop: int | None = None) -> Iterator[Entry]:
        """See `LogStore.read`."""
        last = 2**62 if stop is None else stop
        while start < last:
            rows = self._select(
                "SELECT seq, blob, hash FROM records WHERE seq >= ? AND seq < ? ORDER BY seq LIMIT ?",
                (start, last, _CHUNK),
            )
            for seq, blob, hash_ in rows:
                yield Entry(seq, blob, hash_)
            if len(rows) < _CHUNK:
                return
            start = rows[-1][0] + 1

    def find(self, index: str, key: str) -> list[int]:
        """See `LogStore.find`."""
        rows = self._select("SELECT seq FROM keys WHERE idx = ? AND key = ? ORDER BY seq", (index, key))
        return [row[0] for row in rows]

    def head(self) -> Entry | None:
        """See `LogStore.head`."""
        rows = self._select("SELECT seq, blob, hash FROM records ORDER BY seq DESC LIMIT 1", ())
        return Entry(*rows[0]) if rows else None

    def close(self) -> None:
        """See `LogStore.close`. A failed store is left as it is: closing cleanly would checkpoint unsynced pages."""
        if self._failed:
            return
        self._reader.close()
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    def _select(self, sql: str, values: tuple[object, ...]) -> list[tuple[int, bytes, bytes]]:
        try:
            with self._reading:
                return self._reader.execute(sql, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise CorruptLogError(
                where=str(self.path.name),
                given=f"SQLite says: {error}",
                expected="a readable log",
                fix="Run `decalog verify`; restore from a backup if the file is damaged.",
            ) from error


def _take_lock(path: Path) -> int:
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise LogUnavailableError(
            where=str(path.name),
            given="a partition that another process is writing",
            expected="one writer a partition",
            fix="Stop the other `decalog serve`, `up` or `train --data`, or use another --home.",
        ) from None
    return handle
