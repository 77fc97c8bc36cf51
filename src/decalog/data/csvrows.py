"""CSV by RFC 4180, read so that a broken row costs itself and no other.

A line that does not parse is set aside with its number and the reason, and reading goes on at the next line. DuckDB's
reader was tried first: it cannot open a file whose quotes or line ends are broken in one place, so it is not used here.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from decalog.errors import DataError, near

LONGEST_ROW = 4 * 2**20
"""Bytes of a row; a longer one is set aside unread, so that a missing line end cannot fill the memory."""
LONGEST_QUOTED_LINES = 100
"""Lines that one quoted field may span; beyond it the opening quote counts as broken."""
_TOGETHER = 500

ENCODINGS = ("utf-8", "latin-1", "cp1252")
DELIMITERS = (",", ";", "\t", "|")
_WIDE_MARKS = {
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"PAR1": "Parquet",
    b"PK\x03\x04": "a zip archive or Excel",
}


class Row(NamedTuple):
    """A row: its number (1 is the first, broken ones count), the line it starts on, its cells ("" or None: missing)."""

    number: int
    line: int
    cells: Sequence[str | None]


class BrokenRow(NamedTuple):
    """A row that could not be read: where it stands, a reason to count by, the words for a person, its text."""

    number: int
    line: int
    reason: str
    given: str
    fix: str
    text: str


class CsvFile:
    """A CSV file with a header line, plain or gzipped.

    Args:
        path: of the file.
        delimiter: one of `,` `;` tab `|`; "" takes the one that the header has most of.
        encoding: utf-8, latin-1 or cp1252.

    Raises:
        DataError: there is no file, no header, an empty or doubled column name, or it is no CSV at all.
    """

    def __init__(self, path: Path, *, delimiter: str = "", encoding: str = "utf-8") -> None:
        self.path = path
        self.encoding = encoding
        with self._open() as file:
            header = _read_header(file, path.name, encoding)
        self.delimiter = delimiter or max(DELIMITERS, key=header.count)
        self.columns = _column_names(header, self.delimiter, path.name)

    def rows(self) -> Iterator[Row | BrokenRow]:
        """Yields the rows in order; each call reads the file anew."""
        with self._open() as file:
            try:
                file.readline(LONGEST_ROW)
                yield from _Reader(file, self.delimiter, self.encoding, width=len(self.columns)).rows()
            except (OSError, EOFError, zlib.error) as error:
                raise _no_csv(self.path.name, f"a file that cannot be read to its end ({error})") from None

    def _open(self) -> BinaryIO:
        try:
            if self.path.suffix == ".gz":
                return cast("BinaryIO", gzip.open(self.path, "rb"))
            return self.path.open("rb")
        except OSError as error:
            raise DataError(
                where=self.path.name,
                given=f"a file that cannot be opened ({error.strerror})",
                expected="a CSV or Parquet file that can be read",
                fix="Check the path and its permissions.",
            ) from None


class _Reader:
    """Lines into rows. `_again` holds the lines behind a broken quote: they are rows of their own."""

    def __init__(self, file: BinaryIO, delimiter: str, encoding: str, *, width: int) -> None:
        self._file = file
        self._delimiter = delimiter
        self._encoding = encoding
        self._width = width
        self._again: deque[tuple[int, bytes]] = deque()
        self._line = 1
        self._number = 0

    def rows(self) -> Iterator[Row | BrokenRow]:
        while lines := self._take():
            rows = self._together([raw for _, raw in lines])
            if rows is None:
                self._again.extendleft(reversed(lines))
                yield from self._one_by_one()
                continue
            for (line, _), cells in zip(lines, rows, strict=True):
                self._number += 1
                yield Row(self._number, line, cells)

    def _take(self) -> list[tuple[int, bytes]]:
        lines: list[tuple[int, bytes]] = []
        size = 0
        while len(lines) < _TOGETHER and size < LONGEST_ROW and (numbered := self._next_line()) is not None:
            lines.append(numbered)
            size += len(numbered[1])
        return lines

    def _together(self, lines: list[bytes]) -> list[list[str]] | None:
        """Returns the cells of lines that are a whole row each, or None where any of them is not."""
        if any(b"\x00" in raw or len(raw) > LONGEST_ROW for raw in lines):
            return None
        try:
            texts = [raw.decode(self._encoding) for raw in lines]
            rows = list(csv.reader(texts, delimiter=self._delimiter, strict=True))
        except (UnicodeDecodeError, csv.Error):
            return None
        # As many rows as lines, all of full width: no quoted field can have crossed a line end.
        fit = len(rows) == len(lines) and set(map(len, rows)) == {self._width}
        return rows if fit and self._width > 1 else None

    def _one_by_one(self) -> Iterator[Row | BrokenRow]:
        while self._again:
            line, raw = self._again.popleft()
            if raw.strip(b"\r\n"):
                self._number += 1
                yield self._row(line, raw)

    def _next_line(self) -> tuple[int, bytes] | None:
        if self._again:
            return self._again.popleft()
        raw = self._file.readline(LONGEST_ROW + 1)
        if not raw:
            return None
        self._line += 1
        return self._line, raw

    def _row(self, line: int, raw: bytes) -> Row | BrokenRow:
        if len(raw) > LONGEST_ROW:
            self._skip_line(raw)
            return self._broken(line, raw, "row_length", f"a row of more than {LONGEST_ROW:,} bytes", "Add line ends.")
        if b"\x00" in raw:
            return self._broken(line, raw, "null_byte", "a NUL byte", "Export the file again as text.")
        if b'"' in raw:
            return self._quoted(line, raw)
        text = self._decode(raw)
        if text is None:
            return self._undecodable(line, raw)
        return self._checked(line, raw, text.split(self._delimiter))

    def _quoted(self, line: int, raw: bytes) -> Row | BrokenRow:
        text = self._decode(raw)
        if text is None:
            return self._undecodable(line, raw)
        cells = self._split(text)
        if not isinstance(cells, str):
            return self._checked(line, raw, cells)
        if "field limit" in cells:
            given = f"a quoted field of more than {csv.field_size_limit():,} characters"
            return self._broken(line, raw, "row_length", given, "Shorten it or leave the column out.")
        is_open = "end of data" in cells
        spanned = self._spanning(line, raw) if is_open else None
        given = "a quote that is not closed" if is_open else f"quotes that do not parse ({cells})"
        return spanned or self._broken(line, raw, "quotes", given, 'Write a quote inside a field twice: "".')

    def _spanning(self, line: int, raw: bytes) -> Row | None:
        """Returns the row of a quoted field that spans lines, or None after putting the lines back."""
        taken: list[tuple[int, bytes]] = []
        whole, quotes = raw, raw.count(b'"')
        while len(taken) < LONGEST_QUOTED_LINES and len(whole) <= LONGEST_ROW:
            numbered = self._next_line()
            if numbered is None:
                break
            taken.append(numbered)
            whole += numbered[1]
            quotes += numbered[1].count(b'"')
            text = self._decode(whole) if quotes % 2 == 0 and numbered[1].count(b'"') else None
            cells = "" if text is None else self._split(text)
            if not isinstance(cells, str) and len(cells) == self._width:
                return Row(self._number, line, cells)
        self._again.extendleft(reversed(taken))
        return None

    def _split(self, text: str) -> list[str] | str:
        """Returns the fields of a record, or the words of what is wrong with its quotes."""
        try:
            return next(csv.reader([text], delimiter=self._delimiter, strict=True))
        except csv.Error as error:
            return str(error)

    def _checked(self, line: int, raw: bytes, cells: list[str]) -> Row | BrokenRow:
        if len(cells) == self._width:
            return Row(self._number, line, cells)
        given = f"{len(cells)} fields where the header has {self._width}"
        fix = f"Quote fields that hold {self._delimiter!r}, or mend the row."
        return self._broken(line, raw, "field_count", given, fix)

    def _decode(self, raw: bytes) -> str | None:
        try:
            return raw.decode(self._encoding).rstrip("\r\n")
        except UnicodeDecodeError:
            return None

    def _undecodable(self, line: int, raw: bytes) -> BrokenRow:
        fix = 'Save the file as UTF-8, or state [file] encoding = "cp1252" in the mapping.'
        return self._broken(line, raw, "encoding", f"bytes that are not {self._encoding}", fix)

    def _broken(self, line: int, raw: bytes, reason: str, given: str, fix: str) -> BrokenRow:
        text = raw[:65_536].decode(self._encoding, errors="replace").rstrip("\r\n")
        return BrokenRow(self._number, line, reason, given, fix, text)

    def _skip_line(self, raw: bytes) -> None:
        while raw and not raw.endswith(b"\n"):
            raw = self._file.readline(LONGEST_ROW)


def _read_header(file: BinaryIO, name: str, encoding: str) -> str:
    try:
        raw = file.readline(LONGEST_ROW + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise _no_csv(name, f"a file that cannot be read ({error})") from None
    mark = next((mark for mark in _WIDE_MARKS if raw.startswith(mark)), None)
    if mark is not None:
        raise _no_csv(name, f"{_WIDE_MARKS[mark]} under the name of a CSV")
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    if len(raw) > LONGEST_ROW or b"\x00" in raw:
        raise _no_csv(name, "a first line that is no header")
    try:
        text = raw.decode(encoding).rstrip("\r\n")
    except UnicodeDecodeError:
        raise _no_csv(name, f"a header that is not {encoding}") from None
    if not text.strip():
        raise _no_csv(name, "an empty file" if not raw else "an empty first line")
    if "\r" in text:
        raise _no_csv(name, "lines that end in CR alone")
    return text


def _column_names(header: str, delimiter: str, name: str) -> tuple[str, ...]:
    try:
        cells = next(csv.reader([header], delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise _no_csv(name, f"a header whose quotes do not parse ({error})") from None
    names = tuple(cell.strip() or f"column_{place}" for place, cell in enumerate(cells, 1))
    if all(_is_number(cell) for cell in names):
        raise _no_csv(name, "numbers where the header should be")
    doubled = sorted({cell for cell in names if names.count(cell) > 1})
    if doubled:
        raise DataError(
            where=f"{name}, header",
            given=f"column names that stand there twice: {', '.join(doubled[:10])}",
            expected="each column name once",
            fix="Rename or drop one of each.",
        )
    return names


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _no_csv(name: str, given: str) -> DataError:
    return DataError(
        where=name,
        given=given,
        expected="a CSV in UTF-8 whose first line names the columns, or a Parquet file named .parquet",
        fix="Export it again with a header, as UTF-8 with LF or CRLF line ends.",
    )


def check_encoding(encoding: str) -> str:
    """Returns "" for an encoding that is read, else what is expected."""
    return "" if encoding in ENCODINGS else near(encoding, ENCODINGS)
