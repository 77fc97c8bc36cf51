"""Retrieval over a real log: records as admission makes them, of the feed's own schema, read again after a start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.stores.samples import START, open_log
from tests.systems.feed.catalogued import dropped, refs

from decalog.clock import ManualClock
from decalog.decisions import Choice, Decision, Slot, Versions, decode_decision
from decalog.events import Event, decode_event, encode
from decalog.ingest import Ingest, Rates
from decalog.log import Draft, Log
from decalog.outcomes import Outcome, decode_outcome
from decalog.retrieval import Retrieved
from decalog.systems.feed.retrieval import FeedRetrieval
from decalog.systems.feed.schema import SCHEMA

LONG_MS = 60_000.0
DECODE: dict[str, Any] = {"event": decode_event, "decision": decode_decision, "outcome": decode_outcome}


class Home:
    def __init__(self, log: Log) -> None:
        self.log, self.feed = log, FeedRetrieval(deadline_ms=LONG_MS)
        self.ingest = Ingest(SCHEMA, log, rates=Rates())
        self.ingest.on_record = self.feed.follow
        self.count = 0

    def event(self, **raw: object) -> str:
        return self._taken(self.ingest.event({"id": self._id(), **raw}))

    def outcome(self, **raw: object) -> str:
        source = {} if "deletes" in raw else {"source": "app"}
        return self._taken(self.ingest.outcome({"id": self._id(), **source, **raw}))

    def show(self, user: str, *names: str) -> str:
        request = self.ask(user)
        choice = Choice(tuple(Slot(ref, place) for place, ref in enumerate(names)), verb="show")
        decision = Decision("d" + request.id, request, self.log.position, (), choice, Versions("", "", "", 0))
        draft = Draft(
            kind="decision",
            system="feed",
            id=request.id,
            digest=request.id.encode(),
            event_time=request.event_time,
            body=encode(decision),
        )
        self.feed.follow(self.log.stamp(draft), decision)
        return request.id

    def ask(self, user: str) -> Event:
        return self.ingest.build(self.ingest.parser.request({"id": self._id(), "user": user, "region": "de"}))

    def again(self) -> FeedRetrieval:
        feed = FeedRetrieval(deadline_ms=LONG_MS)
        for seq in range(self.log.position):
            record = self.log.get(seq)
            body: Event | Decision | Outcome = DECODE[record.kind](record.body)
            feed.follow(record, body)
        return feed

    def _id(self) -> str:
        self.count += 1
        return f"x{self.count}"

    @staticmethod
    def _taken(result: Any) -> str:
        assert result.status == "accepted", result
        return str(result.id)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with open_log(tmp_path, ManualClock(START)) as log:
        yield Home(log)


def fill(home: Home) -> list[str]:
    return [
        home.event(kind="post", post=f"p{n}", author=f"a{n % 3}", topic=("art", "tea")[n % 2], language="de")
        for n in range(12)
    ]


def test_what_the_log_admits_is_what_retrieval_knows(home: Home) -> None:
    posts = fill(home)
    home.event(kind="profile", user="uma", interests="tea", region="de")
    home.event(kind="follow", user="uma", author="a1")
    muted = home.event(kind="mute", user="uma", topic="art")
    asked = home.show("uma", "p1", "p3")
    liked = home.outcome(feed_request=asked, kind="like", value=1, ref="p3")
    home.event(kind="moderation", post="p5", verdict="removed")
    home.event(kind="post", deletes=posts[7])
    found = home.feed.retrieve(home.ask("uma"))
    assert set(refs(found)) == {"p9", "p11"}
    hidden = {f"p{n}": "muted" for n in range(0, 12, 2)} | {"p1": "seen", "p3": "seen", "p5": "removed"}
    assert dropped(found) == hidden
    assert {c.ref: c.attributes["in_network"] for c in list(found.candidates)[:2]} == {"p9": False, "p11": False}

    home.event(kind="mute", deletes=muted)
    home.outcome(deletes=liked)
    home.event(kind="post", corrects=posts[9], post="p9", author="a1", topic="tea")
    found = home.feed.retrieve(home.ask("uma"))
    assert set(refs(found)) == {"p0", "p2", "p4", "p6", "p8", "p10", "p9", "p11"}
    assert {c.ref for c in found.candidates if not c.dropped and c.attributes["in_network"]} == {"p4", "p9", "p10"}
    user = home.log.vault.token("user", "uma")
    assert home.feed.people.person(user).recent == []


def test_a_retry_changes_nothing(home: Home) -> None:
    fill(home)
    asked = home.show("uma", "p1")
    raw = {"id": "o1", "source": "app", "feed_request": asked, "kind": "like", "value": 1, "ref": "p1"}
    assert [home.ingest.outcome(raw).status for _ in range(3)] == ["accepted", "duplicate", "duplicate"]
    scores = home.feed.popularity.top("de", 5).tolist()
    assert len(scores) == 2
    assert len(home.feed.people.person(home.log.vault.token("user", "uma")).recent) == 1


def test_a_start_from_the_log_finds_the_same(home: Home) -> None:
    posts = fill(home)
    for user in ("uma", "vic"):
        asked = home.show(user, "p1", "p2")
        home.outcome(feed_request=asked, kind="click", value=1, ref="p2")
        home.event(kind="block", user=user, author="a0")
    home.event(kind="post", deletes=posts[4])
    home.event(kind="post", post="late", author="a5", topic="tea")

    def plain(found: Retrieved) -> object:
        return found.candidates, found.late

    for user in ("uma", "vic", "wes"):
        request = home.ask(user)
        assert plain(home.again().retrieve(request)) == plain(home.feed.retrieve(request))
    assert home.again().describe(home.ask("wes"), ["p2"]) == home.feed.describe(home.ask("wes"), ["p2"])
