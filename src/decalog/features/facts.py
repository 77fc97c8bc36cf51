"""What the feature engine reads: facts, changes of the log, and the points at which features are asked for.

A record of the log becomes at most a few changes: an event gives one, a decision gives its request and a row of kind
`decision.<action>`, and where it was drawn one of kind `drawn.<action>` too, an outcome a row of kind `outcome.<kind>`
and one of kind `labelled.<kind>`, a table its new version; a correction retracts the old image and adds the new one, a
deletion only retracts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

ALL = "all"
"""The constant entity that every row belongs to."""
ALL_TOKEN = 0

HALVING, HALVINGS = 16, 16
"""Steps in which the weight of a decayed value halves, and how often it may: older values weigh nothing."""

Value = int | float | str | bool

# gc=False: a log holds millions of these, none can be part of a cycle, and the collector need not walk them.


class Fact(msgspec.Struct, frozen=True, gc=False):
    """One image of one row: what happened, when, to whom.

    Args:
        root: seq of the first record in its chain of corrections; of a (root, kind) at most one image is live.
        event_time: when it happened, µs since the epoch, UTC.
        kind: `payment`, or `decision.<action>`, `drawn.<action>` for views over decisions.
        entities: entity name → token (int64); an absent name is a missing entity.
        attributes: public values; an absent name is a missing value.

    >>> Fact(7, 1_000_000, "payment", {"card": 11}, {"amount_minor": 250}).entities["card"]
    11
    """

    root: int
    event_time: int
    kind: str
    entities: Mapping[str, int]
    attributes: Mapping[str, Value]


class TableVersion(msgspec.Struct, frozen=True, gc=False):
    """A version of a lookup table: its name, and its numbers by text."""

    name: str
    numbers: Mapping[str, float]


class Change(msgspec.Struct, frozen=True, gc=False):
    """One step of the normalised log: the image that stops being live and the one that becomes live.

    Args:
        seq: of the record; one record may give several changes with the same seq, those that only withdraw first.
        known_time: the record's, µs.
        minus: the live image that is withdrawn, exactly as it was added; None for an insert.
        plus: the image that becomes live; None for a deletion.
        table: the version of a lookup table that replaces the one before; None for rows.
    """

    seq: int
    known_time: int
    minus: Fact | None = None
    plus: Fact | None = None
    table: TableVersion | None = None


class Point(msgspec.Struct, frozen=True, gc=False):
    """Where features are asked for: after which records, at what time, by whom.

    Args:
        state_seq: changes with seq < state_seq are visible.
        time: the t of all windows (t − w, t], µs.
        root: of the request's own event; its logged image is never seen, so that hindsight at a larger state_seq sees
            what the decision saw. −1 for none.
        own: the request's own event, folded as the last among ties into features declared with `own=True`.
        entities: whose features are asked for where there is no own event (a nightly batch); else own's are used.
    """

    state_seq: int
    time: int
    root: int = -1
    own: Fact | None = None
    entities: Mapping[str, int] = {}

    @property
    def subjects(self) -> Mapping[str, int]:
        """Entity name → token of the entities that are asked about."""
        return self.entities if self.own is None else self.own.entities

    @property
    def attributes(self) -> Mapping[str, Value]:
        """The request's own public values; empty where there is no own event."""
        return {} if self.own is None else self.own.attributes


class Overlay(Protocol):
    """What a candidate of a request is known by, besides the request: laid over it, its own names win."""

    @property
    def entities(self) -> Mapping[str, int]:
        """Entity name → token."""

    @property
    def attributes(self) -> Mapping[str, Value]:
        """Public values."""


def laid_over(point: Point, candidate: Overlay) -> Point:
    """Returns where the features of a candidate are asked for: the request's point, as if it had been about it.

    >>> own = Fact(9, 5, "request", {"user": 1}, {"language": "de"})
    >>> asked = laid_over(Point(3, 5, own=own), Fact(0, 0, "", {"post": 2}, {"age_s": 60}))
    >>> asked.subjects, asked.attributes, asked.own.root
    ({'user': 1, 'post': 2}, {'language': 'de', 'age_s': 60}, 9)
    """
    if point.own is None:
        return msgspec.structs.replace(point, entities={**point.entities, **candidate.entities})
    return msgspec.structs.replace(point, own=about(point.own, candidate))


def about(fact: Fact, candidate: Overlay) -> Fact:
    """Returns a row as if it had been about a candidate: its entities and values lie over the row's."""
    entities, attributes = {**fact.entities, **candidate.entities}, {**fact.attributes, **candidate.attributes}
    return Fact(fact.root, fact.event_time, fact.kind, entities, attributes)
