"""Loads on a server of a copy, each run once and looked at by several checks: what it took, stage by stage."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext

import msgspec

from decalog.clock import SECOND
from decalog.home import Home
from decalog.readiness.machine import Machine, Pulse
from decalog.readiness.open_loop import arrivals, quantile
from decalog.readiness.recorded import busiest, faster, pace, renamed
from decalog.readiness.serve import Load, Served, load, serving
from decalog.readiness.subject import Subject, decisions
from decalog.testing.worlds import Message

TRIES = 3
"""A load whose limit is not kept is run so often: what else the machine does can only add to it, so the best counts."""
OTHERS = 0.25
"""Where the limit is not kept and others took more than this share of the machine meanwhile, nothing was measured."""
STALL = 0.5
"""Nor where a bare sleep and sync of a page took more than this share of the limit (`Pulse`)."""
WARM_S = 2.0
_FAULT_S, _FAULT_MOST = 2.0, 12
"""A load on a server with a planted fault is no longer and about no larger: each of its answers may take a second."""
_MOST = 30_000
"""Requests of one load at most: beyond them a load is shorter, not slower."""
_SHARE = 0.99
_FEWEST = 200

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
        stall: p99 of a thread that only sleeps and syncs a page meanwhile, as a share of the limit.
        start_s: how long the server took to begin.
        models: short ids of the models that decided.
        rate: decisions a second that were asked for.
        speed: how many times as fast as they were recorded.
        tries: how many loads it took.
    """

    load: Load
    stages_p99_ms: dict[str, float]
    cpu_ms: float
    resident: int
    others: float
    stall: float
    start_s: float
    models: tuple[str, ...]
    rate: float
    speed: float
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
            "speed": round(self.speed, 1),
            "tries": self.tries,
            "others_cpu_share": round(self.others, 3),
            "stall_of_limit": round(self.stall, 3),
        }


Timed = Callable[[Sequence[Message], int], Iterator[tuple[float, Message]]]
"""(recorded messages, number of the run) → what is sent, seconds from the begin."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A load.

    Args:
        rate: decisions a second.
        timed: what is sent when.
        limit_ms: p99 with which no further run is needed.
        faults: for `faulty`.
        beside: what happens on the home meanwhile.
        until: position before which the copy's log ends; None for all of it.
    """

    rate: float
    timed: Timed
    limit_ms: float
    faults: str = ""
    beside: Beside | None = None
    until: int | None = None


def at_declared(subject: Subject, faults: str = "", *, limit_ms: float, beside: Beside | None = None) -> Ran:
    """Returns what came of the declared load: Poisson arrivals of what came last, with the density that it had."""
    rate = subject.slo.load_per_s
    count = int(min(_MOST, rate * subject.seconds)) + 1

    def timed(messages: Sequence[Message], number: int) -> Iterator[tuple[float, Message]]:
        asked = (message for message in itertools.cycle(messages) if message.kind == "decide")
        return zip(arrivals(rate, count / rate, seed=number), asked, strict=False)

    return _ran(subject, Plan(rate=rate, timed=timed, limit_ms=limit_ms, faults=faults, beside=beside))


def as_recorded(subject: Subject, faults: str, *, times: float, limit_ms: float) -> Ran:
    """Returns what came of recorded rows of all kinds, in their own bursts, so many times as fast, at their busiest.

    Where the record is thin it is sent faster still, until its busiest second comes up to the declared load.
    """
    messages = _recorded(subject)
    speed = faster(messages, times=times, peak=subject.slo.load_per_s)
    rows = busiest(messages, subject.seconds * speed)

    def timed(_rows: Sequence[Message], _: int) -> Iterator[tuple[float, Message]]:
        return (((row.at - rows[0].at) / SECOND / speed, row) for row in rows)

    return _ran(subject, Plan(rate=speed * pace(messages), timed=timed, limit_ms=limit_ms, faults=faults))


def cost_of(subject: Subject, *, share: float, faults: str = "") -> Ran:
    """Returns what a tenth of the declared load costs where the log holds a share of its records: CPU, not time.

    A process's CPU is told in hundredths of a second, so it is asked for some hundreds of decisions at least.
    """
    rate = max(_FEWEST / subject.seconds, subject.slo.load_per_s / 10)
    draw = random.Random(7)  # noqa: S311 - a seeded draw needs no cryptography

    def timed(messages: Sequence[Message], _: int) -> Iterator[tuple[float, Message]]:
        asked = [message for message in messages if message.kind == "decide"]
        return ((at_s, draw.choice(asked)) for at_s in arrivals(rate, subject.seconds, seed=7))

    until = None if share >= 1 else int(subject.position * share)
    return _ran(subject, Plan(rate=rate, timed=timed, limit_ms=float("inf"), faults=faults, until=until))


def _recorded(subject: Subject) -> list[Message]:
    count = int(min(_MOST, subject.slo.load_per_s * (subject.seconds * TRIES + WARM_S)))

    def read() -> list[Message]:
        with subject.reading() as (_, recording):
            return recording.latest(count)

    found: list[Message] = subject.fact(("recorded", count), read)
    return found


def _ran(subject: Subject, plan: Plan) -> Ran:
    messages, name = _recorded(subject), subject.system.name
    speed = plan.rate / pace(messages)
    with (
        subject.fork(until=plan.until) as home,
        serving(subject, home, speed=speed, faults=plan.faults) as served,
    ):
        if not plan.faults:
            load(served, name, timed=_rows(subject, plan, messages, number=0))
        with closing(home.reader()) as log:
            start = log.durable
        machine, pulse = Machine(), Pulse()
        with pulse.beating(home.root), plan.beside(home) if plan.beside is not None else nullcontext():
            best, cpu_ms, tries = _best(subject, plan, served, messages=messages)
        stages, models = _stages(home, name, start)
        return Ran(
            load=best,
            stages_p99_ms=stages,
            cpu_ms=cpu_ms,
            resident=served.resident(),
            others=machine.others(),
            stall=pulse.p99_ms / plan.limit_ms,
            start_s=served.start_s,
            models=models,
            rate=plan.rate,
            speed=speed,
            tries=tries,
        )


def _best(subject: Subject, plan: Plan, served: Served, *, messages: Sequence[Message]) -> tuple[Load, float, int]:
    """Returns the best of up to `TRIES` loads, the CPU of a decision in it, ms, and how many it took."""
    ran = list[tuple[Load, float]]()
    # What is seeded is not looked for thrice.
    for number in range(1, 1 + (1 if plan.faults else TRIES)):
        rows, cpu_s = _rows(subject, plan, messages, number=number), served.cpu_s()
        found = load(served, subject.system.name, timed=rows)
        ran.append((found, 1e3 * (served.cpu_s() - cpu_s) / max(1, found.requests)))
        if found.p99_ms <= plan.limit_ms and not found.refused:
            break
    best, cpu_ms = min(ran, key=lambda one: (one[0].refused, one[0].p99_ms))
    return best, cpu_ms, len(ran)


def _rows(subject: Subject, plan: Plan, messages: Sequence[Message], *, number: int) -> list[tuple[float, Message]]:
    """Returns what a run sends, under ids of its own, also where the same row comes again; run 0 warms up."""
    longest = WARM_S if not number else _FAULT_S if plan.faults else float("inf")
    seen, rows = Counter[str](), list[tuple[float, Message]]()
    for at_s, row in plan.timed(messages, number):
        if at_s < longest:
            again = seen[str(row.body["id"])]
            seen[str(row.body["id"])] += 1
            rows += ((at_s, one) for one in renamed([row], subject.system.schema, run=f"run {number} {again} "))
    return rows[:: max(1, len(rows) // _FAULT_MOST)] if plan.faults else rows


def _stages(home: Home, system: str, start: int) -> tuple[dict[str, float], tuple[str, ...]]:
    took, models = dict[str, list[float]](), dict[str, None]()
    with closing(home.reader()) as log:
        for _, decision in decisions(log, system, start=start):
            models[decision.versions.model] = None
            for stage, us in decision.stages_us.items():
                took.setdefault(stage, []).append(us / 1_000)
    return {stage: quantile(ms, _SHARE) for stage, ms in took.items()}, tuple(models)
