"""Logged requests as another model would meet them: the case that its policy would have looked at."""

from __future__ import annotations

from typing import Any

import msgspec

from decalog.candidates import gathered
from decalog.decisions import Decision, Versions
from decalog.events import Record
from decalog.features.definition import joined
from decalog.folding import body_of
from decalog.judging import Judge, Serving, Underway
from decalog.models.base import Model
from decalog.policy import Case
from decalog.replay import Fold, drafted, reads_of
from decalog.standing import Standing
from decalog.system import load
from decalog.whatif import Asked


class Recasting:
    """Walks along the log beside its decisions, which come in the order of what they had seen (`state_seq`).

    Args:
        asked: of whose `then` the cases are made.
    """

    def __init__(self, asked: Asked) -> None:
        self._log, self._system = asked.deployment.log, asked.then.system
        self._is_new = asked.then.version != asked.now.version
        versions = Versions(asked.then.version[:12], "", self._system.features.version, 0)
        serving = Serving(model=asked.then.model, head=asked.then.head, policy=asked.then.policy, versions=versions)
        self._judge = Judge(self._system, serving)
        reads = joined([reads_of(self._log, self._system.name), self._system.features.reads])
        self._fold, self._records = (
            Fold(self._log, reads=reads, standing=Standing.of(self._log, self._system.name)),
            self._log.read(),
        )
        made = load(self._system.retrieval) if self._is_new and self._system.retrieval else None
        self._retold = None if made is None else _Retold(made(), asked.then.model, self._log, self._system.name)

    def case(self, record: Record, decision: Decision) -> Case | None:
        """Returns what the policy would have looked at, without a draw; None where its model has no usable answer."""
        if not self._is_new:
            draft, _ = drafted(record, decision, state=self._views(decision))
            return msgspec.structs.replace(self._judge.case(draft, no_draw), candidates=decision.candidates)
        draft = self._draft(record, decision)
        self._judge.predict(draft)
        return None if draft.predictions is None else self._judge.case(draft, no_draw)

    def _draft(self, record: Record, decision: Decision) -> Underway:
        is_this_set = decision.versions.features == self._system.features.version
        if self._retold is None and is_this_set and len(decision.candidates) == 1 and decision.candidates[0].features:
            return drafted(record, decision, state=None)[0]
        told = decision if self._retold is None else self._retold.described(decision)
        draft, refolded = drafted(record, told, state=self._views(decision))
        # What was logged is as the old model's retrieval described it, so nothing of it is used.
        draft.features = refolded
        return draft

    def _views(self, decision: Decision) -> Any:
        self._fold.read(self._records, decision.state_seq, system=self._system.name)
        return self._fold.at(decision.state_seq, self._system)


class _Retold:
    """A retrieval that follows the log with another model and describes logged candidates anew."""

    def __init__(self, retrieval: Any, model: Model, log: Any, system: str) -> None:
        self._retrieval, self._records, self._system = retrieval, log.read(), system
        self._next: Record | None = next(self._records, None)
        retrieval.adopt(model)

    def described(self, decision: Decision) -> Decision:
        """Returns a decision with candidates as the retrieval describes them at its position, which never runs back."""
        while self._next is not None and self._next.seq < decision.state_seq:
            body = body_of(self._next) if self._next.system == self._system and not self._next.reason else None
            if body is not None:
                self._retrieval.follow(self._next, body)
            self._next = next(self._records, None)
        logged = list(decision.candidates)
        anew = self._retrieval.describe(decision.request, [one.ref for one in logged])
        both = zip(logged, anew, strict=True)
        told = [msgspec.structs.replace(one, attributes={**one.attributes, **new.attributes}) for one, new in both]
        return msgspec.structs.replace(decision, candidates=gathered(told))


def no_draw(_name: str) -> float:
    """Returns a draw that never explores."""
    return 1.0
