"""What the ranker sees of a post for a reader: what the reader does, how the post fares, and how both meet.

Each is asked for one candidate of a request: the post's entities and facts lie over the reader's, so `post` is the
candidate's, and `user+author` is what this reader did with its author. An action counts on a slate of ours
(`outcome.click`) and elsewhere (`click`), and not where its value is 0: that takes it back. Rates are plain quotients,
and the counts stand beside them: so a tree tells one click of one from a hundred of a hundred.
"""

from __future__ import annotations

from typing import Any

from decalog.features.definition import (
    SHOWN,
    Aggregate,
    Attribute,
    Calendar,
    Category,
    Condition,
    Feature,
    FeatureSet,
    Ratio,
    Same,
)
from decalog.systems.feed.schema import DEVICES, DWELL, SURFACES

READ_S = 10
"""A post is read where the reader stays so long, s."""

_OWNER = "feed"
_RETAIN = 5_000
"""A post that was shown so often in a week is judged by its last hours: the longer windows say that it is crowded. Of
500 candidates many may be such, and each of their rows is read (`bench/latency/feed_features.py`)."""
_NO_COSINE = -2.0
_NO_LIKING = -9.0
_COUNTED = {"click": "clicks", "like": "likes", "reply": "replies", "share": "shares", "hide": "hides"} | {
    "report": "reports"
}
_ROWS: dict[str, tuple[tuple[str, ...], tuple[Condition, ...], str]] = {
    "requests": (("feed_request",), (), "requests for a slate"),
    "slates": (("decision.show",), (), "slates shown"),
    "shown": ((SHOWN,), (), "times shown"),
    "explored": ((SHOWN,), (Condition("explored", "==", 1),), "slots drawn to explore"),
    "reads": (
        (f"outcome.{DWELL}", DWELL),
        (Condition("value", ">=", READ_S),),
        f"posts stayed on for {READ_S} s and longer",
    ),
    **{
        many: ((f"outcome.{one}", one), (Condition("value", "!=", 0),), f"{many} on slates and elsewhere")
        for one, many in _COUNTED.items()
    },
}
"""What is counted → the rows, their conditions, and what they are."""


def _over(entity: str, counted: str, window: str, **given: Any) -> Aggregate:
    over, where, what = _ROWS[counted]
    name = entity.replace("+", "_")
    whose = " and the ".join(entity.split("+"))
    plain: dict[str, Any] = {
        "name": f"{name}_{counted}_{window}",
        "meaning": f"{what}, of the {whose}, in {window}",
        "unit": counted,
        "aggregate": "count",
        "owner": _OWNER,
    }
    return Aggregate(entity=entity, over=over, where=where, window=window, **(plain | given))


def _counts(entity: str, counted: str, *windows: str) -> tuple[Aggregate, ...]:
    return tuple(_over(entity, counted, window) for window in windows)


def _in(entity: str, window: str, *counted: str) -> tuple[Aggregate, ...]:
    return tuple(_over(entity, each, window) for each in counted)


def _since(entity: str, counted: str, window: str) -> Aggregate:
    name = entity.replace("+", "_")
    return _over(
        entity,
        counted,
        window,
        name=f"{name}_since_{counted}_s",
        meaning=f"time since the last of these: {_ROWS[counted][2]}; −1 where there is none in {window}",
        unit="s",
        aggregate="time_since",
    )


def _rate(entity: str, counted: str, window: str, of: str = "shown") -> Ratio:
    return _quotient(f"{entity}_{counted}_of_{of}_{window}", f"{entity}_{counted}_{window}", f"{entity}_{of}_{window}")


def _quotient(name: str, numerator: str, denominator: str) -> Ratio:
    return Ratio(
        name=name,
        meaning=f"{numerator} over {denominator}, −1 where there is nothing to compare with",
        unit="1",
        owner=_OWNER,
        numerator=numerator,
        denominator=denominator,
    )


def _together(pair: str) -> tuple[Feature, ...]:
    """Returns what a reader did with an author or a topic."""
    return (
        *_counts(pair, "shown", "7d", "30d"),
        *_counts(pair, "clicks", "7d", "30d"),
        *_in(pair, "30d", "reads", "likes", "hides"),
        _since(pair, "clicks", "30d"),
        *(_rate(pair.replace("+", "_"), counted, "30d") for counted in ("clicks", "reads")),
    )


def _fact(name: str, meaning: str, unit: str = "1", *, missing: float = -1.0) -> Attribute:
    return Attribute(name=name, meaning=meaning, unit=unit, owner=_OWNER, attribute=name, missing=missing)


def _choice(name: str, meaning: str, vocabulary: tuple[str, ...]) -> Category:
    return Category(name=name, meaning=meaning, unit="index", owner=_OWNER, attribute=name, vocabulary=vocabulary)


_USER: tuple[Feature, ...] = (
    *_counts("user", "requests", "1h", "7d"),
    *_counts("user", "clicks", "1h", "1d", "7d", "30d"),
    *_in("user", "30d", "likes", "hides"),
    *_in("user", "7d", "shown", "reads"),
    _since("user", "clicks", "30d"),
    _rate("user", "clicks", "7d"),
)
_POST: tuple[Feature, ...] = (
    *_counts("post", "shown", "1h", "1d", "7d"),
    *_counts("post", "clicks", "10m", "1h", "1d", "7d"),
    *_counts("post", "likes", "1d", "7d"),
    *_in("post", "7d", "replies", "shares", "hides", "reports", "reads"),
    _rate("post", "clicks", "1h"),
    _rate("post", "clicks", "1d"),
    _rate("post", "clicks", "7d"),
    *(_rate("post", counted, "7d") for counted in ("reads", "likes", "hides")),
    _rate("post", "reads", "7d", of="clicks"),
    _quotient("post_clicks_pace", "post_clicks_1h", "post_clicks_1d"),
)
_AUTHOR: tuple[Feature, ...] = (
    *_in("author", "1d", "shown", "clicks"),
    *_in("author", "7d", "shown", "clicks"),
    *_in("author", "30d", "shown", "clicks", "reads", "likes", "hides"),
    _over(
        "author",
        "clicks",
        "7d",
        name="author_readers_7d",
        meaning="different readers who opened a post of the author in 7 d",
        unit="readers",
        aggregate="distinct",
        column="user",
    ),
    _rate("author", "clicks", "1d"),
    _rate("author", "clicks", "7d"),
    *(_rate("author", counted, "30d") for counted in ("likes", "hides")),
    *(_rate("author", counted, "30d", of="clicks") for counted in ("reads", "likes")),
)
_TOPIC: tuple[Feature, ...] = (
    *_counts("topic", "clicks", "1h", "1d"),
    *_in("topic", "1d", "shown"),
    _rate("topic", "clicks", "1d"),
    _quotient("topic_clicks_pace", "topic_clicks_1h", "topic_clicks_1d"),
)
_TOGETHER: tuple[Feature, ...] = (
    *_together("user+author"),
    *_together("user+topic"),
    *_counts("user+topic", "shown", "1d"),
    _over("user+post", "shown", "7d", name="shown_to_user_7d"),
    _since("user+post", "shown", "7d"),
)
_CANDIDATE: tuple[Feature, ...] = (
    _fact(
        "two_tower", "cosine of the reader's and the post's directions, and the post's popularity", missing=_NO_COSINE
    ),
    _fact("neighbours", "score of collaborative filtering"),
    _fact("similar", "cosine with what was read last", missing=_NO_COSINE),
    *(_fact(f"{name}_rank", f"place in what `{name}` found", "place") for name in ("popular", "fresh", "following")),
    _fact("in_network", "the reader follows the author"),
    _fact("interest", "the post is on a topic that the reader follows or chose; −1 where they did neither"),
    _fact("leaning", "share of the post's topic in what the authors wrote last whom the reader follows"),
    _fact(
        "liking",
        "how much more than usual the reader is believed to take up of the post's topic, a logarithm: by what they "
        "took up of it and of its kin, chose and follow",
        missing=_NO_LIKING,
    ),
    _fact("readable", "the post is in a language that the reader reads"),
    _fact("looked_at", "the reader is taken to have looked at it before"),
    _fact("age_s", "time since the post appeared", "s"),
    _fact("author_followers", "readers who follow the author", "readers"),
    _fact("author_age_s", "time since the author's first post", "s"),
    _fact("author_posts", "posts of the author", "posts"),
    _choice("integrity", "moderation's verdict on the post", ("", "limited", "sensitive")),
    Same(
        name="same_language",
        meaning="reader and post are of one language",
        unit="1",
        owner=_OWNER,
        left="language",
        right="post_language",
    ),
)
_REQUEST: tuple[Feature, ...] = (
    _choice("surface", "where the slate is shown", SURFACES),
    _choice("device", "what it is read on", DEVICES),
    Calendar(name="hour_utc", meaning="hour of the day", unit="h", owner=_OWNER, part="hour_of_day"),
    Calendar(name="weekday_utc", meaning="day of the week, 0 is Monday", unit="d", owner=_OWNER, part="day_of_week"),
)
_POLICY: tuple[Feature, ...] = (
    _over("user+author", "shown", "1d", name="author_shown_to_user_1d", use="policy"),
    _over("user+topic", "shown", "1d", name="topic_shown_to_user_1d", use="policy"),
    _over("user", "slates", "1d", use="policy"),
    _over("user", "explored", "1d", use="policy"),
)

FEATURES = FeatureSet(
    system="feed",
    lateness="1d",
    retain=_RETAIN,
    features=(*_USER, *_POST, *_AUTHOR, *_TOPIC, *_TOGETHER, *_CANDIDATE, *_REQUEST, *_POLICY),
)
