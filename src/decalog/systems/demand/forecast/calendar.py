"""Time as whole steps: which step a time lies in, which time a step has, and what day it is."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Times = npt.NDArray[np.datetime64]
Unit = Literal["hour", "day", "week", "month", "quarter", "year"]

SEASONS: dict[Unit, tuple[int, ...]] = {
    "hour": (24, 168),
    "day": (7,),
    "week": (52,),
    "month": (12,),
    "quarter": (4,),
    "year": (),
}
_MONTHS: dict[Unit, int] = {"month": 1, "quarter": 3, "year": 12}
_SECONDS: dict[Unit, int] = {"hour": 3_600, "day": 86_400, "week": 604_800}
_DAY = 86_400


class Calendar(msgspec.Struct, frozen=True):
    """The times of columns, one step after the other.

    Args:
        unit: of a step.
        first: time of the first column, s since 1970 UTC; the others of a week, a month or a year keep its place:
            a series dated by the last day of each month goes on so.
    """

    unit: Unit
    first: int

    def times(self, steps: Ints) -> Times:
        """Returns the times of steps, of which 0 is the first column."""
        if self.unit in _SECONDS:
            return np.asarray(self.first + steps * _SECONDS[self.unit]).astype("datetime64[s]")
        begin = np.datetime64(self.first, "s")
        months = begin.astype("datetime64[M]") + steps * _MONTHS[self.unit]
        into = int((begin - begin.astype("datetime64[M]")).astype(np.int64))
        length = ((months + 1).astype("datetime64[s]") - months.astype("datetime64[s]")).astype(np.int64)
        last = length - _DAY + into % _DAY
        is_last = _month_seconds(begin) - into <= _DAY
        return np.asarray(months.astype("datetime64[s]") + np.where(is_last, last, np.minimum(into, last)))

    def steps(self, times: Times) -> Ints:
        """Returns the step that each time lies in."""
        if self.unit in _SECONDS:
            seconds = times.astype("datetime64[s]").astype(np.int64)
            whole: Ints = np.floor_divide(seconds - self.first, _SECONDS[self.unit])
            return whole
        begin = np.datetime64(self.first, "s").astype("datetime64[M]")
        months = (times.astype("datetime64[M]") - begin).astype(np.int64)
        found: Ints = np.floor_divide(months, _MONTHS[self.unit])
        return found


def _month_seconds(time: np.datetime64) -> int:
    month = time.astype("datetime64[M]")
    return int(((month + 1).astype("datetime64[s]") - month.astype("datetime64[s]")).astype(np.int64))


def unit_of(times: Times) -> Unit:
    """Returns the longest unit in which no two times share a step, as steps of one series show it.

    >>> unit_of(np.array(["2026-01-31", "2026-02-28", "2026-03-31"], "datetime64[s]"))
    'month'
    """
    apart = np.diff(np.unique(times.astype("datetime64[s]").astype(np.int64)))
    least = int(np.min(apart)) if len(apart) else _DAY
    bounds: tuple[tuple[int, Unit], ...] = (
        (6, "hour"),
        (100, "day"),
        (600, "week"),
        (2_000, "month"),
        (8_000, "quarter"),
    )
    hours = least // 3_600
    return next((unit for bound, unit in bounds if hours <= bound), "year")


def parts(calendar: Calendar, steps: Ints) -> dict[str, npt.NDArray[np.float64]]:
    """Returns what a model may know of the date of each step: hour, weekday, day of month, week, month."""
    times = calendar.times(steps).astype("datetime64[s]")
    days, months = times.astype("datetime64[D]"), times.astype("datetime64[M]")
    found = {"month": months.astype(np.int64) % 12 + 1}
    if calendar.unit in {"hour", "day", "week"}:
        found["week_of_year"] = (days - times.astype("datetime64[Y]").astype("datetime64[D]")).astype(np.int64) // 7
    if calendar.unit in {"hour", "day"}:
        found["weekday"] = (days.astype(np.int64) + 3) % 7
        found["day_of_month"] = (days - months.astype("datetime64[D]")).astype(np.int64) + 1
    if calendar.unit == "hour":
        found["hour"] = (times - days.astype("datetime64[s]")).astype(np.int64) // 3_600
    return {name: values.astype(np.float64) for name, values in found.items()}
