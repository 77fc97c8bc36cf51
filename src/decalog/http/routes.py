"""What each route does once a request is let in: bodies in, answers out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from decalog.access import Scope
from decalog.errors import ConflictError, DecalogError, RequestError
from decalog.host import Host
from decalog.http.limits import Receive, check_rows, is_deep, is_json, read_body, too_deep
from decalog.http.openapi import document
from decalog.http.problems import RETRY, Answer, Headers, Refusal, problem
from decalog.http.settings import HttpSettings
from decalog.ingest import RowResult

JSON: Headers = ((b"content-type", b"application/json"),)
REPLAYED: Headers = (*JSON, (b"idempotent-replayed", b"true"))

_encode = msgspec.json.Encoder().encode


class Call(NamedTuple):
    """One request after it was let in: header values by lower-case name, ids out of the path, and its body's source."""

    headers: dict[bytes, bytes]
    system: str
    id: str
    receive: Receive


class Route(NamedTuple):
    """A route: its name in metrics, method, the scope it takes (None: anyone), whether it works while draining."""

    name: str
    method: str
    scope: Scope | None
    answer: Callable[[Call], Awaitable[Answer]]
    probe: bool = False


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
        self.by_system = {
            b"decide": Route("decide", "POST", "decide", self.decide),
            b"events": Route("events", "POST", "decide", self.events),
            b"outcomes": Route("outcomes", "POST", "outcomes", self.outcomes),
        }
        self.decision_route = Route("decision", "GET", "decide", self.decision)
        self.replay_route = Route("replay", "POST", "admin", self.replay)
        self.of_server = {
            b"/healthz": Route("healthz", "GET", None, self.healthz, probe=True),
            b"/readyz": Route("readyz", "GET", None, self.readyz, probe=True),
            b"/metrics": Route("metrics", "GET", "admin", self.metrics, probe=True),
            b"/openapi.json": Route("openapi", "GET", None, self.openapi),
        }

    async def decide(self, call: Call) -> Answer:
        """Decides one request; a retry gets the logged decision and says so."""
        _check_type(call.headers, lines=False)
        raw = await read_body(
            call.receive, declared=call.headers.get(b"content-length"), limit=self._settings.decide_bytes
        )
        if is_deep(raw):
            raise too_deep()
        if b"idempotency-key" in call.headers:
            _check_key(call.headers[b"idempotency-key"], raw)
        try:
            reply = await self._host.decide(call.system, raw)
        except RequestError as error:
            raise _refused(error, raw) from error
        return Answer(200, _encode(reply.body), REPLAYED if reply.repeated else JSON)

    async def events(self, call: Call) -> Answer:
        """Takes a batch of events."""
        return await self._batch(call, self._host.add_events)

    async def outcomes(self, call: Call) -> Answer:
        """Takes a batch of outcomes."""
        return await self._batch(call, self._host.add_outcomes)

    async def decision(self, call: Call) -> Answer:
        """Returns a logged decision."""
        return Answer(200, _encode(await self._host.decision(call.system, call.id)), JSON)

    async def replay(self, call: Call) -> Answer:
        """Returns what recomputing a logged decision gave."""
        return Answer(200, _encode(await self._host.replay(call.system, call.id)), JSON)

    async def healthz(self, call: Call) -> Answer:  # noqa: ARG002  # every route takes the call
        """Says that the process answers, and why a champion cannot be used; restart it if it does not answer."""
        problems = {name: service.problem for name, service in self._host.services.items() if service.problem}
        return Answer(200, _encode({"status": "alive", "problems": problems}), JSON)

    async def readyz(self, call: Call) -> Answer:  # noqa: ARG002  # every route takes the call
        """Says whether to send requests here, and the time on the host's clock: a world's runs faster than ours."""
        state = self._host.state()
        if state.ready and not self._is_draining():
            return Answer(200, b'{"status":"ready","now":"%s"}' % state.now.encode(), JSON)
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

    async def _batch(self, call: Call, add: Callable[[str, bytes], Awaitable[list[RowResult]]]) -> Answer:
        _check_type(call.headers, lines=True)
        raw = await read_body(
            call.receive, declared=call.headers.get(b"content-length"), limit=self._settings.batch_bytes
        )
        check_rows(raw, self._settings.batch_rows)
        try:
            rows = await add(call.system, raw)
        except RequestError as error:
            raise _refused(error, raw) from error
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


def _refused(error: RequestError, raw: bytes) -> Exception:
    """Returns a RequestError as it is, or as a 400 where the body is not even JSON."""
    return error if type(error) is not RequestError or is_json(raw) else Refusal(400, error)
