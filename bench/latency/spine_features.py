"""What one event costs the feature engine: its fold into the views, and the vector of the decision on it.

    python bench/latency/spine_features.py [--json] [--events 300000] [--short]

Each event belongs to a card, a device and an address, each with 12 windows from 60 s to 90 d (counts and sums), and is
decided on: 36 features at its own time, its own row folded first, then the fold. `online` is the state that serves,
called event by event through Python; `kernel` is the same compiled steps over the whole log at once, as training and
backfills call them. Further rows: 1 and 10 % of the events late by up to an hour, 5 % corrected, six aggregates with a
condition instead of two, and `hot`: those six without a condition, 1 % late and corrected, where one address has 30 %
of the events and no entity holds more rows than a fifteenth of the events. One core; CPU time; the median over
stretches of the log. Online and kernel are compared bit for bit; and, where an address is hot, with the reference,
which shares no code with either: 20 decisions along a log of 10,000 events, no entity with more than 500 rows.

Keys: events_per_s and us_per_event (kernel, nothing late), online_us (the same log, event by event through Python),
kib_per_entity (of the row arrays, by entity token), hot_online_us, hot_kernel_us, hot_rows (held of the address),
hot_crowded (share of vectors with a crowded window), differ (values that two of them do not share).
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from decalog.clock import HOUR, SECOND
from decalog.features.definition import Aggregate, Condition, FeatureSet
from decalog.features.facts import Change, Fact, Point
from decalog.features.kernel import COUNTED
from decalog.features.offline import fold
from decalog.features.online import OnlineState, scan_inputs
from decalog.features.reference import evaluate

WINDOWS = ("60s", "5m", "10m", "30m", "1h", "6h", "12h", "1d", "7d", "14d", "30d", "90d")
ENTITIES = {"card": 3_000, "device": 4_000, "ip": 2_500}
STRETCH = 2_000
HOT_IP, HOT_SHARE, HOT_PARTS = 10**6, 0.3, 15
CROWDED, READ_OUT = -2.0, 20
GAP_US = 20 * SECOND
TWO = ("count", "sum")
SIX = ("count", "sum", "mean", "max", "distinct", "decayed")


class Row(NamedTuple):
    """One kind of log, measured."""

    online_us: float
    kernel_us: float
    kib_per_entity: float
    differ: int
    hot_rows: int
    crowded: float


def declared(aggregates: Sequence[str], *, condition: bool, retain: int = 1_000_000) -> FeatureSet:
    """Returns 12 windows for each of three entities, over the aggregates in turn."""
    where = (Condition("channel", "==", "ecom"),) if condition else ()
    features = []
    for entity in ENTITIES:
        for place, window in enumerate(WINDOWS):
            aggregate = aggregates[place % len(aggregates)]
            given: dict[str, Any] = {"aggregate": aggregate, "column": "" if aggregate == "count" else "cents"}
            if aggregate == "distinct":
                given["column"] = "merchant"
            if aggregate == "decayed":
                given |= {"half_life": window, "bound": 1_000_000}
            features.append(
                Aggregate(
                    name=f"{entity}_{aggregate}_{window}",
                    meaning="measured",
                    unit="1",
                    entity=entity,
                    over=("payment",),
                    window=window,
                    where=where,
                    **given,
                )
            )
    return FeatureSet(system="bench", features=tuple(features), lateness="2h", retain=retain)


def made(events: int, *, late: float, corrected: float, hot: float = 0.0) -> tuple[list[Change], list[Point]]:
    """Returns a log and a point at each of its events; corrections come between and are not decided on.

    Args:
        events: how many.
        late: the share of them that come late.
        corrected: the share that is corrected later.
        hot: the share that one address has.
    """
    draw, changes, points = random.Random(7), list[Change](), list[Point]()
    known, standing = 10**12, list[Fact]()
    for _ in range(events):
        known += draw.randrange(GAP_US)
        happened = known - (draw.randrange(HOUR) if draw.random() < late else 0)
        fact = Fact(len(changes), happened, "payment", _tokens(draw, hot), _values(draw))
        points.append(Point(fact.root, happened, fact.root, fact))
        changes.append(Change(fact.root, known, None, fact))
        standing.append(fact)
        if draw.random() < corrected:
            place = draw.randrange(max(0, len(standing) - 1_000), len(standing))
            old = standing[place]
            standing[place] = Fact(old.root, old.event_time, "payment", old.entities, _values(draw))
            changes.append(Change(len(changes), known, old, standing[place]))
    return changes, points


def _tokens(draw: random.Random, hot: float) -> dict[str, int]:
    # Few are busy and many are not, as cards and addresses are.
    tokens = {name: 1 + int(count * draw.random() ** 2) for name, count in ENTITIES.items()}
    return tokens | ({"ip": HOT_IP} if hot and draw.random() < hot else {})


def _values(draw: random.Random) -> dict[str, int | float | str | bool]:
    return {"cents": draw.randrange(100_000), "merchant": draw.randrange(200), "channel": draw.choice(("ecom", "pos"))}


def measure(features: FeatureSet, changes: Sequence[Change], points: Sequence[Point]) -> Row:
    """Returns what an event costs online and in the kernel, and whether both gave the same."""
    state, vectors, costs = OnlineState(features), [], list[float]()
    done = 0
    gc.collect()
    gc.freeze()
    for start in range(0, len(points), STRETCH):
        stretch = points[start : start + STRETCH]
        started = time.process_time()
        for point in stretch:
            while done < point.state_seq:
                state.apply(changes[done])
                done += 1
            vectors.append(state.vector(point))
        costs.append(1e6 * (time.process_time() - started) / len(stretch))
    gc.unfreeze()
    fold(features, changes[:100], points=points[:50])
    kernel = []
    for _ in range(3):
        started = time.process_time()
        folded = fold(features, changes, points=points)
        kernel.append(1e6 * (time.process_time() - started) / len(points))
    stats = state.stats()
    differ = int((np.array(vectors).view(np.int64) != folded.view(np.int64)).sum())
    return Row(
        statistics.median(costs[len(costs) // 2 :]),
        statistics.median(kernel),
        stats.bytes / 1_024 / sum(stats.entities.values()),
        differ,
        _rows_of(state, points[-1]),
        float((folded == CROWDED).any(axis=1).mean()),
    )


def _rows_of(state: OnlineState, point: Point) -> int:
    """Returns how many rows the hot address has."""
    hot = scan_inputs(state, "ip", point=Point(point.state_seq, point.time, entities={"ip": HOT_IP}))
    return 0 if hot is None else int(hot[0][0, COUNTED])


def differ_from_reference() -> int:
    """Returns how many values of a few decisions on a hot log are not the reference's."""
    features = declared(SIX, condition=False, retain=500)
    changes, points = made(10_000, late=0.01, corrected=0.01, hot=HOT_SHARE)
    asked = points[:: len(points) // READ_OUT]
    wanted = np.array([evaluate(features, changes, point=point) for point in asked])
    return int((wanted.view(np.int64) != fold(features, changes, points=asked).view(np.int64)).sum())


def main() -> None:
    """Measures each kind of log and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one last line of JSON")
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--short", action="store_true", help="20,000 events")
    wanted = parser.parse_args()
    events = 20_000 if wanted.short else wanted.events
    plain, rich = declared(TWO, condition=False), declared(SIX, condition=True)
    bounded = declared(SIX, condition=False, retain=events // HOT_PARTS)
    rows = {
        "nothing late": measure(plain, *made(events, late=0.0, corrected=0.0)),
        "1 % late": measure(plain, *made(events, late=0.01, corrected=0.0)),
        "10 % late": measure(plain, *made(events, late=0.1, corrected=0.0)),
        "5 % corrected": measure(plain, *made(events, late=0.0, corrected=0.05)),
        "10 % late, 5 % corrected": measure(plain, *made(events, late=0.1, corrected=0.05)),
        "six aggregates, a condition": measure(rich, *made(events, late=0.0, corrected=0.0)),
        "hot": measure(bounded, *made(events, late=0.01, corrected=0.01, hot=HOT_SHARE)),
    }
    print(f"{'':28}{'online µs':>11}{'kernel µs':>11}{'kernel/s':>11}{'KiB/entity':>12}{'differ':>8}")
    for name, row in rows.items():
        per_s = 1e6 / row.kernel_us
        print(
            f"{name:28}{row.online_us:11.2f}{row.kernel_us:11.2f}{per_s:11,.0f}{row.kib_per_entity:12.2f}{row.differ:8}"
        )
    hot, wrong = rows["hot"], differ_from_reference()
    print(f"hot: {hot.hot_rows:,} rows of the address, {hot.crowded:.1%} of the vectors with a crowded window")
    print(f"hot: {wrong} values differ from the reference")
    if wanted.json:
        best = rows["nothing late"]
        figures = {"events_per_s": 1e6 / best.kernel_us, "us_per_event": best.kernel_us}
        figures |= {
            "online_us": best.online_us,
            "kib_per_entity": best.kib_per_entity,
            "hot_online_us": hot.online_us,
            "hot_kernel_us": hot.kernel_us,
            "hot_rows": hot.hot_rows,
            "hot_crowded": hot.crowded,
            "differ": wrong + sum(row.differ for row in rows.values()),
        }
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
