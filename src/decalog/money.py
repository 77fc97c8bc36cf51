"""Money is integer minor units with an ISO 4217 currency; conversion is exact until one rounding at the end."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import ROUND_HALF_EVEN, Context, Decimal, Inexact, InvalidOperation, Overflow

# ISO 4217, list one: minor-unit exponents that are not 2, among currencies in circulation.
_EXPONENTS = {
    **dict.fromkeys(("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "UYI"), 0),
    **dict.fromkeys(("VND", "VUV", "XAF", "XOF", "XPF"), 0),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
    **dict.fromkeys(("CLF", "UYW"), 4),
}
_TWO = (
    "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF "
    "CHF CNY COP CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL "
    "HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP "
    "MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD "
    "SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS "
    "VES WST XCD YER ZAR ZMW ZWG"
)

EXPONENTS: Mapping[str, int] = {**dict.fromkeys(_TWO.split(), 2), **_EXPONENTS}
"""ISO 4217 code → number of decimal places between the major and the minor unit."""

_RATE = re.compile(r"\d{1,12}(\.\d{1,12})?")

# Room for any amount of money; what does not fit is named, never rounded, whatever context the caller has set.
_EXACT = Context(prec=40, Emax=40, Emin=-40, traps=[InvalidOperation, Inexact, Overflow])

MAX_MINOR = 10**12
"""Largest amount accepted, in minor units: ten thousand million euro. Sums over windows stay inside int64."""


def is_rate(text: str) -> bool:
    """Returns whether a text is an exchange rate: a decimal number above 0, at most 12 digits before and after the dot.

    >>> [is_rate(text) for text in ("0.92", "1", "0.0", "-1", "1e3", "NaN")]
    [True, True, False, False, False, False]
    """
    return _RATE.fullmatch(text) is not None and Decimal(text) > 0


def to_minor(text: str, currency: str) -> int:
    """Returns an amount written in major units as integer minor units, exactly.

    Args:
        text: a decimal number such as `12.34`; no thousands separators.
        currency: ISO 4217 code.

    Raises:
        ValueError: the code is unknown, the text is no amount of money, or it has more places than the
            currency.

    >>> to_minor("12.34", "EUR"), to_minor("1200", "JPY")
    (1234, 1200)
    """
    if currency not in EXPONENTS:
        raise ValueError("currency is not an ISO 4217 code")
    too_many = f"{currency} has {EXPONENTS[currency]} decimal places, the amount has more"
    try:
        amount = Decimal(text.strip(), _EXACT)
        if not amount.is_finite():
            raise ValueError("amount is not finite")
        minor = amount.scaleb(EXPONENTS[currency], _EXACT)
    except InvalidOperation:
        raise ValueError("amount is not a decimal number") from None
    except Overflow:
        raise ValueError("amount is too large to be money") from None
    except Inexact:
        raise ValueError(too_many) from None
    if minor != minor.to_integral_value():
        raise ValueError(too_many)
    return int(minor)


def convert(minor: int, currency: str, *, base: str, rates: Mapping[str, str]) -> int:
    """Returns an amount in the base currency's minor units, rounded half to even.

    Args:
        minor: amount in minor units of `currency`.
        currency: ISO 4217 code of the amount.
        base: ISO 4217 code to convert to.
        rates: major units of `base` for one major unit of each currency, as decimal text; `base` itself needs none.

    Raises:
        ValueError: there is no rate for the currency.

    >>> convert(1000, "JPY", base="EUR", rates={"JPY": "0.0061"})
    610
    """
    if currency == base:
        return minor
    if currency not in rates:
        raise ValueError("there is no rate for the currency")
    major = Decimal(minor).scaleb(-EXPONENTS[currency]) * Decimal(rates[currency])
    return int(major.scaleb(EXPONENTS[base]).to_integral_value(rounding=ROUND_HALF_EVEN))
