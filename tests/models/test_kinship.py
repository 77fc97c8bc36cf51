"""Kinship: what the same readers take up and choose is kin, also beyond what was taken up together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from decalog.errors import ModelError
from decalog.models import kinship
from decalog.models.kinship import Kinship

SUBJECTS = ("tea", "cake", "go", "chess")


def town(readers: int = 400, shown: int = 30, seed: int = 5) -> Kinship:
    """Half of the readers like tea and cake, half go and chess: one of ten of what they like is opened, else of 20."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(readers), shown)
    about = rng.integers(0, 4, len(who))
    chance = np.where(about // 2 == who % 2, 0.3, 0.05)
    hits = (rng.random(len(who)) < chance).astype(np.float64)
    return kinship.fit(who, [SUBJECTS[subject] for subject in about], taken=hits)


def test_what_the_same_readers_take_up_is_kin() -> None:
    vectors = town().vectors(SUBJECTS)
    kin = vectors @ vectors.T
    assert np.allclose(np.diag(kin), 1.0), "every subject's likeness to itself is its variance, which is 1"
    assert min(kin[0, 1], kin[2, 3]) > 0.25
    assert max(kin[0, 2], kin[0, 3], kin[1, 2], kin[1, 3]) < -0.25


def test_what_readers_say_counts_where_little_was_shown() -> None:
    said = [(reader, SUBJECTS[reader % 2 * 2 + way], 1.0) for reader in range(40) for way in (0, 1)]
    hits, nobody = np.array([1.0, 0.0, np.nan]), np.array([0, 1, 2])
    found = kinship.fit(nobody, ["tea", "go", "mud"], taken=hits, said=[*said, (3, "", 1.0)])
    assert found.subjects == ("cake", "chess", "go", "tea"), "what is not known yet, or has no name, says nothing"
    kin = found.vectors(SUBJECTS) @ found.vectors(SUBJECTS).T
    assert kin[0, 1] > 0.8
    assert kin[0, 2] < 0


def test_a_subject_that_was_not_met_is_kin_to_none() -> None:
    assert not town().vectors(["mud", ""]).any()
    assert kinship.fit(np.zeros(1, np.int64), ["tea"], taken=np.array([np.nan])).vectors(["tea"]).shape == (
        1,
        kinship.DIM,
    )


def test_more_subjects_than_components_leave_noise_out() -> None:
    rng = np.random.default_rng(1)
    names = [f"s{number % 20}" for number in range(4_000)]
    found = kinship.fit(rng.integers(0, 100, 4_000), names, taken=rng.integers(0, 2, 4_000).astype(np.float64))
    assert found.vectors(names[:20]).shape == (20, kinship.DIM)


def test_it_comes_back_as_it_was_written_and_says_when_it_is_damaged(tmp_path: Path) -> None:
    made = town()
    made.save(tmp_path)
    found = kinship.load(tmp_path)
    assert found.subjects == made.subjects
    assert np.array_equal(found.vectors(SUBJECTS), made.vectors(SUBJECTS))
    (tmp_path / "kinship.npz").write_bytes(b"cut")
    with pytest.raises(ModelError, match="kinship"):
        kinship.load(tmp_path)
