"""Demand's measures in three tiers: is the forecast right, what do shoppers find, what does it earn.

y is demand over a protection interval, with what stands behind a sold-out shelf recovered; m the mean and q the
quantiles that were forecast; S the units there, on their way and ordered.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from decalog.metrics import Floats, Metric
from decalog.quantity_metrics import Quantities, over_groups, pinball

_MINOR = "minor units"


def _held(rows: Quantities) -> Floats:
    return rows.fact("on_hand") + rows.fact("on_order") + rows.chosen


def _covered(low: float, high: float) -> Callable[[Quantities], tuple[Floats, Floats]]:
    def parts(rows: Quantities) -> tuple[Floats, Floats]:
        # A count stands for the numbers that round to it: else 90 % of small counts would be 95 %.
        begin, end = np.maximum(rows.drawn - 0.5, 0.0), rows.drawn + 0.5
        inside = np.minimum(end, rows.quantile(high)) - np.maximum(begin, rows.quantile(low))
        return np.maximum(inside, 0.0) / (end - begin), np.ones(rows.n)

    return parts


def _missed_by(*, sold_out: bool) -> Callable[[Quantities], tuple[Floats, Floats]]:
    def parts(rows: Quantities) -> tuple[Floats, Floats]:
        there = rows.bounds == sold_out
        return np.where(there, rows.mean - rows.expected, np.nan), np.where(there, rows.expected, np.nan)

    return parts


def _interval_score(rows: Quantities) -> tuple[Floats, Floats]:
    low, high, y = rows.quantile(0.05), rows.quantile(0.95), rows.drawn
    score = high - low + 20 * (np.maximum(low - y, 0) + np.maximum(y - high, 0))
    return score, rows.expected


def _unsold_out(rows: Quantities) -> tuple[Floats, Floats]:
    return np.where(np.isfinite(rows.drawn), rows.drawn <= _held(rows), np.nan), np.ones(rows.n)


METRICS = (
    Metric(
        name="scaled_crps",
        tier="model",
        meaning="how far the forecast distribution lies from what was wanted, as a share of it",
        formula="Σ 2 · mean over τ of ρ_τ(y, q_τ) / Σ y",
        unit="share of demand",
        better="lower",
        compute=over_groups(lambda rows: (pinball(rows), rows.expected)),
    ),
    Metric(
        name="wape",
        tier="model",
        meaning="how far the mean lies from what was wanted, as a share of it",
        formula="Σ |y − m| / Σ y",
        unit="share of demand",
        better="lower",
        compute=over_groups(lambda rows: (np.abs(rows.expected - rows.mean), rows.expected)),
    ),
    Metric(
        name="bias_in_stock",
        tier="model",
        meaning="forecast too much (above 0) or too little, where shelves were never empty",
        formula="Σ (m − y) / Σ y over intervals that did not sell out",
        unit="share of demand",
        better="lower",
        compute=over_groups(_missed_by(sold_out=False)),
    ),
    Metric(
        name="bias_sold_out",
        tier="model",
        meaning="the same, where shelves were empty for a while and demand is recovered",
        formula="Σ (m − E[y]) / Σ E[y] over intervals that sold out",
        unit="share of demand",
        better="lower",
        compute=over_groups(_missed_by(sold_out=True)),
    ),
    Metric(
        name="coverage_80",
        tier="model",
        meaning="intervals that hold what was wanted; 0.8 is right",
        formula="mean part of (y − ½, y + ½) that lies in (q.10, q.90)",
        unit="share",
        better="higher",
        compute=over_groups(_covered(0.1, 0.9)),
    ),
    Metric(
        name="coverage_90",
        tier="model",
        meaning="the same for 0.9",
        formula="mean part of (y − ½, y + ½) that lies in (q.05, q.95)",
        unit="share",
        better="higher",
        compute=over_groups(_covered(0.05, 0.95)),
    ),
    Metric(
        name="interval_score_90",
        tier="model",
        meaning="how wide 90 % intervals are, and how far what was wanted lies outside",
        formula="Σ (q.95 − q.05 + 20 (q.05 − y)⁺ + 20 (y − q.95)⁺) / Σ y (Gneiting and Raftery, 2007)",
        unit="share of demand",
        better="lower",
        compute=over_groups(_interval_score),
    ),
    Metric(
        name="service_level",
        tier="product",
        meaning="intervals in which shoppers find the item on the shelf to the end",
        formula="share with y ≤ S",
        unit="share",
        better="higher",
        compute=over_groups(_unsold_out),
    ),
    Metric(
        name="fill_rate",
        tier="product",
        meaning="units wanted that are there",
        formula="Σ min(y, S) / Σ y",
        unit="share",
        better="higher",
        compute=over_groups(lambda rows: (np.minimum(rows.drawn, _held(rows)), rows.drawn)),
    ),
    Metric(
        name="left_over",
        tier="product",
        meaning="units that lie on the shelf when the next order comes, as a share of what was wanted",
        formula="Σ (S − y)⁺ / Σ y",
        unit="share of demand",
        better="lower",
        compute=over_groups(lambda rows: (np.maximum(_held(rows) - rows.drawn, 0), rows.drawn)),
    ),
    Metric(
        name="profit_per_1000",
        tier="business",
        meaning="what orders bring: margin of what is sold, less holding and what spoils",
        formula="1,000 · Σ worth(S, y) / n (policy.py)",
        unit=_MINOR,
        better="higher",
        compute=over_groups(lambda rows: (1_000 * rows.worth, np.ones(rows.n))),
    ),
    Metric(
        name="lost_sales_per_1000",
        tier="business",
        meaning="units asked for in vain, 1,000 orders",
        formula="1,000 · Σ (y − S)⁺ / n",
        unit="units",
        better="lower",
        compute=over_groups(lambda rows: (1_000 * np.maximum(rows.drawn - _held(rows), 0), np.ones(rows.n))),
    ),
)
