"""Stripe's events about disputes, early fraud warnings and reviews as outcomes of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from decalog.clock import rfc3339
from decalog.errors import RequestError
from decalog.systems.fraud.wire_objects import CHARGE, CLOSED, minor_of

_VERDICTS: Mapping[str, int] = {"approved": 0, "refunded_as_fraud": 1}
_SETTLED: Mapping[str, int] = {"won": 0, "lost": 1}


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
    object: _Object


class _Event(msgspec.Struct):
    type: str
    created: int
    data: _Data


class _Named(msgspec.Struct):
    type: str


def report_of(raw: bytes, is_known: Callable[[str], bool]) -> Reported | None:
    """Returns what an event reports, or None for one that says nothing about fraud.

    A dispute for another reason than fraud says nothing. Two events of one object are two reports, whatever their
    order: the later of them holds. The same event again is the same report.

    Args:
        raw: the event as JSON, its signature checked.
        is_known: whether a payment has this id.

    Raises:
        RequestError: it is no event.
    """
    try:
        if msgspec.json.decode(raw, type=_Named).type not in _READ:
            return None
        event = msgspec.json.decode(raw, type=_Event)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise RequestError(
            where="event, body",
            given="no event of Stripe's",
            expected="JSON with type, created and data.object",
            fix="Send it as it was signed.",
        ) from None
    return _READ[event.type](event, _payment(event.data.object, is_known))


def _opened(event: _Event, payment: str) -> Reported | None:
    told = event.data.object
    if told.reason != "fraudulent":
        return None
    currency = told.currency.upper()
    amount = None if told.amount is None else minor_of(told.amount, currency)
    currency = "" if amount is None else currency
    return Reported(told.id, payment, "chargeback", "issuer", 1, _time(told.created), amount, currency)


def _settled(event: _Event, payment: str) -> Reported | None:
    told = event.data.object
    value = _SETTLED.get(told.status)
    if told.reason != "fraudulent" or value is None:
        return None
    return Reported(told.id + CLOSED, payment, "chargeback", "issuer", value, _time(event.created))


def _warned(event: _Event, payment: str) -> Reported | None:
    told = event.data.object
    return Reported(told.id, payment, "fraud_warning", "network", 1, _time(told.created))


def _reviewed(event: _Event, payment: str) -> Reported | None:
    told = event.data.object
    value = _VERDICTS.get(told.closed_reason or "")
    if value is None:
        return None
    return Reported(told.id + CLOSED, payment, "analyst_verdict", "analyst", value, _time(event.created))


_READ: Mapping[str, Callable[[_Event, str], Reported | None]] = {
    "charge.dispute.created": _opened,
    "charge.dispute.closed": _settled,
    "radar.early_fraud_warning.created": _warned,
    "review.closed": _reviewed,
}


def _payment(told: _Object, is_known: Callable[[str], bool]) -> str:
    """Returns the id of the payment that an object is about; one that is not logged yet may come later."""
    named = [_id(told.payment_intent), _id(told.charge), _id(told.charge).removeprefix(CHARGE)]
    given = [id_ for id_ in named if id_]
    return next((id_ for id_ in given if is_known(id_)), given[0] if given else "")


def _id(of: str | dict[str, Any] | None) -> str:
    return of if isinstance(of, str) else str((of or {}).get("id", ""))


def _time(seconds: int) -> str:
    return rfc3339(seconds * 1_000_000)
