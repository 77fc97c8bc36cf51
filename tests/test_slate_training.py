"""Training on slates: what is refitted learnt from all that has matured, and its sibling is what was reported on."""

from __future__ import annotations

from pathlib import Path

import msgspec
from tests.slate_log import SYSTEM, SlateLog, posts

from decalog.models.base import Model, SlateSet
from decalog.registry import SIBLING, Registry
from decalog.slate_training import train_slates
from decalog.systems.feed.models import MODELS
from decalog.training import TrainingPlan


def test_a_refitted_model_learnt_from_what_its_sibling_is_judged_by(tmp_path: Path) -> None:
    log = SlateLog(tmp_path)
    posts(log, 6)
    for hour in range(10, 400, 4):
        decision = log.ask(hour, size=3)
        log.said("click", hour + 0.1, decision.request.id, ref=decision.choice.slots[0].ref)
    log.log.commit()
    seen: list[SlateSet] = []

    def fit(data: SlateSet, seed: int) -> Model:
        seen.append(data)
        return MODELS[0].fit(data, seed)

    system = msgspec.structs.replace(SYSTEM, models=(msgspec.structs.replace(MODELS[0], fit=fit),))
    plan = TrainingPlan(refit=True, test_positives=20, least_positives=5, least_test_positives=5)
    result = train_slates(system, log.log, registry=Registry(tmp_path), plan=plan)
    judged, refitted = seen
    parameters = Registry(tmp_path).get(result.model).manifest.parameters
    assert judged.n < refitted.n
    assert parameters[SIBLING] == result.report.trained_at
    assert parameters["trained_at"] == refitted.known_by == result.report.known_time
