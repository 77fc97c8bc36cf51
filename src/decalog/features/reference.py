"""The rules of the kernel, read out slowly: the oracle that online and offline are held to.

It keeps every change, looks at a point's visible rows one by one, and computes with Python's own integers. It shares
no code with the kernel; use it in tests and to explain a value, never to serve.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence

from decalog.clock import duration_us
from decalog.features.definition import Aggregate, Attribute, Calendar, Category, Feature, FeatureSet
from decalog.features.facts import ALL, ALL_TOKEN, Change, Fact, Point
from decalog.features.refusals import crowded, inadmissible, missing_row, row_twice


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
    return [_value(feature, rows, point=point) for feature in features.features]


def visible(changes: Sequence[Change]) -> list[Fact]:
    """Returns the facts that are live after the changes, sorted by (event_time, root).

    Raises:
        DataError: a change withdraws a row that is not live, or adds one that is.
    """
    live: dict[tuple[int, str], Fact] = {}
    for change in changes:
        if change.minus is not None:
            if live.pop((change.minus.root, change.minus.kind), None) is None:
                raise missing_row(change.seq, change.minus.root, entity="any")
        if change.plus is not None:
            if (change.plus.root, change.plus.kind) in live:
                raise row_twice(change.seq, change.plus.root, entity="any")
            live[change.plus.root, change.plus.kind] = change.plus
    return sorted(live.values(), key=lambda fact: (fact.event_time, fact.root))


def _check_crowding(features: FeatureSet, rows: list[Fact], *, point: Point) -> None:
    for entity in {feature.entity for feature in features.aggregates}:
        mine = [feature for feature in features.aggregates if feature.entity == entity]
        kinds = {kind for feature in mine for kind in feature.over}
        longest = max(duration_us(feature.window) for feature in mine)
        held = [
            f
            for f in rows
            if f.kind in kinds and _belongs(f, entity, point=point) and _inside(f, point.time, window_us=longest)
        ]
        if len(held) > features.retain:
            raise crowded(entity, features.retain)


def _value(feature: Feature, rows: list[Fact], *, point: Point) -> float:
    if isinstance(feature, Aggregate):
        if feature.entity != ALL and feature.entity not in point.subjects:
            return feature.missing_value
        return _aggregate(feature, rows, point=point)
    if isinstance(feature, Calendar):
        moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=point.time)
        return float(moment.hour if feature.part == "hour_of_day" else moment.weekday())
    if isinstance(feature, Attribute):
        return _attribute(feature, point)
    if isinstance(feature, Category):
        if feature.attribute not in point.attributes:
            return feature.missing_value
        known = [float(i) for i, text in enumerate(feature.vocabulary) if text == point.attributes[feature.attribute]]
        return known[0] if known else float(len(feature.vocabulary))
    if feature.left not in point.attributes or feature.right not in point.attributes:
        return feature.missing_value
    return 1.0 if point.attributes[feature.left] == point.attributes[feature.right] else 0.0


def _attribute(feature: Attribute, point: Point) -> float:
    value = point.attributes.get(feature.attribute)
    usable = isinstance(value, int) and -(2**63) <= value < 2**63 or isinstance(value, float) and math.isfinite(value)
    return float(value) if usable and value is not None else feature.missing_value


def _aggregate(feature: Aggregate, rows: list[Fact], *, point: Point) -> float:
    own = [point.own] if feature.own and point.own is not None else []
    window = duration_us(feature.window)
    entered = [
        fact
        for fact in rows + own
        if fact.kind in feature.over
        and _belongs(fact, feature.entity, point=point)
        and _inside(fact, point.time, window_us=window)
    ]
    if feature.aggregate == "count":
        return float(len(entered))
    if feature.aggregate == "time_since":
        newest = max((fact.event_time for fact in entered), default=None)
        return feature.missing_value if newest is None else float(point.time - newest) / 1e6
    if feature.aggregate == "distinct":
        seen = {value for fact in entered if (value := _identity(fact, feature.column)) is not None}
        return float(len(seen)) if seen else feature.missing_value
    numbers = [number for fact in entered if (number := _number(fact, feature)) is not None]
    if feature.aggregate == "sum":
        return float(sum(numbers))
    return float(sum(numbers)) / float(len(numbers)) if numbers else feature.missing_value


def _belongs(fact: Fact, entity: str, *, point: Point) -> bool:
    if entity == ALL:
        return True
    return entity in point.subjects and fact.entities.get(entity) == point.subjects[entity]


def _inside(fact: Fact, time: int, *, window_us: int) -> bool:
    return time - window_us < fact.event_time <= time


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
