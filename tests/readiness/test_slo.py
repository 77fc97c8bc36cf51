"""What a system promises is read from its own file, then from the home's; what is wrong in either is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from decalog.errors import ConfigError
from decalog.readiness.slo import FILE, LIMITS, Slo, slo_of
from decalog.system import SYSTEMS, find_system

ROOT = Path(__file__).resolve().parents[2]


def written(home: Path, text: str) -> Slo:
    (home / FILE).write_text(text, encoding="utf-8")
    return slo_of("fraud", find_system("fraud"), home=home)


@pytest.mark.parametrize("name", SYSTEMS)
def test_each_system_that_comes_with_decalog_declares_what_it_promises(name: str, tmp_path: Path) -> None:
    slo = slo_of(name, find_system(name), home=tmp_path)
    assert slo.protected or slo.why_unprotected
    assert slo.damage_minor > 0
    assert slo.limit("p99_ms") < LIMITS["p99_ms"]


def test_a_homes_own_file_takes_the_place_of_entries_and_leaves_the_others(tmp_path: Path) -> None:
    shipped = slo_of("fraud", find_system("fraud"), home=tmp_path)
    own = written(tmp_path, "load_per_s = 7.0\n[limits]\nrollback_s = 2.0\n")
    assert own.load_per_s == 7.0
    assert own.limit("rollback_s") == 2.0
    assert own.limit("p99_ms") == shipped.limit("p99_ms")
    assert own.protected == shipped.protected


def test_a_shared_runner_is_held_to_the_deadline_alone(tmp_path: Path) -> None:
    """`make check-quick` cannot tell a file that is refused from a machine that is busy: both end with 2."""
    shipped, shared = (slo_of("fraud", find_system("fraud"), home=home) for home in (tmp_path, ROOT / ".ci"))
    for name in ("p99_ms", "features_p99_ms", "model_p99_ms"):
        assert shipped.limit(name) < shared.limit(name) == LIMITS[name]
    changed = {name for name in LIMITS if shared.limit(name) != shipped.limit(name)}
    assert changed == {"p99_ms", "features_p99_ms", "model_p99_ms"}


def test_a_system_without_a_file_has_defaults(tmp_path: Path) -> None:
    assert slo_of("tests.own_tables:SYSTEM", find_system("fraud"), home=tmp_path) == Slo()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("load_per_s = ", "home slo.toml"),
        ("load_per_s = 0", "fraud slo.toml: Expected `float` > 0"),
        ("loads = 3", "Object contains unknown field `loads`"),
        ("[limits]\np99 = 3", "'p99_ms' (closest match)"),
        ('protected = ["card_contry"]', "'card_country' (closest match)"),
        ('protected = ["card"]', "fraud slo.toml, protected: 'card'"),
        ('favourable = ["alow"]', "'allow' (closest match)"),
    ],
)
def test_a_wrong_file_is_refused(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        written(tmp_path, text)
    assert said in str(caught.value)
