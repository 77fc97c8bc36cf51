"""The proof: a search of every byte of a home for personal values, also inside of what is packed.

Files are searched as they lie, so that pages that are free, WALs, drafts and what nobody reads are searched too;
records and rows that are packed are searched once more as they read.
"""

from __future__ import annotations

import base64
import io
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import msgspec
import numpy as np
import numpy.typing as npt

from decalog.errors import DecalogError
from decalog.events import decode_record, plain_body
from decalog.home import Home
from decalog.privacy.ledger import beside
from decalog.privacy.subjects import Plain, Told

SHORTEST = 6
"""Bytes that a value needs to stand nowhere by chance: in a gigabyte of random ones, 1 in 280,000."""
_PIECE = 4 << 20
_ROWS = 10_000


class Hit(msgspec.Struct, frozen=True):
    """A value that was found: whose name, in which file of the home, and how it was packed there, "" for not at all."""

    name: str
    file: str
    inside: str = ""

    def text(self) -> str:
        """Returns it in words, without the value."""
        return f"{self.name} stands in {self.file}{f' ({self.inside})' if self.inside else ''}"


class Scan(msgspec.Struct, frozen=True, kw_only=True):
    """What a search found.

    Args:
        files, bytes: that were searched.
        values: that were searched for; `short` were too short to mean anything.
        hits: where one stands.
        unread: files that could not be opened as what they are called; as bytes they were searched.
    """

    files: int = 0
    bytes: int = 0
    values: int = 0
    short: int = 0
    hits: tuple[Hit, ...] = ()
    unread: tuple[str, ...] = ()

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found."""
        return not self.hits

    def text(self) -> str:
        """Returns it for people."""
        short = f", {self.short} too short to search for" if self.short else ""
        found = f"{len(self.hits):,} hits" if self.hits else "nothing found"
        head = f"{self.values} values{short} in {self.files:,} files, {self.bytes:,} bytes: {found}"
        notes = [f"could be searched as bytes alone: {name}" for name in self.unread]
        return "\n".join([head, *(f"  {hit.text()}" for hit in self.hits), *(f"  {note}" for note in notes)])


def scan(home: Path, values: Iterable[Told], *, aside: Iterable[Path] = ()) -> Scan:
    """Returns where personal values stand in a home, its ledger, and further files or folders.

    Args:
        home: folder of it; its server may run.
        values: to search for.
        aside: what lies elsewhere: logs of a program, metrics, pages that were kept.
    """
    told = [*dict.fromkeys(values)]
    forms = {one: found for one in told if (found := forms_of(one.value))}
    search, read, size, unread = _Search(forms), 0, 0, list[str]()
    for root in (home, beside(home), beside(home, "backups"), *aside):
        for path in sorted(root.rglob("*")) if root.is_dir() else [root]:
            if not path.is_file():
                continue
            name = path.relative_to(home).as_posix() if path.is_relative_to(home) else path.name
            read, size = read + 1, size + _search_file(path, search, name)
            if path.suffix in _PACKED and not _search_packed(path, search, name):
                unread.append(name)
    _search_log(Home(home), search)
    hits = tuple(sorted(search.hits, key=lambda hit: (hit.file, hit.name)))
    return Scan(
        files=read, bytes=size, values=len(forms), short=len(told) - len(forms), hits=hits, unread=tuple(unread)
    )


def scan_state(kept: Iterable[bytes], values: Iterable[Told], *, name: str) -> Scan:
    """Returns where personal values stand in what a server of the features' state keeps.

    Args:
        kept: its keys and values.
        values: to search for.
        name: of it, for hits.
    """
    search, size = _Search({one: found for one in dict.fromkeys(values) if (found := forms_of(one.value))}), 0
    for piece in kept:
        search.look(piece, name)
        size += len(piece)
    return Scan(bytes=size, hits=tuple(sorted(search.hits, key=lambda hit: hit.name)))


def forms_of(value: Plain) -> tuple[bytes, ...]:
    """Returns how a value may stand in a file; nothing for one that is too short to mean anything.

    >>> [len(forms_of(value)) > 0 for value in ("Ada Lovelace", "Ada", True, 1_234_567_890, 3)]
    [True, False, False, True, False]
    """
    plain = value.encode() if isinstance(value, str) else repr(value).encode()
    if len(plain) < SHORTEST or isinstance(value, bool):
        return ()
    if isinstance(value, str):
        found = [plain, msgspec.json.encode(value)[1:-1], value.encode("unicode_escape")]
        found += [value.encode(wide) for wide in ("utf-16-le", "utf-16-be", "utf-32-le")]  # the last is numpy's
        found += [quote(value, safe="").encode(), plain.hex().encode(), *_in_base64(plain)]
    else:
        found = [plain, *(struct.pack(f"{order}{'q' if isinstance(value, int) else 'd'}", value) for order in "<>")]
    return tuple(dict.fromkeys(found))


def _in_base64(plain: bytes) -> Iterator[bytes]:
    """Yields the middle of a text in base64, as it reads at each of the three places where it may begin."""
    for ahead in range(3):
        coded = base64.b64encode(bytes(ahead) + plain)
        first, last = (0, 2, 3)[ahead], len(coded) - (4 if (ahead + len(plain)) % 3 else 0)
        if last - first >= SHORTEST:
            yield coded[first:last]


class _Search:
    """Looks for all forms at once, so that a person of a hundred values costs no more than one of five.

    Each place is looked up by its first three bytes in a table, those that pass by the next three, and the few that are
    left among the forms that begin so.
    """

    def __init__(self, forms: Mapping[Told, tuple[bytes, ...]]) -> None:
        self._begin: dict[bytes, list[tuple[Told, bytes]]] = {}
        self._first, self._then = np.zeros(1 << 24, np.bool_), np.zeros(1 << 24, np.bool_)
        for told, found in forms.items():
            for form in found:
                self._begin.setdefault(form[:SHORTEST], []).append((told, form))
        for head in self._begin:
            self._first[int.from_bytes(head[:3], "little")] = self._then[int.from_bytes(head[3:], "little")] = True
        self.overlap = max((len(form) for found in forms.values() for form in found), default=1) - 1
        self.hits: set[Hit] = set()

    def look(self, piece: bytes, file: str, *, inside: str = "") -> None:
        if len(piece) < SHORTEST or not self._begin:
            return
        row = np.frombuffer(piece, np.uint8)
        places = np.flatnonzero(self._first[_threes(row[: 3 - SHORTEST])])
        for place in places[self._then[_threes(row[3:])[places]]].tolist():
            for told, form in self._begin.get(piece[place : place + SHORTEST], ()):
                if piece.startswith(form, place):
                    self.hits.add(Hit(told.name, file, inside))


def _threes(row: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """Returns the three bytes from each place on as one number, (n,) → (n − 2,)."""
    wide = row.astype(np.uint32)
    found: npt.NDArray[np.uint32] = wide[:-2] | wide[1:-1] << np.uint32(8) | wide[2:] << np.uint32(16)
    return found


def _search_file(path: Path, search: _Search, name: str) -> int:
    size, before = 0, b""
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                size += len(piece)
                search.look(before + piece, name)
                before = piece[-search.overlap :] if search.overlap else b""
    except FileNotFoundError:  # a server's draft or WAL that went meanwhile
        return size
    return size


def _search_packed(path: Path, search: _Search, name: str) -> bool:
    try:
        for piece in _PACKED[path.suffix](path):
            search.look(piece, name, inside="unpacked")
    except (DecalogError, OSError, ValueError, zipfile.BadZipFile, zlib.error):
        return False
    return True


def _zipped(path: Path) -> Iterator[bytes]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            yield archive.read(member)


def _rows(path: Path) -> Iterator[bytes]:
    import duckdb

    try:
        with duckdb.connect(config={"threads": 1}) as connection:
            rows = connection.execute("SELECT * FROM read_parquet(?)", [str(path)])
            while some := rows.fetchmany(_ROWS):
                yield repr(some).encode()
    except duckdb.Error as error:
        raise ValueError(str(error)) from None  # no Parquet, or it went meanwhile


def _inflated(path: Path) -> Iterator[bytes]:
    import gzip

    with gzip.open(io.BytesIO(path.read_bytes())) as file:
        yield file.read()


_PACKED = {".parquet": _rows, ".npz": _zipped, ".zip": _zipped, ".gz": _inflated}


def _search_log(home: Home, search: _Search) -> None:
    if not home.exists:
        return
    with closing(home.reader()) as log:
        for entry in log.store.read(0):
            # As bytes too: a record that is longer than a page lies in several, with other bytes in between.
            body = decode_record(entry.blob).body
            plain = plain_body(body)
            search.look(entry.blob if plain is body else plain, "log/0.sqlite", inside=f"record {entry.seq}")
