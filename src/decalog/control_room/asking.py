"""Calls of a system's server, in the name of the session's token."""

from __future__ import annotations

from typing import Any

import msgspec

from decalog import admin
from decalog.control_room.web import Ask, path_of
from decalog.errors import LogUnavailableError


def call(ask: Ask, method: str, *parts: str, body: object = None) -> Any:
    """Returns a server's JSON answer.

    Args:
        ask: for whom, of which system.
        method: of HTTP.
        parts: of the path behind /v1/{system}.
        body: what JSON can say; None for nothing.

    Raises:
        LogUnavailableError: nobody said where the server is, or it does not answer.
        RequestError, AccessError: it refused; the message is its own.
    """
    place = ask.at
    if not place.url:
        raise LogUnavailableError(
            where=f"control room, {place.system}",
            given="no address of its server",
            expected="a running server",
            fix=f"Start the control room with --url {place.name}=http://host:port.",
        )
    raw = None if body is None else msgspec.json.encode(body)
    return admin.call(method, place.url + path_of("v1", place.system, *parts), raw=raw, token=ask.session.token)
