"""What fraud's quality benchmarks share: where shared data lie, and intervals of paired differences."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from decalog.metrics import Measurement

Floats = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]
Statistic = Callable[[Floats, Floats, Floats], float]
"""(labels, predictions, weights of the rows) → a figure."""

REPEATS = 200


def shared_data(*parts: str) -> Path:
    """Returns a path among the shared data sets, which may be absent."""
    return Path(os.environ.get("DECALOG_SHARED", "../shared"), "data", *parts)


def over_units(values: Sequence[float] | Floats, *, seed: int = 0) -> Measurement:
    """Returns the mean of one figure a unit (a week, a seed) with the 95 % interval of a bootstrap over the units."""
    each = np.asarray(values, np.float64)
    drawn = each[np.random.default_rng(seed).integers(len(each), size=(10_000, len(each)))].mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Measurement(float(each.mean()), float(low), float(high), len(each))


class Part:
    """One test part with the predictions of several models: labels, and the block (a day) that each row belongs to."""

    def __init__(self, labels: Floats, blocks: Int64s, predictions: dict[str, Floats]) -> None:
        self.labels, self.predictions = labels, predictions
        names, self._block = np.unique(blocks, return_inverse=True)
        self._blocks = len(names)

    def weights(self, rng: np.random.Generator) -> Floats:
        """Returns how often each row stands in a sample that draws as many whole blocks as there are."""
        drawn = np.bincount(rng.integers(self._blocks, size=self._blocks), minlength=self._blocks)
        return drawn.astype(np.float64)[self._block]


def over_blocks(
    parts: Sequence[Part], statistic: Statistic, *, ours: str, others: Sequence[str], repeats: int = REPEATS
) -> dict[str, Measurement]:
    """Returns of each other model the mean over parts of statistic(ours) − statistic(other) with its 95 % interval.

    In every repeat each part's blocks are drawn anew and whole, for all models alike: payments of one day share
    attacks, so they are not drawn apart.
    """
    rng = np.random.default_rng(0)

    def gains(part: Part, weights: Floats) -> Floats:
        first = statistic(part.labels, part.predictions[ours], weights)
        return np.array([first - statistic(part.labels, part.predictions[name], weights) for name in others])

    whole = np.mean([gains(part, np.ones(len(part.labels))) for part in parts], axis=0)
    drawn = np.mean([[gains(part, part.weights(rng)) for part in parts] for _ in range(repeats)], axis=1)
    n = sum(len(part.labels) for part in parts)
    bounds = np.quantile(drawn, [0.025, 0.975], axis=0)
    return {
        name: Measurement(float(value), float(low), float(high), n)
        for name, value, low, high in zip(others, whole, *bounds, strict=True)
    }


def text(measured: Measurement, places: int = 3) -> str:
    """Returns a figure with its interval for a table."""
    return f"{measured.value:.{places}f} ({measured.low:.{places}f} to {measured.high:.{places}f})"
