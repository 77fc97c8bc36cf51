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

from decalog.errors import CorruptLogError, LogError, LogUnavailableError
from decalog.stores.base import Entry

_TABLES = """
CREATE TABLE IF NOT EXISTS records (seq INTEGER PRIMARY KEY, blob BLOB NOT NULL, hash BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS keys (idx TEXT NOT NULL, key TEXT NOT NULL, seq INTEGER NOT NULL,
    PRIMARY KEY (idx, key, seq)) WITHOUT ROWID;
"""
_CHUNK = 2_000
_WAL_KEPT_BYTES = 64 * 2**20


def connect(path: Path, *, writer: bool, tables: str = "") -> sqlite3.Connection:
    """Returns a connection with decalog's durability settings; a reader cannot write.

    Args:
        path: of the file; a writer creates it and its folder, for their owner only.
        writer: one that may write.
        tables: SQL that a writer runs first, to create what is not there yet.

    Raises:
        LogUnavailableError: the file cannot be opened.
    """
    connection = None
    try:
        if writer:
            _create(path)
        uri = f"{path.absolute().as_uri()}?mode={'rw' if writer else 'ro'}"
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=30)
        if writer:
            _make_durable(connection)
            connection.executescript(tables)
    except (sqlite3.Error, OSError) as error:
        if connection is not None:
            connection.close()
        raise _unopened(path, error, writer=writer) from None
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
        self._writer: sqlite3.Connection | None = None
        self._lock_file: int | None = None
        if writer:
            self._lock_file = _take_lock(path.with_suffix(".lock"))
        try:
            if writer:
                self._writer = connect(path, writer=True, tables=_TABLES)
            self._reader = connect(path, writer=False)
        except LogUnavailableError:
            self._release()
            raise
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
        # Failed until the commit has returned, so that no error of any kind leaves half a group behind and goes on.
        self._failed = True
        try:
            write.execute("BEGIN IMMEDIATE")
            write.executemany("INSERT INTO records VALUES (?, ?, ?)", [(e.seq, e.blob, e.hash) for e in entries])
            write.executemany(
                "INSERT INTO keys VALUES (?, ?, ?)", [(index, key, e.seq) for e in entries for index, key in e.keys]
            )
            write.execute("COMMIT")
        except sqlite3.Error as error:
            raise LogUnavailableError(
                where=str(self.path.name),
                given=f"SQLite says: {error}",
                expected="a durable commit",
                fix="Free disk space or mend the disk, then restart: nothing acknowledged is lost.",
            ) from error
        self._failed = False

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
        """See `LogStore.close`."""
        # The last connection to close moves the WAL into the file. After a failure that must not happen, since it would
        # sync again: there the reader, which cannot write, is the last.
        if not self._failed:
            self._reader.close()
        self._release()
        self._reader.close()

    def _release(self) -> None:
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
        except sqlite3.Error as error:
            raise _unreadable(self.path, error) from error


def _unreadable(path: Path, error: sqlite3.Error) -> LogError:
    # SQLite's own word for damage is a plain DatabaseError; a locked or closed file is one of its subclasses.
    if type(error) is sqlite3.DatabaseError:
        return CorruptLogError(
            where=str(path.name),
            given=f"SQLite says: {error}",
            expected="a readable log",
            fix="Run `decalog verify`; restore from a backup if the file is damaged.",
        )
    return LogUnavailableError(
        where=str(path.name),
        given=f"SQLite says: {error}",
        expected="a log that is open and was written by decalog",
        fix="Check the path, its permissions and the disk, then start again.",
    )


def _unopened(path: Path, error: Exception, *, writer: bool) -> LogUnavailableError:
    return LogUnavailableError(
        where=str(path.name),
        given=f"it cannot be opened: {error}",
        expected="a file that can be opened" + (" for writing" if writer else ""),
        fix="Check the path, its permissions and the disk; `decalog up` creates a new home.",
    )


def _create(path: Path) -> None:
    # A file's name is durable once its folder is synced, and a new folder's name once its parent is.
    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    for folder in (path.parent, *(folder.parent for folder in made)):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _make_durable(connection: sqlite3.Connection) -> None:
    mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
    if mode != "wal":
        raise sqlite3.OperationalError(f"the file system allows journal_mode={mode} only, not WAL")
    connection.execute("PRAGMA synchronous=FULL")
    # macOS: fsync leaves data in the drive's cache unless F_FULLFSYNC is asked for; no effect elsewhere.
    connection.execute("PRAGMA fullfsync=1")
    connection.execute("PRAGMA checkpoint_fullfsync=1")
    # A long import leaves a long WAL; it is cut to this when it next starts over.
    connection.execute(f"PRAGMA journal_size_limit={_WAL_KEPT_BYTES}")


def _take_lock(path: Path) -> int:
    try:
        _create(path)
        handle = os.open(path, os.O_RDWR)
    except OSError as error:
        raise _unopened(path, error, writer=True) from None
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
