"""Pages of the control room over a log of a million decisions: how long each takes, and what the index costs.

    python bench/latency/spine_control_room.py [--json] [--short]

The log is made here: decisions like fraud's, with candidates, features and reasons, stamped and committed as any other,
and an outcome for every tenth. Pages are asked one after the other as a browser would, all of them over the same
index, in this process and without a network between; `p99_ms` is the worst page's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.control_room.rooms import catch_up
from tests.homes import add_model, decide_live, fill_home, records

from decalog.clock import SECOND, ManualClock
from decalog.control_room.app import App
from decalog.control_room.homes import House, index_of
from decalog.control_room.index import Filter, Index, Row
from decalog.decisions import Decision, decision_keys, decode_decision, new_decision_id
from decalog.events import encode
from decalog.home import Home
from decalog.log import Draft, Log
from decalog.outcomes import Outcome

GROUP = 2_000
EVERY_US = 11 * SECOND
"""A million of them are 127 days."""


def main(measure: Callable[[Path, int, int], dict[str, Any]], *, noun: str) -> None:
    """Makes the log, follows it, asks the pages, and prints the table.

    Args:
        measure: (folder, how many decisions, rounds) → figures.
        noun: what a decision is called here.
    """
    asked = argparse.ArgumentParser()
    asked.add_argument("--json", action="store_true", help="print the figures as JSON")
    asked.add_argument("--short", action="store_true", help=f"20,000 {noun}s instead of a million")
    words = asked.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        told = measure(Path(folder), 20_000 if words.short else 1_000_000, 10 if words.short else 100)
    if words.json:
        sys.stdout.write(json.dumps(told) + "\n")
        return
    index = f"{told['index_us']:.0f} µs of CPU per {noun} and {told['index_mib']:.0f} MiB"
    print(f"{told['decisions']:,} {noun}s; the index took {index}")
    for name, one in told["pages"].items():
        times = "   ".join(f"{key[:-3]} {one[key]:6.1f} ms" for key in ("p50_ms", "p99_ms", "cpu_ms"))
        print(f"{name:30} {times}")
    print(f"p99 of the slowest page {told['p99_ms']:.1f} ms")


def measure(folder: Path, count: int, rounds: int) -> dict[str, Any]:
    """Returns the figures of a log with so many decisions."""
    home = fill_home(folder / "fraud")
    add_model(home.root)
    decide_live(home)
    first = decode_decision(records(home, "decision")[-1].body)
    with closing(home.writer(ManualClock(0))) as log:
        grow(log, first, count)
    return figures(home, count, rounds, system="fraud", paths=lambda row: paths_of(row.id, row.seq, first))


def figures(
    home: Home, count: int, rounds: int, *, system: str, paths: Callable[[Row], dict[str, str]]
) -> dict[str, Any]:
    """Returns what following a log costs, and what its pages take; `paths` names them by a decision in the middle."""
    started = time.process_time()
    catch_up(home)
    index_s = time.process_time() - started
    with closing(Index(index_of(home))) as index:
        middle = index.decisions(system, Filter(before=count // 2), most=1)[0]
    pages = asyncio.run(ask(home, paths(middle), rounds))
    return {
        "decisions": count,
        "p99_ms": max(page["p99_ms"] for page in pages.values()),
        "index_us": index_s / count * 1e6,
        "index_mib": index_of(home).stat().st_size / 2**20,
        "pages": pages,
    }


def grow(log: Log, like: Decision, count: int) -> None:
    """Appends decisions like one, each with an id, an action and people of its own."""
    rng = np.random.default_rng(7)
    clock, start = ManualClock(log.known_time), log.known_time
    log.clock = clock
    actions = rng.choice(["allow", "step_up", "review", "block"], size=count, p=[0.93, 0.05, 0.01, 0.01]).tolist()
    people, amounts = rng.integers(1, 2**40, size=(count, 3)).tolist(), rng.integers(100, 90_000, size=count).tolist()
    for number, (action, tokens, amount) in enumerate(zip(actions, people, amounts, strict=True)):
        clock.set(start + number * EVERY_US)
        decision = one_of(like, number, action, tokens, amount, clock.now_us(), rng.bytes(10))
        stamp(log, "fraud", decision)
        if number % 10 == 0:
            stamp(log, "fraud", Outcome(f"o{number}", decision.request.id, "chargeback", "issuer", clock.now_us(), 1.0))
        if number % GROUP == 0:
            log.commit()
    log.commit()


def stamp(log: Log, system: str, told: Decision | Outcome) -> None:
    """Stamps a decision, or an outcome."""
    stamped = partial(Draft, system=system, digest=b"", body=encode(told))
    if isinstance(told, Outcome):
        keys = (("target", f"{system}/{told.target}"),)
        log.stamp(stamped(kind="outcome", id=told.id, event_time=told.event_time, keys=keys))
    else:
        asked, named = told.request, decision_keys(system, told)
        log.stamp(stamped(kind="decision", id=asked.id, event_time=asked.event_time, keys=named))


def one_of(
    like: Decision, number: int, action: str, tokens: list[int], amount: int, at_us: int, entropy: bytes
) -> Decision:
    """Returns a decision like another one."""
    attributes = like.request.attributes | {"amount_base_minor": amount}
    entities = like.request.entities | dict(zip(("card", "device", "customer"), tokens, strict=True))
    request = msgspec.structs.replace(
        like.request, id=f"pay_{number:08d}", event_time=at_us, attributes=attributes, entities=entities
    )
    slot = msgspec.structs.replace(like.choice.slots[0], ref=action)
    choice = msgspec.structs.replace(like.choice, slots=(slot,))
    id_ = new_decision_id(at_us, entropy)
    arm = "r1/challenger" if number % 20 == 0 else ""
    return msgspec.structs.replace(like, id=id_, request=request, choice=choice, arm=arm)


def paths_of(id_: str, seq: int, like: Decision) -> dict[str, str]:
    """Returns name → path of the pages that are asked."""
    rows = "/s/fraud/decisions"
    token = like.request.entities["merchant"]
    return {
        "house": "/",
        "system": "/s/fraud",
        "decisions": rows,
        "decisions, page in the middle": f"{rows}?before={seq}",
        "decisions, action": f"{rows}?action=block",
        "decisions, arm": f"{rows}?arm=r1%2Fchallenger",
        "decisions, fallback": f"{rows}?fallback=any",
        "decisions, time": f"{rows}?since=2026-02-01T00:00&until=2026-02-02T00:00",
        "decisions, request": f"{rows}?id=pay_00000777",
        "decisions, busy merchant": f"{rows}?token={token}",
        "decision": f"{rows}/{id_}",
    }


async def ask(home: Home, paths: dict[str, str], rounds: int) -> dict[str, dict[str, float]]:
    """Returns what each page took, over some rounds of all."""
    app = App(House([home.root], {}), asks=False)
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in paths}
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        for _ in range(rounds):
            for name, path in paths.items():
                started, cpu = time.perf_counter(), time.process_time()
                answer = await client.get(path)
                took[name].append((time.perf_counter() - started, time.process_time() - cpu))
                if answer.status_code != 200:
                    raise SystemExit(f"{path}: {answer.status_code}")
    return {
        name: {
            "p50_ms": float(np.percentile([wall for wall, _ in found], 50)) * 1e3,
            "p99_ms": float(np.percentile([wall for wall, _ in found], 99)) * 1e3,
            "cpu_ms": float(np.median([cpu for _, cpu in found])) * 1e3,
        }
        for name, found in took.items()
    }


if __name__ == "__main__":
    main(measure, noun="decision")
