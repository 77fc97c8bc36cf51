"""Labels that are censored: not known yet, or shown in part only; and what was heard of them all the same.

A payment of last week about which nobody has complained is likelier genuine than it was before, and the likelier the
more of the complaints would have come by now; one whose payer failed a step-up is likelier a fraud. So each request has
odds: how many times likelier what was heard of it is of a positive than of a negative. 0 and ∞ are labels.

    what is heard              of a positive                 of a negative
    nothing yet, age a         shows · (1 − F(a))            shows'           F: share of positives told of by that age
    that it stayed hidden      1 − shows                     1 − shows'       shows: how likely an action lets it show
    a word that may be wrong   right                         1 − right'       right: how often who says it is right

(Delayed feedback: Chapelle, "Modeling delayed feedback in display advertising", KDD 2014; F is as it was found, not
modelled. `fitting` learns from it by expectation and maximisation: Dempster, Laird and Rubin, JRSS B 39, 1977.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec
import numpy as np

from decalog.clock import DAY
from decalog.examples import Bools, Examples, Floats, History
from decalog.schema import Schema

Shows = Mapping[str, tuple[float, float]]
"""Action → how likely the label shows after it, (of a negative, of a positive); one that is left out hides it."""

Words = Mapping[str, tuple[float, float]]
"""Outcome kind → how often it is right, (of a negative, of a positive); one that is left out is the truth."""

_FEWEST = 20
"""Positives that say how late one is told of them; with fewer, what is not known yet says nothing."""
_SURE = 1e-12
_ANSWERED_US = DAY
"""A request that is younger may still be answered: nothing follows from its being hidden."""


class Heard(msgspec.Struct, frozen=True):
    """What was heard of requests, or of things; both arrays have one entry a label.

    Args:
        odds: float64, ≥ 0: P(what was heard | positive) / P(what was heard | negative); 0 and ∞ where the label is
            known, 1 where nothing was heard.
        chance: float64, in [0, 1]: how likely it would be known by now that it is a positive, if it were one; 0 where
            all that can be known is a word that may be wrong.
    """

    odds: Floats
    chance: Floats

    def take(self, mask: Bools) -> Heard:
        """Returns the rows of a mask."""
        return Heard(self.odds[mask], self.chance[mask])


def known(labels: Floats) -> Heard:
    """Returns what was heard where that is labels and nothing else.

    Args:
        labels: 1, 0, or NaN where it is not known.
    """
    is_known = np.isfinite(labels)
    return Heard(np.where(is_known, np.where(labels > 0, np.inf, 0.0), 1.0), is_known.astype(np.float64))


def heard_of(history: History, examples: Examples, *, shows: Shows, words: Words) -> Heard:
    """Returns what was heard of requests by the moment that their labels are known at.

    Args:
        history: of the requests.
        examples: some of them.
        shows: how likely actions let labels show; those after which silence is heard surely do.
        words: how often outcomes are right.
    """
    delays, schema = history.delays(examples.known_by), history.schema
    age = examples.known_by - examples.times
    told = np.searchsorted(delays, age, side="right") / len(delays) if len(delays) >= _FEWEST else np.zeros(len(age))
    negative, positive, is_awaited = _by_action(examples.acted, shows, schema)
    why, is_known = np.array(examples.why, np.str_), examples.labelled
    odds = np.ones(examples.n)
    is_open = (why == "immature") & is_awaited & (negative > 0)
    odds[is_open] = (positive * (1 - told))[is_open] / negative[is_open]
    is_hidden = (why == "unobserved") & (negative < 1) & (age >= _ANSWERED_US)
    odds[is_hidden] = (1 - positive[is_hidden]) / (1 - negative[is_hidden])
    odds[is_known] = np.where(examples.labels[is_known] == 1, np.inf, 0.0)
    chance = np.where(is_awaited, positive * told, is_known.astype(np.float64))
    for kind, (of_negative, of_positive) in words.items():
        is_said = is_known & (why == kind)
        yes, no = _times(of_positive, 1 - of_negative), _times(1 - of_positive, of_negative)
        odds[is_said] = np.where(examples.labels[is_said] == 1, yes, no)
        chance[is_said] = 0.0
    return Heard(odds, chance)


def _times(of_positive: float, of_negative: float) -> float:
    """Returns how many times likelier what was said is of a positive; 1 where neither ever has it said."""
    if of_negative > 0:
        return of_positive / of_negative
    return math.inf if of_positive > 0 else 1.0


def _by_action(acted: tuple[str, ...], shows: Shows, schema: Schema) -> tuple[Floats, Floats, Bools]:
    """Returns how likely labels show, of negatives and of positives, and whether silence is heard of them."""
    awaited = schema.label.awaited_after
    known = {**dict.fromkeys(("", *schema.label.observed_after), (1.0, 1.0)), **shows}
    names, place = np.unique(np.array(acted, np.str_), return_inverse=True)
    each = np.array([known.get(str(name), (0.0, 0.0)) for name in names], np.float64).reshape(-1, 2)[place]
    return each[:, 0], each[:, 1], np.array([str(name) in awaited for name in names], np.bool_)[place]


def surmised(predictions: Floats, odds: Floats) -> Floats:
    """Returns how likely requests are positives, by predictions and what was heard.

    >>> surmised(np.array([0.5, 0.5, 0.25]), np.array([0.0, np.inf, 3.0])).tolist()
    [0.0, 1.0, 0.5]
    """
    p = np.clip(predictions, _SURE, 1 - _SURE)
    finite = np.where(np.isinf(odds), 0.0, odds)
    return np.where(np.isinf(odds), 1.0, p * finite / (p * finite + 1 - p))
