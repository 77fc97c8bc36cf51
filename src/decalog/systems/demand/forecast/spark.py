"""The pipeline of one machine on Spark: a model fitted once, and each partition forecast by the same functions.

Spark divides series by their ids and sorts the rows of each; it computes nothing. What follows is the `Pipeline`, on
some thousand whole series at a time. Neither the number of partitions nor the order of rows changes a bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from decalog.errors import ConfigError
from decalog.systems.demand.forecast.checks import Finding
from decalog.systems.demand.forecast.frames import ID, TARGET, TIME, Span, Table, columns_of, read, span
from decalog.systems.demand.forecast.panel import LEVELS as QUANTILES
from decalog.systems.demand.forecast.panel import Forecast, Panel
from decalog.systems.demand.forecast.pipeline import LEVELS, NAME, Pipeline

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

ROWS = 1_000_000
_FINDINGS = "reason string, series string, row bigint, step bigint, count bigint, done string, note string"
_Work = Callable[[Pipeline, Table], Mapping[str, Any]]
"""From a fitted pipeline and some whole series to columns."""


def sample(frame: DataFrame, *, one_in: int = 10) -> pa.Table:
    """Returns whole series for `Pipeline.fit`, one in so many by a hash of their ids.

    A model rests on which series it learnt from and in which order; both are the same however the frame is divided.
    """
    from pyspark.sql import functions as f

    chosen = frame.where(f.pmod(f.xxhash64(f.col(ID).cast("string")), f.lit(one_in)) == 0)
    return chosen.orderBy(*_order(frame.columns)).toArrow()


def span_on_spark(frame: DataFrame) -> Span:
    """Returns the first and the last time of a frame."""
    return span(_ends(frame))


def forecast_on_spark(
    pipeline: Pipeline, frame: DataFrame, *, name: str = NAME, levels: Sequence[int] = LEVELS, rows: int = ROWS
) -> DataFrame:
    """Returns the long frame of forecasts, of each series to the bits of `Pipeline.forecast` of the whole frame.

    A job runs at once, for the frame's first and last time; forecasts are made when they are used.

    Args:
        pipeline: fitted on this side, to a `sample` or to any frame.
        frame: `unique_id`, `ds`, `y` and the columns that the pipeline's rules name.
        name: of the column of point forecasts.
        levels: of the intervals, in percent.
        rows: of whole series that a worker forecasts together, at most, unless one series alone has more.

    Raises:
        ConfigError: the rules ask for the order of rows, which a frame of Spark has not.
    """
    nothing = Panel(ids=(), y=np.empty((0, 1)))
    blank = {name: Forecast(np.empty((0, 1)), np.empty((0, 1, len(QUANTILES))))}
    kinds = {ID: "string", TIME: frame.schema[TIME].dataType.simpleString()}
    columns = columns_of(nothing, blank, levels=levels)
    schema = ", ".join(f"`{column}` {kinds.get(column, 'double')}" for column in columns)
    ends = _ends(frame)
    whole, kind = span(ends), ends.schema.field(TIME).type

    def work(fitted: Pipeline, table: Table) -> Mapping[str, Any]:
        import pyarrow as pa

        made = fitted.forecast(table, whole=whole, name=name, levels=levels).columns
        return made | {TIME: pa.array(made[TIME]).cast(kind)}

    return _by_series(pipeline, frame, work=work, schema=schema, rows=rows)


def findings_on_spark(pipeline: Pipeline, frame: DataFrame) -> DataFrame:
    """Returns what is wrong with each series, and what was done, as a frame; arguments and errors as above.

    `row` is −1: rows of a frame of Spark have no place. A finding about the whole frame is told once a part.
    """
    whole = span_on_spark(frame)

    def work(fitted: Pipeline, table: Table) -> Mapping[str, Any]:
        found = [msgspec.to_builtins(one) | {"row": -1} for one in fitted.checked(table, whole=whole).findings]
        return {name: [one[name] for one in found] for name in Finding.__struct_fields__}

    return _by_series(pipeline, frame, work=work, schema=_FINDINGS)


def _by_series(pipeline: Pipeline, frame: DataFrame, *, work: _Work, schema: str, rows: int = ROWS) -> DataFrame:
    """Returns what the work makes of all series."""
    from pyspark.sql import functions as f

    if pipeline.rules.two_values == "last":
        raise ConfigError(
            where="pipeline on Spark, rules",
            given="two_values 'last'",
            expected="'sum' or 'unknown': rows of a frame of Spark have no order",
            fix="Fit the pipeline with another rule, or keep the last row of each step before.",
        )
    stored = frame.sparkSession.sparkContext.broadcast(pipeline.to_bytes())
    names = [TIME, TARGET, *(name for name in pipeline.rules.columns if name not in (TIME, TARGET))]
    known = frame.select(f.coalesce(f.col(ID).cast("string"), f.lit("")).alias(ID), *names)

    def part(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        fitted = Pipeline.from_bytes(stored.value)
        for table in whole_series(batches, rows=rows):
            yield from pa.table(dict(work(fitted, read(table)))).to_batches()

    return known.repartition(ID).sortWithinPartitions(*_order(known.columns)).mapInArrow(part, schema)


def whole_series(batches: Iterable[pa.RecordBatch], *, rows: int) -> Iterator[pa.Table]:
    """Yields a partition, sorted by id, as tables of whole series: each time that more rows than so many have come."""
    import pyarrow as pa
    from pyarrow import compute

    held: list[pa.Table] = []
    for batch in batches:
        held.append(pa.Table.from_batches([batch]))
        if sum(map(len, held)) <= rows:
            continue
        table = pa.concat_tables(held)
        # The last series may go on in the next batch.
        begun = compute.index(table[ID], table[ID][-1]).as_py()
        if begun:
            yield table.slice(0, begun)
        held = [table.slice(begun)]
    if sum(map(len, held)):
        yield pa.concat_tables(held)


def _ends(frame: DataFrame) -> pa.Table:
    """Returns the first and the last time of a frame as a table of two rows."""
    from pyspark.sql import functions as f

    return frame.agg(f.array(f.min(TIME), f.max(TIME)).alias(TIME)).select(f.explode(TIME).alias(TIME)).toArrow()


def _order(columns: Sequence[str]) -> list[str]:
    """Returns the columns by which rows are sorted: rows that are alike in all of them may stand either way."""
    return [ID, TIME, *(name for name in columns if name not in (ID, TIME))]
