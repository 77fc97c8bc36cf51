"""What a promotion of one item does to all items of its store: its lift, the dip after it, what it takes and lends.

The units of item i in store s on day t are counts around

    exposed · exp(usual of the series and weekday + store's day + events of the group + level of item i on day t
                  + own · depth of i + after · depth of i over the days before + Σ over j of cross[j, i] · depth of j)

so an effect is a difference in logs at a depth of reference. What is not an effect is taken out in one fit with it:

- the weekday, series by series, and how large it is: factors;
- holidays, payday, weather of a store, all that moves a whole store's day: a factor of each store and day, which the
  items that no promotion touches tell;
- season, trend, fashion, life cycle: a level of the item that wanders slowly (`paths`), so that weeks with a promotion
  of j are compared with the weeks around them;
- promotions of i itself and of all other items, which overlap: one regression of all of them.

- empty shelves: who does not find the promoted item takes another, which would look as if promotions lent to it. How
  many of those turned away take which item of the group is a part of the fit, where it is told for how much of a day
  there was stock: a promotion's effect is that on those who find everything.

Where stores promote different things on one day, stores are compared on the same day as well, and there nothing matters
that the item has in all stores, however fast it moves. Counts have the weights of a negative binomial distribution, and
a day that sold out counts for the part of it that had stock: an estimate by quasi-likelihood (Wedderburn, Biometrika
61, 1974), in rounds of weighted least squares. Standard errors carry the level's wandering, and are widened by how much
sums over weeks vary beyond them.

There are more pairs than weeks. So effects of a kind are drawn towards each other (`pooling`): items' lifts; their
dips; what an item loses to another of its group, around the mean of the group; and what it gains or loses by an item of
another group, which mostly is nothing. Both are told, the effect on its own and the drawn one.

What it rests on: that what else moves one item alone, for days, does not come in the weeks in which another one is
promoted. A campaign for a whole group that comes with its leaflet is told as an effect of the leaflet, and so is what
moves all groups of a store together: effects on other groups are against the mean of these. `placebo` shows what the
design finds where nothing was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import NormalDist

import msgspec
import numpy as np
from scipy.special import ndtr

from decalog.errors import DataError
from decalog.systems.demand.forecast.mixed import AFTER, CROSS, OWN, Evidence, Measured, Prior
from decalog.systems.demand.forecast.paths import Wander, innovations, likeliest, smoothed
from decalog.systems.demand.forecast.pooling import Drawn, Floats, Ints, Kind, Mask, Rare, found

WEEK = 7
_ROUNDS, _AT_LEAST, _STILL, _SWEEPS = 20, 5, 2e-3, 3
"""Rounds at most and at least, what still moves when they end, logs, and sweeps over the factors in each."""
_BLOCK = 16
_FAR, _NONE = 6.0, 1e-9
"""Standard deviations by which one day is taken to be off at most, and units that are none."""
_SEEN = 0.5
"""Share of a day that has to be seen to tell of its luck."""
_ASKED = (1, 3)
"""Rounds in which it is asked how levels move."""
_SAME = 1e-6
_PRIOR = 0.1
"""Units that speak for a factor staying what it was."""
_MOST_BEYOND = 400
"""Items whose pairs over all groups are estimated at most."""
_LEAST_PROMOTED, _LEAST_DAYS = 2, 56
_LATELY = 28
"""Days whose mean is what is usual of a store now."""


class Promoted(msgspec.Struct, frozen=True, kw_only=True):
    """Sales and promotions of a chain.

    Args:
        sold: float64, series × days: units; NaN where a day is not known or the store was closed.
        depth: float64, series × days: share off the price, or 1 where there is only a flag; 0 without a promotion.
        item, store: int64, of series, from 0 on; a series is an item in a store.
        group: int64, of items, from 0 on: within one, items take from each other.
        weekday: int64, of days, 0 to 6.
        exposed: float64, series × days: share of the day's demand that there was stock for; 1 where it is not given.
        events: days of kinds, such as days before a holiday, on which each group sells more or less in its own way.
        offset: float64, series × days: in logs, what is known of demand beforehand.
    """

    sold: Floats
    depth: Floats
    item: Ints
    store: Ints
    group: Ints
    weekday: Ints
    exposed: Floats | None = None
    events: Mapping[str, Mask] = {}
    offset: Floats | None = None

    def check(self, *, beyond: bool) -> None:
        """Raises where the arrays are none that can be learnt from.

        Raises:
            DataError: which.
        """
        problem = self._problem(beyond=beyond)
        if problem:
            raise DataError(
                where="effects of promotions",
                given=problem,
                expected="series × days of equal shapes, each series once, promotions of two items and eight weeks",
                fix="Take a panel with promotions, name each item in a store once, or leave other groups out.",
            )

    def _problem(self, *, beyond: bool) -> str:
        n, days = self.sold.shape
        many = [one for one in (self.depth, self.exposed, self.offset) if one is not None]
        if {one.shape for one in many} != {(n, days)} or {len(self.item), len(self.store)} != {n}:
            return "arrays of different shapes"
        lengths = {len(self.weekday), *map(len, self.events.values())}
        promoted = len(np.unique(self.item[np.any(np.nan_to_num(self.depth) > 0, axis=-1)]))
        series = len(np.unique(np.stack([self.item, self.store]), axis=1).T)
        problems = {
            f"weekdays or events of another length than {days} days": lengths != {days},
            "a series that occurs twice": series != n,
            f"{days} days": days < _LEAST_DAYS,
            "sales or discounts below 0": min(float(np.nanmin(one, initial=0.0)) for one in (self.sold, *many[:1])) < 0,
            f"promotions of {promoted} items": promoted < _LEAST_PROMOTED,
            f"all pairs of {len(self.group)} items": beyond and len(self.group) > _MOST_BEYOND,
        }
        return next((problem for problem, is_so in problems.items() if is_so), "")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for.

    Args:
        reference: depth at which effects are told; logs are in proportion to it.
        after: days after a promotion in which the item's own demand may dip.
        beyond: whether items of other groups are looked at: all pairs, of 400 items at most.
        confidence: of intervals, (0, 1).
        false_share: of effects between items that are told as found, how many may be false, if errors are normal.
    """

    reference: float = 0.25
    after: int = 7
    beyond: bool = False
    confidence: float = 0.95
    false_share: float = 0.1

    @property
    def z(self) -> float:
        """Standard deviations to each side of an interval."""
        return NormalDist().inv_cdf((1 + self.confidence) / 2)


class Effects(msgspec.Struct, frozen=True, kw_only=True):
    """Effects in logs at the depth of reference, on their own; where nothing was measured NaN, the error infinite.

    Args:
        measured, error: float64, of any one shape.
        drawn: the same drawn towards their kind, with its interval.
        found: those that are told as found.
    """

    measured: Floats
    error: Floats
    drawn: Drawn
    found: Mask


class Fitted(msgspec.Struct, frozen=True, kw_only=True):
    """The effects of promotions, and what is usual without one.

    Args:
        own, after: of items: while it is promoted; and after it, where each of the days before was.
        cross: items × items: of the promoted one on the other. NaN on the diagonal, and for pairs not looked at.
        instead: items × items of a group: of those who did not find the one, how many took the other; NaN elsewhere.
            Nothing is measured where it is not told how much of a day had stock.
        taken: what items of each group lose on average to one of them that is promoted.
        rare: how rare effects of other groups are; None where they were not looked at.
        usual: stores × items × weekdays, logs of units; NaN where an item is not sold.
        day: of stores: how the last four weeks were beyond that, logs.
        level, level_error: of items on the last day, logs, with the standard deviation.
        wander: how levels move.
        shape: gamma shape of a day's luck.
        effect: series × days, logs: all that promotions did.
        across: whether stores promoted different things, so that they were compared on the same day too.
        settings: that were asked for.
    """

    own: Effects
    after: Effects
    cross: Effects
    instead: Effects
    taken: Kind
    rare: Rare | None
    usual: Floats
    day: Floats
    level: Floats
    level_error: Floats
    wander: Wander
    shape: float
    effect: Floats
    across: bool
    settings: Settings


def effects(promoted: Promoted, settings: Settings | None = None) -> Fitted:
    """Returns what promotions do, by the model above.

    Raises:
        DataError: shapes do not fit, or there is too little to learn from.
    """
    asked = settings or Settings()
    promoted.check(beyond=asked.beyond)
    fit = _Fit(promoted, asked)
    for turn in range(_ROUNDS):
        before = fit.effect
        fit.settle()
        fit.measure(turn)
        if turn >= _AT_LEAST and np.max(np.abs(fit.effect - before)) < _STILL:
            break
    return fit.told()


def placebo(promoted: Promoted, fitted: Fitted, *, weeks: int) -> Fitted:
    """Returns the effects of promotions that never were: the real ones so many weeks later or earlier, round the end.

    What real ones did, as fitted, is taken as known. A design that takes season or anything else for an effect finds
    some here too.
    """
    moved = np.roll(np.nan_to_num(promoted.depth), weeks * WEEK, axis=1)
    return effects(msgspec.structs.replace(promoted, depth=moved, offset=fitted.effect), fitted.settings)


class _Fit:
    """The rounds of a fit; arrays are stores × items × days unless something else is said."""

    effect: Floats

    def __init__(self, promoted: Promoted, settings: Settings) -> None:
        self._of, self._asked = promoted, settings
        self._n_items, self._groups = len(promoted.group), int(promoted.group.max()) + 1
        self._at = (promoted.store, promoted.item)
        self._shape = (int(promoted.store.max()) + 1, self._n_items, promoted.sold.shape[1])
        exposed = np.ones_like(promoted.sold) if promoted.exposed is None else promoted.exposed
        self._exposed = np.nan_to_num(self._cube(exposed))
        sold = self._cube(promoted.sold)
        self._known: Mask = np.asarray(np.isfinite(sold))
        self._sold = np.where(self._known, sold, 0.0)
        self._offset = 0.0 if promoted.offset is None else np.nan_to_num(self._cube(promoted.offset))
        self._depth, self.across = _depths(self._cube(promoted.depth))
        self._depth /= settings.reference
        self._dip = _dips(self._depth, settings.after)
        week = (np.arange(self._shape[2]) + int(promoted.weekday[0])) // WEEK
        weeks = int(week.max()) + 1
        stores = np.arange(1, 1 + self._shape[0] * self.across)
        self._cluster = np.concatenate([week, (week + weeks * stores[:, None]).ravel()])
        self._usual = np.zeros((*self._shape[:2], WEEK))
        self._day = np.zeros((self._shape[0], self._shape[2]))
        self._event = {name: np.zeros(self._groups) for name in promoted.events}
        self.effect, self._level = np.zeros(self._shape), np.zeros((self._n_items, self._shape[2]))
        self._spread, self._turned = np.zeros(self._n_items), np.zeros(self._shape)
        self._noise, self._wander, self._luck = np.ones(self._n_items), Wander(0.95, 0.15), 12.0
        self._prior = Prior.at_first(promoted.group, is_beyond=settings.beyond)

    # What is usual

    def settle(self) -> None:
        """Fits what is usual of series, days and events, given levels and effects."""
        weekday, group = self._of.weekday, self._of.group
        for _ in range(_SWEEPS):
            got, due = self._scores()
            for day in range(WEEK):
                there = weekday == day
                self._usual[:, :, day] += _step(got[:, :, there].sum(axis=2), due[:, :, there].sum(axis=2))
            got, due = self._scores()
            self._day += _step(got.sum(axis=1), due.sum(axis=1))
            for name, days in self._of.events.items():
                of_items = (one[:, :, days].sum(axis=(0, 2)) for one in self._scores())
                got, due = (np.bincount(group, weights=one).astype(np.float64) for one in of_items)
                self._event[name] += _step(got, due)
        mean = self._exposed * (self._wanted() + self._turned)
        # Of a day that was hardly seen, the part that was is not known well enough to tell luck from it.
        weight = (self._known & (self._exposed > _SEEN)) / (mean + mean**2 / self._luck + _NONE) ** 2
        square = np.minimum((self._sold - mean) ** 2, _FAR**2 * (mean + mean**2 / self._luck))
        over = np.sum(weight * (square - mean)) / np.sum(weight * mean**2)
        self._luck = float(1 / np.clip(over, 1e-4, 2.0))

    def _wanted(self) -> Floats:
        """Returns the units of whole days that are expected of those who came for the item."""
        logs = self._usual[:, :, self._of.weekday] + self._day[:, None, :] + self._level + self.effect + self._offset
        for name, days in self._of.events.items():
            logs += self._event[name][self._of.group][None, :, None] * days
        return np.asarray(np.where(self._known, np.exp(np.clip(logs, -20, 20)), 0.0))

    def _scores(self) -> tuple[Floats, Floats]:
        """Returns what was sold to those who came for it, and what was expected; luck makes a day weigh less."""
        wanted = self._wanted()
        mean = self._exposed * (wanted + self._turned)
        weight = np.where(self._known, wanted / np.maximum(wanted + self._turned, _NONE), 0.0) * self._luck
        weight = weight / (self._luck + mean)
        return weight * np.maximum(self._sold - self._exposed * self._turned, 0.0), weight * self._exposed * wanted

    # What promotions do

    def measure(self, turn: int) -> None:
        """Measures effects given what is usual, and levels given both; `turn` counts the rounds."""
        wanted = np.maximum(self._wanted(), _NONE)
        seen = np.maximum(self._exposed * wanted, _NONE)
        mean = np.maximum(self._exposed * (wanted + self._turned), _NONE)
        spread = np.sqrt(mean + mean**2 / self._luck)
        # A large lift is overshot from afar, so the first round is one of logs; and no single day decides an effect.
        away = np.log((self._sold + 0.5) / (mean + 0.5)) if turn == 0 else self._far(self._sold - mean, spread) / seen
        weight = np.where(self._known, (seen / spread) ** 2, 0.0)
        apart = np.where(self._known, away + self._turned / wanted, 0.0) + self._level + self.effect
        unmet = (1 - self._exposed) * wanted * (self._luck + self._sold) / (self._luck + seen)
        self._unmet, self._per = np.where(self._known, unmet, 0.0), 1 / wanted
        total = weight.sum(axis=0)
        together = self._together(apart, weight)
        moved = self._together(self.effect + self._turned / wanted, weight)
        noise = np.where(total > 0, self._noise[:, None] / np.maximum(total, 1e-12), np.inf)
        if turn in _ASKED:
            self._wander = likeliest(together - moved, noise)
        self._weight, self._apart, self._noises = weight, apart, noise
        self._measured = self._regressed(together)
        self._prior = self._prior.learnt(self._measured, self._of.group)
        self.effect, self._turned = self._moved()
        moved = self._together(self.effect + self._turned / wanted, weight)
        self._level, spread = smoothed(together - moved, noise, wander=self._wander)
        self._spread = np.sqrt(spread[:, -1])

    @staticmethod
    def _far(away: Floats, spread: Floats) -> Floats:
        return np.asarray(np.clip(away, -_FAR * spread, _FAR * spread))

    @staticmethod
    def _together(values: Floats, weight: Floats) -> Floats:
        """Returns means over stores, items × days; 0 where nothing is known."""
        return np.asarray(np.sum(weight * values, axis=0) / np.maximum(weight.sum(axis=0), _NONE))

    def _regressed(self, together: Floats) -> Measured:
        """Returns each effect on its own, and takes over how restless each item turned out to be."""
        seen = Measured.nothing(self._n_items, groups=self._groups, clusters=int(self._cluster.max()) + 1)
        for one in self._evidence(together):
            self._prior.measure(one, self._of.group, seen=seen)
        self._noise *= seen.scale
        seen.widen()
        return seen

    def _evidence(self, together: Floats) -> Iterator[Evidence]:
        for items, others, rivals in self._blocks():
            end = CROSS + len(others)
            columns = np.ones((len(items), self._shape[2], end + len(rivals)))
            share = self._weight[:, items] / np.maximum(self._weight[:, items].sum(axis=0), 1e-12)
            columns[:, :, OWN] = np.sum(share * self._depth[:, items], axis=0)
            columns[:, :, AFTER] = np.sum(share * self._dip[:, items], axis=0)
            columns[:, :, CROSS:end] = _over_stores(share, self._depth[:, others])
            columns[:, :, end:] = _over_stores(share * self._per[:, items], self._unmet[:, rivals])
            columns[:, :, CROSS:] *= self._others(items, others, rivals)
            both = np.concatenate([together[items][:, :, None], columns], axis=2)
            rows = [innovations(both, self._noises[items], wander=self._wander)]
            if self.across:
                of = (items, others, rivals)
                rows += [self._beside(store, of, both) for store in range(self._shape[0])]
            yield Evidence(
                items=items, others=others, rivals=rivals, rows=np.concatenate(rows, axis=1), clusters=self._cluster
            )

    @staticmethod
    def _others(items: Ints, others: Ints, rivals: Ints) -> Mask:
        """Returns which columns from `CROSS` on are of another item than the row's, items × 1 × columns."""
        return np.asarray(items[:, None] != np.concatenate([others, rivals])[None, :])[:, None, :]

    def _beside(self, store: int, of: tuple[Ints, Ints, Ints], both: Floats) -> Floats:
        """Returns what a store has beyond all stores on the same day, and what it promotes beyond them."""
        items, others, rivals = of
        own, end = np.empty_like(both), 1 + CROSS + len(others)
        own[:, :, 0], own[:, :, 1] = self._apart[store, items], 1.0
        own[:, :, 1 + OWN], own[:, :, 1 + AFTER] = self._depth[store, items], self._dip[store, items]
        own[:, :, 1 + CROSS : end] = self._depth[store, others].T[None]
        own[:, :, end:] = self._per[store, items][:, :, None] * self._unmet[store, rivals].T[None]
        own[:, :, 1 + CROSS :] *= self._others(items, others, rivals)
        weight = np.sqrt(self._weight[store, items] / self._noise[items][:, None])
        return np.asarray(weight[:, :, None] * (own - both))

    def _blocks(self) -> Iterator[tuple[Ints, Ints, Ints]]:
        """Yields items, those whose promotions may move them, and those whose empty shelves may."""
        nobody = np.zeros(0, np.int64)
        for group in range(self._groups):
            of_group = np.flatnonzero(self._of.group == group)
            others = np.arange(self._n_items) if self._asked.beyond else of_group
            for first in range(0, len(of_group), _BLOCK):
                yield of_group[first : first + _BLOCK], others, nobody if self._of.exposed is None else of_group

    def _moved(self) -> tuple[Floats, Floats]:
        """Returns what promotions did, logs, and how many units people bought who did not find another item."""
        own, after, cross, instead = self._prior.drawn(self._measured, self._of.group, z=self._asked.z)
        made = own.value[None, :, None] * self._depth + after.value[None, :, None] * self._dip
        made += np.nan_to_num(cross.value).T @ self._depth
        turned = np.nan_to_num(instead.value).T @ self._unmet
        return made, np.where(self._known, np.maximum(turned, 0.0), 0.0)

    # What is told

    def told(self) -> Fitted:
        """Returns what came out."""
        seen, asked, known = self._measured, self._asked, np.asarray(self._known.any(axis=2))
        own, after, cross, instead = self._prior.drawn(seen, self._of.group, z=asked.z)
        pairs = (cross, seen.cross_error), (instead, seen.instead_error)
        errors = [np.where(np.isfinite(pair.value), error, np.inf) for pair, error in pairs]
        is_open = np.asarray(self._known.any(axis=1))[:, -_LATELY:]
        day = np.sum(self._day[:, -_LATELY:] * is_open, axis=1) / np.maximum(is_open.sum(axis=1), 1)
        return Fitted(
            own=_effects(seen.own, seen.own_error, own, asked),
            after=_effects(seen.after, seen.after_error, after, asked),
            cross=_effects(seen.cross, errors[0], cross, asked),
            instead=_effects(seen.instead, errors[1], instead, asked),
            taken=self._prior.within,
            rare=self._prior.beyond,
            usual=np.where(known[:, :, None], self._usual, np.nan),
            day=day,
            level=self._level[:, -1],
            level_error=self._spread,
            wander=self._wander,
            shape=self._luck,
            effect=self.effect[self._at],
            across=self.across,
            settings=asked,
        )

    def _cube(self, values: Floats) -> Floats:
        made = np.full(self._shape, np.nan)
        made[self._at] = values
        return made


def _effects(measured: Floats, error: Floats, pulled: Drawn, asked: Settings) -> Effects:
    is_known: Mask = np.asarray(np.isfinite(error))
    p_values = np.where(is_known, 2 * ndtr(-np.abs(measured) / np.where(is_known, error, 1.0)), np.nan)
    return Effects(
        measured=np.where(is_known, measured, np.nan),
        error=error,
        drawn=pulled,
        found=found(p_values, false_share=asked.false_share),
    )


def _over_stores(weight: Floats, values: Floats) -> Floats:
    """Returns weighted sums over stores: of stores × n × days and stores × k × days, n × days × k."""
    return np.asarray((weight.transpose(2, 1, 0) @ values.transpose(2, 0, 1)).transpose(1, 0, 2))


def _step(got: Floats, due: Floats) -> Floats:
    """Returns what a factor moves by, logs, so that what is expected becomes what there was."""
    return np.asarray(np.log((got + _PRIOR) / (due + _PRIOR)))


def _depths(depth: Floats) -> tuple[Floats, bool]:
    """Returns how deep each item is promoted, stores × items × days, and whether stores promote different things.

    Where all stores that were told of say the same, it holds for those that were not told of, too: what an item that is
    not sold here does elsewhere moves nobody, but a day that was not told may have had the promotion.
    """
    is_told: Mask = np.asarray(np.isfinite(depth))
    most = np.max(np.where(is_told, depth, 0.0), axis=0)
    least = np.min(np.where(is_told, depth, np.inf), axis=0)
    is_same = not np.any(is_told.any(axis=0) & (most - least > _SAME))
    sold_here = np.asarray(is_told.any(axis=2))[:, :, None]
    return np.where(is_told, depth, np.where(sold_here & is_same, most, 0.0)), not is_same


def _dips(depth: Floats, after: int) -> Floats:
    """Returns the mean depth of the days before, on days that have no promotion themselves."""
    sums = np.cumsum(np.pad(depth, ((0, 0), (0, 0), (after, 0))), axis=2)
    before = np.pad(sums, ((0, 0), (0, 0), (1, 0)))
    mean = (before[:, :, after:-1] - before[:, :, : -after - 1]) / after
    return np.asarray(np.where(depth > 0, 0.0, mean))
