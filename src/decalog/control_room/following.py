"""Follows the logs of homes beside their writers, into the index of each; a process of its own, at low priority.

    python -m decalog.control_room.following HOME…

It ends when its standard input does: with the control room that started it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter, deque
from pathlib import Path

import msgspec

from decalog.control_room.homes import homes_below, index_of
from decalog.control_room.index import Index, Progress
from decalog.errors import DecalogError
from decalog.home import Home
from decalog.log import Log

_EVERY_S = 0.5
_OVER_S = 10.0
"""Time over which pace and rate are told."""
_PRIORITY = 10
_TOLD_AT = 5
"""Failures in a row after which a home's is told."""


class Follower:
    """Follows the log of one home.

    Args:
        home: that has a log.
    """

    def __init__(self, home: Home) -> None:
        self._log = home.reader()
        self._index = Index(index_of(home), writes=True)
        self._seen: deque[tuple[float, int, int]] = deque()

    def step(self, now_s: float) -> bool:
        """Takes the next records, if there are any; returns whether there may be more.

        Args:
            now_s: of the machine, s since the epoch.
        """
        stop = _stop(self._log)
        taken = self._index.take(self._log, stop=stop)
        self._index.note(self._told(taken, stop, now_s))
        return taken.position < stop

    def close(self) -> None:
        """Releases log and index."""
        self._log.close()
        self._index.close()

    def _told(self, taken: Progress, stop: int, now_s: float) -> Progress:
        """Returns progress with the pace of late, which is none while an old log is being caught up with."""
        told = msgspec.structs.replace(taken, total=stop, wall=now_s, pace=0.0, rate=0.0)
        if taken.position < stop:
            self._seen.clear()
            return told
        self._seen.append((now_s, taken.known, taken.position))
        while self._seen[0][0] < now_s - _OVER_S:
            self._seen.popleft()
        then_s, known, position = self._seen[0]
        passed = now_s - then_s
        if not passed:
            return told
        pace, rate = (taken.known - known) / 1e6 / passed, (taken.position - position) / passed
        return msgspec.structs.replace(told, pace=pace, rate=rate)


def _end_with_input(ended: threading.Event) -> None:
    sys.stdin.read()
    ended.set()


def _stop(log: Log) -> int:
    head = log.store.head()
    return 0 if head is None else head.seq + 1


def follow(roots: list[Path]) -> None:
    """Follows every home below some folders, those that come later too, until standard input ends."""
    os.nice(_PRIORITY)
    ended = threading.Event()
    threading.Thread(target=_end_with_input, args=(ended,), daemon=True).start()
    followers = _Followers()
    while not ended.is_set():
        is_more = [followers.step(home) for home in homes_below(roots)]
        ended.wait(0.0 if any(is_more) else _EVERY_S)
    followers.close()


class _Followers:
    """The followers of several homes; one that fails hinders no other."""

    def __init__(self) -> None:
        self._followers: dict[Path, Follower] = {}
        self._failed: Counter[Path] = Counter()

    def step(self, home: Home) -> bool:
        """Takes the next records of a home; returns whether there may be more."""
        try:
            follower = self._followers.get(home.root) or self._followers.setdefault(home.root, Follower(home))
            is_more = follower.step(time.time())
        except DecalogError as error:
            # A home that is only being made fails once; whatever stays is told once.
            self._failed[home.root] += 1
            if self._failed[home.root] == _TOLD_AT:
                sys.stderr.write(f"control room: {home.root.name}: {error}\n")
            return False
        self._failed[home.root] = 0
        return is_more

    def close(self) -> None:
        """Releases what they hold."""
        for follower in self._followers.values():
            follower.close()


if __name__ == "__main__":
    follow([Path(word) for word in sys.argv[1:]])
