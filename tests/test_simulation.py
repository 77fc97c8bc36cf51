from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from tests.homes import DAYS, SCALE, SEED

from decalog.clock import DAY, ManualClock
from decalog.deployment import Deployment, Setup
from decalog.errors import ConfigError
from decalog.home import Home
from decalog.ingest import Rates
from decalog.simulation import fill, message_path, rates_of, world_of
from decalog.systems.feed.schema import SCHEMA as FEED
from decalog.systems.feed.simulate import World as FeedWorld
from decalog.systems.fraud.simulate import World
from decalog.systems.fraud.system import SYSTEM


def test_a_world_is_the_one_that_its_system_names() -> None:
    world = world_of(SYSTEM, SEED, scale=SCALE)
    assert isinstance(world, World)
    same, other = world_of(SYSTEM, SEED, scale=SCALE), world_of(SYSTEM, SEED + 1, scale=SCALE)
    until = world.start_us + DAY
    messages = [json.dumps(msgspec.to_builtins(w.advance(until))) for w in (world, same, other)]
    assert messages[0] == messages[1] != messages[2]


def test_a_system_without_a_world_says_so() -> None:
    with pytest.raises(ConfigError) as caught:
        world_of(msgspec.structs.replace(SYSTEM, world=""), 1)
    assert str(caught.value) == (
        "fraud world: ''. Expected a dotted path module:Class. Name the world in SYSTEM, or train with --data."
    )


def test_the_rates_of_a_world_are_those_it_publishes() -> None:
    world = world_of(SYSTEM, SEED, scale=SCALE)
    assert rates_of(world) == Rates("EUR", dict(world.rates))


@pytest.mark.parametrize("group", [7, 1_000])
def test_history_is_filled_in_the_order_of_arrival_whatever_the_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: int
) -> None:
    monkeypatch.setattr("decalog.simulation._GROUP", group)
    world, twin = (world_of(SYSTEM, SEED, scale=SCALE) for _ in range(2))
    clock = ManualClock(world.start_us)
    log = Home(tmp_path).writer(clock)
    said: list[str] = []
    ingest = Deployment(Home(tmp_path), "fraud", log, Setup(rates=rates_of(world))).prepare()
    filled = fill(world, ingest, clock=clock, days=DAYS, say=said.append)
    messages = twin.advance(twin.start_us + DAYS * DAY)
    logged = [record for record in log.read() if record.kind != "table"]
    log.close()
    assert [(record.id, record.known_time) for record in logged] == [(m.body["id"], m.at) for m in messages]
    assert {record.kind for record in logged} <= {"event", "outcome"}
    assert not any(record.reason for record in logged)
    assert (filled.requests + filled.outcomes, filled.until_us) == (len(messages), world.start_us + DAYS * DAY)
    assert said[-1] == f"day 2 of 2: {filled.requests:,} payments, {filled.outcomes:,} outcomes"
    assert len(said) == DAYS


def test_history_tells_what_another_system_showed_and_counts_requests_apart_from_other_events() -> None:
    world, twin = (FeedWorld(SEED, scale=0.1) for _ in range(2))
    rows: list[dict[str, Any]] = []
    log = SimpleNamespace(commit=lambda: None)
    ingest: Any = SimpleNamespace(log=log, schema=FEED, event=rows.append, outcome=rows.append)
    filled = fill(world, ingest, clock=ManualClock(world.start_us), days=DAYS, say=lambda _: None)
    messages = twin.advance(twin.start_us + DAYS * DAY, alone=True)
    assert rows == [message.history for message in messages]
    shown = [row for row in rows if "slots" in row]
    assert len(shown) > 10
    assert all(row["taken"] == "show" and len(row["slots"]) <= row["size"] for row in shown)
    kinds = Counter(message.kind for message in messages)
    assert (filled.requests, filled.outcomes) == (kinds["decide"], kinds["outcome"])
    assert kinds["event"] > 10


def test_each_kind_of_message_has_its_path() -> None:
    assert [message_path("fraud", kind) for kind in ("decide", "event", "outcome")] == [
        "/v1/fraud/decide",
        "/v1/fraud/events",
        "/v1/fraud/outcomes",
    ]
