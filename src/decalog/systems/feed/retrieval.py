"""Candidate generation: seven sources asked at once under one deadline, filters, and at most 500 posts that compete.

What may not be shown is masked out before a source looks, so that no place is spent on it. What the sources passed over
on their way is kept in the record with the name of the filter.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.candidates import Candidate, Candidates, Column, named
from decalog.decisions import Decision
from decalog.events import Event, Record
from decalog.features.candidates import firsts
from decalog.models.base import Model
from decalog.models.two_tower import bare
from decalog.outcomes import Outcome
from decalog.retrieval import UNPROFILED, Retrieved
from decalog.searching import Search, Sources
from decalog.stores.table import open_index
from decalog.systems.feed.catalogue import RULES, TOO_OLD_US, Catalogue, Ints, Mask
from decalog.systems.feed.people import People
from decalog.systems.feed.popularity import Popularity
from decalog.systems.feed.slate.competitors import SENSITIVE
from decalog.systems.feed.sources import SOURCES, Asked, Floats, Found, Sight, languages, leanings, probed, taste

MOST = 500
"""How many posts compete."""
DROPPED = 100
"""How many of those that were ruled out are recorded."""
DEADLINE_MS = 15.0

_BITS = {name: 1 << bit for bit, name in enumerate(SOURCES)}
_JOINED = ["+".join(name for name, bit in _BITS.items() if bits & bit) for bits in range(1 << len(_BITS))]
_PARTS = ("towers", "neighbours", "kin")  # of a model, what finds and describes posts
_FILTERS = (*RULES, "", "blocked", "muted", "seen")
_RANKED = {"popular", "fresh", "following"}
_SKETCHED = 64
_EMBEDDED = 50_000  # posts whose vectors are made at a time
_SECOND_US = 1_000_000


class FeedRetrieval:
    """Finds posts for a reader; it implements `decalog.retrieval.Retrieval`.

    One thread follows the log; `retrieve` may run in it or in others. What `adopt` takes long for may run beside both:
    posts that come or go until it is done are in the new index too.

    Args:
        deadline_ms: what the sources did not answer by then is not waited for; it may be changed.
        engine: short name of the index of vectors; "" for the best that is installed.
    """

    def __init__(self, *, deadline_ms: float = DEADLINE_MS, engine: str = "") -> None:
        self.catalogue, self.popularity = Catalogue(), Popularity()
        self.people = People(self.catalogue, self.popularity)
        self.deadline_ms, self._engine = deadline_ms, engine
        self._sight = Sight(self.catalogue, self.popularity)
        self._sources = Sources(SOURCES, "decalog-feed")
        self._sights = WeakKeyDictionary[Any, Sight]()
        self._swapping, self._adopting = threading.RLock(), threading.Lock()
        self._changed: list[int] | None = None
        self._touched: list[int] = []  # since the last request: their vectors are made together when it comes

    def follow(self, record: Record, body: Event | Decision | Outcome) -> None:
        """Takes an admitted record; the next request sees it."""
        touched = self.catalogue.follow(record, body)
        if touched:
            with self._swapping:
                self._touched.extend(touched)
        self.people.follow(record, body)

    def adopt(self, model: Model | None, *, aside: bool = False) -> None:
        """Makes the vectors of all posts with a model, and searches among them from the next request on.

        Raises:
            ModelError: it gives vectors that are not finite; what was adopted before stays.
        """
        sight = self._sight_of(model)
        if sight is None:
            with self._adopting:  # what changes meanwhile is noted for one at a time
                sight = self._sight_of(model) or self._seen_with(model)
        if not aside:
            self._sight = sight

    def _sight_of(self, model: Model | None) -> Sight | None:
        """Returns what a model looks into; None for one that finds posts and was not adopted."""
        has_parts = any(getattr(model, part, None) is not None for part in _PARTS)
        return self._sights.get(model) if has_parts else Sight(self.catalogue, self.popularity)

    def _seen_with(self, model: Any) -> Sight:
        parts: dict[str, Any] = {part: getattr(model, part, None) for part in _PARTS}
        sight = Sight(self.catalogue, self.popularity, **parts)
        if sight.towers is not None:
            sight.index = open_index(sight.towers.dim, self._engine)
        with self._swapping:
            self._changed = []
            slots = np.arange(self.catalogue.used)
            if all(one.index is None for one in (self._sight, *self._sights.values())):
                self._touched.clear()  # the first index: what was touched so far is made here, and nowhere else
        try:
            self._index(sight, slots)
            with self._swapping:
                self._reindex(sight, np.unique(np.array(self._changed, np.int64)))
                self._sights[model] = sight
        finally:
            self._changed = None
        return sight

    def retrieve(self, request: Event, model: Model | None = None) -> Retrieved:
        """Returns the candidates of a request, and what was ruled out."""
        return self.search(request, model).here()

    def search(self, request: Event, model: Model | None = None) -> Search[Found, Retrieved]:
        """Asks the sources."""
        started = time.perf_counter_ns()
        sight, asked = self._sight_for(request, model), self._understood(request)
        filters_us = _since(started)

        def answer(name: str) -> Found:
            source, k, _ = SOURCES[name]
            return source(sight, asked, k=k)

        def gather(found: Mapping[str, Found], took_us: dict[str, int]) -> Retrieved:
            return self._gathered(sight, asked, found, {"filters": filters_us} | took_us)

        return Search(self._sources, answer, gather, deadline_ms=self.deadline_ms)

    def _gathered(self, sight: Sight, asked: Asked, found: Mapping[str, Found], stages_us: dict[str, int]) -> Retrieved:
        started = time.perf_counter_ns()
        slots, bits = _merged({name: part.slots for name, part in found.items()}, MOST)
        # The mask lets posts pass that became too old within the hour, and some may have gone since it was made.
        is_open = self.catalogue.posts["created"][slots] >= asked.now_us - TOO_OLD_US
        is_open &= self._eligible(asked)[slots]
        passed = _merged({name: part.passed for name, part in found.items()}, DROPPED)
        closed = (np.concatenate(both) for both in zip((slots[~is_open], bits[~is_open]), passed, strict=True))
        gone, gone_bits, dropped = self._ruled_out(asked, *closed)
        slots, bits = slots[is_open], bits[is_open]
        candidates = msgspec.structs.replace(
            self._named(np.concatenate([slots, gone]), np.concatenate([bits, gone_bits])),
            attributes=self._described(sight, asked, slots, found),
            dropped=dropped,
        )
        stages_us["merge"] = _since(started)
        late = tuple(name for name in SOURCES if name not in found)
        return Retrieved(candidates, late, stages_us)

    def _sight_for(self, request: Event, model: Model | None = None) -> Sight:
        """Returns what the sources look into for a request, by a model or by the one in force."""
        settled = self._settled()
        if UNPROFILED in request.attributes:
            return Sight(self.catalogue, self.popularity)  # without a model's parts: popular, fresh and new posts
        return settled if model is None else self._sight_of(model) or settled

    def _settled(self) -> Sight:
        """Returns what sources look into, with the vectors of the posts that came or went since it was asked for."""
        if self._touched:
            with self._swapping:
                touched, self._touched = self._touched, []
                slots = np.unique(touched)
                if self._changed is not None:
                    self._changed.extend(slots.tolist())
                for sight in {self._sight, *self._sights.values()}:
                    self._reindex(sight, slots)
        return self._sight

    def describe(self, request: Event, refs: Sequence[str]) -> tuple[Candidate, ...]:
        """Returns posts by their names as `retrieve` describes them; a bare candidate where one is unknown."""
        sight, asked = self._sight_for(request), self._understood(request)
        slots = np.array([self.catalogue.slot(ref) for ref in refs], np.int64)
        known = slots[slots >= 0]
        facts = self._described(sight, asked, known, probed(sight, asked))
        described = msgspec.structs.replace(self._named(known, np.zeros_like(known)), attributes=facts)
        by_ref = named(described, refs)
        return tuple(by_ref.get(ref) or Candidate(ref) for ref in refs)

    def why_hidden(self, request: Event, ref: str) -> str:
        """Returns the filter that keeps a post from this reader now, or "" where it may be shown."""
        slot, asked = self.catalogue.slot(ref), self._understood(request)
        return "removed" if slot < 0 else self._filters(np.array([slot]), asked)[0]

    def question(self, request: Event) -> tuple[Sight, Asked]:
        """Returns what the sources look into, and what a request asks them."""
        return self._settled(), self._understood(request)

    def _understood(self, request: Event) -> Asked:
        said, catalogue = request.attributes, self.catalogue
        person = self.people.person(request.entities.get("user", 0), is_profiled=UNPROFILED not in said)
        profile = person.profile
        read = [catalogue.slot(ref) for ref in reversed(str(said.get("recent", "")).split()) if UNPROFILED not in said]
        session = np.array([slot for slot in read if slot >= 0], np.int64)
        engaged, weights = taste(person, catalogue, session=session)
        seen = catalogue.standing(person.seen(request.event_time))
        opened = catalogue.standing(np.array(person.opened[:], np.int64))
        language = str(said.get("language", "")) or profile.language
        asked = Asked(
            request=request,
            now_us=request.event_time,
            person=person,
            region=str(said.get("region", "")) or profile.region,
            language=language,
            is_adult=bool(said.get("is_adult", profile.is_adult)),
            engaged=engaged,
            weights=weights,
            seen=np.concatenate([seen[seen >= 0], session]),
            opened=np.concatenate([opened[opened >= 0], session]),
            authors=catalogue.author.mask(tuple(person.follow)),
            topics=catalogue.topic.mask((*person.follow, *profile.interests)),
            leanings=leanings(catalogue, person),
            languages=languages(catalogue, language, engaged=engaged, weights=weights),
        )
        asked.allowed = self._allowed(asked, str(said.get("only_topic", "")))
        return asked

    def _eligible(self, asked: Asked) -> Mask:
        return self.catalogue.eligible(asked.region, is_adult=asked.is_adult, now_us=asked.now_us)

    def _allowed(self, asked: Asked, only_topic: str) -> Mask:
        catalogue, person = self.catalogue, asked.person
        mask = self._eligible(asked).copy()
        mask[asked.seen] = False
        shunned = [*person.block, *person.mute]
        authors = {catalogue.author.code(token) for token in shunned} - {0}
        mask[[slot for author in authors for slot in catalogue.by_author.get(author, ())]] = False
        for topic in {catalogue.topic.code(token) for token in shunned} - {0}:
            mask &= catalogue.posts["topic"] != topic
        if only_topic:
            mask &= catalogue.posts["topic"] == (catalogue.topic.code(only_topic) or -1)
        return mask

    def _described(self, sight: Sight, asked: Asked, slots: Ints, found: Mapping[str, Found]) -> dict[str, Column]:
        """Returns what is known of posts, as columns."""
        vectors = None if sight.index is None else sight.index.vectors(slots)
        facts = self._facts(slots, asked, vectors) | self._liked(sight, asked, slots)
        for name in ("two_tower", "similar"):
            part = found.get(name)
            if vectors is not None and part is not None and part.probes is not None:
                facts[name] = Column.numbers((vectors @ part.probes.T).max(axis=1).astype(np.float64))
        for name, part in found.items():
            if name in _RANKED:
                facts[f"{name}_rank"] = _noted(slots, part.slots, np.arange(1, len(part.slots) + 1))
            if name == "neighbours" and part.scores is not None:
                facts[name] = _noted(slots, part.slots, part.scores)
        return facts

    def _ruled_out(self, asked: Asked, slots: Ints, bits: Ints) -> tuple[Ints, Ints, tuple[str, ...]]:
        """Returns what a filter took out, and which one."""
        names = self._filters(slots, asked)
        places = [place for place, name in enumerate(names) if name][:DROPPED]
        return slots[places], bits[places], tuple([names[place] for place in places])

    def _named(self, slots: Ints, bits: Ints) -> Candidates:
        catalogue, posts = self.catalogue, self.catalogue.posts
        tokens = {
            "post": posts["token"][slots],
            "author": catalogue.author.tokens[posts["author"][slots]],
            "topic": catalogue.topic.tokens[posts["topic"][slots]],
        }
        # Token 0 stands for all there is, and not for none.
        entities = {name: Column.numbers(column, column != 0) for name, column in tokens.items()}
        # At once, by numpy: one by one each of the names, which lie anywhere in memory, is waited for.
        return Candidates(tuple(posts["ref"][slots].tolist()), _worded(bits, _JOINED), entities)

    def _filters(self, slots: Ints, asked: Asked) -> list[str]:
        """Returns for each post the first filter that keeps it from this reader, "" where it may be shown."""
        catalogue, person = self.catalogue, asked.person
        first = catalogue.ruled_out(slots, asked.region, is_adult=asked.is_adult, now_us=asked.now_us)
        tokens = [getattr(catalogue, side).tokens[catalogue.posts[side][slots]] for side in ("author", "topic")]
        ties = (np.isin(tokens, list(tied)).any(axis=0) if tied else False for tied in (person.block, person.mute))
        for place, applies in enumerate((*ties, np.isin(slots, asked.seen)), len(RULES)):
            first[(first == len(RULES)) & applies] = place + 1
        return [_FILTERS[place] for place in first.tolist()]

    def _facts(self, slots: Ints, asked: Asked, vectors: Floats | None) -> dict[str, Column]:
        catalogue, posts, authors = self.catalogue, self.catalogue.posts, self.catalogue.authors
        author = posts["author"][slots]
        facts = {
            "author": _worded(author, catalogue.author.names),
            "topic": _worded(posts["topic"][slots], catalogue.topic.names),
            "post_language": _worded(posts["language"][slots], catalogue.language.names),
            "age_s": _age_s(posts["created"][slots], asked.now_us),
            "author_followers": Column.numbers(authors["followers"][author]),
            "author_age_s": _age_s(authors["since"][author], asked.now_us),
            "author_posts": Column.numbers(authors["posts"][author]),
            "in_network": Column.numbers(_of(asked.authors, author)),
            "readable": Column.numbers(_of(asked.languages, posts["language"][slots])),
            "looked_at": Column.numbers(np.isin(slots, asked.seen)),
        }
        # Most have neither: what is empty is left out of the record.
        labels = [*map(catalogue.labels.get, slots.tolist())] if catalogue.labels else []
        verdicts = catalogue.integrity(slots)
        if asked.is_adult and SENSITIVE in verdicts:
            is_told = np.array(verdicts) == SENSITIVE
            facts["reader_is_adult"] = Column.numbers(is_told, is_told)
        for name, words in (("integrity", verdicts), ("labels", labels)):
            if any(words):
                facts[name] = Column.of([word or None for word in words])
        if vectors is not None and vectors.shape[1] == _SKETCHED:
            facts["sketch"] = Column.numbers(
                np.packbits(bare(vectors) >= 0, axis=1, bitorder="little").view("<i8")[:, 0]
            )
        return facts

    def _liked(self, sight: Sight, asked: Asked, slots: Ints) -> dict[str, Column]:
        """Returns what a reader's choices, whom they follow and what they took up say of posts' topics."""
        topics = self.catalogue.posts["topic"][slots]
        liked = {"leaning": asked.leanings} | ({"interest": asked.topics} if asked.topics.any() else {})
        if sight.kin is not None:
            liked["liking"] = sight.liking(asked)
        return {name: Column.numbers(_of(shares, topics)) for name, shares in liked.items()}

    def _reindex(self, sight: Sight, slots: Ints) -> None:
        """Follows what became of some posts; one that a model can make no vector for is found by other sources."""
        if sight.index is not None:
            sight.index.remove(slots)
            with suppress(Exception):
                self._index(sight, slots)

    def _index(self, sight: Sight, slots: Ints) -> None:
        if sight.index is None:
            return
        slots = slots[self.catalogue.is_shown(slots)]
        vectors = np.empty((len(slots), sight.towers.dim), np.float32)
        catalogue, posts = self.catalogue, self.catalogue.posts
        for start in range(0, len(slots), _EMBEDDED):
            part = slots[start : start + _EMBEDDED]
            sides = {
                name: getattr(catalogue, name).named(posts[name][part]) for name in ("author", "topic", "language")
            }
            refs = posts["ref"][part].tolist()
            vectors[start : start + len(part)] = sight.towers.item_vectors(refs, sides)
        sight.index.put(slots, vectors)


def _merged(found: Mapping[str, Ints], most: int) -> tuple[Ints, Ints]:
    """Returns the slots that compete, and which sources found each (as bits).

    The first of each source come first, as many as its quota; then the rest, in proportion to the quotas.
    """
    if not found or most <= 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    slots = np.concatenate(list(found.values()))
    turns = np.concatenate([np.arange(len(part)) / SOURCES[name][2] for name, part in found.items()])
    bits = np.repeat([_BITS[name] for name in found], [len(part) for part in found.values()])
    order = np.argsort(turns, kind="stable")
    slots = slots[order].astype(np.int64)
    first, bits = firsts(slots, slots), bits[order]
    np.bitwise_or.at(bits, first, bits.copy())
    best = np.flatnonzero(first == np.arange(len(first)))[:most]
    return slots[best], bits[best]


def _worded(codes: Ints, names: Sequence[str]) -> Column:
    codes = codes.astype(np.int64)
    first = firsts(codes, codes)
    is_first = first == np.arange(len(first))
    places = np.cumsum(is_first)[first] - 1
    return Column.coded(places, [names[code] for code in codes[is_first].tolist()])


def _noted(slots: Ints, found: Ints, values: npt.NDArray[Any]) -> Column:
    """Returns the values of some slots, where a source found them."""
    if not len(found):
        return Column("|u1", b"")
    order = np.argsort(found)
    places = order[np.minimum(np.searchsorted(found[order], slots), len(found) - 1)]
    return Column.numbers(values[places], found[places] == slots)


def _of(values: npt.NDArray[Any], codes: Ints) -> npt.NDArray[Any]:
    """Returns the values of codes; 0 for one that came up after the request was read."""
    return np.where(codes < len(values), values[np.minimum(codes, len(values) - 1)], values.dtype.type(0))


def _age_s(created_us: Ints, now_us: int) -> Column:
    return Column.numbers(np.maximum(now_us - created_us, 0) // _SECOND_US)


def _since(started_ns: int) -> int:
    return (time.perf_counter_ns() - started_ns) // 1_000
