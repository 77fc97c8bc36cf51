"""Runs the control room on uvicorn, with the processes beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import uvicorn

from decalog.access import check_binding
from decalog.control_room.app import App
from decalog.control_room.homes import House
from decalog.control_room.supervising import supervise
from decalog.http.server import listen
from decalog.http.settings import HttpSettings


def serve(house: House, settings: HttpSettings, *, https: bool, on_listening: Callable[[int], None]) -> None:
    """Serves until SIGTERM or SIGINT.

    Args:
        house: the systems.
        settings: of which host, port and tokens count.
        https: whether a proxy ends TLS before it.
        on_listening: called once with the port.

    Raises:
        ConfigError: without tokens on an address that others can reach, or the address is taken.
    """
    check_binding(settings.host, authenticated=settings.tokens)
    app: Any = App(house, asks=settings.tokens, https=https)
    asyncio.run(_serve(house, app, settings, on_listening))


class Server(uvicorn.Server):
    """uvicorn, but a signal ends requests and not the process: what runs beside has to be ended before that."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  # uvicorn's signature
        """First signal: no more requests. Second: now."""
        self.force_exit = self.should_exit
        self.should_exit = True


async def _serve(house: House, app: Any, settings: HttpSettings, on_listening: Callable[[int], None]) -> None:
    config = uvicorn.Config(
        app, ws="none", lifespan="off", log_config=None, access_log=False, proxy_headers=False, server_header=False
    )
    listener = listen(settings)
    beside = asyncio.create_task(supervise(house))
    try:
        on_listening(listener.getsockname()[1])
        await Server(config).serve(sockets=[listener])
    finally:
        listener.close()
        beside.cancel()
        with suppress(asyncio.CancelledError):
            await beside
