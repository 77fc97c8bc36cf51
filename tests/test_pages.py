"""Pages name files, functions and other pages; what they name has to be there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "decalog"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]

LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
SOURCE = re.compile(r"`([\w/]+\.py)`")
NAMED = re.compile(r"`([\w/]+\.py)`: ([A-Z_a-z][\w.]*(?:, [A-Z_a-z][\w.]*)*)")
FALLBACK = re.compile(r'fallback = (?:None, )?"(\w+)"')

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def places(name: str, page: Path) -> list[Path]:
    """Returns the files that a page may mean by a name; a bare name may be a neighbour of one named before it."""
    inside = [path for path in PACKAGE.rglob(name) if path.is_file()]
    return [*inside, *(path for path in (ROOT / name, page.parent / name) if path.is_file())]


def names_of(path: Path) -> set[str]:
    """Returns what a module defines: names at its top, and `Class.method`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set(top_names(tree.body))
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{name}" for name in top_names(node.body)}
    return found


def top_names(body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


@each_page
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    links = LINK.findall(page.read_text(encoding="utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]


@each_page
def test_every_source_file_that_a_page_names_exists(page: Path) -> None:
    named = set(SOURCE.findall(page.read_text(encoding="utf-8"))) - {"bench.py"}
    assert not sorted(name for name in named if not places(name, page))


@each_page
def test_every_function_that_a_page_names_is_in_its_file(page: Path) -> None:
    missing = []
    for source, listed in NAMED.findall(page.read_text(encoding="utf-8")):
        known = {name for path in places(source, page) for name in names_of(path)}
        missing += [f"{source}: {name}" for name in listed.split(", ") if name not in known]
    assert not missing


def test_the_architecture_names_a_place_for_each_of_the_eleven_rules() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) .*\| .*`[\w/]+\.py`", text, re.MULTILINE)
    assert [int(row) for row in rows] == list(range(1, 12))
    assert len(NAMED.findall(text)) > 20


def test_every_fallback_is_explained() -> None:
    sources = [*PACKAGE.glob("*.py"), *(PACKAGE / "models").glob("*.py")]
    used = {name for path in sources for name in FALLBACK.findall(path.read_text(encoding="utf-8"))}
    text = (ROOT / "docs" / "concepts" / "decisions.md").read_text(encoding="utf-8")
    table = {name for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    assert used == table - {"fallback"}


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs" / "index.md"
    linked = {(index.parent / link).resolve() for link in LINK.findall(index.read_text(encoding="utf-8"))}
    pages = {page for page in (ROOT / "docs").rglob("*.md") if page != index}
    assert not sorted(str(page.relative_to(ROOT)) for page in pages - linked)


def test_a_name_that_is_not_there_is_found(tmp_path: Path) -> None:
    assert NAMED.findall("`log.py`: Log.stamp, Nothing") == [("log.py", "Log.stamp, Nothing")]
    known = names_of(PACKAGE / "log.py")
    assert {"Log.stamp", "Draft", "FUTURE_TOLERANCE_US"} <= known
    assert "Nothing" not in known
    assert not places("no_such_file.py", tmp_path / "page.md")
