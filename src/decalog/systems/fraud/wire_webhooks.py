"""Signed webhooks: what the log says to the endpoints that an admin registered, at least once, from a log position.

Endpoints are a table of the log, and their secrets follow from the vault's: none is stored. Each endpoint follows the
durable log on its own, beside the reply path; its position is kept in a file, so that a crash sends a few events again
and loses none. An endpoint that is away is waited for; one that refuses an event ten times, or an event of more than
three days, is passed over and counted.
Source: docs.stripe.com/webhooks, "Verify webhook signatures manually".
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
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, lru_cache
from hashlib import sha256
from urllib.parse import urlsplit

import msgspec
from prometheus_client import Counter

from decalog import __version__
from decalog.clock import DAY
from decalog.crypto import digest
from decalog.decisions import decode_decision
from decalog.errors import LimitError, RequestError, UnknownRecordError
from decalog.events import Record
from decalog.host import Host
from decalog.outcomes import decode_outcome
from decalog.systems.fraud import wire_objects as objects
from decalog.systems.fraud.policy import BLOCK, REVIEW, STEP_UP
from decalog.systems.fraud.wire_objects import Json, Payment
from decalog.tables import Tables

TOLERANCE_S = 300
"""A signature older, or newer, than this is refused."""

MOST_ENDPOINTS = 16
_TABLE = "webhook_endpoints"
_LIFE_US = 3 * DAY
_REFUSALS = 10
_LONGEST_WAIT_S = 600.0
_LOOK_S = 0.2
_ANSWER_S = 10.0
_RECORDS_AT_ONCE = 50


class Endpoint(msgspec.Struct, frozen=True):
    """Where events go: the types it wants (`*`: all), and the log position from which on it wants them."""

    id: str
    url: str
    events: tuple[str, ...]
    created: int
    since: int


def described(endpoint: Endpoint) -> Json:
    """Returns an endpoint as Stripe's object, without its secret."""
    return {
        "id": endpoint.id,
        "object": "webhook_endpoint",
        "api_version": objects.API_VERSION,
        "application": None,
        "created": endpoint.created,
        "description": None,
        "enabled_events": endpoint.events,
        "livemode": True,
        "metadata": {},
        "status": "enabled",
        "url": endpoint.url,
    }


class Event(msgspec.Struct, frozen=True):
    """One event as it is sent, and when what it tells was known, µs."""

    type: str
    known_time: int
    body: bytes


def signature(secret: str, body: bytes, *, at_s: int) -> str:
    """Returns the `Stripe-Signature` header of a body: HMAC-SHA256 over `<time>.<body>`."""
    mac = hmac.new(secret.encode(), b"%d.%s" % (at_s, body), sha256).hexdigest()
    return f"t={at_s},v1={mac}"


def check_signature(header: str, body: bytes, *, secrets: Iterable[str], now_s: float) -> None:
    """Returns if a body was signed by one of the secrets within the tolerance.

    Raises:
        RequestError: it was not.
    """
    parts = [part.partition("=")[::2] for part in header.split(",")]
    at = next((value for name, value in parts if name == "t" and value.isdecimal() and len(value) < _DIGITS), "0")
    wanted = [signature(secret, body, at_s=int(at)).partition("v1=")[2] for secret in secrets]
    shown = [value for name, value in parts if name == "v1"]
    is_right = any(hmac.compare_digest(want.encode(), value.encode()) for want in wanted for value in shown)
    if not is_right or abs(now_s - int(at)) > TOLERANCE_S:
        raise RequestError(
            where="event, Stripe-Signature",
            given="a signature that is not of this body" if not is_right else "a signature of another time",
            expected=f"t=<now, within {TOLERANCE_S} s>,v1=<HMAC-SHA256 of time.body by the endpoint's secret>",
            fix="Start the server with STRIPE_WEBHOOK_SECRET=whsec_… of the endpoint, and check both clocks.",
        )


_DIGITS = 12


class Webhooks:
    """The endpoints of a system and the deliveries to them.

    Args:
        host: whose log is followed.
        system: its name.
        private: whether addresses of a private network may be called; those of this machine may always.
        now_s: seconds since the epoch: receivers check by their clocks, whatever the log's runs at.
    """

    def __init__(self, host: Host, system: str, *, private: bool, now_s: Callable[[], float] = time.time) -> None:
        self._host = host
        self._system = system
        self._private = private
        self._now_s = now_s
        self._secret = host.log.vault.secret("wire")
        self._path = host.folder and host.folder / f"{system}-webhooks.json"
        self._positions: dict[str, int] = {}
        # Endpoints that keep up with the log look at the same records.
        self._events = lru_cache(maxsize=8)(self._events_between)
        self._sent = Counter(
            "decalog_webhooks", "Webhooks by what became of them.", ("system", "result"), registry=host.meter.registry
        )

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Returns the registered endpoints, oldest first."""
        stored = Tables(self._host.log).get(self._system, _TABLE)
        return msgspec.convert(stored or [], tuple[Endpoint, ...])

    async def add(self, id_: str, url: str, *, events: tuple[str, ...]) -> tuple[Endpoint, str]:
        """Registers an endpoint; returns it with its secret. The same id again changes nothing.

        Raises:
            RequestError: the address is none that may be called.
            LimitError: there are too many.
        """
        known = self.endpoints()
        made = next((one for one in known if one.id == id_), None)
        if made is None:
            await self._check_url(url)
            if len(known) >= MOST_ENDPOINTS:
                raise LimitError(
                    where="webhook endpoint",
                    given="one more",
                    expected=f"at most {MOST_ENDPOINTS}",
                    fix="Delete one that is not needed.",
                )
            made = Endpoint(id_, url, events, self._host.log.known_time // 1_000_000, self._host.log.position)
            await self._put((*known, made))
        return made, self.secret(id_)

    async def remove(self, id_: str) -> None:
        """Forgets an endpoint; what it was not told yet it is never told."""
        self.find(id_)
        await self._put(tuple(one for one in self.endpoints() if one.id != id_))

    def find(self, id_: str) -> Endpoint:
        """Returns an endpoint.

        Raises:
            UnknownRecordError: there is none.
        """
        for one in self.endpoints():
            if one.id == id_:
                return one
        raise UnknownRecordError(
            where="webhook endpoint", given="an id that none has", expected="a registered one", fix="List them."
        )

    def secret(self, id_: str) -> str:
        """Returns the secret by which an endpoint's events are signed."""
        return "whsec_" + digest(self._secret, b"webhook", id_.encode(), size=32).hex()

    async def run(self) -> None:
        """Delivers until cancelled."""
        self._positions = self._read_positions()
        following: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                wanted = {one.id: one for one in self.endpoints()}
                for id_ in following.keys() - wanted.keys():
                    following.pop(id_).cancel()
                for id_ in wanted.keys() - following.keys():
                    following[id_] = asyncio.create_task(self._follow(wanted[id_]))
                await asyncio.sleep(_LOOK_S)
                for task in following.values():
                    if task.done():
                        task.result()
        finally:
            for task in following.values():
                task.cancel()
            self._write_positions()

    async def _follow(self, endpoint: Endpoint) -> None:
        log = self._host.log
        at = min(self._positions.get(endpoint.id, endpoint.since), log.durable)
        while True:
            stop = min(at + _RECORDS_AT_ONCE, log.durable)
            for event in self._events(at, stop):
                if {"*", event.type} & set(endpoint.events):
                    await self._deliver(endpoint, event)
            # Events of one step may be sent again after a crash; a step whose events were all sent may not.
            is_told, at = bool(self._events(at, stop)), stop
            self._positions[endpoint.id] = at
            if is_told:
                self._write_positions()
            await asyncio.sleep(0 if at < log.durable else _LOOK_S)

    async def _deliver(self, endpoint: Endpoint, event: Event) -> None:
        refusals, wait_s = 0, 1.0
        while refusals < _REFUSALS and event.known_time > self._host.log.known_time - _LIFE_US:
            status = await self._post(endpoint, event.body)
            if status is not None and status // 100 == 2:  # noqa: PLR2004 - HTTP's own
                self._sent.labels(self._system, "delivered").inc()
                return
            self._sent.labels(self._system, "tried").inc()
            refusals += status is not None and status // 100 in (3, 4) and status != _LATER
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
        self._sent.labels(self._system, "dropped").inc()

    async def _post(self, endpoint: Endpoint, body: bytes) -> int | None:
        """Returns the status that an endpoint answered with, or None where nobody answered in time."""
        parts = urlsplit(endpoint.url)
        tls = _tls() if parts.scheme == "https" else None
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        head = (
            f"POST {target} HTTP/1.1",
            f"Host: {parts.netloc}",
            f"User-Agent: decalog/{__version__}",
            "Content-Type: application/json; charset=utf-8",
            f"Content-Length: {len(body)}",
            f"Stripe-Signature: {signature(self.secret(endpoint.id), body, at_s=int(self._now_s()))}",
            "Connection: close",
        )
        with contextlib.suppress(OSError, TimeoutError, ValueError, RequestError):
            async with asyncio.timeout(_ANSWER_S):
                # To the address that was checked: a name may mean another one a moment later.
                address = await self._address(endpoint.url)
                name = parts.hostname if tls else None
                reader, writer = await asyncio.open_connection(*address, ssl=tls, server_hostname=name)
                try:
                    writer.write("\r\n".join((*head, "", "")).encode() + body)
                    answer = re.match(rb"HTTP/1\.[01] (\d{3}) ", await reader.readline())
                finally:
                    writer.close()
                return int(answer[1]) if answer else None
        return None

    async def _check_url(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            is_plain = parts.scheme in ("http", "https") and parts.hostname and not parts.username
            if is_plain and url.isascii() and url.isprintable() and " " not in url:
                await self._address(url)
                return
        except RequestError:
            raise
        except (OSError, ValueError):
            pass
        raise RequestError(
            where="webhook endpoint, url",
            given="an address that cannot be called",
            expected="http:// or https://, a host that is known, and no user name",
            fix="Mend the address.",
        )

    async def _address(self, url: str) -> tuple[str, int]:
        """Returns address and port to call.

        Raises:
            RequestError: the host has an address that may not be called.
        """
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        found = await asyncio.get_running_loop().getaddrinfo(parts.hostname, port, type=_STREAM)
        addresses = [str(one[4][0]) for one in found]
        if not all(is_allowed(address, private=self._private) for address in addresses):
            raise RequestError(
                where="webhook endpoint, url",
                given="a host in a private network",
                expected="a public address, or one of this machine",
                fix="Serve with `--private-webhooks` if your endpoints stand in your own network.",
            )
        return addresses[0], port

    def _events_between(self, start: int, stop: int) -> tuple[Event, ...]:
        return tuple(event for record in self._host.log.read(start, stop) for event in self._events_of(record))

    def _events_of(self, record: Record) -> Iterator[Event]:
        if record.system != self._system or record.reason or record.kind not in ("decision", "outcome"):
            return
        name, told = self._told(record)
        if name and told is not None:
            id_ = "evt_" + digest(self._secret, b"event", str(record.seq).encode(), size=12).hex()
            body = {
                "id": id_,
                "object": "event",
                "api_version": objects.API_VERSION,
                "created": record.known_time // 1_000_000,
                "data": {"object": told},
                "livemode": True,
                "pending_webhooks": 1,
                "request": {"id": None, "idempotency_key": None},
                "type": name,
            }
            yield Event(name, record.known_time, msgspec.json.encode(body))

    def _told(self, record: Record) -> tuple[str, Json | None]:
        """Returns the type and the object of what a record has to tell, or "" where it asks for no reaction."""
        if record.kind == "decision":
            decision = decode_decision(record.body)
            if decision.mode not in ("live", "fallback"):
                return "", None
            decided = Payment(record, decision, ())
            name, told = _TOLD.get(decided.action, ("", objects.payment_intent))
            return name, told(decided)
        outcome = decode_outcome(record.body)
        payment = find_payment(self._host, self._system, outcome.target, before=record.seq + 1)
        if outcome.kind == "fraud_warning":
            return "radar.early_fraud_warning.created", objects.early_fraud_warning(payment, outcome)
        if outcome.kind == "chargeback":
            verb = "closed" if outcome.value == 0 or outcome.id.endswith(objects.CLOSED) else "created"
            return f"charge.dispute.{verb}", objects.dispute(payment, outcome)
        return ("review.closed", objects.review(payment)) if payment and payment.action == REVIEW else ("", None)

    async def _put(self, endpoints: tuple[Endpoint, ...]) -> None:
        await self._host.put_table(self._system, _TABLE, content=endpoints)

    def _read_positions(self) -> dict[str, int]:
        with contextlib.suppress(OSError, msgspec.DecodeError, msgspec.ValidationError):
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, int]) if self._path else {}
        return {}

    def _write_positions(self) -> None:
        # Not synced: an older file, or none, costs events that are sent again.
        if self._path is not None and self._positions:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh = self._path.with_suffix(".new")
            fresh.write_bytes(msgspec.json.encode(self._positions))
            fresh.replace(self._path)


_TOLD: Mapping[str, tuple[str, Callable[[Payment], Json]]] = {
    REVIEW: ("review.opened", objects.review),
    BLOCK: ("payment_intent.payment_failed", objects.payment_intent),
    STEP_UP: ("payment_intent.requires_action", objects.payment_intent),
}
_STREAM = socket.SOCK_STREAM
_LATER = 429


def is_allowed(address: str, *, private: bool) -> bool:
    """Whether events may be sent to an IP address: a public one, one of this machine, or a private one where told so.

    >>> [is_allowed(ip, private=False) for ip in ("127.0.0.1", "1.1.1.1", "10.0.0.1", "::ffff:10.0.0.1")]
    [True, True, False, False]
    >>> [is_allowed(ip, private=True) for ip in ("10.0.0.1", "169.254.169.254")]
    [True, False]
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return (
        ip.is_loopback or (ip.is_global and not ip.is_multicast) or (private and ip.is_private and not ip.is_link_local)
    )


def find_payment(host: Host, system: str, id_: str, *, before: int) -> Payment | None:
    """Returns a decided payment and what was reported of it before a log position, or None where there is none."""
    seqs = host.log.find("request", f"{system}/{id_}")
    record = host.log.get(seqs[0]) if seqs and seqs[0] < before else None
    if record is None or record.kind != "decision":
        return None
    return Payment(record, decode_decision(record.body), [r for r in host.outcomes(system, id_) if r[0].seq < before])


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()
