"""Stripe's requests as a payment of ours: the form, what its parameters map to, and card numbers that are refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from decalog.errors import RequestError
from decalog.schema import EventKind
from decalog.systems.fraud.wire_objects import minor_of

Form = Mapping[str, str]

_MOST_FIELDS = 1_000
_BILLING = "payment_method_data[billing_details]"

# Field of the payment → parameters that give it, the first that is there; `metadata[<field>]` comes before them all.
_SOURCES: Mapping[str, tuple[str, ...]] = {
    "card": ("payment_method", "source", "payment_method_data[card][token]"),
    "customer": ("customer",),
    "email": ("receipt_email", f"{_BILLING}[email]"),
    "cardholder": (f"{_BILLING}[name]",),
    "billing_country": (f"{_BILLING}[address][country]",),
    "device": ("radar_options[session]", "payment_method_data[radar_options][session]"),
    "ip": ("mandate_data[customer_acceptance][online][ip_address]",),
    "merchant": ("on_behalf_of", "transfer_data[destination]"),
}
_READ: Mapping[str, Callable[[str], Any]] = {"int": int, "float": float, "flag": lambda text: text == "true"}
_NUMBER = re.compile(r"[2-6]\d(?:[ -]?\d){11,16}\d")


def read_form(raw: bytes) -> Form:
    """Returns the parameters of a form or query by their flat names, such as `metadata[ip]` or `expand[0]`.

    Raises:
        RequestError: it is no form, or holds a card number.
    """
    try:
        pairs = parse_qsl(raw.decode(), keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise RequestError(
            where="request, body",
            given="no form in UTF-8, or too many fields",
            expected=f"application/x-www-form-urlencoded with at most {_MOST_FIELDS} fields",
            fix="Send it as Stripe's own libraries do.",
        ) from None
    # Some clients write the parts of a list without their numbers.
    form = {re.sub(r"\[\]$", f"[{place}]", name): value for place, (name, value) in enumerate(pairs)}
    for name, value in form.items():
        if _is_card_number(value):
            raise _error(
                re.sub(r"\[.*", "", name)[:64],
                "what reads like the number of a card",
                "a token or a fingerprint of the card",
                "Never send card numbers: nothing of this request was kept.",
            )
    return form


def many(form: Form, name: str) -> tuple[str, ...]:
    """Returns the values of a list."""
    return tuple(value for key, value in form.items() if key.startswith(f"{name}["))


def payment_of(form: Form, id_: str, *, kind: EventKind) -> dict[str, Any]:
    """Returns the request of a payment as decide takes it.

    Raises:
        RequestError: amount or currency are missing, or make no amount of money.
    """
    currency = _needed(form, "currency").upper()
    minor = amount(form, currency)
    given = {name: _first(form, name) for name in (*(e.name for e in kind.entities), *(f.name for f in kind.fields))}
    kinds = {field.name: field.kind for field in kind.fields}
    body = {name: _value(name, text, kinds.get(name, "text")) for name, text in given.items() if text}
    body.setdefault("channel", "moto" if form.get("payment_method_options[card][moto]") == "true" else "ecom")
    return body | {"id": id_, "amount_minor": minor, "currency": currency}


def amount(form: Form, currency: str) -> int:
    """Returns the amount in ISO 4217's minor units.

    Raises:
        RequestError: it is missing or no whole number, or the currency has no such amount.
    """
    minor = minor_of(whole(form, "amount"), currency)
    if minor is None:
        raise _error("amount", "an amount that the currency does not have", "one in its unit", "Mend the amount.")
    return minor


def whole(form: Form, name: str, *, default: int | None = None) -> int:
    """Returns a whole number.

    Raises:
        RequestError: it is none, or it is missing and has no default.
    """
    text = _needed(form, name) if default is None else form.get(name, str(default))
    if not re.fullmatch(r"\d{1,12}", text, re.ASCII):
        raise _error(
            name,
            "no whole number",
            "digits alone, at most 12",
            "Amounts are in the currency's smallest unit, times in s.",
        )
    return int(text)


def canonical(path: str, form: Form) -> bytes:
    """Returns a request as one text, the same for the same parameters in any order."""
    return msgspec.json.encode([path, sorted(form.items())])


def _first(form: Form, name: str) -> str:
    return next((form[source] for source in (f"metadata[{name}]", *_SOURCES.get(name, ())) if form.get(source)), "")


def _value(name: str, text: str, kind: str) -> Any:
    try:
        return _READ.get(kind, str)(text)
    except ValueError:
        raise _error(f"metadata[{name}]", f"no {kind}", "a number", "Mend it, or leave it out.") from None


def _needed(form: Form, name: str) -> str:
    if not form.get(name):
        raise _error(name, f"no {name}", f"the required parameter {name}", "Send it.")
    return form[name]


def _error(param: str, given: str, expected: str, fix: str) -> RequestError:
    return RequestError(where=f"fraud payment, {param}", given=given, expected=expected, fix=fix)


def _is_card_number(text: str) -> bool:
    """Whether a text is a number of 14 to 19 digits with the check digit of ISO/IEC 7812-1 (Luhn).

    >>> _is_card_number("4242 4242 4242 4242"), _is_card_number("4242424242424241"), _is_card_number("pm_card_visa")
    (True, False, False)
    """
    if not _NUMBER.fullmatch(text.strip()):
        return False
    digits = [int(digit) for digit in reversed(text) if digit.isdecimal()]
    return sum(digits[::2]) % 10 == -sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2]) % 10
