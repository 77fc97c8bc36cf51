"""`decalog budget demand`: prices by which a night's orders would have kept a budget and rooms, and what that costs.

The prices are for the policy, which then orders case by case what brings more than it takes (`limits.py`). Beside them
stands the best plan of whole cases under the same limits, by a solver: how far prices are from it, and, as a planner's
file, the plan itself. Nothing is changed: `decalog policy` sets the prices once somebody has seen what they cost.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from decalog.clock import DAY
from decalog.decisions import Decision
from decalog.deployment import Deployment
from decalog.errors import ConfigError, DataError
from decalog.home import Home
from decalog.log import Log
from decalog.systems.demand.limits import Kept, Limit, Night, Plan, limits_of
from decalog.systems.demand.policy import Kind, OrderCosts, Replenishment
from decalog.systems.demand.system import SYSTEM
from decalog.systems.demand.wire_workbook import safe
from decalog.tails import newest

_ML, _G, _MINOR = 1_000, 1_000, 100
_UNITS: dict[Kind, tuple[float, str]] = {"money": (_MINOR, ""), "volume": (_ML, " l"), "weight": (_G, " kg")}
"""How callers count what the policy counts in minor units, ml and g."""

app = typer.Typer(add_completion=False, rich_markup_mode=None, help="Keep a night's orders within shared limits.")


class Told(NamedTuple):
    """What the command tells of a night."""

    limits: list[Limit]
    now: Plan
    kept: Kept
    night: Night
    currency: str


@app.command(epilog="Example:  decalog budget demand 25000.00 --capacity 1800 --capacity s1=2400")
def budget(
    most: Annotated[
        float | None, typer.Argument(help="What all orders may cost, in major units of the base currency.", min=0)
    ] = None,
    *,
    store_budget: Annotated[list[str] | None, typer.Option(help="[STORE=]MONEY: what a store may spend.")] = None,
    capacity: Annotated[
        list[str] | None, typer.Option(help="[STORE[/DAYS]=]LITRES of each delivery, or all=LITRES of the night.")
    ] = None,
    weight: Annotated[list[str] | None, typer.Option(help="The same in KG.")] = None,
    orders: Annotated[Path | None, typer.Option(help="Write the best plan as a planner's file (CSV).")] = None,
    home: Annotated[Path, typer.Option("--home", envvar="DECALOG_HOME", help="Where the log lives.")] = Path("var"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find the prices by which the last night's orders would have kept limits, and the best plan under them."""
    named: list[tuple[Kind, str, list[str]]] = [
        ("money", "store", [f"all={most}"] if most is not None else []),
        ("money", "store", store_budget or []),
        ("volume", "delivery", capacity or []),
        ("weight", "delivery", weight or []),
    ]
    asked = [(kind, words, each) for kind, each, some in named for words in some]
    with closing(Home(home).reader()) as log:
        params = Deployment(Home(home), SYSTEM.name, log).policy_params()
        decisions = last_night(log)
    told = kept(decisions, params if isinstance(params, OrderCosts) else OrderCosts(), asked=asked)
    if orders is not None:
        orders.write_text(_file(told), encoding="utf-8")
    typer.echo(json.dumps(_fields(told)) if as_json else "\n".join(_lines(told)))


def kept(decisions: Sequence[Decision], costs: OrderCosts, *, asked: Sequence[tuple[Kind, str, str]]) -> Told:
    """Returns what a night comes to under limits.

    Args:
        decisions: of the night.
        costs: the policy's.
        asked: kind, words and places of each limit, as `limits_of` reads them; a later one replaces an earlier.

    Raises:
        ConfigError: no limit is asked for, one cannot be read, no order says what it takes of one, or orders go by
            service.
    """
    night = Night(decisions, costs)
    limits: dict[str, Limit] = {}
    for kind, words, each in asked:
        found = limits_of(kind, words, each=each, night=night.asked)
        limits |= {one.key: Limit(one.kind, one.place, one.most * _UNITS[kind][0]) for one in found}
    _check_told(list(limits.values()), night.asked)
    rows = list(limits.values())
    return Told(rows, night.bought(costs, rows), night.kept(rows), night, decisions[0].currency)


def _check_told(limits: Sequence[Limit], asked: Sequence[Replenishment]) -> None:
    lacking = [one for one in limits if not any(row.takes[one.kind] for row in asked if one.place in row.places)]
    if lacking or not limits:
        raise ConfigError(
            where="demand budget",
            given=f"{lacking[0].key}, of which no order says what a case takes" if lacking else "no limit",
            expected="case_volume_ml or case_weight_g in the requests" if lacking else "a budget, or a room",
            fix="Send it with each request." if lacking else "decalog budget demand 25000.00, or --capacity 1800.",
        )


def _lines(told: Told) -> Iterator[str]:
    found, rows = told.kept, _plans(told)
    yield from (f"{name + ':':12}{_text(plan, told.currency)}" for name, plan in rows.items())
    share = found.gap_minor / found.bound_minor if found.bound_minor > 0 else 0.0
    yield (
        f"no plan of whole cases brings more than {found.bound_minor / _MINOR:,.2f}; by prices it is at most "
        f"{found.gap_minor / _MINOR:,.2f} less ({share:.2%})"
    )
    yield f"{'limit':16}{'most':>14}{'in force':>14}{'by prices':>14}{'best found':>14}{'price':>10}"
    yield from (_row(told, place) for place in range(len(told.limits)))
    yield from _missing(told)
    prices = ", ".join(f'"{key}" = {price}' for key, price in sorted(found.prices.items()))
    is_new = found.prices != (told.night.costs.limit_prices or {})
    yield f"for `decalog policy demand set`: limit_prices = {{{prices}}}" if is_new else "nothing to change"


def _missing(told: Told) -> Iterator[str]:
    kinds = {one.kind for one in told.limits}
    missing = sum(any(not one.takes[kind] for kind in kinds) for one in told.night.asked)
    if missing:
        yield f"{missing} orders do not say what a case takes: they count as taking nothing"


def _plans(told: Told) -> dict[str, Plan]:
    return {"in force": told.now, "by prices": told.kept.priced, "best found": told.kept.best}


def _row(told: Told, place: int) -> str:
    limit = told.limits[place]
    scale, unit = _UNITS[limit.kind]
    numbers = (limit.most, *(plan.taken[place] for plan in _plans(told).values()))
    cells = "".join(f"{f'{number / scale:,.2f}{unit}':>14}" for number in numbers)
    return f"{limit.key:16}{cells}{told.kept.prices.get(limit.key, 0):>10,}"


def _text(plan: Plan, currency: str) -> str:
    return (
        f"{plan.orders:,} orders, {sum(plan.units):,} units for {plan.spent_minor / _MINOR:,.2f} {currency}, "
        f"expected to bring {plan.worth_minor / _MINOR:,.2f} more than none"
    )


def _fields(told: Told) -> dict[str, Any]:
    """Returns it for programs, in minor units, ml and g."""
    plans = {name.replace(" ", "_"): plan for name, plan in _plans(told).items()}
    return {
        "currency": told.currency,
        "limits": {
            limit.key: {
                "most": limit.most,
                **{name: float(plan.taken[place]) for name, plan in plans.items()},
                "price": told.kept.prices.get(limit.key, 0),
            }
            for place, limit in enumerate(told.limits)
        },
        **{
            name: {
                "orders": plan.orders,
                "units": sum(plan.units),
                "spent_minor": plan.spent_minor,
                "worth_minor": plan.worth_minor,
            }
            for name, plan in plans.items()
        },
        "bound_minor": told.kept.bound_minor,
        "lagrangian_bound_minor": told.kept.relaxed_minor,
        "gap_minor": told.kept.gap_minor,
        "limit_prices": told.kept.prices,
    }


def _file(told: Told) -> str:
    """Returns the orders of the best plan that were decided otherwise, as planners send them back."""
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(("series", "units", "why", "decision_id"))
    for decision, units in zip(told.night.decisions, told.kept.best.units, strict=True):
        if units != decision.choice.quantity:
            rows.writerow((safe(str(decision.request.attributes.get("series", ""))), units, "supply", decision.id))
    return text.getvalue()


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
