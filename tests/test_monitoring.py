"""Features whose rows fall silent are seen, by a watch that is made of the declarations."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.fraud_log import FraudLog

from decalog.clock import DAY, HOUR, ManualClock
from decalog.features.definition import Aggregate, FeatureSet
from decalog.freshness import Freshness
from decalog.host import Host, HostState
from decalog.meter import Meter
from decalog.monitoring import monitors_of, rules_of
from decalog.systems.fraud.monitors import MONITORS
from decalog.systems.fraud.system import SYSTEM


def count(name: str, *over: str, staleness: str = "", owner: str = "") -> Aggregate:
    return Aggregate(
        name=name,
        meaning="tested",
        unit="1",
        entity="card",
        aggregate="count",
        over=over,
        window="1h",
        staleness=staleness,
        owner=owner,
    )


FEATURES = FeatureSet(
    system="fraud",
    features=(
        count("paid", "payment", staleness="1h"),
        count("reported", "outcome.chargeback", staleness="2d", owner="risk"),
        count("either", "payment", "outcome.chargeback", staleness="30m", owner="checkout"),
        count("unwatched", "payment"),
    ),
)


def test_a_feature_is_stale_when_all_its_kinds_have_been_silent_for_longer_than_it_declares() -> None:
    newest = {"payment": 5 * HOUR}
    clock = ManualClock(4 * HOUR)
    fresh = Freshness(FEATURES, newest, now=clock.now_us)
    assert fresh.watched == ("paid", "reported", "either")
    found = []
    for now in (4 * HOUR, 5 * HOUR + HOUR // 2, 5 * HOUR + HOUR // 2 + 1, 6 * HOUR, 6 * HOUR + 1):
        clock.set(now)
        found.append(fresh.stale())
    assert found == [(), (), ("either",), ("either",), ("paid", "either")]
    newest["outcome.chargeback"] = 6 * HOUR
    assert fresh.stale() == ("paid",)


def test_what_was_never_seen_is_as_old_as_the_watch() -> None:
    clock = ManualClock(7 * DAY)
    fresh = Freshness(FEATURES, {}, now=clock.now_us)
    assert [fresh.age_s(name) for name in fresh.watched] == [0.0, 0.0, 0.0]
    clock.set(9 * DAY + 1)
    assert fresh.stale() == fresh.watched
    assert fresh.age_s("reported") == 2 * 86_400 + 1e-6


@pytest.fixture
def log(tmp_path: Path) -> Iterator[FraudLog]:
    made = FraudLog(tmp_path, features=FEATURES)
    yield made
    made.log.close()


def asked(log: FraudLog, days: list[float]) -> tuple[Host, list[HostState]]:
    """Returns a host, and how it was on each of these days without a row between them."""

    async def nobody(_system: str, _id: str, _verb: str) -> dict[str, Any]:
        return {}

    async def play() -> tuple[Host, list[HostState]]:
        host = Host(log.log, {"fraud": log.service}, replay=nobody, meter=Meter())
        states = []
        for day in days:
            log._at(day)
            states.append(host.state())
        return host, states

    return asyncio.run(play())


def test_a_host_says_which_features_are_stale_and_stays_ready_for_the_rest(log: FraudLog) -> None:
    log.pay("a", 0)
    log.report("cb", "a", 1)
    host, states = asked(log, [1, 1.03, 3, 3.5])
    assert [state.systems["fraud"]["stale"] for state in states] == [
        "paid",
        "paid, either",
        "paid, either",
        "paid, reported, either",
    ]

    def read(name: str, feature: str) -> float | None:
        return host.meter.registry.get_sample_value(name, {"system": "fraud", "feature": feature})

    assert read("decalog_feature_age_seconds", "paid") == 3.5 * 86_400
    assert read("decalog_feature_age_seconds", "reported") == 2.5 * 86_400
    assert [read("decalog_feature_stale", feature) for feature in ("paid", "reported", "unwatched")] == [1, 1, None]
    log.pay("b", 3.5)
    assert [read("decalog_feature_stale", feature) for feature in ("paid", "reported")] == [0, 1]


def test_the_monitor_of_staleness_is_made_of_the_declarations() -> None:
    silent = msgspec.structs.replace(SYSTEM, features=FeatureSet(system="fraud", features=FEATURES.features[3:]))
    assert "silence" not in {monitor.watches for monitor in monitors_of(silent)}
    watched = msgspec.structs.replace(SYSTEM, features=FEATURES)
    stale = monitors_of(watched)[-1]
    assert (stale.name, stale.owner, stale.watches) == ("fraud_feature_stale", "checkout, risk", "silence")
    nobody = FeatureSet(system="fraud", features=FEATURES.features[:1])
    assert monitors_of(msgspec.structs.replace(SYSTEM, features=nobody))[-1].owner == "fraud"


def test_every_system_is_watched_for_what_its_room_does_not_declare() -> None:
    bare = msgspec.structs.replace(SYSTEM, monitors=())
    usual = monitors_of(bare)
    assert {monitor.watches for monitor in usual} == {
        *("slow", "inputs", "predictions", "importances", "reports", "unheard", "delays", "calibration", "silence")
    }
    assert {monitor.owner for monitor in usual} == {"fraud"}
    own = monitors_of(SYSTEM)
    assert own[: len(MONITORS)] == MONITORS
    reports = [monitor for monitor in own if monitor.watches == "reports"]
    assert [monitor.name for monitor in reports] == ["fraud_reports"]
    assert reports[0].alert == "above"


def test_rules_for_prometheus_are_those_whose_series_servers_have() -> None:
    (group,) = rules_of(SYSTEM)["groups"]
    rules = {rule["alert"]: rule for rule in group["rules"]}
    assert set(rules) == {
        *("fraud_fallback_share", "fraud_block_share", "fraud_review_share", "fraud_vamp_ratio", "fraud_score_mean"),
        "fraud_feature_stale",
    }
    assert rules["fraud_vamp_ratio"]["expr"] == (
        'sum(increase(decalog_reported_total{system="fraud",kind=~"fraud_warning|chargeback"}[30d])) / '
        'sum(increase(decalog_decisions_total{system="fraud",action=~"allow"}[30d])) > 0.01'
    )
    assert rules["fraud_fallback_share"]["labels"] == {"system": "fraud", "owner": "fraud"}
    assert set(rules["fraud_fallback_share"]["annotations"]) == {"summary", "runbook"}


def test_frauds_payments_may_not_be_silent_for_half_a_day() -> None:
    fed = [feature for feature in SYSTEM.features.aggregates if feature.over == ("payment",)]
    assert {feature.staleness for feature in fed} == {"12h"}
