"""What decides: model and policy over what was computed of a request, the same in serving and in a replay.

Everything here is a function of its arguments alone, so a replay comes to the same action.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from decalog.candidates import Candidate, Candidates
from decalog.decisions import Choice, Versions, draw, pack_features
from decalog.events import Event
from decalog.folding import point
from decalog.models.base import Floats, Model
from decalog.policy import Case, Columns, Policy, Values, Verdict
from decalog.system import System


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """What a service decides with.

    Args:
        model: fitted, or None while there is none: then every decision is the declared fallback.
        head: name of what the model predicts; several are joined by "+".
        policy: the decision layer.
        versions: of model, policy, features and runtime, as they go into each decision.
        shadow: log decisions beside the caller's own system; nobody acts on them.
    """

    model: Model | None
    head: str
    policy: Policy
    versions: Versions
    shadow: bool = False

    def under(self, other: Serving) -> Serving:
        """Returns it with another's policy."""
        versions = msgspec.structs.replace(self.versions, policy=other.versions.policy)
        return msgspec.structs.replace(self, policy=other.policy, versions=versions)


KEPT = 20
"""Candidates of a decision whose feature values are logged: those that were chosen, then the first of the others."""


class Underway(msgspec.Struct):
    """A decision on its way: the admitted request, its mark, and what was computed so far.

    Args:
        event, mark: the request.
        taken: the action that another system took.
        state_seq: log position of the views.
        started_ns: by the monotonic clock; 0 in a replay.
        stages_us: stage → microseconds.
        candidates: what can be chosen, and what a filter took out; in a replay, without what was logged of it.
        features: float64, candidates × features.
        predictions: float64, candidates × heads.
        fallback: why there is no prediction, or "".
        judge: the one in force when it began; None in a replay, which has its own.
        slots: what another system showed.
        quantity: the number that another system chose.
        arm: of a rollout, or "".
    """

    event: Event
    mark: bytes
    taken: str
    state_seq: int
    started_ns: int
    stages_us: dict[str, int]
    candidates: tuple[Candidate, ...] | Candidates = ()
    features: Floats | None = None
    predictions: Floats | None = None
    fallback: str = ""
    judge: Judge | None = None
    slots: tuple[str, ...] = ()
    quantity: float | None = None
    arm: str = ""


class Judge:
    """Model and policy over what was computed: a pure function of the draft, shared by serving and replay.

    Args:
        system: whose.
        serving: model and policy.

    Attributes:
        heads: names of what the model predicts.
    """

    def __init__(self, system: System, serving: Serving) -> None:
        self.serving = serving
        self._places = {name: place for place, name in enumerate(system.features.names)}
        self._columns = np.array([self._places[name] for name in system.features.names_for("model")], dtype=np.intp)
        self.heads = serving.head.split("+")
        self._deadline_ns = system.deadline_ms * 1_000_000

    def predict(self, draft: Underway) -> None:
        """Adds the model's predictions, or the reason why there are none. May run in another thread."""
        if draft.fallback or draft.features is None:
            return
        model = self.serving.model
        if model is None:
            draft.fallback = "no_model"
            return
        started = time.perf_counter_ns()
        if draft.started_ns and started - draft.started_ns > self._deadline_ns:
            draft.fallback = "deadline"
            return
        try:
            values = model.predict(draft.features[:, self._columns]).reshape(len(draft.features), len(self.heads))
            if isinstance(draft.candidates, Candidates):
                with np.errstate(over="ignore"):  # what is beyond its range is not finite
                    values = values.astype(np.float32).astype(np.float64)  # hundreds are logged: half the bytes
        except Exception:  # noqa: BLE001  # the edge of an engine: whatever a model raises is a recorded fallback
            draft.fallback = "model_error"
        else:
            if np.isfinite(values).all():
                draft.predictions = values
            else:
                draft.fallback = "model_not_finite"
        timed(draft, "model", since_ns=started)

    def choose(
        self, draft: Underway, decision_id: str, *, draw_secret: bytes
    ) -> tuple[Verdict, tuple[Candidate, ...] | Candidates]:
        """Returns the policy's verdict on a draft, and the candidates as they are logged."""

        def drawn(name: str) -> float:
            return draw(draw_secret, decision_id, name=name)

        case = self.case(draft, drawn)
        verdict = self._verdict(draft, case)
        return verdict, _with_features(case.candidates, draft.features, verdict.choice)

    def case(self, draft: Underway, drawn: Callable[[str], float]) -> Case:
        """Returns what the policy may look at: a draft, with its draws by name."""
        candidates, features = _predicted(draft.candidates, self.heads, rows=draft.predictions), draft.features
        values: Mapping[str, float] = {} if features is None else Values(self._places, features[0])
        columns: Mapping[str, Floats] = {} if features is None else Columns(self._places, features)
        return Case(draft.event, candidates, values, drawn, columns)

    def _verdict(self, draft: Underway, case: Case) -> Verdict:
        policy = self.serving.policy
        if not draft.fallback:
            try:
                return policy.decide(case)
            except Exception:  # noqa: BLE001  # a user's own code: what it cannot decide is a recorded fallback
                draft.fallback = "policy_error"
        return policy.fall_back(case, draft.fallback)


def _predicted(
    candidates: tuple[Candidate, ...] | Candidates, heads: Sequence[str], *, rows: Floats | None
) -> tuple[Candidate, ...] | Candidates:
    """Returns the candidates with what is predicted of those that compete, (candidates, heads); None for nothing."""
    if rows is None:
        return candidates
    if isinstance(candidates, Candidates):
        return candidates.predicted(heads, rows)
    (alone,) = candidates
    (row,) = rows.tolist()
    return (msgspec.structs.replace(alone, predictions=dict(zip(heads, row, strict=True))),)


def _with_features(
    candidates: tuple[Candidate, ...] | Candidates, features: Floats | None, choice: Choice
) -> tuple[Candidate, ...] | Candidates:
    """Returns the candidates with the feature values of up to `KEPT` of them: the chosen ones first."""
    if features is None:
        return candidates
    if not isinstance(candidates, Candidates):
        return (msgspec.structs.replace(candidates[0], features=pack_features(features[0])),)
    places = [candidates.places.get(slot.ref, candidates.competing) for slot in choice.slots[:KEPT]]
    chosen = [place for place in places if place < candidates.competing]
    kept = list(dict.fromkeys((*chosen, *range(min(KEPT, candidates.competing)))))[:KEPT]
    return candidates.described(kept, pack_features(features[kept]))


def vectors(state: Any, request: Event, *, state_seq: int, candidates: tuple[Candidate, ...] | Candidates) -> Floats:
    """Returns the features of what competes as the views have them, float64, candidates × features."""
    asked = point(request, state_seq)
    if isinstance(candidates, Candidates):
        matrix: Floats = state.vectors(asked, candidates)
        return matrix
    vector: Floats = state.vector(asked)
    return vector[None, :]


def timed(draft: Underway, name: str, *, since_ns: int) -> None:
    """Notes how long a stage took."""
    draft.stages_us[name] = since(since_ns)


def since(started_ns: int) -> int:
    """Returns the microseconds since."""
    return (time.perf_counter_ns() - started_ns) // 1_000
