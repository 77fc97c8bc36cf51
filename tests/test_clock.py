"""Clocks, durations and times."""

from __future__ import annotations

import datetime as dt
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decalog.clock import DAY, AcceleratedClock, ManualClock, SystemClock, duration_us, rfc3339, time_us
from decalog.errors import ConfigError


def test_the_system_clock_is_the_machine_s() -> None:
    before = time.time_ns() // 1_000
    assert before <= SystemClock().now_us() <= time.time_ns() // 1_000


def test_a_manual_clock_moves_only_by_hand_and_may_jump_back() -> None:
    clock = ManualClock(10)
    clock.advance(-3)
    assert clock.now_us() == 7
    clock.set(99)
    assert clock.now_us() == 99


def test_an_accelerated_clock_runs_its_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 5_000_000
    monkeypatch.setattr(time, "monotonic_ns", lambda: now)
    clock = AcceleratedClock(1_000, speed=60.0)
    now += 2_000_000
    assert clock.now_us() == 1_000 + 2_000 * 60


def test_a_led_clock_stands_where_it_was_told_and_goes_on_from_there(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 5_000_000
    monkeypatch.setattr(time, "monotonic_ns", lambda: now)
    clock = AcceleratedClock(1_000, speed=60.0)
    clock.run_until(1_500)
    now += 2_000_000
    assert clock.now_us() == 1_500
    clock.run_until(10_000)
    assert clock.now_us() == 1_500
    now += 100_000
    assert clock.now_us() == 1_500 + 100 * 60
    clock.run_until(0)  # a time that is over: it stands, and does not go back
    now += 1_000_000
    assert clock.now_us() == 1_500 + 100 * 60


@pytest.mark.parametrize("speed", [0, -1.0, float("nan")])
def test_a_clock_that_stands_or_runs_back_is_refused(speed: float) -> None:
    with pytest.raises(ConfigError, match=r"clock speed: .*Expected a number above 0"):
        AcceleratedClock(0, speed)


@pytest.mark.parametrize(
    ("text", "us"),
    [("7us", 7), ("2ms", 2_000), ("60s", 60_000_000), ("10m", 600_000_000), ("1h", 3_600 * 10**6), ("7d", 7 * DAY)],
)
def test_durations_are_read(text: str, us: int) -> None:
    assert duration_us(text) == us


@pytest.mark.parametrize("text", ["", "10", "m", "1.5h", "-1h", "1 h", "1w", "1hh", "1h\n", "١h\u0000"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"duration: .*Expected a whole number and a unit: us, ms, s, m, h or d"):
        duration_us(text)


@given(st.integers(0, 253_402_300_799_999_999))
def test_a_time_is_read_as_it_was_written_to_the_microsecond(at_us: int) -> None:
    assert time_us(rfc3339(at_us)) == at_us


@given(st.datetimes(timezones=st.timezones()))
def test_offsets_are_taken_off(moment: dt.datetime) -> None:
    epoch = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    assert time_us(moment.isoformat()) == (moment - epoch) // dt.timedelta(microseconds=1)


@pytest.mark.parametrize("text", ["2026-03-01T12:00:00", "2026-03-01", "yesterday", "", "2026-13-01T00:00:00Z"])
def test_a_time_without_an_offset_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"needs an offset|Invalid isoformat|month must be"):
        time_us(text)
