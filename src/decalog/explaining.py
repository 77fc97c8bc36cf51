"""Why a decision came out as it did: by replay, in the field's words, with what would have changed it.

What each feature adds to the log odds is exact (for trees: Lundberg et al., "From local explanations to global
understanding with explainable AI for trees", Nature Machine Intelligence 2, 2020). Model, policy and features are those
that the decision names; what would have changed it was tried on them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from decalog.candidates import gathered
from decalog.clock import DAY
from decalog.counterfactuals import PROBABILITIES, Band, Flip, Remade, Remaking, Search, bands, gap
from decalog.decisions import GuardrailVerdict, decode_decision
from decalog.deployment import Deployment
from decalog.errors import DecalogError, ModelError, UnknownRecordError
from decalog.explanations import Because, explain
from decalog.host import EXPLAINED
from decalog.metrics import Floats
from decalog.otherwise import Facts, Usual
from decalog.references import THERE, Values, columns_of, reference_kept
from decalog.replay import Again, Trace, trace_text
from decalog.statistics.drift import categories, numbers
from decalog.system import System
from decalog.tails import Champion, read_tail

_RECENT = 7 * DAY
"""Where the model has no reference, what others had is read from so much of the log."""
_AT_ONCE = 200
"""Decisions that are explained at once in one go, the newest: what a burst leaves over is explained on demand."""
_FIRST = 100_000
"""Records that are looked at where nothing was explained before."""
_KEPT = 5_000
"""Explanations that are kept, the newest."""


class ShownWhy(msgspec.Struct, frozen=True):
    """One thing of a slate.

    Args:
        ref, position: as logged.
        predictions: of it.
        explanation: head → what moved it; without heads that nobody can tell exactly.
        next: what the same policy shows in its place where it cannot be had; "" for nothing.
    """

    ref: str
    position: int
    predictions: dict[str, float]
    explanation: dict[str, tuple[Because, ...]]
    next: str

    def lines(self) -> Iterator[str]:
        """Yields it in words."""
        values = ", ".join(f"{head} {value:.4g}" for head, value in self.predictions.items())
        yield f"slot {self.position}: {self.ref}, {values}; next in line: {self.next or 'nothing'}"
        yield from (f"  {head}: {told[0].text()}" for head, told in self.explanation.items())


class Explanation(Trace, frozen=True, kw_only=True):
    """Why a decision came out as it did: its trace, and what else could have been.

    Args:
        request: its id.
        propensity: how likely the draw made the choice; 1 where nothing was drawn.
        arm: of a rollout, or "".
        guardrails: those that changed the choice; rules that fired stand here and among the reasons.
        bands: head → which predictions lead to which action, all else as it was.
        would_change: the nearest facts that make another action.
        nothing_else: what was tried in vain, or "".
        slots: what a slate showed.
    """

    request: str
    propensity: float | None
    arm: str
    guardrails: tuple[GuardrailVerdict, ...]
    bands: dict[str, tuple[Band, ...]]
    would_change: tuple[Flip, ...]
    nothing_else: str
    slots: tuple[ShownWhy, ...]

    def text(self) -> str:
        """Returns it for people."""
        return "\n".join([trace_text(self), *self._lines()])

    def _lines(self) -> Iterator[str]:
        if self.propensity is not None and self.propensity < 1:
            yield f"drawn with probability {self.propensity:g}"
        yield from [f"arm {self.arm}"] if self.arm else []
        yield from (f"guardrail {one.name}: {one.before} → {one.after}, {one.why}" for one in self.guardrails)
        for head, found in self.bands.items():
            yield f"actions by {head}, all else as it was:"
            yield from (f"  {one.since:.6g} to {one.until:.6g}: {one.action}" for one in found)
        yield "what would have changed it:"
        yield from (f"  {flip.text()}" for flip in self.would_change)
        yield from [f"  {self.nothing_else}"] if self.nothing_else else []
        for slot in self.slots:
            yield from slot.lines()


class Explainer:
    """Explains decisions of one system.

    Args:
        deployment: of the system; its log may be read only.
    """

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._replayer = deployment.replayer()
        self._secret = deployment.log.vault.secret("draws")
        self._others: dict[tuple[str, str], _Others] = {}

    def explain(self, decision_id: str) -> Explanation:
        """Returns why a decision came out as it did. The log is folded for slates alone: a lone row is taken as logged.

        Args:
            decision_id: its id, or its request's.

        Raises:
            ReplayError: there is no such decision, it was made elsewhere, or what it needs is gone.
        """
        again = self._replayer.again(decision_id, folds=False)
        decision = again.decision
        bands_of, flips, nothing_else = self._otherwise(again)
        return Explanation(
            *(getattr(again.trace, name) for name in Trace.__struct_fields__),
            request=decision.request.id,
            propensity=decision.choice.propensity,
            arm=decision.arm,
            guardrails=decision.guardrails,
            bands=bands_of,
            would_change=tuple(flips),
            nothing_else=nothing_else,
            slots=tuple(_slots(again, self._secret)) if decision.choice.is_slate else (),
        )

    def _otherwise(self, again: Again) -> tuple[dict[str, tuple[Band, ...]], list[Flip], str]:
        """Returns which predictions lead to which action, what would have changed it, and what was tried in vain."""
        draft, trace = again.draft, again.trace
        if again.decision.choice.is_slate:
            return {}, [], "a slate: each slot says what was next in line"
        if again.decision.choice.verb:
            return {}, [], "a number moves with any fact"
        if draft.features is None:
            return {}, [], f"its features are not known ({trace.fallback}), so no fact was tried"
        remaking, others = Remaking(again, self._secret), self._others_of(again)
        found: dict[str, tuple[Band, ...]] = {}
        for head, value in trace.predictions.items():
            scan = others.scan(head, value)
            found |= {} if scan is None else {head: bands(partial(remaking.at, head), scan)}
        start, now = (draft.features[0], draft.event), Remade(trace.action, trace.predictions)
        search = Search(remaking, others.facts, usual=others.usual, start=start, action=now.action)
        flips, apart = search.singles(), partial(gap, found=found, action=now.action)
        if flips:
            return found, flips, ""
        least = apart(now)
        if np.isinf(least):
            because = (
                f"the declared fallback decided, {trace.fallback}" if trace.fallback else "; ".join(trace.reasons[:1])
            )
            return found, [], f"{now.action} whatever is predicted ({because}): no fact that was tried changes that"
        flips = search.pairs(apart, least=least)
        return found, flips, "no single fact would have changed it" + ("" if flips else ", nor two that were tried")

    def _others_of(self, again: Again) -> _Others:
        versions = again.decision.versions
        key = versions.model, versions.features
        if key not in self._others:
            self._others[key] = _Others(self._deployment, again.system, versions.model)
        return self._others[key]


class _Others:
    """What other requests were like: by the reference of the model, or else by the end of the log.

    Args:
        deployment: of the system.
        system: with the feature set that the model reads.
        model: version.
    """

    def __init__(self, deployment: Deployment, system: System, model: str) -> None:
        self.facts = Facts(system)
        self._known: dict[str, Usual] = {}
        try:
            reference = reference_kept(deployment.registry.get(model)) if model else None
        except (ModelError, UnknownRecordError):
            reference = None
        if reference is not None:
            columns = reference.columns.items()
            self._known = {name: Usual(column.grid(name), column.counts) for name, column in columns}
            return
        log, champion = deployment.log, Champion(version="", features=system.features)
        tail = read_tail(log, system, champion=champion, start=log.known_time - _RECENT, stop=log.known_time)
        for name, values in columns_of(tail.seen, system.schema, names=champion.names, heads=()):
            self._known |= _counted(name, values)

    def scan(self, head: str, value: float) -> Floats | None:
        """Returns where a prediction is looked at; None where nobody knows between which values it lies."""
        if head.startswith("p_") and 0.0 <= value <= 1.0:
            return PROBABILITIES
        known = self._known.get(head)
        return None if known is None else np.unique([value, *map(float, known.values)])

    def usual(self, name: str) -> Usual | None:
        """Returns the values that a fact has elsewhere; None where nobody knows any."""
        feature = self.facts.feature(name)
        known = self._known.get(name if feature is None else feature.name)
        return None if known is None or known.values == [THERE] else known


def _counted(name: str, values: Values) -> dict[str, Usual]:
    """Returns values by name, counted; {} where there is none."""
    if isinstance(values, list):
        return {name: Usual(words := categories(name, values), words.count(values).tolist())} if any(values) else {}
    if not np.isfinite(values).any():
        return {}
    return {name: Usual(grid := numbers(name, values), grid.count(values).tolist())}


def _slots(again: Again, secret: bytes) -> Iterator[ShownWhy]:
    """Yields why each thing of a slate is there, and what is where it is not."""
    candidates, model = gathered(again.decision.candidates), again.judge.serving.model
    places = {ref: place for place, ref in enumerate(candidates.refs[: candidates.competing])}
    for slot in again.decision.choice.slots:
        if slot.ref not in places:
            continue  # no candidate: a policy's own
        place, told = places[slot.ref], dict[str, tuple[Because, ...]]()
        if again.draft.features is not None and again.draft.predictions is not None:
            row, features = again.draft.features[place], again.system.features
            told = {head: explain(model, row, features=features, head=head) for head in again.judge.heads}
        told = {head: because for head, because in told.items() if because}
        following = _next(again, place, slot.position, secret)
        yield ShownWhy(slot.ref, slot.position, candidates[place].predictions, told, following)


def _next(again: Again, place: int, position: int, secret: bytes) -> str:
    """Returns what stands at a position where a candidate cannot be had, by the same draws."""
    draft = again.draft
    left = [one for at, one in enumerate(gathered(draft.candidates)) if at != place]
    if not left or left[0].dropped:
        return ""
    rows = {name: getattr(draft, name) for name in ("features", "predictions")}
    fewer = {name: None if row is None else np.delete(row, place, axis=0) for name, row in rows.items()}
    other = msgspec.structs.replace(draft, candidates=gathered(left), **fewer)
    verdict, _ = again.judge.choose(other, again.decision.id, draw_secret=secret)
    return next((slot.ref for slot in verdict.choice.slots if slot.position == position), "")


def explain_at_once(deployment: Deployment) -> int:
    """Explains the decisions that a system wants explained at once and are not yet; returns how many.

    Each is a file below `state/`, which a server tells of; how far the log was read stands beside them.
    """
    system, log = deployment.system, deployment.log
    folder = deployment.home.state / EXPLAINED / system.name
    folder.mkdir(parents=True, exist_ok=True)
    done, stop = folder / "position", log.durable
    records = log.read(int(done.read_text()) if done.is_file() else max(stop - _FIRST, 0), stop)
    decided = (decode_decision(r.body) for r in records if r.kind == "decision" and r.system == system.name)
    wanted = (one.id for one in decided if one.mode != "imported" and one.choice.action in system.explained_at_once)
    explainer, explained = Explainer(deployment), 0
    for id_ in deque(wanted, maxlen=_AT_ONCE):
        try:
            told = explainer.explain(id_)
        except DecalogError:  # what it needs is gone: whoever asks is told so
            continue
        _write(folder / f"{id_}.json", msgspec.json.encode(told))
        explained += 1
    for old in sorted(folder.glob("*.json"))[:-_KEPT]:
        old.unlink()
    _write(done, str(stop).encode())
    return explained


def _write(path: Path, raw: bytes) -> None:
    draft = path.with_suffix(".draft")
    draft.write_bytes(raw)
    draft.replace(path)
