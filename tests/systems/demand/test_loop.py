from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.demand_log import lived

from decalog.decisions import Choice, Decision, Slot, Versions, decode_decision
from decalog.deployment import Deployment
from decalog.events import Event
from decalog.guardrails import Told
from decalog.home import Home
from decalog.loop import plan_of
from decalog.outcomes import Outcome
from decalog.rollout import Rollout
from decalog.shadowing import shadowed
from decalog.systems.demand.policy import COST, PRICE, OrderCosts, OrderPolicy
from decalog.systems.demand.system import SYSTEM
from decalog.trainers import train_system
from decalog.training import TrainingPlan
from decalog.whatif import Change, asked_of

POLICY = OrderPolicy(OrderCosts(holding_bp=100))
VALUES = {guardrail.name: guardrail.value for guardrail in plan_of(SYSTEM).guardrails}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("loop")
    lived(root, days=60, live=6)
    return root


def told(**sales: Any) -> Told:
    facts: dict[str, Any] = {PRICE: 200, COST: 120, "on_hand": 0, "horizon_days": 2, "lead_days": 1}
    request = Event("r", "replenishment", 0, 0, {}, facts)
    choice = Choice((Slot("r", value=12.0),), verb="order")
    decision = Decision("d", request, 0, (), choice, Versions("m", "p", "f", 0))
    if not sales:
        return Told(decision, ())
    value = sales.pop("value")
    return Told(decision, (Outcome("o", "r", "sales", "till", 0, value, attributes=sales),))


def test_what_an_order_earned_is_counted_with_what_it_left_and_lost() -> None:
    one = told(value=10.0, wasted=2, left=5, censored=False)
    assert VALUES["wasted_an_order"](one, POLICY) == 240
    assert VALUES["earned_an_order"](one, POLICY) == pytest.approx(10 * 80 - 240 - 0.01 * 120 * 2 * 5)
    assert VALUES["sold_out"](one, POLICY) == 0
    assert VALUES["sold_out"](told(value=10.0, censored=True), POLICY) == 1
    assert [value(told(), POLICY) for value in VALUES.values()] == [0, 0, 0]


def test_a_series_is_ordered_for_by_one_arm_throughout(home: Path) -> None:
    log, canary = Home(home).reader(), Rollout(name="r1", stage="canary", model="0" * 12, share_bp=5_000)
    arms = defaultdict(set)
    for record in log.read():
        if record.kind == "decision" and (decision := decode_decision(record.body)).mode == "live":
            arms[decision.request.attributes["series"]].add(canary.arm(decision.request))
    log.close()
    assert len(arms) > 20
    assert all(len(found) == 1 for found in arms.values())
    assert {next(iter(found)) for found in arms.values()} == {"champion", "challenger"}


def test_a_shadow_says_how_many_numbers_would_be_others_and_what_that_is_worth(home: Path) -> None:
    log = Home(home).reader()
    deployment = Deployment(Home(home), SYSTEM, log)
    same = shadowed(asked_of(deployment, Change()), last=100)
    assert same.decisions == 100
    assert same.changed is not None
    assert same.changed.value == 0
    tight = OrderCosts(price_of_money_bp=3_000)
    other = shadowed(asked_of(deployment, Change(params=tight)), last=100)
    assert other.changed is not None
    assert other.changed.value > 0.2
    assert set(other.moves) == {"less"}
    average = train_system(SYSTEM, log, registry=deployment.registry, plan=TrainingPlan(model="average"))
    challenger = shadowed(asked_of(deployment, Change(candidate=average.model)), last=100)
    log.close()
    assert challenger.failed == 0
    assert set(challenger.moves) <= {"more", "less"}
    assert "demand_mean" in challenger.predicted
    assert challenger.claims is None
    assert challenger.against(1.0) == ()


def test_too_many_other_numbers_are_a_question_for_a_person(home: Path) -> None:
    log = Home(home).reader()
    tight = msgspec.structs.replace(OrderCosts(), price_of_money_bp=5_000)
    shadow = shadowed(asked_of(Deployment(Home(home), SYSTEM, log), Change(params=tight)), last=100)
    log.close()
    assert any("a question for a person" in one for one in shadow.against(0.1))
