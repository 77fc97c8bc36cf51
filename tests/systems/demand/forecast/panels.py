"""Small panels of known making."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import polars as pl

from decalog.systems.demand.forecast.panel import Panel


def weekly(n: int = 30, *, days: int = 140, noise: float = 1.0, seed: int = 0) -> Panel:
    """Returns daily series with a weekly season, a level of their own, and noise in proportion to it."""
    rng = np.random.default_rng(seed)
    level = rng.uniform(20, 200, n)
    season = 1 + 0.5 * np.sin(2 * np.pi * np.arange(days) / 7)
    y = level[:, None] * (season + 0.1 * noise * rng.standard_normal((n, days)))
    return Panel(ids=tuple(f"item-{at}" for at in range(n)), y=np.maximum(y, 0.0), seasons=(7,))


def long_frame(n: int = 25, *, days: int = 100, ahead: int = 14, seed: int = 0) -> pl.DataFrame:
    """Returns daily sales with promotions known ahead, days that are missing, returns, and one row twice."""
    rng = np.random.default_rng(seed)
    dates = pl.date_range(pl.date(2026, 1, 1), pl.date(2026, 1, 1) + timedelta(days=days + ahead - 1), eager=True)
    promo = (rng.random((n, days + ahead)) < 0.1).astype(np.float64)
    level = rng.uniform(1, 40, (n, 1)) * (1 + promo) * (1 + 0.5 * (dates.dt.weekday() > 5).to_numpy())
    y = rng.poisson(level) / 3.0
    y[:, days:] = np.nan
    y[0, 40], y[3, 50] = -1.0, -2.0
    frame = pl.DataFrame(
        {
            "unique_id": np.repeat([f"item-{at}" for at in range(n)], days + ahead),
            "ds": pl.concat([dates] * n),
            "y": pl.Series(y.ravel()).fill_nan(None),
            "promo": promo.ravel(),
        }
    )
    kept = rng.random(frame.height) > 0.02
    kept[: days + ahead] = True
    kept |= frame["y"].is_null().to_numpy()
    return pl.concat([frame.filter(kept), frame[5:6]])
