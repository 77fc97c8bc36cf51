"""The one record of all ten systems: what was asked, what was predicted, what was chosen, and why.

`docs/decisions/0001-one-record.md` shows it at work in each system.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.candidates import Candidate, Candidates, named
from decalog.crypto import digest
from decalog.events import Event, plain_body

_DAY_MS = 86_400_000

Mode = Literal["live", "shadow", "fallback", "imported"]


class Slot(msgspec.Struct, frozen=True, array_like=True):
    """One thing chosen.

    Args:
        ref: candidate or action.
        position: 0 is the first.
        propensity: probability with which the policy would choose it here, given the slots above it, in (0, 1]; None
            where it is not known.
        value: a number that is the choice itself (a quantity, an arrival time in s), or None.
        money_minor: a price in minor units of the decision's currency, or None.
        per: how many that price is for: 1,000 where it is a price a thousand impressions.
        attributes: what else was chosen, the unit in the name: the band of an arrival, the span of a citation.
    """

    ref: str
    position: int = 0
    propensity: float | None = 1.0
    value: float | None = None
    money_minor: int | None = None
    per: int = 1
    attributes: dict[str, int | float | str | bool] = {}


class Choice(msgspec.Struct, frozen=True, array_like=True):
    """What the policy chose.

    Args:
        slots: in order; empty where nothing was (no bid, no result).
        reasons: in the field's words.
        verb: the action, where slots hold things and not actions: `show`, `award`, `answer`; else "".
    """

    slots: tuple[Slot, ...]
    reasons: tuple[str, ...] = ()
    verb: str = ""

    @property
    def action(self) -> str:
        """The action, one of the schema's: the verb, or else the first slot's ref."""
        return self.verb or self.slots[0].ref

    @property
    def propensity(self) -> float | None:
        """Probability with which the policy would choose the first slot; None where it is not known, or nothing was."""
        return self.slots[0].propensity if self.slots else None

    @property
    def quantity(self) -> float:
        """The number that is the choice; 0 where nothing was chosen, or the choice is none."""
        return (self.slots[0].value or 0.0) if self.slots else 0.0

    @property
    def is_slate(self) -> bool:
        """Whether slots hold things in their order: neither an action alone nor a number."""
        return bool(self.verb) and all(slot.value is None for slot in self.slots)

    @property
    def contents(self) -> tuple[str, ...]:
        """What each slot holds, in order: the number where that is the choice itself, else the thing or the action."""
        return tuple(slot.ref if slot.value is None else repr(slot.value) for slot in self.slots)


def made_elsewhere(verb: str, refs: Sequence[str], *, value: float | None = None) -> Choice:
    """Returns another system's choice of things, in order: what it did is known, how likely it was to do it is not.

    Args:
        verb: the action.
        refs: what its slots held.
        value: the number that it chose, if the choice is one.
    """
    slots = (Slot(ref, place, propensity=None, value=value) for place, ref in enumerate(refs))
    return Choice(tuple(slots), verb=verb)


class GuardrailVerdict(msgspec.Struct, frozen=True, array_like=True):
    """A guardrail that changed the choice: its name, the action before and after, and why."""

    name: str
    before: str
    after: str
    why: str


class Versions(msgspec.Struct, frozen=True, array_like=True):
    """What decided: hashes of model, policy parameters and feature set; seq of the log's `runtime` table."""

    model: str
    policy: str
    features: str
    runtime: int


class Decision(msgspec.Struct, frozen=True, array_like=True):
    """A decision, whole.

    Args:
        id: time-ordered, unique.
        request: what was asked; it is an event, folded into the views at this record's seq.
        state_seq: the decision saw the views at this log position: records with a smaller seq.
        candidates: what could be chosen; of slates as columns.
        choice: what was.
        versions: what decided.
        mode: live; shadow (logged, not acted on); fallback (the declared one); imported (another system's).
        fallback: why, where mode is fallback: `model_timeout`, `model_error`, `features_late`, …
        guardrails: those that changed the choice.
        expected_minor: expected value of the choice in minor units of `currency`; costs are negative.
        currency: base currency of the deployment.
        arm: of an experiment, or "".
        taken: the action that another system took for this request, where ours is shadow or imported.
        parent: id of the decision that this one continues or supersedes, or "".
        batch: id of the batch it belongs to, or "".
        stages_us: stage → microseconds it took.
        theirs: what the other system chose, where the action alone does not say it: a slate, a price, a quantity.
        blobs: as for events, of what the decision made: a heat map, a proposal.
        sealed: personal values of what was chosen (the text of an answer), under the key of the request's subject and
            bound to this decision's id.
        positions: of every partition, where the log has more than one and the views of several were read; its own is
            `state_seq` then too.
    """

    id: str
    request: Event
    state_seq: int
    candidates: tuple[Candidate, ...] | Candidates
    choice: Choice
    versions: Versions
    mode: Mode = "live"
    fallback: str = ""
    guardrails: tuple[GuardrailVerdict, ...] = ()
    expected_minor: int = 0
    currency: str = ""
    arm: str = ""
    taken: str = ""
    parent: str = ""
    batch: str = ""
    stages_us: dict[str, int] = {}
    theirs: Choice | None = None
    blobs: dict[str, str] = {}
    sealed: bytes = b""
    positions: tuple[int, ...] = ()

    @property
    def lead(self) -> Candidate | None:
        """The candidate that stands for the decision where one is asked for: the first slot's, or else the first."""
        return self._leading(None)

    @property
    def predictions(self) -> dict[str, float]:
        """What was predicted of the lead."""
        lead = self._leading(frozenset())
        return {} if lead is None else lead.predictions

    def _leading(self, attributes: frozenset[str] | None) -> Candidate | None:
        first = self.choice.slots[0].ref if self.choice.verb and self.choice.slots else ""
        found = named(self.candidates, (first,), attributes=attributes) if first else {}
        return found[first] if found else self.candidates[0] if len(self.candidates) else None

    @property
    def happened(self) -> Choice | None:
        """The choice that was acted on: another system's where ours was not, None where nobody told of it."""
        return self.theirs if self.mode == "shadow" else self.choice

    @property
    def acted(self) -> str:
        """The action that really happened: another system's where ours was not acted on."""
        return self.taken if self.mode in ("shadow", "imported") else self.choice.action

    @property
    def propensity(self) -> float:
        """How likely the draw made what really happened; 1 where nothing was drawn, or another system acted."""
        return (self.choice.propensity or 1.0) if self.acted == self.choice.action else 1.0


class _Head(msgspec.Struct, array_like=True):
    """The part of a decision that says whose it is; hundreds of candidates behind it are passed over."""

    id: str
    request: Event


_decision, _head = msgspec.msgpack.Decoder(Decision).decode, msgspec.msgpack.Decoder(_Head).decode


def decode_decision(body: bytes) -> Decision:
    """Returns the decision of a record's body."""
    return _decision(plain_body(body))


def decode_request(body: bytes) -> Event:
    """Returns the request of a decision's body, of which nothing else is read."""
    return _head(plain_body(body)).request


WAITS = "waits"
"""Attribute of a first slot that is a person's turn: such decisions are indexed by day, for a queue to find them."""


def decision_keys(system: str, decision: Decision) -> tuple[tuple[str, str], ...]:
    """Returns the index entries of a decision: its id and, where a person is to look, the day on which it was made."""
    slots = decision.choice.slots
    if not (slots and slots[0].attributes.get(WAITS)):
        return (("decision", decision.id),)
    return (("decision", decision.id), (WAITS, waiting_key(system, day_of(decision.id))))


def waiting_key(system: str, day: int) -> str:
    """Returns the key under which a day's decisions that wait for a person are indexed; days since the Unix epoch."""
    return f"{system}/{day}"


def day_of(decision_id: str) -> int:
    """Returns the day, since the Unix epoch in UTC, on which a decision of `new_decision_id` was made.

    >>> day_of("018bcfe5-6800-7000-8000-000000000000")
    19675
    """
    return int(decision_id[:8] + decision_id[9:13], 16) // _DAY_MS


def new_decision_id(now_us: int, entropy: bytes) -> str:
    """Returns a time-ordered id: a UUID of version 7 (RFC 9562, section 5.7).

    Args:
        now_us: the log's clock, µs since the epoch; milliseconds of it lead the id.
        entropy: 10 random bytes.

    >>> new_decision_id(1_700_000_000_000_000, bytes(10))
    '018bcfe5-6800-7000-8000-000000000000'
    """
    milliseconds = (now_us // 1_000) & (2**48 - 1)
    high = (milliseconds << 16) | 0x7000 | (int.from_bytes(entropy[:2], "big") & 0x0FFF)
    low = (0b10 << 62) | (int.from_bytes(entropy[2:10], "big") & (2**62 - 1))
    digits = f"{(high << 64) | low:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def draw(secret: bytes, decision_id: str, *, name: str) -> float:
    """Returns a uniform draw in [0, 1) that depends on nothing but its arguments, so replay draws the same.

    Args:
        secret: of the deployment, so that callers cannot predict it.
        decision_id: of the decision it is for.
        name: of the draw.
    """
    word = digest(secret, decision_id.encode(), name.encode(), size=8)
    return float(struct.unpack(">Q", word)[0] >> 11) * 2.0**-53


def pack_features(values: npt.NDArray[np.float64]) -> bytes:
    """Returns feature values bit for bit, float64 little endian."""
    return values.astype("<f8", copy=False).tobytes()


def unpack_features(packed: bytes) -> npt.NDArray[np.float64]:
    """Returns the feature values that were packed."""
    return np.frombuffer(packed, dtype="<f8").astype(np.float64, copy=False)
