"""One model for all series: gradient-boosted trees that learn how far each step ahead lies from the season before it.

Direct: the step ahead is a feature, so no forecast rests on another. Its quantiles come from heads of the model, made
to hold on later origins (`conformal`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from decalog.errors import DataError
from decalog.systems.demand.forecast.calendar import Ints
from decalog.systems.demand.forecast.conformal import Calibration, calibrated
from decalog.systems.demand.forecast.origins import Told, roll
from decalog.systems.demand.forecast.panel import LEVELS, NORMAL, Floats, Forecast, Method, Panel
from decalog.systems.demand.forecast.windows import Singles, anchors, view

HEADS = (0.1, 0.5, 0.9)
_FAR = 1e4
LEAST_ROWS = 200
"""That a global model learns from, at least."""
_SETTLED = {"num_threads": 1, "deterministic": True, "force_row_wise": True, "verbosity": -1}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What is chosen before the fit.

    Args:
        trees: of each head.
        learning_rate: shrinkage of each tree, (0, 1].
        leaves: of a tree, at most.
        rows_a_leaf: at least.
        l2: penalty on leaf values.
        feature_share: of the features that each tree may use, (0, 1].
        row_share: of the rows that each tree sees, (0, 1].
        origins: earlier times that it learns from, the latest ones.
        stride: steps between them.
        most_rows: drawn from all series, origins and steps ahead; more are left out.
        held_out: of the origins, the latest that lie a horizon apart; they calibrate the intervals, and then the model
            is fitted to all. 0 leaves the heads as they are, for a caller who calibrates.
        calibrated_on: series whose errors are looked at for that, at most, evenly chosen.
        seeds: models whose answers are averaged.
    """

    trees: int = 300
    learning_rate: float = 0.05
    leaves: int = 63
    rows_a_leaf: int = 50
    l2: float = 5.0
    feature_share: float = 0.5
    row_share: float = 1.0
    origins: int = 8
    stride: int = 1
    most_rows: int = 1_000_000
    held_out: int = 1
    calibrated_on: int = 30_000
    seeds: int = 1

    @property
    def grown(self) -> dict[str, Any]:
        """How trees grow, in LightGBM's names, whatever they learn."""
        return {
            "learning_rate": self.learning_rate,
            "num_leaves": self.leaves,
            "min_data_in_leaf": self.rows_a_leaf,
            "lambda_l2": self.l2,
            "feature_fraction": self.feature_share,
            "bagging_fraction": self.row_share,
            "bagging_freq": 1 if self.row_share < 1 else 0,
            **_SETTLED,
        }

    def drawn(self, places: Ints, *, origins: int, rng: np.random.Generator) -> Ints:
        """Returns the places of rows of one of so many origins, as many of them as are learnt from, in their order."""
        most = self.most_rows // max(1, origins)
        return np.sort(rng.choice(places, most, replace=False)) if len(places) > most else places


def boosted(settings: Settings | None = None) -> Method:
    """Returns the global model as a method: it is fitted at each origin to what was known there."""
    chosen = settings or Settings()
    told = ", ".join(
        f"{name} {value}" for name, value in msgspec.to_builtins(chosen).items() if value != getattr(Settings(), name)
    )

    def forecast(panel: Panel, horizon: int) -> Forecast:
        return Boosted.fit(panel, horizon, settings=chosen).forecast(panel, horizon)

    return Method(f"boosted ({told})" if told else "boosted", forecast)


class Boosted:
    """Fitted heads. What they say of a series does not depend on the series that stand beside it.

    Args:
        heads: LightGBM's boosters, for each of `HEADS` one or more, whose answers are averaged.
        names: of the features that they were grown on.
        horizon: steps ahead that they know.
        calibration: of the intervals, pooled over the series that were learnt from; None leaves the heads as they are.
    """

    def __init__(
        self,
        heads: Sequence[Sequence[Any]],
        names: tuple[str, ...],
        *,
        horizon: int,
        calibration: Calibration | None = None,
    ) -> None:
        self.heads, self.names, self.horizon, self.calibration = heads, names, horizon, calibration

    @classmethod
    def fit(cls, panel: Panel, horizon: int, *, settings: Settings) -> Boosted:
        """Returns heads that learnt from the latest origins whose steps ahead all lie inside the panel.

        Raises:
            DataError: too few rows to learn from, or too few errors to calibrate by.
        """
        heads, names = _grown(panel, horizon, settings=settings)
        calibration = calibrated(_held_out(panel, horizon, settings=settings)) if settings.held_out else None
        return cls(heads, names, horizon=horizon, calibration=calibration)

    def forecast(self, panel: Panel, horizon: int) -> Forecast:
        """Returns what follows the panel's last step.

        Raises:
            DataError: the horizon is longer than the one that was learnt, or the panel has other features.
        """
        self._check(horizon)
        shape = (len(panel.ids), horizon)
        mean, quantiles = np.empty(shape), np.empty((*shape, len(LEVELS)))
        for at, some in panel.pieces():
            mean[at], quantiles[at] = self._told(some, horizon)
        return Forecast(mean, quantiles)

    def _told(self, panel: Panel, horizon: int) -> tuple[Floats, Floats]:
        seen = view(panel, panel.y.shape[1], horizon=horizon)
        self._check_names(seen.names)
        low, middle, high = (
            np.mean([booster.predict(seen.rows, num_threads=1) for booster in head], axis=0) for head in self.heads
        )
        z = NORMAL / NORMAL[LEVELS.index(HEADS[-1])]
        below, above = np.maximum(middle - low, 0), np.maximum(high - middle, 0)
        answers = middle[:, None] + np.where(z < 0, below[:, None], above[:, None]) * z
        quantiles = np.stack([seen.anchors.back(answers[:, place]) for place in range(len(LEVELS))], axis=-1)
        found = Forecast(seen.anchors.back(middle), quantiles)
        found = found if self.calibration is None else self.calibration.apply(found)
        return found.mean, found.quantiles

    def _check(self, horizon: int) -> None:
        if horizon > self.horizon:
            raise DataError(
                where="global model, horizon",
                given=f"{horizon} steps ahead",
                expected=f"{self.horizon} at most, as it was fitted",
                fix="Ask for fewer steps, or fit it to a longer horizon.",
            )

    def _check_names(self, names: tuple[str, ...]) -> None:
        if names != self.names:
            differ = sorted(set(names) ^ set(self.names))
            raise DataError(
                where="global model, features",
                given=f"others than it was grown on: {', '.join(differ[:5]) or 'the same in another order'}",
                expected="the seasons, the calendar and the known columns of the panel that it was fitted to",
                fix="Make the panel by the same rules, or fit the model anew.",
            )


def check_rows(count: int, *, where: str) -> None:
    """Refuses too few rows to learn from.

    Raises:
        DataError: they are fewer than `LEAST_ROWS`.
    """
    if count < LEAST_ROWS:
        raise DataError(
            where=where,
            given=f"{count} rows to learn from",
            expected=f"{LEAST_ROWS} or more",
            fix="Give it more series or a longer history; for a few short series take a statistical method.",
        )


def _objective(level: float) -> dict[str, Any]:
    return {"objective": "regression_l1"} if level == HEADS[1] else {"objective": "quantile", "alpha": level}


def _grown(panel: Panel, horizon: int, *, settings: Settings) -> tuple[list[list[Any]], tuple[str, ...]]:
    """Returns boosters of each head, and the names of what they see."""
    import lightgbm

    rows, target, names = _examples(panel, horizon, settings=settings)
    check_rows(len(target), where="global model")
    data = lightgbm.Dataset(rows, target, params=_SETTLED | {"min_data_in_leaf": settings.rows_a_leaf})
    data.construct()
    heads = [
        [
            lightgbm.train(settings.grown | _objective(level) | {"seed": seed}, data, settings.trees)
            for seed in range(settings.seeds)
        ]
        for level in HEADS
    ]
    return heads, names


def _examples(panel: Panel, horizon: int, *, settings: Settings) -> tuple[Singles, Floats, tuple[str, ...]]:
    """Returns rows, what should be answered for them, and the names of the columns, drawn evenly from all origins."""
    end = panel.y.shape[1]
    origins = list(range(end - horizon, 2 * panel.season - 1, -settings.stride))[: settings.origins]
    rng = np.random.default_rng(0)
    if not origins:
        return np.empty((0, 0), np.float32), np.empty(0), ()
    rows, targets = [], []
    names: tuple[str, ...] = ()
    for origin in origins:
        target = _targets(panel, origin, horizon)
        # A series that stood still and then jumped is thousands of its scales away; no tree should learn that.
        places = np.flatnonzero(~np.isnan(target) & (np.abs(target) < _FAR))
        places = settings.drawn(places, origins=len(origins), rng=rng)
        targets.append(target[places])
        for at, some in panel.pieces():
            first, last = np.searchsorted(places, (at.start * horizon, at.stop * horizon))
            seen = view(some, origin, horizon=horizon)
            rows.append(seen.rows[places[first:last] - at.start * horizon])
            names = seen.names
    return np.concatenate(rows), np.concatenate(targets), names


def _targets(panel: Panel, origin: int, horizon: int) -> Floats:
    """Returns what a model should have answered at an origin, one a row."""
    return np.concatenate(
        [
            anchors(some, origin, horizon=horizon).target(some.y[:, origin : origin + horizon])
            for _, some in panel.pieces()
        ]
    )


def _held_out(panel: Panel, horizon: int, *, settings: Settings) -> list[Told]:
    """Returns what a model that knows none of the last horizons says of each of them, of some of the series."""
    end = panel.y.shape[1]
    ends = [horizon * back for back in range(settings.held_out, 0, -1)]
    early = Boosted(*_grown(panel.until(end - ends[0]), horizon, settings=settings), horizon=horizon)
    count = len(panel.ids)
    few = np.linspace(0, count - 1, settings.calibrated_on).astype(np.int64)
    judged = panel.of(few) if count > settings.calibrated_on else panel
    return roll(Method("early", early.forecast), judged, horizon=horizon, ends=ends)
