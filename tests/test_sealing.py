"""The Parquet copy: typed columns equal to the records, whole segments or none, and nothing personal."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from pathlib import Path

import duckdb
import msgspec
import numpy as np
import pytest
from tests.stores.samples import START, SYSTEM, decision, draft, event, fill, open_log

from decalog.decisions import pack_features
from decalog.errors import CorruptLogError, DataError
from decalog.events import Event, decode_event, encode
from decalog.log import Log
from decalog.sealing import main, seal
from decalog.stores import parquet
from decalog.stores.parquet import Column, Segment


def position(log: Log) -> int:
    return log.durable


def column(folder: Path, kind: str, name: str) -> list[object]:
    values = parquet.read(folder, system=SYSTEM, kind=kind, columns=(name, "seq"))[name]
    return [None if value is np.ma.masked else value for value in values]


def test_rows_are_the_records(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        fill(log, 3)
        seal(log.store, tmp_path / "parquet", upto=position(log))
        events = parquet.read(tmp_path / "parquet", system=SYSTEM, kind="event")
        records = [record for record in log.read() if record.kind == "event"]
        bodies = [decode_event(record.body) for record in records]
    assert events["seq"].tolist() == [record.seq for record in records]
    assert events["known_time"].tolist() == [START] * 3
    assert events["id"].tolist() == [record.id for record in records]
    assert events["entity_card"].tolist() == [body.entities["card"] for body in bodies]
    assert events["subject"].tolist() == [body.subject for body in bodies]
    assert events["attribute_amount_minor"].tolist() == [0, 100, 200]
    types = {name: str(events[name].dtype) for name in ("seq", "entity_card", "attribute_amount_minor", "deleted")}
    assert types == {"seq": "int64", "entity_card": "int64", "attribute_amount_minor": "int64", "deleted": "bool"}


def test_a_decision_s_columns_hold_what_was_decided_bit_for_bit(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        fill(log, 1)
        seal(log.store, tmp_path, upto=position(log))
    row = {name: values[0] for name, values in parquet.read(tmp_path, system=SYSTEM, kind="decision").items()}
    assert pack_features(row["features"]) == pack_features(np.array([1.5, -0.0, 2.0**-1074]))
    expected = {
        "action": "review",
        "propensity": 0.5,
        "prediction_p_fraud": 0.25,
        "mode": "live",
        "taken": "allow",
        "acted": "review",
        "expected_minor": -250,
        "model": "m1",
        "features_version": "f1",
        "state_seq": 2,
        "attribute_channel": "ecom",
        "attribute_new": True,
        "attribute_ratio": 0.5,
        "candidates": 1,
    }
    assert {name: row[name] for name in expected} == expected
    assert list(row["reasons"]) == ["velocity", "amount"]
    assert list(row["guardrails"]) == ["capacity"]


def test_what_is_missing_is_masked(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        unknown = decision(log, "p", "card")
        slot = msgspec.structs.replace(unknown.choice.slots[0], propensity=None)
        bare = msgspec.structs.replace(unknown, choice=msgspec.structs.replace(unknown.choice, slots=(slot,)))
        bare = msgspec.structs.replace(bare, candidates=())
        log.stamp(draft("decision", "p", bare))
        log.stamp(draft("decision", "q", unknown))
        log.commit()
        seal(log.store, tmp_path, upto=2)
    assert column(tmp_path, "decision", "propensity") == [None, 0.5]
    assert column(tmp_path, "decision", "prediction_p_fraud") == [None, 0.25]
    features = column(tmp_path, "decision", "features")
    assert features[0] is None
    assert len(features[1]) == 3  # type: ignore[arg-type]  # a list


def test_rows_with_feature_vectors_of_other_lengths_keep_theirs(tmp_path: Path) -> None:
    given = [Column("seq", "BIGINT", [0, 1, 2]), Column("features", "DOUBLE[]", [[1.0], None, [2.0, 3.0]])]
    written = parquet.write_file(tmp_path, place=("s", "k"), span=(0, 3), columns=given)
    found = duckdb.connect().execute("SELECT features FROM read_parquet(?)", [str(tmp_path / written.path)]).fetchall()
    assert found == [([1.0],), (None,), ([2.0, 3.0],)]


def test_attributes_of_one_name_and_two_types_stand_as_json(tmp_path: Path) -> None:
    values: list[dict[str, int | float | str | bool]] = [{"x": 1, "y": 1}, {"x": "one", "y": 0.5}, {}]
    with open_log(tmp_path) as log:
        for number, attributes in enumerate(values):
            log.stamp(draft("event", str(number), Event(str(number), "payment", START, 0, {}, attributes)))
        log.commit()
        seal(log.store, tmp_path, upto=3)
    assert column(tmp_path, "event", "attribute_x") == ["1", '"one"', None]
    assert column(tmp_path, "event", "attribute_y") == [1.0, 0.5, None]


def test_nothing_personal_is_copied_not_even_encrypted(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        fill(log, 2)
        seal(log.store, tmp_path / "parquet", upto=position(log))
        envelopes = [decode_event(record.body).sealed for record in log.read() if record.kind == "event"]
    content = b"".join(path.read_bytes() for path in (tmp_path / "parquet").rglob("*") if path.is_file())
    names = set(parquet.read(tmp_path / "parquet", system=SYSTEM, kind="event"))
    assert all(envelope and envelope[:24] not in content for envelope in envelopes)
    assert b"card 0" not in content
    assert "sealed" not in names


def test_a_second_call_goes_on_where_the_first_ended(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        fill(log, 2)
        first = seal(log.store, tmp_path / "parquet", upto=5, rows=3)
        assert [(segment.start, segment.stop) for segment in first] == [(0, 3), (3, 5)]
        assert seal(log.store, tmp_path / "parquet", upto=5) == ()
        fill(log, 2)
        second = seal(log.store, tmp_path / "parquet", upto=position(log))
        hashes = {entry.seq + 1: entry.hash.hex() for entry in log.store.read(0)}
    assert [(segment.start, segment.stop) for segment in second] == [(5, 18)]
    assert parquet.segments(tmp_path / "parquet") == first + second
    assert all(hashes[segment.stop] == segment.hash for segment in first + second)


def test_what_a_crash_left_is_swept_and_sealed_again_alike(tmp_path: Path) -> None:
    folder = tmp_path / "parquet"
    with open_log(tmp_path) as log:
        fill(log, 2)
        (segment,) = seal(log.store, folder, upto=4)
        (folder / "segments" / "000000000000-000000000004.json").unlink()
        (folder / SYSTEM / "event" / "x.draft").write_bytes(b"half")
        assert seal(log.store, folder, upto=position(log))[0].start == 0
    assert len(list(folder.glob("*/*/*.parquet"))) == 5
    assert list(folder.rglob("*.draft")) == []
    with open_log(tmp_path) as log:
        again = seal(log.store, tmp_path / "again", upto=4)
    assert again == (segment,)


def test_one_process_seals_at_a_time(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        fill(log, 1)
        (tmp_path / "parquet").mkdir()
        handle = os.open(tmp_path / "parquet" / ".lock", os.O_RDWR | os.O_CREAT)
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert seal(log.store, tmp_path / "parquet", upto=5) == ()
        os.close(handle)
        assert len(seal(log.store, tmp_path / "parquet", upto=5)) == 1


def test_a_log_that_does_not_follow_from_its_copy_is_not_sealed(tmp_path: Path) -> None:
    with open_log(tmp_path / "one") as log:
        fill(log, 1)
        seal(log.store, tmp_path / "parquet", upto=3)
    with open_log(tmp_path / "other") as log:
        fill(log, 2)
        with pytest.raises(CorruptLogError, match="log record 3: a record whose seq or hash does not follow"):
            seal(log.store, tmp_path / "parquet", upto=5)


def test_nothing_sealed_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Parquet copy, fraud/event: no segment.*python -m decalog\.sealing HOME"):
        parquet.read(tmp_path, system="fraud", kind="event")
    with pytest.raises(DataError, match="Parquet copy, shared/table: no segment"):
        parquet.read(tmp_path, system="", kind="table")


def test_an_unknown_column_and_a_damaged_file_say_so(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        fill(log, 1)
        seal(log.store, tmp_path, upto=5)
    with pytest.raises(DataError, match=r"DuckDB says: .*Expected whole files and columns that exist"):
        parquet.read(tmp_path, system=SYSTEM, kind="event", columns=("nonsense",))
    path = next((tmp_path / SYSTEM / "event").glob("*.parquet"))
    path.write_bytes(b"PAR1 nonsense")
    with pytest.raises(DataError, match="whole files"):
        parquet.read(tmp_path, system=SYSTEM, kind="event")
    with pytest.raises(CorruptLogError, match="a file that is no Parquet"):
        parquet.count_rows(path)


@pytest.mark.parametrize(
    ("content", "says"), [(b"{", "a manifest that does not decode"), (b"\xff", "not decode"), (b"", "not decode")]
)
def test_a_damaged_manifest_says_so(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "segments").mkdir()
    (tmp_path / "segments" / "0-1.json").write_bytes(content)
    with pytest.raises(CorruptLogError, match=rf"Parquet copy, 0-1\.json: .*{says}.*Delete the folder `parquet`"):
        parquet.segments(tmp_path)


def test_a_manifest_of_a_newer_format_says_so(tmp_path: Path) -> None:
    parquet.write_manifest(tmp_path, Segment(format=2, partition=0, start=0, stop=1, hash="", files=()))
    with pytest.raises(CorruptLogError, match="format 2"):
        parquet.segments(tmp_path)


def test_odd_names_are_quoted(tmp_path: Path) -> None:
    odd = "a\"b; DROP TABLE x; --'"
    folder = tmp_path / "it's here"
    given = [Column("seq", "BIGINT", [0]), Column(odd, "VARCHAR", ["v"])]
    written = parquet.write_file(folder, place=("s", "k"), span=(0, 1), columns=given)
    segment = Segment(format=1, partition=0, start=0, stop=1, hash="", files=(written,))
    parquet.write_manifest(folder, segment)
    assert parquet.read(folder, system="s", kind="k", columns=(odd, "seq"))[odd].tolist() == ["v"]


def test_the_command_seals_and_says_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_log(tmp_path) as log:
        fill(log, 2)
    for arguments, said in (
        (["--at-least", "10"], "sealed 0 records in 0 segments"),
        ([], "sealed 9 records in 1 segments"),
        ([], "sealed 0 records in 0 segments"),
    ):
        assert main([str(tmp_path), *arguments]) == 0
        assert said in capsys.readouterr().out


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    assert "0.sqlite: it cannot be opened" in capsys.readouterr().err


def test_the_command_refuses_a_damaged_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_log(tmp_path) as log:
        fill(log, 2)
        log.stamp(draft("event", "x", event(log, "x", "card")))
    damage = sqlite3.connect(tmp_path / "log" / "0.sqlite")
    damage.execute("UPDATE records SET blob = ? WHERE seq = 4", (encode(Event("x", "", 0, 0, {}, {})),))
    damage.commit()
    damage.close()
    assert main([str(tmp_path)]) == 1
    assert "log record 4" in capsys.readouterr().err
