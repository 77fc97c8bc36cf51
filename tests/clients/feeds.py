"""A feed as Gorse's clients meet it: a home, its server, and a key that may do everything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.clients.processes import served

from decalog.admin import create_token
from decalog.home import Home
from decalog.log import Log

SYSTEM = "tests.gallery:SYSTEM"
TYPES = "purchase=share"


class Feed(NamedTuple):
    """A running server over a home."""

    home: Path
    url: str
    key: str


def token(home: Path, *scopes: str) -> str:
    return create_token(Home(home), scopes, systems=(), note="", lifetime="")


@contextmanager
def serving(home: Path, key: str = "") -> Iterator[Feed]:
    """Runs a server over a home, a new one where there is none."""
    with served(home, system=SYSTEM, environ={"GORSE_FEEDBACK_TYPES": TYPES}) as server:
        yield Feed(home, server.url, key or token(home, "decide", "outcomes", "admin"))


def reader(feed: Feed) -> Log:
    """Returns the log of a feed, to read."""
    return Home(feed.home).reader()
