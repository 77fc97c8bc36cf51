"""A feed of few parts behind Gorse's wire: `decalog serve tests.gallery:SYSTEM`.

It shows the newest posts that were not seen, taken out or of another topic; what retrieval says of them is simple too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from tests.slate_log import HEADS, Params
from tests.slate_log import SYSTEM as SLATES

from decalog.candidates import Candidate
from decalog.decisions import Choice, Decision, Slot
from decalog.events import Event, Record
from decalog.features.definition import Aggregate, Attribute, FeatureSet
from decalog.models.base import Floats, Model, ModelSpec, SlateSet
from decalog.outcomes import Outcome
from decalog.policy import Case, Verdict
from decalog.retrieval import Retrieved


class Gallery:
    """Posts by name; who saw and who clicked what."""

    def __init__(self) -> None:
        self.posts: dict[str, Event] = {}
        self.removed: set[str] = set()
        self.seen: set[tuple[int, str]] = set()
        self.clicks: dict[str, int] = {}
        self._refs: dict[int, str] = {}

    def follow(self, record: Record, body: Event | Decision | Outcome) -> None:
        if isinstance(body, Decision):
            user = body.request.entities.get("user", -1)
            self.seen |= {(user, slot.ref) for slot in body.choice.slots}
        elif isinstance(body, Outcome):
            self.clicks[body.ref] = self.clicks.get(body.ref, 0) + 1
        elif body.kind == "post" and body.deleted:
            self.posts.pop(self._refs[record.root], None)
        elif body.kind == "post":
            ref = self._refs[record.root] = str(body.attributes["post"])
            self.posts[ref] = body
        elif body.kind == "moderation":
            ref = str(body.attributes["post"])
            self.removed = self.removed | {ref} if body.attributes["verdict"] == "removed" else self.removed - {ref}
        elif "post" in body.attributes:
            ref = str(body.attributes["post"])
            self.clicks[ref] = self.clicks.get(ref, 0) + 1

    def adopt(self, model: Model | None) -> None:
        """Learns nothing."""

    def retrieve(self, request: Event) -> Retrieved:
        newest = sorted(self.posts, key=lambda ref: (-self.posts[ref].event_time, ref))
        found = self.describe(request, newest)
        dropped = [msgspec.structs.replace(c, dropped=self._dropped(request, c.ref)) for c in found]
        return Retrieved((*(c for c in dropped if not c.dropped), *(c for c in dropped if c.dropped)))

    def describe(self, request: Event, refs: Sequence[str]) -> tuple[Candidate, ...]:
        liked = sorted(self.posts, key=lambda ref: (-self.clicks.get(ref, 0), ref))
        return tuple(self._describe(request, ref, liked) for ref in refs)

    def _describe(self, request: Event, ref: str, liked: list[str]) -> Candidate:
        post = self.posts[ref]
        topic = post.attributes.get("topic")
        attributes: dict[str, Any] = {
            "age_s": (request.event_time - post.event_time) // 1_000_000,
            "popular_rank": 1 + liked.index(ref),
            "two_tower": 1 / (1 + liked.index(ref)),
            "similar": 0.0,
        }
        sources = ["fresh", "popular"]
        if request.entities.get("user", 0) and self.clicks.get(ref):
            sources.append("two_tower")
        recent = [name for name in str(request.attributes.get("recent", "")).split() if name in self.posts]
        if any(self.posts[name].attributes.get("topic") == topic for name in recent):
            attributes["similar"] = 0.75
            sources.append("similar")
        return Candidate(ref, "+".join(sources), entities=post.entities, attributes=attributes)

    def _dropped(self, request: Event, ref: str) -> str:
        if ref in self.removed:
            return "removed"
        if ref in str(request.attributes.get("recent", "")).split():
            return "seen"
        topic = request.attributes.get("only_topic")
        if topic and self.posts[ref].attributes.get("topic") != topic:
            return "topic"
        return "seen" if (request.entities.get("user", 0), ref) in self.seen else ""


class InOrder:
    """Shows what was retrieved, in its order."""

    def __init__(self, params: Params) -> None:
        self.params = params

    @property
    def greedy(self) -> InOrder:
        return self

    def decide(self, case: Case) -> Verdict:
        return self.fall_back(case, "in order")

    def fall_back(self, case: Case, reason: str) -> Verdict:
        competing = [c.ref for c in case.candidates if not c.dropped]
        size = int(case.request.attributes.get("size", 10))
        return Verdict(Choice(tuple(Slot(ref, n) for n, ref in enumerate(competing[:size])), (reason,), "show"))

    def cost_minor(self, action: str, *, label: float, amount_minor: int) -> int:
        return 0

    def worth(self, heads: tuple[str, ...], rows: Floats) -> Floats:
        worth: Floats = rows[:, 0] * self.params.click_minor
        return worth


def never_fit(_slates: SlateSet, _seed: int) -> Model:
    raise NotImplementedError


FEATURES = FeatureSet(
    system="feed",
    lateness="1d",
    features=(
        Aggregate(
            name="clicks",
            meaning="Clicks outside of slates.",
            unit="1",
            entity="user",
            aggregate="count",
            over=("click",),
            window="7d",
        ),
        Attribute(name="size", meaning="Posts asked for.", unit="1", attribute="size"),
    ),
)

SYSTEM = msgspec.structs.replace(
    SLATES,
    features=FEATURES,
    models=(ModelSpec(name="none", meaning="There is none.", fit=never_fit, format="json", head="+".join(HEADS)),),
    policy=InOrder,
    retrieval="tests.gallery:Gallery",
    wire="decalog.systems.feed.wire:WIRE",
)
