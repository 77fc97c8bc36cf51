"""Data integrity: what comes missing, corrupt, of another type, late or twice; and what was logged, computed again."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Any

import msgspec
import numpy as np

from decalog.decisions import Decision, pack_features, unpack_features
from decalog.deployment import Deployment
from decalog.errors import DataError, RequestError
from decalog.events import Record, encode
from decalog.home import Home
from decalog.parity import Certificate
from decalog.readiness.checks import Measured
from decalog.readiness.recorded import Replayed, renamed
from decalog.readiness.subject import Subject, rehearsed
from decalog.schema import Field
from decalog.serving import Service
from decalog.tails import newest
from decalog.testing.laws import crashes, fallbacks, labels, parity
from decalog.testing.laws.law import Verdict
from decalog.testing.laws.replayed import TamperedLog, kept_places, with_candidate
from decalog.testing.stage import Trial
from decalog.verification import verify

REQUESTS, QUICK = 300, 120
"""Recorded requests that a law is tried on."""
_PAST = 20_000
"""Records of the log that flipped requests are decided on."""
_REPLAYED = 1_000
"""Decisions that are replayed, the newest; a quick run takes a fifth."""
_TRIED = 40
_TURNS = 20


def log_sound(subject: Subject, fault: str) -> Measured:
    """Counts what does not verify in a copy of the home: hash chain, records, index, vault."""
    if not fault:
        return _verified(subject.master)
    with subject.fork() as home:
        content = bytearray(home.log.read_bytes())
        with closing(home.reader()) as log:
            blob = log.get(log.position // 2).body[:64]
        content[content.index(blob) + len(blob) // 2] ^= 1
        home.log.write_bytes(content)
        return _verified(home)


def skew(subject: Subject, fault: str) -> Measured:
    """Counts feature values that differ in any bit from what the log gives offline: the skew certificate.

    Where the log holds too few decisions, recorded requests are decided again on a copy until there are enough.
    """
    wanted = min(subject.slo.parity_decisions, 1_000) if subject.quick else subject.slo.parity_decisions
    with subject.reading() as (deployment, _):
        found = _certified(deployment, wanted, fault) if _start(deployment, 1) >= 0 else None
    if found is None or found.compared < wanted:
        found = _decided_again(subject, wanted, fault)
    if found.compared < wanted:
        raise DataError(
            where=f"{subject.system.name} skew certificate",
            given=f"{found.compared:,} decisions with features",
            expected=f"{wanted:,}",
            fix="Let it decide more: a fallback without features does not count.",
        )
    said = f"{found.identical:,}/{found.compared:,} identical, {found.values:,} values compared bit for bit"
    first = f"; first: {found.first.feature}, {found.first.why.said}" if found.first is not None else ""
    return Measured(value=float(found.different), n=found.compared, said=said + first)


def _decided_again(subject: Subject, wanted: int, fault: str) -> Certificate:
    """Returns what comparing finds once recorded requests were decided again on a copy, until there are enough."""
    with subject.reading() as (_, recording):
        recorded = recording.latest(wanted)
    with subject.fork() as home, rehearsed(subject, home) as made:
        for again in range(_TURNS):
            made.play(list(renamed(recorded, subject.system.schema, run=f"skew {again} ")))
            found = _certified(made.deployment, wanted, fault)
            if found.compared >= wanted:
                break
    return found


def replay(subject: Subject, fault: str) -> Measured:
    """Counts logged decisions that do not replay to the same bits and action.

    Where the log holds none, recorded requests are decided on a copy.
    """
    wanted = _REPLAYED // 5 if subject.quick else _REPLAYED
    with subject.reading() as (deployment, recording):
        start = _start(deployment, wanted)
        if start >= 0:
            return _replayed(deployment, start, fault)
        recorded = recording.latest(wanted)
    with subject.fork() as home, rehearsed(subject, home) as made:
        made.play(list(renamed(recorded, subject.system.schema, run="replay ")))
        return _replayed(made.deployment, subject.position, fault)


def _replayed(deployment: Deployment, start: int, fault: str) -> Measured:
    found = (_forged(deployment) if fault else deployment).replayer().range(start)
    said = f"{found.identical:,} of {found.replayed:,} decisions replay to the same bits and action"
    return Measured(value=float(found.replayed - found.identical), n=found.replayed, said=said)


def _start(deployment: Deployment, wanted: int) -> int:
    """Returns from which position on the log holds so many decisions that were made here; −1 where it has none."""
    made = (one.seq for one, decision in newest(deployment.log, deployment.system.name) if decision.mode != "imported")
    return min(itertools.islice(made, wanted), default=-1)


def disorder(subject: Subject, fault: str) -> Measured:
    """Counts breaches of law 2 on recorded traffic: late, doubled, corrected and deleted rows."""
    return _lawful(subject, parity.check, fault)


def labels_in_any_order(subject: Subject, fault: str) -> Measured:
    """Counts breaches of law 5 on recorded traffic: outcomes late, twice, reordered, corrected, withdrawn."""
    return _lawful(subject, labels.check, fault)


def broken_inputs(subject: Subject, fault: str) -> Measured:
    """Counts breaches of law 6 on recorded traffic: missing, corrupt, extreme values, broken parts, NaN."""
    return _lawful(subject, fallbacks.check, fault)


def torn_log(subject: Subject, fault: str) -> Measured:
    """Counts breaches of law 12 on recorded traffic: writers killed, files torn at any byte."""
    return _lawful(subject, crashes.check, fault)


def flipped_types(subject: Subject, fault: str) -> Measured:
    """Counts recorded requests that are taken though a value has another type or unit than the schema says."""
    with subject.fork(until=min(subject.position, _PAST)) as home, rehearsed(subject, home) as made:
        with subject.reading() as (_, recording):
            asked = recording.requests(_TRIED)[-_TRIED:]
        service, taken, tried = made.service, set[str](), 0
        bodies = [one.body for one in renamed(asked, subject.system.schema, run="flipped ")]
        for plain, (what, body) in ((one, flip) for one in bodies for flip in flips(subject, one)):
            if fault:
                service.ingest.parser = _Lenient(service.ingest.parser, plain)  # type: ignore[assignment]  # planted
            tried += 1
            taken |= {f"{what} of {plain['id']}"} if _is_taken(service, body) else set()
    first = f"; taken: {min(taken)}" if taken else ""
    said = f"{tried - len(taken):,} of {tried:,} flipped values were refused with a sentence{first}"
    return Measured(value=float(len(taken)), n=tried, said=said)


def flips(subject: Subject, body: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (what is flipped, request), one value in each: a number as text, a text as number, money as a fraction."""
    request = subject.system.schema.request
    for field in request.fields:
        if field.name in body:
            for kind, value in _flipped(field, body[field.name]):
                yield f"{field.name} as {kind}", {**body, field.name: value, "id": f"{body['id']} {field.name} {kind}"}
    for entity in request.entities:
        if entity.name in body:
            yield f"{entity.name} as a number", {**body, entity.name: 17, "id": f"{body['id']} {entity.name}"}


def _flipped(field: Field, value: Any) -> Iterator[tuple[str, Any]]:
    yield "a list", [value]
    if field.kind in ("int", "float", "amount_minor"):
        yield "text", str(value)
    if field.kind in ("int", "amount_minor"):
        yield "a fraction", float(value) + 0.5
    if field.kind in ("text", "currency", "flag"):
        yield "a number", 17.5


def _is_taken(service: Service, body: Mapping[str, Any]) -> bool:
    try:
        service.decide(msgspec.json.encode(body))
    except RequestError:
        return False
    return True


class _Lenient:
    """Takes the honest request where the one that was sent is refused."""

    def __init__(self, parser: Any, plain: Mapping[str, Any]) -> None:
        self._parser, self._plain = getattr(parser, "_parser", parser), plain

    def request(self, raw: Any) -> Any:
        try:
            return self._parser.request(raw)
        except RequestError:
            id_ = msgspec.json.decode(raw)["id"]
            return self._parser.request(msgspec.json.encode({**self._plain, "id": id_}))


def _verified(home: Home) -> Measured:
    found = verify(home.root)
    bad = [check for check in found.checks if not check.sound]
    said = "; ".join(f"{check.name}: {check.said}" for check in bad or found.checks[:1])
    return Measured(value=float(len(bad)), n=found.position, said=said)


def _certified(deployment: Deployment, wanted: int, fault: str) -> Certificate:
    return (_forged(deployment) if fault else deployment).parity().last(wanted)


def _last_whole(deployment: Deployment) -> tuple[Record, Decision]:
    """Returns the last decision with features.

    Raises:
        DataError: there is none.
    """
    for record, decision in newest(deployment.log, deployment.system.name):
        if decision.mode != "imported" and not decision.fallback and kept_places(decision):
            return record, decision
    raise DataError(
        where=f"log of {deployment.system.name}",
        given="no decision with features",
        expected="some that a model made",
        fix="Train a champion, and let it decide.",
    )


def _other_bit(decision: Decision) -> Decision:
    place = kept_places(decision)[0]
    candidate = decision.candidates[place]
    values = unpack_features(candidate.features).copy()
    values[0] = np.nextafter(values[0], np.inf)
    return with_candidate(decision, place, candidate=msgspec.structs.replace(candidate, features=pack_features(values)))


def _forged(deployment: Deployment) -> Deployment:
    """Returns it on a log in which one bit of the last decision's features is another."""
    record, decision = _last_whole(deployment)
    forged = msgspec.structs.replace(record, body=encode(_other_bit(decision)))
    log = TamperedLog(deployment.log, lambda one: forged if one.seq == record.seq else one)
    return Deployment(deployment.home, deployment.system, log, deployment.setup)


def _lawful(subject: Subject, check: Callable[[Trial], Verdict], fault: str) -> Measured:
    """Measures a law of conformance on recorded traffic; its own sabotages are the faults, and are tried with it."""
    verdict = subject.fact(check.__module__, lambda: _tried(subject, check))
    if fault:
        said = f"noticed: {', '.join(verdict.noticed) or 'none'}; missed: {', '.join(verdict.missed) or 'none'}"
        return Measured(value=0.0 if verdict.missed else float(len(verdict.noticed)), n=verdict.checked, said=said)
    tried = "".join(f", {count:,} {kind}" for kind, count in verdict.tried.items())
    wrong = verdict.text().replace("\n", "; ")
    said = wrong or f"{verdict.checked:,} checked{tried}; {len(verdict.noticed)} sabotages noticed"
    bad = len(verdict.breaches) + len(verdict.missed) + (not verdict.checked)
    return Measured(value=float(bad), n=verdict.checked, said=said)


def _tried(subject: Subject, check: Callable[[Trial], Verdict]) -> Verdict:
    requests = QUICK if subject.quick else REQUESTS
    with subject.reading() as (deployment, recording):
        messages = recording.oldest(requests)
        world = Replayed(messages, deployment.rates())
        system = deployment.system
    folder = subject.folder / check.__module__
    try:
        asked = sum(message.kind == "decide" for message in messages)
        return check(Trial(system=system, folder=folder, requests=asked, world=world.again))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
