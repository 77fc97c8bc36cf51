"""Scalability: ten times the recorded traffic, and what ten times the data costs."""

from __future__ import annotations

from decalog.memory import machine_memory, size_text
from decalog.readiness.checks import Measured
from decalog.readiness.latency import slow, whole
from decalog.readiness.loads import Ran, as_recorded, cost_of
from decalog.readiness.subject import Subject

TIMES = 10
_TENTH = 0.1
_SCAN_S = 2e-2
"""A planted scan takes so much of a decision's CPU over the whole log."""
_SMALL = 1_000


def traffic_10x(subject: Subject, fault: str) -> Measured:
    """Measures the p99 under the busiest recorded rows of all kinds, in their own bursts, ten times as fast."""
    limit = subject.slo.limit("traffic_10x_ms")
    faults = {"": "", "slow model": slow("model", limit)}[fault]
    ran = as_recorded(subject, faults, times=TIMES, limit_ms=limit)
    is_thin = ran.speed > 1.01 * TIMES
    peak = f", so that the busiest second comes up to {subject.slo.load_per_s:g}" if is_thin else ""
    said = f"{ran.load.requests:,} decisions in recorded bursts, {ran.speed:,.0f} times as fast{peak}"
    return whole(ran, said, limit=limit, fault=fault)


def data_10x(subject: Subject, fault: str) -> Measured:
    """Measures how the CPU of a decision grows from a tenth of the log's records to all of them."""
    faults = {"": "", "grows": f"grows={_SCAN_S / max(1, subject.position)}"}[fault]
    tenth, whole = (_cost(subject, share, faults) for share in (_TENTH, 1.0))
    growth = whole.cpu_ms / max(tenth.cpu_ms, 1e-6)
    said = (
        f"CPU of a decision {tenth.cpu_ms:.2f} ms with {int(subject.position * _TENTH):,} records, "
        f"{whole.cpu_ms:.2f} with {subject.position:,}"
    )
    detail = {"tenth_cpu_ms": round(tenth.cpu_ms, 3), "whole_cpu_ms": round(whole.cpu_ms, 3)}
    starts = {"tenth_start_s": round(tenth.start_s, 2), "whole_start_s": round(whole.start_s, 2)}
    return Measured(value=growth, n=whole.load.requests, said=said, detail=detail | starts)


def memory_10x(subject: Subject, fault: str) -> Measured:
    """Models the memory of a server with ten times the data, from what it takes with a tenth and with all of it."""
    tenth, whole = (_cost(subject, share, "") for share in (_TENTH, 1.0))
    grown = max(0, whole.resident - tenth.resident) / (1 - _TENTH)
    then = whole.resident + (TIMES - 1) * grown
    machine = machine_memory() / (_SMALL if fault else 1)
    said = (
        f"{size_text(tenth.resident)} with a tenth of the data, {size_text(whole.resident)} with all of it: modelled "
        f"{size_text(round(then))} with ten times it, of {size_text(round(machine))}"
    )
    return Measured(value=then / machine, n=2, said=said, detail={"resident": float(whole.resident), "then": then})


def _cost(subject: Subject, share: float, faults: str) -> Ran:
    found: Ran = subject.fact(("cost", share, faults), lambda: cost_of(subject, share=share, faults=faults))
    return found
