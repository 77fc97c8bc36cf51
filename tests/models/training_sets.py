"""Small training sets with a known truth, and the law that every model keeps."""

from __future__ import annotations

import numpy as np

from decalog.models.base import Floats, Model, TrainingSet

NAMES = ("amount", "count_1h", "quiet", "constant")


def truth(rows: Floats) -> Floats:
    """P(label = 1): rises with the amount, and more with the count; `quiet` says nothing."""
    return np.asarray(1 / (1 + np.exp(3.0 - 1.5 * rows[:, 0] - 1.0 * rows[:, 1])), np.float64)


def draw_rows(n: int, seed: int) -> Floats:
    rows = np.random.default_rng(seed).normal(size=(n, len(NAMES)))
    rows[:, 3] = 5.0
    return rows


def training_set(n: int = 3_000, seed: int = 0) -> TrainingSet:
    rows = draw_rows(n, seed)
    labels = (np.random.default_rng(seed + 1).random(n) < truth(rows)).astype(np.float64)
    return TrainingSet(NAMES, rows, labels, np.arange(n) * 1_000_000, np.full(n, 100))


def assert_same_bits_alone_and_among_others(model: Model, rows: Floats) -> None:
    """The contract of `Model.predict`: a row's bits do not depend on its neighbours, its place or its memory layout."""
    together = model.predict(rows)
    alone = np.array([model.predict(rows[i : i + 1])[0] for i in range(len(rows))])
    assert together.tobytes() == alone.tobytes()
    assert model.predict(np.asfortranarray(rows)).tobytes() == together.tobytes()
    assert model.predict(rows[::-1]).tobytes() == together[::-1].tobytes()
    assert len(model.predict(rows[:0])) == 0
