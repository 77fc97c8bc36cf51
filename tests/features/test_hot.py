"""Entities with more rows than the set retains: what is held, what is said, and that no engine's habits show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from tests.features.logs import Writer, features, retains, steps
from tests.features.test_engines_agree import online, reference

from decalog.features import kernel
from decalog.features.definition import Aggregate, AggregateName, Attribute, Feature, FeatureSet, Rate, Ratio, ZScore
from decalog.features.facts import Change, Fact, Point
from decalog.features.live import LiveRows
from decalog.features.offline import fold
from decalog.features.online import OnlineState
from decalog.features.packed import PackedRows
from decalog.features.reference import held
from decalog.features.skew import explain
from decalog.features.snapshot import write_snapshot


def reloaded(state: OnlineState, change: Callable[[PackedRows], PackedRows]) -> None:
    """Lets a state go on with other rows."""
    live = LiveRows(state.plan)
    for name in range(len(state.plan.entities)):
        live.load(name, change(state._live.packed(name)))
    state._live = live


class Eager(OnlineState):
    """Prunes all that it may at every change."""

    def apply(self, *changes: Change) -> None:
        super().apply(*changes)
        reloaded(self, lambda packed: packed.after(self._watermark - self._kept_us))


class Hoarder(OnlineState):
    """Never prunes."""

    def apply(self, *changes: Change) -> None:
        kept, self._kept_us = self._kept_us, 2**61
        super().apply(*changes)
        self._kept_us = kept


class Counting(OnlineState):
    """Keeps running counts of few rows, too."""

    def __init__(self, features: FeatureSet) -> None:
        super().__init__(features)
        self._live = LiveRows(self.plan, counted_from=0)


class Silent(OnlineState):
    """A planted fault: lets rows go, and does not say so."""

    def apply(self, *changes: Change) -> None:
        def unsaid(packed: PackedRows) -> PackedRows:
            left = packed.after(kernel.BEFORE_ALL)
            left.block[left.heads, kernel.MARK] = kernel.BEFORE_ALL
            return left

        super().apply(*changes)
        reloaded(self, unsaid)


class LeavesTies(OnlineState):
    """A planted fault: of the rows that go, those of the last microsecond stay."""

    def apply(self, *changes: Change) -> None:
        def left(packed: PackedRows) -> PackedRows:
            heads = packed.heads[packed.counts > 0]
            tied = packed.block[heads, kernel.MARK] == packed.block[heads + 1, kernel.TIME]
            packed.block[heads[tied], kernel.MARK] -= 1
            return packed

        super().apply(*changes)
        reloaded(self, left)


def snapshot(state: OnlineState, folder: Path) -> bytes:
    path = folder / "a.snapshot"
    write_snapshot(path, state, position=state.position, log_hash=bytes(32))
    return path.read_bytes()


@given(drawn=steps, retain=retains)
def test_when_rows_are_pruned_shows_in_no_value_and_no_snapshot(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[object, ...]], retain: int
) -> None:
    declared, log = features(retain=retain), Writer().write(drawn)
    folder = tmp_path_factory.mktemp("pruned")
    plain, *others = (one(declared) for one in (OnlineState, Eager, Hoarder, Counting))
    for change in log.changes:
        for state in (plain, *others):
            state.apply(change)
    watermark = plain.watermark or 0
    points = [
        Point(plain.position, time, entities={"card": card, "device": device})
        for time in range(watermark - 6, watermark + 4)
        for card, device in ((1, 1), (2, 2), (1, 3))
    ]
    for point, want in zip(points, fold(declared, log.changes, points=points), strict=True):
        assert {state.vector(point).tobytes() for state in (plain, *others)} == {want.tobytes()}
    assert len({snapshot(state, folder) for state in (plain, *others)}) == 1


CARD: dict[str, Any] = {"meaning": "tested", "entity": "card", "over": ("payment",), "unit": "1"}


def declared(*further: Feature, retain: int = 3) -> FeatureSet:
    sums = over_two_windows("sum", column="cents")
    return FeatureSet(system="demo", features=(*sums, *further), lateness="100us", retain=retain)


def over_two_windows(aggregate: AggregateName, **given: Any) -> list[Aggregate]:
    windows = ("10us", "1000us")
    return [Aggregate(name=f"{aggregate}_{w}", aggregate=aggregate, window=w, **(CARD | given)) for w in windows]


def payment(seq: int, time: int, card: int = 1) -> Change:
    return Change(seq, time, None, Fact(seq, time, "payment", {"card": card}, {"cents": 1}))


def folded(changes: Sequence[Change], state: OnlineState) -> OnlineState:
    for change in changes:
        state.apply(change)
    return state


def test_a_full_entity_is_bounded_in_memory_and_costs_no_more_a_row() -> None:
    state = folded([payment(seq, 1_000 + seq) for seq in range(5_000)], OnlineState(declared(retain=100)))
    (view,) = state.views()
    assert view.bytes <= 8 * view.width * (1 + 100 + 50) + 64 * 3 * 8  # the index, as small as it gets
    assert state.vector(Point(5_000, 5_999, entities={"card": 1})).tolist() == [10.0, -2.0]
    # The rows of a full entity move only where their run is full: a quarter as often as there are rows.
    rows = state._live.rows(0, 1)
    assert rows[0, kernel.COUNTED] > 100 >= rows[0, kernel.COUNTED] - kernel.last_until(rows, rows[0, kernel.MARK])


def test_many_rows_have_running_counts_that_follow_every_change() -> None:
    counts = FeatureSet(system="demo", features=tuple(over_two_windows("count")), lateness="1000us", retain=1_000)
    state = folded([payment(seq, 1_000 + 2 * seq) for seq in range(500)], OnlineState(counts))
    gone = (3, 498, 250)
    withdrawn = [Change(500 + n, 2_000, payment(seq, 1_000 + 2 * seq).plus) for n, seq in enumerate(gone)]
    late = [payment(503 + seq, 1_001 + 20 * seq) for seq in range(40)]
    folded([*withdrawn, *late], state)
    assert state._live.rows(0, 1).shape[1] > len(state.plan.entities[0].picks)
    times = [1_000 + 2 * seq for seq in range(500) if seq not in gone] + [1_001 + 20 * n for n in range(40)]
    for asked in (1_999, 2_010):
        want = [float(sum(asked - window < time <= asked for time in times)) for window in (10, 1_000)]
        assert state.vector(Point(600, asked, entities={"card": 1})).tolist() == want
    # A row that hindsight may not see is walked around.
    assert state.vector(Point(600, 1_999, root=499, entities={"card": 1})).tolist()[0] == 3.0


def test_a_mark_outlives_the_rows_of_its_entity_until_no_window_reaches_it(tmp_path: Path) -> None:
    ties = [payment(seq, 1_000) for seq in range(4)]
    others = [payment(seq, 1_001, card=seq) for seq in range(4, 60)]
    state = folded([*ties, *others], OnlineState(declared()))
    asked = Point(60, 1_005, entities={"card": 1})
    assert state.vector(asked).tolist() == [-2.0, -2.0]
    with_mark = snapshot(state, tmp_path)
    assert with_mark == snapshot(folded([*ties, *others], Eager(declared())), tmp_path)
    assert with_mark != snapshot(folded([*ties[:1], *others], OnlineState(declared())), tmp_path)
    late = [payment(seq, 2_100, card=seq) for seq in range(60, 200)]
    state = folded([*ties, *others, *late], OnlineState(declared()))
    assert 1 not in state._live.packed(0).tokens
    assert state.vector(Point(200, 2_100, entities={"card": 1})).tolist() == [0.0, 0.0]


def test_what_is_derived_from_a_crowded_window_is_missing() -> None:
    ten, long = "sum_10us", "sum_1000us"
    derived = declared(
        Ratio(name="share", meaning="tested", unit="1", numerator=ten, denominator=long, missing=-7),
        Ratio(name="turned", meaning="tested", unit="1", numerator=long, denominator=ten, missing=-7),
        Rate(name="pace", meaning="tested", unit="1", of=long, per="1us", missing=-7),
        Attribute(name="amount", meaning="tested", unit="1", attribute="cents"),
        ZScore(name="unusual", meaning="tested", unit="1", value="amount", mean=long, std=ten, missing=-7),
    )
    log = [payment(seq, 1_000 + 5 * seq) for seq in range(4)]
    own = Fact(9, 1_016, "payment", {"card": 1}, {"cents": 5})
    points = [Point(seq, 1_016, 9, own) for seq in (3, 4)]
    values = fold(derived, log, points=points).tolist()
    assert values[0] == [6.0, 8.0, 0.75, 8 / 6, 8 / 1000, 5.0, -0.5]
    assert values[1] == [7.0, -2.0, -7.0, -7.0, -7.0, 5.0, -7.0]
    assert [vector.tolist() for vector in online(derived, log, points) if vector is not None] == values


@pytest.mark.parametrize("fault", [Silent, LeavesTies])
def test_a_state_with_a_fault_is_found_out(fault: type[OnlineState]) -> None:
    log = [payment(seq, 1_000 + seq // 2) for seq in range(5)]
    points = [Point(5, time, entities={"card": 1}) for time in (1_009, 1_010, 1_011)]
    honest = [vector.tolist() for vector in reference(declared(), log, points) if vector is not None]
    assert honest == [[-2.0, -2.0], [3.0, -2.0], [1.0, -2.0]]
    for state, is_honest in ((folded(log, OnlineState(declared())), True), (folded(log, fault(declared())), False)):
        assert ([state.vector(point).tolist() for point in points] == honest) == is_honest


def test_a_difference_is_explained_by_what_a_state_did_with_too_many_rows() -> None:
    log = [payment(seq, 1_000 + seq) for seq in range(6)]
    point = Point(6, 1_006, entities={"card": 1})
    for logged, said in (
        ([3.0, 3.0], "a state that let rows go and does not say so"),
        ([6.0, 6.0], "a state that holds more rows than declared"),
    ):
        found = explain(declared(), "sum_10us", changes=log, point=point, logged=logged)
        assert found.said == f"the logged value is that of {said}"
    rows = explain(declared(), "sum_10us", changes=log, point=point, logged=[6.0, 6.0]).rows
    assert [(row.seq, row.seen) for row in rows] == [(seq, "online" if seq < 3 else "both") for seq in range(6)]
    tight = msgspec.structs.replace(
        declared(), features=tuple(msgspec.structs.replace(f, bound=2**61 - 1) for f in declared().aggregates), retain=3
    )
    assert explain(tight, "sum_10us", changes=log, point=point, logged=[6.0, 6.0]).said.startswith("no usual fault")


def test_the_reference_says_what_is_held() -> None:
    log = [payment(seq, 1_000 + seq // 2) for seq in range(8)]
    mine = held(declared(), log, entity="card", subjects={"card": 1})
    assert ([fact.root for fact in mine.rows], mine.mark) == ([6, 7], 1_002)
    assert held(declared(), log[:3], entity="card", subjects={"card": 1}).mark is None
    assert held(declared(), log, entity="card", subjects={"card": 2}) == ([], None)


@given(drawn=steps)
def test_a_value_is_that_of_an_entity_without_a_bound_or_says_that_it_is_not(drawn: list[tuple[object, ...]]) -> None:
    log = Writer().write(drawn)
    few, many = features(retain=2), features(retain=1000)
    points = [point for point in log.points if point.own is not None][-1:]
    for one, other in zip(reference(few, log.changes, points), reference(many, log.changes, points), strict=True):
        if one is None or other is None:
            continue
        crowds = {name for name, was, full in zip(few.names, one, other, strict=True) if was != full}
        exact = np.array([f.crowded if isinstance(f, Aggregate) else np.nan for f in few.features])
        derived = {f.name for f in few.features if isinstance(f, Ratio | Rate | ZScore)}
        assert crowds - derived <= {few.names[place] for place in np.flatnonzero(one == exact)}
