"""What the features of one request of feed cost: 500 candidates at once, against one after the other; and the fold.

    python bench/latency/feed_features.py [--json] [--short]

A reader who has read for a week asks for a slate: 500 posts of 300 authors and 40 topics, each with what two retrievers
say of it. A post has 50 rows of its last week (the median; log-normal), five of them as many as it may hold (`retain`);
`hot` is the same with fifty. `at once` is `OnlineState.vectors`, `one by one` its `vector` of each candidate, in the
same run and compared bit for bit. Of the split, `windows` is all that aggregates cost, `tokens` what is left of that
where there are no rows (finding them), `values` the facts of candidates and request, `derived` the quotients. A folded
slate is the request, its decision and 20 rows of what was shown. One core, CPU time, medians.

Keys: features_cpu_ms (at once), one_by_one_ms, hot_cpu_ms (at once), windows_ms, tokens_ms, values_ms, derived_ms,
fold_slate_us, rows (of the posts), differ (values that both ways do not share).
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
from functools import partial
from typing import Any

import msgspec
import numpy as np

from decalog.candidates import Candidate, gathered
from decalog.clock import DAY, SECOND
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


def rows(draw: random.Random, found: list[Candidate], *, most: int, hot: int = HOT) -> list[Fact]:
    """Returns a week of rows of each post, as others met it, and some as the reader did; `hot` posts have the most."""
    facts = list[Fact]()
    for place, candidate in enumerate(found):
        count = most if place < hot else min(most, round(MEDIAN_ROWS * math.exp(draw.gauss(0, 1))))
        for _ in range(count):
            user = USER if draw.random() < 0.01 and place >= hot else draw.getrandbits(40)
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


def asked_of(features: FeatureSet, facts: list[Fact]) -> tuple[OnlineState, Point]:
    """Returns the state after these rows, and where the reader's request stands."""
    state, attributes = (
        state_of(features, facts),
        dict[str, Value](size=50, surface="home", device="phone", language="de"),
    )
    return state, Point(state.position, NOW, own=Fact(2**62, NOW, "feed_request", {"user": USER}, attributes))


def cpu_us(work: Callable[[], object], times: int) -> float:
    """Returns the median of the CPU time of one call, µs."""
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


def without(features: FeatureSet, kinds: tuple[Any, ...]) -> FeatureSet:
    """Returns the set without features of some kinds."""
    kept = tuple(feature for feature in features.features if not isinstance(feature, kinds))
    return msgspec.structs.replace(features, features=kept)


def measure(*, short: bool) -> dict[str, float]:
    """Returns the figures by key."""
    draw, times = random.Random(7), 20 if short else 200
    found = candidates(draw)
    most = 500 if short else FEATURES.retain
    facts, crowded = rows(draw, found, most=most), rows(draw, found, most=most, hot=10 * HOT)
    no_quotients = without(FEATURES, (Derived,))
    windows = without(no_quotients, tuple({*map(type, FEATURES.features)} - {Aggregate}))
    state, point = asked_of(FEATURES, facts)
    gc.collect()
    gc.freeze()
    at_once = state.vectors(point, gathered(found))
    one_by_one = np.array([state.vector(laid_over(point, each)) for each in found])
    costs = {
        "features_cpu_ms": vectors_ms((state, point), found, times),
        "hot_cpu_ms": vectors_ms(asked_of(FEATURES, crowded), found, times),
        "no_quotients": vectors_ms(asked_of(no_quotients, facts), found, times),
        "windows_ms": vectors_ms(asked_of(windows, facts), found, times),
        "tokens_ms": vectors_ms(asked_of(windows, facts[:1]), found, times),
    }
    no_quotients_ms = costs.pop("no_quotients")
    one_by_one_us = cpu_us(lambda: [state.vector(laid_over(point, each)) for each in found], times // 10)
    folds = list(slates(draw, found, state.position, times))
    figures = costs | {
        "one_by_one_ms": one_by_one_us / 1_000,
        "values_ms": no_quotients_ms - costs["windows_ms"],
        "derived_ms": costs["features_cpu_ms"] - no_quotients_ms,
        "fold_slate_us": statistics.median(cpu_us(partial(apply, state, changes), 1) for changes in folds),
        "rows": len(facts),
        "differ": float((at_once.view(np.int64) != one_by_one.view(np.int64)).sum()),
    }
    gc.unfreeze()
    return figures


def vectors_ms(of: tuple[OnlineState, Point], found: list[Candidate], times: int) -> float:
    """Returns what the features of all candidates cost, ms."""
    state, point = of
    columns = gathered(found)
    state.vectors(point, columns)
    return cpu_us(lambda: state.vectors(point, columns), times) / 1_000


def apply(state: OnlineState, changes: list[Change]) -> None:
    """Folds the changes of one record."""
    for change in changes:
        state.apply(change)


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
