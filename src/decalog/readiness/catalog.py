"""The checklist, in the order in which it is measured: the texts of `catalog.toml`, each with what measures it."""

from __future__ import annotations

import tomllib
from importlib.resources import files

import msgspec

from decalog.readiness import detection, faults, integrity, latency, ml_test_score, safety, scalability, training
from decalog.readiness.checks import Check, Measure

_MEASURES: dict[str, Measure] = {
    "traffic_10x": scalability.traffic_10x,
    "data_10x": scalability.data_10x,
    "memory_10x": scalability.memory_10x,
    "p99": latency.p99,
    "features_p99": latency.features_p99,
    "model_p99": latency.model_p99,
    "retraining_p99": latency.retraining_p99,
    "swapping_p99": latency.swapping_p99,
    "log_sound": integrity.log_sound,
    "skew": integrity.skew,
    "replay": integrity.replay,
    "disorder": integrity.disorder,
    "labels_in_any_order": integrity.labels_in_any_order,
    "broken_inputs": integrity.broken_inputs,
    "flipped_types": integrity.flipped_types,
    "torn_log": integrity.torn_log,
    "crash": faults.crash,
    "store_down": faults.store_down,
    "disk_full": faults.disk_full,
    "erasure": safety.erasure,
    "canaries": safety.canaries,
    "protected_ratio": safety.protected_ratio,
    "rollback": safety.rollback,
    "detection": detection.detection,
    "silence": detection.silence,
    "model_age": detection.model_age,
    "reproducible": training.reproducible,
    "lead": training.lead,
    "live_p99": latency.live_p99,
    "ml_test_score": ml_test_score.ml_test_score,
}


def _checks() -> tuple[Check, ...]:
    texts = tomllib.loads((files(__package__) / "catalog.toml").read_text(encoding="utf-8"))
    return tuple(
        msgspec.convert({"name": name, "measure": measure, **texts[name]}, Check) for name, measure in _MEASURES.items()
    )


CHECKS = _checks()
"""Every check; the last rests on those before it."""

LIVE = "live_p99"
"""The one check that asks the running server: it is left out where nobody gives an address."""
