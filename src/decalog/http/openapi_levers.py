"""What the OpenAPI document says about lookup tables, the policy's parameters, and who changed them."""

from __future__ import annotations

from decalog.http.openapi_parts import Json, body_of, object_of, ok, operation_of, parameter, ref, refusals
from decalog.http.settings import HttpSettings

_TEXT: Json = {"type": "string"}
_COUNT: Json = {"type": "integer", "minimum": 0}
_VERSION: Json = {
    "table": _TEXT,
    "version": _TEXT | {"description": "12 hex digits of the content's SHA-256."},
    "seq": {"type": "integer", "minimum": -1, "description": "Its record in the log; −1 where there is none yet."},
    "known_time": _TEXT,
}
_NUMBERS: Json = {"type": "object", "additionalProperties": {"type": "number"}}
_VALUES: Json = {"type": "array", "items": _TEXT}
_COUNTS: Json = {"type": "object", "additionalProperties": _COUNT}
PARTS: Json = {
    "Table": object_of(
        _VERSION
        | {"key": _TEXT | {"description": "What of the request it is read at."}, "entries": _COUNT}
        | {"numbers": _NUMBERS | {"description": "By key, where keys are public values."}}
        | {"counts": _COUNTS | {"description": "How often each number stands in it, where keys are tokens."}}
        | {"lists": _COUNTS | {"description": "How many members each list has, where it holds lists."}}
        | {"changed": _TEXT | {"description": "What this call changed, where that is less than the whole."}},
        ["table"],
        meaning="A version of a lookup table.",
    ),
    "Policy": object_of(_VERSION | {"content": {"type": "object"}}, ["content"], meaning="Parameters of the policy."),
    "Step": object_of(
        {
            "name": _TEXT | {"description": "Of the rollout: one name, one challenger, one division of the people."},
            "stage": {"enum": ["shadow", "canary", "champion", "stopped"]},
            "model": _TEXT
            | {"description": "The challenger's id, or at least its first 12 digits; \"\" for the champion's own."},
            "policy": {"type": ["object", "null"], "description": "Its parameters, whole; null for those in force."},
            "share_bp": {"type": "integer", "minimum": 0, "maximum": 10_000},
            "why": _TEXT,
            "evidence": {"type": "object"},
            "champion": {"type": ["string", "null"], "description": "Decides for all others; the server writes it."},
        },
        ["name", "stage"],
        meaning="A step of a rollout: whose requests a challenger decides.",
    ),
    "Rollout": object_of(
        _VERSION | {"content": {"anyOf": [ref("Step"), {"type": "null"}]}}, ["content"], meaning="The last step."
    ),
    "Changes": {
        "type": "array",
        "items": object_of(
            _VERSION | {"by": _TEXT, "what": _TEXT | {"description": 'What was changed for it; "" for the whole.'}},
            [*_VERSION, "by", "what"],
            meaning="A version, and who put it.",
        ),
    },
    "Members": object_of(
        {"list": _TEXT | {"description": "One of the policy's `lists`."}, "add": _VALUES, "remove": _VALUES},
        ["list"],
        meaning="Who goes onto a list and who comes off it, by values as requests have them.",
    ),
}


def lever_paths(system: str, settings: HttpSettings) -> Json:
    """Returns the paths of a system's levers."""
    name = parameter("name", "path", meaning="A table that a feature looks up.")
    seq = {"name": "seq", "in": "query", "required": False, "schema": _COUNT}
    seq |= {"description": "A record of the log: the table as it stood then."}
    tables = {"type": "array", "items": ref("Table")}
    put = refusals(400, 413, 415, 422, 503)
    calls: dict[str, dict[str, tuple[str, Json]]] = {
        "tables": {"get": ("tables", _call("List the lookup tables.", tables))},
        "tables/{name}": {
            "get": ("table", _call("Read a table.", ref("Table"), refusals(400, 404), parameters=[name, seq])),
            "put": (
                "put_table",
                _call("Put a table, whole; the next request sees it.", ref("Table"), put | refusals(404))
                | {"parameters": [name], "requestBody": body_of(_NUMBERS, {"5411": 0.5})},
            ),
            "patch": (
                "patch_table",
                _call("Change a list's members; the next request sees it.", ref("Table"), put | refusals(404))
                | {"parameters": [name], "requestBody": body_of(ref("Members"), {"list": "stolen", "add": ["c-1"]})},
            ),
        },
        "policy": {
            "get": ("policy", _call("Read the policy's parameters.", ref("Policy"))),
            "put": (
                "put_policy",
                _call("Put the policy's parameters, whole; the next request is decided by them.", ref("Policy"), put)
                | {"requestBody": body_of({"type": "object"}, {})},
            ),
        },
        "rollout": {
            "get": ("rollout", _call("Read the last step of a rollout.", ref("Rollout"))),
            "put": (
                "put_rollout",
                _call("Take a step of a rollout; the next request is decided by it.", ref("Rollout"), put)
                | {"requestBody": body_of(ref("Step"), {"name": "r1", "stage": "stopped", "why": "hides rose"})},
            ),
        },
        "changes": {"get": ("changes", _call("List who changed tables and policy.", ref("Changes")))},
    }
    return {
        f"/v1/{system}/{path}": {
            method: operation_of(f"{system}_{verb}", call, scope="admin", settings=settings)
            for method, (verb, call) in methods.items()
        }
        for path, methods in calls.items()
    }


def _call(summary: str, told: Json, refused: Json | None = None, *, parameters: list[Json] | None = None) -> Json:
    responses = {"200": ok("As the log has it, durable.", told), **refusals(503), **(refused or {})}
    return {"summary": summary, "parameters": parameters or [], "responses": responses}
