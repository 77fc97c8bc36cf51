"""A state on another server gives the bits of the one in memory, whatever stops in between."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.features.logs import Writer, features, retains, steps
from tests.features.test_engines_agree import assert_same_bits, online, reference

from decalog.candidates import Candidate, gathered
from decalog.errors import DataError, ReplayError, StateError
from decalog.features import remote
from decalog.features.definition import FeatureSet
from decalog.features.facts import Change, Fact, Point
from decalog.features.offline import fold_admissible
from decalog.features.online import OnlineState
from decalog.features.remote import RemoteState
from decalog.stores.base import Mark, Refused, RowSteps, StateKey, StateStore
from decalog.stores.redis import RedisState, StateSettings

FEATURES = features()
SETTINGS = StateSettings(kept_us=36, pause_s=0, timeout_s=10.0)  # what is told apart here is bits, not times
_names = itertools.count()

Drawn = list[tuple[object, ...]]


@pytest.fixture(scope="session")
def fresh(redis_url: str) -> Iterator[Fresh]:
    """Returns what names a new state, and then opens that state again and again; closes those of the name before."""
    opened: list[RedisState] = []

    def close() -> None:
        while opened:
            opened.pop().close()

    def name() -> Callable[[], RedisState]:
        close()
        space = f"test-{next(_names)}"

        def open_() -> RedisState:
            opened.append(RedisState(redis_url, space, settings=SETTINGS))
            return opened[-1]

        return open_

    yield name
    close()


Fresh = Callable[[], Callable[[], RedisState]]


class Breaking:
    """A store whose connection breaks at exchanges: of the numbers `before`, or after they were taken."""

    def __init__(self, inner: RedisState, before: set[int], after: set[int]) -> None:
        self.before, self._after = before, after
        self.exchanges = itertools.count()
        self.open(inner)

    def open(self, inner: RedisState) -> None:
        self.inner = inner
        self.known, self.rebuild, self.sizes, self.close = inner.known, inner.rebuild, inner.sizes, inner.close
        self.left = inner.left

    def exchange(
        self, due: Sequence[RowSteps], keys: Sequence[StateKey], *, mark: Mark | None = None
    ) -> tuple[Refused | None, list[bytes]]:
        number = next(self.exchanges)
        if number in self.before:
            raise lost_connection()
        stored = self.inner._stored
        done = self.inner.exchange(due, keys, mark=mark)
        if number in self._after:
            # As after a reply that never came: whether the mark was stored is not known.
            self.inner._stored, self.inner._attempted = stored, self.inner._stored if mark else b""
            raise lost_connection()
        return done


def opened(store: StateStore, behind: int = 0, declared: FeatureSet = FEATURES) -> RemoteState:
    """Returns a state whose log is durable up to some records ago."""
    state = RemoteState(declared, store, durable=lambda: state.position - behind)
    return state


def lost_connection() -> StateError:
    return StateError(where="test", given="a connection that broke", expected="a reply", fix="None.")


def answered(state: OnlineState, changes: Sequence[Change], points: Sequence[Point]) -> list[bytes | None]:
    """Returns the vector of each point in bytes, None where it is refused; points must ascend by state_seq."""
    done, vectors = 0, list[bytes | None]()
    for point in points:
        while done < len(changes) and changes[done].seq < point.state_seq:
            state.apply(changes[done])
            done += 1
        vectors.append(None if state.refused(point) else state.vector(point).tobytes())
    return vectors


def in_order(points: Sequence[Point]) -> list[Point]:
    return sorted(points, key=lambda point: point.state_seq)


@given(drawn=steps, behind=st.integers(0, 5), retain=retains)
def test_remote_online_offline_and_reference_agree_bit_for_bit(
    fresh: Fresh, drawn: Drawn, behind: int, retain: int
) -> None:
    declared, log = features(retain=retain), Writer().write(drawn)
    points = in_order(log.points)
    state = opened(fresh()(), behind, declared)
    late, folded = fold_admissible(declared, log.changes, points=points)
    at_once = iter(folded)
    wanted = zip(online(declared, log.changes, points), reference(declared, log.changes, points), strict=True)
    got = answered(state, log.changes, points)
    for point, is_late, (want, oracle), vector in zip(points, late, wanted, got, strict=True):
        assert is_late == (vector is None) == (want is None)
        if want is not None and oracle is not None and vector is not None:
            assert_same_bits(FEATURES.names, want, np.frombuffer(vector), point)
            assert_same_bits(FEATURES.names, oracle, np.frombuffer(vector), point)
            assert_same_bits(FEATURES.names, next(at_once), np.frombuffer(vector), point)


@given(drawn=steps, behind=st.integers(0, 3), retain=retains)
def test_candidates_read_there_have_the_bits_of_memory(fresh: Fresh, drawn: Drawn, behind: int, retain: int) -> None:
    declared, log = features(retain=retain), Writer().write(drawn)
    memory, state, done = OnlineState(declared), opened(fresh()(), behind, declared), 0
    owns = [point.own for point in log.points if point.own is not None]
    candidates = gathered([Candidate("c", entities=dict(o.entities), attributes=dict(o.attributes)) for o in owns])
    for point in in_order(log.points):
        while done < len(log.changes) and log.changes[done].seq < point.state_seq:
            state.apply(log.changes[done])
            memory.apply(log.changes[done])
            done += 1
        if not memory.refused(point):
            assert state.vectors(point, candidates).tobytes() == memory.vectors(point, candidates).tobytes()


_numbers = st.sets(st.integers(0, 40), max_size=12)


@given(drawn=steps, before=_numbers, after=_numbers, behind=st.integers(0, 3), reopens=st.booleans(), retain=retains)
def test_a_connection_that_breaks_changes_no_bit(
    fresh: Fresh, drawn: Drawn, before: set[int], after: set[int], behind: int, reopens: bool, retain: int
) -> None:
    """What was taken is not taken twice, and what was not is not lost, by the same process or one after it."""
    declared, log = features(retain=retain), Writer().write(drawn)
    again = fresh()
    store = Breaking(again(), before, after)
    memory, state, done = OnlineState(declared), opened(store, behind, declared), 0
    for point in in_order(log.points):
        while done < len(log.changes) and log.changes[done].seq < point.state_seq:
            state.apply(log.changes[done])
            memory.apply(log.changes[done])
            done += 1
        if memory.refused(point):
            continue
        try:
            got = state.vector(point)
        except StateError:
            if reopens:
                store.open(again())
                state = opened(store, behind, declared)
                started = state.position
                # As `views.follow` does: what is stored holds rows alone.
                state.use_tables(c.table for c in log.changes[:done] if c.table is not None and c.seq < started)
                for change in [change for change in log.changes[:done] if change.seq >= started]:
                    state.apply(change)
            continue
        assert_same_bits(FEATURES.names, memory.vector(point), got, point)
    end = Point(memory.position, memory.watermark or 0, entities={"card": 1, "device": 1})
    assert_same_bits(FEATURES.names, memory.vector(end), until_answered(state, end), end)


def until_answered(state: OnlineState, point: Point) -> npt.NDArray[np.float64]:
    while True:
        try:
            return state.vector(point)
        except StateError:
            continue


@given(drawn=steps, other=steps, cut=st.integers(0, 40), behind=st.integers(0, 2), retain=retains)
def test_what_the_log_lost_is_not_in_the_state(
    fresh: Fresh, drawn: Drawn, other: Drawn, cut: int, behind: int, retain: int
) -> None:
    """A server that dies loses records that it stamped and folded; after its restart others take their seqs."""
    declared, lost, kept = features(retain=retain), Writer().write(drawn), Writer().write(drawn[:cut])
    durable = kept.changes[-1].seq + 1 if kept.changes else 0
    kept.write(other)
    again = fresh()
    dying = RemoteState(declared, again(), durable=lambda: min(durable, dying.position - behind))
    for point in in_order(lost.points):
        answered(dying, [change for change in lost.changes if dying.position <= change.seq < point.state_seq], [point])
    memory, state = OnlineState(declared), RemoteState(declared, again())
    assert state.position <= durable
    state.use_tables(change.table for change in kept.changes if change.table is not None)
    memory.apply_many(kept.changes)
    state.apply_many([change for change in kept.changes if change.seq >= state.position])
    assert (state.position, state.watermark) == (memory.position, memory.watermark)
    for time in range((memory.watermark or 0) - 6, (memory.watermark or 0) + 1):
        point = Point(memory.position, time, entities={"card": 1, "device": 1})
        assert_same_bits(declared.names, memory.vector(point), state.vector(point), point)


@given(steps, retains)
def test_a_state_built_at_once_is_opened_where_it_ended(fresh: Fresh, drawn: Drawn, retain: int) -> None:
    declared, log = features(retain=retain), Writer().write(drawn)
    again = fresh()
    memory, built = OnlineState(declared), RemoteState(declared, again())
    memory.apply_many(log.changes)
    built.apply_many(log.changes)
    later = RemoteState(declared, again())
    later.use_tables(change.table for change in log.changes if change.table is not None)
    assert (later.position, later.watermark) == (memory.position, memory.watermark)
    point = Point(memory.position, memory.watermark or 0, entities={"card": 1, "device": 1})
    assert memory.vector(point).tobytes() == built.vector(point).tobytes() == later.vector(point).tobytes()
    assert later.stats().entities.keys() == memory.stats().entities.keys()


def test_many_rows_have_the_bits_of_memory_built_at_once_and_added(fresh: Fresh) -> None:
    again, changes = fresh(), [payment(seq, 1_000 + seq // 9) for seq in range(300)]
    memory, built = OnlineState(FEATURES), RemoteState(FEATURES, again())
    for state in (memory, built):
        state.apply_many(changes[:200])
        for change in changes[200:]:
            state.apply(change)
    assert memory._live.rows(0, 1).shape[1] > len(memory.plan.entities[0].picks)  # has running counts
    for time in (1_028, 1_033):
        point = Point(300, time, entities={"card": 1, "device": 1})
        assert_same_bits(FEATURES.names, memory.vector(point), built.vector(point), point)


def payment(seq: int, time: int, card: int = 1) -> Change:
    return Change(seq, time, None, Fact(seq, time, "payment", {"card": card}, {"cents": seq % 7}))


def test_many_changes_go_in_few_round_trips_and_an_answer_needs_none_of_them_sent(
    fresh: Fresh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_BLOCK", 10)
    store, memory = Breaking(fresh()(), set(), set()), OnlineState(FEATURES)
    state = RemoteState(FEATURES, store)
    for seq in range(101):
        state.apply(payment(seq, seq // 3))
        memory.apply(payment(seq, seq // 3))
    assert len(state._waiting) < 10 <= next(store.exchanges)
    point = Point(101, 33, entities={"card": 1})
    assert memory.vector(point).tobytes() == state.vector(point).tobytes()
    held = {entity: count for entity, count in state.stats().entities.items() if count}
    assert held == {"card": 1, "all": 1}
    assert state.stats().rows >= memory.stats().entities["card"]


@pytest.mark.parametrize("durable", [None, lambda: 0])
def test_a_question_before_the_state_is_refused_as_in_memory(fresh: Fresh, durable: Any) -> None:
    state = RemoteState(FEATURES, fresh()(), durable=durable)
    state.apply(payment(0, 100))
    with pytest.raises(ReplayError, match=r"a point at position 0, with the state at 1"):
        state.vector(Point(0, 100))
    with pytest.raises(DataError, match=r"a time 50 µs before the watermark"):
        state.vector(Point(1, 50))
    state.apply(payment(1, 101))
    with pytest.raises(DataError, match=r"change 0: a seq below 1, which came before it"):
        state.apply(payment(0, 101))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (payment(0, 100), r"change 1, entity '\w+': a second image of root 0 at the same time"),
        (Change(1, 100, payment(7, 100).plus, None), r"change 1, entity '\w+': the withdrawal of root 7, which is not"),
    ],
)
def test_a_log_that_contradicts_itself_makes_the_state_unfit_for_good(
    fresh: Fresh, wrong: Change, message: str
) -> None:
    again = fresh()
    state = RemoteState(FEATURES, again())
    state.apply(payment(0, 100))
    state.flush()
    bad = Change(1, 100, wrong.minus, wrong.plus)
    state.apply(bad)
    point = Point(2, 100, entities={"card": 1})
    for _ in range(2):
        with pytest.raises(DataError, match=message):
            state.vector(point)
    state.apply(payment(2, 100))
    later = RemoteState(FEATURES, again())
    assert later.position == 1
    with pytest.raises(DataError, match=message):
        later.apply_many([bad])
    later.reset()
    later.apply_many([payment(0, 100)])
    later.close()


def test_a_withdrawal_of_what_was_pruned_is_no_fault(fresh: Fresh) -> None:
    state = RemoteState(FEATURES, fresh()())
    state.apply(payment(0, 100))
    state.apply(payment(1, 1_000))
    state.apply(Change(2, 1_000, payment(0, 100).plus, None))
    state.flush()
    state.apply(Change(3, 1_000, payment(0, 100).plus, None))
    state.flush()
    assert state.stats().rows == 2  # the one payment, under the card and under all


def test_a_server_that_stays_away_lets_the_state_give_up_before_memory_ends(
    fresh: Fresh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_MOST", 20)
    store = Breaking(fresh()(), set(range(1_000)), set())
    state = RemoteState(FEATURES, store)
    for seq in range(30):
        state.apply(payment(seq, 100))
    assert not state._waiting
    store.before.clear()
    with pytest.raises(StateError, match=r"20 changes of rows that the server did not take\. Expected fewer than 20"):
        state.vector(Point(30, 100))


def test_rows_of_another_feature_set_are_refused(fresh: Fresh) -> None:
    again = fresh()
    one = FeatureSet(
        system="generated", features=tuple(f for f in FEATURES.features if f.name.startswith("card_count"))
    )
    narrow = RemoteState(one, again())
    narrow.apply_many([payment(0, 100)])
    wide = RemoteState(FEATURES, again())
    with pytest.raises(StateError, match=r"entity 'card': 32 bytes, which are no whole number of rows and a mark"):
        wide.vector(Point(1, 100, entities={"card": 1}))


def test_a_state_that_could_not_be_built_answers_nothing(fresh: Fresh) -> None:
    store = Breaking(fresh()(), {0}, set())
    state = RemoteState(FEATURES, store)
    for ask in (lambda: state.apply_many([payment(0, 100)]), lambda: state.vector(Point(1, 100))):
        with pytest.raises(StateError, match="a connection that broke"):
            ask()
    state.reset()
    state.apply_many([payment(0, 100)])
    assert state.vector(Point(1, 100))[FEATURES.names.index("all_count__1us_1_payment")] == 1
