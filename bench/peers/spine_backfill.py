"""What features over a long history cost, beside Polars and DuckDB in the hands of a good engineer.

    python bench/peers/spine_backfill.py [--json] [--short] [--rows N]

5 million payments in the order in which they became known, each the point at which 40 features are asked for, its own
event included: for card, device and merchant, over 1 h, 1 d, 7 d and 30 d, the count, the sum of amounts and the
number of distinct merchants or cards; the mean amount over 7 d; and the time since the card's last payment. Times
are whole seconds, so many rows tie; among ties only the rows with a smaller seq are seen. The peers compute the same
values: their key is (second, seq) in one integer, because plain RANGE windows would see later ties, and because seq
rises with time a row exactly one window old stays outside.

Polars uses `rolling` by entity over that key; DuckDB a RANGE frame, `count(DISTINCT …)` in it included. Every contender
has one thread and a process of its own, which loads the columns, computes, and is asked what it cost: CPU and wall time
of the computing alone, peak memory of the whole process. Each puts its values back into the order of the rows. All
values are compared, bit for bit.

Keys: ratio_polars and ratio_duckdb (our CPU time / theirs, all features), values_differ (0 or a fault), rows, and
cpu_s and peak_mib of each contender. DuckDB gets at most DUCKDB_ROWS of the rows; its ratio is taken on that share,
ours measured on the same.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ROWS, SHORT_ROWS, DUCKDB_ROWS = 5_000_000, 200_000, 500_000
WINDOWS = {"1h": 3_600, "1d": 86_400, "7d": 604_800, "30d": 2_592_000}
ENTITIES = {"card": "merchant", "device": "card", "merchant": "card"}
"""Entity → whose distinct tokens are counted."""
EVENTS_EACH = {"card": 20, "device": 25, "merchant": 250}
DAYS = 90
SEQ_BITS = 24
GROUPS = ("numbers", "distinct", "all")

Columns = dict[str, npt.NDArray[np.int64]]
Values = dict[str, npt.NDArray[Any]]


def make(rows: int, seed: int = 7) -> Columns:
    """Returns payments in order of time; busy and quiet entities, and one in ten right after the one before it."""
    draw = np.random.default_rng(seed)
    columns: Columns = {"second": np.sort(draw.integers(0, DAYS * 86_400, rows))}
    for entity, each in EVENTS_EACH.items():
        count = max(2, rows // each)
        weights = draw.lognormal(0, 1, count)
        tokens = draw.integers(1, 2**39, count)
        columns[entity] = tokens[draw.choice(count, rows, p=weights / weights.sum())]
    columns["amount"] = draw.integers(100, 100_000, rows)
    repeats = np.flatnonzero(draw.random(rows - 1) < 0.1) + 1
    for name in ("second", "card", "device"):
        columns[name][repeats] = columns[name][repeats - 1]
    return columns


def names(group: str) -> Iterator[tuple[str, str, str, str]]:
    """Yields (name, entity, aggregate, window) of a group's features."""
    for entity in ENTITIES:
        for window in WINDOWS:
            if group != "distinct":
                yield f"{entity}_count_{window}", entity, "count", window
                yield f"{entity}_sum_{window}", entity, "sum", window
            if group != "numbers":
                yield f"{entity}_distinct_{window}", entity, "distinct", window
        if group != "distinct":
            yield f"{entity}_mean_7d", entity, "mean", "7d"
    if group != "distinct":
        yield "card_since_30d", "card", "time_since", "30d"


def decalog_ready() -> Callable[[Columns, str], Values]:
    """Returns the computation by decalog, imported and compiled."""
    from decalog.features.definition import Aggregate, FeatureSet
    from decalog.features.frames import EventColumns, fold_columns

    def compute(columns: Columns, group: str) -> Values:
        features = tuple(
            Aggregate(
                name=name,
                meaning="measured",
                unit="s" if aggregate == "time_since" else "1",
                entity=entity,
                aggregate=aggregate,  # type: ignore[arg-type]
                over=("payment",),
                window=window,
                column={"distinct": ENTITIES[entity], "sum": "amount", "mean": "amount"}.get(aggregate, ""),
                own=aggregate != "time_since",
            )
            for name, entity, aggregate, window in names(group)
        )
        declared = FeatureSet(system="bench", features=features)
        events = EventColumns(
            event_time=columns["second"] * 1_000_000,
            kind="payment",
            entities={entity: columns[entity] for entity in ENTITIES},
            attributes={"amount": columns["amount"]},
        )
        values = fold_columns(declared, events)
        return {name: values[:, place] for place, name in enumerate(declared.names)}

    return compute


def polars_ready() -> Callable[[Columns, str], Values]:
    """Returns the computation by Polars."""
    import polars as pl

    def of_window(frame: pl.DataFrame, entity: str, window: str, group: str) -> pl.DataFrame:
        aggregates = []
        if group != "distinct":
            aggregates += [pl.len().alias(f"{entity}_count_{window}"), pl.sum("amount").alias(f"{entity}_sum_{window}")]
        if group != "numbers":
            aggregates.append(pl.col(ENTITIES[entity]).n_unique().alias(f"{entity}_distinct_{window}"))
        period = f"{WINDOWS[window] << SEQ_BITS}i"
        return frame.rolling("key", period=period, closed="right", group_by=entity).agg(aggregates).drop(entity, "key")

    def of_entity(frame: pl.DataFrame, entity: str, group: str) -> pl.DataFrame:
        ordered = frame.sort(entity, "key")
        parts = [of_window(ordered, entity, window, group) for window in WINDOWS]
        found = pl.concat([ordered.select("seq"), *parts], how="horizontal")
        if group != "distinct":
            mean = pl.col(f"{entity}_sum_7d") / pl.col(f"{entity}_count_7d")
            found = found.with_columns(mean.alias(f"{entity}_mean_7d"))
        if group != "distinct" and entity == "card":
            since = ordered.select((pl.col("second") - pl.col("second").shift(1).over("card")).alias("since"))
            value = pl.when(pl.col("since") < WINDOWS["30d"]).then(pl.col("since")).otherwise(-1)
            found = found.with_columns(since.select(value.cast(pl.Float64).alias("card_since_30d")).to_series())
        return found.sort("seq").drop("seq")

    def compute(columns: Columns, group: str) -> Values:
        frame = pl.DataFrame(columns).with_row_index("seq")
        frame = frame.with_columns(key=pl.col("second") * (1 << SEQ_BITS) + pl.col("seq").cast(pl.Int64))
        found = pl.concat([of_entity(frame, entity, group) for entity in ENTITIES], how="horizontal")
        return {name: found[name].to_numpy() for name in found.columns}

    return compute


def duckdb_ready() -> Callable[[Columns, str], Values]:
    """Returns the computation by DuckDB."""
    import duckdb

    expressions = {
        "count": "count(*) OVER {over}",
        "sum": "sum(amount) OVER {over}",
        "mean": "sum(amount) OVER {over} / count(*) OVER {over}",
        "distinct": "count(DISTINCT {other}) OVER {over}",
        "time_since": "coalesce(second - max(second) OVER ({frame} EXCLUDE CURRENT ROW), -1)",
    }

    def column(name: str, entity: str, aggregate: str, window: str) -> str:
        expression = expressions[aggregate].format(
            over=f"{entity}_{window}", frame=frame(entity, window), other=ENTITIES[entity]
        )
        return f"({expression})::DOUBLE AS {name}"

    def frame(entity: str, window: str) -> str:
        width = WINDOWS[window] << SEQ_BITS
        return f"PARTITION BY {entity} ORDER BY key RANGE BETWEEN {width} PRECEDING AND CURRENT ROW"

    def compute(columns: Columns, group: str) -> Values:
        connection = duckdb.connect(config={"threads": 1})
        connection.register("payments", {**columns, "seq": np.arange(len(columns["second"]))})
        selected = ", ".join(column(*feature) for feature in names(group))
        windows = ", ".join(
            f"{entity}_{window} AS ({frame(entity, window)})" for entity in ENTITIES for window in WINDOWS
        )
        rows = connection.execute(
            f"WITH keyed AS (SELECT *, (second << {SEQ_BITS}) + seq AS key FROM payments) "  # noqa: S608 - own names
            f"SELECT seq, {selected} FROM keyed WINDOW {windows} ORDER BY seq"
        )
        found: Values = rows.fetchnumpy()
        return {name: found[name] for name in found if name != "seq"}

    return compute


CONTENDERS = {"decalog": decalog_ready, "polars": polars_ready, "duckdb": duckdb_ready}


def contend(contender: str, group: str, *, rows: int, folder: Path) -> None:
    """Computes in this process, prints what it cost as JSON, and leaves the values in the folder."""
    compute = CONTENDERS[contender]()
    columns = {name: np.load(folder / f"{name}.npy")[:rows] for name in ("second", *ENTITIES, "amount")}
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    values = compute(columns, group)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cost = {
        "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "wall_s": time.perf_counter() - started,
        "peak_mib": after.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10),
    }
    (folder / contender).mkdir(exist_ok=True)
    for name, column in values.items():
        np.save(folder / contender / f"{name}.npy", np.asarray(column, np.float64))
    print(json.dumps(cost))


def measure(contender: str, group: str, *, rows: int, folder: Path) -> dict[str, float]:
    """Returns what a contender cost in a process of its own."""
    one_thread = {"POLARS_MAX_THREADS": "1", "NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--contender", contender, "--group", group]
    command += ["--rows", str(rows), "--folder", str(folder)]
    done = subprocess.run(command, env={**os.environ, **one_thread}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{contender}, {group}: {done.stderr}")
    cost: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return cost


def differing(folder: Path, peer: str, *, rows: int) -> int:
    """Returns how many of a peer's values are not ours, over all features."""
    count = 0
    for name, *_ in names("all"):
        ours = np.load(folder / "decalog" / f"{name}.npy", mmap_mode="r")
        theirs = np.load(folder / peer / f"{name}.npy", mmap_mode="r")
        count += int((ours[:rows].view(np.int64) != theirs[:rows].view(np.int64)).sum())
    return count


def run(rows: int, folder: Path) -> dict[str, float]:
    """Measures all contenders, prints the table and returns the figures."""
    for name, column in make(rows).items():
        np.save(folder / f"{name}.npy", column)
    shares = {"decalog": rows, "polars": rows, "duckdb": min(rows, DUCKDB_ROWS)}
    print(f"{'contender':<10} {'features':<10} {'rows':>10} {'CPU s':>8} {'wall s':>8} {'peak MiB':>9}")
    costs: dict[tuple[str, str], dict[str, float]] = {}
    for contender, share in shares.items():
        for group in GROUPS:
            costs[contender, group] = cost = measure(contender, group, rows=share, folder=folder)
            _print_row(contender, group, share, cost)
    differ = differing(folder, "polars", rows=rows) + differing(folder, "duckdb", rows=shares["duckdb"])
    ours = costs["decalog", "all"]
    beside_duckdb = ours
    if shares["duckdb"] != rows:
        beside_duckdb = measure("decalog", "all", rows=shares["duckdb"], folder=folder)
        _print_row("decalog", "all", shares["duckdb"], beside_duckdb)
    figures = {
        "ratio_polars": ours["cpu_s"] / costs["polars", "all"]["cpu_s"],
        "ratio_duckdb": beside_duckdb["cpu_s"] / costs["duckdb", "all"]["cpu_s"],
        "values_differ": differ,
        "rows": rows,
    }
    for contender in shares:
        for key in ("cpu_s", "peak_mib"):
            figures[f"{contender}_{key}"] = costs[contender, "all"][key]
    return figures


def _print_row(contender: str, group: str, rows: int, cost: dict[str, float]) -> None:
    figures = f"{cost['cpu_s']:>8.1f} {cost['wall_s']:>8.1f} {cost['peak_mib']:>9,.0f}"
    print(f"{contender:<10} {group:<10} {rows:>10,} {figures}", flush=True)


def main() -> None:
    """Measures, or is one contender."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one last line of JSON")
    parser.add_argument("--short", action="store_true", help="on fewer rows")
    parser.add_argument("--rows", type=int, help="number of payments")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--group", choices=GROUPS, default="all", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    rows = wanted.rows or (SHORT_ROWS if wanted.short else ROWS)
    if wanted.contender:
        contend(wanted.contender, wanted.group, rows=rows, folder=wanted.folder)
        return
    with tempfile.TemporaryDirectory() as name:
        figures = run(rows, Path(name))
    print(f"our CPU time / Polars' {figures['ratio_polars']:.2f}, / DuckDB's {figures['ratio_duckdb']:.2f}")
    print(f"values that differ: {figures['values_differ']}")
    if wanted.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
