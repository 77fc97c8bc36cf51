"""The least that any stack on uvicorn does: it takes a body, syncs it to a file in groups, and answers two bytes.

No features, no model, no policy, no token, nothing parsed. What a decision costs above this is its own.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

START = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
BODY = {"type": "http.response.body", "body": b"{}"}


class Groups:
    """Bodies that wait for the sync of their group; the next group is written when the last one is synced."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None

    async def kept(self, body: bytes) -> None:
        """Returns once a body is on the disk."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((body, future))
        if self._task is None:
            self._task = asyncio.create_task(self._sync())
        await future

    async def _sync(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            os.write(self._file, b"\n".join([body for body, _ in group]) + b"\n")
            await asyncio.to_thread(os.fdatasync, self._file)
            for _, future in group:
                if not future.done():
                    future.set_result(None)
        self._task = None


groups = Groups(os.environ["FLOOR_FILE"])


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answers a request once its body is on the disk."""
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    await groups.kept(body)
    await send(START)
    await send(BODY)
