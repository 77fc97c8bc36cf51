"""A watch is silent where nothing is wrong, whatever bursts, and finds what was planted, once and by its name."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import msgspec
import pytest
from tests.watched_log import FEATURES, START, SYSTEM, Payments, champion, monitor

from decalog.clock import DAY
from decalog.features.definition import FeatureSet
from decalog.system import System
from decalog.tails import Champion
from decalog.watching import Finding, Watch, watch

CHAMPION = champion()
payments = cache(Payments)
DAYS = 50


def watched(
    *,
    seed: int = 2,
    days: int = DAYS,
    begin: int = 42,
    since: int = 8,
    system: System = SYSTEM,
    against: Champion = CHAMPION,
    later: int = 0,
    **faults: float,
) -> Watch:
    """Returns what a watch sees of the last days of a log with a fault from a day on."""
    log = payments(seed, days, begin=begin, **faults)
    now = START + days * DAY + later
    return watch(system, log, champion=against, since_us=since * DAY, now_us=now)


def found(seen: Watch, name: str) -> Finding:
    """Returns the latest finding of a monitor."""
    named = [finding for finding in seen.findings if finding.monitor == name]
    assert named, f"{name} is not among {[finding.monitor for finding in seen.findings]}"
    return named[0]


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    """Twelve system-weeks with weekly seasons and a burst every ten days; the budget would allow one finding."""
    seen = [watched(seed=seed, days=50, since=28, against=champion(seed + 50)) for seed in range(3, 6)]
    assert [finding.text() for one in seen for finding in one.findings] == []
    assert sum(one.looks for one in seen) > 8_000


def test_bursts_are_no_drift() -> None:
    assert watched(burst=1.0).findings == ()


@pytest.mark.parametrize(
    ("fault", "names", "begin"),
    [
        ({"unit": 100.0}, ["fraud_inputs", "fraud_predictions", "fraud_importances"], 42),
        ({"null_feature": 0.5}, ["fraud_inputs"], 42),
        ({"null_field": 0.2}, ["fraud_inputs"], 42),
        ({"category": 0.05}, ["fraud_inputs"], 42),
        ({"score": 2.5}, ["fraud_predictions"], 42),
        ({"odds": 3.0}, ["fraud_reports", "fraud_calibration", "warned"], 25),
        ({"delay": 8.0}, ["fraud_delays"], 30),
        ({"unreported": 1.0}, ["fraud_unheard", "fraud_reports", "fraud_calibration"], 22),
        ({"fallback": 0.2}, ["fallbacks"], 42),
        ({"block": 0.15}, ["blocks"], 42),
        ({"slow": 0.15}, ["slow"], 42),
        ({"late": 0.25}, ["late"], 42),
        ({"malformed": 0.1}, ["rejected"], 42),
        ({"cost": 12.0}, ["worth"], 42),
        ({"tried": 0.1}, ["tried"], 42),
        ({"score": 6.0}, ["mean"], 42),
        ({"silent": 1.0}, ["fraud_feature_stale"], 45),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_was_planted_is_found_and_stands(fault: dict[str, Any], names: list[str], begin: int) -> None:
    seen = watched(begin=begin, **fault)
    for name in names:
        assert found(seen, name).stands, name
        assert found(seen, name).owner


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ({"unit": 100.0}, "amount: PSI "),
        ({"null_field": 0.2}, "request.device: "),
        ({"category": 0.05}, "request.channel: "),
        ({"null_feature": 0.5}, "speed: "),
    ],
)
def test_the_finding_names_what_drifted_within_a_day(fault: dict[str, Any], says: str) -> None:
    seen = watched(days=43, since=1, **fault)
    assert found(seen, "fraud_inputs").said.startswith(says)


def test_a_fault_is_one_finding_from_its_first_look_to_its_last() -> None:
    seen = watched(unit=100.0)
    inputs = [finding for finding in seen.findings if finding.monitor == "fraud_inputs"]
    assert [(one.since, one.until, one.stands) for one in inputs] == [(START + 42 * DAY, START + 50 * DAY, True)]
    assert "and " in inputs[0].said
    assert inputs[0].text().splitlines()[1].startswith("  since 2024-11-15T00:00:00Z, stands · owner risk · ")


def test_what_is_over_does_not_stand() -> None:
    log = Payments(2, 44, begin=42, unit=100.0)
    more = Payments(3, 50, begin=0)
    records = [record for record in more.records if record.known_time > START + 44 * DAY]
    both = Payments(2, 0)
    for record in (*(one for one in log.records if one.known_time <= START + 44 * DAY), *records):
        place = len(both.records)
        both.records.append(msgspec.structs.replace(record, seq=place, root=place))
    seen = watch(SYSTEM, both, champion=CHAMPION, since_us=8 * DAY, now_us=START + 50 * DAY)
    inputs = found(seen, "fraud_inputs")
    assert not inputs.stands
    assert inputs.until == START + 44 * DAY
    assert inputs not in seen.standing
    assert "to 2024-11-17T00:00:00Z" in inputs.text()


def test_an_entity_that_reaches_a_value_counts_once_and_says_how_many_did() -> None:
    many, one = watched(tried=0.1), watched(tried=0.5, one_card=1.0)
    said = found(many, "tried").said
    assert re.match(r"\d+ reached payments_1d 8: 0\.\d+ \(0\.\d+ to 0\.\d+\) of \d+, level 0\.02$", said), said
    assert "tried" not in {finding.monitor for finding in one.findings}
    (reading,) = one.latest["tried"]
    assert reading.said.startswith("1 reached ")


def test_what_another_feature_set_says_reaches_nothing() -> None:
    for features in (FEATURES.features[::-1], FEATURES.features[:3]):
        other = msgspec.structs.replace(CHAMPION, features=FeatureSet(system="fraud", features=features))
        (reading,) = watched(tried=0.1, days=43, since=1, against=other).latest["tried"]
        assert reading.said.startswith("0 reached ")


def test_slices_are_looked_at_and_named() -> None:
    blocks = [one.labels for one in watched(block=0.15).findings if one.monitor == "blocks" and one.stands]
    assert {} in blocks
    assert {"channel": "ecom"} in blocks


def test_to_look_again_later_shows_the_same_again() -> None:
    one, other = watched(unit=100.0), watched(unit=100.0, later=DAY // 3)
    assert [f for f in one.findings if f.monitor == "fraud_inputs"] == [
        f for f in other.findings if f.monitor == "fraud_inputs"
    ]


def test_silence_is_seen_where_time_goes_on_without_records() -> None:
    assert found(watched(later=DAY), "fraud_feature_stale").labels == {"feature": "payments_1d"}


def test_without_a_champion_levels_are_watched_and_changes_are_not() -> None:
    nobody = Champion(version="", features=FEATURES)
    seen = watched(unit=100.0, fallback=0.2, against=nobody)
    assert {finding.monitor for finding in seen.findings} == {"fallbacks", "mean"}
    assert "no changes looked for (no champion)" in seen.text()
    old = Champion(version="3f2a91c04b7d", features=FEATURES)
    assert "champion 3f2a91c04b7d keeps no reference: train again" in watched(against=old).text()


def test_the_budget_is_declared_and_shared_by_all_looks() -> None:
    """The same weak fault is found under a large budget and not under a tiny one."""
    weak: dict[str, Any] = {"fallback": 0.03, "since": 3}
    small = msgspec.structs.replace(SYSTEM, false_alarms_a_week=1e-12)
    large = msgspec.structs.replace(SYSTEM, false_alarms_a_week=20.0)
    assert watched(system=small, **weak).findings == ()
    assert "fallbacks" in {finding.monitor for finding in watched(system=large, **weak).findings}


def test_a_level_below_which_nothing_may_fall() -> None:
    rare = msgspec.structs.replace(SYSTEM, monitors=(monitor("allowed", "action", 0.95, of=("allow",), alert="below"),))
    assert "allowed" in {finding.monitor for finding in watched(system=rare, block=0.3).findings}
    assert watched(system=rare).findings == ()
