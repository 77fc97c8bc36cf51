"""Logistic regression and boosted trees, one vote each: the mean of their log odds.

With a few dozen positives the line is the better of the two, with thousands the trees are; the mean of both errs less
than the worse and often less than either (a logarithmic opinion pool: Genest and Zidek, Statistical Science 1, 1986).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from decalog.models import boosted, linear
from decalog.models.base import Floats, TrainingSet
from decalog.models.calibration import sigmoid

FORMAT = "blended"


class Blended:
    """Both models, fitted.

    Args:
        line: the logistic regression.
        trees: the boosted trees.
    """

    blocking: ClassVar[bool] = False

    def __init__(self, line: linear.Logistic, trees: boosted.Boosted) -> None:
        self._line = line
        self._trees = trees

    def predict(self, rows: Floats) -> Floats:
        """See `Model.predict`."""
        return sigmoid((self._line.logits(rows) + self._trees.logits(rows)) / 2)

    def contributions(self, rows: Floats) -> Floats | None:
        """See `Explaining.contributions`."""
        of_trees = self._trees.contributions(rows)
        return None if of_trees is None else (self._line.contributions(rows) + of_trees) / 2

    def save(self, folder: Path) -> Mapping[str, Any]:
        """See `Model.save`."""
        return {"line": self._line.save(folder), "trees": self._trees.save(folder)}


def fit(data: TrainingSet, seed: int, *, params: boosted.BoostedParams | None = None) -> Blended:
    """Returns both models fitted to a training set; errors as for `boosted.fit`."""
    return Blended(linear.fit_logistic(data, seed), boosted.fit(data, seed, params=params))


def load(folder: Path, settings: Mapping[str, Any]) -> Blended:
    """Returns the model of a folder.

    Raises:
        ModelError: a file is missing or damaged, or is another model's.
    """
    return Blended(linear.load_logistic(folder), boosted.load(folder, settings["trees"]))
