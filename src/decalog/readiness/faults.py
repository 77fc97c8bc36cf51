"""What happens to a server: killed under load, its store down, its disk full. What was acknowledged must be there."""

from __future__ import annotations

import itertools
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from decalog.decisions import decode_decision
from decalog.home import Home
from decalog.readiness.checks import Measured
from decalog.readiness.recorded import renamed
from decalog.readiness.serve import Served, serving
from decalog.readiness.subject import Subject
from decalog.simulation import message_path
from decalog.testing.worlds import Message

_CALLERS = 4
_BEFORE = 30
"""Acknowledged decisions before a crash comes."""
_MOST = 3_000
_PATIENCE_S = 60.0
_OK, _AWAY = 200, 503
_GROWTH = 192 * 1_024
_EXIT_LOG = 74


class Callers:
    """Ask for one decision after another, each on connections of its own, and note what they were told.

    Args:
        served: whom they ask.
        path: of decide.
        messages: requests, each sent once.
    """

    def __init__(self, served: Served, path: str, messages: Iterator[Message]) -> None:
        self._served, self._path = served, path
        self._todo = messages
        self._news = threading.Condition()
        self._stopping = False
        self.told: dict[str, str] = {}
        self.statuses: list[int] = []
        self._threads = [threading.Thread(target=self._call, daemon=True) for _ in range(_CALLERS)]

    @contextmanager
    def asking(self) -> Iterator[Callers]:
        """Asks inside the block."""
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stopping = True
            for thread in self._threads:
                thread.join()

    def wait(self) -> None:
        """Returns once enough was acknowledged for a crash to come, or patience ends."""
        with self._news:
            self._news.wait_for(lambda: len(self.told) >= _BEFORE, _PATIENCE_S)

    def _call(self) -> None:
        while not self._stopping:
            with self._news:
                message = next(self._todo)
            status, told = self._served.ask("POST", self._path, body=message.body)
            with self._news:
                self.statuses.append(status)
                if status == _OK:
                    self.told[str(message.body["id"])] = str(told["decision_id"])
                    self._news.notify()
            if not status:
                return  # nobody is there any more


def crash(subject: Subject, fault: str) -> Measured:
    """Counts acknowledged decisions that are lost or doubled after SIGKILL under load, and a start after it."""

    def kill(served: Served, callers: Callers) -> str:
        callers.wait()
        served.kill()
        return ""

    return _survived(subject, "early" if fault else "", kill, said="SIGKILL under load")


def store_down(subject: Subject, fault: str) -> Measured:
    """Counts what is wrong where the store of the log fails under load: replies that are no 503, and what they cost."""
    flag = subject.folder / "down"

    def fail(served: Served, callers: Callers) -> str:
        callers.wait()
        flag.touch()
        return _ended(served, callers)

    faults = f"down={flag}" + (",early" if fault else "")
    try:
        return _survived(subject, faults, fail, said="a store that fails under load")
    finally:
        flag.unlink(missing_ok=True)


def disk_full(subject: Subject, fault: str) -> Measured:
    """Counts the same where the kernel refuses to let a file of the home grow."""
    largest = max(path.stat().st_size for path in subject.master.root.rglob("*") if path.is_file())
    # The file of the log grows as its WAL is moved into it: from then on a few hundred KiB are left.
    faults = f"full={largest + _GROWTH}" + (",early" if fault else "")
    return _survived(subject, faults, _ended, said="a disk that is full under load")


def _ended(served: Served, callers: Callers) -> str:
    """Returns what is wrong with the end of a server whose log failed."""
    try:
        ended = served.process.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        return "the server went on after its log had failed"
    strange = {status for status in callers.statuses if status not in (_OK, _AWAY, 0)}
    if ended != _EXIT_LOG:
        return f"the server ended with {ended}, not with {_EXIT_LOG}"
    return f"statuses {sorted(strange)} beside 200 and 503" if strange else ""


def _survived(subject: Subject, faults: str, trouble: Callable[[Served, Callers], str], *, said: str) -> Measured:
    name, schema = subject.system.name, subject.system.schema
    with subject.reading() as (_, recording):
        recorded = recording.requests(_MOST)
    # Without end: who replies too early is found out by what they are asked after a write has failed.
    turns = (renamed(recorded, schema, run=f"crash {again} ") for again in itertools.count())
    messages = itertools.chain.from_iterable(turns)
    with subject.fork() as home:
        with serving(subject, home, faults=faults) as served:
            callers = Callers(served, message_path(name, "decide"), messages)
            with callers.asking():
                wrong = trouble(served, callers)
            served.kill()
        with serving(subject, home) as again:
            lost, doubled = _missing(home, name, callers.told)
    n, detail = len(callers.told), {"restart_s": round(again.start_s, 2)}
    parts = [f"{said}: of {n:,} acknowledged {lost} lost, {doubled} doubled", *([wrong] if wrong else [])]
    bad = lost + doubled + bool(wrong) + (not n)  # a server that acknowledges nothing proves nothing
    return Measured(value=float(bad), n=n, said="; ".join(parts), detail=detail)


def _missing(home: Home, system: str, told: dict[str, str]) -> tuple[int, int]:
    lost = doubled = 0
    with closing(home.reader()) as log:
        for id_, decision_id in told.items():
            seqs = log.find("request", f"{system}/{id_}")
            doubled += len(seqs) > 1
            lost += not seqs or decode_decision(log.get(seqs[0]).body).id != decision_id
    return lost, doubled
