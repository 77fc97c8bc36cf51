"""One row of a file → what the schema's parser takes, or the reason why not."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

import msgspec

from decalog.clock import rfc3339
from decalog.data.csvrows import BrokenRow, Row
from decalog.data.frames import Column
from decalog.data.mapping import AmountCell, DataMap, FileOptions, Known, OutcomeCell, signal_name
from decalog.data.values import AmountReader, CellError, Convert, TimeReader, converter, currency_code, tidy_whole
from decalog.errors import RequestError
from decalog.schema import Schema

_FLOAT_TYPES = ("DOUBLE", "FLOAT")


class MappedOutcome(msgspec.Struct, frozen=True):
    """An outcome as the schema's parser takes it, and when it was known, µs."""

    raw: dict[str, Any]
    known_us: int


class MappedRow(msgspec.Struct, frozen=True):
    """A request as the schema's parser takes it, when it happened and was known, µs, and its outcomes."""

    raw: dict[str, Any]
    event_us: int
    known_us: int
    outcomes: list[MappedOutcome]


class RowMapper:
    """Maps rows of one frame.

    Args:
        mapping: checked against the schema, and against the frame's columns.
        name: of the frame, for messages.
        columns: of the frame.
        schema: with the mapping's signals.
    """

    def __init__(self, mapping: DataMap, name: str, *, columns: Sequence[Column], schema: Schema) -> None:
        self._map = mapping
        self._name = name
        self._noun = schema.noun
        places = {column.name: place for place, column in enumerate(columns)}
        floats = {column.name for column in columns if column.type in _FLOAT_TYPES}
        self._id_place = places.get(mapping.id.column, -1)
        self._id_tidy = tidy_whole if mapping.id.column in floats else str.strip
        self._time = TimeReader(mapping.event_time, mapping.file)
        self._time_place = places[mapping.event_time.column]
        self._known = _KnownReader(mapping.known, mapping.file, places)
        self._plan = list(_plan(mapping, schema, places, floats=floats))
        self._signals = _Signals(mapping, schema, places)
        self._amounts = [_AmountCells(field, cell, mapping.file, places) for field, cell in mapping.amounts.items()]
        self._currency = next((f.name for f in schema.request.fields if f.kind == "currency"), "currency")
        self._outcomes = [
            (cell, places[cell.column], _KnownReader(cell.known, mapping.file, places)) for cell in mapping.outcomes
        ]

    def row(self, row: Row | BrokenRow) -> MappedRow:
        """Returns a row as the schema's parser takes it.

        Raises:
            RequestError: the row is broken, or a cell cannot be used; the message names file, line and field.
        """
        if isinstance(row, BrokenRow):
            raise RequestError(
                where=f"{self._name} line {row.line}, {row.reason}",
                given=row.given,
                expected="a row of the same shape as the header",
                fix=row.fix,
            )
        field = "event_time"
        try:
            event_us = self._time.us(_required(row.cells[self._time_place]))
            field = "id"
            raw: dict[str, Any] = {"id": self._id(row), "event_time": rfc3339(event_us)}
            field = "known_time"
            known_us = self._known.us(row.cells, event_us)
            field = ""
            self._fields(row.cells, raw)
            outcomes = self._outcomes_of(row.cells, raw, event_us)
        except CellError as error:
            raise RequestError(
                where=f"{self._name} line {row.line}, {error.field or field}",
                given=error.given,
                expected=error.expected,
                fix=error.fix,
            ) from None
        return MappedRow(raw, event_us, known_us, outcomes)

    def sent(self, row: Row | BrokenRow) -> dict[str, Any]:
        """Returns a refused row under the schema's names as far as it has any, for the quarantine."""
        if isinstance(row, BrokenRow):
            return {"line": row.line, "text": row.text}
        places = {"id": self._id_place, "event_time": self._time_place}
        places |= {field: place for field, place, _ in self._plan} | self._signals.places
        places |= {cells.field: cells.place for cells in self._amounts}
        places |= {cell.kind: place for cell, place, _ in self._outcomes}
        named = {field: row.cells[place] for field, place in places.items() if place >= 0}
        return {"line": row.line, **{field: text for field, text in named.items() if text}}

    def _id(self, row: Row) -> str:
        if self._id_place < 0:
            return f"{self._map.id.prefix}{row.number}"
        return self._id_tidy(_required(row.cells[self._id_place]))

    def _fields(self, cells: Sequence[str | None], raw: dict[str, Any]) -> None:
        field = ""
        try:
            for field, place, convert in self._plan:
                text = cells[place]
                value = convert(text) if text else None
                if value is not None and value != "":
                    raw[field] = value
            self._signals.read(cells, raw)
            for amount in self._amounts:
                field = amount.field
                amount.read(cells, raw, currency=self._currency)
        except CellError as error:
            error.field = error.field or field
            raise

    def _outcomes_of(self, cells: Sequence[str | None], raw: dict[str, Any], event_us: int) -> list[MappedOutcome]:
        made = []
        for cell, place, known in self._outcomes:
            text = cells[place]
            try:
                value = _outcome_value(cell, text) if text else None
                if value is not None:
                    made.append(self._outcome(raw, cell, value, known_us=known.us(cells, event_us)))
            except CellError as error:
                error.field = cell.kind
                raise
        return made

    def _outcome(self, raw: dict[str, Any], cell: OutcomeCell, value: float, *, known_us: int) -> MappedOutcome:
        # Where only a delay is assumed, the time of the outcome itself is unknown; the request's stands for it, so that
        # importing the same file later gives the same outcome.
        happened = raw["event_time"] if cell.known.at is None else rfc3339(known_us)
        outcome = {
            "id": f"{raw['id']}:{cell.kind}",
            self._noun: raw["id"],
            "kind": cell.kind,
            "source": cell.source,
            "value": value,
            "event_time": happened,
        }
        return MappedOutcome(outcome, known_us)


class _Signals:
    """The user's own numbers. A row that has them all, finite, is read in a few calls; any other one by one."""

    def __init__(self, mapping: DataMap, schema: Schema, places: Mapping[str, int]) -> None:
        fields = {field.name: field for field in schema.request.fields}
        self.places = {signal_name(column): places[column] for column in mapping.signals}
        self._converts = [converter(fields[name], {}, options=mapping.file) for name in self.places]
        self._names = tuple(self.places)
        # One place alone would make itemgetter give a bare value instead of a tuple.
        self._pick = itemgetter(*self.places.values()) if len(self._names) > 1 else None

    def read(self, cells: Sequence[str | None], raw: dict[str, Any]) -> None:
        if self._pick is not None:
            try:
                values = list(map(float, self._pick(cells)))
            except (ValueError, TypeError):
                values = [math.nan]
            if math.isfinite(sum(values)):
                raw.update(zip(self._names, values, strict=True))
                return
        self._read_each(cells, raw)

    def _read_each(self, cells: Sequence[str | None], raw: dict[str, Any]) -> None:
        name = ""
        try:
            for (name, place), convert in zip(self.places.items(), self._converts, strict=True):
                text = cells[place]
                value = convert(text) if text else None
                if value is not None:
                    raw[name] = value
        except CellError as error:
            error.field = name
            raise


class _AmountCells:
    """An amount's cells: how many, and of what currency."""

    def __init__(self, field: str, cell: AmountCell, options: FileOptions, places: Mapping[str, int]) -> None:
        self.field = field
        self.place = places[cell.column]
        self._code = cell.currency
        self._currency_place = places.get(cell.currency_column, -1)
        self._reader = AmountReader(cell, options)

    def read(self, cells: Sequence[str | None], raw: dict[str, Any], *, currency: str) -> None:
        text = cells[self.place]
        if not text:
            return
        try:
            code = self._code or currency_code(_required(cells[self._currency_place]))
        except CellError as error:
            error.field = currency
            raise
        raw[self.field] = self._reader.minor(text, code)
        raw[currency] = code


class _KnownReader:
    """When something was known: a column says so, or it is a delay after the request's time."""

    def __init__(self, known: Known, options: FileOptions, places: Mapping[str, int]) -> None:
        self._delay_us = known.delay_us
        self._place = -1 if known.at is None else places[known.at.column]
        self._time = None if known.at is None else TimeReader(known.at, options)

    def us(self, cells: Sequence[str | None], event_us: int) -> int:
        if self._time is None:
            return event_us + self._delay_us
        known = self._time.us(_required(cells[self._place]))
        if known < event_us:
            fix = "Check the column and its unit; leave known_time out and state a delay where it means something else."
            raise CellError("known before it happened", "a time at or after event_time", fix)
        return known


def _plan(
    mapping: DataMap, schema: Schema, places: Mapping[str, int], *, floats: Container[str]
) -> Iterator[tuple[str, int, Convert]]:
    fields = {field.name: field for field in schema.request.fields}
    for name, cell in mapping.fields.items():
        convert = converter(fields.get(name), cell.values, options=mapping.file)
        is_key = name not in fields or fields[name].kind == "text"
        yield name, places[cell.column], _tidied(convert) if is_key and cell.column in floats else convert
    if mapping.taken is not None:
        yield "taken", places[mapping.taken.column], converter(None, mapping.taken.values, options=mapping.file)


def _tidied(convert: Convert) -> Convert:
    return lambda text: convert(tidy_whole(text))


def _outcome_value(cell: OutcomeCell, text: str) -> float | None:
    if text in cell.silent:
        return None
    for known in (text, text.strip(), tidy_whole(text)):
        if known in cell.values:
            return cell.values[known]
        if known in cell.silent:
            return None
    listed = ", ".join([*cell.values, *cell.silent])
    fix = "List it under values, or under silent where it tells nothing."
    raise CellError("a value that the mapping does not list", f"one of: {listed}", fix)


def _required(text: str | None) -> str:
    if text and text.strip():
        return text
    raise CellError("an empty cell", "a value", "Fill it in, or map another column.")
