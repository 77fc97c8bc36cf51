"""Declarations: versions, JSON, and every problem named at once."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from decalog.errors import ConfigError
from decalog.features.declared import Declared
from decalog.features.definition import (
    Aggregate,
    AggregateName,
    Attribute,
    Calendar,
    Category,
    Feature,
    FeatureSet,
    Lookup,
    Same,
    table_keys,
)
from decalog.schema import Entity, EventKind, Field, Label, Schema


def aggregate(
    name: str = "card_sum_1h",
    *,
    aggregate: AggregateName = "sum",
    column: str = "cents",
    window: str = "1h",
    over: tuple[str, ...] = ("payment",),
    missing: float | None = None,
    crowded: float = -2.0,
    bound: int = 10**12,
) -> Aggregate:
    return Aggregate(
        name=name,
        meaning="spent",
        unit="cents",
        entity="card",
        aggregate=aggregate,
        over=over,
        window=window,
        column=column,
        missing=missing,
        crowded=crowded,
        bound=bound,
    )


REQUEST: tuple[Feature, ...] = (
    Attribute(name="cents", meaning="amount", unit="cents", attribute="cents"),
    Category(name="channel", meaning="channel", unit="index", attribute="channel", vocabulary=("web", "app")),
    Same(name="same", meaning="same country", unit="1", left="ip_country", right="card_country", missing=-2),
    Calendar(name="hour", meaning="hour", unit="h", part="hour_of_day", use="policy"),
)
ALL_TYPES = FeatureSet(system="fraud", features=(aggregate(), *REQUEST))


def problems(*features: Feature, system: str = "fraud", lateness: str = "1h") -> str:
    with pytest.raises(ConfigError) as caught:
        FeatureSet(system=system, features=features, lateness=lateness)
    return str(caught.value)


def test_json_brings_back_an_equal_set_of_the_same_version_and_hash() -> None:
    again = FeatureSet.from_json(ALL_TYPES.to_json())
    assert (again, again.version, hash(again)) == (ALL_TYPES, ALL_TYPES.version, hash(ALL_TYPES))


def test_equal_declarations_have_one_version_however_they_are_written() -> None:
    written = aggregate(missing=5)
    assert written == aggregate(missing=5.0)
    versions = {FeatureSet(system="fraud", features=(aggregate(missing=m),)).version for m in (5, 5.0)}
    assert len(versions) == 1


def test_any_change_that_matters_changes_the_version() -> None:
    variants = [
        aggregate(),
        aggregate(window="2h"),
        aggregate(bound=10),
        aggregate(missing=-1.0),
        aggregate(over=("payment", "login")),
    ]
    sets = [FeatureSet(system="fraud", features=(variant,)) for variant in variants]
    sets.append(FeatureSet(system="fraud", features=(aggregate(),), lateness="2h"))
    assert len({declared.version for declared in sets}) == len(sets)


def test_names_and_places_follow_the_order_of_declaration_and_the_use() -> None:
    assert ALL_TYPES.names == ("card_sum_1h", "cents", "channel", "same", "hour")
    assert ALL_TYPES.names_for("policy") == ("hour",)
    assert ALL_TYPES.places_for("model") == (0, 1, 2, 3)
    assert ALL_TYPES.longest_window_us == 3_600_000_000
    assert FeatureSet(system="fraud", features=REQUEST).longest_window_us == 0


def test_missing_is_zero_for_counts_and_sums_and_minus_one_for_the_rest() -> None:
    assert [feature.missing_value for feature in ALL_TYPES.features] == [0.0, -1.0, -1.0, -2.0, -1.0]
    assert aggregate(aggregate="mean").missing_value == -1.0


def test_a_users_own_signals_stand_at_the_end() -> None:
    more = ALL_TYPES.with_attributes(["v1", Attribute(name="v2", meaning="signal 2", unit="1", attribute="second")])
    assert more.names[-2:] == ("v1", "v2")
    assert more.version != ALL_TYPES.version
    with pytest.raises(ConfigError, match="feature 'cents': declared 2 times"):
        ALL_TYPES.with_attributes(["cents"])


def test_every_problem_is_listed_at_once() -> None:
    message = problems(aggregate("a", window="1 h"), aggregate("b", column=""), aggregate("b", bound=0), system="")
    for part in ("no system", "feature 'a': window '1 h'", "'1h' (closest match)", "feature 'b': declared 2 times"):
        assert part in message
    assert "feature 'b': column '', expected the name of one for sum" in message
    assert "feature 'b': bound 0, expected 1 to" in message
    assert "6 problems" not in message
    assert "5 problems" in message


@pytest.mark.parametrize(
    ("feature", "text"),
    [
        (aggregate("a b"), "its name is not an identifier"),
        (aggregate(aggregate="cuont"), "aggregate 'cuont', expected 'count' (closest match)"),  # type: ignore[arg-type]
        (aggregate(aggregate="count"), "column 'cents', expected none for count"),
        (aggregate(aggregate="time_since", column=""), "unit 'cents', expected 's'"),
        (aggregate(over=()), "over (), expected at least one kind of row"),
        (
            aggregate(over=("payment", "payment")),
            "over ('payment', 'payment'), expected at least one kind of row, each",
        ),
        (aggregate(over=tuple(f"k{i}" for i in range(63))), "63 kinds of rows, expected at most 62"),
        (aggregate(window="0s"), "window '0s', expected 1us to 3660d"),
        (aggregate(missing=float("nan")), "missing nan, expected a finite number"),
        (
            aggregate(crowded=float("inf")),
            "crowded inf, expected a finite number that is neither 0 nor the missing value",
        ),
        (aggregate(crowded=0.0), "crowded 0.0, expected a finite number that is neither"),
        (aggregate(missing=-2.0), "crowded -2.0, expected a finite number that is neither"),
        (aggregate(bound=2**62), "so that 100000 rows cannot pass 2⁶³"),
        (aggregate(window=5), "Expected `str`, got `int` - at `$.window`"),  # type: ignore[arg-type]
        (Attribute(name="a", meaning="", unit="", attribute="a"), "no meaning"),
        (Attribute(name="a", meaning="a", unit="1", attribute="a", missing=float("inf")), "missing inf"),
        (
            Attribute(name="a", meaning="a", unit="1", attribute="a", use="modle"),  # type: ignore[arg-type]
            "use 'modle', expected 'model' (closest match)",
        ),
        (
            Category(name="a", meaning="a", unit="1", attribute="a", vocabulary=()),
            "vocabulary (), expected at least one",
        ),
        (
            Calendar(name="a", meaning="a", unit="h", part="hour_of_dya"),  # type: ignore[arg-type]
            "part 'hour_of_dya', expected 'hour_of_day' (closest match)",
        ),
        (Declared(name="a", meaning="a", unit="1"), "features is not a tuple of features"),
    ],
)
def test_each_problem_says_what_is_expected(feature: Feature, text: str) -> None:
    assert text in problems(feature)


@pytest.mark.parametrize("retain", [0, 2**31 + 1])
def test_an_entity_retains_some_rows_and_not_all(retain: int) -> None:
    with pytest.raises(ConfigError, match=rf"retain {retain}, expected 1 to 2147483648 rows of one entity"):
        FeatureSet(system="fraud", features=REQUEST, retain=retain)


def test_what_a_crowded_window_says_is_part_of_the_version() -> None:
    sets = [FeatureSet(system="fraud", features=(aggregate(crowded=value),)) for value in (-2.0, -2, -3, -3.0)]
    assert [one.version == sets[0].version for one in sets] == [True, True, False, False]
    assert sets[2].version == sets[3].version == FeatureSet.from_json(sets[2].to_json()).version


def test_lateness_and_a_lost_comma_are_caught() -> None:
    assert "lateness '1 hour', expected a whole number and a unit" in problems(lateness="1 hour")
    with pytest.raises(ConfigError, match="features is not a tuple of features"):
        FeatureSet(system="fraud", features=aggregate())  # type: ignore[arg-type]


def test_an_entity_name_is_needed() -> None:
    nameless = Aggregate(name="a", meaning="a", unit="1", entity="", aggregate="count", over=("x",), window="1h")
    assert "entity '', expected the name of one, two joined by +, or 'all'" in problems(nameless)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "feature set: JSON that does not fit"),
        (b'{"system":1,"features":[]}', "Expected `str`, got `int`"),
        (b'{"system":"","features":[]}', "features of '': 1 problem: no system"),
    ],
)
def test_json_that_is_no_feature_set_is_refused(text: bytes, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        FeatureSet.from_json(text)
    assert message in str(caught.value)


def schema() -> Schema:
    payment = EventKind(
        name="payment",
        meaning="a payment",
        fields=(
            Field(name="cents", kind="int", meaning="amount"),
            Field(name="channel", kind="text", meaning="channel"),
            Field(name="email", kind="text", meaning="address", privacy="personal"),
        ),
        entities=(Entity(name="card", meaning="the card"),),
        subject=("card",),
    )
    label = Label(name="fraud", meaning="fraud", maturity="90d", observed_after=("allow",))
    return Schema(
        system="fraud",
        noun="payment",
        request=payment,
        events=(),
        outcomes=(),
        actions=("allow", "review"),
        label=label,
    )


def test_a_set_that_fits_its_schema_passes() -> None:
    FeatureSet(system="fraud", features=(aggregate(over=("payment", "decision.review")), *REQUEST[:2])).check(schema())


def test_names_that_the_schema_does_not_know_are_listed_with_the_near_match() -> None:
    wrong = Aggregate(
        name="n",
        meaning="a",
        unit="1",
        entity="crad",
        aggregate="distinct",
        over=("paymnt",),
        window="1h",
        column="email",
    )
    with pytest.raises(ConfigError) as caught:
        FeatureSet(system="fraud", features=(wrong, *REQUEST)).check(schema())
    message = str(caught.value)
    assert "features of 'fraud': 5 problems" in message
    assert "kind 'paymnt', expected 'payment' (closest match)" in message
    assert "entity 'crad', expected 'card' (closest match)" in message
    assert "column 'email', expected" in message  # personal values are never features
    assert "left 'ip_country'" in message
    assert "right 'card_country'" in message


def lookup(table: str, key: str) -> Lookup:
    return Lookup(name=f"{table}_{key}", meaning="a", unit="1", table=table, key=key)


def test_a_table_is_read_at_public_values_or_at_the_tokens_of_one_entity() -> None:
    features = (lookup("risks", "channel"), lookup("lists", "card"))
    fits = FeatureSet(system="fraud", features=features)
    fits.check(schema())
    assert table_keys(fits, schema()) == {"risks": "", "lists": "card"}
    mixed = FeatureSet(system="fraud", features=(*features, lookup("lists", "channel"), lookup("more", "crad")))
    with pytest.raises(ConfigError) as caught:
        mixed.check(schema())
    assert "key 'crad', expected 'card' (closest match)" in str(caught.value)
    assert "table 'lists': read at card, channel, expected one key where it is an entity's token" in str(caught.value)


def test_a_set_prints_as_a_page_of_what_it_computes() -> None:
    page = str(ALL_TYPES).splitlines()
    assert page[0] == f"features of fraud, version {ALL_TYPES.version}, lateness 1h"
    assert page[1] == "  card_sum_1h: sum(cents) of payment rows by card in (t − 1h, t] [cents]"
    assert len(page) == 1 + len(ALL_TYPES.names)


def test_declaring_features_imports_neither_numpy_nor_numba() -> None:
    script = "import sys, decalog.features.definition; print({'numpy', 'numba'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"


def test_more_entity_names_than_an_int64_has_bits_are_refused() -> None:
    def over(count: int) -> tuple[Feature, ...]:
        return tuple(msgspec.structs.replace(aggregate(f"f{i}"), entity=f"e{i}") for i in range(count))

    assert len(FeatureSet(system="fraud", features=over(62)).features) == 62
    with pytest.raises(ConfigError, match="63 entity names, expected at most 62"):
        FeatureSet(system="fraud", features=over(63))
