"""Honest baselines in a few numbers each: the base rate, a rule on one feature, and logistic regression.

They are what a champion has to beat. All three are saved as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

import msgspec
import numpy as np

from decalog.errors import ConfigError, ModelError, near
from decalog.models.base import Floats, TrainingSet
from decalog.models.calibration import inside, sigmoid
from decalog.models.rows import check_binary, checked

FORMAT = "json"
FILE = "model.json"

_SHARES = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)
_FAR = 10.0
_STEPS = 50
_CLOSE = 1e-9


class Prior(msgspec.Struct, frozen=True, tag="prior"):
    """The base rate for everyone: what is known before looking. Takes rows of any width `width`."""

    rate: float
    width: int
    blocking: ClassVar[bool] = False

    def predict(self, rows: Floats) -> Floats:
        """See `Model.predict`."""
        return inside(np.full(len(checked(rows, width=self.width)), self.rate))

    def save(self, folder: Path) -> Mapping[str, Any]:
        """See `Model.save`."""
        return _save(self, folder)


class Threshold(msgspec.Struct, frozen=True, tag="threshold"):
    """A rule of thumb: one rate above a limit of one feature, another below.

    Args:
        column: of the feature.
        limit: the rule holds for values > limit.
        above, below: rates on the training set, each one pseudo-row away from certainty.
        width: of a row.
    """

    column: int
    limit: float
    above: float
    below: float
    width: int
    blocking: ClassVar[bool] = False

    def predict(self, rows: Floats) -> Floats:
        """See `Model.predict`."""
        return self.rates(checked(rows, width=self.width)[:, self.column])

    def rates(self, values: Floats) -> Floats:
        """Returns the rate of each value of its feature."""
        return inside(np.where(values > self.limit, self.above, self.below))

    def save(self, folder: Path) -> Mapping[str, Any]:
        """See `Model.save`."""
        return _save(self, folder)


class Logistic(msgspec.Struct, frozen=True, tag="logistic"):
    """Logistic regression on standardised features, each held within 10 standard deviations.

    Args:
        means, scales: of each feature on the training set; a feature that never varies has scale 0 and is left out.
        weights: of each standardised feature.
        intercept: log odds at the means.
    """

    means: tuple[float, ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float
    blocking: ClassVar[bool] = False

    def predict(self, rows: Floats) -> Floats:
        """See `Model.predict`."""
        return sigmoid(self.logits(rows))

    def logits(self, rows: Floats) -> Floats:
        """Returns the log odds of each prediction."""
        terms = np.roll(self.contributions(rows), 1, axis=1)
        # A running sum, not a matrix product: that may add up in another order for one row than for many.
        logits: Floats = np.cumsum(terms, axis=1)[:, -1]
        return logits

    def contributions(self, rows: Floats) -> Floats:
        """See `Explaining.contributions`: what a feature adds compared with its mean."""
        matrix = checked(rows, width=len(self.weights))
        terms = np.empty((len(matrix), len(self.weights) + 1))
        terms[:, -1] = self.intercept
        terms[:, :-1] = _standard(matrix, np.array(self.means), scales=np.array(self.scales)) * np.array(self.weights)
        return terms

    def save(self, folder: Path) -> Mapping[str, Any]:
        """See `Model.save`."""
        return _save(self, folder)


Simple = Prior | Threshold | Logistic


def fit_prior(data: TrainingSet, seed: int) -> Prior:
    """Returns the base rate of a training set; the seed changes nothing.

    Raises:
        DataError: labels are not 0 and 1, both of them.
    """
    del seed
    check_binary(data)
    return Prior(float(np.mean(data.labels)), data.rows.shape[1])


def fit_threshold(data: TrainingSet, seed: int, *, column: str) -> Threshold:
    """Returns the rule on a feature whose limit, among its upper quantiles, has the greatest likelihood.

    Args:
        data: to learn from.
        seed: changes nothing.
        column: the feature's name.

    Raises:
        ConfigError: there is no such feature.
        DataError: labels are not 0 and 1, both of them.
    """
    del seed
    check_binary(data)
    if column not in data.names:
        raise ConfigError(
            where="threshold baseline",
            given=f"feature '{column}'",
            expected=near(column, data.names),
            fix="Name a feature as the feature set declares it.",
        )
    index = data.names.index(column)
    values = data.rows[:, index]
    limits = np.quantile(values, [1 - share for share in _SHARES], method="lower")
    rules = [_rule(data, index, limit=float(limit)) for limit in limits]
    return min(rules, key=lambda rule: _log_loss(rule.rates(values), data.labels))


def fit_logistic(data: TrainingSet, seed: int, *, l2: float | Floats = 1.0) -> Logistic:
    """Returns the logistic regression of greatest penalised likelihood, by Newton's method (IRLS).

    (Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, 2009, section 4.4.1.) No matrix product is
    left to a threaded library, so the same inputs give the same bytes whatever the number of cores.

    Args:
        data: to learn from.
        seed: changes nothing.
        l2: penalty l2/2 · |weights|² on the sum of losses, on standardised features, one or one a feature; the
            intercept is free.

    Raises:
        DataError: labels are not 0 and 1, both of them.
    """
    del seed
    check_binary(data)
    means, scales = np.mean(data.rows, axis=0), np.std(data.rows, axis=0)
    scales[scales <= _CLOSE * np.abs(means)] = 0.0
    used = np.flatnonzero(scales > 0)
    columns = np.ones((len(used) + 1, len(data.labels)))
    columns[1:] = _standard(data.rows[:, used], means[used], scales=scales[used]).T
    penalty = np.append(0.0, np.broadcast_to(np.asarray(l2, np.float64), len(means))[used])
    found = _newton(columns, data.labels, penalty=penalty)
    weights = np.zeros(len(means))
    weights[used] = found[1:]
    return Logistic(tuple(means.tolist()), tuple(scales.tolist()), tuple(weights.tolist()), float(found[0]))


def load(folder: Path, settings: Mapping[str, Any]) -> Simple:
    """Returns the model of a folder; its one file holds everything.

    Raises:
        ModelError: the file is missing or damaged.
    """
    del settings
    try:
        return cast("Simple", msgspec.json.decode((folder / FILE).read_bytes(), type=Simple))
    except (OSError, msgspec.DecodeError) as error:
        raise ModelError(
            where=f"model file {FILE}",
            given=f"a file that cannot be read ({type(error).__name__})",
            expected="the numbers that the training run wrote",
            fix="Roll back with `decalog models rollback`, restore it from a backup, or train again.",
        ) from None


def load_logistic(folder: Path) -> Logistic:
    """Returns the logistic regression of a folder; errors as for `load`, and for another kind of model."""
    found = load(folder, {})
    if isinstance(found, Logistic):
        return found
    raise ModelError(
        where=f"model file {FILE}",
        given=f"a {type(found).__name__.lower()}",
        expected="a logistic regression",
        fix="Restore the model from a backup, or train again.",
    )


def _standard(rows: Floats, means: Floats, *, scales: Floats) -> Floats:
    with np.errstate(over="ignore"):  # what overflows is held at the limit as well
        return np.clip((rows - means) / np.where(scales > 0, scales, 1.0), -_FAR, _FAR)


def _rule(data: TrainingSet, column: int, *, limit: float) -> Threshold:
    over = data.rows[:, column] > limit
    base = float(np.mean(data.labels))
    above, below = (
        (float(np.sum(data.labels[side])) + base) / (int(np.count_nonzero(side)) + 1) for side in (over, ~over)
    )
    return Threshold(column, limit, above, below, data.rows.shape[1])


def _newton(x: Floats, labels: Floats, *, penalty: Floats) -> Floats:
    """Returns the weights for x of shape (features, rows); the first row of x is the intercept's."""
    base = float(np.mean(labels))
    weights = np.zeros(len(x))
    weights[0] = np.log(base / (1 - base))
    loss = _penalised(x, labels, weights=weights, penalty=penalty)
    for _ in range(_STEPS):
        p = 1.0 / (1.0 + np.exp(-np.clip(_dot(x, weights), -500, 500)))
        slope = np.sum(x * (p - labels), axis=1) + penalty * weights
        bend = _weighted_gram(x, np.maximum(p * (1 - p), _CLOSE)) + np.diag(penalty + _CLOSE)
        step = np.linalg.solve(bend, slope)
        better = _penalised(x, labels, weights=weights - step, penalty=penalty)
        while better > loss and np.max(np.abs(step)) > _CLOSE:
            step = step / 2
            better = _penalised(x, labels, weights=weights - step, penalty=penalty)
        if not loss - better > _CLOSE * abs(loss):
            break
        weights, loss = weights - step, better
    return weights


def _penalised(x: Floats, labels: Floats, *, weights: Floats, penalty: Floats) -> float:
    logits = _dot(x, weights)
    return float(np.sum(np.logaddexp(0.0, logits) - labels * logits) + np.sum(penalty * weights**2) / 2)


def _dot(x: Floats, weights: Floats) -> Floats:
    logits = np.zeros(x.shape[1])
    for values, weight in zip(x, weights, strict=True):
        logits += values * weight
    return logits


def _weighted_gram(x: Floats, by: Floats) -> Floats:
    gram, products = np.empty((len(x), len(x))), np.empty_like(x)
    for row, values in enumerate(x):
        gram[row, row:] = np.sum(np.multiply(x[row:], values * by, out=products[row:]), axis=1)
        gram[row:, row] = gram[row, row:]
    return gram


def _log_loss(p: Floats, labels: Floats) -> float:
    return float(-np.mean(np.where(labels > 0, np.log(p), np.log1p(-p))))


def _save(model: Simple, folder: Path) -> Mapping[str, Any]:
    (folder / FILE).write_bytes(msgspec.json.encode(model))
    return {}
