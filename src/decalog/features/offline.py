"""The same features over a whole log: each entity's changes and points in the log's order, through the same kernel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from decalog.errors import DataError
from decalog.features import kernel
from decalog.features.columnar import Bools, Images, images, rows_of, tokens_of, write_requests
from decalog.features.definition import FeatureSet
from decalog.features.facts import Change, Point
from decalog.features.kernel import MISSING, Float64s, Int64s
from decalog.features.plan import EntityPlan, Plan
from decalog.features.refusals import crowded, inadmissible, missing_row, row_twice


def fold(features: FeatureSet, changes: Sequence[Change], *, points: Sequence[Point]) -> Float64s:
    """Returns the features at every point, float64 of shape (points, features), bit for bit what the online state gave.

    Args:
        features: the declarations.
        changes: the partition's changes in the order of seq.
        points: in any order.

    Raises:
        DataError: a point is too late (`refused` says which), an entity holds more rows than declared, or the changes
            are out of order, withdraw a row that is not live or add one that is.

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
    for first in np.flatnonzero(_refused(features, log, points=points))[:1]:
        watermark = _watermarks(log, points)[first]
        raise inadmissible(points[first].time, int(watermark), lateness=features.lateness)
    return _fold(plan, log, points=points)


def fold_admissible(
    features: FeatureSet, changes: Sequence[Change], *, points: Sequence[Point]
) -> tuple[Bools, Float64s]:
    """Returns `refused` of the points and `fold` of those that are not; the changes are read once for both.

    Raises:
        DataError: as for `fold`, but for points that are too late.
    """
    plan = Plan(features)
    log = images(plan, changes)
    late = _refused(features, log, points=points)
    exact = [point for point, is_late in zip(points, late.tolist(), strict=True) if not is_late]
    return late, _fold(plan, log, points=exact)


def _fold(plan: Plan, log: Images, *, points: Sequence[Point]) -> Float64s:
    """Returns the features at points none of which is too late."""
    out = np.tile(plan.blank, (len(points), 1))
    jobs = _jobs(plan, points)
    order = _log_order(log, points)
    for entity, tokens in zip(plan.entities, log.tokens, strict=True):
        steps = _steps(entity, log, tokens=tokens, points=points, order=order)
        fault = kernel.fold(
            steps,
            log.table,
            jobs,
            entity.picks,
            entity.lanes,
            entity.outputs,
            _room(steps),
            out,
        )
        if fault:
            raise _fault(fault, steps, log=log, plan=entity, features=plan.features)
    write_requests(plan, points, out=out, tables=log.tables)
    return out


def refused(features: FeatureSet, changes: Sequence[Change], *, points: Sequence[Point]) -> Bools:
    """Returns which points lie before their watermark by more than the declared lateness, bool of shape (points,).

    Raises:
        DataError: the changes are not in the order of seq.
    """
    return _refused(features, images(Plan(features), changes), points=points)


def _refused(features: FeatureSet, log: Images, *, points: Sequence[Point]) -> Bools:
    times = np.fromiter((point.time for point in points), np.int64, len(points))
    return times < _watermarks(log, points) - features.lateness_us


def _watermarks(log: Images, points: Sequence[Point]) -> Int64s:
    """Returns wm(p) of each point: the largest known_time of the changes before it, or before every time."""
    positions = np.fromiter((point.state_seq for point in points), np.int64, len(points))
    seen = np.searchsorted(log.seqs, positions, side="left")
    watermarks: Int64s = np.concatenate([np.array([kernel.BEFORE_ALL], np.int64), log.watermarks])
    return watermarks[seen]


def _jobs(plan: Plan, points: Sequence[Point]) -> Int64s:
    """Returns one job of `kernel.scan` a point."""
    jobs = np.zeros((len(points), 2, plan.width), np.int64)
    jobs[:, kernel.ASKED, kernel.AT] = np.fromiter((point.time for point in points), np.int64, len(points))
    jobs[:, kernel.ASKED, kernel.SKIPPED] = np.fromiter((point.root for point in points), np.int64, len(points))
    jobs[:, kernel.ASKED, kernel.RETAIN] = plan.features.retain
    own = [(place, point.own) for place, point in enumerate(points) if point.own and point.own.kind in plan.bits]
    if own:
        places, facts = zip(*own, strict=True)
        jobs[list(places), kernel.OWN_ROW] = rows_of(plan, facts)
    return jobs


def _log_order(log: Images, points: Sequence[Point]) -> Int64s:
    """Returns images and points (numbered after the images) in one order: changes at 2·seq + 1, points at 2·p."""
    positions = np.fromiter((point.state_seq for point in points), np.int64, len(points))
    keys = np.concatenate([2 * log.seqs[log.changes] + 1, 2 * positions])
    return np.argsort(keys, kind="stable")


def _steps(plan: EntityPlan, log: Images, *, tokens: Int64s, points: Sequence[Point], order: Int64s) -> Int64s:
    """Returns the entity's steps for `kernel.fold`: by token, and inside a token in the log's order."""
    steps = np.empty((len(order), 3), np.int64)
    steps[:, kernel.ACT] = np.concatenate([log.acts, np.full(len(points), kernel.READ, np.int64)])
    steps[:, kernel.INDEX] = np.concatenate([np.arange(len(tokens)), np.arange(len(points))])
    steps[:, kernel.TOKEN] = np.concatenate([tokens, tokens_of(plan, [point.subjects for point in points])])
    steps = steps[order]
    steps = steps[steps[:, kernel.TOKEN] != MISSING]
    by_token: Int64s = steps[np.argsort(steps[:, kernel.TOKEN], kind="stable")]
    return by_token


def _room(steps: Int64s) -> int:
    """Returns the most rows that are ever added to one entity."""
    added = steps[steps[:, kernel.ACT] == kernel.INSERT, kernel.TOKEN]
    return int(np.unique(added, return_counts=True)[1].max(initial=0))


def _fault(fault: int, steps: Int64s, *, log: Images, plan: EntityPlan, features: FeatureSet) -> DataError:
    step, state = divmod(fault, 8)
    if state == kernel.CROWDED:
        return crowded(plan.entity, retain=features.retain)
    image = steps[step, kernel.INDEX]
    seq, root = int(log.seqs[log.changes[image]]), int(log.table[image, kernel.ROOT])
    return (row_twice if state == kernel.TWICE else missing_row)(seq, root, entity=plan.entity)
