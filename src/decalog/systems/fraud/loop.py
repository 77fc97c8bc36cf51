"""How fraud's loop goes round: what a challenger may not make worse for customers, for analysts, and in money.

Whether a payment was a fraud is known weeks later. What a canary shows within a week is friction at once, and of the
losses the first reports; the gate judges on labels that have matured.
"""

from __future__ import annotations

from decalog.examples import AMOUNT
from decalog.gate import Standards
from decalog.guardrails import Guardrail, Told
from decalog.loop import LoopPlan
from decalog.systems.fraud.policy import BLOCK, REVIEW, STEP_UP, FraudPolicy

_REPORTS = frozenset({"chargeback", "fraud_warning"})
"""What says that a fraud went through; an analyst's verdict stops it."""


def _lost(told: Told, policy: FraudPolicy) -> float:
    """Returns what a payment has cost as a fraud that went through, as far as it has been reported; minor units."""
    if not any(outcome.kind in _REPORTS and outcome.value >= 1 for outcome in told.said):
        return 0.0
    amount = told.decision.request.attributes.get(AMOUNT, 0)
    return float(int(amount) + policy.params.chargeback_fee_minor)


def _taken(action: str) -> Guardrail:
    words = {BLOCK: "refused outright", STEP_UP: "asked for 3-D Secure", REVIEW: "looked at by analysts"}
    return Guardrail(
        name=f"{action}_share",
        meaning=f"payments that are {words[action]}",
        unit="share",
        better="lower",
        value=lambda told, _policy: float(told.decision.choice.action == action),
        # Frauds come and go: a better model may well ask more often, but not of everybody.
        allowed=0.05,
        excluded=0.15,
        bounds=(0.0, 1.0),
        after="1d",
    )


LOOP = LoopPlan(
    guardrails=(
        Guardrail(
            name="lost_a_payment",
            meaning="frauds that went through and were reported within a week, with their fees",
            unit="minor units a payment",
            better="lower",
            value=_lost,
            allowed=0.0,
            excluded=100.0,
            after="7d",
        ),
        _taken(BLOCK),
        _taken(STEP_UP),
        _taken(REVIEW),
    ),
    standards=Standards(slices=("channel",)),
    # 60 frauds tell too few of the better models apart from others (docs/howto/loop.md).
    test_positives=150,
    # A drift that stands asks for a training again and again, which learns hardly more than the last one.
    rest="4d",
)
