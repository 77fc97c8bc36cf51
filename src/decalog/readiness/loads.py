"""Loads on a server of a copy, each run once and looked at by several checks: what it took, stage by stage."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext

import msgspec

from decalog.clock import SECOND
from decalog.home import Home
from decalog.readiness.machine import Machine
from decalog.readiness.open_loop import arrivals, quantile
from decalog.readiness.recorded import busiest, pace, renamed
from decalog.readiness.serve import Load, load, serving
from decalog.readiness.subject import Subject, decisions
from decalog.testing.worlds import Message

TRIES = 3
"""A load whose limit is not kept is run so often: what else the machine does can only add to it, so the best counts."""
OTHERS = 0.25
"""Where the limit is not kept and others took more than this share of the machine meanwhile, nothing was measured."""
WARM_S = 2.0
_FAULT_S = 2.0
"""A load on a server with a planted fault is no longer than this."""
_MOST = 30_000
"""Requests of one load at most: beyond them a load is shorter, not slower."""
_SHARE = 0.99

Beside = Callable[[Home], AbstractContextManager[object]]
"""What happens on the home while a load runs."""


class Ran(msgspec.Struct, frozen=True, kw_only=True):
    """What came of loads on one server.

    Args:
        load: the best of them.
        stages_p99_ms: stage → p99 of what decisions logged that it took, ms.
        cpu_ms: of the server, a decision.
        resident: bytes, at the end.
        others: share of the machine's CPU that went to what is not of this check.
        start_s: how long the server took to begin.
        models: short ids of the models that decided.
        rate: decisions a second that were asked for.
        tries: how many loads it took.
    """

    load: Load
    stages_p99_ms: dict[str, float]
    cpu_ms: float
    resident: int
    others: float
    start_s: float
    models: tuple[str, ...]
    rate: float
    tries: int

    @property
    def detail(self) -> dict[str, float]:
        """Further figures, for a report."""
        stages = {f"{stage}_p99_ms": round(ms, 3) for stage, ms in self.stages_p99_ms.items()}
        own = {
            "p50_ms": self.load.p50_ms,
            "p99_9_ms": self.load.p99_9_ms,
            "generator_late_p99_ms": self.load.late_p99_ms,
        }
        return {name: round(ms, 3) for name, ms in own.items()} | {
            **stages,
            "cpu_ms": round(self.cpu_ms, 4),
            "start_s": round(self.start_s, 2),
            "rate_per_s": round(self.rate, 2),
            "tries": self.tries,
            "others_cpu_share": round(self.others, 3),
        }


def at_declared(subject: Subject, faults: str = "", *, limit_ms: float, beside: Beside | None = None) -> Ran:
    """Returns what came of the declared load: Poisson arrivals of what came last, with the density that it had."""
    rate = subject.slo.load_per_s
    count = int(min(_MOST, rate * subject.seconds)) + 1

    def timed(messages: Sequence[Message], seed: int) -> Iterator[tuple[float, Message]]:
        asked = (message for message in itertools.cycle(messages) if message.kind == "decide")
        return zip(arrivals(rate, count / rate, seed), asked, strict=False)

    return _ran(subject, faults, rate=rate, timed=timed, limit_ms=limit_ms, beside=beside)


def as_recorded(subject: Subject, faults: str, *, times: float, limit_ms: float) -> Ran:
    """Returns what came of recorded rows of all kinds, in their own bursts, so many times as fast as the busiest minute.

    It is never slower than the declared load.
    """
    with subject.reading() as (_, recording):
        messages = recording.latest(_count(subject))
    rate = max(times * busiest(messages), subject.slo.load_per_s)
    faster = rate / pace_of(messages)

    def timed(rows: Sequence[Message], _: int) -> Iterator[tuple[float, Message]]:
        for row in rows:
            at_s = (row.at - rows[0].at) / SECOND / faster
            if at_s < subject.seconds:
                yield at_s, row

    return _ran(subject, faults, rate=rate, timed=timed, limit_ms=limit_ms, beside=None)


def pace_of(messages: Sequence[Message]) -> float:
    """Returns how many requests came a second, on average over all of them."""
    asked = sum(message.kind == "decide" for message in messages)
    return asked / max((messages[-1].at - messages[0].at) / SECOND, 1.0)


def _count(subject: Subject) -> int:
    return int(min(_MOST, subject.slo.load_per_s * (subject.seconds * TRIES + WARM_S)))


def _ran(
    subject: Subject,
    faults: str,
    *,
    rate: float,
    timed: Callable[[Sequence[Message], int], Iterator[tuple[float, Message]]],
    limit_ms: float,
    beside: Beside | None,
    share: float = 1.0,
) -> Ran:
    with subject.reading() as (_, recording):
        messages = recording.latest(_count(subject))
        speed = rate / pace(messages)
    name, schema = subject.system.name, subject.system.schema
    with (
        subject.fork(until=None if share >= 1 else int(subject.position * share)) as home,
        serving(subject, home, speed=speed, faults=faults) as served,
    ):
        warm = list(renamed(messages, schema, "warm "))
        if not faults:
            load(served, name, timed=[(at, one) for at, one in timed(warm, 0) if at < WARM_S])
        with closing(home.reader()) as log:
            start = log.durable
        best, tries, cpu_ms, machine = None, 0, 0.0, Machine()
        with beside(home) if beside is not None else nullcontext():
            while best is None or (tries < TRIES and not (best.p99_ms <= limit_ms and not best.refused)):
                tries += 1
                asked = ((at, one) for at, one in timed(messages, tries) if not faults or at < _FAULT_S)
                rows = list(_unlike(asked, f"load {tries} ", subject))
                cpu_s, found = served.cpu_s(), load(served, name, timed=rows)
                if best is None or (found.refused, found.p99_ms) < (best.refused, best.p99_ms):
                    best, cpu_ms = found, 1e3 * (served.cpu_s() - cpu_s) / found.requests
                if faults:
                    break  # what is seeded is not looked for thrice
        resident, others = served.resident(), machine.others()
        stages, models = _stages(home, name, start)
        return Ran(
            load=best,
            stages_p99_ms=stages,
            cpu_ms=cpu_ms,
            resident=resident,
            others=others,
            start_s=served.start_s,
            models=models,
            rate=rate,
            tries=tries,
        )


def _unlike(rows: Iterator[tuple[float, Message]], run: str, subject: Subject) -> Iterator[tuple[float, Message]]:
    """Yields rows under ids of their own, also where the same row comes again."""
    timed = list(rows)
    seen: dict[str, int] = {}
    for at_s, row in timed:
        again = seen[str(row.body["id"])] = seen.get(str(row.body["id"]), -1) + 1
        (made,) = renamed([row], subject.system.schema, f"{run}{again} ")
        yield at_s, made


def _stages(home: Home, system: str, start: int) -> tuple[dict[str, float], tuple[str, ...]]:
    took, models = dict[str, list[float]](), dict[str, None]()
    with closing(home.reader()) as log:
        for _, decision in decisions(log, system, start=start):
            models[decision.versions.model] = None
            for stage, us in decision.stages_us.items():
                took.setdefault(stage, []).append(us / 1_000)
    return {stage: quantile(ms, _SHARE) for stage, ms in took.items()}, tuple(models)


def cost_of(subject: Subject, *, share: float, faults: str = "") -> Ran:
    """Returns what a tenth of the declared load costs where the log holds a share of its records: CPU, not time."""
    rate = max(1.0, subject.slo.load_per_s / 10)
    draw = random.Random(7)  # noqa: S311 - a seeded draw needs no cryptography

    def timed(messages: Sequence[Message], _: int) -> Iterator[tuple[float, Message]]:
        asked = [message for message in messages if message.kind == "decide"]
        moments = arrivals(rate, subject.seconds, 7)
        return ((at_s, draw.choice(asked)) for at_s in moments)

    return _ran(subject, faults, rate=rate, timed=timed, limit_ms=float("inf"), beside=None, share=share)
