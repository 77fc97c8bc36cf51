"""Small slates for the tests: arrays for the loop, candidates for the policy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from decalog.candidates import Candidate
from decalog.events import Event
from decalog.policy import Case
from decalog.systems.feed.slate import kernel
from decalog.systems.feed.slate.competitors import HEADS

Arrays = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64]]
LIKES = (0.5, 0.15, 0.25, 0.1)


def arrays(seed: int, posts: int, *, slots: int, rerank: int = kernel.NONE, theta: float = 0.7) -> Arrays:
    """Returns facts, worth and knobs of random posts, without caps, decays and wishes."""
    rng = np.random.default_rng(seed)
    facts = np.zeros((kernel.FACTS, posts), np.int64)
    facts[kernel.AUTHOR] = rng.integers(0, max(posts // 3, 1), posts)
    facts[kernel.TOPIC] = rng.integers(0, max(posts // 4, 1), posts)
    facts[kernel.OUTSIDE] = rng.integers(0, 2, posts)
    facts[kernel.SKETCH] = rng.integers(-(2**63), 2**63 - 1, posts)
    facts[kernel.SKETCHED] = rng.integers(0, 4, posts) > 0
    facts[kernel.FRESH] = rng.integers(0, 2, posts)
    worth = np.stack([rng.exponential(1.0, posts), rng.exponential(0.2, posts)])
    knobs = np.zeros(kernel.KNOBS)
    knobs[kernel.RERANK : kernel.LIKE_OWN + 1] = (rerank, theta, *LIKES)
    knobs[[kernel.AUTHOR_FLOOR, kernel.TOPIC_FLOOR]] = 1.0
    knobs[[kernel.AUTHOR_CAP, kernel.TOPIC_CAP, kernel.OUT_MOST]] = 1_000
    knobs[[kernel.POOL_BEST, kernel.POOL_FRESH]] = 3, 2
    knobs[kernel.SLOTS] = slots
    return facts, worth, knobs


def post(
    ref: str, heads: dict[str, float] | None = None, *, source: str = "following", **attributes: object
) -> Candidate:
    """Returns a candidate; heads that are not given are 0, attributes those of a followed author's post."""
    facts = {
        "author": f"author of {ref}",
        "topic": f"topic of {ref}",
        "in_network": True,
        "integrity": "",
        "labels": "",
    }
    predictions = dict.fromkeys(HEADS, 0.0) | ({"p_dwell": 0.1} if heads is None else heads)
    return Candidate(ref, source, predictions, attributes=facts | attributes)  # type: ignore[arg-type]  # as wire gives


def random_posts(seed: int, count: int) -> tuple[Candidate, ...]:
    """Returns posts as retrieval and ranker give them."""
    rng = np.random.default_rng(seed)
    return tuple(
        post(
            f"post-{number}",
            dict(zip(HEADS, (rng.random(7) * (0.3, 0.2, 0.05, 0.02, 0.02, 0.005, 0.0005)).tolist(), strict=True)),
            source=("two_tower", "following+two_tower", "fresh", "popular+explore")[int(rng.integers(4))],
            author=f"author-{rng.integers(max(count // 3, 1))}",
            topic=f"topic-{rng.integers(8)}",
            in_network=bool(rng.integers(2)),
            integrity=("", "", "", "", "limited", "sensitive")[int(rng.integers(6))],
            age_s=int(rng.integers(10**6)),
            author_posts=int(rng.integers(40)),
            author_age_s=int(rng.integers(10**7)),
            sketch=int(rng.integers(-(2**63), 2**63 - 1)),
            **{leg: int(rng.integers(1, 100)) for leg in ("popular_rank", "fresh_rank") if rng.random() < 0.5},
        )
        for number in range(count)
    )


def undrawn(name: str) -> float:
    """Stands for draws, none of which explores."""
    return 0.999_999


def case(
    candidates: tuple[Candidate, ...],
    *,
    draw: Callable[[str], float] = undrawn,
    columns: dict[str, npt.NDArray[np.float64]] | None = None,
    **attributes: int | str | bool,
) -> Case:
    """Returns a case of a request with some attributes."""
    request = Event("f1", "feed_request", 0, 7, {"user": 7}, dict(attributes))
    return Case(request, candidates, {}, draw, columns or {})
