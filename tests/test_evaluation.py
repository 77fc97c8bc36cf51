from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.fraud_log import FEATURES, START, FraudLog, hours

from decalog.clock import DAY
from decalog.decisions import Choice, Slot
from decalog.errors import DataError
from decalog.evaluation import (
    Outlook,
    completeness,
    contender,
    do_nothing,
    plain_split,
    replay_policy,
    report,
    split,
    support,
)
from decalog.examples import History
from decalog.fitting import training_set
from decalog.policy import Case, Verdict
from decalog.reports import Support
from decalog.systems.fraud.metrics import METRICS
from decalog.systems.fraud.policy import FraudCosts, FraudPolicy
from decalog.systems.fraud.schema import SCHEMA
from decalog.systems.fraud.system import SYSTEM

MATURITY = 60 * DAY
PAYMENTS = 400


class ReviewBelowTwo(FraudPolicy):
    """Sends to review while fewer than two reviews stand in the last day; the prediction is not looked at."""

    def decide(self, case: Case) -> Verdict:
        action = "review" if case.features["reviews_1d"] < 2 else "allow"
        return Verdict(choice=Choice((Slot(action),)))


class Gambler(FraudPolicy):
    def decide(self, case: Case) -> Verdict:
        return Verdict(choice=Choice((Slot("allow" if case.draw("coin") < 0.5 else "block"),)))


def outlook(policy: FraudPolicy | None = None) -> Outlook:
    return Outlook(
        policy=policy or FraudPolicy(FraudCosts()),
        idle="allow",
        features=FEATURES,
        head="p_fraud",
        metrics=METRICS,
    )


@pytest.fixture(scope="module")
def long_log(tmp_path_factory: pytest.TempPathFactory) -> History:
    """400 payments over 200 days; every tenth charged back after ten days, p5 only after 150."""
    log = FraudLog(tmp_path_factory.mktemp("long"))
    due: list[tuple[float, str]] = [(152.75, "p5")]
    for i in range(PAYMENTS):
        day = i / 2
        while due and min(due)[0] <= day:
            when, target = min(due)
            due.remove((when, target))
            log.report(f"cb-{target}", target, when)
        log.pay(f"p{i}", day, card=f"card-{i % 30}", amount_minor=20_000 if i % 10 == 0 else 1_000 + i)
        if i % 10 == 0:
            due.append((day + 10, f"p{i}"))
    return History(log.records(), SCHEMA, features=FEATURES)


def test_the_training_part_holds_only_what_was_known_at_its_date(long_log: History) -> None:
    parts = split(long_log, test_share=0.2)
    assert parts.delay_left_out
    # In both parts the payment after the last silent one is charged back already, so no label before it is awaited.
    assert parts.train.times.max() <= parts.trained_at - MATURITY + DAY // 2
    assert parts.train.settled.max() <= parts.trained_at
    assert parts.test.times.min() >= parts.trained_at
    assert parts.test.times.max() <= long_log.known_time - MATURITY + DAY // 2
    assert parts.train.labelled.all()
    assert parts.test.labelled.all()


def test_parts_and_gap_add_up_and_the_test_share_is_kept(long_log: History) -> None:
    parts = split(long_log, test_share=0.25)
    whole = long_log.now
    assert parts.train.n + parts.gap == int(np.sum(whole.times < parts.trained_at))
    assert parts.test.n / (parts.train.n + parts.test.n) == pytest.approx(0.25, abs=0.02)
    assert not set(parts.train.ids) & set(parts.test.ids)


def test_a_label_that_changed_after_the_training_date_is_learnt_as_it_was(long_log: History) -> None:
    """p5 counted as good until its chargeback on day 152; a model trained before that could not know better."""
    parts = split(long_log, test_share=0.2)
    assert parts.trained_at < START + 152 * DAY
    assert int(parts.train.labels[parts.train.ids.index("p5")]) == 0
    now = long_log.now
    assert int(now.labels[now.ids.index("p5")]) == 1


def test_labels_that_come_at_once_need_no_gap(tmp_path: Path) -> None:
    log = FraudLog(tmp_path)
    for i in range(100):
        log.pay(f"p{i}", hours(i))
        log.report(f"v{i}", f"p{i}", hours(i), kind="analyst_verdict", source="analyst", value=int(i % 4 == 0))
    parts = split(History(log.records(), SCHEMA, features=FEATURES), test_share=0.2)
    assert parts.delay_left_out
    assert (parts.train.n, parts.gap, parts.test.n) == (80, 0, 20)
    assert parts.test.ids[0] == "p80"


def test_a_lost_label_in_a_thousand_does_not_stop_training_and_more_do(tmp_path: Path) -> None:
    """Beyond the label delay only positives are known, so a part that reached into it would hold too many of them."""
    for lost, expected in ((1, 1_199), (6, 0)):
        log = FraudLog(tmp_path / str(lost))
        for i in range(1_500):
            log.pay(f"p{i}", i / 1_440)
            if i >= lost:
                log.report(f"v{i}", f"p{i}", i / 1_440, kind="analyst_verdict", source="analyst", value=int(i % 9 == 0))
        parts = split(History(log.records(61), SCHEMA, features=FEATURES), test_share=0.2)
        assert parts.train.n == expected


def test_a_short_log_leaves_nothing_and_the_plain_split_goes_by_time(tmp_path: Path) -> None:
    log = FraudLog(tmp_path)
    for i in range(50):
        log.pay(f"p{i}", hours(i))
    log.report("cb1", "p3", 20)
    history = History(log.records(70), SCHEMA, features=FEATURES)
    honest, plain = split(history, test_share=0.2), plain_split(history, test_share=0.2)
    assert honest.train.n == 0
    assert (plain.train.n, plain.test.n, plain.delay_left_out) == (40, 10, False)
    assert plain.train.times.max() < plain.test.times.min()
    assert plain.train.labels.tolist() == [0, 0, 0, 1] + [0] * 36


@pytest.mark.parametrize("cut", [split, plain_split])
def test_no_label_at_all_gives_empty_parts(tmp_path: Path, cut: object) -> None:
    log = FraudLog(tmp_path)
    log.pay("p1", 0)
    parts = cut(History(log.records(), SCHEMA, features=FEATURES), test_share=0.2)  # type: ignore[operator]
    assert (parts.train.n, parts.test.n) == (0, 0)


def test_replay_counts_its_own_reviews_not_the_logs(tmp_path: Path) -> None:
    log = FraudLog(tmp_path)  # without a model, each of these is sent to review by the fallback
    for i in range(6):
        log.decide(f"p{i}", hours(8 * i))
        log.report(f"v{i}", f"p{i}", hours(8 * i), kind="analyst_verdict", source="analyst", value=0)
    test = History(log.records(), SCHEMA, features=FEATURES).now
    assert test.rows[:, FEATURES.names.index("reviews_1d")].tolist() == [0, 1, 2, 2, 2, 2]
    actions, costs = replay_policy(test, np.zeros(6), outlook=outlook(ReviewBelowTwo(FraudCosts())))
    # (t − 24 h, t]: at hour 24 the review of hour 0 has left, the one of hour 8 leaves at 32.
    assert actions.tolist() == ["review", "review", "allow", "review", "review", "allow"]
    assert costs.tolist() == [200 + 17, 200 + 17, 0, 200 + 17, 200 + 17, 0]


def test_money_of_a_model_stands_beside_doing_nothing(long_log: History) -> None:
    test = split(long_log, test_share=0.2).test
    frauds = test.labels == 1
    nothing = do_nothing(test, outlook())
    known = contender("perfect", "oracle", test=test, predictions=frauds.astype(np.float64), outlook=outlook())
    lost = int(np.sum(test.amounts[frauds] + 1_500))
    assert nothing.name == "always allow"
    assert nothing.values["net_loss_per_1000"].value == pytest.approx(1_000 * lost / test.n)
    assert nothing.saved_per_1000 is not None
    assert nothing.saved_per_1000.value == 0
    assert "roc_auc" not in nothing.values
    assert known.values["net_loss_per_1000"].value == 0
    assert known.saved_per_1000 is not None
    assert known.saved_per_1000.value == pytest.approx(1_000 * lost / test.n)
    assert known.values["roc_auc"].value == 1
    assert known.actions == {"allow": pytest.approx(1 - frauds.mean()), "block": pytest.approx(frauds.mean())}


def test_what_the_rows_cannot_give_is_named_and_nothing_else_is_lost(long_log: History) -> None:
    test = split(long_log, test_share=0.2).test
    bare = msgspec.structs.replace(test, entities={"card": np.full(test.n, -1)})
    found = contender("m", "model", test=bare, predictions=np.linspace(0, 1, test.n), outlook=outlook())
    # Nothing is reviewed here, so that no share of reviews can be told either.
    assert [(m.metric, m.needs) for m in found.missing] == [
        ("card_precision_100", "tokens of the entity 'card'"),
        ("review_precision", "at least one row"),
    ]
    assert len(found.values) == len(METRICS) - 2


def test_a_policy_that_draws_even_when_greedy_is_refused(long_log: History) -> None:
    test = split(long_log, test_share=0.2).test
    with pytest.raises(DataError) as caught:
        replay_policy(test, np.zeros(test.n), outlook=outlook(Gambler(FraudCosts())))
    assert str(caught.value) == (
        "policy replay over a test part: a draw 'coin'. Expected none: `greedy` is the policy without exploration. "
        "Mend the policy's `greedy`."
    )


def test_the_report_says_how_many_labels_are_known(long_log: History) -> None:
    parts = split(long_log, test_share=0.2)
    made = report(long_log, parts, contenders=[do_nothing(parts.test, outlook())], metrics=METRICS, currency="EUR")
    labels = completeness(long_log.now)
    assert made.labels == labels
    assert labels.requests == PAYMENTS
    assert labels.positives == 39  # 38 of the tenths by day 199.5, and p5
    assert labels.why == {"chargeback": 39, "immature": 110, "silence": 251}
    assert made.position == long_log.position
    assert [metric.name for metric in made.metrics] == [metric.name for metric in METRICS]


def test_the_support_says_for_which_decisions_the_log_cannot_tell(tmp_path: Path) -> None:
    log = FraudLog(tmp_path, policy=FraudCosts(reviews_per_day=0, fallback_block_above_minor=1_000))
    log.decide("small", 1, amount_minor=900)
    log.decide("large", 2, amount_minor=3_000)
    examples = History(log.records(), SCHEMA, features=FEATURES).now
    assert examples.acted == ("allow", "block")
    assert support(examples, SCHEMA) == Support(2, 0, 1, 3_900, 3_000)
    drawn = msgspec.structs.replace(examples, propensities=np.array([0.25, 0.75]))
    assert support(drawn, SCHEMA) == Support(2, 1, 0, 3_900, 0)
    assert drawn.weights.tolist() == [4.0, 1 / 0.75]


def test_shares_of_actions_count_a_drawn_request_as_those_it_stands_for(long_log: History) -> None:
    test = split(long_log, test_share=0.2).test
    drawn = msgspec.structs.replace(test, propensities=np.where(test.labels == 1, 0.02, 1.0))
    sure = contender("sure", "model", test=drawn, predictions=drawn.labels.astype(float), outlook=outlook())
    stopped = 50 * int(np.sum(test.labels == 1))
    every = int(np.sum(test.labels == 0)) + stopped
    assert sure.actions == {"allow": (every - stopped) / every, "block": stopped / every}


def test_a_drawn_example_is_learnt_from_as_often_as_it_stands_for(long_log: History) -> None:
    examples = long_log.now
    drawn = msgspec.structs.replace(examples, propensities=np.where(examples.labels == 1, 0.25, 1.0))
    plain, repeated = training_set(SYSTEM, examples), training_set(SYSTEM, drawn)
    assert repeated.labels.sum() == 4 * plain.labels.sum()
    assert len(repeated.labels) == len(plain.labels) + 3 * plain.labels.sum()
    assert (np.diff(repeated.times) >= 0).all()
    assert repeated.rows.shape == (len(repeated.labels), plain.rows.shape[1])
