"""A part of a frame is forecast to the bits of the whole, by a pipeline that was stored and read again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from tests.systems.demand.forecast.panels import long_frame

from decalog.errors import DataError
from decalog.systems.demand.forecast import panel as panels
from decalog.systems.demand.forecast.boosting import Boosted, Settings, boosted
from decalog.systems.demand.forecast.checks import Rules, checked
from decalog.systems.demand.forecast.frames import Span, read, span
from decalog.systems.demand.forecast.pipeline import Pipeline
from decalog.systems.demand.forecast.windows import view

HORIZON = 14
RULES = Rules(known=("promo",))
QUICK = Settings(trees=20, leaves=7, origins=4, stride=7)


@pytest.fixture(scope="module")
def fitted() -> Pipeline:
    return Pipeline.fit(read(long_frame()), HORIZON, rules=RULES, settings=QUICK)


def joined(answers: list[Mapping[str, Any]]) -> pl.DataFrame:
    return pl.concat([pl.DataFrame(dict(one)) for one in answers]).sort("unique_id", "ds")


def test_parts_in_any_number_give_the_bits_of_the_whole(fitted: Pipeline, tmp_path: Path) -> None:
    path = tmp_path / "sales.parquet"
    long_frame().write_parquet(path)
    whole = joined([fitted.forecast(read(path)).columns])
    assert whole.height == 25 * HORIZON
    assert whole.columns[:5] == ["unique_id", "ds", "decalog", "decalog-lo-80", "decalog-hi-80"]
    for parts in (2, 40):
        told = list(fitted.in_parts(path, parts=parts))
        assert len(told) > 1
        assert joined([one.columns for one in told]).equals(whole)
        assert sum(len(one.findings) for one in told) == len(fitted.forecast(read(path)).findings) > 0


def test_a_stored_pipeline_says_the_same(fitted: Pipeline) -> None:
    again = Pipeline.from_bytes(fitted.to_bytes())
    assert again.rules == fitted.rules
    table = read(long_frame())
    assert joined([again.forecast(table).columns]).equals(joined([fitted.forecast(table).columns]))


def test_damaged_or_other_bytes_are_refused(fitted: Pipeline) -> None:
    stored = bytearray(fitted.to_bytes())
    stored[-5] ^= 1
    with pytest.raises(DataError, match=r"stored pipeline: bytes whose digest is another one.*Copy the file again"):
        Pipeline.from_bytes(bytes(stored))


def test_the_model_itself_is_the_method(fitted: Pipeline) -> None:
    panel, _ = checked(read(long_frame()), RULES, ahead=HORIZON)
    direct = boosted(QUICK).forecast(panel, HORIZON)
    np.testing.assert_array_equal(fitted.model.forecast(panel, HORIZON).quantiles, direct.quantiles)


@pytest.mark.parametrize("at_once", [1, 3])
def test_how_many_series_stand_in_memory_changes_nothing(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    panel, _ = checked(read(long_frame()), RULES, ahead=HORIZON)
    whole = boosted(QUICK).forecast(panel, HORIZON)
    monkeypatch.setattr(panels, "AT_ONCE", at_once)
    np.testing.assert_array_equal(boosted(QUICK).forecast(panel, HORIZON).quantiles, whole.quantiles)


def test_intervals_are_calibrated_on_some_of_the_series() -> None:
    panel, _ = checked(read(long_frame()), RULES, ahead=HORIZON)
    every, few = (
        Boosted.fit(panel, HORIZON, settings=msgspec.structs.replace(QUICK, calibrated_on=most)) for most in (25, 20)
    )
    assert every.calibration is not None
    assert few.calibration is not None
    assert not np.array_equal(few.calibration.widths, every.calibration.widths)
    np.testing.assert_allclose(few.calibration.widths[:, 5:-5], every.calibration.widths[:, 5:-5], atol=0.5)
    np.testing.assert_array_equal(few.forecast(panel, HORIZON).mean, every.forecast(panel, HORIZON).mean)


@pytest.mark.parametrize("size", [1, 2, 7, 24])
def test_what_is_seen_of_a_series_does_not_depend_on_the_others(size: int) -> None:
    panel, _ = checked(read(long_frame()), RULES, ahead=HORIZON)
    whole = view(panel, panel.y.shape[1], horizon=HORIZON)
    for start in (0, 1):
        places = np.arange(start, start + size)
        part = view(panel.of(places), panel.y.shape[1], horizon=HORIZON)
        rows = whole.rows.reshape(25, HORIZON, -1)[places].reshape(part.rows.shape)
        np.testing.assert_array_equal(part.rows, rows)
        np.testing.assert_array_equal(part.anchors.base, whole.anchors.base[places])
        np.testing.assert_array_equal(part.anchors.scale, whole.anchors.scale[places])


def test_numbered_times_go_on_from_the_frames_own() -> None:
    frame = long_frame().with_columns(ds=(pl.col("ds") - pl.date(2026, 1, 1)).dt.total_days() + 5).drop("promo")
    frame = frame.filter(pl.col("y").is_not_null())
    settings = msgspec.structs.replace(QUICK, held_out=0)
    answer = Pipeline.fit(read(frame), 3, rules=Rules(), settings=settings).forecast(read(frame))
    assert answer.columns["ds"][:3].tolist() == [105, 106, 107]


def test_a_span_is_that_of_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "sales.csv"
    long_frame().write_csv(path)
    assert span(path) == Span.of(read(path)) == Span(1_767_225_600, 1_767_225_600 + 86_400 * (100 + HORIZON - 1))


def test_a_row_without_a_time_is_told() -> None:
    frame = long_frame().with_columns(ds=pl.when(pl.col("y") > 1).then("ds"))
    with pytest.raises(DataError, match=r"long frame, column for ds: \d+ rows without a time.*Leave these rows out"):
        read(frame)
    with pytest.raises(DataError, match=r"long frame, column for ds: 2 rows without a time"):
        span(frame.head(0))


def test_a_row_outside_the_span_is_told() -> None:
    table = read(long_frame())
    whole = Span.of(table)
    with pytest.raises(DataError, match=r"long frame, row 0: step -1 of series 'item-0'.*step from 0 to 112"):
        checked(table, RULES, ahead=HORIZON, span=Span(whole.first + 86_400, whole.last))


def test_what_the_model_was_not_fitted_to_is_refused(fitted: Pipeline) -> None:
    panel, _ = checked(read(long_frame()), RULES, ahead=HORIZON)
    with pytest.raises(DataError, match=r"global model, horizon: 15 steps ahead.*14 at most, as it was fitted"):
        fitted.model.forecast(panel, 15)
    blind = msgspec.structs.replace(panel, known={})
    with pytest.raises(DataError, match=r"global model, features: others .*promo, promo_over_usual.*fit the model"):
        fitted.model.forecast(blind, HORIZON)
