"""What a slate costs after ranking: 500 posts with predictions to 50 slots, ms of CPU.

    python bench/latency/feed_slate.py --json

One thread, warm. Posts have all the facts that retrieval gives them, three columns of what the reader was shown, and
random sketches; every twentieth is limited or sensitive. Two slots are randomised. Beside the default stand the other
rerankers, the fallback, the loop alone, and one answer to "why was this post not shown".
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable

import msgspec
import numpy as np

from decalog.candidates import Candidate, gathered
from decalog.decisions import Decision, Versions
from decalog.events import Event
from decalog.policy import Case
from decalog.systems.feed.policy import FeedPolicy, FeedWeights
from decalog.systems.feed.slate import kernel
from decalog.systems.feed.slate.competitors import HEADS, Competitors
from decalog.systems.feed.trace import why

POSTS, SLOTS = 500, 50
RATES = (0.3, 0.2, 0.05, 0.02, 0.02, 0.005, 0.0005)
REPEATS = ("shown_to_user_7d", "author_shown_to_user_1d", "topic_shown_to_user_1d")


def post(number: int, rng: random.Random) -> Candidate:
    """Returns one post as retrieval and ranker give it."""
    author, topic = rng.randrange(POSTS // 3), rng.randrange(20)
    return Candidate(
        f"post-{number}",
        rng.choice(("two_tower", "following+two_tower", "popular+similar", "fresh", "explore")),
        {head: rate * rng.random() for head, rate in zip(HEADS, RATES, strict=True)},
        entities={"post": number, "author": author, "topic": topic},
        attributes={
            "author": f"author-{author}",
            "topic": f"topic-{topic}",
            "language": "en",
            "age_s": rng.randrange(200_000),
            "in_network": rng.random() < 0.4,
            "integrity": ("limited", "sensitive")[number % 2] if number % 20 < 2 else "",
            "labels": "",
            "two_tower": rng.random(),
            "author_followers": rng.randrange(10_000),
            "author_age_s": rng.randrange(10**8),
            "author_posts": rng.randrange(500),
            "sketch": rng.randrange(-(2**63), 2**63),
        },
    )


def case() -> Case:
    """Returns a request with its posts, of which both randomised slots are drawn."""
    rng = random.Random(7)
    request = Event("f1", "feed_request", 0, 7, {"user": 7}, {"size": SLOTS, "is_adult": True})
    columns = {name: np.array([rng.randrange(3) for _ in range(POSTS)], np.float64) for name in REPEATS}
    return Case(request, gathered(tuple(post(number, rng) for number in range(POSTS))), {}, lambda _name: 0.05, columns)


def cost_ms(work: Callable[[], object], times: int) -> float:
    """Returns the CPU time of one call in ms, the least of seven rounds."""
    rounds = list[float]()
    for _ in range(7):
        started = time.process_time()
        for _ in range(times):
            work()
        rounds.append((time.process_time() - started) / times * 1e3)
    return min(rounds)


def costs(times: int) -> dict[str, float]:
    """Returns the table."""
    asked = case()
    policies = {name: FeedPolicy(FeedWeights(rerank=name)) for name in ("dpp", "mmr", "none")}
    policy = policies["dpp"]
    verdict = policy.decide(asked)
    decision = Decision("d1", asked.request, 0, asked.candidates, verdict.choice, Versions("m", "p", "f", 0))
    posts = Competitors.of(asked.candidates)
    weighed = policy.weighed(posts, asked.columns)
    found, _ = policy.filled(asked, posts, weighed=weighed)
    hidden = next(place for place in range(POSTS) if place not in found.picks)
    return {
        "slate_cpu_ms": cost_ms(lambda: policy.decide(asked), times),
        "slate_mmr_cpu_ms": cost_ms(lambda: policies["mmr"].decide(asked), times),
        "slate_plain_cpu_ms": cost_ms(lambda: policies["none"].decide(asked), times),
        "fallback_cpu_ms": cost_ms(lambda: policy.fall_back(asked, "model_timeout"), times),
        "columns_cpu_ms": cost_ms(lambda: Competitors.of(asked.candidates), times),
        "value_cpu_ms": cost_ms(lambda: policy.weighed(posts, asked.columns), times),
        "fill_cpu_ms": cost_ms(lambda: policy.filled(asked, posts, weighed=weighed), times),
        "loop_cpu_ms": cost_ms(loop(), times),
        "why_cpu_ms": cost_ms(lambda: why(decision, posts.refs[hidden], policy=policy, columns=asked.columns), times),
        "slots": float(len(verdict.choice.slots)),
        "decision_bytes": float(len(msgspec.msgpack.encode(decision))),
    }


def loop() -> Callable[[], object]:
    """Returns the compiled loop on arrays of the same size, for DPP without caps."""
    rng = np.random.default_rng(7)
    facts = np.zeros((kernel.FACTS, POSTS), np.int64)
    facts[kernel.AUTHOR], facts[kernel.TOPIC] = rng.integers(0, POSTS // 3, POSTS), rng.integers(0, 20, POSTS)
    facts[kernel.SKETCH], facts[kernel.SKETCHED] = rng.integers(-(2**63), 2**63 - 1, POSTS), 1
    knobs = np.full(kernel.KNOBS, 1_000.0)
    knobs[: kernel.AUTHOR_CAP] = (kernel.DPP, 0.5, 0.5, 0.15, 0.25, 0.1, 0.6, 0.25, 0.9, 0.5)
    knobs[[kernel.OUT_LEAST, kernel.EXPLORE, kernel.POOL_BEST, kernel.POOL_FRESH, kernel.SLOTS]] = 0, 0, 1, 0, SLOTS
    worth = rng.exponential(1.0, (2, POSTS)) * [[1.0], [0.1]]
    return lambda: kernel.filled(facts, worth, knobs=knobs, draws={})


def main() -> None:
    """Prints the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--json", action="store_true")
    options.add_argument("--short", action="store_true")
    asked = options.parse_args()
    figures = costs(10 if asked.short else 300)
    for name, value in figures.items():
        print(f"{name:24} {value:10.3f}")
    if asked.json:
        print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
