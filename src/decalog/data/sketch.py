"""What a column looks like: its kind, how much of it is missing, whether its values look personal; never a value."""

from __future__ import annotations

import datetime as dt
import ipaddress
import math
import re
from collections.abc import Iterable
from itertools import islice
from typing import Literal

import msgspec

from decalog.data.csvrows import BrokenRow
from decalog.data.frames import Frame

ROWS = 50_000
"""Rows that are looked at; what is said about a column is said about them."""
MANY = 1_000
"""Different values are counted up to here."""
FEW = 12
_SAMPLE = 500
_SHORT = 24

Kind = Literal["integer", "number", "time", "flag", "text", "empty"]

_INTEGER = re.compile(r"[+-]?(0|[1-9]\d*)", re.ASCII)
_NUMBER = re.compile(r"[+-]?((0|[1-9]\d*)([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?|nan", re.ASCII | re.IGNORECASE)
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_CARD = re.compile(r"\d{13,19}", re.ASCII)
_FLAGS = frozenset(("true", "false", "yes", "no", "t", "f", "y", "n"))
_SHORTEST_TIME = 10


class Sketch(msgspec.Struct, frozen=True, kw_only=True):
    """A column as far as it was looked at.

    Args:
        name: of the column.
        type: as the source declares it; `text` for a CSV.
        kind: what its values are.
        rows, missing: how many were looked at, how many of them had no value.
        distinct: different values, counted up to MANY.
        looks: `email`, `ip` or `card number` where its values do, else "".
        few: the values where they are few, short and do not look personal; printed of a label or an action only.
        least, most: of numbers; None otherwise.
        has_fraction: whether a number has decimal places other than zeros.
        has_offset: whether its times carry an offset.
        decimal_comma: whether its numbers are written with a comma.
    """

    name: str
    type: str
    kind: Kind
    rows: int
    missing: int
    distinct: int
    looks: str
    few: tuple[str, ...]
    least: float | None
    most: float | None
    has_fraction: bool
    has_offset: bool
    decimal_comma: bool


class Survey(msgspec.Struct, frozen=True):
    """Sketches of all columns, and how many rows were looked at, broken ones counted apart."""

    sketches: tuple[Sketch, ...]
    rows: int
    broken: int
    whole: bool


def survey(frame: Frame) -> Survey:
    """Returns what the first rows of a frame look like."""
    columns = [_Counter() for _ in frame.columns]
    rows = broken = 0
    read = islice(frame.rows(), ROWS + 1)
    for row in islice(read, ROWS):
        if isinstance(row, BrokenRow):
            broken += 1
            continue
        rows += 1
        for counter, cell in zip(columns, row.cells, strict=True):
            counter.add(cell)
    whole = next(read, None) is None
    sketches = [counter.sketch(*column) for counter, column in zip(columns, frame.columns, strict=True)]
    return Survey(tuple(sketches), rows, broken, whole)


class _Counter:
    def __init__(self) -> None:
        self._rows = self._missing = 0
        self._distinct: set[str] = set()
        self._sample: list[str] = []

    def add(self, cell: str | None) -> None:
        self._rows += 1
        if not cell or not (text := cell.strip()):
            self._missing += 1
            return
        if len(self._sample) < _SAMPLE:
            self._sample.append(text)
        if len(self._distinct) < MANY:
            self._distinct.add(text)

    def sketch(self, name: str, type_: str) -> Sketch:
        sample, kind = self._sample, _kind(self._sample)
        numbers = _numbers(sample) if kind in ("integer", "number") else []
        looks = _looks(sample)
        return Sketch(
            name=name,
            type=type_,
            kind=kind,
            rows=self._rows,
            missing=self._missing,
            distinct=len(self._distinct),
            looks=looks,
            few=() if looks else _few(self._distinct),
            least=min(numbers, default=None),
            most=max(numbers, default=None),
            has_fraction=not all(number.is_integer() for number in numbers),
            has_offset=kind == "time" and all(_time(text) for text in sample),
            decimal_comma=kind == "number" and any("," in text for text in sample),
        )


def _kind(sample: list[str]) -> Kind:
    if not sample:
        return "empty"
    kinds: tuple[tuple[Kind, Iterable[bool]], ...] = (
        ("integer", (_INTEGER.fullmatch(text) is not None for text in sample)),
        ("number", (_NUMBER.fullmatch(text) is not None for text in sample)),
        ("flag", (text.lower() in _FLAGS for text in sample)),
        ("time", (_time(text) is not None for text in sample)),
    )
    return next((kind for kind, fits in kinds if all(fits)), "text")


def _numbers(sample: list[str]) -> list[float]:
    numbers = [float(text.replace(",", ".")) for text in sample]
    return [number for number in numbers if math.isfinite(number)]


def _few(distinct: set[str]) -> tuple[str, ...]:
    short = len(distinct) <= FEW and all(len(text) <= _SHORT for text in distinct)
    return tuple(sorted(distinct)) if short else ()


def _time(text: str) -> bool | None:
    """Returns whether a time has an offset, or None for what is no time."""
    if len(text) < _SHORTEST_TIME:
        return None
    try:
        return dt.datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return None


def _looks(sample: list[str]) -> str:
    tests = {"email": _is_email, "ip": _is_ip, "card number": _is_card}
    return next((name for name, test in tests.items() if sample and all(map(test, sample))), "")


def _is_email(text: str) -> bool:
    return _EMAIL.fullmatch(text) is not None


def _is_ip(text: str) -> bool:
    if "." not in text and ":" not in text:
        return False
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_card(text: str) -> bool:
    """Whether a text is a card number by ISO/IEC 7812-1: 13 to 19 digits and the check digit of Luhn's formula."""
    digits = text.replace(" ", "").replace("-", "")
    if _CARD.fullmatch(digits) is None:
        return False
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
    return sum(value // 10 + value % 10 for value in doubled) % 10 == 0
