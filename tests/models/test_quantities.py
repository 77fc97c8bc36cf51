from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from decalog.errors import DataError, ModelError
from decalog.models import quantities
from decalog.models.base import QuantitySet
from decalog.models.formats import load_model
from decalog.models.quantities import SHAPE_FILE, Age, QuantityModel, QuantityParams, Shape, Young, spread

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
PLAIN = QuantityParams(level=("rate", "wide_rate"), exposure="days", levels=LEVELS)
GROWN = msgspec.structs.replace(PLAIN, trees=60, leaves=4, learning_rate=0.2, rows_a_leaf=20, feature_share=1.0)


def data(n: int = 4_000, *, seed: int = 0, k: float = 5.0, **more: Any) -> QuantitySet:
    """Returns negative binomial counts around rate · days · 10, twice as many on promoted days."""
    rng = np.random.default_rng(seed)
    rate, days = np.exp(rng.normal(0, 1, n)), rng.integers(1, 5, n).astype(np.float64)
    promoted = (rng.random(n) < 0.2).astype(np.float64)
    mean = 10 * rate * days * (1 + promoted)
    came = rng.poisson(mean * rng.gamma(k, 1 / k, n)).astype(np.float64)
    columns: dict[str, Any] = {
        "rows": np.column_stack([rate, rate, days, promoted]),
        "labels": came,
        "bounds": np.zeros(n, np.bool_),
        "expected": came,
        "drawn": came,
        "times": np.arange(n),
        "groups": np.arange(n),
    }
    return QuantitySet(names=("rate", "wide_rate", "days", "promoted"), **(columns | more))


def test_trees_learn_what_moves_all_levels_alike() -> None:
    train, test = data(), data(seed=1)
    errors = {}
    for name, params in (("plain", PLAIN), ("grown", GROWN)):
        mean = quantities.fit(train, 0, params=params).predict(test.rows)[:, 0]
        promoted = test.rows[:, 3] > 0
        errors[name] = float(mean[promoted].sum() / test.labels[promoted].sum() - 1)
    assert errors["plain"] < -0.3
    assert abs(errors["grown"]) < 0.05


@pytest.mark.parametrize("k", [2.0, 20.0])
def test_quantiles_hold_what_they_say_at_each_size(k: float) -> None:
    model, test = quantities.fit(data(8_000, k=k), 0, params=GROWN), data(8_000, seed=1, k=k)
    said = model.predict(test.rows)
    assert (np.diff(said[:, 1:], axis=1) >= 0).all()
    small = said[:, 0] < np.median(said[:, 0])
    for rows in (small, ~small):
        # A count stands for the numbers that round to it.
        begin, end = np.maximum(test.labels - 0.5, 0), test.labels + 0.5
        inside = np.maximum(np.minimum(end, said[:, 5]) - np.maximum(begin, said[:, 1]), 0) / (end - begin)
        assert float(inside[rows].mean()) == pytest.approx(0.9, abs=0.03)


def test_bounds_taken_as_told_are_learnt_too_low() -> None:
    plain = data()
    cut = np.minimum(plain.labels, 15.0)
    told = msgspec.structs.replace(plain, labels=cut)
    honest, naive = (
        quantities.fit(told, 0, params=msgspec.structs.replace(GROWN, is_as_told=one)).predict(told.rows)[:, 0].sum()
        for one in (False, True)
    )
    assert naive < 0.6 * honest


def test_a_level_that_is_not_there_falls_to_the_next_and_then_to_what_is_typical() -> None:
    model = QuantityModel(
        b"", Shape(scale=2.0, typical=3.0, k=5.0), params=PLAIN, names=("rate", "wide_rate", "days", "promoted")
    )
    rows = np.array([[1.0, 9.0, 2.0, 0.0], [-1.0, 9.0, 2.0, 0.0], [-1.0, 0.0, 2.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    assert model.predict(rows)[:, 0].tolist() == [4.0, 36.0, 12.0, 0.0]
    assert model.predict(rows)[3].tolist() == [0.0] * 6


def test_the_same_bits_for_a_row_alone_and_after_a_round_trip(tmp_path: Path) -> None:
    train = data(2_000)
    model = quantities.fit(train, 3, params=GROWN)
    settings = model.save(tmp_path)
    loaded = load_model(quantities.FORMAT, tmp_path, settings=settings)
    together = model.predict(train.rows[:50])
    assert np.array_equal(loaded.predict(train.rows[:50]), together)
    assert np.array_equal(np.vstack([model.predict(row[None, :]) for row in train.rows[:50]]), together)
    (tmp_path / "again").mkdir()
    quantities.fit(train, 3, params=GROWN).save(tmp_path / "again")
    assert (tmp_path / "again" / SHAPE_FILE).read_bytes() == (tmp_path / SHAPE_FILE).read_bytes()
    assert (tmp_path / "again" / "model.txt").read_bytes() == (tmp_path / "model.txt").read_bytes()


def test_what_is_damaged_is_refused(tmp_path: Path) -> None:
    settings = quantities.fit(data(500), 0, params=GROWN).save(tmp_path)
    (tmp_path / "model.txt").write_bytes(b"tree")
    with pytest.raises(ModelError, match="do not fit the hash"):
        quantities.load(tmp_path, settings)
    (tmp_path / SHAPE_FILE).write_text("{}")
    with pytest.raises(ModelError, match=f"model file {SHAPE_FILE}"):
        quantities.load(tmp_path, settings)


def test_nothing_above_0_is_nothing_to_learn_from() -> None:
    none = data(100, expected=np.zeros(100), drawn=np.zeros(100), labels=np.zeros(100))
    with pytest.raises(DataError, match="100 requests, of which nothing above 0 is known before the latest 20%"):
        quantities.fit(none, 0, params=PLAIN)


def test_the_spread_has_the_mean_and_the_variance_that_it_is_for() -> None:
    mean = np.array([0.5, 40.0])
    shape, scale = spread(mean, 4.0)
    assert shape * scale == pytest.approx(mean)
    assert shape * scale**2 == pytest.approx(mean + mean**2 / 4)


YOUNG = Young(
    like="like",
    rate="rate",
    exposed="age",
    weight=2.0,
    until=10.0,
    hidden={"rate": -1.0, "age": 0.0},
    ages=(Age(), Age(exposed=4.0, rate="late_rate", known=("late_rate",))),
)
LIKED = msgspec.structs.replace(GROWN, level=("rate", "wide_rate"), young=YOUNG)


def liked(n: int = 6_000, *, seed: int = 0, new: bool = False, said: bool = True) -> QuantitySet:
    """Returns counts of things whose likes sell half as much, give or take; new ones have no past of their own."""
    rng = np.random.default_rng(seed)
    rate, days = np.exp(rng.normal(0, 1, n)), rng.integers(1, 5, n).astype(np.float64)
    like = rate * np.exp(rng.normal(0, 0.3, n)) / 2
    came = rng.poisson(10 * rate * days * rng.gamma(5, 0.2, n)).astype(np.float64)
    own = np.full(n, -1.0) if new else rate
    columns = [own, np.full(n, 1.0), days, own, like if said else np.full(n, -1.0), np.full(n, 0.0 if new else 50.0)]
    names = ("rate", "wide_rate", "days", "late_rate", "like", "age")
    plain = data(n)
    return msgspec.structs.replace(
        plain, names=names, rows=np.column_stack(columns), labels=came, expected=came, drawn=came
    )


def test_what_has_no_past_is_forecast_by_its_like_and_held_by_its_intervals() -> None:
    train, test = liked(), liked(seed=1, new=True)
    told = quantities.fit(train, 0, params=LIKED)
    said = told.predict(test.rows)
    bare = quantities.fit(train, 0, params=msgspec.structs.replace(LIKED, young=None)).predict(test.rows)
    assert told.youth is not None
    assert told.youth.shape.like == pytest.approx(2.0, rel=0.1)
    assert abs(said[:, 0].sum() / test.labels.sum() - 1) < 0.1
    assert np.abs(said[:, 0] - test.labels).mean() < 0.7 * np.abs(bare[:, 0] - test.labels).mean()
    inside = (test.labels >= said[:, 1] - 0.5) & (test.labels <= said[:, 5] + 0.5)
    assert 0.85 < inside.mean() < 0.95


def test_a_past_of_its_own_counts_more_the_longer_it_is() -> None:
    model = quantities.fit(liked(), 0, params=LIKED)
    ages = np.array([0.0, 1.0, 4.0, 9.0, 10.0])
    rows = np.column_stack([np.full(5, 4.0), np.ones(5), np.ones(5), np.full(5, 4.0), np.full(5, 1.0), ages])
    assert model.is_young(rows).tolist() == [True, True, True, True, False]
    youth = model.youth
    assert youth is not None
    levels, ratio = youth.base(rows), youth.shape.like
    assert levels[0] == pytest.approx(ratio)
    assert np.all(np.diff(levels) > 0)
    assert levels[1] == pytest.approx((4.0 + 2 * ratio) / 3)
    unsold = np.where(np.arange(6) == 0, -1.0, rows[2])[None]
    assert youth.base(unsold)[0] == pytest.approx(ratio), "a past that says nothing counts for nothing"
    added = model.contributions(rows).sum(axis=1)
    assert np.exp(added) == pytest.approx(model.mean(rows))


def test_what_has_a_past_keeps_its_bits_beside_what_has_none() -> None:
    train = liked()
    with_, without = (
        quantities.fit(train, 0, params=msgspec.structs.replace(LIKED, young=one)) for one in (YOUNG, None)
    )
    bare = quantities.fit(
        train, 0, params=msgspec.structs.replace(LIKED, young=msgspec.structs.replace(YOUNG, least=10**6))
    )
    assert bare.youth is None
    assert np.array_equal(with_.predict(train.rows), bare.predict(train.rows))
    assert without.youth is None


def test_where_nothing_names_a_like_nothing_changes() -> None:
    train = liked(said=False)
    names = tuple(name for name in train.names if name != "like")
    kept = [train.names.index(name) for name in names]
    plain = msgspec.structs.replace(train, names=names, rows=np.ascontiguousarray(train.rows[:, kept]))
    with_, without = quantities.fit(train, 0, params=LIKED), quantities.fit(plain, 0, params=GROWN)
    assert np.array_equal(with_.predict(train.rows), without.predict(plain.rows))
    assert with_.shape == without.shape
    assert with_.youth is None


def test_a_model_of_likes_is_the_same_once_it_is_read(tmp_path: Path) -> None:
    made, rows = quantities.fit(liked(), 0, params=LIKED), liked(new=True).rows
    read = quantities.load(tmp_path, made.save(tmp_path))
    assert np.array_equal(read.predict(rows), made.predict(rows))
    assert np.array_equal(read.predict(rows[5:6]), made.predict(rows)[5:6]), "alone or among others"
