"""Forests: bit for bit what LightGBM says, for rows on, beside and far from thresholds; what is damaged is named."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import lightgbm
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decalog.errors import ModelError
from decalog.models import forest
from decalog.models.base import Floats
from decalog.models.forest import Forest
from decalog.models.lightgbm_native import NativeBooster

FEATURES = 4
SHAPES = ("few", "ties", "tiny", "large")


@functools.cache
def booster(seed: int, leaves: int, *, trees: int = 5, shape: str = "few") -> lightgbm.Booster:
    """A small booster; the shape says how its features are spread."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(400, FEATURES))
    spread = {"few": rows, "ties": np.round(rows), "tiny": rows * 1e-34, "large": rows * 1e250}[shape]
    labels = (rng.random(400) < 1 / (1 + np.exp(-rows[:, 0] - rows[:, 1] * rows[:, 2]))).astype(np.float64)
    params = {"objective": "binary", "num_leaves": leaves, "min_data_in_leaf": 2, "learning_rate": 0.3}
    fixed = {"num_threads": 1, "verbosity": -1, "seed": seed, "min_data_in_bin": 1}
    return lightgbm.train(params | fixed, lightgbm.Dataset(spread, labels), trees)


def text_of(model: lightgbm.Booster) -> bytes:
    return str(model.model_to_string()).encode()


def raw(model: lightgbm.Booster, rows: Floats) -> Floats:
    return np.asarray(model.predict(rows, raw_score=True, num_threads=1), np.float64)


def thresholds(text: bytes) -> list[float]:
    found = re.findall(rb"^threshold=(.*)$", text, re.MULTILINE)
    return [float(word) for line in found for word in line.split()]


EXTREMES = (0.0, -0.0, 5e-324, -5e-324, 1e-35, -1e-35, 1.1e-35, 1e300, 1.7e308, -1.7e308)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.sampled_from([2, 3, 31, 32, 33, 64]), st.sampled_from(SHAPES)),
        min_size=1,
        max_size=3,
    ),
    st.data(),
)
def test_every_head_has_the_bits_of_lightgbm(kinds: list[tuple[int, int, str]], data: st.DataObject) -> None:
    models = [booster(seed, leaves, shape=shape) for seed, leaves, shape in kinds]
    asked = sorted({edge for model in models for edge in thresholds(text_of(model))})
    beside = [float(np.nextafter(edge, way)) for edge in asked for way in (-np.inf, np.inf)]
    value = st.sampled_from([*asked, *beside, *EXTREMES]) | st.floats(allow_nan=False, allow_infinity=False)
    drawn = data.draw(st.lists(st.lists(value, min_size=FEATURES, max_size=FEATURES), min_size=1, max_size=12))
    rows = np.array(drawn)
    found = Forest([text_of(model) for model in models]).scores(rows)
    assert found.tobytes() == np.column_stack([raw(model, rows) for model in models]).tobytes()
    native = [NativeBooster(text_of(model)).scores(rows) for model in models]
    assert found.tobytes() == np.column_stack(native).tobytes()


def test_more_rows_than_a_block_and_each_of_them_alone_have_the_same_bits() -> None:
    models = [booster(seed, 31, trees=30) for seed in range(3)]
    ranker = Forest([text_of(model) for model in models])
    rows = np.random.default_rng(1).normal(size=(600, FEATURES))
    found = ranker.scores(rows)
    assert found.tobytes() == np.column_stack([raw(model, rows) for model in models]).tobytes()
    alone = np.concatenate([ranker.scores(rows[place : place + 1]) for place in range(600)])
    assert alone.tobytes() == found.tobytes()
    assert ranker.scores(np.asfortranarray(rows)).tobytes() == found.tobytes()
    assert ranker.scores(rows[:0]).shape == (0, 3)
    for shift in (0, 3):
        buffer = bytes(shift) + rows.tobytes()
        foreign = np.frombuffer(buffer, np.float64, offset=shift).reshape(rows.shape)
        assert ranker.scores(foreign).tobytes() == found.tobytes()
    assert (ranker.trees, ranker.width) == ((30, 30, 30), FEATURES)


def test_trees_of_one_leaf_and_heads_without_trees_add_what_lightgbm_adds() -> None:
    rows = np.random.default_rng(0).normal(size=(50, FEATURES))
    fixed = {"objective": "binary", "verbosity": -1, "num_threads": 1, "min_data_in_leaf": 1_000}
    stump = lightgbm.train(fixed, lightgbm.Dataset(rows, (np.arange(50) % 3 == 0).astype(float)), 3)
    ordinary = booster(1, 7)
    found = Forest([text_of(stump), text_of(ordinary)]).scores(rows)
    assert found.tobytes() == np.column_stack([raw(stump, rows), raw(ordinary, rows)]).tobytes()
    assert len(np.unique(found[:, 0])) == 1


def test_a_threshold_closer_to_zero_than_lightgbm_looks_is_met_by_zero() -> None:
    model = booster(3, 2, trees=1)
    text = re.sub(rb"threshold=.*", b"threshold=-9e-36", text_of(model))
    changed = lightgbm.Booster(model_str=text.decode())
    column = int(re.findall(rb"split_feature=(\d+)", text)[0])
    rows = np.zeros((4, FEATURES))
    rows[:, column] = [-9.5e-36, -8e-36, -2e-35, 0.0]
    found = Forest([text]).scores(rows)[:, 0]
    assert found.tobytes() == raw(changed, rows).tobytes()
    assert found[0] == found[3] != found[2]


def test_uncompiled_it_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    models = [booster(seed, 9, trees=3) for seed in range(2)]
    texts, rows = [text_of(model) for model in models], np.random.default_rng(2).normal(size=(20, FEATURES))
    compiled = Forest(texts).scores(rows)
    forest._scorer.cache_clear()
    monkeypatch.setenv("DECALOG_NO_NUMBA", "1")
    for name in ("_binned", "_halve", "_drop", "_add"):
        monkeypatch.setattr(forest, name, getattr(getattr(forest, name), "py_func", getattr(forest, name)))
    try:
        assert Forest(texts).scores(rows).tobytes() == compiled.tobytes()
    finally:
        forest._scorer.cache_clear()


def replaced(old: str, new: str) -> Callable[[str], str]:
    return lambda text: re.sub(old, new, text, count=1, flags=re.MULTILINE)


DAMAGE: list[tuple[Callable[[str], str], str]] = [
    (lambda text: "", r"a text of 0 bytes that is cut or has lost trees"),
    (lambda text: text[: len(text) // 3], r"a text of \d+ bytes that is cut or has lost trees"),
    (replaced(r"^Tree=0\n", "Tree\n"), r"is cut or has lost trees"),
    (replaced("num_tree_per_iteration=1", "num_tree_per_iteration=3"), r"a booster of several classes, or one that"),
    (replaced("^label_index", "average_output\nlabel_index"), r"or one that averages its trees"),
    (replaced("^threshold=.*$", ""), r"a tree that cannot be read \(KeyError\)"),
    (replaced("^threshold=.", "threshold=x"), r"a tree that cannot be read \(ValueError\)"),
    (replaced("^threshold=[^ ]+", "threshold=nan"), r"a tree that cannot be read \(ValueError\)"),
    (replaced("^threshold=[^ ]+ ", "threshold="), r"a tree that cannot be read \(its lines do not fit each other\)"),
    (replaced("^leaf_value=[^ ]+ ", "leaf_value="), r"a tree that cannot be read \(its lines do not fit each other\)"),
    (
        replaced("^split_feature=[^ ]+", "split_feature=99"),
        r"a tree that cannot be read \(its lines do not fit each other\)",
    ),
    (
        replaced("^split_feature=[^ ]+", "split_feature=-1"),
        r"a tree that cannot be read \(its lines do not fit each other\)",
    ),
    (replaced("^left_child=[^ ]+", "left_child=0"), r"a tree that cannot be read \(its lines do not fit each other\)"),
    (replaced("^left_child=[^ ]+", "left_child=99"), r"a tree that cannot be read \(its lines do not fit each other\)"),
    (replaced("^num_leaves=.*$", "num_leaves=0"), r"a tree of 0 leaves"),
    (replaced("^num_leaves=.*$", "num_leaves=65"), r"a tree of 65 leaves. Expected .* at most 64 of them in a tree"),
    (replaced("^decision_type=[^ ]+", "decision_type=1"), r"a split on categories, or on zero as missing"),
    (replaced("^decision_type=[^ ]+", "decision_type=6"), r"a split on categories, or on zero as missing"),
    (replaced("^is_linear=0", "is_linear=1"), r"linear leaves"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_what_is_damaged_or_not_supported_is_named(damage: Callable[[str], str], message: str) -> None:
    whole = text_of(booster(5, 8)).decode()
    with pytest.raises(ModelError, match=rf"forest: .*{message}"):
        Forest([damage(whole).encode()])


def test_a_tree_whose_root_does_not_reach_all_of_it_is_named() -> None:
    text = text_of(booster(5, 4, trees=1)).decode()
    fields: dict[str, Any] = {"left_child": "-1 2 1", "right_child": "-2 -3 -4"}
    for name, words in fields.items():
        text = re.sub(rf"^{name}=.*$", f"{name}={words}", text, flags=re.MULTILINE)
    with pytest.raises(ModelError, match=r"forest: a tree with nodes that its root does not reach"):
        Forest([text.encode()])


def test_heads_have_to_share_their_features() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 2))
    narrow = lightgbm.train({"verbosity": -1}, lightgbm.Dataset(rows, rows[:, 0]), 1)
    with pytest.raises(ModelError, match=r"forest: heads over 4, 2 features. Expected .* over the same features"):
        Forest([text_of(booster(5, 8)), text_of(narrow)])
    with pytest.raises(ModelError, match=r"forest: heads over no features"):
        Forest([])


def test_more_thresholds_than_bins_can_count_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forest, "_MOST_BINS", 2)
    with pytest.raises(ModelError, match=r"forest: \d+ thresholds of one feature"):
        Forest([text_of(booster(5, 8))])


def test_rows_of_another_width_or_without_end_are_refused() -> None:
    ranker = Forest([text_of(booster(5, 8))])
    with pytest.raises(ModelError, match=r"prediction: an array of shape \(2, 3\). Expected rows × 4 features"):
        ranker.scores(np.zeros((2, 3)))
    with pytest.raises(ModelError, match=r"prediction: a feature that is NaN or infinite"):
        ranker.scores(np.full((1, FEATURES), np.inf))
