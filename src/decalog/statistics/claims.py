"""What a model claims to know: how far its predictions stand from their own mean, before any outcome has come.

A model that is right and knows nothing predicts the base rate for every row; what it says beyond that is the relative
entropy (Kullback and Leibler, Annals of Mathematical Statistics 22, 1951) of each prediction to the mean. It needs no
label, so what a model claims of the newest rows can be held against what it claimed of those it was judged on.
"""

from __future__ import annotations

import numpy as np

from decalog.errors import DataError
from decalog.metrics import Floats, Int64s, Measurement
from decalog.statistics.clusters import clusters, ratio

_SURE = 1e-12


def claimed(predictions: Floats) -> Floats:
    """Returns by how many nats each row's predictions differ from their mean over the rows, all heads together.

    Args:
        predictions: float64, n × heads, in [0, 1].

    >>> claimed(np.full((3, 1), 0.25)).tolist()
    [0.0, 0.0, 0.0]
    """
    p = np.clip(predictions, _SURE, 1 - _SURE)
    mean = np.mean(p, axis=0)
    nats = p * np.log(p / mean) + (1 - p) * np.log((1 - p) / (1 - mean))
    return np.asarray(np.maximum(np.sum(nats, axis=1), 0.0))


def claims(now: Floats, then: Floats, *, people: Int64s) -> Measurement | None:
    """Returns what one model claims of rows as a share of what another claims; None where that claims nothing.

    Args:
        now: of the other model, float64, n × heads.
        then: of the model.
        people: int64 tokens, one a row; below 0 nobody's.

    >>> base = np.array([[0.1], [0.2], [0.6], [0.1]])
    >>> claims(base, base, people=np.arange(4)).value
    1.0
    """
    together = clusters(people, n=len(now), where="claims, people")
    try:
        return ratio(claimed(then), claimed(now), rows=together, where="claims").measured()
    except DataError:
        return None
