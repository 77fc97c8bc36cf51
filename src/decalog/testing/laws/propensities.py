"""Law 4: propensities are probabilities, nothing is drawn without one, and what is drawn comes as often as it says.

Each logged request is decided again many times under other draws, for predictions from one end to the other.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import islice

import msgspec
import numpy as np

from decalog.decisions import Decision, Slot, draw, unpack_features
from decalog.policy import Case, Columns, Policy, Values, Verdict
from decalog.system import System
from decalog.testing import traffic
from decalog.testing.laws.law import Verdict as Found
from decalog.testing.laws.law import proven
from decalog.testing.laws.replayed import kept_places
from decalog.testing.stage import Stage, Trial

_PREDICTIONS = (0.0001, 0.01, 0.1, 0.4, 0.8, 0.97, 0.9999)
_DRAWS = 400
_CASES, _SLATES = 40, 3
"""Decisions that are decided again, where slots hold actions and where they hold things: a slate takes longer."""
_SIGMAS = 5.0
_OWN_DRAWS, _OWN_SLATES = 20_000, 2_000
_FEWEST = 50
"""Draws with the same slots above that a frequency needs."""
_CLOSE = 1e-9

Decide = Callable[[Case], Verdict]


def check(trial: Trial) -> Found:
    """Returns whether every propensity of the system's policy is what it says."""
    stage = Stage(trial, "propensities")
    try:
        stage.play((*traffic.history(trial), *traffic.live(trial)))
        cases = list(_cases(stage.system, stage.decided))
        policy = stage.service.serving.policy
        breaches = [*_logged(stage.decided), *_odd(policy.decide, cases), *_unfair_draws(policy, cases)]
        sabotages = {
            "a choice that is drawn in secret": list(islice(_odd(_secretly(policy), cases), 1)),
            "a propensity above 1": list(islice(_odd(_scaled(policy, 1.5), cases), 1)),
            "a propensity half of what it is": list(islice(_odd(_scaled(policy, 0.5), cases), 1)),
        }
        if stage.system.schema.slate_of:
            sabotages["the last two slots drawn in secret"] = list(islice(_odd(_swapping(policy), cases), 1))
    finally:
        stage.close()
    return proven(len(cases), breaches, sabotages=sabotages)


def _logged(decisions: Sequence[Decision]) -> Iterator[str]:
    for decision in decisions:
        for slot in decision.choice.slots:
            if slot.propensity is None or not 0.0 < slot.propensity <= 1.0:
                yield f"decision {decision.id}: a slot with propensity {slot.propensity}"


def _cases(system: System, decisions: Sequence[Decision]) -> Iterator[Case]:
    """Yields what the policy is asked: logged requests, candidates and features, under predictions of each height."""
    most = _SLATES if system.schema.slate_of else _CASES
    seen = [decision for decision in decisions if kept_places(decision)]
    rng = np.random.default_rng(len(seen))
    for decision in seen[:: max(1, len(seen) // most)]:
        for height in _PREDICTIONS:
            yield _case(system, decision, height=height, rng=rng)


def _case(system: System, decision: Decision, *, height: float, rng: np.random.Generator) -> Case:
    """Returns a decision's case with predictions of a height: of one candidate exactly, of several up to it."""
    places, heads = {name: at for at, name in enumerate(system.features.names)}, system.models[-1].head.split("+")
    logged = [decision.candidates[place] for place in kept_places(decision)]
    matrix = np.stack([unpack_features(candidate.features) for candidate in logged])
    shape = (len(logged), len(heads))
    said = height * (rng.random(shape) if system.schema.slate_of else np.ones(shape))
    candidates = [
        msgspec.structs.replace(candidate, predictions=dict(zip(heads, row, strict=True)), features=b"")
        for candidate, row in zip(logged, said.tolist(), strict=True)
    ]
    ruled_out = [candidate for candidate in decision.candidates if candidate.dropped]
    values = Values(places, matrix[0])
    return Case(decision.request, (*candidates, *ruled_out), values, _never, Columns(places, matrix))


def _odd(decide: Decide, cases: Sequence[Case]) -> Iterator[str]:
    """Yields where draws and propensities do not fit."""
    for number, case in enumerate(cases):
        draws = [_drawn(number, count) for count in range(_DRAWS)]
        made = [decide(msgspec.structs.replace(case, draw=draw)).choice.slots for draw in draws]
        yield from (f"request {case.request.id}: {what}" for what in _misfits(made))


def _misfits(made: Sequence[tuple[Slot, ...]]) -> Iterator[str]:
    """Yields what does not fit in choices for one case: each slot is judged given the slots above it.

    Where those were drawn too, the choices that agree in the most frequent ones are looked at.
    """
    place = 0
    while len(made) >= _FEWEST and any(place < len(slots) for slots in made):
        here = [slots[place] if place < len(slots) else _NO_SLOT for slots in made]
        yield from _misfits_at(here)
        above = Counter(map(_held, here)).most_common(1)[0][0]
        made = [slots for slots, slot in zip(made, here, strict=True) if _held(slot) == above]
        place += 1


_NO_SLOT = Slot("", propensity=None)


def _held(slot: Slot) -> str:
    """Returns what a slot holds: a thing or an action, with the number that was chosen for it."""
    return slot.ref if slot.value is None else f"{slot.value!r} of {slot.ref}"


def _misfits_at(slots: Sequence[Slot]) -> Iterator[str]:
    """Yields what does not fit between how often each thing stood in a slot and what was said of it."""
    counts, said = Counter(map(_held, slots)), dict[str, set[float | None]]()
    for slot in slots:
        said.setdefault(_held(slot), set()).add(slot.propensity)
    drawn, total = len(slots), 0.0
    for ref, count in counts.items():
        p = next(iter(said[ref])) if len(said[ref]) == 1 else None
        if p is None or not 0.0 < p <= 1.0:
            yield f"{ref} with propensities {sorted(map(str, said[ref]))}"
            return
        total += p
        if abs(count / drawn - p) > _SIGMAS * math.sqrt(p * (1.0 - p) / drawn) + _CLOSE:
            yield f"{ref} in {count} of {drawn} draws, its propensity is {p}"
    if total > 1.0 + _CLOSE:
        yield f"propensities that add up to {total}"


def _unfair_draws(policy: Policy, cases: Sequence[Case]) -> Iterator[str]:
    """Yields whether the deployment's own draws, functions of the decision's id, come as often as they should."""
    drawn = next((case for case in cases if _is_drawn(policy, case)), None)
    if drawn is None:
        return
    many = _OWN_DRAWS if len(drawn.candidates) == 1 else _OWN_SLATES
    draws = [_own(f"decision {number}") for number in range(many)]
    made = [policy.decide(msgspec.structs.replace(drawn, draw=own)).choice.slots for own in draws]
    yield from (f"draws by decision ids: {what}" for what in _misfits(made))


def _is_drawn(policy: Policy, case: Case) -> bool:
    asked = []

    def noting(name: str) -> float:
        asked.append(name)
        return 0.5

    policy.decide(msgspec.structs.replace(case, draw=noting))
    return bool(asked)


def _own(decision_id: str) -> Callable[[str], float]:
    return lambda name: draw(b"a secret of this trial", decision_id, name=name)


def _drawn(case: int, number: int) -> Callable[[str], float]:
    """Returns draws of which each name's, over all numbers, lie evenly in [0, 1), in an order of its own."""
    return lambda name: (_order(case, name)[number] + 0.5) / _DRAWS


@lru_cache(maxsize=64)
def _order(case: int, name: str) -> list[int]:
    order: list[int] = np.random.default_rng([case, *name.encode()]).permutation(_DRAWS).tolist()
    return order


def _never(name: str) -> float:
    raise AssertionError(f"draw {name!r} before there are any")


def _secretly(policy: Policy) -> Decide:
    """Returns the policy with every other choice replaced by its fallback's, and no word of it."""

    def decide(case: Case) -> Verdict:
        verdict, other = policy.decide(case), policy.fall_back(case, "sabotage")
        slots = other.choice.slots if case.draw("sabotage") < 0.5 else verdict.choice.slots  # noqa: PLR2004 - a coin
        told = tuple(msgspec.structs.replace(slot, propensity=1.0) for slot in slots)
        return msgspec.structs.replace(verdict, choice=msgspec.structs.replace(verdict.choice, slots=told))

    return decide


def _scaled(policy: Policy, factor: float) -> Decide:
    def decide(case: Case) -> Verdict:
        choice = policy.decide(case).choice
        slots = tuple(msgspec.structs.replace(s, propensity=(s.propensity or 0.0) * factor) for s in choice.slots)
        return Verdict(msgspec.structs.replace(choice, slots=slots))

    return decide


def _swapping(policy: Policy) -> Decide:
    """Returns the policy with its last two slots in the other order every other time, and no word of it."""

    def decide(case: Case) -> Verdict:
        verdict = policy.decide(case)
        *above, one, other = slots = verdict.choice.slots if len(verdict.choice.slots) > 1 else (_NO_SLOT, _NO_SLOT)
        swapped = (*above, other, one) if case.draw("sabotage") < 0.5 else slots  # noqa: PLR2004 - a coin
        return msgspec.structs.replace(verdict, choice=msgspec.structs.replace(verdict.choice, slots=tuple(swapped)))

    return decide
