"""A home with two systems and a few people of known names, decided on by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from decalog.clock import MINUTE, ManualClock, rfc3339, time_us
from decalog.deployment import Deployment, Setup
from decalog.home import Home
from decalog.log import Log
from decalog.serving import Service

START = time_us("2026-03-01T12:00:00Z")
ADA, BOB = "cus_ada_5512", "cus_bob_7719"
READER = "reader_ada_31"
SECRETS = {
    "card": "card-4111-ada",
    "customer": ADA,
    "device": "device-shared-1",
    "email": "ada@analytical.example",
    "cardholder": "Ada Lovelace",
}
"""What stands in Ada's envelopes; her device is Bob's too."""


def payment(id_: str, **more: Any) -> bytes:
    body = {"id": id_, "amount_minor": 2_500, "currency": "EUR", "merchant": "shop", **more}
    return msgspec.json.encode(body)


def of_ada(id_: str, **more: Any) -> bytes:
    return payment(id_, **{**SECRETS, **more})


def of_bob(id_: str, **more: Any) -> bytes:
    own = {"customer": BOB, "card": "card-5500-bob", "device": SECRETS["device"], "cardholder": "Bob Babbage"}
    return payment(id_, **{**own, **more})


class Shop:
    """A home open for writing, its services and its clock."""

    def __init__(self, home: Home, log: Log, clock: ManualClock, services: Mapping[str, Service]) -> None:
        self.home, self.log, self.clock, self.services = home, log, clock, services

    @property
    def fraud(self) -> Service:
        return self.services["fraud"]

    @property
    def feed(self) -> Service:
        return self.services["feed"]

    def later(self, minutes: int = 1) -> None:
        self.clock.set(self.clock.now_us() + minutes * MINUTE)

    def decide(self, raw: bytes, *, system: str = "fraud") -> dict[str, Any]:
        self.later()
        record, decision, _ = self.services[system].decide(raw)
        return {"seq": record.seq, "decision": decision}


@contextmanager
def shop(root: Path, *names: str, setup: Setup | None = None) -> Iterator[Shop]:
    """Gives a home open for writing; what is done in it is durable at the end."""
    home, clock = Home(root), ManualClock(START)
    log = home.writer(clock)
    clock.set(max(START, log.known_time))
    try:
        services = {name: Deployment(home, name, log, setup).service() for name in names or ("fraud",)}
        yield Shop(home, log, clock, services)
        log.commit()
    finally:
        log.close()


def clock_of(home: Home) -> ManualClock:
    """Returns a clock that stands a minute behind the log's last record, so that its windows still hold it."""
    log = home.reader()
    try:
        return ManualClock(log.known_time + MINUTE)
    finally:
        log.close()


def fill(root: Path) -> Home:
    """Returns a home where Ada and Bob paid, an analyst looked, a chargeback came, and one row was refused."""
    with shop(root) as open_:
        for number in range(4):
            open_.decide(of_ada(f"ada-{number}"))
            open_.decide(of_bob(f"bob-{number}"))
        ingest = open_.fraud.ingest
        ingest.outcome({"id": "cb-1", "payment": "ada-0", "kind": "chargeback", "source": "issuer", "value": 1})
        looked = {
            "id": "v-1",
            "payment": "ada-1",
            "kind": "analyst_verdict",
            "source": "analyst",
            "value": 0,
            "by": "x7",
        }
        ingest.outcome(looked)
        corrected = {**msgspec.json.decode(of_ada("ada-2b")), "corrects": "ada-2", "cardholder": "Ada King"}
        ingest.event(corrected | {"event_time": rfc3339(open_.clock.now_us())})
        ingest.event({**msgspec.json.decode(of_ada("ada-9")), "amount_minor": "none"})
    return Home(root)


def feed_home(root: Path) -> Home:
    """Returns a home where two readers read posts."""
    with shop(root, "feed") as open_:
        for number in range(6):
            post = {"id": f"e{number}", "kind": "post", "post": f"post-{number}", "author": f"author-{number % 2}"}
            open_.feed.ingest.event({**post, "topic": "engines", "language": "en"})
        for name, reader in (("ada", READER), ("bob", "reader_bob_32")):
            follow = {"id": f"f-{name}", "kind": "follow", "user": reader, "author": "author-1"}
            open_.feed.ingest.event(follow)
            profile = {"id": f"p-{name}", "kind": "profile", "user": reader, "comment": f"a note on {reader}"}
            open_.feed.ingest.event({**profile, "interests": "engines"})
            made = open_.decide(msgspec.json.encode({"id": f"r-{name}", "user": reader, "size": 3}), system="feed")
            shown = made["decision"].choice.slots[0].ref
            click = {"id": f"c-{name}", "feed_request": f"r-{name}", "kind": "click", "source": "app", "ref": shown}
            open_.feed.ingest.outcome({**click, "value": 1})
    return Home(root)
