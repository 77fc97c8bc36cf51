"""What a planned promotion would bring: units of the item, its dip afterwards, what others lose or gain, and margins.

Everything follows from fitted effects (`promotions`) by drawing them many times: an effect in proportion to the depth,
the level of each item as it wanders on from its last day, and what errors of a group's effects have in common. Units
are those that would be wanted, so that shelves have to hold them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from decalog.errors import DataError
from decalog.systems.demand.forecast.pooling import Drawn, Floats, Ints, Mask
from decalog.systems.demand.forecast.promotions import WEEK, Fitted

_DRAWS = 4_000


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A promotion that is planned.

    Args:
        item: its number.
        stores: int64, numbers of the stores that have it.
        depth: share off the price, (0, 1), or 1 where promotions are flags.
        weekdays: of its days, one after the other, 0 to 6.
        ahead: days from the last one that is known to the first of them, at least 1.
    """

    item: int
    stores: Ints
    depth: float
    weekdays: Sequence[int]
    ahead: int = 1


class Range(NamedTuple):
    """What is expected, and the bounds of an interval."""

    value: float
    low: float
    high: float


class Brought(msgspec.Struct, frozen=True, kw_only=True):
    """What a promotion brings beyond what would be without it.

    Args:
        usual: units of the item on its days without it.
        own, after: units of the item on its days, and in the days after them.
        others: units of all other items on its days.
        total: units of all of them.
        own_margin, after_margin, others_margin, margin: what these earn, in the units of prices.
        by_item: number of another item → its units, those that move most first.
        unpriced: numbers of items that move and have no price, whose margin is left out.
    """

    usual: Range
    own: Range
    after: Range
    others: Range
    total: Range
    own_margin: Range
    after_margin: Range
    others_margin: Range
    margin: Range
    by_item: dict[int, Range]
    unpriced: tuple[int, ...]


def brought(fitted: Fitted, plan: Plan, *, group: Ints, price: Floats, cost: Floats, seed: int = 0) -> Brought:
    """Returns what a promotion would bring.

    Args:
        fitted: effects; of pairs in two groups only those that were found count.
        plan: the promotion.
        group: of items, as for the fit.
        price: of items, of a unit without a discount; NaN where it is not known.
        cost: of items, of a unit.
        seed: of the draws.

    Raises:
        DataError: the item is not sold in these stores, or its days are none.
    """
    usual = np.nan_to_num(np.exp(fitted.usual[plan.stores] + fitted.day[plan.stores, None, None])).sum(axis=0)
    if not plan.weekdays or usual[plan.item].sum() <= 0:
        raise DataError(
            where="planned promotion",
            given="no day" if not plan.weekdays else "stores that do not sell the item",
            expected="one day or more, in a store that has sold it",
            fix="Name the days, and stores where the item has been sold.",
        )
    rng = np.random.default_rng(seed)
    level, common = _levels(fitted, plan, rng), rng.standard_normal(_DRAWS)
    scale = plan.depth / fitted.settings.reference
    days = usual[:, np.array(plan.weekdays)].sum(axis=1)
    item, z = plan.item, (1 - fitted.settings.confidence) / 2
    without = days[item] * level[item]
    own = without * np.expm1(scale * _drawn(fitted.own.drawn, item, common, rng))
    after = _after(
        fitted, plan, usual[item], scale * _drawn(fitted.after.drawn, item, rng.standard_normal(_DRAWS), rng)
    )
    after *= level[item]
    places = np.flatnonzero(_moved(fitted, item, group) & (days > 0))
    common = rng.standard_normal(_DRAWS)
    cross = [scale * _drawn(fitted.cross.drawn, (item, other), common, rng) for other in places.tolist()]
    others = np.zeros((0, _DRAWS)) if not cross else days[places, None] * level[places] * np.expm1(np.stack(cross))
    each, is_priced = price - cost, np.isfinite(price - cost)
    margins = np.where(is_priced, each, 0.0)
    own_margin = (without + own) * (margins[item] - plan.depth * np.nan_to_num(price[item])) - without * margins[item]
    after_margin, others_margin = after * margins[item], margins[places] @ others
    order = np.argsort(-np.abs(others.mean(axis=1)))
    return Brought(
        usual=_range(without, z),
        own=_range(own, z),
        after=_range(after, z),
        others=_range(others.sum(axis=0), z),
        total=_range(own + after + others.sum(axis=0), z),
        own_margin=_range(own_margin, z),
        after_margin=_range(after_margin, z),
        others_margin=_range(others_margin, z),
        margin=_range(own_margin + after_margin + others_margin, z),
        by_item={int(places[at]): _range(others[at], z) for at in order},
        unpriced=tuple(one for one in [item, *places.tolist()] if not is_priced[one]),
    )


def _levels(fitted: Fitted, plan: Plan, rng: np.random.Generator) -> Floats:
    """Returns draws of what items sell beyond the usual in the middle of the promotion, items × draws."""
    kept = fitted.wander.stays ** (plan.ahead + (len(plan.weekdays) - 1) / 2)
    spread = np.sqrt(fitted.wander.spread**2 * (1 - kept**2) + kept**2 * fitted.level_error**2)
    drawn = rng.standard_normal((len(spread), _DRAWS))
    return np.asarray(np.exp(kept * fitted.level[:, None] + spread[:, None] * drawn))


def _drawn(effects: Drawn, at: int | tuple[int, int], common: Floats, rng: np.random.Generator) -> Floats:
    """Returns draws of an effect; `common` are those of what it shares with its group."""
    shared = float(effects.common[at])
    alone = np.sqrt(max(float(effects.error[at]) ** 2 - shared**2, 0.0))
    return np.asarray(effects.value[at] + shared * common + alone * rng.standard_normal(len(common)))


def _after(fitted: Fitted, plan: Plan, usual: Floats, effect: Floats) -> Floats:
    """Returns draws of the units by which the days after a promotion differ; `usual` is by weekday."""
    window, length = fitted.settings.after, len(plan.weekdays)
    found = np.zeros_like(effect)
    for day in range(1, window + 1):
        share = min(length, window - day + 1) / window
        found += usual[(plan.weekdays[-1] + day) % WEEK] * np.expm1(share * effect)
    return found


def _moved(fitted: Fitted, item: int, group: Ints) -> Mask:
    """Returns which other items a promotion moves: those of the group, and those of others where it was found."""
    is_looked_at = np.isfinite(fitted.cross.drawn.value[item])
    return np.asarray(is_looked_at & ((group == group[item]) | fitted.cross.found[item]))


def _range(draws: Floats, tail: float) -> Range:
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Range(float(draws.mean()), float(low), float(high))
