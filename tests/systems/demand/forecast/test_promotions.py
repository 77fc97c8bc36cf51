from __future__ import annotations

import msgspec
import numpy as np
import pytest
from tests.systems.demand.forecast.promoted import AFTER, OWN, TAKEN, chain

from decalog.errors import DataError
from decalog.systems.demand.forecast.paths import Wander, innovations, likeliest, smoothed
from decalog.systems.demand.forecast.planned import Plan, brought
from decalog.systems.demand.forecast.pooling import (
    Mask,
    Rare,
    chance_of,
    drawn,
    drawn_rare,
    found,
    kind_of,
    rare_of,
)
from decalog.systems.demand.forecast.promotions import Fitted, Promoted, Settings, effects, placebo


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    """A chain whose stores promote alike, one item lending to one of the other group."""
    return effects(chain(lent=0.5).promoted, Settings(beyond=True))


def within(promoted: Promoted) -> Mask:
    same = promoted.group[:, None] == promoted.group[None, :]
    return np.asarray(same & ~np.eye(len(same), dtype=bool))


def test_lift_dip_and_what_is_taken_are_found_beside_a_season(fitted: Fitted) -> None:
    truth = chain(lent=0.5)
    pairs = within(truth.promoted)
    assert np.abs(fitted.own.drawn.value.mean() - OWN) < 0.05
    assert np.abs(fitted.after.drawn.value.mean() - AFTER) < 0.08
    assert np.abs(fitted.cross.drawn.value[pairs].mean() - TAKEN) < 0.03
    free = np.abs(fitted.cross.measured - truth.cross) <= 1.96 * fitted.cross.error
    assert 0.9 < free[np.isfinite(fitted.cross.error)].mean() <= 1
    held = (fitted.own.drawn.low <= OWN) & (fitted.own.drawn.high >= OWN)
    assert held.sum() >= 10
    assert not fitted.across


def test_the_pair_of_two_groups_stands_out(fitted: Fitted) -> None:
    apart = ~within(chain(lent=0.5).promoted)
    assert fitted.cross.found[0, 6]
    assert fitted.cross.found[apart].sum() <= 4, "of 66 pairs, 65 of them nothing"
    assert np.nanargmax(np.where(apart, fitted.cross.drawn.value, np.nan)) == 6
    assert fitted.cross.drawn.low[0, 6] < 0.5 < fitted.cross.drawn.high[0, 6]
    assert np.isnan(fitted.cross.drawn.value.diagonal()).all()


def test_where_no_promotion_was_nothing_is_found(fitted: Fitted) -> None:
    moved = placebo(chain(lent=0.5).promoted, fitted, weeks=4)
    is_known = np.isfinite(moved.cross.error)
    assert np.mean(np.abs(moved.cross.measured[is_known]) > 1.96 * moved.cross.error[is_known]) < 0.1
    assert np.abs(moved.taken.means).max() < 2.5 * moved.taken.errors.max()
    assert np.abs(moved.own.drawn.value).max() < 0.1


def test_stores_that_promote_different_things_are_compared_on_the_same_day() -> None:
    truth = chain(is_alike=False, days=140)
    found_ = effects(truth.promoted)
    assert found_.across
    pairs = within(truth.promoted)
    assert np.abs(found_.own.drawn.value - OWN).max() < 0.2, "though items go up and down by half from day to day"
    assert np.abs(found_.cross.drawn.value[pairs].mean() - TAKEN) < 0.03
    assert np.median(found_.cross.error[pairs]) < 0.08
    assert np.isnan(found_.cross.drawn.value[~pairs]).all(), "other groups were not asked for"


def test_who_does_not_find_the_promoted_item_is_no_halo() -> None:
    truth = chain(3, shelf=1.6)
    told = effects(truth.promoted)
    blind = effects(msgspec.structs.replace(truth.promoted, exposed=None))
    pairs = within(truth.promoted)
    next_ = [(at, at // 6 * 6 + (at + 1) % 6) for at in range(12)]
    shares = np.array([told.instead.drawn.value[pair] for pair in next_])
    assert 0.15 < shares.mean() < 0.45
    assert np.abs(told.cross.drawn.value[pairs].mean() - TAKEN) < 0.05
    assert blind.own.drawn.value.mean() < OWN - 0.2, "sales of what sells out are no demand"
    assert np.abs(told.own.drawn.value.mean() - OWN) < 0.1


def test_a_plan_brings_what_its_effects_say(fitted: Fitted) -> None:
    promoted = chain(lent=0.5).promoted
    price, cost = np.full(12, 200.0), np.full(12, 120.0)
    plan = Plan(item=0, stores=np.array([0, 2]), depth=0.25, weekdays=range(6))
    told = brought(fitted, plan, group=promoted.group, price=price, cost=cost)
    lift = told.own.value / told.usual.value
    assert np.expm1(fitted.own.drawn.low[0]) < lift < np.expm1(fitted.own.drawn.high[0])
    assert told.after.high < 0
    assert set(told.by_item) == {1, 2, 3, 4, 5, 6}, "those of its group, and the one that was found"
    assert told.by_item[6].low > 0
    whole = told.own.value + told.after.value + told.others.value
    assert told.total.value == pytest.approx(whole)
    assert told.others_margin.value == pytest.approx(80 * told.others.value)
    sold = told.usual.value + told.own.value
    assert told.own_margin.value == pytest.approx(sold * (80 - 50) - told.usual.value * 80, rel=1e-6)
    half = msgspec.structs.replace(plan, depth=0.125)
    assert brought(fitted, half, group=promoted.group, price=price, cost=cost).own.value < told.own.value / 2
    unpriced = brought(fitted, plan, group=promoted.group, price=np.where(np.arange(12) == 3, np.nan, price), cost=cost)
    assert unpriced.unpriced == (3,)


def test_a_plan_without_a_day_or_a_shelf_is_refused(fitted: Fitted) -> None:
    nothing = np.zeros(12)
    plan = Plan(item=0, stores=np.array([0]), depth=0.25, weekdays=())
    with pytest.raises(DataError, match="no day"):
        brought(fitted, plan, group=chain().promoted.group, price=nothing, cost=nothing)
    nowhere = msgspec.structs.replace(fitted, usual=np.full_like(fitted.usual, np.nan))
    plan = msgspec.structs.replace(plan, weekdays=(0,))
    with pytest.raises(DataError, match="stores that do not sell the item"):
        brought(nowhere, plan, group=chain().promoted.group, price=nothing, cost=nothing)


@pytest.mark.parametrize(
    ("change", "given"),
    [
        ({"depth": np.zeros((2, 2))}, "arrays of different shapes"),
        ({"weekday": np.zeros(3, np.int64)}, "weekdays or events of another length than 140 days"),
        ({"item": np.zeros(36, np.int64)}, "a series that occurs twice"),
        ({"sold": np.full((36, 140), -1.0)}, "sales or discounts below 0"),
        ({"depth": np.zeros((36, 140))}, "promotions of 0 items"),
    ],
)
def test_what_nothing_can_be_learnt_from_is_refused(change: dict[str, object], given: str) -> None:
    with pytest.raises(DataError, match=given):
        effects(msgspec.structs.replace(chain(days=140).promoted, **change))


def test_too_short_a_past_and_too_many_pairs_are_refused() -> None:
    with pytest.raises(DataError, match="49 days"):
        effects(chain(days=49).promoted)
    many = msgspec.structs.replace(chain(days=140).promoted, group=np.zeros(500, np.int64))
    with pytest.raises(DataError, match="all pairs of 500 items"):
        effects(many, Settings(beyond=True))


def test_innovations_are_those_of_the_whole_covariance() -> None:
    rng = np.random.default_rng(1)
    wander, variance = Wander(0.9, 0.3), rng.uniform(0.05, 0.2, (1, 30))
    variance[0, 7] = np.inf
    rows = innovations(rng.standard_normal((1, 30, 3)), variance, wander=wander)[0]
    values = np.random.default_rng(1)
    values.uniform(0.05, 0.2, (1, 30))
    x = values.standard_normal((1, 30, 3))[0]
    seen = np.arange(30) != 7
    apart = np.abs(np.subtract.outer(np.arange(30), np.arange(30)))
    whole = 0.3**2 * 0.9**apart + np.diag(np.where(seen, variance[0], 0.0))
    inverse = np.linalg.inv(whole[np.ix_(seen, seen)])
    assert rows.T @ rows == pytest.approx(x[seen].T @ inverse @ x[seen])
    level, spread = smoothed(x[None, :, 0], variance, wander=wander)
    gain = 0.3**2 * 0.9 ** apart[:, seen] @ inverse
    assert level[0] == pytest.approx(gain @ x[seen, 0])
    due = 0.3**2 - np.sum(gain * (0.3**2 * 0.9 ** apart[:, seen]), axis=1)
    assert spread[0] == pytest.approx(due)


def test_how_levels_move_is_read_from_them() -> None:
    rng, level = np.random.default_rng(2), np.zeros((40, 200))
    for day in range(1, 200):
        level[:, day] = 0.95 * level[:, day - 1] + 0.2 * np.sqrt(1 - 0.95**2) * rng.standard_normal(40)
    told = likeliest(level + 0.1 * rng.standard_normal(level.shape), np.full(level.shape, 0.01))
    assert told.stays == 0.95
    assert 0.14 < told.spread < 0.25


def test_effects_of_a_kind_are_drawn_towards_each_other() -> None:
    rng, truth = np.random.default_rng(3), np.random.default_rng(4).normal(-0.1, 0.05, 400)
    errors = rng.uniform(0.02, 0.15, 400)
    measured, zeros = truth + errors * rng.standard_normal(400), np.zeros(400, np.int64)
    kind = kind_of(measured, errors, groups=zeros, count=1, usual=0.5)
    assert kind.means[0] == pytest.approx(-0.1, abs=0.01)
    assert kind.spread == pytest.approx(0.05, abs=0.01)
    pulled = drawn(measured, errors, groups=zeros, kind=kind, z=1.96)
    assert np.mean((pulled.value - truth) ** 2) < 0.6 * np.mean((measured - truth) ** 2)
    assert 0.92 < np.mean((pulled.low <= truth) & (truth <= pulled.high)) < 0.98
    unseen = drawn(np.zeros(1), np.array([np.inf]), groups=zeros[:1], kind=kind, z=1.96)
    assert unseen.value[0] == pytest.approx(kind.means[0])
    assert unseen.error[0] == pytest.approx(np.hypot(kind.spread, kind.errors[0]))


def test_few_effects_do_not_say_how_they_scatter() -> None:
    errors = np.array([0.1, 0.1, np.inf])
    assert kind_of(np.array([0.1, 0.4, 0.0]), errors, groups=np.zeros(3, np.int64), count=1, usual=0.7).spread == 0.7
    assert rare_of(np.zeros(2), np.ones(2), usual=Rare(0.1, 0.3), is_centred=True) == Rare(0.1, 0.3)
    alike = kind_of(np.full(9, 0.2), np.full(9, 0.1), groups=np.zeros(9, np.int64), count=1, usual=0.7)
    assert alike.means[0] == pytest.approx(0.2)
    assert 0 < alike.spread < 0.06, "that none is seen does not say that there is none"


def test_rare_effects_are_told_from_nothing() -> None:
    rng = np.random.default_rng(5)
    truth = np.where(rng.random(2_000) < 0.05, 0.4, 0.0)
    errors = np.full(2_000, 0.08)
    measured = truth + errors * rng.standard_normal(2_000)
    rare = rare_of(measured, errors, usual=Rare(0.2, 0.15, 0.2), is_centred=False)
    assert rare.share == pytest.approx(0.05, abs=0.015)
    assert rare.mean == pytest.approx(0.4, abs=0.05)
    assert rare_of(measured, errors, usual=Rare(0.02, 0.1), is_centred=True).mean == 0
    chance = chance_of(measured, errors, rare=rare)
    assert chance[truth > 0].mean() > 0.9
    assert chance[truth == 0].mean() < 0.02
    pulled = drawn_rare(measured, errors, rare=rare, tail=0.025)
    assert np.mean((pulled.low - 1e-9 <= truth) & (truth <= pulled.high + 1e-9)) > 0.95
    assert np.mean((pulled.value - truth) ** 2) < 0.3 * np.mean((measured - truth) ** 2)


def test_found_keeps_the_share_that_is_false() -> None:
    p_values = np.array([[0.001, 0.02, np.nan], [0.03, 0.5, 0.9]])
    assert found(p_values, false_share=0.1).tolist() == [[True, True, False], [True, False, False]]
    assert not found(np.array([0.5, np.nan]), false_share=0.1).any()
