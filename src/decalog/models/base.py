"""The contract of models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import msgspec
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class TrainingSet(msgspec.Struct, frozen=True):
    """Rows to learn from, in the order of their time.

    Args:
        names: feature names, one a column.
        rows: float64, n × features; never NaN.
        labels: float64, n; 0 or 1, or a value; between 0 and 1 for a kind of model that `surmises`, where only a
            probability is known.
        times: int64, n; µs of the decision.
        amounts: int64, n; money at stake in minor units of the base currency.
    """

    names: tuple[str, ...]
    rows: Floats
    labels: Floats
    times: npt.NDArray[np.int64]
    amounts: npt.NDArray[np.int64]


class Acts(msgspec.Struct, frozen=True):
    """What people did with things, in the order of the log; all arrays have one entry an act.

    Args:
        seqs: int64, of the records: a decision at log position p knows those with seq < p.
        known: int64, µs, known_time of the records.
        users: int64, tokens; below 0 where nobody is named.
        refs: which thing.
        kinds: what was done: an outcome kind, or the event kind of the same name.
        values: float64, how much: 1, seconds; 0 takes it back.
        times: int64, µs, when it happened.
    """

    seqs: npt.NDArray[np.int64]
    known: npt.NDArray[np.int64]
    users: npt.NDArray[np.int64]
    refs: tuple[str, ...]
    kinds: tuple[str, ...]
    values: Floats
    times: npt.NDArray[np.int64]

    def take(self, mask: npt.NDArray[np.bool_]) -> Acts:
        """Returns the acts of a mask."""
        places = np.flatnonzero(mask).tolist()
        return Acts(
            self.seqs[mask],
            self.known[mask],
            self.users[mask],
            tuple(self.refs[place] for place in places),
            tuple(self.kinds[place] for place in places),
            self.values[mask],
            self.times[mask],
        )

    def until(self, known_by: int) -> Acts:
        """Returns the acts that were known at a moment, µs."""
        return self.take(self.known <= known_by)


class Told(Protocol):
    """The log behind a `SlateSet`, for models that bring what candidates are described by."""

    def followed(self, known_by: int) -> Any:
        """Returns the system's retrieval as it stood at a moment, µs of known_time, without a model."""

    def revisited(self, model: Any, places: npt.NDArray[np.intp]) -> Iterator[tuple[Any, Any, list[int]]]:
        """Yields, slate by slate, the retrieval as it stood with a model, the request, and which of the things it held.

        It is the code that serves: the log is followed record by record.
        """

    def redescribed(self, model: Any, places: npt.NDArray[np.intp]) -> Floats:
        """Returns rows of things shown as they would be had the retrieval described them with a model when they were.

        All is as in `revisited`.
        """


class SlateSet(msgspec.Struct, frozen=True, kw_only=True):
    """Things that were shown, to learn from, in the order of time; all arrays have one entry a thing shown.

    Args:
        names: feature names, one a column.
        heads: what is predicted, one a column of `labels`.
        rows: float64, n × features; never NaN.
        labels: float64, n × heads; 0 or 1, NaN where it is not known.
        slates: int64, which slate each stood in.
        seqs: int64, log position that was seen when it was chosen.
        times: int64, µs of the decision.
        positions: int64, 0 is the first slot.
        propensities: float64, (0, 1], below 1 where the slot was drawn.
        users: int64, tokens of whom it was shown to; below 0 where nobody is named.
        refs: which thing.
        facts: public values of the request and of the thing, as logged.
        acts: all that people did with things that was known when the part was made.
        known_by: when that was, µs.
        places: which things of the log's they are.
        told: the log behind them; None where there is none.
    """

    names: tuple[str, ...]
    heads: tuple[str, ...]
    rows: Floats
    labels: Floats
    slates: npt.NDArray[np.int64]
    seqs: npt.NDArray[np.int64]
    times: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    propensities: Floats
    users: npt.NDArray[np.int64]
    refs: tuple[str, ...]
    facts: tuple[Mapping[str, int | float | str | bool], ...]
    acts: Acts
    known_by: int
    places: npt.NDArray[np.intp]
    told: Told | None = None

    @property
    def n(self) -> int:
        """The number of things shown."""
        return len(self.refs)

    def take(self, mask: npt.NDArray[np.bool_]) -> SlateSet:
        """Returns the things of a mask; the acts stay all."""
        places = np.flatnonzero(mask).tolist()
        arrays = (*("rows", "labels", "slates", "seqs", "times", "positions", "propensities", "users", "places"),)
        return msgspec.structs.replace(
            self,
            **{name: getattr(self, name)[mask] for name in arrays},
            refs=tuple(self.refs[place] for place in places),
            facts=tuple(self.facts[place] for place in places),
        )


class QuantitySet(msgspec.Struct, frozen=True, kw_only=True):
    """Requests whose label is a quantity, to learn from, in the order of time; all arrays have one entry a request.

    Args:
        names: feature names, one a column.
        rows: float64, n × features; never NaN.
        labels: float64, n; what was told; NaN where nothing was.
        bounds: of which that is a lower bound.
        expected: float64, n; the label, and where it is a bound what is expected in its place; NaN where nothing was
            told.
        drawn: float64, n; the same with one draw of what may be in its place: quantiles that are learnt from
            expectations come out too narrow.
        times: int64, n; µs of the decision.
        groups: int64, n; tokens of what each is about: the first entity of a request.
    """

    names: tuple[str, ...]
    rows: Floats
    labels: Floats
    bounds: npt.NDArray[np.bool_]
    expected: Floats
    drawn: Floats
    times: npt.NDArray[np.int64]
    groups: npt.NDArray[np.int64]

    @property
    def n(self) -> int:
        """The number of requests."""
        return len(self.labels)

    def take(self, rows: npt.NDArray[np.bool_]) -> QuantitySet:
        """Returns the requests of a mask."""
        arrays = ("rows", "labels", "bounds", "expected", "drawn", "times", "groups")
        return msgspec.structs.replace(self, **{name: getattr(self, name)[rows] for name in arrays})


class Model(Protocol):
    """A fitted model. Its files are all it needs; loading runs no code from them."""

    def predict(self, rows: Floats) -> Floats:
        """Returns one calibrated prediction a row; the same bits for a row alone or among others."""

    def save(self, folder: Path) -> Mapping[str, Any]:
        """Writes the model's files; returns its JSON-able settings for the manifest."""


@runtime_checkable
class Explaining(Protocol):
    """A model that can say what each feature adds to the log odds of its prediction.

    One that predicts a mean says `multiplied = "mean"`, and adds up to the log of that, −inf where the mean is 0.
    """

    def contributions(self, rows: Floats) -> Floats | None:
        """Returns shape (n, features + 1), the last what it says without knowing any; each row adds up to its log odds.

        None where it cannot be said exactly.
        """


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of model that a system offers.

    Args:
        name: in reports and commands.
        meaning: one line.
        baseline: whether it is an honest baseline that the champion has to beat.
        surmises: as `fit`, from labels between 0 and 1 too, of which the latest are the least known; None for a kind
            that cannot: then they are drawn.
        fit: (TrainingSet; SlateSet where slots hold things, QuantitySet where the label is a quantity; seed) → fitted
            model.
        format: name under which `models.formats` can load it again.
        head: what it predicts, `p_fraud`; several heads are joined by "+".
    """

    name: str
    meaning: str
    fit: Callable[[Any, int], Model]
    format: str
    head: str
    baseline: bool = False
    surmises: Callable[[Any, int], Model] | None = None
