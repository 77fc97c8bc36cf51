"""What the benchmarks of retrieval share: a split by hash, and recall and NDCG over all items, user by user."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from decalog.metrics import Measurement
from decalog.models.interactions import Csr, Matrix

Floats = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]
Score = Callable[[Int64s], Matrix]
"""Rows of users → a score of every item for each of them."""

_BLOCK = 512


class Ranked(NamedTuple):
    """Recall and NDCG of each user who has something to find."""

    recall: Floats
    ndcg: Floats


def hashed_share(users: Int64s, items: Int64s) -> Floats:
    """Returns a number in [0, 1) for each pair: always the same, and as good as drawn (MurmurHash3's finaliser)."""
    mixed = users.astype(np.uint64) * np.uint64(2**32) + items.astype(np.uint64) + np.uint64(1)
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        mixed ^= mixed >> np.uint64(33)
        mixed *= np.uint64(factor)
    mixed ^= mixed >> np.uint64(33)
    return np.asarray((mixed >> np.uint64(11)).astype(np.float64) / 2.0**53)


def ranked(score: Score, *, seen: Csr, wanted: Csr, k: int = 20, users: Int64s | None = None) -> Ranked:
    """Returns recall@k and NDCG@k, all items ranked but those that the user has seen.

    Recall is hits / wanted items; NDCG discounts by log2(place + 1), and its ideal has min(k, wanted items) hits at the
    top: both as the code of LightGCN and of BARS computes them.

    Args:
        score: of every item.
        seen: csr, users × items, to be left out.
        wanted: csr, users × items, to be found.
        k: length of the list.
        users: rows to judge; None judges all who want something.
    """
    judged = np.flatnonzero(np.diff(wanted.indptr)) if users is None else users
    blocks = [judged[start : start + _BLOCK] for start in range(0, len(judged), _BLOCK)]
    found = [_hits(np.array(score(rows)), rows, seen=seen, wanted=wanted, k=k) for rows in blocks]
    hits, counts = np.concatenate(found), np.diff(wanted.indptr)[judged]
    discounts = 1 / np.log2(np.arange(2, k + 2))
    return Ranked(hits.sum(axis=1) / counts, hits @ discounts / np.cumsum(discounts)[np.minimum(counts, k) - 1])


def over_users(values: Floats, *, repeats: int = 1_000) -> Measurement:
    """Returns the mean of one figure a user with the 95 % interval of a bootstrap over the users."""
    rng = np.random.default_rng(0)
    drawn = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(repeats)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Measurement(float(values.mean()), float(low), float(high), len(values))


def _hits(scores: Matrix, rows: Int64s, *, seen: Csr, wanted: Csr, k: int) -> Floats:
    """Returns 1 where the item at a place of a user's list is wanted, (users, k)."""
    scores[seen[rows].nonzero()] = -np.inf
    is_wanted = np.zeros(scores.shape, bool)
    is_wanted[wanted[rows].nonzero()] = True
    return np.take_along_axis(is_wanted, _best(scores, k), axis=1).astype(np.float64)


@numba.njit
def _best(scores: Any, k: int) -> Any:
    """Returns the k greatest of each row, best first, the first of equals first; in one pass, unlike a partition."""
    places = np.zeros((len(scores), k), np.int64)
    for row in range(len(scores)):
        values = np.full(k, -np.inf, scores.dtype)
        for item, value in enumerate(scores[row]):
            if value > values[k - 1]:
                place = k - 1
                while place > 0 and value > values[place - 1]:
                    values[place], places[row, place] = values[place - 1], places[row, place - 1]
                    place -= 1
                values[place], places[row, place] = value, item
    return places
