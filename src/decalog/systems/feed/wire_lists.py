"""Gorse's recommendations as decisions, and its other lists as what retrieval finds: nothing is decided here.

What `recommend` answers is a slate, logged as any other. `latest`, `popular` and neighbours are read from retrieval and
no slate: whether any of them was shown is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from itertools import accumulate

import msgspec

from decalog.candidates import Candidate
from decalog.clock import time_us
from decalog.errors import RequestError, UnknownRecordError, near
from decalog.host import Host
from decalog.http.problems import Answer
from decalog.http.wires import Asked, WireRoute
from decalog.systems.feed.schema import MOST_SLOTS
from decalog.systems.feed.wire_labels import Json
from decalog.systems.feed.wire_messages import DEFAULT_N, Query, SessionDoing, not_done, read_rows, read_time, told
from decalog.systems.feed.wire_shelf import Shelf

_MOST_DOINGS = 1_000
_RECENT_LENGTH = 4_000
_DISLIKES = ("hide", "report")
_ALIKE = ("similar", "neighbours")
_encode = msgspec.json.Encoder().encode


def _number(candidate: Candidate, name: str, *, found_by: Sequence[str]) -> float | None:
    """Returns a fact of a candidate that one of some sources found, else None: some facts are told of all."""
    value = candidate.attributes.get(name)
    is_found = not set(found_by).isdisjoint(candidate.source.split("+"))
    return float(value) if is_found and isinstance(value, int | float) else None


def _latest(candidate: Candidate, now_s: int) -> float | None:
    """Returns when it appeared, as Gorse scores it: seconds since the epoch."""
    age_s = _number(candidate, "age_s", found_by=("fresh",))
    return None if age_s is None else now_s - age_s


def _popular(candidate: Candidate, _now_s: int) -> float | None:
    rank = _number(candidate, "popular_rank", found_by=("popular",))
    return None if rank is None else 1.0 / rank


def _neighbour(candidate: Candidate, _now_s: int) -> float | None:
    """Returns how alike it is where a model says so, of all or of none; else how often people went from one to it."""
    alike = _number(candidate, "similar", found_by=_ALIKE)
    return _number(candidate, "neighbours", found_by=_ALIKE) if alike is None else alike


def _collaborative(candidate: Candidate, _now_s: int) -> float | None:
    return _number(candidate, "two_tower", found_by=("two_tower",))


Scoring = Callable[[Candidate, int], float | None]
_OF_ALL: Mapping[str, Scoring] = {"latest": _latest, "popular": _popular}


class Lists:
    """The routes of one system's lists.

    Args:
        host: decides.
        system: its name.
        shelf: gives slates their ids.
        kind: says what a type of feedback means.
    """

    def __init__(self, host: Host, system: str, *, shelf: Shelf, kind: Callable[[str], str]) -> None:
        self._host, self._system, self._shelf, self._kind = host, system, shelf, kind
        self._service = host.services[system]

    @property
    def routes(self) -> tuple[WireRoute, ...]:
        """Each list with and without a category in its path."""
        latest, popular = partial(self._of_all, name="latest"), partial(self._of_all, name="popular")
        return (
            *_twice("gorse_recommend", "GET", "/api/recommend/{id}", self._recommend),
            *_twice("gorse_session", "POST", "/api/session/recommend", self._session),
            *_twice("gorse_list", "GET", "/api/latest", latest),
            *_twice("gorse_list", "GET", "/api/popular", popular),
            *_twice("gorse_list", "GET", "/api/item/{id}/neighbors", self._neighbours),
            *_twice("gorse_list", "GET", "/api/collaborative-filtering/{id}", self._collaborative),
            *_twice("gorse_list", "GET", "/api/intermediate/recommend/{id}", self._collaborative),
            WireRoute("gorse_list", "GET", "/api/non-personalized/{name}", "decide", self._named),
            WireRoute("gorse_list", "GET", "/api/item-to-item/{name}/{id}", "decide", self._item_to_item),
            WireRoute("gorse_list", "GET", "/api/user-to-user/{name}/{id}", "decide", self._people),
            *_twice("gorse_list", "GET", "/api/user/{id}/neighbors", self._people),
        )

    async def _recommend(self, asked: Asked) -> Answer:
        """Decides a slate. What was shown is not shown again: an offset goes on where the slate before it ended."""
        query, user = Query(asked.query), asked.ids[0]
        category = query.category("".join(asked.ids[1:]))
        slots = await self._slate(query, self._id(user), user=user, only_topic=category, surface="home")
        is_scored = asked.headers.get(b"x-api-version") == b"2"
        return told(slots if is_scored else [slot["Id"] for slot in slots])

    async def _session(self, asked: Asked) -> Answer:
        query = Query(asked.query)
        if query.whole("offset", 0):
            raise RequestError(
                where="query, offset",
                given="an offset in a session",
                expected=f"none: a session is nobody's, so nothing is known of what it was shown; n up to {MOST_SLOTS}",
                fix="Ask for more at once, or send what was shown as feedback of the session.",
            )
        doings = read_rows(asked.body, SessionDoing, most=_MOST_DOINGS)
        recent = _recent([doing for doing in doings if self._kind(doing.feedback_type) not in _DISLIKES])
        category = query.category("".join(asked.ids))
        return told(await self._slate(query, self._id(""), recent=recent, only_topic=category, surface="session"))

    def _id(self, user: str) -> str:
        return self._shelf.names.new_slate(user, self._shelf.now())

    async def _slate(self, query: Query, id_: str, **fields: str) -> list[Json]:
        n = query.whole("n", DEFAULT_N)
        if not n:
            return []
        given = {name: value for name, value in fields.items() if value or name == "user"}
        reply = await self._host.decide(self._system, _encode({"id": id_, "size": min(n, MOST_SLOTS), **given}))
        return [
            {"Id": slot["ref"], "Score": slot["predictions"].get("p_click", 0.0)}
            for slot in reply.body.get("slots", ())
        ]

    async def _of_all(self, asked: Asked, *, name: str) -> Answer:
        return self._read(asked, _OF_ALL[name], category="".join(asked.ids))

    async def _named(self, asked: Asked) -> Answer:
        return self._read(asked, _OF_ALL[_one_of(asked.ids[0], _OF_ALL)])

    async def _neighbours(self, asked: Asked) -> Answer:
        item, *category = asked.ids
        return self._read(asked, _neighbour, category="".join(category), recent=item)

    async def _item_to_item(self, asked: Asked) -> Answer:
        _one_of(asked.ids[0], ("neighbors",))
        return self._read(asked, _neighbour, recent=asked.ids[1])

    async def _collaborative(self, asked: Asked) -> Answer:
        user, *category = asked.ids
        return self._read(asked, _collaborative, category="".join(category), user=user)

    async def _people(self, asked: Asked) -> Answer:  # noqa: ARG002  # of the routes' form
        raise not_done(
            "user neighbors", given="readers who are alike", fix="Ask for items: readers are compared nowhere."
        )

    def _read(self, asked: Asked, scoring: Scoring, *, category: str = "", user: str = "", recent: str = "") -> Answer:
        """Returns what retrieval finds and a scoring knows, the best first."""
        query = Query(asked.query)
        n, offset = query.whole("n", DEFAULT_N), query.whole("offset", 0)
        fields = {
            "user": user or query.text("user-id"),
            "only_topic": query.category(category),
            "recent": recent,
        }
        given = {name: value for name, value in fields.items() if value}
        ingest, retrieval = self._service.ingest, self._service.retrieval
        raw = _encode({"id": "list", "size": max(1, min(n + offset, MOST_SLOTS)), "surface": "explore", **given})
        request = ingest.build(ingest.parser.request(raw))
        found = retrieval.retrieve(request).candidates if retrieval is not None else ()
        scored = [
            (score, candidate.ref)
            for candidate in found
            if not candidate.dropped
            and candidate.ref != recent
            and (score := scoring(candidate, request.event_time // 1_000_000)) is not None
        ]
        scored.sort(key=lambda one: (-one[0], one[1]))
        return told([{"Id": ref, "Score": score} for score, ref in scored[offset : offset + n]])


def _twice(
    name: str, method: str, path: str, answer: Callable[[Asked], Awaitable[Answer]]
) -> tuple[WireRoute, WireRoute]:
    """Returns a route and the same with a category behind, which may be empty: some clients end paths with a slash."""
    category = f"{path}/{{category}}"
    return WireRoute(name, method, path, "decide", answer), WireRoute(name, method, category, "decide", answer)


def _one_of(name: str, known: Collection[str]) -> str:
    if name not in known:
        raise UnknownRecordError(
            where="list", given="a name that none has", expected=near(name[:64], known), fix="Ask for one of these."
        )
    return name


def _recent(doings: Sequence[SessionDoing]) -> str:
    """Returns the items of a session, the oldest first: as many of the last as there is room for."""

    def at(doing: SessionDoing) -> int:
        time = read_time(doing.timestamp)
        return 0 if time is None else time_us(time)

    # Names with blanks in them cannot be told apart there.
    named = [doing.item_id for doing in sorted(doings, key=at) if not re.search(r"\s", doing.item_id)]
    last = list(dict.fromkeys(reversed(named)))
    lengths = accumulate(len(name) + 1 for name in last)
    return " ".join(reversed([name for name, length in zip(last, lengths, strict=True) if length <= _RECENT_LENGTH]))
