"""How much one caller may send, and how fast."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from itertools import accumulate
from typing import Any

import msgspec

from decalog.errors import LimitError, RequestError
from decalog.http.problems import CLOSE, Refusal

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

DEPTH = 32
"""Deepest nesting of JSON that is read; no request of ours needs more than three levels."""

_KEYS = 10_000
_IPV6_SITE = 64


class ClientGoneError(Exception):
    """The client hung up before its request was read; there is nobody to answer."""


async def read_body(receive: Receive, *, declared: bytes | None, limit: int) -> bytes:
    """Returns a request's body; stops reading as soon as it is too long.

    Args:
        receive: of ASGI.
        declared: the Content-Length header.
        limit: most bytes.

    Raises:
        Refusal: 413; the connection closes, since the rest was not read.
        ClientGoneError: the client hung up.
    """
    if declared is not None and int(declared) > limit:
        raise too_long(limit)
    message = await receive()
    body: bytes = message.get("body", b"")
    if message.get("more_body"):
        body = await _rest(receive, bytearray(body), limit=limit)
    elif message["type"] == "http.disconnect":
        raise ClientGoneError
    if len(body) > limit:
        raise too_long(limit)
    return body


async def _rest(receive: Receive, body: bytearray, *, limit: int) -> bytes:
    more = True
    while more and len(body) <= limit:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return bytes(body)


def too_long(limit: int) -> Refusal:
    """Returns the refusal of a body that is longer than `limit` bytes."""
    error = LimitError(
        where="request, body",
        given="a body that is too long",
        expected=f"at most {limit} bytes",
        fix="Send fewer or smaller rows in one request.",
    )
    return Refusal(413, error, CLOSE)


def is_deep(raw: bytes) -> bool:
    """Whether JSON nests deeper than `DEPTH`; brackets inside strings do not count.

    >>> is_deep(b'[' * 40), is_deep(b'{"a": "' + b'[' * 40 + b'"}')
    (True, False)
    """
    # Almost every body has few brackets in all, and needs no second look.
    if raw.count(b"[") + raw.count(b"{") <= DEPTH:
        return False
    # Escapes first, so that a string is what lies between two quotes: one pass over a body of any kind, JSON or not.
    strings = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    steps = memoryview(_STRING.sub(b"", strings).translate(_STEPS, _NO_BRACKETS)).cast("b")
    return max(accumulate(steps), default=0) > DEPTH


_STRING = re.compile(rb'"[^"]*(?:"|\Z)')
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_STEPS = bytes.maketrans(b"[]{}", b"\x01\xff\x01\xff")
_Rows = msgspec.json.Decoder(list[msgspec.Raw])


def check_rows(raw: bytes, most: int) -> None:
    """Returns if a batch has no more rows than `most` and none of them nests too deeply.

    What is no JSON passes: it is refused, or put into quarantine, where it is read.

    Raises:
        Refusal: 413 or 400.
    """
    text = raw.strip()
    try:
        rows: Sequence[bytes | msgspec.Raw] = _Rows.decode(text) if text.startswith(b"[") else text.splitlines()
    except RecursionError:
        raise too_deep() from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        rows = ()
    if len(rows) > most:
        raise too_many(most)
    # One object over many lines is judged as a whole, since no line of it is JSON.
    alone = not text.startswith(b"[") and bool(rows) and not is_json(bytes(rows[0]))
    if any(is_deep(bytes(row)) for row in ([text] if alone else rows)):
        raise too_deep()


def too_many(most: int) -> Refusal:
    """Returns the refusal of a batch with more rows than `most`."""
    error = LimitError(
        where="request, batch",
        given="a batch of too many rows",
        expected=f"at most {most} rows",
        fix="Send it in parts; rows that were logged before are told apart by id.",
    )
    return Refusal(413, error)


def too_deep() -> Refusal:
    """Returns the refusal of JSON that nests too deeply."""
    error = RequestError(
        where="request, body",
        given="JSON that nests too deeply",
        expected=f"at most {DEPTH} levels",
        fix="Send one flat object, or an array of flat objects.",
    )
    return Refusal(400, error)


def is_json(raw: bytes) -> bool:
    """Whether a body is JSON at all: what is not gets 400, what is but breaks the schema gets 422."""
    try:
        msgspec.json.decode(raw, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


class RateLimit:
    """The generic cell rate algorithm (ITU-T I.371): one number for each caller, no timers.

    Args:
        per_s: sustained requests a second; 0 sets no limit.
        burst: requests that may come at once.
        monotonic: seconds.
    """

    def __init__(self, per_s: float, burst: int, *, monotonic: Callable[[], float]) -> None:
        self._step_s = 1.0 / per_s if per_s else 0.0
        self._slack_s = self._step_s * burst
        self._monotonic = monotonic
        self._due: dict[str, float] = {}

    def wait_s(self, key: str) -> float:
        """Returns 0 and counts the request if the caller may go on, else after how many seconds it may."""
        if not self._step_s:
            return 0.0
        now = self._monotonic()
        due = max(self._due.get(key, now), now) + self._step_s
        if due - now > self._slack_s:
            return due - now - self._slack_s
        if key not in self._due and len(self._due) >= _KEYS:
            self._forget(now)
        self._due[key] = due
        return 0.0

    def _forget(self, now: float) -> None:
        # Callers who are owed nothing are as good as new. If most are owed something, those who came first go: at least
        # half of the room is free afterwards, so that many new callers do not pay for this one each.
        due = [(key, due) for key, due in self._due.items() if due > now]
        self._due = dict(due[-(_KEYS // 2) :])


def caller_of(address: str) -> str:
    """Returns the key under which an address is limited: an IPv6 site as a whole, since it owns 2⁶⁴ addresses.

    >>> caller_of("10.0.0.7"), caller_of("2001:db8::1:2")
    ('10.0.0.7', '2001:db8::')
    """
    if ":" not in address:
        return address
    try:
        network = ipaddress.ip_network(f"{address.partition('%')[0]}/{_IPV6_SITE}", strict=False)
    except ValueError:
        return address
    return str(network.network_address)
