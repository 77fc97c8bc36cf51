"""A user's own table beside decisions: for each the value that was valid at its event and known when it was taken.

A table that is filled in later (a daily score, a list, a status) has two times: from when a value is valid, and from
when it was known. A plain join sees only the first, and so takes values that were written after the decision, which
teaches a model what it cannot know. A join that also drops rows without a value hides those that are hardest to decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.errors import DataError
from decalog.features.kernel import MISSING, Int64s
from decalog.features.sides import Side, Source, Times, flags, key_numbers, open_side, times, timezone_of
from decalog.features.versions import END, NOWHERE, Statements, boxes_of, find

if TYPE_CHECKING:
    import duckdb

Fill = str | int | float | bool


class Columns(msgspec.Struct, frozen=True, kw_only=True):
    """How the columns of a join are called.

    Args:
        event_time: of the rows, when it happened; the value must be valid then.
        known_time: of the rows, when it was decided; the value must be known by then. History without it may name the
            event time here, as if every decision had been taken at once.
        valid_from, valid_to: of the table, when a value holds, the end not included. A missing end is none.
        known_from: of the table, when the row was written or learned.
        deleted: of the table, true where a row withdraws what was said of its key and valid_from.
        values: columns of the table to add, or column → its name in the result; by default all others.

    `valid_to` and `deleted` are used where the table has them; a name that is stated must be there.
    """

    event_time: str = "event_time"
    known_time: str = "known_time"
    valid_from: str = "valid_from"
    known_from: str = "known_from"
    valid_to: str | None = None
    deleted: str | None = None
    values: Sequence[str] | Mapping[str, str] = ()


class Joined:
    """The rows in their order, with the columns that were joined to them; a frame that speaks Arrow.

    Args:
        connection: of DuckDB, which holds the view `joined`.
        rows: how many there are, as many as came in.
        missing: how many of them the table says nothing about.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, rows: int, missing: int) -> None:
        self.rows = rows
        self.missing = missing
        self._connection = connection

    @property
    def columns(self) -> list[str]:
        """Their names, those of the rows first."""
        return list(self._connection.table("joined").columns)

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Returns a capsule of an Arrow C stream; may be asked for again."""
        return self._connection.cursor().table("joined").__arrow_c_stream__(requested_schema)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Returns each column as an array, masked where values are missing; decimals become floats, times UTC."""
        return dict(self._connection.table("joined").fetchnumpy())

    def write(self, path: str | Path) -> None:
        """Writes a .parquet or .csv file, a CSV with times in UTC; one that is there is replaced.

        Raises:
            DataError: the file is to be of another kind.
        """
        kinds = {".parquet": "FORMAT parquet", ".pq": "FORMAT parquet", ".csv": "FORMAT csv, HEADER"}
        kind = kinds.get(Path(path).suffix)
        if kind is None:
            raise DataError(
                where=Path(path).name,
                given="a file of another kind",
                expected="a path that ends in .parquet, .pq or .csv",
                fix="Name the file so, or hand the result to the library that writes such files: it speaks Arrow.",
            )
        quoted = str(path).replace("'", "''")
        self._connection.execute(f"COPY joined TO '{quoted}' ({kind})")


def join_as_of(
    rows: Source,
    table: Source,
    *,
    on: str | Sequence[str] | Mapping[str, str],
    columns: Columns = Columns(),  # noqa: B008  # frozen
    fill: Mapping[str, Fill] | None = None,
    timezone: str = "",
) -> Joined:
    """Returns every row with the values that the table held for its event, as far as they were known at its decision.

    A value is valid at event_time if valid_from ≤ event_time < valid_to, and known at known_time if known_from ≤
    known_time and no later row of the same key and valid_from was known by then, which corrects or deletes it. Where
    several values are valid, the latest valid_from wins, then the latest known_from, then the later row of the table.
    Each row comes out once, in its place; a key, a time or a value that is missing gives a missing value.

    Args:
        rows: path of a Parquet or CSV file, a frame that speaks Arrow, or arrays under names (their NaN is missing).
        table: of the user, in the same forms and any order. All columns of a CSV are text.
        on: columns of the key under the name both sides have, or column of the rows → column of the table.
        columns: how the others are called.
        fill: name in the result → what stands where the value is missing; otherwise NULL.
        timezone: of times without an offset, which are refused without it. Of an hour that a clock shows twice the rows
            mean the earlier and the table the later one, so that nothing is seen too early.

    Raises:
        DataError: a side cannot be read, a column is missing or of another type, or a row of the table has no
            valid_from or known_from.

    >>> hour = 3_600_000_000
    >>> day = 500_000 * hour
    >>> payments = {"shop": np.array(["a", "a"]), "event_time": np.array([day + hour, day + 9 * hour])}
    >>> risk = {"shop": np.array(["a"]), "valid_from": np.array([day]), "known_from": np.array([day + 5 * hour])}
    >>> risk["risk"] = np.array([7])
    >>> names = Columns(known_time="event_time")
    >>> join_as_of(payments, risk, on="shop", columns=names, fill={"risk": -1}).arrays()["risk"]
    array([-1,  7])
    """
    import duckdb

    connection = duckdb.connect(":memory:", config={"threads": 1})
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET preserve_insertion_order = true")
    zone = timezone_of(connection, timezone)
    sides = _Sides(
        open_side(connection, rows, side="rows", zone=zone), open_side(connection, table, side="table", zone=zone)
    )
    keys = {on: on} if isinstance(on, str) else dict(on) if isinstance(on, Mapping) else {name: name for name in on}
    if not keys:
        raise DataError(where="on", given="no column", expected="one column of the key or more", fix="Name them.")
    columns = _with_optional(columns, sides.table)
    places = _places(sides, columns, keys=keys)
    added = _added(sides, columns, keys=keys)
    _write_joined(sides, added, fill=_checked_fill(sides, added, fill or {}), places=places)
    return Joined(connection, len(places), int((places == NOWHERE).sum()))


class _Sides(NamedTuple):
    rows: Side
    table: Side


def _with_optional(columns: Columns, table: Side) -> Columns:
    """Returns the columns with valid_to and deleted as the table has them, "" where it has not."""
    chosen = {
        name: (name if name in table.types and name not in columns.values else "") if stated is None else stated
        for name, stated in (("valid_to", columns.valid_to), ("deleted", columns.deleted))
    }
    return msgspec.structs.replace(columns, **chosen)


def _added(sides: _Sides, columns: Columns, *, keys: Mapping[str, str]) -> dict[str, str]:
    """Returns the name in the result → the column of the table."""
    spoken = {*keys.values(), columns.valid_from, columns.known_from, columns.valid_to, columns.deleted}
    wanted = columns.values or [name for name in sides.table.types if name not in spoken]
    named = wanted if isinstance(wanted, Mapping) else {name: name for name in wanted}
    taken = {name.lower() for name in sides.rows.types}
    for column, name in named.items():
        sides.table.column(column)
        if name.lower() in taken:
            raise DataError(
                where=f"{sides.table.name}, {column}",
                given=f"the name {name[:64]!r}, which is taken",
                expected="a name that no other column of the result has; upper and lower case are the same",
                fix=f'State another one: values={{"{column[:64]}": "…"}}.',
            )
        taken.add(name.lower())
    return {name: column for column, name in named.items()}


def _places(sides: _Sides, columns: Columns, *, keys: Mapping[str, str]) -> Int64s:
    """Returns which row of the table answers each of the rows, NOWHERE where none does."""
    row_keys, table_keys, count = key_numbers(sides.rows, sides.table, on=keys)
    event_times, known_times = times(
        sides.rows, [Times(columns.event_time, later=False), Times(columns.known_time, later=False)]
    )
    boxes = boxes_of(_statements(sides.table, columns, table_keys), keys=count)
    return find(boxes, row_keys, event_times=event_times, known_times=known_times)


def _statements(table: Side, columns: Columns, keys: Int64s) -> Statements:
    starts = [Times(columns.valid_from, later=True), Times(columns.known_from, later=True)]
    ends = [Times(columns.valid_to, later=False)] if columns.valid_to else []
    valid_from, known_from, *valid_to = times(table, [*starts, *ends])
    for name, values in ((columns.valid_from, valid_from), (columns.known_from, known_from)):
        _check_there(table, name, values)
    ended = valid_to[0] if valid_to else np.full(len(keys), MISSING, np.int64)
    return Statements(
        keys=keys,
        valid_from=valid_from,
        known_from=known_from,
        valid_to=np.where(ended == MISSING, END, ended),
        deleted=flags(table, columns.deleted) if columns.deleted else np.zeros(len(keys), np.bool_),
    )


def _check_there(table: Side, name: str, values: Int64s) -> None:
    absent = np.flatnonzero(values == MISSING)
    if len(absent):
        raise DataError(
            where=f"{table.name} row {absent[0] + 1}, {name}",
            given=f"no time, one of {len(absent)} such rows",
            expected="a time in every row: without it nobody can say which decisions may see the row",
            fix="Leave such rows out, or state the time from which the value may be used.",
        )


def _checked_fill(sides: _Sides, added: Mapping[str, str], fill: Mapping[str, Fill]) -> dict[str, Fill]:
    for name, value in fill.items():
        if name not in added:
            raise DataError(
                where=f"fill, {name[:64]}",
                given="a name that is not added",
                expected=f"one of: {', '.join(added)}",
                fix="Name a column of the result that comes from the table.",
            )
        kind = sides.table.types[added[name]]
        if not _fits(sides.table, value, kind):
            raise DataError(
                where=f"fill, {name[:64]}",
                given=f"{value!r}"[:64],
                expected=f"a value of type {kind[:64]}",
                fix="State one that the column can hold, or cast the column.",
            )
    return dict(fill)


def _fits(table: Side, value: Fill, kind: str) -> bool:
    import duckdb

    try:
        query = f"SELECT TRY_CAST($1 AS {kind}) = $1"
        return bool(table.connection.execute(query, [value]).fetchall()[0][0])
    except duckdb.Error:
        return False


def _write_joined(sides: _Sides, added: Mapping[str, str], *, fill: Mapping[str, Fill], places: Int64s) -> None:
    connection = sides.rows.connection
    listed, values = [], []
    for number, (name, column) in enumerate(added.items()):
        cell, kind = sides.table.column(column, of=sides.table.place), sides.table.types[column]
        if name in fill:
            values.append(fill[name])
            listed.append(f"COALESCE({cell}, CAST(${len(values)} AS {kind}))::{kind} AS v{number}")
        else:
            listed.append(f"{cell}::{kind} AS v{number}")
    # A join keeps no order of its own, hence the sort; a side by side of two tables does.
    connection.register("asked", {"place": places, "number": np.arange(len(places))})
    connection.execute(
        f"CREATE TABLE found AS SELECT {', '.join(listed) or 'NULL AS none'} "  # noqa: S608  # our own text
        f"FROM asked LEFT JOIN {sides.table.relation} ON {sides.table.place}.rowid = asked.place ORDER BY asked.number",
        values,
    )
    connection.unregister("asked")
    own = [
        f"{sides.rows.place}.c{number}::{kind} AS {_quoted(name)}"
        for number, (name, kind) in enumerate(sides.rows.types.items())
    ]
    new = [f"found.v{number} AS {_quoted(name)}" for number, name in enumerate(added)]
    connection.execute(
        f"CREATE VIEW joined AS SELECT {', '.join(own + new)} FROM {sides.rows.relation} POSITIONAL JOIN found"  # noqa: S608  # our own text
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
