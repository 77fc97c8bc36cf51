"""How feed's loop goes round: what a challenger may not make worse for readers, and in what their sessions are worth.

Clicks alone would let bait through: hides, reports, and readers who do not come back stop it whatever it earns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from decalog.gate import Standards
from decalog.guardrails import Guardrail, Told
from decalog.impressions import last_said
from decalog.loop import LoopPlan
from decalog.systems.feed.policy import FeedPolicy
from decalog.systems.feed.schema import RETURN, SCHEMA

_HEADS = tuple(signal.head for signal in SCHEMA.signals)


def _worth(told: Told, policy: FeedPolicy) -> float:
    """Returns what a reader's actions on a slate are worth by the policy's weights, minor units."""
    said = last_said((0, outcome) for outcome in told.said)
    rows = [
        [float(said.get((slot.ref, signal.kind), 0.0) >= signal.least) for signal in SCHEMA.signals]
        for slot in told.decision.choice.slots
    ]
    return float(np.sum(policy.worth(_HEADS, np.array(rows)))) if rows else 0.0


def _share_of(kind: str) -> Callable[[Told, Any], float]:
    """Returns what share of a slate's posts an action was done to."""

    def share(told: Told, _policy: Any) -> float:
        done = {outcome.ref for outcome in told.said if outcome.kind == kind and outcome.value >= 1}
        shown = [slot.ref for slot in told.decision.choice.slots]
        return sum(ref in done for ref in shown) / max(len(shown), 1)

    return share


def _came_back(told: Told, _policy: Any) -> float:
    return float(any(outcome.kind == RETURN and outcome.value >= 1 for outcome in told.said))


def _of_what_is_shown(kind: str) -> Guardrail:
    return Guardrail(
        name=f"{kind}s",
        meaning=f"posts that readers {kind}",
        unit="share of posts shown",
        better="lower",
        value=_share_of(kind),
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
            excluded=0.15,
            is_relative=True,
            after="2d",
        ),
        _of_what_is_shown("hide"),
        _of_what_is_shown("report"),
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
    # A model that ranks anew moves most slates; what readers make of that a canary says.
    most_changed=0.9,
    shadow=200,
)
