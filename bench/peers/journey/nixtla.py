"""The peers' part of Complete Journey: `nixtla.py folder row end`; writes quantiles, prints the CPU seconds they took.

It runs where statsforecast, mlforecast and LightGBM are, and knows nothing of decalog. `folder/panel.npz` holds y
(series × weeks), store and category (codes), and what is known ahead, one array each; the row is one of `ROWS`; the
origin lies `end` weeks before the last. One thread; imports and compilation are not counted.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

HORIZON, FREQ, FIRST = 4, "7D", "2017-01-02"
LEVELS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
INTERVALS = [20, 40, 60, 80, 90]
Quantiles = npt.NDArray[np.float64]
Forecast = Callable[[pd.DataFrame, pd.DataFrame], Quantiles]
"""From what is known and what is planned to quantiles, (series × weeks ahead) × levels."""


def long(arrays: dict[str, Any], weeks: int) -> pd.DataFrame:
    """Returns the first weeks of all series as the frame that both libraries take."""
    n, width = arrays["y"].shape
    frame = pd.DataFrame(
        {
            "unique_id": np.repeat(np.arange(n), width),
            "ds": np.tile(pd.date_range(FIRST, periods=width, freq=FREQ), n),
            **{name: values.ravel() for name, values in arrays.items() if values.ndim == 2},
            "store": pd.Categorical(np.repeat(arrays["store"], width)),
            "category": pd.Categorical(np.repeat(arrays["category"], width)),
        }
    )
    return frame[np.tile(np.arange(width) < weeks, n)]


def columns(told: pd.DataFrame, name: str) -> Quantiles:
    """Returns the bounds of a model's intervals and its point forecast, which stands for the median."""
    low = [f"{name}-lo-{level}" for level in reversed(INTERVALS)]
    found: Quantiles = told[[*low, name, *(f"{name}-hi-{level}" for level in INTERVALS)]].to_numpy(np.float64)
    return found


def statistical(name: str, *, conformal: bool = False) -> Forecast:
    """Returns one of statsforecast's models, with its own intervals or the library's conformal ones."""
    from statsforecast import StatsForecast, models
    from statsforecast.utils import ConformalIntervals

    def forecast(known: pd.DataFrame, _ahead: pd.DataFrame) -> Quantiles:
        intervals = ConformalIntervals(n_windows=3, h=HORIZON) if conformal else None
        model = getattr(models, name)(prediction_intervals=intervals)
        told = StatsForecast(models=[model], freq=FREQ, n_jobs=1, fallback_model=models.WindowAverage(8)).forecast(
            df=known[["unique_id", "ds", "y"]], h=HORIZON, level=INTERVALS
        )
        return columns(told, str(model))

    return forecast


def lags(first: int) -> dict[str, Any]:
    """Returns lags from `first` weeks back on, and what lies before them as means and spread."""
    from mlforecast.lag_transforms import ExpandingMean, ExponentiallyWeightedMean, RollingMean, RollingStd

    windows = [RollingMean(4), RollingMean(12, min_samples=4), RollingStd(12, min_samples=4)]
    return {
        "lags": [first, first + 1, first + 2, first + 3, first + 4, 8, 12],
        "lag_transforms": {first: [*windows, ExpandingMean(), ExponentiallyWeightedMean(0.3)]},
        "date_features": ["month"],
    }


def boosted(settings: dict[str, Any], *, first: int = 1, direct: bool = False) -> Forecast:
    """Returns mlforecast's LightGBM, a model for each quantile."""
    import lightgbm
    from mlforecast import MLForecast

    def forecast(known: pd.DataFrame, ahead: pd.DataFrame) -> Quantiles:
        own = {"objective": "quantile", "n_jobs": 1, "verbosity": -1, "force_row_wise": True, "colsample_bytree": 0.7}
        models = {f"q{level}": lightgbm.LGBMRegressor(**own, **settings, alpha=level) for level in LEVELS}
        model = MLForecast(models=models, freq=FREQ, **lags(first))
        model.fit(known, static_features=["store", "category"], dropna=False, max_horizon=HORIZON if direct else None)
        told = model.predict(HORIZON, X_df=ahead.drop(columns=["y", "store", "category"]))
        return np.asarray(told[list(models)], np.float64)

    return forecast


def tweedie(settings: dict[str, Any]) -> Forecast:
    """Returns mlforecast's LightGBM with one Tweedie model and the library's conformal intervals."""
    import lightgbm
    from mlforecast import MLForecast
    from mlforecast.utils import PredictionIntervals

    def forecast(known: pd.DataFrame, ahead: pd.DataFrame) -> Quantiles:
        model = lightgbm.LGBMRegressor(objective="tweedie", n_jobs=1, verbosity=-1, force_row_wise=True, **settings)
        made = MLForecast(models={"m": model}, freq=FREQ, **lags(1))
        intervals = PredictionIntervals(n_windows=4, h=HORIZON)
        made.fit(known, static_features=["store", "category"], dropna=False, prediction_intervals=intervals)
        told = made.predict(HORIZON, X_df=ahead.drop(columns=["y", "store", "category"]), level=INTERVALS)
        return columns(told, "m")

    return forecast


WIDE = {"n_estimators": 200, "learning_rate": 0.05, "num_leaves": 31, "min_child_samples": 100}
SMALL = {"n_estimators": 200, "learning_rate": 0.05, "num_leaves": 15, "min_child_samples": 200}
SLOW = {"n_estimators": 400, "learning_rate": 0.03, "num_leaves": 31, "min_child_samples": 200}
ROWS: dict[str, Callable[[], Forecast]] = {
    "ETS": lambda: statistical("AutoETS"),
    "Theta": lambda: statistical("DynamicOptimizedTheta"),
    "CES": lambda: statistical("AutoCES"),
    "ARIMA": lambda: statistical("AutoARIMA"),
    "ETS, conformal": lambda: statistical("AutoETS", conformal=True),
    "ADIDA, conformal": lambda: statistical("ADIDA", conformal=True),
    "LightGBM quantiles": lambda: boosted(WIDE),
    "LightGBM quantiles, 15 leaves": lambda: boosted(SMALL),
    "LightGBM quantiles, 400 trees": lambda: boosted(SLOW),
    "LightGBM quantiles, lags from 4": lambda: boosted(WIDE, first=4),
    "LightGBM quantiles, direct": lambda: boosted(SMALL, direct=True),
    "LightGBM Tweedie, conformal": lambda: tweedie(WIDE),
}


def main() -> None:
    """Forecasts from one origin and prints one line of JSON."""
    folder, row, end = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    with np.load(folder / "panel.npz") as held:
        arrays = {name: held[name] for name in held.files}
    n, width = arrays["y"].shape
    known = long(arrays, width - end)
    ahead = long(arrays, width - end + HORIZON)
    ahead = ahead[ahead["ds"] > known["ds"].max()]
    forecast = ROWS[row]()
    few = known["unique_id"] < 8, ahead["unique_id"] < 8
    forecast(known[few[0]], ahead[few[1]])
    began = time.process_time()
    quantiles = forecast(known, ahead)
    spent = time.process_time() - began
    whole = np.sort(np.maximum(quantiles, 0), axis=-1).reshape(n, HORIZON, len(LEVELS))
    np.save(folder / f"{row}-{end}.npy", whole)
    print(json.dumps({"cpu_s": spent}))


if __name__ == "__main__":
    main()
