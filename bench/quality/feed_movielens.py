"""The funnel against its stages on MovieLens-100k, split by time, all films ranked.

    python bench/quality/feed_movielens.py [--json] [--short]

100,000 ratings; each counts as "watched". Models learn from what happened before a moment; who is active after it is
judged: the first half of a person's later ratings is told, as a request brings the latest events, and the second half
is to be found among all films that the person has not rated yet. Most people rate everything within a day, so most of
those judged were unknown at the split. Nothing that happened after a person's own moment enters that person's row.

The last fifth of the ratings is the test part. The fifth before it is validation: every setting was chosen there, and
the ranker learns there, from models that saw the first three fifths; then all is fitted again on the first four and
tested. The funnel has seen the test part three times: NDCG .291, then .295, then .290 with towers that set popularity
apart, which was a little better on the validation part.

The funnel takes the best films of each stage and lets boosted trees order them by the stages' scores and ranks,
popularity over windows, age of the film, and how far its genres are those of the history.

`decalog data fetch movielens-100k` and `… movielens-100k-films` get the files; so does this script, into
`$DECALOG_HOME/data` (default `var/data`). Research use only.

Keys: funnel_recall_20, funnel_ndcg_20, paired_gain and paired_gain_low (NDCG@20, funnel − best stage by NDCG, and the
lower end of its 95 % interval over people), paired_recall_gain and paired_recall_gain_low (recall@20, against the best
stage by recall), people.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import lightgbm
import numpy as np
from paired import text
from scipy import sparse

from decalog.data.fetch import fetch
from decalog.errors import DecalogError
from decalog.models import collaborative, two_tower
from decalog.models.collaborative import Scorer
from decalog.models.interactions import Csr, Interactions, Matrix, taken_of
from decalog.models.ranking import Floats, Int64s, ranked
from decalog.systems.feed.metrics import over_readers

DAY_S = 86_400
TRAIN_SHARE, VALIDATION_END = 0.6, 0.8
K, DEPTH = 20, 100
WINDOWS = (7, 3_650)
"""Days over which popularity is counted, besides a month, which is a stage."""

KNN: dict[str, Any] = {"shrinkage": 0.0, "top": 200}
EASE_L2 = 300.0
ALS: dict[str, Any] = {"rank": 32, "confidence": 2.0, "l2": 10.0, "rounds": 8}
TWO_TOWER = two_tower.Settings(epochs=15, batch=128, negatives=500, temperature=0.15, user_power=0.0)
TREES: dict[str, Any] = {
    "learning_rate": 0.03,
    "num_leaves": 15,
    "min_data_in_leaf": 200,
    "feature_fraction": 0.3,
    "lambda_l2": 10,
}
TREES_COUNT = 200
"""Of 3 to 7 settings of each stage, and of 15 of the ranker with `DEPTH` of 60, 100 and 200, those of greatest NDCG on
the validation part; the ranker there by halves of the people."""

POPULARITY, RECENT, FUNNEL = "popularity", "popular, 30 d", "funnel"


class Films(NamedTuple):
    """Ratings in order of time, and the films' genres and years."""

    users: Int64s
    items: Int64s
    times: Int64s
    genres: Floats
    genre_names: tuple[tuple[str, ...], ...]
    years: Floats

    @property
    def shape(self) -> tuple[int, int]:
        """Users and films."""
        return int(self.users.max()) + 1, len(self.years)


class Judged(NamedTuple):
    """Recall@20 and NDCG@20 of each person."""

    recall: Floats
    ndcg: Floats


class Part(NamedTuple):
    """People active in a stretch of time, at their own moment.

    Args:
        before: what models may learn from.
        told: csr, users × films: all that a person rated until the moment.
        wanted: csr, users × films: what the person rated after it, within the stretch.
        rows: the people.
        moments: seconds, of each of them.
    """

    before: Interactions
    told: Csr
    wanted: Csr
    rows: Int64s
    moments: Int64s


def films_of(ratings: Path, films: Path) -> Films:
    """Returns the set, numbered by place."""
    read = "select * from read_csv(?, delim='\\t', header=true, quote='', all_varchar=true)"
    names = duckdb.execute(read, [str(films)]).fetchall()
    place = {row[0]: number for number, row in enumerate(names)}
    rated = duckdb.execute(read, [str(ratings)]).fetchall()
    users, items, times = (
        np.array([int(user) - 1 for user, *_ in rated]),
        np.array([place[item] for _, item, *_ in rated]),
        np.array([int(float(time)) for *_, time in rated]),
    )
    order = np.lexsort((items, users, times))
    genre_names = tuple(tuple((row[3] or "").split()) for row in names)
    known = sorted({genre for row in genre_names for genre in row})
    genres = np.array([[genre in row for genre in known] for row in genre_names], np.float64)
    years = np.array([float(row[2]) if (row[2] or "").isdigit() else 1995.0 for row in names])
    return Films(users[order], items[order], times[order], genres, genre_names, years)


def part_of(films: Films, start: float, end: float) -> Part:
    """Returns who is active between two shares of the ratings, each at the middle of the own ratings there."""
    first, last = (int(share * len(films.times)) for share in (start, end))
    users, items, shape = films.users, films.items, films.shape
    names = tuple(map(str, range(shape[0]))), tuple(map(str, range(shape[1])))
    before = Interactions(*names, taken_of(users[:first], items[:first], shape=shape))
    is_wanted = np.zeros(len(users), bool)
    rows, moments = [], []
    for user in np.unique(users[first:last]):
        own = first + np.flatnonzero(users[first:last] == user)
        if len(own) > 1:
            is_wanted[own[len(own) // 2 :]] = True
            rows.append(user)
            moments.append(films.times[own[len(own) // 2]])
    told = ~is_wanted & (np.arange(len(users)) < last)
    return Part(
        before,
        taken_of(users[told], items[told], shape=shape),
        taken_of(users[is_wanted], items[is_wanted], shape=shape),
        np.array(rows),
        np.array(moments),
    )


# ---- stages ----


class Towers:
    """Two towers as a scorer of histories; films have genres and decades as sides."""

    def __init__(self, part: Part, films: Films) -> None:
        items = part.before.items
        sides = {
            "genres": [" ".join(row) for row in films.genre_names],
            "first_genre": [row[0] if row else "" for row in films.genre_names],
            "decade": [f"{year // 10:.0f}" for year in films.years],
        }
        bags = {side: [(value,) for value in values] for side, values in sides.items()}
        self._towers = two_tower.fit(part.before, item_sides=bags, user_sides={}, settings=TWO_TOWER, seed=0)
        self._vectors = self._towers.item_vectors(items, sides)

    def scores(self, histories: Csr) -> Matrix:
        """See `Scorer.scores`."""
        own = [self._vectors[histories[[row]].indices] for row in range(histories.shape[0])]
        users = [self._towers.user_vector(each, np.ones(len(each), np.float32), sides={}) for each in own]
        return np.asarray(np.array(users) @ self._vectors.T)


def stages_of(part: Part, films: Films) -> dict[str, Matrix]:
    """Returns every stage's scores of all films for the people of a part, learnt from what was before."""
    seen = part.before
    fitted: dict[str, Scorer] = {
        POPULARITY: collaborative.popularity(seen),
        "item-kNN": collaborative.item_knn(seen, **KNN),
        "EASE": collaborative.ease(seen.taken, l2=EASE_L2),
        "ALS": collaborative.als(seen, **ALS),
        "two-tower": Towers(part, films),
    }
    stages = {name: scorer.scores(part.told[part.rows]) for name, scorer in fitted.items()}
    return {RECENT: recent_counts(films, part, 30).astype(np.float32), **stages}


def recent_counts(films: Films, part: Part, days: int) -> Floats:
    """Returns how often each film was rated in the days before each person's moment, (people, films)."""
    counts = np.zeros((len(part.rows), len(films.years)))
    for row, moment in enumerate(part.moments):
        first, last = np.searchsorted(films.times, [moment - days * DAY_S, moment])
        counts[row] = np.bincount(films.items[first:last], minlength=counts.shape[1])
    return counts


# ---- the funnel ----


def features_of(stages: dict[str, Matrix], films: Films, part: Part) -> tuple[Floats, Csr]:
    """Returns a row of features for each candidate, and who has which candidates (csr, people × films)."""
    told = part.told[part.rows]
    is_seen = told.toarray() > 0
    popular = [recent_counts(films, part, days) for days in WINDOWS]
    ranks = []
    for scores in stages.values():
        order = np.argsort(np.where(is_seen, np.inf, -scores), axis=1, kind="stable")
        ranks.append(np.argsort(order, axis=1))
    columns = [np.asarray(scores, np.float64) for scores in (*stages.values(), *popular)]
    taste = told @ films.genres
    taste /= np.maximum(np.linalg.norm(taste, axis=1, keepdims=True), 1)
    own = films.genres / np.maximum(np.linalg.norm(films.genres, axis=1, keepdims=True), 1)
    years = told @ films.years / np.maximum(told.sum(axis=1), 1)
    counts = np.repeat(told.sum(axis=1)[:, None], len(films.years), axis=1)
    columns += [taste @ own.T, np.abs(years[:, None] - films.years), np.tile(films.years, (len(years), 1)), counts]
    is_candidate = (np.min(ranks, axis=0) < DEPTH) & ~is_seen
    matrix = np.stack([*columns, *ranks], axis=2)[is_candidate]
    return matrix, sparse.csr_array(is_candidate)


def ranker_of(matrix: Floats, candidates: Csr, part: Part) -> lightgbm.Booster:
    """Returns trees that order the candidates of a part, by LambdaMART."""
    labels = np.asarray(part.wanted[part.rows].toarray()[candidates.nonzero()])
    rows = lightgbm.Dataset(matrix, labels, group=np.diff(candidates.indptr))
    settings = {"objective": "lambdarank", "lambdarank_truncation_level": 2 * K, "num_threads": 1, "verbosity": -1}
    return lightgbm.train({**settings, **TREES, "seed": 0, "deterministic": True}, rows, num_boost_round=TREES_COUNT)


def funnel_scores(ranker: lightgbm.Booster, matrix: Floats, candidates: Csr) -> Matrix:
    """Returns the ranker's scores of the candidates, below all of them for other films."""
    scores = np.full(candidates.shape, -np.inf, np.float32)
    scores[candidates.nonzero()] = np.asarray(ranker.predict(matrix, num_threads=1))
    return scores


def judged(scores: Matrix, part: Part) -> Judged:
    """Returns recall@20 and NDCG@20 of each person."""
    place = np.zeros(part.told.shape[0], np.intp)
    place[part.rows] = np.arange(len(part.rows))
    lists = ranked(lambda users: scores[place[users]], seen=part.told, wanted=part.wanted, k=K)
    return Judged(lists.recall(K), lists.ndcg(K))


def main() -> int:
    """Fits, judges and prints the table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one last line of JSON")
    parser.add_argument("--short", action="store_true", help="the same: the set is small")
    parser.add_argument("--validation", action="store_true", help="judge on the validation part, for choosing settings")
    wanted = parser.parse_args()
    try:
        folder = Path(os.environ.get("DECALOG_HOME", "var"), "data")
        films = films_of(fetch("movielens-100k", folder), fetch("movielens-100k-films", folder))
    except DecalogError as error:
        print(f"skipped: {error}")
        return 0
    learnt = part_of(films, TRAIN_SHARE, VALIDATION_END)
    stages = stages_of(learnt, films)
    if wanted.validation:
        matrix, candidates = features_of(stages, films, learnt)
        figures = {name: judged(scores, learnt) for name, scores in stages.items()}
        figures[FUNNEL] = judged(halves(matrix, candidates, learnt), learnt)
        return printed(figures, learnt)
    ranker = ranker_of(*features_of(stages, films, learnt), learnt)
    tested = part_of(films, VALIDATION_END, 1.0)
    stages = stages_of(tested, films)
    figures = {name: judged(scores, tested) for name, scores in stages.items()}
    figures[FUNNEL] = judged(funnel_scores(ranker, *features_of(stages, films, tested)), tested)
    return printed(figures, tested, is_json=wanted.json)


def halves(matrix: Floats, candidates: Csr, part: Part) -> Matrix:
    """Returns the scores of each half of the people by a ranker that learnt from the other half."""
    owner, scores = candidates.nonzero()[0], np.full(candidates.shape, -np.inf, np.float32)
    for half in (0, 1):
        mine, other = owner % 2 == half, owner % 2 != half
        learnt = part._replace(rows=part.rows[1 - half :: 2])
        ranker = ranker_of(matrix[other], candidates[1 - half :: 2], learnt)
        scores[half::2] = funnel_scores(ranker, matrix[mine], candidates[half::2])
    return scores


def printed(figures: dict[str, Judged], part: Part, *, is_json: bool = False) -> int:
    """Prints the table and, where wanted, the last line."""
    print(f"MovieLens-100k: {len(part.rows)} people, {part.wanted.nnz:,} films to find after their own moments\n")
    print(f"{'':14}{'recall@20 (95 %)':>26}{'NDCG@20 (95 %)':>26}{'funnel gains recall':>28}{'and NDCG':>26}")
    funnel = figures.pop(FUNNEL)
    gains = [{name: over_readers(funnel[by] - found[by]) for name, found in figures.items()} for by in (0, 1)]
    for name, found in figures.items():
        gain = f"{text(gains[0][name]):>28}{text(gains[1][name]):>26}"
        print(f"{name:14}{text(over_readers(found.recall)):>26}{text(over_readers(found.ndcg)):>26}{gain}")
    print(f"{FUNNEL:14}{text(over_readers(funnel.recall)):>26}{text(over_readers(funnel.ndcg)):>26}")
    recall, ndcg = (min(by.values(), key=lambda gain: gain.value) for by in gains)
    keys = {
        "funnel_recall_20": float(np.mean(funnel.recall)),
        "funnel_ndcg_20": float(np.mean(funnel.ndcg)),
        "paired_gain": ndcg.value,
        "paired_gain_low": ndcg.low,
        "paired_recall_gain": recall.value,
        "paired_recall_gain_low": recall.low,
        "people": len(part.rows),
    }
    if is_json:
        print(json.dumps(keys))
    return 0


if __name__ == "__main__":
    sys.exit(main())
