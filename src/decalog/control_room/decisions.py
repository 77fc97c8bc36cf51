"""The decisions: a list that is searched, and a page for each with all that led to it and came of it."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from decalog.candidates import gathered
from decalog.clock import time_us
from decalog.control_room.asking import call
from decalog.control_room.homes import Place
from decalog.control_room.index import Filter
from decalog.control_room.quantities import thing_of
from decalog.control_room.things import quantity_shown
from decalog.control_room.views import currency_of, index, log_of, number, strongest, words
from decalog.control_room.web import Ask, Page, Redirect, path_of
from decalog.decisions import Decision, decode_decision, unpack_features
from decalog.errors import RequestError, UnknownRecordError, near
from decalog.events import decode_table
from decalog.features.definition import FeatureSet
from decalog.log import Log
from decalog.outcomes import decode_outcome
from decalog.standing import ERASURES, read_erasure
from decalog.system import find_system

_ASKED = ("id", "action", "arm", "fallback", "token", "since", "until", "before")
_ON_A_PAGE = 50
_MOST_CANDIDATES = 20


class Said(NamedTuple):
    """An outcome of a decision: when it was known, what, by whom, and whether a later report replaced it."""

    at: int
    kind: str
    value: float
    source: str
    ref: str
    note: str


def listed(ask: Ask) -> Page:
    """The decisions that a search finds, the newest first."""
    place, query = ask.at, {name: ask.query.get(name, "").strip() for name in _ASKED}
    asked = Filter(
        id=query["id"],
        action=query["action"],
        arm=query["arm"],
        fallback=query["fallback"],
        token=ask.number("token"),
        since=_time(query["since"]),
        until=_time(query["until"]),
        before=ask.number("before"),
    )
    with index(place) as found:
        rows = found.decisions(place.system, asked, most=_ON_A_PAGE + 1)
        arms, progress = found.arms(place.system), found.progress()
        quantities = found.notable.of(row.seq for row in rows) if place.is_of_quantities else {}
    schema = find_system(place.system).schema
    kept = {name: value for name, value in query.items() if value and name != "before"}
    values = {
        "title": f"{place.system}: decisions",
        "rows": rows[:_ON_A_PAGE],
        "quantities": quantities,
        "about": thing_of(schema) if place.is_of_quantities else "",
        "older": rows[_ON_A_PAGE - 1].seq if len(rows) > _ON_A_PAGE else 0,
        "query": query,
        "kept": kept,
        "actions": schema.actions,
        "entities": [entity.name for entity in schema.request.entities],
        "arms": arms,
        "progress": progress,
        "currency": currency_of(place.home),
    }
    return Page("decisions.html", values)


def find_entity(ask: Ask) -> Page | Redirect:
    """Goes to the decisions about an entity. What was typed becomes a token here and goes no further.

    Raises:
        RequestError: requests of the system name no such entity.
    """
    place, kind, value = ask.at, ask.form.get("kind", ""), ask.form.get("value", "")
    names = [entity.name for entity in find_system(place.system).schema.request.entities]
    if kind not in names:
        raise RequestError(
            where="control room, search",
            given="an entity that requests do not name",
            expected=near(kind[:64], names),
            fix="Take one of the list.",
        )
    with log_of(place) as log:
        token = log.vault.find(kind, value.strip())  # type: ignore[attr-defined]  # of the one engine that there is
    here = path_of("s", place.name, "decisions")
    if token is None:
        return Redirect(here, f"No {words(kind)} of that value was ever seen here.")
    if place.is_of_quantities and kind == thing_of(find_system(place.system).schema):
        return Redirect(path_of("s", place.name, "of", str(token)))
    return Redirect(f"{here}?token={token}")


def shown(ask: Ask) -> Page:
    """A decision: what was asked, what was known, what was predicted and chosen, and what came of it."""
    place = ask.at
    with log_of(place) as log:
        record, decision = _logged(log, place, ask.parts[0])
        features = _features(log, place, decision)
        outcomes = _outcomes(log, place, decision)
        quantity = quantity_shown(log, decision, place=place, decided=record.known_time)
    request = decision.request
    values = {
        "title": f"{place.system}: {request.id}",
        "record": record,
        "decision": decision,
        "facts": sorted((name, value) for name, value in request.attributes.items() if name not in request.entities),
        "entities": [(name, token, request.attributes.get(name)) for name, token in sorted(request.entities.items())],
        "features": features,
        "candidates": list(gathered(decision.candidates))[:_MOST_CANDIDATES],
        "count": len(decision.candidates),
        "outcomes": outcomes,
        "quantity": quantity,
        "currency": decision.currency or currency_of(place.home),
        "number": number,
    }
    return Page("decision.html", values)


def why(ask: Ask) -> Page:
    """What moved a decision, and what would have changed it: as its server tells; a part of the decision's page."""
    told = call(ask, "GET", "decisions", ask.parts[0], "explanation")
    return Page("why.html", {"title": "Why", "told": told, "strongest": strongest(told)})


def replay(ask: Ask) -> Page:
    """What comes of a decision when it is made again from the log; a part of the decision's page."""
    told = call(ask, "POST", "decisions", ask.parts[0], "replay", body={})
    return Page("replay.html", {"title": "Replay", "told": told, "id": ask.parts[0]})


def _logged(log: Log, place: Place, id_: str) -> tuple[Any, Decision]:
    """Returns the record of a decision, by its own id or its request's, and the decision."""
    seqs = log.find("decision", id_) or log.find("request", f"{place.system}/{id_}")
    for seq in seqs:
        record = log.get(seq)
        is_wanted = record.kind == "decision" and record.system == place.system
        if is_wanted and not _is_erased(log, place, record.root):
            return record, decode_decision(record.body)
    raise UnknownRecordError(
        where=f"control room, {place.system}",
        given="an id that no decision has",
        expected="the id of a decision or of its request",
        fix="Search the list of decisions.",
    )


def _is_erased(log: Log, place: Place, root: int) -> bool:
    """Whether the person of a chain was erased: as the index has it, or the log behind it."""
    with index(place) as found:
        behind = found.progress().position
        if found.is_erased(root):
            return True
    late = (seq for seq in log.find("table", f"{place.system}/{ERASURES}") if seq >= behind)
    return any(root in read_erasure(decode_table(log.get(seq).body)).records for seq in late)


def _features(log: Log, place: Place, decision: Decision) -> list[tuple[Any, float]]:
    """Returns the features of what was chosen, each as declared, with the value that was logged."""
    lead, declared = decision.lead, _declared(log, place, decision.versions.features)
    if lead is None or not lead.features or declared is None:
        return []
    return list(zip(declared.features, unpack_features(lead.features).tolist(), strict=False))


def _declared(log: Log, place: Place, version: str) -> FeatureSet | None:
    """Returns the feature set of a version."""
    for seq in reversed(log.find("table", f"{place.system}/features")):
        declared = _read_set(str(log.get(seq).body.hex()))
        if declared.version == version:
            return declared
    return None


@functools.lru_cache(maxsize=32)
def _read_set(body: str) -> FeatureSet:
    return FeatureSet.from_json(decode_table(bytes.fromhex(body)).content)


def _outcomes(log: Log, place: Place, decision: Decision) -> list[Said]:
    """Returns what was reported about a decision, in order."""
    seqs = log.find("target", f"{place.system}/{decision.request.id}")
    records = [log.get(seq) for seq in seqs]
    latest = {record.root: record.seq for record in records}
    return [_said(record, is_last=latest[record.root] == record.seq) for record in records if not record.reason]


def _said(record: Any, *, is_last: bool) -> Said:
    outcome = decode_outcome(record.body)
    note = "withdrawn" if outcome.deleted else "" if is_last else "replaced later"
    return Said(record.known_time, outcome.kind, outcome.value, outcome.source, outcome.ref, note)


def _time(text: str) -> int:
    """Returns a time of a form, 2026-05-21T10:00 in UTC, in µs; 0 for none.

    Raises:
        RequestError: it is none.
    """
    if not text:
        return 0
    try:
        return max(0, time_us(f"{text}Z" if "Z" not in text and "+" not in text else text))
    except ValueError:
        raise RequestError(
            where="control room, time", given="what is no time", expected="2026-05-21T10:00", fix="Mend it; it is UTC."
        ) from None
