"""What every method keeps to, and what each is good for."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.systems.demand.forecast.panels import weekly

from decalog.errors import ConfigError, DataError
from decalog.systems.demand.forecast import scores
from decalog.systems.demand.forecast.boosting import Settings, boosted
from decalog.systems.demand.forecast.calendar import Calendar
from decalog.systems.demand.forecast.conformal import calibrated
from decalog.systems.demand.forecast.ensemble import ensemble, learnt, mix, scaled_pinball
from decalog.systems.demand.forecast.likeness import with_likeness
from decalog.systems.demand.forecast.logs import in_logs
from decalog.systems.demand.forecast.naive import moving_average, naive, naive_of_m4, seasonal_naive
from decalog.systems.demand.forecast.origins import Told, kept, roll
from decalog.systems.demand.forecast.panel import (
    LEVELS,
    MEDIAN,
    NORMAL,
    Forecast,
    Method,
    Panel,
    filled,
    panel_of,
    season_errors,
)
from decalog.systems.demand.forecast.statistical import MODELS, statistical

QUICK = Settings(trees=40, leaves=15, origins=6, stride=4)
HAS_STATSFORECAST = importlib.util.find_spec("statsforecast") is not None
METHODS = [naive(), seasonal_naive(), moving_average(7), naive_of_m4(), in_logs(seasonal_naive()), boosted(QUICK)]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_method_answers_every_series_in_order(method: Method) -> None:
    panel = weekly(30)
    y = panel.y.copy()
    y[0, :100], y[1, 60:63], y[2] = np.nan, np.nan, np.nan
    found = method.forecast(msgspec.structs.replace(panel, y=y), 9)
    assert found.mean.shape == (30, 9)
    assert found.quantiles.shape == (30, 9, len(LEVELS))
    assert np.all(np.isfinite(found.mean))
    assert np.all(np.isfinite(found.quantiles))
    assert np.all(np.diff(found.quantiles, axis=-1) >= 0)
    again = method.forecast(msgspec.structs.replace(panel, y=y), 9)
    np.testing.assert_array_equal(found.quantiles, again.quantiles)


def test_naive_forecasts_by_hand() -> None:
    panel = panel_of({"a": [1, 2, 3, 4, 6]}, seasons=(3,))
    assert naive().forecast(panel, 2).mean.tolist() == [[6, 6]]
    assert seasonal_naive().forecast(panel, 4).mean.tolist() == [[3, 4, 6, 3]]
    assert moving_average(2).forecast(panel, 2).mean.tolist() == [[5, 5]]
    assert season_errors(panel).tolist() == [3.5]


def test_a_gap_is_filled_from_the_season_before() -> None:
    row = np.array([np.nan, 1.0, 2.0, np.nan, 4.0, np.nan])
    assert filled(row, 2).tolist() == [1, 2, 1, 4, 1]
    assert filled(np.array([np.nan]), 2).tolist() == [0]


def test_the_boosted_model_beats_the_season_before_and_its_intervals_hold() -> None:
    panel = weekly(60, days=200)
    known, actual = panel.until(186), panel.y[:, 186:]
    ours, before = boosted(QUICK).forecast(known, 14), seasonal_naive().forecast(known, 14)
    assert scores.mae(actual, ours.mean) < 0.85 * scores.mae(actual, before.mean)
    assert 0.85 <= scores.coverage(actual, ours.quantiles) <= 0.95


def test_what_is_known_ahead_is_used() -> None:
    panel = weekly(40, days=160)
    promo = (np.random.default_rng(5).random((40, 160)) < 0.2).astype(np.float64)
    promoted = msgspec.structs.replace(panel, y=panel.y * (1 + promo), known={"promo": promo})
    settings = msgspec.structs.replace(QUICK, trees=120, held_out=0)
    known, actual = promoted.until(153), promoted.y[:, 153:]
    blind = msgspec.structs.replace(known, known={})
    seeing = scores.mae(actual, boosted(settings).forecast(known, 7).mean)
    assert seeing < 0.7 * scores.mae(actual, boosted(settings).forecast(blind, 7).mean)


def test_the_calendar_is_seen() -> None:
    panel = weekly(20)
    dated = msgspec.structs.replace(panel, seasons=(), calendar=Calendar("day", 0))
    settings = msgspec.structs.replace(QUICK, held_out=0)
    known, actual = dated.until(133), dated.y[:, 133:]
    blind = msgspec.structs.replace(known, calendar=None)
    seeing = scores.mae(actual, boosted(settings).forecast(known, 7).mean)
    assert seeing < scores.mae(actual, boosted(settings).forecast(blind, 7).mean)


def test_too_few_rows_are_told() -> None:
    with pytest.raises(
        DataError, match=r"global model: 4 rows to learn from. Expected 200 or more.*a statistical method"
    ):
        boosted(Settings(held_out=0)).forecast(panel_of({"a": [1, 2, 3, 4, 5, 6]}), 1)


def test_a_calibration_makes_intervals_hold_and_keeps_their_order() -> None:
    panel = weekly(50, days=200)

    def narrow(known: Panel, horizon: int) -> Forecast:
        told = seasonal_naive().forecast(known, horizon)
        middle = told.quantiles[..., [MEDIAN]]
        return told._replace(quantiles=middle + 0.3 * (told.quantiles - middle))

    tolds = roll(Method("narrow", narrow), panel, horizon=14, ends=(28, 42))
    now = narrow(panel.until(186), 14)
    actual = panel.y[:, 186:]
    assert scores.coverage(actual, now.quantiles) < 0.5
    after = calibrated(tolds).apply(now)
    assert 0.85 <= scores.coverage(actual, after.quantiles) <= 0.95
    assert np.all(np.diff(after.quantiles, axis=-1) >= 0)
    np.testing.assert_array_equal(after.mean, now.mean)
    few = [
        told._replace(actual=told.actual[:2], forecast=Forecast(told.forecast.mean[:2], told.forecast.quantiles[:2]))
        for told in tolds
    ]
    with pytest.raises(DataError, match=r"calibration of intervals: 56 errors .*Expected 200 or more.*more origins"):
        calibrated(few)


def test_where_series_go_together_few_origins_widen_intervals_and_do_not_narrow_them() -> None:
    rng = np.random.default_rng(8)
    right = Forecast(np.zeros((20, 12)), np.tile(NORMAL, (20, 12, 1)))

    def came() -> Told:
        together = rng.normal()  # what all series err by at one origin
        return Told(weekly(20), right, 0.9 * together + np.sqrt(1 - 0.9**2) * rng.normal(size=(20, 12)))

    held: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(300):
        calibration, now = calibrated([came(), came()], blocks=1), came()
        for narrows, found in held.items():
            after = calibration.apply(right, narrows=narrows)
            assert np.all(np.diff(after.quantiles, axis=-1) >= 0)
            found.append(scores.coverage(now.actual, after.quantiles))
    assert np.mean(held[True]) < 0.75, "two origins are two errors"
    assert 0.88 <= np.mean(held[False]) <= 0.95


def test_an_ensemble_takes_what_helps_and_leaves_the_rest() -> None:
    panel = weekly(30)
    bad = Method("bad", lambda known, horizon: Forecast(np.zeros((30, horizon)), np.zeros((30, horizon, len(LEVELS)))))
    members = [seasonal_naive(), moving_average(28), bad]
    tolds = {one.name: roll(one, panel, horizon=7, ends=(7, 14)) for one in members}
    mixture = learnt(tolds)
    assert mixture.weights["bad"] == 0
    assert sum(mixture.weights.values()) == pytest.approx(1)
    best = min(np.mean([scaled_pinball(told) for told in each]) for each in tolds.values())
    mixed = [
        Told(
            tolds["bad"][at].panel,
            mix({name: each[at].forecast for name, each in tolds.items()}, mixture.weights),
            tolds["bad"][at].actual,
        )
        for at in range(2)
    ]
    assert np.mean([scaled_pinball(told) for told in mixed]) <= best
    found = ensemble(members).forecast(panel, 7)
    assert found.mean.shape == (30, 7)


def test_the_point_forecast_is_the_quantile_that_its_score_asks_for() -> None:
    rng = np.random.default_rng(0)
    panel = Panel(ids=tuple(map(str, range(40))), y=rng.lognormal(3, 1, (40, 120)), seasons=(7,))
    members = [moving_average(28)]
    mape = ensemble(members, point=scores.mape).forecast(panel, 7)
    mae = ensemble(members, point=scores.mae).forecast(panel, 7)
    assert np.all(mape.mean <= mae.mean)
    assert mape.mean.mean() < 0.8 * mae.mean.mean()


def test_logarithms_are_undone() -> None:
    panel = panel_of({"a": [1.0, 2, 4, 8]})
    found = in_logs(naive()).forecast(panel, 2)
    assert found.mean == pytest.approx(np.full((1, 2), 8.0))
    assert np.all(found.quantiles >= 0)


def test_a_cold_series_follows_its_likes_at_the_level_it_has() -> None:
    panel = weekly(20, noise=0.0)
    y = panel.y.copy()
    y[:10] *= np.where(np.arange(140) % 7 == 0, 3.0, 1.0)
    y[0, :133] = np.nan
    cold = msgspec.structs.replace(panel.until(133), y=y[:, :133])
    cold.y[0, -3:] = [50.0, 50.0, 50.0]
    kinds = ["peaked"] * 10 + ["flat"] * 10
    method = with_likeness(seasonal_naive(), {"kind": kinds}, least=28, peers=5)
    found = method.forecast(cold, 7).mean
    assert np.argmax(found[0]) == np.argmax(found[1])
    flat = with_likeness(seasonal_naive(), {"kind": ["flat", *kinds[1:]]}, least=28, peers=5).forecast(cold, 7).mean
    assert np.max(flat[0]) / np.mean(flat[0]) < np.max(found[0]) / np.mean(found[0])
    np.testing.assert_array_equal(found[1:], seasonal_naive().forecast(cold, 7).mean[1:])
    warm = panel.until(133)
    np.testing.assert_array_equal(method.forecast(warm, 7).mean, seasonal_naive().forecast(warm, 7).mean)


def test_cold_series_alone_have_no_likes() -> None:
    method = with_likeness(seasonal_naive(), {}, least=28)
    with pytest.raises(
        DataError, match=r"cold series: 2 series, each with fewer than 28 known steps. Expected older ones"
    ):
        method.forecast(weekly(2, days=20), 7)


def test_what_is_known_ahead_has_to_reach_as_far_as_the_forecast() -> None:
    panel = msgspec.structs.replace(weekly(30), known={"promo": np.zeros((30, 143))})
    with pytest.raises(
        DataError, match=r"panel, known column 'promo': 3 steps ahead of the origin. Expected 7.*or leave"
    ):
        boosted(msgspec.structs.replace(QUICK, held_out=0)).forecast(panel, 7)


def test_what_was_said_is_kept_by_the_bytes_of_the_panel(tmp_path: Path) -> None:
    asked: list[int] = []

    def counting(panel: Panel, horizon: int) -> Forecast:
        asked.append(horizon)
        return seasonal_naive().forecast(panel, horizon)

    method = kept(Method("counting", counting), tmp_path / "cache")
    panel = weekly(3)
    first, again = method.forecast(panel, 7), method.forecast(panel, 7)
    assert asked == [7]
    np.testing.assert_array_equal(first.quantiles, again.quantiles)
    method.forecast(panel.until(130), 7)
    method.forecast(panel, 8)
    assert asked == [7, 7, 8]


def test_origins_see_only_what_was_known() -> None:
    seen = []

    def looking(panel: Panel, horizon: int) -> Forecast:
        seen.append(panel.y.shape[1])
        return naive().forecast(panel, horizon)

    tolds = roll(Method("looking", looking), weekly(2), horizon=7, ends=(7, 20))
    assert seen == [133, 120]
    assert [told.actual.shape for told in tolds] == [(2, 7), (2, 7)]


def test_quantiles_are_read_between_levels_and_never_beyond() -> None:
    found = Forecast(np.zeros((1, 1)), np.array(LEVELS)[None, None])
    assert found.at(0.33)[0, 0] == pytest.approx(0.33)
    assert found.at(0.99)[0, 0] == pytest.approx(0.99)
    with pytest.raises(DataError, match=r"forecast, quantile: level 0.995. Expected a level from 0.01 to 0.99"):
        found.at(0.995)


def test_an_unknown_statistical_method_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"statistical method: 'etz'. Expected 'ets' \(closest match\)"):
        statistical("etz")


def test_without_the_extra_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "statsforecast", None)
    with pytest.raises(ConfigError, match=r"without statsforecast. Expected the extra `demand`. Install it with `pip"):
        statistical("ets")


@pytest.mark.skipif(not HAS_STATSFORECAST, reason="statsforecast is not installed (the extra `demand`)")
@pytest.mark.parametrize("name", sorted(set(MODELS) - {"arima", "arima seasonal"}))
def test_every_statistical_method_answers(name: str) -> None:
    panel = weekly(3)
    found = statistical(name).forecast(panel, 5)
    assert found.quantiles.shape == (3, 5, len(LEVELS))
    assert np.all(np.diff(found.quantiles, axis=-1) >= 0)
    assert found.fallbacks == ()
    assert found.fitted is not None
    assert found.fitted.shape == panel.y.shape


@pytest.mark.skipif(not HAS_STATSFORECAST, reason="statsforecast is not installed (the extra `demand`)")
def test_a_series_that_a_model_cannot_do_falls_back_and_is_named() -> None:
    panel = panel_of({"short": [1.0], "long": np.arange(60.0)}, seasons=(7,))
    found = statistical("ets").forecast(panel, 3)
    assert found.fallbacks == ("short",)
    assert found.mean[0].tolist() == [1, 1, 1]
