"""Which module may import which library: the spine stays light, engines and numeric libraries stay in their rooms."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "src" / "decalog"

HEAVY = {
    *("duckdb", "faiss", "lightgbm", "numba", "onnxruntime", "pandas", "polars", "pyarrow", "pyspark", "scipy"),
    "sklearn",
}

# What may import a heavy library when it is imported itself: models, engines, the kernel, the offline path, and of a
# system its models, its world and its field rooms. All else imports one late, inside the function that needs it.
HEAVY_ROOMS = re.compile(
    r"models/|stores/|testing/|data/|monitoring/|features/(kernel|offline)\.py|(evaluation|experiments|training)\.py"
    r"|systems/\w+/(?!(system|schema|features|policy|metrics|monitors|wire)\.py)"
)

# Of the stores the spine knows the ports and the table of short names; engines come in through constructors.
PORTS = {"decalog.stores.base", "decalog.stores.table"}
ENGINE_USERS = ("stores/", "testing/")

# Derived copies are Parquet whichever engine holds the log: these write and check their files.
COPY_USERS = ("sealing.py", "verification.py", "backfill.py")
COPY_FORMAT = "decalog.stores.parquet"

# Tokens and the registry's aliases lie in SQLite whichever engine holds the log, so they may open such a file.
CONTROL_PLANE = "decalog.stores.sqlite.connect"


def imports_at_start(body: list[ast.stmt]) -> Iterator[str]:
    """Yields the modules that are imported when the module itself is: not in functions, not for type checkers only."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from imports_at_start(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from imports_at_start(statements_in(node))


def statements_in(node: ast.stmt | ast.ExceptHandler | ast.match_case) -> list[ast.stmt]:
    inside: list[ast.stmt] = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            inside.append(child)
        elif isinstance(child, ast.ExceptHandler | ast.match_case):
            inside.extend(statements_in(child))
    return inside


def heavy_imports(module: str, source: str) -> list[str]:
    if HEAVY_ROOMS.match(module):
        return []
    return [name for name in imports_at_start(ast.parse(source).body) if name.split(".")[0] in HEAVY]


def engine_imports(module: str, source: str) -> list[str]:
    if module.startswith(ENGINE_USERS):
        return []
    names = (name for name in imports_at_start(ast.parse(source).body) if name.startswith("decalog.stores."))
    known = PORTS | {CONTROL_PLANE} | ({COPY_FORMAT} if module in COPY_USERS else set())
    return [name for name in names if not {name, name.rpartition(".")[0]} & known]


def sources() -> Iterator[tuple[str, str]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).as_posix(), path.read_text(encoding="utf-8")


def test_heavy_libraries_stay_in_their_rooms() -> None:
    found = {module: heavy_imports(module, source) for module, source in sources()}
    assert not {module: names for module, names in found.items() if names}


def test_the_spine_receives_engines_and_never_imports_one() -> None:
    found = {module: engine_imports(module, source) for module, source in sources()}
    assert not {module: names for module, names in found.items() if names}


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import numba", ["numba"]),
        ("from scipy.stats import norm", ["scipy.stats.norm"]),
        ("try:\n    import numba\nexcept ImportError:\n    pass", ["numba"]),
        ("try:\n    import x\nexcept ImportError:\n    import numba", ["numba"]),
        ("class A:\n    import duckdb", ["duckdb"]),
        ("def f():\n    import numba", []),
        ("if TYPE_CHECKING:\n    import lightgbm", []),
        ("import numpy", []),
    ],
)
def test_a_heavy_import_is_found_where_it_runs_at_import(source: str, names: list[str]) -> None:
    assert heavy_imports("serving.py", source) == names


@pytest.mark.parametrize(
    ("module", "is_heavy"),
    [
        ("features/kernel.py", True),
        ("features/online.py", False),
        ("systems/fraud/models.py", True),
        ("systems/eta/routing.py", True),
        ("systems/fraud/policy.py", False),
        ("serving.py", False),
    ],
)
def test_heavy_libraries_have_rooms_of_their_own(module: str, is_heavy: bool) -> None:
    assert (not heavy_imports(module, "import numba")) is is_heavy


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("from decalog.stores.sqlite import SqliteLogStore", ["decalog.stores.sqlite.SqliteLogStore"]),
        ("from decalog.stores import sqlite", ["decalog.stores.sqlite"]),
        ("from decalog.stores import base", []),
        ("from decalog.stores.base import LogStore", []),
        ("from decalog.stores.table import open_store", []),
        ("from decalog.stores.sqlite import connect", []),
    ],
)
def test_an_engine_is_told_from_a_port(source: str, names: list[str]) -> None:
    assert engine_imports("serving.py", source) == names


def loaded_by(module: str) -> set[str]:
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_import_decalog_is_light() -> None:
    loaded = loaded_by("decalog")
    assert "decalog" in loaded
    assert not loaded & (HEAVY | {"numpy", "starlette", "uvicorn", "cryptography"})


@pytest.mark.skipif(not (PACKAGE / "cli.py").exists() and not (PACKAGE / "cli").exists(), reason="there is no cli yet")
def test_the_command_starts_without_heavy_libraries() -> None:
    assert not loaded_by("decalog.cli") & (HEAVY | {"numpy", "starlette", "uvicorn"})
