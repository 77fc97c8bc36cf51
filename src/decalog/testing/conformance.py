"""What every system must pass, decalog's own and yours: one law a line, each with sabotages that prove it can fail.

In a test of your package:

    import pytest
    from decalog.testing import conformance
    from my_returns.system import SYSTEM

    @pytest.mark.parametrize("law", conformance.LAWS, ids=str)
    def test_the_system_keeps_the_law(law, tmp_path):
        conformance.assert_holds(law, SYSTEM, folder=tmp_path)

The numbers are those of the design's conformance list; the laws that are not here yet come with the parts they judge.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from decalog.system import System, find_system
from decalog.testing.laws import (
    crashes,
    doors,
    drift,
    erasure,
    fallbacks,
    labels,
    parity,
    privacy,
    propensities,
    replayed,
    skill,
)
from decalog.testing.laws.law import Law, Verdict
from decalog.testing.stage import REQUESTS, SCALE, SEED, Trial

LAWS = (
    Law(1, "doors exist, and the same seed gives the same log", doors.check),
    Law(2, "offline and online features are bit-identical", parity.check),
    Law(3, "logged decisions replay to the same actions", replayed.check),
    Law(4, "propensities are probabilities, and as often as they say", propensities.check),
    Law(5, "outcomes in any order end in the same training set, immature ones never train", labels.check),
    Law(6, "missing, corrupt and extreme features end in a recorded fallback", fallbacks.check),
    Law(7, "no personal or sensitive value leaves", privacy.check),
    Law(9, "the champion beats its baselines by the lead it states, and not the oracle", skill.check),
    Law(10, "injected drift raises its alert in time, and nothing alarms without it", drift.check),
    Law(11, "an erased person is gone from state, indexes, pages and the next model", erasure.check),
    Law(12, "a crash at any moment loses and doubles nothing that was acknowledged", crashes.check),
)


class Result(msgspec.Struct, frozen=True):
    """What came of one law: which, the verdict, and how long it took, s."""

    law: Law
    verdict: Verdict
    took_s: float

    def text(self) -> str:
        """Returns one line, and what is wrong below it."""
        verdict = self.verdict
        word = "holds" if verdict.holds else "BROKEN"
        tried = "".join(f"{count:,} {kind}, " for kind, count in verdict.tried.items())
        counts = f"{verdict.checked:,} checked, {tried}{len(verdict.noticed)} sabotages noticed, {self.took_s:.1f} s"
        wrong = "".join(f"\n      {line}" for line in verdict.text().splitlines())
        return f"{self.law.number:4} {word:6} {self.law.name} ({counts}){wrong}"


class Report(msgspec.Struct, frozen=True):
    """What came of all laws for one system."""

    system: str
    results: tuple[Result, ...]

    @property
    def conforms(self) -> bool:
        """Whether every law holds."""
        return all(result.verdict.holds for result in self.results)

    def text(self) -> str:
        """Returns the report for people."""
        held = sum(result.verdict.holds for result in self.results)
        lines = [f"{self.system}: {held} of {len(self.results)} laws hold", *(result.text() for result in self.results)]
        return "\n".join(lines)


def run(
    system: System | str,
    *,
    laws: Sequence[Law] = LAWS,
    requests: int = REQUESTS,
    scale: float = SCALE,
    seed: int = SEED,
) -> Report:
    """Returns what came of each law for a system.

    One law starts a process, so a script of yours calls this below `if __name__ == "__main__":`.

    Args:
        system: the system, its name, or the dotted path of your own.
        laws: to try; all if not given.
        requests: about how many requests of the system's world a law plays; more find rarer faults.
        scale: size of the world.
        seed: of world, traffic and models.

    Raises:
        ConfigError: there is no such system, or its world asks for too few decisions.
    """
    judged = find_system(system) if isinstance(system, str) else system
    results = []
    with tempfile.TemporaryDirectory(prefix="decalog-conformance-") as folder:
        for law in laws:
            started = time.monotonic()
            trial = Trial(
                system=judged, folder=Path(folder) / str(law.number), requests=requests, scale=scale, seed=seed
            )
            results.append(Result(law, _tried(law, trial), time.monotonic() - started))
    return Report(judged.name, tuple(results))


def _tried(law: Law, trial: Trial) -> Verdict:
    try:
        return law.check(trial)
    except Exception as error:  # noqa: BLE001  # a user's own code: whatever it raises breaks this law, not the others
        return Verdict(checked=1, breaches=(f"{type(error).__name__}: {error}",))


def assert_holds(law: Law, system: System, *, folder: Path) -> None:
    """Asserts that a system keeps a law, for use in a test.

    Args:
        law: one of `LAWS`.
        system: yours.
        folder: an empty one, such as pytest's `tmp_path`.

    Raises:
        AssertionError: it does not; the message names the first breaches.
    """
    verdict = law.check(Trial(system=system, folder=folder))
    if not verdict.holds:
        raise AssertionError(f"{system.name} breaks law {law.number}, {law.name}:\n{verdict.text()}")
