"""What a log and its vault hold of one person: their records, their entities, and whether others share them.

A person is a token. Whoever reads whole logs runs aside; what came meanwhile is taken by the one who stamps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from decalog import crypto
from decalog.decisions import decode_decision
from decalog.errors import RequestError, near
from decalog.events import Event, Record, decode_table
from decalog.home import Home
from decalog.ingest import Rejected, request_of
from decalog.log import Log
from decalog.outcomes import decode_outcome
from decalog.registry import Registry
from decalog.schema import Schema
from decalog.standing import ERASURES, Erasure, read_erasure
from decalog.system import SYSTEMS, System, find_system

Plain = int | float | str | bool


class Told(msgspec.Struct, frozen=True):
    """A personal value in the clear, by the name of its field or entity: for the proof, and never written."""

    name: str
    value: Plain


class Survey(msgspec.Struct, kw_only=True):
    """What there is of one person.

    Args:
        subject: their token.
        position: records below it were read.
        records: system → roots of their events, decisions and outcomes, ascending.
        requests: system → ids by which outcomes may name what they did.
        decisions: system → ids of their decisions.
        own, shared: (entity, token) of theirs that nobody else's record has, and that somebody's has.
        quarantined: rows in quarantine under their key.
        values: that stand in their envelopes.
    """

    subject: int
    position: int = 0
    records: dict[str, tuple[int, ...]] = {}
    requests: dict[str, tuple[str, ...]] = {}
    decisions: dict[str, tuple[str, ...]] = {}
    own: tuple[tuple[str, int], ...] = ()
    shared: tuple[tuple[str, int], ...] = ()
    quarantined: int = 0
    values: tuple[Told, ...] = ()

    @property
    def count(self) -> int:
        """How many records there are."""
        return sum(len(roots) for roots in self.records.values())

    @property
    def tokens(self) -> tuple[int, ...]:
        """The tokens that lead to nobody else."""
        return tuple(sorted({self.subject, *(token for _, token in self.own)}))

    def first(self, system: str) -> int | None:
        """Returns the first of their records in a system, None where there is none."""
        return min(self.records.get(system, ()), default=None)


def find_subject(system: System, log: Log, *, person: str, entity: str = "") -> int | None:
    """Returns the token of a person, None where the map holds none: never seen, or erased.

    Args:
        system: whose words for people are used.
        log: of the home.
        person: the value as requests have it.
        entity: that it is a value of; see `person_entity`.
    """
    vault: Any = log.vault  # every engine's vault gives it
    found: int | None = vault.find(person_entity(system, entity), person)
    return found


def person_entity(system: System, entity: str = "") -> str:
    """Returns the entity by which people are named: the first that may be a request's subject, if nothing is said.

    Raises:
        RequestError: a request of the system has no such entity.
    """
    kinds = (system.schema.request, *system.schema.events)
    named = list(dict.fromkeys(name for kind in kinds for name in kind.subject))
    if entity and entity not in named:
        raise RequestError(
            where=f"{system.name} person, entity",
            given="what is no name of a person",
            expected=near(entity[:40], named),
            fix="Name one that the schema has under `subject`.",
        )
    return entity or named[0]


def survey(log: Log, subject: int, *, schemas: Iterable[Schema]) -> Survey:
    """Returns what a log's durable records hold of a person; it is read twice.

    Args:
        log: of the home.
        subject: their token.
        schemas: of its systems; of one that is not among them every entity counts as personal.
    """
    return surveys(log, (subject,), schemas=schemas)[subject]


def surveys(log: Log, subjects: Iterable[int], *, schemas: Iterable[Schema]) -> dict[int, Survey]:
    """Returns what a log's durable records hold of each of some people; it is read twice. Arguments as for `survey`."""
    known = _Known(schemas)
    readings = {subject: _Reading(Survey(subject=subject), log, known) for subject in subjects}
    stop = log.durable
    _read(readings, lambda: log.read(0, stop))
    return {subject: reading.survey(stop) for subject, reading in readings.items()}


def extended(before: Survey, log: Log, *, stop: int, schemas: Iterable[Schema]) -> Survey:
    """Returns a survey that goes on up to a position; what is not durable yet is read too, by the one who stamps."""
    reading = _Reading(before, log, _Known(schemas))
    _read({before.subject: reading}, lambda: map(log.get, range(before.position, stop)))
    return reading.survey(stop)


def models_of(home: Home, found: Survey) -> dict[str, tuple[str, ...]]:
    """Returns system → the models whose training read something of a person, oldest first."""
    registry, models = Registry(home.root), {}
    for system, roots in found.records.items():
        if roots:
            made = sorted(registry.list(system), key=lambda one: one.manifest.pin.position)
            models[system] = tuple(one.id for one in made if one.manifest.pin.position[0] > roots[0])
    return models


def erasure_of(found: Survey, system: str, *, models: Iterable[str] = ()) -> Erasure:
    """Returns what the log is to say of an erasure in one system."""
    records, shared = found.records.get(system, ()), found.shared
    return Erasure(subject=found.subject, tokens=found.tokens, shared=shared, records=records, models=tuple(models))


def schemas_of(*systems: System) -> list[Schema]:
    """Returns the schemas of the systems that come with decalog, and of some more."""
    return [find_system(name).schema for name in SYSTEMS] + [system.schema for system in systems]


def marks_of(log: Log, tokens: Iterable[int]) -> list[bytes]:
    """Returns the keys of the entries of the vault's map that lead to tokens; it reads the whole map."""
    vault: Any = log.vault
    marks: list[bytes] = vault.marks(tuple(tokens))
    return marks


def images(log: Log, roots: Iterable[int]) -> Iterator[tuple[Record, Event]]:
    """Yields the present image of each chain of events and decisions, with its record."""
    for root in roots:
        record = log.before(root, log.position)
        if record.kind in ("event", "decision"):
            yield record, request_of(record)


def opened(log: Log, event: Event, *, whose: int = 0) -> dict[str, Plain]:
    """Returns the personal values of an event, none where their key is gone.

    A person's next key, which takes over when all that stays is sealed under it, is that of their token's negative.
    `whose` asks one of the two alone.
    """
    return _unsealed(log, (whose,) if whose else (event.subject, -event.subject), event.sealed, event.id)


def _unsealed(log: Log, subjects: Iterable[int], sealed: bytes, bound_to: str) -> dict[str, Plain]:
    vault: Any = log.vault
    for whose in subjects if sealed else ():
        if found := crypto.opened(log.vault.cipher(whose) if vault.holds(whose) else None, sealed, bound_to=bound_to):
            return found
    return {}


def _read(readings: Mapping[int, _Reading], records: Callable[[], Iterable[Record]]) -> None:
    """Lets each reading take what is its person's, and then find what of it is others' too."""
    gone = set[int]()  # whose entities they were, nobody is any more
    for record in records():
        if record.kind == "table" and record.id == ERASURES:
            gone.update(read_erasure(decode_table(record.body)).records)
        else:
            _take(readings, record)
    _compare(readings.values(), (r for r in records() if r.kind in ("event", "decision") and r.root not in gone))


def _take(readings: Mapping[int, _Reading], record: Record) -> None:
    if record.kind == "rejected":
        row = msgspec.msgpack.decode(record.body, type=Rejected)
        if row.subject in readings:
            readings[row.subject].refuse(record, row)
    elif record.kind == "outcome":
        for reading in readings.values():
            reading.hear(record)
    elif record.kind in ("event", "decision"):
        event = request_of(record)
        if event.subject in readings:
            # The whole chain is theirs, also where a correction says that it was somebody else after all: what was
            # decided on them stands at its root.
            readings[event.subject].take(record, event)


def _compare(readings: Iterable[_Reading], records: Iterable[Record]) -> None:
    owners: dict[tuple[str, int], list[_Reading]] = {}
    for reading in readings:
        for pair in reading.own:
            owners.setdefault(pair, []).append(reading)
    for event in map(request_of, records) if owners else ():
        for pair in event.entities.items():
            for reading in owners.get(pair, ()):
                reading.meet(pair, event.subject)


class _Known:
    """What schemas say of names: which entities are public, and what is personal at all."""

    def __init__(self, schemas: Iterable[Schema]) -> None:
        kinds = [(schema.system, kind) for schema in schemas for kind in (schema.request, *schema.events)]
        entities = [(system, entity) for system, kind in kinds for entity in kind.entities]
        self.public = {(system, entity.name) for system, entity in entities if entity.privacy == "public"}
        self.personal = {entity.name for _, entity in entities if entity.privacy != "public"}
        self.personal |= {field.name for _, kind in kinds for field in kind.fields if field.privacy != "public"}


class _Reading:
    """Collects what is of one person, record by record."""

    def __init__(self, before: Survey, log: Log, known: _Known) -> None:
        self._log, self._before, self._known = log, before, known
        self.chains = {root: system for system, roots in before.records.items() for root in roots}
        self._requests = {(system, id_): None for system, ids in before.requests.items() for id_ in ids}
        self._known_requests = frozenset(self._requests)
        self._decisions = {system: list(ids) for system, ids in before.decisions.items()}
        self.own, self._shared = dict.fromkeys(before.own), dict.fromkeys(before.shared)
        self._told = dict.fromkeys(before.values)
        self._quarantined = before.quarantined

    def take(self, record: Record, event: Event) -> None:
        """Takes a record of the person's."""
        self.chains[record.root] = record.system
        self._requests[record.system, record.id] = None
        for name, token in event.entities.items():
            if (record.system, name) not in self._known.public and (name, token) not in self._shared:
                self.own[name, token] = None
        self._tell(opened(self._log, event))
        if record.kind == "decision":
            decision = decode_decision(record.body)
            if decision.mode != "imported":  # of another system's nobody was told the id
                self._decisions.setdefault(record.system, []).append(decision.id)
                self._requests[record.system, decision.id] = None
            self._tell(_unsealed(self._log, (event.subject,), decision.sealed, decision.id))

    def hear(self, record: Record) -> None:
        """Takes an outcome of what the survey before knew; that of what is new is found by its target in the end."""
        if self._known_requests and (record.system, decode_outcome(record.body).target) in self._known_requests:
            self.chains[record.root] = record.system

    def refuse(self, record: Record, row: Rejected) -> None:
        """Takes a row in quarantine that is sealed under the person's key."""
        self._quarantined += 1
        raw = _unsealed(self._log, (row.subject,), row.sealed, record.id).get("row", "")
        try:
            said: Any = msgspec.json.decode(str(raw))
        except (msgspec.DecodeError, UnicodeDecodeError):
            said = {}  # cut short, or no JSON
        if isinstance(said, dict):
            self._tell({name: value for name, value in said.items() if name in self._known.personal})

    def meet(self, pair: tuple[str, int], subject: int) -> None:
        """Notes that one of the person's entities stands in a record of somebody's."""
        if subject != self._before.subject and pair[1] != self._before.subject and pair in self.own:
            del self.own[pair]
            self._shared[pair] = None

    def survey(self, position: int) -> Survey:
        """Returns what was collected."""
        records: dict[str, set[int]] = {}
        for root, system in self.chains.items():
            records.setdefault(system, set()).add(root)
        requests: dict[str, list[str]] = {}
        for system, id_ in self._requests:
            requests.setdefault(system, []).append(id_)
            if (system, id_) not in self._known_requests:
                reports = (self._log.get(seq) for seq in self._log.find("target", f"{system}/{id_}") if seq < position)
                records.setdefault(system, set()).update(report.root for report in reports)
        return Survey(
            subject=self._before.subject,
            position=position,
            records={system: tuple(sorted(roots)) for system, roots in records.items() if roots},
            requests={system: tuple(ids) for system, ids in requests.items()},
            decisions={system: tuple(ids) for system, ids in self._decisions.items()},
            own=tuple(self.own),
            shared=tuple(self._shared),
            quarantined=self._quarantined,
            values=tuple(self._told),
        )

    def _tell(self, values: Mapping[str, Any]) -> None:
        told = (Told(name, value) for name, value in values.items() if isinstance(value, int | float | str))
        self._told |= dict.fromkeys(told)
