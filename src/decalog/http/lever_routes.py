"""The routes of what operators turn: lookup tables, the policy's parameters, and who changed them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TypeVar

import msgspec

from decalog.challengers import ready, roll
from decalog.errors import ConfigError, ModelError, RequestError
from decalog.host import Host
from decalog.http.problems import Answer
from decalog.http.routes import JSON, Call, Paths, Route, read_one, refused
from decalog.http.settings import HttpSettings
from decalog.levers import Levers
from decalog.serving import Service

_T = TypeVar("_T")
_ENTRIES_AT_ONCE = 100
"""Entries of a table whose tokens are looked up between two looks at the event loop."""


class LeverRoutes:
    """The routes of the levers of one host's systems.

    Args:
        host: of the systems.
        settings: limits.
    """

    def __init__(self, host: Host, settings: HttpSettings) -> None:
        self._host = host
        self._settings = settings
        self._levers = {name: Levers(service.system, host.log) for name, service in host.services.items()}
        self.by_system: Paths = {
            (b"tables",): (Route("tables", "GET", "admin", self.tables),),
            (b"policy",): (
                Route("policy", "GET", "admin", self.policy),
                Route("put_policy", "PUT", "admin", self.put_policy),
            ),
            (b"rollout",): (
                Route("rollout", "GET", "admin", self.rollout),
                Route("put_rollout", "PUT", "admin", self.put_rollout),
            ),
            (b"changes",): (Route("changes", "GET", "admin", self.changes),),
        }
        self.by_id: Paths = {
            (b"tables",): (
                Route("table", "GET", "admin", self.table, takes_seq=True),
                Route("put_table", "PUT", "admin", self.put_table),
                Route("patch_table", "PATCH", "admin", self.change_members),
            ),
        }

    async def tables(self, call: Call) -> Answer:
        """Returns the lookup tables that features read, each in its latest version."""
        return await self._told(call, lambda levers: levers.tables())

    async def table(self, call: Call) -> Answer:
        """Returns what is in a lookup table; of tokens only how often each number."""
        return await self._told(call, lambda levers: levers.table(call.id, call.seq))

    async def put_table(self, call: Call) -> Answer:
        """Takes a lookup table, whole; the next request sees it."""
        raw = await read_one(call, self._settings.table_bytes)
        try:
            entries = self._levers[call.system].entries(call.id, raw)
            content = {key: number async for key, number in _in_turns(entries)}
        except RequestError as error:
            raise refused(error, raw) from error
        await self._host.operate(call.system, lambda service: service.put_table(call.id, content, by=call.caller))
        return await self._told(call, lambda levers: levers.state(call.id))

    async def change_members(self, call: Call) -> Answer:
        """Takes who goes onto a list and who comes off it; the next request sees it."""
        raw, levers = await read_one(call, self._settings.table_bytes), self._levers[call.system]
        try:
            list_, entries = levers.members(call.id, raw)
        except RequestError as error:
            raise refused(error, raw) from error
        adds = {key: is_added async for key, is_added in _in_turns(entries)}

        def act(service: Service) -> str:
            # In one step: what is read of the table is what is changed.
            content, what = levers.listed(call.id, list_, adds=adds)
            service.put_table(call.id, content, by=call.caller, what=what)
            return what

        what = await self._host.operate(call.system, act)
        return await self._told(call, lambda levers: levers.state(call.id, what))

    async def policy(self, call: Call) -> Answer:
        """Returns the policy's parameters."""
        return await self._told(call, lambda levers: levers.policy())

    async def put_policy(self, call: Call) -> Answer:
        """Takes the policy's parameters, whole; the next request is decided by them."""
        raw = await read_one(call, self._settings.decide_bytes)
        try:
            policy = self._levers[call.system].read_policy(raw)
        except RequestError as error:
            raise refused(error, raw) from error
        await self._host.operate(call.system, lambda service: service.put_policy(policy, by=call.caller))
        return await self._told(call, lambda levers: levers.policy())

    async def rollout(self, call: Call) -> Answer:
        """Returns the last step of a rollout."""
        return await self._told(call, lambda levers: levers.rollouts.stored())

    async def put_rollout(self, call: Call) -> Answer:
        """Takes a step of a rollout; the challenger is loaded beside, and the next request is decided by it."""
        raw = await read_one(call, self._settings.decide_bytes)
        service, levers = self._host.services[call.system], self._levers[call.system]
        try:
            step = levers.rollouts.read(raw, levers.read_policy)
            # An end loads nothing: it waits for no thread, and no other step comes between.
            made = ready(service, step) if step.is_over else await asyncio.to_thread(ready, service, step)
        except RequestError as error:
            raise refused(error, raw) from error
        except (ModelError, ConfigError) as error:
            raise RequestError(where=error.where, given=error.given, expected=error.expected, fix=error.fix) from error
        stored = await self._host.operate(call.system, lambda service: roll(service, made, by=call.caller))
        return Answer(200, msgspec.json.encode(stored), JSON)

    async def changes(self, call: Call) -> Answer:
        """Returns who changed tables and policy."""
        return await self._told(call, lambda levers: levers.changes())

    async def _told(self, call: Call, ask: Callable[[Levers], object]) -> Answer:
        def act(service: Service) -> object:
            return ask(self._levers[service.system.name])

        return Answer(200, msgspec.json.encode(await self._host.operate(call.system, act)), JSON)


async def _in_turns(entries: Iterable[_T]) -> AsyncIterator[_T]:
    for number, entry in enumerate(entries, 1):
        yield entry
        if number % _ENTRIES_AT_ONCE == 0:
            await asyncio.sleep(0)
