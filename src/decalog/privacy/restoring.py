"""A backup brought back, with whom a later erasure forgot forgotten again before anybody can read them."""

from __future__ import annotations

from pathlib import Path

import msgspec

from decalog import backup as backups
from decalog.backup import Backup
from decalog.errors import DataError
from decalog.home import Home
from decalog.privacy import ledger
from decalog.privacy.erasing import reapply


class Brought(msgspec.Struct, frozen=True, kw_only=True):
    """A home that was brought back: of which backup, by which ledger, and how many people were erased again."""

    backup: Backup
    ledger: str
    again: int = 0

    @property
    def is_sure(self) -> bool:
        """Whether there was a ledger to go by."""
        return bool(self.ledger)

    def text(self) -> str:
        """Returns what was done about erasures, for people."""
        if self.is_sure:
            return f"{self.again:,} people erased again, by {self.ledger}"
        return (
            "WARNING: no ledger of erasures was found beside this home. Who was erased after this backup can be read "
            "again. Bring it back once more with --erasures FILE (it stands beside the old home: <home>.erasures)."
        )


def restore(source: Path, home: Path, *, erasures: Path | None = None) -> Brought:
    """Brings a backup back into a new home, and erases again who was erased since, before the home has its name.

    Args:
        source: folder of a backup.
        home: a folder that does not exist yet, or an empty one.
        erasures: the ledger; that beside the home, if nothing is said.

    Raises:
        DataError: the ledger that is named is not there, or damaged; else as for `backup.restore`.
    """
    path = ledger.beside(home) if erasures is None else erasures
    if erasures is not None and not path.is_file():
        raise DataError(
            where=f"restore, {path.name}",
            given="no such file",
            expected="the ledger of erasures, <home>.erasures",
            fix="Mend the path, or leave it out for that beside the home.",
        )
    entries = ledger.read(path)
    again = 0

    def amend(draft: Path) -> None:
        nonlocal again
        again = reapply(Home(draft), entries)

    made = backups.restore(source, home, amend=amend if entries else None)
    ledger.enter(home, entries)
    return Brought(backup=made, ledger=path.name if path.is_file() else "", again=again)
