"""How readers behave: what they look at, what they do with it, and what it does to them.

Attractiveness makes people click; quality and a match make the click worth it, and only that satisfies. Satisfaction is
slow and hidden, and decides whether a reader comes back and asks for more. Everything here is the truth that no judged
room may read.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from decalog.clock import DAY
from decalog.systems.feed.world.params import FACTS, WorldParams
from decalog.systems.feed.world.town import EVERYWHERE, Town
from decalog.testing import draws
from decalog.testing.draws import Floats, Ints, Keys, Mask, sigmoid

LIVE_DAYS = 3
"""After so long a post is old, and no policy of the world shows it any more."""
TIRED, _QUALITY, _UNFIT = (FACTS.index(name) for name in ("tired", "quality", "unfit"))
LOOK_S, GLANCE_S = 2.5, 5.0
"""Seconds that a look at a post takes, and that one takes, on the mean, which is opened and left again."""
_STAY_S, _SPREAD = 10.0, 0.35
_LONG = np.pi * _SPREAD / np.sin(np.pi * _SPREAD)  # mean of e to a logistic draw of that spread
_HIDDEN, _REPORTED = 0.4, 1.0  # satisfaction that a hidden, a reported post cost beyond
_DRAWS = 10
_CLICK, _STAY, _LIKE, _HIDE, _REPORT = 0, 1, 2, 5, 6


class Ask(NamedTuple):
    """Who asks for a slate, when, of how many, and the key of the draws that belong to it."""

    reader: int
    at_us: int
    size: int
    key: Keys


class Chances(NamedTuple):
    """What a reader does with posts that they look at: one row each.

    Attributes:
        heads: probabilities, columns as `params.HEADS`.
        worth: satisfaction that a click adds.
        gain: expected satisfaction that the look adds.
        stay_s: median seconds of a stay beyond the first ten.
        unfit: which should not be shown to them.
    """

    heads: Floats
    worth: Floats
    gain: Floats
    stay_s: Floats
    unfit: Mask


class Reaction(NamedTuple):
    """What a reader did with a slate; rows are the positions that they looked at.

    Attributes:
        acts: what they did, columns as `params.HEADS`.
        dwell_s: seconds on each post.
        further: two draws a position, for what else may follow.
        wants_more: whether they ask for another slate.
        minor: what it earned, minor units.
        expected: what it was expected to earn now, and in the long run, minor units.
        unfit: how many of the posts should not have been shown.
    """

    acts: Mask
    dwell_s: Floats
    further: Floats
    wants_more: bool
    minor: float
    expected: tuple[float, float]
    unfit: int


def examination(params: WorldParams, positions: int) -> Floats:
    """Returns the probability that each position is looked at, the first one's is 1."""
    return np.asarray(params.scroll ** np.arange(positions), dtype=np.float64)


def is_fit(town: Town, reader: int, *, rows: Ints, at_us: int) -> Mask:
    """Returns whether each post may be shown: there, not gone, and fit for the reader's age and region."""
    posts, people = town.posts, town.readers
    region = posts.region[rows]
    fit = (posts.gone_us[rows] > at_us) & ((region == EVERYWHERE) | (region == people.region[reader]))
    return np.asarray(fit if people.adult[reader] else fit & ~posts.mature[rows], dtype=np.bool_)


def visible(town: Town, ask: Ask) -> Ints:
    """Returns the rows of the posts that may compete for a slate, oldest first."""
    posts = town.posts
    first, last = np.searchsorted(posts.created_us, (ask.at_us - LIVE_DAYS * DAY, ask.at_us))
    rows = np.arange(first, last)
    blocked = town.readers.blocked[ask.reader, posts.author[rows]]
    return np.asarray(rows[is_fit(town, ask.reader, rows=rows, at_us=ask.at_us) & ~blocked], dtype=np.int64)


def facts(town: Town, reader: int, *, rows: Ints, at_us: int) -> Floats:
    """Returns what the reader's actions depend on, one row a post, columns as `params.FACTS`."""
    posts, people = town.posts, town.readers
    author, topic = posts.author[rows], posts.topic[rows]
    columns = (
        1.0,
        posts.place[rows] @ people.taste[reader],
        posts.quality[rows],
        posts.clickbait[rows],
        people.follows[reader, author],
        town.surge[topic],
        (at_us - posts.created_us[rows]) / DAY,
        people.tired[reader, topic],
        ~people.reads[reader, posts.language[rows]],
        town.seen[reader, rows],
        people.blocked[reader, author],
        posts.harmful[rows],
        ~is_fit(town, reader, rows=rows, at_us=at_us),
    )
    known = np.empty((len(FACTS), len(rows)))
    for place, column in enumerate(columns):
        known[place] = column
    return known.T


@functools.cache
def _matrix(weights: tuple[tuple[float, ...], ...]) -> Floats:
    return np.array(weights, dtype=np.float64).T


def chances(town: Town, reader: int, *, known: Floats) -> Chances:
    """Returns what a reader will do with posts of which all is known (`facts`)."""
    params = town.params
    scores = known @ _matrix(params.weights)
    scores[:, _LIKE:_HIDE] += town.readers.warmth[reader]
    heads = sigmoid(scores[:, :-1])
    heads[:, _STAY:_HIDE] *= heads[:, :1]
    click, worth = heads[:, _CLICK], scores[:, -1]
    gain = click * worth - params.bored * (1.0 - click) - _HIDDEN * heads[:, _HIDE] - _REPORTED * heads[:, _REPORT]
    stay_s = params.dwell_s * np.exp(0.25 * known[:, _QUALITY])
    return Chances(heads, worth, gain, stay_s, known[:, _UNFIT] > 0)


def expected_minor(params: WorldParams, chance: Chances) -> Floats:
    """Returns what looks at posts are expected to earn now, minor units, costs taken off."""
    heads = chance.heads
    stays = heads[:, _STAY] * (_STAY_S + chance.stay_s * _LONG)
    seconds = stays + (heads[:, _CLICK] - heads[:, _STAY]) * GLANCE_S
    return _earned(params, heads.T, seconds)


def _earned(params: WorldParams, acts: Floats, seconds: Floats) -> Floats:
    """Returns what looks at posts earn, minor units: what is done with them (rows as `params.HEADS`), and how long."""
    earned = params.impression_minor + params.click_minor * acts[_CLICK] + params.minute_minor * seconds / 60.0
    return np.asarray(earned - params.hide_minor * acts[_HIDE] - params.report_minor * acts[_REPORT], dtype=np.float64)


def price_minor(params: WorldParams) -> float:
    """Returns what one unit of satisfaction is worth, minor units: the days it brings over the horizon, fading."""
    p = 1.0 / (1.0 + np.exp(-params.present))
    keep = (1.0 - params.memory) ** (1.4 * p * params.visits)
    days = (1.0 - keep**params.horizon_days) / (1.0 - keep)
    return float(params.day_minor * params.loyalty * p * (1.0 - p) * days)


def p_return(town: Town, readers: Ints | slice | int = slice(None)) -> Floats:
    """Returns the probability that readers, all if none are named, come on the next day."""
    people = town.readers
    return sigmoid(people.present[readers] + town.params.loyalty * people.satisfaction[readers])


def of_slate(town: Town, reader: int, *, rows: Ints, at_us: int) -> Chances:
    """Returns the chances of the posts of a slate, in order: the ones above tire of those below."""
    known, topic = facts(town, reader, rows=rows, at_us=at_us), town.posts.topic[rows]
    known[:, TIRED] += np.tril(topic[:, None] == topic, -1).sum(axis=1)
    return chances(town, reader, known=known)


def slate_minor(town: Town, reader: int, *, chance: Chances) -> tuple[float, float]:
    """Returns what a slate is expected to earn now, and in the long run with what it does to satisfaction."""
    params, looked = town.params, examination(town.params, len(chance.gain))
    now = float(looked @ expected_minor(params, chance))
    step = np.tanh(looked @ chance.gain / params.sated) - town.readers.satisfaction[reader]
    return now, now + price_minor(params) * params.memory * float(step)


def react(town: Town, ask: Ask, *, rows: Ints) -> Reaction:
    """Returns what the reader does with a slate, and lets it change them; the draws belong to the request."""
    params, people, reader = town.params, town.readers, ask.reader
    chance, shown = of_slate(town, reader, rows=rows, at_us=ask.at_us), len(rows)
    expected = slate_minor(town, reader, chance=chance)
    keys = draws.child(ask.key, np.arange((shown + 1) * _DRAWS))
    draw = draws.uniform(keys, "reaction").reshape(shown + 1, _DRAWS)
    last = draw[-1]
    depth = min(shown, 1 + int(np.log(last[0]) / np.log(params.scroll)))
    draw, heads = draw[:depth], chance.heads[:depth].copy()
    clicked = draw[:, 0] < heads[:, 0]
    heads[:, _STAY:_HIDE] /= heads[:, :1]
    acts = draw[:, :7] < heads
    acts[:, _STAY:_HIDE] &= clicked[:, None]
    long = chance.stay_s[:depth] * (draw[:, 7] / (1.0 - draw[:, 7])) ** _SPREAD
    dwell_s = np.where(acts[:, _STAY], _STAY_S + long, np.where(clicked, 1.0 + 8.0 * draw[:, 7], 0.0))
    good = np.where(clicked, chance.worth[:depth], -params.bored).sum()
    good -= _HIDDEN * acts[:, _HIDE].sum() + _REPORTED * acts[:, _REPORT].sum()
    before = people.satisfaction[reader]
    people.satisfaction[reader] = before + params.memory * (np.tanh(good / params.sated) - before)
    _look(town, reader, rows=rows[:depth], acts=acts)
    wants_more = depth == ask.size and last[1] < sigmoid(params.more + 1.5 * before)
    minor = float(_earned(params, acts.T.astype(np.float64), dwell_s).sum())
    return Reaction(acts, dwell_s, draw[:, 8:], bool(wants_more), minor, expected, int(chance.unfit.sum()))


def _look(town: Town, reader: int, *, rows: Ints, acts: Mask) -> None:
    """Notes who looked at what."""
    posts, authors = town.posts, town.authors
    town.seen[reader, rows] = True
    posts.clicks[rows] += acts[:, _CLICK]
    np.add.at(town.readers.tired[reader], posts.topic[rows], 1.0)
    np.add.at(authors.noticed, posts.author[rows], 1.0 + 10.0 * acts[:, _LIKE])
