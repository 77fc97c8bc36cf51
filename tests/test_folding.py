"""What each kind of record means to the feature views."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.fraud_log import START, FraudLog, payment

from decalog.clock import DAY
from decalog.decisions import Choice, Slot
from decalog.events import decode_event
from decalog.features.definition import Reads
from decalog.features.facts import Change, TableVersion
from decalog.folding import LAST_ROOT, changes, changes_of, decision_fact, fact, outcome_facts, point
from decalog.tables import Tables


@pytest.fixture
def log(tmp_path: Path) -> Iterator[FraudLog]:
    made = FraudLog(tmp_path)
    yield made
    made.log.close()


def changes_at(log: FraudLog, seq: int) -> tuple[Change, ...]:
    return changes_of(log.log.get(seq), None, past=log.log)


def test_an_event_adds_one_row(log: FraudLog) -> None:
    seq = log.pay("a", 1).seq
    record = log.log.get(seq)
    event = decode_event(record.body)
    (change,) = changes_at(log, seq)
    assert change == Change(seq, START + DAY, None, fact(event, seq))
    assert change.plus is not None
    assert (change.plus.kind, change.plus.root, change.plus.event_time) == ("payment", seq, START + DAY)
    assert (change.plus.entities, change.plus.attributes) == (event.entities, event.attributes)
    assert changes_of(record, event, past=log.log) == (change,)


def test_a_decision_adds_its_request_and_a_row_of_its_action(log: FraudLog) -> None:
    decision = log.decide("a", 1)
    seq = log.log.position - 1
    request, acted = changes_at(log, seq)
    assert request == Change(seq, START + DAY, None, fact(decision.request, seq))
    assert acted == Change(seq, START + DAY, None, decision_fact(decision, seq))
    assert acted.plus is not None
    assert acted.plus.kind == "decision.review"
    assert acted.plus.entities == decision.request.entities


def test_the_row_of_a_decision_names_what_really_happened(tmp_path: Path) -> None:
    log = FraudLog(tmp_path, shadow=True)
    decision = log.decide("a", 1, taken="block")
    assert decision.choice.action == "review"
    assert decision_fact(decision, 0).kind == "decision.block"
    log.log.close()


@pytest.mark.parametrize(
    ("propensity", "taken", "kinds"),
    [
        (0.02, "", ["payment", "decision.review", "drawn.review"]),
        (0.02, "block", ["payment", "decision.block"]),  # another system decided otherwise: nothing was drawn
        (1.0, "", ["payment", "decision.review"]),
        (None, "", ["payment", "decision.review"]),
    ],
)
def test_a_decision_that_was_drawn_adds_a_row_of_its_own(
    log: FraudLog, propensity: float | None, taken: str, kinds: list[str]
) -> None:
    made = log.decide("a", 1)
    seq = log.log.position - 1
    assert made.choice.action == "review"
    slots, mode = (Slot("review", propensity=propensity),), "shadow" if taken else made.mode
    decision = msgspec.structs.replace(made, choice=Choice(slots), mode=mode, taken=taken)
    found = [change.plus for change in changes_of(log.log.get(seq), decision, past=log.log)]
    assert [one.kind for one in found if one is not None] == kinds
    for one in found[1:]:
        assert one is not None
        assert (one.root, one.event_time) == (seq, START + DAY)
        assert (one.entities, one.attributes) == (made.request.entities, made.request.attributes)


def test_a_correction_withdraws_the_image_before_it_and_keeps_the_root(log: FraudLog) -> None:
    first = log.pay("a", 1).seq
    second = log.event(2, **payment("a2", 1, amount_minor=2_000, corrects="a")).seq
    third = log.event(3, **payment("a3", 1, amount_minor=3_000, corrects="a2")).seq
    images = [fact(decode_event(log.log.get(seq).body), first) for seq in (first, second, third)]
    assert changes_at(log, second) == (Change(second, START + 2 * DAY, images[0], images[1]),)
    assert changes_at(log, third) == (Change(third, START + 3 * DAY, images[1], images[2]),)


def test_a_deletion_only_withdraws_and_a_correction_after_it_revives(log: FraudLog) -> None:
    first = log.pay("a", 1).seq
    gone = log.event(2, id="a2", deletes="a").seq
    twice = log.event(3, id="a3", deletes="a").seq
    back = log.event(4, **payment("a4", 1, corrects="a")).seq
    image = fact(decode_event(log.log.get(first).body), first)
    assert changes_at(log, gone) == (Change(gone, START + 2 * DAY, image, None),)
    assert changes_at(log, twice) == (Change(twice, START + 3 * DAY, None, None),)
    (revived,) = changes_at(log, back)
    assert revived.minus is None
    assert revived.plus == fact(decode_event(log.log.get(back).body), first)


def test_a_corrected_request_keeps_the_row_of_its_decision(log: FraudLog) -> None:
    decision = log.decide("a", 1)
    seq = log.log.position - 1
    later = log.event(2, **payment("a2", 1, amount_minor=5, corrects="a")).seq
    (change,) = changes_at(log, later)
    assert change.minus == fact(decision.request, seq)
    assert change.plus is not None
    assert change.plus.attributes["amount_minor"] == 5


def test_refused_rows_and_what_no_view_reads_change_nothing(log: FraudLog) -> None:
    log.pay("a", 1)
    outcome, bad = log.report("cb", "a", 1), log.pay("bad", 1, amount_minor=-1)
    table = Tables(log.log).put("fraud", "risk", content={"5411": 0.5})
    assert changes_at(log, outcome.seq) == changes_at(log, bad.seq) == changes_at(log, table) == ()


ALL = Reads(outcomes=True, tables=None)


def read_at(log: FraudLog, seq: int) -> tuple[Change, ...]:
    return changes_of(log.log.get(seq), None, past=log.log, reads=ALL)


def test_an_outcome_is_a_row_when_it_happened_and_a_row_when_its_request_did(log: FraudLog) -> None:
    paid = log.pay("a", 1).seq
    seq = log.report("cb", "a", 9, amount_minor=700, currency="EUR").seq
    request = decode_event(log.log.get(paid).body)
    reported, labelled = read_at(log, seq)
    assert (reported.plus, labelled.plus) == outcome_facts(log.log.get(seq), log.log)
    assert reported.plus is not None
    assert labelled.plus is not None
    assert (reported.plus.kind, reported.plus.event_time, reported.plus.root) == (
        "outcome.chargeback",
        START + 9 * DAY,
        seq,
    )
    assert (labelled.plus.kind, labelled.plus.event_time) == ("labelled.chargeback", START + DAY)
    assert reported.plus.entities == labelled.plus.entities == request.entities
    assert reported.plus.attributes == {**request.attributes, "value": 1, "amount_minor": 700}


def test_an_outcome_without_its_request_is_no_row_then_or_later(log: FraudLog) -> None:
    early = log.report("early", "a", 1).seq
    log.pay("a", 2)
    log.event(3, id="a2", deletes="a")
    late = log.report("late", "a", 4).seq
    assert read_at(log, early) == read_at(log, late) == ()


def test_a_corrected_outcome_withdraws_exactly_what_it_had_added(log: FraudLog) -> None:
    log.pay("a", 1)
    first = log.report("cb", "a", 5).seq
    log.event(6, **payment("a2", 1, card="card-2", corrects="a"))  # a later image of the request changes no old row
    second = log.report("cb2", "a", 7, value=0, corrects="cb").seq
    third = log.withdraw("cb3", "cb2", 8).seq
    added = [change.plus for change in read_at(log, first)]
    corrected = read_at(log, second)
    assert [change.minus for change in corrected if change.minus] == added
    again = [change.plus for change in corrected if change.plus]
    assert [fact.attributes["value"] for fact in again] == [0, 0]
    assert again[0].entities["card"] != added[0].entities["card"]  # type: ignore[union-attr]  # there are two
    assert [change.minus for change in read_at(log, third)] == again
    assert {change.plus for change in read_at(log, third)} == {None}


def test_a_table_is_its_numbers_by_text(log: FraudLog) -> None:
    tables = Tables(log.log)
    seq = tables.put("fraud", "risk", content={"5411": 0.5, "5732": 2, "name": "text", "none": None})
    assert read_at(log, seq) == (Change(seq, START, table=TableVersion("risk", {"5411": 0.5, "5732": 2.0})),)
    listed = tables.put("fraud", "list", content=[1, 2])
    assert read_at(log, listed)[0].table == TableVersion("list", {})


def test_only_the_records_of_a_system_are_its_changes(log: FraudLog) -> None:
    log.pay("a", 1)
    log.decide("b", 2)
    records = log.records()
    assert [change.seq for change in changes(records, "fraud", past=log.log)] == [0, 1, 1]
    assert list(changes(records, "ads", past=log.log)) == []


def test_a_request_is_the_last_among_ties_at_its_own_time(log: FraudLog) -> None:
    event = log.decide("a", 1).request
    asked = point(event, 7)
    assert (asked.state_seq, asked.time, asked.root) == (7, event.event_time, -1)
    assert asked.own == fact(event, LAST_ROOT)
    assert point(event, 7, root=3).root == 3
