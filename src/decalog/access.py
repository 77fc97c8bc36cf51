"""Who may call: API tokens with scopes. Only hashes of them are kept.

A token reads `dlg_<id>_<secret>`: the id names it in lists and logs, the secret is 256 random bits. Because the secret
is random and not chosen by a person, one SHA-256 is enough at rest (NIST SP 800-63B, section 5.1.1.2, asks for slow
hashes of *memorised* secrets only); slow hashing would cost more than the decision it guards.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from decalog.clock import Clock
from decalog.errors import AccessError, ConfigError, LogUnavailableError, UnknownRecordError, near
from decalog.stores.sqlite import connect

Scope = Literal["decide", "outcomes", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

_VERIFIED_KEPT = 1_000
STALE_S = 1.0
"""A revoked token is refused after at most this many seconds, whichever process revoked it."""

_TABLE = """
CREATE TABLE IF NOT EXISTS tokens (id TEXT PRIMARY KEY, hash BLOB NOT NULL, note TEXT NOT NULL, scopes TEXT NOT NULL,
    systems TEXT NOT NULL, created_us INTEGER NOT NULL, expires_us INTEGER, revoked_us INTEGER) WITHOUT ROWID;
"""
_BEARER = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +(dlg_([0-9a-f]{12})_([0-9a-f]{64}))")
_HOW = "Send `Authorization: Bearer dlg_…` with a token of `decalog tokens create`."


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """What a token may do; never its secret.

    Args:
        id: 12 hex digits, safe to show and to log.
        note: what it is for, in the operator's words.
        scopes: what it may do; none of them includes another.
        systems: the only systems it may be used with; empty: all.
        created_us, expires_us, revoked_us: µs since the epoch; None: never.
    """

    id: str
    note: str
    scopes: tuple[Scope, ...]
    systems: tuple[str, ...]
    created_us: int
    expires_us: int | None = None
    revoked_us: int | None = None

    @property
    def told(self) -> str:
        """Who acts, for whatever keeps a list of it: `token 3f9a61c27d04 (what it is for)`."""
        return f"token {self.id}" + (f" ({self.note})" if self.note else "")


class TokenStore:
    """The tokens of a home, in its control.sqlite.

    Args:
        path: of control.sqlite; made if it is not there.
        clock: stamps creation and revocation.

    Raises:
        LogUnavailableError: the file cannot be opened.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self.clock = clock
        self._connection = connect(path, writer=True)
        path.chmod(0o600)
        self._execute(_TABLE)

    def create(
        self, scopes: Iterable[str], *, systems: Iterable[str] = (), note: str = "", lifetime_us: int | None = None
    ) -> tuple[Token, str]:
        """Returns a new token and its text, which is shown this once and can never be read again.

        Args:
            scopes: at least one of decide, outcomes, admin.
            systems: restrict it to these; empty: all.
            note: what it is for.
            lifetime_us: it expires after this long, > 0; None: never.

        Raises:
            ConfigError: a scope is unknown or none is given, or the lifetime is not above 0.
        """
        wanted = _checked_scopes(tuple(scopes))
        if lifetime_us is not None and lifetime_us <= 0:
            raise ConfigError(
                where="token, lifetime",
                given=f"{lifetime_us} µs",
                expected="a time above 0",
                fix="Write 90d, or leave it out.",
            )
        now = self.clock.now_us()
        secret = secrets.token_bytes(32).hex()
        token = Token(
            id=secrets.token_bytes(6).hex(),
            note=note,
            scopes=wanted,
            systems=tuple(systems),
            created_us=now,
            expires_us=None if lifetime_us is None else now + lifetime_us,
        )
        row = (token.id, _hash(secret.encode()), note, " ".join(wanted), " ".join(token.systems), now, token.expires_us)
        self._execute("INSERT INTO tokens VALUES (?, ?, ?, ?, ?, ?, ?, NULL)", row)
        return token, f"dlg_{token.id}_{secret}"

    def tokens(self) -> list[Token]:
        """Returns all tokens, revoked and expired ones included, oldest first."""
        return sorted((token for token, _ in self.load().values()), key=lambda token: (token.created_us, token.id))

    def revoke(self, id_: str) -> Token:
        """Returns the token, revoked for ever; revoking it twice keeps the first time.

        Raises:
            UnknownRecordError: there is no token with that id.
        """
        if id_ not in self.load():
            raise UnknownRecordError(
                where="token, id",
                given="an id that no token has",
                expected="the 12 hex digits after `dlg_`",
                fix="`decalog tokens list` shows them.",
            )
        self._execute(
            "UPDATE tokens SET revoked_us = ? WHERE id = ? AND revoked_us IS NULL", (self.clock.now_us(), id_)
        )
        return self.load()[id_][0]

    def load(self) -> dict[str, tuple[Token, bytes]]:
        """Returns id → (token, hash of its secret)."""
        rows = self._execute("SELECT * FROM tokens")
        return {row[0]: (_token(row), row[1]) for row in rows}

    def version(self) -> tuple[int, int]:
        """Returns a number pair that changes when any process changes the file."""
        ((changed_by_others,),) = self._execute("PRAGMA data_version")
        return changed_by_others, self._connection.total_changes

    def close(self) -> None:
        """Releases the file."""
        self._connection.close()

    def _execute(self, sql: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise LogUnavailableError(
                where="control.sqlite, tokens",
                given=f"SQLite says: {error}",
                expected="a readable list of tokens",
                fix="Check the disk and the file; no request is let in meanwhile.",
            ) from None


class Access:
    """Decides who calls, from an in-memory copy of the tokens that follows the file.

    Args:
        store: the tokens.
        monotonic: seconds, for the age of the copy.
    """

    def __init__(self, store: TokenStore, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._monotonic = monotonic
        self._known: dict[str, tuple[Token, bytes]] = {}
        # Headers that were right, so that each is hashed and compared once and not with every request.
        self._verified: dict[bytes, Token] = {}
        self._version: tuple[int, int] | None = None
        self._checked_s = 0.0
        self._follow()

    def verify(self, header: bytes | None) -> Token:
        """Returns the token of an `Authorization` header.

        Raises:
            AccessError: there is none, or it is unknown, expired or revoked (HTTP 401).
            LogUnavailableError: the tokens cannot be read.
        """
        if self._monotonic() - self._checked_s >= STALE_S:
            self._follow()
        token = self._verified.get(header or b"")
        if token is None:
            token = self._verify(header)
        if token.revoked_us is not None:
            raise _refused("a token that was revoked")
        if token.expires_us is not None and self._store.clock.now_us() >= token.expires_us:
            raise _refused("a token that has expired")
        return token

    def _verify(self, header: bytes | None) -> Token:
        match = _BEARER.fullmatch(header or b"")
        if match is None or header is None:
            given = "no token" if header is None else "a header that holds no token of the form dlg_<id>_<secret>"
            raise AccessError(where="request, Authorization", given=given, expected="a bearer token", fix=_HOW)
        id_ = match[2].decode()
        if id_ not in self._known:
            self._follow()
        token, hash_ = self._known.get(id_, (None, b""))
        # Ids are public; only the comparison of secrets has to take the same time for every wrong one.
        if token is None or not hmac.compare_digest(_hash(match[3]), hash_):
            raise _refused("a token that is not known")
        if len(self._verified) < _VERIFIED_KEPT:
            self._verified[header] = token
        return token

    def _follow(self) -> None:
        version = self._store.version()
        if version != self._version:
            self._known = self._store.load()
            self._verified.clear()
            self._version = version
        self._checked_s = self._monotonic()


def require(token: Token, scope: Scope, *, system: str = "") -> None:
    """Returns if a token may do something with a system ("" where no system is concerned).

    Raises:
        AccessError: it lacks the scope, or is restricted to other systems (HTTP 403).
    """
    if scope not in token.scopes:
        raise AccessError(
            where=f"token {token.id}",
            given=f"scope {', '.join(token.scopes)}",
            expected=f"scope {scope}",
            fix=f"Use a token of `decalog tokens create --scope {scope}`.",
        )
    if system and token.systems and system not in token.systems:
        raise AccessError(
            where=f"token {token.id}",
            given=f"a token for {', '.join(token.systems)}",
            expected=f"a token for {system}",
            fix=f"Use a token of `decalog tokens create --system {system}`, or one without restriction.",
        )


def is_loopback(host: str) -> bool:
    """Whether an address or name can only be reached from this machine.

    >>> [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "example.org")]
    [True, True, True, False, False]
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_of(header: bytes) -> str:
    """Returns the address or name in a `Host` header, without its port.

    >>> [host_of(header) for header in (b"LOCALHOST:8080", b"[::1]:8080", b"")]
    ['localhost', '::1', '']
    """
    name = header.decode("latin-1").lower()
    return name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]


def check_binding(host: str, *, authenticated: bool) -> None:
    """Returns if a server may listen on `host`: without tokens only where nobody else can reach it.

    Raises:
        ConfigError: authentication is off and the address is not a loopback one.
    """
    if not authenticated and not is_loopback(host):
        raise ConfigError(
            where="serve, authentication",
            given=f"authentication off while listening on {host}",
            expected="tokens, or a loopback address (127.0.0.1, ::1, localhost)",
            fix="Leave authentication on, or listen on 127.0.0.1.",
        )


def _checked_scopes(scopes: Collection[str]) -> tuple[Scope, ...]:
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        raise ConfigError(
            where="token, scopes",
            given=f"unknown: {', '.join(unknown)}" if unknown else "none",
            expected=near(unknown[0] if unknown else "", SCOPES),
            fix="Name what the caller has to do and no more.",
        )
    return tuple(scope for scope in SCOPES if scope in scopes)


def _token(row: tuple[Any, ...]) -> Token:
    names = ("id", "note", "scopes", "systems", "created_us", "expires_us", "revoked_us")
    values = (row[0], row[2], str(row[3]).split(), str(row[4]).split(), *row[5:])
    return msgspec.convert(dict(zip(names, values, strict=True)), Token)


def _hash(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


def _refused(given: str) -> AccessError:
    return AccessError(where="request, Authorization", given=given, expected="a valid token", fix=_HOW)
