"""The rules of the kernel, read out slowly: the oracle that online and offline are held to.

It keeps every change, looks at a point's visible rows one by one, and computes with Python's own integers. It shares
no code with the kernel; use it in tests and to explain a value, never to serve.
"""

from __future__ import annotations

import datetime as dt
import functools
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

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
from decalog.features.refusals import inadmissible, missing_row, row_twice

_STEPS = 256


class Held(NamedTuple):
    """What one entity token holds: its rows in order, and the time up to which rows had to go; None for none."""

    rows: list[Fact]
    mark: int | None


def evaluate(features: FeatureSet, changes: Sequence[Change], *, point: Point) -> list[float]:
    """Returns the features at one point.

    Args:
        features: the declarations.
        changes: of the partition, in the order of seq; those from the point's position on are not looked at.
        point: where the features are asked for.

    Raises:
        DataError: the point is too late, or the log contradicts itself.

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
    visible(before)  # it says what contradicts itself
    entities = {feature.entity for feature in features.aggregates}
    everyone = {entity: held(features, before, entity=entity, subjects=point.subjects) for entity in entities}
    tables = {change.table.name: change.table.numbers for change in before if change.table is not None}
    return _values(features, everyone, tables, point=point)


def _values(
    features: FeatureSet, everyone: Mapping[str, Held], tables: Mapping[str, Mapping[str, float]], *, point: Point
) -> list[float]:
    found: dict[str, tuple[Feature, float]] = {}
    for feature in features.features:
        if isinstance(feature, Derived):
            value = _derived(feature, [found[part] for part in feature.parts])
        elif isinstance(feature, Lookup):
            value = _lookup(feature, tables.get(feature.table, {}), point=point)
        elif isinstance(feature, Aggregate):
            known = None not in _tokens(feature.entity, point.subjects)
            value = _aggregate(feature, everyone[feature.entity], point=point) if known else feature.missing_value
        else:
            value = _of_request(feature, point)
        found[feature.name] = (feature, value)
    return [value for _, value in found.values()]


def visible(changes: Sequence[Change]) -> list[Fact]:
    """Returns the facts that are live after the changes, sorted by (event_time, root).

    Raises:
        DataError: a change withdraws a row that is not live, or adds one that is.
    """
    live: dict[tuple[int, str, int], Fact] = {}
    for change in changes:
        minus, plus = change.minus, change.plus
        if minus is not None and live.pop(_row_of(minus), None) is None:
            raise missing_row(change.seq, minus.root, entity="any")
        if plus is not None and _row_of(plus) in live:
            raise row_twice(change.seq, plus.root, entity="any")
        if plus is not None:
            live[_row_of(plus)] = plus
    return sorted(live.values(), key=lambda fact: (fact.event_time, fact.root))


def held(features: FeatureSet, changes: Sequence[Change], *, entity: str, subjects: Mapping[str, int]) -> Held:
    """Returns what an entity's token holds after changes, taken in one after the other (rule 11 of the log).

    Args:
        features: the declarations.
        changes: in the order of seq.
        entity: name, as declared.
        subjects: entity name → token; says whose rows.
    """
    rows: list[Fact] = []
    mark: int | None = None
    for fact, comes in _steps(features, changes, entity=entity, asked=_tokens(entity, subjects)):
        if mark is not None and fact.event_time <= mark:
            continue
        if comes:
            rows.append(fact)
        else:
            rows = [row for row in rows if _row_of(row) != _row_of(fact)]
        if len(rows) > features.retain:
            mark = min(row.event_time for row in rows)
            rows = [row for row in rows if row.event_time > mark]
    return Held(sorted(rows, key=lambda fact: (fact.event_time, fact.root)), mark)


def _steps(
    features: FeatureSet, changes: Sequence[Change], *, entity: str, asked: list[int | None]
) -> Iterator[tuple[Fact, bool]]:
    """Yields each image of an entity's token, and whether it comes or goes."""
    kinds = {kind for feature in features.aggregates if feature.entity == entity for kind in feature.over}
    for change in changes:
        for fact, comes in ((change.minus, False), (change.plus, True)):
            if fact is not None and fact.kind in kinds and _tokens(entity, fact.entities) == asked:
                yield fact, comes


def _tokens(entity: str, subjects: Mapping[str, int]) -> list[int | None]:
    return [subjects.get(name) for name in _names(entity)]


def _row_of(fact: Fact) -> tuple[int, str, int]:
    # By its time too: what a slate shows is several rows of one root and kind.
    return fact.root, fact.kind, fact.event_time


def _us(duration: str) -> int:
    return duration_us(duration) if duration else 0


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
    if any(value == declared.missing_value != 0 or _is_crowded(declared, value) for declared, value in parts):
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


def _is_crowded(feature: Feature, value: float) -> bool:
    return isinstance(feature, Aggregate) and value == feature.crowded


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


def _aggregate(feature: Aggregate, mine: Held, *, point: Point) -> float:
    if mine.mark is not None and point.time - _us(feature.offset) - _us(feature.window) < mine.mark:
        return float(feature.crowded)
    entered = _entered(feature, mine.rows, point=point)
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
    seen = [fact for fact in rows if fact.root != point.root] + own
    end = point.time - _us(feature.offset)
    start = end - _us(feature.window)
    inside = [fact for fact in seen if start < fact.event_time <= end and fact.kind in feature.over]
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
