"""From a long frame to a long frame: a fitted global model with all that it needs to forecast any part of it alike.

What is found once for all series comes with the model and is never found again: the calibration of the intervals, the
unit of a step, what a step without a row means. So a part of a frame, in a file that does not fit in memory or in a
partition of Spark (`spark`), is forecast to the bits of the whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from decalog.arrow import ArrowStream
from decalog.errors import DataError
from decalog.systems.demand.forecast.boosting import Boosted, Settings
from decalog.systems.demand.forecast.checks import Checked, Finding, Rules, checked, settled
from decalog.systems.demand.forecast.conformal import Calibration
from decalog.systems.demand.forecast.frames import TIME, Span, Table, columns_of, read, span

NAME = "decalog"
"""What the columns of forecasts are called where nothing else is said."""
LEVELS = (80, 90)
_FORMAT = 1
_DIGEST_BYTES = hashlib.sha256().digest_size


class Answer(NamedTuple):
    """What follows the series of a frame.

    Args:
        columns: of the long frame, as `columns_of` makes them.
        findings: what was wrong with it, and what was done.
    """

    columns: dict[str, Any]
    findings: tuple[Finding, ...]


class Pipeline(msgspec.Struct, frozen=True, kw_only=True):
    """Checks, windows, model and intervals, fitted once.

    Args:
        model: the global model.
        rules: how frames are read, settled by the frame that the model was fitted to.
        horizon: steps ahead.
    """

    model: Boosted
    rules: Rules
    horizon: int

    @classmethod
    def fit(
        cls, table: Table, horizon: int, *, rules: Rules, settings: Settings | None = None, whole: Span | None = None
    ) -> Pipeline:
        """Returns a pipeline that learnt from a frame, or from some of its series.

        Args:
            table: with rows for the steps ahead, without y, if and only if the rules name columns known ahead.
            horizon: steps ahead.
            rules: what its columns mean.
            settings: of the model.
            whole: the span of the frame that the table is a part of; None where it is all.

        Raises:
            DataError: as for `checked` and `Boosted.fit`.
        """
        chosen = settled(table, rules)
        panel, _ = _checked(table, chosen, horizon=horizon, whole=whole)
        return cls(model=Boosted.fit(panel, horizon, settings=settings or Settings()), rules=chosen, horizon=horizon)

    def checked(self, table: Table, *, whole: Span | None = None) -> Checked:
        """Returns a frame, or a part of one, as the model sees it, and what was wrong with it; arguments as below."""
        return _checked(table, self.rules, horizon=self.horizon, whole=whole)

    def forecast(
        self, table: Table, *, whole: Span | None = None, name: str = NAME, levels: Sequence[int] = LEVELS
    ) -> Answer:
        """Returns what follows the series of a frame, or of a part of one.

        Args:
            table: with rows ahead as in `fit`.
            whole: the span of the frame that the table is a part of; None where it is all.
            name: of the column of point forecasts.
            levels: of the intervals, in percent.

        Raises:
            DataError: as for `checked` and `Boosted.forecast`.
        """
        panel, findings = self.checked(table, whole=whole)
        columns = columns_of(panel, {name: self.model.forecast(panel, self.horizon)}, levels=levels)
        if panel.calendar is None:
            columns[TIME] = columns[TIME] + (whole or Span.of(table)).first
        return Answer(columns, findings)

    def in_parts(
        self,
        source: str | Path | ArrowStream,
        *,
        parts: int,
        names: Mapping[str, str] | None = None,
        name: str = NAME,
        levels: Sequence[int] = LEVELS,
    ) -> Iterator[Answer]:
        """Yields the forecasts of a frame that does not fit in memory, one part of its series after the other.

        Arguments and errors as in `read` and `forecast`.
        """
        whole = span(source, names=names)
        for part in range(parts):
            table = read(source, names=names, part=(part, parts))
            if len(table.y):
                yield self.forecast(table, whole=whole, name=name, levels=levels)

    def to_bytes(self) -> bytes:
        """Returns the pipeline as bytes: a digest, and MessagePack with LightGBM's own text; no pickle."""
        calibration = self.model.calibration
        stored = _Stored(
            format=_FORMAT,
            rules=self.rules,
            horizon=self.horizon,
            names=self.model.names,
            heads=[[booster.model_to_string() for booster in head] for head in self.model.heads],
            widths=None if calibration is None else calibration.widths.tolist(),
        )
        body = msgspec.msgpack.encode(stored)
        return hashlib.sha256(body).digest() + body

    @classmethod
    def from_bytes(cls, stored: bytes) -> Pipeline:
        """Returns the pipeline that `to_bytes` wrote; it says what the first one said, to the bit.

        Raises:
            DataError: the bytes are damaged, or another version wrote them.
        """
        import lightgbm

        digest, body = stored[:_DIGEST_BYTES], stored[_DIGEST_BYTES:]
        if hashlib.sha256(body).digest() != digest:
            raise _not_ours("bytes whose digest is another one")
        try:
            found = msgspec.msgpack.decode(body, type=_Stored)
        except msgspec.ValidationError as error:
            raise _not_ours(f"another form ({error})") from None
        heads = [[lightgbm.Booster(model_str=text) for text in head] for head in found.heads]
        calibration = None if found.widths is None else Calibration(np.array(found.widths))
        model = Boosted(heads, found.names, horizon=found.horizon, calibration=calibration)
        return cls(model=model, rules=found.rules, horizon=found.horizon)


class _Stored(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    rules: Rules
    horizon: int
    names: tuple[str, ...]
    heads: list[list[str]]
    widths: list[list[float]] | None


def _checked(table: Table, rules: Rules, *, horizon: int, whole: Span | None) -> Checked:
    return checked(table, rules, ahead=horizon if rules.known else 0, span=whole)


def _not_ours(given: str) -> DataError:
    return DataError(
        where="stored pipeline",
        given=given,
        expected=f"what `Pipeline.to_bytes` wrote, format {_FORMAT}",
        fix="Copy the file again, or fit the pipeline with this version.",
    )
