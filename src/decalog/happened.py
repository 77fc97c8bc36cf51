"""What happened: the decisions of a time as they were taken, and what is known of their outcomes at any moment.

A row is a decision, or, where slots hold things, a thing that was shown. Features are not read, so a month of decisions
costs no more than their bodies do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from decalog.candidates import Candidate, named
from decalog.decisions import Choice, Decision, Slot, decode_decision
from decalog.events import Event, Record, decode_event
from decalog.examples import AMOUNT, NO_ENTITY, Bools, Floats, Int64s
from decalog.folding import body_of
from decalog.impressions import last_said, signals_of
from decalog.outcomes import LabelBook
from decalog.quantities import Image, Recover, Told, as_told, standing
from decalog.schema import Schema
from decalog.system import System, load
from decalog.tails import LogTail, position_at

Facts = Mapping[str, int | float | str | bool]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A decision as it was taken, or a thing that it showed.

    Args:
        ids: of the request and its corrections, the first one first.
        seq: of the decision's record.
        decided: µs.
        person: token of whom it is about; NO_ENTITY for nobody.
        model: the first 12 digits of the model that decided, "" for none.
        arm: of a rollout, or "".
        acted: the action that happened.
        propensity: how likely a draw made it; 1 where nothing was drawn.
        request: its present image, after corrections.
        ref: which thing; "" where slots hold actions.
        position: its slot, 0 is the first.
        quantity: what was chosen, where the choice is a number.
        predictions: head → what was predicted then; empty where nothing was.
        described: public facts of the thing.
    """

    ids: tuple[str, ...]
    seq: int
    decided: int
    person: int
    model: str
    arm: str
    acted: str
    propensity: float
    request: Event
    ref: str = ""
    position: int = 0
    quantity: float = 0.0
    predictions: Mapping[str, float] = {}
    described: Facts = {}

    @property
    def facts(self) -> Facts:
        """Public values of the request and of the thing."""
        return {**self.request.attributes, **self.described}

    @property
    def amount(self) -> int:
        """The money at stake, minor units of the base currency; 0 where the request has none."""
        amount = self.request.attributes.get(AMOUNT, 0)
        return amount if isinstance(amount, int) else 0


class Known(NamedTuple):
    """What is known of labels at a moment; every array is rows × heads.

    `labels` are 1, 0 or NaN; `is_old`: silence would have made it 0 by now; `is_hidden`: silence says nothing here, as
    after a block; `delays` µs from the decision to the word that made it 1, else NaN; `ages` µs since the decision.
    Where the label is a quantity, `bounds` says of which rows it is a lower bound, `expected` and `drawn` what stands
    behind it (rows each; `models.base.QuantitySet`).
    """

    labels: Floats
    is_old: Bools
    is_hidden: Bools
    delays: Floats
    ages: Floats
    bounds: Bools
    expected: Floats
    drawn: Floats

    def take(self, places: Int64s) -> Known:
        """Returns what is known of some rows."""
        columns: Any = (column[places] for column in self)
        return Known(*columns)


class Behind(NamedTuple):
    """Versions of a system's events other than requests, in log order, and what reads them; see `quantities`."""

    images: list[Image]
    recover: Recover


class Happened:
    """Decisions of a time in order, read once.

    Args:
        rows: in order of the log.
        book: outcomes.
        schema: of the system.
        heads: names of what is predicted, one a label.
        untold: times of decisions that are left out, µs: another system acted, and nobody said how.
        behind: what says what stands behind lower bounds; None where labels are no quantities.

    Attributes:
        maturities: µs after which silence means 0, one a head.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        book: LabelBook,
        *,
        schema: Schema,
        heads: tuple[str, ...],
        untold: Sequence[int] = (),
        behind: Behind | None = None,
    ) -> None:
        self._told = behind
        self.rows, self.schema, self.heads, self.untold = rows, schema, heads, self.whole(untold)
        self._book = book
        self.maturities = maturities(schema)
        self.times = self.whole([row.decided for row in rows])
        self.people = self.whole([row.person for row in rows])
        self.predictions = np.array(
            [[row.predictions.get(head, np.nan) for head in heads] for row in rows], np.float64
        ).reshape(len(rows), len(heads))

    @staticmethod
    def whole(values: Sequence[int]) -> Int64s:
        """Returns an int64 column."""
        return np.array(values, np.int64)

    def known(self, by: int) -> Known:
        """Returns what is known of the rows' labels at a moment, µs of known_time; rows decided later know nothing."""
        shape = self.predictions.shape
        labels, delays, is_hidden = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape, np.bool_)
        bounds = np.zeros(len(self.rows), np.bool_)
        of = self._of_thing if self.schema.slate_of else self._of_request
        for place, row in enumerate(self.rows):
            if row.decided <= by:
                labels[place], delays[place], is_hidden[place], bounds[place] = of(row, by)
        ages = np.maximum(by - self.times, 0).astype(np.float64)[:, None] + np.zeros(shape)
        is_old = ages >= np.array(self.maturities)
        if self.schema.label.of:
            # A quantity that was told is known, however young it is.
            is_old = is_old | np.isfinite(labels)
        return Known(labels, is_old, is_hidden, delays, ages, bounds, *self._behind(labels[:, 0], bounds, by))

    def _behind(self, labels: Floats, bounds: Bools, by: int) -> tuple[Floats, Floats]:
        """Returns what stands behind labels, expected and drawn."""
        if self._told is None:
            return labels, labels
        requests = [row.request for row in self.rows]
        return self._told.recover(Told(requests, labels, bounds, standing(self._told.images, by)), 0)

    def _of_request(self, row: Row, by: int) -> tuple[list[float], list[float], bool, bool]:
        (first, *also), heads = row.ids, len(self.heads)
        state = self._book.label(first, decided=row.decided, acted=row.acted, known_by=by, also=also)
        label = np.nan if state.value is None else float(state.value)
        has_come = np.isfinite(label) if self.schema.label.of else label == 1
        delay = _delay(state.known_time, row) if has_come else np.nan
        return [label] * heads, [delay] * heads, state.why == "unobserved", state.is_bound

    def _of_thing(self, row: Row, by: int) -> tuple[list[float], list[float], bool, bool]:
        told = [one for id_ in row.ids for one in self._book.outcomes(id_, by) if one[1].ref == row.ref]
        labels = signals_of(row.ref, last_said(told), age_us=by - row.decided, schema=self.schema)
        delays = [
            _delay(min(known for known, one in told if one.kind == signal.kind), row) if label == 1 else np.nan
            for label, signal in zip(labels, self.schema.signals, strict=True)
        ]
        return labels, delays, False, False

    def ends(self, slates: Mapping[int, Sequence[str]], *, by: int) -> dict[str, tuple[Int64s, Floats]]:
        """Returns outcome kind → (slates, values) of what was said of whole slates by a moment: it names no thing.

        Args:
            slates: seq of each decision → ids of its request.
            by: the moment, µs.
        """
        said = [(seq, one) for seq, ids in slates.items() for id_ in ids for _, one in self._book.outcomes(id_, by)]
        found: dict[str, list[tuple[int, float]]] = {}
        for seq, outcome in said:
            if not outcome.ref:
                found.setdefault(outcome.kind, []).append((seq, outcome.value))
        columns = {kind: tuple(zip(*told, strict=True)) for kind, told in found.items()}
        return {kind: (self.whole(seqs), np.array(values, np.float64)) for kind, (seqs, values) in columns.items()}


def _delay(known: int, row: Row) -> float:
    return float(max(known - row.decided, 0))


def maturities(schema: Schema) -> tuple[int, ...]:
    """Returns after how long silence answers, µs: of each signal, or of the label."""
    return tuple(signal.maturity_us for signal in schema.signals) or (schema.label.maturity_us,)


def read_happened(log: LogTail, system: System, *, start: int) -> Happened:
    """Returns the decisions that were made here and are known after a moment, µs, with all that was said since."""
    schema, book = system.schema, LabelBook(system.schema)
    taken: dict[int, list[Row]] = {}
    untold: list[int] = []
    behind = Behind([], load(system.recovered) or as_told) if schema.label.of else None
    records = log.read(position_at(log, start))
    for record in filter(lambda one: one.system == system.name and not one.reason, records):
        _note(behind, record)
        if record.kind == "outcome":
            book.add(record)
        elif record.root != record.seq:
            _correct(taken, record)
        elif record.kind == "decision":
            _take(taken, record, untold=untold)
    rows = [row for one in taken.values() for row in one]
    return Happened(rows, book, schema=schema, heads=_heads(system), untold=untold, behind=behind)


def _heads(system: System) -> tuple[str, ...]:
    signals = system.schema.signals
    return tuple(signal.head for signal in signals) or tuple(system.models[-1].head.split("+"))


def _note(behind: Behind | None, record: Record) -> None:
    """Keeps a version of an event where what stands behind labels is asked of it."""
    if behind is not None and record.kind == "event":
        behind.images.append(Image(record.root, record.known_time, decode_event(record.body)))


def _take(taken: dict[int, list[Row]], record: Record, *, untold: list[int]) -> None:
    decision = decode_decision(record.body)
    if decision.mode == "imported":
        return  # it was not made here
    if decision.acted:
        taken[record.seq] = list(_rows(record, decision))
    else:
        untold.append(record.known_time)


def _rows(record: Record, decision: Decision) -> Iterator[Row]:
    happened, lead = decision.happened, decision.lead
    row = Row(
        ids=(record.id,),
        seq=record.seq,
        decided=record.known_time,
        person=decision.request.subject or NO_ENTITY,
        model=decision.versions.model[:12],
        arm=decision.arm,
        acted=decision.acted,
        propensity=decision.propensity,
        request=decision.request,
        predictions={} if lead is None else lead.predictions,
    )
    if not decision.choice.verb:
        yield row
        return
    for slot, candidate in _shown(decision, happened):
        yield msgspec.structs.replace(
            row,
            ref=slot.ref,
            position=slot.position,
            propensity=slot.propensity or 1.0,
            quantity=slot.value or 0.0,
            predictions=candidate.predictions,
            described=candidate.attributes,
        )


def _shown(decision: Decision, happened: Choice | None) -> Iterator[tuple[Slot, Candidate]]:
    slots = () if happened is None else happened.slots
    by_ref = named(decision.candidates, (slot.ref for slot in slots))
    return ((slot, by_ref[slot.ref]) for slot in slots if slot.ref in by_ref)


def _correct(taken: dict[int, list[Row]], record: Record) -> None:
    """Takes a correction of a request: its present image counts, under either id; one that is withdrawn is gone."""
    body = body_of(record)
    event = body.request if isinstance(body, Decision) else body
    rows = taken.get(record.root)
    if rows is None or not isinstance(event, Event):
        return
    changed = [msgspec.structs.replace(row, ids=(*row.ids, record.id), request=event) for row in rows]
    taken[record.root] = [] if event.deleted else changed
