"""Retrieval alone on Gowalla: who will check in where, all 40,981 places ranked.

    python bench/quality/feed_gowalla.py [--json] [--short] [--validation]

The published split of NGCF, LightGCN and BARS-Matching (`Gowalla_m1`): 29,858 users, 810,128 check-ins to learn from
and 217,242 to find, without times. What a user has in the training part is left out of the list. Recall@20 and NDCG@20
are means over the users, computed as those boards compute them (`decalog.models.ranking`); published figures stand
beside.

Settings were chosen on a validation part: a fifth of the training check-ins, cut by a hash of user and item, found by
models that saw the other four fifths (`--validation` runs the rows there). Not all were chosen alike: the two towers'
and ours on the whole of it, item-kNN's, ALS's and EASE's on a quarter of its users, GF-CF's are its paper's. What is to
be found in the test part is more popular than what is learnt from (popularity finds half as much again there as in the
validation part), which no cut of the training part shows. Our row is `graph_filter` of decalog.models.collaborative,
whole and as the 200 neighbours an item that would serve.

The test part was seen once by each row but the two towers', which has seen it three times: .1719 / .1357 with 30
passes; .1739 / .1371 with 60, which were better on the validation part; and .1861 / .1550 as it is now, with 30 passes
and popularity apart from the direction, which were better there than both.

Keys: recall_20, ndcg_20 (ours), served_recall_20, served_ndcg_20 (its neighbours), two_tower_recall_20,
two_tower_ndcg_20, peak_gib (memory of the whole run), ease_recall_20, gf_cf_recall_20. With `--short`, an eighth of the
users and a quarter of the places, for which nothing is published.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import duckdb
import numpy as np
from paired import shared_data, text
from scipy import sparse
from splits import hashed_share

from decalog.models import collaborative, two_tower
from decalog.models.collaborative import Scorer
from decalog.models.interactions import Csr, Interactions, Matrix, taken_of
from decalog.models.ranking import Int64s, Score, ranked
from decalog.systems.feed.metrics import over_readers

VALIDATION_SHARE = 0.2
SHORT_SHARE = 1 / 8, 1 / 4
"""Of users and of places."""

K = 20

KNN: dict[str, Any] = {"shrinkage": 50.0, "top": 1_000}
ALS: dict[str, Any] = {"rank": 64, "confidence": 30.0, "l2": 10.0, "rounds": 8}
EASE_L2 = 200.0
"""The greatest validation recall on a quarter of the users, of 4 to 8 settings each, for the sake of time; EASE's best
penalty was 50 to 100 on an eighth of them, 100 to 200 on a quarter, and its recall there within .001 between."""

LOW_PASS: dict[str, Any] = {"rank": 256, "share": 0.3}
"""As its paper printed them."""

FILTER: dict[str, Any] = {"rank": 512, "share": 0.2, "sharpness": 0.7, "powers": (0.1, 0.4)}
"""Of some 60 settings on the validation part (2,000 users judged); recall there .2126, and of `LOW_PASS` .197."""

TWO_TOWER = two_tower.Settings(epochs=30, user_power=0.0)
"""Of some 25 settings on the validation part (6,000 users judged), recall / NDCG there: 30 passes .201 / .142,
60 or 15 .200 / .142. With 15, .198 / .140 where popularity is learnt at a tenth of the rate, .195 / .139 with a
temperature of .12 or .08 (.138) or 35 % as targets. Before popularity stood apart from the direction: .200 / .138 with
60 passes (.197 in batches of 512), .194 / .134 with 30, .191 / .132 with 15; with 30, a rate of .005 gave .192 and a
temperature of .085 .193; with 15 from a start at random .186, and from there with a user_power of .5 .182, with a rate
of .03 or .003, a temperature of .07 or .15, or a quarter as targets .162 to .178."""

OURS, SERVED, TOWERS, EASE, GF_CF = "ours: graph filter", "ours: 200 neighbours", "two-tower", "EASE", "GF-CF"
PUBLISHED = {
    "item-kNN": ".1570 / .1214  ItemCF, BARS",
    EASE: ".1765 / .1467  BARS",
    GF_CF: ".1849 / .1518  paper and BARS",
    TOWERS: ".1627 / .1378  MF-BPR, .1754 / .1473  YoutubeDNN, BARS",
    OURS: ".1872 / .1557  SimpleX, .1862 / .1580  UltraGCN, BARS",
}
KEYS = {
    "recall_20": (OURS, 0),
    "ndcg_20": (OURS, 1),
    "served_recall_20": (SERVED, 0),
    "served_ndcg_20": (SERVED, 1),
    "two_tower_recall_20": (TOWERS, 0),
    "two_tower_ndcg_20": (TOWERS, 1),
    "ease_recall_20": (EASE, 0),
    "gf_cf_recall_20": (GF_CF, 0),
}


class Split(NamedTuple):
    """What models learn from, and what they have to find."""

    seen: Interactions
    wanted: Csr


def gowalla(*, is_short: bool, is_validation: bool) -> Split:
    """Returns the published split, or the validation part of its training part; short: of an eighth of the users."""
    path = str(shared_data("feed", "gowalla_m1", "interactions.parquet"))
    columns = duckdb.execute(
        "select \"user\"::bigint as u, item::bigint as i, split = 'test' as t from read_parquet(?) order by u, i",
        [path],
    ).fetchnumpy()
    users, items, is_test = (np.ma.getdata(columns[name]) for name in "uit")
    shape = int(users.max()) + 1, int(items.max()) + 1
    if is_short:
        nothing = np.zeros_like(users)
        kept = (hashed_share(users, nothing) < SHORT_SHARE[0]) & (hashed_share(nothing, items) < SHORT_SHARE[1])
        users, items = (np.unique(names[kept], return_inverse=True)[1] for names in (users, items))
        is_test, shape = is_test[kept], (int(users.max()) + 1, int(items.max()) + 1)
    if is_validation:
        users, items = users[~is_test], items[~is_test]
        is_test = hashed_share(users, items) < VALIDATION_SHARE
    seen = Interactions(
        tuple(map(str, range(shape[0]))),
        tuple(map(str, range(shape[1]))),
        taken_of(users[~is_test], items[~is_test], shape=shape),
    )
    return Split(seen, taken_of(users[is_test], items[is_test], shape=shape))


def rows() -> dict[str, Callable[[Interactions], Score]]:
    """Returns the name of each row and what fits it; each setting as the validation part chose it."""
    made: dict[str, Callable[[Interactions], Scorer]] = {
        "popularity": collaborative.popularity,
        "item-kNN": lambda seen: collaborative.item_knn(seen, **KNN),
        "ALS": lambda seen: collaborative.als(seen, **ALS),
        EASE: lambda seen: collaborative.ease(seen.taken, l2=EASE_L2),
        GF_CF: lambda seen: collaborative.low_pass(seen, **LOW_PASS),
        OURS: lambda seen: collaborative.graph_filter(seen, **FILTER),
    }

    def scoring(fit: Callable[[Interactions], Scorer]) -> Callable[[Interactions], Score]:
        def fitted(seen: Interactions) -> Score:
            scorer = fit(seen)
            return lambda users: scorer.scores(seen.taken[users])

        return fitted

    return {name: scoring(fit) for name, fit in made.items()} | {SERVED: served, TOWERS: towers}


def served(seen: Interactions) -> Score:
    """Returns the scores of our row's neighbours, as `Neighbours.score` adds them up."""
    near = collaborative.neighbours(collaborative.graph_filter(seen, **FILTER), seen.items)
    filled = near.places >= 0
    owner = np.repeat(np.arange(len(seen.items)), filled.sum(axis=1))
    weights = sparse.csr_array((near.weights[filled], (owner, near.places[filled])), shape=(len(seen.items),) * 2)
    return lambda users: collaborative.ItemWeights(weights).scores(seen.taken[users])


def towers(seen: Interactions) -> Score:
    """Returns the products of two towers that know nothing but ids."""
    fitted = two_tower.fit(seen, item_sides={}, user_sides={}, settings=TWO_TOWER, seed=0)
    vectors = fitted.item_vectors(seen.items, {})

    def score(users: Int64s) -> Matrix:
        histories = [vectors[seen.taken[[user]].indices] for user in users]
        asking = [fitted.user_vector(own, np.ones(len(own), np.float32), sides={}) for own in histories]
        return np.asarray(np.array(asking) @ vectors.T)

    return score


def main() -> int:
    """Runs the rows and prints the table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one last line of JSON")
    parser.add_argument("--short", action="store_true", help="an eighth of the users, a quarter of the places")
    parser.add_argument("--validation", action="store_true", help="on the validation part, for choosing settings")
    parser.add_argument("--rows", default="", help="names of rows, commas between; all without")
    wanted = parser.parse_args()
    path = shared_data("feed", "gowalla_m1", "interactions.parquet")
    if not path.is_file():
        print(f"skipped: no {path}; DECALOG_SHARED names the folder of the shared data")
        return 0
    split = gowalla(is_short=wanted.short, is_validation=wanted.validation)
    part = "validation part" if wanted.validation else "published split"
    print(f"Gowalla_m1, {part}{', a thirty-second of it' if wanted.short else ''}: ", end="")
    print(f"{split.seen.taken.nnz:,} check-ins to learn from, {split.wanted.nnz:,} to find\n")
    print(f"{'':24}{'recall@20 (95 %)':>26}{'NDCG@20 (95 %)':>26}{'wall s':>8}{'CPU s':>8}   published")
    chosen = wanted.rows.split(",") if wanted.rows else list(rows())
    published = {} if wanted.short or wanted.validation else PUBLISHED
    figures = {name: run(name, rows()[name], split, published=published.get(name, "")) for name in chosen}
    keys = {key: figures[name][place] for key, (name, place) in KEYS.items() if name in figures}
    keys["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\nPeak memory {keys['peak_gib']:.1f} GiB")
    if wanted.json:
        print(json.dumps(keys))
    return 0


def run(name: str, fit: Callable[[Interactions], Score], split: Split, *, published: str) -> tuple[float, float]:
    """Fits and judges a row, prints it, and returns recall and NDCG."""
    began = time.perf_counter(), time.process_time()
    found = ranked(fit(split.seen), seen=split.seen.taken, wanted=split.wanted, k=K)
    took = time.perf_counter() - began[0], time.process_time() - began[1]
    recall, ndcg = over_readers(found.recall(K)), over_readers(found.ndcg(K))
    cells = f"{text(recall, 4):>26}{text(ndcg, 4):>26}{took[0]:>8.0f}{took[1]:>8.0f}"
    print(f"{name:24}{cells}   {published}", flush=True)
    return recall.value, ndcg.value


if __name__ == "__main__":
    sys.exit(main())
