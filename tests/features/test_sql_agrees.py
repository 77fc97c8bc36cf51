"""DuckDB, asked in plain SQL from the rules, gives the same values as the offline fold on a log with ties."""

from __future__ import annotations

import random

import duckdb
import numpy as np

from decalog.features.definition import Aggregate, AggregateName, FeatureSet
from decalog.features.facts import Change, Fact, Point
from decalog.features.offline import fold

WINDOWS = ("1us", "20us", "300us")
VALUES: dict[AggregateName, str] = {
    "count": "count(*)::DOUBLE",
    "sum": "coalesce(sum(cents), 0)::DOUBLE",
    "mean": "coalesce(sum(cents)::DOUBLE / count(cents)::DOUBLE, -1)",
    "distinct": "coalesce(nullif(count(DISTINCT device), 0), -1)::DOUBLE",
    "time_since": "coalesce((any_value(t) - max(event_time))::DOUBLE / 1e6::DOUBLE, -1)",
}
COLUMNS: dict[AggregateName, str] = {"sum": "cents", "mean": "cents", "distinct": "device"}


def declared(entity: str) -> FeatureSet:
    return FeatureSet(
        system="sql",
        features=tuple(
            Aggregate(
                name=f"{aggregate}_{window}",
                meaning="compared with SQL",
                unit="s" if aggregate == "time_since" else "1",
                entity=entity,
                aggregate=aggregate,
                over=("payment",),
                window=window,
                column=COLUMNS.get(aggregate, ""),
            )
            for window in WINDOWS
            for aggregate in VALUES
        ),
    )


def seeded_log(seed: int, length: int) -> tuple[list[Change], list[Point]]:
    """Returns payments on a coarse clock (many ties), each decided on, with one in five corrected or deleted later."""
    draw = random.Random(seed)
    changes: list[Change] = []
    points: list[Point] = []
    live: list[Fact] = []
    for seq in range(length):
        known = 1_000_000 + 2 * seq
        plus: Fact | None = Fact(
            seq,
            (known - draw.choice([0, 0, 0, 4, 40])) // 10 * 10,
            "payment",
            {"card": draw.randrange(8), **({"device": draw.randrange(4)} if draw.random() < 0.8 else {})},
            {"cents": draw.randrange(-50, 1000)} if draw.random() < 0.9 else {},
        )
        minus = live.pop(draw.randrange(len(live))) if live and draw.random() < 0.2 else None
        if minus is None:
            assert plus is not None
            points.append(Point(seq, plus.event_time, seq, plus))
        elif draw.random() < 0.3:
            plus = None
        else:
            assert plus is not None
            plus = Fact(minus.root, plus.event_time, plus.kind, plus.entities, plus.attributes)
        live += [plus] if plus is not None else []
        changes.append(Change(seq, known, minus, plus))
    return changes, points


def versions(changes: list[Change]) -> list[tuple[int | None, ...]]:
    """Returns (root, seq, seq of the successor or none, event_time, card, device, cents) of every image."""
    ended = {}
    begun: dict[int, int] = {}
    for change in changes:
        if change.minus is not None:
            ended[begun[change.minus.root]] = change.seq
        if change.plus is not None:
            begun[change.plus.root] = change.seq
    return [
        (
            f.root,
            c.seq,
            ended.get(c.seq),
            f.event_time,
            f.entities["card"],
            f.entities.get("device"),
            f.attributes.get("cents"),
        )  # type: ignore[misc]
        for c in changes
        if (f := c.plus) is not None
    ]


def from_sql(
    changes: list[Change], points: list[Point], entity: str
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    sql = duckdb.connect()
    sql.execute(
        "CREATE TABLE v"
        " (root BIGINT, seq BIGINT, until BIGINT, event_time BIGINT, card BIGINT, device BIGINT, cents BIGINT)"
    )
    sql.executemany("INSERT INTO v VALUES (?, ?, ?, ?, ?, ?, ?)", versions(changes))
    sql.execute(
        "CREATE TABLE p (i BIGINT, seq BIGINT, t BIGINT, root BIGINT, card BIGINT, device BIGINT, cents BIGINT)"
    )
    asked = [
        (
            i,
            p.state_seq,
            p.time,
            p.root,
            p.own.entities["card"],
            p.own.entities.get("device"),
            p.own.attributes.get("cents"),
        )
        for i, p in enumerate(points)
        if p.own is not None
    ]
    sql.executemany("INSERT INTO p VALUES (?, ?, ?, ?, ?, ?, ?)", asked)
    # What a point sees: versions before it that had no successor yet, of another root; and its own row.
    sql.execute("""CREATE VIEW seen AS
        SELECT p.i, p.t, v.event_time, v.card, v.device, v.cents, p.card AS of_card
          FROM p JOIN v ON v.seq < p.seq AND (v.until IS NULL OR v.until >= p.seq) AND v.root <> p.root
        UNION ALL SELECT i, t, t, card, device, cents, card FROM p""")
    belongs = "card = of_card" if entity == "card" else "TRUE"
    columns = []
    for window in WINDOWS:
        values = ", ".join(VALUES.values())
        width = int(window.removesuffix("us"))
        columns.append(
            sql.execute(
                f"SELECT {values} FROM seen WHERE {belongs} AND event_time > t - {width} AND event_time <= t"
                " GROUP BY i ORDER BY i"
            ).fetchall()
        )
    return np.hstack([np.array(rows, np.float64) for rows in columns])


def test_every_aggregate_equals_sql_on_a_log_with_ties_and_corrections() -> None:
    changes, points = seeded_log(seed=11, length=600)
    for entity in ("card", "all"):
        folded = fold(declared(entity), changes, points=points)
        expected = from_sql(changes, points, entity)
        assert folded.tobytes() == expected.tobytes()
        assert len(points) > 400
