"""The blend: the mean of two models' log odds, the same bits after a load, alone and among others."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.models.training_sets import assert_same_bits_alone_and_among_others, draw_rows, training_set

from decalog.errors import ModelError
from decalog.models import blended, boosted, linear
from decalog.models.base import Floats
from decalog.models.blended import Blended
from decalog.models.boosted import BoostedParams
from decalog.models.formats import load_model

SMALL = BoostedParams(trees=30, leaves=7)


@pytest.fixture(scope="module")
def model() -> Blended:
    return blended.fit(training_set(), 1, params=SMALL)


def logits(p: Floats) -> Floats:
    return np.log(p / (1 - p))


@pytest.mark.parametrize("calibration", ["sigmoid", "isotonic"])
def test_it_is_the_mean_of_the_log_odds_of_both(calibration: str) -> None:
    params = msgspec.structs.replace(SMALL, calibration=calibration)
    rows = draw_rows(200, 2)
    line, trees = linear.fit_logistic(training_set(), 1), boosted.fit(training_set(), 1, params=params)
    both = blended.fit(training_set(), 1, params=params)
    expected = (logits(line.predict(rows)) + logits(trees.predict(rows))) / 2
    assert np.allclose(logits(both.predict(rows)), expected, atol=1e-9)
    assert_same_bits_alone_and_among_others(both, rows)


def test_contributions_add_up_to_its_log_odds(model: Blended) -> None:
    rows = draw_rows(50, 3)
    found = model.contributions(rows)
    assert found is not None
    assert np.allclose(found.sum(axis=1), logits(model.predict(rows)), atol=1e-9)
    curve = blended.fit(training_set(), 1, params=msgspec.structs.replace(SMALL, calibration="isotonic"))
    assert curve.contributions(rows) is None


def test_a_loaded_model_predicts_the_same_bits(model: Blended, tmp_path: Path) -> None:
    settings = msgspec.json.decode(msgspec.json.encode(model.save(tmp_path)))
    again = load_model("blended", tmp_path, settings=settings)
    rows = draw_rows(100, 4)
    assert again.predict(rows).tobytes() == model.predict(rows).tobytes()


def test_another_model_in_the_place_of_the_line_is_refused(model: Blended, tmp_path: Path) -> None:
    settings = model.save(tmp_path)
    linear.fit_prior(training_set(), 1).save(tmp_path)
    with pytest.raises(ModelError, match="a prior") as caught:
        blended.load(tmp_path, settings)
    assert "Expected a logistic regression" in str(caught.value)
