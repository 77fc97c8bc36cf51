"""What models claim to know, without a label: relative entropy to their own mean, and how two compare."""

from __future__ import annotations

import numpy as np
import pytest

from decalog.errors import DataError
from decalog.statistics.claims import claimed, claims

ALONE = np.full(400, -1)


def test_a_prediction_apart_from_the_mean_claims_its_relative_entropy() -> None:
    found = claimed(np.array([[0.1], [0.3]]))
    assert found[0] == pytest.approx(0.1 * np.log(0.1 / 0.2) + 0.9 * np.log(0.9 / 0.8))
    assert found[1] == pytest.approx(0.3 * np.log(0.3 / 0.2) + 0.7 * np.log(0.7 / 0.8))


def test_heads_add_up() -> None:
    one = np.array([[0.1], [0.3], [0.4]])
    assert claimed(np.hstack([one, one])).tolist() == pytest.approx((2 * claimed(one)).tolist())


def test_certainty_is_finite() -> None:
    assert np.isfinite(claimed(np.array([[0.0], [1.0], [0.5]]))).all()


def test_a_model_that_claims_less_is_shown_to() -> None:
    rng = np.random.default_rng(3)
    now = rng.beta(1.0, 9.0, (400, 1))
    less = np.mean(now) + 0.4 * (now - np.mean(now))
    found = claims(now, less, people=ALONE)
    assert found is not None
    assert found.low < found.value < found.high < 0.4


def test_where_the_other_claims_nothing_there_is_no_share() -> None:
    assert claims(np.full((400, 1), 0.2), np.full((400, 1), 0.2), people=ALONE) is None


def test_people_are_one_a_row() -> None:
    with pytest.raises(DataError, match="claims, people"):
        claims(np.full((400, 1), 0.2), np.full((400, 1), 0.2), people=ALONE[1:])
