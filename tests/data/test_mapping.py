"""Every mistake of a mapping is told at once, with its near match."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.shop import MAPPING

from decalog.clock import DAY, time_us
from decalog.data.mapping import DataMap, check_columns, load_map, read_map, signal_name
from decalog.errors import ConfigError, DataError
from decalog.systems.fraud.schema import SCHEMA

SMALL = """
[request]
id = { row_number = true, prefix = "shop-" }
event_time = { column = "Time", unit = "s", since = "2013-09-01T00:00:00Z" }
amount = { column = "Amount", unit = "major", currency = "EUR" }
"""


def problems(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read_map(text, SCHEMA)
    return caught.value.given


def test_a_mapping_says_what_each_column_means(mapping: DataMap) -> None:
    assert mapping.id.column == "payment"
    assert mapping.fields["card"].column == "card"
    assert mapping.amounts["amount_minor"].currency_column == "currency"
    assert (mapping.outcomes[0].values, mapping.outcomes[0].silent) == ({"yes": 1.0}, ("no",))
    assert mapping.outcomes[0].known.delay_us == 30 * DAY
    assert [field.name for field in mapping.signal_fields()] == ["basket"]
    assert mapping.rates is not None
    assert mapping.rates.rates == {"USD": "0.5", "JPY": "0.01"}
    assert "device" in mapping.columns


def test_what_is_left_out_has_its_default() -> None:
    small = read_map(SMALL, SCHEMA)
    assert small.event_time.since_us == time_us("2013-09-01T00:00:00Z")
    assert (small.known.delay_us, small.known.at, small.taken, small.outcomes, small.signals) == (0, None, None, (), ())
    assert (small.max_bad_share, small.system, small.id.prefix) == (0.05, "fraud", "shop-")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"fraud"', '"fruad"', "system: 'fruad', expected 'fraud'"),
        ("max_bad_share = 0.5", "max_bad_share = 50", "max_bad_share: 50.0, expected 0 to 1"),
        ("max_bad_share = 0.5", 'max_bad_share = "x"', "max_bad_share: str, expected a number"),
        ("card = ", "crad = ", "[request] crad: unknown, expected 'card' (closest match)"),
        ("amount = ", "ammount = ", "[request] ammount: unknown, expected 'amount' (closest match)"),
        (
            '"major"',
            '"mayor"',
            "[request] amount, unit: 'mayor', expected 'major' (closest match), or one of: major, minor",
        ),
        ('unit = "major", ', "", "[request] amount, unit: not there, expected a text in quotes"),
        (
            'currency = { column = "currency" }',
            'currency = "EURO"',
            "currency: 'EURO', expected an ISO 4217 code, 'EUR' (clos",
        ),
        ('{ column = "at" }', '{ column = "at", unit = "sec" }', "[request] event_time, unit: 'sec', expected"),
        ('{ column = "at" }', "7", "[request] event_time: int, expected the name of a column"),
        ('{ column = "at" }', '{ column = "at", since = "2013-09-01T00:00:00Z" }', "since: stated without a unit"),
        (
            '{ column = "at" }',
            '{ column = "at", unit = "s", since = "2013-09-01" }',
            "since: '2013-09-01', expected a time with an offset",
        ),
        ('{ column = "at" }', '{ column = "at", unit = "s", format = "%d" }', "format: stated with a unit of numbers"),
        (
            'source = "issuer"',
            'source = "issuers"',
            "[outcomes.chargeback] source: 'issuers', expected 'issuer' (closest",
        ),
        (
            "[outcomes.chargeback]",
            "[outcomes.chargebacks]",
            "[outcomes] chargebacks: unknown, expected 'chargeback' (close",
        ),
        ('delay = "30d"', "", "[outcomes.chargeback] delay: not there, expected a text in quotes"),
        (
            'delay = "30d"',
            'delay = "a month"',
            "[outcomes.chargeback] delay: 'a month', expected a whole number and a unit",
        ),
        (
            'delay = "30d"',
            'delay = "30d"\nknown_time = "at"',
            "delay: stated beside known_time, expected one of the two",
        ),
        ('silent = ["no"]', 'silent = ["no", "yes"]', "silent: holds yes, which values holds too"),
        ('values = { "yes" = 1 }', "", "[outcomes.chargeback] values: not there"),
        ('values = { "yes" = 1 }', 'values = { "yes" = "1" }', "values, yes: str, expected a number"),
        ('values = { "yes" = 1 }', "values = 1", "values: int, expected an inline table"),
        ('["basket"]', '["card"]', "[signals] columns: holds 'card', whose name 'card' is taken"),
        ('["basket"]', '["basket", "basket"]', "[signals] columns: holds basket twice"),
        ('["basket"]', '"basket"', "[signals] columns: not an array of texts"),
        ('USD = "0.5"', 'USDX = "0.5"', "[rates] USDX: no ISO 4217 code, expected 'USD' (closest match)"),
        ('USD = "0.5"', 'USD = "-1"', "[rates] USD: '-1', expected a rate in decimal text"),
        ("[rates]", '[file]\nencoding = "utf8"\n[rates]', "[file] encoding: 'utf8', expected 'utf-8' (closest match)"),
        (
            "[rates]",
            '[file]\ntimezone = "Europe/Berlim"\n[rates]',
            "[file] timezone: 'Europe/Berlim', expected an IANA time",
        ),
        (
            'cardholder = "name"',
            'taken = { column = "x", values = { ok = "alow" } }',
            "'alow', expected 'allow' (closest",
        ),
        ('cardholder = "name"', 'cardholder = { column = "x", values = { a = 1 } }', "values, a: int, expected a text"),
        ('id = "payment"', "", "[request] id: not there, expected the column that holds it"),
        ('id = "payment"', "id = { row_number = false }", "row_number: not true, expected true, or a column instead"),
        ("[request]", "request = 1\n[requests]", "[request]: int, expected a table of keys"),
    ],
)
def test_each_mistake_is_named_with_what_is_expected(old: str, new: str, words: str) -> None:
    assert old in MAPPING
    assert words in problems(MAPPING.replace(old, new, 1))


def test_all_mistakes_are_told_at_once() -> None:
    told = problems(MAPPING.replace("card =", "crad =").replace('"major"', '"mayor"').replace('"issuer"', '"me"'))
    assert told.startswith("3 problems: ")
    assert all(word in told for word in ("crad", "mayor", "'me'"))


def test_text_that_is_not_toml_names_the_line() -> None:
    assert "at line 2" in problems("system = 'fraud'\nid = = 3")
    assert "not TOML" in problems("a = " + "9" * 5_000)


def test_a_mapping_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^my\.toml: a mapping that cannot be read \(FileNotFoundError\)"):
        load_map(tmp_path / "my.toml", SCHEMA)
    path = tmp_path / "my.toml"
    path.write_text(SMALL, encoding="utf-8")
    assert load_map(path, SCHEMA) == read_map(SMALL, SCHEMA)


def test_columns_that_are_not_in_the_data_are_listed_with_their_near_match(mapping: DataMap) -> None:
    columns = ["payment", "at", "amuont", "currency", "card", "device", "shop", "name", "disputed"]
    with pytest.raises(ConfigError) as caught:
        check_columns(mapping, columns, where="payments.csv")
    assert "2 problems" in caught.value.given
    assert (
        "amount_minor names a column 'amount' that is not there, expected 'amuont' (closest match)"
        in caught.value.given
    )
    assert "[signals] columns names a column 'basket'" in caught.value.given
    check_columns(mapping, [*columns, "amount", "basket"], where="payments.csv")


def test_a_signal_has_a_name_that_features_can_have() -> None:
    assert [signal_name(column) for column in ("V1", "a b", "1x", "%", "café")] == [
        "V1",
        "a_b",
        "x1x",
        "signal",
        "café",
    ]


TOML_VALUES = st.recursive(
    st.one_of(
        st.booleans(), st.integers(), st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=5)
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["column", "unit", "values"]), inner),
    max_leaves=6,
)
KEYS = ["id", "event_time", "known_time", "delay", "amount", "card", "taken", "channel", "columns", "chargeback"]
TABLES = ["request", "outcomes", "outcomes.chargeback", "signals", "rates", "file"]


def toml(value: object) -> str:
    """Returns a value as TOML, by the rules of TOML's own grammar."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(inner)}" for key, inner in value.items()) + "}"
    return str(value) if isinstance(value, int) else '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


@given(st.dictionaries(st.sampled_from(TABLES), st.dictionaries(st.sampled_from(KEYS), TOML_VALUES)))
def test_whatever_a_mapping_says_nothing_but_a_config_error_comes_out(tables: dict[str, dict[str, object]]) -> None:
    text = "\n".join(
        f"[{name}]\n" + "\n".join(f"{key} = {toml(value)}" for key, value in table.items())
        for name, table in tables.items()
    )
    with contextlib.suppress(ConfigError):
        read_map(text, SCHEMA)


@given(st.text())
def test_whatever_text_is_given_it_is_refused_in_four_parts(text: str) -> None:
    with pytest.raises(ConfigError, match=r"Expected a mapping.*\. Mend "):
        read_map(text, SCHEMA)
