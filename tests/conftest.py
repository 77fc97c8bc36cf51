"""What every test may ask for: seeded search for counter-examples, and data sets that stand outside the project."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from tests.redis_server import running

from decalog.judging import Judge, Serving
from decalog.serving import Service
from decalog.stores import redis
from decalog.system import System
from decalog.testing.stage import FAR_MS, unhurried

ROOT = Path(__file__).resolve().parent.parent

# No deadline and no "too slow": a loaded machine may not turn a right answer into a failure.
PATIENT = [HealthCheck.too_slow]
settings.register_profile("default", max_examples=50, derandomize=True, deadline=None, suppress_health_check=PATIENT)
settings.register_profile("thorough", max_examples=1000, print_blob=True, deadline=None, suppress_health_check=PATIENT)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(scope="session", autouse=True)
def _unhurried() -> Iterator[None]:
    """Services, judges and a state on Redis have time in this process: a machine that stalls makes no fallback."""
    judge, service, client = Judge.__init__, Service.__init__, redis._client

    def patient_judge(self: Judge, system: System, serving: Serving) -> None:
        judge(self, msgspec.structs.replace(system, deadline_ms=FAR_MS), serving)

    def patient_service(self: Service, *args: Any, **named: Any) -> None:
        service(self, *args, **named)
        unhurried(self)

    def patient_client(url: str, timeout_s: float) -> Any:
        return client(url, FAR_MS / 1_000 if timeout_s == redis.StateSettings(kept_us=0).timeout_s else timeout_s)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(redis, "_client", patient_client)
        patch.setattr(Judge, "__init__", patient_judge)
        patch.setattr(Service, "__init__", patient_service)
        yield


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as one:
        yield one


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Returns the path of a data set below `$DECALOG_SHARED/data`; skips the test where the set is absent."""
    shared = Path(os.environ.get("DECALOG_SHARED", ROOT.parent / "shared"))

    def find(path: str) -> Path:
        found = shared / "data" / path
        if not found.exists():
            pytest.skip(f"data set {path!r} is not in $DECALOG_SHARED/data")
        return found

    return find


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yields the address of a Redis that all tests share; each names states of its own. Skips where there is none."""
    with running(tmp_path_factory.mktemp("redis")) as (url, _):
        yield url
