"""Metrics of slates with their intervals: rows are things that were shown, and people are what a bootstrap draws.

What one person does on many slates hangs together, so intervals are of samples of people, not of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.metrics import Floats, Int64s, Measurement, Sums, interval, need, proportion

_REPEATS = 200


class Ranked(msgspec.Struct, frozen=True, kw_only=True):
    """Things of the test part with what was predicted of them; all arrays have one entry a thing shown.

    Args:
        heads: what is predicted.
        labels: float64, n × heads; NaN where it is not known.
        predictions: float64, n × heads; empty where it is the slates as they were shown that are measured.
        values: float64, what each is ranked by, highest first.
        worth: float64, what each turned out to be worth, minor units; unknown labels count as 0.
        slates: int64, which slate each stood in.
        users: int64, tokens.
        positions: int64, 0 is the first.
        examined: float64, (0, 1], how likely what stands there is looked at, against the first position.
        refs: int64, which thing, numbered.
        times: int64, µs of the decision.
        things: how many different things were ever shown.
        facts: public values of the request and of the thing.
        ends: outcome kind → (slates, values) of what was said of whole slates.
        seed: of the bootstrap.
    """

    heads: tuple[str, ...]
    labels: Floats
    predictions: Floats
    values: Floats
    worth: Floats
    slates: Int64s
    users: Int64s
    positions: Int64s
    examined: Floats
    refs: Int64s
    times: Int64s
    things: int
    facts: tuple[Mapping[str, int | float | str | bool], ...] = ()
    ends: Mapping[str, tuple[Int64s, Floats]] = {}
    seed: int = 0

    @property
    def n(self) -> int:
        """The number of things shown."""
        return len(self.slates)

    def take(self, rows: npt.NDArray[np.bool_]) -> Ranked:
        """Returns the rows of a mask, with what was said of their slates."""
        columns = ("labels", "values", "worth", "slates", "users", "positions", "examined", "refs", "times")
        slates = np.unique(self.slates[rows])
        said = {kind: (which, np.isin(which, slates), values) for kind, (which, values) in self.ends.items()}
        return msgspec.structs.replace(
            self,
            **{name: getattr(self, name)[rows] for name in columns},
            predictions=self.predictions[rows] if self.predictions.size else self.predictions,
            facts=tuple(fact for fact, is_taken in zip(self.facts, rows.tolist(), strict=False) if is_taken),
            ends={kind: (which[there], values[there]) for kind, (which, there, values) in said.items() if there.any()},
        )

    def label(self, head: str) -> Floats:
        """Returns one head's labels.

        Raises:
            DataError: there is no such head.
        """
        return np.asarray(self.labels[:, self._place(head)])

    def prediction(self, head: str) -> Floats:
        """Returns one head's predictions.

        Raises:
            DataError: there is no such head, or nothing was predicted.
        """
        need(self.predictions.size > 0, "predictions", expected="a model's")
        return np.asarray(self.predictions[:, self._place(head)])

    def _place(self, head: str) -> int:
        need(head in self.heads, "metrics of slates", expected=f"the head {head}")
        return self.heads.index(head)


Statistic = Callable[[Ranked, Floats], float]
"""(rows, weights) → value; a weight counts how often a row's user stands in the sample."""


def by_user(statistic: Statistic, *, repeats: int = _REPEATS) -> Callable[[Ranked], Measurement]:
    """Returns a computation of a statistic of rows with the 95 % percentile interval of a bootstrap over users.

    Nobody in particular counts as one person a slate. (Field and Welsh, "Bootstrapping clustered data", JRSS B 69,
    2007.)
    """

    def compute(ranked: Ranked) -> Measurement:
        need(ranked.n > 0, "metrics of slates", expected="at least one thing shown")
        people = np.where(ranked.users >= 0, ranked.users, -1 - ranked.slates)
        _, person = np.unique(people, return_inverse=True)
        rng = np.random.default_rng(ranked.seed)
        count = int(person.max()) + 1
        value = statistic(ranked, np.ones(ranked.n))
        drawn = []
        for _ in range(repeats):
            times = np.bincount(rng.integers(count, size=count), minlength=count).astype(np.float64)
            drawn.append(statistic(ranked, times[person]))
        return interval(value, [one for one in drawn if np.isfinite(one)] or [value], n=ranked.n)

    return compute


def per_slate(ranked: Ranked, of_slate: Callable[[npt.NDArray[np.intp]], float]) -> tuple[Floats, npt.NDArray[np.intp]]:
    """Returns a value for each slate, and its first row; a slate without one is left out.

    Args:
        ranked: the rows.
        of_slate: places of a slate's rows, in the order of their values, highest first → value, NaN for none.
    """
    order = np.lexsort((ranked.positions, -ranked.values, ranked.slates))
    edges = np.flatnonzero(np.diff(ranked.slates[order], prepend=np.int64(-1)))
    found = np.array([of_slate(rows) for rows in np.split(order, edges[1:])])
    known = np.isfinite(found)
    return found[known], order[edges][known]


def ndcg(ranked: Ranked, gains: Floats, *, k: int) -> tuple[Floats, npt.NDArray[np.intp]]:
    """Returns NDCG@k of each slate that holds a gain, and its first row.

    Σ gain / log2(2 + rank) over the first k, as ranked, over the same in the best order. (Järvelin and Kekäläinen, ACM
    TOIS 20, 2002.) Only what was shown is ranked again, so it is not comparable with figures over a whole catalogue.

    Args:
        ranked: the rows.
        gains: float64, n, ≥ 0; NaN counts as 0.
        k: depth.
    """
    known = np.nan_to_num(gains)

    def of_slate(rows: npt.NDArray[np.intp]) -> float:
        mine = known[rows]
        depth = min(k, len(mine))
        discounts = 1 / np.log2(np.arange(2, depth + 2))
        ideal = float(np.sort(mine)[::-1][:depth] @ discounts)
        return float(mine[:depth] @ discounts) / ideal if ideal > 0 else float("nan")

    return per_slate(ranked, of_slate)


def head_share(head: str, *, times: float = 1.0) -> Statistic:
    """Returns the statistic that is the share of a head's positives where they are known, or how many of so many."""

    def share(ranked: Ranked, weights: Floats) -> float:
        labels = ranked.label(head)
        known = np.isfinite(labels)
        total = float(np.sum(weights[known]))
        return times * (float(np.sum(weights[known] * labels[known])) / total) if total else float("nan")

    return share


def head_sums(head: str, *, times: float = 1.0) -> Sums:
    """Returns the same as sums over what was shown."""
    return Sums(lambda ranked: (times * ranked.label(head), np.ones(ranked.n)), (0.0, times))


def worth_per_1000(ranked: Ranked, weights: Floats) -> float:
    """Returns what 1,000 slates turned out to be worth, minor units; NaN without any."""
    slates, place = np.unique(ranked.slates, return_inverse=True)
    first = np.zeros(len(slates))
    first[place] = weights
    total = float(np.sum(first))
    return 1_000 * float(np.sum(ranked.worth * weights)) / total if total else float("nan")


def worth_sums(ranked: Ranked) -> tuple[Floats, Floats]:
    """Returns of each row what it adds to that figure, and to the number of slates."""
    _, place, sizes = np.unique(ranked.slates, return_inverse=True, return_counts=True)
    return 1_000 * ranked.worth, 1 / sizes[place]


def coverage(ranked: Ranked) -> Measurement:
    """Returns the share of all things that were ever shown which these slates show."""
    return proportion(len(np.unique(ranked.refs)), max(ranked.things, 1))


def novelty(ranked: Ranked, weights: Floats) -> float:
    """Returns the mean of −log2(share of users who were shown the thing), bits."""
    users = len(np.unique(ranked.users))
    pairs = np.unique(np.stack([ranked.refs, ranked.users]), axis=1)
    shown_to = np.bincount(pairs[0], minlength=int(ranked.refs.max()) + 1)
    return float(np.average(-np.log2(shown_to[ranked.refs] / users), weights=weights))


def unevenness(ranked: Ranked, weights: Floats) -> float:
    """Returns the Gini coefficient of how often each thing was shown."""
    return gini(np.bincount(ranked.refs, weights).astype(np.float64))


def gini(counts: Floats) -> float:
    """Returns the Gini coefficient of how often each thing was shown, 0 where all alike, towards 1 where one alone.

    Raises:
        DataError: nothing was shown.

    >>> gini(np.array([2.0, 2.0, 2.0])), gini(np.array([0.0, 0.0, 6.0])) > 0.6
    (0.0, True)
    """
    need(len(counts) > 0 and float(np.sum(counts)) > 0, "Gini", expected="at least one thing shown")
    rising = np.sort(counts)
    ranks = np.arange(1, len(rising) + 1)
    return float(np.sum((2 * ranks - len(rising) - 1) * rising) / (len(rising) * np.sum(rising)))
