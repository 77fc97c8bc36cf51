"""What people may ask for besides being erased and told: to be left out, restricted, corrected, and heard by a person.

Each act is one turn of whoever stamps, on a server as on a home without one.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from decalog.crypto import digest, new_token, seal
from decalog.decisions import decode_decision
from decalog.errors import RequestError, UnknownRecordError, near
from decalog.events import Event, Record, encode_body
from decalog.log import Draft
from decalog.privacy.pen import Pen
from decalog.privacy.subjects import Plain, images, opened, person_entity
from decalog.schema import Entity, Field
from decalog.standing import CONTESTS, NOTICES, WISHES, Contest, Notice, Wish
from decalog.system import System

_LONGEST = 2_000
AT_ONCE = 200
"""Records that are sealed anew in one turn."""


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a contest: the decision, and whether a case waits for a person, or it is logged for whoever looks.

    `told` is what the answer to the caller says.
    """

    decision_id: str
    request: str
    told: str = "logged; a person will look at it"


class Corrected(msgspec.Struct, frozen=True, kw_only=True):
    """How many records were given a new image, and whether there are more to do."""

    records: int
    is_done: bool = True


def wish(system: System, pen: Pen, *, person: str, entity: str = "", asked: Wish) -> Wish:
    """Puts what a person wishes into the log; the next request of theirs is treated so. Returns it with their token.

    Args:
        system: that they wish it of.
        pen: of the writer.
        person: the value, as requests have it; a person may wish before they are ever seen.
        entity: that it is a value of.
        asked: the wish, whoever it is of.
    """
    token = pen.log.vault.token(person_entity(system, entity), person)
    made = msgspec.structs.replace(asked, subject=token, why=asked.why[:_LONGEST])
    pen.put(system.name, WISHES, content=made)
    return made


def give_notice(system: System, pen: Pen, *, notice: Notice) -> Notice:
    """Puts the notice into force that decisions carry from the next one on; "" ends it."""
    pen.put(system.name, NOTICES, content=notice)
    return notice


def contest(system: System, pen: Pen, *, decision: str, said: str = "") -> Heard:
    """Logs that a person wants a human to look at a decision; where the system has a desk, it waits there.

    Args:
        system: that decided.
        pen: of the writer.
        decision: id of the decision, or of its request.
        said: why, in the person's words; it is kept sealed under their key.

    Raises:
        UnknownRecordError: there is no such decision, or it was erased.
    """
    log = pen.log
    record = _decided(pen, system.name, decision)
    made = decode_decision(record.body)
    cipher = log.vault.cipher(made.request.subject) if said and made.request.sealed else None
    sealed = b"" if cipher is None else seal(cipher, {"said": said[:_LONGEST]}, bound_to=f"contest {made.id}")
    content = Contest(
        decision=made.id, request=made.request.id, seq=record.seq, sealed=base64.b64encode(sealed).decode()
    )
    pen.put(system.name, CONTESTS, content=content)
    return Heard(decision_id=made.id, request=made.request.id)


def _decided(pen: Pen, system: str, id_: str) -> Record:
    log, erased = pen.log, pen.standing(system).erased
    for seq in (*log.find("decision", id_), *log.find("request", f"{system}/{id_}")):
        record = log.get(seq)
        if record.kind == "decision" and record.system == system and seq not in erased:
            return record
    raise UnknownRecordError(
        where=f"{system} contest",
        given="an id that no decision has",
        expected="the id of a decision, or of its request",
        fix="Take it from the reply; what was erased can be contested no more.",
    )


def rectify(
    system: System, pen: Pen, *, roots: Iterable[int], values: Mapping[str, Plain], most: int = AT_ONCE
) -> Corrected:
    """Gives records of a person a new image with other personal values; the features follow where an entity changes.

    What was sealed before stays in the log, under the same key, as what was decided on: retention or erasure ends it.

    Args:
        system: whose records.
        pen: of the writer.
        roots: of the person's records in the system.
        values: name → what is right; an image that has another value of that name, and no other, is corrected.
        most: records that are corrected in one call.

    Raises:
        RequestError: a name is not personal, or a value does not fit it; nothing is corrected then.
    """
    _check(system, values)
    todo = []
    for record, event in images(pen.log, roots):
        held = opened(pen.log, event)
        wrong = {name: value for name, value in values.items() if name in held and held[name] != value}
        if wrong and not event.deleted:
            todo.append((record, event, held | wrong, wrong))
    for record, event, after, wrong in todo[:most]:
        names = {entity.name for entity in system.schema.kind(event.kind).entities} & wrong.keys()
        tokens = {name: pen.log.vault.token(name, str(wrong[name])) for name in names}
        reseal(pen, record, event=msgspec.structs.replace(event, entities=event.entities | tokens), values=after)
    return Corrected(records=len(todo[:most]), is_done=len(todo) <= most)


def reseal(pen: Pen, record: Record, *, event: Event, values: Mapping[str, Plain], whose: int = 0) -> None:
    """Appends an image of an event with other personal values: a correction of the one before.

    Args:
        pen: of the writer.
        record: of the image before.
        event: as it is to be, but for these values.
        values: personal ones.
        whose: subject under whose key they go; the event's, if nothing is said.
    """
    log = pen.log
    id_ = f"sealed-{new_token():016x}"
    cipher = log.vault.cipher(whose or event.subject)
    sealed = b"" if cipher is None else seal(cipher, dict(values), bound_to=id_)
    image = msgspec.structs.replace(event, id=id_, sealed=sealed, corrects=event.id)
    body = encode_body(image)
    mark = digest(log.vault.secret("bodies"), body)
    draft = Draft(
        kind="event",
        system=record.system,
        id=id_,
        digest=mark,
        event_time=event.event_time,
        body=body,
        root=record.root,
    )
    pen.stamp(draft, image)


def _check(system: System, values: Mapping[str, Plain]) -> None:
    personal = personal_of(system)
    for name, value in values.items():
        part = personal.get(name)
        if part is None:
            raise RequestError(
                where=f"{system.name} rectify",
                given="a name that is no personal field or entity",
                expected=near(name[:40], personal) if personal else "a schema with personal fields",
                fix="Public values are corrected as events are: with `corrects`.",
            )
        if not _fits(part, value):
            raise RequestError(
                where=f"{system.name} rectify, {name}",
                given="a value of another kind, or too long",
                expected=_form(part),
                fix="Send what a request would have.",
            )


def personal_of(system: System) -> dict[str, Field | Entity]:
    """Returns the fields and entities of a system that are not public, by name."""
    kinds = (system.schema.request, *system.schema.events)
    fields: dict[str, Field | Entity] = {part.name: part for kind in kinds for part in kind.fields}
    both = fields | {part.name: part for kind in kinds for part in kind.entities}
    return {name: part for name, part in both.items() if part.privacy != "public"}


def _fits(part: Field | Entity, value: Any) -> bool:
    if isinstance(part, Entity) or part.kind == "text":
        return isinstance(value, str) and 0 < len(value) <= part.max_length
    if part.kind == "flag":
        return isinstance(value, bool)
    kinds = int | float if part.kind == "float" else int
    return isinstance(value, kinds) and not isinstance(value, bool)


def _form(part: Field | Entity) -> str:
    return f"a text of at most {part.max_length} characters" if isinstance(part, Entity) else f"{part.kind}"
