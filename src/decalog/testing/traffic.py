"""Traffic as it comes in life: a world's messages, some late, some twice, some corrected, deleted or decided elsewhere.

It is made from the world's bodies and the schema alone, so every system gets it without a line of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from decalog.clock import DAY, SECOND, rfc3339
from decalog.errors import ConfigError
from decalog.schema import ID_LENGTH, OutcomeKind, Schema
from decalog.testing.stage import Step, Trial, world_of
from decalog.testing.worlds import Message

_MOST_DAYS = 1_000
_HELD = 12
"""How many requests pass before a late one arrives."""
_RECENT = 30
_LATE, _IMPORTED, _TWICE, _CORRECTED, _DELETED = 0.1, 0.06, 0.06, 0.1, 0.05
"""Shares of the live requests."""


def messages(trial: Trial) -> list[Message]:
    """Returns the first messages of the judged system's world, until it has asked for enough decisions.

    Raises:
        ConfigError: in so many days the world asks for too few.
    """
    world = world_of(trial)
    found: list[Message] = []
    requests = 0
    for day in range(1, _MOST_DAYS + 1):
        for message in world.advance(world.start_us + day * DAY, alone=True):
            requests += message.kind == "decide"
            found.append(message)
            if requests >= trial.requests:
                return found
    raise ConfigError(
        where=f"{trial.system.name} world",
        given=f"{requests} requests in {_MOST_DAYS} days at scale {trial.scale}",
        expected=f"at least {trial.requests}",
        fix="Raise the scale, or ask for fewer requests.",
    )


def history(trial: Trial) -> list[Step]:
    """Returns what came with the first half of a world's requests as history: nothing was decided here."""
    first, _ = _halves(messages(trial))
    return [
        Step(m.at, "outcome" if m.kind == "outcome" else "event", {**_timed(m), **m.theirs}, _shown(m.theirs))
        for m in first
    ]


def live(trial: Trial) -> list[Step]:
    """Returns what came with the second half as live traffic with every disorder that a log must take."""
    _, second = _halves(messages(trial))
    return list(_Disorder(trial.system.schema, trial.seed).steps(second))


def reports(trial: Trial, targets: Sequence[Step]) -> list[Step]:
    """Returns outcomes of every kind and source that the schema declares, some corrected, deleted or sent twice.

    Args:
        trial: whose schema.
        targets: requests, each reported on at most twice; where slots hold things, on one of those.
    """
    schema, rng = trial.system.schema, np.random.default_rng(trial.seed)
    # Those that say something about the label first: few requests meet few kinds.
    kinds = sorted(schema.outcomes, key=lambda kind: not (kind.labels or kind.name == schema.label.of))
    made = []
    for number, target in enumerate(targets):
        for again in range(1 + number % 2):
            # Two of one kind that say otherwise, or of two kinds of which one ranks higher.
            kind = kinds[(number // 4 + again * (number % 4 == 1)) % len(kinds)]
            body = _report(schema, kind, f"report-{number}-{again}", target=str(target.body["id"]))
            if target.theirs:
                body["ref"] = target.theirs[number % len(target.theirs)]
            body["value"] = _value(schema, kind, number, again)
            if kind.name == schema.label.of and schema.label.bound:
                body[schema.label.bound] = bool(number % 3)
            at = target.at_us + int(rng.integers(1, 20)) * DAY // 10
            made += [Step(at, "outcome", one) for one in _versions(body, kind, rng, at_us=at)]
    return made


def _value(schema: Schema, kind: OutcomeKind, number: int, again: int) -> float:
    if kind.name == schema.label.of:
        return float(number % 40 + 3 * again)
    return list(kind.labels or {1: 1})[again % max(1, len(kind.labels))]


def twice(steps: Sequence[Step], seed: int) -> list[Step]:
    """Returns steps in an order of their own, a quarter of them twice."""
    rng = np.random.default_rng(seed)
    doubled = [*steps, *(step for step in steps if rng.random() < 1 / 4)]
    return [doubled[place] for place in rng.permutation(len(doubled)).tolist()]


class _Disorder:
    def __init__(self, schema: Schema, seed: int) -> None:
        self._actions = schema.actions
        self._rng = np.random.default_rng(seed)
        self._sent: list[Mapping[str, Any]] = []
        self._held: list[tuple[int, Mapping[str, Any]]] = []

    def steps(self, arriving: Sequence[Message]) -> Iterator[Step]:
        for number, message in enumerate(arriving):
            at = message.at
            if message.kind != "decide":
                yield Step(at, message.kind, message.body)
                continue
            yield from self._overdue(number, at)
            yield from self._request(number, _timed(message), theirs=message.theirs, at=at)
            yield from self._second_thoughts(number, at)
        yield from self._overdue(len(arriving) + _HELD, arriving[-1].at if arriving else 0)

    def _overdue(self, number: int, at: int) -> Iterator[Step]:
        while self._held and self._held[0][0] <= number:
            _, body = self._held.pop(0)
            self._sent.append(body)
            yield Step(at, "event", body)

    def _request(self, number: int, body: Mapping[str, Any], *, theirs: Mapping[str, Any], at: int) -> Iterator[Step]:
        chance = self._rng.random()
        if chance < _LATE:
            self._held.append((number + _HELD, body))
            return
        self._sent.append(body)
        if chance < _LATE + _IMPORTED:
            yield Step(
                at, "event", {**body, "taken": self._actions[number % len(self._actions)], **theirs}, _shown(theirs)
            )
            return
        yield Step(at, "decide", body, _shown(theirs))
        if self._rng.random() < _TWICE:
            yield Step(at, "decide", body)

    def _second_thoughts(self, number: int, at: int) -> Iterator[Step]:
        recent = self._sent[-_RECENT:]
        if not recent:
            return
        chosen, donor = (recent[int(place)] for place in self._rng.integers(0, len(recent), 2))
        chance = self._rng.random()
        if chance < _CORRECTED:
            # What another request said, said of this one: valid by its schema, and other values throughout.
            changed = {**donor, "id": f"correction-{number}", "corrects": chosen["id"]}
            yield Step(at, "event", {**changed, "event_time": chosen["event_time"]})
        elif chance < _CORRECTED + _DELETED:
            yield Step(at, "event", {"id": f"deletion-{number}", "deletes": chosen["id"]})


def _halves(found: Sequence[Message]) -> tuple[Sequence[Message], Sequence[Message]]:
    """Returns the messages in two parts of as many requests: a log may begin with a thousand rows that ask nothing."""
    asked = [place for place, message in enumerate(found) if message.kind == "decide"]
    middle = asked[len(asked) // 2]
    return found[:middle], found[middle:]


def _shown(theirs: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(theirs.get("slots", ()))


def _timed(message: Message) -> Mapping[str, Any]:
    return {"event_time": rfc3339(message.at), **message.body}


def _report(schema: Schema, kind: OutcomeKind, id_: str, *, target: str) -> dict[str, Any]:
    return {
        "id": id_,
        schema.noun: target,
        "kind": kind.name,
        "source": kind.sources[0],
        **{field.name: _SAMPLES[field.kind] for field in kind.fields if field.required},
    }


_SAMPLES: Mapping[str, Any] = {"int": 1, "float": 0.5, "text": "said", "flag": True}


def _versions(
    body: dict[str, Any], kind: OutcomeKind, rng: np.random.Generator, *, at_us: int
) -> Iterator[dict[str, Any]]:
    """Yields a report and what became of it: corrected once or twice, withdrawn, or left as it was."""
    body = {**body, "event_time": rfc3339(at_us)}
    values = [*kind.labels, 0.5]
    yield body
    corrections = int(rng.integers(0, 3))
    for number in range(corrections):
        value = values[int(rng.integers(0, len(values)))]
        id_ = f"{body['id']}-{number}"[-ID_LENGTH:]
        later = rfc3339(at_us + (number + 1) * SECOND)
        body = {**body, "id": id_, "corrects": body["id"], "value": value, "event_time": later}
        yield body
    if rng.random() < 1 / 4:
        yield {"id": f"{body['id']}-gone", "deletes": body["id"]}
