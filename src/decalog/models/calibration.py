"""Calibration: from a model's score to a probability, monotone, strictly inside (0, 1), the same bits in any batch.

Two forms. `Sigmoid` (Platt) has two numbers and serves where positives are rare; `Isotonic` follows any monotone curve
and needs hundreds of positives. Both are saved as JSON; floats are written in their shortest exact form.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import cast

import msgspec
import numpy as np

from decalog.compiling import compiled
from decalog.errors import ModelError
from decalog.models.base import Floats

FILE = "calibration.json"
_EDGE = 2.0**-40
_FAR = 27.0
"""Log odds below which a probability is surely further than the edge from 0 and 1."""
_STEPS = 100
_MANY = 16
"""Rows from which on a compiled loop is worth its call; its bits are the same, both take libm's exp."""
_CLOSE = 1e-12


class Sigmoid(msgspec.Struct, frozen=True, tag="sigmoid"):
    """p = 1 / (1 + exp(−(slope · score + shift))), with slope ≥ 0."""

    slope: float
    shift: float

    def apply(self, scores: Floats) -> Floats:
        """Returns a probability a score, in (0, 1)."""
        return sigmoid(scores * self.slope + self.shift)


class Isotonic(msgspec.Struct, frozen=True, tag="isotonic"):
    """A rising curve through points, straight between them, level outside.

    Args:
        scores: rising strictly.
        rates: rising or level, in (0, 1).
    """

    scores: tuple[float, ...]
    rates: tuple[float, ...]

    def apply(self, scores: Floats) -> Floats:
        """Returns a probability a score, in (0, 1)."""
        # Not np.interp: it takes another path for one row than for many.
        x, y = np.array(self.scores), np.array(self.rates)
        held = np.clip(scores, x[0], x[-1])
        left = np.clip(np.searchsorted(x, held, side="right") - 1, 0, max(len(x) - 2, 0))
        right = np.minimum(left + 1, len(x) - 1)
        width = np.where(right > left, x[right] - x[left], 1.0)
        rates = y[left] + (y[right] - y[left]) * ((held - x[left]) / width)
        return inside(np.clip(rates, y[left], y[right]))


Calibrator = Sigmoid | Isotonic


def fit_sigmoid(
    scores: Floats, labels: Floats, *, weights: Floats | None = None, offsets: Floats | None = None
) -> Sigmoid:
    """Returns the sigmoid of greatest likelihood against Platt's smoothed targets.

    Targets are (n₊ + 1)/(n₊ + 2) and 1/(n₋ + 2), so that neither a perfect ranking nor a missing class gives certainty.
    (Platt, Advances in Large Margin Classifiers, 1999; Newton's method as in Lin, Lin and Weng, Machine Learning 68,
    2007.) A falling curve means that the score says nothing: the slope is then 0 and the shift the base rate's.

    Args:
        scores: float64, n ≥ 1, finite.
        labels: 0 or 1, or between where a row is a positive in part.
        weights: how many rows each one stands for; None for one.
        offsets: known log odds that come on top of slope · score + shift; None for none.
    """
    w = np.ones(len(labels)) if weights is None else weights
    known = np.zeros(len(labels)) if offsets is None else offsets
    positives = float(np.sum(w * labels))
    negatives = float(np.sum(w)) - positives
    targets = labels * ((positives + 1) / (positives + 2)) + (1 - labels) / (negatives + 2)
    centre, spread = float(np.mean(scores)), float(np.std(scores))
    base = math.log((positives + 1) / (negatives + 1))
    if spread > 0:
        slope, shift = _newton((scores - centre) / spread, targets, w, known, start=base)
        if slope > 0:
            return Sigmoid(slope / spread, shift - slope * centre / spread)
    if offsets is None:
        return Sigmoid(0.0, base)
    return Sigmoid(0.0, _newton(np.zeros(len(labels)), targets, w, known, start=base)[1])


def _newton(z: Floats, targets: Floats, w: Floats, known: Floats, *, start: float) -> tuple[float, float]:
    slope, shift = 0.0, start
    loss = _loss(slope * z + shift + known, targets, w)
    for _ in range(_STEPS):
        p = sigmoid(slope * z + shift + known)
        weight, gap = w * (p * (1 - p)), w * (p - targets)
        g0, g1 = float(np.sum(gap * z)), float(np.sum(gap))
        h00, h01, h11 = (
            float(np.sum(weight * z * z)) + _CLOSE,
            float(np.sum(weight * z)),
            float(np.sum(weight)) + _CLOSE,
        )
        determinant = h00 * h11 - h01 * h01
        d0, d1 = (h01 * g1 - h11 * g0) / determinant, (h01 * g0 - h00 * g1) / determinant
        step, better = 1.0, _loss((slope + d0) * z + shift + d1 + known, targets, w)
        while better > loss and step > _CLOSE:
            step /= 2
            better = _loss((slope + step * d0) * z + shift + step * d1 + known, targets, w)
        if not loss - better > _CLOSE * abs(loss):
            break
        slope, shift, loss = slope + step * d0, shift + step * d1, better
    return slope, shift


def _loss(logits: Floats, targets: Floats, w: Floats) -> float:
    return float(np.sum(w * (np.logaddexp(0.0, logits) - targets * logits)))


def fit_isotonic(scores: Floats, labels: Floats, *, weights: Floats | None = None) -> Isotonic:
    """Returns the least-squares rising curve by pool adjacent violators, drawn through the middle of each pool.

    (Ayer et al., Annals of Mathematical Statistics 26, 1955; Zadrozny and Elkan, KDD 2002.) Rates stay one pseudo-row
    away from 0 and 1: no pool claims more certainty than the whole sample can carry.

    Args:
        scores: float64, n ≥ 1, finite.
        labels: 0 or 1, or between where a row is a positive in part.
        weights: how many rows each one stands for, > 0; None for one.
    """
    w = np.ones(len(labels)) if weights is None else weights
    values, which = np.unique(scores, return_inverse=True)
    counts = np.bincount(which, w)
    pools: list[tuple[float, float, float]] = []  # rows, sum of labels, sum of scores
    for pool in zip(counts, np.bincount(which, w * labels), counts * values, strict=True):
        rows, hits, total = pool
        while pools and pools[-1][1] * rows >= hits * pools[-1][0]:
            before = pools.pop()
            rows, hits, total = rows + before[0], hits + before[1], total + before[2]
        pools.append((float(rows), float(hits), float(total)))
    edge = 1.0 / (float(np.sum(w)) + 2)
    rates = tuple(min(max(hits / rows, edge), 1 - edge) for rows, hits, _ in pools)
    return Isotonic(tuple(total / rows for rows, _, total in pools), rates)


def sigmoid(logits: Floats) -> Floats:
    """Returns 1 / (1 + exp(−x)) strictly inside (0, 1); libm row by row, since numpy's exp may differ by batch."""
    if len(logits) < _MANY:
        return np.array([_logistic(x) for x in logits.tolist()])
    out = np.empty(len(logits))
    _compiled()(np.ascontiguousarray(logits), out)
    return out


def _logistic(x: float) -> float:
    far = 1.0 / (1.0 + math.exp(-abs(x)))
    p = far if x >= 0 else 1.0 - far
    if -_FAR < x < _FAR:
        return p
    return min(max(p, _EDGE), 1.0 - _EDGE)


@cache
def _compiled() -> Callable[[Floats, Floats], None]:
    """Returns `_logistic` over a column; compiled late, for who scores one row at a time needs no compiler."""
    one = compiled(None)(_logistic)

    def all_of(logits: Floats, out: Floats) -> None:
        for place in range(len(logits)):
            out[place] = one(logits[place])

    return compiled("void(float64[::1], float64[::1])")(all_of)


def inside(probabilities: Floats) -> Floats:
    """Returns probabilities kept 2⁻⁴⁰ away from 0 and 1."""
    return np.clip(probabilities, _EDGE, 1.0 - _EDGE)


def save(calibrator: Calibrator, folder: Path) -> None:
    """Writes the calibrator's file."""
    (folder / FILE).write_bytes(msgspec.json.encode(calibrator))


def load(folder: Path) -> Calibrator:
    """Returns the calibrator of a folder.

    Raises:
        ModelError: the file is missing or is no calibrator.
    """
    try:
        return cast("Calibrator", msgspec.json.decode((folder / FILE).read_bytes(), type=Calibrator))
    except (OSError, msgspec.DecodeError) as error:
        raise ModelError(
            where=f"model file {FILE}",
            given=f"a file that cannot be read ({type(error).__name__})",
            expected="the calibration that the training run wrote",
            fix="Roll back with `decalog models rollback`, or train again.",
        ) from None
