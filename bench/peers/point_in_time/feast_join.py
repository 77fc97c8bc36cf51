"""Feast's part: run by the Python of its own environment, `feast_join.py folder dask|duckdb plain|filtered out`.

Prints one line of JSON: the version, and the CPU seconds from reading the payments to having the result as a frame.
"""

from __future__ import annotations

import json
import resource
import sys
from datetime import timedelta
from pathlib import Path

import feast
import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
from feast.types import Float64


def cpu_s() -> float:
    """Returns the CPU seconds of this process and its children so far."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in spent)


def store_of(folder: Path, engine: str) -> FeatureStore:
    """Returns a local store that knows one view: the risk of a merchant, known from when it was written."""
    registry = str(folder / f"{engine}.registry")
    options = {"project": "bench", "provider": "local", "registry": registry, "online_store": None}
    store = FeatureStore(
        config=RepoConfig(**options, offline_store={"type": engine}, entity_key_serialization_version=3)
    )
    merchant = Entity(name="merchant", join_keys=["merchant"])
    source = FileSource(
        path=str(folder / "risk.parquet"), timestamp_field="valid_from", created_timestamp_column="known_from"
    )
    risk = Field(name="risk", dtype=Float64)
    store.apply(
        [
            merchant,
            FeatureView(name="merchants", entities=[merchant], ttl=timedelta(0), schema=[risk], source=source),
        ]
    )
    return store


def main() -> None:
    """Joins, and writes payment and risk."""
    folder, engine, rule, out = Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
    store = store_of(folder, engine)
    started = cpu_s()
    payments = pd.read_parquet(folder / "payments.parquet", columns=["payment", "merchant", "event_time"])
    joined = store.get_historical_features(
        entity_df=payments.rename(columns={"event_time": "event_timestamp"}),
        features=["merchants:risk"],
        filter_by_created_timestamp=rule == "filtered",
    ).to_df()
    spent = cpu_s() - started
    joined[["payment", "risk"]].to_parquet(out)
    print(json.dumps({"version": feast.__version__, "cpu_s": spent}))


if __name__ == "__main__":
    main()
