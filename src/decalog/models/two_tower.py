"""Two towers: a vector of what a person takes up, a vector of each item, and their product says who will like what.

The item's tower adds the vector of its id to those of its sides (author, topic, language), so that an item nobody has
met yet stands where its sides put it. All components but the last are a direction; the last says how popular the item
is, so that directions have to tell tastes alone. The user's tower pools the vectors of what the user took up, each by a
learned weight, and adds the user's sides (region, interests): it has no id, so it runs on the latest events, and for a
user without any on the sides alone. Its last component is 1: the product is a cosine plus a popularity.

Learned by softmax over a sample of the items (J. Bengio and Y. Senécal, 2008) that is drawn in the batch: the items
taken up by its users, and some more at random. A popular item is in it more often than a rare one, so each item's logit
is corrected by the logarithm of its chance of being there (logQ; X. Yi et al., Sampling-bias-corrected neural modeling
for large corpus item recommendations, RecSys 2019). A batch is made of users, not of pairs: some of a user's items are
the history that is pooled, the others are to be found; what a user took up is never a negative of that user. Vectors of
ids start as the singular vectors of the interactions, so that a few passes are enough.

The same inputs, seed, machine and number of BLAS threads give the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from scipy import sparse

from decalog.models.arrays import check_shapes, load_arrays, save_arrays
from decalog.models.interactions import Csr, Interactions, Matrix, normalised, singular

STEM = "towers"
_TINY = 1e-12

Ints = npt.NDArray[np.intp]
Params = dict[str, Matrix]
"""ids (items, dim) · sides (1 + side values, dim), row 0 of every item · users (1 + side values, dim − 1), row 0 of
every user · mix (dim, dim − 1), from pooled vectors to the user's direction · gate (dim,), what an item weighs in the
pool."""
Sides = Mapping[str, Sequence[Sequence[str]]]
"""Side → values of each row; a row may have none, or several."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How towers are built and taught.

    Args:
        dim: components of a vector, from 2.
        temperature: products are divided by it; less makes sharper differences.
        pool_power: pooled vectors are divided by (sum of weights)^power; 1 is a mean.
        epochs: passes over the users.
        batch: users a step.
        negatives: further items a step, drawn evenly.
        learning_rate: of Adam at the start; falls to 0 along a half cosine.
        target_share: of a user's items that are to be found in a step; the others are history.
        user_power: a user with n targets counts n^(1 − power): 0 weighs pairs alike, 1 users.
        dropout: share of items without their id, and of users without their history, in a step; where there are sides
            to stand on.
        decay: share of each vector of an id that a step takes away, times the learning rate.
    """

    dim: int = 64
    temperature: float = 0.1
    pool_power: float = 0.5
    epochs: int = 30
    batch: int = 1_024
    negatives: int = 2_048
    learning_rate: float = 0.01
    target_share: float = 0.5
    user_power: float = 0.0
    dropout: float = 0.1
    decay: float = 0.0


class Names(msgspec.Struct, frozen=True):
    """What rows of the tables stand for: items in order; side → value → row."""

    settings: Settings
    items: tuple[str, ...]
    item_sides: dict[str, dict[str, int]]
    user_sides: dict[str, dict[str, int]]


class TwoTower:
    """Fitted towers."""

    def __init__(self, names: Names, params: Params) -> None:
        self.names, self.params = names, params
        self.dim = names.settings.dim
        self._row = {item: row for row, item in enumerate(names.items)}
        self._ids = np.vstack([params["ids"], np.zeros((1, self.dim), np.float32)])  # the last: of ids it never met

    def item_vectors(self, ids: Sequence[str], sides: Mapping[str, Sequence[str]]) -> Matrix:
        """Returns the items' vectors, float32 (n, dim); the same bits for an item alone or among others.

        All components but the last are of length 1; the last is 0 for an item of ordinary popularity.

        Args:
            ids: of the items; one that the towers never met adds nothing, so its sides place it.
            sides: side → the value of each item; values never met add nothing.
        """
        bag = _bag(self.names.item_sides, {side: [(value,) for value in sides[side]] for side in sides}, rows=len(ids))
        own = self._ids[[self._row.get(item, -1) for item in ids]]
        return _placed(own + bag @ self.params["sides"])[0]

    def user_vector(self, vectors: Matrix, weights: Matrix, *, sides: Mapping[str, Sequence[str]]) -> Matrix:
        """Returns the user's vector, float32 (dim,): a direction of length 1, and 1.

        Args:
            vectors: of the m items the user took up, m ≥ 0, as `item_vectors` gives them.
            weights: m, > 0: how much each of them says; 1 is a plain one.
            sides: side → the user's values.
        """
        rows, shares = _row(self.names.user_sides, {side: [values] for side, values in sides.items()}, 0)
        own = np.array(shares, np.float32) @ self.params["users"][rows]
        if len(vectors):
            share = weights / np.sum(weights) ** self.names.settings.pool_power
            own = own + ((share * np.exp(vectors @ self.params["gate"])) @ vectors) @ self.params["mix"]
        return np.asarray(_asking(_unit(own[None])[0])[0], np.float32)

    def save(self, folder: Path) -> None:
        """Writes the towers' two files."""
        save_arrays(folder, STEM, arrays=self.params, names=self.names)


def load(folder: Path) -> TwoTower:
    """Returns the towers of a folder.

    Raises:
        ModelError: a file is missing or damaged.
    """
    params, names = load_arrays(folder, STEM, names=Names)
    check_shapes(STEM, params, shapes=_shapes(names))
    return TwoTower(names, {name: array.astype(np.float32, copy=False) for name, array in params.items()})


def fit(
    seen: Interactions, *, item_sides: Sides, user_sides: Sides, settings: Settings | None = None, seed: int = 0
) -> TwoTower:
    """Returns towers taught on who took up what.

    Args:
        seen: the interactions.
        item_sides: side → values of each item, in the order of `seen.items`.
        user_sides: side → values of each user, in the order of `seen.users`.
        settings: None takes the defaults.
        seed: of all that is drawn.
    """
    chosen = settings or Settings()
    names = Names(chosen, seen.items, _vocabulary(item_sides), _vocabulary(user_sides))
    rng = np.random.default_rng(seed)
    scale = 0.1 * chosen.dim**-0.5
    params = {name: rng.normal(0, scale, shape).astype(np.float32) for name, shape in _shapes(names).items()}
    start = singular(normalised(seen.taken), min(chosen.dim - 1, *seen.taken.shape), rng=rng)
    params["ids"][:, : start.shape[1]] += _unit(start)[0]
    params["mix"], params["gate"] = np.eye(*params["mix"].shape, dtype=np.float32), np.zeros(chosen.dim, np.float32)
    bags = (
        _bag(names.item_sides, item_sides, rows=len(seen.items)),
        _bag(names.user_sides, user_sides, rows=len(seen.users)),
    )
    adam = _Adam(params, settings=chosen)
    steps = -(-len(seen.users) // chosen.batch)
    for epoch in range(chosen.epochs):
        order = rng.permutation(len(seen.users))
        for place in range(steps):
            step = _draw(seen, bags, users=order[place::steps], settings=chosen, rng=rng)
            _, slopes = loss_and_slopes(params, step, temperature=chosen.temperature)
            adam.descend(slopes, progress=(epoch + place / steps) / chosen.epochs)
    return TwoTower(names, params)


class Step(NamedTuple):
    """What one step looks at.

    Args:
        item_bag: csr, items × side rows.
        user_bag: csr, users of the batch × side rows.
        keep: items; 0 where an item goes without its id.
        history: csr, users × items; each item's share of the pool.
        candidates: the sampled items.
        log_q: of each candidate's chance of being sampled.
        owner, column: of each target: its user's row, and its place among the candidates.
        weight: of each target; they add up to 1.
        known: rows and places of all that the users took up, which is no negative of theirs.
    """

    item_bag: Csr
    user_bag: Csr
    keep: Matrix
    history: Csr
    candidates: Ints
    log_q: Matrix
    owner: Ints
    column: Ints
    weight: Matrix
    known: tuple[Ints, Ints]


def loss_and_slopes(params: Params, step: Step, *, temperature: float) -> tuple[float, Params]:
    """Returns the corrected softmax's cross entropy over the targets, and its slope by each parameter."""
    vectors, lengths = _placed(step.keep[:, None] * params["ids"] + step.item_bag @ params["sides"])
    gates = np.exp(vectors @ params["gate"])
    pooled = step.history @ (vectors * gates[:, None])
    users, user_lengths = _unit(pooled @ params["mix"] + step.user_bag @ params["users"])
    found = vectors[step.candidates]
    scaled: Matrix = _asking(users) / np.float32(temperature)
    loss, errors = _softmax(np.asarray(scaled @ found.T), step, most=(1 + float(found[:, -1].max())) / temperature)

    by_user = _unit_slope(errors @ found[:, :-1] / np.float32(temperature), users, user_lengths)
    by_gated = step.history.T @ (by_user @ params["mix"].T)
    by_gate = np.sum(by_gated * vectors, axis=1) * gates
    by_item = by_gated * gates[:, None] + by_gate[:, None] * params["gate"]
    by_item[step.candidates] += errors.T @ scaled
    by_item[:, :-1] = _unit_slope(by_item[:, :-1], vectors[:, :-1], lengths)
    return loss, {
        "ids": step.keep[:, None] * by_item,
        "sides": step.item_bag.T @ by_item,
        "users": step.user_bag.T @ by_user,
        "mix": pooled.T @ by_user,
        "gate": vectors.T @ by_gate,
    }


def _softmax(logits: Matrix, step: Step, *, most: float) -> tuple[float, Matrix]:
    """Returns the loss and, in the place of the logits, its slope by each of them; no logit is above `most`.

    A target stands against the candidates that its user did not take up: p = e^s / (e^s + Σ e^(s' − log q')). The
    target itself is always there, so its own chance is 1.
    """
    top = np.float32(most)  # taken off, so that nothing overflows
    targets = np.exp(logits[step.owner, step.column] - top)
    logits -= step.log_q + top
    masses = np.exp(logits, out=logits)
    masses[step.known] = 0
    totals = targets + np.sum(masses, axis=1)[step.owner]
    masses *= np.bincount(step.owner, step.weight / totals, len(masses)).astype(masses.dtype)[:, None]
    masses[step.owner, step.column] = step.weight * (targets / totals - 1)
    return -float(np.sum(step.weight * np.log(targets / totals))), masses


def _draw(
    seen: Interactions, bags: tuple[Csr, Csr], *, users: Ints, settings: Settings, rng: np.random.Generator
) -> Step:
    """Returns a step on some users: what is history, what is to be found, and among which candidates."""
    taken = seen.taken[users]
    n_users, n_items = taken.shape
    owner = np.repeat(np.arange(n_users), np.diff(taken.indptr))
    # The lowest draw of each user is a target at any rate.
    draws = rng.random(len(owner), np.float32)
    least = np.full(n_users, 1, np.float32)
    np.minimum.at(least, owner, draws)
    bare = settings.dropout * (bags[1].shape[1] > 1)
    is_bare = rng.random(n_users) < bare
    wanted = (draws < settings.target_share) | (draws == least[owner]) | is_bare[owner]
    history = sparse.csr_array(
        (np.where(wanted, 0, taken.data), taken.indices, taken.indptr), shape=taken.shape, dtype=np.float32
    )
    history.data /= np.maximum(history.sum(axis=1), 1).astype(np.float32)[owner] ** settings.pool_power

    extra = min(settings.negatives, n_items)
    is_candidate = np.zeros(n_items, bool)
    is_candidate[taken.indices[wanted]] = True
    is_candidate[rng.choice(n_items, extra, replace=False)] = True
    candidates = np.flatnonzero(is_candidate)
    column = np.cumsum(is_candidate) - 1
    chance = (bare + (1 - bare) * settings.target_share) * n_users / len(seen.users)
    times_taken = np.bincount(seen.taken.indices, minlength=n_items)[candidates]
    log_q = np.log(1 - (1 - min(chance, 1 - _TINY)) ** times_taken * (1 - extra / n_items))
    counts = np.bincount(owner[wanted], minlength=n_users)
    weight = counts[owner[wanted]] ** -settings.user_power
    known = is_candidate[taken.indices]
    dropped = rng.random(n_items) < settings.dropout * (bags[0].shape[1] > 1)
    return Step(
        item_bag=bags[0],
        user_bag=bags[1][users],
        keep=(~dropped).astype(np.float32),
        history=history,
        candidates=candidates,
        log_q=log_q.astype(np.float32),
        owner=owner[wanted],
        column=column[taken.indices[wanted]],
        weight=(weight / np.sum(weight)).astype(np.float32),
        known=(owner[known], column[taken.indices[known]]),
    )


class _Adam:
    """Adam (D. Kingma and J. Ba, ICLR 2015), its rate falling along a half cosine."""

    def __init__(self, params: Params, *, settings: Settings) -> None:
        self._params, self._settings = params, settings
        self._means = {name: np.zeros_like(values) for name, values in params.items()}
        self._squares = {name: np.zeros_like(values) for name, values in params.items()}
        self._steps = 0

    def descend(self, slopes: Params, *, progress: float, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        """Changes the parameters in place; progress runs from 0 to 1."""
        self._steps += 1
        rate = self._settings.learning_rate * (1 + np.cos(np.pi * progress)) / 2
        first, second = (1 - beta**self._steps for beta in betas)
        self._params["ids"] *= np.float32(1 - rate * self._settings.decay)
        for name, slope in slopes.items():
            mean, square = self._means[name], self._squares[name]
            mean += (1 - betas[0]) * (slope - mean)
            square += (1 - betas[1]) * (slope * slope - square)
            self._params[name] -= np.float32(rate / first) * mean / (np.sqrt(square / np.float32(second)) + 1e-8)


def bare(vectors: Matrix) -> Matrix:
    """Returns items' vectors without their popularity: the product with one of them is the cosine of the directions."""
    return np.hstack([vectors[:, :-1], np.zeros_like(vectors[:, -1:])])


def _asking(directions: Matrix) -> Matrix:
    """Returns users' vectors: their directions, and 1 for each item's popularity."""
    return np.hstack([directions, np.ones_like(directions[:, :1])])


def _placed(rows: Matrix) -> tuple[Matrix, Matrix]:
    """Returns items' vectors, all but the last component made a direction, and the lengths that those had, (n, 1)."""
    directions, lengths = _unit(rows[:, :-1])
    return np.hstack([directions, rows[:, -1:]]), lengths


def _unit(rows: Matrix) -> tuple[Matrix, Matrix]:
    """Returns rows of length 1 and the lengths they had, (n, 1)."""
    lengths = np.maximum(np.sqrt(np.sum(rows * rows, axis=1, keepdims=True)), _TINY)
    return rows / lengths, lengths


def _unit_slope(slopes: Matrix, units: Matrix, lengths: Matrix) -> Matrix:
    """Returns slopes by the rows before `_unit`, from those by the rows after it."""
    return np.asarray((slopes - units * np.sum(slopes * units, axis=1, keepdims=True)) / lengths)


def _vocabulary(sides: Sides) -> dict[str, dict[str, int]]:
    """Returns side → value → row of the table, from 1 on."""
    found, rows = dict[str, dict[str, int]](), 1
    for side in sorted(sides):
        values = sorted({value for row in sides[side] for value in row})
        found[side] = {value: rows + place for place, value in enumerate(values)}
        rows += len(values)
    return found


def _bag(vocabulary: dict[str, dict[str, int]], sides: Sides, *, rows: int) -> Csr:
    """Returns csr (rows × table): 1 in column 0, and the known values of each side, which share a weight of 1."""
    columns, shares, ends = list[int](), list[float](), [0]
    for row in range(rows):
        found, weights = _row(vocabulary, sides, row)
        columns += found
        shares += weights
        ends.append(len(columns))
    width = 1 + sum(map(len, vocabulary.values()))
    return sparse.csr_array((np.array(shares, np.float32), np.array(columns, np.intp), ends), shape=(rows, width))


def _row(vocabulary: dict[str, dict[str, int]], sides: Sides, row: int) -> tuple[list[int], list[float]]:
    """Returns the columns of a row of `_bag`, and the weights there."""
    columns, shares = [0], [1.0]
    for side, known in vocabulary.items():
        found = [known[value] for value in sides[side][row] if value in known] if side in sides else []
        columns += found
        shares += [1 / len(found)] * len(found) if found else []
    return columns, shares


def _shapes(names: Names) -> dict[str, tuple[int, ...]]:
    dim = names.settings.dim
    item_rows, user_rows = (1 + sum(map(len, sides.values())) for sides in (names.item_sides, names.user_sides))
    return {
        "ids": (len(names.items), dim),
        "sides": (item_rows, dim),
        "users": (user_rows, dim - 1),
        "mix": (dim, dim - 1),
        "gate": (dim,),
    }
