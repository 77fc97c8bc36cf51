"""Admission: tokens and envelopes, base amounts, retries, corrections, quarantine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.fraud_log import START, FraudLog, payment

from decalog.clock import DAY, rfc3339
from decalog.crypto import unseal
from decalog.decisions import Slot, decode_decision
from decalog.errors import ConflictError, RequestError
from decalog.events import Record, decode_event
from decalog.features.online import OnlineState
from decalog.folding import changes
from decalog.ingest import QUARANTINE_BYTES, Rates, Rejected, reason_code, request_of
from decalog.log import FUTURE_TOLERANCE_US
from decalog.outcomes import decode_outcome
from decalog.systems.fraud.system import SYSTEM


@pytest.fixture
def log(tmp_path: Path) -> Iterator[FraudLog]:
    made = FraudLog(tmp_path)
    yield made
    made.log.close()


def record_of(log: FraudLog, seq: int) -> Record:
    return log.log.get(seq)


def rejected(log: FraudLog, raw: Any) -> Rejected:
    """Returns what quarantine holds of a row that must be refused."""
    result = log.ingest.admit("event", raw)
    assert result.status == "rejected"
    return msgspec.msgpack.decode(record_of(log, result.seq).body, type=Rejected)


# Tokens and envelopes


def test_an_entity_is_the_same_random_token_whenever_it_comes(log: FraudLog) -> None:
    first, second, other = (
        decode_event(record_of(log, log.pay(name, day, card=card).seq).body)
        for name, day, card in (("a", 0, "card-1"), ("b", 1, "card-1"), ("c", 2, "card-2"))
    )
    assert first.entities["card"] == second.entities["card"] == log.log.vault.token("card", "card-1")
    assert first.entities["card"] != other.entities["card"]
    assert len({*first.entities.values()}) == len(first.entities) == 3
    assert all(0 < token < 2**63 for token in first.entities.values())


def test_personal_values_lie_in_the_envelope_of_the_first_subject_present_and_nowhere_else(log: FraudLog) -> None:
    row = log.pay("a", 0, customer="cust-1", cardholder="Ada Lovelace", merchant="shop-1", email="ada@example.org")
    record = record_of(log, row.seq)
    event = decode_event(record.body)
    assert event.subject == event.entities["customer"]
    assert event.attributes["merchant"] == "shop-1"
    cipher = log.log.vault.cipher(event.subject)
    assert cipher is not None
    assert unseal(cipher, event.sealed, bound_to="a") == {
        "cardholder": "Ada Lovelace",
        "customer": "cust-1",
        "email": "ada@example.org",
        "card": "card-1",
        "device": "device-1",
        "ip": "192.0.2.1",
    }
    for value in (b"Lovelace", b"cust-1", b"ada@", b"card-1", b"device-1", b"192.0.2.1"):
        assert value not in msgspec.msgpack.encode(record)


def test_a_payment_without_a_person_gets_a_subject_of_its_own(log: FraudLog) -> None:
    bare = {"card": None, "device": None, "ip": None, "cardholder": "Ada"}
    first, second = (decode_event(record_of(log, log.pay(name, 0, **bare).seq).body) for name in "ab")
    assert first.entities == second.entities == {}
    assert first.subject != second.subject
    assert first.sealed


def test_an_amount_is_kept_as_sent_and_in_the_base_currency(log: FraudLog) -> None:
    event = decode_event(record_of(log, log.pay("a", 0, amount_minor=1_001, currency="USD").seq).body)
    assert (event.attributes["amount_minor"], event.attributes["currency"]) == (1_001, "USD")
    assert event.attributes["amount_base_minor"] == 901


def test_a_currency_without_a_rate_is_refused_with_those_that_have_one(log: FraudLog) -> None:
    result = log.pay("a", 0, currency="JPY")
    assert result.reason == "currency"
    assert result.message == (
        "fraud payment, currency: JPY, for which there is no rate to EUR. Expected one of: EUR, USD. "
        "Add the rate: `decalog serve --rates rates.toml`, or [rates] in the mapping."
    )


def test_an_amount_beyond_the_bound_in_the_base_currency_is_refused_alone(log: FraudLog) -> None:
    """In the log it would be left out of every sum in silence; beyond int64 it would end its whole batch."""
    for rate in ("1.1", "999999999999"):
        log.ingest.rates = Rates("EUR", {"GBP": rate})
        result = log.pay(f"at {rate}", 0, currency="GBP", amount_minor=10**12)
        assert result.status == "rejected"
        assert result.message == (
            "fraud payment, amount: an amount of more than 1000000000000 minor units of EUR. Expected an amount within "
            "that bound in the base currency as well. Check the amount, and the rate of its currency."
        )
    assert log.pay("b", 0).status == "accepted"


def test_rates_default_to_the_euro_alone() -> None:
    assert Rates() == Rates("EUR", {})


# Times


def test_an_event_without_a_time_happened_when_it_arrived(log: FraudLog) -> None:
    record = record_of(log, log.pay("a", 3, event_time=None).seq)
    assert record.event_time == record.known_time == START + 3 * DAY


@pytest.mark.parametrize("kind", ["event", "outcome"])
def test_a_time_may_lie_as_far_ahead_as_clocks_differ_and_no_further(log: FraudLog, kind: str) -> None:
    def send(name: str, event_time: int) -> tuple[str, str, str]:
        text = rfc3339(event_time)
        row = log.report(name, "p", 0, event_time=text) if kind == "outcome" else log.pay(name, 0, event_time=text)
        return row.status, row.reason, row.message

    assert send("a", START + FUTURE_TOLERANCE_US)[0] == "accepted"
    status, reason, message = send("b", START + FUTURE_TOLERANCE_US + 1)
    assert (status, reason) == ("rejected", "event_time")
    assert message == (
        f"fraud {'outcome' if kind == 'outcome' else 'payment'}, event_time: a time in the future, or before 1970. "
        "Expected at most 5 minutes ahead of the log. Check the clock and the time zone of the sender."
    )
    assert send("c", -1)[1] == "event_time"


def test_the_future_is_counted_from_the_log_even_when_its_clock_jumps_back(log: FraudLog) -> None:
    log.pay("a", 1)
    log.clock.set(START)
    row = log.ingest.event(payment("b", 1))
    assert row.status == "accepted"
    assert record_of(log, row.seq).known_time == START + DAY


# Retries and conflicts


def test_a_retry_is_told_from_a_conflict_by_its_body(log: FraudLog) -> None:
    first = log.pay("a", 0)
    assert log.pay("a", 0) == msgspec.structs.replace(first, status="duplicate")
    position = log.log.position
    conflict = log.ingest.event(payment("a", 0, amount_minor=1))
    assert (conflict.status, conflict.reason, conflict.seq) == ("rejected", "conflict", position)
    assert conflict.message == (
        "fraud request, id: an id that was logged before with another body. Expected a new id, or the very same body "
        "for a retry. To change what was logged, send a new id with `corrects` naming the old one."
    )
    mark = log.ingest.body_digest(log.ingest.parser.request(payment("a", 0, amount_minor=1)))
    with pytest.raises(ConflictError, match="an id that was logged before with another body"):
        log.ingest.logged("request", "a", mark=mark)
    assert log.ingest.logged("request", "never", mark=mark) is None


def test_a_retry_is_known_after_a_restart(log: FraudLog, tmp_path: Path) -> None:
    row, outcome = log.pay("a", 0), log.report("cb", "a", 0)
    log.log.commit()
    log.log.close()
    again = FraudLog(tmp_path)
    assert (again.pay("a", 0).status, again.pay("a", 0).seq) == ("duplicate", row.seq)
    assert (again.report("cb", "a", 0).status, again.report("cb", "a", 0).seq) == ("duplicate", outcome.seq)
    again.log.close()


def test_ids_of_events_and_outcomes_lie_in_two_spaces(log: FraudLog) -> None:
    assert log.pay("a", 0).status == log.report("a", "a", 1).status == "accepted"
    conflict = log.report("a", "a", 1, value=0)
    assert conflict.reason == "conflict"
    assert conflict.message.startswith("fraud outcome, id: an id that was logged before with another body.")


# Corrections and deletions


def test_corrections_of_corrections_share_the_root_of_the_first(log: FraudLog) -> None:
    first = log.pay("a", 0)
    second = log.event(1, **payment("a2", 0, amount_minor=2_000, corrects="a"))
    third = log.event(2, **payment("a3", 0, amount_minor=3_000, corrects="a2"))
    gone = log.event(3, id="a4", deletes="a3")
    again = log.event(4, **payment("a5", 0, amount_minor=5_000, corrects="a"))
    roots = [record_of(log, row.seq).root for row in (first, second, third, gone, again)]
    assert roots == [first.seq] * 5
    deletion = decode_event(record_of(log, gone.seq).body)
    assert deletion.deleted
    assert (deletion.corrects, deletion.attributes, deletion.entities, deletion.sealed) == ("a3", {}, {}, b"")
    assert deletion.event_time == START


@pytest.mark.parametrize("word", ["corrects", "deletes"])
@pytest.mark.parametrize("kind", ["event", "outcome"])
def test_correcting_or_deleting_what_is_not_there_is_refused(log: FraudLog, kind: str, word: str) -> None:
    if word == "deletes":
        row = log.ingest.admit("outcome" if kind == "outcome" else "event", {"id": "x", "deletes": "never"})
    else:
        row = log.report("x", "p", 0, corrects="never") if kind == "outcome" else log.pay("x", 0, corrects="never")
    assert (row.status, row.reason) == ("rejected", "corrects")
    assert row.message == (
        f"fraud {kind}, corrects: an id that is not in the log. Expected the id of what is to be corrected or deleted. "
        "Send the original first, or leave `corrects` out."
    )


def test_outcomes_are_corrected_and_withdrawn_like_events(log: FraudLog) -> None:
    first = log.report("cb", "p", 1)
    second = log.report("cb2", "p", 2, value=0, corrects="cb")
    gone = log.withdraw("cb3", "cb2", 3)
    assert [record_of(log, row.seq).root for row in (first, second, gone)] == [first.seq] * 3
    withdrawal = decode_outcome(record_of(log, gone.seq).body)
    assert (withdrawal.deleted, withdrawal.corrects, withdrawal.target) == (True, "cb2", "")


def test_an_outcome_may_come_before_its_payment_and_is_found_by_it(log: FraudLog) -> None:
    early = log.report("cb", "later", 1)
    assert early.status == "accepted"
    assert log.log.find("target", "fraud/later") == [early.seq]
    assert log.pay("later", 2).status == "accepted"


# Another system's decisions


def test_a_payment_with_the_action_taken_becomes_a_decision_of_unknown_propensity(log: FraudLog) -> None:
    row = log.pay("a", 0, taken="block")
    record = record_of(log, row.seq)
    assert record.kind == "decision"
    decision = decode_decision(record.body)
    assert (decision.mode, decision.taken, decision.acted) == ("imported", "block", "block")
    assert decision.choice.slots == (Slot("block", propensity=None),)
    assert (decision.candidates, decision.versions.model) == ((), "external")
    assert request_of(record) == decision.request
    assert log.pay("a", 0, taken="block").status == "duplicate"


def same_as_refolded(log: FraudLog) -> None:
    """Checks that the live views are what a restart would fold, by going on from both."""
    log.log.commit()
    state = OnlineState(SYSTEM.features)
    state.apply_many(changes(log.log.read(), "fraud", past=log.log))
    assert state.stats().rows == log.service.state.stats().rows


def test_a_correction_that_repeats_the_action_is_an_event_and_not_a_second_decision(log: FraudLog) -> None:
    log.pay("a", 0, taken="allow")
    row = log.event(1, **payment("a2", 0, taken="allow", amount_minor=7, corrects="a"))
    assert record_of(log, row.seq).kind == "event"
    same_as_refolded(log)


def test_a_correction_cannot_change_what_was_done(log: FraudLog) -> None:
    log.pay("a", 0, taken="allow")
    log.pay("b", 0)
    for target in "ab":
        row = log.event(1, **payment(f"{target}2", 0, taken="block", corrects=target))
        assert (row.status, row.reason) == ("rejected", "taken")
        assert row.message == (
            "fraud event, taken: a correction with another action than the one that was logged as taken. Expected the "
            "same action, or none: what was done stays done. Leave `taken` out of the correction."
        )
    same_as_refolded(log)


# Quarantine


def test_a_bad_row_is_kept_sealed_once_and_its_neighbours_are_taken(log: FraudLog) -> None:
    bad = payment("bad", 0, amount_minor=-1, cardholder="Ada Lovelace")
    rows = [log.ingest.admit("event", row) for row in (payment("a", 0), bad, payment("b", 0), bad)]
    assert [row.status for row in rows] == ["accepted", "rejected", "accepted", "rejected"]
    assert rows[1] == rows[3]
    assert (rows[1].id, rows[1].reason) == ("bad", "amount_minor")
    record = record_of(log, rows[1].seq)
    assert (record.kind, record.reason) == ("rejected", "amount_minor")
    kept = msgspec.msgpack.decode(record.body, type=Rejected)
    assert (kept.meant, kept.message) == ("event", rows[1].message)
    assert b"Lovelace" not in record.body
    cipher = log.log.vault.cipher(kept.subject)
    assert cipher is not None
    row_sent = unseal(cipher, kept.sealed, bound_to=record.id)["row"]
    assert msgspec.json.decode(str(row_sent)) == bad


def test_erasing_a_person_would_reach_their_refused_rows(log: FraudLog) -> None:
    kept = rejected(log, payment("bad", 0, amount_minor=-1))
    assert kept.subject == log.log.vault.token("card", "card-1")


def test_an_id_of_a_refused_row_may_be_used_again(log: FraudLog) -> None:
    assert log.pay("a", 0, amount_minor=-1).status == "rejected"
    assert log.pay("a", 0).status == "accepted"


@pytest.mark.parametrize("row", ["{broken", 7, None, ["a"], True])
def test_a_row_that_is_no_object_is_kept_too(log: FraudLog, row: object) -> None:
    result = log.ingest.admit("outcome", row)
    assert (result.id, result.status, result.reason) == ("", "rejected", "malformed")
    assert result.message == "fraud outcome: a row that is no JSON object. Expected an object. Send one {…} a row."


@pytest.mark.parametrize(
    "row",
    [
        {"id": "x" * 100_000},
        {"id": 10**40, "amount_minor": 10**40},
        {"id": {"a": [1, {"b": None}]}},
        {"id": "a", "amount_minor": float("nan"), "currency": "EUR"},
        {"id": "🦊" * 200, "card": "🦊" * 400},
        {"id": "a", "card": 7, "customer": ""},
        {1: "a key that is no text"},
        {"id": "a", "kind": 7},
        {"id": "a", "kind": "refund"},
    ],
)
def test_no_row_whatever_it_holds_raises(log: FraudLog, row: Any) -> None:
    kept = rejected(log, row)
    assert kept.message
    assert len(kept.sealed) <= QUARANTINE_BYTES + 100
    assert log.ingest.admit("outcome", row).status == "rejected"


@pytest.mark.parametrize("kind", ["event", "outcome"])
@pytest.mark.parametrize(
    "row",
    [
        {"id": "\ud800"},
        {"id": "a", "card": "\ud800"},
        {"id": "a", "kind": "\ud800"},
        {"id": "a", "deletes": "\ud800"},
        {"id": "\ud800", "deletes": "a"},
        payment("a", 0, card="\ud800"),
        payment("a", 0, corrects="\ud800"),
    ],
)
def test_half_a_character_is_refused_and_kept(log: FraudLog, kind: Any, row: Any) -> None:
    """A user's own program can hold it: a file read with surrogateescape, an emoji that was cut in two."""
    result = log.ingest.admit(kind, row)
    assert result.status == "rejected"
    kept = msgspec.msgpack.decode(record_of(log, result.seq).body, type=Rejected)
    cipher = log.log.vault.cipher(kept.subject)
    assert cipher is not None
    assert "\\ud800" in str(unseal(cipher, kept.sealed, bound_to=record_of(log, result.seq).id)["row"])


@pytest.mark.parametrize(
    ("where", "given", "code"),
    [
        ("fraud payment, currency", "x", "currency"),
        ("fraud payment", "no id", "missing_id"),
        ("fraud payment", "a body that is not JSON in UTF-8", "malformed"),
    ],
)
def test_reasons_are_short_enough_to_count_by(where: str, given: str, code: str) -> None:
    assert reason_code(RequestError(where=where, given=given, expected="y", fix="z")) == code


def test_a_missing_field_is_counted_by_its_name(log: FraudLog) -> None:
    row = log.pay("a", 0, amount_minor=None)
    assert row.reason == "missing_amount_minor"
