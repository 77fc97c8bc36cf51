"""Explanations add up to the prediction, and speak in the words of the declarations."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from decalog.explanations import Because, explain, said
from decalog.features.definition import Attribute, FeatureSet
from decalog.models import boosted, linear, quantities
from decalog.models.base import Floats, QuantitySet, TrainingSet
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
    own = lightgbm.Booster(model_str=model.texts[0].decode()).predict(ROWS[:20], pred_contrib=True)
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


def quantities_of(params: quantities.QuantityParams, *, n: int = 600) -> tuple[quantities.QuantityModel, Floats]:
    """Returns a model of quantities and rows; the first of them says no level, the second has no exposure."""
    rng, names = np.random.default_rng(5), ("lately", "before", "days", "promoted")
    rows = np.column_stack([rng.gamma(2, 3, n), rng.gamma(2, 3, n), rng.integers(1, 5, n), rng.integers(0, 2, n)])
    rows[0, :2], rows[1, 2], rows[2, 0] = 0, 0, 0
    came = rng.poisson(rows[:, 0] * rows[:, 2] * (1 + rows[:, 3])).astype(np.float64)
    none, numbers = np.zeros(n, np.bool_), np.arange(n, dtype=np.int64)
    data = QuantitySet(
        names=names, rows=rows, labels=came, bounds=none, expected=came, drawn=came, times=numbers, groups=numbers
    )
    return quantities.fit(data, 1, params=params), rows


@pytest.mark.parametrize("trees", [0, 20])
def test_contributions_add_up_to_the_log_of_a_mean(trees: int) -> None:
    params = quantities.QuantityParams(level=("lately", "before"), exposure="days", levels=(0.1, 0.9), trees=trees)
    model, rows = quantities_of(params)
    found, mean = model.contributions(rows), model.mean(rows)
    assert found.shape == (600, 5)
    assert np.allclose(np.exp(found.sum(axis=1)), mean, rtol=1e-9)
    # The level that a request says is one feature's alone; the other has what trees add.
    assert mean[1] == 0
    if not trees:
        typical = model.shape.typical
        assert np.allclose(found[3:, 0], np.log(rows[3:, 0] / typical))
        assert np.allclose(found[3:, 1], 0)
        assert np.allclose(found[2, :2], [0, np.log(rows[2, 1] / typical)])
        assert np.allclose(found[0, :2], 0)


def test_a_reason_of_a_mean_says_so() -> None:
    feature = Attribute(name="sold_7d", meaning="sold in 7 days", unit="units", attribute="sold")
    model = quantities.QuantityModel(
        b"",
        quantities.Shape(scale=1.0, typical=2.0, k=1.0),
        params=quantities.QuantityParams(level=("sold_7d",), exposure="sold_7d", levels=(0.5,)),
        names=("sold_7d",),
    )
    features = FeatureSet(system="demand", features=(feature,))
    (because,) = explain(model, np.array([4.0]), features=features)
    assert because.text() == "sold in 7 days: 4 units (mean × 8)"
    (because,) = explain(model, np.array([0.0]), features=features)
    assert because.log_odds == -20.0  # JSON knows no infinity
