"""How well retrieval finds: for slates of the later part, all posts that could be shown then are ranked, shown or not.

The log is followed record by record, as a server does, with the model of the earlier part. When a slate comes on which
something was taken up, retrieval is asked with the same request; what was taken up is to be found among all that could
be shown to this reader at this moment. Nobody takes up what no slate shows: a good post that was not shown counts as
not wanted, so figures are lower than the truth, and kinder to what finds posts as those slates did.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from decalog.candidates import gathered
from decalog.evaluation import measure
from decalog.models.base import Model, SlateSet
from decalog.models.ranking import Floats, Lists
from decalog.reports import Contender
from decalog.systems.feed.catalogue import Ints, Mask
from decalog.systems.feed.metrics import FOUND, Finds
from decalog.systems.feed.people import WEIGHTS
from decalog.systems.feed.retrieval import MOST
from decalog.systems.feed.sources import Asked, Sight, neighbours, popular, two_tower

SLATES = 2_000
"""How many slates are asked for at most, drawn."""
RANDOM, POPULAR = "random order", "popular lately"
"""What knows nothing of the reader's taste: what is expected of a random order; and what people of the region like
most, each like counting half as much after 12 hours."""

_LEARNT = {"two_tower": two_tower, "neighbours": neighbours}
_PATIENT_MS = 60_000.0


def judged(contenders: Sequence[Contender], *, name: str, model: Model, test: SlateSet) -> list[Contender]:
    """Returns a report's contenders with the measures over the whole catalogue.

    The row of the model has those of all its sources together, in the order of retrieval; its stages alone, and what
    knows nothing of readers, have rows of their own.

    Args:
        contenders: as measured on what was shown.
        name: of the model's.
        model: fitted on the earlier part.
        test: the later part.
    """
    values = {row: measure(FOUND, finds)[0] for row, finds in found_by(model, test, name=name).items()}
    if not values:
        return list(contenders)
    ours, kept = {metric.name for metric in FOUND}, []
    for one in contenders:
        missing = tuple(lack for lack in one.missing if lack.metric not in ours)
        kept.append(msgspec.structs.replace(one, values=one.values | values.pop(one.name, {}), missing=missing))
    return kept + [
        Contender(name=row, role="model" if row in _LEARNT else "baseline", values=own, missing=())
        for row, own in values.items()
    ]


def found_by(model: Model, test: SlateSet, *, name: str, seed: int = 0) -> dict[str, Finds]:
    """Returns what is found, by what finds it; nothing where no slate has anything to be found.

    Args:
        model: of the earlier part, which retrieval adopts.
        test: the later part.
        name: of all sources together.
        seed: of which slates are drawn.
    """
    slates = list(_slates(model, test, name=name, seed=seed))
    readers = np.array([slate.reader for slate in slates], np.int64)
    wanted = np.array([slate.wanted for slate in slates], np.int64)
    rows = slates[0].hits if slates else {}
    return {row: Finds(Lists(np.stack([slate.hits[row] for slate in slates]), wanted), readers) for row in rows}


class _Slate(NamedTuple):
    reader: int
    wanted: int
    hits: dict[str, Floats]


def _slates(model: Model, test: SlateSet, *, name: str, seed: int) -> Iterator[_Slate]:
    rows = _taken_up(test, seed)
    for retrieval, request, held in () if test.told is None else test.told.revisited(model, test.places[rows]):
        retrieval.deadline_ms = _PATIENT_MS
        sight, asked = retrieval.question(request)
        slots = _slots(sight, [test.refs[row] for row in rows[held]])
        is_wanted = np.zeros(len(asked.allowed), np.bool_)
        is_wanted[slots[slots >= 0]] = True
        is_wanted &= asked.allowed
        if is_wanted.any():
            chosen = gathered(retrieval.retrieve(request).candidates)
            lists = {**_lists(sight, asked), name: _slots(sight, chosen.refs[: chosen.competing])}
            found = {row: _hits(slots, is_wanted) for row, slots in lists.items()}
            chance = _by_chance(is_wanted, asked.allowed)
            user, slate = int(test.users[rows[held[0]]]), int(test.slates[rows[held[0]]])
            yield _Slate(user if user >= 0 else -1 - slate, int(is_wanted.sum()), {RANDOM: chance, **found})


def _taken_up(test: SlateSet, seed: int) -> Ints:
    """Returns the rows of what was taken up on the slates that are drawn."""
    taken = [place for place, head in enumerate(test.heads) if head.removeprefix("p_") in WEIGHTS]
    rows = np.flatnonzero((test.labels[:, taken] == 1).any(axis=1))
    drawn = np.random.default_rng(seed).permutation(np.unique(test.slates[rows]))[:SLATES]
    return rows[np.isin(test.slates[rows], drawn)]


def _lists(sight: Sight, asked: Asked) -> dict[str, Ints]:
    """Returns the lists of those that go alone, best first."""
    anybody = msgspec.structs.replace(asked, topics=np.zeros_like(asked.topics), language="")
    learnt = {row: source(sight, asked, k=MOST).slots for row, source in _LEARNT.items() if sight.index is not None}
    return {POPULAR: popular(sight, anybody, k=MOST).slots, **learnt}


def _slots(sight: Sight, refs: Sequence[str]) -> Ints:
    return np.array([sight.catalogue.slot(ref) for ref in refs], np.int64)


def _hits(slots: Ints, is_wanted: Mask) -> Floats:
    hits = np.zeros(MOST)
    hits[: len(slots)] = is_wanted[slots]
    return hits


def _by_chance(is_wanted: Mask, allowed: Mask) -> Floats:
    """Returns how likely a wanted post stands at each place of a random order."""
    count = int(allowed.sum())
    return np.where(np.arange(MOST) < count, is_wanted.sum() / count, 0.0)
