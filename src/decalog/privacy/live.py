"""Privacy on a running server, whose decisions go on: what reads whole logs or files runs in processes of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import msgspec

from decalog.deployment import run_aside, tell
from decalog.errors import StateError
from decalog.home import Home
from decalog.host import Host
from decalog.privacy import ledger
from decalog.privacy.erasing import Erased, Proof, asked_for, destroy, erasures, parts, sweep, told
from decalog.privacy.pen import Pen
from decalog.privacy.subjects import Survey, Told, erasure_of, extended, find_subject
from decalog.schema import Schema
from decalog.serving import Service
from decalog.standing import ERASURES
from decalog.system import load

_REST_S = 0.002
_AT_ONCE = 20
"""Records that a retrieval follows between two looks at the event loop."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What a process beside the server is to do.

    Args:
        home: of the deployment.
        verb: `survey` or `prove`, which `privacy.aside` knows.
        subject: token of the person.
        schemas: of the systems that are served.
        values: to search for.
    """

    home: str
    verb: str
    subject: int = 0
    schemas: tuple[Schema, ...] = ()
    values: tuple[Told, ...] = ()


class Surveyed(msgspec.Struct, frozen=True):
    """A survey, the models that learnt from the person, and the marks of the map's entries that lead to them."""

    survey: Survey
    models: dict[str, tuple[str, ...]]
    marks: tuple[bytes, ...]


class Live:
    """Privacy of one host.

    Args:
        host: whose log, services and files.
        home: of it.
        aside: runs a module of decalog in a process of its own.
    """

    def __init__(
        self, host: Host, home: Home, *, aside: Callable[..., Awaitable[tuple[bytes, bytes, int | None]]] = run_aside
    ) -> None:
        self._host, self._home, self._aside = host, home, aside
        self._one = asyncio.Lock()

    def pen(self, by: str) -> Pen:
        """Returns what writes for a caller."""
        return Pen(self._host.log, by=by, services=self._host.services)

    async def erase(self, name: str, subject: str, *, entity: str = "", by: str) -> Erased:
        """Erases a person from the server's home, views and all, and proves it; arguments as for `erasing.erase`."""
        values, log = asked_for(subject, entity), self._host.log
        async with self._one:
            token = await self._host.operate(name, lambda one: find_subject(one.system, log, subject, entity=entity))
            if token is None:
                return Erased(found=False, proof=await self.prove(values))
            there, gone = await self._survey(token), tuple[int, ...]()
            models, pen = there.models, self.pen(by)
            found = await self._recorded(name, there.survey, models=models, pen=pen)
            while found.tokens != gone:
                if found.tokens != there.survey.tokens:
                    there = await self._survey(token)  # they came with another card meanwhile, or somebody with theirs
                made = [entry for entry in erasures(log) if entry.erasure.subject == token]
                await asyncio.to_thread(ledger.enter, self._home.root, made)
                sweep(self._home, log)
                destroy(log, [erasure_of(found, name)], marks=there.marks)
                # What they did until now is theirs too; nobody is found under that token from here on.
                gone, found = found.tokens, await self._recorded(name, found, models=models, pen=pen)
            for service in self._host.services.values():
                if service.retrieval is not None and service.system.name in found.records:
                    await self._rebuild(service)
            # A slow model may have thought about a request of theirs.
            found = await self._recorded(name, found, models=models, pen=pen)
        return told(found, models, home=self._home, proof=await self.prove((*values, *found.values)))

    async def prove(self, values: Iterable[Told]) -> Proof:
        """Returns what a search of the home finds."""
        raw = await self._done(Order(home=str(self._home.root), verb="prove", values=tuple(values)))
        return msgspec.json.decode(raw, type=Proof)

    async def _survey(self, token: int) -> Surveyed:
        raw = await self._done(Order(home=str(self._home.root), verb="survey", subject=token, schemas=self._schemas))
        return msgspec.json.decode(raw, type=Surveyed)

    @property
    def _schemas(self) -> tuple[Schema, ...]:
        return tuple(service.system.schema for service in self._host.services.values())

    async def _done(self, order: Order) -> bytes:
        out, err, status = await self._aside("decalog.privacy.aside", told=msgspec.json.encode(order))
        if status != 0:
            last = err.decode(errors="replace").strip().rpartition("\n")[2]
            raise StateError(
                where=f"privacy, {order.verb}",
                given=f"a process that ended with {status}: {last[:400].rstrip('.')}",
                expected="what it was to find out",
                fix="Ask again: what was done is done, and what is lacking is completed.",
            )
        return out

    async def _recorded(self, name: str, found: Survey, *, models: Mapping[str, tuple[str, ...]], pen: Pen) -> Survey:
        """Returns the survey as it is once the log says all of it; the views follow, a part in each turn."""

        def act(_service: Service) -> tuple[Survey, bool]:
            now = extended(found, pen.log, stop=pen.log.position, schemas=self._schemas)
            part = next(parts(pen.log, now, models=models), None)
            if part is not None:
                pen.put(part.system, ERASURES, content=part.erasure)
            return now, part is None

        is_done = False
        while not is_done:
            found, is_done = await self._host.operate(name, act)
        return found

    async def _rebuild(self, service: Service) -> None:
        """Puts a retrieval in the place of one that has followed what was erased; it follows the log beside decisions.

        A retrieval can only go on: what it counted of one person among others it cannot say.
        """
        log, made = self._host.log, load(service.system.retrieval)()
        done = 0
        while log.position - done > _AT_ONCE:
            stop = log.position
            done = await self._follow(made, service, span=range(done, stop))
            trial = [service.trial.judge.serving.model] if service.trial is not None else []
            for model in (service.serving.model, *trial):
                await asyncio.to_thread(made.adopt, model, aside=True)  # its vectors take seconds
        # From here to the end is one turn of the loop: it stands between two requests.
        for seq in range(done, log.position):
            tell(made, log.get(seq), service.ingest)
        service.retrieve_with(made)

    async def _follow(self, made: Any, service: Service, *, span: range) -> int:
        for start in range(span.start, span.stop, _AT_ONCE):
            for seq in range(start, min(start + _AT_ONCE, span.stop)):
                tell(made, self._host.log.get(seq), service.ingest)
            await asyncio.sleep(_REST_S)
        return span.stop
