"""Views from a snapshot and the log after it are those of the whole log; a snapshot that cannot be used costs time."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from tests.fraud_log import FraudLog, payment
from tests.homes import LATER, decide_live, fill_home, opened, records
from tests.own_tables import WITH_TABLES

from decalog import views
from decalog.clock import rfc3339
from decalog.decisions import decode_decision
from decalog.events import Event
from decalog.features import columnar
from decalog.features.remote import RemoteState
from decalog.features.snapshot import read_manifest
from decalog.folding import point
from decalog.home import Home
from decalog.log import Log
from decalog.systems.fraud.simulate import START_US
from decalog.systems.fraud.system import SYSTEM
from decalog.verification import verify
from decalog.views import last_position, snapshot_path, write_down

FEATURES = SYSTEM.features


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = fill_home(tmp_path_factory.mktemp("views") / "home")
    decide_live(home, hours=3)
    return home.root


@pytest.fixture
def home(filled: Path, tmp_path: Path) -> Home:
    """A home with history and live decisions, to be changed at will."""
    return Home(Path(shutil.copytree(filled, tmp_path / "home")))


def take(home: Home) -> Path:
    """Writes a snapshot as another process does, and returns its path."""
    log = home.reader()
    try:
        write_down(views.follow(views.begin(FEATURES, log, folder=home.state), log).state, log, folder=home.state)
    finally:
        log.close()
    return snapshot_path(home.state, FEATURES)


def whole(home: Home, tmp_path: Path) -> views.Views:
    """Returns the views of the whole log, whatever snapshots there are."""
    log = home.reader()
    try:
        return views.follow(views.begin(FEATURES, log, folder=tmp_path / "no snapshots here"), log)
    finally:
        log.close()


def vectors(found: views.Views, events: list[Event]) -> list[bytes]:
    return [found.state.vector(point(event, found.position)).tobytes() for event in events]


def test_a_start_folds_only_what_came_after_the_snapshot(home: Home, tmp_path: Path) -> None:
    position = read_manifest(take(home)).position
    with opened(home) as (deployment, clock):
        clock.set(START_US + LATER * 2)
        service = deployment.service()
        assert deployment.views is not None
        assert str(deployment.views) == f"snapshot at record {position:,}, 0 records folded after it"
        for number in range(3):
            service.decide(payment(f"n{number}", 0, event_time=None))
        deployment.log.commit()
        again = views.follow(deployment.begin(), deployment.log)
        assert (again.start, again.position, again.problem) == (position, position + 3, "")
        assert str(again) == f"snapshot at record {position:,}, 3 records folded after it"
        folded = whole(home, tmp_path)
        assert str(folded) == f"{position + 3:,} records folded"
        events = [decode_decision(record.body).request for record in records(home, "decision")[-5:]]
        events = [msgspec.structs.replace(event, event_time=deployment.log.known_time) for event in events]
        assert vectors(again, events) == vectors(folded, events)
        live = views.Views(service.state, again.position, 0, "")
        assert vectors(live, events) == vectors(folded, events)


def test_a_correction_of_a_row_from_before_the_snapshot_finds_its_image_in_the_log(home: Home) -> None:
    with opened(home) as (deployment, clock):
        clock.set(START_US + LATER * 2)
        service = deployment.service()
        for name in ("old", "gone"):
            service.decide(payment(name, 0, event_time=None, amount_minor=5_000))
        deployment.log.commit()
    take(home)
    with opened(home) as (deployment, clock):
        clock.set(START_US + LATER * 2)
        service = deployment.service()
        assert deployment.views is not None
        assert deployment.views.start > 0
        before = service.state.stats().rows
        for row in (
            payment("mended", 0, event_time=rfc3339(clock.now_us()), amount_minor=7_000, corrects="old"),
            {"id": "away", "deletes": "gone"},
        ):
            assert service.ingest.admit("event", row).status == "accepted"
        deployment.log.commit()
        assert service.state.stats().rows < before
    path = take(home)
    content = path.read_bytes()
    path.unlink()
    assert take(home).read_bytes() == content


def test_a_long_log_is_folded_in_parts_to_the_same_bytes(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    path = take(home)
    content = path.read_bytes()
    path.unlink()
    monkeypatch.setattr(columnar, "_PART", 7)
    assert take(home).read_bytes() == content


def test_a_snapshot_that_cannot_be_used_is_named_and_the_log_folded(home: Home, tmp_path: Path) -> None:
    path = take(home)
    content = path.read_bytes()
    path.write_bytes(content[:-9] + b"?" + content[-8:])
    with opened(home) as (deployment, _):
        service = deployment.service()
        assert deployment.views is not None
        assert deployment.views.start == 0
        assert deployment.views.problem.startswith(f"snapshot {path.name}: a file that was cut short or changed")
        assert service.state.stats() == whole(home, tmp_path).state.stats()
        assert last_position(FEATURES, deployment.log, path=path) == 0
    assert take(home).read_bytes() == content


def test_a_snapshot_of_a_log_that_went_another_way_is_not_used(home: Home, filled: Path, tmp_path: Path) -> None:
    """A disk that lost what was written but not yet synced, or a backup that was brought back, goes on otherwise."""
    with opened(home) as (deployment, clock):
        clock.set(START_US + LATER * 2)
        deployment.service().decide(payment("lost", 0, event_time=None))
        deployment.log.commit()
    path = take(home)
    other = Home(Path(shutil.copytree(filled, tmp_path / "other")))
    shutil.copytree(home.state, other.state)
    log = other.reader()
    found = views.follow(views.begin(FEATURES, log, folder=other.state), log)
    assert (found.start, "where the log is shorter" in found.problem) == (0, True)
    log.close()
    decide_live(other, hours=6)
    log = other.reader()
    found = views.follow(views.begin(FEATURES, log, folder=other.state), log)
    assert (found.start, "a state of another log" in found.problem) == (0, True)
    assert last_position(FEATURES, log, path=path) == 0
    log.close()
    (bad,) = [check for check in verify(other.root).checks if not check.sound]
    assert (bad.name, "a state of another log" in bad.said) == ("snapshot", True)


def test_verify_reads_every_byte_of_a_snapshot(home: Home) -> None:
    assert [check.said for check in verify(home.root).checks if check.name == "snapshot"] == ["none taken yet"]
    path = take(home)
    assert [check.said for check in verify(home.root).checks if check.name == "snapshot"] == ["1 of this log, whole"]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    (bad,) = [check for check in verify(home.root).checks if not check.sound]
    assert bad.said.startswith(f"snapshot {path.name}: a file that was cut short or changed")


def test_the_hash_at_a_position_is_that_of_the_record_before(home: Home) -> None:
    log = home.reader()
    entries = list(log.store.read(0))
    assert [log.hash_at(seq + 1) for seq in range(3)] == [entry.hash for entry in entries[:3]]
    assert log.hash_at(log.position + 1) is None
    log.close()


def test_how_old_the_newest_row_of_a_kind_is_outlives_a_restart(home: Home, tmp_path: Path) -> None:
    take(home)
    log = home.reader()
    found = views.begin(FEATURES, log, folder=home.state)
    assert found.position == log.durable
    log.close()
    assert found.state.newest == whole(home, tmp_path).state.newest
    assert found.state.newest["payment"] == records(home, "decision")[-1].known_time


def caught_up(found: views.Views, log: Log) -> views.Views:
    for _ in views.catch_up(found, log):
        pass
    return msgspec.structs.replace(found, position=log.position)


@pytest.mark.parametrize("bring_up", [views.follow, caught_up])
@pytest.mark.parametrize("where", ["snapshot", "redis"])
def test_views_that_were_kept_know_the_tables_that_stand_before_them(
    tmp_path: Path, request: pytest.FixtureRequest, bring_up: Callable[[views.Views, Log], views.Views], where: str
) -> None:
    state = request.getfixturevalue("redis_url") if where == "redis" else ""
    made = FraudLog(tmp_path, features=WITH_TABLES)
    log, put = made.log, made.service.put_table
    put("mcc_risk", {"5411": 0.25})
    put("mcc_risk", {"5411": 0.5, "5912": 0.125})
    made.decide("a", 1, mcc="5411")
    log.commit()
    kept = bring_up(views.begin(WITH_TABLES, log, folder=tmp_path, state=state), log).state
    if isinstance(kept, RemoteState):
        kept.close()
    else:
        write_down(kept, log, folder=tmp_path)
    put("card_lists", {"1": 1.0})
    asked = made.decide("b", 1, mcc="5912").request
    log.commit()
    begun = views.begin(WITH_TABLES, log, folder=tmp_path, state=state)
    assert begun.start == log.position - 2
    found = bring_up(begun, log)
    risk = WITH_TABLES.names.index("mcc_risk")
    assert found.state.vector(point(asked, found.position))[risk] == 0.125
    assert vectors(found, [asked]) == [made.service.state.vector(point(asked, found.position)).tobytes()]
    if isinstance(found.state, RemoteState):
        found.state.close()
    log.close()
