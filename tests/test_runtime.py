from __future__ import annotations

import importlib.metadata
import platform

import numpy as np
import pytest

from decalog import runtime as module
from decalog.runtime import cpu_class, packages, runtime, this_code


def test_the_runtime_names_code_lock_packages_and_cpu() -> None:
    found = runtime()
    assert set(found) == {"code", "lock", "packages", "cpu"}
    assert (found["code"], found["lock"]) == (this_code().sources, this_code().lock)
    assert found["packages"] == packages()
    assert str(found["cpu"]).startswith(platform.machine())
    assert cpu_class() == found["cpu"]


def test_packages_are_those_of_this_process() -> None:
    found = packages()
    assert found["python"] == platform.python_version()
    assert found["numpy"] == np.__version__


def test_a_package_that_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "onnxruntime":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert "onnxruntime" not in packages()
    assert "numpy" in packages()


def test_another_package_is_another_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    here = this_code()
    monkeypatch.setattr(module, "packages", lambda: {"python": "3.11.0"})
    there = this_code.__wrapped__()
    assert there.lock != here.lock
    assert there.packages == {"python": "3.11.0"}
