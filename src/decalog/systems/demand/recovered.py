"""What was wanted behind orders that sold out: demand day by day from all that the tills told, summed over each order.

The days of all series make one panel, `latent` says what was wanted on each, and a request's label is the sum over the
days that its order was for. Where a shelf was never empty, or the days were not told, a label stays what it is.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from decalog.clock import DAY
from decalog.events import Event
from decalog.examples import Floats
from decalog.quantities import Told
from decalog.systems.demand.drivers import SHRUNK, Days
from decalog.systems.demand.latent import Ints, Latent, Mask, Seen, latent
from decalog.systems.demand.schema import DAY_KIND, PARTS

_BP = 10_000


class Tills(NamedTuple):
    """Days of all series as arrays, series × days (× parts of the day).

    Args:
        first: number of the first day, since 1970.
        series: token → row.
        units, empty: sold in each part of the day, and whether the shelf was empty when it ended.
        known: days that were told of, on which the store was open.
        told: days that were told of.
        days: what moves demand.
    """

    first: int
    series: Mapping[int, int]
    units: Ints
    empty: Mask
    known: Mask
    told: Mask
    days: Days


def recovered(told: Told, seed: int) -> tuple[Floats, Floats]:
    """Returns what was wanted of each request, expected and one draw of it; see `quantities.Recover`."""
    expected, drawn = told.labels.copy(), told.labels.copy()
    panel = tills_of([event for event in told.events if event.kind == DAY_KIND])
    if panel is None or not told.bounds.any():
        return expected, drawn
    found = wanted_on(panel)
    rng = np.random.default_rng(seed)
    wanted, draw = found.demand, found.drawn(rng)
    for place in np.flatnonzero(told.bounds).tolist():
        rows = _rows(told.requests[place], panel)
        if rows is None:
            continue
        series, days = rows
        sums = (float(np.sum(side[series, days])) for side in (wanted, draw))
        known = told.labels[place]
        expected[place], drawn[place] = (max(known, one) if np.isfinite(one) else known for one in sums)
    return expected, drawn


def wanted_on(panel: Tills) -> Latent:
    """Returns what was wanted on each day of a panel."""
    seen = Seen(
        units=panel.units,
        empty=panel.empty,
        known=panel.known,
        kinds=panel.days.category,
        factors=panel.days.levels(),
        shrunk=SHRUNK,
    )
    return latent(seen)


def _rows(request: Event, panel: Tills) -> tuple[int, slice] | None:
    """Returns the series and the days that an order was for; None where the panel does not hold them all."""
    series = panel.series.get(request.entities.get("series", -1))
    horizon = request.attributes.get("horizon_days")
    first = request.event_time // DAY + 1 - panel.first
    if series is None or not isinstance(horizon, int) or first < 0 or first + horizon > panel.known.shape[1]:
        return None
    return series, slice(first, first + horizon)


def tills_of(events: Sequence[Event]) -> Tills | None:
    """Returns the days that were told; None where there are none."""
    whole = [event for event in events if "series" in event.entities]
    if not whole:
        return None
    tokens = _tokens(whole)
    series, which = np.unique(tokens["series"], return_inverse=True)
    day = np.array([event.event_time // DAY for event in whole])
    first, days = int(day.min()), int(day.max() - day.min()) + 1
    shape, at = (len(series), days), (which, day - day.min())
    units, empty = np.zeros((*shape, len(PARTS)), np.int64), np.zeros((*shape, len(PARTS)), np.bool_)
    units[at], empty[at] = _parts(whole)
    known, closed, off = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_), np.zeros(shape)
    known[at] = True
    closed[at] = [bool(event.attributes.get("is_closed")) for event in whole]
    off[at] = [float(event.attributes.get("discount_bp", 0)) / _BP for event in whole]
    shut = closed.sum(axis=0) > known.sum(axis=0) / 2
    dates = [dt.date(1970, 1, 1) + dt.timedelta(days=first + one) for one in range(days)]
    item, store, category = (_numbered(tokens[name], which, len(series)) for name in ("item", "store", "category"))
    return Tills(
        first=first,
        series={int(token): place for place, token in enumerate(series.tolist())},
        units=units,
        empty=empty,
        known=known & ~closed,
        told=known,
        days=Days(item=item, store=store, category=category, dates=dates, discount=off, eves=_eves(shut)),
    )


def _tokens(events: Sequence[Event]) -> dict[str, list[int]]:
    named = ("series", "item", "store", "category")
    return {name: [event.entities.get(name, -1) for event in events] for name in named}


def _numbered(tokens: Sequence[int], which: Ints, n: int) -> Ints:
    """Returns the number, from 0 on, of what each series belongs to."""
    found = np.zeros(n, np.int64)
    found[which] = np.unique(tokens, return_inverse=True)[1]
    return found


def _parts(events: Sequence[Event]) -> tuple[Ints, Mask]:
    """Returns units and empty shelves by part of the day.

    Without parts all units count as sold early where some hour was empty, which says least of what was wanted. Returns
    of goods are no sales.
    """
    units = np.array([[int(event.attributes.get(name, 0)) for name in PARTS] for event in events], np.int64)
    total = np.array([int(event.attributes.get("units", 0)) for event in events], np.int64)
    untold = units.sum(axis=1) == 0
    units[untold, 0] = total[untold]
    hours = np.array([int(event.attributes.get("empty_h", 0)) for event in events])
    stocked = np.array([int(event.attributes.get("stocked_h", 0)) for event in events])
    share = hours / np.maximum(hours + stocked, 1)
    # The shelf was empty from there to the evening: the parts that ended with nothing on it.
    begins = np.floor(len(PARTS) * (1 - share) + 1e-9).astype(np.int64)
    empty = (np.arange(len(PARTS))[None, :] >= begins[:, None]) & (hours > 0)[:, None]
    return np.maximum(units, 0), empty


def _eves(closed: Mask) -> Mask:
    """Returns the days that are followed by a closed one within three days, and are none themselves."""
    found = np.zeros_like(closed)
    for ahead in (1, 2, 3):
        found[:-ahead] |= closed[ahead:]
    return np.asarray(found & ~closed)
