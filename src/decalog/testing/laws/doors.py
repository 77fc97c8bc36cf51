"""Law 1: the doors exist with the right types, and the same seed gives the same log."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from decalog.crypto import unseal
from decalog.decisions import decode_decision
from decalog.errors import DecalogError
from decalog.events import Event, Record, decode_event, encode
from decalog.features.definition import FeatureSet
from decalog.ingest import Rejected
from decalog.metrics import Metric
from decalog.models.base import ModelSpec
from decalog.monitoring import Monitor
from decalog.parsing import SchemaParser
from decalog.schema import Label, Schema
from decalog.stores.base import Vault
from decalog.system import System, load
from decalog.testing import traffic
from decalog.testing.laws.law import Verdict, proven
from decalog.testing.stage import Stage, Step, Trial

_TIERS = ("model", "product", "business")
_WORLD_PARTS = ("start_us", "params_hash", "base", "rates", "advance", "react", "truth", "switch")
_RETRIEVAL_PARTS = ("follow", "adopt", "retrieve", "describe")
_REQUESTS = 80


def check(trial: Trial) -> Verdict:
    """Returns whether the doors are there and two runs of one seed write one log."""
    system = trial.system
    breaches = list(_door_breaches(system))
    changes = {**_SABOTAGES, **(_SLATE_SABOTAGES if system.schema.slate_of else {})}
    sabotages = {name: list(_door_breaches(change(system))) for name, change in changes.items()}
    if breaches:
        return proven(1, breaches, sabotages=sabotages)
    small = msgspec.structs.replace(trial, requests=min(trial.requests, _REQUESTS))
    steps = [*traffic.history(small), *traffic.live(small)]
    again = [*traffic.history(small), *traffic.live(small)]
    other = msgspec.structs.replace(small, seed=trial.seed + 1)
    breaches += _step_breaches(steps, again)
    sabotages["a world of another seed"] = _step_breaches(steps, [*traffic.history(other), *traffic.live(other)])
    logs = [_log(small, name, steps) for name in ("first", "second")]
    breaches += _log_breaches(*logs)
    sabotages["one request left out"] = _log_breaches(logs[0], _log(small, "less", steps[:-1]))
    sabotages["another secret of the deployment"] = _log_breaches(logs[0], _log(other, "other", steps))
    return proven(len(steps) + len(logs[0]), breaches, sabotages=sabotages)


def canonical(record: Record, vault: Vault) -> bytes:
    """Returns a record as bytes without what no seed may determine: nonces of envelopes, and measured durations.

    Envelopes are opened with the vault's keys, so their content counts.
    """
    if record.kind == "event":
        return encode(msgspec.structs.replace(record, body=encode(_opened(decode_event(record.body), vault))))
    if record.kind == "decision":
        decision = decode_decision(record.body)
        opened = _open(vault, decision.request.subject, decision.sealed, bound_to=decision.id)
        plain = msgspec.structs.replace(decision, request=_opened(decision.request, vault), sealed=opened, stages_us={})
        return encode(msgspec.structs.replace(record, body=encode(plain)))
    if record.kind == "rejected":
        row = msgspec.msgpack.decode(record.body, type=Rejected)
        opened = _open(vault, row.subject, row.sealed, bound_to=record.id)
        return encode(msgspec.structs.replace(record, body=encode(msgspec.structs.replace(row, sealed=opened))))
    return encode(record)


def _opened(event: Event, vault: Vault) -> Event:
    return msgspec.structs.replace(event, sealed=_open(vault, event.subject, event.sealed, bound_to=event.id))


def _open(vault: Vault, subject: int, sealed: bytes, *, bound_to: str) -> bytes:
    cipher = vault.cipher(subject)
    if not sealed or cipher is None:
        return b""
    return msgspec.json.encode(unseal(cipher, sealed, bound_to=bound_to), order="deterministic")


def _log(trial: Trial, name: str, steps: list[Step]) -> list[bytes]:
    stage = Stage(trial, f"doors-{name}", repeatable=True)
    try:
        stage.play(steps)
        return [canonical(record, stage.log.vault) for record in stage.records()]
    finally:
        stage.close()


def _log_breaches(one: list[bytes], other: list[bytes]) -> list[str]:
    if one == other:
        return []
    first = next((seq for seq, both in enumerate(zip(one, other, strict=False)) if both[0] != both[1]), None)
    where = f"record {first}" if first is not None else f"the number of records, {len(one)} and {len(other)}"
    return [f"two logs of the same messages differ, first in {where}"]


def _step_breaches(one: list[Step], other: list[Step]) -> list[str]:
    marks = [hashlib.sha256(msgspec.json.encode(steps)).hexdigest() for steps in (one, other)]
    return [] if marks[0] == marks[1] else ["two worlds of one seed send different messages"]


def _door_breaches(system: System) -> Iterator[str]:
    for look in (_types, _schema, _outcomes, _features, _models, _policy, _metrics, _world, _wire, _slates, _retrieval):
        try:
            yield from look(system)
        except (DecalogError, AttributeError, LookupError, TypeError, ValueError) as error:
            yield f"{look.__name__.strip('_')}: {type(error).__name__}: {error}"


def _types(system: System) -> Iterator[str]:
    for door, kind in _VALUES.items():
        if not isinstance(getattr(system, door), kind):
            yield f"{door} is no {kind.__name__}"
    for door, part_kind in _TUPLES.items():
        parts = getattr(system, door)
        if not parts or not isinstance(parts, tuple) or not all(isinstance(part, part_kind) for part in parts):
            yield f"{door} is no tuple of {part_kind.__name__}, or an empty one"
        elif len({part.name for part in parts}) < len(parts):
            yield f"{door} has a name twice"


_VALUES: dict[str, Any] = {"schema": Schema, "features": FeatureSet}
_TUPLES: dict[str, Any] = {"models": ModelSpec, "metrics": Metric, "monitors": Monitor}


def _schema(system: System) -> Iterator[str]:
    schema = system.schema
    if not schema.actions or len(set(schema.actions)) < len(schema.actions):
        yield f"actions {schema.actions} are none, or hold one twice"
    for kind in (schema.request, *schema.events):
        unknown = sorted(set(kind.subject) - {entity.name for entity in kind.entities})
        if unknown:
            yield f"subject of {kind.name} names {', '.join(unknown)}, which are no entities of it"
    SchemaParser(schema)


def _outcomes(system: System) -> Iterator[str]:
    schema = system.schema
    for outcome in schema.outcomes:
        if not outcome.sources or {schema.system, "system", "decalog"} & set(outcome.sources):
            yield f"outcome {outcome.name} trusts nobody, or the system itself: its own verdict is never a label"
        if not set(outcome.labels.values()) <= {0, 1}:
            yield f"outcome {outcome.name} has labels other than 0 and 1"
    strangers = sorted(set(schema.label.observed_after) - set(schema.actions))
    if strangers:
        yield f"observed_after names {', '.join(strangers)}, which are no actions"
    if schema.label.maturity_us <= 0:
        yield "the label matures at once"


def _features(system: System) -> Iterator[str]:
    system.features.check(system.schema)
    if system.features.system != system.schema.system:
        yield f"features are those of {system.features.system!r}, the schema is {system.schema.system!r}'s"
    if FeatureSet.from_json(system.features.to_json()).version != system.features.version:
        yield "features do not survive their JSON"
    if not system.features.names_for("model"):
        yield "no feature is for the model"


def _models(system: System) -> Iterator[str]:
    if not any(spec.baseline for spec in system.models):
        yield "models hold no honest baseline"
    if system.models and system.models[-1].baseline:
        yield "the last model, the champion's kind, is a baseline"
    if len({spec.head for spec in system.models}) > 1:
        yield "models predict different heads"


def _policy(system: System) -> Iterator[str]:
    if system.deadline_ms <= 0:
        yield f"deadline_ms is {system.deadline_ms}"
    params = system.policy_params()
    policy = system.policy(params)
    for part in ("params", "decide", "fall_back", "cost_minor", *(("worth",) if system.schema.slate_of else ())):
        if not hasattr(policy, part):
            yield f"the policy has no {part}"
    if msgspec.json.decode(msgspec.json.encode(params), type=system.policy_params) != params:
        yield "the policy's parameters do not survive their JSON, by which the log keeps them"


def _metrics(system: System) -> Iterator[str]:
    lacking = [tier for tier in _TIERS if tier not in {metric.tier for metric in system.metrics}]
    if lacking:
        yield f"no metric of the tier {', '.join(lacking)}"


def _world(system: System) -> Iterator[str]:
    made = load(system.world)
    if made is None:
        yield f"world {system.world!r} names nothing"
        return
    world = made(0, scale=0.01)
    lacking = [part for part in _WORLD_PARTS if not hasattr(world, part)]
    if lacking:
        yield f"the world has no {', '.join(lacking)}"


def _with_label(system: System, **changes: Any) -> System:
    label: Label = msgspec.structs.replace(system.schema.label, **changes)
    return _with_schema(system, label=label)


def _with_schema(system: System, **changes: Any) -> System:
    return msgspec.structs.replace(system, schema=msgspec.structs.replace(system.schema, **changes))


def _wire(system: System) -> Iterator[str]:
    if system.wire and not callable(load(system.wire)):
        yield f"wire {system.wire} names no door"


def _slates(system: System) -> Iterator[str]:
    """Yields what is wrong where slots hold things: with what they hold, and what is learnt of it."""
    schema = system.schema
    if not schema.slate_of:
        return
    things = {e.name for kind in (schema.request, *schema.events) for e in kind.entities if e.privacy == "public"}
    if schema.slate_of not in things:
        yield f"slates are of {schema.slate_of}, which is no public entity"
    yield from _signals(system)
    private = sorted(field.name for field in schema.candidate if field.privacy != "public")
    yield from (f"{name} of candidates is not public: nothing personal may describe a thing" for name in private)


def _retrieval(system: System) -> Iterator[str]:
    if not (system.retrieval or system.schema.slate_of):
        return
    made = load(system.retrieval)
    if made is None:
        yield f"retrieval {system.retrieval!r} names nothing"
        return
    lacking = [part for part in _RETRIEVAL_PARTS if not hasattr(made(), part)]
    if lacking:
        yield f"the retrieval has no {', '.join(lacking)}"


def _signals(system: System) -> Iterator[str]:
    signals = system.schema.signals
    heads = [signal.head for signal in signals]
    if not heads or len(set(heads)) < len(heads):
        yield f"signals {', '.join(heads) or 'none'}: there must be some, and no head twice"
    yield from (f"{signal.head} matures at once" for signal in signals if signal.maturity_us <= 0)
    for signal in signals:
        system.schema.outcome(signal.kind)
    if system.models and system.models[-1].head.split("+") != heads:
        yield f"models predict {system.models[-1].head}, the signals are {', '.join(heads)}"


_SABOTAGES: dict[str, Callable[[System], System]] = {
    "no world": lambda system: msgspec.structs.replace(system, world="nowhere:World"),
    "no protocol": lambda system: msgspec.structs.replace(system, wire="nowhere:WIRE"),
    "no models": lambda system: msgspec.structs.replace(system, models=()),
    "another system's features": lambda system: msgspec.structs.replace(
        system, features=msgspec.structs.replace(system.features, system="another")
    ),
    "silence observed after no action": lambda system: _with_label(system, observed_after=("no such action",)),
}

_SLATE_SABOTAGES: dict[str, Callable[[System], System]] = {
    "no retrieval": lambda system: msgspec.structs.replace(system, retrieval=""),
    "a retrieval without its methods": lambda system: msgspec.structs.replace(system, retrieval="builtins:dict"),
    "a head that no model predicts": lambda system: _with_schema(system, signals=system.schema.signals[:-1]),
    "slates of something unknown": lambda system: _with_schema(system, slate_of="nothing of the kind"),
}
