"""How well it is told what one item's promotion does to the others, where the truth is known, and where there is none.

    python bench/quality/demand_promotions.py [--json] [--short] [--seeds 3] [--first 104]

Simulated results, all of them. A chain of four stores and 50 items is played for 400 days by a planner's rule, sells
out and is told of by its tills, in quarters of a day. Its leaflets hold in all stores, a week each, so stores cannot be
compared with each other. Two truths of what a promotion takes from other items of its group:

- even: as the world has it, the same of each.
- uneven: gamma-distributed pair by pair (shape 1/2) around the same mean, so that most lose little and a few much.

An item of another group gains besides (`lent`); all other pairs of groups have no effect. Effects are differences in
logs at 25 % off. `promotions.effects` sees units, the share of each day that had stock (`latent`), discounts, groups
and dates, and all pairs; `placebo` repeats it on the same promotions some weeks earlier and later, where there was
nothing.

- free: each effect on its own.
- drawn: towards its kind.
- before/after: mean sales while the other is promoted against the four weeks before, whatever else happened.

Coverage is of 95 % intervals. Of the ways of reading what tills told, `sales` takes days that sold out as they are.

Settings were chosen on seeds 1 to 3; seed 101 was seen in a first run, so the judged ones begin with 104.

Keys: coverage (drawn, pairs within groups, both truths), coverage_least (lowest over seeds and truths), free_coverage
(all pairs), own_coverage, after_coverage, false_share (placebo: intervals of pairs that exclude 0; nominal .05),
found_false (of effects told as found, those without an effect or of the other sign; nominal .1 at most), bias (drawn,
mean within groups less truth, largest over seeds and truths), error (drawn, root mean square), naive_bias, naive_error,
naive_false (intervals of before/after over promotions that exclude 0 where there is no effect), seeds.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from decalog.clock import DAY
from decalog.systems.demand import drivers
from decalog.systems.demand.drivers import Days
from decalog.systems.demand.forecast.promotions import Effects, Fitted, Promoted, Settings, effects, placebo
from decalog.systems.demand.latent import Floats, Mask, Seen, latent
from decalog.systems.demand.simulate import World
from decalog.systems.demand.world.days import Calendar
from decalog.systems.demand.world.params import WorldParams
from decalog.systems.demand.world.shops import AROUND, is_eve

FIRST_SEED, SEEDS = 104, 3
DAYS, SCALE, PARTS = 400, 0.5, 4
SHIFTS = (-4, 4)
BEFORE = 28
TRUTHS = ("even", "uneven")
BARS = {"coverage": (0.92, 1.0), "free_coverage": (0.93, 0.97), "false_share": (0.03, 0.07), "found_false": (0.0, 0.1)}
_Z = 1.96


class Truth(NamedTuple):
    """What promotions do in a world, logs at 25 % off: `cross` is of the promoted item on the other."""

    own: Floats
    after: Floats
    cross: Floats
    within: Mask
    apart: Mask


class Uneven(Calendar):
    """A calendar whose promotions take from each item of the group another share."""

    def promotion(self, day: int) -> Floats:
        """Returns what promotions do to each item on a day, in logs."""
        now = self.discount(day) / AROUND
        kept = super().promotion(day)
        category = self.shops.category
        everywhere = np.bincount(category, weights=now, minlength=len(self.shops.week))[category]
        return np.asarray(kept + self.params.taken * (everywhere - now) - now @ self.taken())

    def taken(self) -> Floats:
        """Returns what each item takes from each other one, logs at 25 % off."""
        category = self.shops.category
        rng = np.random.default_rng(int(self.shops.key[0]))
        drawn = 2 * self.params.taken * rng.gamma(0.5, size=(len(category), len(category)))
        return np.asarray(np.where(_within(category), drawn, 0.0))


def _within(category: Any) -> Mask:
    same = np.asarray(category[:, None] == category[None, :])
    np.fill_diagonal(same, val=False)
    return same


def played(seed: int, truth: str) -> tuple[World, Truth]:
    """Returns a world that was played, and what its promotions do."""
    world = World(seed, WorldParams().perturbed(seed), scale=SCALE)
    shops, params = world.shops, world.params
    within = _within(shops.category)
    cross = np.where(within, -params.taken, 0.0)
    if truth == "uneven":
        world.calendar = calendar = Uneven(shops, params, start_us=world.start_us)
        cross = -calendar.taken()
    cross[shops.goes_with, np.arange(shops.items)] += params.lent
    for day in range(1, DAYS + 1):
        world.advance(world.start_us + day * DAY, alone=True)
    apart = np.asarray(shops.category[:, None] != shops.category[None, :])
    return world, Truth(shops.lift, -shops.lift * params.pulled, cross, within, apart)


def as_sold(world: World, promoted: Promoted) -> Promoted:
    """Returns the same with sales taken for demand, whatever the shelves held."""
    units = np.stack([sold.units.sum(axis=1) for sold in world.sold[:DAYS]], axis=1)
    sold = np.where(np.isfinite(promoted.sold), units, np.nan)
    return msgspec.structs.replace(promoted, sold=sold, exposed=None)


def promoted_in(world: World) -> Promoted:
    """Returns what the tills told of a world."""
    calendar, shops = world.calendar, world.shops
    item = np.tile(np.arange(shops.items), shops.stores)
    dates = [calendar.date(day) for day in range(DAYS)]
    eves = np.array([is_eve(date) for date in dates])
    shape = (shops.n, DAYS, PARTS, -1)
    units = np.stack([sold.units for sold in world.sold[:DAYS]], axis=1).reshape(shape).sum(axis=3)
    empty = np.stack([sold.empty for sold in world.sold[:DAYS]], axis=1).reshape(shape)[:, :, :, -1]
    is_closed = np.array([calendar.is_closed(day) for day in range(DAYS)])
    known = (np.tile(shops.begins, shops.stores)[:, None] <= np.arange(DAYS)) & ~is_closed[None]
    depth = np.stack([calendar.discount(day) for day in range(DAYS)], axis=1)[item]
    store, category = np.repeat(np.arange(shops.stores), shops.items), np.tile(shops.category, shops.stores)
    days = Days(item=item, store=store, category=category, dates=dates, discount=depth, eves=eves)
    seen = Seen(units=units, empty=empty, known=known, kinds=category, factors=days.levels(), shrunk=drivers.SHRUNK)
    read = latent(seen)
    return Promoted(
        sold=read.sold,
        exposed=read.exposed,
        depth=depth,
        item=item,
        store=store,
        group=shops.category,
        weekday=np.array([date.weekday() for date in dates]),
        events={"before a holiday": eves},
    )


def before_after(promoted: Promoted) -> tuple[Floats, Floats]:
    """Returns of each pair the mean over promotions of log(during / before) at 25 % off, and its standard error.

    The diagonal is the item itself. NaN where there was no promotion, and no error where there was only one.
    """
    n = len(promoted.group)
    sales = np.stack([np.nansum(promoted.sold[promoted.item == item], axis=0) for item in range(n)])
    known = np.stack([np.isfinite(promoted.sold[promoted.item == item]).any(axis=0) for item in range(n)])
    value, error = np.full((n, n), np.nan), np.full((n, n), np.nan)
    for item in range(n):
        depth = np.nan_to_num(promoted.depth[promoted.item == item][0])
        told = [_log_ratio(sales, known, first, last) / (depth[first] / AROUND) for first, last in _runs(depth)]
        if told:
            value[item] = np.mean(told, axis=0)
        if len(told) > 1:
            error[item] = np.std(told, axis=0, ddof=1) / np.sqrt(len(told))
    return value, error


def _runs(depth: Floats) -> Iterator[tuple[int, int]]:
    """Yields first and last day of each promotion that has four weeks before it."""
    edges = np.diff(np.pad((depth > 0).astype(np.int64), 1))
    for first, end in zip(np.flatnonzero(edges > 0).tolist(), np.flatnonzero(edges < 0).tolist(), strict=True):
        if first >= BEFORE:
            yield first, end - 1


def _log_ratio(sales: Floats, known: Mask, first: int, last: int) -> Floats:
    during, past = slice(first, last + 1), slice(first - BEFORE, first)
    means = [(sales[:, one].sum(axis=1) + 0.5) / np.maximum(known[:, one].sum(axis=1), 1) for one in (during, past)]
    return np.asarray(np.log(means[0] / means[1]))


def covered(found: Effects, truth: Floats, rows: Mask) -> Floats:
    """Returns of each effect whether its drawn interval holds the truth."""
    low, high = found.drawn.low[rows], found.drawn.high[rows]
    return np.asarray((low - 1e-9 <= truth[rows]) & (truth[rows] <= high + 1e-9), np.float64)


def alone(found: Effects, truth: Floats, rows: Mask) -> Floats:
    """Returns of each effect that was measured whether its own interval holds the truth."""
    is_known = rows & np.isfinite(found.error)
    return np.asarray(np.abs(found.measured - truth)[is_known] <= _Z * found.error[is_known], np.float64)


def judged(fitted: Fitted, truth: Truth) -> dict[str, Any]:
    """Returns how near a fit comes to the truth."""
    every = np.ones(len(truth.own), np.bool_)
    cross, pairs = fitted.cross, truth.within | truth.apart
    away = (cross.drawn.value - truth.cross)[truth.within]
    told = cross.found & pairs
    return {
        "coverage": float(covered(cross, truth.cross, truth.within).mean()),
        "free_coverage": float(alone(cross, truth.cross, pairs).mean()),
        "own_coverage": float(covered(fitted.own, truth.own, every).mean()),
        "after_coverage": float(covered(fitted.after, truth.after, every).mean()),
        "bias": float(away.mean()),
        "error": float(np.sqrt(np.mean(away**2))),
        "own_error": float(np.sqrt(np.mean((fitted.own.drawn.value - truth.own) ** 2))),
        "width": float(np.mean((cross.drawn.high - cross.drawn.low)[truth.within])),
        "found": int(told.sum()),
        "found_false": int((told & (truth.cross * cross.measured <= 0)).sum()),
        "lent_found": int((told & truth.apart & (truth.cross > 0)).sum()),
    }


def naive(promoted: Promoted, truth: Truth) -> dict[str, float]:
    """Returns how near before/after comes."""
    value, error = before_after(promoted)
    away = (value - truth.cross)[truth.within]
    nothing = truth.apart & (truth.cross == 0) & np.isfinite(error)
    return {
        "bias": float(np.nanmean(away)),
        "error": float(np.sqrt(np.nanmean(away**2))),
        "coverage": float(np.mean((np.abs(value - truth.cross) <= _Z * error)[truth.within & np.isfinite(error)])),
        "false": float(np.mean((np.abs(value) > _Z * error)[nothing])),
    }


def nothing_there(promoted: Promoted, fitted: Fitted) -> list[float]:
    """Returns the share of pairs whose interval excludes 0 when promotions are moved to where they never were."""
    shares = []
    for weeks in SHIFTS:
        cross = placebo(promoted, fitted, weeks=weeks).cross
        known = np.isfinite(cross.error)
        shares.append(float(np.mean(np.abs(cross.measured[known]) > _Z * cross.error[known])))
    return shares


def played_out(seed: int, truth: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Returns and prints what one world gave."""
    world, known = played(seed, truth)
    promoted = promoted_in(world)
    cut = float(np.mean(promoted.exposed[np.isfinite(promoted.sold)] < 1))  # type: ignore[index]  # given above
    ours = effects(promoted, Settings(beyond=True))
    found = judged(ours, known)
    sales = as_sold(world, promoted)
    blind = judged(effects(sales, Settings(beyond=True)), known)
    simple = naive(sales, known)
    shares = nothing_there(promoted, ours)
    mean = float(known.cross[known.within].mean())
    say(f"seed {seed}, {truth}: {cut:.0%} of days sold out; {mean:+.4f} taken from each on average")
    say(f"  {'':12}{'bias':>9}{'error':>9}{'covered':>9}{'own error':>11}")
    for name, one in (("drawn", found), ("sales", blind)):
        say(f"  {name:12}{one['bias']:+9.4f}{one['error']:9.4f}{one['coverage']:9.3f}{one['own_error']:11.4f}")
    say(f"  {'before/after':12}{simple['bias']:+9.4f}{simple['error']:9.4f}{simple['coverage']:9.3f}")
    say(
        f"  own {found['own_coverage']:.3f}, after {found['after_coverage']:.3f}, free {found['free_coverage']:.3f} "
        f"covered; {found['found']} found, {found['found_false']} of them false, {found['lent_found']} lent; where "
        f"there is nothing {np.mean(shares):.3f} of pairs exclude 0 ({simple['false']:.3f} before/after)"
    )
    return {**found, "placebo": shares, "naive": simple, "truth": mean}


def figures_of(every: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Returns the figures over all worlds."""
    names = ("coverage", "free_coverage", "own_coverage", "after_coverage", "error")
    worst = max((one["bias"] for one in every), key=abs)
    return {
        **{name: float(np.mean([one[name] for one in every])) for name in names},
        "coverage_least": min(one["coverage"] for one in every),
        "false_share": float(np.mean([share for one in every for share in one["placebo"]])),
        "found_false": sum(one["found_false"] for one in every) / max(sum(one["found"] for one in every), 1),
        "bias": worst,
        "naive_bias": max((one["naive"]["bias"] for one in every), key=abs),
        "naive_error": float(np.mean([one["naive"]["error"] for one in every])),
        "naive_false": float(np.mean([one["naive"]["false"] for one in every])),
    }


def main() -> None:
    """Runs the bench and prints what it found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--short", action="store_true", help="one seed, one truth")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--first", type=int, default=FIRST_SEED)
    told = parser.parse_args()
    seeds = range(told.first, told.first + (1 if told.short else told.seeds))
    say: Callable[[str], None] = (lambda line: print(line, file=sys.stderr, flush=True)) if told.json else print
    every = [played_out(seed, truth, say) for seed in seeds for truth in (TRUTHS[:1] if told.short else TRUTHS)]
    rounded = {name: round(value, 4) for name, value in figures_of(every).items()} | {"seeds": len(seeds)}
    print(json.dumps(rounded) if told.json else f"{rounded}, bars {BARS}")


if __name__ == "__main__":
    main()
