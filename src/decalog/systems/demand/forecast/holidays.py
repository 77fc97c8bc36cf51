"""Holidays that move between years, as columns that are known ahead: how far each step lies from the next and the last.

A model that knows weeks and months alone meets Easter at another place each year: what it learnt of the week before
belongs to another week now, and a month has the days before Easter in one year and not in the next. The columns here
depend on dates alone, so they are known for every step ahead; a panel without them stays what it was.

>>> moving(2026)["Easter Sunday"]
datetime.date(2026, 4, 5)
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np

from decalog.errors import DataError
from decalog.systems.demand.forecast.calendar import Calendar, Ints
from decalog.systems.demand.forecast.panel import Floats, Panel

Dates = Mapping[str, Sequence[dt.date]]
"""Name of a holiday → its days, one or more a year."""
_FROM_EASTER = {
    "Good Friday": -2,
    "Easter Sunday": 0,
    "Easter Monday": 1,
    "Ascension Day": 39,
    "Whit Sunday": 49,
    "Whit Monday": 50,
    "Corpus Christi": 60,
}
_DAY = 86_400


def easter(year: int) -> dt.date:
    """Returns Easter Sunday of the Gregorian calendar (Meeus, Astronomical Algorithms, 1991, chapter 8)."""
    century, of_century = divmod(year, 100)
    golden = year % 19
    leaps, rest = divmod(century, 4)
    moon = (19 * golden + century - leaps - (century - (century + 8) // 25 + 1) // 3 + 15) % 30
    fourths, odd = divmod(of_century, 4)
    weekday = (32 + 2 * rest + 2 * fourths - moon - odd) % 7
    late = (golden + 11 * moon + 22 * weekday) // 451
    month, day = divmod(moon + weekday - 7 * late + 114, 31)
    return dt.date(year, month, day + 1)


def moving(year: int) -> dict[str, dt.date]:
    """Returns the western holidays that move with Easter, of one year."""
    return {name: easter(year) + dt.timedelta(days=days) for name, days in _FROM_EASTER.items()}


def between(first: int, last: int, *names: str) -> dict[str, tuple[dt.date, ...]]:
    """Returns holidays that move with Easter over years, all or those that are named.

    Raises:
        DataError: a name is none of them.
    """
    unknown = [name for name in names if name not in _FROM_EASTER]
    if unknown:
        raise DataError(
            where="moving holidays",
            given=f"'{unknown[0][:80]}'",
            expected=f"some of {', '.join(_FROM_EASTER)}",
            fix="Give the dates of others yourself, or take them from the package `holidays` by `by_name`.",
        )
    years = [moving(year) for year in range(first, last + 1)]
    return {name: tuple(year[name] for year in years) for name in names or _FROM_EASTER}


def by_name(days: Iterable[tuple[dt.date, str]]) -> dict[str, tuple[dt.date, ...]]:
    """Returns dates by the name of their holiday, as the package `holidays` tells them the other way round.

    `by_name(holidays.country_holidays("DE", years=range(2023, 2028)).items())`; a day of two names counts for both.
    """
    found: dict[str, list[dt.date]] = {}
    for date, told in days:
        for name in told.split("; "):
            found.setdefault(name, []).append(date)
    return {name: tuple(sorted(dates)) for name, dates in found.items()}


def with_holidays(panel: Panel, holidays: Dates, *, horizon: int, reach: int = 14) -> Panel:
    """Returns a panel that knows of holidays, of its past and of the steps ahead.

    Of each holiday, or of those that always lie as far from each other (Good Friday and Easter), one is enough.

    - hours and days: `<name>_in`, days until the next one, and `<name>_since`, days since the last one, `reach` + 1
      where it is further away; 0 on the day itself.
    - weeks and longer: `<name>`, the share of the `reach` days up to and with the holiday that lie in the step: an
      Easter on 2 April is a matter of March. `<name>_before` is the same one season ago, which a forecast that starts
      from the season before has to take out.

    Args:
        panel: with a calendar.
        holidays: their dates, also those ahead.
        horizon: steps ahead that will be forecast.
        reach: days that are too far away to matter.

    Raises:
        DataError: the panel has no calendar, a holiday has no date from a year before its end on to the last step
            ahead, or a column of the panel has the same name.
    """
    if panel.calendar is None:
        raise DataError(
            where="moving holidays",
            given="a panel whose time is a number",
            expected="dates",
            fix="Read the frame with dates as `ds`, or add columns of your own as `known`.",
        )
    steps = np.arange(panel.y.shape[1] + horizon)
    found: dict[str, Floats] = {}
    for name, dates in holidays.items():
        days = np.unique(np.array(sorted(dates), "datetime64[D]").astype(np.int64))
        _check(name, days, panel=panel, horizon=horizon)
        made = _distances if panel.calendar.unit in {"hour", "day"} else _shares
        found |= made(name, days, calendar=panel.calendar, steps=steps, reach=reach, season=panel.season)
    clash = sorted(set(found) & set(panel.known))
    if clash:
        raise DataError(
            where="moving holidays",
            given=f"a panel that has a column '{clash[0]}'",
            expected="names that are free",
            fix="Rename the holiday, or the column.",
        )
    wide = {name: np.broadcast_to(values, (len(panel.ids), len(steps))) for name, values in found.items()}
    return msgspec.structs.replace(panel, known={**panel.known, **wide})


def _check(name: str, days: Ints, *, panel: Panel, horizon: int) -> None:
    assert panel.calendar is not None  # noqa: S101 - asked before
    width = panel.y.shape[1]
    last = _day(panel.calendar, np.array([width - 1, width + horizon]))
    if not len(days) or days[-1] < last[0] - 366:
        told = "no date" if not len(days) else f"dates until {np.datetime64(int(days[-1]), 'D')}"
        raise DataError(
            where=f"moving holidays, '{name}'",
            given=told,
            expected=f"those up to {np.datetime64(int(last[1]), 'D')}, the end of what is forecast",
            fix="Give the dates of the years ahead too: they are known.",
        )


def _day(calendar: Calendar, steps: Ints) -> Ints:
    """Returns the day on which steps begin, since 1970."""
    found: Ints = calendar.times(steps).astype("datetime64[D]").astype(np.int64)
    return found


def _distances(name: str, days: Ints, *, calendar: Calendar, steps: Ints, reach: int, season: int) -> dict[str, Floats]:
    del season
    at, far = _day(calendar, steps), np.iinfo(np.int64).max // 4
    padded = np.concatenate([[-far], days, [far]])
    ahead = padded[np.searchsorted(padded, at)] - at
    since = at - padded[np.searchsorted(padded, at, side="right") - 1]
    return {
        f"{name}_{side}": np.minimum(apart, reach + 1).astype(np.float64)[None]
        for side, apart in (("in", ahead), ("since", since))
    }


def _shares(name: str, days: Ints, *, calendar: Calendar, steps: Ints, reach: int, season: int) -> dict[str, Floats]:
    def share(of: Ints) -> Floats:
        begins, ends = _begins(calendar, of), _begins(calendar, of + 1)
        inside = np.minimum(ends[:, None], days + 1) - np.maximum(begins[:, None], days + 1 - reach)
        return np.asarray(np.maximum(inside, 0).sum(axis=1) / reach)[None]

    return {name: share(steps), f"{name}_before": share(steps - season)}


def _begins(calendar: Calendar, steps: Ints) -> Ints:
    """Returns the first day of steps: of months and longer ones the first of the month, whatever day dates them."""
    at = _day(calendar, steps)
    if calendar.unit == "week":
        return at
    found: Ints = at.astype("datetime64[D]").astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    return found
