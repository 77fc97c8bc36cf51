from __future__ import annotations

import msgspec
import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from decalog.clock import DAY
from decalog.errors import DataError
from decalog.metrics import Evaluated, Measurement
from decalog.systems.fraud.metrics import METRICS
from decalog.systems.fraud.policy import ALLOW, BLOCK, REVIEW, STEP_UP

BY_NAME = {metric.name: metric for metric in METRICS}


def measure(name: str, rows: Evaluated) -> Measurement:
    return BY_NAME[name].compute(rows)


def known() -> Evaluated:
    """Eight payments, two of them frauds: the dear one is blocked, the cheap one allowed; a good one is blocked too."""
    return Evaluated(
        labels=np.array([1.0, 1.0, 0, 0, 0, 0, 0, 0]),
        predictions=np.array([0.9, 0.2, 0.8, 0.1, 0.1, 0.1, 0.05, 0.05]),
        amounts=np.array([300, 100, 50, 50, 50, 50, 50, 50]),
        times=np.arange(8),
        actions=np.array([BLOCK, ALLOW, BLOCK, STEP_UP, REVIEW, ALLOW, ALLOW, ALLOW]),
        costs=np.array([0, 1_600, 900, 9, 201, 0, 0, 0]),
        entities={"card": np.arange(8)},
    )


def test_what_customers_and_analysts_meet() -> None:
    values = {
        name: measure(name, known()).value for name in ("insult_rate", "step_up_rate", "review_rate", "block_rate")
    }
    assert values == {"insult_rate": 1 / 6, "step_up_rate": 1 / 8, "review_rate": 1 / 8, "block_rate": 2 / 8}


def test_what_is_stopped_and_what_is_reviewed() -> None:
    # Stopped: one of two frauds, and three good ones. Let through: one fraud among four.
    assert measure("f1", known()).value == pytest.approx(2 * 1 / (4 + 2))
    assert measure("review_precision", known()).value == 0
    assert measure("vamp_ratio", known()).value == pytest.approx(2 * 1 / 4)
    assert measure("insult_cost_per_1000", known()).value == pytest.approx(1_000 * 900 / 8)


def test_a_block_that_was_let_through_counts_as_those_it_stands_for() -> None:
    """Blocks have no label: of fifty only the drawn one shows how many good payments are refused."""
    rows = msgspec.structs.replace(known(), weights=np.array([1.0, 1, 50, 1, 1, 1, 1, 1]))
    names = ("insult_rate", "step_up_rate", "review_rate", "block_rate", "review_precision", "reviews_a_day")
    values = {name: measure(name, rows).value for name in names}
    assert values == {
        "insult_rate": 50 / 55,
        "step_up_rate": 1 / 57,
        "review_rate": 1 / 57,
        "block_rate": 51 / 57,
        "review_precision": 0.0,
        "reviews_a_day": 1.0,
    }
    reviewed = msgspec.structs.replace(rows, actions=np.full(8, REVIEW))
    assert measure("reviews_a_day", reviewed).value == 57.0
    assert measure("review_precision", reviewed).value == pytest.approx(2 / 57)


def test_reviews_are_counted_by_day() -> None:
    times = np.array([0, 1, 2, DAY, DAY + 1, 2 * DAY, 2 * DAY, 2 * DAY])
    actions = np.array([REVIEW, REVIEW, ALLOW, REVIEW, ALLOW, REVIEW, REVIEW, REVIEW])
    found = measure("reviews_a_day", msgspec.structs.replace(known(), times=times, actions=actions))
    assert (found.value, found.n) == (2.0, 3)
    assert found.low == pytest.approx(2 - 1.96 / np.sqrt(3))
    lonely = measure("reviews_a_day", msgspec.structs.replace(known(), actions=np.full(8, REVIEW)))
    assert (lonely.value, lonely.low, lonely.high) == (8.0, 0.0, 16.0)


def test_money() -> None:
    assert measure("net_loss_per_1000", known()).value == pytest.approx(1_000 * 2_710 / 8)
    assert measure("value_weighted_recall", known()).value == 0.75


def test_ranking_and_probabilities_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(5)
    labels = (rng.random(3_000) < 0.05).astype(np.float64)
    predictions = np.clip(0.1 * labels + rng.random(3_000), 0, 1).round(2) * 0.9
    rows = Evaluated(labels=labels, predictions=predictions, amounts=np.ones(3_000, np.int64), times=np.arange(3_000))
    assert measure("average_precision", rows).value == pytest.approx(average_precision_score(labels, predictions))
    assert measure("roc_auc", rows).value == pytest.approx(roc_auc_score(labels, predictions))
    assert measure("brier", rows).value == pytest.approx(brier_score_loss(labels, predictions))


def test_recall_at_one_percent_of_good_payments_flagged() -> None:
    good = np.linspace(0, 0.5, 1_000)  # the ten highest, from 0.4955 on, are one percent
    rows = Evaluated(
        labels=np.concatenate([np.ones(4), np.zeros(1_000)]),
        predictions=np.concatenate([[0.9, 0.499, 0.496, 0.4], good]),
        amounts=np.ones(1_004, np.int64),
        times=np.arange(1_004),
    )
    assert measure("recall_at_1pct_fpr", rows).value == 0.75


def test_card_precision_is_over_the_cards_that_analysts_can_see() -> None:
    measurement = measure("card_precision_100", known())
    assert measurement.value == 2 / 100


def test_a_perfectly_calibrated_prediction_has_no_calibration_error() -> None:
    labels = np.tile([1.0, 0, 0, 0], 500)
    rows = Evaluated(
        labels=labels, predictions=np.full(2_000, 0.25), amounts=np.ones(2_000, np.int64), times=np.arange(2_000)
    )
    assert measure("calibration_error", rows).value == pytest.approx(0.0)


def test_card_precision_needs_cards() -> None:
    with pytest.raises(DataError, match="tokens of the entity 'card'"):
        measure("card_precision_100", msgspec.structs.replace(known(), entities={}))


def test_every_metric_says_what_it_is_and_how_it_is_computed() -> None:
    assert [metric.tier for metric in METRICS] == ["model"] * 7 + ["product"] * 6 + ["business"] * 4
    assert all(metric.meaning and metric.formula and metric.unit for metric in METRICS)
