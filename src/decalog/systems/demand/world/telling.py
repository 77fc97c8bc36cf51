"""What shops tell: days of sales as the till has them, requests for orders, and what became of an order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from decalog.clock import DAY, HOUR, rfc3339
from decalog.systems.demand.schema import DAY_KIND, PARTS, SALES
from decalog.systems.demand.world import shops as places
from decalog.systems.demand.world.params import CLOSES, HOURS
from decalog.systems.demand.world.shops import WEEK, Shops
from decalog.testing import draws

if TYPE_CHECKING:
    from decalog.systems.demand.simulate import World

_BP = 10_000
_PART = HOURS // len(PARTS)
_STRONG = (4, 5)
"""Fridays and Saturdays."""


class Told(NamedTuple):
    """A message, and how much later than usual it is sent, µs."""

    kind: str
    lag_us: int
    body: dict[str, Any]


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What the world remembers of one request."""

    id: str
    series: int
    item: int
    day: int
    at_us: int
    lead_days: int
    horizon_days: int
    on_hand: int
    on_order: int
    pack: int

    @classmethod
    def of(cls, world: World, series: int, *, day: int, at_us: int, stock: tuple[int, int]) -> Ask:
        """Returns what is asked for a series on a night; `stock` is on the shelf, and on its way."""
        shops, item = world.shops, series % world.shops.items
        lead, every = int(shops.lead[item]), int(shops.every[item])
        key = int(draws.child(draws.child(draws.named(shops.key, "asks"), day), series)[0])
        return cls(
            id=f"ord_{key:016x}",
            series=series,
            item=item,
            day=day,
            at_us=at_us,
            lead_days=lead,
            horizon_days=lead + every - 1,
            on_hand=int(stock[0]),
            on_order=int(stock[1]),
            pack=int(shops.pack[item]),
        )

    @property
    def ahead(self) -> range:
        """The days that the order has to last for, from tomorrow on, counted from today."""
        return range(1, self.horizon_days + 1)

    @property
    def until(self) -> int:
        """The last of them, as a day of the world."""
        return self.day + self.horizon_days

    def cases(self, units: float) -> int:
        """Returns units in whole cases, rounded to the nearest, at least 0."""
        return max(0, round(units / self.pack)) * self.pack


def series_name(shops: Shops, series: int) -> str:
    """Returns the name of a series, store and item."""
    store, item = divmod(series, shops.items)
    return f"s{store + 1}/i{item + 1}"


def request(world: World, ask: Ask) -> dict[str, Any]:
    """Returns the body of a request for an order: what a planner's system knows on that night."""
    shops, dates = world.shops, [world.calendar.date(ask.day + ahead) for ahead in ask.ahead]
    return {
        "id": ask.id,
        "event_time": rfc3339(ask.at_us),
        **_who(shops, ask.series),
        **_like(shops, ask),
        "slot": f"{series_name(shops, ask.series)}/{dates[0].weekday()}",
        "on_hand": ask.on_hand,
        "on_order": ask.on_order,
        "lead_days": ask.lead_days,
        "horizon_days": ask.horizon_days,
        "open_days": sum(not places.is_closed(date) for date in dates),
        "eve_days": sum(places.is_eve(date) for date in dates),
        "weekend_days": sum(date.weekday() in _STRONG for date in dates),
        "weekday": dates[0].weekday(),
        "day_of_year": dates[0].timetuple().tm_yday,
        **_offers(world, ask),
        "price_minor": int(shops.price[ask.item]),
        "unit_cost_minor": int(shops.cost[ask.item]),
        "currency": world.base,
        "pack": ask.pack,
        "case_volume_ml": ask.pack * int(shops.volume[ask.item]),
        "shelf_days": int(shops.shelf_days[ask.item]),
    }


def _offers(world: World, ask: Ask) -> dict[str, int]:
    """Returns what is known of promotions on the days that an order is for."""
    if "untold_promotions" in world.on:
        return {"promo_days": 0, "discount_bp": 0, "after_promo_days": 0}
    days = [ask.day + ahead for ahead in ask.ahead]
    discounts = [float(world.calendar.discount(day)[ask.item]) for day in days]
    return {
        "promo_days": sum(discount > 0 for discount in discounts),
        "discount_bp": round(_BP * max(discounts)),
        "after_promo_days": sum(_gave_back(world, ask, day) for day in days),
    }


def _gave_back(world: World, ask: Ask, day: int) -> bool:
    discount = world.calendar.discount
    return not discount(day)[ask.item] and any(discount(day - back)[ask.item] for back in range(1, WEEK + 1))


def _who(shops: Shops, series: int) -> dict[str, str]:
    store, item = divmod(series, shops.items)
    return {
        "series": series_name(shops, series),
        "item": f"i{item + 1}",
        "store": f"s{store + 1}",
        "category": f"c{shops.category[item] + 1}",
    }


def _like(shops: Shops, ask: Ask) -> dict[str, str]:
    like = int(shops.like[ask.item])
    return {} if like < 0 else {"like": series_name(shops, ask.series - ask.item + like)}


def of_day(world: World, day: int) -> list[Told]:
    """Returns what is told of a day in the evening: each series' sales by parts of the day, and what is left."""
    shops, params, on = world.shops, world.params, world.on
    there = np.flatnonzero(np.tile(shops.begins <= day, shops.stores))
    keys = draws.child(draws.child(draws.named(shops.key, "told"), day), there)
    luck, lost = draws.uniform(keys, "noise"), draws.uniform(keys, "lost")
    found: list[Told] = []
    for place, series in enumerate(there.tolist()):
        if "lost_days" in on and lost[place] < 1 / 3:
            continue
        body = _day(world, series, day)
        if "wrong_unit" in on and series // shops.items % 4 == 0:
            body = _in_cases(body, int(shops.pack[series % shops.items]))
        found += _sent(body, float(luck[place]), params.late, twice=params.twice, corrected=params.corrected)
    return found


def _day(world: World, series: int, day: int) -> dict[str, Any]:
    shops, sold, item = world.shops, world.sold[day], series % world.shops.items
    midnight = world.start_us + day * DAY
    units = sold.units[series].reshape(len(PARTS), _PART).sum(axis=1).tolist()
    date = world.calendar.date(day)
    return {
        "id": f"day_{series:x}_{day:x}",
        "kind": DAY_KIND,
        "event_time": rfc3339(midnight + CLOSES * HOUR),
        **_who(shops, series),
        **({"like": series_name(shops, series)} if world.params.likes else {}),
        "slot": f"{series_name(shops, series)}/{date.weekday()}",
        "units": sum(units),
        **dict(zip(PARTS, units, strict=True)),
        "empty_h": int(sold.empty[series].sum()),
        "stocked_h": 0 if world.calendar.is_closed(day) else HOURS - int(sold.empty[series].sum()),
        "left": int(sold.left[series]),
        "wasted": int(sold.wasted[series]),
        "discount_bp": round(_BP * float(world.calendar.discount(day)[item])),
        "is_closed": world.calendar.is_closed(day),
    }


def _in_cases(body: dict[str, Any], pack: int) -> dict[str, Any]:
    return body | {name: body[name] // pack for name in ("units", *PARTS)}


def _sent(body: dict[str, Any], luck: float, late: float, *, twice: float, corrected: float) -> Iterator[Told]:
    """Yields a day as it is sent: most once and in time, a few late, twice, or wrong at first."""
    is_wrong = late + twice <= luck < late + twice + corrected
    yield Told("event", DAY if luck < late else 0, body | {"units": 2 * body["units"]} if is_wrong else body)
    if late <= luck < late + twice:
        yield Told("event", HOUR, body)
    if is_wrong:
        yield Told("event", DAY + HOUR, body | {"id": f"{body['id']}_c", "corrects": body["id"]})


def outcome(world: World, ask: Ask) -> dict[str, Any]:
    """Returns what became of the days that an order was for: a bound where the shelf was empty."""
    days = [world.sold[ask.day + ahead] for ahead in ask.ahead]
    at_us = world.start_us + ask.until * DAY + CLOSES * HOUR
    empty = sum(int(sold.empty[ask.series].sum()) for sold in days)
    return {
        "id": f"{ask.id}_sales",
        "replenishment": ask.id,
        "kind": SALES,
        "source": "till",
        "event_time": rfc3339(at_us),
        "value": float(sum(int(sold.units[ask.series].sum()) for sold in days)),
        "censored": empty > 0,
        "empty_h": empty,
        "wasted": sum(int(sold.wasted[ask.series]) for sold in days),
        "left": int(days[-1].left[ask.series]),
    }
