"""What rules say of cases: by an independent oracle, and by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.systems.fraud.rules.trees import conditions, some

from decalog.candidates import Candidate
from decalog.events import Event
from decalog.ingest import Rates
from decalog.policy import Case
from decalog.systems.fraud.features import FEATURES
from decalog.systems.fraud.rules.language import MAX_LINE, Node
from decalog.systems.fraud.rules.ruleset import RuleSet
from decalog.systems.fraud.schema import SCHEMA

RATES = Rates("EUR", {"USD": "0.9", "JPY": "0.006", "KWD": "3", "XXX": "1", "GBP": "much"})
LISTS = ("trusted", "stolen")


def case(
    attributes: Mapping[str, Any] | None = None,
    *,
    features: Mapping[str, float] | None = None,
    entities: Mapping[str, int] | None = None,
    p_fraud: float | None = None,
) -> Case:
    return Case(
        request=Event("p1", "payment", 0, 7, dict(entities or {}), dict(attributes or {})),
        candidates=(Candidate("p1", predictions={} if p_fraud is None else {"p_fraud": p_fraud}),),
        features=features or {},
        draw=lambda name: 0.5,
    )


def holds(condition: str, given: Case) -> bool:
    (answer,) = RuleSet(f"block if {condition}", rates=RATES, lists=LISTS).matches(given)
    return answer


# The oracle: truth is 1, falsehood 0, the unknown one half; `and` is the least, `or` the greatest


class UnknownError(Exception):
    """A value that is missing, or that arithmetic does not give."""


def number(node: Node, facts: Mapping[str, Any]) -> Any:
    if node.op == "value":
        return node.value
    if node.op == "name":
        if facts.get(str(node.value)) is None:
            raise UnknownError
        return facts[str(node.value)]
    parts = [number(part, facts) for part in node.parts]
    if node.op == "/" and parts[1] == 0:
        raise UnknownError
    first, second = parts[0], parts[-1]
    result = {
        "minus": lambda: -first,
        "+": lambda: first + second,
        "-": lambda: first - second,
        "*": lambda: first * second,
        "/": lambda: first / second,
    }[node.op]()
    if not math.isfinite(result):
        raise UnknownError
    return result


def truth(node: Node, facts: Mapping[str, Any]) -> float:
    if node.op in ("and", "or"):
        parts = [truth(part, facts) for part in node.parts]
        return min(parts) if node.op == "and" else max(parts)
    if node.op == "not":
        return 1 - truth(node.parts[0], facts)
    if node.op == "missing":
        return float(facts.get(str(node.parts[0].value)) is None)
    if node.op == "value":
        return float(node.value)
    if node.op == "listed":
        is_unknown = facts.get("card") is None or facts.get("card_lists") is None
        return 0.5 if is_unknown else float(int(facts["card_lists"]) in (1, 3))
    if node.op in ("=", "!=") and node.parts[0].kind == "flag":
        one, other = truth(node.parts[0], facts), truth(node.parts[1], facts)
        return 0.5 if 0.5 in (one, other) else float((one == other) is (node.op == "="))
    try:
        one, *others = [number(part, facts) for part in node.parts]
    except UnknownError:
        return 0.5
    if node.op == "in":
        return float(any(one == other for other in others))
    other = others[0]
    answers = {"=": one == other, "!=": one != other}
    if isinstance(one, float):
        answers |= {"<": one < other, "<=": one <= other, ">": one > other, ">=": one >= other}
    return float(answers[node.op])


facts_of_a_case = st.fixed_dictionaries(
    {
        "amount": st.none() | some,
        "hour_utc": st.none() | st.integers(0, 23).map(float),
        "p_fraud": st.none() | st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0, 1),
        "minor": st.none() | st.sampled_from([0, 50, 100, 200]) | st.integers(0, 10**9),
        "channel": st.none() | st.sampled_from(["ecom", "pos", ""]),
        "merchant": st.none() | st.text(max_size=3),
        "ip_country": st.none() | st.sampled_from(["DE", "FR"]),
        "card": st.none() | st.integers(1, 99),
        "card_lists": st.sampled_from([None, -1.0, 0.0, 1.0, 2.0, 3.0]),
    }
)


@settings(max_examples=400)
@given(conditions, facts_of_a_case)
def test_rules_say_what_the_oracle_says(condition: Node, facts: dict[str, Any]) -> None:
    text = f"block if {condition}"
    if len(text) > MAX_LINE:
        return
    attributes = {name: facts[name] for name in ("channel", "merchant", "ip_country") if facts[name] is not None}
    minor = facts["minor"]
    attributes |= {} if minor is None else {"amount_minor": minor, "amount_base_minor": 1, "currency": "USD"}
    features = {name: facts[name] for name in ("amount", "hour_utc", "card_lists") if facts[name] is not None}
    entities = {} if facts["card"] is None else {"card": facts["card"]}
    given = case(attributes, features=features, entities=entities, p_fraud=facts["p_fraud"])
    facts["amount"] = None if facts["amount"] == -1 else facts["amount"]  # declared as missing
    facts["amount_in_usd"] = None if minor is None else minor / 100
    (answer,) = RuleSet(text, rates=RATES, lists=LISTS).matches(given)
    assert answer is (truth(condition, facts) == 1)


@pytest.mark.parametrize("sign", ["=", "!=", "<", "<=", ">", ">="])
@pytest.mark.parametrize("value", [1.0, 2.0, 3.0])
def test_a_constant_may_stand_on_either_side(sign: str, value: float) -> None:
    given = case(features={"amount": value})
    python = {"=": value == 2, "!=": value != 2, "<": value < 2, "<=": value <= 2, ">": value > 2, ">=": value >= 2}
    turned = {"=": "=", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}[sign]
    assert holds(f":amount: {sign} 2", given) is python[sign]
    assert holds(f"2 {turned} :amount:", given) is python[sign]
    assert holds(f":amount: {sign} 1 + 1", given) is python[sign]


def test_what_is_missing_is_neither_so_nor_otherwise() -> None:
    nothing = case()
    for condition in (":mcc: = '1'", ":mcc: != '1'", "not :mcc: = '1'", ":mcc: in ('1')", ":p_fraud: < 2"):
        assert not holds(condition, nothing)
        assert holds(f"{condition} or true", nothing)
        assert holds(f"not ({condition} and false)", nothing)
    assert holds(":mcc: is missing and :card: is missing and :p_fraud: is missing", nothing)
    assert not holds(":card: is missing", case(entities={"card": 3}))


@pytest.mark.parametrize("condition", [":amount: / 0 > 1", ":amount: / 0 < 1", "not :amount: / 0 = 1"])
def test_arithmetic_without_a_finite_result_is_unknown(condition: str) -> None:
    assert not holds(condition, case(features={"amount": 5.0}))


def test_arithmetic_that_grows_without_bound_is_unknown() -> None:
    assert not holds(" * ".join([":amount_minor:"] * 40) + " > 0", case({"amount_minor": 10**12}))


def test_a_features_missing_value_is_missing_unless_it_is_zero() -> None:
    missing = case(features={"card_since_last_s": -1.0, "card_payments_1h": 0.0})
    assert holds(":card_since_last_s: is missing and :card_payments_1h: is not missing", missing)
    assert not holds(":card_since_last_s: < 60", missing)
    assert holds(":card_payments_1h: = 0", missing)


@pytest.mark.parametrize(
    ("currency", "minor", "base", "condition"),
    [
        ("EUR", 19_999, 19_999, ":amount_in_eur: = 199.99 and not :amount_in_eur: > 199.99"),
        ("USD", 20_010, 18_009, ":amount_in_usd: = 200.10 and :amount_in_eur: = 180.09"),
        ("EUR", 9_000, 9_000, ":amount_in_usd: = 100"),
        ("EUR", 100, 100, ":amount_in_usd: = 1.11 and :amount_in_jpy: = 167 and :amount_in_kwd: = 0.333"),
        ("JPY", 5_000, 3_000, ":amount_in_jpy: = 5000 and :amount_in_eur: = 30"),
        ("KWD", 1_234, 370, ":amount_in_kwd: = 1.234"),
        ("CHF", 100, 105, ":amount_in_eur: = 1.05"),
    ],
)
def test_amounts_convert_by_the_rates_and_exactly_where_nothing_converts(
    currency: str, minor: int, base: int, condition: str
) -> None:
    assert holds(condition, case({"amount_minor": minor, "amount_base_minor": base, "currency": currency}))


def test_an_unusable_amount_is_missing() -> None:
    for base in (None, True, -3, "12"):
        assert holds(":amount_in_usd: is missing", case({} if base is None else {"amount_base_minor": base}))


@pytest.mark.parametrize(
    ("lists", "trusted", "stolen"), [(0.0, False, False), (1.0, True, False), (2.0, False, True), (3.0, True, True)]
)
def test_a_bit_of_the_feature_says_whether_an_entity_is_on_a_list(lists: float, trusted: bool, stolen: bool) -> None:
    given = case(features={"ip_lists": lists}, entities={"ip": 4})
    assert holds(":ip: in @trusted", given) is trusted
    assert holds(":ip: in @stolen", given) is stolen
    assert holds(":ip: not in @stolen", given) is not stolen


def test_a_feature_that_is_no_number_is_missing() -> None:
    assert holds(":amount: is missing", case(features={"amount": math.nan}))
    assert not holds("not :amount: > 3", case(features={"amount": math.nan}))


def test_what_no_list_knows_is_on_none_and_without_features_or_entity_nobody_can_say() -> None:
    assert holds(":merchant: not in @stolen", case(features={"merchant_lists": -1.0}, entities={"merchant": 6}))
    assert not holds(":merchant: not in @stolen", case(features={"merchant_lists": -1.0}))
    assert not holds(":merchant: not in @stolen", case(entities={"merchant": 6}))
    many = tuple(f"list_{number}" for number in range(50))
    rules = RuleSet("block if :ip: in @list_49\nblock if :ip: in @list_48", lists=many)
    assert rules.matches(case(features={"ip_lists": float(2**49)}, entities={"ip": 4})) == [True, False]


@pytest.mark.parametrize("value", [None, True, 3, 3.5, "3", b"3", float("nan"), 2**70, [3]])
def test_no_value_of_an_attribute_or_feature_makes_a_rule_stumble(value: Any) -> None:
    names = [*SCHEMA.request.attributes, *FEATURES.names]
    rules = RuleSet(
        "\n".join(f"block if :{name}: is missing or :{name}: = :{name}:" for name in names)
        + "\nblock if :amount_minor: > 3 or :channel: in ('3') or :amount_in_usd: < 3 or :p_fraud: > 3",
        rates=RATES,
    )
    given = case(dict.fromkeys(SCHEMA.request.attributes, value), p_fraud=None if value is None else 0.5)
    assert len(rules.matches(given)) == len(names) + 1


def ruled(text: str) -> tuple[list[int], list[int]]:
    ruling = RuleSet(text).ruling(case())
    return [rule.line for rule in ruling.acting], [rule.line for rule in ruling.shadows]


@pytest.mark.parametrize(
    ("text", "acting", "shadows"),
    [
        ("", [], []),
        ("block if false", [], []),
        ("review if true\nblock if true\nallow if true", [3], []),
        ("review if true\nblock if true\nallow if false", [2], []),
        ("block if false\nblock if true\nblock if true", [2], []),
        ("block if true\n3ds if false\n3ds if true\n3ds if true", [1, 3], []),
        ("3ds if true", [1], []),
        (
            "shadow allow if true\nblock if true\nshadow block if true\nshadow 3ds if true\nshadow 3ds if false",
            [2],
            [4, 1, 3],
        ),
    ],
)
def test_first_match_stops_and_3ds_goes_on(text: str, acting: list[int], shadows: list[int]) -> None:
    assert ruled(text) == (acting, shadows)
