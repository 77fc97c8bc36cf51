"""Small chains whose promotions do what is known."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from decalog.systems.demand.forecast.pooling import Floats, Ints
from decalog.systems.demand.forecast.promotions import Promoted

OWN, AFTER, TAKEN = 0.8, -0.3, -0.15
"""Logs at a quarter off."""


class Chain(NamedTuple):
    """A chain, and what its promotions do from each item to each other one, logs at a quarter off."""

    promoted: Promoted
    cross: Floats


def chain(seed: int = 0, *, days: int = 280, shelf: float = np.inf, is_alike: bool = True, lent: float = 0.0) -> Chain:
    """Returns a chain of three stores and two groups of six items, with a season, and fashions of items.

    Args:
        seed: of all that is drawn.
        days: that it is seen.
        shelf: units on each shelf in the morning as a multiple of the usual ones; who finds none takes the next item of
            the group in three of ten cases.
        is_alike: whether all stores promote the same; if not, each item has much larger ups and downs, in all stores.
        lent: what the first item of the first group does to the first of the second.
    """
    rng, stores, items, of_group = np.random.default_rng(seed), 3, 12, 6
    group = np.arange(items) // of_group
    same = (group[:, None] == group[None, :]) & ~np.eye(items, dtype=bool)
    cross = np.where(same, TAKEN, 0.0)
    cross[0, of_group] = lent
    weeks = -(-days // 7)
    on = rng.random((stores, items, weeks)) < 0.12
    on = np.broadcast_to(on[:1], on.shape) if is_alike else on
    depth = 0.25 * (np.repeat(on, 7, axis=2)[:, :, :days] & (np.arange(days) % 7 != 6))
    before = np.stack(
        [np.roll(np.pad(depth, ((0, 0), (0, 0), (7, 0))), back, axis=2)[:, :, 7:] for back in range(1, 8)]
    )
    dip = np.where(depth > 0, 0.0, before.mean(axis=0)) / 0.25
    fashion = np.zeros((items, days))
    new = 0.05 if is_alike else 0.6
    for day in range(1, days):
        stays = 0.95 if is_alike else 0.3
        fashion[:, day] = stays * fashion[:, day - 1] + new * rng.standard_normal(items)
    season = 0.4 * np.sin(2 * np.pi * np.arange(days) / 180 + group[:, None]) + 0.3 * (np.arange(days) % 7 >= 5)
    weather = 0.1 * rng.standard_normal((stores, 1, days))
    base = np.log(rng.uniform(8, 60, (stores, items, 1)))
    moved = OWN * depth / 0.25 + AFTER * dip + np.einsum("ji,sjt->sit", cross, depth / 0.25)
    wanted = rng.poisson(np.exp(base + season + weather + fashion + moved) * rng.gamma(15, 1 / 15, moved.shape))
    sold, exposed = _sold(wanted, np.floor(shelf * np.exp(base)) if np.isfinite(shelf) else None, group)
    flat = (stores * items, days)
    return Chain(
        Promoted(
            sold=sold.reshape(flat),
            exposed=exposed.reshape(flat),
            depth=depth.reshape(flat),
            item=np.tile(np.arange(items), stores),
            store=np.repeat(np.arange(stores), items),
            group=group,
            weekday=np.arange(days) % 7,
        ),
        cross,
    )


def _sold(wanted: Floats, shelf: Floats | None, group: Ints) -> tuple[Floats, Floats]:
    """Returns what was sold, and which share of the day there was stock; those turned away come in the evening."""
    if shelf is None:
        return wanted.astype(np.float64), np.ones(wanted.shape)
    first = np.minimum(wanted, shelf)
    place = np.arange(len(group))
    other = place // 6 * 6 + (place + 1) % 6
    turned = np.zeros_like(first)
    turned[:, other] = np.rint(0.3 * (wanted - first))
    sold = np.minimum(first + turned, shelf)
    return sold, np.where(sold >= shelf, shelf / np.maximum(wanted + turned, 1), 1.0)
