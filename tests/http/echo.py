"""A protocol that says what it was asked, and refuses in one word."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from decalog.host import Host
from decalog.http import HttpSettings
from decalog.http.problems import Answer, Refusal
from decalog.http.routes import JSON
from decalog.http.wires import Asked, Wire, WireRoute


class Echo:
    def __init__(self) -> None:
        self.runs = 0
        self.again = asyncio.Event()

    @property
    def routes(self) -> Sequence[WireRoute]:
        return (
            WireRoute("echo_one", "GET", "/echo/{id}", "decide", self.tell),
            WireRoute("echo_all", "GET", "/echo/all", "decide", self.tell),
            WireRoute("echo_put", "POST", "/echo/{id}", "outcomes", self.tell),
            WireRoute("echo_batch", "POST", "/echo/{id}/batch/{name}", "decide", self.tell, batch=True),
            WireRoute("echo_open", "POST", "/open", None, self.tell),
            WireRoute("echo_fault", "GET", "/fault", "decide", self.fail),
        )

    def speaks(self, headers: dict[bytes, bytes]) -> bool:
        return b"x-echo" in headers

    def authorization(self, headers: dict[bytes, bytes]) -> bytes | None:
        return b"Bearer " + headers[b"x-key"] if b"x-key" in headers else None

    def refuse(self, refusal: Refusal) -> Answer:
        return Answer(refusal.status, b"no", refusal.headers)

    async def run(self) -> None:
        self.runs += 1
        if self.runs == 1:
            raise OSError
        self.again.set()

    async def tell(self, asked: Asked) -> Answer:
        told = {"ids": asked.ids, "query": asked.query.decode(), "body": len(asked.body)}
        return Answer(200, msgspec.json.encode(told), JSON)

    async def fail(self, asked: Asked) -> Answer:
        raise KeyError


def DOOR(host: Host, system: str, *, settings: HttpSettings) -> tuple[Wire, ...]:  # noqa: N802 - a door
    return (Echo(),)


def TWICE(host: Host, system: str, *, settings: HttpSettings) -> tuple[Wire, ...]:  # noqa: N802 - a door
    return (Echo(), Echo())
