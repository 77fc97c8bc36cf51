"""The ML Test Score: 28 items, each tied to a check of ours, to what a person did, or to nothing.

An item counts 1 where its checks are green, a half where the SLO file says where it is written down that a person did
it, and nothing otherwise. The score is the least of the four sums: 7 each.

Source: E. Breck, S. Cai, E. Nielsen, M. Salib, D. Sculley, The ML Test Score: A Rubric for ML Production Readiness and
Technical Debt Reduction, IEEE Big Data 2017, sections II to VI. By its table, more than 1 is a first pass at basic
productionisation, more than 2 reasonably tested, more than 3 strong automated testing and monitoring.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib.resources import files
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


ITEMS = tuple(
    Item(section, int(number), item["name"], tuple(item["checks"]))
    for section, items in tomllib.loads((files(__package__) / "ml_test_score.toml").read_text(encoding="utf-8")).items()
    for number, item in items.items()
)
"""All 28, in the order of the paper."""


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
