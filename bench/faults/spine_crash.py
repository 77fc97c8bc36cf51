"""Crashes: nothing acknowledged is lost or doubled, and a writer whose syncs are left out is caught.

    python bench/faults/spine_crash.py [--images 500] [--kills 10] [--json]

Power failures are simulated from a trace of every change of a real writer (`crash/trace_shim.c`): each image holds
what was synced plus an arbitrary part of what was not, and is opened by production code. The workload's clock jumps
back now and then. A live server is killed under load over HTTP; bytes of a log are flipped and have to be found by
`verify`. Keys: crashes (images and kills), lost_or_doubled (acknowledged records over all of them, and flips that were
not found), sabotage_detected (whether every planted fault was caught).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.faults.crash.check import Found, build_shim, crash_points, images, traced
from bench.faults.crash.images import Change
from bench.faults.crash.kills import kill_servers
from bench.faults.crash.workload import Plan, run

from decalog.verification import verify

HONEST = (
    ("long WAL, two runs", Plan(records=150, seed=1, restarts=2)),
    ("checkpoint every 6 pages", Plan(records=150, seed=2, checkpoint_pages=6, restarts=3)),
    ("checkpoint every 30 pages", Plan(records=200, seed=3, checkpoint_pages=30, restarts=4)),
)
SABOTAGE = tuple(
    (f"planted: {name}", Plan(records=80, seed=4, checkpoint_pages=20, sabotage=name))
    for name in ("log_sync", "vault_sync", "early_reply")
)
FAULTS = tuple(
    (f"{what} on {path}, at {when}", {"DECALOG_FAIL_PATH": path, variable: str(when)})
    for path in ("0.sqlite", "vault.sqlite")
    for what, variable, times in (
        ("failed sync", "DECALOG_FAIL_SYNC", (6, 20, 30)),
        ("disk full", "DECALOG_FULL_AFTER", (40_000, 100_000, 133_333)),
    )
    for when in times
)
KILLS = (4, 9, 15, 22, 27)
_UNAVAILABLE = 3
_KILLED = -9


class Row:
    """What came of one kind of crash."""

    def __init__(self, name: str, found: Iterable[Found], *, wrong: str = "") -> None:
        self.name = name
        self.found = list(found)
        self.wrong = wrong or next((f.broken for f in self.found if f.broken), "")

    @property
    def lost_or_doubled(self) -> int:
        """Acknowledged records that are not there once; a broken log counts as one at least."""
        return sum(max(f.lost + f.doubled, int(f.bad)) for f in self.found) + bool(self.wrong and not self.found)

    def text(self) -> str:
        """Returns a line of the table."""
        told = sum(f.told for f in self.found)
        lost, doubled = sum(f.lost for f in self.found), sum(f.doubled for f in self.found)
        bad = sum(f.bad for f in self.found)
        return f"{self.name:42}{len(self.found):>8}{told:>10}{lost:>8}{doubled:>9}{bad:>8}  {self.wrong[:100]}"


HEADER = f"{'crash':42}{'images':>8}{'told':>10}{'lost':>8}{'doubled':>9}{'bad':>8}"


def run_images(shim: Path, name: str, plan: Plan, count: int) -> Row:
    """Traces one workload and examines `count` images of it."""
    rng = random.Random(plan.seed)
    with tempfile.TemporaryDirectory(dir=fast()) as folder:
        status, changes = traced(shim, Path(folder), plan)
        wrong = f"the writer ended with status {status}" if status else ""
        points = crash_points(changes, count, rng)
        return Row(name, images(changes, Path(folder) / "root", points, rng), wrong=wrong)


def run_killed(shim: Path, sync: int, count: int) -> Row:
    """Kills a writer, lets another go on and answer retries from the log, then takes the power away as well."""
    rng = random.Random(sync)
    kill = {"DECALOG_FAIL_PATH": "0.sqlite-wal", "DECALOG_KILL_AT": str(sync)}
    with tempfile.TemporaryDirectory(dir=fast()) as folder:
        root = Path(folder)
        killed, before = traced(shim, root, Plan(records=150, seed=sync, checkpoint_pages=30), kill)
        status, after = traced(shim, root, Plan(records=150, seed=sync, checkpoint_pages=30, resume=True))
        wrong = "" if (killed, status) == (_KILLED, 0) else f"the writers ended with status {killed} and {status}"
        points = [len(before) + point for point in crash_points(after, count, rng)]
        found = images(before + after, root / "root", points, rng)
        return Row(f"killed before sync {sync}, then power off", found, wrong=wrong)


def run_flips(count: int) -> Row:
    """Flips one byte of a log's file at a time: `verify` has to say so, unless no record and no key changed."""
    rng = random.Random(0)
    found = []
    with tempfile.TemporaryDirectory(dir=fast()) as folder:
        status = asyncio.run(run(Path(folder), Plan(records=100, seed=6)))
        home = Path(folder) / "home"
        path = home / "log" / "0.sqlite"
        content, sound = path.read_bytes(), verify(home)
        for _ in range(count):
            place, flip = rng.randrange(len(content)), rng.randint(1, 255)
            path.write_bytes(content[:place] + bytes([content[place] ^ flip]) + content[place + 1 :])
            seen = verify(home)
            missed = seen.sound and (seen.position, seen.hash) != (sound.position, sound.hash)
            found.append(Found(sound.position, lost=int(missed)))
    return Row("flipped byte, verified", found, wrong="" if sound.sound and not status else sound.text())


def run_kills(count: int) -> Row:
    """Kills a live server under load."""
    with tempfile.TemporaryDirectory() as folder:
        came = kill_servers(Path(folder) / "home", count)
    told = came.decisions + came.outcomes
    found = [Found(told, came.lost, came.doubled), *(Found(0) for _ in range(came.kills - 1))]
    return Row("kill -9 of a live server under load", found, wrong=came.wrong)


def fast() -> str | None:
    """Returns a folder in memory where there is one: the shim knows what a disk would have kept."""
    memory = "/dev/shm"  # noqa: S108  # names in it are made by tempfile
    return memory if os.access(memory, os.W_OK) else None


def run_fault(shim: Path, name: str, fault: dict[str, str], count: int) -> Row:
    """Lets a sync or a write fail once: the writer must stop for good, and a crash then must lose nothing told."""
    rng = random.Random(0)
    with tempfile.TemporaryDirectory(dir=fast()) as folder:
        plan = Plan(records=200, seed=5, checkpoint_pages=30)
        status, changes = traced(shim, Path(folder), plan, fault)
        wrong = "" if status == _UNAVAILABLE else f"the writer ended with status {status}, not as unavailable"
        points = [len(changes)] * count
        found = list(images(changes, Path(folder) / "root", points, rng))
        # A writer that fails while it opens its files has told nothing, and ends.
        return Row(name, found, wrong=wrong or (went_on(changes) if found[0].told else ""))


def went_on(changes: Sequence[Change]) -> str:
    """Returns what a writer did to a file after that file failed, which must be nothing, or ""."""
    paths = {c.handle: c.path.removesuffix("-wal") for c in changes if c.what == "O"}
    failed: set[str] = set()
    for change in changes:
        path = paths.get(change.handle, "")
        if change.what in "EN":
            failed.add(path)
        elif change.what in "WS" and path in failed:
            return f"after its failure {Path(path).name} was {'written' if change.what == 'W' else 'synced'} again"
    return ""


def main() -> int:
    """Prints the table; exit status 1 where a promise is broken or a planted fault was not caught."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500, help="crash images of honest writers")
    parser.add_argument("--kills", type=int, default=10, help="kills of a live server")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=fast()) as folder:
        shim = build_shim(Path(folder))
        if shim is None:
            print("skipped: crash images need Linux and gcc")
            return 0
        print(HEADER, flush=True)
        honest, planted = [], []
        for name, plan in HONEST:
            honest.append(_told(run_images(shim, name, plan, -(-options.images // len(HONEST)))))
        honest += [_told(run_killed(shim, sync, 12)) for sync in KILLS]
        honest += [_told(run_fault(shim, name, fault, 3)) for name, fault in FAULTS]
        if options.kills:
            honest.append(_told(run_kills(options.kills)))
        for name, plan in SABOTAGE:
            planted.append(_told(run_images(shim, name, plan, 40)))
        flips = _told(run_flips(60))
    rows = [*honest, flips]
    lost = sum(row.lost_or_doubled for row in rows) + sum(bool(row.wrong) for row in rows)
    caught = all(row.lost_or_doubled for row in planted)
    if options.json:
        crashes = sum(len(row.found) for row in honest)
        print(json.dumps({"crashes": crashes, "lost_or_doubled": lost, "sabotage_detected": caught}))
    return 0 if caught and not lost else 1


def _told(row: Row) -> Row:
    print(row.text(), flush=True)
    return row


if __name__ == "__main__":
    sys.exit(main())
