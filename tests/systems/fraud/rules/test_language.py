"""The parser: what it accepts, what it says of the rest, and that no text makes it stumble."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.systems.fraud.rules.trees import FREE, conditions

from decalog.errors import ConfigError
from decalog.ingest import Rates
from decalog.systems.fraud.rules.facts import facts, vocabulary
from decalog.systems.fraud.rules.language import (
    MAX_ARITHMETIC,
    MAX_LINE,
    MAX_NESTED,
    MAX_RULES,
    Node,
    Rule,
    parse,
)

RATES = Rates("EUR", {"USD": "0.9", "JPY": "0.006"})
WORDS = vocabulary(facts(RATES), ("trusted", "stolen"))


def read(text: str) -> list[str]:
    return [str(rule) for rule in parse(text, WORDS)]


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, WORDS)
    assert caught.value.where == "fraud rules"
    assert str(caught.value).endswith("Mend every line named here; no rule of the set was taken.")
    return caught.value.given.split("; ")


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        (
            "block if :ip_country: != :card_country: and :amount_in_eur: > 200",
            "block if :ip_country: != :card_country: and :amount_in_eur: > 200",
        ),
        (
            "[velocity_ip] Block IF :ip_payments_60s: > 10 AND NOT :channel: IN ('pos') # why",
            "[velocity_ip] block if :ip_payments_60s: > 10 and not :channel: in ('pos')",
        ),
        ("allow if :card: in @trusted", "allow if :card: in @trusted"),
        ("Shadow block if :ip: not in @trusted", "shadow block if not :ip: in @trusted"),
        ("3DS if :device: is missing", "3ds if :device: is missing"),
        ("review if :mcc: is not missing", "review if not :mcc: is missing"),
        ("review if :p_fraud: > 0.40 or true", "review if :p_fraud: > 0.4 or true"),
        ('block if :merchant: = "O\'Neil"', 'block if :merchant: = "O\'Neil"'),
        ("block if :merchant: = 'Пекарня Café ☕'", "block if :merchant: = 'Пекарня Café ☕'"),
        ("block if :mcc: in ('4111', \"7995\")", "block if :mcc: in ('4111', '7995')"),
        ("block if :amount: in (1, -2, 0.50)", "block if :amount: in (1, -2, 0.5)"),
        ("block if (:amount: + 2) * -3 - (1 - 1) > 1e", ""),
        ("block if (:amount: + 2) * -3 - (1 - 1) > 1", "block if (:amount: + 2) * -3 - (1 - 1) > 1"),
        ("block if ((:amount: * 2)) + 1 > ((1))", "block if :amount: * 2 + 1 > 1"),
        ("block if -:amount: < -(2 + 1)", "block if -:amount: < -(2 + 1)"),
        ("block if not not (true or false) and true", "block if not not (true or false) and true"),
        ("block if true and (false or true) and true", "block if true and (false or true) and true"),
        ("block if (:amount: > 1) = true", "block if :amount: > 1 = true"),
        ("block if true = (:amount: > 1)", "block if true = (:amount: > 1)"),
        ("block if :amount: > 0.000000001", "block if :amount: > 0.000000001"),
        (
            "block if :amount_in_jpy: > 5 and :amount_in_usd: > 5",
            "block if :amount_in_jpy: > 5 and :amount_in_usd: > 5",
        ),
    ],
)
def test_rules_print_as_they_are_read(text: str, printed: str) -> None:
    if printed:
        assert read(text) == [printed]
        assert read(printed) == [printed]
    else:
        assert problems(text) == ["line 1, column 43: 'e' where the end of the rule, `and` or `or` is expected"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("blok if true", "1: 'blok' where 3ds, allow, block or review is expected, closest is block"),
        ("block", "6: the end of the line where 'if' is expected"),
        ("block :amount: > 1", "7: ':amount:' where 'if' is expected"),
        ("block if", "9: the end of the line where a value is expected"),
        ("block if :ip_contry: = 'x'", "10: :ip_contry: is not known, closest is ip_country"),
        ("block if :zzzzzzzz: = 'x'", "10: :zzzzzzzz: is not known"),
        (
            "block if :cardholder: = 'x'",
            "10: :cardholder: is personal: the log holds it sealed, and no rule can read it",
        ),
        (
            "block if true and :amount_in_gbp: > 1",
            "19: :amount_in_gbp: needs an exchange rate, and the deployment has none for that currency",
        ),
        (
            "block if :card: = 'x'",
            "10: an entity, which only `in @list` and `is missing` can test, where a text is expected",
        ),
        (
            "block if 'x' = :card:",
            "16: an entity, which only `in @list` and `is missing` can test, where a text is expected",
        ),
        ("block if :channel: > 3", "10: a text where a number is expected"),
        ("block if 3 > :channel:", "14: a text where a number is expected"),
        ("block if :channel: = 3", "22: a number where a text is expected"),
        ("block if :amount: + (true) > 3", "21: a condition where a number is expected"),
        ("block if :amount:", "10: a number where a condition is expected"),
        ("block if true and 'x'", "19: a text where a condition is expected"),
        ("block if not 1", "14: a number where a condition is expected"),
        ("block if -'x' > 1", "11: a text where a number is expected"),
        ("block if 1 < :amount: < 3", "10: a condition where a number is expected"),
        ("block if :amount: in (1, 'x')", "26: a text where a number is expected"),
        ("block if :amount: in ()", "23: ')' where a value is expected"),
        ("block if :amount: in (:amount:)", "23: ':amount:' where a value is expected"),
        ("block if true in (true)", "10: a condition where a number or a text is expected"),
        ("block if :card: in ('x')", "10: an entity where a number or a text is expected"),
        ("block if :amount: in @trusted", "10: only entities stand on lists, such as :card: or :ip:"),
        ("block if :card: in @trustd", "20: there is no list @trustd, closest is trusted"),
        ("block if 1 is missing", "10: only of a :name: it can be asked whether it is missing"),
        ("block if :amount: is 3", "22: '3' where 'missing' is expected"),
        ("block if (true", "15: the end of the line where ')' is expected"),
        ("block if true true", "15: 'true' where the end of the rule, `and` or `or` is expected"),
        ("block if :merchant: = 'it's'", '28: an unclosed or misspelt "\'"'),
        ("block if :amount > 1", "10: an unclosed or misspelt ':'"),
        ("block if :amount: == 1", "20: '=' where a value is expected"),
        ("block if true 'secret'", "15: a text where the end of the rule, `and` or `or` is expected"),
        ("block if €", "10: an unknown sign '€'"),
        ("[Bad] block if true", "1: an unclosed or misspelt '['"),
        ("block if [a] true", "10: '[a]' where a value is expected"),
        ("block if 1" + "0" * 400 + " > 1", "10: a number that is too large"),
        ("block if " + "(" * 3_900, "50: nested deeper than 40"),
        ("block if " + "not " * 900, "170: nested deeper than 40"),
        ("block if 1" + "+1" * 900, "111: more than 50 of the signs + - * /"),
        ("block if " + "(" * 10_000, "4001: more than 4000 characters"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(line: str, problem: str) -> None:
    assert problems(f"# a comment\n\n{line}") == [f"line 3, column {problem}"]


def test_all_faults_are_told_at_once_and_no_rule_is_taken() -> None:
    assert problems(
        "block if true\nblok if true\n[a] allow if true\n[a] allow if x\n[b] allow if 1\n[b] 3ds if true"
    ) == [
        "line 2, column 1: 'blok' where 3ds, allow, block or review is expected, closest is block",
        "line 4, column 14: 'x' where a value is expected",
        "line 5, column 14: a number where a condition is expected",
    ]
    assert problems("[a] allow if true\n[a] 3ds if true") == ["line 2, column 1: the name 'a' is taken by line 1"]
    assert problems("\n" + "block if true\n" * (MAX_RULES + 9)) == [
        f"line {MAX_RULES + 2}, column 1: more than {MAX_RULES} rules"
    ]
    assert problems("x\n" * 30)[-1] == "and 10 more"


def test_rules_stand_in_the_order_of_evaluation_and_keep_their_lines() -> None:
    rules = parse("review if true\n\nblock if true\nallow if true\n3ds if true\nallow if false\n# end", WORDS)
    assert [(rule.does, rule.line) for rule in rules] == [
        ("3ds", 5),
        ("allow", 4),
        ("allow", 6),
        ("block", 3),
        ("review", 1),
    ]
    assert parse("", WORDS) == ()
    assert parse("block if true\r\n", WORDS)[0].does == "block"


@pytest.mark.parametrize(
    ("does", "action", "after"),
    [
        *[
            ("3ds", "allow", "step_up"),
            ("3ds", "block", "block"),
            ("3ds", "review", "review"),
            ("allow", "block", "allow"),
        ],
        *[("review", "block", "review"), ("block", "step_up", "block"), ("3ds", "step_up", "step_up")],
    ],
)
def test_a_rule_makes_an_action_of_another(does: str, action: str, after: str) -> None:
    rule = Rule(name="", does=does, shadow=False, condition=Node("value", value=True), line=3)
    assert rule.after(action) == after
    assert rule.title == "of line 3"


@given(conditions)
@example(Node("and", (Node("value", value=True), Node("and", (Node("value", value=True), Node("value", value=False))))))
def test_a_printed_condition_is_read_as_the_same_tree(condition: Node) -> None:
    rule = Rule(name="x", does="block", shadow=True, condition=condition, line=1)
    if len(str(rule)) < MAX_LINE:
        assert parse(str(rule), FREE) == (rule,)


def test_a_flag_is_a_condition_by_itself() -> None:
    (rule,) = parse("block if :gift: and :gift: != false", msgspec.structs.replace(FREE, kinds={"gift": "flag"}))
    assert str(rule) == "block if :gift: and :gift: != false"


WORDS_OF_IT = ["block", "if", "not", "in", "is", "missing", "and", "or", "(", ")", ",", "-", "*", "<", "=", "'x'", "12"]
WORDS_OF_IT += [":amount:", ":card:", "@trusted", ":channel:", "[a]", "shadow", "true", "#", "'", ":", "\n", "é"]


@given(st.text(max_size=200) | st.lists(st.sampled_from(WORDS_OF_IT), max_size=60).map(" ".join))
@example("block if " + "(" * (MAX_NESTED + 5))
@example("block if " + "-" * 200 + "1 > 1")
@example("block if 1" + "-1" * (MAX_ARITHMETIC + 1) + " > 1")
@example("block if :amount: in (" + "1, " * 1_300)
@example("block if " + "true and " * 440 + "true")
def test_no_text_raises_anything_but_the_sentence(text: str) -> None:
    try:
        for rule in parse(text, WORDS):
            assert parse(str(rule), WORDS)[0].condition == rule.condition
    except ConfigError as error:
        assert_names_lines(error.given)


def assert_names_lines(given: str) -> None:
    assert all(problem.startswith(("line ", "and ")) for problem in given.split("; "))
