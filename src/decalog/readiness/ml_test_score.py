"""The ML Test Score: 28 items, each tied to a check of ours, to what a person did, or to nothing.

An item counts 1 where its checks are green, a half where the SLO file says where it is written down that a person did
it, and nothing otherwise. The score is the least of the four sums: 7 each.

Source: E. Breck, S. Cai, E. Nielsen, M. Salib, D. Sculley, The ML Test Score: A Rubric for ML Production Readiness and
Technical Debt Reduction, IEEE Big Data 2017, sections II to VI. By its table, more than 1 is a first pass at basic
productionisation, more than 2 reasonably tested, more than 3 strong automated testing and monitoring.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from decalog.readiness.checks import Measured, Result
from decalog.readiness.slo import Slo
from decalog.readiness.subject import Subject

SECTIONS = ("data", "model", "infrastructure", "monitoring")
NONE = "manual, not done"
RESULTS = "results"
"""Under this key a subject keeps what came of the other checks."""


class Item(NamedTuple):
    """One of the 28: section, number in it, name, and the checks that measure it, none where nothing does."""

    section: str
    number: int
    name: str
    checks: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """What the SLO file calls it: `model 3`."""
        return f"{self.section} {self.number}"


class Scored(msgspec.Struct, frozen=True):
    """An item with its points: its section and number, its name, how many, and what they rest on."""

    item: str
    name: str
    points: float
    why: str


ITEMS = (
    Item("data", 1, "Feature expectations are captured in a schema", ("flipped_types",)),
    Item("data", 2, "All features are beneficial"),
    Item("data", 3, "No feature's cost is too much", ("features_p99", "data_10x")),
    Item("data", 4, "Features adhere to meta-level requirements"),
    Item("data", 5, "The data pipeline has appropriate privacy controls", ("erasure", "canaries")),
    Item("data", 6, "New features can be added quickly"),
    Item("data", 7, "All input feature code is tested", ("disorder",)),
    Item("model", 1, "Model specs are reviewed and submitted"),
    Item("model", 2, "Offline and online metrics correlate"),
    Item("model", 3, "All hyperparameters have been tuned"),
    Item("model", 4, "The impact of model staleness is known"),
    Item("model", 5, "A simpler model is not better", ("lead",)),
    Item("model", 6, "Model quality is sufficient on important data slices"),
    Item("model", 7, "The model is tested for considerations of inclusion", ("protected_ratio",)),
    Item("infrastructure", 1, "Training is reproducible", ("reproducible",)),
    Item("infrastructure", 2, "Model specs are unit tested"),
    Item("infrastructure", 3, "The ML pipeline is integration tested", ("retraining_p99", "labels_in_any_order")),
    Item("infrastructure", 4, "Model quality is validated before serving"),
    Item("infrastructure", 5, "The model is debuggable", ("replay",)),
    Item("infrastructure", 6, "Models are canaried before serving", ("rollback",)),
    Item("infrastructure", 7, "Serving models can be rolled back", ("rollback", "swapping_p99")),
    Item("monitoring", 1, "Dependency changes result in notification"),
    Item("monitoring", 2, "Data invariants hold for inputs", ("detection",)),
    Item("monitoring", 3, "Training and serving are not skewed", ("skew",)),
    Item("monitoring", 4, "Models are not too stale", ("model_age",)),
    Item("monitoring", 5, "Models are numerically stable", ("broken_inputs",)),
    Item("monitoring", 6, "Computing performance has not regressed", ("p99", "memory_10x", "traffic_10x")),
    Item("monitoring", 7, "Prediction quality has not regressed", ("silence",)),
)


def scored(results: Mapping[str, Result], slo: Slo) -> tuple[Scored, ...]:
    """Returns each item's points, by the results of the checks that it is tied to."""
    return tuple(_scored(item, results, slo) for item in ITEMS)


def _scored(item: Item, results: Mapping[str, Result], slo: Slo) -> Scored:
    if item.checks:
        open_ = [name for name in item.checks if name not in results or results[name].status != "green"]
        if not open_:
            return Scored(item.key, item.name, 1.0, f"measured: {', '.join(item.checks)}")
        if item.key not in slo.manual:
            return Scored(item.key, item.name, 0.0, f"not green: {', '.join(open_)}")
    if item.key in slo.manual:
        return Scored(item.key, item.name, 0.5, f"by hand: {slo.manual[item.key]}")
    return Scored(item.key, item.name, 0.0, NONE)


def final(items: tuple[Scored, ...]) -> Measured:
    """Returns the score: the least sum of a section."""
    sums = {name: sum(one.points for one in items if one.item.startswith(name)) for name in SECTIONS}
    said = ", ".join(f"{name} {points:g} of 7" for name, points in sums.items())
    return Measured(value=min(sums.values()), n=len(items), said=said, detail=sums)


def ml_test_score(subject: Subject, fault: str) -> Measured:
    """Measures the score by what came of the other checks, in this run and as kept."""
    results: Mapping[str, Result] = {} if fault else subject.kept.get(RESULTS, {})
    return final(scored(results, subject.slo))
