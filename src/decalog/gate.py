"""The gate of a rollout: whether a challenger may decide for anybody, by what neither model has learnt from.

- Better: the log score of what was heard, or the pinball loss of quantities (proper both: Gneiting and Raftery, JASA
  102, 2007), is shown to be better, or the money by `whatif`, and neither is shown to be worse. A label that is not
  known yet counts by the odds of what was heard so far (`censoring`), so nobody waits until all are.
- In no slice is it shown to be worse by more than is allowed.
- Calibrated: what it predicts happens as often as it says, or nearer to that than what the champion predicts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from decalog.censoring import surmised
from decalog.errors import DataError
from decalog.metrics import Floats, Int64s, Measurement
from decalog.quantity_metrics import pinball_of
from decalog.statistics.calibration import calibration
from decalog.statistics.claims import claims
from decalog.statistics.clusters import Clusters, clusters, ratio
from decalog.whatif import Asked, Unlearnt, UnlearntQuantities, named_verdict, telling_of
from decalog.whatif_verdict import WhatIf, judged

_SURE = 1e-6
"""How near 0 and 1 a probability is taken: one row can say no more than ln of it."""
_LEAST_ROWS, _LEAST_POSITIVES = 100, 10
"""Below which a slice says nothing."""


class Standards(msgspec.Struct, frozen=True, kw_only=True):
    """What a challenger has to meet.

    Args:
        slices: public values of the request, or of the thing, by which it is looked at apart.
        worse_in_a_slice: how much more log score it may lose there, as a share of the champion's, ≥ 0.
        off: how far observed over predicted may be shown to lie from 1, as a factor less 1, > 0.
        least_positives: that have to have been told of since both models were made.
        sure: confidence of the interval by which it has to be better. By which it must not be shown to be worse it is
            always 95 %.
    """

    slices: tuple[str, ...] = ()
    worse_in_a_slice: float = 0.05
    off: float = 0.3
    least_positives: int = 20
    sure: float = 0.95


class Gated(msgspec.Struct, frozen=True, kw_only=True):
    """What the gate says.

    Args:
        passes: whether the challenger may go on.
        because: what speaks against it, or for it, a sentence each.
        rows: of which something was heard since both models were made.
        positives: of the first head: that are known, and as many as the champion surmises where a word may be wrong.
        gain: log score that the challenger saves a row, nats, mean over heads; None where nothing could be measured.
        loss: the champion's log score a row.
        money: what `whatif` answers, and its minor units a thousand units, where it says any.
        brings: see `WhatIf`.
        slices: "field=value" → gain there.
        ratios: head → (champion's, challenger's) observed over predicted.
        claims: what the challenger claims to know of these rows, as a share of what the champion does, see
            `statistics.claims`: a shadow holds it against the newest rows.
    """

    passes: bool
    because: tuple[str, ...]
    rows: int = 0
    positives: int = 0
    gain: Measurement | None = None
    loss: float = 0.0
    money: str = "no verdict"
    brings: Measurement | None = None
    slices: dict[str, Measurement] = {}
    ratios: dict[str, tuple[Measurement, Measurement]] = {}
    claims: Measurement | None = None


def gate(asked: Asked, standards: Standards) -> Gated:
    """Returns whether a challenger may decide for anybody.

    Args:
        asked: the champion and the challenger, of one feature set.
        standards: that it has to meet.
    """
    rows, evidence = telling_of(asked.deployment.system).unlearnt(asked)
    return weighed(rows, named_verdict(judged(evidence), asked), standards=standards)


def weighed(seen: Unlearnt | UnlearntQuantities, money: WhatIf, *, standards: Standards) -> Gated:
    """Returns what outcomes and money say of a challenger.

    Args:
        seen: how both predict what neither learnt from.
        money: the verdict on the same change.
        standards: that it has to meet.
    """
    rows = _of_quantities(seen) if isinstance(seen, UnlearntQuantities) else _of_labels(seen)
    positives, n = int(np.sum(rows.likely)), len(rows.people)
    if positives < standards.least_positives:
        lacking = f"{positives} {rows.counted} were told of since both were made, of {standards.least_positives} needed"
        return Gated(passes=False, because=(lacking,), rows=n, positives=positives, money=money.answer)
    then, now, ratios, claimed = rows.scored()
    together = clusters(rows.people, n=n, where="gate, people")
    saved = ratio((now - then) * rows.weights, rows.weights, rows=together, where="gate")
    gain, surely = saved.measured(), saved.measured(confidence=standards.sure)
    inside = dict(_rows_by_slice(rows, standards.slices))
    slices = dict(_slices(inside, (now - then) * rows.weights, weights=rows.weights, together=together))
    loss = float(np.average(now, weights=rows.weights))
    before = {name: float(np.average(now[one], weights=rows.weights[one])) for name, one in inside.items()}
    told = _Words(rows.unit, rows.of)
    against = (
        *told.worse(gain, money),
        *told.worse_slices(slices, before, allowed=standards.worse_in_a_slice),
        *_uncalibrated(ratios, standards),
    )
    better = surely.low > 0 or money.answer == "better"
    why = against or (() if better else (f"it is not shown to be better: it saves {told.saved(surely)} a {rows.unit}",))
    return Gated(
        passes=not why,
        because=why or (f"it saves {told.saved(surely)} of {loss:.4g} a {rows.unit}; money: {money.answer}",),
        rows=n,
        positives=positives,
        gain=gain,
        loss=loss,
        money=money.answer,
        brings=money.brings,
        slices=slices,
        ratios={head: both for head, both in ratios.items() if both is not None},
        claims=claimed,
    )


Ratios = Mapping[str, tuple[Measurement, Measurement] | None]


class _Rows(NamedTuple):
    """What the gate looks at, of any kind of label, on rows of which something was told.

    `likely` is how far each row counts as evidence, `counted` and `of` what that and its score are called; `scored`
    gives the losses of challenger and champion, observed over predicted of each head, and what the challenger claims.
    """

    unit: str
    counted: str
    of: str
    weights: Floats
    people: Int64s
    facts: tuple[Mapping[str, Any], ...]
    likely: Floats
    scored: Callable[[], tuple[Floats, Floats, Ratios, Measurement | None]]


def _of_labels(seen: Unlearnt) -> _Rows:
    told = np.any(seen.heard.odds != 1, axis=1)
    likely, seen = _likely(seen)[told], _taken(seen, told)

    def scored() -> tuple[Floats, Floats, Ratios, Measurement | None]:
        ratios = {head: _ratios(seen, place) for place, head in enumerate(seen.heads)}
        return _score(seen, seen.then), _score(seen, seen.now), ratios, claims(seen.now, seen.then, people=seen.people)

    return _Rows(seen.unit, "positives", "nats", seen.weights, seen.people, seen.facts, likely, scored)


def _of_quantities(seen: UnlearntQuantities) -> _Rows:
    """Returns quantities as the gate looks at them: by the pinball loss of quantiles, and the level of the mean."""

    def scored() -> tuple[Floats, Floats, Ratios, Measurement | None]:
        then, now = (pinball_of(seen.drawn, side[:, 1:], heads=seen.heads) for side in (seen.then, seen.now))
        together = clusters(seen.people, n=len(seen.drawn), where="gate, level")
        before, after = (
            ratio(seen.drawn, side[:, 0], rows=together, where="gate, level").measured()
            for side in (seen.now, seen.then)
        )
        return then, now, {seen.heads[0]: (before, after)}, None

    one = np.ones(len(seen.drawn))
    return _Rows(seen.unit, "quantities", "units of pinball loss", one, seen.people, seen.facts, one, scored)


def _taken(seen: Unlearnt, rows: Any) -> Unlearnt:
    columns = {name: getattr(seen, name)[rows] for name in ("now", "then", "weights", "people")}
    facts = tuple(fact for fact, is_kept in zip(seen.facts, rows.tolist(), strict=True) if is_kept)
    return msgspec.structs.replace(seen, **columns, heard=seen.heard.take(rows), facts=facts)


def _score(seen: Unlearnt, predictions: Floats) -> Floats:
    """Returns the log score of what was heard of each row, the mean over its heads; lower is better.

    How likely that was, p · odds + 1 − p, is taken as a share of the likeliest it can be, so that no score is below 0.
    """
    p, odds = np.clip(predictions, _SURE, 1 - _SURE), seen.heard.odds
    of_positive, of_negative = np.minimum(odds, 1.0), 1 / np.maximum(odds, 1.0)
    losses = -np.log(p * of_positive + (1 - p) * of_negative)
    return np.asarray(np.nanmean(np.where(odds != 1, losses, np.nan), axis=1))


def _slices(
    inside: Mapping[str, Any], gains: Floats, *, weights: Floats, together: Clusters
) -> Iterator[tuple[str, Measurement]]:
    confidence = 1 - 0.05 / max(len(inside), 1)  # Bonferroni: any of them being worse stops it
    for name, rows in inside.items():
        told = ratio(gains * rows, weights * rows, rows=together, where=f"gate, {name}")
        yield name, msgspec.structs.replace(told.measured(confidence=confidence), n=int(np.sum(rows)))


def _likely(seen: Unlearnt) -> Floats:
    """Returns how likely each row is a positive of the first head, where what was heard speaks for it; 0 elsewhere."""
    odds = seen.heard.odds[:, 0]
    return np.where(odds > 1, surmised(seen.now[:, 0], odds), 0.0)


def _rows_by_slice(rows: _Rows, fields: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yields the slices of which enough was heard."""
    for field in fields:
        values = np.array([str(fact.get(field, "")) for fact in rows.facts])
        for value in np.unique(values).tolist():
            inside = values == value
            positives = float(np.sum(rows.likely[inside]))
            if value and np.sum(inside) >= _LEAST_ROWS and positives >= _LEAST_POSITIVES:
                yield f"{field}={value}", inside


def _ratios(seen: Unlearnt, head: int) -> tuple[Measurement, Measurement] | None:
    """Returns known positives over those that should be known by now, of both; None where a head predicts none."""
    chance = seen.heard.chance[:, head]
    told = chance > 0
    labels, people = np.isinf(seen.heard.odds[told, head]).astype(np.float64), seen.people[told]
    try:
        now, then = (
            calibration(labels, np.clip(side[told, head], 0, 1) * chance[told], entities=people).ratio
            for side in (seen.now, seen.then)
        )
    except DataError:
        return None
    return now, then


class _Words(NamedTuple):
    """How a challenger's figures are told: what a row is, and what its score is counted in."""

    unit: str
    of: str

    def saved(self, gain: Measurement) -> str:
        """Returns what a gain is, in words."""
        return f"{gain.value:.4g} {self.of} ({gain.low:.4g} to {gain.high:.4g})"

    def worse(self, gain: Measurement, money: WhatIf) -> Iterator[str]:
        """Yields what is worse of all rows."""
        if gain.high < 0:
            yield f"its score is worse: it saves {self.saved(gain)}"
        if money.answer == "worse" and money.brings is not None:
            low, high = money.brings.low, money.brings.high
            minor = f"{money.brings.value:.4g} minor units a thousand {money.unit}s"
            yield f"it costs money: {minor} ({low:.4g} to {high:.4g})"

    def worse_slices(
        self, slices: Mapping[str, Measurement], losses: Mapping[str, float], *, allowed: float
    ) -> Iterator[str]:
        """Yields in which slices it is worse by more than is allowed."""
        for name, gain in slices.items():
            if gain.high < 0 and gain.value < -allowed * losses[name]:
                yield f"where {name} it is worse: it saves {self.saved(gain)} of {losses[name]:.4g}"


def _uncalibrated(ratios: Mapping[str, tuple[Measurement, Measurement] | None], standards: Standards) -> Iterator[str]:
    for head, both in ratios.items():
        if both is None:
            continue
        now, then = both
        is_off = then.low > 1 + standards.off or then.high < 1 / (1 + standards.off)
        if is_off and _stray(then.value) > _stray(now.value):
            yield f"{head} happens {then.value:.3g} times as often as predicted ({then.low:.3g} to {then.high:.3g})"


def _stray(ratio: float) -> float:
    return abs(math.log(ratio)) if ratio > 0 else math.inf
