"""The join of slates: each thing that was shown, with the features it was shown on and what people did with it.

Where a decision's slots hold things, an example is a slot and not a decision: what was predicted of it has matured when
an outcome named it, or when none did for long enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.candidates import Candidate, named
from decalog.decisions import Decision, Slot, unpack_features
from decalog.events import Event, Record
from decalog.examples import NO_ENTITY, Bools, Floats, Int64s, changes_read, kept_of
from decalog.features.columnar import write_requests
from decalog.features.definition import FeatureSet
from decalog.features.facts import Change, Point
from decalog.features.offline import fold_admissible
from decalog.features.plan import Plan
from decalog.folding import body_of, point
from decalog.models.base import Acts, SlateSet
from decalog.outcomes import LabelBook, Outcome
from decalog.retrieval import Retrieval
from decalog.schema import Schema
from decalog.standing import Standing


class Impression(msgspec.Struct, frozen=True):
    """One thing that was shown: by which record, in which slot, as which candidate, and when it was decided, µs."""

    record: Record
    decision: Decision
    slot: Slot
    candidate: Candidate
    decided: int
    asked: Point


class ImpressionHistory:
    """What a system's slates showed up to a pinned position, with features, and what became of it.

    Args:
        records: in log order from the first to the pin.
        schema: of the system; its `signals` are what is learnt.
        features: that rows are made of. Logged values are used where a candidate has them in this version, else the
            log is folded: both are the same bits.
        retrieval: makes the system's retrieval, for models that bring what candidates are described by.

    Attributes:
        position: the pin, the number of records of the log that were read.
        known_time: of the last record, µs.
        shown: in order of time.
        rows: float64, their features, shown × features.
        erasures: as of `examples.History`.
        late: things shown that are left out, because features cannot be exact for them.
    """

    def __init__(
        self,
        records: Iterable[Record],
        schema: Schema,
        *,
        features: FeatureSet,
        retrieval: Callable[[], Retrieval] | None = None,
    ) -> None:
        self.schema, self.features = schema, features
        by_seq = {record.seq: record for record in records}
        self.position = max(by_seq, default=-1) + 1
        self.known_time = by_seq[self.position - 1].known_time if by_seq else 0
        own, standing = kept_of(by_seq.values(), schema.system)
        self.erasures = standing.position
        bodies = {record.seq: body for record in own if (body := _slim(body_of(record))) is not None}
        self._book = LabelBook(schema)
        self._book.add_all(own)
        free = (one for one in _shown(own, bodies) if not standing.is_restricted(one.decision.request.subject))
        shown = sorted(free, key=lambda one: (one.decided, one.record.seq))
        folded = {seq: body for seq, body in bodies.items() if isinstance(body, Event | Decision)}
        rows, late = _rows(
            shown, features, changes=lambda: changes_read(own, folded, by_seq=by_seq, reads=features.reads)
        )
        self.late = int(late.sum())
        self.shown: list[Impression] = [one for one, is_late in zip(shown, late.tolist(), strict=True) if not is_late]
        self.rows = rows[~late]
        told = [(record, bodies[record.seq]) for record in own if record.seq in bodies]
        self._told = None if retrieval is None else _Told(self, told, retrieval=retrieval)
        self._acts = acts_of(own, bodies, schema=schema, standing=standing)

    @cached_property
    def times(self) -> Int64s:
        """When each was decided, µs."""
        return np.array([one.decided for one in self.shown], np.int64)

    @property
    def maturity_us(self) -> int:
        """After how long the slowest of the signals has matured."""
        return max((signal.maturity_us for signal in self.schema.signals), default=0)

    @property
    def complete(self) -> Bools:
        """Of which shown all signals have matured at the pin."""
        return self.times <= self.known_time - self.maturity_us

    def labels(self, known_by: int) -> Floats:
        """Returns shape (shown, signals): 1, 0, or NaN where it is not known at a moment, µs of known_time."""
        labels = np.full((len(self.shown), len(self.schema.signals)), np.nan)
        said: dict[tuple[str, str], float] = {}
        asked = ""
        for place, one in enumerate(self.shown):
            if one.record.id != asked:
                asked = one.record.id
                said = last_said(self._book.outcomes(asked, known_by))
            labels[place] = signals_of(one.slot.ref, said, age_us=known_by - one.decided, schema=self.schema)
        return labels

    def ends(self, slates: Int64s) -> dict[str, tuple[Int64s, Floats]]:
        """Returns outcome kind → (slates, values) of what was said of whole slates by the pin: it names no thing."""
        kinds = {kind.name for kind in self.schema.outcomes}
        ends: dict[str, tuple[list[int], list[float]]] = {kind: ([], []) for kind in kinds}
        ids = {one.record.seq: one.record.id for one in self.shown}
        for slate in np.unique(slates).tolist():
            for _, outcome in self._book.outcomes(ids[slate], self.known_time):
                if not outcome.ref:
                    ends[outcome.kind][0].append(slate)
                    ends[outcome.kind][1].append(outcome.value)
        return {kind: (np.array(which, np.int64), np.array(values)) for kind, (which, values) in ends.items() if which}

    def part(self, mask: Bools, *, known_by: int) -> SlateSet:
        """Returns what was shown of a mask as models learn from it, with labels and acts as known at a moment."""
        places = np.flatnonzero(mask)
        shown = [self.shown[place] for place in places.tolist()]

        def whole(read: Callable[[Impression], int]) -> Int64s:
            return np.array([read(one) for one in shown], np.int64)

        return SlateSet(
            names=self.features.names_for("model"),
            heads=tuple(signal.head for signal in self.schema.signals),
            rows=self.rows[np.ix_(places, np.array(self.features.places_for("model"), np.intp))],
            labels=self.labels(known_by)[places],
            slates=whole(lambda one: one.record.seq),
            seqs=whole(lambda one: one.asked.state_seq),
            times=whole(lambda one: one.decided),
            positions=whole(lambda one: one.slot.position),
            propensities=np.array([one.slot.propensity or 1.0 for one in shown], np.float64),
            users=whole(lambda one: subject_of(one.decision.request, self.schema)),
            refs=tuple(one.slot.ref for one in shown),
            facts=tuple({**one.decision.request.attributes, **one.candidate.attributes} for one in shown),
            acts=self._acts.until(known_by),
            known_by=known_by,
            places=places,
            told=self._told,
        )


class _Told:
    """See `models.base.Told`."""

    def __init__(
        self, history: ImpressionHistory, told: Sequence[tuple[Record, Any]], *, retrieval: Callable[[], Retrieval]
    ) -> None:
        self._history, self._told, self._make = history, told, retrieval

    def followed(self, known_by: int) -> Retrieval:
        retrieval = self._make()
        for record, body in self._told:
            if record.known_time <= known_by:
                retrieval.follow(record, body)
        return retrieval

    def revisited(self, model: Any, places: npt.NDArray[np.intp]) -> Iterator[tuple[Retrieval, Event, list[int]]]:
        wanted: dict[int, list[int]] = {}
        for row, place in enumerate(places.tolist()):
            wanted.setdefault(self._history.shown[place].record.seq, []).append(row)
        retrieval = self._make()
        retrieval.adopt(model)
        for record, body in self._told:
            if record.seq in wanted:
                yield retrieval, body.request, wanted[record.seq]
            retrieval.follow(record, body)

    def redescribed(self, model: Any, places: npt.NDArray[np.intp]) -> Floats:
        points: list[Point | None] = [None] * len(places)
        for retrieval, request, rows in self.revisited(model, places):
            shown = [self._history.shown[places[row]] for row in rows]
            described = retrieval.describe(request, [one.slot.ref for one in shown])
            for row, one, candidate in zip(rows, shown, described, strict=True):
                facts = {**one.candidate.attributes, **candidate.attributes}
                of = msgspec.structs.replace(one.candidate, attributes=facts)
                points[row] = point(request, one.decision.state_seq, of=of)
        return self._rewritten(places, [one for one in points if one is not None])

    def _rewritten(self, places: npt.NDArray[np.intp], points: Sequence[Point]) -> Floats:
        """Returns rows whose features of the request and its candidate are read anew; windows and lookups stay."""
        features = self._history.features
        plan, rows = Plan(features), self._history.rows[places]
        kept = [place for place, _ in plan.lookups]
        lookups = rows[:, kept]
        write_requests(plan, points, out=rows)
        rows[:, kept] = lookups
        return np.asarray(rows[:, np.array(features.places_for("model"), np.intp)])


def _slim(body: Event | Decision | Outcome | None) -> Event | Decision | Outcome | None:
    """Returns a decision with the candidates that were shown: hundreds of others each would fill the memory."""
    happened = body.happened if isinstance(body, Decision) else None
    if happened is None or not isinstance(body, Decision):
        return body
    shown = {slot.ref for slot in happened.slots}
    return msgspec.structs.replace(body, candidates=tuple(named(body.candidates, shown).values()))


def subject_of(request: Event, schema: Schema) -> int:
    """Returns the token of whom a request is for; NO_ENTITY where nobody is named."""
    tokens = (request.entities[name] for name in schema.request.subject if name in request.entities)
    return next(tokens, NO_ENTITY)


class _Act(NamedTuple):
    seq: int
    known: int
    user: int
    ref: str
    kind: str
    value: float
    time: int


def acts_of(records: Sequence[Record], bodies: Mapping[int, object], *, schema: Schema, standing: Standing) -> Acts:
    """Returns what people did with things, on slates and elsewhere, in the order of the log.

    Acts that were corrected or withdrawn later are left as they were first told: a model that learns from what people
    did has to see what was known.
    """
    subjects: dict[str, int] = {}
    found: list[_Act] = []
    for record in records:
        body = bodies.get(record.seq)
        if isinstance(body, Decision):
            subjects[record.id] = subject_of(body.request, schema)
        elif isinstance(body, Outcome):
            found += _of_outcome(record, body, user=subjects.get(body.target, NO_ENTITY))
        elif isinstance(body, Event):
            found += _of_event(record, body, schema)
    signalled = {signal.kind for signal in schema.signals}
    found = [act for act in found if act.kind in signalled and not standing.is_restricted(act.user)]
    seqs, known, users, refs, kinds, values, times = zip(*found, strict=True) if found else ((),) * len(_Act._fields)
    whole = partial(np.array, dtype=np.int64)
    return Acts(
        whole(seqs), whole(known), whole(users), tuple(refs), tuple(kinds), np.array(values, np.float64), whole(times)
    )


def _of_outcome(record: Record, outcome: Outcome, *, user: int) -> Iterator[_Act]:
    if outcome.ref and not outcome.deleted:
        yield _Act(record.seq, record.known_time, user, outcome.ref, outcome.kind, outcome.value, outcome.event_time)


def _of_event(record: Record, event: Event, schema: Schema) -> Iterator[_Act]:
    ref = event.attributes.get(schema.slate_of)
    if isinstance(ref, str) and not event.deleted:
        user, value = subject_of(event, schema), float(event.attributes.get("value", 1.0))
        yield _Act(record.seq, record.known_time, user, ref, event.kind, value, event.event_time)


def _rows(
    shown: Sequence[Impression], features: FeatureSet, *, changes: Callable[[], list[Change]]
) -> tuple[Floats, Bools]:
    """Returns the features of what was shown, and for which they cannot be exact any more."""
    rows, late = np.zeros((len(shown), len(features.names))), np.zeros(len(shown), np.bool_)
    fold = []
    for place, one in enumerate(shown):
        if _is_logged(one, features):
            rows[place] = unpack_features(one.candidate.features)
        else:
            fold.append(place)
    if fold:
        late[fold], exact = fold_admissible(features, changes(), points=[shown[place].asked for place in fold])
        rows[np.array(fold)[~late[fold]]] = exact
    return rows, late


def _shown(records: Sequence[Record], bodies: Mapping[int, object]) -> Iterator[Impression]:
    for record in records:
        decision = bodies.get(record.seq)
        if not isinstance(decision, Decision) or decision.happened is None or not decision.happened.verb:
            continue
        by_ref = named(decision.candidates, (slot.ref for slot in decision.happened.slots))
        # A live decision cannot be older than its record, whatever the sender's clock said.
        decided = decision.request.event_time if decision.mode == "imported" else record.known_time
        for slot in decision.happened.slots:
            candidate = by_ref.get(slot.ref)
            if candidate is not None:
                asked = point(decision.request, decision.state_seq, root=record.seq, of=candidate)
                yield Impression(record, decision, slot, candidate, decided, asked)


def _is_logged(one: Impression, features: FeatureSet) -> bool:
    is_this_set = one.decision.versions.features == features.version
    return is_this_set and len(one.candidate.features) == 8 * len(features.names)


def signals_of(ref: str, said: Mapping[tuple[str, str], float], *, age_us: int, schema: Schema) -> list[float]:
    """Returns a thing's labels, one a signal: 1, 0, or NaN where it is not known yet.

    Args:
        ref: the thing.
        said: see `last_said`.
        age_us: since it was shown.
        schema: with the signals.
    """
    labels = []
    for signal in schema.signals:
        value = said.get((ref, signal.kind))
        silent = 0.0 if age_us >= signal.maturity_us else np.nan
        labels.append(silent if value is None else float(value >= signal.least))
    return labels


def last_said(outcomes: Iterable[tuple[int, Outcome]]) -> dict[tuple[str, str], float]:
    """Returns (ref, kind) → the value of the outcome that happened last."""
    told: dict[tuple[str, str], tuple[int, str, float]] = {}
    for _, outcome in outcomes:
        key, said = (outcome.ref, outcome.kind), (outcome.event_time, outcome.id, outcome.value)
        if outcome.ref and (key not in told or said > told[key]):
            told[key] = said
    return {key: value for key, (_, _, value) in told.items()}
