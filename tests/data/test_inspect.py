"""A drafted mapping guesses what it can, says what it cannot, and never shows a person's data."""

from __future__ import annotations

import csv
import io
import tomllib
from collections.abc import Callable
from pathlib import Path

import duckdb
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.shop import payment

from decalog.data.draft import quote
from decalog.data.frames import open_frame
from decalog.data.inspect import Inspection, inspect, lost_features
from decalog.data.mapping import DataMap, read_map
from decalog.data.sketch import MANY, Sketch, survey
from decalog.data.words import action, match
from decalog.errors import DecalogError
from decalog.features.definition import Aggregate, FeatureSet
from decalog.system import System, find_system

COLUMNS = "order_id,created_at,amount,ccy,card_token,customer_id,email,client_ip,Device ID,shop,mcc"
SHOP = [
    COLUMNS + ",is_fraud,disputed_at,decision,score",
    "o1,2026-01-01T10:00:00Z,19.99,EUR,tok_a,c1,ann@example.org,10.0.0.1,d1,s1,5411,0,,approved,0.25",
    "o2,2026-01-01T11:00:00Z,5,EUR,tok_b,c2,bob@example.org,10.0.0.2,d2,s1,5411,1,2026-02-01T00:00:00Z,declined,",
]


@pytest.fixture(scope="module")
def system() -> System:
    return find_system("fraud")


@pytest.fixture
def look(tmp_path: Path, system: System) -> Callable[..., Inspection]:
    def write_and_inspect(*lines: str) -> Inspection:
        path = tmp_path / "shop payments.csv"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return inspect(path, system)

    return write_and_inspect


def mapping_of(inspection: Inspection, system: System) -> DataMap:
    return read_map(inspection.mapping_toml, system.schema)


def sketches(*lines: str, folder: Path) -> dict[str, Sketch]:
    path = folder / "columns.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {sketch.name: sketch for sketch in survey(open_frame(path)).sketches}


def test_a_shops_columns_are_found_by_name_and_looks(look: Callable[..., Inspection], system: System) -> None:
    found = look(*SHOP)
    drafted = mapping_of(found, system)
    assert {name: cell.column for name, cell in drafted.fields.items()} == {
        "card": "card_token",
        "customer": "customer_id",
        "device": "Device ID",
        "ip": "client_ip",
        "email": "email",
        "merchant": "shop",
        "mcc": "mcc",
    }
    assert (drafted.id.column, drafted.event_time.column) == ("order_id", "created_at")
    amount = drafted.amounts["amount_minor"]
    assert (amount.column, amount.unit, amount.currency_column) == ("amount", "major", "ccy")
    (outcome,) = drafted.outcomes
    assert (outcome.kind, outcome.column, outcome.values, outcome.silent) == (
        "chargeback",
        "is_fraud",
        {"1": 1.0},
        ("0",),
    )
    assert outcome.known.at is not None
    assert outcome.known.at.column == "disputed_at"
    assert drafted.taken is not None
    assert drafted.taken.values == {"approved": "allow", "declined": "block"}
    assert drafted.signals == ("score",)
    assert found.decide == ("who reported is_fraud: issuer, network?",)


def test_what_is_printed_is_a_mapping_and_shows_no_persons_data(
    look: Callable[..., Inspection], system: System
) -> None:
    text = look(*SHOP).text()
    assert read_map(text, system.schema) == mapping_of(look(*SHOP), system)
    for value in ("ann@", "10.0.0", "tok_a", "o1", "19.99", "c1,", "2026-01-01"):
        assert value not in text
    assert "# shop payments.csv: 2 rows, 0 of them broken" in text
    assert "email (looks like emails)" in text
    assert "disputed_at" in text
    assert "50.0%" in text


def test_what_cannot_be_guessed_is_left_to_the_user(look: Callable[..., Inspection], system: System) -> None:
    found = look("when,total,label,V1", "2026-01-01 10:00:00,12,bad,1.5", "2026-01-01 11:00:00,7,good,2")
    drafted = mapping_of(found, system)
    assert drafted.id.prefix == "shop payments-"
    assert (drafted.event_time.column, drafted.file.timezone, drafted.signals) == ("when", "UTC", ("V1",))
    told = "\n".join(found.decide)
    for words in (
        "no column holds a key for every row",
        "times such as those of when have no offset",
        "total holds whole numbers only: major units (12 = 12.00) or minor (12 = 0.12)?",
        "no column holds the currency",
        "say which values of label mean yes",
        "the file does not say when labels became known",
    ):
        assert words in told
        assert f"DECIDE: {words}" in found.mapping_toml
    assert "Decide before you import" in found.text()


def test_a_file_without_time_amount_or_label_says_so_in_the_draft(look: Callable[..., Inspection]) -> None:
    found = look("a,b", "x,y")
    for words in ("no column looks like the time", "no column looks like the amount", "no column looks like a label"):
        assert f"DECIDE: {words}" in found.mapping_toml
    assert '# Not mapped: "a", "b"' in found.mapping_toml


@pytest.mark.parametrize(
    ("values", "cell"),
    [
        (("1767225600", "1767229200"), '{ column = "ts", unit = "s" }'),
        (("1767225600000", "1767229200000"), '{ column = "ts", unit = "ms" }'),
        (
            ("0", "3600"),
            '{ column = "ts", unit = "s", since = "2020-01-01T00:00:00Z" }  # DECIDE: ts counts from a start',
        ),
    ],
)
def test_numbers_that_are_times_get_their_unit(
    look: Callable[..., Inspection], values: tuple[str, str], cell: str
) -> None:
    assert f"event_time = {cell}" in look("ts,amount_eur,V", *(f"{value},1.5,2" for value in values)).mapping_toml


def test_amounts_name_their_unit_and_currency_where_the_column_does(
    look: Callable[..., Inspection], system: System
) -> None:
    cents = mapping_of(look("ts,amount_cents,fraud", "1767225600,1999,0"), system).amounts["amount_minor"]
    euros = mapping_of(look("ts,amount_usd,fraud", "1767225600,19.99,0"), system).amounts["amount_minor"]
    assert (cents.unit, euros.unit, euros.currency) == ("minor", "major", "USD")
    commas = look("ts;amount;fraud", "1767225600;19,99;0")
    assert mapping_of(commas, system).file.decimal == ","


def test_parts_of_the_answer_and_names_of_things_are_no_signals(
    look: Callable[..., Inspection], system: System
) -> None:
    found = look("ts,amount,is_fraud,fraud_type,basket,bin_number", "1767225600,1.5,0,3,2,411111")
    assert mapping_of(found, system).signals == ("basket",)
    assert "fraud_type looks like part of the answer and was left out" in "\n".join(found.decide)


def test_card_numbers_channels_and_rival_columns_are_doubted(look: Callable[..., Inspection]) -> None:
    found = look(
        "ts,amount,value,pan,channel,class",
        "1767225600,1.5,1.5,4111111111111111,web,0",
        "1767225601,2.5,2.5,5500005555555559,pos,1",
    )
    told = "\n".join(found.decide)
    assert "pan looks like full card numbers; keep them out" in told
    assert "which of ecom, moto, pos each value of channel means" in told
    assert "the amount: column amount was taken; value might be meant as well" in told


def test_each_lost_feature_says_what_it_lacks(look: Callable[..., Inspection], system: System) -> None:
    lost = lost_features(system, ("amount_minor", "currency", "card"))
    assert lost["device_payments_1h"] == "no device"
    assert lost["ip_cards_1h"] == "no ip"
    assert "card_amount_1h" not in lost
    assert "hour_utc" not in lost
    everything = tuple(f.name for f in system.schema.request.fields) + tuple(
        e.name for e in system.schema.request.entities
    )
    assert lost_features(system, everything) == {}
    text = look(*SHOP).text()
    assert f"{len(look(*SHOP).lost)} of {len(system.features.features)} features are lost:" in text
    assert "no channel: channel" in text


def test_features_over_kinds_of_events_that_no_file_brings_are_lost(system: System) -> None:
    schema = system.schema
    logins = Aggregate(
        name="logins_1h",
        meaning="logins",
        unit="logins",
        entity="card",
        aggregate="count",
        over=("login",),
        window="1h",
    )
    other = msgspec.structs.replace(system, features=FeatureSet(system=schema.system, features=(logins,)))
    assert lost_features(other, ("card",)) == {"logins_1h": "no events of kind login"}


def test_sketches_tell_kinds_without_keeping_values(tmp_path: Path) -> None:
    found = sketches(
        "i,n,t,z,f,x,e,lead,ip6,comma;",
        "1,1.5,2026-01-01,2026-01-01T00:00:00Z,yes,hello,,007,::1,3",
        '-2,nan,2026-01-02,2026-01-02T00:00:00+01:00,no,5 apples,,010,fe80::1,"3,5"',
        folder=tmp_path,
    )
    kinds = {name: sketch.kind for name, sketch in found.items()}
    assert kinds == {
        "i": "integer",
        "n": "number",
        "t": "time",
        "z": "time",
        "f": "flag",
        "x": "text",
        "e": "empty",
        "lead": "text",
        "ip6": "text",
        "comma;": "number",
    }
    assert (found["t"].has_offset, found["z"].has_offset) == (False, True)
    assert found["ip6"].looks == "ip"
    assert found["comma;"].decimal_comma
    assert (found["e"].missing, found["i"].least, found["i"].most) == (2, -2.0, 1.0)


def test_only_so_many_values_are_counted(tmp_path: Path) -> None:
    found = sketches("a,b", *(f"{n},{n % 3}" for n in range(2 * MANY)), folder=tmp_path)
    assert (found["a"].distinct, found["a"].few, found["b"].few) == (MANY, (), ("0", "1", "2"))


def test_broken_rows_are_counted_and_parquet_types_are_shown(look: Callable[..., Inspection], system: System) -> None:
    assert "# shop payments.csv: 3 rows, 1 of them broken" in look("a,b", "1,2", "x", "3,4").text()
    frame = duckdb.connect().sql("SELECT 1.5::DOUBLE AS amount, TIMESTAMP '2026-01-01' AS at, 'x' AS card")
    text = inspect(frame, system).text()
    assert "DuckDBPyRelation frame: 1 rows" in text
    assert "timestamp" in text


def test_names_are_matched_without_case_blanks_and_signs() -> None:
    assert match("ip", ["Client-IP", "IP", "zip"]) == ["IP", "Client-IP"]
    assert action("Manual Review", ("allow", "review")) == "review"
    assert action("whatever", ("allow", "review")) == ""


@given(
    st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=6, unique_by=lambda name: name.strip()),
    st.lists(st.lists(st.text(max_size=8), min_size=6, max_size=6), max_size=4),
)
def test_whatever_the_columns_are_called_the_draft_is_toml(
    tmp_path_factory: pytest.TempPathFactory, system: System, columns: list[str], rows: list[list[str]]
) -> None:
    path = tmp_path_factory.mktemp("draft") / "odd.csv"
    text = io.StringIO()
    csv.writer(text).writerows([columns, *(row[: len(columns)] for row in rows)])
    path.write_bytes(text.getvalue().encode("utf-8", errors="replace"))
    try:
        found = inspect(path, system)
    except DecalogError:
        return
    assert tomllib.loads(found.text()) == tomllib.loads(found.mapping_toml)


@given(st.text(st.characters(codec="utf-8")))
def test_a_quoted_text_is_read_back_as_it_was(text: str) -> None:
    assert tomllib.loads(f"a = {quote(text)}")["a"] == text


def test_the_shop_of_the_other_tests_can_be_imported_by_its_draft(
    tmp_path: Path, look: Callable[..., Inspection], system: System
) -> None:
    found = look("payment,at,amount,currency,card,device,shop,name,disputed,basket", *(payment(n) for n in range(40)))
    drafted = mapping_of(found, system)
    assert set(drafted.fields) == {"card", "device", "merchant", "cardholder"}
    assert "sealed, never shown" in found.mapping_toml
