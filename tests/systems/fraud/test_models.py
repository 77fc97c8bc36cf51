from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from decalog.models.base import ModelSpec, TrainingSet
from decalog.models.formats import load_model
from decalog.systems.fraud.features import FEATURES
from decalog.systems.fraud.models import MODELS

NAMES = FEATURES.names_for("model")


def payments(seed: int, n: int = 4_000) -> TrainingSet:
    """Payments in which fraud follows the amount and the number of payments on the card."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 5, (n, len(NAMES))).astype(np.float64)
    amount, velocity = NAMES.index("amount"), NAMES.index("card_payments_1d")
    rows[:, amount] = rng.lognormal(8, 1, n)
    p = 0.01 + 0.3 * (rows[:, velocity] == 4) * (rows[:, amount] > np.exp(8))
    labels = (rng.random(n) < p).astype(np.float64)
    return TrainingSet(NAMES, rows, labels, np.arange(n), rows[:, amount].astype(np.int64))


TRAIN, TEST = payments(1), payments(2)


def log_loss(spec: ModelSpec) -> float:
    p = spec.fit(TRAIN, 7).predict(TEST.rows)
    return float(-np.mean(np.where(TEST.labels > 0, np.log(p), np.log1p(-p))))


def test_baselines_come_first_and_the_champion_beats_them() -> None:
    assert [spec.baseline for spec in MODELS] == [True, True, True, True, False]
    *baselines, champion = (log_loss(spec) for spec in MODELS)
    assert champion < min(baselines)
    assert all(rule < baselines[0] for rule in baselines[1:])


@pytest.mark.parametrize("spec", MODELS, ids=lambda spec: spec.name)
def test_each_kind_loads_again_and_predicts_the_same_bits(spec: ModelSpec, tmp_path: Path) -> None:
    model = spec.fit(TRAIN, 7)
    settings = model.save(tmp_path)
    again = load_model(spec.format, tmp_path, settings=settings)
    assert again.predict(TEST.rows).tobytes() == model.predict(TEST.rows).tobytes()
    assert spec.head == "p_fraud"
    assert spec.meaning


def test_the_rules_name_features_that_are_declared() -> None:
    assert {"amount", "card_payments_1d"} <= set(NAMES)
