"""Forecasts that add up: a tree of sums, what makes forecasts coherent with it, and joint draws that are.

Reconciliation is that of Wickramasuriya, Athanasopoulos and Hyndman (2019): base forecasts of all series are projected
onto what adds up, weighted by how their errors vary together. Sums that are held as a sparse matrix, as `summed` makes
them, are reconciled without a dense one (`sparse`): 100,000 series fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np
from scipy.sparse import csr_array, eye_array, issparse, vstack

from decalog.errors import DataError
from decalog.systems.demand.forecast.panel import LEVELS, Floats, Forecast, Panel
from decalog.systems.demand.forecast.sparse import Projection, dense, memberships, times

How = Literal["bottom_up", "ols", "structural", "wls", "mint"]
TOTAL = "total"
MINT_SERIES = 5_000
"""That MinT does at most: it holds some ten matrices of series × series."""
_LEAST_TIMES = 2


class Hierarchy(msgspec.Struct, frozen=True):
    """Which bottom series each series is the sum of.

    Args:
        sums: float64, series × bottom series, 0 or 1, dense or sparse; the last rows are the bottom series themselves.
        levels: name of the level of each series.
    """

    sums: Floats | csr_array
    levels: tuple[str, ...]

    def __post_init__(self) -> None:
        """Checks that the last rows are the bottom series.

        Raises:
            DataError: they are not.
        """
        bottom = self.sums.shape[1]
        if not _is_identity(self.sums[-bottom:]):
            raise DataError(
                where="hierarchy, sums",
                given=f"{self.sums.shape[0]} × {bottom} sums whose last {bottom} rows are not the bottom series",
                expected="upper levels first, then each bottom series once, in the order of the columns",
                fix="Order the rows so; `summed` does it.",
            )

    @property
    def upper(self) -> int:
        """How many series are sums of others."""
        return len(self.levels) - int(self.sums.shape[1])

    def together(self, bottom: Floats) -> Floats:
        """Returns all series of bottom series that stand along the last axis but one: they add up."""
        return np.concatenate([times(self.sums[: self.upper], bottom), bottom], axis=-2)


def _is_identity(matrix: Floats | csr_array) -> bool:
    if not issparse(matrix):
        return np.array_equal(matrix, np.eye(matrix.shape[1]))
    return bool(matrix.shape[0] == matrix.shape[1] and (matrix != eye_array(matrix.shape[1])).nnz == 0)


def summed(panel: Panel, groups: Mapping[str, Sequence[str]], *, total: bool = True) -> tuple[Panel, Hierarchy]:
    """Returns a panel with its sums above it, and their hierarchy.

    Args:
        panel: bottom series.
        groups: of each level a label for each series, such as its store; levels may cross.
        total: whether the sum of everything stands on top.
    """
    named = ({TOTAL: ["all"] * len(panel.ids)} if total else {}) | dict(groups)
    names, upper = memberships(named)
    sums = vstack([upper, eye_array(len(panel.ids))], format="csr")
    # A sum with a gap inside is a gap; before a series began it adds nothing.
    began = np.cumsum(~np.isnan(panel.y), axis=1) > 0
    y = sums @ np.where(began, np.nan_to_num(panel.y), 0.0)
    y[sums @ (began & np.isnan(panel.y)).astype(np.float64) > 0] = np.nan
    y[sums @ began.astype(np.float64) == 0] = np.nan
    ids = (*(f"{level}/{label}" for level, label in names), *panel.ids)
    levels = (*(level for level, _ in names), *("series" for _ in panel.ids))
    return msgspec.structs.replace(panel, ids=ids, y=y, known={}), Hierarchy(sums, levels)


def projection(hierarchy: Hierarchy, how: How, *, errors: Floats | None = None) -> Floats | Projection:
    """Returns what takes base forecasts of all series to bottom forecasts: `by @ base`.

    Of dense sums it is a matrix, bottom × series; of sparse ones it is applied without being written out, MinT apart.

    Args:
        hierarchy: of the series.
        how: sums of the bottom alone; all series alike; each by how many bottom series it sums; each by its error
            variance; or by the covariance of their errors, shrunk towards its diagonal (Schäfer and Strimmer 2005).
        errors: float64, times × series, for the last two. A variance is of the times at which its series has an error;
            of a covariance, times where one is NaN are left out.

    Raises:
        DataError: errors are missing, or of too few times, or there are too many series for their covariance.
    """
    if issparse(hierarchy.sums) and how != "mint":
        return Projection(hierarchy.sums[: hierarchy.upper], _weights(hierarchy, how, errors))
    return _matrix(hierarchy, how, errors)


def _matrix(hierarchy: Hierarchy, how: How, errors: Floats | None) -> Floats:
    n, bottom = hierarchy.sums.shape
    weights = None if how == "mint" else _weights(hierarchy, how, errors)
    if how == "bottom_up":
        return np.hstack([np.zeros((bottom, hierarchy.upper)), np.eye(bottom)])
    spread = _covariance(errors, series=n) if weights is None else np.diag(weights)
    # What a coherent forecast keeps to: each upper series less its sum is nothing.
    rules = np.hstack([np.eye(hierarchy.upper), -dense(hierarchy.sums[: hierarchy.upper])])
    gain = np.linalg.solve(rules @ spread @ rules.T, rules @ spread).T
    found: Floats = (np.eye(n) - gain @ rules)[hierarchy.upper :]
    return found


def _weights(hierarchy: Hierarchy, how: How, errors: Floats | None) -> Floats | None:
    """Returns how far each series may move; None where no bottom series may."""
    if how == "bottom_up":
        return None
    if how == "ols":
        return np.ones(len(hierarchy.levels))
    if how == "structural":
        counts: Floats = np.asarray(hierarchy.sums.sum(axis=1), np.float64)
        return counts
    return _variances(np.empty((0, len(hierarchy.levels))) if errors is None else errors)


def _variances(errors: Floats) -> Floats:
    """Returns the variance of each series' errors over the times at which it has one."""
    known = ~np.isnan(errors)
    counts = known.sum(axis=0)
    _check_times(int(counts.min()), "the series that has fewest")
    plain = np.where(known, errors, 0.0)
    around = np.where(known, plain - plain.sum(axis=0) / counts, 0.0)
    return _above_nothing((around**2).sum(axis=0) / (counts - 1), errors=errors)


def _above_nothing(variances: Floats, *, errors: Floats) -> Floats:
    return np.maximum(variances, 1e-12 * max(1.0, float(np.nanmean(errors**2))))


def _check_times(count: int, whose: str) -> None:
    if count < _LEAST_TIMES:
        raise DataError(
            where="reconciliation by errors",
            given=f"errors of {count} times at which {whose} has one",
            expected="2 times or more",
            fix="Give in-sample or rolling-origin errors of all series, or reconcile by 'ols' or 'structural'.",
        )


def _covariance(errors: Floats | None, *, series: int) -> Floats:
    if series > MINT_SERIES:
        raise DataError(
            where="reconciliation by 'mint'",
            given=f"{series:,} series",
            expected=f"{MINT_SERIES:,} or fewer: their covariance is held whole",
            fix="Reconcile by 'wls', with the same errors, or by 'structural'; or reconcile branches apart.",
        )
    whole = np.empty((0, 0)) if errors is None else errors[~np.isnan(errors).any(axis=1)]
    count = len(whole)
    _check_times(count, "every series")
    around = whole - whole.mean(axis=0)
    variances = _above_nothing((around**2).sum(axis=0) / (count - 1), errors=whole)
    z = around / np.sqrt(variances)
    products = z.T @ z
    correlation = products / (count - 1)
    noise = count / (count - 1) ** 3 * ((z**2).T @ (z**2) - products**2 / count)
    off = ~np.eye(len(variances), dtype=bool)
    shrunk = float(np.clip(noise[off].sum() / max(1e-12, float((correlation[off] ** 2).sum())), 0.0, 1.0))
    correlation = np.where(off, (1 - shrunk) * correlation, 1.0)
    return correlation * np.sqrt(np.outer(variances, variances))


def error_paths(forecast: Forecast, errors: Floats, *, draws: int, seed: int = 0) -> Floats:
    """Returns draws × series × horizon: the mean plus errors of one stretch of time, the same for all series.

    Args:
        forecast: whose means they go around.
        errors: float64, times × series, in order, none NaN.
        draws: how many.
        seed: of the draws.
    """
    return forecast.mean + _stretches(errors, forecast.mean.shape[1], draws=draws, seed=seed)


def rank_paths(forecast: Forecast, errors: Floats, *, draws: int, seed: int = 0) -> Floats:
    """Returns draws × series × horizon: each series and step spread as its quantiles say, and together as errors went.

    A draw takes the errors of one stretch of time; where an error ranks among the drawn ones is where the draw stands
    among the quantiles (the shuffle of Clark et al. 2004). Arguments as in `error_paths`.
    """
    stretches = _stretches(errors, forecast.mean.shape[1], draws=draws, seed=seed)
    # Stretches repeat, and equal errors would stand in the order of the draws in every series.
    jitter = np.random.default_rng(seed + 1).random(stretches.shape)
    ranks = np.argsort(np.lexsort((jitter, stretches), axis=0), axis=0)
    placed = (ranks + 0.5) / draws
    found = np.empty_like(stretches)
    for at in range(stretches.shape[1]):
        for step in range(stretches.shape[2]):
            found[:, at, step] = _between(placed[:, at, step], forecast.quantiles[at, step])
    return found


def _between(levels: Floats, quantiles: Floats) -> Floats:
    """Returns quantiles at levels; beyond the outermost they go on as the last two do."""
    found: Floats = np.interp(levels, LEVELS, quantiles)
    for edge, inner, place in ((0, 1, levels < LEVELS[0]), (-1, -2, levels > LEVELS[-1])):
        slope = (quantiles[edge] - quantiles[inner]) / (LEVELS[edge] - LEVELS[inner])
        found[place] = quantiles[edge] + slope * (levels[place] - LEVELS[edge])
    return found


def _stretches(errors: Floats, horizon: int, *, draws: int, seed: int) -> Floats:
    if len(errors) < horizon:
        raise DataError(
            where="joint draws",
            given=f"errors of {len(errors)} times for a horizon of {horizon}",
            expected="one stretch of the horizon's length or more",
            fix="Give errors of a longer history.",
        )
    starts = np.random.default_rng(seed).integers(len(errors) - horizon + 1, size=draws)
    return np.stack([errors[start : start + horizon].T for start in starts])


def coherent(paths: Floats, hierarchy: Hierarchy, *, by: Floats | Projection, is_positive: bool = True) -> Floats:
    """Returns draws that add up: bottom series by a `projection`, none below 0 where they cannot be, and their sums."""
    bottom = by @ paths
    return hierarchy.together(np.maximum(bottom, 0.0) if is_positive else bottom)


def forecast_of(paths: Floats) -> Forecast:
    """Returns draws as a forecast: their means, which add up too, and their quantiles."""
    quantiles = np.moveaxis(np.quantile(paths, LEVELS, axis=0), 0, -1)
    return Forecast(paths.mean(axis=0), np.ascontiguousarray(quantiles))
