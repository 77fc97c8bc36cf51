"""A disk that loses power: from a trace of every change to a folder, the files that could be found after a crash.

What a crash may leave, by POSIX and by how disks write: of a file, what its last completed sync covered, plus, sector
by sector (512 bytes), any moment of what was written since; of a folder, the names as of its last sync plus the first
few of the changes since. The acknowledgements file stands for the world outside: what was written to it was told.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SECTOR = 512
_NOT_ON_DISK = "-shm"
"""SQLite's shared memory: rebuilt by the first to open the file, so what a crash leaves of it is never read."""


class Change(NamedTuple):
    """One line of the trace (`trace_shim.c`)."""

    what: str
    handle: int = 0
    offset: int = 0
    data: bytes = b""
    path: str = ""
    target: str = ""


def read_trace(trace: bytes) -> Iterator[Change]:
    """Yields the changes of a trace, in order; a line cut short by a kill ends it."""
    at = 0
    while (end := trace.find(b"\n", at)) >= 0:
        what, _, rest = trace[at:end].decode().partition(" ")
        at = end + 1
        if what in "MU":
            yield Change(what, path=rest)
        elif what == "O":
            words = rest.split(" ", 2)
            yield Change("O", int(words[0]), int(words[1]), path=words[2])
        elif what == "W":
            number, offset, length = (int(word) for word in rest.split())
            if at + length > len(trace):
                return
            yield Change("W", number, offset, trace[at : at + length])
            at += length
        elif what == "R":
            source, _, target = trace[at : at + int(rest)].partition(b"\0")
            yield Change("R", path=source.decode(), target=target.decode())
            at += int(rest)
        else:
            handle, _, size = rest.partition(" ")
            yield Change(what, int(handle), int(size or 0))


class _File:
    def __init__(self) -> None:
        self.durable = bytearray()
        self.since: list[Change] = []

    def sync(self) -> None:
        for change in self.since:
            _apply(self.durable, change)
        self.since.clear()

    def after_crash(self, rng: random.Random, *, kept: float) -> bytes:
        """Returns the bytes found after a crash; `kept` is the share of what was not synced that survives."""
        found = bytearray(self.durable)
        if kept >= 1:
            survivors = self.since
        elif any(change.what == "T" for change in self.since):
            survivors = _first(self.since, rng)
        else:
            survivors = _by_sector(self.since, rng, kept)
        for change in survivors:
            _apply(found, change)
        return bytes(found)


class _Folder:
    def __init__(self) -> None:
        self.names: dict[str, _File | _Folder] = {}
        self.durable: dict[str, _File | _Folder] = {}
        self.since: list[tuple[str, _File | _Folder | None]] = []

    def put(self, name: str, node: _File | _Folder | None) -> None:
        if node is None:
            self.names.pop(name)
        else:
            self.names[name] = node
        self.since.append((name, node))

    def sync(self) -> None:
        self.durable = dict(self.names)
        self.since.clear()

    def after_crash(self, rng: random.Random, *, kept: float) -> dict[str, _File | _Folder]:
        found = dict(self.durable)
        for name, node in self.since if kept >= 1 else self.since[: rng.randint(0, len(self.since))]:
            if node is None:
                found.pop(name, None)
            else:
                found[name] = node
        return found


class Disk:
    """What stands in the page cache and what on the platter, change by change.

    Args:
        root: the traced folder, as its path stands in the trace; it exists and is durable.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._top = _Folder()
        self._open: dict[int, _File | _Folder] = {}

    def take(self, change: Change) -> None:
        """Lets one change happen."""
        if change.what == "M":
            self._parent(change.path).put(_name(change.path), _Folder())
        elif change.what == "U":
            self._parent(change.path).put(_name(change.path), None)
        elif change.what == "R":
            moved = self._find(change.path)
            self._parent(change.path).put(_name(change.path), None)
            self._parent(change.target).put(_name(change.target), moved)
        elif change.what == "O":
            if change.offset:
                self._parent(change.path).put(_name(change.path), _File())
            self._open[change.handle] = self._find(change.path)
        elif change.what == "S":
            self._open[change.handle].sync()
        elif change.what in "WT":
            file = self._open[change.handle]
            if isinstance(file, _File):
                file.since.append(change)

    def told(self, path: str) -> bytes:
        """Returns what was written to a file so far, synced or not: what the outside world was told."""
        file = self._top.names.get(path)
        return file.after_crash(random.Random(0), kept=1) if isinstance(file, _File) else b""

    def crash(self, target: Path, rng: random.Random) -> None:
        """Writes the folder that could be found after a crash now into an empty one."""
        kept = rng.choice((0.0, 0.2, 0.5, 0.8, 1.0))
        self._write(self._top, target, rng, kept)

    def _write(self, folder: _Folder, target: Path, rng: random.Random, kept: float) -> None:
        target.mkdir(parents=True, exist_ok=True)
        for name, node in sorted(folder.after_crash(rng, kept=kept).items()):
            if isinstance(node, _Folder):
                self._write(node, target / name, rng, kept)
            elif not name.endswith(_NOT_ON_DISK):
                (target / name).write_bytes(node.after_crash(rng, kept=kept))

    def _parent(self, path: str) -> _Folder:
        found = self._find(path.rpartition("/")[0])
        if not isinstance(found, _Folder):
            raise TypeError(f"{path} does not lie in a folder")
        return found

    def _find(self, path: str) -> _File | _Folder:
        node: _File | _Folder = self._top
        for name in path[len(self._root) :].strip("/").split("/"):
            if name and isinstance(node, _Folder):
                node = node.names[name]
        return node


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _apply(content: bytearray, change: Change) -> None:
    end = change.offset + len(change.data)
    if len(content) < end:
        content.extend(bytes(end - len(content)))
    content[change.offset : end] = change.data
    if change.what == "T":
        del content[change.offset :]


def _first(changes: list[Change], rng: random.Random) -> list[Change]:
    # The first few, and of the next a torn part.
    count = rng.randint(0, len(changes))
    torn = changes[count : count + 1]
    if torn and torn[0].what == "W":
        return [*changes[:count], torn[0]._replace(data=torn[0].data[: rng.randint(0, len(torn[0].data))])]
    return changes[:count]


def _by_sector(changes: list[Change], rng: random.Random, kept: float) -> list[Change]:
    # Sectors reach the platter in any order; one sector holds one moment: all writes to it up to some point.
    history: dict[int, list[Change]] = {}
    for change in changes:
        for piece in _pieces(change):
            history.setdefault(piece.offset // SECTOR, []).append(piece)
    survivors = []
    for pieces in history.values():
        if rng.random() < kept:
            survivors += pieces[: rng.randint(1, len(pieces))]
    return survivors


def _pieces(change: Change) -> Iterator[Change]:
    at = 0
    while at < len(change.data):
        length = SECTOR - (change.offset + at) % SECTOR
        yield change._replace(offset=change.offset + at, data=change.data[at : at + length])
        at += length
