"""Values against levels: exact where they can be, simulated where not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from decalog.statistics.clusters import clusters
from decalog.statistics.levels import judge_count, judge_mean, judge_rate, judge_share, silence_p_value


@pytest.mark.parametrize(("hits", "n", "level"), [(0, 20, 0.1), (3, 20, 0.1), (20, 20, 0.9), (7, 400, 0.01)])
def test_a_share_of_rows_that_stand_alone_is_binomial(hits: int, n: int, level: float) -> None:
    rows = np.zeros(n)
    rows[:hits] = 1
    alone = clusters([], n=n, where="test")
    above = judge_share(rows, rows=alone, level=level, above=True)
    below = judge_share(rows, rows=alone, level=level, above=False)
    assert above.p_value == pytest.approx(float(stats.binom.sf(hits - 1, n, level)))
    assert below.p_value == pytest.approx(float(stats.binom.cdf(hits, n, level)))
    assert above.value.value == hits / n


def test_rows_of_one_person_count_as_one() -> None:
    hits = np.array([1.0] * 50 + [0.0] * 50)
    together = clusters([1] * 50 + list(range(2, 52)), n=100, where="test")
    alone = clusters([], n=100, where="test")
    assert judge_share(hits, rows=alone, level=0.1, above=True).p_value < 1e-10
    assert judge_share(hits, rows=together, level=0.1, above=True).p_value > 0.01


def test_a_mean_needs_thirty_people_and_is_two_sided_by_half() -> None:
    values = np.random.default_rng(1).normal(1.0, 1.0, 400)
    alone = clusters([], n=400, where="test")
    above = judge_mean(values, rows=alone, level=0.8, above=True)
    below = judge_mean(values, rows=alone, level=0.8, above=False)
    assert above is not None
    assert below is not None
    assert above.p_value < 0.01
    assert above.p_value + below.p_value == pytest.approx(1.0)
    assert judge_mean(values[:29], rows=clusters([], n=29, where="test"), level=0.8, above=True) is None


def test_counts_are_poisson() -> None:
    above = judge_count(12, 1_000.0, level=0.005, above=True)
    assert above.p_value == pytest.approx(float(stats.poisson.sf(11, 5)))
    assert judge_count(0, 1_000.0, level=0.005, above=True).p_value == 1.0
    assert judge_count(0, 1_000.0, level=0.005, above=False).p_value == pytest.approx(math.exp(-5))
    assert above.value.low < 0.012 < above.value.high


def test_rates_that_are_alike_are_called_different_as_often_as_promised() -> None:
    rng = np.random.default_rng(2)
    p_values = [
        judge_rate((int(ours), 1_000), (int(theirs), 5_000), inflation=1.0).p_value
        for ours, theirs in zip(rng.poisson(50, 2_000), rng.poisson(250, 2_000), strict=True)
    ]
    assert 0.03 < float(np.mean(np.array(p_values) < 0.05)) < 0.07
    change = judge_rate((100, 1_000), (250, 5_000), inflation=1.0)
    assert change.value.value == pytest.approx(1.0)
    assert change.p_value < 1e-6 < judge_rate((100, 1_000), (250, 5_000), inflation=25.0).p_value


def test_silence_where_much_is_expected_is_no_chance() -> None:
    assert silence_p_value(10.0, inflation=1.0) == pytest.approx(math.exp(-10))
    assert silence_p_value(10.0, inflation=5.0) == pytest.approx(math.exp(-2))
