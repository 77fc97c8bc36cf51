"""The faults that can be planted do what they say, in the process that plants them and nowhere else."""

from __future__ import annotations

import resource
import sqlite3
import time
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
    *((judging, "timed"), (serving, "timed"), (Service, "adopt"), (lever_routes, "roll"), (Host, "_until_durable")),
    *((committing, "_PACE_S"), (committing, "_MOST_S"), (Writer, "_write")),
)

ONLINE: Any = serving
"""Its namespace holds `timed`, as an import."""


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


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What is timed as it would be without a fault."""
    told: list[tuple[str, int]] = []
    monkeypatch.setattr(judging, "timed", lambda _draft, stage, *, since_ns: told.append((stage, since_ns)))
    return told


def of_three_records() -> Any:
    return type("Draft", (), {"state_seq": 3})()


def test_a_slow_stage_takes_longer_and_no_other_does(
    stages: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    faulty.FAULTS["slow model"]("0.25")
    ONLINE.timed(of_three_records(), "features", since_ns=7)
    assert slept == []
    judging.timed(of_three_records(), "model", since_ns=8)
    assert slept == [0.25]
    assert stages == [("features", 7), ("model", 8)]


def test_what_grows_takes_cpu_for_each_record(stages: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 11.0, 11.25, 11.5, 12.0])
    monkeypatch.setattr(time, "process_time", lambda: next(clock))
    faulty.FAULTS["grows"]("0.5")
    ONLINE.timed(of_three_records(), "model", since_ns=7)
    ONLINE.timed(of_three_records(), "features", since_ns=8)
    assert list(clock) == [12.0]  # 1.5 s of it for three records
    assert stages == [("model", 7), ("features", 8)]


def test_a_swap_that_stalls_holds_up_what_adopts(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[object] = []
    monkeypatch.setattr(Service, "adopt", lambda _self, serving: done.append(serving))
    monkeypatch.setattr(time, "sleep", done.append)
    faulty.FAULTS["stalls at a swap"]("0.5")
    service: Any = object()
    Service.adopt(service, "another")  # type: ignore[arg-type]
    assert done == [0.5, "another"]


@pytest.mark.parametrize("name", sorted(set(faulty.FAULTS) - {"full", "down"}))
def test_each_other_fault_changes_what_it_is_planted_in(name: str) -> None:
    before = [getattr(owner, attribute) for owner, attribute in PATCHED]
    faulty.FAULTS[name]("0.001")
    assert [getattr(owner, attribute) for owner, attribute in PATCHED] != before
