"""The payments most like one: what became of those before it. For analysts only: it tells of other people's payments.

Each feature is replaced by its rank among the labelled payments, so that an amount and a count weigh alike, and the
distance is the mean difference of ranks over the features.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from decalog.examples import Examples, Floats, Int64s

_MOST = 50_000
"""Labelled payments that are compared, the latest: a second's work, and the ones most like today's."""


class Neighbour(msgspec.Struct, frozen=True):
    """A payment like another.

    Args:
        payment: its id.
        distance: mean difference of ranks, in [0, 1].
        label: 1 fraud, 0 genuine.
        why: what says so, as `LabelState.why`.
        amount_minor: in minor units of the base currency.
    """

    payment: str
    distance: float
    label: int
    why: str
    amount_minor: int


def neighbours(examples: Examples, row: Floats, *, columns: Sequence[int], count: int = 5) -> list[Neighbour]:
    """Returns the labelled payments nearest to a row of features, the nearest first, the later first among equals.

    Args:
        examples: in order of time.
        row: float64, every feature of the set.
        columns: places of the features that are compared.
        count: at most so many.
    """
    known = np.flatnonzero(examples.labelled)[-_MOST:]
    if not len(known) or not columns:
        return []
    apart = np.zeros(len(known), np.int64)
    for column in columns:
        values = examples.rows[known, column]
        levels = np.sort(values)
        apart += np.abs(_rank(levels, values) - _rank(levels, np.array([row[column]])))
    nearest = np.lexsort((-known, apart))[:count]
    distance = apart / (2 * len(known) * len(columns))
    return [
        Neighbour(
            examples.ids[known[place]],
            float(distance[place]),
            int(examples.labels[known[place]]),
            examples.why[known[place]],
            int(examples.amounts[known[place]]),
        )
        for place in nearest.tolist()
    ]


def _rank(levels: Floats, values: Floats) -> Int64s:
    """Returns twice the mean rank of values among sorted levels, whole numbers: no order of adding changes a sum."""
    ranks = np.searchsorted(levels, values, side="left") + np.searchsorted(levels, values, side="right")
    return np.asarray(ranks, np.int64)
