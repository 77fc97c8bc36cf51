"""What moves demand, as levels of factors for `latent`: series, weekday, promotions, holidays, good and bad days."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

SHRUNK: Mapping[str, float] = {
    "series": 0.05,
    "weekday": 0.0,
    "promotion": 10.0,
    "promoted item": 15.0,
    "after a promotion": 30.0,
    "eve": 30.0,
    "category and week": 20.0,
    "item and week": 25.0,
    "series and month": 60.0,
    "store and day": 60.0,
}
"""Factor → how many units speak for its doing nothing; chosen on seeds 1 and 2 of the world."""
LASTING = ("series", "weekday", "promotion", "promoted item", "after a promotion", "eve")
"""Factors of a day to come; of the others the last level is known at most."""
_DEPTHS = (0.01, 0.2, 0.3)
"""Bounds of a promotion's depth, shares of the price."""
_WEEK, _MONTH = 7, 28


class Days(msgspec.Struct, frozen=True, kw_only=True):
    """Which series on which days.

    Args:
        item, store, category: int64, of series, from 0 on.
        dates: of the days, one after the other.
        discount: float64, series × days: share taken off the price.
        eves: days that are followed by a holiday within three days.
    """

    item: Ints
    store: Ints
    category: Ints
    dates: Sequence[dt.date]
    discount: Floats
    eves: Mask

    def levels(self) -> dict[str, Ints]:
        """Returns factor → level, series × days; below 0 where a factor says nothing."""
        n, days = self.discount.shape
        series, day = np.arange(n)[:, None], np.arange(days)[None, :]
        weekday = np.array([date.weekday() for date in self.dates])[None, :]
        week = np.array([(date.toordinal() - 1) // _WEEK for date in self.dates])[None, :]
        week, month = week - week[:, :1], day // _MONTH
        depth = np.digitize(self.discount, _DEPTHS)
        item, store, category = self.item[:, None], self.store[:, None], self.category[:, None]
        weeks, months = int(week.max()) + 1, int(month.max()) + 1
        found = {
            "series": series,
            "weekday": category * _WEEK + weekday,
            "promotion": np.where(depth > 0, category * len(_DEPTHS) + depth - 1, -1),
            "promoted item": np.where(depth > 0, item, -1),
            "after a promotion": np.where(self._is_after(), category, -1),
            "eve": np.where(self.eves[None, :], category, -1),
            "category and week": category * weeks + week,
            "item and week": item * weeks + week,
            "series and month": series * months + month,
            "store and day": store * days + day,
        }
        return {name: np.ascontiguousarray(np.broadcast_to(levels, (n, days))) for name, levels in found.items()}

    def _is_after(self) -> Mask:
        """Returns which days come within a week after a promotion, and are none themselves."""
        was = np.zeros_like(self.discount, np.bool_)
        for back in range(1, _WEEK + 1):
            was[:, back:] |= self.discount[:, :-back] > 0
        return np.asarray(was & (self.discount <= 0))
