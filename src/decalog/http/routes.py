"""What each route does once a request is let in: bodies in, answers out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from decalog.access import Scope
from decalog.errors import ConflictError, DecalogError, RequestError
from decalog.host import Host
from decalog.http.limits import Receive, check_rows, is_deep, is_json, read_body, too_deep
from decalog.http.openapi import document
from decalog.http.problems import RETRY, Answer, Headers, Refusal, problem, refusal_of
from decalog.http.settings import HttpSettings
from decalog.ingest import RowResult

if TYPE_CHECKING:
    from decalog.http.wires import Wire

_TOGETHER = 32
"""Decisions of a batch between two looks at the event loop; they share a commit."""

JSON: Headers = ((b"content-type", b"application/json"),)
LINES: Headers = ((b"content-type", b"application/x-ndjson"),)
REPLAYED: Headers = (*JSON, (b"idempotent-replayed", b"true"))

_encode = msgspec.json.Encoder().encode


class Call(NamedTuple):
    """One request after it was let in.

    Args:
        headers: values by lower-case name.
        system, id: out of the path; "" where it has none.
        receive: its body's source.
        caller: who calls, in words; "" where anyone may.
        seq: the record that its query names.
    """

    headers: dict[bytes, bytes]
    system: str
    ids: tuple[str, ...]
    query: bytes
    receive: Receive
    caller: str = ""
    seq: int | None = None

    @property
    def id(self) -> str:
        """The first id or name in the path, or ""."""
        return self.ids[0] if self.ids else ""


class Route(NamedTuple):
    """A route: its name in metrics, method, and the scope it takes (None: anyone).

    `probe`: it works while the server drains. `takes_seq`: its query may name a record of the log. `wire`: the field's
    protocol that it belongs to; None for our own JSON.
    """

    name: str
    method: str
    scope: Scope | None
    answer: Callable[[Call], Awaitable[Answer]]
    probe: bool = False
    takes_seq: bool = False
    wire: Wire | None = None


Paths = dict[tuple[bytes, ...], tuple[Route, ...]]
"""What stands in a path after the system → its routes, one a method."""


class Routes:
    """The routes of one host.

    Args:
        host: decides.
        settings: limits.
        is_draining: whether the server is on its way out.
    """

    def __init__(self, host: Host, settings: HttpSettings, *, is_draining: Callable[[], bool]) -> None:
        self._host = host
        self._settings = settings
        self._is_draining = is_draining
        schemas = [service.system.schema for service in host.services.values()]
        self._openapi = _encode(document(schemas, settings))
        self.by_system: Paths = {
            (b"decide",): (Route("decide", "POST", "decide", self.decide),),
            (b"batch",): (Route("batch", "POST", "decide", self.batch),),
            (b"events",): (Route("events", "POST", "decide", self.events),),
            (b"outcomes",): (Route("outcomes", "POST", "outcomes", self.outcomes),),
        }
        self.by_id: Paths = {
            (b"decisions",): (Route("decision", "GET", "decide", self.decision),),
            (b"decisions", b"explanation"): (Route("explanation", "GET", "admin", self.explanation),),
            (b"decisions", b"replay"): (Route("replay", "POST", "admin", self.replay),),
        }
        self.of_server = {
            b"/healthz": Route("healthz", "GET", None, self.healthz, probe=True),
            b"/readyz": Route("readyz", "GET", None, self.readyz, probe=True),
            b"/metrics": Route("metrics", "GET", "admin", self.metrics, probe=True),
            b"/openapi.json": Route("openapi", "GET", None, self.openapi),
        }

    async def decide(self, call: Call) -> Answer:
        """Decides one request; a retry gets the logged decision and says so."""
        raw = await read_one(call, self._settings.decide_bytes)
        if b"idempotency-key" in call.headers:
            _check_key(call.headers[b"idempotency-key"], raw)
        try:
            reply = await self._host.decide(call.system, raw)
        except RequestError as error:
            raise refused(error, raw) from error
        return Answer(200, _encode(reply.body), REPLAYED if reply.repeated else JSON)

    async def batch(self, call: Call) -> Answer:
        """Decides many requests, one a line; the answers come one a line in the same order, refusals among them."""
        raw = await self._rows(call)
        lines = [line for line in raw.splitlines() if line.strip()]
        answers: list[bytes] = []
        for start in range(0, len(lines), _TOGETHER):
            group = lines[start : start + _TOGETHER]
            answers += await asyncio.gather(*(self._decided(call.system, line) for line in group))
        return Answer(200, b"".join(answer + b"\n" for answer in answers), LINES)

    async def events(self, call: Call) -> Answer:
        """Takes a batch of events."""
        return await self._batch(call, self._host.add_events)

    async def outcomes(self, call: Call) -> Answer:
        """Takes a batch of outcomes."""
        return await self._batch(call, self._host.add_outcomes)

    async def decision(self, call: Call) -> Answer:
        """Returns a logged decision."""
        return Answer(200, _encode(await self._host.decision(call.system, call.ids[0])), JSON)

    async def replay(self, call: Call) -> Answer:
        """Returns what recomputing a logged decision gave."""
        return Answer(200, _encode(await self._host.replay(call.system, call.ids[0])), JSON)

    async def explanation(self, call: Call) -> Answer:
        """Returns why a logged decision came out as it did, and what would have changed it."""
        return Answer(200, _encode(await self._host.replay(call.system, call.ids[0], verb="explain")), JSON)

    async def healthz(self, call: Call) -> Answer:  # noqa: ARG002  # every route takes the call
        """Says that the process answers, and which champion cannot be used; restart it if it does not answer.

        Why, which may name files of this machine, is said on the server's own output only: here nobody shows a token.
        """
        troubled = {name: service.problem for name, service in self._host.services.items() if service.problem}
        problems = {name: why.partition(":")[0] for name, why in troubled.items()}
        return Answer(200, _encode({"status": "alive", "problems": problems}), JSON)

    async def readyz(self, call: Call) -> Answer:  # noqa: ARG002  # every route takes the call
        """Says whether to send requests here, the host's time (a world's runs faster), and how many features are stale.

        Stale features are no reason to send requests elsewhere: the log is the same there.
        """
        state = self._host.state()
        if state.ready and not self._is_draining():
            stale = sum(len(found["stale"].split(", ")) for found in state.systems.values() if found["stale"])
            return Answer(200, b'{"status":"ready","now":"%s","stale":%d}' % (state.now.encode(), stale), JSON)
        given = "a log that failed" if state.failed else "a server on its way out" if state.ready else "no open log"
        raise Refusal(
            503,
            DecalogError(where="readyz", given=given, expected="an open log", fix="Send requests elsewhere meanwhile."),
            RETRY,
        )

    async def metrics(self, call: Call) -> Answer:  # noqa: ARG002  # every route takes the call
        """Returns the process's metrics for Prometheus."""
        body = generate_latest(self._host.meter.registry)
        return Answer(200, body, ((b"content-type", CONTENT_TYPE_LATEST.encode()),))

    async def openapi(self, call: Call) -> Answer:  # noqa: ARG002  # every route takes the call
        """Returns the OpenAPI document of the systems served here."""
        return Answer(200, self._openapi, JSON)

    async def _decided(self, system: str, line: bytes) -> bytes:
        try:
            reply = await self._host.decide(system, line)
        except RequestError as error:
            refusal = refusal_of(refused(error, line))
            return problem(refusal.status, refusal.error).body
        return _encode(reply.body)

    async def _rows(self, call: Call) -> bytes:
        _check_type(call.headers, lines=True)
        raw = await read_body(
            call.receive, declared=call.headers.get(b"content-length"), limit=self._settings.batch_bytes
        )
        check_rows(raw, self._settings.batch_rows)
        return raw

    async def _batch(self, call: Call, add: Callable[[str, bytes], Awaitable[list[RowResult]]]) -> Answer:
        raw = await self._rows(call)
        try:
            rows = await add(call.system, raw)
        except RequestError as error:
            raise refused(error, raw) from error
        return _batch_answer(call.system, rows)


def _batch_answer(system: str, rows: list[RowResult]) -> Answer:
    counts = {status: sum(row.status == status for row in rows) for status in ("accepted", "duplicate", "rejected")}
    if rows and counts["rejected"] == len(rows):
        return _all_rejected(system, rows)
    return Answer(200, _encode({**counts, "results": rows}), JSON)


def _all_rejected(system: str, rows: list[RowResult]) -> Answer:
    # A caller who looks at the status alone must not take this for success.
    error = DecalogError(
        where=f"{system} batch",
        given="no row that could be taken" if len(rows) > 1 else rows[0].message,
        expected="rows that fit the schema",
        fix="`results` says what is wrong with each; they are in quarantine, so send them mended.",
    )
    return problem(422, error, results=rows)


async def read_one(call: Call, limit: int) -> bytes:
    """Returns a body of one JSON object."""
    _check_type(call.headers, lines=False)
    raw = await read_body(call.receive, declared=call.headers.get(b"content-length"), limit=limit)
    if is_deep(raw):
        raise too_deep()
    return raw


_TYPES = {b"application/json"}
_LINE_TYPES = _TYPES | {b"application/x-ndjson", b"application/jsonl"}


def _check_type(headers: dict[bytes, bytes], *, lines: bool) -> None:
    sent = headers.get(b"content-type", b"")
    allowed = _LINE_TYPES if lines else _TYPES
    if sent not in allowed:
        kind, _, charset = sent.lower().replace(b" ", b"").replace(b'"', b"").partition(b";")
        if kind not in allowed or charset not in {b"", b"charset=utf-8", b"charset=utf8"}:
            raise _unsupported("request, Content-Type", "another media type, or none", b", ".join(sorted(allowed)))
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        # Bounds on what a few compressed bytes may grow to are not worth it for bodies this small.
        raise _unsupported("request, Content-Encoding", "a compressed body", b"a body as it is")


def _unsupported(where: str, given: str, expected: bytes) -> Refusal:
    error = RequestError(
        where=where,
        given=given,
        expected=expected.decode(),
        fix="Send UTF-8 JSON with `Content-Type: application/json`.",
    )
    return Refusal(415, error, ((b"accept-encoding", b"identity"),))


class _Named(msgspec.Struct):
    id: str = ""


def _check_key(key: bytes, raw: bytes) -> None:
    """Returns if an Idempotency-Key names the request's own id, which is the key; quoted or not."""
    try:
        named = msgspec.json.decode(raw, type=_Named).id
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    if named and key.strip().strip(b'"') != named.encode():
        raise ConflictError(
            where="request, Idempotency-Key",
            given="a key that differs from the body's id",
            expected="the body's id, which is the key",
            fix="Leave the header out, or send the id in both.",
        )


def refused(error: RequestError, raw: bytes) -> RequestError | Refusal:
    """Returns a RequestError as it is, or as a 400 where the body is not even JSON."""
    return error if type(error) is not RequestError or is_json(raw) else Refusal(400, error)
