"""What fraud's log tells of other decisions: whether a payment was a fraud shows where it was let through.

A block hides it but for the few that were drawn. A step-up shows it of those who passed, and frauds rarely do: each
that did stands for the others, by the share that the parameters declare. For money an analyst's word is taken for the
truth; for learning, and at the gate, it is as often right as the parameters say: where frauds are rare, most of what
analysts refuse was none.
"""

from __future__ import annotations

from collections.abc import Mapping

from decalog.systems.fraud.policy import ALLOW, REVIEW, STEP_UP, FraudCosts
from decalog.whatif import Revealed

_BP = 10_000


def shows(costs: FraudCosts) -> Mapping[str, tuple[float, float]]:
    """Returns how likely the label shows after each action, of a good payment and of a fraud."""
    passed = ((_BP - costs.step_up_gives_up_bp) / _BP, costs.step_up_frauds_pass_bp / _BP)
    return {ALLOW: (1.0, 1.0), REVIEW: (1.0, 1.0), STEP_UP: passed}


def words(costs: FraudCosts) -> Mapping[str, tuple[float, float]]:
    """Returns how often an analyst is right, of a good payment and of a fraud."""
    return {"analyst_verdict": ((_BP - costs.review_refuses_bp) / _BP, (_BP - costs.review_misses_bp) / _BP)}


def assumes(costs: FraudCosts) -> Mapping[str, str]:
    """Returns what the money of an action assumes of what it does."""
    pass_, give_up = (f"{bp / 100:g} %" for bp in (costs.step_up_frauds_pass_bp, costs.step_up_gives_up_bp))
    miss, refuse = (f"{bp / 100:g} %" for bp in (costs.review_misses_bp, costs.review_refuses_bp))
    return {
        STEP_UP: f"{pass_} of frauds pass and {give_up} of good customers give up, as the parameters declare",
        REVIEW: f"analysts miss {miss} of frauds and refuse {refuse} of good payments, as the parameters declare",
    }


WHATIF = Revealed(shows=shows, words=words, assumes=assumes)
