"""Decisions with several candidates: retrieved, featured, scored by several heads, logged, replayed, learnt from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.slate_log import FEATURES, HEADS, SYSTEM, Clicks, Shelf, SlateLog, posts

from decalog.candidates import Candidate
from decalog.clock import HOUR
from decalog.decisions import Decision, decode_decision, unpack_features
from decalog.deployment import admission
from decalog.errors import RequestError
from decalog.events import Event
from decalog.features.definition import SHOWN
from decalog.features.facts import Point
from decalog.features.online import OnlineState
from decalog.features.plan import Plan
from decalog.folding import changes, changes_of, point
from decalog.impressions import ImpressionHistory
from decalog.ingest import Rates
from decalog.judging import KEPT
from decalog.parity import Parity
from decalog.replay import Replayer
from decalog.serving import reply


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SlateLog]:
    made = SlateLog(tmp_path, model=Clicks())
    yield made
    made.log.close()


def feature(decision: Decision, ref: str, name: str) -> float:
    candidate = next(c for c in decision.candidates if c.ref == ref)
    return float(unpack_features(candidate.features)[FEATURES.names.index(name)])


def replayer(log: SlateLog) -> Replayer:
    log.log.commit()
    return Replayer(
        log.log,
        "feed",
        serving_for=lambda _decision: (SYSTEM, log.serving),
        draw_secret=log.log.vault.secret("draws"),
        notes_for=lambda _decision: (),
    )


# What a slate is


def test_what_no_feature_reads_of_a_thing_that_was_shown_changes_no_row(log: SlateLog) -> None:
    posts(log, 4)
    decision = log.ask(5, size=2)
    record, plan, reads = log.log.get(log.log.position - 1), Plan(FEATURES), FEATURES.reads
    everything = msgspec.structs.replace(reads, shown=None)
    told, all_told = (
        [one.plus for one in changes_of(record, decision, past=log.log, reads=each) if one.plus is not None]
        for each in (reads, everything)
    )
    assert len(told) == len(all_told) == 4
    shown = [(one, whole) for one, whole in zip(told, all_told, strict=True) if one.kind == SHOWN]
    assert [plan.row(one) for one, _ in shown] == [plan.row(whole) for _, whole in shown]
    assert all(one.entities == whole.entities for one, whole in shown)
    assert all(one.attributes.keys() < whole.attributes.keys() for one, whole in shown)


def test_a_slate_holds_every_candidate_with_its_predictions_and_what_was_ruled_out(log: SlateLog) -> None:
    posts(log, 6)
    log.add("block", 6, user="ada", author="a1")
    decision = log.ask(7, size=3)
    by_ref = {c.ref: c for c in decision.candidates}
    assert [ref for ref, c in by_ref.items() if c.dropped] == ["p4", "p1"]
    assert {c.dropped for c in decision.candidates} == {"", "blocked"}
    competing = [c for c in decision.candidates if not c.dropped]
    assert [c.ref for c in competing] == ["p5", "p3", "p2", "p0"]
    assert all(tuple(c.predictions) == HEADS for c in competing)
    assert by_ref["p5"].predictions["p_click"] == pytest.approx(1 / 4)
    assert (decision.choice.action, decision.acted, decision.mode) == ("show", "show", "live")
    assert decision.choice.slots[0].ref == "p5"
    assert [slot.propensity for slot in decision.choice.slots] == [1.0, 0.5, 1.0]
    assert decision.lead == by_ref["p5"]
    assert decision.stages_us["towers late"] == 9
    assert all(not c.features and not c.predictions for c in decision.candidates if c.dropped)


def test_each_candidate_has_features_of_its_own(log: SlateLog) -> None:
    posts(log, 4)
    first = log.ask(5, size=2)
    assert [feature(first, ref, "user_shown") for ref in ("p3", "p2")] == [0, 0]
    assert feature(first, "p3", "age_s") == 2 * 3_600
    assert feature(first, "p3", "size") == 2
    shown = [slot.ref for slot in first.choice.slots]
    log.said("click", 5.1, first.request.id, ref=shown[0])
    second = log.ask(6, size=2)
    assert feature(second, "p0", "user_shown") == 2
    assert [feature(second, ref, "post_shown") for ref in shown] == [1, 1]
    assert feature(second, "p0", "post_shown") == 0
    assert feature(second, "p0", "user_author_shown") == 1, "p3 is by the same author"
    assert feature(second, shown[0], "post_outcome_click") == 1
    assert feature(second, shown[1], "post_outcome_click") == 0
    assert feature(second, "p0", "user_author_outcome_click") == (shown[0] == "p3")
    assert feature(second, "p0", "user_feed_request") == 2, "the request itself is one"


def test_the_features_of_twenty_candidates_are_logged_the_chosen_ones_first(log: SlateLog) -> None:
    posts(log, 30)
    decision = log.ask(31, size=4)
    kept = {c.ref for c in decision.candidates if c.features}
    assert len(kept) == KEPT
    assert {slot.ref for slot in decision.choice.slots} <= kept
    assert all(c.predictions for c in decision.candidates)


def test_the_reply_is_the_slate_in_order(log: SlateLog) -> None:
    posts(log, 3)
    decision = log.ask(4, size=2)
    record = log.log.get(log.log.position - 1)
    told = reply(record, decision, noun="feed_request")
    assert told["action"] == "show"
    assert [slot["ref"] for slot in told["slots"]] == [slot.ref for slot in decision.choice.slots]
    assert told["slots"][0] == {
        "ref": "p2",
        "position": 0,
        "propensity": 1.0,
        "source": "shelf",
        "predictions": decision.candidates[0].predictions,
    }
    msgspec.json.encode(told)


def test_a_retrieval_that_raises_or_finds_nothing_is_a_recorded_fallback(log: SlateLog) -> None:
    empty = log.ask(0)
    assert (empty.mode, empty.fallback, empty.choice.slots) == ("fallback", "no_candidates", ())
    posts(log, 2)
    log.shelf.error = RuntimeError("lost")
    failed = log.ask(3)
    assert (failed.mode, failed.fallback, failed.candidates) == ("fallback", "retrieval_error", ())
    assert (failed.lead, failed.propensity) == (None, 1.0)
    assert replayer(log).range().text() == "2/2 identical"


def test_without_a_model_the_candidates_are_there_and_the_fallback_chooses(tmp_path: Path) -> None:
    log = SlateLog(tmp_path)
    posts(log, 3)
    decision = log.ask(4)
    assert (decision.fallback, [slot.ref for slot in decision.choice.slots]) == ("no_model", ["p2", "p1"])
    assert log.shelf.adopted == [None]
    log.log.close()


def test_the_retrieval_follows_what_is_admitted_and_gets_each_model_once(log: SlateLog) -> None:
    posts(log, 2)
    decision = log.ask(3)
    log.said("click", 3.1, decision.request.id, ref="p1")
    log.service.put_table("some", {"a": 1})
    assert log.shelf.followed == ["event", "event", "decision", "outcome"]
    assert len(log.shelf.adopted) == 1
    log.service.adopt(log.serving)
    assert len(log.shelf.adopted) == 1
    log.service.adopt(msgspec.structs.replace(log.serving, model=Clicks()))
    assert len(log.shelf.adopted) == 2


def test_a_withdrawn_post_is_no_candidate_from_the_next_request_on(log: SlateLog) -> None:
    posts(log, 2)
    first = log.add("post", 2, post="p9", author="a", topic="t")
    assert log.ask(3).candidates[0].ref == "p9"
    assert log.ingest.event({"id": "gone", "kind": "post", "deletes": first.id}).status == "accepted"
    assert "p9" not in {c.ref for c in log.ask(4).candidates}


# Slates of another system


def test_an_imported_slate_shows_what_another_system_showed(log: SlateLog) -> None:
    posts(log, 3)
    result = log.add("feed_request", 4, user="ada", taken="show", slots=["p2", "p0", "unknown"])
    assert result.status == "accepted"
    decision = decode_decision(log.log.get(result.seq).body)
    assert (decision.mode, decision.acted, decision.taken) == ("imported", "show", "show")
    assert [(slot.ref, slot.propensity) for slot in decision.choice.slots] == [
        ("p2", None),
        ("p0", None),
        ("unknown", None),
    ]
    assert [bool(c.entities) for c in decision.candidates] == [True, True, False]
    assert feature(log.ask(5), "p2", "post_shown") == 1


def test_beside_another_system_its_slate_counts_and_not_ours(tmp_path: Path) -> None:
    log = SlateLog(tmp_path, model=Clicks(), shadow=True)
    posts(log, 4)
    decision = log.ask(5, size=1, taken="show", slots=["p0", "p1"])
    assert (decision.mode, [slot.ref for slot in decision.choice.slots]) == ("shadow", ["p3"])
    assert decision.theirs is not None
    assert [slot.ref for slot in decision.theirs.slots] == ["p0", "p1"]
    later = log.ask(6, size=1)
    assert [feature(later, ref, "post_shown") for ref in ("p0", "p1", "p3")] == [1, 1, 0]
    assert log.ask(7, size=1).happened is None, "nobody told what was shown"
    log.log.close()


def test_a_thing_in_two_slots_is_refused(log: SlateLog) -> None:
    with pytest.raises(
        RequestError, match=r"feed feed_request, slots: one thing in two slots\. Expected each thing once"
    ):
        log.ask(1, slots=["p0", "p0"])


def test_a_system_whose_slots_hold_actions_takes_no_slots() -> None:
    from decalog.parsing import SchemaParser
    from decalog.systems.fraud.schema import SCHEMA as FRAUD

    with pytest.raises(RequestError, match="unknown field"):
        SchemaParser(FRAUD).request({"id": "a", "amount_minor": 1, "currency": "EUR", "slots": ["x"]})


# Online, offline, replayed


def full(log: SlateLog) -> list[Decision]:
    """Returns decisions over a log with clicks, withdrawn clicks, imports and many candidates."""
    posts(log, 25, authors=5)
    made = []
    for number in range(6):
        decision = log.ask(26 + number, user=("ada", "bob")[number % 2], size=5)
        made.append(decision)
        refs = [slot.ref for slot in decision.choice.slots]
        clicked = log.said("click", 26.2 + number, decision.request.id, ref=refs[number % 5])
        if number % 3 == 0:
            log.ingest.outcome({"id": f"undo-{number}", "deletes": clicked.id})
        log.add("feed_request", 26.5 + number, user="eve", taken="show", slots=[f"p{number}", f"p{number + 1}"])
    return made


def test_features_offline_are_those_that_were_logged(log: SlateLog) -> None:
    full(log)
    log.log.commit()
    certificate = Parity(log.log, "feed", notes_for=lambda _decision: ()).last()
    assert certificate.text().splitlines()[0] == "120/120 identical", "twenty of each"


def test_every_candidate_is_what_folding_the_log_gives(log: SlateLog) -> None:
    made = full(log)
    log.log.commit()
    for decision in made:
        state = OnlineState(FEATURES)
        records = list(log.log.read(0, decision.state_seq))
        for change in changes(records, "feed", past=log.log, reads=FEATURES.reads):
            state.apply(change)
        for candidate in decision.candidates:
            asked: Point = point(decision.request, decision.state_seq, of=candidate)
            if candidate.features:
                assert state.vector(asked).tobytes() == candidate.features


def test_slates_replay_to_the_same_bits_also_beyond_the_logged_features(log: SlateLog) -> None:
    made = full(log)
    assert all(len(decision.candidates) > KEPT for decision in made)
    assert replayer(log).range().text() == "6/6 identical"
    trace = replayer(log).one(made[0].id)
    assert trace.identical
    assert (trace.action, trace.predictions) == ("show", made[0].lead.predictions if made[0].lead else {})


def test_a_replay_names_the_candidate_that_differs(log: SlateLog, monkeypatch: pytest.MonkeyPatch) -> None:
    full(log)
    monkeypatch.setattr(Clicks, "predict", lambda _self, rows: np.full((len(rows), len(HEADS)), 0.5))
    found = replayer(log).range()
    assert found.first is not None
    assert found.identical == 0
    assert any(difference.name.startswith("p24: p_click") for difference in found.first.differences)


def test_admission_brings_a_retrieval_that_has_followed_the_log(log: SlateLog) -> None:
    full(log)
    log.log.commit()
    ingest, shelf = admission(SYSTEM, log.log, rates=Rates())
    assert isinstance(shelf, Shelf)
    assert list(shelf.posts) == list(log.shelf.posts)
    assert shelf.followed == log.shelf.followed
    assert (
        ingest.event({"id": "later", "kind": "post", "post": "late", "author": "a", "topic": "t"}).status == "accepted"
    )
    assert "late" in shelf.posts


# What models learn from


def test_what_was_shown_is_an_example_a_slot(log: SlateLog) -> None:
    posts(log, 4)
    decision = log.ask(5, size=3)
    refs = [slot.ref for slot in decision.choice.slots]
    log.said("click", 5.1, decision.request.id, ref=refs[1])
    log.said("dwell", 5.2, decision.request.id, ref=refs[1], value=9.0)
    log.said("like", 5.3, decision.request.id, ref=refs[0])
    log.said("like", 5.4, decision.request.id, ref=refs[0], value=0.0)
    log.said("return", 29.0, decision.request.id)
    log.add("click", 30.0, user="bob", post="p1", value=1)
    log.log.commit()
    history = ImpressionHistory(log.log.read(), SYSTEM.schema, features=FEATURES)
    part = history.part(np.ones(3, np.bool_), known_by=history.known_time)
    assert part.refs == tuple(refs)
    by_head = {head: part.labels[:, place].tolist() for place, head in enumerate(part.heads)}
    assert by_head["p_click"] == [0, 1, 0]
    assert by_head["p_dwell"] == [0, 0, 0], "nine seconds are not enough"
    assert by_head["p_like"] == [0, 0, 0], "the like was taken back"
    assert part.positions.tolist() == [0, 1, 2]
    assert part.propensities.tolist() == [1.0, 0.5, 1.0]
    assert part.rows[0].tobytes() == unpack_features(decision.candidates[0].features).tobytes()
    assert {"age_s", "size"} <= set(part.facts[0])
    assert [
        (ref, kind, value) for ref, kind, value in zip(part.acts.refs, part.acts.kinds, part.acts.values, strict=True)
    ] == [
        (refs[1], "click", 1.0),
        (refs[1], "dwell", 9.0),
        (refs[0], "like", 1.0),
        (refs[0], "like", 0.0),
        ("p1", "click", 1.0),
    ]
    assert history.ends(part.slates)["return"][1].tolist() == [1.0]


def test_labels_are_unknown_until_they_mature_and_known_as_of_a_moment(log: SlateLog) -> None:
    posts(log, 2)
    decision = log.ask(3, size=2)
    known = log.log.known_time
    log.said("click", 3.5, decision.request.id, ref=decision.choice.slots[0].ref)
    log.add("post", 40, post="later", author="a", topic="t")
    log.log.commit()
    history = ImpressionHistory(log.log.read(), SYSTEM.schema, features=FEATURES)
    click, like = HEADS.index("p_click"), HEADS.index("p_like")
    assert np.isnan(history.labels(known)).all()
    half_an_hour_on = history.labels(known + HOUR * 3 // 4)
    assert half_an_hour_on[0, click] == 1
    assert np.isnan(half_an_hour_on[1, click])
    two_hours_on = history.labels(known + 2 * HOUR)
    assert two_hours_on[:, click].tolist() == [1, 0]
    assert np.isnan(two_hours_on[:, like]).all()
    assert history.labels(history.known_time)[:, like].tolist() == [0, 0]


def test_features_of_imported_slates_are_folded(log: SlateLog) -> None:
    full(log)
    log.log.commit()
    history = ImpressionHistory(log.log.read(), SYSTEM.schema, features=FEATURES)
    state = OnlineState(FEATURES)
    done = 0
    for place, one in sorted(enumerate(history.shown), key=lambda both: both[1].decision.state_seq):
        records = list(log.log.read(done, one.decision.state_seq))
        for change in changes(records, "feed", past=log.log, reads=FEATURES.reads):
            state.apply(change)
        done = one.decision.state_seq
        expected = state.vector(point(one.decision.request, one.decision.state_seq, of=one.candidate))
        row: Any = history.part(np.arange(len(history.shown)) == place, known_by=0).rows[0]
        assert row.tobytes() == expected.tobytes()


def test_what_was_shown_is_described_anew_by_the_code_that_serves(log: SlateLog) -> None:
    made = full(log)
    log.log.commit()

    class Younger(Shelf):
        """Describes each post an hour younger, where it has a model."""

        def describe(self, request: Event, refs: Sequence[str]) -> tuple[Candidate, ...]:
            found = super().describe(request, refs)
            return tuple(
                msgspec.structs.replace(
                    one, attributes={"age_s": int(one.attributes["age_s"]) - 3_600 * len(self.adopted)}
                )
                for one in found
            )

    history = ImpressionHistory(log.log.read(), SYSTEM.schema, features=FEATURES, retrieval=Younger)
    part = history.part(np.ones(len(history.shown), np.bool_), known_by=history.known_time)
    assert part.told is not None
    some = part.take(part.positions > 0)
    told = part.told.redescribed(Clicks(), some.places)
    age, others = some.names.index("age_s"), [name != "age_s" for name in some.names]
    assert (told[:, age] == some.rows[:, age] - 3_600).all()
    assert told[:, others].tobytes() == some.rows[:, others].tobytes()
    then = part.told.followed(made[0].request.event_time)
    assert isinstance(then, Younger)
    assert (len(then.posts), then.adopted) == (25, [])
