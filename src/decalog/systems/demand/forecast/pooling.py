"""Many uncertain effects at once: each on its own, each drawn towards those of its kind, and which of them to believe.

An effect measured with error s whose kind has mean m and true spread t is, in expectation, B m + (1 − B) of what was
measured, B = s² / (s² + t²); its interval adds what is not known of m and of t (Morris, Journal of the American
Statistical Association 78, 1983). The true spread is what is expected of it, given how measured effects scatter. Where
most effects are nothing at all and a few are large, a kind is a mixture of both (Efron, Large-Scale Inference, 2010).
Which effects are told as found follows Benjamini and Hochberg (Journal of the Royal Statistical Society B 57, 1995).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_HALVINGS, _GRID = 60, 80
_ROUNDS = 200
_FEWEST = 4
"""Effects that a kind has at least before their spread is measured."""
_RARE, _LEAST_RARE = 0.5, 1e-4
_WIDE, _NOTHING = 1e6, 1e-9


class Kind(NamedTuple):
    """What effects of a kind have in common.

    Args:
        means: of its groups; NaN where no effect of a group was measured.
        errors: standard errors of them.
        spread: true standard deviation around them.
    """

    means: Floats
    errors: Floats
    spread: float


class Drawn(NamedTuple):
    """Effects drawn towards their kind.

    Args:
        value, error: expectation and standard deviation.
        low, high: bounds of an interval.
        common: the part of the standard deviation that all of a group share, since it is that of their mean.
    """

    value: Floats
    error: Floats
    low: Floats
    high: Floats
    common: Floats


def kind_of(measured: Floats, errors: Floats, *, groups: Ints, count: int, usual: float) -> Kind:
    """Returns what measured effects have in common.

    Args:
        measured: effects.
        errors: their standard errors; infinite ones say that nothing was measured.
        groups: of each effect, from 0 on: each group has a mean of its own.
        count: of groups.
        usual: the spread that holds where too few effects were measured to say.
    """
    is_known = np.isfinite(errors)
    values, variances, where = measured[is_known], errors[is_known] ** 2, groups[is_known]
    used = len(np.unique(where))
    spread = _spread(values, variances, where, count=count) if len(values) - used >= _FEWEST else usual
    weight = np.bincount(where, weights=1 / (variances + spread**2), minlength=count)
    means = _means(values, variances + spread**2, where, count=count)
    errors_ = np.where(weight > 0, 1 / np.sqrt(np.where(weight > 0, weight, 1.0)), np.inf)
    return Kind(means, errors_, spread)


def _means(values: Floats, variances: Floats, where: Ints, *, count: int) -> Floats:
    weight = np.bincount(where, weights=1 / variances, minlength=count)
    sums = np.bincount(where, weights=values / variances, minlength=count)
    return np.asarray(np.where(weight > 0, sums / np.where(weight > 0, weight, 1.0), np.nan))


def _spread(values: Floats, variances: Floats, where: Ints, *, count: int) -> float:
    """Returns the true spread that is expected, all spreads being as likely beforehand, means of groups free.

    The likeliest is 0 too often, and then nothing is left of what the effects differ by.
    """
    most = 3 * max(float(np.max(np.abs(values - values.mean()))), float(np.sqrt(np.median(variances))))
    grid = most * np.linspace(0, 1, _GRID) ** 2
    logs = np.array([_log(values, variances + one**2, where, count=count) for one in grid])
    weight = np.exp(logs - logs.max()) * np.gradient(grid)
    return float(np.sum(weight * grid) / weight.sum())


def _log(values: Floats, variances: Floats, where: Ints, *, count: int) -> float:
    """Returns the logarithm of the restricted likelihood."""
    means = _means(values, variances, where, count=count)
    weight = np.bincount(where, weights=1 / variances, minlength=count)
    free = float(np.sum(np.log(weight[weight > 0])))
    return -0.5 * (float(np.sum(np.log(variances) + (values - means[where]) ** 2 / variances)) + free)


def drawn(measured: Floats, errors: Floats, *, groups: Ints, kind: Kind, z: float) -> Drawn:
    """Returns effects drawn towards the mean of their group; those that were not measured are that mean."""
    mean, square = np.nan_to_num(kind.means[groups]), kind.spread**2
    is_known = np.isfinite(errors)
    own = np.where(is_known, errors, 1.0) ** 2
    share = np.where(is_known, own / np.maximum(own + square, 1e-300), 1.0)
    away = np.where(is_known, measured - mean, 0.0)
    of_mean = np.where(np.isfinite(kind.errors[groups]), kind.errors[groups], 0.0) ** 2
    of_spread = 2 * share**2 * away**2 / max(int(is_known.sum()) - len(kind.means) - 2, 1)
    error = np.sqrt(share * square + share**2 * of_mean + np.where(is_known, of_spread, 0.0))
    value = mean + (1 - share) * away
    return Drawn(value, error, value - z * error, value + z * error, share * np.sqrt(of_mean))


class Rare(NamedTuple):
    """Effects most of which are nothing: the share that is something, and spread and mean of those."""

    share: float
    spread: float
    mean: float = 0.0


def rare_of(measured: Floats, errors: Floats, *, usual: Rare, is_centred: bool) -> Rare:
    """Returns how rare effects are and how large, by expectation and maximization.

    Args:
        measured: effects.
        errors: their standard errors; infinite ones say that nothing was measured.
        usual: what it begins with, and what it stays where too few were measured. One effect of that size is supposed
            beside what was measured, so that a size is said where nothing is found.
        is_centred: whether those that are something are so in both directions alike.
    """
    is_known = np.isfinite(errors)
    values, variances = measured[is_known], errors[is_known] ** 2
    if len(values) < _FEWEST:
        return usual
    found = usual
    for _ in range(_ROUNDS):
        chance, square = _chance(values, variances, found), found.spread**2
        count = float(chance.sum()) + 1
        centre = (found.mean * variances + square * values) / (square + variances)
        mean = 0.0 if is_centred else (float(np.sum(chance * centre)) + usual.mean) / count
        away = (centre - mean) ** 2 + square * variances / (square + variances)
        spread = np.sqrt((float(np.sum(chance * away)) + usual.spread**2) / count)
        found = Rare(float(np.clip(chance.mean(), _LEAST_RARE, _RARE)), float(spread), mean)
    return found


def _chance(values: Floats, variances: Floats, rare: Rare) -> Floats:
    """Returns how likely each effect is something."""
    wide = variances + rare.spread**2
    logs = 0.5 * (np.log(variances / wide) + values**2 / variances - (values - rare.mean) ** 2 / wide)
    return np.asarray(1 / (1 + (1 - rare.share) / rare.share * np.exp(-np.minimum(logs, 700))))


def chance_of(measured: Floats, errors: Floats, *, rare: Rare) -> Floats:
    """Returns how likely each effect is something; of one that was not measured, as likely as they are rare."""
    is_known = np.isfinite(errors)
    return _chance(np.where(is_known, measured, 0.0), np.where(is_known, errors, _WIDE) ** 2, rare)


def drawn_rare(measured: Floats, errors: Floats, *, rare: Rare, tail: float) -> Drawn:
    """Returns rare effects drawn towards 0, with the quantiles of `tail` and 1 − `tail` of what they may be."""
    is_known = np.isfinite(errors)
    own, values = np.where(is_known, errors, _WIDE) ** 2, np.where(is_known, measured, 0.0)
    chance = chance_of(measured, errors, rare=rare)
    back = rare.spread**2 / (rare.spread**2 + own)
    centre, width = back * values + (1 - back) * rare.mean, np.sqrt(back * own)
    value = chance * centre
    error = np.sqrt(np.maximum(chance * (width**2 + centre**2) - value**2, 0.0))
    low, high = (_quantile(level, chance, centre, width) for level in (tail, 1 - tail))
    return Drawn(value, error, low, high, np.zeros_like(value))


def _quantile(level: float, chance: Floats, centre: Floats, width: Floats) -> Floats:
    """Returns quantiles of what is 0, or normal by chance."""
    low, high = np.minimum(centre - 8 * width, 0.0), np.maximum(centre + 8 * width, 0.0)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        below = chance * ndtr((middle - centre) / width) + (1 - chance) * (middle >= 0)
        low, high = np.where(below < level, middle, low), np.where(below < level, high, middle)
    return np.asarray(np.where(np.abs(high) < _NOTHING, 0.0, high))


def found(p_values: Floats, *, false_share: float) -> Mask:
    """Returns which effects are told as found, so that of them a share is false at most, in expectation.

    Args:
        p_values: of any shape; NaN where nothing was measured.
        false_share: (0, 1).
    """
    known = np.sort(p_values[np.isfinite(p_values)])
    passes = np.flatnonzero(known <= false_share * np.arange(1, len(known) + 1) / max(len(known), 1))
    bound = known[passes[-1]] if len(passes) else -1.0
    return np.asarray(np.nan_to_num(p_values, nan=2.0) <= bound)
