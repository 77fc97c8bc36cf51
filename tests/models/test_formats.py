"""Formats: every name loads, nothing heavy is imported before it is needed."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from decalog.errors import ModelError
from decalog.models import boosted, funnel, heads, linear, onnx, own, quantities
from decalog.models.base import Floats
from decalog.models.formats import FORMATS, is_blocking, load_model


def test_every_module_names_a_format_that_loads_with_its_own_loader() -> None:
    assert set(FORMATS) == {module.FORMAT for module in (boosted, funnel, heads, linear, onnx, own, quantities)}
    for module in (boosted, funnel, heads, linear, onnx, own, quantities):
        name, _, function = FORMATS[module.FORMAT].partition(":")
        assert getattr(importlib.import_module(name), function) is module.load


def test_an_unknown_format_is_refused_with_the_near_match(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model format: 'lightgmb'. Expected 'lightgbm' \(closest match\)"):
        load_model("lightgmb", tmp_path, settings={})


def test_trees_and_numbers_answer_at_once_and_what_does_not_say_so_may_take_long() -> None:
    assert not is_blocking(linear.Prior(0.1, 1))
    assert boosted.Boosted.blocking is False

    class Silent:
        def predict(self, rows: Floats) -> Floats:
            return rows[:, 0]

        def save(self, folder: Path) -> dict[str, str]:
            return {}

    assert is_blocking(Silent())


def test_the_registry_the_metrics_and_the_formats_import_no_heavy_library() -> None:
    program = (
        "import sys, decalog.registry, decalog.metrics, decalog.models.formats, decalog.models.boosted\n"
        "import decalog.models.heads, decalog.models.onnx, decalog.models.own\n"
        "print(sorted({'lightgbm', 'onnxruntime', 'scipy', 'sklearn', 'numba', 'duckdb'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
