"""The knobs of a simulated world do what they say, and end with it."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.homes import SCALE, SEED, fill_home

from decalog.control_room import knobs, mischief
from decalog.control_room.knobs import AWAY, BUSY, CORRUPT, KILLED, STALLED, Wishes
from decalog.control_room.mischief import Mischief
from decalog.home import Home
from decalog.registry import Registry
from decalog.simulation import world_of
from decalog.systems.fraud.system import SYSTEM
from decalog.testing.worlds import Message


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill_home(tmp_path_factory.mktemp("mischief") / "fraud").root


class Trouble:
    """A mischief over a copy of a home, and what it did to the server."""

    def __init__(self, root: Path) -> None:
        self.home = Home(root)
        self.world = world_of(SYSTEM, SEED, scale=SCALE)
        self.restarts = 0
        self.mischief = Mischief(self.home, SYSTEM.schema, self.world, restart=self._restart)

    def wish(self, *names: str) -> tuple[str, ...]:
        """Has knobs turned, and returns what the driver says is on."""
        self._turn()
        told = knobs.driven(self.home, "fraud", now_s=0.0)
        assert told is not None
        knobs.wish(self.home, "fraud", wishes=Wishes(told.driver, names))
        self._turn()
        told = knobs.driven(self.home, "fraud", now_s=0.0)
        assert told is not None
        return told.on

    def shaped(self, *bodies: dict[str, Any], kind: Any = "decide") -> list[Message]:
        return list(self.mischief.shaped([Message(1, kind, body) for body in bodies]))

    def _turn(self) -> None:
        self.mischief.turn(url="http://127.0.0.1:1", speed=3600.0, line="fine")

    def _restart(self) -> None:
        self.restarts += 1


@pytest.fixture
def trouble(filled: Path, tmp_path: Path) -> Trouble:
    return Trouble(shutil.copytree(filled, tmp_path / "fraud"))


BODY = {"id": "p1", "amount_minor": 100, "currency": "EUR", "card": "c", "channel": "ecom"}


def test_without_a_wish_what_is_sent_is_the_worlds(trouble: Trouble) -> None:
    assert trouble.wish() == ()
    assert [message.body for message in trouble.shaped(BODY, BODY)] == [BODY, BODY]


def test_ten_times_the_people_are_others(trouble: Trouble) -> None:
    assert trouble.wish(BUSY) == (BUSY,)
    sent = trouble.shaped(BODY)
    assert sent[0].body == BODY
    assert len({message.body["id"] for message in sent}) == len({message.body["card"] for message in sent}) == 10
    assert {(message.body["amount_minor"], message.body["channel"]) for message in sent} == {(100, "ecom")}
    assert len(trouble.shaped(BODY, kind="outcome")) == 1


def test_every_fifth_row_makes_no_sense(trouble: Trouble) -> None:
    trouble.wish(CORRUPT)
    sent = [message.body["amount_minor"] for message in trouble.shaped(*[BODY] * 10)]
    assert sent == [100, 100, 100, 100, "n/a"] * 2
    assert trouble.wish() == ()
    assert {message.body["amount_minor"] for message in trouble.shaped(*[BODY] * 10)} == {100}


def test_while_analysts_are_away_their_verdicts_do_not_come(trouble: Trouble) -> None:
    rows = [{"id": kind, "kind": kind, "value": 1} for kind in ("analyst_verdict", "chargeback")]
    assert len(trouble.shaped(*rows, kind="outcome")) == 2
    trouble.wish(AWAY)
    assert [message.body["kind"] for message in trouble.shaped(*rows, kind="outcome")] == ["chargeback"]


def test_a_worlds_own_switches_are_knobs_too(trouble: Trouble) -> None:
    assert trouble.wish("card_testing_wave") == ("card_testing_wave",)
    assert trouble.world._on == {"card_testing_wave"}  # type: ignore[attr-defined]
    trouble.wish()
    assert not trouble.world._on  # type: ignore[attr-defined]


def test_a_killed_model_is_gone_until_it_is_mended_by_whoever_comes_next(trouble: Trouble) -> None:
    model = Registry(trouble.home.root).current("fraud")
    assert model is not None
    files = trouble.home.root / "models" / model
    trouble.wish(KILLED)
    assert (files.exists(), trouble.restarts) == (False, 1)
    trouble.wish()
    assert (files.exists(), trouble.restarts) == (True, 2)
    trouble.wish(KILLED)
    assert not files.exists()
    Trouble(trouble.home.root)  # the driver died over it; another one begins
    assert files.exists()
    Registry(trouble.home.root).get(model)


def test_a_held_lock_keeps_others_from_writing_and_ends_by_itself(
    trouble: Trouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, let_go = threading.Event(), threading.Event()

    def sleep(_seconds: float) -> None:
        held.set()
        let_go.wait(30)

    monkeypatch.setattr(mischief, "time", SimpleNamespace(sleep=sleep, time=lambda: 0.0))
    trouble.wish(STALLED)
    assert held.wait(30)
    with closing(sqlite3.connect(trouble.home.log, timeout=0, isolation_level=None)) as other:
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        let_go.set()
        other.execute("PRAGMA busy_timeout = 30000")
        other.execute("BEGIN IMMEDIATE")
    for thread in threading.enumerate():
        if thread.name.endswith("(_stall)"):
            thread.join(30)
    told = knobs.driven(trouble.home, "fraud", now_s=0.0)
    assert told is not None
    assert knobs.wished(trouble.home, "fraud", driver=told.driver) == ()


def test_a_driver_that_says_nothing_for_half_a_minute_is_gone(trouble: Trouble) -> None:
    trouble.wish()
    told = knobs.driven(trouble.home, "fraud", now_s=0.0)
    assert told is not None
    assert knobs.driven(trouble.home, "fraud", now_s=told.wall + 31) is None
