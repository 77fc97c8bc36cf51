"""The server's edge, as one ASGI application: who may come in, which route it is, and one form for every refusal.

It is plain ASGI, without a framework between: `docs/howto/serve.md` has the figures.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any
from urllib.parse import unquote_to_bytes

from prometheus_client import Counter, Histogram

from decalog.access import Access, Scope, Token, host_of, is_loopback, require
from decalog.errors import (
    AccessError,
    ConfigError,
    DecalogError,
    LimitError,
    LogUnavailableError,
    RequestError,
    UnknownRecordError,
    near,
)
from decalog.host import Host
from decalog.http.lever_routes import LeverRoutes
from decalog.http.limits import ClientGoneError, RateLimit, Receive, caller_of, too_deep
from decalog.http.privacy_routes import PrivacyRoutes
from decalog.http.problems import CLOSE, RETRY, Answer, Refusal, answer_of, internal, refusal_of, without_message
from decalog.http.routes import Call, Route, Routes
from decalog.http.settings import HttpSettings
from decalog.http.wires import Wires

log = logging.getLogger("decalog.http")

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = dict[bytes, bytes]
_Found = tuple[tuple[Route, ...], str, tuple[str, ...]]
"""The routes of a path, the system it names, and the ids or names in it."""

_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_PATH_PARTS = range(3, 6)
_SINGLE = (b"authorization", b"content-type", b"content-encoding", b"content-length", b"host", b"idempotency-key")
_HOSTS_KEPT = 64
_QUERY = re.compile(rb"seq=(\d{1,18})")


class App:
    """The ASGI application of one host.

    Args:
        host: decides.
        settings: limits.
        access: verifies tokens; None only where settings say that none are needed.
        monotonic: seconds, for rates and latencies.

    Raises:
        ConfigError: the settings do not make sense, or there are no tokens to verify.
    """

    def __init__(
        self,
        host: Host,
        settings: HttpSettings,
        *,
        access: Access | None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        settings.check()
        if settings.tokens and access is None:
            raise ConfigError(
                where="serve, authentication",
                given="tokens are needed, but there is nothing that verifies them",
                expected="the home's tokens",
                fix="Pass `access`, or turn authentication off on a loopback address.",
            )
        self.settings = settings
        self.draining = False
        self.in_flight = 0
        self._host = host
        self._access = access if settings.tokens else None
        self._monotonic = monotonic
        self._rates = RateLimit(settings.rate_per_s, settings.burst, monotonic=monotonic)
        routes = Routes(host, settings, is_draining=lambda: self.draining)
        levers = LeverRoutes(host, settings)
        self.wires = Wires(host, settings)
        self._by_system = routes.by_system | levers.by_system | PrivacyRoutes(host, settings).by_system
        self._by_id = routes.by_id | levers.by_id
        self._direct: Mapping[bytes, _Found] = {
            b"/v1/" + system.encode() + b"/" + name: (routes_of, system, ())
            for system in host.systems
            for (name,), routes_of in self._by_system.items()
        } | {path: ((route,), "", ()) for path, route in routes.of_server.items()}
        self._loopback_names: set[bytes] = set()
        self._seconds = Histogram(
            "decalog_http_request_seconds",
            "Time from the request's head to its answer.",
            ("route", "status"),
            buckets=_BOUNDS,
            registry=host.meter.registry,
        )
        self._unexpected = Counter(
            "decalog_http_unexpected_errors", "Errors that nobody foresaw.", ("error",), registry=host.meter.registry
        )
        self._bound: dict[tuple[str, int], Histogram] = {}

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answers one request; see the ASGI specification, version 3."""
        if scope["type"] != "http":
            await _refuse_protocol(scope, receive, send)
            return
        started = self._monotonic()
        self.in_flight += 1
        met: list[Route] = []
        try:
            answer = await self._answer(scope, receive, met)
            await _send(send, answer, is_head=scope["method"] == "HEAD")
        except ClientGoneError:
            return
        finally:
            self.in_flight -= 1
        self._observe(_name(met), answer.status, self._monotonic() - started)

    async def _answer(self, scope: MutableMapping[str, Any], receive: Receive, met: list[Route]) -> Answer:
        try:
            route, call = self._let_in(scope, receive, met)
            return await route.answer(call)
        except (DecalogError, Refusal) as error:
            refusal = refusal_of(error)
        except RecursionError:
            refusal = too_deep()
        except ClientGoneError:
            raise
        except Exception as error:  # noqa: BLE001  # the edge of the request: nothing of the inside goes out, and it is counted
            self._unexpected.labels(type(error).__name__).inc()
            log.error("unexpected error: route=%s %s", _name(met), without_message(error))  # noqa: TRY400 - nothing personal
            refusal = internal()
        wire = met[0].wire if met else None
        return answer_of(refusal) if wire is None else wire.refuse(refusal)

    def _let_in(self, scope: MutableMapping[str, Any], receive: Receive, met: list[Route]) -> tuple[Route, Call]:
        headers = _headers(scope["headers"])
        route, system, ids = self._find(scope, headers, met)
        self._check_open(route)
        caller = self._check_caller(scope, headers, route, system)
        query = scope.get("query_string") or b""
        seq = _seq(query, route) if query and system and route.wire is None else None
        return route, Call(headers, system, ids, query, receive, caller, seq)

    def _find(
        self, scope: MutableMapping[str, Any], headers: Headers, met: list[Route]
    ) -> tuple[Route, str, tuple[str, ...]]:
        path = scope.get("raw_path") or scope["path"].encode()
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        found = self._direct.get(path) or self.wires.find(path, method)
        if found is None:
            met += self.wires.unknown(headers)
            found = self._find_by_id(path)
        routes, system, ids = found
        met[:] = [next((route for route in routes if route.method == method), routes[0])]
        if met[0].method == method:
            return met[0], system, ids
        allowed = ", ".join("GET, HEAD" if route.method == "GET" else route.method for route in routes)
        error = RequestError(
            where=f"request, {routes[0].name}",
            given="another method",
            expected=allowed,
            fix="GET /openapi.json lists the routes.",
        )
        raise Refusal(405, error, ((b"allow", allowed.encode()),))

    def _find_by_id(self, path: bytes) -> _Found:
        """Returns the routes of a path that holds an id or a name, or of one that was percent-encoded."""
        parts = [unquote_to_bytes(part) for part in path.split(b"/")[1:]]
        if len(parts) not in _PATH_PARTS or parts[0] != b"v1":
            raise _no_route()
        system = self._system(parts[1].decode(errors="replace"))
        verb, *rest = parts[2:]
        routes = self._by_id.get((verb, *rest[1:])) if rest else self._by_system.get((verb,))
        if routes is None:
            raise _no_route()
        return routes, system, (_id(rest[0]),) if rest else ()

    def _system(self, name: str) -> str:
        if name in self._host.systems:
            return name
        raise UnknownRecordError(
            where="request, path",
            given="a system that is not served here",
            expected=near(name[:64], self._host.systems),
            fix="Start it with `decalog serve`.",
        )

    def _check_open(self, route: Route) -> None:
        if route.probe:
            return
        if self.draining:
            error = LogUnavailableError(
                where="server",
                given="a server on its way out",
                expected="a server that takes requests",
                fix="Send it again with the same id, to another server or in a moment: nothing is doubled.",
            )
            raise Refusal(503, error, RETRY + CLOSE)
        if self.in_flight > self.settings.in_flight:
            error = LogUnavailableError(
                where="server",
                given="more requests than can be at work at once",
                expected=f"at most {self.settings.in_flight}",
                fix="Send it again with the same id in a moment: nothing is doubled.",
            )
            raise Refusal(503, error, RETRY)

    def _check_caller(self, scope: MutableMapping[str, Any], headers: Headers, route: Route, system: str) -> str:
        """Returns in words who calls, for whatever keeps a list of it."""
        if self._access is None:
            self._check_host(headers[b"host"])
        if route.scope is None and route.wire is None:
            return ""
        if self._access is None or route.scope is None:
            self._check_rate(_address(scope))
            return "no token"
        shown = headers.get(b"authorization") if route.wire is None else route.wire.authorization(headers)
        try:
            token = self._access.verify(shown)
        except AccessError as error:
            self._check_rate(_address(scope))
            raise Refusal(401, error, _challenge("" if shown is None else "invalid_token")) from None
        self._check_rate(token.id)
        _check_scope(token, route.scope, system=system)
        return token.told

    def _check_rate(self, caller: str) -> None:
        wait_s = self._rates.wait_s(caller)
        if wait_s:
            error = LimitError(
                where="request, rate",
                given="more requests than this caller may send",
                expected=f"at most {self.settings.rate_per_s:g} a second",
                fix="Wait as long as Retry-After says; batches count as one request.",
            )
            raise Refusal(429, error, ((b"retry-after", str(math.ceil(wait_s)).encode()),))

    def _check_host(self, name: bytes) -> None:
        # Without tokens, a page in a browser on this machine could reach us under a name of its own (DNS rebinding),
        # and a proxy could show us to others by mistake: only names of this machine are answered.
        if name in self._loopback_names:
            return
        if not is_loopback(host_of(name)):
            error = AccessError(
                where="request, Host",
                given="a name other than this machine's loopback, on a server without tokens",
                expected="127.0.0.1, [::1] or localhost",
                fix="Call it by a loopback name, or serve with tokens.",
            )
            raise Refusal(403, error)
        if len(self._loopback_names) < _HOSTS_KEPT:
            self._loopback_names.add(name)

    def _observe(self, name: str, status: int, seconds: float) -> None:
        bound = self._bound.get((name, status))
        if bound is None:
            bound = self._bound[(name, status)] = self._seconds.labels(name, str(status))
        bound.observe(seconds)


def _check_scope(token: Token, scope: Scope, *, system: str) -> None:
    try:
        require(token, scope, system=system)
    except AccessError as error:
        raise Refusal(403, error, _challenge("insufficient_scope", scope)) from None


def _name(met: list[Route]) -> str:
    return met[0].name if met else "unknown"


def _headers(sent: list[tuple[bytes, bytes]]) -> Headers:
    """Returns the headers by name; one that may come only once must not come twice (RFC 9110, section 5.3)."""
    headers = dict(sent)
    if len(headers) != len(sent):
        names = [name for name, _ in sent]
        for name in _SINGLE:
            if names.count(name) > 1:
                raise Refusal(400, _bad_header(name.decode(), "a header sent twice", "it once"))
    if b"host" not in headers:
        raise Refusal(400, _bad_header("Host", "no such header", "the server's name (RFC 9112, section 3.2)"))
    length = headers.get(b"content-length")
    if length is not None and not length.isdigit():
        raise Refusal(400, _bad_header("Content-Length", "no number", "a number of bytes"))
    return headers


def _bad_header(name: str, given: str, expected: str) -> RequestError:
    return RequestError(where=f"request, {name}", given=given, expected=expected, fix="Mend the client.")


def _seq(query: bytes, route: Route) -> int:
    """Returns the record that a query names."""
    found = _QUERY.fullmatch(query)
    if found is None or not route.takes_seq:
        error = RequestError(
            where="request, query",
            given="query parameters",
            expected="seq=<number of a record> alone" if route.takes_seq else "none: everything stands in the body",
            fix="Leave them out; a token belongs into the Authorization header.",
        )
        raise Refusal(400, error)
    return int(found[1])


def _no_route() -> UnknownRecordError:
    return UnknownRecordError(
        where="request, path",
        given="a path that is no route",
        expected="/v1/{system}/decide and the like",
        fix="GET /openapi.json lists the routes.",
    )


def _id(part: bytes) -> str:
    try:
        return part.decode()
    except UnicodeDecodeError:
        raise _no_route() from None


def _address(scope: MutableMapping[str, Any]) -> str:
    client = scope.get("client")
    return caller_of(client[0]) if client else ""


def _challenge(error: str, scope: Scope | None = None) -> tuple[tuple[bytes, bytes], ...]:
    """Returns the challenge of RFC 6750, section 3; without credentials it names no error."""
    parts = ['Bearer realm="decalog"']
    if error:
        parts.append(f'error="{error}"')
    if scope is not None:
        parts.append(f'scope="{scope}"')
    return ((b"www-authenticate", ", ".join(parts).encode()),)


async def _send(send: Send, answer: Answer, *, is_head: bool) -> None:
    length = (b"content-length", str(len(answer.body)).encode())
    await send({"type": "http.response.start", "status": answer.status, "headers": [length, *answer.headers]})
    await send({"type": "http.response.body", "body": b"" if is_head else answer.body})


async def _refuse_protocol(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
    """Answers what is not HTTP: the host is started and stopped by `serve`, and there are no websockets."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1003})
        return
    while scope["type"] == "lifespan":
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
