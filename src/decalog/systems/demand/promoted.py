"""What the log tells of promotions: sales by day with what was off the price, the names of items, what they cost.

Days come as the tills told them, corrected; of a day that sold out only the part with stock counts (`latent`). Prices
and costs are those of the latest request for each item.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from decalog.errors import DataError
from decalog.events import Event, decode_event
from decalog.log import Log
from decalog.quantities import Image, standing
from decalog.systems.demand.forecast.promotions import Promoted
from decalog.systems.demand.latent import Floats
from decalog.systems.demand.policy import COST, PRICE
from decalog.systems.demand.recovered import Tills, tills_of, wanted_on
from decalog.systems.demand.schema import DAY_KIND, SCHEMA
from decalog.tails import newest


class Names(NamedTuple):
    """What items, stores and categories are called, in the order of their numbers."""

    items: tuple[str, ...]
    stores: tuple[str, ...]
    categories: tuple[str, ...]


class History(msgspec.Struct, frozen=True, kw_only=True):
    """What the log tells of promotions.

    Args:
        promoted: sales and discounts.
        names: of items, stores and categories.
        price, cost: float64, of items, minor units of the base currency; NaN where no request told.
        last_day: number of the last day, since 1970.
        cut: share of the days that sold out.
    """

    promoted: Promoted
    names: Names
    price: Floats
    cost: Floats
    last_day: int
    cut: float


def history(log: Log, *, days: int) -> History:
    """Returns what the log tells of the latest days.

    Raises:
        DataError: of no day it tells.
    """
    own = (record for record in log.read() if record.system == SCHEMA.system and not record.reason)
    images = [Image(one.root, one.known_time, decode_event(one.body)) for one in own if one.kind == "event"]
    told = [event for event in standing(images, log.known_time) if event.kind == DAY_KIND and event.entities]
    panel = tills_of(told)
    if panel is None:
        raise DataError(
            where="promotions of demand",
            given="a log without a day of sales",
            expected="days of sales with `discount_bp`",
            fix="Tell of days as events of kind `day`; `decalog up demand` plays a chain that does.",
        )
    names = Names(*(_names(told, kind) for kind in ("item", "store", "category")))
    price, cost = _prices(log, names.items)
    return History(
        promoted=_promoted(panel, days=days),
        names=names,
        price=price,
        cost=cost,
        last_day=panel.first + panel.known.shape[1] - 1,
        cut=float(np.mean(np.asarray(panel.empty.any(axis=2))[panel.known])),
    )


def _promoted(panel: Tills, *, days: int) -> Promoted:
    read, of = wanted_on(panel), panel.days
    group = np.zeros(int(of.item.max()) + 1, np.int64)
    group[of.item] = of.category
    late = slice(-days, None)
    return Promoted(
        sold=read.sold[:, late],
        exposed=read.exposed[:, late],
        depth=np.where(panel.told, of.discount, np.nan)[:, late],
        item=of.item,
        store=of.store,
        group=group,
        weekday=np.array([date.weekday() for date in of.dates[late]]),
        events={"before a holiday": of.eves[late]},
    )


def _names(events: Iterable[Event], kind: str) -> tuple[str, ...]:
    """Returns what things of a kind are called, in the order of their tokens, as a panel numbers them."""
    found = {event.entities.get(kind, -1): str(event.attributes.get(kind, "")) for event in events}
    return tuple(found[token] for token in sorted(found))


def _prices(log: Log, items: Sequence[str]) -> tuple[Floats, Floats]:
    """Returns price and cost that the latest request for each item had; NaN where none was asked for."""
    found: dict[str, Event] = {}
    for _, decision in newest(log, SCHEMA.system):
        found.setdefault(str(decision.request.attributes.get("item")), decision.request)
        if len(found) >= len(items):
            break
    told = [found[item].attributes if item in found else {} for item in items]
    price, cost = (np.array([float(one.get(name, np.nan)) for one in told]) for name in (PRICE, COST))
    return price, cost
