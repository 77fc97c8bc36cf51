"""Demand, assembled: how much of this item does this store order for the days to come?"""

from __future__ import annotations

from decalog.system import System
from decalog.systems.demand.features import FEATURES
from decalog.systems.demand.metrics import METRICS
from decalog.systems.demand.models import MODELS
from decalog.systems.demand.monitors import DRIFTS, MONITORS
from decalog.systems.demand.policy import POLICY, OrderCosts
from decalog.systems.demand.schema import SCHEMA

SYSTEM = System(
    schema=SCHEMA,
    features=FEATURES,
    models=MODELS,
    policy=POLICY,
    policy_params=OrderCosts,
    metrics=METRICS,
    monitors=MONITORS,
    drifts=DRIFTS,
    world="decalog.systems.demand.simulate:World",
    wire="decalog.systems.demand.wire:WIRE",
    recovered="decalog.systems.demand.recovered:recovered",
    deadline_ms=100,
    loop="decalog.systems.demand.loop:LOOP",
    whatif="decalog.systems.demand.whatif:WHATIF",
    commands={
        "budget": "decalog.systems.demand.budget:app",
        "promotions": "decalog.systems.demand.promotions:app",
        "value": "decalog.systems.demand.added:app",
    },
    tryout=(120, 0.25),
    lead=0.3,
)
