"""Payments, reviews and reports as Stripe's objects, made from the log alone; nothing personal is told.

A payment has one id of ours. Its charge is `ch_` and its review `prv_` before that id, so that each of the three finds
the others; disputes and early fraud warnings are outcomes, under the outcome's own id.
Source: the Stripe API reference, version `API_VERSION`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from decalog.decisions import Decision
from decalog.events import Record
from decalog.http.problems import Answer, Refusal
from decalog.http.routes import JSON
from decalog.http.webhooks import Endpoint
from decalog.outcomes import Outcome
from decalog.systems.fraud.policy import ALLOW, BLOCK, HEAD, REVIEW, STEP_UP

API_VERSION = "2026-10-28.endive"
CHARGE, REVIEW_ID, CLOSED = "ch_", "prv_", ".closed"
ELEVATED, HIGHEST = 65, 75
"""Radar's risk scores from which a payment counts as elevated and as highest risk."""

Json = dict[str, Any]

_FAILED = "failed"
"""A step-up that the payer failed or gave up."""

# What became of a payment → status of its PaymentIntent, of its charge, and type of its outcome.
_TOLD: Mapping[str, tuple[str, str, str]] = {
    ALLOW: ("succeeded", "succeeded", "authorized"),
    REVIEW: ("requires_capture", "succeeded", "manual_review"),
    STEP_UP: ("requires_action", "pending", "step_up"),
    _FAILED: ("requires_payment_method", "failed", "step_up"),
    BLOCK: ("requires_payment_method", "failed", "blocked"),
}
_UNTOLD = {"amount_minor", "amount_base_minor", "currency"}

# Stripe's units where they are not ISO 4217's: it counts MGA without decimals, and ISK and UGX as if they had two.
_UNITS = {"MGA": (100, 1), "ISK": (1, 100), "UGX": (1, 100)}


class Payment(NamedTuple):
    """A decided payment and what was reported about it, in log order."""

    record: Record
    decision: Decision
    reports: Sequence[tuple[Record, Outcome]]

    @property
    def id(self) -> str:
        """The payment's id."""
        return self.decision.request.id

    @property
    def action(self) -> str:
        """What happened: in shadow, what the caller's own system did, or nothing."""
        return self.decision.acted or ALLOW

    @property
    def state(self) -> str:
        """What became of it: the action, but for a step-up that has ended."""
        passed = self.last("authentication") if self.action == STEP_UP else None
        return self.action if passed is None else ALLOW if passed else _FAILED

    @property
    def verdict(self) -> float | None:
        """The last analyst's verdict: 1 fraud, 0 genuine; None while there is none."""
        return self.last("analyst_verdict")

    def last(self, kind: str) -> float | None:
        """Returns which of 0 and 1 was reported last by a kind of outcome, None where neither was."""
        return next((t.value for _, t in reversed(self.reports) if t.kind == kind and t.value in (0, 1)), None)

    def told_of(self, kind: str) -> bool:
        """Whether it was reported as a fraud by a kind of outcome."""
        return any(told.kind == kind and told.value == 1 for _, told in self.reports)


def minor_of(amount: int, currency: str) -> int | None:
    """Returns an amount of Stripe's in ISO 4217's minor units, or None where the currency has no such amount.

    >>> minor_of(1200, "JPY"), minor_of(500, "ISK"), minor_of(510, "ISK"), minor_of(7, "MGA")
    (1200, 5, None, 700)
    """
    times, per = _UNITS.get(currency, (1, 1))
    return None if amount % per else amount * times // per


def amount_of(minor: int, currency: str) -> int:
    """Returns an amount in Stripe's units: the way back from `minor_of`."""
    times, per = _UNITS.get(currency, (1, 1))
    return minor * per // times


def payment_intent(payment: Payment, expand: Sequence[str] = ()) -> Json:
    """Returns the PaymentIntent of a payment; `expand` may name latest_charge and review."""
    made, state = charge(payment), payment.state
    errors = {
        BLOCK: {"code": "card_declined", "decline_code": "fraudulent", "type": "card_error", "charge": made["id"]},
        _FAILED: {"code": "payment_intent_authentication_failure", "type": "card_error", "charge": made["id"]},
    }
    opened = review(payment) if state == REVIEW else None
    return intent(payment.id, status=_TOLD[state][0]) | {
        **{name: made[name] for name in ("amount", "currency", "created", "livemode", "metadata")},
        "amount_received": made["amount_captured"],
        "amount_capturable": made["amount"] if state == REVIEW else 0,
        "last_payment_error": errors.get(state),
        "latest_charge": made if "latest_charge" in expand else made["id"],
        "next_action": {"type": "use_stripe_sdk", "use_stripe_sdk": {"type": STEP_UP}} if state == STEP_UP else None,
        "review": opened if opened is None or "review" in expand else opened["id"],
    }


def intent(id_: str, *, status: str) -> Json:
    """Returns what each PaymentIntent has; one that is not decided yet has little more."""
    return {
        "id": id_,
        "object": "payment_intent",
        "customer": None,
        "latest_charge": None,
        "livemode": True,
        "metadata": {},
        "payment_method": None,
        "status": status,
    }


def charge(payment: Payment) -> Json:
    """Returns the Charge of a payment, with the outcome as Radar tells it."""
    request, state = payment.decision.request, payment.state
    currency = str(request.attributes.get("currency", ""))
    amount = amount_of(int(request.attributes.get("amount_minor", 0)), currency)
    blocked, paid = state == BLOCK, state in (ALLOW, REVIEW)
    said = None if payment.verdict is None else "fraudulent" if payment.verdict else "safe"
    return {
        "id": CHARGE + payment.id,
        "object": "charge",
        "amount": amount,
        "amount_captured": amount if state == ALLOW else 0,
        "captured": state == ALLOW,
        "created": payment.record.known_time // 1_000_000,
        "currency": currency.lower(),
        "customer": None,
        "disputed": payment.told_of("chargeback"),
        "failure_code": "card_declined" if blocked else None,
        "failure_message": "The payment was blocked." if blocked else None,
        "fraud_details": {"user_report": said} if said else {},
        "livemode": payment.decision.mode in ("live", "fallback"),
        "metadata": {name: str(value) for name, value in request.attributes.items() if name not in _UNTOLD},
        "outcome": _outcome(payment),
        "paid": paid,
        "payment_intent": payment.id,
        "review": REVIEW_ID + payment.id if state == REVIEW else None,
        "status": _TOLD[state][1],
    }


def _outcome(payment: Payment) -> Json:
    decision, action = payment.decision, payment.action
    p_fraud = decision.candidates[0].predictions.get(HEAD) if decision.candidates else None
    score = None if p_fraud is None else round(100 * p_fraud)
    level = risk_level(score)
    by_level = (action, level) in ((REVIEW, "elevated"), (BLOCK, "highest"))
    by_rule = action != ALLOW and not by_level
    return {
        "network_status": "approved_by_network" if payment.state in (ALLOW, REVIEW) else "not_sent_to_network",
        "reason": f"{level}_risk_level" if by_level else "rule" if by_rule else None,
        "risk_level": level,
        "risk_score": score,
        "rule": f"rule_{decision.versions.policy}" if by_rule else None,
        "seller_message": "; ".join(decision.choice.reasons),
        "type": _TOLD[payment.state][2],
    }


def risk_level(score: int | None) -> str:
    """Returns Radar's word for a risk score from 0 to 100.

    >>> [risk_level(score) for score in (None, 64, 65, 74, 75)]
    ['unknown', 'normal', 'elevated', 'elevated', 'highest']
    """
    if score is None:
        return "unknown"
    return "highest" if score >= HIGHEST else "elevated" if score >= ELEVATED else "normal"


def review(payment: Payment) -> Json:
    """Returns the Review of a payment that was sent to the analysts."""
    closed = None if payment.verdict is None else "refunded_as_fraud" if payment.verdict else "approved"
    return {
        "id": REVIEW_ID + payment.id,
        "object": "review",
        "charge": CHARGE + payment.id,
        "closed_reason": closed,
        "created": payment.record.known_time // 1_000_000,
        "livemode": True,
        "open": closed is None,
        "opened_reason": "rule",
        "payment_intent": payment.id,
        "reason": closed or "rule",
    }


def dispute(payment: Payment | None, told: Outcome) -> Json:
    """Returns a chargeback as a Dispute; one whose payment is not logged yet has the amount it said."""
    made = charge(payment) if payment else {"amount": 0, "currency": ""}
    last = max(
        (other for _, other in (payment.reports if payment else ()) if other.id in (told.id, told.id + CLOSED)),
        key=lambda other: (other.event_time, other.id),
        default=told,
    )
    status = "won" if last.value == 0 else "lost" if last.id.endswith(CLOSED) else "needs_response"
    own = told.amount_minor is not None
    return {
        "id": told.id,
        "object": "dispute",
        "amount": amount_of(told.amount_minor or 0, told.currency) if own else made["amount"],
        "charge": CHARGE + told.target,
        "created": told.event_time // 1_000_000,
        "currency": told.currency.lower() if own else made["currency"],
        "livemode": True,
        "metadata": {},
        "payment_intent": told.target,
        "reason": "fraudulent",
        "status": status,
    }


def early_fraud_warning(payment: Payment | None, told: Outcome) -> Json:
    """Returns a network's warning as Stripe's early fraud warning."""
    return {
        "id": told.id,
        "object": "radar.early_fraud_warning",
        "actionable": not (payment and payment.told_of("chargeback")),
        "charge": CHARGE + told.target,
        "created": told.event_time // 1_000_000,
        "fraud_type": "misc",
        "livemode": True,
        "payment_intent": told.target,
    }


def held_intent(id_: str, form: Mapping[str, str]) -> Json:
    """Returns an intent that waits for its confirmation: what was asked for, and nothing that was decided."""
    has_card = any(form.get(name) for name in ("payment_method", "metadata[card]", "source"))
    status = "requires_confirmation" if has_card else "requires_payment_method"
    return intent(id_, status=status) | {"amount": int(form["amount"]), "currency": form["currency"].lower()}


def listed(made: Sequence[Json], path: str, *, has_more: bool = False) -> Json:
    """Returns a page of a list."""
    return {"object": "list", "url": path, "has_more": has_more, "data": list(made)}


def declined(payment: Payment) -> Json:
    """Returns the error of a blocked payment; the customer may read the message, the reasons are in the outcome."""
    made = payment_intent(payment, ("latest_charge",))
    message = (
        "fraud payment: a payment that is blocked. Expected one that is allowed. Do not send it again; "
        "the outcome of its charge tells why."
    )
    return {"error": made["last_payment_error"] | {"message": message, "payment_intent": made}}


def webhook_endpoint(endpoint: Endpoint) -> Json:
    """Returns an endpoint without its secret."""
    return {
        "id": endpoint.id,
        "object": "webhook_endpoint",
        "created": endpoint.created,
        "enabled_events": endpoint.events,
        "livemode": True,
        "metadata": {},
        "status": "enabled",
        "url": endpoint.url,
    }


# Status → the status, type and code that Stripe has for it; any other of the caller's faults is a 400.
_ERRORS: Mapping[int, tuple[int, str, str | None]] = {
    401: (401, "invalid_request_error", None),
    403: (403, "invalid_request_error", None),
    404: (404, "invalid_request_error", "resource_missing"),
    409: (400, "idempotency_error", None),
    429: (429, "invalid_request_error", "rate_limit"),
    500: (500, "api_error", None),
    503: (503, "api_error", None),
}
# What our names are called in Stripe's requests; other fields of a payment are metadata.
_PARAMS = {"amount_minor": "amount", "card": "payment_method", "email": "receipt_email"}


def refused(refusal: Refusal) -> Answer:
    """Returns a refusal as an error of Stripe's: type, code, parameter, and our sentence as its message."""
    error = refusal.error
    status, type_, code = _ERRORS.get(refusal.status, (400, "invalid_request_error", None))
    param = error.where.rpartition(", ")[2] if error.where.startswith("fraud ") and ", " in error.where else None
    if error.expected.startswith("the required parameter"):
        code = "parameter_missing"
    body = {"type": type_, "code": code, "param": _PARAMS.get(param or "", param), "message": str(error)}
    told = {name: value for name, value in body.items() if value is not None}
    return Answer(status, msgspec.json.encode({"error": told}), JSON + refusal.headers)
