"""Worlds of taste with a known answer."""

from __future__ import annotations

import numpy as np

from decalog.models.interactions import Interactions, interactions

SIZE = 40


def checkerboard(size: int = SIZE) -> Interactions:
    """Users take up the items of their own parity, all but the item of their own number."""
    names = [f"{place:03}" for place in range(size)]
    return interactions([(u, i) for u in names for i in names if u != i and int(u) % 2 == int(i) % 2])


def crowd(users: int = 30, items: int = 20, seed: int = 3) -> Interactions:
    """Draws interactions at random, an even chance of each of them growing with the item's number."""
    draws = np.random.default_rng(seed).random((users, items)) < np.linspace(0.1, 0.5, items)
    draws[:, 0] = draws[0] = True
    return interactions([(f"u{u:02}", f"i{i:02}") for u, i in zip(*np.nonzero(draws), strict=True)])
