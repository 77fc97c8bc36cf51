"""Parsing at the edge: a caller's flat JSON becomes checked values or one clear error; nothing behind checks again."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import msgspec

from decalog.clock import time_us
from decalog.errors import ConfigError, RequestError, near
from decalog.money import EXPONENTS, MAX_MINOR
from decalog.schema import (
    ID_LENGTH,
    MAX_PER,
    Entity,
    EventKind,
    Field,
    FieldKind,
    OutcomeKind,
    Parsed,
    ParsedOutcome,
    Schema,
)

_OUTCOME_FIELDS = ("int", "float", "text", "flag")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_INT64 = 2**63 - 1
_INT_RANGES = {"int": (-_INT64, _INT64), "amount_minor": (0, MAX_MINOR)}
_CODE_LENGTH = 3
_MOST_SLOTS = 1_000


class SchemaParser:
    """Turns callers' JSON into parsed values: one compiled struct a kind, so a request costs a few microseconds."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        kinds = (schema.request, *schema.events)
        self._kinds = {kind.name: _KindParser(schema, kind) for kind in kinds}
        self._outcomes = {kind.name: _OutcomeParser(schema, kind) for kind in schema.outcomes}
        self._outcome = _outcome_struct(schema, ())

    def request(self, raw: bytes | Mapping[str, Any]) -> Parsed:
        """Returns a checked decision request.

        Raises:
            RequestError: a field is missing, unknown, of the wrong type or out of range.
        """
        return self._kinds[self.schema.request.name].parse(raw)

    def event(self, raw: Mapping[str, Any]) -> Parsed:
        """Returns a checked event; `kind` defaults to the request's. A deletion needs only `id` and `deletes`.

        Raises:
            RequestError: as for `request`; also for an unknown kind.
        """
        name = raw.get("kind", self.schema.request.name)
        kind = self.schema.kind(name if isinstance(name, str) else "")
        body = {key: value for key, value in raw.items() if key != "kind"}
        if "deletes" in body:
            gone = _deletion(f"{self.schema.system} event", body)
            return Parsed(
                id=gone.id, kind=kind.name, event_time=None, entities={}, public={}, private={}, deletes=gone.deletes
            )
        return self._kinds[kind.name].parse(body)

    def outcome(self, raw: Mapping[str, Any]) -> ParsedOutcome:
        """Returns a checked outcome from a source that is trusted for its kind.

        Raises:
            RequestError: a field is wrong, or the source is not trusted for the kind.
        """
        where = f"{self.schema.system} outcome"
        if "deletes" in raw:
            gone = _deletion(where, raw)
            return ParsedOutcome(
                id=gone.id, target="", kind="", source="", event_time=None, value=0.0, deletes=gone.deletes
            )
        name = raw.get("kind")
        parser = self._outcomes.get(name) if isinstance(name, str) else None
        if parser is None:
            sent = _convert(where, raw, self._outcome)
            parser = self._outcomes[self.schema.outcome(sent.kind).name]
        return parser.parse(raw)


class _Deletion(msgspec.Struct, forbid_unknown_fields=True):
    id: Annotated[str, msgspec.Meta(min_length=1, max_length=ID_LENGTH)]
    deletes: Annotated[str, msgspec.Meta(min_length=1, max_length=ID_LENGTH)]


def _deletion(where: str, raw: Mapping[str, Any]) -> _Deletion:
    gone: _Deletion = _convert(where, raw, _Deletion)
    _clean(where, "id", gone.id)
    _clean(where, "deletes", gone.deletes)
    return gone


_ID = Annotated[str, msgspec.Meta(min_length=1, max_length=ID_LENGTH)]
_REF = Annotated[str, msgspec.Meta(max_length=ID_LENGTH)]
_TIME = Annotated[str, msgspec.Meta(max_length=40)]
_SLOTS = Annotated[tuple[_ID, ...], msgspec.Meta(max_length=_MOST_SLOTS)]
_QUANTITY = Annotated[float, msgspec.Meta(ge=-1e15, le=1e15)]


def _outcome_struct(schema: Schema, fields: tuple[Field, ...]) -> Any:
    return msgspec.defstruct(
        "Outcome",
        [
            ("id", _ID),
            (schema.noun, _ID),
            ("kind", Annotated[str, msgspec.Meta(max_length=64)]),
            ("source", Annotated[str, msgspec.Meta(max_length=64)]),
            ("value", float),
            ("event_time", _TIME | None, None),
            ("amount_minor", Annotated[int, msgspec.Meta(ge=0, le=MAX_MINOR)] | None, None),
            ("currency", Annotated[str, msgspec.Meta(max_length=3)], ""),
            ("per", Annotated[int, msgspec.Meta(ge=1, le=MAX_PER)], 1),
            ("ref", _REF, ""),
            ("corrects", _REF, ""),
            *(_field_slot(field) for field in fields),
        ],
        forbid_unknown_fields=True,
        kw_only=True,
    )


class _OutcomeParser:
    def __init__(self, schema: Schema, kind: OutcomeKind) -> None:
        self._where = f"{schema.system} outcome"
        self._noun = schema.noun
        self._kind = kind
        shared = set(_outcome_struct(schema, ()).__struct_fields__) | {"deletes"}
        for field in kind.fields:
            if field.privacy != "public" or field.kind not in _OUTCOME_FIELDS or field.name in shared:
                raise ConfigError(
                    where=f"{schema.system} schema, outcome {kind.name}, field {field.name}",
                    given=f"a {field.privacy} field of kind {field.kind}",
                    expected=f"a public one of kind {', '.join(_OUTCOME_FIELDS)}, with a name of its own",
                    fix="Money has its own fields, amount_minor and currency; leave personal values out.",
                )
        self._struct = _outcome_struct(schema, kind.fields)
        self._names = tuple(field.name for field in kind.fields)

    def parse(self, raw: Mapping[str, Any]) -> ParsedOutcome:
        where, kind = self._where, self._kind
        sent = _convert(where, raw, self._struct)
        if sent.source not in kind.sources:
            raise RequestError(
                where=f"{where}, source",
                given="a source that is not trusted for this kind",
                expected=near(sent.source, kind.sources),
                fix="The system's own verdict is never an outcome; send what the source itself reported.",
            )
        if not math.isfinite(sent.value):
            raise _range_error(where, "value", "a finite number")
        _check_money(where, sent.amount_minor, sent.currency)
        attributes = _present(sent, self._names)
        for name, value in attributes.items():
            if isinstance(value, str):
                _clean(where, name, value)
            elif not math.isfinite(value):
                raise _range_error(where, name, "a finite number")
        return ParsedOutcome(
            id=_clean(where, "id", sent.id),
            target=_clean(where, self._noun, getattr(sent, self._noun)),
            kind=sent.kind,
            source=sent.source,
            event_time=_parse_time(where, sent.event_time),
            value=float(sent.value),
            amount_minor=sent.amount_minor,
            currency=sent.currency,
            ref=_clean(where, "ref", sent.ref),
            corrects=_clean(where, "corrects", sent.corrects),
            attributes=attributes,
            per=sent.per,
        )


def _told(has_slots: bool, has_quantity: bool) -> Iterator[tuple[str, Any, Any]]:  # noqa: FBT001 - what a kind has
    """Yields what may be told of another system's choice, beside its action."""
    if has_slots:
        yield "slots", _SLOTS, ()
    if has_quantity:
        yield "quantity", _QUANTITY | None, None


class _KindParser:
    def __init__(self, schema: Schema, kind: EventKind) -> None:
        self._where = f"{schema.system} {kind.name}"
        self._kind = kind
        self._has_slots = bool(schema.slate_of) and kind is schema.request
        self._has_quantity = bool(schema.label.of) and kind is schema.request
        self._struct = msgspec.defstruct(
            kind.name.capitalize(),
            [
                ("id", _ID),
                ("event_time", _TIME | None, None),
                ("corrects", _REF, ""),
                ("taken", Literal[schema.actions] | None, None),
                *(_field_slot(f) for f in kind.fields),
                *(_entity_slot(e) for e in kind.entities),
                *_told(self._has_slots, self._has_quantity),
            ],
            forbid_unknown_fields=True,
            kw_only=True,
        )
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(self._struct)
        entities = tuple(e.name for e in kind.entities)
        self._names = _named(kind) + entities
        # Where `parse` puts each value: 0 entities, 1 public, 2 private.
        self._places = (*(1 if f.privacy == "public" else 2 for f in kind.fields), *(0 for _ in entities))
        self._texts = _named(kind, "text") + entities
        self._floats = _named(kind, "float")
        self._amounts = _named(kind, "amount_minor")
        self._currencies = _named(kind, "currency")

    def parse(self, raw: bytes | Mapping[str, Any]) -> Parsed:
        where = self._where
        sent = _convert(where, raw, self._struct, self._decoder)
        id_, time, corrects, taken, *values = msgspec.structs.astuple(sent)
        quantity = values.pop() if self._has_quantity else None
        slots = self._slots(values.pop()) if self._has_slots else ()
        # One look at all texts together; only if it finds something is each looked at, and the culprit named.
        plain = "".join([id_, corrects, *[value for value in values if isinstance(value, str)]]).isprintable()
        if not plain:
            self._check_texts(sent)
        self._check_numbers(sent)
        kept: tuple[dict[str, Any], ...] = ({}, {}, {})
        for place, name, value in zip(self._places, self._names, values, strict=True):
            if value is not None:
                kept[place][name] = value
        return Parsed(
            id=id_ if plain else _clean(where, "id", id_),
            kind=self._kind.name,
            event_time=_parse_time(where, time),
            entities=kept[0],
            public=kept[1],
            private=kept[2],
            taken=taken or "",
            slots=slots,
            quantity=quantity,
            corrects=corrects if plain else _clean(where, "corrects", corrects),
        )

    def _slots(self, slots: tuple[str, ...]) -> tuple[str, ...]:
        for ref in slots:
            _clean(self._where, "slots", ref)
        if len(set(slots)) < len(slots):
            raise RequestError(
                where=f"{self._where}, slots",
                given="one thing in two slots",
                expected="each thing once, in the order in which they were shown",
                fix="Send what stood in each slot.",
            )
        return slots

    def _check_texts(self, sent: Any) -> None:
        for name in self._texts:
            _clean(self._where, name, getattr(sent, name) or "")

    def _check_numbers(self, sent: Any) -> None:
        for name in self._floats:
            value = getattr(sent, name)
            if value is not None and not math.isfinite(value):
                raise _range_error(self._where, name, "a finite number")
        currency = next((getattr(sent, name) for name in self._currencies), None) or ""
        for name in self._amounts:
            _check_money(self._where, getattr(sent, name), currency)


def _named(kind: EventKind, field_kind: FieldKind | None = None) -> tuple[str, ...]:
    return tuple(field.name for field in kind.fields if field_kind in (None, field.kind))


def _field_slot(field: Field) -> tuple[Any, ...]:
    base: Any = Literal[field.choices] if field.choices else _field_type(field)
    return (field.name, base) if field.required else (field.name, base | None, None)


def _field_type(field: Field) -> Any:
    match field.kind:
        case "int" | "amount_minor":
            least, most = _INT_RANGES[field.kind]
            least = least if field.least is None else int(field.least)
            most = most if field.most is None else int(field.most)
            return Annotated[int, msgspec.Meta(ge=least, le=most)]
        case "float":
            return Annotated[float, msgspec.Meta(ge=field.least, le=field.most)]
        case "text":
            return Annotated[str, msgspec.Meta(max_length=field.max_length)]
        case "currency":
            return Annotated[str, msgspec.Meta(min_length=_CODE_LENGTH, max_length=_CODE_LENGTH)]
        case "flag":
            return bool


def _entity_slot(entity: Entity) -> tuple[Any, ...]:
    base = Annotated[str, msgspec.Meta(min_length=1, max_length=entity.max_length)]
    return (entity.name, base | None, None)


def _convert(where: str, raw: bytes | Mapping[str, Any], struct: Any, decoder: Any = None) -> Any:
    try:
        if isinstance(raw, bytes):
            return decoder.decode(raw) if decoder is not None else msgspec.json.decode(raw, type=struct)
        return msgspec.convert(raw, struct)
    except msgspec.ValidationError as error:
        raise _readable(where, str(error), struct) from None
    except (msgspec.DecodeError, UnicodeError):
        raise RequestError(
            where=where,
            given="a body that is not JSON in UTF-8",
            expected="one JSON object",
            fix="Check quotes, commas and NaN: JSON knows no NaN or Infinity.",
        ) from None


def _readable(where: str, message: str, struct: Any) -> RequestError:
    unknown = re.search(r"unknown field `(.*)`", message, re.DOTALL)
    # The name of an unknown field is the caller's text: no place is read out of it.
    path = None if unknown else re.search(r"at `\$\.?([^`]*)`", message)
    place = f"{where}, {path[1]}" if path and path[1] else where
    missing = re.search(r"missing required field `([^`]+)`", message)
    if unknown:
        known = list(struct.__struct_fields__)
        return RequestError(
            where=place, given="an unknown field", expected=near(unknown[1][:64], known), fix="Remove or rename it."
        )
    if missing:
        return RequestError(
            where=place, given=f"no {missing[1]}", expected=f"the required field {missing[1]}", fix="Send it."
        )
    choice = re.search(r"Invalid enum value", message)
    if choice:
        return RequestError(
            where=place,
            given="a value that is not among the choices",
            expected="one of the schema's choices for this field",
            fix="See GET /openapi.json, or `decalog data inspect`.",
        )
    wanted, _, got = message.partition(" - at ")[0].removeprefix("Expected ").partition(", got ")
    return RequestError(
        where=place, given=got or "a value out of range", expected=wanted, fix="Mend the value and send it again."
    )


def _range_error(where: str, name: str, expected: str) -> RequestError:
    return RequestError(
        where=f"{where}, {name}", given="a value out of range", expected=expected, fix="Mend the value or leave it out."
    )


def _clean(where: str, name: str, text: str) -> str:
    if _CONTROL.search(text):
        raise RequestError(
            where=f"{where}, {name}",
            given="control characters or lone surrogates",
            expected="printable text",
            fix="Strip them before sending.",
        )
    return text


def _check_money(where: str, amount_minor: int | None, currency: str) -> None:
    if amount_minor is None and not currency:
        return
    if currency not in EXPONENTS:
        raise RequestError(
            where=f"{where}, currency",
            given="no ISO 4217 code" if currency else "an amount without a currency",
            expected=near(currency.upper(), EXPONENTS) if currency else "an ISO 4217 code such as EUR",
            fix="Amounts are integers in the currency's minor unit: 12.34 EUR is 1234, 1200 JPY is 1200.",
        )


def _parse_time(where: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return time_us(text)
    except (ValueError, OverflowError):
        raise RequestError(
            where=f"{where}, event_time",
            given="no RFC 3339 time",
            expected="a time with an offset, such as 2026-03-01T12:00:00Z",
            fix="Add the offset, or leave event_time out to use the time of arrival.",
        ) from None


def _present(sent: Any, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(sent, name)) is not None}
