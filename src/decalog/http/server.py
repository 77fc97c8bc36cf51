"""Runs the application on uvicorn: one process, one event loop, one writer of the log."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from decalog.access import Access
from decalog.errors import ConfigError, LimitError, RequestError
from decalog.host import Host
from decalog.http.app import App
from decalog.http.problems import Answer, problem
from decalog.http.settings import HttpSettings

EXIT_LOG_FAILED = 74
"""Exit code after the log failed, EX_IOERR of BSD's sysexits. A supervisor restarts it; recovery reads the log."""

HEAD_BYTES = 32_768
"""Most bytes of a request's line and headers together."""

_TICKS_A_SECOND = 10
_FAILED_GRACE_TICKS = 10


def serve(
    host: Host, settings: HttpSettings, *, access: Access | None, on_listening: Callable[[int], None] | None = None
) -> int:
    """Starts a host, serves it until SIGTERM or SIGINT, stops it; returns the process's exit code.

    Args:
        host: not yet started.
        settings: where and how much.
        access: verifies tokens; None only where settings say that none are needed.
        on_listening: called once with the port, when requests are answered.

    Returns:
        0 after a signal, `EXIT_LOG_FAILED` after the log failed.

    Raises:
        ConfigError: the settings do not make sense, or the address is taken.
    """
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(serve_here(host, settings, access=access, on_listening=on_listening))


async def serve_here(
    host: Host, settings: HttpSettings, *, access: Access | None, on_listening: Callable[[int], None] | None = None
) -> int:
    """Does what `serve` does, in the event loop that runs."""
    app = App(host, settings, access=access)
    listener = listen(settings)
    try:
        await host.start()
        server = Server(app, host)
        async with app.wires.running():
            if on_listening is not None:
                on_listening(listener.getsockname()[1])
            await server.serve(sockets=[listener])
    finally:
        listener.close()
        await host.stop()
    return EXIT_LOG_FAILED if host.log.failed is not None else 0


def listen(settings: HttpSettings) -> socket.socket:
    """Returns a socket that listens where the settings say.

    Raises:
        ConfigError: the address is taken, or not this machine's.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=settings.backlog)
    except OSError as error:
        raise ConfigError(
            where="serve, address",
            given=f"{settings.host} port {settings.port}, where the system says: {error.strerror or error}",
            expected="an address of this machine and a free port",
            fix="Use --port with another number, or stop what listens there.",
        ) from None


class Server(uvicorn.Server):
    """uvicorn with three things added: a drain before the close, an end when the log fails, and no endless requests."""

    def __init__(self, app: App, host: Host) -> None:
        settings = app.settings
        config = uvicorn.Config(
            app,
            http=BoundedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=settings.backlog,
            limit_concurrency=settings.connections,
            timeout_keep_alive=settings.idle_s,
            timeout_graceful_shutdown=settings.stop_s,
        )
        super().__init__(config)
        self._app = app
        self._host = host
        self._drain_ticks = 0
        self._failed_ticks = 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  # uvicorn's signature
        """First signal: refuse what is new and let the rest finish. Second: stop now."""
        # uvicorn would raise the signal again when it is done, and so end the process before the log is closed.
        self.force_exit = self.should_exit = self._app.draining
        self._app.draining = True

    async def on_tick(self, counter: int) -> bool:
        """Looks ten times a second whether it is time to go."""
        if counter % _TICKS_A_SECOND == 0:
            self._close_slow(time.monotonic())
        if self._host.log.failed is not None:
            # For a moment callers get their 503; then a supervisor may restart us.
            self._failed_ticks += 1
            self.should_exit |= self._failed_ticks > _FAILED_GRACE_TICKS
        if self._app.draining:
            settings = self._app.settings
            waited_s = self._drain_ticks / _TICKS_A_SECOND
            self._drain_ticks += 1
            is_idle = self._app.in_flight == 0 and waited_s >= settings.drain_s
            self.should_exit |= is_idle or waited_s >= settings.drain_s + settings.stop_s
        return await super().on_tick(counter)

    def _close_slow(self, now_s: float) -> None:
        latest = now_s - self._app.settings.request_s
        for connection in list(self.server_state.connections):
            if isinstance(connection, BoundedProtocol) and connection.reading_since_s < latest:
                connection.transport.abort()


_TOO_LONG = ValueError("head too long")
"""The parser turns it into its own error, which ends in `send_400_response`."""


class OneWrite:
    """A transport that sends in one piece what is written in one turn of the event loop.

    uvicorn writes the head of a response and its body apart; each would be a call into the kernel and a packet.
    """

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._held: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        """Returns what this class leaves as it is."""
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Sends data with whatever else is written in this turn."""
        if not self._held:
            self._loop.call_soon(self._send)
        self._held.append(data)

    def close(self) -> None:
        """Closes after what is held was sent."""
        self._send()
        self._transport.close()

    def _send(self) -> None:
        if self._held:
            held, self._held = b"".join(self._held), []
            self._transport.write(held)


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with a bound on a request's head and a clock on its arrival; refusals are problems."""

    reading_since_s = float("inf")
    _head_bytes = 0

    def connection_made(self, transport: Any) -> None:
        """Starts the clock of the first request."""
        super().connection_made(OneWrite(transport))  # type: ignore[arg-type]  # what uvicorn calls of a transport
        self.reading_since_s = time.monotonic()

    def on_message_begin(self) -> None:
        """Starts the clock of a request."""
        super().on_message_begin()
        self._head_bytes = 0
        self.reading_since_s = time.monotonic()

    def on_message_complete(self) -> None:
        """Stops the clock: the request is here."""
        super().on_message_complete()
        self.reading_since_s = float("inf")

    def on_url(self, url: bytes) -> None:
        """Takes a part of the request's path."""
        self._head_bytes += len(url)
        if self._head_bytes > HEAD_BYTES:
            raise _TOO_LONG
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Takes one header."""
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > HEAD_BYTES:
            raise _TOO_LONG
        super().on_header(name, value)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  # uvicorn's signature
        """Refuses what is no HTTP, or too much of it, and closes."""
        if self._head_bytes > HEAD_BYTES:
            error: RequestError = LimitError(
                where="request, headers", given="too many", expected=f"at most {HEAD_BYTES} bytes", fix="Send fewer."
            )
            answer = problem(431, error)
        else:
            error = RequestError(
                where="request", given="no HTTP", expected="HTTP/1.1 by RFC 9112", fix="Mend the client, or use https."
            )
            answer = problem(400, error)
        self.transport.write(_plain(answer))
        self.transport.close()


def _plain(answer: Answer) -> bytes:
    lines = [b"HTTP/1.1 %d " % answer.status, b"content-length: %d" % len(answer.body)]
    lines += [name + b": " + value for name, value in answer.headers]
    return b"\r\n".join([*lines, b"connection: close", b"", answer.body])


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    if sys.platform == "win32":
        return asyncio.new_event_loop
    import uvloop

    return uvloop.new_event_loop
