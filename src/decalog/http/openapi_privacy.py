"""What the OpenAPI document says about what people may ask for."""

from __future__ import annotations

from typing import get_args

from decalog.http.openapi_parts import Json, body_of, id_of, object_of, ok, operation_of, refusals, text_of
from decalog.http.settings import HttpSettings
from decalog.privacy.live import Act

_VALUES: Json = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}
_DAYS: Json = {"type": ["object", "null"], "additionalProperties": {"type": "integer", "minimum": 1, "maximum": 36_500}}
PRIVACY: Json = object_of(
    {
        "act": {"enum": list(get_args(Act)), "description": "What is asked for."},
        "person": {"type": "string", "description": "Value of the person, as requests have it."},
        "entity": {"type": "string", "description": "That it is a value of; the schema's first if nothing is said."},
        "why": {"type": "string", "description": "For the log; nothing personal."},
        "values": _VALUES | {"description": "With rectify: what is right, by name."},
        "more": {"type": "array", "items": {"type": "string"}, "description": "With prove: what else to search for."},
        "days": _DAYS | {"description": "With retention: what is kept how long; null for what is in force."},
        "id": {"type": "string", "description": "Of a notice."},
        "url": {"type": "string", "description": "Of a notice."},
    },
    ["act"],
    meaning="What an operator asks for a person.",
)
CONTEST: Json = object_of(
    {"decision": id_of("Of the decision, or of its request."), "said": text_of(2_000, "Why, in the person's words.")},
    ["decision"],
    meaning="A decision that a person wants a human to look at.",
)


def privacy_paths(system: str, settings: HttpSettings) -> Json:
    """Returns the paths of what people may ask of a system."""
    refused = refusals(400, 413, 415, 422, 503)
    told = {"200": ok("As the log has it, durable.", {"type": "object"}), **refused}
    privacy = {
        "summary": "Erase, tell, correct or restrict what is kept of a person, or heed their wish.",
        "requestBody": body_of(PRIVACY, {"act": "opt_out", "person": "cust-1"}),
        "responses": told,
    }
    contest = {
        "summary": "Ask for a human to look at a decision.",
        "requestBody": body_of(CONTEST, {"decision": "p-1"}),
        "responses": told | refusals(404),
    }
    return {
        f"/v1/{system}/privacy": {"post": operation_of(f"{system}_privacy", privacy, scope="admin", settings=settings)},
        f"/v1/{system}/contest": {
            "post": operation_of(f"{system}_contest", contest, scope="outcomes", settings=settings)
        },
    }
