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
from decalog.models.quantities import SHAPE_FILE, QuantityModel, QuantityParams, Shape, spread

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
    model = QuantityModel(b"", Shape(scale=2.0, typical=3.0, k=5.0), PLAIN, ("rate", "wide_rate", "days", "promoted"))
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
