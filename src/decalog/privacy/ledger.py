"""Two lists that lie apart from a log: its erasures, so that an older backup cannot undo them, and its backups.

The ledger of erasures stands beside the home, `<home>.erasures`, one JSON object a line. It holds tokens and nothing
that could be read. `<home>.backups` says where copies went.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import msgspec

from decalog.backup import MANIFEST, Backup
from decalog.clock import rfc3339
from decalog.errors import DataError, DecalogError
from decalog.home import ENGINE
from decalog.standing import Erasure
from decalog.stores.table import open_vault

_ERASURES, _BACKUPS = "erasures", "backups"
_T = TypeVar("_T", bound=msgspec.Struct)


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One erasure in one system, and when it was known to the log, µs."""

    system: str
    known_time: int
    erasure: Erasure


class Copied(msgspec.Struct, frozen=True, kw_only=True):
    """A backup: where it went, the log position and known_time, µs, that it ends with."""

    path: str
    position: int
    known_time: int


class Holding(msgspec.Struct, frozen=True, kw_only=True):
    """A known backup, and whether it still holds a person's key: yes, no, or that it is not there."""

    path: str
    taken: str
    holds: bool | None

    def text(self) -> str:
        """Returns it in words."""
        words = {True: "still holds the key", False: "holds no key", None: "is not there; it may lie elsewhere"}
        return f"{self.path} (to {self.taken}): {words[self.holds]}"


def beside(home: Path, what: str = _ERASURES) -> Path:
    """Returns where a home's list stands."""
    return home.absolute().with_name(f"{home.absolute().name}.{what}")


def enter(home: Path, entries: Iterable[Entry]) -> None:
    """Appends erasures to a home's ledger, durably; those that stand in it already are left out."""
    known = set(map(_key, read(beside(home))))
    _append(beside(home), [entry for entry in entries if _key(entry) not in known])


def read(path: Path) -> list[Entry]:
    """Returns the erasures of a ledger, none where there is no file.

    Raises:
        DataError: a line is not one of a ledger.
    """
    return _lines(path, Entry)


def noted(home: Path, target: Path, *, made: Backup) -> Copied:
    """Returns a backup that was just made, noted among those that are known."""
    copied = Copied(path=str(target.absolute()), position=made.position, known_time=made.known_time)
    _append(beside(home, _BACKUPS), [copied])
    return copied


def backups(home: Path) -> list[Copied]:
    """Returns the backups that are known, oldest first."""
    return _lines(beside(home, _BACKUPS), Copied)


def holding(home: Path, subject: int) -> list[Holding]:
    """Returns the known backups, and which of them still hold a person's key."""
    return [
        Holding(path=copy.path, taken=rfc3339(copy.known_time), holds=_holds(Path(copy.path), subject))
        for copy in backups(home)
    ]


def _holds(copy: Path, subject: int) -> bool | None:
    if not (copy / MANIFEST).is_file():
        return None
    try:
        with closing(open_vault(ENGINE, copy / "vault.sqlite")) as vault:
            return vault.cipher(subject) is not None
    except DecalogError:
        return None


def _key(entry: Entry) -> tuple[str, int, tuple[int, ...]]:
    return entry.system, entry.erasure.subject, entry.erasure.records


def _append(path: Path, rows: Iterable[msgspec.Struct]) -> None:
    lines = b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
    if not lines:
        return
    raw = path.read_bytes() if path.is_file() else b""
    if not raw.endswith(b"\n") and raw:
        os.truncate(path, raw.rfind(b"\n") + 1)  # what a crash cut short was not told to anybody
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(handle, "ab") as file:
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())


def _lines(path: Path, kind: type[_T]) -> list[_T]:
    if not path.is_file():
        return []
    *whole, last = path.read_bytes().split(b"\n")  # a line that a crash cut short has no end
    try:
        return [msgspec.json.decode(line, type=kind) for line in whole]
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(
            where=path.name,
            given=f"a line that does not decode ({type(error).__name__}), or {len(last)} bytes without an end",
            expected="what `decalog erase` and `decalog backup` wrote",
            fix="Take the ledger from another copy; without it, erase again whom it named.",
        ) from None
