"""ONNX files written by hand, byte by byte, so that tests need no exporter.

Field numbers are those of onnx.proto3 and onnx-ml.proto3 (github.com/onnx/onnx); the wire format is Protocol Buffers'.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

FLOAT, INT64, DOUBLE = 1, 7, 11


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def block(field: int, content: bytes | str) -> bytes:
    data = content.encode() if isinstance(content, str) else content
    return varint(field << 3 | 2) + varint(len(data)) + data


def floats_attribute(name: str, values: Sequence[float]) -> bytes:
    return block(1, name) + block(7, struct.pack(f"<{len(values)}f", *values)) + number(20, 6)


def int_attribute(name: str, value: int) -> bytes:
    return block(1, name) + number(3, value) + number(20, 2)


def ints_attribute(name: str, values: Sequence[int]) -> bytes:
    return block(1, name) + b"".join(number(8, value) for value in values) + number(20, 7)


def string_attribute(name: str, value: str) -> bytes:
    return block(1, name) + block(4, value) + number(20, 3)


def node(
    kind: str, inputs: Sequence[str], outputs: Sequence[str], *, attributes: Sequence[bytes] = (), ml: bool = False
) -> bytes:
    body = b"".join(block(1, name) for name in inputs) + b"".join(block(2, name) for name in outputs)
    body += block(4, kind) + b"".join(block(5, attribute) for attribute in attributes)
    return body + (block(7, "ai.onnx.ml") if ml else b"")


def tensor(name: str, shape: Sequence[int], values: Sequence[float], *, kind: int = FLOAT) -> bytes:
    body = b"".join(number(1, size) for size in shape) + number(2, kind) + block(8, name)
    return body + block(9, struct.pack(f"<{len(values)}{'f' if kind == FLOAT else 'd'}", *values))


def tensor_type(kind: int, shape: Sequence[int | None]) -> bytes:
    sizes = b"".join(block(1, block(2, "n") if size is None else number(1, size)) for size in shape)
    return block(1, number(1, kind) + block(2, sizes))


def value(name: str, type_: bytes) -> bytes:
    return block(1, name) + block(2, type_)


def model(
    nodes: Sequence[bytes], inputs: Sequence[bytes], outputs: Sequence[bytes], *, initial: Sequence[bytes] = ()
) -> bytes:
    graph = b"".join(block(1, n) for n in nodes) + block(2, "g") + b"".join(block(5, t) for t in initial)
    graph += b"".join(block(11, i) for i in inputs) + b"".join(block(12, o) for o in outputs)
    opsets = block(8, number(2, 17)) + block(8, block(1, "ai.onnx.ml") + number(2, 3))
    return number(1, 8) + block(7, graph) + opsets


def sigmoid_file(
    weights: Sequence[float],
    shift: float,
    *,
    kind: int = FLOAT,
    rows: int | None = None,
    flat: bool = False,
    end: str = "Sigmoid",
) -> bytes:
    """sigmoid(rows · weights + shift): what a neural network exports; `flat`: shape (n,) instead of (n, 1)."""
    nodes = [node("MatMul", ["x", "w"], ["wx"]), node("Add", ["wx", "b"], ["z"])]
    shape = [len(weights)] if flat else [len(weights), 1]
    initial = [tensor("w", shape, weights, kind=kind), tensor("b", [1], [shift], kind=kind)]
    out = tensor_type(kind, [None] if flat else [None, 1])
    inputs = [value("x", tensor_type(kind, [rows, len(weights)]))]
    return model([*nodes, node(end, ["z"], ["y"])], inputs, [value("y", out)], initial=initial)


def classifier_file(weights: Sequence[float], shift: float, *, zipmap: bool) -> bytes:
    """What skl2onnx exports for a logistic regression: label and probabilities, with ZipMap or without."""
    linear = node(
        "LinearClassifier",
        ["x"],
        ["label", "raw"],
        ml=True,
        attributes=[
            floats_attribute("coefficients", [*(-w for w in weights), *weights]),
            floats_attribute("intercepts", [-shift, shift]),
            ints_attribute("classlabels_ints", [0, 1]),
            string_attribute("post_transform", "LOGISTIC"),
        ],
    )
    outputs = [value("label", tensor_type(INT64, [None]))]
    if zipmap:
        last = node("ZipMap", ["raw"], ["maps"], attributes=[ints_attribute("classlabels_int64s", [0, 1])], ml=True)
        maps = block(4, block(1, block(5, number(1, INT64) + block(2, tensor_type(FLOAT, [])))))
        outputs.append(value("maps", maps))
    else:
        last = node("Identity", ["raw"], ["probabilities"])
        outputs.append(value("probabilities", tensor_type(FLOAT, [None, 2])))
    return model([linear, last], [value("x", tensor_type(FLOAT, [None, len(weights)]))], outputs)
