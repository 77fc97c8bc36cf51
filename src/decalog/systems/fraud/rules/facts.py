"""What rules may read of a payment, and how: all of it stands in the case, so that replay reads the same."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from decalog.ingest import Rates
from decalog.money import EXPONENTS, is_rate
from decalog.policy import Case
from decalog.systems.fraud.features import FEATURES
from decalog.systems.fraud.rules.language import Kind, Vocabulary
from decalog.systems.fraud.schema import SCHEMA

Fact = float | str | bool | None
"""A value, or None where it is missing; an entity's is its token."""
Reader = Callable[[Case], Fact]

HEAD = "p_fraud"
AMOUNT = "amount_base_minor"
MONEY = "amount_in_"
"""Before the small letters of a currency: the payment's amount in its major units."""
LISTS = "_lists"
"""After an entity's name: the feature that says on which lists it stands, a bit for each."""

_REQUEST = SCHEMA.request
_TEXT = {field.name for field in _REQUEST.fields if field.kind in ("text", "currency")}
_FLAG = {field.name for field in _REQUEST.fields if field.kind == "flag"}
_ENTITIES = frozenset(entity.name for entity in _REQUEST.entities)
_MISSING = {feature.name: feature.missing_value for feature in FEATURES.features}


def vocabulary(rates: Rates, lists: tuple[str, ...]) -> Vocabulary:
    """Returns what rules may name: attributes of the payment, features, the prediction, amounts in known currencies."""
    public = {name: _kind(name) for name in _REQUEST.attributes}
    amounts: dict[str, Kind] = {f"{MONEY}{code.lower()}": "number" for code in _major_units(rates)}
    hidden = [field.name for field in _REQUEST.fields if field.privacy != "public"]
    return Vocabulary(
        kinds={
            **dict.fromkeys(_ENTITIES, "entity"),
            **dict.fromkeys(FEATURES.names, "number"),
            **public,
            **amounts,
            HEAD: "number",
        },
        entities=_ENTITIES,
        lists=lists,
        refused={
            **dict.fromkeys(hidden, "is personal: the log holds it sealed, and no rule can read it"),
            **{
                f"{MONEY}{code.lower()}": f"needs a rate from {code} to {rates.base}, and the deployment has none"
                for code in EXPONENTS
                if f"{MONEY}{code.lower()}" not in amounts
            },
        },
    )


def reader(name: str, rates: Rates) -> Reader:
    """Returns what reads a name of the vocabulary, or the lists of an entity, from a case."""
    if name == HEAD:
        return _prediction
    if name.startswith(MONEY):
        code = name.removeprefix(MONEY).upper()
        return _money(code, _major_units(rates)[code])
    if name in _REQUEST.attributes:
        return _attribute(name)
    if name in _ENTITIES:
        return lambda case: case.request.entities.get(name)
    if name.removesuffix(LISTS) in _ENTITIES:
        return lambda case: case.features.get(name)
    return _feature(name)


def p_fraud(case: Case) -> float | None:
    """Returns the probability of fraud, or None where there is no usable one."""
    value = case.candidates[0].predictions.get(HEAD, -1.0) if case.candidates else -1.0
    return value if 0.0 <= value <= 1.0 else None  # NaN fails the comparison too


def amount_minor(case: Case) -> int | None:
    """Returns the amount in minor units of the base currency, or None where there is no usable one."""
    amount = case.request.attributes.get(AMOUNT)
    return amount if isinstance(amount, int) and not isinstance(amount, bool) and amount >= 0 else None


_prediction: Reader = p_fraud


def _kind(name: str) -> Kind:
    return "flag" if name in _FLAG else "text" if name in _TEXT or name in _ENTITIES else "number"


def _attribute(name: str) -> Reader:
    kinds: dict[Kind, tuple[type, ...]] = {"number": (float, int), "text": (str,), "flag": (bool,)}
    wanted = kinds[_kind(name)]

    def read(case: Case) -> Fact:
        value = case.request.attributes.get(name)
        # By its own type: a bool is an int to Python. An int becomes a float, whose arithmetic is bounded.
        if type(value) not in wanted:
            return None
        return float(value) if type(value) is int else value

    return read


def _feature(name: str) -> Reader:
    # As ratios of features have it: a declared missing value of 0 is a number, an empty window for instance.
    missing = _MISSING.get(name) or None

    def read(case: Case) -> Fact:
        value = case.features.get(name)
        return None if value == missing else value

    return read


def _major_units(rates: Rates) -> dict[str, Fraction]:
    """Returns how many minor units of each currency a minor unit of the base is worth."""
    known = {code: Fraction(rate) for code, rate in rates.rates.items() if code in EXPONENTS and is_rate(rate)}
    if rates.base not in EXPONENTS:
        return {}
    known[rates.base] = Fraction(1)
    base = EXPONENTS[rates.base]
    return {code: Fraction(10) ** (EXPONENTS[code] - base) / rate for code, rate in known.items()}


def _money(code: str, rate: Fraction) -> Reader:
    """Returns what reads the amount in a currency: as sent where it is the payment's own, else through the base.

    Rounded half to even to the currency's minor unit, so that it compares with `199.99` as a person expects.
    """
    major = 10 ** EXPONENTS[code]

    def read(case: Case) -> Fact:
        sent = case.request.attributes.get("amount_minor")
        if case.request.attributes.get("currency") == code and isinstance(sent, int):
            return sent / major
        minor = amount_minor(case)
        return None if minor is None else round(minor * rate) / major

    return read
