"""The posts that compete for a slate, as columns: one walk over the candidates, then everything is an array."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.decisions import Candidate
from decalog.features.kernel import Float64s, Int64s

HEADS = ("p_click", "p_dwell", "p_like", "p_reply", "p_share", "p_hide", "p_report")
"""What is predicted of a shown post; `p_dwell`: that it is stayed on for 10 s."""

FRESH = frozenset({"fresh", "explore"})
"""Retrievers whose posts have had no chance yet."""

LIMITED, SENSITIVE = "limited", "sensitive"

_OLD = 2**40
"""Seconds, and posts, of an author of whom nothing is known: no new one."""

Bools = npt.NDArray[np.bool_]
_of_heads = itemgetter(*HEADS)


class Competitors(msgspec.Struct, frozen=True):
    """Posts that no filter took out, one place a post, in the order of the candidates.

    Args:
        posts: the candidates themselves.
        places: where each stands among all candidates.
        predictions: shape (posts, heads); NaN where there is none.
        usable: shape (posts,), of which every prediction is a probability.
        in_network: shape (posts,), by an author whom the reader follows.
    """

    posts: tuple[Candidate, ...]
    places: tuple[int, ...]
    predictions: Float64s
    usable: Bools
    in_network: Bools

    @classmethod
    def of(cls, candidates: Sequence[Candidate]) -> Competitors:
        """Returns those that compete."""
        places = tuple([place for place, candidate in enumerate(candidates) if not candidate.dropped])
        posts = tuple([candidates[place] for place in places])
        predictions = _predictions([post.predictions for post in posts])
        usable = np.all((predictions >= 0.0) & (predictions <= 1.0), axis=1)
        followed = np.array([bool(post.attributes.get("in_network")) for post in posts], np.bool_)
        return cls(posts, places, predictions, usable, followed)

    def numbers(self, name: str, missing: int) -> Int64s:
        """Returns a whole-numbered attribute."""
        return np.array([post.attributes.get(name, missing) for post in self.posts], np.int64)

    def sketches(self) -> tuple[Int64s, Bools]:
        """Returns the sketches of the item vectors, and which posts have one."""
        found = [post.attributes.get("sketch") for post in self.posts]
        return np.array([one or 0 for one in found], np.int64), np.array([one is not None for one in found], np.bool_)

    def groups(self, name: str) -> Int64s:
        """Returns a number for each value of a text attribute, from 0; a post without it has one of its own."""
        numbers: dict[object, int] = {}
        named = [post.attributes.get(name) or (post.ref,) for post in self.posts]
        return np.array([numbers.setdefault(value, len(numbers)) for value in named], np.int64)

    def from_sources(self, names: frozenset[str]) -> Bools:
        """Returns which posts one of some retrievers found."""
        known = {source: not names.isdisjoint(source.split("+")) for source in {post.source for post in self.posts}}
        return np.array([known[post.source] for post in self.posts], np.bool_)


def _predictions(of_posts: Sequence[Mapping[str, float]]) -> Float64s:
    rows: Iterable[Any]
    try:
        rows = [_of_heads(heads) for heads in of_posts]
    except KeyError:  # a model of fewer heads: what it does not predict is worth nothing
        absent = 0.0
        rows = [[heads.get(head, absent) if heads else np.nan for head in HEADS] for heads in of_posts]
    return np.array(rows, np.float64).reshape(len(of_posts), len(HEADS))
