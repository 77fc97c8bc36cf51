"""How far forecasts were off. Lower is better, but for coverage and bias; every figure is over what is known of y.

`actual` and point forecasts are float64, series × horizon, quantiles series × horizon × `LEVELS`. An actual value that
is NaN counts nowhere. Definitions are those of utilsforecast, of M4 (sMAPE, OWA) and M5 (WRMSSE), and of Rangapuram et
al. 2021 (scaled CRPS); percentages are 0 to 100.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from decalog.errors import DataError
from decalog.systems.demand.forecast.panel import LEVELS, Floats, known_means

CRPS_LEVELS = LEVELS[2:-2]
"""The nineteen levels that the scaled CRPS of the hierarchical benchmarks is a sum over."""


def mae(actual: Floats, mean: Floats) -> float:
    """Returns the mean absolute error."""
    return float(np.nanmean(np.abs(actual - mean)))


def mape(actual: Floats, mean: Floats) -> float:
    """Returns the mean of |error| / |actual| as a percentage; actual zeros, of which it says nothing, are left out."""
    known = ~np.isnan(actual) & (actual != 0)
    return float(100 * np.mean(np.abs(actual - mean)[known] / np.abs(actual[known])))


def smape(actual: Floats, mean: Floats) -> float:
    """Returns the mean of 2 |error| / (|actual| + |forecast|) as a percentage, 0 to 200; 0 where both are 0."""
    total = np.abs(actual) + np.abs(mean)
    each = 2 * np.abs(actual - mean) / np.where(total == 0, 1.0, total)
    return float(100 * np.nanmean(known_means(each, axis=1)))


def mase(actual: Floats, mean: Floats, *, scale: Floats) -> float:
    """Returns the mean over series of mean |error| / scale, that of the seasonal naive forecast inside train."""
    return float(np.nanmean(known_means(np.abs(actual - mean), axis=1) / scale))


def owa(figures: tuple[float, float], of_naive: tuple[float, float]) -> float:
    """Returns M4's overall weighted average: (sMAPE, MASE) over those of its second naive forecast."""
    return (figures[0] / of_naive[0] + figures[1] / of_naive[1]) / 2


def rmsse(actual: Floats, mean: Floats, *, train: Floats) -> Floats:
    """Returns of each series √(mean squared error / mean squared step inside the train part), as M5 has it.

    Steps count from a series' first sale on. A series that never moves gets NaN.
    """
    begun = np.cumsum(np.nan_to_num(train) != 0, axis=1) > 0
    steps = np.diff(np.where(begun, train, np.nan), axis=1)
    scale = known_means(steps**2, axis=1)
    errors = known_means((actual - mean) ** 2, axis=1)
    found: Floats = np.sqrt(errors / np.where(scale > 0, scale, np.nan))
    return found


def wrmsse(each: Floats, *, weights: Floats) -> float:
    """Returns M5's weighted mean of RMSSE; weights are the money of the last steps, and need not sum to 1."""
    known = ~np.isnan(each)
    return float(np.average(each[known], weights=weights[known]))


def bias(actual: Floats, mean: Floats) -> float:
    """Returns Σ (forecast − actual) / Σ |actual|: above 0 where too much was forecast."""
    known = ~np.isnan(actual)
    return float(np.sum((mean - actual)[known]) / np.sum(np.abs(actual[known])))


def pinball(actual: Floats, quantiles: Floats, *, levels: Sequence[float] = LEVELS) -> Floats:
    """Returns the quantile loss of each value at each level, series × horizon × levels; twice its mean is a CRPS."""
    errors = actual[..., None] - quantiles[..., _places(levels)]
    of = np.asarray(levels)
    found: Floats = np.maximum(of * errors, (of - 1) * errors)
    return found


def wql(actual: Floats, quantiles: Floats, *, levels: Sequence[float] = CRPS_LEVELS) -> float:
    """Returns the weighted quantile loss: 2 Σ quantile loss / Σ |actual|, its mean over the levels.

    Over the series of one level of a hierarchy it is what that field calls the scaled CRPS.
    """
    losses = np.nansum(pinball(actual, quantiles, levels=levels), axis=(0, 1))
    return float(2 * np.mean(losses) / np.nansum(np.abs(actual)))


def scaled_crps(actual: Floats, quantiles: Floats, *, groups: Sequence[str]) -> float:
    """Returns the mean over the levels of a hierarchy of their `wql`; `groups` names the level of each series."""
    names = np.asarray(groups)
    return float(np.mean([wql(actual[names == name], quantiles[names == name]) for name in dict.fromkeys(groups)]))


def coverage(actual: Floats, quantiles: Floats, *, nominal: float = 0.9) -> float:
    """Returns the share of values inside the central interval."""
    low, high = _interval(quantiles, nominal)
    known = ~np.isnan(actual)
    return float(np.mean((actual >= low)[known] & (actual <= high)[known]))


def coverage_of_counts(
    actual: Floats, quantiles: Floats, *, nominal: float = 0.9, levels: Sequence[float] = LEVELS
) -> float:
    """Returns the share of whole numbers inside the central interval, one on its end counting for a part.

    An interval that ends on whole numbers holds more than it is asked for however right it is. So a value is spread
    over the probabilities that the forecast gives to it, F(y − 1) to F(y), and counts as far as these are inside: the
    randomised probability integral transform (Czado, Gneiting and Held, Biometrics 65, 2009). F is known at `levels`,
    and taken for the middle between two: rows of a table are alike only at the same ones.
    """
    edges, quantiles = np.array([0.0, *levels, 1.0]), quantiles[..., _places(levels)]
    middles = (edges[:-1] + edges[1:]) / 2
    reached = actual[..., None]
    before, after = (middles[np.sum(side, axis=-1)] for side in (quantiles < reached, quantiles <= reached))
    low, high = (1 - nominal) / 2, (1 + nominal) / 2
    inside = np.clip(after, low, high) - np.clip(before, low, high)
    spread = after - before
    part = np.where(spread > 0, inside / np.where(spread > 0, spread, 1.0), (before > low) & (before < high))
    return float(np.mean(part[~np.isnan(actual)]))


def interval_score(actual: Floats, quantiles: Floats, *, nominal: float = 0.9, scale: Floats | float = 1.0) -> float:
    """Returns the mean width of the interval plus 2 / (1 − nominal) times what lies outside, over a scale a series."""
    low, high = _interval(quantiles, nominal)
    outside = np.maximum(low - actual, 0) + np.maximum(actual - high, 0)
    each = high - low + 2 / (1 - nominal) * outside
    return float(np.nanmean(known_means(each, axis=1) / scale))


def _interval(quantiles: Floats, nominal: float) -> tuple[Floats, Floats]:
    low, high = _places((round((1 - nominal) / 2, 6), round((1 + nominal) / 2, 6)))
    return quantiles[..., low], quantiles[..., high]


def _places(levels: Sequence[float]) -> list[int]:
    unknown = [level for level in levels if level not in LEVELS]
    if unknown:
        raise DataError(
            where="score of quantiles",
            given=f"level {unknown[0]:g}",
            expected=f"levels of a forecast: {', '.join(map(str, LEVELS))}",
            fix="Score at those; intervals of 50, 80, 90 and 95 % are among them.",
        )
    return [LEVELS.index(level) for level in levels]
