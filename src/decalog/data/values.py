"""From the text of a cell to a value, exactly, or the words of what is wrong with it."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Callable
from decimal import Decimal

from decalog.data.mapping import AmountCell, FileOptions, TimeCell, find_zone
from decalog.errors import near
from decalog.money import EXPONENTS, to_minor
from decalog.schema import Field

Value = int | float | str | bool
Convert = Callable[[str], Value | None]

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)
_END_US = 253_402_300_800_000_000
_INT64_DIGITS = 18
_PER_UNIT = {"s": 1_000_000, "ms": 1_000, "us": 1}
# Bounded, so that 1e999999999 never becomes an integer of a thousand million digits.
_NUMBER = re.compile(r"[+-]?(\d{1,24}(\.\d{0,24})?|\.\d{1,24})([eE][+-]?\d{1,2})?", re.ASCII)
_FLAGS = {"1": True, "true": True, "yes": True, "t": True, "y": True}
_FLAGS |= {"0": False, "false": False, "no": False, "f": False, "n": False}


class CellError(ValueError):
    """A cell that cannot be used: three of the four parts of a message; the row knows the place and adds the field."""

    def __init__(self, given: str, expected: str, fix: str) -> None:
        super().__init__(given)
        self.given = given
        self.expected = expected
        self.fix = fix
        self.field = ""


def decimal_number(text: str, decimal: str = ".") -> Decimal:
    """Returns a number exactly.

    Raises:
        CellError: it is none, has thousands separators, or is of absurd length.

    >>> decimal_number("12,50", ","), decimal_number(" 1e3 ")
    (Decimal('12.50'), Decimal('1E+3'))
    """
    return Decimal(_plain_number(text, decimal))


def _plain_number(text: str, decimal: str) -> str:
    plain = text.strip()
    if decimal == "," and "." not in plain:
        plain = plain.replace(",", ".")
    if _NUMBER.fullmatch(plain) is None:
        given = "NaN or infinity" if plain.lower().strip("+-") in ("nan", "inf", "infinity") else "no decimal number"
        expected = f"a number such as 12{decimal}34, without thousands separators and signs of currencies"
        raise CellError(given, expected, 'Mend the cell; for a decimal comma state [file] decimal = ",".')
    return plain


class AmountReader:
    """Reads a row's amount as integer minor units."""

    def __init__(self, cell: AmountCell, options: FileOptions) -> None:
        self._is_minor = cell.unit == "minor"
        self._decimal = options.decimal

    def minor(self, text: str, currency: str) -> int:
        """Returns an amount in minor units of a known currency.

        Raises:
            CellError: it is no number, negative, or has more places than the currency.
        """
        number = _plain_number(text, self._decimal)
        if number[0] == "-" and Decimal(number):
            raise CellError("a negative amount", "0 or more", "Leave refunds out: they are not requests.")
        if self._is_minor:
            return _whole(Decimal(number), f"a whole number of minor units of {currency}")
        try:
            return to_minor(number, currency)
        except ValueError:
            places = EXPONENTS[currency]
            given = f"an amount with more places than {currency} has"
            expected = (
                f"at most {places} decimal places" if places else f"no decimal places: {currency} has no minor unit"
            )
            raise CellError(given, expected, 'Check the currency, and unit = "major" or "minor".') from None


def currency_code(text: str) -> str:
    """Returns an ISO 4217 code in capitals.

    Raises:
        CellError: there is no such code.
    """
    code = text.strip().upper()
    if code not in EXPONENTS:
        raise CellError("no ISO 4217 code", near(code[:16], EXPONENTS), "Mend the cell.")
    return code


class TimeReader:
    """Reads a row's time as µs since the epoch, UTC."""

    def __init__(self, cell: TimeCell, options: FileOptions) -> None:
        self._cell = cell
        self._decimal = options.decimal
        self._scale = _PER_UNIT.get(cell.unit, 1)
        self._zone: dt.tzinfo | None = find_zone(options.timezone) if options.timezone else None

    def us(self, text: str) -> int:
        """Returns the time of a cell.

        Raises:
            CellError: it is no time, has no offset where no zone is stated, or lies outside 1970 to 9999.
        """
        cell = self._cell
        if cell.unit == "rfc3339":
            at = self._moment(text.strip())
        else:
            whole = len(text) <= _INT64_DIGITS and text.isascii() and text.isdigit()
            number = int(text) if whole else decimal_number(text, self._decimal)
            at = cell.since_us + int(number * self._scale)
        if not 0 <= at < _END_US:
            fix = f"Check the column's unit: the mapping says {cell.unit}."
            raise CellError("a time before 1970 or after 9999", "a time of this age", fix)
        return at

    def _moment(self, text: str) -> int:
        style = self._cell.format
        try:
            moment = dt.datetime.strptime(text, style) if style else dt.datetime.fromisoformat(text)  # noqa: DTZ007 - zone below
            if moment.tzinfo is None and self._zone is not None:
                moment = moment.replace(tzinfo=self._zone)
            if moment.tzinfo is not None:
                return (moment - _EPOCH) // _MICROSECOND
        except (ValueError, OverflowError, re.error):
            expected = f"a time of the format {style}" if style else "a time such as 2026-03-01T12:00:00Z"
            fix = 'State unit = "s" or "ms" for numbers, or format = "%d/%m/%Y %H:%M" for other texts.'
            raise CellError("no time that can be read", expected, fix) from None
        fix = 'State the zone of such times: [file] timezone = "Europe/Berlin", or "UTC".'
        raise CellError("a time without an offset", "an offset, such as Z or +02:00", fix)


def converter(field: Field | None, values: dict[str, str], *, options: FileOptions) -> Convert:
    """Returns what turns the cells of one field into values.

    Args:
        field: of the schema; None for an entity.
        values: text in the column → text of the schema, applied first.
        options: of the file.
    """
    kind = "text" if field is None else field.kind
    if kind == "float" and not values and options.decimal == ".":
        return _float
    by_kind: dict[str, Convert] = {
        "int": lambda text: _whole(decimal_number(text, options.decimal), "a whole number"),
        "float": lambda text: _float(text.replace(",", ".") if options.decimal == "," else text),
        "flag": _flag,
        "text": str.strip,
    }
    convert = by_kind[kind]
    if not values:
        return convert
    return lambda text: convert(values.get(text.strip(), text))


def tidy_whole(text: str) -> str:
    """Returns a whole number that a float column shows as `123.0` or `1e+16` as it was meant: a key, not a measure.

    >>> tidy_whole("4532.0"), tidy_whole("1e+16"), tidy_whole("4532.5")
    ('4532', '10000000000000000', '4532.5')
    """
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if number.is_integer() and abs(number) < 2**63 else text


def _float(text: str) -> float | None:
    """Returns a number; NaN is a missing value."""
    try:
        number = float(text)
    except ValueError:
        number = math.inf
    if math.isinf(number):
        raise CellError("no finite number", "a number such as -1.25", "Mend the cell, or leave it empty.")
    return None if number != number else number  # noqa: PLR0124  # NaN differs from itself


def _flag(text: str) -> bool:
    flag = _FLAGS.get(text.strip().lower())
    if flag is None:
        raise CellError("neither true nor false", f"one of: {', '.join(_FLAGS)}", "Mend the cell, or map its values.")
    return flag


def _whole(number: Decimal, expected: str) -> int:
    if number != number.to_integral_value():
        raise CellError("a number with decimal places", expected, 'Check the unit: unit = "major" for 12.34.')
    return int(number)
