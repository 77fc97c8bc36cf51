"""The posts that compete for a slate, as columns: one walk over the candidates, then everything is an array."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.candidates import Candidate, Candidates, Column, gathered
from decalog.features.kernel import Float64s, Int64s

HEADS = ("p_click", "p_dwell", "p_like", "p_reply", "p_share", "p_hide", "p_report")
"""What is predicted of a shown post; `p_dwell`: that it is stayed on for 10 s."""

FRESH = frozenset({"fresh", "explore"})
"""Retrievers whose posts have had no chance yet."""

LIMITED, SENSITIVE = "limited", "sensitive"

_OLD = 2**40
"""Seconds, and posts, of an author of whom nothing is known: no new one."""

Bools = npt.NDArray[np.bool_]


class Competitors(msgspec.Struct, frozen=True):
    """Posts that no filter took out, one place a post, in the order of the candidates: they come first there.

    Args:
        candidates: all of them.
        refs: the posts' names.
        predictions: shape (posts, heads); NaN where there is none.
        usable: shape (posts,), of which every prediction is a probability.
        in_network: shape (posts,), by an author whom the reader follows.
    """

    candidates: Candidates
    refs: tuple[str, ...]
    predictions: Float64s
    usable: Bools
    in_network: Bools

    @classmethod
    def of(cls, candidates: Sequence[Candidate] | Candidates) -> Competitors:
        """Returns those that compete."""
        candidates = gathered(candidates)
        count = candidates.competing
        predictions = _predictions(candidates)
        usable = np.all((predictions >= 0.0) & (predictions <= 1.0), axis=1)
        followed = candidates.attributes.get("in_network", _NOWHERE).filled(count, 0).astype(np.bool_)
        return cls(candidates, candidates.refs[:count], predictions, usable, followed)

    def numbers(self, name: str, missing: int) -> Int64s:
        """Returns a whole-numbered attribute."""
        return self._column(name).filled(len(self.refs), missing).astype(np.int64)

    def sketches(self) -> tuple[Int64s, Bools]:
        """Returns the sketches of the item vectors, and which posts have one."""
        return self.numbers("sketch", 0), self._column("sketch").has(len(self.refs))

    def groups(self, name: str) -> Int64s:
        """Returns a number for each value of a text attribute, from 0; a post without it has one of its own."""
        column, own = self._column(name), np.arange(len(self.refs))
        codes = column.filled(len(self.refs), -1)
        nameless = column.words.index("") if "" in column.words else -1
        return np.where((codes >= 0) & (codes != nameless), codes, len(column.words) + own)

    def from_sources(self, names: frozenset[str]) -> Bools:
        """Returns which posts one of some retrievers found."""
        sources = self.candidates.sources
        known = np.array([not names.isdisjoint(str(source).split("+")) for source in sources.words], np.bool_)
        found: Bools = known[sources.array[: len(self.refs)]]
        return found

    def marked(self, *names: str) -> Iterator[tuple[int, tuple[str, ...]]]:
        """Yields the place, and some text attributes, of the posts that have one of them; "" where it is missing."""
        columns = [self._column(name) for name in names]
        places = np.flatnonzero(np.any([column.has(len(self.refs)) for column in columns], axis=0))
        rows = zip(*(column.at(places) for column in columns), strict=True)
        for place, row in zip(places.tolist(), rows, strict=True):
            yield place, tuple(str(text or "") for text in row)

    def _column(self, name: str) -> Column:
        return self.candidates.attributes.get(name, _NOWHERE)


_NOWHERE = Column("|u1", b"")


def _predictions(candidates: Candidates) -> Float64s:
    made = np.full((candidates.competing, len(HEADS)), np.nan)
    rows = candidates.rows
    if len(rows):
        # A model of fewer heads: what it does not predict is worth nothing.
        made[:] = 0.0
    for place, head in enumerate(HEADS):
        if head in candidates.heads:
            made[:, place] = rows[:, candidates.heads.index(head)]
    return made
