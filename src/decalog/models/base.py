"""The contract of models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import msgspec
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class TrainingSet(msgspec.Struct, frozen=True):
    """Rows to learn from, in the order of their time.

    Args:
        names: feature names, one a column.
        rows: float64, n × features; never NaN.
        labels: float64, n; 0 or 1, or a value.
        times: int64, n; µs of the decision.
        amounts: int64, n; money at stake in minor units of the base currency.
    """

    names: tuple[str, ...]
    rows: Floats
    labels: Floats
    times: npt.NDArray[np.int64]
    amounts: npt.NDArray[np.int64]


class Model(Protocol):
    """A fitted model. Its files are all it needs; loading runs no code from them."""

    def predict(self, rows: Floats) -> Floats:
        """Returns one calibrated prediction a row; the same bits for a row alone or among others."""

    def save(self, folder: Path) -> Mapping[str, Any]:
        """Writes the model's files; returns its JSON-able settings for the manifest."""


@runtime_checkable
class Explaining(Protocol):
    """A model that can say what each feature adds to the log odds of its prediction."""

    def contributions(self, rows: Floats) -> Floats | None:
        """Returns shape (n, features + 1), the last what it says without knowing any; each row adds up to its log odds.

        None where it cannot be said exactly.
        """


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of model that a system offers.

    Args:
        name: in reports and commands.
        meaning: one line.
        baseline: whether it is an honest baseline that the champion has to beat.
        fit: (training set, seed) → fitted model.
        format: name under which `models.formats` can load it again.
        head: what it predicts, `p_fraud`.
    """

    name: str
    meaning: str
    fit: Callable[[TrainingSet, int], Model]
    format: str
    head: str
    baseline: bool = False
