"""Excel workbooks by openpyxl, in a process of their own: it takes seconds of Python.

`python -m decalog.systems.demand.wire_workbook write` turns JSON (names of columns, rows) into a workbook,
`read <most>` a workbook into JSON (rows of texts), at most so many rows. It imports little, since it starts anew each
time.
"""

from __future__ import annotations

import io
import re
import sys
import zipfile
from typing import Any

import msgspec

Cell = str | float | int | None
MOST_COLUMNS = 100

_RUNS = ("=", "+", "-", "@", "\t", "\r")
"""What a cell begins with that a spreadsheet takes for a formula (OWASP, CSV Injection)."""
_ESCAPED = tuple("'" + begin for begin in _RUNS)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_MOST_UNPACKED = 64 * 1_024 * 1_024


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


def write(told: bytes) -> bytes:
    """Returns a workbook of one sheet."""
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


def read(told: bytes, most: int) -> bytes:
    """Returns the rows of a workbook's first sheet; nothing where it unpacks to more than 64 MiB."""
    from openpyxl import load_workbook

    with zipfile.ZipFile(io.BytesIO(told)) as packed:
        if sum(part.file_size for part in packed.infolist()) > _MOST_UNPACKED:
            return b""
    sheet = load_workbook(io.BytesIO(told), read_only=True, data_only=True).worksheets[0]
    rows = sheet.iter_rows(max_row=most + 2, max_col=MOST_COLUMNS, values_only=True)
    return msgspec.json.encode([[_text(value) for value in row] for row in rows])


def _text(value: Any) -> str:
    """Returns a cell's value as it would stand in CSV."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "" if value is None else safe(str(value))


if __name__ == "__main__":
    asked = sys.stdin.buffer.read()
    sys.stdout.buffer.write(write(asked) if sys.argv[1] == "write" else read(asked, int(sys.argv[2])))
