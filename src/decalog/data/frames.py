"""A CSV, a Parquet file or an Arrow-speaking frame, as rows of text.

Everything is text until its meaning is known: an amount must never pass through a binary float, and a card number
never through an integer. Numbers of Parquet and Arrow columns come in their shortest exact form. DuckDB does the
reading; neither pyarrow nor pandas is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from decalog.arrow import ArrowStream, StreamOnly
from decalog.data.csvrows import BrokenRow, CsvFile, Row
from decalog.errors import DataError

_BATCH = 5_000


Source = str | Path | ArrowStream


class Column(NamedTuple):
    """A column: its name, and its type as the source declares it (`text` for a CSV, which declares none)."""

    name: str
    type: str


class Frame(Protocol):
    """Rows of text under named columns."""

    name: str
    columns: tuple[Column, ...]

    def rows(self) -> Iterator[Row | BrokenRow]:
        """Yields the rows in order; a missing value is None or empty. A stream that is spent gives no second pass."""


def open_frame(source: Source, *, delimiter: str = "", encoding: str = "utf-8") -> Frame:
    """Returns a source as rows of text.

    Args:
        source: path of a .parquet, .csv, .tsv or .csv.gz, or a frame that speaks Arrow.
        delimiter: of a CSV; "" finds it in the header.
        encoding: of a CSV.

    Raises:
        DataError: it cannot be read at all.

    >>> import duckdb
    >>> frame = open_frame(duckdb.connect().sql("SELECT 'a' AS card, 12.30 AS amount"))
    >>> frame.columns
    (Column(name='card', type='VARCHAR'), Column(name='amount', type='DECIMAL(4,2)'))
    >>> [row.cells for row in frame.rows()]
    [('a', '12.30')]
    """
    if isinstance(source, ArrowStream):
        return _ArrowFrame(source)
    path = Path(source)
    if path.suffix in (".parquet", ".pq"):
        return _ParquetFrame(path)
    return _CsvFrame(CsvFile(path, delimiter=delimiter, encoding=encoding))


class _CsvFrame:
    def __init__(self, file: CsvFile) -> None:
        self.name = file.path.name
        self.columns = tuple(Column(name, "text") for name in file.columns)
        self.rows = file.rows


class _QueryFrame:
    """What DuckDB can select from, every column as text, times in UTC."""

    def __init__(self, name: str, query: str, registered: ArrowStream | None = None) -> None:
        import duckdb

        self.name = name
        self._errors = (duckdb.Error, ModuleNotFoundError)
        self._query = query
        try:
            self._connection = duckdb.connect(":memory:", config={"threads": 1})
            self._connection.execute("SET TimeZone = 'UTC'")
            self._connection.execute("SET preserve_insertion_order = true")
            if registered is not None:
                self._connection.register("arrow_source", StreamOnly(registered))
            described = self._connection.execute(f"DESCRIBE {query}").fetchall()
        except self._errors as error:
            raise _unreadable(name, error) from None
        self.columns = tuple(Column(str(row[0]), str(row[1])) for row in described)
        if not self.columns:
            raise _unreadable(name, "no columns")

    def rows(self) -> Iterator[Row | BrokenRow]:
        """See `Frame.rows`."""
        try:
            self._connection.execute(f"SELECT COLUMNS(*)::VARCHAR FROM ({self._query})")  # noqa: S608  # our own text
            number = 0
            while batch := self._connection.fetchmany(_BATCH):
                for cells in batch:
                    number += 1
                    yield Row(number, number, cells)
        except self._errors as error:
            raise _unreadable(self.name, error) from None


class _ParquetFrame(_QueryFrame):
    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise DataError(
                where=path.name,
                given="a path where no file is",
                expected="a CSV or Parquet file that can be read",
                fix="Check the path.",
            )
        quoted = str(path.absolute()).replace("'", "''")
        # A path with *, ? or [ would be read as a pattern over many files.
        if any(mark in quoted for mark in "*?["):
            raise DataError(
                where=path.name,
                given="a path that holds *, ? or [",
                expected="the path of one file",
                fix="Rename the file, or read it with polars and hand over the frame.",
            )
        super().__init__(path.name, f"SELECT * FROM read_parquet('{quoted}')")  # noqa: S608  # quoted above


class _ArrowFrame(_QueryFrame):
    def __init__(self, source: ArrowStream) -> None:
        super().__init__(f"{type(source).__name__} frame", "SELECT * FROM arrow_source", source)


def _unreadable(name: str, error: Exception | str) -> DataError:
    first = str(error).strip().partition("\n")[0][:200]
    return DataError(
        where=name,
        given=f"data that cannot be read ({first})",
        expected="a Parquet file, or a frame that speaks the Arrow C stream",
        fix="Open it with the tool that wrote it and export it again.",
    )
