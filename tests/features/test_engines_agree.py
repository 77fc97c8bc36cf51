"""Online, offline and the reference give the same bits on every log."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from tests.features.logs import Writer, features, retains, steps

from decalog.errors import DataError
from decalog.features.definition import FeatureSet
from decalog.features.facts import Change, Point
from decalog.features.offline import fold, fold_admissible, refused
from decalog.features.online import OnlineState
from decalog.features.reference import evaluate

Float64s = npt.NDArray[np.float64]


def online(declared: FeatureSet, changes: Sequence[Change], points: Sequence[Point]) -> list[Float64s | None]:
    """Returns the vector of each point, None where it is refused; points must ascend by state_seq."""
    state, done, vectors = OnlineState(declared), 0, []
    for point in points:
        while done < len(changes) and changes[done].seq < point.state_seq:
            state.apply(changes[done])
            done += 1
        vectors.append(None if state.refused(point) else state.vector(point))
    return vectors


def reference(declared: FeatureSet, changes: Sequence[Change], points: Sequence[Point]) -> list[Float64s | None]:
    vectors: list[Float64s | None] = []
    for point in points:
        try:
            vectors.append(np.array(evaluate(declared, changes, point=point), np.float64))
        except DataError:  # too late; `refused` is asserted to say the same
            vectors.append(None)
    return vectors


def assert_same_bits(names: Sequence[str], one: Float64s, other: Float64s, point: Point) -> None:
    if one.tobytes() != other.tobytes():
        differing = [(n, a, b) for n, a, b in zip(names, one, other, strict=True) if a.tobytes() != b.tobytes()]
        pytest.fail(f"{point}: {differing[:5]}")


@given(steps, retains)
def test_online_offline_and_reference_agree_bit_for_bit(drawn: list[tuple[object, ...]], retain: int) -> None:
    declared, log = features(retain=retain), Writer().write(drawn)
    points = sorted(log.points, key=lambda point: point.state_seq)
    expected = reference(declared, log.changes, points)
    late = refused(declared, log.changes, points=points)
    assert late.tolist() == [vector is None for vector in expected]
    admitted = [point for point, is_late in zip(points, late, strict=True) if not is_late]
    at_once = fold(declared, log.changes, points=admitted)
    both = fold_admissible(declared, log.changes, points=points)
    assert (both[0].tobytes(), both[1].tobytes()) == (late.tobytes(), at_once.tobytes())
    folded = iter(at_once)
    for point, want, got in zip(points, expected, online(declared, log.changes, points), strict=True):
        if want is None:
            assert got is None
            continue
        assert got is not None
        assert np.isfinite(got).all()
        assert_same_bits(declared.names, want, got, point)
        assert_same_bits(declared.names, want, next(folded), point)


@given(steps, retains)
def test_a_state_built_at_once_answers_as_one_built_step_by_step(drawn: list[tuple[object, ...]], retain: int) -> None:
    declared, log = features(retain=retain), Writer().write(drawn)
    single, at_once = OnlineState(declared), OnlineState(declared)
    for change in log.changes:
        single.apply(change)
    at_once.apply_many(log.changes)
    assert (at_once.position, at_once.watermark) == (single.position, single.watermark)
    assert at_once.stats().unusable == single.stats().unusable
    # Every time from the oldest admissible one on, where pruning a microsecond too much would show.
    for time in range((single.watermark or 0) - 6, (single.watermark or 0) + 1):
        for card in (1, 2):
            point = Point(single.position, time, entities={"card": card, "device": card})
            folded = fold(declared, log.changes, points=[point])[0]
            assert_same_bits(declared.names, folded, single.vector(point), point)
            assert_same_bits(declared.names, folded, at_once.vector(point), point)
