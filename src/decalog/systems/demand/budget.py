"""`decalog budget demand`: the price on money that keeps a night's orders within a budget, from the log.

Orders of a night are independent but for the money that they share. A price on money parts them: each order takes the
cases that bring more than the price of what they cost, and the lowest price that keeps the budget is the one to set
(Everett, Operations Research 11, 1963: what is best under a price is best among all plans that cost as much). Nothing
is changed: `decalog policy` sets the price once somebody has seen what it costs.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import typer

from decalog.candidates import Candidate
from decalog.clock import DAY
from decalog.decisions import Decision
from decalog.deployment import Deployment
from decalog.errors import ConfigError, DataError
from decalog.home import Home
from decalog.log import Log
from decalog.policy import Case
from decalog.systems.demand.policy import OrderCosts, OrderPolicy, Replenishment
from decalog.systems.demand.system import SYSTEM
from decalog.tails import newest

_MOST_BP = 100_000
"""The highest price that is tried: ten times the cost."""

app = typer.Typer(add_completion=False, rich_markup_mode=None, help="Keep a night's orders within a budget.")


class Night(NamedTuple):
    """What a night's orders come to under a price: the price, hundredths of a percent, units, and minor units."""

    price_bp: int
    orders: int
    units: float
    spent_minor: float
    expected_minor: int

    def text(self, currency: str) -> str:
        """Returns it in a line."""
        return (
            f"price of money {self.price_bp / 100:6.2f} %: {self.orders:,} orders, {self.units:,.0f} units for "
            f"{self.spent_minor / 100:,.2f} {currency}, expected to bring {self.expected_minor / 100:,.2f}"
        )


@app.command(epilog="Example:  decalog budget demand 25000.00")
def budget(
    most: Annotated[float, typer.Argument(help="What may be spent, in major units of the base currency.", min=0)],
    home: Annotated[Path, typer.Option("--home", envvar="DECALOG_HOME", help="Where the log lives.")] = Path("var"),
) -> None:
    """Find the price on money by which the last night's orders would have kept a budget, and what that costs."""
    with closing(Home(home).reader()) as log:
        params = Deployment(Home(home), SYSTEM.name, log).policy_params()
        decisions = last_night(log)
    costs = params if isinstance(params, OrderCosts) else OrderCosts()
    currency = decisions[0].currency
    now, then = planned(decisions, costs), within(decisions, costs, most_minor=most * 100)
    typer.echo(f"in force:  {now.text(currency)}\nin budget: {then.text(currency)}")
    is_kept = then.price_bp == now.price_bp
    typer.echo(
        "nothing to change" if is_kept else f"for `decalog policy demand set`: price_of_money_bp = {then.price_bp}"
    )


def within(decisions: Sequence[Decision], costs: OrderCosts, *, most_minor: float) -> Night:
    """Returns a night's orders under the lowest price on money, not below the one in force, that keeps a budget.

    Raises:
        ConfigError: no price does, because not even nothing is cheap enough.
    """
    least = costs.price_of_money_bp
    prices = range(least, _MOST_BP + 1)
    place = bisect.bisect_left(prices, -most_minor, key=lambda price: -_at(decisions, costs, price).spent_minor)
    if place == len(prices):
        raise ConfigError(
            where="demand budget",
            given=f"{most_minor / 100:,.2f}, below what least orders cost at any price",
            expected="0 or more, and room for orders that have to be made",
            fix="Raise the budget, or lower least_cases in the requests.",
        )
    return _at(decisions, costs, prices[place])


def planned(decisions: Sequence[Decision], costs: OrderCosts) -> Night:
    """Returns what a night's orders come to as the policy in force makes them."""
    return _at(decisions, costs, costs.price_of_money_bp)


def _at(decisions: Sequence[Decision], costs: OrderCosts, price_bp: int) -> Night:
    policy = OrderPolicy(msgspec.structs.replace(costs, price_of_money_bp=price_bp))
    orders, units, spent, expected = 0, 0.0, 0.0, 0
    for decision in decisions:
        lead, asked = decision.lead, Replenishment.of(decision.request)
        if lead is None or asked is None:
            continue
        verdict = policy.decide(Case(decision.request, (Candidate(lead.ref, "", lead.predictions),), {}, _no_draw))
        ordered = verdict.choice.quantity
        orders, units = orders + (ordered > 0), units + ordered
        spent, expected = spent + ordered * asked.cost, expected + verdict.expected_minor
    return Night(price_bp, orders, units, spent, expected)


def last_night(log: Log) -> list[Decision]:
    """Returns the decisions of the last day on which any was made here by predictions.

    Raises:
        DataError: none was.
    """
    found: list[Decision] = []
    for decision in (one for _, one in newest(log, SYSTEM.name) if one.mode == "live"):
        if found and decision.request.event_time // DAY != found[0].request.event_time // DAY:
            break
        found.append(decision)
    if not found:
        raise DataError(
            where="demand budget",
            given="a log without an order that was decided by a forecast",
            expected="a night of them",
            fix="`decalog serve demand` decides; come back after a night.",
        )
    return found


def _no_draw(_name: str) -> float:
    return 0.0
