"""What a day brings: how much people want of everything, hour by hour, and what the shelves let them have."""

from __future__ import annotations

import datetime as dt
from collections.abc import Set as AbstractSet
from typing import Any

import msgspec
import numpy as np

from decalog.systems.demand.world import shops as places
from decalog.systems.demand.world.params import HOURS, WorldParams
from decalog.systems.demand.world.shops import AROUND, WEEK, YEAR, Shops
from decalog.testing import draws
from decalog.testing.draws import Floats, Ints, Mask

_DEPTHS = np.array([0.15, 0.25, 0.25, 0.4])
_BOOM, _SLUMP = np.log(1.6), np.log(0.65)
_EARLIER_H = 3
_LOTS = 8
"""Days that fresh items last at most; what does not spoil stands in the last lot for ever."""


class Calendar:
    """What is wanted on each day of a world, whatever the shelves hold.

    Args:
        shops: who sells what.
        params: settings.
        start_us: midnight of day 0.
    """

    def __init__(self, shops: Shops, params: WorldParams, *, start_us: int) -> None:
        self.shops, self.params, self._start_us = shops, params, start_us
        self._weather: list[Floats] = []
        self._fashion: list[Floats] = []
        self._leaflets: dict[int, Floats] = {}
        self._items = draws.child(draws.named(shops.key, "promoted"), np.arange(shops.items))

    def date(self, day: int) -> dt.date:
        """Returns the date of a day."""
        return places.date_of(self._start_us, day)

    def is_closed(self, day: int) -> bool:
        """Returns whether stores are closed on a day."""
        return places.is_closed(self.date(day))

    def discount(self, day: int) -> Floats:
        """Returns what is taken off the price of each item on a day, a share; leaflets hold from Monday to Saturday."""
        date = self.date(day)
        if day < 0 or date.weekday() == WEEK - 1:
            return np.zeros(self.shops.items)
        return self._leaflet(date.toordinal() // WEEK)

    def _leaflet(self, week: int) -> Floats:
        if week not in self._leaflets:
            keys = draws.child(self._items, week)
            depth = _DEPTHS[draws.below(keys, "depth", bound=len(_DEPTHS))]
            self._leaflets[week] = np.where(draws.uniform(keys, "on") < self.params.promoted, depth, 0.0)
        return self._leaflets[week]

    def promotion(self, day: int) -> Floats:
        """Returns what promotions of this week and the last do to each item on a day, in logs."""
        shops, params, now = self.shops, self.params, self.discount(day) / AROUND
        before = np.mean([self.discount(day - back) for back in range(1, WEEK + 1)], axis=0) / AROUND
        everywhere = np.bincount(shops.category, weights=now, minlength=len(shops.week))[shops.category]
        return np.asarray(
            shops.lift * (now - params.pulled * np.where(now > 0, 0.0, before))
            - params.taken * (everywhere - now)
            + params.lent * now[shops.goes_with]
        )

    def rate(self, day: int, on: AbstractSet[str]) -> Floats:
        """Returns the mean units wanted of each series on a day, under switches."""
        shops, date = self.shops, self.date(day)
        if places.is_closed(date):
            return np.zeros(shops.n)
        turn = np.cos(2 * np.pi * (date.timetuple().tm_yday - shops.phase) / YEAR)
        of_category = shops.week[:, date.weekday()] + shops.year * turn
        of_category += self.params.holiday * places.is_eve(date)
        if "boom" in on:
            of_category[::3] += _BOOM
        weather, fashion = self._shocks(day)
        of_item = of_category[shops.category] + shops.trend * day / YEAR + fashion + self.promotion(day)
        logs = shops.base + np.repeat(weather, shops.items) + np.tile(of_item, shops.stores)
        there = np.tile(shops.begins <= day, shops.stores)
        return np.asarray(np.where(there, np.exp(logs + ("slump" in on) * _SLUMP), 0.0))

    def wanted(self, day: int, on: AbstractSet[str]) -> Ints:
        """Returns the units wanted, series × opening hours: Poisson around a mean that is gamma-distributed itself."""
        shops, shape = self.shops, self.params.shape
        rng = self.chance(day)
        mean = self.rate(day, on) * rng.gamma(shape, 1 / shape, size=shops.n)
        hours = _earlier(shops.hours) if "early_shoppers" in on else shops.hours
        return np.asarray(rng.poisson(mean[:, None] * np.tile(hours[shops.category], (shops.stores, 1))))

    def chance(self, day: int, name: str = "wanted") -> Any:
        """Returns the generator of a day's draws of a name: whatever was ordered, it gives the same."""
        return np.random.default_rng(int(draws.child(draws.named(self.shops.key, name), day)[0]))

    def _shocks(self, day: int) -> tuple[Floats, Floats]:
        shops, params = self.shops, self.params
        while len(self._weather) <= day:
            keys = draws.child(draws.named(shops.key, "shocks"), len(self._weather))
            new = draws.normal(draws.child(keys, np.arange(shops.stores)), "weather")
            self._weather.append(_next(self._weather, new, params.weather, params.weather_stays))
            new = draws.normal(draws.child(keys, np.arange(shops.items)), "fashion")
            self._fashion.append(_next(self._fashion, new, params.fashion, params.fashion_stays))
        return self._weather[day], self._fashion[day]


def _earlier(hours: Floats) -> Floats:
    """Returns shares of hours of people who come earlier: before the store opens they wait."""
    made = np.pad(hours[:, _EARLIER_H:], ((0, 0), (0, _EARLIER_H)))
    made[:, 0] += hours[:, :_EARLIER_H].sum(axis=1)
    return made


def _next(path: list[Floats], new: Floats, spread: float, stays: float) -> Floats:
    """Returns the next value of an autoregression of order one whose standard deviation is `spread`."""
    if not path:
        return spread * new
    return np.asarray(stays * path[-1] + spread * np.sqrt(1 - stays**2) * new)


class Sold(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a day, of each series.

    Args:
        wanted: units, series × opening hours: the truth.
        units: sold, series × opening hours; those who came for something else included.
        empty: hours at whose end the shelf was empty, series × opening hours.
        wasted: units that spoilt.
        left: units on the shelf in the evening, what spoilt taken out.
    """

    wanted: Ints
    units: Ints
    empty: Mask
    wasted: Ints
    left: Ints


class Shelves:
    """What lies on the shelves, by the days that it still lasts: what came first is sold first.

    Args:
        shops: who sells what.
        substituted: share of what is not there that is bought as another item.
    """

    def __init__(self, shops: Shops, substituted: float) -> None:
        self._substituted = substituted
        self._lots = np.zeros((shops.n, _LOTS), np.int64)
        self._is_fresh = np.tile(shops.fresh, shops.stores)
        self._lasts = np.where(self._is_fresh, np.minimum(np.tile(shops.shelf_days, shops.stores), _LOTS), _LOTS) - 1
        offset = np.repeat(np.arange(shops.stores) * shops.items, shops.items)
        self._other = np.tile(shops.other, shops.stores) + offset

    @property
    def on_hand(self) -> Ints:
        """Units of each series."""
        return np.asarray(self._lots.sum(axis=1))

    def deliver(self, units: Ints) -> None:
        """Puts what was delivered on the shelves."""
        self._lots[np.arange(len(units)), self._lasts] += units

    def sell(self, wanted: Ints, luck: Floats, *, offered: Mask) -> Sold:
        """Returns what a day sold.

        Args:
            wanted: units, series × hours.
            luck: uniform draws of the same shape: whether the odd one takes something else.
            offered: which series are sold at all: of others no shelf is empty.
        """
        left, units = self.on_hand, np.zeros_like(wanted)
        empty = np.zeros(wanted.shape, np.bool_)
        for hour in range(HOURS):
            sold = np.minimum(wanted[:, hour], left)
            left = left - sold
            turned = ((wanted[:, hour] - sold) * self._substituted + luck[:, hour]).astype(np.int64)
            asked = np.bincount(self._other, weights=turned, minlength=len(left)).astype(np.int64)
            also = np.minimum(asked, left)
            left = left - also
            units[:, hour], empty[:, hour] = sold + also, offered & (left == 0)
        wasted = self._night(units.sum(axis=1))
        return Sold(wanted=wanted, units=units, empty=empty, wasted=wasted, left=self.on_hand)

    def _night(self, sold: Ints) -> Ints:
        """Takes what was sold, oldest first, and what spoilt; returns the latter."""
        through = np.minimum(np.cumsum(self._lots, axis=1), sold[:, None])
        self._lots -= np.diff(through, axis=1, prepend=0)
        wasted = np.where(self._is_fresh, self._lots[:, 0], 0)
        aged = np.pad(self._lots[:, 1:], ((0, 0), (0, 1)))
        self._lots = np.where(self._is_fresh[:, None], aged, self._lots)
        return wasted
