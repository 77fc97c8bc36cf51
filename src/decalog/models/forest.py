"""Many trees over many rows at once: LightGBM's text in, the bits of `Booster.predict(raw_score=True)` out.

No tree is walked. A row's features are first put into bins between the thresholds that any tree asks for; bins compare
as the numbers do, so nothing is rounded. Then every node of a tree is asked for every row of a block: where the answer
is "right", the leaves to the node's left fall away from the row's set of leaves, one bit a leaf. What is left of the
set begins with the leaf that the row reaches (Lucchese et al., "QuickScorer: a fast algorithm to rank documents with
additive ensembles of regression trees", SIGIR 2015). QuickScorer asks only the nodes that answer "right"; asking all
of them, with the rows in the inner loop, has no branch and becomes vector instructions.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from decalog.compiling import compiled
from decalog.errors import ModelError
from decalog.models.base import Floats
from decalog.models.rows import checked

Int64s = npt.NDArray[np.int64]
Uint16s = npt.NDArray[np.uint16]

_BLOCK = 256
"""Rows that are scored together: their bins stay in the processor's first cache."""
_ZERO = float(np.float32(1e-35))
"""LightGBM takes what is no further from 0 for 0."""
_MOST_BINS = 2**16
_CATEGORICAL, _MISSING_SHIFT, _MISSING, _MISSING_ZERO = 1, 2, 3, 1

FEATURE, FROM, TO = 0, 1, 2
"""Columns of a span: a feature's column, and where its thresholds lie among all."""
PLACE, LAST = 0, 1
"""Columns of a node: which span it asks, and the last bin that goes left."""


class _Word(NamedTuple):
    """A set of leaves as an unsigned number, and a prime by which its powers of two leave different remainders."""

    kind: Any
    name: str
    leaves: int
    prime: int


_WORDS = (_Word(np.uint32, "uint32", 32, 37), _Word(np.uint64, "uint64", 64, 67))


class Forest:
    """Boosters (heads) over the same features, scored in one call; the GIL is released meanwhile.

    Args:
        texts: LightGBM's model text of each head.

    Raises:
        ModelError: a text is damaged, or has what is not supported: several classes, averaged output (random forests),
            categorical splits, zero as missing, linear leaves, or trees of more than 64 leaves.
    """

    def __init__(self, texts: Sequence[bytes]) -> None:
        parsed = [_parse(text) for text in texts]
        self.width = _one_width([width for width, _ in parsed])
        trees = [tree for _, head in parsed for tree in head]
        self.trees = tuple(len(head) for _, head in parsed)
        word = _WORDS[max((len(tree.values) for tree in trees), default=1) > _WORDS[0].leaves]
        self._tables = (*_asked(trees), *_leaves(trees, word), _starts([len(tree.thresholds) for tree in trees]))
        self._heads = _starts(self.trees)
        self._score = _scorer(word)

    def scores(self, rows: Floats) -> Floats:
        """Returns the raw score of each row and head, n × heads; a row's bits do not depend on its neighbours.

        Raises:
            ModelError: rows are not n × `width` finite numbers.
        """
        # Compiled for arrays as numpy makes them; what lies in somebody's buffer is copied.
        matrix = np.require(checked(rows, width=self.width), requirements=("A", "W"))
        scores = np.empty((len(matrix), len(self.trees)))
        self._score(matrix, *self._tables, self._heads, scores)
        return scores


_inner = compiled(None)


@functools.cache
def _scorer(word: _Word) -> Callable[..., None]:
    """Returns the loop over rows, heads and trees for one kind of word, compiled (or from the cache)."""
    one, prime, every = word.kind(1), word.kind(word.prime), word.kind(2**word.leaves - 1)
    table = "float64[:, ::1]"
    tables = f"float64[::1], int64[:, ::1], uint16[:, ::1], {word.name}[::1], {table}, int64[::1], int64[::1]"

    @compiled(f"void({table}, {tables}, {table})")
    def _score(
        rows: Floats,
        edges: Floats,
        spans: Int64s,
        nodes: Uint16s,
        masks: npt.NDArray[Any],
        values: Floats,
        trees: Int64s,
        heads: Int64s,
        out: Floats,
    ) -> None:
        for start in range(0, rows.shape[0], _BLOCK):
            bins = _binned(rows[start : start + _BLOCK], edges, spans)
            left = np.empty(bins.shape[1], masks.dtype)
            for head in range(heads.shape[0] - 1):
                total = np.zeros(bins.shape[1])
                for tree in range(heads[head], heads[head + 1]):
                    _drop(left, every, bins, nodes, masks, trees[tree], trees[tree + 1])
                    _add(total, left, one, prime, values[tree])
                for row in range(bins.shape[1]):
                    out[start + row, head] = total[row]

    return _score


@_inner
def _binned(rows: Floats, edges: Floats, spans: Int64s) -> Uint16s:
    """Returns how many thresholds of each span lie below each row's value: spans × rows."""
    bins = np.empty((spans.shape[0], rows.shape[0]), np.uint16)
    values, low = np.empty(rows.shape[0]), np.empty(rows.shape[0], np.uint32)
    for place in range(spans.shape[0]):
        mine = edges[spans[place, FROM] : spans[place, TO]]
        for row in range(rows.shape[0]):
            value = rows[row, spans[place, FEATURE]]
            values[row] = value if abs(value) > _ZERO else 0.0
            low[row] = 0
        step = np.uint32(mine.shape[0] // 2)
        while step > 0:
            _halve(low, step, mine, values)
            step = np.uint32(step // np.uint32(2))
        for row in range(rows.shape[0]):
            bins[place, row] = low[row]
    return bins


@_inner
def _halve(low: npt.NDArray[np.uint32], step: np.uint32, edges: Floats, values: Floats) -> None:
    """Does one step of every row's binary search; indices are unsigned, so that none is asked for its sign."""
    for row in range(low.shape[0]):
        high = np.uint32(low[row] + step)
        low[row] = high if edges[np.uint32(high - np.uint32(1))] < values[row] else low[row]


@_inner
def _drop(
    left: npt.NDArray[Any],
    every: Any,
    bins: Uint16s,
    nodes: Uint16s,
    masks: npt.NDArray[Any],
    first: int,
    end: int,
) -> None:
    """Leaves each row the set of leaves that no node of a tree rules out."""
    for row in range(left.shape[0]):
        left[row] = every
    for node in range(first, end):
        column, last, mask = bins[nodes[node, PLACE]], nodes[node, LAST], masks[node]
        for row in range(left.shape[0]):
            left[row] &= every if column[row] <= last else mask


@_inner
def _add(total: Floats, left: npt.NDArray[Any], one: Any, prime: Any, values: Floats) -> None:
    """Adds to each row's total the value of its set's first leaf; values lie by the remainder of the leaf's bit."""
    for row in range(left.shape[0]):
        total[row] += values[(left[row] & ~(left[row] - one)) % prime]


class _Tree(NamedTuple):
    """Nodes and leaves of a tree; a child ≥ 0 is a node, one < 0 the leaf ~child."""

    features: Int64s
    thresholds: Floats
    left: Int64s
    right: Int64s
    values: Floats


def _parse(text: bytes) -> tuple[int, list[_Tree]]:
    """Returns how many features a text has, and its trees."""
    body, end, _ = text.decode("utf-8", "replace").partition("\nend of trees")
    header, *blocks = body.split("\nTree=")
    fields = _fields(header)
    if not end or len(fields.get("tree_sizes", "").split()) != len(blocks):
        raise _refusal(f"a text of {len(text)} bytes that is cut or has lost trees")
    if fields.get("num_tree_per_iteration") != "1" or "average_output" in header.split():
        raise _refusal("a booster of several classes, or one that averages its trees")
    try:
        width = int(fields["max_feature_idx"]) + 1
        return width, [_tree(_fields(block), width) for block in blocks]
    except (KeyError, ValueError) as error:
        raise _refusal(f"a tree that cannot be read ({type(error).__name__})") from None


def _fields(block: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in block.splitlines() if "=" in line)


def _tree(fields: dict[str, str], width: int) -> _Tree:
    kinds = _numbers(fields, "decision_type", np.int64)
    if np.any(kinds & _CATEGORICAL) or np.any(kinds >> _MISSING_SHIFT & _MISSING == _MISSING_ZERO):
        raise _refusal("a split on categories, or on zero as missing")
    if fields.get("is_linear", "0") != "0":
        raise _refusal("linear leaves")
    leaves = int(fields["num_leaves"])
    if not 1 <= leaves <= _WORDS[-1].leaves:
        raise _refusal(f"a tree of {leaves} leaves")
    names = ("split_feature", "left_child", "right_child")
    asked, left, right = (_numbers(fields, name, np.int64) for name in names)
    tree = _Tree(
        asked, _numbers(fields, "threshold", np.float64), left, right, _numbers(fields, "leaf_value", np.float64)
    )
    # Each node but the root, and each leaf, is one node's child.
    children = np.sort([0 if len(left) else -1, *left, *right])
    fits = (
        {len(kinds), *(len(column) for column in tree[:-1])} == {leaves - 1} and len(tree.values) == leaves,
        np.array_equal(children, np.arange(-leaves, leaves - 1)),
        bool(np.all((asked >= 0) & (asked < width))),
    )
    if not all(fits):
        raise _refusal("a tree that cannot be read (its lines do not fit each other)")
    return tree


def _numbers(fields: dict[str, str], name: str, kind: Any) -> npt.NDArray[Any]:
    # A tree of one leaf has no nodes, and some versions write no lines for them.
    words = fields[name] if name == "leaf_value" or fields["num_leaves"] != "1" else ""
    numbers = np.array(words.split(), kind)
    if not np.all(np.isfinite(numbers)):
        raise ValueError
    return numbers


def _one_width(widths: list[int]) -> int:
    if len(set(widths)) != 1:
        raise _refusal(f"heads over {', '.join(map(str, widths)) or 'no'} features")
    return widths[0]


def _starts(lengths: Sequence[int]) -> Int64s:
    return np.array([0, *itertools.accumulate(lengths)], np.int64)


def _asked(trees: list[_Tree]) -> tuple[Floats, Int64s, Uint16s]:
    """Returns the thresholds of all features, where each feature's lie, and what each node asks."""
    features = np.concatenate([np.empty(0, np.int64), *(tree.features for tree in trees)])
    thresholds = np.concatenate([np.empty(0), *(tree.thresholds for tree in trees)])
    nodes, edges, spans = np.empty((len(features), 2), np.uint16), [np.empty(0)], [np.empty((0, 3), np.int64)]
    for place, feature in enumerate(np.unique(features)):
        mine = features == feature
        found = np.unique(thresholds[mine])
        if len(found) >= _MOST_BINS:
            raise _refusal(f"{len(found)} thresholds of one feature")
        # As many as a power of two, one of them beyond every value: each step of the search halves what is left.
        room = 1 << len(found).bit_length()
        spans.append(np.array([[feature, 0, room]]))
        edges.append(np.append(found, np.full(room - len(found), np.inf)))
        nodes[mine, PLACE], nodes[mine, LAST] = place, np.searchsorted(found, thresholds[mine])
    table = np.concatenate(spans)
    table[:, TO] = np.cumsum(table[:, TO])
    table[1:, FROM] = table[:-1, TO]
    return np.concatenate(edges), table, nodes


def _leaves(trees: list[_Tree], word: _Word) -> tuple[npt.NDArray[Any], Floats]:
    """Returns what each node leaves of the leaves when it goes right, and each tree's values by their leaf's bit.

    Leaves are numbered from left to right.
    """
    masks, values = list[int](), np.zeros((len(trees), word.prime))
    for place, tree in enumerate(trees):
        order, below = list[int](), [0] * len(tree.left)
        _number(tree, 0 if below else -1, order, below)
        if len(order) != len(tree.values):
            raise _refusal("a tree with nodes that its root does not reach")
        masks += [2**word.leaves - 1 - bits for bits in below]
        values[place, [2**rank % word.prime for rank in range(len(order))]] = tree.values[order]
    return np.array(masks, word.kind), values


def _number(tree: _Tree, child: int, order: list[int], below: list[int]) -> int:
    """Appends the leaves under a child to the order; returns their bits, having noted those on each node's left."""
    if child < 0:
        order.append(~child)
        return 1 << (len(order) - 1)
    below[child] = _number(tree, tree.left[child], order, below)
    return below[child] | _number(tree, tree.right[child], order, below)


def _refusal(given: str) -> ModelError:
    return ModelError(
        where="forest",
        given=given,
        expected="LightGBM's text of whole boosters of one output over the same features: numeric splits, constant"
        f" leaves, at most {_WORDS[-1].leaves} of them in a tree",
        fix="Restore the model from a backup, or train it again with such settings.",
    )
