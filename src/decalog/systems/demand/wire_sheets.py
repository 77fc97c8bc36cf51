"""Planners' files: rows of a table as CSV or as an Excel workbook, and back, with nothing in a cell that could run.

A text that a spreadsheet would take for a formula gets an apostrophe before it in CSV, and is marked as text in a
workbook. Workbooks need openpyxl (the extra `demand`) and are made and read in a process of their own.
"""

from __future__ import annotations

import csv
import importlib.util
import io
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from decalog.deployment import run_aside
from decalog.errors import ConfigError, RequestError
from decalog.http.problems import Headers, Refusal, internal
from decalog.systems.demand import wire_workbook
from decalog.systems.demand.wire_workbook import MOST_COLUMNS, Cell, plain, safe

CSV: Headers = ((b"content-type", b"text/csv; charset=utf-8"),)
XLSX: Headers = ((b"content-type", b"application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),)

_BOM = "\ufeff"
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


async def written(names: Sequence[str], rows: Sequence[Sequence[Cell]]) -> bytes:
    """Returns a workbook of one sheet.

    Raises:
        Refusal: openpyxl is not installed.
    """
    _check_openpyxl()
    out, _, _ = await run_aside(wire_workbook.__name__, "write", told=msgspec.json.encode((names, rows)))
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
    out, _, _ = await run_aside(wire_workbook.__name__, "read", str(most), told=body)
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
    if not names or len(set(names)) != len(names) or len(names) > MOST_COLUMNS:
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
