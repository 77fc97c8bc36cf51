"""Law 6: missing, corrupt and extreme features end in a recorded fallback, never in an exception or NaN in the log."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np

from decalog.decisions import Decision, decode_decision, unpack_features
from decalog.errors import DecalogError
from decalog.events import Event, Record, decode_event
from decalog.features.facts import Change, Point
from decalog.host import Host
from decalog.meter import Meter
from decalog.models.base import Floats, Model
from decalog.outcomes import decode_outcome
from decalog.policy import Case, Policy
from decalog.policy import Verdict as Chosen
from decalog.serving import Judge, Service, Serving, Underway
from decalog.testing import traffic
from decalog.testing.extremes import extremes
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
        self._bodies = [step.body for step in traffic.live(trial) if step.door == "decide"]
        self._plain = stage.service.serving

    @property
    def policy(self) -> Policy:
        """The system's own policy."""
        return self._plain.policy

    def body(self) -> dict[str, Any]:
        """Returns a request of the world under an id of its own."""
        self.count += 1
        plain = self._bodies[self.count % len(self._bodies)]
        return {**{key: value for key, value in plain.items() if key != "event_time"}, "id": f"tried-{self.count}"}

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
        if wanted and (decision.fallback not in wanted or decision.mode != "fallback"):
            yield f"{what}: recorded as {decision.mode} {decision.fallback!r}, not as {' or '.join(wanted)}"


def _words(error: Exception) -> str:
    return f" ({error})" if isinstance(error, DecalogError) else ""


def _broken_parts(tried: _Tried) -> Iterator[str]:
    service = tried.stage.service
    for what, model, wanted in _MODELS:
        service.adopt(tried.serving(model))
        yield from tried.decide(what, tried.body(), wanted=wanted)
    service.adopt(tried.serving(_Says(0.5), _Refusing(tried.policy)))
    yield from tried.decide("a policy that raises", tried.body(), wanted=("policy_error",))
    service.adopt(tried.serving(_Says(0.5)))
    state = service.state
    for broken, wanted_word in ((_raising, "features_error"), (_nan, _NOT_FINITE), (_inf, _NOT_FINITE)):
        service.state = _Broken(state, broken)
        yield from tried.decide(f"views that give {broken.__name__.strip('_')}", tried.body(), wanted=(wanted_word,))
    service.state = state
    old = {**tried.body(), "event_time": "1970-01-01T00:00:00Z"}
    yield from tried.decide("a request from long ago", old, wanted=("late_request",))
    yield from _late_model(tried)


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

    yield from tried.attempt("features beyond the deadline", late, wanted=("deadline",))


def _slow_model(tried: _Tried) -> Iterator[str]:
    """Yields what is wrong where a model answers only after the deadline."""
    stage = tried.stage
    model = _Waiting()
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


async def _no_replay(system: str, decision_id: str) -> dict[str, Any]:
    return {"system": system, "decision_id": decision_id}


def _extreme_requests(tried: _Tried) -> Iterator[str]:
    service = tried.stage.service
    service.adopt(tried.serving(_Says(0.5)))
    for what, body in extremes(tried.stage.system.schema.request, tried.body()):
        tried.count += 1
        yield from tried.decide(what, {**body, "id": f"extreme-{tried.count}"})


def _sabotages(trial: Trial) -> dict[str, list[str]]:
    """Returns what is noticed where the service itself lets a failure through."""
    found = {}
    for name, judge in (("a failure that reaches the caller", _Leaking), ("NaN that reaches the log", _Writing)):
        stage = Stage(trial, f"fallbacks {name}")
        try:
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
    def __init__(self, value: float) -> None:
        self._value = value

    def predict(self, rows: Floats) -> Floats:
        return np.full(len(rows), self._value)


class _Raises(_Unsaved):
    def predict(self, rows: Floats) -> Floats:
        raise RuntimeError(f"{len(rows)} rows too many")


class _Nothing(_Unsaved):
    def predict(self, rows: Floats) -> Floats:
        return np.empty((0, len(rows)))


class _Waiting(_Unsaved):
    """Answers only when it is told to: a model that is too slow, without a sleep."""

    blocking: ClassVar[bool] = True

    def __init__(self) -> None:
        self.go = threading.Event()

    def predict(self, rows: Floats) -> Floats:
        self.go.wait(_WAIT_S)
        return np.full(len(rows), 0.5)


_MODELS: tuple[tuple[str, Model | None, tuple[str, ...]], ...] = (
    ("no model", None, ("no_model",)),
    ("a model that raises", _Raises(), ("model_error",)),
    ("a model that gives nothing", _Nothing(), ("model_error",)),
    ("a model that gives NaN", _Says(math.nan), ("model_not_finite",)),
    ("a model that gives infinity", _Says(math.inf), ("model_not_finite",)),
    ("a model that gives 1e308", _Says(1e308), ()),
    ("a model that gives −1", _Says(-1.0), ()),
)


class _Leaking(Judge):
    def predict(self, draft: Underway) -> None:
        raise RuntimeError(f"{draft.event.id} was not caught")


class _Writing(Judge):
    def predict(self, draft: Underway) -> None:
        draft.predictions = np.array([math.nan])


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

    def apply(self, change: Change) -> None:
        self._state.apply(change)

    def vector(self, point: Point) -> Floats:
        return self._give(self._state.vector(point))


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
