"""A user's own Python class as a model: named by its dotted path, imported only where the caller's settings allow it.

The manifest records the path, never an object: no pickle is ever written or loaded, so an artefact that someone else
made cannot run code. What runs is the class that is installed here, under a path that whoever starts decalog has
allowed.

    class MyModel:
        @classmethod
        def load(cls, folder: Path) -> MyModel: ...      # from the files that belong to it
        def predict(self, rows): ...                     # float64, n × features → n probabilities
"""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from decalog.errors import ConfigError, ModelError, near
from decalog.models.base import Floats, ModelSpec, TrainingSet
from decalog.models.rows import checked

FORMAT = "python"


class OwnModel:
    """A user's class, held to the contract: rows one at a time, finite in, probabilities out.

    Args:
        path: dotted path `my_module:MyModel`.
        source: folder of the files that its `load` reads.
        width: how many features a row has.
        allowed: dotted paths that may be imported.

    Raises:
        ConfigError: the path is not allowed, or names no class with `load` and `predict`.
        ModelError: its `load` fails.
    """

    blocking: ClassVar[bool] = True
    """Its cost is the user's: serving runs it in a thread, under the deadline."""

    def __init__(self, path: str, source: Path, *, width: int, allowed: Collection[str]) -> None:
        self._path = path
        self._source = source
        self._width = width
        self._model = self._loaded(_import(path, allowed))

    def predict(self, rows: Floats) -> Floats:
        """See `Model.predict`. Rows go one at a time, so a row's bits cannot depend on its neighbours.

        Raises:
            ModelError: the class gives something other than one probability a row.
        """
        matrix = checked(rows, width=self._width)
        return np.array([self._one(matrix[i : i + 1]) for i in range(len(matrix))], np.float64)

    def save(self, folder: Path) -> Mapping[str, Any]:
        """See `Model.save`: copies the files that the class loads from."""
        if folder.resolve() != self._source.resolve():
            shutil.copytree(self._source, folder, dirs_exist_ok=True)
        return {"path": self._path, "width": self._width}

    def _loaded(self, found: Any) -> Any:
        try:
            return found.load(self._source)
        except Exception as error:  # the edge of an engine: a server goes on without this model
            raise ModelError(
                where=f"model {self._path}",
                given=f"{type(error).__name__} from its load",
                expected="load(folder) → the model, from the files that were registered",
                fix="Try it on that folder by hand; promote another model meanwhile.",
            ) from error

    def _one(self, row: Floats) -> float:
        try:
            found = np.asarray(self._model.predict(row), np.float64).reshape(-1)
        except (TypeError, ValueError) as error:
            raise self._wrong(f"{type(error).__name__} from its predict") from error
        if found.shape != (1,) or not 0 <= found[0] <= 1:
            raise self._wrong(
                f"{len(found)} values for one row" if len(found) != 1 else "a value that is no probability"
            )
        return float(found[0])

    def _wrong(self, given: str) -> ModelError:
        return ModelError(
            where=f"model {self._path}",
            given=given,
            expected="predict(rows) → one probability in 0…1 a row",
            fix="Try the class on one row of zeros, shape (1, features).",
        )


def spec(path: str, source: Path, *, head: str, allowed: Collection[str], name: str = "own") -> ModelSpec:
    """Returns a user's class as a kind of model; `fit` only loads it from its folder."""

    def fit(data: TrainingSet, seed: int) -> OwnModel:
        del seed
        return OwnModel(path, source, width=len(data.names), allowed=allowed)

    return ModelSpec(name=name, meaning=f"your class {path}", fit=fit, format=FORMAT, head=head)


def load(folder: Path, settings: Mapping[str, Any], *, allowed: Collection[str]) -> OwnModel:
    """Returns the model of a folder.

    Raises:
        ConfigError: as in `OwnModel`.
    """
    return OwnModel(settings["path"], folder, width=settings["width"], allowed=allowed)


def _import(path: str, allowed: Collection[str]) -> Any:
    if path not in allowed:
        raise ConfigError(
            where="own model",
            given=f"class '{path}', which is not allowed here",
            expected=near(path, allowed) if allowed else "a class that the settings allow; none is allowed",
            fix="If you trust this class, allow its path in the settings (allowed models), then start again.",
        )
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise _no_class(path, f"a module that cannot be imported ({error})") from None
    if not isinstance(found, type) or not callable(getattr(found, "load", None)) or not hasattr(found, "predict"):
        raise _no_class(path, "no class with load and predict")
    return found


def _no_class(path: str, given: str) -> ConfigError:
    return ConfigError(
        where=f"own model '{path}'",
        given=given,
        expected="module:Class, with load(folder) and predict(rows)",
        fix="Install the module in this environment, or put its folder on PYTHONPATH.",
    )
