"""What the features of one request of feed cost: 500 candidates at once, against one after the other; and the fold.

    python bench/latency/feed_features.py [--json] [--short]

A reader who has read for a week asks for a slate: 500 posts of 300 authors and 40 topics, each with what two retrievers
say of it. A post has 50 rows in its windows (the median; log-normal), five of them as many as `retain` lets it hold; so
have five authors and all topics. `at once` is `OnlineState.vectors`, `one by one` its `vector` of each candidate, in
turn in one run and compared bit for bit. The split takes one part of the work away at a time: `windows` is all that
aggregates cost (`tokens`: finding the row arrays; the rest is the scan), `values` the candidates' facts and the
request's, `derived` the quotients. A folded slate is the request, its decision and 20 rows of what was shown.
One core, CPU time, medians.

Keys: features_cpu_ms (at once), one_by_one_ms, windows_ms, tokens_ms, values_ms, derived_ms, fold_slate_us, differ
(values that both ways do not share).
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator

import msgspec
import numpy as np

from decalog.clock import DAY, SECOND
from decalog.decisions import Candidate
from decalog.features.definition import SHOWN, Aggregate, Derived, FeatureSet
from decalog.features.facts import Change, Fact, Point, Value, laid_over
from decalog.features.online import OnlineState
from decalog.systems.feed.features import FEATURES

NOW = 20_000 * DAY
USER, CANDIDATES, AUTHORS, TOPICS, SLOTS, HOT = 1, 500, 300, 40, 20, 5
MEDIAN_ROWS = 50
ACTIONS = ("click", "like", "reply", "share", "hide", "report")


def candidates(draw: random.Random) -> list[Candidate]:
    """Returns what retrieval found; entities are random 62-bit tokens, as the log's are."""
    authors, topics = ([draw.getrandbits(62) for _ in range(count)] for count in (AUTHORS, TOPICS))
    return [
        Candidate(
            ref=f"post-{place}",
            source="two_tower+popular",
            entities={"post": draw.getrandbits(62), "author": draw.choice(authors), "topic": draw.choice(topics)},
            attributes=_facts(draw, place),
        )
        for place in range(CANDIDATES)
    ]


def _facts(draw: random.Random, place: int) -> dict[str, Value]:
    facts: dict[str, Value] = {
        "author": f"author-{place}",
        "topic": f"topic-{place % TOPICS}",
        "post_language": draw.choice(("de", "en", "fr")),
        "integrity": draw.choice(("", "", "", "limited")),
        "labels": "",
        "age_s": draw.randrange(500_000),
        "in_network": draw.random() < 0.3,
        "author_followers": draw.randrange(100_000),
        "author_age_s": draw.randrange(10**8),
        "author_posts": draw.randrange(1_000),
        "two_tower": draw.random(),
        "similar": draw.random(),
        "sketch": draw.getrandbits(63),
    }
    return facts | ({"popular_rank": place + 1} if place % 2 else {"neighbours": draw.random(), "fresh_rank": place})


def rows(draw: random.Random, found: list[Candidate], *, most: int) -> list[Fact]:
    """Returns a week of rows of each post: as others met it, and some as the reader did."""
    facts = list[Fact]()
    for place, candidate in enumerate(found):
        count = most if place < HOT else min(most, round(MEDIAN_ROWS * math.exp(draw.gauss(0, 1))))
        for _ in range(count):
            user = USER if draw.random() < 0.01 and place >= HOT else draw.getrandbits(40)
            facts.append(_row(draw, candidate, user))
    return sorted(facts, key=lambda fact: fact.event_time)


def _row(draw: random.Random, candidate: Candidate, user: int) -> Fact:
    when = NOW - 1 - int(7 * DAY * draw.random() ** 2)
    kind = SHOWN if draw.random() < 0.9 else f"outcome.{draw.choice(('click', 'click', 'dwell', *ACTIONS))}"
    attributes: dict[str, Value] = {"value": 30 if kind.endswith("dwell") else 1} if kind != SHOWN else {}
    return Fact(0, when, kind, {"user": user, **candidate.entities}, attributes)


def state_of(features: FeatureSet, facts: list[Fact]) -> OnlineState:
    """Returns the state after these rows."""
    state = OnlineState(features)
    stamped = (msgspec.structs.replace(fact, root=seq) for seq, fact in enumerate(facts))
    state.apply_many(Change(fact.root, fact.event_time, None, fact) for fact in stamped)
    return state


def asked(state: OnlineState) -> Point:
    """Returns where the reader's request stands."""
    attributes: dict[str, Value] = {"size": 50, "surface": "home", "device": "phone", "language": "de"}
    own = Fact(2**62, NOW, "feed_request", {"user": USER}, attributes)
    return Point(state.position, NOW, own=own)


def cpu_us(work: Callable[[], object], times: int) -> float:
    """Returns the median of the CPU time of one call, µs."""
    work()
    costs = []
    for _ in range(times):
        started = time.process_time_ns()
        work()
        costs.append((time.process_time_ns() - started) / 1_000)
    return statistics.median(costs)


def slates(draw: random.Random, found: list[Candidate], first: int, count: int) -> Iterator[list[Change]]:
    """Yields the changes of so many slates of other readers, a second apart."""
    for place in range(count):
        when, seq, user = NOW + place * SECOND, first + place, {"user": draw.getrandbits(40)}
        shown = [
            Fact(seq, when + slot, SHOWN, {**user, **candidate.entities}, dict(candidate.attributes))
            for slot, candidate in enumerate(draw.sample(found, SLOTS))
        ]
        own = [Fact(seq, when, kind, user, {"size": SLOTS}) for kind in ("feed_request", "decision.show")]
        yield [Change(seq, when, None, fact) for fact in (*own, *shown)]


def without(features: FeatureSet, kinds: tuple[type, ...]) -> FeatureSet:
    """Returns the set without features of some kinds."""
    kept = tuple(feature for feature in features.features if not isinstance(feature, kinds))
    return msgspec.structs.replace(features, features=kept)


def measure(*, short: bool) -> dict[str, float]:
    """Returns the figures by key."""
    draw = random.Random(7)
    found = candidates(draw)
    facts = rows(draw, found, most=2_000 if short else FEATURES.retain)
    times = 20 if short else 100
    state = state_of(FEATURES, facts)
    gc.collect()
    gc.freeze()
    point = asked(state)
    at_once = state.vectors(point, found)
    points = [laid_over(point, candidate) for candidate in found]
    one_by_one = np.array([state.vector(each) for each in points])
    figures = {
        "features_cpu_ms": cpu_us(lambda: state.vectors(point, found), times) / 1_000,
        "one_by_one_ms": cpu_us(lambda: [state.vector(laid_over(point, each)) for each in found], times // 4) / 1_000,
        "differ": float((at_once.view(np.int64) != one_by_one.view(np.int64)).sum()),
    }
    no_quotients = without(FEATURES, Derived.__args__)
    windows = without(no_quotients, tuple(t for t in map(type, FEATURES.features) if t is not Aggregate))
    costs = [cpu_us(partial_vectors(each, facts, found), times) / 1_000 for each in (no_quotients, windows)]
    empty = state_of(windows, facts[:1])
    figures |= {
        "derived_ms": figures["features_cpu_ms"] - costs[0],
        "values_ms": costs[0] - costs[1],
        "windows_ms": costs[1],
        "tokens_ms": cpu_us(lambda: empty.vectors(asked(empty), found), times) / 1_000,
    }
    folds = list(slates(draw, found, state.position, times * 5))
    started = time.process_time_ns()
    for changes in folds:
        for change in changes:
            state.apply(change)
    figures["fold_slate_us"] = (time.process_time_ns() - started) / 1_000 / len(folds)
    gc.unfreeze()
    return figures


def partial_vectors(features: FeatureSet, facts: list[Fact], found: list[Candidate]) -> Callable[[], object]:
    """Returns the work of a part of the features."""
    state = state_of(features, facts)
    point = asked(state)
    return lambda: state.vectors(point, found)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one last line of JSON")
    parser.add_argument("--short", action="store_true", help="fewer rows and repetitions")
    wanted = parser.parse_args()
    figures = measure(short=wanted.short)
    for name, value in figures.items():
        print(f"{name:20}{value:12,.3f}")
    if wanted.json:
        print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
