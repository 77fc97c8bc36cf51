"""A model of several actions: each head is a calibrated probability of its own, and all are scored in one pass.

What a slate's slot added to an action is taken out of what is learnt (`models.examination`): predictions are those of
the first slot. As with `models.boosted`, the latest slates are held out first: they say how many trees are enough, up
to the declared budget, and fit the calibration; then that many trees are grown on all.

An action that cannot happen without another, as one stays only on what one opened, is learnt from the rows where the
other happened: its prediction is P(action | other) · P(other), and never above P(other).

Where it is told which features are rates of what, trees start from a regression over smoothed rates
(`models.smoothed`), and learn what that leaves.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, cast

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.errors import ConfigError, DataError, ModelError, near
from decalog.models import calibration, examination, smoothed
from decalog.models.base import Floats, TrainingSet
from decalog.models.boosted import BoostedParams, lightgbm_settings, model_text, read_whole
from decalog.models.lightgbm_native import NativeBooster
from decalog.models.linear import Logistic, Prior, fit_logistic
from decalog.models.rows import checked
from decalog.models.smoothed import Rate, Smoothed

Int64s = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

FORMAT = "heads"
FILE = "heads.json"

_MOST_LEAVES = 64
_WARM = 32


class HeadsTrainingSet(msgspec.Struct, frozen=True):
    """What was shown, and what was done with it: one row a slot of a slate.

    Args:
        names: of the features, one a column.
        heads: of the actions, as the model will name them.
        rows: float64, n × features; finite.
        labels: n × heads; 0, 1, or NaN where it is not known (yet).
        positions: of the row in its slate, 0 = first.
        times: µs of the decision.
        groups: of the slate that the row belongs to.
        weights: how many rows each one stands for, > 0; None for one.
        randomised: where the position was drawn without regard to the row; None for nowhere.
    """

    names: tuple[str, ...]
    heads: tuple[str, ...]
    rows: Floats
    labels: Floats
    positions: Int64s
    times: Int64s
    groups: Int64s
    weights: Floats | None = None
    randomised: Flags | None = None


class HeadsParams(BoostedParams, frozen=True, kw_only=True):
    """As for boosted trees, for each head; `trees` is the budget that serving has to score.

    Args:
        calibration: "isotonic" where the held-out rows have `isotonic_from` positives, else "sigmoid".
        isotonic_from: see `calibration`.
        least: positives, and negatives, that a head is fitted from; with fewer it knows its base rate only.
        examined: heads whose actions depend on the slot; None for all.
        most_positions: positions from 0 that have an examination of their own; later ones share the last one's.
        given: head → the head before it without which it cannot happen; where it happened, so did the other.
        rates: feature → of which two features it is the quotient; with any, trees start from a regression.
        absent: feature → the value that says that there is none.
        start_l2: penalty on the weights of that regression for the first head, as of `linear.fit_logistic`.
        start_own_l2: for the others, which lean on those before them, on what they have of their own.
    """

    trees: int = 200
    learning_rate: float = 0.05
    rows_a_leaf: int = 50
    calibration: Literal["sigmoid", "isotonic"] = "isotonic"
    isotonic_from: int = 1_000
    least: int = 100
    examined: tuple[str, ...] | None = None
    most_positions: int = 50
    given: Mapping[str, str] = {}
    rates: Mapping[str, Rate] = {}
    absent: Mapping[str, float] = {}
    start_l2: float = 100.0
    start_own_l2: float = 1_000.0


class Head(msgspec.Struct, frozen=True):
    """What a head is beside its trees.

    Args:
        name: of the action.
        calibrator: from raw score to probability.
        curve: log odds that each position adds to those of the first; one number where it adds nothing.
        trees: 0 where it had too few positives: the score is then 0, and the calibrator says the base rate.
        positives, known: rows it was fitted from.
    """

    name: str
    calibrator: calibration.Calibrator
    curve: tuple[float, ...]
    trees: int
    positives: int
    known: int


class _Described(msgspec.Struct, frozen=True, tag="trees"):
    heads: tuple[Head, ...]
    width: int
    start: Smoothed | None = None


class SimpleHeads(msgspec.Struct, frozen=True, tag="simple"):
    """A baseline of several actions: a logistic regression each, or the base rate.

    Args:
        heads: names.
        models: one a head.
        given: as of `HeadsParams`.
    """

    heads: tuple[str, ...]
    models: tuple[Prior | Logistic, ...]
    given: Mapping[str, str] = {}
    blocking: ClassVar[bool] = False

    def predict(self, rows: Floats) -> Floats:
        """See `Model.predict`; n × heads."""
        return _whole(np.column_stack([model.predict(rows) for model in self.models]), self.heads, given=self.given)

    def save(self, folder: Path) -> Mapping[str, Any]:
        """See `Model.save`."""
        (folder / FILE).write_bytes(msgspec.json.encode(self))
        return {"heads": list(self.heads)}


class Heads:
    """Fitted trees of several actions.

    Args:
        described: the heads, in the order of their columns.
        texts: LightGBM's model text of each head that has trees, in the same order; known to be whole.
        width: of a row.
        params: of the fit, for the manifest.
        start: what the trees' scores are added to.
    """

    blocking: ClassVar[bool] = False
    """Scores 500 rows in milliseconds without the GIL: serving calls it on the event loop."""

    def __init__(
        self,
        described: Sequence[Head],
        texts: Sequence[bytes],
        *,
        width: int,
        params: HeadsParams,
        start: Smoothed | None = None,
    ) -> None:
        from decalog.models.forest import Forest  # numba

        self.described, self.width, self._params, self._start = tuple(described), width, params, start
        self.heads = tuple(head.name for head in described)
        self._grown = [place for place, head in enumerate(described) if head.trees]
        self._texts = dict(zip(self._grown, texts, strict=True))
        self._forest = Forest(texts) if texts else None

    def predict(self, rows: Floats) -> Floats:
        """Returns P(action) at the first position, n × heads; the same bits for a row alone or among others."""
        scores = self.scores(rows)
        columns = zip(self.described, scores.T, strict=True)
        found = np.column_stack([head.calibrator.apply(column) for head, column in columns])
        return _whole(found, self.heads, given=self._params.given)

    def scores(self, rows: Floats) -> Floats:
        """Returns the raw score of each row and head; 0 where a head has no trees and nothing that they start from."""
        matrix = checked(rows, width=self.width)
        scores = np.zeros((len(matrix), len(self.heads))) if self._start is None else self._start.logits(matrix)
        if self._forest:
            scores[:, self._grown] += self._forest.scores(matrix)
        return scores

    @property
    def texts(self) -> tuple[bytes, ...]:
        """LightGBM's model text of each head that has trees."""
        return tuple(self._texts.values())

    @property
    def examination(self) -> dict[str, tuple[float, ...]]:
        """Head → how likely an action at each position is, against 1 at the first (by odds).

        Of a head that is given another: where the other happened, so 1.
        """
        return {head.name: tuple(np.exp(head.curve).tolist()) for head in self.described}

    def as_shown(self, predictions: Floats, positions: Int64s) -> Floats:
        """Returns P(action) where things stood, n × heads, of predictions for the first position."""
        found = predictions.copy()
        for place, head in enumerate(self.described):
            p = predictions[:, place]
            if head.name in self._params.given:
                other = self.heads.index(self._params.given[head.name])
                found[:, place] = p * (found[:, other] / predictions[:, other])
            else:
                odds = np.exp(np.array(head.curve))[np.minimum(positions, len(head.curve) - 1)]
                found[:, place] = odds * p / (1 - p + odds * p)
        return found

    def contributions_to(self, rows: Floats, head: str) -> Floats | None:
        """Returns what each feature adds to the log odds of a head, as `models.base.Explaining` does of the only one.

        None where the head's curve is isotonic, or it is given another head: that is no sum of parts.

        Raises:
            ConfigError: there is no such head.
        """
        if head not in self.heads:
            raise _unknown("contributions_to, head", head, self.heads)
        place = self.heads.index(head)
        calibrator, matrix = self.described[place].calibrator, checked(rows, width=self.width)
        if not isinstance(calibrator, calibration.Sigmoid) or head in self._params.given:
            return None
        found = np.zeros((len(matrix), self.width + 1))
        if place in self._grown:
            found = self._boosters[place].contributions(matrix)
        if self._start is not None:
            found = found + self._start.contributions(matrix, place)
        found = found * calibrator.slope
        found[:, -1] += calibrator.shift
        return found

    @functools.cached_property
    def _boosters(self) -> dict[int, NativeBooster]:
        return {place: NativeBooster(text) for place, text in self._texts.items()}

    def save(self, folder: Path) -> Mapping[str, Any]:
        """See `Model.save`."""
        for place, text in self._texts.items():
            _text_file(folder, place).write_bytes(text)
        (folder / FILE).write_bytes(msgspec.json.encode(_Described(self.described, self.width, self._start)))
        return {
            "params": msgspec.to_builtins(self._params),
            "heads": list(self.heads),
            "trees": {head.name: head.trees for head in self.described},
            "examination": self.examination,
            "sha256": [hashlib.sha256(text).hexdigest() for text in self._texts.values()],
        }


def _whole(found: Floats, heads: Sequence[str], *, given: Mapping[str, str]) -> Floats:
    """Returns predictions in which those of heads that are given another are no longer conditional."""
    for place, head in enumerate(heads):
        if head in given:
            found[:, place] *= found[:, heads.index(given[head])]
    return found


def _text_file(folder: Path, place: int) -> Path:
    return folder / f"head-{place}.txt"


def load(folder: Path, settings: Mapping[str, Any]) -> Heads | SimpleHeads:
    """Returns the model of a folder.

    Raises:
        ModelError: a file is missing or damaged.
    """
    try:
        found = msgspec.json.decode((folder / FILE).read_bytes(), type=_Described | SimpleHeads)
    except (OSError, msgspec.DecodeError) as error:
        raise ModelError(
            where=f"model file {FILE}",
            given=f"a file that cannot be read ({type(error).__name__})",
            expected="the heads that the training run wrote",
            fix="Roll back with `decalog models rollback`, restore it from a backup, or train again.",
        ) from None
    if isinstance(found, SimpleHeads):
        return found
    grown = [place for place, head in enumerate(found.heads) if head.trees]
    hashes = zip(grown, settings["sha256"], strict=True)
    texts = [read_whole(_text_file(folder, place), sha256=sha256) for place, sha256 in hashes]
    params = msgspec.convert(settings["params"], HeadsParams)
    made = Heads(found.heads, texts, width=found.width, params=params, start=found.start)
    made.predict(np.zeros((_WARM, found.width)))  # what is compiled late is compiled before the first request
    return made


class _Shown(NamedTuple):
    """The rows of one head whose label is known; `late` are held out, `start` is what trees are added to."""

    places: Int64s
    labels: Floats
    positions: Int64s
    weights: Floats
    late: Flags
    start: Floats | None = None


def fit_heads(data: HeadsTrainingSet, seed: int, *, params: HeadsParams | None = None) -> Heads:
    """Returns heads fitted to what was shown; the same inputs and seed give the same bytes.

    Raises:
        DataError: labels are other than 0, 1 and NaN, a feature is not finite, or there are fewer than two slates.
        ConfigError: a parameter names an unknown feature or head, gives a head one that does not stand before it, or
            allows trees that are too large to score.
    """
    import lightgbm  # seconds: only training pays them

    chosen = params or HeadsParams()
    data = _conditional(_checked(data, chosen), chosen)
    settings = lightgbm_settings(data.names, seed, params=chosen)
    turns = _turns(data)
    shown = [_shown(data, place, chosen, turns) for place in range(len(data.heads))]
    curves = _curves(data, shown, chosen, turns, settings)
    start = _start(data, shown, chosen)
    if start is not None:
        logits = start.logits(data.rows)
        shown = [own._replace(start=logits[own.places, place]) for place, own in enumerate(shown)]
    # One set of bins: heads then ask about the same thresholds, and serving finds each row's place among fewer.
    bins = lightgbm.Dataset(data.rows, params=settings).construct()
    heads, texts = list[Head](), list[bytes]()
    for name, own, curve in zip(data.heads, shown, curves, strict=True):
        trees, calibrator = 0, cast("calibration.Calibrator", calibration.Sigmoid(0.0, _level(own, curve)))
        if _is_enough(own, chosen):
            text, trees, calibrator = _grow(data, own, curve, bins, chosen)
            texts.append(text)
        heads.append(Head(name, calibrator, tuple(curve.tolist()), trees, int(np.sum(own.labels)), len(own.labels)))
    return Heads(heads, texts, width=data.rows.shape[1], params=chosen, start=start)


def _start(data: HeadsTrainingSet, shown: list[_Shown], params: HeadsParams) -> Smoothed | None:
    """Returns what trees start from; heads that have too few labels start from 0."""
    if not params.rates:
        return None
    labels = np.full(data.labels.shape, np.nan)
    for place, own in enumerate(shown):
        if _is_enough(own, params):
            labels[own.places, place] = own.labels
    settings = smoothed.Settings(params.rates, params.absent, params.start_l2, params.start_own_l2)
    return smoothed.fit(data.names, data.rows, labels=labels, positions=_positions(data, params), settings=settings)


def _conditional(data: HeadsTrainingSet, params: HeadsParams) -> HeadsTrainingSet:
    """Returns the set with labels of a head that is given another in those rows alone where the other happened."""
    labels = data.labels.copy()
    places = [(data.heads.index(head), data.heads.index(other)) for head, other in params.given.items()]
    for place, other in sorted(places, reverse=True):
        labels[(labels[:, place] == 1) & (labels[:, other] == 0), other] = 1.0
    for place, other in places:
        labels[labels[:, other] != 1, place] = np.nan
    return msgspec.structs.replace(data, labels=labels)


def _turns(data: HeadsTrainingSet) -> Int64s:
    """Returns the number of each row's slate, in the order of their times."""
    slates, which = np.unique(data.groups, return_inverse=True)
    first = np.full(len(slates), np.iinfo(np.int64).max)
    np.minimum.at(first, which, data.times)
    turns: Int64s = np.argsort(np.argsort(first, kind="stable"))[which]
    return turns


def _shown(data: HeadsTrainingSet, place: int, params: HeadsParams, turns: Int64s) -> _Shown:
    places = np.flatnonzero(~np.isnan(data.labels[:, place]))
    labels, slates = data.labels[places, place], int(turns.max()) + 1
    since = slates - max(1, int(slates * params.held_out))
    # What is ranked well is hidden less and less: the last slates alone may have too few positives to judge by.
    hits = np.sort(turns[places][labels == 1])
    few = min(int(len(hits) * params.held_out), params.least // 2)
    since = min(since, int(hits[-few])) if few else since
    weights = np.ones(len(places)) if data.weights is None else data.weights[places]
    return _Shown(places, labels, _positions(data, params)[places], weights, turns[places] >= since)


def _positions(data: HeadsTrainingSet, params: HeadsParams) -> Int64s:
    return np.minimum(data.positions, params.most_positions - 1)


def _is_enough(own: _Shown, params: HeadsParams) -> bool:
    """Returns whether there are enough positives and negatives in all, and a tenth of them in each part."""
    counts = [np.bincount(own.labels[part].astype(np.int64), minlength=2).min() for part in (own.late, ~own.late)]
    return bool(sum(counts) >= params.least and min(counts) * 10 >= params.least)


def _level(own: _Shown, curve: Floats) -> float:
    """Returns the log odds of the base rate at the first position, one pseudo-row of each label added."""
    rows = float(np.sum(own.weights * np.exp(curve)[own.positions])) + 2
    hits = min(float(np.sum(own.weights * own.labels)) + 1, rows - 1)
    return float(np.log(hits / (rows - hits)))


def _curves(
    data: HeadsTrainingSet, shown: list[_Shown], params: HeadsParams, turns: Int64s, settings: Mapping[str, Any]
) -> list[Floats]:
    """Returns each head's log odds by position.

    The head with most positives leads; the others stay close to it, and those that are too rare follow it.
    """
    positions = _positions(data, params)
    known = np.zeros(int(positions.max()) + 1)
    curves = [known for _ in shown]
    if len(known) == 1:
        return curves
    within = examination.bands(data.rows, positions, folds=turns % 2, settings=settings)
    drawn = np.zeros(len(positions), bool) if data.randomised is None else data.randomised
    for place in sorted(
        range(len(shown)), key=lambda place: (not _is_enough(shown[place], params), -shown[place].labels.sum())
    ):
        if not _is_examined(data.heads[place], params):
            continue
        own, curves[place] = shown[place], known
        if _is_enough(own, params):
            hits, there = own.weights * own.labels, own.places
            curves[place] = examination.learn_curve(
                hits, own.weights, positions=own.positions, within=within[there], drawn=drawn[there], prior=known
            )
            known = known if known.any() else curves[place]
    return curves


def _is_examined(head: str, params: HeadsParams) -> bool:
    """Returns whether a head's action depends on the slot; where another happened, the slot was looked at."""
    return head not in params.given and (params.examined is None or head in params.examined)


def _grow(
    data: HeadsTrainingSet, own: _Shown, curve: Floats, bins: Any, params: HeadsParams
) -> tuple[bytes, int, calibration.Calibrator]:
    """Returns a head's trees, how many they are, and the curve from their score to a probability."""
    import lightgbm

    settings, rows = dict(bins.params), data.rows[own.places]
    offsets = curve[own.positions] + (_level(own, curve) if own.start is None else own.start)

    def part(mask: Flags) -> Any:
        labels, weights = own.labels[mask], own.weights[mask]
        return lightgbm.Dataset(rows[mask], labels, bins, weights, init_score=offsets[mask], params=settings)

    stop = lightgbm.early_stopping(params.patience, verbose=False)
    early = lightgbm.train(settings, part(~own.late), params.trees, valid_sets=[part(own.late)], callbacks=[stop])
    trees = int(early.best_iteration)
    scores = NativeBooster(model_text(early, trees)).scores(rows[own.late])
    scores = scores if own.start is None else scores + own.start[own.late]
    calibrator = _calibrated(scores, own, curve, params)
    grown = lightgbm.train(settings, part(np.ones(len(rows), bool)), trees)
    return model_text(grown, trees), trees, calibrator


def _calibrated(scores: Floats, own: _Shown, curve: Floats, params: HeadsParams) -> calibration.Calibrator:
    """Returns the curve from held-out scores to the probability at the first position."""
    labels, weights, offsets = own.labels[own.late], own.weights[own.late], curve[own.positions[own.late]]
    sigmoid = calibration.fit_sigmoid(scores, labels, weights=weights, offsets=offsets)
    if params.calibration == "sigmoid" or np.sum(labels) < params.isotonic_from or sigmoid.slope == 0:
        return sigmoid
    # The log odds where a row stood are the abscissa of the rising curve; at the first position they are the sigmoid's.
    found = calibration.fit_isotonic(scores * sigmoid.slope + sigmoid.shift + offsets, labels, weights=weights)
    at = tuple((x - sigmoid.shift) / sigmoid.slope for x in found.scores)
    return calibration.Isotonic(at, found.rates) if np.all(np.diff(at) > 0) else sigmoid


def fit_logistic_heads(
    data: HeadsTrainingSet, seed: int, *, params: HeadsParams | None = None, columns: Sequence[str] = ()
) -> SimpleHeads:
    """Returns a baseline: a logistic regression a head, in which log(1 + position) takes the place of a curve.

    Args:
        data: to learn from; weights are not looked at.
        seed: changes nothing.
        params: `least`, `examined` and `given` hold here too.
        columns: the features that it may use; none for all. One column with a rate of clicks is the popularity
            baseline.

    Raises:
        DataError: as for `fit_heads`.
        ConfigError: a column, or a head of a parameter, is unknown.
    """
    chosen = params or HeadsParams()
    data = _conditional(_checked(data, chosen), chosen)
    for name in columns:
        if name not in data.names:
            raise _unknown("logistic heads, columns", name, data.names)
    used = [data.names.index(name) for name in columns or data.names]
    turns = _turns(data)
    models = list[Prior | Logistic]()
    for place, name in enumerate(data.heads):
        own = _shown(data, place, chosen, turns)
        if not _is_enough(own, chosen):
            level = _level(own, np.zeros(chosen.most_positions))
            models.append(Prior(float(calibration.sigmoid(np.array([level]))[0]), data.rows.shape[1]))
            continue
        matter = float(_is_examined(name, chosen))
        rows = np.column_stack([data.rows[own.places][:, used], matter * np.log1p(own.positions)])
        models.append(_at_first(fit_logistic(_plain(own, rows), seed), used, data.rows.shape[1]))
    return SimpleHeads(data.heads, tuple(models), chosen.given)


def _plain(own: _Shown, rows: Floats) -> TrainingSet:
    none = np.zeros(len(rows), np.int64)
    return TrainingSet(tuple(map(str, range(rows.shape[1]))), rows, own.labels, none, none)


def _at_first(fitted: Logistic, used: Sequence[int], width: int) -> Logistic:
    """Returns a regression whose last feature is 0 from now on, over `width` features of which it uses some."""
    columns = np.zeros((3, width))
    columns[:, used] = np.array([fitted.means, fitted.scales, fitted.weights])[:, :-1]
    means, scales, weights = columns.tolist()
    there = fitted.weights[-1] * -fitted.means[-1] / (fitted.scales[-1] or 1.0)
    return Logistic(tuple(means), tuple(scales), tuple(weights), fitted.intercept + there)


def _checked(data: HeadsTrainingSet, params: HeadsParams) -> HeadsTrainingSet:
    for where, names in (("examined", params.examined or ()), ("given", params.given)):
        for name in names:
            if name not in data.heads:
                raise _unknown(f"heads parameters, {where}", name, data.heads)
    for name, other in params.given.items():
        before = data.heads[: data.heads.index(name)]
        if other not in before:
            raise _unknown(f"heads parameters, given, {name}", other, before)
    if params.leaves > _MOST_LEAVES:
        raise ConfigError(
            where="heads parameters, leaves",
            given=str(params.leaves),
            expected=f"at most {_MOST_LEAVES}",
            fix="Grow smaller trees, and more of them.",
        )
    slates = len(np.unique(data.groups))
    labels = data.labels[~np.isnan(data.labels)]
    fits = (
        data.labels.shape == (len(data.rows), len(data.heads)),
        slates > 1,
        bool(np.isin(labels, (0.0, 1.0)).all() and np.isfinite(data.rows).all()),
        bool((data.positions >= 0).all()),
    )
    if not all(fits):
        raise DataError(
            where="training set of heads",
            given=f"{len(data.rows)} rows of {slates} slates with labels of shape {data.labels.shape}",
            expected=f"two slates or more, labels 0, 1 or NaN for {len(data.heads)} heads, finite features,"
            " positions from 0",
            fix="Train on a longer part of the log; compute features through decalog.features.",
        )
    return data


def _unknown(where: str, given: str, known: Sequence[str]) -> ConfigError:
    return ConfigError(
        where=where, given=f"'{given}'", expected=near(given, known), fix="Use a name as it is declared."
    )
