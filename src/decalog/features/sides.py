"""One side of a join: a user's file, frame or arrays, read once into DuckDB, and its columns as what they mean.

Columns are called c0, c1, … inside, so that no name of the user's can be taken for another. A row's place in its side
is DuckDB's `rowid`.
"""

from __future__ import annotations

import csv
import gzip
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from decalog.arrow import ArrowStream, StreamOnly
from decalog.errors import DataError, near
from decalog.features.kernel import MISSING, Int64s
from decalog.features.versions import END, NOWHERE

if TYPE_CHECKING:
    import duckdb

Arrays = Mapping[str, npt.NDArray[Any]]
Source = str | Path | ArrowStream | Arrays

_INTEGERS = {f"{sign}{size}INT" for sign in ("", "U") for size in ("TINY", "SMALL", "BIG", "HUGE")}
_INTEGERS |= {"INTEGER", "UINTEGER"}
_ZONED = ("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ_NS")
_NAIVE = ("TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "DATE")
_OFFSET = r"\d:\d\d(:\d\d(\.\d*)?)?\s*(Z|z|[+-]\d\d(:?\d\d)?)$"
# Whole numbers are µs since the epoch. Seconds and milliseconds would all lie in 1970 and be known to every decision;
# nanoseconds would lie far in the future.
_FIRST_US, _LAST_US = 10**14, 253_402_300_800_000_000
_HEADER = 1 << 20  # characters of a CSV's first line
_FLAGS = "('1', 'true', 't', 'yes', 'y')", "('0', 'false', 'f', 'no', 'n', '')"


class Side(NamedTuple):
    """A side that is read: where, how messages call it, and its columns in order, name → DuckDB's type.

    Args:
        connection: that holds the table.
        place: the table's name in DuckDB.
        name: the side in the user's words.
        types: of its columns.
        untyped: whether it comes from a CSV, where all is text.
        zone: of its times without an offset; "" refuses them.
    """

    connection: duckdb.DuckDBPyConnection
    place: str
    name: str
    types: dict[str, str]
    untyped: bool
    zone: str

    def column(self, name: str, *, of: str = "") -> str:
        """Returns how a column is called inside; `of` is the table's alias in the query.

        Raises:
            DataError: there is none of the name.
        """
        if name not in self.types:
            raise DataError(
                where=self.name,
                given=f"no column {name[:64]!r}",
                expected=near(name, self.types),
                fix="State how the column is called.",
            )
        return f"{of}{'.' if of else ''}c{list(self.types).index(name)}"

    @property
    def relation(self) -> str:
        """The side as DuckDB selects from it, under its place as alias."""
        return f"{self.place}_read AS {self.place}({', '.join(f'c{number}' for number in range(len(self.types)))})"

    def arrays(self, *expressions: str) -> list[npt.NDArray[Any]]:
        """Returns the values of expressions over its columns, each of shape (rows,)."""
        listed = ", ".join(f"{expression} AS e{number}" for number, expression in enumerate(expressions))
        fetched = self.connection.execute(f"SELECT {listed} FROM {self.relation}").fetchnumpy()  # noqa: S608  # our own text
        return list(fetched.values())

    def first(self, expressions: str) -> tuple[Any, ...]:
        """Returns the one row of an aggregate over its columns."""
        return self.connection.execute(f"SELECT {expressions} FROM {self.relation}").fetchall()[0]  # noqa: S608  # our own text


def open_side(connection: duckdb.DuckDBPyConnection, source: Source, *, side: str, zone: str) -> Side:
    """Returns a source read into a table of DuckDB, in its own order.

    Raises:
        DataError: it cannot be read, or has no columns.
    """
    import duckdb

    name, place = f"{side}, {_name_of(source)}", f"{side}_side"
    try:
        query = _registered(connection, source, name=name)
        connection.execute(f"CREATE TABLE {place}_read AS {query}")
        described = connection.execute(f"DESCRIBE {place}_read").fetchall()
    except (duckdb.Error, ModuleNotFoundError) as error:
        raise _unreadable(name, str(error).strip().partition("\n")[0][:200]) from None
    finally:
        connection.unregister("source")
    types = {str(row[0]): "VARCHAR" if str(row[1]).startswith("ENUM") else str(row[1]) for row in described}
    return Side(connection, place, name, types, untyped=_is_csv(source), zone=zone)


def _is_csv(source: Source) -> bool:
    return isinstance(source, str | Path) and Path(source).suffix not in (".parquet", ".pq")


def _name_of(source: Source) -> str:
    if isinstance(source, str | Path):
        return Path(source).name
    return "arrays" if isinstance(source, Mapping) else type(source).__name__


def _registered(connection: duckdb.DuckDBPyConnection, source: Source, *, name: str) -> str:
    """Returns the query that reads a source."""
    if isinstance(source, str | Path):
        return _file_query(Path(source), name)
    if isinstance(source, Mapping):
        connection.register("source", _checked_arrays(source, name))
        return "SELECT * FROM source"
    if isinstance(source, ArrowStream):
        connection.register("source", StreamOnly(source))
        return "SELECT * FROM source"
    raise _unreadable(name, "neither a path, a frame nor arrays")


def _file_query(path: Path, name: str) -> str:
    quoted = _text(path.absolute())
    # A path with *, ? or [ would be read as a pattern over many files.
    if any(mark in quoted for mark in "*?["):
        raise _unreadable(name, "a path that holds *, ? or [")
    if not path.is_file():
        raise _unreadable(name, "a path where no file is")
    if _is_csv(path):
        return f"SELECT * FROM read_csv({quoted}, {_csv_options(path, name)})"  # noqa: S608  # quoted above
    return f"SELECT * FROM read_parquet({quoted})"  # noqa: S608  # quoted above


def _csv_options(path: Path, name: str) -> str:
    """Returns how a CSV is read, all of it as text. DuckDB's own guess may pass over lines that do not fit it."""
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
            header = file.readline(_HEADER)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise _unreadable(name, type(error).__name__) from None
    delimiter = max(",;\t|", key=header.count)
    names = next(csv.reader([header], delimiter=delimiter), [])
    columns = ", ".join(f"{_text(column)}: 'VARCHAR'" for column in names)
    dialect = f"delim = '{delimiter}', quote = '\"', escape = '\"', nullstr = '', header = true"
    return f"auto_detect = false, strict_mode = true, {dialect}, columns = {{{columns}}}"


def _text(value: object) -> str:
    return "'" + str(value).replace("'", "''") + "'"


def _checked_arrays(source: Arrays, name: str) -> dict[str, npt.NDArray[Any]]:
    made = {}
    for column, values in cast("Mapping[str, object]", source).items():
        if not isinstance(values, np.ndarray) or values.ndim != 1:
            raise _unreadable(name, f"{column[:64]!r}, which is no array of one dimension")
        if values.dtype.kind == "U":  # which DuckDB would show as an enumeration
            made[column] = values.astype(object)
        else:
            made[column] = values.astype("datetime64[us]") if values.dtype.kind == "M" else values
    lengths = {len(values) for values in made.values()}
    if len(lengths) > 1:
        raise _unreadable(name, f"arrays of {min(lengths)} to {max(lengths)} values")
    return made


def _unreadable(name: str, given: str) -> DataError:
    return DataError(
        where=name,
        given=f"data that cannot be read ({given})",
        expected="the path of one Parquet or CSV file, a frame that speaks the Arrow C stream, or arrays of one length",
        fix="Check the path, or hand over the frame itself.",
    )


class Times(NamedTuple):
    """How a column of times is read: its name, and which of two hours is meant where a clock shows one twice."""

    column: str
    later: bool


def times(side: Side, wanted: Sequence[Times]) -> list[Int64s]:
    """Returns columns as µs since the epoch, UTC, MISSING where there is no time; each of shape (rows,).

    Raises:
        DataError: a column is missing, holds no times, or times without an offset where no zone is stated.
    """
    expressions = [_time_expression(side, each) for each in wanted]
    read = [np.ma.filled(values.astype(np.int64), MISSING) for values in side.arrays(*expressions)]
    for each, values in zip(wanted, read, strict=True):
        if side.types[each.column] in _INTEGERS:
            _check_unit(side, each.column, values)
    return read


def _time_expression(side: Side, wanted: Times) -> str:
    column, kind = side.column(wanted.column), side.types[wanted.column]
    if kind in _INTEGERS:
        return f"TRY_CAST({column} AS BIGINT)"
    if kind in _ZONED:
        return _us(_whole_us(column, kind, "TIMESTAMPTZ"))
    if kind in _NAIVE:
        _check_zone(side, wanted.column, "times without an offset" if kind != "DATE" else "dates, which have no offset")
        return _us(_local(_whole_us(column, kind, "TIMESTAMP"), side.zone, later=wanted.later))
    if kind == "VARCHAR":
        return _text_expression(side, wanted)
    raise _no_time(side, wanted.column, f"a column of type {kind[:64]}")


def _text_expression(side: Side, wanted: Times) -> str:
    text = f"NULLIF(TRIM({side.column(wanted.column)}::VARCHAR), '')"
    has_offset = f"regexp_matches({text}, '{_OFFSET}')"
    read = (
        f"CASE WHEN {has_offset} THEN TRY_CAST({text} AS TIMESTAMPTZ)::TIMESTAMP ELSE TRY_CAST({text} AS TIMESTAMP) END"
    )
    broken, naive = side.first(
        f"COUNT(*) FILTER ({text} IS NOT NULL AND ({read}) IS NULL), COUNT(*) FILTER (NOT {has_offset})"
    )
    if broken:
        raise _no_time(side, wanted.column, f"text that is no time, in {_rows(broken)}")
    if naive:
        _check_zone(side, wanted.column, f"times without an offset, in {_rows(naive)}")
    local = _local(f"TRY_CAST({text} AS TIMESTAMP)", side.zone or "UTC", later=wanted.later)
    return _us(f"CASE WHEN {has_offset} THEN TRY_CAST({text} AS TIMESTAMPTZ) ELSE {local} END")


def _whole_us(column: str, kind: str, target: str) -> str:
    """Returns a time without what is finer than a microsecond, which a cast would round, half of it into the future."""
    if not kind.endswith("_NS"):
        return f"{column}::{target}"
    ns = f"epoch_ns({column}::TIMESTAMP_NS)"
    us = f"(({ns} - ({ns} % 1000 + 1000) % 1000) // 1000)"
    return f"make_timestamptz({us})" if target == "TIMESTAMPTZ" else f"make_timestamp({us})"


def _local(naive: str, zone: str, *, later: bool) -> str:
    """Returns a local time in UTC. Of an hour that a clock shows twice DuckDB takes the later one."""
    read = f"(({naive}) AT TIME ZONE {_text(zone)})"
    if later:
        return read
    earlier = f"({read} - INTERVAL 1 HOUR)"
    return f"CASE WHEN ({earlier} AT TIME ZONE {_text(zone)}) = ({naive}) THEN {earlier} ELSE {read} END"


def _us(moment: str) -> str:
    ends = f"CASE WHEN ({moment}) > TIMESTAMPTZ 'epoch' THEN {END} ELSE {MISSING + 1} END"
    return f"CASE WHEN ({moment}) IS NULL THEN NULL WHEN isfinite({moment}) THEN epoch_us({moment}) ELSE {ends} END"


def _check_zone(side: Side, column: str, given: str) -> None:
    if side.zone:
        return
    raise DataError(
        where=f"{side.name}, {column}",
        given=given,
        expected="times with an offset, such as 2026-03-01T12:00:00Z, or µs since the epoch as whole numbers",
        fix='State the zone of such times: timezone="Europe/Berlin", or "UTC".',
    )


def _check_unit(side: Side, column: str, values: Int64s) -> None:
    there = values[(values != MISSING) & (values != END)]
    newest = int(there.max(initial=0))
    if newest == 0 or _FIRST_US <= newest < _LAST_US:
        return
    raise _no_time(side, column, f"whole numbers up to {newest}, which are no µs since the epoch")


def _no_time(side: Side, column: str, given: str) -> DataError:
    return DataError(
        where=f"{side.name}, {column}",
        given=given,
        expected="times with an offset, such as 2026-03-01T12:00:00Z, or µs since the epoch as whole numbers",
        fix="Mend the column, or name another one.",
    )


def _rows(count: int) -> str:
    return "1 row" if count == 1 else f"{count} rows"


def flags(side: Side, column: str) -> npt.NDArray[np.bool_]:
    """Returns a column of true and false, also as 1 and 0 or in words; shape (rows,), what is missing is false.

    Raises:
        DataError: the column is missing, or holds something else.
    """
    text = f"LOWER(TRIM({side.column(column)}::VARCHAR))"
    true, false = _FLAGS
    (broken,) = side.first(f"COUNT(*) FILTER ({text} NOT IN {true} AND {text} NOT IN {false})")
    if broken:
        raise DataError(
            where=f"{side.name}, {column}",
            given=f"neither true nor false, in {_rows(broken)}",
            expected="true or false, 1 or 0",
            fix="Mend the column, or name another one.",
        )
    (read,) = side.arrays(f"COALESCE({text} IN {true}, false)")
    return read.astype(np.bool_)


def key_numbers(rows: Side, table: Side, *, on: Mapping[str, str]) -> tuple[Int64s, Int64s, int]:
    """Returns the number of each row's key, of each table row's key, and how many there are.

    A key of the rows that the table does not have, and one that is missing in whole or in part, is NOWHERE.

    Raises:
        DataError: a column is missing, or two columns cannot be compared.
    """
    pairs = [_comparable(rows, row_column, table, table_column) for row_column, table_column in on.items()]
    listed = ", ".join(f"{theirs} AS k{number}" for number, (_, theirs) in enumerate(pairs))
    table.connection.execute(f"CREATE TABLE keys AS SELECT DISTINCT {listed} FROM {table.relation}")  # noqa: S608  # our own text
    count = int(table.connection.execute("SELECT COUNT(*) FROM keys").fetchall()[0][0])
    return _numbers(rows, [ours for ours, _ in pairs]), _numbers(table, [theirs for _, theirs in pairs]), count


def _numbers(side: Side, columns: Sequence[str]) -> Int64s:
    equal = " AND ".join(f"{column} = keys.k{number}" for number, column in enumerate(columns))
    query = f"SELECT {side.place}.rowid AS place, keys.rowid AS number FROM {side.relation} JOIN keys ON {equal}"  # noqa: S608  # our own text
    fetched = side.connection.execute(query).fetchnumpy()
    (count,) = side.first("COUNT(*)")
    numbers = np.full(count, NOWHERE, np.int64)
    numbers[fetched["place"]] = fetched["number"]
    return numbers


def _comparable(rows: Side, row_column: str, table: Side, table_column: str) -> tuple[str, str]:
    """Returns two columns as expressions that are equal where the keys are the same, exactly."""
    ours, theirs = rows.column(row_column, of=rows.place), table.column(table_column, of=table.place)
    kinds = rows.types[row_column], table.types[table_column]
    if "VARCHAR" in kinds and (rows.untyped or table.untyped):
        return f"{ours}::VARCHAR", f"{theirs}::VARCHAR"  # a CSV declares no types: the other side as text
    if kinds[0] == kinds[1] or set(kinds) <= _INTEGERS:
        return f"{ours}::{_key_type(*kinds)}", f"{theirs}::{_key_type(*kinds)}"
    raise DataError(
        where=f"{rows.name}, {row_column}",
        given=f"keys of type {kinds[0][:64]}",
        expected=f"{kinds[1][:64]}, as {table_column!r} of {table.name}",
        fix="Cast one of the two: what is compared must be the same thing.",
    )


def _key_type(ours: str, theirs: str) -> str:
    return ours if ours == theirs else "HUGEINT"


def timezone_of(connection: duckdb.DuckDBPyConnection, name: str) -> str:
    """Returns the name of a time zone that DuckDB knows; "" stays "".

    Raises:
        DataError: there is no such zone.
    """
    if not name:
        return ""
    zones = {str(row[0]) for row in connection.execute("SELECT name FROM pg_timezone_names()").fetchall()}
    if name in zones and re.fullmatch(r"[\w/+-]+", name):
        return name
    raise DataError(
        where="timezone",
        given=repr(name[:64]),
        expected=f"an IANA time zone, {near(name, zones)}",
        fix='Name the zone of the place, such as "Europe/Berlin", or "UTC".',
    )
