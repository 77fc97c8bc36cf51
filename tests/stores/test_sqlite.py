"""What is particular to the log on SQLite: files, durability settings, damage."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from tests.stores.samples import fill, open_log

from decalog.errors import CorruptLogError, LogUnavailableError
from decalog.stores import sqlite as sqlite_module
from decalog.stores.base import Entry
from decalog.stores.sqlite import SqliteLogStore, Writer, _make_durable, connect

ENTRY = Entry(0, b"blob", b"h" * 32, (("request", "a"),))


def test_settings_are_durable(tmp_path: Path) -> None:
    connection = connect(tmp_path / "x.sqlite", writer=True)
    found = {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")}
    assert found == {"journal_mode": "wal", "synchronous": 2}
    # Inside a commit SQLite swallows a checkpoint's errors.
    assert connection.execute("PRAGMA wal_autocheckpoint").fetchone()[0] == 0
    connection.close()


def test_files_are_their_owner_s_only(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        fill(log, 1)
        modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()}
    assert {"0.sqlite", "0.sqlite-wal", "0.lock", "vault.sqlite", "vault.sqlite-wal"} <= modes.keys()
    assert set(modes.values()) == {0o600}


def test_another_writer_of_a_process_leaves_the_locks_of_its_readers(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"
    add = """
import sys
from pathlib import Path
from decalog.stores.sqlite import connect
connection = connect(Path(sys.argv[1]), writer=True, tables="CREATE TABLE IF NOT EXISTS t (a)")
connection.execute("INSERT INTO t VALUES (1)")
connection.close()
"""
    command = [sys.executable, "-c", add, str(path)]
    subprocess.run(command, check=True)
    with closing(connect(path, writer=False)) as reader, closing(connect(path, writer=True)):
        for count in (2, 3):  # the end of the first process took the WAL away where no lock told it of the reader
            subprocess.run(command, check=True)
            assert reader.execute("SELECT count(*) FROM t").fetchone() == (count,)


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    connect(tmp_path / "x.sqlite", writer=True, tables="CREATE TABLE t (a)").close()
    reader = connect(tmp_path / "x.sqlite", writer=False)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("INSERT INTO t VALUES (1)")
    reader.close()


def no_file(path: Path) -> None:
    assert not path.exists()


def a_folder(path: Path) -> None:
    path.mkdir()


def other_bytes(path: Path) -> None:
    path.write_bytes(b"no database at all, but long enough to have a header" * 40)


@pytest.mark.parametrize("make", [no_file, a_folder, other_bytes])
def test_a_file_that_cannot_be_read_says_so(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "0.sqlite")
    with pytest.raises(LogUnavailableError, match=r"0\.sqlite: it cannot be opened: .*can be opened\."):
        SqliteLogStore(tmp_path / "0.sqlite")


@pytest.mark.parametrize("make", [a_folder, other_bytes])
def test_a_file_that_cannot_be_written_says_so_and_frees_the_lock(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "0.sqlite")
    for _ in range(2):
        with pytest.raises(LogUnavailableError, match="a file that can be opened for writing"):
            SqliteLogStore(tmp_path / "0.sqlite", writer=True)


def test_a_lock_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"")
    with pytest.raises(LogUnavailableError, match=r"0\.lock: it cannot be opened"):
        SqliteLogStore(tmp_path / "log" / "0.sqlite", writer=True)


def test_a_log_of_another_program_is_not_called_damaged(tmp_path: Path) -> None:
    connect(tmp_path / "0.sqlite", writer=True, tables="CREATE TABLE other (a)").close()
    store = SqliteLogStore(tmp_path / "0.sqlite")
    with pytest.raises(LogUnavailableError, match=r"no such table: records.*was written by decalog"):
        store.head()
    store.close()


def test_a_closed_store_is_not_called_damaged(tmp_path: Path) -> None:
    store = SqliteLogStore(tmp_path / "0.sqlite", writer=True)
    store.close()
    with pytest.raises(LogUnavailableError, match="closed database"):
        store.head()


def test_damaged_pages_are_called_damage(tmp_path: Path) -> None:
    path = tmp_path / "0.sqlite"
    store = SqliteLogStore(path, writer=True)
    store.append([ENTRY._replace(seq=seq, blob=bytes(3_000)) for seq in range(50)])()
    store.close()
    content = bytearray(path.read_bytes())
    content[4_096 * 4 :] = b"\xff" * (len(content) - 4_096 * 4)
    path.write_bytes(content)
    reader = SqliteLogStore(path)
    with pytest.raises(CorruptLogError, match=r"0\.sqlite: SQLite says: database disk image is malformed"):
        list(reader.read(0))
    reader.close()


def test_a_row_without_bytes_is_called_damage(tmp_path: Path) -> None:
    path = tmp_path / "0.sqlite"
    store = SqliteLogStore(path, writer=True)
    store.append([ENTRY])()
    store.close()
    other = sqlite3.connect(path)
    other.execute("UPDATE records SET hash = 'text'")
    other.commit()
    other.close()
    reader = SqliteLogStore(path)
    with pytest.raises(CorruptLogError, match="row 0 without a record or its hash"):
        reader.head()
    reader.close()


def test_an_error_of_any_kind_ends_the_writer(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "x.sqlite", "CREATE TABLE IF NOT EXISTS t (a INTEGER)", where="x", what="rows")
    with pytest.raises(OverflowError):
        writer.write(("INSERT INTO t VALUES (?)", [(1,), (2**70,)]))
    assert writer.failed
    with pytest.raises(LogUnavailableError, match=r"x: SQLite says: .* and is never retried.*of rows"):
        writer.write(("INSERT INTO t VALUES (?)", [(1,)]))
    writer.close()
    again = Writer(tmp_path / "x.sqlite", "CREATE TABLE IF NOT EXISTS t (a INTEGER)", where="x", what="rows")
    assert again.connection.execute("SELECT count(*) FROM t").fetchone() == (0,)
    again.close()


def test_a_write_before_the_sync_of_the_last_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_module, "_PATIENCE_S", 0.01)
    store = SqliteLogStore(tmp_path / "0.sqlite", writer=True)
    sync = store.append([ENTRY])
    with pytest.raises(LogUnavailableError, match=r"0\.sqlite: SQLite says: the write before was never synced"):
        store.append([ENTRY._replace(seq=1)])
    assert store.find("request", "a") == []  # what is written is not there before it is durable
    sync()
    assert store.find("request", "a") == [0]
    store.close()


def test_the_wal_is_taken_over_once_it_is_long(tmp_path: Path) -> None:
    path = tmp_path / "0.sqlite"
    store = SqliteLogStore(path, writer=True)
    assert store._writer is not None
    store._writer.checkpoint_pages = 20
    for seq in range(60):
        store.append([ENTRY._replace(seq=seq, blob=bytes(5_000))])()
    assert path.stat().st_size > 40 * 5_000
    assert path.with_name("0.sqlite-wal").stat().st_size < 30 * 5_000
    store.close()


def test_a_failed_writer_leaves_the_wal_to_the_next(tmp_path: Path) -> None:
    path = tmp_path / "0.sqlite"
    store = SqliteLogStore(path, writer=True)
    store.append([ENTRY])()
    assert store._writer is not None
    store._writer.failed = True
    store.close()
    assert path.with_name("0.sqlite-wal").stat().st_size > 0
    again = SqliteLogStore(path, writer=True)
    assert again.find("request", "a") == [0]
    again.close()


def test_every_key_can_be_listed(tmp_path: Path) -> None:
    store = SqliteLogStore(tmp_path / "0.sqlite", writer=True)
    store.append([ENTRY._replace(seq=seq, keys=(("b", f"{seq:05d}"), ("a", "same"))) for seq in range(2_100)])()
    expected = [("a", "same", seq) for seq in range(2_100)] + [("b", f"{seq:05d}", seq) for seq in range(2_100)]
    assert list(store.keys()) == expected
    assert list(store.keys(("b", "00007", 7), ("b", "00009", 10))) == [("b", "00008", 8), ("b", "00009", 9)]
    assert list(store.keys(before=("a", "same", 1))) == [("a", "same", 0)]
    store.close()


def test_a_file_system_without_wal_is_refused() -> None:
    # A database in memory has no WAL, as some network file systems have none.
    connection = sqlite3.connect(":memory:")
    with pytest.raises(sqlite3.OperationalError, match="the file system allows journal_mode=memory only, not WAL"):
        _make_durable(connection)
    connection.close()
