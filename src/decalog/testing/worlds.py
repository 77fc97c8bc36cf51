"""The contract of a simulated world: what reaches a system from outside, and the truth behind it.

A world plays everybody a system meets: the clients that ask for decisions, the people who react to them, and the
parties that report outcomes, late. It knows the truth that the system never sees, so a system can be judged against
trivial rules below and an oracle above. Worlds run on their own clock: `advance` is told how far to go, nothing sleeps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec


class Message(msgspec.Struct, frozen=True):
    """One thing that reaches the system: a request for a decision, a plain event, or an outcome.

    Attributes:
        at: when it arrives, int microseconds since the Unix epoch, UTC.
        kind: which endpoint it is meant for.
        body: exactly what a client would POST: flat, JSON values only, times as RFC 3339 strings with Z.
        theirs: what another system did with a request that nobody else was asked (`advance(alone=True)`), as further
            values of the body: {"taken": "show", "slots": ["post-1", …]}, {"taken": "order", "quantity": 48.0}; nothing
            where it was let through.
    """

    at: int
    kind: Literal["decide", "event", "outcome"]
    body: dict[str, Any]
    theirs: dict[str, Any] = {}

    @property
    def history(self) -> dict[str, Any]:
        """The body of the same message, told later as history."""
        return self.body | self.theirs


class World(Protocol):
    """Simulated surroundings of one system, deterministic in (seed, parameters, start, reactions).

    Attributes:
        start_us: the first moment of the world, int microseconds since the Unix epoch, UTC.
        params_hash: sha256 of the canonical JSON of the parameters; frozen before any policy is tuned on the world.
        base: currency in which its money is counted, ISO 4217.
        rates: units of `base` for one unit of each other currency that it uses, as decimal text.
    """

    start_us: int
    params_hash: str
    base: str
    rates: Mapping[str, str]

    def advance(self, until_us: int, *, alone: bool = False) -> list[Message]:
        """Returns all that reaches the system after the last call and up to `until_us`, ordered by `at`.

        Where the world is `alone`, nobody will react to these requests: they are history. Another system then acted
        on them where action was needed, as each message's `theirs` tells, and what follows from that comes along.
        """
        ...

    def react(self, request_id: str, action: str, *, at_us: int, refs: tuple[str, ...] = ()) -> None:
        """Tells the world what the system decided at `at_us`; a request without a reaction is let through.

        Args:
            request_id: of a request that was sent.
            action: one of the system's.
            at_us: when it was decided.
            refs: what was shown, in order, where the choice is a slate; where it is a number, that number as text.
        """
        ...

    def truth(self, request_id: str) -> Mapping[str, float | str]:
        """Returns what really stood behind one request, the oracle's probability among it.

        Where a slate was shown, `HEAD REF` is the true probability of a head for each thing, were it looked at alone.
        """
        ...

    def switch(self, name: str, on: bool) -> None:  # noqa: FBT001 - a switch
        """Switches a declared attack or drift on or off for everything generated from now on."""
        ...

    def score(self) -> str:
        """Returns in one line what came of the decisions that the world was told, in its field's words."""
        ...


def truth_of(world: World, heads: Sequence[str]) -> Callable[[str], list[float]]:
    """Returns what says of a request, by its id, what is true of each head."""
    return lambda id_: [float(world.truth(id_)[head]) for head in heads]
