"""What callers feel while a person is erased on the running server.

    python bench/latency/spine_erasure.py [--system fraud] [--rate 200] [--days 150] [--scale 0.25] [--json] [--short]

A home is filled and trained by the system's world. Its server decides `rate` of the world's next requests a second,
open loop, in this process and without HTTP, each reply after its record is on the disk. Once it is warm, the
person with the most records is erased: what is read of the whole log and of every file runs in processes beside; rows
are taken out of the live views, and a retrieval is built anew, between two requests. Latency counts from the
scheduled moment, in three parts: before, during (until the proof is there), and after. The machine's own stalls are
in all of them, so read the parts against each other.

Beside it stands what of that is the erasure's own: the CPU of each turn in which the event loop works for it, and no
request is answered. Other programs on the machine do not change that.

Keys: rate, log (records), records (erased), erase_s, replies_failed, proven (1 where the erasure's proof holds), turns,
turn_p99_ms and turn_max_ms (CPU of one), turn_max_of (what it did), and for each part `<part>_n`, `<part>_p50_ms`,
`<part>_p99_ms`, `<part>_max_ms`.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.faults.spine_privacy import PERSON, busiest

from decalog.clock import DAY, ManualClock
from decalog.home import Home
from decalog.host import Host
from decalog.operations import open_host, quiet, train_on_world
from decalog.privacy import live as rooms
from decalog.privacy.live import Live
from decalog.simulation import world_of
from decalog.system import find_system
from decalog.testing.worlds import Message

SEED = 7
WARM, BESIDE_S = 200, 8.0
RATES = {"fraud": 200.0, "feed": 25.0}
"""What each system's slo.toml declares."""
SIZES = {"fraud": (150, 0.25), "feed": (14, 0.2)}
"""Days of history and size of the world."""


class Load:
    """Requests to a host at a rate, and how long after it was due each reply came.

    Args:
        host: decides.
        name: of the system.
        requests: to send.
        clock: moved to each request's time.
        rate: requests a second.
    """

    def __init__(self, host: Host, name: str, requests: Iterator[Message], *, clock: ManualClock, rate: float) -> None:
        self._host, self._name, self._requests, self._clock, self._rate = host, name, requests, clock, rate
        self.replies: list[tuple[float, float]] = []
        self.failed = 0

    async def run(self) -> None:
        """Asks until it is cancelled."""
        asked: set[asyncio.Task[None]] = set()
        due = time.perf_counter()
        for message in self._requests:
            due += 1 / self._rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            self._clock.set(max(self._clock.now_us(), message.at))
            asked.add(task := asyncio.create_task(self._ask(message, due)))
            task.add_done_callback(asked.discard)

    async def warm(self, count: int) -> None:
        """Asks for so many decisions, one after the other; what is compiled is then there."""
        for message in itertools.islice(self._requests, count):
            self._clock.set(max(self._clock.now_us(), message.at))
            await self._ask(message, time.perf_counter())
        self.replies.clear()

    async def _ask(self, message: Message, due: float) -> None:
        try:
            await self._host.decide(self._name, msgspec.json.encode(message.body))
        except Exception:
            self.failed += 1
            raise
        self.replies.append((due, time.perf_counter() - due))


class Turns:
    """The CPU of each turn of the event loop that erasing takes, s."""

    def __init__(self, host: Host) -> None:
        self.took: list[tuple[float, str]] = []
        self._operate = host.operate
        host.operate = self._asked  # type: ignore[method-assign, assignment]  # its turns are measured
        for name in ("erasures", "sweep", "destroy", "tell", "retrieve_with", "extended"):
            setattr(rooms, name, self._timed(getattr(rooms, name), name))

    def _timed(self, act: Callable[..., Any], name: str) -> Callable[..., Any]:
        def timed(*given: Any, **named: Any) -> Any:
            begun = time.thread_time()
            try:
                return act(*given, **named)
            finally:
                self.took.append((time.thread_time() - begun, name))

        return timed

    async def _asked(self, name: str, act: Callable[[Any], Any]) -> Any:
        return await self._operate(name, self._timed(act, "a turn"))

    def told(self) -> dict[str, Any]:
        """Returns how many there were, and the longest of them."""
        cpu_ms = np.array([took for took, _ in self.took]) * 1e3
        return {
            "turns": len(cpu_ms),
            "turn_p99_ms": round(float(np.percentile(cpu_ms, 99)), 2),
            "turn_max_ms": round(float(cpu_ms.max()), 2),
            "turn_max_of": max(self.took)[1],
        }


def coming(name: str, *, days: int, scale: float) -> Iterator[Message]:
    """Yields the requests of a world behind its history."""
    world = world_of(find_system(name), SEED, scale=scale)
    world.advance(world.start_us + days * DAY, alone=True)
    for day in range(days + 1, 10**6):
        yield from (one for one in world.advance(world.start_us + day * DAY) if one.kind == "decide")


async def erased(load: Load, live: Live, name: str, *, person: str) -> tuple[list[float], bool]:
    """Erases a person under load; returns when that began and ended, and whether it is proven."""
    await load.warm(WARM)
    asking = asyncio.create_task(load.run())
    await asyncio.sleep(BESIDE_S)
    marks = [time.perf_counter()]
    told = await live.erase(name, person, by="bench")
    marks.append(time.perf_counter())
    await asyncio.sleep(BESIDE_S)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await asyncio.sleep(0.5)
    return marks, told.found and told.proof is not None and told.proof.holds


def parts(load: Load, marks: list[float]) -> dict[str, float]:
    """Returns the latencies of each part."""
    found: dict[str, float] = {}
    edges = [0.0, *marks, float("inf")]
    for name, (start, end) in zip(("before", "during", "after"), itertools.pairwise(edges), strict=True):
        waits = np.array([wait for due, wait in load.replies if start <= due < end] or [np.nan]) * 1e3
        measured = {"p50": np.percentile(waits, 50), "p99": np.percentile(waits, 99), "max": waits.max()}
        found |= {f"{name}_n": len(waits)}
        found |= {f"{name}_{which}_ms": round(float(value), 1) for which, value in measured.items()}
    return found


def measured(name: str, *, rate: float, days: int, scale: float) -> dict[str, Any]:
    """Returns the figures of one run."""
    with tempfile.TemporaryDirectory(prefix="decalog-erasure-") as folder:
        home = Home(Path(folder) / "var")
        train_on_world(home, name, days=days, seed=SEED, scale=scale, say=quiet)
        log = home.reader()
        found, clock = busiest(log, name), ManualClock(log.known_time)
        log.close()
        person = next(str(one.value) for one in found.values if one.name == PERSON[name])
        host = open_host(home, [name], clock=clock, say=print)
        turns = Turns(host)
        load = Load(host, name, coming(name, days=days, scale=scale), clock=clock, rate=rate)

        async def play() -> tuple[list[float], bool]:
            await host.start()
            try:
                return await erased(load, Live(host, home), name, person=person)
            finally:
                await host.stop()

        marks, is_proven = asyncio.run(play())
        sizes = {"rate": rate, "log": host.log.position, "records": len(found.records[name])}
        host.log.close()
    told = {"erase_s": round(marks[1] - marks[0], 2), "replies_failed": load.failed, "proven": int(is_proven)}
    return sizes | told | turns.told() | parts(load, marks)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--system", choices=sorted(PERSON), default="fraud")
    parser.add_argument("--rate", type=float, help="requests a second")
    parser.add_argument("--days", type=int, help="of history")
    parser.add_argument("--scale", type=float, help="of the world")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--short", action="store_true", help="a smaller world of fraud")
    given = parser.parse_args()
    days, scale = (150, 0.1) if given.short and given.system == "fraud" else SIZES[given.system]
    days, scale = given.days or days, given.scale or scale
    found = measured(given.system, rate=given.rate or RATES[given.system], days=days, scale=scale)
    print(f"load average {os.getloadavg()[0]:.1f}")
    for key, value in found.items():
        print(f"{key:16} {value}")
    if given.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
