"""30,000 daily series of a year, 28 days ahead: how long the global model takes to train and forecast with intervals.

    python bench/latency/demand_batch.py [--json] [--short] [--series 100000] [--unsampled]

The series are drawn here, from a seed: a level, a week, a year, a trend, promotions known ahead that lift sales, days
without a sale, and counts around all that. Training draws `most_rows` rows from all series, origins and steps ahead;
`--unsampled` trains on every row too and says what the drawing costs. One process, one thread. Fewer series are learnt
from by as many rows fewer, more by as many rows as 30,000; `--short` takes 3,000.

Keys: series, seconds, cpu_seconds (training, calibration and forecast, one thread), peak_gib, wql, wql_seasonal_naive,
coverage (of nominal 90 % intervals); with `--unsampled`, wql_unsampled and wql_loss (by how much of it ours is worse).
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time

import msgspec
import numpy as np

from decalog.systems.demand.forecast import scores
from decalog.systems.demand.forecast.boosting import Settings, boosted
from decalog.systems.demand.forecast.calendar import Calendar
from decalog.systems.demand.forecast.naive import seasonal_naive
from decalog.systems.demand.forecast.panel import Floats, Panel

DAYS, HORIZON, USUAL = 365, 28, 30_000
SETTINGS = Settings(trees=150, learning_rate=0.1, origins=6, stride=29, most_rows=500_000)
"""Of `USUAL` series: a tenth of all rows."""


def sales(series: int, *, seed: int = 0) -> tuple[Panel, Floats]:
    """Returns a year of sales with promotions known ahead, and the 28 days that follow."""
    rng = np.random.default_rng(seed)
    days = np.arange(DAYS + HORIZON)
    level = rng.lognormal(1.5, 1.2, (series, 1))
    week = rng.dirichlet(np.full(7, 8.0), series) * 7
    year = 1 + rng.uniform(0, 0.4, (series, 1)) * np.sin(2 * np.pi * (days / 365 + rng.random((series, 1))))
    trend = np.exp(rng.normal(0, 0.2, (series, 1)) * days / 365)
    promo = (rng.random((series, (DAYS + HORIZON) // 7 + 1)) < 0.1).repeat(7, axis=1)[:, : DAYS + HORIZON]
    mean = level * week[:, days % 7] * year * trend * np.exp(rng.uniform(0.2, 0.9, (series, 1)) * promo)
    y = rng.poisson(mean * rng.gamma(4.0, 0.25, mean.shape)).astype(np.float64)
    first = int(np.datetime64("2025-01-06", "s").astype(np.int64))
    panel = Panel(
        ids=tuple(map(str, range(series))),
        y=y[:, :DAYS],
        seasons=(7,),
        calendar=Calendar("day", first),
        known={"promo": promo.astype(np.float64)},
    )
    return panel, y[:, DAYS:]


def main() -> int:
    """Trains, forecasts and prints the figures; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one last line of JSON")
    parser.add_argument("--short", action="store_true", help="3,000 series")
    parser.add_argument("--series", type=int, default=USUAL, help="how many")
    parser.add_argument("--unsampled", action="store_true", help="train on every row too: many times as long")
    wanted = parser.parse_args()
    panel, actual = sales(3_000 if wanted.short else wanted.series)
    before = seasonal_naive().forecast(panel, HORIZON)
    began = time.perf_counter(), time.process_time()
    settings = msgspec.structs.replace(SETTINGS, most_rows=SETTINGS.most_rows * min(len(panel.ids), USUAL) // USUAL)
    found = boosted(settings).forecast(panel, HORIZON)
    keys = {
        "series": len(panel.ids),
        "seconds": time.perf_counter() - began[0],
        "cpu_seconds": time.process_time() - began[1],
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "wql": scores.wql(actual, found.quantiles),
        "wql_seasonal_naive": scores.wql(actual, before.quantiles),
        "coverage": scores.coverage(actual, found.quantiles),
    }
    if wanted.unsampled:
        every = msgspec.structs.replace(SETTINGS, most_rows=len(panel.ids) * HORIZON * SETTINGS.origins)
        keys["wql_unsampled"] = scores.wql(actual, boosted(every).forecast(panel, HORIZON).quantiles)
        keys["wql_loss"] = keys["wql"] / keys["wql_unsampled"] - 1
    for name, value in keys.items():
        print(f"{name:24}{value:>14,.4f}")
    if wanted.json:
        print(json.dumps(keys))
    return 0


if __name__ == "__main__":
    sys.exit(main())
