"""The honest baselines against scikit-learn and against hand-made answers."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from tests.models.training_sets import assert_same_bits_alone_and_among_others, draw_rows, training_set, truth

from decalog.errors import ConfigError, DataError, ModelError
from decalog.models import linear
from decalog.models.linear import Simple

FITS = (linear.fit_prior, partial(linear.fit_threshold, column="amount"), linear.fit_logistic)
MODELS: tuple[Simple, ...] = tuple(fit(training_set(), 1) for fit in FITS)
each_model = pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)


@each_model
def test_a_row_alone_and_among_others_gets_the_same_bits(model: Simple) -> None:
    assert_same_bits_alone_and_among_others(model, draw_rows(200, 3))


@each_model
def test_a_saved_model_predicts_the_same_bits(model: Simple, tmp_path: Path) -> None:
    settings = model.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.json"]
    again = linear.load(tmp_path, settings)
    assert again == model
    assert again.predict(draw_rows(50, 4)).tobytes() == model.predict(draw_rows(50, 4)).tobytes()


@each_model
def test_extreme_features_give_probabilities_all_the_same(model: Simple) -> None:
    rows = np.array([[1e308] * 4, [-1e308] * 4, [0.0] * 4])
    assert np.all((model.predict(rows) > 0) & (model.predict(rows) < 1))


@each_model
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_impossible_features_are_refused(model: Simple, bad: float) -> None:
    with pytest.raises(ModelError, match=r"prediction: a feature that is NaN or infinite. Expected finite numbers"):
        model.predict(np.array([[0.0, bad, 0.0, 0.0]]))


@each_model
def test_a_row_of_another_width_is_refused(model: Simple) -> None:
    with pytest.raises(ModelError, match=r"prediction: an array of shape \(1, 3\). Expected rows × 4 features"):
        model.predict(np.zeros((1, 3)))


@pytest.mark.parametrize("fit", FITS)
def test_labels_of_one_kind_teach_nothing(fit: partial[Simple]) -> None:
    one_kind = msgspec.structs.replace(training_set(50), labels=np.zeros(50))
    with pytest.raises(DataError, match=r"training set: 50 rows with labels 0. Expected matured labels 0 and 1"):
        fit(one_kind, 1)


def test_features_that_are_not_finite_teach_nothing() -> None:
    data = training_set(50)
    data.rows[7, 1] = np.nan
    with pytest.raises(DataError, match=r"training set: a feature that is NaN or infinite"):
        linear.fit_prior(data, 1)


def test_the_prior_is_the_base_rate() -> None:
    data = training_set()
    assert linear.fit_prior(data, 1).predict(data.rows[:2]).tolist() == [data.labels.mean()] * 2


def test_logistic_regression_equals_scikit_learn() -> None:
    data = training_set()
    rows = data.rows[:, :3]
    standard = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    for l2 in (0.1, 1.0, 100.0):
        found = linear.fit_logistic(data, 1, l2=l2)
        reference = LogisticRegression(C=1 / l2, tol=1e-12, max_iter=1_000).fit(standard, data.labels)
        assert found.weights[:3] == pytest.approx(reference.coef_[0], rel=1e-4, abs=1e-6)
        assert found.intercept == pytest.approx(reference.intercept_[0], rel=1e-4)
        assert found.predict(data.rows) == pytest.approx(reference.predict_proba(standard)[:, 1], abs=1e-5)


def test_a_penalty_of_each_feature_equals_scikit_learns_on_scaled_features() -> None:
    data = training_set()
    l2 = np.geomspace(0.5, 200.0, data.rows.shape[1])
    spreads = data.rows.std(axis=0)
    scaled = (data.rows - data.rows.mean(axis=0)) / np.where(spreads > 0, spreads, 1.0) / np.sqrt(l2)
    reference = LogisticRegression(C=1.0, tol=1e-12, max_iter=10_000).fit(scaled, data.labels)
    found = linear.fit_logistic(data, 1, l2=l2)
    assert found.predict(data.rows) == pytest.approx(reference.predict_proba(scaled)[:, 1], abs=1e-4)


def test_logistic_regression_finds_the_truth_and_leaves_out_what_never_varies() -> None:
    found = linear.fit_logistic(training_set(40_000), 1)
    rows = draw_rows(1_000, 9)
    assert np.max(np.abs(found.predict(rows) - truth(rows))) < 0.05
    assert (found.scales[3], found.weights[3]) == (0.0, 0.0)


def test_separable_classes_still_converge() -> None:
    data = training_set(400)
    separable = msgspec.structs.replace(data, labels=(data.rows[:, 0] > 0).astype(np.float64))
    p = linear.fit_logistic(separable, 1, l2=1e-4).predict(data.rows)
    assert np.all((p > 0.5) == (separable.labels > 0))


def test_the_threshold_is_one_of_the_quantiles_and_its_rates_are_counted() -> None:
    data = training_set(1_000)
    values = np.arange(1_000.0)
    steep = msgspec.structs.replace(
        data, rows=np.column_stack([values, data.rows[:, 1:]]), labels=(values > 949).astype(np.float64)
    )
    rule = linear.fit_threshold(steep, 1, column="amount")
    assert (rule.column, rule.limit) == (0, 949.0)
    assert (rule.above, rule.below) == pytest.approx(((50 + 0.05) / 51, 0.05 / 951))


def test_the_threshold_needs_a_feature_that_exists() -> None:
    with pytest.raises(ConfigError, match=r"threshold baseline: feature 'amuont'. Expected 'amount' \(closest match\)"):
        linear.fit_threshold(training_set(50), 1, column="amuont")


@pytest.mark.parametrize("content", [None, b"", b'{"type":"prior","rate":1}'])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / linear.FILE).write_bytes(content)
    with pytest.raises(ModelError, match=r"model file model.json: a file that cannot be read .* the numbers"):
        linear.load(tmp_path, {})
