"""From records to the changes that feature views fold: the one place that says what a record means to a view."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Protocol

import msgspec

from decalog.candidates import Candidate, named
from decalog.decisions import Decision, decode_decision
from decalog.events import Event, Record, decode_event, decode_table
from decalog.features.definition import SHOWN, Reads
from decalog.features.facts import Change, Fact, Point, TableVersion, about, laid_over
from decalog.outcomes import Outcome, decode_outcome
from decalog.standing import ERASURES, read_erasure

LAST_ROOT = 2**62
"""Root of a request's own event before it has a seq: the last among ties, whatever the log holds."""

NO_FURTHER = Reads()


class Past(Protocol):
    """What folding asks about records before the one at hand; the log itself can tell."""

    def before(self, root: int, seq: int) -> Record:
        """Returns the version of a chain of corrections that stood before `seq`."""

    def request(self, system: str, id_: str, *, seq: int) -> Record | None:
        """Returns the version of a request that stood before `seq`, or None where there was none."""


def fact(event: Event, root: int) -> Fact:
    """Returns an event as a row of the views."""
    return Fact(root, event.event_time, event.kind, event.entities, event.attributes)


def decision_fact(decision: Decision, root: int) -> Fact:
    """Returns a decision as a row of kind `decision.<action>`, by the action that really happened."""
    request = decision.request
    return Fact(root, request.event_time, f"decision.{decision.acted}", request.entities, request.attributes)


def point(event: Event, state_seq: int, *, root: int = -1, of: Candidate | None = None) -> Point:
    """Returns where a request's features are asked for: at its own time, its own event folded last among ties.

    `root` is the seq of its logged record, for hindsight at a position that already holds it. `of` is the candidate
    whose features they are: its entities and facts lie over the request's.
    """
    asked = Point(state_seq, event.event_time, root, fact(event, LAST_ROOT))
    return asked if of is None else laid_over(asked, of)


def changes_of(
    record: Record, body: Event | Decision | Outcome | None, *, past: Past, reads: Reads = NO_FURTHER
) -> tuple[Change, ...]:
    """Returns what a record changes in the views of its system; rejected rows change nothing.

    Args:
        record: stamped.
        body: its decoded body, or None to decode it here.
        past: the records before it.
        reads: what the views read; the rest is not looked at.
    """
    if record.reason:
        return ()
    if record.kind == "event":
        return _event_changes(record, body if isinstance(body, Event) else decode_event(record.body), past=past)
    if record.kind == "decision":
        decision = body if isinstance(body, Decision) else decode_decision(record.body)
        return _decision_changes(record, decision, reads=reads)
    return _further_changes(record, past=past, reads=reads)


def changes(records: Iterable[Record], system: str, *, past: Past, reads: Reads = NO_FURTHER) -> Iterator[Change]:
    """Yields the changes of one system's records, in their order.

    Args:
        records: in log order.
        system: whose views are folded.
        past: as for `changes_of`.
        reads: as for `changes_of`.
    """
    for record in records:
        if record.system == system:
            yield from changes_of(record, None, past=past, reads=reads)


def table_version(record: Record) -> TableVersion:
    """Returns a version of a lookup table: the numbers of its JSON object; what is no number is left out."""
    content = msgspec.json.decode(decode_table(record.body).content)
    entries = content.items() if isinstance(content, dict) else ()
    numbers = {key: float(value) for key, value in entries if isinstance(value, int | float)}
    return TableVersion(record.id, numbers)


def _further_changes(record: Record, *, past: Past, reads: Reads) -> tuple[Change, ...]:
    if record.kind == "outcome" and reads.outcomes:
        return _outcome_changes(record, past)
    if record.kind == "table" and record.id == ERASURES:
        return tuple(_erased(record, past, reads))
    if record.kind == "table" and (reads.tables is None or record.id in reads.tables):
        return (Change(record.seq, record.known_time, table=table_version(record)),)
    return ()


def _decision_changes(record: Record, decision: Decision, *, reads: Reads) -> tuple[Change, ...]:
    acted = decision_fact(decision, record.root)
    facts = [fact(decision.request, record.root), acted, *_shown(decision, acted, reads)]
    if decision.propensity < 1.0 and not decision.choice.verb:
        # Rows of their own kind, so that a view over the drawn few does not hold the many: a budget to explore is one.
        facts.append(msgspec.structs.replace(acted, kind=f"drawn.{decision.acted}"))
    return tuple(Change(record.seq, record.known_time, None, plus) for plus in facts)


def _shown(decision: Decision, acted: Fact, reads: Reads) -> Iterator[Fact]:
    """Yields a row for each thing that was shown, with its entities and what is read of it, where slots hold things."""
    happened = decision.happened
    if happened is None or not happened.verb:
        return
    by_ref = named(decision.candidates, (slot.ref for slot in happened.slots), attributes=reads.shown)
    for place, slot in enumerate(happened.slots):
        over = about(acted, by_ref[slot.ref]) if slot.ref in by_ref else acted
        # A microsecond apart, in the order of the slate: one author may stand in several slots, and rows of an entity
        # are told apart by time, root and kind.
        attributes = {**over.attributes, **slot.attributes}
        yield Fact(over.root, acted.event_time + place, SHOWN, over.entities, attributes)


def _event_changes(record: Record, event: Event, *, past: Past) -> tuple[Change, ...]:
    seq, known = record.seq, record.known_time
    plus = None if event.deleted else fact(event, record.root)
    if record.root == seq:
        return (Change(seq, known, None, plus),)
    earlier = _image(past.before(record.root, seq))
    minus = None if earlier.deleted else fact(earlier, record.root)
    return (Change(seq, known, minus, plus),)


def _outcome_changes(record: Record, past: Past) -> tuple[Change, ...]:
    seq, known = record.seq, record.known_time
    gone = () if record.root == seq else outcome_facts(past.before(record.root, seq), past)
    return (
        *(Change(seq, known, minus, None) for minus in gone),
        *(Change(seq, known, None, plus) for plus in outcome_facts(record, past)),
    )


def _erased(record: Record, past: Past, reads: Reads) -> Iterator[Change]:
    """Yields what an erasure takes out: every row that a record of the erased person has put in."""
    for root in read_erasure(decode_table(record.body)).records:
        first, last = past.before(root, root + 1), past.before(root, record.seq)
        if first.kind == "outcome":
            rows = outcome_facts(last, past) if reads.outcomes else ()
        else:
            image = _image(last)
            rows = () if image.deleted else (fact(image, root),)
        if first.kind == "decision":
            # The first row is the request as it was asked, which corrections have replaced.
            added = _decision_changes(first, decode_decision(first.body), reads=reads)[1:]
            rows = (*rows, *(change.plus for change in added if change.plus is not None))
        yield from (Change(record.seq, record.known_time, row) for row in rows)


def outcome_facts(record: Record, past: Past) -> tuple[Fact, ...]:
    """Returns an outcome as rows: `outcome.<kind>` when it happened, and `labelled.<kind>` when its request did.

    Both have the entities and public values of the request as it stood when the outcome was logged, under those of the
    candidate that `ref` names, and what the outcome says: `value`, `amount_minor`, and its kind's own values. One whose
    request is not in the log yet, or was deleted, gives no rows, then or later: what a view held at a position never
    changes.
    """
    outcome = decode_outcome(record.body)
    target = past.request(record.system, outcome.target, seq=record.seq) if outcome.target else None
    request = None if target is None or outcome.deleted else _asked(target, outcome.ref)
    if request is None:
        return ()
    said = {"value": int(outcome.value) if outcome.value.is_integer() else outcome.value}
    money = {} if outcome.amount_minor is None else {"amount_minor": outcome.amount_minor}
    attributes = {**request.attributes, **outcome.attributes, **said, **money}
    entities = {**request.entities, **outcome.entities}
    return (
        Fact(record.root, outcome.event_time, f"outcome.{outcome.kind}", entities, attributes),
        Fact(record.root, request.event_time, f"labelled.{outcome.kind}", entities, attributes),
    )


def _asked(record: Record, ref: str) -> Fact | None:
    """Returns the request that an outcome is about, under the shown thing that it names; None where it was deleted."""
    if record.kind == "event":
        event = decode_event(record.body)
        return None if event.deleted else fact(event, record.root)
    asked, shown = _remembered(record.body, record.root)
    return shown.get(ref, asked)


@lru_cache(maxsize=1_024)
def _remembered(body: bytes, root: int) -> tuple[Fact, dict[str, Fact]]:
    """Returns a decision's request, and the same about each thing shown: outcomes of a slate come in swarms."""
    decision = decode_decision(body)
    asked, happened = fact(decision.request, root), decision.happened
    shown = {slot.ref for slot in happened.slots} if happened is not None and happened.verb else set[str]()
    return asked, {ref: about(asked, one) for ref, one in named(decision.candidates, shown).items()}


def body_of(record: Record) -> Event | Decision | Outcome | None:
    """Returns a record's body; None for tables and what was rejected."""
    match record.kind:
        case "event":
            return decode_event(record.body)
        case "decision":
            return decode_decision(record.body)
        case "outcome":
            return decode_outcome(record.body)
        case _:
            return None


def _image(record: Record) -> Event:
    return decode_event(record.body) if record.kind == "event" else decode_decision(record.body).request
