"""The vault on SQLite: keys per subject and the erasable map from entity values to random tokens.

It is a file of its own, so that it can be kept, backed up and destroyed apart from the log. Values are never stored:
the map holds their keyed digests. `secure_delete` overwrites what is erased.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from decalog.crypto import digest, new_key, new_token
from decalog.errors import LogUnavailableError
from decalog.stores.base import Sync, nothing
from decalog.stores.seen import Seen
from decalog.stores.sqlite import Writer, connect

_TABLES = """
PRAGMA secure_delete=ON;
CREATE TABLE IF NOT EXISTS secrets (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS keys (subject INTEGER PRIMARY KEY, key BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS tokens (digest BLOB PRIMARY KEY, token INTEGER NOT NULL, kind TEXT NOT NULL) WITHOUT ROWID;
"""
_TOKENS_CACHED = 200_000
_CIPHERS_CACHED = 20_000  # 2.5 KB each: fifty times a token
_SHED_S = 2.0
_ERASED = b""
"""Stands where a subject's key was: without it the subject would be given a new one."""

_K = TypeVar("_K")
_V = TypeVar("_V")


class SqliteVault:
    """Keys and tokens in one SQLite file, readable by its owner only.

    New tokens and keys are used at once and written by `flush`, which the log calls before it appends the records
    that carry them. All belongs to the thread that stamps; only what `flush` returns may run in another.

    Args:
        path: of the file.
        writer: whether new tokens and keys may be made; a reader gives None for a key it does not know. One process
            at a time may be the writer: the one that writes the log.

    Raises:
        LogUnavailableError: the file cannot be opened, or a reader finds no secrets in it.
    """

    def __init__(self, path: Path, *, writer: bool = False) -> None:
        self._writer = Writer(path, _TABLES, where="vault", what="new keys and tokens") if writer else None
        self._reader = connect(path, writer=False)
        self._tokens: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._ciphers: OrderedDict[int, AESGCM] = OrderedDict()
        self._new_tokens: dict[bytes, tuple[int, str]] = {}
        self._new_keys: dict[int, bytes] = {}
        self._secrets: dict[str, bytes] = {}
        self._seen: Seen | None = None
        try:
            self._map_secret = self.secret("map")
        except LogUnavailableError:
            self.close()
            raise
        self._seen = Seen(partial(_stored, path), sqlite3.Error, LogUnavailableError) if writer else None

    def token(self, kind: str, value: str) -> int:
        """See `Vault.token`.

        Raises:
            LogUnavailableError: the value is new and the vault was opened for reading.
        """
        known = self._tokens.get((kind, value))
        if known is None:
            known = self._lookup_token(digest(self._map_secret, kind.encode(), value.encode()), kind)
            _remember(self._tokens, (kind, value), known, most=_TOKENS_CACHED)
        return known

    def find(self, kind: str, value: str) -> int | None:
        """Returns the token of a value that was seen before, or None; makes none."""
        mark = digest(self._map_secret, kind.encode(), value.encode())
        fresh = self._new_tokens.get(mark)
        if fresh is not None:
            return fresh[0]
        return self._stored_token(mark)

    def cipher(self, subject: int) -> AESGCM | None:
        """See `Vault.cipher`."""
        known = self._ciphers.get(subject)
        if known is not None:
            return known
        key = self._new_keys.get(subject) or self._stored_key(subject)
        if key == _ERASED or (key is None and self._writer is None):
            return None
        if key is None:
            key = self._new_keys[subject] = new_key()
        made = AESGCM(key)
        _remember(self._ciphers, subject, made, most=_CIPHERS_CACHED)
        return made

    def secret(self, name: str) -> bytes:
        """See `Vault.secret`. A new secret is durable when this returns."""
        known = self._secrets.get(name) or self._one("SELECT value FROM secrets WHERE name = ?", name)
        if known is None:
            if self._writer is None:
                raise LogUnavailableError(
                    where="vault, secret",
                    given=f"no secret {name!r} in a vault opened for reading",
                    expected="a vault that a writer has opened once",
                    fix="Start `decalog serve` or `decalog train` first.",
                )
            known = new_key()
            self._writer.write(("INSERT INTO secrets VALUES (?, ?)", [(name, known)]))()
        self._secrets[name] = known
        return known

    def flush(self) -> Sync:
        """See `Vault.flush`."""
        if not (self._new_tokens or self._new_keys) or self._writer is None or self._seen is None:
            return nothing
        tokens, keys = dict(self._new_tokens), dict(self._new_keys)
        for new in (*tokens, *keys):
            self._seen.add(new)
        sync = self._writer.write(
            ("INSERT INTO tokens VALUES (?, ?, ?)", [(mark, token, kind) for mark, (token, kind) in tokens.items()]),
            # A subject that was erased meanwhile keeps what stands in the place of a key.
            ("INSERT OR IGNORE INTO keys VALUES (?, ?)", list(keys.items())),
        )

        def flushed() -> None:
            sync()
            # One after the other: the thread that stamps adds new ones meanwhile.
            for mark in tokens:
                del self._new_tokens[mark]
            for subject in keys:
                del self._new_keys[subject]

        return flushed

    def tokens(self) -> Iterator[int]:
        """See `StoredTokens.tokens`."""
        return (int(row[0]) for row in self._rows("SELECT token FROM tokens"))

    def subjects(self) -> Iterator[int]:
        """See `StoredTokens.subjects`."""
        return (int(row[0]) for row in self._rows("SELECT subject FROM keys WHERE length(key) > 0"))

    def marks(self, tokens: Collection[int]) -> list[bytes]:
        """See `Erasable.marks`."""
        wanted = {*tokens}
        rows = self._rows("SELECT digest, token FROM tokens")
        return [bytes(mark) for mark, token in rows if token in wanted]

    def erase(self, subjects: Collection[int], *, tokens: Collection[int], marks: Collection[bytes]) -> None:
        """See `Erasable.erase`."""
        self._replace(dict.fromkeys(subjects, _ERASED), *(("tokens", "digest", mark) for mark in marks))
        gone = {*tokens}
        for known in [known for known, token in self._tokens.items() if token in gone]:
            del self._tokens[known]

    def rekey(self, subject: int) -> None:
        """See `Erasable.rekey`."""
        key = self._stored_key(-subject)
        if key is not None:
            self._replace({subject: key}, ("keys", "subject", -subject))

    def holds(self, subject: int) -> bool:
        """See `Erasable.holds`."""
        return bool(self._new_keys.get(subject) or self._stored_key(subject))

    def _replace(self, keys: Mapping[int, bytes], *gone: tuple[str, str, object]) -> None:
        if self._writer is None:
            raise LogUnavailableError(
                where="vault, erase",
                given="a vault opened for reading",
                expected="the vault of the log's writer",
                fix="Stop the server, or ask it by --url.",
            )
        self._writer.write(
            *((f"DELETE FROM {table} WHERE {column} = ?", [(value,)]) for table, column, value in gone),  # noqa: S608 - own names
            ("INSERT OR REPLACE INTO keys VALUES (?, ?)", list(keys.items())),
        )()
        for subject in keys:
            self._ciphers.pop(subject, None)
            self._ciphers.pop(-subject, None)

    def close(self) -> None:
        """See `Vault.close`."""
        if self._seen is not None:
            self._seen.close()
        # As in the log's store: after a failure the reader closes last, so that nothing is synced again.
        if self._writer is not None and not self._writer.failed:
            self._reader.close()
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._reader.close()

    def _lookup_token(self, mark: bytes, kind: str) -> int:
        fresh = self._new_tokens.get(mark)
        if fresh is not None:
            return fresh[0]
        stored = self._stored_token(mark)
        if stored is not None:
            return stored
        if self._writer is None:
            raise LogUnavailableError(
                where="vault, token",
                given=f"a new value of {kind!r} in a vault opened for reading",
                expected="a value that the log has seen",
                fix="Use `find`, or let the writer append it first.",
            )
        token = new_token()
        self._new_tokens[mark] = (token, kind)
        return token

    def _stored_token(self, mark: bytes) -> int | None:
        row = None if self._lacks(mark) else self._one("SELECT token FROM tokens WHERE digest = ?", mark)
        return None if row is None else int(row)

    def _stored_key(self, subject: int) -> bytes | None:
        return None if self._lacks(subject) else self._one("SELECT key FROM keys WHERE subject = ?", subject)

    def _lacks(self, key: bytes | int) -> bool:
        return self._seen is not None and self._seen.lacks(key)

    def _one(self, sql: str, value: object) -> bytes | None:
        try:
            rows = None if self._writer is None else self._writer.select(sql, (value,))
            if rows is None:
                rows = self._reader.execute(sql, (value,)).fetchall()
        except sqlite3.Error as error:
            raise _unreadable(error) from error
        return rows[0][0] if rows else None

    def _rows(self, sql: str) -> Iterator[tuple[Any, ...]]:
        try:
            yield from self._reader.execute(sql)
        except sqlite3.Error as error:
            raise _unreadable(error) from error


def shed(path: Path) -> bool:
    """Moves what a vault's WAL holds into its file and empties it: old pages there hold keys that were destroyed.

    Returns whether that was done; where somebody reads meanwhile it is not, and is to be tried again.
    """
    try:
        with closing(sqlite3.connect(path, isolation_level=None, timeout=_SHED_S)) as connection:
            return bool(connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0)
    except sqlite3.Error as error:
        raise _unreadable(error) from error


def _stored(path: Path) -> Iterator[bytes | int]:
    with closing(connect(path, writer=False)) as connection:
        for sql in ("SELECT digest FROM tokens", "SELECT subject FROM keys"):
            yield from (row[0] for row in connection.execute(sql))


def _unreadable(error: Exception) -> LogUnavailableError:
    return LogUnavailableError(
        where="vault",
        given=f"SQLite says: {error}",
        expected="a vault that is open and was written by decalog",
        fix="Check the path and the disk; restore the vault from a backup if it is damaged.",
    )


def _remember(cache: OrderedDict[_K, _V], key: _K, value: _V, *, most: int) -> None:
    cache[key] = value
    if len(cache) > most:
        cache.popitem(last=False)
