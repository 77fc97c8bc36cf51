"""A real host on a log in a temporary folder, with a clock that stands still and a model that knows one answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from decalog.clock import ManualClock, time_us
from decalog.decisions import Versions
from decalog.errors import ReplayError
from decalog.features.definition import FeatureSet
from decalog.features.online import OnlineState
from decalog.host import Host
from decalog.http import App
from decalog.ingest import Ingest, Rates
from decalog.judging import Serving
from decalog.log import Log
from decalog.meter import Meter
from decalog.models.base import Floats
from decalog.serving import Service
from decalog.stores.sqlite import SqliteLogStore
from decalog.stores.vault import SqliteVault
from decalog.system import System
from decalog.systems.fraud.features import FEATURES
from decalog.systems.fraud.policy import FraudCosts, FraudPolicy
from decalog.systems.fraud.schema import SCHEMA

NOW = "2026-03-01T12:00:00Z"
LOOPBACK = "http://127.0.0.1:8000"


class Constant:
    """A model that always says the same."""

    def predict(self, rows: Floats) -> Floats:
        return np.full(len(rows), 0.001)

    def save(self, folder: Path) -> Mapping[str, Any]:
        return {}


async def replay_nothing(system: str, decision_id: str, _verb: str) -> dict[str, Any]:
    if decision_id.endswith("0"):
        raise ReplayError(where="replay", given="an erased subject", expected="its features", fix="None is left.")
    return {"decision_id": decision_id, "identical": True}


@contextmanager
def started_host(folder: Path, runner: asyncio.Runner, *, wire: str = "") -> Iterator[Host]:
    host = make_host(folder, wire=wire)
    runner.run(host.start())
    yield host
    runner.run(host.stop())


def make_host(folder: Path, features: FeatureSet = FEATURES, *, wire: str = "") -> Host:
    system = System(
        schema=SCHEMA,
        features=features,
        models=(),
        policy=FraudPolicy,
        policy_params=FraudCosts,
        metrics=(),
        monitors=(),
        world="",
        wire=wire,
    )
    store = SqliteLogStore(folder / "log" / "0.sqlite", writer=True)
    log = Log(store, SqliteVault(folder / "vault.sqlite", writer=True), ManualClock(time_us(NOW)))
    serving = Serving(
        model=Constant(),
        head="p_fraud",
        policy=FraudPolicy(FraudCosts()),
        versions=Versions("m", "p", features.version, 0),
    )
    rates = Rates("EUR", {"JPY": "0.0061", "USD": "0.9", "KWD": "3"})
    service = Service(system, Ingest(SCHEMA, log, rates=rates), OnlineState(features), serving=serving)
    return Host(log, {"fraud": service}, replay=replay_nothing, meter=Meter(), state=folder / "state")


class Client:
    """Calls an application in one event loop of its own."""

    def __init__(self, runner: asyncio.Runner, app: App, headers: Mapping[str, str]) -> None:
        self.app = app
        self.headers = dict(headers)
        self._runner = runner

    def run(self, scenario: Callable[[httpx.AsyncClient], Awaitable[Any]]) -> Any:
        async def inside() -> Any:
            transport = httpx.ASGITransport(app=self.app)
            async with httpx.AsyncClient(transport=transport, base_url=LOOPBACK, headers=self.headers) as client:
                return await scenario(client)

        return self._runner.run(inside())

    def call(self, method: str, path: str, **parts: Any) -> httpx.Response:
        answer: httpx.Response = self.run(lambda client: client.request(method, path, **parts))
        return answer

    def get(self, path: str, **parts: Any) -> httpx.Response:
        return self.call("GET", path, **parts)

    def post(self, path: str, body: Any = None, **parts: Any) -> httpx.Response:
        return self.call("POST", path, **({"json": body} if body is not None else {}), **parts)


def payment(**parts: Any) -> dict[str, Any]:
    return {"id": "p-1", "amount_minor": 1234, "currency": "EUR", "card": "card-1"} | parts


def outcome(**parts: Any) -> dict[str, Any]:
    return {"id": "o-1", "payment": "p-1", "kind": "chargeback", "source": "issuer", "value": 1} | parts


def refusal(answer: httpx.Response, status: int) -> dict[str, Any]:
    """Returns a refusal's problem, having checked its form."""
    problem: dict[str, Any] = answer.json()
    assert answer.status_code == status, problem
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["status"] == status
    parts = [problem[part] for part in ("where", "given", "expected", "fix")]
    assert all(parts), problem
    assert problem["detail"] == "{}: {}. Expected {}. {}".format(*parts)
    return problem
