"""Effects of many promotions on one item at once: each on its own, the others around what is usual of their kind.

An item has more others than weeks, so their effects cannot all be free. With effects b of prior means m and precisions
P (diagonal), rows X whose errors are independent, and A = X'X, what is expected of b is C (X'y + P m), C = (A + P)⁻¹
(the mixed model's equations; Henderson, Biometrics 31, 1975). What the data alone say of one effect, the others around
their priors, is that less the effect's own prior: precision 1 / C_kk − P_k. Variance that is added along a column does
not move its generalized least squares estimate, so it is the estimate with that effect free.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import NamedTuple

import msgspec
import numpy as np

from decalog.systems.demand.forecast.pooling import (
    Drawn,
    Floats,
    Ints,
    Kind,
    Mask,
    Rare,
    chance_of,
    drawn,
    drawn_rare,
    kind_of,
    rare_of,
)

OWN, AFTER, CROSS = 1, 2, 3
"""Columns of an item's regression; the first is a constant, from `CROSS` on stand other items, and then those rivals of
its group whose shelves were empty for a while."""
_FLAT, _LEAST = 10.0, 0.005
"""Standard deviations of what is not drawn at all, and of what is drawn most."""
_NOT_MEASURED = 3.0
"""Standard error, logs, from which on nothing was measured."""
_USUAL_OWN, _USUAL_AFTER, _USUAL_WITHIN = 0.5, 0.25, 0.1
_USUAL_GROUPS, _HARDLY = 0.05, 1e-4
_INSTEAD, _BEYOND = Rare(0.2, 0.15, 0.2), Rare(0.02, 0.1)
"""Shares of those who find nothing, and effects on other groups, where too few were measured to say."""
"""Spread of effects of a kind of which too few were measured to say."""
_STEP = 2.0


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What a block of items says, each day's errors made independent.

    Args:
        items: int64, of the block.
        others: int64, items that may move them by promotions, one a column from `CROSS` on.
        rivals: int64, items whose buyers may take them instead, one a column behind the others.
        rows: float64, items × rows × (1 + columns): what was measured, and what may have moved it.
        clusters: int64, of rows: those of one cluster (a week, a week in a store) are no independent evidence.
    """

    items: Ints
    others: Ints
    rivals: Ints
    rows: Floats
    clusters: Ints


class Measured(msgspec.Struct, kw_only=True):
    """Effects on their own, logs, with their standard errors, infinite where nothing was measured.

    Args:
        own, own_error, after, after_error: of items.
        cross, cross_error: items × items, of the promoted one on the other.
        instead, instead_error: items × items, shares: of those who did not find the one, how many took the other.
        scale: of items: variance of what is left over, against what was supposed.
        common: groups × clusters: errors of the mean effect within a group, cluster by cluster.
        weight: of groups: adds up what that mean is of.
        meat, due: how much sums over clusters vary, and would if rows were independent.
    """

    own: Floats
    own_error: Floats
    after: Floats
    after_error: Floats
    cross: Floats
    cross_error: Floats
    instead: Floats
    instead_error: Floats
    scale: Floats
    common: Floats
    weight: Floats
    meat: float = 0.0
    due: float = 0.0

    @classmethod
    def nothing(cls, items: int, *, groups: int, clusters: int) -> Measured:
        """Returns that nothing was measured yet."""
        one, pair = np.zeros(items), np.zeros((items, items))
        return cls(
            own=one.copy(),
            own_error=one + np.inf,
            after=one.copy(),
            after_error=one + np.inf,
            cross=pair.copy(),
            cross_error=pair + np.inf,
            instead=pair.copy(),
            instead_error=pair + np.inf,
            scale=one + 1,
            common=np.zeros((groups, clusters)),
            weight=np.zeros(groups),
        )

    def widen(self) -> None:
        """Widens errors by how much sums over clusters vary beyond what independent rows would, if they do."""
        wider = float(np.sqrt(max(self.meat / max(self.due, 1e-12), 1.0)))
        for errors in (self.own_error, self.after_error, self.cross_error, self.instead_error):
            np.multiply(errors, wider, out=errors)


class Effects(NamedTuple):
    """Effects drawn towards their kind: own and after of items, cross and instead of items × items."""

    own: Drawn
    after: Drawn
    cross: Drawn
    instead: Drawn


class Prior(msgspec.Struct, frozen=True, kw_only=True):
    """What effects of each kind have in common.

    Args:
        own, after: of items: one group.
        within: of pairs in a group of items.
        instead: shares of those who find nothing, of pairs in a group: most take nothing else, or one thing.
        likely: items × items, (0, 1]: how likely a share is something.
        beyond: of pairs of two groups; None where they are not looked at.
    """

    own: Kind
    after: Kind
    within: Kind
    instead: Rare
    likely: Floats
    beyond: Rare | None

    @classmethod
    def at_first(cls, group: Ints, *, is_beyond: bool) -> Prior:
        """Returns that little is known of any kind."""
        groups = int(group.max()) + 1
        one, wide = np.zeros(1), np.ones(1)
        return cls(
            own=Kind(one, wide, _USUAL_OWN),
            after=Kind(one, wide, _USUAL_AFTER),
            within=Kind(np.zeros(groups), np.ones(groups), _USUAL_WITHIN),
            instead=_INSTEAD,
            likely=np.full((len(group), len(group)), _INSTEAD.share),
            beyond=_BEYOND if is_beyond else None,
        )

    def learnt(self, seen: Measured, group: Ints) -> Prior:
        """Returns what measured effects have in common."""
        zeros, pairs = np.zeros(len(group), np.int64), group[:, None] == group[None, :]
        np.fill_diagonal(pairs, val=False)
        where = np.broadcast_to(group[:, None], pairs.shape)[pairs]
        within = kind_of(
            seen.cross[pairs], seen.cross_error[pairs], groups=where, count=len(self.within.means), usual=_USUAL_WITHIN
        )
        common = np.sqrt(np.sum(seen.common**2, axis=1)) / np.maximum(seen.weight, 1e-12)
        apart = group[:, None] != group[None, :]
        instead = rare_of(seen.instead[pairs], seen.instead_error[pairs], usual=_INSTEAD, is_centred=False)
        # Nobody who finds nothing takes less of something else: what is below 0 is chance.
        chance = chance_of(seen.instead, seen.instead_error, rare=instead)
        return Prior(
            own=kind_of(seen.own, seen.own_error, groups=zeros, count=1, usual=_USUAL_OWN),
            after=kind_of(seen.after, seen.after_error, groups=zeros, count=1, usual=_USUAL_AFTER),
            within=_drawn_groups(within._replace(errors=np.maximum(within.errors, common))),
            instead=instead,
            likely=np.where(seen.instead < 0, _HARDLY, np.maximum(chance, instead.share / 2)),
            beyond=self.beyond and rare_of(seen.cross[apart], seen.cross_error[apart], usual=_BEYOND, is_centred=True),
        )

    def measure(self, one: Evidence, group: Ints, *, seen: Measured) -> None:
        """Writes down what the evidence of a block says."""
        y, columns = one.rows[:, :, 0], one.rows[:, :, 1:]
        mean, precision = self._of(one, group)
        turned = columns.transpose(0, 2, 1)
        gram = turned @ columns
        spread = np.linalg.inv(gram + precision[:, :, None] * np.eye(precision.shape[1]))
        sums = (turned @ y[:, :, None])[:, :, 0] + precision * mean
        expected = (spread @ sums[:, :, None])[:, :, 0]
        variance = np.einsum("nkk->nk", spread)
        own = 1 / variance - precision
        is_known = own > _NOT_MEASURED**-2
        own = np.where(is_known, own, 1.0)
        values = np.where(is_known, (expected / variance - precision * mean) / own, 0.0)
        errors = np.where(is_known, 1 / np.sqrt(own), np.inf)
        seen.own[one.items], seen.own_error[one.items] = values[:, OWN], errors[:, OWN]
        seen.after[one.items], seen.after_error[one.items] = values[:, AFTER], errors[:, AFTER]
        end = CROSS + len(one.others)
        pairs, rivals = np.ix_(one.others, one.items), np.ix_(one.rivals, one.items)
        seen.cross[pairs], seen.cross_error[pairs] = values[:, CROSS:end].T, errors[:, CROSS:end].T
        seen.instead[rivals], seen.instead_error[rivals] = values[:, end:].T, errors[:, end:].T
        left = y - (columns @ expected[:, :, None])[:, :, 0]
        used = np.sum(1 - variance * precision, axis=1)
        rows = np.sum(np.any(one.rows != 0, axis=2), axis=1)
        scale = np.sum(left**2, axis=1) / np.maximum(rows - used, 1)
        seen.scale[one.items] = np.clip(scale, 1 / _STEP, _STEP)
        self._cluster(one, group, seen=seen, errors=errors, scores=columns * left[:, :, None])

    def _cluster(self, one: Evidence, group: Ints, *, seen: Measured, errors: Floats, scores: Floats) -> None:
        """Adds how sums over clusters vary, of each effect and of the mean within each group."""
        which = (one.clusters[:, None] == np.arange(seen.common.shape[1])).astype(np.float64)
        sums = which.T @ scores
        is_known = np.isfinite(errors)
        is_known[:, 0] = False
        seen.meat += float(np.sum(np.sum(sums**2, axis=1)[is_known]))
        seen.due += float(np.sum(np.sum(scores**2, axis=1)[is_known]))
        pairs = slice(CROSS, CROSS + len(one.others))
        within = (group[one.items][:, None] == group[one.others][None, :]) & is_known[:, pairs]
        square = np.where(within, errors[:, pairs], 0.0) ** 2
        weight = np.where(within, 1 / (square + max(self.within.spread, _LEAST) ** 2), 0.0)
        added = np.einsum("nk,nck->nc", weight * square, sums[:, :, pairs])
        np.add.at(seen.common, group[one.items], added)
        np.add.at(seen.weight, group[one.items], weight.sum(axis=1))

    def _of(self, one: Evidence, group: Ints) -> tuple[Floats, Floats]:
        """Returns prior means and precisions, items × columns."""
        n, end = len(one.items), CROSS + len(one.others)
        mean, spread = np.zeros((n, end + len(one.rivals))), np.full((n, end + len(one.rivals)), _FLAT)
        mean[:, OWN], spread[:, OWN] = self.own.means[0], self.own.spread
        mean[:, AFTER], spread[:, AFTER] = self.after.means[0], self.after.spread
        of = group[one.items]
        within = of[:, None] == group[one.others][None, :]
        mean[:, CROSS:end] = np.where(within, np.nan_to_num(self.within.means)[of][:, None], 0.0)
        beyond = 0.0 if self.beyond is None else self.beyond.share**0.5 * self.beyond.spread
        spread[:, CROSS:end] = np.where(within, self.within.spread, beyond)
        likely = self.likely[np.ix_(one.rivals, one.items)].T
        mean[:, end:] = likely * self.instead.mean
        spread[:, end:] = np.sqrt(likely * self.instead.spread**2 + likely * (1 - likely) * self.instead.mean**2)
        return np.nan_to_num(mean), 1 / np.maximum(spread, _LEAST) ** 2

    def drawn(self, seen: Measured, group: Ints, *, z: float) -> Effects:
        """Returns effects drawn towards their kind; NaN where a pair was not looked at."""
        zeros = np.zeros(len(group), np.int64)
        pairs = group[:, None] == group[None, :]
        np.fill_diagonal(pairs, val=False)
        where = np.broadcast_to(group[:, None], pairs.shape)[pairs]
        within = drawn(seen.cross[pairs], seen.cross_error[pairs], groups=where, kind=self.within, z=z)
        tail = NormalDist().cdf(-z)
        instead = drawn_rare(seen.instead[pairs], seen.instead_error[pairs], rare=self.instead, tail=tail)
        instead = Drawn(*(np.maximum(one, 0.0) for one in instead))
        cross = _spread_out(within, pairs)
        if self.beyond is not None:
            apart = group[:, None] != group[None, :]
            rare = drawn_rare(seen.cross[apart], seen.cross_error[apart], rare=self.beyond, tail=tail)
            for made, some in zip(cross, rare, strict=True):
                made[apart] = some
        return Effects(
            own=drawn(seen.own, seen.own_error, groups=zeros, kind=self.own, z=z),
            after=drawn(seen.after, seen.after_error, groups=zeros, kind=self.after, z=z),
            cross=cross,
            instead=_spread_out(instead, pairs),
        )


def _drawn_groups(within: Kind) -> Kind:
    """Returns the means of groups drawn towards the mean of them all."""
    one = np.zeros(len(within.means), np.int64)
    every = kind_of(within.means, within.errors, groups=one, count=1, usual=_USUAL_GROUPS)
    made = drawn(within.means, within.errors, groups=one, kind=every, z=1.0)
    return Kind(made.value, made.error, within.spread)


def _spread_out(some: Drawn, where: Mask) -> Drawn:
    """Returns effects as a matrix: those of pairs where they belong, NaN elsewhere."""
    made = Drawn(*(np.full(where.shape, np.nan) for _ in Drawn._fields))
    for whole, part in zip(made, some, strict=True):
        whole[where] = part
    return made
