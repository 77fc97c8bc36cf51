"""An open-loop load generator: arrivals are scheduled in advance, latency counts from the scheduled moment.

    python -m decalog.readiness.open_loop --port 8000 < lines of [seconds, path, body as text]

A client that waits for answers before it sends would hide the queue that it causes (coordinated omission). Arrivals are
Poisson, seeded. It is one process with plain sockets and `select`, whose timeouts are finer than the milliseconds of
an event loop's timers, so that its own CPU is small and can be told apart. It prints one JSON object.

Of what is sent only decisions are timed. It comes through a pipe, since it may hold personal values.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Sequence

GIVE_UP_S = 30.0
IDLE_S = 5.0
"""A connection that lay idle for longer is not used again: servers close such, a new one after 15 s."""
_HEAD_END = b"\r\n\r\n"
_DECIDE, _HEAD_BYTES = b"/decide", 200


class Connection:
    """One keep-alive connection with at most one request under way."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.scheduled = 0.0
        self.is_timed = True
        self.used = time.monotonic()
        self._received = b""

    def fileno(self) -> int:
        """Returns the descriptor that `select` watches."""
        return self.socket.fileno()

    def send(self, request: bytes, scheduled: float) -> None:
        """Sends one request that was due at `scheduled`."""
        self.scheduled = scheduled
        self.is_timed = _DECIDE in request[:_HEAD_BYTES].partition(b" HTTP/")[0] or request.startswith(b"GET ")
        self.socket.sendall(request)

    def receive(self) -> int:
        """Returns the status of a whole response, or 0 while more of it is to come."""
        part = self.socket.recv(65_536)
        if not part:
            raise ConnectionError("the server closed the connection")
        self._received += part
        head, found, body = self._received.partition(_HEAD_END)
        if not found or len(body) < _length(head):
            return 0
        self._received = b""
        return int(head[9:12])


def _length(head: bytes) -> int:
    at = head.lower().index(b"content-length:") + len(b"content-length:")
    return int(head[at:].partition(b"\r\n")[0])


def arrivals(rate: float, seconds: float, *, seed: int) -> list[float]:
    """Returns the moments, in seconds from the start, at which requests are due: a Poisson process."""
    draw, moment, moments = random.Random(seed), 0.0, list[float]()  # noqa: S311 - a seeded draw needs no cryptography
    while (moment := moment + draw.expovariate(rate)) < seconds:
        moments.append(moment)
    return moments


class Run:
    """One run: requests go out when they are due, on a connection that is free or on a new one.

    Args:
        requests: whole, in order.
        moments: when each is due, s from the start.
        port: of the server, on this machine.
        most: connections at once; with all of them busy a request goes out late, and its latency counts from when it
            was due.
    """

    def __init__(self, requests: Sequence[bytes], moments: Sequence[float], *, port: int, most: int) -> None:
        self._todo = deque(zip(moments, requests, strict=False))
        self._port, self._most = port, most
        self._free = deque[Connection]()
        self._busy: set[Connection] = set()
        self.latencies_s: list[float] = []
        self.late_s: list[float] = []
        self.statuses: dict[int, int] = {}

    def run(self) -> None:
        """Sends everything and waits for the answers; gives up on a server that falls silent."""
        start = time.monotonic()
        heard = start
        while self._todo or self._busy:
            now = time.monotonic()
            self._send_due(start, now)
            if now - heard > GIVE_UP_S:
                raise TimeoutError("the server fell silent")
            ready, _, _ = select.select(self._busy, (), (), self._until_due(start))
            for connection in ready:
                heard = time.monotonic()
                self._take(connection, heard)
        for connection in self._free:
            connection.socket.close()

    def _send_due(self, start: float, now: float) -> None:
        while self._todo and len(self._busy) < self._most and start + self._todo[0][0] <= now:
            moment, request = self._todo.popleft()
            connection = self._connected(now)
            connection.send(request, start + moment)
            self.late_s.append(time.monotonic() - start - moment)
            self._busy.add(connection)

    def _connected(self, now: float) -> Connection:
        """Returns a connection: a server closes those that nobody used for a while, so these are not used again."""
        while self._free:
            connection = self._free.popleft()
            if now - connection.used < IDLE_S:
                return connection
            connection.socket.close()
        return Connection(self._port)

    def _until_due(self, start: float) -> float:
        if not self._todo or len(self._busy) >= self._most:
            return 1.0
        return max(0.0, start + self._todo[0][0] - time.monotonic())

    def _take(self, connection: Connection, now: float) -> None:
        status = connection.receive()
        if status:
            if connection.is_timed:
                self.latencies_s.append(now - connection.scheduled)
                self.statuses[status] = self.statuses.get(status, 0) + 1
            self._busy.remove(connection)
            connection.used = now
            self._free.append(connection)


def quantile(values: Sequence[float], share: float) -> float:
    """Returns the value below which a share of the values lies, the higher neighbour where it falls between two."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def as_request(body: bytes, path: str, *, token: str) -> bytes:
    """Returns a whole HTTP request, so that nothing is built while the load runs."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n".encode()
    if path == "/healthz":
        return b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    kind = b"Content-Type: application/json\r\nContent-Length: "
    return head + kind + str(len(body)).encode() + b"\r\n\r\n" + body


def main() -> None:
    """Runs one load and prints what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--token", default="")
    parser.add_argument("--connections", type=int, default=64)
    wanted = parser.parse_args()
    timed = [json.loads(line) for line in sys.stdin]
    requests = [as_request(body.encode(), path, token=wanted.token) for _, path, body in timed]
    moments = [moment for moment, _, _ in timed]
    run = Run(requests, moments, port=wanted.port, most=wanted.connections)
    before = resource.getrusage(resource.RUSAGE_SELF)
    run.run()
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found = {f"p{name}_ms": 1e3 * quantile(run.latencies_s, share) for name, share in _SHARES.items()}
    found |= {"late_p99_ms": 1e3 * quantile(run.late_s, 0.99), "generator_cpu_us": 1e6 * cpu_s / len(timed)}
    text = json.dumps(found | {"requests": len(run.latencies_s), "statuses": run.statuses})
    sys.stdout.write(f"{text}\n")


_SHARES = {"50": 0.5, "99": 0.99, "99_9": 0.999}

if __name__ == "__main__":
    main()
