"""A small home with every kind of record, written through the production code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np

from decalog.candidates import Candidate
from decalog.clock import SECOND, ManualClock
from decalog.crypto import seal
from decalog.decisions import Choice, Decision, GuardrailVerdict, Slot, Versions, pack_features
from decalog.events import Event, encode, make_table
from decalog.ingest import Rejected
from decalog.log import Draft, Log
from decalog.outcomes import Outcome
from decalog.stores.sqlite import SqliteLogStore
from decalog.stores.vault import SqliteVault

START = 1_700_000_000 * SECOND
SYSTEM = "fraud"


@contextmanager
def open_log(home: Path, clock: ManualClock | None = None) -> Iterator[Log]:
    """Opens a home's log as its writer, and closes it."""
    store = SqliteLogStore(home / "log" / "0.sqlite", writer=True)
    vault = SqliteVault(home / "vault.sqlite", writer=True)
    try:
        yield Log(store, vault, clock or ManualClock(START))
    finally:
        store.close()
        vault.close()


def draft(kind: str, id_: str, body: msgspec.Struct, **stamps: object) -> Draft:
    """Returns a draft as the writers of that kind make it."""
    given = {"digest": id_.encode(), "event_time": START, **stamps}
    return msgspec.convert({"kind": kind, "system": SYSTEM, "id": id_, "body": encode(body), **given}, Draft)


def event(log: Log, id_: str, card: str, **attributes: float | str | bool) -> Event:
    """Returns a payment of a card, its name sealed."""
    token = log.vault.token("card", card)
    cipher = log.vault.cipher(token)
    assert cipher is not None
    sealed = seal(cipher, {"card": card}, bound_to=id_)
    return Event(id_, "payment", START, token, {"card": token}, dict(attributes), sealed)


def decision(log: Log, id_: str, card: str, **attributes: float | str | bool) -> Decision:
    """Returns a decision on a payment."""
    values = pack_features(np.array([1.5, -0.0, 2.0**-1074]))
    return Decision(
        id=f"decision {id_}",
        request=event(log, id_, card, **attributes),
        state_seq=log.position,
        candidates=(Candidate("payment", predictions={"p_fraud": 0.25}, features=values),),
        choice=Choice((Slot("review", propensity=0.5),), ("velocity", "amount")),
        versions=Versions("m1", "p1", "f1", 0),
        guardrails=(GuardrailVerdict("capacity", "block", "review", "full"),),
        expected_minor=-250,
        currency="EUR",
        taken="allow",
    )


def fill(log: Log, count: int = 3) -> None:
    """Appends a table, then `count` times an event, a decision, an outcome and a quarantined row, and commits."""
    log.stamp(msgspec.structs.replace(draft("table", "rates", make_table("rates", {"USD": "0.9"})), system=""))
    for number in range(count):
        _append_round(log, f"{log.position}", number)
    log.commit()


def _append_round(log: Log, name: str, number: int) -> None:
    log.stamp(draft("event", f"event {name}", event(log, f"event {name}", f"card {number}", amount_minor=100 * number)))
    payment = f"payment {name}"
    chosen = decision(log, payment, f"card {number}", amount_minor=7, channel="ecom", new=True, ratio=0.5)
    log.stamp(draft("decision", payment, chosen, keys=(("decision", chosen.id),)))
    outcome = Outcome(f"outcome {name}", payment, "chargeback", "issuer", START, 1.0, 700, "EUR")
    log.stamp(draft("outcome", outcome.id, outcome, keys=(("target", f"{SYSTEM}/{payment}"),)))
    row = Rejected("event", "amount out of range", 5, b"")
    log.stamp(draft("rejected", f"mark {name}", row, reason="range", keys=(("rejected", f"{SYSTEM}/mark {name}"),)))
