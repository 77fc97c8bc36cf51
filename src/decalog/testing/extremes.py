"""Requests at the extremes of what a schema allows: each must be decided, however odd."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from decalog.money import MAX_MINOR
from decalog.schema import ID_LENGTH, Entity, EventKind, Field

_INT64 = 2**63 - 1
_WIDE = "𝔘"  # four bytes in UTF-8, two units in UTF-16
_ODD = "é ﷺ 'x'; --"


def extremes(kind: EventKind, body: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (what is extreme, request) made from a plain request; only one thing is extreme in each.

    Args:
        kind: of the request.
        body: a valid one; the schema's currencies are left as they are, since rates are the deployment's.
    """
    yield "nothing that may be left out", {key: value for key, value in body.items() if key in _needed(kind)}
    for field in kind.fields:
        yield from ((f"{field.name} {str(v)[:20]!r}", {**body, field.name: v}) for v in values_of(field))
        if field.name not in _needed(kind):
            yield f"no {field.name}", _without(kind, body, field)
    for entity in kind.entities:
        yield from _entity(entity, body)
    yield "the same value for every entity", {**body, **{e.name: "x" for e in kind.entities}}
    yield "the longest id", {**body, "id": _WIDE * ID_LENGTH}


def values_of(field: Field) -> tuple[Any, ...]:
    """Returns the extremes of a field: its bounds, or the widest that its kind can hold."""
    if field.choices:
        return field.choices
    match field.kind:
        case "int":
            return (_bound(field.least, -_INT64), _bound(field.most, _INT64))
        case "amount_minor":
            return (_bound(field.least, 0), _bound(field.most, MAX_MINOR))
        case "float":
            return _floats(field)
        case "text":
            return ("", "x" * field.max_length, _WIDE * field.max_length, _ODD[: field.max_length])
        case "flag":
            return (True, False)
        case "currency":
            return ()


def _floats(field: Field) -> tuple[float, ...]:
    least = -sys.float_info.max if field.least is None else field.least
    most = sys.float_info.max if field.most is None else field.most
    return tuple(value for value in (least, most, sys.float_info.min) if least <= value <= most)


def _entity(entity: Entity, body: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield f"the longest {entity.name}", {**body, entity.name: _WIDE * entity.max_length}
    yield f"the shortest {entity.name}", {**body, entity.name: " "}
    yield f"no {entity.name}", {key: value for key, value in body.items() if key != entity.name}


def _needed(kind: EventKind) -> set[str]:
    required = {field.name for field in kind.fields if field.required}
    amounts = {field.name for field in kind.fields if field.kind == "amount_minor"}
    # An amount is refused without its currency, whether or not the schema requires the currency itself.
    currencies = {field.name for field in kind.fields if field.kind == "currency"} if amounts & required else set()
    return {"id", *required, *currencies}


def _without(kind: EventKind, body: Mapping[str, Any], field: Field) -> dict[str, Any]:
    amounts = (
        {other.name for other in kind.fields if other.kind == "amount_minor"} if field.kind == "currency" else set()
    )
    return {key: value for key, value in body.items() if key not in {field.name, *amounts}}


def _bound(stated: float | None, widest: int) -> int:
    return widest if stated is None else int(stated)
