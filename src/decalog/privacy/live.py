"""Privacy on a running server, whose decisions go on: what reads whole logs or files runs in processes of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Literal, TypeVar

import msgspec
from msgspec.structs import replace

from decalog.deployment import retrieve_with, run_aside, tell
from decalog.errors import DataError, LogUnavailableError, RequestError, StateError
from decalog.features.remote import RemoteState
from decalog.home import Home
from decalog.host import Host
from decalog.privacy import ledger
from decalog.privacy.acts import AT_ONCE, Corrected, Heard, contest, give_notice, rectify, wish
from decalog.privacy.erasing import Erased, Proof, asked_for, destroy, erasures, parts, sweep, told
from decalog.privacy.pen import Pen
from decalog.privacy.retention import Days, Due, Retained, aged, days_of, set_days
from decalog.privacy.scan import scan_state
from decalog.privacy.subjects import Survey, Told, erasure_of, extended, find_subject
from decalog.schema import Schema
from decalog.serving import Service
from decalog.standing import ERASURES, OPTED_OUT, RESTRICTED, Notice, Wish, Wished
from decalog.system import System, load

FAILED = 3
"""Status of a process beside the server whose last words are a sentence of ours."""
_T = TypeVar("_T")
Aside = Callable[..., Awaitable[tuple[bytes, bytes, int | None]]]
ACCESSES = "accesses"
"""The table of who was told what is kept of whom."""
_REST_S = 0.002
_AT_ONCE = 5
"""Records that a retrieval follows, or a survey reads, between two looks at the event loop."""


Verb = Literal["survey", "prove", "access", "due"]


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What a process beside the server is to do.

    Args:
        home: of the deployment.
        verb: `survey`, `prove`, `access` or `due`, which `privacy.aside` knows.
        system: its name, or the dotted path of a user's own.
        person: value of the person, by `entity`.
        subject: token of the person.
        schemas: of the systems that are served.
        values: to search for.
        days: what is kept how long.
        at_us: now, µs.
    """

    home: str
    verb: Verb
    system: str = ""
    person: str = ""
    entity: str = ""
    subject: int = 0
    schemas: tuple[Schema, ...] = ()
    values: tuple[Told, ...] = ()
    days: dict[str, int] = {}
    at_us: int = 0


class Surveyed(msgspec.Struct, frozen=True):
    """A survey, the models that learnt from the person, and the marks of the map's entries that lead to them."""

    survey: Survey
    models: dict[str, tuple[str, ...]]
    marks: tuple[bytes, ...]


Act = Literal["erase", "prove", "access", "restrict", "lift", "opt_out", "opt_in", "rectify", "retention", "notice"]


class Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operator asks for a person.

    Args:
        act: erase; prove (search again); access; restrict, lift, opt_out, opt_in; rectify; retention; notice.
        person: value of the person, as requests have it, by `entity`.
        entity: the first that may be a request's subject, if nothing is said.
        why: for the log; nothing personal.
        values: with rectify what is right, by name.
        more: with prove further values to search for.
        days: with retention what is kept how long, put into force first; without it what is in force.
        id, url: of a notice.
    """

    act: Act
    person: str = ""
    entity: str = ""
    why: str = ""
    values: dict[str, int | float | str | bool] = {}
    more: tuple[str, ...] = ()
    days: dict[str, int] | None = None
    id: str = ""
    url: str = ""


WISHED: Mapping[str, tuple[Wished, bool]] = {
    "restrict": (RESTRICTED, True),
    "lift": (RESTRICTED, False),
    "opt_out": (OPTED_OUT, True),
    "opt_in": (OPTED_OUT, False),
}
"""Act → the wish that it begins or ends."""
SAID = (*WISHED, "notice")
"""Acts that only put into the log what is said; that may be before there is anything of anybody."""


def say(system: System, pen: Pen, *, asked: Asked) -> Wish | Notice:
    """Puts what one of the acts of SAID says into the log, and returns it."""
    if asked.act not in WISHED:
        return give_notice(system, pen, notice=Notice(id=asked.id, url=asked.url))
    wished, on = WISHED[asked.act]
    asks = Wish(subject=0, wish=wished, on=on, why=asked.why)
    return wish(system, pen, person=asked.person, entity=asked.entity, asked=asks)


class Live:
    """Privacy of one host.

    Args:
        host: whose log, services and files.
        home: of it.
        paths: system → what it is found by: its name, or the dotted path of a user's own.
        aside: runs a module of decalog in a process of its own.
    """

    def __init__(
        self, host: Host, home: Home, *, paths: Mapping[str, str] | None = None, aside: Aside = run_aside
    ) -> None:
        self._host, self._home, self._aside = host, home, aside
        self._paths = paths or {}
        self._one = asyncio.Lock()

    def pen(self, by: str) -> Pen:
        """Returns what writes for a caller."""
        return Pen(self._host.log, by=by, services=self._host.services)

    async def do(self, name: str, asked: Asked, *, by: str) -> object:
        """Does what is asked for a person of a system, and returns what came of it, nothing of the person in it.

        Only access tells what is kept of them.

        Raises:
            RequestError: nobody is named, or what is asked does not fit.
            LogUnavailableError: a process beside the server failed, or the log takes nothing now.
        """
        if not asked.person and asked.act not in ("notice", "retention"):
            raise RequestError(
                where=f"{name} privacy, person",
                given="nobody",
                expected="the value of a person, as requests have it",
                fix="Send `person`, and `entity` where it is not the first that the schema has under `subject`.",
            )
        if asked.act in SAID:
            return await self._act(name, partial(say, asked=asked), by=by)
        doing: Mapping[str, Callable[[], Awaitable[object]]] = {
            "erase": lambda: self.erase(name, asked.person, entity=asked.entity, by=by),
            "prove": lambda: self._proven(name, asked),
            "access": lambda: self._told(name, asked, by=by),
            "rectify": lambda: self._rectify(name, asked, by=by),
            "retention": lambda: self._retain(name, asked.days, by=by),
        }
        return await doing[asked.act]()

    async def contest(self, name: str, decision: str, *, said: str, by: str) -> Heard:
        """Logs that a person wants a human to look at a decision."""
        return await self._act(name, lambda system, pen: contest(system, pen, decision=decision, said=said), by=by)

    async def erase(self, name: str, subject: str, *, entity: str = "", by: str) -> Erased:
        """Erases a person from the server's home, views and all, and proves it; arguments as for `erasing.erase`."""
        values = asked_for(self._host.services[name].system, subject, entity=entity)
        async with self._one:
            token = await self._token(name, subject, entity)
            if token is None:
                left = await self._sent_on()
                return Erased(found=False, proof=await self.prove(values, left=left))
            there = await self._survey(token)
            found = await self._erase(name, there, pen=self.pen(by))
            left = await self._sent_on()
        proof = await self.prove((*values, *found.values), left=left)
        return told(found, there.models, home=self._home, proof=proof)

    async def _erase(self, name: str, there: Surveyed, *, pen: Pen) -> Survey:
        log, models, token, gone = self._host.log, there.models, there.survey.subject, tuple[int, ...]()
        found = await self._recorded(name, there.survey, models=models, pen=pen)
        while found.tokens != gone:
            if found.tokens != there.survey.tokens:
                there = await self._survey(token)  # they came with another card meanwhile, or somebody with theirs
            every = erasures(log)
            made = [entry for entry in every if entry.erasure.subject == token]
            await asyncio.to_thread(ledger.enter, self._home.root, made)
            sweep(self._home, pen, systems={entry.system for entry in every})
            destroy(log, [erasure_of(found, name)], marks=there.marks)
            # What they did until now is theirs too; nobody is found under that token from here on.
            gone, found = found.tokens, await self._recorded(name, found, models=models, pen=pen)
        for service in self._host.services.values():
            if service.retrieval is not None and service.system.name in found.records:
                await self._rebuild(service)
        # A slow model may have thought about a request of theirs.
        return await self._recorded(name, found, models=models, pen=pen)

    async def _retain(self, name: str, days: dict[str, int] | None, *, by: str) -> Retained:
        """Erases what is over age, as `retention.retain` does."""
        log, pen = self._host.log, self.pen(by)
        if days is not None:
            await self._act(name, lambda system, pen: set_days(system, pen, days=days), by=by)
        rules, at_us = days_of(log, self._host.services[name].system), max(log.known_time, log.clock.now_us())
        async with self._one:
            order = self._order("due", system=name, schemas=self._schemas, days=dict(rules), at_us=at_us)
            found = msgspec.json.decode(await self._done(order), type=Due)
            for subject in found.people:
                await self._erase(name, await self._survey(subject), pen=pen)
            by_subject = {one.subject: one for one in found.surveys}
            for subject in found.partly:
                await self._age(name, by_subject[subject], rules, pen=pen)
            await self._sent_on()
        return Retained(days=rules, erased=len(found.people), aged=len(found.partly))

    async def _age(self, name: str, found: Survey, days: Days, *, pen: Pen) -> None:
        at_us = max(pen.log.known_time, pen.log.clock.now_us())

        def act(_service: Service) -> tuple[Survey, bool]:
            now = extended(found, pen.log, stop=pen.log.position, schemas=self._schemas)
            return now, aged(pen, now, system=name, days=days, at_us=at_us)

        is_done = False
        while not is_done:
            found, is_done = await self._host.operate(name, act)

    async def _rectify(self, name: str, asked: Asked, *, by: str) -> Corrected:
        token = await self._token(name, asked.person, asked.entity)
        if token is None:
            return Corrected(records=0)
        roots = (await self._survey(token)).survey.records.get(name, ())
        count = 0
        for start in range(0, max(1, len(roots)), AT_ONCE):  # what is wrong is refused also where there are none
            some = roots[start : start + AT_ONCE]
            act = partial(rectify, roots=some, values=asked.values)
            count += (await self._act(name, act, by=by)).records
        return Corrected(records=count)

    async def _told(self, name: str, asked: Asked, *, by: str) -> object:
        token = await self._token(name, asked.person, asked.entity)
        if token is not None:
            content = {"subject": token, "by": by, "at": self._host.log.position}
            await self._act(name, lambda system, pen: pen.put(system.name, ACCESSES, content=content), by=by)
        path = self._paths.get(name, name)
        raw = await self._done(self._order("access", system=path, person=asked.person, entity=asked.entity))
        return msgspec.Raw(raw)

    async def _proven(self, name: str, asked: Asked) -> Erased:
        system = self._host.services[name].system
        values = asked_for(system, asked.person, entity=asked.entity, more=asked.more)
        return Erased(found=False, proof=await self.prove(values))

    async def _token(self, name: str, subject: str, entity: str) -> int | None:
        log = self._host.log
        return await self._host.operate(name, lambda one: find_subject(one.system, log, person=subject, entity=entity))

    async def _act(self, name: str, act: Callable[[System, Pen], _T], *, by: str) -> _T:
        """Returns what one turn of the loop gave, once it is durable."""
        return await self._host.operate(name, lambda service: act(service.system, self.pen(by)))

    def _order(self, verb: Verb, **asked: Any) -> Order:
        return Order(home=str(self._home.root), verb=verb, **asked)

    async def prove(self, values: Iterable[Told], *, left: str = "") -> Proof:
        """Returns what a search of the home finds, and of the features' state where that lies on a server of its own.

        Args:
            values: to search for.
            left: what could not be done yet.
        """
        told = tuple(values)
        raw = await self._done(self._order("prove", values=told))
        proof = msgspec.json.decode(raw, type=Proof)
        for name, state in self._remote():
            try:
                seen = await asyncio.to_thread(scan_state, state.left.kept(), told, name=name)
            except StateError as error:
                left = left or str(error)
                continue
            whole = proof.scan
            both = replace(whole, bytes=whole.bytes + seen.bytes, hits=(*whole.hits, *seen.hits))
            proof = replace(proof, scan=both)
        return replace(proof, left="; ".join(filter(None, (proof.left, left))))

    def _remote(self) -> Iterator[tuple[str, RemoteState]]:
        """Yields the states that lie on a server of their own, each with a name."""
        for name, service in self._host.services.items():
            if isinstance(service.state, RemoteState):
                yield f"features' state of {name}", service.state

    async def _sent_on(self) -> str:
        """Sends on what was taken out of states elsewhere, deletes what earlier ones left; returns what is left to do.

        Without it rows would go with the next decision, and those of states that nobody asks any more by themselves.
        """
        left = ""
        for name, state in self._remote():
            try:
                state.flush()
                await asyncio.to_thread(state.left.shed)
            except (StateError, DataError):
                left = f"rows on the server of {name}, which does not take them: erase again"
        return left

    async def _survey(self, token: int) -> Surveyed:
        raw = await self._done(self._order("survey", subject=token, schemas=self._schemas))
        return msgspec.json.decode(raw, type=Surveyed)

    @property
    def _schemas(self) -> tuple[Schema, ...]:
        return tuple(service.system.schema for service in self._host.services.values())

    async def _done(self, order: Order) -> bytes:
        out, err, status = await self._aside("decalog.privacy.aside", told=msgspec.json.encode(order))
        if status != 0:
            # Only its own sentences are told: a trace may hold whom it was about.
            said = err.decode(errors="replace").strip().rstrip(".") if status == FAILED else "a fault in it"
            raise LogUnavailableError(
                where=f"privacy, {order.verb}",
                given=f"a process beside the server that ended with {status}: {said[:400]}",
                expected="what it was to find out",
                fix="Ask again: what was done is done, and what is lacking is completed.",
            )
        return out

    async def _recorded(self, name: str, found: Survey, *, models: Mapping[str, tuple[str, ...]], pen: Pen) -> Survey:
        """Returns the survey as it is once the log says all of it; the views follow, a part in each turn."""

        def act(_service: Service) -> tuple[Survey, bool]:
            now = extended(found, pen.log, stop=pen.log.position, schemas=self._schemas)
            part = next(parts(pen, now, models=models), None)
            if part is not None:
                pen.put(part.system, ERASURES, content=part.erasure)
            return now, part is None

        found, is_done = await self._caught_up(found), False
        while not is_done:
            found, is_done = await self._host.operate(name, act)
        return found

    async def _caught_up(self, found: Survey) -> Survey:
        """Returns a survey that knows what came meanwhile, but for a few records: a slow survey leaves many to read."""
        log = self._host.log
        while log.position - found.position > _AT_ONCE:
            found = extended(found, log, stop=found.position + _AT_ONCE, schemas=self._schemas)
            await asyncio.sleep(_REST_S)
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
            tell(made, log.get(seq), ingest=service.ingest)
        retrieve_with(service, made)

    async def _follow(self, made: Any, service: Service, *, span: range) -> int:
        for start in range(span.start, span.stop, _AT_ONCE):
            for seq in range(start, min(start + _AT_ONCE, span.stop)):
                tell(made, self._host.log.get(seq), ingest=service.ingest)
            await asyncio.sleep(_REST_S)
        return span.stop
