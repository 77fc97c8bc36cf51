"""A store that reports cases for units, or units for cases, found on the log soon after it began.

Sales, and what lies on the shelf, of each series are compared with the four weeks before, weekday by weekday, on days
without a promotion that did not sell out. A series changed by its pack where its level moved at once by most of what a
pack would make of it; where more than half of a store's series did so together, its till or its stock system counts in
another unit. `forecast.checks` finds the same in a frame (`unit_change_suspected`), weeks later: here the series of a
store are looked at together, and requests say their packs. Series that are ordered by the piece say how everything
moved: that is taken off.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from decalog.clock import DAY
from decalog.decisions import decode_decision
from decalog.events import Event, Record, decode_event
from decalog.monitoring import Found
from decalog.systems.demand.schema import DAY_KIND, SCHEMA
from decalog.tails import LogTail, position_at

Floats = npt.NDArray[np.float64]
Column = str
COLUMNS: Mapping[Column, str] = {"units": "sales", "left": "stock"}
_BEFORE = 28
_WEEK = 7
_LEAST_DAYS, _LEAST_UNITS, _LEAST_SERIES, _LEAST_PIECES, _LEAST_PACK = 14, 8.0, 8, 3, 3
_MOST_OF_IT = 0.7
"""Of a pack's size, in logs: how much of it a level moves at least."""
_BY_CHANCE = 0.2
"""How many series would do so in a store that counts as ever, at most: promotions, slow items, a bad day."""
_HALF = 0.5


class Series(NamedTuple):
    """A series on the log: its store, and its days by number: what was told of each."""

    store: str
    days: dict[int, Event]


def found(log: LogTail, *, start: int, stop: int) -> Iterator[Found]:
    """Yields what the sales and the stock of each store say by the days of a window, from start to stop, µs."""
    records = log.read(position_at(log, start - _BEFORE * DAY), position_at(log, stop))
    series, packs = _read(record for record in records if record.system == SCHEMA.system)
    first, last = start // DAY, stop // DAY
    for column, what in COLUMNS.items():
        stores: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for token, one in series.items():
            moved = _moved(one, column, first=first, last=last, pack=packs.get(token, 1))
            if moved is not None:
                stores[one.store].append((packs.get(token, 1), moved))
        for store, rows in sorted(stores.items()):
            yield from _judged(store, rows, column=column, what=what)


def _judged(store: str, rows: list[tuple[int, float]], *, column: Column, what: str) -> Iterator[Found]:
    """Yields what a store's series say, each with its pack and by how much it moved, in logs."""
    from scipy.special import bdtrc

    pieces = [moved for pack, moved in rows if pack == 1]
    common = float(np.median(pieces)) if len(pieces) >= _LEAST_PIECES else 0.0
    moved = np.array([(moved - common) / np.log(pack) for pack, moved in rows if pack >= _LEAST_PACK])
    if len(moved) < _LEAST_SERIES:
        return
    fell, rose = int(np.sum(moved < -_MOST_OF_IT)), int(np.sum(moved > _MOST_OF_IT))
    most, is_fall = max((fell, True), (rose, False))
    share = most / len(moved)
    change = "in cases where units were" if is_fall else "in units where cases were"
    yield Found(
        labels={"store": store, "column": column},
        said=f"{what} of {most} of {len(moved)} series moved by their pack at once: told {change}?",
        value=share,
        is_beyond=share > _HALF,
        p_value=float(bdtrc(most - 1, len(moved), _BY_CHANCE)) if most else 1.0,
    )


def _moved(one: Series, column: Column, *, first: int, last: int, pack: int) -> float | None:
    """Returns by how much a level moved from day first on, before last, in logs; None where too little is told."""
    days = {day: _value(event, column) for day, event in one.days.items() if day < last and _is_usual(event, column)}
    before = {day: value for day, value in days.items() if day < first}
    if len(before) < _LEAST_DAYS or len(before) == len(days):
        return None
    expected = sum(_usual(before, day) for day in days if day >= first)
    came = sum(value for day, value in days.items() if day >= first)
    # Told in cases, a pack's worth is 1: so many are needed on the larger side.
    if max(expected, came) < max(_LEAST_UNITS, pack):
        return None
    return float(np.log((came + _HALF) / (expected + _HALF)))


def _usual(before: Mapping[int, float], day: int) -> float:
    """Returns what such a weekday usually has, or any day where none of its kind was told."""
    alike = [value for other, value in before.items() if (day - other) % _WEEK == 0]
    return float(np.mean(alike or [*before.values()]))


def _value(event: Event, column: Column) -> float:
    return float(max(int(event.attributes.get(column, 0)), 0))


def _is_usual(event: Event, column: Column) -> bool:
    said = event.attributes
    return column in said and not (said.get("is_closed") or said.get("empty_h") or said.get("discount_bp"))


def _read(records: Iterable[Record]) -> tuple[dict[int, Series], dict[int, int]]:
    """Returns the days of each series as they were told last, and each one's pack as requests say it."""
    series: dict[int, Series] = {}
    packs: dict[int, int] = {}
    for record in records:
        if record.kind not in ("decision", "event") or record.reason:
            continue
        event = decode_decision(record.body).request if record.kind == "decision" else decode_event(record.body)
        token = event.entities.get("series", -1)
        if event.kind != DAY_KIND:
            packs[token] = int(event.attributes.get("pack", 1))
        elif token >= 0 and not event.deleted:
            one = series.setdefault(token, Series(str(event.attributes.get("store", "")), {}))
            one.days[event.event_time // DAY] = event  # a correction comes later
    return series, packs
