"""Intervals that hold what they promise: errors at rolling origins, each over its series' own spread, pooled by step.

One series has too few errors of its own to say what happens once in twenty times; all series together have enough,
once each error is counted in widths of the interval that was given for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from decalog.errors import DataError
from decalog.systems.demand.forecast.origins import Told
from decalog.systems.demand.forecast.panel import LEVELS, MEDIAN, Floats, Forecast

LOW, HIGH = LEVELS.index(0.1), LEVELS.index(0.9)
_LEAST_ERRORS = 200
_SPAN = 40.0
"""Widths beyond which an error says nothing but that its interval was nearly empty."""


class Calibration(msgspec.Struct, frozen=True):
    """How many widths each quantile lies from the median.

    Args:
        widths: float64, steps ahead × `LEVELS`; below 0 in units of median − 10 % quantile, above in units of
            90 % quantile − median.
    """

    widths: Floats

    def apply(self, forecast: Forecast, *, narrows: bool = True) -> Forecast:
        """Returns the forecast with the quantiles that its errors ask for; mean and order stay.

        Args:
            forecast: as a method said it.
            narrows: False leaves a quantile where it was if that is farther out. For few series that go together: then
                the errors of few origins are few errors, whose spread is too small on average.
        """
        below, above = sides(forecast)
        widths = self.widths[None, : forecast.mean.shape[1]]
        middle = forecast.quantiles[..., MEDIAN, None]
        quantiles = middle + np.where(widths < 0, widths * below[..., None], widths * above[..., None])
        quantiles = np.sort(quantiles, axis=-1)
        if not narrows:
            out = slice(None, MEDIAN), slice(MEDIAN + 1, None)
            for farther, side in zip((np.minimum, np.maximum), out, strict=True):
                quantiles[..., side] = farther(quantiles[..., side], forecast.quantiles[..., side])
        return forecast._replace(quantiles=quantiles)


def sides(forecast: Forecast) -> tuple[Floats, Floats]:
    """Returns how wide a forecast is below and above its median; a share of the series' widest where it is not."""
    middle = forecast.quantiles[..., MEDIAN]
    below, above = middle - forecast.quantiles[..., LOW], forecast.quantiles[..., HIGH] - middle
    least = 0.05 * np.maximum(below, above).max(axis=1, keepdims=True) + 1e-12
    return np.maximum(below, least), np.maximum(above, least)


def calibrated(tolds: Sequence[Told], *, blocks: int = 6) -> Calibration:
    """Returns what the errors at rolling origins say about intervals.

    Args:
        tolds: what a method said, and what came; of one horizon.
        blocks: of neighbouring steps ahead whose errors are pooled, at most; fewer where errors are few.

    Raises:
        DataError: there are too few errors to say how often one in twenty is exceeded.
    """
    errors = np.concatenate([_in_widths(told) for told in tolds])
    count, horizon = int((~np.isnan(errors)).sum()), errors.shape[1]
    if count < _LEAST_ERRORS:
        raise DataError(
            where="calibration of intervals",
            given=f"{count} errors at rolling origins",
            expected=f"{_LEAST_ERRORS} or more",
            fix="Roll over more origins, or pool more series.",
        )
    parts = np.array_split(np.arange(horizon), min(blocks, horizon, count // _LEAST_ERRORS))
    widths = np.empty((horizon, len(LEVELS)))
    for part in parts:
        some = errors[:, part]
        widths[part] = np.quantile(some[~np.isnan(some)], LEVELS)
    return Calibration(widths)


def _in_widths(told: Told) -> Floats:
    below, above = sides(told.forecast)
    error = told.actual - told.forecast.quantiles[..., MEDIAN]
    found: Floats = np.clip(np.where(error < 0, error / below, error / above), -_SPAN, _SPAN)
    return found
