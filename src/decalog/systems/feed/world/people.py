"""Readers and authors: their tastes, languages and ties, how both change, and who leaves."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.systems.feed.world.params import WorldParams
from decalog.testing import draws
from decalog.testing.draws import Floats, Ints, Keys

Mask = npt.NDArray[np.bool_]

DIM = 8
"""Of the space in which tastes, topics and posts lie; everybody has unit length there."""
LANGUAGES = ("en", "de", "es")
REGIONS = ("US", "DE", "AT", "ES", "MX")
DEVICES = ("phone", "phone", "phone", "tablet", "desktop")
_HOME = ((0, 0), (1, 1), (1, 2), (2, 3), (2, 4))  # language and region of people
_HOME_SHARE = np.cumsum([0.5, 0.2, 0.08, 0.12, 0.1])
_FORGET = 0.6  # share of being tired of a topic that a night leaves
_SECOND_LANGUAGE, _MINORS = 0.4, 0.12
_JOINING_DAYS = 60
_MORALE = 0.12  # share of an author's morale that a day renews
_LEAST_MORALE, _MOST_MORALE = 0.2, 1.5


class Readers(msgspec.Struct, kw_only=True):
    """People who read, one row each; what changes with time is taste, satisfaction, being tired, and ties."""

    key: Keys
    language: Ints
    region: Ints
    reads: Mask  # (readers, languages)
    adult: Mask
    warmth: Floats  # log-odds added to liking, replying and sharing
    visits: Floats  # mean sessions beyond the first on a day
    present: Floats  # log-odds of coming, at no satisfaction
    joined: Ints  # day
    taste: Floats  # (readers, DIM)
    satisfaction: Floats  # in (-1, 1)
    tired: Floats  # (readers, topics)
    follows: Mask  # (readers, authors)
    blocked: Mask


class Authors(NamedTuple):
    """People who write, one row each; morale is 1 where they are seen as usual."""

    key: Keys
    language: Ints
    topics: Ints  # (authors, 2): the main one first
    style: Floats  # (authors, DIM)
    quality: Floats
    bait: Floats
    creator: Mask
    rate: Floats  # posts a day at a morale of 1
    morale: Floats
    active: Mask
    noticed: Floats  # looks today, and ten for each like


def unit(vectors: Floats) -> Floats:
    """Returns the vectors at length 1."""
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), dtype=np.float64)


def noise(keys: Keys, name: str) -> Floats:
    """Returns standard normal vectors, shape (keys, DIM)."""
    return draws.normal(draws.child(keys[:, None], np.arange(DIM)), name)


def sigmoid(x: Floats) -> Floats:
    """Returns 1 / (1 + e^-x)."""
    return np.asarray(1.0 / (1.0 + np.exp(-x)), dtype=np.float64)


def some_topic(keys: Keys, name: str, *, topics: int) -> Ints:
    """Returns topics of which the first are the most popular."""
    return np.asarray(topics * draws.uniform(keys, name) ** 1.6, dtype=np.int64)


def readers(key: Keys, params: WorldParams, *, topics: Floats, authors: Authors) -> Readers:
    """Returns the readers of a world with their first tastes and ties."""
    keys = draws.child(key, np.arange(params.readers))
    home = np.array(_HOME)[np.searchsorted(_HOME_SHARE, draws.uniform(keys, "home"))]
    reads = np.arange(len(LANGUAGES)) == home[:, :1]
    reads[:, 0] |= draws.uniform(keys, "second language") < _SECOND_LANGUAGE
    liked = [topics[some_topic(keys, f"topic {i}", topics=len(topics))] / (1 + i) for i in range(3)]
    taste = unit(sum(liked, 0.25 * noise(keys, "taste")))
    late = draws.uniform(keys, "late") < params.joining
    pair = draws.child(draws.named(keys, "follows")[:, None], np.arange(len(authors.key)))
    drawn_to = 4.0 * (taste @ authors.style.T) + reads[:, authors.language] - 4.8 + 0.8 * authors.creator
    visits = np.exp(0.5 * draws.normal(keys, "visits"))
    return Readers(
        key=keys,
        language=home[:, 0],
        region=home[:, 1],
        reads=reads,
        adult=draws.uniform(keys, "adult") >= _MINORS,
        warmth=0.5 * draws.normal(keys, "warmth"),
        visits=np.minimum(visits * (params.visits - 1) / visits.mean(), 4.0),
        present=params.present + 0.5 * draws.normal(keys, "present"),
        joined=np.where(late, 1 + draws.below(keys, "joined", bound=_JOINING_DAYS), 0),
        taste=taste,
        satisfaction=np.zeros(params.readers),
        tired=np.zeros((params.readers, len(topics))),
        follows=draws.uniform(pair, "follow") < sigmoid(drawn_to),
        blocked=np.zeros((params.readers, len(authors.key)), dtype=np.bool_),
    )


def authors(keys: Keys, params: WorldParams, *, topics: Floats) -> Authors:
    """Returns authors as they begin."""
    count = len(keys)
    about = np.stack([some_topic(keys, f"topic {i}", topics=len(topics)) for i in range(2)], axis=1)
    creator = draws.uniform(keys, "creator") < params.creators
    baits = ~creator & (draws.uniform(keys, "bait") < params.bait / (1 - params.creators))
    busy = np.exp(0.5 * draws.normal(keys, "rate")) * np.where(creator, 2.0, 1.0)
    mean_busy = np.exp(0.125) * (1 + params.creators)
    return Authors(
        key=keys,
        language=np.array(_HOME)[np.searchsorted(_HOME_SHARE, draws.uniform(keys, "home")), 0],
        topics=about,
        style=unit(topics[about[:, 0]] + 0.3 * topics[about[:, 1]] + 0.25 * noise(keys, "style")),
        quality=0.7 * draws.normal(keys, "quality") + np.where(creator, 0.8, -0.2) - 0.3 * baits,
        bait=np.where(baits, 1.4 + 0.5 * draws.uniform(keys, "how much"), 0.4 * draws.uniform(keys, "how much")),
        creator=creator,
        rate=np.minimum(busy * params.posts_day / params.authors / mean_busy, 4.0),
        morale=np.ones(count),
        active=np.ones(count, dtype=np.bool_),
        noticed=np.zeros(count),
    )


def welcome(readers: Readers, old: Authors, params: WorldParams, *, topics: Floats, key: Keys) -> Authors:
    """Returns the authors with those who arrive on a day, whom nobody follows yet."""
    count = draws.poisson(key, "arrivals", rate=np.array([params.arrivals_day]))[0]
    new = authors(draws.child(key, np.arange(count)), params, topics=topics)
    room = ((0, 0), (0, int(count)))
    readers.follows, readers.blocked = np.pad(readers.follows, room), np.pad(readers.blocked, room)
    return Authors._make(np.concatenate(pair) for pair in zip(old, new, strict=True))


def live_on(people: Readers, params: WorldParams, *, topics: Floats, day: int, faster: bool) -> None:
    """Lets a night pass: readers rest from topics, and their tastes move."""
    keys = draws.child(draws.named(people.key, "nights"), day)
    step, turn = (4.0, 8.0) if faster else (1.0, 1.0)
    turned = draws.uniform(keys, "turn") < params.new_taste * turn
    towards = topics[some_topic(keys, "turn to", topics=len(topics))]
    moved = people.taste + params.drift * step * noise(keys, "step") + 0.8 * turned[:, None] * towards
    people.taste = unit(moved)
    people.tired *= _FORGET


def judge_day(people: Authors, params: WorldParams, *, day: int, leave: float) -> Authors:
    """Returns the authors after a day: morale follows how often they were looked at and liked, and some leave.

    `leave` is a factor on how often creators do. As usual is what each would get if all readers came and looked alike.
    """
    usual = 0.6 * params.readers * params.visits * params.slate / params.authors
    reward = np.log2(1.0 + people.noticed / usual)
    morale = people.morale + _MORALE * (np.minimum(reward, 2.0) - people.morale)
    care = np.where(people.creator, 3.5, 1.5)
    hazard = params.leaving * np.exp(care * (1.0 - morale)) * np.where(people.creator, leave, 1.0)
    left = draws.uniform(draws.child(draws.named(people.key, "leaves"), day), "left") < hazard
    return people._replace(morale=morale, active=people.active & ~left, noticed=np.zeros(len(left)))


def posts_today(people: Authors, *, day: int) -> tuple[Ints, Ints]:
    """Returns for each post of a day its author's row and its place among the author's."""
    rate = np.where(people.active, people.rate * np.clip(people.morale, _LEAST_MORALE, _MOST_MORALE), 0.0)
    return draws.spread(draws.poisson(draws.child(draws.named(people.key, "posts"), day), "count", rate=rate))
