"""The feed's world: readers with tastes, authors and their posts, and what readers do with the slates they are shown.

>>> world = World(7, scale=0.1)
>>> first = next(m for m in world.advance(world.start_us + 43_200_000_000, alone=True) if m.kind == "decide")
>>> first.body["size"], first.history["taken"], len(first.history["slots"]) > 0
(10, 'show', True)

Clickbait is clicked and does not satisfy; quality and a match satisfy, and the satisfied come back. What readers do is
drawn from probabilities that stand in `world.behaviour`, each figure in `world.params`. All of it is invented: results
on it are simulated results.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
import numpy as np

from decalog.clock import DAY, HOUR, MINUTE, SECOND, rfc3339
from decalog.errors import ConflictError, RequestError, UnknownRecordError
from decalog.systems.feed.schema import ACTIONS, DWELL, RETURN, SESSION, SHOW
from decalog.systems.feed.world import behaviour, people, policies, telling
from decalog.systems.feed.world import posts as posting
from decalog.systems.feed.world.behaviour import GLANCE_S, LOOK_S, Ask, Reaction, Town
from decalog.systems.feed.world.params import HEADS, SWITCHES, WorldParams
from decalog.systems.feed.world.policies import Policy
from decalog.systems.feed.world.totals import Totals, total
from decalog.testing import draws
from decalog.testing.draws import Floats, Ints
from decalog.testing.settings import known_switch
from decalog.testing.worlds import Message

START_US = 1_767_571_200_000_000  # Monday, 5 January 2026, 00:00 UTC
# Share of a day's sessions by hour, midnight first: mornings, lunch, and most of all evenings.
_RHYTHM = np.cumsum([4, 2, 1, 1, 1, 2, 5, 9, 10, 8, 7, 8, 11, 10, 8, 8, 9, 11, 13, 15, 17, 16, 12, 7])
_KINDS = (ACTIONS[0], DWELL, *ACTIONS[1:])
_WEEK = 7
_FOLLOWED, _UNFOLLOWED, _MUTED, _BLOCKED = 0.1, 0.5, 0.2, 0.4  # after a like, and after hiding or reporting
_AGAIN = 0.2  # share of outcomes on posts that `replayed_feedback` sends again


class _Session(msgspec.Struct):
    """A reader's time with the feed: it begins with a request and may go on with others."""

    key: int
    day: int
    first: str = ""
    slates: int = 0
    seconds: float = 0.0
    read: list[str] = []


class _Request(msgspec.Struct):
    """What the world remembers of one request."""

    id: str
    ask: Ask
    session: _Session
    refs: tuple[str, ...] | None = None
    truth: dict[str, float | str] = {}
    heads: Floats = np.empty((0, len(HEADS)))


class World:
    """The feed's world as a `decalog.testing.worlds.World`; see there for what each method promises.

    Args:
        seed: two worlds of one seed, parameters and reactions are the same in every byte.
        params: the settings; the defaults if not given.
        scale: size of the world as a share of the settings', > 0.
        theirs: how another system ranks where the world is alone.

    Attributes:
        town: everybody and every post as they are now: the truth, for benches and tests alone.
        days: what came of slates, day by day.

    Raises:
        ConfigError: a setting is out of range, or the scale is not above 0.
    """

    def __init__(
        self, seed: int, params: WorldParams | None = None, *, scale: float = 1.0, theirs: Policy = policies.another
    ) -> None:
        self.params = (params or WorldParams()).scaled(scale).checked()
        self.params_hash = self.params.digest()
        self.start_us = START_US
        self.base = "EUR"
        self.rates: Mapping[str, str] = {}
        self.days: list[Totals] = []
        self.town = _settle(seed, self.params)
        self._theirs = theirs
        self._now_us = START_US - 1
        self._on: frozenset[str] = frozenset()
        self._rows: dict[str, int] = {}  # of posts, by name
        self._requests: dict[str, _Request] = {}
        self._visits: dict[int, str] = {}  # today's visitors who were shown something, and where they began
        self._due: list[tuple[int, str, str, Any]] = []  # a heap by time, kind and id

    def advance(self, until_us: int, *, alone: bool = False) -> list[Message]:
        """Returns all messages after the last call and up to `until_us`, ordered by (at, kind, id).

        Raises:
            RequestError: `until_us` lies before the end of the last call.
        """
        if until_us < self._now_us:
            raise RequestError(
                where="feed world, advance",
                given=f"until_us {until_us}, and the world is at {self._now_us} already",
                expected="a time that does not run back",
                fix="A new World of the same seed goes through a time again.",
            )
        messages: list[Message] = []
        while (midnight := self.start_us + len(self.days) * DAY) <= until_us:
            messages += self._deliver(midnight - 1, alone=alone)
            self._begin_day(midnight)
        messages += self._deliver(until_us, alone=alone)
        self._now_us = until_us
        return messages

    def react(self, request_id: str, action: str, *, at_us: int, refs: tuple[str, ...] = ()) -> None:
        """Tells the world which posts were shown; a request without a reaction shows nothing and changes nobody.

        Telling the same again changes nothing. What has become due meanwhile comes with the next `advance`.

        Raises:
            UnknownRecordError: no such request has been sent, or there is no such post.
            RequestError: the action is not `show`, or lies before the request.
            ConflictError: another slate was told before.
        """
        request = self._known(request_id)
        if action != SHOW or at_us < request.ask.at_us:
            raise RequestError(
                where="feed world, react",
                given=f"'{action[:80]}' at {at_us} to a request of {request.ask.at_us}",
                expected=f"'{SHOW}', at or after the request",
                fix="Pass action and time of the logged decision.",
            )
        if request.refs is None:
            self._show(request, np.array([self._row(ref) for ref in refs], dtype=np.int64))
        elif request.refs != refs:
            raise ConflictError(
                where=f"feed world, react to {request_id}",
                given="another slate than before",
                expected="one slate a request",
                fix="React once to each decide message.",
            )

    def truth(self, request_id: str) -> Mapping[str, float | str]:
        """Returns what stood behind one request.

        `satisfaction` in (−1, 1) of the reader before it · `p_return`: probability to come on the next day, before ·
        and once a slate was shown: `looked` and `clicks` of it · `minor`: what it earned · `expected_minor`: what it was
        expected to earn · `long_run_minor`: the same with what it does to satisfaction, over the horizon · and
        `p_click REF` and so on for each post: the probability of each action by who looks at that post alone.

        Raises:
            UnknownRecordError: no such request has been sent.
        """
        request = self._known(request_id)
        of_posts = {
            f"{head} {ref}": chance
            for ref, row in zip(request.refs or (), request.heads.tolist(), strict=False)
            for head, chance in zip(HEADS, row, strict=True)
        }
        return request.truth | of_posts or self._state(request.ask.reader)

    def switch(self, name: str, on: bool) -> None:  # noqa: FBT001 - a switch
        """Switches one of `world.params.SWITCHES`, from the next midnight that has not begun yet.

        Raises:
            ConfigError: there is no such switch.
        """
        self._on = (self._on - {name}) | ({known_switch("feed", name, switches=SWITCHES)} if on else set())

    def score(self) -> str:
        """Returns what came of the slates of the last seven days."""
        return f"last {_WEEK} days: {total(self.days[-_WEEK:]).line(self.base)}"

    def find(self, user: str, refs: Iterable[str]) -> tuple[int, Ints]:
        """Returns the rows of a reader and of posts in the town, for the truth about them in `world.behaviour`.

        Raises:
            UnknownRecordError: there is no such reader or post.
        """
        names = [telling.reader_id(key) for key in self.town.readers.key.tolist()]
        if user not in names:
            raise _unknown(f"reader '{user[:80]}'")
        return names.index(user), np.array([self._row(ref) for ref in refs], dtype=np.int64)

    # Days

    def _begin_day(self, start_us: int) -> None:
        """Ends the day before, and plans what the new one brings whatever is shown."""
        town, params, day = self.town, self.params, len(self.days)
        if day:
            self._end_day(start_us, day - 1)
        town.surge = posting.surges(town.key, params, day=start_us // DAY, forced="trend" in self._on)
        new = posting.written(
            town.authors,
            params,
            topics=town.topics,
            surge=town.surge,
            start_us=start_us,
            wave="clickbait_wave" in self._on,
        )
        first = len(town.posts.key)
        town.posts = posting.join(town.posts, new)
        rows = np.arange(first, len(town.posts.key))
        self._rows |= {telling.post_id(key): first + place for place, key in enumerate(new.key.tolist())}
        if len(town.posts.key) > town.seen.shape[1]:
            town.seen = np.pad(town.seen, ((0, 0), (0, len(town.posts.key))))
        self._tell(telling.of_posts(town, rows))
        self._tell(telling.of_newcomers(town, np.flatnonzero(town.readers.joined == day), start_us=start_us))
        self._tell(telling.elsewhere(town, start_us=start_us))
        if "coordinated_likes" in self._on:
            self._tell(telling.coordinated(town, rows))
        self.days.append(Totals())
        self._plan_visits(start_us, day)

    def _end_day(self, start_us: int, day: int) -> None:
        town, params = self.town, self.params
        usual = params.readers * people.sigmoid(np.array(params.present)) * params.visits * 10.0 / params.authors
        leave = 15.0 if "creators_leave" in self._on else 1.0
        town.authors = people.judge_day(town.authors, params, day=day, usual=float(usual), leave=leave)
        key = draws.child(draws.named(town.key, "arrivals"), day)
        count = draws.poisson(key, "count", rate=np.array([params.arrivals_day]))
        keys = draws.child(key, np.arange(count[0]))
        new = people.authors(keys, params, topics=town.topics, day=start_us // DAY)
        town.authors = people.welcome(town.readers, town.authors, new=new)
        people.live_on(town.readers, params, topics=town.topics, day=day, faster="interest_drift" in self._on)

    def _plan_visits(self, start_us: int, day: int) -> None:
        """Plans who comes and when, and tells who came back."""
        readers = self.town.readers
        keys = draws.child(draws.named(readers.key, "visits"), day)
        here = (draws.uniform(keys, "here") < behaviour.p_return(self.town)) & (readers.joined <= day)
        here |= readers.joined == day
        count = np.where(here, 1 + draws.poisson(keys, "count", rate=readers.visits), 0)
        who, nth = draws.spread(count)
        sessions = draws.child(keys[who], nth)
        hour = np.searchsorted(_RHYTHM / _RHYTHM[-1], draws.uniform(sessions, "hour"))
        times = start_us + hour * HOUR + draws.below(sessions, "minute", bound=HOUR)
        for reader, key, at_us in zip(who.tolist(), sessions.tolist(), times.tolist(), strict=True):
            self._request(reader, _Session(key, day, read=[]), at_us=max(at_us, start_us + HOUR))
        self._tell_returns(here, {reader: int(times[who == reader].min()) for reader in self._visits if here[reader]})

    def _tell_returns(self, here: people.Mask, first_us: Mapping[int, int]) -> None:
        for reader, request_id in self._visits.items():
            came = bool(here[reader])
            end_us = self.start_us + len(self.days) * DAY
            at_us = first_us[reader] + 2 * SECOND if came else end_us + HOUR
            self._outcome(request_id, RETURN, value=float(came), event_us=at_us)
            self.days[-2].returned += came
        if self._visits:
            self.days[-2].visitors = len(self._visits)
        self._visits = {}

    # Slates

    def _request(self, reader: int, session: _Session, *, at_us: int) -> None:
        key = draws.child(np.array([session.key], np.uint64), session.slates)
        request = _Request(f"req_{key[0]:016x}", Ask(reader, at_us, self.params.slate, key), session)
        heapq.heappush(self._due, (at_us, "decide", request.id, request))

    def _deliver(self, until_us: int, *, alone: bool) -> Iterator[Message]:
        while self._due and self._due[0][0] <= until_us:
            at_us, kind, _, what = heapq.heappop(self._due)
            self._now_us = at_us
            if kind == "decide":
                yield self._asked(what, alone=alone)
            else:
                yield Message(at_us, "outcome" if kind == "outcome" else "event", what)

    def _asked(self, request: _Request, *, alone: bool) -> Message:
        """Returns the request as a client sends it; where nobody reacts, another system has already."""
        ask, session = request.ask, request.session
        self._requests[request.id] = request
        session.first = session.first or request.id
        body = {
            "id": request.id,
            "event_time": rfc3339(ask.at_us),
            "size": ask.size,
            "surface": "session" if session.slates else "home",
            "device": people.DEVICES[self.town.readers.device[ask.reader]],
            **telling.reader_facts(self.town, ask.reader),
        }
        if session.read:
            body["recent"] = " ".join(session.read)
        theirs: dict[str, Any] = {}
        if alone and len(rows := self._theirs(self.town, ask)):
            self._show(request, rows)
            theirs = {"taken": SHOW, "slots": list(request.refs or ())}
        return Message(ask.at_us, "decide", body, theirs)

    def _show(self, request: _Request, rows: Ints) -> None:
        """Lets the reader see a slate, and plans what comes of it."""
        town, ask = self.town, request.ask
        request.refs = tuple(telling.post_id(key) for key in town.posts.key[rows].tolist())
        request.truth = dict(self._state(ask.reader))
        if not len(rows):
            return
        known = behaviour.facts(town, ask.reader, rows=rows, at_us=ask.at_us)
        request.heads = behaviour.chances(town, ask.reader, known=known).heads
        reaction = behaviour.react(town, ask, rows=rows)
        counts = self._count(reaction, shown=len(rows))
        request.truth |= {
            "looked": float(counts.looked),
            "clicks": float(counts.clicks),
            "minor": counts.minor,
            "expected_minor": reaction.expected[0],
            "long_run_minor": reaction.expected[1],
        }
        end_us = self._tell_reaction(request, rows, reaction)
        self._go_on(request, reaction, end_us=end_us)

    def _count(self, reaction: Reaction, *, shown: int) -> Totals:
        params, looked = self.params, len(reaction.acts)
        clicks, dwells, likes, replies, shares, hides, reports = reaction.acts.sum(axis=0).tolist()
        dwell_s = float(reaction.dwell_s.sum())
        minor = params.impression_minor * looked + params.click_minor * clicks + params.minute_minor * dwell_s / 60.0
        counts = Totals(
            requests=1,
            shown=shown,
            looked=looked,
            clicks=clicks,
            dwells=dwells,
            likes=likes,
            replies=replies,
            shares=shares,
            hides=hides,
            reports=reports,
            unfit=reaction.unfit,
            dwell_s=dwell_s,
            minor=minor - params.hide_minor * hides - params.report_minor * reports,
        )
        self.days[-1].add(counts)
        return counts

    def _tell_reaction(self, request: _Request, rows: Ints, reaction: Reaction) -> int:
        """Plans the outcomes of a slate and returns when the reader is through with it."""
        at_us = request.ask.at_us
        columns = (rows[: len(reaction.acts)], reaction.acts, reaction.dwell_s, reaction.further)
        for place, (row, acts, dwell_s, (chance, other)) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True)
        ):
            at_us += int(LOOK_S * SECOND)
            if any(acts):
                self._tell_acts(request, place, acts=acts, dwell_s=dwell_s, at_us=at_us, chance=chance)
                self._tie(request.ask.reader, row, acts=acts, at_us=at_us + MINUTE, chance=other)
                at_us += int(dwell_s * SECOND)
        return at_us

    def _tell_acts(
        self, request: _Request, place: int, *, acts: list[bool], dwell_s: float, at_us: int, chance: float
    ) -> None:
        """Plans the outcomes of one post, and the noise on some of them."""
        params, ref = self.params, (request.refs or ())[place]
        after_us = at_us + int(dwell_s * SECOND)
        told = [
            (kind, 1.0, after_us)
            for kind, done in zip(_KINDS, acts, strict=True)
            if done and kind not in (DWELL, "click")
        ]
        if acts[0]:
            told += [("click", 1.0, at_us), (DWELL, round(dwell_s, 1), after_us)]
            request.session.read = [*request.session.read[-9:], ref]
        bounds = np.cumsum([params.twice, params.late, params.unknown, params.future])
        noise = int(np.searchsorted(bounds, chance))
        lag_us = int(6 * HOUR * (chance * 1e4 % 1.0)) if noise == 1 else 0
        for kind, value, event_us in told:
            body = self._outcome(request.id, kind, value=value, event_us=event_us, ref=ref, lag_us=lag_us)
            if noise == 0:
                self._push(event_us + 20 * MINUTE, "outcome", body)
            if "replayed_feedback" in self._on and chance * 1e3 % 1.0 < _AGAIN:
                self._push(event_us + DAY, "outcome", body | {"id": body["id"] + "_again"})
        if noise == 2:
            self._outcome(request.id, "click", value=1.0, event_us=at_us, ref=f"post_unknown_{place}")
        if noise == 3:
            body = {"id": f"{request.id}_{place}_ahead", "event_time": rfc3339(at_us + 2 * DAY)}
            self._push(at_us, "outcome", self._body(request.id, "click", value=1.0, event_us=at_us, ref=ref) | body)

    def _tie(self, reader: int, row: int, *, acts: list[bool], at_us: int, chance: float) -> None:
        """Lets a like become a follow, and anger a mute, a block or the end of a follow."""
        town, author = self.town, int(self.town.posts.author[row])
        follows, blocked = town.readers.follows[reader], town.readers.blocked[reader]
        liked, hid, reported = acts[2], acts[5], acts[6]
        kind, on = "", True
        if (reported and chance < _BLOCKED) or (hid and chance < _MUTED):
            kind, blocked[author] = "block" if reported else "mute", True
        elif hid and follows[author] and chance < _UNFOLLOWED:
            kind, on = "follow", False
            follows[author] = False
        elif liked and not follows[author] and chance < _FOLLOWED:
            kind, follows[author] = "follow", True
        if kind:
            self._tell(
                [telling.tie(kind, town, reader=reader, author=author, at_us=max(at_us, self._now_us + 1), on=on)]
            )

    def _go_on(self, request: _Request, reaction: Reaction, *, end_us: int) -> None:
        """Lets the reader ask for more, or ends the session."""
        session, ask = request.session, request.ask
        session.slates += 1
        session.seconds += (end_us - ask.at_us) / SECOND
        self.days[-1].sessions += session.slates == 1
        if session.day == len(self.days) - 1:
            self._visits[ask.reader] = session.first
        if reaction.wants_more:
            self._request(ask.reader, session, at_us=max(end_us + int(GLANCE_S * SECOND), self._now_us + 1))
        else:
            self._outcome(session.first, SESSION, value=round(session.seconds, 1), event_us=end_us, lag_us=5 * MINUTE)

    # Telling

    def _tell(self, events: Iterable[telling.Told]) -> None:
        for at_us, body in events:
            self._push(at_us, "event", body)

    def _push(self, at_us: int, kind: str, body: dict[str, Any]) -> None:
        heapq.heappush(self._due, (max(at_us, self._now_us + 1), kind, body["id"], body))

    def _outcome(
        self, request_id: str, kind: str, *, value: float, event_us: int, ref: str = "", lag_us: int = 0
    ) -> dict[str, Any]:
        """Plans an outcome and returns its body; it is sent a second or two after it happened."""
        body = self._body(request_id, kind, value=value, event_us=event_us, ref=ref)
        self._push(event_us + SECOND + event_us % SECOND + lag_us, "outcome", body)
        return body

    def _body(self, request_id: str, kind: str, *, value: float, event_us: int, ref: str) -> dict[str, Any]:
        body = {
            "id": f"{request_id}_{kind}" + (f"_{ref}" if ref else ""),
            "feed_request": request_id,
            "kind": kind,
            "source": "app",
            "value": value,
            "event_time": rfc3339(event_us),
        }
        return body | ({"ref": ref} if ref else {})

    # Looking up

    def _state(self, reader: int) -> Mapping[str, float | str]:
        satisfaction = float(self.town.readers.satisfaction[reader])
        return {"satisfaction": satisfaction, "p_return": float(behaviour.p_return(self.town)[reader])}

    def _known(self, request_id: str) -> _Request:
        request = self._requests.get(request_id)
        if request is None:
            raise _unknown(f"request '{request_id[:80]}'")
        return request

    def _row(self, ref: str) -> int:
        row = self._rows.get(ref)
        if row is None:
            raise _unknown(f"post '{ref[:80]}'")
        return row


def run(seed: int, policy: Policy, *, days: int, params: WorldParams | None = None, scale: float = 1.0) -> list[Totals]:
    """Returns day by day what comes of a policy that ranks alone, with no server and nothing to learn."""
    world = World(seed, params, scale=scale, theirs=policy)
    world.advance(world.start_us + days * DAY - 1, alone=True)
    return world.days


def _settle(seed: int, params: WorldParams) -> Town:
    """Returns the town of a seed on its first day."""
    key = draws.root(f"feed world {seed}")
    topics = people.unit(people.noise(draws.child(draws.named(key, "topics"), np.arange(params.topics)), "topic"))
    writers = draws.child(draws.named(key, "authors"), np.arange(params.authors))
    authors = people.authors(writers, params, topics=topics, day=START_US // DAY)
    return Town(
        params=params,
        key=key,
        topics=topics,
        surge=np.zeros(params.topics),
        readers=people.readers(draws.named(key, "readers"), params, topics=topics, authors=authors),
        authors=authors,
        posts=posting.none(),
        seen=np.zeros((params.readers, 0), dtype=np.bool_),
    )


def _unknown(what: str) -> UnknownRecordError:
    return UnknownRecordError(
        where="feed world",
        given=f"{what}, which it has not sent",
        expected="an id of a message that advance has returned",
        fix="Advance the world first, and pass ids unchanged.",
    )
