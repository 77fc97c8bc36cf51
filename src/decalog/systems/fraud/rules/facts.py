"""What rules may read of a payment, and how: all of it stands in the case, so that replay reads the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import partial
from typing import NamedTuple

from decalog.ingest import Rates
from decalog.money import EXPONENTS, is_rate
from decalog.policy import Case
from decalog.systems.fraud.features import FEATURES, LISTS
from decalog.systems.fraud.rules.language import Kind, Vocabulary
from decalog.systems.fraud.schema import SCHEMA

Value = float | str | bool | None
"""None where it is missing; an entity's is its token."""

HEAD = "p_fraud"
AMOUNT = "amount_base_minor"
MONEY = "amount_in_"
"""Before the small letters of a currency: the payment's amount in its major units."""

_REQUEST = SCHEMA.request
_NUMBERS = {"int", "float", "amount_minor"}
_TYPES: Mapping[Kind, tuple[type, ...]] = {"number": (int, float), "text": (str,), "flag": (bool,)}


class Fact(NamedTuple):
    """Something that rules may name: what kind of value it is, and what reads it from a case."""

    kind: Kind
    read: Callable[[Case], Value]


def facts(rates: Rates) -> dict[str, Fact]:
    """Returns facts by name: entities, `@entity` for the lists it stands on, features, attributes, amounts, p_fraud."""
    entities = [entity.name for entity in _REQUEST.entities]
    fields = {field.name: field.kind for field in _REQUEST.fields}
    kinds = {name: fields.get(name, "text" if name in entities else "int") for name in _REQUEST.attributes}
    return {
        **{name: Fact("entity", partial(_entity, name)) for name in entities},
        **{f"@{name}": Fact("number", partial(_listed, name)) for name in entities},
        **{f.name: Fact("number", partial(_feature, f.name, f.missing_value)) for f in FEATURES.features},
        **{name: _attribute(name, kind) for name, kind in kinds.items()},
        **{_money_name(code): Fact("number", partial(_money, code, rate)) for code, rate in _worth(rates).items()},
        HEAD: Fact("number", p_fraud),
    }


def vocabulary(known: Mapping[str, Fact], lists: tuple[str, ...]) -> Vocabulary:
    """Returns what rules may name, and why other names that a writer may well try are refused."""
    personal = [field.name for field in _REQUEST.fields if field.privacy != "public"]
    unrated = [_money_name(code) for code in EXPONENTS if _money_name(code) not in known]
    return Vocabulary(
        kinds={name: fact.kind for name, fact in known.items()},
        lists=lists,
        refused={
            **dict.fromkeys(personal, "is personal: the log holds it sealed, and no rule can read it"),
            **dict.fromkeys(unrated, "needs an exchange rate, and the deployment has none for that currency"),
        },
    )


def p_fraud(case: Case) -> float | None:
    """Returns the probability of fraud, or None where there is no usable one."""
    value = case.candidates[0].predictions.get(HEAD, -1.0) if case.candidates else -1.0
    return value if 0.0 <= value <= 1.0 else None  # NaN fails the comparison too


def amount_minor(case: Case) -> int | None:
    """Returns the amount in minor units of the base currency, or None where there is no usable one."""
    amount = case.request.attributes.get(AMOUNT)
    return amount if isinstance(amount, int) and not isinstance(amount, bool) and amount >= 0 else None


def _entity(name: str, case: Case) -> Value:
    return case.request.entities.get(name)


def _listed(name: str, case: Case) -> Value:
    # −1 is an answer here: no list knows the entity. Of one that is missing there is none.
    return None if _entity(name, case) is None else _feature(f"{name}{LISTS}", 0.0, case)


def _feature(name: str, missing: float, case: Case) -> Value:
    value = case.features.get(name)
    if value is None or math.isnan(value):
        return None
    # As ratios of features have it: a declared missing value of 0, of an empty window for instance, is a number.
    return None if value == missing != 0 else value


def _attribute(name: str, declared: str) -> Fact:
    kind: Kind = "number" if declared in _NUMBERS else "flag" if declared == "flag" else "text"
    types = _TYPES[kind]

    def read(case: Case) -> Value:
        value = case.request.attributes.get(name)
        if value is None or type(value) not in types:
            return None
        # Arithmetic on floats is bounded, on ints it is not.
        return float(value) if type(value) is int else value

    return Fact(kind, read)


def _money_name(code: str) -> str:
    return f"{MONEY}{code.lower()}"


def _worth(rates: Rates) -> dict[str, Fraction]:
    """Returns how many minor units of each currency a minor unit of the base is worth."""
    if rates.base not in EXPONENTS:
        return {}
    known = {code: Fraction(rate) for code, rate in rates.rates.items() if code in EXPONENTS and is_rate(rate)}
    known[rates.base] = Fraction(1)
    return {code: Fraction(10) ** (EXPONENTS[code] - EXPONENTS[rates.base]) / rate for code, rate in known.items()}


def _money(code: str, rate: Fraction, case: Case) -> Value:
    """Returns the amount in a currency: as sent where that is the payment's own, else through the base.

    It is rounded half to even to the currency's minor unit, so that it compares with `199.99` as a person expects.
    """
    sent, minor = case.request.attributes.get("amount_minor"), amount_minor(case)
    if case.request.attributes.get("currency") == code and isinstance(sent, int):
        return float(sent) / 10.0 ** EXPONENTS[code]
    return None if minor is None else round(minor * rate) / 10.0 ** EXPONENTS[code]
