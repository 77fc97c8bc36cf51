"""What a person may be told: everything that is kept of them, and the logic of each decision about them.

GDPR articles 15, 20 and 22; of California's rules on automated decision-making, what a consumer may ask for. It reads
explanations, so a server runs it in a process of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import msgspec

from decalog.clock import rfc3339
from decalog.decisions import Decision, decode_decision
from decalog.deployment import Deployment
from decalog.errors import DecalogError
from decalog.events import Record
from decalog.explaining import Explainer
from decalog.home import Home
from decalog.ingest import request_of
from decalog.log import Log
from decalog.outcomes import Outcome, decode_outcome
from decalog.privacy.live import ACCESSES
from decalog.privacy.subjects import Plain, Survey, find_subject, models_of, opened, schemas_of, survey
from decalog.standing import CONTESTS, WISHES, Standing
from decalog.system import SYSTEMS, System, find_system
from decalog.tables import Tables

_MOST = 1_000


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """An outcome: what was reported, by which source, and by whom where a person did."""

    kind: str
    source: str
    event_time: str
    value: float
    attributes: dict[str, Plain] = {}


class Reasoned(msgspec.Struct, frozen=True, kw_only=True):
    """A decision and its logic.

    Args:
        id: of it.
        action: that was taken.
        mode: live, or a fallback; `fallback` says why nothing was predicted.
        reasons: of the policy, guardrails among them.
        predictions: that it rested on.
        because: what moved the prediction, strongest first, in the field's words.
        would_change: the nearest facts that would have made another action.
        not_explained: why there is no more to say, or "".
        versions: of model, policy, features and runtime.
        notice: id of the notice that was in force, or "".
    """

    id: str
    action: str
    mode: str
    fallback: str
    reasons: tuple[str, ...]
    predictions: dict[str, float]
    because: tuple[str, ...]
    would_change: tuple[str, ...]
    not_explained: str
    versions: dict[str, str]
    notice: str


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is kept of a person: what they did, with what was decided and what became of it."""

    system: str
    kind: str
    id: str
    event_time: str
    known_time: str
    public: dict[str, Plain]
    personal: dict[str, Plain]
    decision: Reasoned | None = None
    outcomes: tuple[Report, ...] = ()

    def lines(self) -> Iterator[str]:
        """Yields it in words."""
        said = ", ".join(f"{name} {value}" for name, value in (self.personal | self.public).items())
        yield f"{self.event_time}  {self.system} {self.kind} {self.id}: {said}"
        if self.decision is not None:
            yield from (f"    {line}" for line in _reasoned(self.decision))
        for one in self.outcomes:
            by = f" by {one.attributes['by']}" if "by" in one.attributes else ""
            yield f"    {one.event_time}  {one.kind} {one.value:g}, told by {one.source}{by}"


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """All that is kept of a person.

    Args:
        system: that was asked.
        entity: by which they were named.
        found: whether anything is kept.
        to: of the log, RFC 3339.
        records: oldest first.
        quarantined: refused rows that lie sealed under their key.
        wishes: that stand.
        contests: ids of decisions that they contested.
        models: system → those that learnt from them.
        looked: who was told of them, or reported on them: when, who, and what.
    """

    system: str
    entity: str
    found: bool
    to: str = ""
    records: tuple[Kept, ...] = ()
    quarantined: int = 0
    wishes: tuple[str, ...] = ()
    contests: tuple[str, ...] = ()
    models: dict[str, tuple[str, ...]] = {}
    looked: tuple[str, ...] = ()

    def text(self) -> str:
        """Returns it for people."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        if not self.found:
            yield "nothing is kept of anybody of that name"
            return
        yield f"{len(self.records):,} records of {self.system} and other systems, to {self.to}"
        yield from (line for kept in self.records for line in kept.lines())
        yield from (f"wish: {wish}" for wish in self.wishes)
        yield from (f"contested: decision {decision}" for decision in self.contests)
        yield from (f"learnt from them: {name} model {one[:12]}" for name, made in self.models.items() for one in made)
        yield from (f"looked at: {line}" for line in self.looked)


def _reasoned(made: Reasoned) -> Iterator[str]:
    notice = f", notice {made.notice}" if made.notice else ""
    fallback = f" ({made.fallback})" if made.fallback else ""
    yield f"decided: {made.action}, {made.mode}{fallback}; decision {made.id}{notice}"
    yield from (f"because {reason}" for reason in made.reasons)
    yield from (f"moved by {line}" for line in made.because)
    yield from (f"would have changed it: {line}" for line in made.would_change)
    yield from [made.not_explained] if made.not_explained else []
    yield "decided with " + ", ".join(f"{name} {version}" for name, version in made.versions.items() if version)


def account(home: Home, name: str, *, person: str, entity: str = "", most: int = _MOST) -> Account:
    """Returns what is kept of a person, in the clear, and the logic of each decision about them.

    Args:
        home: of the deployment; its server may run.
        name: of the system whose words for people are used; what other systems keep of them stands there too.
        person: the value, as requests have it.
        entity: that it is a value of; the first that may be a request's subject, if nothing is said.
        most: decisions that are explained, the newest; the others stand with their reasons alone.
    """
    system = find_system(name)
    with closing(home.reader()) as log:
        token = find_subject(system, log, person=person, entity=entity)
        if token is None:
            return Account(system=system.name, entity=entity, found=False)
        found = survey(log, token, schemas=schemas_of(system))
        telling = _Telling(home, log, found, system=system, most=most)
        records = tuple(sorted(telling.kept(), key=lambda kept: kept.event_time))
        return Account(
            system=system.name,
            entity=entity,
            found=True,
            to=rfc3339(log.known_time),
            records=records,
            quarantined=found.quarantined,
            wishes=tuple(telling.wishes()),
            contests=tuple(telling.contests()),
            models=models_of(home, found),
            looked=tuple(telling.looked(records)),
        )


class _Telling:
    def __init__(self, home: Home, log: Log, found: Survey, *, system: System, most: int) -> None:
        self._log, self._found, self._asked = log, found, system
        self._tables = Tables(log)
        self._explained = {id_ for ids in found.decisions.values() for id_ in ids[-most:]} if most else set[str]()
        known = {system.name: system} | {name: find_system(name) for name in SYSTEMS if name != system.name}
        self._explainers = {
            name: Explainer(Deployment(home, known[name], log).as_served()) for name in found.records if name in known
        }
        self._standing = {name: Standing.of(log, name) for name in found.records}

    def kept(self) -> Iterator[Kept]:
        """Yields what is kept, each chain of corrections as it stands; what was withdrawn or erased is left out."""
        for system, roots in self._found.records.items():
            for root in roots:
                first, last = self._log.get(root), self._log.before(root, self._log.position)
                if first.kind == "outcome" or root in self._standing[system].erased:
                    continue
                event = request_of(last)
                if not event.deleted:
                    yield Kept(
                        system=system,
                        kind=event.kind,
                        id=first.id,
                        event_time=rfc3339(event.event_time),
                        known_time=rfc3339(first.known_time),
                        public=dict(event.attributes),
                        personal=opened(self._log, event),
                        decision=self._reasoned(first) if first.kind == "decision" else None,
                        outcomes=tuple(self._reports(first)),
                    )

    def wishes(self) -> Iterator[str]:
        """Yields what of the asked system the person wishes, in words."""
        last: dict[str, dict[str, Any]] = {}
        for stored in self._tables.history(self._asked.name, WISHES):
            if stored.content["subject"] == self._found.subject:
                last[stored.content["wish"]] = {**stored.content, "since": stored.known_time}
        yield from (f"{name} since {one['since']}" for name, one in last.items() if one.get("on", True))

    def contests(self) -> Iterator[str]:
        """Yields the ids of decisions that were contested."""
        for system, ids in self._found.decisions.items():
            told = {stored.content["decision"] for stored in self._tables.history(system, CONTESTS)}
            yield from (id_ for id_ in ids if id_ in told)

    def looked(self, records: tuple[Kept, ...]) -> Iterator[str]:
        """Yields who was told of the person, and who reported on what they did."""
        for kept in records:
            for one in kept.outcomes:
                if "by" in one.attributes:
                    yield f"{one.event_time}, {one.attributes['by']}: {one.kind} of {kept.id}"
        for stored in self._tables.history(self._asked.name, ACCESSES):
            if stored.content["subject"] == self._found.subject:
                yield f"{stored.known_time}, {stored.content['by']}: asked for what is kept"

    def _reports(self, record: Record) -> Iterator[Report]:
        ids = [record.id]
        ids += [decode_decision(record.body).id] if record.kind == "decision" else []
        seqs = sorted(seq for id_ in ids for seq in self._log.find("target", f"{record.system}/{id_}"))
        for root in dict.fromkeys(self._log.get(seq).root for seq in seqs):
            outcome: Outcome = decode_outcome(self._log.before(root, self._log.position).body)
            if not outcome.deleted:
                yield Report(
                    kind=outcome.kind,
                    source=outcome.source,
                    event_time=rfc3339(outcome.event_time),
                    value=outcome.value,
                    attributes=outcome.attributes,
                )

    def _reasoned(self, record: Record) -> Reasoned:
        made = decode_decision(record.body)
        because, would_change, not_explained = self._why(record.system, made)
        lead = made.lead
        return Reasoned(
            id=made.id,
            action=made.acted,
            mode=made.mode,
            fallback=made.fallback,
            reasons=made.choice.reasons,
            predictions={} if lead is None else lead.predictions,
            because=because,
            would_change=would_change,
            not_explained=not_explained,
            versions={name: str(value) for name, value in msgspec.structs.asdict(made.versions).items()},
            notice=self._standing[record.system].notice(record.seq),
        )

    def _why(self, system: str, made: Decision) -> tuple[tuple[str, ...], tuple[str, ...], str]:
        if made.mode == "imported" or made.id not in self._explained or system not in self._explainers:
            return (
                (),
                (),
                "made elsewhere" if made.mode == "imported" else "not explained: others are newer",
            )
        try:
            told = self._explainers[system].explain(made.id)
        except DecalogError as error:  # what it needs is gone, erased with somebody else
            return (), (), str(error)
        slots = tuple(line for slot in told.slots for line in slot.lines())
        because = (*(one.text() for one in told.explanation), *slots)
        return because, tuple(flip.text() for flip in told.would_change), told.nothing_else
