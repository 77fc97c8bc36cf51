from __future__ import annotations

from pathlib import Path

import pytest
from tests.demand_log import lived, played
from typer.testing import CliRunner

from decalog.errors import ConfigError, DataError
from decalog.home import Home
from decalog.systems.demand import added, budget
from decalog.systems.demand.policy import OrderCosts, OrderPolicy


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that learnt from sixty days and decided for eight; planners raised every third order by a half."""
    root = tmp_path_factory.mktemp("budget")
    lived(root, days=60, live=8, raised=3)
    return root


def test_the_lowest_price_that_keeps_the_budget_is_found(home: Path) -> None:
    log = Home(home).reader()
    night, costs = budget.last_night(log), OrderCosts()
    log.close()
    free = budget.planned(night, costs)
    assert free.orders > 5
    half = budget.within(night, costs, most_minor=free.spent_minor / 2)
    assert half.spent_minor <= free.spent_minor / 2
    assert half.price_bp > 0
    cheaper = OrderCosts(price_of_money_bp=half.price_bp - 1)
    assert budget.planned(night, cheaper).spent_minor > free.spent_minor / 2
    assert half.expected_minor < free.expected_minor
    assert half.expected_minor > free.expected_minor / 2, "what is left out brings least for its money"
    assert budget.within(night, costs, most_minor=free.spent_minor) == free


def test_the_command_says_what_to_set(home: Path) -> None:
    told = CliRunner().invoke(budget.app, ["1", "--home", str(home)])
    assert told.exit_code == 0
    assert "0 units for 0.00 EUR" in told.output
    assert "price_of_money_bp = " in told.output
    assert "nothing to change" in CliRunner().invoke(budget.app, ["1000000", "--home", str(home)]).output


def test_least_orders_can_be_beyond_any_budget(home: Path) -> None:
    log = Home(home).reader()
    with pytest.raises(ConfigError, match="below what least orders cost at any price"):
        budget.within(budget.last_night(log), OrderCosts(), most_minor=-1)
    log.close()


def test_each_step_is_worth_something_and_rises_for_nothing_cost(home: Path) -> None:
    log = Home(home).reader()
    steps = {step.name: step for step in added.steps_of(log, OrderPolicy(OrderCosts()))}
    log.close()
    system, changes = steps["the system"], steps["planners' changes"]
    assert system.brings is not None
    assert system.orders > 100
    assert changes.brings is not None
    assert changes.brings.value < 0, "half as much again, whatever the forecast says, costs money"
    assert steps["changes for judgement"].brings == changes.brings
    assert steps["the plan"].brings is None, "nobody planned"
    assert "EUR an order" in system.text("EUR")
    assert "tell nothing" in steps["the plan"].text("EUR")


def test_a_log_without_orders_says_so(tmp_path: Path) -> None:
    played(tmp_path, days=2)
    log = Home(tmp_path).reader()
    with pytest.raises(DataError, match="a log without an order that was decided by a forecast"):
        budget.last_night(log)
    with pytest.raises(DataError, match="no order that was decided here and whose sales were told"):
        added.steps_of(log, OrderPolicy(OrderCosts()))
    log.close()
