"""Gradient-boosted trees: fitted by LightGBM, scored through its C interface without importing its Python package.

The latest part of the training set is held out first: it says how many trees are enough and fits the calibration. Then
that many trees are grown on all rows, so that what is served has learnt from the latest frauds too.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.errors import ConfigError, DataError, ModelError, near
from decalog.models import calibration
from decalog.models.base import Floats, TrainingSet
from decalog.models.lightgbm_native import NativeBooster
from decalog.models.rows import check_binary, checked

FORMAT = "lightgbm"
FILE = "model.txt"
_FAINT = 0.01
"""Below which a label counts as a negative where these are thinned."""

Int64s = npt.NDArray[np.int64]


class BoostedParams(msgspec.Struct, frozen=True, kw_only=True):
    """What is chosen before the fit.

    Args:
        trees: at most.
        learning_rate: shrinkage of each tree, (0, 1].
        leaves: of a tree, at most.
        rows_a_leaf: at least.
        l2: penalty on leaf values.
        feature_share: of the features that each tree may use, (0, 1].
        row_share: of the rows that each tree sees, (0, 1].
        rising: names of features in which the prediction may only rise.
        held_out: share of the rows, the latest, that stops the boosting and fits the calibration, (0, 1).
        patience: trees without a better held-out loss before it stops.
        calibration: form of the curve from score to probability.
    """

    trees: int = 500
    learning_rate: float = 0.1
    leaves: int = 31
    rows_a_leaf: int = 20
    l2: float = 10.0
    feature_share: float = 0.5
    row_share: float = 1.0
    rising: tuple[str, ...] = ()
    held_out: float = 0.2
    patience: int = 20
    calibration: Literal["sigmoid", "isotonic"] = "sigmoid"


class Boosted:
    """Fitted trees with their calibration.

    Args:
        text: LightGBM's own model text, known to be whole.
        calibrator: from raw score to probability.
        params: of the fit, for the manifest.
    """

    blocking: ClassVar[bool] = False
    """Scores in microseconds: serving calls it on the event loop."""

    def __init__(self, text: bytes, calibrator: calibration.Calibrator, params: BoostedParams) -> None:
        self.texts = (text,)
        self._calibrator = calibrator
        self._params = params
        self._booster = NativeBooster(text)

    def predict(self, rows: Floats) -> Floats:
        """See `Model.predict`."""
        return self._calibrator.apply(self.scores(rows))

    def logits(self, rows: Floats) -> Floats:
        """Returns the log odds of each prediction."""
        if isinstance(self._calibrator, calibration.Sigmoid):
            return self.scores(rows) * self._calibrator.slope + self._calibrator.shift
        p = self.predict(rows)
        # libm number by number, as in `calibration.sigmoid`: numpy's log may differ by batch.
        return np.array([math.log(one / (1.0 - one)) for one in p.tolist()])

    def scores(self, rows: Floats) -> Floats:
        """Returns the raw score of each row, bit for bit `Booster.predict(rows, raw_score=True)`."""
        return self._booster.scores(checked(rows, width=self._booster.width))

    def contributions(self, rows: Floats) -> Floats | None:
        """See `Explaining.contributions`; an isotonic curve is no sum of parts."""
        if not isinstance(self._calibrator, calibration.Sigmoid):
            return None
        found = self._booster.contributions(checked(rows, width=self._booster.width)) * self._calibrator.slope
        found[:, -1] += self._calibrator.shift
        return found

    def save(self, folder: Path) -> Mapping[str, Any]:
        """See `Model.save`."""
        (folder / FILE).write_bytes(self.texts[0])
        calibration.save(self._calibrator, folder)
        return {
            "params": msgspec.to_builtins(self._params),
            "trees": self._booster.trees,
            "sha256": hashlib.sha256(self.texts[0]).hexdigest(),
        }


class _Rows(NamedTuple):
    """What trees are grown on; `weights` is how many rows each stands for, by which the level is fitted.

    Parts of rows that are `binned` share their bins: to make these costs as much as to grow the trees.
    """

    rows: Floats
    labels: Floats
    weights: Floats | None = None
    binned: Any = None

    def take(self, part: Int64s) -> _Rows:
        """Returns some of them."""
        weights = None if self.weights is None else self.weights[part]
        binned = None if self.binned is None else self.binned.subset(part)
        return _Rows(self.rows[part], self.labels[part], weights, binned)

    def dataset(self, settings: dict[str, Any]) -> Any:
        """Returns them as LightGBM learns from them."""
        import lightgbm  # seconds: only training pays them

        if self.binned is not None:
            return self.binned
        return lightgbm.Dataset(self.rows, self.labels, params=settings)


def fit(
    data: TrainingSet, seed: int, *, params: BoostedParams | None = None, folds: int = 0, negatives: int = 0
) -> Boosted:
    """Returns trees fitted to a training set; the same inputs and seed give the same bytes.

    Labels may lie between 0 and 1: such a row counts as so much of a positive, and as a negative for the rest.

    Args:
        data: to learn from.
        seed: of the trees.
        params: chosen before the fit.
        folds: where ≥ 2, the calibration is fitted to all rows, cut into so many parts in time, each scored by trees
            that were grown on the others; else to the held-out part, whose level is that of a few weeks.
        negatives: where above 0, at most so many a positive are learnt from, drawn: what tells is the positives (He et
            al., "Practical lessons from predicting clicks on ads", ADKDD 2014). The calibration, in which each counts
            for as many as it stands for, sets the level.

    Raises:
        DataError: labels are not in [0, 1], or the part before the held-out one lacks one of them.
        ConfigError: a parameter names an unknown feature.
    """
    chosen = params or BoostedParams()
    check_binary(data, surmised=True)
    split = len(data.labels) - max(1, int(len(data.labels) * chosen.held_out))
    if np.ptp(data.labels[:split]) == 0:
        raise DataError(
            where="training set",
            given=f"{split} rows of one label before the held-out {len(data.labels) - split}",
            expected="both labels in the part that trees learn from",
            fix="Train on a longer part of the log.",
        )
    settings = lightgbm_settings(data.names, seed, params=chosen)
    if np.any((data.labels > 0) & (data.labels < 1)):
        settings |= {"objective": "cross_entropy", "metric": "cross_entropy"}
    rows, split = _thinned(data, negatives, seed=seed, split=split)
    if folds > 1:
        rows = rows._replace(binned=rows.dataset(settings))
    text, trees = _grow_until_late(rows, settings, params=chosen, split=split)
    if folds > 1:
        scores, told = _across(rows, settings, trees=trees, folds=folds), rows
    else:
        told = rows.take(np.arange(split, len(rows.labels)))
        scores = NativeBooster(text).scores(told.rows)
    fit_curve = calibration.fit_isotonic if chosen.calibration == "isotonic" else calibration.fit_sigmoid
    curve = fit_curve(scores, told.labels, weights=told.weights)
    return Boosted(_grow(rows, settings, trees=trees), curve, chosen)


def _thinned(data: TrainingSet, negatives: int, *, seed: int, split: int) -> tuple[_Rows, int]:
    """Returns the rows that are learnt from, of what is surely or nearly negative a draw; and where the split is then.

    Row after row, as LightGBM reads them: it would make a copy for each of its three data sets.
    """
    faint = data.labels < _FAINT
    share = negatives * float(np.sum(data.labels[~faint])) / max(int(np.sum(faint)), 1)
    if not 0 < share < 1:
        return _Rows(np.ascontiguousarray(data.rows, np.float64), data.labels), split
    kept = np.flatnonzero(~faint | (np.random.default_rng(seed).random(len(faint)) < share))
    rows = np.ascontiguousarray(data.rows[kept], np.float64)
    weights = np.where(faint[kept], 1 / share, 1.0)
    return _Rows(rows, data.labels[kept], weights), int(np.searchsorted(kept, split))


def _grow_until_late(data: _Rows, settings: dict[str, Any], *, params: BoostedParams, split: int) -> tuple[bytes, int]:
    """Returns trees grown on the rows before the split, and how many were best on those after it."""
    import lightgbm

    first, last = data.take(np.arange(split)), data.take(np.arange(split, len(data.labels)))
    early = first.dataset(settings)
    late = last.binned or early.create_valid(last.rows, last.labels)
    stop = lightgbm.early_stopping(params.patience, verbose=False)
    booster = lightgbm.train(settings, early, params.trees, valid_sets=[late], callbacks=[stop])
    return model_text(booster, booster.best_iteration), int(booster.best_iteration)


def _grow(data: _Rows, settings: dict[str, Any], *, trees: int) -> bytes:
    """Returns as many trees grown on all rows: the latest are the likest to what comes next."""
    import lightgbm

    return model_text(lightgbm.train(settings, data.dataset(settings), trees), trees)


def _across(data: _Rows, settings: dict[str, Any], *, trees: int, folds: int) -> Floats:
    """Returns the score of each row by trees that have not seen it, nor what stood beside it in time."""
    n = len(data.labels)
    scores, cuts = np.empty(n), [n * place // folds for place in range(folds + 1)]
    for first, end in pairwise(cuts):
        others = np.r_[0:first, end:n]
        scores[first:end] = NativeBooster(_grow(data.take(others), settings, trees=trees)).scores(data.rows[first:end])
    return scores


def model_text(booster: Any, trees: int) -> bytes:
    """Returns the text of a booster's first trees."""
    return str(booster.model_to_string(num_iteration=trees)).encode()


def lightgbm_settings(names: tuple[str, ...], seed: int, *, params: BoostedParams) -> dict[str, Any]:
    """Returns LightGBM's settings for parameters: one thread, so that the same inputs give the same bytes.

    Raises:
        ConfigError: a parameter names an unknown feature.
    """
    return {
        "objective": "binary",
        "metric": "binary_logloss",
        "learning_rate": params.learning_rate,
        "num_leaves": params.leaves,
        "min_data_in_leaf": params.rows_a_leaf,
        "lambda_l2": params.l2,
        "feature_fraction": params.feature_share,
        "bagging_fraction": params.row_share,
        "bagging_freq": 1 if params.row_share < 1 else 0,
        "monotone_constraints": _rising(names, params.rising),
        # One thread and one way of building histograms: sums are taken in one order, so bytes repeat.
        "num_threads": 1,
        "deterministic": True,
        "force_row_wise": True,
        "seed": seed,
        "verbosity": -1,
    }


def _rising(names: tuple[str, ...], rising: tuple[str, ...]) -> list[int]:
    for name in rising:
        if name not in names:
            raise ConfigError(
                where="boosted parameters, rising",
                given=f"feature '{name}'",
                expected=near(name, names),
                fix="Name features as the feature set declares them.",
            )
    return [int(name in rising) for name in names] if rising else []


def load(folder: Path, settings: Mapping[str, Any]) -> Boosted:
    """Returns the model of a folder. Its text is hashed first: the parser behind it trusts what it reads.

    Raises:
        ModelError: a file is missing or damaged.
    """
    text = read_whole(folder / FILE, sha256=settings.get("sha256"))
    return Boosted(text, calibration.load(folder), msgspec.convert(settings["params"], BoostedParams))


def read_whole(path: Path, *, sha256: str | None) -> bytes:
    """Returns a model text that fits its hash in the manifest.

    Raises:
        ModelError: the file is missing or damaged.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise _damage(path, f"a file that cannot be read ({error.strerror})") from None
    if hashlib.sha256(text).hexdigest() != sha256:
        raise _damage(path, f"{len(text)} bytes that do not fit the hash in the manifest")
    return text


def _damage(path: Path, given: str) -> ModelError:
    return ModelError(
        where=f"model file {path.name}",
        given=given,
        expected="the model text that the training run wrote",
        fix="Roll back with `decalog models rollback`, restore it from a backup, or train again.",
    )
