"""What replay's bits are promised for: decalog's own code, the libraries that touch numbers, and the class of CPU."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import msgspec

_PACKAGES = ("lightgbm", "llvmlite", "msgspec", "numba", "numpy", "onnxruntime", "scipy")
"""Packages whose version can move a bit of a feature or a prediction."""


class Code(msgspec.Struct, frozen=True):
    """The code and libraries that made a model or a decision.

    Args:
        version: of decalog.
        sources: SHA-256 over decalog's own source files.
        lock: SHA-256 over `packages`: two environments from one lock file agree.
        packages: Python and the packages that can move a bit → version.
    """

    version: str
    sources: str
    lock: str
    packages: dict[str, str]


@cache
def this_code() -> Code:
    """Returns the code and libraries of this process."""
    found = packages()
    lock = hashlib.sha256(msgspec.json.encode(found, order="sorted")).hexdigest()
    version = importlib.metadata.version("decalog")
    return Code(version, source_hash(Path(__file__).parent), lock, found)


def packages() -> dict[str, str]:
    """Returns Python and the installed packages that can move a bit, with their versions."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def source_hash(package: Path) -> str:
    """Returns the SHA-256 over names and contents of a package's Python files, in the order of their names."""
    state = hashlib.sha256()
    for path in sorted(package.rglob("*.py"), key=lambda p: p.relative_to(package).as_posix()):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        state.update(f"{path.relative_to(package).as_posix()}\0{content}\n".encode())
    return state.hexdigest()


@cache
def cpu_class() -> str:
    """Returns the machine's architecture and CPU model, as far as the platform tells."""
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = (line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line)
        model = next(lines, model)
    return f"{platform.machine()} {model}".strip()


@cache
def runtime() -> Mapping[str, object]:
    """Returns the runtime as the log's `runtime` table keeps it."""
    code = this_code()
    return {"code": code.sources, "lock": code.lock, "packages": code.packages, "cpu": cpu_class()}
