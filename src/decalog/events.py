"""The log's record and the event: the two shapes everything else is made of.

Formats are frozen: `tests/golden/` holds a file of each, and every later version must still read it. In format 2 a body
of 16 KiB and more is deflated (RFC 1950): a slate of 500 candidates repeats their keys 500 times. In format 3 a
decision's candidates may be columns (`candidates.Candidates`): there they do not.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import Literal

import msgspec
from isal import isal_zlib

from decalog.errors import CorruptLogError

FORMAT = 3
_LARGE = 16_384
"""Bytes from which on a body is deflated."""
_LEVEL = 2
"""Of isal's four: as small as zlib's fastest, in a quarter of its time."""
_DEFLATED = 0x78
"""First byte of what is deflated (RFC 1950, section 2.2); a body as it is begins with that of a msgpack array."""
ALL = 0
"""Token of the constant entity `all`, to which every row belongs."""

RecordKind = Literal["event", "decision", "outcome", "table", "rejected"]


class Event(msgspec.Struct, frozen=True, array_like=True):
    """Something that happened; a decision's request is one too.

    Args:
        id: the caller's key.
        kind: a kind of the system's schema.
        event_time: when it happened, µs.
        subject: token of the person it is about, under whose key `sealed` lies.
        entities: entity name → token.
        attributes: public values.
        sealed: personal values, encrypted (`crypto.seal`).
        corrects: id of the event that this one replaces as a full after-image, or "".
        deleted: this record withdraws the event it corrects.
        lists: public values of which there are several: blocked categories, groups, filters.
        blobs: name → address in the blob store of what is too large for the log (an image, a mail): `sha256-` and the
            hash of the bytes as stored, which are encrypted wherever they are personal.
    """

    id: str
    kind: str
    event_time: int
    subject: int
    entities: dict[str, int]
    attributes: dict[str, int | float | str | bool]
    sealed: bytes = b""
    corrects: str = ""
    deleted: bool = False
    lists: dict[str, tuple[str, ...]] = {}
    blobs: dict[str, str] = {}


class Record(msgspec.Struct, frozen=True, array_like=True):
    """One line of the log, stamped once by its writer and never recomputed.

    Args:
        format: of this layout.
        partition, seq: its place; seq alone orders a partition.
        kind: what `body` holds.
        system: whose it is.
        known_time: max(the previous record's, the writer's clock), µs.
        event_time: when it happened, µs.
        id: the caller's key, unique per system and name space: events and decisions share one, outcomes have another.
        digest: keyed digest of the body as sent, so that a retry is told from a conflict.
        root: seq of the first record in its chain of corrections; its own seq otherwise.
        reason: "" if admitted, else why not.
        body: msgpack of the kind's struct.
    """

    format: int
    partition: int
    seq: int
    kind: str
    system: str
    known_time: int
    event_time: int
    id: str
    digest: bytes
    root: int
    reason: str
    body: bytes


class Table(msgspec.Struct, frozen=True, array_like=True):
    """A versioned lookup in the log: rates, lists, policy parameters, feature definitions, the runtime.

    Args:
        name: of the table.
        version: of its content, 12 hex digits of its SHA-256.
        content: canonical JSON.
    """

    name: str
    version: str
    content: str


_encode = msgspec.msgpack.Encoder(order="deterministic").encode
_record = msgspec.msgpack.Decoder(Record).decode
_event = msgspec.msgpack.Decoder(Event).decode
_table = msgspec.msgpack.Decoder(Table).decode
# msgspec lets the codec's own error through where a text is no UTF-8.
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError)


def encode(value: msgspec.Struct) -> bytes:
    """Returns a struct as msgpack, the same bytes for the same value."""
    return _encode(value)


def encode_body(value: msgspec.Struct) -> bytes:
    """Returns a struct as the body of a record: msgpack, deflated where that is large."""
    plain = _encode(value)
    return plain if len(plain) < _LARGE else isal_zlib.compress(plain, _LEVEL)


def plain_body(body: bytes) -> bytes:
    """Returns a record's body as msgpack.

    Raises:
        CorruptLogError: it is damaged.
    """
    if not body or body[0] != _DEFLATED:
        return body
    try:
        return zlib.decompress(body)
    except zlib.error as error:
        raise _damaged("body in the log", body, error) from None


def decode_record(blob: bytes) -> Record:
    """Returns the record of a blob; newer formats are refused, older ones read.

    Raises:
        CorruptLogError: the blob is no record, or of a format this version does not know.
    """
    try:
        record = _record(blob)
    except _UNREADABLE as error:
        written = _format(blob)
        if written > FORMAT:
            raise _too_new("log record", written) from None
        raise _damaged("log record", blob, error) from None
    if not 1 <= record.format <= FORMAT:
        raise _too_new(f"log record {record.seq}", record.format)
    return record


def decode_event(body: bytes) -> Event:
    """Returns the event of a record's body.

    Raises:
        CorruptLogError: the body is no event.
    """
    try:
        return _event(body)
    except _UNREADABLE as error:
        raise _damaged("event in the log", body, error) from None


def decode_table(body: bytes) -> Table:
    """Returns the table of a record's body.

    Raises:
        CorruptLogError: the body is no table.
    """
    try:
        return _table(body)
    except _UNREADABLE as error:
        raise _damaged("table in the log", body, error) from None


def make_table(name: str, content: object) -> Table:
    """Returns content as a versioned table: canonical JSON and its hash.

    >>> make_table("rates", {"USD": "0.9"}).version
    '8fe78c01a018'
    """
    if isinstance(content, dict):
        # msgspec's own sort takes the square of the time on keys that are nearly in order, as after one was added.
        content = dict(sorted(content.items()))
    text = msgspec.json.encode(content, order="deterministic")
    return Table(name, hashlib.sha256(text).hexdigest()[:12], text.decode())


def genesis(partition: int) -> bytes:
    """Returns the hash before a partition's first record."""
    return hashlib.sha256(f"decalog log, partition {partition}".encode()).digest()


def chain(previous: bytes, blob: bytes) -> bytes:
    """Returns the hash of a record: SHA-256 of the previous hash and the blob."""
    return hashlib.sha256(previous + blob).digest()


def _format(blob: bytes) -> int:
    # A newer format may differ in any element but the first.
    try:
        parts = msgspec.msgpack.decode(blob, type=list[msgspec.Raw])
        return msgspec.msgpack.decode(parts[0], type=int) if parts else 0
    except _UNREADABLE:
        return 0


def _too_new(where: str, written: int) -> CorruptLogError:
    return CorruptLogError(
        where=where,
        given=f"format {written}",
        expected=f"a format from 1 to {FORMAT}",
        fix="Read this log with the newer decalog that wrote it.",
    )


def _damaged(where: str, blob: bytes, error: Exception) -> CorruptLogError:
    return CorruptLogError(
        where=where,
        given=f"{len(blob)} bytes that do not decode ({type(error).__name__})",
        expected="what this version or an older one wrote",
        fix="Run `decalog verify`; restore from a backup.",
    )
