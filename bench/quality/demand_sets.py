"""The public sets that demand's benchmarks read: Tourism of 2010, M4's hourly part, the hierarchy TourismLarge."""

from __future__ import annotations

import csv
import json
from typing import NamedTuple

import duckdb
import numpy as np
from paired import shared_data

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
