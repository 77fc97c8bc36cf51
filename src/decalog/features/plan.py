"""A feature set as the kernel's integer tables, and facts as its int64 rows.

A row over all columns is (event_time, root, kind bit, columns…); each entity keeps only the columns it needs.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np

from decalog.clock import DAY, HOUR
from decalog.features import kernel
from decalog.features.definition import Aggregate, Attribute, Calendar, Category, Feature, FeatureSet, Same
from decalog.features.facts import ALL, ALL_TOKEN, Fact, Point, Value
from decalog.features.kernel import MISSING, Float64s, Int64s

_OPERATIONS = {
    "count": kernel.COUNT,
    "sum": kernel.SUM,
    "mean": kernel.MEAN,
    "distinct": kernel.DISTINCT,
    "time_since": kernel.TIME_SINCE,
}
_INT64 = 2**63
NO_ROOT = -1

RequestReader = Callable[[Mapping[str, Value], int], float]
"""(the request's attributes, time) → value of a feature."""


class Column(msgspec.Struct, frozen=True):
    """What one column of a row holds.

    Args:
        name: of the attribute, or of the entity.
        bound: most |value| of a number in sums and means; 0 for identities in distinct.
    """

    name: str
    bound: int

    def encoder(self) -> Callable[[Fact], int]:
        """Returns the function that reads the column from a fact as int64; MISSING where it is absent or unusable."""
        name, bound = self.name, self.bound

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
        kinds: kinds of rows that it keeps.
        picks: the columns that it keeps of a row over all columns.
        lanes, outputs: see `kernel`; outputs ascend by window.
    """

    entity: str
    kinds: frozenset[str]
    picks: Int64s
    lanes: Int64s
    outputs: Int64s

    @property
    def longest_us(self) -> int:
        """The entity's longest window in µs."""
        return int(self.outputs[-1, kernel.WINDOW])

    def asked_token(self, entities: Mapping[str, int]) -> int | None:
        """Returns whose rows are asked for; None where the entity is missing."""
        return ALL_TOKEN if self.entity == ALL else entities.get(self.entity)


class Plan:
    """A feature set made ready for the kernel.

    Args:
        features: the declarations.

    Attributes:
        bits: kind of row → its bit; kinds that no feature reads are absent.
        columns: of a row, after event_time, root and kind.
        entities: one plan an entity name.
        cell_readers: one function a column, from a fact to its int64.
        request_readers: place in the vector and function of (attributes, time) for each feature of the request itself.
        blank: the vector with every value missing, float64 of shape (features,).
    """

    def __init__(self, features: FeatureSet) -> None:
        self.features = features
        aggregates = features.aggregates
        self.bits = _bits(aggregates)
        self.columns = tuple(dict.fromkeys(column for f in aggregates if (column := _column(f)) is not None))
        self.cell_readers = tuple(column.encoder() for column in self.columns)
        self.width = kernel.FIRST_COLUMN + len(self.columns)
        self.entities = tuple(self._entity_plan(name) for name in dict.fromkeys(f.entity for f in aggregates))
        self.blank = np.array([feature.missing_value for feature in features.features], np.float64)
        self.request_readers = tuple(
            (place, _reader(feature))
            for place, feature in enumerate(features.features)
            if not isinstance(feature, Aggregate)
        )
        self._places = np.array([place for place, _ in self.request_readers], np.intp)

    def row(self, fact: Fact) -> list[int]:
        """Returns the fact over all columns; its kind must be in `bits`."""
        row = [fact.event_time, fact.root, self.bits[fact.kind]]
        row += [read(fact) for read in self.cell_readers]
        return row

    def unusable(self, fact: Fact) -> list[str]:
        """Returns the columns whose value is there but cannot enter: another type, or beyond the declared bound."""
        return [
            column.name
            for column, read in zip(self.columns, self.cell_readers, strict=True)
            if read(fact) == MISSING and fact.attributes.get(column.name) is not None
        ]

    def _place_of(self, column: Column | None) -> int:
        """Returns where a column stands in a row over all columns; counts and times read event_time."""
        return kernel.TIME if column is None else kernel.FIRST_COLUMN + self.columns.index(column)

    def write_request(self, point: Point, out: Float64s) -> None:
        """Writes the features of the request itself into the vector."""
        attributes, time = point.attributes, point.time
        if self.request_readers:
            out[self._places] = [read(attributes, time) for _, read in self.request_readers]

    def _entity_plan(self, entity: str) -> EntityPlan:
        mine = [feature for feature in self.features.aggregates if feature.entity == entity]
        mine.sort(key=lambda feature: feature.window_us)
        used = {self._place_of(_column(feature)) for feature in mine}
        picks = sorted(used | set(range(kernel.FIRST_COLUMN)))
        lanes: dict[tuple[int, int, int, int, int], int] = {}
        outputs = []
        for feature in mine:
            column = self._place_of(_column(feature))
            kinds = sum(self.bits[kind] for kind in feature.over)
            lane = (_OPERATIONS[feature.aggregate], kinds, picks.index(column), column, int(feature.own))
            place = self.features.names.index(feature.name)
            outputs.append((lanes.setdefault(lane, len(lanes)), feature.window_us, place))
        return EntityPlan(
            entity=entity,
            kinds=frozenset(kind for feature in mine for kind in feature.over),
            picks=np.array(picks, np.int64),
            lanes=_numbered_sets(list(lanes)),
            outputs=np.array(outputs, np.int64),
        )


def _bits(aggregates: Sequence[Aggregate]) -> dict[str, int]:
    kinds = sorted({kind for feature in aggregates for kind in feature.over})
    return {kind: 1 << index for index, kind in enumerate(kinds)}


def _column(feature: Aggregate) -> Column | None:
    if feature.aggregate in ("sum", "mean"):
        return Column(feature.column, feature.bound)
    return Column(feature.column, 0) if feature.aggregate == "distinct" else None


def _numbered_sets(lanes: list[tuple[int, int, int, int, int]]) -> Int64s:
    """Returns the lanes as a table, with a set for each distinct one."""
    table = np.full((len(lanes), kernel.LANE_WIDTH), -1, np.int64)
    sets = 0
    for index, lane in enumerate(lanes):
        table[index, : kernel.SET] = lane
        if lane[kernel.OPERATION] == kernel.DISTINCT:
            table[index, kernel.SET] = sets
            sets += 1
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
