"""A user's own model as an ONNX file, run by onnxruntime (extra `onnx`) on one thread.

The file has one input, rows × features in the order of the declared features, float32 or float64; its output is found
by shape. Rows are run one at a time: onnxruntime may add up in another order for a batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from decalog.errors import ConfigError, ModelError
from decalog.models.base import Floats, ModelSpec, TrainingSet
from decalog.models.rows import checked

FORMAT = "onnx"
FILE = "model.onnx"
_CLASSES = (("0", "1"), ("0.0", "1.0"), ("False", "True"))
_ROUNDING = 1e-4
"""How far sums in float32 may carry a probability beyond 0 and 1."""
_TYPES: Mapping[str, type[np.floating[Any]]] = {"tensor(float)": np.float32, "tensor(double)": np.float64}


class OnnxModel:
    """A probability from an ONNX graph.

    Args:
        content: of the file.
        features: names in the order of the input's columns.

    Raises:
        ConfigError: onnxruntime is not installed, or inputs and outputs are not those of a yes-or-no classifier.
        ModelError: onnxruntime cannot read or run the file.
    """

    blocking: ClassVar[bool] = True
    """Its cost is the user's: serving runs it in a thread, under the deadline."""

    def __init__(self, content: bytes, features: Sequence[str]) -> None:
        self._content = content
        self._features = tuple(features)
        self._session = _session(content)
        self._input, self._type = _single_input(self._session, len(self._features))
        self._output = self._find_output()

    def predict(self, rows: Floats) -> Floats:
        """See `Model.predict`.

        Raises:
            ModelError: the graph fails, or gives something other than probabilities.
        """
        matrix = checked(rows, width=len(self._features))
        found = np.array([self._one(matrix[i : i + 1]) for i in range(len(matrix))], np.float64)
        if not ((found >= -_ROUNDING) & (found <= 1 + _ROUNDING)).all():
            raise ModelError(
                where="ONNX model, output",
                given="a value that is NaN or outside 0…1",
                expected="probabilities",
                fix="Export the model with its probability output (a sigmoid or softmax at the end).",
            )
        return np.clip(found, 0.0, 1.0)

    def save(self, folder: Path) -> Mapping[str, Any]:
        """See `Model.save`."""
        (folder / FILE).write_bytes(self._content)
        return {"features": list(self._features), "sha256": hashlib.sha256(self._content).hexdigest()}

    def _one(self, row: Floats) -> float:
        values = _values(self._run(row, [self._output])[0])
        return values[-1] if values else float("nan")

    def _run(self, row: Floats, names: list[str] | None) -> list[Any]:
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and its prediction is checked
            values = row.astype(self._type)
        try:
            return list(self._session.run(names, {self._input: values}))
        except _runtime_errors() as error:
            raise ModelError(
                where="ONNX model",
                given=f"onnxruntime says: {str(error)[:200]}",
                expected="a graph that runs on one row",
                fix="Run the file in onnxruntime with one row of zeros, and export it again.",
            ) from None

    def _find_output(self) -> str:
        """Returns the output that holds the probability, found by what a row of zeros gives."""
        names = [str(output.name) for output in self._session.get_outputs()]
        found = self._run(np.zeros((1, len(self._features))), names)
        chosen = _choose({name: _values(output) for name, output in zip(names, found, strict=True)})
        if chosen is None:
            raise ConfigError(
                where="ONNX model, outputs",
                given=", ".join(f"{o.name}: {o.type} {o.shape}" for o in self._session.get_outputs()),
                expected="one output of probabilities: two columns (classes 0, 1), one column, or a map from 0 and 1",
                fix="Export a yes-or-no classifier with its probabilities in one tensor (skl2onnx: zipmap=False).",
            )
        return chosen


def from_file(path: Path, features: Sequence[str]) -> OnnxModel:
    """Returns the model of a user's file.

    Args:
        path: of the file.
        features: names in the order of the input's columns.

    Raises:
        ConfigError: the file cannot be read, or as in `OnnxModel`.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            where="ONNX model",
            given=f"{path.name}, which cannot be read ({error.strerror})",
            expected="an ONNX file",
            fix="Check the path.",
        ) from None
    return OnnxModel(content, features)


def spec(path: Path, *, head: str, name: str = "onnx") -> ModelSpec:
    """Returns a user's ONNX file as a kind of model; `fit` only binds it to the features, in their declared order."""

    def fit(data: TrainingSet, seed: int) -> OnnxModel:
        del seed
        return from_file(path, data.names)

    return ModelSpec(name=name, meaning=f"your ONNX model {path.name}", fit=fit, format=FORMAT, head=head)


def load(folder: Path, settings: Mapping[str, Any]) -> OnnxModel:
    """Returns the model of a folder.

    Raises:
        ModelError: the file is missing or damaged.
        ConfigError: onnxruntime is not installed.
    """
    try:
        content = (folder / FILE).read_bytes()
    except OSError as error:
        raise _damage(f"a file that cannot be read ({error.strerror})") from None
    if hashlib.sha256(content).hexdigest() != settings.get("sha256"):
        raise _damage(f"{len(content)} bytes that do not fit the hash in the manifest")
    return OnnxModel(content, settings["features"])


def _session(content: bytes) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise ConfigError(
            where="ONNX model",
            given="an environment without onnxruntime",
            expected="the extra `onnx`",
            fix="Install it: pip install decalog[onnx].",
        ) from None

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except _runtime_errors() as error:
        raise ModelError(
            where="ONNX model",
            given=f"onnxruntime says: {str(error)[:200]}",
            expected="a file in ONNX format that this onnxruntime reads",
            fix="Export the model again, or install another onnxruntime.",
        ) from None


def _runtime_errors() -> tuple[type[Exception], ...]:
    """Returns what onnxruntime raises: siblings without a common class of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = "EPFail Fail InvalidArgument InvalidGraph InvalidProtobuf NoModel NotImplemented RuntimeException"
    return (RuntimeError, ValueError, *(getattr(state, name) for name in names.split()))


def _single_input(session: Any, width: int) -> tuple[str, type[np.floating[Any]]]:
    inputs = session.get_inputs()
    if len(inputs) == 1 and inputs[0].type in _TYPES and _takes_a_row(inputs[0].shape, width):
        return inputs[0].name, _TYPES[inputs[0].type]
    raise ConfigError(
        where="ONNX model, inputs",
        given=", ".join(f"{i.name}: {i.type} {i.shape}" for i in inputs) or "none",
        expected=f"one input, rows × {width} features, tensor(float) or tensor(double)",
        fix="Export the model with one matrix input whose columns are the declared features in their order.",
    )


def _takes_a_row(shape: Sequence[object], width: int) -> bool:
    """Returns whether a 1 × width matrix fits a declared shape; a size that is no number is free."""
    fits = [not isinstance(size, int) or size == needed for size, needed in zip(shape, (1, width), strict=False)]
    return len(shape) == 2 and all(fits)  # noqa: PLR2004 - rows × features


def _choose(outputs: Mapping[str, tuple[float, ...]]) -> str | None:
    """Returns the name of the output that is a probability; None where there is none, or a doubt."""
    shares = {name: values for name, values in outputs.items() if _is_probability(values)}
    both = [name for name, values in shares.items() if len(values) == 2]  # noqa: PLR2004 - both classes leave no doubt
    fitting = both or list(shares)
    named = [name for name in fitting if "prob" in name.lower()]
    return next((names[0] for names in (fitting, named) if len(names) == 1), None)


def _values(output: Any) -> tuple[float, ...]:
    """Returns one row's numbers, class 1 last; empty where the output cannot be a probability."""
    if isinstance(output, list):  # a sequence of maps: skl2onnx's ZipMap
        keyed = {str(key): float(value) for key, value in output[0].items()} if isinstance(output[0], dict) else {}
        return next(((keyed[no], keyed[yes]) for no, yes in _CLASSES if {no, yes} == set(keyed)), ())
    floating = isinstance(output, np.ndarray) and np.issubdtype(output.dtype, np.floating)
    return tuple(output.reshape(-1).tolist()) if floating and output.size in (1, 2) else ()


def _is_probability(values: tuple[float, ...]) -> bool:
    whole = len(values) == 1 or abs(sum(values) - 1) <= _ROUNDING
    return bool(values) and whole and all(-_ROUNDING <= value <= 1 + _ROUNDING for value in values)


def _damage(given: str) -> ModelError:
    return ModelError(
        where=f"model file {FILE}",
        given=given,
        expected="the file that was registered",
        fix="Roll back with `decalog models rollback`, restore it from a backup, or register it again.",
    )
