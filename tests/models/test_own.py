"""A user's own class: imported only where it is allowed, held to the contract, never unpickled."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.models.training_sets import assert_same_bits_alone_and_among_others, draw_rows, training_set

from decalog.errors import ConfigError, ModelError
from decalog.models import own
from decalog.models.base import Model
from decalog.models.formats import FORMATS, is_blocking, load_model
from decalog.models.own import OwnModel

MODULE = '''
import numpy as np

imported = True


class Rule:
    """A limit from a text file, and a batch path whose bits would differ from the single one."""

    def __init__(self, limit):
        self.limit = limit

    @classmethod
    def load(cls, folder):
        return cls(float((folder / "limit.txt").read_text()))

    def predict(self, rows):
        return np.where(rows[:, 0] > self.limit, 0.9, 0.1) + 1e-9 * (len(rows) - 1)


class Odd(Rule):
    answers = {0.0: [0.1, 0.2], 1.0: [1.5], 2.0: [float("nan")], 3.0: ["much"], 4.0: []}

    def predict(self, rows):
        return self.answers[rows[0, 0]]


def function():
    """Not a class."""
'''
PATH = "own_model_of_a_test:Rule"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "own_model_of_a_test.py").write_text(MODULE)
    (tmp_path / "code" / "broken_model_of_a_test.py").write_text("import no_such_module_anywhere")
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "limit.txt").write_text("0.25")
    yield tmp_path / "files"
    sys.modules.pop("own_model_of_a_test", None)


def test_a_class_that_does_not_load_is_a_model_that_cannot_be_used(folder: Path) -> None:
    """Anything else would end the server's look for a new champion, or its start."""
    (folder / "limit.txt").write_text("a personal value")
    with pytest.raises(ModelError) as caught:
        OwnModel(PATH, folder, width=4, allowed=(PATH,))
    assert str(caught.value) == (
        "model own_model_of_a_test:Rule: ValueError from its load. Expected load(folder) → the model, from the files "
        "that were registered. Try it on that folder by hand; promote another model meanwhile."
    )


def odd(folder: Path) -> OwnModel:
    path = "own_model_of_a_test:Odd"
    return OwnModel(path, folder, width=4, allowed=(path,))


def test_a_row_alone_and_among_others_gets_the_same_bits(folder: Path) -> None:
    model = OwnModel(PATH, folder, width=4, allowed=(PATH,))
    assert_same_bits_alone_and_among_others(model, draw_rows(50, 1))
    assert model.predict(np.array([[0.3, 0, 0, 0], [0.2, 0, 0, 0]])).tolist() == [0.9, 0.1]
    assert is_blocking(model)


def test_the_manifest_names_the_class_and_its_files_come_along(folder: Path, tmp_path: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "more.bin").write_bytes(b"\x00")
    stored = tmp_path / "stored"
    stored.mkdir()
    settings = OwnModel(PATH, folder, width=4, allowed=(PATH,)).save(stored)
    assert settings == {"path": PATH, "width": 4}
    assert (stored / "deep" / "more.bin").read_bytes() == b"\x00"
    again = load_model("python", stored, settings=settings, allowed=(PATH,))
    assert again.predict(np.ones((1, 4))).tolist() == [0.9]
    assert again.save(stored) == settings


def test_a_kind_of_model_loads_the_class_for_the_features_of_the_training_set(folder: Path) -> None:
    kind = own.spec(PATH, folder, head="p_fraud", allowed=(PATH,))
    data = training_set(5)
    model: Model = kind.fit(data, 1)
    assert (kind.name, kind.format, kind.meaning) == ("own", "python", f"your class {PATH}")
    assert model.predict(data.rows).shape == (5,)


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [((), "none is allowed"), (("own_model_of_a_test:Ruler",), r"'own_model_of_a_test:Ruler' \(closest match\)")],
)
def test_a_class_that_is_not_allowed_is_never_imported(folder: Path, allowed: tuple[str, ...], expected: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"own model: class '{PATH}', which is not allowed here. Expected .*{expected}"
    ):
        load_model("python", folder, settings={"path": PATH, "width": 4}, allowed=allowed)
    assert "own_model_of_a_test" not in sys.modules


@pytest.mark.parametrize(
    ("path", "given"),
    [
        ("no_such_module_anywhere:X", "a module that cannot be imported"),
        ("broken_model_of_a_test:X", "a module that cannot be imported"),
        ("own_model_of_a_test:Absent", "no class with load and predict"),
        ("own_model_of_a_test:function", "no class with load and predict"),
        ("own_model_of_a_test", "no class with load and predict"),
        ("builtins:dict", "no class with load and predict"),
    ],
)
def test_a_path_without_a_model_is_refused(folder: Path, path: str, given: str) -> None:
    with pytest.raises(ConfigError, match=rf"own model '{path}': {given}.* Expected module:Class, with load"):
        OwnModel(path, folder, width=4, allowed=(path,))


@pytest.mark.parametrize(
    ("first", "given"),
    [
        (0.0, "2 values for one row"),
        (1.0, "a value that is no probability"),
        (2.0, "a value that is no probability"),
        (3.0, "ValueError from its predict"),
        (4.0, "0 values for one row"),
    ],
)
def test_answers_that_are_no_probability_are_refused(folder: Path, first: float, given: str) -> None:
    with pytest.raises(ModelError, match=rf"model own_model_of_a_test:Odd: {given}. Expected predict\(rows\)"):
        odd(folder).predict(np.array([[first, 0.0, 0.0, 0.0]]))


def test_rows_of_another_width_never_reach_the_class(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"shape \(1, 3\). Expected rows × 4 features"):
        odd(folder).predict(np.zeros((1, 3)))


class Bomb:
    went_off = False

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return setattr, (Bomb, "went_off", True)


def test_no_format_loads_a_pickle(folder: Path) -> None:
    """A pickle under the name of any model file of any format is refused as damage, and runs nothing."""
    for name in ("model.txt", "model.json", "model.onnx", "calibration.json", "model.pkl"):
        (folder / name).write_bytes(pickle.dumps(Bomb()))
    for name in FORMATS:
        settings = {"path": "no_such_module_anywhere:X", "width": 4, "sha256": "", "features": [], "params": {}}
        with pytest.raises((ModelError, ConfigError)):
            load_model(name, folder, settings=settings, allowed=("no_such_module_anywhere:X",))
    assert not Bomb.went_off
