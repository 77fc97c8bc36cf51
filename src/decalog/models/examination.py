"""Position bias: how likely a slot is looked at, learnt from slates that another policy ordered.

What is shown further up is acted on more, for two reasons: it was expected to be better, and it is seen more. Only the
second is bias. The model is additive in log odds, f(x) + b[position] (Guo et al., "PAL: a position-bias aware learning
framework for CTR prediction", RecSys 2019; Yan et al., "Revisiting two-tower models for unbiased learning to rank",
KDD 2022), and b is wanted without f: fitting both by turns leaves in b whatever f has not learnt yet.

So rows are compared that were expected at the same position: E[log(1 + position) | x], fitted on other slates, is a
generalised propensity score (Hirano and Imbens, "The propensity score with continuous treatments", 2004), and within a
narrow band of it the position that a row got depends on x no more; it is the other rows of its slate that decide. Slots
that were filled at random need no such band.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from decalog.models.base import Floats

Int64s = npt.NDArray[np.int64]

BANDS = 50
_TREES = 100
_FREE, _TIED = 0.5, 0.1
"""How far a step from one position to the next may lie from no step at all, and from what is known better."""
_COARSER = 5
"""Drawn slots need no bands against bias; some keep unlike rows apart, which together show a flatter curve."""
_STEPS = 50
_CLOSE = 1e-10
_LEVEL = 0.01
"""Precision with which a band's own level is held at the base rate: a band without a hit stays finite."""


def bands(rows: Floats, positions: Int64s, *, folds: Int64s, settings: Mapping[str, Any]) -> Int64s:
    """Returns the band of each row's expected position, 0 to `BANDS` − 1, equally filled.

    Args:
        rows: features, n × width.
        positions: from 0.
        folds: 0 or 1, one value a slate: a row's expectation is fitted on the other fold's rows.
        settings: of LightGBM.
    """
    import lightgbm  # seconds: only training pays them

    wanted = dict(settings) | {"objective": "regression", "metric": "l2"}
    expected, target = np.empty(len(rows)), np.log1p(positions)
    for fold in (0, 1):
        there = folds == fold
        known = lightgbm.Dataset(rows[~there], target[~there], params=wanted)
        expected[there] = lightgbm.train(wanted, known, _TREES).predict(rows[there], num_threads=1)
    edges = np.quantile(expected, np.arange(1, BANDS) / BANDS)
    return np.searchsorted(edges, expected)


def fit_curve(hits: Floats, rows: Floats, *, prior: Floats, step: float) -> Floats:
    """Returns b: the log odds that each position adds to those of the first; b[0] = 0.

    It maximises the penalised likelihood of log odds c[band] + b[position], where b − prior is a random walk over the
    positions: what few rows say stays close to the prior's shape and to the positions beside it.

    Args:
        hits: positions × bands, how many rows were acted on; may be weighted.
        rows: positions × bands, how many there were.
        prior: b as it is believed before; b[0] = 0.
        step: standard deviation of the walk's steps from one position to the next, > 0.
    """
    far, level = len(prior) - 1, _logit(hits, rows)
    walk = np.diff(np.eye(far + 1), axis=0)[:, 1:]
    start = np.concatenate([prior[1:], np.full(hits.shape[1], level)])
    hold = np.diag(np.full(len(start), _LEVEL))
    hold[:far, :far] = walk.T @ walk / step**2

    def loss(x: Floats) -> float:
        z, away = _logits(x, far), x - start
        return float(np.sum(rows * np.logaddexp(0.0, z) - hits * z) + away @ hold @ away / 2)

    x, least = start, loss(start)
    for _ in range(_STEPS):
        p = 1.0 / (1.0 + np.exp(-_logits(x, far)))
        weight, gap = rows * p * (1 - p), rows * p - hits
        bend = np.diag(np.concatenate([weight.sum(axis=1)[1:], weight.sum(axis=0)]))
        bend[:far, far:], bend[far:, :far] = weight[1:], weight[1:].T
        slope = np.concatenate([gap.sum(axis=1)[1:], gap.sum(axis=0)]) + hold @ (x - start)
        move = np.linalg.solve(bend + hold, slope)
        while loss(x - move) > least and np.max(np.abs(move)) > _CLOSE:
            move = move / 2
        better = loss(x - move)
        if not least - better > _CLOSE * abs(least):
            break
        x, least = x - move, better
    return np.concatenate([[0.0], x[:far]])


def _logits(x: Floats, far: int) -> Floats:
    return np.concatenate([[0.0], x[:far]])[:, None] + x[None, far:]


def _logit(hits: Floats, rows: Floats) -> float:
    return float(np.log((hits.sum() + 1) / (rows.sum() - hits.sum() + 1)))


def learn_curve(
    hits: Floats, rows: Floats, *, positions: Int64s, within: Int64s, drawn: npt.NDArray[np.bool_], prior: Floats
) -> Floats:
    """Returns b by bands of all rows, and then, close to that, by the drawn slots alone.

    Args:
        hits: weight of each row that was acted on, else 0.
        rows: weight of each row.
        positions: of each row.
        within: its band.
        drawn: where its position was drawn without regard to it.
        prior: b of an action that is known better, which this one is held close to; all 0 where there is none.
    """
    step = _TIED if prior.any() else _FREE
    for mask, band in ((np.ones(len(drawn), bool), within), (drawn, within // _COARSER)):
        if mask.any():
            cells = positions[mask] * BANDS + band[mask]
            seen, acted = (
                np.bincount(cells, values[mask], len(prior) * BANDS).astype(np.float64).reshape(-1, BANDS)
                for values in (rows, hits)
            )
            prior, step = fit_curve(acted, seen, prior=prior, step=step), _TIED
    return prior
