"""Feed's models: baselines that are honest about how little they know, a ranker, and the whole funnel.

The funnel's towers and neighbours learn from the earlier part of what readers did. Its ranker learns from all of it,
with their scores in the later part alone: in the earlier one they would know the answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from decalog.models import collaborative, heads, two_tower
from decalog.models.base import ModelSpec, SlateSet
from decalog.models.funnel import FORMAT, Funnel
from decalog.models.heads import Heads, HeadsParams, HeadsTrainingSet, SimpleHeads
from decalog.models.interactions import interactions
from decalog.systems.feed.features import FEATURES
from decalog.systems.feed.people import STAYED_S, WEIGHTS
from decalog.systems.feed.schema import DWELL, SCHEMA

HEAD = "+".join(signal.head for signal in SCHEMA.signals)

RANKER = HeadsParams(
    trees=200, learning_rate=0.05, leaves=16, rows_a_leaf=200, l2=50.0, feature_share=0.3, held_out=0.1
)
"""The tree budget that serving 500 posts in 8 ms of CPU allows (`bench/latency/feed_ranker.py`)."""
TOWERS = two_tower.Settings(epochs=20, batch=512, negatives=1_024)
EARLIER = 0.5
"""Share of the slates, the earlier, that towers and neighbours learn from."""
SCORES = {f.name: f.missing_value for f in FEATURES.features if f.name in ("two_tower", "neighbours", "similar")}
"""Features that hold what towers and neighbours say, and what stands for none."""
_RATE = "post_clicks_of_shown_7d"


def fit_prior(data: SlateSet, seed: int) -> SimpleHeads:
    """Returns the base rate of each head."""
    return heads.fit_logistic_heads(_learnt(data), seed, params=HeadsParams(least=data.n + 1))


def fit_popularity(data: SlateSet, seed: int) -> SimpleHeads:
    """Returns what a post's own click rate says."""
    return heads.fit_logistic_heads(_learnt(data), seed, columns=(_RATE,))


def fit_logistic(data: SlateSet, seed: int) -> SimpleHeads:
    """Returns a logistic regression a head over all features."""
    return heads.fit_logistic_heads(_learnt(data), seed)


def fit_ranker(data: SlateSet, seed: int) -> Heads:
    """Returns boosted trees over the features as they were logged: no towers, no neighbours."""
    return heads.fit_heads(_learnt(data), seed, params=RANKER)


def fit_funnel(data: SlateSet, seed: int) -> Funnel:
    """Returns towers and neighbours of the earlier part, and a ranker that has their scores in the later part."""
    date = int(np.quantile(data.times, EARLIER))
    towers, neighbours = _taste(data, date, seed)
    blank = Funnel(towers, neighbours, SimpleHeads(data.heads, ()))
    is_later = data.times > date
    rows = data.rows.copy()
    for name, missing in SCORES.items():
        rows[:, data.names.index(name)] = missing
    if data.told is not None:
        rows[is_later] = data.told.redescribed(blank, data.places[is_later])
    return Funnel(towers, neighbours, heads.fit_heads(_learnt(data, rows), seed, params=RANKER))


def _taste(data: SlateSet, date: int, seed: int) -> tuple[two_tower.TwoTower, collaborative.Neighbours]:
    acts = data.acts.take((data.acts.known <= date) & (data.acts.users >= 0))
    liked = [
        (str(user), ref)
        for user, ref, kind, value in zip(acts.users.tolist(), acts.refs, acts.kinds, acts.values.tolist(), strict=True)
        if kind in WEIGHTS and value >= (STAYED_S if kind == DWELL else 1.0)
    ]
    seen = interactions(liked)
    known = None if data.told is None else data.told.followed(date)
    sides = _item_sides(known, seen.items), _user_sides(known, seen.users)
    towers = two_tower.fit(seen, item_sides=sides[0], user_sides=sides[1], settings=TOWERS, seed=seed)
    return towers, collaborative.neighbours(collaborative.graph_filter(seen, seed=seed), seen.items)


def _item_sides(known: Any, refs: Sequence[str]) -> Mapping[str, Sequence[Sequence[str]]]:
    if known is None:
        return {}
    posts = [known.catalogue.post(ref) for ref in refs]
    return {
        side: [(getattr(post, side),) if post is not None and getattr(post, side) else () for post in posts]
        for side in ("author", "topic", "language")
    }


def _user_sides(known: Any, users: Sequence[str]) -> Mapping[str, Sequence[Sequence[str]]]:
    if known is None:
        return {}
    profiles = [known.people.person(int(user)).profile for user in users]
    return {
        "interests": [profile.interests for profile in profiles],
        "region": [(profile.region,) if profile.region else () for profile in profiles],
        "language": [(profile.language,) if profile.language else () for profile in profiles],
    }


def _learnt(data: SlateSet, rows: Any = None) -> HeadsTrainingSet:
    return HeadsTrainingSet(
        names=data.names,
        heads=data.heads,
        rows=data.rows if rows is None else rows,
        labels=data.labels,
        positions=data.positions,
        times=data.times,
        groups=data.slates,
        randomised=data.propensities < 1,
    )


_spec = partial(ModelSpec, head=HEAD)

MODELS = (
    _spec(
        name="prior",
        meaning="the base rate of each action for every post: what is known before looking",
        fit=fit_prior,
        format=heads.FORMAT,
        baseline=True,
    ),
    _spec(
        name="popularity",
        meaning="what a post's click rate of the last week says, the same for every reader",
        fit=fit_popularity,
        format=heads.FORMAT,
        baseline=True,
    ),
    _spec(
        name="logistic",
        meaning="logistic regression over all features, one an action",
        fit=fit_logistic,
        format=heads.FORMAT,
        baseline=True,
    ),
    _spec(
        name="ranker",
        meaning="boosted trees over the features alone, one an action, without position bias: the funnel's last stage",
        fit=fit_ranker,
        format=heads.FORMAT,
    ),
    _spec(
        name="funnel",
        meaning="two towers and neighbours that find posts, and boosted trees that rank by their scores too",
        fit=fit_funnel,
        format=FORMAT,
    ),
)
"""Baselines first, the champion's kind last."""
