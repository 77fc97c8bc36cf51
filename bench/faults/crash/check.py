"""Runs the workload under the shim, makes crash images of it, and asks production code what it finds in each."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
from bench.faults.crash.images import Change, Disk, read_trace
from bench.faults.crash.workload import SYSTEM, Ack, Plan

from decalog.clock import ManualClock
from decalog.crypto import unseal
from decalog.errors import LogError
from decalog.events import Record, decode_event
from decalog.log import Draft, Log, checked, own_keys
from decalog.stores.sqlite import SqliteLogStore
from decalog.stores.vault import SqliteVault

_HERE = Path(__file__).resolve().parent
_ack = msgspec.json.Decoder(Ack).decode


class Found(msgspec.Struct, frozen=True):
    """What production code found in one image.

    Args:
        told: records acknowledged before the crash.
        lost, doubled: of those, how many are not there as told, or there more than once.
        broken: what is wrong with the log itself, or "".
    """

    told: int
    lost: int = 0
    doubled: int = 0
    broken: str = ""

    @property
    def bad(self) -> bool:
        """Whether a promise of the log is broken."""
        return bool(self.lost or self.doubled or self.broken)


def build_shim(folder: Path) -> Path | None:
    """Compiles the tracing shim into a folder; None where there is no gcc or the system is not Linux."""
    compiler = shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        return None
    shim = folder / "trace_shim.so"
    source = _HERE / "trace_shim.c"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(shim), str(source), "-ldl", "-lpthread"]
    subprocess.run(command, check=True)
    return shim


def traced(shim: Path, folder: Path, plan: Plan, faults: Mapping[str, str] | None = None) -> tuple[int, list[Change]]:
    """Runs the workload with its files below `folder`/root; returns its exit status and every change it made."""
    root, trace = folder / "root", folder / "trace"
    root.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(_HERE.parents[2]), *sys.path))}
    environment |= {"LD_PRELOAD": str(shim), "DECALOG_TRACE_ROOT": str(root), "DECALOG_TRACE": str(trace)}
    command = [sys.executable, str(_HERE / "workload.py"), str(root), msgspec.json.encode(plan).decode()]
    status = subprocess.run(command, env=environment | dict(faults or {}), check=False, timeout=600).returncode
    return status, list(read_trace(trace.read_bytes()))


def crash_points(changes: Sequence[Change], count: int, rng: random.Random) -> list[int]:
    """Returns how many changes happen before each crash: half at random, half right after an acknowledgement."""
    handles = {c.handle for c in changes if c.what == "O" and c.path.endswith("/acks")}
    told = [i + 1 for i, c in enumerate(changes) if c.what == "W" and c.handle in handles]
    points = [rng.choice(told) if told and n % 2 else rng.randint(1, len(changes)) for n in range(count)]
    return sorted(points)


def images(changes: Sequence[Change], root: Path, points: Iterable[int], rng: random.Random) -> Iterable[Found]:
    """Yields what is found after a crash at each point; images are made in, and removed from, `root`/../image."""
    disk, done = Disk(str(root)), 0
    image = root.parent / "image"
    for point in points:
        for change in changes[done:point]:
            disk.take(change)
        done = point
        told = [_ack(line) for line in disk.told("acks").splitlines()]
        disk.crash(image, rng)
        yield examine(image / "home", told)
        shutil.rmtree(image)


def examine(home: Path, told: Sequence[Ack]) -> Found:
    """Opens a home as the writer does after a crash, and checks every promise of the log."""
    if not (home / "log" / "0.sqlite").exists() and not told:
        return Found(0)
    try:
        store = SqliteLogStore(home / "log" / "0.sqlite", writer=True)
        try:
            return _examine(store, home, told)
        finally:
            store.close()
    except LogError as error:
        return Found(len(told), lost=len(told), broken=str(error))


def _examine(store: SqliteLogStore, home: Path, told: Sequence[Ack]) -> Found:
    vault = SqliteVault(home / "vault.sqlite", writer=True)
    try:
        records = [record for _, record in checked(store.read(0))]
        times = Counter(record.id for record in records)
        lost = sum(not _as_told(ack, records, store, vault) for ack in told)
        doubled = sum(times[ack.id] > 1 for ack in told)
        broken = next((why for why in (_misplaced(r, store) for r in records) if why), "")
        return Found(len(told), lost, doubled, broken or _unusable(store, vault, len(records)))
    finally:
        vault.close()


def _as_told(ack: Ack, records: Sequence[Record], store: SqliteLogStore, vault: SqliteVault) -> bool:
    if store.find("request", f"{SYSTEM}/{ack.id}") != [ack.seq] or ack.seq >= len(records):
        return False
    record = records[ack.seq]
    event = decode_event(record.body)
    cipher = vault.cipher(event.subject)
    if (record.digest, event.subject, vault.find("card", ack.card)) != (ack.digest, ack.token, ack.token):
        return False
    try:
        return cipher is not None and unseal(cipher, event.sealed, bound_to=record.id) == {"note": ack.note}
    except LogError:
        return False


def _misplaced(record: Record, store: SqliteLogStore) -> str:
    for index, key in own_keys(record):
        if store.find(index, key) != [record.seq]:
            return f"index {index} does not lead to record {record.seq}"
    return ""


def _unusable(store: SqliteLogStore, vault: SqliteVault, count: int) -> str:
    log = Log(store, vault, ManualClock())
    log.stamp(Draft(kind="event", system=SYSTEM, id="after", digest=b"", event_time=None, body=b""))
    return "" if log.commit() == count + 1 else "the recovered log takes no new record"
