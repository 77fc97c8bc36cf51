"""What a model may be asked and taught: finite numbers of the right width, checked before they reach native code."""

from __future__ import annotations

import numpy as np

from decalog.errors import DataError, ModelError
from decalog.models.base import Floats, TrainingSet


def checked(rows: Floats, *, width: int) -> Floats:
    """Returns rows as a contiguous float64 matrix.

    Raises:
        ModelError: the shape is not n × width, or a value is NaN or infinite.
    """
    matrix = np.ascontiguousarray(rows, np.float64)
    if matrix.ndim != 2 or matrix.shape[1] != width:  # noqa: PLR2004 - rows × features
        raise ModelError(
            where="prediction",
            given=f"an array of shape {matrix.shape}",
            expected=f"rows × {width} features, in the order of the manifest",
            fix="Serve the model with the feature set that it was trained on.",
        )
    if not np.isfinite(matrix).all():
        raise ModelError(
            where="prediction",
            given="a feature that is NaN or infinite",
            expected="finite numbers; a missing feature has its declared value",
            fix="Compute features through decalog.features, which never yields them.",
        )
    return matrix


def check_binary(data: TrainingSet, *, surmised: bool = False) -> None:
    """Checks that there is something to learn: finite rows, labels 0 and 1, both of them.

    Args:
        data: to learn from.
        surmised: whether labels between 0 and 1 may be among them.

    Raises:
        DataError: labels are of one kind only, or others, or there are no rows.
    """
    found = np.unique(data.labels)
    is_fit = len(found) > 1 and 0 <= found[0] < found[-1] <= 1 if surmised else np.array_equal(found, [0.0, 1.0])
    if not is_fit:
        listed = ", ".join(f"{label:g}" for label in found[:5]) or "none"
        raise DataError(
            where="training set",
            given=f"{len(data.labels)} rows with labels {listed}",
            expected="matured labels 0 and 1, at least one of each",
            fix="Train on a longer part of the log, or wait until labels mature.",
        )
    if not np.isfinite(data.rows).all():
        raise DataError(
            where="training set",
            given="a feature that is NaN or infinite",
            expected="finite numbers; a missing feature has its declared value",
            fix="Compute features through decalog.features, which never yields them.",
        )
