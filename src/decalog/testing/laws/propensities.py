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

from decalog.decisions import Candidate, Decision, draw, unpack_features
from decalog.policy import Case, Policy, Values, Verdict
from decalog.system import System
from decalog.testing import traffic
from decalog.testing.laws.law import Verdict as Found
from decalog.testing.laws.law import proven
from decalog.testing.stage import Stage, Trial

_PREDICTIONS = (0.0001, 0.01, 0.1, 0.4, 0.8, 0.97, 0.9999)
_DRAWS = 400
_CASES = 40
_SIGMAS = 5.0
_OWN_DRAWS = 20_000
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
    finally:
        stage.close()
    return proven(len(cases), breaches, sabotages=sabotages)


def _logged(decisions: Sequence[Decision]) -> Iterator[str]:
    for decision in decisions:
        for slot in decision.choice.slots:
            if slot.propensity is None or not 0.0 < slot.propensity <= 1.0:
                yield f"decision {decision.id}: a slot with propensity {slot.propensity}"


def _cases(system: System, decisions: Sequence[Decision]) -> Iterator[Case]:
    """Yields what the policy is asked: logged requests and features, under each prediction."""
    places = {name: place for place, name in enumerate(system.features.names)}
    seen = [decision for decision in decisions if decision.candidates and decision.candidates[0].features]
    for decision in seen[:: max(1, len(seen) // _CASES)]:
        values = Values(places, unpack_features(decision.candidates[0].features))
        for value in _PREDICTIONS:
            heads = {spec.head: value for spec in system.models}
            candidate = Candidate(decision.request.id, "request", heads)
            yield Case(decision.request, (candidate,), values, _never)


def _odd(decide: Decide, cases: Sequence[Case]) -> Iterator[str]:
    """Yields where draws and propensities do not fit."""
    for number, case in enumerate(cases):
        counts, said = Counter[str](), dict[str, set[float | None]]()
        for draws in range(_DRAWS):
            slots = decide(msgspec.structs.replace(case, draw=_drawn(number, draws))).choice.slots
            # The first slot: those below are conditional on the ones above.
            for slot in slots[:1]:
                counts[slot.ref] += 1
                said.setdefault(slot.ref, set()).add(slot.propensity)
        yield from _misfits(case, counts, said)


def _misfits(case: Case, counts: Counter[str], said: dict[str, set[float | None]]) -> Iterator[str]:
    known = {ref: next(iter(values)) for ref, values in said.items() if len(values) == 1}
    total = 0.0
    for ref, count in counts.items():
        p = known.get(ref)
        if p is None or not 0.0 < p <= 1.0:
            yield f"request {case.request.id}: {ref} with propensities {sorted(map(str, said[ref]))}"
            return
        total += p
        spread = math.sqrt(p * (1.0 - p) / _DRAWS)
        if abs(count / _DRAWS - p) > _SIGMAS * spread + _CLOSE:
            yield f"request {case.request.id}: {ref} in {count} of {_DRAWS} draws, its propensity is {p}"
    if total > 1.0 + _CLOSE:
        yield f"request {case.request.id}: propensities that add up to {total}"


def _unfair_draws(policy: Policy, cases: Sequence[Case]) -> Iterator[str]:
    """Yields whether the deployment's own draws, functions of the decision's id, come as often as they should."""
    drawn = next((case for case in cases if _is_drawn(policy, case)), None)
    if drawn is None:
        return
    counts, said = Counter[str](), dict[str, float | None]()
    for number in range(_OWN_DRAWS):
        own = _own(f"decision {number}")
        slot = policy.decide(msgspec.structs.replace(drawn, draw=own)).choice.slots[0]
        counts[slot.ref] += 1
        said[slot.ref] = slot.propensity
    for ref, count in counts.items():
        p = said[ref] or 0.0
        if abs(count / _OWN_DRAWS - p) > _SIGMAS * math.sqrt(p * (1.0 - p) / _OWN_DRAWS) + _CLOSE:
            yield f"draws by decision ids: {ref} in {count} of {_OWN_DRAWS}, its propensity is {p}"


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
