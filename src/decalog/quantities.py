"""The join where a label is a quantity: requests with what was told of them, and events that say what bounds hide.

What was told may be a lower bound: a shelf that is empty sells no more. What stands behind it no single outcome knows,
but other records of the log do (when it sold out, and how fast it went until then): the system's `recovered` reads
them. Whatever is recovered is so from what was known at a moment, as labels are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from decalog.events import Event, Record, decode_event
from decalog.examples import NO_ENTITY, Bools, Examples, Floats, History, Int64s, kept_of
from decalog.features.definition import FeatureSet
from decalog.models.base import QuantitySet
from decalog.schema import Schema


class Told(NamedTuple):
    """Requests with what was told of them by a moment, and the system's other events as they were known then.

    `labels` are float64, NaN where nothing was told; `bounds` says which are lower bounds.
    """

    requests: Sequence[Event]
    labels: Floats
    bounds: Bools
    events: Sequence[Event]


class Image(NamedTuple):
    """One version of an event: its chain, when it was known, µs, and what it says."""

    root: int
    known: int
    event: Event


Recover = Callable[[Told, int], tuple[Floats, Floats]]
"""(what was told, seed) → (expected, drawn); see `models.base.QuantitySet`."""


def as_told(told: Told, _seed: int) -> tuple[Floats, Floats]:
    """Returns bounds as they are: for systems whose log says no more."""
    return told.labels, told.labels


def standing(images: Iterable[Image], known_by: int) -> list[Event]:
    """Returns the events of versions in log order as they were known at a moment, µs: corrected, without the deleted.

    In the order in which they were first told.
    """
    latest = {image.root: image.event for image in images if image.known <= known_by}
    return [event for event in latest.values() if not event.deleted]


class QuantityHistory(History):
    """As `examples.History`, with the system's other events.

    Args:
        records: in log order from the first to the pin.
        schema: of the system; its label is a quantity.
        features: that rows are made of.
        recover: says what stands behind bounds.
    """

    def __init__(
        self, records: Iterable[Record], schema: Schema, *, features: FeatureSet, recover: Recover | None = None
    ) -> None:
        kept = list(records)
        super().__init__(kept, schema, features=features)
        own, _ = kept_of(kept, schema.system)
        self._events = [
            Image(record.root, record.known_time, event)
            for record in own
            if record.kind == "event" and (event := decode_event(record.body)).kind != schema.request.name
        ]
        self._recover = recover or as_told

    def events(self, known_by: int) -> list[Event]:
        """Returns the events besides requests as they were known at a moment, µs."""
        return standing(self._events, known_by)

    def part(self, examples: Examples, *, seed: int) -> QuantitySet:
        """Returns requests as models learn from them, recovered by what was known when their labels were."""
        told = Told(examples.requests, examples.labels, examples.bounds, self.events(examples.known_by))
        expected, drawn = self._recover(told, seed)
        return QuantitySet(
            names=self.features.names_for("model"),
            rows=examples.rows[:, list(self.features.places_for("model"))],
            labels=examples.labels,
            bounds=examples.bounds,
            expected=expected,
            drawn=drawn,
            times=examples.times,
            groups=groups_of(examples, self.schema),
        )


def groups_of(examples: Examples, schema: Schema) -> Int64s:
    """Returns what each request is about: the token of its first entity; those without one are each alone."""
    tokens = next((examples.entities[entity.name] for entity in schema.request.entities), np.empty(0, np.int64))
    alone = -2 - np.arange(examples.n)
    return np.where(tokens == NO_ENTITY, alone, tokens) if len(tokens) else alone
