"""Law 10: a drift that the system's world can switch on raises the alert it names in time; without it nothing alarms.

The champion's kind learns from a history of the world and decides for some days. From there the world goes on as it
was, and once more for each drift that the system declares. Each is watched from the switch until the drift's time is
up, and as it was for the longest of these times: there no monitor may have found anything.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import NamedTuple

import msgspec

from decalog.clock import DAY, HOUR
from decalog.decisions import Choice
from decalog.errors import ConfigError, near
from decalog.monitoring import Drift, Monitor, monitors_of
from decalog.system import System
from decalog.tails import champion_of
from decalog.testing.laws.law import Verdict, proven
from decalog.testing.laws.skill import Asked, days_of, play, sized
from decalog.testing.stage import Stage, Step, Trial, world_of
from decalog.testing.worlds import Message, World
from decalog.trainers import train_system
from decalog.training import TrainingPlan
from decalog.watching import Watch, watch

_ASKED = Asked(requests=60_000, slates=2_400, quantities=20_000)
"""The world is made so large that its history asks for about so many: what drifts shows on fewer than skill needs."""
_BEFORE, _BEFORE_SLATES = 3 * DAY, 8 * DAY
"""So long the champion decides before the switch; what it shows is watched against its own first week."""
_PAST = "past"

Decide = Callable[[Message], Choice | None]


class _Past(NamedTuple):
    """What all goes on from: the home `past` of a trial, until when it goes, µs, and request → what was decided."""

    trial: Trial
    until: int
    choices: Mapping[str, Choice]


def check(trial: Trial) -> Verdict:
    """Returns whether each declared drift raises its alert in time, and nothing alarms where none is switched on."""
    system = trial.system
    misdeclared = list(_misdeclared(system))
    if misdeclared:
        return proven(0, misdeclared, sabotages={})
    drifts: tuple[Drift, ...] = system.drifts
    longest = max(drift.within_us for drift in drifts)
    past = _past(sized(trial, _ASKED))
    calm, crying = _watches(past, "", longest, sabotage=_crying)
    breaches, sabotages = _alarms(calm), {"a monitor that always alarms": _alarms(crying)}
    for drift in drifts:
        seen, deaf = _watches(past, drift.switch, drift.within_us, sabotage=_deaf)
        breaches += _silence(drift, seen)
        sabotages[f"{drift.switch} under a watch that may not alarm"] = _silence(drift, deaf)
        sabotages[f"{drift.switch}, not switched on"] = _silence(drift, calm)
    return proven(calm.decisions, breaches, sabotages=sabotages)


def _misdeclared(system: System) -> Iterator[str]:
    monitors = [monitor.name for monitor in monitors_of(system)]
    if not system.drifts:
        yield str(
            ConfigError(
                where=f"{system.name} drifts",
                given="none",
                expected="at least one drift that its world can switch on, and the alert that it must raise",
                fix="Declare a monitoring.Drift beside the monitors and name it in SYSTEM.",
            )
        )
    for drift in system.drifts:
        if drift.alert not in monitors:
            yield str(
                ConfigError(
                    where=f"{system.name} drifts, {drift.switch}",
                    given=f"the alert {drift.alert!r}, which no monitor has",
                    expected=near(drift.alert, monitors),
                    fix="`decalog watch` tells the names of what is watched.",
                )
            )


# ---- the days before and after the switch ----


def _past(trial: Trial) -> _Past:
    stage, world = Stage(trial, _PAST, repeatable=True), world_of(trial)
    choices: dict[str, Choice] = {}
    start = world.start_us + days_of(trial.system) * DAY
    until = start + (_BEFORE_SLATES if trial.system.schema.slate_of else _BEFORE)
    with closing(stage):
        play(stage, world)
        _crown(stage)
        _live(world, start, until, decide=_asked(stage, choices))
        stage.log.commit()
    return _Past(trial, until, choices)


def _crown(stage: Stage) -> None:
    """Trains the champion's kind alone: what else there is, and whether it is any good, law 9 asks."""
    system, trial = stage.system, stage.trial
    kind = msgspec.structs.replace(system, models=system.models[-1:], found="")
    plan = TrainingPlan(seed=trial.seed, least_positives=1, least_test_positives=1)
    train_system(kind, stage.log, registry=stage.deployment.registry, plan=plan)
    stage.deployment.refresh(stage.service)


def _live(world: World, start: int, stop: int, *, decide: Decide) -> None:
    """Lets a world live from one midnight to another, and tells it what is decided."""
    for until in range(start + HOUR, stop + HOUR, HOUR):
        # A day begins with its midnight: a switch is thrown before.
        for message in world.advance(min(until, stop) - 1):
            choice = decide(message)
            if choice is not None:
                world.react(message.body["id"], choice.action, at_us=message.at, refs=choice.contents)


def _asked(stage: Stage, choices: dict[str, Choice]) -> Decide:
    """Returns what brings messages to a stage, and notes what was decided."""

    def decide(message: Message) -> Choice | None:
        stage.send(Step(message.at, message.kind, message.body))
        if message.kind != "decide":
            return None
        return choices.setdefault(message.body["id"], stage.decided[-1].choice)

    return decide


def _watches(past: _Past, switch: str, within_us: int, *, sabotage: Callable[[System], System]) -> tuple[Watch, Watch]:
    """Returns what is seen in the days after a switch, by the system's monitors and by sabotaged ones."""
    trial, until = past.trial, past.until
    home, name = trial.folder / _PAST, f"with {switch}"
    shutil.copytree(home, trial.folder / name)
    world, now = world_of(trial), until + within_us
    begin = world.start_us + days_of(trial.system) * DAY
    for day in range(world.start_us + DAY, begin + DAY, DAY):
        world.advance(day, alone=True)
    _live(world, begin, until, decide=lambda message: past.choices.get(message.body["id"]))
    if switch:
        world.switch(switch, True)  # noqa: FBT003 - a switch
    with closing(Stage(trial, name, repeatable=True)) as stage:
        _live(world, until, now, decide=_asked(stage, {}))
        stage.log.commit()
        system, registry = stage.system, stage.deployment.registry
        champion = champion_of(system, registry, load=stage.deployment.model)
        seen, otherwise = (
            watch(one, stage.log, champion=champion, since_us=within_us, now_us=now)
            for one in (system, sabotage(system))
        )
    return seen, otherwise


# ---- what was seen ----


def _alarms(calm: Watch) -> list[str]:
    return [f"nothing was switched on: {finding.text()}" for finding in calm.findings]


def _silence(drift: Drift, seen: Watch) -> list[str]:
    if any(finding.monitor == drift.alert for finding in seen.findings):
        return []
    others = ", ".join(sorted({finding.monitor for finding in seen.findings})) or "none"
    return [f"{drift.switch} was switched on: no {drift.alert} within {drift.within}; other alerts: {others}"]


def _crying(system: System) -> System:
    """Returns the system with a monitor that finds fault with every action."""
    cry = Monitor(
        name="cry",
        meaning="anything was decided",
        watches="action",
        of=system.schema.actions,
        alert="above",
        level=0.5,
        owner=system.name,
        runbook="none",
    )
    return msgspec.structs.replace(system, monitors=(*system.monitors, cry))


def _deaf(system: System) -> System:
    return msgspec.structs.replace(system, false_alarms_a_week=-1.0)
