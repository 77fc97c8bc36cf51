"""What operators turn: tables of public values and of tokens, the policy's parameters, and who changed them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.fraud_log import FraudLog
from tests.homes import add_model, fill_home, opened, rule
from tests.own_tables import WITH_TABLES, WITHOUT_TABLES

from decalog.decisions import unpack_features
from decalog.deployment import Deployment, Setup
from decalog.errors import RequestError, UnknownRecordError
from decalog.events import Record, encode
from decalog.levers import Levers
from decalog.policy import policy_version
from decalog.serving import Service
from decalog.systems.fraud.policy import FraudCosts, FraudPolicy
from decalog.systems.fraud.system import SYSTEM
from decalog.tables import Tables
from decalog.views import follow


@pytest.fixture
def log(tmp_path: Path) -> Iterator[FraudLog]:
    made = FraudLog(tmp_path, features=WITH_TABLES)
    yield made
    made.log.close()


@pytest.fixture
def levers(log: FraudLog) -> Levers:
    return Levers(log.system, log.log)


def put(log: FraudLog, levers: Levers, name: str, content: dict[str, Any]) -> int:
    return log.service.put_table(name, dict(levers.entries(name, json.dumps(content).encode())), by="me")


def value(log: FraudLog, id_: str, name: str, **fields: Any) -> float:
    packed = log.decide(id_, 1, **fields).candidates[0].features
    return float(unpack_features(packed)[WITH_TABLES.names.index(name)])


def test_a_list_of_cards_is_read_by_token_by_the_next_request(log: FraudLog, levers: Levers) -> None:
    assert value(log, "before", "card_lists", card="seen") == -1
    put(log, levers, "card_lists", {"seen": 5, "never-seen": 2})
    found = [value(log, card, "card_lists", card=card) for card in ("seen", "never-seen", "other")]
    assert found == [5.0, 2.0, -1.0]
    put(log, levers, "card_lists", {"other": 1})
    assert [value(log, f"{card} 2", "card_lists", card=card) for card in ("seen", "other")] == [-1.0, 1.0]
    assert value(log, "none", "card_lists", card=None) == -1


def change(log: FraudLog, levers: Levers, table: str, **members: Any) -> str:
    """Changes a list's members on the running service, as the server does; returns what that was."""
    list_, entries = levers.members(table, json.dumps(members).encode())
    content, what = levers.listed(table, list_, adds=dict(entries))
    log.service.put_table(table, content, by="me", what=what)
    return what


@pytest.fixture
def lists(log: FraudLog) -> None:
    log.service.put_policy(FraudPolicy(FraudCosts(lists=("stolen", "trusted"))))


@pytest.mark.usefixtures("lists")
def test_members_of_one_list_come_and_go_and_the_others_stay(log: FraudLog, levers: Levers) -> None:
    put(log, levers, "card_lists", {"both": 3, "trusted": 2, "odd": -1, "zero": 0})
    told = change(
        log, levers, "card_lists", list="stolen", add=["new", "trusted", "odd"], remove=["both", "never paid"]
    )
    assert told == "stolen: 3 added, 1 removed"
    cards = ("both", "trusted", "odd", "zero", "new", "unknown")
    assert [value(log, card, "card_lists", card=card) for card in cards] == [2.0, 3.0, 1.0, 0.0, 1.0, -1.0]
    assert levers.table("card_lists").lists == {"stolen": 3, "trusted": 2}
    assert (
        change(log, levers, "card_lists", list="trusted", remove=["both", "trusted"]) == "trusted: 0 added, 2 removed"
    )
    assert [value(log, f"{card} 2", "card_lists", card=card) for card in cards[:2]] == [-1.0, 1.0]
    position = log.log.position
    assert change(log, levers, "card_lists", list="stolen", add=["new"]) == "stolen: 0 added, 0 removed"
    assert log.log.position == position
    assert [made.what for made in levers.changes()] == ["", told, "trusted: 0 added, 2 removed"]
    assert b"never paid" not in b"".join(map(encode, [*log.records(), *levers.changes()]))


@pytest.mark.usefixtures("lists")
def test_public_values_are_listed_as_they_are(log: FraudLog, levers: Levers) -> None:
    change(log, levers, "merchant_lists", list="trusted", add=["Café Zürich"])
    assert levers.table("merchant_lists").numbers == {"Café Zürich": 2.0}
    assert levers.table("merchant_lists").lists == {"stolen": 0, "trusted": 1}
    assert value(log, "a", "merchant_lists", merchant="Café Zürich") == 2.0


@pytest.mark.usefixtures("lists")
@pytest.mark.parametrize(
    ("table", "body", "message"),
    [
        ("card_list", {"list": "stolen", "add": ["a"]}, r"a table that no feature looks up\. Expected 'card_lists'"),
        (
            "mcc_risk",
            {"list": "stolen", "add": ["a"]},
            r"a list that does not stand in it\. Expected a table that holds",
        ),
        ("card_lists", {"list": "stole", "add": ["a"]}, r"stand in it\. Expected 'stolen' \(closest match\)"),
        ("card_lists", {"list": "stolen"}, r"fraud table card_lists: what is no change of a list's members\. Expected"),
        ("card_lists", {"list": "stolen", "add": ["secret", "secret"]}, "once each, of 1 to 128 characters"),
        ("card_lists", {"list": "stolen", "add": ["secret"], "remove": ["secret"]}, "what is no change"),
        ("card_lists", {"list": "stolen", "add": [""]}, "what is no change"),
        ("card_lists", {"list": "stolen", "add": ["secret" * 30]}, "the list is as it was"),
        ("card_lists", {"list": "stolen", "add": "secret"}, "what is no change"),
        ("card_lists", {"list": "stolen", "secret": ["a"]}, "what is no change"),
        ("card_lists", ["secret"], "what is no change"),
    ],
)
def test_a_change_of_members_that_does_not_fit_is_refused_whole(
    log: FraudLog, levers: Levers, *, table: str, body: object, message: str
) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        levers.members(table, json.dumps(body).encode())
    assert "secret" not in str(caught.value)
    assert log.log.position == 1
    assert not list(log.log.vault.tokens())  # type: ignore[attr-defined]  # the vault of a home


@pytest.mark.usefixtures("lists")
def test_a_list_that_members_are_added_to_is_bounded(
    log: FraudLog, levers: Levers, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(log, levers, "card_lists", {"a": 1, "b": 1, "c": 1})
    monkeypatch.setattr("decalog.levers.MOST_MEMBERS", 2)
    with pytest.raises(
        RequestError, match=r"table card_lists: 4 entries\. Expected at most 2, where members are added"
    ):
        change(log, levers, "card_lists", list="stolen", add=["d"])
    assert change(log, levers, "card_lists", list="stolen", add=["d"], remove=["a"]) == "stolen: 1 added, 1 removed"


def test_the_values_of_a_list_are_not_in_the_log_and_never_told(log: FraudLog, levers: Levers) -> None:
    put(log, levers, "card_lists", {"card-of-mine": 5, "card-of-yours": 5, "third": 1.5})
    put(log, levers, "mcc_risk", {"5411": 0.25})
    told = encode(levers.table("card_lists")) + b"".join(map(encode, [*levers.tables(), *levers.changes()]))
    for text in (told, b"".join(map(encode, log.records()))):
        assert b"of-mine" not in text
        assert b"mcc_risk" in text
    state = levers.table("card_lists")
    assert (state.numbers, state.counts, state.entries, state.key) == (msgspec.UNSET, {"5": 2, "1.5": 1}, 3, "card")


def test_a_table_of_public_values_is_told_as_it_stood_at_a_record(log: FraudLog, levers: Levers) -> None:
    first, second = (put(log, levers, "mcc_risk", {"5411": number}) for number in (0.25, 1))
    assert [levers.table("mcc_risk", seq).numbers for seq in (first, second - 1, second, None)] == [
        {"5411": 0.25},
        {"5411": 0.25},
        {"5411": 1.0},
        {"5411": 1.0},
    ]
    states = [(state.table, state.seq, state.entries) for state in levers.tables()]
    assert (states[0], states[-1]) == (("card_lists", -1, 0), ("mcc_risk", second, 1))


def test_the_same_again_appends_nothing_and_every_change_names_who_made_it(log: FraudLog, levers: Levers) -> None:
    seqs = [put(log, levers, "card_lists", {"a": 1, "b": 2}), put(log, levers, "card_lists", {"b": 2, "a": 1})]
    assert (seqs, log.log.position) == ([0, 0], 2)
    other = log.service.put_policy(FraudPolicy(FraudCosts(goodwill_minor=7)), by="you")
    changes = [(change.table, change.seq, change.by) for change in levers.changes()]
    assert changes == [("card_lists", 0, "me"), ("policy", other, "you")]
    assert levers.changes()[1].version == policy_version(FraudCosts(goodwill_minor=7))


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        (
            "card_list",
            b"{}",
            r"fraud table: a table that no feature looks up\. Expected 'card_lists' \(closest match\)",
        ),
        ("mcc_risk", b"[1]", r"fraud table mcc_risk: what is no JSON object in UTF-8\. Expected one object"),
        ("mcc_risk", b'{"a": 1', "what is no JSON object"),
        (
            "mcc_risk",
            b'{"a": "1", "b": 2, "c": null, "d": true}',
            r"3 of 4 entries that do not fit, the first is entry 1",
        ),
        ("mcc_risk", b'{"": 1}', "1 of 1 entries that do not fit"),
        ("mcc_risk", b'{"a": 1e19, "b": 9223372036854775808}', "2 of 2 entries that do not fit"),
        (
            "card_lists",
            json.dumps({"ok": 1, "secret" * 30: 1}).encode(),
            "first is entry 2.*keys of 1 to 128 characters",
        ),
    ],
)
def test_a_table_that_does_not_fit_is_refused_whole(
    log: FraudLog, levers: Levers, *, name: str, raw: bytes, message: str
) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        levers.entries(name, raw)
    assert "secret" not in str(caught.value)
    assert isinstance(caught.value, UnknownRecordError) is (name == "card_list")
    assert log.log.position == 0
    assert not list(log.log.vault.tokens())  # type: ignore[attr-defined]  # the vault of a home


def test_a_system_without_lookups_says_so(tmp_path: Path) -> None:
    log = FraudLog(tmp_path, features=WITHOUT_TABLES.features)
    levers = Levers(log.system, log.log)
    with pytest.raises(UnknownRecordError, match="Expected a Lookup among the features"):
        levers.table("lists")
    assert levers.tables() == []
    log.log.close()


@pytest.mark.parametrize(
    ("raw", "problems"),
    [
        (b"[]", ["fraud policy: what is no JSON object"]),
        (
            b'{"margin_bp": -1, "goodwill": 5, "review_minutes": "4", "goodwill_minor": 3}',
            [
                "1 unknown parameters, expected for the first 'goodwill_minor' (closest match)",
                "margin_bp: Expected `int` >= 0",
                "review_minutes: Expected `int`, got `str`",
                "parameters of FraudCosts",
                "the policy of before stays in force",
            ],
        ),
    ],
)
def test_parameters_that_do_not_fit_are_all_named(levers: Levers, raw: bytes, problems: list[str]) -> None:
    with pytest.raises(RequestError) as caught:
        levers.read_policy(raw)
    assert all(problem in str(caught.value) for problem in problems), str(caught.value)


class Narrow(msgspec.Struct, frozen=True):
    """Parameters of which one has no default."""

    least: int
    most: int = 5


class Picky(FraudPolicy):
    """A policy that looks at its parameters together."""

    def __init__(self, params: Any) -> None:
        if params.least > params.most:
            msg = "least is above most"
            raise ValueError(msg)


def test_a_policy_may_refuse_parameters_that_fit_one_by_one(log: FraudLog) -> None:
    system = msgspec.structs.replace(SYSTEM, policy_params=Narrow, policy=Picky)
    levers = Levers(system, log.log)
    assert isinstance(levers.read_policy(b'{"least": 5}'), Picky)
    with pytest.raises(RequestError, match="fraud policy: least is above most"):
        levers.read_policy(b'{"least": 6}')
    with pytest.raises(RequestError, match="fraud policy: no least"):
        levers.read_policy(b"{}")
    dear = msgspec.structs.replace(SYSTEM, policy=lambda _params: FraudPolicy(FraudCosts(goodwill_minor=-1)))
    with pytest.raises(RequestError, match="fraud policy: goodwill_minor: Expected"):
        Levers(dear, log.log).read_policy(b"{}")


def test_the_policy_of_a_new_log_is_the_systems_own(levers: Levers, log: FraudLog) -> None:
    told = levers.policy()
    assert (told.version, told.seq, told.content) == ("", -1, msgspec.to_builtins(FraudCosts()))
    seq = log.service.put_policy(levers.read_policy(b'{"goodwill_minor": 9}'), by="me")
    told = levers.policy()
    assert (told.seq, told.content["goodwill_minor"], told.content["margin_bp"]) == (seq, 9, 800)


def ask(service: Service, id_: str) -> tuple[str, str]:
    made = service.decide({"id": id_, "amount_minor": 40_000, "currency": "EUR", "card": id_})[1]
    return made.choice.action, made.versions.policy


def test_a_running_service_decides_by_the_new_policy_and_both_replay(tmp_path: Path) -> None:
    home = fill_home(tmp_path, champion=False)
    add_model(tmp_path, rule(limit=9_000.0))
    with opened(home, Setup(policy=FraudCosts(step_up_fee_minor=0))) as (deployment, _):
        service = deployment.service()
        levers = Levers(deployment.system, deployment.log)
        before = ask(service, "before")
        service.put_policy(levers.read_policy(b'{"step_up_fee_minor": 100000, "reviews_per_day": 0}'), by="me")
        after = ask(service, "after")
        assert before[0] != after[0]
        assert before[1] != after[1] == levers.policy().version
        # A promotion brings its model and keeps the policy, whatever the server was started with.
        add_model(tmp_path, rule(limit=8_999.0))
        assert deployment.refresh(service)
        assert ask(service, "later") == after
        deployment.log.commit()
        found = deployment.replayer().range()
        assert (found.replayed, found.identical) == (3, 3)
    with opened(home) as (deployment, _):
        assert ask(deployment.service(), "after a restart") == after
        assert [change.by for change in deployment.tables.changes("fraud")] == ["the settings of a start", "me"]


def test_decisions_around_a_change_of_a_list_replay(tmp_path: Path) -> None:
    home = fill_home(tmp_path, champion=False)
    system = msgspec.structs.replace(SYSTEM, features=WITH_TABLES)
    with opened(home) as (plain, _):
        deployment = Deployment(home, system, plain.log)
        service = deployment.service()
        levers = Levers(system, plain.log)
        for number in range(3):
            service.put_table("card_lists", dict(levers.entries("card_lists", b'{"c%d": 3}' % number)), by="me")
            for card in ("c0", "c1"):
                service.decide({"id": f"{card} {number}", "amount_minor": 9, "currency": "EUR", "card": card})
        plain.log.commit()
        found = deployment.replayer().range()
        assert (found.replayed, found.identical) == (6, 6)
        restored = follow(deployment.begin(), deployment.log).state
        assert restored._tables["card_lists"] == service.state._tables["card_lists"]


def test_an_audit_entry_stands_right_behind_what_it_is_about(log: FraudLog) -> None:
    Tables(log.log).put("fraud", "mcc_risk", content={"a": 1}, by="me")
    records: list[Record] = log.records()
    assert [(record.kind, record.id) for record in records] == [("table", "mcc_risk"), ("table", "changes")]
    Tables(log.log).put("fraud", "mcc_risk", content={"a": 2})
    assert len(log.records()) == 3
