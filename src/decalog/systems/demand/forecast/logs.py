"""Any method on the logarithms of a panel: for series whose ups and downs grow with their level."""

from __future__ import annotations

import msgspec
import numpy as np

from decalog.systems.demand.forecast.panel import MEDIAN, Forecast, Method, Panel


def in_logs(method: Method) -> Method:
    """Returns the method applied to log(1 + y); negative values count as none, and its mean is its median."""

    def forecast(panel: Panel, horizon: int) -> Forecast:
        told = method.forecast(msgspec.structs.replace(panel, y=np.log1p(np.maximum(panel.y, 0.0))), horizon)
        # Nothing that was never seen a hundredfold comes: a trend in logarithms may run away.
        top = np.nanmax(panel.y, axis=1, initial=0.0)[:, None, None] * 100
        quantiles = np.expm1(np.minimum(np.maximum(told.quantiles, 0.0), np.log1p(top)))
        fitted = None if told.fitted is None else np.expm1(np.maximum(told.fitted, 0.0))
        return Forecast(quantiles[..., MEDIAN].copy(), quantiles, fitted, told.fallbacks)

    return Method(f"{method.name} in logs", forecast)
