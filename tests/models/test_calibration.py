"""Calibration: monotone, strictly inside (0, 1), the same bits in any batch, and right against scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from decalog.errors import ModelError
from decalog.models import calibration
from decalog.models.base import Floats
from decalog.models.calibration import Calibrator, Isotonic, Sigmoid

FITS = (calibration.fit_sigmoid, calibration.fit_isotonic)
finite = st.floats(-1e6, 1e6, allow_subnormal=False)
samples = st.lists(st.tuples(finite, st.booleans()), min_size=1, max_size=60)


def arrays(pairs: list[tuple[float, bool]]) -> tuple[Floats, Floats]:
    return np.array([score for score, _ in pairs]), np.array([float(label) for _, label in pairs])


@given(samples, st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_any_fit_gives_rising_probabilities_strictly_inside_the_unit_interval(
    pairs: list[tuple[float, bool]], asked: list[float]
) -> None:
    for fit in FITS:
        found = fit(*arrays(pairs)).apply(np.array(sorted(asked)))
        assert np.all((found > 0) & (found < 1))
        assert np.all(np.diff(found) >= 0)


@given(samples, st.lists(finite, min_size=2, max_size=40))
def test_a_row_alone_and_among_others_gets_the_same_bits(pairs: list[tuple[float, bool]], asked: list[float]) -> None:
    for fit in FITS:
        calibrator = fit(*arrays(pairs))
        together = calibrator.apply(np.array(asked))
        alone = [calibrator.apply(np.array([score]))[0] for score in asked]
        assert together.tobytes() == np.array(alone).tobytes()


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
def test_floats_come_back_from_the_file_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, a: float, b: float
) -> None:
    folder = tmp_path_factory.mktemp("calibration")
    for calibrator in (Sigmoid(a, b), Isotonic((a, b), (b, a))):
        calibration.save(calibrator, folder)
        assert repr(calibration.load(folder)) == repr(calibrator)


def test_pool_adjacent_violators_equals_scikit_learn() -> None:
    rng = np.random.default_rng(5)
    scores = np.round(rng.normal(size=500), 1)  # with ties
    labels = (rng.random(500) < 1 / (1 + np.exp(-scores))).astype(np.float64)
    pools = calibration.fit_isotonic(scores, labels)
    reference = IsotonicRegression(y_min=1 / 502, y_max=1 - 1 / 502).fit(scores, labels)
    assert np.unique(reference.predict(scores)) == pytest.approx(np.unique(pools.rates), abs=1e-12)
    # Each pool stands at the mean of its scores, so the pools' scores average to all scores.
    sizes = [np.sum(np.isclose(reference.predict(scores), rate)) for rate in pools.rates]
    assert np.average(pools.scores, weights=sizes) == pytest.approx(scores.mean())


def test_isotonic_is_straight_between_points_and_level_outside() -> None:
    curve = Isotonic((0.0, 2.0), (0.25, 0.75))
    assert curve.apply(np.array([-9.0, 0.0, 1.0, 2.0, 9.0])).tolist() == [0.25, 0.25, 0.5, 0.75, 0.75]
    assert Isotonic((1.0,), (0.5,)).apply(np.array([0.0, 1.0, 2.0])).tolist() == [0.5, 0.5, 0.5]


def test_the_sigmoid_of_a_large_sample_equals_scikit_learns_logistic_regression() -> None:
    rng = np.random.default_rng(6)
    scores = rng.normal(-4, 3, 200_000)
    labels = (rng.random(len(scores)) < 1 / (1 + np.exp(-(0.7 * scores + 0.4)))).astype(np.float64)
    found = calibration.fit_sigmoid(scores, labels)
    reference = LogisticRegression(C=np.inf, tol=1e-10).fit(scores[:, None], labels)
    # Platt's targets differ from the labels by one row in tens of thousands.
    assert (found.slope, found.shift) == pytest.approx((reference.coef_[0, 0], reference.intercept_[0]), rel=2e-3)
    assert (found.slope, found.shift) == pytest.approx((0.7, 0.4), abs=0.05)


def test_the_sigmoid_keeps_the_mean_of_platts_targets() -> None:
    scores, labels = np.array([0.0, 1.0, 2.0, 3.0]), np.array([0.0, 1.0, 0.0, 1.0])
    # At the optimum predictions sum to targets: two of (2 + 1)/(2 + 2) and two of 1/(2 + 2).
    assert np.sum(calibration.fit_sigmoid(scores, labels).apply(scores)) == pytest.approx(2.0, abs=1e-6)


@pytest.mark.parametrize(
    ("scores", "labels", "p"),
    [
        ([1.0, 1.0, 1.0], [0.0, 1.0, 0.0], 0.4),  # no spread: (1 + 1) of (3 + 2)
        ([0.0, 1.0, 2.0], [1.0, 1.0, 0.0], 0.6),  # falling: the score says nothing
    ],
)
def test_a_score_that_says_nothing_leaves_the_smoothed_base_rate(
    scores: list[float], labels: list[float], p: float
) -> None:
    found = calibration.fit_sigmoid(np.array(scores), np.array(labels))
    assert found.slope == 0.0
    assert found.apply(np.array([-1e9, 1e9])) == pytest.approx([p, p])


def test_a_perfect_ranking_and_a_missing_class_do_not_give_certainty() -> None:
    scores = np.arange(20.0)
    perfect = (scores > 9).astype(np.float64)
    assert calibration.fit_sigmoid(scores, perfect).apply(np.array([19.0]))[0] < 0.99
    assert calibration.fit_isotonic(scores, perfect).rates == (1 / 22, 1 - 1 / 22)
    assert calibration.fit_sigmoid(scores, np.zeros(20)).apply(scores).max() < 1 / 10
    assert calibration.fit_isotonic(scores, np.zeros(20)).rates == (1 / 22,)


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"type":"sigmoid","slope":1}', b'{"type":"pickle"}'])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / calibration.FILE).write_bytes(content)
    with pytest.raises(ModelError, match=r"model file calibration.json: a file that cannot be read .* train again"):
        calibration.load(tmp_path)


def test_a_saved_calibrator_calibrates_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    scores, labels = rng.normal(size=300), (rng.random(300) < 0.3).astype(np.float64)
    calibrators: list[Calibrator] = [fit(scores, labels) for fit in FITS]
    for calibrator in calibrators:
        calibration.save(calibrator, tmp_path)
        assert calibration.load(tmp_path).apply(scores).tobytes() == calibrator.apply(scores).tobytes()


def test_a_weight_counts_as_so_many_rows() -> None:
    rng = np.random.default_rng(7)
    scores, weights = np.round(rng.normal(size=200), 1), rng.integers(1, 5, 200)
    labels = (rng.random(200) < 1 / (1 + np.exp(-scores))).astype(np.float64)
    many = np.repeat(scores, weights), np.repeat(labels, weights)
    one, other = calibration.fit_sigmoid(scores, labels, weights=weights.astype(float)), calibration.fit_sigmoid(*many)
    assert (one.slope, one.shift) == pytest.approx((other.slope, other.shift))
    assert calibration.fit_isotonic(scores, labels, weights=weights.astype(float)).rates == pytest.approx(
        calibration.fit_isotonic(*many).rates
    )


def test_log_odds_that_are_known_are_not_learnt() -> None:
    rng = np.random.default_rng(8)
    scores, offsets = rng.normal(size=100_000), rng.choice([0.0, -1.0, -3.0], 100_000)
    labels = (rng.random(100_000) < 1 / (1 + np.exp(-(1.5 * scores - 0.5 + offsets)))).astype(np.float64)
    found = calibration.fit_sigmoid(scores, labels, offsets=offsets)
    assert (found.slope, found.shift) == pytest.approx((1.5, -0.5), abs=0.05)
    silent = calibration.fit_sigmoid(np.zeros(100_000), labels, offsets=offsets)
    assert silent.slope == 0.0
    assert np.mean(calibration.sigmoid(silent.shift + offsets)) == pytest.approx(labels.mean(), abs=1e-3)
