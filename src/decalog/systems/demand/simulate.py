"""Demand's world: stores whose shelves sell out, and a planner's system that orders for the days to come.

>>> world = World(7, scale=0.2)
>>> first = next(m for m in world.advance(world.start_us + 86_400_000_000, alone=True) if m.kind == "decide")
>>> first.body["horizon_days"], first.theirs["taken"]
(4, 'order')

Every night each item that is due in each store asks for an order. What is delivered is sold hour by hour, oldest first;
what is not there is bought as something else, or not at all; what gets too old is thrown away. All of it is invented:
results on it are simulated results.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from decalog.clock import HOUR, MINUTE, SECOND
from decalog.errors import ConflictError, RequestError
from decalog.systems.demand.schema import HEADS, LEVELS, ORDER
from decalog.systems.demand.world import telling
from decalog.systems.demand.world.days import Calendar, Shelves, Sold
from decalog.systems.demand.world.params import CLOSES, SWITCHES, WorldParams
from decalog.systems.demand.world.shops import Shops, settle
from decalog.systems.demand.world.telling import Ask
from decalog.systems.demand.world.totals import Totals
from decalog.testing.clockwork import Clockwork, not_sent
from decalog.testing.draws import Ints
from decalog.testing.worlds import Message

START_US = 1_735_689_600_000_000  # Wednesday, 1 January 2025, 00:00 UTC
_ASKS_US = 21 * HOUR
_WEEK = 7
_REMEMBERED, _FEWEST, _MORE = 28, 4, 0.7
_LATE, _LATE_DAYS = 0.4, 1
Rule = Callable[["World", Ask], int]
"""How many units another system orders."""


def moving_average(world: World, ask: Ask) -> int:
    """Returns what most small planners order: the mean of four weeks, some on top, less what is there or coming.

    Days that sold out are left out, where there are others; on a day that sold out more was wanted than was sold.
    """
    recent = world.sold[-_REMEMBERED:]
    units = np.array([sold.units[ask.series].sum() for sold in recent], np.float64)
    is_whole = ~np.array([sold.empty[ask.series].any() for sold in recent])
    mean = units[is_whole].mean() if is_whole.sum() >= _FEWEST else (1 + _MORE) * units.mean()
    safe = 1 + _MORE / ask.horizon_days**0.5
    there = ask.on_hand + ask.on_order
    # What is sold out sells nothing: without a case at least it would never come back.
    return ask.cases(safe * mean * ask.horizon_days - there + ask.pack / 2) or (0 if there else ask.pack)


class World(Clockwork):
    """Demand's world as a `decalog.testing.worlds.World`; see there for what each method promises.

    Args:
        seed: two worlds of one seed, parameters and reactions are the same in every byte.
        params: the settings; the defaults if not given.
        scale: items as a share of the settings', > 0.
        theirs: how another system orders where the world is alone.

    Attributes:
        shops, calendar: who sells what, and what is wanted: the truth, for benches and tests alone.
        sold: what each day sold.
        days: money, day by day.

    Raises:
        ConfigError: a setting is out of range, or the scale is not above 0.
    """

    def __init__(
        self, seed: int, params: WorldParams | None = None, *, scale: float = 1.0, theirs: Rule = moving_average
    ) -> None:
        self.params = (params or WorldParams()).scaled(scale).checked()
        super().__init__(self.params, SWITCHES, start_us=START_US)
        self.base = "EUR"
        self.rates: Mapping[str, str] = {}
        self.shops: Shops = settle(seed, self.params)
        self.calendar = Calendar(self.shops, self.params, start_us=START_US)
        self.sold: list[Sold] = []
        self.days: list[Totals] = []
        self._shelves = Shelves(self.shops, self.params.substituted)
        self._shelves.deliver(self._opening())
        self._theirs = theirs
        self._coming: dict[int, Ints] = {}
        self._asked: dict[str, Ask] = {}
        self._ending: dict[int, list[Ask]] = {}  # by the last day that an order is for
        self._ordered: dict[str, int] = {}

    def react(self, request_id: str, action: str, *, at_us: int, refs: tuple[str, ...] = ()) -> None:
        """Orders what was decided: `refs` holds the number of units. A request without a reaction orders nothing.

        Raises:
            UnknownRecordError: no such request has been sent.
            RequestError: the action is not `order`, no number of units goes with it, or it comes before the request.
            ConflictError: another quantity was ordered before.
        """
        ask = self._known(request_id)
        units = _units(refs)
        if action != ORDER or at_us < ask.at_us or units is None:
            raise RequestError(
                where="demand world, react",
                given=f"'{action[:80]}' of {refs!r:.80} at {at_us} to a request of {ask.at_us}",
                expected=f"'{ORDER}' and one number of units, at or after the request",
                fix="Pass action, slot and time of the logged decision.",
            )
        if request_id not in self._ordered:
            self._order(ask, units)
        elif self._ordered[request_id] != units:
            raise ConflictError(
                where=f"demand world, react to {request_id}",
                given="another quantity than before",
                expected="one order a request",
                fix="React once to each decide message.",
            )

    def truth(self, request_id: str) -> Mapping[str, float | str]:
        """Returns what stood behind one request.

        `demand_mean`, `demand_sd` and quantiles `demand_q02` to `demand_q98`: of what will be wanted until the delivery
        after the one asked for, in units, and `demand_before`: the part of the mean that comes before this delivery ·
        `series`. Quantiles are those of the gamma distribution of that mean and deviation.

        Raises:
            UnknownRecordError: no such request has been sent.
        """
        ask = self._known(request_id)
        means = [float(self.calendar.rate(ask.day + ahead, self._on)[ask.series]) for ahead in ask.ahead]
        spread = sum(mean + mean**2 / self.params.shape for mean in means)
        return {
            **dict(zip(HEADS, (sum(means), *_quantiles(sum(means), spread)), strict=True)),
            "demand_sd": float(np.sqrt(spread)),
            "demand_before": sum(means[: ask.lead_days - 1]),
            "series": telling.series_name(self.shops, ask.series),
        }

    @property
    def on(self) -> frozenset[str]:
        """What is switched on."""
        return self._on

    def score(self) -> str:
        """Returns what came of the orders of the last seven days."""
        return f"last {_WEEK} days: {Totals.over(self.days[-_WEEK:])} {self.base}"

    # Days

    def _begin_day(self, start_us: int) -> None:
        """Delivers, sells, tells of it in the evening, and asks for what is due."""
        day, shops = self._day, self.shops
        self._shelves.deliver(self._delivered(day))
        chance = self.calendar.chance(day, "luck")
        wanted = self.calendar.wanted(day, self._on)
        offered = np.tile(shops.begins <= day, shops.stores) & (not self.calendar.is_closed(day))
        sold = self._shelves.sell(wanted, chance.random(wanted.shape), offered=offered)
        self.sold.append(sold)
        self.days.append(Totals.of(shops, sold, discount=self.calendar.discount(day), params=self.params))
        self._tell_day(day, start_us)
        for ask in self._due_on(day, start_us):
            self._asked[ask.id] = ask
            self._ending.setdefault(ask.until, []).append(ask)
            heapq.heappush(self._due, (ask.at_us, "decide", ask.id, ask))

    def _opening(self) -> Ints:
        """Returns what lies on the shelves at first: what the first orders have to be waited for."""
        shops = self.shops
        days = np.tile(np.where(shops.fresh, 2, shops.every + shops.lead), shops.stores)
        return np.asarray(np.ceil(self.calendar.rate(1, frozenset()) * days), np.int64)

    def _delivered(self, day: int) -> Ints:
        units = self._coming.pop(day, np.zeros(self.shops.n, np.int64))
        if "late_lorries" in self._on:
            is_late = self.calendar.chance(day, "lorries").random(self.shops.n) < _LATE
            self._on_the_way(day + _LATE_DAYS, np.where(is_late, units, 0))
            units = np.where(is_late, 0, units)
        return units

    def _tell_day(self, day: int, start_us: int) -> None:
        for kind, lag_us, body in telling.of_day(self, day):
            self._push(start_us + CLOSES * HOUR + 30 * MINUTE + lag_us, kind, body)
        # What an order was for is known in the evening of its last day.
        for ask in self._ending.pop(day, ()):
            self._push(start_us + CLOSES * HOUR + 45 * MINUTE, "outcome", telling.outcome(self, ask))

    def _due_on(self, day: int, start_us: int) -> list[Ask]:
        """Returns what asks for an order on a night."""
        shops, on_hand = self.shops, self._shelves.on_hand
        is_due = (day % shops.every == shops.first % shops.every) & (shops.begins <= day + shops.lead)
        coming = sum(self._coming.values(), np.zeros(shops.n, np.int64))
        asks_us = start_us + _ASKS_US
        return [
            Ask.of(self, series, day=day, at_us=asks_us + series * SECOND // 8, stock=(on_hand[series], coming[series]))
            for series in np.flatnonzero(np.tile(is_due, shops.stores)).tolist()
        ]

    # Orders

    def _deliver(self, due: Any, *, alone: bool) -> list[Message]:
        at_us, kind, _, what = due
        if kind != "decide":
            return [Message(at_us, kind, what)]
        theirs: dict[str, Any] = {}
        if alone:
            units = self._theirs(self, what)
            self._order(what, units)
            theirs = {"taken": ORDER, "quantity": float(units)}
        return [Message(at_us, "decide", telling.request(self, what), theirs)]

    def _order(self, ask: Ask, units: int) -> None:
        self._ordered[ask.id] = units
        arriving = np.zeros(self.shops.n, np.int64)
        arriving[ask.series] = units
        self._on_the_way(ask.day + ask.lead_days, arriving)

    def _on_the_way(self, day: int, units: Ints) -> None:
        self._coming[day] = self._coming.get(day, np.zeros(self.shops.n, np.int64)) + units

    def _known(self, request_id: str) -> Ask:
        if request_id not in self._asked:
            raise not_sent("demand", f"request '{request_id[:80]}'")
        return self._asked[request_id]


def _units(refs: tuple[str, ...]) -> int | None:
    """Returns the whole number of units that an order is for, or None where it is none."""
    try:
        (units,) = (float(ref) for ref in refs)
    except ValueError:
        return None
    return int(units) if units.is_integer() and units >= 0 else None


def _quantiles(mean: float, variance: float) -> Iterator[float]:
    from scipy.special import gammaincinv

    for level in LEVELS:
        yield float(gammaincinv(mean**2 / variance, level) * variance / mean) if mean > 0 else 0.0
