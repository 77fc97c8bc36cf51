"""Several sources asked for one request under one deadline, in a thread of their own.

One thread asks them in turn: seven that take the interpreter from each other every few microseconds wait longer than
they work. Where nothing comes for a while one of them hangs, and another thread goes on with the others. The caller is
woken once, when all have answered; what did not by the deadline is not waited for.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import suppress
from threading import Semaphore
from typing import Any, Generic, NamedTuple, TypeVar

A = TypeVar("A")
R = TypeVar("R")

AT_ONCE = 4
"""How many requests one source may be busy with; for the next it is late at once, so one that hangs holds up little."""
_PATIENCE = 4  # parts of the deadline: so long without an answer, and one hangs


class Wait(NamedTuple):
    """What there is to wait for, and how long, s, before the search is looked at again."""

    done: Future[Any]
    most_s: float

    def here(self) -> None:
        """Waits in this thread."""
        wait_for((self.done,), self.most_s)


class Sources:
    """The sources of a retrieval, and the threads in which they are asked.

    Args:
        names: of the sources.
        threads: what the threads are called.
    """

    def __init__(self, names: Iterable[str], threads: str) -> None:
        self.turns = {name: Semaphore(AT_ONCE) for name in names}
        self.pool = ThreadPoolExecutor((len(self.turns) + 1) * AT_ONCE, threads)


class Search(Generic[A, R]):
    """What the sources find for one request; they are asked from now on.

    Args:
        sources: that are asked, in their order.
        answer: name of a source → what it found. Where it raises, the others answer, and the source is late.
        gather: source → what it found, in their order, and source → microseconds that it took → what comes of it all.
        deadline_ms: from now.
    """

    def __init__(
        self,
        sources: Sources,
        answer: Callable[[str], A],
        gather: Callable[[Mapping[str, A], dict[str, int]], R],
        *,
        deadline_ms: float,
    ) -> None:
        self._sources, self._answer, self._gather = sources, answer, gather
        self._unasked, self._found, self._took_us = deque(sources.turns), dict[str, A](), dict[str, int]()
        self._heard_s, self._patience_s = time.monotonic(), deadline_ms / 1_000 / _PATIENCE
        self._until_s, self._done = self._heard_s + deadline_ms / 1_000, Future[None]()
        sources.pool.submit(self._ask)

    def waits(self) -> Wait | None:
        """Returns what to wait for before this is asked again; None where it is time for `gathered`."""
        now_s = time.monotonic()
        if self._done.done() or now_s >= self._until_s:
            return None
        if now_s >= self._heard_s + self._patience_s:
            self._heard_s = now_s
            self._sources.pool.submit(self._ask)
        return Wait(self._done, min(self._until_s, self._heard_s + self._patience_s) - now_s)

    def gathered(self) -> R:
        """Returns what comes of all that answered by now; who did not is not asked any more."""
        self._unasked.clear()
        took_us, found = dict(self._took_us), dict(self._found)  # one that is late may still answer
        return self._gather({name: found[name] for name in self._sources.turns if name in found}, took_us)

    def here(self) -> R:
        """Waits in this thread, and returns what comes of it."""
        while (wait := self.waits()) is not None:
            wait.here()
        return self.gathered()

    def _ask(self) -> None:
        while self._unasked:
            with suppress(IndexError):  # another thread took the last
                self._hear(self._unasked.popleft())
        if len(self._took_us) == len(self._sources.turns):
            with suppress(InvalidStateError):  # another thread was as quick to say so
                self._done.set_result(None)

    def _hear(self, name: str) -> None:
        started_ns, turn = time.perf_counter_ns(), self._sources.turns[name]
        if turn.acquire(blocking=False):
            # The edge of models and indexes: whatever one raises, the others answer, and the record says who did not.
            with suppress(Exception):
                self._found[name] = self._answer(name)
            turn.release()
        self._took_us[name] = (time.perf_counter_ns() - started_ns) // 1_000
        self._heard_s = time.monotonic()
