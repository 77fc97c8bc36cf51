"""Arrays and names of a model in two files: NumPy's .npz, read without pickle, and JSON."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.errors import ModelError

Names = TypeVar("Names")
Arrays = Mapping[str, npt.NDArray[Any]]


def save_arrays(folder: Path, stem: str, *, arrays: Arrays, names: object) -> None:
    """Writes `<stem>.npz` and `<stem>.json`; the same model gives the same bytes."""
    with (folder / f"{stem}.npz").open("wb") as file:
        np.savez(file, allow_pickle=False, **dict(arrays))
    (folder / f"{stem}.json").write_bytes(msgspec.json.encode(names))


def load_arrays(folder: Path, stem: str, *, names: type[Names]) -> tuple[dict[str, npt.NDArray[Any]], Names]:
    """Returns what `save_arrays` wrote; arrays that hold objects are not read.

    Raises:
        ModelError: a file is missing or damaged.
    """
    try:
        found = msgspec.json.decode((folder / f"{stem}.json").read_bytes(), type=names)
        # np.load leaves a broken archive open when it opens the file itself.
        with (folder / f"{stem}.npz").open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}, found
    except (OSError, EOFError, ValueError, TypeError, AttributeError, zipfile.BadZipFile, msgspec.DecodeError) as error:
        raise damaged(stem, f"files that cannot be read ({type(error).__name__})") from None


def check_shapes(stem: str, arrays: Arrays, *, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Checks that there are the arrays of these shapes, of finite numbers, and no others.

    Raises:
        ModelError: one is missing, has another shape, or holds what is no number.
    """
    if arrays.keys() != shapes.keys():
        raise damaged(stem, f"arrays {', '.join(sorted(arrays)) or 'none'} where it needs {', '.join(sorted(shapes))}")
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise damaged(stem, f"array '{name}' of shape {arrays[name].shape}, where the names need {shape}")
        if not np.isfinite(arrays[name]).all():
            raise damaged(stem, f"array '{name}' with values that are not finite")


def damaged(stem: str, given: str) -> ModelError:
    """Returns the error of model files that cannot be used."""
    return ModelError(
        where=f"model files {stem}.npz and {stem}.json",
        given=given,
        expected="the two files as the training run wrote them",
        fix="Roll back with `decalog models rollback`, restore them from a backup, or train again.",
    )
