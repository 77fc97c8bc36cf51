"""Law 12: after a crash at any moment, every acknowledged decision and outcome is in the log once.

The portable part, which runs on every system and file system: writers killed with SIGKILL, and copies of the files with
what was not acknowledged torn off at arbitrary bytes. Images of only what was synced need a tracing shim and lie in
`bench/faults`.
"""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from decalog.decisions import Decision, decode_decision
from decalog.errors import DecalogError
from decalog.home import Home
from decalog.log import verify_chain
from decalog.stores.sqlite import connect
from decalog.system import System
from decalog.testing import traffic
from decalog.testing.laws.law import Verdict, proven
from decalog.testing.stage import Stage, Step, Trial

_REQUESTS = 60
_GROUP = 4
"""Steps between two commits."""
_IMAGES = 16
_KILLS = 1
_WAIT_S = 120
_FILES = ("log/0.sqlite", "vault.sqlite")

Told = Mapping[str, tuple[str, str]]
"""Step key (door and id) → (the decision's id, its action and slots), both "" for a row: what a caller was told."""


def check(trial: Trial) -> Verdict:
    """Returns whether what was told is there once, in torn copies and after a kill, and whether a lie is noticed."""
    small = msgspec.structs.replace(trial, requests=min(trial.requests, _REQUESTS))
    steps = _steps(small)
    moments = _moments(small, steps)
    rng = np.random.default_rng(trial.seed)
    breaches: list[str] = []
    for number in range(_IMAGES):
        image = _torn(small, moments, number, rng)
        breaches += _breaches(small, steps, image.told, home=image.home)
    for number in range(_KILLS):
        home, told = _killed(small, after=(number + 1) * len(steps) // (_KILLS + 1), number=number)
        breaches += _breaches(small, steps, told, home=home)
    lie = _breaches(small, steps, moments[-1].told, home=_torn(small, moments, _IMAGES, rng).home)
    return proven(_IMAGES + _KILLS, breaches, sabotages={"acknowledged before it was durable": lie})


class _Moment(msgspec.Struct, frozen=True):
    """What had been told, and how long each write-ahead log was, when a group had just become durable."""

    told: Told
    lengths: Mapping[str, int]


class _Image(msgspec.Struct, frozen=True):
    """A home as a crash left it, and what had been told by then."""

    home: Home
    told: Told


def _steps(trial: Trial) -> list[Step]:
    requests = [*traffic.history(trial), *traffic.live(trial)]
    targets = [step for step in requests if step.door == "decide"]
    reports = [step for step in traffic.reports(trial, targets[:10]) if "corrects" not in step.body]
    return sorted((*requests, *reports), key=lambda step: step.at_us)


def _key(step: Step) -> str:
    return f"{'outcome' if step.door == 'outcome' else 'request'} {step.body['id']}"


def _send(stage: Stage, step: Step) -> dict[str, tuple[str, str]]:
    """Returns what the sender will be told of a step once it is durable; nothing where the row was refused."""
    made = len(stage.decided)
    result = stage.send(step)
    if result is not None:
        return {_key(step): ("", "")} if result.status == "accepted" else {}
    decided = stage.decided[made:]
    return {_key(step): (decided[0].id, _answered(decided[0]))} if decided else {}


def _answered(decision: Decision) -> str:
    """Returns what a caller is told to do, in words: the action, and what stands in the slots."""
    return " ".join((decision.choice.action, *decision.choice.contents))


def _moments(trial: Trial, steps: Sequence[Step]) -> list[_Moment]:
    """Plays all steps into one home and returns each moment at which a group had become durable.

    Nothing is checkpointed and nothing closed: the write-ahead logs hold everything, in the order of writing.
    """
    stage = Stage(trial, "crashes")
    moments, told = [], dict[str, tuple[str, str]]()
    with closing(stage), _looked_at(root := stage.home.root):
        for number, step in enumerate(steps):
            told |= _send(stage, step)
            if number % _GROUP == 0:
                stage.log.commit()
                moments.append(_Moment(dict(told), {name: _wal(root, name).stat().st_size for name in _FILES}))
        shutil.copytree(root, trial.folder / "crashes-copy")
    return moments


@contextmanager
def _looked_at(root: Path) -> Iterator[None]:
    """Reads in a home's files all the while: what is written meanwhile is not moved out of the write-ahead logs."""
    with ExitStack() as readers:
        for name in _FILES:
            reader = readers.enter_context(closing(connect(root / name, writer=False)))
            reader.executescript("BEGIN; SELECT * FROM sqlite_master")
        yield


def _wal(root: Path, name: str) -> Path:
    return root / f"{name}-wal"


def _torn(trial: Trial, moments: Sequence[_Moment], number: int, rng: np.random.Generator) -> _Image:
    """Returns a home whose files end between two moments: what was told by the first is whole, the rest is torn."""
    place = int(rng.integers(0, len(moments) - 1))
    root = trial.folder / f"crashes-{number}"
    shutil.copytree(trial.folder / "crashes-copy", root)
    for name in _FILES:
        whole, most = moments[place].lengths[name], moments[place + 1].lengths[name]
        _tear(_wal(root, name), whole, most, rng)
        _wal(root, name).with_name(f"{Path(name).name}-shm").unlink(missing_ok=True)
    return _Image(Home(root), moments[place].told)


def _tear(path: Path, whole: int, most: int, rng: np.random.Generator) -> None:
    """Cuts a file at an arbitrary byte from `whole` to `most`, and spoils some of what stands behind `whole`."""
    end = int(rng.integers(whole, most + 1))
    data = bytearray(path.read_bytes()[:end])
    if end > whole and rng.random() < 1 / 2:
        first = int(rng.integers(whole, end))
        data[first : first + 512] = rng.bytes(len(data[first : first + 512]))
    path.write_bytes(data)


def _breaches(trial: Trial, steps: Sequence[Step], told: Told, *, home: Home) -> list[str]:
    """Returns what is wrong after recovery: told and lost, told otherwise, doubled, or a retry that is not known."""
    try:
        stage = Stage(trial, home.root.name)
    except DecalogError as error:
        return [f"{home.root.name}: cannot be opened: {error}"]
    try:
        verify_chain(stage.log.store.read(0))
        lost = list(_lost(stage, told))
        if not lost:
            # Whoever got no answer sends again, and so does a nervous client who got one.
            stage.play(steps)
            lost = list(_lost(stage, told)) + list(_doubled(stage))
        return [f"{home.root.name}: {what}" for what in lost]
    except DecalogError as error:
        return [f"{home.root.name}: {error}"]
    finally:
        stage.close()


def _lost(stage: Stage, told: Told) -> Iterator[str]:
    for key, (decision_id, answer) in told.items():
        space, _, id_ = key.partition(" ")
        seqs = stage.log.find(space, f"{stage.system.name}/{id_}")
        if len(seqs) != 1:
            yield f"{key} was acknowledged and stands {len(seqs)} times in the log"
            continue
        record = stage.log.get(seqs[0])
        if decision_id:
            decision = decode_decision(record.body)
            if (decision.id, _answered(decision)) != (decision_id, answer):
                yield f"{key} was told otherwise than it stands in the log"


def _doubled(stage: Stage) -> Iterator[str]:
    seen: set[str] = set()
    for record in stage.records():
        key = f"{'outcome' if record.kind == 'outcome' else 'request'} {record.id}"
        if record.kind in ("event", "decision", "outcome") and key in seen:
            yield f"{key} stands twice in the log"
        seen.add(key)


def _killed(trial: Trial, *, after: int, number: int) -> tuple[Home, Told]:
    """Returns the home of a writer that was killed while it wrote, and what it had told by then."""
    # Spawned, not forked: a copy of this process's threads and locks would be another program than a server.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    bare = msgspec.structs.replace(trial, system=_bare(trial.system))
    writer = context.Process(target=_write, args=(bare, f"crashes-killed-{number}", theirs), daemon=True)
    writer.start()
    theirs.close()
    told: dict[str, tuple[str, str]] = {}
    try:
        while len(told) < after and ours.poll(_WAIT_S):
            told |= ours.recv()
    except EOFError:
        told["request of a writer that ended by itself; does a script call this without `if __name__`?"] = ("", "")
    finally:
        writer.kill()
        writer.join()
        # What it said before it died was said: a pipe keeps it.
        told |= _rest(ours)
        ours.close()
    return Home(trial.folder / f"crashes-killed-{number}"), told


def _rest(ours: Connection) -> dict[str, Any]:
    told: dict[str, Any] = {}
    try:
        while ours.poll(0):
            told |= ours.recv()
    except (EOFError, OSError):
        # The last message may be torn by the kill: its reader would not have been told either.
        return told
    return told


def _bare(system: System) -> System:
    """Returns the system without what a writer does not need and another process could not be handed."""
    kind = msgspec.structs.replace(system.models[-1], fit=_write)
    return msgspec.structs.replace(system, models=(kind,), metrics=(), monitors=())


def _write(trial: Trial, name: str, told: Connection) -> None:
    """Plays the trial's steps in groups and tells of each group when it is durable; runs until it is killed."""
    stage = Stage(trial, name)
    waiting: dict[str, tuple[str, str]] = {}
    for number, step in enumerate(_steps(trial)):
        waiting |= _send(stage, step)
        if number % _GROUP == 0:
            stage.log.commit()
            told.send(waiting)
            waiting = {}
    # Whoever started it kills it: an end by itself would close the files properly.
    told.recv()
