from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from decalog.candidates import Candidate
from decalog.errors import ConfigError
from decalog.events import Event
from decalog.policy import Case
from decalog.systems.demand.policy import COST, PRICE, USUAL, OrderCosts, OrderPolicy, Replenishment
from decalog.systems.demand.schema import HEADS, LEVELS, ORDER

DRY = OrderCosts(instead_bp=0, holding_bp=0)


def due(**more: Any) -> Event:
    facts = {PRICE: 200, COST: 120, "on_hand": 0, "horizon_days": 1, "lead_days": 1, "pack": 1, "shelf_days": 1, **more}
    return Event("r", "replenishment", 0, 0, {}, facts)


def case(request: Event, quantiles: Any = None, *, mean: float = 50.0, features: Any = None) -> Case:
    said = {} if quantiles is None else dict(zip(HEADS, (mean, *quantiles), strict=True))
    return Case(request, (Candidate("r", "request", said),), features or {}, lambda _name: 0.5)


def units(policy: OrderPolicy, of: Case) -> float:
    return policy.decide(of).choice.slots[0].value or 0.0


def uniform(low: float, high: float) -> list[float]:
    return [low + (high - low) * level for level in LEVELS]


def test_what_spoils_in_a_night_is_ordered_by_the_critical_fractile() -> None:
    """Margin 80 against a cost of 120: 40 % of nights sell out of a uniform demand of 0 to 1,000 at 400."""
    assert units(OrderPolicy(DRY), case(due(), uniform(0, 1_000), mean=500.0)) == pytest.approx(400, abs=60)


@pytest.mark.parametrize("shelf_days", [1, 2, 5, 3_650])
@pytest.mark.parametrize("pack", [1, 7])
@pytest.mark.parametrize("on_hand", [0, 23])
def test_no_other_number_of_cases_is_expected_to_bring_more(shelf_days: int, pack: int, on_hand: int) -> None:
    costs = OrderCosts(holding_bp=50)
    request, quantiles = due(shelf_days=shelf_days, pack=pack, on_hand=on_hand), uniform(20, 80)
    asked = Replenishment.of(request)
    assert asked is not None
    weights = np.diff(np.concatenate([[0.0], (np.array(LEVELS)[1:] + np.array(LEVELS)[:-1]) / 2, [1.0]]))

    def expected(number: int) -> float:
        worth = [asked.worth(number * pack, demand, usual=50.0, costs=costs) for demand in quantiles]
        return float(weights @ worth)

    best = max(expected(number) for number in range(200))
    verdict = OrderPolicy(costs).decide(case(request, quantiles))
    ordered = verdict.choice.slots[0].value or 0.0
    assert ordered % pack == 0
    assert expected(int(ordered) // pack) == pytest.approx(best)
    assert verdict.expected_minor == pytest.approx(best, abs=1)
    assert (verdict.choice.action, verdict.choice.slots[0].ref) == (ORDER, "r")


def test_what_lasts_longer_is_ordered_more_of_and_what_is_there_less() -> None:
    ordered = [units(OrderPolicy(DRY), case(due(shelf_days=days), uniform(20, 80))) for days in (1, 2, 4)]
    assert ordered == sorted(ordered)
    assert ordered[0] < ordered[2]
    with_stock = units(OrderPolicy(DRY), case(due(shelf_days=4, on_hand=10, on_order=5), uniform(20, 80)))
    assert with_stock == ordered[2] - 15


def test_a_price_on_money_orders_less_and_a_level_of_service_as_much_as_it_says() -> None:
    request = due(shelf_days=3_650)
    plain, dear = (
        units(OrderPolicy(OrderCosts(price_of_money_bp=price)), case(request, uniform(20, 80))) for price in (0, 2_000)
    )
    assert dear < plain
    for level in (0.5, 0.9, 0.975):
        policy = OrderPolicy(OrderCosts(service_level_bp=round(10_000 * level)))
        assert units(policy, case(request, uniform(0, 100))) == pytest.approx(np.ceil(100 * level), abs=1)


def test_a_least_order_is_met_where_it_is_worth_it_and_else_left_out() -> None:
    many, few = (
        case(due(least_cases=30, shelf_days=2), uniform(20, 80)),
        case(due(least_cases=30), uniform(1, 4), mean=2.0),
    )
    policy = OrderPolicy(OrderCosts())
    assert units(policy, many) >= 30
    verdict = policy.decide(few)
    assert verdict.choice.slots[0].value == 0
    assert [one.name for one in verdict.guardrails] == ["least_order"]


def test_no_more_than_there_is_room_for() -> None:
    verdict = OrderPolicy(OrderCosts()).decide(case(due(most_units=13, pack=6), uniform(20, 80)))
    assert verdict.choice.slots[0].value == 12
    assert [(one.name, one.after) for one in verdict.guardrails] == [("room", "2 cases")]


def test_a_promotion_earns_less_on_each_unit() -> None:
    plain, promoted = (
        units(OrderPolicy(OrderCosts()), case(due(**facts), uniform(20, 80)))
        for facts in ({}, {"promo_days": 1, "discount_bp": 3_000})
    )
    assert promoted < plain
    asked = case(due(promo_days=1, discount_bp=6_000), uniform(20, 80))
    at_a_loss = [units(OrderPolicy(OrderCosts(serves_losses=serves)), asked) for serves in (False, True)]
    assert at_a_loss == [0, plain], "whoever promotes below cost to draw people in says so"


def test_without_a_forecast_usual_sales_are_ordered_and_some_days_on_top() -> None:
    policy = OrderPolicy(OrderCosts(fallback_days=2, open_h=10))
    asked = case(due(horizon_days=3, open_days=2, on_hand=8, pack=5), features={USUAL: 1.5})
    verdict = policy.fall_back(asked, "no_model")
    assert verdict.choice.slots[0].value == 55  # 4 days of 15, less 8, in cases of 5
    assert "no_model" in verdict.choice.reasons[1]
    unknown = policy.fall_back(case(due(planned=12), features={USUAL: -1.0}), "features_late")
    assert unknown.choice.slots[0].value == 12
    assert policy.fall_back(case(due()), "no_model").choice.slots[0].value == 0


def test_a_request_without_prices_falls_back() -> None:
    bare = Event("r", "replenishment", 0, 0, {}, {"on_hand": 0, "horizon_days": 1, "planned": 4})
    verdict = OrderPolicy(OrderCosts()).decide(case(bare, uniform(1, 9)))
    assert verdict.choice.slots[0].value == 4
    assert verdict.choice.reasons[0].startswith("no_price")
    assert OrderPolicy(OrderCosts()).worth(bare, 4, label=3, usual=3) == 0


def test_every_parameter_out_of_range_is_named() -> None:
    with pytest.raises(ConfigError, match=r"holding_bp.*service_level_bp"):
        OrderPolicy(OrderCosts(holding_bp=-1, service_level_bp=10_000))
