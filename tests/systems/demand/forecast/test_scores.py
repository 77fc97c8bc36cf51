"""Known answers, and the libraries' own formulas where they are installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.systems.demand.forecast.panels import weekly

from decalog.errors import DataError
from decalog.systems.demand.forecast import scores
from decalog.systems.demand.forecast.frames import columns_of
from decalog.systems.demand.forecast.naive import seasonal_naive
from decalog.systems.demand.forecast.panel import LEVELS, NORMAL, Forecast, season_errors

ACTUAL = np.array([[10.0, 20.0], [0.0, np.nan]])
MEAN = np.array([[8.0, 25.0], [1.0, 7.0]])


def test_of_counts_an_end_of_the_interval_counts_in_part() -> None:
    from scipy.stats import nbinom, poisson

    rng = np.random.default_rng(3)
    for law in (poisson(0.4), poisson(3.0), nbinom(2, 0.4), nbinom(0.5, 0.2)):
        actual = law.rvs(size=(40, 500), random_state=rng).astype(float)
        quantiles = np.broadcast_to(law.ppf(LEVELS), (40, 500, len(LEVELS)))
        assert scores.coverage(actual, quantiles) > 0.91
        assert scores.coverage_of_counts(actual, quantiles) == pytest.approx(0.9, abs=0.015)
        narrow = np.broadcast_to(law.ppf(0.5 + 0.8 * (np.array(LEVELS) - 0.5)), quantiles.shape)
        assert scores.coverage_of_counts(actual, narrow) < 0.87


def test_counts_are_covered_alike_at_the_levels_that_a_forecast_was_asked_for() -> None:
    from scipy.stats import poisson

    rng, law = np.random.default_rng(6), poisson(4.0)
    actual = law.rvs(size=(40, 500), random_state=rng).astype(float)
    levels = (0.05, *(round(0.1 * step, 1) for step in range(1, 10)), 0.95)
    asked = np.full((40, 500, len(LEVELS)), np.nan)
    places = [LEVELS.index(level) for level in levels]
    asked[..., places] = law.ppf(levels)
    assert scores.coverage_of_counts(actual, asked, levels=levels) == pytest.approx(0.9, abs=0.02)


def test_of_what_is_no_count_both_coverages_are_one() -> None:
    rng = np.random.default_rng(4)
    actual = rng.normal(size=(20, 200))
    actual[0, 0] = np.nan
    quantiles = np.broadcast_to(NORMAL, (20, 200, len(LEVELS)))
    assert scores.coverage_of_counts(actual, quantiles) == scores.coverage(actual, quantiles)


def test_known_answers_of_point_scores() -> None:
    assert scores.mae(ACTUAL, MEAN) == pytest.approx(8 / 3)
    assert scores.mape(ACTUAL, MEAN) == pytest.approx(22.5)
    assert scores.smape(ACTUAL, MEAN) == pytest.approx(100 * ((4 / 18 + 10 / 45) / 2 + 2) / 2)
    assert scores.mase(ACTUAL, MEAN, scale=np.array([2.0, 4.0])) == pytest.approx((3.5 / 2 + 1 / 4) / 2)
    assert scores.bias(ACTUAL, MEAN) == pytest.approx((-2 + 5 + 1) / 30)
    assert scores.owa((9.0, 0.8), (18.0, 2.0)) == pytest.approx(0.45)


def test_rmsse_counts_from_the_first_sale_and_a_still_series_weighs_nothing() -> None:
    train = np.array([[0.0, 0.0, 4.0, 6.0, 6.0], [5.0, 5.0, 5.0, 5.0, 5.0]])
    each = scores.rmsse(np.array([[7.0], [5.0]]), np.array([[5.0], [4.0]]), train=train)
    assert each[0] == pytest.approx(np.sqrt(4 / 2))
    assert np.isnan(each[1])
    assert scores.wrmsse(each, weights=np.array([3.0, 5.0])) == pytest.approx(each[0])


def test_quantile_scores_of_a_uniform_forecast() -> None:
    quantiles = np.broadcast_to(np.array(LEVELS), (1, 2, len(LEVELS)))
    actual = np.array([[0.5, 0.99]])
    assert scores.coverage(actual, quantiles) == 0.5
    assert scores.interval_score(actual, quantiles) == pytest.approx(0.9 + 20 * 0.04 / 2)
    losses = [max(q * (y - q), (q - 1) * (y - q)) for y in (0.5, 0.99) for q in scores.CRPS_LEVELS]
    assert scores.wql(actual, quantiles) == pytest.approx(2 * np.sum(losses) / 19 / 1.49)
    assert scores.scaled_crps(actual, quantiles, groups=("top",)) == pytest.approx(scores.wql(actual, quantiles))


def test_the_scaled_crps_is_a_mean_over_levels_of_the_hierarchy() -> None:
    quantiles = np.zeros((3, 1, len(LEVELS)))
    actual = np.array([[10.0], [4.0], [6.0]])
    each = scores.wql(actual, quantiles)
    assert scores.scaled_crps(actual, quantiles, groups=("top", "bottom", "bottom")) == pytest.approx(each)
    quantiles[0] = 10.0
    assert scores.scaled_crps(actual, quantiles, groups=("top", "bottom", "bottom")) == pytest.approx(each / 2)


def test_a_level_that_no_forecast_has_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"score of quantiles: level 0.2\d+. Expected levels of a forecast: 0.01, .* Score at those"
    ):
        scores.coverage(ACTUAL, np.zeros((2, 2, len(LEVELS))), nominal=0.57)


def told() -> tuple[Any, Forecast, Any]:
    panel = weekly(5)
    known, actual = panel.until(133), panel.y[:, 133:]
    return known, seasonal_naive().forecast(known, 7), actual


def test_utilsforecast_finds_the_same() -> None:
    losses = pytest.importorskip(
        "utilsforecast.losses", reason="utilsforecast is not installed: nothing to compare with"
    )
    pd = pytest.importorskip("pandas", reason="pandas is not installed: utilsforecast is given no frame")
    panel, forecast, actual = told()
    frame = pd.DataFrame(columns_of(panel, {"ours": forecast}) | {"y": actual.ravel()})
    train = pd.DataFrame(
        {
            "unique_id": np.repeat(np.array(panel.ids), panel.y.shape[1]),
            "ds": np.tile(np.arange(panel.y.shape[1]), len(panel.ids)),
            "y": panel.y.ravel(),
        }
    )
    names = [f"ours_q{level:g}" for level in scores.CRPS_LEVELS]

    def mean(found: Any) -> float:
        return float(found["ours"].mean())

    assert scores.mase(actual, forecast.mean, scale=season_errors(panel)) == pytest.approx(
        mean(losses.mase(frame, ["ours"], seasonality=7, train_df=train))
    )
    assert scores.smape(actual, forecast.mean) == pytest.approx(200 * mean(losses.smape(frame, ["ours"])))
    assert scores.mape(actual, forecast.mean) == pytest.approx(100 * mean(losses.mape(frame, ["ours"])))
    assert scores.coverage(actual, forecast.quantiles) == pytest.approx(
        mean(losses.coverage(frame, ["ours"], level=90))
    )
    assert scores.interval_score(actual, forecast.quantiles) == pytest.approx(
        mean(losses.winkler_score(frame, ["ours"], level=90))
    )
    each = losses.scaled_crps(frame, {"ours": names}, quantiles=np.array(scores.CRPS_LEVELS))
    ours = [scores.wql(actual[[at]], forecast.quantiles[[at]]) for at in range(5)]
    assert np.mean(ours) == pytest.approx(mean(each))
    steps = scores.rmsse(actual, forecast.mean, train=panel.y)
    assert np.mean(steps) == pytest.approx(mean(losses.rmsse(frame, ["ours"], seasonality=1, train_df=train)))


def test_scoringrules_finds_the_same() -> None:
    rules = pytest.importorskip("scoringrules", reason="scoringrules is not installed: nothing to compare with")
    _, forecast, actual = told()
    theirs = rules.crps_quantile(actual, forecast.quantiles, np.array(LEVELS))
    assert 2 * scores.pinball(actual, forecast.quantiles).mean(axis=-1) == pytest.approx(theirs)
    low, high = forecast.at(0.05), forecast.at(0.95)
    assert scores.interval_score(actual, forecast.quantiles) == pytest.approx(
        np.mean(rules.interval_score(actual, low, high, 0.1))
    )
