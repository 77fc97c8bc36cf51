"""Guardrails of a canary: what a challenger may not make worse for the people it decides for, at any look.

    a phase: share and people's arms fixed  ────────────────────────────────────────▶
    a person's first decision ├── the guardrail's time ──┤ one row: mean over their decisions of the value known by then

A row is one person, followed as long in either arm, so it is the same whenever one looks, and intervals of
`statistics.sequential` hold at every look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np

from decalog.candidates import named
from decalog.clock import duration_us
from decalog.decisions import Decision, decode_decision
from decalog.events import Record
from decalog.metrics import Floats, Measurement
from decalog.outcomes import LabelBook, Outcome
from decalog.rollout import CHALLENGER, Rollout
from decalog.statistics.sequential import Arms, bounded_effect, difference, moments, sample_ratio
from decalog.system import System

_FEWEST = 100
"""Rows an arm needs for an interval by their spread; see `statistics.sequential.difference`."""
_NO_SPLIT = 0.001
"""p below which people did not fall on the arms as declared: something loses some of them, and no figure holds."""

State = Literal["harm", "open", "safe", "watched"]


class Told(NamedTuple):
    """A decision, and the outcomes that were known of it within a guardrail's time."""

    decision: Decision
    said: tuple[Outcome, ...]


class Guardrail(msgspec.Struct, frozen=True, kw_only=True):
    """What a challenger may not make worse.

    Args:
        name: of the measure.
        meaning: in the field's words.
        unit: of its values.
        better: which way is good.
        value: (a decision with what was said of it, the policy in force) → what it counts.
        allowed: how much worse it may be shown to be before the challenger is stopped, ≥ 0.
        excluded: how much worse it must be shown not to be before its share grows, > allowed. None of what varies so
            much that no canary could show it: harm alone is looked for, and nothing is called safe.
        is_relative: whether both are shares of the champion's mean, and not in the unit.
        bounds: (lowest, highest) that a value can be: then few people tell something already; None where nothing does.
        after: how long a person is followed from their first decision on.
    """

    name: str
    meaning: str
    unit: str
    better: Literal["higher", "lower"]
    value: Callable[[Told, Any], float]
    allowed: float
    excluded: float | None
    is_relative: bool = False
    bounds: tuple[float, float] | None = None
    after: str = "0s"


FALLBACKS = Guardrail(
    name="fallbacks",
    meaning="decisions without a usable prediction",
    unit="share",
    better="lower",
    value=lambda told, _policy: float(bool(told.decision.fallback)),
    allowed=0.0,
    excluded=0.05,
    bounds=(0.0, 1.0),
)
"""Of every system."""


class Looked(msgspec.Struct, frozen=True, kw_only=True):
    """What one guardrail says.

    Args:
        guardrail: its name.
        state: `harm` is shown, `safe` from what must be excluded, or `open`; `watched` where harm alone is looked for,
            and none is shown.
        effect: challenger − champion with its anytime-valid interval; None where too few were followed to the end.
        champion: mean of the champion's rows.
        rows: people followed to the end, (champion's, challenger's).
    """

    guardrail: str
    state: State
    effect: Measurement | None
    champion: float
    rows: tuple[int, int]


class Sight(msgspec.Struct, frozen=True, kw_only=True):
    """What a phase shows so far.

    Args:
        since: its beginning, µs.
        people: (champion's, challenger's) that were decided for.
        split: anytime-valid p of people falling on the arms as declared.
        looked: one a guardrail.
    """

    since: int
    people: tuple[int, int]
    split: float
    looked: tuple[Looked, ...]

    @property
    def is_split(self) -> bool:
        """Whether people fall on the arms as declared."""
        return self.split >= _NO_SPLIT

    def of(self, state: State) -> tuple[str, ...]:
        """Returns the names of the guardrails in a state."""
        return tuple(one.guardrail for one in self.looked if one.state == state)


class _Person(msgspec.Struct):
    """Whom an arm decided for in a phase: when first, and their decisions with the time of each."""

    is_treated: bool
    first: int
    decisions: list[tuple[int, str, Decision]]


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """What is looked at: one phase of a rollout.

    Args:
        system: whose.
        rollout: the phase's step.
        guardrails: what may not get worse.
        policy: by whose parameters values are counted.
        alpha: how likely any interval of the phase ever misses.
        people: of a small arm, at which intervals are narrowest.
    """

    system: System
    rollout: Rollout
    guardrails: tuple[Guardrail, ...]
    policy: Any
    alpha: float = 0.05
    people: int = 150

    @property
    def share(self) -> float:
        """Of the people that the challenger decides for."""
        return self.rollout.share_bp / 10_000


def sight(records: Iterable[Record], phase: Phase, *, until: int) -> Sight:
    """Returns what the guardrails say of a phase.

    Args:
        records: of the phase, from the step that began it on.
        phase: which.
        until: the present, µs of known_time.
    """
    system = phase.system
    own = [record for record in records if record.system == system.name and not record.reason]
    book = LabelBook(system.schema)
    book.add_all(own)
    people = _people(own, phase.rollout)
    looked = tuple(_looked(one, people, phase=phase, book=book, until=until) for one in phase.guardrails)
    treated = sum(person.is_treated for person in people)
    counts, share = (len(people) - treated, treated), phase.share
    split = sample_ratio(counts, (1 - share, share)).p_value if people and share < 1 else 1.0
    return Sight(since=own[0].known_time if own else until, people=counts, split=split, looked=looked)


def _people(records: Iterable[Record], rollout: Rollout) -> list[_Person]:
    """Returns whom the arms decided for, in the order of their first decisions."""
    found: dict[int | str, _Person] = {}
    treated, prefix = rollout.named(CHALLENGER), f"{rollout.name}/"
    for record in records:
        if record.kind != "decision" or record.root != record.seq:
            continue
        decision = decode_decision(record.body)
        if not decision.arm.startswith(prefix):
            continue
        key = decision.request.subject or record.id
        person = found.get(key)
        if person is None:
            person = found[key] = _Person(decision.arm == treated, record.known_time, [])
        person.decisions.append((record.known_time, record.id, _slim(decision)))
    return list(found.values())


def _slim(decision: Decision) -> Decision:
    """Returns a decision with the candidates in its slots alone: hundreds of others each would fill the memory."""
    refs = [slot.ref for slot in decision.choice.slots] if decision.choice.verb else []
    if not refs:
        return decision
    return msgspec.structs.replace(decision, candidates=tuple(named(decision.candidates, refs).values()))


def _looked(guardrail: Guardrail, people: Sequence[_Person], *, phase: Phase, book: LabelBook, until: int) -> Looked:
    after = duration_us(guardrail.after)
    # In the order in which they are followed to the end: a row once seen never changes.
    whole = [person for person in people if person.first + after <= until]
    values = np.array([_mean(guardrail, one, book=book, policy=phase.policy, after=after) for one in whole], np.float64)
    treated = np.array([person.is_treated for person in whole], np.bool_)
    rows = (int(np.sum(~treated)), int(np.sum(treated)))
    champion = float(np.mean(values[~treated])) if rows[0] else 0.0
    effect = _effect(values, treated, phase=phase, bounds=guardrail.bounds)
    state = _state(guardrail, effect, champion=champion)
    return Looked(guardrail=guardrail.name, state=state, effect=effect, champion=champion, rows=rows)


def _mean(guardrail: Guardrail, person: _Person, *, book: LabelBook, policy: Any, after: int) -> float:
    end = person.first + after
    values = [
        guardrail.value(Told(decision, tuple(outcome for _, outcome in book.outcomes(id_, end))), policy)
        for known, id_, decision in person.decisions
        if known <= end
    ]
    return float(np.mean(values))


def _effect(values: Floats, treated: Any, *, phase: Phase, bounds: tuple[float, float] | None) -> Measurement | None:
    """Returns challenger − champion; of few people by their bounds, of many by their spread, each at half of alpha."""
    fewest, alpha = min(int(np.sum(treated)), int(np.sum(~treated))), phase.alpha / len(phase.guardrails) / 2
    if fewest >= _FEWEST:
        arms = Arms(moments(values[~treated]), moments(values[treated]))
        return difference([arms], alpha=alpha, best_at=phase.people).effect
    if bounds is None or fewest == 0:
        return None
    return bounded_effect(values, treated, shares=phase.share, bounds=bounds, alpha=alpha)


def _state(guardrail: Guardrail, effect: Measurement | None, *, champion: float) -> State:
    unshown: State = "watched" if guardrail.excluded is None else "open"
    if effect is None:
        return unshown
    scale = abs(champion) if guardrail.is_relative else 1.0
    least, most = (effect.low, effect.high) if guardrail.better == "lower" else (-effect.high, -effect.low)
    if least > guardrail.allowed * scale:
        return "harm"
    return "safe" if guardrail.excluded is not None and most < guardrail.excluded * scale else unshown


def phase_of(steps: Sequence[tuple[int, Rollout]]) -> tuple[int, int] | None:
    """Returns where the present phase of a rollout began, (seq of the step, how many phases came before); None if none.

    Args:
        steps: (seq, step) of one rollout, in order. One that leaves the share as it was begins no phase.
    """
    begun: list[int] = []
    share = 0
    for seq, step in steps:
        if step.is_live and step.share_bp != share:
            begun.append(seq)
        share = step.share_bp if step.is_live else 0
    return (begun[-1], len(begun) - 1) if begun and share else None


def shown_safe(steps: Sequence[tuple[int, Rollout]]) -> frozenset[str]:
    """Returns the guardrails that phases of a rollout which are over have shown safe.

    Args:
        steps: (seq, step) of one rollout; a step that ends a phase has what it showed as evidence.
    """
    seen = [msgspec.convert(step.evidence["canary"], Sight) for _, step in steps if "canary" in step.evidence]
    return frozenset(name for one in seen for name in one.of("safe"))


def words(found: Sight) -> Iterator[str]:
    """Yields a sight in words, a line a guardrail."""
    for one in found.looked:
        said = "too few were followed to the end"
        if one.effect is not None:
            said = (
                f"{one.effect.value:+.4g} ({one.effect.low:+.4g} to {one.effect.high:+.4g}), {one.champion:.4g} before"
            )
        yield f"{one.guardrail}: {one.state}, {said}; {one.rows[1]:,} people against {one.rows[0]:,}"
