"""Law 2: offline = online, bit for bit, for every feature, after late, doubled, corrected and deleted events.

What was logged is compared with two others: the fold that training uses, and the rules read out slowly, which share no
code with the kernel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from decalog.clock import rfc3339
from decalog.decisions import Decision, decode_decision, pack_features, unpack_features
from decalog.deployment import Deployment
from decalog.errors import DataError
from decalog.events import Record, decode_event, encode
from decalog.features.facts import Change
from decalog.features.reference import evaluate
from decalog.folding import changes_of, point
from decalog.parity import Certificate
from decalog.testing import traffic
from decalog.testing.laws.law import Verdict, proven
from decalog.testing.laws.replayed import TamperedLog
from decalog.testing.planted import FAULTS, FaultyState
from decalog.testing.stage import Stage, Step, Trial, parts_of

_DISORDERS = ("late", "duplicated", "corrected", "deleted")
_MOST_READ_OUT = 100
"""Decisions that the reference computes: each costs it a walk over the whole log."""
_NOT_ASKED = ("corrects", "deletes", "taken", "kind")
_EVERY_VALUE = 2**62

Logged = Mapping[str, bytes]
"""Decision id → features as the online side has them."""


def check(trial: Trial) -> Verdict:
    """Returns whether every value that was logged in a disorderly life comes out of the log again, to the same bits."""
    stage = Stage(trial, "parity")
    try:
        doubled = _live(stage)
        records = stage.records()
        found = stage.deployment.parity().last(_EVERY_VALUE)
        tried = Counter(_disorders(records)) + Counter({"duplicated": len(doubled)})
        breaches = [*_untried(tried), *_breaches(stage, found), *_read_out(stage, records)]
        sabotages = {} if breaches else _sabotages(stage, records, doubled)
    finally:
        stage.close()
    verdict = proven(found.values, breaches, sabotages=sabotages)
    return msgspec.structs.replace(verdict, tried={kind: tried[kind] for kind in _DISORDERS})


def _live(stage: Stage) -> list[int]:
    """Plays history and live traffic, with a restart between, and returns the roots of events that came twice.

    After the restart, views folded from the log meet views folded live.
    """
    stage.play(traffic.history(stage.trial))
    doubled = []
    for number, steps in enumerate(parts_of(list(_echoed(traffic.live(stage.trial))), 2)):
        if number:
            stage.open()
        for step in steps:
            result = stage.send(step)
            doubled += [result.seq] if result is not None and result.status == "duplicate" else []
        stage.log.commit()
    return doubled


def _echoed(steps: Sequence[Step]) -> Iterator[Step]:
    """Yields steps, each plain event twice; and asks again for whom a late event or a second thought was about.

    Without that, in a small world, the same entities might not come back, and nobody would see what a state forgot.
    """
    sent: dict[str, Mapping[str, Any]] = {}
    for number, step in enumerate(steps):
        yield step
        if step.door == "outcome":
            continue
        body = step.body
        sent[body["id"]] = body
        if step.door != "event" or "taken" in body:
            continue
        target = body.get("corrects") or body.get("deletes")
        if target is None:
            yield step
        asked = sent.get(str(target), body) if target else body
        if "deletes" not in asked:
            echo = {name: value for name, value in asked.items() if name not in _NOT_ASKED}
            yield Step(step.at_us, "decide", {**echo, "id": f"echo-{number}", "event_time": rfc3339(step.at_us)})


def _disorders(records: Sequence[Record]) -> Iterator[str]:
    """Yields what was late, corrected or deleted among the rows of the views."""
    newest = -1
    for record in records:
        if record.reason or record.kind not in ("event", "decision"):
            continue
        if record.root != record.seq:
            yield "deleted" if decode_event(record.body).deleted else "corrected"
        elif record.event_time < newest:
            yield "late"
        newest = max(newest, record.event_time)


def _untried(tried: Counter[str]) -> Iterator[str]:
    for kind in _DISORDERS:
        if not tried[kind]:
            yield f"nothing was tried: the trial holds no {kind} event; ask for more requests"


def _breaches(stage: Stage, found: Certificate) -> Iterator[str]:
    logged = sum(bool(decision.candidates[0].features) for decision in stage.decided)
    if found.compared != logged:
        yield f"{logged} decisions logged features, {found.compared} were compared"
    if found.first is not None:
        first = found.first
        yield (
            f"{found.identical} of {found.compared} decisions are identical; first: seq {first.seq}, {first.feature}: "
            f"logged {first.logged}, recomputed {first.recomputed}; {first.why.said}"
        )


def _read_out(stage: Stage, records: Sequence[Record]) -> Iterator[str]:
    """Yields the decisions whose logged values are not those of the rules read out slowly."""
    changes = _changes(stage, records)
    decisions = [decision for decision in stage.decided if decision.candidates[0].features]
    step = max(1, len(decisions) // _MOST_READ_OUT)
    for decision in decisions[::step]:
        values, logged = _reference(stage, changes, decision), decision.candidates[0].features
        if values is None or pack_features(values) != logged:
            at = [] if values is None else np.flatnonzero(values != unpack_features(logged)).tolist()
            named = ", ".join(stage.system.features.names[place] for place in at) or "every value"
            yield f"the reference interpreter differs at position {decision.state_seq}: {named}"


def _reference(stage: Stage, changes: Sequence[Change], decision: Decision) -> np.ndarray[Any, Any] | None:
    """Returns the values as the reference has them; None where it refuses."""
    try:
        found = evaluate(stage.system.features, changes, point=point(decision.request, decision.state_seq))
    except DataError:
        return None
    return np.array(found, np.float64)


def _changes(stage: Stage, records: Sequence[Record]) -> list[Change]:
    reads = stage.system.features.reads
    return [change for record in records for change in changes_of(record, None, past=stage.log, reads=reads)]


def _sabotages(stage: Stage, records: Sequence[Record], doubled: Sequence[int]) -> dict[str, list[str]]:
    """Returns for each sabotage what is noticed of it: parity has to, and the reference has to side with offline."""
    found = {"the last bit of a logged value": _noticed(stage, records, _bit_flipped(stage))}
    kinds = {kind for feature in stage.system.features.aggregates for kind in feature.over}
    if stage.system.schema.request.name in kinds:
        for name, fault in FAULTS.items():
            found[name] = _noticed(stage, records, _as_logged_by(stage, records, fault, doubled=doubled))
    return found


def _bit_flipped(stage: Stage) -> Logged:
    aim = next(decision for decision in reversed(stage.decided) if decision.candidates[0].features)
    values = unpack_features(aim.candidates[0].features).copy()
    values[0] = np.nextafter(values[0], np.inf)
    return {aim.id: pack_features(values)}


def _as_logged_by(
    stage: Stage, records: Sequence[Record], fault: type[FaultyState], *, doubled: Sequence[int]
) -> Logged:
    """Returns what the decisions would have logged with a faulty state behind them."""
    state, logged = fault(stage.system.features, doubled), dict[str, bytes]()
    for record in records:
        if record.kind == "decision":
            decision = decode_decision(record.body)
            if decision.mode != "imported" and decision.candidates[0].features:
                logged[decision.id] = pack_features(state.vector(point(decision.request, decision.state_seq)))
        for change in changes_of(record, None, past=stage.log, reads=stage.system.features.reads):
            state.apply(change)
    return logged


def _noticed(stage: Stage, records: Sequence[Record], logged: Logged) -> list[str]:
    log = TamperedLog(stage.log, _relogged(logged))
    first = Deployment(stage.home, stage.system, log).parity().last(_EVERY_VALUE).first
    if first is None:
        return []
    aim = next(decision for decision in stage.decided if decision.id == first.decision_id)
    values = _reference(stage, _changes(stage, records), aim)
    # The decision's own values are the honest ones: only the log that parity reads was changed.
    sides = values is not None and pack_features(values) == aim.candidates[0].features != logged[aim.id]
    return [f"{first.feature}: {first.why.said}"] if sides else []


def _relogged(logged: Logged) -> Callable[[Record], Record]:
    def changed(record: Record) -> Record:
        decision = decode_decision(record.body) if record.kind == "decision" else None
        packed = None if decision is None else logged.get(decision.id)
        if decision is None or packed is None:
            return record
        candidate = msgspec.structs.replace(decision.candidates[0], features=packed)
        decision = msgspec.structs.replace(decision, candidates=(candidate, *decision.candidates[1:]))
        return msgspec.structs.replace(record, body=encode(decision))

    return changed
