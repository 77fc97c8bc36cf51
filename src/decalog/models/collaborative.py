"""Item-to-item neighbours, which serve, and the baselines of collaborative filtering that they are made from.

Every baseline scores all items for histories (`Scorer.scores`), which is what benchmarks compare. The linear ones add
up what each item of a history says alone, so their scores of one-item histories are all that serving needs:
`neighbours` keeps the strongest of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
from scipy import sparse

from decalog.errors import ConfigError
from decalog.models.arrays import check_shapes, damaged, load_arrays, save_arrays
from decalog.models.interactions import Csr, Interactions, Matrix, normalised, singular, sums, taken_of

STEM = "neighbours"
_BLOCK, _SWEPT = 512, 1_024
_HELD, _JUDGED = 0.2, 2_048


class Scorer(Protocol):
    """A fitted baseline."""

    def scores(self, histories: Csr) -> Matrix:
        """Returns float32 (n, items), higher for what fits better, for csr histories of shape n × items.

        Items of a history are scored like the others; who asks leaves them out.
        """


class Neighbours:
    """Of each item the few that say most about who takes it up will take up next.

    Args:
        items: names.
        places: int32 (items, top), best first; filled up with −1.
        weights: float32 (items, top), falling; 0 beside a −1.
    """

    def __init__(self, items: tuple[str, ...], places: npt.NDArray[np.int32], weights: Matrix) -> None:
        self.items, self.places, self.weights = items, places, weights
        self._row = {item: row for row, item in enumerate(items)}

    def similar(self, item: str, k: int) -> list[tuple[str, float]]:
        """Returns at most k neighbours of an item with their weights, best first; none of an item it never met."""
        return self.score((item,), k)

    def score(
        self, history: Sequence[str], k: int, *, weights: Sequence[float] | None = None
    ) -> list[tuple[str, float]]:
        """Returns the k items that a history says most for, best first; no item of the history is among them.

        Args:
            history: items taken up; items it never met say nothing.
            k: how many at most; only those with a score above 0.
            weights: of the items of the history, such as how recent each is; None counts each as 1.
        """
        rows = [self._row.get(item, -1) for item in history]
        known = [place for place, row in enumerate(rows) if row >= 0]
        if not known:
            return []
        own = [rows[place] for place in known]
        by = np.ones(len(known), np.float32) if weights is None else np.asarray(weights, np.float32)[known]
        found, where = np.unique(self.places[own], return_inverse=True)
        scores = np.bincount(where.ravel(), (self.weights[own] * by[:, None]).ravel(), len(found))
        scores[np.isin(found, [*own, -1])] = 0.0
        best = np.argsort(-scores, kind="stable")[:k]
        return [(self.items[found[place]], float(scores[place])) for place in best if scores[place] > 0]

    def save(self, folder: Path) -> None:
        """Writes the neighbours' two files."""
        save_arrays(folder, STEM, arrays={"places": self.places, "weights": self.weights}, names=self.items)


def load(folder: Path) -> Neighbours:
    """Returns the neighbours of a folder.

    Raises:
        ModelError: a file is missing or damaged.
    """
    arrays, items = load_arrays(folder, STEM, names=tuple[str, ...])
    width = arrays["places"].shape[-1] if "places" in arrays else 0
    check_shapes(STEM, arrays, shapes=dict.fromkeys(("places", "weights"), (len(items), width)))
    places = arrays["places"]
    if places.dtype != np.int32 or np.any((places < -1) | (places >= len(items))):
        raise damaged(STEM, "neighbours that are none of the items")
    return Neighbours(items, places, arrays["weights"].astype(np.float32, copy=False))


def neighbours(scorer: Scorer, items: tuple[str, ...], *, top: int = 200) -> Neighbours:
    """Returns each item's strongest neighbours as a linear baseline sees them: only weights above 0, never itself.

    Args:
        scorer: linear: the scores of a history are the sums of those of its items.
        items: names, in the order of the baseline's columns.
        top: how many of each item.
    """
    top = min(top, len(items))
    places, weights = np.full((len(items), top), -1, np.int32), np.zeros((len(items), top), np.float32)
    alone = sparse.eye_array(len(items), dtype=np.float32, format="csr")
    for start in range(0, len(items), _BLOCK):
        scores = scorer.scores(alone[start : start + _BLOCK])
        rows = np.arange(len(scores))
        scores[rows, rows + start] = 0.0
        best = np.sort(np.argpartition(-scores, top - 1, axis=1)[:, :top], axis=1)
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
        best = np.take_along_axis(best, order, axis=1)
        values = np.maximum(np.take_along_axis(scores, best, axis=1), 0.0)
        places[start : start + _BLOCK] = np.where(values > 0, best, -1)
        weights[start : start + _BLOCK] = values
    return Neighbours(items, places, weights)


def best_of(
    seen: Interactions, fits: Sequence[Callable[[Interactions], Scorer]], *, k: int = 80, seed: int = 0
) -> Scorer:
    """Returns the baseline that suits a table best: which one that is depends on how many users and items there are.

    Each is fitted to four fifths of the interactions, and the one that finds most of the others, a share of each of
    up to 2,048 users' among the first k, is fitted again to all.

    Args:
        seen: the interactions.
        fits: what fits a baseline; among equals the first is taken.
        k: how many items each user gets.
        seed: of what is held out.
    """
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(len(seen.users)), np.diff(seen.taken.indptr))
    is_held = rng.random(len(owner)) < _HELD
    kept, held = (
        taken_of(owner[part], seen.taken.indices[part], shape=seen.taken.shape) for part in (~is_held, is_held)
    )
    users = rng.permutation(np.flatnonzero(np.diff(held.indptr)))[:_JUDGED]
    told = msgspec.structs.replace(seen, taken=kept)
    found = [_found(fit(told), kept[users], held[users], k=min(k, len(seen.items))) for fit in fits]
    return fits[int(np.argmax(found))](seen)


def _found(scorer: Scorer, histories: Csr, held: Csr, *, k: int) -> float:
    """Returns the sum over the rows of the share of what was held out, k at most, that is among the first k."""
    total = 0.0
    for start in range(0, histories.shape[0], _BLOCK):
        told, wanted = histories[start : start + _BLOCK], held[start : start + _BLOCK].toarray()
        scores = scorer.scores(told)
        scores[told.nonzero()] = -np.inf
        first = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        hits = np.take_along_axis(wanted, first, axis=1).sum(axis=1)
        total += float(np.sum(hits / np.minimum(wanted.sum(axis=1), k)))
    return total


class Popularity(msgspec.Struct, frozen=True):
    """What most took up, whoever asks."""

    counts: Matrix

    def scores(self, histories: Csr) -> Matrix:
        """See `Scorer.scores`."""
        return np.tile(self.counts, (histories.shape[0], 1))


class ItemWeights(msgspec.Struct, frozen=True):
    """Scores are history × weights; csr or dense, items × items."""

    weights: Any

    def scores(self, histories: Csr) -> Matrix:
        """See `Scorer.scores`."""
        return _dense(histories @ self.weights)


class LowPass(msgspec.Struct, frozen=True):
    """GF-CF: a linear filter and an ideal low-pass one on the graph of items that share users.

    Args:
        taken: csr, users × items, normalised by the degrees of both.
        smooth: float32 (items, rank), orthonormal: the right singular vectors of `taken` with the greatest values.
        share: weight of the low-pass part.
        scales: float32 (items,), degree^½: the low-pass part is divided by it before and multiplied after.
    """

    taken: Csr
    smooth: Matrix
    share: float
    scales: Matrix

    def scores(self, histories: Csr) -> Matrix:
        """See `Scorer.scores`."""
        linear = _dense((histories @ self.taken.T) @ self.taken)
        low = (histories @ (self.smooth / self.scales[:, None])) @ self.smooth.T
        low *= self.scales * np.float32(self.share)
        return np.asarray(linear + low)


class GraphFilter(msgspec.Struct, frozen=True):
    """Blurs a history over the graph of items that share users, with a low-pass part, and sharpens what comes out.

    With P = `taken`ᵀ · `taken`, V = `smooth` and y = history · before: z = y P + share · y V Vᵀ, and the scores are
    (z − sharpness · z P) · after. The sharpening takes away what the strongest directions say twice.

    Args:
        taken, smooth, share: as in `LowPass`.
        sharpness: 0 leaves z as it is.
        before, after: float32 (items,), powers of the items' degrees.
    """

    taken: Csr
    smooth: Matrix
    share: float
    sharpness: float
    before: Matrix
    after: Matrix

    def scores(self, histories: Csr) -> Matrix:
        """See `Scorer.scores`."""
        asked = sparse.csr_array(histories.multiply(self.before))
        blurred = _dense((asked @ self.taken.T) @ self.taken)
        blurred += np.float32(self.share) * ((asked @ self.smooth) @ self.smooth.T)
        again = ((self.taken @ blurred.T).T @ self.taken) if self.sharpness else 0.0
        return np.asarray((blurred - np.float32(self.sharpness) * again) * self.after, np.float32)


class Als(msgspec.Struct, frozen=True):
    """Factors of implicit ALS; a history's own are solved for when it is scored.

    Args:
        factors: float32 (items, rank).
        confidence, l2: as they were fitted with.
    """

    factors: Matrix
    confidence: float
    l2: float

    def scores(self, histories: Csr) -> Matrix:
        """See `Scorer.scores`."""
        return _solved(histories, self.factors, confidence=self.confidence, l2=self.l2) @ self.factors.T


def popularity(seen: Interactions) -> Popularity:
    """Returns how many users took up each item."""
    return Popularity(sums(seen.taken, axis=0))


def item_knn(seen: Interactions, *, shrinkage: float = 10.0, top: int = 200) -> ItemWeights:
    """Returns the cosines of items' users, each item's `top` greatest; few common users count less by shrinkage.

    Weight of j for i: common / (√(users of i · users of j) + shrinkage). (B. Sarwar et al., WWW 2001.)
    """
    columns, sizes = seen.taken.T.tocsr(), sums(seen.taken, axis=0)
    blocks = []
    for start in range(0, len(sizes), _BLOCK):
        near = sparse.csr_array(columns[start : start + _BLOCK] @ seen.taken)
        owner = np.repeat(np.arange(near.shape[0]), np.diff(near.indptr)) + start
        near.data /= np.sqrt(sizes[owner] * sizes[near.indices]) + np.float32(shrinkage)
        near.data[owner == near.indices] = 0
        for first, last in pairwise(near.indptr.tolist()):
            own = near.data[first:last]
            if len(own) > top:
                own[np.argpartition(-own, top)[top:]] = 0
        near.eliminate_zeros()
        blocks.append(near)
    return ItemWeights(sparse.vstack(blocks, format="csr"))


def ease(taken: Csr, *, l2: float) -> ItemWeights:
    """Returns the weights B, without a diagonal, that minimise |X − X B|² + l2 |B|², in closed form.

    With P = (XᵀX + l2)⁻¹: B = −P / diag P, off the diagonal (H. Steck, Embarrassingly shallow autoencoders for sparse
    data, WWW 2019). Where users are fewer than items, P = (1 − Xᵀ(XXᵀ + l2)⁻¹X) / l2 by Woodbury's identity, so the
    matrix that is inverted has the smaller side. It is inverted in place: 4 · side² bytes, besides 4 · items² of B.

    Args:
        taken: X, csr of float32, users × items.
        l2: penalty.

    Raises:
        ConfigError: l2 is too small.
    """
    users, items = taken.shape
    if items <= users:
        weights = _inverse(taken.T.tocsr(), l2=l2)
        weights /= -np.diag(weights).copy()
    else:
        inverse, columns = _inverse(taken, l2=l2), taken.T.tocsr()
        weights = np.empty((items, items), np.float32)
        for start in range(0, items, _BLOCK):
            weights[start : start + _BLOCK] = (columns @ (columns[start : start + _BLOCK] @ inverse).T).T
        weights /= 1 - np.diag(weights)
    np.fill_diagonal(weights, 0)
    return ItemWeights(weights)


def low_pass(seen: Interactions, *, rank: int = 256, share: float = 0.3, seed: int = 0) -> LowPass:
    """Returns GF-CF (Y. Shen et al., How powerful is graph convolution for recommendation?, CIKM 2021).

    Args:
        seen: the interactions.
        rank: of the ideal low-pass filter.
        share: of the low-pass filter; the paper's α.
        seed: of the first guess at the singular vectors.
    """
    taken = normalised(seen.taken)
    smooth = singular(taken, min(rank, *taken.shape), rng=np.random.default_rng(seed))
    return LowPass(taken, smooth, share, np.sqrt(np.maximum(sums(seen.taken, axis=0), 1)))


def graph_filter(
    seen: Interactions,
    *,
    rank: int = 512,
    share: float = 0.2,
    sharpness: float = 0.7,
    powers: tuple[float, float] = (0.1, 0.4),
    seed: int = 0,
) -> GraphFilter:
    """Returns the filter of GF-CF, between degrees, with one step of sharpening: for tables of many users.

    On small ones (thousands of users, or fewer) EASE and item-kNN found more: see `best_of`.

    (Sharpening: J. Choi et al., Blurring-sharpening process models for collaborative filtering, SIGIR 2023.)

    Args:
        seen: the interactions.
        rank: of the low-pass part.
        share: of the low-pass part.
        seed: of the first guess at the singular vectors.
        sharpness: share of a further blur that is taken away.
        powers: of an item's degree: history is divided by the first, scores are multiplied by the second.
    """
    taken = normalised(seen.taken)
    smooth = singular(taken, min(rank, *taken.shape), rng=np.random.default_rng(seed))
    degrees = np.maximum(sums(seen.taken, axis=0), 1)
    before, after = (np.asarray(degrees**power, np.float32) for power in (-powers[0], powers[1]))
    return GraphFilter(taken, smooth, share, sharpness, before, after)


def als(
    seen: Interactions, *, rank: int = 64, confidence: float = 10.0, l2: float = 10.0, rounds: int = 15, seed: int = 0
) -> Als:
    """Returns factors for implicit feedback by alternating least squares (Y. Hu, Y. Koren, C. Volinsky, ICDM 2008).

    Args:
        seen: the interactions.
        rank: components of a factor.
        confidence: what was taken up weighs 1 + confidence, all else 1.
        l2: penalty on the factors.
        rounds: of users, then items.
        seed: of the first guess.
    """
    columns = seen.taken.T.tocsr()
    factors = np.random.default_rng(seed).normal(0, 0.1, (len(seen.items), rank)).astype(np.float32)
    for _ in range(rounds):
        users = _solved(seen.taken, factors, confidence=confidence, l2=l2)
        factors = _solved(columns, users, confidence=confidence, l2=l2)
    return Als(factors, confidence, l2)


def _inverse(rows: Csr, *, l2: float) -> Matrix:
    """Returns (rows rowsᵀ + l2)⁻¹, in place of the product, by sweeps of one block after the other.

    A sweep of block k turns A into A − A_k A_kk⁻¹ A_kᵀ, with A_k A_kk⁻¹ in its own rows and columns and −A_kk⁻¹ where
    they cross; after all of them A is minus its inverse (J. Goodnight, The American Statistician 33, 1979). Only the
    lower half is kept up. SciPy's LAPACK, whose integers have 32 bits, ends the process on a matrix of 30,000 rows.

    Raises:
        ConfigError: l2 is too small.
    """
    n = rows.shape[0]
    gram = np.empty((n, n), np.float32)
    for start in range(0, n, _BLOCK):
        gram[start : start + _BLOCK] = _dense(rows[start : start + _BLOCK] @ rows.T)
    gram[np.diag_indices(n)] += np.float32(l2)
    for start in range(0, n, _SWEPT):
        end = start + _SWEPT
        panel = np.vstack([gram[start:end, :start].T, gram[start:, start:end]])
        pivot = _pivot(panel[start:end], l2=l2)
        swept = panel @ pivot
        for place in range(0, n, _SWEPT):
            gram[place:, place : place + _SWEPT] -= swept[place:] @ panel[place : place + _SWEPT].T
        gram[start:end, :start], gram[start:, start:end] = swept[:start].T, swept[start:]
        gram[start:end, start:end] = -pivot
    for start in range(0, n, _SWEPT):
        gram[start : start + _SWEPT, start + _SWEPT :] = gram[start + _SWEPT :, start : start + _SWEPT].T
    return np.negative(gram, out=gram)


def _pivot(block: Matrix, *, l2: float) -> Matrix:
    """Returns the inverse of a block on the diagonal, which is positive definite unless the penalty is too small."""
    try:
        np.linalg.cholesky(block)
    except np.linalg.LinAlgError:
        raise ConfigError(
            where="EASE",
            given=f"a penalty of {l2:g}, with which the normal equations cannot be solved",
            expected="a penalty well above 0",
            fix="Raise l2: a tenth of the mean number of users of an item is a start.",
        ) from None
    return np.linalg.inv(block)


def _solved(rows: Csr, factors: Matrix, *, confidence: float, l2: float) -> Matrix:
    """Returns each row's x: (FᵀF + confidence · FᵀF of its entries + l2) x = (1 + confidence) · Σ F of its entries."""
    rank = factors.shape[1]
    base = factors.T @ factors + np.float32(l2) * np.eye(rank, dtype=np.float32)
    wanted = (1 + confidence) * (rows @ factors)
    solved = np.zeros((rows.shape[0], rank), np.float32)
    for row in np.flatnonzero(np.diff(rows.indptr)):
        own = factors[rows.indices[rows.indptr[row] : rows.indptr[row + 1]]]
        solved[row] = np.linalg.solve(base + np.float32(confidence) * (own.T @ own), wanted[row])
    return solved


def _dense(matrix: Any) -> Matrix:
    return np.asarray(matrix.toarray() if sparse.issparse(matrix) else matrix, np.float32)
