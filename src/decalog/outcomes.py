"""Outcomes and labels: what happened afterwards, who says so, and since when it counts.

The system's own verdict is never a label: an outcome needs a source that its schema trusts, and silence counts only
after an action that lets the truth show, and only when the label has matured.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.events import Record
from decalog.schema import Schema

NEVER = 2**62
"""When a label becomes known that silence cannot give."""


class Outcome(msgspec.Struct, frozen=True, array_like=True):
    """What a source reported about a decision.

    Args:
        id: the reporter's key.
        target: id of the request it is about; it may arrive before the request does; "" in a deletion.
        kind, source: as the schema declares them.
        event_time: when it happened, µs.
        value: what was reported; 1 a fraud, seconds of dwell, units sold.
        amount_minor, currency: money it concerns, or None.
        ref: which slot or candidate it is about, or "".
        corrects: id of the outcome that this one replaces, or "".
        deleted: this record withdraws the outcome it corrects.
        attributes: further public values that the kind declares: whether sales were cut short by an empty shelf.
        per: how many the amount is for: 1,000 where it is a price a thousand impressions.
        entities: entity name → token of who said so (an operator), or of what it is about besides its target.
        subject: token of the person under whose key `sealed` lies; 0 for none.
        sealed: personal values (a comment), bound to the outcome's id.
        blobs: as for events: the mask that an operator drew.
    """

    id: str
    target: str
    kind: str
    source: str
    event_time: int
    value: float
    amount_minor: int | None = None
    currency: str = ""
    ref: str = ""
    corrects: str = ""
    deleted: bool = False
    attributes: dict[str, int | float | str | bool] = {}
    per: int = 1
    entities: dict[str, int] = {}
    subject: int = 0
    sealed: bytes = b""
    blobs: dict[str, str] = {}


_outcome = msgspec.msgpack.Decoder(Outcome).decode


def decode_outcome(body: bytes) -> Outcome:
    """Returns the outcome of a record's body."""
    return _outcome(body)


class LabelState(msgspec.Struct, frozen=True):
    """A label as known at a moment.

    Args:
        value: 1, 0, a quantity, or None while it is not known.
        known_time: since when it is known, µs; for None the time at which silence would make it 0.
        why: the outcome kind that decided, `silence`, `immature`, or `unobserved`.
        is_bound: whether a quantity is a lower bound.
    """

    value: float | None
    known_time: int
    why: str
    is_bound: bool = False


class LabelBook:
    """Outcomes by target, each chain of corrections kept whole, so that a label can be asked as of any moment."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._label = schema.label
        self._maturity_us = schema.label.maturity_us
        self._observed_after = frozenset(schema.label.observed_after)
        self._kinds = {kind.name: kind for kind in schema.outcomes}
        self._chains: dict[int, list[tuple[int, int, Outcome]]] = {}
        self._roots: dict[str, dict[int, None]] = {}

    def add(self, record: Record) -> None:
        """Takes an admitted outcome record; order does not matter."""
        outcome = decode_outcome(record.body)
        if outcome.target:
            self._roots.setdefault(outcome.target, {})[record.root] = None
        chain = self._chains.setdefault(record.root, [])
        chain.append((record.seq, record.known_time, outcome))
        chain.sort(key=lambda version: version[0])

    def add_all(self, records: Iterable[Record]) -> None:
        """Takes every admitted outcome among the records of this system."""
        for record in records:
            if record.kind == "outcome" and record.system == self._schema.system and not record.reason:
                self.add(record)

    def reported(self, decided: Mapping[str, int]) -> Iterator[tuple[str, int, int]]:
        """Yields (kind, known_time, µs after the decision) of each outcome, but those of 0, as it was first told.

        Args:
            decided: request id → time of its decision, µs; outcomes of others are left out.
        """
        for chain in self._chains.values():
            _, known, outcome = chain[0]
            if outcome.value and outcome.target in decided:
                yield outcome.kind, known, known - decided[outcome.target]

    def outcomes(self, target: str, known_by: int | None = None) -> Iterator[tuple[int, Outcome]]:
        """Yields (known_time, outcome) of the versions that stand for a target, ordered by root."""
        for root in sorted(self._roots.get(target, ())):
            visible = [v for v in self._chains[root] if known_by is None or v[1] <= known_by]
            if visible and visible[-1][2].target == target:
                yield visible[-1][1], visible[-1][2]

    def label(self, target: str, *, decided: int, acted: str, known_by: int, also: Iterable[str] = ()) -> LabelState:
        """Returns the label of a target as known at a moment.

        Args:
            target: id of the request.
            decided: time of the decision, µs.
            acted: the action that happened; "" for a plain event, after which silence is evidence.
            known_by: the moment, µs of known_time.
            also: ids of its corrections, which outcomes may name as well.
        """
        said_of = [outcome for name in (target, *also) for outcome in self.outcomes(name, known_by)]
        said = self._word(said_of)
        if said is not None:
            return said
        went_on = {outcome.kind for _, outcome in said_of if outcome.value == 1}
        is_observed = self.is_heard(acted) or self._label.observed_by.get(acted) in went_on
        if self._label.of:
            is_observed = decided + self._maturity_us > known_by  # what nobody has told by then nobody will
        return self._silence(decided=decided, is_observed=is_observed, known_by=known_by)

    def says(self, ids: Iterable[str]) -> bool:
        """Returns whether anything was ever said of a target, by one of its ids."""
        return any(id_ in self._roots for id_ in ids)

    def is_heard(self, acted: str) -> bool:
        """Returns whether silence is evidence after an action, or after a plain event, ""."""
        return not acted or acted in self._observed_after

    def unsaid(
        self, decided: npt.NDArray[np.int64], acted: Sequence[str], *, known_by: int
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], list[str]]:
        """Returns what `label` gives of targets of which nothing was said: label, since when it holds, and why.

        Args:
            decided: µs, one a target.
            acted: the actions that happened.
            known_by: the moment, µs of known_time.

        Returns:
            NaN where nothing is known yet; when silence gives a label, µs, or NEVER; `LabelState.why`.
        """
        matures = decided + self._maturity_us
        heard = np.array([self.is_heard(action) for action in acted], np.bool_)
        is_over = matures <= known_by
        observed = ~is_over if self._label.of else heard  # what nobody has told by then nobody will
        names = np.where(observed, np.where(is_over, "silence", "immature"), "unobserved")
        labels = np.where(observed & is_over, 0.0, np.nan)
        return labels, np.where(observed | heard, matures, NEVER), names.tolist()

    def first_told(self, ids: Iterable[str]) -> int:
        """Returns when it was first said, µs of known_time, that a target is a positive; one is, as the pin knows it.

        Args:
            ids: of the target and its corrections.
        """
        said = (both for id_ in ids for both in self.outcomes(id_))
        return min(known for known, outcome in said if self._said(outcome) == 1)

    def _said(self, outcome: Outcome) -> float | None:
        """Returns the label that an outcome gives, or None where it gives none."""
        if self._label.of:
            return outcome.value if outcome.kind == self._label.of else None
        value = int(outcome.value)
        return self._kinds[outcome.kind].labels.get(value) if outcome.value == value else None

    def _word(self, said_of: Iterable[tuple[int, Outcome]]) -> LabelState | None:
        """Returns the label that the strongest outcome gives, or None where none gives any."""
        verdict: LabelState | None = None
        strongest = (0, 0, "")
        for known, outcome in said_of:
            kind, said = self._kinds[outcome.kind], self._said(outcome)
            # By when it happened, not by when it came: reports that overtake one another end in the same label.
            strength = (kind.rank, outcome.event_time, outcome.id)
            if said is not None and (verdict is None or strength >= strongest):
                is_bound = bool(outcome.attributes.get(self._label.bound))
                verdict, strongest = LabelState(said, known, kind.name, is_bound), strength
        return verdict

    def _silence(self, *, decided: int, is_observed: bool, known_by: int) -> LabelState:
        matures = decided + self._maturity_us
        if not is_observed:
            return LabelState(None, matures, "unobserved")
        return LabelState(0, matures, "silence") if matures <= known_by else LabelState(None, matures, "immature")
