"""Recorded traffic is what its senders sent, personal values and all; nothing of it is invented."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from tests.homes import live_messages
from tests.readiness.small import subject_of

from decalog.clock import MINUTE, SECOND
from decalog.errors import DataError
from decalog.home import Home
from decalog.ingest import Rates
from decalog.readiness.recorded import Recording, Replayed, busiest, faster, pace, renamed, strangers
from decalog.stores.base import Vault
from decalog.system import find_system
from decalog.systems.fraud.schema import SCHEMA
from decalog.testing.worlds import Message


def test_a_log_gives_back_what_was_sent_to_it(home: Home) -> None:
    sent = {message.body["id"]: message for message in live_messages()[1]}
    with closing(home.reader()) as log:
        recorded = {m.body["id"]: m for m in Recording(log, find_system("fraud")).messages() if m.body["id"] in sent}
    assert recorded.keys() == sent.keys()
    for id_, message in recorded.items():
        assert message.kind == sent[id_].kind
        assert {name: value for name, value in message.body.items() if name in sent[id_].body} == sent[id_].body


def test_the_newest_and_the_oldest_rows_are_given_and_too_few_are_refused(home: Home, tmp_path: Path) -> None:
    system = find_system("fraud")
    with closing(home.reader()) as log:
        recording = Recording(log, system)
        every = list(recording.messages())
        assert recording.oldest(30) == every[: len(recording.oldest(30))]
        assert recording.latest(30)[-1] == every[-1]
        first, last = recording.since(20 * 60 * MINUTE)
        assert last == list(recording.messages(first))
    Home(tmp_path).writer().close()
    with closing(Home(tmp_path).reader()) as log, pytest.raises(DataError) as caught:
        Recording(log, system).latest(30)
    assert "recorded traffic of fraud: 0 payments. Expected at least 20 to send again." in str(caught.value)


def test_an_erased_subject_is_left_out(home: Home) -> None:
    class Forgetful:
        def __init__(self, vault: Vault) -> None:
            self._vault = vault

        def cipher(self, subject: int) -> None:
            return None

        def close(self) -> None:
            self._vault.close()

    with closing(home.reader()) as log:
        log.vault = Forgetful(log.vault)  # type: ignore[assignment]
        assert all(message.kind == "outcome" for message in Recording(log, find_system("fraud")).messages())


def test_what_is_sent_again_has_ids_of_its_own_and_outcomes_follow_them() -> None:
    rows = [
        Message(1, "decide", {"id": "p1", "card": "c", "event_time": "x"}),
        Message(2, "outcome", {"id": "o1", "payment": "p1"}),
    ]
    again = list(renamed(rows, SCHEMA, run="r "))
    assert [one.body for one in again] == [{"id": "r p1", "card": "c"}, {"id": "r o1", "payment": "r p1"}]


def test_a_stranger_has_a_name_of_their_own_for_each_entity_that_is_not_public() -> None:
    made = strangers({"id": "p1", "card": "c", "amount_minor": 3, "event_time": "x"}, SCHEMA, run="s ")
    assert made == {"id": "p1", "card": "s card", "amount_minor": 3}


def asked_at(*seconds: float) -> list[Message]:
    return [Message(round(at * SECOND), "decide", {"id": str(at)}) for at in seconds]


def test_pace_counts_requests() -> None:
    assert pace(asked_at(0, 1, 2, 100)) == 4 / 100


def test_a_thin_record_is_sent_faster_until_its_busiest_second_comes_up_to_the_load() -> None:
    rows = asked_at(0, 40, 60, 75, 200)
    assert faster(rows, times=10, peak=2) == 15
    assert faster(rows, times=10, peak=3) == 35
    assert faster(rows, times=100, peak=3) == 100
    assert faster(rows, times=10, peak=50) == 200  # all that there is, in a second


def test_the_busiest_stretch_is_from_a_request_on_and_holds_what_came_between() -> None:
    rows = asked_at(0, 10, 70, 75, 79.5, 90)
    outcomes = [Message(round(at * SECOND), "outcome", {"id": f"o{at}"}) for at in (9, 71, 80)]
    rows = sorted([*rows, *outcomes], key=lambda row: row.at)
    assert [row.body["id"] for row in busiest(rows, 10)] == ["70", "o71", "75", "79.5"]
    assert [row.body["id"] for row in busiest(rows, 1_000)] == [row.body["id"] for row in rows]


def test_recorded_traffic_is_a_world_that_tells_it_in_order_and_knows_no_truth() -> None:
    world = Replayed([Message(1, "decide", {"id": "a"}), Message(5, "decide", {"id": "b"})], Rates())
    assert [one.body["id"] for one in world.advance(4)] == ["a"]
    assert [one.body["id"] for one in world.advance(9)] == ["b"]
    assert [one.body["id"] for one in world.again(0).advance(9)] == ["a", "b"]
    world.react("a", "allow", at_us=1)
    world.switch("x", True)
    assert (world.truth("a"), world.score(), world.base) == ({}, "", "EUR")


def test_the_home_is_only_read_and_its_copies_are_gone_afterwards(home: Home) -> None:
    with subject_of(home) as subject:
        assert subject.master.exists
        assert subject.folder.stat().st_mode & 0o777 == 0o700
        with subject.fork(until=10) as fork, closing(fork.reader()) as log:
            assert log.position == 10
        assert not fork.root.exists()
    assert not subject.folder.exists()
