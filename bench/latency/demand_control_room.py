"""Pages of quantities over a log of a million orders: how long each takes, and what the index costs.

    python bench/latency/demand_control_room.py [--json] [--short]

The log is made here: orders like one of demand's, of 10,000 series in turn, each with its forecast, its reasons and
what was sold afterwards; one in fifty sold far more than was forecast. Pages are asked as `spine_control_room.py` does.
"""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from spine_control_room import GROUP, figures, main, stamp
from tests.control_room.orders import filled
from tests.homes import records

from decalog.clock import SECOND, ManualClock
from decalog.decisions import Decision, decode_decision, new_decision_id
from decalog.log import Log
from decalog.outcomes import Outcome

SERIES = 10_000
EVERY_US = 8 * SECOND
"""A million of them are 93 days, and a series is ordered every 22 hours."""


def measure(folder: Path, count: int, rounds: int) -> dict[str, Any]:
    """Returns the figures of a log with so many orders."""
    home = filled(folder / "demand")
    like = decode_decision(records(home, "decision")[-1].body)
    with closing(home.writer(ManualClock(0))) as log:
        grow(log, like, count)
    told: dict[str, Any] = figures(home, count, rounds, system="demand", paths=lambda row: paths_of(row.id))
    return told


def grow(log: Log, like: Decision, count: int) -> None:
    """Appends orders like one, each with what was sold."""
    rng = np.random.default_rng(7)
    clock, start = ManualClock(log.known_time), log.known_time
    log.clock = clock
    forecast = like.candidates[0].predictions
    sold = np.where(rng.random(count) < 1 / 50, 3.0, rng.uniform(0.8, 1.2, count)) * next(iter(forecast.values()))
    for number, units in enumerate(np.round(sold).tolist()):
        clock.set(start + number * EVERY_US)
        order = one_of(like, number, at_us=clock.now_us(), entropy=rng.bytes(10))
        stamp(log, "demand", order)
        stamp(log, "demand", Outcome(f"sold_{number}", order.request.id, "sales", "till", clock.now_us(), units))
        if number % GROUP == 0:
            log.commit()
    log.commit()


def one_of(like: Decision, number: int, *, at_us: int, entropy: bytes) -> Decision:
    """Returns an order like another one, of one of the series."""
    place = number % SERIES
    request = msgspec.structs.replace(
        like.request,
        id=f"ord_{number:08d}",
        event_time=at_us,
        attributes=like.request.attributes | {"series": f"s1/i{place}"},
        entities=like.request.entities | {"series": place + 1},
    )
    return msgspec.structs.replace(like, id=new_decision_id(at_us, entropy), request=request)


def paths_of(id_: str) -> dict[str, str]:
    """Returns name → path of the pages that are asked."""
    return {
        "system": "/s/demand",
        "one series": "/s/demand/of/7",
        "exceptions": "/s/demand/exceptions",
        "exceptions, one reason": "/s/demand/exceptions?why=above",
        "exceptions, a rare reason": "/s/demand/exceptions?why=fallback",
        "decisions": "/s/demand/decisions",
        "decision": f"/s/demand/decisions/{id_}",
    }


if __name__ == "__main__":
    main(measure, noun="order")
