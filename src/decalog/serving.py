"""The online path of one system: features, model, policy, one record. Durability and waiting belong to `host`.

Every failure after a request was understood has a declared fallback and is a recorded decision; only a log that cannot
take records has none.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np

from decalog.candidates import Candidate, Candidates, gathered, named
from decalog.clock import rfc3339
from decalog.decisions import (
    Choice,
    Decision,
    Mode,
    Versions,
    decision_keys,
    decode_decision,
    made_elsewhere,
    new_decision_id,
    unpack_features,
)
from decalog.errors import ConflictError, RequestError
from decalog.events import Event, Record, encode_body
from decalog.features.definition import FeatureSet
from decalog.folding import changes_of
from decalog.ingest import Ingest
from decalog.judging import Judge, Serving, Underway, since, timed, vectors
from decalog.log import Draft, Log
from decalog.outcomes import Outcome
from decalog.policy import Policy, policy_version
from decalog.retrieval import UNPROFILED, Retrieval, searched
from decalog.rollout import CHALLENGER, Rollout, Rollouts
from decalog.searching import Wait
from decalog.system import System
from decalog.tables import Tables


def nothing() -> None:
    """Does nothing."""


class Trial(msgspec.Struct, frozen=True):
    """A rollout whose challenger decides something, and what that decides with."""

    rollout: Rollout
    judge: Judge

    def beside(self, champion: Serving, system: System) -> Trial:
        """Returns it beside a champion of other parameters: where the challenger has none of its own, it has those."""
        own = self.rollout.policy is not None
        return self if own else Trial(self.rollout, Judge(system, self.judge.serving.under(champion)))


class Service:
    """One system's decide call over live views.

    Args:
        system: whose.
        ingest: admits requests into the log.
        state: live feature views, folded up to the log's position.
        serving: model, policy and versions; a promotion makes a new service's judge, whole.
        entropy: gives random bytes for decision ids.
        retrieval: finds what can be chosen, followed up to the log's position; None where that is the request itself.
    """

    problem: str = ""
    """Why the champion of now cannot be used, or ""."""
    challenger: Callable[[Rollout, Serving], Serving] | None = None
    """Loads what a rollout's challenger decides with, beside what decides now; None where nobody can."""
    trial: Trial | None = None
    """The rollout under way, where its challenger decides anything."""
    unexplained: int = 0
    """Decisions to be explained at once (`System.explained_at_once`) since what explains them was last started."""
    _adopted: tuple[int, int] | None = None

    def __init__(
        self,
        system: System,
        ingest: Ingest,
        state: Any,
        *,
        serving: Serving,
        entropy: Callable[[int], bytes] = os.urandom,
        retrieval: Retrieval | None = None,
    ) -> None:
        self.ingest = ingest
        self.retrieval = retrieval
        self._entropy = entropy
        self._log: Log = ingest.log
        self._draw_secret = self._log.vault.secret("draws")
        self.rollouts = Rollouts(self._log, system.name)
        self.change(system, state, serving=serving)
        self.standing = ingest.standing
        ingest.on_record = self.fold

    def change(self, system: System, state: Any, *, serving: Serving) -> None:
        """Decides on another feature set from the next request on; a decision under way ends with what it began with.

        Args:
            system: with the set.
            state: its views, folded up to the log's position.
            serving: model, policy and versions.
        """
        self.system, self.state = system, state
        self.adopt(serving)
        self._lateness_us = system.features.lateness_us
        self._reads = system.features.reads
        self._measured = tuple(field.name for field in system.schema.candidate if field.kind == "float")

    @property
    def serving(self) -> Serving:
        """What it decides with."""
        return self.judge.serving

    def adopt(self, serving: Serving) -> None:
        """Decides with another model or policy from the next request on."""
        if self.retrieval is not None and self._adopted != (id(self.retrieval), id(serving.model)):
            self.retrieval.adopt(serving.model)
            self._adopted = (id(self.retrieval), id(serving.model))
        self.judge = Judge(self.system, serving)
        self.trial = self._tried()

    def decide(self, raw: bytes | Mapping[str, Any]) -> tuple[Record, Decision, bool]:
        """Decides one request; returns its stamped record, the decision, and whether it repeats a logged one.

        The record is durable only after the log's next commit: reply after that.

        Raises:
            RequestError: the request is wrong, or its id was used with another body.
        """
        begun = self.begin(raw)
        if not isinstance(begun, Underway):
            return (*begun, True)
        self.predict(begun)
        return (*self.finish(begun), False)

    def begin(
        self, raw: bytes | Mapping[str, Any], form: bytes = b"", *, sees: bool = True
    ) -> Underway | tuple[Record, Decision]:
        """Admits a request, finds its candidates and computes their features; a retry gives what was logged instead.

        Args:
            raw: the request.
            form: what the caller sent in another protocol: a retry has to repeat that too, not only what we read of it.
            sees: whether that is done now; else `see` is to be gone through.
        """
        started = time.perf_counter_ns()
        parsed = self.ingest.parser.request(raw)
        if parsed.corrects:
            raise RequestError(
                where=f"{self.system.name} {parsed.kind}, corrects",
                given="a correction sent to decide",
                expected="a new request",
                fix="Send corrections to /events: a decision that was made stays made.",
            )
        mark = self.ingest.body_digest(parsed, form)
        before = self.logged(parsed.id, mark)
        if before is not None:
            return before
        event, alone = self.ingest.build(parsed), (Candidate(parsed.id, "request"),) if self.retrieval is None else ()
        draft = Underway(
            event,
            mark,
            parsed.taken,
            self._log.position,
            started,
            {},
            alone,
            judge=self.judge,
            slots=parsed.slots,
            quantity=parsed.quantity,
        )
        if self.trial is not None:
            arm = self.trial.rollout.arm(event)
            draft.arm = self.trial.rollout.named(arm)
            draft.judge = self.trial.judge if arm == CHALLENGER else self.judge
        draft.fallback = self.standing.wish(event.subject)
        timed(draft, "parse", since_ns=started)
        for wait in self.see(draft) if sees else ():
            if wait is not None:
                wait.here()
        return draft

    def see(self, draft: Underway) -> Iterator[Wait | None]:
        """Finds the candidates and adds their features, as the views are now: it may be later than the request came.

        Yields where others may go on, and what there is to wait for, if anything.
        """
        if self.retrieval is not None:
            yield from self._retrieve(draft, self.retrieval)
            yield None
        draft.state_seq = self._log.position
        if self._judge_of(draft).serving.versions.features != self.serving.versions.features:
            draft.judge, draft.arm = self.judge, ""  # other views came meanwhile: what it began with cannot read them
        self._featurise(draft)

    def logged(self, id_: str, mark: bytes) -> tuple[Record, Decision] | None:
        """Returns the decision that was logged for a request of the same id and body, or None.

        Raises:
            ConflictError: the id was used with another body, or for a plain event.
        """
        record = self.ingest.logged("request", id_, mark=mark)
        return None if record is None else (record, self._repeated(record))

    def predict(self, draft: Underway) -> None:
        """Adds the model's prediction; see `Judge.predict`."""
        self._judge_of(draft).predict(draft)

    def finish(self, draft: Underway, *, stamped: Callable[[], None] = nothing) -> tuple[Record, Decision]:
        """Lets the policy choose, stamps the record and folds it into the views.

        Args:
            draft: whose features and predictions are there.
            stamped: called between the two: the record may become durable while the views fold it.
        """
        started = time.perf_counter_ns()
        decision = self._decision(draft)
        timed(draft, "policy", since_ns=started)
        started = time.perf_counter_ns()
        record = self._log.stamp(
            Draft(
                kind="decision",
                system=self.system.name,
                id=draft.event.id,
                digest=draft.mark,
                event_time=draft.event.event_time,
                body=encode_body(decision),
                keys=decision_keys(self.system.name, decision),
            )
        )
        self.unexplained += decision.choice.action in self.system.explained_at_once
        stamp_us = since(started)
        stamped()
        started = time.perf_counter_ns()
        self.fold(record, decision)
        # Not in place: the decision holds these stages as they were logged.
        stages_us = {"stamp": stamp_us, "fold": since(started)}
        draft.stages_us = draft.stages_us | stages_us
        return record, decision

    def put_table(self, name: str, content: object, *, by: str = "", what: str = "") -> int:
        """Appends a version of a lookup table, which the next request sees; returns its seq.

        The content of now, put again, appends nothing.
        """
        position = self._log.position
        seq = Tables(self._log).put(self.system.name, name, content=content, by=by, what=what)
        if seq >= position:
            self.fold(self._log.get(seq))
        return seq

    def put_policy(self, policy: Policy, *, by: str = "") -> int:
        """Appends a policy's parameters and decides by it from the next request on; returns their seq."""
        seq = Tables(self._log).put(self.system.name, "policy", content=policy.params, by=by)
        versions = msgspec.structs.replace(self.serving.versions, policy=policy_version(policy.params))
        self.adopt(msgspec.structs.replace(self.serving, policy=policy, versions=versions))
        return seq

    def fold(self, record: Record, body: Event | Decision | Outcome | None = None) -> None:
        """Folds an admitted record into the live views."""
        self.state.apply(*changes_of(record, body, past=self._log, reads=self._reads))
        self.standing.read(record)
        if self.retrieval is not None and body is not None:
            self.retrieval.follow(record, body)

    def _tried(self) -> Trial | None:
        """Returns the trial beside what decides now, if that does not end it."""
        step = self.rollouts.last()
        if step is not None and not step.is_over:
            step = step.beside(self.serving.versions.model, self.serving.policy.params)
            if step.is_over:
                self.rollouts.put(step, by="the server")
        is_over = step is None or step.is_over
        return None if is_over or self.trial is None else self.trial.beside(self.serving, self.system)

    def _judge_of(self, draft: Underway) -> Judge:
        # While a slow model thinks, another may be adopted: what predicted is what decides and what is logged.
        return draft.judge or self.judge

    def _retrieve(self, draft: Underway, retrieval: Retrieval) -> Iterator[Wait]:
        started, model = time.perf_counter_ns(), self._judge_of(draft).serving.model
        try:
            found = yield from searched(retrieval, _asked(draft), model=model)
        except Exception:  # noqa: BLE001  # the edge of an engine, as for models
            draft.fallback = "retrieval_error"
        else:
            draft.candidates = _finite(gathered(found.candidates), self._measured)
            if not draft.candidates.competing:
                draft.fallback = "no_candidates"
            draft.stages_us.update(found.stages_us)
            draft.stages_us.update({f"{name} late": found.stages_us.get(name, 0) for name in found.late})
        timed(draft, "retrieve", since_ns=started)

    def _featurise(self, draft: Underway) -> None:
        started = time.perf_counter_ns()
        if draft.fallback:
            return
        if draft.event.event_time < self._log.known_time - self._lateness_us:
            draft.fallback = "late_request"
        else:
            try:
                draft.features = vectors(
                    self.state, draft.event, state_seq=draft.state_seq, candidates=draft.candidates
                )
            except Exception:  # noqa: BLE001  # the edge of an engine, as for models
                draft.fallback = "features_error"
        if draft.features is not None and not np.isfinite(draft.features).all():
            draft.features, draft.fallback = None, "features_not_finite"
        timed(draft, "features", since_ns=started)

    def _decision(self, draft: Underway) -> Decision:
        judge = self._judge_of(draft)
        serving = judge.serving
        id_ = new_decision_id(max(self._log.known_time, self._log.clock.now_us()), self._entropy(10))
        verdict, candidates = judge.choose(draft, id_, draw_secret=self._draw_secret)
        mode: Mode = "shadow" if serving.shadow else "fallback" if draft.fallback else "live"
        return Decision(
            id=id_,
            request=draft.event,
            state_seq=draft.state_seq,
            candidates=candidates,
            choice=verdict.choice,
            versions=serving.versions,
            mode=mode,
            fallback=draft.fallback,
            guardrails=verdict.guardrails,
            expected_minor=verdict.expected_minor,
            currency=self.ingest.rates.base,
            arm=draft.arm,
            taken=draft.taken,
            stages_us=draft.stages_us,
            theirs=_theirs(draft) if serving.shadow else None,
        )

    def _repeated(self, record: Record) -> Decision:
        decision = decode_decision(record.body) if record.kind == "decision" else None
        # What another system did came through the same door as plain events: it is no answer of ours.
        if decision is None or decision.mode == "imported":
            raise ConflictError(
                where=f"{self.system.name} decide, id",
                given="an id that was logged as a plain event before",
                expected="an id of its own for each request",
                fix="Ask for the decision before sending the event; the decision logs the request by itself.",
            )
        return decision


def described(service: Service) -> dict[str, str]:
    """Returns what a service decides with: versions, mode, and why the champion of now cannot be used, or ""."""
    versions = service.serving.versions
    mode = "shadow" if service.serving.shadow else "live"
    return {
        "model": versions.model,
        "policy": versions.policy,
        "features": versions.features,
        "mode": mode,
        "problem": service.problem,
        "rollout": "" if service.trial is None else service.trial.rollout.told,
    }


def _asked(draft: Underway) -> Event:
    """Returns what retrieval is asked; of a person who is not to be profiled the request says so, there alone."""
    if not draft.fallback:
        return draft.event
    return msgspec.structs.replace(draft.event, attributes={**draft.event.attributes, UNPROFILED: True})


def _finite(candidates: Candidates, names: tuple[str, ...]) -> Candidates:
    """Returns the candidates without measures that are no numbers: they are missing, as features take them to be."""
    measures = {name: candidates.attributes[name] for name in names if name in candidates.attributes}
    mended = {name: made for name, column in measures.items() if (made := column.finite()) is not column}
    if not mended:
        return candidates
    return msgspec.structs.replace(candidates, attributes=candidates.attributes | mended)


def named_features(log: Log, decision: Decision, *, now: FeatureSet) -> dict[str, float]:
    """Returns the logged feature values of a decision's lead by the names of its own set; empty where none were.

    Args:
        log: that holds the sets of before.
        decision: logged there.
        now: the set in force, whose names are at hand.
    """
    lead = decision.lead
    packed = b"" if lead is None else lead.features
    names, version = now.names, decision.versions.features
    if packed and version != now.version:
        declared = Tables(log).version(now.system, "features", version=version)
        names = tuple(feature["name"] for feature in declared["features"]) if declared else ()
    return dict(zip(names, unpack_features(packed).tolist(), strict=False))


def _theirs(draft: Underway) -> Choice | None:
    """Returns what another system chose where its action alone does not say it: things in slots, or a number."""
    if draft.quantity is not None:
        return made_elsewhere(draft.taken, (draft.event.id,), value=draft.quantity)
    return made_elsewhere(draft.taken, draft.slots) if draft.slots else None


def reply(record: Record, decision: Decision, *, noun: str, notice: str = "") -> dict[str, Any]:
    """Returns what a caller is told about a decision; the same for a retry, nothing personal in it.

    Args:
        record: of the decision.
        decision: logged.
        noun: what a request is called.
        notice: id of the notice that was in force, if any.
    """
    slots = {"slots": _slots(decision)} if decision.choice.verb else {}
    return {
        "decision_id": decision.id,
        noun: decision.request.id,
        "action": decision.choice.action,
        **slots,
        "predictions": decision.predictions,
        "reasons": list(decision.choice.reasons),
        "expected_minor": decision.expected_minor,
        "currency": decision.currency,
        "mode": decision.mode,
        "fallback": decision.fallback,
        "guardrails": [msgspec.structs.asdict(verdict) for verdict in decision.guardrails],
        "versions": dict(_versions(decision.versions)),
        "seq": record.seq,
        "known_time": rfc3339(record.known_time),
        **({"notice": notice} if notice else {}),
    }


def _slots(decision: Decision) -> list[dict[str, Any]]:
    """Returns what was chosen, in order, where slots hold things: what, from where, and what was predicted."""
    by_ref = named(decision.candidates, (slot.ref for slot in decision.choice.slots), attributes=frozenset())
    told = []
    for slot in decision.choice.slots:
        candidate = by_ref.get(slot.ref, Candidate(slot.ref))
        value = {} if slot.value is None else {"value": slot.value}
        said = {"ref": slot.ref, "position": slot.position, "propensity": slot.propensity, **value, **slot.attributes}
        told.append({**said, "source": candidate.source, "predictions": candidate.predictions})
    return told


@lru_cache(maxsize=64)
def _versions(versions: Versions) -> Mapping[str, str | int]:
    return msgspec.structs.asdict(versions)
