from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array

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
from decalog.systems.demand.forecast.panel import LEVELS, Floats, Forecast, Panel, panel_of
from decalog.systems.demand.forecast.sparse import dense

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


def as_dense(hierarchy: Hierarchy) -> Hierarchy:
    """Returns the same hierarchy with its sums as a dense matrix."""
    return Hierarchy(dense(hierarchy.sums), hierarchy.levels)


HOWS: tuple[How, ...] = ("bottom_up", "ols", "structural", "wls", "mint")


@pytest.mark.parametrize("hierarchy", [tree(), as_dense(tree())], ids=["sparse", "dense"])
@pytest.mark.parametrize("how", HOWS)
def test_reconciled_forecasts_add_up_and_coherent_ones_stay(how: How, hierarchy: Hierarchy) -> None:
    rng = np.random.default_rng(0)
    by = projection(hierarchy, how, errors=rng.standard_normal((40, 8)))
    assert by @ as_dense(tree()).sums == pytest.approx(np.eye(3))
    after = hierarchy.together(by @ rng.uniform(1, 9, (8, 2)))
    assert after == pytest.approx(hierarchy.sums @ after[-3:])


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_sparse_sums_are_reconciled_as_dense_ones_to_rounding(how: How, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = {level: list(map(str, rng.integers(0, count, 60))) for level, count in (("a", 4), ("b", 9), ("c", 25))}
    panel = Panel(ids=tuple(map(str, range(60))), y=rng.poisson(5.0, (60, 30)).astype(float))
    whole, hierarchy = summed(panel, labels)
    errors = rng.standard_normal((50, len(whole.ids))) * rng.lognormal(0, 2, len(whole.ids))
    errors[:5, :7] = np.nan
    base, draws = rng.uniform(0, 50, (len(whole.ids), 6)), rng.uniform(0, 50, (4, len(whole.ids), 6))
    ours, theirs = (projection(one, how, errors=errors) for one in (hierarchy, as_dense(hierarchy)))
    assert ours @ base == pytest.approx(theirs @ base, rel=1e-9, abs=1e-9)
    assert ours @ draws == pytest.approx(theirs @ draws, rel=1e-9, abs=1e-9)
    made, other = (coherent(draws, one, by=by) for one, by in ((hierarchy, ours), (as_dense(hierarchy), theirs)))
    assert made == pytest.approx(other, rel=1e-9, abs=1e-9)
    assert whole.y == pytest.approx(dense(hierarchy.sums) @ panel.y)


def test_a_variance_is_of_the_times_that_its_series_has() -> None:
    errors = np.random.default_rng(4).standard_normal((30, 8)) * np.arange(1, 9)
    gaps = errors.copy()
    gaps[np.arange(8), np.arange(8)] = np.nan
    base = np.arange(8.0)[:, None]
    expected = textbook(as_dense(tree()), np.diag(np.nanvar(gaps, axis=0, ddof=1))) @ base
    assert projection(tree(), "wls", errors=gaps) @ base == pytest.approx(expected)


def test_ten_thousand_series_in_four_levels() -> None:
    rng = np.random.default_rng(5)
    at = np.arange(10_000)
    labels = {"store": [f"s{one}" for one in at % 100], "item": [f"i{one}" for one in at // 100]}
    labels["both"] = [f"{store}/{int(item[1:]) % 10}" for store, item in zip(*labels.values(), strict=True)]
    panel = Panel(ids=tuple(map(str, at)), y=rng.poisson(3.0, (len(at), 4)).astype(float))
    whole, hierarchy = summed(panel, labels)
    assert hierarchy.upper == 1 + 100 + 100 + 1_000
    base = whole.y + rng.standard_normal(whole.y.shape)
    for how in HOWS[:3]:
        after = hierarchy.together(projection(hierarchy, how) @ base)
        assert after == pytest.approx(hierarchy.sums @ after[hierarchy.upper :])
    with pytest.raises(DataError, match=r"reconciliation by 'mint': 11,201 series.*5,000 or fewer.*by 'wls'"):
        projection(hierarchy, "mint", errors=rng.standard_normal((9, len(whole.ids))))


def textbook(hierarchy: Hierarchy, spread: Floats) -> Floats:
    inverse = np.linalg.inv(spread)
    return np.asarray(np.linalg.inv(hierarchy.sums.T @ inverse @ hierarchy.sums) @ hierarchy.sums.T @ inverse)


@pytest.mark.parametrize("hierarchy", [tree(), as_dense(tree())], ids=["sparse", "dense"])
def test_projections_are_those_of_the_textbook(hierarchy: Hierarchy) -> None:
    every, known = np.eye(8), as_dense(tree())
    errors = np.random.default_rng(1).standard_normal((30, 8)) * np.arange(1, 9)
    assert projection(hierarchy, "ols") @ every == pytest.approx(textbook(known, every))
    assert projection(hierarchy, "structural") @ every == pytest.approx(
        textbook(known, np.diag(known.sums.sum(axis=1)))
    )
    variances = np.diag(errors.var(axis=0, ddof=1))
    assert projection(hierarchy, "wls", errors=errors) @ every == pytest.approx(textbook(known, variances))


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
    with pytest.raises(DataError, match=r"hierarchy, sums: 2 × 2 sums"):
        Hierarchy(csr_array(np.array([[1.0, 1.0], [1.0, 0.0]])), ("top", "series"))
    with pytest.raises(DataError, match=r"errors of 1 times at which the series that has fewest has one"):
        projection(tree(), "wls", errors=np.ones((1, 8)))
    with pytest.raises(DataError, match=r"errors of 0 times at which every series has one.*reconcile by 'ols'"):
        projection(tree(), "mint")
    forecast = Forecast(np.zeros((8, 5)), np.zeros((8, 5, len(LEVELS))))
    with pytest.raises(DataError, match=r"joint draws: errors of 3 times for a horizon of 5.*longer history"):
        error_paths(forecast, np.zeros((3, 8)), draws=1)
