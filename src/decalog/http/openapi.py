"""OpenAPI 3.1 out of the systems' schemas: what the parser checks and what the document says come from one place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from decalog import __version__
from decalog.http.openapi_levers import PARTS, lever_paths
from decalog.http.openapi_parts import (
    Json,
    body_of,
    id_of,
    object_of,
    ok,
    operation_of,
    parameter,
    ref,
    refusals,
    responses,
    text_of,
    title_of,
)
from decalog.http.openapi_privacy import privacy_paths
from decalog.http.settings import HttpSettings
from decalog.money import EXPONENTS, MAX_MINOR
from decalog.schema import ID_LENGTH, MAX_PER, Entity, EventKind, Field, Schema

_INT64 = 2**63 - 1
_TYPES = {
    "int": "integer",
    "float": "number",
    "text": "string",
    "flag": "boolean",
    "amount_minor": "integer",
    "currency": "string",
}
_EXAMPLES: Mapping[str, Any] = {"int": 1, "float": 0.5, "flag": True, "amount_minor": 1234, "currency": "EUR"}


def document(schemas: Iterable[Schema], settings: HttpSettings) -> Json:
    """Returns the OpenAPI document of a server.

    Args:
        schemas: of the systems it serves.
        settings: whose limits and need of tokens it states.
    """
    schemas = list(schemas)
    parts = _SHARED | PARTS
    paths: Json = {}
    for schema in schemas:
        parts |= _system_parts(schema)
        paths |= _system_paths(schema, settings) | lever_paths(schema.system, settings)
        paths |= privacy_paths(schema.system, settings)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "decalog",
            "version": __version__,
            "description": f"Decisions of: {', '.join(schema.system for schema in schemas)}. Each is logged, durable, "
            "before it is answered; a retry with the same id gets the decision that was logged.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "paths": paths | _server_paths(settings),
        "components": {
            "schemas": parts,
            "responses": responses(),
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "dlg_<id>_<secret>",
                    "description": "A token of `decalog tokens create`; scopes: decide, outcomes, admin.",
                }
            },
        },
    }


def _system_parts(schema: Schema) -> Json:
    name = title_of(schema.system)
    kinds = (schema.request, *schema.events)
    events = {f"{name}Event{title_of(kind.name)}": _event(kind, schema) for kind in kinds}
    return {
        f"{name}Request": _request(schema),
        **events,
        f"{name}Outcome": _outcome(schema),
        f"{name}Decision": _decision(schema, told=False),
        f"{name}LoggedDecision": _decision(schema, told=True),
    }


def _system_paths(schema: Schema, settings: HttpSettings) -> Json:
    name, system, noun = title_of(schema.system), schema.system, schema.noun
    events = [f"{name}Event{title_of(kind.name)}" for kind in (schema.request, *schema.events)]
    id_ = parameter("id", "path", meaning=f"The decision's id, or the {noun}'s.")
    key = parameter("Idempotency-Key", "header", meaning="Optional; if sent, the same as the body's id.")
    decide = {
        "summary": f"Decide one {noun}.",
        "parameters": [key],
        "requestBody": body_of(ref(f"{name}Request"), _example(schema)),
        "responses": {
            "200": ok("The decision, logged.", ref(f"{name}Decision"), headers=_REPLAYED_HEADER),
            **refusals(400, 409, 413, 415, 422, 503),
        },
    }
    replay = {
        "summary": "Recompute one decision from the log alone.",
        "parameters": [id_],
        "responses": {"200": ok("What came out, and every difference.", {"type": "object"}), **refusals(404, 409)},
    }
    logged = {
        "summary": "Read one decision back.",
        "parameters": [id_],
        "responses": {"200": ok("The decision as logged.", ref(f"{name}LoggedDecision")), **refusals(404)},
    }
    why = {
        "summary": "Explain one decision: what moved the prediction, what would have changed the action.",
        "parameters": [id_],
        "responses": {"200": ok("Why, by the versions that decided.", {"type": "object"}), **refusals(404, 409)},
    }
    calls = {
        "decide": ("post", "decide", decide),
        "events": ("post", "decide", _batch_call("Add events.", [ref(event) for event in events], _example(schema))),
        "outcomes": (
            "post",
            "outcomes",
            _batch_call("Add outcomes.", [ref(f"{name}Outcome")], _outcome_example(schema)),
        ),
        "decisions/{id}": ("get", "decide", logged),
        "decisions/{id}/replay": ("post", "admin", replay),
        "decisions/{id}/explanation": ("get", "admin", why),
        "batch": ("post", "decide", _lines_call(noun, body_of(ref(f"{name}Request"), _example(schema)))),
    }
    return {
        f"/v1/{system}/{path}": {method: operation_of(f"{system}_{_verb(path)}", call, scope=scope, settings=settings)}
        for path, (method, scope, call) in calls.items()
    }


def _server_paths(settings: HttpSettings) -> Json:
    alive = {"summary": "Whether the process answers.", "responses": {"200": ok("It does.", _STATUS)}}
    ready = {
        "summary": "Whether to send requests here.",
        "responses": {"200": ok("Yes.", _READY), **refusals(503)},
    }
    metrics = {
        "summary": "Metrics for Prometheus.",
        "responses": {"200": {"description": "Text.", "content": {"text/plain": {"schema": {"type": "string"}}}}},
    }
    openapi = {"summary": "This document.", "responses": {"200": ok("OpenAPI 3.1.", {"type": "object"})}}
    return {
        "/healthz": {"get": operation_of("healthz", alive, scope="", settings=settings)},
        "/readyz": {"get": operation_of("readyz", ready, scope="", settings=settings)},
        "/metrics": {"get": operation_of("metrics", metrics, scope="admin", settings=settings)},
        "/openapi.json": {"get": operation_of("openapi", openapi, scope="", settings=settings)},
    }


def _batch_call(summary: str, rows: list[Json], example: Json) -> Json:
    row = rows[0] if len(rows) == 1 else {"anyOf": rows}
    one_or_more = {"anyOf": [row, {"type": "array", "items": row}]}
    body = body_of(one_or_more, example)
    # A schema cannot say what stands on each line.
    body["content"]["application/x-ndjson"] = {"schema": {"type": "string"}}
    return {
        "summary": summary,
        "description": "One object, an array, or one object a line. Bad rows go to quarantine; their neighbours stay.",
        "requestBody": body,
        "responses": {
            "200": ok("What became of each row.", ref("Batch")),
            **refusals(400, 413, 415, 422, 503),
        },
    }


def _lines_call(noun: str, body: Json) -> Json:
    lines: Json = {"application/x-ndjson": {"schema": {"type": "string"}}}
    body["content"] |= lines
    return {
        "summary": f"Decide many {noun}s.",
        "description": "One request a line. The answers come one a line in the same order, a refusal as a problem.",
        "requestBody": body,
        "responses": {
            "200": {"description": "A decision or a problem a line.", "content": lines},
            **refusals(400, 413, 415, 503),
        },
    }


def _request(schema: Schema) -> Json:
    kind = schema.request
    taken = {"type": ["string", "null"], "enum": [*schema.actions, None]}
    taken["description"] = "The action that your own system took, where ours runs in its shadow."
    return object_of(
        {"id": id_of(f"Your key of the {schema.noun}; a retry repeats it."), "event_time": _TIME, "taken": taken}
        | _values(kind),
        ["id", *_required(kind)],
        meaning=kind.meaning,
    )


def _event(kind: EventKind, schema: Schema) -> Json:
    corrects = text_of(ID_LENGTH, "Id of the event that this one replaces, whole.")
    kind_name: Json = {"const": kind.name, "description": f"Default: {schema.request.name}."}
    body = object_of(
        {"id": id_of("Your key of the event."), "event_time": _TIME, "kind": kind_name, "corrects": corrects}
        | {"taken": {"type": ["string", "null"], "enum": [*schema.actions, None]}}
        | _values(kind),
        ["id", *_required(kind), *([] if kind is schema.request else ["kind"])],
        meaning=kind.meaning,
    )
    return {"anyOf": [body, ref("Deletion")]}


def _outcome(schema: Schema) -> Json:
    shared = {
        "id": id_of("The reporter's key."),
        schema.noun: id_of(f"Id of the {schema.noun} it is about; it may arrive before the {schema.noun} does."),
        "event_time": _TIME,
        "ref": text_of(ID_LENGTH, "Which slot or candidate it is about."),
        "corrects": text_of(ID_LENGTH, "Id of the outcome that this one replaces."),
    }
    money = {"amount_minor": _amount("Money it concerns, in minor units."), "currency": _currency(), "per": _PER}
    kinds = [
        object_of(
            shared
            | {
                "kind": {"const": kind.name, "description": kind.meaning},
                "source": {"enum": list(kind.sources)},
                "value": {"type": "number", "description": _label_words(kind.labels)},
            }
            | money
            | {field.name: _field(field) for field in kind.fields},
            ["id", schema.noun, "kind", "source", "value", *(field.name for field in kind.fields if field.required)],
            meaning=kind.meaning,
        )
        | {"dependentRequired": {"amount_minor": ["currency"]}}
        for kind in schema.outcomes
    ]
    return {"anyOf": [*kinds, ref("Deletion")]}


def _decision(schema: Schema, *, told: bool) -> Json:
    """Returns the schema of a decision as `host.reply` tells of it; `told`: with what only reading it back adds."""
    text, number = {"type": "string"}, {"type": "number"}
    properties: Json = {
        "decision_id": {"type": "string", "format": "uuid"},
        schema.noun: text,
        "action": {"enum": list(schema.actions)},
        "predictions": {"type": "object", "additionalProperties": number},
        "reasons": {"type": "array", "items": text},
        "expected_minor": {"type": "integer"},
        "currency": text,
        "mode": {"enum": ["live", "shadow", "fallback", "imported"]},
        "fallback": text,
        "guardrails": {"type": "array", "items": {"type": "object", "additionalProperties": text}},
        "versions": {"type": "object", "additionalProperties": {"type": ["string", "integer"]}},
        "seq": {"type": "integer", "minimum": 0},
        "known_time": {"type": "string", "format": "date-time"},
        "notice": {"type": "string", "description": "Id of the notice that was in force, where there was one."},
    }
    if told:
        properties |= {
            "features": {"type": "object", "additionalProperties": number},
            "attributes": {"type": "object"},
            "event_time": {"type": "string", "format": "date-time"},
            "state_seq": {"type": "integer", "minimum": 0},
            "taken": text,
            "arm": text | {"description": "Of a rollout that was under way."},
        }
    return {"type": "object", "properties": properties, "required": sorted(properties.keys() - {"notice"})}


def _values(kind: EventKind) -> Json:
    return {f.name: _field(f) for f in kind.fields} | {e.name: _entity(e) for e in kind.entities}


def _required(kind: EventKind) -> list[str]:
    required = [f.name for f in kind.fields if f.required]
    amounts = any(f.kind == "amount_minor" and f.required for f in kind.fields)
    # An amount without a currency means nothing, whatever the declaration says.
    return required + [f.name for f in kind.fields if amounts and f.kind == "currency" and not f.required]


def _field(field: Field) -> Json:
    if field.kind == "amount_minor":
        found = _amount(field.meaning)
    elif field.kind == "currency":
        found = _currency()
    elif field.choices:
        found = {"type": "string", "enum": list(field.choices)}
    elif field.kind == "text":
        found = text_of(field.max_length, field.meaning)
    else:
        found = {"type": _TYPES[field.kind]}
        found |= {"minimum": -_INT64, "maximum": _INT64} if field.kind == "int" else {}
    bounds = {"minimum": field.least, "maximum": field.most}
    found |= {name: bound for name, bound in bounds.items() if bound is not None}
    found["description"] = f"{field.meaning} ({field.privacy})"
    return found if field.required else _nullable(found)


def _entity(entity: Entity) -> Json:
    return _nullable(text_of(entity.max_length, f"{entity.meaning} ({entity.privacy})") | {"minLength": 1})


def _nullable(schema: Json) -> Json:
    wider = schema | {"type": [schema["type"], "null"]}
    return wider | {"enum": [*wider["enum"], None]} if "enum" in wider else wider


def _amount(meaning: str) -> Json:
    return {"type": "integer", "minimum": 0, "maximum": MAX_MINOR, "description": meaning}


def _currency() -> Json:
    return {"type": "string", "enum": sorted(EXPONENTS), "description": "ISO 4217 code."}


def _label_words(labels: Mapping[int, int]) -> str:
    return "; ".join(f"{value}: label {label}" for value, label in sorted(labels.items(), reverse=True))


def _example(schema: Schema) -> Json:
    kind = schema.request
    shown = [*(f for f in kind.fields if f.required or f.choices)]
    values = {f.name: f.choices[0] if f.choices else _EXAMPLES.get(f.kind, "text") for f in shown}
    entities = {entity.name: f"{entity.name}-1" for entity in kind.entities[:2]}
    return {"id": f"{schema.noun}-1", **values, **entities}


def _outcome_example(schema: Schema) -> Json:
    kind = schema.outcomes[-1]
    return {"id": "o-1", schema.noun: f"{schema.noun}-1", "kind": kind.name, "source": kind.sources[0], "value": 1}


def _verb(path: str) -> str:
    return "decision" if path == "decisions/{id}" else path.removeprefix("decisions/{id}/")


_TIME: Json = {
    "type": ["string", "null"],
    "format": "date-time",
    "maxLength": 40,
    "description": "When it happened, RFC 3339 with an offset; the time of arrival if left out.",
}
_PER: Json = {
    "type": "integer",
    "minimum": 1,
    "maximum": MAX_PER,
    "description": "How many the amount is for; 1 if left out.",
}
_STATUS: Json = object_of(
    {
        "status": {"type": "string"},
        "problems": {
            "type": "object",
            "additionalProperties": {"type": "string"},
            "description": "System → champion of now that cannot be used; it decides as before, or by its fallback.",
        },
    },
    ["status", "problems"],
    meaning="A status.",
)
_READY: Json = object_of(
    {"status": {"type": "string"}, "now": {"type": "string", "format": "date-time", "description": "The log's clock."}}
    | {"stale": {"type": "integer", "minimum": 0, "description": "Features whose rows are silent for too long."}},
    ["status", "now", "stale"],
    meaning="A status.",
)
_REPLAYED_HEADER: Json = {
    "Idempotent-Replayed": {
        "description": "`true` if this decision had been logged before.",
        "schema": {"type": "string"},
    }
}
_ROW = object_of(
    {
        "id": {"type": "string"},
        "status": {"enum": ["accepted", "duplicate", "rejected"]},
        "seq": {"type": "integer", "minimum": 0},
        "reason": {"type": "string", "description": "Code of a rejection."},
        "message": {"type": "string", "description": "The four parts of a rejection in one sentence."},
    },
    ["id", "status", "seq"],
    meaning="What became of one row.",
)
_COUNTS = {name: {"type": "integer", "minimum": 0} for name in ("accepted", "duplicate", "rejected")}
_SHARED: Json = {
    "Problem": {
        "type": "object",
        "description": "RFC 9457, with the four parts of the error.",
        "properties": {
            "title": {"type": "string"},
            "status": {"type": "integer"},
            **{part: {"type": "string"} for part in ("detail", "where", "given", "expected", "fix")},
            "results": {"type": "array", "items": ref("Row")},
        },
        "required": ["title", "status", "detail", "where", "given", "expected", "fix"],
    },
    "Row": _ROW,
    "Batch": object_of(
        _COUNTS | {"results": {"type": "array", "items": ref("Row")}},
        [*_COUNTS, "results"],
        meaning="A batch's rows in order.",
    ),
    "Deletion": object_of(
        {"id": id_of("Your key of this deletion."), "deletes": id_of("Id of what is withdrawn.")},
        ["id", "deletes"],
        meaning="Withdraws what was logged; the log keeps both.",
    ),
}
