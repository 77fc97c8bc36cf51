"""The server on a real socket: connections, hostile bytes, and ways to end."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import threading
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.http.callers import make_host, payment

from decalog.errors import ConfigError, LogUnavailableError
from decalog.host import Host
from decalog.http import EXIT_LOG_FAILED, HttpSettings, serve, serve_here

PATIENCE_S = 60.0
"""No test waits this long for an answer that comes; one that never comes must not hang the suite."""


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: Any


class Wire:
    """One connection, spoken to in bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, raw: bytes) -> None:
        self._writer.write(raw)

    async def reply(self) -> Reply:
        head = await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
        status, *lines = head.decode("latin-1").split("\r\n")[:-2]
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = await self._reader.readexactly(int(headers["content-length"]))
        return Reply(int(status.split()[1]), headers, json.loads(body))

    async def end(self) -> bytes:
        """Returns what is left until the server closes."""
        try:
            return await asyncio.wait_for(self._reader.read(), PATIENCE_S)
        except ConnectionResetError:
            return b""

    def close(self) -> None:
        self._writer.close()


class Served:
    """A server that runs in this loop."""

    def __init__(self, port: int, task: asyncio.Task[int]) -> None:
        self.port = port
        self.task = task
        self._wires: list[Wire] = []

    async def connect(self, raw: bytes = b"") -> Wire:
        wire = Wire(*await asyncio.open_connection("127.0.0.1", self.port))
        self._wires.append(wire)
        wire.send(raw)
        return wire

    async def stop(self) -> int:
        if not self.task.done():
            signal.raise_signal(signal.SIGTERM)
        for wire in self._wires:
            wire.close()
        return await asyncio.wait_for(self.task, PATIENCE_S)


def serving(host: Host, scenario: Callable[[Served], Awaitable[None]], **settings: Any) -> int:
    """Runs a scenario against a server of a host; returns the server's exit code."""

    async def inside() -> int:
        port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        wanted = HttpSettings(port=0, tokens=False, **settings)
        task = asyncio.create_task(serve_here(host, wanted, access=None, on_listening=port.set_result))
        served = Served(await asyncio.wait_for(port, PATIENCE_S), task)
        try:
            await scenario(served)
        finally:
            code = await served.stop()
        return code

    return asyncio.run(inside())


@pytest.fixture
def idle_host(tmp_path: Path) -> Host:
    return make_host(tmp_path)


def decide_bytes(close: str = "", **parts: Any) -> bytes:
    body = json.dumps(payment(**parts)).encode()
    head = f"POST /v1/fraud/decide HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{close}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def test_one_connection_serves_many_requests(idle_host: Host) -> None:
    async def scenario(served: Served) -> None:
        wire = await served.connect()
        for number in range(3):
            wire.send(decide_bytes(id=f"p-{number}"))
            reply = await wire.reply()
            assert (reply.status, reply.body["payment"]) == (200, f"p-{number}")
            assert "date" in reply.headers
            assert "server" not in reply.headers

    assert serving(idle_host, scenario) == 0


def test_requests_sent_ahead_are_answered_in_order(idle_host: Host) -> None:
    async def scenario(served: Served) -> None:
        wire = await served.connect(decide_bytes(id="a") + decide_bytes(id="b") + decide_bytes("Connection: close\r\n"))
        assert [(await wire.reply()).body["payment"] for _ in range(3)] == ["a", "b", "p-1"]
        assert await wire.end() == b""

    assert serving(idle_host, scenario) == 0


def test_a_request_in_single_bytes_is_put_together(idle_host: Host) -> None:
    async def scenario(served: Served) -> None:
        wire = await served.connect()
        for byte in decide_bytes():
            wire.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await wire.reply()).status == 200

    assert serving(idle_host, scenario) == 0


def test_a_body_declared_too_long_is_refused_before_it_is_sent(idle_host: Host) -> None:
    async def scenario(served: Served) -> None:
        head = b"POST /v1/fraud/decide HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        wire = await served.connect(head + b"Expect: 100-continue\r\nContent-Length: 99999999999\r\n\r\n")
        reply = await wire.reply()
        assert (reply.status, reply.headers["connection"]) == (413, "close")
        assert await wire.end() == b""

    assert serving(idle_host, scenario) == 0


def test_an_endless_body_is_refused_and_cut_off(idle_host: Host) -> None:
    async def scenario(served: Served) -> None:
        head = b"POST /v1/fraud/decide HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        wire = await served.connect(head + b"Transfer-Encoding: chunked\r\n\r\n")
        wire.send(b"400\r\n" + b"x" * 1_024 + b"\r\n")
        wire.send(b"400\r\n" + b"x" * 1_024 + b"\r\n")
        assert (await wire.reply()).status == 413
        assert await wire.end() == b""

    assert serving(idle_host, scenario, decide_bytes=1_500) == 0


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"\x00\x01\x02\x03\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET\r\n\r\n", 400),
        (b"GET /healthz HTTP/9.9\r\n\r\n", 400),
        (b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost localhost\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: localhost\r\n\r\n", 400),
        (b"POST /v1/fraud/decide HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /v1/fraud/decide HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 40_000 + b"\r\n\r\n", 431),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"Name: value\r\n" * 4_000 + b"\r\n", 431),
        (b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431),
        (b"BREW /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET //healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET http://evil.example/healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403),
    ],
)
def test_hostile_bytes_get_a_4xx_and_harm_nobody_else(idle_host: Host, raw: bytes, status: int) -> None:
    async def scenario(served: Served) -> None:
        hostile = await served.connect(raw)
        reply = await hostile.reply()
        assert reply.status == status
        assert reply.headers["content-type"] == "application/problem+json"
        assert all(reply.body[part] for part in ("where", "given", "expected", "fix"))
        good = await served.connect(decide_bytes())
        assert (await good.reply()).status == 200

    assert serving(idle_host, scenario) == 0


@pytest.mark.parametrize("raw", [b"", b"POST /v1/fraud/decide HTTP/1.1\r\nHost: loc", decide_bytes()[:-3]])
def test_a_client_that_never_finishes_its_request_is_cut_off(idle_host: Host, raw: bytes) -> None:
    async def scenario(served: Served) -> None:
        wire = await served.connect(raw)
        assert await wire.end() == b""

    assert serving(idle_host, scenario, request_s=0.1) == 0


class Gate:
    """Holds every decision of a host until it is opened."""

    def __init__(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered = asyncio.Event()
        self.open = asyncio.Event()
        self._decide = host.decide
        monkeypatch.setattr(host, "decide", self._wait)

    async def _wait(self, system: str, raw: bytes) -> Any:
        self.entered.set()
        await asyncio.wait_for(self.open.wait(), PATIENCE_S)
        return await self._decide(system, raw)


def test_a_signal_lets_requests_finish_and_refuses_new_ones(idle_host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(served: Served) -> None:
        gate = Gate(idle_host, monkeypatch)
        early = await served.connect(decide_bytes())
        late = await served.connect(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await late.reply()).status == 200
        await gate.entered.wait()
        signal.raise_signal(signal.SIGTERM)
        late.send(decide_bytes(id="late"))
        reply = await late.reply()
        assert (reply.status, reply.headers["connection"]) == (503, "close")
        assert reply.body["given"] == "a server on its way out"
        assert await late.end() == b""
        gate.open.set()
        assert (await early.reply()).body["payment"] == "p-1"
        assert await asyncio.wait_for(asyncio.shield(served.task), PATIENCE_S) == 0
        assert idle_host.log.durable == idle_host.log.position > 0

    assert serving(idle_host, scenario, drain_s=0.2) == 0


def test_a_second_signal_ends_at_once(idle_host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(served: Served) -> None:
        gate = Gate(idle_host, monkeypatch)
        stuck = await served.connect(decide_bytes())
        await gate.entered.wait()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert await asyncio.wait_for(asyncio.shield(served.task), PATIENCE_S) == 0
        gate.open.set()
        stuck.close()

    assert serving(idle_host, scenario, stop_s=1) == 0


def test_a_failed_log_answers_503_and_ends_the_process(idle_host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(entries: object) -> None:
        raise LogUnavailableError(where="0.sqlite", given="disk full", expected="a commit", fix="Free disk space.")

    async def scenario(served: Served) -> None:
        monkeypatch.setattr(idle_host.log.store, "append", full)
        wire = await served.connect(decide_bytes())
        assert (await wire.reply()).status == 503
        wire.send(decide_bytes(id="p-2"))
        assert (await wire.reply()).body["given"] == "a log that failed"
        assert await asyncio.wait_for(asyncio.shield(served.task), PATIENCE_S) == EXIT_LOG_FAILED

    assert serving(idle_host, scenario) == EXIT_LOG_FAILED == 74


def test_an_address_that_is_taken_is_a_wrong_setting(idle_host: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1 port {port}, where the system says: Address already in use"):
            serve(idle_host, HttpSettings(port=port, tokens=False), access=None)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_serve_runs_until_a_signal(idle_host: Host, address: str) -> None:
    answers: list[Any] = []

    def call(port: int) -> None:
        name = f"[{address}]" if ":" in address else address
        body = json.dumps(payment()).encode()
        request = urllib.request.Request(f"http://{name}:{port}/v1/fraud/decide", body)  # loopback
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:  # noqa: S310  # loopback
                answers.append(json.load(answer))
        finally:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    callers: list[threading.Thread] = []

    def on_listening(port: int) -> None:
        callers.append(threading.Thread(target=call, args=(port,)))
        callers[0].start()

    if address == "::1" and not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    settings = HttpSettings(host=address, port=0, tokens=False)
    assert serve(idle_host, settings, access=None, on_listening=on_listening) == 0
    callers[0].join()
    assert [answer["payment"] for answer in answers] == ["p-1"]
