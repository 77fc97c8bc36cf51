"""DuckDB, asked in plain SQL from the rules, gives the same values as the offline fold on a log with ties."""

from __future__ import annotations

import random
from decimal import Decimal

import duckdb
import numpy as np
import numpy.typing as npt
import pytest

from decalog.features.definition import Aggregate, AggregateName, Condition, FeatureSet
from decalog.features.facts import Change, Fact, Point, Value
from decalog.features.offline import fold
from decalog.features.reference import held

WINDOWS = ("1us", "20us", "300us")
OFFSET = "10us"
# `n` numbers the rows of a point in the order of (event_time, root), the own event last among ties.
_MEAN = "(sum(cents)::DOUBLE / count(cents)::DOUBLE)"
_VARIANCE = f"(sum(cents * cents)::DOUBLE / count(cents)::DOUBLE - {_MEAN} * {_MEAN})"
VALUES: dict[AggregateName, str] = {
    "count": "count(*)::DOUBLE",
    "sum": "coalesce(sum(cents), 0)::DOUBLE",
    "mean": "coalesce(sum(cents)::DOUBLE / count(cents)::DOUBLE, -1)",
    "min": "coalesce(min(cents), -1)::DOUBLE",
    "max": "coalesce(max(cents), -1)::DOUBLE",
    "std": f"coalesce(CASE WHEN {_VARIANCE} > {_MEAN} * {_MEAN} * 1e-12::DOUBLE THEN sqrt({_VARIANCE})"
    " WHEN count(cents) > 0 THEN 0 END, -1)",
    "first": "coalesce(arg_min(cents, n) FILTER (cents IS NOT NULL), -1)::DOUBLE",
    "last": "coalesce(arg_max(cents, n) FILTER (cents IS NOT NULL), -1)::DOUBLE",
    "decayed": "coalesce(sum(cents * weight), 0)::DOUBLE / 1048576::DOUBLE",
    "distinct": "coalesce(nullif(count(DISTINCT device), 0), -1)::DOUBLE",
    "time_since": "coalesce((any_value(t) - max(event_time))::DOUBLE / 1e6::DOUBLE, -1)",
}
COLUMNS: dict[AggregateName, str] = {"distinct": "device", "count": "", "time_since": ""}


def declared(entity: str, *, where: bool, offset: bool, retain: int) -> FeatureSet:
    return FeatureSet(
        system="sql",
        retain=retain,
        features=tuple(
            Aggregate(
                name=f"{aggregate}_{window}",
                meaning="compared with SQL",
                unit="s" if aggregate == "time_since" else "1",
                entity=entity,
                aggregate=aggregate,
                over=("payment",),
                window=window,
                column=COLUMNS.get(aggregate, "cents"),
                bound=2000,
                half_life="32us" if aggregate == "decayed" else "",
                where=(Condition("odd", "==", 1),) if where else (),
                offset=OFFSET if offset else "",
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
            _amounts(draw),
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


def _amounts(draw: random.Random) -> dict[str, Value]:
    cents = draw.randrange(-50, 1000)
    return {"cents": cents, "odd": cents % 3} if draw.random() < 0.9 else {}


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
    changes: list[Change], points: list[Point], entity: str, *, where: bool, offset: int
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
    # Weights by their own definition, in whole numbers: the largest whose sixteenth power does not pass 2^(320 − step).
    weights = [(step, int(Decimal(2) ** (20 - Decimal(step) / 16))) for step in range(257)]
    sql.execute("CREATE TABLE w (step BIGINT, weight BIGINT)")
    sql.executemany("INSERT INTO w VALUES (?, ?)", weights)
    # What a point sees: versions before it that had no successor yet, of another root; and its own row, last.
    sql.execute(f"""CREATE VIEW seen AS
        SELECT s.*, w.weight, row_number() OVER (PARTITION BY i ORDER BY event_time, of_root) AS n FROM (
        SELECT p.i, p.t, v.root AS of_root, v.event_time, v.card, v.device, v.cents, p.card AS of_card
          FROM p JOIN v ON v.seq < p.seq AND (v.until IS NULL OR v.until >= p.seq) AND v.root <> p.root
        UNION ALL SELECT i, t, {2**62}, t, card, device, cents, card FROM p) s
        LEFT JOIN w ON w.step = (s.t - {offset} - s.event_time) // 2""")
    belongs = "card = of_card" if entity == "card" else "TRUE"
    passes = "cents IS NOT NULL AND (cents % 3 + 3) % 3 = 1" if where else "TRUE"
    columns = []
    for window in WINDOWS:
        inside = f"event_time > t - {offset} - {int(window.removesuffix('us'))} AND event_time <= t - {offset}"
        values = ", ".join(f"{value} AS {name}" for name, value in VALUES.items())
        rows = sql.execute(
            f"SELECT p.i, s.* EXCLUDE (i) FROM p LEFT JOIN (SELECT i, {values} FROM seen"
            f" WHERE {belongs} AND {passes} AND {inside} GROUP BY i) s ON s.i = p.i ORDER BY p.i"
        ).fetchall()
        columns.append(np.array([_filled(row[1:]) for row in rows], np.float64))
    return np.hstack(columns)


def _filled(row: tuple[float | None, ...]) -> list[float]:
    """Returns a point's values; where no row was inside its window, what the declarations say."""
    empty = [0.0 if name in ("count", "sum", "decayed") else -1.0 for name in VALUES]
    return [gap if value is None else value for value, gap in zip(row, empty, strict=True)]


def crowded(features: FeatureSet, changes: list[Change], points: list[Point]) -> npt.NDArray[np.bool_]:
    """Returns which windows begin before the mark of their entity, by the reference; shape (points, features)."""
    (entity,) = {feature.entity for feature in features.aggregates}
    found = []
    for point in points:
        before = [change for change in changes if change.seq < point.state_seq]
        mark = held(features, before, entity=entity, subjects=point.subjects).mark
        found.append([mark is not None and point.time - f.reach_us < mark for f in features.aggregates])
    return np.array(found)


@pytest.mark.parametrize("where", [False, True])
@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize("retain", [1000, 20])
def test_every_aggregate_equals_sql_on_a_log_with_ties_and_corrections(where: bool, offset: bool, retain: int) -> None:
    """SQL sees all rows of a window, whether they are held or not; only which are crowded it is told."""
    changes, points = seeded_log(seed=11, length=600)
    for entity in ("card", "all"):
        features = declared(entity, where=where, offset=offset, retain=retain)
        folded = fold(features, changes, points=points)
        expected = from_sql(changes, points, entity, where=where, offset=10 if offset else 0)
        hides = crowded(features, changes, points)
        assert hides.any() == (retain < 1000)
        assert not hides.all(axis=1).any() or entity == "all"
        assert folded.tobytes() == np.where(hides, -2.0, expected).tobytes()
        assert len(points) > 400
