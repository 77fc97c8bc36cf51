"""The set and the scores of the benchmark on Complete Journey."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import duckdb
import numpy as np
import pytest

from decalog.systems.demand.forecast.panel import LEVELS

BENCH = Path(__file__).resolve().parent.parent / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Returns the benchmark, which finds its parts beside itself."""
    monkeypatch.setattr(sys, "path", [str(BENCH / "quality"), *sys.path])
    return importlib.import_module("demand_complete_journey")


def written(folder: Path, name: str, rows: str) -> Path:
    """Writes what a query answers to a Parquet file."""
    path = folder / f"{name}.parquet"
    duckdb.execute(f"copy ({rows}) to '{path}' (format parquet)")
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Returns a set: every week store 1 sells milk, and fuel that does not count; store 2 has no promotions."""
    weekly = "from range(52) as weeks(week), (values (1, 11, 4), (1, 12, 2), (1, 13, 9000), (2, 11, 5)) as t(s, p, q)"
    times = "timestamp '2017-01-03 02:00' + to_days(7 * week::int)"
    receipts = f"select s as store_id, p as product_id, q as quantity, {times} as transaction_timestamp {weekly}"
    late = "select 1, 11, 40, timestamp '2018-01-01 04:30'"
    products = "(11, 'GROCERY', 'MILK'), (12, 'GROCERY', 'MILK'), (13, 'FUEL', 'MILK')"
    shown = "(11, 1, '5', '0', 3), (11, 1, '0', 'A', 3), (12, 1, '0', 'D', 3), (11, 1, '0', 'D', 1)"
    return (
        written(tmp_path, "receipts", f"{receipts} union all {late}"),
        written(tmp_path, "products", f"from (values {products}) as t(product_id, department, product_category)"),
        written(
            tmp_path,
            "promotions",
            f"from (values {shown}) as t(product_id, store_id, display_location, mailer_location, week)",
        ),
    )


def test_a_week_is_the_stores_own_and_fuel_is_no_pieces(bench: ModuleType, files: tuple[Path, Path, Path]) -> None:
    journey = bench.complete_journey(*files)
    assert journey.panel.ids == ("1 / MILK",)
    assert journey.panel.y.shape == (1, 52)
    assert journey.panel.y[0, :51].tolist() == [6.0] * 51
    assert journey.panel.y[0, 51] == 46  # half past four in the morning of a Monday in UTC is still Sunday in New York
    assert journey.panel.calendar.times(np.array([0]))[0] == np.datetime64("2017-01-02", "s")


def test_what_is_promoted_weighs_what_the_chain_sells_of_it(bench: ModuleType, files: tuple[Path, Path, Path]) -> None:
    known = bench.complete_journey(*files).panel.known
    sold = 4 + 5 + 2
    assert known["display"][0, :3].tolist() == pytest.approx([0, 9 / sold, 0])
    assert known["inside"][0, :3].tolist() == pytest.approx([0, 9 / sold, 0])
    assert known["front"][0, :3].tolist() == pytest.approx([0, 2 / sold, 0])
    assert np.flatnonzero(known["holiday"][0]).tolist() == [14, 21, 26, 35, 46, 51]
    assert np.flatnonzero(known["before_holiday"][0]).tolist() == [13, 20, 25, 34, 45, 50, 51]


def test_the_ratio_of_losses_has_an_interval_over_series(bench: ModuleType) -> None:
    actual = np.random.default_rng(0).poisson(5.0, (2, 40, 4)).astype(np.float64)
    folds = bench.Folds(actual, np.ones((2, 40)))

    def row(name: str, off: float) -> Any:
        return bench.Row(name, np.repeat((actual + off)[..., None], len(LEVELS), axis=-1), 1.0)

    near, far = row("near", 1.0), row("far", 2.0)
    assert bench.figures(near, folds).wql == pytest.approx(1.0 / actual.mean())
    assert bench.figures(near, folds).mase == pytest.approx(1.0)
    right = row("right", 0.0)
    asked = np.isin(LEVELS, bench.PEER_LEVELS)
    peer = right._replace(quantiles=np.where(asked, right.quantiles, np.nan))
    for one in (right, peer):
        assert bench.figures(one, folds)[1:] == (0.0, pytest.approx(0.9 / 0.95), 1.0, 0.0)
    assert bench.ratio_interval(near, far, folds, repeats=50) == pytest.approx((0.5, 0.5))
    few = bench.figures(near, folds, np.arange(40) < 3)
    assert few.wql == pytest.approx(1.0 / actual[:, :3].mean())


def test_what_is_made_of_the_peers_quantiles(bench: ModuleType) -> None:
    rows = [bench.Row(name, np.full((1, 1, 1, 3), value), 1.0) for name, value in (("ETS", 1), ("CES", 5))]
    assert bench.made_rows(rows) == []
    (found,) = bench.made_rows([*rows, bench.Row("Theta", np.full((1, 1, 1, 3), 2), 1.0)])
    assert found.quantiles.ravel().tolist() == [2, 2, 2]
    assert found.cpu_s == 3
    (whole,) = bench.made_rows([bench.Row("LightGBM quantiles", np.full((1, 1, 1, 3), 1.7), 1.0)])
    assert whole.quantiles.ravel().tolist() == [2, 2, 2]
