"""Feed, assembled: which posts does this reader see, in which order?"""

from __future__ import annotations

from decalog.system import System
from decalog.systems.feed.features import FEATURES
from decalog.systems.feed.metrics import METRICS
from decalog.systems.feed.models import MODELS
from decalog.systems.feed.monitors import DRIFTS, MONITORS
from decalog.systems.feed.policy import POLICY, FeedWeights
from decalog.systems.feed.schema import SCHEMA

SYSTEM = System(
    schema=SCHEMA,
    features=FEATURES,
    models=MODELS,
    policy=POLICY,
    policy_params=FeedWeights,
    metrics=METRICS,
    monitors=MONITORS,
    drifts=DRIFTS,
    world="decalog.systems.feed.simulate:World",
    retrieval="decalog.systems.feed.retrieval:FeedRetrieval",
    found="decalog.systems.feed.recall:judged",
    deadline_ms=100,
    wire="decalog.systems.feed.wire:WIRE",
    whatif="decalog.systems.feed.whatif:WHATIF",
    loop="decalog.systems.feed.loop:LOOP",
    commands={"why": "decalog.systems.feed.why:app", "exposure": "decalog.systems.feed.creators:app"},
    tryout=(21, 0.4),
    lead=0.05,
)
