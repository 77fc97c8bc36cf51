"""How much of the long-term value that can be had on the simulated world the shipped feed has: trivial to oracle.

    python bench/quality/feed_world.py [--json] [--short] [--seeds 5]

Simulated results, all of them. Each seed is a world of its own. For `HISTORY` days another system ranks (new posts of
those followed, popular ones, and much chance); then one policy ranks for `JUDGED` days, and the money of those days is
what it is judged by: readers who are fed well come back, others do not. All policies of a seed begin with one history.

Ours is the system as shipped: trained on the log of the history, then again every `RETRAINED` days on its own log, with
retrieval, exploration and delayed outcomes, decided by the real service, and a policy whose weights and stages were
chosen for this world (`OURS`). None of it sees a truth.
No deadline cuts anything short: what comes out does not depend on how busy the machine is.
Single-stage is the same retrieval in the order of the towers' product alone; pure CTR the same funnel with a weight on
clicks alone: it is what optimises engagement. Random, newest and popularity are rules of the world. The best of these
five is the best trivial. The oracle ranks by the true value of a post in the long run.

Weights, features and models were chosen on seeds 1 to 4; seeds from 101 on are judged.

Keys: headroom_share (mean over seeds of (ours − best trivial) / (oracle − best trivial), in money), headroom_low and
headroom_high (95 %, bootstrap over seeds), headroom_least, seeds; ctr_ours, ctr_pure, return_ours, return_pure (the
trade-off: clicks against readers who come back).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from paired import over_units

from decalog.clock import DAY, HOUR, ManualClock
from decalog.deployment import Deployment, Setup
from decalog.home import Home
from decalog.impressions import ImpressionHistory
from decalog.models.base import Floats
from decalog.registry import Registry
from decalog.serving import Service
from decalog.simulation import fill, rates_of
from decalog.slate_training import train_slates
from decalog.system import load
from decalog.systems.feed.policy import FeedWeights
from decalog.systems.feed.schema import SCHEMA
from decalog.systems.feed.simulate import World
from decalog.systems.feed.system import SYSTEM
from decalog.systems.feed.world.behaviour import Ask
from decalog.systems.feed.world.policies import POLICIES, Policy, another
from decalog.systems.feed.world.totals import Totals
from decalog.systems.feed.world.town import Town
from decalog.training import TrainingPlan, uncollected

FIRST_SEED, SEEDS, SHORT = 101, 5, 1
HISTORY, JUDGED, RETRAINED = 14, 21, 3
SCALE = 0.4
BAR = 0.7
RULES = ("random", "newest", "popularity", "oracle")
TRIVIAL = ("random", "newest", "popularity", "pure CTR", "single-stage")
PATIENCE_MS = 60_000
CHAMPION = msgspec.structs.replace(SYSTEM, models=SYSTEM.models[-1:], deadline_ms=PATIENCE_MS, found="")
HEADS = tuple(signal.head for signal in SCHEMA.signals)
BARE = FeedWeights(
    rerank="none",
    author_decay_bp=10_000,
    author_cap=100,
    authors_apart=False,
    out_of_network_bp=10_000,
    foreign_bp=10_000,
    repeat_author_bp=10_000,
    repeat_topic_bp=10_000,
    half_gain_age_s=3 * 86_400,
)
"""The default policy without what does readers of this world no good: the ranker knows what they tire of."""
OURS = msgspec.structs.replace(BARE, click_per_1000_minor=-400, hide_per_1000_minor=-10_000)
"""A glance costs a little and a stay makes up for it; for a log in which staying is reported, as here."""
CLICKS = msgspec.structs.replace(
    BARE,
    click_per_1000_minor=1_000,
    dwell_per_1000_minor=0,
    like_per_1000_minor=0,
    reply_per_1000_minor=0,
    share_per_1000_minor=0,
    hide_per_1000_minor=0,
    report_per_1000_minor=0,
)
PLAIN = msgspec.structs.replace(
    CLICKS,
    new_author_bp=10_000,
    half_gain_age_s=0,
    topic_decay_bp=10_000,
    topic_cap_bp=10_000,
    out_least_bp=0,
    explore_bp=0,
)


class Product:
    """A funnel whose ranker is the towers' product alone."""

    blocking = False

    def __init__(self, funnel: Any) -> None:
        self.towers, self.neighbours, self.kin = funnel.towers, funnel.neighbours, funnel.kin
        self._place = SYSTEM.features.names_for("model").index("two_tower")

    def predict(self, rows: Floats) -> Floats:
        """See `Model.predict`."""
        made = np.zeros((len(rows), len(HEADS)))
        made[:, HEADS.index("p_click")] = np.clip((2 + rows[:, self._place]) / 4, 0.0, 1.0)
        return made

    def save(self, folder: Path) -> dict[str, Any]:
        """It is never kept."""
        raise NotImplementedError


def by_rule(seed: int, policy: Policy, *, scale: float) -> Totals:
    """Returns what a rule of the world brings on the judged days, after the history that all have in common."""

    def switched(town: Town, ask: Ask) -> Any:
        is_judged = ask.at_us >= world.start_us + HISTORY * DAY
        return (policy if is_judged else another)(town, ask)

    world = World(seed, scale=scale, theirs=switched)
    world.advance(world.start_us + (HISTORY + JUDGED) * DAY, alone=True)
    return brought(world)


def brought(world: World, days: int = JUDGED) -> Totals:
    """Returns what came of the first days after the history."""
    return Totals.over(world.days[HISTORY : HISTORY + days])


def _whole(funnel: Any) -> Any:
    """Ranks as the funnel does."""
    return funnel


def by_service(seed: int, weights: FeedWeights, *, scale: float, ranker: Callable[[Any], Any] = _whole) -> Totals:
    """Returns what the system brings on the judged days: trained on the history, decided live, trained again."""
    world = World(seed, scale=scale)
    with tempfile.TemporaryDirectory() as folder:
        home, clock = Home(Path(folder)), ManualClock(world.start_us)
        log = home.writer(clock)
        deployment = Deployment(home, CHAMPION, log, Setup(rates=rates_of(world), policy=weights))
        fill(world, deployment.prepare(), clock=clock, days=HISTORY, say=quietly)
        train(deployment, weights)
        service = patient(deployment.service())
        swap(service, ranker(service.serving.model))
        for day in range(HISTORY, HISTORY + JUDGED):
            a_day(world, service, clock, day=day)
            if (day + 1 - HISTORY) % RETRAINED == 0 and day + 1 < HISTORY + JUDGED:
                swap(service, ranker(learnt(deployment)))
        log.close()
    return brought(world)


def train(deployment: Deployment, weights: FeedWeights) -> None:
    """Trains on the log of now and promotes what came out."""
    deployment.log.commit()
    plan = TrainingPlan(policy=weights, test_share=0.05)
    made = train_slates(CHAMPION, deployment.log, registry=deployment.registry, plan=plan)
    if not made.promoted:
        Registry(deployment.home.root).promote(SYSTEM.name, made.model, by="bench", why="the latest", at_us=0)


def learnt(deployment: Deployment) -> Any:
    """Returns the model that a training of now would let serve; without its report, which costs as much again."""
    return matured(joined(deployment))


def joined(deployment: Deployment) -> ImpressionHistory:
    """Returns what a log has shown, and what became of it."""
    deployment.log.commit()
    with uncollected():
        return ImpressionHistory(
            deployment.log.read(), SYSTEM.schema, features=SYSTEM.features, retrieval=load(SYSTEM.retrieval)
        )


def matured(history: ImpressionHistory) -> Any:
    """Returns a model of all that has matured."""
    return CHAMPION.models[-1].fit(history.part(history.complete, known_by=history.known_time), TrainingPlan().seed)


def patient(service: Service) -> Service:
    """Returns a service that no busy machine cuts short."""
    sources: Any = service.retrieval
    sources.deadline_ms = PATIENCE_MS
    return service


def swap(service: Service, model: Any) -> None:
    """Lets another model find and rank."""
    service.adopt(msgspec.structs.replace(service.serving, model=model))


def a_day(world: World, service: Service, clock: ManualClock, *, day: int) -> None:
    """Plays the world's clients through the service for a day."""
    for quarter in range(4 * 24):
        live(world, service, clock, until_us=world.start_us + day * DAY + (quarter + 1) * HOUR // 4)


def live(world: World, service: Service, clock: ManualClock, *, until_us: int) -> None:
    """Plays the world's clients through the service up to a time."""
    for message in world.advance(until_us):
        clock.set(max(message.at, clock.now_us()))
        if message.kind == "decide":
            _, decision, _ = service.decide(message.body)
            refs = tuple(slot.ref for slot in decision.choice.slots)
            world.react(message.body["id"], decision.choice.action, at_us=message.at, refs=refs)
        else:
            service.ingest.admit(message.kind, message.body)
    service.ingest.log.commit()


def rows_of(seed: int, *, scale: float) -> dict[str, Totals]:
    """Returns what each policy brings on one seed."""
    found = {name: by_rule(seed, POLICIES[name], scale=scale) for name in RULES}
    served = (("single-stage", PLAIN, Product), ("pure CTR", CLICKS, _whole), ("ours", OURS, _whole))
    for name, weights, ranker in served:
        found[name] = by_service(seed, weights, scale=scale, ranker=ranker)
        print(f"  seed {seed}, {name}: {found[name].minor:,.0f} minor", flush=True)
    return found


def print_rules(seeds: range) -> None:
    """Prints what each rule of the world brings, and ranking by the true probability of a click, and the oracle."""
    for name in (*RULES, "clicks"):
        every = Totals.over(by_rule(seed, POLICIES[name], scale=SCALE) for seed in seeds)
        print(f"  {name:14} {every.minor / len(seeds):10,.0f} minor  {every}", flush=True)


def headroom(found: dict[str, Totals]) -> float:
    """Returns the share of what can be had beyond the best trivial policy."""
    trivial = max(found[name].minor for name in TRIVIAL)
    return (found["ours"].minor - trivial) / (found["oracle"].minor - trivial)


def quietly(_line: str) -> None:
    """Says nothing."""


def main() -> None:
    """Runs it and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--short", action="store_true", help="one seed, a smaller world")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--first", type=int, default=FIRST_SEED)
    parser.add_argument("--rules", action="store_true", help="only what rules of the world bring, and the true clicks")
    given = parser.parse_args()
    if given.rules:
        print_rules(range(given.first, given.first + given.seeds))
        return
    count, scale = (SHORT, SCALE / 2) if given.short else (given.seeds, SCALE)
    seeds = range(given.first, given.first + count)
    every = []
    print(f"simulated: {HISTORY} days of history, {JUDGED} judged, world at {scale:g} of its size")
    for seed in seeds:
        found = rows_of(seed, scale=scale)
        every.append(found)
        print(f"seed {seed}: headroom {headroom(found):.3f}", flush=True)
        for name, totals in sorted(found.items(), key=lambda both: both[1].minor):
            print(f"  {name:14} {totals.minor:10,.0f} minor  {totals}", flush=True)
    shares = np.array([headroom(found) for found in every])
    share = over_units(shares)
    print(f"headroom {share.value:.3f} ({share.low:.3f} to {share.high:.3f}), bar {BAR}")
    if given.json:
        both = {name: Totals.over(found[name] for found in every) for name in ("ours", "pure CTR")}
        figures = {
            "headroom_share": round(share.value, 4),
            "headroom_low": round(share.low, 4),
            "headroom_high": round(share.high, 4),
            "headroom_least": round(float(shares.min()), 4),
            "seeds": len(shares),
            "ctr_ours": round(both["ours"].ctr, 4),
            "ctr_pure": round(both["pure CTR"].ctr, 4),
            "return_ours": round(both["ours"].return_rate, 4),
            "return_pure": round(both["pure CTR"].return_rate, 4),
        }
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
