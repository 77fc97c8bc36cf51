"""Commits in groups beside an event loop: written in the loop's thread, made durable in another, waited for here.

The split is where the time is: to insert a row takes microseconds, to sync a file up to a thousand times that. Inserts
in the other thread would each hand the interpreter over and take it back, which costs more than the inserts themselves.
Whatever is stamped while a group is synced becomes the next group, so a busy server shares one sync among many replies.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

from decalog.errors import LogUnavailableError
from decalog.log import Log
from decalog.stores.base import Sync

_PACE_S, _MOST_S = 0.0006, 0.012
"""Least time from the start of one commit to that of the next: so much for each record that the last one held, at most
so much. A commit costs the CPU of a decision, so a busy server lets groups grow; one that is not waits for nothing."""


class Committer:
    """Makes a log durable, group after group. It belongs to the event loop that stamps.

    Args:
        log: to commit.
        on_commit: called in the loop after each group with the durable position and how many waited for it.
    """

    def __init__(self, log: Log, on_commit: Callable[[int, int], None] | None = None) -> None:
        self._log = log
        self._on_commit = on_commit
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._is_due = False
        self._is_syncing = False
        self._next_s = 0.0
        # A queue in C: a semaphore of Python's own costs 20 µs a group.
        self._syncs: SimpleQueue[Sync | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._sync, name="decalog-sync", daemon=True)
        self._thread.start()

    def notify(self) -> None:
        """Says that something was stamped: it is committed with all that is stamped before the loop comes round."""
        if not (self._is_due or self._is_syncing):
            self._is_due = True
            wait_s = self._next_s - self._loop.time()
            if wait_s > 0:
                self._loop.call_later(wait_s, self._write)
            else:
                self._loop.call_soon(self._write)

    def begin(self) -> None:
        """Writes what was stamped at once, to be synced while the loop goes on; where it is too soon, it notifies."""
        if self._is_due or self._is_syncing or self._next_s > self._loop.time():
            self.notify()
        else:
            self._write()

    async def until_durable(self, seq: int) -> None:
        """Returns once the record with that seq is durable.

        Raises:
            LogUnavailableError: it will never be known to be: the log failed.
        """
        if seq < self._log.durable:
            return
        self._log.check()
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append((seq, future))
        self.notify()
        await future

    async def stop(self) -> None:
        """Commits what is left and ends; after a failure there is nothing left to commit."""
        with contextlib.suppress(LogUnavailableError):
            await self.until_durable(self._log.position - 1)
        self._syncs.put(None)
        await asyncio.to_thread(self._thread.join)

    def _write(self) -> None:
        self._is_due = False
        records = self._log.position - self._log.durable
        try:
            sync = self._log.write()
        except LogUnavailableError:
            self._settle()
        except BaseException:
            # A fault of our own: the log has ended, and nobody may wait for ever.
            self._settle()
            raise
        else:
            if sync is not None:
                self._is_syncing = True
                self._next_s = self._loop.time() + min(_MOST_S, _PACE_S * records)
                self._syncs.put(sync)

    def _sync(self) -> None:
        while (sync := self._syncs.get()) is not None:
            try:
                # A failure is the log's: the loop asks it.
                with contextlib.suppress(LogUnavailableError):
                    sync()
            finally:
                told = self._tell()
            if not told:
                return

    def _tell(self) -> bool:
        try:
            self._loop.call_soon_threadsafe(self._synced)
        except RuntimeError:
            # A loop that was closed meanwhile has nobody left to tell.
            return False
        return True

    def _synced(self) -> None:
        self._is_syncing = False
        self._settle()
        if self._log.failed is None and self._log.position > self._log.durable:
            self.notify()

    def _settle(self) -> None:
        settled, later = 0, deque[tuple[int, asyncio.Future[None]]]()
        while self._waiting:
            seq, future = self._waiting.popleft()
            if seq < self._log.durable:
                settled += not future.done()
                answer(future)
            elif self._log.failed is not None:
                answer(future, self._log.failed)
            else:
                later.append((seq, future))
        self._waiting = later
        if self._on_commit is not None and self._log.failed is None:
            self._on_commit(self._log.durable, settled)


def answer(future: asyncio.Future[None], error: LogUnavailableError | None = None) -> None:
    """Ends what is waited for, well or with an error; one whose caller hung up is done already."""
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
