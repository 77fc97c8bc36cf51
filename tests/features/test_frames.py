"""Columns give the bits that objects give: the columnar fold beside the offline fold on every log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.features.logs import KINDS, Writer, features, retains, steps

from decalog.errors import DataError
from decalog.features import frames, sliding
from decalog.features.columnar import rows_of, timeline, tokens_of
from decalog.features.definition import Aggregate, FeatureSet, Lookup
from decalog.features.facts import Change, Fact, Point
from decalog.features.frames import EventColumns, fold_columns
from decalog.features.offline import fold, refused
from decalog.features.plan import Plan
from decalog.features.reference import evaluate

FEATURES = features()
Float64s = npt.NDArray[np.float64]


def objects(values: Sequence[Any]) -> npt.NDArray[Any]:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def columns_of(changes: Sequence[Change], declared: FeatureSet) -> tuple[EventColumns, list[Point]]:
    """Returns a log as columns, and the same points as objects: every added image at its own seq and time."""
    rows = [(c, fact, fact is c.minus) for c in changes for fact in (c.minus, c.plus) if fact is not None]
    facts = [fact for _, fact, _ in rows]
    points = [Point(change.seq, fact.event_time, fact.root, fact) for change, fact, _ in rows]
    late = refused(declared, changes, points=points)
    asked = np.array([not minus for _, _, minus in rows], np.bool_) & ~late
    events = EventColumns(
        event_time=np.array([fact.event_time for fact in facts], np.int64),
        kind=objects([fact.kind for fact in facts]),
        entities={name: masked([fact.entities.get(name) for fact in facts]) for name in ("card", "device")},
        attributes={
            name: objects([fact.attributes.get(name) for fact in facts])
            for name in ("cents", "flag", "country", "other")
        },
        known_time=np.array([change.known_time for change, _, _ in rows], np.int64),
        seq=np.array([change.seq for change, _, _ in rows], np.int64),
        root=np.array([fact.root for fact in facts], np.int64),
        withdraws=np.array([minus for _, _, minus in rows], np.bool_),
        asked=asked,
        tables=timeline(changes),
    )
    return events, [point for point, is_asked in zip(points, asked.tolist(), strict=True) if is_asked]


def masked(values: Sequence[int | None]) -> npt.NDArray[Any]:
    return np.ma.masked_array([value or 0 for value in values], [value is None for value in values], dtype=np.int64)


@given(steps, retains)
def test_columns_give_the_bits_of_objects_on_logs_with_late_corrected_and_deleted_events(
    drawn: list[Any], retain: int
) -> None:
    declared, log = features(retain=retain), Writer().write(drawn)
    events, points = columns_of(log.changes, declared)
    assert fold_columns(declared, events).tobytes() == fold(declared, log.changes, points=points).tobytes()


_rows = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.sampled_from(KINDS[:2]),
        st.integers(0, 3),
        st.integers(1, 3),
        st.integers(-3, 104),
        st.sampled_from(["DE", "FR", "ü"]),
    ),
    min_size=1,
    max_size=60,
)


@given(_rows, retains)
def test_typed_columns_in_order_of_time_slide_to_the_bits_of_the_kernel(drawn: list[Any], retain: int) -> None:
    declared = features(retain=retain)
    gaps, kinds, cards, devices, cents, countries = zip(*drawn, strict=True)
    times = 1_000_000 + np.cumsum(gaps)
    card = np.ma.masked_array(cards, [value == 0 for value in cards], dtype=np.int64)
    events = EventColumns(
        event_time=times,
        kind=np.array(kinds),
        entities={"card": card, "device": np.array(devices, np.int32)},
        attributes={"cents": np.array(cents, np.int16), "country": np.array(countries), "flag": np.array(cents) > 5},
        tables={},
    )
    facts = [
        Fact(seq, time, kind, {"device": device} | ({"card": card} if card else {}), attributes)
        for seq, (time, kind, card, device, attributes) in enumerate(
            zip(
                times.tolist(),
                kinds,
                cards,
                devices,
                [{"cents": c, "country": n, "flag": c > 5} for c, n in zip(cents, countries, strict=True)],
                strict=True,
            )
        )
    ]
    changes = [Change(fact.root, fact.event_time, None, fact) for fact in facts]
    points = [Point(fact.root, fact.event_time, fact.root, fact) for fact in facts]
    folded = fold_columns(declared, events)
    assert folded.tobytes() == fold(declared, changes, points=points).tobytes()
    assert folded[-1].tobytes() == np.array(evaluate(declared, changes, point=points[-1]), np.float64).tobytes()


@given(steps, retains)
def test_what_slides_is_what_the_kernel_scans(drawn: list[Any], retain: int) -> None:
    declared, log = features(retain=retain), Writer().write(drawn)
    late = refused(declared, log.changes, points=log.points)
    points = [point for point, is_late in zip(log.points, late, strict=True) if not is_late]
    slid = fold(declared, log.changes, points=points)
    none = np.zeros((0, 4), np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sliding, "slid_outputs", lambda lanes, outputs: (none, outputs))
        assert fold(declared, log.changes, points=points).tobytes() == slid.tobytes()


def test_what_is_not_known_to_slide_is_scanned_for() -> None:
    entity = Plan(FEATURES).entities[0]
    slid, scanned = sliding.slid_outputs(entity.lanes, entity.outputs)
    mine = [feature for feature in FEATURES.aggregates if feature.entity == entity.entity]
    known = [f for f in mine if f.aggregate in ("count", "sum", "mean", "distinct", "time_since") and not f.offset]
    known = [f for f in known if f.aggregate != "time_since" or not f.where]
    assert {FEATURES.names[place] for place in slid[:, 2]} == {feature.name for feature in known}
    assert len(slid) + len(scanned) == len(mine)
    wider = np.hstack([entity.lanes, entity.lanes[:, :1]])
    assert sliding.slid_outputs(wider, entity.outputs)[1].tolist() == entity.outputs.tolist()
    other = entity.lanes.copy()
    other[:, 0] = 99
    assert len(sliding.slid_outputs(other, entity.outputs)[0]) == 0


@given(steps)
def test_columns_of_a_row_are_read_as_from_facts(drawn: list[Any]) -> None:
    changes = [change for change in Writer().write(drawn).changes if change.plus is not None]
    events, _ = columns_of([msgspec.structs.replace(change, minus=None) for change in changes], FEATURES)
    facts = [change.plus for change in changes if change.plus is not None]
    plan = Plan(FEATURES)
    expected = rows_of(plan, facts)
    for place, column in enumerate(plan.columns, 3):
        assert frames._cells(column, events).tolist() == expected[:, place].tolist()
    for entity in plan.entities:
        assert frames._tokens(entity, events).tolist() == tokens_of(entity, [f.entities for f in facts]).tolist()


def one_count(retain: int = 1000) -> FeatureSet:
    count = Aggregate(
        name="count", meaning="test", unit="1", entity="card", aggregate="count", over=("payment",), window="10us"
    )
    return FeatureSet(system="test", features=(count,), lateness="5us", retain=retain)


def payments(times: Sequence[int], **changes: Any) -> EventColumns:
    events = EventColumns(event_time=np.array(times), kind="payment", entities={"card": np.array(["c"] * len(times))})
    return msgspec.structs.replace(events, **changes)


def test_no_rows_give_no_values() -> None:
    empty = EventColumns(event_time=np.zeros(0, np.int64), kind="payment", entities={}, tables={})
    assert fold_columns(FEATURES, empty).shape == (0, len(FEATURES.names))


def test_only_rows_that_are_asked_for_are_answered() -> None:
    asked = np.array([False, True, False, True])
    assert fold_columns(one_count(), payments([1, 2, 3, 4], asked=asked)).tolist() == [[2.0], [4.0]]


def test_an_entity_of_two_names_is_asked_once_for_each_combination() -> None:
    class Pair(msgspec.Struct):
        entity: str = "card+device"

        def asked_token(self, entities: dict[str, int]) -> int | None:
            return 100 * entities["card"] + entities["device"] if len(entities) == 2 else None

    events = payments([1, 2, 3], entities={"card": np.array([1, 2, 1]), "device": masked([5, None, 5])})
    assert frames._tokens(Pair(), events).tolist() == [105, -(2**63), 105]  # type: ignore[arg-type]
    without = payments([1, 2], entities={})
    assert frames._tokens(Pair(), without).tolist() == [-(2**63)] * 2  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("events", "message"),
    [
        (payments([1, 2], root=np.arange(3)), r"(?s)event columns, 'root'.*3 rows, where event_time has 2"),
        (payments([1, 2], entities={"card": np.arange(1)}), r"(?s)event columns, 'card'.*1 rows"),
        (payments([1, 2], seq=np.array([1, 0])), "a seq below 1, which came before it"),
        (payments([9, 1]), "a time 8 µs before the watermark"),
        (payments([1, 2], withdraws=np.array([False, True])), "the withdrawal of root 1, which is not live"),
        (payments([1, 1], root=np.array([0, 0])), "a second image of root 0"),
    ],
)
def test_what_does_not_fit_is_refused(events: EventColumns, message: str) -> None:
    with pytest.raises(DataError, match=message):
        fold_columns(one_count(), events)


def test_a_crowded_window_says_so_and_the_next_are_exact() -> None:
    assert fold_columns(one_count(retain=3), payments([1, 2, 3, 4])).tolist() == [[1.0], [2.0], [3.0], [4.0]]
    found = fold_columns(one_count(retain=3), payments([1, 2, 3, 4, 5, 11, 13, 16]))
    # Up to 1 went before 5, up to 2 before 11, up to 3 before 13, up to 4 before 16, whose window begins at 6.
    assert found[4:].tolist() == [[-2.0], [-2.0], [4.0], [3.0]]


def test_lookups_need_the_versions_of_their_tables() -> None:
    expected = r"event columns: features that look up lists, risk, and no tables\. .* Pass tables="
    with pytest.raises(DataError, match=expected):
        fold_columns(FEATURES, payments([1, 2]))
    card = Lookup(name="listed", meaning="test", unit="1", table="lists", key="card", missing=0)
    declared = FeatureSet(system="test", features=(card,))
    cards = {"card": np.ma.masked_array([7, 8, 7], [False, False, True])}
    events = payments([1, 2, 3], entities=cards, tables={"lists": [(0, {"7": 4.0}), (1, {"8": 1.0, "7": 2.0})]})
    assert fold_columns(declared, events).tolist() == [[0.0], [0.0], [0.0]]
    later = msgspec.structs.replace(events, seq=np.array([1, 2, 3]))
    assert fold_columns(declared, later).tolist() == [[4.0], [1.0], [0.0]]
    unknown = FeatureSet(system="test", features=(msgspec.structs.replace(card, missing=-3.0),))
    assert fold_columns(unknown, msgspec.structs.replace(events, tables={})).tolist() == [[-3.0]] * 3
