"""Law 10 on a drafted system: it holds there, and a deaf monitor, one that cries and one that is missing break it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from decalog.drafting import draft_system
from decalog.monitoring import Drift, Monitor, monitors_of
from decalog.system import System, find_system
from decalog.testing import conformance
from decalog.testing.laws import drift
from decalog.testing.laws.law import Verdict
from decalog.testing.laws.skill import Asked
from decalog.testing.stage import Trial

NAME = "dull_returns"
LAW = next(law for law in conformance.LAWS if law.number == 10)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A drafted system: small, and its world drifts on demand."""
    folder = tmp_path_factory.mktemp("own")
    draft_system(NAME, noun="parcel", folder=folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setattr(drift, "_ASKED", Asked(requests=15_000, slates=2_400, quantities=20_000))
        yield find_system(f"{NAME}.system:SYSTEM")
    for module in [module for module in sys.modules if module.split(".")[0] == NAME]:
        del sys.modules[module]


def judged(system: System, folder: Path) -> Verdict:
    return drift.check(Trial(system=system, folder=folder))


def with_inputs(system: System, *, level: float) -> System:
    """Returns the system with a monitor of inputs of its own, in place of the one that every system has."""
    inputs = next(monitor for monitor in monitors_of(system) if monitor.watches == "inputs")
    return msgspec.structs.replace(system, monitors=(*system.monitors, msgspec.structs.replace(inputs, level=level)))


def test_a_drift_that_is_noticed_in_time_keeps_the_law(system: System, tmp_path: Path) -> None:
    found = judged(with_inputs(system, level=0.1), tmp_path)
    assert found.holds, found.text()
    assert found.checked > 300
    assert set(found.noticed) == {
        "a monitor that always alarms",
        "dearer_requests under a watch that may not alarm",
        "dearer_requests, not switched on",
    }


def test_a_monitor_that_is_deaf_breaks_it(system: System, tmp_path: Path) -> None:
    found = judged(with_inputs(system, level=50.0), tmp_path)
    assert found.breaches == ("dearer_requests was switched on: no dull_returns_inputs within 2d; other alerts: none",)
    assert not found.missed


def test_a_monitor_that_cries_without_a_drift_breaks_it(system: System, tmp_path: Path) -> None:
    cry = Monitor(
        name="accepted",
        meaning="what is usual",
        watches="action",
        of=("accept",),
        alert="above",
        level=0.1,
        owner="nobody",
        runbook="none",
    )
    found = judged(msgspec.structs.replace(system, monitors=(*system.monitors, cry)), tmp_path)
    assert len(found.breaches) == 1
    assert found.breaches[0].startswith("nothing was switched on: accepted  0.")
    assert not found.missed


def test_a_system_without_a_drift_breaks_it(system: System, tmp_path: Path) -> None:
    bare = msgspec.structs.replace(system, drifts=())
    with pytest.raises(AssertionError) as raised:
        conformance.assert_holds(LAW, bare, folder=tmp_path)
    assert (
        "dull_returns drifts: none. Expected at least one drift that its world can switch on, and the alert that it "
        "must raise. Declare a monitoring.Drift beside the monitors and name it in SYSTEM."
    ) in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_an_alert_that_no_monitor_raises_is_named_with_the_nearest(system: System, tmp_path: Path) -> None:
    misnamed = (Drift(switch="dearer_requests", alert="dull_returns_input", within="2d"),)
    found = judged(msgspec.structs.replace(system, drifts=misnamed), tmp_path)
    assert not found.holds
    assert found.breaches[0].startswith(
        "dull_returns drifts, dearer_requests: the alert 'dull_returns_input', which no monitor has. "
        "Expected 'dull_returns_inputs' (closest match), or one of: "
    )
