"""Law 11: erasing a person removes them from state, indexes, pages and the next model, and the erasure is provable.

Whoever has the most records of a disorderly life is erased. Each search is made before too, when it has to find them.
"""

from __future__ import annotations

import asyncio
import gc
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import msgspec
import numpy as np

from decalog.deployment import retrieve_with, tell
from decalog.errors import DecalogError, UnknownRecordError
from decalog.features.online import OnlineState
from decalog.features.snapshot import write_snapshot
from decalog.folding import changes
from decalog.host import Host
from decalog.meter import Meter
from decalog.privacy.erasing import finish, parts
from decalog.privacy.pen import Pen
from decalog.privacy.scan import scan
from decalog.privacy.subjects import Survey, Told, survey
from decalog.standing import ERASURES
from decalog.system import load
from decalog.testing import traffic
from decalog.testing.laws.law import Verdict, proven
from decalog.testing.stage import Stage, Trial, history_of
from decalog.verification import verify

_REQUESTS = 120


def check(trial: Trial) -> Verdict:
    """Returns whether nothing of an erased person is left, and whether each search would have found them."""
    stage = Stage(msgspec.structs.replace(trial, requests=min(trial.requests, _REQUESTS)), "erasure")
    try:
        stage.play((*traffic.history(stage.trial), *traffic.live(stage.trial)))
        person = _whose(stage)
        if person is None:
            return proven(0, ["nobody is named in any request"], sabotages={})
        found = survey(stage.log, person, schemas=[stage.system.schema])
        before = _Search(stage, found).findings()
        _erase(stage, found)
        search = _Search(stage, found)
        after = search.findings()
        clean = scan(stage.home.root, found.values)
    finally:
        stage.close()
    after["files"] = [hit.text() for hit in clean.hits]
    after["chain"] = [one.said for one in verify(stage.home.root).checks if not one.sound]
    sabotages = {f"{name} of one who was not erased": told for name, told in before.items()}
    if found.values:  # of a subject that is public, such as an item in a store, nothing is sealed
        sabotages["a copy in the clear"] = _copied(stage.home.root, found.values)
    sabotages["an erasure that deletes records"] = _deleted(stage.home.log, found)
    breaches = [f"{name}: {one}" for name, told in after.items() for one in told]
    return proven(found.count, breaches, sabotages=sabotages)


def _whose(stage: Stage) -> int | None:
    """Returns the token of whoever asked for the most decisions."""
    counts = Counter(decision.request.subject for decision in stage.decided if decision.request.entities)
    return max(counts, key=counts.__getitem__, default=None)


def _erase(stage: Stage, found: Survey) -> None:
    log, service, name = stage.log, stage.service, stage.system.name
    pen = Pen(log, by="law 11", services={name: service})
    for part in parts(pen, found, models={}):
        pen.put(part.system, ERASURES, content=part.erasure)
    log.commit()
    finish(stage.home, pen)
    if service.retrieval is not None:
        made = load(stage.system.retrieval)()
        for record in log.read():
            tell(made, record, ingest=service.ingest)
        retrieve_with(service, made)


class _Search:
    """Looks for a person wherever a system keeps something of people."""

    def __init__(self, stage: Stage, found: Survey) -> None:
        self._stage, self._found = stage, found
        self._roots = {*found.records.get(stage.system.name, ())}
        self._records = stage.records()

    def findings(self) -> dict[str, list[str]]:
        """Returns where they were found: place → in words."""
        found = {
            "keys": [*self._keys()],
            "views": [*self._views()],
            "pages": [*self._pages()],
            "the next model": [*self._examples()],
            "replay": [*self._replay()],
        }
        if self._stage.service.retrieval is not None:
            reached = reaches(self._stage.service.retrieval, self._found.subject)
            found["retrieval"] = ["it still holds their token"] if reached else []
        return found

    def _keys(self) -> Iterator[str]:
        vault: Any = self._stage.log.vault
        if vault.holds(self._found.subject):
            yield "their key is there"
        if {*vault.tokens()} & {*self._found.tokens}:
            yield "entries of the map lead to them"

    def _views(self) -> Iterator[str]:
        system, log, folder = self._stage.system, self._stage.log, self._stage.home.root.parent / "views"
        kept = (one for one in self._records if one.root not in self._roots and one.id != ERASURES)
        without = OnlineState(system.features)
        without.apply_many(changes(kept, system.name, past=log, reads=system.features.reads))
        hashes = [
            write_snapshot(folder / name, state, position=0, log_hash=b"").parts
            for name, state in (("live", self._stage.service.state), ("without", without))
        ]
        if hashes[0] != hashes[1]:
            yield "live views are not what they would be without their records"

    def _pages(self) -> Iterator[str]:
        host = Host(self._stage.log, {self._stage.system.name: self._stage.service}, replay=_nothing, meter=Meter())
        for id_ in self._found.decisions.get(self._stage.system.name, ()):
            with suppress(UnknownRecordError):
                asyncio.run(host.decision(self._stage.system.name, id_))
                yield f"decision {id_} is told"

    def _examples(self) -> Iterator[str]:
        history: Any = history_of(self._stage.system, self._records)
        requests = (
            [one.decision.request for one in history.shown] if hasattr(history, "shown") else history.now.requests
        )
        if any(request.subject == self._found.subject for request in requests):
            yield "they are among the examples"

    def _replay(self) -> Iterator[str]:
        replayer = self._stage.deployment.replayer()
        for id_ in self._found.decisions.get(self._stage.system.name, ()):
            try:
                replayer.one(id_)
            except DecalogError as error:
                named = "erased records" in str(error) or "another system" in str(error)
                yield from [] if named else [f"replay fails without naming what was erased: {error}"]
            else:
                yield f"decision {id_} is computed again"


async def _nothing(_system: str, _id: str, _verb: str) -> dict[str, Any]:
    return {}


def reaches(thing: object, token: int) -> bool:
    """Returns whether a number can be reached from an object, in arrays too; modules, classes and code are no data."""
    seen, todo = set[int](), [thing]
    while todo:
        one = todo.pop()
        if id(one) in seen or isinstance(one, type | ModuleType | FunctionType):
            continue
        seen.add(id(one))
        if isinstance(one, int):
            if one == token:
                return True
        elif isinstance(one, np.ndarray):
            if one.dtype == np.int64 and bool((one == token).any()):
                return True
        else:
            todo += [*one.keys(), *one.values()] if isinstance(one, Mapping) else gc.get_referents(one)
    return False


def _copied(home: Path, values: tuple[Told, ...]) -> list[str]:
    """Writes their values in the clear into a home, as a careless program would; returns what a search finds."""
    (home / "copy.txt").write_text("\n".join(str(told.value) for told in values))
    return [hit.text() for hit in scan(home, values).hits]


def _deleted(path: Path, found: Survey) -> list[str]:
    """Deletes a record of theirs as a careless erasure would; returns what verification says of that."""
    root = next(iter(next(iter(found.records.values()))))
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM records WHERE seq = ?", (root,))
    connection.close()
    return [one.said for one in verify(path.parent.parent).checks if not one.sound]
