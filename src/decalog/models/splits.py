"""Where a model's trees divide rows: a trace of the size that its features had where it learnt.

Each split parted some of the rows that a tree was grown on. If a feature comes in another unit later, all rows lie on
one side of most of its splits: the trees then say of everybody what they learnt of a few. No label is needed to see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from decalog.models.base import Floats

LEAST_SIDE = 0.005
"""Share of rows that have to lie on either side of a split for it to part them."""


class Splits(NamedTuple):
    """The splits of all trees of a model.

    Attributes:
        columns: int64, which feature each asks for.
        thresholds: float64; what is not above it goes one way.
        shares: float64, each one's part of what all splits of its head gained, heads alike; together 1.
    """

    columns: npt.NDArray[np.int64]
    thresholds: Floats
    shares: Floats

    def unmet(self, rows: Floats) -> dict[int, float]:
        """Returns the features most of whose splits do not part other rows, with their part of what all splits gained.

        What is the same in nearly all rows, as the weekday of one night is, says nothing of units, and is left out.

        Args:
            rows: float64, n × features of use `model`; at least one.
        """
        # Of each feature the values between which lie all but the least side's rows.
        low, high = np.quantile(rows, (LEAST_SIDE, 1 - LEAST_SIDE), axis=0, method="closest_observation")
        parts = (low[self.columns] <= self.thresholds) & (self.thresholds < high[self.columns])
        gained, here = (
            np.bincount(self.columns, weights, minlength=rows.shape[1])
            for weights in (self.shares, self.shares * parts)
        )
        return {place: float(gained[place]) for place in np.flatnonzero((here < gained / 2) & (low < high)).tolist()}


def splits_of(model: object) -> Splits | None:
    """Returns where a model's trees divide; None where it has none, or keeps no text of them (`texts`)."""
    told = [_read(text) for text in getattr(model, "texts", ())]
    heads = [(columns, thresholds, gains / gains.sum()) for columns, thresholds, gains in told if gains.sum() > 0]
    if not heads:
        return None
    columns, thresholds, shares = (np.concatenate(parts) for parts in zip(*heads, strict=True))
    return Splits(columns.astype(np.int64), thresholds, shares / len(heads))


def _read(text: bytes) -> tuple[Floats, Floats, Floats]:
    """Returns feature, threshold and gain of each split of LightGBM's model text."""
    lines = text.decode("utf-8", "replace").splitlines()
    columns, thresholds, gains = (_numbers(lines, name) for name in ("split_feature=", "threshold=", "split_gain="))
    return columns, thresholds, np.maximum(gains, 0.0)


def _numbers(lines: Sequence[str], name: str) -> Floats:
    words = [word for line in lines if line.startswith(name) for word in line.removeprefix(name).split()]
    return np.array(words, np.float64)
