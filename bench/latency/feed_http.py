"""What a slate of 50 out of 1 million posts takes over HTTP: the whole funnel, 500 candidates ranked, the log durable.

    python bench/latency/feed_http.py [--json] [--short] [--posts 10000,100000,1000000] [--home FOLDER] [--seconds 30]

A home is filled with posts of 25 days (authors, topics, languages, regions), readers with profiles, and imported slates
with clicks; the shipped funnel is trained on that log. Then `decalog serve feed` runs on a copy, and slates are asked
for at 10, 25 and 50 a second by an open-loop generator in a process of its own, whose CPU is told apart: arrivals are
Poisson, and latency counts from the moment at which a request was due. A few hundred requests go before the first run.
The posts are made up, so no quality can be read from this.

Recall of the index is measured on the trained towers' vectors of all posts, against exact search, by readers' vectors,
without a filter and under masks that let 50, 10 and 1 % through.

Of several numbers of posts it prints a table of what each costs, and what ten times the largest would cost if CPU,
memory, the start and the index went on growing as from the last but one to the last: that row is modelled. The keys
are then of the largest; `--home` keeps a home for each beside it.

Keys: p99_ms (at 25/s), p99_ms_10, p99_ms_50, p50_ms, cpu_ms (of the server, a slate at 25/s), rank_cpu_ms (500 rows,
seven heads, the shipped trees), index_recall, index_recall_filtered (the worst), competing (median candidates),
start_s, rss_gib, record_bytes (median), generator_cpu_ms, index_s (CPU of making the index of all vectors), posts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from spine_decision import Served, load, serving

from decalog.clock import DAY, HOUR, SECOND, ManualClock, rfc3339
from decalog.decisions import decode_decision
from decalog.deployment import Deployment
from decalog.home import Home
from decalog.models.formats import load_model
from decalog.registry import Registry
from decalog.slate_training import train_slates
from decalog.stores.table import open_index
from decalog.systems.feed.system import SYSTEM
from decalog.training import TrainingPlan

POSTS, SHORT = 1_000_000, 50_000
DAYS, START_US = 25, 1_767_571_200_000_000
END_US = START_US + DAYS * DAY
AUTHORS, TOPICS, READERS, SLATES = 20_000, 100, 5_000, 4_000
LANGUAGES, REGIONS = ("en", "de", "fr", "es"), ("eu", "us", "asia")
SIZE, SHOWN = 50, 10
RATES = (10, 25, 50)
QUERIES, K = 200, 100
BAR_MS = 30.0
_ROWS = 500
_TIE = 1e-6
"""Posts of one author on one topic have one vector until their own clicks tell them apart: any of equals is found."""


def bodies(posts: int, seed: int = 1) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yields what reaches the log, in order of time: (µs, door, body)."""
    rng = np.random.default_rng(seed)
    likes = rng.integers(TOPICS, size=(READERS, 3))
    for reader in range(READERS):
        interests = " ".join(f"t{topic}" for topic in likes[reader])
        body = {
            "kind": "profile",
            "user": f"u{reader}",
            "region": REGIONS[reader % 3],
            "language": LANGUAGES[reader % 4],
        }
        yield START_US + reader, "event", body | {"id": f"profile-{reader}", "interests": interests}
    topics = rng.integers(TOPICS, size=posts)
    authors = rng.zipf(1.3, size=posts) % AUTHORS
    slate_every = max(1, posts // SLATES)
    gap = (DAYS * DAY - READERS) // posts
    for post in range(posts):
        now = START_US + READERS + post * gap
        yield (
            now,
            "event",
            {
                "id": f"post-{post}",
                "kind": "post",
                "post": f"p{post}",
                "author": f"a{authors[post]}",
                "topic": f"t{topics[post]}",
                "language": LANGUAGES[post % 4],
            },
        )
        if post % slate_every == slate_every - 1 and post > SHOWN * 20:
            yield from _slate(rng, post, now, likes=likes, topics=topics)


def _slate(
    rng: np.random.Generator, post: int, now: int, *, likes: Any, topics: Any
) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yields an imported slate of recent posts and what its reader did; what they like is on their topics."""
    reader = int(rng.integers(READERS))
    pool = rng.choice(np.arange(max(0, post - 20_000), post), size=400)
    fits = np.isin(topics[pool], likes[reader])
    order = np.argsort(rng.random(len(pool)) - 0.7 * fits)
    shown = list(dict.fromkeys(pool[order].tolist()))[:SHOWN]
    id_ = f"slate-{post}"
    slots = [f"p{one}" for one in shown]
    yield now, "event", {"id": id_, "kind": "feed_request", "user": f"u{reader}", "taken": "show", "slots": slots}
    for place, one in enumerate(shown):
        is_liked = topics[one] in likes[reader]
        if rng.random() >= (0.5 if is_liked else 0.05) * 0.9**place:
            continue
        for kind, chance, value in (("click", 1.0, 1), ("dwell", 0.6, 25), ("like", 0.2, 1), ("hide", 0.02, 1)):
            if rng.random() < chance:
                said = {"feed_request": id_, "kind": kind, "source": "app", "value": value, "ref": f"p{one}"}
                yield now + SECOND, "outcome", said | {"id": f"{id_}-{place}-{kind}"}


def prepare(home: Path, posts: int) -> None:
    """Fills a home and trains the funnel on it."""
    clock = ManualClock(START_US)
    log = Home(home).writer(clock)
    deployment = Deployment(Home(home), SYSTEM, log)
    ingest = deployment.prepare()
    for number, (at_us, door, body) in enumerate(bodies(posts)):
        clock.set(max(at_us, clock.now_us()))
        row = body if door == "outcome" else body | {"event_time": rfc3339(at_us)}
        result = ingest.outcome(row) if door == "outcome" else ingest.event(row)
        if result.status != "accepted":
            raise SystemExit(f"a row was not accepted: {result}")
        if number % 2_000 == 0:
            log.commit()
    clock.set(END_US)
    log.commit()
    champion = msgspec.structs.replace(SYSTEM, models=SYSTEM.models[-1:], metrics=SYSTEM.metrics[:1])
    train_slates(champion, log, registry=deployment.registry, plan=TrainingPlan(test_share=0.1))
    log.close()
    # As in a home that has been served: a server seals what is new, not a million records.
    subprocess.run((sys.executable, "-m", "decalog.sealing", str(home)), check=True, stdout=subprocess.DEVNULL)


def requests(folder: Path, count: int) -> Path:
    """Writes so many requests, one a line."""
    rng = np.random.default_rng(7)
    path = folder / "requests.jsonl"
    lines = [
        json.dumps({"id": f"r{n}", "user": f"u{rng.integers(READERS)}", "size": SIZE, "surface": "home"})
        for n in range(count)
    ]
    path.write_text("\n".join(lines))
    return path


def recalls(home: Path, posts: int) -> tuple[dict[str, float], float]:
    """Returns the index's recall@100 against exact search, mask → share, and what making it took, s of CPU."""
    model = _funnel(home)
    refs, sides = list[str](), dict[str, list[str]]({"author": [], "topic": [], "language": []})
    for _, _, body in bodies(posts):
        if body.get("kind") == "post":
            refs.append(body["post"])
            for side, values in sides.items():
                values.append(body[side])
    vectors = np.concatenate(
        [
            model.towers.item_vectors(refs[at : at + 50_000], {k: v[at : at + 50_000] for k, v in sides.items()})
            for at in range(0, len(refs), 50_000)
        ]
    )
    rng = np.random.default_rng(3)
    queries = np.stack([_reader(model, vectors, rng) for _ in range(QUERIES)])
    fast, exact = open_index(64, ""), open_index(64, "flat")
    ids = np.arange(len(refs))
    exact.put(ids, vectors)
    started = time.process_time()
    fast.put(ids, vectors)
    took = time.process_time() - started
    masks = {"all": None} | {f"{share:g}": rng.random(len(refs)) < share for share in (0.5, 0.1, 0.01)}
    return {name: _recall(fast, exact, queries, allowed=mask) for name, mask in masks.items()}, took


def _reader(model: Any, vectors: Any, rng: np.random.Generator) -> Any:
    liked = vectors[rng.integers(len(vectors), size=10)]
    return model.towers.user_vector(liked, np.ones(10, np.float32), sides={"interests": [f"t{rng.integers(TOPICS)}"]})


def _recall(fast: Any, exact: Any, queries: Any, *, allowed: Any) -> float:
    hits = 0
    for query in queries:
        found, truth = (index.search(query[None], K, allowed=allowed)[0][0] for index in (fast, exact))
        hits += int(np.sum(found >= truth[-1] - _TIE))
    return hits / (K * len(queries))


def _funnel(home: Path) -> Any:
    registry = Registry(home)
    artefact = registry.get(registry.current(SYSTEM.name) or "")
    return load_model(artefact.manifest.format, artefact.folder, settings=artefact.manifest.settings)


def rank_cpu_ms(home: Path) -> float:
    """Returns the CPU that scoring 500 rows takes, the median of many."""
    model, rng = _funnel(home), np.random.default_rng(5)
    rows = np.round(rng.exponential(5.0, size=(_ROWS, len(SYSTEM.features.names_for("model")))))
    took = []
    for _ in range(200):
        started = time.process_time()
        model.predict(rows)
        took.append(1e3 * (time.process_time() - started))
    return statistics.median(took)


def logged(home: Path) -> tuple[float, float]:
    """Returns how many candidates a slate had, and how large its record is: medians over what a server logged."""
    log = Home(home).reader()
    made = [record for record in log.read(log.position - 400) if record.kind == "decision"]
    counts = [sum(not c.dropped for c in decode_decision(record.body).candidates) for record in made]
    log.close()
    return statistics.median(counts), statistics.median(len(record.body) for record in made)


def rss_gib(served: Served) -> float:
    """Returns the server's resident memory."""
    line = next(s for s in Path(f"/proc/{served.process.pid}/status").read_text().splitlines() if "VmRSS" in s)
    return int(line.split()[1]) / 2**20


def measure(home: Path, folder: Path, *, seconds: float, posts: int) -> dict[str, Any]:
    """Returns the figures."""
    path = requests(folder, int(sum(RATES) * seconds * 1.3) + 2_000)
    started = time.monotonic()
    rows: dict[int, dict[str, float]] = {}
    with serving(home, END_US + HOUR, 1.0, SYSTEM.name) as served:
        start_s = time.monotonic() - started
        load(served, rate=20, seconds=15.0, bodies=path, skip=0, path=f"/v1/{SYSTEM.name}/decide")
        skip = 600
        for rate in RATES:
            stages = served.stages_s()
            rows[rate] = load(served, rate=rate, seconds=seconds, bodies=path, skip=skip, path="/v1/feed/decide")
            after, count = served.stages_s(), rows[rate]["requests"]
            told = {name: 1e3 * (after[name] - stages.get(name, 0.0)) / count for name in after}
            print(f"  {rate}/s p50 {rows[rate]['p50_ms']:.1f} ms, p99 {rows[rate]['p99_ms']:.1f} ms")
            print(f"  {rate}/s stages ms: " + ", ".join(f"{name} {ms:.2f}" for name, ms in told.items() if ms >= 0.05))
            skip += int(rate * seconds * 1.3) + 50
        memory = rss_gib(served)
        competing, record_bytes = logged(served.home)
    found, index_s = recalls(home, posts)
    print("  recall@100 by mask: " + ", ".join(f"{name} {share:.3f}" for name, share in found.items()))
    return {
        "p99_ms": rows[25]["p99_ms"],
        "p99_ms_10": rows[10]["p99_ms"],
        "p99_ms_50": rows[50]["p99_ms"],
        "p50_ms": rows[25]["p50_ms"],
        "cpu_ms": rows[25]["cpu_us"] / 1e3,
        "rank_cpu_ms": rank_cpu_ms(home),
        "index_recall": found["all"],
        "index_recall_filtered": min(found.values()),
        "competing": competing,
        "record_bytes": record_bytes,
        "start_s": start_s,
        "rss_gib": memory,
        "generator_cpu_ms": rows[25]["generator_cpu_us"] / 1e3,
        "index_s": index_s,
        "posts": posts,
    }


def costs(rows: list[dict[str, Any]]) -> str:
    """Returns a table of what each number of posts costs; the last row is modelled from the two before it."""
    measured, grows = ("p50_ms", "p99_ms"), ("cpu_ms", "rss_gib", "start_s", "index_s")
    lines = ["      posts" + "".join(f"{name:>10}" for name in (*measured, *grows))]
    lines += [f"{row['posts']:11,}" + "".join(f"{row[name]:10.2f}" for name in (*measured, *grows)) for row in rows]
    before, last = rows[-2:]
    posts = 10 * last["posts"]
    share = (posts - last["posts"]) / (last["posts"] - before["posts"])
    modelled = "".join(f"{last[name] + share * (last[name] - before[name]):10.2f}" for name in grows)
    return "\n".join([*lines, f"{posts:11,}" + 10 * " " * len(measured) + modelled + "  modelled"])


def run(home: Path, folder: Path, *, seconds: float, posts: int) -> dict[str, Any]:
    """Returns the figures of a home, which is prepared if it is not there."""
    if not home.exists():
        started = time.monotonic()
        prepare(home, posts)
        print(f"  prepared {posts:,} posts in {time.monotonic() - started:.0f} s")
    found = measure(home, folder, seconds=seconds, posts=posts)
    print("\n".join(f"  {key:24} {value:,.3f}" for key, value in found.items()))
    return found


def main() -> None:
    """Prepares a home, runs the loads, prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one last line of JSON")
    parser.add_argument("--short", action="store_true", help=f"{SHORT:,} posts")
    parser.add_argument("--posts", default=str(POSTS), help="how many; several from the least on, joined by commas")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each load")
    parser.add_argument("--home", type=Path, help="prepared before, by the same command; made there if it is not")
    wanted = parser.parse_args()
    sizes = [SHORT] if wanted.short else [int(posts) for posts in wanted.posts.split(",")]
    rows = []
    with tempfile.TemporaryDirectory() as name:
        home = wanted.home or Path(name) / "feed" / "home"
        for posts in sizes:
            kept = home if posts == sizes[-1] else home.with_name(f"{home.name}-{posts}")
            rows.append(run(kept, Path(name), seconds=wanted.seconds, posts=posts))
    if len(rows) > 1:
        print(costs(rows))
    print(f"  bar: p99 < {BAR_MS:g} ms at 25/s")
    if wanted.json:
        print(json.dumps({key: round(value, 4) for key, value in rows[-1].items()}))


if __name__ == "__main__":
    main()
