"""Columns are checked, rows hang together by entity, and intervals cover what they say."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy import stats

from decalog.errors import DataError
from decalog.metrics import Floats, Int64s, Measurement
from decalog.statistics.clusters import Clustered, clusters, ratio, share, unseen, within
from decalog.statistics.columns import column
from decalog.statistics.distributions import (
    chi_squared_tail,
    kolmogorov_tail,
    log_gamma,
    normal_quantile,
    normal_tail,
    t_quantile,
    t_tail,
)

ALONE: Int64s = np.empty(0, np.int64)


def test_tails_and_quantiles_are_those_of_scipys_distributions() -> None:
    assert normal_quantile(0.9) == pytest.approx(stats.norm.ppf(0.9), rel=1e-12)
    assert normal_tail(-2.5) == pytest.approx(2 * stats.norm.sf(2.5), rel=1e-12)
    assert t_quantile(0.975, 3.5) == pytest.approx(stats.t.ppf(0.975, 3.5), rel=1e-9)
    assert t_tail(-1.7, 3.5) == pytest.approx(2 * stats.t.sf(1.7, 3.5), rel=1e-9)
    np.testing.assert_allclose(chi_squared_tail([3.0, 9.0, 5.0], [1, 4, 0]), [*stats.chi2.sf([3, 9], [1, 4]), 1.0])
    np.testing.assert_allclose(kolmogorov_tail([0.5, 1.2]), stats.kstwobign.sf([0.5, 1.2]))
    np.testing.assert_allclose(log_gamma([1.0, 5.0]), [0.0, np.log(24)], atol=1e-12)


@pytest.mark.parametrize(
    ("values", "given", "expected"),
    [
        ([[1.0]], "an array of shape (1, 1)", "2 numbers, one a row"),
        ([1.0], "an array of shape (1,)", "2 numbers, one a row"),
        ([1.0, np.nan], "1 of 2 values that are not", "finite numbers in [0, 2]"),
        ([np.inf, 3.0], "2 of 2 values that are not", "finite numbers in [0, 2]"),
        ([-1.0, 0.0], "1 of 2 values that are not", "finite numbers in [0, 2]"),
    ],
)
def test_a_column_that_is_none_is_told_by_name(values: list[float], given: str, expected: str) -> None:
    with pytest.raises(DataError, match=re.escape(given)) as caught:
        column(values, "a test, rewards", low=0.0, high=2.0, n=2)
    assert "a test, rewards" in str(caught.value)
    assert expected in str(caught.value)


def test_an_empty_column_is_none() -> None:
    with pytest.raises(DataError, match="at least one numbers, one a row"):
        column([], "a test")


def test_rows_of_one_entity_are_a_cluster_and_rows_without_one_are_alone() -> None:
    found = clusters([7, -1, 7, -1, 3], n=5, where="a test")
    assert found.count == 4
    sums = found.sums(np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert sorted(sums.tolist()) == [2.0, 4.0, 4.0, 5.0]
    assert clusters([], n=3, where="a test").sums(np.array([1.0, 2.0, 3.0])).tolist() == [1.0, 2.0, 3.0]
    with pytest.raises(DataError, match="an array of shape"):
        clusters([1, 2], n=3, where="a test, entities")


def test_clusters_of_equal_mass_count_one_each_and_a_heavy_one_for_all() -> None:
    rows = clusters([0, 0, 1, 1, 2, 2], n=6, where="a test")
    assert rows.effective(np.ones(6)) == pytest.approx(3.0)
    assert rows.effective(np.array([1e9, 0, 1, 0, 1, 0])) == pytest.approx(1.0)


def test_an_influence_is_what_leaving_out_the_cluster_changes() -> None:
    rng = np.random.default_rng(3)
    above, below = rng.normal(size=20), rng.uniform(0.5, 2, size=20)
    entities = rng.integers(6, size=20)
    found = ratio(above, below, rows=clusters(entities, n=20, where=""), where="")
    assert found.value == pytest.approx(above.sum() / below.sum())
    for entity, influence in enumerate(found.influences):
        rest = entities != entity
        assert found.value - above[rest].sum() / below[rest].sum() == pytest.approx(influence, rel=1e-9)


def test_a_ratio_needs_two_clusters_below() -> None:
    with pytest.raises(DataError, match="at least two entities"):
        ratio(np.ones(3), np.array([1.0, 1.0, 0.0]), rows=clusters([4, 4, 5], n=3, where=""), where="a test")


def test_the_interval_of_normal_means_is_about_students() -> None:
    rows = np.random.default_rng(5).normal(10, 2, size=400)
    found = ratio(rows, np.ones(400), rows=clusters(ALONE, n=400, where=""), where="").measured()
    half = stats.t.ppf(0.975, 399) * rows.std(ddof=1) / 20
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.02)


def test_values_that_do_not_vary_have_no_spread_and_are_only_what_they_are() -> None:
    flat = ratio(np.ones(5), np.ones(5), rows=clusters(ALONE, n=5, where=""), where="")
    assert flat.measured() == Measurement(1.0, 1.0, 1.0, 5)
    assert (flat.p_value(1.0), flat.p_value(0.9), flat.contributions) == (1.0, 0.0, 0.0)


def test_p_value_and_interval_are_of_one_reckoning() -> None:
    rows = np.random.default_rng(7).lognormal(sigma=1.2, size=80)
    found = ratio(rows, np.ones(80), rows=clusters(ALONE, n=80, where=""), where="")
    measured = found.measured()
    assert found.p_value(measured.low) == pytest.approx(0.05, abs=1e-6)
    assert found.p_value(measured.high) == pytest.approx(0.05, abs=1e-6)


def test_a_spread_that_rests_on_three_rows_says_so() -> None:
    rows = np.zeros(10_000)
    rows[:3] = 1.0
    found = ratio(rows, np.ones(10_000), rows=clusters(ALONE, n=10_000, where=""), where="")
    assert found.contributions == pytest.approx(3.0, abs=0.01)


def test_a_spread_of_four_rows_has_the_quantile_of_few_degrees_of_freedom() -> None:
    rows = np.zeros(1_000)
    rows[:4] = (1.0, -1.0, 1.0, -1.0)
    found = ratio(rows, np.ones(1_000), rows=clusters(ALONE, n=1_000, where=""), where="").measured()
    # κ = n Σu⁴ / (Σu²)² = 250, and 2 n / (κ − 1) is eight where n − 1 would be all but normal.
    half = float(stats.t.ppf(0.975, 2_000 / 249)) * float(np.sqrt(4 / (999 * 1_000)))
    assert (found.low, found.high) == pytest.approx((-half, half), rel=1e-6)


def test_what_two_values_share_cancels_in_their_difference() -> None:
    rng = np.random.default_rng(9)
    shared, own = rng.normal(size=500) * 100, rng.normal(size=500)
    rows = clusters(ALONE, n=500, where="")
    one, other = (ratio(x, np.ones(500), rows=rows, where="") for x in (shared + own + 1, shared))
    lift = one.minus(other).measured()
    assert lift.low < 1.0 < lift.high
    assert lift.high - lift.low < 0.25


def covered(draw: list[Floats], truth: float, entities: Int64s) -> float:
    hits = 0
    for values in draw:
        rows = clusters(entities, n=len(values), where="")
        found = ratio(values, np.ones(len(values)), rows=rows, where="").measured()
        hits += found.low <= truth <= found.high
    return hits / len(draw)


def test_intervals_cover_means_of_skewed_rows() -> None:
    rng = np.random.default_rng(11)
    draws = [rng.lognormal(sigma=1.5, size=100) for _ in range(1_000)]
    # Student's own interval covers 88 % here.
    assert covered(draws, float(np.exp(1.5**2 / 2)), ALONE) > 0.90


def test_intervals_cover_means_of_rows_that_hang_together_only_when_told_so() -> None:
    rng = np.random.default_rng(13)
    entities = np.repeat(np.arange(40), 25)
    draws = [rng.normal(size=40)[entities] + rng.normal(size=1_000) for _ in range(500)]
    assert 0.92 < covered(draws, 0.0, entities) < 0.98
    assert covered(draws, 0.0, ALONE) < 0.6


def test_a_share_of_rows_that_all_agree_is_not_certain() -> None:
    none = share(np.zeros(50), np.ones(50), rows=clusters(ALONE, n=50, where=""))
    assert (none.value, none.low) == (0.0, 0.0)
    assert 0.02 < none.high < 0.2
    alone = share(np.array([1.0, 0.0]), np.ones(2), rows=clusters([5, 5], n=2, where=""))
    assert (alone.value, alone.low, alone.high) == (0.5, 0.0, 1.0)


def test_what_might_have_come_widens_an_interval_and_bounds_cut_it() -> None:
    assert unseen(0.25, None, effective=10) == ()
    assert unseen(0.25, (0.0, 1.0), effective=10) == pytest.approx((-0.025, 0.075))
    told = Clustered(0.01, np.zeros(10), 10)
    assert told.measured().high == 0.01
    assert told.measured(unseen(0.01, (0.0, 1.0), effective=10)).high > 0.1
    assert within(Measurement(0.5, -0.1, 1.2, 3), (0.0, 1.0)) == Measurement(0.5, 0.0, 1.0, 3)
    assert within(Measurement(1.1, 0.4, 1.8, 3), (0.0, 1.0)) == Measurement(1.1, 0.4, 1.1, 3)
    assert within(Measurement(0.5, -0.1, 1.2, 3), None) == Measurement(0.5, -0.1, 1.2, 3)


def test_a_difference_of_groups_that_share_nobody_has_the_errors_of_both() -> None:
    rng = np.random.default_rng(5)
    missed = 0
    for _ in range(400):
        one, other = (
            ratio(rng.exponential(size=n), np.ones(n), rows=clusters([], n=n, where=""), where="") for n in (80, 200)
        )
        found = other.beyond(one).measured()
        missed += not found.low <= 0 <= found.high
        assert found.value == pytest.approx(other.value - one.value)
        assert found.n == 280
    assert 10 <= missed <= 32, missed
