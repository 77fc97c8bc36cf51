"""Replay: any logged decision computed again from the log alone, to the same bits or with the first difference named.

Score replay starts from the logged feature values; feature replay folds the log again up to the decision's position.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import msgspec

from decalog.candidates import Candidate, gathered
from decalog.decisions import Decision, decode_decision, pack_features, unpack_features
from decalog.errors import ReplayError
from decalog.events import Record, decode_table
from decalog.explanations import Because, explain
from decalog.features.definition import FeatureSet, Reads, joined
from decalog.features.facts import ALL, ALL_TOKEN, Change
from decalog.features.online import OnlineState
from decalog.folding import changes_of
from decalog.ingest import request_of
from decalog.judging import Judge, Serving, Underway, vectors
from decalog.log import Log
from decalog.models.base import Floats
from decalog.standing import Standing
from decalog.system import System

_NAMED = 5
"""Erased records that a refusal names."""


class Difference(msgspec.Struct, frozen=True):
    """One intermediate that came out otherwise: its name, as logged, as recomputed."""

    name: str
    logged: str
    replayed: str


class Trace(msgspec.Struct, frozen=True):
    """A replayed decision with every intermediate.

    Args:
        decision_id, seq, state_seq: which decision, and what it had seen.
        features: name → value recomputed by folding the log.
        predictions: head → value recomputed.
        explanation: why the prediction is what it is, the strongest feature first; empty where the model cannot tell.
        action, reasons, expected_minor: the policy's verdict, recomputed.
        mode, fallback: as logged; they are inputs, not results.
        versions: what decided.
        notes: where this runtime differs from the decision's.
        differences: empty if it is identical.
    """

    decision_id: str
    seq: int
    state_seq: int
    features: dict[str, float]
    predictions: dict[str, float]
    explanation: tuple[Because, ...]
    action: str
    reasons: tuple[str, ...]
    expected_minor: int
    mode: str
    fallback: str
    versions: dict[str, str]
    notes: tuple[str, ...]
    differences: tuple[Difference, ...]

    @property
    def identical(self) -> bool:
        """Whether everything came out as logged."""
        return not self.differences


class Again(NamedTuple):
    """A decision as it is made again.

    Args:
        decision: logged.
        system: with the feature set that it names.
        judge: of the versions that it names.
        draft: what was judged, with what came out of it.
        trace: every intermediate.
    """

    decision: Decision
    system: System
    judge: Judge
    draft: Underway
    trace: Trace


class Range(msgspec.Struct, frozen=True):
    """Replay of a range: how many were identical, the first that was not, and which would need what was erased."""

    replayed: int
    identical: int
    first: Trace | None
    refused: tuple[str, ...] = ()

    def text(self) -> str:
        """Returns the one line that says it: `1,000/1,000 identical`."""
        refused = f", {len(self.refused):,} refused: they would need what was erased" if self.refused else ""
        return f"{self.identical:,}/{self.replayed:,} identical{refused}"


class _Row(NamedTuple):
    """An erased record: its root, when it happened, µs, and whose windows it lay in."""

    root: int
    event_time: int
    tokens: frozenset[int]


ServingFor = Callable[[Decision], tuple[System, Serving]]


class Replayer:
    """Replays decisions of one system.

    Args:
        log: read only.
        system: name.
        serving_for: decision → the system, model and policy of the versions that it names.
        draw_secret: of the deployment.
        notes_for: decision → where this runtime differs from its.
    """

    def __init__(
        self,
        log: Log,
        system: str,
        *,
        serving_for: ServingFor,
        draw_secret: bytes,
        notes_for: Callable[[Decision], tuple[str, ...]],
    ) -> None:
        self._log = log
        self._system = system
        self._serving_for = serving_for
        self._draw_secret = draw_secret
        self._notes_for = notes_for
        self._standing = Standing.of(log, system)

    def one(self, decision_id: str) -> Trace:
        """Returns the trace of one decision, its features folded again from the start of the log.

        Raises:
            ReplayError: there is no such decision, or what it needs is gone.
        """
        return self.again(decision_id).trace

    def again(self, decision_id: str, *, folds: bool = True) -> Again:
        """Returns one decision as it is made again; errors as for `one`.

        Args:
            decision_id: its id, or its request's.
            folds: whether the log is folded for its features; if not, those of a lone candidate are taken as logged,
                and the trace has none.
        """
        seqs = self._log.find("decision", decision_id) or self._log.find("request", f"{self._system}/{decision_id}")
        record = self._log.get(seqs[0]) if seqs else None
        if record is None or record.kind != "decision" or record.system != self._system:
            raise ReplayError(
                where=f"{self._system} decision",
                given="an id that no decision has",
                expected="the id of a decision or of its request",
                fix="`decalog replay SYSTEM --all` walks all of them.",
            )
        decision = decode_decision(record.body)
        if decision.mode == "imported":
            raise ReplayError(
                where=f"{self._system} decision",
                given="an imported decision, made by another system",
                expected="a decision that was made here",
                fix="Its outcome trains models; there is nothing to recompute.",
            )
        if folds or len(decision.candidates) > 1 or record.seq in self._standing.erased:
            return self._again_whole(decision, record.seq)
        return self._again(record, decision, *self._serving_for(decision), None)

    def range(self, start: int = 0, stop: int | None = None) -> Range:
        """Returns how many of the decisions with start ≤ seq < stop come out identical."""
        last = self._log.position if stop is None else stop
        replayed = identical = 0
        first: Trace | None = None
        made_here = sorted(self._made_here(start, last))
        refused = [decision for _, seq, decision in made_here if seq in self._standing.erased]
        for made in self._all_again([(at, seq) for at, seq, _ in made_here if seq not in self._standing.erased]):
            trace = made.trace
            if self._needed(made):
                refused.append(trace.decision_id)
                continue
            replayed += 1
            identical += trace.identical
            if not trace.identical and (first is None or trace.seq < first.seq):
                first = trace
        return Range(replayed, identical, first, tuple(refused))

    def _again_whole(self, decision: Decision, seq: int) -> Again:
        if seq in self._standing.erased:
            raise self._refusal(decision.id, [seq])
        made = next(self._all_again([(decision.state_seq, seq)]))
        if needed := self._needed(made):
            raise self._refusal(decision.id, needed)
        return made

    def _needed(self, made: Again) -> list[int]:
        """Returns the erased records that a decision may have seen which comes out otherwise without them.

        They lie in its windows, and are of one of its entities or of all.
        """
        if made.trace.identical:
            return []
        request, features = made.decision.request, made.system.features
        since = request.event_time - features.longest_window_us
        asked = {*request.entities.values(), *(t for c in made.decision.candidates for t in c.entities.values())}
        if any(ALL in feature.entities for feature in features.aggregates):
            asked.add(ALL_TOKEN)
        seen = (one for one in self._erased_rows if one.root < made.decision.state_seq)
        return [one.root for one in seen if one.event_time > since and asked & one.tokens]

    @cached_property
    def _erased_rows(self) -> list[_Row]:
        """What was erased of events and requests, in log order; a range asks for it once for each that differs."""
        records = map(self._log.get, sorted(self._standing.erased))
        return [
            _Row(record.root, record.event_time, frozenset((ALL_TOKEN, *request_of(record).entities.values())))
            for record in records
            if record.kind != "outcome"
        ]

    def _refusal(self, decision_id: str, needed: Sequence[int]) -> ReplayError:
        some = ", ".join(str(seq) for seq in needed[:_NAMED]) + (" and others" if len(needed) > _NAMED else "")
        return ReplayError(
            where=f"{self._system} decision {decision_id}",
            given=f"a decision that would need erased records: {some}",
            expected="a decision that was made without what a person has had erased",
            fix="It cannot be computed again; what was decided still stands in the log.",
        )

    def _made_here(self, start: int, stop: int) -> Iterator[tuple[int, int, str]]:
        """Yields (state_seq, seq, id) of decisions; another system's were imported: there is nothing to recompute."""
        for record in self._log.read(start, stop):
            if record.kind == "decision" and record.system == self._system:
                decision = decode_decision(record.body)
                if decision.mode != "imported":
                    yield decision.state_seq, record.seq, decision.id

    def _all_again(self, asked: Sequence[tuple[int, int]]) -> Iterator[Again]:
        """Yields decisions as they are made again, in the order of what they had seen, so that the log is folded once.

        In the order of their seqs, each that overtook another while a slow model thought would fold it anew.
        """
        reads = reads_of(self._log, self._system)
        fold, records = Fold(self._log, reads=reads, standing=self._standing), self._log.read()
        for state_seq, seq in asked:
            fold.read(records, state_seq, system=self._system)
            record = self._log.get(seq)
            decision = decode_decision(record.body)
            system, serving = self._serving_for(decision)
            yield self._again(record, decision, system, serving, fold.at(state_seq, system))

    def _again(
        self, record: Record, decision: Decision, system: System, serving: Serving, state: OnlineState | None
    ) -> Again:
        logged = list(decision.candidates)
        draft, refolded = drafted(record, decision, state=state)
        judge = Judge(system, serving)
        if decision.fallback in ("", "policy_error"):
            judge.predict(draft)
        draft.fallback = draft.fallback or decision.fallback
        verdict, candidates = judge.choose(draft, decision.id, draw_secret=self._draw_secret)
        names, lead = system.features.names, decision.lead
        place = logged.index(lead) if lead else 0
        differences = (
            *_candidate_differences(names, logged, candidates, refolded=refolded),
            *_differ("fallback", decision.fallback, draft.fallback),
            *_differ("choice", _json(decision.choice), _json(verdict.choice)),
            *_differ("guardrails", _json(decision.guardrails), _json(verdict.guardrails)),
            *_differ("expected_minor", str(decision.expected_minor), str(verdict.expected_minor)),
        )
        trace = Trace(
            decision.id,
            record.seq,
            decision.state_seq,
            {} if refolded is None else dict(zip(names, refolded[place].tolist(), strict=True)),
            candidates[place].predictions if candidates else {},
            () if draft.features is None else explain(serving.model, draft.features[place], features=system.features),
            verdict.choice.action,
            verdict.choice.reasons,
            verdict.expected_minor,
            decision.mode,
            decision.fallback,
            {key: str(value) for key, value in msgspec.structs.asdict(decision.versions).items()},
            self._notes_for(decision),
            differences,
        )
        return Again(decision, system, judge, draft, trace)


class Fold:
    """Views folded along the log, one set for each feature-set version that decisions name.

    What was erased is left out everywhere, also before its erasure. Changes are kept, since a version may be named for
    the first time far into the log.
    """

    def __init__(self, log: Log, *, reads: Reads, standing: Standing) -> None:
        self._log = log
        self._reads = reads
        self._standing = standing
        self._changes: list[Change] = []
        self._read = 0
        self._states: dict[str, tuple[OnlineState, int]] = {}

    def read(self, records: Iterator[Record], stop: int, *, system: str) -> None:
        """Takes a system's changes from the records up to a position, which never runs back."""
        while self._read < stop:
            record = next(records)
            self._read = record.seq + 1
            if record.system == system and not self._standing.hides(record):
                self._changes.extend(changes_of(record, None, past=self._log, reads=self._reads))

    def at(self, state_seq: int, system: System) -> OnlineState:
        """Returns the views at a position that was read, and that never runs back."""
        version = system.features.version
        known = self._states.get(version)
        state, done = (OnlineState(system.features), 0) if known is None else known
        while done < len(self._changes) and self._changes[done].seq < state_seq:
            state.apply(self._changes[done])
            done += 1
        self._states[version] = (state, done)
        return state


def reads_of(log: Log, system: str) -> Reads:
    """Returns what any of the feature sets reads that decisions of a log may name; all there is where it holds none."""
    tables = [decode_table(log.get(seq).body) for seq in log.find("table", f"{system}/features")]
    sets = [FeatureSet.from_json(table.content).reads for table in tables]
    return joined(sets) if sets else Reads(outcomes=True, tables=None)


def drafted(record: Record, decision: Decision, *, state: OnlineState | None) -> tuple[Underway, Floats | None]:
    """Returns a decision as it was before predictions, and its features as refolded; None where it had none.

    Args:
        record: of the decision.
        decision: logged.
        state: views at its position; of another feature set than the logged one, no logged value is used. None takes
            the features of a lone candidate as logged.
    """
    draft, refolded = _draft(record, decision), None
    if state is None and decision.candidates[0].features:
        draft.features = unpack_features(decision.candidates[0].features)[None, :]
    elif state is not None and any(candidate.features for candidate in decision.candidates):
        refolded = vectors(state, decision.request, state_seq=decision.state_seq, candidates=draft.candidates)
        is_this_set = decision.versions.features == state.features.version
        draft.features = _as_logged(list(decision.candidates), refolded) if is_this_set else refolded
    return draft, refolded


def _draft(record: Record, decision: Decision) -> Underway:
    """Returns a decision as it was before features and predictions: what was retrieved is an input."""
    draft = Underway(decision.request, record.digest, decision.taken, decision.state_seq, 0, {})
    found = decision.candidates
    if len(found) == 1 and not (found[0].entities or found[0].attributes):
        draft.candidates = (msgspec.structs.replace(found[0], predictions={}, features=b""),)
    elif len(found):
        draft.candidates = msgspec.structs.replace(gathered(found), heads=(), predictions=b"", kept=(), features=b"")
    return draft


def _as_logged(logged: Sequence[Candidate], refolded: Floats) -> Floats:
    """Returns the features that were decided on: as logged, and as refolded of the candidates that logged none."""
    rows = refolded.copy()
    for place, candidate in enumerate(logged):
        if candidate.features:
            rows[place] = unpack_features(candidate.features)
    return rows


def _candidate_differences(
    names: Sequence[str], logged: Sequence[Candidate], replayed: Iterable[Candidate], *, refolded: Floats | None
) -> Iterator[Difference]:
    """Yields what differs of each candidate, under its name where there are several."""
    for place, (was, now) in enumerate(zip(logged, replayed, strict=False)):
        found = list(_prediction_differences(was.predictions, now.predictions))
        if refolded is not None and was.features:
            found = [*_feature_differences(names, was.features, refolded[place]), *found]
        prefix = f"{was.ref}: " if len(logged) > 1 else ""
        yield from (msgspec.structs.replace(one, name=prefix + one.name) for one in found)


def _feature_differences(names: Iterable[str], logged: bytes, refolded: Floats) -> Iterator[Difference]:
    if pack_features(refolded) == logged:
        return
    for name, was, now in zip(names, unpack_features(logged).tolist(), refolded.tolist(), strict=True):
        yield from _differ(name, _bits(was), _bits(now))


def _prediction_differences(logged: dict[str, float], replayed: dict[str, float]) -> Iterator[Difference]:
    for head in sorted({*logged, *replayed}):
        was, now = logged.get(head), replayed.get(head)
        yield from _differ(head, "none" if was is None else _bits(was), "none" if now is None else _bits(now))


def _differ(name: str, logged: str, replayed: str) -> Iterator[Difference]:
    if logged != replayed:
        yield Difference(name, logged, replayed)


def _bits(value: float) -> str:
    return f"{value!r} ({struct.pack('>d', value).hex()})"


def _json(value: object) -> str:
    return msgspec.json.encode(value, order="deterministic").decode()


def trace_text(trace: Trace) -> str:
    """Returns a trace for people: every intermediate, and each difference with both values."""
    lines = [
        f"decision {trace.decision_id} (seq {trace.seq}, views at {trace.state_seq}, {trace.mode})",
        *(f"  {name:28} {value!r}" for name, value in trace.features.items()),
        *(f"  {head:28} {value!r}" for head, value in trace.predictions.items()),
        *(f"    {because.text()}" for because in trace.explanation),
        f"  fallback                     {trace.fallback}" if trace.fallback else "",
        f"  action                       {trace.action}",
        f"  expected_minor               {trace.expected_minor}",
        *(f"  because                      {reason}" for reason in trace.reasons),
        *(f"  version of {name:17} {version}" for name, version in trace.versions.items()),
        *(f"  note                         {note}" for note in trace.notes),
        *difference_lines(trace),
        "identical" if trace.identical else f"{len(trace.differences)} differences",
    ]
    return "\n".join(line for line in lines if line)


def difference_lines(trace: Trace) -> list[str]:
    """Returns one line a difference: as logged, as replayed."""
    return [f"  DIFFERS {d.name}: logged {d.logged}, replayed {d.replayed}" for d in trace.differences]


def range_text(found: Range) -> str:
    """Returns a replayed range for people: `1,000/1,000 identical`, and the first difference whole."""
    return found.text() if found.first is None else f"{found.text()}\nfirst difference:\n{trace_text(found.first)}"
