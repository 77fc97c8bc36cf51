"""How feed's loop goes round: what a challenger may not make worse for readers, and in what their sessions are worth.

Clicks alone would let bait through: hides, reports, and readers who do not come back stop it whatever it earns.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from decalog.gate import Standards
from decalog.guardrails import Guardrail, Told
from decalog.impressions import last_said
from decalog.loop import LoopPlan
from decalog.metrics import Floats
from decalog.systems.feed.policy import FeedPolicy
from decalog.systems.feed.schema import RETURN, SCHEMA

_HEADS = tuple(signal.head for signal in SCHEMA.signals)


def _acts(told: Told) -> Floats:
    """Returns what was done to each post of a slate, 0 or 1, columns as `SCHEMA.signals`."""
    said = last_said((0, outcome) for outcome in told.said)
    refs = [slot.ref for slot in told.decision.choice.slots]
    rows = [[float(said.get((ref, one.kind), 0.0) >= one.least) for one in SCHEMA.signals] for ref in refs]
    return np.reshape(rows, (-1, len(_HEADS)))


def _worth(told: Told, policy: FeedPolicy) -> float:
    """Returns what a reader's actions on a slate are worth by the policy's weights, minor units."""
    return float(np.sum(policy.worth(_HEADS, _acts(told))))


def _came_back(told: Told, _policy: Any) -> float:
    return float(any(outcome.kind == RETURN and outcome.value >= 1 for outcome in told.said))


def _of_what_is_shown(name: str, head: str) -> Guardrail:
    place = _HEADS.index(head)
    return Guardrail(
        name=name,
        meaning=f"posts that readers {name.removesuffix('s')}",
        unit="share of posts shown",
        better="lower",
        value=lambda told, _policy: float(np.sum(_acts(told)[:, place])) / max(len(told.decision.choice.slots), 1),
        allowed=0.0,
        excluded=0.01,
        bounds=(0.0, 1.0),
        after="1d",
    )


LOOP = LoopPlan(
    guardrails=(
        Guardrail(
            name="worth_a_slate",
            meaning="what readers' actions on a slate are worth",
            unit="minor units a slate",
            better="higher",
            value=_worth,
            allowed=0.0,
            # A rare hide or report outweighs all else: 190,000 people an arm would show that 15 % are not lost.
            excluded=None,
            after="2d",
        ),
        # Followed as long as returns, which are waited for anyhow. 250 people an arm show it to within 19 %, so that
        # one against which chance speaks by another tenth passes still; docs/howto/loop.md has the figures.
        msgspec.structs.replace(
            _of_what_is_shown("reads", "p_dwell"), better="higher", excluded=0.3, is_relative=True, after="3d"
        ),
        _of_what_is_shown("hides", "p_hide"),
        _of_what_is_shown("reports", "p_report"),
        Guardrail(
            name="returns",
            meaning="readers who come back the next day",
            unit="share of slates",
            better="higher",
            value=_came_back,
            allowed=0.0,
            excluded=0.1,
            bounds=(0.0, 1.0),
            after="3d",
        ),
    ),
    standards=Standards(slices=("surface", "language"), off=1.0),
    # A slate has ten posts of one person: 60 clicks are some 30 slates, in which no ranker is shown to be better.
    test_positives=1_000,
    # A model that ranks anew moves most slates; what readers make of that a canary says.
    most_changed=0.9,
    shadow=200,
)
