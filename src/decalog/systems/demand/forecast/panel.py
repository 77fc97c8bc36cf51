"""What every method of forecasting takes and gives: many series on one time axis, and the quantiles of what follows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.errors import DataError
from decalog.systems.demand.forecast.calendar import Calendar

Floats = npt.NDArray[np.float64]

LEVELS: tuple[float, ...] = (0.01, 0.025, *(round(0.05 * step, 2) for step in range(1, 20)), 0.975, 0.99)
"""Probabilities of the quantiles that every forecast holds; 0.05 and 0.95 bound the interval of 90 %."""

MEDIAN = LEVELS.index(0.5)

NORMAL: Floats = np.array([NormalDist().inv_cdf(level) for level in LEVELS])
"""The quantiles of `LEVELS` of the standard normal distribution."""

AT_ONCE = 4_096
"""Series whose features stand in memory together."""


class Panel(msgspec.Struct, frozen=True, kw_only=True):
    """Series that end at the same time.

    Args:
        ids: one name a series.
        y: float64, series × time; NaN where nothing is known: before a series began, a gap, a day without stock.
        seasons: lengths in steps, shortest first: (7,), (24, 168); empty where there is none.
        calendar: of the columns; None where time is a number without a date.
        known: what is known of each step ahead of time, such as a price: float64, series × (time + steps ahead).
    """

    ids: tuple[str, ...]
    y: Floats
    seasons: tuple[int, ...] = ()
    calendar: Calendar | None = None
    known: Mapping[str, Floats] = {}

    @property
    def season(self) -> int:
        """The shortest season, which errors are scaled by; 1 where there is none."""
        return self.seasons[0] if self.seasons else 1

    def until(self, end: int) -> Panel:
        """Returns what was known after so many steps; a negative number counts from the end."""
        return msgspec.structs.replace(self, y=self.y[:, :end])

    def of(self, places: npt.NDArray[np.int64]) -> Panel:
        """Returns some of the series."""
        known = {name: values[places] for name, values in self.known.items()}
        return msgspec.structs.replace(self, ids=tuple(self.ids[at] for at in places), y=self.y[places], known=known)

    def pieces(self) -> Iterator[tuple[slice, Panel]]:
        """Yields `AT_ONCE` series after the other, with where they stand; nothing is copied."""
        for start in range(0, len(self.ids), AT_ONCE):
            at = slice(start, start + AT_ONCE)
            known = {name: values[at] for name, values in self.known.items()}
            yield at, msgspec.structs.replace(self, ids=self.ids[at], y=self.y[at], known=known)


class Forecast(NamedTuple):
    """What a method says of each series and each step ahead.

    Args:
        mean: float64, series × horizon; the method's point forecast.
        quantiles: float64, series × horizon × `LEVELS`; never falling along the last axis.
        fitted: float64, series × time; one step ahead inside what it learnt from, NaN where it says nothing.
        fallbacks: names of series that the method could not do, for which the seasonal naive forecast stands.
    """

    mean: Floats
    quantiles: Floats
    fitted: Floats | None = None
    fallbacks: tuple[str, ...] = ()

    def at(self, level: float) -> Floats:
        """Returns a quantile, series × horizon, read between those of `LEVELS`.

        Raises:
            DataError: the level lies outside of them, where nothing was estimated.
        """
        if not LEVELS[0] <= level <= LEVELS[-1]:
            raise DataError(
                where="forecast, quantile",
                given=f"level {level:g}",
                expected=f"a level from {LEVELS[0]} to {LEVELS[-1]}",
                fix="Ask for a level inside; beyond them a few hundred errors say nothing.",
            )
        right = max(1, int(np.searchsorted(LEVELS, level)))
        share = (level - LEVELS[right - 1]) / (LEVELS[right] - LEVELS[right - 1])
        found: Floats = (1 - share) * self.quantiles[..., right - 1] + share * self.quantiles[..., right]
        return found


class Method(NamedTuple):
    """A way of forecasting: a name that says its settings too, and what it does with a panel and a horizon."""

    name: str
    forecast: Callable[[Panel, int], Forecast]


def panel_of(series: Mapping[str, Sequence[float] | Floats], *, seasons: tuple[int, ...] = ()) -> Panel:
    """Returns series without dates as a panel; each ends with the last step.

    >>> panel_of({"a": [1, 2, 3], "b": [5]}).y
    array([[ 1.,  2.,  3.],
           [nan, nan,  5.]])
    """
    y = np.full((len(series), max(map(len, series.values()))), np.nan)
    for row, values in zip(y, series.values(), strict=True):
        row[len(row) - len(values) :] = values
    return Panel(ids=tuple(series), y=y, seasons=seasons)


def filled(row: Floats, season: int) -> Floats:
    """Returns a series from its first value on, each gap filled by what stood a season before it, or last."""
    there = np.flatnonzero(~np.isnan(row))
    if not len(there):
        return np.zeros(1)
    whole = row[there[0] :].copy()
    for at in np.flatnonzero(np.isnan(whole)):
        whole[at] = whole[at - season] if at >= season else whole[at - 1]
    return whole


def season_errors(panel: Panel) -> Floats:
    """Returns of each series the mean absolute error of the seasonal naive forecast inside it: its scale.

    A series that is too short is scaled by its mean, one that never changes by 1.
    """
    y, season = panel.y, panel.season
    steps = np.abs(y[:, season:] - y[:, :-season]) if y.shape[1] > season else np.full((len(y), 1), np.nan)
    scale = known_means(steps, axis=1)
    scale = np.where(np.isnan(scale), known_means(np.abs(y), axis=1), scale)
    return np.where(np.isnan(scale) | (scale <= 0), 1.0, scale)


def known_means(values: Floats, *, axis: int) -> Floats:
    """Returns the means along an axis of what is known; NaN where nothing is."""
    known = ~np.isnan(values)
    counts = known.sum(axis=axis)
    sums = np.where(known, values, 0.0).sum(axis=axis)
    found: Floats = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return found


def normal_quantiles(mean: Floats, spread: Floats) -> Floats:
    """Returns the quantiles of `LEVELS` of a normal distribution; the arrays have any one shape."""
    found: Floats = mean[..., None] + spread[..., None] * NORMAL
    return found
