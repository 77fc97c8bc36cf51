"""What acts for a loop: on a server over HTTP, on a home that no server runs on, or on a service in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import msgspec

from decalog import admin, operations
from decalog.challengers import ready, roll
from decalog.deployment import Deployment
from decalog.histories import Histories
from decalog.home import Home
from decalog.loop import BY, Hands, Loop, Move, plan_of
from decalog.registry import Registry
from decalog.rollout import Rollout
from decalog.serving import Service
from decalog.system import find_system

Train = Callable[[], str]
_STEPS = 8
"""At once: from a training to a canary it takes three."""


class _Registered:
    """What all hands have in common: a promotion and a way back are the registry's."""

    def __init__(self, registry: Registry, system: str, *, train: Train) -> None:
        self._registry, self._system, self.train = registry, system, train

    def promote(self, model: str, *, why: str, at_us: int) -> None:
        """See `loop.Hands`."""
        self._registry.promote(self._system, model, by=BY, why=why, at_us=at_us)

    def roll_back(self, *, why: str, at_us: int) -> None:
        """See `loop.Hands`."""
        self._registry.rollback(self._system, by=BY, why=why, at_us=at_us)


class Beside(_Registered):
    """Acts on a running server, which follows what it is told and what the registry says.

    Args:
        home: of the deployment.
        system: its name.
        train: trains and returns the model's id.
        url: of the server, `http://host:8000`.
        token: with scope `admin`, where the server asks for one.
    """

    def __init__(self, home: Home, system: str, *, train: Train, url: str, token: str = "") -> None:
        super().__init__(Registry(home.root), system, train=train)
        self._url, self._token = url, token

    def put(self, step: Rollout) -> None:
        """See `loop.Hands`."""
        raw = msgspec.json.encode(step)
        admin.call("PUT", f"{self._url}/v1/{self._system}/rollout", raw=raw, token=self._token)


class Alone(_Registered):
    """Acts on a home that no server runs on: the next one follows what the log and the registry say.

    Args:
        home: of the deployment.
        system: its name, or the dotted path of a user's own.
        train: trains and returns the model's id.
    """

    def __init__(self, home: Home, system: str, *, train: Train) -> None:
        super().__init__(Registry(home.root), find_system(system).name, train=train)
        self._home, self._path = home, system

    def put(self, step: Rollout) -> None:
        """See `loop.Hands`."""
        with operations.levers_here(self._home, self._path, puts=True) as levers:
            levers.rollouts.put(step, by=BY)


class Within(_Registered):
    """Acts on a service in this process, whose log is its own: a simulated year.

    Args:
        deployment: of the service.
        service: decides.
        train: trains and returns the model's id.
    """

    def __init__(self, deployment: Deployment, service: Service, *, train: Train) -> None:
        super().__init__(deployment.registry, deployment.system.name, train=train)
        self._deployment, self._service = deployment, service

    def put(self, step: Rollout) -> None:
        """See `loop.Hands`."""
        roll(self._service, ready(self._service, step), by=BY)
        self._service.ingest.log.commit()

    def promote(self, model: str, *, why: str, at_us: int) -> None:
        """See `loop.Hands`."""
        super().promote(model, why=why, at_us=at_us)
        self._follow()

    def roll_back(self, *, why: str, at_us: int) -> None:
        """See `loop.Hands`."""
        super().roll_back(why=why, at_us=at_us)
        self._follow()

    def _follow(self) -> None:
        self._deployment.refresh(self._service)
        self._service.ingest.log.commit()


def loop_of(home: Home, system: str, *, url: str = "", token: str = "") -> Loop:
    """Returns a system's loop, which acts on its server.

    Args:
        home: of the deployment.
        system: its name, or the dotted path of a user's own.
        url: of the server, `http://host:8000`; "" where none runs.
        token: with scope `admin`, where the server asks for one.

    Raises:
        ConfigError: there is no such system, or it does not declare how its loop goes round.
    """
    found = find_system(system)
    plan, histories = plan_of(found), Histories()

    def train() -> str:
        return operations.retrain(home, system, test_positives=plan.test_positives, histories=histories)

    if url:
        hands: Hands = Beside(home, found.name, train=train, url=url, token=token)
    else:
        hands = Alone(home, system, train=train)
    return Loop(plan, hands, champion=operations.watched_champion, histories=histories)


def turned(loop: Loop, home: Home, *, system: str) -> Iterator[Move]:
    """Yields the steps that a loop takes now, as they are taken; nothing where none is due.

    The present is the time of the log's last record: a log may keep its own clock, and without news nothing is due.

    Args:
        loop: of the system.
        home: of the deployment.
        system: its name, or the dotted path of a user's own.

    Raises:
        ConfigError: there is no log.
        RequestError, AccessError, LogUnavailableError: the server refused a step, or cannot be reached.
    """
    for _ in range(_STEPS):
        with closing(home.reader()) as log:
            move = loop.step(Deployment(home, system, log).as_served(), log.known_time)
        if move is None:
            return
        yield move
