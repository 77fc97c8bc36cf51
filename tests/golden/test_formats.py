"""Every released format stays readable for ever, and what is written stays bit for bit."""

from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from decalog.candidates import Candidate, Candidates, gathered
from decalog.crypto import digest, seal, unseal
from decalog.decisions import (
    Choice,
    Decision,
    GuardrailVerdict,
    Slot,
    Versions,
    decode_decision,
    draw,
    new_decision_id,
)
from decalog.errors import CorruptLogError
from decalog.events import (
    FORMAT,
    Event,
    Record,
    decode_event,
    decode_record,
    decode_table,
    encode,
    encode_body,
    genesis,
    make_table,
    plain_body,
)
from decalog.ingest import Rejected
from decalog.log import checked, own_keys, verify_chain
from decalog.outcomes import Outcome, decode_outcome
from decalog.stores.base import Entry
from decalog.verification import index_keys, read_body

HERE = Path(__file__).resolve().parent


class Line(msgspec.Struct, forbid_unknown_fields=True):
    """One record of a golden file: its kind for readers, its bytes, the chain's hash after it; both in hex."""

    kind: str
    blob: str
    hash: str


class Golden(msgspec.Struct, forbid_unknown_fields=True):
    """A golden file."""

    format: int
    key: str
    nonce: str
    envelope: str
    digest: str
    draw: float
    decision_id: str
    records: list[Line]

    @property
    def entries(self) -> list[Entry]:
        """The log's entries, as a store gives them."""
        return [Entry(n, bytes.fromhex(line.blob), bytes.fromhex(line.hash)) for n, line in enumerate(self.records)]


def load(number: int) -> Golden:
    return msgspec.json.decode((HERE / f"format_{number}.json").read_bytes(), type=Golden)


PERSONAL: dict[str, int | float | str | bool] = {"cardholder": "Ada Lovelace", "age": 36, "vip": True, "score": 0.1}
SEALED = b"\x00\x01nonce and ciphertext\xff"
PAYMENT = Event(
    "pay-1",
    "payment",
    1_700_000_000_000_000,
    2**63 - 1,
    {"card": 1, "ip": 4_611_686_018_427_387_904},
    {
        "amount_minor": -1,
        "ratio": 0.1,
        "zero": -0.0,
        "new": True,
        "channel": "ecom",
        "city": "Zürich 東京",
        "big": 2**63 - 1,
    },
    SEALED,
    lists={"groups": ("staff", "Zürich 東京"), "none": ()},
    blobs={"image": "sha256-00ff"},
)
DECISION = Decision(
    id="018bcfe5-6800-7000-8000-000000000001",
    request=PAYMENT,
    state_seq=2,
    candidates=(
        Candidate("payment", "request", {"p_fraud": 0.0625}, struct.pack("<3d", 1.5, -0.0, 5e-324)),
        Candidate("empty"),
        Candidate(
            "ad-1", "a+b", entities={"campaign": 5}, attributes={"bid_minor": 235, "rank": 0.5}, dropped="budget"
        ),
    ),
    choice=Choice(
        (
            Slot("review", 0, 0.9, 3.5, 1_234),
            Slot("allow", 1, None),
            Slot("ad-1", 2, money_minor=7, per=1_000, attributes={"low_s": 1, "new": True}),
        ),
        ("velocity", "new device"),
        "award",
    ),
    versions=Versions("3f" * 32, "a1b2c3d4e5f6", "0f1e2d3c4b5a", 0),
    mode="fallback",
    fallback="model_timeout",
    guardrails=(GuardrailVerdict("capacity", "block", "review", "queue full"),),
    expected_minor=-250,
    currency="EUR",
    arm="b",
    taken="allow",
    parent="018bcfe5-6800-7000-8000-000000000000",
    batch="night 7",
    stages_us={"features": 12, "model": 40},
    theirs=Choice((Slot("allow", propensity=None),)),
    blobs={"map": "sha256-0f"},
    sealed=SEALED,
    positions=(2, 7),
)
TABLE = make_table("rates", {"base": "EUR", "rates": {"JPY": "0.0061", "USD": "0.92"}})
OUTCOME = Outcome(
    "out-1",
    "pay-1",
    "chargeback",
    "issuer",
    1_700_000_100_000_000,
    1.0,
    1_234,
    "EUR",
    "slot 0",
    attributes={"censored": True, "share": 0.5},
    per=1_000,
    entities={"operator": 3},
    subject=2**63 - 1,
    sealed=SEALED,
    blobs={"mask": "sha256-f0"},
)
WITHDRAWN = Outcome("out-2", "", "", "", 1_700_000_200_000_000, 0.0, None, "", "", "out-1", deleted=True)
CORRECTION = Event("pay-1b", "payment", 1_699_999_999_000_000, 7, {}, {}, b"", "pay-1", deleted=True)
QUARANTINED = Rejected("event", "fraud payment, amount_minor: -5. Expected `int` >= 0.", 9, SEALED)

TIME = 1_700_000_000_500_000
FORMAT_1 = [
    (Record(1, 0, 0, "table", "", TIME, TIME, "rates", b"", 0, "", encode(TABLE)), TABLE),
    (Record(1, 0, 1, "event", "fraud", TIME, PAYMENT.event_time, "pay-1", b"d" * 16, 1, "", encode(PAYMENT)), PAYMENT),
    (
        Record(1, 0, 2, "decision", "fraud", TIME + 1, PAYMENT.event_time, "pay-2", b"e" * 16, 2, "", encode(DECISION)),
        DECISION,
    ),
    (
        Record(1, 0, 3, "outcome", "fraud", TIME + 9, OUTCOME.event_time, "out-1", b"f" * 16, 3, "", encode(OUTCOME)),
        OUTCOME,
    ),
    (
        Record(
            1, 0, 4, "event", "fraud", TIME + 9, 1_699_999_999_000_000, "pay-1b", b"g" * 16, 1, "", encode(CORRECTION)
        ),
        CORRECTION,
    ),
    (
        Record(
            1, 0, 5, "outcome", "fraud", TIME + 9, WITHDRAWN.event_time, "out-2", b"h" * 16, 3, "", encode(WITHDRAWN)
        ),
        WITHDRAWN,
    ),
    (
        Record(1, 0, 6, "rejected", "fraud", TIME + 9, TIME + 9, "00ff", b"\x00\xff", 6, "range", encode(QUARANTINED)),
        QUARANTINED,
    ),
]


MANY = msgspec.structs.replace(
    DECISION,
    candidates=tuple(
        Candidate(f"post-{n}", "fresh", {"p_click": n / 512}, entities={"author": n}, attributes={"age_s": 60 * n})
        for n in range(512)
    ),
)
FORMAT_2 = [
    *((msgspec.structs.replace(record, format=2), body) for record, body in FORMAT_1),
    (
        Record(2, 0, 7, "decision", "feed", TIME + 9, PAYMENT.event_time, "f-1", b"i" * 16, 7, "", encode_body(MANY)),
        MANY,
    ),
]
COLUMNS = msgspec.structs.replace(
    DECISION,
    candidates=gathered(
        (
            *DECISION.candidates,
            *(
                Candidate(
                    f"post-{n}",
                    "fresh+popular" if n % 3 else "",
                    {"p_fraud": n / 512, "p_click": -0.0},
                    entities={"author": n * n * n},
                    attributes={"age_s": 60 * n, "mixed": n if n % 2 else "Zürich 東京", "new": n == 7}
                    | ({"huge": 2**64 - n} if n > 500 else {"small": -n / 3}),
                )
                for n in range(512)
            ),
        )
    ),
)
FORMAT_3 = [
    *((msgspec.structs.replace(record, format=3), body) for record, body in FORMAT_2),
    (
        Record(
            3, 0, 8, "decision", "feed", TIME + 9, PAYMENT.event_time, "f-2", b"j" * 16, 8, "", encode_body(COLUMNS)
        ),
        COLUMNS,
    ),
]


def test_every_format_up_to_ours_has_its_file() -> None:
    assert sorted(path.name for path in HERE.glob("format_*.json")) == [
        f"format_{n}.json" for n in range(1, FORMAT + 1)
    ]


@pytest.mark.parametrize("number", range(1, FORMAT + 1))
def test_every_format_is_read_whole(number: int) -> None:
    golden = load(number)
    assert verify_chain(golden.entries) == len(golden.records)
    for line, (_, record) in zip(golden.records, checked(golden.entries), strict=True):
        assert record.format == golden.format == number
        assert record.kind == line.kind
        assert own_keys(record) == index_keys(record)[: len(own_keys(record))]
    assert {line.kind for line in golden.records} == {"event", "decision", "outcome", "table", "rejected"}


def test_format_1_is_read_as_it_was_meant() -> None:
    records = [record for _, record in checked(load(1).entries)]
    assert records == [record for record, _ in FORMAT_1]
    assert [read_body(record) for record in records] == [body for _, body in FORMAT_1]
    assert str(decode_event(records[1].body).attributes["zero"]) == "-0.0"
    assert decode_table(records[0].body).version == TABLE.version
    assert decode_decision(records[2].body).candidates[0].features == DECISION.candidates[0].features
    assert decode_outcome(records[5].body).deleted


def test_format_2_deflates_what_is_large() -> None:
    records = [record for _, record in checked(load(2).entries)]
    assert [read_body(record) for record in records] == [body for _, body in FORMAT_2]
    assert [len(record.body) for record in records[:-1]] == [len(record.body) for record, _ in FORMAT_1]
    assert records[-1].body[0] == 0x78
    assert 3 * len(records[-1].body) < len(encode(MANY))
    torn = msgspec.structs.replace(records[-1], body=records[-1].body[:-9])
    with pytest.raises(CorruptLogError, match="body in the log"):
        decode_decision(torn.body)


def test_format_3_holds_candidates_as_columns() -> None:
    records = [record for _, record in checked(load(3).entries)]
    assert [read_body(record) for record in records] == [body for _, body in FORMAT_3]
    read = decode_decision(records[-1].body).candidates
    assert isinstance(read, Candidates)
    assert [encode(one) for one in read] == [encode(one) for one in COLUMNS.candidates]
    assert read[-1] == DECISION.candidates[2]
    assert read[9].attributes == {"age_s": 420, "mixed": 7, "new": True, "small": -7 / 3}
    assert read[512].attributes["huge"] == 2**64 - 510


@pytest.mark.parametrize(("number", "records"), [(1, FORMAT_1), (FORMAT, FORMAT_3)])
def test_the_first_format_and_ours_are_written_bit_for_bit(
    number: int, records: list[tuple[Record, msgspec.Struct]]
) -> None:
    golden, previous = load(number), genesis(0)
    for entry, (record, body) in zip(golden.entries, records, strict=True):
        # Another deflater, or another version of one, may write other bytes that say the same.
        written = decode_record(entry.blob).body
        assert plain_body(encode_body(body)) == plain_body(record.body) == plain_body(written)
        assert encode(msgspec.structs.replace(record, body=written)) == entry.blob
        assert encode(decode_record(entry.blob)) == entry.blob
        previous = hashlib.sha256(previous + entry.blob).digest()
        assert entry.hash == previous


def test_an_envelope_of_format_1_is_opened_and_sealed_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    golden = load(1)
    cipher = AESGCM(bytes.fromhex(golden.key))
    envelope = bytes.fromhex(golden.envelope)
    assert unseal(cipher, envelope, bound_to="pay-1") == PERSONAL
    monkeypatch.setattr(os, "urandom", lambda size: bytes.fromhex(golden.nonce)[:size])
    assert seal(cipher, PERSONAL, bound_to="pay-1") == envelope


def test_digests_draws_and_ids_of_format_1_stay() -> None:
    golden = load(1)
    assert digest(b"secret", b"card", b"4000").hex() == golden.digest
    assert draw(b"secret", DECISION.id, name="explore") == golden.draw
    assert new_decision_id(TIME, bytes(range(10))) == golden.decision_id
