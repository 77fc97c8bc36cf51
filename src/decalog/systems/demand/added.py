"""`decalog value demand`: forecast value added, step by step, and what planners' changes brought, from the log.

Each step of planning has to earn its keep against the one before it: a naive forecast, the system's, and what a planner
ordered in its place (Gilliland, The Business Forecasting Deal, 2010). Orders are compared in money by the policy's own
worth, on what was wanted; planners' changes are told apart by their reasons and by who made them, a pseudonym.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
import typer

from decalog.decisions import Decision, decode_decision, unpack_features
from decalog.deployment import Deployment
from decalog.errors import DataError
from decalog.events import Event, Record, decode_event
from decalog.examples import Floats
from decalog.home import Home
from decalog.log import Log
from decalog.metrics import Measurement
from decalog.outcomes import LabelBook, LabelState, Outcome
from decalog.policy import Case
from decalog.quantities import Image, Told, standing
from decalog.quantity_metrics import usual_of
from decalog.statistics.clusters import clusters, ratio
from decalog.systems.demand.features import FEATURES
from decalog.systems.demand.policy import OrderCosts, OrderPolicy
from decalog.systems.demand.recovered import recovered
from decalog.systems.demand.schema import ORDER, OVERRIDE, SCHEMA
from decalog.systems.demand.system import SYSTEM

_LEAST = 20
"""Orders below which a step's value is not told."""

app = typer.Typer(add_completion=False, rich_markup_mode=None, help="What each step of planning adds.")


class Order(NamedTuple):
    """One order: the request, what was decided, planned and set in its place by a planner, why and by whom."""

    request: Event
    decided: float
    fallback: float | None
    planned: float | None
    override: float | None
    why: str
    planner: str

    def is_of(self, why: str | None, planner: str | None) -> bool:
        """Returns whether it was changed for a reason, or by a planner, whichever is not None."""
        return self.why == why if planner is None else self.planner == planner


class Step(NamedTuple):
    """What one way of ordering brings beyond another, minor units an order; None where too few orders tell.

    Of planners' changes alone, `why` or `planner` says which.
    """

    name: str
    over: str
    orders: int
    brings: Measurement | None
    why: str | None = None
    planner: str | None = None

    def text(self, currency: str) -> str:
        """Returns it in a line."""
        if self.brings is None:
            return f"{self.name} over {self.over}: {self.orders:,} orders, fewer than {_LEAST} tell nothing"
        low, value, high = (one / 100 for one in (self.brings.low, self.brings.value, self.brings.high))
        span = f"{low:+,.2f} to {high:+,.2f}"
        return f"{self.name} over {self.over}: {value:+,.2f} {currency} an order ({span}), {self.orders:,} orders"

    def told(self) -> dict[str, Any]:
        """Returns it for a machine; what is not known is null."""
        brings = self.brings
        known = None if brings is None else {"value": brings.value, "low": brings.low, "high": brings.high}
        return {**self._asdict(), "brings": known}


@app.command(epilog="Example:  decalog value demand")
def value(
    *,
    home: Annotated[Path, typer.Option("--home", envvar="DECALOG_HOME", help="Where the log lives.")] = Path("var"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: minor units an order.")] = False,
) -> None:
    """Say what the system's orders bring beyond a planner's rule, and planners' changes beyond the system's orders."""
    with closing(Home(home).reader()) as log:
        deployment = Deployment(Home(home), SYSTEM.name, log)
        params, currency = deployment.policy_params(), deployment.rates().base
        steps = steps_of(log, OrderPolicy(params if isinstance(params, OrderCosts) else OrderCosts()))
    told = {"currency": currency, "least_orders": _LEAST, "steps": [step.told() for step in steps]}
    lines = (step.text(currency) for step in steps)
    typer.echo(msgspec.json.encode(told).decode() if as_json else "\n".join(lines))


def steps_of(log: Log, policy: OrderPolicy) -> list[Step]:
    """Returns what each step adds, on orders of which it is known what was wanted.

    Raises:
        DataError: of no order that was decided here it is known.
    """
    orders, told = _read(log, policy)
    if not orders:
        raise DataError(
            where="value of demand's steps",
            given="no order that was decided here and whose sales were told",
            expected="some of them",
            fix="Wait until the days that orders were for are over.",
        )
    _, wanted = recovered(told, 0)
    worth = _Worth(policy, orders, wanted)
    return [*_steps(worth, orders), *_planners(worth, orders)]


def _steps(worth: _Worth, orders: Sequence[Order]) -> Iterator[Step]:
    yield worth.step("the system", "a planner's rule", pairs=[(one.decided, one.fallback) for one in orders])
    yield worth.step("the plan", "the system", pairs=[(one.planned, one.decided) for one in orders])
    yield worth.step("planners' changes", "the system", pairs=[(one.override, one.decided) for one in orders])


def _planners(worth: _Worth, orders: Sequence[Order]) -> Iterator[Step]:
    """Yields what changes bring by reason, and then by who made them."""
    changed = [one for one in orders if one.override is not None]
    apart: list[tuple[str, str | None, str | None]] = [
        *((f"changes for {why or 'no reason'}", why, None) for why in sorted({one.why for one in changed})),
        *((f"changes of {one}", None, one) for one in sorted({one.planner for one in changed} - {""})),
    ]
    for name, why, planner in apart:
        pairs = [(one.override if one.is_of(why, planner) else None, one.decided) for one in orders]
        yield worth.step(name, "the system", pairs=pairs)._replace(why=why, planner=planner)


class _Worth:
    """What ways of ordering bring on the same requests."""

    def __init__(self, policy: OrderPolicy, orders: Sequence[Order], wanted: Floats) -> None:
        self._policy, self._orders, self._wanted = policy, orders, wanted
        self._groups = np.array([one.request.entities.get("series", -1) for one in orders], np.int64)
        self._usual = usual_of(wanted, self._groups)

    def step(self, name: str, over: str, *, pairs: Sequence[tuple[float | None, float | None]]) -> Step:
        """Returns what the first of each pair brings beyond the second, where both are known."""
        places = [place for place, both in enumerate(pairs) if None not in both and np.isfinite(self._wanted[place])]
        if len(places) < _LEAST:
            return Step(name, over, len(places), None)
        gains = np.array([self._one(place, pairs[place][0]) - self._one(place, pairs[place][1]) for place in places])
        rows = clusters(self._groups[places], n=len(places), where="value added")
        brings = ratio(gains, np.ones(len(places)), rows=rows, where="value added").measured()
        return Step(name, over, len(places), brings)

    def _one(self, place: int, units: float | None) -> float:
        request, wanted, usual = self._orders[place].request, float(self._wanted[place]), float(self._usual[place])
        return self._policy.worth(request, units or 0.0, label=wanted, usual=usual)


def _read(log: Log, policy: OrderPolicy) -> tuple[list[Order], Told]:
    """Returns orders that were decided here and what is known of them, with the days that were told."""
    own = [record for record in log.read() if record.system == SYSTEM.name and not record.reason]
    book, now = LabelBook(SCHEMA), log.known_time
    book.add_all(own)
    images = [Image(one.root, one.known_time, decode_event(one.body)) for one in own if one.kind == "event"]
    found = [(decision, *_known(book, record, now)) for record, decision in _live(own)]
    kept = [(decision, state, said) for decision, state, said in found if state.value is not None]
    orders = [_order(decision, said, policy) for decision, _, said in kept]
    labels = np.array([state.value for _, state, _ in kept], np.float64)
    bounds = np.array([state.is_bound for _, state, _ in kept], np.bool_)
    return orders, Told([one.request for one in orders], labels, bounds, standing(images, now))


def _live(own: Sequence[Record]) -> Iterator[tuple[Record, Decision]]:
    decided = ((record, decode_decision(record.body)) for record in own if record.kind == "decision")
    return ((record, decision) for record, decision in decided if decision.mode == "live")


def _known(book: LabelBook, record: Record, now: int) -> tuple[LabelState, Mapping[str, Outcome]]:
    state = book.label(record.id, decided=record.known_time, acted=ORDER, known_by=now)
    return state, {outcome.kind: outcome for _, outcome in book.outcomes(record.id, now)}


def _order(decision: Decision, said: Mapping[str, Outcome], policy: OrderPolicy) -> Order:
    request, override = decision.request, said.get(OVERRIDE)
    planned = request.attributes.get("planned")
    return Order(
        request=request,
        decided=decision.choice.quantity,
        fallback=_ruled(decision, policy),
        planned=float(planned) if isinstance(planned, int) else None,
        override=None if override is None else override.value,
        why=_said(override, "why"),
        planner=_said(override, "planner"),
    )


def _said(override: Outcome | None, name: str) -> str:
    return "" if override is None else str(override.attributes.get(name, ""))


def _ruled(decision: Decision, policy: OrderPolicy) -> float | None:
    """Returns what the policy's rule would have ordered without a forecast; None where its features are not known."""
    lead = decision.lead
    if lead is None or decision.versions.features != FEATURES.version or not lead.features:
        return None
    values = dict(zip(FEATURES.names, unpack_features(lead.features).tolist(), strict=True))
    verdict = policy.fall_back(Case(decision.request, (lead,), values, lambda _name: 0.0), "no_model")
    return verdict.choice.quantity
