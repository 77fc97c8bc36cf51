"""A small home of demand, written by hand: two items, a model of usual sales, and orders of which some stand out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.demand_log import DemandLog
from tests.homes import add_model

from decalog.home import Home
from decalog.models import quantities
from decalog.models.quantities import QuantityModel, QuantityParams, Shape
from decalog.systems.demand.schema import HEADS, LEVELS
from decalog.systems.demand.system import SYSTEM

DAYS = 12
SOLD = 10
"""Units a day of each item."""


def filled(root: Path) -> Home:
    """Returns a home in which s1/i1 was ordered each night from day 6 on, and s1/i2 on the last.

    Of s1/i1 day 6 was sold out at 90 units, above all that was forecast; of day 7 nothing was sold; day 8 was promoted,
    and on day 9 there was room for 2 units only. A planner ordered otherwise on day 8. The last order is of a week.
    """
    log = DemandLog(root)
    for day in range(6):
        for series in ("s1/i1", "s1/i2"):
            log.sold(day, SOLD, series=series)
    log.log.commit()
    _learnt(root)
    service = log.service
    for day in range(6, DAYS):
        more: dict[str, Any] = {8: {"promo_days": 1, "discount_bp": 2_500}, 9: {"most_units": 2}}.get(day, {})
        log.decide(service, day, **more)
        log.sold(day, SOLD)
    log.decide(service, DAYS, "order-week", horizon_days=14, open_days=14, shelf_days=60)
    log.decide(service, DAYS, "other", series="s1/i2")
    log.told(12, "order-6", 90, censored=True)
    log.told(12, "order-7", 0)
    log.told(12, "order-8", 21, id="first")
    log.told(12, "order-8", 20, id="second", corrects="first")
    log.ingest.outcome(
        {"id": "o", "replenishment": "order-8", "kind": "override", "source": "planner", "value": 30.0, "why": "event"}
    )
    log.log.commit()
    log.log.close()
    return log.home


def _learnt(root: Path) -> None:
    """Makes a model the champion that forecasts the usual sales an hour with stock, in twelve hours a day."""
    params = QuantityParams(level=("series_plain_rate_lately",), exposure="open_days", levels=LEVELS)
    shape = Shape(scale=12.0, typical=1.0, k=20.0)
    model = QuantityModel(b"", shape, params=params, names=SYSTEM.features.names_for("model"))
    add_model(root, model, system=SYSTEM, format=quantities.FORMAT, head="+".join(HEADS))
