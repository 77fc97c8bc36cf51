"""Recorded traffic: what a log holds, in the form in which its senders sent it, to be sent again to a copy.

Personal values are unsealed in memory alone; nothing of what is given here may be written to a file.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from decalog.clock import DAY, SECOND, rfc3339
from decalog.crypto import unseal
from decalog.decisions import Decision, decode_decision
from decalog.errors import DataError
from decalog.events import Event, Record, decode_event
from decalog.ingest import Rates
from decalog.log import Log
from decalog.outcomes import Outcome, decode_outcome
from decalog.schema import ID_LENGTH, Schema
from decalog.system import System
from decalog.testing.worlds import Message, World

_CHUNK = 2_000
_WHOLE_DAYS = 1.0


class Recording:
    """The rows of one system in a log.

    Args:
        log: a reader's.
        system: whose rows.
    """

    def __init__(self, log: Log, system: System) -> None:
        self._log, self._system = log, system
        self._schema: Schema = system.schema

    def messages(self, first: int = 0, last: int | None = None) -> Iterator[Message]:
        """Yields what came, as it was sent; what was corrected, deleted or erased is left out."""
        for record in self._log.read(first, last):
            if record.system == self._system.name and record.root == record.seq and not record.reason:
                made = self._message(record)
                if made is not None:
                    yield made

    def oldest(self, requests: int) -> list[Message]:
        """Returns the log's first rows, up to so many requests.

        Raises:
            DataError: it holds too few to say anything.
        """
        found, asked = list[Message](), 0
        for message in self.messages():
            found.append(message)
            asked += message.kind == "decide"
            if asked >= requests:
                break
        return self._enough(found, asked)

    def latest(self, requests: int) -> list[Message]:
        """Returns the log's last rows, from which on it holds about so many requests; all of them where it holds fewer.

        Raises:
            DataError: it holds too few to say anything.
        """
        found, asked, stop = list[list[Message]](), 0, self._log.position
        while stop > 0 and asked < requests:
            start = max(0, stop - _CHUNK)
            part = list(self.messages(start, stop))
            asked += sum(message.kind == "decide" for message in part)
            found.append(part)
            stop = start
        return self._enough([message for part in reversed(found) for message in part], asked)

    def requests(self, count: int) -> list[Message]:
        """Returns the requests among `latest`, with what that raises."""
        return [message for message in self.latest(count) if message.kind == "decide"]

    def since(self, us: int) -> tuple[int, list[Message]]:
        """Returns the position at which the last `us` of the log begin, and the rows from there on.

        Raises:
            DataError: they are too few to say anything.
        """
        wanted = self._log.known_time - us
        first = bisect.bisect_right(range(self._log.position), wanted, key=lambda s: self._log.get(s).known_time)
        found = list(self.messages(first))
        return first, self._enough(found, sum(message.kind == "decide" for message in found))

    def _enough(self, found: list[Message], asked: int) -> list[Message]:
        if asked >= _FEWEST:
            return found
        noun = self._schema.noun
        raise DataError(
            where=f"recorded traffic of {self._system.name}",
            given=f"{asked} {noun}s",
            expected=f"at least {_FEWEST} to send again",
            fix=f"Let it decide some {noun}s first, or import history: `decalog train --data`, `decalog events`.",
        )

    def _message(self, record: Record) -> Message | None:
        if record.kind == "outcome":
            return Message(record.known_time, "outcome", self._outcome(decode_outcome(record.body)))
        if record.kind not in ("event", "decision"):
            return None
        decision = decode_decision(record.body) if record.kind == "decision" else None
        event = decision.request if decision is not None else decode_event(record.body)
        body = self._body(event)
        if body is None:
            return None
        is_request = event.kind == self._schema.request.name
        body |= {"event_time": rfc3339(event.event_time)} | ({} if is_request else {"kind": event.kind})
        if is_request:
            return Message(record.known_time, "decide", body, _theirs(decision))
        return Message(record.known_time, "event", body)

    def _body(self, event: Event) -> dict[str, Any] | None:
        cipher = self._log.vault.cipher(event.subject) if event.sealed else None
        if event.sealed and cipher is None:
            return None  # erased
        private: Mapping[str, Any] = unseal(cipher, event.sealed, bound_to=event.id) if cipher is not None else {}
        derived = set(self._schema.kind(event.kind).amounts.values())
        public = {name: value for name, value in event.attributes.items() if name not in derived}
        return {"id": event.id, **public, **private}

    def _outcome(self, outcome: Outcome) -> dict[str, Any]:
        body = {
            "id": outcome.id,
            self._schema.noun: outcome.target,
            "kind": outcome.kind,
            "source": outcome.source,
            "value": outcome.value,
            "event_time": rfc3339(outcome.event_time),
            **outcome.attributes,
        }
        optional = {"amount_minor": outcome.amount_minor, "currency": outcome.currency, "ref": outcome.ref}
        per = {"per": outcome.per} if outcome.per != 1 else {}
        return body | per | {name: value for name, value in optional.items() if value}


_FEWEST = 20


def _theirs(decision: Decision | None) -> dict[str, Any]:
    """Returns what another system did with a request, as it was told; nothing of what was decided here."""
    if decision is None or decision.mode != "imported":
        return {}
    slots = decision.choice.slots if decision.choice.verb else ()
    if slots and slots[0].value is not None:
        return {"taken": decision.taken, "quantity": slots[0].value}
    return {"taken": decision.taken} | ({"slots": [slot.ref for slot in slots]} if slots else {})


class Replayed:
    """Recorded traffic as a world of `decalog.testing`: the laws of conformance are tried on what really came.

    Args:
        messages: in order of time.
        rates: of the deployment.
    """

    params_hash = ""

    def __init__(self, messages: Sequence[Message], rates: Rates) -> None:
        self._messages, self._at = tuple(messages), 0
        self.start_us = messages[0].at
        self.base = rates.base
        self.rates: Mapping[str, str] = rates.rates

    def again(self, _seed: int, *, scale: float = 1.0) -> World:  # noqa: ARG002 - what came is what it is
        """Returns it at its start."""
        return Replayed(self._messages, Rates(self.base, dict(self.rates)))

    def advance(self, until_us: int, *, alone: bool = False) -> list[Message]:  # noqa: ARG002 - nobody reacts here
        """See `World.advance`."""
        start = self._at
        while self._at < len(self._messages) and self._messages[self._at].at <= until_us:
            self._at += 1
        return list(self._messages[start : self._at])

    def react(self, request_id: str, action: str, *, at_us: int, refs: tuple[str, ...] = ()) -> None:
        """See `World.react`: what came of it is recorded."""

    def truth(self, request_id: str) -> Mapping[str, float | str]:  # noqa: ARG002 - nobody knows
        """See `World.truth`."""
        return {}

    def switch(self, name: str, on: bool) -> None:  # noqa: FBT001 - a switch
        """See `World.switch`: there is none."""

    def score(self) -> str:
        """See `World.score`."""
        return ""


def renamed(messages: Sequence[Message], schema: Schema, *, run: str) -> Iterator[Message]:
    """Yields the messages under ids of their own, outcomes about the requests among them; without times and theirs."""

    def name(id_: str) -> str:
        return f"{run}{id_}"[-ID_LENGTH:] if len(run) + len(id_) > ID_LENGTH else f"{run}{id_}"

    for message in messages:
        body = {key: value for key, value in message.body.items() if key != "event_time"}
        body["id"] = name(str(body["id"]))
        if message.kind == "outcome" and body.get(schema.noun):
            body[schema.noun] = name(str(body[schema.noun]))
        yield Message(message.at, message.kind, body)


def strangers(body: Mapping[str, Any], schema: Schema, *, run: str) -> dict[str, Any]:
    """Returns a request of somebody who never asked before: each entity that is not public under a new name."""
    private = {entity.name for entity in schema.request.entities if entity.privacy != "public"}
    return {key: f"{run}{key}" if key in private else value for key, value in body.items() if key != "event_time"}


def pace(messages: Sequence[Message]) -> float:
    """Returns how many requests came a second, on average over the last day of them."""
    times = [message.at for message in messages if message.kind == "decide"]
    times = [at for at in times if at > times[-1] - _WHOLE_DAYS * DAY]
    return len(times) / max((times[-1] - times[0]) / SECOND, 1.0)


def faster(messages: Sequence[Message], *, times: float, peak: float) -> float:
    """Returns how many times as fast recorded rows are sent again.

    So many times; or where the record is thinner, until its busiest second holds as many requests as `peak`.
    """
    at_s = [message.at / SECOND for message in messages if message.kind == "decide"]
    held = min(len(at_s), max(2, math.ceil(peak)))
    return max(times, min(last - first for first, last in zip(at_s, at_s[held - 1 :], strict=False)))


def busiest(messages: Sequence[Message], seconds: float) -> Sequence[Message]:
    """Returns the stretch of so many seconds that holds the most requests, from one of these on."""
    times = [message.at for message in messages]
    asked = [at for at, message in zip(times, messages, strict=True) if message.kind == "decide"]
    ends = [at + round(seconds * SECOND) for at in asked]
    held = [bisect.bisect_left(asked, end) - place for place, end in enumerate(ends)]
    best = held.index(max(held))
    return messages[bisect.bisect_left(times, asked[best]) : bisect.bisect_left(times, ends[best])]
