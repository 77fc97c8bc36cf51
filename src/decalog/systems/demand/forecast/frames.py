"""The field's long frame, `unique_id, ds, y` and what else is known, read into columns and written back.

A frame is a Parquet or CSV file, or any object that speaks the Arrow C stream, as those of polars, pandas and pyarrow
do; DuckDB reads it. Forecasts go back as columns that `utilsforecast` evaluates and each of these libraries makes a
frame of: `pl.DataFrame(columns)`, `pd.DataFrame(columns)`; history goes to GluonTS as its own kind of data set.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.arrow import ArrowStream, StreamOnly
from decalog.errors import DataError, near
from decalog.systems.demand.forecast.calendar import Calendar, Times
from decalog.systems.demand.forecast.panel import LEVELS, Floats, Forecast, Panel

ID, TIME, TARGET = "unique_id", "ds", "y"
_WHOLE = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "HUGEINT")
_PANDAS_UNITS = {"hour": "h", "day": "D", "week": "W", "month": "M", "quarter": "Q", "year": "Y"}


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """A long frame as columns, one entry a row, in the frame's order.

    Args:
        ids: names of series in the order of their first rows.
        series: int64; the place in `ids` of each row.
        times: datetime64[s] in UTC; where time is a number, int64.
        y: float64; NaN where the frame has none.
        numbers: float64, what else it knows; NaN where the frame has none.
        texts: its columns of words.
    """

    ids: tuple[str, ...]
    series: npt.NDArray[np.int64]
    times: Times | npt.NDArray[np.int64]
    y: Floats
    numbers: Mapping[str, Floats] = {}
    texts: Mapping[str, npt.NDArray[np.object_]] = {}

    @property
    def has_dates(self) -> bool:
        """Whether times are dates, and no mere numbers."""
        return self.times.dtype.kind == "M"


class Span(msgspec.Struct, frozen=True):
    """The first and the last time of a whole frame, s since 1970 UTC or numbers: what all its parts share."""

    first: int
    last: int

    @classmethod
    def of(cls, table: Table) -> Span:
        """Returns the span of a table's rows, of which there is one or more."""
        times = table.times.astype(np.int64)
        return cls(int(times.min()), int(times.max()))


def read(
    source: str | Path | ArrowStream, *, names: Mapping[str, str] | None = None, part: tuple[int, int] = (0, 1)
) -> Table:
    """Returns a long frame as columns.

    Args:
        source: path of a Parquet or CSV file, or a frame that speaks Arrow.
        names: where the frame calls a column otherwise: {"unique_id": "item_id", "ds": "timestamp", "y": "target"}.
        part: (which, of how many) of the parts that series are divided into by a hash of their ids, for a frame that
            does not fit in memory; all rows of a series are in one part.

    Raises:
        DataError: it cannot be read, or lacks one of the three columns.
    """
    with _opened(source) as connection:
        types = {str(row[0]): str(row[1]) for row in connection.execute("DESCRIBE frame").fetchall()}
        theirs = _own_names(types, names or {})
        of_part = f"hash({_quoted(theirs[ID])}::VARCHAR) % {part[1]:d} = {part[0]:d}" if part[1] > 1 else "true"
        sql = f"SELECT {', '.join(_casts(types, theirs))} FROM frame WHERE {of_part}"  # noqa: S608  # quoted names, numbers
        found = connection.execute(sql).fetchnumpy()
    return _table(found, list(types), theirs)


def span(source: str | Path | ArrowStream, *, names: Mapping[str, str] | None = None) -> Span:
    """Returns the span of a frame that may be larger than memory; arguments and errors as in `read`."""
    with _opened(source) as connection:
        types = {str(row[0]): str(row[1]) for row in connection.execute("DESCRIBE frame").fetchall()}
        name = (names or {}).get(TIME, TIME)
        cast = _cast_time(_known_column(TIME, name, types), types[name])
        ends = connection.execute(f"SELECT unnest([min({cast}), max({cast})]) AS ds FROM frame").fetchnumpy()["ds"]  # noqa: S608  # as above
    return Span(*_times(ends).astype(np.int64).tolist())


@contextmanager
def _opened(source: str | Path | ArrowStream) -> Iterator[Any]:
    """Yields a connection of DuckDB with the source as its view `frame`."""
    import duckdb

    connection = duckdb.connect(":memory:", config={"threads": 1})
    connection.execute("SET TimeZone = 'UTC'")
    try:
        if isinstance(source, ArrowStream):
            connection.register("frame", StreamOnly(source))
        else:
            reader = "read_parquet" if Path(source).suffix in {".parquet", ".pq"} else "read_csv"
            quoted = str(source).replace("'", "''")
            connection.execute(f"CREATE VIEW frame AS SELECT * FROM {reader}('{quoted}')")  # noqa: S608  # quoted above
        yield connection
    except duckdb.Error as error:
        raise DataError(
            where="long frame",
            given=f"data that cannot be read ({str(error).partition(chr(10))[0][:200]})",
            expected="a Parquet or CSV file, or a frame that speaks the Arrow C stream",
            fix="Open it with the tool that wrote it and export it again.",
        ) from None


def _own_names(types: Mapping[str, str], names: Mapping[str, str]) -> dict[str, str]:
    return {ours: _known_column(ours, names.get(ours, ours), types) for ours in (ID, TIME, TARGET)}


def _known_column(ours: str, name: str, types: Mapping[str, str]) -> str:
    if name not in types:
        raise DataError(
            where="long frame",
            given=f"no column '{name}'",
            expected=f"a column for {ours}: {near(name, types)}",
            fix="Rename it, or say what it is called: names={'" + ours + "': …}.",
        )
    return name


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _cast_time(name: str, kind: str) -> str:
    return f"{_quoted(name)}::{'BIGINT' if kind in _WHOLE else 'TIMESTAMPTZ::TIMESTAMP'}"


def _casts(types: Mapping[str, str], theirs: Mapping[str, str]) -> Iterator[str]:
    for name, kind in types.items():
        quoted = _quoted(name)
        if name == theirs[ID]:
            yield f"{quoted}::VARCHAR AS {quoted}"
        elif name == theirs[TIME]:
            yield f"{_cast_time(name, kind)} AS {quoted}"
        elif kind == "VARCHAR" and name != theirs[TARGET]:
            yield quoted
        else:
            seconds = f"epoch({quoted})" if kind.startswith(("TIMESTAMP", "DATE")) else quoted
            yield f"{seconds}::DOUBLE AS {quoted}"


def _table(found: Mapping[str, Any], names: Sequence[str], theirs: Mapping[str, str]) -> Table:
    columns = {name: found[name] for name in names}
    labels = np.asarray(np.ma.filled(columns.pop(theirs[ID]), ""), np.object_).astype(str)
    kinds, first, codes = np.unique(labels, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty(len(kinds), np.int64)
    place[order] = np.arange(len(kinds))
    times = _times(columns.pop(theirs[TIME]))
    target = columns.pop(theirs[TARGET])
    is_number = {name: np.ma.getdata(values).dtype.kind == "f" for name, values in columns.items()}
    return Table(
        ids=tuple(kinds[order].tolist()),
        series=place[codes],
        times=times,
        y=_numbers(target),
        numbers={name: _numbers(values) for name, values in columns.items() if is_number[name]},
        texts={name: np.asarray(np.ma.filled(values, "")) for name, values in columns.items() if not is_number[name]},
    )


def _times(values: Any) -> Times | npt.NDArray[np.int64]:
    without = int(np.ma.getmaskarray(values).sum())
    if without:
        raise DataError(
            where=f"long frame, column for {TIME}",
            given=f"{without} rows without a time",
            expected="a time in every row",
            fix="Leave these rows out, or find out when they were.",
        )
    plain = np.ma.getdata(values)
    return plain.astype("datetime64[s]") if plain.dtype.kind == "M" else plain.astype(np.int64)


def _numbers(values: Any) -> Floats:
    return np.where(np.ma.getmaskarray(values), np.nan, np.ma.getdata(values)).astype(np.float64)


def columns_of(panel: Panel, forecasts: Mapping[str, Forecast], *, levels: Sequence[int] = (80, 90)) -> dict[str, Any]:
    """Returns forecasts as columns of a long frame.

    Args:
        panel: that they follow.
        forecasts: by the name of their column.
        levels: of central intervals in percent: columns `<model>-lo-90`, `<model>-hi-90`. Each quantile of `LEVELS`
            stands beside them as `<model>_q0.05`.
    """
    horizon = next(iter(forecasts.values())).mean.shape[1]
    width = panel.y.shape[1]
    found = _keys(panel, np.arange(width, width + horizon))
    for name, forecast in forecasts.items():
        found[name] = forecast.mean.ravel()
        for level in levels:
            found[f"{name}-lo-{level}"] = forecast.at((100 - level) / 200).ravel()
            found[f"{name}-hi-{level}"] = forecast.at((100 + level) / 200).ravel()
        found |= {f"{name}_q{level:g}": forecast.quantiles[..., at].ravel() for at, level in enumerate(LEVELS)}
    return found


def actual_columns(panel: Panel, *, last: int) -> dict[str, Any]:
    """Returns the last steps of a panel as columns of a long frame, for whoever evaluates."""
    width = panel.y.shape[1]
    return _keys(panel, np.arange(width - last, width)) | {TARGET: panel.y[:, -last:].ravel()}


def _keys(panel: Panel, steps: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Returns the two columns that say whose and when, series by series."""
    # In µs, which every library of frames takes; polars refuses seconds.
    times = steps if panel.calendar is None else panel.calendar.times(steps).astype("datetime64[us]")
    return {ID: np.repeat(np.array(panel.ids), len(steps)), TIME: np.tile(times, len(panel.ids))}


def gluonts(panel: Panel) -> Iterator[dict[str, Any]]:
    """Yields each series as an entry of a GluonTS data set: `item_id`, `start`, `target`, `feat_dynamic_real`.

    `start` is a pandas Period as GluonTS asks for, so pandas has to be there; a panel without a calendar starts in
    1970, by days.
    """
    import pandas as pd

    calendar = panel.calendar or Calendar("day", 0)
    width = panel.y.shape[1]
    known = np.stack(list(panel.known.values()), axis=1) if panel.known else None
    for at, name in enumerate(panel.ids):
        there = np.flatnonzero(~np.isnan(panel.y[at]))
        first = int(there[0]) if len(there) else width - 1
        start = pd.Period(calendar.times(np.array([first]))[0], freq=_PANDAS_UNITS[calendar.unit])
        entry: dict[str, Any] = {"item_id": name, "start": start, "target": panel.y[at, first:]}
        yield entry if known is None else entry | {"feat_dynamic_real": known[at, :, first:]}
