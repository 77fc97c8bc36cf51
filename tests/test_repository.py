"""What holds for the repository as a whole: locks, settings with reasons, no trace of one machine, and its Makefile."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("src", "tests", "docs", "examples", "bench", ".ci")
LOCKS = ("requirements.lock", "requirements-core.lock", "requirements-spark.lock", "requirements-uv.lock")
README_LINES = 150

# Written so that this file does not match itself.
MACHINE_PATHS = re.compile(r"(?<![\w.~`})])/(?:work|root|home/\w+|Users/\w+|tmp/brief|opt/pypi)(?=/|\b)")
REGISTRY_HOSTS = re.compile(
    r"\b(?:pypi[.]org|files[.]pythonhosted[.]org|registry[.]npmjs[.]org|test[.]pypi)", re.IGNORECASE
)
BARE_NOQA = re.compile(r"#\s*noqa(?!: [A-Z]+\d+(?:, ?[A-Z]+\d+)*(?: --? |  # )\w)")
BARE_TYPE_IGNORE = re.compile(r"#\s*type: ignore(?!\[[\w, -]+\]  # \w)")


def project_files() -> Iterator[Path]:
    """Yields the project's text files: those at the top and those in its folders, without what tools leave behind."""
    top = [path for path in ROOT.iterdir() if path.is_file()]
    inside = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]
    for path in sorted([*top, *inside]):
        if "__pycache__" not in path.parts and path.name != ".git" and b"\0" not in path.read_bytes()[:4096]:
            yield path


def lines_matching(pattern: re.Pattern[str], paths: Iterator[Path]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in paths
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]


def test_no_file_names_a_path_of_one_machine() -> None:
    found = lines_matching(MACHINE_PATHS, project_files())
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("line", "is_found"),
    [
        ("open('/" + "work/main/x')", True),
        ("see /" + "root/.cache", True),
        ("/" + "Users/ann/decalog", True),
        ("~/work/decalog", False),
        ("https://example.org/work/x", False),
        ("$(pwd)/workers", False),
        ("files below `folder`/" + "root", False),
    ],
)
def test_a_path_of_one_machine_is_recognised(line: str, is_found: bool) -> None:
    assert (MACHINE_PATHS.search(line) is not None) is is_found


def test_no_file_names_a_registry_host() -> None:
    found = lines_matching(REGISTRY_HOSTS, project_files())
    assert not found, "\n".join(found)


def test_a_registry_host_is_recognised() -> None:
    assert REGISTRY_HOSTS.search("--index-url https://" + "pypi" + ".org/simple")


def locked(name: str) -> dict[str, str]:
    """Returns each pinned requirement of a lock (`name==version ; marker`) with the text of its hashes."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", "")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {pin.strip(): hashes for pin, _, hashes in (line.partition("--hash=") for line in lines)}


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_requirement_is_pinned_and_hashed(name: str) -> None:
    pins = locked(name)
    assert pins
    assert not [pin for pin, hashes in pins.items() if "==" not in pin or not re.match(r"sha256:[0-9a-f]{64}", hashes)]


def test_the_core_lock_is_a_part_of_the_whole_lock() -> None:
    assert locked("requirements-core.lock").items() <= locked("requirements.lock").items()


def test_the_lock_answers_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[^\w-]", requirement)[0] for requirement in wanted} - {"decalog"}
    assert names <= {pin.split("==")[0] for pin in locked("requirements.lock")}


def entries_without_reason(settings: str) -> list[str]:
    """Returns the entries of ignore lists and warning filters in pyproject.toml that carry no reason beside them."""
    found, is_inside = [], False
    for line in settings.splitlines():
        if re.match(r'(ignore|filterwarnings|"[^"]+") = \[$', line):
            is_inside = True
        elif line == "]":
            is_inside = False
        elif is_inside and '"error",' not in line and not re.search(r'",?\s+# .{10,}$', line):
            found.append(line.strip())
    return found


def test_every_ignored_rule_has_a_reason() -> None:
    assert not entries_without_reason((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_an_ignored_rule_without_a_reason_is_found() -> None:
    settings = 'ignore = [\n  "D105",  # the meaning is Python\'s\n  "S101",\n]\n"tests/**" = [\n  "T201",  # x\n]'
    assert entries_without_reason(settings) == ['"S101",', '"T201",  # x']


def test_every_ignore_in_the_code_names_its_rule_and_reason() -> None:
    files = [path for path in project_files() if path.suffix == ".py" and path != Path(__file__).resolve()]
    # Tests hand over wrong types on purpose, so there the error code alone says why; mypy asks for it.
    untyped = [path for path in files if path.is_relative_to(ROOT / "src")]
    found = [*lines_matching(BARE_NOQA, iter(files)), *lines_matching(BARE_TYPE_IGNORE, iter(untyped))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("line", "is_found"),
    [
        ("except Exception:  # noqa: BLE001 - the edge of the request", False),
        ("except Exception:  # noqa: BLE001  # the edge of the request", False),
        ("x = y  # type: ignore[misc]  # numba has no types", False),
        ("except Exception:  # noqa: BLE001", True),
        ("except Exception:  # noqa", True),
        ("x = y  # type: ignore[misc]", True),
        ("x = y  # type: ignore", True),
    ],
)
def test_an_ignore_without_rule_or_reason_is_recognised(line: str, is_found: bool) -> None:
    assert any(p.search(line) for p in (BARE_NOQA, BARE_TYPE_IGNORE)) is is_found


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= README_LINES


@pytest.fixture
def bare_machine(tmp_path: Path) -> Path:
    """Returns a directory with the Makefile and a `bin` that holds make and a shell's tools, but no Python."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("requirements-uv.lock", "requirements-core.lock", "pyproject.toml"):
        (tmp_path / name).touch()
    (tmp_path / "bin").mkdir()
    for tool in ("make", "sh", "awk"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool) or tool)
    return tmp_path


def run_make(where: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(where / "bin"), "HOME": str(where)}
    command = [str(where / "bin" / "make"), *words]
    return subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, check=False)


def test_make_says_what_to_do_where_no_python_will_do(bare_machine: Path) -> None:
    old = bare_machine / "bin" / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.6 || exit 1\n')
    old.chmod(0o755)
    done = run_make(bare_machine, "up")
    assert done.returncode != 0
    assert [line.split(":")[0].strip() for line in done.stderr.splitlines()][:4] == ["make", "found", "expected", "do"]
    assert "found:    Python 3.9.6" in done.stderr
    assert "expected: Python 3.11, 3.12 or 3.13 with the venv module" in done.stderr
    assert "make PYTHON=" in done.stderr


def test_make_says_so_where_there_is_no_python_at_all(bare_machine: Path) -> None:
    assert "found:    no python3 that runs" in run_make(bare_machine, "up").stderr


def test_make_help_lists_every_verb(bare_machine: Path) -> None:
    shown = {line.split()[1] for line in run_make(bare_machine, "help").stdout.splitlines()}
    assert shown == {"up", "test", "lint", "slow", "bench", "check-quick", "docs", "spark", "lock", "clean", "help"}


def test_the_ci_script_can_be_run() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text(encoding="utf-8").startswith("#!/usr/bin/env bash")
