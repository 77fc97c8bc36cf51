"""Law 8: a server keeps its declared p99, durably; a slow model and replies before the commit are noticed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from decalog.errors import DataError
from decalog.readiness import law
from decalog.readiness.checks import Measured
from decalog.system import find_system
from decalog.testing.stage import Trial


def tried(folder: Path) -> Trial:
    return Trial(system=find_system("fraud"), folder=folder, requests=60)


def test_what_is_beyond_its_budget_breaks_the_law(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"": 1e6, "slow model": 1e7}
    monkeypatch.setattr(law, "p99", lambda _, fault: Measured(value=values[fault], n=5, said="so slow"))
    monkeypatch.setattr(law, "crash", lambda _, fault: Measured(value=float(bool(fault)), n=5, said="lost"))
    verdict = law.law_8("fraud").check(tried(tmp_path))
    assert verdict.breaches == ("1e+06, at most 25: so slow",)
    assert not verdict.missed
    values["slow model"] = 1.0
    assert law.law_8("fraud").check(tried(tmp_path / "again")).missed == ("a model that is slow",)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="what a server uses is read from /proc")
def test_fraud_keeps_law_8(tmp_path: Path) -> None:
    try:
        verdict = law.law_8("fraud").check(tried(tmp_path))
    except DataError as error:
        pytest.skip(str(error))  # others use the machine: that says nothing of fraud
    assert verdict.holds, verdict.text()
