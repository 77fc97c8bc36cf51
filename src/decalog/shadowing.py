"""A challenger in shadow: what it would have decided on the newest requests, beside what the champion did, in money.

By replay of the log, so it costs the server nothing: what both saw is logged. No outcome is needed, and none is known:
what a changed decision brings is by the challenger's own predictions, which is no estimate of what it will bring.

What it claims to know of the newest requests is held against what it claimed of those that the gate judged it on. One
that learnt from what is known only afterwards (a column that a job fills in later) shines at the gate, where the column
is full, and knows little here, where it is still empty.

One that learnt from values of another size than are served may still be better than an old champion, for what is left
of it. So its trees are asked where they parted what it learnt from, and whether that parts the newest requests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from decalog.candidates import Candidate, gathered, named
from decalog.decisions import Choice, Decision, decode_decision
from decalog.events import Record
from decalog.examples import AMOUNT
from decalog.impressions import subject_of
from decalog.metrics import Floats, Measurement, proportion
from decalog.models.splits import splits_of
from decalog.policy import Case
from decalog.recasting import Recasting
from decalog.statistics.claims import claims
from decalog.tails import newest
from decalog.whatif import Asked

_ENOUGH = 0.01
"""Share of decisions without a usable prediction, above which a challenger is not fit to decide."""
_NOTABLE = 0.1
"""How far a number must lie from what was chosen, as a share of the larger, to be another choice."""
_LOST = 0.5
"""How much of what a challenger claimed to know at the gate, beside the champion, has to be left here. What that
never met comes and goes: a challenger that still claims as much as the champion may have lost more."""
_UNMET = 0.15
"""How much of what a challenger's trees gained may rest on features that they part where no newest request is."""
_A_DECISION = 20
"""Candidates of a decision that are looked at for this, evenly over all that competed."""
_LEAST_PARTED = 400
"""Candidates below which nothing is said of it: twice those of which the least side of a split is one."""
_NAMED = 5


class Shadow(msgspec.Struct, frozen=True, kw_only=True):
    """What a challenger would have decided.

    Args:
        decisions: that were looked at: the newest that the champion made by its predictions.
        failed: of these, on how many the challenger predicted nothing usable.
        changed: share of the choices that would have been others: of actions, or of things in slots.
        moves: "allow → block" → decisions; of slots "replaced" → things; of numbers "more" and "less".
        saves: minor units a thousand decisions that the changes are worth by the challenger's own predictions.
        predicted: head → mean prediction of what was chosen, (champion's, challenger's).
        claims: what the challenger claims to know of what was chosen, as a share of what the champion does.
        unmet: feature that the challenger's trees part mostly where none of these requests is, and the champion's do
            not → its part of what they gained, the largest first; empty of a model without trees, and of few
            candidates.
    """

    decisions: int
    failed: int = 0
    changed: Measurement | None = None
    moves: dict[str, int] = {}
    saves: float = 0.0
    predicted: dict[str, tuple[float, float]] = {}
    claims: Measurement | None = None
    unmet: dict[str, float] = {}

    def against(self, most_changed: float, *, judged: Measurement | None = None) -> tuple[str, ...]:
        """Returns what speaks against letting it decide for anybody.

        Args:
            most_changed: share of what was chosen that may be shown to become another.
            judged: what it claimed of the rows that the gate judged it on, as `claims`.
        """
        if not self.decisions:
            return ("the champion has decided nothing yet, so there is nothing to compare it on",)
        if self.failed > _ENOUGH * self.decisions or self.changed is None:
            return (f"it predicts nothing usable on {self.failed:,} of {self.decisions:,} requests",)
        if self.changed.low > most_changed:
            share = f"{self.changed.value:.1%} of what was chosen ({self.changed.low:.1%} to {self.changed.high:.1%})"
            return (f"it would change {share}, more than {most_changed:.0%}: a question for a person",)
        return (*self._forgets(judged), *self._mistakes())

    def _mistakes(self) -> Iterator[str]:
        if (part := sum(self.unmet.values())) > _UNMET:
            names = ", ".join(list(self.unmet)[:_NAMED]) + (", …" if len(self.unmet) > _NAMED else "")
            where = f"is of {names}, which they part where no newest request is"
            why = "it may have learnt from values of another unit than are served"
            yield f"{part:.0%} of what its trees gained {where}: {why}"

    def _forgets(self, judged: Measurement | None) -> Iterator[str]:
        if self.claims is None or judged is None:
            return
        most = self.claims.high
        if most < 1 and most < _LOST * judged.low:
            here = f"{self.claims.value:.3g} times as much as the champion (at most {most:.3g})"
            there = f"{judged.value:.3g} times (at least {judged.low:.3g})"
            why = "it may have learnt from what nobody knows yet when one decides"
            yield f"of the newest requests it claims to know {here}, of those it was judged on {there}: {why}"


def shadowed(asked: Asked, *, last: int) -> Shadow:
    """Returns what a challenger would have decided on the newest requests.

    Args:
        asked: the champion and the challenger, of one feature set.
        last: how many decisions are looked at.
    """
    recast, found = Recasting(asked), list(_newest(asked, last))
    tally, met = _Tally(asked), _Met(asked)
    for record, decision in found:
        case = recast.case(record, decision)
        if case is None:
            tally.failed += 1
        else:
            tally.take(decision, case)
            met.take(case)
    return Shadow(
        decisions=len(found),
        failed=tally.failed,
        changed=proportion(tally.changed, tally.choices) if tally.choices else None,
        moves=dict(tally.moves.most_common()),
        saves=1_000 * tally.saved / max(len(found) - tally.failed, 1),
        unmet=met.unmet(),
        **tally.told(),
    )


def _newest(asked: Asked, last: int) -> Iterator[tuple[Record, Decision]]:
    """Yields the newest decisions that the champion made by its predictions, in the order of what they had seen."""
    log, version = asked.deployment.log, asked.now.version[:12]
    found: list[tuple[int, int]] = []
    for record, decision in newest(log, asked.now.system.name):
        if record.root != record.seq:
            continue
        if decision.versions.model == version and decision.mode != "imported" and not decision.fallback:
            found.append((decision.state_seq, record.seq))
        if len(found) == last:
            break
    for _, seq in sorted(found):
        record = log.get(seq)
        yield record, decode_decision(record.body)


class _Met:
    """What the challenger's trees met so far: features of some candidates of each decision."""

    def __init__(self, asked: Asked) -> None:
        self._splits, self._before = splits_of(asked.then.model), splits_of(asked.now.model)
        self._names = asked.then.system.features.names_for("model")
        self._rows: list[Floats] = []

    def take(self, case: Case) -> None:
        if self._splits is not None:
            columns = [case.columns[name] for name in self._names]
            stride = -(-len(columns[0]) // _A_DECISION)
            self._rows.append(np.column_stack([column[::stride] for column in columns]))

    def unmet(self) -> dict[str, float]:
        if self._splits is None or sum(map(len, self._rows)) < _LEAST_PARTED:
            return {}
        rows = np.concatenate(self._rows)
        # Two days have two weekdays: what the champion's trees do not meet either is of the requests, not of a unit.
        usual = {} if self._before is None else self._before.unmet(rows)
        found = {place: part for place, part in self._splits.unmet(rows).items() if place not in usual}
        return {self._names[place]: found[place] for place in sorted(found, key=lambda place: -found[place])}


class _Tally:
    """What was counted so far."""

    def __init__(self, asked: Asked) -> None:
        self._schema = asked.then.system.schema
        self._policy: Any = asked.then.policy.greedy
        self._heads = tuple(asked.then.head.split("+"))
        self.choices = self.changed = self.failed = 0
        self.saved = 0.0
        self.moves: Counter[str] = Counter()
        self._predicted: tuple[list[Floats], list[Floats]] = ([], [])
        self._people: list[int] = []

    def told(self) -> dict[str, Any]:
        """Returns what both predicted of what was chosen, as a `Shadow` has it."""
        if not self._people:
            return {}
        now, then = (np.array(rows) for rows in self._predicted)
        means = zip(now.mean(axis=0).tolist(), then.mean(axis=0).tolist(), strict=True)
        told: dict[str, Any] = {"predicted": dict(zip(self._heads, means, strict=True))}
        if self._schema.label.of:
            return told  # what a forecast claims to know is its spread, which the gate scores
        return told | {"claims": claims(now, then, people=np.array(self._people, np.int64))}

    def take(self, decision: Decision, case: Case) -> None:
        """Counts one decision, and what the challenger's policy makes of its case."""
        then = self._policy.decide(case).choice
        if self._schema.label.of:
            self._number(decision, case, then)
        elif decision.choice.verb:
            was, now = ([slot.ref for slot in one.slots] for one in (decision.choice, then))
            replaced = len(set(was) - set(now))
            self.choices, self.changed = self.choices + len(was), self.changed + replaced
            self.moves["replaced"] += replaced
            worth = _worth(case, self._policy)
            self.saved += sum(worth.get(ref, 0.0) for ref in now) - sum(worth.get(ref, 0.0) for ref in was)
            self._predictions(decision, case, was)
        else:
            before, after = decision.choice.action, then.action
            self.choices, self.changed = self.choices + 1, self.changed + (before != after)
            if before != after:
                self.moves[f"{before} → {after}"] += 1
                self.saved += self._cost(case, before) - self._cost(case, after)
            self._predictions(decision, case, [case.candidates[0].ref])

    def _number(self, decision: Decision, case: Case, then: Choice) -> None:
        """Counts a number, and what another is worth if what the challenger expects comes."""
        before, after = decision.choice.quantity, then.quantity
        is_other = abs(after - before) > _NOTABLE * max(abs(after), abs(before))
        self.choices, self.changed = self.choices + 1, self.changed + is_other
        if is_other:
            self.moves["more" if after > before else "less"] += 1
            mean = float(case.candidates[0].predictions[self._heads[0]])
            worth = (self._policy.worth(case.request, one, label=mean, usual=mean) for one in (after, before))
            self.saved += next(worth) - next(worth)
        self._predictions(decision, case, [case.candidates[0].ref])

    def _predictions(self, decision: Decision, case: Case, refs: Sequence[str]) -> None:
        was, now = (named(candidates, refs) for candidates in (decision.candidates, case.candidates))
        person = subject_of(decision.request, self._schema)
        for ref in refs:
            both = [self._row(side.get(ref)) for side in (was, now)]
            if all(row is not None for row in both):
                self._people.append(person)
                for rows, row in zip(self._predicted, both, strict=True):
                    rows.append(row)

    def _row(self, candidate: Candidate | None) -> Any:
        """Returns what is predicted of a candidate, float64 a head; None where that is not all."""
        told = {} if candidate is None else candidate.predictions
        return np.array([told[head] for head in self._heads]) if told.keys() >= set(self._heads) else None

    def _cost(self, case: Case, action: str) -> float:
        """Returns what an action is expected to cost by the challenger's prediction."""
        amount = case.request.attributes.get(AMOUNT, 0)
        (p, *_) = case.candidates[0].predictions.values()
        bad, good = (self._policy.cost_minor(action, label=label, amount_minor=int(amount)) for label in (1.0, 0.0))
        return float(p * bad + (1 - p) * good)


def _worth(case: Case, policy: Any) -> Mapping[str, float]:
    columns = gathered(case.candidates)
    competing = columns.competing
    worth = policy.worth(columns.heads, columns.rows[:competing])
    return dict(zip(columns.refs[:competing], worth.tolist(), strict=True))
