"""The towers: slopes against differences, a world with a known answer, what is new, and files."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from scipy import sparse
from tests.models.tastes import SIZE, checkerboard

from decalog.errors import ModelError
from decalog.models import two_tower
from decalog.models.interactions import Interactions, interactions
from decalog.models.two_tower import Params, Settings, Step, TwoTower

SMALL = Settings(dim=8, epochs=60, batch=16, negatives=8, temperature=0.2, learning_rate=0.02, dropout=0.3)
COLOURS = {"colour": [("odd" if int(item) % 2 else "even",) for item in checkerboard().items]}
TASTES = {"taste": [("odd" if int(user) % 2 else "even", "any") for user in checkerboard().users]}


def fit(seed: int = 1, seen: Interactions | None = None) -> TwoTower:
    return two_tower.fit(seen or checkerboard(), item_sides=COLOURS, user_sides=TASTES, settings=SMALL, seed=seed)


FITTED = fit()
VECTORS = FITTED.item_vectors(FITTED.names.items, {"colour": [values[0] for values in COLOURS["colour"]]})


def user_of(history: list[int], **sides: list[str]) -> npt.NDArray[np.float32]:
    return FITTED.user_vector(VECTORS[history], np.ones(len(history), np.float32), sides=sides)


def small_step() -> tuple[Params, Step]:
    """Three users, five items and a side each, in float64 so that differences are exact."""
    rng = np.random.default_rng(5)
    shapes = {"ids": (5, 3), "sides": (3, 3), "users": (2, 2), "mix": (3, 2), "gate": (3,)}
    params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    step = Step(
        item_bag=sparse.csr_array(np.array([[1, 1, 0], [1, 0, 1], [1, 0.5, 0.5], [1, 0, 0], [1, 1, 0]])),
        user_bag=sparse.csr_array(np.array([[1.0, 1], [1, 0], [1, 0]])),
        keep=np.array([1.0, 1, 0, 1, 1]),
        history=sparse.csr_array(np.array([[0.7, 0.7, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]])),
        candidates=np.array([0, 2, 3, 4]),
        log_q=np.log([0.9, 0.2, 0.4, 0.7]),
        owner=np.array([0, 0, 1, 2]),
        column=np.array([1, 2, 3, 0]),
        weight=np.array([0.3, 0.2, 0.4, 0.1]),
        known=(np.array([0, 0, 0, 1, 1, 2]), np.array([0, 1, 2, 1, 3, 0])),
    )
    return params, step  # type: ignore[return-value]  # twice the precision


@pytest.mark.parametrize("name", ["ids", "sides", "users", "mix", "gate"])
def test_slopes_equal_differences(name: str) -> None:
    params, step = small_step()
    _, slopes = two_tower.loss_and_slopes(params, step, temperature=0.3)
    flat, found = params[name].ravel(), slopes[name].ravel()
    for place in range(len(flat)):
        losses = []
        for shift in (1e-5, -1e-5):
            flat[place] += shift
            losses.append(two_tower.loss_and_slopes(params, step, temperature=0.3)[0])
            flat[place] -= shift
        assert found[place] == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-4, abs=1e-7)


def test_a_target_stands_against_what_its_user_did_not_take_up_each_by_its_chance() -> None:
    _, step = small_step()
    cosines = np.random.default_rng(2).uniform(-1, 1, (3, 4)).astype(np.float32)
    loss, _ = two_tower._softmax(cosines / np.float32(0.3), step, most=1 / 0.3)
    expected = 0.0
    others = {0: [3], 1: [0, 2], 2: [1, 2, 3]}
    for user, target, weight in zip(step.owner, step.column, step.weight, strict=True):
        masses = [np.exp(cosines[user, other] / 0.3) / np.exp(step.log_q[other]) for other in others[user]]
        mine = np.exp(cosines[user, target] / 0.3)
        expected -= weight * np.log(mine / (mine + sum(masses)))
    assert loss == pytest.approx(expected, rel=1e-5)


def test_the_corrected_sample_estimates_the_sum_over_all_items() -> None:
    """Over many draws of a batch, an item's 1/q is 1 in the mean, for popular ones as for rare ones."""
    rng = np.random.default_rng(0)
    pairs = [(f"u{u:03}", f"i{i:02}") for u in range(200) for i in range(30) if rng.random() < 0.9 ** (i + 1) + 0.01]
    seen = interactions(pairs)
    bags = sparse.csr_array(np.ones((len(seen.items), 1))), sparse.csr_array(np.ones((len(seen.users), 1)))
    settings = Settings(batch=20, negatives=3, target_share=0.4)
    sums = np.zeros(len(seen.items))
    for _ in range(3_000):
        users = rng.choice(len(seen.users), 20, replace=False)
        step = two_tower._draw(seen, bags, users=users, settings=settings, rng=rng)
        sums[step.candidates] += np.exp(-step.log_q)
    assert sums[:10] / 3_000 == pytest.approx(1, abs=0.05)
    assert sums / 3_000 == pytest.approx(1, abs=0.25)


def test_history_and_targets_are_all_that_a_user_took_up() -> None:
    seen = checkerboard()
    bags = sparse.csr_array(np.ones((SIZE, 2))), sparse.csr_array(np.ones((SIZE, 1)))
    step = two_tower._draw(
        seen, bags, users=np.arange(10), settings=Settings(negatives=0, user_power=0.5), rng=np.random.default_rng(1)
    )
    targets = np.zeros((10, SIZE))
    targets[step.owner, step.candidates[step.column]] = 1
    pooled = step.history.toarray()
    assert np.array_equal((pooled > 0) + targets, seen.taken.toarray()[:10])
    assert np.all(targets.sum(axis=1) >= 1)
    assert (pooled**2).sum(axis=1) == pytest.approx(1)  # divided by the root of how many there are
    assert step.weight.sum() == pytest.approx(1)
    by_user = np.bincount(step.owner, step.weight)
    assert by_user**2 / by_user[0] ** 2 == pytest.approx(targets.sum(axis=1) / targets[0].sum())


def test_the_one_item_that_was_withheld_is_found() -> None:
    seen = checkerboard()
    found = []
    for user in range(SIZE):
        scores = VECTORS @ user_of(seen.taken[[user]].indices.tolist())
        scores[seen.taken[[user]].indices] = -np.inf
        found.append(int(np.argmax(scores)))
    assert found == list(range(SIZE))


def test_directions_have_length_1_and_a_new_user_is_placed_by_sides() -> None:
    assert np.linalg.norm(VECTORS[:, :-1], axis=1) == pytest.approx(1, abs=1e-6)
    is_odd = np.arange(SIZE) % 2 == 1
    for taste, wanted in (("odd", is_odd), ("even", ~is_odd)):
        alone = user_of([], taste=[taste, "any"])
        assert alone.dtype == np.float32
        assert alone.shape == (8,)
        assert np.linalg.norm(alone[:-1]) == pytest.approx(1, abs=1e-6)
        assert alone[-1] == 1
        scores = VECTORS @ alone
        assert scores[wanted].min() > scores[~wanted].max()
    assert np.linalg.norm(user_of([])[:-1]) == pytest.approx(1, abs=1e-6)
    assert np.array_equal(user_of([], taste=["new"], planet=["mars"]), user_of([]))


def test_a_new_item_stands_where_its_sides_put_it() -> None:
    new = FITTED.item_vectors(["new", "newer", "newest"], {"colour": ["odd", "even", "green"], "planet": ["mars"] * 3})
    assert np.linalg.norm(new[:, :-1], axis=1) == pytest.approx(1, abs=1e-6)
    odd = user_of([1, 3, 5])
    assert new[0] @ odd > 0.5 > new[1] @ odd
    assert np.array_equal(new[2:], FITTED.item_vectors(["?"], {}))


def test_popularity_stands_apart_from_taste() -> None:
    """Two tastes that never mix; within each, every second item is taken up four times as often."""
    rng = np.random.default_rng(3)
    chances = [0.8 if item % 4 < 2 else 0.2 for item in range(24)]
    fitting = [(user, item) for user in range(80) for item in range(24) if user % 2 == item % 2]
    seen = interactions([(f"u{user:02}", f"i{item:02}") for user, item in fitting if rng.random() < chances[item]])
    found = two_tower.fit(seen, item_sides={}, user_sides={}, settings=SMALL, seed=1)
    vectors = found.item_vectors(seen.items, {})
    popular, kind = np.arange(24) % 4 < 2, np.arange(24) % 2
    assert vectors[popular, -1].mean() > vectors[~popular, -1].mean() + 0.1
    likeness = two_tower.bare(vectors) @ vectors.T
    assert likeness == pytest.approx(vectors[:, :-1] @ vectors[:, :-1].T, abs=1e-6)
    assert likeness[kind == 0][:, kind == 0].mean() > likeness[kind == 0][:, kind == 1].mean() + 0.5
    reader = found.user_vector(vectors[[0, 4]], np.ones(2, np.float32), sides={})
    assert set(np.argsort(-(vectors @ reader))[:6]) == set(np.flatnonzero(popular & (kind == 0)))


def test_an_item_alone_and_among_others_gets_the_same_bits() -> None:
    for place, item in enumerate(FITTED.names.items):
        assert np.array_equal(FITTED.item_vectors([item], {"colour": COLOURS["colour"][place]})[0], VECTORS[place])
    assert FITTED.item_vectors([], {}).shape == (0, 8)


def test_weights_of_a_history_say_how_much_each_item_counts() -> None:
    both = VECTORS[[1, 2]]
    more_odd, more_even = (FITTED.user_vector(both, np.array(w, np.float32), sides={}) for w in ([9, 1], [1, 9]))
    assert more_odd @ VECTORS[3] > more_even @ VECTORS[3]
    assert more_even @ VECTORS[4] > more_odd @ VECTORS[4]


def test_the_same_seed_gives_the_same_bits_and_another_seed_others() -> None:
    again, other = fit(), fit(seed=2)
    for name, values in FITTED.params.items():
        assert again.params[name].tobytes() == values.tobytes()
        assert other.params[name].tobytes() != values.tobytes()


def test_users_with_one_item_and_no_sides_teach_as_well() -> None:
    seen = interactions([("a", "x"), ("b", "y"), ("c", "x")])
    found = two_tower.fit(seen, item_sides={}, user_sides={}, settings=msgspec.structs.replace(SMALL, epochs=200))
    vectors = found.item_vectors(("x", "y"), {})
    user = found.user_vector(vectors[:0], np.zeros(0, np.float32), sides={})
    assert user @ vectors[0] > user @ vectors[1]  # all that there is to learn is how popular they are


# ---- files ----


def test_saved_towers_give_the_same_bits(tmp_path: Path) -> None:
    FITTED.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["towers.json", "towers.npz"]
    again = two_tower.load(tmp_path)
    assert again.names == FITTED.names
    sides = {"colour": ["odd", "green"]}
    assert np.array_equal(again.item_vectors(["001", "new"], sides), FITTED.item_vectors(["001", "new"], sides))
    found = again.user_vector(VECTORS[[1, 3]], np.ones(2, np.float32), sides={"taste": ["odd"]})
    assert np.array_equal(found, user_of([1, 3], taste=["odd"]))


@pytest.mark.parametrize(
    ("arrays", "given"),
    [
        ({"ids": np.zeros((3, 8), np.float32)}, r"array 'ids' of shape \(3, 8\), where the names need \(40, 8\)"),
        ({"gate": np.full(8, np.inf, np.float32)}, r"array 'gate' with values that are not finite"),
        ({"mix": np.array([[print]])}, r"files that cannot be read \(ValueError\)"),
    ],
)
def test_damaged_arrays_are_named(tmp_path: Path, arrays: Params, given: str) -> None:
    FITTED.save(tmp_path)
    np.savez(tmp_path / "towers.npz", allow_pickle=True, **{**FITTED.params, **arrays})
    with pytest.raises(ModelError, match=rf"model files towers.npz and towers.json: {given}. Expected the two files"):
        two_tower.load(tmp_path)


@pytest.mark.parametrize("file", ["towers.npz", "towers.json"])
@pytest.mark.parametrize("content", [None, b"", b"{}"])
def test_damaged_files_are_named(tmp_path: Path, file: str, content: bytes | None) -> None:
    FITTED.save(tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(ModelError, match=r"towers.json: files that cannot be read .* Roll back with"):
        two_tower.load(tmp_path)
