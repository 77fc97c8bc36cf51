from __future__ import annotations

import datetime as dt

import msgspec
import numpy as np
import pytest

from decalog.errors import DataError
from decalog.systems.demand.forecast.boosting import Settings, boosted
from decalog.systems.demand.forecast.calendar import Calendar, Unit
from decalog.systems.demand.forecast.holidays import between, by_name, easter, moving, with_holidays
from decalog.systems.demand.forecast.panel import Panel

QUICK = Settings(trees=60, leaves=15, rows_a_leaf=20, stride=7, origins=110, held_out=0)


def panel_from(first: str, unit: Unit, y: np.ndarray, *, seasons: tuple[int, ...] = ()) -> Panel:
    ids = tuple(f"s{at}" for at in range(len(y)))
    begin = int(np.datetime64(first, "s").astype(np.int64))
    return Panel(ids=ids, y=y, seasons=seasons, calendar=Calendar(unit, begin))


@pytest.mark.parametrize(
    ("year", "date"),
    [(1818, "1818-03-22"), (1943, "1943-04-25"), (2000, "2000-04-23"), (2024, "2024-03-31"), (2038, "2038-04-25")],
)
def test_easter_is_where_the_calendar_has_it(year: int, date: str) -> None:
    assert easter(year) == dt.date.fromisoformat(date)


def test_what_moves_with_easter() -> None:
    assert moving(2025)["Good Friday"] == dt.date(2025, 4, 18)
    assert moving(2025)["Whit Monday"] == dt.date(2025, 6, 9)
    assert between(2024, 2025, "Ascension Day") == {"Ascension Day": (dt.date(2024, 5, 9), dt.date(2025, 5, 29))}
    assert len(between(2024, 2025)) == 7
    with pytest.raises(DataError, match="'Boxing Day'"):
        between(2024, 2025, "Boxing Day")


def test_dates_by_name_as_the_package_tells_them() -> None:
    days = {dt.date(2025, 5, 1): "Labor Day; Something", dt.date(2024, 5, 1): "Labor Day"}
    assert by_name(days.items()) == {
        "Labor Day": (dt.date(2024, 5, 1), dt.date(2025, 5, 1)),
        "Something": (dt.date(2025, 5, 1),),
    }


def test_days_know_how_far_a_holiday_is() -> None:
    panel = panel_from("2025-04-15", "day", np.zeros((2, 4)))
    known = with_holidays(panel, between(2025, 2025, "Easter Sunday"), horizon=4, reach=3).known
    assert known["Easter Sunday_in"][1].tolist() == [4, 4, 3, 2, 1, 0, 4, 4]
    assert known["Easter Sunday_since"][0].tolist() == [4, 4, 4, 4, 4, 0, 1, 2]


@pytest.mark.parametrize("first", ["2023-03-01", "2023-03-31"])
def test_months_know_how_much_of_the_time_before_easter_is_theirs(first: str) -> None:
    panel = panel_from(first, "month", np.zeros((1, 20)), seasons=(12,))
    known = with_holidays(panel, between(2022, 2025, "Easter Sunday"), horizon=10, reach=10).known
    # 9 April 2023, 31 March 2024, 20 April 2025; 17 April 2022 lies a season before the first.
    share = known["Easter Sunday"][0]
    assert share[[0, 1, 12, 13, 24, 25]] == pytest.approx([0.1, 0.9, 1.0, 0.0, 0.0, 1.0])
    assert known["Easter Sunday_before"][0, [0, 1, 12, 13]] == pytest.approx([0.0, 1.0, 0.1, 0.9])
    assert share.sum() == pytest.approx(3)


def test_weeks_know_it_too() -> None:
    panel = panel_from("2025-04-07", "week", np.zeros((1, 3)), seasons=(52,))
    known = with_holidays(panel, between(2024, 2025, "Easter Monday"), horizon=1, reach=7).known
    assert known["Easter Monday"][0] == pytest.approx([0, 6 / 7, 1 / 7, 0])


def test_what_cannot_be_known_ahead_is_refused() -> None:
    panel = panel_from("2025-04-15", "day", np.zeros((2, 4)))
    dates = between(2025, 2025, "Easter Sunday")
    with pytest.raises(DataError, match="a panel whose time is a number"):
        with_holidays(msgspec.structs.replace(panel, calendar=None), dates, horizon=4)
    with pytest.raises(DataError, match="dates until 2023-04-09"):
        with_holidays(panel, between(2020, 2023, "Easter Sunday"), horizon=4)
    with pytest.raises(DataError, match="no date"):
        with_holidays(panel, {"fair": ()}, horizon=4)
    taken = msgspec.structs.replace(panel, known={"Easter Sunday_in": np.zeros((2, 8))})
    with pytest.raises(DataError, match="a panel that has a column 'Easter Sunday_in'"):
        with_holidays(taken, dates, horizon=4)


def test_a_peak_before_easter_is_forecast_where_easter_is_known() -> None:
    rng, first = np.random.default_rng(0), dt.date(2021, 1, 4)
    days = np.arange((dt.date(2025, 4, 28) - first).days)
    at = np.array([first + dt.timedelta(days=int(day)) for day in days])
    peak = np.array([np.exp(-0.5 * ((easter(date.year) - date).days - 2) ** 2 / 4) for date in at])
    week = 1 + 0.4 * (days % 7 >= 5)
    y = rng.uniform(20, 80, (12, 1)) * (week + 1.5 * peak) * np.exp(0.05 * rng.standard_normal((12, len(days))))
    horizon = 21
    whole = panel_from(first.isoformat(), "day", y, seasons=(7,))
    panel, actual = whole.until(len(days) - horizon), y[:, -horizon:]
    assert actual.max() > 1.5 * panel.y[:, -60:].max(), "Easter lies ahead, on another date than in the years before"
    told = with_holidays(panel, between(2021, 2025, "Easter Sunday"), horizon=horizon)
    method = boosted(QUICK)
    with_, without = (np.abs(method.forecast(one, horizon).mean - actual).mean() for one in (told, panel))
    assert with_ < 0.6 * without


def test_a_panel_without_holidays_is_the_same_panel() -> None:
    panel = panel_from("2025-04-15", "day", np.zeros((2, 4)))
    assert with_holidays(panel, {}, horizon=4).known == {}
