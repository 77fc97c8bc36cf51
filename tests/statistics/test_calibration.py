"""Calibration: right predictions are called right as often as promised; wrong ones are found, and how wrong is told."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from scipy import optimize
from scipy.special import expit

from decalog.errors import DataError
from decalog.metrics import Floats, Int64s
from decalog.statistics.calibration import Calibration, calibration

ALONE: Int64s = np.empty(0, np.int64)


def world(
    seed: int, *, n: int = 2_000, base: float = -1.0, stretch: float = 1.0, moved: float = 0.0, people: int = 0
) -> tuple[Floats, Floats, Int64s]:
    """Labels, predictions whose log odds are stretched and moved, and people, whose labels then hang together."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(size=n) + base
    drawn = rng.random(n)
    entities = ALONE
    if people:
        from scipy.special import ndtr

        entities = rng.integers(people, size=n)
        drawn = ndtr(np.sqrt(0.3) * rng.normal(size=people)[entities] + np.sqrt(0.7) * rng.normal(size=n))
    labels: Floats = (drawn < expit(odds)).astype(np.float64)
    return labels, expit(stretch * odds + moved), entities


def judged(count: int = 200, **setting: Any) -> list[Calibration]:
    worlds = (world(seed, **setting) for seed in range(count))
    return [calibration(labels, predictions, entities=entities) for labels, predictions, entities in worlds]


def share(holds: list[bool]) -> float:
    return float(np.mean(holds))


@pytest.mark.parametrize(
    "setting", [{}, {"base": -5.0, "n": 3_000}, {"base": -4.0, "n": 300}, {"people": 100}], ids=str
)
def test_right_predictions_are_called_right(setting: dict[str, Any]) -> None:
    found = judged(**setting)
    assert share([one.p_value <= 0.05 for one in found]) < 0.1
    assert share([one.ratio.low <= 1 <= one.ratio.high for one in found]) > 0.9
    assert share([one.slope is not None and one.slope.low <= 1 <= one.slope.high for one in found]) > 0.9
    levels = [level for one in found for level in one.levels]
    assert share([level.observed.low <= level.predicted <= level.observed.high for level in levels]) > 0.93


def test_a_ratio_is_as_sure_as_its_positives_however_few_rows_hold_most_of_what_is_predicted() -> None:
    """A hundred frauds of nine thousand payments, most of them where a few payments are thought risky."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(60):
        predictions = np.clip(rng.beta(0.05, 4.5, 9_000), 1e-6, 1.0)
        labels = (rng.random(9_000) < predictions).astype(np.float64)
        found.append(calibration(labels, predictions, entities=np.arange(9_000) // 14).ratio)
    assert share([one.low <= 1 <= one.high for one in found]) > 0.88
    assert np.median([one.low for one in found]) > 0.7
    assert np.median([one.high for one in found]) < 1.4


def test_labels_that_hang_together_alarm_where_nobody_said_so() -> None:
    worlds = [world(seed, people=100) for seed in range(100)]
    assert share([calibration(labels, predictions).p_value <= 0.05 for labels, predictions, _ in worlds]) > 0.12


def test_predictions_that_are_too_extreme_have_a_slope_below_one_and_those_too_high_a_ratio_below_one() -> None:
    stretched = judged(50, stretch=1.5)
    assert share([one.slope is not None and one.slope.high < 1 for one in stretched]) > 0.95
    assert np.mean([one.slope.value for one in stretched if one.slope]) == pytest.approx(1 / 1.5, abs=0.02)
    assert share([one.p_value < 0.001 for one in stretched]) > 0.9
    moved = judged(50, moved=0.5)
    assert share([one.ratio.high < 1 for one in moved]) > 0.95
    assert share([one.slope is not None and one.slope.low <= 1 <= one.slope.high for one in moved]) > 0.8


def test_the_slope_is_that_of_a_logistic_regression() -> None:
    labels, predictions, _ = world(1, stretch=1.3)
    odds = np.log(predictions / (1 - predictions))

    def loss(beta: Floats) -> float:
        score = beta[0] + beta[1] * odds
        return float(np.sum(np.logaddexp(0, score) - labels * score))

    best = optimize.minimize(loss, np.zeros(2), method="BFGS", options={"gtol": 1e-6}).x
    found = calibration(labels, predictions).slope
    assert found is not None
    assert found.value == pytest.approx(best[1], abs=1e-4)
    chances = expit(best[0] + best[1] * odds)
    x = np.column_stack([np.ones(2_000), odds])
    error = float(np.sqrt(np.linalg.inv(x.T @ (x * (chances * (1 - chances))[:, None]))[1, 1]))
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.05)


def test_levels_hold_equal_variance_and_equal_predictions_share_one() -> None:
    labels, predictions, _ = world(2, n=20_000, base=-3.0)
    found = calibration(labels, predictions, levels=5)
    assert len(found.levels) == 5
    assert sum(level.observed.n for level in found.levels) == 20_000
    assert [level.predicted for level in found.levels] == sorted(level.predicted for level in found.levels)
    bounds = np.cumsum([level.observed.n for level in found.levels])
    rising = np.sort(predictions)
    mass = [float(np.sum(part * (1 - part))) for part in np.split(rising, bounds[:-1])]
    assert max(mass) < 1.01 * min(mass)
    assert len(calibration(labels, np.full(20_000, 0.05)).levels) == 1
    assert len(calibration(labels[:50], predictions[:50]).levels) == 1


def test_what_was_sure_and_wrong_is_refuted_and_what_was_sure_and_right_is_not() -> None:
    labels = np.array([0.0, 1.0, 0.0, 1.0])
    assert calibration(labels, np.array([0.0, 1.0, 0.0, 1.0])).p_value == 1.0
    assert calibration(labels, np.array([1.0, 1.0, 0.0, 1.0])).p_value == 0.0


def test_no_slope_where_there_is_none() -> None:
    labels = np.array([0.0, 0.0, 1.0, 1.0])
    assert calibration(labels, np.array([0.1, 0.2, 0.8, 0.9])).slope is None  # separated
    assert calibration(labels, np.full(4, 0.5)).slope is None
    assert calibration(np.zeros(4), np.array([0.1, 0.2, 0.8, 0.9])).slope is None


def test_nothing_that_happened_is_not_nothing_that_can_happen() -> None:
    found = calibration(np.zeros(1_000), np.full(1_000, 0.002))
    assert (found.ratio.value, found.ratio.low) == (0.0, 0.0)
    assert found.ratio.high > 1


@pytest.mark.parametrize(
    ("labels", "predictions", "text"),
    [
        ([0.0, 2.0], [0.5, 0.5], "calibration, labels"),
        ([0.0, 1.0], [0.5, 1.5], "calibration, predictions"),
        ([0.0, 1.0], [0.5], "an array of shape (1,)"),
        ([0.0, 1.0], [0.0, 0.0], "a prediction above 0"),
    ],
)
def test_rows_that_cannot_be_are_told(labels: list[float], predictions: list[float], text: str) -> None:
    with pytest.raises(DataError, match=re.escape(text)):
        calibration(np.array(labels), np.array(predictions))
