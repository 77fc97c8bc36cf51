from __future__ import annotations

import sys
from pathlib import Path

import pytest

from decalog import cli
from decalog.errors import ConfigError
from decalog.schema import Field
from decalog.system import SYSTEMS, System, find_command, find_system, load
from decalog.systems.fraud.system import SYSTEM

OWN = """
from decalog.systems.fraud.system import SYSTEM
NOTHING = 7
"""
BRINGING = """
import msgspec
import typer
from decalog.systems.fraud.system import SYSTEM as FRAUD

app = typer.Typer(add_completion=False)

@app.command()
def greet(name: str, loud: bool = False) -> None:
    typer.echo(f"hello {name}{'!' * loud}")

SYSTEM = msgspec.structs.replace(FRAUD, commands={"greet": "my_shop:app", "train": "my_shop:app", "gone": "my_shop:no"})
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path, for modules of a user's own; what is imported from it is forgotten afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("my_shop", "my_broken_shop"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def test_every_system_that_comes_with_decalog_is_found_under_its_own_name() -> None:
    for name in SYSTEMS:
        assert find_system(name).name == name
    assert find_system("fraud") is SYSTEM


def test_a_users_own_system_is_found_by_its_dotted_path(package: Path) -> None:
    (package / "my_shop.py").write_text(OWN)
    assert find_system("my_shop:SYSTEM") is SYSTEM
    assert load("my_shop:NOTHING") == 7


@pytest.mark.parametrize(
    "name", ["frod", "", "fraud:", ":SYSTEM", "..:x", "no_such_module:SYSTEM", "my_shop:NOTHING", "my_shop:GONE"]
)
def test_what_names_no_system_is_refused(package: Path, name: str) -> None:
    (package / "my_shop.py").write_text(OWN)
    with pytest.raises(ConfigError) as caught:
        find_system(name)
    every = "one of: demand, feed, fraud"
    near = f"'fraud' (closest match), or {every}" if name in ("frod", "fraud:") else every
    assert str(caught.value) == (
        f"system: {name!r}. Expected {near}, or a dotted path such as my_package.system:SYSTEM. "
        "`decalog new NAME` drafts a system of your own."
    )


def test_a_module_that_lacks_what_it_imports_is_told_from_one_that_is_not_there(package: Path) -> None:
    (package / "my_broken_shop.py").write_text("import no_such_library")
    with pytest.raises(ConfigError) as caught:
        find_system("my_broken_shop:SYSTEM")
    assert str(caught.value) == (
        "my_broken_shop:SYSTEM: a module that imports no_such_library, which is not installed. "
        "Expected a module that can be imported. Install no_such_library, or mend the import."
    )


def test_own_signals_become_request_fields_and_features_of_the_model() -> None:
    signal = Field(name="v1", kind="float", meaning="Mine.")
    wider = SYSTEM.with_signals((signal,))
    assert isinstance(wider, System)
    assert wider.schema.request.fields[-1] == signal
    assert wider.features.names_for("model")[-1] == "v1"
    assert wider.features.version != SYSTEM.features.version
    assert SYSTEM.with_signals(()) is SYSTEM


def test_a_system_brings_commands_of_its_own(
    package: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (package / "my_shop.py").write_text(BRINGING)
    monkeypatch.setattr(sys, "argv", ["decalog", "greet", "my_shop:SYSTEM", "Ada", "--loud"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert (ended.value.code, capsys.readouterr().out) == (0, "hello Ada!\n")


@pytest.mark.parametrize(
    "words",
    [["greet"], ["greet", "fraud"], ["greet", "nothing"], ["gone", "my_shop:SYSTEM"], ["--x", "my_shop:SYSTEM"]],
)
def test_a_verb_that_nobody_brings_is_no_command(
    package: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    (package / "my_shop.py").write_text(BRINGING)
    monkeypatch.setattr(sys, "argv", ["decalog", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "No such" in capsys.readouterr().err


def test_decalogs_own_verbs_cannot_be_taken(
    package: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (package / "my_shop.py").write_text(BRINGING)
    monkeypatch.setattr(sys, "argv", ["decalog", "train", "my_shop:SYSTEM", "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "Train a system on its log" in capsys.readouterr().out


def test_the_commands_of_every_system_are_there() -> None:
    for name in SYSTEMS:
        for verb in find_system(name).commands:
            assert find_command(verb, name) is not None
