"""How demand's loop goes round: what a challenger may not make worse for shoppers, on the shelf, and in what is earned.

A series is ordered for by one arm throughout, so that no arm finds the stock that the other left. What an order brings
shows within days; the gate judges the distribution on what was wanted, sold out or not.
"""

from __future__ import annotations

from decalog.gate import Standards
from decalog.guardrails import Guardrail, Told
from decalog.loop import LoopPlan
from decalog.outcomes import Outcome
from decalog.systems.demand.policy import OrderPolicy, Replenishment
from decalog.systems.demand.schema import CENSORED, SALES

_AFTER = "14d"
"""How long a series is followed: the nights of a fortnight, most of whose orders are over by then."""
_BP = 10_000


def _sales(told: Told) -> Outcome | None:
    return next((outcome for outcome in told.said if outcome.kind == SALES), None)


def _sold_out(told: Told, _policy: OrderPolicy) -> float:
    """Returns whether the shelf was empty meanwhile."""
    sales = _sales(told)
    return float(sales is not None and bool(sales.attributes.get(CENSORED)))


def _wasted(told: Told, _policy: OrderPolicy) -> float:
    """Returns what was thrown away meanwhile, at cost, minor units."""
    sales, asked = _sales(told), Replenishment.of(told.decision.request)
    return 0.0 if sales is None or asked is None else float(sales.attributes.get("wasted", 0)) * asked.cost


def _earned(told: Told, policy: OrderPolicy) -> float:
    """Returns the margin of what was sold over the interval, less what was thrown away and what lying there cost."""
    sales, asked = _sales(told), Replenishment.of(told.decision.request)
    if sales is None or asked is None:
        return 0.0
    left = float(sales.attributes.get("left", 0))
    holding = policy.params.holding_bp / _BP * asked.cost * asked.horizon_days * left
    return asked.margin * sales.value - _wasted(told, policy) - holding


LOOP = LoopPlan(
    guardrails=(
        Guardrail(
            name="earned_an_order",
            meaning="margin of what is sold until the next order, less waste and holding",
            unit="minor units an order",
            better="higher",
            value=_earned,
            allowed=0.0,
            excluded=0.1,
            is_relative=True,
            after=_AFTER,
        ),
        Guardrail(
            name="sold_out",
            meaning="intervals in which the shelf was empty for a while",
            unit="share of orders",
            better="lower",
            value=_sold_out,
            allowed=0.02,
            excluded=0.1,
            bounds=(0.0, 1.0),
            after=_AFTER,
        ),
        Guardrail(
            name="wasted_an_order",
            meaning="what is thrown away until the next order, at cost",
            unit="minor units an order",
            better="lower",
            value=_wasted,
            allowed=0.0,
            excluded=200.0,
            after=_AFTER,
        ),
    ),
    standards=Standards(slices=("category", "store"), off=0.25, least_positives=200),
    drift=("inputs", "predictions"),
    # What a store counts in another unit is not to be learnt.
    held_by=("unheard", "found"),
    # A better forecast moves most orders by a case; in which direction, and what it brings, the canary says.
    most_changed=1.0,
    shadow=1_000,
)
