from __future__ import annotations

import datetime as dt

import numpy as np
import pytest

from decalog.errors import DataError
from decalog.systems.demand.drivers import SHRUNK, Days
from decalog.systems.demand.latent import Ints, Latent, Seen, latent

N, DAYS, HOURS = 60, 120, 12
SHAPE = 10.0


def wanted(seed: int = 0, mean: float = 12.0) -> Ints:
    rng = np.random.default_rng(seed)
    level = mean * np.exp(0.5 * rng.normal(size=(N, 1)))
    share = np.array([1, 1, 2, 3, 3, 2, 1, 1, 2, 4, 4, 2]) / 26
    luck = rng.gamma(SHAPE, 1 / SHAPE, size=(N, DAYS, 1))
    return np.asarray(rng.poisson(level[:, :, None] * luck * share))


def seen_of(units: Ints, stock: Ints) -> Seen:
    through = np.minimum(np.cumsum(units, axis=2), stock[:, :, None])
    return Seen(
        units=np.diff(through, axis=2, prepend=0),
        empty=through >= stock[:, :, None],
        known=np.ones(units.shape[:2], np.bool_),
        kinds=np.zeros(N, np.int64),
        factors={"series": np.repeat(np.arange(N)[:, None], DAYS, axis=1)},
    )


def tight(units: Ints, share: float = 0.9) -> Ints:
    """Returns shelves filled alike each day, for less than is wanted in the mean: the good days sell out."""
    mean = units.sum(axis=2).mean(axis=1, keepdims=True)
    return np.asarray(np.broadcast_to(np.rint(share * mean), units.shape[:2]).astype(np.int64))


@pytest.fixture(scope="module")
def found() -> tuple[Ints, Seen, Latent]:
    units = wanted()
    seen = seen_of(units, tight(units))
    return units, seen, latent(seen)


def test_what_sold_out_is_recovered_without_bias(found: tuple[Ints, Seen, Latent]) -> None:
    units, seen, out = found
    truth, sold = units.sum(axis=2), seen.units.sum(axis=2)
    assert sold.sum() / truth.sum() < 0.85
    assert out.demand.sum() / truth.sum() == pytest.approx(1, abs=0.01)


def test_a_day_that_did_not_sell_out_is_what_was_sold(found: tuple[Ints, Seen, Latent]) -> None:
    units, seen, out = found
    whole = ~seen.empty.any(axis=2)
    assert (out.demand[whole] == units.sum(axis=2)[whole]).all()
    assert (out.spread[whole] == 0).all()
    assert out.exposed[whole] == pytest.approx(1)


def test_spread_is_how_far_it_may_be_off(found: tuple[Ints, Seen, Latent]) -> None:
    units, seen, out = found
    cut = seen.empty.any(axis=2)
    z = (units.sum(axis=2) - out.demand)[cut] / np.maximum(out.spread[cut], 0.5)
    assert np.std(z) == pytest.approx(1, abs=0.1)


def test_draws_have_the_mean_and_the_spread_of_demand(found: tuple[Ints, Seen, Latent]) -> None:
    units, seen, out = found
    rng, cut = np.random.default_rng(1), seen.empty.any(axis=2)
    draws = np.stack([out.drawn(rng) for _ in range(40)])
    assert draws.mean() == pytest.approx(out.demand.mean(), rel=0.01)
    assert draws.std(axis=0)[cut].mean() == pytest.approx(out.spread[cut].mean(), rel=0.05)
    assert (draws[:, ~cut] == units.sum(axis=2)[~cut]).all()


def test_luck_and_the_profile_of_a_day_are_found(found: tuple[Ints, Seen, Latent]) -> None:
    _, _, out = found
    assert np.abs(out.profile[0] * 26 - [1, 1, 2, 3, 3, 2, 1, 1, 2, 4, 4, 2]).max() < 0.3
    assert 7 < out.shape[0] < 14


def test_earlier_hours_say_what_the_later_ones_would_have_been() -> None:
    units = wanted(2)
    out = latent(seen_of(units, tight(units)))
    cut = out.exposed < 0.9
    better = out.sold > out.exposed * out.mean
    rest, plain = out.demand - out.sold, (1 - out.exposed) * out.mean
    assert (rest[cut & better] > plain[cut & better]).all()
    assert (rest[cut & ~better] <= plain[cut & ~better]).all()


def test_an_empty_shelf_all_day_tells_nothing_and_the_mean_stands() -> None:
    units = wanted(4)
    stock = tight(units, 3.0)
    stock[:, ::3] = 0
    out = latent(seen_of(units, stock))
    assert out.exposed[:, ::3].max() == 0
    assert out.demand[:, ::3] == pytest.approx(out.mean[:, ::3])
    assert out.demand.sum() / units.sum() == pytest.approx(1, abs=0.02)


def test_hours_with_hundreds_of_units_are_recovered_too() -> None:
    units = wanted(5, mean=3_000.0)
    out = latent(seen_of(units, tight(units)))
    assert out.demand.sum() / units.sum() == pytest.approx(1, abs=0.01)


def test_days_that_are_not_known_stay_unknown() -> None:
    units = wanted(6)
    seen = seen_of(units, tight(units))
    seen.known[3, 5] = False
    out = latent(seen)
    assert np.isnan(out.demand[3, 5])
    assert np.isnan(out.demand).sum() == 1


@pytest.mark.parametrize("how", ["kinds", "factor", "returns"])
def test_what_does_not_fit_together_is_refused(how: str) -> None:
    units = wanted()
    seen = seen_of(units, tight(units))
    if how == "returns":
        seen.units[0, 0, 0] = -1
    wrong = Seen(
        units=seen.units,
        empty=seen.empty,
        known=seen.known,
        kinds=np.zeros(N - (how == "kinds"), np.int64),
        factors={"series": np.zeros((N, DAYS - (how == "factor")), np.int64)},
    )
    with pytest.raises(DataError, match="factors of another shape: series" if how == "factor" else "counts below 0"):
        latent(wrong)


def days(discount: list[list[float]]) -> Days:
    first = dt.date(2026, 3, 2)
    count = len(discount[0])
    return Days(
        item=np.array([0, 1]),
        store=np.array([0, 0]),
        category=np.array([0, 1]),
        dates=[first + dt.timedelta(days=day) for day in range(count)],
        discount=np.array(discount),
        eves=np.zeros(count, np.bool_),
    )


def test_levels_of_factors_are_those_of_the_days() -> None:
    levels = days([[0.0, 0.25, 0, 0, 0, 0, 0, 0, 0, 0], [0.0] * 10]).levels()
    assert set(levels) == set(SHRUNK)
    assert levels["weekday"].tolist() == [[0, 1, 2, 3, 4, 5, 6, 0, 1, 2], [7, 8, 9, 10, 11, 12, 13, 7, 8, 9]]
    assert levels["promotion"].tolist() == [[-1, 1] + [-1] * 8, [-1] * 10]
    assert levels["promoted item"][0].tolist() == [-1, 0] + [-1] * 8
    assert levels["after a promotion"].tolist() == [[-1, -1] + [0] * 7 + [-1], [-1] * 10]
    assert levels["item and week"].tolist() == [[0] * 7 + [1] * 3, [2] * 7 + [3] * 3]


def test_what_is_foreseen_is_the_product_of_what_is_known() -> None:
    units = wanted(7)
    out = latent(seen_of(units, tight(units, 3.0)))
    assert out.foreseen({"series": np.arange(N)}) == pytest.approx(out.mean[:, 0])
