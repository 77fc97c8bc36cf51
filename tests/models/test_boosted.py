"""Boosted trees: bytes repeat, bits equal LightGBM's own, damage is named before native code sees it."""

from __future__ import annotations

import subprocess
import sys
import types
from functools import partial
from pathlib import Path

import lightgbm
import msgspec
import numpy as np
import pytest
from tests.models.training_sets import NAMES, assert_same_bits_alone_and_among_others, draw_rows, training_set, truth

from decalog.errors import ConfigError, DataError, ModelError
from decalog.metrics import log_loss
from decalog.models import boosted, lightgbm_native, linear
from decalog.models.base import Floats
from decalog.models.boosted import Boosted, BoostedParams

SMALL = BoostedParams(trees=40, leaves=7)


@pytest.fixture(scope="module")
def model() -> Boosted:
    return boosted.fit(training_set(), 1, params=SMALL)


def files(model: Boosted, folder: Path) -> dict[str, bytes]:
    folder.mkdir()
    model.save(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_inputs_and_seed_give_the_same_bytes_and_another_seed_others(model: Boosted, tmp_path: Path) -> None:
    first = files(model, tmp_path / "first")
    assert set(first) == {"model.txt", "calibration.json"}
    assert files(boosted.fit(training_set(), 1, params=SMALL), tmp_path / "again") == first
    assert files(boosted.fit(training_set(), 2, params=SMALL), tmp_path / "other") != first


def test_scores_are_lightgbms_own_bit_for_bit(model: Boosted, tmp_path: Path) -> None:
    text = files(model, tmp_path / "model")["model.txt"].decode()
    rows = np.concatenate([draw_rows(300, 5), np.zeros((1, 4)), np.full((1, 4), 1e300), np.full((1, 4), -1e300)])
    reference = lightgbm.Booster(model_str=text).predict(rows, raw_score=True, num_threads=1)
    assert model.scores(rows).tobytes() == np.asarray(reference).tobytes()
    alone = np.array([model.scores(rows[i : i + 1])[0] for i in range(len(rows))])
    assert alone.tobytes() == np.asarray(reference).tobytes()


def test_a_row_alone_and_among_others_gets_the_same_bits(model: Boosted) -> None:
    assert_same_bits_alone_and_among_others(model, draw_rows(200, 3))


def test_a_loaded_model_predicts_the_same_bits(model: Boosted, tmp_path: Path) -> None:
    settings = msgspec.json.decode(msgspec.json.encode(model.save(tmp_path)))
    again = boosted.load(tmp_path, settings)
    rows = draw_rows(100, 4)
    assert again.predict(rows).tobytes() == model.predict(rows).tobytes()
    (tmp_path / "copy").mkdir()
    assert msgspec.json.decode(msgspec.json.encode(again.save(tmp_path / "copy"))) == settings


def test_loading_and_scoring_never_import_lightgbms_package(model: Boosted, tmp_path: Path) -> None:
    settings = model.save(tmp_path)
    program = (
        "import json, pathlib, sys, numpy; from decalog.models.formats import load_model\n"
        "folder, settings = sys.argv[1:]\n"
        "model = load_model('lightgbm', pathlib.Path(folder), settings=json.loads(settings))\n"
        "heavy = sorted({'lightgbm', 'onnxruntime', 'scipy'} & set(sys.modules))\n"
        "print(model.predict(numpy.zeros((1, 4)))[0].hex(), heavy)"
    )
    arguments = [sys.executable, "-c", program, str(tmp_path), msgspec.json.encode(settings).decode()]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stdout == f"{float(model.predict(np.zeros((1, 4)))[0]).hex()} []\n"
    assert done.stderr == ""


@pytest.mark.parametrize("form", ["sigmoid", "isotonic"])
def test_predictions_are_calibrated_and_beat_the_baselines(form: str) -> None:
    params = msgspec.convert({"trees": 200, "leaves": 7, "calibration": form}, BoostedParams)
    data, fresh = training_set(20_000), training_set(5_000, seed=50)
    found = boosted.fit(data, 1, params=params).predict(fresh.rows)
    assert np.max(np.abs(np.quantile(found, [0.1, 0.5, 0.9]) - np.quantile(truth(fresh.rows), [0.1, 0.5, 0.9]))) < 0.05
    assert np.mean(found) == pytest.approx(np.mean(truth(fresh.rows)), abs=0.02)
    for fit in (linear.fit_prior, partial(linear.fit_threshold, column="amount")):
        assert log_loss(fresh.labels, found) < log_loss(fresh.labels, fit(data, 1).predict(fresh.rows)) - 0.02
    assert log_loss(fresh.labels, found) > log_loss(fresh.labels, truth(fresh.rows))


def test_across_parts_the_level_is_that_of_all_of_them() -> None:
    """In the latest fifth every label is 0, by chance or for want of news: that alone would set the level."""
    data = training_set(8_000)
    quiet = np.where(np.arange(8_000) < 6_400, data.labels, 0.0)
    data = msgspec.structs.replace(data, labels=quiet)
    late, across = (
        float(np.mean(boosted.fit(data, 1, params=SMALL, folds=folds).predict(data.rows))) for folds in (0, 4)
    )
    assert late < 0.1 * np.mean(quiet)
    assert across == pytest.approx(np.mean(quiet), rel=0.1)


def test_of_rare_positives_a_draw_of_the_negatives_tells_as_much_and_the_level_stays() -> None:
    data, fresh = training_set(40_000), training_set(10_000, seed=50)
    rare = (np.random.default_rng(3).random(40_000) < 0.04 * truth(data.rows)).astype(np.float64)
    data, p = msgspec.structs.replace(data, labels=rare), 0.04 * truth(fresh.rows)
    loss = {}
    for negatives in (0, 8):
        model = boosted.fit(data, 1, params=SMALL, folds=3, negatives=negatives)
        assert np.mean(model.predict(data.rows)) == pytest.approx(np.mean(rare), rel=0.1)
        found = model.predict(fresh.rows)
        loss[negatives] = -float(np.mean(p * np.log(found) + (1 - p) * np.log(1 - found)))
    assert loss[8] == pytest.approx(loss[0], rel=0.01)


def test_few_negatives_are_all_learnt_from(tmp_path: Path) -> None:
    data = training_set(2_000)
    for name, negatives in (("all", 0), ("drawn", 60)):
        (tmp_path / name).mkdir()
        boosted.fit(data, 1, params=SMALL, negatives=negatives).save(tmp_path / name)
    assert (tmp_path / "all" / boosted.FILE).read_bytes() == (tmp_path / "drawn" / boosted.FILE).read_bytes()


def test_labels_may_be_probabilities() -> None:
    data, fresh = training_set(4_000), training_set(2_000, seed=50)
    sure = msgspec.structs.replace(data, labels=np.where(np.arange(4_000) % 50, truth(data.rows), data.labels))
    found = boosted.fit(sure, 1, params=SMALL).predict(fresh.rows)
    drawn = boosted.fit(data, 1, params=SMALL).predict(fresh.rows)
    off = [float(np.mean(np.abs(p - truth(fresh.rows)))) for p in (found, drawn)]
    assert off[0] < off[1]


def test_what_is_held_out_is_the_latest_part() -> None:
    """Labels of the latest fifth are turned around: the score then says nothing there, and calibration knows."""
    data = training_set(4_000)
    turned = np.concatenate([data.labels[:3_200], 1 - data.labels[3_200:]])
    p = boosted.fit(msgspec.structs.replace(data, labels=turned), 1, params=SMALL).predict(data.rows)
    assert np.ptp(p) == 0.0
    assert p[0] == pytest.approx(np.mean(turned[3_200:]), abs=0.01)


def test_the_trees_that_are_served_have_learnt_from_the_latest_rows() -> None:
    data = training_set(4_000)
    late = np.arange(4_000) >= 3_200
    rows = np.column_stack([data.rows[:, :2], np.where(late, data.rows[:, 2], 0.0), data.rows[:, 3]])
    fitted = boosted.fit(msgspec.structs.replace(data, rows=rows), 1, params=SMALL)
    asked = np.tile(data.rows[:1], (50, 1))
    asked[:, 2] = np.linspace(-3, 3, 50)
    assert np.ptp(fitted.scores(asked)) > 0  # `quiet` varies only in the latest fifth


def test_a_rising_feature_only_raises_the_prediction() -> None:
    fitted = boosted.fit(training_set(), 1, params=msgspec.structs.replace(SMALL, rising=("quiet",)))
    free = boosted.fit(training_set(), 1, params=SMALL)
    sweep = np.repeat(draw_rows(40, 8)[:, None, :], 60, axis=1)
    sweep[:, :, 2] = np.linspace(-3, 3, 60)
    falls = [np.any(np.diff(m.scores(sweep.reshape(-1, 4)).reshape(40, 60)) < 0) for m in (fitted, free)]
    assert falls == [False, True]


def test_a_rising_feature_has_to_exist() -> None:
    with pytest.raises(ConfigError, match=r"boosted parameters, rising: feature 'amuont'. Expected 'amount' \(closest"):
        boosted.fit(training_set(200), 1, params=BoostedParams(rising=("amuont",)))


def test_few_positives_still_give_a_model() -> None:
    data = training_set(2_000)
    labels = np.zeros(2_000)
    labels[[100, 900, 1_500]] = 1.0  # none among the held-out
    p = boosted.fit(msgspec.structs.replace(data, labels=labels), 1).predict(data.rows)
    assert np.all((p > 0) & (p < 0.01))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(100), r"training set: 100 rows with labels 0. Expected matured labels 0 and 1, at least one of each"),
        (np.full(100, 0.5), r"training set: 100 rows with labels 0.5"),
        (
            np.array([0.0] * 90 + [1.0] * 10),
            r"training set: 80 rows of one label before the held-out 20. Expected both",
        ),
    ],
)
def test_labels_that_teach_nothing_are_refused(labels: Floats, message: str) -> None:
    with pytest.raises(DataError, match=message):
        boosted.fit(msgspec.structs.replace(training_set(100), labels=labels), 1)


def test_fitting_loading_and_scoring_print_nothing(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    data = training_set(300)
    hard = msgspec.structs.replace(data, rows=np.zeros_like(data.rows))  # LightGBM likes to warn of such features
    fitted = boosted.fit(hard, 1)
    boosted.load(tmp_path, fitted.save(tmp_path)).predict(hard.rows)
    assert capfd.readouterr() == ("", "")


def test_rows_that_native_code_must_not_see_are_refused(model: Boosted) -> None:
    with pytest.raises(ModelError, match=r"prediction: an array of shape \(2, 3\). Expected rows × 4 features"):
        model.predict(np.zeros((2, 3)))
    with pytest.raises(ModelError, match=r"prediction: an array of shape \(4,\)"):
        model.predict(np.zeros(4))
    with pytest.raises(ModelError, match=r"prediction: a feature that is NaN or infinite"):
        model.predict(np.full((1, 4), np.nan))


@pytest.mark.parametrize("keep", [0, 1, 100, -200, -1])
def test_a_truncated_text_is_named_and_never_parsed(model: Boosted, tmp_path: Path, keep: int) -> None:
    settings = model.save(tmp_path)
    text = (tmp_path / "model.txt").read_bytes()
    (tmp_path / "model.txt").write_bytes(text[:keep])
    with pytest.raises(ModelError, match=rf"model file model.txt: {len(text[:keep])} bytes that do not fit the hash"):
        boosted.load(tmp_path, settings)


def test_a_flipped_bit_and_a_missing_file_are_named(model: Boosted, tmp_path: Path) -> None:
    settings = model.save(tmp_path)
    text = bytearray((tmp_path / "model.txt").read_bytes())
    text[len(text) // 2] ^= 1
    (tmp_path / "model.txt").write_bytes(text)
    with pytest.raises(ModelError, match=r"bytes that do not fit the hash in the manifest. .* Roll back with"):
        boosted.load(tmp_path, settings)
    (tmp_path / "model.txt").unlink()
    with pytest.raises(ModelError, match=r"model file model.txt: a file that cannot be read \(No such file"):
        boosted.load(tmp_path, settings)


def test_a_text_that_lightgbm_refuses_is_an_error_in_words() -> None:
    with pytest.raises(ModelError, match=r"LightGBM: .* Expected a model text that this LightGBM reads"):
        lightgbm_native.NativeBooster(b"no model at all\n")


def test_an_environment_without_lightgbm_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"LightGBM's library: no lib_lightgbm in this .* pip install lightgbm"):
        lightgbm_native._library_path()


def test_a_library_that_does_not_load_points_to_openmp(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "lightgbm"
    (package / "lib").mkdir(parents=True)
    (package / "lib" / "lib_lightgbm.so").write_bytes(b"not a library")
    found = types.SimpleNamespace(origin=str(package / "__init__.py"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: found)
    with pytest.raises(ModelError, match=r"LightGBM's library: it cannot be loaded .*apt-get install libgomp1"):
        lightgbm_native._libraries.__wrapped__()


def test_names_of_features_never_reach_lightgbms_text(tmp_path: Path) -> None:
    data = training_set(300)
    odd = msgspec.structs.replace(data, names=('a "b"', "x:y", "[z]", "ünï"))
    assert len(odd.names) == len(NAMES)
    boosted.fit(odd, 1, params=SMALL).save(tmp_path)
    assert b"feature_names=Column_0 Column_1 Column_2 Column_3\n" in (tmp_path / "model.txt").read_bytes()
