"""Many systems on one log in one process: replies wait here until the log is durable past their record."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from decalog.clock import rfc3339
from decalog.committing import Committer, answer
from decalog.decisions import Decision, decode_decision
from decalog.errors import LogUnavailableError, RequestError, UnknownRecordError, near
from decalog.events import Record
from decalog.freshness import Freshness
from decalog.ingest import Ingest, RowResult
from decalog.judging import Underway
from decalog.log import Log
from decalog.meter import Decided, Meter
from decalog.models.formats import is_blocking
from decalog.outcomes import Outcome, decode_outcome
from decalog.schema import Schema
from decalog.searching import Wait
from decalog.serving import Service, described, named_features, nothing, reply

_ROWS_AT_ONCE = 100
"""Rows of a batch between two looks at the event loop: a batch must not stop the decisions beside it."""

_MOST_THINKING = 256
"""Predictions that slow models may owe at once; beyond it there is no use in asking, and no bound on memory."""

_REFRESH_S = 1.0

_GARBAGE = (20_000, 20, 50)
"""Thresholds of the garbage collector while a host runs."""

said = logging.getLogger("decalog.host")

_NO_TURN = nullcontext()
_T = TypeVar("_T")
Replay = Callable[[str, str, str], Awaitable[dict[str, Any]]]
EXPLAINED = "explained"
"""Folder, among what may be lost, of the decisions that were explained at once: by system, a file each."""
Beside = Callable[[], Awaitable[None] | None]


class Reply(msgspec.Struct, frozen=True):
    """A decision as a caller is told of it; `repeated` if it had been logged before."""

    body: dict[str, Any]
    repeated: bool


class HostState(msgspec.Struct, frozen=True):
    """How the host is.

    Args:
        ready: to decide.
        failed: why not for good, or "".
        now: by the host's clock, RFC 3339: simulated worlds run on an accelerated one.
        position, durable: how far the log goes, and how far it is durable.
        systems: name → what it decides with, and which of its features are stale.
    """

    ready: bool
    failed: str
    now: str
    position: int
    durable: int
    systems: dict[str, dict[str, str]]


class Host:
    """Services over one log.

    Args:
        log: stamped by this process's event loop only.
        services: system name → service.
        replay: (system, decision id, `replay` or `explain`) → the report; runs outside this process.
        meter: counters.
        beside: each is called about every second, in a task of its own: one that takes its time holds up no other.
        state: folder for what may be lost at the cost of work done again; None keeps nothing.
    """

    paths: Mapping[str, str] = {}
    """System → what it is found by: its name, or the dotted path of a user's own."""

    def __init__(
        self,
        log: Log,
        services: Mapping[str, Service],
        *,
        replay: Replay,
        meter: Meter,
        beside: Sequence[Beside] = (),
        state: Path | None = None,
    ) -> None:
        self.log = log
        self.services = dict(services)
        self.meter = meter
        self.folder = state
        self._replay = replay
        self._beside = tuple(beside)
        self._tasks: list[asyncio.Task[None]] = []
        self._committer: Committer | None = None
        self._stopping = False
        self._garbage = gc.get_threshold()
        # Threads of their own: a model that hangs must not take the one that stopping needs.
        self._thinkers = ThreadPoolExecutor(thread_name_prefix="decalog-model")
        self._thinking = 0
        self._fresh: dict[str, Freshness] = {}
        self._turns = {name: asyncio.Lock() for name, one in self.services.items() if one.retrieval is not None}
        for name, service in self.services.items():
            self.meter.watch_champion(name, is_troubled=partial(_is_troubled, service))
        self._watch()

    @property
    def systems(self) -> tuple[str, ...]:
        """Names of the systems."""
        return tuple(self.services)

    async def start(self) -> None:
        """Starts committing. Long-lived objects are frozen out of garbage collection: a full pass stalls replies."""
        self._committer = Committer(self.log, self.meter.committed)
        self._committer.notify()
        gc.collect()
        gc.freeze()
        # What a decision leaves behind is hardly ever a cycle: to look after each 700 objects cost it 12 µs.
        gc.set_threshold(*_GARBAGE)
        self._tasks = [asyncio.create_task(self._repeat(call)) for call in (*self._beside, self._watch)]

    async def stop(self) -> None:
        """Refuses what is new, commits what was stamped, and ends."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        if self._committer is not None:
            await self._committer.stop()
        self._thinkers.shutdown(wait=False)
        gc.unfreeze()
        gc.set_threshold(*self._garbage)

    async def decide(self, system: str, raw: bytes, *, form: bytes = b"") -> Reply:
        """Returns a decision once it is durable.

        Args:
            system: its name.
            raw: the request as JSON.
            form: the request as it came, where that was in another protocol; a retry repeats it.

        Raises:
            RequestError: the request is wrong.
            LogUnavailableError: the log takes nothing now.
        """
        service = self._service(system)
        self._check_open()
        async with self._turns.get(system, _NO_TURN):
            record, decision, repeated = await self._decided(service, raw, form)
        await self._until_durable(record.seq)
        return Reply(_told(service, record, decision), repeated)

    async def add_events(self, system: str, raw: bytes) -> list[RowResult]:
        """Returns what became of each event of a batch: one JSON object, an array, or one object a line."""
        service = self._service(system)
        return await self._add(service.ingest, "event", rows_of(raw))

    async def add_outcomes(self, system: str, raw: bytes) -> list[RowResult]:
        """Returns what became of each outcome of a batch; formats as for events."""
        service = self._service(system)
        return await self._add(service.ingest, "outcome", rows_of(raw))

    async def decision(self, system: str, id_: str) -> dict[str, Any]:
        """Returns a decision by its id or its request's; tokens and personal values stay inside."""
        service = self._service(system)
        record, decision = await self.logged(system, id_)
        told = _told(service, record, decision)
        told["features"] = named_features(self.log, decision, now=service.system.features)
        told["attributes"] = decision.request.attributes
        told["event_time"] = rfc3339(decision.request.event_time)
        told["state_seq"] = decision.state_seq
        told["taken"] = decision.taken
        told["arm"] = decision.arm
        return told

    async def logged(self, system: str, id_: str) -> tuple[Record, Decision]:
        """Returns a decision's record and body by its id or its request's.

        Raises:
            UnknownRecordError: there is none.
        """
        record, decision = self._find(self._service(system), id_)
        # What is told is told for good, to whoever asks: a crash must not take it back.
        await self._until_durable(record.seq)
        return record, decision

    def outcomes(self, system: str, target: str) -> list[tuple[Record, Outcome]]:
        """Returns what was reported about a request and is durable, each report as it stands after corrections."""
        log = self.log
        seqs = [seq for seq in log.find("target", f"{system}/{target}") if seq < log.durable]
        last = {root: log.before(root, log.durable) for root in (log.get(seq).root for seq in seqs)}
        told = [(record, decode_outcome(record.body)) for record in last.values()]
        return [(record, outcome) for record, outcome in told if outcome.target == target and not outcome.deleted]

    async def replay(self, system: str, id_: str, *, verb: str = "replay") -> dict[str, Any]:
        """Returns replay's report on a decision, or, to `explain`, why it came out so; computed in another process.

        What was explained at once is told as it was kept.
        """
        _, decision = await self.logged(system, id_)
        kept = explained(self.folder, system, decision_id=decision.id) if verb == "explain" else {}
        return kept or await self._replay(system, decision.id, verb)

    async def operate(self, system: str, act: Callable[[Service], _T]) -> _T:
        """Returns what an operator's act on a system's service gave, once everything it may rest on is durable.

        Raises:
            LogUnavailableError: the log takes nothing now.
        """
        service = self._service(system)
        self._check_open()
        done = act(service)
        await self._until_durable(self.log.position - 1)
        return done

    def state(self) -> HostState:
        """Returns how the host is."""
        return HostState(
            ready=self._committer is not None and self.log.failed is None and not self._stopping,
            failed="" if self.log.failed is None else str(self.log.failed),
            now=rfc3339(self.log.clock.now_us()),
            position=self.log.position,
            durable=self.log.durable,
            systems={
                name: {**described(service), "stale": ", ".join(self._fresh[name].stale())}
                for name, service in self.services.items()
            },
        )

    def _watch(self) -> None:
        """Watches how old the rows behind features are: those of now, after a change of feature sets others."""
        for name, service in self.services.items():
            newest, before = service.state.newest, self._fresh.get(name)
            if before is not None and before.newest is newest:
                continue
            fresh = self._fresh[name] = Freshness(service.system.features, newest, now=self._now)
            self.meter.unwatch(name, () if before is None else before.watched)
            for feature in fresh.watched:
                age_s, is_stale = partial(fresh.age_s, feature), partial(fresh.is_stale, feature)
                self.meter.watch(name, feature, age_s=age_s, is_stale=is_stale)

    def _now(self) -> int:
        return max(self.log.known_time, self.log.clock.now_us())

    async def _repeat(self, call: Beside) -> None:
        while True:
            await asyncio.sleep(_REFRESH_S)
            try:
                await (call() or asyncio.sleep(0))
            except Exception as error:  # noqa: BLE001  # the edge of an engine: it is counted, and tried again
                # A registry that is locked or full for a moment must not keep the old champion for good.
                self.meter.not_refreshed()
                said.error("beside: error=%s", type(error).__name__)
            if self._committer is not None and self.log.position > self.log.durable:
                self._committer.notify()  # what a call stamped

    async def _decided(self, service: Service, raw: bytes, form: bytes) -> tuple[Record, Decision, bool]:
        """Returns a stamped decision, and whether it repeats a logged one.

        A slate keeps the loop for 10 ms and more. So slates are made one at a time, and between two stages replies
        whose decisions became durable go out, and what was stamped is written: in a burst nobody waits for the last.
        """
        takes_long = service.retrieval is not None
        begun = service.begin(raw, form, sees=not takes_long)
        if not isinstance(begun, Underway):
            return (*begun, True)
        if takes_long:
            await _others()
            for wait in service.see(begun):
                await (_others() if wait is None else _until(wait))
            await _others()
            logged = service.logged(begun.event.id, begun.mark)  # it may have come as a plain event meanwhile
            if logged is not None:
                return (*logged, True)
        record, decision = await self._finish(service, begun)
        self._check_open().notify()
        return record, decision, decision.request is not begun.event

    async def _finish(self, service: Service, draft: Underway) -> tuple[Record, Decision]:
        model = (draft.judge or service.judge).serving.model
        if model is not None and is_blocking(model) and not draft.fallback:
            await self._predict_aside(service, draft)
            # While the model thought, the same request may have been logged: by a retry, or as a plain event.
            logged = service.logged(draft.event.id, draft.mark)
            if logged is not None:
                return logged
        else:
            service.predict(draft)
        # The rows of a slate take the views as long as the disk takes for its record: the two go side by side.
        begin = self._check_open().begin if service.retrieval is not None else nothing
        record, decision = service.finish(draft, stamped=begin)
        counted = Decided(
            decision.choice.action, decision.mode, decision.fallback, draft.stages_us, decision.predictions
        )
        self.meter.decided(service.system.name, counted)
        return record, decision

    async def _predict_aside(self, service: Service, draft: Underway) -> None:
        if self._thinking >= _MOST_THINKING:
            draft.fallback = "model_busy"
            return
        # On a copy: a model that answers after the deadline must not touch the draft that went on without it.
        copy = msgspec.structs.replace(draft, stages_us=dict(draft.stages_us))
        self._thinking += 1
        thought = asyncio.get_running_loop().run_in_executor(self._thinkers, service.predict, copy)
        thought.add_done_callback(self._has_thought)
        done, _ = await asyncio.wait((thought,), timeout=service.system.deadline_ms / 1_000)
        if not done:
            draft.fallback = "model_timeout"
            return
        thought.result()
        draft.predictions, draft.fallback = copy.predictions, copy.fallback
        draft.stages_us.update(copy.stages_us)

    def _has_thought(self, _thought: asyncio.Future[None]) -> None:
        self._thinking -= 1

    async def _add(self, ingest: Ingest, kind: Literal["event", "outcome"], rows: Sequence[object]) -> list[RowResult]:
        self._check_open()
        results = []
        for number, row in enumerate(rows):
            result = ingest.admit(kind, row)
            self.meter.row(ingest.schema.system, kind, status=result.status)
            if kind == "outcome" and result.status == "accepted":
                self._count(ingest.schema, result.seq)
            results.append(result)
            if number % _ROWS_AT_ONCE == _ROWS_AT_ONCE - 1:
                self._check_open().notify()
                await asyncio.sleep(0)
                self._check_open()
        if results:
            await self._until_durable(max(result.seq for result in results))
        return results

    def _count(self, schema: Schema, seq: int) -> None:
        """Counts the request of an outcome that says 1 of it, once for each kind: a lost dispute says it twice."""
        outcome = decode_outcome(self.log.get(seq).body)
        ones = () if outcome.deleted else [v for v, label in schema.outcome(outcome.kind).labels.items() if label]
        if outcome.value in ones:
            seqs = self.log.find("target", f"{schema.system}/{outcome.target}")
            before = (decode_outcome(self.log.get(earlier).body) for earlier in seqs if earlier < seq)
            if not any(told.kind == outcome.kind and told.value in ones for told in before):
                self.meter.reported(schema.system, outcome.kind)

    def _find(self, service: Service, id_: str) -> tuple[Record, Decision]:
        name = service.system.name
        for seq in (*self.log.find("decision", id_), *self.log.find("request", f"{name}/{id_}")):
            record = self.log.get(seq)
            if record.kind == "decision" and record.system == name and record.root not in service.standing.erased:
                return record, decode_decision(record.body)
        raise UnknownRecordError(
            where=f"{name} decision",
            given="an id that no decision has",
            expected=f"a decision's id, or the id of the {service.system.schema.noun} it decided",
            fix="Check the id and the system.",
        )

    def _service(self, system: str) -> Service:
        service = self.services.get(system)
        if service is None:
            raise UnknownRecordError(
                where="system",
                given="a system that is not served here",
                expected=near(system, self.services),
                fix="Start it with `decalog serve`.",
            )
        return service

    def _check_open(self) -> Committer:
        if self._committer is None or self._stopping or self.log.failed is not None:
            raise LogUnavailableError(
                where="log",
                given="a log that takes nothing now" if self.log.failed is None else "a log that failed",
                expected="an open log",
                fix="Retry with the same id after the server is back: nothing is doubled.",
            )
        return self._committer

    async def _until_durable(self, seq: int) -> None:
        if seq >= self.log.durable:
            await self._check_open().until_durable(seq)


def explained(folder: Path | None, system: str, *, decision_id: str) -> dict[str, Any]:
    """Returns what a decision was explained with at once; {} where it was not, or not yet.

    Args:
        folder: for what may be lost.
        system: its name.
        decision_id: its own, not its request's.
    """
    path = None if folder is None else folder / EXPLAINED / system / f"{decision_id}.json"
    told: dict[str, Any] = msgspec.json.decode(path.read_bytes()) if path is not None and path.is_file() else {}
    return told


async def _until(wait: Wait) -> None:
    """Waits while the loop goes on: what `asyncio.wait` around a wrapped future does, with fewer objects."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()

    def told(_done: object) -> None:
        with suppress(RuntimeError):  # a loop that was closed meanwhile has nobody left to tell
            loop.call_soon_threadsafe(answer, over)

    patience = loop.call_later(wait.most_s, answer, over)
    wait.done.add_done_callback(told)
    try:
        await over
    finally:
        patience.cancel()


async def _others() -> None:
    """Lets the loop come round twice: the first wakes those whose decisions are durable, who answer in the second."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


def _is_troubled(service: Service) -> bool:
    return bool(service.problem)


def rows_of(raw: bytes) -> list[object]:
    """Returns the rows of a body: a JSON array, one JSON object, or one JSON object a line.

    A line that is no JSON comes back as text, for quarantine; its neighbours are not lost.

    Raises:
        RequestError: an array that is no JSON; nothing of it was taken.
    """
    text = raw.strip()
    try:
        whole = _any_json(text)
    except _NO_JSON:
        if text.startswith(b"["):
            raise RequestError(
                where="batch",
                given="an array that is not JSON in UTF-8",
                expected="[{…}, {…}], or one {…} a line",
                fix="Nothing was taken: mend it and send it whole; rows that were logged before are told apart by id.",
            ) from None
        return [_line(line) for line in text.splitlines() if line.strip()]
    return whole if isinstance(whole, list) else [whole]


_any_json = msgspec.json.Decoder().decode
_NO_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def _line(line: bytes) -> object:
    try:
        return _any_json(line)
    except _NO_JSON:
        return line.decode(errors="replace")


def _told(service: Service, record: Record, decision: Decision) -> dict[str, Any]:
    noun, notice = service.system.schema.noun, service.standing.notice(record.seq)
    return reply(record, decision, noun=noun, notice=notice)
