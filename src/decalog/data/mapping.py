"""The mapping: which column means what. Written in TOML, checked whole, so that every mistake is told at once."""

from __future__ import annotations

import datetime as dt
import re
import tomllib
import zoneinfo
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import msgspec

from decalog.clock import duration_us, time_us
from decalog.data.csvrows import DELIMITERS, ENCODINGS
from decalog.data.reading import Table
from decalog.errors import ConfigError, DataError, near
from decalog.ingest import Rates
from decalog.money import EXPONENTS
from decalog.schema import Field, OutcomeKind, Schema

TimeUnit = Literal["rfc3339", "s", "ms", "us"]
TIME_UNITS: tuple[TimeUnit, ...] = ("rfc3339", "s", "ms", "us")
MONEY_UNITS = ("major", "minor")


class Cell(msgspec.Struct, frozen=True):
    """A column, and which of its values are called otherwise in our schema; values not listed stay as they are."""

    column: str
    values: dict[str, str] = {}


class TimeCell(msgspec.Struct, frozen=True):
    """A column of times.

    Args:
        column: its name.
        unit: rfc3339 (also with a blank for the T), or a number of s, ms or us since `since_us`.
        since_us: where numbers start, µs since the epoch; 0 is the epoch itself.
        format: of `strptime`, for texts that are not RFC 3339; "" for those that are.
    """

    column: str
    unit: TimeUnit = "rfc3339"
    since_us: int = 0
    format: str = ""


class AmountCell(msgspec.Struct, frozen=True):
    """A column of amounts in major (12.34) or minor (1234) units, all of one currency or with a column that says it."""

    column: str
    unit: str
    currency: str = ""
    currency_column: str = ""


class IdCell(msgspec.Struct, frozen=True):
    """The key of a row: a column, or the number of the row behind a prefix of the file's own."""

    column: str = ""
    prefix: str = ""


class Known(msgspec.Struct, frozen=True):
    """When a row was known: at the time in a column, or a delay after it happened, µs."""

    delay_us: int = 0
    at: TimeCell | None = None


class OutcomeCell(msgspec.Struct, frozen=True):
    """A column that tells an outcome.

    Args:
        kind, source: as the schema calls them.
        column: its name.
        values: text in the column → value of the outcome.
        silent: texts that tell nothing; so does an empty cell.
        known: when the outcome was known, counted from the request's event_time.
    """

    kind: str
    source: str
    column: str
    values: dict[str, float]
    silent: tuple[str, ...]
    known: Known


class FileOptions(msgspec.Struct, frozen=True):
    """How a file is written: delimiter and encoding of a CSV, decimal mark, time zone of times without an offset."""

    delimiter: str = ""
    encoding: str = "utf-8"
    decimal: str = "."
    timezone: str = ""


class DataMap(msgspec.Struct, frozen=True, kw_only=True):
    """A checked mapping.

    Args:
        system: name of the system that it is for.
        id, event_time, known: key and times of a request.
        fields: schema name of a field or entity → its column.
        amounts: schema name of an amount → its column, unit and currency.
        taken: column with the action that the user's own system took; None where there was none.
        outcomes: in the order of the file.
        signals: columns that become the user's own numeric request fields.
        file: how the file is written.
        rates: for amounts in other currencies; None where the mapping states none.
        max_bad_share: share of broken rows above which an import fails, 0 to 1.
    """

    system: str
    id: IdCell
    event_time: TimeCell
    known: Known
    fields: dict[str, Cell]
    amounts: dict[str, AmountCell]
    taken: Cell | None
    outcomes: tuple[OutcomeCell, ...]
    signals: tuple[str, ...]
    file: FileOptions
    rates: Rates | None
    max_bad_share: float

    @property
    def columns(self) -> dict[str, str]:
        """Every column that is named, with the place in the mapping that names it first."""
        times = [("[request] event_time", self.event_time), ("[request] known_time", self.known.at)]
        times += [(f"[outcomes.{o.kind}] known_time", o.known.at) for o in self.outcomes]
        named = [(place, cell.column) for place, cell in times if cell is not None]
        named += [("[request] id", self.id.column), ("[request] taken", self.taken.column if self.taken else "")]
        named += [(f"[request] {name}", cell.column) for name, cell in self.fields.items()]
        for name, amount in self.amounts.items():
            named += [(f"[request] {name}", amount.column), (f"[request] {name}, currency", amount.currency_column)]
        named += [(f"[outcomes.{outcome.kind}] column", outcome.column) for outcome in self.outcomes]
        named += [("[signals] columns", column) for column in self.signals]
        return {column: place for place, column in reversed(named) if column}

    def signal_fields(self) -> tuple[Field, ...]:
        """Returns the user's own signals as fields of the request, for `System.with_signals`."""
        return tuple(
            Field(name=signal_name(column), kind="float", meaning=f"The user's own signal {column}.")
            for column in self.signals
        )


def signal_name(column: str) -> str:
    """Returns the name under which a column becomes a signal: an identifier.

    >>> signal_name("V1"), signal_name("card age (days)"), signal_name("3ds")
    ('V1', 'card_age_days', 'x3ds')
    """
    name = re.sub(r"\W+", "_", column).strip("_") or "signal"
    return name if name.isidentifier() else f"x{name}"


def load_map(path: str | Path, schema: Schema) -> DataMap:
    """Returns the mapping of a TOML file.

    Raises:
        DataError: the file cannot be read.
        ConfigError: it is no TOML, or something in it is wrong; the message lists everything.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            where=path.name,
            given=f"a mapping that cannot be read ({type(error).__name__})",
            expected="a TOML file in UTF-8",
            fix="`decalog data inspect payments.csv` drafts one.",
        ) from None
    return read_map(text, schema, where=path.name)


def read_map(text: str, schema: Schema, *, where: str = "mapping") -> DataMap:
    """Returns a mapping, checked against the schema.

    Args:
        text: TOML.
        schema: of the system, without the user's signals.
        where: what to call it in errors.

    Raises:
        ConfigError: it is no TOML, or something in it is wrong; the message lists everything.
    """
    try:
        raw = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            where=where,
            given=f"text that is not TOML ({error})",
            expected="a mapping in TOML",
            fix="Mend the line that is named; texts stand in quotes.",
        ) from None
    problems: list[str] = []
    made = _read(Table("", raw, problems), schema)
    if problems:
        raise _problems(where, problems)
    return made


def check_columns(mapping: DataMap, columns: Iterable[str], *, where: str) -> None:
    """Checks that every column that the mapping names exists.

    Args:
        mapping: to check.
        columns: of the data.
        where: what to call the data.

    Raises:
        ConfigError: some do not exist; the message lists all, each with the near match.
    """
    known = list(columns)
    missing = [
        f"{place} names a column {name!r} that is not there, expected {near(name, known)}"
        for name, place in mapping.columns.items()
        if name not in known
    ]
    if missing:
        raise _problems(where, missing)


def _problems(where: str, problems: list[str]) -> ConfigError:
    return ConfigError(
        where=where,
        given=f"{len(problems)} problem{'s' if len(problems) > 1 else ''}: {'; '.join(problems)}",
        expected="a mapping as in docs/howto/bring-your-own-data.md",
        fix="Mend all of them; nothing was imported.",
    )


def _read(top: Table, schema: Schema) -> DataMap:
    system = top.text("system", schema.system)
    if system != schema.system:
        top.problem("system", f"{system!r}, expected {schema.system!r}, which it is used for")
    share = top.number("max_bad_share", 0.05)
    if not 0 <= share <= 1:
        top.problem("max_bad_share", f"{share}, expected 0 to 1")
    request = top.table("request", required=True)
    parts = _read_request(request, schema) if request is not None else {}
    made = DataMap(
        system=system,
        **parts,
        outcomes=_read_outcomes(top.table("outcomes"), schema),
        signals=_read_signals(top.table("signals"), schema),
        file=_read_file(top.table("file")),
        rates=_read_rates(top.table("rates")),
        max_bad_share=share,
    )
    top.close()
    return made


def _read_request(request: Table, schema: Schema) -> dict[str, Any]:
    kind = schema.request
    amounts = {f.name: f.name.removesuffix("_minor") for f in kind.fields if f.kind == "amount_minor"}
    plain = [f.name for f in kind.fields if f.kind not in ("amount_minor", "currency")] + [
        e.name for e in kind.entities
    ]
    required = {f.name for f in kind.fields if f.required}
    parts: dict[str, Any] = {
        "id": _read_id(request),
        "event_time": _read_time(request, "event_time", required=True) or TimeCell(""),
        "known": _read_known(request, required=False),
        "fields": {name: cell for name in plain if (cell := _read_cell(request, name, required=name in required))},
        "amounts": {
            name: amount
            for name, key in amounts.items()
            if (amount := _read_amount(request, key, required=name in required)) is not None
        },
        "taken": _read_taken(request, schema),
    }
    request.close()
    return parts


def _read_id(request: Table) -> IdCell:
    cell = request.cell("id", required=True)
    if cell is None:
        return IdCell()
    by_number = cell.raw("row_number")
    if by_number is None:
        made = IdCell(column=cell.text("column", None))
    else:
        if by_number is not True:
            cell.problem("row_number", "not true, expected true, or a column instead")
        made = IdCell(prefix=cell.text("prefix", ""))
    cell.close()
    return made


def _read_cell(table: Table, name: str, *, required: bool = False) -> Cell | None:
    cell = table.cell(name, required=required)
    if cell is None:
        return None
    made = Cell(cell.text("column", None), cell.texts("values"))
    cell.close()
    return made


def _read_taken(request: Table, schema: Schema) -> Cell | None:
    taken = _read_cell(request, "taken")
    for text, action in (taken.values if taken else {}).items():
        if action not in schema.actions:
            request.problem(f"taken, values, {text}", f"{action!r}, expected {near(action, schema.actions)}")
    return taken


def _read_time(table: Table, name: str, *, required: bool = False) -> TimeCell | None:
    cell = table.cell(name, required=required)
    if cell is None:
        return None
    column, unit = cell.text("column", None), cell.choice("unit", TIME_UNITS, default="rfc3339")
    since, style = cell.text("since", ""), cell.text("format", "")
    if since and unit == "rfc3339":
        cell.problem("since", 'stated without a unit of numbers, expected unit = "s", "ms" or "us"')
    if style and unit != "rfc3339":
        cell.problem("format", "stated with a unit of numbers, expected one or the other")
    made = TimeCell(column, unit, _since_us(cell, since), style)
    cell.close()
    return made


def _since_us(cell: Table, text: str) -> int:
    if not text:
        return 0
    try:
        return time_us(text)
    except (ValueError, OverflowError):
        cell.problem("since", f"{text!r}, expected a time with an offset, such as 2013-09-01T00:00:00Z")
        return 0


def _read_known(table: Table, *, required: bool) -> Known:
    at = _read_time(table, "known_time")
    delay = table.text("delay", "" if at is not None or not required else None)
    if at is not None and delay:
        table.problem("delay", "stated beside known_time, expected one of the two")
    try:
        return Known(duration_us(delay) if delay else 0, at)
    except ConfigError as error:
        table.problem("delay", f"{delay!r}, expected {error.expected}, such as 30d")
        return Known()


def _read_amount(request: Table, key: str, *, required: bool) -> AmountCell | None:
    cell = request.cell(key, required=required)
    if cell is None:
        return None
    column, unit = cell.text("column", None), cell.choice("unit", MONEY_UNITS, default=None)
    currency, from_column = "", ""
    if isinstance(cell.raw("currency"), dict):
        inner = cell.cell("currency", required=True)
        from_column = inner.text("column", None) if inner else ""
    else:
        currency = cell.text("currency", None)
    if currency and currency not in EXPONENTS:
        cell.problem("currency", f"{currency!r}, expected an ISO 4217 code, {near(currency.upper(), EXPONENTS)}")
    cell.close()
    return AmountCell(column, unit, currency, from_column)


def _read_outcomes(table: Table | None, schema: Schema) -> tuple[OutcomeCell, ...]:
    if table is None:
        return ()
    made = []
    for kind in schema.outcomes:
        outcome = table.table(kind.name)
        if outcome is not None:
            made.append(_read_outcome(outcome, kind))
    table.close()
    return tuple(made)


def _read_outcome(table: Table, kind: OutcomeKind) -> OutcomeCell:
    source = table.choice("source", kind.sources, default=None)
    values = table.numbers("values")
    if not values:
        table.problem("values", 'not there, expected what the column says → the outcome\'s value, such as { "1" = 1 }')
    silent = table.list_of_texts("silent")
    both = sorted(set(silent) & set(values))
    if both:
        table.problem("silent", f"holds {', '.join(both)}, which values holds too, expected it in one of them")
    column = table.text("column", None)
    made = OutcomeCell(kind.name, source, column, values, silent, _read_known(table, required=True))
    table.close()
    return made


def _read_signals(table: Table | None, schema: Schema) -> tuple[str, ...]:
    if table is None:
        return ()
    columns = table.list_of_texts("columns")
    taken = {f.name for f in schema.request.fields} | {e.name for e in schema.request.entities}
    for column in columns:
        name = signal_name(column)
        if name in taken:
            table.problem(
                "columns", f"holds {column!r}, whose name {name!r} is taken, expected another; rename the column"
            )
        taken.add(name)
    table.close()
    return columns


def _read_file(table: Table | None) -> FileOptions:
    if table is None:
        return FileOptions()
    made = FileOptions(
        table.choice("delimiter", DELIMITERS, default=""),
        table.choice("encoding", ENCODINGS, default="utf-8"),
        table.choice("decimal", (".", ","), default="."),
        table.text("timezone", ""),
    )
    if made.timezone and find_zone(made.timezone) is None:
        known = near(made.timezone, zoneinfo.available_timezones() | {"UTC"})
        table.problem("timezone", f"{made.timezone!r}, expected an IANA time zone, {known}")
    table.close()
    return made


def find_zone(name: str) -> dt.tzinfo | None:
    """Returns the IANA time zone of a name, or None where there is none."""
    if name == "UTC":  # known even where the system has no time zones installed
        return dt.UTC
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return None


def _read_rates(table: Table | None) -> Rates | None:
    if table is None:
        return None
    base = table.choice("base", tuple(EXPONENTS), default=None)
    rates = {}
    for code in table.others():
        text = table.text(code, None)
        if code not in EXPONENTS:
            table.problem(code, f"no ISO 4217 code, expected {near(code.upper(), EXPONENTS)}")
        elif re.fullmatch(r"\d{1,12}(\.\d{1,12})?", text) is None or not float(text):
            table.problem(code, f'{text!r}, expected a rate in decimal text, such as "0.92"')
        rates[code] = text
    table.close()
    return Rates(base, rates)
