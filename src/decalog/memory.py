"""How much memory the views of a server need, now and when their windows have filled, and how much the machine has."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from decalog.clock import DAY
from decalog.errors import ConfigError
from decalog.features.online import OnlineState
from decalog.features.packed import View

RECENT_US = 7 * DAY
"""The rows of so long give the pace of the forecast: a week has its weekend in it."""

_TOKEN_BYTES = 96
"""What a token costs besides the rows: four places in an index that is a quarter full after it was made anew."""
_ROOM = 1.5
_SPARE_ROWS = 3
"""Rows that move have room for at most half as many again, and for at least one; one more holds the count, and what is
free between runs is as much as a row a token."""
_MIB, _GIB = 2**20, 2**30
_MOST_GIB = 2**30
_FIX = (
    "Take a machine with more, declare a shorter longest window or lateness, or say with --memory-gib how much the "
    "views may count on."
)


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """What the views of one system take.

    Args:
        system: whose they are.
        rows, tokens: over all entity names.
        now: bytes in this process.
        then: most bytes in this process once its windows have filled at the pace of late, or have stayed filled.
        beside: bytes of the process that writes its snapshot then, which holds the rows once more.
        events_a_day: the pace, of the entity name that most rows have.
    """

    system: str
    rows: int
    tokens: int
    now: int
    then: int
    beside: int
    events_a_day: float

    def __str__(self) -> str:
        held = f"{self.rows:,} rows of {self.tokens:,} entities, {size_text(self.now)} now"
        return f"{held}, at most {size_text(self.then)} at {self.events_a_day:,.0f} events a day"


def forecast(state: OnlineState) -> Forecast:
    """Returns what the views take, from what they hold: rows × bytes of each entity name, grown to the whole retention.

    The retention is lateness + longest window. The pace is that of the newest seven days before the watermark; a log
    that is younger than a day counts as one, so that its first minutes are not taken for its habit. No token grows
    beyond what it may retain.
    """
    views = state.views(recent_us=RECENT_US)
    kept_days = (state.features.lateness_us + state.features.longest_window_us) / DAY
    now = state.watermark or 0
    paces = [float(view.recent.sum()) / _days(view, now) for view in views]
    retain = state.features.retain
    grown = [(one, float(np.minimum(one.recent * kept_days / _days(one, now), retain).sum())) for one in views]
    return Forecast(
        system=state.features.system,
        rows=sum(view.rows for view in views),
        tokens=sum(view.tokens for view in views),
        now=sum(view.bytes for view in views),
        then=sum(max(view.bytes, _bytes_then(view, rows)) for view, rows in grown),
        beside=sum(_packed_bytes(view, max(view.rows, rows)) for view, rows in grown),
        events_a_day=max(paces, default=0.0),
    )


def check_memory(forecasts: Sequence[Forecast], memory: int) -> None:
    """Checks that the views will fit.

    Args:
        forecasts: of all systems that one process serves.
        memory: bytes that it may count on.

    Raises:
        ConfigError: they will not.
    """
    then, beside = sum(one.then for one in forecasts), sum(one.beside for one in forecasts)
    if then + beside <= memory:
        return
    largest = max(forecasts, key=lambda one: one.then)
    raise ConfigError(
        where=f"memory for the views of {' and '.join(one.system for one in forecasts)}",
        given=f"{size_text(then)} once the windows have filled ({largest.system}: {largest.events_a_day:,.0f} events a "
        f"day), and {size_text(beside)} for the processes that write snapshots",
        expected=f"at most {size_text(memory)} together, what this machine or its control group gives",
        fix=_FIX,
    )


def check_size(system: str, size: int, *, memory: int, beside: int = 0) -> None:
    """Checks that a snapshot can be read at all, before it is.

    Args:
        system: whose it is.
        size: of it, bytes.
        memory: bytes that may be counted on.
        beside: bytes that views in force may take meanwhile.

    Raises:
        ConfigError: it is larger than the memory.
    """
    if size + beside > memory:
        held = f", beside {size_text(beside)} of the views in force" if beside else ""
        raise ConfigError(
            where=f"memory for the views of {system}",
            given=f"{size_text(size)} in their snapshot alone{held}",
            expected=f"at most {size_text(memory)}, what this machine or its control group gives",
            fix=("Restart the server: it begins with the new views alone. Or: " if beside else "") + _FIX,
        )


class Room(msgspec.Struct):
    """The memory of one server and what is forecast for the views in it.

    Args:
        memory: bytes that all views may count on together.
        forecasts: system → of its views in force.
    """

    memory: int
    forecasts: dict[str, Forecast] = {}

    @property
    def taken(self) -> int:
        """Bytes that the views in force take once their windows have filled."""
        return sum(one.then for one in self.forecasts.values())

    def take(self, made: Forecast) -> None:
        """Gives a system's views their room, in the place of those that it had.

        Raises:
            ConfigError: they will not fit; nothing was changed.
        """
        wanted = self.forecasts | {made.system: made}
        check_memory(list(wanted.values()), self.memory)
        self.forecasts = wanted


def memory_of(gib: float | None) -> int:
    """Returns the bytes that a user names in GiB, or what the machine has.

    Raises:
        ConfigError: it is no positive number.
    """
    if gib is None:
        return machine_memory()
    if not 0 < gib < _MOST_GIB:
        raise ConfigError(
            where="--memory-gib",
            given=f"{gib}",
            expected="a number of GiB above 0",
            fix="Leave it out to count on what the machine has.",
        )
    return int(gib * _GIB)


def machine_memory(root: Path = Path("/")) -> int:
    """Returns the bytes of memory that this process may use: the machine's, or the least that a control group allows.

    Args:
        root: of the file system in which `proc` and `sys` are looked up.
    """
    try:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        physical = 2**63 - 1  # a system that does not say it; nothing is refused then
    return min([physical, *_group_limits(root)])


def size_text(size: int) -> str:
    """Returns a number of bytes for people.

    >>> size_text(5 * 2**20), size_text(1), size_text(40 * 2**30)
    ('5 MiB', '1 MiB', '40.0 GiB')
    """
    if size >= 10 * _GIB:
        return f"{size / _GIB:,.1f} GiB"
    return f"{-(-size // _MIB):,} MiB"


def _days(view: View, watermark: int) -> float:
    """Returns how long the view's recent rows took to come."""
    oldest = watermark if view.oldest is None else view.oldest
    return min(RECENT_US, max(DAY, watermark - oldest)) / DAY


def _bytes_then(view: View, rows: float) -> int:
    """Returns the most bytes that so many live rows take, with room for more."""
    tokens = _tokens_then(view, rows)
    return round(8 * view.width * (rows * _ROOM + tokens * _SPARE_ROWS) + tokens * _TOKEN_BYTES)


def _packed_bytes(view: View, rows: float) -> int:
    return round(8 * view.width * (rows + _tokens_then(view, rows)))


def _tokens_then(view: View, rows: float) -> float:
    return view.tokens * rows / view.rows if view.rows else 0.0


def _group_limits(root: Path) -> list[int]:
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    limits = []
    for folder, name in (("sys/fs/cgroup", "memory.max"), ("sys/fs/cgroup/memory", "memory.limit_in_bytes")):
        # A container may see its own group at the mount's root, under a path that stands outside of it.
        places = {Path(line.split(":", 2)[2].lstrip("/")) for line in lines if line.count(":") > 1} | {Path()}
        groups = {group for place in places for group in (place, *place.parents)}
        limits += [limit for group in groups if (limit := _limit(root / folder / group / name)) is not None]
    return limits


def _limit(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
