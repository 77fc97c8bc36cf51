"""A backup cannot bring back who was erased after it."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import pytest
from tests.privacy.people import ADA, SECRETS, clock_of, fill

from decalog import backup as backups
from decalog.errors import DataError
from decalog.home import Home
from decalog.privacy import ledger
from decalog.privacy.erasing import erase, prove
from decalog.privacy.restoring import restore
from decalog.privacy.subjects import find_subject
from decalog.standing import Standing
from decalog.systems.fraud.system import SYSTEM
from decalog.verification import verify


def saved(tmp_path: Path) -> Home:
    """Returns a home that was backed up, and from which Ada was erased after that."""
    home = fill(tmp_path / "var")
    ledger.noted(home.root, tmp_path / "saved", made=backups.backup(home.root, tmp_path / "saved"))
    told = erase(home, "fraud", person=ADA, clock=clock_of(home))
    assert [copy.holds for copy in told.backups] == [True]
    assert "still holds the key" in told.text()
    return home


def knows_ada(home: Home) -> bool:
    with closing(home.reader()) as log:
        return find_subject(SYSTEM, log, person=ADA) is not None


def test_a_restore_erases_again_who_was_erased_since(tmp_path: Path) -> None:
    saved(tmp_path)
    shutil.rmtree(tmp_path / "var")
    brought = restore(tmp_path / "saved", tmp_path / "var")
    assert (brought.again, brought.is_sure) == (1, True)
    assert brought.text() == "1 people erased again, by var.erasures"
    home = Home(tmp_path / "var")
    assert not knows_ada(home)
    with closing(home.reader()) as log:
        assert len(Standing.of(log, "fraud").erased) == 6
    assert verify(home.root).sound
    assert prove(home, "fraud", person=ADA, more=SECRETS.values()).proof.scan.is_clean  # type: ignore[union-attr]


def test_another_home_takes_the_ledger_by_name_and_keeps_it(tmp_path: Path) -> None:
    home = saved(tmp_path)
    brought = restore(tmp_path / "saved", tmp_path / "new", erasures=ledger.beside(home.root))
    assert brought.again == 1
    assert not knows_ada(Home(tmp_path / "new"))
    assert ledger.read(ledger.beside(tmp_path / "new")) == ledger.read(ledger.beside(home.root))


def test_a_restore_without_a_ledger_says_so_loudly(tmp_path: Path) -> None:
    saved(tmp_path)
    brought = restore(tmp_path / "saved", tmp_path / "new")
    assert not brought.is_sure
    assert brought.text().startswith("WARNING: no ledger of erasures was found beside this home.")
    assert knows_ada(Home(tmp_path / "new")), "the test can fail: the backup holds her"


def test_a_backup_from_after_the_erasure_needs_nothing(tmp_path: Path) -> None:
    home = saved(tmp_path)
    backups.backup(home.root, tmp_path / "later")
    brought = restore(tmp_path / "later", tmp_path / "new", erasures=ledger.beside(home.root))
    assert (brought.again, brought.is_sure) == (0, True)
    assert verify(tmp_path / "new").sound


def test_a_ledger_that_is_not_there_or_damaged_stops_the_restore(tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(DataError, match="restore, nowhere: no such file"):
        restore(tmp_path / "saved", tmp_path / "new", erasures=tmp_path / "nowhere")
    (tmp_path / "new.erasures").write_text("{}\n")
    with pytest.raises(DataError, match=r"new\.erasures: a line that does not decode \(ValidationError\)"):
        restore(tmp_path / "saved", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_line_that_a_crash_cut_short_is_begun_anew(tmp_path: Path) -> None:
    home = saved(tmp_path)
    path = ledger.beside(home.root)
    whole = ledger.read(path)
    path.write_bytes(path.read_bytes() + b'{"system": "fr')
    assert ledger.read(path) == whole
    other = [ledger.Entry(system="feed", known_time=1, erasure=whole[0].erasure)]
    ledger.enter(home.root, [*whole, *other])
    assert ledger.read(path) == [*whole, *other]
    assert path.stat().st_mode & 0o777 == 0o600


def test_known_backups_are_listed_with_what_they_hold(tmp_path: Path) -> None:
    home = saved(tmp_path)
    (one,) = ledger.backups(home.root)
    assert Path(one.path) == tmp_path / "saved"
    entry = ledger.read(ledger.beside(home.root))[0]
    shutil.rmtree(tmp_path / "saved")
    (holding,) = ledger.holding(home.root, entry.erasure.subject)
    assert holding.holds is None
    assert "is not there; it may lie elsewhere" in holding.text()
    ledger.noted(home.root, tmp_path / "later", made=backups.backup(home.root, tmp_path / "later"))
    assert [one.holds for one in ledger.holding(home.root, entry.erasure.subject)] == [None, False]
    (tmp_path / "later" / "vault.sqlite").write_bytes(b"no vault")
    assert ledger.holding(home.root, entry.erasure.subject)[1].holds is None
