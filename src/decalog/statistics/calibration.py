"""Whether probabilities happen as often as they say: overall, level by level, and in slope, each with its interval.

    ratio    observed / predicted; 1 where the level is right
    slope    of the log odds of what happened over those predicted; below 1 where predictions are too extreme
    p_value  of "what is said with p happens with p, at every level"

(Cox, Biometrika 45, 1958; Van Calster et al., Journal of Clinical Epidemiology 74, 2016.)
"""

from __future__ import annotations

import msgspec
import numpy as np

from decalog.metrics import Floats, Int64s, Measurement, need
from decalog.statistics.clusters import Clustered, Clusters, clusters, ratio, share, unseen, within
from decalog.statistics.columns import column
from decalog.statistics.distributions import chi_squared_tail

_WHERE = "calibration"
_LEVELS = 10
_FEW = 10.0  # variance, in rows of a rare label, below which a level's count is no normal; simulated in the tests
_SURE = 1e-9  # how near 0 and 1 log odds are taken; nearer, one row would outweigh all others
_STEPS = 25  # of Newton's method, which takes six where labels are not separated


class Level(msgspec.Struct, frozen=True):
    """Rows with predictions of about one size.

    Args:
        predicted: mean prediction.
        observed: share that happened.
    """

    predicted: float
    observed: Measurement


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """What predictions said, beside what happened.

    Args:
        levels: by rising prediction; each holds as much of the variance Σ p (1 − p), so that rare labels have fine ones
            where they are predicted.
        ratio: observed / predicted, of all rows.
        slope: see above; None where predictions separate the labels, or are all equal.
        p_value: of χ² over the levels (Hosmer and Lemeshow, Communications in Statistics A9, 1980; predictions from
            outside cost no degree of freedom), by as many rows fewer as rows of one entity hang together.
    """

    levels: tuple[Level, ...]
    ratio: Measurement
    slope: Measurement | None
    p_value: float


def calibration(
    labels: Floats, predictions: Floats, *, entities: Int64s | None = None, levels: int = _LEVELS
) -> Calibration:
    """Returns how well predictions are calibrated, with 95 % intervals by `clusters.Clustered.measured`.

    Args:
        labels: 0 or 1, of matured rows.
        predictions: in [0, 1], one a row, made before the labels were known.
        entities: int64 tokens of who or what a row is about; rows of one hang together. Below 0, or none: each alone.
        levels: at most; fewer where labels are too few.

    Raises:
        DataError: a column is misshapen or out of its bounds, or nothing was predicted ever to happen.
    """
    y = column(labels, f"{_WHERE}, labels", low=0.0, high=1.0)
    p = column(predictions, f"{_WHERE}, predictions", low=0.0, high=1.0, n=len(y))
    need(bool(np.any(p > 0)), _WHERE, expected="a prediction above 0")
    tokens = np.empty(0, np.int64) if entities is None else entities
    rows = clusters(tokens, n=len(y), where=f"{_WHERE}, entities")
    places, count = _levels(p, levels)
    whole = ratio(y, p, rows=rows, where=_WHERE)
    # One row more, of a mean prediction: it weighs as much as any, however few rows hold most of what is predicted.
    might = unseen(whole.value, (0.0, 1 / float(np.mean(p))), effective=len(y))
    return Calibration(
        levels=tuple(_level(y, p, rows=rows, inside=(places == place).astype(np.float64)) for place in range(count)),
        ratio=within(whole.measured(might), (0.0, np.inf)),
        slope=_slope(y, p, rows),
        p_value=_p_value(y, p, rows=rows, places=places),
    )


def _levels(p: Floats, most: int) -> tuple[Int64s, int]:
    """Returns the level of each row, and how many there are; equal predictions share one."""
    values, which = np.unique(p, return_inverse=True)
    mass = np.bincount(which, p * (1 - p))
    whole = float(np.sum(mass))
    many = min(max(int(whole / _FEW), 1), most)
    # A value goes where the middle of its mass lies.
    middle = (np.cumsum(mass) - mass / 2) / whole if whole > 0 else np.zeros(len(values))
    used, level = np.unique(np.minimum((middle * many).astype(np.int64), many - 1), return_inverse=True)
    return level[which].astype(np.int64), len(used)


def _level(y: Floats, p: Floats, *, rows: Clusters, inside: Floats) -> Level:
    return Level(float(p @ inside / np.sum(inside)), share(y * inside, inside, rows=rows))


def _p_value(y: Floats, p: Floats, *, rows: Clusters, places: Int64s) -> float:
    variance = np.bincount(places, p * (1 - p))
    gaps = np.bincount(places, y - p)
    if np.any(gaps[variance == 0] != 0):
        return 0.0  # what was sure did not happen, or what was impossible did
    told = variance > 0
    left = y - p - (gaps / np.bincount(places))[places]
    whole = float(np.sum(variance))
    inflation = max(float(np.sum(rows.sums(left) ** 2)) / whole, 1.0) if rows.count < len(y) and whole else 1.0
    square = float(np.sum(gaps[told] ** 2 / variance[told]))
    return float(chi_squared_tail(square / inflation, int(np.sum(told))))


def _slope(y: Floats, p: Floats, rows: Clusters) -> Measurement | None:
    """Returns the slope of a logistic regression of labels on log odds, with the influence of each cluster."""
    sure = np.clip(p, _SURE, 1 - _SURE)
    odds = np.log(sure / (1 - sure))
    if np.ptp(odds) == 0 or np.ptp(y) == 0 or rows.count < 2:  # noqa: PLR2004 - between clusters
        return None
    x = np.column_stack([np.ones(len(odds)), odds])
    beta = np.array([0.0, 1.0])
    for _ in range(_STEPS):
        fitted = 1 / (1 + np.exp(-np.clip(x @ beta, -500, 500)))
        told = x.T @ (x * (fitted * (1 - fitted))[:, None])
        if np.linalg.cond(told) > 1 / _SURE:
            return None
        step = np.linalg.solve(told, x.T @ (y - fitted))
        beta = beta + step
        if float(np.max(np.abs(step))) < _SURE:
            pulls = (y - fitted) * (x @ np.linalg.inv(told)[1])
            return Clustered(float(beta[1]), rows.sums(pulls), len(y)).measured()
    return None
