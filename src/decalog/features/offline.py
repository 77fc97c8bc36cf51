"""The same features over a whole log: each entity's changes and points in the log's order, through the same kernel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from decalog.features.columnar import Bools, Images, images, rows_of, tokens_of, write_requests
from decalog.features.definition import FeatureSet
from decalog.features.facts import Change, Point
from decalog.features.kernel import Float64s
from decalog.features.parts import NONE, Asked, check_admissible, fold_parts, refused_of, visits_of
from decalog.features.plan import Plan


def fold(features: FeatureSet, changes: Sequence[Change], *, points: Sequence[Point]) -> Float64s:
    """Returns the features at every point, float64 of shape (points, features), bit for bit what the online state gave.

    Args:
        features: the declarations.
        changes: the partition's changes in the order of seq.
        points: in any order.

    Raises:
        DataError: a point is too late (`refused` says which), or the changes are out of order, withdraw a row that is
            not live or add one that is.

    >>> from decalog.features.definition import Aggregate
    >>> from decalog.features.facts import Fact
    >>> features = FeatureSet(system="fraud", features=(
    ...     Aggregate(name="card_sum_60s", meaning="spent by the card in the last minute", unit="cents", entity="card",
    ...               aggregate="sum", column="cents", over=("payment",), window="60s"),))
    >>> facts = [Fact(seq, seq * 40_000_000, "payment", {"card": 7}, {"cents": 10 + seq}) for seq in range(3)]
    >>> changes = [Change(seq=fact.root, known_time=fact.event_time, plus=fact) for fact in facts]
    >>> fold(features, changes, points=[Point(f.root, f.event_time, f.root, f) for f in facts]).tolist()
    [[10.0], [21.0], [23.0]]
    """
    plan = Plan(features)
    log = images(plan, changes)
    asked = asked_of(plan, points)
    check_admissible(plan, log, asked=asked)
    return _fold(plan, log, asked, points=points)


def fold_admissible(
    features: FeatureSet, changes: Sequence[Change], *, points: Sequence[Point]
) -> tuple[Bools, Float64s]:
    """Returns `refused` of the points and `fold` of those that are not; the changes are read once for both.

    Raises:
        DataError: as for `fold`, but for points that are too late.
    """
    plan = Plan(features)
    log = images(plan, changes)
    asked = asked_of(plan, points)
    late = refused_of(plan, log, asked=asked)
    exact = [point for point, is_late in zip(points, late.tolist(), strict=True) if not is_late]
    return late, _fold(plan, log, asked.take(~late), points=exact)


def refused(features: FeatureSet, changes: Sequence[Change], *, points: Sequence[Point]) -> Bools:
    """Returns which points lie before their watermark by more than the declared lateness, bool of shape (points,).

    Raises:
        DataError: the changes are not in the order of seq.
    """
    plan = Plan(features)
    return refused_of(plan, images(plan, changes), asked=asked_of(plan, points))


def asked_of(plan: Plan, points: Sequence[Point]) -> Asked:
    """Returns the points as columns."""
    own = [(place, point.own) for place, point in enumerate(points) if point.own and point.own.kind in plan.bits]
    rows = np.full(len(points), NONE, np.int64)
    rows[[place for place, _ in own]] = np.arange(len(own))
    subjects = [point.subjects for point in points]
    return Asked(
        positions=np.fromiter((point.state_seq for point in points), np.int64, len(points)),
        times=np.fromiter((point.time for point in points), np.int64, len(points)),
        roots=np.fromiter((point.root for point in points), np.int64, len(points)),
        own=rows,
        rows=rows_of(plan, [fact for _, fact in own]),
        tokens=tuple(tokens_of(entity, subjects) for entity in plan.entities),
    )


def _fold(plan: Plan, log: Images, asked: Asked, *, points: Sequence[Point]) -> Float64s:
    """Returns the features at points none of which is too late."""
    out = fold_parts(plan, log, asked=asked, visits=visits_of(log, asked.positions))
    write_requests(plan, points, out=out, tables=log.tables)
    return out
