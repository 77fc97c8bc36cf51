"""The feed's world: readers with tastes, authors and their posts, and what readers do with the slates they are shown.

>>> world = World(7, scale=0.1)
>>> first = next(m for m in world.advance(world.start_us + 86_400_000_000, alone=True) if m.theirs)
>>> first.kind, first.body["size"], first.history["taken"], len(first.history["slots"]) > 0
('decide', 10, 'show', True)

Clickbait is clicked and does not satisfy; quality and a match satisfy, and the satisfied come back. What readers do is
drawn from probabilities that stand in `world.behaviour`, each figure in `world.params`. All of it is invented: results
on it are simulated results.
"""

from __future__ import annotations

import heapq
from bisect import bisect
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Any

import msgspec
import numpy as np

from decalog.clock import DAY, HOUR, MINUTE, SECOND
from decalog.errors import ConflictError, RequestError
from decalog.systems.feed.schema import ACTIONS, DWELL, RETURN, SESSION, SHOW
from decalog.systems.feed.world import behaviour, policies, telling
from decalog.systems.feed.world import town as towns
from decalog.systems.feed.world.behaviour import LOOK_S, Ask, Reaction
from decalog.systems.feed.world.params import HEADS, SWITCHES, WorldParams
from decalog.systems.feed.world.policies import Policy
from decalog.systems.feed.world.totals import Totals
from decalog.systems.feed.world.town import Town
from decalog.testing import draws
from decalog.testing.clockwork import Clockwork, not_sent
from decalog.testing.draws import Floats, Ints
from decalog.testing.worlds import Message

START_US = 1_767_571_200_000_000  # Monday, 5 January 2026, 00:00 UTC
# Share of a day's sessions by hour, midnight first: mornings, lunch, and most of all evenings.
_RHYTHM = np.cumsum([4, 2, 1, 1, 1, 2, 5, 9, 10, 8, 7, 8, 11, 10, 8, 8, 9, 11, 13, 15, 17, 16, 12, 7])
_KINDS = (ACTIONS[0], DWELL, *ACTIONS[1:])
_CLICK, _LIKE, _HIDE, _REPORT = (_KINDS.index(kind) for kind in ("click", "like", "hide", "report"))
_NOISE = ("twice", "late", "unknown", "future", "none")
_WEEK = 7
_BONDS = ((_REPORT, "block", 0.4), (_HIDE, "mute", 0.2), (_HIDE, "unfollow", 0.5), (_LIKE, "follow", 0.1))
"""What an act may do to reader and author, with which probability; the first that applies happens."""
_AGAIN = 0.2  # share of outcomes on posts that `replayed_feedback` sends again
_WITHOUT_DEVICE = 0.6  # share of requests under `device_outage`


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


class World(Clockwork):
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
        super().__init__(self.params, SWITCHES, start_us=START_US)
        self.base = "EUR"
        self.rates: Mapping[str, str] = {}
        self.days: list[Totals] = []
        self.town = _settle(seed, self.params)
        self._theirs = theirs
        self._noise = tuple(accumulate(getattr(self.params, name) for name in _NOISE[:-1]))
        self._rows: dict[str, int] = {}  # of posts, by name
        self._requests: dict[str, _Request] = {}
        self._visits: dict[int, str] = {}  # today's visitors who were shown something, and where they began

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
            given = f"'{action[:80]}' at {at_us} to a request of {request.ask.at_us}"
            expected, fix = f"'{SHOW}', at or after the request", "Pass action and time of the logged decision."
            raise RequestError(where="feed world, react", given=given, expected=expected, fix=fix)
        if request.refs is None:
            self._show(request, self._found(refs))
        elif request.refs != refs:
            given, fix = "another slate than before", "React once to each decide message."
            where = f"feed world, react to {request_id}"
            raise ConflictError(where=where, given=given, expected="one slate a request", fix=fix)

    def truth(self, request_id: str) -> Mapping[str, float | str]:
        """Returns what stood behind one request.

        `satisfaction` in (−1, 1) of the reader before it · `p_return`: probability to come on the next day, before ·
        and once a slate was shown: `looked` and `clicks` of it · `minor`: what it earned · `expected_minor`: what it
        was expected to earn · `long_run_minor`: the same with what it does to satisfaction, over the horizon · and
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

    def score(self) -> str:
        """Returns what came of the slates of the last seven days."""
        return f"last {_WEEK} days: {Totals.over(self.days[-_WEEK:])} {self.base}"

    def find(self, user: str, refs: Iterable[str]) -> tuple[int, Ints]:
        """Returns the rows of a reader and of posts in the town, for the truth about them in `world.behaviour`.

        Raises:
            UnknownRecordError: there is no such reader or post.
        """
        names = [telling.name("reader", key) for key in self.town.readers.key.tolist()]
        if user not in names:
            raise not_sent("feed", f"reader '{user[:80]}'")
        return names.index(user), self._found(refs)

    # Days

    def _begin_day(self, start_us: int) -> None:
        """Ends the day before, and plans what the new one brings whatever is shown."""
        town, params, first = self.town, self.params, len(self.town.posts.key)
        if self._day:
            self._end_day()
        town.surge = towns.surges(town.key, params, day=self._day, forced="trend" in self._on)
        wave = "clickbait_wave" in self._on
        new = towns.written(town.authors, params, topics=town.topics, surge=town.surge, start_us=start_us, wave=wave)
        town.posts = towns.join(town.posts, new)
        rows = np.arange(first, len(town.posts.key))
        self._rows |= {telling.name("post", key): first + n for n, key in enumerate(new.key.tolist())}
        if len(town.posts.key) > town.seen.shape[1]:
            town.seen = np.pad(town.seen, ((0, 0), (0, len(town.posts.key))))
        newcomers = np.flatnonzero(town.readers.joined == self._day)
        self._tell(telling.of_posts(town, rows))
        self._tell(telling.of_newcomers(town, newcomers, start_us=start_us))
        self._tell(telling.elsewhere(town, start_us=start_us))
        if "coordinated_likes" in self._on:
            self._tell(telling.coordinated(town, rows))
        self._plan_visits(start_us)

    def _end_day(self) -> None:
        town, params, day = self.town, self.params, self._day - 1
        leave = 15.0 if "creators_leave" in self._on else 1.0
        left = towns.judge_day(town.authors, params, day=day, leave=leave)
        town.authors = towns.welcome(
            town.readers, left, params=params, topics=town.topics, key=draws.child(town.key, day)
        )
        towns.live_on(town.readers, params, topics=town.topics, day=day, faster="interest_drift" in self._on)

    def _plan_visits(self, start_us: int) -> None:
        """Plans who comes and when, and tells who came back."""
        readers = self.town.readers
        keys = draws.child(draws.named(readers.key, "visits"), self._day)
        is_new = readers.joined == self._day
        here = is_new | ((draws.uniform(keys, "here") < behaviour.p_return(self.town)) & (readers.joined < self._day))
        who, nth = draws.spread(np.where(here, 1 + draws.poisson(keys, "count", rate=readers.visits), 0))
        sessions = draws.child(keys[who], nth)
        hour = np.searchsorted(_RHYTHM / _RHYTHM[-1], draws.uniform(sessions, "hour"))
        times = start_us + hour * HOUR + draws.below(sessions, "minute", bound=HOUR)
        times = np.where(is_new[who], np.maximum(times, start_us + HOUR), times)
        yesterday, self._visits = self._visits, {}
        for reader, first in yesterday.items():
            at_us = int(times[who == reader].min()) + 2 * SECOND if here[reader] else start_us + DAY + HOUR
            self._outcome(first, RETURN, value=float(here[reader]), event_us=at_us)
        if self.days:
            self.days[-1].add(Totals(visitors=len(yesterday), returned=int(here[list(yesterday)].sum())))
        self.days.append(Totals())
        for reader, key, at_us in zip(who.tolist(), sessions.tolist(), times.tolist(), strict=True):
            self._request(reader, _Session(key, self._day, read=[]), at_us=at_us)

    # Slates

    def _request(self, reader: int, session: _Session, *, at_us: int) -> None:
        key = draws.child(np.array([session.key], np.uint64), session.slates)
        request = _Request(f"req_{key[0]:016x}", Ask(reader, at_us, self.params.slate, key), session)
        heapq.heappush(self._due, (at_us, "decide", request.id, request))

    def _deliver(self, due: Any, *, alone: bool) -> list[Message]:
        at_us, kind, _, what = due
        return [self._asked(what, alone=alone) if kind == "decide" else Message(at_us, kind, what)]

    def _asked(self, request: _Request, *, alone: bool) -> Message:
        """Returns the request as a client sends it; where nobody reacts, another system has already."""
        ask, session = request.ask, request.session
        self._requests[request.id] = request
        session.first = session.first or request.id
        body = telling.request(self.town, request.id, ask=ask, read=session.read, later=session.slates > 0)
        if "device_outage" in self._on and draws.uniform(ask.key, "device")[0] < _WITHOUT_DEVICE:
            del body["device"]
        theirs: dict[str, Any] = {}
        if alone and len(rows := self._theirs(self.town, ask)):
            self._show(request, rows)
            theirs = {"taken": SHOW, "slots": list(request.refs or ())}
        return Message(ask.at_us, "decide", body, theirs)

    def _show(self, request: _Request, rows: Ints) -> None:
        """Lets the reader see a slate, counts what comes of it, and plans who hears of it."""
        request.refs = tuple(telling.name("post", key) for key in self.town.posts.key[rows].tolist())
        request.truth = self._state(request.ask.reader)
        if not request.refs:
            return
        known = behaviour.facts(self.town, request.ask.reader, rows=rows, at_us=request.ask.at_us)
        request.heads = behaviour.chances(self.town, request.ask.reader, known=known).heads
        reaction, session = behaviour.react(self.town, request.ask, rows=rows), request.session
        clicks, _, likes, _, _, hides, reports = reaction.acts.sum(axis=0).tolist()
        looked, seconds = len(reaction.acts), float(reaction.dwell_s.sum())
        counts = Totals(1, len(rows), looked, clicks, likes, hides, reports, reaction.unfit, seconds, reaction.minor)
        counts.sessions = int(session.slates == 0)
        self.days[-1].add(counts)
        expected, long_run = reaction.expected
        told = {"looked": looked, "clicks": clicks, "minor": reaction.minor, "expected_minor": expected}
        request.truth |= {name: float(value) for name, value in told.items()} | {"long_run_minor": long_run}
        if session.day == len(self.days) - 1:
            self._visits[request.ask.reader] = session.first
        self._go_on(request, reaction, end_us=self._tell_reaction(request, rows, reaction))

    def _tell_reaction(self, request: _Request, rows: Ints, reaction: Reaction) -> int:
        """Plans the outcomes of a slate and returns when the reader is through with it."""
        at_us, refs = request.ask.at_us, request.refs or ()
        columns = (rows[: len(reaction.acts)], reaction.acts, reaction.dwell_s, reaction.further)
        for ref, row, acts, dwell_s, (chance, other) in zip(refs, *(c.tolist() for c in columns), strict=False):
            at_us += int(LOOK_S * SECOND)
            if any(acts):
                after_us = at_us + int(dwell_s * SECOND)
                self._tell_acts(request, ref, acts=acts, times_us=(at_us, after_us), chance=chance)
                self._tie(request.ask.reader, row, acts=acts, at_us=after_us + SECOND, chance=other)
                at_us = after_us
        return at_us

    def _tell_acts(
        self, request: _Request, ref: str, *, acts: list[bool], times_us: tuple[int, int], chance: float
    ) -> None:
        """Plans the outcomes of one post, and the noise on some of them."""
        at_us, after_us = times_us
        noise = _NOISE[bisect(self._noise, chance)]
        lag_us = int(6 * HOUR * (chance * 1e4 % 1.0)) if noise == "late" else 0
        told = [(kind, 1.0) for kind, done in zip(_KINDS, acts, strict=True) if done and kind != DWELL]
        if acts[_CLICK]:
            told.append((DWELL, round((after_us - at_us) / SECOND, 1)))
            request.session.read = [*request.session.read[-9:], ref]
        for kind, value in told:
            event_us = at_us if kind == "click" else after_us
            body = self._outcome(request.id, kind, value=value, event_us=event_us, ref=ref, lag_us=lag_us)
            self._repeat(body, event_us, chance=chance)
        if noise == "unknown":
            self._outcome(request.id, "click", value=1.0, event_us=at_us, ref=f"{ref}_unknown")
        if noise == "future":
            body = telling.outcome(request.id, "click", value=1.0, event_us=at_us + 2 * DAY, ref=ref)
            self._push(at_us, "outcome", body | {"id": body["id"] + "_ahead"})

    def _repeat(self, body: dict[str, Any], event_us: int, *, chance: float) -> None:
        if chance < self.params.twice:
            self._push(event_us + 20 * MINUTE, "outcome", body)
        if "replayed_feedback" in self._on and chance * 1e3 % 1.0 < _AGAIN:
            self._push(event_us + DAY, "outcome", body | {"id": body["id"] + "_again"})

    def _tie(self, reader: int, row: int, *, acts: list[bool], at_us: int, chance: float) -> None:
        """Lets a like become a follow, and anger a mute, a block or the end of a follow."""
        town, author = self.town, int(self.town.posts.author[row])
        ties, follows = town.readers, bool(town.readers.follows[reader, author])
        fits = {"follow": not follows, "unfollow": follows}
        bond = next((b for act, b, p in _BONDS if acts[act] and chance < p and fits.get(b, True)), "")
        if bond in fits:
            ties.follows[reader, author] = bond == "follow"
        elif bond:
            ties.blocked[reader, author] = True
        if bond:
            kind, on = bond.removeprefix("un"), bond != "unfollow"
            self._tell([telling.tie(kind, town, reader=reader, author=author, at_us=at_us, on=on)])

    def _go_on(self, request: _Request, reaction: Reaction, *, end_us: int) -> None:
        """Lets the reader ask for more, or ends the session."""
        session, ask = request.session, request.ask
        session.slates += 1
        session.seconds += (end_us - ask.at_us) / SECOND
        if reaction.wants_more:
            self._request(ask.reader, session, at_us=max(end_us + SECOND, self._now_us + 1))
        else:
            self._outcome(session.first, SESSION, value=round(session.seconds, 1), event_us=end_us, lag_us=5 * MINUTE)

    # Telling

    def _tell(self, events: Iterable[telling.Told]) -> None:
        for at_us, body in events:
            self._push(at_us, "event", body)

    def _outcome(
        self, request_id: str, kind: str, *, value: float, event_us: int, ref: str = "", lag_us: int = 0
    ) -> dict[str, Any]:
        """Plans an outcome and returns its body; it is sent a second or two after it happened."""
        body = telling.outcome(request_id, kind, value=value, event_us=event_us, ref=ref)
        self._push(event_us + SECOND + event_us % SECOND + lag_us, "outcome", body)
        return body

    # Looking up

    def _state(self, reader: int) -> dict[str, float | str]:
        satisfaction, p_return = self.town.readers.satisfaction[reader], behaviour.p_return(self.town, reader)
        return {"satisfaction": float(satisfaction), "p_return": float(p_return)}

    def _known(self, request_id: str) -> _Request:
        if request_id not in self._requests:
            raise not_sent("feed", f"request '{request_id[:80]}'")
        return self._requests[request_id]

    def _found(self, refs: Iterable[str]) -> Ints:
        for ref in refs:
            if ref not in self._rows:
                raise not_sent("feed", f"post '{ref[:80]}'")
        return np.array([self._rows[ref] for ref in refs], dtype=np.int64)


def run(seed: int, policy: Policy, *, days: int, params: WorldParams | None = None, scale: float = 1.0) -> list[Totals]:
    """Returns day by day what comes of a policy that ranks alone, with no server and nothing to learn."""
    world = World(seed, params, scale=scale, theirs=policy)
    world.advance(world.start_us + days * DAY - 1, alone=True)
    return world.days


def _settle(seed: int, params: WorldParams) -> Town:
    """Returns the town of a seed on its first day."""
    key, calm = draws.root(f"feed world {seed}"), np.zeros(params.topics)
    topics = towns.unit(towns.noise(draws.child(draws.named(key, "topics"), np.arange(params.topics)), "topic"))
    writers = draws.child(draws.named(key, "authors"), np.arange(params.authors))
    authors = towns.authors(writers, params, topics=topics)
    readers = towns.readers(draws.named(key, "readers"), params, topics=topics, authors=authors)
    silent = authors._replace(rate=np.zeros(params.authors))
    posts = towns.written(silent, params, topics=topics, surge=calm, start_us=START_US, wave=False)
    seen = np.zeros((params.readers, 0), dtype=np.bool_)
    return Town(params, key, topics, calm, readers, authors, posts, seen)
