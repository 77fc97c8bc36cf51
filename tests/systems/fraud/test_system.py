from __future__ import annotations

import re

import pytest
from prometheus_client import generate_latest

from decalog.meter import Decided, Meter
from decalog.models.base import ModelSpec
from decalog.monitoring import expression_of, monitors_of
from decalog.policy import Policy
from decalog.system import SYSTEMS, find_system, load
from decalog.systems.fraud.policy import HEAD, REVIEWS, FraudPolicy
from decalog.systems.fraud.system import SYSTEM


def test_the_system_is_found_by_its_name() -> None:
    assert find_system("fraud") is SYSTEM
    assert SYSTEM.name == SYSTEM.features.system == "fraud"


def test_the_policy_takes_the_declared_actions_and_reads_declared_features() -> None:
    policy: Policy = SYSTEM.policy(SYSTEM.policy_params())
    assert isinstance(policy, FraudPolicy)
    assert {"allow", "block", "review", "step_up"} == set(SYSTEM.schema.actions)
    assert REVIEWS in SYSTEM.features.names_for("policy")


@pytest.mark.parametrize("spec", SYSTEM.models, ids=lambda spec: spec.name)
def test_every_model_predicts_what_the_policy_reads(spec: ModelSpec) -> None:
    assert spec.head == HEAD


def test_the_world_is_named_and_there() -> None:
    assert load(SYSTEM.world) is not None


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_monitor_that_servers_count_watches_a_series_that_is_exposed(name: str) -> None:
    meter, system = Meter(), find_system(name)
    meter.decided(name, Decided("block", "fallback", "no_model", {"model": 50}, {"p_fraud": 0.1}))
    meter.reported(name, "chargeback")
    meter.row(name, "event", status="rejected")
    meter.watch(name, "card_payments_1h", age_s=lambda: 1.0, is_stale=lambda: False)
    meter.committed(1, 1)
    exposed = set(re.findall(r"^(decalog_\w+)\{", generate_latest(meter.registry).decode(), re.MULTILINE))
    monitors = monitors_of(system)
    expressions = [expression for one in monitors if (expression := expression_of(one, name))]
    assert len(expressions) >= len(system.monitors) // 2
    for expression in expressions:
        assert set(re.findall(r"decalog_\w+", expression)) <= exposed, expression
    assert all(monitor.meaning and monitor.owner and monitor.runbook for monitor in monitors)
    assert len({monitor.name for monitor in monitors}) == len(monitors)
