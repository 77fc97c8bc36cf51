"""A verdict on a change before anybody meets it: what it would have brought on logged decisions, or that none can tell.

Where a change chooses as before, it brings nothing, whatever the outcome. So only units (a payment, a slot) that it
changes need outcomes, and the estimate over all is

    share of units that change  ×  mean of what the change brings there        (`statistics.offpolicy`)

with both errors in its interval. Rows that the log hides with certainty are not guessed: either the verdict holds
whatever they hide (Manski, American Economic Review 80, 1990), or there is none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.clock import rfc3339
from decalog.errors import DataError
from decalog.metrics import Floats, Int64s, Measurement
from decalog.money import EXPONENTS
from decalog.statistics.clusters import clusters, share
from decalog.statistics.offpolicy import Estimate, Estimator, Exploration, Logged, Overlap, estimate

Answer = Literal["better", "worse", "no difference shown", "nothing changes", "no verdict"]

ESTIMATORS: tuple[Estimator, ...] = ("dr", "snips", "ips")
"""The first one that the rows allow gives the verdict."""
_WHERE = "what-if"
_HIDDEN = "the interval takes in whatever hidden labels say"
_CANARY = "a canary can tell: a small share of traffic decided by the change"
_MOSTLY = 20
"""Where fewer changed units than one in so many depend on draws, it is not exploration that lacks."""


class Drawn(msgspec.Struct, frozen=True, kw_only=True):
    """The changed units of which only a draw can tell.

    Args:
        units: how many.
        observed: of how many of these the draw did tell.
        choices: from how many a draw chooses, ≥ 2.
        deviation: standard deviation of what one brings, minor units.
    """

    units: int = 0
    observed: int = 0
    choices: int = 2
    deviation: float = 0.0


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What a log says of a change. Money is minor units of the base currency; more is better.

    Args:
        unit: what one choice is about: a payment, a slot.
        entities: int64 tokens, one a unit that was looked at: units of one person hang together; below 0 alone.
        changed: bool, one a unit: the change would choose otherwise.
        rows: the changed units, in the same order.
        is_difference: whether `rows.rewards` are what the change brings beyond what is in force; else they are what the
            logged choice brought, and the estimate is the lift over it.
        foreseen: float64, one a changed unit: what the change brings by predictions made before its outcome.
        least, most: float64, one a changed unit: what it could bring, of whatever label; empty where nothing bounds it.
        drawn: those of which only a draw can tell.
        moves: "allow → block" → changed units.
        labels: (known, all): how many outcomes of the units looked at are known.
        since, until: when they were decided, µs.
        notes: what an estimate rests on beside the log, and what it leaves out, in the field's words.
        doubts: why there can be no verdict whatever the numbers say.
    """

    unit: str
    entities: Int64s
    changed: npt.NDArray[np.bool_]
    rows: Logged
    is_difference: bool
    foreseen: Floats
    least: Floats = msgspec.field(default_factory=lambda: np.empty(0))
    most: Floats = msgspec.field(default_factory=lambda: np.empty(0))
    drawn: Drawn = Drawn()
    moves: Mapping[str, int] = {}
    labels: tuple[int, int] = (0, 0)
    since: int = 0
    until: int = 0
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


class Finding(msgspec.Struct, frozen=True):
    """What one estimator says the change brings, minor units a thousand units, and why that is no verdict."""

    brings: Measurement
    doubts: tuple[str, ...]


class WhatIf(msgspec.Struct, frozen=True, kw_only=True):
    """What a change would have brought.

    Args:
        answer: in a word.
        because: what speaks for or against the answer, a sentence each.
        brings: minor units a thousand units, of the estimator that gives the verdict; None where none could be made.
        findings: estimator → what it says.
        whatever: (lowest, highest) of what the change brings whatever hidden labels say; None where nothing is hidden.
        foreseen: what predictions alone say that it brings: as good as they are, and no verdict.
        changes: share of units that it would choose otherwise.
        overlap: how far the changed units speak of the change.
        more: what would give a verdict, or show a difference, in words; "" where there is one.
        unit, moves, labels, since, until, notes: see `Evidence`.
        system, change, against, currency: what was asked.
    """

    answer: Answer
    because: tuple[str, ...]
    brings: Measurement | None
    findings: dict[str, Finding]
    whatever: tuple[Measurement, Measurement] | None
    foreseen: float
    changes: Measurement
    overlap: Overlap | None
    more: str
    unit: str
    moves: dict[str, int]
    labels: tuple[int, int]
    since: int
    until: int
    notes: tuple[str, ...]
    system: str = ""
    change: str = ""
    against: str = ""
    currency: str = "EUR"

    def text(self) -> str:
        """Returns it for people."""
        lines = [
            f"{self.system}: {self.change}, against {self.against}",
            f"{self.answer}{'' if self.brings is None else ': ' + self._money(self.brings)}",
            *(f"  {sentence}" for sentence in self.because),
            self._rests(),
            f"changes {self._moved()}",
            *([] if self.overlap is None else [f"  {_weight(self.overlap, self.unit)}"]),
            *(f"  {name:6}{self._money(one.brings)}" for name, one in self.findings.items()),
            *self._hidden(),
            *(
                [f"  by predictions alone {self._sum(self.foreseen)}, which is no estimate"]
                if self.changes.value
                else []
            ),
            *([f"more would tell: {self.more}"] if self.more else []),
            *(f"note: {note}" for note in self.notes),
        ]
        return "\n".join(lines)

    def _rests(self) -> str:
        known = f"{_percent(self.labels[0] / max(self.labels[1], 1))} of {self.labels[1]:,} labels are known"
        when = f"decided from {rfc3339(self.since)} to {rfc3339(self.until)}"
        return f"rests on {self.changes.n:,} {self.unit}s, {when}; {known}"

    def _moved(self) -> str:
        share_ = f"{_percent(self.changes.value)} ({_percent(self.changes.low)} to {_percent(self.changes.high)})"
        moves = ", ".join(f"{move} {count:,}" for move, count in self.moves.items())
        return f"{share_} of {self.unit}s{': ' + moves if moves else ''}"

    def _hidden(self) -> list[str]:
        if self.whatever is None:
            return []
        low, high = self.whatever
        return [f"  whatever hidden labels say, between {self._sum(low.low)} and {self._sum(high.high)}"]

    def _money(self, told: Measurement) -> str:
        more = f"brings {self._sum(told.value)} a thousand {self.unit}s"
        return f"{more} ({self._sum(told.low)} to {self._sum(told.high)})"

    def _sum(self, minor: float) -> str:
        places = EXPONENTS.get(self.currency, 2)
        return f"{minor / 10**places:,.{places}f} {self.currency}"


def judged(evidence: Evidence) -> WhatIf:
    """Returns the verdict that evidence allows."""
    looked, changed = len(evidence.changed), int(np.sum(evidence.changed))
    if not looked:
        return _told(evidence, "no verdict", (f"the log holds no {evidence.unit} that could tell",))
    if not changed:
        return _told(evidence, "nothing changes", (f"it chooses as before for each of {looked:,} {evidence.unit}s",))
    found, lacking = _estimates(evidence, evidence.rows)
    if not found:
        return _told(evidence, "no verdict", (lacking,))
    first = next(iter(found.values()))
    ends = _ends(evidence, first)
    answer, because, brings = _answer(evidence, first, ends)
    whatever = (_over_all(evidence, ends[0]), _over_all(evidence, ends[1])) if len(ends) > 1 else None
    told = _told(evidence, answer, because, found=found, whatever=whatever)
    return msgspec.structs.replace(told, brings=brings)


def _estimates(evidence: Evidence, rows: Logged) -> tuple[dict[str, Estimate], str]:
    """Returns the estimates that rows allow, by estimator; where there is none, why."""
    found, lacking = dict[str, Estimate](), ""
    for name in ESTIMATORS:
        if name == "dr" and not len(rows.expected):
            continue
        try:
            found[name] = estimate(rows, name)
        except DataError as error:
            lacking = f"of {int(np.sum(evidence.changed)):,} {evidence.unit}s that change, there is {error.given}"
    return found, lacking


def _ends(evidence: Evidence, first: Estimate) -> tuple[Estimate, ...]:
    """Returns the estimates with every hidden label against the change, and for it; the one there is if none bounds it.

    However few are hidden: they may be those with the most money at stake.
    """
    hidden, rows = evidence.rows.unsupported > 0, evidence.rows
    if not len(evidence.least) or not np.any(hidden):
        return (first,)
    seen = {"targets": np.where(hidden, 1.0, rows.targets), "unsupported": np.zeros(len(hidden))}
    columns = [name for name in ("rewards", "modelled", "expected") if len(getattr(rows, name))]
    return tuple(
        estimate(
            msgspec.structs.replace(
                rows, **seen, **{name: np.where(hidden, worth, getattr(rows, name)) for name in columns}
            ),
            first.estimator,
        )
        for worth in (evidence.least, evidence.most)
    )


def _answer(
    evidence: Evidence, first: Estimate, ends: tuple[Estimate, ...]
) -> tuple[Answer, tuple[str, ...], Measurement | None]:
    doubts = (*evidence.doubts, *(ends[0].doubts or ends[-1].doubts))
    if doubts:
        return "no verdict", (*doubts, _CANARY), None
    told, low, high = (_over_all(evidence, one) for one in (first, ends[0], ends[-1]))
    brings = Measurement(told.value, low.low, high.high, told.n)
    answer = _direction(brings.low, brings.high)
    if len(ends) == 1:
        return answer, (), brings
    # Never "no verdict" for how the numbers fell: intervals that are told only otherwise would hold too seldom.
    is_decided = answer == _direction(told.low, told.high)
    return answer, (_HIDDEN if is_decided else f"{_HIDDEN}, which would decide it",), brings


def _direction(low: float, high: float) -> Answer:
    return "better" if low > 0 else "worse" if high < 0 else "no difference shown"


def _over_all(evidence: Evidence, found: Estimate) -> Measurement:
    """Returns what a thousand units gain, from what changed ones gain: the errors of both factors add up in squares."""
    there, told = _share(evidence), found.value if evidence.is_difference else found.lift
    spread = abs(told.value) * max(there.high - there.value, there.value - there.low)
    down, up = (math.hypot(there.value * side, spread) for side in (told.value - told.low, told.high - told.value))
    value = there.value * told.value
    return Measurement(1_000 * value, 1_000 * (value - down), 1_000 * (value + up), there.n)


def _share(evidence: Evidence) -> Measurement:
    n = len(evidence.changed)
    rows = clusters(evidence.entities, n=n, where=f"{_WHERE}, entities")
    return share(evidence.changed.astype(np.float64), np.ones(n), rows=rows)


def _told(
    evidence: Evidence,
    answer: Answer,
    because: tuple[str, ...],
    *,
    found: Mapping[str, Estimate] | None = None,
    whatever: tuple[Measurement, Measurement] | None = None,
) -> WhatIf:
    findings = {name: Finding(_over_all(evidence, one), one.doubts) for name, one in (found or {}).items()}
    first = next(iter(found.values()), None) if found else None
    looked = len(evidence.changed)
    foreseen = 1_000 * float(np.sum(evidence.foreseen)) / looked if looked else 0.0
    return WhatIf(
        answer=answer,
        because=because,
        brings=Measurement(0.0, 0.0, 0.0, looked) if answer == "nothing changes" else None,
        findings=findings,
        whatever=whatever,
        foreseen=foreseen,
        changes=_share(evidence) if looked else Measurement(0.0, 0.0, 1.0, 0),
        overlap=None if first is None else first.overlap,
        more=_more(evidence, first) if answer in {"no verdict", "no difference shown"} else "",
        unit=evidence.unit,
        moves=dict(sorted(evidence.moves.items(), key=lambda move: -move[1])),
        labels=evidence.labels,
        since=evidence.since,
        until=evidence.until,
        notes=evidence.notes,
    )


def _more(evidence: Evidence, first: Estimate | None) -> str:
    """Returns how much more of what would tell the effect that predictions foresee apart from nothing."""
    effect = abs(float(np.sum(evidence.foreseen)))
    if not effect:
        return "" if not len(evidence.foreseen) else "nothing; predictions foresee no difference to look for"
    changed, drawn = int(np.sum(evidence.changed)), evidence.drawn
    if drawn.units > changed / _MOSTLY and drawn.deviation:
        return _explored(evidence.unit, drawn, effect=effect)
    if first is None:
        return f"more {evidence.unit}s"
    told = first.value if evidence.is_difference else first.lift
    times = ((told.high - told.low) / 2 * changed / effect) ** 2
    return f"about {max(times, 1.1):,.1f} times as many {evidence.unit}s, where predictions are right"


def _explored(unit: str, drawn: Drawn, *, effect: float) -> str:
    plan, half_width = (
        Exploration(actions=drawn.choices, disagreement=1.0, deviation=drawn.deviation),
        effect / drawn.units,
    )
    units = f"{drawn.units:,} of the {unit}s that change are told of by draws alone, and {drawn.observed:,} were"
    needed = plan.share_needed(half_width, decisions=drawn.units)
    if needed is None:
        times = plan.decisions_needed(half_width, share=1.0) / drawn.units
        return f"{units}; were all drawn, it takes {times:,.0f} times as many, where predictions are right"
    chance = _percent(needed / drawn.choices)
    return f"{units}; each choice beside the greedy one drawn with {chance} would do, where predictions are right"


def _weight(overlap: Overlap, unit: str) -> str:
    never = (
        "" if overlap.unsupported.value <= 0 else f"; {_percent(overlap.unsupported.value)} of them were never tried"
    )
    return f"these weigh as much as {overlap.effective:,.0f} independent {unit}s (effective sample size){never}"


def _percent(part: float) -> str:
    return f"{100 * part:.3g} %"
