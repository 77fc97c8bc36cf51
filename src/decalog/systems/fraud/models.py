"""Fraud's models: four baselines that are honest about how little they know, and boosted trees.

No monotone constraint is set: a count of 0 or −1 says that the client sent no device, address or mail. What that means
for the risk depends on the shop, so no velocity feature is monotone while what is missing shares its axis.
"""

from __future__ import annotations

from functools import partial

from decalog.models import boosted, linear
from decalog.models.base import ModelSpec

_HEAD = "p_fraud"

BOOSTED = boosted.BoostedParams(trees=400, learning_rate=0.05, leaves=31, rows_a_leaf=40, l2=1.0, feature_share=0.7)
"""Modest on purpose: scored in microseconds, fitted in seconds, and hard to overfit with a few hundred frauds."""

MODELS = (
    ModelSpec(
        name="prior",
        meaning="the base rate for every payment: what is known before looking",
        fit=linear.fit_prior,
        format=linear.FORMAT,
        head=_HEAD,
        baseline=True,
    ),
    ModelSpec(
        name="amount_rule",
        meaning="one rate above an amount, another below: the first rule every shop writes",
        fit=partial(linear.fit_threshold, column="amount"),
        format=linear.FORMAT,
        head=_HEAD,
        baseline=True,
    ),
    ModelSpec(
        name="velocity_rule",
        meaning="one rate above a number of payments of the card in a day, another below",
        fit=partial(linear.fit_threshold, column="card_payments_1d"),
        format=linear.FORMAT,
        head=_HEAD,
        baseline=True,
    ),
    ModelSpec(
        name="logistic",
        meaning="logistic regression over all features",
        fit=linear.fit_logistic,
        format=linear.FORMAT,
        head=_HEAD,
        baseline=True,
    ),
    ModelSpec(
        name="boosted",
        meaning="gradient-boosted trees over all features, calibrated on the latest fifth of the training part",
        fit=partial(boosted.fit, params=BOOSTED),
        format=boosted.FORMAT,
        head=_HEAD,
        # The latest fifth alone would set the level of all by what is known the least. Decision 0059 has the draw.
        surmises=partial(boosted.fit, params=BOOSTED, folds=3, negatives=60),
    ),
)
"""Baselines first, the champion's kind last."""
