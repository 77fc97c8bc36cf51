"""Evidently's part: run by the Python of its own environment, `evidently_drift.py folder`.

Prints what it names, and the CPU seconds from frames to verdicts. A feature is named where its score is beyond the
threshold that Evidently chose for it: below for p-values, above for distances.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from pathlib import Path

os.environ["DO_NOT_TRACK"] = "1"

import numpy as np
import pandas as pd
from evidently import Report
from evidently.presets import DataDriftPreset


def frame(path: Path) -> pd.DataFrame:
    """Returns the features of a file."""
    with np.load(path) as arrays:
        return pd.DataFrame({name: arrays[name] for name in arrays.files})


def named(reference: pd.DataFrame, current: pd.DataFrame) -> list[str]:
    """Returns the features that it says have drifted."""
    found = []
    for metric in Report([DataDriftPreset()]).run(current, reference).dict()["metrics"]:
        config, value = metric["config"], metric["value"]
        if not config["type"].endswith("ValueDrift"):
            continue
        is_p_value = "p_value" in config["method"]
        if value < config["threshold"] if is_p_value else value >= config["threshold"]:
            found.append(config["column"])
    return sorted(found)


def main() -> None:
    """Compares, and prints one line of JSON."""
    warnings.simplefilter("ignore")
    folder = Path(sys.argv[1])
    reference, current = frame(folder / "reference.npz"), frame(folder / "current.npz")
    started = time.process_time()
    found = named(reference, current)
    spent = time.process_time() - started
    before = frame(folder / "before.npz")
    days = sum(bool(named(before, frame(path))) for path in sorted(folder.glob("day*.npz")))
    print(json.dumps({"cpu_s": spent, "named": found, "alarm_days": days}))


if __name__ == "__main__":
    main()
