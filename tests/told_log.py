"""A log in memory whose decisions are given one by one: who, when, what was predicted, done, and said of it later."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from decalog.candidates import Candidate
from decalog.clock import DAY
from decalog.decisions import Choice, Decision, Slot, Versions
from decalog.events import FORMAT, Event, Record, encode, encode_body
from decalog.metrics import Metric
from decalog.outcomes import Outcome
from decalog.system import System
from decalog.systems.fraud.system import SYSTEM as FRAUD

START = 20_000 * DAY
MATURITY = 20
SYSTEM: System = msgspec.structs.replace(
    FRAUD,
    schema=msgspec.structs.replace(
        FRAUD.schema, label=msgspec.structs.replace(FRAUD.schema.label, maturity=f"{MATURITY}d")
    ),
)


def only(*names: str, system: System = SYSTEM) -> System:
    """Returns the system with some of its measures."""
    found: dict[str, Metric] = {metric.name: metric for metric in system.metrics}
    return msgspec.structs.replace(system, metrics=tuple(found[name] for name in names))


class Paid(msgspec.Struct, frozen=True):
    """A payment: `fraud_after` days it was reported as one, None for never; `p` is None where nothing was predicted."""

    day: float
    person: int = 0
    p: float | None = 0.1
    action: str = "allow"
    fraud_after: float | None = None
    amount: int = 1_000
    arm: str = ""
    model: str = "m1"
    channel: str = "ecom"
    propensity: float = 1.0
    mode: str = "live"
    taken: str = ""


class ToldLog:
    """What a log holds of payments, up to a day; see `LogTail`."""

    def __init__(self, payments: Iterable[Paid], *, until: float) -> None:
        told: list[tuple[int, str, Any]] = []
        for number, paid in enumerate(payments):
            at = START + int(paid.day * DAY)
            told.append((at, "decision", _decision(f"p{number}", at, paid)))
            if paid.fraud_after is not None:
                later = at + int(paid.fraud_after * DAY)
                outcome = Outcome(f"o{number}", f"p{number}", "chargeback", "issuer", later, 1.0)
                told.append((later, "outcome", outcome))
        self.now = START + int(until * DAY)
        self.records: list[Record] = []
        for at, kind, body in sorted(told, key=lambda one: one[0]):
            if at <= self.now:
                id_ = body.id if kind == "outcome" else body.request.id
                raw = encode_body(body) if kind == "decision" else encode(body)
                seq = len(self.records)
                self.records.append(Record(FORMAT, 0, seq, kind, "fraud", at, at, id_, b"", seq, "", raw))

    @property
    def durable(self) -> int:
        return len(self.records)

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        return iter(self.records[start:stop])

    def get(self, seq: int) -> Record:
        return self.records[seq]

    def find(self, index: str, key: str) -> list[int]:
        raise AssertionError("tiers look nothing up")


def _decision(id_: str, at: int, paid: Paid) -> Decision:
    mode: Any = paid.mode
    attributes: dict[str, int | float | str | bool] = {"amount_base_minor": paid.amount, "channel": paid.channel}
    return Decision(
        id=f"d{id_}",
        request=Event(id_, "payment", at, paid.person, {"card": paid.person} if paid.person else {}, attributes),
        state_seq=0,
        candidates=(Candidate(id_, "request", {} if paid.p is None else {"p_fraud": paid.p}),),
        choice=Choice((Slot(paid.action, propensity=paid.propensity),)),
        versions=Versions(paid.model, "p1", "f1", 0),
        mode=mode,
        arm=paid.arm,
        taken=paid.taken,
    )
