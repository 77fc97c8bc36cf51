"""What an address that holds all it may costs a decision of fraud: the reason for its `retain`.

    python bench/latency/fraud_full_entity.py [--json] [--short]

One address pays as often as fills its longest window, a day, with exactly the rows that are retained, each with another
card: all windows are exact, and the sets as large as they get. The time is the median of the scan of all its features,
as `decalog features fraud --home` gives it for a log. One core, wall clock; a busy machine shows more.

Keys: rows_<n> (µs of the scan with so many rows), retain (fraud's own).
"""

from __future__ import annotations

import argparse
import json

import msgspec

from decalog.clock import DAY
from decalog.feature_catalog import Cost, measure
from decalog.features.facts import Change, Fact, Point
from decalog.features.online import OnlineState
from decalog.systems.fraud.features import FEATURES

ROWS = (5_000, 10_000, 30_000, 100_000)
ASKED = 30


def cost(rows: int) -> Cost:
    """Returns what a full address costs where so many rows are retained."""
    state, gap = OnlineState(msgspec.structs.replace(FEATURES, retain=rows)), DAY // rows
    for seq in range(rows):
        fact = Fact(seq, DAY + seq * gap, "payment", {"ip": 1, "card": seq}, {"amount_base_minor": 100})
        state.apply(Change(seq, fact.event_time, None, fact))
    own = Fact(rows, 2 * DAY - 1, "payment", {"ip": 1, "card": rows}, {"amount_base_minor": 100})
    return measure(state, [Point(rows, own.event_time, rows, own)] * ASKED)["ip"]


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one last line of JSON")
    parser.add_argument("--short", action="store_true", help="the fewest rows alone")
    wanted = parser.parse_args()
    costs = {rows: cost(rows) for rows in (ROWS[:1] if wanted.short else ROWS)}
    print(f"{'rows':>9}{'µs':>9}")
    for one in costs.values():
        print(f"{one.most_rows:9,}{one.us:9.0f}")
    if wanted.json:
        print(json.dumps({f"rows_{rows}": one.us for rows, one in costs.items()} | {"retain": FEATURES.retain}))


if __name__ == "__main__":
    main()
