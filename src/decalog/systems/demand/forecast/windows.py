"""What a global model sees of a series at an origin, for each step ahead: everything relative to level and scale."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from decalog.errors import DataError
from decalog.systems.demand.forecast import calendar
from decalog.systems.demand.forecast.panel import Floats, Panel, known_means, season_errors

Singles = npt.NDArray[np.float32]

LAGS = 6
"""The latest values that a model sees one by one."""
CYCLES = 3
"""Seasons back from the step ahead: what stood one, two, three seasons before it."""


class Anchors(NamedTuple):
    """What answers are counted from, of all series at one origin.

    Args:
        level: float64, series; the mean of the latest season, 0 where nothing of it is known.
        base: float64, series × horizon; what the model's answer is added to: the seasonal naive forecast.
        scale: float64, series; what its answer is multiplied by.
    """

    level: Floats
    base: Floats
    scale: Floats

    def target(self, actual: Floats) -> Floats:
        """Returns what the model should have answered, one a row."""
        return ((actual - self.base) / self.scale[:, None]).ravel()

    def back(self, answers: Floats) -> Floats:
        """Returns answers, one a row, as values of y, series × horizon."""
        found: Floats = self.base + answers.reshape(self.base.shape) * self.scale[:, None]
        return found


class View(NamedTuple):
    """All series at one origin. What is seen of a series does not depend on the series that stand beside it.

    Args:
        rows: float32, (series × horizon) × features, a series' steps together; NaN where history is too short.
        names: of the features.
        anchors: that answers are counted from.
    """

    rows: Singles
    names: tuple[str, ...]
    anchors: Anchors


def anchors(panel: Panel, origin: int, *, horizon: int) -> Anchors:
    """Returns what the answers for the steps after `origin` are counted from."""
    history = panel.y[:, :origin]
    scale = season_errors(panel.until(origin))
    level = _tail_mean(history, panel.seasons[-1] if panel.seasons else 1)
    level = np.where(np.isnan(level), 0.0, level)
    return Anchors(level, _base(history, panel, horizon, level=level), scale)


def view(panel: Panel, origin: int, *, horizon: int) -> View:
    """Returns what is known after `origin` steps of the panel, for the steps that follow.

    Raises:
        DataError: a column that is known ahead ends before the last of them.
    """
    history = panel.y[:, :origin]
    found = anchors(panel, origin, horizon=horizon)
    level, base, scale = found
    features = {
        name: (values - level[:, None]) / scale[:, None]
        for name, values in (
            by_step(history, panel.seasons, horizon=horizon) | by_origin(history, panel.seasons)
        ).items()
    }
    features["base"] = (base - level[:, None]) / scale[:, None]
    features["drift"] = (_recent_drift(history, panel.seasons) / scale)[:, None]
    features["step"] = np.arange(1.0, horizon + 1)[None]
    columns = features | _shape(history, level, scale) | _ahead(panel, origin, horizon)
    shape = (len(history), horizon)
    rows = np.empty((*shape, len(columns)), np.float32)
    for place, values in enumerate(columns.values()):
        rows[..., place] = values
    return View(rows.reshape(-1, len(columns)), tuple(columns), found)


def by_step(history: Floats, seasons: tuple[int, ...], *, horizon: int) -> dict[str, Floats]:
    """Returns what stood whole seasons before each step ahead, and the mean of that over the seasons back."""
    width = history.shape[1]
    ahead = np.arange(horizon)
    found: dict[str, Floats] = {}
    for season in seasons:
        first = width + ahead - season * (1 + ahead // season)
        cycles = [_columns(history, first - season * back) for back in range(CYCLES)]
        found |= {f"lag_{back + 1}x{season}": values for back, values in enumerate(cycles)}
        found[f"before_{season}"] = _columns(history, first - 1)
        after = first + 1
        found[f"after_{season}"] = _columns(history, np.where(after < width, after, after - season))
        found[f"mean_lag_{season}"] = known_means(np.stack(cycles), axis=0)
    return found


def by_origin(history: Floats, seasons: tuple[int, ...]) -> dict[str, Floats]:
    """Returns the latest values and means of the latest windows."""
    width = history.shape[1]
    found = {f"last_{back}": _columns(history, np.array([width - back])) for back in range(1, LAGS + 1)}
    for season in seasons or (LAGS,):
        for share in (0.25, 0.5, 1.0, 2.0, 4.0):
            steps = max(2, round(season * share))
            found[f"mean_{steps}"] = _tail_mean(history, steps)[:, None]
    return found


def _shape(history: Floats, level: Floats, scale: Floats) -> dict[str, Floats]:
    known = ~np.isnan(history)
    counts = np.maximum(known.sum(axis=1), 1)
    found = {
        "level": level / scale,
        "log_level": np.log1p(np.abs(level)),
        "zeros": ((history == 0) & known).sum(axis=1) / counts,
        "age": np.log1p(counts.astype(np.float64)),
    }
    return {name: values[:, None] for name, values in found.items()}


def _ahead(panel: Panel, origin: int, horizon: int) -> dict[str, Floats]:
    """Returns what is known ahead of time: the calendar of each step, and the panel's own columns."""
    steps = np.arange(origin, origin + horizon)
    dates = {} if panel.calendar is None else calendar.parts(panel.calendar, steps)
    found = {name: values[None] for name, values in dates.items()}
    for name, values in panel.known.items():
        if values.shape[1] < origin + horizon:
            raise DataError(
                where=f"panel, known column '{name}'",
                given=f"{values.shape[1] - origin} steps ahead of the origin",
                expected=f"{horizon}, as many as are forecast",
                fix="Say what is planned for every step ahead, or leave the column out.",
            )
        found[name] = values[:, steps]
        usual = _tail_mean(values[:, :origin], 4 * panel.season)
        found[f"{name}_over_usual"] = values[:, steps] - usual[:, None]
    return found


def _base(history: Floats, panel: Panel, horizon: int, *, level: Floats) -> Floats:
    """Returns the seasonal naive forecast of the shortest season, or the level where there is none yet."""
    ahead, season = np.arange(horizon), panel.season
    found = _columns(history, history.shape[1] + ahead - season * (1 + ahead // season))
    return np.where(np.isnan(found), level[:, None], found)


def _recent_drift(history: Floats, seasons: tuple[int, ...]) -> Floats:
    """Returns how far the latest season lies above the one before it, on average."""
    season = seasons[0] if seasons else 1
    width = history.shape[1]
    longest = seasons[-1] if seasons else 1
    now = _columns(history, np.arange(width - season, width))
    before = _columns(history, np.arange(width - season - longest, width - longest))
    return known_means((now - before).T, axis=0)


def _columns(history: Floats, places: npt.NDArray[np.int64]) -> Floats:
    """Returns columns by place; NaN for those before the first."""
    return np.where(places >= 0, history[:, np.maximum(places, 0)], np.nan)


def _tail_mean(history: Floats, steps: int) -> Floats:
    return known_means(history[:, max(0, history.shape[1] - steps) :].T, axis=0)
