"""A log of payments as a watch reads it, in memory: a quiet system with bursts, and faults to switch on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from decalog.candidates import Candidate
from decalog.clock import DAY, MINUTE, SECOND
from decalog.decisions import Choice, Decision, Slot, Versions, pack_features
from decalog.events import FORMAT, Event, Record, encode, encode_body
from decalog.features.definition import Aggregate, Attribute, FeatureSet
from decalog.ingest import Rejected
from decalog.metrics import Floats
from decalog.monitoring import Monitor
from decalog.outcomes import Outcome
from decalog.references import flows_of, reference_of
from decalog.system import System
from decalog.systems.fraud.system import SYSTEM as FRAUD
from decalog.tails import Champion, read_tail

START = 20_000 * DAY
A_DAY = 300
FEATURES = FeatureSet(
    system="fraud",
    features=(
        Attribute(name="amount", meaning="amount", unit="cents", attribute="amount_minor"),
        Attribute(name="speed", meaning="speed", unit="1", attribute="speed"),
        Attribute(name="age", meaning="age", unit="days", attribute="age"),
        Aggregate(
            name="payments_1d",
            meaning="payments",
            unit="1",
            entity="card",
            aggregate="count",
            over=("payment",),
            window="1d",
            staleness="12h",
            owner="checkout",
        ),
    ),
)


def monitor(name: str, watches: Any, level: float, **more: Any) -> Monitor:
    """Returns a monitor with what does not matter filled in."""
    plain: dict[str, Any] = {"alert": "above", "owner": "risk", "runbook": "Look.", "meaning": name, "window": "12h"}
    return Monitor(name=name, watches=watches, level=level, **(plain | more))


SYSTEM: System = msgspec.structs.replace(
    FRAUD,
    schema=msgspec.structs.replace(FRAUD.schema, label=msgspec.structs.replace(FRAUD.schema.label, maturity="20d")),
    features=FEATURES,
    monitors=(
        monitor("fallbacks", "fallback", 0.01),
        monitor("blocks", "action", 0.06, of=("block",), slices=("channel",)),
        monitor("slow", "slow", 0.01),
        monitor("late", "late", 0.05, of=("towers",)),
        monitor("rejected", "rejected", 0.02),
        monitor("warned", "reported", 0.2, of=("chargeback",), among=("allow",), window="10d"),
        monitor("mean", "prediction", 0.2, of=("p_fraud",)),
        monitor("worth", "worth", -100.0, alert="below"),
        monitor("tried", "reached", 0.02, of=("payments_1d",), least=8.0),
    ),
)


class Sums:
    """Log odds that are a sum of parts; see `models.base.Explaining`."""

    def predict(self, rows: Floats) -> Floats:
        """Returns the chance."""
        return np.asarray(1 / (1 + np.exp(-np.sum(self.contributions(rows), axis=1))), np.float64)

    def contributions(self, rows: Floats) -> Floats:
        """Returns what each feature adds."""
        parts = np.zeros((len(rows), 5))
        parts[:, 0] = 0.3 * (np.log(np.maximum(rows[:, 0], 1)) - 8)
        parts[:, 1] = 0.8 * (rows[:, 1] - 1)
        parts[:, 4] = -2.6
        return parts

    def save(self, folder: Path) -> Mapping[str, Any]:
        """Writes nothing."""
        return {}


class Payments:
    """Payments day by day, what was decided, and what was reported.

    Args:
        seed: of all chance.
        days: of them.
        faults: name → value from `begin` on; what each does stands where it is read.
        begin: day.
    """

    def __init__(self, seed: int, days: int, *, begin: int = 0, **faults: float) -> None:
        self._rng = np.random.default_rng(seed)
        self.records: list[Record] = []
        self._by: dict[tuple[str, str], list[int]] = {}
        told: list[tuple[int, str, Any]] = []
        for day in range(days):
            told += self._day(day, faults if day >= begin else {})
        for at, kind, body in sorted(told, key=lambda one: one[0]):
            self._stamp(at, kind, body)

    # ---- as a log ----

    @property
    def durable(self) -> int:
        """See `LogTail`."""
        return len(self.records)

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        """See `LogTail`."""
        return iter(self.records[start:stop])

    def get(self, seq: int) -> Record:
        """See `LogTail`."""
        return self.records[seq]

    def find(self, index: str, key: str) -> list[int]:
        """See `LogTail`."""
        return self._by.get((index, key), [])

    def _stamp(self, at: int, kind: str, body: Any) -> None:
        seq, id_ = len(self.records), body.id if isinstance(body, Outcome) else getattr(body, "request", body)
        name = id_ if isinstance(id_, str) else getattr(id_, "id", "r")
        raw = encode_body(body) if kind == "decision" else encode(body)
        reason = "malformed" if kind == "rejected" else ""
        self.records.append(Record(FORMAT, 0, seq, kind, "fraud", at, at, name, b"", seq, reason, raw))
        if kind == "outcome":
            self._by.setdefault(("target", f"fraud/{body.target}"), []).append(seq)
        else:
            self._by.setdefault(("request", f"fraud/{name}"), []).append(seq)

    # ---- what happens ----

    def _day(self, day: int, faults: Mapping[str, float]) -> Iterator[tuple[int, str, Any]]:
        if faults.get("silent"):
            return
        busy = 1 + 0.2 * np.sin(2 * np.pi * day / 7)
        times = np.sort(self._rng.integers(0, DAY, int(A_DAY * busy * self._rng.uniform(0.9, 1.1))))
        burst = self._rng.integers(0, DAY - 30 * MINUTE) if self._rng.random() < faults.get("burst", 0.1) else -DAY
        for number, time in enumerate(times.tolist()):
            is_burst = burst <= time < burst + 30 * MINUTE
            yield from self._payment(f"p{day}-{number}", START + day * DAY + time, is_burst=is_burst, faults=faults)

    def _payment(
        self, id_: str, at: int, *, is_burst: bool, faults: Mapping[str, float]
    ) -> Iterator[tuple[int, str, Any]]:
        rng = self._rng
        amount = float(np.exp(rng.normal(8, 1))) * faults.get("unit", 1.0)
        speed = rng.exponential(1.0) + (25 if is_burst else 0)
        speed = -1.0 if rng.random() < faults.get("null_feature", 0.0) else speed
        row = np.array([amount, speed, rng.gamma(2.0, 30.0), float(rng.poisson(2))])
        row[3] += 20 if faults.get("tried") and rng.random() < faults["tried"] else 0
        chance = float(Sums().predict(row[None])[0])
        odds = chance / (1 - chance) * faults.get("odds", 1.0)
        told = 1 / (1 + (1 - chance) / chance / faults.get("score", 1.0))
        yield at, "decision", self._decision(id_, at, row, told, faults)
        if rng.random() < faults.get("malformed", 0.0):
            yield at, "rejected", Rejected("event", "", 0, b"")
        if rng.random() < 1 - 1 / (1 + odds) and not faults.get("unreported"):
            late = rng.exponential(2.0) + 1 + faults.get("delay", 0.0)
            reported = at + int(min(late, 19.0) * DAY)
            yield reported, "outcome", Outcome(f"o{id_}", id_, "chargeback", "issuer", reported, 1.0)

    def _decision(self, id_: str, at: int, row: Floats, told: float, faults: Mapping[str, float]) -> Decision:
        rng, is_fallback = self._rng, self._rng.random() < faults.get("fallback", 0.0)
        channel = "kiosk" if rng.random() < faults.get("category", 0.0) else ("ecom", "pos")[int(rng.random() < 0.3)]
        attributes: dict[str, int | float | str | bool] = {
            "amount_minor": int(row[0]),
            "currency": "EUR",
            "channel": channel,
        }
        card = int(rng.integers(1, 2_000))
        entities = {"card": 1 if faults.get("one_card") else card}
        if rng.random() < 0.9 - faults.get("null_field", 0.0):
            entities["device"] = 7
        action = "block" if rng.random() < 0.03 + faults.get("block", 0.0) else "allow"
        stages = {"model": 200_000 if rng.random() < faults.get("slow", 0.0) else 900, "parse": 100}
        late = {"towers late": 1} if rng.random() < faults.get("late", 0.0) else {}
        return Decision(
            id=f"d{id_}",
            request=Event(id_, "payment", at, entities["card"], entities, attributes),
            state_seq=0,
            candidates=(Candidate(id_, "request", {} if is_fallback else {"p_fraud": told}, pack_features(row)),),
            choice=Choice((Slot(action),)),
            versions=Versions("m1", "p1", FEATURES.version, 0),
            mode="fallback" if is_fallback else "live",
            fallback="model_error" if is_fallback else "",
            expected_minor=-int(rng.exponential(20.0) * faults.get("cost", 1.0)),
            stages_us=stages | late,
        )


def champion(seed: int = 1, days: int = 30) -> Champion:
    """Returns a champion with the reference of a quiet month, in the middle of a log."""
    bare = Champion(version="m1", features=FEATURES, heads=("p_fraud",), model=Sums())
    begin = START + 20 * DAY
    tail = read_tail(Payments(seed, 20 + days), SYSTEM, champion=bare, start=begin, stop=begin + days * DAY)
    told = ((one.kind, one.known, int(one.delay_s * SECOND)) for one in tail.reports)
    flows = flows_of(told, tail.times)
    made = reference_of(tail.seen, SYSTEM.schema, names=bare.names, heads=bare.heads, flows=flows, model=bare.model)
    return msgspec.structs.replace(bare, reference=made)
