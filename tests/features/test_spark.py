"""Spark gives the bits of the offline fold and of the reference, on a real master with two workers."""

from __future__ import annotations

import importlib
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.features import spark_cluster
from tests.features.logs import KINDS, VALUES, Writer, features

from decalog.errors import ConfigError, DataError
from decalog.features import kernel
from decalog.features.columnar import timeline
from decalog.features.definition import Aggregate, FeatureSet
from decalog.features.facts import Change, Fact, Point
from decalog.features.offline import fold, refused
from decalog.features.reference import evaluate
from decalog.features.spark import changes_table, changes_tables, entity_values, fold_on_spark, points_table

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

ABSENT = spark_cluster.missing()
if ABSENT:
    pytest.skip(ABSENT, allow_module_level=True)

PythonException: type[Exception] = importlib.import_module("pyspark.errors").PythonException
FEATURES = features()
COUNT = FeatureSet(
    system="demo",
    features=(
        Aggregate(
            name="payments",
            meaning="payments of the card",
            unit="payments",
            entity="card",
            aggregate="count",
            over=("payment",),
            window="1h",
        ),
    ),
)
FIRST = 100
"""Id of a log's first point."""
ACTS = ("event", "event", "decide", "decide", "correct", "correct", "delete", "point", "hindsight")


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    folder = tmp_path_factory.mktemp("spark")
    with ExitStack() as stack:
        address = stack.enter_context(spark_cluster.cluster(folder))
        yield stack.enter_context(spark_cluster.session(address, folder))


def drawn(seed: int, count: int) -> list[tuple[Any, ...]]:
    """Returns seeded steps of the shape that `logs.steps` draws."""
    choose = random.Random(seed)

    def some(values: dict[str, list[Any]]) -> dict[str, Any]:
        return {name: choose.choice(among) for name, among in values.items() if choose.random() < 0.7}

    tokens: dict[str, list[Any]] = {"card": [1, 2], "device": [1, 2, 3]}
    return [
        (
            choose.choice(ACTS),
            choose.randint(0, 4),
            choose.randint(-3, 12),
            choose.randint(0, 50),
            choose.choice(KINDS[:2]),
            some(tokens),
            some(VALUES),
        )
        for _ in range(count)
    ]


def on_spark(
    session: SparkSession, log: tuple[Sequence[Change], Sequence[Point]], declared: FeatureSet = FEATURES
) -> dict[int, Any]:
    """Returns point id → vector of a log's points, None where one is too late."""
    changes, points = log
    folded = fold_on_spark(
        declared,
        changes=session.createDataFrame(changes_table(declared, changes)),
        points=session.createDataFrame(points_table(declared, points, first=FIRST)),
        tables=timeline(changes),
    ).toArrow()
    vectors = (None if row is None else np.array(row) for row in folded.column("features").to_pylist())
    return dict(zip(folded.column("point").to_pylist(), vectors, strict=True))


def assert_equal(session: SparkSession, log: Writer, declared: FeatureSet = FEATURES) -> None:
    late = refused(declared, log.changes, points=log.points).tolist()
    admitted = [point for point, is_late in zip(log.points, late, strict=True) if not is_late]
    expected = iter(fold(declared, log.changes, points=admitted))
    got = on_spark(session, (log.changes, log.points), declared)
    assert sorted(got) == list(range(FIRST, FIRST + len(log.points)))
    for place, is_late in enumerate(late):
        vector = got[FIRST + place]
        assert (vector is None) == is_late
        assert is_late or vector.tobytes() == next(expected).tobytes()


@pytest.mark.parametrize(("seed", "retain"), [(1, 1000), (2, 4)])
def test_spark_gives_the_bits_of_the_offline_fold(spark: SparkSession, seed: int, retain: int) -> None:
    assert_equal(spark, Writer().write(drawn(seed, 300)), features(retain=retain))


def test_spark_gives_the_bits_of_the_reference(spark: SparkSession) -> None:
    declared, log = features(retain=6), Writer().write(drawn(4, 120))
    late = refused(declared, log.changes, points=log.points).tolist()
    got = on_spark(spark, (log.changes, log.points), declared)
    for place, point in enumerate(log.points):
        if not late[place]:
            expected = np.array(evaluate(declared, log.changes, point=point), np.float64)
            assert got[FIRST + place].tobytes() == expected.tobytes()
    assert late.count(False) > 10


def test_a_record_is_looked_at_whole_where_pieces_divide_it() -> None:
    facts = [Fact(seq, 100, "payment", {"card": 1}, {}) for seq in range(2)]
    changes = [Change(0, 100, None, facts[0]), Change(1, 101, None, facts[1]), Change(1, 101, facts[0], None)]
    with pytest.raises(DataError, match="change 1: a withdrawal behind an addition"):
        list(changes_tables(COUNT, changes, rows=2))
    assert len(list(changes_tables(COUNT, [changes[0], changes[2], changes[1]], rows=2))) == 2


def assert_a_missing_row_raises(session: SparkSession) -> None:
    there = Fact(0, 100, "payment", {"card": 1}, {})
    never = Fact(7, 100, "payment", {"card": 1}, {})
    changes = [Change(0, 100, None, there), Change(1, 101, never, None)]
    with pytest.raises(PythonException, match="change 1, entity 'card': the withdrawal of root 7, which is not live"):
        on_spark(session, (changes, [Point(2, 101, entities={"card": 1})]), COUNT)


def test_the_withdrawal_of_a_row_that_is_not_live_raises(spark: SparkSession) -> None:
    assert_a_missing_row_raises(spark)


def test_lookups_without_their_tables_are_refused(spark: SparkSession) -> None:
    none = spark.createDataFrame(changes_table(FEATURES, [Change(0, 100)]))
    with pytest.raises(ConfigError, match=r"Spark: features that look up lists, risk, and no tables.*tables=timeline"):
        fold_on_spark(FEATURES, changes=none, points=none)


def test_two_points_with_one_id_raise(spark: SparkSession) -> None:
    changes = spark.createDataFrame(
        changes_table(COUNT, [Change(0, 100, None, Fact(0, 100, "payment", {"card": 1}, {}))])
    )
    points = spark.createDataFrame(points_table(COUNT, [Point(1, 100, entities={"card": 1})]))
    folded = fold_on_spark(COUNT, changes=changes, points=points.union(points))
    with pytest.raises(PythonException, match=r"points: two points with the id 0\. Expected one id a point"):
        folded.collect()


def test_a_log_in_pieces_is_the_same_table() -> None:
    log = Writer().write(drawn(5, 60))
    pieces = list(changes_tables(FEATURES, log.changes, rows=7))
    assert len(pieces) > 5
    joined, whole = importlib.import_module("pyarrow").concat_tables(pieces), changes_table(FEATURES, log.changes)
    assert sorted(map(str, joined.to_pylist())) == sorted(map(str, whole.to_pylist()))
    assert set(whole.column("seq").to_pylist()) == {change.seq for change in log.changes}


def test_pieces_out_of_order_raise() -> None:
    changes = [Change(seq, 100, None, Fact(seq, 100, "payment", {"card": 1}, {})) for seq in (1, 0)]
    with pytest.raises(DataError, match="change 0: a seq below 1, which came before it"):
        list(changes_tables(COUNT, changes, rows=1))


# Three planted faults. Each replaces a part of the engine, and a check above has to notice.


def unsorted(rows: DataFrame, owner: str, *then: str) -> DataFrame:
    return rows.repartition(owner)


def forgetful(declared: bytes, part: int, *, batches: Iterable[Any]) -> Iterator[Any]:
    for batch in batches:
        yield from entity_values(declared, part, batches=[batch])


def lenient(declared: bytes, part: int, *, batches: Iterable[Any]) -> Iterator[Any]:
    from pyarrow import compute

    kept = (batch.filter(compute.not_equal(batch.column("act"), kernel.RETRACT)) for batch in batches)
    yield from entity_values(declared, part, batches=kept)


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, object], None]]:
    from pyspark import cloudpickle

    # The workers do not have this module, so its functions travel whole.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield lambda name, fault: monkeypatch.setattr(f"decalog.features.spark.{name}", fault)
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


Plant = Callable[[str, object], None]
PAYMENTS: list[tuple[Any, ...]] = [("event", 1, 0, 0, "payment", {"card": 1 + n % 2}, {}) for n in range(30)]
DECISIONS: list[tuple[Any, ...]] = [("decide", 1, 0, 0, "payment", {"card": 1 + n % 2}, {}) for n in range(4)]


def test_rows_that_are_not_sorted_are_caught(spark: SparkSession, plant: Plant) -> None:
    plant("_in_order", unsorted)
    with pytest.raises(PythonException, match=r"steps of entity 'card': a step at .* of the same or a later token"):
        assert_equal(spark, Writer().write([*DECISIONS, *PAYMENTS, *DECISIONS]), COUNT)


def test_a_batch_boundary_that_forgets_is_caught(spark: SparkSession, plant: Plant) -> None:
    log = Writer().write([*PAYMENTS, *DECISIONS])
    assert_equal(spark, log, COUNT)
    plant("entity_values", forgetful)
    with pytest.raises(AssertionError):
        assert_equal(spark, log, COUNT)


def test_a_withdrawal_that_passes_in_silence_is_caught(spark: SparkSession, plant: Plant) -> None:
    plant("entity_values", lenient)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        assert_a_missing_row_raises(spark)
