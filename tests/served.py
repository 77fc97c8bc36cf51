"""A service of a home, and an operator beside it who takes the steps of a rollout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from tests.fraud_log import payment
from tests.homes import opened

from decalog.challengers import ready, roll
from decalog.clock import MINUTE, rfc3339
from decalog.decisions import Decision
from decalog.deployment import Deployment
from decalog.guardrails import Guardrail
from decalog.home import Home
from decalog.levers import Levers
from decalog.rollout import TABLE, Rollout
from decalog.serving import Service
from decalog.tables import Stored, Tables
from decalog.testing.stage import Chance

STOPPED = Guardrail(
    name="stopped",
    meaning="payments that are not let through",
    unit="share",
    better="lower",
    value=lambda told, _policy: float(told.decision.choice.action != "allow"),
    allowed=0.05,
    excluded=0.2,
    bounds=(0.0, 1.0),
)
"""A guardrail that shows at once."""


@contextmanager
def served(home: Home) -> Iterator[Served]:
    with opened(home) as (deployment, clock):
        made = Deployment(home, "fraud", deployment.log, entropy=Chance(7))
        yield Served(made, clock)
        deployment.log.commit()


class Served:
    """A service of a home, and an operator beside it."""

    def __init__(self, deployment: Deployment, clock: Any) -> None:
        self.deployment, self.clock = deployment, clock
        self.service: Service = deployment.service()
        self.log = deployment.log
        self._levers = Levers(deployment.system, deployment.log)

    def take(self, stage: str, name: str = "r1", **parts: Any) -> Stored:
        """Takes a step as the server does."""
        raw = msgspec.json.encode({"name": name, "stage": stage, **parts})
        step = self._levers.rollouts.read(raw, self._levers.read_policy)
        return roll(self.service, ready(self.service, step), by="me")

    def put_policy(self, **params: Any) -> None:
        self.service.put_policy(self._levers.read_policy(msgspec.json.encode(params)), by="me")

    def pay(self, *names: str, amount_minor: int = 1_000) -> list[Decision]:
        """Decides a payment of a card each, a minute after the one before."""
        made = []
        for name in names:
            self.clock.set(self.clock.now_us() + MINUTE)
            body = payment(f"{name} {self.clock.now_us()}", 0, event_time=rfc3339(self.clock.now_us()), card=name)
            made.append(self.service.decide({**body, "amount_minor": amount_minor})[1])
        return made

    def steps(self) -> list[Rollout]:
        stored = Tables(self.log).history("fraud", TABLE)
        return [msgspec.convert(one.content, Rollout) for one in stored]

    def check_all_identical(self) -> None:
        self.log.commit()
        replayed, compared = self.deployment.replayer().range(), self.deployment.parity().last()
        assert replayed.replayed == replayed.identical > 0, replayed.first
        assert compared.compared == compared.identical > 0, compared.text()


CARDS = tuple(f"card-{number}" for number in range(24))
