"""Many comparisons under one budget of alarms: within a day, and over days."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.metrics import Floats
from decalog.statistics.columns import column
from decalog.statistics.drift import Kind, Shift

FLOORS: Mapping[Kind, float] = {"distribution": 0.1, "nulls": 0.01, "new values": 0.005}
"""Effects below which nobody should be called: excess PSI, and changes of a share."""


class Finding(msgspec.Struct, frozen=True):
    """A comparison that is an alarm.

    Args:
        shift: the comparison.
        adjusted: its p-value with all comparisons of its day paid for.
    """

    shift: Shift
    adjusted: float


def findings(shifts: Sequence[Shift], *, level: float, floors: Mapping[Kind, float] = FLOORS) -> tuple[Finding, ...]:
    """Returns the comparisons of one day that are significant and large, strongest first.

    Among all days without any drift, at most a share `level` has a finding, whatever depends on what. So a budget of
    two false alarms a year, looking daily, is a level of 2 / 365; `online_levels` keeps a share of alarms false
    instead, and gives more while drift is found.

    Args:
        shifts: all comparisons of the day, those that show nothing too.
        level: in (0, 1).
        floors: effect that each kind must have.
    """
    return tuple(found for found in _paid(shifts, floors) if found.adjusted <= level)


def day_p_value(shifts: Sequence[Shift], *, floors: Mapping[Kind, float] = FLOORS) -> float:
    """Returns the p-value of "nothing drifted today", the level at which `findings` begins to find."""
    # Without comparisons nothing speaks against it.
    return min((found.adjusted for found in _paid(shifts, floors)), default=1.0)


def _paid(shifts: Sequence[Shift], floors: Mapping[Kind, float]) -> list[Finding]:
    # A p-value may be raised: what is small in effect counts as 1, and the others are still paid for by number.
    raw = [shift.p_value if shift.effect >= floors[shift.kind] else 1.0 for shift in shifts]
    paid = adjusted(raw).tolist() if raw else []
    found = [Finding(shift, one) for shift, one in zip(shifts, paid, strict=True)]
    return sorted(found, key=lambda finding: (finding.adjusted, finding.shift.feature, finding.shift.kind))


def adjusted(p_values: npt.ArrayLike, *, dependent: bool = True) -> Floats:
    """Returns p-values such that those at or below a level hold that share of false discoveries, at most.

    Args:
        p_values: of one day.
        dependent: whether any dependence must be allowed for (Benjamini and Yekutieli, Annals of Statistics 29, 2001);
            otherwise independent or positively dependent ones are (Benjamini and Hochberg, JRSS B 57, 1995).

    Raises:
        DataError: there are none, or one lies outside [0, 1].

    >>> adjusted([0.01, 0.02, 0.9], dependent=False).round(3).tolist()
    [0.03, 0.03, 0.9]
    """
    raw = column(p_values, "p-values", low=0.0, high=1.0)
    ranks = np.arange(1, len(raw) + 1)
    order = np.argsort(raw)
    scaled = raw[order] * len(raw) / ranks * (float(np.sum(1 / ranks)) if dependent else 1.0)
    paid = np.empty(len(raw))
    paid[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return paid


def online_levels(p_values: npt.ArrayLike, *, level: float = 0.05) -> Floats:
    """Returns the level of each day's test, and of the day after the last; a day with p ≤ its level is a discovery.

    LORD++: the share of false discoveries among all so far stays at or below `level` in expectation, with days that
    are independent where nothing drifts (Ramdas, Yang, Wainwright and Jordan, NeurIPS 2017). It holds no state: the
    p-values of all days are its only input. The reference must be much larger than a day (ten times, say): all days
    share its error. Levels fall the longer nothing is found; a new reference begins a new series.

    Args:
        p_values: of the days so far, in order; may be empty.
        level: in (0, 1).

    Raises:
        DataError: a p-value lies outside [0, 1].
    """
    raw = column(p_values, "p-values of days", low=0.0, high=1.0) if len(np.asarray(p_values)) else np.empty(0)
    gammas = _gammas(len(raw) + 1)
    levels = gammas * level / 2
    found = 0
    for day, p in enumerate(raw):
        if p <= levels[day]:
            # The first discovery gives back what was set aside at the start, each later one a whole level.
            levels[day + 1 :] += gammas[: len(raw) - day] * (level / 2 if found == 0 else level)
            found += 1
    return levels


def _gammas(n: int) -> Floats:
    """Returns the first n of a series with a sum below 1: 0.0722 ln(max(j, 2)) / (j exp √ln j) (the same paper)."""
    j = np.arange(1, n + 1, dtype=np.float64)
    series: Floats = 0.0722 * np.log(np.maximum(j, 2)) / (j * np.exp(np.sqrt(np.log(j))))
    return series
