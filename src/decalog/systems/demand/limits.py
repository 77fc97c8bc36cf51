"""What a night's orders may take together, a budget or the room of a delivery, and the prices that keep them to it.

Orders are independent but for what they share. A price on each limit parts them: an order takes the cases that bring
more than what they take costs, and what is best under prices is best among all plans that take no more (Everett,
Operations Research 11, 1963). Each case of an order brings less than the one before, so the linear relaxation over
cases has the best prices as its duals, and its value is the Lagrangian bound, which no plan of whole cases passes
(Fisher, Management Science 27, 1981). How much of it whole cases can reach a mixed-integer program says: both are
solved by HiGHS, in SciPy.

    best    maximise Σ gain · x,  Σ takes · x ≤ most for each limit,  x = 0 or 1 for each further case of an order
    prices  the duals of the same with 0 ≤ x ≤ 1, rounded up, then lowered as far as the limits allow

The first cases of an order that has to have several are one piece, and later ones need it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.candidates import Candidate
from decalog.decisions import Decision
from decalog.errors import ConfigError
from decalog.policy import Case, Verdict
from decalog.systems.demand.policy import PER, Kind, OrderCosts, OrderPolicy, Replenishment, expected_of
from decalog.systems.demand.schema import HEADS

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_NEAR = 1e-9
_BP = 10_000
EACH = ("store", "delivery")
"""What a limit without a name holds for apart."""


class Limit(msgspec.Struct, frozen=True):
    """The most that orders may take together of one thing: `money` in minor units, `volume` in ml, `weight` in g.

    `place` is "" for all orders of the night, `/STORE` for those of a store, `/STORE/DAYS` for one delivery.
    """

    kind: Kind
    place: str
    most: float

    @property
    def key(self) -> str:
        """Its name among the policy's `limit_prices`."""
        return self.kind + self.place


class Plan(NamedTuple):
    """What a night's orders come to: units of each, what they take of each limit, and what they bring.

    `worth_minor` is expected, over ordering nothing, less what `price_of_money_bp` asks of the money.
    """

    units: list[int]
    taken: Floats
    spent_minor: float
    worth_minor: float

    @property
    def orders(self) -> int:
        """How many orders are for anything."""
        return int(np.count_nonzero(self.units))


class Kept(NamedTuple):
    """Plans that keep limits.

    Args:
        prices: by limit, for the policy.
        priced: what the policy orders by them.
        best: the best plan that was found.
        bound_minor: what no plan of whole cases passes: what the solver has proven.
        relaxed_minor: the same for parts of cases, the Lagrangian bound.
    """

    prices: dict[str, int]
    priced: Plan
    best: Plan
    bound_minor: float
    relaxed_minor: float

    @property
    def gap_minor(self) -> float:
        """What ordering by prices leaves of the bound, at most."""
        return max(self.bound_minor - self.priced.worth_minor, 0.0)


class Night:
    """The orders of a night as pieces, each a case more, or the cases that an order has at least.

    Args:
        decisions: with a forecast, prices and days; others are left out.
        costs: the policy's; orders go by money.

    Raises:
        ConfigError: the policy orders by service, which no price moves.
    """

    def __init__(self, decisions: Sequence[Decision], costs: OrderCosts) -> None:
        if costs.service_level_bp:
            raise ConfigError(
                where="demand budget",
                given=f"service_level_bp = {costs.service_level_bp}: orders go by service, whatever that costs",
                expected="orders that go by money, service_level_bp = 0",
                fix="Lower the level until the limits are kept, or order by money.",
            )
        self.costs = costs
        self.decisions: list[Decision] = []
        self.asked: list[Replenishment] = []
        self._worths: list[Callable[[int], float]] = []
        pieces: list[tuple[int, int, float]] = []
        for decision in decisions:
            asked = _asked(decision)
            if asked is not None:
                worth = _worth_of(decision, asked, costs)
                pieces += ((len(self.asked), cases, gain) for cases, gain in _pieces(asked, worth))
                self.decisions.append(decision)
                self.asked.append(asked)
                self._worths.append(worth)
        self._order = np.array([order for order, _, _ in pieces], np.int64)
        self._cases = np.array([cases for _, cases, _ in pieces], np.int64)
        self._gain = np.array([gain for _, _, gain in pieces], np.float64)

    def bought(self, costs: OrderCosts, limits: Sequence[Limit]) -> Plan:
        """Returns what the policy orders by its parameters."""
        policy = OrderPolicy(costs)
        return self._plan([int(verdict_of(policy, one).choice.quantity) for one in self.decisions], limits)

    def kept(self, limits: Sequence[Limit], *, most_s: float = 30.0) -> Kept:
        """Returns the prices that keep limits, what they bring, and how far from the best that is.

        Args:
            limits: to keep; each ≥ 0.
            most_s: how long the solver may look for the best plan, s.
        """
        takes = self._takes(limits)
        most = np.array([limit.most for limit in limits])
        duals, relaxed = _relaxed(self._gain, takes, most)
        prices = self._lowest(takes, most, [_rounded(dual, limit) for dual, limit in zip(duals, limits, strict=True)])
        named = {limit.key: price for limit, price in zip(limits, prices, strict=True) if price}
        priced = self.bought(msgspec.structs.replace(self.costs, limit_prices=named), limits)
        chosen, bound = _solved(self._gain, takes, most, needs=self._needs(), most_s=most_s)
        best = priced if chosen is None else self._plan(self._units(chosen), limits)
        if best.worth_minor < priced.worth_minor or np.any(best.taken > most):
            best = priced
        return Kept(named, priced, best, max(min(bound, relaxed), best.worth_minor), relaxed)

    def _lowest(self, takes: Any, most: Floats, prices: list[tuple[int, float]]) -> list[int]:
        """Returns prices that keep limits, none of which could be lower while the others stay."""
        found, scale = [price for price, _ in prices], np.array([per for _, per in prices])

        def keeps(place: int, price: int) -> bool:
            tried = np.array([*found[:place], price, *found[place + 1 :]]) * scale
            is_bought = self._gain > takes.T @ tried
            return bool(np.all(takes @ is_bought <= most))

        for place in np.argsort(found)[::-1].tolist():
            low, high = 0, found[place]
            while low < high:
                middle = (low + high) // 2
                low, high = (low, middle) if keeps(place, middle) else (middle + 1, high)
            found[place] = high
        return found

    def _takes(self, limits: Sequence[Limit]) -> Any:
        """Returns what each piece takes of each limit, limits × pieces, sparse."""
        from scipy.sparse import csr_array

        rows = [[one.takes[limit.kind] if limit.place in one.places else 0.0 for one in self.asked] for limit in limits]
        return csr_array(np.array(rows).reshape(len(limits), len(self.asked))[:, self._order] * self._cases)

    def _needs(self) -> Ints:
        """Returns pairs of pieces, n × 2, of which the second cannot be had without the first, a least order."""
        after = np.flatnonzero((np.diff(self._order) == 0) & (self._cases[:-1] > 1))
        return np.column_stack([after, after + 1])

    def _units(self, chosen: Floats) -> list[int]:
        cases = np.bincount(self._order, weights=np.rint(chosen) * self._cases, minlength=len(self.asked))
        return [round(n) * one.pack for n, one in zip(cases.tolist(), self.asked, strict=True)]

    def _plan(self, units: Sequence[int], limits: Sequence[Limit]) -> Plan:
        rows = [(one, n // one.pack) for n, one in zip(units, self.asked, strict=True)]
        taken = [sum(n * one.takes[limit.kind] for one, n in rows if limit.place in one.places) for limit in limits]
        worth = sum(brings(n) - brings(0) for n, brings in zip(units, self._worths, strict=True) if n)
        return Plan(list(units), np.array(taken, np.float64), sum(n * one.takes["money"] for one, n in rows), worth)


def limits_of(kind: Kind, most: str, *, each: str, night: Sequence[Replenishment]) -> list[Limit]:
    """Returns the limits that a caller's words are.

    Args:
        kind: of what.
        most: `12` for each store or delivery, `s1=12` for those of a store, `s1/2=12` for its delivery after two days,
            `all=12` for all orders of the night together.
        each: what a number without a name, or with a store's, holds for apart: `store` or `delivery`.
        night: the orders.

    Raises:
        ConfigError: it is none of these, or names what has no order.
    """
    name, _, number = most.rpartition("=")
    places = _places(name, each, night)
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if not (0 <= value < np.inf) or not places:
        raise ConfigError(
            where=f"demand budget, {kind}",
            given=f"'{most[:80]}'",
            expected="a number ≥ 0, STORE=NUMBER, STORE/DAYS=NUMBER of a delivery, or all=NUMBER, of stores that order",
            fix="Stores of the night: " + ", ".join(sorted({one.places[1][1:] for one in night})[:10]) + ".",
        )
    return [Limit(kind, place, value) for place in places]


def _places(name: str, each: str, night: Sequence[Replenishment]) -> list[str]:
    """Returns the places that a name stands for; none where nothing is ordered there."""
    if name == "all":
        return [""]
    depth = 1 + EACH.index(each)
    some = [one.places for one in night if not name or f"/{name}" in one.places[1:]]
    return sorted({places[2] if f"/{name}" == places[2] else places[depth] for places in some})


def verdict_of(policy: OrderPolicy, decision: Decision) -> Verdict:
    """Returns what a policy orders by the forecast of a decision."""
    lead = decision.lead
    candidates = () if lead is None else (Candidate(lead.ref, "", lead.predictions),)
    return policy.decide(Case(decision.request, candidates, {}, lambda _name: 0.0))


def _asked(decision: Decision) -> Replenishment | None:
    lead, asked = decision.lead, Replenishment.of(decision.request)
    return asked if lead is not None and all(head in lead.predictions for head in HEADS) else None


def _worth_of(decision: Decision, asked: Replenishment, costs: OrderCosts) -> Callable[[int], float]:
    """Returns what units ordered are expected to bring, less what the price on money asks of what they cost."""
    lead = decision.lead
    mean, *quantiles = (lead.predictions[head] for head in HEADS) if lead is not None else (0.0,)
    expected, price = expected_of(asked, quantiles, usual=mean, costs=costs), costs.price_of_money_bp / _BP * asked.cost
    return lambda units: expected(units) - price * units


def _pieces(asked: Replenishment, worth: Callable[[int], float]) -> list[tuple[int, float]]:
    """Returns cases and gain of each piece that gains anything, the first ones together where a least order is."""
    found: list[tuple[int, float]] = []
    had, before, step = 0, worth(0), max(asked.least, 1)
    while had + step <= asked.room:
        after = worth((had + step) * asked.pack)
        if after <= before:
            break
        found.append((step, after - before))
        had, before, step = had + step, after, 1
    return found


def _rounded(dual: float, limit: Limit) -> tuple[int, float]:
    """Returns a dual as a price in the policy's whole units, not below it, and how much of the limit one is for."""
    return int(np.ceil(dual * PER[limit.kind] - _NEAR)), 1 / PER[limit.kind]


def _relaxed(gain: Floats, takes: Any, most: Floats) -> tuple[Floats, float]:
    """Returns the duals of the limits and the value where parts of cases may be had."""
    from scipy.optimize import linprog

    if not len(gain):
        return np.zeros(len(most)), 0.0
    told = linprog(-gain, A_ub=takes, b_ub=most, bounds=(0, 1), method="highs")
    return np.asarray(-told.ineqlin.marginals), float(-told.fun)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what HiGHS prints, a line its makers left in, out of what a command prints."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _solved(gain: Floats, takes: Any, most: Floats, *, needs: Ints, most_s: float) -> tuple[Floats | None, float]:
    """Returns the best choice of pieces that was found, None for none, and what no choice can pass."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    if not len(gain):
        return np.zeros(0), 0.0
    held = [LinearConstraint(takes, ub=most)]
    if len(needs):
        row = np.repeat(np.arange(len(needs)), 2)
        signs = np.tile([-1.0, 1.0], len(needs))
        held.append(LinearConstraint(csr_array((signs, (row, needs.ravel())), (len(needs), len(gain))), ub=0.0))
    options = {"time_limit": most_s, "mip_rel_gap": 1e-6}
    with _quiet():
        told = milp(-gain, constraints=held, bounds=Bounds(0, 1), integrality=np.ones(len(gain)), options=options)
    bound = getattr(told, "mip_dual_bound", None)
    return told.x, np.inf if bound is None else float(-bound)
