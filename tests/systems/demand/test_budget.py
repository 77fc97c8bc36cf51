from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.demand_log import lived, played
from typer.testing import CliRunner

from decalog.decisions import Decision
from decalog.errors import ConfigError, DataError
from decalog.home import Home
from decalog.systems.demand import added, budget
from decalog.systems.demand.limits import Kept, Limit, Night, limits_of, verdict_of
from decalog.systems.demand.policy import PER, OrderCosts, OrderPolicy

COSTS = OrderCosts()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that learnt from sixty days and decided for eight; planners raised every third order by a half."""
    root = tmp_path_factory.mktemp("budget")
    lived(root, days=60, live=8, raised=3)
    return root


@pytest.fixture(scope="module")
def decisions(home: Path) -> list[Decision]:
    """The orders of a night, each with what a case takes: 2 to 10 l, and 1 to 4 kg."""
    log = Home(home).reader()
    found = budget.last_night(log)
    log.close()
    sizes = [{"case_volume_ml": 2_000 + 500 * (at % 17), "case_weight_g": 1_000 + 300 * (at % 11)} for at in range(99)]
    return [told(one, more) for one, more in zip(found, itertools.cycle(sizes), strict=False)]


def told(decision: Decision, more: Mapping[str, int]) -> Decision:
    """Returns a decision whose request says more."""
    request = msgspec.structs.replace(decision.request, attributes={**decision.request.attributes, **more})
    return msgspec.structs.replace(decision, request=request)


def best_of_all(night: Night, limits: Sequence[Limit]) -> float:
    """Returns what the best of all combinations of cases brings, each tried."""
    options = []
    for asked, worth in zip(night.asked, night._worths, strict=True):
        cases = [n for n in range(12) if n <= asked.room and (n == 0 or n >= asked.least)]
        gains = [worth(n * asked.pack) - worth(0) for n in cases]
        options.append([(n, gain) for n, gain in zip(cases, gains, strict=True) if gain >= 0])
    best = 0.0
    for plan in itertools.product(*options):
        taken = [
            sum(n * one.takes[limit.kind] for (n, _), one in zip(plan, night.asked, strict=True)) for limit in limits
        ]
        fits = all(one <= limit.most for one, limit in zip(taken, limits, strict=True))
        best = max(best, sum(gain for _, gain in plan)) if fits else best
    return best


def kept_within(kept: Kept, limits: Sequence[Limit]) -> bool:
    return all(np.all(plan.taken <= [limit.most for limit in limits]) for plan in (kept.priced, kept.best))


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("least", [0, 3])
@pytest.mark.parametrize("kinds", [("money",), ("volume",), ("money", "volume", "weight")])
def test_the_best_plan_is_that_of_trying_all(
    decisions: list[Decision], share: float, least: int, kinds: tuple[str, ...]
) -> None:
    wanted = sorted(decisions, key=lambda one: one.choice.quantity / int(one.request.attributes["pack"]))
    few = [told(one, {"least_cases": least}) for one in [one for one in wanted if one.choice.quantity][:5]]
    night = Night(few, COSTS)
    free = night.bought(COSTS, [Limit(kind, "", 0.0) for kind in PER if kind in kinds])
    named = [kind for kind in PER if kind in kinds]
    limits = [Limit(kind, "", share * taken) for kind, taken in zip(named, free.taken.tolist(), strict=True)]
    kept = night.kept(limits)
    best = best_of_all(night, limits)
    assert kept.best.worth_minor == pytest.approx(best)
    assert kept.priced.worth_minor <= best + 1e-6 <= kept.bound_minor + 2e-6 <= kept.relaxed_minor + 3e-6
    assert kept_within(kept, limits)
    if share == 1.0:
        assert kept.prices == {}
        assert kept.priced.units == kept.best.units == free.units


def test_prices_are_what_the_policy_orders_by_and_none_could_be_lower(decisions: list[Decision]) -> None:
    night = Night(decisions, COSTS)
    money, volume = night.bought(COSTS, [Limit("money", "", 0.0), Limit("volume", "", 0.0)]).taken.tolist()
    limits = [
        Limit("money", "", 0.7 * money),
        *(Limit("volume", place, 0.15 * volume) for place in sorted({one.places[2] for one in night.asked})),
    ]
    kept = night.kept(limits)
    assert kept_within(kept, limits)
    assert kept.prices
    assert kept.gap_minor < 0.15 * kept.bound_minor, "a case or so for each of nine limits"
    for key, price in kept.prices.items():
        lower = msgspec.structs.replace(COSTS, limit_prices={**kept.prices, key: price - 1})
        assert np.any(night.bought(lower, limits).taken > [limit.most for limit in limits]), key
    policy = OrderPolicy(msgspec.structs.replace(COSTS, limit_prices=kept.prices))
    assert [verdict_of(policy, one).choice.quantity for one in decisions] == kept.priced.units


def test_a_least_order_has_to_bring_its_price_where_limits_are_shared(decisions: list[Decision]) -> None:
    one = max(decisions, key=lambda one: one.choice.quantity)
    pack = int(one.request.attributes["pack"])
    many = told(one, {"least_cases": int(one.choice.quantity) // pack + 1})
    brings = Night([many], COSTS).kept([Limit("money", "", 1e12)]).priced
    # The first case brings more than this price, the least order does not.
    price = int(10_000 * brings.worth_minor / brings.spent_minor) + 1
    before = OrderPolicy(OrderCosts(price_of_money_bp=price))
    assert verdict_of(before, many).choice.quantity == brings.units[0], "as in logs before shared limits"
    shared = OrderPolicy(OrderCosts(price_of_money_bp=price, limit_prices={}))
    assert not verdict_of(shared, many).choice.quantity


def test_limits_are_read_by_store_and_delivery(decisions: list[Decision]) -> None:
    night = Night(decisions, COSTS).asked
    places = sorted({one.places[2] for one in night})
    assert len(places) > 2
    each = limits_of("volume", "12.5", each="delivery", night=night)
    assert each == [Limit("volume", place, 12.5) for place in places]
    own = limits_of("volume", "s1=3", each="delivery", night=night)
    assert [one.place for one in own] == [place for place in places if place.startswith("/s1/")]
    assert limits_of("weight", f"{places[0][1:]}=3", each="delivery", night=night) == [Limit("weight", places[0], 3.0)]
    assert limits_of("money", "s1=3", each="store", night=night) == [Limit("money", "/s1", 3.0)]
    assert limits_of("money", "all=3", each="store", night=night) == [Limit("money", "", 3.0)]
    for words in ("s99=3", "s1=x", "-1", "s1=inf", ""):
        with pytest.raises(ConfigError, match="STORE/DAYS=NUMBER of a delivery"):
            limits_of("volume", words, each="delivery", night=night)


def test_a_limit_has_a_name_that_the_policy_knows() -> None:
    OrderPolicy(OrderCosts(limit_prices={"money": 1, "volume/s1": 2, "weight/s1/2": 3}))
    with pytest.raises(ConfigError, match=r"limit_prices: 'volume/s1/x'.*volume/STORE or weight/STORE/DAYS"):
        OrderPolicy(OrderCosts(limit_prices={"volume/s1/x": 1}))


def test_the_command_says_what_to_set(home: Path) -> None:
    said = CliRunner().invoke(budget.app, ["1", "--home", str(home)])
    assert said.exit_code == 0
    assert "by prices:  0 orders, 0 units for 0.00 EUR" in said.output
    assert 'limit_prices = {"money" = ' in said.output
    assert "nothing to change" in CliRunner().invoke(budget.app, ["1000000", "--home", str(home)]).output


def test_the_command_is_for_programs_too_and_writes_a_planners_file(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "orders.csv"
    words = ["--store-budget", "s1=20", "--json", "--home", str(home), "--orders", str(file)]
    said = json.loads(CliRunner().invoke(budget.app, words).output)
    limit = said["limits"]["money/s1"]
    assert limit["best_found"] <= limit["most"] == 2_000 < limit["in_force"]
    assert said["limit_prices"] == {"money/s1": limit["price"]}
    assert 0 <= said["gap_minor"] == pytest.approx(said["bound_minor"] - said["by_prices"]["worth_minor"])
    lines = file.read_text().splitlines()
    assert lines[0] == "series,units,why,decision_id"
    assert len(lines) > 1
    assert all(line.startswith("s1/") and ",supply," in line for line in lines[1:])


def test_what_cannot_be_kept_says_why(home: Path, decisions: list[Decision]) -> None:
    log = Home(home).reader()
    night = budget.last_night(log)
    log.close()
    with pytest.raises(ConfigError, match="no limit"):
        budget.kept(night, COSTS, asked=())
    with pytest.raises(ConfigError, match="no order says what a case takes"):
        budget.kept(night, COSTS, asked=[("weight", "5", "delivery")])
    with pytest.raises(ConfigError, match="orders go by service, whatever that costs"):
        Night(decisions, OrderCosts(service_level_bp=9_500))


def test_orders_that_say_no_size_are_counted(decisions: list[Decision]) -> None:
    some = [told(one, {"case_volume_ml": 0}) if at % 2 else one for at, one in enumerate(decisions)]
    found = budget.kept(some, COSTS, asked=[("volume", "1000", "delivery")])
    assert f"{len(some) // 2} orders do not say what a case takes" in "\n".join(budget._lines(found))


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
    own = [steps["changes of p0"], steps["changes of p1"]]
    assert sum(step.orders for step in own) == changes.orders
    assert all(step.brings is not None and step.brings.value < 0 for step in own)
    assert steps["the plan"].brings is None, "nobody planned"
    assert "EUR an order" in system.text("EUR")
    assert "tell nothing" in steps["the plan"].text("EUR")


def test_the_steps_are_for_programs_too(home: Path) -> None:
    lines = CliRunner().invoke(added.app, ["--home", str(home)]).output.splitlines()
    said = json.loads(CliRunner().invoke(added.app, ["--json", "--home", str(home)]).output)
    assert (said["currency"], said["least_orders"], len(said["steps"])) == ("EUR", 20, len(lines))
    steps = {step["name"]: step for step in said["steps"]}
    system, plan, own = steps["the system"], steps["the plan"], steps["changes of p1"]
    assert system["brings"]["low"] < system["brings"]["value"] < system["brings"]["high"]
    assert f"{system['brings']['value'] / 100:+,.2f} EUR an order" in lines[0]
    assert plan == {
        "name": "the plan", "over": "the system", "orders": 0, "brings": None, "why": None, "planner": None
    }  # fmt: skip
    assert (own["planner"], own["why"], steps["changes for judgement"]["why"]) == ("p1", None, "judgement")


def test_a_log_without_orders_says_so(tmp_path: Path) -> None:
    played(tmp_path, days=2)
    log = Home(tmp_path).reader()
    with pytest.raises(DataError, match="a log without an order that was decided by a forecast"):
        budget.last_night(log)
    with pytest.raises(DataError, match="no order that was decided here and whose sales were told"):
        added.steps_of(log, OrderPolicy(OrderCosts()))
    log.close()
