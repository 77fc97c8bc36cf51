"""The registry: names are hashes, damage is named, history only grows, a crash leaves all or nothing."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from decalog.errors import ConfigError, LogUnavailableError, ModelError, UnknownRecordError
from decalog.features.definition import Attribute, FeatureSet
from decalog.metrics import Measurement
from decalog.models.formats import load_model
from decalog.models.linear import Prior
from decalog.registry import DECLARED, AliasChange, Manifest, Pin, Registry, canonical
from decalog.runtime import Code, source_hash, this_code

CODE = Code("0.1.0", "a" * 64, "b" * 64, {"numpy": "2.4.6"})


def manifest(name: str = "prior", *, system: str = "fraud", known_time: int = 7) -> Manifest:
    return Manifest(
        system=system,
        name=name,
        format="json",
        head="p_fraud",
        features=("amount",),
        feature_set="0123456789ab",
        pin=Pin((10,), 3, known_time),
        code=CODE,
        seed=1,
        parameters={"l2": 0.1},
        metrics={"brier": Measurement(0.1 + 0.2, 0.25, 1 / 3, 100)},
    )


def put(registry: Registry, name: str = "prior", *, rate: float = 0.1, **changes: Any) -> str:
    return registry.put(manifest(name, **changes), Prior(rate, 1).save)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "home")


def promote(registry: Registry, model: str, at_us: int = 1) -> None:
    registry.promote("fraud", model, by="ann", why="better", at_us=at_us)


def models_folder(registry: Registry) -> Path:
    return registry._models


# ---- artefacts ----


def test_a_model_is_named_by_the_hash_of_its_manifest_and_comes_back_whole(registry: Registry) -> None:
    model = put(registry)
    artefact = registry.get(model)
    text = (artefact.folder / "manifest.json").read_bytes()
    assert artefact.folder == models_folder(registry) / model
    assert hashlib.sha256(text).hexdigest() == model == artefact.id
    expected = msgspec.structs.replace(manifest(), files=artefact.manifest.files)
    assert artefact.manifest == expected
    content = (artefact.folder / "model.json").read_bytes()
    assert artefact.manifest.files == {"model.json": hashlib.sha256(content).hexdigest()}
    loaded = load_model(artefact.manifest.format, artefact.folder, settings=artefact.manifest.settings)
    assert loaded == Prior(0.1, 1)


def test_the_same_inputs_have_the_same_name_in_another_home(registry: Registry, tmp_path: Path) -> None:
    assert put(registry) == put(registry) == put(Registry(tmp_path / "another"))
    assert len({put(registry), put(registry, rate=0.2), put(registry, known_time=8)}) == 3
    assert len(list(models_folder(registry).iterdir())) == 3


def test_a_manifest_is_canonical_json_without_wall_clock_or_path(registry: Registry, tmp_path: Path) -> None:
    artefact = registry.get(put(registry))
    text = (artefact.folder / "manifest.json").read_text()
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    assert str(tmp_path) not in text
    assert msgspec.json.decode(canonical(artefact.manifest), type=Manifest) == artefact.manifest


def test_what_the_model_saved_joins_the_settings_and_deep_files_are_hashed(registry: Registry) -> None:
    def save(folder: Path) -> Mapping[str, Any]:
        (folder / "deep").mkdir()
        (folder / "deep" / "a.bin").write_bytes(b"1")
        (folder / "manifest.json").write_text("a model may not write this one")
        return {"path": "m:C"}

    given = msgspec.structs.replace(manifest(), settings={"path": "old", "kept": 1})
    found = registry.get(registry.put(given, save)).manifest
    assert found.settings == {"path": "m:C", "kept": 1}
    assert found.files == {"deep/a.bin": hashlib.sha256(b"1").hexdigest()}


DEMO = FeatureSet(system="fraud", features=(Attribute(name="amount", meaning="of it", unit="1", attribute="amount"),))


def test_a_model_carries_the_feature_set_that_it_was_trained_on(registry: Registry) -> None:
    def save(folder: Path) -> Mapping[str, Any]:
        (folder / DECLARED).write_bytes(DEMO.to_json())
        return {}

    assert registry.get(put(registry)).features() is None  # as the first releases stored them
    known = registry.put(msgspec.structs.replace(manifest(), feature_set=DEMO.version), save)
    assert registry.get(known).features() == DEMO


def test_a_short_id_fits_where_it_is_unambiguous(registry: Registry) -> None:
    model = put(registry)
    assert registry.get(model[:12]).id == model
    twin = models_folder(registry) / (model[:20] + "0" * 44)
    twin.mkdir()
    with pytest.raises(
        UnknownRecordError, match=rf"model: '{model[:12]}', which fits 2 models. Expected .*{model[:12]}"
    ):
        registry.get(model[:12])
    assert registry.get(model).id == model


@pytest.mark.parametrize("asked", ["", "champion", "0" * 12, "0" * 64, "../../etc/passwd"])
def test_an_unknown_model_is_refused(registry: Registry, asked: str) -> None:
    with pytest.raises(UnknownRecordError, match=r"which fits 0 models. Expected a trained model. Give the first 12"):
        registry.get(asked)
    model = put(registry)
    with pytest.raises(UnknownRecordError, match=rf"which fits 0 models. Expected .*one of: {model[:12]}"):
        registry.get(asked)
    with pytest.raises(UnknownRecordError, match=r"fits 0 models"):
        registry.get(model[:11])


def test_models_are_listed_by_system_oldest_pin_first(registry: Registry) -> None:
    assert registry.list("fraud") == ()
    late, early = put(registry, "b", known_time=9), put(registry, "a", known_time=2)
    put(registry, system="ads")
    assert [artefact.id for artefact in registry.list("fraud")] == [early, late]


# ---- damage ----


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
@pytest.mark.parametrize("name", ["model.json", "manifest.json"])
def test_damage_is_named_and_says_what_to_do(registry: Registry, damage: Callable[[Path], None], name: str) -> None:
    model = put(registry)
    damage(models_folder(registry) / model / name)
    words = rf"model {model[:12]}, file {name}: a file that .*Roll back with `decalog models rollback`"
    with pytest.raises(ModelError, match=words):
        registry.get(model)
    assert [str(error) for error in registry.damaged()] == [str(registry.damaged()[0])]
    assert f"file {name}" in str(registry.damaged()[0])


def test_one_damaged_manifest_does_not_hide_the_others(registry: Registry) -> None:
    sound, hurt = put(registry, "sound"), put(registry, "hurt")
    cut(models_folder(registry) / hurt / "manifest.json")
    assert [artefact.id for artefact in registry.list("fraud")] == [sound]
    assert len(registry.damaged()) == 1


def test_a_manifest_of_another_shape_is_named(registry: Registry) -> None:
    text = b'{"system":"fraud"}'
    model = hashlib.sha256(text).hexdigest()
    (models_folder(registry) / model).mkdir(parents=True)
    (models_folder(registry) / model / "manifest.json").write_bytes(text)
    with pytest.raises(ModelError, match=r"file manifest.json: a file that is no manifest of this version"):
        registry.get(model)


def test_training_again_mends_a_damaged_model(registry: Registry) -> None:
    model = put(registry)
    cut(models_folder(registry) / model / "model.json")
    assert put(registry) == model
    assert registry.get(model).id == model


# ---- atomic and durable ----


def test_a_save_that_fails_leaves_nothing_behind(registry: Registry) -> None:
    def fail(folder: Path) -> Mapping[str, Any]:
        (folder / "half.txt").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        registry.put(manifest(), fail)
    assert list(models_folder(registry).iterdir()) == []


def test_everything_is_synced_before_the_rename_and_the_rename_after(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    real_sync, real_rename = os.fsync, Path.rename

    def sync(handle: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file"
        seen.append(f"{kind} {os.fstat(handle).st_ino}")
        real_sync(handle)

    def rename(path: Path, target: Path) -> Path:
        seen.append("rename")
        return real_rename(path, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "rename", rename)
    folder = models_folder(registry) / put(registry)
    before, after = seen[: seen.index("rename")], seen[seen.index("rename") + 1 :]
    files = {f"file {(folder / name).stat().st_ino}" for name in ("manifest.json", "model.json")}
    assert set(before) == {*files, f"folder {folder.stat().st_ino}"}
    assert f"folder {models_folder(registry).stat().st_ino}" in after


def test_a_draft_of_a_crashed_run_is_no_model(registry: Registry) -> None:
    model = put(registry)
    draft = models_folder(registry) / ".draft-crashed"
    draft.mkdir()
    (draft / "manifest.json").write_text("half a mani")
    assert [artefact.id for artefact in registry.list("fraud")] == [model]
    assert registry.damaged() == ()


# ---- aliases ----


def test_an_alias_names_what_was_promoted_last(registry: Registry) -> None:
    assert registry.current("fraud") is None
    first, second = put(registry, "a"), put(registry, "b")
    promote(registry, first[:12])
    assert registry.current("fraud") == first
    change = registry.promote("fraud", second, alias="shadow", by="bo", why="compare", at_us=5)
    assert change == AliasChange("fraud", "shadow", second, "promote", 5, "bo", "compare")
    assert (registry.current("fraud"), registry.current("fraud", "shadow")) == (first, second)
    assert registry.current("ads") is None
    assert registry.history("fraud") == (AliasChange("fraud", "champion", first, "promote", 1, "ann", "better"), change)


def test_each_rollback_goes_one_model_further_back(registry: Registry) -> None:
    a, b, c = (put(registry, name) for name in "abc")
    for model in (a, b, b, c):
        promote(registry, model)
    back = [registry.rollback("fraud", by="bo", why="alarms", at_us=9).model for _ in range(2)]
    assert back == [b, a]
    assert registry.current("fraud") == a
    with pytest.raises(ConfigError, match=r"rollback champion of fraud: no earlier model in its history. Expected"):
        registry.rollback("fraud", by="bo", why="alarms", at_us=9)
    promote(registry, c)
    assert registry.rollback("fraud", by="bo", why="alarms", at_us=10).model == a
    assert [change.act for change in registry.history("fraud")] == [
        *["promote"] * 4,
        *["rollback"] * 2,
        "promote",
        "rollback",
    ]


def test_a_rollback_to_a_damaged_model_changes_nothing(registry: Registry) -> None:
    a, b = put(registry, "a"), put(registry, "b")
    promote(registry, a)
    promote(registry, b)
    cut(models_folder(registry) / a / "model.json")
    with pytest.raises(ModelError, match=rf"model {a[:12]}, file model.json"):
        registry.rollback("fraud", by="bo", why="alarms", at_us=9)
    assert registry.current("fraud") == b
    assert len(registry.history("fraud")) == 2


def test_what_cannot_be_promoted_is_refused(registry: Registry) -> None:
    model, other = put(registry), put(registry, system="ads")
    with pytest.raises(
        ConfigError, match=rf"promote champion of fraud: model {other[:12]} of system 'ads'. Expected a"
    ):
        promote(registry, other)
    with pytest.raises(ConfigError, match=r"model alias: 'champoin'. Expected 'champion' \(closest match\)"):
        registry.promote("fraud", model, alias="champoin", by="", why="", at_us=1)  # type: ignore[arg-type]
    cut(models_folder(registry) / model / "model.json")
    with pytest.raises(ModelError, match=r"file model.json: a file that does not fit its hash"):
        promote(registry, model)
    assert registry.history("fraud") == ()


def test_the_history_can_neither_be_changed_nor_shortened(registry: Registry) -> None:
    promote(registry, put(registry))
    with sqlite3.connect(registry._control) as direct:
        for sql in ("DELETE FROM alias_history", "UPDATE alias_history SET model = 'x'"):
            with pytest.raises(sqlite3.IntegrityError, match="alias_history is append-only"):
                direct.execute(sql)
    direct.close()


def test_the_history_shares_its_file_with_other_tables(registry: Registry) -> None:
    registry._control.parent.mkdir(parents=True)
    with sqlite3.connect(registry._control) as direct:
        direct.execute("CREATE TABLE tokens (id TEXT)")
    direct.close()
    assert registry.history("fraud") == ()
    promote(registry, put(registry))
    assert len(registry.history("fraud")) == 1
    assert stat.S_IMODE(registry._control.stat().st_mode) == 0o600


def test_a_control_file_that_is_no_database_is_an_error_in_words(registry: Registry) -> None:
    model = put(registry)
    registry._control.write_bytes(b"not a database at all" * 100)
    with pytest.raises(LogUnavailableError, match=r"control.sqlite.*file is not a database"):
        registry.history("fraud")
    with pytest.raises(LogUnavailableError, match=r"control.sqlite.*file is not a database"):
        promote(registry, model)


def test_a_failed_commit_is_an_error_in_words_and_changes_nothing(registry: Registry) -> None:
    model = put(registry)
    promote(registry, model)
    with sqlite3.connect(registry._control) as direct:
        direct.execute("CREATE TRIGGER full BEFORE INSERT ON alias_history BEGIN SELECT RAISE(FAIL, 'disk full'); END")
    direct.close()
    with pytest.raises(LogUnavailableError, match=r"control.sqlite, alias history: SQLite says: disk full"):
        promote(registry, model, at_us=2)
    assert len(registry.history("fraud")) == 1


# ---- an alias that is followed ----


def test_a_followed_alias_is_what_the_registry_says_and_read_only_when_the_file_changed(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    champion, shadow = registry.following("fraud"), registry.following("fraud", "shadow")
    assert (champion.current(), shadow.current()) == (None, None)  # no file yet
    first, second = put(registry, "a"), put(registry, "b")
    promote(registry, first)
    assert (champion.current(), shadow.current()) == (first, None)
    registry.promote("fraud", second, alias="shadow", by="bo", why="compare", at_us=5)
    assert (champion.current(), shadow.current()) == (first, second)
    promote(registry, second)
    assert champion.current() == second
    registry.rollback("fraud", by="bo", why="alarms", at_us=9)
    assert champion.current() == first
    monkeypatch.setattr(registry, "current", None)  # to ask it would fail
    assert [champion.current() for _ in range(3)] == [first] * 3


def test_a_followed_alias_needs_a_name_that_is_known(registry: Registry) -> None:
    with pytest.raises(ConfigError, match=r"model alias: 'champoin'. Expected 'champion' \(closest match\)"):
        registry.following("fraud", "champoin")  # type: ignore[arg-type]


def test_a_followed_alias_goes_over_to_a_file_that_takes_the_place_of_its_own(
    registry: Registry, tmp_path: Path
) -> None:
    other = Registry(tmp_path / "other")
    first, second = put(registry, "a"), put(other, "b")
    promote(registry, first)
    promote(other, second)
    followed = registry.following("fraud")
    assert followed.current() == first
    for path in registry._control.parent.glob("control.sqlite*"):
        path.unlink()
    assert followed.current() is None
    other._control.rename(registry._control)
    assert followed.current() == second


def test_a_followed_file_that_cannot_be_read_is_an_error_in_words_until_it_can(registry: Registry) -> None:
    followed = registry.following("fraud")
    registry._control.parent.mkdir(parents=True)
    registry._control.write_bytes(b"not a database at all" * 100)
    for _ in range(2):
        with pytest.raises(LogUnavailableError, match=r"control.sqlite.*file is not a database"):
            followed.current()
    registry._control.unlink()
    model = put(registry)
    promote(registry, model)
    assert followed.current() == model


# ---- code ----


def test_the_hash_of_sources_sees_names_and_contents_of_python_files_only(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.py").write_text("x = 1")
    (tmp_path / "sub" / "b.py").write_text("y = 2")
    first = source_hash(tmp_path)
    (tmp_path / "notes.txt").write_text("no code")
    assert source_hash(tmp_path) == first
    (tmp_path / "a.py").write_text("x = 2")
    changed = source_hash(tmp_path)
    (tmp_path / "a.py").write_text("x = 1")
    assert source_hash(tmp_path) == first
    (tmp_path / "a.py").rename(tmp_path / "c.py")
    assert len({first, changed, source_hash(tmp_path)}) == 3


def test_this_code_names_what_can_move_a_bit() -> None:
    code = this_code()
    assert code == this_code()
    assert {"python", "numpy", "lightgbm"} <= set(code.packages)
    assert (
        code.lock
        == hashlib.sha256(json.dumps(code.packages, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    )
