"""What the knobs of a simulated world do: to its messages, to the server that it drives, and to that server's files.

It runs in the process that drives, between two of its turns, and does to the system what really happens to systems:
files that are damaged, a process that dies, a lock that is held, rows that make no sense.
"""

from __future__ import annotations

import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing

from decalog.control_room import knobs
from decalog.control_room.folder import folder_of
from decalog.control_room.knobs import AWAY, BUSY, CORRUPT, GENERAL, KILLED, OF_PEOPLE, STALLED, Driven, Wishes
from decalog.home import Home
from decalog.registry import Registry
from decalog.schema import Schema
from decalog.testing.worlds import Message, World

_COPIES = 9
_FIFTH = 5
_STALL_S = 8.0
_NO_NUMBER = "n/a"


class Mischief:
    """The knobs of one driven system.

    Args:
        home: of the system.
        schema: of the system.
        world: that drives it, with switches of its own.
        restart: ends the server at once and starts it again.
    """

    def __init__(self, home: Home, schema: Schema, world: World, *, restart: Callable[[], None]) -> None:
        self._home, self._schema, self._world, self._restart = home, schema, world, restart
        self._switches = {name: text for name, text in switches_of(world).items() if name not in GENERAL}
        self._verdicts = {kind.name for kind in schema.outcomes if "analyst" in kind.sources}
        self._name = secrets.token_hex(8)
        self._on: set[str] = set()
        self._sent = 0
        self._kept = folder_of(home) / "killed"
        self._mend()

    def turn(self, *, url: str, speed: float, line: str) -> None:
        """Does what is wished for, and says what is on.

        Args:
            url: of the server.
            speed: seconds of the world a second.
            line: what came of the traffic so far.
        """
        system = self._schema.system
        wanted = {*knobs.wished(self._home, system, driver=self._name)}
        for name in sorted(wanted ^ self._on):
            self._turn(name, is_on=name in wanted)
        names = GENERAL | (OF_PEOPLE if self._verdicts else {}) | self._switches
        told = Driven(self._name, url, time.time(), speed, names, tuple(sorted(self._on)), line)
        knobs.tell(self._home, system, driven=told)

    def shaped(self, messages: Iterable[Message]) -> Iterator[Message]:
        """Yields what is sent in place of a world's messages."""
        for message in messages:
            if AWAY in self._on and message.body.get("kind") in self._verdicts:
                continue
            self._sent += 1
            is_bad = CORRUPT in self._on and self._sent % _FIFTH == 0
            yield _corrupted(message) if is_bad else message
            if BUSY in self._on and message.kind == "decide":
                yield from (self._copied(message, number) for number in range(1, _COPIES + 1))

    def _turn(self, name: str, *, is_on: bool) -> None:
        (self._on.add if is_on else self._on.discard)(name)
        if name in self._switches:
            self._world.switch(name, is_on)
        elif name == KILLED:
            (self._kill if is_on else self._mend)()
            self._restart()
        elif name == STALLED and is_on:
            threading.Thread(target=self._stall, daemon=True).start()

    def _kill(self) -> None:
        """Takes the champion's files away."""
        model = Registry(self._home.root).current(self._schema.system)
        if model is not None:
            self._kept.mkdir(parents=True, exist_ok=True)
            (self._home.root / "models" / model).rename(self._kept / model)

    def _mend(self) -> None:
        """Brings back what was taken away, by this driver or by one that died over it."""
        for kept in self._kept.iterdir() if self._kept.is_dir() else ():
            kept.rename(self._home.root / "models" / kept.name)

    def _stall(self) -> None:
        """Holds the lock of the log's file for a while, as a backup that went wrong would."""
        with closing(sqlite3.connect(self._home.log, timeout=_STALL_S, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            time.sleep(_STALL_S)
        system, left = self._schema.system, self._on - {STALLED}
        knobs.wish(self._home, system, wishes=Wishes(self._name, tuple(sorted(left))))

    def _copied(self, message: Message, number: int) -> Message:
        """Returns a request as if it were of others."""
        names = {"id", *(entity.name for entity in self._schema.request.entities)}
        body = {name: f"{value}~{number}" if name in names else value for name, value in message.body.items()}
        return Message(message.at, message.kind, body)


def switches_of(world: World) -> dict[str, str]:
    """Returns what a world can switch on: name → its effect."""
    return dict(getattr(world, "switches", {}))


def _corrupted(message: Message) -> Message:
    """Returns a message with no number where one belongs; one that holds no number stays as it is."""
    numbers = [name for name, value in message.body.items() if isinstance(value, int | float) and value is not True]
    return Message(message.at, message.kind, message.body | dict.fromkeys(numbers[:1], _NO_NUMBER))
