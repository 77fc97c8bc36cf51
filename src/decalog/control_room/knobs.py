"""Knobs that make trouble in a simulated world: a file of wishes that its driver polls, and a file of what is on.

Only a driver writes the second one, so a system that no world drives has no knobs. Wishes are for one driver: one that
starts anew begins without trouble.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from decalog.control_room.folder import folder_of, read, write
from decalog.home import Home

_FRESH_S = 30.0
"""A driver that has said nothing for so long is gone."""

BUSY, CORRUPT, KILLED, STALLED = "traffic_x10", "corrupt_data", "model_killed", "store_down"
AWAY = "analysts_away"
GENERAL = {
    BUSY: "ten times the people: each request comes ten times, as if of others",
    CORRUPT: "every fifth request and outcome comes with an amount or a value that is no number",
    KILLED: "the champion's files are taken away and the server dies: it comes back without a model",
    STALLED: "another program locks the log's file for eight seconds, so that nothing can be written",
}
"""What can be done to any world: knob → its effect. A world brings switches of its own besides."""
OF_PEOPLE = {AWAY: "the world's analysts give no verdicts: what is sent to people waits for you"}
"""What can be done where people decide, too."""


class Wishes(msgspec.Struct, frozen=True):
    """Which knobs are wanted on, for the driver that began at `driver`."""

    driver: str = ""
    on: tuple[str, ...] = ()


class Driven(msgspec.Struct, frozen=True):
    """What a driver says of itself.

    Args:
        driver: its name, a new one with each start.
        url: of the server that it drives.
        wall: when it said so, s since the epoch.
        speed: seconds of the world a second.
        knobs: knob → its effect.
        on: which are.
        line: what came of its traffic so far.
    """

    driver: str
    url: str
    wall: float
    speed: float
    knobs: dict[str, str]
    on: tuple[str, ...] = ()
    line: str = ""


def wish(home: Home, system: str, *, wishes: Wishes) -> None:
    """Asks the driver of a system for trouble."""
    write(_path(home, system, "wishes"), wishes)


def wished(home: Home, system: str, *, driver: str) -> tuple[str, ...]:
    """Returns what is wanted of a driver."""
    found = read(_path(home, system, "wishes"), Wishes)
    return found.on if found is not None and found.driver == driver else ()


def tell(home: Home, system: str, *, driven: Driven) -> None:
    """Says what a driver does."""
    write(_path(home, system, "driven"), driven)


def driven(home: Home, system: str, *, now_s: float) -> Driven | None:
    """Returns what the driver of a system said last; None where there is none, or it is gone."""
    found = read(_path(home, system, "driven"), Driven)
    return found if found is not None and now_s - found.wall < _FRESH_S else None


def _path(home: Home, system: str, name: str) -> Path:
    return folder_of(home) / f"{system}.{name}.json"
