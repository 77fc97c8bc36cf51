from __future__ import annotations

import numpy as np
import pytest

from decalog.systems.demand.forecast.calendar import Calendar, Unit, parts, unit_of


def seconds(text: str) -> int:
    return int(np.datetime64(text, "s").astype(np.int64))


@pytest.mark.parametrize(
    ("unit", "first", "third"),
    [
        ("hour", "2026-03-01T23:00", "2026-03-02T01:00"),
        ("day", "2026-02-27", "2026-03-01"),
        ("week", "2026-02-23", "2026-03-09"),
        ("month", "2026-01-31", "2026-03-31"),
        ("month", "2026-01-30", "2026-03-30"),
        ("quarter", "2025-12-01", "2026-06-01"),
        ("year", "2024-02-29", "2026-02-28"),
    ],
)
def test_times_go_on_as_the_first_one_lies(unit: Unit, first: str, third: str) -> None:
    calendar = Calendar(unit, seconds(first))
    steps = np.arange(5)
    times = calendar.times(steps)
    assert times[2] == np.datetime64(third, "s")
    assert calendar.steps(times).tolist() == steps.tolist()


def test_the_end_of_a_short_month_stays_in_it() -> None:
    times = Calendar("month", seconds("2026-01-30")).times(np.array([1]))
    assert times[0] == np.datetime64("2026-02-28", "s")


@pytest.mark.parametrize(
    ("times", "unit"),
    [
        (["2026-01-01T00", "2026-01-01T01"], "hour"),
        (["2026-01-01", "2026-01-02", "2026-01-05"], "day"),
        (["2026-01-05", "2026-01-12"], "week"),
        (["2026-01-01", "2026-04-01"], "quarter"),
        (["2025-12-31", "2026-12-31"], "year"),
        (["2026-01-01"], "day"),
    ],
)
def test_the_unit_is_found(times: list[str], unit: Unit) -> None:
    assert unit_of(np.array(times, "datetime64[s]")) == unit


def test_parts_of_a_date() -> None:
    found = parts(Calendar("hour", seconds("2026-03-01T22:00")), np.array([0, 3]))
    assert {name: values.tolist() for name, values in found.items()} == {
        "month": [3, 3],
        "week_of_year": [8, 8],
        "weekday": [6, 0],
        "day_of_month": [1, 2],
        "hour": [22, 1],
    }
