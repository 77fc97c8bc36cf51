"""A regression that trees start from: rates are smoothed, counts taken by their logarithm, absences told apart.

One read of one shown is no rate of 1. Of each rate it is estimated how far things really differ in it (beta-binomial by
moments: J. C. Kleinman, Proportions with extraneous variance, JASA 1973); a rate of little is then near the rate of
all, and its log odds can be added up. Where a log is small, that knows more than trees do: these cut a quotient at some
threshold, and a rare action has too few rows for many cuts. What the sum does not tell is left to them.

Actions have their reasons in common. So a head leans on the sums of the heads before it, and what it has of its own is
held small: who hides little of what they stay on need not be learnt anew from the few things that were hidden.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.compiling import compiled
from decalog.models.base import Floats, TrainingSet
from decalog.models.linear import fit_logistic

RATE, LOG, PLAIN, ABSENT = 0, 1, 2, 3
"""Kinds of terms: log odds of a smoothed rate; ±log(1 + |x|); x; and 1 where x is absent, else 0."""
_KIND, _COLUMN, _OF, _ABSENT, _BASE, _STRENGTH, _MEAN, _SCALE = range(8)
_FAR = 10.0
_LEAST = 1e-4
_WIDE = 5.0
"""What spreads more is taken by its logarithm: counts, places, seconds."""
_LEANS = 1.0
"""Penalty on how much a head leans on another: next to nothing."""
_SPARSE, _SURE = 0.5, 1_000.0
"""Bounds of what a rate is smoothed by: the rate of all counts for so many trials."""


Rate = tuple[str, str]
"""Of which two features one is the quotient: hits of so many trials."""


class Settings(NamedTuple):
    """What is chosen before the fit.

    Attributes:
        rates: features that are quotients; a count that stands in one is no term of its own.
        absent: feature → the value that says that there is none.
        l2: penalty on the weights of the first head, see `linear.fit_logistic`.
        own_l2: on the weights that a head has beside those of the heads before it, on which it leans.
    """

    rates: Mapping[str, Rate]
    absent: Mapping[str, float]
    l2: float
    own_l2: float


class Smoothed(msgspec.Struct, frozen=True, dict=True):
    """Regressions, one a head, over the same terms; the same bits for a row alone or among others.

    Args:
        terms: of each its kind, column, column of trials, value that says absent, rate of all, strength, mean, scale.
        weights: heads × terms, of standardised terms.
        levels: log odds of each head at the means.
    """

    terms: tuple[tuple[float, ...], ...]
    weights: tuple[tuple[float, ...], ...]
    levels: tuple[float, ...]

    @functools.cached_property
    def _arrays(self) -> tuple[Floats, Floats, Floats]:
        """Terms, weights (terms × heads) and levels: made anew they took a tenth of the time of the sums."""
        return np.array(self.terms), np.ascontiguousarray(np.array(self.weights).T), np.array(self.levels)

    def logits(self, rows: Floats) -> Floats:
        """Returns log odds, n × heads."""
        terms, weights, levels = self._arrays
        logits: Floats = _sums(rows, terms, weights) + levels
        return logits

    def contributions(self, rows: Floats, head: int) -> Floats:
        """Returns what each column of a row, and the level, adds to a head: n × (width + 1)."""
        terms, found = self._arrays[0], np.zeros((len(rows), rows.shape[1] + 1))
        found[:, -1] = self.levels[head]
        np.add.at(found.T, terms[:, _COLUMN].astype(np.int64), (_standard(rows, terms) * self.weights[head]).T)
        return found


def fit(
    names: Sequence[str],
    rows: Floats,
    *,
    labels: Floats,
    positions: npt.NDArray[np.int64],
    settings: Settings,
) -> Smoothed:
    """Returns the regressions of greatest penalised likelihood, as at the first position.

    Args:
        names: of the features, one a column.
        rows: to learn from.
        labels: n × heads, NaN where not known; a head that has not both labels adds nothing. Those with most positives
            should stand first: the others lean on them.
        positions: of the rows; log(1 + position) is fitted beside the terms, and is 0 afterwards. All 0: no such term.
        settings: what is chosen before.
    """
    terms = _standardised(rows, np.array(list(_terms(names, rows, settings=settings))))
    told = np.column_stack([_standard(rows, terms), np.log1p(positions)])
    weights, levels = np.zeros((labels.shape[1], len(terms))), np.zeros(labels.shape[1])
    for head, column in enumerate(labels.T):
        known, earlier = ~np.isnan(column), weights[weights.any(axis=1)]
        weights[head], levels[head] = _regression(told[known], column[known], earlier, settings=settings)
    return Smoothed(tuple(map(tuple, terms.tolist())), tuple(map(tuple, weights.tolist())), tuple(levels.tolist()))


def _regression(told: Floats, labels: Floats, earlier: Floats, *, settings: Settings) -> tuple[Floats, float]:
    """Returns the weights of all columns but the last, which is 0 from now on, and the log odds where all are 0.

    `earlier` are the weights of the heads before: their sums are columns too, and in the end parts of the weights.
    """
    width, leans = earlier.shape[1], len(earlier)
    if not 0 < np.sum(labels) < len(labels):
        return np.zeros(width), 0.0
    rows = np.column_stack([told, np.einsum("nt,ht->nh", told[:, :width], earlier)])  # no threads: the same bits
    l2 = np.repeat([settings.own_l2 if leans else settings.l2, settings.l2, _LEANS], [width, 1, leans])
    none = np.zeros(len(labels), np.int64)
    fitted = fit_logistic(TrainingSet(tuple(map(str, range(rows.shape[1]))), rows, labels, none, none), 0, l2=l2)
    scales = np.array(fitted.scales)
    weights = np.array(fitted.weights) / np.where(scales > 0, scales, 1.0)
    level = fitted.intercept - float(np.sum(weights * np.array(fitted.means)))
    return weights[:width] + np.einsum("h,ht->t", weights[width + 1 :], earlier), level


def _terms(names: Sequence[str], rows: Floats, *, settings: Settings) -> Iterator[tuple[float, ...]]:
    """Yields the terms, not yet standardised."""
    rates, absent = settings.rates, settings.absent
    parts = {part for rate in rates.values() for part in rate}
    for column, name in enumerate(names):
        values, none = rows[:, column], absent.get(name, 0.0)
        if name in rates:
            hits, of = (names.index(part) for part in rates[name])
            base, strength = _beliefs(np.maximum(rows[:, hits], 0.0), np.maximum(rows[:, of], 0.0))
            yield RATE, column, of, hits, base, strength, 0.0, 1.0
        elif name not in parts:
            is_absent = values == none
            kind = LOG if np.std(np.where(is_absent, 0.0, values)) > _WIDE else PLAIN
            yield kind, column, column, none, 0.0, 0.0, 0.0, 1.0
            if none and is_absent.any():
                yield ABSENT, column, column, none, 0.0, 0.0, 0.0, 1.0


def _beliefs(hits: Floats, of: Floats) -> tuple[float, float]:
    """Returns the rate of all, and for how many trials it counts: the fewer, the more things differ in it."""
    tried = of > 0
    hits, of = np.minimum(hits, of)[tried], of[tried]
    base = float((np.sum(hits) + 0.5) / (np.sum(of) + 1.0))
    chance = base * (1.0 - base)
    spread = float(np.average((hits / of - base) ** 2, weights=of)) if len(of) else 0.0
    apart = spread - chance * len(of) / max(float(np.sum(of)), 1.0)
    return base, float(np.clip(chance / max(apart, _LEAST * chance) - 1.0, _SPARSE, _SURE))


def _standardised(rows: Floats, terms: Floats) -> Floats:
    """Returns the terms with mean and scale; one that never varies is left out."""
    raw = _standard(rows, terms)
    terms[:, _MEAN], terms[:, _SCALE] = np.mean(raw, axis=0), np.std(raw, axis=0)
    return np.ascontiguousarray(terms[terms[:, _SCALE] > _LEAST * np.maximum(np.abs(terms[:, _MEAN]), _LEAST)])


def _standard(rows: Floats, terms: Floats) -> Floats:
    return _sums(rows, terms, np.eye(len(terms)))


def _sums(rows: Floats, terms: Floats, weights: Floats) -> Floats:
    """Returns Σ weight · term, n × the columns of the weights."""
    found, columns = np.zeros((weights.shape[1], len(rows))), np.array(rows.T, np.float64, order="C")
    _adder()(columns, np.ascontiguousarray(terms), np.ascontiguousarray(weights), found)
    return np.ascontiguousarray(found.T)


@functools.cache
def _adder() -> Callable[..., None]:
    """Returns the loop over terms and rows, compiled when it is first asked for: numba takes a while to import."""
    value, table = compiled(None)(_values), "float64[:, ::1]"

    def _add_up(columns: Floats, terms: Floats, weights: Floats, out: Floats) -> None:
        # Term by term over all rows: what a row adds up stays in order, and several rows go at once.
        values = np.empty(columns.shape[1])
        for place in range(terms.shape[0]):
            value(columns, terms[place], values)
            for row in range(values.shape[0]):
                standard = (values[row] - terms[place, _MEAN]) / terms[place, _SCALE]
                values[row] = min(max(standard, -_FAR), _FAR)
            for head in range(out.shape[0]):
                for row in range(values.shape[0]):
                    out[head, row] += values[row] * weights[place, head]

    return compiled(f"void({table}, {table}, {table}, {table})")(_add_up)


def _values(columns: Floats, term: Floats, values: Floats) -> None:
    """Writes what a term is in each row, not yet standardised."""
    kind, column = int(term[_KIND]), columns[int(term[_COLUMN])]
    if kind == RATE:
        trials, counts, base, strength = (
            columns[int(term[_OF])],
            columns[int(term[_ABSENT])],
            term[_BASE],
            term[_STRENGTH],
        )
        for row in range(values.shape[0]):
            of = max(trials[row], 0.0)
            rate = (min(max(counts[row], 0.0), of) + strength * base) / (of + strength)
            rate = min(max(rate, _LEAST), 1.0 - _LEAST)
            values[row] = np.log(rate / (1.0 - rate))
        return
    for row in range(values.shape[0]):
        value, is_absent = column[row], column[row] == term[_ABSENT]
        if kind == ABSENT:
            value = 1.0 if is_absent else 0.0
        elif is_absent:
            value = 0.0
        elif kind == LOG:
            value = np.log1p(value) if value > 0.0 else -np.log1p(-value)
        values[row] = value
