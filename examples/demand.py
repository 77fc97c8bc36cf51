"""A small shop through the library: days of sales, orders that another system made; then orders of our own, and why."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from decalog.clock import DAY, HOUR, ManualClock, rfc3339, time_us
from decalog.deployment import Deployment
from decalog.home import Home
from decalog.ingest import Ingest
from decalog.operations import train_on_log
from decalog.systems.demand.policy import OrderCosts, OrderPolicy

ITEMS = {"milk": 30, "rolls": 55, "butter": 12, "plums": 8, "leeks": 18, "yogurt": 24}
DAYS = 90


def who(item: str, weekday: int) -> dict[str, str]:
    """Returns the entities of an item in the only store."""
    series = f"shop/{item}"
    return {"series": series, "item": item, "store": "shop", "category": "fresh", "slot": f"{series}/{weekday}"}


def due(item: str, day: int, at_us: int, *, on_hand: int) -> dict[str, Any]:
    """Returns a request for an order that comes tomorrow morning and lasts for the day."""
    facts = {"on_hand": on_hand, "lead_days": 1, "horizon_days": 1, "open_days": 1, "weekday": (day + 1) % 7}
    money = {"price_minor": 250, "unit_cost_minor": 150, "currency": "EUR", "pack": 6, "shelf_days": 3}
    return {"id": f"{item}-{day}", "event_time": rfc3339(at_us), **who(item, (day + 1) % 7), **facts, **money}


def evenings(draw: random.Random) -> Iterator[tuple[int, str, int, int, int]]:
    """Yields day, item, units wanted, units in the morning, and what the shop orders: too little for Saturdays."""
    for day in range(DAYS):
        for item, usual in ITEMS.items():
            wanted = round(draw.gauss(usual * (1.6 if day % 7 == 5 else 1.0), usual**0.5))
            yield day, item, max(wanted, 0), round(usual * 1.15), round(usual * 1.15) // 6 * 6


def write_history(ingest: Ingest, clock: ManualClock, start_us: int) -> None:
    """Tells of each evening: what was sold, for how long the shelf was empty, what was ordered, what came of it."""
    for day, item, wanted, there, ordered in evenings(random.Random(7)):  # noqa: S311 - nobody's sales
        evening = start_us + day * DAY
        sold, empty_h = min(wanted, there), 0 if wanted <= there else round(12 * (1 - there / wanted))
        clock.set(max(clock.now_us(), evening))
        parts = {f"units_{part}": sold // 4 + (part <= sold % 4) for part in range(1, 5)}
        day_of = {"id": f"day-{item}-{day}", "kind": "day", "event_time": rfc3339(evening), **who(item, day % 7)}
        ingest.event(
            {**day_of, "units": sold, **parts, "empty_h": empty_h, "stocked_h": 12 - empty_h, "discount_bp": 0}
        )
        if day:
            said = {"replenishment": f"{item}-{day - 1}", "kind": "sales", "source": "till", "value": sold}
            ingest.outcome(
                {"id": f"sold-{item}-{day}", **said, "censored": empty_h > 0, "event_time": rfc3339(evening)}
            )
        clock.set(max(clock.now_us(), evening + HOUR))
        ingest.event({**due(item, day, evening + HOUR, on_hand=there - sold), "taken": "order", "quantity": ordered})


def main(folder: Path) -> None:
    """Imports, trains, orders for a Saturday, and orders again for a shop that must not run out."""
    start_us = time_us("2026-01-05T20:00:00Z")
    home, clock = Home(folder), ManualClock(start_us)
    log = home.writer(clock)
    deployment = Deployment(home, "demand", log)
    write_history(deployment.prepare(), clock, start_us)
    log.commit()
    result = train_on_log(home, "demand", seed=1)
    print(result.brief())
    known = result.report.labels
    print(f"{known.bounds} of {known.labelled} orders sold out: what was wanted is recovered\n")
    service = Deployment(home, "demand", log).service()
    friday = DAYS - DAYS % 7 + 4
    clock.set(start_us + friday * DAY + HOUR)
    for item in ("rolls", "plums"):
        _, decision, _ = service.decide({**due(item, friday, clock.now_us(), on_hand=2), "id": f"ours-{item}"})
        print(f"{item}: {decision.choice.slots[0].value:g} units; {'; '.join(decision.choice.reasons)}")
    careful = OrderPolicy(msgspec.structs.replace(OrderCosts(), service_level_bp=9_900))
    service.adopt(msgspec.structs.replace(service.serving, policy=careful))
    _, decision, _ = service.decide({**due("rolls", friday, clock.now_us(), on_hand=2), "id": "careful"})
    print(f"rolls, sold out on one day in a hundred: {decision.choice.slots[0].value:g} units")
    log.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary))
