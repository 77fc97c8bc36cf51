"""The public sets of demand's benchmarks: Tourism of 2010, M4's hourly part, TourismLarge, Complete Journey."""

from __future__ import annotations

import csv
import datetime as dt
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np
from paired import shared_data

from decalog.systems.demand.forecast.calendar import Calendar
from decalog.systems.demand.forecast.panel import Floats, Panel, panel_of


class Set(NamedTuple):
    """Series to learn from and what came: float64, series × horizon."""

    train: Panel
    test: Floats


def tourism_monthly() -> Set | None:
    """Returns the 366 monthly series of the tourism competition, 24 steps ahead; None where they are absent."""
    path = shared_data("demand", "m3_tourism", "tcomp_data.json")
    if not path.is_file():
        return None
    monthly = {name: one for name, one in json.loads(path.read_text()).items() if one["period"] == ["MONTHLY"]}
    train = panel_of({name: np.array(one["x"], np.float64) for name, one in monthly.items()}, seasons=(12,))
    return Set(train, np.array([one["xx"] for one in monthly.values()], np.float64))


def m4_hourly() -> Set | None:
    """Returns the 414 hourly series of the M4 competition, 48 steps ahead; None where they are absent."""
    folder = shared_data("demand", "m4_hourly")
    if not (folder / "hourly_train.parquet").is_file():
        return None
    parts = []
    for part in ("train", "test"):
        query = "select unique_id, list(y order by t) from read_parquet(?) group by 1 order by 1"
        parts.append(dict(duckdb.execute(query, [str(folder / f"hourly_{part}.parquet")]).fetchall()))
    train = panel_of({name: np.array(y, np.float64) for name, y in parts[0].items()}, seasons=(24, 168))
    return Set(train, np.array([parts[1][name] for name in train.ids], np.float64))


class Tree(NamedTuple):
    """A hierarchy: all series over all months, the sums of bottom series that each is, and the level of each."""

    panel: Panel
    sums: Floats
    levels: tuple[str, ...]


def tourism_large() -> Tree | None:
    """Returns 228 months of 555 series in eight levels: four of places, and those by purpose; None where absent."""
    folder = shared_data("demand", "hier_tourismlarge")
    if not (folder / "tourismlarge_data.csv").is_file():
        return None
    with (folder / "tourismlarge_data.csv").open() as file:
        (_, *names), *rows = csv.reader(file)
    with (folder / "tourismlarge_agg_mat.csv").open() as file:
        _, *lines = csv.reader(file)
    ids = tuple(line[0] for line in lines)
    y = np.array([row[1:] for row in rows], np.float64).T[[names.index(name) for name in ids]]
    sums = np.array([line[1:] for line in lines], np.float64)
    return Tree(Panel(ids=ids, y=y, seasons=(12,)), sums, tuple(map(_level, ids)))


def _level(name: str) -> str:
    purpose = name[-3:]
    place = "country" if name.startswith("Total") else ("state", "zone", "region")[len(name) - len(purpose) - 1]
    return place if purpose == "All" else f"{place} × purpose"


WEEKS, FIRST = 52, dt.date(2017, 1, 2)
"""Whole weeks of Complete Journey, Monday to Sunday; its own week 2 is the first of them."""
CHOSEN_BY, LEAST_PIECES = 24, 84
"""Series are those that sold 3.5 pieces a week in the first 24 weeks, before any origin."""
HOLIDAYS = tuple(map(dt.date.fromisoformat, (
    "2017-04-16", "2017-05-29", "2017-07-04", "2017-09-04", "2017-11-23", "2017-12-25", "2018-01-01",
)))  # fmt: skip
"""Easter, Memorial Day, 4th of July, Labor Day, Thanksgiving, Christmas, New Year."""
PROMOTED = {
    "display": "display <> '0'",
    "front": "mailer in ('D', 'F', 'H', 'L')",
    "inside": "mailer in ('A', 'C', 'J', 'P', 'X', 'Z')",
}
"""Where a promoted product stands: on a display; on a front, back or wrap page of the leaflet; inside of it."""


class Journey(NamedTuple):
    """Weekly pieces of each category in each store, with what was planned; store and category of each series."""

    panel: Panel
    stores: tuple[str, ...]
    categories: tuple[str, ...]


def complete_journey(receipts: Path, products: Path, promotions: Path) -> Journey:
    """Returns the weekly series of Complete Journey; a store's day is New York's, the times of the files are UTC.

    Known ahead are, of each category in each store, the share of its products that is on display, on the leaflet's
    outer pages, or inside, each product weighted by what the chain sold of it in the first weeks; and which weeks have
    a holiday, or come before one. Fuel, miscellanea and coupons are left out: their units are no pieces.
    """
    connection = duckdb.connect(config={"threads": 1})
    connection.execute("set TimeZone = 'America/New_York'")
    connection.execute(
        """create table lines as select store_id as store, product_category as category, product_id, quantity,
        date_diff('day', ?::date, (transaction_timestamp at time zone 'UTC')::timestamp::date) as day
        from read_parquet(?) as receipts join read_parquet(?) as products using (product_id)
        where department not in ('FUEL', 'MISCELLANEOUS') and product_category not like 'COUPON%'""",
        [FIRST, str(receipts), str(products)],
    )
    connection.execute(
        """create table series as select store, category from lines where day < 7 * ?
        and store in (select store_id from read_parquet(?)) group by all having sum(quantity) >= ? order by all""",
        [CHOSEN_BY, str(promotions), LEAST_PIECES],
    )
    keys = connection.execute("select store, category from series order by all").fetchall()
    place = {key: at for at, key in enumerate(keys)}
    sold = connection.execute(
        """select store, category, day // 7, sum(quantity) from lines join series using (store, category)
        where day >= 0 group by all"""
    ).fetchall()
    connection.execute(
        """create table weights as select product_id, category,
        sum(quantity) / sum(sum(quantity)) over (partition by category) as weight
        from lines where day < 7 * ? group by product_id, category""",
        [CHOSEN_BY],
    )
    shown = ", ".join(f"max(({rule})::int) as {name}" for name, rule in PROMOTED.items())
    shares = ", ".join(f"sum(weight * {name})" for name in PROMOTED)
    planned = connection.execute(
        f"""with places as (select store_id as store, product_id, week, display_location as display,
        mailer_location as mailer from read_parquet(?)),
        shown as (select store, product_id, week, {shown} from places group by all)
        select store, category, week - 2, {shares} from shown join weights using (product_id)
        join series using (store, category) where week >= 2 group by all""",  # noqa: S608  # our own words
        [str(promotions)],
    ).fetchall()
    y = _laid(place, sold)
    known = {name: _laid(place, [(*row[:3], row[3 + at]) for row in planned]) for at, name in enumerate(PROMOTED)}
    feast = np.zeros(WEEKS + 1)
    feast[[(day - FIRST).days // 7 for day in HOLIDAYS]] = 1
    known |= {"holiday": np.tile(feast[:-1], (len(y), 1)), "before_holiday": np.tile(feast[1:], (len(y), 1))}
    first = int(np.datetime64(FIRST, "s").astype(np.int64))
    names = tuple(f"{store} / {category}" for store, category in keys)
    panel = Panel(ids=names, y=y, calendar=Calendar("week", first), known=known)
    return Journey(panel, tuple(str(store) for store, _ in keys), tuple(category for _, category in keys))


def _laid(place: dict[tuple[int, str], int], rows: Sequence[tuple[int, str, int, float]]) -> Floats:
    """Returns rows of (store, category, week, value) as series × weeks, 0 where there is none."""
    found = np.zeros((len(place), WEEKS))
    for store, category, week, value in rows:
        found[place[store, category], week] = value
    return found
