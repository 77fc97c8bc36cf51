"""What fraud's log tells of other decisions: whether a payment was a fraud shows where it was let through.

A block hides it but for the few that were drawn. A step-up shows it of those who passed, and frauds rarely do: each that
did stands for the others, by the share that the parameters declare. An analyst's word is taken for the truth.
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


def assumes(costs: FraudCosts) -> Mapping[str, str]:
    """Returns what the money of an action assumes of what it does."""
    return {
        STEP_UP: f"{costs.step_up_frauds_pass_bp / 100:g} % of frauds pass and {costs.step_up_gives_up_bp / 100:g} % of "
        "good customers give up (step_up_frauds_pass_bp, step_up_gives_up_bp)",
        REVIEW: f"analysts miss {costs.review_misses_bp / 100:g} % of frauds and refuse "
        f"{costs.review_refuses_bp / 100:g} % of good payments (review_misses_bp, review_refuses_bp)",
    }


WHATIF = Revealed(shows=shows, assumes=assumes)
