"""A fraud log written by hand, message by message, through the real admission and the real service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from decalog.clock import DAY, HOUR, ManualClock, rfc3339
from decalog.decisions import Decision, Versions
from decalog.events import Record
from decalog.features.definition import FeatureSet
from decalog.features.online import OnlineState
from decalog.home import Home
from decalog.ingest import Ingest, Rates, RowResult
from decalog.judging import Serving
from decalog.serving import Service
from decalog.systems.fraud.policy import FraudCosts, FraudPolicy
from decalog.systems.fraud.schema import SCHEMA
from decalog.systems.fraud.system import SYSTEM

START = 20_000 * DAY
FEATURES: FeatureSet = SYSTEM.features


class FraudLog:
    """A log in a new home; times are days since its start.

    Args:
        root: of the home.
        policy: what decides, without a model: always the declared fallback.
        shadow: whether decisions stand beside another system's.
        features: other views than the system's own.
    """

    def __init__(
        self,
        root: Path,
        *,
        policy: FraudCosts | None = None,
        shadow: bool = False,
        features: FeatureSet = FEATURES,
    ) -> None:
        self.clock = ManualClock(START)
        self.log = Home(root).writer(self.clock)
        versions = Versions("", "", features.version, 0)
        serving = Serving(
            model=None, head="p_fraud", policy=FraudPolicy(policy or FraudCosts()), versions=versions, shadow=shadow
        )
        self.ingest = Ingest(SCHEMA, self.log, rates=Rates("EUR", {"USD": "0.9"}))
        self.system = msgspec.structs.replace(SYSTEM, features=features)
        self.service = Service(self.system, self.ingest, OnlineState(features), serving=serving)

    def pay(self, name: str, day: float, **fields: Any) -> RowResult:
        """Imports a payment that was known when it happened."""
        self._at(day)
        return self.ingest.event(payment(name, day, **fields))

    def decide(self, name: str, day: float, **fields: Any) -> Decision:
        """Decides a payment."""
        self._at(day)
        return self.service.decide(payment(name, day, **fields))[1]

    def event(self, day: float, **body: Any) -> RowResult:
        """Admits a correction or deletion."""
        self._at(day)
        return self.ingest.event(body)

    def report(self, name: str, target: str, day: float, **fields: Any) -> RowResult:
        """Reports an outcome; an issuer's chargeback for a fraud if nothing else is said."""
        self._at(day)
        body = {"id": name, "payment": target, "kind": "chargeback", "source": "issuer", "value": 1}
        return self.ingest.outcome(body | fields)

    def withdraw(self, name: str, outcome: str, day: float) -> RowResult:
        """Deletes an outcome."""
        self._at(day)
        return self.ingest.outcome({"id": name, "deletes": outcome})

    def records(self, until_day: float | None = None) -> list[Record]:
        """Returns all records; time goes on to a day first, which a table of nobody's marks."""
        if until_day is not None:
            self._at(until_day)
            self.ingest.reject("event", {"id": f"marks day {until_day}"}, error=_refused())
        self.log.commit()
        return list(self.log.read())

    def _at(self, day: float) -> None:
        self.clock.set(START + int(day * DAY))


def payment(name: str, day: float, **fields: Any) -> dict[str, Any]:
    """Returns a payment as a client sends it."""
    body = {
        "id": name,
        "event_time": rfc3339(START + int(day * DAY)),
        "amount_minor": 1_000,
        "currency": "EUR",
        "card": "card-1",
        "device": "device-1",
        "ip": "192.0.2.1",
        "channel": "ecom",
    }
    return {key: value for key, value in (body | fields).items() if value is not None}


def hours(number: float) -> float:
    """Returns hours in days."""
    return number * HOUR / DAY


def _refused() -> Any:
    from decalog.errors import RequestError

    return RequestError(where="test", given="a row that only moves the time", expected="nothing", fix="Nothing.")
