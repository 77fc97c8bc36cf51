"""The index of a control room: it says what the log says, goes on where it was, and begins anew where it must."""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from tests.control_room.rooms import catch_up
from tests.homes import decide_live, fill_home, live_messages, opened, records

from decalog.clock import DAY, HOUR, MINUTE
from decalog.control_room import index as indexing
from decalog.control_room.following import Follower
from decalog.control_room.homes import index_of
from decalog.control_room.index import Filter, Index, Progress, percentile
from decalog.decisions import Decision, decode_decision
from decalog.events import ALL, Record
from decalog.home import Home
from decalog.outcomes import decode_outcome
from decalog.systems.fraud.system import SYSTEM


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    made = fill_home(tmp_path_factory.mktemp("index") / "fraud")
    decision = decide_live(made)[0]
    with opened(made) as (deployment, _):
        said = {"id": "c1", "payment": decision.request.id, "kind": "chargeback", "source": "issuer", "value": 1}
        told = deployment.service().ingest.outcome(said)
        assert told.status == "accepted", told.message
        deployment.log.commit()
    return made


@pytest.fixture
def index(home: Home, tmp_path: Path) -> Index:
    made = Index(tmp_path / "index.sqlite", writes=True)
    with closing(home.reader()) as log:
        while made.take(log, stop=log.position).position < log.position:
            pass
    return made


def test_it_lists_every_decision_as_the_log_has_it(index: Index, home: Home) -> None:
    logged = records(home, "decision")
    rows = index.decisions("fraud", Filter(), most=10_000)
    assert [row.seq for row in rows] == [record.seq for record in reversed(logged)]
    for row, record in zip(reversed(rows), logged, strict=True):
        decision = decode_decision(record.body)
        assert (row.id, row.request, row.action) == (decision.id, decision.request.id, decision.choice.action)
        assert (row.at, row.expected, row.us) == (
            record.known_time,
            decision.expected_minor,
            sum(decision.stages_us.values()),
        )
        assert row.amount == decision.request.attributes["amount_base_minor"]
        assert row.score == decision.candidates[0].predictions["p_fraud"]


def test_sums_are_those_of_the_decisions_in_buckets_of_each_width(index: Index, home: Home) -> None:
    logged = records(home, "decision")
    for width in (MINUTE, HOUR, DAY):
        counted = Counter(record.known_time // width * width for record in logged)
        series = index.series("fraud", width, since=0)
        assert {start: int(names["decisions"]) for start, names in series.items() if "decisions" in names} == counted
    actions = Counter(decode_decision(record.body).choice.action for record in logged)
    days = index.series("fraud", DAY, since=0).values()
    for action, count in actions.items():
        assert sum(names.get(f"action {action}", 0.0) for names in days) == count


def test_an_outcome_is_told_with_its_decision(index: Index, home: Home) -> None:
    decided = {decode_decision(record.body).request.id for record in records(home, "decision")}
    said = {(one := decode_outcome(record.body)).target: one for record in records(home, "outcome")}
    both = decided & set(said)
    assert both
    for target in both:
        (row,) = index.decisions("fraud", Filter(id=target), most=2)
        assert row.outcome == f"{said[target].kind} {said[target].value:g}"


@pytest.mark.parametrize("part", ["action", "id", "request", "token", "since", "until", "before"])
def test_a_search_finds_what_it_asks_for_and_nothing_else(index: Index, home: Home, part: str) -> None:
    logged = [(record, decode_decision(record.body)) for record in records(home, "decision")]
    record, decision = logged[len(logged) // 2]
    token = next(token for token in decision.request.entities.values() if token != ALL)
    cases: dict[str, tuple[Filter, Callable[[Record, Decision], bool]]] = {
        "action": (Filter(action="allow"), lambda r, d: d.choice.action == "allow"),
        "id": (Filter(id=decision.id), lambda r, d: d.id == decision.id),
        "request": (Filter(id=decision.request.id), lambda r, d: d.request.id == decision.request.id),
        "token": (Filter(token=token), lambda r, d: token in d.request.entities.values()),
        "since": (Filter(since=record.known_time), lambda r, d: r.known_time >= record.known_time),
        "until": (Filter(until=record.known_time), lambda r, d: r.known_time < record.known_time),
        "before": (Filter(before=record.seq), lambda r, d: r.seq < record.seq),
    }
    asked, fits = cases[part]
    expected = [r.seq for r, d in logged if fits(r, d)]
    assert expected
    assert [row.seq for row in index.decisions("fraud", asked, most=10_000)] == expected[::-1]
    assert index.decisions("feed", asked, most=10) == []


def test_groups_and_restarts_make_the_same_index(index: Index, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexing, "GROUP", 97)
    path = home.root.parent / "again.sqlite"
    with closing(home.reader()) as log:
        while True:
            with closing(Index(path, writes=True)) as other:
                if other.take(log, stop=log.position).position == log.position:
                    break
    with closing(Index(path)) as other:
        assert other.decisions("fraud", Filter(), most=10_000) == index.decisions("fraud", Filter(), most=10_000)
        assert other.series("fraud", DAY, since=0) == index.series("fraud", DAY, since=0)


def test_where_nothing_came_nothing_is_written(home: Home, tmp_path: Path) -> None:
    with closing(home.reader()) as log, closing(Index(tmp_path / "i.sqlite", writes=True)) as index:
        while (taken := index.take(log, stop=log.position)).position < log.position:
            pass
        before = index._sql.total_changes
        assert index.take(log, stop=log.position) == taken
        assert index._sql.total_changes == before


def test_an_index_of_another_log_begins_anew(index: Index, home: Home, tmp_path: Path) -> None:
    other = fill_home(tmp_path / "other")
    with closing(other.reader()) as log:
        while index.take(log, stop=log.position).position < log.position:
            pass
        assert index.decisions("fraud", Filter(), most=10) == []
        assert index.progress().hash == log.hash_at(log.position)


@pytest.mark.parametrize("harm", ["layout", "bytes"])
def test_a_file_that_is_none_of_this_layout_is_begun_anew(home: Home, tmp_path: Path, harm: str) -> None:
    copy = Home(shutil.copytree(home.root, tmp_path / "copy"))
    catch_up(copy)
    path = index_of(copy)
    if harm == "bytes":
        path.write_bytes(b"no database" * 1_000)
    else:
        with closing(sqlite3.connect(path)) as sql:
            sql.execute("PRAGMA user_version = 99")
    with closing(Index(path, writes=True)) as made:
        assert made.progress() == Progress()


def test_an_index_that_is_not_there_is_empty_to_who_reads_it(tmp_path: Path) -> None:
    with closing(Index(tmp_path / "none.sqlite")) as index:
        assert index.progress().share == 1.0
        assert (index.decisions("fraud", Filter(), most=5), index.systems(), index.arms("fraud")) == ([], [], [])
    assert not (tmp_path / "none.sqlite").exists()


def test_it_holds_no_value_of_an_entity(index: Index, tmp_path: Path) -> None:
    index.close()
    raw = b"".join(path.read_bytes() for path in tmp_path.glob("index.sqlite*"))
    bodies = [message.body for message in live_messages()[1] if message.kind == "decide"]
    assert bodies
    assert all(body["id"].encode() in raw for body in bodies)  # what is public is there
    personal = [entity.name for entity in SYSTEM.schema.request.entities if entity.privacy != "public"]
    values = {str(body[name]).encode() for body in bodies for name in personal if body.get(name)}
    assert values
    assert not [value for value in values if value in raw]


def test_a_follower_tells_how_fast_the_log_grows(home: Home, tmp_path: Path) -> None:
    copy = Home(shutil.copytree(home.root, tmp_path / "copy"))
    follower = Follower(copy)
    while follower.step(1_000.0):
        pass
    follower.step(1_004.0)
    with closing(Index(index_of(copy))) as index:
        told = index.progress()
    follower.close()
    assert (told.pace, told.rate, told.share, told.wall) == (0.0, 0.0, 1.0, 1_004.0)


def test_percentiles_are_of_all_buckets_together() -> None:
    assert percentile([{"us 100": 50.0}, {"us 200": 49.0, "us 900": 1.0, "decisions": 50.0}], 0.99) == 200.0
    assert percentile([{"decisions": 0.0}], 0.5) is None
