"""Latency: a server on a copy under the declared load, the log durable; alone, beside a training, in model swaps."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from decalog.errors import DataError, LogUnavailableError
from decalog.home import Home
from decalog.readiness.checks import Measured
from decalog.readiness.loads import OTHERS, STALL, Ran, at_declared
from decalog.readiness.machine import meanwhile
from decalog.readiness.subject import Subject, twin_of
from decalog.registry import Registry

_SWAP_S = 0.7
_BUCKETS = re.compile(r'decalog_stage_seconds_bucket\{le="([^"]+)",stage="(\w+)",system="(\w+)"\} (\S+)')
_STAGES = ("features", "model")
_P = 0.99


def p99(subject: Subject, fault: str) -> Measured:
    """Measures law 8: p99 of a decision over HTTP at the declared load; the reply follows the sync of its record."""
    ran = _plain(subject, fault)
    return whole(
        ran,
        f"{ran.load.requests:,} decisions at {ran.rate:g}/s, the log durable",
        limit=subject.slo.limit("p99_ms"),
        fault=fault,
    )


def features_p99(subject: Subject, fault: str) -> Measured:
    """Measures the p99 of feature lookups, as each decision logged it."""
    return _stage(_plain(subject, fault), "features", limit=subject.slo.limit("features_p99_ms"), fault=fault)


def model_p99(subject: Subject, fault: str) -> Measured:
    """Measures the p99 of inference, as each decision logged it."""
    return _stage(_plain(subject, fault), "model", limit=subject.slo.limit("model_p99_ms"), fault=fault)


def retraining_p99(subject: Subject, fault: str) -> Measured:
    """Measures the p99 while a training runs on the same home, as the loop's does."""
    limit = subject.slo.limit("retraining_p99_ms")

    @contextmanager
    def training(home: Home) -> Iterator[None]:
        command = [sys.executable, "-m", "decalog", "train", subject.path, "--home", str(home.root), "--brief"]
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(["nice", "-n", "10", *command], stdout=quiet, stderr=quiet)  # noqa: S603, S607 - our own
        try:
            yield
            if process.poll() not in (None, 0):
                raise DataError(
                    where=f"training of {subject.system.name}",
                    given=f"one that ended with {process.returncode} on a copy",
                    expected="one that runs while decisions are made",
                    fix=f"`decalog train {subject.system.name}` says why.",
                )
        finally:
            process.kill()
            process.wait()

    faults = {"": "", "slow model": slow("model", limit)}[fault]
    ran = at_declared(subject, faults, limit_ms=limit, beside=training)
    return whole(
        ran,
        f"{ran.load.requests:,} decisions at {ran.rate:g}/s beside a training on the same log",
        limit=limit,
        fault=fault,
    )


def swapping_p99(subject: Subject, fault: str) -> Measured:
    """Measures the p99 while the champion changes again and again."""
    limit = subject.slo.limit("swapping_p99_ms")

    @contextmanager
    def swapping(home: Home) -> Iterator[None]:
        system, registry = subject.system.name, Registry(home.root)
        models = [twin_of(home, system), registry.current(system) or ""]

        def swap(over: threading.Event) -> None:
            while not over.wait(_SWAP_S):
                registry.promote(system, models[0], by="check", why="a swap under load", at_us=0)
                models.reverse()

        with meanwhile(swap):
            yield

    faults = {"": "", "stalls at a swap": f"stalls at a swap={3 * limit / 1e3}"}[fault]
    ran = at_declared(subject, faults, limit_ms=limit, beside=swapping)
    if len(ran.models) < 2:  # noqa: PLR2004 - a swap is between two
        raise DataError(
            where=f"{subject.system.name}, models that change under load",
            given="decisions of one model alone",
            expected="decisions of both",
            fix="Make the load longer: `seconds` in slo.toml.",
        )
    said = f"{ran.load.requests:,} decisions at {ran.rate:g}/s while the champion changed every {_SWAP_S} s"
    return whole(ran, said, limit=limit, fault=fault)


def live_p99(subject: Subject, fault: str) -> Measured:
    """Measures the running server itself: p99 of features and model together, by what it counted; it is only asked."""
    text = _metrics(subject.url, subject.token)
    if fault:
        text = re.sub(r'(le="(?!\+Inf)[^"]+".*\}) \S+', r"\1 0.0", text)
    counts: dict[str, dict[float, float]] = {}
    for bound, stage, system, count in _BUCKETS.findall(text):
        if system == subject.system.name and stage in _STAGES:
            counts.setdefault(stage, {})[float(bound)] = float(count)
    n = max((max(found.values()) for found in counts.values()), default=0.0)
    if not n:
        raise DataError(
            where=f"metrics of {subject.url}",
            given=f"no decision of {subject.system.name}",
            expected="a server that has decided something",
            fix="Name the server of this system, and one that has traffic.",
        )
    bounds = {stage: _bound(found) for stage, found in counts.items()}
    said = ", ".join(f"{stage} at most {1e3 * bound:g} ms" for stage, bound in bounds.items())
    return Measured(value=1e3 * sum(bounds.values()), n=int(n), said=f"the running server, 99 in 100: {said}")


def _bound(buckets: dict[float, float]) -> float:
    whole = max(buckets.values())
    return min(bound for bound, count in buckets.items() if count >= _P * whole)


def _metrics(url: str, token: str) -> str:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"{url.rstrip('/')}/metrics", headers=headers)  # noqa: S310 - the operator's own
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - the operator's own address
            return str(answer.read().decode())
    except OSError as error:
        fix = "Start it, or show a token with --token."
        raise LogUnavailableError(
            where=url, given=f"no metrics ({error})", expected="a server, and a token with scope admin", fix=fix
        ) from None


def undisturbed(ran: Ran) -> None:
    """Returns if the machine was there for the load.

    Raises:
        DataError: others used so much of it, or it stalled so long by itself, that a missed limit says nothing.
    """
    if ran.others > OTHERS or ran.stall > STALL:
        took = f"others used {ran.others:.0%} of the CPU and a bare sync took {ran.stall:.0%} of the limit (p99)"
        raise DataError(
            where="load of the check",
            given=f"p99 {ran.load.p99_ms:.1f} ms while {took}",
            expected=f"at most {OTHERS:.0%} and {STALL:.0%}, before a missed limit is believed",
            fix="Check again on a quiet machine.",
        )


def _plain(subject: Subject, fault: str) -> Ran:
    limit = subject.slo.limit("p99_ms")
    most = max(limit, *(subject.slo.limit(f"{stage}_p99_ms") for stage in _STAGES))
    faults = {"": "", "slow features": slow("features", most), "slow model": slow("model", most)}[fault]
    ran: Ran = subject.fact(("declared", fault), lambda: at_declared(subject, faults, limit_ms=limit))
    return ran


def slow(stage: str, limit_ms: float) -> str:
    """Returns a fault: a stage that alone takes longer than a limit."""
    return f"slow {stage}={1.5 * limit_ms / 1e3}"


def whole(ran: Ran, said: str, *, limit: float, fault: str) -> Measured:
    """Returns what came of a load.

    Raises:
        DataError: its limit was missed on a machine that others used.
    """
    if ran.load.p99_ms > limit and not fault:
        undisturbed(ran)
    more = f"; {ran.load.refused:,} were not answered with 200: {ran.load.statuses}" if ran.load.refused else ""
    again = f"; the best of {ran.tries} runs" if ran.tries > 1 else ""
    value = float("inf") if ran.load.refused else ran.load.p99_ms
    return Measured(value=value, n=ran.load.requests, said=f"{said}{again}{more}", detail=ran.detail)


def _stage(ran: Ran, stage: str, *, limit: float, fault: str) -> Measured:
    if stage not in ran.stages_p99_ms:
        raise DataError(
            where=f"stage {stage}",
            given="no decision that went through it",
            expected="decisions of a champion under load",
            fix="Train one: `decalog train`.",
        )
    if ran.stages_p99_ms[stage] > limit and not fault:
        undisturbed(ran)
    said = f"as {ran.load.requests:,} decisions at {ran.rate:g}/s logged it"
    return Measured(value=ran.stages_p99_ms[stage], n=ran.load.requests, said=said, detail=ran.detail)
