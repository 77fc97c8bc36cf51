"""Pages of quantities over a log of a million orders: how long each takes, and what the index costs.

    python bench/latency/demand_control_room.py [--json] [--short]

The log is made here: orders like one of demand's, of 10,000 series in turn, each with its forecast, its reasons and
what was sold afterwards; one in fifty sold far more than was forecast. Pages are asked as `spine_control_room.py` does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from spine_control_room import GROUP, ask
from tests.control_room.orders import filled
from tests.control_room.rooms import catch_up
from tests.homes import records

from decalog.clock import SECOND, ManualClock
from decalog.control_room.homes import index_of
from decalog.control_room.index import Filter, Index
from decalog.decisions import Decision, decision_keys, decode_decision, new_decision_id
from decalog.events import encode
from decalog.log import Draft, Log
from decalog.outcomes import Outcome

SERIES = 10_000
EVERY_US = 8 * SECOND
"""A million of them are 93 days, and a series is ordered every 22 hours."""


def main() -> None:
    """Makes the log, follows it, asks the pages, and prints the table."""
    asked = argparse.ArgumentParser()
    asked.add_argument("--json", action="store_true", help="print the figures as JSON")
    asked.add_argument("--short", action="store_true", help="20,000 orders instead of a million")
    words = asked.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        told = measure(Path(folder), 20_000 if words.short else 1_000_000, rounds=10 if words.short else 100)
    if words.json:
        sys.stdout.write(json.dumps(told) + "\n")
        return
    index = f"{told['index_us']:.0f} µs of CPU an order and {told['index_mib']:.0f} MiB"
    print(f"{told['decisions']:,} orders; the index took {index}")
    for name, one in told["pages"].items():
        times = "   ".join(f"{key[:-3]} {one[key]:6.1f} ms" for key in ("p50_ms", "p99_ms", "cpu_ms"))
        print(f"{name:30} {times}")
    print(f"p99 of the slowest page {told['p99_ms']:.1f} ms")


def measure(folder: Path, count: int, *, rounds: int) -> dict[str, Any]:
    """Returns the figures of a log with so many orders."""
    home = filled(folder / "demand")
    like = decode_decision(records(home, "decision")[-1].body)
    with closing(home.writer(ManualClock(0))) as log:
        grow(log, like, count)
    started = time.process_time()
    catch_up(home)
    index_s = time.process_time() - started
    with closing(Index(index_of(home))) as index:
        middle = index.decisions("demand", Filter(before=count), most=1)[0]
    pages = asyncio.run(ask(home, paths_of(middle.id), rounds))
    return {
        "decisions": count,
        "p99_ms": max(figures["p99_ms"] for figures in pages.values()),
        "index_us": index_s / count * 1e6,
        "index_mib": index_of(home).stat().st_size / 2**20,
        "pages": pages,
    }


def grow(log: Log, like: Decision, count: int) -> None:
    """Appends orders like one, each with what was sold."""
    rng = np.random.default_rng(7)
    clock, start = ManualClock(log.known_time), log.known_time
    log.clock = clock
    forecast = like.candidates[0].predictions
    sold = np.where(rng.random(count) < 1 / 50, 3.0, rng.uniform(0.8, 1.2, count)) * next(iter(forecast.values()))
    for number, units in enumerate(np.round(sold).tolist()):
        clock.set(start + number * EVERY_US)
        order = one_of(like, number, at_us=clock.now_us(), entropy=rng.bytes(10))
        log.stamp(draft("decision", order.request.id, encode(order), clock.now_us(), decision_keys("demand", order)))
        said = Outcome(f"sold_{number}", order.request.id, "sales", "till", clock.now_us(), units)
        log.stamp(draft("outcome", said.id, encode(said), clock.now_us(), (("target", f"demand/{said.target}"),)))
        if number % GROUP == 0:
            log.commit()
    log.commit()


def draft(kind: str, id_: str, body: bytes, at_us: int, keys: Any) -> Draft:
    """Returns a record to stamp."""
    return Draft(kind=kind, system="demand", id=id_, digest=b"", event_time=at_us, body=body, keys=keys)


def one_of(like: Decision, number: int, *, at_us: int, entropy: bytes) -> Decision:
    """Returns an order like another one, of one of the series."""
    place = number % SERIES
    request = msgspec.structs.replace(
        like.request,
        id=f"ord_{number:08d}",
        event_time=at_us,
        attributes=like.request.attributes | {"series": f"s1/i{place}"},
        entities=like.request.entities | {"series": place + 1},
    )
    return msgspec.structs.replace(like, id=new_decision_id(at_us, entropy), request=request)


def paths_of(id_: str) -> dict[str, str]:
    """Returns name → path of the pages that are asked."""
    return {
        "system": "/s/demand",
        "one series": "/s/demand/of/7",
        "exceptions": "/s/demand/exceptions",
        "exceptions, one reason": "/s/demand/exceptions?why=above",
        "exceptions, a rare reason": "/s/demand/exceptions?why=fallback",
        "decisions": "/s/demand/decisions",
        "decision": f"/s/demand/decisions/{id_}",
    }


if __name__ == "__main__":
    main()
