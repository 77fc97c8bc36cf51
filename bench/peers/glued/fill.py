"""Applies a Feast repository with one view an entity, and writes precomputed features into its online store."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pandas as pd
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource
from feast.types import Float64, String
from feast.value_type import ValueType

REPOSITORY = """\
project: fraud
provider: local
registry: registry.db
online_store:
  type: sqlite
  path: online.db
entity_key_serialization_version: 3
"""


def main() -> None:
    """Reads `features.json`: entity → its columns, and a row for each of its ids."""
    folder = Path(json.loads(Path(os.environ["FRAUD_GLUED"]).read_bytes())["repository"])
    (folder / "feature_store.yaml").write_text(REPOSITORY)
    given = json.loads((folder / "features.json").read_text())
    store = FeatureStore(str(folder))
    views, objects = [], []
    for name, table in given.items():
        frame = pd.DataFrame(table["rows"], columns=[name, *table["columns"]])
        frame["event_timestamp"] = pd.Timestamp.now(tz="UTC")
        frame.to_parquet(folder / f"{name}.parquet")
        entity = Entity(name=name, join_keys=[name], value_type=ValueType.STRING)
        source = FileSource(name=f"{name}_file", path=f"{name}.parquet", timestamp_field="event_timestamp")
        fields = [Field(name=column, dtype=Float64) for column in table["columns"]]
        key = Field(name=name, dtype=String)
        views.append(FeatureView(name=f"{name}_windows", entities=[entity], schema=[key, *fields], source=source))
        objects += [entity, views[-1]]
        table["frame"] = frame
    store.apply([*objects, FeatureService(name="fraud", features=views)])
    for name, table in given.items():
        store.write_to_online_store(f"{name}_windows", df=table["frame"])


if __name__ == "__main__":
    main()
