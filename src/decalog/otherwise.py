"""What of a request could have been otherwise: which facts, which values others had, and what changes with each.

What is computed of a fact changes with it: all that a request says through the same value, what is derived, and the
shorter and longer windows of the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from decalog.events import Event
from decalog.explanations import said
from decalog.features.definition import Aggregate, Attribute, Feature, lookups
from decalog.features.facts import ALL
from decalog.features.plan import Plan
from decalog.folding import point
from decalog.metrics import Floats
from decalog.schema import EventKind
from decalog.statistics.drift import Categories, Grid
from decalog.system import System

REQUEST = "request."
"""Stands before the name of a public value of the request."""
_NESTED = ("count", "sum", "distinct")

Value = float | str | bool
Seen = tuple[Floats, Event]
"""What a decision saw: the row of features, float64 of shape (features,), and the request."""


class Usual(NamedTuple):
    """Values that a fact has elsewhere, counted on a grid; the last count is of those that have none."""

    grid: Grid
    counts: Sequence[int]

    @property
    def values(self) -> list[Value]:
        """Values that occur, some thirty at most: the ends of filled cells, which do, or the categories."""
        if isinstance(self.grid, Categories):
            return list(self.grid.values)
        edges = self.grid.edges.tolist()
        return [edge for edge, count in zip(edges, self.counts[:-2], strict=False) if count]

    def distance(self, one: Value, other: Value) -> float:
        """Returns which share of others lies between two numbers; of a category which share is of another."""
        if isinstance(self.grid, Categories):
            counts = dict(zip(self.grid.values, self.counts, strict=False))
            return 1.0 - counts.get(str(other), 0) / max(sum(self.counts), 1)
        below = np.cumsum([0, *self.counts[:-1]])
        cells = np.searchsorted(self.grid.edges, [float(one), float(other)])
        ranks = (below[cells] + below[cells + 1]) / (2 * max(int(below[-1]), 1))
        return float(abs(ranks[1] - ranks[0]))


class Facts:
    """The facts of a system's requests.

    Never who is named, nor what a table says of it; nor the time; nor what the system declares as `fixed`. A public
    value is left alone too where a window depends on it in a way that cannot be computed from a row.

    Args:
        system: whose features and schema.
    """

    def __init__(self, system: System) -> None:
        features, request = system.features, system.schema.request
        self._plan = Plan(features)
        self._kind = request.name
        self._places = {name: place for place, name in enumerate(features.names)}
        self._declared: Mapping[str, Feature] = {feature.name: feature for feature in features.features}
        self._windows = features.aggregates
        self._families = {f.name: _but_window(f) for f in self._windows if f.aggregate in _NESTED}
        self._amounts = {base: name for name, base in request.amounts.items()}
        self._meanings = {field.name: field.meaning.rstrip(".") for field in request.fields}
        self._fixed = {*system.fixed, *(lookup.key for lookup in lookups(features))}
        self._public = [name for name in (*_plain(request), *self._amounts) if self._is_free(name)]

    def names(self, request: Event) -> list[str]:
        """Returns the facts of a request that may be otherwise; public values of its own have `REQUEST` in front."""
        windows = [f for f in self._windows if f.use == "model" and f.name not in self._fixed]
        said_so = [REQUEST + name for name in self._public if name in request.attributes]
        return [feature.name for feature in windows if _is_named(feature, request)] + said_so

    def value(self, name: str, of: Seen) -> Value:
        """Returns a fact as it is."""
        row, request = of
        return (
            float(row[self._places[name]]) if name in self._places else request.attributes[name.removeprefix(REQUEST)]
        )

    def is_possible(self, value: Value, *, of: str, request: Event) -> bool:
        """Returns whether a fact can have a value: one that is not missing, nor less than what the request adds."""
        feature = self._declared.get(of)
        if not isinstance(feature, Aggregate) or isinstance(value, str):
            return True
        is_missing = value == feature.missing_value and value != 0
        return value != feature.crowded and not is_missing and value >= self._least(feature, request)

    def changed(self, of: Seen, name: str, *, value: Value) -> Seen:
        """Returns row and request with one fact otherwise, and all that is computed of it."""
        row, request = of[0].copy(), of[1]
        if name in self._declared:
            row[self._places[name]] = float(value)
            self._nest(name, float(value), row)
        else:
            request = self._asked(name.removeprefix(REQUEST), value, row, request)
        self._plan.write_request(point(request, 0), row)
        return row, request

    def words(self, name: str, value: Value) -> tuple[str, str]:
        """Returns a fact's meaning, and a value of it in words."""
        feature, plain = self.feature(name), name.removeprefix(REQUEST)
        if feature is None:
            return self._meanings.get(plain, plain), str(value)
        return feature.meaning, said(feature, float(value))

    def feature(self, name: str) -> Feature | None:
        """Returns the feature that is a fact as it stands; None where none is."""
        plain = name.removeprefix(REQUEST)
        same = (f for f in self._declared.values() if isinstance(f, Attribute) and f.attribute == plain)
        return self._declared.get(name) or next(same, None)

    def family(self, name: str) -> object:
        """Returns what is the same of a fact and its shorter and longer windows."""
        return self._families.get(name, name)

    def _least(self, feature: Aggregate, request: Event) -> float:
        """Returns what a window holds at least: what the request itself adds to it."""
        if feature.aggregate not in _NESTED or feature.where or not feature.own or self._kind not in feature.over:
            return -np.inf
        own = request.attributes.get(feature.column, 0) if feature.aggregate == "sum" else 1
        return 0.0 if isinstance(own, str) else float(own)

    def _is_free(self, name: str) -> bool:
        """Returns whether a public value may be otherwise: all windows that it enters are sums of it, if any."""
        return name not in self._fixed and all(
            f.aggregate == "sum" and f.column == name and not f.where for f in self._entered(name)
        )

    def _entered(self, name: str) -> Iterator[Aggregate]:
        """Yields the windows that the request's own value enters, or is asked of before its row does."""
        names = {name, self._amounts.get(name, name)}
        for f in self._windows:
            if f.own and self._kind in f.over and names & {f.column, *(one.attribute for one in f.where)}:
                yield f

    def _asked(self, name: str, value: Value, row: Floats, request: Event) -> Event:
        """Returns a request that says something else; sums of it are written into the row."""
        before = request.attributes[name]
        after = value if isinstance(before, str | bool) else type(before)(value)
        attributes = {**request.attributes, name: after}
        if isinstance(before, str) or isinstance(after, str):
            return msgspec.structs.replace(request, attributes=attributes)
        paid = request.attributes.get(self._amounts.get(name, ""))
        if isinstance(paid, int) and before:
            attributes[self._amounts[name]] = round(paid * after / before)
        for feature in self._entered(name):
            place = self._places[feature.name]
            row[place] += after - before if _is_named(feature, request) and row[place] != feature.crowded else 0
        return msgspec.structs.replace(request, attributes=attributes)

    def _nest(self, name: str, value: float, row: Floats) -> None:
        """Lets no shorter window hold more than a longer one of the same."""
        one = self._declared[name]
        if name not in self._families or not isinstance(one, Aggregate):
            return
        for other in self._windows:
            place = self._places[other.name]
            if self._families.get(other.name) == self._families[name] and row[place] >= 0:
                row[place] = min(row[place], value) if other.window_us < one.window_us else max(row[place], value)


def _is_named(feature: Aggregate, request: Event) -> bool:
    return all(entity == ALL or entity in request.entities for entity in feature.entities)


def _plain(kind: EventKind) -> list[str]:
    return [f.name for f in kind.fields if f.privacy == "public" and f.kind in ("int", "float", "text")]


def _but_window(feature: Aggregate) -> Aggregate:
    return msgspec.structs.replace(feature, name="", meaning="", owner="", unit="", staleness="", window="")
