"""The intervals that fraud's quality benchmarks print."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from decalog import metrics

ROOT = Path(__file__).resolve().parent.parent


def bench(path: str) -> ModuleType:
    """Returns a module of the benchmarks, which are scripts and no package."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / "bench" / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


paired = bench("quality/paired.py")


def average_precision(labels: metrics.Floats, predictions: metrics.Floats, weights: metrics.Floats) -> float:
    return metrics.average_precision(labels, predictions, weights=weights)


def part(seed: int) -> object:
    rng = np.random.default_rng(seed)
    labels = (rng.random(2_000) < 0.1).astype(np.float64)
    good = labels + rng.normal(0, 0.5, 2_000)
    predictions = {"good": good, "same": good.copy(), "noise": rng.normal(0, 1, 2_000)}
    return paired.Part(labels, np.arange(2_000) // 300, predictions)


def test_a_better_model_gains_and_its_own_copy_gains_nothing() -> None:
    gains = paired.over_blocks([part(1), part(2)], average_precision, ours="good", others=("same", "noise"), repeats=50)
    assert (gains["same"].value, gains["same"].low, gains["same"].high) == (0, 0, 0)
    assert 0.5 < gains["noise"].low < gains["noise"].value < gains["noise"].high
    assert gains["noise"].n == 4_000


def test_the_gain_is_the_mean_of_the_parts_own_gains() -> None:
    parts = [part(1), part(2)]
    own = [paired.over_blocks([one], average_precision, ours="good", others=("noise",), repeats=2) for one in parts]
    both = paired.over_blocks(parts, average_precision, ours="good", others=("noise",), repeats=2)
    assert both["noise"].value == pytest.approx((own[0]["noise"].value + own[1]["noise"].value) / 2)


def test_blocks_are_drawn_whole() -> None:
    blocks = np.arange(2_000) // 300
    weights = part(1).weights(np.random.default_rng(3))  # type: ignore[attr-defined]
    assert len(np.unique(blocks)) == 7
    assert all(len(np.unique(weights[blocks == block])) == 1 for block in range(7))
    assert sum(weights[blocks == block][0] for block in range(7)) == 7


def test_an_interval_over_units_holds_their_mean() -> None:
    found = paired.over_units([0.7, 0.8, 0.9])
    assert found.value == pytest.approx(0.8)
    assert (found.low, found.high, found.n) == (pytest.approx(0.7), pytest.approx(0.9), 3)
