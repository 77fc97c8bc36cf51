"""decalog's part: `decalog_drift.py folder`; prints what it names, and the CPU seconds from arrays to findings."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from decalog.statistics.drift import Grid, Shift, compare, reference_of_categories, reference_of_numbers
from decalog.statistics.screening import findings

LEVEL = 2 / 365
"""Two false alarms a year, looking daily."""

Columns = dict[str, npt.NDArray[np.float64] | list[str]]
Laid = list[tuple[Grid, npt.NDArray[np.int64]]]


def columns(path: Path) -> Columns:
    """Returns the features of a file, categories as lists of words."""
    with np.load(path) as arrays:
        return {name: arrays[name].tolist() if name.startswith("c") else arrays[name] for name in arrays.files}


def laid(reference: Columns) -> Laid:
    """Returns the grid and the counts of each feature."""
    found: Laid = []
    for name, values in reference.items():
        found.append(
            reference_of_categories(name, values) if isinstance(values, list) else reference_of_numbers(name, values)
        )
    return found


def named(grids: Laid, current: Columns) -> list[str]:
    """Returns the features of one day that an alarm names."""
    shifts: list[Shift] = []
    for grid, counts in grids:
        shifts.extend(compare(grid, counts, current=grid.count(current[grid.name])))
    return sorted({found.shift.feature for found in findings(shifts, level=LEVEL)})


def main() -> None:
    """Compares, and prints one line of JSON."""
    folder = Path(sys.argv[1])
    reference, current = columns(folder / "reference.npz"), columns(folder / "current.npz")
    started = time.process_time()
    found = named(laid(reference), current)
    spent = time.process_time() - started
    before = laid(columns(folder / "before.npz"))
    days = sum(bool(named(before, columns(path))) for path in sorted(folder.glob("day*.npz")))
    print(json.dumps({"cpu_s": spent, "named": found, "alarm_days": days}))


if __name__ == "__main__":
    main()
