"""Features of events that are columns already, millions of them: no object a row, the same kernel, the same bits.

A row is an event, and the point at which its features are asked for. Numpy arrays come from DuckDB
(`fetchnumpy`), Parquet or anything that speaks numpy; a masked array says where a value is missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.clock import DAY, HOUR
from decalog.errors import DataError
from decalog.features import kernel
from decalog.features.columnar import Images, Timeline, in_order, write_requests
from decalog.features.definition import Attribute, Calendar, Category, Condition, Cross, Feature, FeatureSet, Same
from decalog.features.facts import ALL, ALL_TOKEN, Fact, Point, Value
from decalog.features.kernel import MISSING, Float64s, Int64s
from decalog.features.parts import NONE, Asked, Bools, Visits, check_admissible, fold_parts, visits_of
from decalog.features.plan import Column, EntityPlan, Plan, RequestReader, condition_test, identity

Array = npt.NDArray[Any]
_BLOCK = 1024
_NUMBERS = "biuf"


class EventColumns(msgspec.Struct, frozen=True, kw_only=True):
    """Events as columns, in the log's order; every array has one entry a row.

    Args:
        event_time: int64, µs since the epoch, UTC.
        kind: of all rows, or a text a row.
        entities: entity name → int64 tokens, or texts, which become their 63-bit identities.
        attributes: name → ints, floats, flags or texts; masked, or None in an array of objects, where missing.
        known_time: int64, µs; without it each row was known when it happened.
        seq: int64, ascending; without it the place of the row.
        root: int64, seq of the first record in the row's chain of corrections; without it `seq`.
        withdraws: bool, rows that are the image which a correction or deletion withdraws (−before). They stand in
            front of the image that takes their place (+after), which has the same seq and root.
        asked: bool, rows at which features are asked for; without it all that withdraw nothing.
        tables: the versions of the lookup tables that features read, by the rows' seqs (`columnar.timeline`).
    """

    event_time: Int64s
    kind: Array | str
    entities: Mapping[str, Array]
    attributes: Mapping[str, Array] = {}
    known_time: Int64s | None = None
    seq: Int64s | None = None
    root: Int64s | None = None
    withdraws: Bools | None = None
    asked: Bools | None = None
    tables: Timeline | None = None

    @property
    def n(self) -> int:
        """The number of rows."""
        return len(self.event_time)


def fold_columns(features: FeatureSet, events: EventColumns) -> Float64s:
    """Returns the features at every row that is asked for, float64 of shape (rows asked for, features).

    A row sees the rows with a smaller seq that stand then, and itself as declared: what `offline.fold` gives for the
    same events, each at its own seq and time, to the same bits.

    Args:
        features: the declarations.
        events: in the log's order.

    Raises:
        DataError: the columns do not fit together, a row is too late to be asked about, or rows are out of order,
            withdraw a row that is not live or add one that is.

    >>> from decalog.features.definition import Aggregate
    >>> features = FeatureSet(system="fraud", features=(
    ...     Aggregate(name="card_sum_60s", meaning="spent by the card in the last minute", unit="cents", entity="card",
    ...               aggregate="sum", column="cents", over=("payment",), window="60s"),))
    >>> fold_columns(features, EventColumns(
    ...     event_time=np.array([0, 40, 80]) * 1_000_000, kind="payment",
    ...     entities={"card": np.array(["c7", "c7", "c7"])}, attributes={"cents": np.array([10, 11, 12])})).tolist()
    [[10.0], [21.0], [23.0]]
    """
    _check_lengths(events)
    plan = Plan(features)
    rows = _rows(plan, events)
    chosen = np.flatnonzero(~rows.withdraws if events.asked is None else events.asked)
    log = _images(plan, events, rows=rows)
    asked = _asked(events, rows, table=log.table, chosen=chosen)
    check_admissible(plan, log, asked=asked)
    out = fold_parts(plan, log, asked=asked, visits=_visits(log, asked, images=rows.images, chosen=chosen))
    _write_requests(plan, _Requests(events, chosen, rows.seqs), out=out)
    return out


class _Rows(NamedTuple):
    """What is read from every row once: stamps, bit of its kind (0 for one that no feature reads), image, tokens."""

    seqs: Int64s
    roots: Int64s
    withdraws: Bools
    bits: Int64s
    images: Int64s
    tokens: tuple[Int64s, ...]


def _rows(plan: Plan, events: EventColumns) -> _Rows:
    seqs = in_order(np.arange(events.n) if events.seq is None else events.seq.astype(np.int64, copy=False))
    bits = _kind_bits(plan, events)
    return _Rows(
        seqs=seqs,
        roots=seqs if events.root is None else events.root.astype(np.int64, copy=False),
        withdraws=np.zeros(events.n, np.bool_) if events.withdraws is None else events.withdraws,
        bits=bits,
        images=np.where(bits != 0, np.cumsum(bits != 0) - 1, NONE),
        tokens=tuple(_tokens(entity, events) for entity in plan.entities),
    )


def _check_lengths(events: EventColumns) -> None:
    columns: dict[str, Any] = {name: getattr(events, name) for name in ("known_time", "seq", "root")}
    columns |= {"withdraws": events.withdraws, "asked": events.asked, **events.entities, **events.attributes}
    columns["kind"] = None if isinstance(events.kind, str) else events.kind
    for name, column in columns.items():
        if column is not None and len(column) != events.n:
            raise DataError(
                where=f"event columns, {name!r}",
                given=f"{len(column)} rows, where event_time has {events.n}",
                expected="one entry a row in every column",
                fix="Cut the columns from one table.",
            )


def _images(plan: Plan, events: EventColumns, *, rows: _Rows) -> Images:
    """Returns the rows that features read as images."""
    chosen = np.flatnonzero(rows.bits)
    table = np.empty((len(chosen), plan.width), np.int64)
    table[:, kernel.TIME] = _picked(events.event_time, chosen)
    table[:, kernel.ROOT] = _picked(rows.roots, chosen)
    table[:, kernel.KIND] = _picked(rows.bits, chosen)
    for place, column in enumerate(plan.columns, kernel.FIRST_COLUMN):
        table[:, place] = _picked(_cells(column, events), chosen)
    known = events.event_time if events.known_time is None else events.known_time
    return Images(
        seqs=rows.seqs,
        watermarks=np.maximum.accumulate(known),
        acts=np.where(_picked(rows.withdraws, chosen), kernel.RETRACT, kernel.INSERT),
        changes=chosen,
        table=table,
        tokens=tuple(
            _picked(_kept(plan, entity, bits=rows.bits, tokens=tokens), chosen)
            for entity, tokens in zip(plan.entities, rows.tokens, strict=True)
        ),
        unusable=Counter(),
    )


def _picked(values: Array, ascending: Int64s) -> Array:
    """Returns the chosen entries, without a copy where all are chosen."""
    return values if len(ascending) == len(values) else values[ascending]


def _kept(plan: Plan, entity: EntityPlan, *, bits: Int64s, tokens: Int64s) -> Int64s:
    """Returns whose rows are kept; MISSING where the entity keeps no such kind."""
    kept = bits & sum(plan.bits[kind] for kind in entity.kinds) != 0
    return tokens if kept.all() else np.where(kept, tokens, MISSING)


def _asked(events: EventColumns, rows: _Rows, *, table: Int64s, chosen: Int64s) -> Asked:
    return Asked(
        positions=_picked(rows.seqs, chosen),
        times=_picked(events.event_time, chosen),
        roots=_picked(rows.roots, chosen),
        own=_picked(rows.images, chosen),
        rows=table,
        tokens=tuple(_picked(tokens, chosen) for tokens in rows.tokens),
    )


def _visits(log: Images, asked: Asked, *, images: Int64s, chosen: Int64s) -> Visits:
    """Returns the log's order; where no two rows share a seq, it is the rows', each a point and its own image."""
    if (log.seqs[1:] == log.seqs[:-1]).any():
        return visits_of(log, asked.positions)
    points = np.full(len(images), NONE, np.int64)
    points[chosen] = np.arange(len(chosen))
    is_same = len(chosen) == len(images) == len(log.acts) and bool((log.acts == kernel.INSERT).all())
    return Visits(images, points, is_same)


def _kind_bits(plan: Plan, events: EventColumns) -> Int64s:
    if isinstance(events.kind, str):
        return np.full(events.n, plan.bits.get(events.kind, 0), np.int64)
    return _by_value(events.kind, lambda kind: plan.bits.get(str(kind), 0), missing=0)


def _tokens(entity: EntityPlan, events: EventColumns) -> Int64s:
    """Returns `EntityPlan.asked_token` of every row, MISSING where the entity is missing."""
    if entity.entity == ALL:
        return np.full(events.n, ALL_TOKEN, np.int64)
    if entity.entity in events.entities:
        return _identities(events.entities[entity.entity])
    return _tuple_tokens(entity, events)


def _tuple_tokens(entity: EntityPlan, events: EventColumns) -> Int64s:
    """Returns the tokens of an entity that is written as several (`card+merchant`), each combination asked once."""
    names = [name for name in entity.entity.split("+") if name in events.entities]
    if not names:
        return np.full(events.n, MISSING, np.int64)
    parts = np.column_stack([_identities(events.entities[name]) for name in names])
    unique, places = np.unique(parts, axis=0, return_inverse=True)
    tokens = [
        entity.asked_token({name: token for name, token in zip(names, row, strict=True) if token != MISSING})
        for row in unique.tolist()
    ]
    known = np.array([MISSING if token is None else token for token in tokens], np.int64)
    return known[places.reshape(-1)]


def _cells(column: Column, events: EventColumns) -> Int64s:
    """Returns one column of all rows as the plan reads it from a fact."""
    cells = _plain_cells(column, events)
    for condition in column.where:
        cells = np.where(_holds(condition, events), cells, MISSING)
    return cells


def _plain_cells(column: Column, events: EventColumns) -> Int64s:
    if not column.name:
        return np.ones(events.n, np.int64)
    tokens = events.entities.get(column.name) if not column.bound else None
    values = events.attributes.get(column.name)
    cells = np.full(events.n, MISSING, np.int64)
    if values is not None:
        read = msgspec.structs.replace(column, where=()).encoder()
        cells = _attribute_cells(column, values, read=read)
    if tokens is not None:
        named = _identities(tokens)
        cells = np.where(named == MISSING, cells, named)
    return cells


def _holds(condition: Condition, events: EventColumns) -> Bools:
    """Returns which rows meet a condition."""
    values = events.attributes.get(condition.attribute)
    if values is None:
        return np.zeros(events.n, np.bool_)
    meets = condition_test(condition)
    return _by_value(values, lambda value: int(meets({condition.attribute: value})), missing=0).astype(np.bool_)


def _attribute_cells(column: Column, values: Array, *, read: Callable[[Fact], int]) -> Int64s:
    if values.dtype.kind not in _NUMBERS:
        return _by_value(values, lambda value: read(Fact(0, 0, "", {}, {column.name: value})), missing=MISSING)
    if values.dtype.kind == "f":
        return np.full(len(values), MISSING, np.int64)
    numbers = _int64s(values)
    if not column.bound:
        return numbers
    return np.where((numbers >= -column.bound) & (numbers <= column.bound), numbers, MISSING)


def _identities(values: Array) -> Int64s:
    """Returns ints as they are and texts as their identities; MISSING where there is none."""
    if values.dtype.kind in "biu":
        return _int64s(values)
    return _by_value(values, identity, missing=MISSING)


def _int64s(values: Array) -> Int64s:
    numbers = np.ma.getdata(values)
    missing = np.ma.getmaskarray(values)
    if numbers.dtype.kind == "u":
        missing = missing | (numbers > np.uint64(2**63 - 1))
    whole = numbers.astype(np.int64, copy=False)
    return np.where(missing, MISSING, whole) if missing.any() else whole


def _coded(values: Array) -> tuple[Int64s, list[Any]]:
    """Returns of every entry its place in a list of the different ones; missing entries are None there."""
    plain = np.ma.getdata(values)
    if plain.dtype.kind in _NUMBERS:
        numbers, places = np.unique(plain, return_inverse=True)
        codes, unique = places.reshape(-1).astype(np.int64, copy=False), numbers.tolist()
    else:
        codes, unique = _coded_objects(plain.tolist())
    codes[np.ma.getmaskarray(values)] = len(unique)
    return codes, [*unique, None]


def _coded_objects(values: list[Any]) -> tuple[Int64s, list[Any]]:
    # True, 1 and 1.0 are one key of a dict, as 0.0 and -0.0 are, so mixed values are told apart by how they print.
    plain = set(map(type, values)) <= {str, type(None)}
    keys = values if plain else list(zip(map(type, values), map(repr, values), strict=True))
    unique = dict(zip(keys, values, strict=True))
    places = dict(zip(unique, range(len(unique)), strict=True))
    return np.fromiter(map(places.__getitem__, keys), np.int64, len(keys)), list(unique.values())


def _by_value(values: Array, read: Callable[[Any], int], *, missing: int) -> Int64s:
    """Returns what a function gives for every entry; it is called once for each different one."""
    codes, unique = _coded(values)
    return np.array([missing if value is None else read(value) for value in unique], np.int64)[codes]


def _write_requests(plan: Plan, asked: _Requests, *, out: Float64s) -> None:
    """Writes the features of the requests themselves; where there is something to look up, row by row."""
    if plan.lookups and asked.events.tables is None:
        raise DataError(
            where="event columns",
            given=f"features that look up {', '.join(sorted(plan.features.reads.tables or ()))}, and no tables",
            expected="the versions of these tables, by the seqs of the rows",
            fix="Pass tables={name: [(seq, numbers), …]}, or join the table before (docs/howto/point-in-time.md).",
        )
    if not _has_ways(plan, asked.events.tables or {}):
        asked.write_each(plan, out)
        return
    for place, read in plan.request_readers:
        feature = plan.features.features[place]
        out[:, place] = _WAYS[type(feature)](asked, feature, read)
    for place, lookup in plan.lookups:
        out[:, place] = lookup.missing_value
    plan.formulas.write(out)


def _has_ways(plan: Plan, tables: Timeline) -> bool:
    """Whether all features of requests are of kinds that are read by column, and nothing is there to look up."""
    kinds = {type(plan.features.features[place]) for place, _ in plan.request_readers}
    return kinds <= _WAYS.keys() and tables.keys().isdisjoint(lookup.table for _, lookup in plan.lookups)


class _Requests:
    """The rows that are asked for, as requests."""

    def __init__(self, events: EventColumns, chosen: Int64s, seqs: Int64s) -> None:
        self.times = events.event_time[chosen]
        self.n = len(chosen)
        self.events, self._chosen, self._seqs = events, chosen, seqs

    def column(self, name: str) -> Array | None:
        values = self.events.attributes.get(name)
        return None if values is None else values[self._chosen]

    def write_each(self, plan: Plan, out: Float64s) -> None:
        looked_up = {lookup.key for _, lookup in plan.lookups}
        entities = {name: _identities(values) for name, values in self.events.entities.items() if name in looked_up}
        for start in range(0, self.n, _BLOCK):
            block = self._chosen[start : start + _BLOCK]
            attributes = _dicts(self.events.attributes, block, absent=None)
            tokens = _dicts(entities, block, absent=MISSING)
            times, seqs = self.events.event_time[block].tolist(), self._seqs[block].tolist()
            points = [
                Point(seq, time, own=Fact(0, time, "", whose, values))
                for seq, time, whose, values in zip(seqs, times, tokens, attributes, strict=True)
            ]
            write_requests(plan, points, out=out[start : start + _BLOCK], tables=self.events.tables)


def _dicts(columns: Mapping[str, Array], rows: Int64s, *, absent: int | None) -> list[dict[str, Any]]:
    """Returns what rows hold, as one dict a row without what is absent."""
    found: list[dict[str, Any]] = [{} for _ in rows]
    for name, values in columns.items():
        for row, value in zip(found, values[rows].tolist(), strict=True):
            if value != absent:
                row[name] = value
    return found


def _numbers(asked: _Requests, feature: Attribute, read: RequestReader) -> Float64s:
    values = asked.column(feature.attribute)
    if values is None or values.dtype.kind not in _NUMBERS:
        return _read_each(asked, (feature.attribute,), read)
    plain = np.ma.getdata(values).astype(np.float64)
    return np.where(np.ma.getmaskarray(values) | ~np.isfinite(plain), feature.missing_value, plain)


def _indexes(asked: _Requests, feature: Category, read: RequestReader) -> Float64s:
    return _read_each(asked, (feature.attribute,), read)


def _equalities(asked: _Requests, feature: Same, read: RequestReader) -> Float64s:
    return _read_each(asked, (feature.left, feature.right), read)


def _crossed(asked: _Requests, feature: Cross, read: RequestReader) -> Float64s:
    return _read_each(asked, (feature.left, feature.right), read)


def _read_each(asked: _Requests, names: tuple[str, ...], read: RequestReader) -> Float64s:
    """Returns what a reader gives for every row; it is called once for each different combination of values."""
    columns = [asked.column(name) for name in names]
    coded = [_coded(np.full(asked.n, None, object) if column is None else column) for column in columns]
    combined = np.zeros(asked.n, np.int64)
    for codes, unique in coded:
        combined = combined * len(unique) + codes
    different, places = np.unique(combined, return_inverse=True)
    values = np.empty(len(different))
    for number, key in enumerate(different.tolist()):
        row: dict[str, Value] = {}
        for name, (_, unique) in zip(reversed(names), reversed(coded), strict=True):
            key, place = divmod(key, len(unique))  # noqa: PLW2901 - the key is taken apart from its end
            if unique[place] is not None:
                row[name] = unique[place]
        values[number] = read(row, 0)
    return values[places.reshape(-1)]


def _calendar(asked: _Requests, feature: Calendar, _read: RequestReader) -> Float64s:
    # 1970-01-01 was a Thursday.
    parts = asked.times // HOUR % 24 if feature.part == "hour_of_day" else (asked.times // DAY + 3) % 7
    return parts.astype(np.float64)


_WAYS: Mapping[type[Feature], Callable[[_Requests, Any, RequestReader], Float64s]] = {
    Attribute: _numbers,
    Category: _indexes,
    Same: _equalities,
    Cross: _crossed,
    Calendar: _calendar,
}
