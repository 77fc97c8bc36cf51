"""Which neighbours find what readers like next, on the log of a simulated town.

    python bench/quality/feed_neighbours.py [--json] [--short] [--seeds 2]

Simulated results, all of them. Each seed is a town of `SCALE` of its size, for `DAYS` days, where another system ranks:
some 220 readers, and 900 posts in all. On each day from the fifth on, neighbours are fitted to all
that was liked before. Of each reader who has a history, what they like on that day, of the posts that the neighbours
can know, is to be found by their last 50 posts among the first 80: as many as the source `neighbours` brings in any
case. A reader's figure is the mean over days; intervals are over readers.

The row "chosen" is what feed trains: the graph filter or item-kNN, as a part of the log that is held out says. Settings
were chosen on seeds 1 and 2; seeds from 101 on are judged. What readers like was shown to them by a system that ranks
by popularity and by whom they follow, so a source is not judged on what only it would have found.

Keys: recall_80 (chosen), knn_recall_80, ease_recall_80, gf_cf_recall_80, filter_recall_80, paired_gain and
paired_gain_low (chosen − graph filter, and the lower end of its 95 % interval), knn_share (of the
days on which item-kNN was chosen), readers.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from paired import text
from ranking import Floats, over_users

from decalog.clock import DAY, ManualClock
from decalog.deployment import Deployment, Setup
from decalog.home import Home
from decalog.impressions import ImpressionHistory
from decalog.models import collaborative
from decalog.models.base import Acts
from decalog.models.collaborative import ItemWeights, Neighbours, Scorer
from decalog.models.interactions import Interactions, interactions
from decalog.simulation import fill, rates_of
from decalog.systems.feed.models import NEAR, liked
from decalog.systems.feed.people import RECENT
from decalog.systems.feed.simulate import World
from decalog.systems.feed.sources import SOURCES
from decalog.systems.feed.system import SYSTEM

FIRST_SEED, SEEDS, SHORT = 101, 2, 1
SCALE, DAYS, FROM = 0.4, 14, 4
EASE_L2 = 100.0
K = SOURCES["neighbours"][2]
CHOSEN, KNN, EASE, GF_CF, FILTER = "chosen", "item-kNN", "EASE", "GF-CF", "graph filter"
_FILTER, _KNN = (partial(fit, **settings) for fit, settings in NEAR)

FITS: dict[str, Callable[[Interactions], Scorer]] = {
    CHOSEN: lambda seen: collaborative.best_of(seen, (_FILTER, _KNN)),
    KNN: _KNN,
    EASE: lambda seen: collaborative.ease(seen.taken, l2=EASE_L2),
    GF_CF: collaborative.low_pass,
    FILTER: _FILTER,
}


def acts_of(seed: int, *, scale: float) -> Acts:
    """Returns what the readers of a town did, from the log of its history."""
    world = World(seed, scale=scale)
    with tempfile.TemporaryDirectory() as folder:
        log = Home(Path(folder)).writer(clock := ManualClock(world.start_us))
        deployment = Deployment(Home(Path(folder)), SYSTEM, log, Setup(rates=rates_of(world)))
        fill(world, deployment.prepare(), clock=clock, days=DAYS, say=lambda _line: None)
        log.commit()
        history = ImpressionHistory(log.read(0), SYSTEM.schema, features=SYSTEM.features)
        acts = history.part(np.ones(len(history.shown), np.bool_), known_by=history.known_time).acts
        log.close()
    return acts


def days(acts: Acts) -> Iterator[tuple[list[tuple[str, str]], list[tuple[str, str]]]]:
    """Yields of each day judged what was liked before it, and what on it."""
    first, last = (int(edge) // DAY for edge in (acts.known[0], acts.known[-1]))
    for morning in range((first + FROM) * DAY, (last + 1) * DAY, DAY):
        today = (acts.known >= morning) & (acts.known < morning + DAY)
        yield liked(acts.take(acts.known < morning)), liked(acts.take(today))


def shares(near: Neighbours, told: dict[str, list[str]], wanted: dict[str, set[str]]) -> dict[str, float]:
    """Returns of each reader what share of the posts to be found is among the first K."""
    found = {}
    for reader, posts in wanted.items():
        known = set(told[reader])
        ranked = near.score(told[reader][:RECENT], K + len(known))
        first = [ref for ref, _ in ranked if ref not in known][:K]
        found[reader] = len(posts.intersection(first)) / min(len(posts), K)
    return found


def judged(seed: int, *, scale: float) -> tuple[dict[str, Floats], list[bool]]:
    """Returns kind → recall of each reader of a town, and of each day whether item-kNN was chosen."""
    every: dict[str, dict[str, list[float]]] = {name: {} for name in FITS}
    was_knn = []
    for before, today in days(acts_of(seed, scale=scale)):
        seen = interactions(before)
        known, told, wanted = set(seen.items), dict[str, list[str]](), dict[str, set[str]]()
        for reader, ref in dict.fromkeys(reversed(before)):
            told.setdefault(reader, []).append(ref)
        for reader, ref in today:
            if ref in known and reader in told and ref not in told[reader]:
                wanted.setdefault(reader, set()).add(ref)
        for name, fit in FITS.items():
            scorer = fit(seen)
            was_knn += [isinstance(scorer, ItemWeights)] if name == CHOSEN else []
            for reader, share in shares(collaborative.neighbours(scorer, seen.items), told, wanted).items():
                every[name].setdefault(reader, []).append(share)
    return {name: np.array([np.mean(by[reader]) for reader in sorted(by)]) for name, by in every.items()}, was_knn


def main() -> None:
    """Runs it and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one last line of JSON")
    parser.add_argument("--short", action="store_true", help="one seed, a smaller town")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--first", type=int, default=FIRST_SEED)
    given = parser.parse_args()
    count, scale = (SHORT, SCALE / 2) if given.short else (given.seeds, SCALE)
    towns = [judged(seed, scale=scale) for seed in range(given.first, given.first + count)]
    recall = {name: np.concatenate([found[name] for found, _ in towns]) for name in FITS}
    chosen = [was_knn for _, each in towns for was_knn in each]
    print(f"simulated: {count} towns at {scale:g} of their size, {DAYS} days, {len(recall[CHOSEN])} readers judged\n")
    print(f"{'':14}{'recall@80 (95 %)':>26}{'chosen gains':>28}")
    for name, found in recall.items():
        print(f"{name:14}{text(over_users(found)):>26}{text(over_users(recall[CHOSEN] - found)):>28}")
    print(f"\nitem-kNN was chosen on {sum(chosen)} of {len(chosen)} days")
    if given.json:
        gain = over_users(recall[CHOSEN] - recall[FILTER])
        keys = zip(("", "knn_", "ease_", "gf_cf_", "filter_"), FITS, strict=True)
        figures = {f"{key}recall_80": float(np.mean(recall[name])) for key, name in keys}
        figures |= {"paired_gain": gain.value, "paired_gain_low": gain.low}
        print(json.dumps(figures | {"knn_share": float(np.mean(chosen)), "readers": len(recall[CHOSEN])}))


if __name__ == "__main__":
    main()
