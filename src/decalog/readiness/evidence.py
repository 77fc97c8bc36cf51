"""What was measured, as it is kept: HOME/readiness/SYSTEM.json, with time, log position and versions of each result.

Evidence grows stale by age, by a change of what decides, and by a log that has doubled since.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from decalog.clock import DAY
from decalog.errors import DataError
from decalog.readiness.checks import Result
from decalog.readiness.slo import Slo

FOLDER = "readiness"
_DOUBLED = 2
_KEPT = ("model", "policy", "features", "code")


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a system.

    Args:
        system: its name.
        results: check → the last that was measured.
    """

    system: str
    results: dict[str, Result] = {}

    def with_(self, results: Iterable[Result]) -> Evidence:
        """Returns it with newer results in the place of older ones."""
        return msgspec.structs.replace(self, results=self.results | {result.name: result for result in results})


def read(home: Path, system: str) -> Evidence:
    """Returns what is kept; nothing where nothing is.

    Raises:
        DataError: the file is damaged.
    """
    path = _path(home, system)
    if not path.is_file():
        return Evidence(system=system)
    try:
        return msgspec.json.decode(path.read_bytes(), type=Evidence)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(
            where=f"{FOLDER}/{path.name}",
            given=f"a file that is no evidence ({error})",
            expected="what `decalog check` wrote",
            fix="Delete it, and check again.",
        ) from None


def write(home: Path, evidence: Evidence) -> None:
    """Keeps it, whole or not at all.

    Raises:
        DataError: the file cannot be written.
    """
    path = _path(home, evidence.system)
    draft = path.with_suffix(f".{os.getpid()}.draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(evidence), indent=2) + b"\n")
        draft.replace(path)
    except OSError as error:
        raise DataError(
            where=f"{FOLDER}/{path.name}",
            given=f"a file that cannot be written ({error.strerror})",
            expected="a folder in the home",
            fix="See its permissions and the disk.",
        ) from None


def why_stale(result: Result, slo: Slo, *, now_us: int, position: int, versions: dict[str, str]) -> str:
    """Returns why a result says nothing of today, or ""."""
    days = (now_us - result.at_us) / DAY
    if days > slo.evidence_days:
        return f"{days:.0f} days old, more than {slo.evidence_days:g}"
    changed = [name for name in _KEPT if result.versions.get(name) != versions.get(name)]
    if changed:
        return f"another {changed[0]} decides now"
    return "the log has doubled since" if position >= _DOUBLED * max(1, result.position) else ""


def _path(home: Path, system: str) -> Path:
    return home / FOLDER / f"{system}.json"
