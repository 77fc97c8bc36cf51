from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from decalog.errors import DataError
from decalog.quantity_metrics import Quantities, levels_of, over_groups, pinball, usual_of
from decalog.systems.demand.metrics import METRICS
from decalog.systems.demand.schema import HEADS, LEVELS


def rows(n: int = 300, *, seed: int = 0, **more: Any) -> Quantities:
    """Returns Poisson demand of mean 20 with its true quantiles, and shelves of 24."""
    from scipy.stats import poisson

    rng = np.random.default_rng(seed)
    came = rng.poisson(20, n).astype(np.float64)
    said = np.tile([20.0, *poisson.ppf(LEVELS, 20)], (n, 1))
    columns: dict[str, Any] = {
        "labels": came,
        "bounds": np.zeros(n, np.bool_),
        "expected": came,
        "drawn": came,
        "predictions": said,
        "chosen": np.full(n, 20.0),
        "worth": came,
        "groups": np.arange(n) % 30,
        "times": np.arange(n),
        "facts": tuple({"on_hand": 3, "on_order": 1} for _ in range(n)),
    }
    return Quantities(heads=HEADS, **(columns | more))


def measured(name: str, of: Quantities) -> float:
    return next(metric for metric in METRICS if metric.name == name).compute(of).value


def test_the_pinball_loss_is_that_of_its_definition() -> None:
    made = rows(2)
    for place in range(2):
        y, quantiles = made.drawn[place], made.predictions[place, 1:]
        losses = [
            level * (y - q) if y >= q else (1 - level) * (q - y) for level, q in zip(LEVELS, quantiles, strict=True)
        ]
        assert pinball(made)[place] == pytest.approx(2 * np.mean(losses))


def test_the_true_distribution_scores_better_than_any_other() -> None:
    made = rows(4_000)
    for factor in (0.8, 1.25):
        other = rows(4_000, predictions=made.predictions * factor)
        assert measured("scaled_crps", made) < measured("scaled_crps", other)
    assert abs(measured("bias_in_stock", made)) < 0.01
    assert measured("coverage_80", made) == pytest.approx(0.8, abs=0.03)


def test_what_shoppers_find_follows_from_what_was_there() -> None:
    made = rows(1_000)
    held = 24
    assert measured("service_level", made) == pytest.approx(np.mean(made.drawn <= held))
    assert measured("fill_rate", made) == pytest.approx(np.minimum(made.drawn, held).sum() / made.drawn.sum())
    assert measured("left_over", made) == pytest.approx(np.maximum(held - made.drawn, 0).sum() / made.drawn.sum())
    assert measured("lost_sales_per_1000", made) == pytest.approx(1_000 * np.maximum(made.drawn - held, 0).mean())
    assert measured("profit_per_1000", made) == pytest.approx(1_000 * made.worth.mean())


def test_biases_are_told_apart_by_whether_it_sold_out() -> None:
    made = rows(200)
    bounds = np.arange(200) < 50
    expected = np.where(bounds, 40.0, 20.0)
    told = rows(200, bounds=bounds, expected=expected, labels=np.where(bounds, 10.0, 20.0))
    assert measured("bias_in_stock", told) == pytest.approx(0.0)
    assert measured("bias_sold_out", told) == pytest.approx(-0.5)
    with pytest.raises(DataError, match="Expected a request that counts"):
        measured("bias_sold_out", made)


def test_an_interval_is_of_groups_and_wider_where_they_hang_together() -> None:
    n = 300
    apart = rows(n, worth=np.random.default_rng(1).normal(5, 2, n))
    together = rows(
        n, worth=np.repeat(np.random.default_rng(1).normal(5, 2, 30), 10), groups=np.repeat(np.arange(30), 10)
    )
    told = [over_groups(lambda one: (one.worth, np.ones(one.n)))(of) for of in (apart, together)]
    assert told[1].high - told[1].low > 2 * (told[0].high - told[0].low)


def test_a_row_of_which_nothing_is_known_does_not_count() -> None:
    made = rows(10)
    hidden = rows(10, drawn=np.where(np.arange(10) < 5, np.nan, made.drawn))
    assert over_groups(lambda one: (one.drawn, np.ones(one.n)))(hidden).n == 5
    with pytest.raises(DataError, match="Expected at least one request"):
        over_groups(lambda one: (one.drawn, np.ones(one.n)))(made.take(np.zeros(10, np.bool_)))


def test_a_quantile_that_no_head_has_is_named() -> None:
    with pytest.raises(DataError, match=r"Expected a head of the level 0\.33"):
        rows(3).quantile(0.33)
    assert levels_of(HEADS).tolist() == list(LEVELS)


def test_what_is_usual_is_the_mean_of_the_group() -> None:
    found = usual_of(np.array([2.0, np.nan, 4.0, 9.0, np.nan]), np.array([1, 1, 1, 2, 3]))
    assert found.tolist() == [3.0, 3.0, 3.0, 9.0, 0.0]
