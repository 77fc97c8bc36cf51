"""A small fraud home with history from the world and a rule of thumb as its champion, made in about a second."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from decalog.clock import DAY, ManualClock
from decalog.decisions import Decision
from decalog.deployment import Deployment, Setup
from decalog.events import Record
from decalog.home import Home
from decalog.models.linear import Threshold
from decalog.operations import quiet
from decalog.registry import DECLARED, Manifest, Pin, Registry
from decalog.runtime import this_code
from decalog.simulation import fill, rates_of, world_of
from decalog.system import System
from decalog.systems.fraud.system import SYSTEM
from decalog.testing.worlds import Message, World

DAYS = 2
SEED = 7
SCALE = 0.02
LATER = DAYS * DAY
"""Half a day beyond this, the live part of the tests ends."""


def rule(system: System = SYSTEM, *, limit: float = 3_000.0) -> Threshold:
    """Returns a model that finds dear payments likelier to be frauds."""
    names = system.features.names_for("model")
    return Threshold(names.index("amount"), limit, above=0.3, below=0.001, width=len(names))


def add_model(
    root: Path,
    model: Any = None,
    *,
    system: System = SYSTEM,
    promote: bool = True,
    declared: bool = True,
    **changes: Any,
) -> str:
    """Puts a model into the registry of a home, as the champion if nothing else is said, and returns its id.

    It carries its feature set with it, unless it is not `declared`, as models of the first releases were not.
    """
    manifest = Manifest(
        system=system.name,
        name="rule",
        format="json",
        head="p_fraud",
        features=system.features.names_for("model"),
        feature_set=system.features.version,
        pin=Pin((1,), 0, 0),
        code=this_code(),
        seed=0,
    )
    registry = Registry(root)

    def write(folder: Path) -> Mapping[str, Any]:
        if declared:
            (folder / DECLARED).write_bytes(system.features.to_json())
        settings: Mapping[str, Any] = (model or rule(system)).save(folder)
        return settings

    id_ = registry.put(msgspec.structs.replace(manifest, **changes), write)
    if promote:
        registry.promote(system.name, id_, by="test", why="test", at_us=0)
    return id_


def fill_home(root: Path, *, champion: bool = True) -> Home:
    """Returns a home with two days of history; its champion is the rule."""
    home = Home(root)
    world = world_of(SYSTEM, SEED, scale=SCALE)
    clock = ManualClock(world.start_us)
    log = home.writer(clock)
    fill(
        world, Deployment(home, "fraud", log, Setup(rates=rates_of(world))).prepare(), clock=clock, days=DAYS, say=quiet
    )
    log.close()
    if champion:
        add_model(root)
    return home


def live_messages(hours: int = 12) -> tuple[World, list[Message]]:
    """Returns the same world after the history, and what it sends in the hours that follow."""
    world = world_of(SYSTEM, SEED, scale=SCALE)
    world.advance(world.start_us + LATER)
    return world, world.advance(world.start_us + LATER + hours * DAY // 24)


def decide_live(home: Home, setup: Setup | None = None, *, hours: int = 12) -> list[Decision]:
    """Decides and logs what the world sends after the history."""
    with opened(home, setup) as (deployment, clock):
        service = deployment.service()
        made = []
        for message in live_messages(hours)[1]:
            clock.set(message.at)
            if message.kind == "decide":
                made.append(service.decide(message.body)[1])
            else:
                service.ingest.outcome(message.body)
        deployment.log.commit()
    return made


@contextmanager
def opened(home: Home, setup: Setup | None = None) -> Iterator[tuple[Deployment, ManualClock]]:
    """Gives the deployment of a home, its log open for writing on a clock set by hand; closes it afterwards."""
    clock = ManualClock(0)
    log = home.writer(clock)
    clock.set(log.known_time)
    try:
        yield Deployment(home, "fraud", log, setup), clock
    finally:
        log.close()


def records(home: Home, kind: str) -> list[Record]:
    """Returns the durable records of a kind."""
    log = home.reader()
    try:
        return [record for record in log.read() if record.kind == kind]
    finally:
        log.close()
