"""Drift of 30 features of a million rows, and of days of a thousand: decalog and Evidently as it is by default.

    python bench/peers/spine_drift.py [--short] [--json]

24 features are numbers and 6 categories. In the large comparison six have drifted, each in its own way, and one has
moved by a fiftieth of a deviation, which is sure and does not matter. In the days nothing drifts: a reference of a
thousand rows beside days of a thousand. Each contender runs in a process of its own and gets the arrays in its own form
(Evidently a frame of pandas); CPU is that from there to the verdicts, the smaller of two runs.

Evidently is installed into $DECALOG_PEERS, or into a temporary folder (about 1 GB); where that fails its keys are null.

Keys: cpu_ratio (its CPU seconds over ours), cpu_s and cpu_s_peer; found and found_peer of six features that drifted,
false and false_peer of the others; alarm_days and alarm_days_peer, days without drift on which a feature was named.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from environments import python_of

PARTS = Path(__file__).resolve().parent / "drift"
ROWS, SHORT = 1_000_000, 50_000
DAY, DAYS, SHORT_DAYS = 1_000, 20, 5
NUMBERS, CATEGORIES = 24, 6
RUNS, SECONDS = 2, 1_800
DRIFTED = ("n0", "n1", "n2", "n3", "c0", "c1")
EVIDENTLY = ("evidently==0.7.23", "pandas<3")

Arrays = dict[str, Any]


class Line(NamedTuple):
    """What came of a contender; `wrong` says why there is nothing."""

    name: str
    cpu_s: float = 0.0
    named: tuple[str, ...] = ()
    alarm_days: int = 0
    wrong: str = ""

    @property
    def found(self) -> int:
        """Features that drifted and were named."""
        return len(set(self.named) & set(DRIFTED))

    @property
    def false(self) -> int:
        """Features that were named and had not drifted."""
        return len(set(self.named) - set(DRIFTED))

    def text(self) -> str:
        """Returns a line of the table."""
        if self.wrong:
            return f"{self.name:34}  {self.wrong}"
        return f"{self.name:34}{self.cpu_s:>10.2f}{self.found:>8}{self.false:>8}{self.alarm_days:>12}"


def drawn(rng: np.random.Generator, rows: int) -> Arrays:
    """Returns features as they always were: normal, skewed and whole numbers, and categories; a few are missing."""
    arrays: Arrays = {}
    for place in range(NUMBERS):
        values = (rng.normal(size=rows), rng.lognormal(size=rows), rng.poisson(3.0, size=rows).astype(np.float64))
        arrays[f"n{place}"] = np.where(rng.random(rows) < 0.02, np.nan, values[place % 3])
    for place in range(CATEGORIES):
        shares = 1 / np.arange(1, 13)
        arrays[f"c{place}"] = rng.choice([f"v{value:02}" for value in range(12)], rows, p=shares / shares.sum())
    return arrays


def drifted(rng: np.random.Generator, rows: int) -> Arrays:
    """Returns the same with six that drifted, and one that moved by next to nothing."""
    arrays = drawn(rng, rows)
    arrays["n0"] = arrays["n0"] + 0.5  # a move of half a deviation
    arrays["n1"] = arrays["n1"] ** 1.5  # a longer tail
    arrays["n2"] = np.where(rng.random(rows) < 0.1, 0.0, arrays["n2"])  # a source that says 0 where it does not know
    arrays["n3"] = np.where(rng.random(rows) < 0.06, np.nan, arrays["n3"])  # three times as many missing
    arrays["n6"] = arrays["n6"] + 0.02
    arrays["c0"] = np.where(rng.random(rows) < 0.03, "new", arrays["c0"])  # a category that was not there
    arrays["c1"] = np.where(rng.random(rows) < 0.3, "v05", arrays["c1"])  # a mix that changed
    return arrays


def write_data(folder: Path, *, rows: int, days: int) -> None:
    """Writes both comparisons as arrays of NumPy."""
    rng = np.random.default_rng(5)
    np.savez(folder / "reference.npz", **drawn(rng, rows))
    np.savez(folder / "current.npz", **drifted(rng, rows))
    np.savez(folder / "before.npz", **drawn(rng, DAY))
    for day in range(days):
        np.savez(folder / f"day{day:02}.npz", **drawn(rng, DAY))


def run(name: str, command: list[str]) -> Line:
    """Returns what a contender's process spent, and what it named."""
    best = Line(name, wrong="was not run")
    for _ in range(RUNS):
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        if done.returncode:
            return Line(name, wrong=f"failed: {(done.stderr.strip().splitlines() or ['no words'])[-1][:120]}")
        told = json.loads(done.stdout.strip().splitlines()[-1])
        if best.wrong or told["cpu_s"] < best.cpu_s:
            best = Line(name, told["cpu_s"], tuple(told["named"]), told["alarm_days"])
    return best


def peer_line(folder: Path) -> Line:
    """Returns Evidently's line."""
    python, wrong = python_of("evidently", EVIDENTLY, folder=folder)
    name = "Evidently, as it is by default"
    return (
        Line(name, wrong=wrong) if wrong else run(name, [str(python), str(PARTS / "evidently_drift.py"), str(folder)])
    )


def figures(ours: Line, peer: Line) -> dict[str, float | int | None]:
    """Returns the keys of the JSON line."""
    own = {"cpu_s": ours.cpu_s, "found": ours.found, "false": ours.false, "alarm_days": ours.alarm_days}
    theirs = {"cpu_s": peer.cpu_s, "found": peer.found, "false": peer.false, "alarm_days": peer.alarm_days}
    told = {f"{name}_peer": None if peer.wrong else value for name, value in theirs.items()}
    return {"cpu_ratio": None if peer.wrong else peer.cpu_s / ours.cpu_s, **own, **told}


def main() -> None:
    """Compares with each contender and prints what they say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help=f"{SHORT:,} rows instead of {ROWS:,}, fewer days")
    parser.add_argument("--json", action="store_true", help="print one last line of JSON")
    wanted = parser.parse_args()
    rows, days = (SHORT, SHORT_DAYS) if wanted.short else (ROWS, DAYS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder, rows=rows, days=days)
        ours = run("decalog", [sys.executable, str(PARTS / "decalog_drift.py"), str(folder)])
        peer = peer_line(folder)
    print(f"{rows:,} rows × {NUMBERS + CATEGORIES} features, {len(DRIFTED)} of them drifted; {days} days without drift")
    print(f"{'':34}{'CPU s':>10}{'found':>8}{'false':>8}{'alarm days':>12}")
    for line in (ours, peer):
        print(line.text())
    if ours.wrong or ours.found < len(DRIFTED):
        raise SystemExit("decalog did not find what drifted")
    if wanted.json:
        print(json.dumps(figures(ours, peer)))


if __name__ == "__main__":
    main()
