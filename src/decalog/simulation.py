"""A world's messages brought to a log: its past as history, its present through the server's own door."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Callable

import msgspec

from decalog.clock import DAY, ManualClock
from decalog.errors import ConfigError
from decalog.ingest import Ingest, Rates
from decalog.system import System
from decalog.testing.worlds import World

_GROUP = 1_000


class Filled(msgspec.Struct, frozen=True):
    """What history a world gave: requests, outcomes, and until when, µs."""

    requests: int
    outcomes: int
    until_us: int


def world_of(system: System, seed: int, *, scale: float = 1.0) -> World:
    """Returns the system's world, seeded, its size a share of the default one.

    Raises:
        ConfigError: the system names none.
    """
    module, _, name = system.world.partition(":")
    if not name:
        raise ConfigError(
            where=f"{system.name} world",
            given=f"{system.world!r}",
            expected="a dotted path module:Class",
            fix="Name the world in SYSTEM, or train with --data.",
        )
    world: World = getattr(importlib.import_module(module), name)(seed, scale=scale)
    return world


def rates_of(world: World) -> Rates:
    """Returns the exchange rates of a world."""
    return Rates(world.base, dict(world.rates))


def fill(world: World, ingest: Ingest, *, clock: ManualClock, days: int, say: Callable[[str], None]) -> Filled:
    """Brings a world's first days into the log as history: requests that another system dealt with, and outcomes.

    Args:
        world: at its start.
        ingest: whose log runs on `clock`.
        clock: moved to the time at which each message arrives.
        days: of simulated history.
        say: told of progress.
    """
    sent: Counter[str] = Counter()
    for day in range(1, days + 1):
        for message in world.advance(world.start_us + day * DAY, alone=True):
            clock.set(message.at)
            if message.kind == "outcome":
                ingest.outcome(message.body)
            else:
                ingest.event(message.history)
            sent[message.kind] += 1
            if sent.total() % _GROUP == 0:
                ingest.log.commit()
        say(f"day {day} of {days}: {sent['decide']:,} {ingest.schema.noun}s, {sent['outcome']:,} outcomes")
    ingest.log.commit()
    return Filled(sent["decide"], sent["outcome"], world.start_us + days * DAY)


def message_path(system: str, kind: str) -> str:
    """Returns where a message is posted.

    >>> message_path("fraud", "outcome")
    '/v1/fraud/outcomes'
    """
    return f"/v1/{system}/{ {'decide': 'decide', 'event': 'events', 'outcome': 'outcomes'}[kind] }"
