"""What is watched: a declaration that points at a series the server exposes, a level, and who is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import msgspec

from decalog.clock import SECOND, duration_us
from decalog.features.definition import Aggregate, FeatureSet
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


class Freshness:
    """How long the rows behind each feature that declares its `staleness` have been silent.

    Args:
        features: the declarations.
        newest: kind of row → known_time of its newest one, µs; whoever folds keeps it.
        now: gives the time that known_time is stamped by, µs. What was never seen is as old as the watch.
    """

    def __init__(self, features: FeatureSet, newest: Mapping[str, int], *, now: Callable[[], int]) -> None:
        watched = [feature for feature in features.aggregates if feature.staleness]
        self._watched = {feature.name: (feature.over, duration_us(feature.staleness)) for feature in watched}
        self.newest, self._now, self._since = newest, now, now()

    @property
    def watched(self) -> tuple[str, ...]:
        """The features that declare how long their rows may be silent."""
        return tuple(self._watched)

    def age_s(self, feature: str) -> float:
        """Returns the age of the newest row of all the kinds that a feature is over."""
        return self._silence_us(feature) / SECOND

    def is_stale(self, feature: str) -> bool:
        """Whether a feature's rows have been silent for longer than it declares."""
        return self._silence_us(feature) > self._watched[feature][1]

    def stale(self) -> tuple[str, ...]:
        """Returns the features that are stale."""
        return tuple(feature for feature in self._watched if self.is_stale(feature))

    def _silence_us(self, feature: str) -> int:
        kinds, _ = self._watched[feature]
        newest = max((self.newest[kind] for kind in kinds if kind in self.newest), default=self._since)
        return max(0, self._now() - newest)


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
