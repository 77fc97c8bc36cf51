"""Gorse's REST API over feed's decisions: its unmodified clients, with their address and key set to ours, are served.

A recommendation is a decision, what users do with it are outcomes, items and users are events. `docs/howto/gorse.md`
has what maps to what.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from decalog.host import Host
from decalog.http.problems import Answer, Headers, Refusal
from decalog.http.settings import HttpSettings
from decalog.http.wires import Asked, JsonWire, Wire, WireRoute
from decalog.systems.feed.wire_lists import Lists
from decalog.systems.feed.wire_messages import told
from decalog.systems.feed.wire_objects import Objects
from decalog.systems.feed.wire_shelf import Shelf
from decalog.systems.feed.wire_why import WhyWire
from decalog.systems.feed.wire_writing import Translator, types_of

TYPES = "GORSE_FEEDBACK_TYPES"
"""Setting in the environment: what types of feedback mean, such as `purchase=share,skip=hide`."""

_TEXT: Headers = ((b"content-type", b"text/plain; charset=utf-8"),)
_UNPROCESSABLE, _BAD = 422, 400


class Gorse(JsonWire):
    """Gorse's API for one system of a host.

    Args:
        host: decides.
        system: its name.
        settings: limits.
        environ: may hold the setting `TYPES`.
    """

    def __init__(
        self, host: Host, system: str, *, settings: HttpSettings, environ: Mapping[str, str] = os.environ
    ) -> None:
        self._host = host
        shelf = Shelf(host, system)
        translator = Translator(shelf, types_of(environ.get(TYPES, "")))
        objects = Objects(host, system, shelf=shelf, translator=translator, settings=settings)
        self.routes = (
            *(
                WireRoute("gorse_health", "GET", f"/api/health/{kind}", None, self._health)
                for kind in ("live", "ready")
            ),
            *objects.routes,
            *Lists(host, system, shelf=shelf, kind=translator.kind).routes,
        )

    def speaks(self, headers: dict[bytes, bytes]) -> bool:
        """Whether a client of Gorse's sent it."""
        return b"x-api-key" in headers

    def authorization(self, headers: dict[bytes, bytes]) -> bytes | None:
        """Returns our token from where Gorse's key stands; a bearer token is one too."""
        key = headers.get(b"x-api-key")
        return headers.get(b"authorization") if key is None else b"Bearer " + key

    def refuse(self, refusal: Refusal) -> Answer:
        """Returns a refusal as Gorse's: its words, as plain text."""
        # Gorse knows one status for whatever is wrong with a request.
        status = _BAD if refusal.status == _UNPROCESSABLE else refusal.status
        return Answer(status, str(refusal.error).encode(), (*_TEXT, *refusal.headers))

    async def _health(self, asked: Asked) -> Answer:  # noqa: ARG002  # of the routes' form
        is_ready = self._host.state().ready
        stores = {f"{store}StoreConnected": is_ready for store in ("Data", "Cache")}
        errors = {f"{store}StoreError": None for store in ("Data", "Cache")}
        return told({"Ready": is_ready, **errors, **stores}, 200 if is_ready else 503)


def WIRE(host: Host, system: str, *, settings: HttpSettings) -> tuple[Wire, ...]:  # noqa: N802  # a door, as SYSTEM is
    """Returns the protocols of a host's feed system."""
    return (Gorse(host, system, settings=settings), WhyWire(host, system))
