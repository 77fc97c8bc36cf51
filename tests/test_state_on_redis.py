"""A deployment whose features' state lies on a Redis decides as one that keeps it in memory."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from tests.fraud_log import payment
from tests.homes import decide_live, fill_home, opened
from tests.redis_server import running

from decalog.decisions import Decision
from decalog.deployment import Setup
from decalog.errors import ConfigError
from decalog.features.remote import RemoteState
from decalog.home import Home
from decalog.stores import table
from decalog.stores.table import open_state


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill_home(tmp_path_factory.mktemp("homes") / "filled").root


@pytest.fixture
def home(filled: Path, tmp_path: Path) -> Home:
    return Home(Path(shutil.copytree(filled, tmp_path / "home")))


@pytest.fixture
def setup(redis_url: str) -> Iterator[Setup]:
    """On a server that holds nothing: all homes here are copies of one, and so have states of one name."""
    with redis.from_url(redis_url) as client:
        client.flushall()
        yield Setup(state=redis_url)


def computed(decisions: list[Decision]) -> list[tuple[str, bytes, str, str]]:
    return [(made.request.id, made.candidates[0].features, made.choice.action, made.fallback) for made in decisions]


def remote_state(home: Home, setup: Setup) -> Iterator[RemoteState]:
    with opened(home, setup) as (deployment, _):
        state = deployment.service().state
        assert isinstance(state, RemoteState)
        yield state
        state.close()


def test_decisions_are_those_of_a_state_in_memory(home: Home, setup: Setup, tmp_path: Path) -> None:
    other = Home(Path(shutil.copytree(home.root, tmp_path / "other")))
    wanted, got = computed(decide_live(other)), computed(decide_live(home, setup))
    assert len(got) > 10
    assert got == wanted
    # A new process reads from the log only what came after the mark, and decides on as if it had never ended.
    for state in remote_state(home, setup):
        assert state.position > 0
    with opened(home, setup) as (on_redis, _), opened(other) as (in_memory, _):
        bodies = [payment(f"later-{n}", 0, event_time=None) for n in range(3)]
        one, two = on_redis.service(), in_memory.service()
        assert computed([one.decide(b)[1] for b in bodies]) == computed([two.decide(b)[1] for b in bodies])
        one.state._store.close()


def test_a_log_that_was_restored_gets_a_state_of_its_own(home: Home, setup: Setup, tmp_path: Path) -> None:
    backup = Path(shutil.copytree(home.root, tmp_path / "backup"))
    wanted = computed(decide_live(home, setup))
    for state in remote_state(home, setup):
        ahead = state.position
    restored = Home(backup)
    for state in remote_state(restored, setup):
        assert state.position < ahead
    assert computed(decide_live(restored, setup)) == wanted


def test_a_server_that_is_gone_makes_recorded_fallbacks_and_nothing_worse(home: Home, tmp_path: Path) -> None:
    with opened(home) as (deployment, _):
        known = deployment.service().decide(payment("known", 0, event_time=None))[1]
        assert known.fallback == ""
    with running(tmp_path) as (url, _), opened(home, Setup(state=url)) as (deployment, _):
        service = deployment.service()
        assert service.decide(payment("a", 0, event_time=None))[1].fallback == ""
        with redis.from_url(url) as client:
            client.shutdown(nosave=True)
        made = [service.decide(payment(f"b{number}", 0, event_time=None))[1] for number in range(3)]
        assert [(one.fallback, one.mode) for one in made] == [("features_error", "fallback")] * 3
        service.state._store.close()


def test_an_address_of_another_kind_names_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"features' state, address.*'redis' \(closest match\).*keep the state in memory"
    ):
        open_state("redi://localhost", "s", kept_us=1)


def test_an_engine_whose_package_is_not_there_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(table.STATES, "redis", "decalog.stores.absent:open_state")
    with pytest.raises(ConfigError, match=r"without the package for it.*pip install 'decalog\[redis\]'"):
        open_state("redis://localhost", "s", kept_us=1)
