"""Fraud's measures in three tiers: is the probability right, what do customers and analysts meet, what does it cost.

All are measured on payments whose label is known. `f` is the set of frauds, `g` of good payments, `n` all of them.
"""

from __future__ import annotations

import math

import numpy as np

from decalog import metrics
from decalog.clock import DAY
from decalog.metrics import Evaluated, Floats, Measurement, Metric, Sums, measured, share
from decalog.systems.fraud.policy import ALLOW, BLOCK, REVIEW, STEP_UP

_FPR = 0.01
_CARDS_A_DAY = 100
_Z95 = 1.96
_REPORTS_A_FRAUD = 2
"""A fraud counts in Visa's ratio once as the issuer's report (TC40) and once more as a dispute (TC15)."""


def _average_precision(rows: Evaluated, weights: Floats) -> float:
    return metrics.average_precision(rows.labels, rows.predictions, weights=weights)


def _roc_auc(rows: Evaluated, weights: Floats) -> float:
    return metrics.roc_auc(rows.labels, rows.predictions, weights=weights)


def _recall_at_fpr(rows: Evaluated, weights: Floats) -> float:
    return metrics.recall_at_fpr(rows.labels, rows.predictions, fpr=_FPR, weights=weights)


def _card_precision(rows: Evaluated) -> Measurement:
    return metrics.card_precision_at_k(rows, _CARDS_A_DAY)


def _brier(rows: Evaluated, weights: Floats) -> float:
    return metrics.brier(rows.labels, rows.predictions, weights=weights)


def _calibration_error(rows: Evaluated, weights: Floats) -> float:
    return metrics.expected_calibration_error(rows.labels, rows.predictions, weights=weights)


def _f1(rows: Evaluated, weights: Floats) -> float:
    stopped, frauds = rows.actions != ALLOW, rows.labels > 0
    hits = float(np.sum(weights[stopped & frauds]))
    either = float(np.sum(weights[stopped]) + np.sum(weights[frauds]))
    return 2 * hits / either if either else 0.0


def _review_precision(rows: Evaluated) -> Measurement:
    reviewed = rows.actions == REVIEW
    return share((rows.labels > 0)[reviewed], rows.mass[reviewed])


def _reviews_a_day(rows: Evaluated) -> Measurement:
    days = np.unique(rows.times // DAY, return_inverse=True)[1]
    reviews = np.bincount(days, rows.mass * (rows.actions == REVIEW))
    mean, n = float(reviews.mean()), len(reviews)
    spread = _Z95 * float(reviews.std(ddof=1)) / math.sqrt(n) if n > 1 else mean
    return Measurement(mean, max(mean - spread, 0.0), mean + spread, n)


def _insult_cost(rows: Evaluated, weights: Floats) -> float:
    insulted = (rows.labels <= 0) & (rows.actions == BLOCK)
    return float(1_000 * np.sum(weights[insulted] * rows.costs[insulted]) / np.sum(weights))


def _vamp_ratio(rows: Evaluated, weights: Floats) -> float:
    settled = rows.actions == ALLOW
    total = float(np.sum(weights[settled]))
    return _REPORTS_A_FRAUD * float(np.sum(weights[settled & (rows.labels > 0)])) / total if total else 0.0


def _insult_rate(rows: Evaluated) -> Measurement:
    good = rows.labels <= 0
    return share((rows.actions == BLOCK)[good], rows.mass[good])


def _step_up_rate(rows: Evaluated) -> Measurement:
    return _rate(rows, STEP_UP)


def _block_rate(rows: Evaluated) -> Measurement:
    return _rate(rows, BLOCK)


def _review_rate(rows: Evaluated) -> Measurement:
    return _rate(rows, REVIEW)


def _rate(rows: Evaluated, action: str) -> Measurement:
    return share(rows.actions == action, rows.mass)


def _value_weighted_recall(rows: Evaluated, weights: Floats) -> float:
    frauds = np.flatnonzero(rows.labels > 0)
    caught = rows.actions[frauds] != ALLOW
    return metrics.value_weighted_recall(
        rows.labels[frauds], rows.amounts[frauds], caught=caught, weights=weights[frauds]
    )


def _net_loss(rows: Evaluated, weights: Floats) -> float:
    return float(1_000 * np.sum(rows.costs * weights) / np.sum(weights))


# ---- the same as fractions of sums ----

_SHARE = (0.0, 1.0)


def _of_action(action: str) -> Sums:
    return Sums(lambda rows: (rows.mass * (rows.actions == action), rows.mass), _SHARE)


def _f1_sums(rows: Evaluated) -> tuple[Floats, Floats]:
    stopped = rows.actions != ALLOW
    return 2 * rows.mass * stopped * rows.labels, rows.mass * (stopped + rows.labels)


def _review_precision_sums(rows: Evaluated) -> tuple[Floats, Floats]:
    reviewed = rows.mass * (rows.actions == REVIEW)
    return reviewed * rows.labels, reviewed


def _insult_sums(rows: Evaluated) -> tuple[Floats, Floats]:
    good = rows.mass * (1 - rows.labels)
    return good * (rows.actions == BLOCK), good


def _recall_sums(rows: Evaluated) -> tuple[Floats, Floats]:
    at_stake = rows.mass * rows.amounts * rows.labels
    return at_stake * (rows.actions != ALLOW), at_stake


def _insult_cost_sums(rows: Evaluated) -> tuple[Floats, Floats]:
    # A blocked fraud costs nothing, so what is expected of a block is the cost of a good one.
    return 1_000 * rows.mass * rows.costs * (rows.actions == BLOCK), rows.mass


def _vamp_sums(rows: Evaluated) -> tuple[Floats, Floats]:
    settled = rows.mass * (rows.actions == ALLOW)
    return _REPORTS_A_FRAUD * settled * rows.labels, settled


def _net_loss_sums(rows: Evaluated) -> tuple[Floats, Floats]:
    return 1_000 * rows.mass * rows.costs, rows.mass


METRICS = (
    Metric(
        name="average_precision",
        tier="model",
        meaning="area under precision and recall: how well frauds rank above good payments where frauds are rare",
        formula="Σ (Rᵢ − Rᵢ₋₁) Pᵢ",
        unit="1",
        better="higher",
        compute=measured(_average_precision, by_rank=True),
    ),
    Metric(
        name="roc_auc",
        tier="model",
        meaning="chance that a fraud ranks above a good payment; never to be read alone",
        formula="P(p(f) > p(g)) + ½ P(p(f) = p(g))",
        unit="probability",
        better="higher",
        compute=measured(_roc_auc, by_rank=True),
    ),
    Metric(
        name="recall_at_1pct_fpr",
        tier="model",
        meaning="share of frauds found when one good payment in a hundred is flagged",
        formula="max |flagged ∩ f| / |f| with |flagged ∩ g| / |g| ≤ 0.01",
        unit="share",
        better="higher",
        compute=measured(_recall_at_fpr, by_rank=True),
    ),
    Metric(
        name="card_precision_100",
        tier="model",
        meaning="compromised cards among the 100 most suspicious of a day, mean over days",
        formula="mean over days of |compromised ∩ top 100 cards| / 100",
        unit="share",
        better="higher",
        compute=_card_precision,
    ),
    Metric(
        name="brier",
        tier="model",
        meaning="squared error of the probability",
        formula="mean (p − y)²",
        unit="1",
        better="lower",
        compute=measured(_brier),
    ),
    Metric(
        name="calibration_error",
        tier="model",
        meaning="gap between probability and observed rate over 15 bins of equal mass",
        formula="Σ (nᵦ / n) |mean y − mean p|",
        unit="probability",
        better="lower",
        compute=measured(_calibration_error),
    ),
    Metric(
        name="f1",
        tier="model",
        meaning="balance of precision and recall of what is stopped in any way: blocked, reviewed or stepped up",
        formula="2 |stopped ∩ f| / (|stopped| + |f|)",
        unit="1",
        better="higher",
        compute=measured(_f1),
        sums=Sums(_f1_sums, _SHARE),
    ),
    Metric(
        name="review_precision",
        tier="product",
        meaning="frauds among the payments that analysts look at, at their real capacity",
        formula="|reviewed ∩ f| / |reviewed|",
        unit="share",
        better="higher",
        compute=_review_precision,
        sums=Sums(_review_precision_sums, _SHARE),
    ),
    Metric(
        name="reviews_a_day",
        tier="product",
        meaning="payments that analysts look at on a day; days count as independent",
        formula="mean over days of |reviewed|",
        unit="payments",
        better="lower",
        compute=_reviews_a_day,
        is_of_labels=False,
    ),
    Metric(
        name="insult_rate",
        tier="product",
        meaning="good payments that are refused outright",
        formula="|blocked ∩ g| / |g|",
        unit="share",
        better="lower",
        compute=_insult_rate,
        sums=Sums(_insult_sums, _SHARE),
    ),
    Metric(
        name="step_up_rate",
        tier="product",
        meaning="payments that are asked for 3-D Secure",
        formula="|stepped up| / n",
        unit="share",
        better="lower",
        compute=_step_up_rate,
        sums=_of_action(STEP_UP),
        is_of_labels=False,
    ),
    Metric(
        name="review_rate",
        tier="product",
        meaning="payments that analysts look at: the load of the queue",
        formula="|reviewed| / n",
        unit="share",
        better="lower",
        compute=_review_rate,
        sums=_of_action(REVIEW),
        is_of_labels=False,
    ),
    Metric(
        name="block_rate",
        tier="product",
        meaning="payments that are refused outright",
        formula="|blocked| / n",
        unit="share",
        better="lower",
        compute=_block_rate,
        sums=_of_action(BLOCK),
        is_of_labels=False,
    ),
    Metric(
        name="value_weighted_recall",
        tier="business",
        meaning="share of the fraudulent money that met a block, a review or a step-up",
        formula="Σ A over (f not allowed) / Σ A over f",
        unit="share",
        better="higher",
        compute=measured(_value_weighted_recall),
        sums=Sums(_recall_sums, _SHARE),
    ),
    Metric(
        name="insult_cost_per_1000",
        tier="business",
        meaning="margin and future business lost with good customers who are refused outright, a thousand payments",
        formula="1000 · mean over all of (what the action cost, where a good payment was blocked)",
        unit="minor units",
        better="lower",
        compute=measured(_insult_cost),
        sums=Sums(_insult_cost_sums),
    ),
    Metric(
        name="vamp_ratio",
        tier="business",
        meaning="forecast of Visa's ratio (VAMP) over what is allowed outright, each fraud reported and disputed: "
        "1.5 % is excessive, above 1,500 cases a month",
        formula="(fraud reports + disputes) / settled, 2 |allowed ∩ f| / |allowed|",
        unit="share",
        better="lower",
        compute=measured(_vamp_ratio),
        sums=Sums(_vamp_sums, (0.0, float(_REPORTS_A_FRAUD))),
    ),
    Metric(
        name="net_loss_per_1000",
        tier="business",
        meaning="fraud losses, chargeback fees, lost margin and goodwill, reviews and step-ups, a thousand payments",
        formula="1000 · mean of what the action cost once the label was known (FraudPolicy.cost_minor)",
        unit="minor units",
        better="lower",
        compute=measured(_net_loss),
        sums=Sums(_net_loss_sums),
    ),
)
