"""A rollout over HTTP: taken by the next request, loaded beside decisions, refused whole, and closed to most tokens."""

from __future__ import annotations

import asyncio
import queue
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tests.homes import LATER, add_model, fill_home, rule
from tests.http.callers import Client, payment, refusal
from tests.http.test_openapi import validator

from decalog import operations
from decalog.access import Access, TokenStore
from decalog.clock import ManualClock
from decalog.deployment import Deployment
from decalog.home import Home
from decalog.host import Host
from decalog.http import App, HttpSettings
from decalog.models.base import Floats
from decalog.models.linear import Threshold
from decalog.registry import Registry
from decalog.systems.fraud.simulate import START_US

ROLLOUT, DECIDE, CHANGES = "/v1/fraud/rollout", "/v1/fraud/decide", "/v1/fraud/changes"
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill_home(tmp_path_factory.mktemp("homes") / "filled").root


@pytest.fixture
def root(filled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(filled, tmp_path / "home"))


@pytest.fixture
def challenger(root: Path) -> str:
    return add_model(root, rule(limit=100.0), promote=False)


@pytest.fixture
def host(root: Path, challenger: str, runner: asyncio.Runner) -> Iterator[Host]:
    made = operations.open_host(Home(root), ["fraud"], clock=ManualClock(START_US + LATER), say=lambda _: None)
    runner.run(made.start())
    yield made
    runner.run(made.stop())
    made.log.close()


def take(client: Client, stage: str, **parts: Any) -> Any:
    answer = client.call("PUT", ROLLOUT, json={"name": "r1", "stage": stage, **parts})
    assert answer.status_code == 200, answer.text
    spec = client.get("/openapi.json").json()
    for told in (answer.json(), client.get(ROLLOUT).json()):
        assert validator(spec, "Rollout").is_valid(told)
        assert told == answer.json()
    return answer.json()


def models(client: Client, what: str, count: int = 20) -> set[str]:
    """Returns which models decided about so many cards."""
    asked = (payment(id=f"{what} {number}", card=f"card-{number}") for number in range(count))
    return {client.post(DECIDE, body).json()["versions"]["model"] for body in asked}


def test_a_step_counts_from_the_next_request_on_and_is_durable(
    client: Client, host: Host, root: Path, challenger: str
) -> None:
    champion = (Registry(root).current("fraud") or "")[:12]
    empty = client.get(ROLLOUT).json()
    assert (empty["content"], empty["seq"]) == (None, -1)
    assert validator(client.get("/openapi.json").json(), "Rollout").is_valid(empty)
    told = take(client, "shadow", model=challenger)
    assert host.log.durable == host.log.position
    assert (told["content"]["stage"], told["content"]["champion"]) == ("shadow", champion)
    assert models(client, "shadow") == {champion}
    take(client, "canary", share_bp=5_000, evidence={"gain_minor": 12})
    assert models(client, "canary") == {champion, challenger[:12]}
    assert client.get("/healthz").status_code == 200
    assert host.state().systems["fraud"]["rollout"] == f"r1: canary, {challenger[:12]} at 50 %"
    take(client, "canary", share_bp=10_000)
    assert models(client, "ramp") == {challenger[:12]}
    take(client, "stopped", why="disputes rose")
    assert models(client, "stopped") == {champion}
    changes = [(change["table"], change["what"]) for change in client.get(CHANGES).json()]
    stages = ("shadow", "canary", "canary", "stopped")
    assert changes == [("rollout", f"r1: {stage}") for stage in stages]


def test_a_decision_is_told_with_its_arm(client: Client, challenger: str) -> None:
    take(client, "canary", model=challenger[:12], share_bp=10_000)
    made = client.post(DECIDE, payment(id="a")).json()
    told = client.get(f"/v1/fraud/decisions/{made['decision_id']}").json()
    assert told["arm"] == "r1/challenger"
    assert validator(client.get("/openapi.json").json(), "FraudLoggedDecision").is_valid(told)


@pytest.mark.parametrize(
    ("body", "status", "given"),
    [
        ({"name": "r1", "stage": "canary", "model": "0" * 12, "share_bp": 1}, 422, "a model whose files are gone"),
        ({"name": "r1", "stage": "canary", "share_bp": 1}, 422, "canary without a challenger"),
        ({"name": "r1", "stage": "shadow", "policy": {"goodwill_minor": -1}}, 422, "goodwill_minor: Expected"),
        ({"name": "r1", "stage": "stopped"}, 422, "stopped after nothing"),
        ([1], 422, "Expected `object`, got `array`"),
    ],
)
def test_a_step_that_cannot_be_taken_changes_nothing(
    client: Client, host: Host, body: object, status: int, given: str
) -> None:
    position = host.log.position
    assert refusal(client.call("PUT", ROLLOUT, json=body), status)["given"].startswith(given)
    assert refusal(client.call("PUT", ROLLOUT, content=b"{", headers={"Content-Type": "application/json"}), 400)
    assert host.log.position == position
    assert client.get(ROLLOUT).json()["content"] is None


def test_a_stop_waits_for_no_challenger_that_is_being_loaded_and_is_not_undone_by_it(
    client: Client, host: Host, challenger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(client, "canary", model=challenger, share_bp=100)
    loading, may_go = threading.Event(), threading.Event()
    honest = Deployment.model

    def held(self: Deployment, *parts: Any) -> Any:
        loading.set()
        assert may_go.wait(PATIENCE_S), "whoever waited, held up the loop"
        return honest(self, *parts)

    monkeypatch.setattr(Deployment, "model", held)

    async def scenario(caller: httpx.AsyncClient) -> list[int]:
        grown = asyncio.create_task(caller.put(ROLLOUT, json={"name": "r1", "stage": "canary", "share_bp": 10_000}))
        assert await asyncio.to_thread(loading.wait, PATIENCE_S)
        answers = [
            await caller.post(DECIDE, json=payment(id="meanwhile")),
            await caller.put(ROLLOUT, json={"name": "r1", "stage": "stopped"}),
        ]
        may_go.set()
        answers.append(await grown)
        return [answer.status_code for answer in answers]

    assert client.run(scenario) == [200, 200, 409]
    assert client.get(ROLLOUT).json()["content"]["stage"] == "stopped"
    assert host.services["fraud"].trial is None


def test_a_challenger_that_may_take_long_thinks_in_a_thread(
    client: Client, challenger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the champion is quick says nothing of it."""
    thinkers: queue.SimpleQueue[str] = queue.SimpleQueue()

    class Slow(Threshold, frozen=True):
        blocking = True

        def predict(self, rows: Floats) -> Floats:
            thinkers.put(threading.current_thread().name)
            return np.full(len(rows), 0.5)

    slow = Slow(0, 1.0, above=0.3, below=0.1, width=1)
    monkeypatch.setattr(Deployment, "model", lambda *_: (slow, "p_fraud"))
    take(client, "canary", model=challenger, share_bp=10_000)
    client.post(DECIDE, payment(id="a"))
    assert thinkers.get(timeout=PATIENCE_S).startswith("decalog-model")


def test_it_takes_the_scope_of_an_operator(runner: asyncio.Runner, host: Host, tmp_path: Path) -> None:
    store = TokenStore(tmp_path / "tokens.sqlite", ManualClock(0))
    _, narrow = store.create(["decide"])
    token, text = store.create(["admin"], note="risk team")
    app = App(host, HttpSettings(), access=Access(store))
    for method in ("GET", "PUT"):
        refusal(Client(runner, app, {"Authorization": f"Bearer {narrow}"}).call(method, ROLLOUT), 403)
    client = Client(runner, app, {"Authorization": f"Bearer {text}"})
    take(client, "canary", policy={"goodwill_minor": 7}, share_bp=100)
    assert client.get(CHANGES).json()[-1]["by"] == f"token {token.id} (risk team)"
    assert client.call("DELETE", ROLLOUT).headers["allow"] == "GET, HEAD, PUT"
    store.close()


def test_no_step_is_taken_on_a_log_that_failed(
    client: Client, runner: asyncio.Runner, host: Host, challenger: str
) -> None:
    runner.run(host.stop())
    position = host.log.position
    step = {"name": "r1", "stage": "canary", "model": challenger, "share_bp": 100}
    refusal(client.call("PUT", ROLLOUT, json=step), 503)
    assert (host.log.position, host.services["fraud"].trial) == (position, None)
