"""Privacy and safety: erasure, canaries, gaps between protected groups, and the switch that ends a challenger."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

from decalog import operations
from decalog.decisions import Decision
from decalog.deployment import Deployment
from decalog.errors import DataError
from decalog.explaining import Explainer
from decalog.home import Home
from decalog.privacy.erasing import erase, prove, proven
from decalog.privacy.subjects import Told, find_subject
from decalog.readiness.checks import Measured
from decalog.readiness.recorded import renamed, strangers
from decalog.readiness.serve import Served, serving
from decalog.readiness.subject import Rehearsal, Subject, decisions, rehearsed, twin_of
from decalog.serving import reply
from decalog.simulation import message_path
from decalog.system import System
from decalog.testing.worlds import Message

_FEWEST = 100
"""Decisions of a group below which its rate says too little."""
_MOST = 20_000
_Z95 = 1.959964
_PROBES = 20
_PATIENCE = 2.0
"""How long the drill waits for the champion, as a multiple of the limit."""
_MARK = "zQ7canary"
_ENDS = ("champion", "stopped")


def erasure(subject: Subject, fault: str) -> Measured:
    """Counts where a copy holds the last person who asked once they were erased: in plain text, or by their entry."""
    with subject.reading() as (_, recording):
        body = recording.requests(_PROBES)[-1].body
    entity = next(name for name in subject.system.schema.request.subject if name in body)
    person = str(body[entity])
    with subject.fork() as home:
        if fault:  # nothing is erased either: of a subject that is public the entry of the map is all there is
            (home.root / "kept.txt").write_text(person, encoding="utf-8")
        done = (prove if fault else erase)(home, subject.path, person=person, entity=entity)
        with closing(home.reader()) as log:
            is_known = find_subject(subject.system, log, person=person, entity=entity) is not None
    proof = done.proof
    assert proof is not None  # noqa: S101 - both search before they return
    hits, wrong = len(proof.scan.hits), (not done.found) + (not proof.sound) + bool(proof.left) + is_known
    return Measured(value=float(hits + wrong), n=proof.scan.files, said=f"{proof.scan.text()}; {proof.verified}")


def canaries(subject: Subject, fault: str) -> Measured:
    """Counts where planted personal values show up: files of a copy, answers, refusals, explanations."""
    with subject.reading() as (_, recording):
        asked = recording.requests(_PROBES)[-_PROBES:]
    planted = [_planted(subject, one) for one in renamed(asked, subject.system.schema, run="canary ")]
    values = {str(value) for one in planted for value in one.body.values() if _MARK in str(value)} | {_MARK}
    with subject.fork() as home:
        with rehearsed(subject, home) as made:
            told = list(_told(made, planted))
        told += [operations.take_snapshot(home, subject.path), *(sorted(values)[:1] if fault else ())]
        (home.root / "told.txt").write_text("\n".join(told), encoding="utf-8")
        found = proven(home, [Told("a canary", value) for value in sorted(values)]).scan
    return Measured(value=float(len(found.hits)), n=found.files, said=found.text())


def _told(made: Rehearsal, planted: Sequence[Message]) -> Iterator[str]:
    """Yields what callers and operators are told: a refusal, answers, an explanation."""
    # What somebody sends in a field that nobody declared is personal too, for all that is known.
    yield repr(made.service.ingest.admit("event", {**planted[0].body, "id": "", "note": _MARK}))
    replies = [made.service.decide(one.body) for one in planted]
    made.log.commit()
    yield from (repr(reply(*found[:2], noun=made.service.system.schema.noun)) for found in replies)
    yield Explainer(made.deployment).explain(replies[0][1].id).text()


def _planted(subject: Subject, message: Message) -> Message:
    """Returns a request with a canary in each personal text and entity."""
    request = subject.system.schema.request
    personal = {part.name: part.max_length for part in request.entities if part.privacy != "public"}
    texts = (part for part in request.fields if part.kind == "text" and not part.choices)
    personal |= {part.name: part.max_length for part in texts if part.privacy != "public"}
    marks = {name: f"{_MARK}{name}"[:longest] for name, longest in personal.items() if longest > len(_MARK)}
    return Message(message.at, message.kind, message.body | marks)


# ---- protected groups ----


def protected_ratio(subject: Subject, fault: str) -> Measured:
    """Measures the favourable rate of the worst-off protected group over the best-off's, where chance cannot be it.

    A difference within its 95 % interval (Katz et al., 1978, of a ratio of two shares) counts as none.
    """
    slo, system = subject.slo, subject.system
    protected = slo.protected or (_stand_in(subject) if fault else ())
    if not protected:
        if slo.why_unprotected:
            return Measured(value=1.0, n=1, said=f"no protected field is known here: {slo.why_unprotected}")
        raise DataError(
            where=f"{system.name} slo.toml, protected",
            given="none",
            expected="the public fields of requests by whose values decisions are compared, or why there are none",
            fix='protected = ["country"], or why_unprotected = "requests say nothing about people", in HOME/slo.toml.',
        )
    made = subject.fact("decided", lambda: _decided(subject))
    found = [(*_gap(made, field, system, slo.favourable, fault), field) for field in protected]
    ratio, said, n, _ = min(found)
    return Measured(value=ratio, n=n, said=said)


def _stand_in(subject: Subject) -> tuple[str]:
    """Returns the public entity of the largest second group, in which a fault is seeded where nothing is protected."""
    made = subject.fact("decided", lambda: _decided(subject))
    public = [one.name for one in subject.system.schema.request.entities if one.privacy == "public"]
    return (max(public, key=lambda of: sorted(Counter(d.request.attributes.get(of) for d in made).values())[-2:-1]),)


def _decided(subject: Subject) -> list[Decision]:
    """Returns what was decided last here; recorded requests decided on a copy where that is too little."""
    with subject.reading() as (deployment, recording):
        start = max(0, deployment.log.position - 2 * _MOST)
        found = [decision for _, decision in decisions(deployment.log, subject.system.name, start=start)][-_MOST:]
        if len(found) >= 10 * _FEWEST:
            return found
        recorded = recording.latest(10 * _FEWEST)
    with subject.fork() as home, rehearsed(subject, home) as made:
        return made.play(list(renamed(recorded, subject.system.schema, run="groups ")))


def _gap(
    made: list[Decision], field: str, system: System, favourable: tuple[str, ...], fault: str
) -> tuple[float, str, int]:
    """Returns the ratio of rates that is sure, what is said of it, and on how many decisions it rests."""
    good = set(favourable or system.schema.label.observed_after or system.schema.actions[:1])
    asked, granted = Counter[str](), Counter[str]()
    for decision in made:
        group = str(decision.request.attributes.get(field, "unknown"))
        asked[group] += 1
        granted[group] += decision.choice.action in good and not decision.fallback
    groups = [group for group, count in asked.items() if count >= _FEWEST]
    if len(groups) < 2:  # noqa: PLR2004 - a gap is between two
        raise DataError(
            where=f"{system.name} {field}",
            given=f"{len(groups)} groups of at least {_FEWEST} decisions",
            expected="two",
            fix="Let it decide more, or name another field.",
        )
    if fault:
        granted[max(groups, key=asked.__getitem__)] //= 2
    rate = {group: granted[group] / asked[group] for group in groups}
    worst, best = min(groups, key=rate.__getitem__), max(groups, key=rate.__getitem__)
    if not rate[best]:
        return 1.0, f"{field}: nobody got a favourable action", len(made)
    sure = _upper_ratio(granted[worst], asked[worst], good=granted[best], of=asked[best])
    said = (
        f"{field}: {' or '.join(sorted(good))} for {rate[worst]:.1%} of {worst} ({asked[worst]:,}), "
        f"{rate[best]:.1%} of {best} ({asked[best]:,}), ratio {rate[worst] / rate[best]:.3f}, at most {sure:.3f} "
        "by its 95 % interval"
    )
    return min(1.0, sure), said, len(made)


def _upper_ratio(granted: int, asked: int, *, good: int, of: int) -> float:
    """Returns the upper end of the 95 % interval of a ratio of two shares, by its logarithm.

    >>> round(_upper_ratio(50, 100, good=90, of=100), 3)
    0.683
    """
    if not granted:
        return 3.0 / asked / (good / of)  # none of n: at most 3 in n (Hanley and Lippman-Hand, 1983)
    log_se = math.sqrt(1 / granted - 1 / asked + 1 / good - 1 / of)
    return granted / asked / (good / of) * math.exp(_Z95 * log_se)


# ---- the switch ----


def rollback(subject: Subject, fault: str) -> Measured:
    """Measures the drill of a rollback on a copy's server: seconds from the order to the champion's next decision.

    A challenger decides everything, and is stopped. What was decided before, under it and after it has to replay to
    the same bits, and what decides after it has to be what decided before.
    """
    limit = subject.slo.limit("rollback_s")
    with subject.fork() as home:
        challenger = twin_of(home, subject.system.name)
        with serving(subject, home, faults="deaf" if fault else "") as served:
            seconds, wrong = _Drill(subject, served, challenger).run(limit * _PATIENCE)
        identical, replayed, first = _replayed(subject, home)
    wrong += [f"{replayed - identical} of {replayed} decisions do not replay: {first}"] if identical < replayed else []
    said = f"{seconds:.2f} s from the order to the champion; {identical} decisions around it replay bit for bit"
    return Measured(
        value=math.inf if wrong else seconds, n=replayed, said="; ".join((said, *wrong)), detail={"seconds": seconds}
    )


class _Drill:
    """A rollout that is stopped, on a server of a copy."""

    def __init__(self, subject: Subject, served: Served, challenger: str) -> None:
        self._served, self._name, self._challenger = served, subject.system.name, challenger
        self._schema = subject.system.schema
        with subject.reading() as (_, recording):
            asked = [message.body for message in recording.requests(_PROBES)]
        self._bodies, self._asked = asked, 0

    def run(self, patience_s: float) -> tuple[float, list[str]]:
        """Returns how long it took, and what was wrong."""
        path = f"/v1/{self._name}/rollout"
        running = self._served.must("GET", path)["content"] or {"stage": "stopped"}
        if running["stage"] not in _ENDS:
            self._served.must("PUT", path, body={"name": running["name"], "stage": "stopped", "why": "a drill"})
        before = [self._decide() for _ in range(_PROBES)]
        step = {"name": "check-drill", "model": self._challenger}
        self._served.must("PUT", path, body=step | {"stage": "canary", "share_bp": 10_000})
        under = [self._decide() for _ in range(_PROBES)]
        ordered = time.monotonic()
        self._served.must("PUT", path, body={**step, "stage": "stopped", "why": "the drill ends it"})
        after = self._decide()
        while after["model"] != before[-1]["model"] and time.monotonic() - ordered < patience_s:
            after = self._decide()
        seconds = time.monotonic() - ordered
        rest = [after, *(self._decide() for _ in range(_PROBES))]
        return seconds, list(self._wrong(before[-1], under, rest=rest))

    def _wrong(
        self, before: dict[str, Any], under: list[dict[str, Any]], *, rest: list[dict[str, Any]]
    ) -> Iterator[str]:
        if not all(one["model"] == self._challenger[:12] for one in under):
            yield "the challenger did not decide everything"
        if any(one != before for one in rest):
            yield "what decides after it is not what decided before"

    def _decide(self) -> dict[str, Any]:
        self._asked += 1
        body = strangers(self._bodies[self._asked % len(self._bodies)], self._schema, run=f"drill {self._asked} ")
        body["id"] = f"drill {self._asked}"
        told = self._served.must("POST", message_path(self._name, "decide"), body=body)
        versions: dict[str, Any] = told["versions"]
        return versions


def _replayed(subject: Subject, home: Home) -> tuple[int, int, str]:
    with closing(home.reader()) as log:
        found = Deployment(home, subject.path, log).replayer().range(subject.position)
    return found.identical, found.replayed, "" if found.first is None else f"seq {found.first.seq}"
