"""The `nixtla` client from PyPI, unmodified, with its address and key set to our server's.

It is 1 MB, what it asks for (pandas, pyarrow, zstandard) 340, so it is in no lock: `pip install nixtla==0.9.0` in the
environment of the tests makes these run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
from tests.clients.feeds import token
from tests.clients.processes import served

from decalog.home import Home

nixtla = pytest.importorskip("nixtla", reason="no nixtla: `pip install nixtla` (340 MB with pandas and pyarrow)")
pd = pytest.importorskip("pandas", reason="no pandas: nixtla brings it")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str, str]]:
    home = tmp_path_factory.mktemp("nixtla") / "home"
    with served(home, system="demand") as running:
        yield home, running.url, token(home, "decide")


@pytest.fixture(scope="module")
def client(server: tuple[Path, str, str]) -> Any:
    return nixtla.NixtlaClient(api_key=server[2], base_url=server[1], max_retries=1)


def sales(series: int = 40, days: int = 120) -> Any:
    rng = np.random.default_rng(3)
    dates = pd.date_range("2026-01-01", periods=days)
    level = 20 + 10 * (dates.dayofweek >= 5)
    rows = [
        pd.DataFrame({"unique_id": f"s{at}", "ds": dates, "y": rng.poisson(level).astype(float)})
        for at in range(series)
    ]
    return pd.concat(rows, ignore_index=True)


def position(home: Path) -> int:
    with closing(Home(home).reader()) as log:
        return log.position


def test_the_key_and_the_models_are_told(client: Any, server: tuple[Path, str, str]) -> None:
    assert client.validate_api_key()
    assert {"auto", "seasonal-naive", "ets"} <= set(client.list_models())
    assert not nixtla.NixtlaClient(api_key="dlg_none", base_url=server[1], max_retries=1).validate_api_key()


def test_a_frame_is_forecast_with_intervals(client: Any, server: tuple[Path, str, str]) -> None:
    frame = sales()
    before = position(server[0])
    made = client.forecast(df=frame, h=14, level=[80, 90], freq="D")
    assert list(made.columns) == [
        *("unique_id", "ds", "TimeGPT"),
        *("TimeGPT-hi-80", "TimeGPT-hi-90", "TimeGPT-lo-80", "TimeGPT-lo-90"),
    ]
    assert len(made) == 40 * 14
    assert made["ds"].min() == pd.Timestamp("2026-05-01")
    assert (made["TimeGPT-lo-90"] <= made["TimeGPT-lo-80"]).all()
    assert (made["TimeGPT-hi-80"] <= made["TimeGPT-hi-90"]).all()
    is_weekend = made["ds"].dt.dayofweek >= 5
    assert 26 < made["TimeGPT"][is_weekend].mean() < 34
    assert 17 < made["TimeGPT"][~is_weekend].mean() < 23
    assert position(server[0]) == before


def test_quantiles_are_asked_for_as_well_and_from_polars(client: Any) -> None:
    frame = pl.from_pandas(sales(series=2, days=60))
    made = client.forecast(df=frame, h=3, quantiles=[0.1, 0.5, 0.9], freq="1d", model="seasonal-naive")
    assert made.columns == ["unique_id", "ds", "TimeGPT", "TimeGPT-q-10", "TimeGPT-q-50", "TimeGPT-q-90"]
    assert (made["TimeGPT-q-10"] < made["TimeGPT-q-50"]).all()
    last = frame.filter(pl.col("unique_id") == "s0")["y"].to_list()[-7:]
    assert made["TimeGPT"].to_list()[:3] == last[:3]


def test_one_short_series_of_months_is_forecast_too(client: Any) -> None:
    months = pd.date_range("2020-01-01", periods=40, freq="MS")
    frame = pd.DataFrame({"ds": months, "y": 100.0 + 10 * months.month})
    made = client.forecast(df=frame, h=3, level=[80])
    assert made["ds"].tolist() == list(pd.date_range("2023-05-01", periods=3, freq="MS"))
    np.testing.assert_allclose(made["TimeGPT"], [150, 160, 170], atol=5)


def test_what_is_planned_is_taken_into_account(client: Any) -> None:
    frame = sales()
    rng = np.random.default_rng(5)
    frame["promoted"] = rng.integers(0, 2, len(frame)).astype(float)
    frame["y"] += 40 * frame["promoted"]
    days = pd.date_range("2026-05-01", periods=4)
    planned = pd.concat(pd.DataFrame({"unique_id": f"s{n}", "ds": days, "promoted": [1.0, 0, 1, 0]}) for n in range(40))
    made = client.forecast(df=frame, X_df=planned, h=4, freq="D")
    is_promoted = np.tile([True, False, True, False], 40)
    assert made["TimeGPT"][is_promoted].mean() > made["TimeGPT"][~is_promoted].mean() + 20


def test_a_large_frame_comes_compressed_and_in_parts(client: Any) -> None:
    frame = sales(series=150, days=700)
    frame["y"] += np.random.default_rng(0).random(len(frame))  # more than 1 MB as JSON: the client compresses it
    whole = client.forecast(df=frame, h=7, freq="D", model="seasonal-naive", level=[80])
    parts = client.forecast(df=frame, h=7, freq="D", model="seasonal-naive", level=[80], num_partitions=3)
    assert len(whole) == 150 * 7
    pd.testing.assert_frame_equal(whole, parts)


def test_earlier_times_are_forecast(client: Any) -> None:
    frame = sales(series=3, days=60)
    made = client.cross_validation(df=frame, h=7, n_windows=2, level=[80], freq="D", model="seasonal-naive")
    assert len(made) == 3 * 2 * 7
    assert made["cutoff"].drop_duplicates().tolist() == [pd.Timestamp("2026-02-15"), pd.Timestamp("2026-02-22")]
    truth = frame.merge(made, on=["unique_id", "ds"])
    assert (truth["y_x"] == truth["y_y"]).all()
    week_before = frame.assign(ds=frame["ds"] + pd.Timedelta(days=7)).merge(made, on=["unique_id", "ds"])
    assert (week_before["y_x"] == week_before["TimeGPT"]).all()


def test_utilsforecast_evaluates_it(client: Any) -> None:
    losses = pytest.importorskip("utilsforecast.losses")
    evaluation = pytest.importorskip("utilsforecast.evaluation")
    frame = sales(series=3, days=60)
    made = client.cross_validation(df=frame, h=7, n_windows=1, level=[80], freq="D", model="seasonal-naive")
    found = evaluation.evaluate(made.drop(columns="cutoff"), metrics=[losses.mae, losses.coverage], level=[80])
    assert found.loc[found["metric"] == "mae", "TimeGPT"].between(0, 20).all()


@pytest.mark.parametrize(
    ("asked", "status", "words"),
    [
        ({"model": "prophet"}, 422, "forecast, model: 'prophet'. Expected"),
        ({"finetune_steps": 3}, 422, "forecast: finetuning"),
        ({"level": [99]}, 422, "level: up to 40 from 0 to 98"),
        ({"df": sales(series=10, days=60), "h": 60_000}, 413, "Send them in parts"),
        ({"add_history": True}, 422, "forecast: add_history"),
    ],
)
def test_a_refusal_says_what_to_do(client: Any, asked: dict[str, Any], status: int, words: str) -> None:
    with pytest.raises(Exception, match="status_code") as caught:
        client.forecast(**{"df": sales(series=1, days=60), "h": 3, "freq": "D", "model": "seasonal-naive", **asked})
    error: Any = caught.value
    assert (error.status_code, set(error.body)) == (status, {"detail", "where", "given", "expected", "fix"})
    assert words in error.body["detail"]


def test_what_is_not_there_is_refused_in_the_same_form(client: Any, server: tuple[Path, str, str]) -> None:
    with pytest.raises(Exception, match="a path that is no route") as caught:
        client.finetune(df=sales(series=1, days=60), freq="D")
    assert caught.value.status_code == 404  # type: ignore[attr-defined]
    key = token(server[0], "outcomes")
    answer = httpx.get(f"{server[1]}/v2/models", headers={"Authorization": f"Bearer {key}"})
    assert (answer.status_code, "scope" in answer.json()["detail"]) == (403, True)
