"""What a decision's features cost where their state lies on Redis, beside the state in memory.

    python bench/peers/spine_state_redis.py [--short] [--json]

Both states meet the same events: each is asked for its vector, then folded in. Four windows over each of three entities
(count, sum and distinct: twelve features an entity), cards, devices and merchants drawn with a long tail. Every vector
of one is compared with the other's. Redis (Debian's redis-server) runs on a loopback port, without persistence; on two
shared cores it competes with the client, so the CPU of both is told apart. Keys: embedded_us and redis_us (mean wall
time of an event: vector and fold), ratio, client_cpu_us, server_cpu_us, values_differ (of values_compared).
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import redis

from decalog.features.definition import Aggregate, FeatureSet
from decalog.features.facts import Change, Fact, Point
from decalog.features.online import OnlineState
from decalog.features.remote import RemoteState
from decalog.stores.redis import RedisState, StateSettings

EVENTS, WARM = 20_000, 4_000
ENTITIES = {"card": 2_000, "device": 3_000, "merchant": 200}
WINDOWS = ("60s", "10m", "1h", "24h")
STEP_US = 800_000
"""Time between two events: with 24 hours of windows, 108,000 events would be alive; the run stays within one day."""


def features() -> FeatureSet:
    """Returns twelve windows over each of three entities."""
    kinds = (("count", ""), ("sum", "cents"), ("distinct", "country"))
    return FeatureSet(
        system="bench",
        features=tuple(
            Aggregate(
                name=f"{entity}_{aggregate}_{window}",
                meaning="bench",
                unit="1",
                entity=entity,
                aggregate=aggregate,  # type: ignore[arg-type]  # the names above are of the closed list
                over=("payment",),
                window=window,
                column=column,
            )
            for entity in ENTITIES
            for aggregate, column in kinds
            for window in WINDOWS
        ),
        lateness="5m",
        retain=20_000,
    )


def events(count: int) -> list[Fact]:
    """Returns payments in order of time, with a long tail of entities."""
    draw = random.Random(7)
    return [
        Fact(
            seq,
            seq * STEP_US,
            "payment",
            {name: int(size * draw.random() ** 2) + 1 for name, size in ENTITIES.items()},
            {"cents": draw.randrange(100, 100_000), "country": draw.choice(("DE", "FR", "NL", "PL"))},
        )
        for seq in range(count)
    ]


@contextmanager
def server() -> Iterator[redis.Redis]:
    """Yields a client of a Redis of this run."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        print("not run: no redis-server and no valkey-server on this machine: apt-get install redis-server")
        sys.exit(0)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        words = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        with subprocess.Popen([program, *words], stdout=subprocess.DEVNULL) as process:
            client = redis.Redis(port=port)
            try:
                while process.poll() is None:
                    with suppress(redis.ConnectionError):
                        client.ping()
                        break
                yield client
            finally:
                client.close()
                process.kill()


def server_cpu_s(client: redis.Redis) -> float:
    """Returns the CPU time that the server has used."""
    used = client.info("cpu")
    return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])


def run(state: OnlineState, facts: list[Fact]) -> tuple[float, float, list[bytes]]:
    """Returns wall and CPU seconds of the events, and the vector of each."""
    vectors = []
    wall, cpu = time.perf_counter(), time.process_time()
    for fact in facts:
        vectors.append(state.vector(Point(fact.root, fact.event_time, fact.root, fact)).tobytes())
        state.apply(Change(fact.root, fact.event_time, None, fact))
    return time.perf_counter() - wall, time.process_time() - cpu, vectors


def measure(count: int, warm: int) -> dict[str, float]:
    """Returns the figures."""
    declared, facts = features(), events(count + warm)
    early = [Change(fact.root, fact.event_time, None, fact) for fact in facts[:warm]]
    timed = facts[warm:]
    with server() as client:
        port = client.connection_pool.connection_kwargs["port"]
        settings = StateSettings(kept_us=declared.lateness_us + declared.longest_window_us, timeout_s=5)
        store = RedisState(f"redis://127.0.0.1:{port}", "bench", settings=settings)
        embedded, remote = OnlineState(declared), RemoteState(declared, store)
        embedded.apply_many(early)
        remote.apply_many(early)
        embedded_s, _, wanted = run(embedded, timed)
        before = server_cpu_s(client)
        redis_s, client_s, got = run(remote, timed)
        server_s = server_cpu_s(client) - before
        remote.close()
    width = len(declared.names)
    differ = sum(
        one[at : at + 8] != other[at : at + 8]
        for one, other in zip(wanted, got, strict=True)
        if one != other
        for at in range(0, 8 * width, 8)
    )
    return {
        "embedded_us": embedded_s / count * 1e6,
        "redis_us": redis_s / count * 1e6,
        "ratio": redis_s / embedded_s,
        "client_cpu_us": client_s / count * 1e6,
        "server_cpu_us": server_s / count * 1e6,
        "values_compared": count * width,
        "values_differ": differ,
    }


def main() -> None:
    """Prints the table, and the figures as JSON where they are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    figures = measure(*(2_000, 500) if given.short else (EVENTS, WARM))
    print("an event: vector of 36 features over 3 entities, and fold")
    print(f"  in memory  {figures['embedded_us']:7.1f} µs")
    print(f"  on Redis   {figures['redis_us']:7.1f} µs, {figures['ratio']:.1f} times as long")
    print(f"    CPU      {figures['client_cpu_us']:7.1f} µs client, {figures['server_cpu_us']:.1f} µs server")
    print(f"  {figures['values_differ']} of {figures['values_compared']:,} values differ")
    if given.json:
        print(json.dumps(figures))
    sys.exit(figures["values_differ"] > 0)


if __name__ == "__main__":
    main()
