"""Whether bad challengers are stopped: each is trained with one fault, and the loop goes round until it is out or in.

    python bench/faults/spine_bad_challengers.py [--json] [--short] [--systems fraud,feed] [--only unit] [--seed 301]

Simulated results, all of them. One town a system: another system decided for some days, a champion was trained on an
early part of them and has decided for a day. Then, from that same moment, once for each fault, a challenger is trained
by the system's own training but for the fault, and is registered as training registers it. The loop alone decides what
becomes of it, day by day. A challenger without a fault would be better than this champion, so that "not better" does
not stop everything.

- poisoned labels: in fraud the larger half of the reported frauds is turned to genuine; in feed a farm clicks and likes
  on three in ten posts of the authors with few followers.
- unit error × 100 and ÷ 100: learnt from amounts (fraud), counts and ages (feed) of another size than one decides by.
- leaked feature: history was exported after a job had written into each request how it ended. Training and what the
  gate judges on hold it; a live request does not, yet.
- calibration × 3 and ÷ 3: the odds of all that it predicts, after training.
- a slice made worse: nine in ten of the outcomes of one value of a declared slice were lost on their way.

Beside them two without a fault: `better`, from all of the history, has to be promoted, else the bench proves nothing;
`twin`, the champion's training with another seed, may be or not. All but `leaked feature` ignore what the job wrote.

A town of some hundred people shows little in a week. So half of them meet a challenger, and `WIDER` times as much harm
as the systems declare need not be excluded: a canary lets more through here, which makes it harder to stop the bad.
The towns and how much their champions know were chosen on seed 301, so that `better` can be shown to be.

Keys: promoted (bad ones that became champion; has to be 0), stopped_in_log (bad ones whose stop is a step of the log
with its evidence), bad (how many were tried), honest_promoted (of the systems, how many promoted `better`), systems,
people (whom bad ones decided for), lost_minor (what they cost these beyond the champion, by the world's probabilities).
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from decalog.clock import DAY, ManualClock
from decalog.decisions import Decision, decode_decision
from decalog.deployment import Deployment, Setup
from decalog.examples import AMOUNT
from decalog.hands import Within
from decalog.home import Home
from decalog.loop import Loop, LoopPlan, plan_of
from decalog.models.boosted import Boosted
from decalog.models.calibration import Calibrator, Isotonic, Sigmoid
from decalog.models.funnel import Funnel
from decalog.models.heads import Heads
from decalog.operations import watched_champion
from decalog.rollout import CHALLENGER, TABLE, Rollout
from decalog.schema import Field
from decalog.serving import Service
from decalog.simulation import fill, rates_of
from decalog.slate_training import train_slates
from decalog.system import System
from decalog.systems.feed.simulate import World as FeedWorld
from decalog.systems.feed.system import SYSTEM as FEED
from decalog.systems.feed.world.params import WorldParams as FeedParams
from decalog.systems.fraud.simulate import World as FraudWorld
from decalog.systems.fraud.system import SYSTEM as FRAUD
from decalog.systems.fraud.world_params import WorldParams
from decalog.testing.worlds import Message
from decalog.training import TrainingPlan, train

SEED, MOST_DAYS = 301, 40
WIDER = 10.0
LEAK = Field(name="cases", kind="float", meaning="What a job of the back office writes into a request when it ended.")
PATIENCE_MS = 60_000
ATTACKED = WorldParams(takeover_per_day=25.0, ring_per_day=0.6, card_testing_per_day=1.5)
READERS = FeedParams(readers=300, authors=60, posts_day=60.0, visits=0.1)
"""Many who come rarely: a canary counts people, and a day costs what its slates do."""
FACTOR = 3.0
Data = Any
"""A TrainingSet or a SlateSet: rows, labels and names of one kind."""


class Town(NamedTuple):
    """What differs from system to system.

    Attributes:
        system: whose.
        world: seed → its world.
        days: of history.
        looks: into how many parts a day is cut, that reactions come in time.
        test_share: of what training judges on.
        positives: that it wants to learn from; where the label delay left out leaves fewer, it learns from more than
            was known then, and says so.
        early: share of what training would learn from, the earliest, that the champion knows.
        answer: the truth of a request → what the job writes.
        units: of the features that a unit error changes.
        poisoned: (data, rng) → labels.
        slice: a feature and its value, whose declared slice is made worse.
        cost: (policy, decision, truth) → what it is expected to cost, minor units.
    """

    system: System
    world: Callable[[int], Any]
    days: int
    looks: int
    test_share: float
    positives: int
    early: float
    answer: Callable[[Mapping[str, Any]], float]
    units: frozenset[str]
    poisoned: Callable[[Data, np.random.Generator], Any]
    slice: tuple[str, float]
    cost: Callable[[Any, Decision, Mapping[str, Any]], float]


# ---- the two towns ----


def fraud_world(seed: int) -> FraudWorld:
    """Returns a small town that is attacked a lot: its frauds are as many as a large one's, in minutes."""
    world = FraudWorld(seed, ATTACKED.perturbed(seed), scale=0.15)
    world.switch("base_rate_drift", on=True)
    return world


def fewer_frauds(data: Data, _rng: np.random.Generator) -> Any:
    """Returns labels in which the larger half of the frauds is genuine."""
    large = data.amounts >= np.median(data.amounts[data.labels == 1])
    return np.where(large, 0.0, data.labels)


def farmed(data: Data, rng: np.random.Generator) -> Any:
    """Returns labels in which a farm clicks and likes on posts of authors with few followers."""
    labels, followers = data.labels.copy(), data.rows[:, data.names.index("author_followers")]
    hit = (followers <= np.median(followers)) & (rng.random(data.n) < 0.3)
    for head in ("p_click", "p_like"):
        labels[hit, data.heads.index(head)] = 1.0
    return labels


def fraud_cost(policy: Any, decision: Decision, truth: Mapping[str, Any]) -> float:
    """Returns what an action is expected to cost by the true probability of fraud."""
    action, amount, p = decision.choice.action, int(decision.request.attributes[AMOUNT]), float(truth["p_fraud"])
    good, bad = (policy.cost_minor(action, label=label, amount_minor=amount) for label in (0.0, 1.0))
    return float(p * bad + (1 - p) * good)


TOWNS = {
    "fraud": Town(
        system=FRAUD,
        world=fraud_world,
        days=150,
        looks=1,
        test_share=0.25,
        positives=200,
        early=0.5,
        answer=lambda truth: float(truth["is_fraud"]),
        units=frozenset({"minor units of the base currency"}),
        poisoned=fewer_frauds,
        slice=("channel", 0.0),
        cost=fraud_cost,
    ),
    "feed": Town(
        system=FEED,
        world=lambda seed: FeedWorld(seed, READERS),
        days=14,
        looks=96,
        test_share=0.15,
        positives=30,
        early=0.3,
        answer=lambda truth: float(truth.get("clicks", 0)),
        units=frozenset({"s", "clicks", "shown", "reads", "likes", "hides", "requests", "readers", "posts"}),
        poisoned=farmed,
        slice=("surface", 2.0),
        cost=lambda _policy, _decision, truth: -float(truth.get("expected_minor", 0.0)),
    ),
}


# ---- faults ----


class Fault(NamedTuple):
    """What is wrong with a training.

    Attributes:
        name: of it.
        data: (town, data, rng) → what is learnt from.
        rows: (town, names, rows) → rows, wherever training reads them.
        model: what becomes of the fitted model.
        is_bad: whether it may never be promoted.
        seed: of the fit.
    """

    name: str
    data: Callable[[Town, Data, np.random.Generator], Data] = lambda _town, data, _rng: data
    rows: Callable[[Town, tuple[str, ...], Any], Any] = lambda _town, names, rows: blank(names, rows)
    model: Callable[[Any], Any] = lambda model: model
    is_bad: bool = True
    seed: int = 0


def blank(names: tuple[str, ...], rows: Any) -> Any:
    """Returns rows without what the job wrote, as a live request has them."""
    found = rows.copy()
    found[:, names.index(LEAK.name)] = -1.0
    return found


def scaled(factor: float) -> Callable[[Town, tuple[str, ...], Any], Any]:
    """Returns what gives features of the town's units another size; what says "none" stays."""

    def rows(town: Town, names: tuple[str, ...], found: Any) -> Any:
        wrong = {one.name for one in town.system.features.features if one.unit in town.units}
        columns = [place for place, name in enumerate(names) if name in wrong]
        made = blank(names, found)
        made[:, columns] = np.where(made[:, columns] > 0, factor * made[:, columns], made[:, columns])
        return made

    return rows


def poisoned(town: Town, data: Data, rng: np.random.Generator) -> Data:
    """Returns data with the town's poisoned labels."""
    return msgspec.structs.replace(data, labels=town.poisoned(data, rng))


def unheard(town: Town, data: Data, rng: np.random.Generator) -> Data:
    """Returns data in which nine in ten of the outcomes of one slice were lost."""
    name, value = town.slice
    lost = (data.rows[:, data.names.index(name)] == value) & (rng.random(len(data.rows)) < 0.9)
    labels = data.labels.copy()
    labels[lost] = np.minimum(labels[lost], 0.0)
    return msgspec.structs.replace(data, labels=labels)


def early(town: Town, data: Data, _rng: np.random.Generator) -> Data:
    """Returns the earliest part of the data."""
    kept = data.times <= np.quantile(data.times, town.early)
    if hasattr(data, "take"):
        return data.take(kept)
    columns = {name: getattr(data, name)[kept] for name in ("rows", "labels", "times", "amounts")}
    return msgspec.structs.replace(data, **columns)


def shifted(factor: float) -> Callable[[Any], Any]:
    """Returns what multiplies the odds of all that a model predicts."""

    def curve(one: Calibrator) -> Calibrator:
        if isinstance(one, Sigmoid):
            return Sigmoid(one.slope, one.shift + float(np.log(factor)))
        return Isotonic(one.scores, tuple(factor * p / (1 - p + factor * p) for p in one.rates))

    def model(fitted: Any) -> Any:
        if isinstance(fitted, Funnel):
            return Funnel(fitted.towers, fitted.neighbours, fitted.kin, ranker=model(fitted.ranker))
        if isinstance(fitted, Heads):
            fitted.described = tuple(
                msgspec.structs.replace(head, calibrator=curve(head.calibrator)) for head in fitted.described
            )
        elif isinstance(fitted, Boosted):
            fitted._calibrator = curve(fitted._calibrator)  # noqa: SLF001 - a fault
        return fitted

    return model


CHAMPION = Fault("champion", data=early, is_bad=False)
FAULTS = (
    Fault("leaked feature", rows=lambda _town, _names, rows: rows),
    Fault("poisoned labels", data=poisoned),
    Fault("unit error x 100", rows=scaled(100.0)),
    Fault("unit error / 100", rows=scaled(0.01)),
    Fault("calibration x 3", model=shifted(FACTOR)),
    Fault("calibration / 3", model=shifted(1 / FACTOR)),
    Fault("slice made worse", data=unheard),
    Fault("better", is_bad=False),
    Fault("twin", data=early, is_bad=False, seed=1),
)


class Retold:
    """The log behind a training's slates, whose rows have the fault too."""

    def __init__(self, told: Any, rows: Callable[[Any], Any]) -> None:
        self._told, self._rows = told, rows

    def __getattr__(self, name: str) -> Any:
        return getattr(self._told, name)

    def redescribed(self, model: Any, places: Any) -> Any:
        """See `models.base.Told`."""
        return self._rows(self._told.redescribed(model, places))


def trained(town: Town, deployment: Deployment, fault: Fault) -> str:
    """Trains with a fault on what the log holds, and returns the model's id."""
    kind, rng = deployment.system.models[-1], np.random.default_rng(fault.seed)

    def fit(data: Data, seed: int) -> Any:
        def rows(found: Any) -> Any:
            return fault.rows(town, data.names, found)

        wrong = {"rows": rows(data.rows)}
        if getattr(data, "told", None) is not None:
            wrong["told"] = Retold(data.told, rows)
        return fault.model(kind.fit(fault.data(town, msgspec.structs.replace(data, **wrong), rng), seed))

    system = msgspec.structs.replace(deployment.system, models=(msgspec.structs.replace(kind, fit=fit),), found="")
    plan = TrainingPlan(
        seed=fault.seed,
        test_share=town.test_share,
        least_positives=town.positives,
        policy=deployment.policy_params(),
    )
    run: Any = train_slates if system.schema.signals else train
    deployment.log.commit()
    return str(run(system, deployment.log, registry=deployment.registry, plan=plan).model)


# ---- the town's days ----


class Backfilled:
    """A world whose history was exported after a job had written into each request how it ended."""

    def __init__(self, world: Any, answer: Callable[[Mapping[str, Any]], float]) -> None:
        self._world, self._answer, self.start_us = world, answer, world.start_us

    def advance(self, until_us: int, *, alone: bool = False) -> list[Message]:
        """See `decalog.testing.worlds.World`."""
        return [self._told(one) for one in self._world.advance(until_us, alone=alone)]

    def _told(self, one: Message) -> Message:
        if one.kind != "decide":
            return one
        answer = self._answer(self._world.truth(one.body["id"]))
        return msgspec.structs.replace(one, body=one.body | {LEAK.name: answer})


class Began(NamedTuple):
    """A town at the moment from which each challenger is tried."""

    town: Town
    world: Any
    folder: Path
    now: int


def deployed(town: Town, world: Any, folder: Path, now: int) -> tuple[Deployment, ManualClock]:
    """Returns a town's deployment and its clock."""
    home, clock = Home(folder), ManualClock(now)
    system = msgspec.structs.replace(town.system, models=town.system.models[-1:], deadline_ms=PATIENCE_MS)
    setup = Setup(rates=rates_of(world), signals=(LEAK,))
    return Deployment(home, system, home.writer(clock), setup), clock


def begun(town: Town, seed: int, folder: Path) -> Began:
    """Returns a town whose champion has decided for a day."""
    world = town.world(seed)
    deployment, clock = deployed(town, world, folder, world.start_us)
    fill(Backfilled(world, town.answer), deployment.prepare(), clock=clock, days=town.days, say=lambda _line: None)  # type: ignore[arg-type]
    trained(town, deployment, CHAMPION)
    lived(town, world, served(deployment), clock)
    deployment.log.close()
    return Began(town, world, folder, clock.now_us())


def served(deployment: Deployment) -> Service:
    """Returns the service, which no busy machine cuts short."""
    service = deployment.service()
    if service.retrieval is not None:
        patient: Any = service.retrieval
        patient.deadline_ms = PATIENCE_MS
    return service


def lived(town: Town, world: Any, service: Service, clock: ManualClock) -> None:
    """Plays the world's clients through the service for the rest of the day, or the whole next one."""
    begin = world.start_us + ((clock.now_us() - world.start_us) // DAY + 1) * DAY
    if (clock.now_us() - world.start_us) // DAY < town.days:
        begin = world.start_us + town.days * DAY
    for look in range(town.looks):
        for message in world.advance(begin + (look + 1) * DAY // town.looks - 1):
            clock.set(max(message.at, clock.now_us()))
            if message.kind == "decide":
                decision = service.decide(message.body)[1]
                refs = tuple(slot.ref for slot in decision.choice.slots)
                world.react(message.body["id"], decision.choice.action, at_us=message.at, refs=refs)
            else:
                service.ingest.admit(message.kind, message.body)
        service.ingest.log.commit()


def lenient(plan: LoopPlan) -> LoopPlan:
    """Returns a system's plan for a small town, which trains nothing by itself."""
    wider = tuple(
        one if one.excluded is None else msgspec.structs.replace(one, excluded=WIDER * one.excluded)
        for one in plan.guardrails
    )
    return msgspec.structs.replace(plan, guardrails=wider, shares_bp=(5_000,), every="10000d", drift=())


class Fate(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a challenger.

    Args:
        fault: of it.
        is_bad: whether it had one.
        ended: gate, shadow or canary, where it was stopped; champion; or open.
        why: as the log has it.
        is_logged: whether its end is a step of the log with evidence.
        days: until then.
        people: whom it decided for.
        lost: minor units that these decisions are expected to have cost beyond the champion's.
        cpu_s: of all this.
    """

    fault: str
    is_bad: bool
    ended: str
    why: str
    is_logged: bool
    days: int
    people: int
    lost: float
    cpu_s: float

    def text(self) -> str:
        """Returns it in a line."""
        cost = f"{self.people:,} people, {self.lost:,.0f} minor units lost"
        return f"{self.fault:17} {self.ended:9} after {self.days:2} days, {cost}: {self.why[:300]}"


def tried(began: Began, fault: Fault, most_days: int) -> Fate:
    """Returns what becomes of a challenger with a fault."""
    began_s = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "home"
        shutil.copytree(began.folder, root)
        world = copy.deepcopy(began.world)
        deployment, clock = deployed(began.town, world, root, began.now)
        service = served(deployment)
        model = trained(began.town, deployment, fault)
        plan = lenient(plan_of(deployment.system))
        loop = Loop(plan, Within(deployment, service, train=_nothing), champion=watched_champion)
        days = 0
        for days in range(most_days + 1):
            moved(loop, deployment, clock.now_us())
            steps = steps_of(deployment)
            if (steps and steps[-1].is_over) or days == most_days:
                break
            lived(began.town, world, service, clock)
        people, lost = harm(deployment, steps_of(deployment), world, began.town)
        fate = fate_of(steps_of(deployment), is_champion=deployment.registry.current(deployment.system.name) == model)
        deployment.log.close()
    return Fate(
        fault=fault.name,
        is_bad=fault.is_bad,
        days=days,
        people=people,
        lost=lost,
        cpu_s=time.process_time() - began_s,
        **fate,
    )


def moved(loop: Loop, deployment: Deployment, now: int) -> None:
    """Lets the loop do what is due."""
    for _ in range(6):
        steps = steps_of(deployment)
        if (steps and steps[-1].is_over) or loop.step(deployment, now) is None:
            return


def steps_of(deployment: Deployment) -> list[Rollout]:
    """Returns the steps that the log holds."""
    stored = deployment.tables.history(deployment.system.name, TABLE)
    return [msgspec.convert(one.content, Rollout) for one in stored]


def fate_of(steps: list[Rollout], *, is_champion: bool) -> dict[str, Any]:
    """Returns how a rollout ended."""
    if not steps:
        return {"ended": "open", "why": "never judged", "is_logged": False}
    last = steps[-1]
    before = steps[-2].stage if len(steps) > 1 else "gate"
    ended = "champion" if is_champion else before if last.stage == "stopped" else "open"
    told = steps[-2] if is_champion and len(steps) > 1 else last
    return {"ended": ended, "why": told.why, "is_logged": bool(told.why and told.evidence)}


def harm(deployment: Deployment, steps: list[Rollout], world: Any, town: Town) -> tuple[int, float]:
    """Returns whom a challenger decided for, and what that is expected to have cost beyond the champion's arm."""
    policy, people = deployment.system.policy(deployment.policy_params()), set[Any]()
    costs: dict[bool, list[float]] = {True: [], False: []}
    for decision in decided(deployment):
        if steps and decision.arm.startswith(f"{steps[0].name}/"):
            is_theirs = decision.arm == steps[0].named(CHALLENGER)
            costs[is_theirs].append(town.cost(policy, decision, world.truth(decision.request.id)))
            if is_theirs:
                people.add(decision.request.subject or decision.request.id)
    if not costs[True] or not costs[False]:
        return len(people), 0.0
    return len(people), len(costs[True]) * float(np.mean(costs[True]) - np.mean(costs[False]))


def decided(deployment: Deployment) -> Iterator[Decision]:
    """Yields the decisions of the log that were made here."""
    for record in deployment.log.read():
        if record.kind == "decision" and record.root == record.seq:
            yield decode_decision(record.body)


def _nothing() -> str:
    raise AssertionError("the plan trains nothing")


def main() -> int:
    """Runs the bench and prints what it found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--short", action="store_true", help="no days in a canary: what gate and shadow let through")
    parser.add_argument("--systems", default="fraud,feed")
    parser.add_argument("--only", default="", help="faults whose names begin so, commas between")
    parser.add_argument("--seed", type=int, default=SEED)
    told = parser.parse_args()
    say = partial(print, file=sys.stderr if told.json else sys.stdout, flush=True)
    fates: list[tuple[str, Fate]] = []
    for name in told.systems.split(","):
        with tempfile.TemporaryDirectory() as folder:
            began = begun(TOWNS[name], told.seed, Path(folder))
            for fault in FAULTS:
                if fault.name.startswith(tuple(told.only.split(","))):
                    fates.append((name, tried(began, fault, 0 if told.short else MOST_DAYS)))
                    say(f"{name}: {fates[-1][1].text()} ({fates[-1][1].cpu_s:.0f} s of CPU)")
    bad = [fate for _, fate in fates if fate.is_bad]
    result = {
        "promoted": sum(fate.ended == "champion" for fate in bad),
        "stopped_in_log": sum(fate.ended in ("gate", "shadow", "canary") and fate.is_logged for fate in bad),
        "bad": len(bad),
        "honest_promoted": sum(fate.fault == "better" and fate.ended == "champion" for _, fate in fates),
        "systems": len({name for name, _ in fates}),
        "people": sum(fate.people for fate in bad),
        "lost_minor": round(sum(fate.lost for fate in bad)),
    }
    print(json.dumps(result) if told.json else result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
