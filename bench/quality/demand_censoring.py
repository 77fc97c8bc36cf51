"""How near recovered demand comes to what was wanted, where shelves were emptied on purpose; what that is worth.

    python bench/quality/demand_censoring.py [--json] [--short] [--seeds 3] [--first 101]

Simulated results, all of them. Of each seed's world what was wanted is known, hour by hour. Shelves are then filled for
each day by what a planner knows (the mean of four weeks) times a number that decides what sells out; sales stop when
they are empty. Three ways of emptying them, none of them at random in what was wanted: the more popular, the tighter
(`popular`); all of them tight (`tight`); three days in ten with far too little (`failed`: the others are filled well).

- sales: taken for demand, as they are.
- whole days: the mean of days that did not sell out, same series and weekday, in the place of those that did.
- recovered: `systems/demand/latent.py`.

Bias is total over total wanted, less 1. Profit is of the days after: the same newsvendor orders each day for each
series the quantile (price − cost) / price of a negative binomial around the mean that the factors foresee, once learnt
from each kind of history, once from what was wanted. Waste loses the cost, what is not there the margin.

Factors and their shrinkage were chosen on seeds 1 and 2 with `popular`.

Keys: abs_bias (largest over seeds and ways, recovered, all days), worst_decile_bias (largest of any decile of series by
what is wanted), sales_bias (least severe), profit_gap (largest loss of profit against a history of what was wanted),
z_spread (standard deviation of (wanted − recovered) / spread on days that sold out), seeds.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from scipy import stats

from decalog.systems.demand import drivers, latent
from decalog.systems.demand.drivers import Days
from decalog.systems.demand.latent import Floats, Ints, Latent, Mask, Seen
from decalog.systems.demand.simulate import World
from decalog.systems.demand.world.params import WorldParams
from decalog.systems.demand.world.shops import is_eve

FIRST_SEED, SEEDS = 101, 3
LEARNT, AFTER = 280, 28
SCALE = 0.5
BARS = {"abs_bias": 0.01, "worst_decile_bias": 0.03, "profit_gap": 0.03}
WAYS = ("popular", "tight", "failed")
_REMEMBERED = 28
_DECILES = 10


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What was wanted in a world: series × days × hours, and what moved it."""

    units: Ints
    offered: Mask
    days: Days
    price: Floats
    cost: Floats

    def first(self, count: int) -> Wanted:
        """Returns the first days."""
        days = msgspec.structs.replace(
            self.days,
            dates=self.days.dates[:count],
            discount=self.days.discount[:, :count],
            eves=self.days.eves[:count],
        )
        return msgspec.structs.replace(self, units=self.units[:, :count], offered=self.offered[:, :count], days=days)


def wanted_in(seed: int, *, scale: float, days: int) -> Wanted:
    """Returns what is wanted in a seed's world, whatever the shelves hold."""
    world = World(seed, WorldParams().perturbed(seed), scale=scale)
    calendar, shops = world.calendar, world.shops
    none: frozenset[str] = frozenset()
    dates = [calendar.date(day) for day in range(days)]
    item = np.tile(np.arange(shops.items), shops.stores)
    rates = np.stack([calendar.rate(day, none) for day in range(days)], axis=1)
    return Wanted(
        units=np.stack([calendar.wanted(day, none) for day in range(days)], axis=1),
        offered=rates > 0,
        days=Days(
            item=item,
            store=np.repeat(np.arange(shops.stores), shops.items),
            category=np.tile(shops.category, shops.stores),
            dates=dates,
            discount=np.stack([calendar.discount(day) for day in range(days)], axis=1)[item],
            eves=np.array([is_eve(date) for date in dates]),
        ),
        price=shops.price[item].astype(np.float64),
        cost=shops.cost[item].astype(np.float64),
    )


def filled(wanted: Wanted, way: str, *, seed: int) -> Ints:
    """Returns the units on each shelf in the morning, series × days."""
    totals = wanted.units.sum(axis=2).astype(np.float64)
    n, days = totals.shape
    rng = np.random.default_rng([seed, WAYS.index(way)])
    before = np.concatenate([np.repeat(totals[:, :1], _REMEMBERED, axis=1), totals[:, :-1]], axis=1)
    sums = np.cumsum(np.pad(before, ((0, 0), (1, 0))), axis=1)
    known = (sums[:, _REMEMBERED:] - sums[:, :-_REMEMBERED])[:, :days] / _REMEMBERED
    popular = np.argsort(np.argsort(totals.mean(axis=1)))[:, None] / n
    tight = {
        "popular": 1.7 - 0.75 * popular + 0.25 * rng.normal(size=(n, days)),
        "tight": 1.05 + 0.35 * rng.normal(size=(n, days)),
        "failed": np.where(rng.random((n, days)) < 0.3, 0.6, 3.0),
    }[way]
    return np.asarray(np.maximum(np.rint(known * tight), 0), np.int64)


def seen_of(wanted: Wanted, stock: Ints | None) -> Seen:
    """Returns what the tills saw; all of it where the shelves were never empty."""
    sold, empty = wanted.units, np.zeros(wanted.units.shape, np.bool_)
    if stock is not None:
        through = np.minimum(np.cumsum(wanted.units, axis=2), stock[:, :, None])
        sold, empty = np.diff(through, axis=2, prepend=0), through >= stock[:, :, None]
    return Seen(
        units=sold,
        empty=empty & wanted.offered[:, :, None],
        known=wanted.offered,
        kinds=wanted.days.category,
        factors=wanted.days.levels(),
        shrunk=drivers.SHRUNK,
    )


def by_whole_days(seen: Seen) -> Floats:
    """Returns demand where days that sold out are taken for the mean of those that did not."""
    sold, is_cut = seen.units.sum(axis=2).astype(np.float64), seen.empty.any(axis=2)
    weekday = seen.factors["weekday"] % 7
    made: Floats = sold.copy()
    for day in range(7):
        is_whole = seen.known & ~is_cut & (weekday == day)
        mean = np.sum(sold * is_whole, axis=1) / np.maximum(is_whole.sum(axis=1), 1)
        there = is_cut & (weekday == day)
        made[there] = np.maximum(sold, np.broadcast_to(mean[:, None], sold.shape))[there]
    return made


def profit(learnt: Latent, wanted: Wanted) -> float:
    """Returns what a newsvendor earns in the days after those that were learnt from."""
    ahead, levels = wanted.days.levels(), wanted.first(LEARNT).days.levels()
    known = {name: ahead[name][:, LEARNT:] for name in drivers.LASTING}
    # What an item and a series came to lately holds on; what a week or a day will bring is not known.
    lately = {name: learnt.factors[name][levels[name][:, -1]] for name in ("item and week", "series and month")}
    mean = learnt.foreseen(known) * (lately["item and week"] * lately["series and month"])[:, None]
    share, shape = ((wanted.price - wanted.cost) / wanted.price)[:, None], learnt.shape[:, None]
    order = stats.nbinom.ppf(share, shape, shape / (shape + mean))
    asked = wanted.units[:, LEARNT:].sum(axis=2) * wanted.offered[:, LEARNT:]
    order = np.where(wanted.offered[:, LEARNT:], order, 0)
    sold = np.minimum(order, asked)
    return float(np.sum(sold * wanted.price[:, None] - order * wanted.cost[:, None]))


def judged(wanted: Wanted, way: str, *, seed: int) -> dict[str, Any]:
    """Returns how near each way of reading a censored history comes."""
    past = wanted.first(LEARNT)
    seen = seen_of(past, filled(past, way, seed=seed))
    truth, is_cut = past.units.sum(axis=2).astype(np.float64), np.asarray(seen.empty.any(axis=2))
    found = latent.latent(seen)
    read: dict[str, Floats] = {
        "sales": seen.units.sum(axis=2).astype(np.float64),
        "whole days": by_whole_days(seen),
        "recovered": found.demand,
    }
    rank = np.argsort(np.argsort(truth.sum(axis=1))) * _DECILES // len(truth)
    deciles = [np.asarray(past.offered & (rank == decile)[:, None]) for decile in range(_DECILES)]
    whole = latent.latent(seen_of(past, None))
    as_sold = latent.latent(msgspec.structs.replace(seen, empty=np.zeros_like(seen.empty)))
    best = profit(whole, wanted)
    z = (truth - found.demand)[is_cut] / np.maximum(found.spread[is_cut], 0.5)
    return {
        "cut": float(is_cut.sum() / past.offered.sum()),
        "bias": {name: _bias(demand, truth, past.offered) for name, demand in read.items()},
        "bias where sold out": {name: _bias(demand, truth, is_cut) for name, demand in read.items()},
        "deciles": [_bias(found.demand, truth, rows) for rows in deciles],
        "profit gap": {"sales": 1 - profit(as_sold, wanted) / best, "recovered": 1 - profit(found, wanted) / best},
        "z": float(z.std()),
    }


def _bias(found: Floats, truth: Floats, rows: Mask) -> float:
    return float(found[rows].sum() / truth[rows].sum() - 1)


def show(found: dict[str, Any], *, seed: int, way: str, say: Callable[[str], None]) -> None:
    """Prints what one way of emptying shelves gave."""
    say(f"seed {seed}, {way}: {found['cut']:.0%} of days sold out; bias of all days, and of those that sold out")
    for name, bias in found["bias"].items():
        gap = found["profit gap"].get(name)
        money = "" if gap is None else f"   profit gap {gap:+.2%}"
        say(f"  {name:11} {bias:+7.2%}  {found['bias where sold out'][name]:+7.2%}{money}")
    say("  recovered, by decile: " + "  ".join(f"{bias:+.1%}" for bias in found["deciles"]) + f"   z {found['z']:.2f}")


def main() -> None:
    """Runs the bench and prints what it found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--short", action="store_true", help="one seed")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--first", type=int, default=FIRST_SEED)
    parser.add_argument("--scale", type=float, default=SCALE)
    told = parser.parse_args()
    seeds = range(told.first, told.first + (1 if told.short else told.seeds))
    say: Callable[[str], None] = (lambda line: print(line, file=sys.stderr, flush=True)) if told.json else print
    every = []
    for seed in seeds:
        wanted = wanted_in(seed, scale=told.scale, days=LEARNT + AFTER)
        for way in WAYS:
            every.append(judged(wanted, way, seed=seed))
            show(every[-1], seed=seed, way=way, say=say)
    figures = {
        "abs_bias": max(abs(one["bias"]["recovered"]) for one in every),
        "worst_decile_bias": max(abs(bias) for one in every for bias in one["deciles"]),
        "sales_bias": max(one["bias"]["sales"] for one in every),
        "profit_gap": max(one["profit gap"]["recovered"] for one in every),
        "z_spread": float(np.mean([one["z"] for one in every])),
        "seeds": len(seeds),
    }
    rounded = {name: round(value, 4) for name, value in figures.items()}
    print(json.dumps(rounded) if told.json else f"{rounded}, bars {BARS}")


if __name__ == "__main__":
    main()
