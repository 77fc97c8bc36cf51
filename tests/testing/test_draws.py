"""Keyed chance: known answers, right distributions, and independence of one thing's draws from another's."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from decalog.testing import draws

KEYS = draws.child(draws.root("test"), np.arange(20_000))


def test_the_mixer_is_that_of_splitmix64() -> None:
    """The first two numbers of the reference generator from seed 0."""
    states = np.array([0x9E3779B97F4A7C15, 0x3C6EF372FE94F82A], dtype=np.uint64)
    assert [hex(value) for value in draws.mix(states).tolist()] == ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4"]


def test_children_are_where_the_reference_generator_goes() -> None:
    assert draws.child(np.zeros(1, dtype=np.uint64), 1).tolist() == [0x6E789E6AA1B965F4]


def test_a_draw_belongs_to_its_key_and_name_alone() -> None:
    alone = draws.uniform(KEYS[7:8], "amount")[0]
    assert alone == draws.uniform(KEYS, "amount")[7]
    assert alone != draws.uniform(KEYS, "hour")[7]


@pytest.mark.parametrize("name", ["amount", "hour"])
def test_uniform_and_normal_draws_pass_kolmogorov_and_smirnov(name: str) -> None:
    assert scipy.stats.kstest(draws.uniform(KEYS, name), "uniform").pvalue > 0.001
    assert scipy.stats.kstest(draws.normal(KEYS, name), "norm").pvalue > 0.001


def test_draws_of_two_names_and_of_neighbours_do_not_correlate() -> None:
    one, other = draws.uniform(KEYS, "amount"), draws.uniform(KEYS, "hour")
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.03
    assert abs(np.corrcoef(one[1:], one[:-1])[0, 1]) < 0.03


@pytest.mark.parametrize("rate", [0.0, 0.6, 4.0])
def test_poisson_counts_are_the_inverse_of_the_distribution_function(rate: float) -> None:
    expected = np.minimum(scipy.stats.poisson(rate).ppf(draws.uniform(KEYS, "count")), 16)
    assert (draws.poisson(KEYS, "count", rate=np.full(len(KEYS), rate)) == expected).all()


def test_integers_below_a_bound_are_even() -> None:
    counts = np.bincount(draws.below(KEYS, "die", bound=6), minlength=6)
    assert len(counts) == 6
    assert scipy.stats.chisquare(counts).pvalue > 0.001
