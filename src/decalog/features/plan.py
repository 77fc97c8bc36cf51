"""A feature set as the kernel's integer tables, and facts as its int64 rows.

A row over all columns is (event_time, root, kind bit, columns…); each entity keeps only the columns it needs.
"""

from __future__ import annotations

import functools
import hashlib
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from decalog.clock import DAY, HOUR, duration_us
from decalog.features import kernel
from decalog.features.definition import (
    Aggregate,
    Attribute,
    Calendar,
    Category,
    Condition,
    Cross,
    Derived,
    Feature,
    FeatureSet,
    Lookup,
    Same,
    read_by,
)
from decalog.features.derived import Formulas
from decalog.features.facts import ALL, ALL_TOKEN, HALVING, Fact, Point, Value
from decalog.features.kernel import MISSING, Float64s, Int64s

_OPERATIONS = {
    "count": kernel.COUNT,
    "sum": kernel.SUM,
    "mean": kernel.MEAN,
    "min": kernel.MIN,
    "max": kernel.MAX,
    "std": kernel.STD,
    "first": kernel.FIRST,
    "last": kernel.LAST,
    "decayed": kernel.DECAYED,
    "distinct": kernel.DISTINCT,
    "time_since": kernel.TIME_SINCE,
}
_INT64 = 2**63
_BITS64 = 2**64 - 1
_CROSSES_KEPT = 10_000
NO_ROOT = -1

Versions = Mapping[str, Mapping[str, float]]
"""Lookup table → its numbers, as of one position."""

RequestReader = Callable[[Mapping[str, Value], int], float]
"""(the request's attributes, time) → value of a feature."""


class Column(msgspec.Struct, frozen=True):
    """What one column of a row holds.

    Args:
        name: of the attribute, or of the entity; "" for a row that counts as one.
        bound: most |value| of a number; 0 for identities in distinct.
        where: conditions without which the cell is MISSING.
    """

    name: str
    bound: int
    where: tuple[Condition, ...] = ()

    def encoder(self) -> Callable[[Fact], int]:
        """Returns the function that reads the column from a fact as int64; MISSING where it is absent or unusable."""
        read = self._cell()
        if not self.where:
            return read
        test, *more = [condition_test(condition) for condition in self.where]

        def passed(fact: Fact) -> int:
            attributes = fact.attributes
            return (
                read(fact)
                if test(attributes) and (not more or all(further(attributes) for further in more))
                else MISSING
            )

        return passed

    def _cell(self) -> Callable[[Fact], int]:
        name, bound = self.name, self.bound
        if not name:
            return lambda _fact: 1

        def number(fact: Fact) -> int:
            value = fact.attributes.get(name)
            return value if isinstance(value, int) and -bound <= value <= bound else MISSING

        def token_or_identity(fact: Fact) -> int:
            token = fact.entities.get(name)
            if token is not None:
                return token
            value = fact.attributes.get(name)
            return MISSING if value is None else identity(value)

        return number if bound else token_or_identity


def condition_test(condition: Condition) -> Callable[[Mapping[str, Value]], bool]:
    """Returns whether a row's attributes meet a condition, as a function; see `Condition` for the rules."""
    name, wanted = condition.attribute, condition.value
    if condition.test in _COMPARISONS:
        compare = _COMPARISONS[condition.test]

        def ordered(attributes: Mapping[str, Value]) -> bool:
            value = attributes.get(name)
            # NaN fails every comparison by itself.
            return value is not None and not isinstance(value, str) and compare(value, wanted)

        return ordered
    among = frozenset(wanted) if isinstance(wanted, tuple) else frozenset((wanted,))
    is_in = condition.test != "!="

    def equal(attributes: Mapping[str, Value]) -> bool:
        value = attributes.get(name)
        return value is not None and (value in among) == is_in

    return equal


_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def identity(value: Value | None) -> int:
    """Returns an int64 for a value in distinct: an int itself, a text's 63-bit BLAKE2b, MISSING for the rest.

    >>> identity(5), identity("EUR"), identity(1.5) == MISSING
    (5, 8778131238696673193, True)
    """
    if isinstance(value, str):
        return int.from_bytes(hashlib.blake2b(value.encode(), digest_size=8).digest(), "big") >> 1
    return int(value) if isinstance(value, int) and MISSING < value < _INT64 else MISSING


class EntityPlan(msgspec.Struct, frozen=True):
    """The kernel's tables for all windows of one entity name.

    Args:
        entity: its name.
        pair: the names of both, where it is a pair; else empty.
        kinds: kinds of rows that it keeps.
        picks: the columns that it keeps of a row over all columns.
        lanes, outputs: see `kernel`; outputs ascend by window.
    """

    entity: str
    pair: tuple[str, ...]
    kinds: frozenset[str]
    picks: Int64s
    lanes: Int64s
    outputs: Int64s

    @property
    def longest_us(self) -> int:
        """The entity's longest window in µs."""
        return int(self.outputs[-1, kernel.REACH])

    def asked_token(self, entities: Mapping[str, int]) -> int | None:
        """Returns whose rows are asked for; None where the entity is missing."""
        if self.pair:
            one, other = entities.get(self.pair[0]), entities.get(self.pair[1])
            return None if one is None or other is None else pair_token(one, other)
        return ALL_TOKEN if self.entity == ALL else entities.get(self.entity)

    def asked_tokens(self, columns: Callable[[str], Int64s]) -> Int64s:
        """Returns `asked_token` of many; MISSING for none.

        Args:
            columns: entity name → the token of each, MISSING for none; of `ALL` its own.
        """
        return pair_tokens(*map(columns, self.pair)) if self.pair else columns(self.entity)


def pair_token(one: int, other: int) -> int:
    """Returns the token of a pair of entities, 63 bits that both are mixed into; the order matters.

    Tokens are drawn at random and never shown, so nobody can seek pairs that collide, and no cryptographic hash is
    needed. The mixing is that of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).

    >>> pair_token(1, 2) == pair_token(2, 1)
    False
    """
    return int(_paired(one & _BITS64, other & _BITS64))


def pair_tokens(ones: Int64s, others: Int64s) -> Int64s:
    """Returns `pair_token` of every two; MISSING where either is."""
    tokens = np.asarray(_paired(ones.astype(np.uint64), others.astype(np.uint64))).astype(np.int64)
    return np.where((ones == MISSING) | (others == MISSING), MISSING, tokens)


def _paired(one: Any, other: Any) -> Any:
    """Takes ints and uint64 arrays alike: these wrap, those are cut."""
    return _mixed(_mixed(one) + other * 0x9E3779B97F4A7C15 & _BITS64) >> 1


def _mixed(bits: Any) -> Any:
    bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9 & _BITS64
    bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB & _BITS64
    return bits ^ (bits >> 31)


class Plan:
    """A feature set made ready for the kernel.

    Args:
        features: the declarations.

    Attributes:
        bits: kind of row → its bit; kinds that no feature reads are absent.
        columns: of a row, after event_time, root and kind.
        entities: one plan an entity name.
        spans, lanes, outputs, picks: the kernel's tables of all entity names, joined.
        cell_readers: one function a column, from a fact to its int64.
        request_readers: place in the vector and function of (attributes, time) for each feature of the request itself.
        read_names: of each feature the attributes of the request that it reads, by the part that names them.
        blank: the vector with every value missing, float64 of shape (features,).
        crowded: the vector with every window crowded; of other features what `blank` has.
    """

    def __init__(self, features: FeatureSet) -> None:
        self.features = features
        aggregates = features.aggregates
        self.bits = _bits(aggregates)
        self.columns = tuple(dict.fromkeys(column for f in aggregates if (column := _column(f)) is not None))
        self.cell_readers = tuple(column.encoder() for column in self.columns)
        self.width = kernel.FIRST_COLUMN + len(self.columns)
        self.entities = tuple(self._entity_plan(name) for name in dict.fromkeys(f.entity for f in aggregates))
        self.spans, self.lanes, self.outputs, self.picks = _joined(self.entities)
        self.blank = np.array([feature.missing_value for feature in features.features], np.float64)
        self.crowded = _crowded(self.blank, features)
        self.request_readers = tuple(
            (place, _reader(feature))
            for place, feature in enumerate(features.features)
            if not isinstance(feature, Aggregate | Lookup | Derived)
        )
        self._places = np.array([place for place, _ in self.request_readers], np.intp)
        self.read_names = tuple(map(read_by, features.features))
        self._names = frozenset(column.name for column in self.columns)
        self.lookups = tuple((p, f) for p, f in enumerate(features.features) if isinstance(f, Lookup))
        self.formulas = Formulas(features)

    def row(self, fact: Fact) -> list[int]:
        """Returns the fact over all columns; its kind must be in `bits`."""
        row = [fact.event_time, fact.root, self.bits[fact.kind]]
        row += [read(fact) for read in self.cell_readers]
        return row

    def unusable(self, fact: Fact, row: Sequence[int]) -> list[str]:
        """Returns the columns whose value is there but cannot enter: another type, or beyond the declared bound.

        Args:
            fact: with values.
            row: the same over all columns, see `row`.
        """
        said = fact.attributes
        if self._names.isdisjoint(said):
            return []
        cells = zip(self.columns, row[kernel.FIRST_COLUMN :], strict=True)
        return [column.name for column, cell in cells if cell == MISSING and said.get(column.name) is not None]

    def own_columns(self, kind: str) -> list[int]:
        """Returns the columns of a request's own row, if it is of that kind, that any window reads."""
        lanes = self.lanes[(self.lanes[:, kernel.OWN] == 1) & (self.lanes[:, kernel.KINDS] & self.bits[kind] != 0)]
        return sorted(set(lanes[:, kernel.OWN_COLUMN].tolist()) - {kernel.TIME})

    def _place_of(self, column: Column | None) -> int:
        """Returns where a column stands in a row over all columns; counts and times read event_time."""
        return kernel.TIME if column is None else kernel.FIRST_COLUMN + self.columns.index(column)

    def write_request(self, point: Point, out: Float64s, *, tables: Versions | None = None) -> None:
        """Writes the features of the request itself, and what is derived, into the vector.

        Args:
            point: where they are asked for.
            out: the vector, blank but for its windows; what is derived reads it.
            tables: lookup table → its numbers at the point's position.
        """
        attributes, subjects, time = point.attributes, point.subjects, point.time
        if self.request_readers:
            out[self._places] = [read(attributes, time) for _, read in self.request_readers]
        # Most tables of most deployments are empty: of them nothing is read, and what stands in `out` is the answer.
        known = tables or {}
        for place, lookup in self.lookups if known else ():
            numbers = known.get(lookup.table)
            if numbers:
                out[place] = looked_up(lookup, attributes, numbers=numbers, subjects=subjects)
        self.formulas.write(out.reshape(1, -1))

    def _entity_plan(self, entity: str) -> EntityPlan:
        mine = [feature for feature in self.features.aggregates if feature.entity == entity]
        mine.sort(key=lambda feature: feature.reach_us)
        used = {self._place_of(_column(feature)) for feature in mine}
        picks = sorted(used | set(range(kernel.FIRST_COLUMN)))
        lanes: dict[tuple[int, ...], int] = {}
        outputs = []
        for feature in mine:
            column = self._place_of(_column(feature))
            kinds = sum(self.bits[kind] for kind in feature.over)
            step = duration_us(feature.half_life) // HALVING if feature.half_life else 0
            lane = (
                *(_OPERATIONS[feature.aggregate], kinds, picks.index(column), column, int(feature.own)),
                *(feature.offset_us, step),
            )
            place = self.features.names.index(feature.name)
            outputs.append((lanes.setdefault(lane, len(lanes)), feature.reach_us, place))
        names = tuple(entity.split("+"))
        return EntityPlan(
            entity=entity,
            pair=names if len(names) > 1 else (),
            kinds=frozenset(kind for feature in mine for kind in feature.over),
            picks=np.array(picks, np.int64),
            lanes=_lane_table(list(lanes), width=len(picks)),
            outputs=np.array(outputs, np.int64),
        )


def _crowded(blank: Float64s, features: FeatureSet) -> Float64s:
    crowded = blank.copy()
    for place, feature in enumerate(features.features):
        if isinstance(feature, Aggregate):
            crowded[place] = feature.crowded
    return crowded


def _joined(entities: Sequence[EntityPlan]) -> tuple[Int64s, Int64s, Int64s, Int64s]:
    """Returns spans, lanes, outputs and picks of all entity names, one after another."""
    parts = [(entity.lanes, entity.outputs, entity.picks) for entity in entities]
    spans = np.zeros((len(parts), 6), np.int64)
    for place in range(3):
        ends = np.cumsum([len(part[place]) for part in parts], dtype=np.int64)
        spans[:, 2 * place + 1] = ends
        spans[1:, 2 * place] = ends[:-1]
    lanes = np.concatenate([part[0] for part in parts] or [np.zeros((0, kernel.LANE_WIDTH), np.int64)])
    outputs = np.concatenate([part[1] for part in parts] or [np.zeros((0, 3), np.int64)])
    picks = np.concatenate([part[2] for part in parts] or [np.zeros(0, np.int64)])
    return spans, lanes, outputs, picks


def _bits(aggregates: Sequence[Aggregate]) -> dict[str, int]:
    kinds = sorted({kind for feature in aggregates for kind in feature.over})
    return {kind: 1 << index for index, kind in enumerate(kinds)}


def _column(feature: Aggregate) -> Column | None:
    if feature.aggregate == "distinct":
        return Column(feature.column, 0, feature.where)
    if feature.column:
        return Column(feature.column, feature.bound, feature.where)
    # What counts rows reads their time, which is never missing, unless conditions or weights ask for more.
    return Column("", 1, feature.where) if feature.where or feature.aggregate == "decayed" else None


def _lane_table(lanes: list[tuple[int, ...]], *, width: int) -> Int64s:
    """Returns the lanes as a table, with a set for each distinct one, and behind the columns a cell for each count."""
    table = np.full((len(lanes), kernel.LANE_WIDTH), -1, np.int64)
    table[:, : kernel.SET] = np.array(lanes, np.int64).reshape(len(lanes), kernel.SET)
    for column, operation, first in ((kernel.SET, kernel.DISTINCT, 0), (kernel.CELL, kernel.COUNT, width)):
        mine = np.flatnonzero(table[:, kernel.OPERATION] == operation)
        table[mine, column] = first + np.arange(len(mine))
    table[table[:, kernel.CELL] < 0, kernel.CELL] = kernel.NO_CELL
    return table


def _reader(feature: Feature) -> RequestReader:
    """Returns the function that reads one feature of the request itself."""
    match feature:
        case Attribute():
            return _number_reader(feature.attribute, feature.missing_value)
        case Category():
            return _category_reader(feature)
        case Same():
            return _same_reader(feature)
        case Cross():
            return _cross_reader(feature)
        case Calendar(part="hour_of_day"):
            return lambda _, time: float(time // HOUR % 24)
        case _:
            return lambda _, time: float((time // DAY + 3) % 7)  # 1970-01-01 was a Thursday


def _number_reader(name: str, missing: float) -> RequestReader:
    def read(attributes: Mapping[str, Value], _time: int) -> float:
        value = attributes.get(name)
        if isinstance(value, float):
            return value if math.isfinite(value) else missing
        return float(value) if isinstance(value, int) and -_INT64 <= value < _INT64 else missing

    return read


def _category_reader(feature: Category) -> RequestReader:
    name = feature.attribute
    indexes: dict[Value | None, float] = {text: float(index) for index, text in enumerate(feature.vocabulary)}
    other = float(len(indexes))
    indexes[None] = feature.missing_value
    return lambda attributes, _: indexes.get(attributes.get(name), other)


def _same_reader(feature: Same) -> RequestReader:
    left_name, right_name, missing = feature.left, feature.right, feature.missing_value

    def read(attributes: Mapping[str, Value], _time: int) -> float:
        left, right = attributes.get(left_name), attributes.get(right_name)
        return missing if left is None or right is None else float(left == right)

    return read


def _cross_reader(feature: Cross) -> RequestReader:
    left_name, right_name, missing = feature.left, feature.right, feature.missing_value
    bucket = functools.lru_cache(maxsize=_CROSSES_KEPT)(functools.partial(cross_bucket, buckets=feature.buckets))

    def read(attributes: Mapping[str, Value], _time: int) -> float:
        left, right = attributes.get(left_name), attributes.get(right_name)
        return missing if left is None or right is None else bucket(_plain(left), _plain(right))

    return read


def _plain(value: Value) -> str:
    """Returns a value as text, so that 1, 1.0 and true, which Python takes for equal, stay apart in a cache."""
    return value if isinstance(value, str) else repr(value)


def cross_bucket(left: str, right: str, *, buckets: int) -> float:
    """Returns the bucket of a pair of texts: 64 bits of BLAKE2b over both, modulo."""
    both = f"{len(left)}:{left}{right}".encode()
    return float(int.from_bytes(hashlib.blake2b(both, digest_size=8).digest(), "big") % buckets)


def looked_up(
    lookup: Lookup, attributes: Mapping[str, Value], *, subjects: Mapping[str, int], numbers: Mapping[str, float]
) -> float:
    """Returns what a version of a lookup table holds at a point: for its public value, else for its entity's token."""
    key = attributes.get(lookup.key)
    if key is None:
        key = subjects.get(lookup.key)
    missing = lookup.missing
    return missing if key is None else numbers.get(key if isinstance(key, str) else repr(key), missing)
