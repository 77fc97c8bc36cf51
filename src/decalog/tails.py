"""The end of the log as a watch reads it: decisions, rows and reports of a time as columns, and labels that matured."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np

from decalog.candidates import Candidate, Candidates, gathered, named
from decalog.clock import DAY, rfc3339
from decalog.decisions import Decision, decode_decision, unpack_features
from decalog.errors import ModelError, UnknownRecordError
from decalog.events import Record, decode_event
from decalog.features.definition import Derived, FeatureSet
from decalog.impressions import last_said
from decalog.ingest import Rejected
from decalog.metrics import Floats, Int64s
from decalog.models.base import Model
from decalog.outcomes import LabelBook, decode_outcome
from decalog.references import MOST_ROWS, Reference, Seen, flows_of, public_values, reference_kept, reference_of
from decalog.registry import Registry
from decalog.schema import Schema
from decalog.system import System

_THINGS_A_DAY = 50_000
"""Decisions of a day whose things are kept, about; drawn by a hash of their place."""
_MOST_LABELS = 20_000
_OWN_DAYS = 7
_CHUNK = 1_000
_STAGES = ("parse", "retrieve", "features", "model")
"""What a decision waits for; other stages are parts of these."""


class LogTail(Protocol):
    """What a watch needs of a log."""

    @property
    def durable(self) -> int:
        """The position up to which it may be read."""

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        """Yields the durable records with start ≤ seq < stop, in order."""

    def get(self, seq: int) -> Record:
        """Returns one record."""

    def find(self, index: str, key: str) -> list[int]:
        """Returns the seqs under a key of an index, ascending."""


class Champion(msgspec.Struct, frozen=True, kw_only=True):
    """What changes are measured from.

    Args:
        version: the first 12 digits of the model's id, as decisions name it; "" where there is none.
        features: its feature set.
        heads: what it predicts.
        model: for what moves its predictions; None where it cannot be loaded.
        reference: None where it was registered without one.
        position: of the log that it was trained at: it decided nothing before.
        begin: windows that began earlier are not compared with the reference, µs.
        filling: features that are not compared: their windows were not full yet when the reference began.
    """

    version: str
    features: FeatureSet
    heads: tuple[str, ...] = ()
    model: Model | None = None
    reference: Reference | None = None
    position: int = 0
    begin: int = 0
    filling: frozenset[str] = frozenset()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the features of use `model`."""
        return self.features.names_for("model")

    @property
    def text(self) -> str:
        """What changes are measured from, in words."""
        if self.reference is None:
            whose = f"champion {self.version} keeps no reference: train again" if self.version else "no champion"
            return f"no changes looked for ({whose})"
        found = self.reference
        span = f"{rfc3339(found.since)[:10]} to {rfc3339(found.until)[:10]}"
        return f"compared with {found.rows:,} of {span} that model {self.version} was judged on"


def champion_of(system: System, registry: Registry, *, load: Callable[[str], tuple[Model, str]]) -> Champion:
    """Returns what a watch measures changes from: the champion of now, and what it was registered with.

    Args:
        system: whose, as it is served.
        registry: of its models.
        load: id → the model and its heads, as it is served.
    """
    current, features = registry.current(system.name), system.features
    if current is None:
        return Champion(version="", features=features)
    try:
        artefact = registry.get(current)
        model, head = load(current)
    except (ModelError, UnknownRecordError):
        return Champion(version=current[:12], features=features)  # the server says what is wrong with it
    return Champion(
        version=current[:12],
        features=features,
        heads=tuple(head.split("+")),
        model=model,
        reference=reference_kept(artefact),
        position=artefact.manifest.pin.position[0],
    )


class Row(NamedTuple):
    """An event or an outcome that came, and whether it was refused."""

    known: int
    kind: str
    is_refused: bool


class Report(NamedTuple):
    """An outcome as it was first told; `says` that the label is 1; the delay is NaN where the request is unknown."""

    known: int
    kind: str
    target: str
    says: bool
    delay_s: float
    is_of_decision: bool


class Decided(NamedTuple):
    """A decision as the watch counts it.

    `whose` is the token of the person, below 0 for nobody; `took_us` parsed request to prediction; `worth` its expected
    value, minor units; `facts` public values of the request; `lead` predictions of the candidate that stands for it;
    `spread` how much each head differs among what competes for a slate: standard deviation over mean; `reached` the
    features that reached what was asked for, with the token of the entity that each is of.
    """

    known: int
    whose: int
    action: str
    fallback: str
    took_us: int
    worth: int
    stages: Mapping[str, int]
    facts: Mapping[str, Any]
    lead: Mapping[str, float]
    spread: Mapping[str, float]
    reached: Mapping[str, int] = {}


class Tail(msgspec.Struct, frozen=True, kw_only=True):
    """What the log says of a time, in order.

    Args:
        since: known_time of the first record read, µs.
        decided: the decisions that were made here.
        times: int64, known_time of each, µs.
        seen: the things chosen, with features: of some of the decisions where there are many, and of those alone that
            were made on the champion's feature set.
        rows: events and outcomes.
        reports: outcomes but those of 0.
        heard: kind of feature rows → known_times.
    """

    since: int
    decided: list[Decided]
    times: Int64s
    seen: Seen
    rows: list[Row]
    reports: list[Report]
    heard: dict[str, Int64s]


class Matured(NamedTuple):
    """Decisions whose label has matured: label, prediction, and token of the person, one entry each."""

    labels: Floats
    predictions: Floats
    whose: Int64s


def read_tail(
    log: LogTail, system: System, *, champion: Champion, start: int, stop: int, least: Mapping[str, float] = {}
) -> Tail:
    """Returns what the log says of the records known in (start, stop].

    Args:
        log: to read.
        system: whose records count.
        champion: whose features and predictions are kept.
        start: of the time, µs; not in it.
        stop: its end, µs; in it.
        least: feature over an entity's rows → value from which on a decision `reached` it.
    """
    first, last = position_at(log, start), position_at(log, stop)
    days = max((stop - start) / DAY, 1.0)
    odds = min(1.0, _THINGS_A_DAY * days / max(last - first, 1))
    reader = _Reader(log, system, champion, odds=odds, least=least)
    for record in log.read(first, last):
        if record.system == system.name:
            reader.take(record)
    return reader.tail(start)


def newest(log: LogTail, system: str) -> Iterator[tuple[Record, Decision]]:
    """Yields the decisions of a system, the last one first."""
    for stop in range(log.durable, 0, -_CHUNK):
        for record in reversed(list(log.read(max(0, stop - _CHUNK), stop))):
            if record.kind == "decision" and record.system == system:
                yield record, decode_decision(record.body)


def position_at(log: LogTail, known: int) -> int:
    """Returns the position after the last record known by a moment."""
    return bisect.bisect_right(range(log.durable), known, key=lambda seq: log.get(seq).known_time)


class _Reader:
    """Reads records into the columns of a `Tail`."""

    def __init__(
        self, log: LogTail, system: System, champion: Champion, *, odds: float, least: Mapping[str, float]
    ) -> None:
        self._log, self._system, self._champion = log, system, champion
        entities = {feature.name: feature.entity for feature in champion.features.aggregates}
        names = champion.features.names
        known = ((name, value) for name, value in least.items() if name in entities)
        self._least = [(name, names.index(name), entities[name], value) for name, value in known]
        self._most = int(odds * 2**32)
        self._known: dict[str, int] = {}
        self._since = -1
        self._decided: list[Decided] = []
        self._things: list[tuple[int, Floats, Mapping[str, Any], list[float]]] = []
        self._rows: list[Row] = []
        self._reports: list[Report] = []
        self._heard: dict[str, list[int]] = {kind.name: [] for kind in (system.schema.request, *system.schema.events)}
        self._heard |= {f"outcome.{kind.name}": [] for kind in system.schema.outcomes}
        self._places = list(champion.features.places_for("model"))

    def take(self, record: Record) -> None:
        """Takes the record that comes next."""
        self._since = record.known_time if self._since < 0 else self._since
        if record.kind == "rejected":
            meant = msgspec.msgpack.decode(record.body, type=Rejected).meant
            self._rows.append(Row(record.known_time, meant, is_refused=True))
        elif record.kind == "decision":
            self._decision(record, decode_decision(record.body))
        elif record.kind == "outcome":
            self._rows.append(Row(record.known_time, "outcome", is_refused=False))
            self._outcome(record)
        elif record.kind == "event":
            self._rows.append(Row(record.known_time, "event", is_refused=False))
            self._event(record)

    def _decision(self, record: Record, decision: Decision) -> None:
        self._heard[self._system.schema.request.name].append(record.known_time)
        if record.root != record.seq:
            return  # a correction: what was decided was decided before
        self._known[record.id] = record.known_time
        if decision.mode == "imported":
            return
        stages, lead, request = decision.stages_us, decision.lead, decision.request
        self._decided.append(
            Decided(
                known=record.known_time,
                whose=request.subject or -1,
                action=decision.choice.action,
                fallback=decision.fallback,
                took_us=sum(stages.get(name, 0) for name in _STAGES),
                worth=decision.expected_minor,
                stages=stages,
                facts=request.attributes,
                lead={} if lead is None else lead.predictions,
                spread=_spread(decision.candidates) if decision.choice.verb else {},
                reached=self._reached(decision),
            )
        )
        # Multiplicative hashing (Knuth): evenly spread over any period that the log may have.
        is_kept = (record.seq * 2_654_435_761) % 2**32 < self._most
        if is_kept and decision.versions.features == self._champion.features.version:
            self._things += self._chosen(record, decision)

    def _reached(self, decision: Decision) -> dict[str, int]:
        lead, entities = decision.lead, decision.request.entities
        is_champions = decision.versions.features == self._champion.features.version
        if not self._least or lead is None or not lead.features or not is_champions:
            return {}
        row = unpack_features(lead.features)
        return {name: entities[of] for name, place, of, least in self._least if row[place] >= least and of in entities}

    def _chosen(
        self, record: Record, decision: Decision
    ) -> Iterator[tuple[int, Floats, Mapping[str, Any], list[float]]]:
        public = public_values(decision.request)
        is_champions = decision.versions.model == self._champion.version
        for candidate in chosen(decision):
            if candidate.features:
                told = candidate.predictions if is_champions else {}
                predictions = [told.get(head, np.nan) for head in self._champion.heads]
                yield record.known_time, unpack_features(candidate.features)[self._places], public, predictions

    def _outcome(self, record: Record) -> None:
        outcome = decode_outcome(record.body)
        if record.root != record.seq:
            return
        self._heard[f"outcome.{outcome.kind}"].append(record.known_time)
        if not outcome.value:
            return
        decided, is_decision = self._asked(outcome.target)
        delay_s = (record.known_time - decided) / 1e6 if decided else np.nan
        says = self._system.schema.outcome(outcome.kind).labels.get(int(outcome.value)) == 1
        self._reports.append(Report(record.known_time, outcome.kind, outcome.target, says, delay_s, is_decision))

    def _asked(self, target: str) -> tuple[int, bool]:
        """Returns when a request was made, 0 where it is unknown, and whether it was decided here."""
        decided = self._known.get(target)
        if decided is not None:
            return decided, True
        seqs = self._log.find("request", f"{self._system.name}/{target}")
        if not seqs:
            return 0, False
        record = self._log.get(seqs[0])
        return (record.known_time, True) if record.kind == "decision" else (record.event_time, False)

    def _event(self, record: Record) -> None:
        self._heard.setdefault(decode_event(record.body).kind, []).append(record.known_time)

    def tail(self, start: int) -> Tail:
        """Returns what was read."""
        things = self._things[:: -(-len(self._things) // MOST_ROWS) or 1]
        known, rows, requests, predictions = zip(*things, strict=True) if things else ((),) * 4
        return Tail(
            since=max(start, self._since),
            decided=self._decided,
            times=_whole(one.known for one in self._decided),
            seen=Seen(
                times=_whole(known),
                rows=np.array(rows, np.float64).reshape(len(things), len(self._places)),
                requests=requests,
                predictions=np.array(predictions, np.float64).reshape(len(things), len(self._champion.heads)),
            ),
            rows=self._rows,
            reports=self._reports,
            heard={kind: _whole(times) for kind, times in self._heard.items()},
        )


def _spread(candidates: Sequence[Candidate] | Candidates) -> Mapping[str, float]:
    """Returns how much each head differs among what competes; nothing where nothing is predicted, or of one alone."""
    told = gathered(candidates)
    rows = told.rows
    if len(rows) < 2:  # noqa: PLR2004 - one is like itself
        return {}
    with np.errstate(invalid="ignore", divide="ignore"):  # a mean of 0 has no spread, and is another monitor's
        spread = np.std(rows, axis=0) / np.abs(np.mean(rows, axis=0))
    return dict(zip(told.heads, spread.tolist(), strict=True))


def _whole(values: Iterable[int]) -> Int64s:
    return np.array(list(values), np.int64)


def chosen(decision: Decision) -> Sequence[Candidate]:
    """Returns what a decision was about: the candidates in its slots where those hold things, else the one there is."""
    if decision.choice.verb:
        found = named(decision.candidates, (slot.ref for slot in decision.choice.slots))
        return [found[slot.ref] for slot in decision.choice.slots if slot.ref in found]
    return [] if decision.lead is None else [decision.lead]


# ---- what a model of slates is watched against ----


def settled(champion: Champion, log: LogTail, *, system: System) -> Champion:
    """Returns the champion as changes are measured from it: of slates, its own first week once that is over.

    What is shown follows from who chooses it: no other model's slates say what is usual for this one. What is asked
    does not, so for requests the time that it was judged on stays the measure.
    """
    if champion.reference is None or not champion.version:
        return champion
    found = _own_week(champion, log, system=system) if system.schema.slate_of else champion
    since = champion.reference.since if found.reference is None else found.reference.since
    return msgspec.structs.replace(found, filling=_filling(found.features, since - _first_request(log, system)))


def _own_week(champion: Champion, log: LogTail, *, system: System) -> Champion:
    first = _first_decision(log, system, champion)
    begin = (first // DAY + 1) * DAY
    if first < 0 or log.get(log.durable - 1).known_time < begin + _OWN_DAYS * DAY:
        return champion
    tail = read_tail(log, system, champion=champion, start=begin, stop=begin + _OWN_DAYS * DAY)
    told = ((one.kind, one.known, int(one.delay_s * 1e6)) for one in tail.reports if np.isfinite(one.delay_s))
    own = reference_of(
        tail.seen,
        system.schema,
        names=champion.names,
        heads=champion.heads,
        flows=flows_of(told, tail.times),
        model=champion.model,
    )
    if own is None:
        return champion
    asked = {} if champion.reference is None else champion.reference.columns
    whole = msgspec.structs.replace(own, columns=own.columns | asked)
    return msgspec.structs.replace(champion, reference=whole, begin=begin)


def _filling(features: FeatureSet, age_us: int) -> frozenset[str]:
    """Returns the features over windows longer than a log is old, and those that are made of them."""
    found = {feature.name for feature in features.aggregates if feature.reach_us > age_us}
    for feature in features.features:
        if isinstance(feature, Derived) and found & set(feature.parts):
            found.add(feature.name)
    return frozenset(found)


def _first_request(log: LogTail, system: System) -> int:
    """Returns when the system's first event or request happened, µs."""
    kinds = ("event", "decision")
    return next((one.event_time for one in log.read() if one.system == system.name and one.kind in kinds), 0)


def _first_decision(log: LogTail, system: System, champion: Champion) -> int:
    """Returns when the champion came into force, µs; −1 where it has decided nothing yet.

    By bisection: from its training on others decided first, and then it.
    """

    def is_its(position: int) -> bool:
        found = _next_decision(log, system, position)
        return found is None or found[0] == champion.version

    places = range(champion.position, log.durable)
    found = _next_decision(log, system, champion.position + bisect.bisect_left(places, x=True, key=is_its))
    return -1 if found is None else found[1]


def _next_decision(log: LogTail, system: System, position: int) -> tuple[str, int] | None:
    """Returns the model and the known_time of the first decision from a position on."""
    for record in log.read(position):
        if record.kind == "decision" and record.system == system.name:
            return decode_decision(record.body).versions.model, record.known_time
    return None


# ---- labels ----


def matured(log: LogTail, system: System, *, champion: Champion, start: int, stop: int) -> Matured | None:
    """Returns the champion's decisions whose labels matured in (start, stop], µs; None where there are none.

    At most 20,000 of them, evenly spread. Each one's outcomes are looked up, so the log between is not read.
    """
    told = [
        row
        for record, decision in _decisions(log, system, start=start, stop=stop, head=champion.heads[0])
        if decision.versions.model == champion.version and decision.mode == "live"
        for row in _labelled(log, system.schema, record, decision=decision, head=champion.heads[0], known_by=stop)
    ]
    if not told:
        return None
    labels, predictions, whose = zip(*told, strict=True)
    return Matured(np.array(labels, np.float64), np.array(predictions, np.float64), np.array(whose, np.int64))


def _decisions(log: LogTail, system: System, *, start: int, stop: int, head: str) -> Iterator[tuple[Record, Decision]]:
    """Yields some of the decisions whose labels for a head mature in (start, stop], µs."""
    ages = {signal.head: signal.maturity_us for signal in system.schema.signals}
    maturity = ages.get(head, system.schema.label.maturity_us)
    first, last = position_at(log, start - maturity), position_at(log, stop - maturity)
    stride = -(-(last - first) // _MOST_LABELS) or 1
    for record in log.read(first, last):
        if record.kind == "decision" and record.system == system.name and record.seq % stride == 0:
            yield record, decode_decision(record.body)


def _labelled(
    log: LogTail, schema: Schema, record: Record, *, decision: Decision, head: str, known_by: int
) -> Iterator[tuple[float, float, int]]:
    """Yields label, prediction and person of a decision whose label is known; of a slate of its first slot.

    What is predicted of a thing is what it gets in the first slot; further down it is seen less often.
    """
    found = chosen(decision)[:1]
    if not found or head not in found[0].predictions:
        return
    book = _book(log, schema, record.id)
    label: float | None
    if schema.slate_of:
        signal = next(one for one in schema.signals if one.head == head)
        said = last_said(book.outcomes(record.id, known_by)).get((found[0].ref, signal.kind))
        label = float(said is not None and said >= signal.least)
    else:
        label = book.label(record.id, decided=record.known_time, acted=decision.acted, known_by=known_by).value
    if label is not None:
        yield label, found[0].predictions[head], decision.request.subject or -1


def _book(log: LogTail, schema: Schema, target: str) -> LabelBook:
    """Returns what was said of one request, later corrections included."""
    book = LabelBook(schema)
    roots = {log.get(seq).root for seq in log.find("target", f"{schema.system}/{target}")}
    for root in roots:
        for seq in {root, *log.find("root", str(root))}:
            record = log.get(seq)
            if not record.reason:
                book.add(record)
    return book
