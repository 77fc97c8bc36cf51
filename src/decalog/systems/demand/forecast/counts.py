"""One model for all series of small counts: a negative binomial by trees, half corrected by heads of single quantiles.

Where a series sells a few pieces a step, its quantiles are small whole numbers, and a tree that learns one of them
alone has little to learn from. Here one set of trees learns the mean (Poisson deviance, as a factor on the series' own
level), another the variance in units of that mean; a negative binomial distribution with both has all quantiles. Three
heads see plain numbers and whose they are, and err elsewhere: half of what they add is taken, in whole numbers again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from decalog.errors import DataError
from decalog.systems.demand.forecast.boosting import HEADS, Settings, check_rows
from decalog.systems.demand.forecast.calendar import Ints, parts
from decalog.systems.demand.forecast.panel import LEVELS, Floats, Forecast, Method, Panel, known_means
from decalog.systems.demand.forecast.windows import Singles, by_origin, by_step, view

SETTINGS = Settings(trees=200, learning_rate=0.03, leaves=31, rows_a_leaf=200, origins=26, held_out=0)
"""WQL at three origins inside train of `bench/quality/demand_complete_journey.py`: .4242, without traits .4261. Without
heads .4263, and .4268 where trees learn the mean by Tweedie deviance. With 15 leaves and one variance a series it was
.4268, and .4313 without `_pace` and `_alike`."""
_LEVEL, _LEAST = 12, 8
"""Latest steps whose mean is a series' level, and steps that have to be known before an origin is learnt from."""
_DECAYS = (0.8, 0.93)
_WINDOWS = (1, 2, 4, 8, 26)
_LONG, _ALIKE = 26, 104
"""Latest steps that unevenness is read from, and that are compared with a step ahead."""
_SHRUNK = 60.0
"""Pieces sold that speak for a series being as restless as all are."""
_LEAST_SPREAD = 1.05


class _Rows(NamedTuple):
    """What is told of rows (series × steps ahead, at one origin or several), one entry a row.

    Args:
        features: float32, rows × features.
        level: float64; what the mean is a multiple of, above 0.
        series: int64; the place in the panel.
    """

    features: Singles
    level: Floats
    series: Ints

    def of(self, places: Ints) -> _Rows:
        """Returns some of the rows."""
        return _Rows(self.features[places], self.level[places], self.series[places])


_Build = Callable[[Panel, int, int], _Rows]
"""From a panel, an origin and a horizon to rows."""


def counted(settings: Settings = SETTINGS, *, traits: Mapping[str, Sequence[object]] | None = None) -> Method:
    """Returns the model of counts as a method: it is fitted at each origin to what was known there.

    `held_out` has no meaning here: the variance is learnt together with the mean.

    Args:
        settings: of the trees.
        traits: of each trait, such as store or category, a value a series, in the panel's order; series share what they
            have in common.

    Raises:
        DataError: when it forecasts: too few rows to learn from, or a value below 0.
    """
    codes = [np.unique([str(value) for value in of], return_inverse=True)[1] for of in (traits or {}).values()]

    def forecast(panel: Panel, horizon: int) -> Forecast:
        end = panel.y.shape[1]
        origins = range(end - horizon, max(_LEAST, 2 * panel.season) - 1, -settings.stride)
        rows, sold = _examples(panel, horizon, settings, origins=origins, build=_rows)
        ahead = _rows(panel, end, horizon)
        mean, expected = _means(settings, rows, sold, ahead)
        spread = _spreads(settings, (rows, sold, mean), (ahead, expected))
        heads = _heads(panel, horizon, settings, codes)
        shape = (len(panel.ids), horizon)
        quantiles = corrected(negative_binomial(expected, spread), heads)
        return Forecast(expected.reshape(shape), quantiles.reshape(*shape, len(LEVELS)))

    named = f", by {' and '.join(traits)}" if traits else ""
    return Method(
        f"counted ({settings.trees} trees, {settings.leaves} leaves, {settings.origins} origins{named})", forecast
    )


def corrected(quantiles: Floats, heads: Floats) -> Floats:
    """Returns quantiles, rows × `LEVELS`, moved half way to what heads say, rows × `HEADS`, as whole numbers.

    Between heads the move is in between, beyond them that of the last: what one head says of 10 % holds for 5 % too.
    """
    between = np.stack([np.interp(LEVELS, HEADS, unit) for unit in np.eye(len(HEADS))])
    moved = quantiles + 0.5 * (heads - quantiles[:, [LEVELS.index(level) for level in HEADS]]) @ between
    found: Floats = np.rint(np.maximum(np.sort(moved, axis=-1), 0.0))
    return found


def negative_binomial(mean: Floats, spread: Floats) -> Floats:
    """Returns the quantiles of `LEVELS`, rows × levels, of counts with a mean and a variance of spread × mean.

    Args:
        mean: float64, rows; above 0.
        spread: float64, rows; above 1, which would be Poisson.
    """
    from scipy.stats import nbinom

    size, chance = mean / (spread - 1), 1 / spread
    found: Floats = nbinom.ppf(np.asarray(LEVELS)[None], size[:, None], chance[:, None])
    return found


def _means(settings: Settings, rows: _Rows, sold: Floats, ahead: _Rows) -> tuple[Floats, Floats]:
    """Returns the mean of each row that was learnt from, and of each that is ahead."""
    told = [_log_factors(settings, seed, rows, sold) for seed in range(settings.seeds)]
    before, after = (
        one.level
        * np.exp(np.mean([booster.predict(one.features, raw_score=True, num_threads=1) for booster in told], axis=0))
        for one in (rows, ahead)
    )
    return before, after


def _log_factors(settings: Settings, seed: int, rows: _Rows, sold: Floats) -> Any:
    import lightgbm

    data = lightgbm.Dataset(rows.features, sold, init_score=np.log(rows.level))
    return lightgbm.train(settings.grown | {"objective": "poisson", "seed": seed}, data, settings.trees)


def _spreads(settings: Settings, learnt: tuple[_Rows, Floats, Floats], ahead: tuple[_Rows, Floats]) -> Floats:
    """Returns the variance of each row that is ahead, in units of its mean.

    A series' own is drawn towards that of all series; trees then say where it is more, and where less.
    """
    import lightgbm

    rows, sold, mean = learnt
    missed = (sold - mean) ** 2
    n = int(ahead[0].series[-1]) + 1
    by_series, pieces = (np.bincount(rows.series, values, minlength=n) for values in (missed, mean))
    own = (by_series + _SHRUNK * missed.sum() / mean.sum()) / (pieces + _SHRUNK)

    def features(of: _Rows, expected: Floats) -> Floats:
        return np.column_stack([of.features, np.log(expected), np.log(own[of.series])])

    data = lightgbm.Dataset(features(rows, mean), missed / mean + 1e-3)
    wide = {"objective": "gamma", "num_leaves": 15, "min_data_in_leaf": 5 * settings.rows_a_leaf, "seed": 0}
    booster = lightgbm.train(settings.grown | wide, data, settings.trees // 2)
    found: Floats = np.maximum(booster.predict(features(*ahead), num_threads=1), _LEAST_SPREAD)
    return found


def _heads(panel: Panel, horizon: int, settings: Settings, codes: list[Ints]) -> Floats:
    """Returns the quantiles of `HEADS` of each row that is ahead; every step of the past is learnt from once."""
    import lightgbm

    plain = partial(_plain, codes=codes)
    end = panel.y.shape[1]
    rows, sold = _examples(panel, horizon, settings, origins=range(end - horizon, 3, -horizon), build=plain)
    ahead = plain(panel, end, horizon).features
    data = lightgbm.Dataset(rows.features, sold, categorical_feature=list(range(len(codes))), free_raw_data=False)
    own = settings.grown | {"objective": "quantile", "learning_rate": 0.05, "feature_fraction": 0.7, "seed": 0}
    told = [
        lightgbm.train(own | {"alpha": level}, data, settings.trees).predict(ahead, num_threads=1) for level in HEADS
    ]
    return np.sort(np.stack(told, axis=-1), axis=-1)


def _plain(panel: Panel, origin: int, horizon: int, codes: list[Ints]) -> _Rows:
    """Returns rows of plain numbers: whose they are, late values and means, what is known ahead, the step."""
    history, steps = panel.y[:, :origin], np.arange(origin, origin + horizon)
    late = by_step(history, panel.seasons, horizon=horizon) | by_origin(history, panel.seasons)
    dates = {} if panel.calendar is None else parts(panel.calendar, steps)
    columns = [
        *(code[:, None] for code in codes),
        *late.values(),
        known_means(history.T, axis=0)[:, None],
        *_pace(history)[-2:],
        *(values[:, steps] for values in panel.known.values()),
        *(values[None] for values in dates.values()),
        steps[None] - origin,
    ]
    shape = (len(history), horizon)
    features = np.stack([np.broadcast_to(column, shape).ravel() for column in columns], axis=-1).astype(np.float32)
    return _Rows(features, np.ones(len(features)), np.arange(len(history)).repeat(horizon))


def _examples(
    panel: Panel, horizon: int, settings: Settings, *, origins: Sequence[int], build: _Build
) -> tuple[_Rows, Floats]:
    """Returns rows of the latest of these origins, drawn evenly from all, and what was sold in each."""
    least = float(np.min(np.nan_to_num(panel.y), initial=0.0))
    if least < 0:
        raise DataError(
            where="model of counts",
            given=f"{least:g} pieces in one step",
            expected="0 or more in every step",
            fix="Run `checked` first: it takes returns as nothing sold.",
        )
    origins = origins[: settings.origins]
    rng, found, sold = np.random.default_rng(0), [], []
    for origin in origins:
        target = panel.y[:, origin : origin + horizon].ravel()
        places = settings.drawn(np.flatnonzero(~np.isnan(target)), origins=len(origins), rng=rng)
        found.append(build(panel, origin, horizon).of(places))
        sold.append(target[places])
    check_rows(sum(map(len, sold)), where="model of counts")
    whole = _Rows(
        np.concatenate([one.features for one in found]),
        np.concatenate([one.level for one in found]),
        np.concatenate([one.series for one in found]),
    )
    return whole, np.concatenate(sold)


def _rows(panel: Panel, origin: int, horizon: int) -> _Rows:
    """Returns what is known after `origin` steps of the steps that follow."""
    history, seen = panel.y[:, :origin], view(panel, origin, horizon=horizon).rows
    own = known_means(history[:, -_LEVEL:].T, axis=0)
    every = max(float(np.nanmean(own)) if np.any(~np.isnan(own)) else 0.0, 1e-3)
    level = (np.where(np.isnan(own), every, own) * _LEVEL + every) / (_LEVEL + 1)
    columns = [*_pace(history), *_alike(panel, origin, horizon, level=level)]
    more = np.stack([np.broadcast_to(column, (len(history), horizon)).ravel() for column in columns], axis=-1)
    features = np.column_stack([seen, more.astype(np.float32)])
    return _Rows(features, level.repeat(horizon), np.arange(len(history)).repeat(horizon))


def _pace(history: Floats) -> list[Floats]:
    """Returns, each series × 1, means of late steps over the level, the newer the heavier, and how uneven they are."""
    late, known = history[:, -_LONG:], ~np.isnan(history)
    level = known_means(history[:, -_LEVEL:].T, axis=0) + 0.2
    found = [known_means(history[:, -steps:].T, axis=0) / level for steps in _WINDOWS]
    for decay in _DECAYS:
        weights = known * decay ** np.arange(history.shape[1])[::-1]
        found.append(np.nansum(history * weights, axis=1) / np.maximum(weights.sum(axis=1), 1e-9) / level)
    mean = known_means(late.T, axis=0)
    found.append(np.sqrt(known_means(((late - mean[:, None]) ** 2).T, axis=0)) / level)
    found.append((late == 0).sum(axis=1) / np.maximum(known[:, -_LONG:].sum(axis=1), 1))
    return [column[:, None] for column in found]


def _alike(panel: Panel, origin: int, horizon: int, *, level: Floats) -> list[Floats]:
    """Returns over the level what a series sold in those earlier steps whose known columns look most like each step's.

    Nothing where nothing is known ahead. A promotion is met by earlier ones, and a plain step by plain ones.
    """
    if not panel.known:
        return []
    first = max(0, origin - _ALIKE)
    history = panel.y[:, first:origin]
    recent = ~np.isnan(history) * 0.97 ** np.arange(history.shape[1])[::-1]
    columns = [values / max(float(values[:, :origin].std()), 1e-9) for values in panel.known.values()]
    found = np.empty((len(history), horizon))
    for step in range(horizon):
        apart = sum((values[:, first:origin] - values[:, [origin + step]]) ** 2 for values in columns)
        weights = recent * np.exp(-0.5 * apart)
        found[:, step] = (np.nansum(weights * history, axis=1) + level) / (weights.sum(axis=1) + 1) / level
    return [found]
