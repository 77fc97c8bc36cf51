"""What ranking 500 candidates by seven heads costs, and what the budget of trees costs in quality.

    python bench/latency/feed_ranker.py [--json] [--short]

A simulated log: slates of 15 that a policy ordered by a noisy score, one in ten by lot; 60 features, 20 of which
matter; seven actions of a feed, whose rates span 20 % to 0.05 %; what a slot adds to each action is known. Heads are
fitted at the declared budget (`HeadsParams.trees`) and at 300 trees, and judged on fresh requests of 500 candidates
each, against the true probabilities at the first slot.

Time is the CPU time of this process for one call over 500 rows, the median of many, one thread; the peer is LightGBM's
C interface (one prediction call a head, one thread) in the same process, with the same calibration after it. For it,
every head has all the trees that its budget allows: early stopping leaves fewer.

Keys: rank_cpu_ms, peer_cpu_ms (500 rows, seven heads, the declared budget), rank_300_cpu_ms, peer_300_cpu_ms,
rank_fitted_cpu_ms (the trees that early stopping left), ndcg, ndcg_300 (NDCG@10 of Σ weight · p), ndcg_loss
(1 − ndcg / ndcg_300, of the better of two fits of 300 trees), ndcg_logistic (logistic regression), click_calibration,
worst_calibration (mean gap between predicted and true rate over ten bins of slots as they were shown, as a share of
the rate: of clicks, and the greatest of the heads that have trees), worst_at_first (the same, had each row been shown
first, which the log cannot tell of what was always far down), examination_error (greatest gap between the found and the
true curve of examination of a click), load (1 min).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from typing import NamedTuple

import lightgbm
import msgspec
import numpy as np

from decalog.models.base import Floats, Model
from decalog.models.boosted import lightgbm_settings, model_text
from decalog.models.heads import Head, Heads, HeadsParams, HeadsTrainingSet, fit_heads, fit_logistic_heads
from decalog.models.lightgbm_native import NativeBooster

NAMES = tuple(f"feature_{number}" for number in range(60))
HEADS = ("p_click", "p_dwell", "p_like", "p_reply", "p_share", "p_hide", "p_report")
LEVELS = np.array([-1.5, -2.2, -2.8, -4.2, -4.6, -4.8, -8.0])
WEIGHTS = np.array([0.5, 1.0, 1.0, 6.0, 4.0, -8.0, -60.0])
SLOTS, CANDIDATES = 15, 500
CURVE: Floats = -0.9 * np.log1p(np.arange(SLOTS, dtype=np.float64))
BUDGET = HeadsParams().trees


class Truth(NamedTuple):
    """The simulated actions: log odds at the first slot, linear and crossed."""

    linear: Floats
    crossed: Floats

    def logits(self, rows: Floats) -> Floats:
        """Returns n × heads."""
        waves = np.sin(1.5 * rows[:, :20]) * rows[:, 1:21]
        return LEVELS + rows[:, :20] @ self.linear + waves @ self.crossed


def truth(rng: np.random.Generator) -> Truth:
    """Returns actions that share a taste, and differ; what people hide is what they like less."""
    shared, own = rng.normal(size=(20, 1)), rng.normal(size=(20, len(HEADS)))
    sign = np.where(WEIGHTS > 0, 1.0, -0.7)
    linear = 0.3 * (shared + 0.7 * own) * sign * (rng.random((20, 1)) < 0.6)
    return Truth(linear, 0.22 * rng.normal(size=(20, 1)) * sign + 0.09 * rng.normal(size=(20, len(HEADS))))


def draw(rng: np.random.Generator, count: int) -> Floats:
    """Returns rows: every third feature counts, one in six is rare."""
    rows = rng.normal(size=(count, len(NAMES)))
    rows[:, ::3] = np.floor(np.exp(rows[:, ::3])) - 1
    rows[:, 5::6] *= rng.random((count, len(NAMES[5::6]))) < 0.2
    return rows


def slates(rng: np.random.Generator, world: Truth, count: int) -> HeadsTrainingSet:
    """Returns a log of slates that a policy ordered by value and noise, a tenth of them by lot."""
    rows = draw(rng, count * SLOTS)
    value = world.logits(rows)[:, :3].sum(axis=1).reshape(count, SLOTS)
    by_lot = rng.random(count) < 0.1
    score = np.where(by_lot[:, None], 0.0, value / value.std()) + 0.5 * rng.normal(size=value.shape)
    order = np.argsort(-score, axis=1) + SLOTS * np.arange(count)[:, None]
    rows, positions = rows[order.ravel()], np.tile(np.arange(SLOTS), count)
    p = 1 / (1 + np.exp(-(world.logits(rows) + CURVE[positions][:, None])))
    labels = (rng.random(p.shape) < p).astype(np.float64)
    groups = np.repeat(np.arange(count), SLOTS)
    lots = np.repeat(by_lot, SLOTS)
    return HeadsTrainingSet(NAMES, HEADS, rows, labels, positions, groups * 1_000_000, groups, None, lots)


def full(data: HeadsTrainingSet, fitted: Heads, trees: int) -> tuple[Heads, list[bytes]]:
    """Returns the fitted heads with exactly so many trees each, and their texts."""
    settings = lightgbm_settings(NAMES, 1, params=HeadsParams(learning_rate=0.02))
    bins = lightgbm.Dataset(data.rows, params=settings).construct()
    texts = [
        model_text(lightgbm.train(settings, lightgbm.Dataset(data.rows, data.labels[:, place], bins), trees), trees)
        for place in range(len(HEADS))
    ]
    described = [msgspec.structs.replace(head, trees=trees) for head in fitted.described]
    return Heads(described, texts, width=len(NAMES), params=HeadsParams()), texts


def through_lightgbm(described: tuple[Head, ...], texts: list[bytes]) -> Callable[[Floats], Floats]:
    """Returns what predicts the same by LightGBM's C interface."""
    boosters = [NativeBooster(text) for text in texts]
    pairs = list(zip(boosters, described, strict=True))
    return lambda rows: np.column_stack([head.calibrator.apply(booster.scores(rows)) for booster, head in pairs])


def cpu_ms(call: Callable[[Floats], Floats], rows: Floats, times: int) -> float:
    """Returns the median CPU time of a call."""
    spent = []
    for _ in range(times):
        started = time.process_time_ns()
        call(rows)
        spent.append(time.process_time_ns() - started)
    return float(np.median(spent[times // 10 :])) / 1e6


def ndcg(model: Model, requests: list[tuple[Floats, Floats]]) -> float:
    """Returns the mean NDCG@10 of the value that a model expects; a gain is true value above the request's least."""
    discounts, found = 1 / np.log2(np.arange(2, 12)), []
    for rows, p in requests:
        gains = p @ WEIGHTS - (p @ WEIGHTS).min()
        ours = gains[np.argsort(-(model.predict(rows) @ WEIGHTS), kind="stable")[:10]]
        found.append(float(ours @ discounts / (np.sort(gains)[::-1][:10] @ discounts)))
    return float(np.mean(found))


def calibration_gaps(predicted: Floats, p: Floats) -> Floats:
    """Returns each head's mean gap of ten bins between what it predicts and the truth, as a share of its rate."""
    bins = [np.array_split(np.argsort(column, kind="stable"), 10) for column in predicted.T]
    gaps = [
        np.mean([abs(predicted[one, head].mean() - p[one, head].mean()) for one in bins[head]])
        for head in range(len(HEADS))
    ]
    shares: Floats = np.array(gaps) / p.mean(axis=0)
    return shares


def shifted(p: Floats, by: Floats) -> Floats:
    """Returns probabilities whose log odds are shifted."""
    odds: Floats = p / (1 - p) * np.exp(by)
    return odds / (1 + odds)


def measure(*, short: bool) -> dict[str, float]:
    """Returns the figures."""
    rng = np.random.default_rng(7)
    world = truth(rng)
    data = slates(rng, world, 1_500 if short else 4_000)
    requests = [(rows, 1 / (1 + np.exp(-world.logits(rows)))) for rows in (draw(rng, CANDIDATES) for _ in range(100))]
    shown = slates(rng, world, 2_000)
    first = 1 / (1 + np.exp(-world.logits(shown.rows)))
    fitted = fit_heads(data, 1)
    more = [fit_heads(data, 1, params=HeadsParams(trees=300, learning_rate=rate)) for rate in (0.1, 0.05)[short:]]
    curves = np.log(np.array([fitted.examination[name] for name in HEADS])).T[shown.positions]
    predicted = fitted.predict(shown.rows)
    seen = shifted(first, CURVE[shown.positions][:, None])
    gaps, at_first = calibration_gaps(shifted(predicted, curves), seen), calibration_gaps(predicted, first)
    grown = [head.trees > 0 for head in fitted.described]
    for head, gap, far in zip(fitted.described, gaps, at_first, strict=True):
        form = type(head.calibrator).__name__.lower()
        known = f"{head.name:10} {head.positives:6} positives {head.trees:4} trees, {form:9}"
        print(f"{known} calibration off by {gap:.1%}, had all been first {far:.1%}")
    curve, true = np.array(fitted.examination["p_click"]), np.exp(CURVE)
    print("examination", *(f"{one:.2f}/{other:.2f}" for one, other in zip(curve, true, strict=True)))
    best, ours = max(ndcg(model, requests) for model in more), ndcg(fitted, requests)
    times, rows = 40 if short else 200, requests[0][0]
    figures = {
        "ndcg": ours,
        "ndcg_300": best,
        "ndcg_loss": 1 - ours / best,
        "ndcg_logistic": ndcg(fit_logistic_heads(data, 1), requests),
        "worst_calibration": float(gaps[grown].max()),
        "click_calibration": float(gaps[0]),
        "worst_at_first": float(at_first[grown].max()),
        "examination_error": float(np.abs(curve - true).max()),
        "rank_fitted_cpu_ms": cpu_ms(fitted.predict, rows, times),
    }
    for trees, name in ((BUDGET, ""), (300, "_300")):
        whole, texts = full(data, fitted, trees)
        peer = through_lightgbm(whole.described, texts)
        if whole.predict(rows).tobytes() != peer(rows).tobytes():
            raise SystemExit("the two ways do not give the same bits")
        figures[f"rank{name}_cpu_ms"] = cpu_ms(whole.predict, rows, times)
        figures[f"peer{name}_cpu_ms"] = cpu_ms(peer, rows, times // 4)
    return figures | {"load": os.getloadavg()[0]}


def main() -> None:
    """Prints the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--json", action="store_true")
    options.add_argument("--short", action="store_true")
    asked = options.parse_args()
    figures = measure(short=asked.short)
    print(f"{CANDIDATES} rows, {len(HEADS)} heads, a budget of {BUDGET} trees a head")
    for name, value in figures.items():
        print(f"{name:20} {value:8.4f}")
    if asked.json:
        print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
