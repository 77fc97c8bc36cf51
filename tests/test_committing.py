"""Groups beside an event loop: who waits for which, and what a failure tells them."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.test_log import BAD_DISK, MemoryStore, draft, memory_log

from decalog import committing as module
from decalog.clock import ManualClock
from decalog.committing import Committer
from decalog.errors import LogUnavailableError
from decalog.log import Log, verify_chain
from decalog.stores.sqlite import SqliteLogStore
from decalog.stores.vault import SqliteVault

PATIENCE_S = 60.0

Scenario = Callable[[Log, MemoryStore, Committer], Awaitable[None]]


def play(scenario: Scenario) -> list[tuple[int, int]]:
    """Plays a scenario with a committer on a log in memory; returns what was told of each group."""
    log, store, _ = memory_log()
    told: list[tuple[int, int]] = []

    async def run() -> None:
        committer = Committer(log, lambda position, waited: told.append((position, waited)))
        try:
            await asyncio.wait_for(scenario(log, store, committer), PATIENCE_S)
        finally:
            store.may_sync.set()
            await committer.stop()

    asyncio.run(run())
    return told


def test_what_is_stamped_while_a_group_is_synced_becomes_the_next() -> None:
    async def scenario(log: Log, store: MemoryStore, committer: Committer) -> None:
        store.may_sync.clear()
        asked = []
        for number in range(50):
            seq = log.stamp(draft(str(number))).seq
            asked.append(asyncio.create_task(committer.until_durable(seq)))
            await asyncio.sleep(0)
        assert not any(task.done() for task in asked)
        store.may_sync.set()
        await asyncio.gather(*asked)
        assert sum(store.groups) == 50
        assert len(store.groups) <= 3

    told = play(scenario)
    assert told[-1][0] == 50
    assert sum(waited for _, waited in told) == 50
    assert [position for position, _ in told] == sorted({position for position, _ in told})


def test_what_begins_at_once_is_written_before_the_loop_comes_round() -> None:
    async def scenario(log: Log, store: MemoryStore, committer: Committer) -> None:
        store.may_sync.clear()
        log.stamp(draft("a"))
        committer.begin()
        store.error = OSError(BAD_DISK)  # the first was written before this, and the second is not before its turn
        log.stamp(draft("b"))
        committer.begin()
        store.error = None
        store.may_sync.set()
        await committer.until_durable(1)
        assert store.groups == [1, 1]

    assert [position for position, _ in play(scenario)] == [1, 2]


def test_a_record_that_is_durable_is_not_waited_for() -> None:
    async def scenario(log: Log, _store: MemoryStore, committer: Committer) -> None:
        log.stamp(draft("a"))
        log.commit()
        await committer.until_durable(0)

    assert play(scenario) == []


def test_stopping_commits_what_is_left_and_tells() -> None:
    async def scenario(log: Log, _store: MemoryStore, _committer: Committer) -> None:
        log.stamp(draft("a"))

    assert play(scenario) == [(1, 1)]


def test_stopping_without_records_says_nothing() -> None:
    async def scenario(_log: Log, _store: MemoryStore, _committer: Committer) -> None:
        return

    assert play(scenario) == []


def test_a_busy_log_lets_groups_grow_and_an_idle_one_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PACE_S", 0.02)
    monkeypatch.setattr(module, "_MOST_S", 0.4)

    async def scenario(log: Log, store: MemoryStore, committer: Committer) -> None:
        for number in range(3):
            await committer.until_durable(log.stamp(draft(f"alone {number}")).seq)
        assert store.groups == [1, 1, 1]
        for number in range(20):
            log.stamp(draft(f"burst {number}"))
        await committer.until_durable(log.position - 1)
        first = asyncio.create_task(committer.until_durable(log.stamp(draft("after the burst")).seq))
        for _ in range(9):
            await asyncio.sleep(0)
        await committer.until_durable(log.stamp(draft("with it")).seq)
        await first
        assert store.groups == [1, 1, 1, 20, 2]

    play(scenario)


@pytest.mark.parametrize("where", ["error", "sync_error"])
def test_a_failed_commit_is_told_to_all_who_wait_and_all_who_come(where: str) -> None:
    async def scenario(log: Log, store: MemoryStore, committer: Committer) -> None:
        setattr(store, where, BAD_DISK)
        asked = [asyncio.create_task(committer.until_durable(log.stamp(draft(name)).seq)) for name in "ab"]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert [str(answer) for answer in answers] == [str(BAD_DISK)] * 2
        setattr(store, where, None)
        with pytest.raises(LogUnavailableError, match="a failed sync"):
            await committer.until_durable(0)
        with pytest.raises(LogUnavailableError, match="a failed sync"):
            log.stamp(draft("c"))
        assert store.groups == []

    assert play(scenario) == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("where", ["error", "sync_error"])
def test_a_fault_of_our_own_is_told_too(where: str) -> None:
    async def scenario(log: Log, store: MemoryStore, committer: Committer) -> None:
        seen: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, about: seen.append(str(about["exception"])))
        setattr(store, where, ZeroDivisionError("a bug"))
        with pytest.raises(LogUnavailableError, match="a fault that ended the writer"):
            await committer.until_durable(log.stamp(draft("a")).seq)
        assert seen == (["a bug"] if where == "error" else [])  # one of the other thread ends that thread

    play(scenario)


def test_one_who_hung_up_stops_no_other() -> None:
    async def scenario(log: Log, store: MemoryStore, committer: Committer) -> None:
        store.may_sync.clear()
        gone = asyncio.create_task(committer.until_durable(log.stamp(draft("a")).seq))
        stays = asyncio.create_task(committer.until_durable(log.stamp(draft("b")).seq))
        await asyncio.sleep(0)
        gone.cancel()
        store.may_sync.set()
        await stays
        assert gone.cancelled()

    assert sum(waited for _, waited in play(scenario)) == 1


def test_a_loop_that_ended_is_told_nothing_and_the_thread_ends() -> None:
    log, store, _ = memory_log()
    store.may_sync.clear()
    before = set(threading.enumerate())

    async def run() -> None:
        committer = Committer(log)
        log.stamp(draft("a"))
        committer.notify()
        await asyncio.sleep(0)

    asyncio.run(run())
    store.may_sync.set()
    (thread,) = set(threading.enumerate()) - before
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert store.groups == [1]


def test_lookups_are_right_while_another_thread_syncs(tmp_path: Path) -> None:
    store = SqliteLogStore(tmp_path / "0.sqlite", writer=True)
    vault = SqliteVault(tmp_path / "vault.sqlite", writer=True)
    log = Log(store, vault, ManualClock(1))
    rng = random.Random(3)
    expected: dict[str, list[int]] = {}

    async def run() -> None:
        committer = Committer(log)
        for number in range(400):
            id_ = f"{rng.randint(0, 60)}"
            expected.setdefault(id_, []).append(log.stamp(draft(id_, keys=[("target", f"{number % 7}")])).seq)
            committer.notify()
            await asyncio.sleep(rng.choice((0, 0, 0.0005)))  # so that syncs fall between other steps each time
            asked = f"{rng.randint(0, 60)}"
            assert log.find("request", f"s/{asked}") == expected.get(asked, [])
            assert log.find("target", "3") == list(range(3, number + 1, 7))
            assert log.get(rng.randint(0, number)).kind == "event"
        await committer.stop()

    asyncio.run(run())
    assert verify_chain(store.read(0)) == 400
    assert {id_: store.find("request", f"s/{id_}") for id_ in expected} == expected
    log.close()
