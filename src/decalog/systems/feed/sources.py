"""Where candidates come from: seven ways to find posts for a reader, each a function of the same question.

A source returns slots of the catalogue, best first, and no more than it was asked for. It reads and changes nothing, so
that one which comes too late does no harm.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.events import Event
from decalog.models.kinship import liking
from decalog.models.two_tower import bare
from decalog.stores.base import VectorIndex
from decalog.systems.feed.catalogue import Catalogue, Ints, Mask, newest_first
from decalog.systems.feed.people import WEIGHTS, Person
from decalog.systems.feed.popularity import Popularity

Floats = npt.NDArray[np.float32]

FADE = 0.95
"""How much less the last but one doing of a reader says of their taste than the last."""
LIKENED = 2
"""Of how many posts, the last ones engaged with, others are sought that are like them."""
AUTHORS, OF_EACH = 200, 10
"""How many followed authors, those who wrote last, and how many posts of each are looked through."""
READ = 0.1
"""A language is a reader's where a larger share of what they took up is in it; one post may be a slip."""
LITTLE_SHOWN = 20
"""A post shown less often is given a chance."""

CHOSEN = 6.0
"""A topic that a reader chose or follows says as much of their taste as so many posts on it that they took up, and an
author whom they follow as much as one."""
_PROBES = 8  # slots drawn for each one wanted, before all that are allowed are counted out


class Asked(msgspec.Struct, kw_only=True):
    """A request, with all that the sources look at.

    Args:
        request: as it came.
        now_us: when.
        person: who asks, as known so far.
        region, language, is_adult: as the request says, or else the profile.
        engaged: slots of what the reader liked last, newest first.
        weights: what each says of their taste, > 0.
        seen: slots of what they were shown or read lately.
        opened: slots of what they took up lately, one for each thing that they did.
        authors: for each author's code whether the reader follows them.
        topics: for each topic's code whether the reader follows or chose it.
        languages: for each language's code whether they read it.
        leanings: for each topic's code its share of what the authors they follow wrote last.
        allowed: for each slot whether its post may be shown.
    """

    request: Event
    now_us: int
    person: Person
    region: str
    language: str
    is_adult: bool
    engaged: Ints
    weights: npt.NDArray[np.float64]
    seen: Ints
    opened: Ints
    authors: Mask
    topics: Mask
    languages: Mask
    leanings: npt.NDArray[np.float64]
    allowed: Mask = np.zeros(0, np.bool_)


class Found(msgspec.Struct):
    """What a source found: slots, best first; their scores, where it has any; what it passed over as not allowed.

    `probes` are the vectors it searched with, (q, dim).
    """

    slots: Ints
    scores: npt.NDArray[Any] | None = None
    passed: Ints = np.zeros(0, np.int64)
    probes: Floats | None = None


class Sight(msgspec.Struct, eq=False):
    """What the sources look into; `towers`, `neighbours`, `kin` and `index` are None without a model."""

    catalogue: Catalogue
    popularity: Popularity
    towers: Any = None
    neighbours: Any = None
    kin: Any = None
    index: VectorIndex | None = None
    _kin: npt.NDArray[np.float64] = np.zeros((0, 0))

    def liking(self, asked: Asked) -> npt.NDArray[np.float64]:
        """Returns how much more than usual a reader is believed to take up of each topic by its code; see `kinship`."""
        topics, many = self.catalogue.posts["topic"], min(len(asked.topics), len(asked.leanings))
        if len(self._kin) < many:
            self._kin = self.kin.vectors(self.catalogue.topic.names)
        # A post counts once, whatever was done with it; where none was taken up, what was seen says nothing of a taste.
        seen = np.unique(asked.seen if len(asked.opened) else asked.opened)
        opened = np.intersect1d(asked.opened, seen)
        looked, taken = (np.bincount(topics[slots], minlength=many)[:many] for slots in (seen, opened))
        said = CHOSEN * asked.topics[:many] + np.count_nonzero(asked.authors) * asked.leanings[:many]
        return liking(self._kin[:many], looked=looked, taken=taken, said=said)


NOTHING = Found(np.zeros(0, np.int64))


class Source(Protocol):
    """A way to find posts."""

    def __call__(self, sight: Sight, asked: Asked, *, k: int) -> Found:
        """Returns the k best at most."""


def two_tower(sight: Sight, asked: Asked, *, k: int) -> Found:
    """Finds the posts nearest to the reader, whose vector is made now from what they did last."""
    return NOTHING if sight.index is None else _nearest(sight.index, _reader(sight, sight.index, asked), asked, k=k)


def _reader(sight: Sight, index: VectorIndex, asked: Asked) -> Floats:
    """Returns where the reader stands, (1, dim), made now from what they did last and say of themselves."""
    sides = {
        "interests": asked.person.profile.interests,
        "region": (asked.region,) if asked.region else (),
        "language": (asked.language,) if asked.language else (),
    }
    vectors = index.vectors(asked.engaged)
    reader: Floats = sight.towers.user_vector(vectors, asked.weights.astype(np.float32), sides=sides)
    return reader[None]


def similar(sight: Sight, asked: Asked, *, k: int) -> Found:
    """Finds the posts that are like one of the last ones the reader engaged with."""
    if sight.index is None or not len(asked.engaged):
        return NOTHING
    return _nearest(sight.index, bare(sight.index.vectors(asked.engaged[:LIKENED])), asked, k)


def probed(sight: Sight, asked: Asked) -> dict[str, Found]:
    """Returns what posts are compared with, without looking for any."""
    found = {"neighbours": neighbours(sight, asked, k=SOURCES["neighbours"][1])}
    if sight.index is not None:
        found["two_tower"] = Found(NOTHING.slots, probes=_reader(sight, sight.index, asked))
        if len(asked.engaged):
            found["similar"] = Found(NOTHING.slots, probes=bare(sight.index.vectors(asked.engaged[:LIKENED])))
    return found


def neighbours(sight: Sight, asked: Asked, *, k: int) -> Found:
    """Finds the posts that others engaged with who engaged with the same ones."""
    if sight.neighbours is None or not len(asked.engaged):
        return NOTHING
    history = sight.catalogue.posts["ref"][asked.engaged[::-1]].tolist()
    scored = sight.neighbours.score(history, 2 * k)
    slots = np.array([sight.catalogue.slot(ref) for ref, _ in scored], np.int64)
    is_known = slots >= 0
    return _picked(slots[is_known], asked, k, scores=np.array([score for _, score in scored])[is_known])


def following(sight: Sight, asked: Asked, *, k: int) -> Found:
    """Finds the newest posts of the authors and topics that the reader follows, and of the topics they chose."""
    catalogue, ties = sight.catalogue, asked.person.follow
    if not ties and not asked.person.profile.interests:
        return NOTHING
    latest = catalogue.latest()
    on_topic = latest[asked.topics[catalogue.posts["topic"][latest]]]
    slots = np.unique(np.concatenate([_written(catalogue, asked.person), on_topic]))
    return _picked(newest_first(catalogue.posts, slots), asked, k)


def leanings(catalogue: Catalogue, person: Person) -> npt.NDArray[np.float64]:
    """Returns each topic's share of what the authors wrote last whom a reader follows; 0 where they follow none."""
    topics = catalogue.posts["topic"][_written(catalogue, person)]
    return np.bincount(topics, minlength=len(catalogue.topic.names)) / max(len(topics), 1)


def _written(catalogue: Catalogue, person: Person) -> Ints:
    codes = np.array([code for code in map(catalogue.author.code, tuple(person.follow)) if code], np.int64)
    newest = catalogue.authors["newest"][codes] if len(codes) else codes
    active = codes[np.argsort(-newest, kind="stable")[:AUTHORS]].tolist()
    return np.array([slot for code in active for slot in catalogue.by_author.get(code, ())[-OF_EACH:]], np.int64)


def fresh(sight: Sight, asked: Asked, *, k: int) -> Found:
    """Finds new posts: one half the newest, the other the newest of those that hardly anyone was shown."""
    latest = sight.catalogue.latest()
    latest = latest[np.argsort(-_suits(sight, asked, latest), kind="stable")]
    open_ = _picked(latest, asked, k - k // 2)
    left = latest[len(open_.slots) + len(open_.passed) :]
    rare = left[asked.allowed[left] & (sight.catalogue.posts["shown"][left] < LITTLE_SHOWN)][: k // 2]
    open_.slots = np.concatenate([open_.slots, rare])
    return open_


def popular(sight: Sight, asked: Asked, *, k: int) -> Found:
    """Finds what people of the region like now, then what all do; first in the reader's language and interests."""
    slots = sight.catalogue.standing(sight.popularity.top(asked.region, 2 * k))
    slots = slots[slots >= 0]
    slots = slots[np.sort(np.unique(slots, return_index=True)[1])]
    liked = _picked(slots, asked, k)
    liked.slots = liked.slots[np.argsort(-_suits(sight, asked, liked.slots), kind="stable")]
    return liked


def explore(sight: Sight, asked: Asked, *, k: int) -> Found:
    """Draws posts by a hash of the request, keyed with the reader's token: no caller knows the draw beforehand."""
    key = asked.request.subject.to_bytes(8, "big", signed=True)
    seed = int.from_bytes(hashlib.blake2b(asked.request.id.encode(), digest_size=8, key=key).digest(), "big")
    count = min(sight.catalogue.used, len(asked.allowed))
    if not count:
        return NOTHING
    drawn = (_scattered(np.arange(k * _PROBES), seed) % np.uint64(count)).astype(np.int64)
    drawn = drawn[asked.allowed[drawn]]
    slots = drawn[np.sort(np.unique(drawn, return_index=True)[1])][:k]
    if len(slots) < k:
        slots = np.flatnonzero(asked.allowed[:count])
        slots = slots[np.argsort(_scattered(slots, seed))[:k]]
    return Found(slots)


SOURCES: Mapping[str, tuple[Source, int, int]] = {
    "two_tower": (two_tower, 240, 160),
    "neighbours": (neighbours, 120, 80),
    "following": (following, 120, 80),
    "similar": (similar, 80, 60),
    "popular": (popular, 80, 50),
    "fresh": (fresh, 80, 40),
    "explore": (explore, 60, 30),
}
"""Name → source, how many posts it may find, and how many of them compete in any case; the latter sum to 500."""


def taste(person: Person, catalogue: Catalogue, *, session: Ints) -> tuple[Ints, npt.NDArray[np.float64]]:
    """Returns the slots of what a reader liked, newest first, and what each says of their taste.

    Args:
        person: whose doings.
        catalogue: for what is still there.
        session: slots of what they read since, newest first.
    """
    weights = dict.fromkeys(session.tolist(), 1.0)
    recent = list(person.recent)  # another thread may add to it
    slots = catalogue.standing(np.array([done.handle for done in recent], np.int64))
    for done, slot in zip(reversed(recent), slots[::-1].tolist(), strict=True):
        if slot >= 0:
            weights[slot] = weights.get(slot, 0.0) + WEIGHTS[done.action]
    fading = FADE ** np.arange(len(weights))
    return np.array(list(weights), np.int64), np.array(list(weights.values())) * fading


def languages(catalogue: Catalogue, own: str, *, engaged: Ints, weights: npt.NDArray[np.float64]) -> Mask:
    """Returns for each language's code whether a reader reads it: their own, and those of what they took up.

    All, where neither is known; and a post without a language is for everybody.

    Args:
        catalogue: for the posts' languages.
        own: as they say; "" where they do not.
        engaged: slots of what they liked last.
        weights: what each says of them.
    """
    code = catalogue.language.code(own)
    shares = np.bincount(catalogue.posts["language"][engaged], weights, minlength=len(catalogue.language.names))
    shares[0] = 0.0
    reads: Mask = shares > READ * shares.sum()
    reads[[0, code]] = True
    return reads if code or reads[1:].any() else np.ones_like(reads)


def _nearest(index: VectorIndex, probes: Floats, asked: Asked, k: int) -> Found:
    scores, slots = index.search(probes, k, allowed=asked.allowed)
    is_found = slots >= 0
    order = np.argsort(-scores[is_found], kind="stable")
    slots = slots[is_found][order]
    return Found(slots[np.sort(np.unique(slots, return_index=True)[1])][:k], probes=probes)


def _picked(slots: Ints, asked: Asked, k: int, *, scores: npt.NDArray[Any] | None = None) -> Found:
    """Returns the first k slots that are allowed, and what was passed over on the way to them."""
    is_open = asked.allowed[slots]
    places = np.flatnonzero(is_open)[:k]
    until = int(places[-1]) if len(places) == k else len(slots)
    passed = slots[:until][~is_open[:until]]
    return Found(slots[places], None if scores is None else scores[places], passed)


def _suits(sight: Sight, asked: Asked, slots: Ints) -> npt.NDArray[np.int8]:
    """Returns 2 where a post is on one of the reader's topics, and 1 more where they read its language."""
    posts = sight.catalogue.posts
    topics, languages = asked.topics[posts["topic"][slots]], asked.languages[posts["language"][slots]]
    # Numbers of 8 bits are sorted by counting.
    suits: npt.NDArray[np.int8] = 2 * topics.astype(np.int8) + languages.astype(np.int8)
    return suits


def _scattered(numbers: Ints, seed: int) -> npt.NDArray[np.uint64]:
    """Returns a 64-bit hash of each number (the finaliser of SplitMix64: Steele, Lea and Flood, OOPSLA 2014)."""
    mixed = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
