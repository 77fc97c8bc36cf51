"""Law 6: missing, corrupt and extreme features end in a recorded fallback, never in an exception or NaN in the log."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np

from decalog.candidates import Candidate, Candidates
from decalog.decisions import Decision, Slot, decode_decision, unpack_features
from decalog.errors import DecalogError
from decalog.events import Event, Record, decode_event
from decalog.features.facts import Change, Point
from decalog.host import Host
from decalog.judging import Judge, Serving, Underway
from decalog.meter import Meter
from decalog.models.base import Floats, Model
from decalog.outcomes import decode_outcome
from decalog.policy import Case, Policy
from decalog.policy import Verdict as Chosen
from decalog.retrieval import Retrieval, Retrieved
from decalog.serving import Service
from decalog.testing import traffic
from decalog.testing.extremes import extremes, values_of
from decalog.testing.laws.law import Verdict, proven
from decalog.testing.stage import Stage, Trial

_REQUESTS = 40
_WAIT_S = 30
_NOT_FINITE = "features_not_finite"


def check(trial: Trial) -> Verdict:
    """Returns whether every failure that can be caused is a recorded decision, and the log stays free of NaN."""
    small = msgspec.structs.replace(trial, requests=min(trial.requests, _REQUESTS))
    stage = Stage(small, "fallbacks")
    try:
        stage.play(traffic.history(small))
        tried = _Tried(stage, small)
        breaches = [*_broken_parts(tried), *_extreme_requests(tried), *_slow_model(tried)]
        breaches += _not_finite(stage.records())
        checked = tried.count
    finally:
        stage.close()
    return proven(checked, breaches, sabotages=_sabotages(small))


class _Tried:
    """Decides one request after another, each with something broken."""

    def __init__(self, stage: Stage, trial: Trial) -> None:
        self.stage = stage
        self.count = 0
        self._bodies = [_undated(step.body) for step in traffic.live(trial) if step.door == "decide"]
        self._plain = stage.service.serving

    @property
    def heads(self) -> int:
        """How many heads the system's models predict."""
        return self._plain.head.count("+") + 1

    @property
    def policy(self) -> Policy:
        """The system's own policy."""
        return self._plain.policy

    def body(self) -> dict[str, Any]:
        """Returns a request of the world under an id of its own."""
        self.count += 1
        plain = self._bodies[self.count % len(self._bodies)]
        somebody = self._somebody(plain) if self.stage.system.schema.slate_of else {}
        return {**plain, **somebody, "id": f"tried-{self.count}"}

    def _somebody(self, body: Mapping[str, Any]) -> dict[str, str]:
        """Returns whom a request is for, under a name of their own: who saw all that there is gets no slate."""
        return {name: f"somebody {self.count}" for name in self.stage.system.schema.request.subject if name in body}

    def serving(self, model: Model | None, policy: Policy | None = None) -> Serving:
        """Returns what the stage decides with, but with another model, and another policy where one is given."""
        return msgspec.structs.replace(self._plain, model=model, policy=policy or self._plain.policy)

    def decide(self, what: str, body: Mapping[str, Any], *, wanted: tuple[str, ...] = ()) -> Iterator[str]:
        """Yields what is wrong with the decision; `wanted` are the fallbacks that may be recorded, any if empty."""
        yield from self.attempt(what, lambda: self.stage.service.decide(msgspec.json.encode(body))[1], wanted=wanted)

    def attempt(self, what: str, decide: Callable[[], Decision], *, wanted: tuple[str, ...]) -> Iterator[str]:
        """Yields what is wrong with a decision, however it is made."""
        try:
            decision = decide()
        except Exception as error:  # noqa: BLE001  # whatever reaches the caller is a breach
            yield f"{what}: {type(error).__name__} reached the caller{_words(error)}"
            return
        if decision.choice.action not in self.stage.system.schema.actions:
            yield f"{what}: {decision.choice.action!r} is no action of the schema"
        yield from (f"{what}: {ref} was chosen and could not be" for ref in _strangers(decision))
        if wanted and (decision.fallback not in wanted or decision.mode != "fallback"):
            yield f"{what}: recorded as {decision.mode} {decision.fallback!r}, not as {' or '.join(wanted)}"


def _undated(body: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key != "event_time"}


def _strangers(decision: Decision) -> list[str]:
    """Returns what stands in slots and did not compete; nothing where slots hold actions."""
    competed = {candidate.ref for candidate in decision.candidates if not candidate.dropped}
    return [slot.ref for slot in decision.choice.slots if decision.choice.verb and slot.ref not in competed]


def _words(error: Exception) -> str:
    return f" ({error})" if isinstance(error, DecalogError) else ""


def _broken_parts(tried: _Tried) -> Iterator[str]:
    service = tried.stage.service
    for what, model, wanted in _models(tried.heads):
        service.adopt(tried.serving(model))
        yield from tried.decide(what, tried.body(), wanted=wanted)
    service.adopt(tried.serving(_Says(0.5, tried.heads), _Refusing(tried.policy)))
    yield from tried.decide("a policy that raises", tried.body(), wanted=("policy_error",))
    service.adopt(tried.serving(_Says(0.5, tried.heads)))
    yield from _broken_views(tried)
    yield from _broken_retrieval(tried)
    yield from _late_model(tried)


def _broken_views(tried: _Tried) -> Iterator[str]:
    service = tried.stage.service
    state = service.state
    for broken, wanted_word in ((_raising, "features_error"), (_nan, _NOT_FINITE), (_inf, _NOT_FINITE)):
        service.state = _Broken(state, broken)
        yield from tried.decide(f"views that give {broken.__name__.strip('_')}", tried.body(), wanted=(wanted_word,))
    service.state = state
    old = {**tried.body(), "event_time": "1970-01-01T00:00:00Z"}
    yield from tried.decide("a request from long ago", old, wanted=("late_request",))


def _broken_retrieval(tried: _Tried) -> Iterator[str]:
    """Yields what is wrong where what finds the candidates fails, dawdles, or describes them out of all measure."""
    service, fields = tried.stage.service, tried.stage.system.schema.candidate
    honest = service.retrieval
    if honest is None:
        return
    wild = [(field.name, value) for field in fields for value in values_of(field)]
    wild += [(field.name, value) for field in fields if field.kind == "float" for value in (math.nan, -math.inf)]
    tries: list[tuple[str, Callable[[Retrieved], Retrieved], tuple[str, ...]]] = [
        ("a retrieval that raises", _lost, ("retrieval_error",)),
        ("a retrieval that finds nothing", lambda _: Retrieved(()), ("no_candidates",)),
        ("a retrieval that rules everything out", _ruled_out, ("no_candidates",)),
        *((f"a candidate whose {n} is {str(v)[:20]!r}", partial(_described, name=n, value=v), ()) for n, v in wild),
    ]
    for what, change, wanted in tries:
        service.retrieval = Retrieving(honest, change)
        yield from tried.decide(what, tried.body(), wanted=wanted)
    service.retrieval = honest


def _late_model(tried: _Tried) -> Iterator[str]:
    """Yields what is wrong where features alone took longer than the deadline."""
    service = tried.stage.service

    def late() -> Decision:
        draft = service.begin(msgspec.json.encode(tried.body()))
        if not isinstance(draft, Underway):
            return draft[1]
        draft.started_ns -= 2 * service.system.deadline_ms * 1_000_000
        service.predict(draft)
        return service.finish(draft)[1]

    yield from tried.attempt("retrieval and features beyond the deadline", late, wanted=("deadline",))


def _slow_model(tried: _Tried) -> Iterator[str]:
    """Yields what is wrong where a model answers only after the deadline."""
    stage = tried.stage
    model = _Waiting(tried.heads)
    hasty = msgspec.structs.replace(stage.system, deadline_ms=50)
    service = Service(hasty, stage.service.ingest, stage.service.state, serving=tried.serving(model))
    host = Host(stage.log, {hasty.name: service}, replay=_no_replay, meter=Meter())
    raw = msgspec.json.encode(tried.body())

    def slow() -> Decision:
        seq = asyncio.run(_hosted(host, hasty.name, raw, model))
        return decode_decision(stage.log.get(seq).body)

    yield from tried.attempt("a model beyond the deadline", slow, wanted=("model_timeout",))


async def _hosted(host: Host, name: str, raw: bytes, model: _Waiting) -> int:
    await host.start()
    try:
        return int((await host.decide(name, raw)).body["seq"])
    finally:
        model.go.set()
        await host.stop()


async def _no_replay(system: str, decision_id: str, _verb: str) -> dict[str, Any]:
    return {"system": system, "decision_id": decision_id}


def _extreme_requests(tried: _Tried) -> Iterator[str]:
    service = tried.stage.service
    service.adopt(tried.serving(_Says(0.5, tried.heads)))
    plain = tried.body()
    for what, body in extremes(tried.stage.system.schema.request, plain):
        # Somebody new each time, where a slate leaves nothing to show to who saw it all.
        mine = {name: value for name, value in tried.body().items() if body.get(name) == plain.get(name)}
        yield from tried.decide(what, {**body, **mine, "id": f"extreme-{tried.count}"})


def _sabotages(trial: Trial) -> dict[str, list[str]]:
    """Returns what is noticed where the service itself lets a failure through."""
    found = {}
    for name, judge in _JUDGES.items():
        stage = Stage(trial, f"fallbacks {name}")
        try:
            stage.play(traffic.history(trial))
            tried = _Tried(stage, trial)
            stage.service.judge = judge(stage.system, tried.serving(_Raises()))
            breaches = list(tried.decide("a model that raises", tried.body()))
            found[name] = breaches or _not_finite(stage.records())
        finally:
            stage.close()
    return found


class _Unsaved:
    """What models with something wrong with them share: they are never stored."""

    blocking: ClassVar[bool] = False

    def save(self, folder: Path) -> Mapping[str, Any]:
        """See `Model.save`."""
        return {"folder": folder.name}


class _Says(_Unsaved):
    """Says one value of everything; `once` another, of one head of the last row."""

    def __init__(self, value: float, heads: int, once: float | None = None) -> None:
        self._value, self._heads = value, heads
        self._once = value if once is None else once

    def predict(self, rows: Floats) -> Floats:
        said = np.full((len(rows), self._heads), self._value)
        said[-1:, -1] = self._once
        return said


class _Raises(_Unsaved):
    def predict(self, rows: Floats) -> Floats:
        raise RuntimeError(f"{len(rows)} rows too many")


class _Nothing(_Unsaved):
    def predict(self, rows: Floats) -> Floats:
        return np.empty((0, len(rows)))


class _Waiting(_Says):
    """Answers only when it is told to: a model that is too slow, without a sleep."""

    blocking: ClassVar[bool] = True

    def __init__(self, heads: int) -> None:
        super().__init__(0.5, heads)
        self.go = threading.Event()

    def predict(self, rows: Floats) -> Floats:
        self.go.wait(_WAIT_S)
        return super().predict(rows)


def _models(heads: int) -> tuple[tuple[str, Model | None, tuple[str, ...]], ...]:
    """Returns what a model may be, and the fallbacks that may be recorded for it; any if empty."""
    return (
        ("no model", None, ("no_model",)),
        ("a model that raises", _Raises(), ("model_error",)),
        ("a model that gives nothing", _Nothing(), ("model_error",)),
        ("a model of another number of heads", _Says(0.5, heads + 1), ("model_error",)),
        ("a model that gives NaN", _Says(math.nan, heads), ("model_not_finite",)),
        ("a model that gives NaN once", _Says(0.5, heads, once=math.nan), ("model_not_finite",)),
        ("a model that gives infinity", _Says(math.inf, heads), ("model_not_finite",)),
        ("a model that gives 1e308", _Says(1e308, heads), ()),
        ("a model that gives −1", _Says(-1.0, heads), ()),
        ("a model that gives 2 once", _Says(0.5, heads, once=2.0), ()),
    )


class _Leaking(Judge):
    def predict(self, draft: Underway) -> None:
        raise RuntimeError(f"{draft.event.id} was not caught")


class _Writing(Judge):
    def predict(self, draft: Underway) -> None:
        draft.predictions = np.full((1 if draft.features is None else len(draft.features), len(self.heads)), math.nan)


class _Inventing(Judge):
    def choose(
        self, draft: Underway, decision_id: str, *, draw_secret: bytes
    ) -> tuple[Chosen, tuple[Candidate, ...] | Candidates]:
        verdict, candidates = super().choose(draft, decision_id, draw_secret=draw_secret)
        choice = msgspec.structs.replace(verdict.choice, slots=(Slot("what was not there"),))
        return msgspec.structs.replace(verdict, choice=choice), candidates


_JUDGES: dict[str, type[Judge]] = {
    "a failure that reaches the caller": _Leaking,
    "NaN that reaches the log": _Writing,
    "a choice of what was not there": _Inventing,
}


class _Refusing:
    """A policy that raises on whatever has a prediction."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    @property
    def params(self) -> msgspec.Struct:
        return self._policy.params

    @property
    def greedy(self) -> Policy:
        return self._policy.greedy

    def decide(self, case: Case) -> Chosen:
        raise KeyError(case.request.id)

    def fall_back(self, case: Case, reason: str) -> Chosen:
        return self._policy.fall_back(case, reason)

    def cost_minor(self, action: str, *, label: float, amount_minor: int) -> int:
        return self._policy.cost_minor(action, label=label, amount_minor=amount_minor)


class _Broken:
    """Live views that take changes, and give something broken."""

    def __init__(self, state: Any, give: Callable[[Floats], Floats]) -> None:
        self._state = state
        self._give = give

    def apply(self, *changes: Change) -> None:
        self._state.apply(*changes)

    def vector(self, point: Point) -> Floats:
        return self._give(self._state.vector(point))

    def vectors(self, point: Point, candidates: Sequence[Candidate]) -> Floats:
        return self._give(self._state.vectors(point, candidates))


class Retrieving:
    """The system's own retrieval, of which one thing comes out otherwise."""

    def __init__(self, honest: Retrieval, change: Callable[[Retrieved], Retrieved]) -> None:
        self._honest, self._change = honest, change
        self.follow, self.adopt, self.describe = honest.follow, honest.adopt, honest.describe

    def retrieve(self, request: Event, model: Model | None = None) -> Retrieved:
        """See `Retrieval.retrieve`."""
        return self._change(self._honest.retrieve(request, model))


def _lost(found: Retrieved) -> Retrieved:
    raise ConnectionError(f"{len(found.candidates)} candidates lost")


def _ruled_out(found: Retrieved) -> Retrieved:
    return Retrieved(tuple(msgspec.structs.replace(one, dropped="by all means") for one in found.candidates))


def _described(found: Retrieved, name: str, value: Any) -> Retrieved:
    first, *others = found.candidates
    return Retrieved((msgspec.structs.replace(first, attributes={**first.attributes, name: value}), *others))


def _raising(values: Floats) -> Floats:
    raise ConnectionError(f"{len(values)} values lost")


def _nan(values: Floats) -> Floats:
    return np.full_like(values, math.nan)


def _inf(values: Floats) -> Floats:
    return np.full_like(values, math.inf)


def _not_finite(records: list[Record]) -> list[str]:
    """Returns the records that hold a number which is not finite, by seq and place."""
    return [f"record {record.seq} holds a {place} that is not finite" for record in records for place in _bad(record)]


def _bad(record: Record) -> Iterator[str]:
    for place, value in _numbers(record):
        if isinstance(value, float) and not math.isfinite(value):
            yield place


def _numbers(record: Record) -> Iterator[tuple[str, Any]]:
    if record.kind == "event":
        yield from _attributes(decode_event(record.body))
    elif record.kind == "outcome":
        outcome = decode_outcome(record.body)
        yield "value", outcome.value
        yield from outcome.attributes.items()
    elif record.kind == "decision":
        decision = decode_decision(record.body)
        yield from _attributes(decision.request)
        yield from _of_decision(decision)


def _attributes(event: Event) -> Iterator[tuple[str, Any]]:
    yield from event.attributes.items()


def _of_decision(decision: Decision) -> Iterator[tuple[str, Any]]:
    for candidate in decision.candidates:
        yield from candidate.predictions.items()
        yield from candidate.attributes.items()
        yield from (("feature", value) for value in unpack_features(candidate.features).tolist())
    for slot in decision.choice.slots:
        yield "propensity", slot.propensity
        yield "slot value", slot.value
        yield from slot.attributes.items()
