"""Signed webhooks: what the log says to the endpoints that an admin registered, at least once, from a log position.

Endpoints are a table of the log, and their secrets follow from the vault's: none is stored. Each endpoint follows the
durable log on its own, beside the reply path; its position is kept in a file, so that a crash sends an event again and
loses none: no event lies anywhere but in the log. An endpoint that is away is waited for; an event that it refuses ten
times, that is older than three days, or whose record was erased meanwhile is passed over and counted.
Source: docs.stripe.com/webhooks, "Verify webhook signatures manually", whose scheme others use as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from hashlib import sha256
from urllib.parse import urlsplit

import msgspec
from prometheus_client import Counter

from decalog import __version__
from decalog.clock import DAY
from decalog.crypto import digest
from decalog.errors import LimitError, RequestError, UnknownRecordError
from decalog.events import Record
from decalog.host import Host
from decalog.tables import Tables

TOLERANCE_S = 300
"""A signature older, or newer, than this is refused."""

MOST_ENDPOINTS = 16
ENDPOINTS = "webhook_endpoints"
"""Name of the table of them."""
_LIFE_US = 3 * DAY
_REFUSALS, _ASK_LATER = 10, (408, 429)
_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 600.0
_LOOK_S = 0.2
_ANSWER_S = 10.0
_RECORDS_AT_ONCE = 50
_RECORDS_A_MARK = 10_000
"""After so many a position is written though nothing was said, so that a start does not look at them again."""


class Endpoint(msgspec.Struct, frozen=True):
    """Where events go: the types it wants (`*`: all), and the log position from which on it wants them."""

    id: str
    url: str
    events: tuple[str, ...]
    created: int
    since: int


class Event(msgspec.Struct, frozen=True):
    """What a record says to endpoints: type and body, always the same for the same record."""

    type: str
    body: bytes


Tell = Callable[[Record], Event | None]


class Webhooks:
    """The endpoints of a system and the deliveries to them.

    Args:
        host: whose log is followed.
        system: its name.
        tell: record → what it says, or None.
        header: of the signature.
        private: whether addresses of a private network may be called; those of this machine may always.
        now_s: seconds since the epoch: receivers check by their clocks, whatever the log's runs at.
    """

    def __init__(
        self,
        host: Host,
        system: str,
        *,
        tell: Tell,
        header: str,
        private: bool,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._host = host
        self._system = system
        self._header = header
        self._private = private
        self._now_s = now_s
        self._secret = host.log.vault.secret("webhooks")
        self._path = host.folder and host.folder / f"{system}-webhooks.json"
        self._positions: dict[str, int] = {}
        self._changed = asyncio.Event()

        @lru_cache(maxsize=8)  # endpoints that keep up with the log look at the same records
        def said(start: int, stop: int) -> list[tuple[Record, Event]]:
            records = (record for record in host.log.read(start, stop) if record.system == system)
            return [(record, event) for record in records if (event := tell(record)) is not None]

        self._said = said
        self._sent = Counter(
            "decalog_webhooks", "Webhooks by what became of them.", ("system", "result"), registry=host.meter.registry
        )

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Returns the registered endpoints, oldest first."""
        return msgspec.convert(Tables(self._host.log).get(self._system, ENDPOINTS) or [], tuple[Endpoint, ...])

    def find(self, id_: str) -> Endpoint:
        """Returns an endpoint.

        Raises:
            UnknownRecordError: there is none.
        """
        found = [one for one in self.endpoints() if one.id == id_]
        if found:
            return found[0]
        raise UnknownRecordError(
            where="webhook endpoint", given="an id that none has", expected="a registered one", fix="List them."
        )

    async def add(self, id_: str, url: str, *, events: tuple[str, ...]) -> Endpoint:
        """Registers an endpoint from now on; the same id again changes nothing.

        Raises:
            RequestError: the address is none that may be called.
            LimitError: there are too many.
        """
        known = self.endpoints()
        if not any(one.id == id_ for one in known):
            await self._address(url)
            if len(known) >= MOST_ENDPOINTS:
                raise LimitError(
                    where="webhook endpoint",
                    given="one more",
                    expected=f"at most {MOST_ENDPOINTS}",
                    fix="Delete one that is not needed.",
                )
            log = self._host.log
            made = Endpoint(id_, url, events, log.known_time // 1_000_000, log.position)
            await self._put((*self.endpoints(), made))
        return self.find(id_)

    async def remove(self, id_: str) -> None:
        """Forgets an endpoint; what it was not told yet it is never told."""
        self.find(id_)
        left = tuple(one for one in self.endpoints() if one.id != id_)
        await self._put(left)

    async def _put(self, endpoints: tuple[Endpoint, ...]) -> None:
        try:
            await self._host.operate(self._system, lambda service: service.put_table(ENDPOINTS, endpoints))
        finally:
            self._changed.set()

    def secret(self, id_: str) -> str:
        """Returns the secret by which an endpoint's events are signed."""
        return "whsec_" + digest(self._secret, id_.encode(), size=32).hex()

    async def run(self) -> None:
        """Delivers until cancelled."""
        self._positions = self._read_positions()
        async with asyncio.TaskGroup() as tasks:
            following: dict[str, asyncio.Task[None]] = {}
            while True:
                wanted = {one.id: one for one in self.endpoints()}
                for id_ in following.keys() - wanted.keys():
                    following.pop(id_).cancel()
                for id_ in wanted.keys() - following.keys():
                    following[id_] = tasks.create_task(self._follow(wanted[id_]))
                await self._changed.wait()
                self._changed.clear()

    async def _follow(self, endpoint: Endpoint) -> None:
        log = self._host.log
        # After a restore the log may be shorter than what was sent.
        at = min(self._positions.get(endpoint.id, endpoint.since), log.durable)
        while True:
            stop = min(at + _RECORDS_AT_ONCE, log.durable)
            for record, event in self._said(at, stop):
                if {"*", event.type} & set(endpoint.events):
                    await self._deliver(endpoint, event, record=record)
                    self._write_position(endpoint.id, record.seq + 1)
            if stop // _RECORDS_A_MARK > at // _RECORDS_A_MARK:
                self._write_position(endpoint.id, stop)
            at = stop
            await asyncio.sleep(0 if at < log.durable else _LOOK_S)

    async def _deliver(self, endpoint: Endpoint, event: Event, *, record: Record) -> None:
        refusals, wait_s, standing = 0, _FIRST_WAIT_S, self._host.services[self._system].standing
        while refusals < _REFUSALS and record.known_time > self._host.log.known_time - _LIFE_US:
            if record.root in standing.erased:  # also while it waits to be sent again
                self._sent.labels(self._system, "erased").inc()
                return
            status = await self._post(endpoint, event.body)
            if 200 <= status < 300:  # noqa: PLR2004 - HTTP's own
                self._sent.labels(self._system, "delivered").inc()
                return
            self._sent.labels(self._system, "refused").inc()
            refusals += 300 <= status < 500 and status not in _ASK_LATER  # noqa: PLR2004 - HTTP's own
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
        self._sent.labels(self._system, "dropped").inc()

    async def _post(self, endpoint: Endpoint, body: bytes) -> int:
        """Returns the status that an endpoint answered with, 0 where it did not in time; redirects are not followed."""
        parts = urlsplit(endpoint.url)
        tls = _tls() if parts.scheme == "https" else None
        head = (
            f"POST {parts._replace(scheme='', netloc='', fragment='').geturl() or '/'} HTTP/1.1",
            f"Host: {parts.netloc}",
            f"User-Agent: decalog/{__version__}",
            "Content-Type: application/json; charset=utf-8",
            f"Content-Length: {len(body)}",
            f"{self._header}: {signature(self.secret(endpoint.id), body, at_s=int(self._now_s()))}",
            "Connection: close",
        )
        with contextlib.suppress(OSError, ValueError):
            async with asyncio.timeout(_ANSWER_S):
                # To the address that was checked: a name may mean another one a moment later.
                address = await self._address(endpoint.url)
                name = parts.hostname if tls else None
                reader, writer = await asyncio.open_connection(*address, ssl=tls, server_hostname=name)
                with contextlib.closing(writer):
                    writer.write("\r\n".join((*head, "", "")).encode() + body)
                    answer = re.match(rb"HTTP/1\.[01] (\d{3})", await reader.readline())
                return int(answer[1]) if answer else 0
        return 0

    async def _address(self, url: str) -> tuple[str, int]:
        """Returns the address and port of a URL.

        Raises:
            RequestError: it is no URL, its host is not known, or has an address that may not be called.
        """
        try:
            host, port = _host_of(url)
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, ValueError):
            raise _no_address(
                "an address that cannot be called", "http:// or https://, a known host, no user name", "Mend it."
            ) from None
        if not all(is_allowed(str(one[4][0]), private=self._private) for one in found):
            raise _no_address(
                "a host in a private network",
                "a public address, or one of this machine",
                "Serve with `--private-webhooks` if your endpoints stand in your own network.",
            )
        return str(found[0][4][0]), port

    def _read_positions(self) -> dict[str, int]:
        with contextlib.suppress(OSError, msgspec.DecodeError):
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, int]) if self._path else {}
        return {}

    def _write_position(self, id_: str, position: int) -> None:
        # Not synced: an older file, or none, costs events that are sent again.
        self._positions[id_] = position
        if self._path is not None:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh = self._path.with_suffix(".new")
            fresh.write_bytes(msgspec.json.encode(self._positions))
            fresh.replace(self._path)


def signature(secret: str, body: bytes, *, at_s: int) -> str:
    """Returns the signature of a body: `t=` the time, `v1=` HMAC-SHA256 over `<time>.<body>`.

    >>> signature("whsec_1", b"{}", at_s=7)[:24]
    't=7,v1=dad1a59274d1e0f68'
    """
    mac = hmac.new(secret.encode(), b"%d.%s" % (at_s, body), sha256).hexdigest()
    return f"t={at_s},v1={mac}"


def is_signed(shown: str, body: bytes, *, secrets: Iterable[str], now_s: float) -> bool:
    """Whether a body was signed by one of the secrets within the tolerance."""
    parts = [part.partition("=") for part in shown.split(",")]
    times = [value for name, _, value in parts if name == "t" and re.fullmatch(r"\d{1,11}", value, re.ASCII)]
    if len(times) != 1 or abs(now_s - int(times[0])) > TOLERANCE_S:
        return False
    wanted = [signature(secret, body, at_s=int(times[0])).partition("v1=")[2].encode() for secret in secrets]
    macs = [value.encode() for name, _, value in parts if name == "v1"]
    return any(hmac.compare_digest(want, mac) for want in wanted for mac in macs)


def is_allowed(address: str, *, private: bool) -> bool:
    """Whether events may be sent to an IP address: a public one, one of this machine, or a private one where told so.

    >>> [is_allowed(ip, private=False) for ip in ("127.0.0.1", "1.1.1.1", "10.0.0.1", "::ffff:10.0.0.1")]
    [True, True, False, False]
    >>> [is_allowed(ip, private=True) for ip in ("10.0.0.1", "169.254.169.254")]
    [True, False]
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or ip
    if ip.is_link_local or ip.is_multicast:
        return False
    return ip.is_loopback or ip.is_global or (private and ip.is_private)


def _host_of(url: str) -> tuple[str, int]:
    """Returns host and port of a URL, or raises a ValueError where it has none."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or "@" in parts.netloc or re.search(r"[^\x21-\x7e]", url):
        raise ValueError(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _no_address(given: str, expected: str, fix: str) -> RequestError:
    return RequestError(where="webhook endpoint, url", given=given, expected=expected, fix=fix)


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()
