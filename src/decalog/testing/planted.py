"""Online states with a planted fault: what parity has to find, if it can find anything."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from decalog.features.definition import FeatureSet
from decalog.features.facts import Change, Fact
from decalog.features.online import OnlineState

_COPY = 2**61
"""Roots from here on are second copies of a row."""


class FaultyState(OnlineState):
    """A state that takes other changes than it is given, and withdraws what it really holds.

    Args:
        features: the declarations.
        doubled: roots of events that came twice, for the fault that counts them twice.
    """

    def __init__(self, features: FeatureSet, doubled: Collection[int] = ()) -> None:
        super().__init__(features)
        self.doubled = frozenset(doubled)
        self._held: dict[tuple[int, str], Fact] = {}

    def apply(self, *changes: Change) -> None:
        """See `OnlineState.apply`."""
        for change in changes:
            for taken in self.taken(change):
                super().apply(self._fitting(taken))

    def apply_many(self, changes: Iterable[Change]) -> None:
        """See `OnlineState.apply_many`."""
        for change in changes:
            self.apply(change)

    def taken(self, change: Change) -> Iterator[Change]:
        """Yields what the state makes of a change."""
        yield change

    def _fitting(self, change: Change) -> Change:
        """Returns the change with the image that is held in the place of the one that should be."""
        image = change.plus or change.minus
        if image is None:
            return change
        # Only what stands in for another row takes its place: a slate has several new ones of one root and kind.
        held, plus = self._held.pop((image.root, image.kind), None) if change.minus else None, change.plus
        if held is None and change.minus is not None:
            plus = None  # of a row that never came in, nothing is known
        if plus is not None:
            self._held[plus.root, plus.kind] = plus
        return Change(change.seq, change.known_time, held, plus)


class ForgetsCorrections(FaultyState):
    """Keeps the first image of each row."""

    def taken(self, change: Change) -> Iterator[Change]:
        """See `FaultyState.taken`."""
        yield _nothing(change) if change.minus is not None and change.plus is not None else change


class ForgetsDeletions(FaultyState):
    """Keeps what was deleted."""

    def taken(self, change: Change) -> Iterator[Change]:
        """See `FaultyState.taken`."""
        yield _nothing(change) if change.plus is None else change


class MissesLate(FaultyState):
    """Takes no row that is older than one it has."""

    _newest = -(2**62)

    def taken(self, change: Change) -> Iterator[Change]:
        """See `FaultyState.taken`."""
        plus = change.plus
        is_late = plus is not None and change.minus is None and plus.event_time < self._newest
        if plus is not None:
            self._newest = max(self._newest, plus.event_time)
        yield _nothing(change) if is_late else change


class CountsTwice(FaultyState):
    """Takes an event that came twice as two."""

    def taken(self, change: Change) -> Iterator[Change]:
        """See `FaultyState.taken`."""
        yield change
        plus = change.plus
        if plus is not None and change.minus is None and plus.root in self.doubled:
            copy = Fact(_COPY + plus.root, plus.event_time, plus.kind, plus.entities, plus.attributes)
            yield Change(change.seq, change.known_time, None, copy)


FAULTS: dict[str, type[FaultyState]] = {
    "a state that misses late events": MissesLate,
    "a state that counts duplicates twice": CountsTwice,
    "a state that forgets corrections": ForgetsCorrections,
    "a state that forgets deletions": ForgetsDeletions,
}


def _nothing(change: Change) -> Change:
    return Change(change.seq, change.known_time)
