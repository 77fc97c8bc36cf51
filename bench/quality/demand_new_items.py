"""New items: how much nearer their first fortnight is forecast when planners name a like item.

    python bench/quality/demand_new_items.py [--json] [--short] [--seeds 3] [--first 101]

Simulated results. Each seed is a world of its own, settings moved by `WorldParams.perturbed`, in which four items in
ten come during the first 300 days, and planners name a like for each item: of its category, there from the first day,
and about as popular, a guess that errs by 0.4 in logs. A planner's rule orders for 200 days. `grown`, as demand trains
it, learns from what was known on day 120, and is judged on the requests of the days after it, by what was wanted, which
the world tells: once as it is, and once fitted without `Young` (the level then falls to the item's and the category's).

Keys: pinball_ratio (mean over seeds of the pinball loss with likes over that without, requests of an item's first 14
days), ratio_low, ratio_high (95 %, bootstrap over seeds), ratio_most, first_ratio (the same of requests from before the
first day of sales), coverage_80 and coverage_80_without (of these 14 days), warm_ratio (of all requests after them),
requests.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from paired import over_units

from decalog.clock import DAY, ManualClock
from decalog.deployment import Deployment, Setup
from decalog.examples import Examples
from decalog.home import Home
from decalog.models import quantities
from decalog.quantity_training import history_of
from decalog.simulation import fill, rates_of
from decalog.systems.demand.models import GROWN
from decalog.systems.demand.schema import LEVELS
from decalog.systems.demand.simulate import World
from decalog.systems.demand.system import SYSTEM
from decalog.systems.demand.world.params import WorldParams

DAYS, LEARNT, FORTNIGHT, SCALE = 200, 120, 14, 0.5
TAU = np.array(LEVELS)


class Judged(NamedTuple):
    """Pinball losses and whether 80 % intervals hold, of requests, and the age of each one's item in days."""

    losses: dict[str, np.ndarray]
    covered: dict[str, np.ndarray]
    age: np.ndarray


def judged(seed: int, scale: float) -> Judged:
    """Returns what each form of the model makes of the later part of a seed's world."""
    params = msgspec.structs.replace(WorldParams().perturbed(seed), new_items=0.4, likes=1.0)
    world = World(seed, params, scale=scale)
    with tempfile.TemporaryDirectory() as folder:
        clock = ManualClock(world.start_us)
        log = Home(Path(folder)).writer(clock)
        deployment = Deployment(Home(Path(folder)), SYSTEM, log, Setup(rates=rates_of(world)))
        fill(world, deployment.prepare(), clock=clock, days=DAYS, say=lambda _line: None)
        history = history_of(SYSTEM, log)
        log.close()
    learnt = world.start_us + LEARNT * DAY
    early = history.as_of(learnt)
    train = history.part(early.take(early.labelled), seed=0)
    later = history.now
    later = later.take(later.times > learnt)
    wanted, age = truth(world, later)
    rows = later.rows[:, list(history.features.places_for("model"))]
    losses, covered = {}, {}
    for name, young in (("with", GROWN.young), ("without", None)):
        made = quantities.fit(train, 0, params=msgspec.structs.replace(GROWN, young=young)).predict(rows)[:, 1:]
        error = wanted[:, None] - made
        losses[name] = np.mean(np.maximum(TAU * error, (TAU - 1) * error), axis=1)
        low, high = (made[:, LEVELS.index(level)] for level in (0.1, 0.9))
        begin, end = np.maximum(wanted - 0.5, 0), wanted + 0.5
        covered[name] = np.maximum(np.minimum(end, high) - np.maximum(begin, low), 0) / (end - begin)
    return Judged(losses, covered, age)


def truth(world: World, later: Examples) -> tuple[np.ndarray, np.ndarray]:
    """Returns what was wanted on the days of each request, NaN where they are not over, and the age of its item."""
    wanted, age = [], []
    for request in later.requests:
        ask = world._asked[request.id]  # noqa: SLF001 - the truth is for benches
        days = [world.sold[ask.day + ahead].wanted[ask.series].sum() for ahead in ask.ahead if ask.day + ahead < DAYS]
        wanted.append(float(sum(days)) if len(days) == len(ask.ahead) else np.nan)
        begins = int(world.shops.begins[ask.item])
        age.append(ask.day + 1 - begins if begins else DAYS)
    return np.array(wanted), np.array(age)


def main() -> None:
    """Runs it and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--short", action="store_true", help="one seed, a smaller world")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=101)
    given = parser.parse_args()
    count, scale = (1, SCALE / 2) if given.short else (given.seeds, SCALE)
    rows = []
    print(f"simulated: learnt from {LEARNT} days, judged on {DAYS - LEARNT}, world at {scale:g} of its size")
    heads = ("seed", "requests", "with", "without", "ratio", "before", "warm", "80 %", "without")
    print("".join(f"{head:>10}" for head in heads))
    for seed in range(given.first, given.first + count):
        found = judged(seed, scale)
        is_known = np.isfinite(found.losses["with"])
        new, first, warm = (is_known & kind for kind in (found.age <= FORTNIGHT, found.age <= 1, found.age > FORTNIGHT))
        ratios = [
            float(np.sum(found.losses["with"][at]) / np.sum(found.losses["without"][at])) for at in (new, first, warm)
        ]
        covered = [float(found.covered[name][new].mean()) for name in ("with", "without")]
        rows.append((*ratios, *covered, int(new.sum())))
        means = [float(found.losses[name][new].mean()) for name in ("with", "without")]
        print(
            f"{seed:10}{new.sum():10,}" + "".join(f"{number:10.3f}" for number in (*means, *ratios, *covered)),
            flush=True,
        )
    told = np.array(rows)
    ratio = over_units(told[:, 0])
    print(f"pinball ratio {ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f})")
    if given.json:
        figures = {
            "pinball_ratio": ratio.value,
            "ratio_low": ratio.low,
            "ratio_high": ratio.high,
            "ratio_most": float(told[:, 0].max()),
            "first_ratio": float(told[:, 1].mean()),
            "warm_ratio": float(told[:, 2].mean()),
            "coverage_80": float(told[:, 3].mean()),
            "coverage_80_without": float(told[:, 4].mean()),
            "requests": float(told[:, 5].sum()),
        }
        print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
