"""Metrics while labels are awaited: bounds that hold whatever comes, and an expectation that knows when it is wrong."""

from __future__ import annotations

import itertools
import re

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from decalog.errors import DataError
from decalog.metrics import Floats
from decalog.statistics.completeness import Awaited, Fraction, arrivals, bounded, checked, expected, rate, recall

METRICS = ("rate", "precision", "recall")
GENERAL = ("insult", "loss")


def general(name: str, caught: Floats, mass: Floats) -> Fraction:
    """Of the negatives those that were caught, or a mean whose rows cost something with either label."""
    if name == "insult":
        return Fraction(-caught * mass, -mass, mass, caught * mass)
    return Fraction((3 - 5 * caught) * mass, np.zeros(len(mass)), mass, 2 * caught * mass, None)


def metric_of(name: str, caught: Floats) -> Fraction:
    if name == "recall":
        return recall(caught, np.ones(len(caught)))
    return rate(caught if name == "precision" else np.ones(len(caught)))


# ---- bounds ----


@given(
    rows=st.lists(
        st.tuples(st.integers(0, 1), st.booleans(), st.integers(0, 1), st.integers(1, 5)), min_size=2, max_size=9
    ),
    name=st.sampled_from((*METRICS, *GENERAL)),
)
def test_bounds_are_the_extremes_over_all_labels_that_may_come(
    rows: list[tuple[int, bool, int, int]], name: str
) -> None:
    labels, matured, caught, mass = (np.array(part) for part in zip(*rows, strict=True))
    weights = mass.astype(np.float64)
    if name in GENERAL:
        metric = general(name, caught.astype(np.float64), weights)
    else:
        metric = (
            recall(caught, weights) if name == "recall" else rate(weights * caught if name == "precision" else weights)
        )
    awaited = Awaited(labels=labels.astype(np.float64), matured=matured)
    values = []
    for said in itertools.product([0.0, 1.0], repeat=int(awaited.unknown.sum())):
        filled = awaited.labels.copy()
        filled[awaited.unknown] = said
        values.append(metric.value(filled))
    possible = [value for value in values if not np.isnan(value)]
    try:
        found = bounded(metric, awaited)
    except DataError:
        # One row at most counts at an extreme: there is no interval of one.
        return
    assert found.low.value == pytest.approx(min(possible))
    assert found.high.value == pytest.approx(max(possible))
    assert found.low.low <= found.low.value <= found.low.high
    assert found.known == len(rows) - int(awaited.unknown.sum())


def test_bounds_are_told_in_a_sentence() -> None:
    labels = np.concatenate([np.ones(81), np.zeros(19)])
    matured = np.ones(100, np.bool_)
    matured[93:] = False
    found = bounded(rate(np.ones(100)), Awaited(labels=labels, matured=matured))
    assert found.sentence == "93 % of 100 labels are known; between 0.81 and 0.88"
    assert found.low.low < 0.76
    assert found.high.high > 0.92


def test_all_labels_leave_nothing_between_and_none_leave_everything() -> None:
    labels = np.tile([0.0, 1.0, 1.0, 0.0], 25)
    all_in = bounded(rate(np.ones(100)), Awaited(labels=labels, matured=np.ones(100, np.bool_)))
    assert all_in.low == all_in.high
    none = bounded(rate(np.ones(100)), Awaited(labels=np.zeros(100), matured=np.zeros(100, np.bool_)))
    assert (none.low.value, none.high.value, none.known) == (0.0, 1.0, 0)
    early = bounded(rate(np.ones(100)), Awaited(labels=labels, matured=np.zeros(100, np.bool_)))
    assert (early.low.value, early.known) == (0.5, 50)


# ---- expectations ----


def world(
    seed: int, *, n: int = 2_000, base: float = -2.0, moved: float = 0.0, people: int = 0
) -> tuple[Awaited, Floats]:
    """Rows of the last 60 days, whose labels mature after 30 and come after ten on average; and what was caught."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(size=n) + base
    drawn, entities = rng.random(n), np.empty(0, np.int64)
    if people:
        from scipy.special import ndtr

        entities = rng.integers(people, size=n)
        drawn = ndtr(np.sqrt(0.3) * rng.normal(size=people)[entities] + np.sqrt(0.7) * rng.normal(size=n))
    positive = drawn < expit(odds)
    ages = rng.random(n) * 60
    delays = np.minimum(rng.exponential(10, size=n), 30)
    matured = ages > 30
    came = arrivals(delays[positive & matured], ages)
    awaited = Awaited(
        labels=(positive & (matured | (delays <= ages))).astype(np.float64),
        matured=matured,
        predictions=expit(odds + moved),
        arrived=np.where(matured, 0.0, np.minimum(came, 0.999)),
        entities=entities,
    )
    return awaited, (odds > base + 1).astype(np.float64)


def truth_of(name: str, base: float) -> float:
    odds = np.random.default_rng(99).normal(size=1_000_000) + base
    return metric_of(name, (odds > base + 1).astype(np.float64)).value(expit(odds))


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("setting", [{}, {"people": 100}, {"base": -4.0, "n": 5_000}], ids=str)
def test_intervals_cover_what_the_metric_is(name: str, setting: dict[str, int]) -> None:
    truth = truth_of(name, setting.get("base", -2.0))
    worlds = [world(seed, **setting) for seed in range(150)]
    found = [expected(metric_of(name, caught), awaited) for awaited, caught in worlds]
    assert np.mean([one.value.low <= truth <= one.value.high for one in found]) > 0.92
    assert np.mean([one.is_verdict for one in found]) > 0.9


def test_an_error_of_predictions_too_small_to_be_seen_is_in_the_interval() -> None:
    """A quarter of the labels has matured, and log odds are off by an eighth: the check seldom notices."""
    truth, hits, verdicts, final = truth_of("rate", -2.0), [], [], []
    for seed in range(200):
        awaited, _ = world(seed, moved=0.125)
        few = awaited.matured & (np.arange(2_000) % 2 == 0)
        early = msgspec.structs.replace(awaited, matured=few, labels=awaited.labels * few, arrived=np.empty(0))
        found = expected(rate(np.ones(2_000)), early)
        hits.append(found.value.low <= truth <= found.value.high)
        verdicts.append(found.is_verdict)
        said = float(np.mean(np.random.default_rng(seed).random(2_000) < expit(_odds(awaited) - 0.125)))
        final.append(found.value.low <= said <= found.value.high)
    assert np.mean(verdicts) > 0.5
    assert np.mean(hits) > 0.93
    assert np.mean(final) > 0.93


def _odds(awaited: Awaited) -> Floats:
    return np.asarray(np.log(awaited.predictions / (1 - awaited.predictions)), np.float64)


def test_it_knows_more_than_matured_rows_alone_and_than_the_bounds() -> None:
    awaited, caught = world(0)
    metric = metric_of("precision", caught)
    width = (found := expected(metric, awaited).value).high - found.low
    around = bounded(metric, awaited)
    assert width < (around.high.value - around.low.value) / 2
    assert around.low.value < found.value < around.high.value


def test_silence_lowers_what_is_expected() -> None:
    """Without `arrived` a row of 29 days without a label would count as one of today."""
    truth = truth_of("rate", -2.0)
    gaps = []
    for seed in range(20):
        awaited, caught = world(seed)
        metric = metric_of("rate", caught)
        deaf = msgspec.structs.replace(awaited, arrived=np.empty(0))
        gaps.append((expected(metric, awaited).value.value - truth, expected(metric, deaf).value.value - truth))
    heard, not_heard = np.mean(gaps, axis=0)
    assert abs(heard) < 0.005
    assert not_heard > 0.02


def test_predictions_that_are_off_where_labels_are_known_are_doubted() -> None:
    worlds = [world(seed, moved=0.8) for seed in range(20)]
    found = [expected(metric_of("precision", caught), awaited) for awaited, caught in worlds]
    assert not any(one.is_verdict for one in found)
    assert re.match(r"where labels are known, predictions alone are off by 0\.\d+ from 0\.\d+", found[0].doubts[0])
    assert all(one.gap.value > 0.1 for one in found)


def test_with_all_labels_in_it_is_what_was_observed() -> None:
    awaited, caught = world(1)
    all_in = msgspec.structs.replace(awaited, matured=np.ones(2_000, np.bool_))
    metric = metric_of("recall", caught)
    found = expected(metric, all_in)
    assert found.unknown == 0.0
    assert found.value.value == metric.value(all_in.labels)


def test_the_share_of_labels_that_came_is_the_share_of_delays() -> None:
    assert arrivals([3.0, 1.0, 2.0, 10.0], [0.0, 1.0, 9.9, 10.0]).tolist() == [0.0, 0.25, 0.75, 1.0]
    with pytest.raises(DataError, match="awaited labels, delays"):
        arrivals([-1.0], [1.0])
    with pytest.raises(DataError, match="awaited labels, ages"):
        arrivals([1.0], [np.nan])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"labels": np.full(2_000, 2.0)}, "awaited labels, labels"),
        ({"matured": np.ones(3, np.bool_)}, "awaited labels, matured: an array of shape (3,)"),
        ({"predictions": np.empty(0)}, "awaited labels, predictions"),
        ({"arrived": np.full(2_000, 1.5)}, "awaited labels, arrived"),
        ({"matured": np.zeros(2_000, np.bool_)}, "rows whose labels have matured, to check predictions on"),
        ({"entities": np.zeros(3, np.int64)}, "awaited labels, entities"),
        ({"entities": np.zeros(2_000, np.int64)}, "at least two entities"),
    ],
)
def test_rows_that_cannot_be_are_told(change: dict[str, Floats], text: str) -> None:
    awaited, caught = world(0)
    with pytest.raises(DataError, match=re.escape(text)):
        expected(metric_of("rate", caught), msgspec.structs.replace(awaited, **change))


def test_metrics_that_cannot_be_are_told() -> None:
    with pytest.raises(DataError, match="awaited labels, mass"):
        rate([-1.0])
    with pytest.raises(DataError, match="awaited labels, caught"):
        recall([2.0], [1.0])
    with pytest.raises(DataError, match="awaited labels, metric"):
        bounded(rate([1.0, 1.0, 1.0]), Awaited(labels=np.ones(2), matured=np.ones(2, np.bool_)))


# ---- an expectation that was made before, and what came ----


def earlier(seed: int, *, off: float = 0.0) -> tuple[Fraction, Awaited, Floats]:
    """Rows of which a third was told when the expectation was made, and what came of all."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(size=1_500) - 2
    came = (rng.random(1_500) < expit(odds)).astype(np.float64)
    told = rng.random(1_500) < 1 / 3
    then = Awaited(labels=came * told, matured=told, predictions=expit(odds + off))
    return rate(np.ones(1_500)), then, came


def test_an_expectation_is_checked_by_what_came() -> None:
    checks = [checked(metric, then, came=came) for metric, then, came in map(earlier, range(100))]
    assert 90 <= sum(check.is_covered for check in checks) <= 99
    assert not any(check.is_off(0.5) for check in checks)
    assert checks[0].came.value == pytest.approx(earlier(0)[2].mean())
    assert checks[0].ratio == pytest.approx(checks[0].expected.value / checks[0].came.value)
    metric, then, came = earlier(0, off=1.0)
    wrong = checked(metric, then, came=came)
    assert wrong.is_off(0.1)
    assert not wrong.is_covered
    assert wrong.ratio > 1.3
    assert wrong.gap.value == pytest.approx(wrong.expected.value - wrong.came.value)


def test_a_check_that_was_made_before_stands_for_one_of_matured_rows() -> None:
    metric, then, came = earlier(0, off=1.0)
    check = checked(metric, then, came=came)
    none = Awaited(labels=np.zeros(1_500), matured=np.zeros(1_500, np.bool_), predictions=then.predictions)
    found = expected(metric, none, check=check)
    assert found.gap == check.gap
    assert not found.is_verdict
    assert found.unknown == 1.0


def test_where_nothing_came_the_ratio_is_infinite() -> None:
    metric, then, _ = earlier(0)
    assert checked(metric, then, came=np.zeros(1_500)).ratio == float("inf")


def test_that_a_rare_event_did_not_come_is_within_chance() -> None:
    none = np.zeros(150)
    then = Awaited(labels=none, matured=none > 0, predictions=none + 0.006)
    assert checked(rate(none + 1), then, came=none).is_covered
    likely = msgspec.structs.replace(then, predictions=none + 0.5)
    assert checked(rate(none + 1), likely, came=none).is_off(0.1)
