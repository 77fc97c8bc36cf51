"""What one durable decision over HTTP costs: latency under open-loop load, and CPU, the spine's own share apart.

    python bench/latency/spine_decision.py [--json] [--seconds 10] [--repeats 3] [--home PREPARED]

A real `decalog serve fraud` with tokens, on a home that `decalog train` filled from the world, answers payments that
the same world goes on to make. The server's clock runs so fast that the payments keep the world's own density: each
card, device and address has the history in its windows that it has in the world. Every answer follows the fsync of its
record. The load generator is a process of its own; its CPU is reported apart.

Keys: cpu_us (CPU of the server a decision, at 2,000/s), own_share_us (of that, all but features and model: the stages
`features`, `fold`, which brings the views up to date, and `model`, whose time the server's own meter tells), p99_ms_200
and p99_ms_2000 (median of the repeats).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from decalog.access import TokenStore
from decalog.clock import DAY, SECOND, SystemClock, rfc3339
from decalog.readiness.open_loop import arrivals
from decalog.simulation import world_of
from decalog.system import find_system

RATES = (200, 2_000)
DAYS, SCALE, SEED = 150, 0.15, 0
WARM_S = 2.0
_STAGE = re.compile(r'decalog_stage_seconds_sum\{stage="([\w ]+)",system="\w+"\} (\S+)')
_GROUPS = re.compile(r"decalog_commit_records_(sum|count) (\S+)")
_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")
_FSYNCS = 200

Figures = dict[str, float]


class Served(NamedTuple):
    """A server that runs: its process, port, a token that may do everything, and the copy of a home that it is on."""

    process: subprocess.Popen[str]
    port: int
    token: str
    home: Path

    def cpu_s(self) -> float:
        """Returns the CPU that the process has used, user and system, all threads."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * _TICK_S

    def metrics(self) -> str:
        """Returns its metrics."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/metrics")
        request.add_header("Authorization", f"Bearer {self.token}")
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - loopback
            return str(answer.read().decode())

    def stages_s(self) -> Figures:
        """Returns stage → seconds spent in it so far."""
        return {stage: float(value) for stage, value in _STAGE.findall(self.metrics())}

    def groups(self) -> Figures:
        """Returns `sum` of records and `count` of commits so far."""
        return {part: float(value) for part, value in _GROUPS.findall(self.metrics())}


def prepare(home: Path) -> None:
    """Fills a home from the world and trains on it."""
    size = ("--world-days", str(DAYS), "--world-scale", str(SCALE), "--seed", str(SEED))
    subprocess.run([*_DECALOG, "train", "fraud", *size, "--home", str(home)], check=True, stdout=subprocess.DEVNULL)


def payments(folder: Path, count: int) -> tuple[Path, int, float]:
    """Writes the payments that the world makes after its history, without their times: they happen as they arrive.

    Returns:
        The file, one body a line; when they begin, µs; how many a simulated second.
    """
    world = world_of(find_system("fraud"), SEED, scale=SCALE)
    start_us = world.start_us + DAYS * DAY
    world.advance(start_us)
    bodies, days = list[dict[str, Any]](), 0
    while len(bodies) < count:
        days += 1
        bodies += [m.body for m in world.advance(start_us + days * DAY) if m.kind == "decide"]
    path = folder / "payments.jsonl"
    lines = [json.dumps({key: value for key, value in body.items() if key != "event_time"}) for body in bodies]
    path.write_text("\n".join(lines))
    return path, start_us, len(bodies) / (days * DAY / SECOND)


@contextmanager
def serving(home: Path, start_us: int, speed: float, system: str = "fraud") -> Iterator[Served]:
    """Runs a server on a copy of a home, on a clock of the world's time."""
    with tempfile.TemporaryDirectory(dir=home.parent) as folder:
        copy = Path(folder) / "home"
        shutil.copytree(home, copy)
        store = TokenStore(copy / "control.sqlite", SystemClock())
        _, token = store.create(["decide", "admin"])
        store.close()
        clock = ("--clock-start", rfc3339(start_us), "--clock-speed", f"{speed:.0f}")
        command = [*_DECALOG, "serve", system, "--port", "0", "--home", str(copy), *clock]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            yield Served(process, _port_of(process), token, copy)
        finally:
            process.terminate()
            process.wait(timeout=60)


def _port_of(process: subprocess.Popen[str]) -> int:
    said = []
    for line in process.stdout or ():
        said.append(line)
        found = re.search(r"listening on http://[^:]+:(\d+)", line)
        if found:
            return int(found[1])
    raise SystemExit("the server did not start:\n" + "".join(said))


def timed(bodies: Path, *, rate: float, seconds: float, skip: int, path: str) -> str:
    """Returns what the load generator reads: Poisson arrivals at a rate, each with the next of the bodies."""
    moments = arrivals(rate, seconds, seed=skip)
    lines = bodies.read_text().splitlines()[skip : skip + len(moments)]
    if len(lines) < len(moments):
        raise SystemExit(f"{len(moments)} bodies are needed, {len(lines)} are left in {bodies.name}")
    return "\n".join(json.dumps([moment, path, line]) for moment, line in zip(moments, lines, strict=True))


def load(served: Served, *, rate: int, seconds: float, bodies: Path, skip: int, path: str = "") -> Figures:
    """Runs one load; returns the generator's figures and the server's CPU and stages a request."""
    command = [*GENERATOR, "--port", str(served.port), "--token", served.token]
    lines = timed(bodies, rate=rate, seconds=seconds, skip=skip, path=path or "/v1/fraud/decide")
    stages, groups, cpu_s = served.stages_s(), served.groups(), served.cpu_s()
    ran = subprocess.run(command, input=lines, check=True, stdout=subprocess.PIPE, text=True)
    cpu_s, after, groups_after = served.cpu_s() - cpu_s, served.stages_s(), served.groups()
    found: dict[str, Any] = json.loads(ran.stdout)
    if found["statuses"] != {"200": found["requests"]}:
        raise SystemExit(f"not every request was answered with 200: {found['statuses']}")
    count = found["requests"]
    model_us = sum(1e6 * (after.get(s, 0.0) - stages.get(s, 0.0)) / count for s in ("features", "fold", "model"))
    found["cpu_us"] = 1e6 * cpu_s / count
    found["own_share_us"] = found["cpu_us"] - model_us
    commits = groups_after.get("count", 0.0) - groups.get("count", 0.0)
    found["group"] = (groups_after.get("sum", 0.0) - groups.get("sum", 0.0)) / commits if commits else 0.0
    return {name: value for name, value in found.items() if isinstance(value, int | float)}


def fsync_ms(folder: Path) -> tuple[float, float]:
    """Returns p50 and p99 of one 4 KiB append with fdatasync on this disk: no durable answer can be faster."""
    took = []
    with (folder / "probe").open("wb") as probe:
        for _ in range(_FSYNCS):
            probe.write(bytes(4_096))
            probe.flush()
            started = time.monotonic()
            os.fsync(probe.fileno())
            took.append(1e3 * (time.monotonic() - started))
    took.sort()
    return took[_FSYNCS // 2], took[_FSYNCS * 99 // 100]


def measure(home: Path, folder: Path, *, seconds: float, repeats: int) -> dict[str, Figures]:
    """Returns the median figures of each load."""
    wanted = int(RATES[-1] * (seconds * repeats + WARM_S) * 1.2) + 50 * (repeats + 1)
    bodies, start_us, per_s = payments(folder, wanted)
    found = {}
    for rate in RATES:
        with serving(home, start_us, rate / per_s) as served:
            warm = int(rate * WARM_S * 1.2) + 50
            load(served, rate=rate, seconds=WARM_S, bodies=bodies, skip=0)
            step = int(rate * seconds * 1.05) + 50
            runs = [
                load(served, rate=rate, seconds=seconds, bodies=bodies, skip=warm + step * number)
                for number in range(repeats)
            ]
            found[f"decide {rate}/s"] = median(runs)
            if rate == RATES[-1]:
                health = load(served, rate=rate, seconds=min(5.0, seconds), bodies=bodies, skip=0, path="/healthz")
                found["GET /healthz"] = health | {"own_share_us": 0.0}
    return found


def median(runs: Sequence[Figures]) -> Figures:
    """Returns the median of each figure."""
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def table(found: dict[str, Figures], disk: tuple[float, float]) -> str:
    """Returns the figures for people."""
    columns = ("p50_ms", "p99_ms", "p99_9_ms", "cpu_us", "own_share_us", "group", "generator_cpu_us", "late_p99_ms")
    rows: list[tuple[str, ...]] = [("", *columns)]
    rows += [(name, *(f"{figures[column]:,.2f}" for column in columns)) for name, figures in found.items()]
    lines = ["  ".join(cell.rjust(max(16, len(columns[0]))) for cell in row) for row in rows]
    disk_line = f"one fsync of 4 KiB on this disk: p50 {disk[0]:.2f} ms, p99 {disk[1]:.2f} ms; group: records a commit"
    return "\n".join([*lines, disk_line])


def main() -> None:
    """Prepares a home, runs the loads, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one last line of JSON")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--home", type=Path, help="prepared before, by the same command; made there if it is not")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        home = wanted.home or folder / "home"
        if not home.exists():
            prepare(home)
        disk = fsync_ms(folder)
        found = measure(home, folder, seconds=wanted.seconds, repeats=wanted.repeats)
    print(table(found, disk))
    if wanted.json:
        slow, fast = (found[f"decide {rate}/s"] for rate in RATES)
        keys = {"cpu_us": fast["cpu_us"], "own_share_us": fast["own_share_us"]}
        print(json.dumps(keys | {"p99_ms_200": slow["p99_ms"], "p99_ms_2000": fast["p99_ms"]}))


_DECALOG = (sys.executable, "-m", "decalog")
GENERATOR = (sys.executable, "-m", "decalog.readiness.open_loop")

if __name__ == "__main__":
    main()
