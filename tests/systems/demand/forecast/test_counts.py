"""The model of small counts."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from tests.systems.demand.forecast.panels import weekly

from decalog.errors import DataError
from decalog.systems.demand.forecast import scores
from decalog.systems.demand.forecast.boosting import Settings, boosted
from decalog.systems.demand.forecast.counts import corrected, counted, negative_binomial
from decalog.systems.demand.forecast.panel import LEVELS, Floats, Panel, panel_of

QUICK = Settings(trees=40, learning_rate=0.1, leaves=7, rows_a_leaf=100, origins=8, stride=3, held_out=0)


def counts(n: int = 80, *, days: int = 120, seed: int = 0) -> Panel:
    """Returns days of few pieces, of which a third are promoted and sell three times as many; restless ones."""
    rng = np.random.default_rng(seed)
    promo = (rng.random((n, days)) < 0.3).astype(np.float64)
    mean = rng.uniform(0.5, 5, (n, 1)) * (1 + 2 * promo)
    y = rng.poisson(mean * rng.gamma(2.0, 0.5, mean.shape)).astype(np.float64)
    return Panel(ids=tuple(map(str, range(n))), y=y, seasons=(7,), known={"promo": promo})


def test_the_quantiles_are_those_of_what_is_drawn() -> None:
    rng = np.random.default_rng(1)
    mean, spread = np.array([0.4, 3.0, 30.0]), np.array([1.2, 3.0, 6.0])
    drawn = rng.poisson(rng.gamma(mean / (spread - 1), spread - 1, (200_000, 3)))
    assert drawn.mean(axis=0) == pytest.approx(mean, rel=0.02)
    assert drawn.var(axis=0) == pytest.approx(spread * mean, rel=0.03)
    found = negative_binomial(mean, spread)
    assert found[:, LEVELS.index(0.9)].tolist() == np.quantile(drawn, 0.9, axis=0, method="inverted_cdf").tolist()
    assert np.all(found == np.rint(found))


def test_quantiles_go_half_way_to_what_heads_say() -> None:
    quantiles = np.tile(np.arange(len(LEVELS), dtype=np.float64), (2, 1))
    at = [LEVELS.index(level) for level in (0.05, 0.1, 0.3, 0.5, 0.9, 0.99)]
    heads = quantiles[:, [at[1], at[3], at[4]]] + np.array([[0.0, 4.0, 4.0], [-8.0, 0.0, 8.0]])
    moved = corrected(quantiles, heads) - quantiles
    assert moved[:, at].tolist() == [[0, 0, 1, 2, 2, 2], [-2, -3, -2, 0, 4, 4]]
    assert np.all(np.diff(corrected(quantiles, -heads), axis=-1) >= 0)


def test_what_series_have_in_common_is_learnt() -> None:
    rng = np.random.default_rng(2)
    group, promo = np.arange(80) % 2, (rng.random((80, 120)) < 0.2).astype(np.float64)
    y = rng.poisson(4.0 * (1 + 4 * promo * group[:, None])).astype(np.float64)  # only one group heeds promotions
    panel = Panel(ids=tuple(map(str, range(80))), y=y, seasons=(7,), known={"promo": promo})
    known, actual = panel.until(113), panel.y[:, 113:]
    told = counted(QUICK, traits={"group": group.tolist()})
    assert "by group" in told.name
    blind = scores.wql(actual, counted(QUICK).forecast(known, 7).quantiles)
    assert scores.wql(actual, told.forecast(known, 7).quantiles) < blind


def test_of_small_counts_it_says_more_than_heads_and_its_intervals_hold() -> None:
    panel = counts()
    known, actual = panel.until(106), panel.y[:, 106:]
    ours = counted(QUICK).forecast(known, 14).quantiles
    theirs = boosted(QUICK).forecast(known, 14).quantiles
    assert scores.wql(actual, ours) < scores.wql(actual, theirs)
    assert 0.88 <= scores.coverage(actual, ours) <= 0.96


def test_a_promotion_is_met_by_earlier_ones() -> None:
    panel = counts()
    known = panel.until(113)
    found = counted(QUICK).forecast(known, 7).mean
    promoted = panel.known["promo"][:, 113:] > 0
    lift = np.mean([found[at][promoted[at]].mean() / found[at][~promoted[at]].mean() for at in np.flatnonzero(
        promoted.any(axis=1) & ~promoted.all(axis=1)
    )])  # fmt: skip
    assert 2.4 < lift < 3.6


def test_what_is_not_known_is_no_zero() -> None:
    panel = counts()

    def with_gaps(value: float) -> Floats:
        y = panel.y.copy()
        y[:, 94:104] = value
        return counted(QUICK).forecast(msgspec.structs.replace(panel, y=y).until(106), 14).mean

    assert np.all(np.isfinite(with_gaps(np.nan)))
    assert with_gaps(0.0).mean() < with_gaps(np.nan).mean()


def test_what_it_cannot_learn_from_is_told() -> None:
    with pytest.raises(DataError, match=r"model of counts: -3 pieces in one step.*Run `checked` first"):
        counted(QUICK).forecast(panel_of({"a": [1, -3, 2, 3]}), 1)
    with pytest.raises(DataError, match=r"model of counts: 0 rows to learn from. Expected 200 or more.*more series"):
        counted(QUICK).forecast(panel_of({"a": [1, 3, 2, 3]}), 1)
    short = msgspec.structs.replace(counts(), known={"promo": np.zeros((80, 110))})
    with pytest.raises(DataError, match=r"known column 'promo'.*Say what is planned"):
        counted(QUICK).forecast(short.until(106), 14)


def test_several_seeds_are_one_answer() -> None:
    panel = weekly(30)
    one, two = (
        counted(msgspec.structs.replace(QUICK, seeds=seeds, row_share=0.7)).forecast(panel, 7) for seeds in (1, 2)
    )
    assert one.mean == pytest.approx(two.mean, rel=0.1)
    assert np.all(one.mean != two.mean)
