"""Baselines of collaborative filtering against their formulas, and the neighbours that serve."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from scipy import sparse
from tests.models.tastes import SIZE, checkerboard, crowd

from decalog.errors import ConfigError, DataError, ModelError
from decalog.models import collaborative
from decalog.models.collaborative import Neighbours, Scorer
from decalog.models.interactions import Interactions, interactions

Doubles = npt.NDArray[np.float64]

LINEAR: dict[str, Callable[[Interactions], Scorer]] = {
    "item_knn": collaborative.item_knn,
    "ease": lambda seen: collaborative.ease(seen.taken, l2=1.0),
    "low_pass": lambda seen: collaborative.low_pass(seen, rank=4),
    "graph_filter": lambda seen: collaborative.graph_filter(seen, rank=4),
}
ALL = LINEAR | {"als": lambda seen: collaborative.als(seen, rank=4, rounds=5)}
each = pytest.mark.parametrize("fit", ALL.values(), ids=ALL)
each_linear = pytest.mark.parametrize("fit", LINEAR.values(), ids=LINEAR)


def dense(seen: Interactions) -> Doubles:
    return np.asarray(seen.taken.toarray(), np.float64)


def textbook_ease(x: Doubles, l2: float) -> Doubles:
    inverse = np.linalg.inv(x.T @ x + l2 * np.eye(x.shape[1]))
    weights = np.asarray(inverse / -np.diag(inverse))
    np.fill_diagonal(weights, 0)
    return weights


@each
def test_the_one_item_that_was_withheld_is_found(fit: Callable[[Interactions], Scorer]) -> None:
    seen = checkerboard()
    scores = fit(seen).scores(seen.taken)
    scores[seen.taken.toarray() > 0] = -np.inf
    assert np.argmax(scores, axis=1).tolist() == list(range(SIZE))


@each
def test_a_history_alone_is_scored_as_among_others(fit: Callable[[Interactions], Scorer]) -> None:
    seen = crowd()
    fitted = fit(seen)
    assert fitted.scores(seen.taken[7:8])[0] == pytest.approx(fitted.scores(seen.taken)[7], rel=1e-4, abs=1e-5)


@each
def test_the_same_seed_gives_the_same_bits(fit: Callable[[Interactions], Scorer]) -> None:
    seen = crowd()
    assert fit(seen).scores(seen.taken).tobytes() == fit(seen).scores(seen.taken).tobytes()


@pytest.mark.parametrize("turn", [1, -1])
def test_the_baseline_that_finds_what_was_held_out_is_fitted_to_all(turn: int) -> None:
    seen, told = checkerboard(), list[Interactions]()

    def knn(part: Interactions) -> Scorer:
        told.append(part)
        return collaborative.item_knn(part, shrinkage=0.0)

    found = collaborative.best_of(seen, [collaborative.popularity, knn][::turn], k=3, seed=1)
    assert isinstance(found, collaborative.ItemWeights)
    held, whole = told
    assert whole is seen
    assert held.taken.sum() == pytest.approx(0.8 * seen.taken.sum(), rel=0.1)
    assert (seen.taken - held.taken).min() == 0


def test_among_baselines_that_find_the_same_the_first_is_taken() -> None:
    lone = interactions([("a", "x")])
    assert isinstance(
        collaborative.best_of(lone, [collaborative.popularity, collaborative.item_knn]), collaborative.Popularity
    )


def test_what_was_found_is_a_share_of_each_users() -> None:
    most = collaborative.Popularity(np.array([4, 3, 2, 1], np.float32))
    told, held = (
        sparse.csr_array(np.array(rows, np.float32)) for rows in ([[1, 0, 0, 0]] * 2, [[0, 1, 0, 1], [0, 0, 0, 1]])
    )
    assert [collaborative._found(most, told, held, k=k) for k in (1, 2, 3)] == [1 + 0, 1 / 2 + 0, 1 + 1]


def test_popularity_counts_users_whoever_asks() -> None:
    seen = interactions([("a", "x"), ("b", "x"), ("b", "y"), ("b", "y")])
    assert collaborative.popularity(seen).scores(seen.taken).tolist() == [[2, 1], [2, 1]]


def test_knn_is_the_shrunk_cosine_of_the_nearest() -> None:
    seen = crowd()
    x = dense(seen)
    sizes = x.sum(axis=0)
    cosines = (x.T @ x) / (np.sqrt(np.outer(sizes, sizes)) + 3)
    np.fill_diagonal(cosines, 0)
    everything = collaborative.item_knn(seen, shrinkage=3, top=100).scores(seen.taken)
    assert everything == pytest.approx(x @ cosines, rel=1e-5)
    fewer = collaborative.item_knn(seen, shrinkage=3, top=2).scores(sparse.eye_array(20, format="csr"))
    for item, weights in enumerate(fewer):
        assert np.count_nonzero(weights) == 2
        assert np.sort(weights)[-2:] == pytest.approx(np.sort(cosines[item])[-2:], rel=1e-5)


@pytest.mark.parametrize("shape", [(30, 20), (15, 20)], ids=["by items", "by users"])
@pytest.mark.parametrize("l2", [0.5, 20.0])
def test_ease_equals_the_textbook(shape: tuple[int, int], l2: float) -> None:
    seen = crowd(*shape)
    assert seen.taken.shape == shape
    found = collaborative.ease(seen.taken, l2=l2).scores(sparse.eye_array(20, dtype=np.float32, format="csr"))
    assert found == pytest.approx(textbook_ease(dense(seen), l2), abs=1e-5)


def test_ease_needs_a_penalty() -> None:
    seen = crowd(5, 20)
    with pytest.raises(
        ConfigError, match=r"EASE: a penalty of -9, with which .* cannot be solved. Expected .* above 0"
    ):
        collaborative.ease(seen.taken, l2=-9.0)


def test_low_pass_equals_its_formula() -> None:
    seen = crowd()
    x = dense(seen)
    by_user, by_item = x.sum(axis=1), x.sum(axis=0)
    r = x / np.sqrt(np.outer(by_user, by_item))
    v = np.linalg.svd(r)[2][:5].T
    low = np.diag(by_item**-0.5) @ v @ v.T @ np.diag(by_item**0.5)
    found = collaborative.low_pass(seen, rank=5, share=0.7).scores(seen.taken)
    assert found == pytest.approx(x @ (r.T @ r + 0.7 * low), rel=1e-3, abs=1e-4)


def test_the_graph_filter_equals_its_formula() -> None:
    seen = crowd()
    x = dense(seen)
    by_user, by_item = x.sum(axis=1), x.sum(axis=0)
    r = x / np.sqrt(np.outer(by_user, by_item))
    p, v = r.T @ r, np.linalg.svd(r)[2][:5].T
    blur = p + 0.7 * v @ v.T
    expected = x @ np.diag(by_item**-0.2) @ blur @ (np.eye(20) - 0.4 * p) @ np.diag(by_item**0.6)
    found = collaborative.graph_filter(seen, rank=5, share=0.7, sharpness=0.4, powers=(0.2, 0.6))
    assert found.scores(seen.taken) == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_als_solves_its_normal_equations() -> None:
    seen = crowd()
    found = collaborative.als(seen, rank=3, confidence=4.0, l2=2.0, rounds=3)
    items = found.factors.astype(np.float64)
    for history, scores in zip(dense(seen), found.scores(seen.taken), strict=True):
        weights = np.diag(1 + 4.0 * history)
        own = np.linalg.solve(items.T @ weights @ items + 2 * np.eye(3), items.T @ weights @ history)
        assert scores == pytest.approx(items @ own, rel=1e-3, abs=1e-4)


def test_als_falls_towards_the_least_loss() -> None:
    seen = crowd()
    x = dense(seen)

    def loss(rounds: int) -> float:
        items = collaborative.als(seen, rank=3, confidence=4.0, l2=2.0, rounds=rounds).factors.astype(np.float64)
        users = np.array(
            [np.linalg.solve(items.T @ np.diag(1 + 4 * row) @ items + 2 * np.eye(3), items.T @ (5 * row)) for row in x]
        )
        errors = (1 + 4 * x) * (x - users @ items.T) ** 2
        return float(errors.sum() + 2 * (items**2).sum() + 2 * (users**2).sum())

    losses = [loss(rounds) for rounds in (1, 2, 5, 20)]
    assert losses == sorted(losses, reverse=True)


# ---- neighbours ----


@each_linear
def test_neighbours_of_a_linear_baseline_score_as_it_does(fit: Callable[[Interactions], Scorer]) -> None:
    seen = crowd()
    fitted = fit(seen)
    found = collaborative.neighbours(fitted, seen.items, top=100)
    alone = fitted.scores(sparse.eye_array(20, dtype=np.float32, format="csr"))
    np.fill_diagonal(alone, 0)
    places = seen.taken[[3]].indices
    expected = np.maximum(alone, 0)[places].sum(axis=0)
    expected[places] = 0
    scores = dict(found.score([seen.items[place] for place in places], 100))
    assert scores == pytest.approx(
        {item: score for item, score in zip(seen.items, expected, strict=True) if score > 0}, rel=1e-4
    )


def three() -> Neighbours:
    places = np.array([[1, 2], [0, -1], [0, 1]], np.int32)
    return Neighbours(("a", "b", "c"), places, np.array([[0.5, 0.25], [1.0, 0.0], [0.75, 0.5]], np.float32))


def test_similar_items_come_best_first_and_without_those_it_never_met() -> None:
    assert three().similar("a", 5) == [("b", 0.5), ("c", 0.25)]
    assert three().similar("a", 1) == [("b", 0.5)]
    assert three().similar("b", 5) == [("a", 1.0)]
    assert three().similar("new", 5) == []


def test_a_history_adds_up_and_is_left_out() -> None:
    assert three().score(["b", "c"], 5) == [("a", 1.75)]
    assert three().score(["new", "c"], 5) == [("a", 0.75), ("b", 0.5)]
    assert three().score(["b", "new", "c"], 5, weights=[1.0, 9.0, 2.0]) == [("a", 2.5)]
    assert three().score([], 5) == []


def test_of_the_checkerboard_only_one_colour_is_near() -> None:
    seen = checkerboard()
    found = collaborative.neighbours(collaborative.item_knn(seen), seen.items, top=10)
    for item in seen.items:
        assert len(found.similar(item, 20)) == 10
        assert {int(other) % 2 for other, _ in found.similar(item, 20)} == {int(item) % 2}


def test_saved_neighbours_are_the_same(tmp_path: Path) -> None:
    found = collaborative.neighbours(collaborative.item_knn(crowd()), crowd().items, top=6)
    found.save(tmp_path)
    again = collaborative.load(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["neighbours.json", "neighbours.npz"]
    assert again.items == found.items
    assert (again.places.tobytes(), again.weights.tobytes()) == (found.places.tobytes(), found.weights.tobytes())


def rewritten(folder: Path, **arrays: npt.NDArray[np.generic]) -> None:
    three().save(folder)
    whole = {"places": three().places, "weights": three().weights, **arrays}
    np.savez(folder / "neighbours.npz", allow_pickle=True, **whole)


@pytest.mark.parametrize(
    ("arrays", "given"),
    [
        ({"places": np.array([[1, 2], [0, -1]], np.int32)}, r"array 'places' of shape \(2, 2\), where the names need"),
        ({"weights": np.full((3, 2), np.nan, np.float32)}, r"array 'weights' with values that are not finite"),
        ({"places": np.full((3, 2), 3, np.int32)}, r"neighbours that are none of the items"),
        ({"places": np.zeros((3, 2))}, r"neighbours that are none of the items"),
        ({"more": np.zeros(1)}, r"arrays more, places, weights where it needs places, weights"),
        ({"places": np.array([[print]])}, r"files that cannot be read \(ValueError\)"),
    ],
)
def test_damaged_arrays_are_named(tmp_path: Path, arrays: dict[str, npt.NDArray[np.generic]], given: str) -> None:
    rewritten(tmp_path, **arrays)
    with pytest.raises(ModelError, match=rf"model files neighbours.npz and neighbours.json: {given}"):
        collaborative.load(tmp_path)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("neighbours.json", None),
        ("neighbours.json", b"[1]"),
        ("neighbours.npz", None),
        ("neighbours.npz", b""),
        ("neighbours.npz", b"PK\x03\x04 and no more"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, file: str, content: bytes | None) -> None:
    three().save(tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(ModelError, match=r"neighbours.json: files that cannot be read .* Expected the two files as"):
        collaborative.load(tmp_path)


def test_no_interactions_teach_nothing() -> None:
    with pytest.raises(
        DataError, match=r"interactions: none. Expected at least one item that a user took up. Train on"
    ):
        interactions([])
