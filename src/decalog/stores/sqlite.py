"""The log on SQLite: WAL, synchronous=FULL, one transaction and so one fsync a group.

SQLite documents that in WAL mode with synchronous=FULL the WAL is synced after each transaction
(sqlite.org/pragma.html#pragma_synchronous). A failed write or sync closes the store for good: after a failed fsync the
kernel may report success for pages it dropped, so nothing is ever retried. Checkpoints are steps of their own: run
inside a commit, as SQLite would by itself, their errors are swallowed (sqlite.org/c3ref/wal_autocheckpoint.html).
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from decalog.errors import CorruptLogError, LogError, LogUnavailableError
from decalog.stores.base import FIRST_KEY, LAST_KEY, Entry, StoredKey, Sync
from decalog.stores.seen import Seen

_TABLES = """
CREATE TABLE IF NOT EXISTS records (seq INTEGER PRIMARY KEY, blob BLOB NOT NULL, hash BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS keys (idx TEXT NOT NULL, key TEXT NOT NULL, seq INTEGER NOT NULL,
    PRIMARY KEY (idx, key, seq)) WITHOUT ROWID;
"""
_CHUNK = 2_000
_PAGE = 4_096
_CACHE_KIB = 8_192
"""Page cache of a connection: the inner pages of the index over ten million keys stay in it.

No more: each COMMIT walks all pages that its connection has cached, and 64 MiB of them cost it 300 to 400 µs.
"""
_CHECKPOINT_PAGES = 250
"""How long the WAL may grow. A checkpoint holds up one group: 1,000 pages for 14 ms, 250 for 5, and cost the same."""
_PATIENCE_S = 60.0
"""How long a write waits for the sync of the one before: longer than any disk takes that works."""
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
        connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        # A reader holds the file from here on, so that a writer that failed is not the last to close it.
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except (sqlite3.Error, OSError, UnicodeDecodeError) as error:  # SQLite quotes what is damaged
        if connection is not None:
            connection.close()
        raise _unopened(path, error, writer=writer) from None
    return connection


class Writer:
    """The one connection that writes a file. A failure of any kind is final: nothing is retried, nothing else written.

    Args:
        path: of the file; it and its folder are created.
        tables: SQL that creates what is not there yet.
        where, what: name of the file and of what it holds, in errors.

    Raises:
        LogUnavailableError: the file cannot be opened, or what it holds cannot be synced.
    """

    def __init__(self, path: Path, tables: str, *, where: str, what: str) -> None:
        self.failed = False
        self._where, self._what = where, what
        self.checkpoint_pages = _CHECKPOINT_PAGES
        self.connection = connect(path, writer=True, tables=tables)
        self._pages = 0
        # Taken by a write, given back by its sync, which may run in another thread.
        self._writing = threading.Lock()
        try:
            # A writer that was killed may have left what it had written but not synced. From here on it may be told.
            self._checkpoint()
        except sqlite3.Error as error:
            self.connection.close()
            raise _unopened(path, error, writer=True) from None

    def write(self, *inserts: tuple[str, Sequence[tuple[object, ...]]]) -> Sync:
        """Writes the rows of all statements in one transaction; returns the step that makes them durable.

        Raises:
            LogUnavailableError: this or an earlier write failed; the step raises it too.
        """
        with self._ending():
            if not self._writing.acquire(timeout=_PATIENCE_S):
                raise sqlite3.OperationalError("the write before was never synced")
            try:
                self._write(inserts)
            except BaseException:
                self._writing.release()
                raise
        return self._sync

    def select(self, sql: str, values: tuple[object, ...]) -> list[Any] | None:
        """Returns the rows of a query, or None while a write is under way or after one failed.

        A connection's page cache survives its own commits, and no other's: right after a commit a lookup here costs a
        sixth of one on a reader.
        """
        if self.failed or not self._writing.acquire(blocking=False):
            return None
        try:
            return self.connection.execute(sql, values).fetchall()
        finally:
            self._writing.release()

    def _write(self, inserts: Sequence[tuple[str, Sequence[tuple[object, ...]]]]) -> None:
        if self.failed:
            raise sqlite3.OperationalError("a write failed before, and is never retried")
        self.failed = True
        self.connection.execute("BEGIN IMMEDIATE")
        for statement, rows in inserts:
            self.connection.executemany(statement, rows)
            # At most a page a row, and those that the values fill.
            self._pages += len(rows) + sum(len(v) for row in rows for v in row if isinstance(v, bytes)) // _PAGE

    def _sync(self) -> None:
        with self._ending():
            try:
                self.connection.execute("COMMIT")
                if self._pages > self.checkpoint_pages:
                    self._checkpoint()
                self.failed = False
            finally:
                self._writing.release()

    @contextmanager
    def _ending(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise LogUnavailableError(
                where=self._where,
                given=f"SQLite says: {error}",
                expected=f"a durable commit of {self._what}",
                fix="Free disk space or mend the disk, then restart: nothing acknowledged is lost.",
            ) from error

    def close(self) -> None:
        """Releases the file."""
        self.connection.close()

    def _checkpoint(self) -> None:
        self.connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        self._pages = 0


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
        self._writer: Writer | None = None
        self._lock_file: int | None = None
        if writer:
            self._lock_file = _take_lock(path.with_suffix(".lock"))
        try:
            if writer:
                self._writer = Writer(path, _TABLES, where=path.name, what="records")
            self._reader = connect(path, writer=False)
        except LogUnavailableError:
            self._release()
            raise
        self._reading = threading.Lock()
        self._seen = Seen(self._stored_keys, sqlite3.Error, LogUnavailableError) if writer else None

    def append(self, entries: Sequence[Entry]) -> Sync:
        """See `LogStore.append`."""
        if self._writer is None or self._seen is None:
            raise LogUnavailableError(
                where=str(self.path.name),
                given="an append to a store that is closed or read only",
                expected="the partition's writer",
                fix="Restart the writer; it recovers everything that was acknowledged.",
            )
        keys = [(index, key, e.seq) for e in entries for index, key in e.keys]
        for index, key, _ in keys:
            self._seen.add((index, key))
        return self._writer.write(
            ("INSERT INTO records VALUES (?, ?, ?)", [(e.seq, e.blob, e.hash) for e in entries]),
            ("INSERT INTO keys VALUES (?, ?, ?)", keys),
        )

    def read(self, start: int, stop: int | None = None) -> Iterator[Entry]:
        """See `LogStore.read`."""
        last = 2**62 if stop is None else stop
        # One record is looked up like a key. More would fill the cache of the connection that commits.
        select = self._select if last - start == 1 else self._select_aside
        while start < last:
            rows = select(
                "SELECT seq, blob, hash FROM records WHERE seq >= ? AND seq < ? ORDER BY seq LIMIT ?",
                (start, last, _CHUNK),
            )
            yield from (self._entry(*row) for row in rows)
            if len(rows) < _CHUNK:
                return
            start = rows[-1][0] + 1

    def find(self, index: str, key: str) -> list[int]:
        """See `LogStore.find`."""
        if self._seen is not None and self._seen.lacks((index, key)):
            return []
        rows = self._select("SELECT seq FROM keys WHERE idx = ? AND key = ? ORDER BY seq", (index, key))
        return [row[0] for row in rows]

    def keys(self, after: StoredKey = FIRST_KEY, before: StoredKey = LAST_KEY) -> Iterator[StoredKey]:
        """See `StoredKeys.keys`."""
        return _keys_between(self._select_aside, after, before)

    def head(self) -> Entry | None:
        """See `LogStore.head`."""
        rows = self._select("SELECT seq, blob, hash FROM records ORDER BY seq DESC LIMIT 1", ())
        return self._entry(*rows[0]) if rows else None

    def close(self) -> None:
        """See `LogStore.close`."""
        if self._seen is not None:
            self._seen.close()
        # The last connection to close moves the WAL into the file. After a failure that must not happen, since it would
        # sync again: there the reader, which cannot write, is the last.
        if self._writer is not None and not self._writer.failed:
            self._reader.close()
        self._release()
        self._reader.close()

    def _stored_keys(self) -> Iterator[tuple[str, str]]:
        # A connection of its own, since another thread reads; in parts, since an open one keeps the WAL from being cut.
        with closing(connect(self.path, writer=False)) as connection:
            yield from (
                key[:2] for key in _keys_between(lambda sql, values: connection.execute(sql, values).fetchall())
            )

    def _entry(self, seq: int, blob: object, hash_: object) -> Entry:
        # A damaged page may give any value for any column.
        if not (isinstance(blob, bytes) and isinstance(hash_, bytes)):
            raise _damaged(self.path, f"row {seq} without a record or its hash")
        return Entry(seq, blob, hash_)

    def _release(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    def _select(self, sql: str, values: tuple[object, ...]) -> list[Any]:
        try:
            rows = None if self._writer is None else self._writer.select(sql, values)
        except sqlite3.Error as error:
            raise _unreadable(self.path, error) from error
        return self._select_aside(sql, values) if rows is None else rows

    def _select_aside(self, sql: str, values: tuple[object, ...]) -> list[Any]:
        """Returns what the connection that only reads finds: what is committed."""
        try:
            with self._reading:
                return self._reader.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise _unreadable(self.path, error) from error


def _keys_between(
    select: Callable[[str, tuple[object, ...]], list[Any]], last: StoredKey = FIRST_KEY, before: StoredKey = LAST_KEY
) -> Iterator[StoredKey]:
    while rows := select(
        "SELECT idx, key, seq FROM keys WHERE (idx, key, seq) > (?, ?, ?) AND (idx, key, seq) < (?, ?, ?)"
        " ORDER BY idx, key, seq LIMIT ?",
        (*last, *before, _CHUNK),
    ):
        yield from rows
        last = rows[-1]


def _unreadable(path: Path, error: sqlite3.Error) -> LogError:
    # SQLite's own word for damage is a plain DatabaseError; a locked or closed file is one of its subclasses.
    if type(error) is sqlite3.DatabaseError:
        return _damaged(path, f"SQLite says: {error}")
    return LogUnavailableError(
        where=str(path.name),
        given=f"SQLite says: {error}",
        expected="a log that is open and was written by decalog",
        fix="Check the path, its permissions and the disk, then start again.",
    )


def _damaged(path: Path, given: str) -> CorruptLogError:
    return CorruptLogError(
        where=str(path.name),
        given=given,
        expected="a readable log",
        fix="Run `decalog verify`; restore from a backup if the file is damaged.",
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
    # One that is there is not opened: to close it would end all locks that this process's other connections hold on it
    # (sqlite.org/howtocorrupt.html, 2.2), and another process would take their WAL away from them.
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
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
    connection.execute("PRAGMA wal_autocheckpoint=0")
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
            fix="Stop the other `decalog serve`, `up` or `train --data`, ask it by --url, or use another --home.",
        ) from None
    return handle
