"""What a log of numbers tells of other numbers: the outcome belongs to the request, whatever was chosen for it.

What was wanted does not depend on what was ordered, but what was seen of it does: a shelf that sold out tells a lower
bound. So both sides are replayed on requests that neither model learnt from and priced by the policy's worth, with what
stands behind a bound recovered as the system declares; how much rests on that is said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import msgspec
import numpy as np

from decalog.deployment import Deployment
from decalog.evaluation import Outlook, choices
from decalog.examples import Bools, Examples, Floats
from decalog.fitting import model_rows
from decalog.metrics import Int64s
from decalog.models.base import QuantitySet
from decalog.quantities import QuantityHistory
from decalog.quantity_metrics import levels_of, usual_of, weights_of
from decalog.quantity_training import QuantityPolicy, history_of, quantities_of, worths
from decalog.statistics.offpolicy import Logged
from decalog.system import System
from decalog.training import uncollected
from decalog.whatif import Asked, Side, UnlearntQuantities
from decalog.whatif_verdict import Drawn, Evidence

_LEAST = 30
"""Changed requests below which an interval is too narrow to trust."""


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """A log whose choices are numbers, and whose outcome belongs to the request.

    Args:
        assumes: what the worth of a number assumes, in words.
    """

    assumes: tuple[str, ...] = ()

    def evidence(self, asked: Asked) -> Evidence:
        """See `whatif.Telling`."""
        return self._told(asked, _rows_of(asked))

    def unlearnt(self, asked: Asked) -> tuple[UnlearntQuantities, Evidence]:
        """See `whatif.Telling`."""
        rows = _rows_of(asked)
        seen = UnlearntQuantities(
            unit=asked.now.system.schema.noun,
            heads=rows.heads,
            drawn=rows.data.drawn,
            now=rows.predictions,
            then=rows.predicted,
            people=rows.groups,
            facts=tuple(request.attributes for request in rows.examples.requests),
        )
        return seen, self._told(asked, rows)

    def _told(self, asked: Asked, rows: _Rows) -> Evidence:
        now, then = (
            worths(asked.money, rows.examples.requests, chosen=one, labels=rows.data.drawn, usual=rows.usual)
            for one in (rows.now, rows.then)
        )
        brings = then - now
        changed = rows.then != rows.now
        foreseen = _foreseen(asked.money, rows)[changed]
        moves = Counter(np.where(rows.then > rows.now, "more", "less")[changed].tolist())
        n = int(np.sum(changed))
        return Evidence(
            unit=asked.now.system.schema.noun,
            entities=rows.groups,
            changed=changed,
            rows=Logged(
                rewards=brings[changed],
                propensities=np.ones(n),
                targets=np.ones(n),
                modelled=foreseen,
                expected=foreseen,
                unsupported=np.zeros(n),
                entities=rows.groups[changed],
            ),
            is_difference=True,
            foreseen=foreseen,
            drawn=Drawn(),
            moves=dict(moves),
            labels=(rows.known, rows.asked),
            since=int(rows.examples.times[0]) if rows.examples.n else 0,
            until=int(rows.examples.times[-1]) if rows.examples.n else 0,
            notes=(*self._notes(rows, brings, changed), *self.assumes),
            doubts=(f"it changes {n} requests of which anything is known, fewer than {_LEAST}",) if n < _LEAST else (),
        )

    @staticmethod
    def _notes(rows: _Rows, brings: Floats, changed: Bools) -> tuple[str, ...]:
        bounds = rows.data.bounds
        of_bounds, whole = float(np.sum(brings[bounds])), float(np.sum(brings))
        share = f", which is {of_bounds / whole:.0%} of what it brings" if whole else ""
        count = f"{int(np.sum(bounds & changed)):,} of those that change"
        told = f"of {count} only a lower bound was told: what stands behind it is recovered{share}"
        return (told, "both sides are replayed on requests as they came: stock does not follow from what they choose")


class _Rows(NamedTuple):
    """Requests that neither side learnt from, what is known of them, and what either side chooses.

    `predictions` are those of what is in force, n × heads, `predicted` those of the change; `known` and `asked` count
    labels.
    """

    heads: tuple[str, ...]
    examples: Examples
    data: QuantitySet
    predictions: Floats
    predicted: Floats
    now: Floats
    then: Floats
    usual: Floats
    groups: Int64s
    known: int
    asked: int


def _rows_of(asked: Asked) -> _Rows:
    sides = (asked.now, asked.then)
    with uncollected():
        histories = _histories(asked.deployment, {side.system.features.version: side.system for side in sides})
    since = max(side.trained_at for side in sides)
    found = [_lately(histories[side.system.features.version], since, last=asked.change.last) for side in sides]
    both = set(found[0].ids) & set(found[1].ids)
    ours, theirs = (one.take(np.array([id_ in both for id_ in one.ids], np.bool_)) for one in found)
    every = int(np.sum(histories[asked.now.system.features.version].now.times >= since))
    data = histories[asked.now.system.features.version].part(ours, seed=0)
    predictions, predicted = _predicted(asked.now, ours), _predicted(asked.then, theirs)
    return _Rows(
        heads=tuple(asked.now.head.split("+")),
        examples=ours,
        data=data,
        predictions=predictions,
        predicted=predicted,
        now=_chosen(asked.now, ours, predictions),
        then=_chosen(asked.then, theirs, predicted),
        usual=usual_of(data.expected, data.groups),
        groups=data.groups,
        known=ours.n,
        asked=every,
    )


def _histories(deployment: Deployment, systems: Mapping[str, System]) -> dict[str, QuantityHistory]:
    return {version: history_of(system, deployment.log) for version, system in systems.items()}


def _lately(history: QuantityHistory, since: int, *, last: int) -> Examples:
    """Returns the newest requests of which something was told."""
    now = history.now
    told = now.labelled & (now.times >= since)
    told[np.flatnonzero(told)[:-last]] = False
    return now.take(told)


def _predicted(side: Side, rows: Examples) -> Floats:
    return np.asarray(side.model.predict(model_rows(side.system, rows)).reshape(rows.n, -1))


def _chosen(side: Side, rows: Examples, predictions: Floats) -> Floats:
    outlook = Outlook(
        policy=side.policy,
        idle=side.system.schema.actions[0],
        features=side.system.features,
        head=side.head,
        metrics=(),
    )
    return quantities_of(choices(rows, predictions, outlook=outlook))


def _foreseen(money: QuantityPolicy, rows: _Rows) -> Floats:
    """Returns what the change brings by the forecast in force: the mean over its quantiles."""
    weights = weights_of(levels_of(rows.heads).tolist())
    columns = zip(rows.examples.requests, rows.now.tolist(), rows.then.tolist(), rows.predictions.tolist(), strict=True)
    found = []
    for request, now, then, (mean, *quantiles) in columns:
        worth = [
            money.worth(request, then, label=one, usual=mean) - money.worth(request, now, label=one, usual=mean)
            for one in (quantiles if now != then else ())
        ]
        found.append(sum(weight * one for weight, one in zip(weights, worth, strict=False)))
    return np.array(found, np.float64)
