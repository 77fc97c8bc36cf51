"""Verify: a sound home is found sound while it is written; any damage is named, never a trace."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.stores.samples import START, draft, event, fill, open_log

from decalog.clock import ManualClock
from decalog.errors import CorruptLogError
from decalog.events import Event, Record, chain, decode_record, encode, genesis
from decalog.ingest import Ingest, Rates
from decalog.sealing import seal
from decalog.stores import parquet
from decalog.systems.fraud.schema import SCHEMA
from decalog.verification import Verification, index_keys, read_body, verify


@pytest.fixture(scope="module")
def sound_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with 17 records, 13 of them sealed."""
    home = tmp_path_factory.mktemp("home")
    with open_log(home) as log:
        fill(log, 4)
        seal(log.store, home / "parquet", upto=13, rows=8)
    return home


@pytest.fixture(scope="module")
def sound_end(sound_home: Path) -> tuple[int, str]:
    """Position and hash of the sound home."""
    found = verify(sound_home)
    return found.position, found.hash


@pytest.fixture
def home(sound_home: Path, tmp_path: Path) -> Path:
    """A copy of the sound home, to be damaged."""
    return Path(shutil.copytree(sound_home, tmp_path / "home"))


def change(home: Path, sql: str, *values: object, file: str = "log/0.sqlite") -> None:
    connection = sqlite3.connect(home / file)
    connection.execute(sql, values)
    connection.commit()
    connection.close()


def bad(found: Verification) -> dict[str, str]:
    return {check.name: check.said for check in found.checks if not check.sound}


def test_a_sound_home_is_found_sound(home: Path) -> None:
    found = verify(home)
    assert found.sound, found.text()
    assert (found.position, found.known_time) == (17, START)
    counts = {f"fraud/{kind}": 4 for kind in ("event", "decision", "outcome", "rejected")}
    assert found.counts == counts | {"shared/table": 1}
    assert [check.name for check in found.checks] == ["chain", "index", "vault", "parquet", "snapshot"]
    assert "17 records, hash" in found.text()
    assert "13 records in " in found.text()
    assert msgspec.json.decode(msgspec.json.encode(found), type=Verification) == found


def test_the_hash_is_the_chain_s(home: Path) -> None:
    with open_log(home) as log:
        expected = genesis(0)
        for entry in log.store.read(0):
            expected = chain(expected, entry.blob)
    assert verify(home).hash == expected.hex()


def test_a_home_is_verified_while_it_is_written(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        fill(log, 2)
        assert verify(tmp_path).sound
        log.stamp(draft("event", "x", event(log, "x", "card")))
        assert verify(tmp_path).position == 9
        log.commit()
        assert (verify(tmp_path).position, verify(tmp_path).sound) == (10, True)


def test_an_empty_log_is_sound(tmp_path: Path) -> None:
    with open_log(tmp_path):
        found = verify(tmp_path)
    assert found.sound, found.text()
    assert (found.position, found.hash, found.counts) == (0, "", {})


def test_what_the_writers_index_is_what_verify_expects(tmp_path: Path) -> None:
    with open_log(tmp_path, ManualClock(START)) as log:
        ingest = Ingest(SCHEMA, log, rates=Rates())
        payment = {"id": "p1", "amount_minor": 100, "currency": "EUR", "card": "4000", "merchant": "m"}
        rows = (
            payment,
            {**payment, "id": "p2", "taken": "allow"},
            {**payment, "id": "p3", "corrects": "p1"},
            {"id": "p4", "deletes": "p3"},
            {"id": "p5", "amount_minor": -1},
        )
        for row in rows:
            ingest.event(row)
        outcome = {"id": "o1", "payment": "p1", "kind": "chargeback", "source": "issuer", "value": 1}
        for row in (outcome, {**outcome, "id": "o2", "corrects": "o1"}, {"id": "o3", "deletes": "o1"}, {"id": "o4"}):
            ingest.outcome(row)
        log.commit()
        found = verify(tmp_path)
    assert found.sound, found.text()
    assert found.counts == {"fraud/event": 3, "fraud/decision": 1, "fraud/outcome": 3, "fraud/rejected": 2}


def test_no_log_is_said(tmp_path: Path) -> None:
    assert "0.sqlite: it cannot be opened" in bad(verify(tmp_path))["chain"]


def test_a_file_that_is_no_database_is_said(home: Path) -> None:
    (home / "log" / "0.sqlite").write_bytes(b"nonsense" * 999)
    assert "file is not a database" in bad(verify(home))["chain"]


def test_a_flipped_byte_is_named_with_its_record(home: Path) -> None:
    connection = sqlite3.connect(home / "log" / "0.sqlite")
    blob = bytearray(connection.execute("SELECT blob FROM records WHERE seq = 6").fetchone()[0])
    connection.close()
    blob[len(blob) // 2] ^= 1
    change(home, "UPDATE records SET blob = ? WHERE seq = 6", bytes(blob))
    found = verify(home)
    assert bad(found)["chain"].startswith("damaged after 6 intact records: log record 6: a record whose seq or hash")
    assert bad(found)["index"] == "not checked, because the chain is broken"
    assert found.position == 6


def test_a_record_that_is_missing_is_named(home: Path) -> None:
    change(home, "DELETE FROM records WHERE seq = 3")
    assert "log record 3" in bad(verify(home))["chain"]


def test_a_cut_log_is_found_by_its_copy_and_its_index(home: Path) -> None:
    change(home, "DELETE FROM records WHERE seq >= 11")
    change(home, "DELETE FROM keys WHERE seq >= 11")
    said = bad(verify(home))
    assert list(said) == ["parquet"]
    assert "segment 8-13: the log ends at 11: records that were sealed are gone from it" in said["parquet"]


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("DELETE FROM keys WHERE idx = 'request' AND seq = 1", "log record 1 is missing from the index 'request'"),
        (
            "UPDATE keys SET seq = 5 WHERE idx = 'outcome' AND seq = 3",
            "log record 3 is missing from the index 'outcome'",
        ),
        ("INSERT INTO keys VALUES ('request', 'fraud/ghost', 2)", "the index 'request' holds a key of record 2"),
    ],
)
def test_a_wrong_index_is_named(home: Path, sql: str, says: str) -> None:
    change(home, sql)
    said = bad(verify(home))
    assert list(said) == ["index"]
    assert says in said["index"]


def test_lost_tokens_and_keys_are_counted(home: Path) -> None:
    change(home, "DELETE FROM tokens WHERE token = (SELECT min(token) FROM tokens)", file="vault.sqlite")
    change(home, "DELETE FROM keys", file="vault.sqlite")
    said = bad(verify(home))
    assert list(said) == ["vault"]
    assert said["vault"] == "1 tokens and 4 keys that records name are not in it"


def test_a_vault_that_is_missing_is_said(home: Path) -> None:
    (home / "vault.sqlite").unlink()
    assert "vault.sqlite: it cannot be opened" in bad(verify(home))["vault"]


def drop_file(folder: Path) -> None:
    next((folder / "fraud" / "event").glob("*.parquet")).unlink()


def change_file(folder: Path) -> None:
    path = next((folder / "fraud" / "outcome").glob("*.parquet"))
    path.write_bytes(path.read_bytes()[:-1] + b"X")


def drop_segment(folder: Path) -> None:
    (folder / "segments" / "000000000000-000000000008.json").unlink()


def rewrite(folder: Path, **changed: object) -> None:
    segment = parquet.segments(folder)[0]
    parquet.write_manifest(folder, msgspec.structs.replace(segment, **changed))


def change_hash(folder: Path) -> None:
    rewrite(folder, hash="00" * 32)


def change_count(folder: Path) -> None:
    files = parquet.segments(folder)[0].files
    rewrite(folder, files=(msgspec.structs.replace(files[0], rows=99), *files[1:]))


def swap_rows(folder: Path) -> None:
    # A file of other rows whose hash the manifest vouches for.
    first = parquet.segments(folder)[0].files[0]
    other = parquet.write_file(
        folder, place=(first.system, first.kind), span=(0, 8), columns=[parquet.Column("seq", "BIGINT", [1] * 9)]
    )
    files = (msgspec.structs.replace(other, rows=first.rows), *parquet.segments(folder)[0].files[1:])
    rewrite(folder, files=files)


def break_manifest(folder: Path) -> None:
    (folder / "segments" / "000000000008-000000000013.json").write_bytes(b"{")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (drop_file, "is missing"),
        (change_file, "was changed"),
        (drop_segment, "segment 8-13: it begins at 8, not at 0"),
        (change_hash, "segment 0-8: its hash is not the log's"),
        (change_count, "it counts other records than the log"),
        (swap_rows, "holds another number of rows"),
        (break_manifest, "a manifest that does not decode"),
    ],
)
def test_a_copy_that_is_not_the_log_is_named(home: Path, damage: Callable[[Path], None], says: str) -> None:
    damage(home / "parquet")
    said = bad(verify(home))
    assert list(said) == ["parquet"]
    assert says in said["parquet"]


@pytest.mark.parametrize("kind", ["event", "decision", "outcome", "table", "rejected", "novelty"])
def test_a_body_that_does_not_decode_is_named(kind: str) -> None:
    with pytest.raises(CorruptLogError, match=r"that do(es)? not decode"):
        read_body(Record(1, 0, 7, kind, "fraud", 0, 0, "x", b"", 7, "", b"\xc1"))


def test_a_body_of_an_unknown_kind_is_damage_even_where_the_chain_holds(home: Path) -> None:
    connection = sqlite3.connect(home / "log" / "0.sqlite")
    blob, before = connection.execute(
        "SELECT a.blob, b.hash FROM records a JOIN records b ON b.seq = a.seq - 1 WHERE a.seq = 16"
    ).fetchone()
    connection.close()
    changed = encode(msgspec.structs.replace(decode_record(blob), kind="novelty"))
    change(home, "UPDATE records SET blob = ?, hash = ? WHERE seq = 16", changed, chain(before, changed))
    assert "log record 16: a body of kind 'novelty' that does not decode (KeyError)" in bad(verify(home))["chain"]


def test_index_keys_of_a_plain_event_are_its_own() -> None:
    body = encode(Event("e", "payment", 0, 0, {}, {}))
    assert index_keys(Record(1, 0, 3, "event", "s", 0, 0, "e", b"", 1, "", body)) == (("request", "s/e"), ("root", "1"))


def test_damage_that_is_no_text_is_told(sound_home: Path, tmp_path: Path) -> None:
    shutil.copytree(sound_home / "log", tmp_path / "log")
    shutil.copy(sound_home / "vault.sqlite", tmp_path / "vault.sqlite")
    path = tmp_path / "log" / "0.sqlite"
    content = path.read_bytes()
    assert b"CREATE TABLE records" in content
    path.write_bytes(content.replace(b"CREATE TABLE records", b"CREATE \xceABLE records"))
    assert "0.sqlite: it cannot be opened" in bad(verify(tmp_path))["chain"]


@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_any_byte_flipped_in_the_file_is_found_or_changes_nothing(
    sound_home: Path, sound_end: tuple[int, str], tmp_path_factory: pytest.TempPathFactory, place: float, flip: int
) -> None:
    home = tmp_path_factory.mktemp("flipped")
    shutil.copytree(sound_home / "log", home / "log")
    shutil.copy(sound_home / "vault.sqlite", home / "vault.sqlite")
    path = home / "log" / "0.sqlite"
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= flip
    path.write_bytes(content)
    found = verify(home)
    assert not found.sound or (found.position, found.hash) == sound_end
    assert found.text()
