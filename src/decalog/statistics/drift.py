"""Whether a feature's values are still what they were: counted once into few cells, compared in any number of ways.

A reference is a grid of about 32 cells a feature and its counts: small, and mergeable by adding. A finding takes both:
significance that the number of comparisons was paid for (`screening`), and an effect above a floor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.errors import DataError
from decalog.metrics import Floats, Int64s
from decalog.statistics.columns import column
from decalog.statistics.distributions import chi_squared_tail, kolmogorov_tail, log_gamma

Kind = Literal["distribution", "nulls", "new values"]

_CELLS = 32
_MANY = 100.0  # rows above which a share's likelihood ratio is as good as the exact test
_FEW = 5.0  # expected rows below which a cell's count is no χ² (Cochran, Biometrics 10, 1954)


class Numbers(msgspec.Struct, frozen=True):
    """The grid of a feature of numbers: its cells hold about as many reference rows each.

    The first cell lies below all reference values and the last above them: what falls there is new. NaN has a cell of
    its own, behind the last.

    Args:
        name: of the feature.
        edges: float64, rising; a cell holds (edge before, edge], and the last edge is +∞.
    """

    name: str
    edges: Floats

    @property
    def known(self) -> int:
        """Cells of values; that of nulls comes behind them."""
        return len(self.edges)

    @property
    def new(self) -> tuple[int, ...]:
        """Cells of values that the reference had not."""
        return 0, self.known - 1

    def count(self, values: npt.ArrayLike) -> Int64s:
        """Returns how many rows lie in each cell, int64 of shape (known + 1,); counts of parts of the rows add up.

        Args:
            values: numbers, NaN where a row has none.
        """
        # Sorting a million is five times as fast as placing each among 32 edges; NaN sorts behind +∞, the last edge.
        rows = np.sort(np.asarray(values, np.float64))
        return np.diff(np.append(np.searchsorted(rows, self.edges, side="right"), len(rows)), prepend=0)


class Categories(msgspec.Struct, frozen=True):
    """The grid of a feature of categories: a cell for each that is kept, one for all others, and one for nulls.

    Args:
        name: of the feature.
        values: the categories that are kept, sorted.
    """

    name: str
    values: tuple[str, ...]

    @property
    def known(self) -> int:
        """Cells of values; that of nulls comes behind them."""
        return len(self.values) + 1

    @property
    def new(self) -> tuple[int, ...]:
        """The cell of categories that are not kept."""
        return (len(self.values),)

    def count(self, values: Iterable[str | None]) -> Int64s:
        """Returns how many rows lie in each cell, int64 of shape (known + 1,); counts of parts of the rows add up.

        Args:
            values: text, "" or None where a row has none.
        """
        places = {value: place for place, value in enumerate(self.values)}
        cells = np.zeros(self.known + 1, np.int64)
        for value, rows in Counter(values).items():
            cells[places.get(value, self.known - 1) if value else self.known] += rows
        return cells


Grid = Numbers | Categories


class Shift(msgspec.Struct, frozen=True, kw_only=True):
    """One way in which a feature is compared with its reference.

    Args:
        feature: its name.
        kind: what is compared.
        effect: how large it is: excess PSI of a distribution; of nulls and of new values the change of their share.
        p_value: of "it is as it was".
        reference, current: rows of either.
        measures: of a distribution: psi, psi_expected, jensen_shannon (bits), and of numbers kolmogorov_smirnov and
            wasserstein (in interquartile ranges of the reference); of shares: reference, current.
    """

    feature: str
    kind: Kind
    effect: float
    p_value: float
    reference: int
    current: int
    measures: dict[str, float]


def numbers(name: str, values: npt.ArrayLike, *, cells: int = _CELLS) -> Numbers:
    """Returns the grid whose cells hold equal shares of reference values; a value that would fill several has one.

    Raises:
        DataError: no value is a number, or one is infinite.

    >>> numbers("age_s", [1.0, 2.0, 3.0, 4.0], cells=2).edges.round(3).tolist()
    [1.0, 2.0, 4.0, inf]
    """
    rows = np.asarray(values, np.float64)
    found = np.sort(column(rows[~np.isnan(rows)], f"reference of {name}"))
    inner = found[-(-len(found) * np.arange(1, cells + 1) // cells) - 1]
    # A cell holds its upper edge: the one below the smallest value ends just before it.
    return Numbers(name, np.unique(np.concatenate(([np.nextafter(found[0], -np.inf)], inner, [np.inf]))))


def categories(name: str, values: Iterable[str | None], *, cells: int = _CELLS) -> Categories:
    """Returns the grid that keeps the most frequent reference categories.

    Raises:
        DataError: no row has one.

    >>> categories("country", ["de", "fr", "de", None]).values
    ('de', 'fr')
    """
    counts = Counter(value for value in values if value)
    if not counts:
        raise DataError(
            where=f"reference of {name}",
            given="no row with a category",
            expected="at least one",
            fix="Take the reference from rows that have the feature.",
        )
    most = sorted(counts, key=lambda value: (-counts[value], value))[:cells]
    return Categories(name, tuple(sorted(most)))


def reference_of_numbers(name: str, values: npt.ArrayLike, *, cells: int = _CELLS) -> tuple[Numbers, Int64s]:
    """Returns a grid laid by the reference, and the counts of the reference on it.

    Raises:
        DataError: no value is a number, or one is infinite.
    """
    grid = numbers(name, values, cells=cells)
    return grid, grid.count(values)


def reference_of_categories(
    name: str, values: Iterable[str | None], *, cells: int = _CELLS
) -> tuple[Categories, Int64s]:
    """Returns a grid laid by every second row of the reference, and the counts of the other rows on it.

    Rows that choose which categories are kept have more of them than any others will: counted themselves, they would
    make drift out of nothing. (Quantiles of numbers have no such error: what falls between them is as random as a row.)

    Raises:
        DataError: no row has one.
    """
    rows = list(values)
    grid = categories(name, rows[::2], cells=cells)
    return grid, grid.count(rows[1::2])


def compare(grid: Grid, reference: Int64s, *, current: Int64s, inflation: float = 1.0) -> tuple[Shift, ...]:
    """Returns how the current counts differ from those of the reference: distribution, nulls, and new values.

    Args:
        grid: of the feature.
        reference: counts of its cells then.
        current: counts of its cells now.
        inflation: how much more counts vary than those of independent rows (`overdispersion`), ≥ 1; tests are
            judged by as many rows fewer (Rao and Scott, Annals of Statistics 12, 1984, first order).

    Raises:
        DataError: counts are not the grid's, or one side has no rows.
    """
    for side, counts in (("reference", reference), ("current", current)):
        where = f"drift of {grid.name}, {side} counts"
        column(counts, where, low=0.0, n=grid.known + 1)
        if not np.any(counts):
            raise DataError(
                where=where, given="no rows", expected="at least one", fix="Compare when there are rows to compare."
            )
    nulls = _share(grid, "nulls", reference=reference, current=current, cells=(-1,), inflation=inflation)
    before, now = reference[: grid.known].astype(np.float64), current[: grid.known].astype(np.float64)
    if not (np.any(before) and np.any(now)):
        return (nulls,)
    new = _share(grid, "new values", reference=before, current=now, cells=grid.new, inflation=inflation)
    return _distribution(grid, before, current=now, inflation=inflation), nulls, new


def effects(grid: Grid, reference: Int64s, *, parts: npt.ArrayLike) -> dict[Kind, Floats]:
    """Returns the effects that `compare` finds between a reference and each of many parts, without its tests.

    Args:
        grid: of the feature.
        reference: counts of its cells then.
        parts: parts × cells, counts, rows in each.

    Returns:
        Kind of shift → its effect in each part; in those that have any value, but for nulls.
    """
    counts = np.asarray(parts, np.int64).reshape(-1, grid.known + 1)
    nulls = np.abs(_share_of(counts, (-1,)) - _share_of(reference, (-1,)))
    before, now = reference[: grid.known].astype(np.float64), counts[:, : grid.known].astype(np.float64)
    now = now[np.any(now, axis=1)]
    if not np.any(before):
        return {"nulls": nulls}
    new = np.abs(_share_of(now, grid.new) - _share_of(before, grid.new))
    return {"distribution": _stability(before, now) - _usual_stability(before, now), "nulls": nulls, "new values": new}


def _share_of(counts: npt.NDArray[Any], cells: tuple[int, ...]) -> Floats:
    """Returns which share of the rows lies in some cells."""
    return np.asarray(np.sum(counts[..., list(cells)], axis=-1) / np.sum(counts, axis=-1))


def overdispersion(parts: npt.ArrayLike) -> float:
    """Returns how much more counts vary from part to part (day to day, say) than those of independent rows; ≥ 1.

    Rows of one customer hang together and Mondays are no Sundays; measured on the reference, that is what `compare`
    needs to expect of any day. The larger of χ² of homogeneity over its degrees of freedom, and of the same for sums of
    cells up to each: a customer's rows lie in neighbouring cells, so that sums vary more than each.

    Args:
        parts: parts × cells, counts of the reference.

    Raises:
        DataError: there are fewer than two parts.

    >>> overdispersion([[50, 50], [50, 50]]), overdispersion([[90, 10], [10, 90]])
    (1.0, 128.0)
    """
    counts = np.atleast_2d(np.asarray(parts, np.float64))
    counts = counts[np.sum(counts, axis=1) > 0]
    if len(counts) < 2:  # noqa: PLR2004 - between parts
        raise DataError(
            where="overdispersion",
            given=f"{len(counts)} parts with rows",
            expected="at least two",
            fix="Count the reference day by day.",
        )
    expected = np.outer(np.sum(counts, axis=1), np.sum(counts, axis=0)) / np.sum(counts)
    often = np.min(expected, axis=0) >= _FEW
    together = np.column_stack([counts[:, often], np.sum(counts[:, ~often], axis=1)])
    pooled = np.column_stack([expected[:, often], np.sum(expected[:, ~often], axis=1)])
    filled = np.sum(pooled, axis=0) > 0
    freedom = (len(counts) - 1) * (int(np.sum(filled)) - 1)
    square = float(np.sum((together[:, filled] - pooled[:, filled]) ** 2 / pooled[:, filled]))
    rows = np.sum(counts, axis=1)
    shares = np.cumsum(np.sum(counts, axis=0)) / np.sum(counts)
    strays = np.sum((np.cumsum(counts, axis=1) - np.outer(rows, shares)) ** 2 / rows[:, None])
    usual = (len(counts) - 1) * float(np.sum(shares * (1 - shares)))
    # Where rows are few all cells count as one, which says nothing; the sums still do.
    by_cells = square / freedom if freedom else 1.0
    return max(by_cells, float(strays) / usual if usual else 1.0, 1.0)


def _distribution(grid: Grid, reference: Floats, *, current: Floats, inflation: float) -> Shift:
    rows, more = float(np.sum(reference)), float(np.sum(current))
    measures = {
        "psi": population_stability(reference, current),
        "psi_expected": float(_usual_stability(reference, current)) * inflation,
        "jensen_shannon": jensen_shannon(reference, current),
    }
    statistic, freedom = _likelihood_ratio(reference, current)
    p_value = float(chi_squared_tail(statistic / inflation, freedom))
    if isinstance(grid, Numbers):
        gaps = np.abs(np.cumsum(reference) / rows - np.cumsum(current) / more)
        measures["kolmogorov_smirnov"] = float(np.max(gaps))
        measures["wasserstein"] = _wasserstein(grid, reference, gaps=gaps)
        # The largest gap between edges is at most the true one, so this tail is on the safe side.
        scale = np.sqrt(rows * more / (rows + more) / inflation)
        # A shift shows best in the sums, a spike in its cell: the better of both, paid for twice.
        p_value = min(1.0, 2 * min(p_value, float(kolmogorov_tail(scale * np.max(gaps)))))
    return Shift(
        feature=grid.name,
        kind="distribution",
        effect=measures["psi"] - measures["psi_expected"],
        p_value=p_value,
        reference=int(rows),
        current=int(more),
        measures=measures,
    )


def _share(
    grid: Grid,
    kind: Kind,
    *,
    reference: npt.NDArray[Any],
    current: npt.NDArray[Any],
    cells: tuple[int, ...],
    inflation: float,
) -> Shift:
    rows, more = int(np.sum(reference)), int(np.sum(current))
    before, now = (np.array([np.sum(side[list(cells)]), np.sum(side)], np.float64) for side in (reference, current))
    was, is_now = before[0] / rows, now[0] / more
    p_value = _equal_shares(before / inflation, now / inflation)
    if kind == "new values" and isinstance(grid, Numbers) and before[0] == 0:
        p_value = _beyond(now[0] / inflation, reference=rows / inflation, current=more / inflation)
    return Shift(
        feature=grid.name,
        kind=kind,
        effect=float(abs(is_now - was)),
        p_value=p_value,
        reference=rows,
        current=more,
        measures={"reference": float(was), "current": float(is_now)},
    )


def _equal_shares(before: Floats, now: Floats) -> float:
    """Returns the p-value of two shares, given as (rows that have it, rows): exact for few of such rows (Fisher)."""
    held = before[0] + now[0]
    if held > _MANY:
        statistic, freedom = _likelihood_ratio(before - [0, before[0]], now - [0, now[0]], few=0.0)
        return float(chi_squared_tail(statistic, freedom))
    ours = np.arange(int(held) + 1)
    chances = np.exp(
        _log_choose(now[1], ours)
        + _log_choose(before[1], int(held) - ours)
        - _log_choose(before[1] + now[1], int(held))
    )
    at = min(int(now[0]), int(held))
    return min(1.0, 2 * min(float(np.sum(chances[: at + 1])), float(np.sum(chances[at:]))))


def _beyond(found: float, *, reference: float, current: float) -> float:
    """Returns how likely at least so many current rows lie beyond all reference rows, where both are alike.

    As many as lie above the reference's second largest: of the largest found + 1 of both together one is the
    reference's, or none. That the reference has none there proves nothing, its own ends being the borders.
    """
    drawn = found + 1
    whole = _log_choose(reference + current, drawn)
    none = np.exp(_log_choose(current, drawn) - whole)
    one = reference * np.exp(_log_choose(current, drawn - 1) - whole)
    return min(float(none + one), 1.0)


def _log_choose(n: float, k: npt.ArrayLike) -> Floats:
    """Returns ln of n over k; −∞ where k is more than n."""
    chosen = np.asarray(k, np.float64)
    return log_gamma(n + 1) - log_gamma(chosen + 1) - log_gamma(np.maximum(n - chosen, -1) + 1)


def population_stability(reference: Floats, current: Floats) -> float:
    """Returns the population stability index Σ (q − p) ln (q / p) of two rows of counts; in nats, ≥ 0.

    Half a row is added to each cell, so that an empty one is finite. Its expectation without any drift is about
    (cells − 1) (1 / rows + 1 / rows): the customary 0.1 is noise for a hundred rows on 32 cells.

    >>> round(population_stability(np.array([500.0, 500.0]), np.array([600.0, 400.0])), 4)
    0.0405
    """
    return float(_stability(reference, current))


def _stability(reference: Floats, current: Floats) -> Floats:
    """Returns the index of one row of counts and another, or each of many."""
    p, q = ((counts + 0.5) / np.sum(counts + 0.5, axis=-1, keepdims=True) for counts in (reference, current))
    return np.asarray(np.sum((q - p) * np.log(q / p), axis=-1))


def _usual_stability(reference: Floats, current: Floats) -> Floats:
    """Returns what the index is where nothing drifts.

    PSI over 1 / rows + 1 / rows is a χ² then (Yurdakul, thesis, Western Michigan University, 2018).
    """
    filled = np.sum(reference + current > 0, axis=-1)
    return np.asarray((filled - 1) * (1 / np.sum(reference) + 1 / np.sum(current, axis=-1)))


def jensen_shannon(reference: Floats, current: Floats) -> float:
    """Returns the Jensen–Shannon divergence of two rows of counts, in bits, in [0, 1] (Lin, IEEE Trans. IT 37, 1991).

    >>> jensen_shannon(np.array([3.0, 0.0]), np.array([0.0, 5.0]))
    1.0
    """
    p, q = reference / np.sum(reference), current / np.sum(current)
    return float(_bits(p, (p + q) / 2) + _bits(q, (p + q) / 2)) / 2


def _bits(p: Floats, q: Floats) -> float:
    held = p > 0
    return float(np.sum(p[held] * np.log2(p[held] / q[held])))


def _likelihood_ratio(before: Floats, now: Floats, *, few: float = _FEW) -> tuple[float, int]:
    """Returns the G statistic of two rows of counts and its degrees of freedom; cells with few rows count as one."""
    both = before + now
    seldom = both * (min(np.sum(before), np.sum(now)) / np.sum(both)) < few
    table = np.array([np.append(side[~seldom], np.sum(side[seldom])) for side in (before, now)])
    table = table[:, np.sum(table, axis=0) > 0]
    expected = np.outer(np.sum(table, axis=1), np.sum(table, axis=0)) / np.sum(table)
    held = table > 0
    return 2 * float(np.sum(table[held] * np.log(table[held] / expected[held]))), table.shape[1] - 1


def _wasserstein(grid: Numbers, reference: Floats, *, gaps: Floats) -> float:
    """Returns ∫ |F − G| over the reference's range, in its interquartile ranges; 0 where those have no width.

    Linear inside cells, so the outer ones count too much: an eighth too much for half a deviation between normals.
    """
    ends = grid.edges[:-1]
    quartiles = np.interp([0.25, 0.75], np.cumsum(reference)[:-1] / np.sum(reference), ends)
    width = float(quartiles[1] - quartiles[0])
    return float(np.sum((gaps[:-2] + gaps[1:-1]) / 2 * np.diff(ends))) / width if width > 0 else 0.0
