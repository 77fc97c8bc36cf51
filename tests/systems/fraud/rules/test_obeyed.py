"""The policy obeys rules before it weighs costs, says so in the decision, and replay says the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.homes import add_model, fill_home, live_messages, opened

from decalog.candidates import Candidate
from decalog.decisions import Decision, GuardrailVerdict
from decalog.deployment import Setup
from decalog.errors import ConfigError
from decalog.events import Event
from decalog.home import Home
from decalog.ingest import Rates
from decalog.operations import read_policy
from decalog.policy import Case, Verdict, policy_version
from decalog.systems.fraud.policy import FraudCosts, FraudPolicy, expected_costs, in_minor


def case(p_fraud: float | None = 0.0005, *, amount: int = 3_000, reviews: float | None = 0.0, **more: Any) -> Case:
    attributes = {"amount_minor": amount, "amount_base_minor": amount, "currency": "EUR", **more}
    return Case(
        request=Event("p1", "payment", 0, 7, {"card": 7}, attributes),
        candidates=(Candidate("p1", predictions={} if p_fraud is None else {"p_fraud": p_fraud}),),
        features={} if reviews is None else {"reviews_1d": reviews},
        draw=lambda name: 0.5,
    )


def decide(rules: str, given: Case, **costs: Any) -> Verdict:
    return FraudPolicy(FraudCosts(rules=rules, **costs)).decide(given)


@pytest.mark.parametrize(
    ("rules", "p_fraud", "action"),
    [
        ("block if true", 0.0005, "block"),
        ("allow if true", 0.97, "allow"),
        ("review if true", 0.0005, "review"),
        ("3ds if true", 0.0005, "step_up"),
        ("3ds if true", 0.97, "block"),
        ("3ds if true\nallow if true", 0.97, "step_up"),
        ("3ds if true\nblock if true", 0.0005, "block"),
        ("3ds if true\nreview if true", 0.0005, "review"),
        ("block if true\nallow if true", 0.0005, "allow"),
        ("shadow block if true", 0.0005, "allow"),
        ("block if :amount_in_eur: > 30", 0.0005, "allow"),
        ("block if :amount_in_eur: >= 30 and :p_fraud: < 0.001", 0.0005, "block"),
    ],
)
def test_what_a_rule_says_stands(rules: str, p_fraud: float, action: str) -> None:
    verdict = decide(rules, case(p_fraud))
    assert verdict.choice.action == action
    assert verdict.choice.slots[0].propensity == 1.0
    assert verdict.expected_minor == -in_minor(expected_costs(FraudCosts(), p_fraud, amount_minor=3_000)[action])


def test_a_decision_names_the_rule_its_place_and_what_the_model_would_have_done() -> None:
    verdict = decide(
        "# ours\n[ring] block if true\n3ds if true\nshadow allow if true\n[quiet] shadow 3ds if true", case()
    )
    plain = FraudPolicy(FraudCosts()).decide(case())
    assert verdict.choice.reasons == (
        "rule ring (line 2): block, without rules allow",
        "rule of line 3 (line 3): block, without rules allow",
        *plain.choice.reasons,
        "shadow rule quiet (line 5): would block",
        "shadow rule of line 4 (line 4): would allow",
    )
    assert verdict.guardrails == (GuardrailVerdict("rule ring", "allow", "block", "block, line 2"),)


def test_a_rule_that_changes_nothing_is_a_reason_and_no_guardrail() -> None:
    verdict = decide("[fine] allow if true", case())
    assert verdict.choice.reasons[0] == "rule fine (line 1): allow, without rules allow"
    assert verdict.guardrails == ()


def test_each_change_is_a_verdict_of_its_own() -> None:
    verdict = decide("3ds if true\n[known] allow if true", case(0.97))
    assert [(g.name, g.before, g.after) for g in verdict.guardrails] == [
        ("rule known", "block", "allow"),
        ("rule of line 1", "allow", "step_up"),
    ]


@pytest.mark.parametrize(
    ("rules", "p_fraud", "amount", "action", "guardrails"),
    [
        ("review if true", 0.0005, 3_000, "allow", ["review_capacity"]),
        ("review if true\n3ds if true", 0.0005, 3_000, "step_up", ["review_capacity", "rule of line 2"]),
        ("review if true", 0.08, 300_000, "step_up", ["review_capacity"]),
        ("block if true", 0.08, 300_000, "block", ["review_capacity", "rule of line 1"]),
    ],
)
def test_rules_keep_to_the_analysts_capacity(
    rules: str, p_fraud: float, amount: int, action: str, guardrails: list[str]
) -> None:
    verdict = decide(rules, case(p_fraud, amount=amount, reviews=40.0))
    assert verdict.choice.action == action
    assert [guardrail.name for guardrail in verdict.guardrails] == guardrails
    assert "review_capacity: 40 reviews in the last 24 h, capacity 40" in verdict.choice.reasons
    assert decide(rules, case(p_fraud, amount=amount, reviews=39.0)).choice.action in ("review", "block")


@pytest.mark.parametrize(
    ("rules", "action"),
    [
        ("block if :amount_in_eur: > 20", "block"),
        ("block if :p_fraud: > 0", "review"),
        ("block if :p_fraud: > 0 or :amount_in_eur: > 20", "block"),
        ("allow if :card: is not missing", "allow"),
        ("allow if :p_fraud: is missing", "allow"),
        ("block if :card_payments_1h: > 0", "review"),
    ],
)
def test_a_fallback_obeys_the_rules_that_do_not_need_what_is_missing(rules: str, action: str) -> None:
    verdict = decide(rules, case(None))
    assert verdict.choice.action == action
    assert verdict.expected_minor == 0
    assert "no_prediction: no prediction, so a person looks" in verdict.choice.reasons


def test_wrong_rules_stop_the_policy_before_it_decides_anything() -> None:
    with pytest.raises(ConfigError, match=r"line 1, column 1: 'blok' where .*; line 2, column 10: :x: is not known"):
        FraudPolicy(FraudCosts(rules="blok if true\nblock if :x: > 1"))
    with pytest.raises(ConfigError, match=r"fraud policy: lists: Expected `str` matching regex .* - at `\$\[1\]`"):
        FraudPolicy(FraudCosts(lists=("good", "Not Good")))
    with pytest.raises(ConfigError, match="there is no list @trusted"):
        FraudPolicy(FraudCosts(rules="allow if :card: in @trusted"))
    assert FraudPolicy(FraudCosts(rules="allow if :card: in @trusted", lists=("trusted",))).params.lists == ("trusted",)


def test_a_change_of_rules_is_another_version_of_the_policy() -> None:
    assert policy_version(FraudCosts()) != policy_version(FraudCosts(rules="block if false"))


# In a deployment

OLD = "[dear] block if :amount_in_usd: > 50\nshadow review if true"
NEW = "[dear] review if :amount_in_usd: > 50\n3ds if :ip_country: != :card_country:"


def live(home: Home, setup: Setup, part: int) -> list[Decision]:
    """Decides a third of what the world sends after the history."""
    messages = [message for message in live_messages()[1] if message.kind == "decide"]
    with opened(home, setup) as (deployment, clock):
        service, made = deployment.service(), []
        for message in messages[part * len(messages) // 3 : (part + 1) * len(messages) // 3]:
            clock.set(message.at)
            made.append(service.decide(message.body)[1])
        deployment.log.commit()
    return made


def test_decisions_under_rules_replay_whatever_the_rules_and_rates_are_now(tmp_path: Path) -> None:
    home = fill_home(tmp_path, champion=False)
    first = live(home, Setup(policy=FraudCosts(rules=OLD), rates=Rates("EUR", {"USD": "0.9"})), 0)
    add_model(tmp_path)
    second = live(home, Setup(policy=FraudCosts(rules=NEW), rates=Rates("EUR", {"USD": "0.5"})), 1)
    third = live(home, Setup(policy=FraudCosts()), 2)
    with opened(home) as (deployment, _):
        found = deployment.replayer().range()
    assert (found.replayed, found.identical) == (len(first + second + third),) * 2
    assert {decision.mode for decision in first} == {"fallback"}
    assert {decision.mode for decision in second} == {"live"}
    for decisions, rules, rate in ((first, "dear", 0.9), (second, "dear", 0.5)):
        said = {d.choice.reasons[0].startswith(f"rule {rules} (line 1)") for d in decisions if _usd(d, rate) > 50}
        assert said == {True}
        assert not [d for d in decisions if _usd(d, rate) <= 50 and "dear" in d.choice.reasons[0]]
    assert not [d for d in third if d.choice.reasons[0].startswith("rule")]
    assert len({d.versions.policy for d in (first + second + third)}) == 3


def _usd(decision: Decision, rate: float) -> float:
    return int(decision.request.attributes["amount_base_minor"]) / 100 / rate


def test_the_deployment_gives_the_policy_its_own_rates(tmp_path: Path) -> None:
    rates = Rates("EUR", {"USD": "0.9"})
    stated = FraudCosts(rules="block if :amount_in_usd: > 1", rates=Rates("EUR", {"USD": "7"}))
    with opened(Home(tmp_path), Setup(policy=stated, rates=rates)) as (deployment, _):
        deployment.prepare()
        assert deployment.policy_params() == msgspec.structs.replace(stated, rates=rates)
        kept = msgspec.convert(deployment.tables.get("fraud", "policy"), FraudCosts)
    assert kept.rates == rates


def test_wrong_rules_never_come_into_force(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with opened(home, Setup(policy=FraudCosts(rules="block if false"))) as (deployment, _):
        deployment.prepare()
    with opened(home, Setup(policy=FraudCosts(rules="blok if true"))) as (deployment, _):
        position = deployment.log.position
        with pytest.raises(ConfigError, match="line 1, column 1: 'blok'"):
            deployment.prepare()
        assert deployment.log.position == position
    with opened(home) as (deployment, _):
        assert msgspec.convert(deployment.policy_params(), FraudCosts).rules == "block if false"


def test_rules_are_read_from_a_policy_file(tmp_path: Path) -> None:
    path = tmp_path / "costs.toml"
    path.write_text("lists = ['vip']\nrules = '''\n[far] block if :channel: in ('moto')\nallow if :ip: in @vip\n'''\n")
    params = msgspec.convert(read_policy(path, FraudCosts), FraudCosts)
    assert params == FraudCosts(lists=("vip",), rules="[far] block if :channel: in ('moto')\nallow if :ip: in @vip\n")
    assert FraudPolicy(params).params is params
