"""Why a model says what it says: what each feature adds to the log odds, or to the log of a mean, in declared words."""

from __future__ import annotations

import math
from typing import Literal

import msgspec
import numpy as np

from decalog.features.definition import Category, Feature, FeatureSet, Same
from decalog.models.base import Explaining, Floats

Multiplied = Literal["odds", "mean"]
"""What a feature multiplies: the odds of a prediction, or a predicted mean."""
_NEGLIGIBLE = 0.05
"""What moves odds or a mean by less than about 5 % is left out of an explanation; a difference of logs."""
_TO_NOTHING = -20.0
"""What makes a mean 0 counts as dividing it by 500 million: JSON knows no infinity."""


class Because(msgspec.Struct, frozen=True):
    """What one feature adds.

    Args:
        feature: its name.
        meaning: as declared.
        value: it had.
        said: the value in words, with its unit.
        log_odds: what it adds to those of the prediction, above 0 towards it; to the log of a mean where `of` says so.
        of: what is multiplied by exp(log_odds).
    """

    feature: str
    meaning: str
    value: float
    said: str
    log_odds: float
    of: Multiplied = "odds"

    def text(self) -> str:
        """Returns it in words.

        >>> Because("card_payments_1h", "payments of the card in 1h", 9.0, "9 payments", 1.2).text()
        'payments of the card in 1h: 9 payments (odds × 3.3)'
        """
        return f"{self.meaning}: {self.said} ({self.of} × {math.exp(self.log_odds):.2g})"


def contributions(model: object, rows: Floats, *, head: str = "") -> Floats | None:
    """Returns what each feature adds to the logs of each row, as `Explaining` does; None where nobody can tell.

    Args:
        model: that predicts.
        rows: float64, n × features of use `model`.
        head: which prediction, of a model of several.
    """
    if isinstance(model, Explaining):
        return model.contributions(rows)
    of_several = getattr(model, "contributions_to", None)
    told: Floats | None = None if of_several is None or not head else of_several(rows, head)
    return told


def explain(model: object, row: Floats, *, features: FeatureSet, head: str = "") -> tuple[Because, ...]:
    """Returns why a model predicts what it does for one row, the strongest first; empty where it cannot tell.

    Args:
        model: that predicted, or None.
        row: float64, every feature of the set, as logged.
        features: whose declarations give the words.
        head: which prediction, of a model of several.
    """
    found = contributions(model, row[list(features.places_for("model"))][None, :], head=head)
    if found is None:
        return ()
    declared = {feature.name: feature for feature in features.features}
    values = dict(zip(features.names, row.tolist(), strict=True))
    parts = dict(zip(features.names_for("model"), np.maximum(found[0, :-1], _TO_NOTHING).tolist(), strict=True))
    strong = sorted((name for name, part in parts.items() if abs(part) >= _NEGLIGIBLE), key=lambda n: -abs(parts[n]))
    of: Multiplied = getattr(model, "multiplied", "odds")
    return tuple(Because(n, declared[n].meaning, values[n], said(declared[n], values[n]), parts[n], of) for n in strong)


def said(feature: Feature, value: float) -> str:
    """Returns a feature's value in words.

    >>> from decalog.features.definition import Category
    >>> words = ("web", "app")
    >>> channel = Category(name="channel", meaning="where", unit="index", attribute="channel", vocabulary=words)
    >>> said(channel, 1.0), said(channel, 2.0), said(channel, -1.0)
    ('app', 'another', 'missing')
    """
    if value == feature.missing_value and value < 0:
        return "missing"
    if isinstance(feature, Category):
        return dict(enumerate(feature.vocabulary)).get(int(value), "another")
    if isinstance(feature, Same):
        return "yes" if value else "no"
    return f"{value:,.10g}" + ("" if feature.unit in ("1", "index") else f" {feature.unit}")
