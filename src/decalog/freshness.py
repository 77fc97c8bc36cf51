"""How long the rows behind a feature have been silent, told by the server that folds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from decalog.clock import SECOND, duration_us
from decalog.features.definition import FeatureSet


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
