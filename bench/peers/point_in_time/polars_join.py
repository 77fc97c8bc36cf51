"""The same rule written by hand in Polars: `polars_join.py folder out`.

One `join_asof` cannot say it: it knows one inequality, and what is filtered after it is lost. So each statement gets
the time at which it was corrected, `join_asof` finds the last statement that is valid, and rows whose statement was not
known yet, or was corrected by then, go back one statement at a time, all together.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import polars as pl


def cpu_s() -> float:
    """Returns the CPU seconds of this process so far."""
    spent = resource.getrusage(resource.RUSAGE_SELF)
    return spent.ru_utime + spent.ru_stime


def statements(path: Path) -> pl.DataFrame:
    """Returns the table in order, each row with until when it was believed and where its merchant's rows begin."""
    table = pl.read_parquet(path).sort("merchant", "valid_from", "known_from", maintain_order=True)
    return table.with_row_index("place").with_columns(
        corrected=pl.col("known_from").shift(-1).over("merchant", "valid_from"),
        first=pl.col("place").first().over("merchant"),
    )


def join(folder: Path) -> pl.DataFrame:
    """Returns payment and risk, in the order of the payments."""
    table = statements(folder / "risk.parquet")
    payments = pl.read_parquet(folder / "payments.parquet").with_row_index("row")
    asked = payments.sort("event_time").join_asof(
        table.select("merchant", "valid_from", "place", "first").sort("valid_from", maintain_order=True),
        left_on="event_time",
        right_on="valid_from",
        by="merchant",
        strategy="backward",
        check_sortedness=False,
    )
    open_rows = asked.select("row", "known_time", "first", pl.col("place").cast(pl.Int64)).drop_nulls("place")
    answers = []
    while len(open_rows):
        seen = open_rows.with_columns(table[open_rows["place"], ["known_from", "corrected", "risk"]])
        known = pl.col("known_from") <= pl.col("known_time")
        believed = pl.col("corrected").is_null() | (pl.col("corrected") > pl.col("known_time"))
        answers.append(seen.filter(known & believed).select("row", "risk"))
        left = seen.filter(~(known & believed)).with_columns(pl.col("place") - 1)
        open_rows = left.filter(pl.col("place") >= pl.col("first")).select("row", "known_time", "first", "place")
    found = pl.concat(answers) if answers else pl.DataFrame(schema={"row": pl.UInt32, "risk": pl.Float64})
    return payments.join(found, on="row", how="left", maintain_order="left").select("payment", "risk")


def main() -> None:
    """Joins, and writes payment and risk."""
    started = cpu_s()
    joined = join(Path(sys.argv[1]))
    spent = cpu_s() - started
    joined.write_parquet(sys.argv[2])
    print(json.dumps({"version": pl.__version__, "cpu_s": spent}))


if __name__ == "__main__":
    main()
