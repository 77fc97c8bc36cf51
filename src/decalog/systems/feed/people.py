"""What retrieval knows of readers: whom they follow, block and mute, their profile, what they liked, what they saw.

All of it is bounded for each reader, so that one who makes a third of the log costs no more than another. What was
forgotten is still in the log and in the features; retrieval alone forgets.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.decisions import Decision, Slot
from decalog.events import Event, Record
from decalog.outcomes import Outcome
from decalog.systems.feed.catalogue import Catalogue
from decalog.systems.feed.popularity import Popularity
from decalog.systems.feed.schema import ACTIONS, DWELL, SESSION

Ints = npt.NDArray[np.int64]

RECENT = 50
"""How many of their last doings a reader is known by; an older one goes first."""
SEEN = 2_000
"""What is among the last that a reader looked at is not shown again."""
LOOKED = 2
PAUSE_S = 900
"""Who asks for no more so long is taken to have looked at these first posts, and down to the last they acted on.

Where it is told when a session ended, they looked on until then: as fast as others did who asked for more.
"""
LOOK_US = 3_000_000
"""How long a look takes, before it is known."""
TIES = 5_000
"""How many authors and topics a reader may follow, block or mute, each; the oldest goes first."""
REQUESTS = 200_000
"""How many of the last requests are known to which reader they belong: what is said of an older one is passed over."""
POINTS_A_DAY = 50.0
"""How much one reader can add to what is popular in a day."""
STAYED_S = 10.0
"""Staying on a post so long counts as liking it."""
WEIGHTS: Mapping[str, float] = {"click": 1.0, "dwell": 1.0, "like": 2.0, "reply": 3.0, "share": 3.0}
"""What an action says of a reader's taste, and how many points it gives a post; hide and report say nothing here."""

_DAY_US = 86_400_000_000
_SECOND_US = 1_000_000
_SLOW_US = 10 * _SECOND_US  # who took longer a post did something else meanwhile


class Engagement(msgspec.Struct, frozen=True):
    """Something a reader did with a post: its handle, when (µs), the record it stands in, the points it gave where."""

    handle: int
    action: str
    at_us: int
    root: int
    points: float = 0.0
    region: str = ""


class Profile(msgspec.Struct, frozen=True):
    """What readers say of themselves."""

    region: str = ""
    language: str = ""
    is_adult: bool = False
    interests: tuple[str, ...] = ()
    root: int = -1


class Person(msgspec.Struct):
    """One reader. Ties are tokens of authors and topics with the record they stand in; `shown`, `opened` are handles.

    A post is in `opened` once for each thing that was done with it, the record that says so in `roots`. Of the last
    slate, `looked` posts are known to be looked at, until `until_us`; those below may have been, or not.
    """

    follow: dict[int, int] = {}
    block: dict[int, int] = {}
    mute: dict[int, int] = {}
    profile: Profile = Profile()
    recent: list[Engagement] = []
    shown: array[int] = msgspec.field(default_factory=lambda: array("q"))
    opened: array[int] = msgspec.field(default_factory=lambda: array("q"))
    roots: array[int] = msgspec.field(default_factory=lambda: array("q"))
    slate: list[int] = []
    slate_s: int = 0
    looked: int = 0
    until_us: int = 0
    day: int = 0
    points: float = 0.0

    def seen(self, now_us: int) -> Ints:
        """Returns the handles of what was shown lately, but for what they will not have looked at."""
        return np.append(self.shown[:], np.array(self.read(now_us), np.int64))[-SEEN:]

    def read(self, now_us: int) -> list[int]:
        """Returns the handles of the last slate as far as they are taken to have looked: all, until a pause."""
        return self.slate[: max(self.looked, LOOKED) if now_us // _SECOND_US > self.slate_s + PAUSE_S else None]

    def keep(self, handles: Sequence[int]) -> None:
        """Remembers what they looked at."""
        _extend(self.shown, handles)


class People:
    """Readers by their tokens; it follows the log, after the catalogue.

    Args:
        catalogue: knows the posts, and counts who is followed and what was shown.
        popularity: counts what people like.
    """

    def __init__(self, catalogue: Catalogue, popularity: Popularity) -> None:
        self._catalogue = catalogue
        self._popularity = popularity
        self._people: dict[int, Person] = {}
        self._requests: OrderedDict[str, tuple[int, str]] = OrderedDict()
        self._said: OrderedDict[int, int] = OrderedDict()
        self._looks, self._looks_us = 1, LOOK_US
        self._own: Mapping[str, Callable[[Person, Record, Event], None]] = {
            **dict.fromkeys(("follow", "block", "mute"), self._tie),
            **dict.fromkeys((*ACTIONS, DWELL), self._did),
            "profile": self._profile,
        }

    def __len__(self) -> int:
        return len(self._people)

    def person(self, token: int, *, is_profiled: bool = True) -> Person:
        """Returns a reader; nobody's row for one who is not known.

        Of one who is not to be profiled it has what they ruled out, what they saw, and what they say of themselves but
        for interests.
        """
        known = self._people.get(token) or Person()
        if is_profiled:
            return known
        profile = msgspec.structs.replace(known.profile, interests=())
        return msgspec.structs.replace(known, follow={}, profile=profile, recent=[], opened=array("q"))

    def follow(self, record: Record, body: Event | Decision | Outcome) -> None:
        """Takes a record."""
        if isinstance(body, Decision):
            self._showed(body)
        elif isinstance(body, Outcome):
            self._answered(record, body)
        elif body.kind in self._own and (person := self._reader(body)) is not None:
            self._own[body.kind](person, record, body)

    def _reader(self, event: Event) -> Person | None:
        """Returns whose event it is; a deletion names nobody but its subject."""
        if event.deleted:
            return self._people.get(event.subject)
        token = event.entities.get("user", 0)
        return self._of(token) if token else None

    def _of(self, token: int) -> Person:
        return self._people.get(token) or self._people.setdefault(token, Person())

    def _showed(self, decision: Decision) -> None:
        request = decision.request
        token = request.entities.get("user", 0)
        if not token:
            return
        person = self._of(token)
        region = str(request.attributes.get("region", "")) or person.profile.region
        _remember(self._requests, request.id, (token, region))
        rest, took_us = len(person.slate) - person.looked, request.event_time - person.until_us
        if 0 < took_us < rest * _SLOW_US:
            self._looks, self._looks_us = self._looks + rest, self._looks_us + took_us
        person.keep(person.read(request.event_time))
        handles = [self._catalogue.handle(slot.ref) for slot in _shown(decision)]
        person.slate = [handle for handle in handles if handle >= 0]
        person.slate_s, person.looked, person.until_us = request.event_time // _SECOND_US, 0, request.event_time
        for handle in person.slate:
            self._catalogue.count_shown(handle)

    def _acted(self, person: Person, handle: int, at_us: int) -> None:
        """Notes how far a slate was read; what stood in one before the last is not shown again either."""
        if handle in person.slate:
            person.looked = max(person.looked, person.slate.index(handle) + 1)
            person.until_us = max(person.until_us, at_us)
        elif handle >= 0:
            person.keep([handle])

    def _answered(self, record: Record, outcome: Outcome) -> None:
        token, region = self._requests.get(outcome.target, (self._said.get(record.root, 0), ""))
        if not token:
            return
        person = self._of(token)
        self._acted(person, self._catalogue.handle(outcome.ref), outcome.event_time)
        if outcome.kind == SESSION and outcome.event_time > person.until_us:
            person.looked += round((outcome.event_time - person.until_us) * self._looks / self._looks_us)
            person.until_us = outcome.event_time
        if not (outcome.deleted or outcome.kind in WEIGHTS):
            return
        _remember(self._said, record.root, token)
        self._withdraw(person, record)
        if outcome.deleted:
            return
        done = Engagement(
            self._catalogue.handle(outcome.ref), outcome.kind, outcome.event_time, record.root, 0.0, region
        )
        self._engage(person, done, outcome.value)

    def _did(self, person: Person, record: Record, event: Event) -> None:
        self._withdraw(person, record)
        if event.deleted:
            return
        handle = self._catalogue.handle(str(event.attributes.get("post", "")))
        if handle >= 0:
            self._catalogue.count_shown(handle)
        self._acted(person, handle, event.event_time)
        done = Engagement(handle, event.kind, event.event_time, record.root, 0.0, person.profile.region)
        self._engage(person, done, float(event.attributes.get("value", 1.0)))

    def _engage(self, person: Person, done: Engagement, value: float) -> None:
        """Keeps what a reader did; the same done twice with a post counts once, and 0 takes it back."""
        if done.handle < 0 or done.action not in WEIGHTS:
            return
        again = next((e for e in person.recent if (e.handle, e.action) == (done.handle, done.action)), None)
        if again is not None and not value:
            self._take_back(person, again.root)
        if again is not None or value < (STAYED_S if done.action == "dwell" else 1.0):
            return
        day = done.at_us // _DAY_US
        if day > person.day:
            person.day, person.points = day, 0.0
        points = min(WEIGHTS[done.action], POINTS_A_DAY - person.points)
        person.points += points
        person.recent.append(msgspec.structs.replace(done, points=points))
        person.recent.sort(key=lambda engagement: engagement.at_us)
        del person.recent[:-RECENT]
        _extend(person.opened, [done.handle])
        _extend(person.roots, [done.root])
        self._popularity.add(done.region, done.handle, points=points, at_us=done.at_us)

    def _withdraw(self, person: Person, record: Record) -> None:
        if record.root != record.seq:  # else it is the first to speak of this
            self._take_back(person, record.root)

    def _take_back(self, person: Person, root: int) -> None:
        for done in [done for done in person.recent if done.root == root]:
            person.recent.remove(done)
            self._popularity.add(done.region, done.handle, points=-done.points, at_us=done.at_us)
        if root in person.roots:
            place = person.roots.index(root)
            del person.opened[place], person.roots[place]

    def _profile(self, person: Person, record: Record, event: Event) -> None:
        said = event.attributes
        if not event.deleted:
            person.profile = Profile(
                str(said.get("region", "")),
                str(said.get("language", "")),
                bool(said.get("is_adult", False)),
                tuple(str(said.get("interests", "")).split()),
                record.root,
            )
        elif person.profile.root == record.root:
            person.profile = Profile()

    def _tie(self, person: Person, record: Record, event: Event) -> None:
        """Keeps the last word on an author or a topic; a correction or deletion first undoes what its record said."""
        ties: dict[int, int] = getattr(person, event.kind)
        counts = 1 if event.kind == "follow" else 0
        undone = [token for token, root in ties.items() if root == record.root] if record.root != record.seq else []
        named = [event.entities[side] for side in ("author", "topic") if side in event.entities]
        for token in (*undone, *named):
            self._cut(ties, token, counts)
        if event.attributes.get("on", True):
            ties.update(dict.fromkeys(named, record.root))
            self._count(event, counts)
        while len(ties) > TIES:
            self._cut(ties, next(iter(ties)), counts)

    def _count(self, event: Event, counts: int) -> None:
        if "author" in event.entities:
            name = str(event.attributes.get("author", ""))
            code = self._catalogue.code_of_author(name, event.entities["author"])
            self._catalogue.authors["followers"][code] += counts

    def _cut(self, ties: dict[int, int], token: int, counts: int) -> None:
        code = self._catalogue.author.code(token)
        if ties.pop(token, None) is not None and code:
            self._catalogue.authors["followers"][code] -= counts


def _shown(decision: Decision) -> tuple[Slot, ...]:
    """Returns what the reader really saw: another system's slate where ours was not acted on."""
    if decision.mode != "shadow":
        return decision.choice.slots
    return decision.theirs.slots if decision.theirs is not None else ()


def _extend(kept: array[int], handles: Sequence[int]) -> None:
    kept.extend(handles)
    if len(kept) >= SEEN * 5 // 4:
        del kept[:-SEEN]


def _remember(known: OrderedDict[Any, Any], key: object, value: object) -> None:
    known[key] = value
    known.move_to_end(key)
    if len(known) > REQUESTS:
        known.popitem(last=False)
