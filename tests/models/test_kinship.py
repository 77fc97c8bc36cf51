"""Kinship: what the same readers take up and choose is kin, also beyond what was taken up together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from decalog.errors import ModelError
from decalog.models import kinship
from decalog.models.kinship import Kinship, liking

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


NOTHING = (0.0, 0.0, 0.0, 0.0)


def believed(
    *, looked: Sequence[float] = NOTHING, taken: Sequence[float] = NOTHING, said: Sequence[float] = NOTHING
) -> Any:
    """Returns what is believed of somebody, tea, cake, go and chess in order."""
    vectors = town().vectors(SUBJECTS)
    return liking(vectors, looked=np.array(looked), taken=np.array(taken), said=np.array(said))


def test_of_somebody_new_nothing_is_believed() -> None:
    assert not believed().any()


def test_what_was_taken_up_speaks_for_its_kin_and_against_the_others() -> None:
    tea, cake, go, chess = believed(looked=(10, 0, 0, 0), taken=(6, 0, 0, 0))
    assert tea > cake > 0.1
    assert max(go, chess) < -0.1


def test_what_was_looked_at_and_left_speaks_against_it() -> None:
    tea, _, go, _ = believed(looked=(20, 0, 20, 0), taken=(0, 0, 6, 0))
    assert tea < 0 < go
    more = believed(looked=(20, 0, 60, 0), taken=(0, 0, 6, 0))
    assert more[2] < go, "the same of more is less"


def test_a_belief_grows_surer_and_ends_at_what_was_seen() -> None:
    few, many, most = (
        believed(looked=(n, n, n, n), taken=(0.3 * n, 0.3 * n, 0.1 * n, 0.1 * n)) for n in (10, 100, 10_000)
    )
    assert 0 < few[0] < many[0]
    assert 0 > few[2] > many[2]
    # Half as much again as the mean of .2, and half: expanded once about the usual rate, so 1.5 - 1 and 0.5 - 1.
    assert most == pytest.approx([0.5, 0.5, -0.5, -0.5], abs=0.01)


def test_what_somebody_says_counts_as_so_much_taken_up() -> None:
    tea, cake, go, _ = believed(said=(6, 0, 0, 0))
    assert tea > cake > 0 > go
    assert believed(said=(12, 0, 0, 0))[0] > tea


def test_of_a_subject_that_is_kin_to_none_nothing_is_believed() -> None:
    vectors = np.vstack([town().vectors(SUBJECTS), np.zeros(kinship.DIM)])
    looked, taken = np.array([5.0, 5, 5, 5, 50]), np.array([2.0, 0, 0, 0, 40])
    said = np.array([6.0, 0, 0, 0, 0])
    known = liking(vectors, looked=looked, taken=taken, said=said)
    assert known[4] == 0.0
    said[4] = 60.0
    assert liking(vectors, looked=looked, taken=taken, said=said).tolist() == known.tolist(), "nor of others by it"


def test_it_comes_back_as_it_was_written_and_says_when_it_is_damaged(tmp_path: Path) -> None:
    made = town()
    made.save(tmp_path)
    found = kinship.load(tmp_path)
    assert found.subjects == made.subjects
    assert np.array_equal(found.vectors(SUBJECTS), made.vectors(SUBJECTS))
    (tmp_path / "kinship.npz").write_bytes(b"cut")
    with pytest.raises(ModelError, match="kinship"):
        kinship.load(tmp_path)
