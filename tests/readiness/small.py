"""A small fraud home whose champion was trained on it, and the SLO file that makes its checks small."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.homes import decide_live, fill_home

from decalog.home import Home
from decalog.readiness.catalog import CHECKS
from decalog.readiness.checks import Check
from decalog.readiness.slo import FILE, slo_of
from decalog.readiness.subject import Subject, scratch
from decalog.systems.fraud.system import SYSTEM

SLO = """
load_per_s = 20.0
seconds = 1.0
parity_decisions = 40
days = 0.9
damage_minor = 1
[limits]
p99_ms = 5_000.0
traffic_10x_ms = 1_000.0
swapping_p99_ms = 1_000.0
features_p99_ms = 100.0
model_p99_ms = 100.0
model_age_days = 100_000.0
ml_test_score = 0.0
"""


def small_home(root: Path) -> Home:
    """Returns a home of two days of history and half a day of decisions, with a rule as its champion."""
    home = fill_home(root)
    decide_live(home)
    (root / FILE).write_text(SLO, encoding="utf-8")
    return home


@contextmanager
def subject_of(home: Home, *, quick: bool = True) -> Iterator[Subject]:
    """Gives what is checked of a home, its scratch gone afterwards."""
    slo = slo_of("fraud", SYSTEM, home=home.root)
    with scratch(home) as folder:
        yield Subject(home, "fraud", slo=slo, folder=folder, quick=quick)


def check_of(name: str) -> Check:
    """Returns a check by its name."""
    return next(check for check in CHECKS if check.name == name)


def contents(root: Path) -> dict[str, bytes]:
    """Returns every file of a home but what SQLite keeps beside its own."""
    paths = [path for path in root.rglob("*") if path.is_file() and not path.name.endswith(("-wal", "-shm", ".lock"))]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}
