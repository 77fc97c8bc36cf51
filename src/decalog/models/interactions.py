"""Who took up what: the table that models of taste learn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from scipy import sparse

from decalog.errors import DataError

Matrix = npt.NDArray[np.float32]
_OVERSAMPLED = 32
_ROUNDS = 4

Csr = Any
"""scipy.sparse.csr_array; SciPy ships no types."""


class Interactions(msgspec.Struct, frozen=True):
    """Each user's items, each once.

    Args:
        users: a row each.
        items: a column each.
        taken: csr_array of float32, users × items; 1 where the user took the item up, columns of a row in order.
    """

    users: tuple[str, ...]
    items: tuple[str, ...]
    taken: Csr


def interactions(pairs: Sequence[tuple[str, str]]) -> Interactions:
    """Returns the table of (user, item) pairs; users and items in the order of their names, a pair given twice once.

    Raises:
        DataError: there are no pairs.
    """
    if not pairs:
        raise DataError(
            where="interactions",
            given="none",
            expected="at least one item that a user took up",
            fix="Train on a longer part of the log.",
        )
    users, rows = np.unique([user for user, _ in pairs], return_inverse=True)
    items, columns = np.unique([item for _, item in pairs], return_inverse=True)
    return Interactions(
        tuple(users.tolist()), tuple(items.tolist()), taken_of(rows, columns, shape=(len(users), len(items)))
    )


def taken_of(rows: npt.NDArray[np.integer], columns: npt.NDArray[np.integer], *, shape: tuple[int, int]) -> Csr:
    """Returns the 0/1 matrix with ones at places, of which one may be given more than once."""
    found = sparse.csr_array((np.ones(len(rows), np.float32), (rows, columns)), shape=shape)
    found.sum_duplicates()
    found.data[:] = 1.0
    return found


def normalised(taken: Csr, *, user_power: float = 0.5, item_power: float = 0.5) -> Csr:
    """Returns users × items, each entry divided by its user's degree^user_power and its item's degree^item_power."""
    users, items = (np.maximum(sums(taken, axis=axis), 1) for axis in (1, 0))
    scaled = sparse.diags_array(users**-user_power) @ taken @ sparse.diags_array(items**-item_power)
    return sparse.csr_array(scaled).astype(np.float32)


def singular(taken: Csr, rank: int, *, rng: np.random.Generator) -> Matrix:
    """Returns the leading right singular vectors, (columns, rank), by subspace iteration (N. Halko et al., 2011)."""
    width = min(rank + _OVERSAMPLED, *taken.shape)
    basis = rng.normal(size=(taken.shape[1], width)).astype(np.float32)
    for _ in range(_ROUNDS):
        basis = np.linalg.qr(taken.T @ np.linalg.qr(taken @ basis)[0])[0]
    _, _, turn = np.linalg.svd(taken @ basis, full_matrices=False)
    return np.ascontiguousarray((basis @ turn.T)[:, :rank])


def sums(matrix: Csr, *, axis: int) -> Matrix:
    """Returns the sums along an axis, flat."""
    return np.asarray(matrix.sum(axis=axis), np.float32).ravel()
