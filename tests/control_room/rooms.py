"""A control room in this process, over a small home, asked as a browser would ask it."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx

from decalog.control_room import knobs
from decalog.control_room.app import App
from decalog.control_room.homes import House, homes_below, index_of
from decalog.control_room.index import Index
from decalog.control_room.knobs import GENERAL, Driven
from decalog.home import Home

BASE = "http://127.0.0.1:8080"


class Browser:
    """Asks a control room; keeps its cookie, and sends forms with what the page gave it."""

    def __init__(self, app: App) -> None:
        transport = httpx.ASGITransport(app=app)
        self.client = httpx.AsyncClient(transport=transport, base_url=BASE)
        self.csrf = ""

    async def get(self, path: str, **headers: str) -> httpx.Response:
        answer = await self.client.get(path, headers=headers)
        found = re.search(r'name="csrf" value="([0-9a-f]{64})"', answer.text)
        self.csrf = found[1] if found else self.csrf
        return answer

    async def post(self, path: str, form: Mapping[str, str] | None = None, **headers: str) -> httpx.Response:
        return await self.client.post(path, data={"csrf": self.csrf, **(form or {})}, headers=headers)


def room(*roots: Path, asks: bool = False, url: str = "", https: bool = False) -> Browser:
    """Returns a browser of a control room over some homes, each followed to its end."""
    for home in homes_below(roots):
        catch_up(home)
    house = House(roots, {"fraud": url} if url else {})
    return Browser(App(house, asks=asks, https=https))


def catch_up(home: Home) -> None:
    """Follows a log to its end."""
    with closing(home.reader()) as log, closing(Index(index_of(home), writes=True)) as index:
        while index.take(log, stop=log.position).position < log.position:
            pass


def driven(home: Home, **parts: Any) -> Driven:
    """Says that a world drives the home's fraud."""
    base: dict[str, Any] = {
        "driver": "d1",
        "url": "",
        "wall": time.time(),
        "speed": 3600.0,
        "knobs": GENERAL | {"card_testing_wave": "bursts start 12 times as often"},
    }
    told = Driven(**base | parts)
    knobs.tell(home, "fraud", driven=told)
    return told
