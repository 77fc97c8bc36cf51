"""Planners' files: rows of a table as CSV or as an Excel workbook, and back, with nothing in a cell that could run.

A text that a spreadsheet would take for a formula gets an apostrophe before it in CSV, and is marked as text in a
workbook. Workbooks need openpyxl (the extra `demand`) and are made and read in a process of their own:
`python -m decalog.systems.demand.wire_sheets write|read` turns JSON into a workbook, and back.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from decalog.deployment import run_aside
from decalog.errors import ConfigError, RequestError
from decalog.http.problems import Headers, Refusal, internal

Cell = str | float | int | None
CSV: Headers = ((b"content-type", b"text/csv; charset=utf-8"),)
XLSX: Headers = ((b"content-type", b"application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),)

_BOM = "\ufeff"
_RUNS = ("=", "+", "-", "@", "\t", "\r")
"""What a cell begins with that a spreadsheet takes for a formula (OWASP, CSV Injection)."""
_ESCAPED = tuple("'" + begin for begin in _RUNS)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_MOST_UNPACKED = 64 * 1_024 * 1_024
_MOST_COLUMNS = 100
_SEPARATORS = ",;\t"
_ZIP = b"PK\x03\x04"


class CsvLines:
    r"""A CSV file in the making, row by row.

    Args:
        names: of the columns.
        mark: whether it begins with the mark by which Excel knows UTF-8.

    >>> lines = CsvLines(["series", "units"], mark=False)
    >>> lines.add(["=1+1", 6])
    >>> lines.body
    b"series,units\r\n'=1+1,6\r\n"
    """

    def __init__(self, names: Sequence[str], *, mark: bool = True) -> None:
        self._text = io.StringIO(newline="")
        self._text.write(_BOM if mark else "")
        self._writer = csv.writer(self._text)
        self._writer.writerow(names)

    def add(self, row: Sequence[Cell]) -> None:
        """Adds a row."""
        self._writer.writerow([safe(cell) if isinstance(cell, str) else cell for cell in row])

    @property
    def body(self) -> bytes:
        """The file so far."""
        return self._text.getvalue().encode()


def safe(text: str) -> str:
    """Returns a text that no spreadsheet takes for a formula.

    >>> safe("@SUM(A1)"), safe("a-1")
    ("'@SUM(A1)", 'a-1')
    """
    return "'" + text if text.startswith((*_RUNS, *_ESCAPED)) else text


def plain(text: str) -> str:
    """Returns what `safe` was given.

    >>> plain(safe("=1")), plain(safe("'=1")), plain("'s")
    ('=1', "'=1", "'s")
    """
    return text[1:] if text.startswith((*_ESCAPED, *("'" + one for one in _ESCAPED))) else text


async def written(names: Sequence[str], rows: Sequence[Sequence[Cell]]) -> bytes:
    """Returns a workbook of one sheet.

    Raises:
        Refusal: openpyxl is not installed.
    """
    _check_openpyxl()
    out, _, _ = await run_aside(__name__, "write", told=msgspec.json.encode((names, rows)))
    return out or _nothing()


async def read(body: bytes, *, most: int) -> Iterator[Mapping[str, str]]:
    """Returns the rows of a file, CSV or a workbook, each by the names in its first line.

    Args:
        body: of the file.
        most: rows that are read; a row more tells that there are others.

    Raises:
        RequestError: it is neither, or has no first line.
        Refusal: it is a workbook, and openpyxl is not installed.
    """
    if not body.startswith(_ZIP):
        return _named(_lines(body), most)
    _check_openpyxl()
    out, _, _ = await run_aside(__name__, "read", str(most), told=body)
    if not out:
        raise _unreadable("a workbook that cannot be read, or grows too large")
    return _named(iter(msgspec.json.decode(out, type=list[list[str]])), most)


def _lines(body: bytes) -> Iterator[list[str]]:
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = body.decode("cp1252", errors="replace")  # how Excel saves CSV where nobody asks for UTF-8
    first = text.partition("\n")[0]
    separator = max(_SEPARATORS, key=first.count)
    return csv.reader(io.StringIO(text, newline=""), delimiter=separator)


def _named(lines: Iterator[list[str]], most: int) -> Iterator[Mapping[str, str]]:
    try:
        names = _names(next(lines, []))
        for number, cells in enumerate(lines):
            if number > most:
                return
            yield {name: plain(cell.strip()) for name, cell in zip(names, cells, strict=False)}
    except csv.Error as error:
        raise _unreadable(f"a CSV file that cannot be read ({error})") from None


def _names(cells: Sequence[str]) -> list[str]:
    names = [cell.strip().lower() for cell in cells]
    while names and not names[-1]:
        names.pop()  # empty columns behind the last
    if not names or len(set(names)) != len(names) or len(names) > _MOST_COLUMNS:
        raise _unreadable("a first line that does not name each column once")
    return names


def _check_openpyxl() -> None:
    if importlib.util.find_spec("openpyxl") is None:
        error = ConfigError(
            where="planner's file",
            given="a server without openpyxl",
            expected="the extra `demand`, for Excel workbooks",
            fix="Install it there with `pip install decalog[demand]`, or use CSV.",
        )
        raise Refusal(501, error)


def _unreadable(given: str) -> RequestError:
    return RequestError(
        where="planner's file",
        given=given,
        expected="CSV, or a workbook (.xlsx), whose first line names the columns",
        fix="Get the file of a night, change it and send it back as it was saved.",
    )


def _nothing() -> bytes:
    raise internal()


def _write(told: bytes) -> bytes:
    from openpyxl import Workbook
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.styles import Font

    names, rows = msgspec.json.decode(told, type=tuple[list[str], list[list[Cell]]])
    book = Workbook(write_only=True)
    sheet = book.create_sheet("orders")
    sheet.freeze_panes = "A2"

    def cell(value: Cell) -> Any:
        made = WriteOnlyCell(sheet, value=_CONTROL.sub(" ", value) if isinstance(value, str) else value)
        if isinstance(value, str):
            made.data_type = "s"  # a text that begins like a formula stays a text
            made.quotePrefix = value.startswith(_RUNS)
        return made

    head = [cell(name) for name in names]
    for one in head:
        one.font = Font(bold=True)
    for row in (head, *([cell(value) for value in row] for row in rows)):
        sheet.append(row)
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def _read(told: bytes, most: int) -> bytes:
    from openpyxl import load_workbook

    with zipfile.ZipFile(io.BytesIO(told)) as packed:
        if sum(part.file_size for part in packed.infolist()) > _MOST_UNPACKED:
            return b""
    sheet = load_workbook(io.BytesIO(told), read_only=True, data_only=True).worksheets[0]
    rows = sheet.iter_rows(max_row=most + 2, max_col=_MOST_COLUMNS, values_only=True)
    return msgspec.json.encode([[_text(value) for value in row] for row in rows])


def _text(value: Any) -> str:
    """Returns a cell's value as it would stand in CSV."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "" if value is None else safe(str(value))


if __name__ == "__main__":
    asked = sys.stdin.buffer.read()
    sys.stdout.buffer.write(_write(asked) if sys.argv[1] == "write" else _read(asked, int(sys.argv[2])))
