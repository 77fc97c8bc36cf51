"""A backtest on a log written by hand, whose answers are known, and suggestions from logs with a plain pattern."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.fraud_log import FEATURES, FraudLog
from tests.homes import decide_live, fill_home

from decalog.decisions import Versions
from decalog.errors import DataError
from decalog.examples import History
from decalog.judging import Serving
from decalog.models.linear import Threshold
from decalog.systems.fraud.policy import FraudCosts, FraudPolicy
from decalog.systems.fraud.rules.backtest import Backtest, Payments, Tried, backtest, read_payments
from decalog.systems.fraud.rules.facts import p_fraud
from decalog.systems.fraud.rules.ruleset import RuleSet
from decalog.systems.fraud.rules.suggest import suggest
from decalog.systems.fraud.schema import SCHEMA

COSTS = FraudCosts(reviews_per_day=0)
POLICY = FraudPolicy(COSTS)
RULES = """\
[dear] block if :amount_in_eur: >= 20
[small] review if :card: is not missing and :amount_in_eur: < 20
[friend] allow if :amount_minor: = 60001
[quiet] shadow 3ds if :p_fraud: is missing
"""


def history_of(made: FraudLog, until_day: float) -> tuple[History, Payments]:
    history = History(made.records(until_day), SCHEMA, features=FEATURES)
    return history, read_payments(history, made.log)


@pytest.fixture
def made(tmp_path: Path) -> FraudLog:
    """Labels mature after 60 days. Without a model the fallback allows up to 500.00 and blocks above it."""
    made = FraudLog(tmp_path, policy=COSTS)
    made.pay("fraud of 10", 1, amount_minor=1_000)
    made.pay("good of 10", 1.5, amount_minor=1_000)
    made.pay("fraud of 300", 2, amount_minor=30_000)
    assert made.decide("blocked, never known", 3, amount_minor=60_000).choice.action == "block"
    assert made.decide("blocked, good", 3.5, amount_minor=60_001).choice.action == "block"
    assert made.decide("good of 20", 4, amount_minor=2_000).choice.action == "allow"
    made.report("c1", "fraud of 10", 10)
    made.report("c2", "fraud of 300", 11)
    made.report("c3", "blocked, good", 12, kind="analyst_verdict", source="analyst", value=0)
    made.pay("young, reported", 80, amount_minor=5_000)
    made.pay("young", 80.5, amount_minor=5_000)
    made.report("c4", "young, reported", 85)
    return made


@pytest.fixture
def found(made: FraudLog) -> Backtest:
    return backtest(RuleSet(RULES), history_of(made, 100)[1], policy=POLICY)


def by_name(found: Backtest) -> dict[str, Tried]:
    return {tried.rule.partition("]")[0].lstrip("["): tried for tried in found.rules}


def values(tried: Tried) -> list[float | None]:
    return [None if share is None else share.value for share in tried.shares.values()]


def test_a_block_is_counted_on_matured_labels_only(found: Backtest) -> None:
    dear = by_name(found)["dear"]
    assert dear.counts == {
        "matches": 6,
        "frauds": 1,
        "good": 2,
        "immature": 2,
        "unobserved": 1,
        "stopped_before": 2,
        "frauds_stopped_before": 0,
    }
    assert values(dear) == [1 / 3, 30_000 / 31_000, 1 / 3]
    # 300.00 and the fee of 15.00 are not lost; 8 % of 20.00 and the goodwill of 5.00 are.
    assert dear.saved_minor.value == 31_500 - 660
    assert (dear.reviews, dear.worst_reviews) == (0.0, 0)


def test_a_review_adds_to_the_queue_and_costs_what_the_policy_says(found: Backtest) -> None:
    small = by_name(found)["small"]
    assert (small.counts["matches"], small.counts["frauds"], small.counts["good"]) == (2, 1, 1)
    # 25.00 less a review of 2.00 that misses a tenth; a review, and 3 % of 0.80 and 5.00, of the good one.
    assert small.saved_minor.value == (2_500 - 450) - 217
    assert (small.reviews, small.worst_reviews) == (2 / 80, 2)


def test_an_allow_gives_back_what_a_block_had_cost(found: Backtest) -> None:
    friend = by_name(found)["friend"]
    assert (friend.counts["matches"], friend.counts["stopped_before"]) == (1, 1)
    assert friend.saved_minor.value == 5_300
    assert values(friend) == [0.0, 0.0, 0.0]


def test_what_a_rule_lets_through_it_does_not_catch(made: FraudLog) -> None:
    payments = history_of(made, 100)[1]
    rules = backtest(RuleSet("allow if :amount_in_eur: = 300\nblock if true"), payments, policy=POLICY).rules
    lets, stops, together = (tried.shares["value_caught"] for tried in rules)
    assert lets is not None
    assert stops is not None
    assert together is not None
    assert (lets.value, stops.value, together.value) == (0.0, 1.0, 1_000 / 31_000)


def test_a_shadow_rule_is_tried_and_acts_in_nothing(found: Backtest) -> None:
    quiet, together = by_name(found)["quiet"], found.rules[-1]
    assert quiet.counts["matches"] == 8
    assert quiet.saved_minor.value != 0
    assert together.counts["matches"] == 8
    assert together.saved_minor.value == 30_840 + 1_833 + 5_300
    assert (together.reviews, together.worst_reviews) == (2 / 80, 2)


def test_the_order_of_kinds_decides_where_rules_meet(made: FraudLog) -> None:
    payments = history_of(made, 100)[1]
    text = "review if true\nblock if :amount_in_eur: = 300\nallow if :amount_in_eur: = 10\n3ds if :amount_minor: = 1000"
    together = backtest(RuleSet(text), payments, policy=POLICY).rules[-1]
    apart = {
        "fraud of 10": 2_500 - (5 + 200),
        "good of 10": -(5 + 6),
        "fraud of 300": 31_500,
        "blocked, good": 5_300 - (200 + 159),
        "good of 20": -(200 + 20),
    }
    assert together.saved_minor.value == sum(apart.values())


def test_the_text_says_what_was_found(found: Backtest) -> None:
    lines = found.text().splitlines()
    assert lines[0] == ("fraud at log position 13, decided 2024-10-05T00:00:00Z to 2024-12-23T12:00:00Z")
    assert lines[1].startswith("Labels: 62 % of 8 labels are known, 2 positive (analyst_verdict 1, chargeback 2, ")
    assert lines[2] == "Reviews as it was: 0.0 a day, at worst 0, capacity 0. In brackets: 95 % intervals."
    place = lines.index("[dear] block if :amount_in_eur: >= 20")
    assert lines[place + 1] == (
        "  matches 6, frauds 1, good 2, immature 2, unobserved 1, stopped before 2, frauds stopped before 0"
    )
    assert lines[place + 2].startswith("  precision 33.33 % (6.15 to 79.23), value caught 96.77 % (")
    assert lines[place + 3].startswith("  saved 308.40 EUR (")
    assert lines[place + 3].endswith("), reviews +0.0 a day, at worst +0")
    assert msgspec.json.decode(msgspec.json.encode(found), type=Backtest) == found


def test_without_a_label_nothing_is_saved_and_nothing_shared(tmp_path: Path) -> None:
    made = FraudLog(tmp_path)
    made.pay("young", 1)
    (rule, _) = backtest(RuleSet("block if true"), history_of(made, 2)[1], policy=POLICY).rules
    assert values(rule) == [None, None, None]
    assert rule.saved_minor.value == 0
    assert "precision –, value caught –, insulted –" in rule.text("EUR")
    none = backtest(RuleSet(""), history_of(made, 3)[1], policy=POLICY)
    assert [tried.counts["matches"] for tried in none.rules] == [0]


def test_a_log_without_payments_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        backtest(RuleSet("block if true"), history_of(FraudLog(tmp_path), 1)[1], policy=POLICY)
    assert str(caught.value) == (
        "backtest of fraud rules: a part of the log without payments. Expected payments that were decided or imported. "
        "Import history, or decide in shadow for a while."
    )


def test_what_another_system_did_and_nobody_told_of_saves_nothing(tmp_path: Path) -> None:
    made = FraudLog(tmp_path, shadow=True)
    made.decide("untold", 1, amount_minor=30_000)
    made.decide("told", 1, amount_minor=30_000, taken="allow")
    for number, name in enumerate(("untold", "told")):
        made.report(f"c{number}", name, 10)
    (rule, _) = backtest(RuleSet("block if true"), history_of(made, 90)[1], policy=POLICY).rules
    assert (rule.counts["frauds"], rule.counts["stopped_before"]) == (2, 0)
    assert rule.saved_minor.value == 31_500


def test_decided_payments_are_tried_as_they_were_asked_with_what_was_predicted(tmp_path: Path) -> None:
    home = fill_home(tmp_path)
    decisions = {decision.request.id: decision for decision in decide_live(home)}
    log = home.reader()
    history = History(log.read(), SCHEMA, features=FEATURES)
    payments = read_payments(history, log)
    log.close()
    cases = {case.request.id: case for case in payments.cases}
    assert decisions.keys() < cases.keys()
    for name, decision in decisions.items():
        assert p_fraud(cases[name]) == decision.candidates[0].predictions["p_fraud"]
        assert cases[name].request == decision.request
        logged = np.frombuffer(decision.candidates[0].features)
        assert list(cases[name].features.values()) == logged.tolist()
    later = payments.since(int(payments.examples.times[-5]))
    assert later.examples.n == len(later.cases) == len(later.done) == 5
    assert later.cases == payments.cases[-5:]


# Suggestions


def pattern(made: FraudLog, *, days: int, reported: bool) -> None:
    """Every tenth payment is made far from the card's country and is a fraud, the others are good; three a day."""
    for number in range(days * 3 + 30):
        day, far = number / 3, number % 10 == 0
        fields = {name: f"{name} {number}" for name in ("card", "device")} | {"ip": f"192.0.2.{number % 250}"}
        countries = {"card_country": "DE", "ip_country": "BR" if far else "DE"}
        if number < days * 3:
            made.decide(f"p{number}", day, amount_minor=1_000 + number % 41 * 100, **fields, **countries)
        if reported and number >= 30 and number % 10 == 5:
            made.report(f"c{number}", f"p{number - 25}", day + 0.01)


def test_a_pattern_is_found_early_and_judged_later(tmp_path: Path) -> None:
    made = FraudLog(tmp_path, policy=FraudCosts(reviews_per_day=0, fallback_block_above_minor=10**6))
    pattern(made, days=150, reported=True)
    history, payments = history_of(made, 260)
    text, since = suggest(history, payments, policy=POLICY)
    first = text.splitlines()[0]
    assert first == "[suggested_1] block if :same_card_ip: <= 0"
    later = payments.since(since)
    assert 0 < later.examples.n < payments.examples.n
    found = backtest(RuleSet(text), later, policy=POLICY).rules[0]
    assert found.rule == first
    assert found.shares["precision"] is not None
    assert found.shares["precision"].value == 1.0
    assert found.counts["frauds"] > 5


def test_what_the_model_caught_counts_though_its_label_is_never_known(tmp_path: Path) -> None:
    made = FraudLog(tmp_path)
    names = FEATURES.names_for("model")
    model = Threshold(names.index("same_card_ip"), 0.5, above=0.0001, below=0.97, width=len(names))
    versions = Versions("", "", FEATURES.version, 0)
    made.service.adopt(Serving(model=model, head="p_fraud", policy=POLICY, versions=versions))
    pattern(made, days=100, reported=False)
    history, payments = history_of(made, 170)
    assert not np.any(history.now.labels == 1)
    text, _ = suggest(history, payments, policy=POLICY)
    assert text == "[suggested_1] block if :same_card_ip: <= 0"


def test_a_log_that_teaches_nothing_suggests_nothing(tmp_path: Path) -> None:
    made = FraudLog(tmp_path)
    made.pay("young", 1)
    assert suggest(*history_of(made, 2), policy=POLICY)[0] == ""
