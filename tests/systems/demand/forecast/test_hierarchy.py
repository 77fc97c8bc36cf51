from __future__ import annotations

import numpy as np
import pytest

from decalog.errors import DataError
from decalog.systems.demand.forecast.hierarchy import (
    Hierarchy,
    How,
    coherent,
    error_paths,
    forecast_of,
    projection,
    rank_paths,
    summed,
)
from decalog.systems.demand.forecast.panel import LEVELS, Floats, Forecast, panel_of

STORES, KINDS = ("north", "north", "south"), ("milk", "bread", "milk")


def tree() -> Hierarchy:
    bottom = panel_of({"a": [1, 2, 3], "b": [np.nan, 5, 6], "c": [7, np.nan, 9]})
    return summed(bottom, {"store": STORES, "kind": KINDS})[1]


def test_sums_stand_above_and_gaps_go_up() -> None:
    panel, hierarchy = summed(
        panel_of({"a": [1, 2, 3], "b": [np.nan, 5, 6], "c": [7, np.nan, 9]}), {"store": STORES, "kind": KINDS}
    )
    assert panel.ids == ("total/all", "store/north", "store/south", "kind/milk", "kind/bread", "a", "b", "c")
    assert hierarchy.levels == ("total", "store", "store", "kind", "kind", "series", "series", "series")
    np.testing.assert_array_equal(panel.y[0], [8, np.nan, 18])
    np.testing.assert_array_equal(panel.y[1], [1, 7, 9])
    np.testing.assert_array_equal(panel.y[4], [np.nan, 5, 6])


@pytest.mark.parametrize("how", ["bottom_up", "ols", "wls", "mint"])
def test_reconciled_forecasts_add_up_and_coherent_ones_stay(how: How) -> None:
    hierarchy = tree()
    rng = np.random.default_rng(0)
    by = projection(hierarchy, how, errors=rng.standard_normal((40, 8)))
    assert by @ hierarchy.sums == pytest.approx(np.eye(3))
    after = hierarchy.together(by @ rng.uniform(1, 9, (8, 2)))
    assert after == pytest.approx(hierarchy.sums @ after[-3:])


def textbook(hierarchy: Hierarchy, spread: Floats) -> Floats:
    inverse = np.linalg.inv(spread)
    return np.asarray(np.linalg.inv(hierarchy.sums.T @ inverse @ hierarchy.sums) @ hierarchy.sums.T @ inverse)


def test_projections_are_those_of_the_textbook() -> None:
    hierarchy = tree()
    errors = np.random.default_rng(1).standard_normal((30, 8)) * np.arange(1, 9)
    assert projection(hierarchy, "ols") == pytest.approx(textbook(hierarchy, np.eye(8)))
    variances = np.diag(errors.var(axis=0, ddof=1))
    assert projection(hierarchy, "wls", errors=errors) == pytest.approx(textbook(hierarchy, variances))


def test_mint_trusts_what_errs_less() -> None:
    hierarchy = tree()
    errors = np.random.default_rng(2).standard_normal((500, 8)) * np.r_[0.01, np.ones(7)]
    base = np.r_[30.0, np.full(7, 5.0)]
    after = hierarchy.together((projection(hierarchy, "mint", errors=errors) @ base)[:, None])
    assert after[0, 0] == pytest.approx(30.0, abs=0.1)


def test_draws_add_up_keep_the_spread_and_go_together() -> None:
    hierarchy = tree()
    rng = np.random.default_rng(3)
    shared = rng.standard_normal(300)
    errors = shared[:, None] + 0.3 * rng.standard_normal((300, 8))
    quantiles = np.linspace(50, 100, len(LEVELS)) + np.zeros((8, 4, 1))
    forecast = Forecast(quantiles.mean(axis=-1), quantiles)
    paths = rank_paths(forecast, errors, draws=400)
    assert np.quantile(paths, 0.5, axis=0) == pytest.approx(forecast.at(0.5), abs=0.5)
    assert np.corrcoef(paths[:, 0, 0], paths[:, 7, 0])[0, 1] > 0.8
    after = coherent(paths, hierarchy, by=projection(hierarchy, "ols"))
    assert np.all(after >= 0)
    made = forecast_of(after)
    assert made.mean == pytest.approx(hierarchy.sums @ made.mean[-3:])
    # What goes together spreads a sum as far as its parts; what does not, less.
    alone = coherent(
        rank_paths(forecast, rng.standard_normal((300, 8)), draws=400), hierarchy, by=projection(hierarchy, "bottom_up")
    )
    wide = coherent(paths, hierarchy, by=projection(hierarchy, "bottom_up"))
    assert np.std(wide[:, 0]) > 1.3 * np.std(alone[:, 0])


def test_error_paths_go_around_the_mean() -> None:
    forecast = Forecast(np.full((2, 3), 10.0), np.zeros((2, 3, len(LEVELS))))
    paths = error_paths(forecast, np.arange(10.0).reshape(5, 2), draws=50)
    assert {tuple(draw.ravel()) for draw in paths} == {
        tuple(10 + np.array([[at, at + 2, at + 4], [at + 1, at + 3, at + 5]]).ravel()) for at in (0, 2, 4)
    }


def test_what_cannot_be_reconciled_is_told() -> None:
    with pytest.raises(DataError, match=r"hierarchy, sums: 2 × 2 sums whose last 2 rows .* Order the rows so"):
        Hierarchy(np.array([[1.0, 1.0], [1.0, 0.0]]), ("top", "series"))
    with pytest.raises(DataError, match=r"errors of 0 times at which every series has one.*reconcile by 'ols'"):
        projection(tree(), "mint")
    forecast = Forecast(np.zeros((8, 5)), np.zeros((8, 5, len(LEVELS))))
    with pytest.raises(DataError, match=r"joint draws: errors of 3 times for a horizon of 5.*longer history"):
        error_paths(forecast, np.zeros((3, 8)), draws=1)
