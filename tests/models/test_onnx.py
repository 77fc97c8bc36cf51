"""A user's ONNX file: outputs found by shape, one row at a time, every refusal in words."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.models import onnx_files
from tests.models.training_sets import assert_same_bits_alone_and_among_others, training_set

from decalog.errors import ConfigError, ModelError
from decalog.models import onnx
from decalog.models.formats import is_blocking, load_model
from decalog.models.onnx import OnnxModel

NAMES = ("a", "b", "c")
WEIGHTS, SHIFT = (0.5, -1.0, 2.0), 0.25
ROWS = np.random.default_rng(0).normal(size=(40, 3))
TRUTH = 1 / (1 + np.exp(-(ROWS @ np.array(WEIGHTS) + SHIFT)))

FILES = {
    "a column": onnx_files.sigmoid_file(WEIGHTS, SHIFT),
    "a flat vector": onnx_files.sigmoid_file(WEIGHTS, SHIFT, flat=True),
    "one row at a time": onnx_files.sigmoid_file(WEIGHTS, SHIFT, rows=1),
    "float64": onnx_files.sigmoid_file(WEIGHTS, SHIFT, kind=onnx_files.DOUBLE),
    "label and two columns": onnx_files.classifier_file(WEIGHTS, SHIFT, zipmap=False),
    "label and maps": onnx_files.classifier_file(WEIGHTS, SHIFT, zipmap=True),
}
each_file = pytest.mark.parametrize("content", FILES.values(), ids=FILES)


@each_file
def test_the_probability_of_class_one_is_found_whatever_the_exporter(content: bytes) -> None:
    assert OnnxModel(content, NAMES).predict(ROWS) == pytest.approx(TRUTH, abs=2e-7)


@each_file
def test_a_row_alone_and_among_others_gets_the_same_bits(content: bytes) -> None:
    assert_same_bits_alone_and_among_others(OnnxModel(content, NAMES), ROWS)


@each_file
def test_a_stored_model_predicts_the_same_bits(content: bytes, tmp_path: Path) -> None:
    model = OnnxModel(content, NAMES)
    again = load_model("onnx", tmp_path, settings=model.save(tmp_path))
    assert again.predict(ROWS).tobytes() == model.predict(ROWS).tobytes()


def test_float64_input_keeps_float64() -> None:
    assert OnnxModel(FILES["float64"], NAMES).predict(ROWS) == pytest.approx(TRUTH, abs=1e-14)


def test_it_runs_in_a_thread_under_the_deadline() -> None:
    assert is_blocking(OnnxModel(FILES["a column"], NAMES))


def test_a_kind_of_model_binds_the_file_to_the_features_of_the_training_set(tmp_path: Path) -> None:
    path = tmp_path / "mine.onnx"
    path.write_bytes(onnx_files.sigmoid_file((1.0, 0.0, 0.0, 0.0), 0.0))
    data = training_set(10)
    kind = onnx.spec(path, head="p_fraud")
    assert (kind.name, kind.format, kind.meaning) == ("onnx", "onnx", "your ONNX model mine.onnx")
    assert kind.fit(data, 1).predict(data.rows) == pytest.approx(1 / (1 + np.exp(-data.rows[:, 0])), abs=2e-7)


def outputs_file(outputs: Mapping[str, Sequence[float]]) -> bytes:
    """Outputs that are constants: name → one row's numbers."""
    nodes = [onnx_files.node("Identity", [f"{name}_0"], [name]) for name in outputs]
    initial = [onnx_files.tensor(f"{name}_0", [1, len(row)], row) for name, row in outputs.items()]
    values = [onnx_files.value(n, onnx_files.tensor_type(onnx_files.FLOAT, [1, len(r)])) for n, r in outputs.items()]
    inputs = [onnx_files.value("x", onnx_files.tensor_type(onnx_files.FLOAT, [None, 3]))]
    return onnx_files.model(nodes, inputs, values, initial=initial)


@pytest.mark.parametrize(
    ("outputs", "p"),
    [
        ({"margin": (-4.0,), "score": (0.3,)}, 0.3),  # a margin is no probability
        ({"label": (0.0,), "both": (0.8, 0.2)}, 0.2),  # two columns leave no doubt
        ({"label": (0.0,), "probability": (0.4,)}, 0.4),  # the name decides between single numbers
        ({"logits": (1.5, 0.5), "probabilities": (0.9, 0.1)}, 0.1),
        ({"sum_of_trees": (1.0000012,)}, 1.0),  # float32 sums may pass 1 by rounding
    ],
)
def test_among_several_outputs_the_probability_is_found(outputs: dict[str, Sequence[float]], p: float) -> None:
    assert OnnxModel(outputs_file(outputs), NAMES).predict(ROWS[:1]) == pytest.approx([p])


@pytest.mark.parametrize(
    "outputs",
    [
        {"i0": (0.8,), "i1": (0.2,)},  # one column a class: either may be meant
        {"prob_0": (0.8,), "prob_1": (0.2,)},
        {"logits": (1.5, 0.5)},
        {"margin": (-4.0,)},
        {"classes": (0.2, 0.3, 0.5)},
        {"one": (0.2, 0.8), "two": (0.3, 0.7)},
    ],
)
def test_outputs_that_leave_a_doubt_are_refused(outputs: dict[str, Sequence[float]]) -> None:
    with pytest.raises(
        ConfigError, match=r"ONNX model, outputs: .*tensor\(float\).* Expected one output of prob.*zipmap=F"
    ):
        OnnxModel(outputs_file(outputs), NAMES)


def inputs_file(*inputs: tuple[str, int, Sequence[int | None]]) -> bytes:
    values = [onnx_files.value(name, onnx_files.tensor_type(kind, shape)) for name, kind, shape in inputs]
    output = onnx_files.value("y", onnx_files.tensor_type(inputs[0][1], inputs[0][2]))
    return onnx_files.model([onnx_files.node("Identity", [inputs[0][0]], ["y"])], values, [output])


@pytest.mark.parametrize(
    "inputs",
    [
        [("x", onnx_files.FLOAT, (None, 4))],  # another width
        [("x", onnx_files.INT64, (None, 3))],
        [("x", onnx_files.FLOAT, (3,))],
        [("x", onnx_files.FLOAT, (32, 3))],  # a fixed batch
        [("x", onnx_files.FLOAT, (None, 3)), ("more", onnx_files.FLOAT, (None, 3))],
    ],
)
def test_inputs_other_than_rows_by_features_are_refused(inputs: list[tuple[str, int, Sequence[int | None]]]) -> None:
    with pytest.raises(ConfigError, match=r"ONNX model, inputs: x: tensor.* Expected one input, rows × 3 features"):
        OnnxModel(inputs_file(*inputs), NAMES)


def test_what_is_no_probability_on_some_row_is_refused() -> None:
    relu = OnnxModel(onnx_files.sigmoid_file((1.0, 0.0, 0.0), 0.0, end="Relu"), NAMES)
    assert relu.predict(np.array([[0.5, 0.0, 0.0]])) == pytest.approx([0.5])
    with pytest.raises(ModelError, match=r"ONNX model, output: a value that is NaN or outside 0…1"):
        relu.predict(np.array([[7.0, 0.0, 0.0]]))


def test_a_value_beyond_float32_is_never_a_silent_nan() -> None:
    model = OnnxModel(onnx_files.sigmoid_file((1.0, -1.0, 0.0), 0.0), NAMES)
    with pytest.raises(ModelError, match=r"NaN or outside 0…1"):
        model.predict(np.array([[1e300, 1e300, 0.0]]))


def test_rows_of_another_width_or_with_nan_never_reach_the_graph() -> None:
    model = OnnxModel(FILES["a column"], NAMES)
    with pytest.raises(ModelError, match=r"shape \(1, 2\). Expected rows × 3 features"):
        model.predict(np.zeros((1, 2)))
    with pytest.raises(ModelError, match=r"NaN or infinite"):
        model.predict(np.full((1, 3), np.nan))


@pytest.mark.parametrize("content", [b"", b"junk", b"\x08" * 50, FILES["a column"][:-60]])
def test_a_file_that_is_no_onnx_is_refused(content: bytes) -> None:
    with pytest.raises(ModelError, match=r"ONNX model: onnxruntime says: .* Expected a file in ONNX format"):
        OnnxModel(content, NAMES)


def test_a_graph_that_fails_when_it_runs_is_an_error_in_words() -> None:
    gather = onnx_files.node("Gather", ["w", "index"], ["g"])
    initial = [onnx_files.tensor("w", [1, 1], [0.5])]
    index = onnx_files.node("Cast", ["x"], ["index"], attributes=[onnx_files.int_attribute("to", onnx_files.INT64)])
    inputs = [onnx_files.value("x", onnx_files.tensor_type(onnx_files.FLOAT, [None, 1]))]
    outputs = [onnx_files.value("g", onnx_files.tensor_type(onnx_files.FLOAT, [None, 1, 1]))]
    model = OnnxModel(onnx_files.model([index, gather], inputs, outputs, initial=initial), ("a",))
    with pytest.raises(ModelError, match=r"ONNX model: onnxruntime says: .* Expected a graph that runs on one row"):
        model.predict(np.array([[9.0]]))


def test_a_path_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"ONNX model: none.onnx, which cannot be read \(No such file .* Check the path"
    ):
        onnx.from_file(tmp_path / "none.onnx", NAMES)


def test_a_damaged_artefact_is_named(tmp_path: Path) -> None:
    settings = OnnxModel(FILES["a column"], NAMES).save(tmp_path)
    (tmp_path / "model.onnx").write_bytes(FILES["a column"][:-1])
    with pytest.raises(
        ModelError, match=r"model file model.onnx: \d+ bytes that do not fit the hash .* register it again"
    ):
        onnx.load(tmp_path, settings)
    (tmp_path / "model.onnx").unlink()
    with pytest.raises(ModelError, match=r"model file model.onnx: a file that cannot be read"):
        onnx.load(tmp_path, settings)


def without(name: str) -> Callable[..., Any]:
    real = builtins.__import__

    def refuse(wanted: str, *rest: Any, **named: Any) -> Any:
        if wanted.split(".", maxsplit=1)[0] == name:
            raise ImportError(name=name)
        return real(wanted, *rest, **named)

    return refuse


def test_an_environment_without_onnxruntime_says_which_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtins, "__import__", without("onnxruntime"))
    with pytest.raises(
        ConfigError, match=r"ONNX model: an environment without onnxruntime.*pip install decalog\[onnx\]"
    ):
        OnnxModel(FILES["a column"], NAMES)
