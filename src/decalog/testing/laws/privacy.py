"""Law 7: no personal or sensitive value leaves through logs, metrics, explanations, errors or the Parquet copy.

Every such field gets a value that stands nowhere else; then everything that the system gave away or wrote is searched.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import struct
from collections.abc import Iterator, Mapping, MutableMapping
from functools import partial
from typing import Any

import msgspec

from decalog.decisions import decode_decision
from decalog.events import Record, encode
from decalog.explaining import Explainer
from decalog.features.definition import lookups
from decalog.home import Home
from decalog.host import Host
from decalog.http import App, HttpSettings
from decalog.ingest import request_of
from decalog.meter import Meter
from decalog.replay import trace_text
from decalog.retrieval import Retrieved
from decalog.schema import Entity, EventKind, Field
from decalog.sealing import seal
from decalog.system import System
from decalog.testing import traffic
from decalog.testing.laws.fallbacks import Retrieving
from decalog.testing.laws.law import Verdict, proven
from decalog.testing.stage import Stage, Trial

_REQUESTS = 24
_SHORTEST = 8
"""Characters that a planted text needs to stand nowhere else by chance."""
_NUMBER = 7_316_104_250_000_000

Canaries = Mapping[str, Any]


def check(trial: Trial) -> Verdict:
    """Returns whether planted personal values stay inside, and whether each would be found where it is made public."""
    small = msgspec.structs.replace(trial, requests=min(trial.requests, _REQUESTS))
    planted = canaries(trial.system)
    given = asyncio.run(_Leaks(small, "privacy", trial.system, planted).collected())
    breaches = [f"{name} stands in {place}" for place, name in found_in(given, planted)]
    breaches += _in_the_clear(small, "privacy")
    public = _all_public(trial.system)
    told = asyncio.run(_Leaks(small, "privacy of none", public, planted).collected())
    noticed = {name for _, name in found_in(told, planted)}
    sabotages = {f"{name} made public": [name] * (name in noticed) for name in planted}
    if trial.system.schema.slate_of:
        careless = _Leaks(small, "privacy of candidates", trial.system, planted, tells=planted)
        noticed = {name for _, name in found_in(asyncio.run(careless.collected()), planted)}
        sabotages |= {f"{name} told by candidates": [name] * (name in noticed) for name in planted}
        sabotages["facts of candidates that no schema declares"] = _in_the_clear(small, "privacy of candidates")
    return proven(len(given), breaches, sabotages=sabotages or {"no personal field at all": ["nothing to plant"]})


def canaries(system: System) -> Canaries:
    """Returns a value for each personal field and entity: name → value; those too short or too narrow are left out."""
    planted: dict[str, Any] = {}
    for kind in (system.schema.request, *system.schema.events):
        for part in parts_of(kind):
            if part.privacy != "public" and part.name not in planted:
                value = _canary(part, len(planted))
                planted |= {} if value is None else {part.name: value}
    return planted


def _canary(part: Field | Entity, number: int) -> Any:
    if isinstance(part, Entity) or part.kind == "text":
        has_room = part.max_length >= _SHORTEST and not getattr(part, "choices", ())
        return f"Zq{number:02d}{part.name}é"[: part.max_length] if has_room else None
    if part.kind not in ("int", "float"):
        return None
    value = _NUMBER + number if part.kind == "int" else _NUMBER + number + 0.5
    least = value if part.least is None else part.least
    most = value if part.most is None else part.most
    return value if least <= value <= most else None


def found_in(given: Mapping[str, bytes], planted: Canaries) -> list[tuple[str, str]]:
    """Returns (place, name) of every planted value that stands in what was given away, in any of its forms."""
    return [
        (place, name)
        for place, text in given.items()
        for name, value in planted.items()
        if any(form in text for form in _forms(value))
    ]


def _forms(value: Any) -> Iterator[bytes]:
    if isinstance(value, str):
        yield value.encode()
        yield msgspec.json.encode(value)[1:-1]
        yield value.encode("unicode_escape")
        yield value.encode("utf-16-le")
        return
    yield repr(value).encode()
    kind = "q" if isinstance(value, int) else "d"
    yield from (struct.pack(f"{order}{kind}", value) for order in "<>")


class _Leaks:
    """Plays personal values through every door of a system and collects all that comes out.

    Args:
        trial: of the system.
        name: of the home.
        system: that runs.
        planted: values to plant.
        tells: facts that every candidate is described by, as a careless retrieval would.
    """

    def __init__(
        self, trial: Trial, name: str, system: System, planted: Canaries, *, tells: Canaries | None = None
    ) -> None:
        self._stage = Stage(trial, name, system=system)
        service = self._stage.service
        if tells and service.retrieval is not None:
            service.retrieval = Retrieving(service.retrieval, partial(_telling, tells))
        self._planted = planted
        self._given: dict[str, bytes] = {}
        self._trial = trial
        meter = Meter()
        host = Host(self._stage.log, {system.name: self._stage.service}, replay=self._replayed, meter=meter)
        self._host = host
        self._app = App(host, HttpSettings(tokens=False), access=None)

    async def collected(self) -> dict[str, bytes]:
        """Returns all that was given away: place → bytes."""
        stream, handler = io.StringIO(), logging.StreamHandler(io.StringIO())
        logging.getLogger().addHandler(handler)
        try:
            with contextlib.redirect_stderr(stream), contextlib.redirect_stdout(stream):
                await self._host.start()
                try:
                    await self._play()
                finally:
                    await self._host.stop()
                self._given |= dict(_written(self._stage))
        finally:
            logging.getLogger().removeHandler(handler)
            self._stage.close()
        self._given["standard output and error"] = stream.getvalue().encode()
        self._given["the program's log"] = handler.stream.getvalue().encode()
        return self._given

    async def _play(self) -> None:
        system = self._stage.system
        for number, step in enumerate((*traffic.history(self._trial), *traffic.live(self._trial))):
            self._stage.clock.set(step.at_us)
            body = self._with_canaries(step.body) if "deletes" not in step.body else dict(step.body)
            path = f"/v1/{system.name}/{ {'decide': 'decide', 'event': 'events', 'outcome': 'outcomes'}[step.door] }"
            told = await self._call("POST", path, msgspec.json.encode(body), f"{number} answer of {step.door}")
            if step.door == "decide" and number % 5 == 0:
                await self._read_back(msgspec.json.decode(told).get("decision_id", ""), number)
        for number, (door, raw) in enumerate(_wrong(system, self._with_canaries(self._a_request()))):
            await self._call("POST", f"/v1/{system.name}/{door}", raw, f"refusal {number} of {door}")
        await self._put_tables()
        for path in ("/metrics", "/openapi.json", "/readyz", "/healthz"):
            await self._call("GET", path, b"", path)

    async def _put_tables(self) -> None:
        """Puts values of entities into the tables that are read at them, rightly and wrongly, and reads all back."""
        base = f"/v1/{self._stage.system.name}"
        for lookup in lookups(self._stage.system.features):
            key, path = str(self._planted.get(lookup.key, "")), f"{base}/tables/{lookup.table}"
            for number in (1, "much"):
                await self._call(
                    "PUT", path, msgspec.json.encode({key: number}), f"answer to {number} in {lookup.table}"
                )
            await self._call("GET", path, b"", f"table {lookup.table}")
        for what in ("tables", "changes", "policy"):
            await self._call("GET", f"{base}/{what}", b"", what)

    async def _read_back(self, id_: str, number: int) -> None:
        name = self._stage.system.name
        await self._call("GET", f"/v1/{name}/decisions/{id_}", b"", f"{number} decision")
        await self._call("POST", f"/v1/{name}/decisions/{id_}/replay", b"", f"{number} replay")
        await self._call("GET", f"/v1/{name}/decisions/{id_}/explanation", b"", f"{number} explanation")

    async def _replayed(self, system: str, decision_id: str, verb: str) -> dict[str, Any]:
        if verb == "explain":
            explained = Explainer(self._stage.deployment).explain(decision_id)
            return {**msgspec.to_builtins(explained), "text": explained.text()}
        trace = self._stage.deployment.replayer().one(decision_id)
        told: dict[str, Any] = {"system": system, **msgspec.to_builtins(trace), "text": trace_text(trace)}
        return told

    async def _call(self, method: str, path: str, raw: bytes, place: str) -> bytes:
        answer = await _ask(self._app, method, path, raw)
        self._given[f"the {place}"] = answer
        return answer

    def _a_request(self) -> Mapping[str, Any]:
        return next(step.body for step in traffic.live(self._trial) if step.door == "decide")

    def _with_canaries(self, body: Mapping[str, Any]) -> dict[str, Any]:
        schema = self._stage.system.schema
        kind = schema.kind(str(body.get("kind", schema.request.name))) if schema.noun not in body else None
        mine = (
            {} if kind is None else {p.name: self._planted[p.name] for p in parts_of(kind) if p.name in self._planted}
        )
        return {**body, **mine}


async def _ask(app: App, method: str, path: str, raw: bytes) -> bytes:
    """Returns status, headers and body of an application's answer to one request from this machine, as one text."""
    scope: MutableMapping[str, Any] = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
    }
    parts: list[bytes] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": raw, "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            parts.extend(name + b": " + value + b"\n" for name, value in message["headers"])
        else:
            parts.append(b"\n" + message["body"])

    await app(scope, receive, send)
    return b"".join(parts).partition(b"\n\n")[2] if method == "POST" else b"".join(parts)


def _wrong(system: System, body: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Yields refused requests that hold personal values in every place where an error might repeat them."""
    for name, value in body.items():
        spoilt = {**body, "id": f"wrong-{name}"}
        yield "decide", msgspec.json.encode({**spoilt, name: [value]})
        yield "decide", msgspec.json.encode({**spoilt, f"{value}": value})
        yield "events", msgspec.json.encode([{**spoilt, name: {"was": value}}])
        if isinstance(value, str):
            yield "events", msgspec.json.encode([{**spoilt, name: value * 300}])
            yield "decide", msgspec.json.encode({**spoilt, name: value + "\x00"})
            yield "events", msgspec.json.encode([{**spoilt, "taken": value, "slots": [value, value]}])
            report = {"id": f"report-{name}", system.schema.noun: "conflict", "kind": system.schema.outcomes[0].name}
            yield "outcomes", msgspec.json.encode([{**report, "ref": value * 300}])
    text = msgspec.json.encode(body)
    yield "decide", text[:-1]
    yield "events", text[:-1]
    yield "outcomes", msgspec.json.encode([{**body, "kind": value} for value in body.values()])
    yield "decide", msgspec.json.encode({**body, "id": "conflict"})
    yield "decide", msgspec.json.encode({**body, "id": "conflict", "event_time": "yesterday"})
    yield "outcomes", msgspec.json.encode([{"id": "o", system.schema.noun: "conflict", **_personal(system, body)}])


def _personal(system: System, body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: body[name] for name in canaries(system) if name in body}


def _written(stage: Stage) -> Iterator[tuple[str, bytes]]:
    """Yields what lies on disk: every file as it is, and the compressed copy by its rows."""
    home = stage.home
    stage.log.commit()
    seal(stage.log.store, home.root / "parquet", upto=stage.log.position)
    for path in sorted(home.root.rglob("*")):
        if path.is_file():
            yield f"the file {path.relative_to(home.root).as_posix()}", path.read_bytes()
    yield "the log's records", b"\n".join(encode(record) for record in stage.log.read())
    yield from _parquet_rows(home)


def _parquet_rows(home: Home) -> Iterator[tuple[str, bytes]]:
    import duckdb

    with duckdb.connect(config={"threads": 1}) as connection:
        for path in sorted((home.root / "parquet").rglob("*.parquet")):
            rows = connection.execute("SELECT * FROM read_parquet(?)", [str(path)]).fetchall()
            yield f"the rows of {'/'.join(path.parts[-3:])}", repr(rows).encode()


def _in_the_clear(trial: Trial, name: str) -> list[str]:
    """Returns personal fields that stand among a record's public ones, whatever their value: flags too."""
    log = Home(trial.folder / name).reader()
    try:
        schema = trial.system.schema
        records = [r for r in log.read() if r.kind in ("event", "decision")]
        events = [request_of(record) for record in records]
        found = {
            f"{field} of {event.kind} stands in the clear in the log"
            for event in events
            for field in _private(schema.kind(event.kind)) & {*event.attributes, *event.lists}
        }
        allowed = {field.name for field in schema.candidate} | schema.request.attributes
        found |= {
            f"{name} stands among the facts of candidates, which the schema does not declare"
            for record in records
            for name in _facts(record) - allowed
        }
        return sorted(found)
    finally:
        log.close()


def _facts(record: Record) -> set[str]:
    """Returns the names of all facts of a decision's candidates."""
    candidates = decode_decision(record.body).candidates if record.kind == "decision" else ()
    return {name for candidate in candidates for name in candidate.attributes}


def _telling(facts: Canaries, found: Retrieved) -> Retrieved:
    told = [msgspec.structs.replace(one, attributes={**one.attributes, **facts}) for one in found.candidates]
    return msgspec.structs.replace(found, candidates=tuple(told))


def _private(kind: EventKind) -> set[str]:
    return {part.name for part in parts_of(kind) if part.privacy != "public"}


def parts_of(kind: EventKind) -> tuple[Field | Entity, ...]:
    """Returns the fields and entities of a kind of event."""
    return (*kind.fields, *kind.entities)


def _all_public(system: System) -> System:
    schema = system.schema
    open_ = msgspec.structs.replace(
        schema, request=_opened(schema.request), events=tuple(_opened(kind) for kind in schema.events)
    )
    return msgspec.structs.replace(system, schema=open_)


def _opened(kind: EventKind) -> EventKind:
    return msgspec.structs.replace(
        kind,
        fields=tuple(msgspec.structs.replace(field, privacy="public") for field in kind.fields),
        entities=tuple(msgspec.structs.replace(entity, privacy="public") for entity in kind.entities),
    )
