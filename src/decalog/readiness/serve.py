"""A server on a copy, in a process of its own, and an open-loop load on it: bounded in number, rate and time."""

from __future__ import annotations

import http.client
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any

import msgspec

from decalog.clock import rfc3339
from decalog.errors import DataError, LogUnavailableError
from decalog.home import Home
from decalog.readiness.machine import TICK_S
from decalog.readiness.subject import Subject
from decalog.simulation import message_path
from decalog.testing.worlds import Message

_START_S = 300
_LONGEST_S = 600
"""A server of a check that is not gone by then is killed."""
_STOP_S = 60
_LISTENING = re.compile(r"listening on http://127\.0\.0\.1:(\d+)")
_CONNECTIONS = 64
_ASK_S = 30
_OK = 200
_SAID = 2_000


class Served:
    """A server that runs.

    Args:
        process: of it.
        port: on the loopback address.
        start_s: how long it took to begin.
    """

    def __init__(self, process: subprocess.Popen[str], port: int, start_s: float) -> None:
        self.process, self.port, self.start_s = process, port, start_s

    def cpu_s(self) -> float:
        """Returns the CPU that the process has used, user and system, all threads.

        Raises:
            DataError: this system does not say it.
        """
        fields = self._proc("stat").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * TICK_S

    def resident(self) -> int:
        """Returns the bytes that the process holds in memory.

        Raises:
            DataError: this system does not say it.
        """
        line = next(line for line in self._proc("status").splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1_024

    def ask(self, method: str, path: str, *, body: Any = None) -> tuple[int, Any]:
        """Returns status and answer of one request; 0 and None where nobody answers."""
        wire = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_ASK_S)
        raw = None if body is None else msgspec.json.encode(body)
        try:
            wire.request(method, path, raw, {"content-type": "application/json"})
            answer = wire.getresponse()
            return answer.status, msgspec.json.decode(answer.read())
        except (OSError, http.client.HTTPException, msgspec.DecodeError):
            return 0, None
        finally:
            wire.close()

    def must(self, method: str, path: str, *, body: Any = None) -> Any:
        """Returns the answer of a request that has to be taken.

        Raises:
            LogUnavailableError: it was not.
        """
        status, told = self.ask(method, path, body=body)
        if status == _OK:
            return told
        raise LogUnavailableError(
            where=f"server of the check, {path}",
            given=f"status {status}: {str(told)[:300]}",
            expected=str(_OK),
            fix="See what the answer says.",
        )

    def kill(self) -> None:
        """Ends it as a crash would."""
        self.process.kill()
        self.process.wait()

    def _proc(self, name: str) -> str:
        path = Path(f"/proc/{self.process.pid}/{name}")
        if path.exists():
            return path.read_text(encoding="utf-8")
        raise DataError(
            where="CPU and memory of a server",
            given=f"{sys.platform}, which has no /proc",
            expected="Linux",
            fix="Run this check on the machine that serves.",
        )


@contextmanager
def serving(subject: Subject, home: Home, *, speed: float = 1.0, faults: str = "") -> Iterator[Served]:
    """Runs a server on a copy, without tokens, on a loopback port of its own; nothing of it is left afterwards.

    Args:
        subject: what is checked.
        home: a fork.
        speed: seconds of its clock a second, from the log's last record on.
        faults: for `faulty`.

    Raises:
        LogUnavailableError: it does not start.
    """
    with closing(home.reader()) as log:
        start = rfc3339(log.known_time)
    clock = ("--clock-start", start, "--clock-speed", f"{max(1.0, speed):.3f}")
    words = [word for path in subject.allowed for word in ("--allow-model", path)]
    command = [*_FAULTY, faults, "serve", subject.path, "--port", "0", "--home", str(home.root), "--no-auth", *clock]
    begun = time.monotonic()
    pipe = subprocess.PIPE
    process = subprocess.Popen([*command, *words], stdout=pipe, stderr=subprocess.STDOUT, text=True)  # noqa: S603 - our own
    end = threading.Timer(_LONGEST_S, process.kill)
    end.start()
    try:
        port = _port_of(process)
        yield Served(process, port, time.monotonic() - begun)
    finally:
        end.cancel()
        _end(process)


def _port_of(process: subprocess.Popen[str]) -> int:
    late = threading.Timer(_START_S, process.kill)
    late.start()
    said = ""
    assert process.stdout is not None  # noqa: S101 - started with a pipe
    for line in process.stdout:
        said = (said + line)[-_SAID:]
        found = _LISTENING.search(line)
        if found:
            late.cancel()
            threading.Thread(target=_drain, args=(process.stdout,), daemon=True).start()
            return int(found[1])
    late.cancel()
    raise LogUnavailableError(
        where="server of the check",
        given=f"one that did not start: {said.strip()[-400:]}",
        expected=f"a server that listens within {_START_S} s",
        fix="Serve a restored backup by hand to see more.",
    )


def _drain(stream: IO[str]) -> None:
    for _ in stream:
        pass


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(timeout=_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a load.

    Args:
        p50_ms, p99_ms, p99_9_ms: latency of decisions, from the moment at which each was due.
        late_p99_ms: how late the generator sent.
        generator_cpu_us: its own CPU a request.
        requests: decisions that were asked for.
        statuses: HTTP status → decisions.
    """

    p50_ms: float
    p99_ms: float
    p99_9_ms: float
    late_p99_ms: float
    generator_cpu_us: float
    requests: int
    statuses: dict[str, int]

    @property
    def refused(self) -> int:
        """Decisions that were not answered with 200."""
        return self.requests - self.statuses.get("200", 0)


def load(served: Served, system: str, *, timed: Sequence[tuple[float, Message]]) -> Load:
    """Sends messages at their moments, seconds from now, whether or not earlier ones were answered.

    Raises:
        LogUnavailableError: the server fell silent.
    """
    lines = b"\n".join(
        msgspec.json.encode((at_s, message_path(system, one.kind), msgspec.json.encode(one.body).decode()))
        for at_s, one in timed
    )
    command = [*_GENERATOR, "--port", str(served.port), "--connections", str(_CONNECTIONS)]
    # Through a pipe: what is sent holds personal values, and no file may.
    ran = subprocess.run(command, input=lines, capture_output=True, check=False, timeout=_LONGEST_S)  # noqa: S603 - our own
    if ran.returncode:
        raise LogUnavailableError(
            where="load of the check",
            given=ran.stderr.decode(errors="replace").strip()[-300:],
            expected="a server that answers",
            fix="See why it stopped: serve a restored backup by hand.",
        )
    return msgspec.json.decode(ran.stdout, type=Load)


_FAULTY = (sys.executable, "-m", "decalog.readiness.faulty")
_GENERATOR = (sys.executable, "-m", "decalog.readiness.open_loop")
