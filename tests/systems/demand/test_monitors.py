from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from tests.systems.demand.doors import NIGHT, Door, Usual, opened

from decalog.clock import HOUR
from decalog.models.base import Floats
from decalog.systems.demand.features import FEATURES
from decalog.systems.demand.schema import HEADS
from decalog.systems.demand.system import SYSTEM
from decalog.tails import Champion
from decalog.watching import Finding, watch


class Apart(Usual):
    """A model that tells items apart: by the days that an order is for."""

    def predict(self, rows: Floats) -> Floats:
        days = rows[:, list(FEATURES.names_for("model")).index("lead_days")]
        return super().predict(rows) * days[:, None] / 20


def watched(door: Door) -> tuple[Finding, ...]:
    for at in range(40):
        door.decide(f"r{at}", series=f"s1/i{at}", lead_days=1 + at)
    door.log.commit()
    ours = Champion(version="m", features=FEATURES, heads=HEADS)
    until = NIGHT + 6 * HOUR
    return watch(SYSTEM, door.log, champion=ours, since_us=NIGHT - HOUR, now_us=until, only={"spread"}).findings


def test_a_model_that_forecasts_all_alike_is_noticed_within_an_hour(
    tmp_path: Path, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path / "alike", runner) as door:
        (finding,) = watched(door)
    assert finding.monitor == "demand_spread"
    assert finding.since <= NIGHT + HOUR
    monkeypatch.setattr("tests.systems.demand.doors.Usual", Apart)
    with opened(tmp_path / "apart", runner) as door:
        assert watched(door) == ()


def test_a_model_that_forecasts_nothing_is_noticed_too(
    tmp_path: Path, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Usual, "predict", lambda _self, rows: np.zeros((len(rows), len(HEADS))))
    with opened(tmp_path, runner) as door:
        assert [one.monitor for one in watched(door)] == ["demand_spread"]
