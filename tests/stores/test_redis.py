"""A StateStore on a real Redis: order, all or nothing, and what becomes of it when the server is hurt."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
import redis
from tests.redis_server import free_port, running

from decalog.errors import ConfigError, StateError
from decalog.stores.base import INSERT, RETRACT, Mark, Refused, RowSteps, StateKey
from decalog.stores.redis import RedisState, StateSettings

SETTINGS = StateSettings(kept_us=10_000_000, pause_s=0)
CARD = ("card", 7)
SIGN = 2**63
_names = itertools.count()

Open = Callable[[], RedisState]


@pytest.fixture
def open_(redis_url: str) -> Iterator[Open]:
    """Opens one state again and again; closes what a test leaves open."""
    space, opened = f"store-{next(_names)}", list[RedisState]()

    def one() -> RedisState:
        opened.append(RedisState(redis_url, space, settings=SETTINGS))
        return opened[-1]

    yield one
    for store in opened:
        store.close()


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.from_url(redis_url) as opened:
        yield opened


def row(*cells: int) -> bytes:
    return b"".join((cell + SIGN).to_bytes(8) for cell in cells)


def step(act: bytes, *cells: int, horizon: int = -1_000) -> bytes:
    return act + row(horizon) + row(*cells)


def todo(key: StateKey, steps: list[bytes], retain: int = 10_000) -> RowSteps:
    return RowSteps(key, steps, retain)


def stored(*rows: bytes, mark: int = -SIGN) -> bytes:
    return b"".join(rows) + row(mark)


def key_of(store: RedisState) -> bytes:
    return store._key(CARD)


def test_rows_stand_in_the_order_of_numbers_whatever_order_they_came_in(open_: Open) -> None:
    """Negative numbers, numbers beyond 2⁵³ (where doubles lose units), and ties in the first one or two cells."""
    check_order(open_())


def check_order(store: RedisState) -> None:
    chance = Random(5)
    edges = [-(2**63) + 1, -(2**53) - 1, -(2**53), -256, -1, 0, 1, 127, 128, 255, 256, 2**32, 2**53, 2**53 + 1, 2**62]
    names = [(time, root, kind) for time in edges for root in edges[::3] for kind in (1, 2, 2**40)]
    chance.shuffle(names)
    for number, name in enumerate(names):
        steps = [step(INSERT, *name, number, horizon=-(2**63))]
        assert store.exchange([todo(CARD, steps)], (), mark=Mark(number, 0)) == (None, [])
    held = [(*name, number) for number, name in enumerate(names)]
    assert store.exchange((), [CARD]) == (None, [stored(*(row(*cells) for cells in sorted(held)))])
    gone = held[::2]
    steps = [step(RETRACT, *cells, horizon=-(2**63)) for cells in gone]
    assert store.exchange([todo(CARD, steps)], (), mark=Mark(10_000, 0)) == (None, [])
    assert store.exchange((), [CARD])[1] == [stored(*(row(*cells) for cells in sorted(held[1::2])))]


def test_the_order_of_rows_does_not_hang_on_the_locale_of_the_server(tmp_path: Path) -> None:
    r"""Lua compares strings by the locale: here '\200' < '\201' is false, which would put rows in the wrong place."""
    words = ["localedef", "-i", "en_US", "-f", "UTF-8", "--no-archive", str(tmp_path / "en_US.UTF-8")]
    if shutil.which("localedef") is None or subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("no locale can be made on this machine: apt-get install locales")
    environment = {**os.environ, "LOCPATH": str(tmp_path), "LC_ALL": "en_US.UTF-8"}
    with running(tmp_path, environment=environment) as (url, _), redis.from_url(url) as client:
        assert client.eval("return '\\200' < '\\201' and 1 or 0", 0) == 0
        store = RedisState(url, "s", settings=SETTINGS)
        check_order(store)
        store.close()


def test_one_step_that_cannot_be_refuses_all(open_: Open) -> None:
    store, other = open_(), ("card", 8)
    store.exchange([todo(CARD, [step(INSERT, 5, 1, 1)])], (), mark=Mark(0, 5))
    good = todo(other, [step(INSERT, 5, 2, 1), step(INSERT, 6, 2, 1)])
    for bad in (step(INSERT, 5, 1, 1), step(RETRACT, 5, 2, 1), step(RETRACT, -999, 2, 1)):
        steps = [good, todo(CARD, [step(INSERT, 6, 9, 1), bad])]
        assert store.exchange(steps, [CARD], mark=Mark(1, 6)) == (Refused(1, 1), [])
        assert store.known() == Mark(0, 5)
        assert store.exchange((), [CARD, other]) == (None, [stored(row(5, 1, 1)), b""])
    absent_and_pruned = todo(CARD, [step(RETRACT, -1_000, 2, 1)])
    assert store.exchange([good, absent_and_pruned], [other], mark=Mark(1, 6)) == (
        None,
        [stored(row(5, 2, 1), row(6, 2, 1))],
    )


def test_dead_rows_go_and_an_entity_without_rows_leaves_no_key(open_: Open, client: redis.Redis) -> None:
    store = open_()
    for time in range(100):
        store.exchange([todo(CARD, [step(INSERT, time, time, 1, horizon=time - 10)])], (), mark=Mark(time, time))
    (kept,) = store.exchange((), [CARD])[1]
    assert kept.endswith(stored(*(row(time, time, 1) for time in range(90, 100))))
    assert len(kept) < 24 * (10 + 32) + 8
    steps = [step(RETRACT, time, time, 1, horizon=89) for time in range(90, 100)]
    store.exchange([todo(CARD, steps)], (), mark=Mark(100, 99))
    assert store.exchange((), [CARD])[1] == [b""]
    assert not client.exists(key_of(store))
    assert list(store.sizes()) == []


def test_of_more_rows_than_retained_the_first_go_whichever_way_they_came(open_: Open) -> None:
    """One by one, many in one call, out of order, with ties; plain Python says what is left, and the mark."""
    chance, store, left, mark, seq = Random(6), open_(), list[bytes](), -SIGN, 0
    times = [1, 2, 3, 4, 5, 6, 6, 6, 7, 9, 8, 2, 10, 5, *range(10, 90), *(chance.randrange(80, 120) for _ in range(90))]
    while times:
        batch, times = times[: chance.choice((1, 1, 2, 9))], times[9:] if seq > 150 else times[1:]
        steps = []
        for time in batch:
            seq += 1
            steps.append(step(INSERT, time, seq, 1))
            if time > mark:
                left = sorted([*left, row(time, seq, 1)])
            if len(left) > 5:
                mark = int.from_bytes(left[0][:8]) - SIGN
                left = [one for one in left if one[:8] > left[0][:8]]
        assert store.exchange([todo(CARD, steps, retain=5)], (), mark=Mark(seq, 0)) == (None, [])
        (packed,) = store.exchange((), [CARD])[1]
        found = [packed[at : at + 24] for at in range(0, len(packed) - 8, 24)]
        assert ([one for one in found if one[:8] > packed[-8:]], packed[-8:]) == (left, row(mark))
        assert len(found) <= 5 + 32 + len(batch)


def test_what_went_is_neither_withdrawn_nor_there_twice_and_the_mark_outlives_the_rows(
    open_: Open, client: redis.Redis
) -> None:
    store = open_()
    steps = [step(INSERT, 5, root, 1) for root in range(3)]
    store.exchange([todo(CARD, steps, retain=2)], (), mark=Mark(0, 5))
    assert store.exchange((), [CARD])[1] == [stored(mark=5)]
    more = [step(INSERT, 5, 1, 1), step(RETRACT, 4, 9, 1), step(INSERT, 6, 1, 1), step(RETRACT, 6, 1, 1)]
    assert store.exchange([todo(CARD, more, retain=2)], [CARD], mark=Mark(1, 6)) == (None, [stored(mark=5)])
    assert store.exchange([todo(CARD, [step(RETRACT, 6, 1, 1)])], (), mark=Mark(2, 6)) == (Refused(0, 0), [])
    # A mark that every horizon has passed says nothing any more.
    last = [step(INSERT, 7, 1, 1, horizon=5), step(RETRACT, 7, 1, 1, horizon=5)]
    assert store.exchange([todo(CARD, last, retain=2)], [CARD], mark=Mark(2, 7)) == (None, [b""])
    assert not client.exists(key_of(store))


def test_a_state_goes_on_where_it_was_left(open_: Open) -> None:
    first = open_()
    assert first.known() is None
    first.exchange([todo(CARD, [step(INSERT, 5, 1, 1)])], (), mark=Mark(3, -7))
    again = open_()
    assert again.known() == Mark(3, -7)
    assert again.exchange((), [CARD, ("a:b*", 1)])[1] == [stored(row(5, 1, 1)), b""]
    assert list(again.sizes()) == [("card", 24)]


def test_another_state_takes_the_place_of_the_old_with_its_first_mark(open_: Open) -> None:
    store = open_()
    store.exchange([todo(CARD, [step(INSERT, 5, 1, 1)])], (), mark=Mark(3, 5))
    store.rebuild([(("a:b*", 1), 2, stored(row(1, 1, 1), row(2, 2, 1)))])
    assert store.known() is None
    assert open_().known() == Mark(3, 5)
    store.exchange((), (), mark=Mark(9, 9))
    again = open_()
    assert again.known() == Mark(9, 9)
    assert again.exchange((), [CARD, ("a:b*", 1)])[1] == [b"", stored(row(1, 1, 1), row(2, 2, 1))]
    assert list(again.sizes()) == [("a:b*", 48)]


def test_rows_outlive_the_mark_so_that_none_is_missed_while_it_is_there(open_: Open, client: redis.Redis) -> None:
    store = open_()
    store.exchange([todo(CARD, [step(INSERT, 5, 1, 1)])], (), mark=Mark(0, 5))
    week, day = 7 * 86_400_000, 86_400_000
    assert week - 60_000 < client.pttl(store._mark_key) <= week
    assert week + day + 10_000 - 60_000 < client.pttl(key_of(store)) <= week + day + 10_000


@pytest.mark.parametrize("hurt", ["flushall", "older", "another writer"])
def test_a_state_that_is_not_what_it_was_is_lost_and_takes_nothing(open_: Open, client: redis.Redis, hurt: str) -> None:
    store = open_()
    store.exchange((), (), mark=Mark(0, 1))
    older = client.get(store._mark_key)
    store.exchange([todo(CARD, [step(INSERT, 5, 1, 1)])], (), mark=Mark(1, 5))
    if hurt == "another writer":
        open_().exchange((), (), mark=Mark(2, 6))
    elif hurt == "older":
        client.set(store._mark_key, older or b"")
    else:
        client.flushall()
    before = client.get(key_of(store))
    lost = (
        r"features' state on Redis: a mark that is gone, older, or another server's\. Expected the mark.*decalog builds"
    )
    for steps in ([], [todo(CARD, [step(INSERT, 6, 2, 1)])]):
        with pytest.raises(StateError, match=lost):
            store.exchange(steps, [CARD], mark=Mark(3, 6) if steps else None)
    assert client.get(key_of(store)) == before


def test_a_value_cut_short_is_noticed_by_who_reads_and_by_who_writes(open_: Open, client: redis.Redis) -> None:
    for cut in (1, 8, 9, 24, 32, 48):
        store = open_()
        store.rebuild([(CARD, 2, stored(row(1, 1, 1), row(2, 2, 1)))])
        store.exchange((), (), mark=Mark(0, 2))
        whole = client.get(key_of(store)) or b""
        client.set(key_of(store), whole[:-cut])
        with pytest.raises(StateError, match=rf"rows that nobody wrote so \(a value of {len(whole) - cut} bytes"):
            store.exchange((), [CARD])
        with pytest.raises(StateError, match=r"rows that nobody wrote so \(a value that steps are for\)"):
            store.exchange([todo(CARD, [step(INSERT, 3, 3, 1)])], (), mark=Mark(1, 3))
        assert open_().known() is None  # given up: whoever opens it builds it from the log


def test_another_type_of_key_is_noticed_and_the_other_keys_of_the_call_stay(open_: Open, client: redis.Redis) -> None:
    store, other = open_(), ("card", 8)
    store.exchange((), (), mark=Mark(0, 2))
    client.hset(key_of(store), "a", "b")
    with pytest.raises(StateError, match=r"rows that nobody wrote so \(WRONGTYPE"):
        store.exchange((), [CARD])
    steps = [todo(other, [step(INSERT, 5, 2, 1)]), todo(CARD, [step(INSERT, 6, 1, 1)])]
    with pytest.raises(StateError, match=r"a value that steps are for.*restart to build the state anew"):
        store.exchange(steps, (), mark=Mark(1, 5))
    assert not client.exists(store._key(other))


@pytest.mark.parametrize("kind", ["text", "hash"])
def test_something_else_in_the_place_of_the_mark_is_refused_at_once(
    redis_url: str, client: redis.Redis, kind: str
) -> None:
    key = f"decalog:{{foreign-{next(_names)}}}"
    client.set(key, "text") if kind == "text" else client.hset(key, "a", "hash")
    with pytest.raises(StateError, match=r"mark: something that is no mark.*Delete the key, or name another database"):
        RedisState(redis_url, key[9:-1], settings=SETTINGS)


def test_a_server_without_the_script_is_given_it(open_: Open, client: redis.Redis) -> None:
    store = open_()
    client.script_flush()
    store.exchange([todo(CARD, [step(INSERT, 5, 1, 1)])], (), mark=Mark(0, 5))
    assert store.exchange((), [CARD])[1] == [stored(row(5, 1, 1))]


def test_a_server_that_stands_still_costs_one_wait_and_what_it_did_late_is_found_out(tmp_path: Path) -> None:
    now = [0.0]
    settings = StateSettings(kept_us=1, timeout_s=0.5, pause_s=1)
    with running(tmp_path) as (url, process):
        store = RedisState(url, "s", settings=settings, monotonic=lambda: now[0])
        store.exchange((), (), mark=Mark(0, 0))
        os.kill(process.pid, signal.SIGSTOP)
        steps = [todo(CARD, [step(INSERT, 5, 1, 1)])]
        with pytest.raises(StateError, match=r"did not do what it was asked \(Timeout.*Expected an answer in time"):
            store.exchange(steps, (), mark=Mark(1, 5))
        with pytest.raises(StateError, match=r"did not do what it was asked \(it failed a moment ago\)"):
            store.known()
        os.kill(process.pid, signal.SIGCONT)
        now[0] = 1.0
        assert store.known() in (Mark(0, 0), Mark(1, 5))
        if store.known() == Mark(0, 0):
            store.exchange(steps, (), mark=Mark(1, 5))
        assert store.exchange((), [CARD])[1] == [stored(row(5, 1, 1))]
        store.close()


def test_a_server_that_is_gone_is_said_to_be(tmp_path: Path) -> None:
    with running(tmp_path) as (url, _):
        store = RedisState(url, "s", settings=SETTINGS)
        store.exchange((), (), mark=Mark(0, 0))
    with pytest.raises(StateError, match="requests get the declared fallback, and nothing of the log is lost"):
        store.exchange((), [CARD])
    store.close()


def test_an_address_where_nobody_listens_is_refused_at_once() -> None:
    with pytest.raises(StateError, match="a server that did not do what it was asked"):
        RedisState(f"redis://127.0.0.1:{free_port()}", "s", settings=SETTINGS)


def test_an_address_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"features' state, address: an address that cannot be read.*redis://host"):
        RedisState("localhost:6379", "s", settings=SETTINGS)


def test_a_server_that_evicts_is_refused(tmp_path: Path) -> None:
    """Evicted rows would be read as if they had never been."""
    with (
        running(tmp_path, "--maxmemory-policy", "volatile-ttl") as (url, _),
        pytest.raises(ConfigError, match=r"maxmemory-policy: volatile-ttl, which drops rows.*Expected noeviction"),
    ):
        RedisState(url, "s", settings=SETTINGS)


def test_a_full_server_takes_nothing_and_loses_nothing(tmp_path: Path) -> None:
    with running(tmp_path) as (url, _):
        store = RedisState(url.replace("redis:", "valkey:"), "s", settings=SETTINGS)
        store.exchange([todo(CARD, [step(INSERT, 5, 1, 1)])], (), mark=Mark(0, 0))
        with redis.from_url(url) as client:
            client.config_set("maxmemory", 1)
            with pytest.raises(StateError, match="did not do what it was asked"):
                store.exchange([todo(CARD, [step(INSERT, 6, 1, 1)])], (), mark=Mark(1, 0))
            client.config_set("maxmemory", 0)
        assert store.known() == Mark(0, 0)
        assert store.exchange((), [CARD])[1] == [stored(row(5, 1, 1))]
        store.close()
