"""Which homes a control room shows, where it keeps what it derives of them, and where their servers are."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from decalog.access import is_loopback
from decalog.control_room.folder import folder_of
from decalog.control_room.knobs import Driven, driven
from decalog.control_room.quantities import schema_of, thing_of
from decalog.errors import ConfigError, UnknownRecordError, near
from decalog.home import Home
from decalog.registry import Registry
from decalog.system import SYSTEMS, find_system


def homes_below(roots: Iterable[Path]) -> Iterator[Home]:
    """Yields the homes among some folders, and those right below one that is none itself."""
    for root in roots:
        if Home(root).exists:
            yield Home(root)
        elif root.is_dir():
            yield from (Home(path) for path in sorted(root.iterdir()) if path.is_dir() and Home(path).exists)


def index_of(home: Home) -> Path:
    """Returns where the index of a home lies."""
    return folder_of(home) / "index.sqlite"


def measured_of(home: Home, system: str) -> Path:
    """Returns where the heavy figures of a system lie."""
    return folder_of(home) / f"{system}.measured.json"


class Place(msgspec.Struct, frozen=True):
    """A system of a home, and its server where one is known.

    Args:
        name: what it is called here and in addresses: the system's name, or with its home's where there are several.
        system: its name.
        home: that holds its log.
        url: of its server, or "".
        driven: what drives it with a world's traffic; None where nothing does.
    """

    name: str
    system: str
    home: Home
    url: str
    driven: Driven | None = None

    @property
    def is_of_quantities(self) -> bool:
        """Whether the system's label is a quantity of things that have public names."""
        schema = schema_of(self.system)
        return schema is not None and bool(thing_of(schema))

    @property
    def has_cases(self) -> bool:
        """Whether the system brings a queue of cases for people."""
        return "cases" in find_system(self.system).commands


class House:
    """The systems that a control room shows.

    Args:
        roots: homes, or folders of homes.
        urls: system → address of its server.

    Raises:
        ConfigError: an address is none.
    """

    def __init__(self, roots: Iterable[Path], urls: dict[str, str]) -> None:
        self.roots, self._urls = tuple(roots), urls
        for name, url in urls.items():
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ConfigError(
                    where="room, --url",
                    given=f"no address for {name}",
                    expected="system=http://host:port",
                    fix="Write it as `decalog serve` prints it: fraud=http://127.0.0.1:8000.",
                )

    def places(self) -> list[Place]:
        """Returns the systems, by name; a system of several homes stands once for each.

        The home that is called as the system is, or the first, has its plain name.
        """
        found = [(system, home) for home in homes_below(self.roots) for system in _systems(home)]
        found.sort(key=lambda both: (both[0], both[1].root.name != both[0], str(both[1].root)))
        places: dict[str, Place] = {}
        for system, home in found:
            name = system if system not in places else f"{system}-{home.root.name}"
            places[name] = self._place(home, system, name)
        return list(places.values())

    def place(self, system: str) -> Place:
        """Returns a system.

        Raises:
            UnknownRecordError: there is none of that name.
        """
        places = self.places()
        for place in places:
            if place.name == system:
                return place
        raise UnknownRecordError(
            where="control room",
            given="a system that is not shown here",
            expected=near(system[:64], [place.name for place in places]) if places else "a home with a log",
            fix="Name its home with --home.",
        )

    def _place(self, home: Home, system: str, name: str) -> Place:
        told = driven(home, system, now_s=time.time())
        url = self._urls.get(name) or ("" if told is None else told.url)
        # Only a file says so: what it names is called only where it cannot lead off this machine.
        is_safe = name in self._urls or is_loopback(urlsplit(url).hostname or "")
        return Place(name, system, home, url.rstrip("/") if is_safe else "", told)


def _systems(home: Home) -> list[str]:
    """Returns the systems of a home: those that have a champion."""
    have = {change.system for change in Registry(home.root).history() if change.alias == "champion"}
    return [name for name in SYSTEMS if name in have]
