"""The loop: retraining when it is due, then a rollout that nobody has to be brave for, one step at a time.

    due ──▶ train ──▶ gate ──▶ shadow ──▶ canary, share by share ──▶ champion
                        │         │          │
                        └─────────┴──────────┴──▶ stopped            each step is a record of the log with its evidence

A step is a function of the log, the registry and the time alone, so the loop may die anywhere and goes on from there,
and a year of it can be simulated. It trains in its own process and writes nothing itself: a `Hands` acts for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec

from decalog.clock import DAY, duration_us
from decalog.decisions import decode_decision
from decalog.deployment import Deployment
from decalog.errors import ConfigError, DataError, ModelError
from decalog.gate import Standards, gate
from decalog.guardrails import FALLBACKS, Guardrail, Phase, Sight, phase_of, shown_safe, sight, words
from decalog.histories import Followed, Histories
from decalog.metrics import Measurement
from decalog.monitoring import monitors_of
from decalog.registry import SHORT, AliasChange, Artefact
from decalog.rollout import TABLE, Rollout
from decalog.shadowing import shadowed
from decalog.system import System, load
from decalog.tails import Champion, position_at
from decalog.watching import Finding, watch
from decalog.whatif import Asked, Change, asked_of

BY = "the loop"
_LONGEST = 1_000

Act = Literal["train", "shadow", "canary", "promote", "stop", "roll back", "wait"]


class LoopPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How a system's loop goes round; a duration is such as `6h` or `7d`.

    Args:
        guardrails: what a canary may not make worse, beside fallbacks.
        standards: of the gate.
        every: a model is trained so long after the last one, at the latest.
        outcomes: or once so many outcomes came since; 0 for never.
        drift: or when a monitor of such a quantity stands.
        test_positives: see `TrainingPlan`.
        rest: but never sooner than so long after the last.
        held_by: and never while a monitor of such a quantity stands: what it would learn is missing or wrong.
        shares_bp: of the people, one phase after the other, hundredths of a percent, rising. A share that would hold
            fewer than `people` of a week's is left out: they could tell nothing.
        people: that an arm needs; intervals are narrowest there.
        least, most: of a phase. One that has shown nothing wrong by `most`, but not enough either, is stopped. What a
            guardrail shows later than `least` is waited for once, at the smallest share; harm stops at any.
        alpha: how likely an interval of a phase ever misses.
        shadow: how many of the newest decisions are made again before anybody is decided for.
        most_changed: share of what was chosen there that may be shown to become another.
        probation: how long a promoted model is rolled back for a monitor in `rolled_back_by`.
        rolled_back_by: quantities.
    """

    guardrails: tuple[Guardrail, ...]
    standards: Standards = Standards()
    every: str = "7d"
    outcomes: int = 0
    test_positives: int = 60
    drift: tuple[str, ...] = ("inputs", "predictions", "calibration")
    rest: str = "1d"
    held_by: tuple[str, ...] = ("unheard",)
    shares_bp: tuple[int, ...] = (1_000, 5_000)
    people: int = 150
    least: str = "1d"
    most: str = "28d"
    alpha: float = 0.05
    shadow: int = 2_000
    most_changed: float = 0.25
    probation: str = "3d"
    rolled_back_by: tuple[str, ...] = ("fallback", "slow")


class Hands(Protocol):
    """What acts for a loop: beside a running server, or within a simulation."""

    def train(self) -> str:
        """Trains on what the log holds and returns the model's id.

        Raises:
            DataError: the log holds too little.
        """

    def put(self, step: Rollout) -> None:
        """Has the server take a step of a rollout."""

    def promote(self, model: str, *, why: str, at_us: int) -> None:
        """Makes a model the champion, at a time of the log."""

    def roll_back(self, *, why: str, at_us: int) -> None:
        """Makes the champion before the present one the champion again."""


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """What the loop did: to which model, and why."""

    act: Act
    model: str
    why: str

    def text(self) -> str:
        """Returns it in a line."""
        return f"{self.act} {self.model[:SHORT]}: {self.why}"


def plan_of(system: System) -> LoopPlan:
    """Returns how a system's loop goes round.

    Raises:
        ConfigError: the system does not say.
    """
    plan: LoopPlan | None = load(system.loop)
    if plan is None:
        raise ConfigError(
            where=f"loop of {system.name}",
            given="a system that does not say what a challenger may not make worse",
            expected="`loop` in SYSTEM: the dotted path of a `LoopPlan`",
            fix="Declare it; docs/howto/loop.md says how.",
        )
    return plan


def watches_of(system: System) -> Mapping[str, str]:
    """Returns monitor → the quantity that it watches."""
    return {monitor.name: monitor.watches for monitor in monitors_of(system)}


class Loop:
    """One system's loop.

    Args:
        plan: how it goes round.
        hands: act for it.
        champion: deployment → what a watch measures from, `operations.watched_champion`.
        histories: that its hands train on, so that the log is read once for both.
    """

    def __init__(self, plan: LoopPlan, hands: Hands, *, champion: Any, histories: Histories | None = None) -> None:
        self._plan, self._hands, self._champion_of = plan, hands, champion
        self._histories = histories or Histories()
        # An interval that excludes harm holds for good: a larger share does not wait again for what takes longest.
        self._slow = {one.name for one in plan.guardrails if duration_us(one.after) > duration_us(plan.least)}
        self._again = 0  # nothing is trained before: the last try found too little to learn from

    def step(self, deployment: Deployment, now: int) -> Move | None:
        """Does the next thing that is due, and returns it; None where there is nothing.

        Args:
            deployment: on the log as it is now.
            now: µs.
        """
        deployment.reading = Followed(deployment.log, self._histories)
        seen = _Seen(deployment)
        last = seen.last
        if last is not None and not last.is_over:
            return self._go_on(seen, last, now)
        failing = self._fails(seen, now)
        if failing is not None:
            self._hands.roll_back(why=failing, at_us=now)
            return Move(act="roll back", model=seen.champion, why=failing)
        waiting = seen.waiting()
        if waiting is not None:
            return self._judge(seen, waiting)
        return self._retrain(seen, now)

    # ---- training ----

    def _retrain(self, seen: _Seen, now: int) -> Move | None:
        plan, trained = self._plan, seen.trained
        if now < max(trained + duration_us(plan.rest), self._again):
            return None
        standing = self._standing(seen, now, of=(*plan.drift, *plan.held_by))
        held = [one for one in standing if one[0] in plan.held_by]
        why = next(self._reasons(seen, now, standing=standing), "")
        if not why:
            return None
        self._again = now + duration_us(plan.rest)
        if held:
            return Move(act="wait", model="", why=f"nothing is trained while {held[0][1].monitor} stands; {why}")
        try:
            return Move(act="train", model=self._hands.train(), why=why)
        except DataError as error:
            return Move(act="wait", model="", why=f"{why}, but there is {error.given}")

    def _reasons(self, seen: _Seen, now: int, *, standing: Sequence[tuple[str, Finding]]) -> Iterator[str]:
        plan = self._plan
        drifted = [finding for watches, finding in standing if watches in plan.drift]
        if drifted:
            yield f"{drifted[0].monitor} stands: {drifted[0].said}"[:400]
        if now >= seen.trained + duration_us(plan.every):
            yield f"the last training was {(now - seen.trained) / DAY:.1f} days ago"
        if plan.outcomes and (came := seen.outcomes()) >= plan.outcomes:
            yield f"{came:,} outcomes came since the last training"

    def _standing(self, seen: _Seen, now: int, *, of: Sequence[str]) -> list[tuple[str, Finding]]:
        """Returns (quantity, finding) of the monitors of some quantities that stand."""
        system, since = seen.system, duration_us(self._plan.rest)
        champion: Champion = self._champion_of(seen.deployment)
        if champion.reference is None:
            return []
        found = watch(system, seen.deployment.log, champion=champion, since_us=since, now_us=now, only=of)
        watches = watches_of(system)
        return [(watches[finding.monitor], finding) for finding in found.standing]

    # ---- a rollout ----

    def _judge(self, seen: _Seen, artefact: Artefact) -> Move:
        """Puts a new model through the gate."""
        first = Rollout(name=artefact.id[:SHORT], stage="shadow", model=artefact.id)
        try:
            verdict = gate(seen.asked(artefact.id), self._plan.standards)
        except (DataError, ModelError, ConfigError) as error:
            return self._take(first, "stopped", why=f"it cannot be judged: {error.given}")
        why = "; ".join(verdict.because)
        return self._take(first, "shadow" if verdict.passes else "stopped", why=why, gate=verdict)

    def _go_on(self, seen: _Seen, last: Rollout, now: int) -> Move | None:
        if last.model[:SHORT] == seen.champion[:SHORT] and last.policy is None:
            return None  # promoted; the server is about to say so
        is_own = last.name == last.model[:SHORT] and last.policy is None
        if last.is_live:
            return self._look(seen, last, now, is_own=is_own)
        return self._shadow(seen, last) if is_own else None

    def _shadow(self, seen: _Seen, last: Rollout) -> Move:
        found = shadowed(seen.asked(last.model, served=True), last=self._plan.shadow)
        against = found.against(self._plan.most_changed, judged=_claimed(last))
        if against:
            return self._take(last, "stopped", why="; ".join(against), shadow=found)
        changed = 0.0 if found.changed is None else found.changed.value
        people, shares = seen.people(), self._plan.shares_bp
        share_bp = next((share for share in shares if share * people >= 10_000 * self._plan.people), shares[-1])
        why = f"on {found.decisions:,} decisions it changes {changed:.2%} of what was chosen; {people:,} people a week"
        return self._take(last, "canary", why=why, share_bp=share_bp, shadow=found)

    def _look(self, seen: _Seen, last: Rollout, now: int, *, is_own: bool) -> Move | None:
        steps = seen.steps_of(last.name)
        phase = phase_of(steps)
        if phase is None:
            return None
        found = self._sight(seen, last, since=phase[0], now=now)
        if not found.is_split:
            why = f"people do not fall on the arms as declared: {found.people} at {last.share_bp / 100:g} %"
            return self._take(last, "stopped", why=why, canary=found)
        if found.of("harm"):
            why = "; ".join(line for line in words(found) if line.partition(":")[0] in found.of("harm"))
            return self._take(last, "stopped", why=why, canary=found)
        age = now - seen.known(phase[0])
        if not is_own or age < duration_us(self._plan.least):
            return None
        settled = shown_safe(steps) & self._slow
        unshown = [name for name in found.of("open") if name not in settled]
        if not unshown:
            return self._grow(last, found, now=now)
        if age >= duration_us(self._plan.most):
            why = f"nothing was shown in {self._plan.most} of {', '.join(unshown)}"
            return self._take(last, "stopped", why=why, canary=found)
        return None

    def _sight(self, seen: _Seen, last: Rollout, *, since: int, now: int) -> Sight:
        plan, deployment = self._plan, seen.deployment
        phase = Phase(
            system=seen.system,
            rollout=last,
            guardrails=(*plan.guardrails, FALLBACKS),
            policy=seen.system.policy(deployment.policy_params()),
            alpha=plan.alpha / len(plan.shares_bp),
            people=plan.people,
        )
        return sight(deployment.log.read(since), phase, until=now)

    def _grow(self, last: Rollout, found: Sight, *, now: int) -> Move:
        larger = [share for share in self._plan.shares_bp if share > last.share_bp]
        why = f"{', '.join(found.of('safe'))}: nothing worse at {last.share_bp / 100:g} %"
        if watched := found.of("watched"):
            why += f"; {', '.join(watched)}: no harm is shown, and no safety asked for"
        if larger:
            return self._take(last, "canary", why=why, share_bp=larger[0], canary=found)
        # The evidence stands in the log before anything rests on it.
        self._take(last, "canary", why=why, share_bp=last.share_bp, canary=found)
        self._hands.promote(last.model, why=why, at_us=now)
        return Move(act="promote", model=last.model, why=why)

    def _take(
        self,
        last: Rollout,
        stage: Literal["shadow", "canary", "stopped"],
        why: str,
        share_bp: int = 0,
        **evidence: object,
    ) -> Move:
        """Has a step taken that follows on the last one."""
        step = msgspec.structs.replace(
            last,
            stage=stage,
            share_bp=share_bp,
            why=why[:_LONGEST],
            evidence=msgspec.to_builtins(evidence),
            champion=None,
        )
        self._hands.put(step)
        return Move(act="stop" if stage == "stopped" else stage, model=last.model, why=why)

    def _fails(self, seen: _Seen, now: int) -> str | None:
        """Returns why the champion that the loop promoted last is to go, while it is on probation."""
        if not seen.champions:
            return None
        *before, last = seen.champions
        if not before or (last.act, last.by) != ("promote", BY):
            return None
        if now - last.at_us >= duration_us(self._plan.probation):
            return None
        standing = self._standing(seen, now, of=self._plan.rolled_back_by)
        new = [one for _, one in standing if one.since >= last.at_us]
        return f"{new[0].monitor} stands since it decides: {new[0].said}"[:_LONGEST] if new else None


def _claimed(step: Rollout) -> Measurement | None:
    """Returns what a challenger claimed to know at the gate, as the step that followed says."""
    told = step.evidence.get("gate", {}).get("claims")
    return None if told is None else msgspec.convert(told, Measurement)


class _Seen:
    """What a step sees: the log, the registry and what follows from them."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment, self.system = deployment, deployment.system
        stored = deployment.tables.history(self.system.name, TABLE)
        self._steps = [(one.seq, msgspec.convert(one.content, Rollout)) for one in stored]
        self._models = deployment.registry.list(self.system.name)
        self._history = deployment.registry.history(self.system.name)
        self.champion = self.champions[-1].model if self.champions else ""
        self.last = self._steps[-1][1] if self._steps else None

    @property
    def champions(self) -> list[AliasChange]:
        """The changes of the champion, oldest first."""
        return [change for change in self._history if change.alias == "champion"]

    @property
    def trained(self) -> int:
        """When the newest model learnt what it knows, µs; 0 where there is none."""
        return max((one.manifest.pin.known_time for one in self._models), default=0)

    def outcomes(self) -> int:
        """Returns how many outcomes came since the newest model was trained."""
        position = max((one.manifest.pin.position[0] for one in self._models), default=0)
        own = self.system.name
        return sum(record.kind == "outcome" and record.system == own for record in self.deployment.log.read(position))

    def waiting(self) -> Artefact | None:
        """Returns a model of the latest training, where it was never judged and never the champion."""
        met = {change.model[:SHORT] for change in self._history} | {step.model[:SHORT] for _, step in self._steps}
        latest = [one for one in self._models if one.manifest.pin.known_time == self.trained]
        return next((one for one in latest if self.champion and one.id[:SHORT] not in met), None)

    def people(self) -> int:
        """Returns for how many people something was decided in the log's last week."""
        log, own = self.deployment.log, self.system.name
        week = log.read(position_at(log, log.known_time - 7 * DAY))
        decisions = (decode_decision(one.body) for one in week if one.kind == "decision" and one.system == own)
        return len({decision.request.subject or decision.id for decision in decisions})

    def steps_of(self, name: str) -> list[tuple[int, Rollout]]:
        """Returns (seq, step) of one rollout, in order."""
        return [(seq, step) for seq, step in self._steps if step.name == name]

    def known(self, seq: int) -> int:
        """Returns when a record was known, µs."""
        return self.deployment.log.get(seq).known_time

    def asked(self, model: str, *, served: bool = False) -> Asked:
        """Returns the champion and a challenger, to be compared; `served` is `asked_of`'s."""
        asked = asked_of(self.deployment, Change(candidate=model), served=served)
        if asked.then.system.features.version != asked.now.system.features.version:
            raise ConfigError(
                where=f"loop of {self.system.name}, model {model[:SHORT]}",
                given="a model of another feature set than the champion's",
                expected="one of the same, so that both can decide side by side",
                fix="Promote it by hand: a changeover builds its views first.",
            )
        return asked
