"""`decalog new` drafts a system that keeps every law, trains, decides and replays before a line of it was changed."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from decalog.drafting import TAKEN, draft_system, drafted
from decalog.errors import ConfigError
from decalog.home import Home
from decalog.operations import open_host

NAME, NOUN = "my_returns", "parcel"
PATH = f"{NAME}.system:SYSTEM"
REQUEST = {"id": "1", "customer": "c7", "item": "i3", "amount_minor": 4_900, "currency": "EUR", "channel": "web"}


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs the installed command as a user does: in the folder that holds the package, which is on no path."""
    program = Path(sys.executable).with_name("decalog")
    environment = {**os.environ, "DECALOG_HOME": "var", "NO_COLOR": "1"}
    environment.pop("PYTHONPATH", None)
    return subprocess.run(
        [str(program), *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def answer(folder: Path, *words: str) -> str:
    done = command(folder, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a drafted package, as the command makes it."""
    made = tmp_path_factory.mktemp("own")
    told = answer(made, "new", NAME, "--noun", NOUN)
    assert told.startswith(f"{NAME}: 12 files, ")
    assert f"decalog train {PATH} --world-days 60" in told
    return made


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    """The same folder, with a home trained on the drafted world."""
    report = answer(folder, "train", PATH, "--world-days", "45", "--world-scale", "0.5")
    assert f"# {NAME} at log position" in report
    assert "became champion" in report
    return folder


def test_the_draft_has_the_eight_rooms_a_test_and_a_readme(folder: Path) -> None:
    rooms = ["system", "schema", "simulate", "features", "models", "policy", "metrics", "monitors"]
    assert {path.name for path in (folder / NAME).iterdir()} == {
        *(f"{room}.py" for room in rooms),
        *("__init__.py", "slo.toml", "test_system.py", "README.md"),
    }


def test_the_draft_passes_its_own_tests(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", NAME, "-q", "-p", "no:cacheprovider"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4_000:]
    assert "16 passed" in done.stdout


@pytest.mark.parametrize(("name", "noun"), [(NAME, NOUN), ("a", "b"), ("a_shop_with_a_long_name", "long_noun")])
def test_the_draft_is_linted_whatever_the_names_and_formatted(name: str, noun: str, tmp_path: Path) -> None:
    draft_system(name, noun=noun, folder=tmp_path)
    rules = ["--select", "E,F,W,I,N,B,UP,C4,SIM,RET,ARG,PT", "--ignore", "E501"]
    assert ruff(tmp_path, "check", *rules, name) == ""
    if name == NAME:  # shorter and longer names move line breaks
        assert ruff(tmp_path, "format", "--check", name) == ""


def ruff(folder: Path, verb: str, *words: str) -> str:
    """Returns what ruff has to say, "" for nothing."""
    line = [sys.executable, "-m", "ruff", verb, "--isolated", "--line-length", "120", *words]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode else ""


def test_the_draft_decides_and_replays_by_its_dotted_path(trained: Path) -> None:
    told = msgspec.json.decode(answer(trained, "decide", PATH, msgspec.json.encode(REQUEST).decode()))
    assert told[NOUN] == "1"
    assert (told["mode"], told["fallback"]) == ("live", "")
    assert 0 < told["predictions"]["p_bad"] < 1
    assert answer(trained, "replay", PATH, "--all").startswith("1/1 identical")


def test_the_draft_is_served_under_its_plain_name(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    monkeypatch.syspath_prepend(str(trained))
    host = open_host(Home(trained / "var"), [PATH])

    async def ask() -> tuple[dict[str, Any], dict[str, Any]]:
        await host.start()
        try:
            told = await host.decide(NAME, msgspec.json.encode({**REQUEST, "id": "served"}))
            return told.body, await host.replay(NAME, "served")
        finally:
            await host.stop()

    told, replayed = asyncio.run(ask())
    host.log.close()
    assert host.systems == (NAME,)
    assert told["mode"] == "live"
    assert replayed["action"] == told["action"]
    assert replayed["differences"] == []


@pytest.fixture
def cleaned() -> Iterator[None]:
    """Forgets what was imported from a drafted package."""
    yield
    for module in [module for module in sys.modules if module.split(".")[0] == NAME]:
        del sys.modules[module]


@pytest.mark.usefixtures("cleaned")
def test_the_drafted_world_reacts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(folder))
    from decalog.clock import DAY
    from decalog.system import find_system, load

    make = load(find_system(PATH).world)
    accepted, refused, reviewed = (make(3, scale=0.5) for _ in range(3))
    for world, action in ((accepted, "accept"), (refused, "refuse"), (reviewed, "review")):
        for message in world.advance(world.start_us + DAY - 1):
            world.react(message.body["id"], action, at_us=message.at)
    kinds = [
        [
            m.body["kind"]
            for m in world.advance(world.start_us + 30 * DAY)
            if m.body.get(NOUN, "").startswith(f"{NOUN}-0-")
        ]
        for world in (accepted, refused, reviewed)
    ]
    assert set(kinds[0]) == {"complaint"}
    assert kinds[1] == []
    assert set(kinds[2]) == {"verdict"}
    sloppy, plain = make(3), make(3)
    sloppy.switch("sloppy_customers", True)
    assert _truths(sloppy) > 1.5 * _truths(plain)
    with pytest.raises(
        ConfigError, match=r"World\.switch: 'sloppy'\. Expected one of: dearer_requests, sloppy_customers"
    ):
        plain.switch("sloppy", True)
    with pytest.raises(LookupError, match="World: an id that it never sent"):
        plain.truth("stranger")


def _truths(world: Any) -> float:
    sent = world.advance(world.start_us + 86_400_000_000)
    return sum(float(world.truth(message.body["id"])["p_bad"]) for message in sent if message.kind == "decide")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("My Returns", "name 'My Returns', which is no plain name"),
        ("2nd", "name '2nd', which is no plain name"),
        ("", "name '', which is no plain name"),
        ("../x", "name '../x', which is no plain name"),
        ("naïve", "name 'naïve', which is no plain name"),
        ("a" * 41, f"name '{'a' * 40}', which is no plain name"),
        ("class", "name 'class', which is a word of Python's"),
        ("match", "name 'match', which is a word of Python's"),
        ("random", "name 'random', which is a module of Python itself"),
        ("fraud", "name 'fraud', which is decalog's own"),
        ("decalog", "name 'decalog', which is decalog's own"),
        ("numpy", "name 'numpy', under which something can be imported already"),
        ("there", "folder there, which exists already"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused_and_nothing_written(name: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(ConfigError) as caught:
        draft_system(name, noun=NOUN, folder=tmp_path)
    assert str(caught.value) == (
        f"decalog new: {said}. Expected a name for the package, and a noun, both in lower case and not taken: "
        "my_returns, parcel. Name it otherwise: decalog new my_returns --noun parcel. Nothing was written."
    )
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize("noun", ["Parcel", "for", *sorted(TAKEN)])
def test_a_noun_that_cannot_be_used_is_refused(noun: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"decalog new: noun '{noun}', which is "):
        draft_system(NAME, noun=noun, folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_wrong_name_and_a_wrong_noun_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name 'os', which is a module of Python itself; noun 'id', which is"):
        draft_system("os", noun="id", folder=tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"decalog new: a folder that cannot be written: Not a directory\. Expected"):
        draft_system(NAME, noun=NOUN, folder=tmp_path / "file")


def test_the_noun_of_a_reply_never_hides_another_part_of_it(folder: Path) -> None:
    schema = drafted(NAME, NOUN)["schema.py"]
    assert f'noun="{NOUN}"' in schema
    assert "$" not in "".join(drafted(NAME, NOUN).values())


def test_the_command_ends_with_one_sentence_where_a_name_is_wrong(tmp_path: Path) -> None:
    done = command(tmp_path, "new", "json")
    assert done.returncode == 2
    assert done.stderr.startswith("decalog: decalog new: name 'json', which is a module of Python itself.")
    assert done.stderr.count("\n") == 1


def test_a_draft_is_never_written_over(folder: Path) -> None:
    done = command(folder, "new", NAME, "--noun", NOUN)
    assert done.returncode == 2
    assert done.stderr.startswith(f"decalog: decalog new: folder {NAME}, which exists already.")


def test_a_plain_folder_of_the_same_name_elsewhere_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "path" / "plain_folder").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path / "path"))
    assert draft_system("plain_folder", noun=NOUN, folder=tmp_path).startswith("plain_folder: 12 files")


def test_templates_are_no_modules_of_decalog() -> None:
    assert importlib.util.find_spec("decalog.drafts.system") is None
