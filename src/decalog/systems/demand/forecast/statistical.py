"""ETS, Theta, ARIMA, Croston and their kin, one series at a time, by statsforecast (the extra `demand`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from decalog.errors import ConfigError, near
from decalog.systems.demand.forecast.naive import seasonal_naive
from decalog.systems.demand.forecast.panel import LEVELS, MEDIAN, Floats, Forecast, Method, Panel, filled

MODELS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "ets": ("AutoETS", {}),
    "ets damped": ("AutoETS", {"damped": True}),
    "theta": ("DynamicOptimizedTheta", {}),
    "theta additive": ("DynamicOptimizedTheta", {"decomposition_type": "additive"}),
    "arima": ("AutoARIMA", {}),
    "arima seasonal": ("AutoARIMA", {"D": 1}),
    "ces": ("AutoCES", {}),
    "mfles": ("MFLES", {}),
    "mstl": ("MSTL", {}),
    "croston": ("CrostonSBA", {}),
    "tsb": ("TSB", {"alpha_d": 0.1, "alpha_p": 0.1}),
    "adida": ("ADIDA", {}),
}
"""Our name, theirs, and settings; those with a season take the panel's, MSTL all of them."""

_WITHOUT_SEASON = {"croston", "tsb", "adida"}
_WITHOUT_INTERVALS = {"croston", "tsb", "adida", "mfles"}
_HIGH = [round(200 * (level - 0.5), 6) for level in LEVELS[MEDIAN + 1 :]]


def statistical(name: str, *, last: int | None = None) -> Method:
    """Returns a method of statsforecast.

    Where a model gives no intervals, its quantiles are those of its errors inside the series. A series that a model
    cannot do gets the seasonal naive forecast, and is named in `fallbacks`.

    Args:
        name: a key of `MODELS`.
        last: steps of a series that it learns from, the latest; None for all.

    Raises:
        ConfigError: the name is unknown, or statsforecast is not installed.
    """
    if name not in MODELS:
        raise ConfigError(
            where="statistical method",
            given=f"'{name}'",
            expected=near(name, MODELS),
            fix="Take one of these names.",
        )
    try:
        from statsforecast import models
    except ModuleNotFoundError:
        raise ConfigError(
            where=f"statistical method '{name}'",
            given="an environment without statsforecast",
            expected="the extra `demand`",
            fix="Install it with `pip install decalog[demand]`, or leave the method out.",
        ) from None
    theirs, settings = MODELS[name]
    levels = None if name in _WITHOUT_INTERVALS else _HIGH

    def forecast(panel: Panel, horizon: int) -> Forecast:
        own: dict[str, Any] = dict(settings)
        if name == "mstl":
            own["season_length"] = list(panel.seasons) or [1]
        elif name not in _WITHOUT_SEASON:
            own["season_length"] = panel.season
        return _one_by_one(panel, horizon, model=getattr(models, theirs)(**own), last=last, levels=levels)

    return Method(name if last is None else f"{name} of the last {last}", forecast)


def _one_by_one(panel: Panel, horizon: int, *, model: Any, last: int | None, levels: list[float] | None) -> Forecast:
    n = len(panel.y)
    mean, quantiles = np.empty((n, horizon)), np.empty((n, horizon, len(LEVELS)))
    fitted, fallbacks = np.full(panel.y.shape, np.nan), []
    for at, row in enumerate(panel.y):
        whole = filled(row, panel.season)[-(last or len(row)) :]
        found = _tried(model, whole, horizon=horizon, levels=levels)
        if found is None:
            spare = seasonal_naive().forecast(panel.of(np.array([at])), horizon)
            mean[at], quantiles[at] = spare.mean[0], spare.quantiles[0]
            fallbacks.append(panel.ids[at])
            continue
        mean[at] = found["mean"]
        own = np.asarray(found["fitted"], np.float64)
        fitted[at, len(row) - len(own) :] = own
        quantiles[at] = _quantiles(found) if levels else _of_errors(mean[at], whole - own)
    return Forecast(mean, np.sort(quantiles, axis=-1), fitted, tuple(fallbacks))


def _tried(model: Any, y: Floats, *, horizon: int, levels: list[float] | None) -> Mapping[str, Floats] | None:
    """Returns what a model says of a series; None where it fails or says no number."""
    try:
        found: Mapping[str, Floats] = model.forecast(y=y, h=horizon, level=levels, fitted=True)
    except Exception:  # noqa: BLE001 - a library's model may fail on one series in any way; the series is named
        return None
    return found if np.all(np.isfinite(found["mean"])) else None


def _quantiles(found: Mapping[str, Floats]) -> Floats:
    lows = [found[f"lo-{level}"] for level in reversed(_HIGH)]
    highs = [found[f"hi-{level}"] for level in _HIGH]
    whole = np.stack([*lows, found["mean"], *highs], axis=-1)
    return np.where(np.isfinite(whole), whole, np.asarray(found["mean"])[:, None])


def _of_errors(mean: Floats, errors: Floats) -> Floats:
    known = errors[np.isfinite(errors)]
    found: Floats = mean[:, None] + (np.quantile(known, LEVELS) if len(known) else np.zeros(len(LEVELS)))
    return found
