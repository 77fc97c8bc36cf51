"""What is checked: a home that is only ever read, and copies of it in a folder of their own beside it.

The first copy is a backup, taken as `decalog backup` takes it beside a running server. Whatever serves, decides,
trains, crashes or fills a disk does so on a copy of that copy; all are deleted at the end, and so is what an earlier
check that was killed left behind: they hold keys. In the copies no webhook has an endpoint, so that nobody outside is
told of what a check made up.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from decalog.backup import backup
from decalog.clock import ManualClock
from decalog.decisions import Decision, decode_decision
from decalog.deployment import Deployment, Setup
from decalog.errors import DataError, DecalogError
from decalog.events import Record
from decalog.home import Home
from decalog.http.webhooks import ENDPOINTS
from decalog.log import Log
from decalog.readiness.recorded import Recording
from decalog.readiness.slo import Slo
from decalog.registry import MANIFEST, Registry
from decalog.runtime import this_code
from decalog.serving import Service
from decalog.system import System, find_system
from decalog.tables import Tables
from decalog.testing.stage import FAR_MS, unhurried
from decalog.testing.worlds import Message

_ROOM = 4
"""Copies that there has to be room for, as a multiple of the home's size."""
_GROUP = 200


class Subject:
    """A system of a home, as it is checked.

    Args:
        home: of the deployment; its server may run. It is read, and never written.
        path: name or dotted path of the system.
        slo: what it promises.
        folder: of the copies.
        quick: whether less is done of everything.
        allowed: model classes of the user's own that may be imported.
        url, token: of the running server, where one is asked.
    """

    def __init__(
        self, home: Home, path: str, *, slo: Slo, folder: Path, quick: bool = False, allowed: tuple[str, ...] = ()
    ) -> None:
        self.home, self.path, self.slo, self.folder, self.quick = home, path, slo, folder, quick
        self.allowed = allowed
        self.url = self.token = ""
        self.system: System = find_system(path)
        self.kept: dict[Any, Any] = {}
        self._forks = 0

    @cached_property
    def master(self) -> Home:
        """The first copy: whole, verified, and telling nobody anything."""
        master = Home(self.folder / "master")
        backup(self.home.root, master.root)
        with closing(master.writer(ManualClock(0))) as log:
            tables = Tables(log)
            for name in {record.system for record in log.read() if (record.kind, record.id) == ("table", ENDPOINTS)}:
                tables.put(name, ENDPOINTS, content=[])
            log.commit()
        return master

    @cached_property
    def position(self) -> int:
        """Of the home's log: its number of records when it was looked at first."""
        with closing(self.home.reader()) as log:
            return log.position

    @property
    def seconds(self) -> float:
        """How long a load lasts."""
        return self.slo.seconds / 2 if self.quick else self.slo.seconds

    @cached_property
    def versions(self) -> dict[str, str]:
        """What decides in the home."""
        with closing(self.home.reader()) as log:
            deployment = Deployment(self.home, self.path, log).as_served()
            policy = Tables(log).stored(self.system.name, "policy").version
        model = deployment.registry.current(self.system.name) or ""
        features = deployment.system.features.version
        return {"model": model[:12], "policy": policy, "features": features, "code": this_code().sources[:12]}

    @contextmanager
    def reading(self) -> Iterator[tuple[Deployment, Recording]]:
        """Gives the deployment of the first copy, to be read, and what its log recorded."""
        with closing(self.master.reader()) as log:
            deployment = Deployment(self.master, self.path, log, Setup(allowed=self.allowed)).as_served()
            yield deployment, Recording(log, deployment.system)

    @contextmanager
    def fork(self, *, until: int | None = None) -> Iterator[Home]:
        """Gives a copy that may be spoilt; deleted afterwards.

        Args:
            until: the log's records before this position are in it; None for all.
        """
        self._forks += 1
        fork = Home(self.folder / f"fork-{self._forks}")
        try:
            shutil.copytree(self.master.root, fork.root)
            if until is not None:
                _cut(fork.log, until)
            yield fork
        finally:
            shutil.rmtree(fork.root, ignore_errors=True)

    def fact(self, key: Any, measure: Any) -> Any:
        """Returns what is measured once and looked at by several checks; what refused once is not tried again."""
        if key not in self.kept:
            try:
                self.kept[key] = measure()
            except DecalogError as error:
                self.kept[key] = error
        found = self.kept[key]
        if isinstance(found, DecalogError):
            raise found
        return found


def _cut(log: Path, position: int) -> None:
    with closing(sqlite3.connect(log)) as write:
        for table in ("records", "keys"):
            write.execute(f"DELETE FROM {table} WHERE seq >= ?", (position,))  # noqa: S608 - names of our own
        write.commit()


@contextmanager
def scratch(home: Home) -> Iterator[Path]:
    """Gives a folder beside a home, on its disk, for its owner alone; removed at the end.

    Raises:
        DataError: the disk has too little room for copies.
    """
    root = home.root.absolute()
    prefix = f".{root.name}.check-"
    for left in root.parent.glob(f"{prefix}*"):
        if not _runs(left.name.removeprefix(prefix)):
            shutil.rmtree(left, ignore_errors=True)
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    free = shutil.disk_usage(root.parent).free
    if free < _ROOM * size:
        raise DataError(
            where=f"check of {home.root.name}",
            given=f"{free / 2**20:,.0f} MiB free beside a home of {size / 2**20:,.0f}",
            expected=f"{_ROOM} times its size, for copies that are deleted at the end",
            fix="Make room, or check a restored backup on another machine.",
        )
    folder = root.parent / f"{prefix}{os.getpid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _runs(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True


class Rehearsal:
    """A service in this process on a copy, its clock set by hand, without a deadline: bits and money are asked for.

    Args:
        subject: whose copy.
        home: a fork.
        change: spoils the service, to seed a fault.
    """

    def __init__(self, subject: Subject, home: Home, change: Any = None) -> None:
        system = msgspec.structs.replace(subject.system, deadline_ms=FAR_MS)
        self.clock = ManualClock(0)
        self.log: Log = home.writer(self.clock)
        self.clock.set(self.log.known_time)
        self.deployment = Deployment(home, system, self.log, Setup(allowed=subject.allowed)).as_served()
        self.service: Service = unhurried(self.deployment.service())
        if change is not None:
            change(self.service)
        self.begun = self.log.known_time

    def play(self, messages: Sequence[Message]) -> list[Decision]:
        """Brings messages to their doors at their pace, those of the past later; returns what was decided."""
        shift, decided = max(0, self.log.known_time - messages[0].at), list[Decision]()
        for number, message in enumerate(messages):
            self.clock.set(message.at + shift)
            if message.kind == "decide":
                decided.append(self.service.decide(msgspec.json.encode(message.body))[1])
            else:
                self.service.ingest.admit(message.kind, message.body)
            if number % _GROUP == 0:
                self.log.commit()
        self.log.commit()
        return decided


@contextmanager
def rehearsed(subject: Subject, home: Home, *, change: Any = None) -> Iterator[Rehearsal]:
    """Gives a rehearsal on a fork, its log closed afterwards."""
    made = Rehearsal(subject, home, change)
    with closing(made.log):
        yield made


def twin_of(home: Home, system: str) -> str:
    """Registers the champion of a copy once more under another id, and returns that.

    Raises:
        DataError: there is no champion.
    """
    registry = Registry(home.root)
    current = registry.current(system)
    if current is None:
        raise DataError(
            where=f"champion of {system}",
            given="none",
            expected="a model that decides",
            fix=f"`decalog train {system}` makes one.",
        )
    artefact = registry.get(current)
    parameters = {**artefact.manifest.parameters, "copied": "for a drill"}
    manifest = msgspec.structs.replace(artefact.manifest, parameters=parameters, files={})

    def write(folder: Path) -> dict[str, Any]:
        shutil.copytree(artefact.folder, folder, dirs_exist_ok=True)
        (folder / MANIFEST).unlink()
        return {}

    return registry.put(manifest, write)


def decisions(log: Log, system: str, *, start: int = 0) -> Iterator[tuple[Record, Decision]]:
    """Yields the decisions of a system that were made here, from a position on."""
    for record in log.read(start):
        if record.kind == "decision" and record.system == system:
            decision = decode_decision(record.body)
            if decision.mode != "imported":
                yield record, decision
