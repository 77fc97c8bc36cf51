"""The edge: whatever callers send becomes a parsed value or one clear RequestError, and nothing else."""

from __future__ import annotations

import json
import string
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decalog.errors import ConfigError, RequestError
from decalog.money import MAX_MINOR
from decalog.parsing import SchemaParser
from decalog.schema import (
    ID_LENGTH,
    Entity,
    EventKind,
    Field,
    Label,
    OutcomeKind,
    Parsed,
    ParsedOutcome,
    Schema,
)

PAYMENT = EventKind(
    name="payment",
    meaning="A payment.",
    subject=("card",),
    entities=(
        Entity(name="card", meaning="A card.", max_length=20),
        Entity(name="shop", meaning="A shop.", privacy="public"),
    ),
    fields=(
        Field(name="amount_minor", kind="amount_minor", meaning="Amount.", required=True),
        Field(name="currency", kind="currency", meaning="Its currency.", required=True),
        Field(name="channel", kind="text", meaning="Where.", choices=("ecom", "pos")),
        Field(name="note", kind="text", meaning="Free text.", privacy="personal", max_length=10),
        Field(name="score", kind="float", meaning="A score.", least=0, most=1),
        Field(name="ratio", kind="float", meaning="Any number."),
        Field(name="count", kind="int", meaning="A count.", least=-5, most=5),
        Field(name="big", kind="int", meaning="Any integer."),
        Field(name="new", kind="flag", meaning="Whether new."),
    ),
)
LOGIN = EventKind(name="login", meaning="A login.", fields=(), entities=PAYMENT.entities, subject=("card",))
SCHEMA = Schema(
    system="fraud",
    noun="payment",
    request=PAYMENT,
    events=(LOGIN,),
    outcomes=(OutcomeKind(name="chargeback", meaning="A dispute.", sources=("issuer", "network"), labels={1: 1}),),
    actions=("review", "allow"),
    label=Label(name="fraud", meaning="A fraud.", maturity="60d", observed_after=("allow",)),
)
PARSER = SchemaParser(SCHEMA)
GOOD: dict[str, Any] = {"id": "p1", "amount_minor": 1234, "currency": "EUR"}
OUTCOME: dict[str, Any] = {"id": "o1", "payment": "p1", "kind": "chargeback", "source": "issuer", "value": 1}


def test_a_request_is_split_into_what_may_stand_in_the_clear_and_what_not() -> None:
    sent = GOOD | {
        "card": "4000",
        "shop": "s1",
        "note": "hello",
        "channel": "ecom",
        "score": 1,
        "new": False,
        "big": -(2**62),
        "event_time": "2026-03-01T12:00:00.000001+01:00",
        "corrects": "p0",
        "taken": "allow",
    }
    expected = Parsed(
        id="p1",
        kind="payment",
        event_time=1_772_362_800_000_001,
        entities={"card": "4000", "shop": "s1"},
        public={
            "amount_minor": 1234,
            "currency": "EUR",
            "channel": "ecom",
            "score": 1.0,
            "new": False,
            "big": -(2**62),
        },
        private={"note": "hello"},
        taken="allow",
        corrects="p0",
    )
    assert PARSER.request(json.dumps(sent).encode()) == expected
    assert PARSER.request(sent) == expected
    assert PARSER.event(sent) == expected
    assert type(PARSER.request(sent).public["score"]) is float


def test_null_is_absence() -> None:
    assert PARSER.request(GOOD | {"card": None, "note": None, "event_time": None}) == PARSER.request(GOOD)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"ammount": 1}, r"fraud payment: an unknown field\. Expected .*one of: amount_minor, .*Remove or rename"),
        ({"x at `$.4111": 1}, r"fraud payment: an unknown field\."),
        ({"shopp": 1}, r"an unknown field\. Expected 'shop' \(closest match\)"),
        ({"amount_minor": ...}, r"fraud payment: no amount_minor\. Expected the required field amount_minor"),
        ({"id": ...}, "no id"),
        ({"id": ""}, r"fraud payment, id: .*length >= 1"),
        ({"id": "x" * (ID_LENGTH + 1)}, r"fraud payment, id: .*length <= 128"),
        ({"id": "a\x00b"}, r"fraud payment, id: control characters or lone surrogates\. Expected printable text"),
        ({"card": "a\nb"}, r"fraud payment, card: control characters"),
        ({"note": "tab\t"}, r"fraud payment, note: control characters"),
        ({"note": "\ud800"}, r"fraud payment, note: control characters or lone surrogates"),
        ({"note": "x" * 11}, r"fraud payment, note: .*length <= 10"),
        ({"card": "x" * 1_000_000}, r"fraud payment, card: .*length <= 20"),
        ({"card": ""}, r"fraud payment, card: .*length >= 1"),
        ({"card": 4000}, r"fraud payment, card: `int`\. Expected `str \| null`"),
        ({"amount_minor": -1}, r"fraud payment, amount_minor: .*`int` >= 0"),
        ({"amount_minor": MAX_MINOR + 1}, r"fraud payment, amount_minor: .*`int` <= 1000000000000"),
        ({"amount_minor": 12.5}, r"fraud payment, amount_minor: .*`int`"),
        ({"amount_minor": "12"}, r"fraud payment, amount_minor: `str`\. Expected `int`"),
        ({"amount_minor": True}, r"fraud payment, amount_minor: `bool`\. Expected `int`"),
        ({"amount_minor": 10**30}, r"fraud payment, amount_minor: "),
        ({"currency": "eur"}, r"fraud payment, currency: no ISO 4217 code\. Expected 'EUR' \(closest match\)"),
        ({"currency": "EURO"}, r"fraud payment, currency: .*length <= 3"),
        ({"currency": "XXX"}, r"fraud payment, currency: no ISO 4217 code"),
        ({"channel": "mail"}, r"fraud payment, channel: a value that is not among the choices"),
        ({"taken": "burn"}, r"fraud payment, taken: a value that is not among the choices"),
        ({"score": 1.5}, r"fraud payment, score: .*<= 1"),
        ({"ratio": float("nan")}, r"fraud payment, ratio: a value out of range\. Expected a finite number"),
        ({"ratio": float("inf")}, r"fraud payment, ratio: a value out of range\. Expected a finite number"),
        ({"count": 6}, r"fraud payment, count: .*`int` <= 5"),
        ({"big": 2**63}, r"fraud payment, big: "),
        ({"new": 1}, r"fraud payment, new: `int`\. Expected `bool \| null`"),
        ({"event_time": "yesterday"}, r"fraud payment, event_time: no RFC 3339 time\. Expected a time with an offset"),
        ({"event_time": "2026-03-01T12:00:00"}, r"fraud payment, event_time: no RFC 3339 time"),
        ({"event_time": 17}, r"fraud payment, event_time: `int`\. Expected `str \| null`"),
    ],
)
def test_a_wrong_field_is_named_with_what_is_right(changed: dict[str, Any], says: str) -> None:
    sent = {name: value for name, value in (GOOD | changed).items() if value is not ...}
    with pytest.raises(RequestError, match=says) as caught:
        PARSER.request(sent)
    assert str(caught.value).count(". ") >= 2


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
def test_times_at_the_ends_of_the_calendar_are_read(text: str) -> None:
    assert PARSER.request(GOOD | {"event_time": text}).event_time is not None


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"\xff", b"[1]", b'"x"', b"null", b'{"id": NaN}', b'{"id": "\xff"}', b"{}{}"]
)
def test_bytes_that_are_no_request_are_refused(raw: bytes) -> None:
    with pytest.raises(RequestError, match=r"^fraud payment"):
        PARSER.request(raw)


@pytest.mark.parametrize("name", ["id", "corrects", "card", "note"])
@pytest.mark.parametrize("control", ["\0", "\n", "\x7f", "\ud800"])
def test_a_control_character_is_named_by_its_field(name: str, control: str) -> None:
    unusual = {"id": "p\u00a01", "corrects": "p\u200b0", "card": "4\u2028", "note": "\U000e0001"}
    sent = GOOD | unusual
    read = PARSER.request(sent)  # printed or not, these are no control characters
    assert (read.id, read.corrects, read.entities["card"], read.private["note"]) == tuple(unusual.values())
    with pytest.raises(RequestError, match=rf"^fraud payment, {name}: control characters or lone surrogates"):
        PARSER.request(sent | {name: f"a{control}"})


def test_a_personal_value_is_not_repeated_in_the_error() -> None:
    for changed in ({"note": "Lovelace\x00"}, {"card": "Lovelace" * 9}, {"channel": "Lovelace"}, {"id": "Lovelace\n"}):
        with pytest.raises(RequestError) as caught:
            PARSER.request(GOOD | changed)
        assert "Lovelace" not in str(caught.value)


def test_events_of_other_kinds_and_unknown_ones() -> None:
    login = PARSER.event({"kind": "login", "id": "l1", "card": "4000"})
    assert (login.kind, login.entities) == ("login", {"card": "4000"})
    for kind in ("logins", 7, None):
        with pytest.raises(
            RequestError, match=r"fraud event, kind: an unknown kind\. Expected .*one of: login, payment"
        ):
            PARSER.event({"kind": kind, "id": "l1"})


def test_a_deletion_needs_two_ids_and_no_more() -> None:
    gone = PARSER.event({"id": "d1", "deletes": "p1"})
    assert (gone.id, gone.deletes, gone.kind, gone.public) == ("d1", "p1", "payment", {})
    withdrawn = PARSER.outcome({"id": "d1", "deletes": "o1"})
    assert (withdrawn.id, withdrawn.deletes, withdrawn.target) == ("d1", "o1", "")
    for parse in (PARSER.event, PARSER.outcome):
        for wrong in ({"id": "d1", "deletes": ""}, {"deletes": "p1"}, {"id": "d1", "deletes": "p1", "amount_minor": 1}):
            with pytest.raises(RequestError, match=r"^fraud (event|outcome)"):
                parse(wrong)


def test_an_outcome_is_read() -> None:
    sent = OUTCOME | {"amount_minor": 5, "currency": "JPY", "ref": "slot", "event_time": "1970-01-01T00:00:01Z"}
    expected = ParsedOutcome(
        id="o1",
        target="p1",
        kind="chargeback",
        source="issuer",
        event_time=1_000_000,
        value=1.0,
        amount_minor=5,
        currency="JPY",
        ref="slot",
    )
    assert PARSER.outcome(sent) == expected


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"kind": "chargebak"}, r"fraud outcome, kind: an unknown kind\. Expected 'chargeback' \(closest match\)"),
        (
            {"source": "decalog"},
            r"fraud outcome, source: a source that is not trusted for this kind\. Expected one of: issuer",
        ),
        ({"value": float("inf")}, r"fraud outcome, value: a value out of range"),
        ({"value": "1"}, r"fraud outcome, value: `str`\. Expected `float`"),
        (
            {"amount_minor": 5},
            r"fraud outcome, currency: an amount without a currency\. Expected an ISO 4217 code such",
        ),
        ({"amount_minor": 5, "currency": "EU"}, r"fraud outcome, currency: no ISO 4217 code"),
        ({"payment": ""}, r"fraud outcome, payment: "),
        ({"payment": "a\x7f"}, r"fraud outcome, payment: control characters"),
        ({"decision": "p1"}, r"fraud outcome: an unknown field"),
    ],
)
def test_a_wrong_outcome_is_named_with_what_is_right(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        PARSER.outcome(OUTCOME | changed)


def test_a_schema_takes_a_user_s_own_fields_under_free_names() -> None:
    wider = SCHEMA.with_fields((Field(name="velocity", kind="float", meaning="Own signal."),))
    assert SchemaParser(wider).request(GOOD | {"velocity": 0.5}).public["velocity"] == 0.5
    with pytest.raises(ConfigError, match=r"fraud schema, own fields: names that are taken: card, event_time"):
        SCHEMA.with_fields(tuple(Field(name=name, kind="int", meaning="") for name in ("event_time", "card", "fresh")))


def test_unknown_kinds_are_named_by_the_schema_too() -> None:
    assert SCHEMA.kind("login") is LOGIN
    with pytest.raises(RequestError, match="fraud event, kind"):
        SCHEMA.kind("x")
    with pytest.raises(RequestError, match="fraud outcome, kind"):
        SCHEMA.outcome("x")


# Names that matter are drawn often, so that many inputs get past the first check.
_NAMES = st.sampled_from(
    [*GOOD, *OUTCOME, "card", "note", "score", "count", "event_time", "deletes", "taken", "corrects", "ref"]
)
_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        ["p1", "EUR", "chargeback", "issuer", "login", "\ud800", "2026-03-01T12:00:00Z", "9999-12-31T23:59:59-14:00"]
    )
)
_JSON = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
_OBJECTS = st.dictionaries(_NAMES | st.text(max_size=8), _JSON, max_size=8)


def survives(parsed: Parsed | ParsedOutcome) -> None:
    """What got through the edge can be encoded: no lone surrogate, no number beyond 64 bits, nothing not finite."""
    again = msgspec.json.decode(msgspec.json.encode(parsed), type=type(parsed))
    assert again == parsed
    msgspec.msgpack.encode(parsed)


@given(_OBJECTS, st.sampled_from([{}, GOOD, OUTCOME]))
def test_any_object_is_parsed_or_refused_as_a_request(sent: dict[str, Any], base: dict[str, Any]) -> None:
    for parse in (PARSER.request, PARSER.event, PARSER.outcome):
        try:
            survives(parse({**base, **sent}))
        except RequestError as error:
            assert error.where.startswith("fraud ")  # noqa: PT017  # both outcomes are right


@given(st.binary(max_size=200) | _JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_parsed_or_refused_as_a_request(raw: bytes) -> None:
    try:
        survives(PARSER.request(raw))
    except RequestError as error:
        assert error.where.startswith("fraud ")  # noqa: PT017  # both outcomes are right


@given(st.text(alphabet=string.printable, max_size=60), st.integers(0, 60))
def test_a_request_cut_anywhere_is_refused(noise: str, at: int) -> None:
    raw = json.dumps(GOOD | {"note": "ab"}).encode()
    with pytest.raises(RequestError):
        PARSER.request(raw[: min(at, len(raw) - 1)] + noise.encode().replace(b"}", b""))
