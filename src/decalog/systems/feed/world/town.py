"""Everybody and every post of the feed's world: what they are like, how they change, and who comes and goes."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np

from decalog.clock import DAY, HOUR
from decalog.systems.feed.world.params import WorldParams
from decalog.testing import draws
from decalog.testing.draws import Floats, Ints, Keys, Mask

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
EVERYWHERE = -1
NEVER = 2**62
WORDS = (
    *("news", "sport", "music", "film", "games", "food", "travel", "science", "health", "money", "art", "books"),
    *("garden", "cars", "space", "fashion", "politics", "animals", "history", "craft", "school", "sea", "code", "home"),
)
_SURGE_DAYS = 3
_REGIONAL = 0.06
_MAIN_TOPIC, _JOINS_TREND, _WAVE, _DOWN = 0.75, 0.12, 0.6, 0.5


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


class Posts(NamedTuple):
    """Posts, one row each, in order of appearance."""

    key: Keys
    author: Ints
    topic: Ints
    place: Floats  # (posts, DIM)
    quality: Floats
    clickbait: Floats
    language: Ints
    region: Ints
    mature: Mask
    harmful: Mask
    created_us: Ints
    judged_us: Ints  # when moderation gives its verdict, or NEVER
    gone_us: Ints  # when it is withdrawn or taken down, or NEVER
    clicks: Floats


class Town(msgspec.Struct):
    """Everybody and every post, as they are now."""

    params: WorldParams
    key: Keys
    topics: Floats
    surge: Floats
    readers: Readers
    authors: Authors
    posts: Posts
    seen: Mask  # (readers, posts or more)


def unit(vectors: Floats) -> Floats:
    """Returns the vectors at length 1."""
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), dtype=np.float64)


def noise(keys: Keys, name: str) -> Floats:
    """Returns standard normal vectors, shape (keys, DIM)."""
    return draws.normal(draws.child(keys[:, None], np.arange(DIM)), name)


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
        follows=draws.uniform(pair, "follow") < draws.sigmoid(drawn_to),
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


def welcome(readers: Readers, old: Authors, *, params: WorldParams, topics: Floats, key: Keys) -> Authors:
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


def word(topic: int) -> str:
    """Returns a topic's name."""
    return WORDS[topic] if topic < len(WORDS) else f"topic{topic}"


def surges(key: Keys, params: WorldParams, *, day: int, forced: bool) -> Floats:
    """Returns how strongly each topic surges on a day: 0 to 1, 2 for one where it is forced."""
    keys = draws.child(draws.named(key, "trends"), np.arange(params.topics))
    strength = np.zeros(params.topics)
    for back in range(_SURGE_DAYS):
        began = draws.uniform(draws.child(keys, day + _SURGE_DAYS - back), "began") < params.trends
        strength = np.maximum(strength, began * (1.0 - back / _SURGE_DAYS))
    if forced:
        strength[draws.below(draws.named(key, "forced trend"), "topic", bound=params.topics)[0]] = 2.0
    return strength


def written(people: Authors, params: WorldParams, *, topics: Floats, surge: Floats, start_us: int, wave: bool) -> Posts:
    """Returns the posts that authors write on the day that starts."""
    author, nth = posts_today(people, day=start_us // DAY)
    keys = draws.child(draws.child(draws.named(people.key[author], "post"), start_us // DAY), nth)
    created_us = start_us + (DAY * draws.uniform(keys, "when")).astype(np.int64)
    order = np.argsort(created_us, kind="stable")
    author, keys, created_us = author[order], keys[order], created_us[order]
    which = draws.uniform(keys, "which")
    topic = np.where(which < _MAIN_TOPIC, people.topics[author, 0], people.topics[author, 1])
    follows_trend = draws.uniform(keys, "trend") < _JOINS_TREND * surge.max()
    topic = np.where(follows_trend, surge.argmax(), topic)
    loud = wave & (draws.uniform(keys, "wave") < _WAVE)
    mature = draws.uniform(keys, "mature") < params.mature
    harmful = draws.uniform(keys, "harmful") < params.harmful
    judged_us = np.where(harmful, created_us + _hours(keys, "judged", most=6.0), NEVER)
    down_us = np.where(draws.uniform(keys, "down") < _DOWN, judged_us, NEVER)
    withdrawn = draws.uniform(keys, "withdrawn") < params.withdrawn
    withdrawn_us = np.where(withdrawn, created_us + _hours(keys, "withdrawn", most=24.0), NEVER)
    regional = draws.uniform(keys, "regional") < _REGIONAL
    return Posts(
        key=keys,
        author=author,
        topic=topic,
        place=unit(topics[topic] + 0.35 * people.style[author] + 0.15 * noise(keys, "place")),
        quality=people.quality[author] + 0.5 * draws.normal(keys, "quality"),
        clickbait=np.maximum(people.bait[author] + 0.3 * draws.normal(keys, "bait"), 0.0) + 1.5 * loud,
        language=people.language[author],
        region=np.where(regional, draws.below(keys, "region", bound=len(REGIONS)), EVERYWHERE),
        mature=mature,
        harmful=harmful,
        created_us=created_us,
        judged_us=judged_us,
        gone_us=np.minimum(down_us, withdrawn_us),
        clicks=np.zeros(len(keys)),
    )


def join(old: Posts, new: Posts) -> Posts:
    """Returns older and newer posts."""
    return Posts._make(np.concatenate(pair) for pair in zip(old, new, strict=True))


def _hours(keys: Keys, name: str, *, most: float) -> Ints:
    """Returns microseconds, uniform up to so many hours, and at least six minutes."""
    return (HOUR * (0.1 + (most - 0.1) * draws.uniform(keys, name + " hours"))).astype(np.int64)
