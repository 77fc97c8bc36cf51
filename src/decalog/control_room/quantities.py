"""What is known of a decision that chose a quantity: its forecast, what there was already, and for which days it is."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

from decalog.clock import DAY
from decalog.decisions import Decision
from decalog.schema import Schema
from decalog.system import SYSTEMS, find_system

_QUANTILE = re.compile(r"_q(\d\d)$")
_PERCENT = 100


class Forecast(NamedTuple):
    """A predicted distribution.

    Args:
        mean: of it.
        levels: of its quantiles, rising, in (0, 1).
        values: of them.
    """

    mean: float
    levels: tuple[float, ...]
    values: tuple[float, ...]

    @property
    def outer(self) -> tuple[float, float, float]:
        """Mean, lowest and highest quantile."""
        return self.mean, self.values[0], self.values[-1]

    def at(self, level: float) -> float:
        """Returns the quantile of a level, on the line between its neighbours.

        >>> Forecast(2.0, (0.1, 0.5, 0.9), (1.0, 2.0, 4.0)).at(0.7)
        3.0
        """
        return float(np.interp(level, self.levels, self.values))

    def surprise(self, told: float, *, is_bound: bool) -> str:
        """Returns whether what was told lies outside the outermost quantiles: `above`, `below` or "".

        Counts are compared in whole units: 0 is not below a quantile of 0.4. Nothing is below that is only a bound.

        >>> some = Forecast(2.0, (0.1, 0.5, 0.9), (1.4, 2.0, 4.2))
        >>> [some.surprise(told, is_bound=False) for told in (0.0, 1.0, 1.3, 4.3, 5.0, 6.0)]
        ['below', '', 'below', 'above', '', 'above']
        """
        low, high = self.values[0], self.values[-1]
        if told.is_integer():
            low, high = math.floor(low), math.ceil(high)
        if told > high:
            return "above"
        return "below" if told < low and not is_bound else ""

    def enough(self, quantity: float) -> str:
        """Returns in how many of 100 cases a quantity is enough, as far as the quantiles say.

        >>> some = Forecast(2.0, (0.1, 0.5, 0.9), (1.0, 2.0, 4.0))
        >>> some.enough(3.0), some.enough(0.5), some.enough(9.0)
        ('70 of 100', 'fewer than 10 of 100', 'more than 90 of 100')
        """
        if quantity < self.values[0]:
            return f"fewer than {self.levels[0] * _PERCENT:.0f} of 100"
        if quantity > self.values[-1]:
            return f"more than {self.levels[-1] * _PERCENT:.0f} of 100"
        return f"{float(np.interp(quantity, self.values, self.levels)) * _PERCENT:.0f} of 100"


class Quantity(NamedTuple):
    """A decision of a quantity.

    Args:
        chosen: the quantity; None where another system decided and nobody said how much.
        forecast: that it stands on; None where nothing was predicted.
        there: (fact, how much) of what there was already.
        marks: (fact, value) of what made the request out of the ordinary.
        begins, ends: of the days that it is for, µs.
        unit_minor: what a unit is worth, minor units of the base currency; 0 where nobody says.
    """

    chosen: float | None
    forecast: Forecast | None
    there: tuple[tuple[str, float], ...]
    marks: tuple[tuple[str, float], ...]
    begins: int
    ends: int
    unit_minor: float

    @property
    def held(self) -> float | None:
        """What can be had: what there was and what was chosen."""
        return None if self.chosen is None else self.chosen + sum(amount for _, amount in self.there)


@cache
def schema_of(system: str) -> Schema | None:
    """Returns the schema of a system whose label is a quantity; None of any other."""
    schema = find_system(system).schema if system in SYSTEMS else None
    return schema if schema is not None and schema.label.of else None


def thing_of(schema: Schema) -> str:
    """Returns what decisions are about: the first public entity of requests; "" where there is none."""
    return next((entity.name for entity in schema.request.entities if entity.privacy == "public"), "")


def forecast_of(predictions: Mapping[str, float]) -> Forecast | None:
    """Returns the distribution that heads say: a mean first, then quantiles whose names end in their percent.

    >>> forecast_of({"demand_mean": 2.0, "demand_q10": 1.0, "demand_q90": 4.0})
    Forecast(mean=2.0, levels=(0.1, 0.9), values=(1.0, 4.0))
    """
    mean, *heads = predictions or ("",)
    found = [_QUANTILE.search(head) for head in heads]
    levels = tuple(int(one[1]) / _PERCENT for one in found if one)
    if not levels or len(levels) != len(heads):
        return None
    return Forecast(predictions[mean], levels, tuple(predictions[head] for head in heads))


def quantity_of(decision: Decision, schema: Schema) -> Quantity:
    """Returns what a decision of a quantity says.

    Args:
        decision: as logged.
        schema: of its system.
    """
    facts, charted, lead = decision.request.attributes, schema.charted, decision.lead
    days = _numbers(facts, (charted.days,))
    since = decision.request.event_time
    begins = (since // DAY + 1) * DAY if days else since
    happened = decision.happened
    slots = () if happened is None else happened.slots
    return Quantity(
        chosen=slots[0].value if slots else None,
        forecast=None if lead is None else forecast_of(lead.predictions),
        there=_numbers(facts, charted.there),
        marks=tuple((name, value) for name, value in _numbers(facts, charted.marks) if value > 0),
        begins=begins,
        ends=begins + int(days[0][1] * DAY) if days else begins,
        unit_minor=sum(value for _, value in _numbers(facts, (charted.unit_minor,))),
    )


def _numbers(facts: Mapping[str, int | float | str | bool], names: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """Returns the facts of some names that are there, as numbers."""
    said = ((name, facts.get(name)) for name in names)
    return tuple((name, float(value)) for name, value in said if isinstance(value, int | float))
