"""Fraud's decision, whole: decalog beside the stack that a good team would assemble, at the same load.

    python bench/peers/fraud_stack.py [--short] [--json] [--seconds 8] [--repeats 3] [--home PREPARED]

The peer (`stack/app.py`, `stack/windows.py`) is FastAPI on uvicorn with uvloop and httptools, pydantic, one function in
Lua on Redis for all windows in one round trip, LightGBM over the very same model file, the same calibration and costs,
and an fsynced insert into SQLite, in groups, before the reply. It has no tokens, envelopes, hash chain, corrections or
replay, and it refuses a repeated payment only after it has counted it. Three styles of it: `wire` is written for the
least CPU (LightGBM's single-row C interface, a pipelined connection to Redis of its own on hiredis), `library` is the
same with redis.asyncio, `usual` is written as the documents of its parts show.

All get the same history and then the same payments, open loop, each server fresh, in turns; CPU is that of all
processes of a stack (decalog; uvicorn and redis-server), the generator's apart. Before, payments go through decalog and
`wire` one by one, and every feature, probability and action is compared, bit for bit; afterwards each vector that
`wire` made under load is computed again by decalog's engine. Exploring is off: it would draw differently. `glued` is
Feast's online store and BentoML as their documents put them together: features that were computed before are fetched,
no windows are kept, nothing is stored. `floor` (`stack/floor.py`) is the least that a server on uvicorn does with a
durable reply: it decides nothing at all, so `wire` over `floor` is more than any stack on it can reach.

The peers' environments are made in $DECALOG_PEERS, or in a temporary folder; where that fails, or Redis is not there,
a line says so. Keys: cpu_ratio and p99_ratio (`wire` over decalog, at 200/s), cpu_ratio_high and p99_ratio_high (at
rate_high, the highest tried that `wire` holds), cpu_ratio_library, cpu_ratio_usual, p99_ratio_library, p99_ratio_usual
(at 200/s), cpu_ratio_glued (at 100/s), cpu_ratio_most and cpu_ratio_most_high (`wire` over `floor`), values_compared,
values_differ, load_average (when it began).
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1] / "latency"))

import spine_decision
from environments import python_of
from stacks import Again, Body, Decalog, Decided, Floor, Glued, Peer, Stack, settings_of

from decalog.clock import DAY, SECOND, time_us
from decalog.simulation import rates_of, world_of
from decalog.system import find_system
from decalog.systems.fraud.features import FEATURES

PEER = (
    *("fastapi==0.165.0", "uvicorn==0.54.0", "uvloop==0.23.0", "httptools==0.9.0", "orjson==3.13.0"),
    *("pydantic==2.14.4", "redis==8.1.0", "hiredis==3.5.0", "lightgbm==4.7.0"),
)
GLUED = ("feast[redis]==0.67.0", "bentoml==1.4.40", "lightgbm==4.7.0")
STYLES = ("wire", "library", "usual")
RATE, RATE_GLUED, RATES_HIGH = 200, 100, (400, 800, 1_200, 1_600, 2_000)
HOLDS_MS = 50.0
"""A rate is held where p99 stays below it."""
WARM_S, SEARCH_S = 2.0, 3.0
HISTORY_DAYS = 32
VIEWS = ("reviews_1d",)
"""What the peer keeps for the policy, after the model's columns; what else decalog keeps for it is off or empty."""

Figures = dict[str, float]
Server = Decalog | Peer | Glued | Floor


class Work(NamedTuple):
    """What all stacks work on.

    `past` and `next_day` have their times; `bodies` is the file of payments for loads, which have none.
    """

    past: list[Body]
    next_day: list[Body]
    bodies: Path
    start_us: int
    per_s: float
    rates: dict[str, str]


def work_of(folder: Path, wanted: int) -> Work:
    """Returns history and payments of the world."""
    world = world_of(find_system("fraud"), spine_decision.SEED, scale=spine_decision.SCALE)
    start_us = world.start_us + spine_decision.DAYS * DAY
    before = [m.body for m in world.advance(start_us) if m.kind == "decide" and m.at > start_us - HISTORY_DAYS * DAY]
    next_day = [m.body for m in world.advance(start_us + DAY - SECOND) if m.kind == "decide"]
    bodies, _, per_s = spine_decision.payments(folder, wanted)
    return Work(before, next_day, bodies, start_us, per_s, dict(rates_of(world).rates))


def send(stack: Stack, bodies: Sequence[Body], path: str = "/v1/fraud/decide") -> None:
    """Sends payments one after the other."""
    connection = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=30)
    headers = {"content-type": "application/json", "authorization": f"Bearer {stack.token}"}
    for body in bodies:
        connection.request("POST", path, msgspec.json.encode(body), headers)
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise SystemExit(f"status {answer.status}: {text[:300].decode()}")
    connection.close()


def one_by_one(stacks: Sequence[Server], work: Work) -> tuple[int, int]:
    """Returns how many values both stacks gave for the same payments at the same times, and how many differ."""
    found = []
    for stack in stacks:
        with tempfile.TemporaryDirectory() as name:
            with stack.serving(work.start_us + DAY, 1.0, Path(name)) as served:
                send(served, work.next_day)
            found.append(stack.decided(served))
    places = [FEATURES.names.index(name) for name in (*FEATURES.names_for("model"), *VIEWS)]
    compared = differ = 0
    for ours, theirs in zip(*found, strict=True):
        if (ours.payment, ours.at_us) != (theirs.payment, theirs.at_us):
            raise SystemExit("the stacks stored different payments")
        differ += _unequal(ours.features[places], theirs.features)
        differ += (ours.p_fraud != theirs.p_fraud) + (ours.action != theirs.action)
        compared += len(places) + 2
    return compared, differ


def differ_again(work: Work, decided: Sequence[Decided]) -> tuple[int, int]:
    """Returns how many values of the model's columns were computed again, and how many of them differ.

    In the order in which Redis counted them. The reviews are not compared: under load the peer's count of them lags
    behind, since it learns of a review in a second step.
    """
    again, places, differ = Again(work.rates), list(FEATURES.places_for("model")), 0
    bodies = {body["id"]: body for body in map(json.loads, work.bodies.read_text().splitlines())}
    for body in work.past:
        again.add("payment", time_us(body["event_time"]), body)
    for each in decided:
        wanted = again.vector(bodies[each.payment], each.at_us)
        differ += _unequal(wanted[places], each.features[: len(places)])
        again.add("payment", each.at_us, bodies[each.payment])
    return len(places) * len(decided), differ


def _unequal(left: np.ndarray, right: np.ndarray) -> int:
    """Returns how many float64 differ in any bit."""
    return int((left.view(np.int64) != right.view(np.int64)).sum())


def load(stack: Stack, *, rate: float, seconds: float, bodies: Path, skip: int) -> Figures:
    """Runs one load; returns the generator's figures, with the stack's CPU a request."""
    command = [*spine_decision.GENERATOR, "--port", str(stack.port), "--token", stack.token]
    lines = spine_decision.timed(bodies, rate=rate, seconds=seconds, skip=skip, path="/v1/fraud/decide")
    cpu_s = stack.cpu_s()
    ran = subprocess.run(command, input=lines, check=True, stdout=subprocess.PIPE, text=True)
    cpu_s = stack.cpu_s() - cpu_s
    found: Body = json.loads(ran.stdout)
    if found["statuses"] != {"200": found["requests"]}:
        raise SystemExit(f"not every request was answered with 200: {found['statuses']}")
    found["cpu_us"] = 1e6 * cpu_s / found["requests"]
    return {name: value for name, value in found.items() if isinstance(value, int | float)}


def fresh_load(stack: Server, work: Work, *, rate: float, seconds: float, again: bool) -> tuple[Figures, list[Decided]]:
    """Returns the figures of one load on a fresh server, and all that it decided where that is looked at `again`."""
    with tempfile.TemporaryDirectory() as name:
        with stack.serving(work.start_us, rate / work.per_s, Path(name)) as served:
            load(served, rate=rate, seconds=WARM_S, bodies=work.bodies, skip=0)
            warm = int(rate * WARM_S * 1.2) + 50
            found = load(served, rate=rate, seconds=seconds, bodies=work.bodies, skip=warm)
        return found, stack.decided(served) if again else []


class Bench:
    """Loads, and what came of them.

    Args:
        work: for all.
        seconds: of a load.
        repeats: of each.
    """

    def __init__(self, work: Work, *, seconds: float, repeats: int) -> None:
        self._work, self._seconds, self._repeats = work, seconds, repeats
        self.compared = self.differ = 0
        self.found: dict[tuple[str, int], Figures] = {}

    def compare(self, stacks: Sequence[Server]) -> None:
        """Compares what two stacks say of the same payments."""
        self._count(one_by_one(stacks, self._work))

    def run(self, stacks: Sequence[Server], rate: int) -> None:
        """Loads each in turn, another one first each time."""
        runs: dict[str, list[Figures]] = {stack.name: [] for stack in stacks}
        for number in range(self._repeats):
            for place in range(len(stacks)):
                stack = stacks[(number + place) % len(stacks)]
                again = number == 0 and stack.name == "wire"
                figures, decided = fresh_load(stack, self._work, rate=rate, seconds=self._seconds, again=again)
                runs[stack.name].append(figures)
                if again:
                    self._count(differ_again(self._work, decided))
        for name, figures_of in runs.items():
            self.found[name, rate] = spine_decision.median(figures_of)
            print(line(name, rate, self.found[name, rate]), flush=True)

    def highest(self, stack: Server, rates: Iterable[int]) -> int:
        """Returns the highest rate that a stack holds, 0 for none; rates rise, and it stops at the first that fails."""
        held = 0
        for rate in rates:
            figures, _ = fresh_load(stack, self._work, rate=rate, seconds=SEARCH_S, again=False)
            if figures["p99_ms"] > HOLDS_MS:
                break
            held = rate
        return held

    def ratio(self, figure: str, name: str, rate: int, *, over: str = "decalog") -> float | None:
        """Returns a stack's figure over another's, decalog's, at a rate; None where it was not run."""
        if (name, rate) not in self.found:
            return None
        return self.found[name, rate][figure] / self.found[over, rate][figure]

    def _count(self, found: tuple[int, int]) -> None:
        self.compared += found[0]
        self.differ += found[1]


def line(name: str, rate: int, figures: Figures) -> str:
    """Returns a line of the table."""
    columns = ("cpu_us", "p50_ms", "p99_ms", "p99_9_ms", "generator_cpu_us", "late_p99_ms")
    return f"{name:>8} {rate:>6}/s" + "".join(f"{figures[column]:>18,.2f}" for column in columns)


def programs(folder: Path) -> tuple[Path, str]:
    """Returns the peer's Python and Redis's server; leaves with a line where they are not to be had here."""
    redis = shutil.which("redis-server") or shutil.which("valkey-server")
    if redis is None:
        print("not run: no redis-server and no valkey-server on this machine: apt-get install redis-server")
        sys.exit(0)
    python, wrong = python_of("stack", PEER, folder=folder)
    if wrong:
        print(f"not run: the peer's environment was {wrong}")
        sys.exit(0)
    print(f"peer: {' '.join(PEER)}, {versions(redis)}")
    return python, redis


def peers(home: Path, work: Work, folder: Path, *, run_by: tuple[Path, str]) -> list[Peer]:
    """Returns the styles of the peer, filled with the history."""
    python, redis = run_by
    dump = folder / "history" / "dump.rdb"
    dump.parent.mkdir()
    made = [Peer(python, redis, settings=settings_of(home, work.rates, style), dump=dump) for style in STYLES]
    made[0].fill(work.past)
    return made


def versions(program: str) -> str:
    """Returns what a program says of its version."""
    said = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout
    return " ".join(said.split()[:3])


def glued(home: Path, work: Work, folder: Path) -> Glued | None:
    """Returns Feast and BentoML, filled; None, with a line, where they cannot be installed here."""
    python, wrong = python_of("glued", GLUED, folder=folder)
    if wrong:
        print(f"glued was not run: its environment was {wrong}")
        return None
    print(f"glued: {' '.join(GLUED)}")
    place = folder / "repository"
    place.mkdir()
    made = Glued(python, settings=settings_of(home, work.rates, "wire"), folder=place)
    made.fill(work.past, work.rates)
    return made


def measure(bench: Bench, stacks: Sequence[Server], *, rates_high: Sequence[int]) -> int:
    """Compares decalog and `wire`, loads all at 200/s, and those and the last at the highest rate held: returns it."""
    bench.compare(stacks[:2])
    names = ("CPU, µs", "p50, ms", "p99, ms", "p99.9, ms", "generator, µs", "late p99, ms")
    print(" " * 17 + "".join(f"{name:>18}" for name in names))
    bench.run(stacks, RATE)
    high = bench.highest(stacks[1], rates_high)
    if high:
        bench.run((*stacks[:2], stacks[-1]), high)
    return high


def keys_of(bench: Bench, high: int) -> dict[str, float | None]:
    """Returns the keys of the JSON line."""
    keys = {"cpu_ratio": bench.ratio("cpu_us", "wire", RATE), "p99_ratio": bench.ratio("p99_ms", "wire", RATE)}
    for style in STYLES[1:]:
        keys |= {f"cpu_ratio_{style}": bench.ratio("cpu_us", style, RATE)}
        keys |= {f"p99_ratio_{style}": bench.ratio("p99_ms", style, RATE)}
    keys |= {"rate_high": high, "cpu_ratio_high": bench.ratio("cpu_us", "wire", high)}
    keys |= {"p99_ratio_high": bench.ratio("p99_ms", "wire", high)}
    keys |= {"cpu_ratio_glued": bench.ratio("cpu_us", "glued", RATE_GLUED)}
    keys |= {"cpu_ratio_most": bench.ratio("cpu_us", "wire", RATE, over="floor")}
    keys |= {"cpu_ratio_most_high": bench.ratio("cpu_us", "wire", high, over="floor")}
    return keys | {"values_compared": bench.compared, "values_differ": bench.differ}


def main() -> None:
    """Prepares a home, runs the stacks, prints the table; fails where values differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one last line of JSON")
    parser.add_argument("--short", action="store_true", help="one repeat of 2 s, one higher rate, without glued")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each load")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--home", type=Path, help="prepared before, by the same command; made there if it is not")
    wanted = parser.parse_args()
    seconds, repeats = (2.0, 1) if wanted.short else (wanted.seconds, wanted.repeats)
    rates_high = RATES_HIGH[:1] if wanted.short else RATES_HIGH
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run_by = programs(folder)
        home = wanted.home or folder / "home"
        if not home.exists():
            spine_decision.prepare(home)
        disk = spine_decision.fsync_ms(folder)
        print(f"one fsync of 4 KiB on this disk: p50 {disk[0]:.2f} ms, p99 {disk[1]:.2f} ms")
        began = os.getloadavg()[0]
        work = work_of(folder, int(rates_high[-1] * (max(seconds, SEARCH_S) + WARM_S) * 1.2) + 200)
        decalog, bench = Decalog(home), Bench(work, seconds=seconds, repeats=repeats)
        stacks = (decalog, *peers(home, work, folder, run_by=run_by), Floor(run_by[0]))
        high = measure(bench, stacks, rates_high=rates_high)
        if not wanted.short and (bento := glued(home, work, folder)) is not None:
            bench.run((decalog, bento), RATE_GLUED)
    keys = keys_of(bench, high) | {"load_average": began}
    print(f"{keys['values_differ']} of {keys['values_compared']:,} values differ")
    if wanted.json:
        print(json.dumps(keys))
    sys.exit(bool(keys["values_differ"]))


if __name__ == "__main__":
    main()
