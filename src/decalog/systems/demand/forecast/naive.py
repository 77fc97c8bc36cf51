"""Forecasts that cost nothing and that every other one has to beat."""

from __future__ import annotations

import numpy as np

from decalog.systems.demand.forecast.panel import Floats, Forecast, Method, Panel, filled, normal_quantiles


def naive() -> Method:
    """Returns: what was last goes on."""
    return Method("naive", lambda panel, horizon: _repeated(panel, horizon, season=1))


def seasonal_naive() -> Method:
    """Returns: what was a season ago comes again; of several seasons the shortest."""

    def forecast(panel: Panel, horizon: int) -> Forecast:
        return _repeated(panel, horizon, season=panel.season)

    return Method("seasonal naive", forecast)


def moving_average(steps: int) -> Method:
    """Returns: the mean of so many last steps goes on."""

    def forecast(panel: Panel, horizon: int) -> Forecast:
        mean, spread = np.empty((len(panel.y), horizon)), np.empty((len(panel.y), horizon))
        for at, row in enumerate(panel.y):
            whole = filled(row, 1)
            sums = np.cumsum(np.r_[0.0, whole])
            width = min(steps, len(whole))
            means = (sums[width:] - sums[:-width]) / width
            mean[at] = means[-1]
            spread[at] = _spread(whole[width:] - means[:-1])
        return Forecast(mean, normal_quantiles(mean, spread))

    return Method(f"moving average of {steps}", forecast)


def _repeated(panel: Panel, horizon: int, *, season: int) -> Forecast:
    mean, spread = np.empty((len(panel.y), horizon)), np.empty((len(panel.y), horizon))
    fitted = np.full(panel.y.shape, np.nan)
    fitted[:, season:] = panel.y[:, :-season]
    ahead = np.arange(horizon)
    for at, row in enumerate(panel.y):
        whole = filled(row, season)
        own = season if len(whole) >= season else 1
        mean[at] = whole[len(whole) - own + ahead % own]
        spread[at] = _spread(whole[own:] - whole[:-own]) * np.sqrt(1 + ahead // own)
    return Forecast(mean, normal_quantiles(mean, spread), fitted)


def _spread(errors: Floats) -> float:
    return float(np.sqrt(np.mean(errors**2))) if len(errors) else 0.0


def naive_of_m4() -> Method:
    """Returns M4's second naive forecast: the last value without its season goes on, with the season put back.

    The season is a classical multiplicative decomposition's, used where the autocorrelation at its lag is significant
    at 90 % (Makridakis, Spiliotis, Assimakopoulos 2020).
    """

    def forecast(panel: Panel, horizon: int) -> Forecast:
        mean, spread = np.empty((len(panel.y), horizon)), np.empty((len(panel.y), horizon))
        for at, row in enumerate(panel.y):
            whole = filled(row, panel.season)
            indices = _season_indices(whole, panel.season)
            places = (len(whole) + np.arange(horizon)) % panel.season
            level = whole / indices[np.arange(len(whole)) % panel.season]
            mean[at] = level[-1] * indices[places]
            spread[at] = _spread(np.diff(level)) * indices[places]
        return Forecast(mean, normal_quantiles(mean, np.abs(spread)))

    return Method("naive of M4", forecast)


def _season_indices(whole: Floats, season: int) -> Floats:
    """Returns a factor a place in the season (0 is the first value's), all 1 where there is no season to be sure of."""
    none = np.ones(season)
    if season == 1 or len(whole) < 3 * season or np.ptp(whole) == 0:
        return none
    around = whole - whole.mean()
    lags = np.array([np.dot(around[lag:], around[: len(around) - lag]) for lag in range(1, season + 1)])
    lags /= np.dot(around, around)
    bound = 1.645 * np.sqrt((1 + 2 * np.sum(lags[:-1] ** 2)) / len(whole))
    if abs(lags[-1]) <= bound:
        return none
    weights = np.r_[0.5, np.ones(season - 1), 0.5] / season if season % 2 == 0 else np.full(season, 1 / season)
    trend = np.convolve(whole, weights, mode="valid")
    half = (len(weights) - 1) // 2
    ratios, places = whole[half : half + len(trend)] / trend, (half + np.arange(len(trend))) % season
    found = np.array([ratios[places == place].mean() for place in range(season)])
    factors: Floats = found / found.mean()
    return factors
