"""`decalog check` as it is typed: exit status, JSON, and four parts where it is asked for what is not there."""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from decalog import cli
from decalog.home import Home
from decalog.readiness import running


def typed(*words: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["decalog", "check", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


@pytest.fixture
def own(home: Home, tmp_path: Path) -> Home:
    shutil.copytree(home.root, tmp_path / "own")
    return Home(tmp_path / "own")


@pytest.fixture(autouse=True)
def _signals() -> Any:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_one_check_is_measured_and_told(
    own: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ("fraud", "--home", str(own.root), "--quick", "--only", "model_age")
    assert typed(*words, "--json", "--page", str(tmp_path / "page.html"), monkeypatch=monkeypatch) == 0
    told = msgspec.json.decode(capsys.readouterr().out)
    assert [one["name"] for one in told["results"]] == ["model_age"]
    assert (tmp_path / "page.html").exists()
    assert typed(*words, "--kept", monkeypatch=monkeypatch) == 0
    assert typed(*words, "--self-test", monkeypatch=monkeypatch) == 0
    assert "1 of 1 seeded faults turned their check red" in capsys.readouterr().out


def test_a_missed_fault_ends_with_1(own: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running.Tried, "holds", property(lambda _: False))
    words = ("fraud", "--home", str(own.root), "--only", "model_age", "--self-test")
    assert typed(*words, monkeypatch=monkeypatch) == 1


def test_a_home_without_a_log_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed("fraud", "--home", str(tmp_path), monkeypatch=monkeypatch) == 2
    assert "a folder without a log. Expected the home of a deployment." in capsys.readouterr().err
