"""Features of one log, by the offline fold in one process and by Spark on this machine, and what each costs.

    python bench/peers/spine_spark.py [--json] [--short]

Spark runs as `local[2]`: the JVM, and one Python worker a core, each importing decalog. The session is started, and a
small log folded, before the clock starts, so that start-up is told apart. CPU is that of all processes, from /proc.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from decalog.features.definition import Aggregate, FeatureSet
from decalog.features.facts import Change, Fact, Point
from decalog.features.offline import fold

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

ENTITIES = ("card", "device", "merchant")
WINDOWS = ("60s", "1h", "24h", "7d")
SECOND = 1_000_000
CORES = 2


def features() -> FeatureSet:
    """Returns 24 windows over three entities."""
    declared = [
        Aggregate(
            name=f"{entity}_{aggregate}_{window}",
            meaning=f"{aggregate} of the {entity}",
            unit="1",
            entity=entity,
            aggregate=aggregate,
            over=("payment",),
            window=window,
            column="cents" if aggregate == "sum" else "",
        )
        for entity in ENTITIES
        for aggregate in ("count", "sum")
        for window in WINDOWS
    ]
    return FeatureSet(system="bench", features=tuple(declared))


def log_of(events: int, seed: int) -> tuple[list[Change], list[Point]]:
    """Returns a log of payments, one every two seconds, 5 % of them corrected later, and the point of each."""
    choose = random.Random(seed)
    changes: list[Change] = []
    points, seq = [], 0
    for number in range(events):
        now = number * 2 * SECOND
        entities = {name: choose.randrange(events // 20 + 1) for name in ENTITIES}
        fact = Fact(seq, now - choose.randrange(30 * SECOND), "payment", entities, {"cents": choose.randrange(10_000)})
        points.append(Point(seq, fact.event_time, seq, fact))
        changes.append(Change(seq, now, None, fact))
        seq += 1
        if choose.random() < 0.05:
            mended = Fact(fact.root, fact.event_time, "payment", entities, {"cents": choose.randrange(10_000)})
            changes.append(Change(seq, now, fact, mended))
            seq += 1
    return changes, points


def start() -> SparkSession:
    """Returns a session in this process, quiet."""
    from pyspark.sql import SparkSession

    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    os.environ["PYSPARK_PYTHON"] = sys.executable
    settings = {
        "spark.driver.memory": "2g",
        "spark.sql.shuffle.partitions": str(2 * CORES),
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
    }
    session = SparkSession.builder.master(f"local[{CORES}]").config(map=settings).getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    return session


def on_spark(declared: FeatureSet, tables: tuple[DataFrame, DataFrame]) -> np.ndarray[Any, Any]:
    """Returns the vectors, ordered by point."""
    from decalog.features.spark import fold_on_spark

    changes, points = tables
    folded = fold_on_spark(declared, changes=changes, points=points).toArrow().combine_chunks()
    order = np.argsort(folded.column("point").to_numpy())
    flat = folded.column("features").combine_chunks().flatten().to_numpy()
    rows: np.ndarray[Any, Any] = flat.reshape(len(order), -1)[order]
    return rows


def measured(work: Callable[[], np.ndarray[Any, Any]]) -> tuple[np.ndarray[Any, Any], float, float]:
    """Returns what the work gave, its seconds, and the CPU seconds of this process and all below it."""
    started, cpu = time.perf_counter(), tree_cpu_s()
    given = work()
    return given, time.perf_counter() - started, tree_cpu_s() - cpu


def tree_cpu_s() -> float:
    """Returns the CPU seconds of this process and of those it started, directly or not, ended ones included."""
    below: dict[int, list[tuple[int, float]]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text()
        except OSError:  # it ended meanwhile
            continue
        fields = text.rpartition(")")[2].split()
        spent = sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")
        below.setdefault(int(fields[1]), []).append((int(path.parent.name), spent))
    total, waiting = sum(os.times()[:4]), [os.getpid()]
    while waiting:
        for child, spent in below.get(waiting.pop(), []):
            total += spent
            waiting.append(child)
    return total


def missing() -> str:
    """Returns what the bench needs and does not find; empty where all is there."""
    if any(importlib.util.find_spec(name) is None for name in ("pyspark", "pyarrow", "pandas")):
        return "PySpark is not installed here; `make spark` makes .venv-spark with it"
    if shutil.which("java") is None:
        return "there is no Java"
    return "" if Path("/proc/self/stat").exists() else "there is no /proc to read CPU times from"


def measure(events: int) -> dict[str, float]:
    """Returns the figures of one log."""
    from decalog.features.spark import changes_table, points_table

    declared = features()
    began = time.perf_counter()
    session = start()

    def tables(log: tuple[list[Change], list[Point]]) -> tuple[DataFrame, DataFrame]:
        written, asked = changes_table(declared, log[0]), points_table(declared, log[1])
        return session.createDataFrame(written), session.createDataFrame(asked)

    small, log = log_of(500, seed=1), log_of(events, seed=2)
    on_spark(declared, tables(small))
    fold(declared, small[0], points=small[1])
    start_s = time.perf_counter() - began
    here, here_s, here_cpu_s = measured(lambda: fold(declared, log[0], points=log[1]))
    there, there_s, there_cpu_s = measured(lambda: on_spark(declared, tables(log)))
    session.stop()
    return {
        "events": events,
        "start_s": round(start_s, 1),
        "fold_per_s": round(events / here_s),
        "spark_per_s": round(events / there_s),
        "fold_cpu_us": round(1e6 * here_cpu_s / events, 1),
        "spark_cpu_us": round(1e6 * there_cpu_s / events, 1),
        "ratio_cpu": round(there_cpu_s / here_cpu_s, 1),
        "values_differ": int((here.view(np.int64) != there.view(np.int64)).sum()),
    }


def main() -> None:
    """Measures both and prints them; says what is missing where Spark cannot run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one last line of JSON")
    parser.add_argument("--short", action="store_true", help="20,000 events instead of 300,000")
    wanted = parser.parse_args()
    if absent := missing():
        print(f"left out: {absent}")
        if wanted.json:
            print(json.dumps({"left_out": absent}))
        return
    figures = measure(20_000 if wanted.short else 300_000)
    print(f"{figures['events']:,.0f} events, a point each, {len(features().features)} windows over 3 entities")
    for name, side in (("offline.fold, one process", "fold"), (f"Spark, local[{CORES}]", "spark")):
        print(f"{name:26}{figures[f'{side}_per_s']:10,.0f} events/s{figures[f'{side}_cpu_us']:9.1f} µs CPU an event")
    print(f"started and warmed up in {figures['start_s']} s; values that differ: {figures['values_differ']}")
    if wanted.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
