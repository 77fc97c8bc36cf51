"""Policies turn predictions into a choice. They are pure: all they may know stands in `Case`, and so replay works."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.candidates import Candidate, Candidates
from decalog.decisions import Choice, GuardrailVerdict
from decalog.events import Event
from decalog.ingest import Rates

_T = TypeVar("_T")


class _Named(Mapping[str, _T]):
    """Feature values by name: a policy reads a few of them, so none is unpacked before."""

    __slots__ = ("_places", "_values")

    def __init__(self, places: Mapping[str, int], values: npt.NDArray[np.float64]) -> None:
        self._places, self._values = places, values

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class Values(_Named[float]):
    """Feature values by name over a vector: (name → place, float64 of shape (features,)).

    >>> import numpy as np
    >>> dict(Values({"age_s": 0, "amount": 1}, np.array([60.0, 5.0])))
    {'age_s': 60.0, 'amount': 5.0}
    """

    __slots__ = ()

    def __getitem__(self, name: str) -> float:
        return float(self._values[self._places[name]])


class Columns(_Named[npt.NDArray[np.float64]]):
    """Feature values of several candidates by name over their matrix: (name → column, candidates × features).

    >>> import numpy as np
    >>> Columns({"age_s": 0, "amount": 1}, np.array([[60.0, 5.0], [61.0, 6.0]]))["amount"].tolist()
    [5.0, 6.0]
    """

    __slots__ = ()

    def __getitem__(self, name: str) -> npt.NDArray[np.float64]:
        return self._values[:, self._places[name]]


class Case(msgspec.Struct, frozen=True):
    """Everything that a policy may look at.

    Args:
        request: the request, personal values sealed.
        candidates: what can be chosen, with calibrated predictions; then what was ruled out before, and by what.
        features: feature name → value of the first candidate, those with use="policy" included.
        draw: name → uniform draw in [0, 1), a function of the decision's id.
        columns: feature name → float64, one value for each candidate that can be chosen.
    """

    request: Event
    candidates: tuple[Candidate, ...] | Candidates
    features: Mapping[str, float]
    draw: Callable[[str], float]
    columns: Mapping[str, npt.NDArray[np.float64]] = {}


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
    """A system's decision layer. Its parameters are a frozen struct, stored in the log by version.

    A field `rates` of type `Rates` is the deployment's to fill, so that a version pins what money is converted by.
    """

    @property
    def params(self) -> msgspec.Struct:
        """The parameters it was made with."""

    @property
    def greedy(self) -> Policy:
        """The same policy without exploration, which draws nothing: by it models are judged."""

    def decide(self, case: Case) -> Verdict:
        """Returns the choice for a case with predictions; a choice that it draws carries the propensity of the draw."""

    def fall_back(self, case: Case, reason: str) -> Verdict:
        """Returns the declared fallback: the choice where features or predictions are missing.

        A reason of `standing.PEOPLE` is a person's wish: then a person decides, or nothing that profiles does.
        """

    def cost_minor(self, action: str, *, label: float, amount_minor: int) -> int:
        """Returns what an action costs once the truth is known, in minor units of the base currency.

        What the truth does not settle (would a review have found the fraud?) enters at the shares that the parameters
        declare.
        """


def with_rates(params: msgspec.Struct, rates: Rates) -> msgspec.Struct:
    """Returns policy parameters whose field `rates`, where they have one of type `Rates`, holds the deployment's own.

    So a policy converts money by rates that its version pins, and replay converts by the same.
    """
    has_rates = isinstance(getattr(params, "rates", None), Rates)
    return msgspec.structs.replace(params, rates=rates) if has_rates else params


def policy_version(params: msgspec.Struct) -> str:
    """Returns the version of policy parameters: 12 hex digits of the SHA-256 of their canonical JSON."""
    return hashlib.sha256(msgspec.json.encode(params, order="deterministic")).hexdigest()[:12]
