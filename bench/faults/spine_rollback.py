"""The drill of a rollback: how long a challenger still decides after it was told to stop.

    python bench/faults/spine_rollback.py [--events 20000] [--drills 20] [--json] [--short]

A server of fraud with `events` synthetic payments in its log runs in a process of its own, and six callers ask it over
HTTP for one decision after another. In each drill a challenger gets all people, and is stopped once it decides. Counted
is from before `PUT /v1/fraud/rollout` is sent to the last reply that the challenger made or the first that the champion
made, whichever comes later. After each stop the champion has to decide the same payment as before the drill: to the
same prediction, action and expected cost.

Keys: seconds (the worst drill; bar 5), median_seconds, drills, late (replies by the challenger to requests sent after
the stop was answered; 0), changed (payments decided otherwise than before the drill; 0), decisions.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.latency.spine_changeover import GAP, START, fill, payment, put

from decalog.clock import ManualClock, rfc3339
from decalog.home import Home
from decalog.registry import Registry
from decalog.systems.fraud.system import SYSTEM

CALLERS, PATIENCE_S, BAR_S = 6, 120, 5.0
_LISTENING = re.compile(r"listening on http://127\.0\.0\.1:(\d+)")


class Reply(NamedTuple):
    """When a request was sent and answered, and which model decided."""

    sent: float
    got: float
    model: str


class Callers:
    """Ask for one decision after another, each on a connection of its own."""

    def __init__(self, port: int) -> None:
        self._port, self._stopping = port, False
        self.replies: list[Reply] = []
        self._told = threading.Condition()
        self._threads = [threading.Thread(target=self._call, args=(number,)) for number in range(CALLERS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        for thread in self._threads:
            thread.join()

    def until(self, model: str, *, sent_after: float) -> None:
        """Returns once a model made as many decisions as there are callers, of requests sent after a moment."""

        def has_come() -> bool:
            recent = [reply for reply in self.replies[-10 * CALLERS :] if reply.sent > sent_after]
            return sum(reply.model == model for reply in recent) >= CALLERS

        with self._told:
            if not self._told.wait_for(has_come, timeout=PATIENCE_S):
                raise SystemExit(f"nothing was decided by {model} within {PATIENCE_S} s")

    def _call(self, caller: int) -> None:
        wire = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE_S)
        number = 0
        while not self._stopping:
            number += 1
            sent = time.perf_counter()
            told = asked(
                wire, "POST", "/v1/fraud/decide", payment(f"c{caller} {number}", caller * 1_000 + number % 999)
            )
            with self._told:
                self.replies.append(Reply(sent, time.perf_counter(), told["versions"]["model"]))
                self._told.notify_all()
        wire.close()


def asked(wire: http.client.HTTPConnection, method: str, path: str, body: object) -> Any:
    """Returns what a server answered.

    Raises:
        SystemExit: it refused.
    """
    wire.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
    answer = wire.getresponse()
    raw = answer.read()
    if answer.status != http.client.OK:
        raise SystemExit(f"{method} {path}: {answer.status} {raw.decode(errors='replace')}")
    return json.loads(raw)


@contextmanager
def served(home: Home, events: int) -> Iterator[int]:
    """Yields the port of a server that runs inside the block."""
    words = ["serve", "fraud", "--home", str(home.root), "--port", "0", "--no-auth"]
    start = rfc3339(START + events * GAP)
    line = [sys.executable, "-m", "decalog", *words, "--clock-start", start]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None  # noqa: S101 - it is a pipe
        found = next((found for said in server.stderr if (found := _LISTENING.search(said))), None)
        if found is None:
            raise SystemExit("the server did not start")
        threading.Thread(target=server.stderr.read, daemon=True).start()
        try:
            yield int(found[1])
        finally:
            server.terminate()


def probed(wire: http.client.HTTPConnection, name: str) -> tuple[object, ...]:
    """Returns what is decided about a payment of somebody who never paid before."""
    told = asked(wire, "POST", "/v1/fraud/decide", {"id": name, "amount_minor": 2_000, "currency": "EUR", "card": name})
    return told["predictions"], told["action"], told["expected_minor"], told["versions"]


def drill(
    wire: http.client.HTTPConnection, callers: Callers, *, number: int, models: tuple[str, str]
) -> dict[str, Any]:
    """Gives a challenger all people, stops it, and returns how long that took and what was wrong after it."""
    champion, challenger = models
    step = {"name": f"r{number}", "model": challenger}
    before = probed(wire, f"before {number}")
    begun = time.perf_counter()
    asked(wire, "PUT", "/v1/fraud/rollout", step | {"stage": "canary", "share_bp": 10_000})
    callers.until(challenger[:12], sent_after=begun)
    stopping = time.perf_counter()
    asked(wire, "PUT", "/v1/fraud/rollout", {"name": step["name"], "stage": "stopped", "why": "a drill"})
    stopped = time.perf_counter()
    after = probed(wire, f"after {number}")
    callers.until(champion[:12], sent_after=stopped)
    replies = [reply for reply in list(callers.replies) if reply.got > stopping]
    first = min(reply.got for reply in replies if reply.model == champion[:12])
    last = max((reply.got for reply in replies if reply.model == challenger[:12]), default=0.0)
    late = sum(reply.model == challenger[:12] and reply.sent > stopped for reply in replies)
    return {"seconds": max(first, last) - stopping, "late": late, "changed": before != after}


def measure(events: int, drills: int) -> dict[str, float]:
    """Returns the figures of so many drills on one server."""
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        fill(home, events, clock=ManualClock(START))
        registry = Registry(home.root)
        models = put(registry, SYSTEM), put(registry, SYSTEM, limit=1.0)
        registry.promote("fraud", models[0], by="bench", why="the first", at_us=0)
        with served(home, events) as port, Callers(port) as callers:
            wire = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
            found = [drill(wire, callers, number=number, models=models) for number in range(drills)]
            wire.close()
    seconds = [one["seconds"] for one in found]
    return {
        "seconds": round(max(seconds), 4),
        "median_seconds": round(statistics.median(seconds), 4),
        "drills": drills,
        "late": sum(one["late"] for one in found),
        "changed": sum(one["changed"] for one in found),
        "decisions": len(callers.replies),
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--drills", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--short", action="store_true", help="a log of 1,000 payments, 3 drills")
    options = parser.parse_args()
    found = measure(1_000, 3) if options.short else measure(options.events, options.drills)
    print(f"load average {os.getloadavg()[0]:.1f}")
    for key, value in found.items():
        print(f"{key:16}{value:>10}")
    if options.json:
        print(json.dumps(found))
    if found["seconds"] > BAR_S or found["late"] or found["changed"]:
        raise SystemExit(f"a rollback takes at most {BAR_S:g} s, and leaves all as it was")


if __name__ == "__main__":
    main()
