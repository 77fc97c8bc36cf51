"""The docs cannot lie: their code blocks run, their output is compared, and every command is in them.

`python` blocks of a page share one namespace; `console` blocks whose first line starts with `$ decalog` run in a shell
of their own home. Where a console block shows output, it must be the output (`...` stands for anything). A line
`<!-- not run: the reason -->` right above a block leaves it out.
"""

from __future__ import annotations

import doctest
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [page for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] if page.exists()]
ADRS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
ADR_LINES = 60
COMMAND_SECONDS = 300
RUNNABLE = {"python", "console"}

FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,})(?P<language>[\w-]*).*$")
NOT_RUN = re.compile(r"<!--\s*not run:(?P<reason>.*)-->")


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its text, the page's line where the text begins, and why it is not run."""

    language: str
    text: str
    line: int
    not_run: str | None

    @property
    def runs(self) -> bool:
        is_command = self.language == "console" and self.text.startswith("$ decalog")
        return self.not_run is None and (self.language == "python" or is_command)


def read_blocks(page: str) -> Iterator[Block]:
    lines = page.splitlines()
    number = 0
    while number < len(lines):
        fence = FENCE.match(lines[number])
        if not fence:
            number += 1
            continue
        end = next(
            (n for n in range(number + 1, len(lines)) if lines[n].strip() == fence["ticks"]),
            len(lines),
        )
        text = "\n".join(line.removeprefix(fence["indent"]) for line in lines[number + 1 : end])
        yield Block(fence["language"], text, number + 2, reason_above(lines, number))
        number = end + 1


def reason_above(lines: list[str], number: int) -> str | None:
    mark = NOT_RUN.search(lines[number - 1]) if number else None
    return mark["reason"].strip() if mark else None


@dataclass(frozen=True)
class Command:
    """One `$ ` line of a console block, continuation lines joined, with the output shown below it."""

    line: str
    output: str


def read_commands(text: str) -> list[Command]:
    joined = text.replace("\\\n", "")
    parts = re.split(r"^\$ ", joined, flags=re.MULTILINE)[1:]
    return [Command(line, output) for line, _, output in (part.partition("\n") for part in parts)]


def run_command(command: Command, home: Path) -> str:
    """Runs one `decalog …` line in a directory and returns what it printed; a failure fails the test."""
    words = shlex.split(command.line, comments=True)
    assert words[0] == "decalog", f"a block that starts with `$ decalog` holds another command: {command.line}"
    program = Path(sys.executable).with_name("decalog")
    environment = {**os.environ, "DECALOG_HOME": str(home / "var"), "NO_COLOR": "1", "COLUMNS": "120"}
    done = subprocess.run(
        [program, *words[1:]],
        cwd=home,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{command.line}\n{done.stdout}{done.stderr}"
    return done.stdout


def check_output(command: Command, printed: str) -> None:
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    shown = command.output.strip()
    is_same = not shown or doctest.OutputChecker().check_output(f"{shown}\n", f"{printed.strip()}\n", flags)
    assert is_same, f"$ {command.line}\nthe page shows:\n{shown}\nthe command printed:\n{printed}"


def run_page(name: str, page: str, home: Path) -> int:
    """Runs the blocks of a page in order and returns how many ran."""
    blocks = [block for block in read_blocks(page) if block.runs]
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in blocks:
        if block.language == "python":
            # Blank lines in front give a traceback the page's own line numbers.
            exec(compile("\n" * (block.line - 1) + block.text, name, "exec"), namespace)  # noqa: S102 - our own docs
            continue
        for command in read_commands(block.text):
            check_output(command, run_command(command, home))
    return len(blocks)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_code_blocks_of_a_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DECALOG_HOME", str(tmp_path / "var"))
    run_page(str(page), page.read_text(encoding="utf-8"), tmp_path)


def told_by(example: str) -> str:
    """Returns what an example prints."""
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / example],
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_example_of_demand_runs() -> None:
    told = told_by("demand.py")
    assert "as a lower bound" in told
    assert "of 534 orders sold out: what was wanted is recovered" in told
    plain, careful = (int(one) for one in re.findall(r"^rolls\b.*?: (\d+) units", told, re.MULTILINE))
    assert 50 < plain <= careful + 6


def test_the_example_of_feed_runs() -> None:
    told = told_by("feed.py")
    assert re.search(r"^ask-2: \d+ about chess; 12 of 12 slots from \d+ posts, by dpp$", told, re.MULTILINE)
    assert told.endswith("filter     taken out: muted\n")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_block_that_is_not_run_says_why(page: Path) -> None:
    blocks = list(read_blocks(page.read_text(encoding="utf-8")))
    assert not [block.line for block in blocks if block.not_run is not None and len(block.not_run) < 5]


@pytest.mark.parametrize("page", ADRS, ids=lambda page: page.stem)
def test_an_adr_is_short(page: Path) -> None:
    assert len(page.read_text(encoding="utf-8").splitlines()) <= ADR_LINES


def read_command_names() -> list[str]:
    """Returns every visible command as it is typed, such as `data fetch`."""
    typer = pytest.importorskip("typer")
    cli = importlib.import_module("decalog.cli")
    return list(command_names(typer.main.get_command(cli.app), []))


def command_names(command: object, path: list[str]) -> Iterator[str]:
    children: dict[str, object] = getattr(command, "commands", {})
    if not children and path:
        yield " ".join(path)
    for name, child in children.items():
        if not getattr(child, "hidden", False):
            yield from command_names(child, [*path, name])


@pytest.mark.skipif(importlib.util.find_spec("decalog.cli") is None, reason="decalog.cli is not built yet")
def test_every_command_is_documented() -> None:
    text = " ".join(" ".join(page.read_text(encoding="utf-8") for page in PAGES).split())
    names = read_command_names()
    assert "up" in names
    assert not [name for name in names if not re.search(rf"\bdecalog {name}\b", text)]


PAGE = """
# A page

```python
number = 2
```

1. A list

   ```python
   assert number == 2
   seen.append(number)
   ```

<!-- not run: it never ends -->
```python
while True: pass
```

```console
$ make up
```

<!-- not run: it serves until it is stopped -->
```console
$ decalog serve fraud
```

```toml
key = 1
```
"""


def test_blocks_are_found_with_language_line_and_reason() -> None:
    found = [(block.language, block.line, block.not_run, block.runs) for block in read_blocks(PAGE)]
    assert found == [
        ("python", 5, None, True),
        ("python", 11, None, True),
        ("python", 17, "it never ends", False),
        ("console", 21, None, False),
        ("console", 26, "it serves until it is stopped", False),
        ("toml", 30, None, False),
    ]


def test_a_page_shares_one_namespace(tmp_path: Path) -> None:
    page = PAGE.replace("number = 2", "number = 2; seen = []")
    assert run_page("page.md", page, tmp_path) == 2


def test_a_broken_block_fails_with_the_line_of_its_page(tmp_path: Path) -> None:
    with pytest.raises(NameError, match="seen") as caught:
        run_page("page.md", PAGE, tmp_path)
    assert caught.traceback[-1].lineno + 1 == 12


def test_commands_are_read_with_continuations_and_output() -> None:
    text = "$ decalog train fraud \\\n    --seed 1\ntrained\n$ decalog models list"
    assert read_commands(text) == [
        Command("decalog train fraud     --seed 1", "trained\n"),
        Command("decalog models list", ""),
    ]


@pytest.mark.parametrize("shown", ["", "seed 1 done", "seed ... done", "seed 1\ndone"])
def test_output_as_shown_passes(shown: str) -> None:
    check_output(Command("decalog train", shown), "seed 1 done\n")


def test_output_that_differs_fails() -> None:
    with pytest.raises(AssertionError, match=r"(?s)page shows:\s+seed 2 done\s+the command printed:\s+seed 1 done"):
        check_output(Command("decalog train", "seed 2 done"), "seed 1 done\n")


def test_a_block_with_another_command_fails(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="holds another command: rm x"):
        run_command(Command("rm x", ""), tmp_path)
