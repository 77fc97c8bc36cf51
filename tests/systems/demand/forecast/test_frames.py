from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest
from tests.systems.demand.forecast.panels import weekly

from decalog.errors import DataError
from decalog.systems.demand.forecast.calendar import Calendar
from decalog.systems.demand.forecast.checks import checked
from decalog.systems.demand.forecast.frames import actual_columns, columns_of, gluonts, read
from decalog.systems.demand.forecast.naive import seasonal_naive
from decalog.systems.demand.forecast.panel import LEVELS, Panel


def long_frame() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "unique_id": ["b", "a", "b", "a"],
            "ds": ["2026-03-02", "2026-03-01", "2026-03-01", "2026-03-03"],
            "y": [2, 1, None, 3],
            "price": [9.5, 8.0, 9.5, None],
            "store": ["x", "x", "y", "y"],
        },
        schema_overrides={"y": pl.Int64},
    ).with_columns(pl.col("ds").str.to_date())


@pytest.mark.parametrize("kind", ["polars", "parquet", "csv", "arrow of duckdb"])
def test_every_kind_of_frame_is_read_alike(kind: str, tmp_path: Path) -> None:
    frame, source = long_frame(), tmp_path / "sales.bin"
    given: Any = frame
    if kind == "parquet":
        given = source.with_suffix(".parquet")
        frame.write_parquet(given)
    elif kind == "csv":
        given = source.with_suffix(".csv")
        frame.write_csv(given)
    elif kind == "arrow of duckdb":
        frame.write_parquet(source)
        given = duckdb.sql(f"SELECT * FROM read_parquet('{source}')")
    table = read(given)
    assert table.ids == ("b", "a")
    assert table.series.tolist() == [0, 1, 0, 1]
    assert table.times.astype("datetime64[D]").astype(str).tolist() == [
        "2026-03-02",
        "2026-03-01",
        "2026-03-01",
        "2026-03-03",
    ]
    np.testing.assert_array_equal(table.y, [2, 1, np.nan, 3])
    np.testing.assert_array_equal(table.numbers["price"], [9.5, 8.0, 9.5, np.nan])
    assert table.texts["store"].tolist() == ["x", "x", "y", "y"]


def test_pandas_is_read_too() -> None:
    pd = pytest.importorskip("pandas", reason="pandas is not installed: no frame of it to read")
    table = read(pd.DataFrame({"unique_id": ["a", "a"], "ds": pd.date_range("2026-01-01", periods=2), "y": [1.0, 2.0]}))
    assert checked(table).panel.y.tolist() == [[1, 2]]


def test_columns_may_have_other_names_and_times_may_be_numbers() -> None:
    frame = pl.DataFrame({"item": ["a", "a"], "t": [5, 6], "sold": [1.0, 2.0]})
    table = read(frame, names={"unique_id": "item", "ds": "t", "y": "sold"})
    assert not table.has_dates
    assert checked(table).panel.y.tolist() == [[1, 2]]


def test_a_time_with_a_zone_becomes_utc() -> None:
    frame = pl.DataFrame({"unique_id": ["a"], "ds": ["2026-03-01T01:00:00+01:00"], "y": [1.0]}).with_columns(
        pl.col("ds").str.to_datetime(time_zone="UTC")
    )
    assert read(frame).times[0] == np.datetime64("2026-03-01T00:00:00")


def test_a_missing_column_is_named() -> None:
    with pytest.raises(
        DataError, match=r"long frame: no column 'ds'. Expected a column for ds: .*one of: date, unique_id, y"
    ):
        read(pl.DataFrame({"unique_id": ["a"], "date": [1], "y": [1.0]}))


def test_a_file_that_is_no_frame_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"long frame: data that cannot be read .*Expected a Parquet or CSV file"):
        read(tmp_path / "none.parquet")


def test_forecasts_go_back_as_a_long_frame() -> None:
    panel = Panel(ids=("a", "b"), y=weekly(2).y, seasons=(7,), calendar=Calendar("day", 0))
    forecast = seasonal_naive().forecast(panel, 3)
    frame = pl.DataFrame(columns_of(panel, {"ours": forecast}))
    assert frame.columns[:7] == ["unique_id", "ds", "ours", "ours-lo-80", "ours-hi-80", "ours-lo-90", "ours-hi-90"]
    assert frame.height == 6
    assert frame["ds"][0].isoformat() == "1970-05-21T00:00:00"
    assert frame["ours-lo-90"].to_list() == frame["ours_q0.05"].to_list()
    assert sum(name.startswith("ours_q") for name in frame.columns) == len(LEVELS)
    actual = pl.DataFrame(actual_columns(panel, last=2))
    assert actual["y"].to_list() == panel.y[:, -2:].ravel().tolist()
    assert checked(read(actual)).panel.y.tolist() == panel.y[:, -2:].tolist()


@pytest.mark.filterwarnings("ignore:Using `json`-module")  # gluonts would like a faster one
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what gluonts itself imports
@pytest.mark.filterwarnings("ignore::FutureWarning")  # pandas to gluonts
def test_gluonts_takes_our_data_set() -> None:
    pytest.importorskip("gluonts", reason="gluonts is not installed: nothing takes the data set")
    from gluonts.dataset.common import ListDataset
    from gluonts.evaluation import make_evaluation_predictions
    from gluonts.model.seasonal_naive import SeasonalNaivePredictor

    panel = Panel(ids=("a", "b"), y=weekly(2).y, seasons=(7,), calendar=Calendar("day", 0))
    entries = list(gluonts(panel))
    data = ListDataset([entry | {"start": entry["start"]} for entry in entries], freq="D")
    told, _ = make_evaluation_predictions(
        data, SeasonalNaivePredictor(prediction_length=7, season_length=7), num_samples=1
    )
    ours = seasonal_naive().forecast(panel.until(133), 7)
    assert np.array([next(iter(one.samples)) for one in told]) == pytest.approx(ours.mean)
