"""A reduced `bench/faults/spine_crash.py`: conformance 12 of the design. Power fails, syncs fail, the disk fills."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from bench.faults.crash.check import build_shim, crash_points, images, traced
from bench.faults.crash.images import Change, Disk, read_trace
from bench.faults.spine_crash import HONEST, Row, run_fault, run_images, run_killed, went_on


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled tracing shim."""
    found = build_shim(tmp_path_factory.mktemp("shim"))
    if found is None:
        pytest.skip("crash images need Linux and gcc")
    return found


@pytest.mark.parametrize("number", range(len(HONEST)))
def test_nothing_acknowledged_is_lost_or_doubled_when_power_fails(shim: Path, number: int) -> None:
    name, plan = HONEST[number]
    row = run_images(shim, name, msgspec.structs.replace(plan, records=60), 12)
    assert (row.wrong, row.lost_or_doubled) == ("", 0)
    assert len(row.found) == 12
    assert sum(found.told for found in row.found) > 100


def test_what_a_killed_writer_left_is_durable_before_a_retry_is_told(shim: Path) -> None:
    rows = [run_killed(shim, sync, 4) for sync in (4, 22)]
    assert [(row.wrong, row.lost_or_doubled) for row in rows] == [("", 0), ("", 0)]


@pytest.mark.parametrize("variable", [("DECALOG_FAIL_SYNC", "20"), ("DECALOG_FULL_AFTER", "100000")])
@pytest.mark.parametrize("path", ["0.sqlite", "vault.sqlite"])
def test_a_failed_sync_or_a_full_disk_stops_the_writer_for_good(
    shim: Path, path: str, variable: tuple[str, str]
) -> None:
    row = run_fault(shim, "fault", {"DECALOG_FAIL_PATH": path, variable[0]: variable[1]}, 2)
    assert (row.wrong, row.lost_or_doubled) == ("", 0)
    assert row.found[0].told > 0


@pytest.mark.parametrize("sabotage", ["log_sync", "vault_sync", "early_reply"])
def test_a_writer_that_lies_about_durability_is_caught(shim: Path, sabotage: str) -> None:
    plan = msgspec.structs.replace(HONEST[1][1], records=50, sabotage=sabotage, restarts=1)
    assert run_images(shim, sabotage, plan, 12).lost_or_doubled > 0


def test_the_whole_trace_without_a_crash_is_the_live_folder(shim: Path, tmp_path: Path) -> None:
    status, changes = traced(shim, tmp_path, msgspec.structs.replace(HONEST[2][1], records=40))
    assert status == 0
    rng = random.Random(1)
    last = [found for found in images(changes, tmp_path / "root", [len(changes)] * 8, rng) if not found.bad]
    assert [found.told for found in last] == [40] * 8
    assert crash_points(changes, 10, rng)[-1] <= len(changes)


def write(handle: int, offset: int, data: bytes) -> Change:
    return Change("W", handle, offset, data)


@pytest.fixture
def disk() -> Disk:
    """A disk with one durable file `a` of 1,024 bytes, and handle 1 on it."""
    made = Disk("/r")
    for change in (Change("O", 9, 0, path="/r"), Change("O", 1, 1, path="/r/a"), write(1, 0, b"o" * 1_024)):
        made.take(change)
    made.take(Change("S", 1))
    made.take(Change("S", 9))
    return made


def crashes(disk: Disk, tmp_path: Path, count: int = 60) -> Iterator[dict[str, bytes]]:
    for number in range(count):
        disk.crash(tmp_path / str(number), random.Random(number))
        yield {path.name: path.read_bytes() for path in (tmp_path / str(number)).iterdir()}


def test_what_was_synced_is_always_found(disk: Disk, tmp_path: Path) -> None:
    assert all(found == {"a": b"o" * 1_024} for found in crashes(disk, tmp_path))


def test_unsynced_sectors_survive_or_not_each_for_itself(disk: Disk, tmp_path: Path) -> None:
    disk.take(write(1, 256, b"n" * 512))
    found = {content["a"] for content in crashes(disk, tmp_path)}
    o, n = b"o" * 256, b"n" * 256
    assert found == {o + o + o + o, o + n + o + o, o + o + n + o, o + n + n + o}


def test_a_sector_holds_one_moment(disk: Disk, tmp_path: Path) -> None:
    disk.take(write(1, 0, b"1" * 512))
    disk.take(write(1, 0, b"2" * 256))
    found = {content["a"][:512] for content in crashes(disk, tmp_path)}
    assert found == {b"o" * 512, b"1" * 512, b"2" * 256 + b"1" * 256}


def test_names_need_a_sync_of_their_folder(disk: Disk, tmp_path: Path) -> None:
    disk.take(Change("O", 2, 1, path="/r/b"))
    disk.take(Change("S", 2))
    disk.take(Change("U", path="/r/a"))
    assert {frozenset(content) for content in crashes(disk, tmp_path)} == {
        frozenset(("a",)),
        frozenset(("a", "b")),
        frozenset(("b",)),
    }
    disk.take(Change("S", 9))
    assert {frozenset(content) for content in crashes(disk, tmp_path / "after")} == {frozenset(("b",))}


def test_a_cut_and_a_rename_happen_or_not(disk: Disk, tmp_path: Path) -> None:
    disk.take(Change("T", 1, 100))
    disk.take(Change("R", path="/r/a", target="/r/b"))
    found = {(name, len(content)) for one in crashes(disk, tmp_path) for name, content in one.items()}
    assert found == {("a", 100), ("a", 1_024), ("b", 100), ("b", 1_024)}


def test_a_trace_is_read_as_it_was_written() -> None:
    trace = b"M /r/d\nO 1 1 /r/d/a b\nW 1 5 3\nx\nyT 1 4\nS 1\nE 1\nN 1\nR 9\n/r/a\0/r/bU /r/b\nW 1 0 10\ncut"
    assert list(read_trace(trace)) == [
        Change("M", path="/r/d"),
        Change("O", 1, 1, path="/r/d/a b"),
        Change("W", 1, 5, b"x\ny"),
        Change("T", 1, 4),
        Change("S", 1),
        Change("E", 1),
        Change("N", 1),
        Change("R", path="/r/a", target="/r/b"),
        Change("U", path="/r/b"),
    ]


def test_a_writer_that_goes_on_after_a_failure_is_named() -> None:
    opened = [Change("O", 1, 1, path="/r/0.sqlite-wal"), Change("O", 2, 1, path="/r/0.sqlite"), Change("E", 1)]
    assert went_on(opened) == ""
    assert went_on([*opened, write(2, 0, b"x")]) == "after its failure 0.sqlite was written again"
    assert went_on([*opened, Change("S", 1)]) == "after its failure 0.sqlite was synced again"


def test_a_row_without_images_but_with_an_error_counts() -> None:
    assert Row("x", [], wrong="the writer ended with status 1").lost_or_doubled == 1
