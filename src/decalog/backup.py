"""Backup of a home while its server runs, and restore into a new one.

The log is copied first and the vault after it: the vault is always written before the records that need it, so the
copy of it holds every key and token of the copied log. Derived Parquet and fetched data are left out.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import msgspec

from decalog.errors import ConfigError, CorruptLogError, DataError, LogError, LogUnavailableError
from decalog.stores.sqlite import connect
from decalog.verification import Verification, verify

FORMAT = 1
MANIFEST = "backup.json"
_DATABASES = ("log/0.sqlite", "vault.sqlite", "control.sqlite")
_MODELS = "models"


class SavedFile(msgspec.Struct, frozen=True):
    """A file of a backup; `path` is relative, with forward slashes."""

    path: str
    bytes: int
    sha256: str


class Backup(msgspec.Struct, frozen=True, kw_only=True):
    """Manifest of a backup.

    Args:
        format: of the manifest.
        position, hash: of the log in it: the records below `position`, with this chain hash after the last.
        known_time: of the last record, µs; what was erased since then has to be erased again after a restore.
        files: all others in the backup.
    """

    format: int
    position: int
    hash: str
    known_time: int
    files: tuple[SavedFile, ...]

    def __str__(self) -> str:
        size = sum(file.bytes for file in self.files)
        return f"{self.position:,} records in {len(self.files)} files, {size:,} bytes; log hash {self.hash[:16]}"


def backup(home: Path, target: Path) -> Backup:
    """Copies a home's log, keys, tokens, control tables and models into a new folder, and verifies the copy.

    Args:
        home: of the deployment; its server may run.
        target: a folder that does not exist yet, or an empty one. It holds keys: only its owner may read it.

    Raises:
        ConfigError: the target is not empty, or the home has no log.
        LogUnavailableError: a file cannot be read or written.
        CorruptLogError: the copy does not verify; nothing is left at the target.
    """
    if not (home / _DATABASES[0]).is_file():
        raise ConfigError(
            where=f"backup of {home.name or home}",
            given="a folder without a log",
            expected="the home of a deployment",
            fix="Name it with --home or DECALOG_HOME.",
        )
    _need_empty(target, "backup")
    draft = _draft_of(target)
    try:
        for name in _DATABASES:
            _copy_database(home / name, draft / name)
        _copy_models(home / _MODELS, draft / _MODELS)
        found = _verified(draft, "backup")
        made = _manifest(draft, found)
        _write(draft / MANIFEST, msgspec.json.format(msgspec.json.encode(made)) + b"\n")
        _publish(draft, target)
    except LogError:
        raise
    except OSError as error:
        raise _unwritten("backup", error) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return made


def restore(source: Path, home: Path, *, amend: Callable[[Path], object] | None = None) -> Backup:
    """Brings a backup back into a new home; says so only when every file and the whole chain were checked.

    Args:
        source: folder of a backup.
        home: a folder that does not exist yet, or an empty one.
        amend: is given the whole folder before it has its name: what was erased since is erased again there.

    Raises:
        ConfigError: the home is not empty.
        DataError: the source is no backup, or of a newer format.
        CorruptLogError: a file is missing or changed, or the log does not verify; nothing is left at the home.
        LogUnavailableError: a file cannot be read or written.
    """
    saved = read_manifest(source)
    _need_empty(home, "restore")
    draft = _draft_of(home)
    try:
        for file in saved.files:
            _bring(source, draft, file)
        found = _verified(draft, "restore")
        if (found.position, found.hash) != (saved.position, saved.hash):
            raise _changed("the log", "another position or hash than its manifest")
        if amend is not None:
            amend(draft)
        _publish(draft, home)
    except LogError:
        raise
    except OSError as error:
        raise _unwritten("restore", error) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return saved


def read_manifest(source: Path) -> Backup:
    """Returns the manifest of a backup.

    Raises:
        DataError: the folder is no backup, the manifest is damaged, or its format is newer.
    """
    try:
        saved = msgspec.json.decode((source / MANIFEST).read_bytes(), type=Backup)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(
            where=f"backup {source.name}",
            given=f"no readable {MANIFEST} ({type(error).__name__})",
            expected="a folder that `decalog backup` finished",
            fix="Name the folder of a finished backup; one that was cut short has no manifest.",
        ) from None
    strange = [f.path for f in saved.files if f.path not in _DATABASES and not _is_model_file(f.path)]
    if saved.format != FORMAT or strange:
        raise DataError(
            where=f"backup {source.name}, {MANIFEST}",
            given=f"format {saved.format}" if saved.format != FORMAT else "files that are no part of a home",
            expected=f"a manifest of format {FORMAT}",
            fix="Restore it with the decalog that made it.",
        )
    return saved


def _is_model_file(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return len(parts) > 1 and parts[0] == _MODELS and ".." not in parts


def _need_empty(folder: Path, doing: str) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            where=f"{doing} to {folder.name or folder}",
            given="a place where something is already",
            expected="a folder that does not exist yet, or an empty one",
            fix="Name another folder; nothing is ever overwritten.",
        )


def _draft_of(folder: Path) -> Path:
    # Beside the target, so that finishing is one rename. A draft of an attempt that was cut short is begun again.
    absolute = folder.absolute()
    draft = absolute.with_name(f".{absolute.name}.unfinished")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True, mode=0o700)
    except OSError as error:
        raise _unwritten(f"folder {folder.name}", error) from None
    return draft


def _copy_database(source: Path, target: Path) -> None:
    if not source.is_file():
        return
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # VACUUM INTO reads one snapshot and fills an empty file; what was erased is not in free pages of the copy.
    _write(target, b"")
    connection = connect(source, writer=False)
    try:
        connection.execute("VACUUM INTO ?", (str(target),))
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise _unwritten(source.name, error) from None
        raise _changed(source.name, f"a file that SQLite calls damaged: {error}") from None
    finally:
        connection.close()


def _copy_models(source: Path, target: Path) -> None:
    # Models never change once they have their name; a name with a dot is one being written.
    if source.is_dir():
        for path in sorted(p for p in source.rglob("*") if p.is_file()):
            relative = path.relative_to(source)
            if not any(part.startswith(".") for part in relative.parts):
                (target / relative).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                _write(target / relative, path.read_bytes())


def _bring(source: Path, draft: Path, file: SavedFile) -> None:
    origin = source / file.path
    if not origin.is_file():
        raise _changed(file.path, "a file that is missing")
    target = draft / file.path
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _write(target, b"")
    shutil.copyfile(origin, target)
    if (target.stat().st_size, _hash_of(target)) != (file.bytes, file.sha256):
        raise _changed(file.path, "bytes that are not those of its manifest")


def _verified(draft: Path, doing: str) -> Verification:
    found = verify(draft)
    bad = [check for check in found.checks if not check.sound]
    if bad:
        raise CorruptLogError(
            where=doing,
            given=f"a copy that does not verify: {bad[0].name}, {bad[0].said}",
            expected="a log, an index and a vault that verify",
            fix="Run `decalog verify` on the home; take an older backup if it is damaged.",
        )
    return found


def _manifest(draft: Path, found: Verification) -> Backup:
    paths = sorted(path for path in draft.rglob("*") if path.is_file() and not path.name.endswith(_SIDE_FILES))
    files = tuple(SavedFile(path.relative_to(draft).as_posix(), path.stat().st_size, _hash_of(path)) for path in paths)
    return Backup(format=FORMAT, position=found.position, hash=found.hash, known_time=found.known_time, files=files)


_SIDE_FILES = ("-wal", "-shm", "-journal", ".lock")


def _publish(draft: Path, target: Path) -> None:
    for path in (*draft.rglob("*"), draft):
        if path.name.endswith(_SIDE_FILES):
            path.unlink()
        else:
            _sync(path)
    if target.exists():
        target.rmdir()
    draft.rename(target.absolute())
    _sync(target.absolute().parent)


def _write(path: Path, content: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _changed(name: str, given: str) -> CorruptLogError:
    return CorruptLogError(
        where=name,
        given=given,
        expected="what was backed up",
        fix="Take another backup; this one was changed or cut short after it was made.",
    )


def _unwritten(what: str, error: Exception) -> LogUnavailableError:
    return LogUnavailableError(
        where=what,
        given=f"the system says: {error}",
        expected="files that can be read and a disk with room",
        fix="Check the paths, their permissions and the disk, then start again.",
    )
