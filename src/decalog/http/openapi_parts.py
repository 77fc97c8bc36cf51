"""The pieces of an OpenAPI document that every group of routes is written with."""

from __future__ import annotations

from typing import Any

from decalog.http.settings import HttpSettings
from decalog.schema import ID_LENGTH

Json = dict[str, Any]
_PRINTABLE = r"^[^\x00-\x1f\x7f]*$"


def operation_of(name: str, call: Json, *, scope: str, settings: HttpSettings) -> Json:
    """Returns an operation with what its scope asks for."""
    if not scope:
        return {"operationId": name, "security": [], **call}
    security: list[Json] = [{"token": []}] if settings.tokens else []
    also = refusals(401, 403, 429) if settings.tokens else refusals(403, 429)
    words = [call.get("description", ""), f"Takes scope `{scope}`." if settings.tokens else ""]
    described = {"description": " ".join(filter(None, words))}
    return {"operationId": name, "security": security, **call, **described, "responses": call["responses"] | also}


def body_of(schema: Json, example: Json) -> Json:
    """Returns a request body of JSON."""
    return {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}


def object_of(properties: Json, required: list[str], *, meaning: str) -> Json:
    """Returns a closed object."""
    return {
        "type": "object",
        "description": meaning,
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def id_of(meaning: str) -> Json:
    """Returns a caller's key."""
    return text_of(ID_LENGTH, meaning) | {"minLength": 1}


def text_of(longest: int, meaning: str) -> Json:
    """Returns a text of at most so many characters."""
    return {"type": "string", "maxLength": longest, "pattern": _PRINTABLE, "description": meaning}


def parameter(name: str, place: str, *, meaning: str) -> Json:
    """Returns a parameter of a path or header."""
    schema = {"type": "string", "minLength": 1, "maxLength": ID_LENGTH}
    return {"name": name, "in": place, "required": place == "path", "schema": schema, "description": meaning}


def ok(meaning: str, schema: Json, *, headers: Json | None = None) -> Json:
    """Returns a response of JSON."""
    found: Json = {"description": meaning, "content": {"application/json": {"schema": schema}}}
    return found | ({"headers": headers} if headers else {})


def refusals(*statuses: int) -> Json:
    """Returns the refusals of these statuses."""
    return {str(status): {"$ref": f"#/components/responses/{_REFUSALS[status]}"} for status in statuses}


def responses() -> Json:
    """Returns every refusal as a shared response."""
    content = {"application/problem+json": {"schema": ref("Problem")}}
    return {name: {"description": _REFUSAL_WORDS[name], "content": content} for name in _REFUSALS.values()}


def ref(name: str) -> Json:
    """Returns a reference to a shared schema."""
    return {"$ref": f"#/components/schemas/{name}"}


def title_of(name: str) -> str:
    """Returns a name as a schema's."""
    return "".join(word.capitalize() for word in name.split("_"))


_REFUSALS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    413: "TooLarge",
    415: "UnsupportedMediaType",
    422: "Unprocessable",
    429: "TooManyRequests",
    503: "Unavailable",
}
_REFUSAL_WORDS = {
    "BadRequest": "No JSON, or a head that makes no sense.",
    "Unauthorized": "No token, or one that is unknown, expired or revoked.",
    "Forbidden": "The token lacks the scope or the system.",
    "NotFound": "No such record or route.",
    "Conflict": "The id was used with another body, or the decision cannot be recomputed.",
    "TooLarge": "Too many bytes or rows.",
    "UnsupportedMediaType": "Not JSON, or compressed.",
    "Unprocessable": "JSON that breaks the schema; nothing was decided.",
    "TooManyRequests": "Above the rate; see Retry-After.",
    "Unavailable": "The log takes nothing now; retry with the same id.",
}
