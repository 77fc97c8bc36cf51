"""Runs the checks on a home: what each measured, what came of seeded faults, and the score."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import msgspec

from decalog.clock import SystemClock
from decalog.errors import ConfigError, DecalogError, near
from decalog.home import Home
from decalog.readiness import evidence
from decalog.readiness.catalog import CHECKS, LIVE
from decalog.readiness.checks import SECTIONS, Check, Measured, Proof, Result, Status
from decalog.readiness.ml_test_score import RESULTS, Scored, scored
from decalog.readiness.slo import slo_of
from decalog.readiness.subject import Subject, scratch
from decalog.system import find_system

Say = Callable[[str], None]
GREEN, RED, NOT_MEASURED = 0, 1, 2
_WORST = 3


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is asked for.

    Args:
        system: name or dotted path.
        quick: the quick subset, on less.
        section: this section alone; "" for all.
        only: this check alone; "" for all.
        url, token: of the running server, to be asked as well.
        allowed: model classes of the user's own that may be imported.
    """

    system: str
    quick: bool = False
    section: str = ""
    only: str = ""
    url: str = ""
    token: str = ""
    allowed: tuple[str, ...] = ()

    def check(self) -> None:
        """Returns if section and check are there.

        Raises:
            ConfigError: one of them is not.
        """
        names = [one.name for one in CHECKS]
        for where, given, known in (("--section", self.section, SECTIONS), ("--only", self.only, names)):
            if given and given not in known:
                raise ConfigError(where=where, given=repr(given), expected=near(given, known), fix="Name one of these.")

    def checks(self) -> tuple[Check, ...]:
        """Returns the checks that are asked for."""
        possible = [check for check in CHECKS if self.url or check.name != LIVE]
        sized = [check for check in possible if check.quick or not self.quick]
        return tuple(check for check in sized if self.section in ("", check.section) and self.only in ("", check.name))


class SectionScore(msgspec.Struct, frozen=True):
    """A section: its name, how many of its checks are green, of how many, and that in percent."""

    name: str
    green: int
    checks: int
    percent: int


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """What a system is found to be.

    Args:
        system: its name.
        score: the least of the sections', percent.
        status: 0 green, 1 red, 2 not all could be measured.
        sections: their scores.
        quick: whether it rests on the quick subset alone.
        results: of every check that was asked for.
        worst: names of the three worst.
        items: of the ML Test Score.
        at_us, position, took_s: when, at which record, in how many seconds.
    """

    system: str
    score: int
    status: int
    sections: tuple[SectionScore, ...]
    quick: bool
    results: tuple[Result, ...]
    worst: tuple[str, ...]
    items: tuple[Scored, ...]
    at_us: int
    position: int
    took_s: float


class Tried(msgspec.Struct, frozen=True):
    """What came of a self-test: a proof for each fault of each check."""

    system: str
    proofs: tuple[Proof, ...]

    @property
    def holds(self) -> bool:
        """Whether every seeded fault turned its check red."""
        return all(proof.is_caught for proof in self.proofs)

    def text(self) -> str:
        """Returns it for people."""
        caught = sum(proof.is_caught for proof in self.proofs)
        head = f"{self.system}: {caught} of {len(self.proofs)} seeded faults turned their check red"
        words = {"red": "red", "green": "MISSED", "not measured": "?"}
        lines = (f"  {words[one.status]:8}{one.check:20} {one.fault}: {one.said}" for one in self.proofs)
        return "\n".join([head, *lines])


def run(home: Home, wanted: Wanted, *, say: Say) -> Readiness:
    """Measures, keeps what was measured in the home, and returns what the system is found to be.

    Raises:
        ConfigError: there is no such system, no log, or its SLO file is wrong.
        DataError: there is no room for copies.
    """
    begun = time.monotonic()
    with _subject(home, wanted) as subject:
        kept = evidence.read(home.root, subject.system.name)
        fresh = list(_measured(subject, wanted.checks(), kept=kept, say=say))
        evidence.write(home.root, kept.with_(_worth_keeping(fresh, kept, subject)))
        return _readiness(subject, wanted, fresh, took_s=time.monotonic() - begun)


def standing(home: Home, wanted: Wanted) -> Readiness:
    """Returns what the system was found to be, by the evidence that is kept; nothing is measured.

    What was never measured, or is stale, counts as not measured.

    Raises:
        ConfigError, DataError: as `run`; or the evidence is damaged.
    """
    subject = _plain(home, wanted)
    kept = evidence.read(home.root, subject.system.name).results
    results = [_as_kept(check, kept.get(check.name), subject) for check in wanted.checks()]
    subject.kept[RESULTS] = {result.name: result for result in results}
    return _readiness(subject, wanted, results, took_s=0.0)


def self_test(home: Home, wanted: Wanted, *, say: Say) -> Tried:
    """Seeds each fault of each check, and returns whether the check turned red; nothing is kept.

    Raises:
        ConfigError, DataError: as `run`.
    """
    proofs = []
    with _subject(home, wanted) as subject:
        for check in wanted.checks():
            for fault in check.faults:
                result = _one(subject, check, fault)
                proofs.append(Proof(check=check.name, fault=fault, status=result.status, said=result.said))
                say(f"{check.name}, {fault}: {result.status}, {result.took_s:.1f} s")
        return Tried(subject.system.name, tuple(proofs))


@contextmanager
def _subject(home: Home, wanted: Wanted) -> Iterator[Subject]:
    subject = _plain(home, wanted)
    with scratch(home) as folder:
        subject.folder = folder
        yield subject


def _plain(home: Home, wanted: Wanted) -> Subject:
    home.check()
    slo = slo_of(wanted.system, find_system(wanted.system), home=home.root)
    made = Subject(home, wanted.system, slo=slo, folder=home.root, quick=wanted.quick, allowed=wanted.allowed)
    made.url, made.token = wanted.url, wanted.token
    return made


def _as_kept(check: Check, kept: Result | None, subject: Subject) -> Result:
    why = "never measured" if kept is None else _why_stale(kept, subject)
    if kept is not None and not why:
        return kept
    said = why if kept is None else f"stale: {why}; then {kept.status}, {kept.said}"
    plain = _result(subject, check, Measured(value=math.nan, n=0, said=said), "not measured")
    return msgspec.structs.replace(plain, at_us=0 if kept is None else kept.at_us)


def _worth_keeping(fresh: Sequence[Result], kept: evidence.Evidence, subject: Subject) -> Iterator[Result]:
    """Yields what was measured; a quick run, which rests on less, does not replace a whole one that still holds."""
    for result in fresh:
        before = kept.results.get(result.name)
        is_less = result.quick and before is not None and not before.quick and not _why_stale(before, subject)
        if result.status != "not measured" and not is_less:
            yield result


def _measured(subject: Subject, checks: Sequence[Check], *, kept: evidence.Evidence, say: Say) -> Iterator[Result]:
    known = {name: one for name, one in kept.results.items() if not _why_stale(one, subject)}
    subject.kept[RESULTS] = known
    for check in checks:
        result = _one(subject, check, "")
        known = subject.kept[RESULTS] = known | {check.name: result}
        say(f"{result.status:13}{check.name:20} {result.said}, {result.took_s:.1f} s")
        yield result


def _one(subject: Subject, check: Check, fault: str) -> Result:
    begun, limit = time.monotonic(), subject.slo.limit(check.limit)
    try:
        found = check.measure(subject, fault)
        status: Status = "green" if check.is_kept(found.value, limit) else "red"
    except Exception as error:  # noqa: BLE001  # a user's own code may raise anything: this check was not measured
        said = str(error) if isinstance(error, DecalogError) else f"{type(error).__name__}: {error}"
        found, status = Measured(value=math.nan, n=0, said=said), "not measured"
    return _result(subject, check, found, status, took_s=time.monotonic() - begun)


def _result(subject: Subject, check: Check, found: Measured, status: Status, *, took_s: float = 0.0) -> Result:
    return Result(
        name=check.name,
        section=check.section,
        status=status,
        value=found.value if math.isfinite(found.value) else None,
        limit=subject.slo.limit(check.limit),
        unit=check.unit,
        said=found.said,
        anchor=check.anchor,
        fix=check.fix,
        least=check.least,
        n=found.n,
        detail={name: value for name, value in found.detail.items() if math.isfinite(value)},
        at_us=SystemClock().now_us(),
        position=subject.position,
        versions=subject.versions,
        quick=subject.quick,
        took_s=took_s,
    )


def _why_stale(result: Result, subject: Subject) -> str:
    now_us = SystemClock().now_us()
    return evidence.why_stale(result, subject.slo, now_us=now_us, position=subject.position, versions=subject.versions)


def _readiness(subject: Subject, wanted: Wanted, results: Sequence[Result], *, took_s: float) -> Readiness:
    statuses = {result.status for result in results}
    sections = tuple(_sections(results))
    bad = sorted((one for one in results if one.status != "green"), key=lambda one: (one.status != "red", -one.excess))
    return Readiness(
        system=subject.system.name,
        quick=wanted.quick,
        score=min((section.percent for section in sections), default=0),
        status=RED if "red" in statuses else GREEN if statuses == {"green"} else NOT_MEASURED,
        sections=sections,
        results=tuple(results),
        worst=tuple(one.name for one in bad[:_WORST]),
        items=scored(subject.kept[RESULTS], subject.slo)
        if CHECKS[-1].name in {result.name for result in results}
        else (),
        at_us=SystemClock().now_us(),
        position=subject.position,
        took_s=took_s,
    )


def _sections(results: Sequence[Result]) -> Iterator[SectionScore]:
    for name in SECTIONS:
        mine = [result for result in results if result.section == name]
        if mine:
            green = sum(result.status == "green" for result in mine)
            yield SectionScore(name, green, len(mine), 100 * green // len(mine))
