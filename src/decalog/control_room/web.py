"""Requests in, pages out: what the control room knows of HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, urlsplit

from decalog.control_room.homes import House, Place
from decalog.control_room.sessions import Doors, Session, Sessions
from decalog.errors import RequestError

MOST_BYTES = 65_536
"""Of a form."""

SAFE: tuple[tuple[bytes, bytes], ...] = (
    (
        b"content-security-policy",
        b"; ".join(
            [
                *(b"default-src 'none'", b"script-src 'self'", b"style-src 'self'", b"img-src 'self'"),
                *(b"connect-src 'self'", b"form-action 'self'", b"frame-ancestors 'none'", b"base-uri 'none'"),
            ]
        ),
    ),
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
"""Headers of every answer: nothing inline, nothing from elsewhere, in nobody's frame."""


class View(NamedTuple):
    """What pages are made of: the systems, what sessions may see of them, and the sessions."""

    house: House
    doors: Doors
    sessions: Sessions


class Ask(NamedTuple):
    """A request that was let in.

    Args:
        view: what pages are made of.
        path: as sent, decoded.
        parts: what stood for the path's `{…}`.
        query, form: the last value of each name.
        session: whose.
        place: the system that the path names; None where it names none.
    """

    view: View
    path: str
    parts: tuple[str, ...]
    query: Mapping[str, str]
    form: Mapping[str, str]
    session: Session
    place: Place | None = None

    @property
    def at(self) -> Place:
        """The system; of a route that names one."""
        assert self.place is not None  # noqa: S101 - the route says so
        return self.place

    def number(self, name: str) -> int:
        """Returns a whole number of the query, 0 where there is none.

        Raises:
            RequestError: it is none.
        """
        text = self.query.get(name) or "0"
        if not (text.isascii() and text.isdigit() and len(text) < 20):  # noqa: PLR2004 - digits of an int64
            raise RequestError(
                where=f"control room, {name}", given="no number", expected="digits", fix="Follow a link of the page."
            )
        return int(text)


class Page(NamedTuple):
    """A page to render."""

    template: str
    values: dict[str, Any]
    status: int = 200


class Redirect(NamedTuple):
    """Another page to go to, with what it is to tell."""

    path: str
    said: str = ""


def cookie_of(headers: Mapping[bytes, bytes], name: str) -> str:
    """Returns a cookie's value, "" where it is not there."""
    try:
        found = SimpleCookie(headers.get(b"cookie", b"").decode("latin-1")).get(name)
    except CookieError:
        return ""
    return "" if found is None else found.value


def fields_of(text: str) -> dict[str, str]:
    """Returns the fields of a query or a form; of several of one name the last."""
    return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=100))


def path_of(*parts: str) -> str:
    """Returns a path of this application.

    >>> path_of("s", "fraud", "decisions", "a/b")
    '/s/fraud/decisions/a%2Fb'
    """
    return "/" + "/".join(quote(part, safe="") for part in parts)


def is_ours(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a request that changes something comes from a page of the host that it was sent to."""
    origin = headers.get(b"origin")
    if origin is None:
        return True
    return urlsplit(origin.decode("latin-1")).netloc.encode("latin-1") == headers.get(b"host", b"")
