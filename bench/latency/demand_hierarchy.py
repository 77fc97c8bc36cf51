"""100,000 series that add up in five levels: how long it takes to sum and to reconcile them, 28 days ahead.

    python bench/latency/demand_hierarchy.py [--json] [--short]

Items in stores, of categories and regions, drawn from a seed: sums by region, store, category, category in a store, and
of everything. Base forecasts are what comes with an error of their own in each series; errors of 40 days say how large.
`--short` takes 10,000 series.

Keys: series (all), seconds and peak_gib (sums of a year and all three projections), summed_seconds, structural_seconds
and wls_seconds (each with its factor, 28 steps ahead), apart (the largest difference between a sum and its parts
afterwards, relative), rmse_of_sums_base, _bottom_up, _structural and _wls.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import numpy as np

from decalog.systems.demand.forecast.hierarchy import Hierarchy, How, projection, summed
from decalog.systems.demand.forecast.panel import Floats, Panel

DAYS, HORIZON, ITEMS_A_CATEGORY, STORES_A_REGION, PAST = 365, 28, 10, 50, 40
T = TypeVar("T")
HOWS: tuple[How, ...] = ("bottom_up", "structural", "wls")


def chain(stores: int, items: int) -> tuple[Panel, dict[str, list[str]]]:
    """Returns a year and 28 days of counts, and the labels of each level."""
    rng = np.random.default_rng(0)
    store, item = np.divmod(np.arange(stores * items), items)
    mean = rng.lognormal(0, 1, (stores, 1)) * rng.lognormal(0, 1, items)
    y = np.empty((stores * items, DAYS + HORIZON))
    for at, level in enumerate(mean):
        y[at * items : (at + 1) * items] = rng.poisson(level[:, None], (items, DAYS + HORIZON))
    labels = {
        "region": [f"region-{one // STORES_A_REGION}" for one in store],
        "store": [f"store-{one}" for one in store],
        "category": [f"category-{one // ITEMS_A_CATEGORY}" for one in item],
    }
    labels["both"] = [f"{one}/{other}" for one, other in zip(labels["store"], labels["category"], strict=True)]
    ids = tuple(f"store-{one}/item-{other}" for one, other in zip(store, item, strict=True))
    return Panel(ids=ids, y=y, seasons=(7,)), labels


def forecasts(y: Floats) -> tuple[Floats, Floats]:
    """Returns base forecasts of the last days, series × 28, and errors of earlier days, days × series."""
    rng = np.random.default_rng(1)
    spread = np.sqrt(y.mean(axis=1, keepdims=True) + 1e-3) * rng.uniform(0.3, 3, (len(y), 1))
    base = y[:, DAYS:] + spread * rng.standard_normal((len(y), HORIZON))
    return base, (spread * rng.standard_normal((len(y), PAST))).T


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """Returns what the work gave and its seconds."""
    began = time.perf_counter()
    return work(), time.perf_counter() - began


def main() -> int:
    """Sums, reconciles and prints the figures; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one last line of JSON")
    parser.add_argument("--short", action="store_true", help="10,000 series")
    wanted = parser.parse_args()
    bottom, labels = chain(100 if wanted.short else 500, 100 if wanted.short else 200)
    (whole, hierarchy), seconds = timed(partial(summed, bottom, labels))
    keys: dict[str, float] = {"series": len(whole.ids), "summed_seconds": seconds, "seconds": seconds}
    base, errors = forecasts(whole.y)
    actual = whole.y[: hierarchy.upper, DAYS:]
    keys["rmse_of_sums_base"] = float(np.sqrt(np.mean((base[: hierarchy.upper] - actual) ** 2)))
    keys["apart"] = 0.0
    for how in HOWS:
        after, seconds = timed(partial(reconciled, hierarchy, how, base=base, errors=errors))
        sums = after[: hierarchy.upper]
        parts = hierarchy.sums[: hierarchy.upper] @ after[hierarchy.upper :]
        keys["apart"] = max(keys["apart"], float(np.max(np.abs(sums - parts) / np.maximum(1.0, np.abs(parts)))))
        keys[f"{how}_seconds"] = seconds
        keys["seconds"] += seconds
        keys[f"rmse_of_sums_{how}"] = float(np.sqrt(np.mean((sums - actual) ** 2)))
    keys["peak_gib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    for name, value in keys.items():
        print(f"{name:28}{value:>14,.4f}")
    if wanted.json:
        print(json.dumps(keys))
    return 0


def reconciled(hierarchy: Hierarchy, how: How, *, base: Floats, errors: Floats) -> Floats:
    """Returns forecasts of all series that add up."""
    return hierarchy.together(projection(hierarchy, how, errors=errors) @ base)


if __name__ == "__main__":
    sys.exit(main())
