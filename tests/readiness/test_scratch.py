"""Copies hold keys: only their owner reads them, and none outlives a check, not even one that was killed."""

from __future__ import annotations

import os
import shutil
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.readiness.small import subject_of

from decalog.errors import DataError
from decalog.home import Home
from decalog.readiness.subject import scratch, twin_of
from decalog.registry import Registry
from decalog.tables import Tables

ENDED = 2**22 + 1
"""No process has this id: Linux gives none beyond 2²²."""


def test_what_a_killed_check_left_behind_is_removed_and_what_runs_is_left(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.root.mkdir()
    dead, alive, strange = (tmp_path / f".home.check-{pid}" for pid in (ENDED, os.getppid(), "x"))
    for folder in (dead, alive, strange):
        folder.mkdir()
    with scratch(home) as folder:
        assert folder.is_dir()
    assert not folder.exists()
    assert not dead.exists()
    assert not strange.exists()
    assert alive.exists()


def test_a_full_disk_is_refused_before_anything_is_copied(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000))
    with pytest.raises(DataError) as caught, scratch(home):
        pass
    assert "Expected 4 times its size, for copies that are deleted at the end." in str(caught.value)


def test_no_webhook_of_a_copy_has_an_endpoint(home: Home, tmp_path: Path) -> None:
    own = Home(tmp_path / "own")
    shutil.copytree(home.root, own.root)
    with closing(own.writer()) as log:
        Tables(log).put("fraud", "webhook_endpoints", content=[{"id": "e", "url": "https://example.org"}])
        log.commit()
    with subject_of(own) as subject, closing(subject.master.reader()) as log:
        assert Tables(log).get("fraud", "webhook_endpoints") == []
    with closing(own.reader()) as log:
        assert Tables(log).get("fraud", "webhook_endpoints")


def test_a_twin_is_the_champion_under_another_id(home: Home) -> None:
    with subject_of(home) as subject, subject.fork() as fork:
        registry = Registry(fork.root)
        twin, champion = twin_of(fork, "fraud"), registry.current("fraud") or ""
        assert twin != champion
        assert registry.get(twin).manifest.files == registry.get(champion).manifest.files


def test_without_a_champion_there_is_no_twin(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        twin_of(Home(tmp_path), "fraud")
    assert str(caught.value) == (
        "champion of fraud: none. Expected a model that decides. `decalog train fraud` makes one."
    )
