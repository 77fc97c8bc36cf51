"""Who ranks where nobody else does: trivial rules, the true clicks, and the oracle.

A policy gets the town and who asks, and returns the rows of the posts to show, the first one first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from decalog.clock import DAY
from decalog.systems.feed.world.behaviour import TIRED, Ask, chances, expected_minor, facts, price_minor, visible
from decalog.systems.feed.world.town import Town
from decalog.testing import draws
from decalog.testing.draws import Floats, Ints

Policy = Callable[[Town, Ask], Ints]

_SHORTLIST = 60
QUALITY = (0.3, 2.0, 3.0, 4.0, 4.0, -20.0, -60.0)
"""Weights of the heads of a plain multi-objective ranking."""


def best(rows: Ints, scores: Floats, *, size: int) -> Ints:
    """Returns the rows of the highest scores, best first; among equals, the later one."""
    return np.asarray(rows[np.argsort(scores, kind="stable")[::-1][:size]], dtype=np.int64)


def _chance(town: Town, ask: Ask, *, rows: Ints) -> Floats:
    return draws.uniform(ask.key ^ town.posts.key[rows], "chance")


def another(town: Town, ask: Ask) -> Ints:
    """Another system's slate, as history shows it: new posts of those followed, popular ones, and much chance."""
    rows, posts = visible(town, ask), town.posts
    age_days = (ask.at_us - posts.created_us[rows]) / DAY
    followed = town.readers.follows[ask.reader, posts.author[rows]]
    chance = _chance(town, ask, rows=rows)
    scores = followed / (1.0 + age_days) + 0.25 * np.log1p(posts.clicks[rows]) + chance / (0.15 + age_days)
    foreign = ~town.readers.reads[ask.reader, posts.language[rows]]
    return best(rows, scores - 2.0 * town.seen[ask.reader, rows] - 3.0 * foreign, size=ask.size)


def anything(town: Town, ask: Ask) -> Ints:
    """Any posts."""
    rows = visible(town, ask)
    return best(rows, _chance(town, ask, rows=rows), size=ask.size)


def newest(town: Town, ask: Ask) -> Ints:
    """The newest posts."""
    return visible(town, ask)[::-1][: ask.size]


def popular(town: Town, ask: Ask) -> Ints:
    """The posts opened most."""
    rows = visible(town, ask)
    return best(rows, town.posts.clicks[rows], size=ask.size)


def weighted(weights: Sequence[float]) -> Policy:
    """Returns the policy that ranks each post alone, by a weighted sum of its true heads (`params.HEADS`)."""

    def ranked(town: Town, ask: Ask) -> Ints:
        rows = visible(town, ask)
        known = facts(town, ask.reader, rows=rows, at_us=ask.at_us)
        return best(rows, chances(town, ask.reader, known=known).heads @ np.asarray(weights), size=ask.size)

    return ranked


clicks = weighted((1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0))
"""By the true probability of a click: what engagement alone would optimise."""
quality = weighted(QUALITY)


def oracle(town: Town, ask: Ask) -> Ints:
    """The slate of the highest true value in the long run, chosen post by post, each topic tiring as it is taken."""
    rows = visible(town, ask)
    known = facts(town, ask.reader, rows=rows, at_us=ask.at_us)
    short = best(np.arange(len(rows)), _worth(town, ask.reader, known=known), size=_SHORTLIST)
    rows, known = rows[short], known[short]
    topic, free = town.posts.topic[rows], np.ones(len(rows), dtype=np.bool_)
    worth, chosen = _worth(town, ask.reader, known=known), []
    for _ in range(min(ask.size, len(rows))):
        place = int(np.where(free, worth, -np.inf).argmax())
        chosen.append(place)
        free[place] = False
        same = free & (topic == topic[place])
        known[same, TIRED] += 1.0
        worth[same] = _worth(town, ask.reader, known=known[same])
    return np.asarray(rows[chosen], dtype=np.int64)


def _worth(town: Town, reader: int, *, known: Floats) -> Floats:
    chance, params = chances(town, reader, known=known), town.params
    return expected_minor(params, chance) + price_minor(params) * params.memory / params.sated * chance.gain


POLICIES: dict[str, Policy] = {
    "random": anything,
    "newest": newest,
    "popularity": popular,
    "clicks": clicks,
    "quality": quality,
    "another system": another,
    "oracle": oracle,
}
