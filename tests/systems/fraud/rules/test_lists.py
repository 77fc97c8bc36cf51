"""Lists, all the way: put by the entities' values, obeyed by rules from the next payment on, replayed, backtested."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.fraud_log import FraudLog
from tests.homes import add_model, fill_home, opened

from decalog.examples import History
from decalog.features.definition import table_keys
from decalog.levers import Levers
from decalog.serving import Service
from decalog.systems.fraud.features import FEATURES
from decalog.systems.fraud.policy import FraudCosts, FraudPolicy
from decalog.systems.fraud.rules.backtest import backtest, read_payments
from decalog.systems.fraud.rules.ruleset import RuleSet
from decalog.systems.fraud.schema import SCHEMA

LISTED = {
    "card": "pm_1",
    "customer": "cus_1",
    "device": "d-1",
    "ip": "192.0.2.7",
    "email": "eve@shop.example",
    "merchant": "Café Zürich",
}
COSTS = FraudCosts(lists=("trusted", "stolen"), rules="[gone] block if :card: in @stolen")


def put(service: Service, levers: Levers, entity: str, lists: dict[str, int]) -> None:
    entries = levers.entries(f"{entity}_lists", json.dumps(lists).encode())
    service.put_table(f"{entity}_lists", dict(entries), by="ana")


def test_every_entity_of_a_payment_can_be_listed_and_no_model_sees_it() -> None:
    keys = {f"{name}_lists": "" if name == "merchant" else name for name in LISTED}
    assert table_keys(FEATURES, SCHEMA) == keys
    assert not set(keys) & set(FEATURES.names_for("model"))


@pytest.mark.parametrize("entity", LISTED)
def test_a_listed_entity_is_blocked_and_its_neighbours_are_not(tmp_path: Path, entity: str) -> None:
    rules = f"block if :{entity}: in @stolen\n3ds if :{entity}: not in @stolen"
    log = FraudLog(tmp_path, policy=FraudCosts(lists=COSTS.lists, rules=rules, reviews_per_day=0))
    put(log.service, Levers(log.system, log.log), entity, {LISTED[entity]: 2, "trusted": 1})
    values = {"listed": LISTED[entity], "trusted": "trusted", "other": "other", "none": None}
    done = {name: log.decide(name, 1, **{entity: value}).choice.action for name, value in values.items()}
    assert done == {"listed": "block", "trusted": "step_up", "other": "step_up", "none": "allow"}
    log.log.close()


def test_decisions_before_on_and_after_a_list_replay_to_the_same_action(tmp_path: Path) -> None:
    home = fill_home(tmp_path, champion=False)
    add_model(tmp_path)
    payment = {"amount_minor": 900, "currency": "EUR", "card": "pm_1"}
    with opened(home) as (deployment, _):
        service, done = deployment.service(), []
        levers = Levers(deployment.system, deployment.log)
        service.put_policy(FraudPolicy(COSTS), by="ana")
        for number, lists in enumerate(({}, {"pm_1": 2}, {"pm_1": 1})):
            put(service, levers, "card", lists)
            done.append(service.decide(payment | {"id": f"p{number}"})[1])
        deployment.log.commit()
        assert [decision.choice.action for decision in done] == ["allow", "block", "allow"]
        assert done[1].choice.reasons[0] == "rule gone (line 1): block, without rules allow"
        traces = [deployment.replayer().one(decision.id) for decision in done]
        assert [trace.identical for trace in traces] == [True, True, True]


def test_a_backtest_knows_the_lists_as_they_stood_at_each_payment(tmp_path: Path) -> None:
    log = FraudLog(tmp_path, policy=FraudCosts(reviews_per_day=0))
    log.pay("imported, before", 1, card="pm_1", amount_minor=5_000)
    put(log.service, Levers(log.system, log.log), "card", {"pm_1": 2, "pm_2": 1})
    log.pay("imported, listed", 2, card="pm_1", amount_minor=6_000)
    log.decide("decided, listed", 3, card="pm_1", amount_minor=7_000)
    log.decide("trusted", 3.5, card="pm_2", amount_minor=7_000)
    log.report("c1", "imported, listed", 10)
    log.pay("later", 90, card="pm_3")
    history = History(log.records(), SCHEMA, features=FEATURES)
    rules = RuleSet(COSTS.rules, lists=COSTS.lists)
    found = backtest(rules, read_payments(history, log.log), policy=FraudPolicy(COSTS))
    counts = found.rules[0].counts
    assert (counts["matches"], counts["frauds"], counts["good"]) == (2, 1, 1)
    log.log.close()
