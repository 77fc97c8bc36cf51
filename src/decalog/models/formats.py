"""Formats of stored models: name → loader. A loader's libraries are imported when a model of its format is loaded."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, cast

from decalog.errors import ModelError, near
from decalog.models.base import Model

FORMATS: Mapping[str, str] = {
    "funnel": "decalog.models.funnel:load",
    "heads": "decalog.models.heads:load",
    "json": "decalog.models.linear:load",
    "lightgbm": "decalog.models.boosted:load",
    "onnx": "decalog.models.onnx:load",
    "python": "decalog.models.own:load",
    "quantities": "decalog.models.quantities:load",
}
"""Name → dotted path of a function (folder, settings) → model. No format unpickles anything."""

_IMPORTS_CODE = "python"


def load_model(name: str, folder: Path, *, settings: Mapping[str, Any], allowed: Collection[str] = ()) -> Model:
    """Returns the model that lies in a folder.

    Args:
        name: of the format, as in the manifest.
        folder: of the artefact.
        settings: of the manifest.
        allowed: dotted paths of users' classes that may be imported; nothing else of a manifest names code.

    Raises:
        ModelError: the format is unknown, or the files are missing or damaged.
        ConfigError: an extra is not installed, or a class is not allowed.
    """
    if name not in FORMATS:
        raise ModelError(
            where="model format",
            given=f"'{name}'",
            expected=near(name, FORMATS),
            fix="Use the decalog that made this model, or a newer one.",
        )
    module, _, function = FORMATS[name].partition(":")
    loader = cast("Callable[..., Model]", getattr(importlib.import_module(module), function))
    return loader(folder, settings, allowed=allowed) if name == _IMPORTS_CODE else loader(folder, settings)


def is_blocking(model: Model) -> bool:
    """Returns whether a model may take long: serving then runs it in a thread, under the deadline."""
    return bool(getattr(model, "blocking", True))
