"""Policies turn predictions into a choice. They are pure: all they may know stands in `Case`, and so replay works."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from decalog.decisions import Candidate, Choice, GuardrailVerdict
from decalog.events import Event


class Case(msgspec.Struct, frozen=True):
    """Everything that a policy may look at.

    Args:
        request: the request, personal values sealed.
        candidates: what can be chosen, with calibrated predictions.
        features: feature name → value, those with use="policy" included.
        draw: name → uniform draw in [0, 1), a function of the decision's id.
    """

    request: Event
    candidates: tuple[Candidate, ...]
    features: Mapping[str, float]
    draw: Callable[[str], float]


class Verdict(msgspec.Struct, frozen=True):
    """What a policy decided.

    Args:
        choice: slots with propensities, and reasons in the field's words.
        expected_minor: expected value in minor units of the base currency; a cost is negative.
        guardrails: those that changed the choice.
    """

    choice: Choice
    expected_minor: int = 0
    guardrails: tuple[GuardrailVerdict, ...] = ()


class Policy(Protocol):
    """A system's decision layer. Its parameters are a frozen struct, stored in the log by version."""

    @property
    def params(self) -> msgspec.Struct:
        """The parameters it was made with."""

    def decide(self, case: Case) -> Verdict:
        """Returns the choice for a case with predictions."""

    def fall_back(self, case: Case, reason: str) -> Verdict:
        """Returns the declared fallback: the choice where features or predictions are missing."""

    def cost_minor(self, action: str, *, label: float, amount_minor: int) -> int:
        """Returns what an action costs once the truth is known, in minor units of the base currency.

        What the truth does not settle (would a review have found the fraud?) enters at the shares that the parameters
        declare.
        """


def policy_version(params: msgspec.Struct) -> str:
    """Returns the version of policy parameters: 12 hex digits of the SHA-256 of their canonical JSON."""
    return hashlib.sha256(msgspec.json.encode(params, order="deterministic")).hexdigest()[:12]
