"""A log of slates written by hand: feed's schema with few features, a shelf for a catalogue, and a plain policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from decalog.candidates import Candidate
from decalog.clock import DAY, HOUR, ManualClock, rfc3339
from decalog.decisions import Choice, Decision, Slot, Versions
from decalog.events import Event, Record
from decalog.features.definition import Aggregate, Attribute, FeatureSet
from decalog.features.online import OnlineState
from decalog.home import Home
from decalog.ingest import Ingest, Rates, RowResult
from decalog.judging import Serving
from decalog.models.base import Floats, Model
from decalog.outcomes import Outcome
from decalog.policy import Case, Verdict
from decalog.retrieval import Retrieved
from decalog.serving import Service
from decalog.system import System
from decalog.systems.feed.schema import SCHEMA
from decalog.tables import Tables

START = 20_000 * DAY
HEADS = tuple(signal.head for signal in SCHEMA.signals)


def _count(entity: str, kind: str, **more: Any) -> Aggregate:
    name = f"{entity.replace('+', '_')}_{kind.replace('.', '_')}"
    return Aggregate(
        name=name, meaning=name, unit="1", entity=entity, aggregate="count", over=(kind,), window="7d", **more
    )


FEATURES = FeatureSet(
    system="feed",
    lateness="1d",
    features=(
        _count("user", "shown"),
        _count("post", "shown"),
        _count("author", "shown"),
        _count("user+author", "shown"),
        _count("post", "outcome.click"),
        _count("user+author", "outcome.click"),
        _count("user", "feed_request"),
        Attribute(name="age_s", meaning="age", unit="s", attribute="age_s"),
        Attribute(name="size", meaning="size", unit="1", attribute="size"),
    ),
)


class Shelf:
    """Every post that was put on it and not taken away, newest first; blocked authors are ruled out."""

    def __init__(self) -> None:
        self.posts: dict[str, Event] = {}
        self.blocked: set[tuple[int, int]] = set()
        self.adopted: list[Model | None] = []
        self.aside: list[Model | None] = []
        self.error: Exception | None = None
        self.followed: list[str] = []

    def follow(self, record: Record, body: Event | Decision | Outcome) -> None:
        self.followed.append(record.kind)
        if not isinstance(body, Event):
            return
        if body.kind == "post" and not body.deleted:
            self.posts[str(body.attributes["post"])] = body
        elif body.kind == "post":
            self.posts = {ref: post for ref, post in self.posts.items() if post.id != body.corrects}
        elif body.kind == "block":
            self.blocked.add((body.entities["user"], body.entities["author"]))

    def adopt(self, model: Model | None, *, aside: bool = False) -> None:
        (self.aside if aside else self.adopted).append(model)

    def retrieve(self, request: Event, model: Model | None = None) -> Retrieved:
        if self.error is not None:
            raise self.error
        newest = sorted(self.posts, key=lambda ref: (-self.posts[ref].event_time, ref))
        found = self.describe(request, newest)
        me = request.entities.get("user", -1)
        is_out = [(me, candidate.entities["author"]) in self.blocked for candidate in found]
        kept = [candidate for candidate, out in zip(found, is_out, strict=True) if not out]
        ruled_out = [
            msgspec.structs.replace(candidate, dropped="blocked")
            for candidate, out in zip(found, is_out, strict=True)
            if out
        ]
        return Retrieved((*kept, *ruled_out), late=("towers",), stages_us={"shelf": 1, "towers": 9})

    def describe(self, request: Event, refs: Sequence[str]) -> tuple[Candidate, ...]:
        return tuple(self._describe(request, ref) for ref in refs)

    def _describe(self, request: Event, ref: str) -> Candidate:
        post = self.posts.get(ref)
        if post is None:
            return Candidate(ref)
        age_s = (request.event_time - post.event_time) // 1_000_000
        return Candidate(ref, "shelf", entities=post.entities, attributes={"age_s": age_s})


class Clicks:
    """p_click falls with age, all other heads are 0.01."""

    blocking = False

    def predict(self, rows: Floats) -> Floats:
        made = np.full((len(rows), len(HEADS)), 0.01)
        place = FEATURES.names_for("model").index("age_s")
        made[:, 0] = 1 / (2 + rows[:, place] / 3_600)
        return made

    def save(self, folder: Path) -> Mapping[str, Any]:
        return {}


class Params(msgspec.Struct, frozen=True):
    """Parameters of the plain policy."""

    click_minor: int = 10


class Best:
    """The likeliest to be clicked first; the second slot is drawn evenly from the two that are best then."""

    def __init__(self, params: Params, *, explores: bool = True) -> None:
        self.params = params
        self._explores = explores

    @property
    def greedy(self) -> Best:
        return Best(self.params, explores=False)

    def decide(self, case: Case) -> Verdict:
        competing = [c for c in case.candidates if not c.dropped]
        order = sorted(competing, key=lambda c: (-c.predictions["p_click"], c.ref))
        size = int(case.request.attributes.get("size", 2))
        slots: list[Slot] = []
        for place in range(min(size, len(order))):
            is_drawn = self._explores and place == 1 and len(order) > 1
            which = int(case.draw("second") * 2) if is_drawn else 0
            slots.append(Slot(order.pop(which).ref, place, propensity=0.5 if is_drawn else 1.0))
        return Verdict(Choice(tuple(slots), ("newest first",), "show"))

    def fall_back(self, case: Case, reason: str) -> Verdict:
        competing = [c for c in case.candidates if not c.dropped]
        return Verdict(Choice(tuple(Slot(c.ref, n) for n, c in enumerate(competing[:2])), (reason,), "show"))

    def cost_minor(self, action: str, *, label: float, amount_minor: int) -> int:
        return 0

    def worth(self, heads: tuple[str, ...], rows: Floats) -> Floats:
        worth: Floats = rows[:, heads.index("p_click")] * self.params.click_minor
        return worth


SYSTEM = System(
    schema=SCHEMA,
    features=FEATURES,
    models=(),
    policy=Best,
    policy_params=Params,
    metrics=(),
    monitors=(),
    world="",
    retrieval="tests.slate_log:Shelf",
)


class SlateLog:
    """A log in a new home; times are hours since its start."""

    def __init__(self, root: Path, *, model: Model | None = None, shadow: bool = False) -> None:
        self.clock = ManualClock(START)
        self.home = Home(root)
        self.log = self.home.writer(self.clock)
        Tables(self.log).put("feed", "features", content=msgspec.Raw(FEATURES.to_json()))
        self.shelf = Shelf()
        self.ingest = Ingest(SCHEMA, self.log, rates=Rates())
        self.ingest.describe = self.shelf.describe
        versions = Versions("m1", "p1", FEATURES.version, 0)
        self.serving = Serving(
            model=model, head="+".join(HEADS), policy=Best(Params()), versions=versions, shadow=shadow
        )
        self.service = Service(SYSTEM, self.ingest, OnlineState(FEATURES), serving=self.serving, retrieval=self.shelf)

    def add(self, kind: str, hour: float, **fields: Any) -> RowResult:
        """Admits an event."""
        return self.ingest.event({**self._at(kind, hour), "kind": kind, **fields})

    def said(self, kind: str, hour: float, of: str, **fields: Any) -> RowResult:
        """Admits an outcome of a request."""
        body = {"feed_request": of, "kind": kind, "source": "app", "value": 1.0}
        return self.ingest.outcome({**self._at(kind, hour), **body, **fields})

    def ask(self, hour: float, user: str = "ada", **fields: Any) -> Decision:
        """Asks for a slate."""
        return self.service.decide({**self._at("slate", hour), "user": user, **fields})[1]

    def _at(self, name: str, hour: float) -> dict[str, Any]:
        now = START + int(hour * HOUR)
        self.clock.set(max(now, self.clock.now_us()))
        return {"id": f"{name}-{self.log.position}", "event_time": rfc3339(now)}


def posts(log: SlateLog, count: int, *, authors: int = 3) -> None:
    """Puts posts on the shelf, one an hour, by authors in turn."""
    for number in range(count):
        log.add("post", number, post=f"p{number}", author=f"a{number % authors}", topic="t")
