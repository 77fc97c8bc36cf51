"""What a system's events, requests and outcomes look like, and how personal each field is.

A schema is data; `parsing.py` turns a caller's flat JSON into the values that it declares.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from decalog.clock import duration_us
from decalog.errors import ConfigError, RequestError, near

Privacy = Literal["public", "personal", "sensitive"]
FieldKind = Literal["int", "float", "text", "flag", "amount_minor", "currency"]

ID_LENGTH = 128
MAX_PER = 1_000_000


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """One value of an event.

    Args:
        name: its name in requests, in the log and in feature declarations; the unit stands in it (`_minor`, `_s`).
        kind: int, float (finite), text, flag, amount_minor (int ≥ 0 in minor units) or currency (ISO 4217).
        meaning: one line in the field's words.
        privacy: public values stand in the log in the clear; others only in the subject's envelope.
        required: whether a request without it is refused.
        least, most: inclusive range of a number.
        max_length: of a text, in characters.
        choices: the only texts accepted; empty accepts any.
        steered: whether it follows from earlier decisions, as stock on hand does: it changes with who decides, so it is
            not watched for drift.
    """

    name: str
    kind: FieldKind
    meaning: str
    privacy: Privacy = "public"
    required: bool = False
    least: float | None = None
    most: float | None = None
    max_length: int = 256
    choices: tuple[str, ...] = ()
    steered: bool = False


class Entity(msgspec.Struct, frozen=True, kw_only=True):
    """A thing that events belong to (a card, an IP address); the log knows it by a random token only.

    Args:
        name: its name in requests and in feature declarations.
        meaning: one line in the field's words.
        privacy: how personal the caller's value is; the value itself lies only in the subject's envelope.
        max_length: in characters.
    """

    name: str
    meaning: str
    privacy: Privacy = "personal"
    max_length: int = 128


class EventKind(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of event. `subject` names the entities that may be the person it is about, first present one wins."""

    name: str
    meaning: str
    fields: tuple[Field, ...]
    entities: tuple[Entity, ...]
    subject: tuple[str, ...]

    @property
    def amounts(self) -> dict[str, str]:
        """Amount field → the attribute that holds it in the base currency."""
        return {f.name: f"{f.name.removesuffix('_minor')}_base_minor" for f in self.fields if f.kind == "amount_minor"}

    @property
    def attributes(self) -> frozenset[str]:
        """Names of the public values that an event may carry, those that admission adds included."""
        public = {f.name for f in self.fields if f.privacy == "public"}
        open_entities = {e.name for e in self.entities if e.privacy == "public"}
        return frozenset(public | open_entities | set(self.amounts.values()))


class OutcomeKind(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of outcome: who may report it, and what it says about the label.

    Args:
        name, meaning: as the field calls it.
        sources: the only sources trusted to report it; the system itself is never one.
        labels: value reported → label (1 positive, 0 negative); a value that is absent says nothing.
        rank: where kinds disagree, the higher rank decides, among equals what happened last.
        fields: further values of it: public, and of kind int, float, text or flag.
    """

    name: str
    meaning: str
    sources: tuple[str, ...]
    labels: Mapping[int, int]
    rank: int = 0
    fields: tuple[Field, ...] = ()


class Label(msgspec.Struct, frozen=True, kw_only=True):
    """What training predicts, and when silence becomes an answer.

    Args:
        name, meaning: `fraud`.
        maturity: after this long without a positive outcome the label counts as 0, where `observed_after` says so.
        observed_after: actions after which silence is evidence; after any other (a block) only a human's word counts.
        observed_by: action → kind of outcome: after such an action silence is evidence where an outcome of that kind
            said 1, for then the request went on after all (a step-up that was passed).
        of: kind of outcome whose value is the label, where that is a quantity; silence then says nothing. "" where the
            label is yes or no.
        bound: flag of that outcome which says that the quantity is a lower bound: more was wanted than was there.
        unit: of a quantity.
    """

    name: str
    meaning: str
    maturity: str
    observed_after: tuple[str, ...]
    observed_by: Mapping[str, str] = {}
    of: str = ""
    bound: str = ""
    unit: str = ""

    @property
    def awaited_after(self) -> frozenset[str]:
        """Actions after which silence may be evidence; "" stands for a plain event."""
        return frozenset(("", *self.observed_after, *self.observed_by))

    @property
    def maturity_us(self) -> int:
        """Maturity in microseconds."""
        return duration_us(self.maturity)


class Charted(msgspec.Struct, frozen=True, kw_only=True):
    """Which public facts of a request are drawn beside a label that is a quantity; empty where there is none.

    Args:
        days: how many days from the next one on the quantity is of.
        there: what there is of it already, in its unit; together with what is chosen this is what can be had.
        marks: above 0 where a request is out of the ordinary, as a promotion makes it.
        unit_minor: what a unit is worth, minor units of the base currency.
    """

    days: str = ""
    there: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    unit_minor: str = ""


class Signal(msgspec.Struct, frozen=True, kw_only=True):
    """What a model predicts of a thing that was shown: that an outcome of a kind names it with a value that is enough.

    Args:
        head: name of the prediction, `p_click`.
        kind: of the outcome; of several that name the thing the last to happen holds.
        least: value from which on the answer is yes.
        maturity: after this long without such an outcome the answer is no.
    """

    head: str
    kind: str
    least: float = 1.0
    maturity: str = "1h"

    @property
    def maturity_us(self) -> int:
        """Maturity in microseconds."""
        return duration_us(self.maturity)


class Parsed(msgspec.Struct, frozen=True, kw_only=True):
    """A request or event as the caller sent it, checked.

    `event_time` is None where the caller left it out; `taken` is the action that the caller's own system took, `slots`
    what it showed, in order, `quantity` the number that it chose.
    """

    id: str
    kind: str
    event_time: int | None
    entities: dict[str, str]
    public: dict[str, int | float | str | bool]
    private: dict[str, int | float | str | bool]
    taken: str = ""
    corrects: str = ""
    deletes: str = ""
    slots: tuple[str, ...] = ()
    quantity: float | None = None


class ParsedOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """An outcome as the caller sent it, checked. `target` is the request's or the decision's id."""

    id: str
    target: str
    kind: str
    source: str
    event_time: int | None
    value: float
    amount_minor: int | None = None
    currency: str = ""
    ref: str = ""
    corrects: str = ""
    deletes: str = ""
    attributes: dict[str, int | float | str | bool] = {}
    per: int = 1


class Schema(msgspec.Struct, frozen=True, kw_only=True):
    """A system's contract with its callers.

    Args:
        system: its name.
        noun: what a request is called in outcomes (`payment`).
        request: the event that asks for a decision.
        events: further kinds of events.
        outcomes: kinds of outcomes.
        actions: the action space, safest fallback first.
        label: what is learned.
        slate_of: where an action is a verb (`show`) and slots hold things, in order: the public entity whose values are
            the candidates' refs; "" where slots hold actions.
        signals: what is predicted of each thing that was shown.
        candidate: public facts of what can be chosen, as retrieval says them beside what the request says.
        charted: of the request's facts, those that are drawn.
    """

    system: str
    noun: str
    request: EventKind
    events: tuple[EventKind, ...]
    outcomes: tuple[OutcomeKind, ...]
    actions: tuple[str, ...]
    label: Label
    slate_of: str = ""
    signals: tuple[Signal, ...] = ()
    candidate: tuple[Field, ...] = ()
    charted: Charted = Charted()

    def kind(self, name: str) -> EventKind:
        """Returns the event kind of that name, the request's included.

        Raises:
            RequestError: there is none.
        """
        for kind in (self.request, *self.events):
            if kind.name == name:
                return kind
        raise RequestError(
            where=f"{self.system} event, kind",
            given="an unknown kind",
            expected=near(name, [k.name for k in (self.request, *self.events)]),
            fix="Send a kind that the schema declares.",
        )

    def outcome(self, name: str) -> OutcomeKind:
        """Returns the outcome kind of that name.

        Raises:
            RequestError: there is none.
        """
        for kind in self.outcomes:
            if kind.name == name:
                return kind
        raise RequestError(
            where=f"{self.system} outcome, kind",
            given="an unknown kind",
            expected=near(name, [k.name for k in self.outcomes]),
            fix="Send a kind that the schema declares.",
        )

    def with_fields(self, extra: tuple[Field, ...]) -> Schema:
        """Returns the schema with more request fields: a user's own signals.

        Raises:
            ConfigError: a name is taken already.
        """
        request = self.request
        taken = {f.name for f in request.fields} | {e.name for e in request.entities} | _RESERVED
        clash = sorted(taken & {f.name for f in extra})
        if clash:
            raise ConfigError(
                where=f"{self.system} schema, own fields",
                given=f"names that are taken: {', '.join(clash)}",
                expected="names of your own",
                fix="Rename them in the mapping.",
            )
        wider = msgspec.structs.replace(request, fields=request.fields + extra)
        return msgspec.structs.replace(self, request=wider)


_RESERVED = {"id", "kind", "event_time", "taken", "corrects", "deletes", "slots", "quantity"}
