"""One suite over every index of vectors in `stores/table.py`, judged by the plainest search there is."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from decalog.errors import ConfigError, ModelError
from decalog.stores import faiss as approximate
from decalog.stores import flat
from decalog.stores.base import VectorIndex
from decalog.stores.table import INDEXES, open_index

Floats = npt.NDArray[np.float32]
DIM = 8


@pytest.fixture(params=sorted(INDEXES))
def index(request: pytest.FixtureRequest) -> VectorIndex:
    return open_index(DIM, request.param)


def ids(*values: int) -> npt.NDArray[np.int64]:
    return np.array(values, np.int64)


def clustered(count: int, *, clusters: int = 40, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(clusters, DIM))
    drawn = centres[rng.integers(clusters, size=count)] + 0.4 * rng.normal(size=(count, DIM))
    return unit(drawn)


def unit(rows: npt.NDArray[Any]) -> Floats:
    made: Floats = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return made


def oracle(rows: dict[int, Floats], query: Floats, k: int) -> list[tuple[float, int]]:
    scored = sorted((-float(np.float32(row @ query)), id_) for id_, row in rows.items())
    return [(-score, id_) for score, id_ in scored[:k]]


def agrees(index: VectorIndex, rows: dict[int, Floats], query: Floats, k: int, **more: Any) -> None:
    scores, found = index.search(query[None], k, **more)
    mask = more.get("allowed")
    wanted = oracle({i: row for i, row in rows.items() if mask is None or (i < len(mask) and mask[i])}, query, k)
    missing = k - len(wanted)
    assert found[0].tolist() == [i for _, i in wanted] + [-1] * missing
    assert np.allclose(scores[0], [s for s, _ in wanted] + [-np.inf] * missing, atol=1e-6)


def test_an_empty_index_finds_nothing(index: VectorIndex) -> None:
    scores, found = index.search(clustered(2), 3)
    assert len(index) == 0
    assert found.tolist() == [[-1] * 3] * 2
    assert np.isneginf(scores).all()
    assert index.vectors(ids(0, 7)).tolist() == [[0.0] * DIM] * 2


def test_what_was_put_is_found_and_what_was_taken_out_is_not(index: VectorIndex) -> None:
    rows = dict(enumerate(clustered(500)))
    index.put(np.arange(500), np.array(list(rows.values())))
    query = clustered(1, seed=9)[0]
    agrees(index, rows, query, 20)
    for gone in (oracle(rows, query, 1)[0][1], 3, 499):
        index.remove(ids(gone, 10_000))
        rows.pop(gone, None)
        agrees(index, rows, query, 20)
    assert len(index) == len(rows)


def test_a_vector_put_again_takes_the_place_of_the_first(index: VectorIndex) -> None:
    first, second = clustered(2)
    index.put(ids(5), first[None])
    index.put(ids(5, 6, 5), np.array([first, first, second]))
    assert len(index) == 2
    assert index.vectors(ids(5)).tolist() == [second.tolist()]
    agrees(index, {5: second, 6: first}, second, 2)


def test_an_id_that_became_free_can_be_given_again(index: VectorIndex) -> None:
    first, second = clustered(2)
    index.put(ids(0), first[None])
    index.remove(ids(0))
    assert index.vectors(ids(0)).tolist() == [[0.0] * DIM]
    index.put(ids(0), second[None])
    agrees(index, {0: second}, first, 1)


@pytest.mark.parametrize("share", [1.0, 0.5, 0.1, 0.01, 0.0])
def test_only_what_is_allowed_is_found(index: VectorIndex, share: float) -> None:
    rows = dict(enumerate(clustered(600)))
    index.put(np.arange(600), np.array(list(rows.values())))
    mask = np.random.default_rng(1).random(600) < share
    for query in clustered(5, seed=2):
        agrees(index, rows, query, 10, allowed=mask)


def test_a_mask_may_be_shorter_or_longer_than_the_index(index: VectorIndex) -> None:
    rows = dict(enumerate(clustered(50)))
    index.put(np.arange(50), np.array(list(rows.values())))
    query = clustered(1, seed=3)[0]
    agrees(index, rows, query, 5, allowed=np.ones(7, np.bool_))
    agrees(index, rows, query, 5, allowed=np.ones(90_000, np.bool_))


def test_fewer_than_asked_for_are_filled_up(index: VectorIndex) -> None:
    rows = dict(enumerate(clustered(3)))
    index.put(np.arange(3), np.array(list(rows.values())))
    agrees(index, rows, rows[0], 10)


def test_among_equals_the_lower_id_comes_first(index: VectorIndex) -> None:
    same = np.repeat(clustered(1), 9, axis=0)
    order = ids(8, 3, 5, 1, 7, 0, 2, 6, 4)
    index.put(order, same)
    assert index.search(same[:1], 4)[1].tolist() == [[0, 1, 2, 3]]


def test_an_index_grows_past_its_first_room(index: VectorIndex) -> None:
    rows = {5_000: clustered(1)[0]}
    index.put(ids(2), clustered(1, seed=4))
    index.put(ids(5_000), rows[5_000][None])
    agrees(index, {**rows, 2: clustered(1, seed=4)[0]}, rows[5_000], 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(index: VectorIndex, bad: float) -> None:
    rows = clustered(2)
    rows[1, 3] = bad
    for use in (lambda: index.put(ids(0, 1), rows), lambda: index.search(rows, 1)):
        with pytest.raises(ModelError, match=r"vector that is not finite\. Expected finite numbers\. Train the model"):
            use()
    assert len(index) == 0


def test_vectors_of_another_shape_are_refused(index: VectorIndex) -> None:
    with pytest.raises(ModelError, match=r"vectors of shape \(2, 3\). Expected shape \(2, 8\). Index and search"):
        index.put(ids(0, 1), np.zeros((2, 3), np.float32))


@pytest.mark.parametrize("id_", [-1, 2**31])
def test_an_id_out_of_range_is_refused(index: VectorIndex, id_: int) -> None:
    with pytest.raises(ModelError, match=r"ids: an id out of range\. Expected ids from 0 to 2147483647\. Number"):
        index.put(ids(id_), clustered(1))
    assert len(index) == 0


def test_nothing_put_and_nothing_removed_change_nothing(index: VectorIndex) -> None:
    index.put(ids(), np.zeros((0, DIM), np.float32))
    index.remove(ids())
    assert len(index) == 0


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"index of vectors: 'fais'\. Expected 'faiss' .closest match., or one of"):
        open_index(DIM, "fais")


def test_without_its_package_faiss_is_refused_and_the_default_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"faiss, without its package. Expected the extra feed. Run: pip install"):
        open_index(DIM, "faiss")
    assert type(open_index(DIM)) is flat.FlatIndex


class TestLists:
    """faiss reads some of its lists: what it may miss is bounded; nothing that is gone or not allowed comes back."""

    @pytest.fixture
    def lists(self, monkeypatch: pytest.MonkeyPatch) -> approximate.FaissIndex:
        monkeypatch.setattr(approximate, "_LEAST", 2_000)
        monkeypatch.setattr(approximate, "_EXACT", 300)
        return approximate.FaissIndex(DIM)

    @staticmethod
    def recall(index: VectorIndex, rows: Floats, mask: npt.NDArray[np.bool_] | None = None, k: int = 50) -> float:
        queries = clustered(40, seed=0)[:40]
        scores = queries @ rows.T
        if mask is not None:
            scores[:, ~mask] = -np.inf
        found = index.search(queries, k, allowed=mask)[1]
        assert mask is None or mask[found[found >= 0]].all()
        truth = np.argsort(-scores, axis=1)[:, :k]
        return float(np.mean([np.isin(want, have).mean() for want, have in zip(truth, found, strict=True)]))

    @pytest.mark.parametrize("share", [1.0, 0.5, 0.1, 0.05, 0.01])
    def test_recall_holds_under_filters(self, lists: approximate.FaissIndex, share: float) -> None:
        rows = clustered(8_000)
        lists.put(np.arange(8_000), rows)
        assert lists._lists is not None
        mask = np.random.default_rng(5).random(8_000) < share
        assert self.recall(lists, rows, None if share == 1.0 else mask) >= 0.95

    def test_recall_holds_where_only_far_clusters_are_allowed(self, lists: approximate.FaissIndex) -> None:
        rows = clustered(8_000)
        lists.put(np.arange(8_000), rows)
        mask = rows[:, 0] < np.quantile(rows[:, 0], 0.1)
        assert self.recall(lists, rows, mask) >= 0.95

    def test_it_reads_more_lists_until_it_has_enough(self, lists: approximate.FaissIndex) -> None:
        rows = clustered(4_000, clusters=4)
        lists.put(np.arange(4_000), rows)
        mask = rows @ rows[0] < np.quantile(rows @ rows[0], 0.2)
        assert (lists.search(rows[:1], 350, allowed=mask)[1] >= 0).all()

    def test_changes_are_seen_at_once(self, lists: approximate.FaissIndex) -> None:
        rows = clustered(3_000)
        lists.put(np.arange(3_000), rows)
        new = unit(rows[7:8] + 0.001)
        lists.put(ids(3_000), new)
        assert lists.search(new, 1)[1].tolist() == [[3_000]]
        lists.put(ids(3_000), -new)
        assert 3_000 not in lists.search(new, 100)[1]
        lists.remove(ids(7))
        assert 7 not in lists.search(rows[7:8], 3_000)[1]
        assert len(lists) == 3_000

    def test_what_changes_while_lists_are_made_is_in_them(
        self, lists: approximate.FaissIndex, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rows = clustered(2_600)
        built = lists._built

        def meanwhile(which: npt.NDArray[np.int64]) -> Any:
            made = built(which)
            lists.put(ids(2_600), rows[:1])
            lists.remove(ids(1))
            return made

        monkeypatch.setattr(lists, "_built", meanwhile)
        for start in range(0, 2_600, 200):
            lists.put(np.arange(start, start + 200), rows[start : start + 200])
            lists.wait()
        found = lists.search(rows[:2], 2_600)[1]
        assert lists._lists.ntotal == len(lists) == 2_600
        assert 2_600 in found
        assert 1 not in found

    def test_lists_that_cannot_be_made_leave_the_exact_search(
        self, lists: approximate.FaissIndex, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(which: npt.NDArray[np.int64]) -> Any:
            raise MemoryError

        monkeypatch.setattr(lists, "_built", broken)
        monkeypatch.setattr("threading.excepthook", lambda _: None)
        rows = clustered(2_500)
        lists.put(np.arange(2_500), rows)
        agrees(lists, dict(enumerate(rows)), rows[0], 10)
        lists.put(ids(0), rows[:1])
        lists.wait()
        assert lists._maker is None
