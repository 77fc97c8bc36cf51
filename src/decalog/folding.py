"""From records to the changes that feature views fold: the one place that says what a record means to a view."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from decalog.decisions import Decision, decode_decision
from decalog.events import Event, Record, decode_event
from decalog.features.facts import Change, Fact, Point

LAST_ROOT = 2**62
"""Root of a request's own event before it has a seq: the last among ties, whatever the log holds."""

Before = Callable[[int, int], Record]


def fact(event: Event, root: int) -> Fact:
    """Returns an event as a row of the views."""
    return Fact(root, event.event_time, event.kind, event.entities, event.attributes)


def decision_fact(decision: Decision, root: int) -> Fact:
    """Returns a decision as a row of kind `decision.<action>`, by the action that really happened."""
    request = decision.request
    return Fact(root, request.event_time, f"decision.{decision.acted}", request.entities, request.attributes)


def point(event: Event, state_seq: int, *, root: int = -1) -> Point:
    """Returns where a request's features are asked for: at its own time, its own event folded last among ties.

    `root` is the seq of its logged record, for hindsight at a position that already holds it.
    """
    return Point(state_seq, event.event_time, root, fact(event, LAST_ROOT))


def changes_of(record: Record, body: Event | Decision | None, *, before: Before) -> tuple[Change, ...]:
    """Returns what a record changes in the views of its system; outcomes, tables and rejected rows change nothing.

    Args:
        record: stamped.
        body: its decoded body, or None to decode it here.
        before: (root, seq) → the version of a chain of corrections that stood before seq (`Log.before`).
    """
    if record.reason or record.kind not in ("event", "decision"):
        return ()
    seq, known = record.seq, record.known_time
    if record.kind == "decision":
        decision = body if isinstance(body, Decision) else decode_decision(record.body)
        request = Change(seq, known, None, fact(decision.request, record.root))
        return (request, Change(seq, known, None, decision_fact(decision, record.root)))
    event = body if isinstance(body, Event) else decode_event(record.body)
    plus = None if event.deleted else fact(event, record.root)
    if record.root == seq:
        return (Change(seq, known, None, plus),)
    earlier = _image(before(record.root, seq))
    minus = None if earlier.deleted else fact(earlier, record.root)
    return (Change(seq, known, minus, plus),)


def changes(records: Iterable[Record], system: str, *, before: Before) -> Iterator[Change]:
    """Yields the changes of one system's records, in their order.

    Args:
        records: in log order.
        system: whose views are folded.
        before: as for `changes_of`.
    """
    for record in records:
        if record.system == system:
            yield from changes_of(record, None, before=before)


def _image(record: Record) -> Event:
    return decode_event(record.body) if record.kind == "event" else decode_decision(record.body).request
