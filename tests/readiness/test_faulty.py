"""The faults that can be planted do what they say, in the process that plants them and nowhere else."""

from __future__ import annotations

import resource
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from decalog import committing, judging, serving
from decalog.host import Host
from decalog.http import lever_routes
from decalog.readiness import faulty
from decalog.serving import Service
from decalog.stores.sqlite import Writer

PATCHED: tuple[tuple[object, str], ...] = (
    *((judging, "timed"), (serving, "timed"), (Service, "_featurise"), (Service, "adopt"), (lever_routes, "roll")),
    *((Host, "_until_durable"), (committing, "_PACE_S"), (committing, "_MOST_S"), (Writer, "_write")),
)


@pytest.fixture(autouse=True)
def _mended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts back what a test plants."""
    for owner, name in PATCHED:
        monkeypatch.setattr(owner, name, getattr(owner, name))


def test_a_store_is_down_from_the_moment_on_at_which_the_flag_is_there(tmp_path: Path) -> None:
    written: list[object] = []
    Writer._write = lambda self, inserts: written.append(inserts)  # type: ignore[method-assign]
    faulty.down(str(tmp_path / "down"))
    writer: Any = type("Any", (), {"failed": False})()
    Writer._write(writer, ["one"])  # type: ignore[list-item]
    (tmp_path / "down").touch()
    with pytest.raises(sqlite3.OperationalError, match="the store is down"):
        Writer._write(writer, ["two"])  # type: ignore[list-item]
    assert written == [["one"]]
    assert writer.failed


def test_a_full_disk_is_the_kernels_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    monkeypatch.setattr(resource, "setrlimit", lambda *limits: told.append(limits))
    faulty.full("4096")
    assert told == [(resource.RLIMIT_FSIZE, (4_096, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))]


@pytest.mark.parametrize("name", sorted(set(faulty.FAULTS) - {"full", "down"}))
def test_each_other_fault_changes_what_it_is_planted_in(name: str) -> None:
    before = [getattr(owner, attribute) for owner, attribute in PATCHED]
    faulty.FAULTS[name]("0.001")
    assert [getattr(owner, attribute) for owner, attribute in PATCHED] != before
