"""What is particular to the vault on SQLite: what lies in the file, its caches, its failures."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from decalog.errors import LogUnavailableError
from decalog.stores import vault as vault_module
from decalog.stores.vault import SqliteVault


def test_values_are_not_in_the_file(tmp_path: Path) -> None:
    vault = SqliteVault(tmp_path / "vault.sqlite", writer=True)
    vault.token("email", "ada.lovelace@example.org")
    vault.flush()()
    vault.close()
    assert b"lovelace" not in (tmp_path / "vault.sqlite").read_bytes()


def test_find_makes_no_token(tmp_path: Path) -> None:
    vault = SqliteVault(tmp_path / "vault.sqlite", writer=True)
    assert vault.find("card", "a") is None
    token = vault.token("card", "a")
    assert vault.find("card", "a") == token
    vault.flush()()
    assert vault.find("card", "a") == token
    assert list(vault.tokens()) == [token]
    assert list(vault.subjects()) == []
    vault.cipher(token)
    vault.flush()()
    assert list(vault.subjects()) == [token]
    vault.close()


def test_a_subject_whose_key_was_destroyed_has_none_and_gets_none(tmp_path: Path) -> None:
    path = tmp_path / "vault.sqlite"
    vault = SqliteVault(path, writer=True)
    vault.cipher(5)
    vault.flush()()
    vault.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE keys SET key = x'' WHERE subject = 5")
    connection.close()
    for writer in (True, False):
        vault = SqliteVault(path, writer=writer)
        assert vault.cipher(5) is None
        assert list(vault.subjects()) == []
        vault.close()


def test_caches_are_bounded_and_forget_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vault_module, "_TOKENS_CACHED", 4)
    monkeypatch.setattr(vault_module, "_CIPHERS_CACHED", 2)
    vault = SqliteVault(tmp_path / "vault.sqlite", writer=True)
    tokens = [vault.token("card", str(n)) for n in range(10)]
    ciphers = [vault.cipher(token) for token in tokens]
    sealed = [cipher.encrypt(bytes(12), b"x", b"") for cipher in ciphers if cipher is not None]
    assert [vault.token("card", str(n)) for n in range(10)] == tokens
    vault.flush()()
    assert [vault.token("card", str(n)) for n in range(10)] == tokens
    assert (len(vault._tokens), len(vault._ciphers)) == (4, 2)
    for token, box in zip(tokens, sealed, strict=True):
        cipher = vault.cipher(token)
        assert cipher is not None
        assert cipher.decrypt(bytes(12), box, b"") == b"x"
    assert len(vault._ciphers) == 2
    vault.close()


def test_a_flush_of_nothing_writes_nothing(tmp_path: Path) -> None:
    vault = SqliteVault(tmp_path / "vault.sqlite", writer=True)
    before = (tmp_path / "vault.sqlite-wal").stat().st_size
    vault.flush()()
    assert (tmp_path / "vault.sqlite-wal").stat().st_size == before
    vault.close()


def test_a_failed_flush_is_never_retried(tmp_path: Path) -> None:
    vault = SqliteVault(tmp_path / "vault.sqlite", writer=True)
    vault.token("card", "a")
    vault.cipher(1)
    other = sqlite3.connect(tmp_path / "vault.sqlite")
    other.execute("DROP TABLE keys")
    other.commit()
    for said in ("no such table: keys", "a write failed before, and is never retried"):
        with pytest.raises(LogUnavailableError, match=rf"vault: SQLite says: {said}.*a durable commit of new keys"):
            vault.flush()()
    other.close()
    with pytest.raises(LogUnavailableError, match="never retried"):
        vault.secret("late")
    vault.close()
    again = SqliteVault(tmp_path / "vault.sqlite", writer=True)
    assert again.find("card", "a") is None
    again.close()


def test_tokens_made_while_a_flush_runs_are_kept_for_the_next(tmp_path: Path) -> None:
    vault = SqliteVault(tmp_path / "vault.sqlite", writer=True)
    stop = threading.Event()

    def flush() -> None:
        while not stop.is_set():
            vault.flush()()

    thread = threading.Thread(target=flush)
    thread.start()
    tokens = {str(n): vault.token("card", str(n)) for n in range(300)}
    for token in tokens.values():
        vault.cipher(token)
    stop.set()
    thread.join()
    vault.flush()()
    vault.close()
    reader = SqliteVault(tmp_path / "vault.sqlite")
    assert {value: reader.find("card", value) for value in tokens} == tokens
    assert set(reader.subjects()) == set(tokens.values())
    reader.close()


def test_a_vault_without_tables_says_so(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "vault.sqlite").execute("CREATE TABLE other (a)").connection.close()
    with pytest.raises(LogUnavailableError, match=r"vault: SQLite says: no such table: secrets.*restore the vault"):
        SqliteVault(tmp_path / "vault.sqlite")


def test_no_vault_says_so(tmp_path: Path) -> None:
    with pytest.raises(LogUnavailableError, match=r"vault\.sqlite: it cannot be opened"):
        SqliteVault(tmp_path / "vault.sqlite")


def test_a_closed_vault_says_so(tmp_path: Path) -> None:
    vault = SqliteVault(tmp_path / "vault.sqlite", writer=True)
    vault.close()
    with pytest.raises(LogUnavailableError, match="closed database"):
        list(vault.tokens())
