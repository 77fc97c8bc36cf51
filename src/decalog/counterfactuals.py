"""What would have changed a decision: the prediction from which on it is another, and the nearest facts that flip it.

Every answer was run: the changed facts go through the model and the policy that decided, with the decision's own draws
(Wachter, Mittelstadt and Russell, "Counterfactual explanations without opening the black box", Harvard Journal of Law &
Technology 31(2), 2018). A fact takes only values that others had, and the nearest is the one with the fewest others
between.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from decalog.events import Event
from decalog.metrics import Floats
from decalog.otherwise import REQUEST, Facts, Seen, Usual, Value
from decalog.replay import Again

_TOLD = 5
"""Facts that are told, and firsts of pairs that are tried."""
PROBABILITIES: Floats = np.concatenate([[0.0], 1 / (1 + np.exp(-np.linspace(-20.0, 20.0, 401))), [1.0]])
"""Where a prediction that is a probability is looked at: evenly in log odds."""


class Band(msgspec.Struct, frozen=True):
    """Predictions in [since, until) that lead to one action, all other facts as they were; the last has its end too."""

    since: float
    until: float
    action: str


class Changed(msgspec.Struct, frozen=True):
    """One fact otherwise: its name and meaning, the value it had and the other one, both in words."""

    fact: str
    meaning: str
    was: str
    instead: str


class Flip(msgspec.Struct, frozen=True):
    """A change of facts that makes another action.

    Args:
        facts: that are changed, one or two.
        action: that comes of it.
        predictions: head → value then.
        distance: how far the facts were moved, in shares of what the values of others are, summed.
    """

    facts: tuple[Changed, ...]
    action: str
    predictions: dict[str, float]
    distance: float

    def text(self) -> str:
        """Returns it in words.

        >>> fact = Changed("card_payments_1h", "payments of the card in 1h", "9 payments", "2 payments or less")
        >>> Flip((fact,), "allow", {}, 0.2).text()
        'allow: payments of the card in 1h: 2 payments or less instead of 9 payments'
        """
        return f"{self.action}: " + " and ".join(
            f"{one.meaning}: {one.instead} instead of {one.was}" for one in self.facts
        )


class Remade(NamedTuple):
    """What comes of other facts: the action and the predictions behind it."""

    action: str
    predictions: dict[str, float]


class Remaking:
    """A decision made again on other facts, with the draws that it had.

    Args:
        again: the decision.
        draw_secret: of the deployment.
    """

    def __init__(self, again: Again, draw_secret: bytes) -> None:
        self._again = again
        self._secret = draw_secret
        self._lasting = "" if again.decision.fallback == "policy_error" else again.decision.fallback

    def of(self, others: Sequence[Seen]) -> list[Remade | None]:
        """Returns what comes of each row and request; None where model or policy can make nothing of it."""
        if not others:
            return []
        draft = msgspec.structs.replace(
            self._again.draft,
            features=np.stack([row for row, _ in others]),
            predictions=None,
            fallback=self._lasting,
            stages_us={},
        )
        self._again.judge.predict(draft)
        if draft.fallback != self._lasting and len(others) > 1:
            return [made for other in others for made in self.of([other])]  # one of them is what no model takes
        rows: list[Any] = [None] * len(others) if draft.predictions is None else list(draft.predictions[:, None])
        return [
            self._chosen(row[None], request, rows[place], draft.fallback) for place, (row, request) in enumerate(others)
        ]

    def at(self, head: str, value: float) -> str:
        """Returns the action at another prediction; "" where the policy can make nothing of it."""
        draft = self._again.draft
        assert draft.features is not None and draft.predictions is not None  # noqa: S101, PT018 - there are bands only where it predicted
        rows = draft.predictions.copy()
        rows[0, self._again.judge.heads.index(head)] = value
        made = self._chosen(draft.features, draft.event, rows, "")
        return "" if made is None else made.action

    def _chosen(self, row: Floats, request: Event, predictions: Floats | None, fallback: str) -> Remade | None:
        draft = msgspec.structs.replace(
            self._again.draft, event=request, features=row, predictions=predictions, fallback=fallback
        )
        verdict, candidates = self._again.judge.choose(draft, self._again.decision.id, draw_secret=self._secret)
        is_whole = draft.fallback == self._lasting
        return Remade(verdict.choice.action, candidates[0].predictions) if is_whole else None


def bands(act: Callable[[float], str], scan: Floats) -> tuple[Band, ...]:
    """Returns which predictions lead to which action, in order; the ends of bands to the last bit.

    Args:
        act: prediction → action.
        scan: where it is looked at, rising: a band that lies between two of them is not seen.
    """
    points = scan.tolist()
    found, since, action = [], points[0], act(points[0])
    for low, high in itertools.pairwise(points):
        last = act(high)
        while action != last:
            edge = _edge(act, low, high, action)
            found.append(Band(since, edge, action))
            low = since = edge  # noqa: PLW2901 - a gap may hold several bands
            action = act(edge)
    return (*found, Band(since, points[-1], action))


def _edge(act: Callable[[float], str], low: float, high: float, action: str) -> float:
    """Returns the least number above `low` that was found to lead to another action."""
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if act(middle) == action else (low, middle)
    return high


class Search:
    """The nearest facts of one decision that make another action.

    Args:
        remaking: of the decision.
        facts: of its system.
        usual: fact → values that it has elsewhere; None where nobody knows.
        start: row and request as they were.
        action: that was chosen.
    """

    def __init__(
        self,
        remaking: Remaking,
        facts: Facts,
        *,
        usual: Callable[[str], Usual | None],
        start: Seen,
        action: str,
    ) -> None:
        self._remaking, self._facts, self._start, self._action = remaking, facts, start, action
        names = facts.names(start[1])
        self._usual = {name: found for name in names if (found := usual(name)) is not None}
        self._tried = self._results(self._tries(self._start))

    def singles(self) -> list[Flip]:
        """Returns the nearest single facts that make another action: of a fact in several windows one an action."""
        nearest: dict[tuple[object, str], _Pair] = {}
        for pair in sorted(filter(self._flips, self._tried), key=_distance):
            nearest.setdefault((self._facts.family(pair[0].name), pair[1].action), pair)
        return [self._flip([pair]) for pair in list(nearest.values())[:_TOLD]]

    def pairs(self, gap: Callable[[Remade], float], *, least: float) -> list[Flip]:
        """Returns the nearest two facts that make another action together; empty where greed finds none.

        The firsts are the facts that alone lead nearest to another action.

        Args:
            gap: how far what came of a fact is from another action.
            least: that of the decision; what leads no nearer is no first.
        """
        nearest: dict[str, _Pair] = {}
        for pair in sorted(self._tried, key=lambda pair: (gap(pair[1]), pair[0].distance)):
            if gap(pair[1]) < least:
                nearest.setdefault(pair[0].name, pair)
        found = []
        for first in list(nearest.values())[:_TOLD]:
            seconds = [one for one in self._tries(first[0].other) if one.name != first[0].name]
            together = [one for one in seconds if self._facts.value(first[0].name, one.other) == first[0].value]
            found += [[first, pair] for pair in self._results(together) if self._flips(pair)]
        best = min(found, key=lambda pairs: sum(map(_distance, pairs)), default=None)
        return [] if best is None else [self._flip(best)]

    def _tries(self, start: Seen) -> list[_Try]:
        return [
            _Try(name, value, usual.distance(now, value), self._facts.changed(start, name, value=value))
            for name, usual in self._usual.items()
            for now in (self._facts.value(name, start),)
            if self._facts.is_possible(now, of=name, request=start[1])
            for value in usual.values
            if value != now and self._facts.is_possible(value, of=name, request=start[1])
        ]

    def _results(self, tries: list[_Try]) -> list[_Pair]:
        made = self._remaking.of([one.other for one in tries])
        return [(one, remade) for one, remade in zip(tries, made, strict=True) if remade is not None]

    def _flips(self, pair: _Pair) -> bool:
        return pair[1].action != self._action

    def _flip(self, pairs: Sequence[_Pair]) -> Flip:
        action, predictions = pairs[-1][1]
        beyond = [pair for pair in self._tried if [pair[0].name] == [one.name for one, _ in pairs]]
        changed = []
        for one, _ in pairs:
            now = self._facts.value(one.name, self._start)
            meaning, was = self._facts.words(one.name, now)
            instead = self._facts.words(one.name, one.value)[1] + _open(one.value, now, action, beyond)
            changed.append(Changed(one.name.removeprefix(REQUEST), meaning, was, instead))
        return Flip(tuple(changed), action, predictions, sum(map(_distance, pairs)))


def gap(made: Remade, found: Mapping[str, Sequence[Band]], *, action: str) -> float:
    """Returns how far predictions are from a band of another action than one; infinite where there is none."""
    apart = [
        max(band.since - made.predictions[head], made.predictions[head] - band.until, 0.0)
        for head, told in found.items()
        for band in told
        if band.action not in ("", action)
    ]
    return min(apart, default=np.inf)


class _Try(NamedTuple):
    """A fact's other value, how far off it is, and row and request with it."""

    name: str
    value: Value
    distance: float
    other: Seen


_Pair = tuple[_Try, Remade]


def _distance(pair: _Pair) -> float:
    return pair[0].distance


def _open(value: Value, now: Value, action: str, tried: Sequence[_Pair]) -> str:
    """Returns " or less" or " or more" where all values that were tried beyond one make the same action."""
    if isinstance(value, str) or isinstance(now, str):
        return ""
    is_less = value < now
    beyond = [made.action for one, made in tried if (one.value < value if is_less else one.value > value)]  # type: ignore[operator]  # numbers, as `value` is
    return (" or less" if is_less else " or more") if beyond and set(beyond) == {action} else ""
