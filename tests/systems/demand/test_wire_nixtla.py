"""TimeGPT's API where no client has to be asked: frequencies, what a body must hold, limits, what is counted."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.systems.demand.doors import Door, opened

from decalog.errors import LimitError, RequestError
from decalog.http.problems import Refusal
from decalog.http.wires import Asked
from decalog.systems.demand import wire_nixtla
from decalog.systems.demand.wire_forecasting import (
    MOST_SERIES,
    Wanted,
    automatic,
    check,
    cross_validation,
    forecast,
    method_of,
    panel_of,
    read,
    steps_of,
)
from decalog.systems.demand.wire_nixtla import Nixtla


@pytest.fixture
def door(tmp_path: Path, runner: asyncio.Runner) -> Iterator[Door]:
    with opened(tmp_path, runner) as made:
        yield made


def body(**changes: Any) -> dict[str, Any]:
    """Returns a request for two series of a week's pattern, one of them shorter."""
    week = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    series = {"y": week * 5 + week * 4, "sizes": [35, 28], "X": None, "X_future": None}
    told = {"series": series, "h": 2, "freq": "D", "model": "seasonal-naive", "level": [80]}
    series |= {name: value for name, value in changes.items() if name in ("y", "sizes", "X", "X_future")}
    series |= {name: value for name, value in changes.items() if name in ("start_datetime", "categorical_exog")}
    return told | {name: value for name, value in changes.items() if name not in series}


def wanted(**changes: Any) -> Wanted:
    return check(read(msgspec.json.encode(body(**changes)), compressed=False))


@pytest.mark.parametrize(
    ("freq", "unit", "seasons"),
    [
        ("h", "hour", (24, 168)),
        ("1d", "day", (7,)),
        ("W-MON", "week", (52,)),
        ("MS", "month", (12,)),
        ("ME", "month", (12,)),
        ("1MS", "month", (12,)),
        ("QS-DEC", "quarter", (4,)),
        ("YE", "year", ()),
        ("A", "year", ()),
        ("3MS", None, (4,)),
        ("30min", None, (48, 336)),
        ("5T", None, (12, 288)),
        ("2D", None, ()),
        ("7D", None, ()),
        ("2h", None, (12, 84)),
    ],
)
def test_frequencies_have_their_seasons(freq: str, unit: str | None, seasons: tuple[int, ...]) -> None:
    assert steps_of(freq) == (unit, seasons)


@pytest.mark.parametrize("freq", ["", "0D", "X", "MSQ", "min5", "D D"])
def test_a_frequency_that_is_none_is_refused(freq: str) -> None:
    with pytest.raises(RequestError, match=r"forecast, freq: '.*'\. Expected a frequency of pandas or polars"):
        steps_of(freq)


def test_series_end_together_and_gaps_stay_gaps() -> None:
    starts = ["2026-01-01", "2026-01-08T00:00:00"]
    y = [1.0, None, *range(33), *range(28)]
    panel = panel_of(wanted(y=y, start_datetime=starts), known=[], horizon=2)
    assert panel.y.shape == (2, 35)
    assert np.isnan(panel.y[0, 1])
    assert np.isnan(panel.y[1, :7]).all()
    assert panel.y[:, -1].tolist() == [32, 27]
    assert panel.calendar is not None
    assert str(panel.calendar.times(np.array([34]))[0]) == "2026-02-04T00:00:00"
    # Where they end on different days no date is the panel's.
    assert panel_of(wanted(start_datetime=["2026-01-01"] * 2), known=[], horizon=2).calendar is None


def test_of_each_series_all_windows_then_all_steps_are_told() -> None:
    assert forecast(wanted())["mean"] == [1, 2, 1, 2]
    told = cross_validation(wanted(n_windows=2, step_size=3, level=None))
    assert told["mean"] == [3, 4, 6, 7] * 2
    assert (told["sizes"], told["intervals"]) == ([4, 4], None)
    assert told["idxs"] == [30, 31, 33, 34, 58, 59, 61, 62]


def test_what_never_was_below_nothing_is_not_forecast_below_it() -> None:
    rng = np.random.default_rng(0)
    y = rng.poisson(0.3, 63).astype(float)
    assert min(forecast(wanted(y=y.tolist()))["intervals"]["lo-80"]) == 0
    assert min(forecast(wanted(y=(y - 1).tolist()))["intervals"]["lo-80"]) < -1


def test_the_default_learns_where_there_is_enough_to_learn_from() -> None:
    rng = np.random.default_rng(1)
    days = np.arange(120)
    y = rng.poisson(20 + 10 * (days % 7 > 4), (30, 120)).astype(float)
    panel = panel_of(wanted(y=y.ravel().tolist(), sizes=[120] * 30), known=[], horizon=0)
    truth = 20 + 10 * ((120 + np.arange(7)) % 7 > 4)
    errors = {
        model: np.abs(method_of(model)(panel, 7).mean - truth).mean() for model in ("timegpt-2.1", "seasonal-naive")
    }
    assert errors["timegpt-2.1"] < 0.7 * errors["seasonal-naive"]
    assert automatic(panel.until(20), 7).mean.shape == (30, 7)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"h": 0}, "h and n_windows"),
        ({"sizes": [35, 27]}, "sizes: of each series"),
        ({"sizes": []}, "sizes: of each series"),
        ({"sizes": [63, 0]}, "sizes: of each series"),
        ({"X": [[1.0] * 62], "X_future": [[1.0] * 4]}, "X: a number for each value"),
        ({"X": [[1.0] * 63], "X_future": [[1.0] * 3]}, "X_future: h numbers"),
        ({"X": [["a"] * 63], "X_future": [[1.0] * 4]}, "a column of other things than numbers"),
        ({"X": [[1.0] * 63]}, "exogenous columns of the past alone"),
        ({"level": [-1]}, "level: up to 40 from 0 to 98"),
        ({"start_datetime": ["2026-01-01"]}, "start_datetime: one a series"),
        ({"start_datetime": ["now", "then"]}, "a start_datetime that is no time"),
        ({"categorical_exog": [0]}, "exogenous columns of categories"),
        ({"multivariate": True}, "multivariate"),
        ({"feature_contributions": True}, "feature_contributions"),
        ({"model": "tft"}, "forecast, model"),
        ({"h": "2"}, "a body that does not fit"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=re.escape(words)):
        forecast(wanted(**changes))


def test_windows_that_reach_too_far_back_are_refused() -> None:
    with pytest.raises(RequestError, match=r"windows that reach 28 steps back, and a series of 28"):
        cross_validation(wanted(n_windows=14))
    with pytest.raises(RequestError, match="add_history"):
        cross_validation(wanted(full_history=True))
    with pytest.raises(RequestError, match="hist_exog"):
        cross_validation(wanted(hist_exog=[0]))


def test_too_much_is_refused() -> None:
    with pytest.raises(LimitError, match="num_partitions"):
        wanted(y=[1.0] * (MOST_SERIES + 1), sizes=[1] * (MOST_SERIES + 1))


# Over HTTP

HEADERS = {"nixtla-client-version": "0.9.0"}


def test_a_request_is_answered_counted_and_forgotten(door: Door) -> None:
    before = door.log.position
    answer = door.call("POST", "/v2/forecast", json=body(), headers=HEADERS).json()
    assert answer["mean"] == [1, 2, 1, 2]
    assert set(answer["intervals"]) == {"lo-80", "hi-80"}
    assert door.log.position == before
    assert door.host.meter.registry.get_sample_value("decalog_demand_forecast_values_total") == 4


def test_refusals_come_in_the_clients_form(door: Door) -> None:
    told = door.call("POST", "/v2/forecast", content=b"{", headers=HEADERS, status=422).json()
    assert set(told) == {"detail", "where", "given", "expected", "fix"}
    broken = {**HEADERS, "content-encoding": "zstd"}
    told = door.call("POST", "/v2/forecast", content=b"no zstd", headers=broken, status=422).json()
    assert "a compressed body that cannot be read" in told["detail"]
    told = door.call("POST", "/v2/forecast", content=b"", headers={"content-encoding": "br"}, status=415).json()
    assert told["expected"] == "zstd, or a body as it is"
    assert door.call("POST", "/v2/anomaly_detection", headers=HEADERS, status=404).json()["detail"]


def test_what_the_client_asks_first_is_told(door: Door) -> None:
    assert door.call("GET", "/validate_api_key").json()["detail"]
    told = door.call("GET", "/model_params?model=timegpt-1&freq=MS").json()
    assert told == {"detail": {"input_size": 1_000, "horizon": 48}}
    assert {"name": "auto"} in door.call("GET", "/v2/models").json()["models"]


def test_what_takes_too_long_is_stopped_and_more_than_wait_are_sent_away(
    door: Door, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = []

    async def endless(*words: str, told: bytes = b"") -> tuple[bytes, bytes, int]:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(words[1])
        raise AssertionError

    monkeypatch.setattr(wire_nixtla, "run_aside", endless)
    door.host.meter.registry.unregister(door.host.meter.registry._names_to_collectors["decalog_demand_forecast_values"])
    wire = Nixtla(door.host, longest_s=0.01)
    answer = next(route.answer for route in wire.routes if route.path == "/v2/forecast")
    asked = Asked({}, (), b"", b"")

    async def at_once() -> list[Any]:
        return await asyncio.gather(*(answer(asked) for _ in range(18)), return_exceptions=True)

    found = runner.run(at_once())
    assert [type(one) for one in found] == [LimitError] * 16 + [Refusal] * 2
    assert "was not answered within 0.01 s" in str(found[0])
    assert (found[17].status, found[17].headers) == (429, ((b"retry-after", b"10"),))
    assert ended == ["forecast"]


def test_a_process_that_ends_without_a_word_is_no_fault_of_the_caller(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(*words: str, told: bytes = b"") -> tuple[bytes, bytes, int]:
        return b"", b"", 9

    monkeypatch.setattr(wire_nixtla, "run_aside", silent)
    assert door.call("POST", "/v2/forecast", json=body(), status=500).json()["where"] == "server"
