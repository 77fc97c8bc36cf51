"""A host that decides orders, with demand's wires, on a clock that is set by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
from tests.http.callers import Client, replay_nothing

from decalog.clock import DAY, HOUR, ManualClock
from decalog.decisions import Versions
from decalog.features.online import OnlineState
from decalog.home import Home
from decalog.host import Host
from decalog.http import App, HttpSettings
from decalog.ingest import Ingest, Rates
from decalog.judging import Serving
from decalog.meter import Meter
from decalog.models.base import Floats
from decalog.serving import Service
from decalog.systems.demand.features import FEATURES
from decalog.systems.demand.policy import OrderCosts, OrderPolicy
from decalog.systems.demand.schema import HEADS, LEVELS
from decalog.systems.demand.system import SYSTEM

NIGHT = 20_500 * DAY + 21 * HOUR
"""16 February 2026, 21:00 UTC."""
SETTINGS = HttpSettings(tokens=False, batch_rows=50)


class Usual:
    """A model that expects 40 units, evenly from 20 to 60."""

    blocking = False

    def predict(self, rows: Floats) -> Floats:
        return np.tile([40.0, *(40 * (0.5 + level) for level in LEVELS)], (len(rows), 1))

    def save(self, folder: Path) -> Mapping[str, Any]:
        return {}


class Door:
    """A host of demand's, its log and its clock."""

    def __init__(self, root: Path, runner: asyncio.Runner) -> None:
        self.clock = ManualClock(NIGHT)
        self.log = Home(root).writer(self.clock)
        versions = Versions("m", "p", FEATURES.version, 0)
        serving = Serving(model=Usual(), head="+".join(HEADS), policy=OrderPolicy(OrderCosts()), versions=versions)
        ingest = Ingest(SYSTEM.schema, self.log, rates=Rates())
        service = Service(SYSTEM, ingest, OnlineState(FEATURES), serving=serving)
        self.host = Host(self.log, {"demand": service}, replay=replay_nothing, meter=Meter(), state=root / "state")
        self.app = App(self.host, SETTINGS, access=None)
        self._client = Client(runner, self.app, {})
        self._runner = runner

    def call(self, method: str, path: str, *, status: int = 200, **parts: Any) -> httpx.Response:
        answer = self._client.call(method, path, **parts)
        assert answer.status_code == status, answer.text
        return answer

    def decide(self, id_: str, series: str = "s1/i1", **more: Any) -> dict[str, Any]:
        store, _, item = series.partition("/")
        body = {
            "id": id_,
            "series": series,
            "item": item,
            "store": store,
            "category": "dairy",
            "slot": f"{series}/1",
            "on_hand": 7,
            "on_order": 0,
            "lead_days": 1,
            "horizon_days": 2,
            "open_days": 2,
            "price_minor": 199,
            "unit_cost_minor": 120,
            "currency": "EUR",
            "pack": 6,
            "shelf_days": 5,
        }
        reply = self._runner.run(self.host.decide("demand", msgspec.json.encode(body | more)))
        return reply.body


@contextmanager
def opened(root: Path, runner: asyncio.Runner) -> Iterator[Door]:
    door = Door(root, runner)
    runner.run(door.host.start())
    yield door
    runner.run(door.host.stop())
    door.log.close()
