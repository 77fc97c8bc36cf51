"""Recall and NDCG over all there is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from decalog.models import ranking
from decalog.models.ranking import Lists, hits, ranked


def table(rows: list[list[int]]) -> sparse.csr_array:
    return sparse.csr_array(np.array(rows, np.float32))


def test_recall_and_ndcg_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.array([[5, 4, 3, 2, 1], [1, 2, 3, 4, 5], [9, 9, 9, 9, 9]], np.float32)
    seen = table([[1, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
    wanted = table([[0, 1, 0, 1, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]])
    found = ranked(lambda users: scores[users], seen=seen, wanted=wanted, k=2)
    # The first user's list is 1, 2 of three wanted; the second's is 4, 3 of one; the third wants nothing.
    assert found.recall(2).tolist() == pytest.approx([1 / 3, 1])
    assert found.ndcg(2).tolist() == pytest.approx([1 / (1 + 1 / np.log2(3)), 1])
    assert found.recall(1).tolist() == pytest.approx([1 / 3, 1])
    monkeypatch.setattr(ranking, "_CELLS", 5)  # one user at a time
    later = ranked(lambda users: -scores[users], seen=seen, wanted=wanted, k=5)
    # 4, 3, 2, 1 and, seen, none; the second user's is the last of five.
    ideal = 1 + 1 / np.log2(3) + 1 / 2
    assert later.ndcg(5).tolist() == pytest.approx([(1 + 1 / np.log2(3) + 1 / np.log2(5)) / ideal, 1 / np.log2(6)])
    assert later.recall(20).tolist() == [1, 1]


def test_a_list_is_that_of_a_sort_and_the_first_of_equals_comes_first() -> None:
    rng = np.random.default_rng(0)
    scores, is_wanted = rng.integers(0, 50, (20, 100)).astype(np.float32), rng.random((20, 100)) < 0.3
    order = np.argsort(-scores, axis=1, kind="stable")[:, :7]
    assert np.array_equal(hits(scores, is_wanted, k=7), np.take_along_axis(is_wanted, order, axis=1))


def test_what_is_not_scored_has_no_place() -> None:
    scores = np.array([[-np.inf, 1.0, -np.inf, 2.0]], np.float32)
    assert hits(scores, np.ones((1, 4), np.bool_), k=6).tolist() == [[1, 1, 0, 0, 0, 0]]


def test_places_may_hold_what_is_expected_of_them() -> None:
    """A random order of four things, two of them wanted, by hand."""
    found = Lists(np.full((1, 4), 2 / 4), np.array([2]))
    assert found.recall(1).tolist() == [1 / 4]
    assert found.recall(4).tolist() == [1]
    assert found.ndcg(1).tolist() == [1 / 2]
