"""How much of the money that better orders can earn demand's orders earn: between trivial rules and the oracle.

    python bench/quality/demand_world.py [--json] [--short] [--seeds 3] [--first 101] [--rules]

Simulated results, all of them. Each seed is a world of its own: settings moved by `WorldParams.perturbed`, half as many
items as by default. A planner's rule orders for 120 days, the system learns from that log, as `decalog train` has it,
and decides live for 56 days on the log that it makes itself; it is trained again after four weeks. What counts is what
the world earns on those 56 days: margin of what is sold, less what spoils and what lying there costs.

Trivial rules order up to, less what is there: the mean of four weeks of days that did not sell out, and 0.7 of a day's
sales on top (`moving average`, which also made the history); the mean of that weekday over six weeks, and a day on top
(`weekday`); mean and 1.65 standard deviations of four weeks' sales (`95 % service`); yesterday's sales for each day
(`naive`). The best of them *on the judged days* is what is taken as the best trivial.

- fallback: the policy's own rule, without a model.
- average, rate: the same policy over the baselines of the system's MODELS.
- point: ordering up to the true mean of demand: a perfect point forecast without a distribution.
- oracle: the same policy on the true distribution of demand, shocks of days to come included.

Rules, model settings and this protocol were chosen on seeds 1 to 4, before any seed from 101 on was run.

Keys: headroom_share (mean over seeds of (ours − best trivial) / (oracle − best trivial)), headroom_low, headroom_high
(95 %, bootstrap over seeds), headroom_least, seeds, fill_rate and wasted of ours.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from paired import over_units

from decalog.candidates import Candidate
from decalog.clock import DAY, HOUR, ManualClock
from decalog.deployment import Deployment, Setup
from decalog.events import Event
from decalog.home import Home
from decalog.policy import Case
from decalog.quantity_training import train_quantities
from decalog.registry import Registry
from decalog.serving import Service
from decalog.simulation import fill, rates_of
from decalog.systems.demand.policy import COST, PRICE, OrderCosts, OrderPolicy
from decalog.systems.demand.schema import HEADS
from decalog.systems.demand.simulate import Rule, World, moving_average
from decalog.systems.demand.system import SYSTEM
from decalog.systems.demand.world import telling
from decalog.systems.demand.world.params import WorldParams
from decalog.systems.demand.world.telling import Ask
from decalog.systems.demand.world.totals import Totals
from decalog.training import TrainingPlan

FIRST_SEED, SEEDS, BAR = 101, 3, 0.7
HISTORY, JUDGED, RETRAINED, SCALE = 120, 56, 28, 0.5
POLICY = OrderPolicy(OrderCosts())
MODELS = ("average", "rate", "grown")


def up_to(units: float, ask: Ask) -> int:
    """Returns the whole cases that bring what is there nearest to a level; something, where nothing is there."""
    there = ask.on_hand + ask.on_order
    return ask.cases(units - there) or (0 if there else ask.pack)


def sales(world: World, ask: Ask, days: int) -> Any:
    """Returns what a series sold on its last days."""
    return np.array([sold.units[ask.series].sum() for sold in world.sold[-days:]], np.float64)


def weekday(world: World, ask: Ask) -> int:
    """Returns an order for the mean of each weekday, and a day's sales on top."""
    past = sales(world, ask, 42)
    usual = past.mean()
    level = sum(past[-7 + (ahead - 1) % 7 :: -7].mean() if len(past) >= 7 else usual for ahead in ask.ahead)
    return up_to(level + usual, ask)


def service_95(world: World, ask: Ask) -> int:
    """Returns an order for mean and 1.65 standard deviations."""
    past = sales(world, ask, 28)
    return up_to(past.mean() * ask.horizon_days + 1.65 * past.std() * ask.horizon_days**0.5, ask)


def naive(world: World, ask: Ask) -> int:
    """Returns an order for yesterday's sales on each day."""
    return up_to(float(sales(world, ask, 1)[0]) * ask.horizon_days, ask)


def point(world: World, ask: Ask) -> int:
    """Returns an order up to the true mean of demand."""
    return up_to(float(world.truth(ask.id)["demand_mean"]), ask)


def oracle(world: World, ask: Ask) -> int:
    """Returns the policy's order on the true distribution."""
    truth, body = world.truth(ask.id), telling.request(world, ask)
    facts: dict[str, Any] = {name: value for name, value in body.items() if isinstance(value, int)}
    facts |= {PRICE: body["price_minor"], COST: body["unit_cost_minor"]}
    said = Candidate(ask.id, "request", {head: float(truth[head]) for head in HEADS})
    case = Case(Event(ask.id, "replenishment", ask.at_us, 0, {}, facts), (said,), {}, lambda _name: 0.0)
    return int(POLICY.decide(case).choice.slots[0].value or 0)


TRIVIAL: Mapping[str, Rule] = {
    "moving average": moving_average,
    "weekday": weekday,
    "95 % service": service_95,
    "naive": naive,
}
RULES: Mapping[str, Rule] = {**TRIVIAL, "point": point, "oracle": oracle}


def world_of(seed: int, scale: float, theirs: Rule = moving_average) -> World:
    """Returns a seed's world."""
    return World(seed, WorldParams().perturbed(seed), scale=scale, theirs=theirs)


def judged(world: World) -> Totals:
    """Returns what came of the judged days."""
    return Totals.over(world.days[HISTORY : HISTORY + JUDGED])


def by_rule(seed: int, rule: Rule, *, scale: float) -> Totals:
    """Returns what a rule earns on the judged days, after the history that all have in common."""

    def switched(world: World, ask: Ask) -> int:
        return (rule if ask.day >= HISTORY else moving_average)(world, ask)

    world = world_of(seed, scale, switched)
    world.advance(world.start_us + (HISTORY + JUDGED) * DAY, alone=True)
    return judged(world)


def by_service(seed: int, model: str, *, scale: float) -> Totals:
    """Returns what the system earns on the judged days: trained on the history, decided live, trained again.

    Args:
        seed: of the world.
        model: kind that decides; "" for none, which is the fallback.
        scale: of the world.
    """
    world = world_of(seed, scale)
    kept = tuple(spec for spec in SYSTEM.models if spec.name == model) or SYSTEM.models[:1]
    system = msgspec.structs.replace(SYSTEM, models=kept, deadline_ms=60_000)
    with tempfile.TemporaryDirectory() as folder:
        home, clock = Home(Path(folder)), ManualClock(world.start_us)
        log = home.writer(clock)
        deployment = Deployment(home, system, log, Setup(rates=rates_of(world)))
        fill(world, deployment.prepare(), clock=clock, days=HISTORY, say=lambda _line: None)
        if model:
            train(system, deployment)
        service = deployment.service()
        for day in range(HISTORY, HISTORY + JUDGED):
            live(world, service, clock, until_us=world.start_us + (day + 1) * DAY)
            if model and (day + 1 - HISTORY) % RETRAINED == 0:
                train(system, deployment)
                deployment.refresh(service)
        log.close()
    return judged(world)


def train(system: Any, deployment: Deployment) -> None:
    """Trains on the log of now and promotes what came out."""
    deployment.log.commit()
    made = train_quantities(system, deployment.log, registry=deployment.registry, plan=TrainingPlan(refit=True))
    if not made.promoted:
        Registry(deployment.home.root).promote(SYSTEM.name, made.model, by="bench", why="the latest", at_us=0)


def live(world: World, service: Service, clock: ManualClock, *, until_us: int) -> None:
    """Plays the world's shops through the service up to a time, hour by hour."""
    for hour_us in range(until_us - DAY + HOUR, until_us + HOUR, HOUR):
        for message in world.advance(hour_us - 1):
            clock.set(max(message.at, clock.now_us()))
            if message.kind == "decide":
                _, decision, _ = service.decide(message.body)
                choice = decision.choice
                world.react(message.body["id"], choice.action, at_us=message.at, refs=choice.contents)
            else:
                service.ingest.admit(message.kind, message.body)
    service.ingest.log.commit()


def rows_of(seed: int, *, scale: float, say: Callable[[str], None]) -> dict[str, Totals]:
    """Returns what each policy earns on one seed."""
    found = {name: by_rule(seed, rule, scale=scale) for name, rule in RULES.items()}
    for name, model in (("fallback", ""), *((one, one) for one in MODELS)):
        found["ours" if name == MODELS[-1] else name] = by_service(seed, model, scale=scale)
        say(f"  played {name}")
    return found


def headroom(found: Mapping[str, Totals]) -> float:
    """Returns the share of what can be earned beyond the best trivial rule."""
    trivial = max(found[name].minor for name in TRIVIAL)
    return (found["ours"].minor - trivial) / (found["oracle"].minor - trivial)


def main() -> None:
    """Runs it and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--short", action="store_true", help="one seed, a smaller world")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--first", type=int, default=FIRST_SEED)
    parser.add_argument("--rules", action="store_true", help="only what rules earn")
    given = parser.parse_args()
    count, scale = (1, SCALE / 2) if given.short else (given.seeds, SCALE)
    every = []
    print(f"simulated: {HISTORY} days of history, {JUDGED} judged, world at {scale:g} of its size", flush=True)
    for seed in range(given.first, given.first + count):
        if given.rules:
            found = {name: by_rule(seed, rule, scale=scale) for name, rule in RULES.items()}
        else:
            found = rows_of(seed, scale=scale, say=lambda line: print(line, flush=True))
            every.append(found)
        share = f"headroom {headroom(found):.3f}" if "ours" in found else "rules alone"
        print(f"seed {seed}: {share}", flush=True)
        for name, totals in sorted(found.items(), key=lambda both: both[1].minor):
            print(f"  {name:15} {totals.minor:12,.0f} minor  {totals}", flush=True)
    if not every:
        return
    shares = np.array([headroom(found) for found in every])
    share = over_units(shares)
    print(f"headroom {share.value:.3f} ({share.low:.3f} to {share.high:.3f}), bar {BAR}")
    if given.json:
        ours = Totals.over(found["ours"] for found in every)
        figures = {
            "headroom_share": share.value,
            "headroom_low": share.low,
            "headroom_high": share.high,
            "headroom_least": float(shares.min()),
            "seeds": len(shares),
            "fill_rate": ours.sold / max(ours.wanted, 1),
            "wasted": ours.wasted / max(ours.sold + ours.wasted, 1),
        }
        print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
