"""Neighbours: the nearest by mean difference of ranks, against a loop over all pairs; only what is labelled counts."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.fraud_log import FraudLog

from decalog.examples import UNKNOWN, Examples, Floats, History
from decalog.systems.fraud.features import FEATURES
from decalog.systems.fraud.neighbours import neighbours
from decalog.systems.fraud.schema import SCHEMA


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    log = FraudLog(tmp_path_factory.mktemp("neighbours"))
    for i in range(40):
        log.pay(f"p{i}", 1 + i / 10, amount_minor=100 + i)
    plain = History(log.records(), SCHEMA, features=FEATURES).now
    rows = np.random.default_rng(2).normal(size=plain.rows.shape).round(1)
    labels = np.array([UNKNOWN, 0, 1, 0] * 10)
    return msgspec.structs.replace(plain, rows=rows, labels=labels)


def by_hand(examples: Examples, row: Floats, columns: list[int]) -> list[str]:
    """Ranks counted one by one."""
    known = [n for n in range(examples.n) if np.isfinite(examples.labels[n])]

    def rank(value: float, column: int) -> int:
        others = [float(examples.rows[n, column]) for n in known]
        return sum(int(other < value) + int(other <= value) for other in others)

    def distance(n: int) -> int:
        return sum(abs(rank(examples.rows[n, c], c) - rank(row[c], c)) for c in columns)

    return [examples.ids[n] for n in sorted(known, key=lambda n: (distance(n), -n))]


def test_the_nearest_come_first(examples: Examples) -> None:
    columns = [0, 3, 5, 8]
    for n in (0, 7, 21):
        row = examples.rows[n]
        found = neighbours(examples, row, columns=columns, count=6)
        assert [one.payment for one in found] == by_hand(examples, row, columns)[:6]
        assert [one.distance for one in found] == sorted(one.distance for one in found)


def test_a_labelled_payment_is_its_own_nearest_and_tells_what_became_of_it(examples: Examples) -> None:
    (found,) = neighbours(examples, examples.rows[2], columns=list(range(20)), count=1)
    assert (found.payment, found.distance, found.label, found.amount_minor) == ("p2", 0.0, 1, 102)


def test_without_labels_or_features_there_are_none(examples: Examples, tmp_path: Path) -> None:
    unknown = msgspec.structs.replace(examples, labels=np.full(examples.n, UNKNOWN))
    assert neighbours(unknown, examples.rows[0], columns=[0]) == []
    assert neighbours(examples, examples.rows[0], columns=[]) == []
