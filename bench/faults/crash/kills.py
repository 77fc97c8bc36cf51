"""Kills a live server under load again and again, restarts it, and counts what its callers were told."""

from __future__ import annotations

import http.client
import json
import random
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec

from decalog.decisions import decode_decision
from decalog.home import Home
from decalog.verification import verify

SYSTEM = "fraud"
_CALLERS = 6
_LISTENING = re.compile(r"listening on http://127\.0\.0\.1:(\d+)")
_HEADERS = {"Content-Type": "application/json"}


class Kills(msgspec.Struct, frozen=True):
    """What came of killing a server.

    Args:
        kills: how often.
        decisions, outcomes: acknowledged by status 200.
        lost, doubled: of those, not there as told, or more than once.
        unknown: of those, how many were not answered at first, and sent again until they were.
        wrong: what `verify` found, or "".
    """

    kills: int
    decisions: int
    outcomes: int
    lost: int
    doubled: int
    unknown: int
    wrong: str


class _Callers:
    """Callers who send payments and outcomes, retry what was not answered, and note what they were told."""

    def __init__(self) -> None:
        self.port = 0
        self.decisions: dict[str, tuple[str, int]] = {}
        self.outcomes: dict[str, int] = {}
        self.unknown = 0
        self.contradicted = 0
        self.up = threading.Event()
        self.stopping = False
        self.told = threading.Condition()
        self._threads = [threading.Thread(target=self._call, args=(n,)) for n in range(_CALLERS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self.stopping = True
        self.up.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, more: int) -> None:
        """Returns when `more` further decisions were acknowledged."""
        with self.told:
            goal = len(self.decisions) + more
            if not self.told.wait_for(lambda: len(self.decisions) >= goal, timeout=120):
                raise TimeoutError(f"{len(self.decisions)} of {goal} decisions were acknowledged in 120 s")

    def _call(self, number: int) -> None:
        rng = random.Random(number)
        count = 0
        while not self.stopping:
            id_ = f"payment {number}-{count}"
            card = f"card {rng.randint(0, 500)}"
            payment = {"id": id_, "amount_minor": rng.randint(1, 10**6), "currency": "EUR", "card": card}
            if self._send("decide", payment, self._decided) and rng.random() < 0.3:
                outcome = {"id": f"outcome {id_}", "payment": id_, "kind": "chargeback", "source": "issuer", "value": 1}
                self._send("outcomes", outcome, self._reported)
            if rng.random() < 0.1:
                # A caller that doubts asks again, and must be told the same.
                self._send("decide", payment, self._decided)
            count += 1

    def _send(self, path: str, body: dict[str, Any], note: Any) -> bool:
        asked = False
        while not self.stopping:
            self.up.wait()
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
                connection.request("POST", f"/v1/{SYSTEM}/{path}", json.dumps(body), _HEADERS)
                response = connection.getresponse()
                answer = json.loads(response.read())
                connection.close()
            except (OSError, http.client.HTTPException, ValueError):
                asked = True
                continue
            if response.status == HTTPStatus.OK:
                with self.told:
                    self.unknown += asked
                    note(body["id"], answer)
                    self.told.notify_all()
                return True
        return False

    def _decided(self, id_: str, answer: dict[str, Any]) -> None:
        said = (str(answer["decision_id"]), int(answer["seq"]))
        self.contradicted += self.decisions.setdefault(id_, said) != said

    def _reported(self, id_: str, answer: Any) -> None:
        row = (answer["results"] if isinstance(answer, dict) else answer)[0]
        if row["status"] in {"accepted", "duplicate"}:
            self.outcomes[id_] = int(row["seq"])


def kill_servers(home: Path, kills: int, *, seed: int = 0) -> Kills:
    """Serves fraud from a home, kills the server `kills` times under load, and checks every acknowledgement.

    Args:
        home: a folder; a log is made where there is none.
        kills: how often SIGKILL is sent, each time after a random number of acknowledgements.
        seed: of those numbers.
    """
    rng = random.Random(seed)
    callers = _Callers()
    callers.start()
    try:
        for _ in range(kills):
            with _server(home, callers) as server:
                callers.wait_for(rng.randint(5, 400))
                callers.up.clear()
                server.send_signal(signal.SIGKILL)
        with _server(home, callers) as server:
            callers.wait_for(20)
            callers.stop()
            server.send_signal(signal.SIGTERM)
    finally:
        callers.stop()
    return _count(home, kills, callers)


@contextmanager
def _server(home: Path, callers: _Callers) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "decalog", "serve", SYSTEM, "--home", str(home), "--port", "0", "--no-auth"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        callers.port = _port_of(server)
        callers.up.set()
        yield server
        server.wait(60)
    finally:
        server.kill()
        server.wait()
        if server.stdout is not None:
            server.stdout.close()


def _port_of(server: subprocess.Popen[str]) -> int:
    said = []
    for line in server.stdout or ():
        said.append(line)
        found = _LISTENING.search(line)
        if found:
            return int(found[1])
    raise RuntimeError(f"the server did not come up: {''.join(said)}")


def _count(home: Path, kills: int, callers: _Callers) -> Kills:
    log = Home(home).reader()
    times: Counter[tuple[str, str]] = Counter()
    lost = callers.contradicted
    for record in log.read():
        times[record.kind, record.id] += 1
    for id_, (decision_id, seq) in callers.decisions.items():
        found = log.find("request", f"{SYSTEM}/{id_}")
        lost += found != [seq] or decode_decision(log.get(seq).body).id != decision_id
    lost += sum(log.find("outcome", f"{SYSTEM}/{id_}") != [seq] for id_, seq in callers.outcomes.items())
    doubled = sum(times["decision", id_] > 1 for id_ in callers.decisions)
    doubled += sum(times["outcome", id_] > 1 for id_ in callers.outcomes)
    log.store.close()
    log.vault.close()
    found_by_verify = verify(home)
    wrong = next((check.said for check in found_by_verify.checks if not check.sound), "")
    told = (len(callers.decisions), len(callers.outcomes))
    return Kills(kills, *told, lost, doubled, callers.unknown, wrong)
