"""A fold whose steps come in pieces gives the bits of the fold at once, wherever the pieces end."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.features.logs import Writer, features, retains, steps

from decalog.errors import DataError
from decalog.features import kernel
from decalog.features.carried import CarriedFold, Steps
from decalog.features.columnar import images, rows_of, timeline, tokens_of, write_requests
from decalog.features.definition import Aggregate, FeatureSet
from decalog.features.facts import Change, Fact, Point
from decalog.features.kernel import MISSING, Float64s, Int64s
from decalog.features.offline import fold, refused
from decalog.features.plan import Plan
from decalog.features.spark import changes_table

COUNT = FeatureSet(
    system="demo",
    features=(
        Aggregate(
            name="count",
            meaning="payments of the card",
            unit="payments",
            entity="card",
            aggregate="count",
            over=("payment",),
            window="10us",
        ),
    ),
    lateness="1us",
    retain=20,
)


def steps_of(plan: Plan, place: int, *, changes: list[Change], points: list[Point]) -> tuple[Steps, Int64s]:
    """Returns one entity's steps in order, and which point each of them reads (−1 for an image)."""
    log = images(plan, changes)
    own = np.zeros((len(points), plan.width), np.int64)
    for index, point in enumerate(points):
        if point.own is not None and point.own.kind in plan.bits:
            own[index] = rows_of(plan, [point.own])[0]
    read = len(points)
    columns = [
        (log.tokens[place], tokens_of(plan.entities[place], [point.subjects for point in points])),
        (2 * log.seqs[log.changes] + 1, [2 * point.state_seq for point in points]),
        (log.acts, [kernel.READ] * read),
        (log.watermarks[log.changes], [point.time for point in points]),
        (np.full(len(log.acts), -1), [point.root for point in points]),
        (np.full(len(log.acts), -1), list(range(read))),
    ]
    tokens, keys, acts, times, roots, asked = (
        np.concatenate([np.asarray(one, np.int64), np.asarray(other, np.int64)]) for one, other in columns
    )
    order = np.lexsort([acts, keys, tokens])
    order = order[tokens[order] != MISSING]
    table = np.concatenate([log.table, own])[order]
    return Steps(tokens[order], keys[order], acts[order], times[order], roots[order], table), asked[order]


def cut(whole: Steps, start: int, stop: int) -> Steps:
    return Steps(*(getattr(whole, name)[start:stop] for name in Steps.__struct_fields__))


def fold_in_pieces(
    declared: FeatureSet, changes: list[Change], points: list[Point], piece: int, fold_of: type[CarriedFold]
) -> Float64s:
    plan = Plan(declared)
    out = np.tile(plan.blank, (len(points), 1))
    for place, entity in enumerate(plan.entities):
        whole, asked = steps_of(plan, place, changes=changes, points=points)
        carried = fold_of(plan, entity)
        for start in range(0, len(asked), piece):
            values = carried.values(cut(whole, start, start + piece))
            read = asked[start : start + piece]
            places = entity.outputs[:, kernel.PLACE]
            out[read[read >= 0][:, None], places] = values[:, places]
    write_requests(plan, points, out=out, tables=timeline(changes))
    return out


def assert_pieces_agree(
    drawn: list[tuple[object, ...]], piece: int, retain: int = 1000, fold_of: type[CarriedFold] = CarriedFold
) -> None:
    declared, log = features(retain=retain), Writer().write(drawn)
    late = refused(declared, log.changes, points=log.points)
    points = [point for point, is_late in zip(log.points, late, strict=True) if not is_late]
    at_once = fold(declared, log.changes, points=points)
    assert fold_in_pieces(declared, log.changes, points, piece, fold_of).tobytes() == at_once.tobytes()


@given(steps, st.integers(1, 9), retains)
def test_pieces_of_any_length_give_the_bits_of_the_whole(
    drawn: list[tuple[object, ...]], piece: int, retain: int
) -> None:
    assert_pieces_agree(drawn, piece, retain)


def payment(seq: int, card: int = 1) -> Change:
    return Change(seq, 100 + seq, None, Fact(seq, 100 + seq, "payment", {"card": card}, {}))


def test_rows_that_no_window_reaches_are_dropped_and_their_withdrawal_finds_nothing() -> None:
    many = [payment(seq) for seq in range(1000)]
    gone = Change(1000, 1100, many[0].plus, None)
    points = [Point(1001, 1100, entities={"card": 1})]
    plan = Plan(COUNT)
    carried = CarriedFold(plan, plan.entities[0])
    whole, _ = steps_of(plan, 0, changes=[*many, gone], points=points)
    assert carried.values(whole).tolist() == [[9.0]]
    assert carried._rows.shape[0] < 100


def test_what_an_entity_dropped_is_no_excuse_for_the_next() -> None:
    changes = [*(payment(seq) for seq in range(200)), Change(200, 300, payment(5, card=2).plus, None)]
    with pytest.raises(DataError, match="change 200, entity 'card': the withdrawal of root 5, which is not live"):
        fold_in_pieces(COUNT, changes, [], 500, CarriedFold)


def test_a_withdrawal_that_finds_nothing_raises() -> None:
    changes = [payment(0), Change(1, 101, payment(7).plus, None)]
    with pytest.raises(DataError, match="change 1, entity 'card': the withdrawal of root 7, which is not live"):
        fold_in_pieces(COUNT, changes, [], 1, CarriedFold)


def test_a_row_that_is_added_twice_raises() -> None:
    changes = [payment(0), msgspec.structs.replace(payment(0), seq=1)]
    with pytest.raises(DataError, match="change 1, entity 'card': a second image of root 0"):
        fold_in_pieces(COUNT, changes, [], 1, CarriedFold)


def test_of_more_rows_than_declared_the_oldest_go_wherever_the_array_is_made_anew() -> None:
    changes = [Change(seq, 100, None, Fact(seq, 100 + seq // 30, "payment", {"card": 1}, {})) for seq in range(300)]
    points = [Point(seq, time, entities={"card": 1}) for seq, time in ((20, 109), (21, 109), (30, 110), (31, 110))]
    folded = fold_in_pieces(COUNT, changes, points, 4, CarriedFold)
    # The window of 109 begins at 99, before the rows of 100 that went; the one of 110 begins where they ended.
    assert folded.tolist() == [[20.0], [-2.0], [0.0], [1.0]]


def test_a_record_that_withdraws_after_it_added_is_refused_where_workers_sort() -> None:
    """Rows of one seq are sorted there, withdrawals first; of an entity that is full the order is part of the state."""
    changes = [payment(0), payment(1), Change(1, 101, payment(0).plus, None)]
    with pytest.raises(DataError, match=r"change 1: a withdrawal behind an addition of the same record\. .*changes_of"):
        changes_table(COUNT, changes)


@pytest.mark.parametrize("piece", [1, 2])
def test_steps_out_of_order_raise_inside_a_piece_and_between_two(piece: int) -> None:
    plan = Plan(COUNT)
    whole, _ = steps_of(plan, 0, changes=[payment(0), payment(1)], points=[])
    turned = Steps(*(getattr(whole, name)[::-1] for name in Steps.__struct_fields__))
    carried = CarriedFold(plan, plan.entities[0])
    if piece == 1:
        carried.values(cut(turned, 0, 1))
    with pytest.raises(DataError, match="steps of entity 'card': a step at 1 after one at 3 of the same or a later"):
        carried.values(cut(turned, 2 - piece, 2))


class Forgetful(CarriedFold):
    """A planted fault: each piece begins with nothing."""

    def values(self, steps: Steps) -> Float64s:
        self._rows[0, 0] = 0
        return super().values(steps)


def test_a_fold_that_forgets_between_pieces_is_caught() -> None:
    drawn: list[tuple[object, ...]] = [("event", 1, 0, 0, "payment", {"card": 1, "device": 1}, {})] * 8
    drawn += [("decide", 1, 0, 0, "payment", {"card": 1, "device": 1}, {})]
    assert_pieces_agree(drawn, 3)
    with pytest.raises(AssertionError):
        assert_pieces_agree(drawn, 3, fold_of=Forgetful)
