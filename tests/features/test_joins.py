"""Every row comes out once with what was valid then and known then: held to a reference that is plainly right."""

from __future__ import annotations

import datetime as dt
import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import duckdb
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decalog.clock import DAY, HOUR
from decalog.errors import DataError
from decalog.features import versions
from decalog.features.joins import Columns, Fill, Joined, join_as_of
from decalog.features.sides import Source

T0 = 1_700_000_000_000_000
AT_ONCE = Columns(known_time="event_time")


class Row(NamedTuple):
    key: str | None
    event_time: int | None
    known_time: int | None


class Said(NamedTuple):
    key: str | None
    valid_from: int
    known_from: int
    valid_to: int | None
    deleted: bool | None
    value: int | None


def reference(rows: Sequence[Row], table: Sequence[Said]) -> list[Said | None]:
    """Returns the answer of each row by looking at the whole table, as the docstring of `join_as_of` says it."""
    return [answer(row, table) for row in rows]


def answer(row: Row, table: Sequence[Said]) -> Said | None:
    if row.key is None or row.event_time is None or row.known_time is None:
        return None
    known = [said for said in table if said.key == row.key and said.known_from <= row.known_time]
    believed = []
    for valid_from in sorted({said.valid_from for said in known}):
        versions_of_it = [said for said in known if said.valid_from == valid_from]
        newest = max(said.known_from for said in versions_of_it)
        believed.append([said for said in versions_of_it if said.known_from == newest][-1])
    valid = [
        said
        for said in believed
        if said.valid_from <= row.event_time
        and not said.deleted
        and (said.valid_to is None or row.event_time < said.valid_to)
    ]
    return valid[-1] if valid else None


def arrow(columns: Sequence[str], types: Sequence[str], rows: Sequence[Sequence[object]]) -> Any:
    """Returns rows as a frame that speaks Arrow."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    declared = ", ".join(f'"{name}" {kind}' for name, kind in zip(columns, types, strict=True))
    connection.execute(f"CREATE TABLE made ({declared})")
    if rows:
        connection.executemany(f"INSERT INTO made VALUES ({', '.join('?' * len(columns))})", rows)
    return connection.table("made")


def moments(rows: Sequence[Row]) -> Any:
    return arrow(Row._fields, ["VARCHAR", "BIGINT", "BIGINT"], rows)


def statements(table: Sequence[Said]) -> Any:
    return arrow(Said._fields, ["VARCHAR", "BIGINT", "BIGINT", "BIGINT", "BOOLEAN", "BIGINT"], table)


def values(joined: Joined, name: str) -> list[Any]:
    column = joined.arrays()[name]
    return cast("list[Any]", np.ma.array(column).tolist())


KEYS = st.sampled_from(["a", "b", None])
TIMES = st.integers(T0, T0 + 6)
ROWS = st.lists(st.builds(Row, KEYS, st.none() | TIMES, st.none() | TIMES), max_size=25)
SAID = st.builds(Said, KEYS, TIMES, TIMES, st.none() | TIMES, st.sampled_from([None, False, False, True]), st.none())


def tables() -> st.SearchStrategy[list[Said]]:
    numbered = st.lists(SAID, max_size=40).map(
        lambda table: [said._replace(value=number) for number, said in enumerate(table)]
    )
    return numbered.flatmap(lambda table: st.sampled_from([table, [said._replace(valid_to=None) for said in table]]))


@given(rows=ROWS, table=tables())
def test_each_row_gets_the_answer_of_the_reference(rows: list[Row], table: list[Said]) -> None:
    joined = join_as_of(moments(rows), statements(table), on="key")
    expected = reference(rows, table)
    assert values(joined, "value") == [None if said is None else said.value for said in expected]
    columns = (values(joined, name) for name in Row._fields)
    assert list(zip(*columns, strict=True)) == [tuple(row) for row in rows]
    assert (joined.rows, joined.missing) == (len(rows), expected.count(None))


@given(rows=ROWS, table=tables(), size=st.integers(1, 3))
def test_passing_over_blocks_changes_nothing(rows: list[Row], table: list[Said], size: int) -> None:
    asked = [row for row in rows if None not in row]
    boxes = versions.boxes_of(
        versions.Statements(
            np.array([-1 if said.key is None else "ab".index(said.key) for said in table], np.int64),
            np.array([said.valid_from for said in table], np.int64),
            np.array([said.known_from for said in table], np.int64),
            np.array([versions.END if said.valid_to is None else said.valid_to for said in table], np.int64),
            np.array([bool(said.deleted) for said in table], np.bool_),
        ),
        keys=2,
    )
    repeated = boxes._replace(
        **{
            name: np.repeat(getattr(boxes, name), versions._BLOCK * size)
            for name in ("valid_from", "valid_to", "known_from", "known_to", "places")
        }
    )._replace(starts=boxes.starts * versions._BLOCK * size)
    found = versions.find(
        repeated,
        np.array([["a", "b"].index(str(row.key)) for row in asked], np.int64),
        event_times=np.array([row.event_time for row in asked], np.int64),
        known_times=np.array([row.known_time for row in asked], np.int64),
    )
    expected = [answer(row, table) for row in asked]
    assert found.tolist() == [versions.NOWHERE if said is None else said.value for said in expected]


def test_whole_blocks_that_were_known_too_late_are_passed_over() -> None:
    size = 3 * versions._BLOCK**2 + 5
    late = np.full(size, T0 + 10 * size)
    late[7] = T0
    table = {"key": np.zeros(size, np.int64), "valid_from": T0 + np.arange(size), "known_from": late}
    rows = {"key": np.zeros(3, np.int64), "event_time": T0 + np.array([6, 7, 2 * size])}
    joined = join_as_of(rows, table | {"value": np.arange(size)}, on="key", columns=AT_ONCE)
    assert values(joined, "value") == [None, 7, 7]


def said(valid_from: int, known_from: int, value: int | None, **more: Any) -> Said:
    return Said("a", T0 + valid_from, T0 + known_from, more.get("valid_to"), more.get("deleted"), value)


@pytest.mark.parametrize(
    ("table", "event", "known", "expected"),
    [
        ([said(0, 0, 1)], 0, 0, 1),  # both limits count
        ([said(1, 0, 1)], 0, 5, None),  # not valid yet
        ([said(0, 1, 1)], 5, 0, None),  # valid, but not known yet
        ([said(0, 0, 1), said(2, 9, 2)], 5, 5, 1),  # backfilled after the decision: the older one was known
        ([said(0, 0, 1), said(0, 4, 2)], 5, 3, 1),  # before the correction
        ([said(0, 0, 1), said(0, 4, 2)], 5, 4, 2),  # after it
        ([said(3, 0, 3), said(0, 4, 2)], 5, 5, 3),  # a correction of an older value does not hide the newer one
        ([said(0, 0, 1), said(0, 0, 2)], 5, 5, 2),  # the later row of the table
        ([said(0, 0, 1), said(0, 2, 0, deleted=True)], 5, 1, 1),
        ([said(0, 0, 1), said(0, 2, 0, deleted=True)], 5, 2, None),
        ([said(0, 0, 1), said(0, 2, 0, deleted=True), said(0, 3, 4)], 5, 3, 4),  # revived
        ([said(0, 0, 1), said(2, 0, 2), said(2, 3, 0, deleted=True)], 5, 3, 1),  # what lies below shows again
        ([said(0, 0, 1, valid_to=T0 + 5)], 5, 5, None),  # the end is not included
        ([said(0, 0, 1, valid_to=T0 + 5)], 4, 5, 1),
        ([said(0, 0, 1), said(2, 0, 2, valid_to=T0 + 4)], 4, 5, 1),  # an offer ended, the list price stands
        ([said(0, 0, 1), said(0, 2, 1, valid_to=T0 + 3)], 4, 1, 1),  # the end was not known yet
        ([said(3, 0, 1, valid_to=T0 + 3)], 3, 5, None),  # a range that holds nothing
        ([said(0, 0, 1), said(2, 0, None)], 5, 5, None),  # missing is a value: it replaces the one before
    ],
)
def test_the_rule_case_by_case(table: list[Said], event: int, known: int, expected: int | None) -> None:
    joined = join_as_of(moments([Row("a", T0 + event, T0 + known)]), statements(table), on="key")
    assert values(joined, "value") == [expected]


def test_a_time_that_is_not_there_gives_a_missing_value() -> None:
    moments_of = np.array(["NaT", "2026-01-01"], "datetime64[ns]")
    rows = {"key": np.array(["a", "a"]), "event_time": moments_of, "known_time": moments_of}
    joined = join_as_of(rows, statements([said(0, 0, 1)]), on="key", timezone="UTC")
    assert values(joined, "value") == [None, 1]


def test_rows_that_are_equal_each_stay() -> None:
    rows = [Row("a", T0, T0)] * 3 + [Row("b", T0, T0)] + [Row("a", T0, T0)]
    assert values(join_as_of(moments(rows), statements([said(0, 0, 1)]), on="key"), "value") == [1, 1, 1, None, 1]


@pytest.mark.parametrize("rows", [[], [Row("a", T0, T0)]])
def test_an_empty_side_gives_its_columns(rows: list[Row]) -> None:
    joined = join_as_of(moments(rows), statements([]), on="key", fill={"value": -1})
    assert joined.columns == ["key", "event_time", "known_time", "value"]
    assert values(joined, "value") == [-1] * len(rows)
    joined = join_as_of(moments([]), statements([said(0, 0, 1)]), on="key")
    assert (joined.rows, joined.missing) == (0, 0)


def test_times_without_end_are_taken_as_such() -> None:
    types = ["VARCHAR", *["TIMESTAMPTZ"] * 3, "INTEGER"]
    always = ["a", "-infinity", "2026-01-01 00:00:00Z", "infinity", 1]
    table = arrow(["key", "valid_from", "known_from", "valid_to", "value"], types, [always])
    rows = arrow(
        ["key", "event_time", "known_time"],
        types[:3],
        [["a", "2026-01-01 00:00:00Z", "infinity"], ["a", "1999-01-01 00:00:00Z", "2025-12-31 00:00:00Z"]],
    )
    assert values(join_as_of(rows, table, on="key"), "value") == [1, None]


NS = 1_700_000_000_000_000_500


@pytest.mark.parametrize(("kind", "zone"), [("TIMESTAMP_NS", "UTC"), ("TIMESTAMPTZ_NS", "")])
def test_what_is_finer_than_a_microsecond_is_cut_off(kind: str, zone: str) -> None:
    text = "2023-11-14 22:13:20.0000009"
    table = arrow(
        ["key", "valid_from", "known_from", "value"], ["VARCHAR", kind, kind, "INTEGER"], [["a", text, text, 1]]
    )
    rows = arrow(["key", "event_time"], ["VARCHAR", "BIGINT"], [["a", T0 - 1], ["a", T0]])
    assert values(join_as_of(rows, table, on="key", columns=AT_ONCE, timezone=zone), "value") == [None, 1]


ZONED = "key,event_time\na,2024-10-27T02:30:00\na,2024-10-27T03:30:00\na,2024-10-27T00:45:00Z\n"


def test_an_hour_that_comes_twice_is_never_seen_too_early(tmp_path: Path) -> None:
    """At 02:30 in Berlin on that day the clock has been there before: the table means 01:30 UTC, a row 00:30 UTC."""
    rows = tmp_path / "rows.csv"
    rows.write_text(ZONED)
    table = tmp_path / "table.csv"
    table.write_text("key,valid_from,known_from,value\na,2024-10-27 02:30:00,2024-10-01,5\n")
    joined = join_as_of(rows, table, on="key", columns=AT_ONCE, timezone="Europe/Berlin")
    assert values(joined, "value") == [None, "5", None]


PARQUET = "SELECT 'a' AS key, TIMESTAMPTZ '2026-01-02 00:00:00Z' AS event_time, 1.50::DECIMAL(5, 2) AS amount"
TABLE_ROW = {"key": "a", "valid_from": T0, "known_from": T0, "score": 7}


def sources(folder: Path) -> Mapping[str, Source]:
    """Returns the same row in every form."""
    duckdb.connect().execute(f"COPY ({PARQUET}) TO '{folder / 'read_csv rows.parquet'}' (FORMAT parquet)")
    (folder / "it's rows.csv").write_text("key,event_time,amount\na,2026-01-02T00:00:00Z,1.50\n")
    return {
        "parquet": folder / "read_csv rows.parquet",
        "csv": str(folder / "it's rows.csv"),
        "arrow": duckdb.connect().sql(PARQUET),
        "arrays": {"key": np.array(["a"]), "event_time": np.array([1_767_312_000_000_000]), "amount": np.array([1.5])},
        "objects": {
            "key": np.array(["a"], object),
            "event_time": np.array(["2026-01-02T02:00:00+02:00"], object),
            "amount": np.ma.masked_array([1.5], [True]),
        },
    }


@pytest.mark.parametrize("form", ["parquet", "csv", "arrow", "arrays", "objects"])
def test_rows_come_in_any_form(form: str, tmp_path: Path) -> None:
    table = {name: np.array([value]) for name, value in TABLE_ROW.items()}
    joined = join_as_of(sources(tmp_path)[form], table, on="key", columns=AT_ONCE)
    assert joined.columns == ["key", "event_time", "amount", "score"]
    assert values(joined, "score") == [7]


def test_frames_of_polars_go_in_and_come_out() -> None:
    moment = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
    rows = pl.DataFrame({"key": ["a", "b"], "event_time": [moment] * 2})
    table = pl.DataFrame({**TABLE_ROW, "kind": pl.Series(["x"], dtype=pl.Categorical)})
    joined = join_as_of(rows, table, on="key", columns=AT_ONCE)
    assert values(joined, "kind") == ["x", None]
    expected = {"key": ["a", "b"], "event_time": [moment] * 2, "score": [7, None], "kind": ["x", None]}
    assert pl.DataFrame(joined).to_dict(as_series=False) == expected


def test_a_fill_stands_for_values_that_the_table_states_as_missing_too() -> None:
    table = [said(0, 0, None), Said("b", T0, T0, None, None, 3)]
    rows = [Row(key, T0, T0) for key in ("a", "b", "c")]
    joined = join_as_of(moments(rows), statements(table), on="key", fill={"value": 0})
    assert values(joined, "value") == [0, 3, 0]
    assert joined.missing == 1


def test_the_result_is_a_frame_and_a_file_with_the_types_it_had(tmp_path: Path) -> None:
    table = {name: np.array([value]) for name, value in TABLE_ROW.items()}
    joined = join_as_of(duckdb.connect().sql(PARQUET), table, on="key", columns=AT_ONCE)
    joined.write(tmp_path / "it's joined.parquet")
    joined.write(tmp_path / "joined.csv")
    types = ["VARCHAR", "TIMESTAMP WITH TIME ZONE", "DECIMAL(5,2)", "BIGINT"]
    connection = duckdb.connect()
    assert connection.read_parquet(str(tmp_path / "it's joined.parquet")).types == types
    again = join_as_of(joined, table, on="key", columns=Columns(known_time="event_time", values={"score": "twice"}))
    assert values(again, "twice") == values(joined, "score") == [7]
    text = (tmp_path / "joined.csv").read_text()
    assert text == "key,event_time,amount,score\na,2026-01-02 00:00:00+00,1.50,7\n"


def test_keys_may_be_several_and_named_differently() -> None:
    rows = arrow(["Shop", "cur rency", "rowid"], ["INTEGER", "VARCHAR", "BIGINT"], [[1, "EUR", T0], [1, None, T0]])
    table = arrow(
        ["shop_id", "currency", "valid_from", "known_from", "rate"],
        ["BIGINT", "VARCHAR", "BIGINT", "BIGINT", "DOUBLE"],
        [[1, "USD", T0, T0, 1.0], [1, "EUR", T0, T0, 2.0], [1, None, T0, T0, 3.0]],
    )
    columns = Columns(event_time="rowid", known_time="rowid", values={"rate": 'a "rate"', "valid_from": "since"})
    joined = join_as_of(rows, table, on={"Shop": "shop_id", "cur rency": "currency"}, columns=columns)
    assert values(joined, 'a "rate"') == [2.0, None]
    assert values(joined, "since") == [T0, None]
    assert values(join_as_of(rows, table, on={"Shop": "shop_id"}, columns=columns), 'a "rate"') == [3.0, 3.0]


def test_every_line_of_a_csv_is_a_row(tmp_path: Path) -> None:
    lines = ['\ufeffkey,event_time,"it\'s, said"', "a,{0},x", "# b,{0},", ' c ,{0},"two\nlines, ""quoted"""', "a,,"]
    with gzip.open(tmp_path / "rows.csv.gz", "wt", encoding="utf-8", newline="") as file:
        file.write("\r\n".join(lines).format(iso(0)))
    joined = join_as_of(tmp_path / "rows.csv.gz", TABLE, on="key", columns=AT_ONCE)
    assert values(joined, "score") == [1, None, None, None]
    assert values(joined, "it's, said") == ["x", None, 'two\nlines, "quoted"', None]


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_the_header_of_a_csv_says_what_parts_it(delimiter: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text(f"key,event_time,note\na,{iso(0)},1\na,{iso(-1)},\n".replace(",", delimiter))
    assert values(join_as_of(path, TABLE, on="key", columns=AT_ONCE), "score") == [1, None]


def test_text_of_a_csv_is_compared_as_text(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(f"key,valid_from,known_from,deleted,value\n7,{iso(0)},{iso(0)},no,x\n007,{iso(0)},{iso(0)},,y\n")
    rows = arrow(["key", "event_time"], ["BIGINT", "BIGINT"], [[7, T0], [8, T0]])
    assert values(join_as_of(rows, path, on=["key"], columns=AT_ONCE, fill={"value": "none"}), "value") == ["x", "none"]


def iso(seconds: int) -> str:
    return dt.datetime.fromtimestamp(T0 // 10**6 + seconds, dt.UTC).isoformat()


def test_a_column_named_valid_to_may_be_a_value() -> None:
    table = [said(0, 0, 1, valid_to=T0 + 1)]
    joined = join_as_of(
        moments([Row("a", T0 + 5, T0 + 5)]), statements(table), on="key", columns=Columns(values=["valid_to"])
    )
    assert values(joined, "valid_to") == [T0 + 1]


def test_a_day_s_value_is_known_when_it_was_written() -> None:
    """A score of a day, valid from its midnight, computed at six the next morning, and corrected a week later."""
    days = np.array(["2026-03-01", "2026-03-02", "2026-03-01"], "datetime64[D]")
    table = {
        "key": np.array(["m"] * 3),
        "valid_from": days,
        "known_from": days + np.array([30, 30, 24 * 8], "timedelta64[h]"),
        "risk": np.array([0.1, 0.2, 0.9]),
    }
    noon = int(days[1].astype("datetime64[us]").astype(np.int64)) + 12 * HOUR
    rows = {
        "key": np.array(["m"] * 3),
        "event_time": np.array([noon] * 3),
        "known_time": noon + np.array([0, DAY, 30 * DAY]),
    }
    assert values(join_as_of(rows, table, on="key", timezone="UTC"), "risk") == [0.1, 0.2, 0.2]
    rows["event_time"] -= DAY
    assert values(join_as_of(rows, table, on="key", timezone="UTC"), "risk") == [0.1, 0.1, 0.9]


GOOD = {"key": np.array(["a"]), "event_time": np.array([T0]), "known_time": np.array([T0])}
TABLE = {"key": np.array(["a"]), "valid_from": np.array([T0]), "known_from": np.array([T0]), "score": np.array([1])}
NAIVE = np.array(["2026-01-01"], "datetime64[s]")


def message(rows: object = GOOD, table: object = TABLE, **more: Any) -> str:
    with pytest.raises(DataError) as caught:
        join_as_of(cast("Source", rows), cast("Source", table), **{"on": "key", **more})
    return str(caught.value)


US = "Expected times with an offset, such as 2026-03-01T12:00:00Z, or µs since the epoch as whole numbers."
STATE = f'{US} State the zone of such times: timezone="Europe/Berlin", or "UTC".'
MEND = f"{US} Mend the column, or name another one."
READABLE = (
    "Expected the path of one Parquet or CSV file, a frame that speaks the Arrow C stream, or arrays of one length. "
    "Check the path, or hand over the frame itself."
)


@pytest.mark.parametrize(
    ("rows", "table", "expected"),
    [
        ({"event_time": NAIVE}, {}, f"rows, arrays, event_time: times without an offset. {STATE}"),
        ({}, {"known_from": NAIVE}, f"table, arrays, known_from: times without an offset. {STATE}"),
        (
            {"known_time": np.array(["2026-01-01 12:00:00"])},
            {},
            f"rows, arrays, known_time: times without an offset, in 1 row. {STATE}",
        ),
        ({"known_time": np.array(["noon"])}, {}, f"rows, arrays, known_time: text that is no time, in 1 row. {MEND}"),
        ({"event_time": np.array([1.5])}, {}, f"rows, arrays, event_time: a column of type DOUBLE. {MEND}"),
        (
            {"event_time": np.array([1_700_000_000])},
            {},
            f"rows, arrays, event_time: whole numbers up to 1700000000, which are no µs since the epoch. {MEND}",
        ),
        (
            {},
            {"valid_from": np.array([T0 * 1000])},
            f"table, arrays, valid_from: whole numbers up to {T0 * 1000}, which are no µs since the epoch. {MEND}",
        ),
        (
            {},
            {"known_from": np.ma.masked_array([T0], [True])},
            (
                "table, arrays row 1, known_from: no time, one of 1 such rows. Expected a time in every row: without "
                "it nobody can say which decisions may see the row. Leave such rows out, or state the time from which "
                "the value may be used."
            ),
        ),
        (
            {},
            {"deleted": np.array([2])},
            (
                "table, arrays, deleted: neither true nor false, in 1 row. Expected true or false, 1 or 0. "
                "Mend the column, or name another one."
            ),
        ),
        (
            {"key": np.array([1])},
            {},
            (
                "rows, arrays, key: keys of type BIGINT. Expected VARCHAR, as 'key' of table, arrays. "
                "Cast one of the two: what is compared must be the same thing."
            ),
        ),
        (
            {"Score": np.array([1])},
            {},
            (
                "table, arrays, score: the name 'score', which is taken. Expected a name that no other column of the "
                'result has; upper and lower case are the same. State another one: values={"score": "…"}.'
            ),
        ),
        (
            {"other": np.array([1, 2])},
            {},
            f"rows, arrays: data that cannot be read (arrays of 1 to 2 values). {READABLE}",
        ),
        (
            {"other": np.zeros((1, 1))},
            {},
            f"rows, arrays: data that cannot be read ('other', which is no array of one dimension). {READABLE}",
        ),
    ],
)
def test_a_column_that_cannot_be_used_is_refused(
    rows: dict[str, object], table: dict[str, object], expected: str
) -> None:
    assert message({**GOOD, **rows}, {**TABLE, **table}) == expected


@pytest.mark.parametrize("fill", [{"score": "x"}, {"score": 1.5}, {"score": 2**70}])
def test_a_fill_that_does_not_fit_is_refused(fill: dict[str, Fill]) -> None:
    assert message(fill=fill) == (
        f"fill, score: {fill['score']!r}. Expected a value of type BIGINT. "
        "State one that the column can hold, or cast the column."
    )


def test_names_that_are_not_there_are_refused_with_the_nearest() -> None:
    assert message(on="kye") == (
        "rows, arrays: no column 'kye'. Expected 'key' (closest match), or one of: event_time, key, known_time. "
        "State how the column is called."
    )
    assert message(columns=Columns(valid_to="until")).startswith("table, arrays: no column 'until'.")
    assert message(columns=Columns(values=["scores"])).startswith("table, arrays: no column 'scores'. Expected 'score'")
    assert message(on=[]) == "on: no column. Expected one column of the key or more. Name them."
    assert message(fill={"skore": 1}) == (
        "fill, skore: a name that is not added. Expected one of: score. "
        "Name a column of the result that comes from the table."
    )
    assert message(timezone="Europe/Berlim").startswith(
        "timezone: 'Europe/Berlim'. Expected an IANA time zone, 'Europe/Berlin' (closest match), or one of: "
    )
    assert message(timezone="x").endswith('Name the zone of the place, such as "Europe/Berlin", or "UTC".')


def test_a_source_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert (
        message(tmp_path / "no.csv") == f"rows, no.csv: data that cannot be read (a path where no file is). {READABLE}"
    )
    assert "a path that holds *, ? or [" in message("a*.csv")
    assert message(5) == f"rows, int: data that cannot be read (neither a path, a frame nor arrays). {READABLE}"
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1")
    assert message(broken).startswith("rows, broken.parquet: data that cannot be read (")
    ragged = tmp_path / "ragged.csv"
    ragged.write_text("key,event_time\na,2026-01-01T00:00:00Z\nb\n")
    assert message(ragged).startswith("rows, ragged.csv: data that cannot be read (")
    (tmp_path / "latin.csv").write_bytes(b"key,\xe9\n")
    assert message(tmp_path / "latin.csv").startswith("rows, latin.csv: data that cannot be read (UnicodeDecodeError).")
    (tmp_path / "empty.csv").write_bytes(b"")
    assert message(tmp_path / "empty.csv").startswith("rows, empty.csv: data that cannot be read (")


def test_a_file_of_another_kind_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        join_as_of(GOOD, TABLE, on="key").write(tmp_path / "joined.xlsx")
    assert str(caught.value) == (
        "joined.xlsx: a file of another kind. Expected a path that ends in .parquet, .pq or .csv. "
        "Name the file so, or hand the result to the library that writes such files: it speaks Arrow."
    )
