"""What acts for a loop: on a server over HTTP, on a home without one, or on a service in this process."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from decalog import admin
from decalog.challengers import ready, roll
from decalog.clock import SystemClock
from decalog.deployment import Deployment
from decalog.home import Home
from decalog.loop import BY
from decalog.registry import Registry
from decalog.rollout import Rollout
from decalog.serving import Service

Train = Callable[[], str]


class Beside:
    """Acts on a running server, which follows what it is told and what the registry says.

    Args:
        home: of the deployment.
        system: its name.
        train: trains and returns the model's id.
        url: of the server, `http://host:8000`.
        token: with scope `admin`, where the server asks for one.
    """

    def __init__(self, home: Home, system: str, *, train: Train, url: str, token: str = "") -> None:
        self._system, self._url, self._token = system, url, token
        self._registry, self.train = Registry(home.root), train

    def put(self, step: Rollout) -> None:
        """See `loop.Hands`."""
        raw = msgspec.json.encode(step)
        admin.call("PUT", f"{self._url}/v1/{self._system}/rollout", raw=raw, token=self._token)

    def promote(self, model: str, *, why: str) -> None:
        """See `loop.Hands`."""
        self._registry.promote(self._system, model, by=BY, why=why, at_us=SystemClock().now_us())

    def roll_back(self, *, why: str) -> None:
        """See `loop.Hands`."""
        self._registry.rollback(self._system, by=BY, why=why, at_us=SystemClock().now_us())


class Within:
    """Acts on a service in this process, whose log is its own: a simulated year.

    Args:
        deployment: of the service.
        service: decides.
        train: trains and returns the model's id.
    """

    def __init__(self, deployment: Deployment, service: Service, *, train: Train) -> None:
        self._deployment, self._service, self.train = deployment, service, train

    def put(self, step: Rollout) -> None:
        """See `loop.Hands`."""
        roll(self._service, ready(self._service, step), by=BY)
        self._service.ingest.log.commit()

    def promote(self, model: str, *, why: str) -> None:
        """See `loop.Hands`."""
        system, at_us = self._deployment.system.name, self._service.ingest.log.clock.now_us()
        self._deployment.registry.promote(system, model, by=BY, why=why, at_us=at_us)
        self._follow()

    def roll_back(self, *, why: str) -> None:
        """See `loop.Hands`."""
        system, at_us = self._deployment.system.name, self._service.ingest.log.clock.now_us()
        self._deployment.registry.rollback(system, by=BY, why=why, at_us=at_us)
        self._follow()

    def _follow(self) -> None:
        self._deployment.refresh(self._service)
        self._service.ingest.log.commit()
