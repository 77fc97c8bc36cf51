"""Explanations add up to the prediction, and speak in the words of the declarations."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from decalog.explanations import Because, explain, said
from decalog.models import boosted, linear
from decalog.models.base import Floats, TrainingSet
from decalog.systems.fraud.features import FEATURES

NAMES = FEATURES.names_for("model")
ROWS = np.random.default_rng(3).normal(size=(600, len(NAMES)))
LABELS = (ROWS[:, 0] - ROWS[:, 3] + np.random.default_rng(4).normal(size=600) > 0.5).astype(np.float64)
NUMBERS = np.arange(600, dtype=np.int64)
DATA = TrainingSet(NAMES, ROWS, LABELS, NUMBERS, NUMBERS)


def trees(data: TrainingSet, seed: int) -> boosted.Boosted:
    return boosted.fit(data, seed, params=boosted.BoostedParams(trees=30))


def whole(row: Floats) -> Floats:
    """A row of all features from one of the model's; the policy's own are 0."""
    made = np.zeros(len(FEATURES.names))
    made[list(FEATURES.places_for("model"))] = row
    return made


@pytest.mark.parametrize("fit", [trees, linear.fit_logistic])
def test_contributions_add_up_to_the_log_odds_of_the_prediction(
    fit: Callable[[TrainingSet, int], boosted.Boosted | linear.Logistic],
) -> None:
    model = fit(DATA, 1)
    found = model.contributions(ROWS[:50])
    assert found is not None
    assert found.shape == (50, len(NAMES) + 1)
    p = model.predict(ROWS[:50])
    assert np.allclose(found.sum(axis=1), np.log(p / (1 - p)), rtol=0, atol=1e-9)


def test_trees_are_explained_as_their_own_library_explains_them() -> None:
    lightgbm = pytest.importorskip("lightgbm")
    model = trees(DATA, 1)
    found = model.contributions(ROWS[:20])
    assert found is not None
    own = lightgbm.Booster(model_str=model._text.decode()).predict(ROWS[:20], pred_contrib=True)
    slope = model._calibrator.slope  # type: ignore[union-attr]  # a sigmoid, as the fit's default is
    assert np.array_equal(found[:, :-1], own[:, :-1] * slope)


def test_the_strongest_come_first_and_the_negligible_not_at_all() -> None:
    row = whole(ROWS[0])
    found = explain(trees(DATA, 1), row, features=FEATURES)
    strengths = [abs(because.log_odds) for because in found]
    assert strengths == sorted(strengths, reverse=True)
    assert min(strengths) >= 0.05
    assert {found[0].feature, found[1].feature} <= {NAMES[0], NAMES[3]} | set(NAMES)
    values = dict(zip(FEATURES.names, row.tolist(), strict=True))
    assert all(because.value == values[because.feature] for because in found)


def test_a_reason_has_the_declarations_words() -> None:
    declared = {feature.name: feature for feature in FEATURES.features}
    because = Because("same_card_ip", "card and ip are the same", 0.0, said(declared["same_card_ip"], 0), -math.log(2))
    assert because.text() == "card and ip are the same: no (odds × 0.5)"
    assert said(declared["channel"], 0.0) == "ecom"
    assert said(declared["same_card_ip"], 1.0) == "yes"
    assert said(declared["card_since_last_s"], -1.0) == "missing"
    assert said(declared["card_payments_1h"], 12.0) == "12 payments"
    assert said(declared["amount"], 1_234_567.0) == "1,234,567 minor units of the base currency"


def test_what_cannot_be_said_exactly_is_not_said() -> None:
    curve = boosted.fit(DATA, 1, params=boosted.BoostedParams(trees=10, calibration="isotonic"))
    assert explain(curve, whole(ROWS[0]), features=FEATURES) == ()
    assert explain(linear.fit_prior(DATA, 1), whole(ROWS[0]), features=FEATURES) == ()
    assert explain(None, whole(ROWS[0]), features=FEATURES) == ()
