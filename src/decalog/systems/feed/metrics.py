"""Feed's measures in three tiers: are the probabilities right, what do readers meet, and what is it worth.

Rows are posts that were shown and whose outcomes are known. Models are asked how they would have ordered each slate's
own posts; what readers did, and whether they came back, is measured on the slates as they were shown. How well posts
are found has rows of its own (`recall.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from decalog import metrics, slate_metrics
from decalog.metrics import Floats, Int64s, Measurement, Metric, Sums, interval, need, proportion
from decalog.models.ranking import Lists
from decalog.slate_metrics import Ranked, by_user
from decalog.systems.feed.schema import RETURN, SESSION

_DEPTH = 10
_SECOND_US = 1_000_000


def _ndcg(rows: Ranked, weights: Floats) -> float:
    gains, first = slate_metrics.ndcg(rows, np.maximum(rows.worth, 0.0) / rows.examined, k=_DEPTH)
    need(len(gains) > 0, "NDCG", expected="a slate with something worth more than nothing")
    return float(np.average(gains, weights=weights[first])) if weights[first].any() else float("nan")


def _click_auc(rows: Ranked, weights: Floats) -> float:
    labels, known = _known(rows, "p_click")
    return metrics.roc_auc(labels[known], rows.prediction("p_click")[known], weights=weights[known])


def _click_loss(rows: Ranked, weights: Floats) -> float:
    labels, known = _known(rows, "p_click")
    return metrics.log_loss(labels[known], rows.prediction("p_click")[known], weights=weights[known])


def _calibration(rows: Ranked, weights: Floats) -> float:
    errors = []
    for head in rows.heads:
        labels, known = _known(rows, head)
        predicted = rows.prediction(head)[known]
        errors.append(metrics.expected_calibration_error(labels[known], predicted, weights=weights[known]))
    return float(np.mean(errors))


def _known(rows: Ranked, head: str) -> tuple[Floats, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    labels = rows.label(head)
    return labels, np.isfinite(labels)


def _return_rate(rows: Ranked) -> Measurement:
    need(RETURN in rows.ends, "return rate", expected=f"outcomes of kind {RETURN}")
    came = rows.ends[RETURN][1] >= 1
    return proportion(int(came.sum()), len(came))


def _session_s(rows: Ranked) -> Measurement:
    need(SESSION in rows.ends, "session length", expected=f"outcomes of kind {SESSION}")
    return metrics.mean(rows.ends[SESSION][1])


def _creator_retention(rows: Ranked) -> Measurement:
    """Returns the share of authors shown in the first half of the time who wrote something shown in the second half."""
    middle = (int(rows.times.min()) + int(rows.times.max())) // 2
    authors = [str(fact.get("author", "")) for fact in rows.facts]
    ages = np.array([float(fact.get("age_s", 0)) for fact in rows.facts])
    written = rows.times - (ages * _SECOND_US).astype(np.int64)
    early = {author for author, time in zip(authors, rows.times.tolist(), strict=True) if author and time < middle}
    late = {author for author, time in zip(authors, written.tolist(), strict=True) if time >= middle}
    need(bool(early), "creator retention", expected="authors of what was shown")
    return proportion(len(early & late), len(early))


class Finds(NamedTuple):
    """Lists of retrieval, one a slate that was asked for, and the readers they are for."""

    lists: Lists
    readers: Int64s


def over_readers(values: Floats, *, seed: int = 0, repeats: int = 1_000) -> Measurement:
    """Returns the mean of one figure a reader with the 95 % percentile interval of a bootstrap over the readers."""
    rng = np.random.default_rng(seed)
    drawn = [float(values[rng.integers(len(values), size=len(values))].mean()) for _ in range(repeats)]
    return interval(float(values.mean()), drawn, n=len(values))


def _by_reader(figure: Callable[[Lists], Floats]) -> Callable[[Any], Measurement]:
    """Returns a computation of the mean over readers of the mean over each one's slates."""

    def compute(rows: Any) -> Measurement:
        expected = "a later slate on which something was taken up that retrieval could have shown"
        need(isinstance(rows, Finds), "the whole catalogue", expected=expected)
        _, reader, slates = np.unique(rows.readers, return_inverse=True, return_counts=True)
        return over_readers(np.bincount(reader, figure(rows.lists)) / slates)

    return compute


FOUND = (
    Metric(
        name="catalogue_recall_20",
        tier="model",
        meaning="of what a reader took up on a later slate, how much retrieval's best 20 hold of all that could be "
        "shown, the mean over readers; posts that no slate showed count as not wanted",
        formula="taken up among the best 20 / taken up",
        unit="share",
        better="higher",
        compute=_by_reader(lambda lists: lists.recall(20)),
        is_of_labels=False,
    ),
    Metric(
        name="catalogue_ndcg_20",
        tier="model",
        meaning="the same with what stands higher weighing more",
        formula="Σ taken up / log2(1 + rank) over the best 20, over the best order's",
        unit="1",
        better="higher",
        compute=_by_reader(lambda lists: lists.ndcg(20)),
        is_of_labels=False,
    ),
    Metric(
        name="catalogue_recall_500",
        tier="model",
        meaning="the same among the 500 that compete for a slate: what ranking can choose from",
        formula="taken up among 500 / taken up",
        unit="share",
        better="higher",
        compute=_by_reader(lambda lists: lists.recall(500)),
        is_of_labels=False,
    ),
)
"""Measured on `Finds`: of lists and not of what was shown, whose labels they do not ask for."""

METRICS = (
    Metric(
        name="ndcg_10",
        tier="model",
        meaning="how well the order puts first what turned out to be worth most, within each slate",
        formula="Σ gain / log2(1 + rank) over the first 10, over the best order's; gain = max(worth, 0) / how likely "
        "the slot is looked at, as the chosen model has learnt it",
        unit="1",
        better="higher",
        compute=by_user(_ndcg),
    ),
    Metric(
        name="click_auc",
        tier="model",
        meaning="a clicked post has a higher predicted click probability than one that was not",
        formula="P(p(click) > p(no click)), ties half",
        unit="probability",
        better="higher",
        compute=by_user(_click_auc),
    ),
    Metric(
        name="click_log_loss",
        tier="model",
        meaning="how surprising the clicks were",
        formula="−mean(y ln p + (1 − y) ln(1 − p))",
        unit="nats",
        better="lower",
        compute=by_user(_click_loss),
    ),
    Metric(
        name="calibration_error",
        tier="model",
        meaning="how far predicted probabilities are from what happened, mean over all heads",
        formula="mean over heads of Σ bins (share of rows) · |mean y − mean p|",
        unit="probability",
        better="lower",
        compute=by_user(_calibration, repeats=50),
    ),
    *FOUND,
    Metric(
        name="click_rate",
        tier="product",
        meaning="shown posts that were opened; alone it rewards bait",
        formula="clicks / shown",
        unit="share",
        better="higher",
        compute=by_user(slate_metrics.head_share("p_click")),
        sums=slate_metrics.head_sums("p_click"),
    ),
    Metric(
        name="long_dwell_rate",
        tier="product",
        meaning="shown posts that were stayed on for 10 s or more",
        formula="dwells ≥ 10 s / shown",
        unit="share",
        better="higher",
        compute=by_user(slate_metrics.head_share("p_dwell")),
        sums=slate_metrics.head_sums("p_dwell"),
    ),
    Metric(
        name="hides_per_1000",
        tier="product",
        meaning="posts that readers hid, of 1,000 shown",
        formula="1,000 · hides / shown",
        unit="hides",
        better="lower",
        compute=by_user(slate_metrics.head_share("p_hide", times=1_000.0)),
        sums=slate_metrics.head_sums("p_hide", times=1_000.0),
    ),
    Metric(
        name="reports_per_1000",
        tier="product",
        meaning="posts that readers reported, of 1,000 shown",
        formula="1,000 · reports / shown",
        unit="reports",
        better="lower",
        compute=by_user(slate_metrics.head_share("p_report", times=1_000.0)),
        sums=slate_metrics.head_sums("p_report", times=1_000.0),
    ),
    Metric(
        name="return_rate",
        tier="product",
        meaning="readers who came back the next day",
        formula="returns / slates of which it is known",
        unit="share",
        better="higher",
        compute=_return_rate,
        is_of_labels=False,
    ),
    Metric(
        name="session_s",
        tier="product",
        meaning="how long sessions lasted",
        formula="mean seconds",
        unit="s",
        better="higher",
        compute=_session_s,
        is_of_labels=False,
    ),
    Metric(
        name="coverage",
        tier="product",
        meaning="posts shown in the test part, of all that were ever shown",
        formula="different posts shown / different posts ever shown",
        unit="share",
        better="higher",
        compute=slate_metrics.coverage,
        is_of_labels=False,
    ),
    Metric(
        name="gini",
        tier="product",
        meaning="how unevenly posts are shown: 0 all alike, towards 1 one alone",
        formula="Gini coefficient of showings over posts",
        unit="1",
        better="lower",
        compute=by_user(slate_metrics.unevenness),
        is_of_labels=False,
    ),
    Metric(
        name="novelty",
        tier="product",
        meaning="how little known the shown posts are among readers",
        formula="mean −log2(readers who were shown the post / readers)",
        unit="bits",
        better="higher",
        compute=by_user(slate_metrics.novelty),
        is_of_labels=False,
    ),
    Metric(
        name="worth_per_1000",
        tier="business",
        meaning="what readers' actions on 1,000 slates are worth by the policy's weights",
        formula="1,000 · Σ w · action / slates",
        unit="minor units",
        better="higher",
        compute=by_user(slate_metrics.worth_per_1000),
        sums=Sums(slate_metrics.worth_sums),
    ),
    Metric(
        name="creator_retention",
        tier="business",
        meaning="authors shown in the first half of the time who wrote something that was shown in the second",
        formula="authors in both / authors in the first",
        unit="share",
        better="higher",
        compute=_creator_retention,
        is_of_labels=False,
    ),
)
