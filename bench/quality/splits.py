"""A split by hash, which needs no seed and no file."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]


def hashed_share(users: Int64s, items: Int64s) -> Floats:
    """Returns a number in [0, 1) for each pair: always the same, and as good as drawn (MurmurHash3's finaliser)."""
    mixed = users.astype(np.uint64) * np.uint64(2**32) + items.astype(np.uint64) + np.uint64(1)
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        mixed ^= mixed >> np.uint64(33)
        mixed *= np.uint64(factor)
    mixed ^= mixed >> np.uint64(33)
    return np.asarray((mixed >> np.uint64(11)).astype(np.float64) / 2.0**53)
