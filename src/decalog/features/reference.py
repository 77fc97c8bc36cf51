"""The rules of the kernel, read out slowly: the oracle that online and offline are held to.

It keeps every change, looks at a point's visible rows one by one, and computes with Python's own integers. It shares
no code with the kernel; use it in tests and to explain a value, never to serve.
"""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
import math
from collections.abc import Collection, Mapping, Sequence

from decalog.clock import duration_us
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
    Rate,
    Ratio,
    Same,
    ZScore,
)
from decalog.features.facts import ALL, Change, Fact, Point, Value
from decalog.features.refusals import crowded, inadmissible, missing_row, row_twice

_STEPS = 256


def evaluate(features: FeatureSet, changes: Sequence[Change], *, point: Point) -> list[float]:
    """Returns the features at one point.

    Args:
        features: the declarations.
        changes: of the partition, in the order of seq; those from the point's position on are not looked at.
        point: where the features are asked for.

    Raises:
        DataError: the point is too late, an entity holds more rows than declared, or the log contradicts itself.

    >>> features = FeatureSet(system="fraud", features=(
    ...     Aggregate(name="card_payments_60s", meaning="payments of the card in the last minute", unit="payments",
    ...               entity="card", aggregate="count", over=("payment",), window="60s"),))
    >>> log = [Change(0, 0, plus=Fact(0, 0, "payment", {"card": 7}, {}))]
    >>> evaluate(features, log, point=Point(1, 59_999_999, entities={"card": 7}))
    [1.0]
    >>> evaluate(features, log, point=Point(1, 60_000_000, entities={"card": 7}))
    [0.0]
    """
    before = [change for change in changes if change.seq < point.state_seq]
    watermark = max((change.known_time for change in before), default=None)
    if watermark is not None and point.time < watermark - duration_us(features.lateness):
        raise inadmissible(point.time, watermark, lateness=features.lateness)
    rows = [fact for fact in visible(before) if fact.root != point.root]
    _check_crowding(features, rows, point=point)
    tables = {change.table.name: change.table.numbers for change in before if change.table is not None}
    return _values(features, rows, tables, point=point)


def _values(
    features: FeatureSet, rows: list[Fact], tables: Mapping[str, Mapping[str, float]], *, point: Point
) -> list[float]:
    found: dict[str, tuple[Feature, float]] = {}
    for feature in features.features:
        if isinstance(feature, Derived):
            value = _derived(feature, [found[part] for part in feature.parts])
        elif isinstance(feature, Lookup):
            value = _lookup(feature, tables.get(feature.table, {}), point=point)
        elif isinstance(feature, Aggregate):
            known = all(name in point.subjects for name in _names(feature.entity))
            value = _aggregate(feature, rows, point=point) if known else feature.missing_value
        else:
            value = _of_request(feature, point)
        found[feature.name] = (feature, value)
    return [value for _, value in found.values()]


def visible(changes: Sequence[Change]) -> list[Fact]:
    """Returns the facts that are live after the changes, sorted by (event_time, root).

    Raises:
        DataError: a change withdraws a row that is not live, or adds one that is.
    """
    live: dict[tuple[int, str], Fact] = {}
    for change in changes:
        minus, plus = change.minus, change.plus
        if minus is not None and live.pop((minus.root, minus.kind), None) is None:
            raise missing_row(change.seq, minus.root, entity="any")
        if plus is not None and (plus.root, plus.kind) in live:
            raise row_twice(change.seq, plus.root, entity="any")
        if plus is not None:
            live[plus.root, plus.kind] = plus
    return sorted(live.values(), key=lambda fact: (fact.event_time, fact.root))


def _check_crowding(features: FeatureSet, rows: list[Fact], *, point: Point) -> None:
    for entity in {feature.entity for feature in features.aggregates}:
        mine = [feature for feature in features.aggregates if feature.entity == entity]
        longest = max(_us(feature.offset) + _us(feature.window) for feature in mine)
        kinds = {kind for feature in mine for kind in feature.over}
        if len(_inside(rows, point, entity=entity, kinds=kinds, window=(longest, 0))) > features.retain:
            raise crowded(entity, retain=features.retain)


def _us(duration: str) -> int:
    return duration_us(duration) if duration else 0


def _inside(
    rows: list[Fact], point: Point, *, entity: str, kinds: Collection[str], window: tuple[int, int]
) -> list[Fact]:
    """Returns the rows of the point's entity, of these kinds, in (t − window[0], t − window[1]]."""
    start, end = point.time - window[0], point.time - window[1]
    inside = [fact for fact in rows if start < fact.event_time <= end and fact.kind in kinds]
    asked = [point.subjects.get(name) for name in _names(entity)]
    if None in asked:
        return []
    return [fact for fact in inside if [fact.entities.get(name) for name in _names(entity)] == asked]


def _names(entity: str) -> list[str]:
    return [] if entity == ALL else entity.split("+")


def _of_request(feature: Feature, point: Point) -> float:
    match feature:
        case Calendar():
            moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=point.time)
            return float(moment.hour if feature.part == "hour_of_day" else moment.weekday())
        case Attribute():
            return _attribute(feature, point)
        case Category():
            return _category(feature, point)
        case Same():
            return _same(feature, point)
        case Cross():
            return _cross(feature, point)
        case _:
            raise AssertionError(feature)


def _cross(feature: Cross, point: Point) -> float:
    left, right = (point.attributes.get(name) for name in (feature.left, feature.right))
    if left is None or right is None:
        return feature.missing_value
    texts = [value if isinstance(value, str) else repr(value) for value in (left, right)]
    hashed = hashlib.blake2b(f"{len(texts[0])}:{''.join(texts)}".encode(), digest_size=8).hexdigest()
    return float(int(hashed, 16) % feature.buckets)


def _lookup(feature: Lookup, numbers: Mapping[str, float], *, point: Point) -> float:
    named: dict[str, Value] = {**point.subjects, **point.attributes}
    if feature.key not in named:
        return feature.missing_value
    key = named[feature.key]
    return numbers.get(key if isinstance(key, str) else repr(key), feature.missing_value)


def _derived(feature: Derived, parts: list[tuple[Feature, float]]) -> float:
    if any(value == declared.missing_value != 0 for declared, value in parts):
        return feature.missing_value
    values = [value for _, value in parts]
    match feature:
        case Ratio():
            top, bottom = values
        case ZScore():
            top, bottom = values[0] - values[1], values[2]
        case Rate():
            top, bottom = values[0], _us(getattr(parts[0][0], "window", "")) / _us(feature.per)
    value = top / bottom if bottom else math.nan
    return value if math.isfinite(value) else feature.missing_value


def _same(feature: Same, point: Point) -> float:
    values = [point.attributes.get(name) for name in (feature.left, feature.right)]
    return feature.missing_value if None in values else float(values[0] == values[1])


def _attribute(feature: Attribute, point: Point) -> float:
    value = point.attributes.get(feature.attribute)
    if isinstance(value, float) and math.isfinite(value):
        return value
    return float(value) if isinstance(value, int) and -(2**63) <= value < 2**63 else feature.missing_value


def _category(feature: Category, point: Point) -> float:
    if feature.attribute not in point.attributes:
        return feature.missing_value
    value = point.attributes[feature.attribute]
    return float(feature.vocabulary.index(value) if value in feature.vocabulary else len(feature.vocabulary))


def _aggregate(feature: Aggregate, rows: list[Fact], *, point: Point) -> float:
    entered = _entered(feature, rows, point=point)
    match feature.aggregate:
        case "count":
            return float(len(entered))
        case "time_since":
            return _time_since(feature, entered, point=point)
        case "distinct":
            return _distinct(feature, entered)
        case "decayed":
            return _decayed(feature, entered, at=point.time - _us(feature.offset))
        case _:
            return _of_numbers(feature, [n for fact in entered if (n := _number(fact, feature)) is not None])


def _entered(feature: Aggregate, rows: list[Fact], *, point: Point) -> list[Fact]:
    """Returns the rows of the window that meet the conditions, in order, the own event last among ties."""
    own = [point.own] if feature.own and point.own is not None else []
    window = (_us(feature.offset) + _us(feature.window), _us(feature.offset))
    inside = _inside(rows + own, point, entity=feature.entity, kinds=feature.over, window=window)
    entered = [fact for fact in inside if all(_holds(condition, fact) for condition in feature.where)]
    return sorted(entered, key=lambda fact: fact.event_time)


def _time_since(feature: Aggregate, entered: list[Fact], *, point: Point) -> float:
    newest = max((fact.event_time for fact in entered), default=None)
    return feature.missing_value if newest is None else float(point.time - newest) / 1e6


def _distinct(feature: Aggregate, entered: list[Fact]) -> float:
    seen = {_identity(fact, feature.column) for fact in entered} - {None}
    return float(len(seen)) if seen else feature.missing_value


def _of_numbers(feature: Aggregate, numbers: list[int]) -> float:
    if feature.aggregate == "sum":
        return float(sum(numbers))
    if not numbers:
        return feature.missing_value
    match feature.aggregate:
        case "mean":
            return float(sum(numbers)) / float(len(numbers))
        case "std":
            return _std(numbers)
        case "min":
            return float(min(numbers))
        case "max":
            return float(max(numbers))
        case "first":
            return float(numbers[0])
        case _:
            return float(numbers[-1])


def _std(numbers: list[int]) -> float:
    mean = float(sum(numbers)) / float(len(numbers))
    variance = float(sum(number**2 for number in numbers)) / float(len(numbers)) - mean * mean
    return math.sqrt(variance) if variance > mean * mean * 1e-12 else 0.0


def _decayed(feature: Aggregate, entered: list[Fact], *, at: int) -> float:
    total = 0
    for fact in entered:
        number = _number(fact, feature) if feature.column else 1
        step = (at - fact.event_time) // (_us(feature.half_life) // 16)
        if number is not None and step <= _STEPS:
            total += number * _weight(step)
    return float(total) / 2.0**20


@functools.cache
def _weight(step: int) -> int:
    """Returns ⌊2²⁰ · 2^(−step/16)⌋: the largest whole number whose sixteenth power does not pass 2^(320 − step)."""
    low, high = 0, 2**20
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**16 <= 2 ** (320 - step) else (low, middle - 1)
    return low


def _holds(condition: Condition, fact: Fact) -> bool:
    value, wanted = fact.attributes.get(condition.attribute), condition.value
    if value is None:
        return False
    if isinstance(wanted, tuple):
        return value in wanted
    if condition.test in ("==", "!="):
        return (value == wanted) == (condition.test == "==")
    if isinstance(value, str) or isinstance(wanted, str):
        return False
    match condition.test:
        case "<":
            return value < wanted
        case "<=":
            return value <= wanted
        case ">":
            return value > wanted
        case _:
            return value >= wanted


def _number(fact: Fact, feature: Aggregate) -> int | None:
    value = fact.attributes.get(feature.column)
    return value if isinstance(value, int) and abs(value) <= feature.bound else None


def _identity(fact: Fact, column: str) -> tuple[str, int | str] | None:
    if column in fact.entities:
        return ("int", fact.entities[column])
    value = fact.attributes.get(column)
    if isinstance(value, str):
        return ("text", value)
    return ("int", value) if isinstance(value, int) and -(2**63) < value < 2**63 else None
