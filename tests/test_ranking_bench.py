"""The figures that the benchmarks of retrieval print."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

ROOT = Path(__file__).parent.parent
SPEC = importlib.util.spec_from_file_location("ranking", ROOT / "bench" / "quality" / "ranking.py")
assert SPEC
assert SPEC.loader
ranking = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(ranking)


def table(rows: list[list[int]]) -> sparse.csr_array:
    return sparse.csr_array(np.array(rows, np.float32))


def test_recall_and_ndcg_by_hand() -> None:
    scores = np.array([[5, 4, 3, 2, 1], [1, 2, 3, 4, 5], [9, 9, 9, 9, 9]], np.float32)
    seen = table([[1, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
    wanted = table([[0, 1, 0, 1, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]])
    found = ranking.ranked(lambda users: scores[users], seen=seen, wanted=wanted, k=2)
    # The first user's list is 1, 2 of three wanted; the second's is 4, 3 of one; the third wants nothing.
    assert found.recall.tolist() == pytest.approx([1 / 3, 1])
    assert found.ndcg.tolist() == pytest.approx([1 / (1 + 1 / np.log2(3)), 1])
    later = ranking.ranked(lambda users: -scores[users], seen=seen, wanted=wanted, k=5)
    # 4, 3, 2, 1 and, seen, 0; the second user's is the last of five.
    ideal = 1 + 1 / np.log2(3) + 1 / 2
    assert later.ndcg.tolist() == pytest.approx([(1 + 1 / np.log2(3) + 1 / np.log2(5)) / ideal, 1 / np.log2(6)])


def test_the_best_are_those_of_a_sort_and_the_first_of_equals_come_first() -> None:
    scores = np.random.default_rng(0).integers(0, 50, (20, 100)).astype(np.float32)
    assert np.array_equal(ranking._best(scores, 7), np.argsort(-scores, axis=1, kind="stable")[:, :7])


def test_a_split_by_hash_is_even_and_always_the_same() -> None:
    users, items = (grid.ravel() for grid in np.mgrid[:300, :300])
    shares = ranking.hashed_share(users, items)
    assert np.array_equal(shares[::-1], ranking.hashed_share(users[::-1], items[::-1]))
    assert np.histogram(shares, 10, (0, 1))[0] == pytest.approx(9_000, rel=0.05)
    by_user = (shares < 0.2).reshape(300, 300)
    assert np.abs(by_user.mean(axis=0) - 0.2).max() < 0.1
    assert np.abs(by_user.mean(axis=1) - 0.2).max() < 0.1


def test_an_interval_holds_the_mean() -> None:
    values = np.random.default_rng(1).normal(0.5, 0.1, 400)
    found = ranking.over_users(values)
    assert (found.value, found.n) == (pytest.approx(values.mean()), 400)
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.1 / 20, rel=0.15)
