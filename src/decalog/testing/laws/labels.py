"""Law 5: late, doubled, reordered and corrected outcomes end in the same training set; immature ones never train."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from decalog.clock import DAY
from decalog.events import Record
from decalog.examples import Examples, History
from decalog.outcomes import decode_outcome
from decalog.schema import Schema
from decalog.testing import traffic
from decalog.testing.laws.law import Verdict, proven
from decalog.testing.stage import Stage, Step, Trial

_ORDERS = 3
_PLAIN = "the order of their time"
_MOMENTS = 6


def check(trial: Trial) -> Verdict:
    """Returns whether every order of arrival gives one training set, and whether only what matured is in it."""
    requests = [step for step in (*traffic.history(trial), *traffic.live(trial)) if step.door != "outcome"]
    targets = [(str(step.body["id"]), step.at_us) for step in requests if "deletes" not in step.body]
    reports = traffic.reports(trial, targets[:: max(1, len(targets) // 60)])
    orders = {
        _PLAIN: sorted(reports, key=lambda step: step.at_us),
        **{f"order {seed}": traffic.twice(reports, seed) for seed in range(_ORDERS)},
    }
    life = _Life(trial, requests)
    records = {name: life.records(f"labels {name}", order) for name, order in orders.items()}
    sets = {name: life.history(found).now for name, found in records.items()}
    plain = records[_PLAIN]
    breaches = [
        f"outcomes in {name} end in another training set: {difference}"
        for name, found in sets.items()
        for difference in _differences(sets[_PLAIN], found)
    ]
    breaches += _immature(trial.system.schema, plain, life.history(plain))
    sabotages = {
        "outcomes were lost": _without_decisive(life, orders[_PLAIN], sets[_PLAIN]),
        "labels mature at once": _immature(trial.system.schema, plain, life.history(plain, maturity="1s")),
    }
    return proven(int(sets[_PLAIN].labelled.sum()), breaches, sabotages=sabotages)


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

    def history(self, records: Sequence[Record], maturity: str = "") -> History:
        """Returns the join, with labels that mature otherwise than declared where a maturity is given."""
        system = self._trial.system
        label = system.schema.label
        if maturity:
            label = msgspec.structs.replace(label, maturity=maturity)
        schema = msgspec.structs.replace(system.schema, label=label)
        return History(records, schema, features=system.features)

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


def _differences(one: Examples, other: Examples) -> Iterator[str]:
    """Yields in which part two training sets differ. When a label became known may: it came at another time."""
    for part in ("ids", "labels", "why", "times", "acted", "amounts", "rows"):
        mine, theirs = (np.asarray(getattr(examples, part)) for examples in (one, other))
        if mine.shape != theirs.shape:
            yield f"{part} differ in number, {len(mine)} and {len(theirs)}"
        elif not np.array_equal(mine, theirs):
            yield f"{part} differ, first at {one.ids[int(np.argwhere(mine != theirs)[0][0])]}"


def _without_decisive(life: _Life, reports: Sequence[Step], honest: Examples) -> list[str]:
    """Returns what is different without the reports that decided a label."""
    decisive = {id_ for id_, why in zip(honest.ids, honest.why, strict=True) if why not in _SILENT}
    lost = [step for step in reports if not decisive.intersection(map(str, step.body.values()))]
    return list(_differences(honest, life.history(life.records("labels lost", lost)).now))


_SILENT = ("silence", "immature", "unobserved")


def _immature(schema: Schema, records: Sequence[Record], joined: History) -> list[str]:
    """Returns the labels that nobody had said and no silence had given at the time; looked up without the join."""
    admitted = [record for record in records if record.system == schema.system and not record.reason]
    known = [record.known_time for record in admitted]
    moments = np.linspace(min(known), max(known), _MOMENTS).astype(np.int64).tolist()
    return [
        f"{id_} has a label at {moment}, which nobody had said and silence could not give"
        for moment in moments
        for said in [_said(schema, admitted, moment)]
        for id_, decided, acted in _labelled(joined.as_of(moment))
        if id_ not in said and not _is_silent(schema, decided, acted, moment)
    ]


def _is_silent(schema: Schema, decided: int, acted: str, moment: int) -> bool:
    return moment >= decided + schema.label.maturity_us and acted in ("", *schema.label.observed_after)


def _said(schema: Schema, admitted: Sequence[Record], moment: int) -> set[str]:
    """Returns the requests about which a standing report said something by a moment."""
    requests = [record for record in admitted if record.kind in ("event", "decision")]
    firsts = {record.root: record.id for record in reversed(requests)}
    ids = {record.id: firsts[record.root] for record in requests}
    standing = {
        record.root: decode_outcome(record.body)
        for record in admitted
        if record.kind == "outcome" and record.known_time <= moment
    }
    spoken = (o.target for o in standing.values() if not o.deleted and o.value in schema.outcome(o.kind).labels)
    return {ids.get(target, target) for target in spoken}


def _labelled(examples: Examples) -> Iterator[tuple[str, int, str]]:
    rows = zip(examples.ids, examples.times.tolist(), examples.acted, examples.labelled.tolist(), strict=True)
    return ((id_, decided, acted) for id_, decided, acted, has_label in rows if has_label)
