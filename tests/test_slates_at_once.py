"""Slates asked for at once: made by turns, each sees the one before, and replies go out between their stages."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.slate_log import Clicks, SlateLog, posts
from tests.test_slates import replayer

from decalog.clock import HOUR, rfc3339
from decalog.committing import Committer
from decalog.decisions import decode_decision
from decalog.errors import ConflictError
from decalog.events import Event
from decalog.host import Host
from decalog.meter import Meter
from decalog.models.base import Model
from decalog.retrieval import Retrieved
from decalog.searching import Wait

PATIENCE_S = 30.0


async def nobody(system: str, decision_id: str, _verb: str) -> dict[str, Any]:
    raise AssertionError(f"{system} {decision_id}")


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SlateLog]:
    made = SlateLog(tmp_path, model=Clicks())
    posts(made, 6)
    made.clock.set(made.clock.now_us() + 10 * HOUR)
    yield made
    made.log.close()


def body(log: SlateLog, id_: str) -> bytes:
    return msgspec.json.encode({"id": id_, "user": "ada", "size": 2, "event_time": rfc3339(log.clock.now_us())})


def asked(log: SlateLog, *ids: str) -> list[dict[str, Any] | BaseException]:
    """Returns the replies to requests that come together, each with the log's position at which it went out."""

    async def play() -> list[dict[str, Any] | BaseException]:
        host = Host(log.log, {"feed": log.service}, replay=nobody, meter=Meter())
        await host.start()

        async def ask(id_: str) -> dict[str, Any]:
            told = await host.decide("feed", body(log, id_))
            return {**told.body, "went out at": log.log.position}

        told = await asyncio.gather(*map(ask, ids), return_exceptions=True)
        await host.stop()
        return list(told)

    return asyncio.run(play())


def when_retrieved(log: SlateLog, monkeypatch: pytest.MonkeyPatch, act: Any) -> None:
    """Lets something happen once, in the loop's next turn after candidates were retrieved."""
    honest, todo = log.shelf.retrieve, [act]

    def retrieve(request: Event, *more: Model | None) -> Retrieved:
        if todo:
            asyncio.get_running_loop().call_soon(todo.pop())
        return honest(request, *more)

    monkeypatch.setattr(log.shelf, "retrieve", retrieve)


def decided(log: SlateLog) -> list[Any]:
    return [decode_decision(record.body) for record in log.log.read() if record.kind == "decision"]


def test_slates_are_made_in_their_order_each_after_the_one_before(log: SlateLog) -> None:
    begun = log.log.position
    told = asked(log, "a", "b", "c", "d")
    assert [one["feed_request"] for one in told if isinstance(one, dict)] == ["a", "b", "c", "d"]
    made = decided(log)
    assert [(one.request.id, one.state_seq) for one in made] == list(zip("abcd", range(begun, begun + 4), strict=True))
    assert replayer(log).range().text() == "4/4 identical"


def test_a_reply_does_not_wait_for_the_slates_behind_it(log: SlateLog, monkeypatch: pytest.MonkeyPatch) -> None:
    # A sync that takes no time beside the loop: it is done when the loop goes on.
    synced, tell, write = threading.Event(), Committer._tell, Committer._write

    def telling(committer: Committer) -> bool:
        told = tell(committer)
        synced.set()
        return told

    def writing(committer: Committer) -> None:
        synced.clear()
        write(committer)
        assert not committer._is_syncing or synced.wait(PATIENCE_S)

    monkeypatch.setattr(Committer, "_tell", telling)
    monkeypatch.setattr(Committer, "_write", writing)
    count = 8
    begun = log.log.position
    told = asked(log, *(f"r{n}" for n in range(count)))
    first = told[0]
    assert isinstance(first, dict)
    assert first["went out at"] < begun + count


def test_what_is_stamped_between_two_stages_is_seen(log: SlateLog, monkeypatch: pytest.MonkeyPatch) -> None:
    now = rfc3339(log.clock.now_us())
    click = {"id": "late", "event_time": now, "kind": "post", "post": "p9", "author": "a1", "topic": "t"}
    when_retrieved(log, monkeypatch, lambda: log.ingest.event(click))
    begun = log.log.position
    asked(log, "a")
    (made,) = decided(log)
    assert (made.state_seq, log.log.position) == (begun + 1, begun + 2)
    assert replayer(log).range().text() == "1/1 identical"


def test_a_request_that_came_as_an_event_meanwhile_is_no_decision(
    log: SlateLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = msgspec.json.decode(body(log, "a")) | {"kind": "feed_request"}
    when_retrieved(log, monkeypatch, lambda: log.ingest.event(same))
    (told,) = asked(log, "a")
    assert isinstance(told, ConflictError)
    assert decided(log) == []


def searching(log: SlateLog, monkeypatch: pytest.MonkeyPatch, begin: Any) -> None:
    """Lets the shelf search aside: what `begin` returns is waited for, then it retrieves as ever."""

    class Aside:
        def __init__(self, request: Event, model: Model | None = None) -> None:
            self.done, self.gathered = begin(), lambda: log.shelf.retrieve(request, model)

        def waits(self) -> Wait | None:
            return None if self.done.done() else Wait(self.done, 600.0)

    monkeypatch.setattr(log.shelf, "search", Aside, raising=False)


def test_the_loop_goes_on_while_candidates_are_searched_for(log: SlateLog, monkeypatch: pytest.MonkeyPatch) -> None:
    now = rfc3339(log.clock.now_us())
    click = {"id": "late", "event_time": now, "kind": "post", "post": "p9", "author": "a1", "topic": "t"}

    def begin() -> Future[None]:
        over = Future[None]()

        def end() -> None:
            log.ingest.event(click)
            over.set_result(None)

        asyncio.get_running_loop().call_soon(end)  # without a loop that goes on this would wait for ever
        return over

    searching(log, monkeypatch, begin)
    begun = log.log.position
    asked(log, "a")
    (made,) = decided(log)
    assert (made.state_seq, log.log.position) == (begun + 1, begun + 2)
    assert "p9" in {one.ref for one in made.candidates}
    assert replayer(log).range().text() == "1/1 identical"


def test_a_search_that_cannot_begin_is_a_recorded_fallback(log: SlateLog, monkeypatch: pytest.MonkeyPatch) -> None:
    searching(log, monkeypatch, lambda: 1 / 0)
    asked(log, "a", "b")
    assert [made.fallback for made in decided(log)] == ["retrieval_error"] * 2
