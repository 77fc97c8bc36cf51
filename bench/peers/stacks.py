"""The stacks that decide on payments: how each is served, and what it stored. Parts of `fraud_stack.py`."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from decalog.access import TokenStore
from decalog.clock import SystemClock, rfc3339, time_us
from decalog.decisions import decode_decision, unpack_features
from decalog.features.declared import Category
from decalog.features.facts import Change, Fact, Point
from decalog.features.online import OnlineState
from decalog.folding import LAST_ROOT
from decalog.home import Home
from decalog.money import EXPONENTS, convert
from decalog.registry import Registry
from decalog.systems.fraud.features import FEATURES
from decalog.systems.fraud.policy import FraudCosts

PARTS = Path(__file__).resolve().parent
COSTS = FraudCosts(explore_bp=0)

Body = dict[str, Any]


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


@contextmanager
def _uvicorn(
    python: Path, app: str, *, folder: Path, environment: dict[str, str]
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Runs an application of the folder `stack` with one worker; gives its process and port."""
    port, log = _free_port(), folder / "uvicorn.log"
    command = (python, "-m", "uvicorn", app, "--port", port, "--loop", "uvloop", "--http", "httptools")
    quiet = ("--no-access-log", "--log-level", "warning", "--no-server-header", "--no-date-header", "--ws", "none")
    with running((*command, *quiet), log=log, env=environment, cwd=PARTS / "stack") as process:
        _wait(port, process, log)
        yield process, port


class Floor:
    """The least that any stack on uvicorn does, see `stack/floor.py`: no decision is made.

    Args:
        python: of the peer's environment.
    """

    name = "floor"

    def __init__(self, python: Path) -> None:
        self._python = python

    @contextmanager
    def serving(self, start_us: int, speed: float, folder: Path) -> Iterator[Stack]:  # noqa: ARG002 - it knows no time
        """Runs a fresh server."""
        environment = os.environ | {"FLOOR_FILE": str(folder / "bodies")}
        with _uvicorn(self._python, "floor:app", folder=folder, environment=environment) as (process, port):
            yield Stack((process.pid,), port, "none", folder / "bodies")

    def decided(self, stack: Stack) -> list[Decided]:  # noqa: ARG002 - as the others have it
        """Returns nothing: it decides nothing."""
        return []


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
            subprocess.run([self._python, PARTS / "stack" / "history.py", lines], env=environment, check=True)

    @contextmanager
    def serving(self, start_us: int, speed: float, folder: Path) -> Iterator[Stack]:
        """Runs a fresh server."""
        shutil.copy(self._dump, folder)
        environment = self._environment(folder, start_us=start_us, speed=speed)
        with (
            self._store(folder) as redis,
            _uvicorn(self._python, "app:app", folder=folder, environment=environment) as (process, port),
        ):
            yield Stack((process.pid, redis.pid), port, self._settings["token"], folder / "decisions.sqlite")

    def decided(self, stack: Stack) -> list[Decided]:
        """Returns its decisions in the order in which Redis counted them."""
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
        return os.environ | {"FRAUD_STACK": str(path), "PYTHONPATH": str(PARTS / "stack")}


def settings_of(home: Path, rates: dict[str, str], style: str) -> Body:
    """Returns what the peer's application has to know: the same model, costs, rates and vocabularies."""
    champion = Registry(home).current("fraud")
    vocabularies = {f.name: f.vocabulary for f in FEATURES.features if isinstance(f, Category)}
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


class Again:
    """Features computed again by decalog's own engine, without its server."""

    def __init__(self, rates: dict[str, str]) -> None:
        self._state = OnlineState(FEATURES)
        self._tokens: dict[tuple[str, str], int] = {}
        self._rates = rates
        self._root = 0

    def vector(self, body: Body, at_us: int) -> np.ndarray:
        """Returns the features of a payment that is made at a time."""
        own = self._fact("payment", at_us, body, root=LAST_ROOT)
        return self._state.vector(Point(self._root, at_us, -1, own))

    def add(self, kind: str, at_us: int, body: Body) -> None:
        """Adds a payment, or the review of one."""
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


class Glued:
    """How Feast and BentoML are served."""

    name = "glued"

    def __init__(self, python: Path, *, settings: Body, folder: Path) -> None:
        self._python = python
        self._environment = os.environ | {
            "FRAUD_GLUED": str(folder / "settings.json"),
            "FEAST_USAGE": "False",
            "BENTOML_DO_NOT_TRACK": "True",
            "BENTOML_HOME": str(folder / "bentoml"),
        }
        windows = {
            entity: [f.name for f in FEATURES.aggregates if f.entity == entity and f.use == "model"]
            for entity in ("card", "customer", "device", "ip", "email")
        }
        own = {
            "windows": [name for names in windows.values() for name in names],
            "columns": len(FEATURES.names_for("model")),
            "repository": str(folder),
            "model": settings["model"],
            "block_above": 0.5,
        }
        (folder / "settings.json").write_bytes(msgspec.json.encode(own))
        self._folder, self._windows = folder, windows

    def fill(self, past: Sequence[Body], rates: dict[str, str]) -> None:
        """Writes the features of every entity, as they stood at its last payment, into the online store."""
        again, tables = Again(rates), {}
        places = {name: place for place, name in enumerate(FEATURES.names)}
        newest = {entity: dict[str, list[float]]() for entity in self._windows}
        for body in past:
            values = again.vector(body, time_us(body["event_time"])).tolist()
            again.add("payment", time_us(body["event_time"]), body)
            for entity, names in self._windows.items():
                if entity in body:
                    newest[entity][body[entity]] = [values[places[name]] for name in names]
        for entity, names in self._windows.items():
            rows = [[id_, *values] for id_, values in newest[entity].items()]
            tables[entity] = {"columns": names, "rows": rows}
        (self._folder / "features.json").write_bytes(msgspec.json.encode(tables))
        command = [str(self._python), str(PARTS / "glued" / "fill.py")]
        subprocess.run(command, env=self._environment, check=True, stdout=subprocess.DEVNULL)

    @contextmanager
    def serving(self, start_us: int, speed: float, folder: Path) -> Iterator[Stack]:  # noqa: ARG002 - it has no clock
        """Runs a fresh server."""
        port, log = _free_port(), folder / "bentoml.log"
        command = (self._python, "-m", "bentoml", "serve", "service:Fraud", "--host", "127.0.0.1", "--port", port)
        place = PARTS / "glued"
        with running((*command, "--working-dir", place), log=log, env=self._environment, cwd=place) as process:
            _wait(port, process, log)
            yield Stack((process.pid,), port, "", folder)

    def decided(self, stack: Stack) -> list[Decided]:  # noqa: ARG002 - it stores none
        """Returns nothing: it stores no decisions."""
        return []
