"""Measures what takes seconds (three tiers, the watch) beside everything else, and keeps it as a file with its age.

    python -m decalog.control_room.measuring HOME SYSTEM

It ends when all is measured; the control room starts it again once several times of what it took have passed.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from decalog import operations
from decalog.alerts import AlertBook
from decalog.clock import DAY
from decalog.control_room.folder import read, write
from decalog.control_room.homes import measured_of
from decalog.errors import DecalogError
from decalog.home import Home

SPAN = 14 * DAY
"""Of decisions that the tiers are of."""
_WATCHED = 2 * DAY
_PRIORITY = 15


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """Heavy figures of a system, as plain values; a part that could not be measured is a text that says why.

    Args:
        at: when they were ready, s since the epoch of the machine.
        took: s of CPU.
        tiers, by_day, by_arm: `tiers.Tiers` of the last days, whole and grouped.
        watch: `watching.Watch`.
    """

    at: float
    took: float
    tiers: Any
    by_day: Any
    by_arm: Any
    watch: Any


def measure(home: Home, system: str) -> Measured:
    """Measures a system, keeps its alerts and the figures, and returns these."""
    # First what people are called for. The CPU's time, so that a busy machine does not make it rarer still.
    started, watch = time.process_time(), _tried(lambda: _watched(home, system))

    def tiers(by: str) -> Any:
        return _tried(lambda: operations.measure_log(home, system, since_us=SPAN, by=by))

    parts = {"tiers": tiers(""), "by_day": tiers("day"), "by_arm": tiers("arm")}
    measured = Measured(at=time.time(), took=time.process_time() - started, watch=watch, **parts)
    write(measured_of(home, system), measured)
    return measured


def measured(home: Home, system: str) -> Measured | None:
    """Returns what was measured last; None for nothing yet."""
    return read(measured_of(home, system), Measured)


def _watched(home: Home, system: str) -> object:
    seen = operations.watch_log(home, system, since_us=_WATCHED)
    AlertBook(home.root).update(system, seen.standing, now_us=seen.until)
    return seen


def _tried(made: Callable[[], object]) -> Any:
    try:
        return msgspec.to_builtins(made())
    except DecalogError as error:
        return str(error)


if __name__ == "__main__":
    os.nice(_PRIORITY)
    measure(Home(Path(sys.argv[1])), sys.argv[2])
