"""Records and events: the same bytes for the same value, and damage always one clear error."""

from __future__ import annotations

import hashlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decalog.errors import CorruptLogError
from decalog.events import (
    FORMAT,
    Event,
    Record,
    chain,
    decode_event,
    decode_record,
    decode_table,
    encode,
    genesis,
    make_table,
)

RECORD = Record(FORMAT, 0, 5, "event", "fraud", 10, 9, "e1", b"digest", 5, "", b"body")
numbers = st.integers(-(2**63), 2**63 - 1)
names = st.text(max_size=12)
events = st.builds(
    Event,
    id=names,
    kind=names,
    event_time=numbers,
    subject=numbers,
    entities=st.dictionaries(names, numbers, max_size=4),
    attributes=st.dictionaries(names, numbers | st.floats(allow_nan=False) | names | st.booleans(), max_size=6),
    sealed=st.binary(max_size=40),
    corrects=names,
    deleted=st.booleans(),
)


@given(events)
def test_an_event_is_read_as_it_was_written_type_by_type(event: Event) -> None:
    again = decode_event(encode(event))
    assert again == event
    assert [type(v) for v in again.attributes.values()] == [type(v) for _, v in sorted(event.attributes.items())]


@given(events)
def test_the_same_value_gives_the_same_bytes_in_whatever_order_it_was_made(event: Event) -> None:
    turned = msgspec.structs.replace(
        event,
        attributes=dict(reversed(event.attributes.items())),
        entities=dict(reversed(event.entities.items())),
    )
    assert encode(turned) == encode(event)


def test_a_record_is_read_as_it_was_written() -> None:
    assert decode_record(encode(RECORD)) == RECORD


@given(st.binary(max_size=200))
def test_any_bytes_are_a_record_or_one_error(blob: bytes) -> None:
    for decode in (decode_record, decode_event, decode_table):
        try:
            decode(blob)
        except CorruptLogError as error:
            assert "Expected" in str(error)  # noqa: PT017  # both outcomes are right


@given(st.integers(0, len(encode(RECORD)) - 1), st.integers(1, 255))
def test_a_flipped_byte_of_a_record_is_read_or_refused_but_never_a_raw_error(place: int, flip: int) -> None:
    blob = bytearray(encode(RECORD))
    blob[place] ^= flip
    try:
        assert decode_record(bytes(blob)) != RECORD
    except CorruptLogError as error:
        assert error.fix  # noqa: PT017  # both outcomes are right


def test_bytes_that_are_no_record_say_so() -> None:
    with pytest.raises(
        CorruptLogError, match=r"log record: 3 bytes that do not decode \(ValidationError\)\. Expected what"
    ):
        decode_record(b"\x92\x01\x02")


def test_a_text_that_is_no_utf8_says_so() -> None:
    blob = encode(RECORD).replace(b"fraud", b"fr\xffud")
    with pytest.raises(CorruptLogError, match=r"bytes that do not decode \(UnicodeDecodeError\)"):
        decode_record(blob)


def test_a_newer_format_names_itself_even_where_its_layout_is_another() -> None:
    for blob in (
        encode(msgspec.structs.replace(RECORD, format=FORMAT + 1)),
        msgspec.msgpack.encode([FORMAT + 1, "new"]),
    ):
        with pytest.raises(
            CorruptLogError,
            match=rf"format {FORMAT + 1}\. Expected a format from 1 to {FORMAT}\. Read this log with the newer",
        ):
            decode_record(blob)


def test_format_nought_is_not_read() -> None:
    with pytest.raises(CorruptLogError, match=r"log record 5: format 0\. Expected a format from 1"):
        decode_record(encode(msgspec.structs.replace(RECORD, format=0)))


def test_bodies_that_do_not_decode_say_which() -> None:
    with pytest.raises(CorruptLogError, match="event in the log: 1 bytes that do not decode"):
        decode_event(b"\x01")
    with pytest.raises(CorruptLogError, match="table in the log: 0 bytes that do not decode"):
        decode_table(b"")


def test_a_table_s_version_is_its_content_s() -> None:
    one, other = make_table("rates", {"a": 1, "b": 2}), make_table("rates", {"b": 2, "a": 1})
    assert one == other
    assert one.version == hashlib.sha256(b'{"a":1,"b":2}').hexdigest()[:12]
    assert decode_table(encode(one)) == one
    assert make_table("rates", {"a": 1}).version != one.version


def test_the_chain_is_sha256_of_the_hash_before_and_the_blob() -> None:
    first = genesis(0)
    assert first == hashlib.sha256(b"decalog log, partition 0").digest()
    assert first != genesis(1)
    assert chain(first, b"blob") == hashlib.sha256(first + b"blob").digest()
