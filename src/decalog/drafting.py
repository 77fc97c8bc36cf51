"""`decalog new`: a system of the user's own, drafted as a small working package of the eight rooms."""

from __future__ import annotations

import importlib.util
import keyword
import re
import sys
from importlib.resources import files
from pathlib import Path
from string import Template

from decalog.errors import ConfigError
from decalog.system import SYSTEMS

_DRAFTS = "drafts"
_SUFFIX = ".in"
_PLAIN = re.compile(r"[a-z][a-z0-9_]{0,39}")

TAKEN = frozenset(
    (
        *("id", "kind", "source", "value", "event_time", "amount_minor", "currency", "per", "ref", "corrects"),
        *("deletes", "taken", "decision_id", "action", "predictions", "reasons", "expected_minor", "mode", "fallback"),
        *("guardrails", "versions", "seq", "known_time", "features", "attributes", "state_seq"),
        *("customer", "item", "channel", "remark", "all", "decision"),
    )
)
"""Names that stand beside the noun in requests, outcomes and replies, or that the drafted schema uses itself."""


def draft_system(name: str, *, noun: str, folder: Path) -> str:
    """Writes a package of the user's own and returns what to do with it next.

    Args:
        name: of the system and of its package.
        noun: what a request is called.
        folder: where the package is made; created if it is not there.

    Raises:
        ConfigError: a name cannot be used, or the package's folder is there already; nothing was written.
    """
    target = folder / name
    problems = [*_name_problems(name, target), *_noun_problems(noun)]
    if problems:
        raise ConfigError(
            where="decalog new",
            given="; ".join(problems),
            expected="a name for the package, and a noun, both in lower case and not taken: my_returns, parcel",
            fix="Name it otherwise: decalog new my_returns --noun parcel. Nothing was written.",
        )
    rooms = drafted(name, noun)
    try:
        target.mkdir(parents=True)
        for room, text in rooms.items():
            (target / room).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            where="decalog new",
            given=f"a folder that cannot be written: {error.strerror}",
            expected="a folder of yours",
            fix="Name another with --folder.",
        ) from None
    return _told(name, rooms, folder)


def drafted(name: str, noun: str) -> dict[str, str]:
    """Returns the files of a drafted package: file name → text."""
    words = {"name": name, "noun": noun, "title": name.replace("_", " ").capitalize()}
    templates = (files("decalog") / _DRAFTS).iterdir()
    return {
        template.name.removesuffix(_SUFFIX): Template(template.read_text(encoding="utf-8")).substitute(words)
        for template in sorted(templates, key=lambda found: found.name)
        if template.name.endswith(_SUFFIX)
    }


def _name_problems(name: str, target: Path) -> list[str]:
    problem = _spelling_problem("name", name)
    if problem:
        return [problem]
    if name in SYSTEMS or name == "decalog":
        return [f"name {name!r}, which is decalog's own"]
    if name in sys.stdlib_module_names:
        return [f"name {name!r}, which is a module of Python itself"]
    if target.exists():
        return [f"folder {name}, which exists already"]
    spec = importlib.util.find_spec(name)
    # Without an origin it is any folder of that name on the path, and no package in one.
    is_installed = spec is not None and spec.origin is not None
    return [f"name {name!r}, under which something can be imported already"] if is_installed else []


def _noun_problems(noun: str) -> list[str]:
    problem = _spelling_problem("noun", noun)
    if problem:
        return [problem]
    return [f"noun {noun!r}, which is the name of another field"] if noun in TAKEN else []


def _spelling_problem(what: str, given: str) -> str:
    if keyword.iskeyword(given) or keyword.issoftkeyword(given):
        return f"{what} {given!r}, which is a word of Python's"
    return "" if _PLAIN.fullmatch(given) else f"{what} {given[:40]!r}, which is no plain name"


def _told(name: str, rooms: dict[str, str], folder: Path) -> str:
    inside = "" if folder.resolve() == Path.cwd() else f"cd {folder}\n    "
    lines = sum(text.count("\n") for text in rooms.values())
    return (
        f"{name}: {len(rooms)} files, {lines} lines, in {folder / name}\n\n"
        f"    {inside}decalog train {name}.system:SYSTEM --world-days 60\n"
        f"    decalog serve {name}.system:SYSTEM --no-auth\n"
        f"    pytest {name}\n\n"
        f"Read {name}/README.md, then make {name}/schema.py yours."
    )
