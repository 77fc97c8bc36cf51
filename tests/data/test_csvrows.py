"""A broken row costs itself and no other."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decalog.data.csvrows import LONGEST_ROW, BrokenRow, CsvFile, Row
from decalog.errors import DataError


def read(path: Path, data: bytes, *, encoding: str = "utf-8") -> list[Row | BrokenRow]:
    path.write_bytes(data)
    return list(CsvFile(path, encoding=encoding).rows())


def cells(rows: list[Row | BrokenRow]) -> list[list[str | None]]:
    return [list(row.cells) for row in rows if isinstance(row, Row)]


def broken(rows: list[Row | BrokenRow]) -> list[tuple[int, int, str]]:
    return [(row.number, row.line, row.reason) for row in rows if isinstance(row, BrokenRow)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rows.csv"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"4,5", "field_count"),
        (b"4,5,6,7", "field_count"),
        (b'4,"5,6', "quotes"),
        (b'4,"5"x,6', "quotes"),
        (b'"4,5,6', "quotes"),
        (b"4,\xe9t\xe9,6", "encoding"),
        (b'4,"\xff",6', "encoding"),
        (b"4,\x00,6", "null_byte"),
        (b"4," + b"x" * (LONGEST_ROW + 10) + b",6", "row_length"),
        (b'4,"' + b"x" * 1_000_000 + b'",6', "row_length"),
    ],
)
def test_a_broken_row_in_the_middle_is_set_aside_with_its_line_and_the_others_are_read(
    path: Path, line: bytes, reason: str
) -> None:
    rows = read(path, b'a,b,c\n1,2,3\n"x",y,z\n' + line + b'\n7,8,9\n10,"11\n 11",12\n')
    assert broken(rows) == [(3, 4, reason)]
    assert cells(rows) == [["1", "2", "3"], ["x", "y", "z"], ["7", "8", "9"], ["10", "11\n 11", "12"]]
    assert [row.number for row in rows] == [1, 2, 3, 4, 5]


def test_two_open_quotes_do_not_swallow_what_stands_between_them(path: Path) -> None:
    rows = read(path, b'a,b\n1,"2\n3,4\n5,"6\n7,8\n')
    assert broken(rows) == [(1, 2, "quotes"), (3, 4, "quotes")]
    assert cells(rows) == [["3", "4"], ["7", "8"]]


def test_quotes_commas_and_line_ends_inside_quotes_belong_to_the_field(path: Path) -> None:
    rows = read(path, b'a,b\r\n"say ""hi""","x, y"\r\n"two\r\nlines",z\r\n')
    assert cells(rows) == [['say "hi"', "x, y"], ["two\r\nlines", "z"]]


def test_bom_crlf_mixed_line_ends_blank_lines_and_a_missing_last_line_end(path: Path) -> None:
    rows = read(path, b"\xef\xbb\xbfa,b\r\n1,2\n\r\n\n3,4\r\n5,6")
    assert cells(rows) == [["1", "2"], ["3", "4"], ["5", "6"]]
    assert [row.line for row in rows] == [2, 5, 6]


def test_a_million_characters_without_quotes_are_a_field_like_any_other(path: Path) -> None:
    rows = read(path, b"a,b\n1," + b"x" * 1_000_000 + b"\n3,4\n")
    assert [len(row[1] or "") for row in cells(rows)] == [1_000_000, 1]


def test_other_delimiters_are_found_in_the_header_and_other_encodings_are_stated(path: Path) -> None:
    assert cells(read(path, b"a;b;c\n1,5;2;3\n")) == [["1,5", "2", "3"]]
    assert cells(read(path, b"a\tb\n1\t2\n")) == [["1", "2"]]
    assert cells(read(path, "näme,b\nJosé,2\n".encode("cp1252"), encoding="cp1252")) == [["José", "2"]]


def test_a_gzipped_file_is_read_and_a_truncated_one_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv.gz"
    packed = gzip.compress(b"a,b\n" + b"".join(b"%d,%d\n" % (n, n * n) for n in range(2_000)))
    assert cells(read(path, gzip.compress(b"a,b\n1,2\n"))) == [["1", "2"]]
    with pytest.raises(DataError, match="a file that cannot be read to its end"):
        read(path, packed[: len(packed) // 2])
    with pytest.raises(DataError, match="a file that cannot be read"):
        read(path, b"no gzip at all")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "an empty file"),
        (b"\xef\xbb\xbf\n", "an empty first line"),
        (b"1,2\n3,4\n", "numbers where the header should be"),
        (b"a,a,b\n1,2,3\n", "column names that stand there twice: a"),
        (b"a\rb\r", "lines that end in CR alone"),
        (b"a\xff,b\n", "a header that is not utf-8"),
        (b'"a,b\n', "a header whose quotes do not parse"),
        (b"a\x00,b\n", "a first line that is no header"),
        ("a,b\n".encode("utf-16"), "UTF-16 under the name of a CSV"),
        (b"PAR1xxxx", "Parquet under the name of a CSV"),
    ],
)
def test_what_is_no_csv_says_why(path: Path, data: bytes, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read(path, data)


def test_header_only_has_no_rows_and_an_unnamed_column_gets_a_name(path: Path) -> None:
    assert read(path, b"a,b") == []
    assert CsvFile(path).columns == ("a", "b")
    path.write_bytes(b",b\n1,2\n")
    assert CsvFile(path).columns == ("column_1", "b")


def test_a_missing_file_is_named_without_its_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^nowhere\.csv: a file that cannot be opened") as caught:
        CsvFile(tmp_path / "nowhere.csv")
    assert str(tmp_path) not in str(caught.value)


@given(
    st.lists(st.lists(st.text(st.characters(blacklist_characters="\x00\r\n", codec="utf-8")), min_size=3, max_size=3)),
    st.binary(max_size=200).filter(lambda raw: b"\n" not in raw and "·".encode() not in raw),
    st.integers(0, 20),
)
def test_whatever_one_line_holds_every_other_row_is_read(
    tmp_path_factory: pytest.TempPathFactory, table: list[list[str]], noise: bytes, place: int
) -> None:
    # A quote opened in the noise may pair with one of a later row by accident, so the rows around it hold none.
    plain = [[cell.replace('"', "").replace(",", "") + "·" for cell in row] for row in table]
    lines = [",".join(row).encode() for row in plain]
    place = min(place, len(lines))
    path = tmp_path_factory.mktemp("csv") / "rows.csv"
    rows = read(path, b"\n".join([b"a,b,c", *lines[:place], noise, *lines[place:]]) + b"\n")
    assert [row for row in cells(rows) if str(row[0]).endswith("·")] == plain
