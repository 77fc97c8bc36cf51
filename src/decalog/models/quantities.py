"""How much: a mean from boosted trees over a level that the features say, and quantiles of a calibrated shape.

    mean      = level · exposure · scale · exp(trees)       trees are fitted by the Poisson deviance
    variance  = mean + mean² / k                            negative binomial: more than chance alone
    quantile  = gamma of that mean and variance, at levels moved to where what came lay (probability integral transform)

The level carries what tells one item from another by a factor of a thousand, so trees learn what moves all of them and
need not cut the axis of size into pieces. Levels are moved group by group of the mean, on the latest part, which trees
had not seen then. What has no past yet may name what it is like: a second model of the same form, whose level is that
of the like as far as there is none of its own, learns from others whose past is hidden (`Young`). (Poisson deviance and
offsets: McCullagh and Nelder, Generalized Linear Models, 1989, chapter 6; calibration by the probability integral
transform: Kuleshov, Fenner and Ermon, ICML 2018.)
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.errors import DataError, ModelError
from decalog.models.base import Floats, QuantitySet
from decalog.models.boosted import FILE, BoostedParams, lightgbm_settings, model_text, read_whole
from decalog.models.lightgbm_native import NativeBooster
from decalog.models.rows import checked

FORMAT = "quantities"
SHAPE_FILE, YOUNG_FILE = "quantities.json", "young.txt"
Mask = npt.NDArray[np.bool_]
_SHAPES = tuple(np.geomspace(0.5, 500.0, 40).tolist())
_LEAST_A_GROUP = 200
_NEAR = 1e-4
"""How near 0 and 1 a level is taken."""
_TINY = 1e-9


class Age(msgspec.Struct, frozen=True, kw_only=True):
    """A short past that is simulated.

    Args:
        exposed: how long it is.
        rate: feature: what came a unit of exposure in that time; "" where it is no time at all.
        known: further features that are known then.
    """

    exposed: float = 0.0
    rate: str = ""
    known: tuple[str, ...] = ()


class Young(msgspec.Struct, frozen=True, kw_only=True):
    """What stands for a past that is not there yet: that of a like, where the request names one.

        level = (exposed · rate + weight · ratio · like) / (exposed + weight), below `until` of exposure

    with the ratio of what comes to what comes of likes, as it was learnt: the mean of a gamma distribution around the
    like's level, which counts for so much exposure, given what came (Gelman et al., Bayesian Data Analysis, 2013, 2.6).

    Args:
        like: feature: what comes of the like a unit of exposure; not above 0 for no like.
        rate: feature: the same of its own past, below 0 where that says nothing.
        exposed: feature: how long its own past is.
        weight: exposure that a like counts for.
        until: exposure from which on its own past alone counts.
        hidden: feature → its value where there is no past.
        ages: pasts that are simulated.
        least: requests with a like that it takes to learn from.
    """

    like: str
    rate: str
    exposed: str
    weight: float
    until: float
    hidden: Mapping[str, float]
    ages: tuple[Age, ...] = (Age(),)
    least: int = 1_000


class QuantityParams(BoostedParams, frozen=True, kw_only=True):
    """What is chosen before the fit, beside what trees ask for.

    Args:
        level: features, of which the first that is above 0 is what comes a unit of exposure.
        exposure: feature: how much exposure a request has, such as open days.
        levels: of the quantiles, rising, in (0, 1).
        groups: by mean, whose shape is calibrated apart.
        is_as_told: whether bounds are taken for what they bound, as planners mostly do.
        young: how what has no past yet is forecast, where its request names a like.
    """

    level: tuple[str, ...]
    exposure: str
    levels: tuple[float, ...]
    groups: int = 3
    is_as_told: bool = False
    young: Young | None = None
    trees: int = 0
    learning_rate: float = 0.05
    leaves: int = 31
    rows_a_leaf: int = 100
    feature_share: float = 0.6


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """What a fit knows beside its trees.

    Args:
        scale: what comes over level · exposure.
        typical: a level for requests of which no feature says one.
        k: of the variance.
        edges: of the groups by mean, rising; one fewer than there are groups.
        moved: group by group, the levels that stand for those asked for.
        like: what comes over what comes of a like, where levels are those of likes; 0 where they are not.
    """

    scale: float
    typical: float
    k: float
    edges: tuple[float, ...] = ()
    moved: tuple[tuple[float, ...], ...] = ()
    like: float = 0.0


class _Saved(msgspec.Struct, frozen=True, omit_defaults=True):
    shape: Shape
    params: QuantityParams
    names: tuple[str, ...]
    youth: Shape | None = None


class QuantityModel:
    """A fitted mean and its quantiles.

    Args:
        text: LightGBM's model text, known to be whole; b"" for no trees.
        shape: beside the trees.
        params: of the fit.
        names: of the features.
        youth: the model of what has no past yet; None where nothing named a like.
    """

    blocking: ClassVar[bool] = False
    multiplied: ClassVar[str] = "mean"

    def __init__(
        self,
        text: bytes,
        shape: Shape,
        *,
        params: QuantityParams,
        names: tuple[str, ...],
        youth: QuantityModel | None = None,
    ) -> None:
        self.shape, self.params, self._names, self.youth = shape, params, names, youth
        self.texts = (text,) if text else ()
        self._booster = NativeBooster(text) if text else None
        self._level = [names.index(name) for name in params.level]
        self._exposure = names.index(params.exposure)
        young = params.young
        self._young = [] if young is None else [names.index(one) for one in (young.like, young.rate, young.exposed)]

    def predict(self, rows: Floats) -> Floats:
        """Returns mean and quantiles, n × (1 + levels), none below 0; the same bits for a row alone or among others."""
        mean = self._mean(rows)
        said = np.column_stack([mean, self._quantiles(mean)])
        young = self.is_young(rows)
        if self.youth is not None and young.any():
            said[young] = self.youth.predict(rows[young])
        return said

    def mean(self, rows: Floats) -> Floats:
        """Returns the mean of each row."""
        mean, young = self._mean(rows), self.is_young(rows)
        if self.youth is not None and young.any():
            mean[young] = self.youth.mean(rows[young])
        return mean

    def _mean(self, rows: Floats) -> Floats:
        matrix = checked(rows, width=len(self._names))
        base = self.base(matrix) * self.shape.scale
        if self._booster is None:
            return base
        # libm number by number: numpy's exp may differ by batch.
        grown = np.array([math.exp(score) for score in self._booster.scores(self.trees_see(matrix)).tolist()])
        return np.asarray(base * grown)

    def base(self, rows: Floats) -> Floats:
        """Returns level · exposure."""
        level = np.full(len(rows), self.shape.typical)
        for place in reversed(self._level):
            level = np.where(rows[:, place] > 0, rows[:, place], level)
        if self.shape.like:
            level = self._young_level(rows)
        return level * np.maximum(rows[:, self._exposure], 0.0)

    def trees_see(self, matrix: Floats) -> Floats:
        """Returns rows as trees see them: without the level of a like, which is all that it says."""
        if self.params.young is None:
            return matrix
        seen = matrix.copy()
        seen[:, self._young[0]] = 0.0
        return seen

    def is_young(self, rows: Floats) -> Mask:
        """Returns which rows have too short a past of their own, and name a like: what the youth is asked for."""
        if self.params.young is None or self.shape.like:
            return np.zeros(len(rows), np.bool_)
        like, _, exposed = self._young
        return np.asarray((rows[:, like] > 0) & (rows[:, exposed] < self.params.young.until))

    def _young_level(self, rows: Floats) -> Floats:
        if self.params.young is None:
            return np.zeros(len(rows))
        like, rate, exposed = rows[:, self._young].T
        weight, known = self.params.young.weight, np.where(rate >= 0, np.maximum(exposed, 0.0), 0.0)
        return np.asarray((known * rate + weight * self.shape.like * like) / (known + weight))

    def contributions(self, rows: Floats) -> Floats:
        """See `Explaining`; each row adds up to the log of its mean, and last stands a typical unit of exposure.

        The feature that says the level counts against the typical one, the exposure against one unit; what trees add is
        theirs (`NativeBooster.contributions`). A request without exposure has a mean of 0, whose log is −inf.
        """
        matrix = checked(rows, width=len(self._names))
        found = np.zeros((len(rows), len(self._names) + 1))
        if self._booster is not None:
            found += self._booster.contributions(self.trees_see(matrix))
        found[:, -1] += math.log(max(self.shape.typical * self.shape.scale, _TINY))
        for place, says, level in self._levels_of(matrix):
            found[says, place] += np.log(level / max(self.shape.typical, _TINY))
        with np.errstate(divide="ignore"):
            found[:, self._exposure] += np.log(np.maximum(matrix[:, self._exposure], 0.0))
        young = self.is_young(matrix)
        if self.youth is not None and young.any():
            found[young] = self.youth.contributions(matrix[young])
        return found

    def _levels_of(self, matrix: Floats) -> Iterator[tuple[int, Mask, Floats]]:
        """Yields each feature that says levels, of which rows, and what it says."""
        is_open = np.ones(len(matrix), np.bool_)
        if self.shape.like:
            yield self._young[0], is_open, np.maximum(self._young_level(matrix), _TINY)
            return
        for place in self._level:
            says = is_open & (matrix[:, place] > 0)
            yield place, says, matrix[says, place]
            is_open &= ~says

    def _quantiles(self, mean: Floats) -> Floats:
        from scipy.special import gammaincinv

        shape, scale = spread(mean, self.shape.k)
        group = np.searchsorted(self.shape.edges, mean)
        levels = np.array(self.shape.moved or (self.params.levels,))[group]
        found = gammaincinv(shape[:, None], levels) * scale[:, None]
        return np.asarray(np.where(mean[:, None] > 0, found, 0.0))

    def save(self, folder: Path) -> Mapping[str, Any]:
        """See `Model.save`."""
        youth, told = self.youth, {"sha256": _kept(folder / FILE, self.texts), "k": self.shape.k}
        if youth is not None:
            told["young_sha256"] = _kept(folder / YOUNG_FILE, youth.texts)
        saved = _Saved(self.shape, self.params, self._names, None if youth is None else youth.shape)
        (folder / SHAPE_FILE).write_bytes(msgspec.json.encode(saved))
        return told


def _kept(path: Path, texts: tuple[bytes, ...]) -> str:
    """Writes a model's text, if there is any, and returns its hash."""
    for text in texts:
        path.write_bytes(text)
    return "".join(hashlib.sha256(text).hexdigest() for text in texts)


def spread(mean: Floats, k: float) -> tuple[Floats, Floats]:
    """Returns shape and scale of the gamma distribution of a mean and the variance mean + mean² / k."""
    scale = 1 + mean / k
    return np.maximum(mean / scale, _TINY), scale


def load(folder: Path, settings: Mapping[str, Any]) -> QuantityModel:
    """Returns the model of a folder.

    Raises:
        ModelError: a file is missing or damaged.
    """
    try:
        saved = msgspec.json.decode((folder / SHAPE_FILE).read_bytes(), type=_Saved)
    except (OSError, msgspec.DecodeError) as error:
        raise ModelError(
            where=f"model file {SHAPE_FILE}",
            given=f"a file that cannot be read ({type(error).__name__})",
            expected="what the training run wrote",
            fix="Roll back with `decalog models rollback`, restore it from a backup, or train again.",
        ) from None
    texts = []
    for name, file in (("sha256", FILE), ("young_sha256", YOUNG_FILE)):
        texts.append(read_whole(folder / file, sha256=settings[name]) if settings.get(name) else b"")
    made = partial(QuantityModel, params=saved.params, names=saved.names)
    youth = None if saved.youth is None else made(texts[1], saved.youth)
    return made(texts[0], saved.shape, youth=youth)


def fit(data: QuantitySet, seed: int, *, params: QuantityParams) -> QuantityModel:
    """Returns a model fitted to a training set; the same inputs and seed give the same bytes.

    Args:
        data: to learn from, in the order of time; requests of which nothing was told are left out.
        seed: of the trees and of the draws that calibrate counts.
        params: chosen before the fit.

    Raises:
        DataError: nothing, or nothing above 0, is known of the requests.
    """
    data = data.take(np.isfinite(data.expected) & (data.expected >= 0))
    if params.is_as_told:
        data = msgspec.structs.replace(data, expected=data.labels, drawn=data.labels)
    data = msgspec.structs.replace(data, rows=np.ascontiguousarray(checked(data.rows, width=len(data.names))))
    model = _fitted(data, seed, params=params)
    past = aged(data, seed, params=params)
    if past is None:
        return model
    youth = _fitted(past, seed, params=params, like=_ratio(data, params, scale=model.shape.scale))
    return QuantityModel(b"".join(model.texts), model.shape, params=params, names=data.names, youth=youth)


def _fitted(data: QuantitySet, seed: int, *, params: QuantityParams, like: float = 0.0) -> QuantityModel:
    """Returns a model of levels of its own, or of those of likes."""
    split = data.n - max(1, int(data.n * params.held_out))
    if split < 1 or not np.any(data.expected[:split] > 0):
        raise DataError(
            where="training set",
            given=f"{data.n} requests, of which nothing above 0 is known before the latest {params.held_out:.0%}",
            expected="quantities that came, some of them above 0",
            fix="Train on a longer part of the log, or wait until outcomes are told.",
        )
    early, late = data.take(np.arange(data.n) < split), data.take(np.arange(data.n) >= split)
    tried, trees = _grown(early, late, seed=seed, params=params, like=like)
    shape = _shaped(tried, late, seed=seed)
    whole = _based(data, params, like=like)
    whole = msgspec.structs.replace(whole, k=shape.k, edges=shape.edges, moved=shape.moved)
    bare = QuantityModel(b"", whole, params=params, names=data.names)
    return QuantityModel(_grow(bare, data, seed=seed, trees=trees), whole, params=params, names=data.names)


def aged(data: QuantitySet, seed: int, *, params: QuantityParams) -> QuantitySet | None:
    """Returns the requests that name a like, their own past hidden but for a simulated age; None for too few."""
    young = params.young
    if young is None:
        return None
    some = data.take(data.rows[:, data.names.index(young.like)] > 0)
    if some.n < young.least:
        return None
    rows, age = some.rows.copy(), np.random.default_rng(seed).integers(len(young.ages), size=some.n)
    rows[:, _places(data, young.hidden)] = [*young.hidden.values()]
    rate, exposed = _places(data, (young.rate, young.exposed))
    for number, one in enumerate(young.ages):
        at, known = np.flatnonzero(age == number), _places(data, one.known)
        rows[at[:, None], known] = some.rows[at[:, None], known]
        rows[at, exposed] = one.exposed
        rows[at, rate] = some.rows[at, data.names.index(one.rate)] if one.rate else young.hidden[young.rate]
    return msgspec.structs.replace(some, rows=rows)


def _places(data: QuantitySet, names: Iterable[str]) -> list[int]:
    return [data.names.index(name) for name in names]


def _based(data: QuantitySet, params: QuantityParams, *, like: float) -> Shape:
    """Returns level and scale, without a shape."""
    exposure = np.maximum(data.rows[:, data.names.index(params.exposure)], 0.0)
    typical = float(np.sum(data.expected) / max(float(np.sum(exposure)), _TINY))
    shape = Shape(scale=1.0, typical=typical, k=1.0, like=like)
    bare = QuantityModel(b"", shape, params=params, names=data.names)
    # No level is in the feature's unit until it is scaled: what is typical is divided by the scale again.
    rows = data.rows
    said = np.any(rows[:, [data.names.index(name) for name in params.level]] > 0, axis=1) | (like > 0)
    base = bare.base(rows)
    scale = float(np.sum(data.expected[said]) / max(float(np.sum(base[said])), _TINY)) if said.any() else 1.0
    return Shape(scale=scale, typical=typical / scale, k=1.0, like=like)


def _ratio(data: QuantitySet, params: QuantityParams, *, scale: float) -> float:
    """Returns what comes over what comes of likes, of those that name one."""
    if params.young is None:
        return 1.0
    like, exposure = (
        np.maximum(data.rows[:, data.names.index(one)], 0.0) for one in (params.young.like, params.exposure)
    )
    base = float(np.sum(like * exposure)) * scale
    return max(float(np.sum(data.expected[like > 0])) / base, _TINY) if base > 0 else 1.0


def _grown(
    early: QuantitySet, late: QuantitySet, *, seed: int, params: QuantityParams, like: float
) -> tuple[QuantityModel, int]:
    """Returns a model of the earlier part, and how many trees were best on the later one."""
    bare = QuantityModel(b"", _based(early, params, like=like), params=params, names=early.names)
    if not params.trees:
        return bare, 0
    import lightgbm  # seconds: only training pays them

    settings = _settings(early, seed, params)
    learnt, held = (_dataset(bare, part, settings) for part in (early, late))
    stop = lightgbm.early_stopping(params.patience, verbose=False)
    booster = lightgbm.train(settings, learnt, params.trees, valid_sets=[held], callbacks=[stop])
    trees = int(booster.best_iteration)
    return QuantityModel(model_text(booster, trees), bare.shape, params=params, names=early.names), trees


def _grow(bare: QuantityModel, data: QuantitySet, *, seed: int, trees: int) -> bytes:
    if not trees:
        return b""
    import lightgbm

    settings = _settings(data, seed, bare.params)
    return model_text(lightgbm.train(settings, _dataset(bare, data, settings), trees), trees)


def _settings(data: QuantitySet, seed: int, params: QuantityParams) -> dict[str, Any]:
    return lightgbm_settings(data.names, seed, params=params) | {"objective": "poisson", "metric": "poisson"}


def _dataset(bare: QuantityModel, data: QuantitySet, settings: dict[str, Any]) -> Any:
    """Returns the rows with something to come in LightGBM's form; the level enters as where trees begin."""
    import lightgbm

    mean = bare.mean(data.rows)
    there = mean > 0
    rows = bare.trees_see(data.rows[there])
    return lightgbm.Dataset(
        rows, data.expected[there], init_score=np.log(mean[there]), params=settings, free_raw_data=False
    )


def _shaped(model: QuantityModel, late: QuantitySet, *, seed: int) -> Shape:
    """Returns the shape by which what came later was as likely as it was said to be."""
    mean = model.mean(late.rows)
    there = (mean > 0) & np.isfinite(late.drawn)
    mean, came = mean[there], late.drawn[there]
    if not len(mean):
        return model.shape
    k = max(_SHAPES, key=lambda one: _log_likelihood(came, mean, one))
    groups = max(1, min(model.params.groups, len(mean) // _LEAST_A_GROUP))
    edges = np.quantile(mean, np.arange(1, groups) / groups)
    at = _transformed(came, mean, k, rng=np.random.default_rng(seed))
    which = np.searchsorted(edges, mean)
    moved = [np.clip(np.quantile(at[which == group], model.params.levels), _NEAR, 1 - _NEAR) for group in range(groups)]
    return msgspec.structs.replace(
        model.shape, k=k, edges=tuple(edges.tolist()), moved=tuple(tuple(one.tolist()) for one in moved)
    )


def _transformed(came: Floats, mean: Floats, k: float, *, rng: np.random.Generator) -> Floats:
    """Returns where in its distribution each count lay, drawn within its step.

    (Smith, Journal of Forecasting 4, 1985.)
    """
    from scipy.special import gammainc

    shape, scale = spread(mean, k)
    low, high = (gammainc(shape, np.maximum(came + half, 0) / scale) for half in (-0.5, 0.5))
    return np.asarray(low + rng.random(len(came)) * (high - low))


def _log_likelihood(came: Floats, mean: Floats, k: float) -> float:
    """Returns the log likelihood of counts under the negative binomial, but for what does not depend on k."""
    from scipy.special import gammaln

    return float(np.sum(gammaln(came + k) - gammaln(k) + k * np.log(k / (k + mean)) + came * np.log(mean / (k + mean))))
