"""What shared limits cost a night of orders, and how far ordering by prices is from the best plan of whole cases.

    python bench/quality/demand_limits.py [--json] [--short] [--seeds 3] [--first 1]

Simulated results. Each seed is a world of its own, settings moved by `WorldParams.perturbed`, twenty times as many
items as by default: 8,000 series. A planner's rule orders for 30 days; on the night after them every request is decided
by the policy on the true distribution of demand, so that limits are judged and not a forecast. Then limits are set: a
budget of so much of what the free night spends, and a room for each store's deliveries of so much of what they take on
that night, alone and together. Prices are those that `decalog budget demand` finds; the best plan and the bound are
those of HiGHS, through `scipy.optimize.milp` (30 s at most).

Keys: gap_share (mean over nights of what prices leave of the bound), gap_most, solver_gap_share (the same of the best
plan found), worth_kept (what prices keep of the free night's worth, mean), seconds (CPU, mean a night: pieces, prices,
best plan), orders (mean).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from decalog.candidates import Candidate
from decalog.clock import DAY
from decalog.decisions import Choice, Decision, Versions
from decalog.events import Event
from decalog.systems.demand.limits import Limit, Night
from decalog.systems.demand.policy import COST, PRICE, OrderCosts
from decalog.systems.demand.schema import HEADS
from decalog.systems.demand.simulate import World
from decalog.systems.demand.world.params import WorldParams

HISTORY, SCALE = 30, 20.0
SHARES = (0.5, 0.8)
COSTS = OrderCosts()


def decisions(seed: int, scale: float) -> list[Decision]:
    """Returns what is asked on the night after the history, with the true distribution of what will be wanted."""
    world = World(seed, WorldParams().perturbed(seed), scale=scale)
    world.advance(world.start_us + HISTORY * DAY, alone=True)
    asked = [one.body for one in world.advance(world.start_us + (HISTORY + 1) * DAY) if one.kind == "decide"]
    return [decision(world, body) for body in asked]


def decision(world: World, body: dict[str, Any]) -> Decision:
    """Returns a request as a decision that no policy has made yet."""
    facts = {name: value for name, value in body.items() if isinstance(value, int) or name == "store"}
    facts |= {PRICE: body["price_minor"], COST: body["unit_cost_minor"]}
    truth = world.truth(body["id"])
    said = Candidate(body["id"], "request", {head: float(truth[head]) for head in HEADS})
    request = Event(body["id"], "replenishment", 0, 0, {}, facts)
    return Decision(body["id"], request, 0, (said,), Choice(()), Versions("", "", "", 0))


def limited(night: Night, share: float) -> Iterator[tuple[str, list[Limit]]]:
    """Yields the limits of a share of what the free night takes: of money, of each delivery's room, and of both."""
    places = sorted({one.places[2] for one in night.asked})
    free = night.bought(COSTS, [Limit("money", "", 0.0), *(Limit("volume", place, 0.0) for place in places)]).taken
    money = [Limit("money", "", share * free[0])]
    room = [Limit("volume", place, share * float(taken)) for place, taken in zip(places, free[1:], strict=True)]
    yield from (("budget", money), ("room", room), ("both", [*money, *room]))


def rows(seed: int, scale: float) -> Iterator[dict[str, Any]]:
    """Yields what came of each night's limits."""
    begun = time.process_time()
    night = Night(decisions(seed, scale), COSTS)
    made_s = time.process_time() - begun
    free = night.bought(COSTS, [])
    for share in SHARES:
        for name, limits in limited(night, share):
            begun = time.process_time()
            kept = night.kept(limits)
            yield {
                "seed": seed,
                "limits": f"{name} {share:.0%}",
                "orders": len(night.asked),
                "gap": kept.gap_minor / kept.bound_minor,
                "solver_gap": (kept.bound_minor - kept.best.worth_minor) / kept.bound_minor,
                "kept": kept.priced.worth_minor / free.worth_minor,
                "prices": len(kept.prices),
                "s": time.process_time() - begun,
                "made_s": made_s,
            }


def main() -> None:
    """Runs it and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--short", action="store_true", help="one seed, 400 series")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=1)
    given = parser.parse_args()
    count, scale = (1, 1.0) if given.short else (given.seeds, SCALE)
    found = []
    print(f"simulated, world at {scale:g} of its size; worth over ordering nothing")
    print(f"{'seed':>4}  {'limits':12}{'orders':>8}{'prices':>8}{'gap':>9}{'solver':>9}{'kept':>8}{'CPU s':>8}")
    for seed in range(given.first, given.first + count):
        for row in rows(seed, scale):
            found.append(row)
            print(
                f"{seed:4}  {row['limits']:12}{row['orders']:8,}{row['prices']:8}{row['gap']:9.3%}"
                f"{row['solver_gap']:9.4%}{row['kept']:8.1%}{row['s']:8.1f}",
                flush=True,
            )
    gaps = np.array([row["gap"] for row in found])
    print(f"by prices at most {gaps.mean():.3%} of the bound is left, {gaps.max():.3%} at most")
    if given.json:
        figures = {
            "gap_share": float(gaps.mean()),
            "gap_most": float(gaps.max()),
            "solver_gap_share": float(np.mean([row["solver_gap"] for row in found])),
            "worth_kept": float(np.mean([row["kept"] for row in found])),
            "seconds": float(np.mean([row["s"] + row["made_s"] for row in found])),
            "orders": float(np.mean([row["orders"] for row in found])),
        }
        print(json.dumps({name: round(value, 6) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
