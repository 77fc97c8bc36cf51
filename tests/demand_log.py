"""A log of demand: days of sales, orders decided by hand or by a service, and what was sold, written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from decalog.clock import DAY, HOUR, ManualClock, rfc3339
from decalog.decisions import Decision
from decalog.deployment import Deployment, Setup
from decalog.events import Record
from decalog.home import Home
from decalog.ingest import Rates, RowResult
from decalog.serving import Service
from decalog.simulation import fill, rates_of
from decalog.systems.demand.simulate import World
from decalog.systems.demand.system import SYSTEM
from decalog.tables import Tables
from decalog.trainers import train_system
from decalog.training import TrainingPlan

START = 20_000 * DAY
"""Midnight of day 0."""


class DemandLog:
    """Writes to the log of a home; days are numbers from 0 on."""

    def __init__(self, root: Path) -> None:
        self.home, self.clock = Home(root), ManualClock(START)
        self.log = self.home.writer(self.clock)
        self.deployment = Deployment(self.home, SYSTEM, self.log, Setup(rates=Rates("EUR")))
        self.ingest = self.deployment.prepare()
        self.tables = Tables(self.log)

    @property
    def service(self) -> Service:
        """A service over what the log holds."""
        return self.deployment.service()

    def sold(self, day: int, units: int, *, empty_h: int = 0, series: str = "s1/i1", **more: Any) -> RowResult:
        """Tells a day of sales in its evening; units went in the first part of the day."""
        body = {
            "id": f"day-{series}-{day}",
            "kind": "day",
            "event_time": rfc3339(self._at(day, 20)),
            **_who(series),
            "units": units,
            "units_1": units,
            "empty_h": empty_h,
            "stocked_h": 12 - empty_h,
            "discount_bp": 0,
            **more,
        }
        self.clock.set(max(self._at(day, 20.5), self.clock.now_us()))
        return self.ingest.event(body)

    def due(self, day: int, name: str = "", **more: Any) -> dict[str, Any]:
        """Returns the body of a request for an order on a night."""
        return {
            "id": name or f"order-{day}",
            "event_time": rfc3339(self._at(day, 21)),
            **_who(str(more.pop("series", "s1/i1"))),
            "on_hand": 5,
            "lead_days": 1,
            "horizon_days": 2,
            "open_days": 2,
            "price_minor": 200,
            "unit_cost_minor": 120,
            "currency": "EUR",
            "pack": 1,
            "shelf_days": 5,
            **more,
        }

    def asked(self, day: int, name: str = "", **more: Any) -> RowResult:
        """Tells of an order that another system dealt with."""
        self.clock.set(max(self._at(day, 21), self.clock.now_us()))
        return self.ingest.event({**self.due(day, name, **more), "taken": "order"})

    def decide(self, service: Service, day: int, name: str = "", **more: Any) -> Decision:
        """Decides an order."""
        self.clock.set(max(self._at(day, 21), self.clock.now_us()))
        return service.decide(self.due(day, name, **more))[1]

    def told(self, day: float, target: str, units: float, *, censored: bool | None = False, **more: Any) -> RowResult:
        """Tells what was sold over the interval of an order."""
        at_us = self._at(day, 20)
        body = {
            "id": f"sales-{target}",
            "replenishment": target,
            "kind": "sales",
            "source": "till",
            "event_time": rfc3339(at_us),
            "value": units,
            "censored": censored,
            **more,
        }
        self.clock.set(max(at_us, self.clock.now_us()))
        return self.ingest.outcome(body)

    def records(self, until_day: float | None = None) -> list[Record]:
        """Returns the log, after the clock has come to a day."""
        if until_day is not None:
            self.clock.set(max(self._at(until_day, 0), self.clock.now_us()))
            self.tables.put("", "rates", content={"base": "EUR", "rates": {}, "day": until_day})
        self.log.commit()
        return list(self.log.read())

    @staticmethod
    def _at(day: float, hour: float) -> int:
        return START + int(day * DAY + hour * HOUR)


def _who(series: str) -> dict[str, str]:
    store, item = series.split("/")
    return {"series": series, "item": item, "store": store, "category": "c1", "slot": f"{series}/0"}


def played(root: Path, *, days: int, seed: int = 1, scale: float = 0.2) -> World:
    """Fills a home with the history of a world, and returns the world."""
    world = World(seed, scale=scale)
    clock = ManualClock(world.start_us)
    log = Home(root).writer(clock)
    fill(
        world,
        Deployment(Home(root), SYSTEM, log, Setup(rates=rates_of(world))).prepare(),
        clock=clock,
        days=days,
        say=lambda _line: None,
    )
    log.close()
    return world


def lived(root: Path, *, days: int, live: int, raised: int = 0) -> World:
    """Fills a home with the history of a world, trains on it, and decides for some days; returns the world.

    Where `raised` is above 0, two planners, p0 and p1, raise every so many-th order by a half.
    """
    world = played(root, days=days)
    clock = ManualClock(world.start_us + days * DAY)
    log = Home(root).writer(clock)
    deployment = Deployment(Home(root), SYSTEM, log, Setup(rates=Rates("EUR")))
    deployment.prepare()
    train_system(SYSTEM, log, registry=deployment.registry, plan=TrainingPlan())
    service, asked = deployment.service(), 0
    for hour in range(24 * live):
        for message in world.advance(world.start_us + days * DAY + (hour + 1) * HOUR - 1):
            clock.set(max(message.at, clock.now_us()))
            if message.kind != "decide":
                service.ingest.admit(message.kind, message.body)
                continue
            choice, asked = service.decide(message.body)[1].choice, asked + 1
            world.react(message.body["id"], choice.action, at_us=message.at, refs=choice.contents)
            if raised and asked % raised == 0:
                more = 1.5 * (choice.slots[0].value or 0.0)
                told = {"replenishment": message.body["id"], "kind": "override", "source": "planner"}
                told |= {"planner": f"p{asked % 2}"}
                service.ingest.outcome({"id": f"more-{asked}", **told, "why": "judgement", "value": more})
    log.commit()
    log.close()
    return world
