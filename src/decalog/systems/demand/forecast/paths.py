"""Demand of many items that wanders: filters that take a slow level out of what is measured day by day.

Each item's logs lie around a level of its own that comes back to 0 and stays for a while,

    y(t) = level(t) + columns(t) · effects + noise(t),   level(t) = stays · level(t − 1) + new(t)

with a known variance of the noise of each day. A Kalman filter turns y and every column into what is new of them, whose
errors are independent with variance 1 (the innovations; Harvey, Forecasting, Structural Time Series Models and the
Kalman Filter, 1989, chapter 3.4). Least squares on those is generalized least squares on the rest. A season or a trend
that is slower than the effects goes with the level: so a promotion is compared with the weeks around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_STAYS = (0.8, 0.9, 0.95, 0.98, 0.995)
_SPREADS = tuple(np.geomspace(0.02, 0.64, 11).tolist())
_UNSEEN = 1e12


class Wander(NamedTuple):
    """How levels move: the correlation of a day's with the next, (0, 1), and the standard deviation around 0, logs."""

    stays: float
    spread: float

    @property
    def new(self) -> float:
        """Variance of what is new each day."""
        return self.spread**2 * (1 - self.stays**2)


def innovations(values: Floats, variance: Floats, *, wander: Wander) -> Floats:
    """Returns what is new each day of columns, in standard deviations; 0 on days that are not known.

    Args:
        values: items × days × columns; the first column's noise has the variance.
        variance: of the noise, items × days; infinite where nothing is known.
        wander: of the levels.
    """
    found = np.zeros_like(values)
    state, spread = np.zeros((len(values), values.shape[2])), np.full(len(values), wander.spread**2)
    for day in range(values.shape[1]):
        total = spread + np.minimum(variance[:, day], _UNSEEN)
        new = values[:, day] - state
        is_known = np.isfinite(variance[:, day])
        found[:, day] = np.where(is_known, 1 / np.sqrt(total), 0.0)[:, None] * new
        gain = np.where(is_known, spread / total, 0.0)
        state = wander.stays * (state + gain[:, None] * new)
        spread = wander.stays**2 * spread * (1 - gain) + wander.new
    return found


def smoothed(values: Floats, variance: Floats, *, wander: Wander) -> tuple[Floats, Floats]:
    """Returns the level of each day given all days, and its variance; items × days each."""
    shape = values.shape
    means, spreads, ahead, wide = (np.empty(shape) for _ in range(4))
    state, spread = np.zeros(shape[0]), np.full(shape[0], wander.spread**2)
    for day in range(shape[1]):
        ahead[:, day], wide[:, day] = state, spread
        gain = np.where(np.isfinite(variance[:, day]), spread / (spread + np.minimum(variance[:, day], _UNSEEN)), 0.0)
        means[:, day] = state + gain * (np.nan_to_num(values[:, day]) - state)
        spreads[:, day] = spread * (1 - gain)
        state = wander.stays * means[:, day]
        spread = wander.stays**2 * spreads[:, day] + wander.new
    for day in range(shape[1] - 2, -1, -1):
        back = wander.stays * spreads[:, day] / wide[:, day + 1]
        means[:, day] += back * (means[:, day + 1] - ahead[:, day + 1])
        spreads[:, day] += back**2 * (spreads[:, day + 1] - wide[:, day + 1])
    return means, spreads


def likeliest(values: Floats, variance: Floats) -> Wander:
    """Returns how levels move: the likeliest of a grid, one for all items; arguments are items × days."""
    grid = [Wander(stays, spread) for stays in _STAYS for spread in _SPREADS]
    return grid[int(np.argmax(_logs(values, variance, grid=grid)))]


def _logs(values: Floats, variance: Floats, *, grid: Sequence[Wander]) -> Floats:
    """Returns the logarithm of the likelihood of each way to move."""
    told = np.array([(one.stays, one.spread**2, one.new) for one in grid])
    stays, start, new_ = told[:, 0, None], told[:, 1, None], told[:, 2, None]
    state, spread = np.zeros((len(grid), len(values))), np.broadcast_to(start, (len(grid), len(values)))
    found = np.zeros(len(grid))
    for day in range(values.shape[1]):
        is_known = np.isfinite(variance[:, day])
        total = spread + np.minimum(variance[:, day], _UNSEEN)
        new = np.where(is_known, values[:, day] - state, 0.0)
        found -= 0.5 * np.sum(np.where(is_known, np.log(total), 0.0) + new**2 / total, axis=1)
        gain = np.where(is_known, spread / total, 0.0)
        state = stays * (state + gain * new)
        spread = stays**2 * spread * (1 - gain) + new_
    return found
