from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from tests.demand_log import START, DemandLog

from decalog.clock import DAY
from decalog.monitoring import Found
from decalog.systems.demand.loop import LOOP
from decalog.systems.demand.monitors import MONITORS
from decalog.systems.demand.units import found

PACKS = (6, 6, 4, 6, 12, 6, 4, 6, 8, 6, 1, 1, 1)


def told(
    root: Path, *, changed: Iterable[int] = (), days: int = 32, factor: float = 1.0, cases: bool = True
) -> DemandLog:
    """Writes a store's days: from day 30 on some series are told in cases, or else all by a factor."""
    log = DemandLog(root)
    for day in range(days):
        for at, pack in enumerate(PACKS):
            series, units = f"s1/i{at}", 10 + 3 * at + 5 * (day % 7 == 5)
            if day == 20:
                log.asked(day, f"ask-{at}", series=series, pack=pack)
            if day >= 30:
                units = (
                    units // pack
                    if at in changed and cases
                    else units * pack
                    if at in changed
                    else round(units * factor)
                )
            log.sold(day, units, series=series, store="s1", left=20)
    log.log.commit()
    return log


def read(log: DemandLog, *, day: int = 32) -> dict[str, Found]:
    rows = [*found(log.log, start=START + (day - 2) * DAY, stop=START + day * DAY)]
    log.log.close()
    return {row.labels["column"]: row for row in rows}


def test_a_store_as_ever_says_nothing(tmp_path: Path) -> None:
    rows = read(told(tmp_path))
    assert rows["units"].value == 0.0
    assert not rows["units"].is_beyond
    assert rows["units"].p_value == 1.0
    assert not rows["left"].is_beyond


@pytest.mark.parametrize("cases", [True, False])
def test_a_store_that_tells_another_unit_is_found_after_two_days(tmp_path: Path, *, cases: bool) -> None:
    rows = read(told(tmp_path, changed=range(10), cases=cases))
    assert rows["units"].is_beyond
    assert rows["units"].value == 1.0
    assert rows["units"].p_value < 1e-5
    assert "sales of 10 of 10 series moved by their pack at once" in rows["units"].said
    assert ("in cases where units were" if cases else "in units where cases were") in rows["units"].said
    assert not rows["left"].is_beyond, "its stock is told as before"


def test_a_few_series_are_no_store(tmp_path: Path) -> None:
    assert not read(told(tmp_path, changed=range(4)))["units"].is_beyond


def test_a_store_that_sells_little_of_all_counts_as_ever(tmp_path: Path) -> None:
    row = read(told(tmp_path, factor=0.15))["units"]
    assert not row.is_beyond, "what is ordered by the piece fell as much"


def test_one_day_of_two_is_too_little(tmp_path: Path) -> None:
    assert not read(told(tmp_path, changed=range(10), days=31), day=31)["units"].is_beyond


def test_a_person_is_called_and_nothing_is_learnt_meanwhile() -> None:
    (monitor,) = [one for one in MONITORS if one.watches == "found"]
    assert monitor.of == ("decalog.systems.demand.units:found",)
    assert "found" in LOOP.held_by
