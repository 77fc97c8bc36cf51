"""What was wanted where the shelf was empty: latent demand from censored sales, with its uncertainty.

Sales of an hour are demand as long as there is stock, and nothing after. So for series i, day t and hour h

    demand ~ Poisson(g · m · s),  g ~ Gamma(shape, 1 / shape)

with m the mean of the day, s the share that the hour has of it, and g the day's own luck. Of a day that sold out only
the hours before are seen, and of the hour in which it did, that at least so many were wanted. Hence (Gamma and Poisson
are conjugate) the rest of the day is negative binomial, with more of it the better the day had begun:

    rest | S seen in the share E of the day ~ NB(mean = (1 − E) m · (shape + S) / (shape + E m))

The mean is a product of factors (series, weekday of a category, promotion, store and day, item and week), each fitted
to what was seen against what was exposed, in turns, shrunk towards 1: iterative proportional scaling (Darroch and
Ratcliff, Annals of Mathematical Statistics 43, 1972), an empty hour being no exposure, and each day weighed by
shape / (shape + E m), which solves the equations of the negative binomial. That a day is observed until its stock is
gone does not disturb it: the likelihood of what was seen is the same whatever stopped it. Only which part of its last
hour a day was exposed to is unknown; its expectation stands in (`_last_hour`).
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.errors import DataError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_ROUNDS = 12
_STEPS = 24
_FOLDS, _SPREAD = 5, 7_919
"""A fifth of the days, spread over all series, says how large luck is."""
_PRIOR = 10.0
"""Units that speak for a day without peaks."""
_SHAPES = tuple(np.geomspace(1.0, 200.0, 24).tolist())


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What the tills saw; arrays are series × days, or series × days × hours (of equal length, the opening hours).

    Args:
        units: int64, sold in each hour, ≥ 0.
        empty: whether the shelf was empty when the hour ended.
        known: series × days: days that were told, and on which the store was open.
        kinds: int64, of series: which share one profile of the day (categories).
        factors: name → int64, series × days: the level of a factor of the mean, from 0 on; below 0 where it has none.
        shrunk: name → how many units speak for 1 where a factor is fitted; 0 where it is missing.
    """

    units: Ints
    empty: Mask
    known: Mask
    kinds: Ints
    factors: Mapping[str, Ints]
    shrunk: Mapping[str, float] = {}

    def check(self) -> None:
        """Raises where shapes do not fit, or a count is below 0.

        Raises:
            DataError: which.
        """
        n, days, _ = self.units.shape
        fits = self.empty.shape == self.units.shape and self.known.shape == (n, days) and self.kinds.shape == (n,)
        wrong = [name for name, levels in self.factors.items() if levels.shape != (n, days)]
        if not fits or wrong or (self.units < 0).any():
            factors = f"factors of another shape: {', '.join(wrong)}"
            raise DataError(
                where="latent demand",
                given=factors if wrong else "counts below 0, or other shapes",
                expected="units and empty of series × days × hours, all else of series × days; returns taken out",
                fix="Clean the sales first, then cut them into days of equally many hours.",
            )


class Latent(msgspec.Struct, frozen=True, kw_only=True):
    """Demand as far as it can be told; all are float64, series × days, NaN where a day is not known.

    Args:
        demand: expected units wanted, given what was seen; what was sold where nothing sold out.
        spread: standard deviation of it; 0 where nothing sold out.
        mean: of the day, before looking at it.
        exposed: share of the day's demand that could be seen, in [0, 1].
        sold: units sold while there was stock.
        shape: of series: gamma shape of a day's luck.
        profile: kinds × hours: share of a day's demand.
        factors: name → what each level multiplies the mean by; the last stands for none.
    """

    demand: Floats
    spread: Floats
    mean: Floats
    exposed: Floats
    sold: Floats
    shape: Floats
    profile: Floats
    factors: Mapping[str, Floats]

    def foreseen(self, levels: Mapping[str, Ints]) -> Floats:
        """Returns the mean of days by the levels of their factors: of days to come, those that are known of them."""
        return np.asarray(np.prod([self.factors[name][level] for name, level in levels.items()], axis=0))

    def drawn(self, rng: np.random.Generator) -> Floats:
        """Returns one draw of demand: what was sold, and a rest from its distribution where the shelf was empty.

        A model that learns quantiles from expectations learns them too narrow; from draws it does not.
        """
        rest_mean, size = _rest(self.mean, self.exposed, self.sold, self.shape[:, None])
        is_cut = np.isfinite(self.mean) & (self.exposed < 1)
        made = self.sold.copy()
        luck = rng.gamma(size[is_cut]) / size[is_cut]
        made[is_cut] += rng.poisson(rest_mean[is_cut] * luck)
        return made


def latent(seen: Seen) -> Latent:
    """Returns what was wanted, as far as it can be told.

    Raises:
        DataError: arrays do not fit together.
    """
    seen.check()
    profile = np.full((int(seen.kinds.max(initial=0)) + 1, seen.units.shape[2]), 1 / seen.units.shape[2])
    before = ~np.pad(seen.empty, ((0, 0), (0, 0), (1, 0)))[:, :, :-1] & seen.known[:, :, None]
    whole, last = ~seen.empty & before, seen.empty & before
    sold = np.where(seen.known, np.sum(seen.units * before, axis=2), 0).astype(np.float64)
    mean, shape = np.where(seen.known, max(float(sold.mean()), 1e-9), np.nan), np.full(len(sold), 12.0)
    level, factors, of_most = mean, _ones(seen), _ones(seen)
    apart = np.arange(sold.size).reshape(sold.shape) * _SPREAD % _FOLDS == 0
    for _ in range(_ROUNDS):
        share = profile[seen.kinds][:, None, :]
        part = whole.astype(np.float64)
        part[last] = _last_hour(seen.units[last], (level[:, :, None] * share)[last])
        exposed = np.sum(share * part, axis=2)
        mean = _fitted(factors, seen, sold, exposed, shape)
        # Of days that the factors were fitted to, luck looks smaller than it is.
        foreseen = _fitted(of_most, seen, np.where(apart, 0, sold), np.where(apart, 0, exposed), shape)
        shape = _shape(seen.kinds, sold, foreseen, np.where(apart, exposed, 0))
        level = mean * (shape[:, None] + sold) / (shape[:, None] + exposed * mean)
        profile = _profile(seen, level, part, before)
    rest, size = _rest(mean, exposed, sold, shape[:, None])
    is_cut = seen.known & (exposed < 1)
    gaps = np.where(seen.known, 0.0, np.nan)
    return Latent(
        demand=sold + np.where(is_cut, rest, 0.0) + gaps,
        spread=np.sqrt(np.where(is_cut, rest + rest**2 / size, 0.0)) + gaps,
        mean=mean + gaps,
        exposed=exposed + gaps,
        sold=sold + gaps,
        shape=shape,
        profile=profile,
        factors=factors,
    )


def _ones(seen: Seen) -> dict[str, Floats]:
    return {name: np.ones(int(levels.max(initial=0)) + 2) for name, levels in seen.factors.items()}


def _rest(mean: Floats, exposed: Floats, sold: Floats, shape: Floats) -> tuple[Floats, Floats]:
    """Returns mean and gamma shape of what was wanted after the shelf was empty."""
    size = shape + sold
    return (1 - exposed) * mean * size / (shape + exposed * mean), size


def _fitted(factors: dict[str, Floats], seen: Seen, sold: Floats, exposed: Floats, shape: Floats) -> Floats:
    """Returns the mean of each day, each factor fitted once more to what was seen; the last level stands for none."""
    mean = np.where(seen.known, 1.0, 0.0)
    for name, levels in seen.factors.items():
        mean = mean * factors[name][levels]
    for name, levels in seen.factors.items():
        prior, old = seen.shrunk.get(name, 0.0), factors[name]
        weight = shape[:, None] / (shape[:, None] + exposed * mean)
        got = np.bincount(levels.ravel() % len(old), weights=(weight * sold).ravel(), minlength=len(old))
        due = np.bincount(levels.ravel() % len(old), weights=(weight * mean * exposed).ravel(), minlength=len(old))
        # What is due was scaled by the old factor already: the prior's units are added to both sides at 1.
        new = (got + prior) / np.maximum(due / np.maximum(old, 1e-12) + prior, 1e-12)
        new[-1] = 1.0
        mean = mean * (new / np.maximum(old, 1e-12))[levels]
        factors[name] = np.maximum(new, 1e-9)
    return np.where(seen.known, np.maximum(mean, 1e-9), np.nan)


def _profile(seen: Seen, level: Floats, part: Floats, before: Mask) -> Floats:
    """Returns the share of a day's demand that each hour has, kind by kind.

    Args:
        seen: what the tills saw.
        level: of each day, its luck taken in as far as it was seen: a day that began well was likelier cut short.
        part: of each hour, how much of it there was stock in.
        before: hours that began with stock. Those alone that also ended with some would be the quiet ones.
    """
    found = np.empty((int(seen.kinds.max(initial=0)) + 1, part.shape[2]))
    for kind in range(len(found)):
        rows = seen.kinds == kind
        got = np.sum(seen.units[rows] * before[rows], axis=(0, 1)) + _PRIOR / part.shape[2]
        found[kind] = got / (np.einsum("sd,sdh->h", np.nan_to_num(level[rows]), part[rows]) + _PRIOR)
    return np.asarray(found / found.sum(axis=1, keepdims=True))


def _last_hour(sold: Ints, mean: Floats) -> Floats:
    """Returns which part of the hour in which it sold out the last unit went at, expected.

    The times at which n units are asked for in an hour are uniform, so unit s of n goes at s / (n + 1); n is Poisson,
    at least s. Where it may be many more, not every n is asked for.
    """
    s, m = sold.astype(np.float64), np.maximum(mean, 1e-12)
    span = np.maximum(m + 5 * np.sqrt(m) - s, _STEPS - 1)
    n = s[..., None] + span[..., None] * np.linspace(0, 1, _STEPS)
    logs = n * np.log(m)[..., None] - _log_factorial(n)
    weight = np.exp(logs - logs.max(axis=-1, keepdims=True))
    return np.asarray(np.sum(weight * s[..., None] / (n + 1), axis=-1) / weight.sum(axis=-1))


def _log_factorial(n: Floats) -> Floats:
    """Returns ln n!; Stirling's series, exact to 1e-6 from 1 on (Abramowitz and Stegun, 6.1.41)."""
    x = n + 1.0
    return np.asarray((x - 0.5) * np.log(x) - x + 0.5 * np.log(2 * np.pi) + 1 / (12 * x) - 1 / (360 * x**3))


def _shape(kinds: Ints, sold: Floats, mean: Floats, exposed: Floats) -> Floats:
    """Returns the gamma shape of a day's luck, kind by kind: the likeliest of a grid, by the negative binomial."""
    found = np.empty(int(kinds.max(initial=0)) + 1)
    for kind in range(len(found)):
        rows = (kinds == kind)[:, None] & (exposed > 0) & np.isfinite(mean)
        got, due = sold[rows], (exposed * mean)[rows]
        found[kind] = max(_SHAPES, key=lambda shape: _log_likelihood(got, due, shape))
    return found[kinds]


def _log_likelihood(got: Floats, due: Floats, shape: float) -> float:
    known = _log_factorial(shape + got - 1) - _log_factorial(np.array(shape - 1))
    return float(np.sum(known - got * np.log(shape + due) + shape * np.log(shape / (shape + due))))
