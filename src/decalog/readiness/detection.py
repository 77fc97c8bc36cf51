"""Monitoring: how soon a seeded degradation is noticed, against how soon it does damage, and silence where nothing is.

The last days of recorded traffic are decided again on copies whose logs end where those days begin: once as they came,
and once with each degradation. The first is the A/A run; its decisions are the twins that the others' losses are
counted by.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import msgspec
import numpy as np

from decalog.candidates import named
from decalog.clock import DAY, HOUR
from decalog.decisions import Decision
from decalog.errors import DataError
from decalog.models.base import Model
from decalog.monitoring import monitors_of
from decalog.operations import watched_champion
from decalog.quantity_training import QuantityPolicy
from decalog.readiness.checks import Measured
from decalog.readiness.subject import Rehearsal, Subject, rehearsed
from decalog.serving import Service
from decalog.slate_training import SlatePolicy
from decalog.system import System
from decalog.tails import Champion
from decalog.testing.worlds import Message
from decalog.watching import Watch, watch

_TIMES = 100
"""A unit error: whole units where minor ones are meant, or the other way."""
_MOST = 20_000
"""Requests that are decided again at most in one run."""
_QUICK_DAYS = 1.0


class Degradation(NamedTuple):
    """What goes wrong: its name, what it makes of a message, and of the service that decides."""

    name: str
    change: Callable[[Message], Message]
    spoil: Callable[[Service], None] | None = None


class Seen(NamedTuple):
    """What came of a run: decisions in order, with the offset of each from its begin, µs, and what was watched.

    It begins with its first message: where orders are decided once a night the record before may be a day old.
    """

    decided: list[Decision]
    offsets: list[int]
    seen: Watch
    deaf: Watch
    crying: Watch
    policy: Any
    heads: tuple[str, ...]
    windows: Mapping[str, int]
    begin: int


class Loss(NamedTuple):
    """What a degradation cost in so many hours: hours to alert and to damage (infinite for never), a day's loss.

    Damage beyond the hours that were played is reckoned by the pace of the loss in them. `within_h` is the longest
    window of a monitor: what does no damage in that time and is not noticed in what was played is left to it.
    """

    name: str
    played_h: float
    detected_h: float
    damaged_h: float
    a_day_minor: float
    monitors: tuple[str, ...]
    within_h: float

    @property
    def ratio(self) -> float:
        """Time to detect over time to damage; infinite where it was not noticed, 0 without damage."""
        is_slow = self.damaged_h > max(self.within_h, self.played_h)
        if math.isinf(self.damaged_h) or (is_slow and math.isinf(self.detected_h)):
            return 0.0
        return self.detected_h / self.damaged_h

    def text(self) -> str:
        """Returns it in words."""
        by = f" by {self.monitors[0]}" if self.monitors else ""
        noticed = (
            f"not noticed in {self.played_h:.0f} h"
            if math.isinf(self.detected_h)
            else f"noticed after {self.detected_h:.1f} h{by}"
        )
        damage = "no damage" if math.isinf(self.damaged_h) else f"damage after {self.damaged_h:.1f} h"
        return f"{self.name}: {noticed}, {damage} ({self.a_day_minor:,.0f} minor units a day)"


def silence(subject: Subject, fault: str) -> Measured:
    """Counts findings of the monitors where traffic goes on as it was recorded: an A/A run."""
    calm = _run(subject, _honest())
    seen = calm.crying if fault else calm.seen
    own = seen.findings
    first = f"; {own[0].text().splitlines()[0]}" if own else ""
    said = f"{len(own)} findings in {seen.looks} looks at {len(calm.decided):,} decisions as they were recorded{first}"
    return Measured(value=float(len(own)), n=len(calm.decided), said=said)


def detection(subject: Subject, fault: str) -> Measured:
    """Measures time to detect over time to damage, the worst of the seeded degradations.

    Both sides are valued by what the honest twin predicted: what the action that was taken costs over the honest one.
    """
    budget = subject.slo.damage_minor
    if not budget:
        raise DataError(
            where=f"{subject.system.name} slo.toml, damage_minor",
            given="none",
            expected="the loss, minor units of the base currency, before which a fault must have raised an alert",
            fix="damage_minor = 100000 in HOME/slo.toml: what may be lost before somebody is called.",
        )
    calm = _run(subject, _honest())
    quietly = {finding.monitor for finding in calm.seen.findings}
    found = []
    for one in degradations(subject):
        run = _run(subject, one)
        found.append(_loss(one.name, calm, run, deaf=bool(fault), budget=budget, known=quietly))
    worst = max(found, key=lambda loss: loss.ratio)
    detail = {f"{one.name}, hours": round(one.detected_h, 2) for one in found if not math.isinf(one.detected_h)}
    return Measured(value=worst.ratio, n=len(calm.decided), said="; ".join(one.text() for one in found), detail=detail)


def model_age(subject: Subject, fault: str) -> Measured:
    """Measures the age of what the champion knows: days from what it learnt from last to the log's last record."""
    with subject.reading() as (deployment, _):
        current = deployment.registry.current(subject.system.name)
        if current is None:
            raise DataError(
                where=f"{subject.system.name} champion", given="none", expected="one", fix="`decalog train` makes one."
            )
        pin = deployment.registry.get(current).manifest.pin
        later = subject.slo.limit("model_age_days") * 2 * DAY if fault else 0
        days = (deployment.log.known_time + later - pin.known_time) / DAY
    return Measured(value=days, n=1, said=f"model {current[:12]} learnt from the log up to record {pin.position[0]:,}")


def degradations(subject: Subject) -> tuple[Degradation, ...]:
    """Returns what is seeded: from the schema alone, so that every system gets it."""
    request = subject.system.schema.request
    found = [Degradation("a model that knows nothing", lambda message: message, _forget)]
    lost = _usual(subject)
    if lost:
        found.append(Degradation(f"no {lost} any more", _without(lost)))
    if request.amounts:
        money = next(iter(request.amounts))
        found.append(Degradation(f"{money} in another unit", _times(money)))
    return tuple(found[:1] if subject.quick else found)


def _usual(subject: Subject) -> str:
    """Returns what of all that may be left out most requests have, or ""; money is not asked of."""
    request = subject.system.schema.request
    optional = {field.name for field in request.fields if not field.required and field.kind != "currency"}
    optional |= {entity.name for entity in request.entities}
    with subject.reading() as (_, recording):
        asked = [message.body for message in recording.requests(1_000)]
    held = Counter(name for body in asked for name in body if name in optional - set(request.amounts))
    return held.most_common(1)[0][0] if held else ""


def _honest() -> Degradation:
    return Degradation("", lambda message: message)


def _without(name: str) -> Callable[[Message], Message]:
    def change(message: Message) -> Message:
        body = {key: value for key, value in message.body.items() if key != name}
        return Message(message.at, message.kind, body) if message.kind == "decide" else message

    return change


def _times(name: str) -> Callable[[Message], Message]:
    def change(message: Message) -> Message:
        if message.kind != "decide" or name not in message.body:
            return message
        return Message(message.at, message.kind, {**message.body, name: int(message.body[name]) * _TIMES})

    return change


class _Blank:
    """Predicts the mean of what the honest model said, of everything."""

    blocking = False

    def __init__(self, model: Model) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        """Returns what else a model has."""
        return getattr(self._model, name)

    def predict(self, rows: Any) -> Any:
        """Returns one row again and again."""
        said = self._model.predict(np.zeros_like(rows[:1]))
        return np.repeat(said, len(rows), axis=0)


def _forget(service: Service) -> None:
    serving = service.serving
    if serving.model is not None:
        service.judge = type(service.judge)(
            service.system, msgspec.structs.replace(serving, model=cast("Model", _Blank(serving.model)))
        )


def _run(subject: Subject, one: Degradation) -> Seen:
    found: Seen = subject.fact(("run", one.name), lambda: _played(subject, one))
    return found


def _played(subject: Subject, one: Degradation) -> Seen:
    days = min(_QUICK_DAYS, subject.slo.days) if subject.quick else subject.slo.days
    with subject.reading() as (_, recording):
        first, recorded = recording.since(int(days * DAY))
    last = [place for place, message in enumerate(recorded) if message.kind == "decide"][:_MOST][-1]
    messages = [one.change(message) for message in recorded[: last + 1]]
    with subject.fork(until=first) as home, rehearsed(subject, home, change=one.spoil) as made:
        decided = made.play(messages)
        offsets = [message.at - messages[0].at for message in messages if message.kind == "decide"]
        champion = watched_champion(made.deployment)
        seen, deaf, crying = (_watched(made, system, champion) for system in _ears(made.deployment.system))
        serving = made.service.serving
        windows = {monitor.name: monitor.window_us for monitor in monitors_of(made.deployment.system)}
        heads = tuple(serving.head.split("+"))
        return Seen(decided, offsets, seen, deaf, crying, serving.policy, heads, windows, messages[0].at)


def _ears(system: System) -> tuple[System, System, System]:
    """Returns the system; one whose monitors may not alarm; and one that finds fault with every action."""
    usual = monitors_of(system)[0]
    cry = msgspec.structs.replace(
        usual, name="cry", watches="action", of=system.schema.actions, alert="above", level=0.05, window="1d"
    )
    deaf = msgspec.structs.replace(system, false_alarms_a_week=-1.0)
    return system, deaf, msgspec.structs.replace(system, monitors=(*system.monitors, cry))


def _watched(made: Rehearsal, system: System, champion: Champion) -> Watch:
    """Returns what a watch sees; of slates without calibration, since outcomes are of those that were shown then."""
    now = made.log.known_time
    quantities = {monitor.watches for monitor in monitors_of(system)}
    only = quantities - {"calibration"} if system.schema.slate_of else quantities
    return watch(system, made.log, champion=champion, since_us=now - made.begun, now_us=now, only=only)


def _loss(name: str, calm: Seen, run: Seen, *, deaf: bool, budget: int, known: set[str]) -> Loss:
    """Returns what a degradation cost; what the monitors say of honest traffic as well is no notice of it."""
    lost = np.cumsum([_worse(honest, twin, calm) for honest, twin in zip(calm.decided, run.decided, strict=True)])
    span_h = max(run.offsets[-1] / HOUR, 1e-9)
    beyond = np.flatnonzero(lost >= budget)
    if len(beyond):
        damaged = run.offsets[int(beyond[0])] / HOUR
    else:
        damaged = span_h * budget / float(lost[-1]) if lost[-1] > 0 else math.inf
    seen = run.deaf if deaf else run.seen
    first = [(one.since + run.windows.get(one.monitor, 0) - run.begin, one.monitor) for one in seen.findings]
    new = sorted((us, monitor) for us, monitor in first if monitor not in known)
    detected = new[0][0] / HOUR if new else math.inf
    by, longest = tuple(monitor for _, monitor in new), max(run.windows.values()) / HOUR
    return Loss(name, span_h, detected, damaged, float(lost[-1]) * 24 / span_h, by, longest)


def _worse(honest: Decision, degraded: Decision, calm: Seen) -> float:
    """Returns what a degraded choice is worth less than the honest one, by what the honest decision predicted."""
    if honest.choice.verb and not honest.choice.is_slate:
        return _quantity_worth(honest, honest, calm) - _quantity_worth(honest, degraded, calm)
    if honest.choice.verb:
        return _slate_worth(honest, honest, calm) - _slate_worth(honest, degraded, calm)
    lead = honest.lead
    label = None if lead is None else lead.predictions.get(calm.heads[-1])
    if label is None:
        return 0.0
    amounts = [value for key, value in honest.request.attributes.items() if key.endswith("_base_minor")]
    amount = int(amounts[0]) if amounts else 0
    cost = calm.policy.cost_minor
    before, after = (cost(one.choice.action, label=label, amount_minor=amount) for one in (honest, degraded))
    return float(after - before)


def _quantity_worth(honest: Decision, chosen: Decision, calm: Seen) -> float:
    """Returns what a number is worth if what was honestly expected comes."""
    lead = honest.lead
    mean = None if lead is None else lead.predictions.get(calm.heads[0])
    if mean is None or not chosen.choice.slots:
        return 0.0
    policy = cast("QuantityPolicy", calm.policy)
    return policy.worth(honest.request, chosen.choice.quantity, label=mean, usual=mean)


def _slate_worth(honest: Decision, shown: Decision, calm: Seen) -> float:
    """Returns what a slate is worth, things further down less, by 1 / log2(1 + place); unknown things nothing."""
    refs = [slot.ref for slot in shown.choice.slots]
    known = named(honest.candidates, refs)
    rows = np.array([[_said(known, ref, head) for head in calm.heads] for ref in refs], dtype=np.float64).reshape(
        len(refs), len(calm.heads)
    )
    worth = cast("SlatePolicy", calm.policy).worth(calm.heads, rows)
    return float(worth @ (1 / np.log2(2 + np.arange(len(refs)))))


def _said(known: Mapping[str, Any], ref: str, head: str) -> float:
    candidate = known.get(ref)
    return 0.0 if candidate is None else float(candidate.predictions.get(head, 0.0))
