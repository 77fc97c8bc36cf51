"""Histories that go on from where they were: a loop reads its log again and again, and each time only what is new.

What comes out has the bits of a reading from the first record on. Where what is new changes what was read before (an
erasure, a wish, another log, features that have to be folded), it is read from the first record on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from decalog.events import Record
from decalog.examples import History
from decalog.log import LogReader
from decalog.system import System


class Histories:
    """The histories of one system's log that were read so far, by feature set.

    They stay in memory, rows and requests: some KiB a request.
    """

    def __init__(self) -> None:
        self._kept: dict[str, tuple[History, Record]] = {}

    def read(self, log: LogReader, system: System, *, position: int | None = None) -> History:
        """Returns the history of a log up to a position; None for all that is durable.

        It is the one that was returned before, read on: who holds that has it read on, too.

        Args:
            log: to read.
            system: whose.
            position: behind the last record that is read.
        """
        version = system.features.version
        history, last = self._kept.pop(version, (None, None))
        if history is None or last is None or not _went_on(history, last, log, position=position):
            history = History(log.read(0, position), system.schema, features=system.features)
        if history.position:
            self._kept[version] = history, next(iter(log.read(history.position - 1, history.position)))
        return history


def _went_on(history: History, last: Record, log: LogReader, *, position: int | None) -> bool:
    """Lets a history follow a log, where that is the one it was read from and goes on from there."""
    if position is not None and position < history.position:
        return False
    records = log.read(history.position - 1, position)
    return next(records, None) == last and history.follow(records)


class Followed(NamedTuple):
    """A log whose histories go on from where they were; reads as the log does."""

    log: LogReader
    histories: Histories

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        """See `LogReader`."""
        return self.log.read(start, stop)


def history_of(log: LogReader, system: System, *, position: int | None = None) -> History:
    """Returns the history of a log up to a position, going on where that was read before."""
    histories, log = (log.histories, log.log) if isinstance(log, Followed) else (Histories(), log)
    return histories.read(log, system, position=position)
