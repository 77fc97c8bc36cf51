"""A table of the user beside payments, as it was known then: decalog, Feast's local stores, and Polars by hand.

    python bench/peers/spine_point_in_time.py [--short] [--json]

The table says every merchant's risk by day, written at six the next morning; some merchants appear late, one day in
twenty is written up to 20 days late, one in seven is corrected later. Most payments are decided at once, one in ten is
reviewed up to two days later. Each contender joins the same two Parquet files in a process of its own; CPU is that of
the join, from reading to having the result, the smaller of two runs. The truth is a plain SQL join over all pairs.

Feast is installed into $DECALOG_PEERS, or into a temporary folder (about 500 MB); where that fails its rows say so and
its keys are null. It knows one time a payment: what was known is asked as of the event, and only where it is told to
(`filter_by_created_timestamp`).

Keys: cpu_ratio_feast (its cheapest way over ours), rows_lost_by_peer and values_differ (Feast as it is by default:
payments that are not in its answer, and values in it that are not the truth), values_from_future (of those, written
after the decision), cpu_ratio_polars, values_differ_polars and values_differ_decalog.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np
from environments import python_of

PARTS = Path(__file__).resolve().parent / "point_in_time"
PAYMENTS, SHORT, PER_MERCHANT, DAYS = 200_000, 10_000, 100, 30
RUNS, SECONDS = 2, 900
FEAST = "feast[duckdb]==0.67.0"
_HOUR_US = 3_600_000_000
_START_US = 1_760_000_400_000_000  # a midnight, UTC, is not needed: a day starts here

TRUTH = """
CREATE TABLE truth AS
SELECT payment, any_value(p.known_time) AS known_time,
       arg_max(risk, {'valid_from': valid_from, 'known_from': known_from}) AS risk
FROM payments AS p LEFT JOIN risk AS r
  ON p.merchant = r.merchant AND valid_from <= event_time AND known_from <= known_time
GROUP BY payment
"""
COMPARED = """
SELECT (SELECT COUNT(*) FROM truth) - COUNT(DISTINCT a.payment),
       COUNT(*) FILTER (a.risk IS DISTINCT FROM truth.risk),
       COUNT(*) FILTER (r.known_from > truth.known_time)
FROM (SELECT payment, CASE WHEN isnan(risk) THEN NULL ELSE risk END AS risk FROM read_parquet(?)) AS a
JOIN truth USING (payment) LEFT JOIN risk AS r ON r.risk = a.risk
"""


class Line(NamedTuple):
    """What came of a contender; `wrong` says why there is nothing."""

    name: str
    cpu_s: float = 0.0
    process_s: float = 0.0
    lost: int = 0
    differ: int = 0
    future: int = 0
    wrong: str = ""

    def text(self) -> str:
        """Returns a line of the table."""
        if self.wrong:
            return f"{self.name:52}  {self.wrong}"
        return f"{self.name:52}{self.cpu_s:>8.2f}{self.process_s:>10.2f}{self.lost:>8}{self.differ:>9}{self.future:>10}"


def write_data(folder: Path, payments: int) -> duckdb.DuckDBPyConnection:
    """Writes both tables to Parquet, and returns a connection that holds them and the truth.

    No two statements have the same risk, so a value tells which of them it is.
    """
    rng = np.random.default_rng(7)
    merchants = payments // PER_MERCHANT
    connection = duckdb.connect(config={"threads": 1})
    event = np.sort(_START_US + rng.integers(0, DAYS * 24 * _HOUR_US, payments))
    reviewed = rng.random(payments) < 0.1
    delay = np.where(reviewed, rng.integers(0, 48 * _HOUR_US, payments), rng.integers(0, 200_000, payments))
    of = {"payment": np.arange(payments), "merchant": rng.integers(0, merchants, payments)}
    _write(connection, folder / "payments.parquet", {**of, "event_time": event, "known_time": event + delay})
    merchant, day = (axis.ravel() for axis in np.meshgrid(np.arange(merchants), np.arange(-2, DAYS)))
    first = np.where(rng.random(merchants) < 0.2, rng.integers(0, DAYS, merchants), -2)
    there = day >= first[merchant]
    merchant, valid = merchant[there], _START_US + day[there] * 24 * _HOUR_US
    late = np.where(rng.random(len(valid)) < 0.05, rng.integers(1, 20 * 24, len(valid)), 0)
    known = valid + (30 + late) * _HOUR_US
    again = rng.random(len(valid)) < 1 / 7
    corrected = known[again] + rng.integers(1, 15 * 24, int(again.sum())) * _HOUR_US
    statements = {
        "merchant": np.concatenate([merchant, merchant[again]]),
        "valid_from": np.concatenate([valid, valid[again]]),
        "known_from": np.concatenate([known, corrected]),
    }
    count = len(statements["merchant"])
    order = rng.permutation(count)
    statements = {name: values[order] for name, values in statements.items()}
    _write(connection, folder / "risk.parquet", {**statements, "risk": (np.arange(count) + 1.0) / count})
    connection.execute(TRUTH)
    return connection


def _write(connection: duckdb.DuckDBPyConnection, path: Path, arrays: dict[str, np.ndarray]) -> None:
    times = ", ".join(f"make_timestamptz({name}) AS {name}" for name in arrays if name.endswith(("_time", "_from")))
    connection.register("arrays", arrays)
    connection.execute(
        f"CREATE TABLE {path.stem} AS SELECT * REPLACE ({times}, 'm-' || merchant AS merchant) FROM arrays"  # noqa: S608 - our own names
    )
    connection.unregister("arrays")
    connection.execute(f"COPY {path.stem} TO '{path}' (FORMAT parquet)")


def run(name: str, command: list[str], *, out: Path, connection: duckdb.DuckDBPyConnection) -> Line:
    """Returns what a contender's process spent, and how its answer compares."""
    best = Line(name, wrong="was not run")
    for _ in range(RUNS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([*command, str(out)], capture_output=True, text=True, timeout=SECONDS, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            return Line(name, wrong=f"failed: {(done.stderr.strip().splitlines() or ['no words'])[-1][:120]}")
        process_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        cpu_s = float(json.loads(done.stdout.strip().splitlines()[-1])["cpu_s"])
        if best.wrong or cpu_s < best.cpu_s:
            best = Line(name, cpu_s, process_s)
    lost, differ, future = connection.execute(COMPARED, [str(out)]).fetchall()[0]
    return best._replace(lost=lost, differ=differ, future=future)


def feast_lines(folder: Path, connection: duckdb.DuckDBPyConnection) -> list[Line]:
    """Returns Feast's ways: its two local stores, as they are by default and told to look at what was known."""
    python, wrong = python_of("feast", (FEAST,), folder=folder)
    ways = [(store, rule) for store in ("dask", "duckdb") for rule in ("plain", "filtered")]
    lines = []
    for store, rule in ways:
        name = f"Feast, {store} store{', by created timestamp' if rule == 'filtered' else ''}"
        command = [str(python), str(PARTS / "feast_join.py"), str(folder), store, rule]
        out = folder / f"{store}-{rule}.parquet"
        lines.append(Line(name, wrong=wrong) if wrong else run(name, command, out=out, connection=connection))
    return lines


def own_lines(folder: Path, connection: duckdb.DuckDBPyConnection) -> list[Line]:
    """Returns decalog's line and that of Polars."""
    lines = []
    for name, part in (("decalog, join_as_of", "decalog_join"), ("Polars, by hand", "polars_join")):
        command = [sys.executable, str(PARTS / f"{part}.py"), str(folder)]
        if part == "polars_join" and importlib.util.find_spec("polars") is None:
            lines.append(Line(name, wrong="not installed"))
        else:
            lines.append(run(name, command, out=folder / f"{part}.parquet", connection=connection))
    return lines


def figures(ours: Line, polars: Line, feast: list[Line]) -> dict[str, float | int | None]:
    """Returns the keys of the JSON line."""
    ran = [line for line in feast if not line.wrong]
    plain = next((line for line in feast if not line.wrong), None)
    return {
        "cpu_ratio_feast": min(line.cpu_s for line in ran) / ours.cpu_s if ran else None,
        "rows_lost_by_peer": plain.lost if plain else None,
        "values_differ": plain.differ if plain else None,
        "values_from_future": plain.future if plain else None,
        "cpu_ratio_polars": None if polars.wrong else polars.cpu_s / ours.cpu_s,
        "values_differ_polars": None if polars.wrong else polars.differ + polars.lost,
        "values_differ_decalog": ours.differ + ours.lost,
    }


def main() -> None:
    """Joins with each contender and prints how they compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help=f"{SHORT:,} payments instead of {PAYMENTS:,}")
    parser.add_argument("--json", action="store_true", help="print one last line of JSON")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        connection = write_data(folder, SHORT if wanted.short else PAYMENTS)
        size = connection.execute("SELECT (SELECT COUNT(*) FROM payments), (SELECT COUNT(*) FROM risk)").fetchall()[0]
        print(f"{size[0]:,} payments, {size[1]:,} statements; CPU seconds of the join, and of its whole process")
        print(f"{'':52}{'join':>8}{'process':>10}{'lost':>8}{'differ':>9}{'future':>10}")
        ours, polars = own_lines(folder, connection)
        feast = feast_lines(folder, connection)
    for line in (ours, polars, *feast):
        print(line.text())
    if ours.wrong or ours.differ or ours.lost:
        raise SystemExit("decalog's own answer is not the truth")
    if wanted.json:
        print(json.dumps(figures(ours, polars, feast)))


if __name__ == "__main__":
    main()
