"""What candidate generation costs over a million posts: the index of vectors, and all of `retrieve`.

    python bench/latency/feed_index.py [--json] [--short]

Vectors are unit length, dim 64, in clusters within clusters of very unlike sizes, as those of real posts lie; queries
are drawn like them. Recall is the share of the exact 200 best that a search for 200 finds. A filter allows 50, 10 or
1 % of the posts: drawn at random, or whole clusters, so that what is allowed may lie far from the query. Times of the
index are ms of CPU in one thread; times of `retrieve` are ms of CPU of all threads, for readers with 20 doings, 100
posts seen and 50 authors followed. Memory is what the process grew by. 10 million posts are modelled: by the power law
through the two largest sizes that were measured.

Keys: posts, index_recall, index_recall_filtered (the worst of all filters), search_ms, search_filtered_ms (the
dearest), add_ms, remove_ms (of one vector), new_post_ms (wall clock, from the record's arrival until a search finds
it), retrieve_cpu_ms, retrieve_ms (median, wall clock), competing, adopt_s (CPU), memory_gib, search_ms_10m (modelled).
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from decalog.decisions import Choice, Decision, Slot, Versions
from decalog.events import Event, Record
from decalog.outcomes import Outcome
from decalog.stores.base import VectorIndex
from decalog.stores.table import open_index
from decalog.systems.feed.retrieval import FeedRetrieval

Floats = npt.NDArray[np.float32]
DIM, K, QUERIES = 64, 200, 100
SIZES, SHORT_SIZES = (10_000, 100_000, 1_000_000), (40_000, 100_000)
AUTHORS, TOPICS = 50_000, 200
NOW_US = 1_800_000_000_000_000
MINUTES_OLD = 20_000


def clustered(count: int, seed: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Returns unit vectors, and the cluster of each; the clusters do not hang on the seed."""
    plan, rng = np.random.default_rng(0), np.random.default_rng(seed)
    wide = plan.normal(size=(50, DIM))
    centres = wide[plan.integers(50, size=2_000)] + 0.7 * plan.normal(size=(2_000, DIM))
    sizes = plan.zipf(1.5, size=2_000).clip(1, 200).astype(float)
    cluster = rng.choice(2_000, size=count, p=sizes / sizes.sum())
    rows = (centres[cluster] + 0.6 * rng.normal(size=(count, DIM))).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows, cluster


def filters(cluster: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.bool_] | None]:
    """Returns masks by name: random posts and whole clusters."""
    rng = np.random.default_rng(3)
    masks: dict[str, npt.NDArray[np.bool_] | None] = {"none": None}
    order = rng.permutation(2_000)
    share = np.cumsum(np.bincount(cluster, minlength=2_000)[order]) / len(cluster)
    for percent in (50, 10, 1):
        masks[f"{percent} % of posts"] = rng.random(len(cluster)) < percent / 100
        is_open = np.zeros(2_000, np.bool_)
        is_open[order[: int(np.searchsorted(share, percent / 100)) + 1]] = True
        masks[f"{percent} % in clusters"] = is_open[cluster]
    return masks


def cpu_ms(work: Callable[[], object]) -> float:
    """Returns the CPU time of some work in ms."""
    started = time.process_time()
    work()
    return (time.process_time() - started) * 1e3


def one_by_one(work: Callable[..., None], *columns: npt.NDArray[Any]) -> None:
    """Hands over rows, each alone."""
    for row in range(len(columns[0])):
        work(*(column[row : row + 1] for column in columns))


def searched(index: VectorIndex, queries: Floats, mask: npt.NDArray[np.bool_] | None) -> tuple[float, list[Any]]:
    """Returns ms a query, the median, and what was found."""
    found, times = [], []
    for query in queries:
        started = time.process_time()
        found.append(index.search(query[None], K, allowed=mask)[1][0])
        times.append((time.process_time() - started) * 1e3)
    return statistics.median(times), found


def recall(found: Sequence[Any], truth: npt.NDArray[np.int64]) -> float:
    """Returns the share of what is true that was found."""
    return float(np.mean([np.isin(want[want >= 0], have).mean() for want, have in zip(truth, found, strict=True)]))


def measure_index(rows: Floats, cluster: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Returns the figures of the index for some vectors, with a line for each filter."""
    index, exact = open_index(DIM), open_index(DIM, "flat")
    built_s = cpu_ms(lambda: index.put(np.arange(len(rows)), rows)) / 1e3
    exact.put(np.arange(len(rows)), rows)
    queries = clustered(QUERIES, seed=1)[0]
    lines: dict[str, tuple[float, float]] = {}
    for name, mask in filters(cluster).items():
        truth = exact.search(queries, K, allowed=mask)[1]
        ms, found = searched(index, queries, mask)
        lines[name] = (recall(found, truth), ms)
    # There is room for half as many again; one more makes the rows grow.
    last = np.array([len(rows) * 3 // 2])
    grow_ms = cpu_ms(lambda: index.put(last, rows[:1]))
    index.remove(last)
    new = clustered(1_000, seed=2)[0]
    ids = np.arange(len(rows), len(rows) + 1_000)
    add_ms = cpu_ms(lambda: one_by_one(index.put, ids, new)) / 1e3
    if any(index.search(new[i : i + 1], 1)[1][0, 0] != ids[i] for i in range(1_000)):
        raise SystemExit("a vector that was added is not found")
    remove_ms = cpu_ms(lambda: one_by_one(index.remove, ids)) / 1e3
    return {"lines": lines, "add_ms": add_ms, "remove_ms": remove_ms, "built_s": built_s, "grow_ms": grow_ms}


class Towers:
    """Vectors of the benchmark by the posts' names (`p17` is row 17); a reader is the mean of what they did."""

    dim = DIM

    def __init__(self, rows: Floats) -> None:
        self.rows = rows

    def item_vectors(self, ids: Sequence[str], _sides: Mapping[str, Sequence[str]]) -> Floats:
        """Returns rows by name."""
        return self.rows[[int(id_[1:]) % len(self.rows) for id_ in ids]]

    def user_vector(self, vectors: Floats, weights: Floats, *, sides: Mapping[str, Sequence[str]]) -> Floats:
        """Returns the weighted mean, at length 1, whatever the sides."""
        del sides
        mean = weights @ vectors if len(vectors) else self.rows[0]
        reader: Floats = mean / np.linalg.norm(mean)
        return reader


class Near:
    """Item-to-item neighbours: the 200 names that follow."""

    def score(self, history: Sequence[str], k: int) -> list[tuple[str, float]]:
        """Returns k of them."""
        last = int(history[-1][1:])
        return [(f"p{last + step}", 1.0 / step) for step in range(1, min(k, 200) + 1)]


class Funnel:
    """What retrieval takes from a model."""

    def __init__(self, rows: Floats) -> None:
        self.towers, self.neighbours = Towers(rows), Near()


class Log:
    """Tells a retrieval records, as a log would."""

    def __init__(self, feed: FeedRetrieval) -> None:
        self.feed, self.seq = feed, 0

    def tell(self, kind: str, body: Event | Decision | Outcome, at_us: int) -> None:
        """Hands over one record."""
        self.feed.follow(Record(1, 0, self.seq, kind, "feed", at_us, at_us, "", b"", self.seq, "", b""), body)
        self.seq += 1

    def post(self, number: int, topic: int) -> None:
        """A post of one of many authors; half of them for one region of two, some mature."""
        author, region = number * 7_919 % AUTHORS, ("", "", "de", "fr")[number % 4]
        said: dict[str, int | float | str | bool] = {
            "post": f"p{number}",
            "author": f"a{author}",
            "topic": f"t{topic}",
            "regions": region,
            "language": ("en", "de")[number % 2],
            "is_mature": number % 50 == 0,
        }
        entities = {"post": 10**9 + number, "author": 10**8 + author, "topic": 10**7 + topic}
        at_us = NOW_US - number % MINUTES_OLD * 60_000_000
        self.tell("event", Event(f"e{number}", "post", at_us, 1, entities, said), at_us)

    def reader(self, user: int, cluster: npt.NDArray[np.int64]) -> None:
        """A reader: 20 doings in two clusters of posts, 100 posts seen, 50 authors followed."""
        rng = np.random.default_rng(user)
        liked = np.flatnonzero(np.isin(cluster, cluster[rng.integers(len(cluster), size=2)]))
        seen = [*rng.choice(liked, size=20).tolist(), *rng.integers(len(cluster), size=80).tolist()]
        for author in rng.integers(AUTHORS, size=50).tolist():
            entities = {"user": user, "author": 10**8 + author}
            self.tell("event", Event("", "follow", NOW_US, user, entities, {"author": f"a{author}"}), NOW_US)
        slots = tuple(Slot(f"p{ref}") for ref in seen)
        asked = Event(f"r{user}", "feed_request", NOW_US, user, {"user": user}, {"region": "de"})
        shown = Decision("d", asked, 0, (), Choice(slots, verb="show"), Versions("m", "p", "f", 0))
        self.tell("decision", shown, NOW_US)
        for slot in slots[:20]:
            self.tell("outcome", Outcome("o", asked.id, "like", "app", NOW_US, 1.0, ref=slot.ref), NOW_US)


def measure_retrieval(rows: Floats, cluster: npt.NDArray[np.int64], *, readers: int) -> dict[str, float]:
    """Returns the figures of `retrieve` over a catalogue of these posts."""
    feed = FeedRetrieval(deadline_ms=1_000)
    log = Log(feed)
    for number, topic in enumerate((cluster % TOPICS).tolist()):
        log.post(number, topic)
    adopt_s = cpu_ms(lambda: feed.adopt(Funnel(rows))) / 1e3  # type: ignore[arg-type]
    for user in range(1, readers + 1):
        log.reader(user, cluster)
    asked = [
        Event(f"q{user}", "feed_request", NOW_US, user, {"user": user}, {"region": "de", "language": "de"})
        for user in range(1, readers + 1)
    ]
    for request in asked[:5]:
        feed.retrieve(request)
    # As a server does.
    gc.collect()
    gc.freeze()
    cpu, wall, competing, stages = list[float](), list[float](), list[int](), list[dict[str, int]]()
    for request in asked:
        started, clock = time.process_time(), time.perf_counter()
        found = feed.retrieve(request)
        cpu.append((time.process_time() - started) * 1e3)
        wall.append((time.perf_counter() - clock) * 1e3)
        competing.append(sum(not candidate.dropped for candidate in found.candidates))
        stages.append(dict(found.stages_us))
    new, waited = len(rows), list[float]()
    for number in range(new, new + 50):
        clock = time.perf_counter()
        log.post(number, 1)
        index, slot = feed._sight.index, np.array([feed.catalogue.slot(f"p{number}")])  # noqa: SLF001 - not a copy
        if index is None or slot[0] not in index.search(index.vectors(slot), 10)[1]:
            raise SystemExit("a new post is not found")
        waited.append((time.perf_counter() - clock) * 1e3)
    memory_gib = resident_gib()
    return {
        "retrieve_cpu_ms": statistics.median(cpu),
        "retrieve_ms": statistics.median(wall),
        "competing": statistics.median(competing),
        "new_post_ms": statistics.median(waited),
        "adopt_s": adopt_s,
        "memory_gib": memory_gib,
        **{f"{name}_us": statistics.median(one.get(name, 0) for one in stages) for name in stages[0]},
    }


def resident_gib() -> float:
    """Returns the memory that the process holds now; the most it ever held, where the system does not say."""
    status = Path("/proc/self/statm")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**30
    return int(status.read_text(encoding="ascii").split()[1]) * resource.getpagesize() / 2**30


def main() -> None:
    """Prints the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--json", action="store_true")
    options.add_argument("--short", action="store_true")
    chosen = options.parse_args()
    sizes = SHORT_SIZES if chosen.short else SIZES
    rows, cluster = clustered(sizes[-1], seed=0)
    # First, so that its memory is not what another measure left.
    before = resident_gib()
    whole = measure_retrieval(rows, cluster, readers=50 if chosen.short else 300)
    memory_gib = whole.pop("memory_gib") - before
    cost: dict[int, float] = {}
    for size in sizes:
        figures = measure_index(rows[:size], cluster[:size])
        print(
            f"\n{size:,} vectors, made in {figures['built_s']:.1f} s of CPU; add {figures['add_ms']:.3f} ms, ", end=""
        )
        print(f"remove {figures['remove_ms']:.3f} ms")
        for name, (share, ms) in figures["lines"].items():
            print(f"  {name:16} recall {share:.4f}  {ms:7.3f} ms")
        cost[size] = figures["lines"]["none"][1]
    print(f"\nretrieve over {sizes[-1]:,} posts; it took {memory_gib:.2f} GiB, vectors included")
    for name, value in whole.items():
        print(f"  {name:16} {value:.3f}")
    small, large = sizes[-2:]
    power = math.log(cost[large] / cost[small]) / math.log(large / small)
    modelled = cost[large] * (10_000_000 / large) ** power
    print(f"\nms a search: {cost}; modelled for 10,000,000: {modelled:.2f} (power {power:.2f})")
    lines = figures["lines"]
    filtered = [part for name, part in lines.items() if name != "none"]
    report = {
        "posts": sizes[-1],
        "index_recall": lines["none"][0],
        "index_recall_filtered": min(share for share, _ in filtered),
        "search_ms": lines["none"][1],
        "search_filtered_ms": max(ms for _, ms in filtered),
        "add_ms": figures["add_ms"],
        "remove_ms": figures["remove_ms"],
        **{name: whole[name] for name in ("new_post_ms", "retrieve_cpu_ms", "retrieve_ms", "competing", "adopt_s")},
        "memory_gib": memory_gib,
        "search_ms_10m": modelled,
    }
    if chosen.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
