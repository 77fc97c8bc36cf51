"""The split by hash of the benchmarks of retrieval."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
SPEC = importlib.util.spec_from_file_location("splits", ROOT / "bench" / "quality" / "splits.py")
assert SPEC
assert SPEC.loader
splits = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(splits)


def test_a_split_by_hash_is_even_and_always_the_same() -> None:
    users, items = (grid.ravel() for grid in np.mgrid[:300, :300])
    shares = splits.hashed_share(users, items)
    assert np.array_equal(shares[::-1], splits.hashed_share(users[::-1], items[::-1]))
    assert np.histogram(shares, 10, (0, 1))[0] == pytest.approx(9_000, rel=0.05)
    by_user = (shares < 0.2).reshape(300, 300)
    assert np.abs(by_user.mean(axis=0) - 0.2).max() < 0.1
    assert np.abs(by_user.mean(axis=1) - 0.2).max() < 0.1
