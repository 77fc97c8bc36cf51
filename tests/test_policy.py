from __future__ import annotations

import re

import msgspec

from decalog.candidates import Candidate
from decalog.decisions import Choice, Slot
from decalog.events import Event, make_table
from decalog.policy import Case, Policy, Verdict, policy_version
from decalog.systems.fraud.policy import FraudCosts, FraudPolicy


def test_the_version_of_parameters_is_that_of_their_table_in_the_log() -> None:
    """So replay finds the parameters of a decision by the version that the decision names."""
    assert policy_version(FraudCosts()) == make_table("policy", FraudCosts()).version
    assert re.fullmatch("[0-9a-f]{12}", policy_version(FraudCosts()))


def test_any_changed_cost_is_another_version() -> None:
    versions = {policy_version(FraudCosts())}
    for field in msgspec.structs.fields(FraudCosts):
        versions.add(policy_version(msgspec.structs.replace(FraudCosts(), **{field.name: 1})))
    assert len(versions) == len(msgspec.structs.fields(FraudCosts)) + 1


def test_a_verdict_says_no_more_than_its_choice() -> None:
    verdict = Verdict(Choice((Slot("allow"),)))
    assert (verdict.expected_minor, verdict.guardrails) == (0, ())


def test_a_policy_sees_a_case_and_nothing_else() -> None:
    policy: Policy = FraudPolicy(FraudCosts())
    request = Event("a", "payment", 0, 7, {}, {"amount_base_minor": 1_000})
    case = Case(request, (Candidate("a", predictions={"p_fraud": 0.0}),), {}, lambda name: 0.5)
    assert policy.decide(case) == policy.decide(case)
    assert policy.decide(case).choice.action == "allow"
    assert policy.params == FraudCosts()
