"""Metrics of quantities with their intervals: rows are requests, and what they are about is what a bootstrap draws.

Days of one item hang together, so intervals are of samples of items, not of rows. What was told may be a lower bound.
Leaving such rows out would judge by the days on which little was wanted, and taking the bound would reward who
forecasts too little: quantiles are scored by a draw of what stands behind it, means by what is expected there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.metrics import Floats, Int64s, Measurement, interval, need

_REPEATS = 200
_PERCENT = 100


class Quantities(msgspec.Struct, frozen=True, kw_only=True):
    """Requests with what was forecast and chosen; all arrays have one entry a request.

    Args:
        heads: what is predicted: a mean, and quantiles whose names end in their percent (`demand_q05`).
        labels: float64, what was told; NaN where nothing was.
        bounds: of which that is a lower bound.
        expected, drawn: float64, see `models.base.QuantitySet`.
        predictions: float64, n × heads; NaN where nothing was predicted.
        chosen: float64, the quantity that was chosen.
        worth: float64, minor units that it brought, by what is expected.
        groups: int64, what each is about.
        times: int64, µs of the decision.
        facts: public values of each request.
        seed: of the bootstrap.
    """

    heads: tuple[str, ...]
    labels: Floats
    bounds: npt.NDArray[np.bool_]
    expected: Floats
    drawn: Floats
    predictions: Floats
    chosen: Floats
    worth: Floats
    groups: Int64s
    times: Int64s
    facts: tuple[Mapping[str, int | float | str | bool], ...] = ()
    seed: int = 0

    @property
    def n(self) -> int:
        """The number of requests."""
        return len(self.labels)

    def take(self, rows: npt.NDArray[np.bool_]) -> Quantities:
        """Returns the requests of a mask."""
        arrays = ("labels", "bounds", "expected", "drawn", "predictions", "chosen", "worth", "groups", "times")
        return msgspec.structs.replace(
            self,
            **{name: getattr(self, name)[rows] for name in arrays},
            facts=tuple(fact for fact, is_taken in zip(self.facts, rows.tolist(), strict=False) if is_taken),
        )

    @property
    def mean(self) -> Floats:
        """The first head, which is the mean."""
        return np.asarray(self.predictions[:, 0])

    @property
    def levels(self) -> Floats:
        """Levels of the quantile heads, rising."""
        return levels_of(self.heads)

    def quantile(self, level: float) -> Floats:
        """Returns the predicted quantile of a level.

        Raises:
            DataError: no head has it.
        """
        places = np.flatnonzero(np.isclose(self.levels, level))
        need(len(places) > 0, "quantiles", expected=f"a head of the level {level}")
        return np.asarray(self.predictions[:, 1 + int(places[0])])

    def fact(self, name: str) -> Floats:
        """Returns a public number of each request; 0 where it is absent."""
        return np.array([float(one.get(name, 0)) for one in self.facts], np.float64)


def levels_of(heads: tuple[str, ...]) -> Floats:
    """Returns the levels of quantile heads, which stand after the mean's.

    >>> levels_of(("demand_mean", "demand_q05", "demand_q50")).tolist()
    [0.05, 0.5]
    """
    return np.array([int(head.rpartition("q")[2]) / _PERCENT for head in heads[1:]])


def weights_of(levels: Sequence[float]) -> tuple[float, ...]:
    """Returns how much of a distribution each quantile stands for: half of the way to its neighbours, or to its end.

    >>> weights_of((0.25, 0.5))
    (0.375, 0.625)
    """
    below, above = (-levels[0], *levels[:-1]), (*levels[1:], 2 - levels[-1])
    return tuple((high - low) / 2 for low, high in zip(below, above, strict=True))


Parts = Callable[[Quantities], tuple[Floats, Floats]]
"""Rows → (above, below), one entry a row each: the measure is Σ above / Σ below."""


def over_groups(parts: Parts, *, repeats: int = _REPEATS) -> Callable[[Quantities], Measurement]:
    """Returns a computation of Σ above / Σ below with the 95 % percentile interval of a bootstrap over groups.

    (Field and Welsh, "Bootstrapping clustered data", JRSS B 69, 2007.) Rows of which `above` or `below` is NaN do not
    count.

    Raises:
        DataError: no row counts.
    """

    def compute(rows: Quantities) -> Measurement:
        need(rows.n > 0, "metrics of quantities", expected="at least one request")
        above, below = parts(rows)
        counts = np.isfinite(above) & np.isfinite(below)
        need(bool(np.any(below[counts] != 0)), "metrics of quantities", expected="a request that counts")
        _, which = np.unique(rows.groups[counts], return_inverse=True)
        sums = [np.bincount(which, side[counts]) for side in (above, below)]
        value, n = float(sums[0].sum() / sums[1].sum()), int(counts.sum())
        rng, size = np.random.default_rng(rows.seed), len(sums[0])
        drawn = rng.integers(size, size=(repeats, size))
        tops, bottoms = (side[drawn].sum(axis=1) for side in sums)
        found = (tops / np.where(bottoms == 0, np.nan, bottoms)).tolist()
        return interval(value, [one for one in found if np.isfinite(one)] or [value], n=n)

    return compute


def pinball(rows: Quantities) -> Floats:
    """Returns the mean pinball loss of each request over its quantiles, twice: about its CRPS; NaN where none was told.

    (Gneiting and Ranjan, Journal of Business and Economic Statistics 29, 2011.)
    """
    return pinball_of(rows.drawn, rows.predictions[:, 1:], heads=rows.heads)


def pinball_of(came: Floats, quantiles: Floats, *, heads: tuple[str, ...]) -> Floats:
    """Returns the same of what came, (n,), and its quantiles, n × levels."""
    gap, levels = came[:, None] - quantiles, levels_of(heads)
    return np.asarray(2 * np.mean(np.maximum(levels * gap, (levels - 1) * gap), axis=1))


def usual_of(expected: Floats, groups: Int64s) -> Floats:
    """Returns what each request's group usually comes to: the mean of what is known of it, 0 where nothing is."""
    _, which = np.unique(groups, return_inverse=True)
    sums, counts = (np.bincount(which, side) for side in (np.nan_to_num(expected), np.isfinite(expected)))
    return np.asarray((sums / np.maximum(counts, 1))[which])
