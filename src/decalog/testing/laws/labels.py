"""Law 5: late, doubled, reordered and corrected outcomes end in the same training set; immature ones never train."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from decalog.clock import DAY
from decalog.events import Record
from decalog.examples import Examples, History
from decalog.impressions import ImpressionHistory
from decalog.outcomes import Outcome, decode_outcome
from decalog.schema import Schema
from decalog.testing import traffic
from decalog.testing.laws.law import Verdict, proven
from decalog.testing.stage import Joined, Stage, Step, Trial, history_of

_ORDERS = 3
_PLAIN = "the order of their time"
_MOMENTS = 6


def check(trial: Trial) -> Verdict:
    """Returns whether every order of arrival gives one training set, and whether only what matured is in it."""
    requests = [step for step in (*traffic.history(trial), *traffic.live(trial)) if step.door != "outcome"]
    targets = [step for step in requests if _can_be_reported_on(trial.system.schema, step)]
    reports = traffic.reports(trial, targets[:: max(1, len(targets) // 60)])
    orders = {
        _PLAIN: sorted(reports, key=lambda step: step.at_us),
        **{f"order {seed}": traffic.twice(reports, seed) for seed in range(_ORDERS)},
    }
    life = _Life(trial, requests)
    records = {name: life.records(f"labels {name}", order) for name, order in orders.items()}
    joined = {name: life.history(found) for name, found in records.items()}
    honest, plain = joined[_PLAIN], records[_PLAIN]
    breaches = [
        f"outcomes in {name} end in another training set: {difference}"
        for name, found in joined.items()
        for difference in _differences(honest, found)
    ]
    breaches += _immature(trial.system.schema, plain, honest)
    sabotages = {
        "outcomes were lost": _without_decisive(life, orders[_PLAIN], honest),
        **_too_early(trial.system.schema, plain, life),
    }
    return proven(_labelled_count(honest), breaches, sabotages=sabotages)


def _can_be_reported_on(schema: Schema, step: Step) -> bool:
    """Returns whether a step is a request and, where slots hold things, whether anything was shown for it."""
    is_request = "deletes" not in step.body and step.body.get("kind", schema.request.name) == schema.request.name
    return is_request and bool(step.theirs or not schema.slate_of)


class _Life:
    """The same requests, with outcomes that arrive in one order or another."""

    def __init__(self, trial: Trial, requests: Sequence[Step]) -> None:
        self._trial = trial
        self._requests = requests
        self._end = max(step.at_us for step in requests) + trial.system.schema.label.maturity_us

    def records(self, name: str, reports: Sequence[Step]) -> list[Record]:
        """Returns the log of the requests with half of the reports among them, whatever they are about."""
        stage = Stage(self._trial, name, repeatable=True)
        try:
            stage.play(self._woven(reports))
            stage.clock.set(self._end + 2 * DAY)
            self._again(stage, reports)
            return stage.records()
        finally:
            stage.close()

    def history(self, records: Sequence[Record], maturity: str = "") -> Joined:
        """Returns the join, with labels that mature otherwise than declared where a maturity is given."""
        system = self._trial.system
        schema = system.schema
        if maturity:
            label = msgspec.structs.replace(schema.label, maturity=maturity)
            signals = tuple(msgspec.structs.replace(signal, maturity=maturity) for signal in schema.signals)
            schema = msgspec.structs.replace(schema, label=label, signals=signals)
        return history_of(msgspec.structs.replace(system, schema=schema), list(records))

    def _woven(self, reports: Sequence[Step]) -> Iterator[Step]:
        # Early ones come before what they are about; late ones when everything is over.
        early, late = reports[: len(reports) // 2], reports[len(reports) // 2 :]
        every = max(1, len(self._requests) // max(1, len(early)))
        for number, step in enumerate(self._requests):
            yield step
            if number % every == 0 and number // every < len(early):
                yield msgspec.structs.replace(early[number // every], at_us=step.at_us)
        for step in early[(len(self._requests) - 1) // every + 1 :]:
            yield msgspec.structs.replace(step, at_us=self._end)
        for step in late:
            yield msgspec.structs.replace(step, at_us=self._end + DAY)

    def _again(self, stage: Stage, reports: Sequence[Step]) -> None:
        """Sends again what came too early: before its own time, or a correction before what it corrects."""
        waiting = list(reports)
        while waiting:
            results = [stage.service.ingest.outcome(step.body) for step in waiting]
            left = [step for step, result in zip(waiting, results, strict=True) if result.status == "rejected"]
            if len(left) == len(waiting):
                return
            waiting = left


def _differences(one: Joined, other: Joined) -> Iterator[str]:
    """Yields in which part two training sets differ. When a label became known may: it came at another time."""
    if isinstance(one, History) and isinstance(other, History):
        return _differences_of_requests(one.now, other.now)
    assert isinstance(one, ImpressionHistory) and isinstance(other, ImpressionHistory)  # noqa: S101, PT018 - one schema
    return _differences_of_slates(one, other)


def _differences_of_requests(one: Examples, other: Examples) -> Iterator[str]:
    for part in ("ids", "labels", "bounds", "why", "times", "acted", "amounts", "rows"):
        mine, theirs = (np.asarray(getattr(examples, part)) for examples in (one, other))
        if mine.shape != theirs.shape:
            yield f"{part} differ in number, {len(mine)} and {len(theirs)}"
            continue
        differs = (mine != theirs) & ((mine == mine) | (theirs == theirs))  # noqa: PLR0124 - an unknown label is NaN
        if differs.any():
            yield f"{part} differ, first at {one.ids[int(np.argwhere(differs)[0][0])]}"


def _differences_of_slates(one: ImpressionHistory, other: ImpressionHistory) -> Iterator[str]:
    """Yields the differences of what was shown in both: what comes early may change what a slate shows, and features.

    What people did is compared as a set: its order is that of arrival.
    """
    mine, theirs = _labels_by_thing(one), _labels_by_thing(other)
    differing = [key for key in mine if key in theirs and mine[key] != theirs[key]]
    if differing:
        yield f"labels differ, first at {' '.join(differing[0])}"
    lost = sorted(_imported(one) ^ _imported(other))
    if lost:
        yield f"slates of another system differ, first at {' '.join(lost[0])}"
    acts = sorted(_acts(one) ^ _acts(other))
    if acts:
        yield f"{len(acts)} acts stand in one of them only, first {acts[0][2]} of {acts[0][1]}"


def _labels_by_thing(joined: ImpressionHistory) -> dict[tuple[str, str], str]:
    rows = joined.labels(joined.known_time).tolist()
    return {(one.record.id, one.slot.ref): repr(row) for one, row in zip(joined.shown, rows, strict=True)}


def _imported(joined: ImpressionHistory) -> set[tuple[str, str]]:
    return {(one.record.id, one.slot.ref) for one in joined.shown if one.decision.mode == "imported"}


def _acts(joined: ImpressionHistory) -> set[tuple[int, str, str, float, int]]:
    acts = joined.part(np.ones(len(joined.shown), np.bool_), known_by=joined.known_time).acts
    return set(zip(acts.users.tolist(), acts.refs, acts.kinds, acts.values.tolist(), acts.times.tolist(), strict=True))


def _labelled_count(joined: Joined) -> int:
    if isinstance(joined, History):
        return int(joined.now.labelled.sum())
    return int(np.isfinite(joined.labels(joined.known_time)).sum())


def _without_decisive(life: _Life, reports: Sequence[Step], honest: Joined) -> list[str]:
    """Returns what is different without the reports that decided a label."""
    if isinstance(honest, History):
        settled = zip(honest.now.ids, honest.now.why, strict=True)
        decisive = {id_ for id_, why in settled if why not in _SILENT}
    else:
        decisive = {signal.kind for signal in honest.schema.signals}
    lost = [step for step in reports if not decisive.intersection(map(str, step.body.values()))]
    return list(_differences(honest, life.history(life.records("labels lost", lost))))


_SILENT = ("silence", "immature", "unobserved")


def _too_early(schema: Schema, records: Sequence[Record], life: _Life) -> dict[str, list[str]]:
    """Returns the sabotage of labels that are there before they may be: silence says nothing of a quantity."""
    if schema.label.of:
        early = _immature(schema, records, life.history(records), schema.label.maturity_us + 2 * DAY)
        return {"labels are known before they are told": early}
    return {"labels mature at once": _immature(schema, records, life.history(records, maturity="1s"))}


def _immature(schema: Schema, records: Sequence[Record], joined: Joined, ahead_us: int = 0) -> list[str]:
    """Returns the labels that nobody had said and no silence had given at the time; looked up without the join.

    Args:
        schema: of the system.
        records: of the log.
        joined: what the join says of them.
        ahead_us: how much later than the moment the join is asked for, as a sabotage.
    """
    admitted = [record for record in records if record.system == schema.system and not record.reason]
    known = [record.known_time for record in admitted]
    moments = np.linspace(min(known), max(known), _MOMENTS).astype(np.int64).tolist()
    return [
        f"{what} has a label at {moment}, which nobody had said and silence could not give"
        for moment in moments
        for what in _unsaid(schema, joined, said=list(_standing(admitted, moment)), moment=moment + ahead_us)
    ]


Said = Sequence[tuple[str, Outcome]]
"""First id of a request, and a report that stands."""


def _unsaid(schema: Schema, joined: Joined, *, said: Said, moment: int) -> Iterator[str]:
    """Yields what has a label at a moment without a report or the silence that gives it."""
    if isinstance(joined, History):
        return _unsaid_of_requests(schema, joined.as_of(moment), said=said, moment=moment)
    return _unsaid_of_slates(schema, joined, said=said, moment=moment)


def _unsaid_of_requests(schema: Schema, examples: Examples, *, said: Said, moment: int) -> Iterator[str]:
    spoken = {target for target, outcome in said if _is_word(schema, outcome)}
    rows = zip(examples.ids, examples.times.tolist(), examples.acted, examples.labelled.tolist(), strict=True)
    for id_, decided, acted, has_label in rows:
        is_old = moment >= decided + schema.label.maturity_us and acted in ("", *schema.label.observed_after)
        is_silent = is_old and not schema.label.of
        if has_label and id_ not in spoken and not is_silent:
            yield id_


def _is_word(schema: Schema, outcome: Outcome) -> bool:
    """Whether an outcome gives a label by itself."""
    if schema.label.of:
        return outcome.kind == schema.label.of
    return outcome.value in schema.outcome(outcome.kind).labels


def _unsaid_of_slates(schema: Schema, joined: ImpressionHistory, *, said: Said, moment: int) -> Iterator[str]:
    spoken = {(target, outcome.ref, outcome.kind) for target, outcome in said}
    known = np.isfinite(joined.labels(moment))
    for column, signal in enumerate(schema.signals):
        for one in (joined.shown[place] for place in np.flatnonzero(known[:, column]).tolist()):
            is_silent = moment >= one.decided + signal.maturity_us
            if not is_silent and (one.record.id, one.slot.ref, signal.kind) not in spoken:
                yield f"{signal.head} of {one.slot.ref} in {one.record.id}"


def _standing(admitted: Sequence[Record], moment: int) -> Iterator[tuple[str, Outcome]]:
    """Yields the reports that stand at a moment, each with the first id of its request."""
    requests = [record for record in admitted if record.kind in ("event", "decision")]
    firsts = {record.root: record.id for record in reversed(requests)}
    ids = {record.id: firsts[record.root] for record in requests}
    standing = {
        record.root: decode_outcome(record.body)
        for record in admitted
        if record.kind == "outcome" and record.known_time <= moment
    }
    return ((ids.get(o.target, o.target), o) for o in standing.values() if not o.deleted)
