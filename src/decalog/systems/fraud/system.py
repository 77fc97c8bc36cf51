"""Fraud, assembled: is this payment a fraud, and what is the cheapest thing to do about it?"""

from __future__ import annotations

from decalog.system import System
from decalog.systems.fraud.features import FEATURES
from decalog.systems.fraud.metrics import METRICS
from decalog.systems.fraud.models import MODELS
from decalog.systems.fraud.monitors import DRIFTS, MONITORS
from decalog.systems.fraud.policy import BLOCK, POLICY, REVIEW, FraudCosts
from decalog.systems.fraud.schema import SCHEMA

SYSTEM = System(
    schema=SCHEMA,
    features=FEATURES,
    models=MODELS,
    policy=POLICY,
    policy_params=FraudCosts,
    metrics=METRICS,
    monitors=MONITORS,
    drifts=DRIFTS,
    world="decalog.systems.fraud.simulate:World",
    deadline_ms=100,
    commands={
        "rules": "decalog.systems.fraud.rules.commands:app",
        "cases": "decalog.systems.fraud.desk:app",
        "rings": "decalog.systems.fraud.desk:rings_app",
    },
    whatif="decalog.systems.fraud.whatif:WHATIF",
    loop="decalog.systems.fraud.loop:LOOP",
    explained_at_once=(BLOCK, REVIEW),
    fixed=("mcc", "merchant_country"),  # another merchant's payment is another payment
    lead=0.1,
    wire="decalog.systems.fraud.wire:WIRE",
)
