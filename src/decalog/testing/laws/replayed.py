"""Law 3: logged decisions replay to the same actions, after late, doubled, corrected and deleted events.

So do those of a rollout, by whichever arm they were made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import msgspec
import numpy as np

from decalog.candidates import Candidate
from decalog.challengers import ready, roll
from decalog.decisions import Choice, Decision, Slot, decode_decision, pack_features, unpack_features
from decalog.deployment import Deployment
from decalog.errors import DecalogError
from decalog.events import Record, decode_table, encode
from decalog.log import Log
from decalog.replay import Range
from decalog.rollout import CHALLENGER, Rollout, plain
from decalog.system import System
from decalog.testing import traffic
from decalog.testing.laws.law import Verdict, proven
from decalog.testing.stage import Stage, Step, Trial, parts_of


def check(trial: Trial) -> Verdict:
    """Returns whether every decision of a disorderly life, under each kind of model, replays to the same bits."""
    stage = Stage(trial, "replayed")
    try:
        _live(stage)
        found = stage.deployment.replayer().range()
        breaches = list(_breaches(stage, found))
        sabotages = {} if breaches else _sabotages(stage)
    finally:
        stage.close()
    return proven(found.replayed, breaches, sabotages=sabotages)


def _live(stage: Stage) -> None:
    """Plays history, then live traffic in equal parts: without a champion, under each kind of model, and in a rollout.

    Between parts the server restarts, so that views folded live meet views folded from the log.
    """
    trial = stage.trial
    stage.play(traffic.history(trial))
    models = trial.system.models
    *parts, last = parts_of(traffic.live(trial), len(models) + 2)
    for number, steps in enumerate(parts):
        if number:
            stage.crown(models[number - 1])
            stage.open()
        stage.play(steps)
    _roll_out(stage, last)


def _roll_out(stage: Stage, steps: list[Step]) -> None:
    """Plays traffic while another model and other parameters decide half, then all of it, with a restart between."""
    name = stage.system.name
    crowned = [change.model for change in stage.deployment.registry.history(name)]
    params = next(_changed_params(stage.system), None)
    policy = None if params is None else plain(params)
    for share_bp, part in zip((5_000, 10_000), parts_of(steps, 2), strict=True):
        step = Rollout(name="trial", stage="canary", model=crowned[-2], policy=policy, share_bp=share_bp)
        roll(stage.service, ready(stage.service, step))
        stage.open()
        stage.play(part)


def _tried(stage: Stage) -> list[Decision]:
    return [decision for decision in stage.decided if decision.arm == f"trial/{CHALLENGER}"]


def _breaches(stage: Stage, found: Range) -> Iterator[str]:
    if found.replayed != len(stage.decided):
        yield f"{len(stage.decided)} decisions were made, {found.replayed} were replayed"
    if found.first is not None:
        yield f"{found.text()}; first: seq {found.first.seq}, {_named(found)}"
    for model in sorted({decision.versions.model for decision in stage.decided} - {""}):
        under = [decision.fallback for decision in stage.decided if decision.versions.model == model]
        if all(under):
            yield f"every decision under model {model} is a fallback, the first for {under[0]}: no model was replayed"

    if all(decision.fallback for decision in _tried(stage)):
        yield "no challenger of a rollout decided anything"


def _named(found: Range) -> str:
    differences = found.first.differences if found.first is not None else ()
    return "; ".join(f"{d.name}: logged {d.logged}, replayed {d.replayed}" for d in differences)


def _sabotages(stage: Stage) -> dict[str, list[str]]:
    """Returns for each sabotage whether the range shows it, at the decision it touched and by the name it touched."""
    aim = next(decision for decision in reversed(stage.decided) if _is_whole(decision))
    place = kept_places(aim)[-1]
    head = stage.system.models[-1].head.split("+")[-1]
    ref = _prefix(aim, place)
    tried, theirs = next(d for d in reversed(_tried(stage)) if _is_whole(d)), stage.service.serving.versions
    found = {
        "the last bit of a feature": _tampered(
            stage, aim, ref + stage.system.features.names[-1], change=partial(_bit_flipped, place=place)
        ),
        "the last bit of a prediction": _tampered(
            stage, aim, ref + head, change=partial(_prediction_moved, place=place, head=head)
        ),
        "another action": _tampered(stage, aim, "choice", change=_acted_otherwise),
        "the champion's name on what a challenger decided": _tampered(
            stage,
            tried,
            _prefix(tried, kept_places(tried)[-1]) + head,
            change=lambda decision: msgspec.structs.replace(decision, versions=theirs),
        ),
    }
    if stage.system.schema.slate_of:
        found["another order of the slots"] = _tampered(stage, aim, "choice", change=_ordered_otherwise)
    if msgspec.structs.fields(stage.system.policy_params):
        found["other parameters of the policy"] = _other_policy(stage)
    return found


def _prefix(decision: Decision, place: int) -> str:
    return f"{decision.candidates[place].ref}: " if len(decision.candidates) > 1 else ""


def _tampered(stage: Stage, aim: Decision, name: str, *, change: Callable[[Decision], Decision]) -> list[str]:
    def changed(record: Record) -> Record:
        if record.kind != "decision" or decode_decision(record.body).id != aim.id:
            return record
        return msgspec.structs.replace(record, body=encode(change(decode_decision(record.body))))

    found = _replayed(stage, changed)
    trace = found.first
    is_shown = trace is not None and trace.decision_id == aim.id and name in {d.name for d in trace.differences}
    return [_named(found)] if is_shown and found.identical == found.replayed - 1 else []


def _replayed(stage: Stage, change: Callable[[Record], Record]) -> Range:
    return Deployment(stage.home, stage.system, TamperedLog(stage.log, change)).replayer().range()


class TamperedLog(Log):
    """A log that gives records otherwise than they were written, as a broken disk or a forger would."""

    def __init__(self, log: Log, change: Callable[[Record], Record]) -> None:
        super().__init__(log.store, log.vault, log.clock)
        self._change = change

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        """See `Log.read`."""
        return (self._change(record) for record in super().read(start, stop))

    def get(self, seq: int) -> Record:
        """See `Log.get`."""
        return self._change(super().get(seq))


def kept_places(decision: Decision) -> list[int]:
    """Returns the places of the candidates whose features were logged."""
    return [place for place, candidate in enumerate(decision.candidates) if candidate.features]


def with_candidate(decision: Decision, place: int, *, candidate: Candidate) -> Decision:
    """Returns a decision of which one candidate is another."""
    candidates = list(decision.candidates)
    candidates[place] = candidate
    return msgspec.structs.replace(decision, candidates=tuple(candidates))


def _is_whole(decision: Decision) -> bool:
    """Returns whether a decision has all that can be tampered with: features, predictions and, in a slate, an order."""
    is_plain = not decision.choice.is_slate
    return bool(kept_places(decision)) and not decision.fallback and (is_plain or len(decision.choice.slots) > 1)


def _bit_flipped(decision: Decision, place: int) -> Decision:
    candidate = decision.candidates[place]
    values = unpack_features(candidate.features).copy()
    values[-1] = np.nextafter(values[-1], np.inf)
    changed = msgspec.structs.replace(candidate, features=pack_features(values))
    return with_candidate(decision, place, candidate=changed)


def _prediction_moved(decision: Decision, place: int, head: str) -> Decision:
    candidate = decision.candidates[place]
    moved = {**candidate.predictions, head: float(np.nextafter(candidate.predictions[head], np.inf))}
    return with_candidate(decision, place, candidate=msgspec.structs.replace(candidate, predictions=moved))


def _acted_otherwise(decision: Decision) -> Decision:
    choice = Choice((Slot(f"not {decision.choice.action}"),), decision.choice.reasons)
    return msgspec.structs.replace(decision, choice=choice)


def _ordered_otherwise(decision: Decision) -> Decision:
    *above, last_but_one, last = decision.choice.slots
    choice = msgspec.structs.replace(decision.choice, slots=(*above, last, last_but_one))
    return msgspec.structs.replace(decision, choice=choice)


def _other_policy(stage: Stage) -> list[str]:
    """Returns what replay shows for the first change of a parameter that it shows at all."""
    for params in _changed_params(stage.system):
        content = msgspec.json.encode(params).decode()

        def changed(record: Record, content: str = content) -> Record:
            if (record.kind, record.system, record.id) != ("table", stage.system.name, "policy"):
                return record
            table = msgspec.structs.replace(decode_table(record.body), content=content)
            return msgspec.structs.replace(record, body=encode(table))

        found = _replayed(stage, changed)
        if found.first is not None:
            return [_named(found)]
    return []


def _changed_params(system: System) -> Iterator[msgspec.Struct]:
    """Yields the default parameters with one number changed, as far as the policy accepts it."""
    defaults = system.policy_params()
    for field in msgspec.structs.fields(system.policy_params):
        value = getattr(defaults, field.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        for changed in (value * 2 + 1, type(value)(0)):
            params = msgspec.structs.replace(defaults, **{field.name: changed})
            try:
                msgspec.convert(msgspec.to_builtins(params), system.policy_params)
                system.policy(params)
            except (DecalogError, ValueError):
                continue
            yield params
