"""What replay's bits are promised for: decalog's own code, the lock file, Python, and the class of CPU."""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from importlib import metadata
from pathlib import Path

_NUMERIC = ("numpy", "numba", "lightgbm", "onnxruntime", "msgspec")


@cache
def code_version() -> str:
    """Returns the hash of decalog's own source files, 12 hex digits."""
    root = Path(__file__).parent
    state = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        state.update(path.relative_to(root).as_posix().encode() + b"\0")
        state.update(path.read_bytes() + b"\0")
    return state.hexdigest()[:12]


@cache
def lock_version() -> str:
    """Returns the hash of the versions of the numeric packages that are installed, 12 hex digits.

    Two environments made from one lock file agree; so do two locks that differ only in tools.
    """
    return hashlib.sha256(repr(sorted(numeric_packages().items())).encode()).hexdigest()[:12]


@cache
def numeric_packages() -> dict[str, str]:
    """Returns the packages that touch numbers, with their versions."""
    found = {}
    for name in _NUMERIC:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


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
def runtime() -> dict[str, object]:
    """Returns the runtime as the log's `runtime` table keeps it."""
    return {
        "code": code_version(),
        "lock": lock_version(),
        "packages": numeric_packages(),
        "python": platform.python_version(),
        "cpu": cpu_class(),
    }
