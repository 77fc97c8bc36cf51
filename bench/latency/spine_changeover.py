"""What callers feel while a champion of another feature set takes over.

    python bench/latency/spine_changeover.py [--events 150000] [--rate 100] [--json] [--short]

Fraud with `events` synthetic payments in its log decides `rate` requests a second, open loop, in this process and
without HTTP, each reply after its record is on the disk. After six seconds a model of another set is promoted. Latency
counts from the scheduled moment, in four parts: before; while a process folds the log beside; while this process reads
the snapshot, folds the tail, swaps and lets go of the old windows; after. The machine's own stalls are in all of them,
so read the parts against each other.

Keys: events, rate, built_s (the process), taken_over_s (the third part), replies_failed, and for each part
`<part>_p50_ms`, `<part>_p99_ms`, `<part>_max_ms`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np

from decalog.changeover import Follower
from decalog.clock import ManualClock
from decalog.deployment import Deployment
from decalog.features.definition import Aggregate
from decalog.home import Home
from decalog.host import Host
from decalog.models.linear import Threshold
from decalog.operations import open_host
from decalog.registry import DECLARED, Manifest, Pin, Registry
from decalog.runtime import this_code
from decalog.system import System
from decalog.systems.fraud.system import SYSTEM

START, GAP = 1_760_000_000_000_000, 5_000_000
"""When the first payment is made, and how long after it the next, µs."""
BESIDE_S = 6.0
PER_TOKEN = 3
WEEK = Aggregate(
    name="merchant_payments_7d",
    meaning="payments to the merchant in seven days",
    unit="payments",
    entity="merchant",
    aggregate="count",
    over=("payment",),
    window="7d",
)
OTHER = msgspec.structs.replace(
    SYSTEM, features=msgspec.structs.replace(SYSTEM.features, features=(*SYSTEM.features.features[1:], WEEK))
)


def payment(id_: str, number: int) -> dict[str, object]:
    """Returns a payment of one of the tokens."""
    names = {name: f"{name}-{number}" for name in ("card", "customer", "device", "email")}
    return {"id": id_, "amount_minor": 1_999, "currency": "EUR", "merchant": f"m{number % 500}", **names}


def fill(home: Home, events: int, *, clock: ManualClock) -> None:
    """Writes the history."""
    log, drawn = home.writer(clock), random.Random(1)
    ingest = Deployment(home, "fraud", log).prepare()
    for number in range(events):
        clock.set(START + number * GAP)
        ingest.event(payment(f"h{number}", drawn.randrange(1 + events // PER_TOKEN)))
        if number % 1_000 == 0:
            log.commit()
    log.commit()
    log.close()


def put(registry: Registry, system: System, *, limit: float = 3_000.0) -> str:
    """Registers a rule of a system's feature set, which finds payments above a limit dear, and returns its id."""
    names = system.features.names_for("model")
    model = Threshold(names.index("amount"), limit, above=0.3, below=0.001, width=len(names))

    def write(folder: Path) -> dict[str, object]:
        (folder / DECLARED).write_bytes(system.features.to_json())
        return dict(model.save(folder))

    manifest = Manifest(
        system="fraud",
        name="rule",
        format="json",
        head="p_fraud",
        features=names,
        feature_set=system.features.version,
        pin=Pin((1,), 0, 0),
        code=this_code(),
        seed=0,
    )
    return registry.put(manifest, write)


class Run:
    """One change of feature sets under load."""

    def __init__(self, host: Host, *, events: int, rate: int) -> None:
        self.host, self.events, self.rate = host, events, rate
        self.replies: list[tuple[float, float]] = []
        self.failed = 0
        self.marks: list[float] = []

    async def ask(self, number: int, due: float) -> None:
        """Asks for one decision and notes how long after it was due the reply came."""
        body = payment(f"l{number}", random.Random(number).randrange(1 + self.events // PER_TOKEN))
        try:
            await self.host.decide("fraud", msgspec.json.encode(body))
        except Exception:
            self.failed += 1
            raise
        self.replies.append((due, time.perf_counter() - due))

    async def load(self) -> None:
        """Asks at the rate until it is cancelled."""
        asked: set[asyncio.Task[None]] = set()
        due = time.perf_counter()
        for number in range(10**9):
            due += 1 / self.rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            asked.add(task := asyncio.create_task(self.ask(number, due)))
            task.add_done_callback(asked.discard)

    async def play(self, registry: Registry, model: str) -> None:
        """Promotes the model under load and waits until it decides."""
        await self.host.start()
        loading = asyncio.create_task(self.load())
        await asyncio.sleep(BESIDE_S)
        self.marks.append(time.perf_counter())
        registry.promote("fraud", model, by="bench", why="another feature set", at_us=0)
        while len(self.marks) < 3:
            problem = self.host.services["fraud"].problem
            if problem:
                raise SystemExit(problem)
            await asyncio.sleep(0.05)
        await asyncio.sleep(BESIDE_S)
        loading.cancel()
        await asyncio.sleep(0.5)
        await self.host.stop()


def parts(run: Run) -> dict[str, float]:
    """Returns the latencies of each part."""
    edges = [0.0, *run.marks, float("inf")]
    found: dict[str, float] = {}
    for name, (start, end) in zip(("before", "building", "taking_over", "after"), pairwise(edges), strict=True):
        waits = np.array([wait for due, wait in run.replies if start <= due < end] or [np.nan]) * 1e3
        measured = {"p50": np.percentile(waits, 50), "p99": np.percentile(waits, 99), "max": waits.max()}
        found |= {f"{name}_{which}_ms": round(float(value), 1) for which, value in measured.items()}
    return found


def measure(events: int, rate: int) -> dict[str, float]:
    """Returns the figures of one run."""
    with tempfile.TemporaryDirectory() as folder:
        home, clock = Home(Path(folder)), ManualClock(START)
        fill(home, events, clock=clock)
        registry = Registry(home.root)
        registry.promote("fraud", put(registry, SYSTEM), by="bench", why="the first", at_us=0)
        run = Run(open_host(home, ["fraud"], clock=clock, say=print), events=events, rate=rate)
        swap = Follower._swap  # noqa: SLF001 - its begin and end are what is measured

        async def marked(follower: Follower, other: Deployment) -> None:
            run.marks.append(time.perf_counter())
            await swap(follower, other)
            run.marks.append(time.perf_counter())

        Follower._swap = marked  # type: ignore[method-assign, assignment]  # noqa: SLF001 - as above
        asyncio.run(run.play(registry, put(registry, OTHER)))
        run.host.log.close()
    promoted, read, done = run.marks
    sizes = {"events": events, "rate": rate, "replies_failed": run.failed}
    return sizes | {"built_s": round(read - promoted, 2), "taken_over_s": round(done - read, 2)} | parts(run)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--events", type=int, default=150_000)
    parser.add_argument("--rate", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--short", action="store_true", help="a log of 5,000 payments")
    options = parser.parse_args()
    found = measure(5_000 if options.short else options.events, options.rate)
    print(f"load average {os.getloadavg()[0]:.1f}")
    for key, value in found.items():
        print(f"{key:22} {value}")
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
