"""What is over age goes, and nothing else."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.privacy.people import ADA, BOB, SECRETS, Shop, of_ada, of_bob, shop

from decalog.clock import DAY, ManualClock
from decalog.errors import RequestError
from decalog.home import Home
from decalog.ingest import request_of
from decalog.privacy import retention
from decalog.privacy.erasing import erase, erasures
from decalog.privacy.pen import Pen
from decalog.privacy.retention import Retained, retain, set_days
from decalog.privacy.subjects import Plain, find_subject, images, opened, survey
from decalog.replay import Range
from decalog.standing import Standing
from decalog.stores.vault import SqliteVault
from decalog.systems.fraud.system import SYSTEM
from decalog.verification import verify


def aged_home(root: Path) -> tuple[Home, ManualClock]:
    """Returns a home where Ada paid two hundred days ago and yesterday, Bob two hundred days ago; and now."""
    with shop(root) as made:
        made.decide(of_ada("old-1"))
        made.decide(of_bob("bob-1"))
        made.later(60 * 24 * 200)
        made.decide(of_ada("new-1", customer=ADA, card="card-new-ada"))
        now = made.clock.now_us() + DAY
    return Home(root), ManualClock(now)


def kept(home: Home, person: str = ADA) -> list[dict[str, Plain]]:
    with closing(home.reader()) as log:
        subject = find_subject(SYSTEM, log, person=person)
        if subject is None:
            return []
        found = survey(log, subject, schemas=[SYSTEM.schema])
        return [opened(log, event) for _, event in images(log, found.records["fraud"])]


def test_of_an_active_person_the_old_values_go_and_the_young_stay(tmp_path: Path) -> None:
    home, clock = aged_home(tmp_path / "var")
    told = retain(home, "fraud", days={"cardholder": 90, "email": 365}, clock=clock)
    assert (told.erased, told.aged) == (0, 2)
    old, new = kept(home)
    assert "cardholder" not in old
    assert (old["email"], old["card"]) == (SECRETS["email"], SECRETS["card"])
    assert new["cardholder"] == "Ada Lovelace"
    assert verify(home.root).sound
    assert "kept: cardholder 90 days, email 365 days" in told.text()
    assert "0 people erased, of 2 more the values that are over age" in told.text()


def test_what_was_sealed_under_the_old_key_cannot_be_read_any_more(tmp_path: Path) -> None:
    home, clock = aged_home(tmp_path / "var")
    retain(home, "fraud", days={"cardholder": 90}, clock=clock)
    with closing(home.reader()) as log:
        first = log.get(log.find("request", "fraud/old-1")[0])
        assert opened(log, request_of(first)) == {}
        vault = log.vault
        assert isinstance(vault, SqliteVault)
        assert not vault.holds(-request_of(first).subject)


def test_a_second_run_finds_nothing_and_a_later_one_what_came_of_age(tmp_path: Path) -> None:
    home, clock = aged_home(tmp_path / "var")
    retain(home, "fraud", days={"cardholder": 90}, clock=clock)
    assert retain(home, "fraud", clock=clock).aged == 0
    clock.set(clock.now_us() + 100 * DAY)
    assert retain(home, "fraud", clock=clock).aged == 1
    assert all("cardholder" not in one for one in kept(home))
    assert all("card" in one for one in kept(home))


def test_people_of_whom_nothing_new_came_are_erased(tmp_path: Path) -> None:
    home, clock = aged_home(tmp_path / "var")
    told = retain(home, "fraud", days={"person": 30}, clock=clock)
    assert (told.erased, told.aged) == (1, 0)
    assert kept(home, BOB) == []
    assert len(kept(home)) == 2
    assert retain(home, "fraud", clock=clock) == Retained(days={"person": 30})
    assert verify(home.root).sound


def test_each_erasure_names_the_models_that_learnt_from_its_own_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, clock = aged_home(tmp_path / "var")
    clock.set(clock.now_us() + 100 * DAY)
    monkeypatch.setattr(retention, "models_of", lambda _home, found: {"fraud": (f"learnt from {found.subject}",)})
    assert retain(home, "fraud", days={"person": 30}, clock=clock).erased == 2
    with closing(home.reader()) as log:
        made = [entry.erasure for entry in erasures(log)]
    assert len({one.subject for one in made}) == 2
    assert all(one.models == (f"learnt from {one.subject}",) for one in made)


class KilledError(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_what_was_cut_short_is_completed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    home, clock = aged_home(tmp_path / "var")
    real, calls = retention.aged, list[bool]()

    def dies(*given: Any, **named: Any) -> bool:
        if len(calls) == after:
            raise KilledError
        calls.append(real(*given, **named))
        return calls[-1]

    with monkeypatch.context() as patched:
        patched.setattr(retention, "aged", dies)
        with pytest.raises(KilledError):
            retain(home, "fraud", days={"cardholder": 90}, clock=clock)
    retain(home, "fraud", clock=clock)
    old, new = kept(home)
    assert "cardholder" not in old
    assert (old["card"], new["cardholder"]) == (SECRETS["card"], "Ada Lovelace")
    assert ["cardholder" in one for one in kept(home, BOB)] == [False]
    assert verify(home.root).sound


def test_many_records_take_several_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_AT_ONCE", 1)
    home, clock = aged_home(tmp_path / "var")
    assert retain(home, "fraud", days={"cardholder": 90}, clock=clock).aged == 2
    assert [("cardholder" in one, "card" in one) for one in kept(home)] == [(False, True), (True, True)]


def test_a_person_whose_key_was_replaced_can_be_erased(tmp_path: Path) -> None:
    home, clock = aged_home(tmp_path / "var")
    retain(home, "fraud", days={"cardholder": 90}, clock=clock)
    told = erase(home, "fraud", person=ADA, clock=clock)
    assert told.proof is not None
    assert told.proof.holds
    assert told.records == {"fraud": 2}


def test_decisions_replay_as_before(tmp_path: Path) -> None:
    home, clock = aged_home(tmp_path / "var")
    retain(home, "fraud", days={"cardholder": 90}, clock=clock)
    with shop(home.root) as made:
        found = _range(made)
    assert (found.identical, found.replayed, found.refused) == (3, 3, ())


def _range(made: Shop) -> Range:
    from decalog.deployment import Deployment

    return Deployment(made.home, "fraud", made.log).replayer().range()


@pytest.mark.parametrize("days", [{"cardholders": 3}, {"amount_minor": 9}, {"cardholder": 0}, {"person": 90_000}])
def test_what_is_no_retention_is_refused(tmp_path: Path, days: dict[str, int]) -> None:
    with shop(tmp_path / "var") as made:
        with pytest.raises(RequestError, match="fraud retention: days of something else, or out of range"):
            set_days(SYSTEM, Pen(made.log, by="t"), days=days)
        assert Standing.of(made.log, "fraud").position == 0
