"""`decalog` with a fault planted in its own process, for a server on a copy: `--self-test` and drills begin it.

    python -m decalog.readiness.faulty 'slow model=0.2,deaf' serve fraud --home COPY …

Nothing here runs in a server that anybody else began.
"""

from __future__ import annotations

import resource
import runpy
import sqlite3
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from decalog import challengers, committing, judging, serving
from decalog.host import Host
from decalog.http import lever_routes
from decalog.serving import Service


def _burden(stage: str, more: Callable[[judging.Underway], None]) -> None:
    """Has more done in a stage of each decision, before its time is taken."""
    plain = judging.timed

    def timed(draft: judging.Underway, name: str, *, since_ns: int) -> None:
        if name == stage:
            more(draft)
        plain(draft, name, since_ns=since_ns)

    for module in (judging, serving):
        module.timed = timed  # type: ignore[attr-defined]  # its namespace holds the name, as an import


def slow(stage: str, seconds: str) -> None:
    """Makes a stage of each decision take so much longer."""
    _burden(stage, lambda _: time.sleep(float(seconds)))


def grows(seconds: str) -> None:
    """Makes each decision take so many seconds of CPU for each record of the log, as a scan would."""

    def scan(draft: judging.Underway) -> None:
        end = time.process_time() + float(seconds) * draft.state_seq
        while time.process_time() < end:
            pass

    _burden("features", scan)


def stalls_at_swap(seconds: str) -> None:
    """Makes the adoption of another model hold up the loop for so long."""
    plain = Service.adopt

    def adopt(self: Service, serving: judging.Serving) -> None:
        time.sleep(float(seconds))
        plain(self, serving)

    Service.adopt = adopt  # type: ignore[method-assign]  # a planted fault


def deaf(_: str) -> None:
    """Logs the end of a rollout and lets its challenger decide on."""
    plain = challengers.roll

    def roll(service: Service, made: Any, *, by: str = "") -> Any:
        trial, stored = service.trial, plain(service, made, by=by)
        service.trial = trial if made.step.is_over else service.trial
        return stored

    lever_routes.roll = roll  # type: ignore[attr-defined]  # its namespace holds the name, as an import


def early(_: str) -> None:
    """Replies before a record is durable, and writes only every few seconds."""

    async def at_once(self: Host, seq: int) -> None:
        """Waits for nothing."""

    Host._until_durable = at_once  # type: ignore[method-assign]  # noqa: SLF001 - a planted fault
    committing._PACE_S = committing._MOST_S = 3.0  # noqa: SLF001 - a planted fault


def down(flag: str) -> None:
    """Lets every write of a store fail from the moment on at which a file is there."""
    from decalog.stores.sqlite import Writer

    plain = Writer._write  # noqa: SLF001 - a fault goes where the work is done

    def write(self: Writer, inserts: Any) -> None:
        if Path(flag).exists():
            self.failed = True
            raise sqlite3.OperationalError("the store is down")
        plain(self, inserts)

    Writer._write = write  # type: ignore[method-assign]  # noqa: SLF001 - a planted fault


def full(size: str) -> None:
    """Lets no file of this process grow beyond so many bytes: the kernel refuses the write."""
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), most))


FAULTS: Mapping[str, Callable[[str], None]] = {
    "slow features": lambda seconds: slow("features", seconds),
    "slow model": lambda seconds: slow("model", seconds),
    "grows": grows,
    "stalls at a swap": stalls_at_swap,
    "deaf": deaf,
    "early": early,
    "down": down,
    "full": full,
}
"""Name → what plants it, from the text behind `=`."""


def main() -> None:
    """Plants the faults that the first argument names, and runs `decalog` on the others."""
    faults = sys.argv.pop(1)
    for fault in filter(None, faults.split(",")):
        name, _, value = fault.partition("=")
        FAULTS[name](value)
    runpy.run_module("decalog", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
