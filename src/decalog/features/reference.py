"""The rules of the kernel, read out slowly: the oracle that online and offline are held to.

It keeps every change, looks at a point's visible rows one by one, and computes with Python's own integers. It shares
no code with the kernel; use it in tests and to explain a value, never to serve.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Collection, Sequence

from decalog.clock import duration_us
from decalog.features.definition import Aggregate, Attribute, Calendar, Category, Feature, FeatureSet, Same
from decalog.features.facts import ALL, Change, Fact, Point
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
        longest = max(duration_us(feature.window) for feature in mine)
        kinds = {kind for feature in mine for kind in feature.over}
        if len(_entered(rows, point, entity=entity, kinds=kinds, window_us=longest)) > features.retain:
            raise crowded(entity, retain=features.retain)


def _entered(rows: list[Fact], point: Point, *, entity: str, kinds: Collection[str], window_us: int) -> list[Fact]:
    """Returns the rows of the point's entity, of these kinds, in (t − w, t]."""
    inside = [fact for fact in rows if point.time - window_us < fact.event_time <= point.time and fact.kind in kinds]
    if entity == ALL:
        return inside
    token = point.subjects.get(entity)
    return [fact for fact in inside if token is not None and fact.entities.get(entity) == token]


def _value(feature: Feature, rows: list[Fact], *, point: Point) -> float:
    match feature:
        case Aggregate():
            known = feature.entity == ALL or feature.entity in point.subjects
            return _aggregate(feature, rows, point=point) if known else feature.missing_value
        case Calendar():
            moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=point.time)
            return float(moment.hour if feature.part == "hour_of_day" else moment.weekday())
        case Attribute():
            return _attribute(feature, point)
        case Category():
            return _category(feature, point)
        case Same():
            return _same(feature, point)


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
    own = [point.own] if feature.own and point.own is not None else []
    window = duration_us(feature.window)
    entered = _entered(rows + own, point, entity=feature.entity, kinds=feature.over, window_us=window)
    match feature.aggregate:
        case "count":
            return float(len(entered))
        case "time_since":
            return _time_since(feature, entered, point=point)
        case "distinct":
            seen = {_identity(fact, feature.column) for fact in entered} - {None}
            return float(len(seen)) if seen else feature.missing_value
        case _:
            return _sum_or_mean(feature, entered)


def _time_since(feature: Aggregate, entered: list[Fact], *, point: Point) -> float:
    newest = max((fact.event_time for fact in entered), default=None)
    return feature.missing_value if newest is None else float(point.time - newest) / 1e6


def _sum_or_mean(feature: Aggregate, entered: list[Fact]) -> float:
    numbers = [number for fact in entered if (number := _number(fact, feature)) is not None]
    if feature.aggregate == "sum":
        return float(sum(numbers))
    return float(sum(numbers)) / float(len(numbers)) if numbers else feature.missing_value


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
