"""A snapshot: the canonical state of a feature set at a log position, in one file, so that a start folds only the rest.

    "decalog snapshot", format u64              24 bytes
    tokens, counts, block                       int64, little-endian; once an entity name, by name (`packed.PackedRows`)
    manifest                                    msgpack: of what, at which position of which log, the size and SHA-256
                                                of each part above
    length of the manifest u64, SHA-256         of the first 24 bytes, the manifest and its length

The same state at the same position gives the same bytes. A snapshot is derived: whatever is wrong with it, the log has
everything, so the readers of this module say what is wrong and their callers fold the log instead. It holds tokens and
public numbers of the subjects in it: erasing one has to delete the home's snapshots, as it has to drop their rows.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np

from decalog.errors import CorruptLogError, LogUnavailableError
from decalog.features.definition import FeatureSet
from decalog.features.kernel import Int64s
from decalog.features.online import OnlineState
from decalog.features.packed import PackedRows, Rest
from decalog.runtime import this_code

FORMAT = 1
SUFFIX = ".snapshot"
_MAGIC = b"decalog snapshot"
_HEAD = len(_MAGIC) + 8
_TAIL = 8 + 32
_PIECE = 4 << 20
"""Bytes that are read and then hashed while they are in the processor's cache."""
_READERS = 2

HashAt = Callable[[int], bytes | None]
"""Position → the log's chain hash before it, None where the log is shorter (`Log.hash_at`)."""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One entity name in the file: the lengths of its arrays, and the SHA-256 of their bytes."""

    entity: str
    width: int
    tokens: int
    rows: int
    sha256: bytes

    @property
    def numbers(self) -> int:
        """How many int64 it takes."""
        return 2 * self.tokens + (self.tokens + self.rows) * self.width


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a snapshot is of.

    Args:
        system, features: whose state; the version of the declarations.
        code: SHA-256 of the sources that folded it: other code may mean something else by a row.
        position, hash: of the log: the records below `position` are in it, with this chain hash after the last.
        seq, watermark, unusable, newest: of the state.
        parts: in the order of the file.
    """

    system: str
    features: str
    code: str
    position: int
    hash: bytes
    seq: int
    watermark: int
    unusable: dict[str, int]
    parts: tuple[Part, ...]
    newest: dict[str, int] = {}

    @property
    def rows(self) -> int:
        """Rows over all entity names."""
        return sum(part.rows for part in self.parts)

    @property
    def tokens(self) -> int:
        """Tokens over all entity names."""
        return sum(part.tokens for part in self.parts)

    @property
    def size(self) -> int:
        """Bytes of the rows, in the file and in memory."""
        return 8 * sum(part.numbers for part in self.parts)


def write_snapshot(path: Path, state: OnlineState, *, position: int, log_hash: bytes) -> Manifest:
    """Writes a state durably and returns its manifest; what stood at the path goes only when this is whole.

    Args:
        path: its folder is made where it is missing.
        state: with the changes of exactly the records below `position`.
        position: of the log.
        log_hash: the log's chain hash before it.

    Raises:
        LogUnavailableError: another process writes one there, or the disk does not take it; nothing was changed.
    """
    draft = path.with_suffix(".draft")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _alone(path) as folder, _gone_unless_done(draft):
            manifest = _write(draft, state, position=position, log_hash=log_hash)
            draft.replace(path)
            os.fsync(folder)
    except LogUnavailableError:
        raise
    except OSError as error:
        raise LogUnavailableError(
            where=f"snapshot {path.name}",
            given=f"the system says: {error}",
            expected="a folder that can be written, on a disk with room",
            fix="Make room or mend the folder's rights; without a snapshot a start folds the whole log.",
        ) from None
    return manifest


def read_snapshot(path: Path, features: FeatureSet, *, hash_at: HashAt) -> tuple[Manifest, OnlineState]:
    """Returns a snapshot's manifest and the state that goes on from it.

    Args:
        path: of the file.
        features: the declarations.
        hash_at: of the log that the state belongs to.

    Raises:
        CorruptLogError: the file is damaged, of a newer format, of another log, or was folded otherwise.
    """
    with _opened(path) as file:
        manifest = _manifest(file, path)
        check_made(manifest, features, path=path)
        check_log(manifest, hash_at, path=path)
        return manifest, _state(file, manifest, features, path=path)


def read_manifest(path: Path) -> Manifest:
    """Returns what a snapshot says it is of; its rows are not read.

    Raises:
        CorruptLogError: the file is damaged, or of a newer format.
    """
    with _opened(path) as file:
        return _manifest(file, path)


def check_snapshot(path: Path, *, hash_at: HashAt) -> Manifest:
    """Returns the manifest of a snapshot whose every byte was checked, whatever code made it.

    Raises:
        CorruptLogError: the file is damaged, of a newer format, or of another log.
    """
    with _opened(path) as file:
        manifest = _manifest(file, path)
        check_log(manifest, hash_at, path=path)
        for _ in _arrays(file, manifest, path):
            pass
        return manifest


def check_log(manifest: Manifest, hash_at: HashAt, *, path: Path) -> None:
    """Checks that a snapshot is of this log.

    Raises:
        CorruptLogError: it is of another, of one that was rewritten, or of one that went further.
    """
    found = hash_at(manifest.position)
    if found is None:
        raise _unfit(path, f"a state at record {manifest.position}, where the log is shorter", "a log that went on")
    if found != manifest.hash:
        raise _unfit(path, f"a state of another log: the hashes at record {manifest.position} differ", "this log's")


def check_made(manifest: Manifest, features: FeatureSet, *, path: Path) -> None:
    """Checks that a snapshot is of these declarations, and that this code folded it.

    Raises:
        CorruptLogError: it is not.
    """
    if (manifest.system, manifest.features) != (features.system, features.version):
        given = f"a state of {manifest.system}, feature set {manifest.features}"
        raise _unfit(path, given, f"{features.system}, feature set {features.version}")
    if manifest.code != this_code().sources:
        raise _unfit(path, "a state that other code folded", f"one of the code {this_code().sources[:12]}")


def _write(draft: Path, state: OnlineState, *, position: int, log_hash: bytes) -> Manifest:
    rest = state.rest()
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(_head(FORMAT))
        parts = tuple(_write_part(file, entity, packed) for entity, packed in rest.entities)
        manifest = Manifest(
            system=state.features.system,
            features=state.features.version,
            code=this_code().sources,
            position=position,
            hash=log_hash,
            seq=rest.seq,
            watermark=rest.watermark,
            unusable=dict(rest.unusable),
            newest=dict(rest.newest),
            parts=parts,
        )
        text = msgspec.msgpack.encode(manifest, order="deterministic")
        file.write(text + len(text).to_bytes(8, "little") + _seal(_head(FORMAT), text))
        file.flush()
        os.fsync(handle)
    return manifest


def _write_part(file: BinaryIO, entity: str, packed: PackedRows) -> Part:
    state = hashlib.sha256()
    for array in (packed.tokens, packed.counts, packed.block):
        cells = np.ascontiguousarray(array, "<i8").data.cast("B") if array.size else b""
        state.update(cells)
        file.write(cells)
    return Part(
        entity=entity,
        width=packed.block.shape[1],
        tokens=len(packed.tokens),
        rows=int(packed.counts.sum()),
        sha256=state.digest(),
    )


def _head(format_: int) -> bytes:
    return _MAGIC + format_.to_bytes(8, "little")


def _seal(head: bytes, text: bytes) -> bytes:
    return hashlib.sha256(head + text + len(text).to_bytes(8, "little")).digest()


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb", buffering=0) as file:
            yield file
    except CorruptLogError:
        raise
    except OSError as error:
        raise _unfit(path, f"a file that cannot be read ({error.strerror})", "one that can") from None


def _manifest(file: BinaryIO, path: Path) -> Manifest:
    """Returns the manifest of an open file; its size, its format and its seal were checked."""
    size = os.fstat(file.fileno()).st_size
    head = os.pread(file.fileno(), _HEAD, 0)
    if len(head) < _HEAD or not head.startswith(_MAGIC):
        raise _unfit(path, "a file that is no snapshot", "one that `decalog snapshot` wrote")
    if head != _head(FORMAT):
        given = f"a file of format {int.from_bytes(head[len(_MAGIC) :], 'little')}"
        raise _unfit(path, given, f"format {FORMAT}, the newest that this decalog knows")
    tail = os.pread(file.fileno(), _TAIL, max(0, size - _TAIL))
    length = int.from_bytes(tail[:8], "little")
    start = size - _TAIL - length
    text = os.pread(file.fileno(), length, start) if start >= _HEAD else b""
    if _seal(head, text) != tail[8:]:
        raise _damaged(path)
    try:
        manifest = msgspec.msgpack.decode(text, type=Manifest)
    except msgspec.DecodeError:
        raise _damaged(path) from None
    if _HEAD + manifest.size != start:
        raise _damaged(path)
    return manifest


def _state(file: BinaryIO, manifest: Manifest, features: FeatureSet, *, path: Path) -> OnlineState:
    # All of it is read and checked before anything answers, and into the state's own memory: a mapped file that
    # somebody cuts short would end the server.
    rest = Rest(
        seq=manifest.seq,
        watermark=manifest.watermark,
        unusable=manifest.unusable,
        newest=manifest.newest,
        entities=_arrays(file, manifest, path),
    )
    return OnlineState.resumed(features, rest)


def _arrays(file: BinaryIO, manifest: Manifest, path: Path) -> Iterator[tuple[str, PackedRows]]:
    offsets, offset = [], _HEAD
    for part in manifest.parts:
        offsets.append(offset)
        offset += 8 * part.numbers
    with ThreadPoolExecutor(_READERS) as pool:
        cells = pool.map(lambda part, start: _read_part(file.fileno(), part, start), manifest.parts, offsets)
        for part, numbers in zip(manifest.parts, cells, strict=True):
            if numbers is None:
                raise _damaged(path)
            tokens, counts, block = np.split(numbers, [part.tokens, 2 * part.tokens])
            yield part.entity, PackedRows(tokens, counts, block.reshape(-1, part.width))


def _read_part(handle: int, part: Part, start: int) -> Int64s | None:
    """Returns a part's numbers, None where they are not what was written."""
    numbers = np.empty(part.numbers, "<i8")
    cells, done = numbers.data.cast("B") if numbers.size else memoryview(b""), 0
    state = hashlib.sha256()
    while done < len(cells):
        piece = cells[done : done + _PIECE]
        got = os.preadv(handle, [piece], start + done)
        state.update(piece[:got])
        done += got
        if not got:
            return None
    return numbers if state.digest() == part.sha256 else None


@contextmanager
def _alone(path: Path) -> Iterator[int]:
    """Gives the folder's handle, locked: two writers of one draft would mix their bytes."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LogUnavailableError(
                where=f"snapshot {path.name}",
                given="another process that is writing one",
                expected="one at a time",
                fix="Wait for it; what it writes serves as well.",
            ) from None
        yield folder
    finally:
        os.close(folder)


@contextmanager
def _gone_unless_done(draft: Path) -> Iterator[None]:
    try:
        yield
    finally:
        with suppress(OSError):
            draft.unlink()


def _damaged(path: Path) -> CorruptLogError:
    return _unfit(path, "a file that was cut short or changed after it was written", "the bytes that were written")


def _unfit(path: Path, given: str, expected: str) -> CorruptLogError:
    return CorruptLogError(
        where=f"snapshot {path.name}",
        given=given,
        expected=expected,
        fix="Take a new one with `decalog snapshot`; until then a start folds the whole log.",
    )
