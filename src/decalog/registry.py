"""The registry: model artefacts named by the hash of their manifest, and the append-only history of who serves.

    home/models/<sha256 of manifest.json>/manifest.json   what it is, what made it, how good it is, hashes of its files
                                          declared_features.json   what it was trained on, for servers of other code
                                          model.txt, …    never a pickle
    home/control.sqlite, table alias_history              champion, challenger, shadow: every change, by whom and why

A manifest holds no wall-clock time and no path of a machine: the same inputs give the same name.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from decalog.errors import ConfigError, LogUnavailableError, ModelError, UnknownRecordError, near
from decalog.features.definition import FeatureSet
from decalog.metrics import Measurement
from decalog.runtime import Code
from decalog.stores.sqlite import connect

MANIFEST = "manifest.json"
# The canonical JSON of the feature set that a model was trained on, among its files.
DECLARED = "declared_features.json"
SIBLING = "sibling"
"""Of a model that learnt from all there was: the folder of one of its kind that learnt from less, to be judged by the
rest; among the settings what loads it, and among the parameters until when it learnt, µs."""
Alias = Literal["champion", "challenger", "shadow"]
Act = Literal["promote", "rollback"]
SHORT = 12
"""Digits of a short model id."""

_TABLES = """
CREATE TABLE IF NOT EXISTS alias_history (
    change INTEGER PRIMARY KEY AUTOINCREMENT, system TEXT NOT NULL, alias TEXT NOT NULL, model TEXT NOT NULL,
    act TEXT NOT NULL, at_us INTEGER NOT NULL, by TEXT NOT NULL, why TEXT NOT NULL);
CREATE TRIGGER IF NOT EXISTS alias_history_kept BEFORE DELETE ON alias_history
    BEGIN SELECT RAISE(ABORT, 'alias_history is append-only'); END;
CREATE TRIGGER IF NOT EXISTS alias_history_fixed BEFORE UPDATE ON alias_history
    BEGIN SELECT RAISE(ABORT, 'alias_history is append-only'); END;
"""


class Pin(msgspec.Struct, frozen=True):
    """The state of the log that a model learnt from.

    Args:
        position: seq before which records were read, one a partition.
        erasure_position: erasures before it were excluded.
        known_time: of the last record read, µs; the manifest's only time.
    """

    position: tuple[int, ...]
    erasure_position: int
    known_time: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a model is, what made it, and how good it is.

    Args:
        system: it decides for.
        name: of its kind, as in the system's MODELS.
        format: under which `models.formats` loads it.
        head: what it predicts, `p_fraud`.
        features: names in the order of the vector.
        feature_set: version of their declarations.
        pin: of the training part.
        code: that made it.
        seed: of the fit.
        parameters: chosen before the fit.
        settings: that loading needs; `Registry.put` adds what the model's `save` returned.
        metrics: metric → measurement on the test part.
        files: name → SHA-256; `Registry.put` fills it.
        layout: of the manifest itself.
    """

    system: str
    name: str
    format: str
    head: str
    features: tuple[str, ...]
    feature_set: str
    pin: Pin
    code: Code
    seed: int
    parameters: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    metrics: dict[str, Measurement] = {}
    files: dict[str, str] = {}
    layout: int = 1


class Artefact(msgspec.Struct, frozen=True):
    """A stored model: its id (64 hex digits), its manifest, and the folder of its files."""

    id: str
    manifest: Manifest
    folder: Path

    def features(self) -> FeatureSet | None:
        """Returns the feature set that it was trained on; None for a model that was stored without it.

        Raises:
            ConfigError: this decalog cannot read it.
        """
        if DECLARED not in self.manifest.files:
            return None
        return FeatureSet.from_json((self.folder / DECLARED).read_bytes())


class AliasChange(msgspec.Struct, frozen=True):
    """One line of the history: from `at_us` on, `alias` of `system` is `model`; by whom and why."""

    system: str
    alias: str
    model: str
    act: Act
    at_us: int
    by: str
    why: str


class Following:
    """What an alias names now: it is read again only when another connection has changed the file.

    Opening the file anew would cost a server that asks every second milliseconds, in the loop that answers requests.

    Args:
        registry: knows the history.
        system: whose alias.
        alias: that is followed.
        control: the file, which may not be there yet, may go, and may be replaced by another one.
    """

    def __init__(self, registry: Registry, system: str, alias: Alias, *, control: Path) -> None:
        self._registry, self._system, self._alias, self._control = registry, system, alias, control
        self._reader: sqlite3.Connection | None = None
        self._version: tuple[int, ...] = ()
        self._model: str | None = None

    def current(self) -> str | None:
        """Returns the id of the model; None where the alias names none.

        Raises:
            LogUnavailableError: the file cannot be read.
        """
        version = self._version_now()
        if version != self._version:
            self._model, self._version = self._registry.current(self._system, self._alias), version
        return self._model

    def _version_now(self) -> tuple[int, ...]:
        """Returns which file it is, and a number that grows with its changes; () where there is none."""
        try:
            found = self._control.stat()
        except FileNotFoundError:
            return ()
        file = (found.st_dev, found.st_ino)
        if self._reader is None or file != self._version[:2]:
            self._reader = self._opened()
        try:
            return (*file, int(self._reader.execute("PRAGMA data_version").fetchone()[0]))
        except sqlite3.Error as error:
            raise _unavailable(error) from None

    def _opened(self) -> sqlite3.Connection:
        if self._reader is not None:
            self._reader.close()
        reader = connect(self._control, writer=False)
        weakref.finalize(self, reader.close)
        return reader


class Registry:
    """Models and aliases of one home directory.

    Args:
        home: DECALOG_HOME; created on the first `put`.
    """

    def __init__(self, home: Path) -> None:
        self._models = home / "models"
        self._control = home / "control.sqlite"

    def put(self, manifest: Manifest, write_files: Callable[[Path], Mapping[str, Any]]) -> str:
        """Stores a model and returns its id; durable and whole, or not there at all.

        Args:
            manifest: without files; `settings` of the model are added.
            write_files: `Model.save`: writes into a folder, returns the settings that loading needs.
        """
        self._models.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=self._models))
        try:
            settings = {**manifest.settings, **write_files(draft)}
            files = {name: _sha256(draft / name) for name in _names(draft)}
            whole = msgspec.structs.replace(manifest, settings=settings, files=files)
            text = canonical(whole)
            (draft / MANIFEST).write_bytes(text)
            model = hashlib.sha256(text).hexdigest()
            self._publish(draft, model)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return model

    def get(self, model: str) -> Artefact:
        """Returns a stored model, every file of it checked against its hash.

        Args:
            model: its id, or at least 12 of its first digits.

        Raises:
            UnknownRecordError: there is none, or a short id fits several.
            ModelError: the artefact is damaged; the message names the file.
        """
        artefact = self._read(self._resolve(model))
        for name, expected in artefact.manifest.files.items():
            _check_file(artefact, name, expected)
        return artefact

    def list(self, system: str) -> tuple[Artefact, ...]:
        """Returns the models of a system, oldest training pin first; damaged manifests are left to `damaged`."""
        found = []
        for model in self._ids():
            try:
                artefact = self._read(model)
            except ModelError:
                continue
            if artefact.manifest.system == system:
                found.append(artefact)
        return tuple(sorted(found, key=lambda a: (a.manifest.pin.known_time, a.manifest.name, a.id)))

    def damaged(self) -> tuple[ModelError, ...]:
        """Returns what is wrong with each damaged artefact; empty where all is well."""
        wrong = []
        for model in self._ids():
            try:
                self.get(model)
            except ModelError as error:
                wrong.append(error)
        return tuple(wrong)

    def promote(
        self, system: str, model: str, *, alias: Alias = "champion", by: str, why: str, at_us: int
    ) -> AliasChange:
        """Points an alias at a model, once its files are known to be whole.

        Raises:
            ConfigError: the alias is unknown, or the model is another system's.
            UnknownRecordError, ModelError: as in `get`.
        """
        _check_alias(alias)
        artefact = self.get(model)
        if artefact.manifest.system != system:
            raise ConfigError(
                where=f"promote {alias} of {system}",
                given=f"model {artefact.id[:SHORT]} of system '{artefact.manifest.system}'",
                expected=f"a model of '{system}'",
                fix=f"`decalog models list {system}` shows them.",
            )
        change = AliasChange(system, alias, artefact.id, "promote", at_us, by, why)
        with self._writing() as write:
            _append(write, change)
        return change

    def rollback(self, system: str, alias: Alias = "champion", *, by: str, why: str, at_us: int) -> AliasChange:
        """Points an alias at the model that it named before the present one; a second rollback goes further back.

        Raises:
            ConfigError: the alias is unknown, or there is nothing before the present model.
            ModelError: the earlier model's files are damaged.
        """
        _check_alias(alias)
        with self._writing() as write:
            line = _standing(_select(write, system, alias))
            if len(line) < 2:  # noqa: PLR2004 - the present one and the one before it
                raise ConfigError(
                    where=f"rollback {alias} of {system}",
                    given="no earlier model in its history",
                    expected="an alias that was promoted at least twice, to different models",
                    fix=f"`decalog models list {system}` shows what can be promoted instead.",
                )
            self.get(line[-2])
            change = AliasChange(system, alias, line[-2], "rollback", at_us, by, why)
            _append(write, change)
        return change

    def current(self, system: str, alias: Alias = "champion") -> str | None:
        """Returns the id of the model that an alias names; None where it names none."""
        _check_alias(alias)
        history = [change for change in self.history(system) if change.alias == alias]
        return history[-1].model if history else None

    def following(self, system: str, alias: Alias = "champion") -> Following:
        """Returns what tells, as often as it is asked, which model an alias names now."""
        _check_alias(alias)
        return Following(self, system, alias, control=self._control)

    def history(self, system: str = "") -> tuple[AliasChange, ...]:
        """Returns every change of a system's aliases, oldest first; of every system's without one."""
        if not self._control.exists():
            return ()
        reader = connect(self._control, writer=False)
        try:
            # The file may have been made for the tokens that lie beside the history.
            made = reader.execute("SELECT 1 FROM sqlite_master WHERE name = 'alias_history'").fetchone()
            return tuple(_select(reader, system, None)) if made else ()
        except sqlite3.Error as error:
            raise _unavailable(error) from None
        finally:
            reader.close()

    def _publish(self, draft: Path, model: str) -> None:
        """Makes a draft visible under its name: first its files are on disk, then the rename is."""
        for path in (*draft.rglob("*"), draft):
            _sync(path)
        target = self._models / model
        if target.exists():
            if self._is_whole(model):
                return
            shutil.rmtree(target)  # fitting a damaged model again mends it
        draft.rename(target)
        _sync(self._models)

    def _is_whole(self, model: str) -> bool:
        try:
            self.get(model)
        except ModelError:
            return False
        return True

    def _ids(self) -> tuple[str, ...]:
        if not self._models.exists():
            return ()
        return tuple(sorted(entry.name for entry in self._models.iterdir() if not entry.name.startswith(".")))

    def _resolve(self, model: str) -> str:
        fitting = [known for known in self._ids() if known.startswith(model)] if len(model) >= SHORT else []
        if len(fitting) == 1:
            return fitting[0]
        raise UnknownRecordError(
            where="model",
            given=f"'{model[:64]}', which fits {len(fitting)} models",
            expected=near(model, [known[:SHORT] for known in self._ids()]) if self._ids() else "a trained model",
            fix="Give the first 12 digits of an id, or more; `decalog models list` shows them.",
        )

    def _read(self, model: str) -> Artefact:
        path = self._models / model / MANIFEST
        try:
            text = path.read_bytes()
        except OSError as error:
            raise _damage(model, MANIFEST, f"cannot be read ({error.strerror})") from None
        if hashlib.sha256(text).hexdigest() != model:
            raise _damage(model, MANIFEST, "does not fit its hash")
        try:
            return Artefact(model, msgspec.json.decode(text, type=Manifest), path.parent)
        except msgspec.DecodeError as error:
            raise _damage(model, MANIFEST, f"is no manifest of this version ({error})") from None

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        self._control.parent.mkdir(parents=True, exist_ok=True)
        connection = connect(self._control, writer=True)
        try:
            self._control.chmod(0o600)
            connection.executescript(_TABLES)
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise _unavailable(error) from None
        finally:
            connection.close()  # what was not committed is rolled back


def canonical(manifest: Manifest) -> bytes:
    """Returns a manifest as canonical JSON: keys sorted, floats in their shortest exact form, no white space."""
    return msgspec.json.encode(manifest, order="sorted")


def _check_alias(alias: str) -> None:
    known = get_args(Alias)
    if alias not in known:
        raise ConfigError(
            where="model alias", given=repr(alias), expected=near(alias, known), fix="Use one of these names."
        )


def _check_file(artefact: Artefact, name: str, expected: str) -> None:
    try:
        found = _sha256(artefact.folder / name)
    except OSError as error:
        raise _damage(artefact.id, name, f"cannot be read ({error.strerror})") from None
    if found != expected:
        raise _damage(artefact.id, name, "does not fit its hash: it is damaged or was changed")


def _damage(model: str, name: str, what: str) -> ModelError:
    return ModelError(
        where=f"model {model[:SHORT]}, file {name}",
        given=f"a file that {what}",
        expected="the file as the training run wrote it",
        fix="Roll back with `decalog models rollback`, restore it from a backup, or train it again on the same inputs.",
    )


def _unavailable(error: sqlite3.Error) -> LogUnavailableError:
    return LogUnavailableError(
        where="control.sqlite, alias history",
        given=f"SQLite says: {error}",
        expected="a readable history and a durable change of it",
        fix="Nothing was changed. Free disk space or mend the disk; restore a damaged control.sqlite from a backup.",
    )


def _standing(history: list[AliasChange]) -> list[str]:
    """Returns the models that rollbacks can reach, the present one last: a promotion adds one, a rollback takes one."""
    line: list[str] = []
    for change in history:
        if change.act == "rollback":
            line.pop()
        elif not line or line[-1] != change.model:
            line.append(change.model)
    return line


def _select(connection: sqlite3.Connection, system: str, alias: str | None) -> list[AliasChange]:
    rows = connection.execute(
        "SELECT system, alias, model, act, at_us, by, why FROM alias_history"
        " WHERE ? IN ('', system) AND alias = coalesce(?, alias) ORDER BY change",
        (system, alias),
    )
    return [AliasChange(*row) for row in rows]


def _append(connection: sqlite3.Connection, change: AliasChange) -> None:
    connection.execute(
        "INSERT INTO alias_history (system, alias, model, act, at_us, by, why) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (change.system, change.alias, change.model, change.act, change.at_us, change.by, change.why),
    )


def _names(folder: Path) -> tuple[str, ...]:
    """Returns the files below a folder, relative and sorted; its manifest is not one of the model's files."""
    files = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return tuple(sorted(name for name in files if name != MANIFEST))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
