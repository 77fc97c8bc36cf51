"""Order the whole cases that are expected to bring most, in minor units of the base currency.

With S the units there, on their way and ordered, D the demand until the next order can come (the protection interval
of H days), R the demand from then on until what is ordered now is too old to sell, a unit sold earns the margin, one
asked for in vain a part of it (people take something else), a unit left costs its holding, and one that gets too old
its cost:

    worth(S, D) = margin · (min(D, S) + instead · (D − S)⁺) − lost · (D − S)⁺
                  − holding · H · (S − D)⁺ − cost · E (S − D − R)⁺

and S is the one whose mean worth over the quantiles of D is the largest. Where nothing spoils and holding is free this
is the newsvendor's critical fractile, P(D ≤ S) = underage / (underage + overage) (Arrow, Harris and Marschak,
Econometrica 19, 1951); with H longer than a lead time it is a base-stock level (Silver, Pyke and Thomas, Inventory and
Production Management in Supply Chains, 2017, chapter 7); the last term is what the marginal unit of a perishable loses
(Broekmeulen and van Donselaar, Computers & Operations Research 36, 2009, estimate it likewise). E is over three values
of R, of the usual demand's mean and variance (Gauss and Hermite's rule).

Money that is scarce for good has a price, `price_of_money_bp`; what several orders of a night share, a budget or the
room of a delivery, has one too (`limit_prices`; `limits.py` finds those that just keep limits): no case is ordered that
does not bring what it takes of them. Instead of by money the level can be chosen by service: the quantile that covers
so many intervals without selling out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from decalog.decisions import Choice, GuardrailVerdict, Slot
from decalog.errors import ConfigError
from decalog.events import Event
from decalog.money import MAX_MINOR
from decalog.policy import Case, Verdict
from decalog.quantity_metrics import weights_of
from decalog.systems.demand.schema import HEADS, LEVELS, ORDER

PRICE, COST = "price_base_minor", "unit_cost_base_minor"
USUAL = "series_plain_rate_lately"
"""Feature that the fallback reads: units an hour with stock."""

_BP = 10_000
_MOST_CASES = 1_000_000
_THREE = ((-math.sqrt(3), 1 / 6), (0.0, 2 / 3), (math.sqrt(3), 1 / 6))
"""Nodes, in standard deviations, and weights of a normal distribution."""
_NEVER_BEYOND = 10
"""What is left of so small a part of later demand does not spoil."""
_WEIGHTS = weights_of(LEVELS)

Kind = Literal["money", "volume", "weight"]
PER: Mapping[Kind, int] = {"money": _BP, "volume": 1_000_000, "weight": 1_000_000}
"""Of what several orders share, in minor units, ml and g, how much a price is for: all, a cubic metre, a tonne.

So a price of money is in hundredths of a percent, the others in minor units.
"""
_DEEPEST = 3

Share = Annotated[int, Meta(ge=0, le=_BP)]
Money = Annotated[int, Meta(ge=0, le=MAX_MINOR)]


class OrderCosts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What too much and too little cost.

    `_minor` is minor units of the base currency, `_bp` hundredths of a percent. Prices and costs of units come with
    each request.

    Args:
        holding_bp: of a unit's cost, for each day that it lies there.
        lost_minor: what a unit asked for in vain costs beyond its margin: people who do not come back.
        instead_bp: of those who find nothing, how many buy something else that earns as much. (45 % in 29 studies:
            Corsten and Gruen, International Journal of Retail & Distribution Management 31, 2003.)
        luck_bp: variance of the demand of later days around the usual beyond chance, as a share of its square.
        price_of_money_bp: what each unit of money spent has to bring at least, as a share of it.
        limit_prices: what a case has to bring at least for what it takes of limits that orders share: `money` in
            hundredths of a percent, beside `price_of_money_bp`; `volume` and `weight` in minor units a cubic metre and
            a tonne; of one store `volume/s1`, of its delivery after two days `volume/s1/2`. Where several hold, they
            add up. Where none is set it is no part of the version, so that logs from before limits replay.
        service_level_bp: where above 0, the share of protection intervals without selling out, in place of money.
        serves_losses: whether a promotion below cost is ordered for as at the usual price, as whoever promotes at a
            loss to draw people in means it; else no unit is ordered that is sold at a loss.
        fallback_days: days of usual sales that lie on top where nothing is predicted.
        open_h: opening hours of a day, for the fallback.
    """

    holding_bp: Share = 8
    lost_minor: Money = 0
    instead_bp: Share = 4_500
    luck_bp: Share = 1_000
    price_of_money_bp: Annotated[int, Meta(ge=0, le=10 * _BP)] = 0
    limit_prices: dict[str, Money] | UnsetType = UNSET
    service_level_bp: Annotated[int, Meta(ge=0, le=9_999)] = 0
    serves_losses: bool = False
    fallback_days: Annotated[float, Meta(ge=0, le=100)] = 1.0
    open_h: Annotated[float, Meta(gt=0, le=24)] = 12.0


class Replenishment(msgspec.Struct, frozen=True, kw_only=True):
    """What a request says of the item: units, days, and minor units of the base currency.

    `takes` is what a case takes of what orders share, minor units, ml and g; `places` is where that may be limited: in
    all stores, in the store, in its delivery after so many days.
    """

    there: int
    pack: int
    least: int
    most: int
    horizon_days: int
    sold_until_days: int
    usual_margin: float
    margin: float
    cost: float
    discounted: float
    takes: Mapping[Kind, float]
    places: tuple[str, str, str]

    @classmethod
    def of(cls, request: Event) -> Replenishment | None:
        """Returns what a request says, or None where it lacks a price, a cost or its days."""
        told = request.attributes
        price, cost, horizon = (_number(told, name, 0.0) for name in (PRICE, COST, "horizon_days"))
        if not (PRICE in told and COST in told and horizon):
            return None
        pack, store = int(_number(told, "pack", 1)), str(told.get("store", ""))
        off = min(_number(told, "promo_days", 0.0) / horizon, 1.0) * _number(told, "discount_bp", 0.0) / _BP
        return cls(
            there=int(_number(told, "on_hand", 0) + _number(told, "on_order", 0)),
            pack=pack,
            least=int(_number(told, "least_cases", 0)),
            most=int(_number(told, "most_units", _MOST_CASES)),
            horizon_days=int(horizon),
            sold_until_days=int(max(_number(told, "lead_days", 0) - 1, 0) + _number(told, "shelf_days", _MOST_CASES)),
            usual_margin=max(price - cost, 0.0),
            margin=max(price * (1 - off) - cost, 0.0),
            cost=cost,
            discounted=off,
            takes={
                "money": cost * pack,
                "volume": _number(told, "case_volume_ml", 0.0),
                "weight": _number(told, "case_weight_g", 0.0),
            },
            places=("", f"/{store}", f"/{store}/{int(_number(told, 'lead_days', 0))}"),
        )

    @property
    def room(self) -> int:
        """Most whole cases that may be ordered."""
        return min(self.most // self.pack, _MOST_CASES)

    def price_of_limits(self, prices: Mapping[str, int]) -> float:
        """Returns what a case has to bring for what it takes of what orders share, minor units."""
        by_place = ((kind, place) for kind in PER for place in self.places)
        return sum(prices.get(kind + place, 0) * self.takes[kind] / PER[kind] for kind, place in by_place)

    def worth(self, units: float, demand: float, *, usual: float, costs: OrderCosts) -> float:
        """Returns what units ordered bring with a demand, minor units; `usual` is that of such an interval."""
        held = self.there + units
        left, sold = max(held - demand, 0.0), min(demand, held)
        margin = self.usual_margin if costs.serves_losses and self.margin <= 0 else self.margin
        earned = margin * (sold + costs.instead_bp / _BP * (demand - sold)) - costs.lost_minor * (demand - sold)
        holding = costs.holding_bp / _BP * self.cost * self.horizon_days * left
        return earned - holding - self.cost * self._spoilt(left, usual=usual, luck=costs.luck_bp / _BP)

    def _spoilt(self, left: float, *, usual: float, luck: float) -> float:
        """Returns the units that are expected to get too old, of those left when the next order comes."""
        rest = usual * max(self.sold_until_days - self.horizon_days, 0) / self.horizon_days
        if left <= 0 or left < rest / _NEVER_BEYOND:
            return 0.0
        spread = math.sqrt(rest + luck * rest**2)
        return sum(weight * max(left - max(rest + node * spread, 0.0), 0.0) for node, weight in _THREE)


class OrderPolicy:
    """Orders the whole cases of the largest expected worth.

    Args:
        params: what too much and too little cost.

    Raises:
        ConfigError: a cost, share or level is out of its range; all are named.

    >>> from decalog.candidates import Candidate
    >>> due = Event("r1", "replenishment", 0, 0, {}, {"price_base_minor": 199, "unit_cost_base_minor": 120,
    ...     "on_hand": 7, "horizon_days": 1, "lead_days": 1, "pack": 6, "shelf_days": 3})
    >>> heads = dict(zip(HEADS, (40.0, *(40 * (0.5 + level) for level in LEVELS))))
    >>> case = Case(due, (Candidate("r1", "request", heads),), {}, draw=lambda name: 0.5)
    >>> OrderPolicy(OrderCosts()).decide(case).choice.slots[0].value
    54.0
    """

    def __init__(self, params: OrderCosts) -> None:
        self.params = checked(params)

    @property
    def greedy(self) -> OrderPolicy:
        """See `Policy.greedy`: nothing is drawn."""
        return self

    def decide(self, case: Case) -> Verdict:
        """Returns the order of the largest expected worth; without quantiles, prices or days, the fallback."""
        asked, said = Replenishment.of(case.request), case.candidates[0].predictions
        if asked is None or any(head not in said for head in HEADS):
            return self.fall_back(case, "no_prediction" if asked is not None else "no_price")
        mean, *quantiles = (said[head] for head in HEADS)
        expected = expected_of(asked, quantiles, usual=mean, costs=self.params)
        if self.params.service_level_bp:
            level = _at(quantiles, self.params.service_level_bp / _BP)
            wanted = -(-(level - asked.there) // asked.pack)
        else:
            least = self.params.price_of_money_bp / _BP * asked.cost * asked.pack + self._shared(asked)
            wanted = _most_worth(asked, expected, least=least)
        return self._ordered(case, asked, wanted=int(max(wanted, 0)), expected=expected, reason=_reason(asked, said))

    def fall_back(self, case: Case, reason: str) -> Verdict:
        """Returns what a planner's rule orders: usual sales of the interval and some days on top, less what is there.

        Where not even usual sales are known, what a planner planned, or nothing.
        """
        asked, rate = Replenishment.of(case.request), case.features.get(USUAL, -1.0)
        planned = int(_number(case.request.attributes, "planned", 0))
        if asked is None or rate < 0:
            return Verdict(_order(case, planned, f"{reason}: usual sales are not known, so what was planned"))
        days = _number(case.request.attributes, "open_days", asked.horizon_days)
        usual = rate * self.params.open_h
        level = usual * (days + self.params.fallback_days)
        wanted = int(max(-(-(level - asked.there) // asked.pack), 0))
        why = f"{reason}: usual sales of {usual:.1f} a day, and {self.params.fallback_days:g} days on top"
        return self._ordered(case, asked, wanted=wanted, expected=None, reason=why)

    def worth(self, request: Event, quantity: float, *, label: float, usual: float) -> float:
        """Returns what an order brings once demand is known, minor units; 0 where the request lacks prices or days.

        Args:
            request: that it was for.
            quantity: units ordered.
            label: units wanted over the interval.
            usual: units that such an interval usually takes.
        """
        asked = Replenishment.of(request)
        return 0.0 if asked is None else asked.worth(quantity, label, usual=usual, costs=self.params)

    def cost_minor(self, action: str, *, label: float, amount_minor: int) -> int:
        """Returns 0: what an order costs depends on how much it is for; see `worth`."""
        del action, label, amount_minor
        return 0

    def _ordered(
        self,
        case: Case,
        asked: Replenishment,
        *,
        wanted: int,
        expected: Callable[[float], float] | None,
        reason: str,
    ) -> Verdict:
        """Returns an order of so many cases, as far as the least and the room allow."""
        cases, guardrails = min(wanted, asked.room), list[GuardrailVerdict]()
        if cases < wanted:
            why = f"room for {asked.most} units"
            guardrails.append(GuardrailVerdict("room", f"{wanted} cases", f"{cases} cases", why))
        if 0 < cases < asked.least:
            before = cases
            bar = self._bar(asked)
            is_worth = expected is None or expected(asked.least * asked.pack) - expected(0) > asked.least * bar
            cases = asked.least if is_worth and asked.least <= asked.room else 0
            why = f"an order has {asked.least} cases at least"
            guardrails.append(GuardrailVerdict("least_order", f"{before} cases", f"{cases} cases", why))
        units = cases * asked.pack
        minor = 0 if expected is None else round(expected(units))
        words = f"{cases} cases of {asked.pack}: {asked.there + units} units with those there and on their way"
        return Verdict(_order(case, units, words, reason), expected_minor=minor, guardrails=tuple(guardrails))

    def _shared(self, asked: Replenishment) -> float:
        """Returns what a case has to bring for what it takes of shared limits."""
        prices = self.params.limit_prices
        return asked.price_of_limits(prices) if prices else 0.0

    def _bar(self, asked: Replenishment) -> float:
        """Returns what each case of a least order has to bring; nothing where no limit is shared, as in logs before."""
        if self.params.limit_prices is UNSET:
            return 0.0
        return self.params.price_of_money_bp / _BP * asked.takes["money"] + self._shared(asked)


POLICY = OrderPolicy
"""Makes the policy from its parameters."""


def checked(params: OrderCosts) -> OrderCosts:
    """Returns the parameters as they are, or raises.

    Raises:
        ConfigError: some are out of range; all are named.
    """
    problems = [problem for field in msgspec.structs.fields(OrderCosts) if (problem := _problem(params, field))]
    problems += [f"limit_prices: {key[:80]!r}" for key in params.limit_prices or () if not _is_limit(key)]
    if problems:
        raise ConfigError(
            where="demand policy",
            given="; ".join(problems),
            expected="money in minor units ≥ 0, shares in hundredths of a percent, days and hours ≥ 0, limits such as "
            "money, volume/STORE or weight/STORE/DAYS",
            fix="See decalog.systems.demand.policy.OrderCosts for what each means.",
        )
    return params


def _problem(params: OrderCosts, field: msgspec.structs.FieldInfo) -> str:
    value = getattr(params, field.name)
    try:
        msgspec.convert({} if value is UNSET else value, field.type)
    except msgspec.ValidationError as error:
        return f"{field.name}: {error}"
    return ""


def _is_limit(key: str) -> bool:
    kind, *place = key.split("/")
    return kind in PER and len(place) < _DEEPEST and all(place) and all(days.isdecimal() for days in place[1:])


def expected_of(
    asked: Replenishment, quantiles: Sequence[float], *, usual: float, costs: OrderCosts
) -> Callable[[float], float]:
    """Returns what units ordered are expected to bring, by the quantiles of demand."""

    def expected(units: float) -> float:
        rows = zip(_WEIGHTS, quantiles, strict=True)
        return sum(weight * asked.worth(units, demand, usual=usual, costs=costs) for weight, demand in rows)

    return expected


def _most_worth(asked: Replenishment, expected: Callable[[float], float], *, least: float) -> int:
    """Returns the cases of the largest worth: what one more brings falls, so it is found by halving."""

    def gains(cases: int) -> bool:
        return expected((cases + 1) * asked.pack) - expected(cases * asked.pack) > least

    high = 1
    while high < _MOST_CASES and gains(high):
        high *= 2
    low = 0
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if gains(middle) else (low, middle)
    return low


def _at(quantiles: Sequence[float], level: float) -> float:
    """Returns the quantile of a level, on the line between its neighbours; beyond the ends, along the last piece."""
    place = min(max(sum(one <= level for one in LEVELS), 1), len(LEVELS) - 1)
    low, high = LEVELS[place - 1], LEVELS[place]
    slope = (quantiles[place] - quantiles[place - 1]) / (high - low)
    return max(quantiles[place - 1] + slope * (level - low), 0.0)


def _order(case: Case, units: int, *reasons: str) -> Choice:
    """Returns the order of so many units of what a request is about."""
    return Choice((Slot(case.request.id, value=float(units)),), reasons, ORDER)


def _reason(asked: Replenishment, said: Mapping[str, float]) -> str:
    mean, low, high = (said[head] for head in ("demand_mean", "demand_q10", "demand_q90"))
    promoted = f" at {asked.discounted:.0%} off" if asked.discounted else ""
    days = "1 day" if asked.horizon_days == 1 else f"{asked.horizon_days} days"
    return f"demand of {days}{promoted}: {mean:.1f} units, 8 in 10 times {low:.1f} to {high:.1f}"


def _number(told: Mapping[str, int | float | str | bool], name: str, missing: float) -> float:
    value = told.get(name)
    return float(value) if isinstance(value, int | float) else missing
