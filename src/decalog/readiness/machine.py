"""What the machine does beside: a limit that is missed on one that is busy with others, or stalls, says nothing."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from decalog.readiness.open_loop import quantile

TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")
"""Seconds of a tick, which CPU is counted in."""
_PROC = Path("/proc")
_BEAT_S = 0.04
_PAGE = bytes(4_096)


class Machine:
    """The CPU of this machine from now on: what this process and those that it began use, and what others do."""

    def __init__(self) -> None:
        self._begun, self._busy, self._own = time.monotonic(), _busy_s(), _own_s()

    def others(self) -> float:
        """Returns the share of all CPU that others used since; 0 where the system does not tell."""
        span = (time.monotonic() - self._begun) * (os.cpu_count() or 1)
        used = _busy_s() - self._busy - (_own_s() - self._own)
        return min(1.0, max(0.0, used / span)) if span > 0 else 0.0


class Pulse:
    """A thread that does nothing but sleep, write a page and sync it: its latency is the machine's and its disk's."""

    def __init__(self) -> None:
        self._stalls_ms = [0.0]

    @property
    def p99_ms(self) -> float:
        """How long a beat took from the moment it was due, ms."""
        return quantile(self._stalls_ms, 0.99)

    def beating(self, folder: Path) -> AbstractContextManager[None]:
        """Beats 25 times a second on the disk of this folder."""

        def beat(over: threading.Event) -> None:
            with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
                due = time.monotonic() + _BEAT_S
                while not over.wait(max(0.0, due - time.monotonic())):
                    file.write(_PAGE)
                    os.fsync(file.fileno())
                    self._stalls_ms.append(1e3 * (time.monotonic() - due))
                    due = max(due + _BEAT_S, time.monotonic())

        return meanwhile(beat)


@contextmanager
def meanwhile(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Runs work in a thread beside; it has to end soon after the event that it is given is set."""
    over = threading.Event()
    thread = threading.Thread(target=work, args=(over,))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _busy_s() -> float:
    """Returns the CPU seconds of all processes since the machine began: all but idle, waiting for disks, and stolen."""
    path = _PROC / "stat"
    if not path.exists():
        return 0.0
    user, nice, system, _idle, _waiting, irq, soft = map(int, path.read_text().split(maxsplit=8)[1:8])
    return (user + nice + system + irq + soft) * TICK_S


def _own_s() -> float:
    """Returns the CPU seconds of this process and of all that it began, those that ended and were waited for too."""
    parents, used = dict[int, int](), dict[int, float]()
    for path in _PROC.glob("[0-9]*/stat"):
        try:
            fields = path.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        pid = int(path.parent.name)
        parents[pid], used[pid] = int(fields[1]), sum(map(int, fields[11:15])) * TICK_S
    own = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in own} - own:
        own |= more
    return sum(used.get(pid, 0.0) for pid in own)
