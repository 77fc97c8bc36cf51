"""Recall and NDCG over all there is, user by user: every thing is ranked, not only what was shown.

Recall is hits / wanted things. NDCG discounts by log2(place + 1), and its ideal has min(k, wanted things) hits at the
top. Both are as the code of LightGCN (X. He et al., SIGIR 2020) and of BARS computes them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from decalog.models.interactions import Csr, Matrix

Floats = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]
Score = Callable[[Int64s], Matrix]
"""Rows of users → a score of every thing for each of them."""

_CELLS = 2**24
"""Scores that are held at a time."""


class Lists(NamedTuple):
    """What users' lists hold of what they want.

    Args:
        hits: shape (users, places), 1 where the thing at a place is wanted, or how likely it is.
        wanted: shape (users,), how many things each wants, ≥ 1.
    """

    hits: Floats
    wanted: Int64s

    def recall(self, k: int) -> Floats:
        """Returns recall@k of each user."""
        found: Floats = np.minimum(self.hits[:, :k].sum(axis=1) / self.wanted, 1.0)  # likelihoods may round up
        return found

    def ndcg(self, k: int) -> Floats:
        """Returns NDCG@k of each user."""
        hits = self.hits[:, :k]
        discounts = 1 / np.log2(np.arange(2, k + 2))
        found: Floats = hits @ discounts[: hits.shape[1]] / np.cumsum(discounts)[np.minimum(self.wanted, k) - 1]
        return found


def ranked(score: Score, *, seen: Csr, wanted: Csr, k: int) -> Lists:
    """Returns the lists of all users who want something; all things are ranked but those that the user has seen.

    Args:
        score: of every thing.
        seen: csr, users × things, to be left out.
        wanted: csr, users × things, to be found.
        k: length of the lists.
    """
    counts = np.diff(wanted.indptr)
    users, block = np.flatnonzero(counts), max(1, _CELLS // wanted.shape[1])
    found = []
    for start in range(0, len(users), block):
        rows = users[start : start + block]
        scores = np.array(score(rows))
        scores[seen[rows].nonzero()] = -np.inf
        found.append(hits(scores, wanted[rows].toarray() > 0, k=k))
    return Lists(np.concatenate(found), counts[users])


def hits(scores: Matrix, is_wanted: npt.NDArray[np.bool_], *, k: int) -> Floats:
    """Returns 1 where what stands at one of the k best places of a row is wanted, (rows, k).

    The first of equals stands first; a score of −inf has no place.
    """
    found = np.zeros((len(scores), k))
    for row, values in enumerate(scores):
        places = _best(values, k)
        found[row, : len(places)] = is_wanted[row, places]
    return found


def _best(values: Matrix, k: int) -> npt.NDArray[np.intp]:
    depth = min(k, len(values))
    least = np.partition(values, -depth)[-depth]
    kept = np.flatnonzero((values >= least) & (values > -np.inf))
    return kept[np.argsort(-values[kept], kind="stable")[:depth]]
