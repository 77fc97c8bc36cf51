"""Checks of the arrays that statistics are made of: one place that says what is wrong with which column."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from decalog.errors import DataError
from decalog.metrics import Floats


def column(values: npt.ArrayLike, where: str, *, low: float = -np.inf, high: float = np.inf, n: int = -1) -> Floats:
    """Returns a column as float64, once it is one of finite numbers within bounds.

    Args:
        values: one number a row.
        where: names the column in the message, `off-policy estimate, propensities`.
        low: the smallest that is allowed.
        high: the largest that is.
        n: rows that it must have; −1 for any number from 1 on.

    Raises:
        DataError: it has another shape or length, or values that are not finite or out of bounds.

    >>> column([1, 2], "doctest, rewards").tolist()
    [1.0, 2.0]
    """
    found = np.asarray(values, np.float64)
    if found.ndim != 1 or not len(found) or len(found) != (n if n >= 0 else len(found)):
        raise DataError(
            where=where,
            given=f"an array of shape {found.shape}",
            expected=f"{n if n >= 0 else 'at least one'} numbers, one a row",
            fix="Give each row one value, in the order of the other columns.",
        )
    wrong = int(np.sum(~(np.isfinite(found) & (found >= low) & (found <= high))))
    if wrong:
        raise DataError(
            where=where,
            given=f"{wrong} of {len(found)} values that are not",
            expected=f"finite numbers in [{low:g}, {high:g}]",
            fix="Leave these rows out, and count them, or mend what computed the column.",
        )
    return found
