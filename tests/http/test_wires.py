"""Another protocol's routes: found, let in, bounded and refused like our own, in its own form."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from tests.http.callers import Client, make_host, refusal
from tests.http.echo import Echo

from decalog.access import Access, TokenStore
from decalog.errors import ConfigError
from decalog.http import App, HttpSettings
from decalog.http import wires as rooms

DOOR = "tests.http.echo:DOOR"


@pytest.fixture
def app(tmp_path: Path, runner: asyncio.Runner, store: TokenStore) -> Iterator[App]:
    host = make_host(tmp_path, wire=DOOR)
    runner.run(host.start())
    yield App(host, HttpSettings(decide_bytes=1_000, batch_bytes=2_000, burst=50), access=Access(store))
    runner.run(host.stop())


@pytest.fixture
def echo(app: App, runner: asyncio.Runner, store: TokenStore) -> Client:
    return Client(runner, app, {"X-Key": store.create(["decide"])[1]})


@pytest.mark.parametrize(
    ("method", "path", "ids", "query"),
    [
        ("GET", "/echo/a%2Fb%20c?x=1&y[]=2", ["a/b c"], "x=1&y[]=2"),
        ("GET", "/echo/all", [], ""),
        ("GET", "/echo/{}", ["{}"], ""),
        ("GET", "/echo/%ff", ["\ufffd"], ""),
        ("POST", "/echo/1/batch/2", ["1", "2"], ""),
    ],
)
def test_a_path_is_taken_apart(echo: Client, method: str, path: str, ids: list[str], query: str) -> None:
    assert echo.call(method, path).json() == {"ids": ids, "query": query, "body": 0}


def test_bodies_keep_the_servers_caps(echo: Client) -> None:
    answers = [echo.post(path, content=b"x" * 1_500) for path in ("/open", "/echo/1/batch/2")]
    assert [(answer.status_code, answer.text[:2]) for answer in answers] == [(413, "no"), (200, '{"')]


def test_tokens_and_scopes_hold_and_refusals_are_the_protocols_own(echo: Client, app: App) -> None:
    assert echo.post("/echo/1").status_code == 403
    other = Client(echo._runner, app, {"Authorization": echo.headers["X-Key"]})
    answer = other.get("/echo/1")
    assert (answer.status_code, answer.text, answer.headers["www-authenticate"]) == (
        401,
        "no",
        'Bearer realm="decalog"',
    )
    assert other.post("/open").status_code == 200


def test_a_caller_without_a_token_has_a_rate_too(app: App, runner: asyncio.Runner) -> None:
    app._rates._step_s = 1.0
    app._rates._slack_s = 2.0
    statuses = [Client(runner, app, {}).post("/open").status_code for _ in range(3)]
    assert statuses == [200, 200, 429]


def test_another_method_names_those_there_are(echo: Client) -> None:
    answer = echo.call("DELETE", "/echo/1")
    assert (answer.status_code, answer.text, answer.headers["allow"]) == (405, "no", "GET, HEAD, POST")


def test_what_fits_no_route_is_refused_in_the_protocol_it_is_meant_in(echo: Client) -> None:
    assert echo.get("/v1/elsewhere", headers={"X-Echo": "1"}).text == "no"
    refusal(echo.get("/v1/elsewhere"), 404)
    refusal(echo.get("/v1/fraud/decisions/none", headers={"Authorization": f"Bearer {echo.headers['X-Key']}"}), 404)


def test_a_fault_of_the_protocol_is_counted_and_shows_nothing(echo: Client, app: App) -> None:
    answer = echo.get("/fault")
    assert (answer.status_code, answer.text) == (500, "no")
    assert b'decalog_http_unexpected_errors_total{error="KeyError"} 1.0' in generate_latest(app._host.meter.registry)


def test_what_ends_by_a_fault_begins_again(app: App, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "_AGAIN_S", 0.0)
    ((wire, _),) = app.wires._wires
    assert isinstance(wire, Echo)

    async def scenario() -> None:
        async with app.wires.running():
            await wire.again.wait()

    runner.run(scenario())
    assert b"decalog_wire_faults_total 1.0" in generate_latest(app._host.meter.registry)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("tests.http.echo:NOWHERE", "fraud, wire: tests.http.echo:NOWHERE, which names nothing. Expected module:WIRE"),
        ("tests.http.echo:TWICE", "serve, protocols: two routes GET /echo/{id}. Expected each route once"),
    ],
)
def test_a_door_that_makes_no_sense_is_refused_at_start(tmp_path: Path, path: str, message: str) -> None:
    host = make_host(tmp_path, wire=path)
    with pytest.raises(ConfigError) as caught:
        App(host, HttpSettings(tokens=False), access=None)
    assert message in str(caught.value)
    host.log.close()
