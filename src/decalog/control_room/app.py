"""The application: who may come in, which page it is, and one form for every refusal. Plain ASGI as `http/app.py`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote
from wsgiref.handlers import format_date_time

from decalog.access import Scope, host_of, is_loopback
from decalog.control_room import acting, cases, decisions, overview, signing, things, trouble
from decalog.control_room.homes import House
from decalog.control_room.sessions import COOKIE, Doors, Session, Sessions, check_csrf
from decalog.control_room.views import render
from decalog.control_room.web import MOST_BYTES, SAFE, Ask, Page, Redirect, View, cookie_of, fields_of, is_ours
from decalog.errors import AccessError, DecalogError, RequestError, UnknownRecordError
from decalog.http.limits import ClientGoneError, Receive, read_body
from decalog.http.problems import Refusal, internal, refusal_of, without_message

log = logging.getLogger("decalog.control_room")

Handler = Callable[[Ask], Page | Redirect]
_Reply = tuple[int, bytes, list[tuple[bytes, bytes]]]

_STATIC = Path(__file__).with_name("static")
_TYPES = {".css": b"text/css; charset=utf-8", ".js": b"text/javascript; charset=utf-8", ".svg": b"image/svg+xml"}
_AT_ONCE = 4
"""Pages that are made at the same time; more wait."""


class Route(NamedTuple):
    """A page: `{…}` in its path stand for one part each, the first one of /s/{…} for the system.

    `scope` is what a token needs for that system; None lets any session in, and `open` those that have none yet.
    """

    method: str
    path: str
    scope: Scope | None
    answer: Handler
    open: bool = False


ROUTES = (
    Route("GET", "/", None, overview.house),
    Route("GET", "/login", None, signing.form, open=True),
    Route("POST", "/login", None, signing.sign_in, open=True),
    Route("POST", "/logout", None, signing.sign_out),
    Route("GET", "/s/{system}", "admin", overview.system),
    Route("GET", "/s/{system}/readiness", "admin", overview.readiness),
    Route("GET", "/s/{system}/privacy", "admin", overview.privacy),
    Route("GET", "/s/{system}/decisions", "decide", decisions.listed),
    Route("POST", "/s/{system}/decisions", "decide", decisions.find_entity),
    Route("GET", "/s/{system}/decisions/{id}", "decide", decisions.shown),
    Route("GET", "/s/{system}/decisions/{id}/why", "admin", decisions.why),
    Route("POST", "/s/{system}/decisions/{id}/replay", "admin", decisions.replay),
    Route("GET", "/s/{system}/of/{token}", "decide", things.thing),
    Route("GET", "/s/{system}/exceptions", "decide", things.exceptions),
    Route("GET", "/s/{system}/cases", "outcomes", cases.queue),
    Route("GET", "/s/{system}/cases/{id}", "outcomes", cases.case),
    Route("POST", "/s/{system}/cases/{id}", "outcomes", cases.act),
    Route("GET", "/s/{system}/trouble", "admin", trouble.knobs),
    Route("POST", "/s/{system}/trouble", "admin", trouble.turn),
    Route("POST", "/s/{system}/rollout", "admin", acting.rollout),
    Route("POST", "/s/{system}/champion", "admin", acting.champion),
)


class App:
    """The ASGI application of a control room.

    Args:
        house: the systems.
        asks: whether tokens are asked for; without, it answers only to names of this machine.
        https: whether browsers reach it by https (a proxy ends TLS), so that cookies are for that alone.
    """

    def __init__(self, house: House, *, asks: bool, https: bool = False) -> None:
        self._sessions = Sessions()
        self._doors = Doors(house, asks=asks)
        self._view = View(house, self._doors, self._sessions)
        self._https = https
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="page")

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Any) -> None:
        """Answers one request; see the ASGI specification, version 3."""
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])
        try:
            status, body, extra = await self._answer(scope, headers, receive)
        except ClientGoneError:
            return
        length = (b"content-length", str(len(body)).encode())
        await send({"type": "http.response.start", "status": status, "headers": [*SAFE, *extra, length]})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _answer(
        self, scope: MutableMapping[str, Any], headers: Mapping[bytes, bytes], receive: Receive
    ) -> _Reply:
        session = self._session(headers)
        try:
            self._check_host(headers)
            if scope["path"].startswith("/static/"):
                return _static(scope["path"].removeprefix("/static/"), headers)
            return await self._let_in(scope, headers, session=session, receive=receive)
        except (DecalogError, Refusal) as error:
            refusal = refusal_of(error)
        except ClientGoneError:
            raise
        except Exception as error:  # noqa: BLE001  # the edge of the request: nothing of the inside goes out
            log.error("unexpected error: %s", without_message(error))  # noqa: TRY400 - nothing personal
            refusal = internal()
        title = HTTPStatus(refusal.status).phrase
        return self._reply(Page("error.html", {"error": refusal.error, "title": title}, refusal.status), session)

    async def _let_in(
        self,
        scope: MutableMapping[str, Any],
        headers: Mapping[bytes, bytes],
        *,
        session: Session | None,
        receive: Receive,
    ) -> _Reply:
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        route, parts = _find(scope["path"], method)
        is_in = session is not None and (not self._doors.asks or self._doors.is_known(session.token))
        if not is_in and not route.open:
            return self._reply(Redirect("/login"), None)
        session = session or self._sessions.open("")
        query = fields_of(scope.get("query_string", b"").decode("latin-1"))
        form = await self._form(headers, receive, session=session) if method == "POST" else {}
        ask = Ask(self._view, scope["path"], parts, query, form, session)
        loop = asyncio.get_running_loop()
        return self._reply(await loop.run_in_executor(self._threads, self._made, route, ask), session)

    def _made(self, route: Route, ask: Ask) -> _Reply | Redirect:
        """Returns what a route makes of a request; in a thread, as it reads files and may call servers."""
        if route.path.startswith("/s/"):
            place = self._view.house.place(ask.parts[0])
            if route.scope is not None:
                self._doors.require(ask.session, place, scope=route.scope)
            ask = ask._replace(place=place, parts=ask.parts[1:])
        made = route.answer(ask)
        if isinstance(made, Page):
            made.values.setdefault("place", ask.place)
            return self._page(made, ask.session)
        return made

    def _session(self, headers: Mapping[bytes, bytes]) -> Session | None:
        """Returns the session of a request; None where there is none."""
        session = self._sessions.find(cookie_of(headers, COOKIE))
        return session or (None if self._doors.asks else self._sessions.open(""))

    def _check_host(self, headers: Mapping[bytes, bytes]) -> None:
        # As in http/app.py: without tokens no page may reach us by a name of its own (DNS rebinding).
        if not self._doors.asks and not is_loopback(host_of(headers.get(b"host", b""))):
            error = AccessError(
                where="control room, Host",
                given="a name other than this machine's loopback, on a control room without tokens",
                expected="127.0.0.1, [::1] or localhost",
                fix="Call it by a loopback name, or start it with tokens.",
            )
            raise Refusal(403, error)

    async def _form(self, headers: Mapping[bytes, bytes], receive: Receive, *, session: Session) -> dict[str, str]:
        """Returns the fields of a form of ours."""
        kind = headers.get(b"content-type", b"").partition(b";")[0]
        if kind != b"application/x-www-form-urlencoded":
            error = RequestError(
                where="control room, form", given="another media type", expected="a form of a page", fix="Use the page."
            )
            raise Refusal(415, error)
        raw = await read_body(receive, declared=headers.get(b"content-length"), limit=MOST_BYTES)
        form = fields_of(raw.decode("utf-8", errors="replace"))
        try:
            check_csrf(session, form.pop("csrf", "") if is_ours(headers) else "")
        except AccessError as error:
            raise Refusal(403, error) from None
        return form

    def _reply(self, made: _Reply | Page | Redirect, session: Session | None) -> _Reply:
        """Returns a page or a redirect as status, body and headers."""
        if isinstance(made, Page):
            made = self._page(made, session)
        elif isinstance(made, Redirect):
            if made.said and session is not None:
                session.said.append(made.said)
            made = (303, b"", [(b"location", made.path.encode())])
        status, body, headers = made
        return status, body, [*headers, *self._cookie(session)]

    def _cookie(self, session: Session | None) -> list[tuple[bytes, bytes]]:
        if session is None or session.is_told:
            return []
        session.is_told = True
        secure = "; Secure" if self._https else ""
        value = f"{COOKIE}={session.id}; Path=/; HttpOnly; SameSite=Strict{secure}"
        return [(b"set-cookie", value.encode())]

    def _page(self, page: Page, session: Session | None) -> _Reply:
        body = render(self._view, page, session=session)
        return (
            page.status,
            body.encode(),
            [(b"content-type", b"text/html; charset=utf-8"), (b"cache-control", b"no-store")],
        )


def _find(path: str, method: str) -> tuple[Route, tuple[str, ...]]:
    """Returns the route of a path, and what stands for its `{…}`."""
    parts = [unquote(part) for part in path.strip("/").split("/")]
    fits = [route for route in ROUTES if _fits(route, parts)]
    for route in fits:
        if route.method == method:
            names = route.path.strip("/").split("/")
            return route, tuple(part for name, part in zip(names, parts, strict=True) if name.startswith("{"))
    error = UnknownRecordError(
        where="control room, path",
        given="another method" if fits else "a page that there is not",
        expected="a page that another one links to",
        fix="Begin at the house: /.",
    )
    raise Refusal(405 if fits else 404, error)


def _fits(route: Route, parts: list[str]) -> bool:
    names = route.path.strip("/").split("/")
    return len(names) == len(parts) and all(
        name.startswith("{") or name == part for name, part in zip(names, parts, strict=True)
    )


@cache
def _file(name: str) -> tuple[bytes, bytes] | None:
    path = _STATIC / name
    is_there = "/" not in name and path.suffix in _TYPES and path.is_file()
    return (path.read_bytes(), format_date_time(path.stat().st_mtime).encode()) if is_there else None


def _static(name: str, headers: Mapping[bytes, bytes]) -> _Reply:
    """Returns a file of the style or the script."""
    found = _file(name)
    if found is None:
        return 404, b"", []
    body, changed = found
    told = [
        (b"content-type", _TYPES[Path(name).suffix]),
        (b"last-modified", changed),
        (b"cache-control", b"no-cache"),
    ]
    return (304, b"", told) if headers.get(b"if-modified-since") == changed else (200, body, told)
