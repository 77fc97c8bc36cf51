"""The example runs from a file to a decision, and its history keeps the times at which it was known."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from decalog.clock import time_us
from decalog.home import Home

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "bring_your_own_data.py"


def test_the_example_inspects_imports_trains_and_decides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLE))["main"](tmp_path)
    printed = capsys.readouterr().out
    assert "1. times such as those of created_at have no offset" in printed
    assert "5,120 accepted, 0 logged before, 320 outcomes, 1 in quarantine" in printed
    assert "stamped later than they were known" not in printed
    assert "boosted" in printed
    assert printed.strip().splitlines()[-1].startswith("block: {'p_fraud': 0.")
    log = Home(tmp_path / "home").reader()
    try:
        events = [record for record in log.read() if record.kind == "event"]
        assert all(record.known_time == record.event_time for record in events)
        assert events[-1].known_time < time_us("2024-05-01T00:00:00Z")
    finally:
        log.close()
