"""Where trees part rows, and whether they part others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tests.models.training_sets import NAMES, draw_rows, training_set

from decalog.models import boosted, linear
from decalog.models.base import Floats
from decalog.models.boosted import Boosted, BoostedParams
from decalog.models.splits import LEAST_SIDE, Splits, splits_of


@pytest.fixture(scope="module")
def model() -> Boosted:
    return boosted.fit(training_set(), 1, params=BoostedParams(trees=40))


def unmet(model: Boosted, rows: Floats) -> dict[str, float]:
    splits = splits_of(model)
    assert splits is not None
    return {NAMES[place]: share for place, share in splits.unmet(rows).items()}


def nodes(tree: dict[str, Any]) -> Iterator[tuple[int, float, float]]:
    if "split_feature" in tree:
        yield tree["split_feature"], tree["threshold"], tree["split_gain"]
        yield from (*nodes(tree["left_child"]), *nodes(tree["right_child"]))


def test_splits_are_those_of_lightgbm(model: Boosted) -> None:
    import lightgbm

    told = lightgbm.Booster(model_str=model.texts[0].decode()).dump_model()["tree_info"]
    theirs = np.array(sorted(node for tree in told for node in nodes(tree["tree_structure"])))
    splits = splits_of(model)
    assert splits is not None
    ours = np.array(sorted(zip(splits.columns, splits.thresholds, splits.shares, strict=True)))
    np.testing.assert_array_equal(ours[:, :2], theirs[:, :2])
    np.testing.assert_allclose(ours[:, 2], theirs[:, 2] / theirs[:, 2].sum(), rtol=1e-4)


def test_rows_of_the_same_kind_are_parted_and_others_are_not(model: Boosted) -> None:
    rows = draw_rows(2_000, seed=9)
    assert unmet(model, rows) == {}
    same = rows.copy()
    same[:, 0] = 50.0  # as a weekday in one night
    assert unmet(model, same) == {}
    far = unmet(model, rows + np.array([50.0, 0.0, 0.0, 50.0]))  # one never said anything
    assert list(far) == ["amount"]
    assert 0.4 < far["amount"] < 0.9
    assert sum(unmet(model, rows + 50.0).values()) == pytest.approx(1.0)


@pytest.mark.parametrize(("few", "is_unmet"), [(2, True), (20, False)])
def test_a_row_or_two_do_not_count(few: int, is_unmet: bool) -> None:
    splits = Splits(np.array([0]), np.array([0.5]), np.array([1.0]))
    rows = np.linspace(0.0, 0.4, 1_000)[:, None]
    rows[:few] = 1.0
    assert LEAST_SIDE * len(rows) == 5
    assert splits.unmet(rows) == ({0: 1.0} if is_unmet else {})
    assert splits.unmet(1.0 - rows) == ({0: 1.0} if is_unmet else {})


def test_most_of_what_a_feature_gained_counts() -> None:
    splits = Splits(np.array([0, 0, 1]), np.array([0.5, 9.0, 0.5]), np.array([0.3, 0.2, 0.5]))
    rows = np.array([[0.0, 0.0], [1.0, 1.0]] * 100)
    assert splits.unmet(rows) == {}
    assert splits._replace(shares=np.array([0.2, 0.3, 0.5])).unmet(rows) == {0: 0.5}


def test_heads_count_alike() -> None:
    class TwoHeads:
        texts = (
            b"split_feature=0\nsplit_gain=1000\nthreshold=0.5\n",
            b"split_feature=1 0\nsplit_gain=3 1\nthreshold=0.5 9\nend",
            b"leaf_value=0",  # a head of one leaf
        )

    splits = splits_of(TwoHeads())
    assert splits is not None
    assert splits.shares.tolist() == [0.5, 0.375, 0.125]


def test_a_model_without_trees_has_none() -> None:
    assert splits_of(linear.fit_prior(training_set(100), 1)) is None
