"""Rolling origins: what a method would have said at earlier times, and a folder that keeps what it said."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from decalog.systems.demand.forecast.panel import Floats, Forecast, Method, Panel


class Told(NamedTuple):
    """What a method said at one origin, and what came.

    Args:
        panel: what was known then.
        forecast: from there.
        actual: float64, series × horizon; NaN where nothing is known.
    """

    panel: Panel
    forecast: Forecast
    actual: Floats


def roll(method: Method, panel: Panel, *, horizon: int, ends: Sequence[int]) -> list[Told]:
    """Returns what a method says at each origin; `ends` are steps back from the end, each at least the horizon."""
    width = panel.y.shape[1]
    found = []
    for end in ends:
        known = panel.until(width - end)
        actual = panel.y[:, width - end : width - end + horizon]
        found.append(Told(known, method.forecast(known, horizon), actual))
    return found


def kept(method: Method, folder: Path) -> Method:
    """Returns a method that looks into a folder first for what it said of the same series before.

    The name of a method and the bytes of a panel are the key: a changed method has to change its name.
    """

    def forecast(panel: Panel, horizon: int) -> Forecast:
        path = folder / f"{_key(method.name, panel, horizon)}.npz"
        if path.is_file():
            return _read(path)
        made = method.forecast(panel, horizon)
        folder.mkdir(parents=True, exist_ok=True)
        fitted = np.empty(0) if made.fitted is None else made.fitted.astype(np.float32)
        fallbacks = np.array(made.fallbacks, np.str_)
        part = path.with_suffix(".part.npz")
        np.savez_compressed(part, mean=made.mean, quantiles=made.quantiles, fitted=fitted, fallbacks=fallbacks)
        part.rename(path)
        return _read(path)

    return Method(method.name, forecast)


def _key(name: str, panel: Panel, horizon: int) -> str:
    spoken = hashlib.sha256(f"{name}|{horizon}|{panel.seasons}|{panel.calendar}|{panel.y.shape}".encode())
    spoken.update(np.ascontiguousarray(panel.y).tobytes())
    for extra in sorted(panel.known):
        spoken.update(extra.encode())
        spoken.update(np.ascontiguousarray(panel.known[extra]).tobytes())
    return f"{''.join(letter if letter.isalnum() else '_' for letter in name)[:60]}-{spoken.hexdigest()[:24]}"


def _read(path: Path) -> Forecast:
    with np.load(path) as held:
        fitted = held["fitted"].astype(np.float64)
        return Forecast(
            held["mean"], held["quantiles"], fitted if fitted.size else None, tuple(held["fallbacks"].tolist())
        )
