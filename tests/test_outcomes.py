"""Outcomes and labels: late, doubled, reordered and corrected reports end in the same label as of any moment."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decalog.clock import DAY
from decalog.errors import ConfigError
from decalog.events import Record, encode
from decalog.outcomes import LabelBook, LabelState, Outcome, decode_outcome
from decalog.schema import EventKind, Label, OutcomeKind, Schema

MATURES = 60 * DAY
SCHEMA = Schema(
    system="fraud",
    noun="payment",
    request=EventKind(name="payment", meaning="A payment.", fields=(), entities=(), subject=()),
    events=(),
    outcomes=(
        OutcomeKind(name="authentication", meaning="A step-up ended.", sources=("acs",), labels={}),
        OutcomeKind(name="warning", meaning="Says fraud.", sources=("network",), labels={1: 1}, rank=1),
        OutcomeKind(name="chargeback", meaning="Disputed.", sources=("issuer",), labels={1: 1, 0: 0}, rank=2),
        OutcomeKind(name="verdict", meaning="A person looked.", sources=("analyst",), labels={1: 1, 0: 0}, rank=3),
    ),
    actions=("review", "allow", "block", "step_up"),
    label=Label(
        name="fraud",
        meaning="A fraud.",
        maturity="60d",
        observed_after=("allow",),
        observed_by={"step_up": "authentication"},
    ),
)


def reported(seq: int, known: int, outcome: Outcome, *, root: int | None = None) -> Record:
    place = seq if root is None else root
    return Record(1, 0, seq, "outcome", "fraud", known, known, outcome.id, b"", place, "", encode(outcome))


def says(kind: str, value: float, *, target: str = "p", deleted: bool = False) -> Outcome:
    return Outcome("o", target, kind, "s", 0, value, deleted=deleted)


def book(*records: Record) -> LabelBook:
    made = LabelBook(SCHEMA)
    made.add_all(records)
    return made


def label(made: LabelBook, known_by: int, *, acted: str = "allow", target: str = "p") -> LabelState:
    return made.label(target, decided=0, acted=acted, known_by=known_by)


def test_silence_becomes_an_answer_when_it_is_mature() -> None:
    assert label(book(), MATURES - 1) == LabelState(None, MATURES, "immature")
    assert label(book(), MATURES) == LabelState(0, MATURES, "silence")


def test_silence_after_a_block_says_nothing_ever() -> None:
    assert label(book(), 10 * MATURES, acted="block") == LabelState(None, MATURES, "unobserved")


def test_silence_after_a_step_up_is_evidence_once_it_was_passed() -> None:
    passed, failed = reported(0, 5, says("authentication", 1)), reported(0, 5, says("authentication", 0))
    assert label(book(), MATURES, acted="step_up") == LabelState(None, MATURES, "unobserved")
    assert label(book(failed), MATURES, acted="step_up") == LabelState(None, MATURES, "unobserved")
    assert label(book(passed), MATURES, acted="step_up") == LabelState(0, MATURES, "silence")
    assert label(book(passed), MATURES - 1, acted="step_up") == LabelState(None, MATURES, "immature")
    assert label(book(passed), 4, acted="step_up") == LabelState(None, MATURES, "unobserved")
    assert label(book(passed), MATURES, acted="block") == LabelState(None, MATURES, "unobserved")
    withdrawn = reported(1, 6, says("authentication", 1, target="", deleted=True), root=0)
    assert label(book(passed, withdrawn), MATURES, acted="step_up") == LabelState(None, MATURES, "unobserved")


def test_silence_after_a_plain_event_is_evidence() -> None:
    assert label(book(), MATURES, acted="") == LabelState(0, MATURES, "silence")


def test_a_report_counts_from_the_moment_it_is_known() -> None:
    made = book(reported(5, 100, says("chargeback", 1)))
    assert label(made, 99).why == "immature"
    assert label(made, 100) == LabelState(1, 100, "chargeback")
    assert label(made, 100, acted="block") == LabelState(1, 100, "chargeback")


def test_the_higher_rank_decides_and_among_equals_the_later() -> None:
    made = book(
        reported(1, 10, says("verdict", 0)),
        reported(2, 20, says("chargeback", 1)),
        reported(3, 30, says("warning", 1)),
    )
    assert label(made, 40) == LabelState(0, 10, "verdict")
    assert label(book(reported(1, 10, says("chargeback", 1)), reported(2, 20, says("chargeback", 0))), 40).value == 0


def test_among_equals_the_later_event_decides_whichever_report_came_first() -> None:
    disputed = Outcome("a", "p", "chargeback", "issuer", 1, 1.0)
    won_back = Outcome("b", "p", "chargeback", "issuer", 2, 0.0)
    same_time = Outcome("c", "p", "chargeback", "issuer", 2, 1.0)
    for first, second in [(disputed, won_back), (won_back, disputed)]:
        assert label(book(reported(1, 10, first), reported(2, 20, second)), 40).value == 0
    for first, second in [(won_back, same_time), (same_time, won_back)]:
        assert label(book(reported(1, 10, first), reported(2, 20, second)), 40).value == 1


@pytest.mark.parametrize("value", [2.0, 0.5, -1.0])
def test_a_value_without_a_label_says_nothing(value: float) -> None:
    assert label(book(reported(1, 10, says("chargeback", value))), 40).why == "immature"


def test_a_correction_replaces_what_it_corrects_from_then_on() -> None:
    made = book(reported(1, 10, says("chargeback", 1)), reported(2, 50, says("chargeback", 0), root=1))
    assert label(made, 49) == LabelState(1, 10, "chargeback")
    assert label(made, 50) == LabelState(0, 50, "chargeback")


def test_a_correction_may_move_an_outcome_to_another_target() -> None:
    made = book(reported(1, 10, says("chargeback", 1)), reported(2, 50, says("chargeback", 1, target="q"), root=1))
    assert [outcome.target for _, outcome in made.outcomes("p")] == []
    assert label(made, 60).value is None
    assert label(made, 60, target="q") == LabelState(1, 50, "chargeback")
    assert label(made, 49).value == 1


def test_a_deletion_withdraws_and_a_later_correction_revives() -> None:
    gone = Outcome("o2", "", "", "", 0, 0.0, corrects="o", deleted=True)
    made = book(reported(1, 10, says("verdict", 1)), reported(2, 20, gone, root=1))
    assert label(made, 20).why == "immature"
    made.add(reported(3, 30, says("verdict", 1), root=1))
    assert label(made, 30) == LabelState(1, 30, "verdict")


def test_other_systems_kinds_and_refused_records_are_left_out() -> None:
    body = encode(says("verdict", 1))
    strangers = [
        Record(1, 0, 1, "outcome", "ads", 1, 1, "o", b"", 1, "", body),
        Record(1, 0, 2, "rejected", "fraud", 1, 1, "o", b"", 2, "", body),
        Record(1, 0, 3, "outcome", "fraud", 1, 1, "o", b"", 3, "range", body),
    ]
    assert list(book(*strangers).outcomes("p")) == []


@given(st.data())
def test_the_order_of_arrival_in_memory_does_not_matter(data: st.DataObject) -> None:
    records: list[Record] = []
    for seq in range(8):
        kind = data.draw(st.sampled_from(["warning", "chargeback", "verdict"]))
        value = data.draw(st.sampled_from([0.0, 1.0]))
        root = data.draw(st.sampled_from([seq, *(record.root for record in records)]))
        target = data.draw(st.sampled_from(["p", "q"]))
        records.append(reported(seq, seq * 10, says(kind, value, target=target), root=root))
    one, other = book(*records), book(*data.draw(st.permutations(records)))
    for known_by in range(0, 90, 5):
        assert list(one.outcomes("p", known_by)) == list(other.outcomes("p", known_by))
        assert label(one, known_by) == label(other, known_by)


def test_an_outcome_is_read_as_it_was_written() -> None:
    outcome = Outcome("o", "p", "chargeback", "issuer", 5, 1.0, 700, "EUR", "slot", "x", deleted=True)
    assert decode_outcome(encode(outcome)) == outcome


def test_a_maturity_that_is_no_duration_is_refused() -> None:
    with pytest.raises(ConfigError, match="duration: '2 months'"):
        _ = Label(name="x", meaning="", maturity="2 months", observed_after=()).maturity_us
