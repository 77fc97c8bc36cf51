"""Stripe's events: what the log says as one, and what one says to us about a fraud."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from decalog.clock import rfc3339
from decalog.crypto import digest
from decalog.decisions import decode_decision
from decalog.errors import RequestError
from decalog.events import Record
from decalog.host import Host
from decalog.http.webhooks import Event
from decalog.outcomes import decode_outcome
from decalog.systems.fraud import wire_objects as objects
from decalog.systems.fraud.policy import BLOCK, REVIEW, STEP_UP
from decalog.systems.fraud.wire_objects import CHARGE, CLOSED, Json, Payment, minor_of

_ASKING: Mapping[str, tuple[str, Callable[[Payment], Json]]] = {
    REVIEW: ("review.opened", objects.review),
    BLOCK: ("payment_intent.payment_failed", objects.payment_intent),
    STEP_UP: ("payment_intent.requires_action", objects.payment_intent),
}


def tell(host: Host, record: Record) -> Event | None:
    """Returns what a record says to endpoints, or None where it asks for no reaction."""
    name, told = "", None
    if record.kind == "decision":
        decision = decode_decision(record.body)
        if decision.mode in ("live", "fallback") and decision.acted in _ASKING:
            name, make = _ASKING[decision.acted]
            told = make(Payment(record, decision, ()))
    elif record.kind == "outcome" and not record.reason:
        name, told = _told_of_outcome(host, record)
    if told is None:
        return None
    created = record.known_time // 1_000_000
    # Of this record alone: a log restored from a backup goes on with others under the same seqs.
    place = f"{record.partition} {record.seq} {record.known_time} {record.id}".encode()
    id_ = "evt_" + digest(host.log.vault.secret("wire"), b"event", place, size=12).hex()
    body = {"id": id_, "object": "event", "api_version": objects.API_VERSION, "created": created, "livemode": True}
    body |= {"data": {"object": told}, "pending_webhooks": 1, "type": name}
    return Event(name, msgspec.json.encode(body))


def _told_of_outcome(host: Host, record: Record) -> tuple[str, Json | None]:
    outcome = decode_outcome(record.body)
    payment = payment_of_outcome(host, record, before=record.seq + 1)
    if outcome.kind == "fraud_warning":
        return "radar.early_fraud_warning.created", objects.early_fraud_warning(payment, outcome)
    if outcome.kind == "chargeback":
        is_over = outcome.value == 0 or outcome.id.endswith(CLOSED)
        return f"charge.dispute.{'closed' if is_over else 'created'}", objects.dispute(payment, outcome)
    is_over = outcome.kind == "analyst_verdict" and payment is not None and payment.action == REVIEW
    return ("review.closed", objects.review(payment)) if payment and is_over else ("", None)


def payment_of_outcome(host: Host, record: Record, *, before: int) -> Payment | None:
    """Returns the payment that an outcome is about, as known before a log position; None where it is not logged."""
    system, id_ = record.system, decode_outcome(record.body).target
    seqs = host.log.find("request", f"{system}/{id_}")
    request = host.log.get(seqs[0]) if seqs and seqs[0] < before else None
    if request is None or request.kind != "decision":
        return None
    reports = [told for told in host.outcomes(system, id_) if told[0].seq < before]
    return Payment(request, decode_decision(request.body), reports)


class Reported(msgspec.Struct, frozen=True, omit_defaults=True):
    """An outcome as admission takes it."""

    id: str
    payment: str
    kind: str
    source: str
    value: float
    event_time: str | None = None
    amount_minor: int | None = None
    currency: str = ""


async def report(host: Host, system: str, *, reported: Reported) -> None:
    """Logs an outcome, durable.

    Raises:
        RequestError: admission put it into quarantine.
    """
    (row,) = await host.add_outcomes(system, msgspec.json.encode(reported))
    if row.status == "rejected":
        raise RequestError(
            where=f"{system} report, {row.reason}",
            given="a report that was put into quarantine",
            expected="a report that fits what was logged",
            fix=row.message,
        )


class _Object(msgspec.Struct):
    id: str
    created: int
    payment_intent: str | dict[str, Any] | None = None
    charge: str | dict[str, Any] | None = None
    amount: int | None = None
    currency: str = ""
    reason: str = ""
    status: str = ""
    closed_reason: str | None = None


class _Data(msgspec.Struct):
    object: Any


class _Event(msgspec.Struct):
    type: str
    created: int
    data: _Data


_INQUIRY = "warning_"
"""Leads the status of a dispute that is only asked about; that it became a chargeback is told by what is withdrawn."""

# Type of event → outcome's kind and source, whether it ends what another event began, and field → value that it means.
_READ: Mapping[str, tuple[str, str, str, str, Mapping[str, int]]] = {
    "charge.dispute.created": ("chargeback", "issuer", "", "reason", {"fraudulent": 1}),
    "charge.dispute.funds_withdrawn": ("chargeback", "issuer", "", "reason", {"fraudulent": 1}),
    "charge.dispute.closed": ("chargeback", "issuer", CLOSED, "status", {"won": 0, "lost": 1}),
    "radar.early_fraud_warning.created": ("fraud_warning", "network", "", "reason", {"": 1}),
    "review.closed": ("analyst_verdict", "analyst", CLOSED, "closed_reason", {"approved": 0, "refunded_as_fraud": 1}),
}


def report_of(raw: bytes, is_known: Callable[[str], bool]) -> Reported | None:
    """Returns what an event reports, or None for one that says nothing about fraud, as a dispute for another reason.

    Two events of one object are two reports, whatever their order: the later of them holds. The same event again is the
    same report.

    Args:
        raw: the event as JSON, its signature checked.
        is_known: whether a payment has this id.

    Raises:
        RequestError: it is no event.
    """
    event, told = _read(raw)
    kind, source, suffix, field, values = _READ.get(event.type, ("", "", "", "reason", {}))
    value = values.get(getattr(told, field) or "")
    is_other = kind == "chargeback" and (told.reason != "fraudulent" or told.status.startswith(_INQUIRY))
    if value is None or is_other:
        return None
    time = rfc3339((event.created if suffix else told.created) * 1_000_000)
    made = Reported(told.id + suffix, _payment(told, is_known), kind, source, value, time)
    amount = None if told.amount is None else minor_of(told.amount, told.currency.upper())
    if amount is None or kind != "chargeback":
        return made
    return msgspec.structs.replace(made, amount_minor=amount, currency=told.currency.upper())


def _read(raw: bytes) -> tuple[_Event, _Object]:
    try:
        event = msgspec.json.decode(raw, type=_Event)
        return event, msgspec.convert(event.data.object, _Object) if event.type in _READ else _Object("", 0)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise RequestError(
            where="event, body",
            given="no event of Stripe's",
            expected="JSON with type, created and data.object",
            fix="Send it as it was signed.",
        ) from None


def _payment(told: _Object, is_known: Callable[[str], bool]) -> str:
    """Returns the id of the payment that an object is about; one that is not logged yet may come later."""
    named = [_id(told.payment_intent), _id(told.charge), _id(told.charge).removeprefix(CHARGE)]
    given = [id_ for id_ in named if id_]
    return next((id_ for id_ in given if is_known(id_)), given[0] if given else "")


def _id(of: str | dict[str, Any] | None) -> str:
    return of if isinstance(of, str) else str((of or {}).get("id", ""))
