"""Fraud's decision, whole: decalog beside the stack that a good team would assemble, at the same load.

    python bench/peers/fraud_stack.py [--short] [--json] [--seconds 8] [--repeats 3] [--home PREPARED]

The peer (`stack/app.py`, `windows.lua`) is FastAPI on uvicorn with uvloop and httptools, pydantic, one Lua script
on Redis for all windows, LightGBM's single-row C interface over the very same model file, the same calibration and
costs, and an fsynced group insert into SQLite before the reply. It has no tokens, envelopes, hash chain, replay or
correction, and it refuses a repeated payment only after it has counted it.

Both get the same history and then the same payments, open loop, each server fresh, in turns; CPU is that of all
processes of a stack (decalog; uvicorn's and redis-server), the generator's apart. Before, payments go through both one
by one, and every feature, probability and action is compared; after, each vector that the peer made under load is
computed again by decalog's engine. Exploring is off in both: it would draw differently. `glued` is Feast's online store
and BentoML as their documents put them together: features are fetched, windows are not kept, nothing is stored.

The peers' environments are made in $DECALOG_PEERS, or in a temporary folder; where that fails, or Redis is not there,
a line says so. Keys: cpu_ratio and p99_ratio (peer over decalog at 200/s), cpu_ratio_high and p99_ratio_high (at
rate_high, the highest tried that the peer holds), values_compared, values_differ, cpu_ratio_glued (at 50/s).
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[1] / "latency"))

import environments
import spine_decision
from decalog.access import TokenStore
from decalog.clock import DAY, SECOND, SystemClock, rfc3339, time_us
from decalog.decisions import decode_decision, unpack_features
from decalog.features.facts import Change, Fact, Point
from decalog.features.online import OnlineState
from decalog.folding import LAST_ROOT
from decalog.home import Home
from decalog.money import EXPONENTS, convert
from decalog.registry import Registry
from decalog.simulation import rates_of, world_of
from decalog.system import find_system
from decalog.systems.fraud.features import FEATURES
from decalog.systems.fraud.policy import FraudCosts

PARTS = Path(__file__).resolve().parent / "stack"
PEER = ("fastapi", "uvicorn", "uvloop", "httptools", "orjson", "redis[hiredis]", "lightgbm==4.7.0")
GLUED = ("feast[redis]==0.67.0", "bentoml==1.4.40", "lightgbm==4.7.0")
RATE, RATES_HIGH, RATE_GLUED = 200, (400, 600, 800, 1_000, 1_200), 50
HOLDS_MS = 50.0
"""A rate is held where p99 stays below, and every request is answered."""
WARM_S = 2.0
HISTORY_DAYS = 32
COMPARED = tuple(name for name in FEATURES.names if name != "explored_amount_1d")
COSTS = FraudCosts(explore_bp=0)

Figures = dict[str, float]
Body = dict[str, Any]


class Work(NamedTuple):
    """What both stacks work on.

    `past` and `next_day` have their times; `bodies` is the file of payments for loads, which have none.
    """

    past: list[Body]
    next_day: list[Body]
    bodies: Path
    start_us: int
    per_s: float
    rates: dict[str, str]


class Stack(NamedTuple):
    """A stack that runs: its first processes, its port, a token, and where it keeps its decisions."""

    processes: tuple[int, ...]
    port: int
    token: str
    decisions: Path

    def cpu_s(self) -> float:
        """Returns the CPU that all its processes have used, those included that they started."""
        return sum(_cpu_s(pid) for root in self.processes for pid in _tree(root))


class Decided(NamedTuple):
    """A decision as a stack stored it."""

    payment: str
    at_us: int
    features: np.ndarray
    p_fraud: float
    action: str


def _tree(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(found for child in children for found in _tree(int(child)))]


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def work_of(folder: Path, wanted: int) -> Work:
    """Returns history and payments of the world."""
    world = world_of(find_system("fraud"), spine_decision.SEED, scale=spine_decision.SCALE)
    start_us = world.start_us + spine_decision.DAYS * DAY
    before = [m.body for m in world.advance(start_us) if m.kind == "decide" and m.at > start_us - HISTORY_DAYS * DAY]
    next_day = [m.body for m in world.advance(start_us + DAY - SECOND) if m.kind == "decide"]
    bodies, _, per_s = spine_decision.payments(folder, wanted)
    return Work(before, next_day, bodies, start_us, per_s, dict(rates_of(world).rates))


@contextmanager
def running(command: Sequence[object], *, log: Path, **settings: Any) -> Iterator[subprocess.Popen[str]]:
    """Runs a process whose words go to a file, and ends it."""
    with log.open("w") as words:
        process = subprocess.Popen([str(word) for word in command], stdout=words, stderr=words, text=True, **settings)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(timeout=60)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(port: int, process: subprocess.Popen[str], log: Path) -> None:
    until = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < until:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise SystemExit(f"{log.stem} did not start:\n{log.read_text()[-2_000:]}")


class Decalog:
    """How decalog is served: on a copy of a home that it was trained in."""

    name = "decalog"

    def __init__(self, home: Path) -> None:
        self._home = home

    @contextmanager
    def serving(self, start_us: int, speed: float, folder: Path) -> Iterator[Stack]:
        """Runs a fresh server."""
        home, costs, port = folder / "home", folder / "costs.toml", _free_port()
        shutil.copytree(self._home, home)
        costs.write_text("explore_bp = 0\n")
        store = TokenStore(home / "control.sqlite", SystemClock())
        _, token = store.create(["decide"])
        store.close()
        clock = ("--clock-start", rfc3339(start_us), "--clock-speed", f"{speed:.0f}")
        command = (sys.executable, "-m", "decalog", "serve", "fraud", "--port", port, "--home", home, *clock)
        log = folder / "decalog.log"
        with running((*command, "--policy", costs), log=log) as process:
            _wait(port, process, log)
            yield Stack((process.pid,), port, token, home)

    def decided(self, stack: Stack) -> list[Decided]:
        """Returns its decisions in their order; imported history is none of them."""
        log = Home(stack.decisions).reader()
        found = []
        for record in log.read():
            decision = decode_decision(record.body) if record.kind == "decision" else None
            if decision is not None and decision.mode != "imported":
                candidate = decision.candidates[0]
                values = unpack_features(candidate.features)
                p_fraud = candidate.predictions.get("p_fraud", -1.0)
                found.append(Decided(record.id, record.event_time, values, p_fraud, decision.choice.action))
        log.close()
        return found


class Peer:
    """How the peer is served: a Redis that starts with the history, and uvicorn with one worker.

    Args:
        python: of its environment.
        redis: redis-server or valkey-server.
        settings: of the application, without places and clock.
        dump: of Redis, with the payments before the first.
    """

    def __init__(self, python: Path, redis: str, *, settings: Body, dump: Path) -> None:
        self.name = settings["style"]
        self._python, self._redis, self._settings, self._dump = python, redis, settings, dump

    def fill(self, past: Sequence[Body]) -> None:
        """Makes the dump."""
        folder = self._dump.parent
        lines = folder / "past.jsonl"
        lines.write_bytes(b"\n".join(msgspec.json.encode(body) for body in past))
        with self._store(folder):
            environment = self._environment(folder, start_us=0, speed=1.0)
            subprocess.run([self._python, PARTS / "history.py", lines], env=environment, check=True)

    @contextmanager
    def serving(self, start_us: int, speed: float, folder: Path) -> Iterator[Stack]:
        """Runs a fresh server."""
        shutil.copy(self._dump, folder)
        port, log = _free_port(), folder / "uvicorn.log"
        environment = self._environment(folder, start_us=start_us, speed=speed)
        command = (self._python, "-m", "uvicorn", "app:app", "--port", port, "--loop", "uvloop", "--http", "httptools")
        quiet = ("--no-access-log", "--log-level", "warning", "--no-server-header", "--no-date-header", "--ws", "none")
        with (
            self._store(folder) as redis,
            running((*command, *quiet), log=log, env=environment, cwd=PARTS) as process,
        ):
            _wait(port, process, log)
            yield Stack((process.pid, redis.pid), port, self._settings["token"], folder / "decisions.sqlite")

    def decided(self, stack: Stack) -> list[Decided]:
        """Returns its decisions in the order in which Redis counted them."""
        import sqlite3

        connection = sqlite3.connect(stack.decisions)
        rows = connection.execute(
            "SELECT payment, event_time, features, p_fraud, action FROM decisions ORDER BY seq"
        ).fetchall()
        connection.close()
        return [Decided(row[0], row[1], np.frombuffer(row[2]), row[3], row[4]) for row in rows]

    @contextmanager
    def _store(self, folder: Path) -> Iterator[subprocess.Popen[str]]:
        place, log = folder / "redis.sock", folder / "redis.log"
        words = ("--port", 0, "--unixsocket", place, "--save", "", "--appendonly", "no", "--dir", folder)
        with running((self._redis, *words), log=log) as process:
            until = time.monotonic() + 60
            while "ready to accept connections" not in log.read_text().lower():
                if process.poll() is not None or time.monotonic() > until:
                    raise SystemExit(f"redis did not start:\n{log.read_text()[-2_000:]}")
                time.sleep(0.02)
            yield process

    def _environment(self, folder: Path, *, start_us: int, speed: float) -> dict[str, str]:
        places = {"redis": str(folder / "redis.sock"), "database": str(folder / "decisions.sqlite")}
        path = folder / "settings.json"
        path.write_bytes(msgspec.json.encode(self._settings | places | {"start_us": start_us, "speed": speed}))
        return os.environ | {"FRAUD_STACK": str(path), "PYTHONPATH": str(PARTS)}


def settings_of(home: Path, rates: dict[str, str], style: str) -> Body:
    """Returns what the peer's application has to know: the same model, costs, rates and vocabularies."""
    champion = Registry(home).current("fraud")
    vocabularies = {f.name: f.vocabulary for f in FEATURES.features if f.name in ("channel", "mcc")}
    return {
        "style": style,
        "model": str(home / "models" / str(champion)),
        "token": "a-token-of-the-bench",
        "base": "EUR",
        "rates": rates,
        "exponents": {code: EXPONENTS[code] for code in (*rates, "EUR")},
        "channels": vocabularies["channel"],
        "mccs": vocabularies["mcc"],
        "costs": msgspec.structs.asdict(COSTS),
    }


def send(stack: Stack, bodies: Sequence[Body], path: str = "/v1/fraud/decide") -> None:
    """Sends payments one after the other."""
    connection = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=30)
    headers = {"content-type": "application/json", "authorization": f"Bearer {stack.token}"}
    for body in bodies:
        connection.request("POST", path, msgspec.json.encode(body), headers)
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:  # noqa: PLR2004 - OK
            raise SystemExit(f"status {answer.status}: {text[:300].decode()}")
    connection.close()


def one_by_one(stacks: Sequence[Decalog | Peer], work: Work) -> tuple[int, int]:
    """Returns how many values both stacks gave for the same payments at the same times, and how many differ."""
    found = []
    for stack in stacks:
        with tempfile.TemporaryDirectory() as name:
            with stack.serving(work.start_us + DAY, 1.0, Path(name)) as served:
                send(served, work.next_day)
            found.append(stack.decided(served))
    compared = differ = 0
    for ours, theirs in zip(*found, strict=True):
        if (ours.payment, ours.at_us) != (theirs.payment, theirs.at_us):
            raise SystemExit("the stacks stored different payments")
        width = len(COMPARED)
        unequal = ours.features[:width].view(np.int64) != theirs.features[:width].view(np.int64)
        differ += int(unequal.sum()) + (ours.p_fraud != theirs.p_fraud) + (ours.action != theirs.action)
        compared += width + 2
    return compared, differ


class Again:
    """The peer's decisions computed again by decalog's own engine, in the order in which Redis counted them."""

    def __init__(self, work: Work) -> None:
        self._state = OnlineState(FEATURES)
        self._tokens: dict[tuple[str, str], int] = {}
        self._rates = work.rates
        self._root = 0
        for body in work.past:
            at_us = time_us(body["event_time"])
            self._add("payment", at_us, body)

    def differ(self, decided: Sequence[Decided], bodies: dict[str, Body]) -> int:
        """Returns how many values of the vectors differ."""
        count, width = 0, len(COMPARED)
        for each in decided:
            body = bodies[each.payment]
            own = self._fact("payment", each.at_us, body, root=LAST_ROOT)
            wanted = self._state.vector(Point(self._root, each.at_us, -1, own))
            count += int((wanted[:width].view(np.int64) != each.features[:width].view(np.int64)).sum())
            self._add("payment", each.at_us, body)
            if each.action == "review":
                self._add("decision.review", each.at_us, body)
        return count

    def _add(self, kind: str, at_us: int, body: Body) -> None:
        self._state.apply(Change(self._root, at_us, None, self._fact(kind, at_us, body, root=self._root)))
        self._root += 1

    def _fact(self, kind: str, at_us: int, body: Body, *, root: int) -> Fact:
        names = ("card", "customer", "device", "ip", "email", "merchant")
        entities = {
            name: self._tokens.setdefault((name, body[name]), len(self._tokens) + 1) for name in names if name in body
        }
        amount = convert(body["amount_minor"], body["currency"], base="EUR", rates=self._rates)
        attributes = {name: value for name, value in body.items() if name not in ("id", "event_time", *names)}
        return Fact(root, at_us, kind, entities, attributes | {"amount_base_minor": amount})


def load(stack: Stack, *, rate: float, seconds: float, bodies: Path, skip: int) -> Figures:
    """Runs one load; returns the generator's figures, with the stack's CPU a request."""
    program = Path(spine_decision.__file__).with_name("open_loop.py")
    command = [sys.executable, program, "--port", stack.port, "--rate", rate, "--seconds", seconds, "--bodies", bodies]
    command += ["--skip", skip, "--token", stack.token, "--seed", skip]
    cpu_s = stack.cpu_s()
    ran = subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True)
    cpu_s = stack.cpu_s() - cpu_s
    found: Body = json.loads(ran.stdout)
    if found["statuses"] != {"200": found["requests"]}:
        raise SystemExit(f"not every request was answered with 200: {found['statuses']}")
    found["cpu_us"] = 1e6 * cpu_s / found["requests"]
    return {name: value for name, value in found.items() if isinstance(value, int | float)}


def fresh_load(stack: Decalog | Peer, work: Work, *, rate: float, seconds: float) -> tuple[Figures, list[Decided]]:
    """Returns the figures of one load on a fresh server, and all that it decided."""
    with tempfile.TemporaryDirectory() as name:
        with stack.serving(work.start_us, rate / work.per_s, Path(name)) as served:
            load(served, rate=rate, seconds=WARM_S, bodies=work.bodies, skip=0)
            warm = int(rate * WARM_S * 1.2) + 50
            found = load(served, rate=rate, seconds=seconds, bodies=work.bodies, skip=warm)
        return found, stack.decided(served)
