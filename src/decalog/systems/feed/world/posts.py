"""Posts: what they are about, how good and how loud they are, and when they go; and topics that surge."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from decalog.clock import DAY, HOUR
from decalog.systems.feed.world.params import WorldParams
from decalog.systems.feed.world.people import REGIONS, Authors, Mask, noise, posts_today, unit
from decalog.testing import draws
from decalog.testing.draws import Floats, Ints, Keys

EVERYWHERE = -1
NEVER = 2**62
WORDS = (
    *("news", "sport", "music", "film", "games", "food", "travel", "science", "health", "money", "art", "books"),
    *("garden", "cars", "space", "fashion", "politics", "animals", "history", "craft", "school", "sea", "code", "home"),
)
_SURGE_DAYS = 3
_REGIONAL = 0.06
_MAIN_TOPIC, _JOINS_TREND, _WAVE, _DOWN = 0.75, 0.12, 0.6, 0.5


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
