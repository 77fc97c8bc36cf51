"""What slots that were drawn tell of another choice in them, the slots above as they were.

A slot's draw gave each thing of a logged pool a known chance; what came of the one that was shown is weighed by how
likely the change would have shown it. The share of draws stays what it was; only the greedy choice is another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np

from decalog.candidates import gathered
from decalog.censoring import known
from decalog.decisions import Decision, decode_decision
from decalog.events import Record
from decalog.impressions import ImpressionHistory, last_said, signals_of, subject_of
from decalog.metrics import Floats, Int64s
from decalog.models.base import SlateSet
from decalog.outcomes import LabelBook
from decalog.policy import Case
from decalog.recasting import Recasting
from decalog.slate_training import SlatePolicy, ranked_by
from decalog.statistics.offpolicy import Logged
from decalog.system import load
from decalog.training import uncollected
from decalog.whatif import Asked, Unlearnt
from decalog.whatif_verdict import Drawn, Evidence

MOST_BEYOND = 0.2
"""Share of the slots that change, above which the others, whose choice was among the drawn, do not speak for them."""


class RandomisedSlot(Protocol):
    """A slot that was drawn."""

    @property
    def position(self) -> int:
        """Its place; 0 is the first."""

    @property
    def refs(self) -> tuple[str, ...]:
        """What it was drawn from, the greedy choice first."""

    @property
    def propensities(self) -> tuple[float, ...]:
        """How likely each of these was."""


class SlotPolicy(SlatePolicy, Protocol):
    """A policy that says what it would put into one slot of a slate."""

    def choice_in(self, case: Case, position: int, *, above: Sequence[str]) -> str:
        """Returns what a slot would take without a draw, those above as they were; "" where they could not stand."""


class Slots(msgspec.Struct, frozen=True):
    """A log of slates with slots that were drawn.

    Args:
        randomised: decision → its slots that were drawn.
    """

    randomised: Callable[[Decision], Sequence[RandomisedSlot]]

    def evidence(self, asked: Asked) -> Evidence:
        """See `Telling`. Against what the slots' draws were from, whatever was in force when."""
        heads = tuple(signal.head for signal in asked.then.system.schema.signals)
        return slots_told(list(drawn_slots(asked, self.randomised)), bounds=bounds_of(asked.money, heads))

    def unlearnt(self, asked: Asked) -> tuple[Unlearnt, Evidence]:
        """See `Telling`; rows are things that were shown since both models were made."""
        system, since = asked.now.system, max(asked.now.trained_at, asked.then.trained_at)
        with uncollected():
            history = ImpressionHistory(
                asked.deployment.log.read(), system.schema, features=system.features, retrieval=load(system.retrieval)
            )
        data = history.part((history.times >= since) & history.complete, known_by=history.known_time)
        rows = Unlearnt(
            unit=f"shown {system.schema.slate_of}",
            heads=data.heads,
            heard=known(data.labels),
            now=_as_shown(asked.now.model, data),
            then=_as_shown(asked.then.model, data),
            weights=np.ones(data.n),
            people=data.users,
            facts=data.facts,
        )
        return rows, self.evidence(asked)


def _as_shown(model: Any, data: SlateSet) -> Floats:
    """Returns what a model predicts of things where they stood: outcomes came from there, not from the first slot."""
    predictions = ranked_by(model, data)
    return model.as_shown(predictions, data.positions) if hasattr(model, "as_shown") else predictions


def bounds_of(money: SlatePolicy, heads: tuple[str, ...]) -> tuple[float, float]:
    """Returns the least and the most that one thing shown can be worth, minor units: a rare report leaves its trace."""
    each = money.worth(heads, np.eye(len(heads)))
    return float(np.sum(np.minimum(each, 0.0))), float(np.sum(np.maximum(each, 0.0)))


class DrawnSlot(NamedTuple):
    """A slot that was drawn, whose outcome is known.

    Attributes:
        request: its id.
        decided: µs.
        person: token.
        position: 0 is the first.
        ref: that was shown.
        refs: that it was drawn from, the greedy choice first.
        propensities: of these.
        choice: what the change would have put there; "" where it would not have the slots above as they were, or
            predicts nothing there.
        worth: what came of it.
        foreseen: thing → what was predicted of it to be worth, for those it was drawn from and the choice.
    """

    request: str
    decided: int
    person: int
    position: int
    ref: str
    refs: tuple[str, ...]
    propensities: tuple[float, ...]
    choice: str
    worth: float
    foreseen: Mapping[str, float]


def drawn_slots(asked: Asked, randomised: Callable[[Decision], Sequence[RandomisedSlot]]) -> Iterator[DrawnSlot]:
    """Yields the slots that were drawn, with the change's choice in each, in the order of what their decisions saw."""
    yield from _Slots(asked, randomised).found()


class _Slots:
    """Walks along the log and asks the change for its choice in each slot that was drawn."""

    def __init__(self, asked: Asked, randomised: Callable[[Decision], Sequence[RandomisedSlot]]) -> None:
        self._asked, self._randomised = asked, randomised
        self._log, self._system = asked.deployment.log, asked.then.system
        self._is_new = asked.then.version != asked.now.version
        self._heads = tuple(signal.head for signal in self._system.schema.signals)

    def found(self) -> Iterator[DrawnSlot]:
        """Yields the slots, in the order of what their decisions had seen."""
        schema, log = self._system.schema, self._log
        own = [record for record in log.read() if record.system == schema.system and not record.reason]
        book, known_time = LabelBook(schema), own[-1].known_time if own else 0
        book.add_all(own)
        recast = Recasting(self._asked)
        for record, decision in self._decided(own, known_time):
            # A pool of one was no draw: nothing else could have come.
            drawn = [one for one in self._randomised(decision) if len(one.refs) > 1]
            if drawn:
                case = recast.case(record, decision)
            said = last_said(book.outcomes(record.id, known_time))
            for slot in drawn:
                ref = decision.choice.slots[slot.position].ref
                labels = signals_of(ref, said, age_us=known_time - record.known_time, schema=schema)
                yield self._slot(decision, slot, case=case, labels=labels)

    def _decided(self, own: Sequence[Record], known_time: int) -> Iterator[tuple[Record, Decision]]:
        """Yields the newest decisions that were made by predictions and have matured, in the order of what they saw."""
        longest = max(signal.maturity_us for signal in self._system.schema.signals)
        since = self._asked.then.trained_at if self._is_new else 0
        made = [r for r in own if r.kind == "decision" and since <= r.known_time <= known_time - longest]
        looked = ((decode_decision(record.body), record) for record in made[-self._asked.change.last :])
        places = sorted((decision.state_seq, record.seq) for decision, record in looked if decision.mode == "live")
        for _, seq in places:
            record = self._log.get(seq)
            yield record, decode_decision(record.body)

    def _slot(self, decision: Decision, slot: RandomisedSlot, *, case: Case | None, labels: list[float]) -> DrawnSlot:
        shown = decision.choice.slots
        above = [one.ref for one in shown[: slot.position]]
        choice = "" if case is None else self._asked.then.policy.choice_in(case, slot.position, above=above)
        worth = self._asked.money.worth(self._heads, np.array([labels]))[0]
        return DrawnSlot(
            request=decision.request.id,
            decided=decision.request.event_time,
            person=subject_of(decision.request, self._system.schema),
            position=slot.position,
            ref=shown[slot.position].ref,
            refs=slot.refs,
            propensities=slot.propensities,
            choice=choice,
            worth=float(worth),
            foreseen=_foreseen(decision, {*slot.refs, choice}, self._asked.money),
        )


def _foreseen(decision: Decision, refs: set[str], money: SlatePolicy) -> dict[str, float]:
    candidates = gathered(decision.candidates)
    places = [place for place, ref in enumerate(candidates.refs[: candidates.competing]) if ref in refs]
    worth = money.worth(candidates.heads, candidates.rows[places])
    return {candidates.refs[place]: float(one) for place, one in zip(places, worth, strict=True)}


def _factors(found: Sequence[DrawnSlot]) -> dict[int, float]:
    """Returns by position how much of what is predicted comes true there, by slots that do not change."""
    told: dict[int, tuple[float, float]] = {}
    for one in found:
        if one.choice == one.refs[0]:
            came, said = told.get(one.position, (0.0, 0.0))
            told[one.position] = came + one.worth, said + one.foreseen.get(one.ref, 0.0)
    return {place: came / said if came > 0 < said else 1.0 for place, (came, said) in told.items()}


def slots_told(slots: Sequence[DrawnSlot], *, bounds: tuple[float, float]) -> Evidence:
    """Returns what drawn slots say: those whose choice was in the draw, for nothing is known of any other.

    Args:
        slots: that were drawn.
        bounds: see `bounds_of`.
    """
    found = [one for one in slots if one.choice in one.refs]
    there = [one for one in found if one.choice != one.refs[0]]
    factors = _factors(found)
    odds = np.array([_odds(one, factors.get(one.position, 1.0)) for one in there], np.float64).reshape(-1, 4)
    rows = Logged(
        rewards=np.array([one.worth for one in there], np.float64),
        propensities=np.array([one.propensities[one.refs.index(one.ref)] for one in there], np.float64),
        targets=odds[:, 0],
        modelled=odds[:, 1],
        expected=odds[:, 2],
        unsupported=np.zeros(len(there)),
        entities=_people(there),
        bounds=bounds,
    )
    times = [one.decided for one in found]
    return Evidence(
        unit="drawn slot",
        entities=_people(found),
        changed=np.array([one.choice != one.refs[0] for one in found], np.bool_),
        rows=rows,
        is_difference=False,
        foreseen=odds[:, 3],
        drawn=_drawn(there, rows),
        moves=dict(Counter(f"slot {one.position}" for one in there)),
        labels=(len(found), len(found)),
        since=min(times, default=0),
        until=max(times, default=0),
        notes=tuple(_slot_notes(slots)),
        doubts=tuple(_slot_doubts(slots, changed=len(there))),
    )


def _drawn(there: Sequence[DrawnSlot], rows: Logged) -> Drawn:
    if not there:
        return Drawn()
    return Drawn(
        units=len(there),
        observed=sum(one.ref == one.choice for one in there),
        choices=max(2, round(float(np.mean([len(one.refs) for one in there])))),
        deviation=float(np.std(rows.rewards)),
    )


def _odds(one: DrawnSlot, factor: float) -> tuple[float, float, float, float]:
    """Returns what `Logged` needs of a slot whose draws stay as they were, but for the greedy choice.

    That is (how likely the change shows what was shown, what is foreseen of it, of all that the change may show, and of
    what it gains).
    """
    surplus = one.propensities[0] - min(one.propensities)
    chances = dict(zip(one.refs, one.propensities, strict=True))
    chances[one.refs[0]] -= surplus
    chances[one.choice] += surplus
    foreseen = {ref: factor * one.foreseen.get(ref, 0.0) for ref in one.refs}
    expected = sum(chance * foreseen[ref] for ref, chance in chances.items())
    return chances[one.ref], foreseen[one.ref], expected, surplus * (foreseen[one.choice] - foreseen[one.refs[0]])


def _people(slots: Iterable[DrawnSlot]) -> Int64s:
    return np.array([one.person for one in slots], np.int64)


def _slot_notes(slots: Sequence[DrawnSlot]) -> Iterator[str]:
    yield "another choice in those slots, the slots above as they were and draws as often; no whole slate"
    yield "what retrieval found is as logged"
    barred = sum(not one.choice for one in slots)
    if barred:
        yield f"{barred:,} slots are left out: the change would not have the slots above as they were"
    beyond = _beyond(slots)
    if beyond:
        yield f"{beyond:,} slots are left out: the change would show what the slot was not drawn from"


def _slot_doubts(slots: Sequence[DrawnSlot], *, changed: int) -> Iterator[str]:
    beyond = _beyond(slots)
    if beyond > MOST_BEYOND * (beyond + changed):
        yield f"in {beyond:,} of {beyond + changed:,} slots that change, it would show what the slot was not drawn from"


def _beyond(slots: Sequence[DrawnSlot]) -> int:
    return sum(bool(one.choice) and one.choice not in one.refs for one in slots)
