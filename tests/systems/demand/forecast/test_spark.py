"""Forecasts of a frame on Spark are the bits of one machine's, however the frame is divided and ordered."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import polars as pl
import pytest
from tests.features import spark_cluster
from tests.systems.demand.forecast.panels import long_frame

from decalog.errors import ConfigError
from decalog.systems.demand.forecast import spark as module
from decalog.systems.demand.forecast.boosting import Settings
from decalog.systems.demand.forecast.checks import Rules
from decalog.systems.demand.forecast.frames import Span, read
from decalog.systems.demand.forecast.pipeline import Pipeline
from decalog.systems.demand.forecast.spark import findings_on_spark, forecast_on_spark, sample, span_on_spark

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

ABSENT = spark_cluster.missing()
if ABSENT:
    pytest.skip(ABSENT, allow_module_level=True)

HORIZON = 14
QUICK = Settings(trees=20, leaves=7, origins=4, stride=7)
KEYS = ["unique_id", "ds"]


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    with spark_cluster.session("local[2]", tmp_path_factory.mktemp("spark")) as session:
        yield session


@pytest.fixture(scope="module")
def fitted() -> Pipeline:
    return Pipeline.fit(read(long_frame()), HORIZON, rules=Rules(known=("promo",)), settings=QUICK)


def on_spark(session: SparkSession, frame: pl.DataFrame, *, partitions: int, seed: int = 0) -> DataFrame:
    """Returns a frame's rows, shuffled, in so many partitions."""
    rows = frame.sample(fraction=1, shuffle=True, seed=seed).to_arrow()
    return session.createDataFrame(rows).repartition(partitions)


def told(frame: DataFrame) -> pl.DataFrame:
    """Returns what Spark made, in order."""
    made = pl.from_arrow(frame.toArrow())
    assert isinstance(made, pl.DataFrame)
    return made.sort(*KEYS)


def one_machine(fitted: Pipeline, frame: pl.DataFrame) -> pl.DataFrame:
    kind = frame.schema["ds"]
    return pl.DataFrame(fitted.forecast(read(frame)).columns).with_columns(pl.col("ds").cast(kind)).sort(*KEYS)


@pytest.mark.parametrize(("partitions", "rows"), [(1, module.ROWS), (8, 1), (3, 300), (2, module.ROWS)])
def test_spark_gives_the_bits_of_one_machine(spark: SparkSession, fitted: Pipeline, partitions: int, rows: int) -> None:
    frame = on_spark(spark, long_frame(), partitions=partitions, seed=partitions)
    made = forecast_on_spark(fitted, frame, rows=rows)
    assert told(made).equals(one_machine(fitted, long_frame()))


def test_a_sample_and_the_model_on_it_do_not_depend_on_partitions(spark: SparkSession) -> None:
    sales = long_frame(50)
    samples = [sample(on_spark(spark, sales, partitions=n, seed=n), one_in=2) for n in (1, 5)]
    assert samples[0].equals(samples[1])
    frame = on_spark(spark, sales, partitions=3)
    whole = span_on_spark(frame)
    assert whole == Span.of(read(sales))
    models = [
        Pipeline.fit(read(rows), HORIZON, rules=Rules(known=("promo",)), settings=QUICK, whole=whole)
        for rows in samples
    ]
    assert models[0].to_bytes() == models[1].to_bytes()
    ids = set(samples[0]["unique_id"].to_pylist())
    assert 15 < len(ids) < 35
    assert told(forecast_on_spark(models[0], frame)).equals(one_machine(models[0], sales))


@pytest.mark.parametrize("kind", [pl.Datetime("us"), pl.Datetime("us", "UTC"), pl.Int64()])
def test_times_come_back_in_the_frames_own_kind(spark: SparkSession, kind: pl.DataType) -> None:
    frame = long_frame()
    times = (pl.col("ds") - pl.date(2026, 1, 1)).dt.total_days() + 7 if kind == pl.Int64() else pl.col("ds").cast(kind)
    frame = frame.with_columns(ds=times)
    fitted = Pipeline.fit(read(frame), HORIZON, rules=Rules(known=("promo",)), settings=QUICK)
    made = forecast_on_spark(fitted, on_spark(spark, frame, partitions=3), name="ours", levels=(90,))
    assert made.schema["ds"].dataType == on_spark(spark, frame, partitions=1).schema["ds"].dataType
    assert made.columns[:5] == ["unique_id", "ds", "ours", "ours-lo-90", "ours-hi-90"]
    expected = one_machine(fitted, frame)
    assert told(made)["ours"].equals(expected["decalog"].alias("ours"))
    assert told(made)["ds"].cast(pl.Int64).equals(expected["ds"].cast(pl.Int64))


def test_the_example_of_the_page_runs(spark: SparkSession, tmp_path: Path) -> None:
    page = (Path(__file__).parents[4] / "docs/howto/outgrow-one-machine.md").read_text(encoding="utf-8")
    example = page.split("### Forecasts on Spark")[1].split("```python\n")[1].split("```")[0]
    for name in ("sales.parquet", "pipeline.bin", "forecasts.parquet", "findings.parquet"):
        example = example.replace(f'"{name}"', f'"{tmp_path / name}"')  # the JVM stays in its own folder
    sales = long_frame(100, ahead=28)
    sales.write_parquet(tmp_path / "sales.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        exec(compile(example, "the page", "exec"), {})  # noqa: S102 - our own docs
    again = Pipeline.from_bytes((tmp_path / "pipeline.bin").read_bytes())
    made = told(spark.read.parquet(str(tmp_path / "forecasts.parquet")))
    assert made.equals(one_machine(again, sales))
    found = spark.read.parquet(str(tmp_path / "findings.parquet")).count()
    assert found == len(again.checked(read(sales)).findings) > 50


def test_findings_are_those_of_one_machine(spark: SparkSession, fitted: Pipeline) -> None:
    made = findings_on_spark(fitted, on_spark(spark, long_frame(), partitions=3)).collect()
    expected = fitted.forecast(read(long_frame())).findings
    assert {one.reason for one in expected} >= {"return", "duplicate", "gap"}

    def rows(found: Iterable[Any]) -> list[tuple[Any, ...]]:
        return sorted((one.reason, one.series, one.step, one["count"], one.done, one.note) for one in found)

    keyed = [_Row(msgspec.to_builtins(one)) for one in expected]
    assert rows(made) == rows(keyed)
    assert {one.row for one in made} == {-1}


class _Row(dict[str, Any]):
    def __getattr__(self, name: str) -> Any:
        return self[name]


def test_the_order_of_rows_cannot_be_asked_for(spark: SparkSession, fitted: Pipeline) -> None:
    last = msgspec.structs.replace(fitted, rules=msgspec.structs.replace(fitted.rules, two_values="last"))
    with pytest.raises(ConfigError, match=r"pipeline on Spark, rules: two_values 'last'.*'sum' or 'unknown'"):
        forecast_on_spark(last, on_spark(spark, long_frame(), partitions=1))


def test_a_worker_that_fails_says_why(spark: SparkSession, fitted: Pipeline) -> None:
    blind = msgspec.structs.replace(fitted, rules=Rules(unit="day", absent="unknown"))
    failure: type[Exception] = importlib.import_module("pyspark.errors").PythonException
    with pytest.raises(failure, match="global model, features: others than it was grown on"):
        forecast_on_spark(blind, on_spark(spark, long_frame(), partitions=1)).collect()


def test_a_series_that_is_divided_is_caught(
    spark: SparkSession, fitted: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyspark import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(module, "whole_series", _as_they_come)
    made = told(forecast_on_spark(fitted, on_spark(spark, long_frame(), partitions=2)))
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    assert not made.equals(one_machine(fitted, long_frame()))


def _as_they_come(batches: Iterable[Any], *, rows: int) -> Iterator[Any]:
    import pyarrow as pa

    for batch in batches:
        yield pa.Table.from_batches([batch])
