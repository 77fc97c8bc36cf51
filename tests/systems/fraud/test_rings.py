"""Rings: components of accounts and devices, against a walk over the same links; and in the world that has some."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fraud_log import FraudLog

from decalog.examples import Examples, History
from decalog.simulation import world_of
from decalog.systems.fraud.features import FEATURES
from decalog.systems.fraud.rings import RingParams, find_rings, table_of
from decalog.systems.fraud.schema import SCHEMA
from decalog.systems.fraud.system import SYSTEM

ALL = RingParams(least_accounts=1, most_accounts_a_device=10**6, days=10_000)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    log = FraudLog(tmp_path_factory.mktemp("rings"))
    for i in range(60):
        log.pay(f"p{i}", 1 + i, amount_minor=100 + i)
    return History(log.records(), SCHEMA, features=FEATURES).now


def linked(plain: Examples, links: list[tuple[int, int]]) -> Examples:
    rows = plain.take(np.arange(plain.n) < len(links))
    tokens = np.array(links, np.int64).reshape(-1, 2)
    return msgspec.structs.replace(rows, entities={"device": tokens[:, 0], "customer": tokens[:, 1]})


def walked(links: list[tuple[int, int]]) -> set[frozenset[int]]:
    """Accounts that can be reached from each other, by walking."""
    found = set()
    for _, start in links:
        reached = {start}
        while True:
            devices = {device for device, account in links if account in reached}
            more = {account for device, account in links if device in devices}
            if more == reached:
                break
            reached = more
        found.add(frozenset(reached))
    return found


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 12)), max_size=40))
def test_rings_are_the_components(plain: Examples, links: list[tuple[int, int]]) -> None:
    rings = find_rings(linked(plain, links), ALL)
    assert {frozenset(ring.accounts) for ring in rings} == walked(links)
    assert sum(ring.payments for ring in rings) == len(links)
    assert [len(ring.accounts) for ring in rings] == sorted((len(r.accounts) for r in rings), reverse=True)


def test_a_place_is_no_link_and_a_household_no_ring(plain: Examples) -> None:
    library = [(1, account) for account in range(10)]
    ring, household = [(2, 1), (2, 2), (3, 2), (3, 4), (3, 5)], [(4, 7), (4, 8)]
    payments = linked(plain, [*library, *ring, *household])
    found = find_rings(payments, RingParams(least_accounts=3, most_accounts_a_device=9, days=10_000))
    assert [(one.accounts, one.devices, one.payments) for one in found] == [((1, 2, 4, 5), (2, 3), 5)]
    assert found[0].amount_minor == sum(range(110, 115))
    assert table_of(found) == {"2": 4, "3": 4}
    assert found[0].text().startswith("4 accounts on 2 devices, 5 payments, 560 minor units; 0 of ")


def test_only_late_payments_and_known_devices_count(plain: Examples) -> None:
    links = [(1, account) for account in range(1, 11)]
    found = find_rings(linked(plain, links), RingParams(days=4, least_accounts=2))
    assert [ring.accounts for ring in found] == [(7, 8, 9, 10)]
    assert find_rings(linked(plain, [(-1, 1), (-1, 2), (3, -1)]), ALL) == []
    assert find_rings(linked(plain, []), ALL) == []


@pytest.mark.slow
def test_the_worlds_rings_are_found(tmp_path: Path) -> None:
    world = world_of(SYSTEM, 3, scale=1.0)
    log = FraudLog(tmp_path)
    for message in world.advance(world.start_us + 25 * 86_400_000_000):
        if message.kind == "decide":
            log.clock.set(max(message.at, log.clock.now_us()))
            log.ingest.event(message.body)
    payments = History(log.records(), SCHEMA, features=FEATURES).now
    truth = [world.truth(id_) for id_ in payments.ids]
    in_ring = np.array([str(told["context"]) == "ring" for told in truth])
    rings = find_rings(payments, RingParams(days=60))
    devices = {device for ring in rings for device in ring.devices}
    caught = np.isin(payments.entities["device"], list(devices))
    assert in_ring.sum() > 10
    assert caught[in_ring].mean() > 0.8
    assert caught[~in_ring].mean() < 0.02
