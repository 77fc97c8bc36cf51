"""The control room's folder in a home, and its small files: one process tells others something, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from decalog.home import Home

_T = TypeVar("_T", bound=msgspec.Struct)


def folder_of(home: Home) -> Path:
    """Returns where the control room keeps what it derives of a home; it may be deleted."""
    return home.root / "room"


def write(path: Path, value: msgspec.Struct) -> None:
    """Keeps a value as JSON, in place of what the file held."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_suffix(".draft")
    draft.write_bytes(msgspec.json.encode(value))
    draft.chmod(0o600)
    draft.replace(path)


def read(path: Path, kind: type[_T]) -> _T | None:
    """Returns what a file holds; None where it is not there, or holds something else."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError):
        return None
