"""Hosts and clients for the tests of HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.http.callers import Client, make_host, started_host

from decalog.access import Access, TokenStore
from decalog.clock import ManualClock
from decalog.host import Host
from decalog.http import App, HttpSettings


@pytest.fixture
def host(tmp_path: Path, runner: asyncio.Runner) -> Iterator[Host]:
    with started_host(tmp_path, runner) as made:
        yield made


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TokenStore]:
    tokens = TokenStore(tmp_path / "control.sqlite", ManualClock(0))
    yield tokens
    tokens.close()


@pytest.fixture
def open_client(runner: asyncio.Runner, host: Host) -> Client:
    """Without tokens, as on loopback."""
    return Client(runner, App(host, HttpSettings(tokens=False), access=None), {})


@pytest.fixture
def client(runner: asyncio.Runner, host: Host, store: TokenStore) -> Client:
    """With a token that may do everything."""
    _, text = store.create(["decide", "outcomes", "admin"])
    app = App(host, HttpSettings(), access=Access(store))
    return Client(runner, app, {"Authorization": f"Bearer {text}"})


@pytest.fixture(scope="session")
def standing_runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as one:
        yield one


@pytest.fixture(scope="session")
def standing(tmp_path_factory: pytest.TempPathFactory, standing_runner: asyncio.Runner) -> Iterator[Client]:
    """For tests that leave nothing behind which another could meet."""
    folder = tmp_path_factory.mktemp("standing")
    host = make_host(folder)
    standing_runner.run(host.start())
    tokens = TokenStore(folder / "control.sqlite", ManualClock(0))
    _, text = tokens.create(["decide", "outcomes", "admin"])
    yield Client(standing_runner, App(host, HttpSettings(), access=Access(tokens)), {"Authorization": f"Bearer {text}"})
    tokens.close()
    standing_runner.run(host.stop())
