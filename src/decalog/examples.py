"""The join: requests of a log with the features they were decided on and the labels that matured since.

An example is a decision, or a plain event of the request's kind (imported history). Everything is read at a pinned
position, so the same position gives the same examples, in whatever order outcomes came; and labels can be asked as
known at any earlier time, so that a model of that time can be judged honestly.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import compress
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.decisions import Decision, decode_decision, unpack_features
from decalog.events import Event, Record, decode_event
from decalog.features.definition import FeatureSet, Reads
from decalog.features.facts import Change, Point
from decalog.features.offline import fold_admissible
from decalog.folding import changes_of, point
from decalog.outcomes import NEVER, LabelBook, LabelState
from decalog.schema import Schema
from decalog.standing import ERASURES, WISHES, Standing

Floats = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

AMOUNT = "amount_base_minor"
"""The money at stake in a request: the attribute that conversion to the base currency adds."""
UNKNOWN = math.nan
"""Label of a request whose outcome is not known, or not known yet."""
UNTOLD = "untold"
"""Stands for the action of another system that nobody told of."""
NO_ENTITY = -1
"""Stands where a request lacks an entity; tokens are never negative."""


class Examples(msgspec.Struct, frozen=True, kw_only=True):
    """Requests in order of time with labels as known at a moment; every array has one entry a request.

    Args:
        known_by: the moment, µs.
        features: names of the columns of `rows`.
        ids: of the requests.
        seqs: int64, of their records.
        times: int64, when each was decided, µs: known_time of a decision, event_time of imported history.
        labels: float64, 1, 0, a quantity, or UNKNOWN.
        bounds: bool, of which a quantity is a lower bound.
        settled: int64, since when each request has had a label, or will have one by silence, µs; NEVER where only a
            word could give it. A label may change after that: silence first, a late chargeback then.
        why: the outcome kind that decided, `silence`, `immature` or `unobserved`.
        acted: the action that happened; UNTOLD where it was another system's and nobody told; "" for plain events.
        propensities: float64, (0, 1], how likely that action was where it was drawn here; 1 elsewhere.
        predicted: float64, what the first head predicted when it was decided; NaN where nothing was.
        amounts: int64, minor units of the base currency; 0 where the request has none.
        rows: float64, requests × features; never NaN.
        requests: their present images, after corrections.
        entities: entity name → int64 tokens, NO_ENTITY where absent.
    """

    known_by: int
    features: tuple[str, ...]
    ids: tuple[str, ...]
    seqs: Int64s
    times: Int64s
    labels: Floats
    bounds: Bools
    settled: Int64s
    why: tuple[str, ...]
    acted: tuple[str, ...]
    propensities: Floats
    predicted: Floats
    amounts: Int64s
    rows: Floats
    requests: tuple[Event, ...]
    entities: Mapping[str, Int64s]

    @property
    def n(self) -> int:
        """The number of requests."""
        return len(self.ids)

    @property
    def labelled(self) -> Bools:
        """Which requests have a label."""
        known: Bools = np.isfinite(self.labels)
        return known

    @property
    def weights(self) -> Floats:
        """How many requests each stands for: a block let through for its outcome, also for those that were not.

        (Horvitz and Thompson, JASA 47, 1952.) Only as many as were drawn for: those whose outcome is hidden with
        certainty are stood for by none.
        """
        return 1.0 / self.propensities

    def take(self, mask: Bools) -> Examples:
        """Returns the requests of a mask."""
        chosen = np.flatnonzero(mask)
        places = chosen.tolist()
        return msgspec.structs.replace(
            self,
            ids=tuple(self.ids[place] for place in places),
            seqs=self.seqs[chosen],
            times=self.times[chosen],
            labels=self.labels[chosen],
            bounds=self.bounds[chosen],
            settled=self.settled[chosen],
            why=tuple(self.why[place] for place in places),
            acted=tuple(self.acted[place] for place in places),
            propensities=self.propensities[chosen],
            predicted=self.predicted[chosen],
            amounts=self.amounts[chosen],
            rows=self.rows[chosen],
            requests=tuple(self.requests[place] for place in places),
            entities={name: tokens[chosen] for name, tokens in self.entities.items()},
        )


class _Request(msgspec.Struct):
    """One request: `event` is its present image, `asked` the one that was decided on.

    `ids` are all its ids, the first one first: outcomes may name a corrected request by the id of the correction.
    `logged` is dropped once it is a row; `is_late` is one that came later than features can be exact for.
    """

    ids: tuple[str, ...]
    seq: int
    known: int
    decided: int
    acted: str
    propensity: float
    predicted: float
    event: Event
    asked: Point
    logged: Floats | None
    is_late: bool = False

    @property
    def order(self) -> tuple[int, int]:
        """By what requests are sorted."""
        return self.decided, self.seq


class History:
    """The requests of one system up to a pinned position, with features, and the outcomes that say what became of them.

    Args:
        records: in log order from the first to the pin.
        schema: of the system.
        features: that rows are made of. Logged values are used where a decision has them in this version, else the
            log is folded: both are the same bits.

    Attributes:
        position: the pin, the number of records of the log that were read.
        known_time: of the last record, µs.
        erasures: behind the last erasure that was read: what was erased by then is in nothing of this.
    """

    def __init__(self, records: Iterable[Record], schema: Schema, *, features: FeatureSet) -> None:
        self.schema, self.features = schema, features
        self._book, self._maturity_us = LabelBook(schema), schema.label.maturity_us
        by_seq = {record.seq: record for record in records}
        own, self._standing = kept_of(by_seq.values(), schema.system)
        self.erasures = self._standing.position
        self.position = self.known_time = 0
        self._read_to(next(reversed(by_seq.values()), None))
        self._book.add_all(own)
        bodies = _bodies(own)
        self._every = sorted(self._asked(_chains(own, bodies), bodies), key=lambda request: request.order)
        self._every_row = _with_features(
            self._every, features, changes=lambda: changes_read(own, bodies, by_seq=by_seq, reads=features.reads)
        )
        self._by_root = {request.seq: request for request in self._every}

    def follow(self, records: Iterable[Record]) -> bool:
        """Takes the records that came since, and returns whether it could: then it is as one that read all of them.

        It cannot where they change what was read before, and is of no use any more: a person's data were erased, or
        their wishes changed; or what has to be folded came, for which the whole log is needed.

        Args:
            records: in log order from the pin on.
        """
        read = list(records)
        own, _ = kept_of(read, self.schema.system, standing=self._standing)
        bodies = _bodies(own)
        chains = _chains(own, bodies)
        corrected = {root: chain for root, chain in chains.items() if chain[0].seq != root}
        asked = self._asked({root: chain for root, chain in chains.items() if root not in corrected}, bodies)
        new = sorted(asked, key=lambda request: request.order)
        is_known = not _changes_people(read, self.schema.system) and all(one.logged is not None for one in new)
        if not is_known or not all(self._correct(*one, bodies) for one in corrected.items()):
            return False
        self._book.add_all(own)
        self._insert(new)
        self._read_to(read[-1] if read else None)
        return True

    def _read_to(self, last: Record | None) -> None:
        if last is not None:
            self.position, self.known_time = last.seq + 1, last.known_time
            self._forget()

    def _forget(self) -> None:
        """Drops what was made of what was read before."""
        for made in ("now", "_requests", "_known", "_there"):
            self.__dict__.pop(made, None)

    def _asked(
        self, chains: Mapping[int, Sequence[Record]], bodies: Mapping[int, Event | Decision]
    ) -> Iterator[_Request]:
        """Yields the requests among chains, but those of people from whom nothing may be learnt."""
        for request in _requests(chains, bodies, features=self.features):
            is_request = request.event.kind == self.schema.request.name
            if is_request and not self._standing.is_restricted(request.event.subject):
                yield request

    def _correct(self, root: int, chain: Sequence[Record], bodies: Mapping[int, Event | Decision]) -> bool:
        """Gives a request its later images; returns whether that is all that they change."""
        request, last = self._by_root.get(root), _event_of(bodies[chain[-1].seq])
        if request is None:  # of another kind, or not to be learnt from; one that was deleted may be back
            return last.kind != self.schema.request.name or self._standing.is_restricted(last.subject)
        if not request.acted:
            return False  # a plain event is folded as it is now
        request.ids, request.event = (*request.ids, *(record.id for record in chain)), last
        return True

    def _insert(self, new: list[_Request]) -> None:
        """Puts requests to their places in order."""
        rows = _with_features(new, self.features, changes=list)
        is_behind = not (self._every and new) or self._every[-1].order < new[0].order
        every, every_row = [*self._every, *new], np.concatenate([self._every_row, rows])
        if not is_behind:
            places = sorted(range(len(every)), key=lambda place: every[place].order)
            every, every_row = [every[place] for place in places], every_row[places]
        self._every, self._every_row = every, every_row
        self._by_root |= {request.seq: request for request in new}

    @property
    def late(self) -> int:
        """How many requests are left out because they came later than features can be exact for."""
        return sum(request.is_late for request in self._every if not request.event.deleted)

    @cached_property
    def _there(self) -> Bools:
        """Which requests are there: not deleted, and not late."""
        return np.array([not (one.event.deleted or one.is_late) for one in self._every], np.bool_)

    @property
    def _rows(self) -> Floats:
        return self._every_row if self._there.all() else self._every_row[self._there]

    @cached_property
    def _requests(self) -> Sequence[_Request]:
        return list(compress(self._every, self._there.tolist()))

    @cached_property
    def _known(self) -> Int64s:
        return _int64s([request.known for request in self._requests])

    @cached_property
    def now(self) -> Examples:
        """All requests, with their labels as known at the pin."""
        requests = self._requests
        told = self._labels(requests, self.known_time)

        def column(read: Callable[[_Request], float]) -> Floats:
            return np.array([read(request) for request in requests], np.float64)

        return Examples(
            known_by=self.known_time,
            features=self.features.names,
            ids=tuple(request.ids[0] for request in requests),
            seqs=_int64s([request.seq for request in requests]),
            times=_int64s([request.decided for request in requests]),
            **told,
            acted=tuple(request.acted for request in requests),
            propensities=column(lambda request: request.propensity),
            predicted=column(lambda request: request.predicted),
            amounts=_int64s([_amount(request.event) for request in requests]),
            rows=self._rows,
            requests=tuple(request.event for request in requests),
            entities={
                entity.name: _int64s([request.event.entities.get(entity.name, NO_ENTITY) for request in requests])
                for entity in self.schema.request.entities
            },
        )

    def reported(self) -> Iterator[tuple[str, int, int]]:
        """Yields (kind, known_time, µs after the decision) of what was said of the requests; see `LabelBook`."""
        return self._book.reported({id_: request.decided for request in self._requests for id_ in request.ids})

    def delays(self, known_by: int) -> Floats:
        """Returns µs from the decision to the first word of each positive that silence would have ended; sorted.

        Only of requests that were old enough at a moment, µs, for all such words to have come.
        """
        awaited = self.schema.label.awaited_after
        old = known_by - self._maturity_us
        positives = (self._requests[place] for place in np.flatnonzero(self.now.labels == 1).tolist())
        found = (
            self._book.first_told(request.ids) - request.decided
            for request in positives
            if request.acted in awaited and request.decided <= old
        )
        return np.sort(np.array(list(found), np.float64))

    def as_of(self, known_by: int) -> Examples:
        """Returns the requests in the log by a moment, µs, with their labels as known then.

        Corrections and deletions of requests count as of the pin; outcomes, theirs included, as of the moment.
        """
        there = self._known <= known_by
        requests = list(compress(self._requests, there.tolist()))
        told = self._labels(requests, known_by)
        return msgspec.structs.replace(self.now.take(there), known_by=known_by, **told)

    def _labels(self, requests: Sequence[_Request], known_by: int) -> dict[str, Any]:
        """Returns what examples hold of labels as known at a moment.

        Of most requests nobody says anything: those at once, the others one by one.
        """
        decided, acted = _int64s([request.decided for request in requests]), [request.acted for request in requests]
        labels, settled, why = self._book.unsaid(decided, acted, known_by=known_by)
        bounds = np.zeros(len(requests), np.bool_)
        for place, request in enumerate(requests):
            if self._book.says(request.ids):
                state = self._label(request, known_by)
                labels[place] = UNKNOWN if state.value is None else state.value
                bounds[place], why[place] = state.is_bound, state.why
                settled[place] = self._settled(request, state)
        return {"labels": labels, "bounds": bounds, "settled": settled, "why": tuple(why)}

    def _settled(self, request: _Request, state: LabelState) -> int:
        by_silence = NEVER
        if state.why in ("silence", "immature") or self._book.is_heard(request.acted):
            by_silence = request.decided + self._maturity_us
        return by_silence if state.value is None else min(state.known_time, by_silence)

    def _label(self, request: _Request, known_by: int) -> LabelState:
        first, *corrections = request.ids
        decided, acted = request.decided, request.acted
        return self._book.label(first, decided=decided, acted=acted, known_by=known_by, also=corrections)


def kept_of(
    records: Iterable[Record], system: str, *, standing: Standing | None = None
) -> tuple[list[Record], Standing]:
    """Returns one system's admitted records without those of erased people, and what the log says of people.

    Args:
        records: in log order.
        system: whose.
        standing: what was said of people before them; None where nothing was before.
    """
    own = [record for record in records if record.system == system and not record.reason]
    standing = standing or Standing((), system)
    for record in own:
        standing.read(record)
    return [record for record in own if not standing.hides(record)], standing


def _changes_people(records: Iterable[Record], system: str) -> bool:
    """Returns whether records change whose data may be read."""
    return any(one.kind == "table" and one.system == system and one.id in (ERASURES, WISHES) for one in records)


def _body(record: Record) -> Event | Decision:
    return decode_decision(record.body) if record.kind == "decision" else decode_event(record.body)


def _bodies(records: Sequence[Record]) -> dict[int, Event | Decision]:
    """Returns seq → body of the events and decisions among records."""
    return {record.seq: _body(record) for record in records if record.kind in ("event", "decision")}


def _event_of(body: Event | Decision) -> Event:
    return body.request if isinstance(body, Decision) else body


def _chains(records: Sequence[Record], bodies: Mapping[int, Event | Decision]) -> dict[int, list[Record]]:
    """Returns root → its records, of events and decisions."""
    chains: dict[int, list[Record]] = {}
    for record in records:
        if record.seq in bodies:
            chains.setdefault(record.root, []).append(record)
    return chains


def _requests(
    chains: Mapping[int, Sequence[Record]], bodies: Mapping[int, Event | Decision], *, features: FeatureSet
) -> Iterator[_Request]:
    """Yields each chain of corrections as one request, unless it was deleted in the end."""
    for chain in chains.values():
        first, event = bodies[chain[0].seq], _event_of(bodies[chain[-1].seq])
        if event.deleted:
            continue
        yield (
            _from_decision(chain, first, event=event, features=features)
            if isinstance(first, Decision)
            else _from_event(chain, event)
        )


def _from_decision(chain: Sequence[Record], decision: Decision, *, event: Event, features: FeatureSet) -> _Request:
    first = chain[0]
    # A live decision cannot be older than its record; a sender's wrong clock must not make its label mature early.
    decided = decision.request.event_time if decision.mode == "imported" else first.known_time
    return _Request(
        ids=tuple(record.id for record in chain),
        seq=first.seq,
        known=first.known_time,
        decided=decided,
        # Beside a system that may have blocked the payment, silence says nothing.
        acted=decision.acted or UNTOLD,
        propensity=decision.propensity,
        predicted=_predicted(decision),
        event=event,
        # Serving meets requests before they are corrected, so training must as well.
        asked=point(decision.request, decision.state_seq, root=first.seq),
        logged=_logged(decision, features),
    )


def _from_event(chain: Sequence[Record], event: Event) -> _Request:
    first = chain[0]
    return _Request(
        ids=tuple(record.id for record in chain),
        seq=first.seq,
        known=first.known_time,
        decided=event.event_time,
        acted="",
        propensity=1.0,
        predicted=math.nan,
        event=event,
        asked=point(event, first.seq, root=first.seq),
        logged=None,
    )


def _predicted(decision: Decision) -> float:
    said = decision.candidates[0].predictions if len(decision.candidates) == 1 else {}
    return next(iter(said.values()), math.nan)


def _logged(decision: Decision, features: FeatureSet) -> Floats | None:
    if decision.versions.features != features.version or len(decision.candidates) != 1:
        return None
    values = unpack_features(decision.candidates[0].features)
    return values if len(values) == len(features.names) else None


def _with_features(
    requests: Sequence[_Request], features: FeatureSet, *, changes: Callable[[], list[Change]]
) -> Floats:
    """Returns the rows of requests, and notes which are too late for one; theirs are 0."""
    rows = np.zeros((len(requests), len(features.names)))
    folded = []
    for place, request in enumerate(requests):
        if request.logged is None:
            folded.append(place)
        else:
            rows[place], request.logged = request.logged, None
    if folded:
        late, exact = fold_admissible(features, changes(), points=[requests[place].asked for place in folded])
        rows[np.array(folded)[~late]] = exact
        for place, is_late in zip(folded, late.tolist(), strict=True):
            requests[place].is_late = is_late
    return rows


class _Seen:
    """The records of one system that were read so far, for what folding asks about them."""

    def __init__(self, by_seq: Mapping[int, Record]) -> None:
        self._by_seq = by_seq
        self._versions: dict[int, list[int]] = {}
        self._roots: dict[str, int] = {}

    def before(self, root: int, seq: int) -> Record:
        """See `folding.Past`."""
        versions = self._versions.get(root, [])
        place = bisect.bisect_left(versions, seq)
        return self._by_seq[versions[place - 1] if place else root]

    def request(self, system: str, id_: str, *, seq: int) -> Record | None:  # noqa: ARG002 - of the port
        """See `folding.Past`; all records are of one system."""
        root = self._roots.get(id_)
        return None if root is None or root >= seq else self.before(root, seq)

    def add(self, record: Record) -> None:
        """Takes the record that comes next."""
        if record.kind in ("event", "decision"):
            self._roots.setdefault(record.id, record.root)
        if record.root != record.seq:
            self._versions.setdefault(record.root, []).append(record.seq)


def changes_read(
    records: Sequence[Record],
    bodies: Mapping[int, Event | Decision],
    *,
    by_seq: Mapping[int, Record],
    reads: Reads,
) -> list[Change]:
    """Returns the changes of one system's records, which are all that folding can ask about."""
    seen, changes = _Seen(by_seq), list[Change]()
    for record in records:
        changes += changes_of(record, bodies.get(record.seq), past=seen, reads=reads)
        seen.add(record)
    return changes


def _amount(event: Event) -> int:
    amount = event.attributes.get(AMOUNT, 0)
    return amount if isinstance(amount, int) else 0


def _int64s(values: Sequence[int]) -> Int64s:
    return np.array(values, np.int64)
