"""The Grafana dashboard asks for series that a server really exports."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
from tests.homes import fill_home

from decalog.http.app import App
from decalog.http.settings import HttpSettings
from decalog.operations import open_host

DASHBOARD = Path(__file__).resolve().parents[2] / "docs" / "howto" / "control-room-grafana.json"


def test_every_series_and_label_of_the_dashboard_is_exported(tmp_path: Path) -> None:
    host = open_host(fill_home(tmp_path / "fraud"), ["fraud"])
    App(host, HttpSettings(tokens=False), access=None)
    exported: dict[str, set[str]] = {}
    for family in host.meter.registry.collect():
        kinds = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        exported |= {family.name + kind: labels_of(host.meter.registry, family.name) for kind in kinds}
    host.log.close()
    dashboard = msgspec.json.decode(DASHBOARD.read_bytes())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked += [one["definition"] for one in dashboard["templating"]["list"] if "definition" in one]
    assert len(asked) > 10
    for expression in asked:
        names = re.findall(r"decalog_\w+", expression)
        assert names
        assert not [name for name in names if name not in exported], expression
        labels = {label for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(", ")}
        assert labels - {"le"} <= set().union(*(exported[name] for name in names)), expression
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def labels_of(registry: object, family: str) -> set[str]:
    """Returns the labels that a family was declared with."""
    collectors = registry._names_to_collectors  # type: ignore[attr-defined]
    return set(getattr(collectors.get(family), "_labelnames", ()))
