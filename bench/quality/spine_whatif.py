"""Whether what-if is right as often as it says: how often its 95 % intervals hold the truth of worlds that are known.

    python bench/quality/spine_whatif.py [--json] [--short] [--seeds 4] [--repeats 30]

Simulated results but for the outside checks. From each seed come a fraud town and a feed town, and what they decided
with exploration. Then, `--repeats` times, people are drawn from the town with replacement, outcomes anew from the
world's own probabilities, and draws anew from the logged propensities; the same evidence and the same verdict as
`decalog whatif` gives are made of each, and compared with what the change is worth by the probabilities, over the town.

- fraud: other costs of a refused customer, of a lost sale, or more room for reviews, with few draws and with many.
- feed: other weights, on slots drawn from logged pools with a lot of exploration (1,000 drawn slots need it).
- A/A: no change, and the same change on both sides: "nothing changes", or an interval of no width.
- digits to bandit (scikit-learn's): a classifier's choice is drawn, its reward is whether it was right; another
  classifier's accuracy, known exactly, is estimated from it. (Dudík, Langford and Li, ICML 2011, section 5.)
- Open Bandit sample, if it is there: the random policy estimated from the log of Bernoulli TS, against the random
  policy's own log, three campaigns; few clicks, so it checks plumbing, never lift.

Keys: coverage (of all verdicts of both systems, share whose interval holds the truth), coverage_fraud, coverage_feed,
all_fraud and all_feed (the same of every estimate, verdict or not), wrong (share of verdicts "better" where it is worse
or the reverse), verdicts (share of repeats that give one), digits, obd (of three), aa (share of A/A that show nothing).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import feed_world
import msgspec
import numpy as np
import numpy.typing as npt
from fraud_world import as_log
from paired import Floats, Int64s, shared_data, text

from decalog.clock import DAY, HOUR, ManualClock
from decalog.deployment import Deployment, Setup
from decalog.evaluation import Outlook, replayed
from decalog.events import Event
from decalog.examples import AMOUNT, UNKNOWN, Examples
from decalog.features.frames import fold_columns
from decalog.home import Home
from decalog.metrics import Measurement, proportion
from decalog.models.base import TrainingSet
from decalog.money import convert
from decalog.simulation import fill, rates_of
from decalog.statistics.offpolicy import Logged, estimate
from decalog.systems.feed import system as feed
from decalog.systems.feed.policy import FeedWeights
from decalog.systems.feed.slate.exploration import slot_propensities
from decalog.systems.feed.world import behaviour
from decalog.systems.fraud.policy import ALLOW, BLOCK, REVIEW, STEP_UP, FraudCosts, FraudPolicy
from decalog.systems.fraud.simulate import World as FraudWorld
from decalog.systems.fraud.system import SYSTEM as FRAUD
from decalog.systems.fraud.whatif import WHATIF as FRAUD_TELLS
from decalog.systems.fraud.whatif import shows
from decalog.systems.fraud.world_params import WorldParams
from decalog.whatif import Asked, Change, Replay, Side
from decalog.whatif_slots import DrawnSlot, bounds_of, drawn_slots, slots_told
from decalog.whatif_verdict import WhatIf, judged

FIRST_SEED, SEEDS, REPEATS = 101, 4, 30
SHORT_SEEDS, SHORT_REPEATS = 1, 3
DAYS, TRAINED_DAY, FRAUD_SCALE = 90, 50, 0.3
FRAUD_TIMES = 20
"""A log is of so many times as many people as a town has: frauds are rare, and a handful of them tells nothing."""
HEAD = FRAUD.models[-1].head


class Seen(NamedTuple):
    """One verdict beside the truth, both minor units a thousand units."""

    case: str
    told: WhatIf
    truth: float

    @property
    def interval(self) -> Measurement | None:
        """Of the estimate that the verdict would rest on, verdict or not."""
        first = next(iter(self.told.findings.values()), None)
        if self.is_verdict or first is None:
            return self.told.brings
        low, high = self.told.whatever or (first.brings, first.brings)
        return Measurement(first.brings.value, low.low, high.high, low.n)

    @property
    def is_verdict(self) -> bool:
        """Whether it is one that an interval goes with."""
        return self.told.answer not in {"no verdict", "nothing changes"}

    @property
    def holds(self) -> bool:
        """Whether the interval holds the truth."""
        one = self.interval
        return one is not None and one.low <= self.truth <= one.high

    @property
    def is_wrong(self) -> bool:
        """Whether it names the wrong direction."""
        return (self.told.answer == "better" and self.truth < 0) or (self.told.answer == "worse" and self.truth > 0)


# ---- fraud ----


class Town(NamedTuple):
    """The judged payments of a fraud town, what a model says of them, and the truth."""

    rows: Examples
    people: Int64s
    p_fraud: Floats
    predictions: Floats


def fraud_town(seed: int) -> Town:
    """Returns the payments after the training date of a seed, with the predictions of a model of the time before."""
    world = FraudWorld(seed, WorldParams().perturbed(seed), scale=FRAUD_SCALE)
    sent = [m for m in world.advance(world.start_us + DAYS * DAY) if m.kind == "decide"]
    bodies, times = [m.body for m in sent], np.array([m.at for m in sent], np.int64)
    amounts = np.array(
        [convert(b["amount_minor"], b["currency"], base=world.base, rates=world.rates) for b in bodies], np.int64
    )
    p_fraud = np.array([world.truth(body["id"])["p_fraud"] for body in bodies], np.float64)
    rows = fold_columns(FRAUD.features, as_log(bodies, times, amounts))
    places, train = list(FRAUD.features.places_for("model")), times < world.start_us + TRAINED_DAY * DAY
    labels = (np.random.default_rng(seed).random(len(times)) < p_fraud).astype(np.float64)
    known = TrainingSet(
        names=FRAUD.features.names_for("model"),
        rows=rows[train][:, places],
        labels=labels[train],
        times=times[train],
        amounts=amounts[train],
    )
    model = FRAUD.models[-1].fit(known, 0)
    test = np.flatnonzero(~train)
    names = {body.get("customer", str(place)): place for place, body in enumerate(bodies)}
    people = np.array([names[bodies[place].get("customer", str(place))] for place in test.tolist()], np.int64)
    return Town(
        examples(rows[test], times[test], amounts[test]), people, p_fraud[test], model.predict(rows[test][:, places])
    )


def examples(rows: Floats, times: Int64s, amounts: Int64s) -> Examples:
    """Returns requests as the policy reads them, without outcomes."""
    n, kind = len(times), FRAUD.schema.request.name
    both = enumerate(zip(times.tolist(), amounts.tolist(), strict=True))
    return Examples(
        known_by=0,
        features=FRAUD.features.names,
        ids=tuple(map(str, range(n))),
        seqs=np.arange(n),
        times=times,
        labels=np.full(n, UNKNOWN),
        bounds=np.zeros(n, np.bool_),
        settled=times,
        why=("",) * n,
        acted=("",) * n,
        propensities=np.ones(n),
        predicted=np.full(n, np.nan),
        amounts=amounts,
        rows=rows,
        requests=tuple(Event(str(place), kind, time, 0, {}, {AMOUNT: amount}) for place, (time, amount) in both),
        entities={},
    )


def acted(town: Town, costs: FraudCosts) -> npt.NDArray[np.str_]:
    """Returns what a policy does with each payment of the town."""
    outlook = Outlook(policy=FraudPolicy(costs), idle=ALLOW, features=FRAUD.features, head=HEAD, metrics=())
    return replayed(town.rows, town.predictions, outlook=outlook)


PLAIN = FraudCosts(margin_bp=1_500, goodwill_minor=300, reviews_per_day=20)
"""Blocks more than the defaults do, so that there is something that the log hides."""
CHANGES: tuple[tuple[str, int, dict[str, int]], ...] = (
    ("lost sales dearer", 200, {"margin_bp": 3_000}),
    ("goodwill dearer, 2 % drawn", 200, {"goodwill_minor": 1_500}),
    ("goodwill dearer, 30 % drawn", 3_000, {"goodwill_minor": 1_500}),
    ("blocks more", 200, {"margin_bp": 700, "goodwill_minor": 50}),
    ("step-ups dearer", 200, {"step_up_gives_up_bp": 2_000}),
)
"""Name, share of blocks that is drawn in hundredths of a percent, and the parameters that change."""


def fraud_seen(seed: int, repeats: int) -> Iterator[Seen]:
    """Yields verdicts on changes of the policy, beside what they are worth in the town."""
    town, rng = fraud_town(seed), np.random.default_rng(seed)
    now, policy = acted(town, PLAIN), FraudPolicy(PLAIN)
    for change, explore_bp, values in CHANGES:
        then = acted(town, msgspec.structs.replace(PLAIN, **values))
        brings = saved(policy, now, then, amounts=town.rows.amounts)
        truth = 1_000 * float(np.mean(town.p_fraud * brings[1] + (1 - town.p_fraud) * brings[0]))
        for _ in range(repeats):
            replays, people = fraud_log(town, now, then, explore_bp=explore_bp, rng=rng)
            told = FRAUD_TELLS.told(*replays, people=people, unit="payment", money=policy)
            yield Seen(f"fraud, {change}", judged(told), truth)


def saved(policy: FraudPolicy, now: Any, then: Any, *, amounts: Int64s) -> tuple[Floats, Floats]:
    """Returns what a change saves on each payment, if it is good and if it is a fraud."""
    rows = list(zip(now.tolist(), then.tolist(), amounts.tolist(), strict=True))
    good, fraud = (
        np.array(
            [
                policy.cost_minor(a, label=label, amount_minor=m) - policy.cost_minor(b, label=label, amount_minor=m)
                for a, b, m in rows
            ],
            np.float64,
        )
        for label in (0.0, 1.0)
    )
    return good, fraud


def fraud_log(
    town: Town, now: Any, then: Any, *, explore_bp: int, rng: np.random.Generator
) -> tuple[tuple[Replay, Replay], Int64s]:
    """Returns the town's people drawn anew, with outcomes and draws, and what of them the log would show."""
    rows, people = resampled(town.people, rng, times=FRAUD_TIMES)
    is_fraud = rng.random(len(rows)) < town.p_fraud[rows]
    is_open = (now[rows] == BLOCK) & (town.rows.amounts[rows] <= 20_000)
    share, is_let = explore_bp / 10_000, rng.random(len(rows)) < explore_bp / 10_000
    done = np.where(is_open & is_let, ALLOW, now[rows])
    odds = shows(PLAIN)
    chance = np.zeros(len(rows))
    for action in (ALLOW, REVIEW, STEP_UP):
        at = done == action
        chance[at] = np.where(is_fraud[at], odds[action][1], odds[action][0])
    labels = np.where(rng.random(len(rows)) < chance, is_fraud, UNKNOWN)
    whole = town.rows
    made = msgspec.structs.replace(
        whole,
        ids=("",) * len(rows),
        times=whole.times[rows],
        amounts=whole.amounts[rows],
        labels=labels,
        acted=tuple(done.tolist()),
        propensities=np.where(is_open, np.where(is_let, share, 1 - share), 1.0),
        rows=np.empty((0, 0)),
        requests=(),
    )
    predicted = town.predictions[rows]
    return (Replay(made, now[rows], predicted), Replay(made, then[rows], predicted)), people


def resampled(people: Int64s, rng: np.random.Generator, *, times: int = 1) -> tuple[Int64s, Int64s]:
    """Returns the rows of so many times as many people, drawn with replacement, and the token of whom each is of."""
    order = np.argsort(people, kind="stable")
    starts = np.flatnonzero(np.diff(people[order], prepend=-2))
    groups = np.split(order, starts[1:])
    drawn = [groups[place] for place in rng.integers(len(groups), size=times * len(groups)).tolist()]
    return np.concatenate(drawn), np.repeat(np.arange(len(drawn)), [len(one) for one in drawn])


# ---- feed ----

WEIGHTS = FeedWeights(
    hide_per_1000_minor=-3_000,
    report_per_1000_minor=-10_000,
    explore_bp=5_000,
    explore_slots=(1, 3, 5, 7),
    pool_best=5,
    pool_fresh=3,
    repeat_author_bp=10_000,
)
FEED_CHANGES: dict[str, dict[str, Any]] = {
    "shares dearer": {"share_per_1000_minor": 12_000},
    "clicks alone": {"dwell_per_1000_minor": 0, "like_per_1000_minor": 0, "click_per_1000_minor": 1_000},
    "no diversity": {"rerank": "none"},
}
HEADS = tuple(signal.head for signal in feed.SYSTEM.schema.signals)
HISTORY, LIVED, FEED_SCALE, FEED_TIMES = 8, 5, 0.15, 24


class Slate(NamedTuple):
    """A drawn slot beside the truth: by thing of its pool what each head's probability is, and of being looked at."""

    slot: DrawnSlot
    heads: dict[str, Floats]
    looked: float


def feed_town(seed: int, folder: Path) -> tuple[Deployment, dict[tuple[str, int], tuple[dict[str, Floats], float]]]:
    """Returns a feed that has decided for some days, and (request, slot) → the truth about what it was drawn from."""
    world, truths = feed_world.World(seed, scale=FEED_SCALE), {}
    home, clock = Home(folder), ManualClock(world.start_us)
    deployment = Deployment(home, feed.SYSTEM, home.writer(clock), Setup(rates=rates_of(world), policy=WEIGHTS))
    fill(world, deployment.prepare(), clock=clock, days=HISTORY, say=lambda _line: None)
    feed_world.train(deployment, WEIGHTS)
    service = deployment.service()
    retrieval: Any = service.retrieval
    retrieval.deadline_ms = 60_000
    for quarter in range(LIVED * 24 * 4):
        for message in world.advance(world.start_us + HISTORY * DAY + (quarter + 1) * HOUR // 4):
            clock.set(max(message.at, clock.now_us()))
            if message.kind != "decide":
                service.ingest.admit(message.kind, message.body)
                continue
            _, decision, _ = service.decide(message.body)
            refs = tuple(slot.ref for slot in decision.choice.slots)
            for slot in slot_propensities(decision):
                if len(slot.refs) > 1:
                    found = truth_of(world, message, above=refs[: slot.position], refs=slot.refs)
                    truths[decision.request.id, slot.position] = found
            world.react(message.body["id"], decision.choice.action, at_us=message.at, refs=refs)
        service.ingest.log.commit()
    return deployment, truths


def truth_of(world: Any, message: Any, *, above: Sequence[str], refs: Sequence[str]) -> tuple[dict[str, Floats], float]:
    """Returns the probability of each action by who looks at a thing in a slot, for each, and of being looked at."""
    reader, rows = world.find(message.body["user"], (*above, *refs))
    town, first = world.town, len(above)
    known = behaviour.facts(town, reader, rows=rows[first:], at_us=message.at)
    topics = town.posts.topic[rows]
    known[:, behaviour.TIRED] += (topics[first:, None] == topics[None, :first]).sum(axis=1)
    heads = behaviour.chances(town, reader, known=known).heads
    return dict(zip(refs, heads, strict=True)), float(world.params.scroll**first)


def feed_seen(seed: int, repeats: int) -> Iterator[Seen]:
    """Yields verdicts on changes of the weights, beside what they are worth in the drawn slots."""
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        deployment, truths = feed_town(seed, Path(folder))
        money: Any = feed.SYSTEM.policy(WEIGHTS)
        bounds = bounds_of(money, HEADS)
        for change, values in FEED_CHANGES.items():
            slots = changed_slots(deployment, truths, msgspec.structs.replace(WEIGHTS, **values))
            people = np.array([one.slot.person for one in slots], np.int64)
            worth = [expected(one, money) for one in slots]
            truth = 1_000 * float(np.mean(worth)) if worth else 0.0
            for _ in range(repeats):
                rows, tokens = resampled(people, rng, times=FEED_TIMES)
                again = [redrawn(slots[row], money, rng) for row in rows.tolist()]
                named = [one._replace(person=token) for one, token in zip(again, tokens.tolist(), strict=True)]
                yield Seen(f"feed, {change}", judged(slots_told(named, bounds=bounds)), truth)
        same = [one.slot for one in changed_slots(deployment, truths, WEIGHTS)]
        yield Seen("feed, A/A", judged(slots_told(same, bounds=bounds)), 0.0)
        deployment.log.close()


def changed_slots(deployment: Deployment, truths: Any, weights: FeedWeights) -> list[Slate]:
    """Returns the drawn slots with another policy's choice, as far as that was in the draw, and their truth."""
    served = deployment.serving()
    model: Any = served.model
    now, then = (
        Side(deployment.system, model, served.head, served.versions.model, 0, policy)
        for policy in (served.policy, feed.SYSTEM.policy(weights))
    )
    asked = Asked(deployment, now, then, served.policy, Change(last=10**6))
    return [
        Slate(slot, *truths[slot.request, slot.position])
        for slot in drawn_slots(asked, slot_propensities)
        if slot.choice in slot.refs
    ]


def expected(one: Slate, money: Any) -> float:
    """Returns what the change brings in a slot, by the world's probabilities."""
    slot = one.slot
    surplus = slot.propensities[0] - min(slot.propensities)
    then, now = money.worth(HEADS, np.stack([one.heads[slot.choice], one.heads[slot.refs[0]]]))
    return float(surplus * one.looked * (then - now))


def redrawn(one: Slate, money: Any, rng: np.random.Generator) -> DrawnSlot:
    """Returns a slot with its draw and its outcome drawn anew."""
    slot = one.slot
    ref = slot.refs[int(np.searchsorted(np.cumsum(slot.propensities), rng.random() * sum(slot.propensities)))]
    heads, draw = one.heads[ref].copy(), rng.random(len(HEADS))
    # Of what hangs on a click the world draws given the click.
    heads[1:5] /= heads[0]
    acts = (draw < heads) & (rng.random() < one.looked)
    acts[1:5] &= acts[0]
    return slot._replace(ref=ref, worth=float(money.worth(HEADS, acts[None, :].astype(np.float64))[0]))


# ---- outside checks ----


def digits_cover(repeats: int) -> Measurement:
    """Returns how often an interval holds a classifier's accuracy, estimated from another one's drawn choices."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    data, digits = load_digits(return_X_y=True)
    data = data / 16
    rng = np.random.default_rng(0)
    order = rng.permutation(len(digits))
    train, test = order[:600], order[600:]
    logging, target = (
        LogisticRegression(C=c, max_iter=1_000).fit(data[train][:, part], digits[train])
        for c, part in ((0.1, slice(0, 32)), (1.0, slice(None)))
    )
    odds = 0.7 * logging.predict_proba(data[test][:, :32]) + 0.03  # every digit has a chance of 3 % at least
    chosen, right = target.predict(data[test]), digits[test]
    accuracy, n, held = float(np.mean(chosen == right)), len(test), 0
    for _ in range(repeats):
        rows = rng.integers(n, size=n)
        drawn = (rng.random((n, 1)) > np.cumsum(odds[rows], axis=1)).sum(axis=1).clip(max=9)
        told = Logged(
            rewards=(drawn == right[rows]).astype(np.float64),
            propensities=odds[rows, drawn],
            targets=(drawn == chosen[rows]).astype(np.float64),
            bounds=(0.0, 1.0),
        )
        value = estimate(told, "snips").value
        held += value.low <= accuracy <= value.high
    return proportion(held, repeats)


def obd_rows() -> Iterator[tuple[str, Measurement, Measurement]]:
    """Yields (campaign, estimate of the random policy from the other's log, its own log)."""
    import duckdb

    folder = shared_data("ads", "obd_small")
    for campaign in ("all", "men", "women"):
        files = [folder / f"{policy}_{campaign}_{campaign}.parquet" for policy in ("bts", "random")]
        if not all(file.is_file() for file in files):
            return
        bts, own = (
            duckdb.execute(
                "select click, propensity_score as p, item_id as item from read_parquet(?)", [str(file)]
            ).fetchnumpy()
            for file in files
        )
        told = Logged(
            rewards=np.asarray(bts["click"], np.float64),
            propensities=np.asarray(bts["p"], np.float64),
            targets=np.full(len(bts["p"]), 1 / len(np.unique(own["item"]))),
            bounds=(0.0, 1.0),
        )
        clicks = np.asarray(own["click"])
        yield campaign, estimate(told, "snips").value, proportion(int(clicks.sum()), len(clicks))


def agree(one: Measurement, other: Measurement) -> bool:
    """Returns whether two independent figures differ by no more than their intervals together allow."""
    low, high = sorted((one, other), key=lambda told: told.value)
    return float(np.hypot(low.high - low.value, high.value - high.low)) >= high.value - low.value


# ---- tables ----


def rate(seen: Sequence[Seen], of: str) -> Measurement:
    """Returns a share of some verdicts; of none at all, 0 of 0."""
    return proportion(sum(getattr(one, of) for one in seen), len(seen)) if seen else Measurement(0.0, 0.0, 1.0, 0)


def print_cases(seen: Sequence[Seen]) -> None:
    """Prints one line a change."""
    print(f"{'':34}{'repeats':>8}{'truth':>10}{'verdicts':>10}{'hold the truth':>24}{'every estimate':>24}{'wrong':>7}")
    for case in dict.fromkeys(one.case for one in seen):
        mine = [one for one in seen if one.case == case and one.interval is not None]
        verdicts = [one for one in mine if one.is_verdict]
        truth = float(np.mean([one.truth for one in mine])) if mine else 0.0
        cells = [text(rate(part, "holds")) if part else "–" for part in (verdicts, mine)]
        wrong = sum(one.is_wrong for one in verdicts)
        print(
            f"{case:34}{len(mine):>8}{truth:>10.1f}{len(verdicts):>10}{cells[0]:>24}{cells[1]:>24}{wrong:>7}",
            flush=True,
        )


def figures(seen: Sequence[Seen]) -> dict[str, float]:
    """Returns the figures of the worlds."""
    changes = [one for one in seen if "A/A" not in one.case]
    verdicts = [one for one in changes if one.is_verdict]
    parts = {name: [one for one in changes if one.case.startswith(name)] for name in ("fraud", "feed")}
    keys = {"coverage": rate(verdicts, "holds").value, "wrong": rate(verdicts, "is_wrong").value}
    for name, part in parts.items():
        keys[f"coverage_{name}"] = rate([one for one in part if one.is_verdict], "holds").value
        keys[f"all_{name}"] = rate([one for one in part if one.interval is not None], "holds").value
    nothing = [one for one in seen if "A/A" in one.case]
    keys["aa"] = float(np.mean([one.told.answer == "nothing changes" for one in nothing]))
    return keys | {"verdicts": len(verdicts) / len(changes), "intervals": len(verdicts)}


def main() -> None:
    """Runs it and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--short", action="store_true", help="one seed of each world, fewer repeats")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    given = parser.parse_args()
    seeds, repeats = (SHORT_SEEDS, SHORT_REPEATS) if given.short else (given.seeds, given.repeats)
    seen: list[Seen] = []
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        for of in (fraud_seen, feed_seen):
            mine = list(of(seed, repeats))
            seen += mine
            print(f"seed {seed}")
            print_cases(mine)
    print("\nall seeds; truth in minor units a thousand payments, or drawn slots")
    print_cases(seen)
    keys = figures(seen)
    digits = digits_cover(4 * repeats)
    print(f"\ndigits to bandit: {text(digits)} of intervals hold the truth")
    campaigns = list(obd_rows())
    for campaign, told, own in campaigns:
        print(
            f"Open Bandit, {campaign}: random policy from the other's log {text(told, 4)}, its own log {text(own, 4)}"
        )
    keys |= {"digits": digits.value, "obd": sum(agree(told, own) for _, told, own in campaigns), "seeds": seeds}
    print(f"\ncoverage {keys['coverage']:.3f} of {keys['intervals']} verdicts; wrong way {keys['wrong']:.4f}")
    if given.json:
        print(json.dumps({name: round(value, 4) for name, value in keys.items()}))


if __name__ == "__main__":
    main()
