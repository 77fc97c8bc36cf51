"""The rules of the kernel, one by one, with answers worked out by hand."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import pytest

from decalog.clock import DAY, HOUR
from decalog.errors import DataError, ReplayError
from decalog.features import arena, candidates, kernel, sliding
from decalog.features.definition import Aggregate, AggregateName, Calendar, FeatureSet, Lookup
from decalog.features.facts import Change, Fact, Point, TableVersion, Value
from decalog.features.offline import fold, refused
from decalog.features.online import OnlineState
from decalog.features.reference import evaluate

Engine = Callable[[FeatureSet, Sequence[Change], Point], list[float]]


def from_online(declared: FeatureSet, changes: Sequence[Change], point: Point) -> list[float]:
    state = OnlineState(declared)
    for change in changes:
        if change.seq < point.state_seq:
            state.apply(change)
    return [float(value) for value in state.vector(point)]


def from_state_at_once(declared: FeatureSet, changes: Sequence[Change], point: Point) -> list[float]:
    state = OnlineState(declared)
    state.apply_many([change for change in changes if change.seq < point.state_seq])
    return [float(value) for value in state.vector(point)]


def from_offline(declared: FeatureSet, changes: Sequence[Change], point: Point) -> list[float]:
    return [float(value) for value in fold(declared, changes, points=[point])[0]]


def from_reference(declared: FeatureSet, changes: Sequence[Change], point: Point) -> list[float]:
    return evaluate(declared, changes, point=point)


ENGINES = [from_online, from_state_at_once, from_offline, from_reference]


def one(
    aggregate: AggregateName = "count",
    *,
    column: str = "",
    window: str = "10us",
    own: bool = True,
    retain: int = 1000,
    bound: int = 10**12,
) -> FeatureSet:
    feature = Aggregate(
        name="feature",
        meaning="tested",
        unit="s" if aggregate == "time_since" else "1",
        entity="card",
        aggregate=aggregate,
        over=("payment",),
        window=window,
        column=column,
        own=own,
        bound=bound,
    )
    return FeatureSet(system="test", features=(feature,), lateness="100us", retain=retain)


def payment(root: int, time: int, **attributes: Value) -> Fact:
    return Fact(root, time, "payment", {"card": 1}, attributes)


def log(*facts: Fact) -> list[Change]:
    return [Change(fact.root, fact.event_time, None, fact) for fact in facts]


def asked(state_seq: int, time: int) -> Point:
    return Point(state_seq, time, entities={"card": 1})


@pytest.mark.parametrize("engine", ENGINES)
class TestEveryEngine:
    def test_a_window_holds_its_end_and_not_its_beginning(self, engine: Engine) -> None:
        changes = log(payment(0, 100), payment(1, 105))
        answers = [engine(one(), changes, asked(2, time)) for time in (105, 109, 110, 114, 115)]
        assert answers == [[2.0], [2.0], [1.0], [1.0], [0.0]]

    def test_a_point_sees_only_what_was_logged_before_it(self, engine: Engine) -> None:
        changes = log(payment(0, 100), payment(1, 100), payment(2, 100))
        assert [engine(one(), changes, asked(seq, 100)) for seq in range(4)] == [[0.0], [1.0], [2.0], [3.0]]

    def test_the_own_event_enters_once_then_and_in_hindsight(self, engine: Engine) -> None:
        changes = log(payment(0, 100), payment(1, 101), payment(2, 101))
        own = payment(1, 101)
        assert [engine(one(), changes, Point(seq, 101, 1, own)) for seq in (1, 3)] == [[2.0], [3.0]]
        assert [engine(one(own=False), changes, Point(seq, 101, 1, own)) for seq in (1, 3)] == [[1.0], [2.0]]

    def test_a_correction_replaces_and_a_deletion_withdraws(self, engine: Engine) -> None:
        old, new = payment(0, 100, cents=5), payment(0, 103, cents=7)
        changes = [
            Change(0, 100, None, old),
            Change(1, 103, old, new),
            Change(2, 104, new, None),
            Change(3, 105, None, old),
        ]
        answers = [engine(one("sum", column="cents"), changes, asked(seq, 105)) for seq in range(5)]
        assert answers == [[0.0], [5.0], [7.0], [0.0], [5.0]]

    def test_empty_windows_count_and_sum_to_zero_and_the_rest_is_missing(self, engine: Engine) -> None:
        for aggregate, column, value in [
            ("count", "", 0.0),
            ("sum", "cents", 0.0),
            ("mean", "cents", -1.0),
            ("distinct", "cents", -1.0),
            ("time_since", "", -1.0),
        ]:
            declared = one(aggregate, column=column)  # type: ignore[arg-type]
            assert engine(declared, log(payment(0, 10, cents=3)), asked(1, 100)) == [value]

    def test_values_beyond_the_bound_or_of_another_type_leave_only_their_own_aggregate(self, engine: Engine) -> None:
        values: list[Value] = [10, -10, 11, -11, 2.5, "7", True]
        changes = log(*(payment(i, 100, cents=value) for i, value in enumerate(values)))
        point = asked(len(values), 100)
        assert engine(one("sum", column="cents", bound=10), changes, point) == [1.0]
        assert engine(one("mean", column="cents", bound=10), changes, point) == [1.0 / 3.0]
        assert engine(one("distinct", column="cents"), changes, point) == [6.0]
        assert engine(one(), changes, point) == [7.0]

    def test_sums_at_the_bound_stay_exact(self, engine: Engine) -> None:
        declared = one("sum", column="cents", retain=7, bound=2**60 - 1)
        changes = log(*(payment(i, 100, cents=2**60 - 1) for i in range(7)))
        assert engine(declared, changes, asked(7, 100)) == [float(7 * (2**60 - 1))]

    def test_time_since_is_in_seconds(self, engine: Engine) -> None:
        declared = one("time_since", window="10s")
        assert engine(declared, log(payment(0, 0), payment(1, 50)), asked(2, 1_500_050)) == [1.5]

    def test_a_missing_entity_gives_the_missing_value(self, engine: Engine) -> None:
        nobody = Point(1, 100, 5, Fact(5, 100, "payment", {}, {"cents": 3}))
        assert engine(one(), log(payment(0, 100)), nobody) == [0.0]
        assert engine(one("mean", column="cents"), log(payment(0, 100, cents=1)), nobody) == [-1.0]

    def test_of_more_rows_than_declared_the_oldest_go_with_their_ties(self, engine: Engine) -> None:
        changes = log(*(payment(i, time) for i, time in enumerate((100, 100, 102, 103, 104))))
        three = one(retain=3)
        assert engine(three, changes, asked(3, 103)) == [3.0]
        # The fourth row sends both of 100 away: a window that begins before 100 is crowded, one at 100 is exact.
        assert [engine(three, changes, asked(4, time)) for time in (109, 110)] == [[-2.0], [2.0]]
        assert [engine(three, changes, asked(5, time)) for time in (109, 110)] == [[-2.0], [3.0]]
        assert engine(one(retain=3, window="20us"), changes, asked(5, 110)) == [-2.0]
        assert engine(one(retain=5), changes, asked(5, 109)) == [5.0]

    def test_what_comes_at_or_before_the_mark_is_dropped_and_withdrawn_without_a_word(self, engine: Engine) -> None:
        changes = log(*(payment(i, time) for i, time in enumerate((100, 101, 102, 103))))
        changes += [
            Change(4, 103, None, payment(4, 100)),
            Change(5, 103, payment(0, 100), payment(0, 104)),
            Change(6, 103, payment(4, 100), None),
            Change(7, 104, payment(1, 101), None),
        ]
        # 101, 102 and 103 are held after the first four; the row of 4 came too late, that of 0 moves to 104 and sends
        # 101 away, whose deletion then finds nothing.
        assert [engine(one(retain=3), changes, asked(seq, 110)) for seq in (4, 5)] == [[3.0], [3.0]]
        assert [engine(one(retain=3), changes, asked(seq, 111)) for seq in (6, 7, 8)] == [[3.0], [3.0], [3.0]]
        assert engine(one(retain=3), changes, asked(8, 110)) == [-2.0]

    def test_more_ties_than_declared_leave_nothing_and_say_so(self, engine: Engine) -> None:
        changes = log(*(payment(i, 100) for i in range(4)))
        assert engine(one(retain=4), changes, asked(4, 109)) == [4.0]
        assert [engine(one(retain=3), changes, asked(4, time)) for time in (100, 109, 110)] == [[-2.0], [-2.0], [0.0]]
        assert engine(one(retain=3), changes, Point(3, 100, 3, payment(3, 100))) == [4.0]

    def test_a_point_too_far_behind_the_watermark_is_refused(self, engine: Engine) -> None:
        changes = log(payment(0, 100), payment(1, 300), payment(2, 200))
        assert engine(one(), changes, asked(3, 200)) == [1.0]
        with pytest.raises(
            DataError, match=r"a time 101 µs before the watermark. Expected at most the declared lateness"
        ):
            engine(one(), changes, asked(3, 199))

    def test_withdrawing_a_row_that_is_not_live_is_refused(self, engine: Engine) -> None:
        changes = [*log(payment(0, 100)), Change(1, 100, payment(7, 100), None)]
        with pytest.raises(
            DataError, match=r"change 1, entity '(card|any)': the withdrawal of root 7, which is not live"
        ):
            engine(one(), changes, asked(2, 100))

    def test_adding_a_row_twice_is_refused(self, engine: Engine) -> None:
        changes = [*log(payment(0, 100)), Change(1, 100, None, payment(0, 100))]
        with pytest.raises(DataError, match=r"change 1, entity '(card|any)': a second image of root 0"):
            engine(one(), changes, asked(2, 100))

    def test_a_table_is_read_at_a_public_value_else_at_the_token_of_an_entity(self, engine: Engine) -> None:
        table = TableVersion("lists", {"7": 4.0, "x": 1.0})
        changes = [Change(0, 100, table=table)]
        declared = FeatureSet(
            system="test",
            features=(Lookup(name="listed", meaning="tested", unit="1", table="lists", key="card", missing=-2),),
        )
        facts = [
            Fact(1, 100, "payment", {"card": 7}, {}),
            Fact(1, 100, "payment", {"card": 7}, {"card": "x"}),
            Fact(1, 100, "payment", {"card": 8}, {}),
            Fact(1, 100, "payment", {}, {}),
        ]
        points = [*(Point(1, 100, 1, fact) for fact in facts), Point(0, 100, 1, facts[0])]
        answers = [engine(declared, changes, point) for point in (*points, Point(1, 100, entities={"card": 7}))]
        assert answers == [[4.0], [1.0], [-2.0], [-2.0], [-2.0], [4.0]]

    def test_the_calendar_is_utc(self, engine: Engine) -> None:
        declared = FeatureSet(
            system="test",
            features=(
                Calendar(name="hour", meaning="hour", unit="h", part="hour_of_day"),
                Calendar(name="day", meaning="day", unit="d", part="day_of_week"),
            ),
        )
        assert engine(declared, log(payment(0, 0)), asked(1, 4 * DAY + 23 * HOUR)) == [23.0, 0.0]  # Monday, 1970-01-05


@pytest.mark.parametrize("engine", [from_online, from_state_at_once, from_offline])
def test_a_log_that_goes_backwards_is_refused(engine: Engine) -> None:
    changes = [Change(5, 100, None, payment(5, 100)), Change(4, 100, None, payment(4, 100))]
    with pytest.raises(DataError, match="change 4: a seq below 5"):
        engine(one(), changes, asked(9, 100))


def test_the_online_state_does_not_answer_for_its_past() -> None:
    state = OnlineState(one())
    state.apply_many(log(payment(0, 100), payment(1, 100)))
    with pytest.raises(ReplayError, match="a point at position 1, with the state at 2"):
        state.vector(asked(1, 100))


def test_which_points_are_refused_is_known_beforehand() -> None:
    changes = log(payment(0, 100), payment(1, 300))
    assert refused(one(), changes, points=[asked(0, 0), asked(1, 0), asked(2, 199), asked(2, 200)]).tolist() == [
        False,
        False,
        True,
        False,
    ]


def test_no_points_and_no_changes_are_fine() -> None:
    assert fold(one(), [], points=[]).shape == (0, 1)
    assert fold(one(), [], points=[asked(0, 5)]).tolist() == [[0.0]]
    empty = OnlineState(one())
    empty.apply_many([])
    assert (empty.position, empty.watermark) == (0, None)
    assert empty.vector(asked(0, 5)).tolist() == [0.0]


def busy_log(length: int) -> list[Change]:
    """Returns payments of many short-lived cards and one lasting card, some late, over many times what is kept."""
    draw = random.Random(3)
    changes = []
    for seq in range(length):
        known = 1_000 + 3 * seq
        card = 1 if seq % 4 == 0 else 10 + seq // 8
        late = draw.choice([0, 0, 0, 90, 400])
        fact = Fact(seq, known - late, "payment", {"card": card}, {"cents": draw.randrange(100)})
        changes.append(Change(seq, known, None, fact))
    return changes


def test_pruning_bounds_the_state_and_is_invisible() -> None:
    declared = one("sum", column="cents", window="60us")
    changes = busy_log(4_000)
    state = OnlineState(declared)
    points, answers, most = [], [], 0
    for change in changes:
        assert change.plus is not None
        point = Point(change.seq, change.known_time - change.seq % 100, entities=change.plus.entities)
        points.append(point)
        answers.append(state.vector(point))
        state.apply(change)
        most = max(most, state.stats().rows) if change.seq % 50 == 0 else most
    assert np.array(answers).tobytes() == fold(declared, changes, points=points).tobytes()
    # 160 µs are kept, a row comes every 3 µs: 54 can be reached; twice that and some slack may linger.
    assert most < 150
    assert state.stats().entities["card"] < 60


def test_withdrawing_a_pruned_row_does_nothing_and_its_new_image_lives() -> None:
    state = OnlineState(one("sum", column="cents"))
    changes = busy_log(400)
    for change in changes:
        state.apply(change)
    first, now = changes[0].plus, changes[-1].known_time
    assert first is not None
    moved = Fact(first.root, now, "payment", {"card": 99}, {"cents": 42})
    state.apply(Change(400, now, first, moved))
    assert state.vector(Point(401, now, entities={"card": 99})).tolist() == [42.0]


def test_stats_count_rows_bytes_and_unusable_values() -> None:
    for at_once in (False, True):
        state = OnlineState(one("sum", column="cents", bound=10))
        changes = log(payment(0, 100, cents=5), payment(1, 100, cents=11), payment(2, 100, cents="x"), payment(3, 100))
        if at_once:
            state.apply_many(changes)
        else:
            for change in changes:
                state.apply(change)
        stats = state.stats()
        assert (stats.entities, stats.rows, stats.unusable) == ({"card": 1}, 4, {"cents": 2})
        assert stats.bytes >= 5 * 4 * 8


SCRIPT = """
import hashlib, sys
from decalog.candidates import Candidate, gathered
from decalog.features.facts import Point, laid_over
from decalog.features.offline import fold
from decalog.features.online import OnlineState
from tests.features.logs import features
from tests.features.test_rules import busy_log

declared, changes = features(lateness="500us"), busy_log(120)
points = [Point(c.seq, c.plus.event_time, c.seq, c.plus) for c in changes]
state, vectors = OnlineState(declared), []
for change, point in zip(changes, points):
    vectors.append(state.vector(point).tobytes())
    state.apply(change)
folded = fold(declared, changes, points=points).tobytes()
assert folded == b"".join(vectors)
last = Point(state.position, points[-1].time, own=points[-1].own)
laid = [Candidate("c", entities=dict(p.own.entities), attributes=dict(p.own.attributes)) for p in points[:9]]
at_once = state.vectors(last, gathered(laid)).tobytes()
assert at_once == b"".join(state.vector(laid_over(last, each)).tobytes() for each in laid)
print("numba" in sys.modules, hashlib.sha256(folded).hexdigest())
"""


def test_without_numba_the_bits_are_the_same() -> None:
    outputs = []
    for value in ("", "1"):
        environment = os.environ | {"DECALOG_NO_NUMBA": value}
        run = subprocess.run(
            [sys.executable, "-W", "error", "-c", SCRIPT], capture_output=True, text=True, env=environment, check=False
        )
        assert run.returncode == 0, run.stderr
        outputs.append(run.stdout.split())
    assert [loaded for loaded, _ in outputs] == ["True", "False"]
    assert outputs[0][1] == outputs[1][1]


def test_what_calls_the_kernel_from_elsewhere_is_cached_under_its_source() -> None:
    """Else numba would go on with the kernel of before: its cache looks at a function's own file alone."""
    assert sliding.fold_tokens.__name__ == "fold_tokens"
    doors = (
        arena._take,
        arena._let_go,
        arena.insert,
        arena.retract,
        arena.scan_all,
        arena.scan_many,
        arena.load,
        arena.unload,
        arena.tally,
    )
    for function in (sliding.fold_tokens, candidates.firsts, arena.rehash, arena.rows_of, *doors):
        assert function.__qualname__ == f"{function.__name__}_{kernel.source_mark()}"


def test_as_many_entity_names_as_there_may_be_are_kept_apart() -> None:
    """A change adds to all of them at once."""
    count = one().features[0]
    declared = FeatureSet(
        system="test",
        features=tuple(msgspec.structs.replace(count, name=f"f{i}", entity=f"e{i}") for i in range(62)),
        lateness="100us",
    )
    rows = [Fact(seq, 100, "payment", {f"e{i}": 1 for i in range(62) if seq <= i}, {}) for seq in range(62)]
    changes = log(*rows)
    point = Point(62, 100, entities={f"e{i}": 1 for i in range(62)})
    answers = [engine(declared, changes, point) for engine in ENGINES]
    assert answers == [[float(i + 1) for i in range(62)]] * len(ENGINES)
    state = OnlineState(declared)
    state.apply(changes[0])
    with pytest.raises(DataError, match="a second image of root 0"):
        state.apply(Change(1, 100, None, rows[0]))
