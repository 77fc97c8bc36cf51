"""A regression over smoothed rates: little is near the mean, absences are told apart, and what it adds up is exact."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from decalog.models import heads, smoothed
from decalog.models.base import Floats
from decalog.models.formats import load_model
from decalog.models.heads import Heads, HeadsParams, HeadsTrainingSet
from decalog.models.smoothed import Rate, Settings, Smoothed

NAMES = ("clicks", "shown", "rate", "age", "far")
ABSENT = {"far": -2.0, "rate": -1.0}
RATES: Mapping[str, Rate] = {"rate": ("clicks", "shown")}
SLOTS = 10


def sigmoid(scores: Floats) -> Floats:
    return 1 / (1 + np.exp(-scores))


def drawn(count: int = 20_000, *, seed: int = 0) -> tuple[Floats, Floats]:
    """Returns rows of which each shows what a thing of a quality brought so far, and how likely it is taken up now."""
    rng = np.random.default_rng(seed)
    quality = rng.normal(-1.5, 0.8, count)
    shown = rng.integers(0, 40, count).astype(float)
    clicks = rng.binomial(shown.astype(int), sigmoid(quality)).astype(float)
    rate = np.where(shown > 0, clicks / np.maximum(shown, 1), -1.0)
    far = np.where(rng.random(count) < 0.3, -2.0, rng.normal(size=count))
    age = rng.exponential(100.0, count)
    chances = sigmoid(quality + np.where(far > -2.0, 0.5 * far, -0.5))
    return np.column_stack([clicks, shown, rate, age, far]), chances


def fitted(
    rows: Floats,
    labels: Floats,
    *,
    names: tuple[str, ...] = NAMES,
    rates: Mapping[str, Rate] = RATES,
    positions: npt.NDArray[np.int64] | None = None,
    own_l2: float = 1.0,
) -> Smoothed:
    places = np.zeros(len(rows), np.int64) if positions is None else positions
    settings = Settings(rates, ABSENT, 1.0, own_l2)
    return smoothed.fit(names, rows, labels=labels, positions=places, settings=settings)


def labelled(rows: Floats, chances: Floats) -> Floats:
    labels = (np.random.default_rng(1).random(len(rows)) < chances).astype(float)
    return np.column_stack([labels, np.full(len(rows), np.nan), np.zeros(len(rows))])


def test_a_rate_of_little_is_near_that_of_all_and_one_of_much_stands() -> None:
    rows, chances = drawn()
    model = fitted(rows, labelled(rows, chances))

    def p(clicks: float, shown: float) -> float:
        row = np.array([[clicks, shown, clicks / shown, 100.0, 0.0]])
        return float(sigmoid(model.logits(row))[0, 0])

    usual = chances.mean()
    assert abs(p(1, 1) - usual) < 0.4 * abs(p(39, 39) - usual)
    assert p(0, 39) < p(0, 1) < p(1, 1) < p(39, 39)
    assert p(8, 39) == pytest.approx(8 / 39, abs=0.05)


def test_it_ranks_better_than_a_regression_over_plain_quotients() -> None:
    rows, chances = drawn()
    labels = labelled(rows, chances)
    fresh, truth = drawn(seed=7)
    found = [fitted(rows, labels, rates=rates).logits(fresh)[:, 0] for rates in (RATES, {})]
    smooth, plain = (np.corrcoef(one, np.log(truth / (1 - truth)))[0, 1] for one in found)
    assert smooth > 0.78
    assert smooth > plain + 0.01


def test_what_is_absent_has_a_weight_of_its_own() -> None:
    rows, chances = drawn()
    model = fitted(rows, labelled(rows, chances))
    there, absent = rows[:1].copy(), rows[:1].copy()
    there[0, 4], absent[0, 4] = 0.0, -2.0
    gap = float((model.logits(there) - model.logits(absent))[0, 0])
    assert gap == pytest.approx(0.5, abs=0.12), "−2 lies on no line"


def test_a_head_without_both_labels_adds_nothing_and_a_constant_column_is_no_term() -> None:
    rows, chances = drawn(2_000)
    rows[:, 3] = 7.0
    model = fitted(rows, labelled(rows, chances))
    assert (model.logits(rows)[:, 1:] == 0).all()
    assert 3.0 not in {term[1] for term in model.terms}


def test_a_rare_head_leans_on_a_common_one_with_reasons_in_common() -> None:
    """Of 20,000 rows some hundred have the rare action, for the reasons of the other turned round."""
    rows, chances = drawn()
    noise = np.random.default_rng(2).normal(size=(len(rows), 30))
    names, wide = (*NAMES, *(f"noise {n}" for n in range(30))), np.column_stack([rows, noise])
    rare = sigmoid(-7.5 - np.log(chances / (1 - chances)))
    draws = np.random.default_rng(3).random((len(rows), 2))
    hits = (draws < np.column_stack([chances, rare])).astype(float)

    def likeness(labels: Floats) -> float:
        model = fitted(wide, labels, names=names, own_l2=1_000.0)
        return float(np.corrcoef(model.logits(wide)[:, -1], -np.log(chances / (1 - chances)))[0, 1])

    assert hits[:, 1].sum() < 150
    assert likeness(hits) > 0.75
    assert likeness(hits) > likeness(hits[:, 1:]) + 0.08


def test_the_position_is_fitted_beside_it_and_is_the_first_afterwards() -> None:
    rows, chances = drawn(40_000)
    positions = np.arange(len(rows)) % SLOTS
    lower = sigmoid(np.log(chances / (1 - chances)) - 0.6 * np.log1p(positions))
    labels = labelled(rows, lower)
    found = sigmoid(fitted(rows, labels, positions=positions).logits(rows))[:, 0]
    assert found.mean() == pytest.approx(chances.mean(), abs=0.02)


def test_contributions_add_up_and_a_row_alone_has_the_bits_that_it_has_among_others() -> None:
    rows, chances = drawn(3_000)
    model = fitted(rows, labelled(rows, chances))
    logits = model.logits(rows)
    assert model.contributions(rows, 0).sum(axis=1) == pytest.approx(logits[:, 0])
    alone = np.concatenate([model.logits(rows[place : place + 1]) for place in range(50)])
    assert alone.tobytes() == logits[:50].tobytes()


def slates(count: int = 2_000) -> HeadsTrainingSet:
    rows, chances = drawn(count * SLOTS)
    positions, groups = np.tile(np.arange(SLOTS), count), np.repeat(np.arange(count), SLOTS)
    labels = labelled(rows, chances)
    labels[:, 1] = np.arange(len(rows)) % 1_000 == 0
    return HeadsTrainingSet(NAMES, ("click", "like", "hide"), rows, labels, positions, groups * 1_000_000, groups)


def test_trees_start_from_it_and_what_is_kept_says_the_same(tmp_path: Path) -> None:
    params = HeadsParams(trees=40, rows_a_leaf=50, l2=20.0, rates=RATES, absent=ABSENT, calibration="sigmoid")
    plain = msgspec.structs.replace(params, rates={})
    data, (fresh, truth) = slates(), drawn(5_000, seed=7)
    model, apart = (heads.fit_heads(data, 1, params=one) for one in (params, plain))

    def fit(one: Heads) -> float:
        p = one.predict(fresh)[:, 0]
        return float(np.mean(truth * np.log(p) + (1 - truth) * np.log(1 - p)))

    assert fit(model) > fit(apart)
    assert model.described[0].trees < apart.described[0].trees, "little is left to trees"
    found = model.predict(fresh)
    assert found.mean(axis=0) == pytest.approx(data.labels.mean(axis=0), abs=0.02)
    told = model.contributions_to(fresh, "click")
    assert told is not None
    assert told.sum(axis=1) == pytest.approx(np.log(found[:, 0] / (1 - found[:, 0])))
    settings = msgspec.json.decode(msgspec.json.encode(model.save(tmp_path)))
    again = load_model("heads", tmp_path, settings=settings)
    assert again.predict(fresh).tobytes() == found.tobytes()
