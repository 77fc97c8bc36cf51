"""How long a server's views take to be ready: from a snapshot, and from folding.

    python bench/latency/spine_start.py [--events 10000000] [--folded 300000] [--json] [--short]

Fraud's own features, over synthetic payments of 30 days; every payment is a row of its card, customer, device, IP
address and e-mail. Two measures, each in a process of its own, the kernel compiled and the file in the page cache:

- a snapshot of `events` payments, whose rows are made as arrays: seconds from opening the file until the state has
  answered a first request (every byte was read and its SHA-256 compared by then), its size, and the bytes of a row;
- `folded` payments as changes in memory: seconds until a state has folded them and answered, beside the same start from
  that state's snapshot. Reading and decoding the log's records comes on top of folding, and is not in it.

Keys: events, start_s_snapshot, start_cpu_s_snapshot (of both reading threads), snapshot_mib, bytes_per_row (of the
file), first_touch_us (median of a request whose tokens nobody asked for yet; vector and fold), folded,
start_s_fold, start_cpu_s_fold, start_s_folded_snapshot, and bytes_per_live_row (of a state to which payments came one
by one, with room for more and the index: from the growth of the process).
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import numpy as np

from decalog.clock import DAY
from decalog.features import kernel
from decalog.features.facts import Change, Fact, Point
from decalog.features.online import OnlineState
from decalog.features.packed import PackedRows, Rest
from decalog.features.plan import EntityPlan, Plan
from decalog.features.snapshot import read_snapshot, write_snapshot
from decalog.systems.fraud.system import SYSTEM

FEATURES = SYSTEM.features
START = 20_000 * DAY
SPAN = 30 * DAY
PER_TOKEN = {"card": 20, "customer": 25, "device": 20, "ip": 10, "email": 25}
"""Payments of a token, on average."""
HASH = bytes(32)

T = TypeVar("T")


def alone(work: Callable[..., T], *arguments: object) -> T:
    """Returns what a function returns in a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def tokens_of(entity: str, events: int) -> np.ndarray:
    """Returns the tokens of an entity name, random and ascending as the vault's are."""
    count = max(1, events // PER_TOKEN[entity])
    drawn = np.random.default_rng(len(entity)).integers(1, 2**62, count + count // 8 + 8)
    return np.unique(drawn)[:count]


def packed_rows(plan: EntityPlan, events: int, *, kind: int) -> PackedRows:
    """Returns one row a payment for an entity name, as arrays."""
    width = plan.picks.shape[0]
    if "payment" not in plan.kinds:
        none = np.zeros(0, np.int64)
        return PackedRows(none, none, np.zeros((0, width), np.int64))
    rng = np.random.default_rng(events)
    tokens = tokens_of(plan.entity, events)
    owners = rng.integers(0, len(tokens), events)
    order = np.argsort(owners, kind="stable")
    held, counts = np.unique(owners, return_counts=True)
    heads = np.cumsum(counts + 1) - (counts + 1)
    block = np.empty((events + len(held), width), np.int64)
    is_row = np.ones(len(block), np.bool_)
    is_row[heads] = False
    rows = rng.integers(0, 10_000, (events, width))
    rows[:, 0], rows[:, 1], rows[:, 2] = START + order * (SPAN // events), order, kind
    block[is_row] = rows
    block[heads] = 0
    block[heads, kernel.COUNTED], block[heads, kernel.MARK] = counts, kernel.BEFORE_ALL
    return PackedRows(tokens[held], counts, block)


def make_snapshot(path: Path, events: int) -> tuple[int, int]:
    """Writes a snapshot of so many payments; returns its bytes and its rows."""
    plan = Plan(FEATURES)
    entities = ((one.entity, packed_rows(one, events, kind=plan.bits["payment"])) for one in plan.entities)
    watermark = START + (events - 1) * (SPAN // events)
    rest = Rest(seq=events - 1, watermark=watermark, unusable={}, newest={"payment": watermark}, entities=entities)
    manifest = write_snapshot(path, OnlineState.resumed(FEATURES, rest), position=events, log_hash=HASH)
    return path.stat().st_size, manifest.rows


def payment(seq: int, events: int, *, rng: random.Random, tokens: dict[str, list[int]]) -> Fact:
    """Returns one payment of random tokens."""
    attributes: dict[str, int | float | str | bool] = {
        "amount_base_minor": rng.randrange(100_000),
        "channel": "ecom",
        "mcc": "5411",
    }
    entities = {entity: rng.choice(known) for entity, known in tokens.items()} | {"merchant": rng.randrange(1_000)}
    return Fact(seq, START + seq * (SPAN // events), "payment", entities, attributes)


def payments(events: int, known: int, *, first: int = 0) -> Iterator[Fact]:
    """Yields payments of the tokens of a history of `known` payments."""
    rng = random.Random(known)
    tokens = {entity: tokens_of(entity, known).tolist() for entity in PER_TOKEN}
    for seq in range(first, first + events):
        yield payment(seq, known, rng=rng, tokens=tokens)


def answer(state: OnlineState, own: Fact) -> None:
    """Asks for one vector."""
    if not np.isfinite(state.vector(Point(state.position, own.event_time, own=own))).all():
        raise SystemExit("a vector that is not finite")


def start_from_snapshot(path: Path, events: int) -> tuple[float, float, float]:
    """Returns the seconds until a state from a snapshot has answered, those of CPU, and the µs of first touches."""
    asked = list(payments(2_000, events, first=events))
    started, cpu = time.perf_counter(), time.process_time()
    state = read_snapshot(path, FEATURES, hash_at=lambda _: HASH)[1]
    answer(state, asked[0])
    ready, cpu = time.perf_counter() - started, time.process_time() - cpu
    took = []
    for own in asked:
        begun = time.perf_counter_ns()
        answer(state, own)
        state.apply(Change(own.root, own.event_time, None, own))
        took.append(time.perf_counter_ns() - begun)
    return ready, cpu, statistics.median(took) / 1e3


def start_from_fold(path: Path, events: int) -> tuple[float, float]:
    """Returns the seconds until a state that folds changes has answered, and those of CPU; writes its snapshot."""
    changes = [Change(fact.root, fact.event_time, None, fact) for fact in payments(events, events)]
    (own,) = payments(1, events, first=events)
    started, cpu = time.perf_counter(), time.process_time()
    state = OnlineState(FEATURES)
    state.apply_many(changes)
    answer(state, own)
    ready, cpu = time.perf_counter() - started, time.process_time() - cpu
    write_snapshot(path, state, position=events, log_hash=HASH)
    return ready, cpu


def bytes_per_live_row(events: int) -> float:
    """Returns what a row costs, from the growth of this process while changes come one by one."""
    state, facts = OnlineState(FEATURES), payments(events, events)
    answer(state, next(facts))
    grown = resident()
    for fact in facts:
        state.apply(Change(fact.root, fact.event_time, None, fact))
    return (resident() - grown) / state.stats().rows


def resident() -> int:
    """Returns the bytes of this process in memory; Linux only, 0 elsewhere."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * 4096 if statm.exists() else 0


def measure(events: int, folded: int, folder: Path) -> dict[str, float]:
    """Returns all figures."""
    path = folder / "a.snapshot"
    size, rows = alone(make_snapshot, path, events)
    ready_s, ready_cpu_s, touch_us = alone(start_from_snapshot, path, events)
    fold_s, fold_cpu_s = alone(start_from_fold, path, folded)
    small_s, _, _ = alone(start_from_snapshot, path, folded)
    return {
        "events": events,
        "start_s_snapshot": ready_s,
        "start_cpu_s_snapshot": ready_cpu_s,
        "snapshot_mib": size / 2**20,
        "bytes_per_row": size / rows,
        "first_touch_us": touch_us,
        "folded": folded,
        "start_s_fold": fold_s,
        "start_cpu_s_fold": fold_cpu_s,
        "start_s_folded_snapshot": small_s,
        "bytes_per_live_row": alone(bytes_per_live_row, folded),
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=10_000_000, help="payments in the large snapshot")
    parser.add_argument("--folded", type=int, default=300_000, help="payments that are folded")
    parser.add_argument("--json", action="store_true", help="print one last line of JSON")
    parser.add_argument("--short", action="store_true", help="do all of it on less")
    wanted = parser.parse_args()
    events, folded = (200_000, 20_000) if wanted.short else (wanted.events, wanted.folded)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(events, folded, Path(folder))
    lines = {
        f"{events:>12,} payments from a snapshot": "{start_s_snapshot:8.2f} s, {start_cpu_s_snapshot:.2f} s of CPU",
        "its size": "{snapshot_mib:8,.0f} MiB, {bytes_per_row:.1f} bytes a row",
        "decided on tokens not asked for yet": "{first_touch_us:8.1f} µs, vector and fold",
        f"{folded:>12,} payments folded": "{start_s_fold:8.2f} s, {start_cpu_s_fold:.2f} s of CPU",
        "from their snapshot": "{start_s_folded_snapshot:8.2f} s",
        "a row in memory": "{bytes_per_live_row:8.0f} bytes",
    }
    for name, figures in lines.items():
        print(f"{name if name[0] == ' ' else ' ' * 15 + name:44}{figures.format_map(found)}")
    if wanted.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
