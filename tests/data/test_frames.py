"""Parquet and Arrow give the same text as a CSV would: exact, in UTC, nothing through a binary float."""

from __future__ import annotations

import contextlib
from pathlib import Path

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decalog.arrow import ArrowStream
from decalog.data.frames import open_frame
from decalog.errors import DataError

QUERY = """
SELECT 12.30::DECIMAL(10, 2) AS amount, 12.34::DOUBLE AS price, 0.1::FLOAT AS ratio, 9007199254740993 AS card,
       TIMESTAMPTZ '2026-01-01 02:00:00+02' AS at, TIMESTAMP '2026-01-01 01:02:03.5' AS naive, true AS flag,
       'nan'::DOUBLE AS broken, '' AS blank, NULL AS missing, 'Zoë 🙂' AS name
"""
TEXTS = (
    "12.30",
    "12.34",
    "0.1",
    "9007199254740993",
    "2026-01-01 00:00:00+00",
    "2026-01-01 01:02:03.5",
    "true",
    "nan",
    "",
    None,
    "Zoë 🙂",
)


class Lazy:
    """A frame of another library: all that it shares with us is the Arrow stream."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        connection = duckdb.connect()
        connection.execute("SET TimeZone = 'UTC'")
        return connection.sql(QUERY).__arrow_c_stream__(requested_schema)


def test_parquet_gives_every_value_as_exact_text(tmp_path: Path) -> None:
    path = tmp_path / "it's payments.parquet"
    quoted = str(path).replace("'", "''")
    duckdb.connect().execute(f"COPY ({QUERY}) TO '{quoted}' (FORMAT parquet)")
    frame = open_frame(path)
    assert frame.name == "it's payments.parquet"
    assert [tuple(row.cells) for row in frame.rows()] == [TEXTS]  # type: ignore[union-attr]
    assert [(row.number, row.line) for row in frame.rows()] == [(1, 1)]


def test_a_frame_that_speaks_arrow_gives_the_same_without_pyarrow() -> None:
    frame = open_frame(Lazy())
    assert frame.name == "Lazy frame"
    assert [tuple(row.cells) for row in frame.rows()] == [TEXTS]  # type: ignore[union-attr]
    assert [column.type for column in frame.columns][:4] == ["DECIMAL(10,2)", "DOUBLE", "FLOAT", "BIGINT"]


def test_a_polars_frame_is_read_where_polars_is_installed() -> None:
    polars = pytest.importorskip("polars")
    frame = open_frame(polars.DataFrame({"card": ["a", None], "amount": [0.1, 2.5]}))
    assert [tuple(row.cells) for row in frame.rows()] == [("a", "0.1"), (None, "2.5")]  # type: ignore[union-attr]


def test_many_batches_keep_their_order() -> None:
    rows = open_frame(duckdb.connect().sql("SELECT range AS n FROM range(12345)")).rows()
    assert [int(row.cells[0] or 0) for row in rows] == list(range(12345))  # type: ignore[union-attr]


def test_damaged_missing_and_strange_sources_are_errors_of_four_parts(tmp_path: Path) -> None:
    path = tmp_path / "damaged.parquet"
    path.write_bytes(b"PAR1" + b"\x00" * 100 + b"PAR1")
    with pytest.raises(DataError, match=r"^damaged\.parquet: data that cannot be read"):
        open_frame(path)
    with pytest.raises(DataError, match=r"^nowhere\.parquet: a path where no file is"):
        open_frame(tmp_path / "nowhere.parquet")
    starred = tmp_path / "a*.parquet"
    starred.write_bytes(b"")
    with pytest.raises(DataError, match=r"a path that holds \*, \? or \["):
        open_frame(starred)


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6), st.integers(0, 10_000))
def test_whatever_is_damaged_in_a_parquet_file_nothing_but_a_data_error_comes_out(
    tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[int, int]], kept: int
) -> None:
    path = tmp_path_factory.mktemp("parquet") / "damaged.parquet"
    duckdb.connect().execute(
        f"COPY (SELECT 'p' || range AS id, * FROM ({QUERY}), range(99)) TO '{path}' (FORMAT parquet)"
    )
    data = bytearray(path.read_bytes())
    for place, byte in damage:
        data[place % len(data)] = byte
    path.write_bytes(data[:kept] if kept < len(data) else data)
    with contextlib.suppress(DataError):
        assert all(row.number for row in open_frame(path).rows())


def test_a_stream_that_fails_on_the_way_is_an_error() -> None:
    class Broken:
        def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
            return object()

    source: ArrowStream = Broken()
    with pytest.raises(DataError, match="Broken frame: data that cannot be read"):
        list(open_frame(source).rows())
