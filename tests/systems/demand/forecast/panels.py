"""Small panels of known making."""

from __future__ import annotations

import numpy as np

from decalog.systems.demand.forecast.panel import Panel


def weekly(n: int = 30, *, days: int = 140, noise: float = 1.0, seed: int = 0) -> Panel:
    """Returns daily series with a weekly season, a level of their own, and noise in proportion to it."""
    rng = np.random.default_rng(seed)
    level = rng.uniform(20, 200, n)
    season = 1 + 0.5 * np.sin(2 * np.pi * np.arange(days) / 7)
    y = level[:, None] * (season + 0.1 * noise * rng.standard_normal((n, days)))
    return Panel(ids=tuple(f"item-{at}" for at in range(n)), y=np.maximum(y, 0.0), seasons=(7,))
