"""Feed's models: baselines that are honest about how little they know, a ranker, and the whole funnel.

The funnel's towers and neighbours learn from the earlier part of what readers did. Its ranker learns from all of it,
with their scores in the later part alone: in the earlier one they would know the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from decalog.features.definition import absences, quotients
from decalog.models import collaborative, heads, kinship, two_tower
from decalog.models.base import Acts, ModelSpec, SlateSet
from decalog.models.collaborative import Scorer
from decalog.models.funnel import FORMAT, Funnel
from decalog.models.heads import Heads, HeadsParams, HeadsTrainingSet, SimpleHeads
from decalog.models.interactions import interactions
from decalog.models.kinship import Kinship
from decalog.systems.feed.features import FEATURES
from decalog.systems.feed.people import STAYED_S, WEIGHTS
from decalog.systems.feed.schema import DWELL, SCHEMA
from decalog.systems.feed.sources import leanings

HEAD = "+".join(signal.head for signal in SCHEMA.signals)

GIVEN = {"p_dwell": "p_click"}
"""One stays on what one opened: a dwell is a click that lasted."""
ABSENT = absences(FEATURES)
RANKER = HeadsParams(
    trees=200,
    learning_rate=0.05,
    leaves=16,
    rows_a_leaf=200,
    l2=50.0,
    feature_share=0.3,
    held_out=0.1,
    given=GIVEN,
    rates=quotients(FEATURES),
    absent=ABSENT,
)
"""The tree budget that serving 500 posts in 8 ms of CPU allows (`bench/latency/feed_ranker.py`)."""
PLAIN = HeadsParams(given=GIVEN)
TOWERS = two_tower.Settings(epochs=20, batch=512, negatives=1_024)
NEAR: Sequence[tuple[Callable[..., Scorer], Mapping[str, Any]]] = (
    (collaborative.graph_filter, {}),
    (collaborative.item_knn, {"shrinkage": 0.0}),
)
"""What neighbours are made by, whichever finds more of a log's own part: the first where readers are tens of thousands
(`bench/quality/feed_gowalla.py`), the second where they are hundreds (`bench/quality/feed_neighbours.py`)."""
EARLIER = 0.5
"""Share of the slates, the earlier, that towers and neighbours learn from."""
_RATE = "post_clicks_of_shown_7d"


def fit_prior(data: SlateSet, seed: int) -> SimpleHeads:
    """Returns the base rate of each head."""
    return heads.fit_logistic_heads(_learnt(data), seed, params=HeadsParams(least=data.n + 1, given=GIVEN))


def fit_popularity(data: SlateSet, seed: int) -> SimpleHeads:
    """Returns what a post's own click rate says."""
    return heads.fit_logistic_heads(_learnt(data), seed, params=PLAIN, columns=(_RATE,))


def fit_logistic(data: SlateSet, seed: int) -> SimpleHeads:
    """Returns a logistic regression a head over all features."""
    return heads.fit_logistic_heads(_learnt(data), seed, params=PLAIN)


def fit_ranker(data: SlateSet, seed: int) -> Heads:
    """Returns boosted trees over the features as they were logged: no towers, no neighbours."""
    return heads.fit_heads(_learnt(data), seed, params=RANKER)


def fit_funnel(data: SlateSet, seed: int) -> Funnel:
    """Returns towers and neighbours of the earlier part, and a ranker that has their scores in the later part."""
    date = int(np.quantile(data.times, EARLIER))
    parts = _taste(data, date, seed)
    blank = Funnel(*parts, ranker=SimpleHeads(data.heads, ()))
    rows = data.rows.copy() if data.told is None else data.told.redescribed(blank, data.places)
    for name in ("two_tower", "neighbours", "similar"):  # what towers and neighbours say of what they learnt from
        rows[data.times <= date, data.names.index(name)] = ABSENT[name]
    return Funnel(*parts, ranker=heads.fit_heads(_learnt(data, rows), seed, params=RANKER))


def _taste(
    data: SlateSet, date: int, seed: int
) -> tuple[two_tower.TwoTower, collaborative.Neighbours, kinship.Kinship]:
    seen = interactions(liked(data.acts.until(date)))
    known = None if data.told is None else data.told.followed(date)
    sides = _item_sides(known, seen.items), _user_sides(known, seen.users)
    towers = two_tower.fit(seen, item_sides=sides[0], user_sides=sides[1], settings=TOWERS, seed=seed)
    near = collaborative.best_of(seen, [partial(fit, **chosen) for fit, chosen in NEAR], seed=seed)
    return towers, collaborative.neighbours(near, seen.items), _kin(data, known)


def _kin(data: SlateSet, known: Any) -> Kinship:
    """Returns which topics go together: hundreds of numbers from all that was shown, so they tell no row its label."""
    topics = [str(facts.get("topic", "")) for facts in data.facts]
    said = () if known is None else _said(known, data.users)
    return kinship.fit(data.users, topics, taken=data.labels[:, 0], said=said)


def _said(known: Any, users: npt.NDArray[np.int64]) -> Iterator[tuple[int, str, float]]:
    """Yields the topics that readers chose, and those that the authors write on whom they follow."""
    names = known.catalogue.topic.names
    for user in np.unique(users).tolist():
        person = known.people.person(user)
        chosen = known.catalogue.topic.mask((*person.follow, *person.profile.interests))
        authors = np.count_nonzero(known.catalogue.author.mask(person.follow))
        liking = chosen + authors * leanings(known.catalogue, person) / 2
        yield from ((user, names[code], float(liking[code])) for code in np.flatnonzero(liking).tolist())


def liked(acts: Acts) -> list[tuple[str, str]]:
    """Returns who liked which post: (token, ref) of what speaks for a post, in the order of the log."""
    rows = zip(acts.users.tolist(), acts.refs, acts.kinds, acts.values.tolist(), strict=True)
    return [
        (str(user), ref)
        for user, ref, kind, value in rows
        if user >= 0 and kind in WEIGHTS and value >= (STAYED_S if kind == DWELL else 1.0)
    ]


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
