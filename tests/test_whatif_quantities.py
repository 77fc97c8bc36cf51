"""What a log of orders tells of other orders, against what a world knows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from tests.demand_log import played

from decalog.deployment import Deployment
from decalog.gate import Standards, gate
from decalog.home import Home
from decalog.systems.demand.policy import OrderCosts
from decalog.systems.demand.system import SYSTEM
from decalog.trainers import train_system
from decalog.training import TrainingPlan
from decalog.whatif import Change, asked_of, what_if


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    root = tmp_path_factory.mktemp("whatif")
    played(root, days=80, scale=0.3)
    log = Home(root).reader()
    made = Deployment(Home(root), SYSTEM, log)
    train_system(SYSTEM, log, registry=made.registry, plan=TrainingPlan())
    average = train_system(SYSTEM, log, registry=made.registry, plan=TrainingPlan(model="average"))
    assert not average.promoted
    yield made
    log.close()


def test_the_same_again_changes_nothing(deployment: Deployment) -> None:
    told = what_if(deployment, Change(params=OrderCosts()))
    assert told.answer == "nothing changes"


def test_money_that_has_to_bring_more_is_spent_less_and_that_costs(deployment: Deployment) -> None:
    told = what_if(deployment, Change(params=OrderCosts(price_of_money_bp=2_000)))
    assert told.answer == "worse"
    assert told.brings is not None
    assert told.brings.high < 0
    assert set(told.moves) == {"less"}
    assert told.foreseen < 0
    assert "only a lower bound was told" in told.notes[0]


def test_what_a_model_would_bring_is_told_with_what_rests_on_recovery(deployment: Deployment) -> None:
    models = {row.manifest.name: row.id for row in deployment.registry.list(SYSTEM.name)}
    told = what_if(deployment, Change(candidate=models["average"]))
    assert told.answer in ("worse", "no difference shown", "no verdict")
    assert {"more", "less"} >= set(told.moves)
    assert told.labels[0] < told.labels[1]
    assert np.isfinite(told.foreseen)


def test_the_gate_lets_a_better_forecast_through_and_holds_a_worse_one(deployment: Deployment) -> None:
    """Each as the other's challenger, on requests that neither learnt from."""
    registry = deployment.registry
    models = {row.manifest.name: row.id for row in registry.list(SYSTEM.name)}
    standards = Standards(slices=("category",), off=0.5, least_positives=50)
    worse = gate(asked_of(deployment, Change(candidate=models["average"])), standards)
    assert not worse.passes
    assert worse.gain is not None
    assert worse.gain.high < 0
    assert any("its score is worse: it saves -" in one for one in worse.because)
    assert "units of pinball loss" in worse.because[0]
    registry.promote(SYSTEM.name, models["average"], by="test", why="to be beaten", at_us=1)
    better = gate(asked_of(deployment, Change(candidate=models["grown"])), standards)
    registry.promote(SYSTEM.name, models["grown"], by="test", why="as before", at_us=2)
    assert better.gain is not None
    assert better.gain.low > 0
    assert better.gain.value == pytest.approx(-worse.gain.value)
    assert better.passes, better.because
    assert set(better.ratios) == {"demand_mean"}
    few = gate(asked_of(deployment, Change(candidate=models["average"])), Standards(least_positives=10**6))
    assert few.because[0].endswith("quantities were told of since both were made, of 1000000 needed")


def test_few_changes_are_no_verdict(deployment: Deployment) -> None:
    told = what_if(deployment, Change(params=OrderCosts(price_of_money_bp=2_000), last=20))
    assert told.answer == "no verdict"
    assert any("fewer than 30" in one for one in told.because)
