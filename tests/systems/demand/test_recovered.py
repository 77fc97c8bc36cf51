from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.demand_log import DemandLog, played

from decalog.clock import DAY
from decalog.home import Home
from decalog.quantities import QuantityHistory, Told
from decalog.systems.demand.features import FEATURES
from decalog.systems.demand.recovered import recovered
from decalog.systems.demand.schema import SCHEMA


def told_of(history: QuantityHistory) -> Told:
    now = history.now
    return Told(now.requests, now.labels, now.bounds, history.events(now.known_by))


def test_orders_that_sold_out_are_told_what_was_wanted(tmp_path: Path) -> None:
    world = played(tmp_path, days=90, scale=0.3)
    log = Home(tmp_path).reader()
    history = QuantityHistory(log.read(), SCHEMA, features=FEATURES)
    log.close()
    told = told_of(history)
    expected, drawn = recovered(told, 0)

    def wanted(id_: str) -> float:
        ask = world._asked[id_]
        return float(sum(world.sold[ask.day + ahead].wanted[ask.series].sum() for ahead in ask.ahead))

    cut = np.flatnonzero(told.bounds)
    truth = np.array([wanted(history.now.ids[place]) for place in cut.tolist()])
    assert len(cut) > 200
    assert told.labels[cut].sum() / truth.sum() - 1 < -0.2
    # Above 0: whoever takes an item in the place of one that is sold out wants it as well.
    assert expected[cut].sum() / truth.sum() - 1 == pytest.approx(0.03, abs=0.05)
    assert drawn[cut].sum() / truth.sum() - 1 == pytest.approx(0.03, abs=0.06)
    assert (expected[cut] >= told.labels[cut]).all()
    whole = np.isfinite(told.labels) & ~told.bounds
    assert np.array_equal(expected[whole], told.labels[whole])


def test_what_days_do_not_tell_stays_a_bound(tmp_path: Path) -> None:
    log = DemandLog(tmp_path)
    log.asked(0)
    log.told(2, "order-0", 4, censored=True)
    history = QuantityHistory(log.records(5), SCHEMA, features=FEATURES)
    for found in recovered(told_of(history), 0):
        assert found.tolist() == [4.0]
    log.sold(1, 4, empty_h=6)  # the second day of the interval is not told
    history = QuantityHistory(log.records(6), SCHEMA, features=FEATURES)
    assert recovered(told_of(history), 0)[0].tolist() == [4.0]


def test_the_same_seed_draws_the_same(tmp_path: Path) -> None:
    log = DemandLog(tmp_path)
    for day in range(30):
        log.sold(day, 6 + day % 5, empty_h=4 if day % 4 == 0 else 0)
        if day >= 2:
            log.told(day, f"order-{day - 2}", 12, censored=day % 2 == 0)
        log.asked(day)
    history = QuantityHistory(log.records(40), SCHEMA, features=FEATURES)
    one, again, other = (recovered(told_of(history), seed)[1] for seed in (1, 1, 2))
    assert np.array_equal(one, again, equal_nan=True)
    assert not np.array_equal(one, other, equal_nan=True)
    assert log.log.known_time >= 20_000 * DAY
