"""Chance for worlds: every draw is a keyed pseudo-random function, never the next number of a stream.

A draw is a function of (key of the thing it belongs to, name of the draw). So nothing that happens to one payment, and
no order of calls, shifts the chance of another. The mixer is the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA
2014; constants of Stafford's variant 13), applied to arrays. Not for secrets.
"""

from __future__ import annotations

import functools
import hashlib

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_UNIT = 2.0**-53
_MOST = 16  # a Poisson count above this has p < 1e-5 at rates up to 4, the most a world should ask for


@functools.lru_cache(maxsize=1024)
def _constant(name: str) -> np.uint64:
    """Returns 64 bits that stand for a name."""
    return np.uint64(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little"))


def mix(values: Keys) -> Keys:
    """Returns well-mixed 64-bit values, one to one with those given (unsigned overflow is meant)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def root(name: str) -> Keys:
    """Returns the key, shape (1,), of a named beginning such as `fraud world 7`."""
    return mix(np.array([_constant(name)]))


def named(keys: Keys, name: str) -> Keys:
    """Returns keys for the part called `name` of each thing."""
    return mix(keys ^ _constant(name))


def child(keys: Keys, index: Ints | int) -> Keys:
    """Returns the key of the `index`-th child of each thing; `keys` and `index` broadcast, index ≥ 0."""
    steps = (np.atleast_1d(np.asarray(index, dtype=np.int64)) + 1).astype(np.uint64)
    return mix(keys + steps * _GOLDEN)


def uniform(keys: Keys, name: str) -> Floats:
    """Returns draws in the open interval (0, 1), one a key."""
    return (named(keys, name) >> np.uint64(11)).astype(np.float64) * _UNIT + _UNIT / 2


def normal(keys: Keys, name: str) -> Floats:
    """Returns standard normal draws by Box and Muller (1958), one a key."""
    radius = np.sqrt(-2.0 * np.log(uniform(keys, name + " radius")))
    return np.asarray(radius * np.cos(2.0 * np.pi * uniform(keys, name + " angle")), dtype=np.float64)


def below(keys: Keys, name: str, *, bound: Ints | int) -> Ints:
    """Returns uniform integers in [0, bound)."""
    return np.asarray(uniform(keys, name) * np.asarray(bound), dtype=np.int64)


def poisson(keys: Keys, name: str, *, rate: Floats) -> Ints:
    """Returns Poisson counts by inversion, cut at 16; meant for rates up to 4 a key."""
    draw = uniform(keys, name)
    term = np.exp(-rate)
    total = term.copy()
    count = np.zeros(draw.shape, dtype=np.int64)
    for n in range(1, _MOST + 1):
        count += draw > total
        term = term * rate / n
        total = total + term
    return count


def sigmoid(x: Floats) -> Floats:
    """Returns the probability of log-odds, 1 / (1 + e^-x).

    >>> sigmoid(np.array([0.0])).tolist()
    [0.5]
    """
    return np.asarray(1.0 / (1.0 + np.exp(-x)), dtype=np.float64)


def spread(counts: Ints) -> tuple[Ints, Ints]:
    """Returns, for `counts[i]` children of each thing i, their parent's index and their place among its children.

    >>> [a.tolist() for a in spread(np.array([2, 0, 1]))]
    [[0, 0, 2], [0, 1, 0]]
    """
    parent = np.repeat(np.arange(len(counts)), counts)
    first = np.cumsum(counts) - counts
    return parent, np.arange(len(parent)) - first[parent]
