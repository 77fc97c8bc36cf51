"""Backup beside a writer, restore into a new home; nothing is overwritten and nothing unverified is called done."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import msgspec
import pytest
from tests.stores.samples import draft, event, fill, open_log

from decalog import backup as backup_module
from decalog.backup import Backup, backup, read_manifest, restore
from decalog.crypto import unseal
from decalog.errors import ConfigError, CorruptLogError, DataError, LogUnavailableError
from decalog.events import decode_event
from decalog.sealing import seal
from decalog.verification import verify


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with records, models, control tables, a Parquet copy and fetched data."""
    made = tmp_path / "home"
    with open_log(made) as log:
        fill(log, 3)
        seal(log.store, made / "parquet", upto=5)
    control = sqlite3.connect(made / "control.sqlite")
    control.execute("CREATE TABLE tokens (hash BLOB)")
    control.commit()
    control.close()
    (made / "models" / "ab12").mkdir(parents=True)
    (made / "models" / "ab12" / "model.txt").write_text("tree")
    (made / "models" / ".draft-1").mkdir()
    (made / "models" / ".draft-1" / "model.txt").write_text("half")
    (made / "data").mkdir()
    (made / "data" / "set.csv").write_text("a,b")
    return made


def test_what_is_backed_up_comes_back(home: Path, tmp_path: Path) -> None:
    made = backup(home, tmp_path / "saved")
    names = {"log/0.sqlite", "vault.sqlite", "control.sqlite", "models/ab12/model.txt"}
    assert {file.path for file in made.files} == names
    assert (made.position, made.hash) == (13, verify(home).hash)
    assert "13 records in 4 files" in str(made)
    assert restore(tmp_path / "saved", tmp_path / "new") == made
    found = verify(tmp_path / "new")
    assert (found.sound, found.position, found.hash) == (True, 13, made.hash)
    assert (tmp_path / "new" / "models" / "ab12" / "model.txt").read_text() == "tree"


def test_personal_values_can_be_read_after_a_restore_and_the_log_goes_on(home: Path, tmp_path: Path) -> None:
    backup(home, tmp_path / "saved")
    restore(tmp_path / "saved", tmp_path / "new")
    with open_log(tmp_path / "new") as log:
        record = log.get(1)
        body = decode_event(record.body)
        cipher = log.vault.cipher(body.subject)
        assert cipher is not None
        assert unseal(cipher, body.sealed, bound_to=record.id) == {"card": "card 0"}
        assert log.vault.token("card", "card 0") == body.subject
        log.stamp(draft("event", "after", event(log, "after", "card 0")))
        assert log.commit() == 14
    assert verify(tmp_path / "new").sound


def test_a_backup_beside_a_writer_is_one_moment(home: Path, tmp_path: Path) -> None:
    with open_log(home) as log:
        log.stamp(draft("event", "unwritten", event(log, "unwritten", "a new card")))
        made = backup(home, tmp_path / "before")
        log.commit()
        assert (made.position, backup(home, tmp_path / "after").position) == (13, 14)
    assert restore(tmp_path / "after", tmp_path / "new").position == 14


def test_keys_are_for_their_owner_s_eyes(home: Path, tmp_path: Path) -> None:
    backup(home, tmp_path / "saved")
    restore(tmp_path / "saved", tmp_path / "new")
    for folder in (tmp_path / "saved", tmp_path / "new"):
        assert folder.stat().st_mode & 0o777 == 0o700
        modes = {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()}
        assert modes == {0o600}


def test_an_empty_folder_may_be_the_target(home: Path, tmp_path: Path) -> None:
    for name in ("saved", "new"):
        (tmp_path / name).mkdir()
    backup(home, tmp_path / "saved")
    restore(tmp_path / "saved", tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "new", "saved"]


def test_nothing_is_overwritten(home: Path, tmp_path: Path) -> None:
    backup(home, tmp_path / "saved")
    with pytest.raises(ConfigError, match=r"backup to saved: a place .*nothing is ever overwritten"):
        backup(home, tmp_path / "saved")
    with pytest.raises(ConfigError, match="restore to home: a place where something is already"):
        restore(tmp_path / "saved", home)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="restore to file"):
        restore(tmp_path / "saved", tmp_path / "file")


def test_a_folder_without_a_log_is_no_home(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a folder without a log\. Expected the home of a deployment"):
        backup(tmp_path, tmp_path / "saved")


def test_a_damaged_log_is_not_called_backed_up(home: Path, tmp_path: Path) -> None:
    damage = sqlite3.connect(home / "log" / "0.sqlite")
    damage.execute("UPDATE records SET hash = x'00' WHERE seq = 4")
    damage.commit()
    damage.close()
    with pytest.raises(CorruptLogError, match=r"backup: a copy that does not verify: chain, damaged after 4 intact"):
        backup(home, tmp_path / "saved")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home"]


def test_a_file_that_sqlite_calls_damaged_is_said(home: Path, tmp_path: Path) -> None:
    path = home / "log" / "0.sqlite"
    content = bytearray(path.read_bytes())
    content[4_096 + 100 :] = b"\xff" * (len(content) - 4_196)
    path.write_bytes(content)
    with pytest.raises((CorruptLogError, LogUnavailableError), match=r"0\.sqlite"):
        backup(home, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize("name", ["log/0.sqlite", "vault.sqlite", "models/ab12/model.txt"])
def test_a_changed_or_missing_file_of_a_backup_is_named(home: Path, tmp_path: Path, name: str) -> None:
    backup(home, tmp_path / "saved")
    path = tmp_path / "saved" / name
    content = path.read_bytes()
    for changed in (content[:-1], content[:-1] + b"\x7f", None):
        path.unlink()
        if changed is not None:
            path.write_bytes(changed)
        with pytest.raises(CorruptLogError, match=rf"{name}: .*Expected what was backed up"):
            restore(tmp_path / "saved", tmp_path / "new")
        assert not (tmp_path / "new").exists()
        path.write_bytes(content)
    restore(tmp_path / "saved", tmp_path / "new")


def rewrite(folder: Path, manifest: Backup) -> None:
    (folder / "backup.json").write_bytes(msgspec.json.encode(manifest))


def test_another_log_under_the_same_manifest_is_found(home: Path, tmp_path: Path) -> None:
    made = backup(home, tmp_path / "saved")
    rewrite(tmp_path / "saved", msgspec.structs.replace(made, position=12))
    with pytest.raises(CorruptLogError, match="the log: another position or hash than its manifest"):
        restore(tmp_path / "saved", tmp_path / "new")


def test_a_backup_without_its_vault_is_not_called_restored(home: Path, tmp_path: Path) -> None:
    made = backup(home, tmp_path / "saved")
    without = tuple(file for file in made.files if file.path != "vault.sqlite")
    rewrite(tmp_path / "saved", msgspec.structs.replace(made, files=without))
    with pytest.raises(CorruptLogError, match="restore: a copy that does not verify: vault"):
        restore(tmp_path / "saved", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_backup_that_was_cut_short_is_none(home: Path, tmp_path: Path) -> None:
    backup(home, tmp_path / "saved")
    (tmp_path / "saved" / "backup.json").unlink()
    with pytest.raises(DataError, match=r"backup saved: no readable backup\.json \(FileNotFoundError\)"):
        restore(tmp_path / "saved", tmp_path / "new")
    (tmp_path / "saved" / "backup.json").write_bytes(b"{")
    with pytest.raises(DataError, match=r"no readable backup\.json \(DecodeError\)"):
        read_manifest(tmp_path / "saved")


@pytest.mark.parametrize("path", ["../escape", "models/../../escape", "/etc/escape", "data/x", "models"])
def test_a_manifest_cannot_name_a_file_outside_a_home(home: Path, tmp_path: Path, path: str) -> None:
    made = backup(home, tmp_path / "saved")
    strange = msgspec.structs.replace(made.files[0], path=path)
    rewrite(tmp_path / "saved", msgspec.structs.replace(made, files=(*made.files, strange)))
    with pytest.raises(DataError, match="files that are no part of a home"):
        restore(tmp_path / "saved", tmp_path / "new")


def test_a_newer_manifest_says_so(home: Path, tmp_path: Path) -> None:
    made = backup(home, tmp_path / "saved")
    rewrite(tmp_path / "saved", msgspec.structs.replace(made, format=2))
    with pytest.raises(DataError, match=r"format 2\. Expected a manifest of format 1"):
        restore(tmp_path / "saved", tmp_path / "new")


def test_a_place_that_cannot_be_written_says_so(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(LogUnavailableError, match=r"folder saved: the system says: .*Not a directory"):
        backup(home, tmp_path / "file" / "saved")
    backup(home, tmp_path / "saved")

    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(LogUnavailableError, match=r"restore: the system says: .*No space left on device"):
        restore(tmp_path / "saved", tmp_path / "new")
    monkeypatch.setattr(backup_module, "_write", full)
    with pytest.raises(LogUnavailableError, match=r"backup: the system says: .*No space left on device"):
        backup(home, tmp_path / "second")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "home", "saved"]
