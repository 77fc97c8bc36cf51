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

from decalog.candidates import Candidate, Candidates, gathered
from decalog.clock import rfc3339
from decalog.decisions import Decision, decode_decision, pack_features, unpack_features
from decalog.deployment import Deployment
from decalog.errors import DataError
from decalog.events import Record, decode_event, encode
from decalog.features.facts import Change
from decalog.features.reference import evaluate
from decalog.folding import changes_of, point
from decalog.judging import vectors
from decalog.parity import Certificate
from decalog.testing import traffic
from decalog.testing.laws.law import Verdict, proven
from decalog.testing.laws.replayed import TamperedLog, kept_places, with_candidate
from decalog.testing.planted import FAULTS, FaultyState
from decalog.testing.stage import Stage, Step, Trial, parts_of

_DISORDERS = ("late", "duplicated", "corrected", "deleted")
_MOST_READ_OUT = 100
"""Decisions that the reference computes: each costs it a walk over the whole log."""
_NOT_ASKED = ("corrects", "deletes", "taken", "slots", "quantity", "kind")
_EVERY_VALUE = 2**62

Logged = Mapping[tuple[str, str], bytes]
"""Decision id, candidate → features as the online side has them."""


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
    for number, steps in enumerate(
        parts_of(list(_echoed(traffic.live(stage.trial), stage.system.schema.request.name)), 2)
    ):
        if number:
            stage.open()
        for step in steps:
            result = stage.send(step)
            doubled += [result.seq] if result is not None and result.status == "duplicate" else []
        stage.log.commit()
    return doubled


def _echoed(steps: Sequence[Step], request: str) -> Iterator[Step]:
    """Yields steps, each plain event twice; and asks again for whom a late event or a second thought was about.

    Without that, in a small world, the same entities might not come back, and nobody would see what a state forgot.
    """
    sent: dict[str, Mapping[str, Any]] = {}
    for number, step in enumerate(steps):
        yield step
        body = step.body
        if step.door != "outcome":
            sent[body["id"]] = body
        if step.door != "event" or "taken" in body:
            continue
        target = body.get("corrects") or body.get("deletes")
        if target is None:
            yield step
        asked = sent.get(str(target), body) if target else body
        if "deletes" not in asked and asked.get("kind", request) == request:
            yield _asked_again(asked, f"echo-{number}", at_us=step.at_us)


def _asked_again(body: Mapping[str, Any], id_: str, *, at_us: int) -> Step:
    echo = {name: value for name, value in body.items() if name not in _NOT_ASKED}
    return Step(at_us, "decide", {**echo, "id": id_, "event_time": rfc3339(at_us)})


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
    logged = len(_logged(stage.decided))
    if found.compared != logged:
        yield f"{logged} candidates logged features, {found.compared} were compared"
    if found.first is not None:
        first = found.first
        yield (
            f"{found.identical} of {found.compared} candidates are identical; first: seq {first.seq}, {first.feature}: "
            f"logged {first.logged}, recomputed {first.recomputed}; {first.why.said}"
        )


def _read_out(stage: Stage, records: Sequence[Record]) -> Iterator[str]:
    """Yields the decisions whose logged values are not those of the rules read out slowly."""
    changes = _changes(stage, records)
    asked = _logged(stage.decided)
    step = max(1, len(asked) // _MOST_READ_OUT)
    for decision, candidate in asked[::step]:
        values, logged = _reference(stage, changes, decision, candidate), candidate.features
        if values is None or pack_features(values) != logged:
            at = [] if values is None else np.flatnonzero(values != unpack_features(logged)).tolist()
            named = ", ".join(stage.system.features.names[place] for place in at) or "every value"
            yield f"the reference interpreter differs at position {decision.state_seq}: {named}"


def _logged(decisions: Sequence[Decision]) -> list[tuple[Decision, Candidate]]:
    """Returns every candidate whose features were logged, with its decision."""
    return [(decision, candidate) for decision in decisions for candidate in decision.candidates if candidate.features]


def _reference(
    stage: Stage, changes: Sequence[Change], decision: Decision, candidate: Candidate
) -> np.ndarray[Any, Any] | None:
    """Returns the values as the reference has them; None where it refuses."""
    asked = point(decision.request, decision.state_seq, of=candidate)
    try:
        found = evaluate(stage.system.features, changes, point=asked)
    except DataError:
        return None
    return np.array(found, np.float64)


def _changes(stage: Stage, records: Sequence[Record]) -> list[Change]:
    reads = stage.system.features.reads
    return [change for record in records for change in changes_of(record, None, past=stage.log, reads=reads)]


def _sabotages(stage: Stage, records: Sequence[Record], doubled: Sequence[int]) -> dict[str, list[str]]:
    """Returns for each sabotage what is noticed of it: parity has to, and the reference has to side with offline."""
    changes = _changes(stage, records)
    found = {"the last bit of a logged value": _noticed(stage, changes, _bit_flipped(stage))}
    kinds = {kind for feature in stage.system.features.aggregates for kind in feature.over}
    if stage.system.schema.request.name in kinds:
        for name, fault in FAULTS.items():
            found[name] = _noticed(stage, changes, _as_logged_by(stage, records, fault, doubled=doubled))
    return found


def _bit_flipped(stage: Stage) -> Logged:
    decision, candidate = _logged(stage.decided)[-1]
    values = unpack_features(candidate.features).copy()
    values[0] = np.nextafter(values[0], np.inf)
    return {(decision.id, candidate.ref): pack_features(values)}


def _as_logged_by(
    stage: Stage, records: Sequence[Record], fault: type[FaultyState], *, doubled: Sequence[int]
) -> Logged:
    """Returns what the decisions would have logged with a faulty state behind them."""
    state, logged = fault(stage.system.features, doubled), dict[tuple[str, str], bytes]()
    for record in records:
        if record.kind == "decision":
            decision = decode_decision(record.body)
            kept = () if decision.mode == "imported" else tuple(candidate for _, candidate in _logged([decision]))
            if kept:
                asked = gathered(kept) if isinstance(decision.candidates, Candidates) else kept
                rows = vectors(state, decision.request, state_seq=decision.state_seq, candidates=asked)
                logged |= {(decision.id, one.ref): pack_features(row) for one, row in zip(kept, rows, strict=True)}
        for change in changes_of(record, None, past=stage.log, reads=stage.system.features.reads):
            state.apply(change)
    return logged


def _noticed(stage: Stage, changes: Sequence[Change], logged: Logged) -> list[str]:
    log = TamperedLog(stage.log, _relogged(logged))
    first = Deployment(stage.home, stage.system, log).parity().last(_EVERY_VALUE).first
    if first is None:
        return []
    decision = next(decision for decision in stage.decided if decision.id == first.decision_id)
    candidate = next(
        one for _, one in _logged([decision]) if logged.get((decision.id, one.ref), one.features) != one.features
    )
    values = _reference(stage, changes, decision, candidate)
    # The decision's own values are the honest ones: only the log that parity reads was changed.
    sides = values is not None and pack_features(values) == candidate.features
    return [f"{first.feature}: {first.why.said}"] if sides else []


def _relogged(logged: Logged) -> Callable[[Record], Record]:
    def changed(record: Record) -> Record:
        decision = decode_decision(record.body) if record.kind == "decision" else None
        if decision is None or decision.mode == "imported":
            return record
        for place in kept_places(decision):
            before = decision.candidates[place]
            packed = logged.get((decision.id, before.ref), before.features)
            decision = with_candidate(decision, place, candidate=msgspec.structs.replace(before, features=packed))
        return msgspec.structs.replace(record, body=encode(decision))

    return changed
