"""Who sells what: stores, items, their seasons and what one item's promotion does to the others. All of it is truth."""

from __future__ import annotations

import datetime as dt

import msgspec
import numpy as np

from decalog.systems.demand.world.params import CLOSES, OPENS, WorldParams
from decalog.testing import draws
from decalog.testing.draws import Floats, Ints, Keys, Mask

YEAR = 365.25
WEEK = 7
AROUND = 0.25
"""The discount that `lift` is told for."""
_ROUND = 5
_GUESSED = 0.4
"""By how much planners err in how popular an item will be, in logs."""
_FRESH_DAYS, _DRY_DAYS = 3, 3_650
_PEAKS = ((10.0, 2.5), (17.0, 2.0), (13.0, 4.0))
"""Hour and width of when a category's buyers come, category by category."""


class Shops(msgspec.Struct, kw_only=True):
    """Everything that does not change from day to day; arrays over items, stores or series.

    A series is an item in a store: series = store · items + item.

    Args:
        key: of the world.
        category: of items.
        base: log of units a mean day, of series.
        week: category × weekday, in logs, Monday first.
        year, phase: of categories: size in logs, and the day of the year of the peak.
        trend: of items, in logs a year.
        hours: categories × opening hours: share of a day's demand.
        price, cost: of items, minor units.
        shelf_days: of items: sold on so many days, the day of delivery first.
        pack: of items: units a case.
        volume: of items: room that a unit takes, ml.
        lift: of items, in logs at `AROUND` off.
        other: of items: what is bought in their place.
        goes_with: of items: what is bought besides.
        like: of items: what planners take for their like, −1 for nothing.
        begins: of items: day of the world on which they come.
        every, first: of items: ordered each so many days, from which on.
        lead: of items: days from the order to its delivery.
    """

    key: Keys
    stores: int
    category: Ints
    base: Floats
    week: Floats
    year: Floats
    phase: Floats
    trend: Floats
    hours: Floats
    price: Ints
    cost: Ints
    shelf_days: Ints
    pack: Ints
    volume: Ints
    lift: Floats
    other: Ints
    goes_with: Ints
    like: Ints
    begins: Ints
    every: Ints
    first: Ints
    lead: Ints

    @property
    def items(self) -> int:
        """How many items there are."""
        return len(self.category)

    @property
    def n(self) -> int:
        """How many series there are."""
        return self.stores * self.items

    @property
    def fresh(self) -> Mask:
        """Which items last for days only."""
        return np.asarray(self.shelf_days < _DRY_DAYS)


def settle(seed: int, params: WorldParams) -> Shops:
    """Returns the shops of a seed."""
    key = draws.root(f"demand world {seed}")
    items = draws.child(draws.named(key, "items"), np.arange(params.items))
    kinds = draws.child(draws.named(key, "categories"), np.arange(params.categories))
    stores = draws.child(draws.named(key, "stores"), np.arange(params.stores))
    category = draws.below(items, "category", bound=params.categories)
    is_fresh = (np.arange(params.categories) % 3 == 0)[category]
    popular = np.log(params.units_day) + params.unequal * draws.normal(items, "popular")
    size = params.unequal_stores * draws.normal(stores, "size")
    taste = 0.25 * draws.normal(draws.child(stores[:, None], np.arange(params.items)).ravel(), "taste")
    price = np.rint(np.exp(5.4 + 0.6 * draws.normal(items, "price"))).astype(np.int64) // _ROUND * _ROUND + 49
    margin = np.clip(params.margin + 0.08 * draws.normal(items, "margin"), 0.08, 0.75)
    fresh_days = _FRESH_DAYS + draws.below(items, "shelf", bound=4)
    every = np.where(is_fresh, 1, 3)
    begins = np.where(draws.uniform(items, "new") < params.new_items, draws.below(items, "begins", bound=300), 0)
    return Shops(
        key=key,
        stores=params.stores,
        category=category,
        base=(popular[None, :] + size[:, None]).ravel() + taste,
        week=_weeks(kinds, params),
        year=params.yearly * (0.5 + draws.uniform(kinds, "year")),
        phase=draws.uniform(kinds, "phase") * YEAR,
        trend=params.trend * draws.normal(items, "trend"),
        hours=np.array([_hours(n) for n in range(params.categories)]),
        price=price,
        cost=np.maximum(np.rint(price * (1 - margin)).astype(np.int64), 1),
        shelf_days=np.where(is_fresh, fresh_days, _DRY_DAYS),
        pack=np.where(is_fresh, np.array([1, 4, 6])[draws.below(items, "pack", bound=3)], 6),
        volume=np.rint(np.exp(6.7 + 0.6 * draws.normal(items, "volume"))).astype(np.int64),
        lift=params.lift * np.exp(0.3 * draws.normal(items, "lift")),
        other=_partner(items, category, name="other", within=True),
        goes_with=_partner(items, category, name="goes with", within=False),
        like=_likes(items, category, popular=popular, old=begins == 0, share=params.likes),
        begins=begins,
        every=every,
        first=draws.below(items, "first", bound=every),
        lead=np.where(is_fresh, 1, 2),
    )


def _weeks(kinds: Keys, params: WorldParams) -> Floats:
    """Returns the weekly season of categories: Friday and Saturday are strong, each category in its way."""
    common = np.array([-0.6, -0.7, -0.4, 0.1, 0.9, 1.2, -0.5])
    own = draws.normal(draws.child(kinds[:, None], np.arange(WEEK)).ravel(), "week").reshape(-1, WEEK)
    return np.asarray(params.weekly * (common + 0.4 * own))


def _hours(category: int) -> Floats:
    """Returns which share of a day's demand each opening hour has."""
    peak, width = _PEAKS[category % len(_PEAKS)]
    hours = np.arange(OPENS, CLOSES) + 0.5
    weight = 0.25 + np.exp(-0.5 * ((hours - peak) / width) ** 2)
    return np.asarray(weight / weight.sum())


def _partner(items: Keys, category: Ints, *, name: str, within: bool) -> Ints:
    """Returns for each item another one, of its category or of the next one."""
    found = np.empty(len(category), np.int64)
    most = int(category.max()) + 1
    for item, kind in enumerate(category.tolist()):
        wanted = kind if within else (kind + 1) % most
        others = np.flatnonzero((category == wanted) & (np.arange(len(category)) != item))
        found[item] = others[draws.below(items[item : item + 1], name, bound=len(others))[0]] if len(others) else item
    return found


def _likes(items: Keys, category: Ints, *, popular: Floats, old: Mask, share: float) -> Ints:
    """Returns what planners take for each item's like: of its category, there from the first day, about as popular."""
    found, guessed = np.full(len(category), -1), popular + _GUESSED * draws.normal(items, "guessed")
    for item in np.flatnonzero(draws.uniform(items, "liked") < share).tolist():
        others = np.flatnonzero((category == category[item]) & old & (np.arange(len(category)) != item))
        if len(others):
            found[item] = others[np.abs(popular[others] - guessed[item]).argmin()]
    return found


def date_of(start_us: int, day: int) -> dt.date:
    """Returns the date of a day of the world."""
    return dt.datetime.fromtimestamp(start_us / 1e6, dt.UTC).date() + dt.timedelta(days=day)


def easter(year: int) -> dt.date:
    """Returns Easter Sunday of the Gregorian calendar (the anonymous algorithm, Nature, 20 April 1876)."""
    a, (b, c) = year % 19, divmod(year, 100)
    d, e = divmod(b, 4)
    g = (b - (b + 8) // 25 + 1) // 3
    h = (19 * a + b - d - g + 15) % 30
    i, k = divmod(c, 4)
    l = (32 + 2 * e + 2 * i - h - k) % 7  # noqa: E741 - the names are the algorithm's
    m = (a + 11 * h + 22 * l) // 451
    month, day = divmod(h + l - 7 * m + 114, 31)
    return dt.date(year, month, day + 1)


def holidays(year: int) -> tuple[dt.date, ...]:
    """Returns the days on which stores are closed: some stand in the calendar, some move with Easter."""
    sunday = easter(year)
    moving = tuple(sunday + dt.timedelta(days=days) for days in (-2, 1, 39, 50))
    return (*moving, dt.date(year, 1, 1), dt.date(year, 5, 1), dt.date(year, 12, 25))


def is_closed(date: dt.date) -> bool:
    """Returns whether stores are closed."""
    return date in holidays(date.year)


def is_eve(date: dt.date) -> bool:
    """Returns whether one of the next three days is a holiday."""
    return not is_closed(date) and any(is_closed(date + dt.timedelta(days=ahead)) for ahead in (1, 2, 3))
