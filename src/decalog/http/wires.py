"""A field's own protocol beside our JSON: the routes that a system brings, under the server's tokens, limits and caps.

A system names its door by dotted path (`System.wire`): `WIRE(host, name, *, settings)` returns its protocols.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple, Protocol
from urllib.parse import unquote_to_bytes

from prometheus_client import Counter

from decalog.access import Scope
from decalog.errors import ConfigError
from decalog.host import Host
from decalog.http.limits import read_body
from decalog.http.problems import Answer, Refusal
from decalog.http.routes import Call, Route
from decalog.http.settings import HttpSettings
from decalog.system import load

log = logging.getLogger("decalog.http")

_AGAIN_S = 1.0
_ANY = b"{}"
"""Stands in a shape for a part that may be anything."""
_Shape = tuple[bytes, ...]


class Asked(NamedTuple):
    """A request in a field's protocol, let in and read: headers by lower-case name, what stood for the path's `{…}`."""

    headers: dict[bytes, bytes]
    ids: tuple[str, ...]
    query: bytes
    body: bytes


class WireRoute(NamedTuple):
    """A route of a protocol: as `Route`, with a path whose `{…}` stand for one part each; `batch` takes large bodies.

    A scope of None lets in callers without a token: the handler has to know them by something else.
    """

    name: str
    method: str
    path: str
    scope: Scope | None
    answer: Callable[[Asked], Awaitable[Answer]]
    batch: bool = False


class Wire(Protocol):
    """One protocol of a system, over the same host as our JSON."""

    @property
    def routes(self) -> Sequence[WireRoute]:
        """Its routes, for good."""

    def speaks(self, headers: dict[bytes, bytes]) -> bool:
        """Whether a request that fits no route is meant in this protocol, so that its refusal is in it too."""

    def authorization(self, headers: dict[bytes, bytes]) -> bytes | None:
        """Returns `Bearer` and our token from where the protocol keeps it, or None."""

    def refuse(self, refusal: Refusal) -> Answer:
        """Returns a refusal in the protocol's form."""

    async def run(self) -> None:
        """Does what the protocol needs beside requests (listens elsewhere, delivers), until cancelled."""


class JsonWire:
    """What protocols have in common that are JSON on paths of their own, with a bearer token."""

    def speaks(self, headers: dict[bytes, bytes]) -> bool:  # noqa: ARG002  # nothing in them says so
        """Whether a request is meant in this protocol: only its own paths are."""
        return False

    def authorization(self, headers: dict[bytes, bytes]) -> bytes | None:
        """Returns the bearer token."""
        return headers.get(b"authorization")

    async def run(self) -> None:
        """Does nothing: all of it is requests."""


class Wires:
    """All protocols of a host.

    Args:
        host: decides.
        settings: limits.

    Raises:
        ConfigError: a system's path names no door, or two routes are the same.
    """

    def __init__(self, host: Host, settings: HttpSettings) -> None:
        self._settings = settings
        self._wires = list(_made(host, settings))
        table: dict[_Shape, dict[str, tuple[Route, str]]] = {}
        for wire, system in self._wires:
            for route in wire.routes:
                methods = table.setdefault(_shape(route.path), {})
                if route.method in methods:
                    raise _twice(route)
                answer = partial(self._read, route)
                methods[route.method] = Route(route.name, route.method, route.scope, answer, wire=wire), system
        # A part that is named wins over one that may be anything.
        self._table = sorted(table.items(), key=lambda entry: entry[0].count(_ANY))
        self._faults = Counter(
            "decalog_wire_faults", "Faults that ended a wire's own work; it began again.", registry=host.meter.registry
        )

    def find(self, path: bytes, method: str) -> tuple[tuple[Route, ...], str, tuple[str, ...]] | None:
        """Returns a path's routes, the system of the one with that method, and its ids; None where there is none."""
        if not self._table:
            return None
        parts = [unquote_to_bytes(part) for part in path.split(b"/")]
        for shape, methods in self._table:
            if len(shape) == len(parts) and all(want in (_ANY, part) for want, part in zip(shape, parts, strict=True)):
                ids = tuple(_text(part) for want, part in zip(shape, parts, strict=True) if want is _ANY)
                system = methods.get(method, next(iter(methods.values())))[1]
                return tuple(route for route, _ in methods.values()), system, ids
        return None

    def unknown(self, headers: dict[bytes, bytes]) -> list[Route]:
        """Returns what stands for the route of a request that fits none, so that it is refused in its protocol."""
        spoken = (wire for wire, _ in self._wires if wire.speaks(headers))
        return [Route("unknown", "", None, _nothing, wire=wire) for wire in spoken][:1]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Runs what the protocols do beside requests."""
        tasks = [asyncio.create_task(self._keep(wire)) for wire, _ in self._wires]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(self, wire: Wire) -> None:
        while True:
            try:
                return await wire.run()
            except Exception as error:  # noqa: BLE001  # the edge of an engine: it is counted, and begins again
                self._faults.inc()
                log.error("wire: error=%s", type(error).__name__)  # noqa: TRY400 - nothing personal
                await asyncio.sleep(_AGAIN_S)

    async def _read(self, route: WireRoute, call: Call) -> Answer:
        limit = self._settings.batch_bytes if route.batch else self._settings.decide_bytes
        body = await read_body(call.receive, declared=call.headers.get(b"content-length"), limit=limit)
        return await route.answer(Asked(call.headers, call.ids, call.query, body))


def _made(host: Host, settings: HttpSettings) -> Iterator[tuple[Wire, str]]:
    for name, service in host.services.items():
        path = service.system.wire
        if not path:
            continue
        door = load(path)
        if door is None:
            raise ConfigError(
                where=f"{name}, wire",
                given=f"{path}, which names nothing",
                expected="module:WIRE",
                fix="Mend `wire` of the system, or leave it out.",
            )
        for wire in door(host, name, settings=settings):
            yield wire, name


def _shape(path: str) -> _Shape:
    return tuple(_ANY if part.startswith(b"{") else part for part in path.encode().split(b"/"))


def _twice(route: WireRoute) -> ConfigError:
    return ConfigError(
        where="serve, protocols",
        given=f"two routes {route.method} {route.path}",
        expected="each route once",
        fix="Serve the systems that bring them by servers of their own.",
    )


def _text(part: bytes) -> str:
    return part.decode(errors="replace")


async def _nothing(_call: Call) -> Answer:
    raise NotImplementedError
