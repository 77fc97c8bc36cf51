"""What is watched on fraud, beside what every system is watched for.

Reviews are compared with a share of traffic, not with the analysts' capacity itself: that is a guardrail of the policy.
"""

from __future__ import annotations

from decalog.monitoring import Drift, Monitor

_OWNER = "fraud"

MONITORS = (
    Monitor(
        name="fraud_fallback_share",
        meaning="payments decided without a prediction",
        watches="fallback",
        window="15m",
        alert="above",
        level=0.01,
        owner=_OWNER,
        runbook="The slice names the reason: no_model → promote one; late_request → clocks of the senders; "
        "model_error → roll back.",
    ),
    Monitor(
        name="fraud_block_share",
        meaning="payments refused outright: an attack, a broken feature, or a model gone wrong",
        watches="action",
        of=("block",),
        window="15m",
        alert="above",
        level=0.03,
        owner=_OWNER,
        runbook="Read ten blocked decisions with `decalog replay`: one feature behind all of them means data, one IP "
        "address or device means an attack.",
    ),
    Monitor(
        name="fraud_velocity",
        meaning="card testing: addresses from which five cards or more are tried within ten minutes, a payment",
        watches="reached",
        of=("ip_cards_10m",),
        least=5.0,
        window="1d",
        alert="above",
        level=0.001,
        owner=_OWNER,
        runbook="Search the decisions for blocks and step-ups: one shop and small amounts are card testing. What gets "
        "through is stopped by a rule on ip_cards_10m, or by the champion before, if it did better.",
    ),
    Monitor(
        name="fraud_review_share",
        meaning="payments sent to the analysts",
        watches="action",
        of=("review",),
        window="15m",
        alert="above",
        level=0.02,
        owner=_OWNER,
        runbook="Compare with reviews_per_day of the policy; beyond it the review_capacity guardrail takes the next "
        "best action.",
    ),
    Monitor(
        name="fraud_vamp_ratio",
        meaning="fraud warnings and fraud disputes over allowed payments of 30 days, for Visa's ratio (VAMP): "
        "a merchant is excessive from 1.5 % and 1,500 cases a month",
        watches="reported",
        of=("fraud_warning", "chargeback"),
        among=("allow",),
        window="30d",
        alert="above",
        level=0.01,
        owner=_OWNER,
        runbook="Split by kind: warnings lead disputes by weeks. `decalog rules fraud suggest` finds what they have in "
        "common. Disputes for other reasons count at Visa and not here; passed step-ups and reviews settle too.",
    ),
    Monitor(
        name="fraud_score_mean",
        meaning="mean probability of fraud: it moves before labels do",
        watches="prediction",
        of=("p_fraud",),
        window="6h",
        alert="above",
        level=0.03,
        owner=_OWNER,
        runbook="Compare with the base rate in the model's report; look for a sender that stopped sending device or IP "
        "address.",
    ),
    Monitor(
        name="fraud_expected_cost",
        meaning="money that a payment is expected to cost: fraud that goes through, margin and goodwill lost",
        watches="worth",
        alert="below",
        level=-150.0,
        window="1d",
        owner=_OWNER,
        runbook="Minor units a payment. Look at fraud_score_mean and at amounts: an attack, or a unit error.",
    ),
    Monitor(
        name="fraud_reports",
        meaning="frauds are reported more often, for the payments made, than when the champion was judged",
        watches="reports",
        of=("fraud_warning", "chargeback"),
        alert="above",
        level=0.5,
        window="7d",
        owner=_OWNER,
        runbook="`decalog rules fraud suggest` finds what they have in common; then train again. A fall is no alert: "
        "what is blocked is not reported.",
    ),
)

DRIFTS = (
    Drift(switch="card_testing_attack", alert="fraud_velocity", within="2d"),
    Drift(switch="device_outage", alert="fraud_inputs", within="2d"),
)
