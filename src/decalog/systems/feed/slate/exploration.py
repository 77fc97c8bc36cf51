"""Randomised slots: what is logged of a draw, and its distribution, exactly, from the record alone.

With probability ε a slot takes a uniform draw from its pool of m posts, else the best of them, given the slots above:

    best     1 − ε + ε / m
    others   ε / m

The pool is logged in the slot's attributes by the places of its posts among the candidates, the best first.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from decalog.decisions import Decision

_BP = 10_000

Attributes = dict[str, int | float | str | bool]


class Randomised(msgspec.Struct, frozen=True):
    """The distribution of one randomised slot, given the slots above it.

    Args:
        position: 0 is the first.
        refs: of the pool, the greedy choice first.
        propensities: of each; they add up to 1.
    """

    position: int
    refs: tuple[str, ...]
    propensities: tuple[float, ...]


def propensity(place: int, *, size: int, explore_bp: int) -> float:
    """Returns how likely a post of a pool is shown, rounded once.

    Args:
        place: in the pool, 0 is the greedy choice.
        size: of the pool, ≥ 1.
        explore_bp: ε in hundredths of a percent.

    >>> propensity(0, size=4, explore_bp=1_000), propensity(3, size=4, explore_bp=1_000)
    (0.925, 0.025)
    """
    return ((_BP - explore_bp) * size * (place == 0) + explore_bp) / (_BP * size)


def logged(pool: Sequence[int], *, place: int, explore_bp: int) -> Attributes:
    """Returns the attributes of a randomised slot; by name, as the log has them, so that a retry has the same bytes.

    Args:
        pool: places among the decision's candidates, the greedy choice first.
        place: in the pool, of the post that the slot has.
        explore_bp: ε in hundredths of a percent.
    """
    explored: Attributes = {"explored": True} if place else {}
    return {"explore_bp": explore_bp, **explored, "pool": " ".join(map(str, pool))}


def pool(attributes: Attributes) -> tuple[int, ...]:
    """Returns the pool that a slot's attributes hold, as places among the candidates; empty where it was not drawn."""
    return tuple(int(place) for place in str(attributes.get("pool", "")).split())


def slot_propensities(decision: Decision) -> tuple[Randomised, ...]:
    """Returns the distribution of each randomised slot of a logged decision."""
    found = []
    for slot in decision.choice.slots:
        places, explore_bp = pool(slot.attributes), int(slot.attributes.get("explore_bp", 0))
        if places:
            refs = tuple(decision.candidates[place].ref for place in places)
            size = len(places)
            shares = tuple(propensity(place, size=size, explore_bp=explore_bp) for place in range(size))
            found.append(Randomised(slot.position, refs, shares))
    return tuple(found)
