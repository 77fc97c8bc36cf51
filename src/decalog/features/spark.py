"""The offline fold on Spark: entities are divided among the workers, each folded by the same kernel, to the same bits.

Two tables go in. Changes, one row an image (−before, +after): `seq`, `act` (kernel.RETRACT or INSERT), `wm` (the
watermark after it, µs), one `token_<entity>` an entity name, and `row`, the int64 row of `plan.Plan.row`; a change
without an image has a row too, with nothing but `seq` and `wm`. Points, one row where features are asked for: `point`
(a unique id), `state_seq`, `time`, `root`, the tokens, `row` (of the own event, kind 0 for none), and `body`, the point
itself for the features of the request.

A refusal (`refusals`) reaches the caller as Spark's PythonException with the refusal's message in it, when Spark runs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.errors import ConfigError, DataError
from decalog.features import kernel
from decalog.features.carried import CarriedFold, Steps
from decalog.features.columnar import Images, Timeline, images, rows_of, tokens_of, write_requests
from decalog.features.definition import FeatureSet
from decalog.features.facts import Change, Point
from decalog.features.kernel import MISSING, Int64s
from decalog.features.plan import NO_ROOT, EntityPlan, Plan
from decalog.features.refusals import out_of_order, out_of_turn

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import Column, DataFrame

_BLOCK_BITS = 20
"""Half a million seqs a block: the watermark is carried from block to block, and inside each in parallel."""
_NO_POINT, _REQUEST = -1, -1
_STEPS = ("token", "key", "act", "point", "time", "root", "row")
_PARTS = ("point", "part", "body", "values")

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Point).decode


def changes_tables(features: FeatureSet, changes: Iterable[Change], *, rows: int = 100_000) -> Iterator[pa.Table]:
    """Yields a log's changes as Arrow tables of images, so that a log of any length passes through bounded memory.

    Args:
        features: the declarations.
        changes: the partition's changes in the order of seq, from the first.
        rows: at most this many changes a table.

    Raises:
        DataError: the changes are not in the order of seq, or a record withdraws after it added.
    """
    plan, rest = Plan(features), iter(changes)
    watermark, last, turn = kernel.BEFORE_ALL, 0, 0
    while piece := list(itertools.islice(rest, rows)):
        if piece[0].seq < last:
            raise out_of_order(piece[0].seq, last)
        log = images(plan, piece)
        turn = _last_turn(log, turn)
        watermarks = np.maximum(log.watermarks, watermark)
        yield _images_table(plan, log, watermarks)
        watermark, last = int(watermarks[-1]), piece[-1].seq


def changes_table(features: FeatureSet, changes: Sequence[Change]) -> pa.Table:
    """Returns a whole log's changes as one Arrow table of images, ready for `session.createDataFrame`.

    Raises:
        DataError: as for `changes_tables`.
    """
    plan = Plan(features)
    log = images(plan, changes)
    _last_turn(log, 0)
    return _images_table(plan, log, log.watermarks)


def _last_turn(log: Images, last: int) -> int:
    """Returns the last image's place in the order that the workers sort by, which has to be the log's.

    Raises:
        DataError: a record withdraws after it added.
    """
    turns = np.append(last, 2 * log.seqs[log.changes] + log.acts)
    for fault in np.flatnonzero(turns[1:] < turns[:-1])[:1]:
        raise out_of_turn(int(turns[fault + 1]) // 2)
    return int(turns[-1])


def _images_table(plan: Plan, log: Images, watermarks: Int64s) -> pa.Table:
    """Returns the images, and a row without one for each change that has none: it too moves the watermark."""
    import pyarrow as pa

    without = np.setdiff1d(np.arange(len(log.seqs)), log.changes)
    origins = np.concatenate([log.changes, without])
    is_empty = np.arange(len(origins)) >= len(log.changes)

    def filled(values: Int64s, filler: int) -> Int64s:
        return np.concatenate([values, np.full((len(without), *values.shape[1:]), filler, np.int64)])

    columns: dict[str, Any] = {
        "seq": log.seqs[origins],
        "act": pa.array(filled(log.acts, kernel.INSERT), mask=is_empty),
        "wm": watermarks[origins],
    }
    for entity, tokens in zip(plan.entities, log.tokens, strict=True):
        columns[_name(entity)] = _tokens(filled(tokens, MISSING))
    columns["row"] = _lists(filled(log.table, 0), is_empty)
    return pa.table(columns)


def points_table(features: FeatureSet, points: Sequence[Point], *, first: int = 0) -> pa.Table:
    """Returns points as an Arrow table, ready for `session.createDataFrame`.

    Args:
        features: the declarations.
        points: in any order.
        first: the id of the first point; the others count on from it.
    """
    import pyarrow as pa

    plan = Plan(features)
    subjects = [point.subjects for point in points]
    columns: dict[str, Any] = {
        "point": np.arange(first, first + len(points), dtype=np.int64),
        "state_seq": np.fromiter((point.state_seq for point in points), np.int64, len(points)),
        "time": np.fromiter((point.time for point in points), np.int64, len(points)),
        "root": np.fromiter((point.root for point in points), np.int64, len(points)),
        **{_name(entity): _tokens(tokens_of(entity, subjects)) for entity in plan.entities},
        "row": _lists(_own_rows(plan, points)),
        "body": pa.array([_encode(point) for point in points], pa.binary()),
    }
    return pa.table(columns)


def fold_on_spark(
    features: FeatureSet, *, changes: DataFrame, points: DataFrame, tables: Timeline | None = None
) -> DataFrame:
    """Returns the features at every point as columns (point, features), bit for bit those of `offline.fold`.

    Nothing is computed before the result is used. `features` is null where the point is too late (`offline.refused`).

    Args:
        features: the declarations.
        changes: images, as `changes_table` or `changes_tables` gives them.
        points: as `points_table` gives them.
        tables: the versions of the lookup tables that features read (`columnar.timeline`), which go to each worker.

    Raises:
        ConfigError: features look something up, and no tables are given.
    """
    from pyspark.sql import functions as f

    plan = Plan(features)
    if plan.lookups and tables is None:
        raise ConfigError(
            where="fold on Spark",
            given=f"features that look up {', '.join(sorted(features.reads.tables or ()))}, and no tables",
            expected="the versions of these tables along the log",
            fix="Pass tables=timeline(changes).",
        )
    declared = features.to_json()
    known = _with_watermarks(changes, points)
    is_late = f.expr(f"coalesce(time < wm - {features.lateness_us}, false)")
    body = f.when(~is_late, f.col("body"))
    requests = known.select(
        "point", f.lit(_REQUEST).alias("part"), body.alias("body"), _none("array<double>", "values")
    )
    admitted = known.where(~is_late)
    folded = [
        _folded(_entity_steps(entity, changes=changes, points=admitted), declared, part)
        for part, entity in enumerate(plan.entities)
    ]
    parts = reduce(lambda one, other: one.union(other), folded, requests)
    schema = "point bigint, features array<double>"
    return _in_order(parts, "point", "part").mapInArrow(
        lambda batches: finished(declared, batches, tables=tables), schema
    )


def _with_watermarks(changes: DataFrame, points: DataFrame) -> DataFrame:
    """Returns the points with `wm`, the watermark of the last change below their position; null before the first."""
    from pyspark.sql import Window
    from pyspark.sql import functions as f

    marks = changes.select((f.col("seq") * 2 + 1).alias("key"), "wm", _none("bigint", "point")).union(
        points.select((f.col("state_seq") * 2).alias("key"), _none("bigint", "wm"), "point")
    )
    marks = marks.withColumn("block", f.shiftright("key", _BLOCK_BITS))
    earlier = Window.orderBy("block").rowsBetween(Window.unboundedPreceding, -1)
    tops = marks.groupBy("block").agg(f.max("wm").alias("top")).select("block", f.max("top").over(earlier).alias("top"))
    # Keys of changes are odd and those of points even, so that no order among equals is left open.
    inside = Window.partitionBy("block").orderBy("key").rowsBetween(Window.unboundedPreceding, Window.currentRow)
    within = marks.withColumn("wm", f.max("wm").over(inside)).where("point IS NOT NULL")
    # `greatest` skips nulls.
    seen = within.join(f.broadcast(tops), "block").select("point", f.greatest("wm", "top").alias("wm"))
    return points.join(seen, "point")


def _entity_steps(entity: EntityPlan, *, changes: DataFrame, points: DataFrame) -> DataFrame:
    """Returns what happens to the entities of one name and what is asked about them, in the columns `_STEPS`."""
    from pyspark.sql import functions as f

    token = f.col(f"`{_name(entity)}`")
    written = changes.where(token.isNotNull()).select(
        token.alias("token"),
        (f.col("seq") * 2 + 1).alias("key"),
        f.col("act").cast("bigint").alias("act"),
        f.lit(_NO_POINT).cast("bigint").alias("point"),
        f.col("wm").alias("time"),
        f.lit(NO_ROOT).cast("bigint").alias("root"),
        "row",
    )
    asked = points.where(token.isNotNull()).select(
        token.alias("token"),
        (f.col("state_seq") * 2).alias("key"),
        f.lit(kernel.READ).cast("bigint").alias("act"),
        "point",
        "time",
        "root",
        "row",
    )
    return written.union(asked)


def _folded(steps: DataFrame, declared: bytes, part: int) -> DataFrame:
    """Returns one entity name's features at its points, in the columns `_PARTS`."""
    schema = "point bigint, part int, body binary, values array<double>"
    return _in_order(steps, "token", "key", "act").mapInArrow(
        lambda batches: entity_values(declared, part, batches=batches), schema
    )


def _in_order(rows: DataFrame, owner: str, *then: str) -> DataFrame:
    """Returns rows with all of one owner in one partition, each partition sorted."""
    return rows.repartition(owner).sortWithinPartitions(owner, *then)


def entity_values(declared: bytes, part: int, *, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yields one entity name's features at the points of a worker's partition; runs on a worker.

    Args:
        declared: the feature set in JSON.
        part: place of the entity in the plan.
        batches: the partition's steps in order; an entity may go on in the next batch.

    Raises:
        DataError: as for `CarriedFold.values`.
    """
    import pyarrow as pa

    plan = Plan(FeatureSet.from_json(declared))
    entity = plan.entities[part]
    places = entity.outputs[:, kernel.PLACE]
    fold = CarriedFold(plan, entity)
    for batch in batches:
        if not batch.num_rows:
            continue
        steps = _steps_of(batch, plan.width)
        values = fold.values(steps)[:, places]
        asked = _int64s(batch, "point")[steps.acts == kernel.READ]
        columns = [
            pa.array(asked),
            pa.array(np.full(len(asked), part, np.int32)),
            pa.nulls(len(asked), pa.binary()),
            _lists(values),
        ]
        yield pa.RecordBatch.from_arrays(columns, names=list(_PARTS))


def finished(
    declared: bytes, batches: Iterable[pa.RecordBatch], *, tables: Timeline | None = None
) -> Iterator[pa.RecordBatch]:
    """Yields whole vectors from the parts of a worker's partition, sorted by point and part; runs on a worker.

    Raises:
        DataError: an id stands for two points.
    """
    import pyarrow as pa

    plan = Plan(FeatureSet.from_json(declared))
    held: pa.Table | None = None
    for batch in batches:
        parts = pa.Table.from_batches([batch])
        parts = parts if held is None else pa.concat_tables([held, parts]).combine_chunks()
        # The last point's parts may go on in the next batch.
        points = _int64s(parts, "point")
        whole = int(np.searchsorted(points, points[-1])) if len(points) else 0
        held = parts.slice(whole)
        if whole:
            yield _vectors(plan, parts.slice(0, whole), tables=tables)
    if held is not None and held.num_rows:
        yield _vectors(plan, held, tables=tables)


def _vectors(plan: Plan, parts: pa.Table, *, tables: Timeline | None) -> pa.RecordBatch:
    """Returns the vectors of points whose parts are all there."""
    import pyarrow as pa

    points, kinds = _int64s(parts, "point"), _int64s(parts, "part")
    starts = np.flatnonzero(kinds == _REQUEST)
    _check_unique(points[starts])
    asked = [None if body is None else _decode(body) for body in parts.column("body").take(starts).to_pylist()]
    out = np.tile(plan.blank, (len(starts), 1))
    group = np.searchsorted(points[starts], points)
    for part, entity in enumerate(plan.entities):
        chosen = np.flatnonzero(kinds == part)
        places = entity.outputs[:, kernel.PLACE]
        out[group[chosen][:, None], places] = _table(parts.column("values").take(chosen), len(places), np.float64)
    is_late = np.fromiter((point is None for point in asked), np.bool_, len(asked))
    admitted = out[~is_late]
    write_requests(plan, [point for point in asked if point is not None], out=admitted, tables=tables)
    out[~is_late] = admitted
    return pa.RecordBatch.from_arrays([pa.array(points[starts]), _lists(out, is_late)], names=["point", "features"])


def _check_unique(points: Int64s) -> None:
    for fault in np.flatnonzero(points[1:] == points[:-1])[:1]:
        raise DataError(
            where="points",
            given=f"two points with the id {int(points[fault])}",
            expected="one id a point",
            fix="Number the points anew; `points_table` counts on from first=.",
        )


def _steps_of(batch: pa.RecordBatch, width: int) -> Steps:
    return Steps(
        tokens=_int64s(batch, "token"),
        keys=_int64s(batch, "key"),
        acts=_int64s(batch, "act"),
        times=_int64s(batch, "time"),
        roots=_int64s(batch, "root"),
        table=_table(batch.column("row"), width, np.int64),
    )


def _own_rows(plan: Plan, points: Sequence[Point]) -> Int64s:
    """Returns each point's own row, all zero where it has none that a feature reads."""
    rows = np.zeros((len(points), plan.width), np.int64)
    own = [(place, point.own) for place, point in enumerate(points) if point.own and point.own.kind in plan.bits]
    if own:
        places, facts = zip(*own, strict=True)
        rows[list(places)] = rows_of(plan, facts)
    return rows


def _name(entity: EntityPlan) -> str:
    return f"token_{entity.entity}"


def _none(kind: str, name: str) -> Column:
    from pyspark.sql import functions as f

    return f.lit(None).cast(kind).alias(name)


def _tokens(tokens: Int64s) -> pa.Array:
    import pyarrow as pa

    return pa.array(tokens, mask=tokens == MISSING)


def _lists(table: npt.NDArray[Any], missing: npt.NDArray[np.bool_] | None = None) -> pa.Array:
    """Returns a list a row of a table; null where it is missing."""
    import pyarrow as pa

    offsets = pa.array(np.arange(len(table) + 1, dtype=np.int32) * np.int32(table.shape[1]))
    mask = None if missing is None else pa.array(missing)
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(table).ravel()), mask=mask)


def _int64s(rows: pa.RecordBatch | pa.Table, name: str) -> Int64s:
    return np.asarray(rows.column(name).to_numpy(), np.int64)


def _table(lists: pa.Array | pa.ChunkedArray, width: int, kind: Any) -> npt.NDArray[Any]:
    flat = lists.combine_chunks().flatten() if hasattr(lists, "combine_chunks") else lists.flatten()
    return np.asarray(flat.to_numpy(zero_copy_only=False), kind).reshape(-1, width)
