"""What worlds have in common: they make a day at a time, and send what falls due in order of time."""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

from decalog.clock import DAY
from decalog.errors import RequestError, UnknownRecordError
from decalog.testing.settings import Settings, known_switch
from decalog.testing.worlds import Message


def not_sent(world: str, what: str) -> UnknownRecordError:
    """Returns the error of a world that is told of what it has not sent, such as `request 'req_0'`."""
    return UnknownRecordError(
        where=f"{world} world",
        given=f"{what}, which it has not sent",
        expected="an id of a message that advance has returned",
        fix="Advance the world first, and pass ids unchanged.",
    )


class Clockwork(ABC):
    """The clock, the queue and the switches of a world, which says below what a day begins with and what is sent.

    What is queued are tuples that begin with a time in µs, a kind and an id, no two alike in all three.

    Args:
        params: settings of the world.
        switches: name → its effect.
        start_us: the first midnight.

    Attributes:
        start_us, params_hash: see `decalog.testing.worlds.World`.
        switches: name → its effect.
    """

    def __init__(self, params: Settings, switches: Mapping[str, str], *, start_us: int) -> None:
        self.params_hash = params.digest()
        self.start_us = start_us
        self._world, self.switches = params.world, switches
        self._on: frozenset[str] = frozenset()
        self._now_us = start_us - 1
        self._day = 0  # days begun so far
        self._due: list[Any] = []  # a heap

    def advance(self, until_us: int, *, alone: bool = False) -> list[Message]:
        """Returns all messages after the last call and up to `until_us`, ordered by (at, kind, id).

        Raises:
            RequestError: `until_us` lies before the end of the last call.
        """
        if until_us < self._now_us:
            raise RequestError(
                where="World.advance",
                given=f"until_us {until_us}, before {self._now_us}, where the world already is",
                expected="a time that does not run back",
                fix="Build a new World with the same seed to go through a time again.",
            )
        messages: list[Message] = []
        while (midnight := self.start_us + self._day * DAY) <= until_us:
            messages += self._fall_due(midnight - 1, alone=alone)
            self._begin_day(midnight)
            self._day += 1
        messages += self._fall_due(until_us, alone=alone)
        self._now_us = until_us
        return messages

    def switch(self, name: str, on: bool) -> None:  # noqa: FBT001 - a switch
        """Switches one of the world's SWITCHES, from the next midnight that has not begun yet.

        Raises:
            ConfigError: there is no such switch.
        """
        known = {known_switch(self._world, name, switches=tuple(self.switches))}
        self._on = self._on | known if on else self._on - known

    def _push(self, at_us: int, kind: str, body: dict[str, Any]) -> None:
        """Queues what is to be sent at a time, or at once where that has passed."""
        heapq.heappush(self._due, (max(at_us, self._now_us + 1), kind, body["id"], body))

    def _fall_due(self, until_us: int, *, alone: bool) -> Iterable[Message]:
        while self._due and self._due[0][0] <= until_us:
            due = heapq.heappop(self._due)
            self._now_us = due[0]
            yield from self._deliver(due, alone=alone)

    @abstractmethod
    def _begin_day(self, start_us: int) -> None:
        """Plans what a day brings."""

    @abstractmethod
    def _deliver(self, due: Any, *, alone: bool) -> Iterable[Message]:
        """Returns what is sent of something that is due: one message, or none."""
