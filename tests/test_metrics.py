"""Metrics against scikit-learn, against hand-made answers, and against the laws that intervals must keep."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as oracle

from decalog import metrics
from decalog.clock import DAY
from decalog.errors import DataError
from decalog.metrics import Evaluated, Floats, Int64s, Measurement

Case = tuple[Floats, Floats, Floats]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Labels of both kinds, predictions with many ties, whole weights of which the first two are positive."""
    n = draw(st.integers(2, 60))
    labels = [1.0, 0.0, *draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=n - 2, max_size=n - 2))]
    steps = draw(st.sampled_from([3, 10, 1000]))
    scores = draw(st.lists(st.integers(1, steps - 1), min_size=n, max_size=n))
    weights = [1, 2, *draw(st.lists(st.integers(0, 3), min_size=n - 2, max_size=n - 2))]
    return np.array(labels), np.array(scores) / steps, np.array(weights, np.float64)


def evaluated(
    labels: Floats, predictions: Floats, *, days: Int64s | None = None, cards: Int64s | None = None
) -> Evaluated:
    n = len(labels)
    return Evaluated(
        labels=labels,
        predictions=predictions,
        amounts=np.arange(1, n + 1),
        times=np.zeros(n, np.int64) if days is None else days * DAY + 1,
        entities={} if cards is None else {"card": cards},
    )


def seeded(n: int = 400, positives: float = 0.1) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(7)
    labels = (rng.random(n) < positives).astype(np.float64)
    return labels, np.clip(rng.normal(0.3 + 0.3 * labels, 0.15), 0.01, 0.99)


@given(cases())
def test_ranking_metrics_equal_scikit_learn_with_ties_and_weights(case: Case) -> None:
    labels, scores, weights = case
    for w in (None, weights):
        assert metrics.average_precision(labels, scores, weights=w) == pytest.approx(
            oracle.average_precision_score(labels, scores, sample_weight=w), abs=1e-12
        )
        assert metrics.roc_auc(labels, scores, weights=w) == pytest.approx(
            oracle.roc_auc_score(labels, scores, sample_weight=w), abs=1e-12
        )


@given(cases())
def test_probability_metrics_equal_scikit_learn_with_weights(case: Case) -> None:
    labels, scores, weights = case
    for w in (None, weights):
        assert metrics.brier(labels, scores, weights=w) == pytest.approx(
            oracle.brier_score_loss(labels, scores, sample_weight=w), abs=1e-12
        )
        assert metrics.log_loss(labels, scores, weights=w) == pytest.approx(
            oracle.log_loss(labels, scores, sample_weight=w), abs=1e-12
        )


def test_log_loss_of_a_certain_error_is_finite_and_scikit_learns() -> None:
    labels, sure = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    assert metrics.log_loss(labels, sure) == pytest.approx(oracle.log_loss(labels, sure), rel=1e-12)


@given(cases(), st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0]))
def test_recall_at_fpr_equals_the_best_point_of_scikit_learns_curve(case: Case, fpr: float) -> None:
    labels, scores, weights = case
    for w in (None, weights):
        false_rate, true_rate, _ = oracle.roc_curve(labels, scores, sample_weight=w, drop_intermediate=False)
        best = max(r for r, f in zip(true_rate, false_rate, strict=True) if f <= fpr)
        assert metrics.recall_at_fpr(labels, scores, fpr=fpr, weights=w) == pytest.approx(best, abs=1e-12)


@given(cases(), st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0]))
def test_flagging_at_the_threshold_has_that_recall(case: Case, fpr: float) -> None:
    labels, scores, _ = case
    flagged = scores >= metrics.threshold_at_fpr(labels, scores, fpr=fpr)
    recall = float(np.sum(flagged & (labels > 0)) / np.sum(labels > 0))
    assert recall == pytest.approx(metrics.recall_at_fpr(labels, scores, fpr=fpr))
    assert np.sum(flagged & (labels <= 0)) <= fpr * np.sum(labels <= 0)


def test_no_threshold_is_strict_enough_when_a_negative_ranks_highest() -> None:
    labels, scores = np.array([0.0, 1.0]), np.array([0.9, 0.5])
    assert metrics.threshold_at_fpr(labels, scores, fpr=0.0) == float("inf")
    assert metrics.recall_at_fpr(labels, scores, fpr=0.0) == 0.0


def test_precision_at_k_counts_rows_tied_at_the_border_by_their_share() -> None:
    labels, scores = np.array([1.0, 0.0, 1.0, 0.0]), np.array([0.9, 0.5, 0.5, 0.1])
    assert metrics.precision_at_k(labels, scores, k=1) == 1.0
    assert metrics.precision_at_k(labels, scores, k=2) == 0.75  # one of the tied two, a positive half of the time
    assert metrics.precision_at_k(labels, scores, k=3) == pytest.approx(2 / 3)
    assert metrics.precision_at_k(labels, scores, k=4) == 0.5


def test_expected_calibration_error_by_hand() -> None:
    labels, scores = np.array([0.0, 1.0, 1.0, 1.0]), np.array([0.2, 0.2, 0.6, 0.6])
    # Two bins of two: |0.5 − 0.2| and |1 − 0.6|, each with half of the rows.
    assert metrics.expected_calibration_error(labels, scores, bins=2) == pytest.approx(0.35)
    assert metrics.expected_calibration_error(labels, scores, bins=1) == pytest.approx(0.35)
    assert metrics.expected_calibration_error(labels, np.full(4, 0.75), bins=15) == pytest.approx(0.0)


@given(cases())
def test_calibration_error_ignores_the_order_of_rows_and_repeats_equal_weights(case: Case) -> None:
    labels, scores, weights = case
    repeated = np.repeat(np.arange(len(labels)), weights.astype(np.intp))[::-1]
    assert metrics.expected_calibration_error(labels, scores, weights=weights) == pytest.approx(
        metrics.expected_calibration_error(labels[repeated], scores[repeated]), abs=1e-12
    )


def test_value_weighted_recall_is_the_share_of_fraud_money() -> None:
    labels, amounts = np.array([1.0, 1.0, 0.0]), np.array([300, 100, 5_000])
    caught = np.array([True, False, True])
    assert metrics.value_weighted_recall(labels, amounts, caught=caught) == 0.75
    assert metrics.value_weighted_recall(labels, amounts, caught=caught, weights=np.array([1.0, 3.0, 1.0])) == 0.5


def handbook_card_precision(rows: Evaluated, k: int) -> float:
    """CP@k as the Handbook words it, day by day in plain Python; no ties may occur."""
    found: set[int] = set()
    shares = []
    days = (rows.times // DAY).tolist()
    for day in sorted(set(days)):
        best: dict[int, tuple[float, float]] = {}
        for i, card in enumerate(rows.entities["card"].tolist()):
            if days[i] == day and card not in found:
                score, label = best.get(card, (0.0, 0.0))
                best[card] = max(score, float(rows.predictions[i])), max(label, float(rows.labels[i]))
        shown = sorted(best, key=lambda card: -best[card][0])[:k]
        caught = [card for card in shown if best[card][1] > 0]
        shares.append(len(caught) / k)
        found.update(caught)
    return sum(shares) / len(shares)


@pytest.mark.parametrize("k", [1, 5, 50])
def test_card_precision_equals_the_handbooks_definition(k: int) -> None:
    rng = np.random.default_rng(3)
    labels, scores = seeded(600)
    rows = evaluated(
        labels, scores + rng.random(600) * 1e-6, days=rng.integers(0, 6, 600), cards=rng.integers(1, 90, 600)
    )
    found = metrics.card_precision_at_k(rows, k)
    assert found.value == pytest.approx(handbook_card_precision(rows, k), abs=1e-12)
    assert found.n == 6 * k
    assert found.low <= found.value <= found.high


def test_payments_without_a_card_are_not_one_card() -> None:
    labels, scores = np.array([1.0, 0.0, 1.0]), np.array([0.9, 0.8, 0.1])
    rows = evaluated(labels, scores, days=np.zeros(3, np.int64), cards=np.array([-1, 7, -1]))
    found = metrics.card_precision_at_k(rows, 1)
    assert (found.value, found.n) == (0.0, 1)


def test_a_card_found_once_is_not_counted_again() -> None:
    rows = evaluated(np.array([1.0, 1.0]), np.array([0.9, 0.9]), days=np.array([0, 1]), cards=np.array([4, 4]))
    assert metrics.card_precision_at_k(rows, 1).value == 0.5


def wilson_by_bisection(successes: float, n: float) -> tuple[float, float]:
    """The shares p at which |share − p| = z √(p (1 − p)/n): what Wilson's formula solves."""

    def solve(low: float, high: float, sign: float) -> float:
        for _ in range(200):
            middle = (low + high) / 2
            far = abs(successes / n - middle) > 1.959963984540054 * (middle * (1 - middle) / n) ** 0.5
            low, high = (middle, high) if far == (sign < 0) else (low, middle)
        return (low + high) / 2

    return solve(0.0, successes / n, -1.0), solve(successes / n, 1.0, 1.0)


@pytest.mark.parametrize(("successes", "n"), [(8, 10), (1, 200), (199, 200), (50, 100)])
def test_wilson_bounds_solve_their_equation(successes: int, n: int) -> None:
    found = metrics.proportion(successes, n)
    low, high = wilson_by_bisection(successes, n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)


def test_a_share_counts_rows_as_those_they_stand_for() -> None:
    rows = np.array([True, False, False, True])
    assert metrics.share(rows, np.ones(4)) == metrics.proportion(2, 4)
    found = metrics.share(rows, np.array([50.0, 1.0, 1.0, 0.5]))
    low, high = wilson_by_bisection(50.5 / 52.5 * (trials := 52.5**2 / 2_502.25), trials)
    assert (found.value, found.n) == (50.5 / 52.5, 4)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)


@given(st.integers(1, 1_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_proportion_lies_inside_its_interval(trial: tuple[int, int]) -> None:
    found = metrics.proportion(*trial)
    assert 0.0 <= found.low <= found.value <= found.high <= 1.0
    assert found.low < found.high


def auc(rows: Evaluated, weights: Floats) -> float:
    return metrics.roc_auc(rows.labels, rows.predictions, weights=weights)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    rows = evaluated(*seeded())
    measure = metrics.measured(auc)
    assert measure(rows) == measure(rows)
    other = Evaluated(labels=rows.labels, predictions=rows.predictions, amounts=rows.amounts, times=rows.times, seed=1)
    assert measure(other).value == measure(rows).value
    assert measure(other) != measure(rows)


RANKINGS: list[Callable[[Evaluated, Floats], float]] = [
    auc,
    lambda rows, weights: metrics.average_precision(rows.labels, rows.predictions, weights=weights),
    lambda rows, weights: metrics.recall_at_fpr(rows.labels, rows.predictions, fpr=0.2, weights=weights),
]


@pytest.mark.parametrize("ranking", RANKINGS)
@given(case=cases())
def test_rows_that_rank_alike_may_stand_as_one(ranking: Callable[[Evaluated, Floats], float], case: Case) -> None:
    rows = evaluated(*case[:2])
    one, all_ = (metrics.measured(ranking, repeats=20, by_rank=by_rank)(rows) for by_rank in (True, False))
    assert one.value == all_.value
    assert one.n == all_.n
    assert [one.low, one.high] == pytest.approx([all_.low, all_.high])


def test_rows_that_rank_alike_are_few() -> None:
    labels = np.zeros(10_000)
    labels[[10, 5_000]] = 1.0
    seen: list[int] = []

    def count(rows: Evaluated, weights: Floats) -> float:
        seen.append(rows.n)
        return float(np.sum(weights))

    found = metrics.measured(count, repeats=3, by_rank=True)(evaluated(labels, np.linspace(0, 1, 10_000)))
    assert seen == [10_000, 5, 5, 5]
    assert (found.low, found.value, found.high) == (10_000, 10_000, 10_000)


def test_every_measure_of_every_model_sees_the_same_samples() -> None:
    labels, scores = seeded()

    def money(rows: Evaluated, weights: Floats) -> float:
        return float(np.sum(rows.amounts * weights))

    one, other = evaluated(labels, scores), evaluated(labels, 1 - scores)
    assert metrics.measured(money)(one) == metrics.measured(money)(other)
    assert metrics.difference(one, other, statistic=money) == Measurement(0.0, 0.0, 0.0, 400)
    total = metrics.measured(money)(one)
    assert total.low < total.value < total.high


def test_a_sample_has_as_many_rows_of_each_label_as_there_are() -> None:
    labels, scores = seeded()

    def positives(rows: Evaluated, weights: Floats) -> float:
        return float(np.sum(weights[rows.labels > 0]))

    def drawn_twice(rows: Evaluated, weights: Floats) -> float:
        return float(np.max(weights))

    many = float(np.sum(labels > 0))
    rows = evaluated(labels, scores)
    assert metrics.measured(positives)(rows) == Measurement(many, many, many, 400)
    assert metrics.measured(drawn_twice)(rows).low > 1


def test_the_bootstrap_interval_agrees_with_delong() -> None:
    """DeLong's variance from placements (Biometrics 44, 1988) is another way to the same width."""
    labels, scores = seeded(4_000)
    found = metrics.measured(auc, repeats=400)(evaluated(labels, scores))
    wins = scores[labels > 0][:, None] > scores[labels <= 0][None, :]
    above, below = wins.mean(axis=1), wins.mean(axis=0)
    error = np.sqrt(above.var(ddof=1) / len(above) + below.var(ddof=1) / len(below))
    assert found.low < found.value < found.high
    assert (found.high - found.low) / (2 * 1.96 * error) == pytest.approx(1.0, abs=0.1)


def test_a_pair_of_equal_models_differs_by_exactly_nothing() -> None:
    rows = evaluated(*seeded())
    assert metrics.difference(rows, rows, statistic=auc) == Measurement(0.0, 0.0, 0.0, rows.n)


def test_a_paired_difference_is_narrower_than_the_two_intervals() -> None:
    labels, scores = seeded(2_000)
    noise = np.random.default_rng(1).normal(0, 0.05, len(scores))
    one, other = evaluated(labels, scores + noise), evaluated(labels, scores)
    found = metrics.difference(one, other, statistic=auc)
    alone = metrics.measured(auc)(other)
    assert found.low > 0
    assert found.high - found.low < alone.high - alone.low
    assert found.value == pytest.approx(auc(other, np.ones(2_000)) - auc(one, np.ones(2_000)))


def test_a_slice_keeps_every_column_in_step() -> None:
    rows = Evaluated(
        labels=np.array([0.0, 1.0]),
        predictions=np.array([0.1, 0.2]),
        amounts=np.array([10, 20]),
        times=np.array([1, 2]),
        actions=np.array(["allow", "block"]),
        costs=np.array([0, 5]),
        entities={"card": np.array([7, 8])},
        seed=9,
    )
    taken = rows.take(rows.labels > 0)
    assert (taken.n, taken.seed) == (1, 9)
    columns = (taken.predictions, taken.amounts, taken.times, taken.actions, taken.costs, taken.entities["card"])
    assert [column.tolist() for column in columns] == [[0.2], [20], [2], ["block"], [5], [8]]
    assert len(evaluated(np.zeros(3), np.zeros(3)).take(np.array([0, 1])).actions) == 0


ZEROS, ONES, HALF = np.zeros(3), np.ones(3), np.full(3, 0.5)
EMPTY = np.empty(0)


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (
            lambda: metrics.average_precision(ZEROS, HALF),
            "average precision: rows without it. Expected a positive label",
        ),
        (lambda: metrics.average_precision(EMPTY, EMPTY), "ranking metric: rows without it. Expected at least one row"),
        (lambda: metrics.roc_auc(ONES, HALF), "ROC AUC: rows without it. Expected both labels"),
        (lambda: metrics.recall_at_fpr(ONES, HALF, fpr=0.1), "recall at a false-positive rate: .* both labels"),
        (
            lambda: metrics.threshold_at_fpr(ONES, HALF, fpr=0.1),
            "threshold at a false-positive rate: .* a negative label",
        ),
        (lambda: metrics.precision_at_k(ONES, HALF, k=4), "precision at 4: .* at least 4 rows and k ≥ 1"),
        (lambda: metrics.precision_at_k(ONES, HALF, k=0), "precision at 0: .* at least 1 rows and k ≥ 1"),
        (
            lambda: metrics.card_precision_at_k(evaluated(ONES, HALF), 5),
            "card precision at 5: .* tokens of the entity 'card'",
        ),
        (
            lambda: metrics.card_precision_at_k(evaluated(ONES, HALF, cards=np.arange(3)), 0),
            "card precision at 0: .* at least one row with a card and k ≥ 1",
        ),
        (lambda: metrics.brier(EMPTY, EMPTY), "Brier score: .* at least one row"),
        (lambda: metrics.log_loss(EMPTY, EMPTY), "log loss: .* at least one row"),
        (lambda: metrics.expected_calibration_error(EMPTY, EMPTY), "expected calibration error: .* at least one row"),
        (
            lambda: metrics.value_weighted_recall(ZEROS, np.arange(3), caught=ONES > 0),
            "value-weighted recall: .* a positive with an amount above 0",
        ),
        (lambda: metrics.proportion(0, 0), "proportion: 0 of 0 trials. Expected at least one trial"),
        (lambda: metrics.share(np.empty(0, np.bool_), np.empty(0)), "share: rows without it. Expected at least one"),
        (lambda: metrics.proportion(3, 2), "proportion: 3 of 2 trials"),
        (
            lambda: metrics.difference(evaluated(ONES, HALF), evaluated(ZEROS, HALF), statistic=auc),
            "paired difference: 3 and 3 rows whose labels or times differ. Expected predictions for the same rows",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_in_words(compute: Callable[[], object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        compute()


@pytest.mark.parametrize("by_rank", [False, True])
def test_a_row_that_stands_for_three_counts_three_times(by_rank: bool) -> None:
    rng = np.random.default_rng(5)
    labels, predictions = (rng.random(60) < 0.3).astype(np.float64), rng.random(60).round(1)
    weights = rng.integers(1, 4, 60)
    weighed = rows_of(labels, predictions, weights=weights.astype(np.float64))
    repeated = rows_of(labels.repeat(weights), predictions.repeat(weights))

    def statistic(rows: Evaluated, weights: Floats) -> float:
        return metrics.average_precision(rows.labels, rows.predictions, weights=weights)

    compute = metrics.measured(statistic, by_rank=by_rank)
    assert compute(weighed).value == pytest.approx(compute(repeated).value, rel=1e-12)
    assert compute(weighed).low < compute(weighed).value < compute(weighed).high
    assert compute(weighed).n == 60


def rows_of(labels: Floats, predictions: Floats, **more: Floats) -> Evaluated:
    whole = np.zeros(len(labels), np.int64)
    return Evaluated(labels=labels, predictions=predictions, amounts=whole, times=whole, **more)  # type: ignore[arg-type]  # weights only


def test_a_bootstrap_of_people_knows_that_their_rows_hang_together() -> None:
    """Ten rows of each of 60 people, all alike: as sure as 60 rows and not as 600."""
    rng = np.random.default_rng(3)
    label, p = (rng.random(60) < 0.4).astype(np.float64), rng.random(60)
    each = Evaluated(labels=label, predictions=p, amounts=np.ones(60, np.int64), times=np.arange(60))
    rows = each.take(np.repeat(np.arange(60), 10))
    people = msgspec.structs.replace(rows, people=np.repeat(np.arange(60), 10))
    brier_of = metrics.measured(lambda rows, weights: metrics.brier(rows.labels, rows.predictions, weights=weights))
    alone, apart_, together = (brier_of(one) for one in (each, rows, people))
    assert alone.value == pytest.approx(together.value)
    assert together.high - together.low == pytest.approx(alone.high - alone.low, rel=0.2)
    assert apart_.high - apart_.low < 0.5 * (together.high - together.low)
    nobody = msgspec.structs.replace(rows, people=np.full(600, -1))
    assert brier_of(nobody).high - brier_of(nobody).low < 0.5 * (together.high - together.low)
    assert people.take(np.arange(5)).people.tolist() == [0] * 5
