"""What is watched: a declaration that points at a series the server exposes, a level, and who is called."""

from __future__ import annotations

from typing import Literal

import msgspec

from decalog.features.definition import Aggregate
from decalog.system import System


class Monitor(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a person wants to be told about.

    Args:
        name: of the alert.
        meaning: what it says about the system, in the field's words.
        expression: over the series of /metrics, as Prometheus evaluates it.
        alert: which way the level is crossed.
        level: beyond which a person is called.
        slices: labels by which the expression is split; () for none.
        owner: who is called.
        runbook: what to look at first.
    """

    name: str
    meaning: str
    expression: str
    alert: Literal["above", "below"]
    level: float
    owner: str
    runbook: str
    slices: tuple[str, ...] = ()


def monitors_of(system: System) -> tuple[Monitor, ...]:
    """Returns what is watched on a system: what it declares itself, and the staleness that its features declare.

    >>> from decalog.system import find_system
    >>> print(monitors_of(find_system("fraud"))[-1].expression)
    max(decalog_feature_stale{system="fraud"}) by (feature)
    """
    fed = [feature for feature in system.features.features if isinstance(feature, Aggregate) and feature.staleness]
    if not fed:
        return system.monitors
    stale = Monitor(
        name=f"{system.name}_feature_stale",
        meaning="features whose rows have been silent for longer than they declare: their windows run empty",
        expression=f'max(decalog_feature_stale{{system="{system.name}"}}) by (feature)',
        alert="above",
        level=0.0,
        slices=("feature",),
        owner=", ".join(sorted({feature.owner for feature in fed if feature.owner})) or system.name,
        runbook=f"`decalog features {system.name}` says which rows the feature reads; look for their sender.",
    )
    return (*system.monitors, stale)
