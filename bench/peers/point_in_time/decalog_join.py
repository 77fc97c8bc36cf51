"""decalog's part: `decalog_join.py folder out`."""

from __future__ import annotations

import importlib.metadata
import json
import resource
import sys
from pathlib import Path

import duckdb  # noqa: F401  # ours imports it late; no contender's imports are counted

from decalog.features.joins import join_as_of


def cpu_s() -> float:
    """Returns the CPU seconds of this process so far."""
    spent = resource.getrusage(resource.RUSAGE_SELF)
    return spent.ru_utime + spent.ru_stime


def main() -> None:
    """Joins, and writes payment and risk."""
    folder = Path(sys.argv[1])
    started = cpu_s()
    joined = join_as_of(folder / "payments.parquet", folder / "risk.parquet", on="merchant")
    spent = cpu_s() - started
    joined.write(sys.argv[2])
    print(json.dumps({"version": importlib.metadata.version("decalog"), "cpu_s": spent}))


if __name__ == "__main__":
    main()
