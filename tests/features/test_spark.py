"""Spark gives the bits of the offline fold and of the reference, on a real master with two workers."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.features import spark_cluster
from tests.features.logs import KINDS, VALUES, Writer, features

from decalog.errors import DataError
from decalog.features.facts import Change, Point
from decalog.features.offline import fold, refused
from decalog.features.reference import evaluate

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ABSENT = spark_cluster.missing()
pytestmark = pytest.mark.skipif(bool(ABSENT), reason=ABSENT)

FEATURES = features()
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


def on_spark(session: SparkSession, changes: Sequence[Change], points: Sequence[Point]) -> dict[int, Any]:
    """Returns point id → vector, None where it is too late."""
    from decalog.features.spark import changes_table, fold_on_spark, points_table

    folded = fold_on_spark(
        FEATURES,
        changes=session.createDataFrame(changes_table(FEATURES, changes)),
        points=session.createDataFrame(points_table(FEATURES, points, first=100)),
    ).toArrow()
    vectors = (None if row is None else np.array(row) for row in folded.column("features").to_pylist())
    return dict(zip(folded.column("point").to_pylist(), vectors, strict=True))


def assert_equal(session: SparkSession, log: Writer) -> None:
    late = refused(FEATURES, log.changes, points=log.points).tolist()
    admitted = [point for point, is_late in zip(log.points, late, strict=True) if not is_late]
    expected = iter(fold(FEATURES, log.changes, points=admitted))
    got = on_spark(session, log.changes, log.points)
    assert sorted(got) == list(range(100, 100 + len(log.points)))
    for place, is_late in enumerate(late):
        vector = got[100 + place]
        assert (vector is None) == is_late
        assert is_late or vector.tobytes() == next(expected).tobytes()


@pytest.mark.parametrize("seed", [1, 2])
def test_spark_gives_the_bits_of_the_offline_fold(spark: SparkSession, seed: int) -> None:
    log = Writer().write(drawn(seed, 300))
    assert_equal(spark, log)
