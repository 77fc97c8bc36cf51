"""Time as an argument: every clock gives int microseconds since the Unix epoch, UTC.

Worlds run on an accelerated clock; tests on one they set by hand. Latencies never come from here:
they use the monotonic clock of the process.
"""

from __future__ import annotations

import datetime as dt
import re
import time
from typing import Protocol

from decalog.errors import ConfigError

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

_UNITS = {"us": 1, "ms": 1_000, "s": SECOND, "m": MINUTE, "h": HOUR, "d": DAY}
_NEVER = 2**63 - 1
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class Clock(Protocol):
    """Where the present comes from."""

    def now_us(self) -> int:
        """Returns the present in microseconds since the epoch, UTC."""


class SystemClock:
    """The machine's clock. It may jump; the log's known_time never goes back for it."""

    def now_us(self) -> int:
        """See `Clock.now_us`."""
        return time.time_ns() // 1_000


class ManualClock:
    """A clock that stands still until it is moved.

    >>> clock = ManualClock(1_000)
    >>> clock.advance(500)
    >>> clock.now_us()
    1500
    """

    def __init__(self, now_us: int = 0) -> None:
        self._now_us = now_us

    def now_us(self) -> int:
        """See `Clock.now_us`."""
        return self._now_us

    def advance(self, by_us: int) -> None:
        """Moves the clock by `by_us` microseconds; a negative step is a clock jumping back."""
        self._now_us += by_us

    def set(self, now_us: int) -> None:
        """Sets the clock."""
        self._now_us = now_us


class AcceleratedClock:
    """A clock that starts at `start_us` and runs `speed` simulated seconds a real second.

    Args:
        start_us: simulated time at the moment of construction.
        speed: simulated seconds a real second, > 0.
    """

    def __init__(self, start_us: int, speed: float) -> None:
        if not speed > 0:
            raise ConfigError(
                where="clock speed", given=f"{speed}", expected="a number above 0", fix="Use 1 for real time."
            )
        self.speed = speed
        self._leg = start_us, time.monotonic_ns(), _NEVER

    def now_us(self) -> int:
        """See `Clock.now_us`."""
        return self._at(time.monotonic_ns())

    def _at(self, ns: int) -> int:
        start_us, zero_ns, until_us = self._leg
        return min(until_us, start_us + int((ns - zero_ns) * self.speed / 1_000))

    def run_until(self, until_us: int) -> None:
        """Lets the clock go on, and stand from `until_us` on; it never goes back, nor catches up while it stood."""
        ns = time.monotonic_ns()
        now_us = self._at(ns)
        self._leg = now_us, ns, max(now_us, until_us)


def duration_us(text: str) -> int:
    """Returns a duration such as `60s`, `10m`, `1h`, `7d` in microseconds.

    Raises:
        ConfigError: the text is not a whole number followed by us, ms, s, m, h or d.

    >>> duration_us("10m")
    600000000
    """
    match = re.fullmatch(r"(\d+)(us|ms|s|m|h|d)", text)
    if match is None:
        raise ConfigError(
            where="duration",
            given=repr(text),
            expected="a whole number and a unit: us, ms, s, m, h or d",
            fix="Write 60s, 10m, 1h or 7d.",
        )
    return int(match[1]) * _UNITS[match[2]]


def time_us(text: str) -> int:
    """Returns an RFC 3339 time as microseconds since the epoch; a time without an offset is refused.

    Raises:
        ValueError: the text is not an RFC 3339 time with an offset.

    >>> time_us("1970-01-01T00:00:01Z")
    1000000
    """
    moment = dt.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time needs an offset, such as Z or +02:00")
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * SECOND + since.microseconds


def rfc3339(at_us: int) -> str:
    """Returns microseconds since the epoch as RFC 3339 in UTC.

    >>> rfc3339(1_000_000)
    '1970-01-01T00:00:01Z'
    """
    moment = _EPOCH + dt.timedelta(microseconds=at_us)
    return moment.isoformat().replace("+00:00", "Z")
