"""Live traffic: a world's messages sent to a running server as clients would send them, paced by the server's clock."""

from __future__ import annotations

import contextlib
import http.client
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from decalog.clock import MINUTE, SECOND, rfc3339, time_us
from decalog.decisions import decode_decision
from decalog.errors import LogUnavailableError, UnknownRecordError
from decalog.events import Record
from decalog.simulation import message_path
from decalog.testing.worlds import Message, World

_TIMEOUT_S = 30
_OK = 200
_REFUSED = 422
_PAUSE_S = 0.02
BEHIND_US = MINUTE
"""How far a world is kept behind the server's clock: a request must never come from the server's future."""
_AHEAD_US = 10 * MINUTE
"""How far a server's clock may run while a batch is sent; far less than features forgive a late request."""


def remind(world: World, records: Iterable[Record], *, system: str) -> None:
    """Tells a world that starts anew what a log's decisions were, so that it goes on where an earlier run ended.

    Args:
        world: at its start.
        records: of the log, in order.
        system: whose decisions the world makes.
    """
    now_us = world.start_us
    for record in records:
        if record.kind != "decision" or record.system != system:
            continue
        decision = decode_decision(record.body)
        if decision.request.event_time > now_us:
            now_us = decision.request.event_time
            world.advance(now_us)
        # A request that somebody else sent, by hand, is none of the world's.
        happened = decision.theirs or decision.choice
        with contextlib.suppress(UnknownRecordError):
            at_us, refs = decision.request.event_time, happened.contents
            world.react(decision.request.id, happened.action, at_us=at_us, refs=refs)


class Driver:
    """Sends a world's messages to a server and tells the world what was decided.

    Worlds also send outcomes that have to be refused, as clients do: those are counted. A request is never refused.

    Args:
        world: already advanced, to `BEHIND_US` before the server's present at most.
        address: of the server, `http://127.0.0.1:8000`.
        system: name of the system.
        shaped: makes what is sent of the world's messages, which may then be refused as well.
        hold: tells the server's clock how far it may run, µs, so that on a busy machine it waits for what is sent.
    """

    def __init__(
        self,
        world: World,
        address: str,
        system: str,
        *,
        shaped: Callable[[Iterable[Message]], Iterable[Message]] | None = None,
        hold: Callable[[int], None] | None = None,
    ) -> None:
        self._world = world
        self._system = system
        self._shaped = shaped
        self._hold = hold
        self.connect(address)
        self._actions: Counter[str] = Counter()
        self._sent: Counter[str] = Counter()
        self._slow_ms: list[float] = []
        self._now_us = 0
        self._speed: float | None = None
        self._waiting: deque[Message] = deque()

    @property
    def now_us(self) -> int:
        """The server's time when it last said so, µs."""
        return self._now_us

    @property
    def speed(self) -> float | None:
        """Seconds of the server's time a second, of the last run; None before the first."""
        return self._speed

    def connect(self, address: str) -> None:
        """Sends what follows to a server at another address."""
        parts = urlsplit(address)
        self._connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=_TIMEOUT_S)

    def run(self, seconds: float) -> None:
        """Sends what the server's clock has reached, for about so many seconds of real time."""
        started = time.monotonic()
        end, from_us = started + seconds, self._now_us
        self._slow_ms.clear()
        while time.monotonic() < end:
            self._now_us = time_us(self._call("GET", "/readyz")[1]["now"])
            from_us = from_us or self._now_us
            if self._hold is not None and not self._waiting:
                self._hold(self._now_us + _AHEAD_US)
            came = self._world.advance(max(self._world.start_us, self._now_us - BEHIND_US))
            self._waiting.extend(came if self._shaped is None else self._shaped(came))
            while self._waiting and time.monotonic() < end:
                self._send(self._waiting.popleft())
            time.sleep(_PAUSE_S)
        self._speed = (self._now_us - from_us) / SECOND / (time.monotonic() - started)

    def close(self) -> None:
        """Releases the connection."""
        self._connection.close()

    def line(self) -> str:
        """Returns what happened so far in one line."""
        decided = sum(self._actions.values())
        share = "  ".join(f"{name} {count / max(1, decided):.1%}" for name, count in sorted(self._actions.items()))
        slow = sorted(self._slow_ms)
        p99 = slow[int(0.99 * (len(slow) - 1))] if slow else 0.0
        refused = f"{self._sent['refused']:,} refused  " if self._sent["refused"] else ""
        return (
            f"{rfc3339(self._now_us - self._now_us % SECOND)}  {decided:,} decisions  {share}  "
            f"{self._sent['outcome']:,} outcomes  {refused}{self._world.score()}  p99 {p99:.1f} ms"
        )

    def _send(self, message: Message) -> None:
        started, is_request = time.perf_counter(), message.kind == "decide"
        path = message_path(self._system, message.kind)
        may_be = (_OK,) if is_request and self._shaped is None else (_OK, _REFUSED)
        status, answer = self._call("POST", path, message.body, may_be=may_be)
        self._slow_ms.append((time.perf_counter() - started) * 1e3)
        self._sent["refused" if status == _REFUSED else message.kind] += 1
        if is_request and status == _OK:
            self._decided(message, answer)

    def _decided(self, message: Message, answer: Mapping[str, Any]) -> None:
        self._actions[answer["action"]] += 1
        refs = tuple(str(slot.get("value", slot["ref"])) for slot in answer.get("slots", []))
        # What was sent besides the world's own requests is none of the world's.
        with contextlib.suppress(*([UnknownRecordError] if self._shaped is not None else [])):
            self._world.react(message.body["id"], answer["action"], at_us=message.at, refs=refs)

    def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, may_be: Collection[int] = (_OK,)
    ) -> tuple[int, Any]:
        """Returns the status, one of those that it may be, and the answer."""
        raw = None if body is None else msgspec.json.encode(body)
        try:
            self._connection.request(method, path, raw, {"content-type": "application/json"})
            answer = self._connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise LogUnavailableError(
                where=path, given=f"no answer ({error})", expected="a running server", fix="See its last lines."
            ) from None
        if answer.status not in may_be:
            raise LogUnavailableError(
                where=path,
                given=f"status {answer.status}: {text[:300].decode(errors='replace')}",
                expected="200",
                fix="The world sends what its schema allows: see the answer.",
            )
        return answer.status, msgspec.json.decode(text)
