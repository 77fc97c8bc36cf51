"""What demand's quality benchmarks share: their options, and a table of forecasts with what each scores."""

from __future__ import annotations

import argparse
import importlib.util
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from demand_sets import Set
from paired import Floats

from decalog.systems.demand.forecast import scores
from decalog.systems.demand.forecast.origins import Told, kept
from decalog.systems.demand.forecast.panel import Forecast, Method, Panel, season_errors


def options(text: str | None) -> argparse.Namespace:
    """Returns the options of a benchmark."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one last line of JSON")
    parser.add_argument("--short", action="store_true", help="every tenth series, for which nothing is published")
    earlier = "so many steps earlier, inside train, a horizon if nothing is said: for choosing"
    parser.add_argument("--validation", type=int, nargs="?", const=-1, default=0, metavar="STEPS", help=earlier)
    parser.add_argument("--cache", type=Path, help="folder that keeps what each method said, so that a re-run is cheap")
    return parser.parse_args()


def lacks_statsforecast() -> bool:
    """Returns whether the extra `demand` is missing, and says so."""
    if importlib.util.find_spec("statsforecast"):
        return False
    print("skipped: no statsforecast; `pip install decalog[demand]` brings it")
    return True


def cached(method: Method, folder: Path | None) -> Method:
    """Returns a method that looks into the folder first, where there is one."""
    return method if folder is None else kept(method, folder)


class Figures(NamedTuple):
    """What one row of a table scores."""

    mape: float
    smape: float
    mase: float
    wql: float
    coverage: float
    interval: float


def figures(told: Told) -> Figures:
    """Returns the scores of one method at one origin; the interval's in units of each series' scale."""
    actual, forecast, scale = told.actual, told.forecast, season_errors(told.panel)
    return Figures(
        scores.mape(actual, forecast.mean),
        scores.smape(actual, forecast.mean),
        scores.mase(actual, forecast.mean, scale=scale),
        scores.wql(actual, forecast.quantiles),
        scores.coverage(actual, forecast.quantiles),
        scores.interval_score(actual, forecast.quantiles, scale=scale),
    )


HEADER = f"{'':34}{'MAPE':>8}{'sMAPE':>8}{'MASE':>8}{'WQL':>8}{'90 %':>8}{'interval':>10}{'CPU s':>8}   published"


def row(method: Method, train: Panel, actual: Floats, *, name: str = "", published: str = "") -> Told:
    """Forecasts, prints a row of the table, and returns what was told."""
    began = time.process_time()
    forecast: Forecast = method.forecast(train, actual.shape[1])
    took = time.process_time() - began
    told = Told(train, forecast, actual)
    found = figures(told)
    cells = f"{found.mape:>8.2f}{found.smape:>8.3f}{found.mase:>8.3f}{found.wql:>8.4f}{found.coverage:>8.3f}"
    print(f"{name or method.name:34}{cells}{found.interval:>10.2f}{took:>8.0f}   {published}", flush=True)
    return told


def shown(found: Set, wanted: argparse.Namespace, horizon: int) -> Set:
    """Returns the part of a set that the options ask for: every tenth series, or some steps earlier, inside train."""
    train, test = found
    if wanted.short:
        train, test = train.of(np.arange(0, len(test), 10)), test[::10]
    if wanted.validation:
        end = train.y.shape[1] - (horizon if wanted.validation < 0 else wanted.validation)
        train, test = train.until(end), train.y[:, end : end + horizon]
    return Set(train, test)


def groups(train: Panel) -> dict[str, Floats]:
    """Returns the series of full length and the shorter ones, and halves by how much they move beside their level."""
    known = (~np.isnan(train.y)).sum(axis=1)
    moves = season_errors(train) / np.nanmean(np.abs(train.y), axis=1)
    return {
        "shorter series": known < np.max(known),
        "longest series": known == np.max(known),
        "steady series": moves <= np.median(moves),
        "volatile series": moves > np.median(moves),
    }


def by_group(told: Told, groups: dict[str, Floats]) -> dict[str, float]:
    """Prints and returns the coverage of each group of series, with the interval score beside it."""
    found = {}
    for name, places in groups.items():
        some = told.forecast._replace(
            mean=told.forecast.mean[places], quantiles=told.forecast.quantiles[places], fitted=None
        )
        part = figures(Told(told.panel.of(np.flatnonzero(places)), some, told.actual[places]))
        held = f"90 % intervals hold {part.coverage:.3f}, score {part.interval:.2f}"
        print(f"  {name:32}{int(places.sum()):>5} series: {held}")
        found[name] = part.coverage
    return found
