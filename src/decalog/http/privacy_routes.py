"""The routes of what people may ask for: an operator asks for them, and a person's contest comes with the outcomes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from decalog.errors import RequestError
from decalog.home import Home
from decalog.host import Host
from decalog.http.problems import Answer
from decalog.http.routes import JSON, Call, Paths, Route, read_one, refused
from decalog.http.settings import HttpSettings
from decalog.privacy.live import Asked, Live


class Contested(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A decision, by its id or its request's, that a person wants a human to look at, and why in their words."""

    decision: str
    said: str = ""


class PrivacyRoutes:
    """The routes of privacy of one host.

    Args:
        host: of the systems.
        settings: limits.
    """

    def __init__(self, host: Host, settings: HttpSettings) -> None:
        self._settings = settings
        self._live = Live(host, Home((host.folder or Path("var/state")).parent), paths=host.paths)
        self.by_system: Paths = {
            (b"privacy",): (Route("privacy", "POST", "admin", self.privacy),),
            (b"contest",): (Route("contest", "POST", "outcomes", self.contest),),
        }

    async def privacy(self, call: Call) -> Answer:
        """Does what is asked for a person; answers come when it is done and proven."""
        asked = await self._read(call, Asked)
        done = await self._live.do(call.system, asked, by=call.caller)
        return Answer(200, msgspec.json.encode(done), JSON)

    async def contest(self, call: Call) -> Answer:
        """Logs that a person wants a human to look at a decision; it waits at the system's desk, where there is one."""
        asked = await self._read(call, Contested)
        heard = await self._live.contest(call.system, asked.decision, said=asked.said, by=call.caller)
        return Answer(200, msgspec.json.encode(heard), JSON)

    async def _read(self, call: Call, kind: type[Any]) -> Any:
        raw = await read_one(call, self._settings.decide_bytes)
        try:
            return msgspec.json.decode(raw, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            names = ", ".join(field.encode_name for field in msgspec.structs.fields(kind))
            error = RequestError(
                where=f"{call.system} {'contest' if kind is Contested else 'privacy'}",
                given="a body that does not fit",  # without its values: they name people
                expected=f"an object with some of: {names}",
                fix="GET /openapi.json describes it.",
            )
            raise refused(error, raw) from None
