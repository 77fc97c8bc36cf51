"""Sums of many series without a dense matrix: who belongs to what, and projections that are applied, not written out.

100,000 series in 4,000 sums have 400,000 memberships; as a dense matrix they would be 80 GB, and so would a projection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu

from decalog.systems.demand.forecast.panel import Floats


def memberships(groups: Mapping[str, Sequence[str]]) -> tuple[list[tuple[str, str]], sparse.csr_array]:
    """Returns the (level, label) of each sum, and sums × bottom series, 0 or 1; labels in the order they come in."""
    names: list[tuple[str, str]] = []
    places = []
    for level, labels in groups.items():
        codes = {label: len(names) + at for at, label in enumerate(dict.fromkeys(labels))}
        names.extend((level, label) for label in codes)
        places.append(np.fromiter((codes[label] for label in labels), np.int64, len(labels)))
    count = len(next(iter(groups.values()), ()))
    rows = np.concatenate(places) if places else np.empty(0, np.int64)
    columns = np.tile(np.arange(count), len(places))
    return names, sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(names), count))


def times(matrix: Floats | sparse.csr_array, values: Floats) -> Floats:
    """Returns matrix @ values along the last axis but one, as numpy does it, for a sparse matrix too."""
    if not sparse.issparse(matrix):
        found: Floats = matrix @ values
        return found
    columns = np.moveaxis(values, -2, 0)
    flat = matrix @ columns.reshape(len(columns), -1)
    return np.moveaxis(flat.reshape(-1, *columns.shape[1:]), 0, -2)


def dense(matrix: Any) -> Floats:
    """Returns a matrix, sparse or not, as a dense one."""
    found: Floats = matrix.toarray() if sparse.issparse(matrix) else matrix
    return found


class Projection:
    """What takes base forecasts of all series to bottom forecasts, each series weighted by one number.

    Bottom forecasts b move by W_b Sᵀ (W_u + S W_b Sᵀ)⁻¹ (u − S b), where u are the sums' own forecasts: the projection
    of Wickramasuriya et al. in the form that asks for one sparse factor of the size of the sums, made once.

    Args:
        sums: S, sums × bottom series.
        weights: float64, all series, sums first: how far each may move, such as its error variance; None moves no
            bottom series.
    """

    def __init__(self, sums: sparse.csr_array, weights: Floats | None) -> None:
        self._sums, self._spread = sums, None
        if weights is not None:
            upper = sums.shape[0]
            self._spread = sums.T.multiply(weights[upper:, None]).tocsr()
            whole = (sparse.diags_array(weights[:upper]) + sums @ self._spread).tocsc()
            # Symmetric and positive: no pivoting, and the order that keeps its factors sparse.
            options = {"SymmetricMode": True}
            self._factor = splu(whole, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options)

    def __matmul__(self, base: Floats) -> Floats:
        """Returns bottom forecasts of base forecasts, … × series × horizon, as a matrix would."""
        upper = self._sums.shape[0]
        bottom = base[..., upper:, :]
        if self._spread is None:
            return bottom.copy()
        apart = np.moveaxis(base[..., :upper, :] - times(self._sums, bottom), -2, 0)
        solved = self._factor.solve(apart.reshape(upper, -1)).reshape(apart.shape)
        return bottom + times(self._spread, np.moveaxis(solved, 0, -2))
