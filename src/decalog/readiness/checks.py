"""What a check is: a number, a limit from the SLO file, where that comes from, and faults that must turn it red."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import msgspec

Status = Literal["green", "red", "not measured"]
Section = Literal["scalability", "latency", "data integrity", "privacy and safety", "monitoring", "ml test score"]

SECTIONS: tuple[Section, ...] = (
    "scalability",
    "latency",
    "data integrity",
    "privacy and safety",
    "monitoring",
    "ml test score",
)


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured.

    Args:
        value: the number, in the check's unit; infinite where a promise beside it was broken.
        n: how many things it rests on.
        said: one line for people.
        detail: further figures.
    """

    value: float
    n: int
    said: str
    detail: dict[str, float] = {}


Measure = Callable[[Any, str], Measured]
"""(what is checked, fault to seed or "") → what was measured."""


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One check.

    Args:
        name: of it, a word.
        section: of the checklist.
        meaning: what is measured, on what.
        unit: of the number.
        limit: name of its limit in the SLO file.
        least: whether the limit is the least that is good; else it is the most.
        anchor: where the limit and the way of measuring come from.
        fix: what to do where it is red.
        measure: what measures it.
        faults: each must turn it red.
        quick: whether it belongs to the quick run.
    """

    name: str
    section: Section
    meaning: str
    unit: str
    limit: str
    anchor: str
    fix: str
    measure: Measure
    faults: tuple[str, ...]
    least: bool = False
    quick: bool = True

    def is_kept(self, value: float, limit: float) -> bool:
        """Returns whether a number is within the limit; one that is none is not.

        >>> from decalog.readiness.catalog import CHECKS
        >>> p99 = next(check for check in CHECKS if check.name == "p99")
        >>> p99.is_kept(12.0, 20.0), p99.is_kept(float("nan"), 20.0)
        (True, False)
        """
        return not math.isnan(value) and (value >= limit if self.least else value <= limit)


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a check, as it is kept.

    Args:
        name, section: of the check.
        status: green, red, or not measured.
        value: the number; None where it is infinite or was not measured.
        limit, unit, least: of it.
        said: one line.
        anchor, fix: of the check.
        n: how many things it rests on.
        detail: further figures.
        at_us: when it was measured, by the machine's clock, µs.
        position: of the log then.
        versions: of model, policy, features and code then.
        quick: whether it rests on the quick run's less of everything.
        took_s: how long.
    """

    name: str
    section: str
    status: Status
    value: float | None
    limit: float
    unit: str
    said: str
    anchor: str
    fix: str
    least: bool = False
    n: int = 0
    detail: dict[str, float] = {}
    at_us: int = 0
    position: int = 0
    versions: dict[str, str] = {}
    quick: bool = False
    took_s: float = 0.0

    @property
    def excess(self) -> float:
        """How far beyond its limit, as a multiple of it; what could not be said is infinitely far."""
        if self.value is None:
            return math.inf
        over = self.limit - self.value if self.least else self.value - self.limit
        return over / abs(self.limit) if self.limit else over


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """What a seeded fault did to a check: whether it turned it red, and what was said of it."""

    check: str
    fault: str
    status: Status
    said: str

    @property
    def is_caught(self) -> bool:
        """Whether the check turned red."""
        return self.status == "red"
