"""Features that are quotients of others in one vector: the same operations, each rounded once, for one and for many."""

from __future__ import annotations

import numpy as np

from decalog.clock import duration_us
from decalog.compiling import compiled
from decalog.features.definition import Aggregate, Derived, Feature, FeatureSet, Rate, Ratio, ZScore
from decalog.features.kernel import Float64s, Int64s

# Columns of a formula: where its value goes; the places of what is (TOP − LESS) / BOTTOM, −1 for no LESS, and for UNITS
# in the place of BOTTOM; and which gaps are its own.
PLACE, TOP, LESS, BOTTOM, GAPS_FROM, GAPS_TO = 0, 1, 2, 3, 4, 5
# Columns of a formula's numbers.
MISSING, UNITS = 0, 1
# Columns of a gap: the part, and the value by which it says that it has none.
PART, SAYS = 0, 1


@compiled("void(int64[:, ::1], float64[:, ::1], float64[:, ::1], float64[:, :])")
def _derive(formulas: Int64s, numbers: Float64s, gaps: Float64s, out: Float64s) -> None:
    """Writes the formulas of each vector, one after the other: one may be a part of a later one."""
    for row in range(out.shape[0]):
        for formula in range(formulas.shape[0]):
            top = out[row, formulas[formula, TOP]]
            if formulas[formula, LESS] >= 0:
                top = top - out[row, formulas[formula, LESS]]
            bottom = numbers[formula, UNITS]
            if formulas[formula, BOTTOM] >= 0:
                bottom = out[row, formulas[formula, BOTTOM]]
            is_known = bottom != 0.0
            for gap in range(formulas[formula, GAPS_FROM], formulas[formula, GAPS_TO]):
                is_known &= out[row, np.int64(gaps[gap, PART])] != gaps[gap, SAYS]
            value = numbers[formula, MISSING]
            if is_known:
                quotient = top / bottom
                # A quotient of numbers far apart may pass what float64 holds; the vector never does.
                value = quotient if np.isfinite(quotient) else value
            out[row, formulas[formula, PLACE]] = value


class Formulas:
    """The derived features of a set, in the order of declaration."""

    def __init__(self, features: FeatureSet) -> None:
        declared = dict(zip(features.names, enumerate(features.features), strict=True))
        formulas, numbers, gaps = list[tuple[int, ...]](), list[tuple[float, float]](), list[tuple[float, float]]()
        for place, feature in declared.values():
            if isinstance(feature, Derived):
                parts, first = [declared[name] for name in feature.parts], len(gaps)
                gaps += _gaps(parts)
                formulas.append((place, *_places(feature, parts), first, len(gaps)))
                numbers.append((feature.missing_value, _units(feature, parts[0][1])))
        self._formulas = np.array(formulas, np.int64).reshape(-1, GAPS_TO + 1)
        self._numbers, self._gaps = (np.array(table, np.float64).reshape(-1, 2) for table in (numbers, gaps))

    def write(self, out: Float64s) -> None:
        """Writes the values into vectors, of shape (n, features), which hold their parts."""
        with np.errstate(over="ignore"):  # uncompiled, numpy would say so
            _derive(self._formulas, self._numbers, self._gaps, out)


_Parts = list[tuple[int, Feature]]


def _gaps(parts: _Parts) -> list[tuple[float, float]]:
    """Returns by which value each part says that it has none.

    A part that is missing by 0 cannot be told from one that is 0, which is a number like any other.
    """
    missing = [(float(place), of.missing_value) for place, of in parts if of.missing_value]
    return missing + [(float(place), of.crowded) for place, of in parts if isinstance(of, Aggregate)]


def _places(feature: Derived, parts: _Parts) -> tuple[int, int, int]:
    """Returns the places of TOP, LESS and BOTTOM."""
    places = [place for place, _ in parts]
    match feature:
        case Ratio():
            return places[0], -1, places[1]
        case ZScore():
            return places[0], places[1], places[2]
        case _:
            return places[0], -1, -1


def _units(feature: Derived, of: Feature) -> float:
    """Returns how many units of time a rate's window holds."""
    return of.window_us / duration_us(feature.per) if isinstance(feature, Rate) and isinstance(of, Aggregate) else 1.0
