"""Money is exact until one rounding at the end."""

from __future__ import annotations

from decimal import Decimal, localcontext
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decalog.money import EXPONENTS, MAX_MINOR, convert, to_minor

currencies = st.sampled_from(sorted(EXPONENTS))


def test_exponents_are_iso_4217_s() -> None:
    known = {"EUR": 2, "USD": 2, "JPY": 0, "KRW": 0, "ISK": 0, "KWD": 3, "BHD": 3, "TND": 3, "CLF": 4, "UYW": 4}
    assert {code: EXPONENTS[code] for code in known} == known
    assert all(len(code) == 3 and code.isupper() for code in EXPONENTS)


@given(st.integers(-MAX_MINOR, MAX_MINOR), currencies)
def test_every_amount_written_in_major_units_comes_back(minor: int, currency: str) -> None:
    assert to_minor(str(Decimal(minor).scaleb(-EXPONENTS[currency])), currency) == minor


@pytest.mark.parametrize(
    ("text", "currency", "minor"),
    [
        ("0.1", "EUR", 10),
        ("1e2", "EUR", 10_000),
        (" 12.340 ", "EUR", 1_234),
        ("1.005", "KWD", 1_005),
        ("-3", "JPY", -3),
    ],
)
def test_amounts_are_read_exactly(text: str, currency: str, minor: int) -> None:
    assert to_minor(text, currency) == minor


@pytest.mark.parametrize(
    ("text", "currency", "says"),
    [
        ("1", "XXX", "currency is not an ISO 4217 code"),
        ("1", "eur", "currency is not an ISO 4217 code"),
        ("1,234.50", "EUR", "amount is not a decimal number"),
        ("", "EUR", "amount is not a decimal number"),
        ("NaN", "EUR", "amount is not finite"),
        ("-Infinity", "EUR", "amount is not finite"),
        ("12.345", "EUR", "EUR has 2 decimal places, the amount has more"),
        ("0.5", "JPY", "JPY has 0 decimal places, the amount has more"),
        ("1e-999999", "EUR", "EUR has 2 decimal places, the amount has more"),
        (f"1.{'0' * 50}1", "EUR", "EUR has 2 decimal places, the amount has more"),
        ("1e999999", "EUR", "amount is too large to be money"),
        ("-1e50", "JPY", "amount is too large to be money"),
        ("1e99999999999999999999", "EUR", "amount is not a decimal number"),
    ],
)
def test_other_amounts_are_refused(text: str, currency: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        to_minor(text, currency)


def test_the_context_of_the_caller_changes_nothing() -> None:
    with localcontext(prec=3):
        assert to_minor("12345.67", "EUR") == 1_234_567


@given(st.integers(0, MAX_MINOR), currencies, st.decimals("0.0001", "10000", places=6))
def test_a_conversion_is_rounded_once_half_to_even(minor: int, currency: str, rate: Decimal) -> None:
    if currency == "EUR":
        assert convert(minor, currency, base="EUR", rates={}) == minor
        return
    exact = Fraction(minor) / 10 ** EXPONENTS[currency] * Fraction(rate) * 100
    assert convert(minor, currency, base="EUR", rates={currency: str(rate)}) == round(exact)


def test_halves_go_to_the_even_neighbour() -> None:
    assert [convert(n, "USD", base="EUR", rates={"USD": "0.5"}) for n in (1, 3, 5, -1, -3)] == [0, 2, 2, 0, -2]


def test_a_currency_without_a_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no rate for the currency"):
        convert(1, "USD", base="EUR", rates={"JPY": "0.006"})
