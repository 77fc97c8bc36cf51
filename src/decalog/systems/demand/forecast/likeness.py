"""Series that have no past yet: what came of those most like them, at the level that is known so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from decalog.errors import DataError
from decalog.systems.demand.forecast.panel import Floats, Forecast, Method, Panel, filled


def with_likeness(method: Method, traits: Mapping[str, Sequence[object]], *, least: int, peers: int = 20) -> Method:
    """Returns a method that forecasts series of fewer than `least` known steps from their likes.

    The likes of a cold series are those that share most traits with it. Each tells its forecast over its own level, and
    how high its level was in its first steps: the cold series takes the mean shape, and a level between its own few
    steps and that of its likes, as much its own as it has steps.

    Args:
        method: for series that are old enough; it never sees the cold ones.
        traits: of each trait, such as category or price band, a value a series, in the panel's order.
        least: known steps from which on a series is old enough.
        peers: likes of a cold series, at most; traits that tie are broken by the panel's order.

    Raises:
        DataError: when it forecasts, and no series is old enough.
    """

    def forecast(panel: Panel, horizon: int) -> Forecast:
        known = (~np.isnan(panel.y)).sum(axis=1)
        old, cold = np.flatnonzero(known >= least), np.flatnonzero(known < least)
        if not len(old):
            raise DataError(
                where="cold series",
                given=f"{len(cold)} series, each with fewer than {least} known steps",
                expected="older ones that they may be like",
                fix="Lower `least`, or add the history of other series.",
            )
        told = method.forecast(panel.of(old), horizon)
        if not len(cold):
            return told
        shared = np.sum([_same(values, cold, old) for values in traits.values()], axis=0)
        likes = np.argsort(-shared, axis=1, kind="stable")[:, :peers]
        levels, starts = _levels(panel.y[old])
        mean = np.empty((len(panel.ids), horizon))
        quantiles = np.empty((*mean.shape, told.quantiles.shape[-1]))
        mean[old], quantiles[old] = told.mean, told.quantiles
        for at, own in zip(cold, likes, strict=True):
            level = _level(panel.y[at], float(starts[own].mean()), least=least)
            mean[at] = level * (told.mean[own] / levels[own, None]).mean(axis=0)
            quantiles[at] = level * (told.quantiles[own] / levels[own, None, None]).mean(axis=0)
        return Forecast(mean, quantiles)

    return Method(f"{method.name}, cold by likeness", forecast)


def _same(values: Sequence[object], cold: np.typing.NDArray[np.int64], old: np.typing.NDArray[np.int64]) -> Floats:
    codes = np.unique(np.array([str(value) for value in values]), return_inverse=True)[1]
    found: Floats = (codes[cold][:, None] == codes[old][None]).astype(np.float64)
    return found


def _levels(y: Floats, first: int = 28) -> tuple[Floats, Floats]:
    """Returns of each series its mean, and the mean of its first steps; both above 0."""
    whole = [filled(row, 1) for row in y]
    levels = np.array([max(float(np.mean(row)), 1e-9) for row in whole])
    starts = np.array([max(float(np.mean(row[:first])), 1e-9) for row in whole])
    return levels, starts


def _level(row: Floats, start: float, *, least: int) -> float:
    known = row[~np.isnan(row)]
    share = len(known) / least
    return share * float(known.mean()) + (1 - share) * start if len(known) else start
