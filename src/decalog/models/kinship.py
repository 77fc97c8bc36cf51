"""Which subjects go together: a vector of each, so that liking one says how much its kin will be liked.

A young thing has no past of its own, but its subject has: who reads about tea may read about coffee. Of each reader and
subject it is counted how much more was taken up than shown things usually are, and what they say themselves; subjects
are kin where the same readers stand above and below the mean. The vectors are the leading principal components of
these correlations (H. Hotelling, 1933): few numbers a subject, which leave out what is noise.

What one reader took up of each subject is then evidence of all its kin: `liking` weighs it as kriging does (D. Krige,
1951), by how sure it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from scipy import sparse

from decalog.models.arrays import check_shapes, load_arrays, save_arrays
from decalog.models.base import Floats

STEM = "kinship"
DIM = 8
"""Components: more fit the noise of a small log."""
_SURE = 1.0
"""Reader and subject count as ordinary with the weight of about so many things taken up."""
_TINY = 1e-9
# Standard deviation of how much more than usual one reader takes up of a subject, a logarithm; how many things somebody
# new is taken to have looked at, and to have taken up.
_SPREAD, _LOOKS, _TAKEN = 0.6, 20.0, 2.0


class _Names(msgspec.Struct, frozen=True):
    subjects: tuple[str, ...]
    dim: int


class Kinship:
    """Vectors of subjects; the product of two is about their correlation.

    Args:
        subjects: names.
        table: a row each.
    """

    def __init__(self, subjects: Sequence[str] = (), table: Floats | None = None) -> None:
        self.subjects = tuple(subjects)
        self._table = np.zeros((0, DIM)) if table is None else table
        self._row = {name: row for row, name in enumerate(self.subjects)}

    def vectors(self, subjects: Sequence[str]) -> Floats:
        """Returns the vectors of subjects, (n, dim); 0 for one that was not met."""
        table = np.vstack([self._table, np.zeros(self._table.shape[1])])
        return np.asarray(table[np.array([self._row.get(name, -1) for name in subjects], np.int64)])

    def save(self, folder: Path) -> None:
        """Writes its two files."""
        names = _Names(self.subjects, self._table.shape[1])
        save_arrays(folder, STEM, arrays={"table": self._table}, names=names)


def load(folder: Path) -> Kinship:
    """Returns the kinship of a folder.

    Raises:
        ModelError: a file is missing or damaged.
    """
    arrays, names = load_arrays(folder, STEM, names=_Names)
    check_shapes(STEM, arrays, shapes={"table": (len(names.subjects), names.dim)})
    return Kinship(names.subjects, arrays["table"])


def fit(
    readers: npt.NDArray[np.int64],
    subjects: Sequence[str],
    *,
    taken: Floats,
    said: Iterable[tuple[int, str, float]] = (),
) -> Kinship:
    """Returns the kinship that a log shows.

    Args:
        readers: to whom each thing was shown.
        subjects: of each thing; "" for none.
        taken: 1 where it was taken up, 0 where not, NaN where that is not known.
        said: (reader, subject, how strongly, 1 is plain) of what readers say of themselves.
    """
    told = [(reader, name, strength) for reader, name, strength in said if name]
    is_known = np.isfinite(taken) & np.array([bool(name) for name in subjects], np.bool_)
    about = [name for name, known in zip(subjects, is_known.tolist(), strict=True) if known]
    named, columns = np.unique([*about, *(name for _, name, _ in told)], return_inverse=True)
    who, rows = np.unique([*readers[is_known].tolist(), *(one for one, _, _ in told)], return_inverse=True)
    if not about:
        return Kinship()
    hits, shape = taken[is_known], (len(who), len(named))
    shown = slice(0, len(hits))

    def table(values: Floats, part: slice) -> sparse.csr_array:
        return sparse.csr_array((values, (rows[part], columns[part])), shape=shape)

    usual = hits.mean()
    more, sure = table(hits - usual, shown), table(np.full(len(hits), usual * (1 - usual)), shown)
    sure.data = 1 / (sure.data + _SURE)
    strength = np.array([strength for _, _, strength in told])
    liking = more * sure + table(strength, slice(len(hits), None))
    means = np.asarray(liking.mean(axis=0)).ravel()
    spread = (liking.T @ liking).toarray() / len(who) - np.outer(means, means)
    scale = np.sqrt(np.maximum(np.diag(spread), _TINY))
    lengths, axes = np.linalg.eigh(spread / np.outer(scale, scale))
    kept = min(DIM, len(named))
    vectors = np.zeros((len(named), DIM))
    vectors[:, :kept] = axes[:, -kept:] * np.sqrt(np.maximum(lengths[-kept:], 0.0))
    return Kinship(named.tolist(), vectors)


def liking(vectors: Floats, *, looked: npt.NDArray[Any], taken: npt.NDArray[Any], said: Floats) -> Floats:
    """Returns how much more than usual somebody is believed to take up of each subject, natural logarithms.

    Before anything is known these are normal about 0, with covariances as kinship has it. Counts are Poisson, and the
    likelihood is expanded once about their own usual rate: so it is one small linear system.

    Args:
        vectors: of all subjects, (n, dim); rows of 0 for what is kin to none, of which nothing is believed.
        looked: how many things of each subject they looked at.
        taken: how many of these they took up.
        said: what they say of themselves, in things taken up.
    """
    usual, is_kin = (taken.sum() + _TAKEN) / (looked.sum() + _LOOKS), vectors.any(axis=1)
    expected = looked * usual + said[is_kin].sum() / max(np.count_nonzero(is_kin), 1)
    lengths = _SPREAD * vectors
    sureness = np.eye(lengths.shape[1]) + (lengths.T * expected) @ lengths
    return np.asarray(lengths @ np.linalg.solve(sureness, lengths.T @ (taken + said - expected)))
